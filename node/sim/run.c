/* The life of one seed. Each world is drawn from it: sizes, speeds, policies, and
 * which of the allowed faults may happen (a fault that is always there hides what
 * needs its absence). Planted bugs get worlds that stress what they break. */
#include "node/sim/run.h"

#include "base/assert.h"
#include "base/hash.h"
#include "node/sim/chaos.h"

#include <string.h>

enum {
    CHAOS_US_MAX = 240 * 1000000, /* virtual; operations normally end it far sooner */
    QUIET_US = 30 * 1000000,      /* (I14) */
    LAST_PAUSE_US = 15 * 1000000,
    SETTLE_US = 8 * 1000000,
    PROBE_TRIES = 4,
    PROBE_GAP_US = 500000,
    PROBE_DEADLINE_US = 3000000,
};

/* ------------------------------------------------------------------ drawing worlds */

static uint64_t pick(struct kv_rng *rng, const uint64_t *values, unsigned nr)
{
    return values[kv_rng_below(rng, nr)];
}
#define PICK(rng, ...)                                                                 \
    pick(                                                                              \
        rng, (const uint64_t[]){__VA_ARGS__},                                          \
        sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void draw_memory(struct kv_rng *rng, struct kvs_config *world)
{
    world->page_bytes = (uint32_t)PICK(rng, 256, 256, 512, 1024, 2048);
    world->page_tokens = (uint32_t)PICK(rng, 64, 128, 256, 512);
    world->device_frames = (uint32_t)PICK(rng, 14, 24, 40, 64, 96);
    world->host_frames = (uint32_t)PICK(rng, 0, 16, 32, 64);
    world->nr_tenants = (uint32_t)PICK(rng, 1, 2, 3);
    world->nr_apart = world->nr_tenants > 1 ? (uint32_t)PICK(rng, 0, 0, 1) : 0;
    world->apart_frames = world->device_frames / 2 + 8;
    world->ceiling = (uint32_t)PICK(rng, 0, 0, 8, world->device_frames / 2 + 4);
    world->nr_variants = (uint32_t)PICK(rng, 1, 1, 2, 3);
    world->poison = kv_rng_below(rng, 2) == 0;
    world->buffer_bytes = 32 * 2048;
}

static void draw_speeds(struct kv_rng *rng, struct kvs_config *world)
{
    world->mix = (enum kvs_mix)kv_rng_below(rng, 3);
    world->turn_us = PICK(rng, 0, 0, 50, 500);
    world->net_us = PICK(rng, 100, 500, 2000);
    world->net_jitter_us = PICK(rng, 0, 200, 3000);
    world->fabric_us = PICK(rng, 10, 50, 400);
    world->fabric_bytes_us = (uint32_t)PICK(rng, 20, 1000, 10000);
    world->fault_gap_us = PICK(rng, 80000, 250000, 1000000);
}

static void draw_core(struct kv_rng *rng, struct kvo_config *core)
{
    struct kvp_config *pager = &core->pager;
    pager->evict = kv_rng_below(rng, 4) == 0 ? &kvp_evict_fifo : &kvp_evict_lru;
    pager->verify_local = (enum kvp_verify)kv_rng_below(rng, 3);
    pager->verify_sample = (uint32_t)PICK(rng, 1, 4, 16);
    pager->free_target_divisor = (uint32_t)PICK(rng, 0, 4, 8, 16);
    pager->nr_retired = (uint32_t)PICK(rng, 64, 1024);
    core->spill = kv_rng_below(rng, 4) > 0;
    core->grant_us = PICK(rng, 50000, 500000, 2000000);
    core->read_us = PICK(rng, 30000, 200000, 1000000);
    core->revoke_us = PICK(rng, 20000, 300000);
    core->call_us = PICK(rng, 100000, 500000);
    core->double_us = PICK(rng, 10000, 50000);
    core->spill_us = PICK(rng, 200000, 1000000);
    core->tick_us = PICK(rng, 5000, 20000, 50000);
    if (kv_rng_below(rng, 4) == 0) { /* tables so small that they run out */
        core->nr_items = 6;
        core->nr_calls = 8;
        core->nr_reads = 8;
        core->nr_grants = 8;
        core->nr_spills = 4;
        core->nr_ops = 8;
        pager->nr_sequences = 8;
        pager->nr_leaves = 12;
    }
    if (kv_rng_below(rng, 6) == 0) {
        core->directory.nr_entries = 24;
        core->directory.nr_holdings = 32;
    }
}

static uint32_t draw_faults(struct kv_rng *rng, uint32_t allowed)
{
    uint32_t faults = 0;
    for (unsigned i = 0; i < KVS_NR_FAULTS; i++) {
        if (kv_rng_below(rng, 2) == 0) {
            faults |= KVS_FAULT_BIT(i);
        }
    }
    return faults & allowed;
}

/* --digest-off --faults all: bytes go wrong by our own bugs alone. What only a digest
 * can find is left out: flipped bits, and the memory of a dead process, whose
 * registration ends with it here. No freed frame is poisoned, so a wrong byte is one
 * that somebody wrote for another page. And no clock proves anything: it stands while
 * its node is stopped, though the fabric goes on. */
static void bytes_alone(struct kvs_config *world)
{
    world->faults &= ~(KVS_FAULT_BIT(KVS_F_FLIP) | KVS_FAULT_BIT(KVS_F_REST_FLIP));
    world->poison = false;
    world->registered = true;
    world->clock_stops = true;
}

static void draw(
    const struct kvs_run_config *config, struct kvs_config *world,
    struct kvs_chaos_config *chaos)
{
    struct kv_rng rng = kv_rng_seed(config->seed ^ UINT64_C(0x5eed));
    kvs_preset(world);
    world->nr_nodes = config->nr_nodes;
    world->seed = config->seed;
    world->digest_off = config->digest_off;
    draw_memory(&rng, world);
    draw_speeds(&rng, world);
    draw_core(&rng, &world->core);
    world->faults = draw_faults(&rng, config->faults);
    if (config->digest_off && config->faults == KVS_FAULTS_ALL) {
        bytes_alone(world);
    } else if (world->core.pager.verify_local == KVP_VERIFY_ALWAYS) {
        /* Here every acquire re-checks, so a flip at rest must be found. */
        world->faults |= config->faults == KVS_FAULTS_ALL && kv_rng_below(&rng, 2) == 0
                             ? KVS_FAULT_BIT(KVS_F_REST_FLIP)
                             : config->faults & KVS_FAULT_BIT(KVS_F_REST_FLIP);
    } else {
        world->faults &= ~KVS_FAULT_BIT(KVS_F_REST_FLIP);
    }
    *chaos = (struct kvs_chaos_config){
        .seed = config->seed,
        .clients = 2 + (uint32_t)kv_rng_below(&rng, 5),
        .operations = config->operations,
        .think_us = PICK(&rng, 3000, 10000, 40000),
        .docs = 1 + (uint32_t)kv_rng_below(&rng, KVS_CHAOS_DOCS),
        .sequences = kv_rng_below(&rng, 6) > 0,
        .drops = kv_rng_below(&rng, 3) > 0,
    };
    /* Last, so that seeds keep what is drawn above. */
    if (kv_rng_below(&rng, 4) == 0) {
        world->mix = KVS_DOMAINS;
    }
    world->named_device =
        kv_rng_below(&rng, 3) == 0
        && (world->mix == KVS_MIXED || world->mix == KVS_DOMAINS);
}

/* ------------------------------------------------------------------ planted bugs */

static void allow(struct kvs_config *world, uint32_t faults)
{
    world->faults |= faults;
}

/* Homes that know little, beside homes that know all, and nothing else that costs
 * hits. The larger half of the nodes is killed again and again, and cold for most of
 * its life. No page lies there, so none is lost, and nobody keeps what it reads, so
 * that every read asks the homes. Nothing else is drawn: seeds differ in who is killed,
 * and by chance. */
static void focus_cold(struct kvs_config *world, struct kvs_chaos_config *chaos)
{
    const struct kvs_config drawn = *world;
    struct kvo_config *core = &world->core;
    kvs_preset(world);
    world->nr_nodes = drawn.nr_nodes;
    world->seed = drawn.seed;
    world->digest_off = drawn.digest_off;
    world->registered = drawn.registered;
    world->faults = KVS_FAULT_BIT(KVS_F_KILL);
    world->fault_gap_us = 300000;
    world->nr_killed = drawn.nr_nodes > 1 ? (drawn.nr_nodes + 1) / 2 : 0;
    world->first_killed = (uint32_t)(drawn.seed % drawn.nr_nodes);
    world->nr_tenants = 3;
    world->nr_variants = 2;
    world->device_frames = 1024; /* room for every page */
    world->host_frames = 0;
    core->spill = false;
    /* A home hears its share in 10 to 20 s: within the quiet (I14), but it seldom lives
     * that long. */
    core->sync_items = drawn.nr_nodes > 3 ? 1 : 4;
    core->tick_us = 200000;
    core->directory.cold_us = 30000000;
    chaos->clients = 4;
    chaos->docs = KVS_CHAOS_DOCS;
    chaos->think_us = 100000;
    chaos->sequences = false;
    chaos->drops = false;
    chaos->apart = true;
}

/* Worlds in which the planted bug has something to break. */
static void focus(
    enum kv_plant plant, uint64_t seed, struct kvs_config *world,
    struct kvs_chaos_config *chaos)
{
    struct kvo_config *core = &world->core;
    if (plant != KV_NR_PLANTS) {
        world->named_device = false; /* grants are what most of them break */
    }
    switch (plant) {
    case KV_PLANT_REUSE_ON_TIME:
    case KV_PLANT_EXPIRED_FREED:
        world->mix = KVS_ALL_ONE_SIDED;
        world->device_frames = 14; /* so that every frame is wanted again soon */
        world->host_frames = 0;
        world->nr_apart = 0;
        core->grant_us = 20000;
        core->revoke_us = 20000;
        core->read_us = 2000000;
        core->nr_grants = 128;
        allow(world, KVS_FAULT_BIT(KVS_F_SLOW_FABRIC) | KVS_FAULT_BIT(KVS_F_PAUSE));
        break;
    case KV_PLANT_NO_GENERATION:
    case KV_PLANT_LATE_COMPLETION:
        world->device_frames = 14;
        core->read_us = 30000;
        allow(
            world, KVS_FAULT_BIT(KVS_F_LATE_DONE) | KVS_FAULT_BIT(KVS_F_DOUBLE_DONE)
                       | KVS_FAULT_BIT(KVS_F_SLOW_FABRIC));
        break;
    case KV_PLANT_VISIBLE_EARLY:
    case KV_PLANT_DEDUP_EARLY:
        chaos->docs = 1; /* so that they meet on the same keys */
        chaos->clients = 6;
        chaos->sequences = true;
        world->fabric_us = 400;
        break;
    case KV_PLANT_OLD_INCARNATION:
        allow(
            world, KVS_FAULT_BIT(KVS_F_KILL) | KVS_FAULT_BIT(KVS_F_REPLAY)
                       | KVS_FAULT_BIT(KVS_F_BREAK));
        world->fault_gap_us = 80000;
        break;
    case KV_PLANT_OPAQUE_NO_TENANT:
        world->nr_tenants = 3;
        world->nr_apart = 0;
        break;
    case KV_PLANT_HAVE_TO_BOTH:
        core->spill = true;
        core->pager.free_target_divisor = 4;
        world->device_frames = 24;
        world->host_frames = 0;
        world->nr_apart = 0;
        chaos->docs = 2;
        break;
    case KV_PLANT_SKIP_DIGEST:
        world->mix = KVS_ALL_NAMED;
        allow(world, KVS_FAULT_BIT(KVS_F_FLIP));
        break;
    case KV_PLANT_LEAK_ON_MISS:
        chaos->sequences = true;
        break;
    case KV_PLANT_COLD_BELIEVED:
        focus_cold(world, chaos);
        break;
    case KV_NR_PLANTS:
        break;
    }
    (void)seed;
}

/* The same with digests off: worlds in which nothing but the rule that the bug breaks
 * stands between it and a reader. docs/planted-bugs.md tells the chains of events. */
static void focus_bytes(
    enum kv_plant plant, struct kvs_config *world, struct kvs_chaos_config *chaos)
{
    struct kvo_config *core = &world->core;
    switch (plant) {
    case KV_PLANT_REUSE_ON_TIME:
        /* Reads outlast their grants, and readers are stopped while they do: the
         * reader's own look at its clock, once the bytes are there, is no defence. */
        world->faults = KVS_FAULT_BIT(KVS_F_SLOW_FABRIC) | KVS_FAULT_BIT(KVS_F_PAUSE);
        world->fault_gap_us = 20000;
        world->net_us = 100;
        world->net_jitter_us = 0;
        world->fabric_us = 8000;
        chaos->clients = 3;
        chaos->docs = KVS_CHAOS_DOCS;
        chaos->sequences = false; /* they would keep the few frames */
        break;
    case KV_PLANT_NO_GENERATION:
        /* Frames change hands between tenants all the time, so that zeros are always on
         * their way into some: what a completion that comes twice ends. */
        world->faults = KVS_FAULT_BIT(KVS_F_DOUBLE_DONE);
        world->nr_tenants = 3;
        world->nr_apart = 0;
        world->ceiling = 0;
        world->host_frames = 0;
        world->fabric_us = 10000;
        core->read_us = 300000;
        chaos->clients = 3;
        chaos->docs = 1;
        chaos->think_us = 3000;
        chaos->sequences = false;
        break;
    case KV_PLANT_VISIBLE_EARLY:
        world->fabric_us = 5000; /* somebody asks for the page while it comes */
        break;
    case KV_PLANT_OLD_INCARNATION:
        /* So long a way that most calls are still open when what answered their like in
         * an earlier life comes again. */
        world->faults = KVS_FAULT_BIT(KVS_F_KILL) | KVS_FAULT_BIT(KVS_F_REPLAY);
        world->fault_gap_us = 150000;
        world->replay_all = true;
        world->mix = KVS_ALL_ONE_SIDED;
        world->net_us = 100000;
        world->net_jitter_us = 0;
        world->fabric_us = 1000;
        world->device_frames = 40;
        world->host_frames = 0;
        world->nr_apart = 0;
        core->spill = false;
        core->grant_us = 4000000;
        core->read_us = 2000000;
        core->call_us = 1000000;
        core->nr_ops = 24;
        core->nr_items = core->nr_calls = core->nr_grants = 128;
        core->nr_reads = 256;
        chaos->clients = 6;
        chaos->docs = KVS_CHAOS_DOCS;
        chaos->think_us = 80000;
        chaos->sequences = false;
        break;
    default:
        break;
    }
}

/* ------------------------------------------------------------------ the last checks */

/* (I3) Nobody is left: nothing may be held. Work of the node's own may still go on, so
 * the caller asks again for a while. */
static bool all_given_back(kvs_world_t *world, char *what, size_t cap)
{
    for (uint32_t n = 0; n < kvs_config(world)->nr_nodes; n++) {
        kvp_pager_t *pager = kvo_pager(kvs_node(world, n));
        for (uint32_t i = 0; i < kvp_nr_frames(pager); i++) {
            struct kvp_info info;
            kvp_frame_at(pager, i, &info);
            bool held =
                info.refs + info.pins + info.grants + info.ios + info.fences > 0;
            /* LEAVING: what nobody took waits there until its frame is needed. */
            bool still = info.state == KVP_FREE || info.state == KVP_SEALED ||
                         info.state == KVP_LEAVING;
            if (held || !still) {
                snprintf(
                    what, cap,
                    "n%u frame %u is %s with refs %u pins %u grants %u ios %u "
                    "fences %u after all clients left",
                    n + 1, i, kvp_state_name(info.state), info.refs, info.pins,
                    info.grants, info.ios, info.fences);
                return false;
            }
        }
        if (kvp_orders_out(pager) != 0) {
            snprintf(
                what, cap, "n%u has %u local orders out", n + 1,
                (unsigned)kvp_orders_out(pager));
            return false;
        }
    }
    return true;
}

static void check_given_back(kvs_world_t *world)
{
    char what[300] = "";
    uint64_t until = kvs_now(world) + SETTLE_US;
    while (kvs_now(world) < until) {
        if (all_given_back(world, what, sizeof(what))) {
            return;
        }
        if (!kvs_run(world, kvs_now(world) + 50000)) {
            return;
        }
    }
    kvs_fail(world, "I3", "%s", what);
}

/* One key asked for at one node. */
struct probe {
    bool answered;
    kv_status_t status;
};

static void
probe_answer(void *arg, struct kvs_client client, const struct kvo_answer *answer)
{
    struct probe *probe = arg;
    (void)client;
    probe->answered = true;
    probe->status = answer->status;
    if (answer->status == KV_OK && answer->statuses != NULL) {
        probe->status = answer->statuses[0];
    }
}

static bool probe_done(void *arg)
{
    return ((struct probe *)arg)->answered;
}

static kv_status_t probe_key(
    kvs_world_t *world, struct kvs_client client, struct probe *probe, uint16_t tenant,
    uint16_t variant, const struct kvs_page *page)
{
    struct kvo_request request = {
        .op = KVO_EXISTS,
        .deadline_us = PROBE_DEADLINE_US,
        .tenant = tenant,
        .variant = variant,
        .loose = page->kind == KVS_PAGE_OPAQUE,
        .first_page = page->page,
        .anchor = page->anchor,
        .keys = &page->key,
        .nr_keys = 1,
        .n_tokens = &page->n_tokens,
        .prev = page->prev,
    };
    probe->answered = false;
    if (kvs_submit(world, client, &request) != KV_OK) {
        return KV_ERR_LINK_LOST;
    }
    kvs_run_until(
        world, probe_done, probe, kvs_now(world) + 2 * (uint64_t)PROBE_DEADLINE_US);
    return probe->answered ? probe->status : KV_ERR_DEADLINE;
}

static bool still_listed(kvs_world_t *world, uint32_t node, const struct kvp_info *info)
{
    struct kvp_info now;
    kvp_pager_t *pager = kvo_pager(kvs_node(world, node));
    return kvp_info(pager, info->ref, &now) == KV_OK && now.state == KVP_SEALED
           && now.hold == info->hold;
}

/* (I14) A copy that a living node holds is found from another node. */
static void probe_frame(
    kvs_world_t *world, const struct kvs_population *population, uint32_t holder,
    const struct kvp_info *info, uint32_t asker, struct kvs_client client,
    struct probe *probe)
{
    struct kvs_page page;
    uint16_t tenant = kvp_tenant(kvo_pager(kvs_node(world, asker)), info->copy.tenant);
    if (tenant == UINT16_MAX
        || !kvs_population_find(
            population, info->copy.tenant - 100, &info->copy.key, &page)) {
        return;
    }
    kv_status_t status = KV_ERR_MISS;
    for (unsigned tries = 0; tries < PROBE_TRIES; tries++) {
        status = probe_key(world, client, probe, tenant, info->variant, &page);
        if (status == KV_OK || !still_listed(world, holder, info)) {
            return;
        }
        if (!kvs_run(world, kvs_now(world) + PROBE_GAP_US)) {
            return;
        }
    }
    kvs_fail(
        world, "I14", "n%u holds tenant %u page %u (%s) key %016llx, n%u is told %s",
        holder + 1, info->copy.tenant, page.page,
        page.kind == KVS_PAGE_TAIL   ? "tail"
        : page.kind == KVS_PAGE_FULL ? "full"
                                     : "loose",
        (unsigned long long)kv_key_word(&info->copy.key), asker + 1,
        kv_status_name(status));
}

static const struct kvs_client_ops probe_ops = {.answer = probe_answer};

static bool directory_full(kvs_world_t *world)
{
    for (uint32_t n = 0; n < kvs_config(world)->nr_nodes; n++) {
        struct kvc_dir_stats stats;
        kvc_dir_stats(kvo_directory(kvs_node(world, n)), &stats);
        if (stats.nr_entries == stats.entries_max
            || stats.nr_holdings == stats.holdings_max) {
            return true; /* some copies are rightly unlisted */
        }
    }
    return kvs_config(world)->core.directory.nr_entries < 100;
}

static void check_found(kvs_world_t *world)
{
    uint32_t nr = kvs_config(world)->nr_nodes;
    if (nr < 2 || directory_full(world)) {
        return;
    }
    static struct kvs_population population;
    kvs_population_make(&population, kvs_config(world)->page_tokens);
    for (uint32_t holder = 0; holder < nr; holder++) {
        uint32_t asker = (holder + 1) % nr;
        kvp_pager_t *pager = kvo_pager(kvs_node(world, holder));
        struct probe probe = {0};
        struct kvs_client client;
        if (kvs_attach(world, asker, UINT64_MAX, &probe_ops, &probe, &client)
            != KV_OK) {
            kvs_fail(world, "I14", "n%u takes no client", asker + 1);
            return;
        }
        for (uint32_t i = 0; i < kvp_nr_frames(pager); i++) {
            struct kvp_info info;
            kvp_frame_at(pager, i, &info);
            if (info.state == KVP_SEALED && info.hold != 0) {
                probe_frame(world, &population, holder, &info, asker, client, &probe);
            }
            if (kvs_failure(world)->invariant != NULL) {
                return;
            }
        }
        kvs_hang_up(world, client, 0);
        kvs_run(world, kvs_now(world) + 1000);
    }
}

static bool linked(void *arg)
{
    return kvs_linked(arg);
}

static bool chaos_done(void *arg)
{
    return kvs_chaos_done(arg);
}

/* Faults end, everybody goes, the cluster comes to rest. */
static void quiet(kvs_world_t *world, kvs_chaos_t *chaos)
{
    kvs_faults(world, 0);
    for (uint32_t n = 0; n < kvs_config(world)->nr_nodes; n++) {
        kvs_start(world, n);
    }
    /* Pauses end, what was asked is still answered; then all leave. */
    if (!kvs_run(world, kvs_now(world) + LAST_PAUSE_US)) {
        return;
    }
    kvs_chaos_leave(chaos);
    uint64_t until = kvs_now(world) + QUIET_US;
    if (!kvs_run_until(world, linked, world, until)) {
        kvs_fail(world, "I14", "30 s after the faults: not all links up and warm");
    }
    if (!kvs_run(world, until)) {
        return;
    }
    if (!kvs_linked(world)) {
        kvs_fail(world, "I14", "links do not stay up without faults");
    }
    check_given_back(world);
    check_found(world);
    check_given_back(world);
}

/* ------------------------------------------------------------------ one seed */

static void plant_set(enum kv_plant plant, bool on)
{
#ifdef KV_TEST_HOOKS
    if (plant != KV_NR_PLANTS) {
        kv_plant_set(plant, on);
    }
#else
    (void)plant;
    (void)on;
#endif
}

static void
collect(kvs_world_t *world, const kvs_chaos_t *chaos, struct kvs_result *result)
{
    static struct kvs_counts counts;
    kvs_counts(world, &counts);
    const struct kvs_chaos_counts *did = kvs_chaos_counts(chaos);
    const struct kvs_failure *failure = kvs_failure(world);
    result->hash = kvs_hash(world);
    result->virtual_us = kvs_now(world);
    result->operations = did->operations;
    result->pages_checked = did->pages_checked;
    result->hits = did->hits;
    result->misses = did->misses;
    result->stats = *kvs_stats(world);
    result->stats.faults[KVS_F_HANG_UP] = did->hung_up;
    result->stats.faults[KVS_F_TENANT] = did->denied;
    result->metrics = counts.metrics;
    memcpy(result->statuses, counts.metrics.statuses, sizeof(result->statuses));
    memcpy(result->reasons, counts.metrics.misses, sizeof(result->reasons));
    memcpy(result->answers, did->answers, sizeof(result->answers));
    memcpy(result->frame_edges, counts.pager.edges, sizeof(result->frame_edges));
    for (uint32_t i = 0; i < counts.nr_edges; i++) {
        result->edges[i] = counts.edges[i].count;
    }
    if (failure->invariant != NULL) {
        result->violated = true;
        snprintf(
            result->invariant, sizeof(result->invariant), "%s", failure->invariant);
        snprintf(result->what, sizeof(result->what), "%s", failure->what);
        result->at_us = failure->now_us;
    }
}

void kvs_run_seed(const struct kvs_run_config *config, struct kvs_result *result)
{
    struct kvs_config world_config;
    struct kvs_chaos_config chaos_config;
    kvs_world_t *world = NULL;
    struct kv_detail detail = {0};
    memset(result, 0, sizeof(*result));
    result->seed = config->seed;
    draw(config, &world_config, &chaos_config);
    focus(config->plant, config->seed, &world_config, &chaos_config);
    if (config->digest_off) {
        focus_bytes(config->plant, &world_config, &chaos_config);
    }
    plant_set(config->plant, !config->plant_off);
    kv_status_t status = kvs_world_create(&world_config, &world, &detail);
    if (status != KV_OK) {
        result->violated = true;
        snprintf(result->invariant, sizeof(result->invariant), "config");
        kv_detail_format(&detail, status, result->what, sizeof(result->what));
        return;
    }
    kvs_trace(world, config->trace);
    kvs_chaos_t *chaos = kvs_chaos_start(world, &chaos_config);
    kvs_run_until(world, chaos_done, chaos, CHAOS_US_MAX);
    if (kvs_failure(world)->invariant == NULL) {
        quiet(world, chaos);
    }
    collect(world, chaos, result);
    kvs_world_destroy(world);
    kvs_chaos_destroy(chaos);
    plant_set(config->plant, false);
}
