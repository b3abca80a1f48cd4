/* One mover: a thread, an epoll, the connections that were given to it.
 *
 *   commands ──► what they dirtied is flushed ──► epoll ──► a turn a connection ──►
 *   news, and the loop's bell when there were some
 */
#include "transport/tcp/tcp_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

enum { BATCH = 64 };

static struct kvt_tcp_conn *conn_at(struct kvt_tcp_mover *mover, uint32_t index)
{
    KV_ASSERT(index < mover->port->nr_conns);
    return &mover->port->conns[index];
}

/* ---- lists of connections -----------------------------------------------------------
 * Dirty ones are readers and owners, strangers neither: one pair of links serves. */

static void list_add(
    struct kvt_tcp_mover *mover, struct kvt_tcp_list *list, struct kvt_tcp_conn *conn)
{
    const uint32_t index = kvt_tcp_conn_index(mover->port, conn);

    conn->next = KVT_TCP_NONE;
    conn->prev = list->last;
    *(list->last == KVT_TCP_NONE ? &list->first : &conn_at(mover, list->last)->next) =
        index;
    list->last = index;
}

static void list_remove(
    struct kvt_tcp_mover *mover, struct kvt_tcp_list *list, struct kvt_tcp_conn *conn)
{
    *(conn->prev == KVT_TCP_NONE ? &list->first : &conn_at(mover, conn->prev)->next) =
        conn->next;
    *(conn->next == KVT_TCP_NONE ? &list->last : &conn_at(mover, conn->next)->prev) =
        conn->prev;
}

static void dirty(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    if (!conn->dirty) {
        conn->dirty = true;
        list_add(mover, &mover->dirty, conn);
    }
}

/* ---- news ----------------------------------------------------------------------- */

void kvt_tcp_put(
    struct kvt_tcp_mover *mover, enum kvt_tcp_news kind, uint32_t index, uint32_t arg)
{
    kvt_ring_put(/* (2) */
                 &mover->news,
                 (struct kvt_note){
                     .kind = (uint16_t)kind, .arg = (uint16_t)arg, .index = index});
    mover->has_news = true;
}

/* Once a turn, and not with each DONE: waking the loop costs as much as 16 KiB. */
static void tell(struct kvt_tcp_mover *mover)
{
    if (mover->has_news) {
        mover->has_news = false;
        kvt_bell_ring(&mover->port->bell);
    }
}

void kvt_tcp_done(
    struct kvt_tcp_mover *mover, struct kvt_tcp_op *op, kv_status_t status)
{
    op->status = status;
    kvt_tcp_put(mover, KVT_TCP_DONE, (uint32_t)(op - mover->port->ops), 0);
}

/* ---- the end of a connection ---------------------------------------------------- */

static void lose_request(struct kvt_tcp_mover *mover, struct kvt_tcp_request *request)
{
    /* Its slot may be used again as soon as the last DONE is put. */
    uint64_t pending = request->pending;

    request->pending = 0;
    while (pending != 0) {
        const unsigned part = (unsigned)__builtin_ctzll(pending);
        const uint32_t op = request->ops[part];
        pending &= pending - 1;
        kvt_tcp_done(mover, &mover->port->ops[op], KV_ERR_LINK_LOST);
    }
}

static void lose_requests(struct kvt_tcp_mover *mover, struct kvt_tcp_list *list)
{
    for (uint32_t i = list->first, next; i != KVT_TCP_NONE; i = next) {
        struct kvt_tcp_request *request = &mover->port->requests[i];
        next = request->next;
        lose_request(mover, request);
    }
    *list = (struct kvt_tcp_list){KVT_TCP_NONE, KVT_TCP_NONE};
}

static void lose_ops(struct kvt_tcp_mover *mover, struct kvt_tcp_list *list)
{
    for (uint32_t i = list->first, next; i != KVT_TCP_NONE; i = next) {
        struct kvt_tcp_op *op = &mover->port->ops[i];
        next = op->next;
        kvt_tcp_done(mover, op, KV_ERR_LINK_LOST);
    }
    *list = (struct kvt_tcp_list){KVT_TCP_NONE, KVT_TCP_NONE};
}

/* (1) What the kernel has taken but not sent yet is thrown away with the socket (a
 * reset, not a farewell): after CLOSED nothing leaves either, and a peer that does not
 * read can not keep the kernel's memory. A child of fork() may have the file, too, and
 * live on: closing it would end nothing then, so it is disconnected before. */
void kvt_tcp_hang_up(int epoll_fd, struct kvt_tcp_conn *conn)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};

    if (conn->fd >= 0) {
        (void)setsockopt(conn->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        if (epoll_fd >= 0) {
            /* A child between fork and exec has the file, too: with it open epoll would
             * go on telling of a connection that is not there. */
            (void)epoll_ctl(epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
        }
        (void)connect(conn->fd, &nobody, sizeof(nobody));
        close(conn->fd);
    }
    conn->fd = -1;
}

static void conn_end(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    const bool reader = conn->state == KVT_TCP_READER
                        || (conn->state == KVT_TCP_CONNECTING && !conn->offered);

    KV_ASSERT(conn->state != KVT_TCP_DEAD && conn->state != KVT_TCP_UNUSED);
    kvt_tcp_hang_up(mover->epoll_fd, conn);
    if (conn->state == KVT_TCP_STRANGER) {
        list_remove(mover, &mover->strangers, conn);
    } else if (conn->dirty) {
        conn->dirty = false;
        list_remove(mover, &mover->dirty, conn);
    }
    conn->state = KVT_TCP_DEAD;
    conn->landing = KVT_TCP_NONE;
    if (reader) {
        lose_requests(mover, &conn->sent);
        lose_requests(mover, &conn->queue);
    } else {
        lose_ops(mover, &conn->queue);
    }
}

void kvt_tcp_break(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, kv_status_t why)
{
    const uint32_t index = kvt_tcp_conn_index(mover->port, conn);
    const bool stranger = conn->state == KVT_TCP_STRANGER;

    conn_end(mover, conn);
    conn->why = why;
    if (stranger) {
        conn->next = mover->gone; /* (5) */
        mover->gone = index;
    } else {
        kvt_tcp_put(mover, KVT_TCP_BROKEN, index, 0);
    }
}

/* Nobody closes a stranger, so its slot is the loop's again once GONE is put: not
 * before every turn that may look at it is over. */
static void bury_strangers(struct kvt_tcp_mover *mover)
{
    while (mover->gone != KVT_TCP_NONE) {
        const uint32_t index = mover->gone;
        mover->gone = conn_at(mover, index)->next;
        conn_at(mover, index)->state = KVT_TCP_UNUSED;
        kvt_tcp_put(mover, KVT_TCP_GONE, index, 0);
    }
}

void kvt_tcp_introduced(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    KV_ASSERT(conn->state == KVT_TCP_STRANGER);
    list_remove(mover, &mover->strangers, conn);
    conn->state = KVT_TCP_INTRODUCED;
}

/* ---- epoll ---------------------------------------------------------------------- */

void kvt_tcp_watch(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t interest)
{
    struct epoll_event event = {
        .events = interest, .data.u32 = kvt_tcp_conn_index(mover->port, conn)};

    if (interest == conn->interest) {
        return;
    }
    if (KV_FAULT()
        || epoll_ctl(mover->epoll_fd, EPOLL_CTL_MOD, conn->fd, &event) != 0) {
        kvt_tcp_break(mover, conn, KV_ERR_IO);
        return;
    }
    conn->interest = interest;
}

/* A new socket, dialled or adopted, set up and known to epoll. */
static bool
socket_ready(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t interest)
{
    const int on = 1;
    struct epoll_event event = {
        .events = interest, .data.u32 = kvt_tcp_conn_index(mover->port, conn)};

    /* The sizes of its buffers are left to the kernel, which grows them with the path;
     * setting one would switch that off. */
    if (conn->fd < 0 || KV_FAULT() || fcntl(conn->fd, F_SETFL, O_RDWR | O_NONBLOCK) != 0
        || setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0
        || epoll_ctl(mover->epoll_fd, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        return false;
    }
    conn->interest = interest;
    return true;
}

/* ---- dialling ------------------------------------------------------------------- */

static void connected(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    const bool offered = conn->offered;

    conn->state = offered ? KVT_TCP_OWNER : KVT_TCP_READER;
    kvt_tcp_watch(mover, conn, offered ? EPOLLIN | EPOLLRDHUP : EPOLLIN);
    if (conn->state != KVT_TCP_DEAD) {
        kvt_tcp_flush(mover, conn); /* the hello, and what was asked meanwhile */
    }
}

/* The next of its addresses that a connect can at least begin with. */
static void dial(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    while (conn->next_address < conn->nr_addresses) {
        const struct kvt_address *to = &conn->addresses[conn->next_address++];
        kvt_tcp_hang_up(mover->epoll_fd, conn);
        conn->fd = KV_FAULT() ? -1
                              : socket(
                                  to->at.ss_family,
                                  SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (!socket_ready(mover, conn, EPOLLOUT)) {
            continue;
        }
        if (connect(conn->fd, (const struct sockaddr *)&to->at, to->len) == 0) {
            connected(mover, conn);
            return;
        }
        if (errno == EINPROGRESS) {
            return;
        }
    }
    kvt_tcp_break(mover, conn, KV_ERR_LINK_LOST);
}

static void connecting(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
        dial(mover, conn);
    } else {
        connected(mover, conn);
    }
}

/* ---- commands ------------------------------------------------------------------- */

static void conn_init(struct kvt_tcp_conn *conn)
{
    const struct kvt_tcp_list empty = {KVT_TCP_NONE, KVT_TCP_NONE};

    KV_ASSERT(conn->state == KVT_TCP_UNUSED);
    conn->why = KV_OK;
    conn->interest = 0;
    conn->dirty = false;
    conn->hello_sent = 0;
    conn->queue = empty;
    conn->queue_sent = 0;
    conn->sent = empty;
    conn->landing = KVT_TCP_NONE;
    conn->pages_are_small = false;
    conn->nr_filled = conn->nr_taken = 0;
    conn->in_at = conn->in_len = 0;
}

static void adopt(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    conn_init(conn);
    conn->offered = false; /* until its first frame says so */
    conn->state = KVT_TCP_STRANGER;
    conn->hello_len = 0;
    conn->hello_deadline_ns = kvt_now_ns() + mover->port->hello_ns;
    list_add(mover, &mover->strangers, conn);
    if (!socket_ready(mover, conn, EPOLLIN | EPOLLRDHUP)) {
        kvt_tcp_break(mover, conn, KV_ERR_IO);
    }
}

static void close_conn(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    if (conn->state != KVT_TCP_DEAD) {
        conn_end(mover, conn);
    }
    conn->state = KVT_TCP_UNUSED;
    kvt_tcp_put(mover, KVT_TCP_CLOSED, kvt_tcp_conn_index(mover->port, conn), 0);
}

static void accept_conn(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    if (conn->state == KVT_TCP_INTRODUCED && !conn->offered) {
        conn->state = KVT_TCP_OWNER;
        kvt_tcp_receive_requests(mover, conn);
    } else if (conn->state == KVT_TCP_INTRODUCED && conn->in_len > 0) {
        kvt_tcp_break(mover, conn, KV_ERR_PROTOCOL); /* nobody has asked yet (3) */
    } else if (conn->state == KVT_TCP_INTRODUCED) {
        conn->in_at = 0;
        conn->state = KVT_TCP_READER;
        kvt_tcp_watch(mover, conn, EPOLLIN);
    }
}

static void tray_taken(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn)
{
    conn->nr_taken++;
    KV_ASSERT(conn->nr_taken <= conn->nr_filled);
    if (conn->state == KVT_TCP_OWNER) {
        kvt_tcp_receive_requests(mover, conn);
    }
}

static void post_read(struct kvt_tcp_mover *mover, uint32_t index)
{
    struct kvt_tcp_request *request = &mover->port->requests[index];
    struct kvt_tcp_conn *conn = conn_at(mover, request->conn);

    if (conn->state == KVT_TCP_DEAD) {
        lose_request(mover, request);
        return;
    }
    kvt_tcp_queue_request(mover, conn, index);
    if (conn->state == KVT_TCP_READER) {
        dirty(mover, conn);
    }
}

static void post_send(struct kvt_tcp_mover *mover, uint32_t index)
{
    struct kvt_tcp_op *op = &mover->port->ops[index];
    struct kvt_tcp_conn *conn = conn_at(mover, op->conn);

    if (conn->state == KVT_TCP_DEAD) {
        kvt_tcp_done(mover, op, KV_ERR_LINK_LOST);
        return;
    }
    kvt_tcp_queue_op(mover, conn, index);
    if (conn->state == KVT_TCP_OWNER) {
        dirty(mover, conn);
    }
}

static void obey(struct kvt_tcp_mover *mover, struct kvt_note note)
{
    switch ((enum kvt_tcp_command)note.kind) {
    case KVT_TCP_OPEN:
        conn_init(conn_at(mover, note.index));
        conn_at(mover, note.index)->state = KVT_TCP_CONNECTING;
        break;
    case KVT_TCP_DIAL:
        conn_at(mover, note.index)->next_address = 0;
        dial(mover, conn_at(mover, note.index));
        break;
    case KVT_TCP_ADOPT:
        adopt(mover, conn_at(mover, note.index));
        break;
    case KVT_TCP_ACCEPT:
        accept_conn(mover, conn_at(mover, note.index));
        break;
    case KVT_TCP_CLOSE:
        close_conn(mover, conn_at(mover, note.index));
        break;
    case KVT_TCP_TAKEN:
        tray_taken(mover, conn_at(mover, note.index));
        break;
    case KVT_TCP_READ:
        post_read(mover, note.index);
        break;
    case KVT_TCP_SEND:
        post_send(mover, note.index);
        break;
    case KVT_TCP_QUIT:
        mover->quit = true;
        break;
    }
}

/* ---- turns ---------------------------------------------------------------------- */

/* What a burst of commands has queued goes out together: 16 KiB pages share a call. */
static void flush_dirty(struct kvt_tcp_mover *mover)
{
    while (mover->dirty.first != KVT_TCP_NONE) {
        struct kvt_tcp_conn *conn = conn_at(mover, mover->dirty.first);
        list_remove(mover, &mover->dirty, conn);
        conn->dirty = false;
        if ((conn->interest & EPOLLOUT) == 0) {
            kvt_tcp_flush(mover, conn);
        }
    }
}

static void
turn_reader(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t events)
{
    /* What came before the end of the stream is read first; the end says itself. */
    if ((events & (EPOLLIN | EPOLLERR | EPOLLHUP)) != 0) {
        kvt_tcp_receive_pages(mover, conn);
    }
    if (conn->state == KVT_TCP_READER && (events & EPOLLOUT) != 0) {
        kvt_tcp_flush(mover, conn);
    }
}

static void
turn_owner(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t events)
{
    /* Nobody is left to send to, so what it still asked for does not matter. */
    if ((events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) != 0) {
        kvt_tcp_break(mover, conn, KV_ERR_LINK_LOST);
        return;
    }
    if ((events & EPOLLIN) != 0) {
        kvt_tcp_receive_requests(mover, conn);
    }
    if (conn->state == KVT_TCP_OWNER && (events & EPOLLOUT) != 0) {
        kvt_tcp_flush(mover, conn);
    }
}

static void
turn(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t events)
{
    switch (conn->state) {
    case KVT_TCP_CONNECTING:
        connecting(mover, conn);
        break;
    case KVT_TCP_READER:
        turn_reader(mover, conn, events);
        break;
    case KVT_TCP_STRANGER:
    case KVT_TCP_INTRODUCED:
    case KVT_TCP_OWNER:
        turn_owner(mover, conn, events);
        break;
    case KVT_TCP_UNUSED:
    case KVT_TCP_DEAD:
        KV_UNREACHABLE("a socket that is closed has no events");
    }
}

/* Strangers stand in the order of their deadlines, since all have the same time. */
static void expire_strangers(struct kvt_tcp_mover *mover)
{
    while (mover->strangers.first != KVT_TCP_NONE) {
        struct kvt_tcp_conn *conn = conn_at(mover, mover->strangers.first);
        if (conn->hello_deadline_ns > kvt_now_ns()) {
            return;
        }
        kvt_tcp_break(mover, conn, KV_ERR_DEADLINE);
    }
}

static int timeout_ms(struct kvt_tcp_mover *mover)
{
    if (mover->strangers.first == KVT_TCP_NONE) {
        return -1;
    }
    return kvt_timeout_ms(
        kvt_now_ns(), conn_at(mover, mover->strangers.first)->hello_deadline_ns);
}

static int wait(struct kvt_tcp_mover *mover, struct epoll_event *events)
{
    int timeout = timeout_ms(mover);
    int n;

    kvt_bell_rest(&mover->bell);
    if (!kvt_ring_empty(&mover->commands)) {
        timeout = 0;
    }
    n = epoll_wait(mover->epoll_fd, events, BATCH, timeout);
    kvt_bell_up(&mover->bell);
    KV_ASSERT(n >= 0 || errno == EINTR); /* signals are blocked, but a debugger's */
    return n;
}

void *kvt_tcp_mover_main(void *arg)
{
    struct kvt_tcp_mover *mover = arg;
    struct epoll_event events[BATCH];
    struct kvt_note note;

    (void)prctl(PR_SET_NAME, "kvt-tcp", 0, 0, 0);
    for (;;) {
        /* Slots are given out again only here, after all events of a batch: no event
         * can meet a younger connection than its own. */
        while (!mover->quit && kvt_ring_take(&mover->commands, &note)) {
            obey(mover, note);
        }
        if (mover->quit) {
            break;
        }
        flush_dirty(mover);
        bury_strangers(mover);
        tell(mover);
        const int n = wait(mover, events);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == KVT_TCP_NONE) {
                kvt_bell_heard(&mover->bell);
            } else {
                turn(mover, conn_at(mover, events[i].data.u32), events[i].events);
                tell(mover);
            }
        }
        expire_strangers(mover);
    }
    return NULL; /* the loop closes what is left open */
}
