/* What goes wrong by itself: faults of whole nodes and links at random times, and peers
 * that say what they should not. Faults of single messages and operations are rolled
 * where those are made (net.c, fabric.c), those of clients in chaos.c.
 */
#include "node/sim/world_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    HOSTILE_ITEMS = 4,
    REPLAYS = 8, /* of a new link, in its first REPLAY_US */
    REPLAY_US = 1000000,
};

static uint64_t below(kvs_world_t *world, uint64_t bound)
{
    return kv_rng_below(&world->fault_rng, bound);
}

static void next_fault(kvs_world_t *world)
{
    uint64_t gap = world->config.fault_gap_us / 2 + 1;
    gap += below(world, world->config.fault_gap_us + 1);
    kvs_push(world, world->now + gap, KVS_EV_FAULT, 0, world->fault_serial, NULL);
}

void kvs_fault_start(kvs_world_t *world)
{
    if (world->config.fault_gap_us > 0) {
        next_fault(world);
    }
}

static uint32_t any_node(kvs_world_t *world)
{
    return (uint32_t)below(world, world->config.nr_nodes);
}

/* A second node; equal to the first in a world of one. */
static uint32_t other_node(kvs_world_t *world, uint32_t node)
{
    uint32_t nr = world->config.nr_nodes;
    return nr == 1 ? node : (node + 1 + (uint32_t)below(world, nr - 1)) % nr;
}

/* Mostly short, sometimes past every timer. */
static uint64_t some_time(kvs_world_t *world)
{
    static const uint64_t longest[] = {200000, 800000, 1500000, 4000000, 10000000};
    return 50000 + below(world, longest[below(world, 5)]);
}

/* ------------------------------------------------------------------ hostile peers */

static kv_key_t random_key(kvs_world_t *world)
{
    kv_key_t key;
    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        key.b[i] = (uint8_t)below(world, 256);
    }
    return key;
}

static struct kv_copy strange_copy(kvs_world_t *world)
{
    static const uint32_t tenants[] = {100, 101, 9999, 0};
    return (struct kv_copy){
        .tenant = tenants[below(world, 4)],
        .layout = below(world, 4) == 0 ? 8 : 7,
        .group = (uint16_t)below(world, 3),
        .shard = (uint16_t)(below(world, 8) == 0),
        .key = random_key(world),
    };
}

/* Something listed by somebody, so that a lie may matter. */
static struct kv_copy known_copy(kvs_world_t *world)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        uint32_t index = any_node(world);
        kvo_node_t *core = world->nodes[index].core;
        if (core == NULL) {
            continue;
        }
        struct kvp_info info;
        uint32_t nr = kvp_nr_frames(kvo_pager(core));
        kvp_frame_at(kvo_pager(core), (uint32_t)below(world, nr), &info);
        if (info.state == KVP_SEALED && info.hold != 0) {
            return info.copy;
        }
    }
    return strange_copy(world);
}

static struct kv_copy some_copy(kvs_world_t *world)
{
    return below(world, 2) == 0 ? known_copy(world) : strange_copy(world);
}

/* Arrays that one hostile message points at. */
struct hostile {
    struct kv_msg msg;
    struct kv_msg_entry entries[HOSTILE_ITEMS];
    struct kv_msg_gone gone[HOSTILE_ITEMS];
    struct kv_msg_offer offers[HOSTILE_ITEMS];
    struct kv_msg_spilled spilled[HOSTILE_ITEMS];
    struct kv_copy copies[HOSTILE_ITEMS];
    struct kv_msg_granted_item granted[HOSTILE_ITEMS];
    struct kv_msg_run runs[HOSTILE_ITEMS];
    struct kv_msg_segment seg;
    struct kv_msg_want want;
    kv_key_t keys[HOSTILE_ITEMS];
    uint32_t holders[HOSTILE_ITEMS];
    uint64_t ids[HOSTILE_ITEMS];
    struct kv_msg_released released[HOSTILE_ITEMS];
    int32_t statuses[HOSTILE_ITEMS];
};

static void fill_hostile(kvs_world_t *world, struct hostile *h)
{
    for (unsigned i = 0; i < HOSTILE_ITEMS; i++) {
        struct kv_copy copy = some_copy(world);
        h->entries[i] = (struct kv_msg_entry){
            .copy = copy,
            .segment = copy.key,
            .index = (uint32_t)below(world, 20),
            .n_tokens = 1 + (uint32_t)below(world, 300),
            .tier = (uint32_t)below(world, 2),
            .frame = (uint32_t)below(world, 100),
            .gen = 1 + below(world, 1000000),
        };
        h->gone[i] =
            (struct kv_msg_gone){.copy = copy, .frame = 0, .gen = 1 + below(world, 64)};
        h->offers[i] = (struct kv_msg_offer){
            .copy = copy,
            .segment = copy.key,
            .n_tokens = 1 + (uint32_t)below(world, 300),
            .len = (uint32_t)below(world, 1 << 20),
            .digest = below(world, UINT64_MAX),
            .age_us = below(world, 1000000),
        };
        h->spilled[i] = (struct kv_msg_spilled){
            .copy = strange_copy(world), .status = (int32_t)below(world, 3) - 1};
        h->copies[i] = copy;
        h->keys[i] = copy.key;
        h->ids[i] = UINT64_MAX - below(world, 1000);
        h->released[i] = (struct kv_msg_released){.id = h->ids[i], .read = i % 2 == 0};
        h->statuses[i] = (int32_t)below(world, 100) - 60;
        h->holders[i] = (uint32_t)below(world, 6);
        h->runs[i] = (struct kv_msg_run){
            .seg = (uint32_t)below(world, 3),
            .n = 1 + (uint32_t)below(world, 5),
            .holders = h->holders,
            .nr_holders = 1 + (uint32_t)below(world, HOSTILE_ITEMS),
        };
    }
    h->want = (struct kv_msg_want){.layout = 7};
    h->seg = (struct kv_msg_segment){
        .segment = h->keys[0],
        .index = (uint32_t)below(world, 40),
        .keys = h->keys,
        .nr_keys = HOSTILE_ITEMS,
    };
}

static void shape_directory(kvs_world_t *world, struct hostile *h, uint32_t which)
{
    struct kv_msg *msg = &h->msg;
    msg->epoch = world->view.epoch + below(world, 3) - 1;
    switch (which) {
    case 0:
        msg->type = KV_MSG_PUBLISH;
        msg->u.publish =
            (struct kv_msg_publish){below(world, 300), h->entries, HOSTILE_ITEMS};
        break;
    case 1:
        msg->type = KV_MSG_WITHDRAW;
        msg->u.withdraw =
            (struct kv_msg_withdraw){below(world, 300), h->gone, HOSTILE_ITEMS};
        break;
    case 2:
        msg->type = KV_MSG_LOOKUP;
        msg->u.lookup = (struct kv_msg_lookup){
            .tenant = 99 + (uint32_t)below(world, 5),
            .grants_max = (uint32_t)below(world, KV_MSG_GRANTS_MAX),
            .wants = &h->want,
            .nr_wants = 1,
            .segs = &h->seg,
            .nr_segs = 1,
            .tails = below(world, 2) == 0,
        };
        break;
    case 3:
        msg->type = KV_MSG_SYNC_BEGIN;
        msg->u.sync_begin.pos = below(world, 300);
        break;
    case 4:
        msg->type = KV_MSG_SYNC_END;
        msg->u.sync_end = (struct kv_msg_sync_end){below(world, 300), 17};
        break;
    case 5:
        msg->type = KV_MSG_SYNC_WANT;
        msg->u.sync_want.pos = below(world, 300);
        break;
    case 6:
        msg->type = KV_MSG_PUBLISHED;
        msg->u.published =
            (struct kv_msg_published){below(world, 300), h->statuses, HOSTILE_ITEMS};
        break;
    default:
        msg->type = KV_MSG_FOUND;
        msg->u.found = (struct kv_msg_found){.runs = h->runs, .nr_runs = HOSTILE_ITEMS};
        break;
    }
}

static void shape_other(kvs_world_t *world, struct hostile *h, uint32_t which)
{
    struct kv_msg *msg = &h->msg;
    switch (which) {
    case 0:
        msg->type = KV_MSG_GRANT;
        msg->u.grant = (struct kv_msg_grant){
            (uint32_t)below(world, 3), UINT32_MAX, h->copies, HOSTILE_ITEMS};
        break;
    case 1:
        msg->type = KV_MSG_GRANTED;
        msg->u.granted = (struct kv_msg_granted){h->granted, HOSTILE_ITEMS};
        break;
    /* Ids that were never given: a peer that gives back what it still reads hurts
     * itself alone, but no checker could tell that from a bug of ours. */
    case 2:
        msg->type = KV_MSG_RELEASE;
        msg->u.release = (struct kv_msg_release){h->released, HOSTILE_ITEMS};
        break;
    case 3:
        msg->type = KV_MSG_REVOKE;
        msg->u.revoke = (struct kv_msg_ids){h->ids, HOSTILE_ITEMS};
        break;
    case 4:
        msg->type = KV_MSG_REVOKED;
        msg->u.revoked = (struct kv_msg_ids){h->ids, HOSTILE_ITEMS};
        break;
    case 5:
        msg->type = KV_MSG_SPILL_OFFER;
        msg->epoch = world->view.epoch + below(world, 3) - 1;
        msg->u.spill_offer = (struct kv_msg_spill_offer){
            .stream_pos = below(world, 500),
            .items = h->offers,
            .nr_items = HOSTILE_ITEMS};
        break;
    case 6:
        msg->type = KV_MSG_SPILL_ANSWER;
        msg->u.spill_answer = (struct kv_msg_spill_answer){
            .statuses = h->statuses, .nr_statuses = HOSTILE_ITEMS};
        break;
    case 7:
        msg->type = KV_MSG_SPILL_DONE;
        msg->u.spill_done = (struct kv_msg_spill_done){h->spilled, HOSTILE_ITEMS};
        break;
    case 8:
        msg->type = KV_MSG_PING;
        msg->u.ping = (struct kv_msg_ping){.seq = 1, .stream_pos = below(world, 500)};
        break;
    case 9:
        msg->type = KV_MSG_PONG;
        msg->u.pong = (struct kv_msg_pong){.seq = UINT64_MAX};
        break;
    case 10:
        msg->type = KV_MSG_STATUS;
        msg->u.status.status = (int32_t)below(world, 200) - 100;
        break;
    default:
        msg->type = KV_MSG_DATA_OPEN; /* has no business on a control connection */
        msg->u.data_open.data_gen = 1;
        break;
    }
}

static bool hostile(kvs_world_t *world, uint32_t from, uint32_t to)
{
    uint64_t link = world->links[(size_t)to * world->config.nr_nodes + from];
    if (link == 0 || world->nodes[from].core == NULL) {
        return false;
    }
    struct hostile *h = kvs_take(sizeof(*h));
    fill_hostile(world, h);
    h->msg.proto = KV_PROTO_MAX;
    h->msg.link = below(world, 10) == 0 ? below(world, UINT64_MAX) : link;
    h->msg.req = below(world, 3) == 0 ? below(world, 100000) : UINT64_MAX;
    h->msg.deadline_left_us = (uint32_t)below(world, 1000000);
    uint32_t which = (uint32_t)below(world, 20);
    if (which < 8) {
        shape_directory(world, h, which);
    } else {
        shape_other(world, h, which - 8);
    }
    if (world->trace != NULL) {
        char line[300];
        kv_msg_format(&h->msg, line, sizeof(line));
        kvs_say(world, true, "n%u > n%u forged %s", from + 1, to + 1, line);
    }
    size_t len = 0;
    struct kv_detail detail;
    kv_status_t status =
        kv_encode(&h->msg, world->wire, KV_MSG_BYTES_MAX, &len, &detail);
    bool sent =
        status == KV_OK && kvs_net_inject(world, from, to, world->wire, (uint32_t)len);
    free(h);
    return sent;
}

/* Something that was sent on an earlier link, on the connection of today. */
static bool replay_one(
    kvs_world_t *world, uint32_t from, uint32_t to,
    const struct kvs_recorded_message *old)
{
    struct kv_msg msg;
    struct kv_detail detail;
    world->arena.used = 0;
    if (old->bytes == NULL
        || kv_decode(old->bytes, old->len, &world->arena, &msg, &detail) != KV_OK) {
        return false;
    }
    /* What authenticates a link cannot be replayed: TLS sees to that. And on its own
     * link an old RELEASE would give back what is read now; see hostile(). */
    uint64_t link = world->links[(size_t)to * world->config.nr_nodes + from];
    if (msg.type == KV_MSG_HELLO || msg.type == KV_MSG_HELLO_OK || msg.link == link) {
        return false;
    }
    if (!old->data) {
        return kvs_net_inject(world, from, to, old->bytes, old->len);
    }
    return kvs_net_inject_data(world, from, to, old->bytes, old->len);
}

/* One of the recorded messages, or all that are kept, as when a whole buffer of an old
 * connection ends up on the new one. */
static bool replay(kvs_world_t *world, uint32_t from, uint32_t to)
{
    size_t pair = (size_t)from * world->config.nr_nodes + to;
    if (world->recorded == NULL || world->nr_recorded[pair] == 0) {
        return false;
    }
    uint32_t nr = world->nr_recorded[pair];
    nr = nr < KVS_RECORDED_MAX ? nr : KVS_RECORDED_MAX;
    const struct kvs_recorded_message *old = &world->recorded[pair * KVS_RECORDED_MAX];
    if (!world->config.replay_all) {
        return replay_one(world, from, to, &old[below(world, nr)]);
    }
    bool any = false;
    for (uint32_t i = 0; i < nr; i++) {
        any = replay_one(world, from, to, &old[i]) || any;
    }
    return any;
}

static void replay_event(void *arg, uint64_t pair)
{
    kvs_world_t *world = arg;
    uint32_t nr = world->config.nr_nodes;
    if ((world->faults & KVS_FAULT_BIT(KVS_F_REPLAY)) != 0
        && replay(world, (uint32_t)pair / nr, (uint32_t)pair % nr)) {
        world->stats.faults[KVS_F_REPLAY]++;
    }
}

void kvs_fault_linked(kvs_world_t *world, uint32_t node, uint32_t peer)
{
    if (!world->config.replay_all) {
        return;
    }
    uint64_t pair = (uint64_t)peer * world->config.nr_nodes + node;
    for (unsigned i = 0; i < REPLAYS; i++) {
        kvs_at(world, below(world, REPLAY_US), replay_event, world, pair);
    }
}

/* ------------------------------------------------------------------ whole nodes */

static uint32_t any_mortal(kvs_world_t *world)
{
    const struct kvs_config *config = &world->config;
    if (config->nr_killed == 0) {
        return any_node(world);
    }
    uint32_t nth = (uint32_t)below(world, config->nr_killed);
    return (config->first_killed + nth) % config->nr_nodes;
}

static bool kill_node(kvs_world_t *world)
{
    uint32_t node = any_mortal(world);
    uint32_t alive = 0;
    for (uint32_t i = 0; i < world->config.nr_nodes; i++) {
        alive += world->nodes[i].core != NULL;
    }
    if (world->nodes[node].core == NULL || alive < 2
        || world->nodes[node].life + 2 >= KVS_LIVES_MAX) {
        return false;
    }
    kvs_kill(world, node);
    kvs_push(world, world->now + some_time(world), KVS_EV_START, node, 0, NULL);
    return true;
}

static bool data_break(kvs_world_t *world)
{
    uint32_t reader = any_node(world), owner = other_node(world, reader);
    uint32_t last = world->data_last[(size_t)reader * world->config.nr_nodes + owner];
    if (last == 0 || world->data_conns[last - 1].closed) {
        return false;
    }
    kvs_fabric_break(world, &world->data_conns[last - 1]);
    return true;
}

static bool rest_flip(kvs_world_t *world)
{
    uint32_t index = any_node(world);
    struct kvs_node *node = &world->nodes[index];
    if (node->core == NULL) {
        return false;
    }
    struct kvp_info info;
    uint32_t frame = (uint32_t)below(world, node->nr_frames);
    kvp_frame_at(kvo_pager(node->core), frame, &info);
    /* Only what rests: a reader that has been given the page was given it whole. */
    if (info.state != KVP_SEALED || info.hold == 0 || info.refs != 0 || info.ios != 0
        || node->touched[frame] != 0) {
        return false;
    }
    uint64_t bit = below(world, (uint64_t)info.len * 8);
    uint8_t *bytes = kvs_mem_frame(node->mem, info.pool, info.pool_frame);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    return true;
}

static bool happen(kvs_world_t *world, enum kvs_fault fault)
{
    uint32_t a = any_node(world), b = other_node(world, a);
    switch (fault) {
    case KVS_F_BREAK:
        kvs_break(world, a, b);
        return true;
    case KVS_F_PARTITION:
        kvs_cut(world, a, b, true, some_time(world));
        return true;
    case KVS_F_ONE_WAY:
        kvs_cut(world, a, b, false, some_time(world));
        return true;
    case KVS_F_KILL:
        return kill_node(world);
    case KVS_F_PAUSE:
        kvs_pause(world, a, some_time(world));
        return true;
    case KVS_F_SLOW_NODE:
        world->nodes[a].slow_times = 20;
        world->nodes[a].slow_until = world->now + some_time(world);
        return true;
    case KVS_F_SLOW_FABRIC:
        world->nodes[a].fabric_times = 50;
        world->nodes[a].fabric_until = world->now + some_time(world);
        return true;
    case KVS_F_DATA_BREAK:
        return data_break(world);
    case KVS_F_HOSTILE:
        return hostile(world, a, b);
    case KVS_F_REPLAY:
        return replay(world, a, b);
    case KVS_F_REST_FLIP:
        return rest_flip(world);
    default:
        return false; /* rolled elsewhere */
    }
}

void kvs_fault_event(kvs_world_t *world, struct kvs_event *event)
{
    if (event->id != world->fault_serial || world->faults == 0) {
        return;
    }
    next_fault(world);
    static const enum kvs_fault timed[] = {
        KVS_F_BREAK,   KVS_F_PARTITION, KVS_F_ONE_WAY,     KVS_F_KILL,
        KVS_F_PAUSE,   KVS_F_SLOW_NODE, KVS_F_SLOW_FABRIC, KVS_F_DATA_BREAK,
        KVS_F_HOSTILE, KVS_F_REPLAY,    KVS_F_REST_FLIP,   KVS_F_HOSTILE,
        KVS_F_REPLAY,  KVS_F_HOSTILE,   KVS_F_REPLAY,
    };
    for (unsigned tries = 0; tries < 4; tries++) {
        enum kvs_fault fault = timed[below(world, KV_COUNT_OF(timed))];
        if ((world->faults & KVS_FAULT_BIT(fault)) != 0 && happen(world, fault)) {
            world->stats.faults[fault]++;
            return;
        }
    }
}
