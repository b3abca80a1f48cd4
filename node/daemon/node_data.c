/* Orders for the transport, and what it says.
 *
 * (1) An order for a connection that is not there completes with LINK_LOST. (2) A fence
 * completes when the transport has said CLOSED of every connection that it covers;
 * CLOSED comes after the last DONE, and so do the core's completions. (3) What comes on
 * a connection is believed only for the link and the generation that opened it. (4) A
 * peer has one connection to us: a newer one ends those before. (5) Ours to a peer that
 * ends soon is opened again after a pause that grows: whatever the reason is, it does
 * not turn the loop into a circle of calls. (6) Refusals are no reads of the core's, so
 * they have a bound here: a peer that asks and does not take what it is told loses its
 * connection before it can use up what the others' pages need.
 */
#include "node/daemon/node_priv.h"

#include "base/assert.h"
#include "base/log.h"

static struct kvn_data_conn *conn_find(struct kvn_node *node, kvt_conn_t conn)
{
    for (uint32_t i = 0; conn != 0 && i < node->nr_conns; i++) {
        if (node->conns[i].conn == conn) {
            return &node->conns[i];
        }
    }
    return NULL;
}

static struct kvn_data_conn *
conn_of(struct kvn_node *node, const struct kvo_order *order, bool out)
{
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        struct kvn_data_conn *conn = &node->conns[i];
        if (conn->conn != 0 && conn->out == out && conn->peer == order->peer
            && conn->link == order->link && conn->data_gen == order->data_gen) {
            return conn;
        }
    }
    return NULL;
}

static struct kvn_data_conn *free_conn(struct kvn_node *node)
{
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        if (node->conns[i].conn == 0) {
            return &node->conns[i];
        }
    }
    return NULL;
}

static bool covers(const struct kvn_fence *fence, const struct kvn_data_conn *conn)
{
    return conn->conn != 0 && conn->out == fence->out && conn->peer == fence->peer
           && conn->link == fence->link && conn->data_gen <= fence->data_gen;
}

static bool fence_over(const struct kvn_node *node, const struct kvn_fence *fence)
{
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        if (covers(fence, &node->conns[i])) {
            return false;
        }
    }
    return true;
}

/* Our connection to `peer` is broken: the core hears of it after a pause (5). */
static void reopen_later(
    struct kvn_node *node, uint32_t peer, uint64_t link, uint32_t data_gen,
    uint64_t lived_us, kv_status_t status)
{
    struct kvn_reopen *reopen = &node->reopens[peer];
    uint64_t pause = 2 * reopen->pause_us;
    if (lived_us >= KVN_NODE_REOPEN_LONGEST_US || pause == 0) {
        pause = KVN_NODE_REOPEN_FIRST_US;
    } else if (pause > KVN_NODE_REOPEN_LONGEST_US) {
        pause = KVN_NODE_REOPEN_LONGEST_US;
    }
    *reopen = (struct kvn_reopen){
        .waits = true,
        .link = link,
        .data_gen = data_gen,
        .due_us = kvn_node_now(node) + pause,
        .pause_us = pause,
    };
    if (pause >= KVN_NODE_REOPEN_LOGGED_US || lived_us >= KVN_NODE_REOPEN_LONGEST_US) {
        kv_log(
            KV_LOG_WARN, "data", "no connection to node %u: %s; again in %u ms",
            node->config->nodes[peer].id, kv_status_text(status),
            (unsigned)(pause / 1000));
    }
}

uint64_t kvn_data_reopens(struct kvn_node *node, uint64_t now_us)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < node->config->nr_nodes; i++) {
        struct kvn_reopen *reopen = &node->reopens[i];
        if (reopen->waits && reopen->due_us <= now_us) {
            reopen->waits = false;
            kvo_data_broken(node->core, now_us, i, reopen->link, reopen->data_gen);
        }
        if (reopen->waits && reopen->due_us < next) {
            next = reopen->due_us;
        }
    }
    return next;
}

/* ---- orders */

void kvn_data_open(struct kvn_node *node, uint32_t peer, const struct kv_msg *msg)
{
    KV_ASSERT(msg->type == KV_MSG_DATA_OPEN);
    struct kvn_data_conn *conn = free_conn(node);
    struct kv_detail detail;
    size_t len;
    KV_ASSERT(kv_encode(msg, node->wire, KVT_HELLO_BYTES_MAX, &len, &detail) == KV_OK);
    kvt_conn_t opened = 0;
    kv_status_t status =
        conn == NULL
            ? KV_ERR_AGAIN
            : kvt_open(
                node->port, node->config->nodes[peer].address, node->wire,
                (uint32_t)len, &opened);
    if (status != KV_OK) {
        reopen_later(node, peer, msg->link, msg->u.data_open.data_gen, 0, status);
        return;
    }
    *conn = (struct kvn_data_conn){
        .conn = opened,
        .peer = peer,
        .link = msg->link,
        .data_gen = msg->u.data_open.data_gen,
        .out = true,
        .since_us = kvn_node_now(node),
    };
}

static void
refuse(struct kvn_node *node, const struct kvo_order *order, kv_status_t status)
{
    for (uint32_t i = 0; i < order->nr_parts; i++) {
        if (order->parts[i].id != 0) {
            kvn_node_defer(
                node, &(struct kvn_deferred){
                          .id = order->parts[i].id,
                          .status = status,
                      });
        }
    }
}

void kvn_data_read(struct kvn_node *node, const struct kvo_order *order)
{
    struct kvn_data_conn *conn = conn_of(node, order, true);
    if (conn == NULL) {
        refuse(node, order, KV_ERR_LINK_LOST); /* (1) */
        return;
    }
    struct kvt_part parts[KV_MSG_READ_MAX];
    struct kv_copy copies[KV_MSG_READ_MAX];
    KV_ASSERT(order->nr_parts >= 1 && order->nr_parts <= KV_MSG_READ_MAX);
    for (uint32_t i = 0; i < order->nr_parts; i++) {
        const struct kvo_part *part = &order->parts[i];
        copies[i] = part->copy;
        parts[i] = (struct kvt_part){
            .id = part->id,
            .to = kvn_memory_frame(node->memory, part->pool, part->pool_frame),
            .room = part->len,
        };
    }
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
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
    struct kv_detail detail;
    size_t len;
    KV_ASSERT(
        kv_encode(&msg, node->wire, KVT_REQUEST_BYTES_MAX, &len, &detail) == KV_OK);
    kv_status_t status = kvt_read(
        node->port, conn->conn, order->req, node->wire, (uint32_t)len, parts,
        order->nr_parts);
    if (status != KV_OK) {
        refuse(node, order, status);
    }
}

void kvn_data_serve(struct kvn_node *node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    struct kvn_data_conn *conn = conn_of(node, order, false);
    if (conn == NULL) {
        refuse(node, order, KV_ERR_LINK_LOST); /* (1) */
        return;
    }
    if (part->id == 0 && conn->refusals >= node->refusals_max) { /* (6) */
        kv_log(
            KV_LOG_WARN, "data", "node %u asks and does not take %u answers: closed",
            node->config->nodes[conn->peer].id, conn->refusals);
        kvt_close(node->port, conn->conn);
        return;
    }
    bool bytes = part->data.status == KV_OK;
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA,
        .req = part->req,
        .link = order->link,
        .u.data = part->data,
    };
    struct kv_detail detail;
    size_t len;
    KV_ASSERT(kv_encode(&msg, node->wire, KVT_HEAD_BYTES_MAX, &len, &detail) == KV_OK);
    kv_status_t status = kvt_send(
        node->port, conn->conn, part->id, node->wire, (uint32_t)len,
        bytes ? kvn_memory_frame(node->memory, part->pool, part->pool_frame) : NULL,
        bytes ? part->len : 0);
    if (status != KV_OK) {
        /* No room for even a refusal: the reader learns it by losing the connection. */
        refuse(node, order, status);
        kvt_close(node->port, conn->conn);
    } else if (part->id == 0) {
        conn->refusals++;
    }
}

void kvn_data_fence(struct kvn_node *node, const struct kvo_order *order)
{
    struct kvn_fence fence = {
        .used = true,
        .id = order->parts[0].id,
        .peer = order->peer,
        .link = order->link,
        .data_gen = order->data_gen,
        .out = order->kind == KVO_ORDER_FENCE_OUT,
    };
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        if (covers(&fence, &node->conns[i])) {
            kvt_close(node->port, node->conns[i].conn);
        }
    }
    if (fence_over(node, &fence)) {
        kvn_node_defer(node, &(struct kvn_deferred){.id = fence.id, .status = KV_OK});
        return;
    }
    uint32_t i = 0;
    while (node->fences[i].used) {
        i++;
        KV_ASSERT(i < node->nr_fences); /* each peer has one each way at most */
    }
    node->fences[i] = fence;
}

/* ---- what the transport says */

/* A connection has come in, and says which link it belongs to (3). */
static void introduced(struct kvn_node *node, const struct kvt_event *event)
{
    struct kv_msg msg;
    struct kv_detail detail = {0};
    node->arena.used = 0;
    kv_status_t status =
        kv_decode(event->bytes, event->nr_bytes, &node->arena, &msg, &detail);
    struct kvn_data_conn *conn = free_conn(node);
    uint32_t peer = KVC_NO_NODE;
    if (status == KV_OK && msg.type == KV_MSG_DATA_OPEN) {
        peer = kvo_link_peer(node->core, msg.link);
    }
    if (conn == NULL || peer == KVC_NO_NODE
        || !kvo_data_message(node->core, kvn_node_now(node), peer, &msg)) {
        kv_log(
            KV_LOG_INFO, "data", "refused a connection: %s",
            conn == NULL            ? "data.connections are open"
            : peer == KVC_NO_NODE ? "it names no link that is up"
                                    : "its proof or its generation is wrong");
        kvt_close(node->port, event->conn);
        return;
    }
    for (uint32_t i = 0; i < node->nr_conns; i++) { /* (4) */
        if (node->conns[i].conn != 0 && !node->conns[i].out
            && node->conns[i].peer == peer) {
            kvt_close(node->port, node->conns[i].conn);
        }
    }
    *conn = (struct kvn_data_conn){
        .conn = event->conn,
        .peer = peer,
        .link = msg.link,
        .data_gen = msg.u.data_open.data_gen,
        .since_us = kvn_node_now(node),
    };
    kvt_accept(node->port, event->conn);
}

static void requested(struct kvn_node *node, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, event->conn);
    struct kv_msg msg;
    struct kv_detail detail = {0};
    if (conn == NULL) {
        return; /* closed meanwhile */
    }
    node->arena.used = 0;
    kv_status_t status =
        kv_decode(event->bytes, event->nr_bytes, &node->arena, &msg, &detail);
    if (status != KV_OK || msg.type != KV_MSG_READ || msg.link != conn->link
        || msg.u.read.data_gen != conn->data_gen) { /* (3) */
        kv_log(
            KV_LOG_WARN, "data", "node %u asked for nothing that makes sense",
            node->config->nodes[conn->peer].id);
        kvt_close(node->port, event->conn);
        return;
    }
    (void)kvo_data_message(node->core, kvn_node_now(node), conn->peer, &msg);
}

static void finished(struct kvn_node *node, const struct kvt_event *event)
{
    if (event->id == 0) { /* a refusal: nobody waits for it */
        struct kvn_data_conn *conn = conn_find(node, event->conn);
        if (conn != NULL) {
            KV_ASSERT(conn->refusals > 0);
            conn->refusals--;
        }
        return;
    }
    struct kvo_done done = {
        .status = event->status,
        .computed = event->computed,
        .expected = event->expected,
        .gen = event->gen,
        .len = event->len,
        .n_tokens = event->n_tokens,
    };
    if (!node->config->verify_reads) {
        done.computed = done.expected;
    }
    kvo_complete(node->core, kvn_node_now(node), event->id, &done);
}

static void broken(struct kvn_node *node, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, event->conn);
    kvt_close(node->port, event->conn);
    if (conn != NULL && conn->out) {
        reopen_later(
            node, conn->peer, conn->link, conn->data_gen,
            kvn_node_now(node) - conn->since_us, event->status);
    } else if (conn != NULL && event->status != KV_ERR_LINK_LOST) {
        kv_log(
            KV_LOG_WARN, "data", "a connection of node %u ended: %s",
            node->config->nodes[conn->peer].id, kv_status_text(event->status));
    }
}

static void closed(struct kvn_node *node, kvt_conn_t id)
{
    struct kvn_data_conn *conn = conn_find(node, id);
    if (conn != NULL) {
        conn->conn = 0;
    }
    for (uint32_t i = 0; i < node->nr_fences; i++) {
        struct kvn_fence *fence = &node->fences[i];
        if (fence->used && fence_over(node, fence)) { /* (2) */
            const struct kvo_done done = {.status = KV_OK};
            fence->used = false;
            kvo_complete(node->core, kvn_node_now(node), fence->id, &done);
        }
    }
}

void kvn_data_events(struct kvn_node *node)
{
    struct kvt_event event;
    for (unsigned i = 0; i < KVN_NODE_EVENTS_A_TURN; i++) {
        if (!kvt_next(node->port, &event)) {
            return;
        }
        switch (event.kind) {
        case KVT_EV_HELLO:
            introduced(node, &event);
            break;
        case KVT_EV_REQUEST:
            requested(node, &event);
            break;
        case KVT_EV_DONE:
            finished(node, &event);
            break;
        case KVT_EV_BROKEN:
            broken(node, &event);
            break;
        case KVT_EV_CLOSED:
            closed(node, event.conn);
            break;
        }
    }
}
