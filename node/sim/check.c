/* The checkers. Ids are those of the invariants in docs/protocol.md:
 *
 *   I1 bytes          a sealed copy holds what its key names    LISTED, chaos.c
 *   I2 visibility     nothing is read before it is sealed       every read
 *   I3 conservation   all is given back when clients have left  run.c
 *   I4 accounting     kvo_check_quick, kvo_check                every call, every walk
 *   I5 I7 reuse       no freed frame is touched, no landing into a frame that is not
 *                     there for it                              FREED, every piece
 *   I6 quota          used <= ceiling                           every walk
 *   I9 tenants        bytes only to those who have the tenant   SERVE, GRANT_GIVEN
 *   I10 incarnations  nothing of an ended link or life          ACCEPTED
 *   I11 answers       once, in time                             client.c
 *   I12 memory        none taken after start                    every walk
 *   I14 convergence   run.c
 *   L   last copy     no holder that was told HAVE is itself what another was told of
 */
#include "base/mem.h"
#include "node/sim/world_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    POISON = 0xdb,
    COPY_NODES_MAX = 16, /* a bit a node; larger worlds do without checker L */
};

struct kvs_copy_state {
    struct kv_copy copy;
    bool used;
    uint64_t holders;
    uint64_t gone; /* nodes that dropped it because of HAVE, until they list it again */
    /* Each node's last HAVE: when (a serial, 0 for never) and which node was to keep
     * it. */
    uint32_t told_at[COPY_NODES_MAX];
    uint32_t keeper[COPY_NODES_MAX];
    bool misled[COPY_NODES_MAX]; /* its keeper went, or had gone already */
};

/* ------------------------------------------------------------------ living copies */

static bool same_copy(const struct kv_copy *a, const struct kv_copy *b)
{
    return a->tenant == b->tenant && a->layout == b->layout && a->group == b->group
           && a->shard == b->shard && kv_key_equal(&a->key, &b->key);
}

static size_t copy_hash(const struct kv_copy *copy)
{
    uint64_t h = kv_key_word(&copy->key) ^ ((uint64_t)copy->tenant << 32 | copy->group);
    return (size_t)kv_mix64(h);
}

static struct kvs_copy_state *
copy_find(struct kvs_copy_state *table, size_t cap, const struct kv_copy *copy)
{
    size_t i = copy_hash(copy) & (cap - 1);
    while (table[i].used && !same_copy(&table[i].copy, copy)) {
        i = (i + 1) & (cap - 1);
    }
    return &table[i];
}

static struct kvs_copy_state *copy_of(kvs_world_t *world, const struct kv_copy *copy)
{
    if (2 * (world->nr_copies + 1) > world->copies_cap) {
        size_t cap = world->copies_cap > 0 ? 2 * world->copies_cap : 1024;
        struct kvs_copy_state *bigger = kvs_take(cap * sizeof(*bigger));
        for (size_t i = 0; i < world->copies_cap; i++) {
            if (world->copies[i].used) {
                *copy_find(bigger, cap, &world->copies[i].copy) = world->copies[i];
            }
        }
        free(world->copies);
        world->copies = bigger;
        world->copies_cap = cap;
    }
    struct kvs_copy_state *state = copy_find(world->copies, world->copies_cap, copy);
    if (!state->used) {
        *state = (struct kvs_copy_state){.copy = *copy, .used = true};
        world->nr_copies++;
    }
    return state;
}

static void copy_listed(kvs_world_t *world, uint32_t node, const struct kv_copy *copy)
{
    struct kvs_copy_state *state = copy_of(world, copy);
    uint64_t bit = UINT64_C(1) << node;
    state->holders |= bit;
    state->gone &= ~bit;
    state->told_at[node] = 0;
    state->misled[node] = false;
}

static void copy_removed(kvs_world_t *world, uint32_t node, const struct kv_copy *copy)
{
    copy_of(world, copy)->holders &= ~(UINT64_C(1) << node);
}

/* `asker` relies on a keeper that goes. With digests off this waits until the copy is
 * lost in fact: the asker has let go too, and nobody else has it. */
static void misled(
    kvs_world_t *world, struct kvs_copy_state *state, uint32_t asker, uint32_t keeper)
{
    uint64_t gone = UINT64_C(1) << asker | UINT64_C(1) << keeper;
    state->misled[asker] = true;
    if (world->config.digest_off
        && ((state->gone & gone) != gone || (state->holders & ~gone) != 0)) {
        return;
    }
    kvs_fail(
        world, "L",
        "tenant %u key %016llx: n%u was told that n%u keeps it, and n%u went",
        state->copy.tenant, (unsigned long long)kv_key_word(&state->copy.key),
        asker + 1, keeper + 1, keeper + 1);
}

/* A home tells `asker` that `keeper` keeps the copy. It must not be one that has itself
 * let go of it on a home's word. */
static void copy_told(
    kvs_world_t *world, uint32_t asker, uint32_t keeper, const struct kv_copy *copy)
{
    struct kvs_copy_state *state = copy_of(world, copy);
    state->told_at[asker] = ++world->told_serial;
    state->misled[asker] = false;
    state->keeper[asker] = keeper;
    if ((state->gone >> keeper & 1) != 0) {
        misled(world, state, asker, keeper);
    }
}

/* `node` acts on a HAVE: nobody may have been told since then that it keeps the
 * copy. */
static void copy_let_go(kvs_world_t *world, uint32_t node, const struct kv_copy *copy)
{
    struct kvs_copy_state *state = copy_of(world, copy);
    state->gone |= UINT64_C(1) << node;
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        if (i != node && state->told_at[i] > state->told_at[node]
            && state->keeper[i] == node) {
            misled(world, state, i, node);
        }
    }
    if (state->misled[node]) {
        misled(world, state, node, state->keeper[node]);
    }
}

void kvs_check_killed(kvs_world_t *world, uint32_t node)
{
    if (node >= COPY_NODES_MAX) {
        return;
    }
    uint64_t bit = UINT64_C(1) << node;
    for (size_t i = 0; i < world->copies_cap; i++) {
        struct kvs_copy_state *state = &world->copies[i];
        if (state->used && (state->holders & bit) != 0) {
            /* What dies with its node was not lost by anybody's word. */
            state->holders &= ~bit;
        }
        if (state->used) {
            state->gone &= ~bit;
            state->told_at[node] = 0;
            state->misled[node] = false;
        }
    }
}

/* ------------------------------------------------------------------ frames */

void kvs_check_touch(kvs_world_t *world, uint32_t index, struct kvp_ref ref, int by)
{
    struct kvs_node *node = &world->nodes[index];
    if (ref.frame == KVP_NO_FRAME || node->touched == NULL) {
        return;
    }
    KV_ASSERT(ref.frame < node->nr_frames);
    node->touched[ref.frame] = (uint16_t)(node->touched[ref.frame] + by);
}

static const char *order_name(enum kvo_order_kind kind)
{
    static const char *const names[] = {
        "a local order",
        "a client's copy in",
        "a client's copy out",
        "a read by name",
        "a read under a grant",
        "a serve",
        "a fence",
        "a fence",
    };
    return names[kind];
}

/* State of a frame as its node sees it; KVP_NR_STATES when its generation moved on. */
static unsigned state_of(kvs_world_t *world, uint32_t node, struct kvp_ref ref)
{
    struct kvp_info info;
    if (kvp_info(kvo_pager(world->nodes[node].core), ref, &info) != KV_OK) {
        return KVP_NR_STATES;
    }
    return info.state;
}

static const char *state_text(unsigned state)
{
    return state == KVP_NR_STATES ? "reused" : kvp_state_name(state);
}

void kvs_check_land(kvs_world_t *world, const struct kvs_io *io)
{
    if (!world->config.checks || !kvs_alive(world, io->node, io->life)) {
        return;
    }
    unsigned state = state_of(world, io->node, io->dst);
    bool good = state == KVP_QUARANTINE || state == KVP_ARRIVING;
    if (io->kind == KVO_ORDER_LOCAL || io->kind == KVO_ORDER_CLIENT_IN) {
        good = good || state == KVP_FILLING;
    }
    if (!good) {
        kvs_fail(
            world, "I7", "%s writes frame %u gen %llu of n%u, which is %s",
            order_name(io->kind), io->dst.frame, (unsigned long long)io->dst.gen,
            io->node + 1, state_text(state));
    }
}

void kvs_check_read(kvs_world_t *world, const struct kvs_io *io)
{
    bool far = io->kind == KVO_ORDER_READ_GRANT;
    uint32_t node = far ? io->peer : io->node;
    struct kvp_ref ref = far ? io->far : io->src;
    uint64_t life = far ? io->data_life : io->life;
    if (!world->config.checks || !kvs_alive(world, node, life)) {
        return;
    }
    unsigned state = state_of(world, node, ref);
    bool good = state == KVP_SEALED || state == KVP_LEAVING || state == KVP_QUARANTINE;
    if (io->kind == KVO_ORDER_LOCAL) { /* of a sequence's own page */
        good = good || state == KVP_FILLING || state == KVP_SEALING;
    }
    if (!good) {
        bool early = state == KVP_SEALING || state == KVP_FILLING;
        kvs_fail(
            world, early ? "I2" : "I5",
            "%s of n%u reads frame %u gen %llu of n%u, "
            "which is %s",
            order_name(io->kind), io->node + 1, ref.frame, (unsigned long long)ref.gen,
            node + 1, state_text(state));
    }
}

static void
check_tenant(kvs_world_t *world, uint32_t node, uint32_t peer, struct kvp_ref ref)
{
    struct kvp_info info;
    kvp_frame_at(kvo_pager(world->nodes[node].core), ref.frame, &info);
    uint32_t tenant = info.copy.tenant - 100;
    if (tenant < 64 && (world->nodes[peer].tenants >> tenant & 1) == 0) {
        kvs_fail(
            world, "I9", "n%u gives n%u a page of tenant %u, which it does not have",
            node + 1, peer + 1, info.copy.tenant);
    }
}

void kvs_check_serve(kvs_world_t *world, const struct kvs_io *io)
{
    if (!world->config.checks) {
        return;
    }
    if (world->stale) { /* (I10) */
        kvs_fail(
            world, "I10", "n%u serves a READ of n%u that names an ended link",
            io->node + 1, io->peer + 1);
        return;
    }
    check_tenant(world, io->node, io->peer, io->src); /* (I9) */
    kvs_check_read(world, io);
}

/* What a fabric cannot do, a right core does not ask for. */
void kvs_check_grant(
    kvs_world_t *world, uint32_t reader, uint32_t owner, const struct kv_grant *grant)
{
    if (world->config.mix == KVS_DOMAINS && reader % 2 != owner % 2) {
        kvs_fail(
            world, "P7", "n%u reads n%u one-sidedly: they are not on one host",
            reader + 1, owner + 1);
    } else if (
        grant->arena < KVP_POOLS_MAX
        && (world->nodes[owner].named_pools >> grant->arena & 1) != 0) {
        kvs_fail(
            world, "P7", "a grant of n%u names pool %u, which cannot be mapped",
            owner + 1, grant->arena);
    }
}

static void freed(kvs_world_t *world, uint32_t index, struct kvp_ref ref)
{
    struct kvs_node *node = &world->nodes[index];
    if (node->touched == NULL) {
        return; /* its first frames, while it is being made */
    }
    if (ref.gen < node->freed_gen[ref.frame]) { /* (8) of pager/frame.h */
        kvs_fail(
            world, "I5", "n%u frees frame %u gen %llu again: the name has two contents",
            index + 1, ref.frame, (unsigned long long)ref.gen);
        return;
    }
    node->freed_gen[ref.frame] = ref.gen + 1;
    if (node->touched[ref.frame] != 0 || node->granted[ref.frame] != 0) {
        kvs_fail(
            world, "I5", "n%u frees frame %u gen %llu with %u operations and %u grants",
            index + 1, ref.frame, (unsigned long long)ref.gen, node->touched[ref.frame],
            node->granted[ref.frame]);
        return;
    }
    if (world->config.poison) {
        struct kvp_info info;
        kvp_frame_at(kvo_pager(node->core), ref.frame, &info);
        memset(
            kvs_mem_frame(node->mem, info.pool, info.pool_frame), POISON,
            node->mem->frame_bytes[info.pool]);
    }
}

/* ------------------------------------------------------------------ what nodes show */

/* (I1) (I2) What others can find from now on is sealed and is what its key names. */
static void listed(kvs_world_t *world, uint32_t index, const struct kvo_observed *saw)
{
    struct kvs_node *node = &world->nodes[index];
    struct kvp_info info;
    if (kvp_info(kvo_pager(node->core), saw->frame, &info) != KV_OK) {
        return; /* it came and went within one step */
    }
    if (info.state == KVP_FILLING || info.state == KVP_ARRIVING) {
        kvs_fail(
            world, "I2", "n%u lists frame %u, which is %s", index + 1, saw->frame.frame,
            kvp_state_name(info.state));
        return;
    }
    if (world->config.digest_off) {
        return; /* not before somebody reads them */
    }
    const uint8_t *bytes = kvs_mem_frame(node->mem, info.pool, info.pool_frame);
    if (!kvs_content_ok(
            bytes, info.len, saw->copy->tenant, &saw->copy->key, saw->copy->group)) {
        kvs_fail(
            world, "I1",
            "n%u lists frame %u gen %llu with other bytes than key %016llx "
            "of tenant %u names",
            index + 1, saw->frame.frame, (unsigned long long)saw->frame.gen,
            (unsigned long long)kv_key_word(&saw->copy->key), saw->copy->tenant);
    }
}

/* (I10) */
static void accepted(kvs_world_t *world, uint32_t index, const struct kvo_observed *saw)
{
    struct kvs_node *node = &world->nodes[index];
    const struct kvs_node *peer = &world->nodes[saw->peer];
    if (world->stale) {
        kvs_fail(
            world, "I10", "n%u acts on a message of n%u that names an ended link",
            index + 1, saw->peer + 1);
        return;
    }
    uint64_t life = peer->life;
    while (life > 0 && peer->incarnations[life] != saw->value) {
        life--;
    }
    if (life == 0 || life < node->heard_life[saw->peer]) {
        kvs_fail(
            world, "I10", "n%u acts on life %llu of n%u after life %llu", index + 1,
            (unsigned long long)life, saw->peer + 1,
            (unsigned long long)node->heard_life[saw->peer]);
        return;
    }
    node->heard_life[saw->peer] = life;
}

/* (I9) */
static void granted(kvs_world_t *world, uint32_t index, const struct kvo_observed *saw)
{
    struct kvs_node *node = &world->nodes[index];
    node->granted[saw->frame.frame]++;
    check_tenant(world, index, saw->peer, saw->frame);
}

static void
observe_large(kvs_world_t *world, uint32_t index, const struct kvo_observed *saw)
{
    size_t nr = world->config.nr_nodes;
    if (saw->event == KVO_SAW_LINK_UP) {
        world->links[index * nr + saw->peer] = saw->value;
        kvs_fault_linked(world, index, saw->peer);
    } else if (saw->event == KVO_SAW_LINK_END) {
        world->links[index * nr + saw->peer] = 0;
    }
}

static void say(kvs_world_t *world, uint32_t index, const struct kvo_observed *saw)
{
    static const char *const names[] = {
        "listed",  "unlisted", "freed",       "tells HAVE",  "drops, told HAVE",
        "link up", "link end", "grant given", "grant ended", "accepted",
    };
    if (world->trace == NULL || saw->event == KVO_SAW_ACCEPTED) {
        return;
    }
    unsigned long long key = saw->copy != NULL ? kv_key_word(&saw->copy->key) : 0;
    kvs_say(
        world, true, "n%u . %s key %016llx frame %d gen %llu", index + 1,
        names[saw->event], key, (int)saw->frame.frame,
        (unsigned long long)saw->frame.gen);
}

void kvs_check_observe(void *arg, const struct kvo_observed *saw)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    uint32_t index = port->node;
    kvs_hash_word(world, (uint64_t)saw->event << 32 | index);
    observe_large(world, index, saw);
    say(world, index, saw);
    if (!world->config.checks || world->config.nr_nodes > COPY_NODES_MAX) {
        return;
    }
    switch (saw->event) {
    case KVO_SAW_LISTED:
        listed(world, index, saw);
        copy_listed(world, index, saw->copy);
        break;
    case KVO_SAW_UNLISTED:
        copy_removed(world, index, saw->copy);
        break;
    case KVO_SAW_HAVE_TOLD:
        copy_told(world, saw->peer, (uint32_t)saw->value, saw->copy);
        break;
    case KVO_SAW_HAVE_DROP:
        copy_let_go(world, index, saw->copy);
        break;
    case KVO_SAW_FREED:
        freed(world, index, saw->frame);
        break;
    case KVO_SAW_GRANT_GIVEN:
        granted(world, index, saw);
        break;
    case KVO_SAW_GRANT_ENDED:
        world->nodes[index].granted[saw->frame.frame]--;
        break;
    case KVO_SAW_ACCEPTED:
        accepted(world, index, saw);
        break;
    case KVO_SAW_LINK_UP:
    case KVO_SAW_LINK_END:
        break;
    }
}

/* ------------------------------------------------------------------ walks */

static void check_quotas(kvs_world_t *world, uint32_t index)
{
    if (world->config.ceiling == 0) {
        return;
    }
    kvp_pager_t *pager = kvo_pager(world->nodes[index].core);
    uint16_t tenant = kvp_tenant(pager, 100);
    if (tenant != UINT16_MAX
        && kvp_used(pager, tenant, KVP_DEVICE) > world->config.ceiling) {
        kvs_fail(
            world, "I6", "n%u: tenant 100 uses %u frames, its ceiling is %u", index + 1,
            kvp_used(pager, tenant, KVP_DEVICE), world->config.ceiling);
    }
}

void kvs_check_step(kvs_world_t *world)
{
    int64_t allocations = 0;
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        if (world->nodes[i].core == NULL) {
            continue;
        }
        kvo_check(world->nodes[i].core);
        check_quotas(world, i);
        allocations += world->nodes[i].allocations;
    }
    if (kv_mem_live() - world->allocations_before != allocations) {
        kvs_fail(
            world, "I12", "%lld allocations are alive, %lld were taken at start",
            (long long)(kv_mem_live() - world->allocations_before),
            (long long)allocations);
    }
    kvs_client_overdue(world);
}
