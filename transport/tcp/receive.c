/* What arrives. On a reader's connection pages, each received straight into the memory
 * that was posted for it; on an owner's the hello and READs, into trays for the loop.
 */
#include "transport/tcp/tcp_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* Bytes received; 0: none now. What ends the connection has ended it. */
static size_t receive_some(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, struct iovec *iov,
    unsigned nr)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nr};
    ssize_t n;

    do {
        if (KV_FAULT()) {
            errno = EIO;
            n = -1;
        } else {
            n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
        }
    } while (n < 0 && errno == EINTR);
    if (n > 0) {
        return (size_t)n;
    }
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) {
        kvt_tcp_break(mover, conn, KV_ERR_LINK_LOST);
    }
    return 0;
}

/* ---- pages ---------------------------------------------------------------------- */

/* The part is over, and so is its READ when it was the last: its slots may be used
 * again once DONE is put. */
static void part_done(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t index,
    unsigned part, kv_status_t status)
{
    struct kvt_tcp_request *requests = mover->port->requests;
    struct kvt_tcp_request *request = &requests[index];
    struct kvt_tcp_op *op = &mover->port->ops[request->ops[part]];

    KV_ASSERT((request->pending >> part & 1) != 0);
    request->pending &= ~(UINT64_C(1) << part); /* (3) */
    if (request->pending == 0) {
        *(request->prev == KVT_TCP_NONE ? &conn->sent.first
                                        : &requests[request->prev].next) =
            request->next;
        *(request->next == KVT_TCP_NONE ? &conn->sent.last
                                        : &requests[request->next].prev) =
            request->prev;
    }
    kvt_tcp_done(mover, op, status);
}

/* The digest of what has landed since the last call, leaf by leaf while it is in
 * cache; at the end the short leaf, too. */
static void digest_landed(struct kvt_tcp_conn *conn, const struct kvt_tcp_op *op)
{
    while (conn->landed - conn->digested >= KV_DIGEST_LEAF_BYTES
           || (conn->landed == op->data_len && conn->digested < conn->landed)) {
        const uint32_t left = conn->landed - conn->digested;
        const uint32_t len = left < KV_DIGEST_LEAF_BYTES ? left : KV_DIGEST_LEAF_BYTES;
        kv_digest_add(
            &conn->digest, conn->digested / KV_DIGEST_LEAF_BYTES,
            kv_digest_leaf(op->to + conn->digested, len));
        conn->digested += len;
    }
}

static void landed(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, size_t len)
{
    struct kvt_tcp_op *op = &mover->port->ops[conn->landing];

    conn->landed += (uint32_t)len;
    if (mover->port->verify) {
        digest_landed(conn, op);
    }
    if (conn->landed == op->data_len) {
        op->computed =
            mover->port->verify ? kv_digest_end(&conn->digest, op->data_len) : 0;
        conn->landing = KVT_TCP_NONE;
        part_done(mover, conn, conn->landing_request, conn->landing_part, KV_OK);
    }
}

/* The READ that a DATA answers, or NONE. Owners answer in the order asked, so this is
 * the first, nearly always; at worst it walks over the reads in flight. */
static uint32_t find_request(
    const struct kvt_tcp_port *port, const struct kvt_tcp_conn *conn,
    const struct kv_msg *msg)
{
    const uint32_t part = msg->u.data.index;
    uint32_t i = conn->sent.first;

    while (i != KVT_TCP_NONE && port->requests[i].req != msg->req) {
        i = port->requests[i].next;
    }
    if (i == KVT_TCP_NONE || part >= port->requests[i].nr_parts
        || (port->requests[i].pending >> part & 1) == 0) {
        return KVT_TCP_NONE;
    }
    return i;
}

/* A DATA begins: false when it ended the connection. */
static bool
data_begins(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, struct kvt_frame *f)
{
    struct kvt_tcp_port *port = mover->port;
    struct kv_arena arena = {.base = mover->arena, .size = sizeof(mover->arena)};
    struct kv_msg msg;
    uint32_t index = KVT_TCP_NONE;

    if (kvt_frame_data(f, &arena, &msg, NULL) == KV_OK) {
        index = find_request(port, conn, &msg);
    }
    if (index == KVT_TCP_NONE) {
        kvt_tcp_break(mover, conn, KV_ERR_PROTOCOL); /* nobody asked for this */
        return false;
    }
    const struct kv_msg_data *data = &msg.u.data;
    const kv_status_t status = kvt_check_word(data->status);
    struct kvt_tcp_op *op = &port->ops[port->requests[index].ops[data->index]];
    op->expected = data->digest;
    op->gen = data->gen;
    op->data_len = data->len;
    op->n_tokens = data->n_tokens;
    op->computed = 0;
    if (!kvt_check_fits(data, f->body_len, op->room)) { /* (4) */
        part_done(mover, conn, index, data->index, KV_ERR_IO);
        kvt_tcp_break(mover, conn, KV_ERR_PROTOCOL);
        return false;
    }
    if (status != KV_OK) {
        part_done(mover, conn, index, data->index, status);
        return true;
    }
    conn->landing = port->requests[index].ops[data->index];
    conn->landing_request = index;
    conn->landing_part = data->index;
    conn->landed = conn->digested = 0;
    kv_digest_init(&conn->digest);
    if (data->len == 0) {
        landed(mover, conn, 0);
    }
    return true;
}

/* Frames and pages that came into the stage; what is left of them begins a header. */
static void
parse_pages(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, size_t len)
{
    const uint8_t *at = mover->stage;

    while (len > 0) {
        size_t used;
        if (conn->landing != KVT_TCP_NONE) {
            struct kvt_tcp_op *op = &mover->port->ops[conn->landing];
            const size_t left = op->data_len - conn->landed;
            used = len < left ? len : left;
            memcpy(op->to + conn->landed, at, used); /* (4) */
            landed(mover, conn, used);
        } else {
            struct kvt_frame frame;
            const kv_status_t status =
                kvt_frame_parse(at, len, KVT_FRAME_DATA, &frame, NULL);
            if (status == KV_INPROGRESS) {
                break;
            }
            if (status != KV_OK) {
                kvt_tcp_break(mover, conn, status);
                return;
            }
            if (!data_begins(mover, conn, &frame)) {
                return;
            }
            conn->pages_are_small = frame.body_len < KVT_TCP_SMALL_BYTES;
            used = KVT_FRAME_HEADER_BYTES + (size_t)frame.head_len;
        }
        at += used;
        len -= used;
    }
    KV_ASSERT(len < KVT_TCP_HEAD_BYTES);
    memcpy(conn->in, at, len);
    conn->in_len = (uint32_t)len;
}

/* One call: what is left of the page that lands goes to its place; behind it, into the
 * stage, the next header, and of small pages as much as comes. */
static size_t receive_pages_once(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, size_t *asked_p)
{
    struct iovec iov[2];
    unsigned nr = 0;
    size_t body = 0;
    size_t left = 0;
    size_t stage = 0;

    if (conn->landing != KVT_TCP_NONE) {
        const struct kvt_tcp_op *op = &mover->port->ops[conn->landing];
        left = op->data_len - conn->landed;
        body = left < KVT_TCP_CHUNK_BYTES ? left : KVT_TCP_CHUNK_BYTES;
        iov[nr++] = (struct iovec){op->to + conn->landed, body}; /* (4) */
    }
    if (body == left) {
        stage = (conn->pages_are_small ? sizeof(mover->stage) : KVT_TCP_HEAD_BYTES)
                - conn->in_len;
        memcpy(mover->stage, conn->in, conn->in_len);
        iov[nr++] = (struct iovec){mover->stage + conn->in_len, stage};
    }
    *asked_p = body + stage;
    const size_t n = receive_some(mover, conn, iov, nr);
    if (n == 0) {
        return 0;
    }
    const size_t to_page = n < body ? n : body;
    if (to_page > 0) {
        landed(mover, conn, to_page);
    }
    if (n > to_page) {
        parse_pages(mover, conn, conn->in_len + n - to_page);
    }
    return n;
}

void kvt_tcp_receive_pages(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    size_t turn = 0;

    while (turn < KVT_TCP_TURN_BYTES && conn->state == KVT_TCP_READER) {
        size_t asked;
        const size_t n = receive_pages_once(mover, conn, &asked);
        if (n == 0) {
            return;
        }
        turn += n;
        if (n < asked) {
            return; /* the socket is empty; epoll says when it is not */
        }
    }
}

/* ---- hello and READs ------------------------------------------------------------ */

static bool may_take(const struct kvt_tcp_conn *conn)
{
    return conn->state == KVT_TCP_STRANGER
           || (conn->state == KVT_TCP_OWNER
               && conn->nr_filled - conn->nr_taken < KVT_TCP_TRAYS);
}

/* To the loop: lies in its tray until the loop says that it is taken. */
static void hand_up(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn,
    const struct kvt_frame *frame)
{
    const uint32_t tray = conn->nr_filled++ % KVT_TCP_TRAYS;
    const bool hello = conn->state == KVT_TCP_STRANGER;

    conn->trays[tray].len = frame->head_len;
    memcpy(conn->trays[tray].bytes, frame->head, frame->head_len);
    if (hello) {
        kvt_tcp_introduced(mover, conn);
    }
    kvt_tcp_put(
        mover,
        !hello          ? KVT_TCP_REQUEST
        : conn->offered ? KVT_TCP_OFFER
                        : KVT_TCP_HELLO,
        kvt_tcp_conn_index(mover->port, conn), tray);
}

/* False: more bytes are needed, or it ended the connection. */
static bool parse_request(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    struct kvt_frame frame;
    const bool stranger = conn->state == KVT_TCP_STRANGER;
    const enum kvt_frame_kind kind =
        stranger ? kvt_frame_first(conn->in + conn->in_at, conn->in_len)
                 : KVT_FRAME_REQUEST;
    const kv_status_t status =
        kvt_frame_parse(conn->in + conn->in_at, conn->in_len, kind, &frame, NULL);

    if (status == KV_INPROGRESS) {
        return false;
    }
    if (status != KV_OK) {
        kvt_tcp_break(mover, conn, status);
        return false;
    }
    conn->offered = stranger ? kind == KVT_FRAME_OFFER : conn->offered;
    hand_up(mover, conn, &frame);
    conn->in_at += KVT_FRAME_HEADER_BYTES + frame.head_len;
    conn->in_len -= KVT_FRAME_HEADER_BYTES + frame.head_len;
    return true;
}

/* What is not parsed yet goes to the beginning, the rest of `in` is room. */
static void in_compact(struct kvt_tcp_conn *conn)
{
    if (conn->in_at > 0) {
        memmove(conn->in, conn->in + conn->in_at, conn->in_len);
        conn->in_at = 0;
    }
}

void kvt_tcp_receive_requests(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    bool empty = false; /* the socket */

    /* Bounded: each READ that is handed up fills a tray, and there are few. */
    while (may_take(conn)) {
        if (conn->in_len > 0 && parse_request(mover, conn)) {
            continue;
        }
        if (conn->state == KVT_TCP_DEAD) {
            return;
        }
        if (empty) {
            break;
        }
        in_compact(conn);
        const size_t room = KVT_TCP_IN_BYTES - conn->in_len;
        struct iovec iov = {conn->in + conn->in_len, room};
        const size_t n = receive_some(mover, conn, &iov, 1);
        if (n == 0) {
            break;
        }
        conn->in_len += (uint32_t)n;
        empty = n < room; /* epoll says when it is not */
    }
    if (conn->fd < 0) {
        return;
    }
    kvt_tcp_watch(
        mover, conn,
        (conn->interest & ~(uint32_t)EPOLLIN) | (may_take(conn) ? EPOLLIN : 0u));
}
