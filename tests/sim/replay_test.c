/* The replay of requests through a simulated cluster: every page of every request is
 * counted once, every byte of a hit is right, and equal configurations give equal
 * runs. */
#include "base/assert.h"
#include "base/hash.h"
#include "node/sim/replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Conversations: each request repeats the prefix of the one before it in its chain, and
 * all share the first page. CHAINS is no multiple of the nodes: a chain visits all. */
enum { CHAINS = 25, ROUNDS = 8, GROWTH = 3, REQUESTS = CHAINS * ROUNDS };
enum { IDS = 1 + CHAINS * ROUNDS * GROWTH };
enum { REFS_MAX = REQUESTS * (1 + ROUNDS * GROWTH) };

static struct kvs_replay_request requests[REQUESTS];
static uint32_t ids[REFS_MAX];
static kv_key_t keys[IDS];
static uint32_t nr_refs;

static int make_requests(void **state)
{
    (void)state;
    for (uint32_t id = 0; id < IDS; id++) {
        for (uint32_t i = 0; i < KV_KEY_BYTES; i++) {
            keys[id].b[i] = (uint8_t)kv_mix64(id * KV_KEY_BYTES + i + 1);
        }
    }
    for (uint32_t r = 0; r < REQUESTS; r++) {
        const uint32_t chain = r % CHAINS, pages = (r / CHAINS + 1) * GROWTH;
        requests[r] = (struct kvs_replay_request){nr_refs, pages + 1};
        ids[nr_refs++] = 0;
        for (uint32_t i = 0; i < pages; i++) {
            ids[nr_refs++] = 1 + chain * ROUNDS * GROWTH + i;
        }
    }
    return 0;
}

static struct kvs_replay_config config_of(uint32_t pages)
{
    return (struct kvs_replay_config){
        .nr_nodes = 3,
        .pages = pages,
        .page_bytes = 4096,
        .page_tokens = 512,
        .in_flight = 8,
        .spill = true,
        .mix = KVS_MIXED,
        .seed = 5,
        .requests = requests,
        .nr_requests = REQUESTS,
        .ids = ids,
        .keys = keys,
    };
}

static uint64_t hits_of(const struct kvs_replay *replay)
{
    return replay->hits[KVO_FROM_DEVICE] + replay->hits[KVO_FROM_HOST]
           + replay->hits[KVO_FROM_PEER];
}

static void run(const struct kvs_replay_config *config, struct kvs_replay *replay)
{
    struct kv_detail detail = {0};
    if (kvs_replay_run(config, replay, &detail) != KV_OK) {
        fail_msg("%s %s", replay->failure, detail.field != NULL ? detail.field : "");
    }
    uint64_t all = hits_of(replay);
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        all += replay->misses[i];
    }
    assert_int_equal(replay->requests, REQUESTS);
    assert_int_equal(replay->page_refs, nr_refs);
    assert_int_equal(all, nr_refs);
    assert_int_equal(replay->wrong_bytes, 0);
    for (unsigned i = 0; i < KV_NR_STATUSES; i++) {
        assert_int_equal(replay->failed[i], 0);
    }
}

/* With room for everything a page misses once; pages come from peers, since a chain's
 * requests enter all nodes. */
static void replay_large_cluster_hits_all_but_first_sight(void **state)
{
    (void)state;
    const struct kvs_replay_config config = config_of(4096);
    struct kvs_replay replay;
    run(&config, &replay);
    const uint64_t misses = nr_refs - hits_of(&replay);
    /* The shared page is computed by each of the first requests; and a copy that a peer
     * has read leaves a full device at once, which now and then loses the last one. */
    assert_in_range(misses, IDS, IDS + IDS / 10);
    assert_true(replay.hits[KVO_FROM_PEER] > 0);
    /* What was fetched for nothing (a run that was cut short) is small. */
    const uint64_t fetched = replay.hits[KVO_FROM_PEER] * config.page_bytes;
    assert_in_range(replay.fetched_bytes, fetched, fetched + fetched / 20);
    assert_true(replay.lookups > 0 && replay.rounds >= replay.lookups);
}

/* Evicting, demoting and spilling all the time, on every transport and with all load on
 * one node, the bytes stay right. */
static void replay_small_cluster_stays_right(void **state)
{
    (void)state;
    for (unsigned mix = KVS_ALL_NAMED; mix <= KVS_DOMAINS; mix++) {
        for (unsigned i = 0; i < 4; i++) {
            struct kvs_replay_config config = config_of(300);
            config.mix = (enum kvs_mix)mix;
            config.memory = (enum kvs_memory)((mix + i) % (KVS_OWN + 1));
            config.skew = (i & 1) != 0;
            config.spill = (i & 2) != 0;
            struct kvs_replay replay;
            run(&config, &replay);
            assert_true(hits_of(&replay) > 0);
        }
    }
}

static void replay_equal_seeds_give_equal_runs(void **state)
{
    (void)state;
    const struct kvs_replay_config config = config_of(300);
    struct kvs_replay one, two;
    run(&config, &one);
    run(&config, &two);
    assert_memory_equal(&one, &two, sizeof(one));
}

static void replay_bounds_are_refused(void **state)
{
    (void)state;
    struct kvs_replay replay;
    struct kv_detail detail;
    /* 16 device frames a node are 192. */
    struct kvs_replay_config config = config_of(191);
    assert_int_equal(kvs_replay_run(&config, &replay, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "replay.pages");
    assert_int_equal(detail.limit, 192);
    config = config_of(300);
    config.in_flight = 0;
    assert_int_equal(kvs_replay_run(&config, &replay, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "replay.in_flight");
    config = config_of(300);
    config.nr_nodes = 0;
    assert_int_equal(kvs_replay_run(&config, &replay, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "replay.nodes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_large_cluster_hits_all_but_first_sight),
        cmocka_unit_test(replay_small_cluster_stays_right),
        cmocka_unit_test(replay_equal_seeds_give_equal_runs),
        cmocka_unit_test(replay_bounds_are_refused),
    };
    return cmocka_run_group_tests(tests, make_requests, NULL);
}
