/* Every policy keeps one contract; lru is exact: a trace tool compares hit rates to the
 * third digit, so the pager's victims must be those of a naive list, in order. */
#include "base/hash.h"
#include "base/mem.h"
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { SLOTS = 40, STREAM_SLOTS = 600 };

static bool not_even(void *arg, uint32_t slot)
{
    (void)arg;
    return slot % 2 != 0;
}

static void *policy_open(const struct kvp_evict_ops *ops)
{
    void *self = kv_calloc(1, ops->size(SLOTS, 3));
    ops->init(self, SLOTS, 3);
    return self;
}

/* One suite for every policy. */
static void contract(const struct kvp_evict_ops *ops)
{
    void *self = policy_open(ops);

    assert_ptr_equal(kvp_evict_find(ops->name), ops);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), KVP_NO_SLOT);
    assert_int_equal(ops->coldest(self, NULL, NULL), KVP_NO_SLOT);
    for (uint32_t i = 0; i < 8; i++) {
        ops->insert(self, i, (uint16_t)(i % 3), KVP_EVICT_HOT, 100 + i);
    }
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 0);
    assert_int_equal(ops->victim(self, 2, NULL, NULL), 2);
    assert_int_equal(ops->coldest(self, NULL, NULL), 0);
    /* Refused slots are parked: not offered again before a touch. */
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, not_even, NULL), 1);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 1);
    ops->check(self);
    ops->first(self, 7);
    ops->first(self, 5);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 7);
    /* What is wanted least says nothing about how far back the pool remembers. */
    assert_int_equal(ops->coldest(self, NULL, NULL), 1);
    ops->remove(self, 7);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 5);
    ops->remove(self, 5);
    ops->touch(self, 0, 200); /* was parked */
    ops->check(self);
    while (ops->victim(self, KVP_ANY_TENANT, NULL, NULL) != KVP_NO_SLOT) {
        ops->remove(self, ops->victim(self, KVP_ANY_TENANT, NULL, NULL));
    }
    ops->check(self);
    kv_free(self);
}

static void evict__every_policy_keeps_the_contract(void **state)
{
    (void)state;
    contract(&kvp_evict_lru);
    contract(&kvp_evict_fifo);
    assert_null(kvp_evict_find("clock"));
    assert_int_equal(kv_mem_live(), 0);
}

static void lru__a_use_moves_to_the_newest_end(void **state)
{
    (void)state;
    const struct kvp_evict_ops *ops = &kvp_evict_lru;
    void *self = policy_open(ops);

    for (uint32_t i = 0; i < 4; i++) {
        ops->insert(self, i, 0, KVP_EVICT_HOT, 10);
    }
    ops->touch(self, 0, 10); /* the same instant: order of the calls */
    assert_int_equal(ops->victim(self, 0, NULL, NULL), 1);
    ops->touch(self, 1, 11);
    assert_int_equal(ops->victim(self, 0, NULL, NULL), 2);
    kv_free(self);
}

static void fifo__a_use_changes_nothing(void **state)
{
    (void)state;
    const struct kvp_evict_ops *ops = &kvp_evict_fifo;
    void *self = policy_open(ops);

    for (uint32_t i = 0; i < 4; i++) {
        ops->insert(self, i, (uint16_t)(i % 2), KVP_EVICT_HOT, 10 + i);
    }
    ops->touch(self, 0, 50);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 0);
    /* Parked while in use: next in line when it comes back. */
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, not_even, NULL), 1);
    ops->touch(self, 0, 60);
    assert_int_equal(ops->victim(self, KVP_ANY_TENANT, NULL, NULL), 0);
    kv_free(self);
}

/* What came by spill takes its place by its own age: neither cold end nor new. */
static void lru__aged_slots_go_between_by_stamp(void **state)
{
    (void)state;
    const struct kvp_evict_ops *ops = &kvp_evict_lru;
    void *self = policy_open(ops);
    const uint64_t stamps[] = {50, 20, 70, 35, 20};
    uint64_t before = 0;

    for (uint32_t i = 0; i < 8; i++) {
        ops->insert(self, i, (uint16_t)(i % 2), KVP_EVICT_HOT, 10 * (i + 1));
    }
    for (uint32_t i = 0; i < 5; i++) {
        ops->insert(self, 10 + i, (uint16_t)(i % 3), KVP_EVICT_AGED, stamps[i]);
    }
    for (uint32_t i = 0; i < 13; i++) {
        const uint32_t slot = ops->victim(self, KVP_ANY_TENANT, NULL, NULL);
        const uint64_t stamp = slot < 8 ? 10 * (slot + 1) : stamps[slot - 10];
        assert_int_equal(ops->coldest(self, NULL, NULL), slot);
        assert_true(stamp >= before);
        before = stamp;
        ops->remove(self, slot);
    }
    assert_int_equal(ops->coldest(self, NULL, NULL), KVP_NO_SLOT);
    kv_free(self);
}

/* Two streams, each in the order of its own age and far apart from the other: spills of
 * a busy peer and of an idle one. However they interleave, all leave in exact age
 * order, though no single list could take them without a long walk. */
static void lru__aged_streams_leave_in_age_order(void **state)
{
    (void)state;
    const struct kvp_evict_ops *ops = &kvp_evict_lru;
    struct kv_rng rng = kv_rng_seed(5);
    void *self = kv_calloc(1, ops->size(STREAM_SLOTS, 1));
    ops->init(self, STREAM_SLOTS, 1);
    uint64_t stamps[STREAM_SLOTS], stream_us[2] = {1000, 500000};

    for (uint32_t i = 0; i < STREAM_SLOTS; i++) {
        if (i % 4 == 0) { /* and pages of our own, newer than all of them */
            stamps[i] = 1000000 + i;
            ops->insert(self, i, 0, KVP_EVICT_HOT, stamps[i]);
            continue;
        }
        uint64_t *now_us = &stream_us[kv_rng_below(&rng, 2)];
        stamps[i] = *now_us += 1 + kv_rng_below(&rng, 9);
        ops->insert(self, i, 0, KVP_EVICT_AGED, stamps[i]);
    }
    ops->check(self);
    uint64_t before = 0;
    for (uint32_t i = 0; i < STREAM_SLOTS; i++) {
        const uint32_t slot = ops->victim(self, KVP_ANY_TENANT, NULL, NULL);
        assert_true(slot < STREAM_SLOTS);
        assert_true(stamps[slot] > before);
        before = stamps[slot];
        ops->remove(self, slot);
    }
    kv_free(self);
}

/* ------------------------------------------------------------------ in the pager */

enum { POOL = 64, PAGES = 200, TURNS = 20000, RUN_MAX = 6 };

struct naive {
    uint64_t pages[POOL]; /* oldest first */
    uint32_t nr;
};

static bool naive_remove(struct naive *naive, uint64_t page)
{
    for (uint32_t i = 0; i < naive->nr; i++) {
        if (naive->pages[i] == page) {
            naive->nr--;
            memmove(
                &naive->pages[i], &naive->pages[i + 1],
                (naive->nr - i) * sizeof(naive->pages[0]));
            return true;
        }
    }
    return false;
}

/* A request's run of pages: hits are referenced until the end, misses are put; then all
 * references end, the last page first. The naive list does the same with an array. */
static void turn(struct kit *kit, struct naive *naive, const uint64_t *run, uint32_t n)
{
    struct kvp_ref refs[RUN_MAX];
    const uint16_t tenant = 0;
    bool used[RUN_MAX];

    for (uint32_t i = 0; i < n; i++) {
        const kv_key_t key = kit_key(run[i]);
        kv_status_t status;
        used[i] = naive_remove(naive, run[i]);
        assert_int_equal(
            kvp_acquire(kit->pager, tenant, 0, &key, 1, &refs[i], &status), used[i]);
    }
    uint32_t nr_held = n;
    for (uint32_t i = 0; i < n; i++) {
        if (used[i]) {
            continue;
        }
        kit->nr_unlisted = 0;
        uint32_t nr_here = naive->nr;
        for (uint32_t k = 0; k < n; k++) {
            nr_here += used[k];
        }
        refs[i] = kit_put(kit, tenant, KVP_HOST, run[i]);
        used[i] = true;
        if (nr_here == POOL) {
            const kv_key_t victim = kit_key(naive->pages[0]);
            assert_int_equal(kit->nr_unlisted, 1);
            assert_memory_equal(&kit->unlisted[0].key, &victim, sizeof(victim));
            naive_remove(naive, naive->pages[0]);
        } else {
            assert_int_equal(kit->nr_unlisted, 0);
        }
    }
    kvp_release(kit->pager, refs, nr_held);
    for (uint32_t i = n; i-- > 0;) {
        naive->pages[naive->nr++] = run[i];
    }
}

static void lru__victims_are_those_of_a_naive_list(void **state)
{
    (void)state;
    struct kv_rng rng = kv_rng_seed(11);
    struct naive naive = {.nr = 0};
    struct kit kit;

    kit_init(&kit);
    kit.config.pools[1].nr_frames = POOL;
    kit_open(&kit);
    for (uint32_t t = 0; t < TURNS; t++) {
        uint64_t run[RUN_MAX];
        const uint32_t n = 1 + (uint32_t)kv_rng_below(&rng, RUN_MAX);
        const uint64_t first = kv_rng_below(&rng, 1 + kv_rng_below(&rng, PAGES));
        for (uint32_t i = 0; i < n; i++) {
            run[i] = first + i;
        }
        kit_tick(&kit, kv_rng_below(&rng, 2)); /* equal stamps too */
        turn(&kit, &naive, run, n);
    }
    for (uint64_t page = 0; page < PAGES + RUN_MAX; page++) {
        const bool here = kit_here(&kit, 0, page);
        assert_int_equal(here, naive_remove(&naive, page));
    }
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evict__every_policy_keeps_the_contract),
        cmocka_unit_test(lru__a_use_moves_to_the_newest_end),
        cmocka_unit_test(fifo__a_use_changes_nothing),
        cmocka_unit_test(lru__aged_slots_go_between_by_stamp),
        cmocka_unit_test(lru__aged_streams_leave_in_age_order),
        cmocka_unit_test(lru__victims_are_those_of_a_naive_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
