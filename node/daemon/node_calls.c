/* What passes between node/core and the modules around it.
 *
 *   core ── orders ──► links, transports, movers, clients
 *   core ◄── what has happened ── links, clients
 *
 * Numbers are those of node.c. (1): nothing is said to the core from inside an order.
 */
#include "node/daemon/node_priv.h"

#include "base/assert.h"
#include "base/log.h"

#include <sys/random.h>
#include <unistd.h>

/* ------------------------------------------------------------------ orders */

static void on_dial(void *arg, uint32_t peer)
{
    struct kvn_node *node = arg;
    if (node->links != NULL) { /* (3) */
        kvn_links_dial(node->links, peer);
    }
}

static void on_hang_up(void *arg, uint32_t peer, uint64_t conn)
{
    struct kvn_node *node = arg;
    (void)peer;
    if (node->links != NULL) { /* (3) */
        kvn_links_hang_up(node->links, conn);
    }
}

static void on_send(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg)
{
    struct kvn_node *node = arg;
    struct kv_detail detail;
    size_t len;
    if (node->links == NULL) {
        return; /* (3) */
    }
    kv_status_t status = kv_encode(msg, node->wire, KV_MSG_BYTES_MAX, &len, &detail);
    if (status != KV_OK) {
        char line[256];
        kv_detail_format(&detail, status, line, sizeof(line));
        kv_log(
            KV_LOG_ERROR, "link", "node %u: no bytes for a message: %s",
            node->config->nodes[peer].id, line);
        kvn_links_hang_up(node->links, conn);
        return;
    }
    (void)kvn_links_send(node->links, conn, node->wire, len); /* lost: down() says so */
}

static void on_send_data(void *arg, uint32_t peer, const struct kv_msg *msg)
{
    kvn_data_open(arg, peer, msg);
}

static void on_order(void *arg, const struct kvo_order *order)
{
    switch (order->kind) {
    case KVO_ORDER_LOCAL:
        kvn_move_local(arg, &order->local);
        break;
    case KVO_ORDER_CLIENT_IN:
    case KVO_ORDER_CLIENT_OUT:
        kvn_move_client(arg, order);
        break;
    case KVO_ORDER_READ_NAMED:
        kvn_data_read(arg, order);
        break;
    case KVO_ORDER_SERVE:
        kvn_data_serve(arg, order);
        break;
    case KVO_ORDER_FENCE_IN:
    case KVO_ORDER_FENCE_OUT:
        kvn_data_fence(arg, order);
        break;
    case KVO_ORDER_READ_GRANT:
        kvn_data_get(arg, order);
        break;
    }
}

static void on_answer(void *arg, const struct kvo_answer *answer)
{
    struct kvn_node *node = arg;
    if (node->remote != NULL && kvn_remote_has(node->remote, answer->client.index)) {
        kvn_remote_answer(node->remote, answer);
    } else if (node->local != NULL) { /* (3) */
        kvn_local_answer(node->local, answer);
    }
}

static void on_switched(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    struct kvn_node *node = arg;
    (void)was, (void)now; /* both are in the table, or retired until its confirm */
    if (node->local != NULL) { /* (3) */
        kvn_local_switched(node->local, client, seq, page);
    }
}

void kvn_node_random(void *arg, uint8_t *bytes, size_t len)
{
    (void)arg;
    KV_ASSERT(len <= 256); /* never short, never interrupted */
    KV_ASSERT(getrandom(bytes, len, 0) == (ssize_t)len);
}

static void on_trace(void *arg, const char *line)
{
    kvn_node_say(arg, line);
}

struct kvo_out kvn_node_orders(struct kvn_node *node)
{
    return (struct kvo_out){
        .arg = node,
        .dial = on_dial,
        .hang_up = on_hang_up,
        .send = on_send,
        .send_data = on_send_data,
        .order = on_order,
        .answer = on_answer,
        .switched = on_switched,
        .random = kvn_node_random,
        .trace = on_trace,
    };
}

/* ------------------------------------------------------------------ links */

static void link_up(void *arg, uint32_t peer, uint64_t conn, bool dialled)
{
    struct kvn_node *node = arg;
    kvo_conn_up(node->core, kvn_node_now(node), peer, conn, dialled);
}

static void link_down(void *arg, uint32_t peer, uint64_t conn)
{
    struct kvn_node *node = arg;
    kvo_conn_down(node->core, kvn_node_now(node), peer, conn);
}

static void link_dial_failed(void *arg, uint32_t peer)
{
    struct kvn_node *node = arg;
    kvo_dial_failed(node->core, kvn_node_now(node), peer);
}

static void
link_frame(void *arg, uint32_t peer, uint64_t conn, const uint8_t *bytes, size_t len)
{
    struct kvn_node *node = arg;
    struct kv_msg msg;
    struct kv_detail detail = {0};
    node->arena.used = 0;
    kv_status_t status = kv_decode(bytes, len, &node->arena, &msg, &detail);
    if (status == KV_OK) {
        kvo_message(node->core, kvn_node_now(node), peer, conn, &msg);
        return;
    }
    char line[256];
    kv_detail_format(&detail, status, line, sizeof(line));
    kv_log(
        KV_LOG_WARN, "link", "node %u sent a bad message: %s",
        node->config->nodes[peer].id, line);
    kvo_bad_message(node->core, kvn_node_now(node), peer, conn, status, &detail);
}

static void link_data(void *arg, int fd)
{
    struct kvn_node *node = arg;
    if (node->stopping) {
        close(fd);
    } else if (kvt_adopt(node->ports[KVN_PORT_TCP], fd) != KV_OK) {
        kv_log(KV_LOG_WARN, "data", "refused a connection: no room");
    }
}

struct kvn_links_events kvn_node_link_events(struct kvn_node *node)
{
    return (struct kvn_links_events){
        .arg = node,
        .up = link_up,
        .down = link_down,
        .dial_failed = link_dial_failed,
        .frame = link_frame,
        .data = link_data,
        .client = node->config->remote_clients ? kvn_node_remote_session : NULL,
    };
}

/* ------------------------------------------------------------------ clients */

static kv_status_t
client_attach(void *arg, uint64_t tenants, struct kvo_client_id *client_p)
{
    struct kvn_node *node = arg;
    return kvo_client_attach(node->core, kvn_node_now(node), tenants, client_p);
}

/* Places of remote clients are theirs. */
static kv_status_t
local_attach(void *arg, uint64_t tenants, struct kvo_client_id *client_p)
{
    struct kvn_node *node = arg;
    if (kvn_local_counts(node->local)->clients >= node->config->nr_clients) {
        return KV_ERR_AGAIN;
    }
    return client_attach(arg, tenants, client_p);
}

static kv_status_t client_request(
    void *arg, struct kvo_client_id client, const struct kvo_request *request)
{
    struct kvn_node *node = arg;
    kv_status_t status = kvo_request(node->core, kvn_node_now(node), client, request);
    kvn_movers_wake(node->movers); /* its copies go while others are served */
    return status;
}

static kv_status_t client_table(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t first,
    uint32_t *n_p, struct kvo_page *pages, struct kvp_seq_info *info)
{
    struct kvn_node *node = arg;
    return kvo_seq_table(node->core, client, seq, first, n_p, pages, info);
}

static void client_hung_up(void *arg, struct kvo_client_id client)
{
    struct kvn_node *node = arg;
    kvo_client_hung_up(node->core, kvn_node_now(node), client);
}

static void client_dead(void *arg, struct kvo_client_id client)
{
    struct kvn_node *node = arg;
    kvo_client_dead(node->core, kvn_node_now(node), client);
}

static void client_note(void *arg, const char *line)
{
    (void)arg;
    kv_log(KV_LOG_INFO, "client", "%s", line);
}

struct kvn_local_events kvn_node_client_events(struct kvn_node *node)
{
    return (struct kvn_local_events){
        .arg = node,
        .ask = kvn_node_ask,
        .attach = client_attach,
        .request = client_request,
        .table = client_table,
        .hung_up = client_hung_up,
        .dead = client_dead,
        .note = client_note,
    };
}

struct kvn_local_events kvn_node_local_events(struct kvn_node *node)
{
    struct kvn_local_events events = kvn_node_client_events(node);
    events.attach = local_attach;
    return events;
}
