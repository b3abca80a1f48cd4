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
#include "transport/loop/loop.h"

#include <stdio.h>
#include <string.h>

/* ---- start */

static const struct {
    const struct kvt_ops *ops;
    enum kvo_kind kind;
} transports[KVN_NR_PORTS] = {
    [KVN_PORT_TCP] = {&kvt_tcp, KVO_NAMED},
    [KVN_PORT_SHM] = {&kvt_shm, KVO_ONE_SIDED},
    [KVN_PORT_LOOP] = {&kvt_loop, KVO_NAMED},
};

static enum kvn_port port_of(const char *name)
{
    unsigned port = 0;
    while (strcmp(transports[port].ops->name, name) != 0) {
        port++;
        KV_ASSERT(port < KVN_NR_PORTS); /* config_core.c has no other names */
    }
    return (enum kvn_port)port;
}

/* A node's name in its process is its incarnation: nobody else's, anywhere. */
static kv_status_t
loop_place(struct kvn_node *node, struct kvo_transport *loop, char *line, size_t cap)
{
    _Static_assert(KVT_LOOP_DOMAIN_BYTES <= sizeof(loop->domain), "HELLO says it");
    if (kvt_loop_domain(loop->domain) != KV_OK) {
        snprintf(
            line, cap,
            "link.transports: no random name for this process: set link.transports = "
            "both");
        return KV_ERR_IO;
    }
    snprintf(
        loop->address, sizeof(loop->address), "%016llx",
        (unsigned long long)node->core_config->incarnation);
    return KV_OK;
}

/* Where readers of ours come in; NULL: not this way. */
static const char *listen_of(const struct kvn_node *node, enum kvn_port port)
{
    const struct kvo_config *core = node->core_config;
    for (uint32_t i = 0; port != KVN_PORT_TCP && i < core->nr_transports; i++) {
        if (port_of(core->transports[i].name) == port) {
            return core->transports[i].address;
        }
    }
    return NULL;
}

kv_status_t kvn_data_places(struct kvn_node *node, char *line, size_t cap)
{
    struct kvo_config *core = node->core_config;
    kv_status_t status = KV_OK;
    uint32_t nr = 0;
    for (uint32_t i = 0; status == KV_OK && i < core->nr_transports; i++) {
        struct kvo_transport transport = core->transports[i];
        const enum kvn_port port = port_of(transport.name);
        if ((port == KVN_PORT_SHM && !node->nearby.wanted)
            || (port == KVN_PORT_LOOP && node->config->nr_nodes == 1)) {
            continue;
        }
        if (port == KVN_PORT_SHM) {
            memcpy(
                transport.domain, node->nearby.domain, sizeof(node->nearby.domain));
            memcpy(transport.address, node->nearby.path, sizeof(node->nearby.path));
        } else if (port == KVN_PORT_LOOP) {
            status = loop_place(node, &transport, line, cap);
        }
        core->transports[nr++] = transport;
    }
    core->nr_transports = nr;
    if (nr == 0) { /* what needs a peer alone, and nobody to read */
        core->transports[core->nr_transports++] =
            (struct kvo_transport){.kind = KVO_NAMED, .name = "tcp"};
    }
    return status;
}

/* `path`: of the port's socket, NULL for none. That another has it now is no mistake of
 * the configuration: it may be right later. */
static kv_status_t complain(
    const char *path, kv_status_t status, const struct kv_detail *detail, char *line,
    size_t cap)
{
    if (path != NULL && status == KV_ERR_AGAIN) {
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
    const struct kvt_config all = {
        .regions = regions,
        .nr_regions = nr,
        .nr_ops = 2 * (uint32_t)config->nr_reads + KV_MSG_READ_MAX,
        .nr_conns = node->nr_conns / KVN_NR_PORTS,
        .nr_threads = (uint32_t)config->nr_transport_threads,
        .hello_us = config->handshake_us,
        .verify = config->verify_reads,
    };
    for (unsigned i = 0; i < KVN_NR_PORTS; i++) {
        struct kv_detail detail = {0};
        struct kvt_config port = all;
        port.listen = listen_of(node, (enum kvn_port)i);
        if (i != KVN_PORT_TCP && port.listen == NULL) {
            continue;
        }
        if (i == KVN_PORT_TCP && config->remote_clients) {
            port.nr_ops += kvn_remote_ops((uint32_t)config->nr_remote_clients);
            port.nr_conns += 2 * (uint32_t)config->nr_remote_clients;
        }
        kv_status_t status =
            transports[i].ops->create(&port, &node->ports[i], &detail);
        if (status != KV_OK) {
            return complain(
                i == KVN_PORT_SHM ? port.listen : NULL, status, &detail, line, cap);
        }
    }
    return KV_OK;
}

/* ---- connections */

static void conn_close(struct kvn_node *node, const struct kvn_data_conn *conn)
{
    kvt_close(node->ports[conn->port], conn->conn);
}

static struct kvn_data_conn *
conn_find(struct kvn_node *node, enum kvn_port port, kvt_conn_t conn)
{
    for (uint32_t i = 0; conn != 0 && i < node->nr_conns; i++) {
        if (node->conns[i].conn == conn && node->conns[i].port == port) {
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
            transports[conn->port].ops->name, node->config->nodes[conn->peer].id,
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
    conn.port = port_of(kvo_peer_transport(node->core, peer, conn.kind)->name);
    struct kv_detail detail;
    size_t len;
    KV_ASSERT(node->ports[conn.port] != NULL); /* HELLO has not said it else */
    KV_ASSERT(kv_encode(msg, node->wire, KVT_HELLO_BYTES_MAX, &len, &detail) == KV_OK);
    if (conn.port == KVN_PORT_TCP && address[0] == '\0') {
        address = node->config->nodes[peer].address;
    }
    kv_status_t status = free == NULL ? KV_ERR_AGAIN
                                      : kvt_open(
                                          node->ports[conn.port], address, node->wire,
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
    kv_status_t status = kvt_get(node->ports[conn->port], conn->conn, &get);
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
        node->ports[conn->port], conn->conn, order->req, node->wire, (uint32_t)len,
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
        node->ports[conn->port], conn->conn, part->id, node->wire, (uint32_t)len,
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
    struct kvn_node *node, enum kvn_port port, kvt_conn_t conn, const char *why)
{
    kv_log(
        KV_LOG_INFO, "data", "refused a connection by %s: %s",
        transports[port].ops->name, why);
    kvt_close(node->ports[port], conn);
}

/* A connection has come in, and says which link it belongs to (3). */
static void introduced(
    struct kvn_node *node, enum kvn_port port, const struct kvt_event *event)
{
    const enum kvo_kind kind = transports[port].kind;
    struct kv_msg msg;
    struct kv_detail detail = {0};
    if (event->offered) { /* a peer's pages are read on connections that we open */
        refuse_conn(node, port, event->conn, "nobody asked for an offer");
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
        refuse_conn(node, port, event->conn, "data.connections are open");
        return;
    }
    if (peer == KVC_NO_NODE) {
        refuse_conn(node, port, event->conn, "it names no link that is up");
        return;
    }
    if (nr_conns_of(node, peer, kind) >= KVN_NODE_PEER_CONNS_MAX) {
        refuse_conn(node, port, event->conn, "those of this peer before do not end");
        return;
    }
    if (!kvo_data_message(node->core, kvn_node_now(node), peer, &msg)) {
        refuse_conn(node, port, event->conn, "its proof or its generation is wrong");
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
        .port = port,
        .kind = kind,
        .peer = peer,
        .link = msg.link,
        .data_gen = msg.u.data_open.data_gen,
        .since_us = kvn_node_now(node),
    };
    kvt_accept(node->ports[port], event->conn);
}

static void
requested(struct kvn_node *node, enum kvn_port port, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, port, event->conn);
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
finished(struct kvn_node *node, enum kvn_port port, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, port, event->conn);
    if (conn != NULL && event->status == KV_OK) {
        conn->worked = true;
        node->read_bytes[port] += conn->out ? event->len : 0;
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
broken(struct kvn_node *node, enum kvn_port port, const struct kvt_event *event)
{
    struct kvn_data_conn *conn = conn_find(node, port, event->conn);
    kvt_close(node->ports[port], event->conn);
    if (conn != NULL && conn->out) {
        reopen_later(node, conn, event->status);
    } else if (conn != NULL && event->status != KV_ERR_LINK_LOST) {
        kv_log(
            KV_LOG_WARN, "data", "a %s connection of node %u ended: %s",
            transports[port].ops->name, node->config->nodes[conn->peer].id,
            kv_status_text(event->status));
    }
}

static void closed(struct kvn_node *node, enum kvn_port port, kvt_conn_t id)
{
    struct kvn_data_conn *conn = conn_find(node, port, id);
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

void kvn_data_events(struct kvn_node *node, enum kvn_port port)
{
    struct kvt_event event;
    for (unsigned i = 0; i < KVN_NODE_EVENTS_A_TURN; i++) {
        if (!kvt_next(node->ports[port], &event)) {
            return;
        }
        if (port == KVN_PORT_TCP && node->remote != NULL
            && kvn_remote_event(node->remote, &event)) {
            continue;
        }
        switch (event.kind) {
        case KVT_EV_HELLO:
            introduced(node, port, &event);
            break;
        case KVT_EV_REQUEST:
            requested(node, port, &event);
            break;
        case KVT_EV_DONE:
            finished(node, port, &event);
            break;
        case KVT_EV_BROKEN:
            broken(node, port, &event);
            break;
        case KVT_EV_CLOSED:
            closed(node, port, event.conn);
            break;
        }
    }
}

/* ---- what came by which */

uint64_t kvn_node_read_bytes(const kvn_node_t *node, const char *transport)
{
    for (unsigned i = 0; i < KVN_NR_PORTS; i++) {
        if (strcmp(transports[i].ops->name, transport) == 0) {
            return node->read_bytes[i];
        }
    }
    return 0;
}

void kvn_data_collect(const struct kvn_node *node, struct kvn_http_snapshot *snapshot)
{
    _Static_assert((int)KVN_NR_PORTS <= KVN_HTTP_READS_MAX, "a place for each");
    snapshot->nr_reads = KVN_NR_PORTS;
    for (unsigned i = 0; i < KVN_NR_PORTS; i++) {
        snapshot->reads[i] = (struct kvn_http_read){
            .transport = transports[i].ops->name, .bytes = node->read_bytes[i]};
    }
}
