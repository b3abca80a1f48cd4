/* Orders for the transport, and what it says.
 *
 * (1) An order for a connection that is not there completes with LINK_LOST. (2) A fence
 * completes when the transport has said CLOSED of every connection that it covers;
 * CLOSED comes after the last DONE, and so do the core's completions. (3) What comes on
 * a connection is believed only for the link and the generation that opened it, and for
 * its kind. (4) A peer has the connections of one generation to us, one of each kind:
 * newer ones end those before. (5) Ours to a peer that end soon are opened again after
 * a pause that grows: whatever the reason is, it does not turn the loop into a circle
 * of calls. (6) Refusals are no reads of the core's, so
 * they have a bound here: a peer that asks and does not take what it is told loses its
 * connection before it can use up what the others' pages need. (7) One break fences the
 * whole generation, both kinds: the core knows one connection. (8) A one-sided
 * connection that will not come is done without for the rest of the link.
 */
#include "node/daemon/node_priv.h"

#include "base/assert.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

/* ---- start */

static const struct kvt_ops *const transports[KVO_NR_KINDS] = {
    [KVO_NAMED] = &kvt_tcp,
    [KVO_ONE_SIDED] = &kvt_shm,
};

/* `path`: of the port's socket, NULL for none. That another has it now is no mistake of
 * the configuration: it may be right later. */
static kv_status_t complain(
    const char *path, kv_status_t status, const struct kv_detail *detail, char *line,
    size_t cap)
{
    if (path != NULL && detail->field != NULL
        && strstr(detail->field, "others that listen") != NULL) {
        snprintf(
            line, cap,
            "listen.peers %s: another node listens there: stop it, or choose another "
            "path",
            path);
        return KV_ERR_IO;
    }
    int len = path != NULL ? snprintf(line, cap, "listen.peers %s: ", path) : 0;
    kv_detail_format(detail, status, line + len, cap - (size_t)len);
    return status;
}

kv_status_t kvn_data_start(struct kvn_node *node, char *line, size_t cap)
{
    struct kvt_region regions[KVT_REGIONS_MAX];
    const struct kvn_config *config = node->config;
    uint32_t nr = kvn_memory_nr(node->memory);
    KV_ASSERT(nr <= KVT_REGIONS_MAX);
    for (uint32_t i = 0; i < nr; i++) {
        regions[i] = kvn_memory_region(node->memory, i);
    }
    struct kvt_config port = {
        .regions = regions,
        .nr_regions = nr,
        .nr_ops = 2 * (uint32_t)config->nr_reads + KV_MSG_READ_MAX,
        .nr_conns = node->nr_conns / KVO_NR_KINDS,
        .nr_threads = (uint32_t)config->nr_transport_threads,
        .hello_us = config->handshake_us,
        .verify = config->verify_reads,
    };
    for (unsigned kind = 0; kind < KVO_NR_KINDS; kind++) {
        struct kv_detail detail = {0};
        port.listen = kind == KVO_ONE_SIDED ? node->nearby.path : NULL;
        if (kind == KVO_ONE_SIDED && !node->nearby.wanted) {
            continue;
        }
        if (kind == KVO_NAMED && config->remote_clients) {
            port.nr_ops += kvn_remote_ops((uint32_t)config->nr_remote_clients);
            port.nr_conns += 2 * (uint32_t)config->nr_remote_clients;
        }
        kv_status_t status =
            transports[kind]->create(&port, &node->ports[kind], &detail);
        if (status != KV_OK) {
            return complain(port.listen, status, &detail, line, cap);
        }
    }
    return KV_OK;
}

/* ---- connections */

static void conn_close(struct kvn_node *node, const struct kvn_data_conn *conn)
{
    kvt_close(node->ports[conn->kind], conn->conn);
}

static struct kvn_data_conn *
conn_find(struct kvn_node *node, enum kvo_kind kind, kvt_conn_t conn)
{
    for (uint32_t i = 0; conn != 0 && i < node->nr_conns; i++) {
        if (node->conns[i].conn == conn && node->conns[i].kind == kind) {
            return &node->conns[i];
        }
    }
    return NULL;
}

static struct kvn_data_conn *conn_of(
    struct kvn_node *node, const struct kvo_order *order, enum kvo_kind kind, bool out)
{
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        struct kvn_data_conn *conn = &node->conns[i];
        if (conn->conn != 0 && conn->kind == kind && conn->out == out
            && conn->peer == order->peer
            && conn->link == order->link && conn->data_gen == order->data_gen) {
            return conn;
        }
    }
    return NULL;
}

/* Those of this kind that the peer has opened to us, also those being closed. */
static uint32_t
nr_conns_of(const struct kvn_node *node, uint32_t peer, enum kvo_kind kind)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        const struct kvn_data_conn *conn = &node->conns[i];
        nr += conn->conn != 0 && !conn->out && conn->peer == peer && conn->kind == kind;
    }
    return nr;
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

/* (8) */
static void count_failure(
    struct kvn_reopen *reopen, const struct kvn_data_conn *conn, uint64_t lived_us)
{
    if (reopen->link != conn->link) {
        reopen->failures = 0;
    }
    if (conn->kind == KVO_ONE_SIDED) {
        bool early = !conn->worked && lived_us < KVN_NODE_REOPEN_LONGEST_US;
        reopen->failures = early ? reopen->failures + 1 : 0;
    }
}

/* A connection of ours is broken: the core hears of it after a pause (5). */
static void reopen_later(
    struct kvn_node *node, const struct kvn_data_conn *conn, kv_status_t status)
{
    struct kvn_reopen *reopen = &node->reopens[conn->peer];
    if (reopen->waits && reopen->link == conn->link
        && reopen->data_gen == conn->data_gen) {
        return; /* (7) that of the other kind broke first */
    }
    uint64_t lived_us = kvn_node_now(node) - conn->since_us;
    uint64_t pause = 2 * reopen->pause_us;
    count_failure(reopen, conn, lived_us);
    if (lived_us >= KVN_NODE_REOPEN_LONGEST_US || pause == 0) {
        pause = KVN_NODE_REOPEN_FIRST_US;
    } else if (pause > KVN_NODE_REOPEN_LONGEST_US) {
        pause = KVN_NODE_REOPEN_LONGEST_US;
    }
    *reopen = (struct kvn_reopen){
        .waits = true,
        .link = conn->link,
        .data_gen = conn->data_gen,
        .due_us = kvn_node_now(node) + pause,
        .pause_us = pause,
        .failures = reopen->failures,
    };
    if (pause >= KVN_NODE_REOPEN_LOGGED_US || lived_us >= KVN_NODE_REOPEN_LONGEST_US) {
        kv_log(
            KV_LOG_WARN, "data", "no %s connection to node %u: %s; again in %u ms",
            transports[conn->kind]->name, node->config->nodes[conn->peer].id,
            kv_status_text(status), (unsigned)(pause / 1000));
    }
}

/* (8) Its bound is reached: by name, if the peer can be read so, else on and on. */
static void give_up_one_sided(struct kvn_node *node, uint32_t peer, uint64_t now_us)
{
    struct kvn_reopen *reopen = &node->reopens[peer];
    reopen->failures = 0;
    if (kvo_one_sided_lost(node->core, now_us, peer, reopen->link)) {
        kv_log(
            KV_LOG_WARN, "data",
            "node %u: %u shm connections broke before a page came: its pages come by "
            "tcp until the link ends",
            node->config->nodes[peer].id, (unsigned)KVN_NODE_ONE_SIDED_TRIES);
    }
}

uint64_t kvn_data_reopens(struct kvn_node *node, uint64_t now_us)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < node->config->nr_nodes; i++) {
        struct kvn_reopen *reopen = &node->reopens[i];
        if (reopen->waits && reopen->due_us <= now_us) {
            reopen->waits = false;
            if (reopen->failures >= KVN_NODE_ONE_SIDED_TRIES) {
                give_up_one_sided(node, i, now_us);
            }
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
    struct kvn_data_conn *free = free_conn(node);
    struct kvn_data_conn conn = {
        .kind = msg->u.data_open.one_sided ? KVO_ONE_SIDED : KVO_NAMED,
        .peer = peer,
        .link = msg->link,
        .data_gen = msg->u.data_open.data_gen,
        .out = true,
        .since_us = kvn_node_now(node),
    };
    const char *address = kvo_peer_address(node->core, peer, conn.kind);
    struct kv_detail detail;
    size_t len;
    KV_ASSERT(node->ports[conn.kind] != NULL); /* HELLO has not said it else */
    KV_ASSERT(kv_encode(msg, node->wire, KVT_HELLO_BYTES_MAX, &len, &detail) == KV_OK);
    if (conn.kind == KVO_NAMED && address[0] == '\0') {
        address = node->config->nodes[peer].address;
    }
    kv_status_t status = free == NULL ? KV_ERR_AGAIN
                                      : kvt_open(
                                          node->ports[conn.kind], address, node->wire,
                                          (uint32_t)len, &conn.conn);
    if (status != KV_OK) {
        reopen_later(node, &conn, status);
        return;
    }
    *free = conn;
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

void kvn_data_get(struct kvn_node *node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    struct kvn_data_conn *conn = conn_of(node, order, KVO_ONE_SIDED, true);
    if (conn == NULL) {
        refuse(node, order, KV_ERR_LINK_LOST); /* (1) */
        return;
    }
    const struct kvt_part get = {
        .id = part->id,
        .to = kvn_memory_frame(node->memory, part->pool, part->pool_frame),
        .room = part->len,
        .arena = part->grant.arena,
        .offset = part->grant.offset,
    };
    KV_ASSERT(order->nr_parts == 1 && part->len == part->grant.len);
    kv_status_t status = kvt_get(node->ports[KVO_ONE_SIDED], conn->conn, &get);
    if (status != KV_OK) {
        refuse(node, order, status);
    }
}

void kvn_data_read(struct kvn_node *node, const struct kvo_order *order)
{
    struct kvn_data_conn *conn = conn_of(node, order, KVO_NAMED, true);
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
        node->ports[KVO_NAMED], conn->conn, order->req, node->wire, (uint32_t)len,
        parts, order->nr_parts);
    if (status != KV_OK) {
        refuse(node, order, status);
    }
}

void kvn_data_serve(struct kvn_node *node, const struct kvo_order *order)
{
    const struct kvo_part *part = &order->parts[0];
    struct kvn_data_conn *conn = conn_of(node, order, KVO_NAMED, false);
    if (conn == NULL) {
        refuse(node, order, KV_ERR_LINK_LOST); /* (1) */
        return;
    }
    if (part->id == 0 && conn->refusals >= node->refusals_max) { /* (6) */
        kv_log(
            KV_LOG_WARN, "data", "node %u asks and does not take %u answers: closed",
            node->config->nodes[conn->peer].id, conn->refusals);
        conn_close(node, conn);
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
        node->ports[KVO_NAMED], conn->conn, part->id, node->wire, (uint32_t)len,
        bytes ? kvn_memory_frame(node->memory, part->pool, part->pool_frame) : NULL,
        bytes ? part->len : 0);
    if (status != KV_OK) {
        /* No room for even a refusal: the reader learns it by losing the connection. */
        refuse(node, order, status);
        conn_close(node, conn);
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
            conn_close(node, &node->conns[i]);
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

static void refuse_conn(
    struct kvn_node *node, enum kvo_kind kind, kvt_conn_t conn, const char *why)
{
    kv_log(
        KV_LOG_INFO, "data", "refused a connection by %s: %s", transports[kind]->name,
        why);
    kvt_close(node->ports[kind], conn);
}

/* A connection has come in, and says which link it belongs to (3). */
static void introduced(
    struct kvn_node *node, enum kvo_kind kind, const struct kvt_event *event)
{
    struct kv_msg msg;
    struct kv_detail detail = {0};
    if (event->offered) { /* a peer's pages are read on connections that we open */
        refuse_conn(node, kind, event->conn, "nobody asked for an offer");
        return;
    }
    node->arena.used = 0;
    kv_status_t status =
        kv_decode(event->bytes, event->nr_bytes, &node->arena, &msg, &detail);
    struct kvn_data_conn *conn = free_conn(node);
    uint32_t peer = KVC_NO_NODE;
    if (status == KV_OK && msg.type == KV_MSG_DATA_OPEN
        && msg.u.data_open.one_sided == (kind == KVO_ONE_SIDED)) {
        peer = kvo_link_peer(node->core, msg.link);
    }
    if (conn == NULL) {
        refuse_conn(node, kind, event->conn, "data.connections are open");
        return;
    }
    if (peer == KVC_NO_NODE) {
        refuse_conn(node, kind, event->conn, "it names no link that is up");
        return;
    }
    if (nr_conns_of(node, peer, kind) >= KVN_NODE_PEER_CONNS_MAX) {
        refuse_conn(node, kind, event->conn, "those of this peer before do not end");
        return;
    }
    if (!kvo_data_message(node->core, kvn_node_now(node), peer, &msg)) {
        refuse_conn(node, kind, event->conn, "its proof or its generation is wrong");
        return;
    }
    for (uint32_t i = 0; i < node->nr_conns; i++) { /* (4) */
        const struct kvn_data_conn *old = &node->conns[i];
        if (old->conn != 0 && !old->out && old->peer == peer
            && (old->link != msg.link
                || old->data_gen != msg.u.data_open.data_gen)) {
            conn_close(node, old);
        }
    }
    *conn = (struct kvn_data_conn){
        .conn = event->conn,
        .kind = kind,
        .peer = peer,
        .link = msg.link,
        .data_gen = msg.u.data_open.data_gen,
        .since_us = kvn_node_now(node),
    };
    kvt_accept(node->ports[kind], event->conn);
}

static void requested(struct kvn_node *node, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, KVO_NAMED, event->conn);
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
        conn_close(node, conn);
        return;
    }
    (void)kvo_data_message(node->core, kvn_node_now(node), conn->peer, &msg);
}

static void
finished(struct kvn_node *node, enum kvo_kind kind, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, kind, event->conn);
    if (conn != NULL && event->status == KV_OK) {
        conn->worked = true;
    }
    if (event->id == 0) { /* a refusal: nobody waits for it */
        if (conn != NULL) {
            KV_ASSERT(conn->refusals > 0);
            conn->refusals--;
        }
        return;
    }
    const struct kvo_done done = {
        .status = event->status,
        .unverified = !node->config->verify_reads,
        .computed = event->computed,
        .expected = event->expected,
        .gen = event->gen,
        .len = event->len,
        .n_tokens = event->n_tokens,
    };
    kvo_complete(node->core, kvn_node_now(node), event->id, &done);
}

static void
broken(struct kvn_node *node, enum kvo_kind kind, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, kind, event->conn);
    kvt_close(node->ports[kind], event->conn);
    if (conn != NULL && conn->out) {
        reopen_later(node, conn, event->status);
    } else if (conn != NULL && event->status != KV_ERR_LINK_LOST) {
        kv_log(
            KV_LOG_WARN, "data", "a %s connection of node %u ended: %s",
            transports[kind]->name, node->config->nodes[conn->peer].id,
            kv_status_text(event->status));
    }
}

static void closed(struct kvn_node *node, enum kvo_kind kind, kvt_conn_t id)
{
    struct kvn_data_conn *conn = conn_find(node, kind, id);
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

void kvn_data_events(struct kvn_node *node, enum kvo_kind kind)
{
    struct kvt_event event;
    for (unsigned i = 0; i < KVN_NODE_EVENTS_A_TURN; i++) {
        if (!kvt_next(node->ports[kind], &event)) {
            return;
        }
        if (kind == KVO_NAMED && node->remote != NULL
            && kvn_remote_event(node->remote, &event)) {
            continue;
        }
        switch (event.kind) {
        case KVT_EV_HELLO:
            introduced(node, kind, &event);
            break;
        case KVT_EV_REQUEST:
            requested(node, &event);
            break;
        case KVT_EV_DONE:
            finished(node, kind, &event);
            break;
        case KVT_EV_BROKEN:
            broken(node, kind, &event);
            break;
        case KVT_EV_CLOSED:
            closed(node, kind, event.conn);
            break;
        }
    }
}
