/* Nodes, their clocks and lives, the run loop and the trace. */
#include "node/sim/world_priv.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHECK_STEPS = 1000, /* events between two walks over everything */
    POISON = 0xdb,
};

static const char *const fault_names[] = {
#define X(symbol, name, text) name,
    KVS_FAULT_MAP(X)
#undef X
};

const char *kvs_fault_name(unsigned fault)
{
    return fault < KVS_NR_FAULTS ? fault_names[fault] : NULL;
}

/* ------------------------------------------------------------------ memory of nodes */

struct kvs_mem *kvs_mem_hold(struct kvs_mem *mem)
{
    mem->refs++;
    return mem;
}

void kvs_mem_drop(struct kvs_mem *mem)
{
    if (mem != NULL && --mem->refs == 0) {
        free(mem->base);
        free(mem);
    }
}

uint8_t *kvs_mem_frame(const struct kvs_mem *mem, uint32_t pool, uint32_t frame)
{
    return mem->base + mem->pool_at[pool] + (size_t)frame * mem->frame_bytes[pool];
}

static struct kvs_mem *mem_create(const struct kvp_config *pager)
{
    struct kvs_mem *mem = kvs_take(sizeof(*mem));
    mem->refs = 1;
    for (uint32_t i = 0; i < pager->nr_pools; i++) {
        mem->pool_at[i] = mem->bytes;
        mem->frame_bytes[i] = pager->pools[i].frame_bytes;
        mem->bytes += (size_t)pager->pools[i].frame_bytes * pager->pools[i].nr_frames;
    }
    mem->base = kvs_take(mem->bytes);
    memset(mem->base, POISON, mem->bytes);
    return mem;
}

/* ------------------------------------------------------------------ clocks */

static uint64_t on_clock(const struct kvs_node *node, uint64_t world_us)
{
    uint64_t ran_us = world_us - node->stopped_us;
    int64_t drift = (int64_t)(ran_us / 1000) * node->clock_ppm / 1000;
    return (uint64_t)((int64_t)(node->clock_base + ran_us) + drift);
}

uint64_t kvs_node_now(const kvs_world_t *world, uint32_t node)
{
    return on_clock(&world->nodes[node], world->now);
}

/* First world time at which the node's clock shows at least `node_us`. */
static uint64_t off_clock(const struct kvs_node *node, uint64_t now, uint64_t node_us)
{
    uint64_t shown = on_clock(node, now);
    while (shown < node_us) {
        uint64_t ahead = node_us - shown;
        /* A fast clock gets there up to 500 ppm sooner: never step past it. */
        uint64_t step = ahead - ahead / 1000;
        now += step > 0 ? step : 1;
        shown = on_clock(node, now);
    }
    return now;
}

uint64_t kvs_stretch(const kvs_world_t *world, uint32_t node, uint64_t us)
{
    const struct kvs_node *n = &world->nodes[node];
    return n->slow_until > world->now ? us * n->slow_times : us;
}

bool kvs_alive(const kvs_world_t *world, uint32_t node, uint64_t life)
{
    return world->nodes[node].core != NULL && world->nodes[node].life == life;
}

/* ------------------------------------------------------------ calls into nodes */

static void arm(kvs_world_t *world, uint32_t index)
{
    struct kvs_node *node = &world->nodes[index];
    uint64_t next = kvo_next_timer(node->core);
    if (next == UINT64_MAX) {
        return;
    }
    uint64_t at = off_clock(node, world->now, next);
    at = at > world->now ? at : world->now + 1;
    if (at < node->tick_at) {
        node->tick_at = at;
        kvs_push_to(world, at, KVS_EV_TICK, index, at, NULL);
    }
}

kvo_node_t *kvs_enter(kvs_world_t *world, uint32_t node)
{
    KV_ASSERT(!world->in_core);
    KV_ASSERT(world->nodes[node].core != NULL);
    world->in_core = true;
    world->stale = false;
    return world->nodes[node].core;
}

void kvs_leave(kvs_world_t *world, uint32_t node)
{
    world->in_core = false;
    arm(world, node);
    if (world->config.checks) {
        kvo_check_quick(world->nodes[node].core);
    }
}

static void node_said(void *arg, const char *line)
{
    struct kvs_port *port = arg;
    kvs_say(port->world, false, "n%u > %s", port->node + 1, line);
}

/* ------------------------------------------------------------------ lives of nodes */

static void fill_pools(const kvs_world_t *world, struct kvp_config *pager)
{
    const struct kvs_config *config = &world->config;
    uint32_t nr_domains = config->nr_apart + 1;
    pager->nr_pools = 0;
    for (uint32_t domain = 0; domain < nr_domains; domain++) {
        uint32_t frames[KVP_NR_TIERS] = {
            domain == 0 ? config->device_frames : config->apart_frames,
            domain == 0 ? config->host_frames : config->apart_frames,
        };
        if (config->host_frames == 0) {
            frames[KVP_HOST] = 0;
        }
        for (unsigned tier = 0; tier < KVP_NR_TIERS; tier++) {
            if (frames[tier] > 0) {
                pager->pools[pager->nr_pools++] = (struct kvp_pool_config){
                    .tier = (enum kvp_tier)tier,
                    .domain = domain,
                    .frame_bytes = config->page_bytes,
                    .nr_frames = frames[tier],
                };
            }
        }
    }
}

static void
fill_pager(const kvs_world_t *world, uint32_t index, struct kvp_config *pager)
{
    const struct kvs_config *config = &world->config;
    fill_pools(world, pager);
    pager->nr_tenants = 0;
    for (uint32_t t = 0; t < config->nr_tenants; t++) {
        if ((world->nodes[index].tenants >> t & 1) == 0) {
            continue;
        }
        uint32_t nr_common = config->nr_tenants - config->nr_apart;
        pager->tenants[pager->nr_tenants++] = (struct kvp_tenant_config){
            .id = 100 + t,
            .domain = t < nr_common ? 0 : t - nr_common + 1,
            .ceiling = {t == 0 ? config->ceiling : 0, 0},
        };
    }
    pager->nr_variants = config->nr_variants;
    for (uint32_t v = 0; v < config->nr_variants; v++) {
        pager->variants[v] = (struct kvp_variant_config){
            .layout = 7,
            .group = (uint16_t)v,
            .page_tokens = config->page_tokens,
            .page_bytes = config->page_bytes,
        };
    }
    if (pager->evict == NULL) {
        pager->evict = &kvp_evict_lru;
    }
}

static void
fill_transports(const kvs_world_t *world, uint32_t index, struct kvo_config *core)
{
    /* Mixed: every third node speaks naming alone, the others prefer reading one-sided,
     * so that both ways and both choices are seen. */
    bool named_only = world->config.mix == KVS_ALL_NAMED
                      || (world->config.mix == KVS_MIXED && index % 3 == 2);
    core->nr_transports = 0;
    if (!named_only) {
        struct kvo_transport *t = &core->transports[core->nr_transports++];
        *t = (struct kvo_transport){.kind = KVO_ONE_SIDED, .name = "verbs"};
        if (world->config.mix == KVS_DOMAINS) {
            snprintf(t->domain, sizeof(t->domain), "host%u", index % 2);
        }
    }
    if (world->config.mix != KVS_ALL_ONE_SIDED) {
        core->transports[core->nr_transports++] =
            (struct kvo_transport){.kind = KVO_NAMED, .name = "tcp"};
    }
    if (world->config.mix == KVS_DOMAINS && index % 4 == 2) {
        /* It reads its own host's nodes by name; they read it one-sidedly. */
        struct kvo_transport first = core->transports[0];
        core->transports[0] = core->transports[1];
        core->transports[1] = first;
    }
    core->named_pools = 0;
    for (uint32_t i = 0; i < core->pager.nr_pools; i++) {
        bool device = core->pager.pools[i].tier == KVP_DEVICE;
        core->named_pools |= (uint32_t)(world->config.named_device && device) << i;
    }
}

static kv_status_t
node_create(kvs_world_t *world, uint32_t index, struct kv_detail *detail)
{
    struct kvs_node *node = &world->nodes[index];
    struct kvo_config config = world->config.core;
    node->life++;
    KV_ASSERT(node->life < KVS_LIVES_MAX);
    uint64_t incarnation =
        kv_mix64(world->config.seed * KV_GOLDEN64 + index * 4096 + node->life) | 1;
    node->incarnations[node->life] = incarnation;
    config.node = index + 1;
    config.incarnation = incarnation;
    config.cluster = "sim";
    config.view = &world->view;
    config.seed = incarnation;
    fill_pager(world, index, &config.pager);
    config.pager.seed = incarnation;
    for (uint32_t t = 0; t < config.pager.nr_tenants; t++) {
        config.tenant_checks[t] = kv_mix64(config.pager.tenants[t].id);
    }
    fill_transports(world, index, &config);
    node->named_pools = config.named_pools;
    node->mem = mem_create(&config.pager);

    struct kvs_port *port = kvs_take(sizeof(*port));
    *port = (struct kvs_port){.world = world, .node = index};
    struct kvo_out out = {
        .arg = port,
        .dial = kvs_net_dial,
        .hang_up = kvs_net_hang_up,
        .send = kvs_net_send,
        .send_data = kvs_net_send_data,
        .order = kvs_fabric_order,
        .answer = kvs_client_answered,
        .switched = kvs_client_switched,
        .observe = kvs_check_observe,
        .random = kvs_net_random,
        .trace = node_said,
    };
    node->clock_base = UINT64_C(1000000) * (1 + (incarnation & 0xffff));
    int64_t before = kv_mem_live();
    kv_status_t status =
        kvo_create(&config, &out, kvs_node_now(world, index), &node->core, detail);
    if (status != KV_OK) {
        kvs_mem_drop(node->mem);
        node->mem = NULL;
        node->core = NULL;
        free(port);
        return status;
    }
    node->port = port;
    node->allocations = kv_mem_live() - before;
    node->nr_frames = kvp_nr_frames(kvo_pager(node->core));
    node->touched = kvs_take(node->nr_frames * sizeof(*node->touched));
    node->granted = kvs_take(node->nr_frames * sizeof(*node->granted));
    node->freed_gen = kvs_take(node->nr_frames * sizeof(*node->freed_gen));
    node->heard_life = kvs_take(world->config.nr_nodes * sizeof(*node->heard_life));
    node->tick_at = UINT64_MAX;
    node->in_turn = false;
    node->paused_until = 0;
    arm(world, index);
    return KV_OK;
}

/* Both are structs of uint64_t alone, filled by tables. */
static void add_words(void *to, const void *from, size_t bytes)
{
    uint64_t *sum = to;
    const uint64_t *add = from;
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++) {
        sum[i] += add[i];
    }
}

static void add_counts(struct kvs_counts *counts, kvo_node_t *core)
{
    add_words(&counts->metrics, kvo_metrics(core), sizeof(counts->metrics));
    add_words(&counts->pager, kvp_metrics(kvo_pager(core)), sizeof(counts->pager));
    struct kvo_edge edge;
    for (unsigned i = 0; i < KVS_EDGES_MAX && kvo_edge_at(core, i, &edge); i++) {
        edge.count += counts->edges[i].count;
        counts->edges[i] = edge;
        counts->nr_edges = i + 1 > counts->nr_edges ? i + 1 : counts->nr_edges;
    }
}

void kvs_counts(kvs_world_t *world, struct kvs_counts *counts)
{
    *counts = world->gone;
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        if (world->nodes[i].core != NULL) {
            add_counts(counts, world->nodes[i].core);
        }
    }
}

static void node_destroy(kvs_world_t *world, uint32_t index)
{
    struct kvs_node *node = &world->nodes[index];
    add_counts(&world->gone, node->core);
    kvo_destroy(node->core);
    node->core = NULL;
    free(node->port);
    free(node->touched);
    free(node->granted);
    free(node->freed_gen);
    free(node->heard_life);
    node->port = NULL;
    node->touched = NULL;
    node->granted = NULL;
    node->freed_gen = NULL;
    node->heard_life = NULL;
}

void kvs_kill(kvs_world_t *world, uint32_t index)
{
    struct kvs_node *node = &world->nodes[index];
    KV_ASSERT(!world->in_core);
    if (node->core == NULL) {
        return;
    }
    kvs_say(world, false, "n%u ! killed", index + 1);
    kvs_hash_word(world, UINT64_C(0xdead) << 32 | index);
    kvs_client_killed(world, index);
    kvs_check_killed(world, index);
    node_destroy(world, index);
    kvs_net_killed(world, index);
    kvs_fabric_killed(world, index);
    node->paused_until = 0;
    node->mem->dead = true;
    /* Pages of a dead process can be read for a while, then they are another's. The
     * event owns the node's hold. */
    struct kvs_mem **mem = kvs_take(sizeof(struct kvs_mem *));
    *mem = node->mem;
    node->mem = NULL;
    uint64_t until = world->now + kv_rng_below(&world->fabric_rng, 2000);
    kvs_push(world, until, KVS_EV_SCRIBBLE, index, 0, mem);
}

void kvs_start(kvs_world_t *world, uint32_t index)
{
    KV_ASSERT(!world->in_core);
    if (world->nodes[index].core != NULL) {
        return;
    }
    kvs_say(world, false, "n%u ! started", index + 1);
    struct kv_detail detail = {0};
    kv_status_t status = node_create(world, index, &detail);
    if (status != KV_OK) {
        kvs_fail(world, "start", "n%u: %s", index + 1, kv_status_name(status));
    }
}

void kvs_pause(kvs_world_t *world, uint32_t index, uint64_t for_us)
{
    struct kvs_node *node = &world->nodes[index];
    if (node->core == NULL || node->paused_until != 0) {
        return;
    }
    kvs_say(world, false, "n%u ! paused for %" PRIu64 " ms", index + 1, for_us / 1000);
    node->paused_at = world->now;
    node->paused_until = world->now + for_us;
    kvs_push(world, node->paused_until, KVS_EV_RESUME, index, node->life, NULL);
}

static void resume(kvs_world_t *world, uint32_t index)
{
    struct kvs_node *node = &world->nodes[index];
    kvs_say(world, false, "n%u ! goes on", index + 1);
    if (world->config.clock_stops) {
        node->stopped_us += world->now - node->paused_at;
    }
    node->paused_until = 0;
    node->resumed_at = world->now;
    kvo_tick(kvs_enter(world, index), kvs_node_now(world, index));
    kvs_leave(world, index);
}

/* ------------------------------------------------------------------ create, destroy */

void kvs_preset(struct kvs_config *config)
{
    *config = (struct kvs_config){
        .nr_nodes = 3,
        .seed = 1,
        .mix = KVS_ALL_NAMED,
        .page_bytes = 256,
        .page_tokens = 128,
        .device_frames = 64,
        .host_frames = 64,
        .nr_tenants = 1,
        .nr_variants = 1,
        .net_us = 1000,
        .fabric_us = 20,
        .fabric_bytes_us = 1000,
        .engine_us = 5,
        .fault_gap_us = 400000,
        .poison = true,
        .checks = true,
        .buffer_bytes = 64 * 1024,
        .core =
            {
                .pager =
                    {
                        .evict = &kvp_evict_lru,
                        .verify_local = KVP_VERIFY_SAMPLE,
                        .verify_sample = 16,
                        .nr_sequences = 64,
                        .nr_leaves = 128,
                        .nr_retired = 1024,
                        .free_target_divisor = 16,
                    },
                .liveness =
                    {
                        .heartbeat_us = 250000,
                        .suspect_us = 1000000,
                        .lost_us = 3000000,
                    },
                .directory =
                    {
                        .nr_entries = 2048,
                        .nr_holdings = 4096,
                        .cold_us = 10000000,
                    },
                .grant_us = 2000000,
                .call_us = 500000,
                .double_us = 50000,
                .read_us = 1000000,
                .revoke_us = 300000,
                .spill_us = 1000000,
                .redial_us = 100000,
                .spill = true,
                .nr_clients = 16,
                .nr_ops = 24,
                .nr_items = 128,
                .nr_calls = 128,
                .nr_reads = 256,
                .nr_grants = 128,
                .nr_spills = 32,
                .sync_items = 64,
                .tick_us = 20000,
            },
    };
}

static kv_status_t build_view(kvs_world_t *world, struct kv_detail *detail)
{
    struct kvc_member *members =
        kvs_take(world->config.nr_nodes * sizeof(struct kvc_member));
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        members[i] = (struct kvc_member){.id = i + 1, .weight = 1};
    }
    kv_status_t status =
        kvc_view_build(&world->view, 7, members, world->config.nr_nodes, detail);
    free(members);
    return status;
}

/* One generator a purpose, so that a change in how one is used moves no other. */
static void seed_generators(kvs_world_t *world)
{
    struct kv_rng rng = kv_rng_seed(world->config.seed);
    world->net_rng = kv_rng_seed(kv_rng_next(&rng));
    world->fabric_rng = kv_rng_seed(kv_rng_next(&rng));
    world->fault_rng = kv_rng_seed(kv_rng_next(&rng));
    world->clock_rng = kv_rng_seed(kv_rng_next(&rng));
    world->nonce_rng = kv_rng_seed(kv_rng_next(&rng));
    world->turn_rng = kv_rng_seed(kv_rng_next(&rng));
}

static void place_nodes(kvs_world_t *world)
{
    const struct kvs_config *config = &world->config;
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        struct kvs_node *node = &world->nodes[i];
        node->fabric_times = 1;
        node->tenants = (UINT64_C(1) << config->nr_tenants) - 1;
        /* The last node does not have the last tenant: what others hold of it is
         * nothing that this node may see. */
        if ((config->faults & KVS_FAULT_BIT(KVS_F_TENANT)) != 0
            && config->nr_tenants > 1 && i + 1 == config->nr_nodes && i > 0) {
            node->tenants >>= 1;
        }
        if ((config->faults & KVS_FAULT_BIT(KVS_F_CLOCK)) != 0) {
            node->clock_ppm = (int64_t)kv_rng_below(&world->clock_rng, 1001) - 500;
            world->stats.faults[KVS_F_CLOCK]++;
        }
    }
}

kv_status_t kvs_world_create(
    const struct kvs_config *config, kvs_world_t **world_p, struct kv_detail *detail)
{
    uint32_t nr = config->nr_nodes;
    if (nr == 0 || nr > KVS_NODES_MAX) {
        return kv_fail(detail, KV_ERR_CONFIG, "sim.nodes", KVS_NODES_MAX, nr);
    }
    kvs_world_t *world = kvs_take(sizeof(*world));
    world->config = *config;
    world->nodes = kvs_take(nr * sizeof(*world->nodes));
    world->cut_until = kvs_take((size_t)nr * nr * sizeof(uint64_t));
    world->links = kvs_take((size_t)nr * nr * sizeof(uint64_t));
    world->data_last = kvs_take((size_t)nr * nr * sizeof(uint32_t));
    if (nr <= KVS_REPLAY_NODES_MAX) {
        world->recorded = kvs_take(
            (size_t)nr * nr * KVS_RECORDED_MAX * sizeof(struct kvs_recorded_message));
        world->nr_recorded = kvs_take((size_t)nr * nr * sizeof(uint32_t));
    }
    world->wire = kvs_take(KV_MSG_BYTES_MAX);
    world->arena.base = aligned_alloc(64, KV_MSG_ARENA_BYTES);
    KV_ASSERT(world->arena.base != NULL);
    world->arena.size = KV_MSG_ARENA_BYTES;
    world->allocations_before = kv_mem_live();
    world->hash = kv_mix64(config->seed);
    seed_generators(world);
    place_nodes(world);
    kv_status_t status = build_view(world, detail);
    for (uint32_t i = 0; status == KV_OK && i < nr; i++) {
        status = node_create(world, i, detail);
    }
    if (status != KV_OK) {
        kvs_world_destroy(world);
        return status;
    }
    kvs_faults(world, config->faults);
    *world_p = world;
    return KV_OK;
}

static void free_recordings(kvs_world_t *world)
{
    size_t nr = world->config.nr_nodes;
    if (world->recorded != NULL) {
        for (size_t i = 0; i < nr * nr * KVS_RECORDED_MAX; i++) {
            free(world->recorded[i].bytes);
        }
    }
    free(world->recorded);
    free(world->nr_recorded);
    free(world->recording);
}

void kvs_world_destroy(kvs_world_t *world)
{
    if (world == NULL) {
        return;
    }
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        if (world->nodes[i].core != NULL) {
            node_destroy(world, i);
        }
        kvs_mem_drop(world->nodes[i].mem);
    }
    for (size_t i = 0; i < world->nr_events; i++) {
        if (world->heap[i].kind == KVS_EV_SCRIBBLE) {
            kvs_mem_drop(*(struct kvs_mem **)world->heap[i].p);
        }
        free(world->heap[i].p);
    }
    for (size_t i = 0; i < world->nr_ios; i++) {
        if (world->ios[i].used) {
            kvs_mem_drop(world->ios[i].from_mem);
            kvs_mem_drop(world->ios[i].to_mem);
            free(world->ios[i].bounce);
        }
    }
    for (size_t i = 0; i < world->nr_clients; i++) {
        kvs_mem_drop(world->clients[i].buffer);
        free(world->clients[i].busy);
    }
    for (size_t i = 0; i < world->nr_pending; i++) {
        free(world->pending[i].buffers);
    }
    free_recordings(world);
    free(world->heap);
    free(world->ios);
    free(world->free_ios);
    free(world->clients);
    free(world->pending);
    free(world->copies);
    free(world->conns);
    free(world->data_conns);
    free(world->cut_until);
    free(world->links);
    free(world->data_last);
    free(world->wire);
    free(world->arena.base);
    free(world->nodes);
    free(world);
}

/* ------------------------------------------------------------------ the run loop */

static void tick(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_node *node = &world->nodes[event->node];
    if (node->tick_at != event->id) {
        return; /* an earlier one came between, and armed again */
    }
    node->tick_at = UINT64_MAX;
    kvo_tick(kvs_enter(world, event->node), kvs_node_now(world, event->node));
    kvs_leave(world, event->node);
}

struct called {
    void (*fn)(void *arg, uint64_t value);
    void *arg;
};

static void scribble(struct kvs_event *event)
{
    struct kvs_mem *mem = *(struct kvs_mem **)event->p;
    memset(mem->base, POISON, mem->bytes);
    kvs_mem_drop(mem);
}

static void dispatch(kvs_world_t *world, struct kvs_event *event)
{
    switch ((enum kvs_event_kind)event->kind) {
    case KVS_EV_CALL: {
        struct called *called = event->p;
        called->fn(called->arg, event->id);
        break;
    }
    case KVS_EV_RESUME:
        if (kvs_alive(world, event->node, event->id)
            && world->nodes[event->node].paused_until == world->now) {
            resume(world, event->node);
        }
        break;
    case KVS_EV_START:
        kvs_start(world, event->node);
        break;
    case KVS_EV_SCRIBBLE:
        scribble(event);
        break;
    case KVS_EV_TICK:
        tick(world, event);
        break;
    case KVS_EV_FAULT:
        kvs_fault_event(world, event);
        break;
    case KVS_EV_DIAL:
    case KVS_EV_RESET:
    case KVS_EV_CONN_UP:
    case KVS_EV_CONN_DOWN:
    case KVS_EV_DIAL_FAILED:
    case KVS_EV_MESSAGE:
    case KVS_EV_READ_MESSAGE:
        kvs_net_event(world, event);
        break;
    case KVS_EV_IO:
    case KVS_EV_DATA:
    case KVS_EV_DONE:
    case KVS_EV_LOCAL_DONE:
    case KVS_EV_TURN:
    case KVS_EV_DATA_BROKEN:
        kvs_fabric_event(world, event);
        break;
    case KVS_EV_ANSWER:
    case KVS_EV_SWITCHED:
    case KVS_EV_LOST:
    case KVS_EV_SUBMIT:
    case KVS_EV_HUNG_UP:
    case KVS_EV_DEAD:
        kvs_client_event(world, event);
        break;
    case KVS_EV_TO_NODE:
    case KVS_NR_EVENTS:
        abort(); /* no such events */
    }
}

bool kvs_step(kvs_world_t *world)
{
    if (world->failure.invariant != NULL) {
        return false;
    }
    struct kvs_event event = kvs_pop(world);
    KV_ASSERT(event.at >= world->now);
    world->now = event.at;
    if (event.kind > KVS_EV_TO_NODE) {
        if (!kvs_alive(world, event.node, event.life)) {
            free(event.p);
            return true;
        }
        if (world->nodes[event.node].paused_until > world->now) {
            kvs_push_again(world, &event, world->nodes[event.node].paused_until);
            return true;
        }
        if (world->nodes[event.node].paused_until != 0) {
            resume(world, event.node); /* the process' own clock comes first */
        }
    }
    kvs_hash_word(world, event.at);
    kvs_hash_word(world, (uint64_t)event.kind << 32 | event.node);
    kvs_hash_word(world, event.id);
    dispatch(world, &event);
    free(event.p);
    world->steps++;
    world->stats.steps = world->steps;
    if (world->config.checks && world->steps % CHECK_STEPS == 0) {
        kvs_check_step(world);
    }
    return world->failure.invariant == NULL;
}

static void at_nothing(void *arg, uint64_t value)
{
    (void)arg;
    (void)value;
}

bool kvs_run(kvs_world_t *world, uint64_t until_us)
{
    while (world->nr_events > 0 && world->heap[0].at <= until_us) {
        if (!kvs_step(world)) {
            return false;
        }
    }
    if (world->failure.invariant == NULL && until_us > world->now) {
        world->now = until_us;
    }
    return world->failure.invariant == NULL;
}

bool kvs_run_until(
    kvs_world_t *world, bool (*done)(void *arg), void *arg, uint64_t until_us)
{
    if (done(arg)) {
        return true;
    }
    /* A world whose nodes are all down has no event of its own. */
    kvs_at(
        world, until_us > world->now ? until_us - world->now : 0, at_nothing, NULL, 0);
    while (world->nr_events > 0 && world->heap[0].at <= until_us) {
        if (!kvs_step(world)) {
            return false;
        }
        if (done(arg)) {
            return true;
        }
    }
    return false;
}

void kvs_at(
    kvs_world_t *world, uint64_t delay_us, void (*fn)(void *arg, uint64_t value),
    void *arg, uint64_t value)
{
    struct called *called = kvs_take(sizeof(*called));
    *called = (struct called){.fn = fn, .arg = arg};
    kvs_push(world, world->now + delay_us, KVS_EV_CALL, 0, value, called);
}

/* ------------------------------------------------------------------ faults */

bool kvs_roll(kvs_world_t *world, enum kvs_fault fault, uint64_t one_in)
{
    if ((world->faults & KVS_FAULT_BIT(fault)) == 0
        || !kv_rng_one_in(&world->fault_rng, one_in)) {
        return false;
    }
    world->stats.faults[fault]++;
    return true;
}

void kvs_slow_fabric(kvs_world_t *world, uint32_t node, uint32_t times)
{
    world->nodes[node].fabric_times = times;
    world->nodes[node].fabric_until = UINT64_MAX;
}

void kvs_faults(kvs_world_t *world, uint32_t faults)
{
    world->faults = faults & world->config.faults;
    world->fault_serial++;
    if (world->faults != 0) {
        kvs_fault_start(world);
        return;
    }
    size_t nr = world->config.nr_nodes;
    memset(world->cut_until, 0, nr * nr * sizeof(uint64_t));
    for (uint32_t i = 0; i < nr; i++) {
        struct kvs_node *node = &world->nodes[i];
        node->slow_until = 0;
        node->fabric_times = 1;
    }
}
