/* One copy in two tiers, and how copies move between tiers and nodes. The listing
 * belongs to the pair; what the node holds twice goes first; what comes takes its place
 * by its own age; what is wanted again stays. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Device has pages 0 … n-1, page 0 coldest. */
static void fill_device(struct kit *kit, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        kit_tick(kit, 10);
        kit_cache(kit, 0, KVP_DEVICE, i);
    }
}

static void twin__pair_has_one_listing_to_its_end(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref host = kit_cache(&kit, 0, KVP_HOST, 1);
    const uint64_t hold = kit_info(&kit, host).hold;
    const struct kvp_ref device = kit_fetch(&kit, 0, KVP_DEVICE, 1);
    assert_int_equal(kit.nr_listed, 1);
    assert_int_equal(kit_info(&kit, device).hold, hold);
    assert_int_equal(kit_info(&kit, device).twin, host.frame);
    assert_int_equal(kit_find(&kit, 0, 1).frame, device.frame); /* device first */
    kvp_release(kit.pager, &device, 1);
    kvp_check(kit.pager);
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &key), KV_OK);
    assert_int_equal(kit.nr_unlisted, 1);
    assert_int_equal(kit.unlisted_hold[0], hold);
    assert_int_equal(kit.nr_freed, 2);
    kit_close(&kit);
}

/* The host's half of a pair is its pool's first victim, however hot. */
static void twin__host_half_goes_first_and_returns_to_its_place(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 4;
    kit_open(&kit);
    for (uint64_t i = 0; i < 4; i++) {
        kit_tick(&kit, 10);
        kit_cache(&kit, 0, KVP_HOST, i);
    }
    kit_tick(&kit, 10);
    struct kvp_ref two = kit_fetch(&kit, 0, KVP_DEVICE, 2);
    struct kvp_ref three = kit_fetch(&kit, 0, KVP_DEVICE, 3);
    assert_int_equal(kvp_reach_us(kit.pager, 1), 1010); /* the halves do not count */
    kit_cache(&kit, 0, KVP_HOST, 10);
    assert_int_equal(kit_info(&kit, two).twin, KVP_NO_FRAME);
    assert_true(kit_here(&kit, 0, 2) && kit_here(&kit, 0, 0));
    assert_int_equal(kit.nr_unlisted, 0);
    /* The device's half goes: the host's takes its place by the newer of both uses. */
    kit_tick(&kit, 10);
    kvp_release(kit.pager, &two, 1);
    kvp_release(kit.pager, &three, 1);
    const uint64_t used = kit.now_us;
    for (uint64_t i = 100; i < 116; i++) {
        kit_tick(&kit, 10);
        kit_cache(&kit, 0, KVP_DEVICE, i);
    }
    const struct kvp_ref left = kit_find(&kit, 0, 3);
    assert_int_equal(kit_info(&kit, left).tier, KVP_HOST);
    assert_int_equal(kit_info(&kit, left).last_use_us, used);
    kit_cache(&kit, 0, KVP_HOST, 11); /* drops page 0, then 1 */
    kit_cache(&kit, 0, KVP_HOST, 12);
    assert_false(kit_here(&kit, 0, 0) || kit_here(&kit, 0, 1));
    assert_true(kit_here(&kit, 0, 3));
    kit_close(&kit);
}

static void leave__demotion_moves_the_copy_and_its_place(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit_open(&kit);
    fill_device(&kit, 16);
    assert_int_equal(kvp_pressure(kit.pager, 0), 4);
    const struct kvp_info before = kit_info(&kit, kit_find(&kit, 0, 0));
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(ref.frame, before.ref.frame);
    assert_int_equal(dropped, 0);
    assert_int_equal(kvp_pressure(kit.pager, 0), 3);
    assert_true(kit_here(&kit, 0, 0)); /* while it leaves */
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_ERR_AGAIN);
    assert_int_equal(kit.orders[0].kind, KVP_ORDER_COPY);
    kit_order(&kit, KV_OK, kit_digest(0));
    const struct kvp_info after = kit_info(&kit, kit_find(&kit, 0, 0));
    assert_int_equal(after.tier, KVP_HOST);
    assert_int_equal(after.hold, before.hold);
    assert_int_equal(after.last_use_us, before.last_use_us);
    assert_int_equal(kit.nr_unlisted, 0);
    assert_int_equal(kvp_metrics(kit.pager)->demoted, 1);
    assert_int_equal(kvp_leave_done(kit.pager, ref, token), KV_ERR_STALE);
    kit_close(&kit);
}

/* An acquire cancels the eviction instead of waiting for it; the copy is a twin
 * then. */
static void leave__wanted_again_stays_and_the_copy_too(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref, again;
    uint32_t token, dropped;
    const kv_key_t key = kit_key(0);
    kv_status_t status;

    kit_init(&kit);
    kit_open(&kit);
    fill_device(&kit, 3);
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_OK);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &again, &status), 1);
    assert_int_equal(status, KV_OK);
    assert_int_equal(again.frame, ref.frame);
    assert_int_equal(kvp_leave_cancel(kit.pager, ref, token), KV_ERR_STALE);
    kit_order(&kit, KV_OK, kit_digest(0));
    assert_int_equal(kit_info(&kit, ref).state, KVP_SEALED);
    assert_int_not_equal(kit_info(&kit, ref).twin, KVP_NO_FRAME);
    assert_int_equal(kvp_metrics(kit.pager)->wanted_again, 1);
    kvp_release(kit.pager, &again, 1);
    kit_close(&kit);
}

/* Never a wrong byte: a copy that does not match is not kept, nor is what it came from
 * when nobody reads it; somebody who does gets a re-check. */
static void leave__copy_with_another_digest_is_dropped(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit_open(&kit);
    fill_device(&kit, 2);
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_OK);
    kit_order(&kit, KV_OK, 12345);
    assert_false(kit_here(&kit, 0, 0));
    assert_int_equal(kvp_metrics(kit.pager)->verify_failed, 1);
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_OK);
    assert_int_equal(kvp_retain(kit.pager, ref), KV_OK);
    kit_order(&kit, KV_OK, 12345);
    assert_int_equal(kit.orders[0].kind, KVP_ORDER_DIGEST);
    kit_order(&kit, KV_OK, kit_digest(1));
    assert_true(kit_here(&kit, 0, 1));
    kvp_release(kit.pager, &ref, 1);
    kit_close(&kit);
}

/* Purged is purged: a copy on its way down does not bring the page back. */
static void leave__drop_reaches_a_demotion_under_way(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;
    const kv_key_t key = kit_key(0);

    kit_init(&kit);
    kit_open(&kit);
    fill_device(&kit, 1);
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, true), KV_OK);
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &key), KV_OK);
    kit_order(&kit, KV_OK, kit_digest(0));
    assert_false(kit_here(&kit, 0, 0));
    assert_int_equal(kit.nr_freed, 2);
    kit_close(&kit);
}

static void leave__device_half_of_a_pair_is_dropped_on_the_way(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit_open(&kit);
    for (uint64_t i = 0; i < 2; i++) {
        kit_cache(&kit, 0, KVP_HOST, i);
        const struct kvp_ref twin = kit_fetch(&kit, 0, KVP_DEVICE, i);
        kvp_release(kit.pager, &twin, 1);
        kit_tick(&kit, 1);
    }
    for (uint64_t i = 2; i < 16; i++) {
        kit_cache(&kit, 0, KVP_DEVICE, i);
    }
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(dropped, 2);
    assert_int_equal(kit_info(&kit, kit_find(&kit, 0, 0)).tier, KVP_HOST);
    assert_int_equal(kit.nr_unlisted, 0);
    assert_int_equal(kvp_leave_cancel(kit.pager, ref, token), KV_OK);
    assert_int_equal(kvp_leave_cancel(kit.pager, ref, token), KV_ERR_STALE);
    kit_close(&kit);
}

/* design.md, Spill: by its own age, not at the cold end, not as new. */
static void spill__arrival_takes_its_place_by_age(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    const uint64_t digest = kit_digest(99);

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 4;
    kit_open(&kit);
    for (uint64_t i = 0; i < 3; i++) {
        kit_tick(&kit, 100);
        kit_cache(&kit, 0, KVP_HOST, i); /* used at 1100, 1200, 1300 */
    }
    const struct kvp_arrival a = kit_arrival(0, KVP_HOST, 99, 1150);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_int_equal(
        kvp_arrive_done(kit.pager, &ref, KV_OK, digest, digest, KVP_ARRIVE_AGED),
        KV_OK);
    assert_true(kit_info(&kit, ref).spilled);
    assert_int_equal(kvp_reach_us(kit.pager, 1), 1100);
    kit_cache(&kit, 0, KVP_HOST, 50);
    assert_false(kit_here(&kit, 0, 0));
    assert_true(kit_here(&kit, 0, 99));
    kit_cache(&kit, 0, KVP_HOST, 51);
    assert_false(kit_here(&kit, 0, 99));
    assert_true(kit_here(&kit, 0, 1));
    kit_close(&kit);
}

static void spill__takes_room_only_from_something_older(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    struct kvp_arrival a = kit_arrival(0, KVP_HOST, 99, 1100);

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 2;
    kit_open(&kit);
    for (uint64_t i = 0; i < 2; i++) {
        kit_tick(&kit, 100);
        kit_cache(&kit, 0, KVP_HOST, i); /* used at 1100 and 1200 */
    }
    a.by_age = true;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_ERR_AGAIN);
    a.last_use_us = 1101;
    a.may_drop = false;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_ERR_AGAIN);
    a.may_drop = true;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_false(kit_here(&kit, 0, 0));
    assert_int_equal(
        kvp_arrive_done(kit.pager, &ref, KV_OK, 1, 2, KVP_ARRIVE_AGED),
        KV_ERR_NOT_VERIFIED);
    kit_close(&kit);
}

/* A copy that a peer has read goes to the cold end; a use here brings it back. */
static void spill__cooled_copy_goes_first_until_it_is_used(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref refs[4];

    kit_init(&kit);
    kit.config.pools[1].nr_frames = 4;
    kit_open(&kit);
    for (uint64_t i = 0; i < 4; i++) {
        kit_tick(&kit, 1);
        refs[i] = kit_cache(&kit, 0, KVP_HOST, i);
    }
    kvp_cool(kit.pager, refs[2]);
    kvp_cool(kit.pager, refs[3]);
    assert_int_equal(kvp_retain(kit.pager, refs[2]), KV_OK);
    kvp_release(kit.pager, &refs[2], 1);
    kit_cache(&kit, 0, KVP_HOST, 9);
    assert_false(kit_here(&kit, 0, 3));
    assert_true(kit_here(&kit, 0, 2) && kit_here(&kit, 0, 0));
    kit_close(&kit);
}

static void arrive__equal_copy_wins_and_in_flight_is_brought_once(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref first, second;
    const struct kvp_arrival a = kit_arrival(0, KVP_HOST, 1, 0);
    const uint64_t digest = kit_digest(1);

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &first), KV_OK);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &second), KV_EXISTS);
    assert_int_equal(second.frame, first.frame);
    assert_false(kit_here(&kit, 0, 1)); /* not before it is verified */
    const struct kvp_ref put = kit_put(&kit, 0, KVP_HOST, 1);
    assert_int_equal(
        kvp_arrive_done(kit.pager, &first, KV_OK, digest, digest, KVP_ARRIVE_USED),
        KV_EXISTS);
    assert_int_equal(first.frame, put.frame);
    assert_int_equal(kit_info(&kit, put).refs, 2);
    kvp_release(kit.pager, &put, 1);
    kvp_release(kit.pager, &first, 1);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &second), KV_EXISTS);
    assert_int_equal(
        kvp_arrive_done(kit.pager, &second, KV_OK, 1, 1, KVP_ARRIVE_USED),
        KV_ERR_STALE);
    kit_close(&kit);
}

static void arrive__promotion_copies_from_the_other_tier(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    const struct kvp_arrival a = kit_arrival(0, KVP_DEVICE, 1, 0);

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref src = kit_cache(&kit, 0, KVP_HOST, 1);
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_int_equal(kvp_arrive_copy(kit.pager, ref, src), KV_OK);
    assert_int_equal(kit_info(&kit, src).ios, 1); /* stays what it is meanwhile */
    kit_order(&kit, KV_OK, kit_digest(1));
    assert_int_equal(kit.nr_copied, 1);
    assert_int_equal(kit.last_copied.computed, kit_digest(1));
    assert_int_equal(
        kvp_arrive_done(
            kit.pager, &ref, KV_OK, kit_info(&kit, src).digest,
            kit.last_copied.computed, KVP_ARRIVE_USED),
        KV_OK);
    assert_int_equal(kit_info(&kit, ref).twin, src.frame);
    kvp_release(kit.pager, &ref, 1);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twin__pair_has_one_listing_to_its_end),
        cmocka_unit_test(twin__host_half_goes_first_and_returns_to_its_place),
        cmocka_unit_test(leave__demotion_moves_the_copy_and_its_place),
        cmocka_unit_test(leave__wanted_again_stays_and_the_copy_too),
        cmocka_unit_test(leave__copy_with_another_digest_is_dropped),
        cmocka_unit_test(leave__drop_reaches_a_demotion_under_way),
        cmocka_unit_test(leave__device_half_of_a_pair_is_dropped_on_the_way),
        cmocka_unit_test(spill__arrival_takes_its_place_by_age),
        cmocka_unit_test(spill__takes_room_only_from_something_older),
        cmocka_unit_test(spill__cooled_copy_goes_first_until_it_is_used),
        cmocka_unit_test(arrive__equal_copy_wins_and_in_flight_is_brought_once),
        cmocka_unit_test(arrive__promotion_copies_from_the_other_tier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
