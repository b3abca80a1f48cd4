/* What leaves: on a reader's connection its hello and its READs, on an owner's the
 * pages, each straight from its frame to the socket.
 *
 * The kernel copies (sendmsg without MSG_ZEROCOPY): a send is done when its last byte
 * was taken, and the frame may change. Zero copy was measured on loopback, where it
 * copies all the same and costs its notices on top (docs/measurements.md, "tcp").
 */
#include "transport/tcp/tcp_priv.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* ---- queues --------------------------------------------------------------------- */

void kvt_tcp_queue_request(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t index)
{
    struct kvt_tcp_request *requests = mover->port->requests;

    requests[index].next = KVT_TCP_NONE;
    *(conn->queue.last == KVT_TCP_NONE ? &conn->queue.first
                                       : &requests[conn->queue.last].next) = index;
    conn->queue.last = index;
}

void kvt_tcp_queue_op(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t index)
{
    struct kvt_tcp_op *ops = mover->port->ops;

    ops[index].next = KVT_TCP_NONE;
    *(conn->queue.last == KVT_TCP_NONE ? &conn->queue.first
                                       : &ops[conn->queue.last].next) = index;
    conn->queue.last = index;
}

/* (3) From here on its answers may come. */
static void request_sent(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    struct kvt_tcp_request *requests = mover->port->requests;
    const uint32_t index = conn->queue.first;
    struct kvt_tcp_request *request = &requests[index];

    conn->queue.first = request->next;
    if (conn->queue.first == KVT_TCP_NONE) {
        conn->queue.last = KVT_TCP_NONE;
    }
    request->next = KVT_TCP_NONE;
    request->prev = conn->sent.last;
    *(conn->sent.last == KVT_TCP_NONE ? &conn->sent.first
                                      : &requests[conn->sent.last].next) = index;
    conn->sent.last = index;
}

static void op_sent(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    struct kvt_tcp_op *op = &mover->port->ops[conn->queue.first];

    conn->queue.first = op->next;
    if (conn->queue.first == KVT_TCP_NONE) {
        conn->queue.last = KVT_TCP_NONE;
    }
    kvt_tcp_done(mover, op, KV_OK);
}

/* ---- one call ------------------------------------------------------------------- */

struct gather {
    struct iovec iov[KVT_TCP_IOVS];
    unsigned nr;
    size_t skip; /* of what is added next: already sent */
    size_t room; /* bytes that this call may still take */
};

static void gather_add(struct gather *gather, const uint8_t *base, size_t len)
{
    const size_t skip = gather->skip < len ? gather->skip : len;

    gather->skip -= skip;
    len -= skip;
    if (len > gather->room) {
        len = gather->room;
    }
    if (len > 0 && gather->nr < KVT_TCP_IOVS) {
        gather->iov[gather->nr++] = (struct iovec){
            .iov_base = (void *)(uintptr_t)(base + skip), .iov_len = len};
        gather->room -= len;
    }
}

static bool gather_full(const struct gather *gather)
{
    return gather->nr + 2 > KVT_TCP_IOVS || gather->room == 0;
}

static void gather_requests(
    const struct kvt_tcp_port *port, const struct kvt_tcp_conn *conn,
    struct gather *gather)
{
    uint32_t i = conn->queue.first;

    gather->skip = conn->hello_sent;
    gather_add(gather, conn->hello, conn->hello_len);
    gather->skip = conn->queue_sent;
    for (; i != KVT_TCP_NONE && !gather_full(gather); i = port->requests[i].next) {
        gather_add(gather, port->requests[i].frame, port->requests[i].frame_len);
    }
}

static void gather_pages(
    const struct kvt_tcp_port *port, const struct kvt_tcp_conn *conn,
    struct gather *gather)
{
    uint32_t i = conn->queue.first;

    gather->skip = conn->hello_sent;
    gather_add(gather, conn->hello, conn->hello_len);
    gather->skip = conn->queue_sent;
    for (; i != KVT_TCP_NONE && !gather_full(gather); i = port->ops[i].next) {
        gather_add(gather, port->ops[i].frame, port->ops[i].frame_len);
        gather_add(gather, port->ops[i].from, port->ops[i].len);
    }
}

static size_t
first_len(const struct kvt_tcp_port *port, const struct kvt_tcp_conn *conn, bool reader)
{
    const uint32_t first = conn->queue.first;

    return reader ? port->requests[first].frame_len
                  : (size_t)port->ops[first].frame_len + port->ops[first].len;
}

static void advance(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, bool reader, size_t sent)
{
    if (conn->hello_sent < conn->hello_len) {
        const size_t left = conn->hello_len - conn->hello_sent;
        const size_t part = sent < left ? sent : left;
        conn->hello_sent += (uint32_t)part;
        sent -= part;
    }
    while (sent > 0) {
        const size_t left = first_len(mover->port, conn, reader) - conn->queue_sent;
        if (sent < left) {
            conn->queue_sent += (uint32_t)sent;
            return;
        }
        sent -= left;
        conn->queue_sent = 0;
        if (reader) {
            request_sent(mover, conn);
        } else {
            op_sent(mover, conn);
        }
    }
}

static bool has_output(const struct kvt_tcp_conn *conn)
{
    return conn->hello_sent < conn->hello_len || conn->queue.first != KVT_TCP_NONE;
}

static ssize_t
send_some(const struct kvt_tcp_port *port, struct kvt_tcp_conn *conn, size_t room)
{
    struct gather gather = {.room = room};
    struct msghdr msg = {.msg_iov = gather.iov};

    if (conn->state == KVT_TCP_READER) {
        gather_requests(port, conn, &gather);
    } else {
        gather_pages(port, conn, &gather);
    }
    msg.msg_iovlen = gather.nr;
    KV_ASSERT(gather.nr > 0);
    if (KV_FAULT()) {
        errno = EIO;
        return -1;
    }
    return sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void kvt_tcp_flush(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    const bool reader = conn->state == KVT_TCP_READER;
    size_t room = KVT_TCP_TURN_BYTES;

    KV_ASSERT(reader || conn->state == KVT_TCP_OWNER);
    while (room > 0 && has_output(conn)) {
        const ssize_t n = send_some(mover->port, conn, room);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            break;
        }
        if (n < 0) {
            kvt_tcp_break(mover, conn, KV_ERR_LINK_LOST);
            return;
        }
        advance(mover, conn, reader, (size_t)n);
        room -= (size_t)n;
    }
    kvt_tcp_watch(
        mover, conn,
        (conn->interest & ~(uint32_t)EPOLLOUT) | (has_output(conn) ? EPOLLOUT : 0u));
}
