/* Room: what may be dropped for whom, what waits in limbo and how much of it, who pays.
 * Nothing that somebody holds ever goes, and nothing is dropped in vain. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void room__coldest_idle_copy_goes_and_is_remembered(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    for (uint64_t i = 0; i < 32; i++) {
        kit_tick(&kit, 1);
        kit_cache(&kit, 0, KVP_HOST, i);
    }
    const struct kvp_ref held = kit_find(&kit, 0, 0);
    assert_int_equal(kvp_retain(kit.pager, held), KV_OK);
    kit_cache(&kit, 0, KVP_HOST, 100);
    assert_true(kit_here(&kit, 0, 0)); /* referenced: the next coldest went */
    assert_false(kit_here(&kit, 0, 1));
    const kv_key_t gone = kit_key(1), never = kit_key(9999);
    assert_int_equal(kvp_miss_reason(kit.pager, 0, 0, &gone), KV_MISS_EVICTED);
    assert_int_equal(kvp_miss_reason(kit.pager, 0, 0, &never), KV_MISS_NOT_FOUND);
    assert_int_equal(kvp_miss_reason(kit.pager, 1, 0, &gone), KV_MISS_NOT_FOUND);
    kvp_release(kit.pager, &held, 1);
    kit_close(&kit);
}

static void room__again_drops_nothing(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref refs[31], ref;
    struct kvp_seq_id seq;

    kit_init(&kit);
    kit.config.pools[0] = kit.config.pools[1]; /* host alone: tables live there */
    kit.config.nr_pools = 1;
    kit_open(&kit);
    for (uint64_t i = 0; i < 31; i++) {
        refs[i] = kit_put(&kit, 0, KVP_HOST, i);
    }
    kit_cache(&kit, 0, KVP_HOST, 31);
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 16), KV_ERR_AGAIN);
    assert_true(kit_here(&kit, 0, 31)); /* one would not have been enough */
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8 * 33), KV_ERR_TOO_LARGE);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8), KV_OK);
    assert_int_equal(
        kvp_fill_begin(kit.pager, 0, 0, KVP_DEVICE, 8, &ref), KV_ERR_TOO_LARGE);
    kvp_release(kit.pager, refs, 31);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8 * 31), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 1), KV_ERR_TOO_LARGE);
    assert_int_equal(kvp_seq_end(kit.pager, seq, false), KV_OK);
    kit_close(&kit);
}

static void room__small_copies_take_small_frames(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref small, large;

    kit_init(&kit);
    kit.config.pools[2] = (struct kvp_pool_config){
        .tier = KVP_HOST,
        .frame_bytes = 1024,
        .nr_frames = 4,
    };
    kit.config.nr_pools = 3;
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 2, &small), KV_OK);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 3, &large), KV_OK);
    assert_int_equal(kit_info(&kit, small).pool, 2);
    assert_int_equal(kit_info(&kit, large).pool, 1);
    kvp_fill_abort(kit.pager, small, false);
    kvp_fill_abort(kit.pager, large, false);
    kit_close(&kit);
}

static void quota__own_coldest_goes_first_then_refused(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref refs[4], ref;

    kit_init(&kit);
    kit.config.tenants[1].ceiling[KVP_HOST] = 4;
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 50);
    for (uint64_t i = 0; i < 6; i++) {
        kit_tick(&kit, 1);
        kit_cache(&kit, 1, KVP_HOST, i);
    }
    assert_int_equal(kvp_used(kit.pager, 1, KVP_HOST), 4);
    assert_false(kit_here(&kit, 1, 1));
    assert_true(kit_here(&kit, 1, 2));
    assert_true(kit_here(&kit, 0, 50)); /* colder, but another tenant's */
    for (uint64_t i = 0; i < 4; i++) {
        refs[i] = kit_find(&kit, 1, 2 + i);
        assert_int_equal(kvp_retain(kit.pager, refs[i]), KV_OK);
    }
    assert_int_equal(kvp_fill_begin(kit.pager, 1, 0, KVP_HOST, 8, &ref), KV_ERR_QUOTA);
    const struct kvp_arrival a = kit_arrival(1, KVP_HOST, 90, kit.now_us);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_ERR_QUOTA);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    kvp_fill_abort(kit.pager, ref, false);
    kvp_release(kit.pager, refs, 4);
    kit_close(&kit);
}

static void quota__beyond_the_ceiling_for_ever_is_quota_not_too_large(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id seq;

    kit_init(&kit);
    kit.config.tenants[1].ceiling[KVP_DEVICE] = 4;
    kit_open(&kit);
    assert_int_equal(kvp_seq_open(kit.pager, 1, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8 * 5), KV_ERR_QUOTA);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8 * 17), KV_ERR_TOO_LARGE);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8 * 4), KV_OK);
    assert_int_equal(kvp_seq_end(kit.pager, seq, false), KV_OK);
    kit_close(&kit);
}

/* Another tenant's bytes are gone before the new one may write, that is: map. */
static void zero__frame_that_changes_tenant_is_zeroed(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    const kv_key_t key = kit_key(1);

    kit_init(&kit);
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kit.nr_orders, 0); /* a fresh frame, then its own */
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &key), KV_OK);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_true(kvp_writable(kit.pager, ref));
    kvp_fill_abort(kit.pager, ref, false);
    assert_int_equal(kvp_fill_begin(kit.pager, 1, 0, KVP_HOST, 1, &ref), KV_OK);
    assert_int_equal(kit.orders[0].kind, KVP_ORDER_ZERO);
    assert_int_equal(kit.orders[0].len, 4096); /* all of it, though 1 token is asked */
    assert_false(kvp_writable(kit.pager, ref));
    kit_order(&kit, KV_OK, 0);
    assert_true(kvp_writable(kit.pager, ref));
    kvp_fill_abort(kit.pager, ref, false);
    /* A ZERO that fails leaves nothing to write on, and the next one is asked again. */
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    kit_order(&kit, KV_ERR_IO, 0);
    assert_false(kvp_writable(kit.pager, ref));
    assert_true(kit_info(&kit, ref).failed);
    const struct kvp_place place = {.index = 0};
    struct kvp_ref existing;
    assert_int_equal(kvp_fill_seal(kit.pager, ref, &key, &place, &existing), KV_ERR_IO);
    kvp_fill_abort(kit.pager, ref, false);
    kit_close(&kit);
}

/* A short arrival over a longer page of another tenant leaves that one's rest behind:
 * the frame stays suspect until it is zeroed, also for the tenant that arrived. */
static void zero__arrival_does_not_clear_a_frame(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    struct kvp_arrival a = kit_arrival(1, KVP_HOST, 2, 0);
    const kv_key_t one = kit_key(1), two = kit_key(2);

    kit_init(&kit);
    kit_open(&kit);
    kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &one), KV_OK);
    a.n_tokens = 1;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_int_equal(
        kvp_arrive_done(kit.pager, &ref, KV_OK, 5, 5, KVP_ARRIVE_AGED), KV_OK);
    assert_int_equal(kvp_drop(kit.pager, 1, 0, &two), KV_OK);
    assert_int_equal(kvp_fill_begin(kit.pager, 1, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_int_equal(kit.nr_orders, 1);
    assert_int_equal(kit.orders[0].kind, KVP_ORDER_ZERO);
    kit_order(&kit, KV_OK, 0);
    kvp_fill_abort(kit.pager, ref, false);
    kit_close(&kit);
}

/* 1/8 of 32 frames is below the least of 8; one peer gets half. */
static void limbo__arrivals_are_bounded_for_all_and_for_one_peer(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref refs[9];
    struct kvp_pool_stats stats;
    struct kvp_arrival a;

    kit_init(&kit);
    kit_open(&kit);
    for (uint32_t i = 0; i < 5; i++) {
        a = kit_arrival(0, KVP_HOST, i, 0);
        a.peer = 7;
        assert_int_equal(
            kvp_arrive_begin(kit.pager, &a, &refs[i]), i < 4 ? KV_OK : KV_ERR_AGAIN);
    }
    for (uint32_t i = 4; i < 9; i++) {
        a = kit_arrival(0, KVP_HOST, i, 0);
        assert_int_equal(
            kvp_arrive_begin(kit.pager, &a, &refs[i]), i < 8 ? KV_OK : KV_ERR_AGAIN);
    }
    kvp_pool_stats(kit.pager, 1, &stats);
    assert_int_equal(stats.limbo, 8);
    assert_int_equal(stats.limbo_max, 8);
    /* Given up while its mover may still write: the io keeps it, and it counts. */
    kvp_arrive_abandon(kit.pager, refs[0]);
    a = kit_arrival(0, KVP_HOST, 20, 0);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &refs[8]), KV_ERR_AGAIN);
    assert_int_equal(kit.nr_freed, 0);
    kvp_io_end(kit.pager, refs[0]);
    assert_int_equal(kit.nr_freed, 1);
    a.peer = 7;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &refs[0]), KV_OK);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(
            kvp_arrive_done(
                kit.pager, &refs[i], KV_ERR_LINK_LOST, 0, 0, KVP_ARRIVE_USED),
            KV_ERR_LINK_LOST);
    }
    kit_close(&kit);
}

static void limbo__grants_are_bounded_for_all_and_for_one_peer(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref refs[9];
    struct kvp_pool_stats stats;

    kit_init(&kit);
    kit_open(&kit);
    for (uint64_t i = 0; i < 9; i++) {
        /* Half of them referenced: in limbo only when those references end. */
        refs[i] = i % 2 == 0 ? kit_put(&kit, 0, KVP_HOST, i)
                             : kit_cache(&kit, 0, KVP_HOST, i);
    }
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(
            kvp_grant(kit.pager, refs[i], 3), i < 4 ? KV_OK : KV_ERR_AGAIN);
    }
    assert_int_equal(kvp_grant(kit.pager, refs[0], 4), KV_OK); /* adds no frame */
    for (uint32_t i = 4; i < 8; i++) {
        assert_int_equal(kvp_grant(kit.pager, refs[i], i < 7 ? 4 : 5), KV_OK);
    }
    assert_int_equal(kvp_grant(kit.pager, refs[8], 5), KV_ERR_AGAIN);
    for (uint32_t i = 0; i < 9; i += 2) {
        kvp_release(kit.pager, &refs[i], 1);
    }
    kvp_pool_stats(kit.pager, 1, &stats);
    assert_int_equal(stats.limbo, 8);
    kvp_ungrant(kit.pager, refs[0], 4);
    for (uint32_t i = 0; i < 8; i++) {
        kvp_ungrant(kit.pager, refs[i], i < 4 ? 3 : i < 7 ? 4 : 5);
    }
    kvp_pool_stats(kit.pager, 1, &stats);
    assert_int_equal(stats.limbo, 0);
    kit_close(&kit);
}

/* Promise 5: nothing but the end of the grant lets the frame go. */
static void hands__granted_frame_outlives_its_drop(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref ref = kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_grant(kit.pager, ref, 0), KV_OK);
    assert_int_equal(kvp_io_begin(kit.pager, ref), KV_OK);
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &key), KV_OK);
    assert_false(kit_here(&kit, 0, 1));
    assert_int_equal(kvp_grant(kit.pager, ref, 0), KV_ERR_STALE);
    kit_tick(&kit, UINT32_MAX);
    assert_int_equal(kit.nr_freed, 0);
    kvp_ungrant(kit.pager, ref, 0);
    assert_int_equal(kit_info(&kit, ref).state, KVP_QUARANTINE);
    kvp_io_end(kit.pager, ref);
    assert_int_equal(kit.nr_freed, 1);
    kit_close(&kit);
}

static void hands__fence_keeps_an_aborted_fill(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    kvp_fill_abort(kit.pager, ref, true);
    assert_int_equal(kit_info(&kit, ref).state, KVP_QUARANTINE);
    assert_int_equal(kvp_used(kit.pager, 0, KVP_HOST), 1); /* still paid for */
    kvp_fence_end(kit.pager, ref);
    assert_int_equal(kit.nr_freed, 1);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(room__coldest_idle_copy_goes_and_is_remembered),
        cmocka_unit_test(room__again_drops_nothing),
        cmocka_unit_test(room__small_copies_take_small_frames),
        cmocka_unit_test(quota__own_coldest_goes_first_then_refused),
        cmocka_unit_test(quota__beyond_the_ceiling_for_ever_is_quota_not_too_large),
        cmocka_unit_test(zero__frame_that_changes_tenant_is_zeroed),
        cmocka_unit_test(zero__arrival_does_not_clear_a_frame),
        cmocka_unit_test(limbo__arrivals_are_bounded_for_all_and_for_one_peer),
        cmocka_unit_test(limbo__grants_are_bounded_for_all_and_for_one_peer),
        cmocka_unit_test(hands__granted_frame_outlives_its_drop),
        cmocka_unit_test(hands__fence_keeps_an_aborted_fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
