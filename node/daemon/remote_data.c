/* Data connections of remote clients, and the core's orders on them. */
#include "node/daemon/remote_priv.h"

#include "base/codec.h"

static struct remote_conn *conn_of(kvn_remote_t *remote, kvt_conn_t conn)
{
    for (struct remote_conn *c = remote->conns; c != NULL; c = c->next) {
        if (conn != 0 && (c->reads == conn || c->offers == conn)) {
            return c;
        }
    }
    return NULL;
}

/* ---- orders ---------------------------------------------------------------------- */

static struct remote_order *order_take(struct remote_conn *conn)
{
    kvn_remote_t *remote = conn->remote;
    const uint32_t index = remote->free_order;
    /* The core has at most KVO_COPIES_MAX out, and refusals have the rest. */
    KV_ASSERT(index != REMOTE_NONE);
    struct remote_order *order = &remote->orders[index];
    remote->free_order = order->next;
    *order = (struct remote_order){.conn = conn, .next = REMOTE_NONE};
    conn->nr_orders++;
    remote->nr_taken++;
    return order;
}

static void order_give(struct remote_order *order)
{
    struct remote_conn *conn = order->conn;
    kvn_remote_t *remote = conn->remote;
    KV_ASSERT(conn->nr_orders > 0 && remote->nr_taken > 0);
    conn->nr_orders--;
    remote->nr_taken--;
    conn->nr_posted -= order->posted;
    remote->nr_refusals -= order->id == 0;
    order->conn = NULL;
    order->next = remote->free_order;
    remote->free_order = (uint32_t)(order - remote->orders);
}

/* (1) */
static void order_end(struct remote_order *order, const struct kvo_done *done)
{
    kvn_remote_t *remote = order->conn->remote;
    const uint64_t id = order->id;
    order_give(order);
    if (id != 0) {
        remote->events.complete(remote->events.client.arg, id, done);
    }
}

static kv_status_t post_out(struct remote_conn *conn, const struct remote_order *order)
{
    kvn_remote_t *remote = conn->remote;
    uint8_t head[KVT_HEAD_BYTES_MAX];
    struct kv_detail detail;
    size_t len;
    const struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA,
        .req = order->req,
        .link = kvn_remote_id(conn->secret),
        .u.data = order->data,
    };
    KV_ASSERT(kv_encode(&msg, head, sizeof(head), &len, &detail) == KV_OK);
    return kvt_send(
        remote->config.port, conn->reads, (uint64_t)(order - remote->orders) + 1, head,
        (uint32_t)len, order->len > 0 ? order->frame : NULL, order->len);
}

static kv_status_t post_in(struct remote_conn *conn, const struct remote_order *order)
{
    kvn_remote_t *remote = conn->remote;
    const struct kvt_part part = {
        .id = (uint64_t)(order - remote->orders) + 1,
        .to = order->frame,
        .room = order->len,
    };
    return kvt_read(
        remote->config.port, conn->offers, order->req, (const uint8_t *)&order->want,
        sizeof(order->want), &part, 1);
}

static bool ops_free(const struct remote_conn *conn)
{
    return conn->nr_posted < conn->remote->client_ops && !conn->broken
           && conn->state == REMOTE_ATTACHED;
}

void kvn_remote_orders_work(struct remote_conn *conn)
{
    while (conn->first_waiting != REMOTE_NONE && ops_free(conn)) {
        struct remote_order *order = &conn->remote->orders[conn->first_waiting];
        const kv_status_t status =
            order->in ? post_in(conn, order) : post_out(conn, order);
        if (status != KV_OK) { /* its operations are counted: the connection is gone */
            kvn_remote_break(conn, "data: %s", kv_status_text(status));
            return;
        }
        conn->first_waiting = order->next;
        conn->last_waiting =
            order->next == REMOTE_NONE ? REMOTE_NONE : conn->last_waiting;
        order->posted = true;
        conn->nr_posted++;
    }
}

static void order_wait(struct remote_conn *conn, struct remote_order *order)
{
    const uint32_t index = (uint32_t)(order - conn->remote->orders);
    order->next = REMOTE_NONE;
    if (conn->first_waiting == REMOTE_NONE) {
        conn->first_waiting = index;
    } else {
        conn->remote->orders[conn->last_waiting].next = index;
    }
    conn->last_waiting = index;
}

void kvn_remote_order(
    kvn_remote_t *remote, const struct kvo_order *from, uint8_t *frame,
    const struct kvp_glance *page)
{
    struct remote_conn *conn = remote->by_index[from->peer];
    const struct kvo_part *part = &from->parts[0];
    KV_ASSERT(conn != NULL); /* nothing new is ordered for who is gone */
    const uint32_t key = part->buffer & (KVN_RING_KEYS_MAX - 1);
    struct remote_entry *entry = &conn->entries[part->buffer >> REMOTE_KEY_BITS];
    struct remote_order *order = order_take(conn);
    KV_ASSERT(entry->used && key < entry->nr_keys);
    order->id = part->id;
    order->in = from->kind == KVO_ORDER_CLIENT_IN;
    order->len = part->len;
    order->frame = frame;
    order->deadline_us = entry->deadline_us;
    if (order->in) {
        order->req = ++conn->next_want;
        order->want = (struct kvn_remote_want){
            .req = order->req, .tag = entry->tag, .key = key, .len = part->len};
    } else {
        entry->sent[key / 64] |= UINT64_C(1) << key % 64;
        order->req = kvn_remote_req(entry->tag, key / KVN_REMOTE_CHUNK_KEYS);
        order->data = (struct kv_msg_data){
            .data_gen = KVN_REMOTE_READS,
            .index = key % KVN_REMOTE_CHUNK_KEYS,
            .status = KV_OK,
            .len = part->len,
            .n_tokens = page->n_tokens,
            .gen = part->frame.gen,
            .digest = page->digest,
        };
    }
    order_wait(conn, order);
    kvn_remote_orders_work(conn);
}

bool kvn_remote_refuse(struct remote_conn *conn, uint64_t req, uint32_t index)
{
    kvn_remote_t *remote = conn->remote;
    if (!ops_free(conn) || conn->first_waiting != REMOTE_NONE
        || remote->nr_refusals == remote->nr_orders - KVO_COPIES_MAX) {
        return false;
    }
    remote->nr_refusals++;
    struct remote_order *order = order_take(conn);
    order->req = req;
    order->deadline_us = kvn_remote_now();
    order->data = (struct kv_msg_data){
        .data_gen = KVN_REMOTE_READS, .index = index, .status = KV_ERR_MISS};
    order_wait(conn, order);
    kvn_remote_orders_work(conn);
    return true;
}

void kvn_remote_orders_look(kvn_remote_t *remote, uint64_t now_us)
{
    uint32_t left = remote->nr_taken; /* breaking a client ends none of them here */
    for (uint32_t i = 0; left > 0; i++) {
        KV_ASSERT(i < remote->nr_orders);
        const struct remote_order *order = &remote->orders[i];
        left -= order->conn != NULL;
        if (order->conn != NULL && order->deadline_us + KVN_REMOTE_ORDER_US < now_us) {
            kvn_remote_break(order->conn, "does not take or give its pages");
        }
    }
}

void kvn_remote_orders_end(struct remote_conn *conn)
{
    static const struct kvo_done lost = {.status = KV_ERR_LINK_LOST};
    kvn_remote_t *remote = conn->remote;
    while (conn->first_waiting != REMOTE_NONE) {
        struct remote_order *order = &remote->orders[conn->first_waiting];
        conn->first_waiting = order->next;
        order_end(order, &lost);
    }
    conn->last_waiting = REMOTE_NONE;
    if (conn->reads != 0) {
        kvt_close(remote->config.port, conn->reads);
    }
    if (conn->offers != 0) {
        kvt_close(remote->config.port, conn->offers);
    }
}

/* ---- what the transport says ----------------------------------------------------- */

/* A data connection that proves a session of ours is its; true also for one that names
 * such a session and proves nothing: closed. */
static bool introduced(kvn_remote_t *remote, const struct kvt_event *event)
{
    struct kv_arena arena = {.base = remote->hello, .size = sizeof(remote->hello)};
    struct kv_detail detail = {0};
    struct kv_msg msg;
    struct remote_conn *conn = remote->conns;
    kv_key_t proof;
    if (kv_decode(event->bytes, event->nr_bytes, &arena, &msg, &detail) != KV_OK
        || msg.type != KV_MSG_DATA_OPEN) {
        return false;
    }
    while (conn != NULL
           && (conn->state != REMOTE_ATTACHED || conn->broken
               || kvn_remote_id(conn->secret) != msg.link)) {
        conn = conn->next;
    }
    if (conn == NULL) {
        return false;
    }
    const uint32_t gen = event->offered ? KVN_REMOTE_OFFERS : KVN_REMOTE_READS;
    kvt_conn_t *mine = event->offered ? &conn->offers : &conn->reads;
    if (msg.u.data_open.data_gen != gen || msg.u.data_open.one_sided || *mine != 0
        || kvn_remote_proof(conn->secret, gen, &proof) != KV_OK
        || !kv_key_equal_secret(&proof, &msg.u.data_open.proof)) {
        kvt_close(remote->config.port, event->conn);
        return true;
    }
    *mine = event->conn;
    kvt_accept(remote->config.port, event->conn);
    kvn_remote_go_on(conn);
    return true;
}

static void posted(struct remote_conn *conn, const struct kvt_event *event)
{
    struct kvn_remote_post post;
    struct kv_detail detail = {0};
    /* Requests are handed up of connections that we send on alone: `reads`. */
    KV_ASSERT(event->conn == conn->reads);
    if (kvn_remote_post_read(event->bytes, event->nr_bytes, &post, &detail) != KV_OK) {
        kvn_remote_malformed(conn, &detail);
        return;
    }
    struct remote_post *to = &conn->posts[post.tag & 0xffff];
    if (to->tag != post.tag || to->nr_keys != post.nr_keys) {
        *to = (struct remote_post){.tag = post.tag, .nr_keys = post.nr_keys};
    }
    to->mask |= 1u << post.chunk;
    kvn_remote_go_on(conn);
}

static void done(kvn_remote_t *remote, const struct kvt_event *event)
{
    KV_ASSERT(event->id >= 1 && event->id <= remote->nr_orders);
    struct remote_order *order = &remote->orders[event->id - 1];
    struct remote_conn *conn = order->conn;
    KV_ASSERT(conn != NULL && order->posted);
    /* Unverified, a page has the digest that its client says: one that does not match
     * is dropped by whoever looks next, and costs that tenant a hit. */
    const bool verify = remote->config.verify;
    struct kvo_done said = {
        .status = event->status,
        .computed = verify ? event->computed : event->expected,
    };
    if (order->in && event->status == KV_OK) {
        const bool verified = !verify || event->computed == event->expected;
        said.status = event->len != order->len ? KV_ERR_IO
                      : verified               ? KV_OK
                                               : KV_ERR_NOT_VERIFIED;
    } else if (event->status != KV_OK) {
        said.status = KV_ERR_IO; /* of an owner that has nothing, or is gone */
    }
    order_end(order, &said);
    kvn_remote_orders_work(conn);
    kvn_remote_drain(conn);
    kvn_remote_free_try(conn);
}

bool kvn_remote_event(kvn_remote_t *remote, const struct kvt_event *event)
{
    if (event->kind == KVT_EV_HELLO) {
        return introduced(remote, event);
    }
    struct remote_conn *conn = conn_of(remote, event->conn);
    if (conn == NULL) {
        return false;
    }
    switch (event->kind) {
    case KVT_EV_REQUEST:
        if (conn->state == REMOTE_ATTACHED && !conn->broken) {
            posted(conn, event);
        }
        break;
    case KVT_EV_DONE:
        done(remote, event);
        break;
    case KVT_EV_BROKEN:
        kvn_remote_break(
            conn, "a data connection ended: %s", kv_status_text(event->status));
        break;
    case KVT_EV_CLOSED:
        *(conn->reads == event->conn ? &conn->reads : &conn->offers) = 0;
        kvn_remote_free_try(conn);
        break;
    case KVT_EV_HELLO:
        break;
    }
    return true;
}
