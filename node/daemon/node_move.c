/* Orders for the movers. A job's tag is 0 for a local order, else one more than what it
 * holds of a client's memory. */
#include "node/daemon/node_priv.h"

#include "base/assert.h"

static uint32_t pool_of(const struct kvn_node *node, struct kvp_ref ref)
{
    uint32_t pool = 0, nr_pools = node->core_config->pager.nr_pools;
    KV_ASSERT(ref.frame < node->first_frame[nr_pools]);
    while (ref.frame >= node->first_frame[pool + 1]) {
        pool++;
    }
    return pool;
}

static uint8_t *frame_at(const struct kvn_node *node, struct kvp_ref ref)
{
    uint32_t pool = pool_of(node, ref);
    return kvn_memory_frame(node->memory, pool, ref.frame - node->first_frame[pool]);
}

static void post(struct kvn_node *node, const struct kvn_job *job)
{
    if (node->backlog_nr == 0 && kvn_movers_post(node->movers, job) == KV_OK) {
        return;
    }
    KV_ASSERT(node->backlog_nr < node->backlog_size); /* one a frame, one a copy */
    uint32_t at = (node->backlog_head + node->backlog_nr++) % node->backlog_size;
    node->backlog[at] = *job;
}

void kvn_move_local(struct kvn_node *node, const struct kvp_order *order)
{
    struct kvn_job job = {.id = order->id, .len = order->len};
    switch (order->kind) {
    case KVP_ORDER_DIGEST:
        job.move = KVN_MOVE_DIGEST;
        job.from = frame_at(node, order->dst);
        break;
    case KVP_ORDER_COPY:
        job.move = KVN_MOVE_COPY;
        job.digest = true;
        job.from = frame_at(node, order->src);
        job.to = frame_at(node, order->dst);
        break;
    case KVP_ORDER_ZERO:
        job.move = KVN_MOVE_ZERO;
        job.to = frame_at(node, order->dst);
        job.len =
            node->core_config->pager.pools[pool_of(node, order->dst)].frame_bytes;
        break;
    }
    post(node, &job);
}

void kvn_move_client(struct kvn_node *node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    if (node->remote != NULL && kvn_remote_has(node->remote, order->peer)) {
        struct kvp_glance page;
        KV_ASSERT(kvp_glance(kvo_pager(node->core), part->frame, &page) == KV_OK);
        kvn_remote_order(
            node->remote, order,
            kvn_memory_frame(node->memory, part->pool, part->pool_frame), &page);
        return;
    }
    uint64_t hold = 0;
    uint8_t *memory =
        node->local == NULL
            ? NULL
            : kvn_local_hold(node->local, order->peer, part->buffer, part->len, &hold);
    if (memory == NULL) {
        kvn_node_defer(
            node,
            &(struct kvn_deferred){.id = part->id, .status = KV_ERR_INVALID});
        return;
    }
    uint8_t *frame = kvn_memory_frame(node->memory, part->pool, part->pool_frame);
    bool in = order->kind == KVO_ORDER_CLIENT_IN;
    const struct kvn_job job = {
        .id = part->id,
        .move = KVN_MOVE_COPY,
        .to = in ? frame : memory,
        .from = in ? memory : frame,
        .len = part->len,
        .tag = hold + 1,
    };
    post(node, &job);
}

static void
complete(struct kvn_node *node, uint64_t now, const struct kvn_job_done *done)
{
    if (done->tag == 0) {
        kvo_local_done(node->core, now, done->id, KV_OK, done->digest);
        return;
    }
    kvn_local_release(node->local, done->tag - 1);
    const struct kvo_done result = {.status = KV_OK, .computed = done->digest};
    kvo_complete(node->core, now, done->id, &result);
}

void kvn_move_done(struct kvn_node *node)
{
    struct kvn_job_done done;
    const uint64_t now = kvn_node_now(node); /* of the turn: they have no times */
    for (unsigned i = 0; i < KVN_NODE_EVENTS_A_TURN; i++) {
        if (!kvn_movers_next(node->movers, &done)) {
            return;
        }
        complete(node, now, &done);
        if (node->backlog_nr > 0) {
            const struct kvn_job *job = &node->backlog[node->backlog_head];
            if (kvn_movers_post(node->movers, job) == KV_OK) {
                node->backlog_head = (node->backlog_head + 1) % node->backlog_size;
                node->backlog_nr--;
            }
        }
    }
}
