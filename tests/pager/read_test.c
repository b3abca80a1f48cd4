/* Acquiring: a reference on every page that is here and sealed, for its own tenant, and
 * on none that fails its re-check. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BATCH = 130 }; /* more than two of the pager's own batches */

static void acquire__takes_what_is_here_and_misses_the_rest(void **state)
{
    (void)state;
    struct kit kit;
    kv_key_t keys[BATCH];
    struct kvp_ref refs[BATCH];
    kv_status_t statuses[BATCH];
    uint32_t nr = 0;

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 100;
    kit_open(&kit);
    for (uint64_t i = 0; i < BATCH; i++) {
        keys[i] = kit_key(i);
        if (i % 2 == 0) {
            kit_cache(&kit, 0, KVP_HOST, i);
        }
    }
    assert_int_equal(
        kvp_acquire(kit.pager, 0, 0, keys, BATCH, refs, statuses), BATCH / 2);
    for (uint32_t i = 0; i < BATCH; i++) {
        assert_int_equal(statuses[i], i % 2 == 0 ? KV_OK : KV_ERR_MISS);
        assert_int_equal(refs[i].frame == KVP_NO_FRAME, i % 2 != 0);
        if (i % 2 == 0) {
            refs[nr++] = refs[i];
        }
    }
    assert_int_equal(kvp_metrics(kit.pager)->hits_host, BATCH / 2);
    assert_int_equal(kvp_metrics(kit.pager)->misses, BATCH / 2);
    kvp_release(kit.pager, refs, nr);
    assert_int_equal(kvp_lookup(kit.pager, 1, 0, keys, BATCH, refs), 0);
    assert_int_equal(kvp_lookup(kit.pager, 0, 0, keys, 0, refs), 0);
    kit_close(&kit);
}

/* Not under this name, nor by a put of the same bytes: a key is a name, not a right. */
static void acquire__tenants_do_not_see_each_other(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref a = kit_cache(&kit, 0, KVP_HOST, 1);
    assert_false(kit_here(&kit, 1, 1));
    const struct kvp_ref b = kit_cache(&kit, 1, KVP_HOST, 1);
    assert_int_not_equal(a.frame, b.frame);
    assert_int_equal(kit_find(&kit, 0, 1).frame, a.frame);
    assert_int_equal(kit_find(&kit, 1, 1).frame, b.frame);
    kit_close(&kit);
}

static void put__equal_page_exists_in_any_tier(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref, existing;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref first = kit_cache(&kit, 0, KVP_DEVICE, 1);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_int_equal(kvp_fill_seal(kit.pager, ref, &key, &place, &existing), KV_EXISTS);
    assert_int_equal(existing.frame, first.frame);
    assert_int_equal(kit.last_freed.frame, ref.frame);
    kvp_release(kit.pager, &existing, 1);
    assert_int_equal(
        kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 9, &ref), KV_ERR_INVALID);
    kit_close(&kit);
}

/* Two puts at once: the later digest gets the earlier copy, with a reference. */
static void put__loser_of_two_digests_gets_the_winner(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref a, b, existing;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &a), KV_OK);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &b), KV_OK);
    assert_int_equal(kvp_fill_seal(kit.pager, a, &key, &place, &existing), KV_SEALING);
    assert_int_equal(kvp_fill_seal(kit.pager, b, &key, &place, &existing), KV_SEALING);
    kit_order(&kit, KV_OK, 5);
    kit_order(&kit, KV_OK, 5);
    assert_int_equal(kit.last_sealed.ref.frame, b.frame);
    assert_int_equal(kit.last_sealed.now.frame, a.frame);
    assert_int_equal(kit_info(&kit, a).refs, 2);
    assert_int_equal(kit.last_freed.frame, b.frame);
    kvp_release(kit.pager, &a, 1);
    kvp_release(kit.pager, &a, 1);
    kit_close(&kit);
}

static void put__failed_digest_ends_it(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref, existing;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_int_equal(
        kvp_fill_seal(kit.pager, ref, &key, &place, &existing), KV_SEALING);
    kit_order(&kit, KV_ERR_IO, 0);
    assert_int_equal(kit.last_sealed.status, KV_ERR_IO);
    assert_int_equal(kit.nr_freed, 1);
    assert_false(kit_here(&kit, 0, 1));
    kit_close(&kit);
}

static void verify__always_waits_and_then_goes_on(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t keys[2] = {kit_key(1), kit_key(1)};
    struct kvp_ref refs[2];
    kv_status_t statuses[2];

    kit_init(&kit);
    kit.config.verify_local = KVP_VERIFY_ALWAYS;
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, keys, 2, refs, statuses), 2);
    assert_int_equal(statuses[0], KV_INPROGRESS);
    assert_int_equal(statuses[1], KV_INPROGRESS);
    assert_int_equal(kit.nr_orders, 1); /* one re-check serves both */
    kit_order(&kit, KV_OK, kit_digest(1));
    assert_int_equal(kit.nr_verified, 1);
    assert_int_equal(kit.last_verified.status, KV_OK);
    assert_int_equal(kit_info(&kit, refs[0]).refs, 2);
    kvp_release(kit.pager, refs, 2);
    kit_close(&kit);
}

/* Bytes that changed cost the copy: who waited gets its reference taken back, who reads
 * already keeps it until its release, nobody finds it any more. */
static void verify__changed_bytes_drop_the_copy(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    struct kvp_ref ref, waits;
    kv_status_t status;

    kit_init(&kit);
    kit.config.verify_local = KVP_VERIFY_ALWAYS;
    kit_open(&kit);
    ref = kit_put(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &waits, &status), 1);
    assert_int_equal(status, KV_INPROGRESS);
    struct kvp_seq_id seq;
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, &waits, 1), KV_ERR_AGAIN);
    kit_order(&kit, KV_OK, kit_digest(1) ^ 1);
    assert_int_equal(kit.last_verified.status, KV_ERR_NOT_VERIFIED);
    assert_false(kit_here(&kit, 0, 1));
    assert_int_equal(kit.nr_unlisted, 1);
    assert_int_equal(kit_info(&kit, ref).refs, 1);
    assert_int_equal(kvp_retain(kit.pager, ref), KV_ERR_STALE);
    assert_int_equal(kvp_pin(kit.pager, ref), KV_ERR_STALE);
    assert_int_equal(kvp_metrics(kit.pager)->verify_failed, 1);
    kvp_release(kit.pager, &ref, 1);
    assert_int_equal(kit.nr_freed, 1);
    assert_int_equal(kvp_seq_end(kit.pager, seq, false), KV_OK);
    kit_close(&kit);
}

static void verify__waiter_that_gives_up_is_not_counted(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t keys[2] = {kit_key(1), kit_key(1)};
    struct kvp_ref refs[2];
    kv_status_t statuses[2];

    kit_init(&kit);
    kit.config.verify_local = KVP_VERIFY_ALWAYS;
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, keys, 2, refs, statuses), 2);
    kvp_release_waiting(kit.pager, refs[0]);
    kvp_check(kit.pager);
    kvp_release_waiting(kit.pager, refs[1]);
    kit_order(&kit, KV_OK, 1);
    assert_int_equal(kit.nr_verified, 0); /* nobody waits */
    assert_false(kit_here(&kit, 0, 1));
    kit_close(&kit);
}

/* A page sealed while the old one is in doubt takes its place: its bytes are known. */
static void verify__new_copy_replaces_one_in_doubt(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    struct kvp_ref waits;
    kv_status_t status;

    kit_init(&kit);
    kit.config.verify_local = KVP_VERIFY_ALWAYS;
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &waits, &status), 1);
    struct kvp_ref ref, existing;
    const struct kvp_place place = {.index = 0};
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_int_equal(
        kvp_fill_seal(kit.pager, ref, &key, &place, &existing), KV_SEALING);
    const struct kvp_order recheck = kit.orders[0];
    kit.orders[0] = kit.orders[1];
    kit.orders[1] = recheck;
    kit_order(&kit, KV_OK, 5);
    assert_int_equal(kit_find(&kit, 0, 1).frame, ref.frame);
    kit_order(&kit, KV_OK, 9); /* the old one's bytes had changed */
    assert_int_equal(kit.last_verified.status, KV_ERR_NOT_VERIFIED);
    assert_int_equal(kit.last_freed.frame, waits.frame);
    assert_int_equal(kit_find(&kit, 0, 1).frame, ref.frame);
    kvp_release(kit.pager, &ref, 1);
    kit_close(&kit);
}

static void verify__sample_is_one_in_n_on_average(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    uint32_t nr = 0;

    kit_init(&kit);
    kit.config.verify_local = KVP_VERIFY_SAMPLE;
    kit.config.verify_sample = 10;
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    for (uint32_t i = 0; i < 10000; i++) {
        struct kvp_ref ref;
        kv_status_t status;
        assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &ref, &status), 1);
        if (status == KV_INPROGRESS) {
            nr++;
            kit_order(&kit, KV_OK, kit_digest(1));
        }
        kvp_release(kit.pager, &ref, 1);
    }
    assert_in_range(nr, 900, 1100);
    kit_close(&kit);
}

static void pin__pinned_copy_never_leaves(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 1;
    kit_open(&kit);
    const struct kvp_ref pinned = kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_pin(kit.pager, pinned), KV_OK);
    assert_int_equal(kvp_pin(kit.pager, pinned), KV_OK);
    kvp_unpin(kit.pager, pinned);
    assert_int_equal(
        kvp_leave_begin(kit.pager, 1, &ref, &token, &dropped), KV_ERR_AGAIN);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_ERR_AGAIN);
    kvp_unpin(kit.pager, pinned);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    kvp_fill_abort(kit.pager, ref, false);
    kit_close(&kit);
}

static void order__ends_once_whatever_comes_twice(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref, existing;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_int_equal(
        kvp_fill_seal(kit.pager, ref, &key, &place, &existing), KV_SEALING);
    const uint64_t id = kit.orders[0].id;
    assert_int_equal(kvp_orders_out(kit.pager), 1);
    kit_order(&kit, KV_OK, 5);
    assert_int_equal(kvp_order_done(kit.pager, id, KV_OK, 6), KV_ERR_STALE);
    assert_int_equal(kvp_order_done(kit.pager, UINT64_MAX, KV_OK, 6), KV_ERR_STALE);
    assert_int_equal(kvp_metrics(kit.pager)->stale_orders, 2);
    assert_int_equal(kit_info(&kit, ref).digest, 5);
    kvp_release(kit.pager, &ref, 1);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acquire__takes_what_is_here_and_misses_the_rest),
        cmocka_unit_test(acquire__tenants_do_not_see_each_other),
        cmocka_unit_test(put__equal_page_exists_in_any_tier),
        cmocka_unit_test(put__loser_of_two_digests_gets_the_winner),
        cmocka_unit_test(put__failed_digest_ends_it),
        cmocka_unit_test(verify__always_waits_and_then_goes_on),
        cmocka_unit_test(verify__changed_bytes_drop_the_copy),
        cmocka_unit_test(verify__waiter_that_gives_up_is_not_counted),
        cmocka_unit_test(verify__new_copy_replaces_one_in_doubt),
        cmocka_unit_test(verify__sample_is_one_in_n_on_average),
        cmocka_unit_test(pin__pinned_copy_never_leaves),
        cmocka_unit_test(order__ends_once_whatever_comes_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
