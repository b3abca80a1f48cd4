/* What a look-up costs in a large cluster: messages and round trips, counted.
 *
 * Some nodes hold prefixes of 64 pages; then random nodes ask which pages exist, one
 * look-up at a time. No faults, no heartbeats: nothing but look-ups is counted. */
#include "base/assert.h"
#include "base/hash.h"
#include "node/sim/run.h"

#include <stdlib.h>
#include <string.h>

enum {
    PREFIX_PAGES = 64,
    PAGE_TOKENS = 512,
    HOLDERS_MAX = 48,
    HOLDER_PREFIXES = 2,
    HOUR_MIN = 60,
    WARM_US = 60 * 1000000,
    DEADLINE_US = 2000000,
};
#define MINUTE_US UINT64_C(60000000)

struct asker {
    bool answered;
    kv_status_t status;
    uint32_t hits, nr_calls, nr_rounds;
};

static void
answered(void *arg, struct kvs_client client, const struct kvo_answer *answer)
{
    struct asker *asker = arg;
    (void)client;
    asker->answered = true;
    asker->status = answer->status;
    asker->hits = 0;
    for (uint32_t i = 0; answer->statuses != NULL && i < answer->nr_keys; i++) {
        bool here = answer->statuses[i] == KV_OK || answer->statuses[i] == KV_EXISTS;
        asker->hits += here;
    }
    asker->nr_calls = answer->nr_calls;
    asker->nr_rounds = answer->nr_rounds;
}

static const struct kvs_client_ops ops = {.answer = answered};

static bool done(void *arg)
{
    return ((struct asker *)arg)->answered;
}

static void make_keys(uint32_t prefix, kv_key_t *keys)
{
    struct kv_rng rng = kv_rng_seed(prefix);
    for (uint32_t i = 0; i < PREFIX_PAGES; i++) {
        for (unsigned b = 0; b < KV_KEY_BYTES; b++) {
            keys[i].b[b] = (uint8_t)kv_rng_next(&rng);
        }
    }
}

static bool
ask(kvs_world_t *world, struct kvs_client client, struct asker *asker, enum kvo_op op,
    const kv_key_t *keys)
{
    uint64_t buffers[PREFIX_PAGES];
    for (uint32_t i = 0; i < PREFIX_PAGES; i++) {
        buffers[i] = (uint64_t)i * kvs_config(world)->page_bytes;
        if (op == KVO_PUT) {
            kvs_content_make(
                kvs_buffer(world, client) + buffers[i], kvs_config(world)->page_bytes,
                100, &keys[i], 0, i);
        }
    }
    struct kvo_request request = {
        .op = op,
        .deadline_us = DEADLINE_US,
        .keys = keys,
        .nr_keys = PREFIX_PAGES,
        .anchor = keys[0],
        .buffers = op == KVO_PUT ? buffers : NULL,
    };
    asker->answered = false;
    return kvs_submit(world, client, &request) == KV_OK
           && kvs_run_until(world, done, asker, kvs_now(world) + 2 * DEADLINE_US);
}

static void shape(const struct kvs_lookups *config, struct kvs_config *world)
{
    kvs_preset(world);
    world->nr_nodes = config->nr_nodes;
    world->seed = config->seed;
    world->page_tokens = PAGE_TOKENS;
    world->device_frames = HOLDER_PREFIXES * PREFIX_PAGES + 16;
    world->host_frames = 0;
    world->net_us = 50;
    world->checks = false;
    world->poison = false;
    struct kvo_config *core = &world->core;
    core->liveness.heartbeat_us = HOUR_MIN * MINUTE_US;
    core->liveness.suspect_us = 2 * HOUR_MIN * MINUTE_US;
    core->liveness.lost_us = 3 * HOUR_MIN * MINUTE_US;
    core->tick_us = 1000000;
    core->call_us = DEADLINE_US;
    core->double_us = DEADLINE_US;
    core->spill = false;
    core->nr_clients = 2;
    core->nr_ops = 1;
    core->nr_items = 64;
    core->nr_calls = 64;
    core->nr_reads = 64;
    core->nr_grants = 8;
    core->nr_spills = 1;
    core->directory.nr_entries = 1024;
    core->directory.nr_holdings = 2048;
    core->directory.cold_us = 1000000;
    core->pager.nr_sequences = 1;
    core->pager.nr_leaves = 1;
    core->pager.nr_retired = 1;
    core->pager.free_target_divisor = 0;
}

static bool linked(kvs_world_t *world)
{
    return kvs_linked(world);
}

/* Links are looked at once a virtual second: asking after every event of a thousand
 * nodes would be all that this does. */
static bool link_up(kvs_world_t *world)
{
    for (unsigned tries = 0; tries < WARM_US / 1000000; tries++) {
        if (!kvs_run(world, kvs_now(world) + 1000000) || linked(world)) {
            break;
        }
    }
    return linked(world);
}

static bool warm(kvs_world_t *world, uint32_t nr_holders)
{
    kv_key_t keys[PREFIX_PAGES];
    for (uint32_t h = 0; h < nr_holders; h++) {
        struct asker asker = {0};
        struct kvs_client client;
        if (kvs_attach(world, h, 1, &ops, &asker, &client) != KV_OK) {
            return false;
        }
        for (uint32_t i = 0; i < HOLDER_PREFIXES; i++) {
            make_keys(h * HOLDER_PREFIXES + i, keys);
            if (!ask(world, client, &asker, KVO_PUT, keys)
                || asker.hits != PREFIX_PAGES) {
                return false;
            }
        }
        kvs_hang_up(world, client, 0);
        if (!kvs_run(world, kvs_now(world) + 3000000)) {
            return false;
        }
    }
    return true;
}

kv_status_t
kvs_run_lookups(const struct kvs_lookups *config, struct kvs_lookups_result *result)
{
    struct kvs_config world_config;
    struct kv_detail detail;
    kvs_world_t *world = NULL;
    shape(config, &world_config);
    memset(result, 0, sizeof(*result));
    kv_status_t status = kvs_world_create(&world_config, &world, &detail);
    if (status != KV_OK) {
        return status;
    }
    uint32_t nr_holders =
        config->nr_nodes < HOLDERS_MAX ? config->nr_nodes : HOLDERS_MAX;
    if (!link_up(world) || !warm(world, nr_holders)) {
        kvs_world_destroy(world);
        return KV_ERR_LINK_LOST;
    }
    struct kv_rng rng = kv_rng_seed(config->seed);
    kv_key_t keys[PREFIX_PAGES];
    for (uint32_t i = 0; i < config->lookups; i++) {
        uint32_t node = (uint32_t)kv_rng_below(&rng, config->nr_nodes);
        uint64_t prefixes = (uint64_t)nr_holders * HOLDER_PREFIXES;
        make_keys((uint32_t)kv_rng_below(&rng, prefixes), keys);
        struct asker asker = {0};
        struct kvs_client client;
        uint64_t begun = kvs_now(world);
        bool good = kvs_attach(world, node, 1, &ops, &asker, &client) == KV_OK
                    && ask(world, client, &asker, KVO_EXISTS, keys);
        result->lookups++;
        result->pages += PREFIX_PAGES;
        result->hits += asker.hits;
        result->failed += !good || asker.hits != PREFIX_PAGES;
        result->messages += 2 * (uint64_t)asker.nr_calls; /* each is answered */
        result->rounds += asker.nr_rounds;
        if (asker.nr_rounds > result->round_trips_max) {
            result->round_trips_max = asker.nr_rounds;
        }
        result->virtual_us += kvs_now(world) - begun;
        kvs_hang_up(world, client, 0);
        kvs_run(world, kvs_now(world) + 10);
    }
    kvs_world_destroy(world);
    return KV_OK;
}
