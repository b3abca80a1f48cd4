/* Orders: bytes that move piece by piece over virtual time (fence.c ends it).
 *
 *   order ──► kvs_io ── KVS_EV_IO at `moments` times ──► pieces of 64 bytes ──► done
 *
 * Which piece moves at which moment is random, so a frame that changes meanwhile
 * gives a mix of old and new, as a fabric would. Naming: SERVE copies out at its
 * moments, DATA travels, READ_NAMED lands at its own. Under a grant the pieces go
 * from the owner's memory to the reader's without either process, paused or dead.
 *
 * An operation counts as touching its frames (check.c) until its completion reaches the
 * node or a fence has ended it: what a node cannot know yet, it may not rely on.
 */
#include "base/digest.h"
#include "node/sim/world_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOMENTS_MAX = 4,
    RETRY_US = 500000, /* a one-sided read survives a cut as short as this */
    LATE_LOCAL_US = 50000,
    /* One operation in so many meets each fault. */
    ONE_IN_LOST = 150,
    ONE_IN_LATE = 60,
    ONE_IN_DOUBLE = 60,
    ONE_IN_FLIP = 60,
    ONE_IN_ERROR = 100,
    ONE_IN_IO = 200,
    ONE_IN_CRAWL = 40, /* SLOW_FABRIC: this one takes longer than any timer */
    ONE_IN_LOSS = 300,
};

uint64_t kvs_io_handle(const kvs_world_t *world, const struct kvs_io *io)
{
    return (uint64_t)io->gen << 32 | (uint64_t)(io - world->ios);
}

static struct kvs_io *io_of(kvs_world_t *world, uint64_t handle)
{
    struct kvs_io *io = &world->ios[(uint32_t)handle];
    return io->used && io->gen == handle >> 32 ? io : NULL;
}

static struct kvs_io *io_take(kvs_world_t *world)
{
    size_t slot;
    if (world->nr_free_ios > 0) {
        slot = world->free_ios[--world->nr_free_ios];
    } else {
        size_t before = world->ios_cap;
        world->ios =
            kvs_grow(world->ios, world->nr_ios, &world->ios_cap, sizeof(*world->ios));
        if (world->ios_cap != before) {
            world->free_ios =
                realloc(world->free_ios, world->ios_cap * sizeof(*world->free_ios));
            KV_ASSERT(world->free_ios != NULL);
        }
        slot = world->nr_ios++;
        world->ios[slot].gen = 0;
    }
    struct kvs_io *io = &world->ios[slot];
    uint32_t gen = io->gen + 1;
    *io = (struct kvs_io){
        .gen = gen,
        .used = true,
        .src = {KVP_NO_FRAME, 0},
        .dst = {KVP_NO_FRAME, 0},
        .far = {KVP_NO_FRAME, 0},
    };
    return io;
}

/* It touches nothing from here on. */
void kvs_io_give(kvs_world_t *world, struct kvs_io *io)
{
    if (kvs_alive(world, io->node, io->life)) {
        kvs_check_touch(world, io->node, io->src, -1);
        kvs_check_touch(world, io->node, io->dst, -1);
    }
    kvs_mem_drop(io->from_mem);
    kvs_mem_drop(io->to_mem);
    free(io->bounce);
    io->from_mem = io->to_mem = NULL;
    io->bounce = NULL;
    io->used = false;
    world->free_ios[world->nr_free_ios++] = (uint32_t)(io - world->ios);
}

/* ------------------------------------------------------------------ completions */

struct outcome {
    uint64_t id;
    struct kvo_done done;
};

void kvs_io_push_done(
    kvs_world_t *world, const struct kvs_io *io, uint64_t handle, uint64_t at)
{
    struct outcome *outcome = kvs_take(sizeof(*outcome));
    *outcome = (struct outcome){.id = io->id, .done = io->done};
    bool local = io->kind == KVO_ORDER_LOCAL;
    kvs_push_to(
        world, at, local ? KVS_EV_LOCAL_DONE : KVS_EV_DONE, io->node, handle, outcome);
}

/* Only what a fence can end may lose its completion: the rest would never end. */
static bool fence_ends(const struct kvs_io *io)
{
    return io->kind == KVO_ORDER_READ_NAMED || io->kind == KVO_ORDER_READ_GRANT
           || io->kind == KVO_ORDER_SERVE;
}

void kvs_io_finish(kvs_world_t *world, struct kvs_io *io, kv_status_t status)
{
    KV_ASSERT(!io->over);
    io->over = true;
    io->done.status = status;
    if (!kvs_alive(world, io->node, io->life)) {
        kvs_io_give(world, io);
        return;
    }
    if (fence_ends(io) && kvs_roll(world, KVS_F_LOST_DONE, ONE_IN_LOST)) {
        return;
    }
    uint64_t at = world->now + kvs_stretch(world, io->node, 1);
    bool fence = io->kind == KVO_ORDER_FENCE_IN || io->kind == KVO_ORDER_FENCE_OUT;
    if (!fence && kvs_roll(world, KVS_F_LATE_DONE, ONE_IN_LATE)) {
        /* A copy inside the node is late by a scheduler, not by a network. */
        uint64_t most = fence_ends(io) ? 2 * world->config.core.read_us : LATE_LOCAL_US;
        at += kv_rng_below(&world->fault_rng, most);
    }
    kvs_io_push_done(world, io, kvs_io_handle(world, io), at);
    if (kvs_roll(world, KVS_F_DOUBLE_DONE, ONE_IN_DOUBLE)) {
        uint64_t again = at + kv_rng_below(&world->fault_rng, 1000000);
        kvs_io_push_done(world, io, UINT64_MAX, again);
    }
}

/* The loop finds this completion, and takes what else comes meanwhile with it. */
static void turn_begin(kvs_world_t *world, uint32_t index)
{
    struct kvs_node *node = &world->nodes[index];
    if (world->config.turn_us == 0 || node->in_turn) {
        return;
    }
    kvo_many_begin(node->core);
    node->in_turn = true;
    uint64_t us = 1 + kv_rng_below(&world->turn_rng, world->config.turn_us);
    kvs_push_to(world, world->now + us, KVS_EV_TURN, index, 0, NULL);
}

static void turn_end(kvs_world_t *world, const struct kvs_event *event)
{
    kvo_node_t *core = kvs_enter(world, event->node);
    KV_ASSERT(world->nodes[event->node].in_turn);
    world->nodes[event->node].in_turn = false;
    kvo_many_end(core);
    kvs_leave(world, event->node);
}

static void done(kvs_world_t *world, const struct kvs_event *event)
{
    const struct outcome *outcome = event->p;
    struct kvs_io *io = event->id == UINT64_MAX ? NULL : io_of(world, event->id);
    if (io != NULL) {
        kvs_io_give(world, io);
    }
    kvo_node_t *core = kvs_enter(world, event->node);
    uint64_t now = kvs_node_now(world, event->node);
    turn_begin(world, event->node);
    if (event->kind == KVS_EV_LOCAL_DONE) {
        kvo_local_done(
            core, now, outcome->id, outcome->done.status, outcome->done.computed);
    } else {
        kvo_complete(core, now, outcome->id, &outcome->done);
    }
    kvs_leave(world, event->node);
}

/* ------------------------------------------------------------------ moments */

void kvs_io_schedule(kvs_world_t *world, struct kvs_io *io, uint64_t delay_us)
{
    kvs_push(
        world, world->now + delay_us, KVS_EV_IO, io->node, kvs_io_handle(world, io),
        NULL);
}

static uint32_t fabric_times(const kvs_world_t *world, uint32_t owner)
{
    const struct kvs_node *node = &world->nodes[owner];
    return node->fabric_until > world->now ? node->fabric_times : 1;
}

/* How long the bytes take, and at how many moments they move. `owner`: whose memory is
 * read over the fabric. */
static void plan(kvs_world_t *world, struct kvs_io *io, uint32_t owner)
{
    const struct kvs_config *config = &world->config;
    uint64_t us = config->fabric_us + io->len / config->fabric_bytes_us;
    us += kv_rng_below(&world->fabric_rng, us + 1);
    if (io->kind == KVO_ORDER_READ_GRANT || io->kind == KVO_ORDER_SERVE) {
        us *= fabric_times(world, owner);
        if (kvs_roll(world, KVS_F_SLOW_FABRIC, ONE_IN_CRAWL)) {
            us += kv_rng_below(&world->fault_rng, 2 * config->core.grant_us);
        }
    }
    io->span_us = kvs_stretch(world, io->node, us);
    io->moments = 1 + (uint32_t)kv_rng_below(&world->fabric_rng, MOMENTS_MAX);
    io->moment = 0;
    io->salt = kv_rng_next(&world->fabric_rng);
    kvs_io_schedule(world, io, io->span_us / (io->moments + 1));
}

/* Moves the pieces of this moment; zeros if they come from nowhere. */
static void move_pieces(const struct kvs_io *io, uint8_t *to, const uint8_t *from)
{
    for (uint32_t at = 0; at < io->len; at += KVS_PIECE_BYTES) {
        if (kv_mix64(io->salt + at) % io->moments == io->moment) {
            uint32_t left = io->len - at;
            uint32_t len = left < KVS_PIECE_BYTES ? left : KVS_PIECE_BYTES;
            if (from != NULL) {
                memcpy(to + at, from + at, len);
            } else {
                memset(to + at, 0, len);
            }
        }
    }
}

static void next_moment(kvs_world_t *world, struct kvs_io *io)
{
    io->moment++;
    uint64_t gap = io->span_us / (io->moments + 1);
    kvs_io_schedule(world, io, gap + kv_rng_below(&world->fabric_rng, gap + 1));
}

/* With digests off all are 0: a page is sealed with 0, and whatever lands has it. */
static uint64_t digest_of(const kvs_world_t *world, const uint8_t *bytes, uint32_t len)
{
    return world->config.digest_off ? 0 : kv_digest(bytes, len);
}

/* ------------------------------------------------------------------ local orders */

struct kvs_io *
kvs_io_of_order(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    struct kvs_io *io = io_take(world);
    io->kind = order->kind;
    io->node = node;
    io->life = world->nodes[node].life;
    io->peer = order->peer;
    io->link = order->link;
    io->data_gen = order->data_gen;
    io->req = order->req;
    return io;
}

static uint8_t *frame_at(kvs_world_t *world, uint32_t node, struct kvp_ref ref)
{
    return kvs_memory(world, node, ref);
}

static void
order_local(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    const struct kvp_order *local = &order->local;
    struct kvs_io *io = kvs_io_of_order(world, node, order);
    io->id = local->id;
    io->local = local->kind;
    io->len = local->len;
    io->dst = local->dst;
    io->to_mem = kvs_mem_hold(world->nodes[node].mem);
    io->to = frame_at(world, node, local->dst);
    if (local->kind == KVP_ORDER_COPY) {
        io->src = local->src;
        io->from = frame_at(world, node, local->src);
    } else if (local->kind == KVP_ORDER_ZERO) {
        io->len = world->config.page_bytes;
    }
    kvs_check_touch(world, node, io->src, 1);
    kvs_check_touch(world, node, io->dst, 1);
    plan(world, io, node);
}

static void local_finish(kvs_world_t *world, struct kvs_io *io)
{
    io->done.computed = digest_of(world, io->to, io->len);
    world->stats.copied_bytes += io->local == KVP_ORDER_COPY ? io->len : 0;
    kvs_io_finish(world, io, KV_OK);
}

static void local_moment(kvs_world_t *world, struct kvs_io *io)
{
    if (io->moment == 0 && kvs_roll(world, KVS_F_IO, ONE_IN_IO)) {
        kvs_io_finish(world, io, KV_ERR_IO);
        return;
    }
    if (io->moment == io->moments) {
        local_finish(world, io);
        return;
    }
    if (io->local == KVP_ORDER_COPY) {
        kvs_check_read(world, io);
        kvs_check_land(world, io);
        move_pieces(io, io->to, io->from);
    } else if (io->local == KVP_ORDER_ZERO) {
        kvs_check_land(world, io);
        move_pieces(io, io->to, NULL);
    }
    next_moment(world, io);
}

/* ------------------------------------------------------------ clients' buffers */

static void
order_client(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    size_t slot = kvs_client_slot(world, node, order->peer);
    if (slot == SIZE_MAX || part->buffer + part->len > world->config.buffer_bytes) {
        kvs_fail(
            world, "P7", "n%u orders a copy with client %u at %llu", node + 1,
            order->peer, (unsigned long long)part->buffer);
        return;
    }
    struct kvs_io *io = kvs_io_of_order(world, node, order);
    uint8_t *frame =
        kvs_mem_frame(world->nodes[node].mem, part->pool, part->pool_frame);
    uint8_t *buffer = world->clients[slot].buffer->base + part->buffer;
    bool in = order->kind == KVO_ORDER_CLIENT_IN;
    io->id = part->id;
    io->len = part->len;
    io->client = (uint32_t)slot;
    io->serial = world->clients[slot].serial;
    io->buffer = part->buffer;
    io->from = in ? buffer : frame;
    io->to = in ? frame : buffer;
    io->from_mem = kvs_mem_hold(world->clients[slot].buffer);
    io->to_mem = kvs_mem_hold(world->nodes[node].mem);
    *(in ? &io->dst : &io->src) = part->frame;
    kvs_check_touch(world, node, part->frame, 1);
    if (!in) {
        kvs_check_read(world, io);
    }
    plan(world, io, node);
}

static void client_moment(kvs_world_t *world, struct kvs_io *io)
{
    if (io->moment == io->moments) {
        world->stats.copied_bytes += io->len;
        io->done.len = io->len;
        bool in = io->kind == KVO_ORDER_CLIENT_IN;
        io->done.computed = digest_of(world, in ? io->to : io->from, io->len);
        kvs_io_finish(world, io, KV_OK);
        return;
    }
    if (io->kind == KVO_ORDER_CLIENT_OUT) {
        const struct kvs_client_state *client = &world->clients[io->client];
        /* Once it was answered the engine uses the buffer for something else. */
        if (client->up && client->serial == io->serial
            && client->busy[io->buffer / KVP_ALIGN] == 0) {
            kvs_fail(
                world, "I7", "n%u writes into a client's buffer after the answer",
                io->node + 1);
        }
        kvs_check_read(world, io);
    } else {
        kvs_check_land(world, io);
    }
    move_pieces(io, io->to, io->from);
    next_moment(world, io);
}

/* ------------------------------------------------------------------ reads */

/* Never posted, so nothing can land, and no fence will find it: it touches nothing
 * already, and its completion may come after a fence has ended it for the node. */
static void refuse_read(kvs_world_t *world, struct kvs_io *io)
{
    io->done.status = KV_ERR_LINK_LOST;
    kvs_io_push_done(world, io, UINT64_MAX, world->now + 20);
    kvs_io_give(world, io);
}

static void
order_read_named(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    struct kvs_data_conn *conn = kvs_net_data_conn(
        world, node, order->peer, order->link, order->data_gen, false);
    bool open = conn != NULL && !conn->closed;
    KV_ASSERT(!open || (conn->kinds >> KVO_NAMED & 1) != 0);
    struct kv_copy copies[KV_MSG_READ_MAX];
    KV_ASSERT(order->nr_parts >= 1 && order->nr_parts <= KV_MSG_READ_MAX);
    for (uint32_t i = 0; i < order->nr_parts; i++) {
        const struct kvo_part *part = &order->parts[i];
        struct kvs_io *io = kvs_io_of_order(world, node, order);
        copies[i] = part->copy;
        io->id = part->id;
        io->index = i;
        io->len = part->len;
        io->dst = part->frame;
        io->to_mem = kvs_mem_hold(world->nodes[node].mem);
        io->to = kvs_mem_frame(world->nodes[node].mem, part->pool, part->pool_frame);
        io->waiting = true;
        kvs_check_touch(world, node, io->dst, 1);
        if (!open) {
            refuse_read(world, io);
        }
    }
    if (open) {
        struct kv_msg msg = {
            .type = KV_MSG_READ,
            .req = order->req,
            .link = order->link,
            .u.read =
                {
                    .data_gen = order->data_gen,
                    .copies = copies,
                    .nr_copies = order->nr_parts,
                },
        };
        kvs_net_data_out(world, conn, &msg);
    }
}

static void
order_read_grant(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    const struct kv_grant *grant = &part->grant;
    struct kvs_data_conn *conn = kvs_net_data_conn(
        world, node, order->peer, order->link, order->data_gen, false);
    struct kvs_io *io = kvs_io_of_order(world, node, order);
    io->id = part->id;
    io->len = grant->len;
    io->dst = part->frame;
    io->to_mem = kvs_mem_hold(world->nodes[node].mem);
    io->to = kvs_mem_frame(world->nodes[node].mem, part->pool, part->pool_frame);
    io->far = (struct kvp_ref){grant->frame, grant->gen};
    io->done.expected = grant->digest;
    io->done.gen = grant->gen;
    io->done.len = grant->len;
    io->done.n_tokens = grant->n_tokens;
    kvs_check_touch(world, node, io->dst, 1);
    kvs_check_grant(world, node, order->peer, grant);
    if (conn == NULL || conn->closed) {
        refuse_read(world, io);
        return;
    }
    KV_ASSERT((conn->kinds >> KVO_ONE_SIDED & 1) != 0);
    struct kvs_mem *mem = world->nodes[order->peer].mem;
    io->data_life = conn->owner_life;
    if (mem == NULL || grant->arena >= KVP_POOLS_MAX || grant->len > part->len
        || mem->pool_at[grant->arena] + grant->offset + grant->len > mem->bytes) {
        refuse_read(world, io); /* the fabric checks its registration, no more */
        return;
    }
    io->from_mem = kvs_mem_hold(mem);
    io->from = mem->base + mem->pool_at[grant->arena] + grant->offset;
    plan(world, io, order->peer);
}

/* Bytes have landed: flips, and the digest of what is really there. */
static void read_finish(kvs_world_t *world, struct kvs_io *io)
{
    world->stats.fetched_bytes += io->len;
    io->waiting = false;
    bool flipped = io->len > 0 && kvs_roll(world, KVS_F_FLIP, ONE_IN_FLIP);
    if (flipped) {
        uint64_t bit = kv_rng_below(&world->fault_rng, (uint64_t)io->len * 8);
        io->to[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    io->done.computed = digest_of(world, io->to, io->len);
    if (io->done.computed != io->done.expected && !flipped) {
        world->stats.torn++;
    }
    kvs_io_finish(world, io, KV_OK);
}

static void named_moment(kvs_world_t *world, struct kvs_io *io)
{
    if (io->moment == io->moments) {
        read_finish(world, io);
        return;
    }
    kvs_check_land(world, io);
    move_pieces(io, io->to, io->bounce);
    next_moment(world, io);
}

/* A cut stalls a queue pair, which gives up after its retries. */
static bool grant_stalls(kvs_world_t *world, struct kvs_io *io)
{
    size_t nr = world->config.nr_nodes;
    uint64_t there = world->cut_until[io->node * nr + io->peer];
    uint64_t back = world->cut_until[io->peer * nr + io->node];
    uint64_t until = there > back ? there : back;
    if (until <= world->now) {
        return false;
    }
    if (until - world->now < RETRY_US) {
        kvs_io_schedule(world, io, until - world->now + 1);
    } else {
        kvs_io_finish(world, io, KV_ERR_LINK_LOST);
    }
    return true;
}

static void grant_moment(kvs_world_t *world, struct kvs_io *io)
{
    if (grant_stalls(world, io)) {
        return;
    }
    bool owner_dead = io->from_mem->dead;
    if ((owner_dead && world->config.registered)
        || (owner_dead && kv_rng_one_in(&world->fabric_rng, 3))
        || kvs_roll(world, KVS_F_READ_ERROR, ONE_IN_ERROR)) {
        kvs_io_finish(world, io, KV_ERR_LINK_LOST);
        return;
    }
    if (io->moment == io->moments) {
        read_finish(world, io);
        return;
    }
    kvs_check_read(world, io);
    kvs_check_land(world, io);
    move_pieces(io, io->to, io->from);
    next_moment(world, io);
}

/* ------------------------------------------------------------------ serving */

/* DATA on its way to the reader's fabric. */
struct delivery {
    uint64_t req;
    uint32_t head_len;
    uint32_t len;
    uint8_t bytes[]; /* head, then the page */
};

static void
order_serve(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    struct kvs_io *io = kvs_io_of_order(world, node, order);
    io->id = part->id;
    io->req = part->req;
    io->index = part->data.index;
    io->data = part->data;
    if (part->data.status == KV_OK) {
        io->len = part->len;
        io->src = part->frame;
        io->from_mem = kvs_mem_hold(world->nodes[node].mem);
        io->from = kvs_mem_frame(world->nodes[node].mem, part->pool, part->pool_frame);
        io->bounce = kvs_take(io->len);
        kvs_check_touch(world, node, io->src, 1);
        kvs_check_serve(world, io);
    }
    struct kvs_data_conn *conn = kvs_net_data_conn(
        world, order->peer, node, order->link, order->data_gen, false);
    if (conn == NULL || conn->closed) {
        refuse_read(world, io);
        return;
    }
    plan(world, io, node);
}

static void deliver(kvs_world_t *world, struct kvs_io *io, struct kvs_data_conn *conn)
{
    struct kv_msg msg = {
        .type = KV_MSG_DATA,
        .req = io->req,
        .link = io->link,
        .u.data = io->data,
    };
    size_t head = kvs_net_encode(world, io->node, &msg);
    if (head == 0 || kvs_roll(world, KVS_F_LOSS, ONE_IN_LOSS)) {
        return;
    }
    kvs_hash_bytes(world, world->wire, head);
    struct delivery *delivery = kvs_take(sizeof(*delivery) + head + io->len);
    delivery->req = io->req;
    delivery->head_len = (uint32_t)head;
    delivery->len = io->len;
    memcpy(delivery->bytes, world->wire, head);
    if (io->len > 0) {
        memcpy(delivery->bytes + head, io->bounce, io->len);
    }
    if (world->trace != NULL || (world->record && world->record_messages)) {
        char line[300];
        kv_msg_format(&msg, line, sizeof(line));
        kvs_say(world, true, "n%u > n%u %s", io->node + 1, io->peer + 1, line);
    }
    uint64_t at = world->now + kvs_net_latency(world, io->node, io->peer);
    uint64_t id = (uint64_t)(conn - world->data_conns);
    kvs_push(world, at, KVS_EV_DATA, io->peer, id, delivery);
}

static void serve_moment(kvs_world_t *world, struct kvs_io *io)
{
    if (io->moment < io->moments) {
        if (io->len > 0) {
            kvs_check_read(world, io);
            move_pieces(io, io->bounce, io->from);
        }
        next_moment(world, io);
        return;
    }
    struct kvs_data_conn *conn =
        kvs_net_data_conn(world, io->peer, io->node, io->link, io->data_gen, false);
    if (conn == NULL || conn->closed) {
        kvs_io_finish(world, io, KV_ERR_LINK_LOST);
        return;
    }
    deliver(world, io, conn);
    io->done.len = io->len;
    kvs_io_finish(world, io, KV_OK);
}

static struct kvs_io *waiting_read(
    kvs_world_t *world, const struct kvs_data_conn *conn, uint64_t req, uint32_t index)
{
    for (size_t i = 0; i < world->nr_ios; i++) {
        struct kvs_io *io = &world->ios[i];
        if (io->used && !io->over && io->waiting && io->kind == KVO_ORDER_READ_NAMED
            && io->node == conn->reader && io->peer == conn->owner
            && io->link == conn->link && io->data_gen == conn->data_gen
            && io->req == req && io->index == index && io->bounce == NULL) {
            return io;
        }
    }
    return NULL;
}

/* DATA has come to the reader's fabric: a refusal ends the part, bytes start to land.
 * */
static void data_arrived(kvs_world_t *world, struct kvs_event *event)
{
    const struct delivery *delivery = event->p;
    struct kvs_data_conn *conn = &world->data_conns[event->id];
    uint64_t cut =
        world->cut_until[(size_t)conn->owner * world->config.nr_nodes + conn->reader];
    if (cut > world->now) {
        kvs_push_again(world, event, cut + 1);
        event->p = NULL;
        return;
    }
    if (conn->closed) {
        return;
    }
    struct kv_msg msg;
    struct kv_detail detail = {0};
    world->arena.used = 0;
    kv_status_t status =
        kv_decode(delivery->bytes, delivery->head_len, &world->arena, &msg, &detail);
    KV_ASSERT(status == KV_OK && msg.type == KV_MSG_DATA);
    world->stats.messages[kv_msg_index(KV_MSG_DATA)]++;
    world->stats.message_bytes += delivery->head_len;
    struct kvs_io *io = waiting_read(world, conn, msg.req, msg.u.data.index);
    if (io == NULL) {
        return; /* doubled, or given up */
    }
    io->done.expected = msg.u.data.digest;
    io->done.gen = msg.u.data.gen;
    io->done.len = msg.u.data.len;
    io->done.n_tokens = msg.u.data.n_tokens;
    if (msg.u.data.status != KV_OK) {
        kvs_io_finish(world, io, (kv_status_t)msg.u.data.status);
        return;
    }
    if (msg.u.data.len > io->len || msg.u.data.len != delivery->len) {
        kvs_io_finish(world, io, KV_ERR_IO);
        return;
    }
    io->len = delivery->len;
    io->bounce = kvs_take(delivery->len);
    memcpy(io->bounce, delivery->bytes + delivery->head_len, delivery->len);
    plan(world, io, io->node);
}

/* ------------------------------------------------------------------ events */

void kvs_fabric_order(void *arg, const struct kvo_order *order)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    world->stats.orders[order->kind]++;
    switch (order->kind) {
    case KVO_ORDER_LOCAL:
        order_local(world, port->node, order);
        break;
    case KVO_ORDER_CLIENT_IN:
    case KVO_ORDER_CLIENT_OUT:
        order_client(world, port->node, order);
        break;
    case KVO_ORDER_READ_NAMED:
        order_read_named(world, port->node, order);
        break;
    case KVO_ORDER_READ_GRANT:
        order_read_grant(world, port->node, order);
        break;
    case KVO_ORDER_SERVE:
        order_serve(world, port->node, order);
        break;
    case KVO_ORDER_FENCE_IN:
    case KVO_ORDER_FENCE_OUT:
        kvs_fence_order(world, port->node, order);
        break;
    }
}

/* What a stopped process does itself stops too; what the fabric does goes on. */
static bool stopped(kvs_world_t *world, struct kvs_io *io)
{
    if (io->kind == KVO_ORDER_READ_GRANT || !kvs_paused(world, io->node)) {
        return false;
    }
    kvs_io_schedule(world, io, world->nodes[io->node].paused_until - world->now + 1);
    return true;
}

static void io_moment(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_io *io = io_of(world, event->id);
    if (io == NULL || io->over || stopped(world, io)) {
        return;
    }
    switch (io->kind) {
    case KVO_ORDER_LOCAL:
        local_moment(world, io);
        break;
    case KVO_ORDER_CLIENT_IN:
    case KVO_ORDER_CLIENT_OUT:
        client_moment(world, io);
        break;
    case KVO_ORDER_READ_NAMED:
        named_moment(world, io);
        break;
    case KVO_ORDER_READ_GRANT:
        grant_moment(world, io);
        break;
    case KVO_ORDER_SERVE:
        serve_moment(world, io);
        break;
    case KVO_ORDER_FENCE_IN:
    case KVO_ORDER_FENCE_OUT:
        kvs_fence_finish(world, io);
        break;
    }
}

void kvs_fabric_event(kvs_world_t *world, struct kvs_event *event)
{
    switch (event->kind) {
    case KVS_EV_IO:
        io_moment(world, event);
        break;
    case KVS_EV_DATA:
        data_arrived(world, event);
        break;
    case KVS_EV_DATA_BROKEN:
        kvs_fence_told(world, event);
        break;
    case KVS_EV_TURN:
        turn_end(world, event);
        break;
    default:
        done(world, event);
        break;
    }
}
