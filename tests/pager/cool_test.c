/* Which copy goes first once peers have a say, and what is kept free for those that
 * cannot wait. A mistake here costs hits, never bytes: only tests see it. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { STEP_US = 10 };

/* Pages first … first + n - 1 cached, each STEP_US after the one before. */
static void cache_pages(struct kit *kit, enum kvp_tier tier, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        kit_tick(kit, STEP_US);
        kit_cache(kit, 0, tier, first + i);
    }
}

/* The next victim of the pool is this page; it goes for good. */
static void expect_leaves(struct kit *kit, uint32_t pool, uint64_t number)
{
    struct kvp_ref ref;
    uint32_t token, dropped;
    const kv_key_t key = kit_key(number);

    assert_int_equal(kvp_leave_begin(kit->pager, pool, &ref, &token, &dropped), KV_OK);
    const struct kvp_info info = kit_info(kit, ref);
    assert_memory_equal(&info.copy.key, &key, sizeof(key));
    assert_int_equal(kvp_leave_done(kit->pager, ref, token), KV_OK);
    kvp_check(kit->pager);
}

/* ------------------------------------------------------------------ the reserve */

static uint32_t nr_free(struct kit *kit, uint32_t pool)
{
    struct kvp_pool_stats stats;
    kvp_pool_stats(kit->pager, pool, &stats);
    return stats.in_state[KVP_FREE];
}

/* 32 frames, a quarter is the target: the last four are not for arrivals that can wait.
 * They may still take the place of a colder copy, frame for frame. */
static void arrive__keep_reserve_leaves_half_the_free_target(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;

    kit_init(&kit);
    kit_open(&kit);
    cache_pages(&kit, KVP_HOST, 0, 27);
    struct kvp_arrival a = kit_arrival(0, KVP_HOST, 100, kit.now_us);
    a.keep_reserve = true;
    a.may_drop = false;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_int_equal(nr_free(&kit, 1), 4);
    struct kvp_arrival b = kit_arrival(0, KVP_HOST, 101, kit.now_us);
    b.keep_reserve = true;
    b.may_drop = false;
    struct kvp_ref more;
    assert_int_equal(kvp_arrive_begin(kit.pager, &b, &more), KV_ERR_AGAIN);
    assert_int_equal(kit.nr_unlisted, 0);
    b.may_drop = true;
    assert_int_equal(kvp_arrive_begin(kit.pager, &b, &more), KV_OK);
    assert_int_equal(kit.nr_unlisted, 1);
    assert_false(kit_here(&kit, 0, 0));
    assert_int_equal(nr_free(&kit, 1), 4);
    /* Nobody else's business: a demand takes the reserve down to the last frame. */
    struct kvp_ref demands[4];
    for (uint64_t i = 0; i < 4; i++) {
        demands[i] = kit_put(&kit, 0, KVP_HOST, 200 + i);
    }
    assert_int_equal(nr_free(&kit, 1), 0);
    assert_int_equal(kit.nr_unlisted, 1);
    kvp_release(kit.pager, demands, 4);
    kvp_arrive_abandon(kit.pager, ref);
    kvp_io_end(kit.pager, ref);
    kvp_arrive_abandon(kit.pager, more);
    kvp_io_end(kit.pager, more);
    kit_close(&kit);
}

/* A demotion leaves the host's reserve alone while the device has half of its own. */
static void demote__takes_the_reserve_only_when_the_device_is_short(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit_open(&kit);
    cache_pages(&kit, KVP_HOST, 0, 28);
    cache_pages(&kit, KVP_DEVICE, 100, 13); /* 3 free, half the target is 2 */
    assert_int_equal(kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_OK);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, false), KV_ERR_AGAIN);
    assert_int_equal(nr_free(&kit, 1), 4);
    kit_cache(&kit, 0, KVP_DEVICE, 113);
    assert_int_equal(kvp_demote(kit.pager, ref, token, KVP_HOST, false), KV_OK);
    assert_int_equal(nr_free(&kit, 1), 3);
    kit_order(&kit, KV_OK, kit_digest(100));
    assert_int_equal(kit_info(&kit, kit_find(&kit, 0, 100)).tier, KVP_HOST);
    kit_close(&kit);
}

/* A share of the pool; 16 frames at least, but never more than an eighth of a small
 * pool for that reason; none at all when the divisor is 0. A full pool is under
 * pressure for just so many, or for what the 1/8 rule lets out at once. */
static void free_target__has_a_floor(void **state)
{
    (void)state;
    static const struct {
        uint32_t nr_frames, divisor, pressure;
    } rows[] = {
        {32, 0, 0},       {32, 4, 8},      {32, 1000, 4},
        {7, 1000, 0},     {127, 1000, 15}, {128, 1000, 16},
        {1024, 1000, 16}, {1024, 16, 64},  {1024, 4, 128},
    };

    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit kit;
        kit_init(&kit);
        kit.config.pools[1].nr_frames = rows[i].nr_frames;
        kit.config.free_target_divisor = rows[i].divisor;
        kit_open(&kit);
        cache_pages(&kit, KVP_HOST, 0, rows[i].nr_frames);
        assert_int_equal(kvp_pressure(kit.pager, 1), rows[i].pressure);
        if (rows[i].pressure > 0) {
            expect_leaves(&kit, 1, 0);
            assert_int_equal(
                kvp_pressure(kit.pager, 1),
                rows[i].pressure < 128 ? rows[i].pressure - 1 : rows[i].pressure);
        }
        kit_close(&kit);
    }
}

/* ------------------------------------------------------------------ cool and warm */

static void cool__goes_first_and_is_told_once(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    cache_pages(&kit, KVP_HOST, 0, 6);
    const struct kvp_ref four = kit_find(&kit, 0, 4), two = kit_find(&kit, 0, 2);
    const uint64_t used = kit_info(&kit, four).last_use_us;
    assert_true(kvp_cool(kit.pager, four));
    assert_false(kvp_cool(kit.pager, four));
    assert_true(kvp_cool(kit.pager, two)); /* cooled later: goes after it */
    assert_true(kit_info(&kit, four).cool);
    assert_int_equal(kit_info(&kit, four).last_use_us, used);
    expect_leaves(&kit, 1, 4);
    expect_leaves(&kit, 1, 2);
    expect_leaves(&kit, 1, 0);
    assert_false(kvp_cool(kit.pager, four)); /* its generation has moved on */
    kit_close(&kit);
}

/* By the later of its own last use and the one that it is told. */
static void warm__takes_its_place_by_age(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const uint64_t began = kit.now_us;
    cache_pages(&kit, KVP_HOST, 0, 6); /* page i: used at began + (i + 1) * STEP_US */
    const struct kvp_ref zero = kit_find(&kit, 0, 0), four = kit_find(&kit, 0, 4);
    assert_true(kvp_cool(kit.pager, zero));
    assert_true(kvp_cool(kit.pager, four));
    kvp_warm(kit.pager, zero, began + 3 * STEP_US + 5); /* between 2 and 3 */
    kvp_warm(kit.pager, four, began);                   /* used later than that */
    assert_false(kit_info(&kit, zero).cool || kit_info(&kit, four).cool);
    assert_int_equal(kit_info(&kit, zero).last_use_us, began + 3 * STEP_US + 5);
    assert_int_equal(kit_info(&kit, four).last_use_us, began + 5 * STEP_US);
    static const uint64_t order[] = {1, 2, 0, 3, 4, 5};
    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        expect_leaves(&kit, 1, order[i]);
    }
    kit_close(&kit);
}

/* A pin or a grant that comes and goes is no use: the copy stays the first to go. */
static void cool__survives_being_held_without_use(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    cache_pages(&kit, KVP_HOST, 0, 4);
    const struct kvp_ref three = kit_find(&kit, 0, 3);
    assert_true(kvp_cool(kit.pager, three));
    assert_int_equal(kvp_pin(kit.pager, three), KV_OK);
    assert_int_equal(kvp_grant(kit.pager, three, 5), KV_OK);
    expect_leaves(&kit, 1, 0); /* 3 is held: the policy parks it */
    kvp_unpin(kit.pager, three);
    kvp_ungrant(kit.pager, three, 5);
    assert_true(kit_info(&kit, three).cool);
    expect_leaves(&kit, 1, 3);
    expect_leaves(&kit, 1, 1);
    kit_close(&kit);
}

static void cool__ends_with_a_use(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;
    kv_status_t status;
    const kv_key_t key = kit_key(0);

    kit_init(&kit);
    kit_open(&kit);
    cache_pages(&kit, KVP_HOST, 0, 4);
    assert_true(kvp_cool(kit.pager, kit_find(&kit, 0, 0)));
    kit_tick(&kit, STEP_US);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &ref, &status), 1);
    kvp_release(kit.pager, &ref, 1);
    assert_false(kit_info(&kit, ref).cool);
    /* One that was on its way out and is wanted again. */
    assert_true(kvp_cool(kit.pager, kit_find(&kit, 0, 1)));
    assert_int_equal(kvp_leave_begin(kit.pager, 1, &ref, &token, &dropped), KV_OK);
    kit_tick(&kit, STEP_US);
    const kv_key_t one = kit_key(1);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &one, 1, &ref, &status), 1);
    kvp_release(kit.pager, &ref, 1);
    assert_false(kit_info(&kit, ref).cool);
    static const uint64_t order[] = {2, 3, 0, 1};
    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        expect_leaves(&kit, 1, order[i]);
    }
    kit_close(&kit);
}

/* Page 0 in both tiers, nobody's; returns the device's frame. */
static struct kvp_ref both_tiers(struct kit *kit)
{
    kit_cache(kit, 0, KVP_HOST, 0);
    kit_tick(kit, STEP_US);
    const struct kvp_ref ref = kit_fetch(kit, 0, KVP_DEVICE, 0);
    kvp_release(kit->pager, &ref, 1);
    cache_pages(kit, KVP_HOST, 1, 3);
    assert_true(kit_info(kit, ref).twin != KVP_NO_FRAME);
    return ref;
}

/* The peer has the page, whichever tier it lies in here. */
static void cool__device_frame_cools_its_twin(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref device = both_tiers(&kit);
    assert_true(kvp_cool(kit.pager, device));
    const uint32_t twin = kit_info(&kit, device).twin;
    struct kvp_info info;
    kvp_frame_at(kit.pager, twin, &info);
    assert_true(info.cool);
    /* The device's half goes, unlisting nothing; the host's is then the first. */
    assert_int_equal(
        kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_ERR_AGAIN);
    assert_int_equal(dropped, 1);
    assert_int_equal(kit.nr_unlisted, 0);
    expect_leaves(&kit, 1, 0);
    kit_close(&kit);
}

/* … and a use of the page counts for both halves too. */
static void cool__use_of_the_device_frame_clears_its_twin(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref ref;
    uint32_t token, dropped;
    kv_status_t status;
    const kv_key_t key = kit_key(0);

    kit_init(&kit);
    kit_open(&kit);
    assert_true(kvp_cool(kit.pager, both_tiers(&kit)));
    kit_tick(&kit, STEP_US);
    assert_int_equal(kvp_acquire(kit.pager, 0, 0, &key, 1, &ref, &status), 1);
    kvp_release(kit.pager, &ref, 1);
    assert_int_equal(
        kvp_leave_begin(kit.pager, 0, &ref, &token, &dropped), KV_ERR_AGAIN);
    assert_int_equal(dropped, 1);
    assert_false(kit_info(&kit, kit_find(&kit, 0, 0)).cool);
    static const uint64_t order[] = {1, 2, 3, 0};
    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        expect_leaves(&kit, 1, order[i]);
    }
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrive__keep_reserve_leaves_half_the_free_target),
        cmocka_unit_test(demote__takes_the_reserve_only_when_the_device_is_short),
        cmocka_unit_test(free_target__has_a_floor),
        cmocka_unit_test(cool__goes_first_and_is_told_once),
        cmocka_unit_test(warm__takes_its_place_by_age),
        cmocka_unit_test(cool__survives_being_held_without_use),
        cmocka_unit_test(cool__ends_with_a_use),
        cmocka_unit_test(cool__device_frame_cools_its_twin),
        cmocka_unit_test(cool__use_of_the_device_frame_clears_its_twin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
