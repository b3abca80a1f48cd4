/* How operations of the fabric end before their time: fences, broken data connections,
 * dead processes.
 *
 *   FENCE_IN at the owner   no piece is read any more; the reader is told by a failure
 *   FENCE_OUT at the reader nothing lands any more; the owner's sends fail
 */
#include "node/sim/world_priv.h"

enum {
    RESET_US_MAX = 50000,
    FENCE_US = 300,
    FENCE_SLOW_US = 150000, /* one in twenty, while faults happen */
};

struct broken {
    uint32_t peer;
    uint64_t link;
    uint32_t data_gen;
};

static void
tell_reader(kvs_world_t *world, const struct kvs_data_conn *conn, uint64_t at)
{
    if (!kvs_alive(world, conn->reader, conn->reader_life)) {
        return;
    }
    struct broken *broken = kvs_take(sizeof(*broken));
    *broken = (struct broken){conn->owner, conn->link, conn->data_gen};
    kvs_push_to(world, at, KVS_EV_DATA_BROKEN, conn->reader, conn->link, broken);
}

static bool reads_on(const struct kvs_io *io, const struct kvs_data_conn *conn)
{
    bool read = io->kind == KVO_ORDER_READ_NAMED || io->kind == KVO_ORDER_READ_GRANT;
    return io->used && read && io->node == conn->reader && io->peer == conn->owner
           && io->link == conn->link && io->data_gen == conn->data_gen
           && io->life == conn->reader_life;
}

static bool serves_on(const struct kvs_io *io, const struct kvs_data_conn *conn)
{
    return io->used && io->kind == KVO_ORDER_SERVE && io->node == conn->owner
           && io->peer == conn->reader && io->link == conn->link
           && io->data_gen == conn->data_gen && io->life == conn->owner_life;
}

static void fail_later(kvs_world_t *world, struct kvs_io *io)
{
    io->over = true;
    io->done.status = KV_ERR_LINK_LOST;
    uint64_t at = world->now + 1 + kv_rng_below(&world->fabric_rng, 1000);
    kvs_io_push_done(world, io, kvs_io_handle(world, io), at);
}

void kvs_fabric_break(kvs_world_t *world, struct kvs_data_conn *conn)
{
    conn->closed = true;
    for (size_t i = 0; i < world->nr_ios; i++) {
        struct kvs_io *io = &world->ios[i];
        if ((reads_on(io, conn) || serves_on(io, conn)) && !io->over) {
            fail_later(world, io);
        }
    }
    tell_reader(world, conn, world->now + kv_rng_below(&world->fabric_rng, 2000));
}

/* The fence is over: what it ended has no completion, or a late one that says anything.
 * Both are allowed, so both happen. */
static void end_by_fence(kvs_world_t *world, struct kvs_io *io)
{
    if (!io->over && kv_rng_one_in(&world->fabric_rng, 2)) {
        io->done.status =
            kv_rng_one_in(&world->fabric_rng, 2) ? KV_OK : KV_ERR_LINK_LOST;
        io->done.computed = io->done.expected;
        uint64_t at = world->now + 1 + kv_rng_below(&world->fabric_rng, 500000);
        kvs_io_push_done(world, io, UINT64_MAX, at);
    }
    io->over = true;
    kvs_io_give(world, io);
}

static void
fence_conn(kvs_world_t *world, const struct kvs_io *fence, struct kvs_data_conn *conn)
{
    bool in = fence->kind == KVO_ORDER_FENCE_IN;
    bool was_closed = conn->closed;
    conn->closed = true;
    for (size_t i = 0; i < world->nr_ios; i++) {
        struct kvs_io *io = &world->ios[i];
        bool reads = reads_on(io, conn), serves = serves_on(io, conn);
        if (in ? serves : reads) {
            end_by_fence(world, io);
        } else if ((reads || serves) && !io->over) {
            fail_later(world, io);
        }
    }
    if (in && !was_closed) {
        tell_reader(
            world, conn,
            world->now + kvs_net_latency(world, conn->owner, conn->reader));
    }
}

void kvs_fence_finish(kvs_world_t *world, struct kvs_io *fence)
{
    bool in = fence->kind == KVO_ORDER_FENCE_IN;
    uint32_t reader = in ? fence->peer : fence->node;
    uint32_t owner = in ? fence->node : fence->peer;
    uint32_t nr = world->config.nr_nodes;
    uint32_t last = world->data_last[(size_t)reader * nr + owner];
    for (uint32_t i = last; i != 0; i = world->data_conns[i - 1].prev) {
        struct kvs_data_conn *conn = &world->data_conns[i - 1];
        if (conn->link == fence->link && conn->data_gen <= fence->data_gen) {
            fence_conn(world, fence, conn);
        }
    }
    kvs_io_finish(world, fence, KV_OK);
}

void kvs_fence_order(kvs_world_t *world, uint32_t node, const struct kvo_order *order)
{
    struct kvs_io *io = kvs_io_of_order(world, node, order);
    KV_ASSERT(order->nr_parts == 1);
    io->id = order->parts[0].id;
    uint64_t us = 1 + kv_rng_below(&world->fabric_rng, FENCE_US);
    if (world->faults != 0 && kv_rng_one_in(&world->fabric_rng, 20)) {
        us += kv_rng_below(&world->fabric_rng, FENCE_SLOW_US);
    }
    kvs_io_schedule(world, io, kvs_stretch(world, node, us));
}

void kvs_fabric_killed(kvs_world_t *world, uint32_t node)
{
    for (size_t i = 0; i < world->nr_data_conns; i++) {
        struct kvs_data_conn *conn = &world->data_conns[i];
        if (!conn->closed && (conn->reader == node || conn->owner == node)) {
            conn->closed = true;
            uint64_t in = 1 + kv_rng_below(&world->fabric_rng, RESET_US_MAX);
            if (conn->owner == node) {
                tell_reader(world, conn, world->now + in);
            }
        }
    }
    for (size_t i = 0; i < world->nr_ios; i++) {
        struct kvs_io *io = &world->ios[i];
        if (!io->used) {
            continue;
        }
        if (io->node == node) {
            kvs_io_give(world, io);
        } else if (
            io->peer == node && !io->over
            && (io->kind == KVO_ORDER_SERVE
                || (io->kind == KVO_ORDER_READ_NAMED && io->bounce == NULL))) {
            io->over = true;
            io->done.status = KV_ERR_LINK_LOST;
            uint64_t in = 1 + kv_rng_below(&world->fabric_rng, RESET_US_MAX);
            kvs_io_push_done(world, io, kvs_io_handle(world, io), world->now + in);
        }
    }
}

void kvs_fence_told(kvs_world_t *world, const struct kvs_event *event)
{
    const struct broken *broken = event->p;
    kvo_data_broken(
        kvs_enter(world, event->node), kvs_node_now(world, event->node), broken->peer,
        broken->link, broken->data_gen);
    kvs_leave(world, event->node);
}
