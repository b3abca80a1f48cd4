/* The keeper: one thread that has the sockets, the pidfds and the ends of connections.
 *
 *   commands ──► epoll ──► a packet a connection, deaths ──► news, and the loop's bell
 *
 * It moves no pages, so nothing that it does takes long; what fails for want of memory
 * or descriptors is tried again at a tick.
 */
#include "transport/shm/shm_priv.h"

#include "base/fault.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

enum { BATCH = 64 };

/* What an event of epoll is of. */
enum { OF_SOCKET, OF_PIDFD, OF_BELL, OF_LISTENER };

static struct kvt_shm_conn *conn_at(struct kvt_shm_port *port, uint32_t index)
{
    KV_ASSERT(index < port->nr_conns);
    return &port->conns[index];
}

/* ---- lists of connections ------------------------------------------------------- */

void kvt_shm_list_add(
    struct kvt_shm_port *port, struct kvt_shm_list *list, struct kvt_shm_conn *conn)
{
    const uint32_t index = kvt_shm_conn_index(port, conn);

    conn->next = KVT_SHM_NONE;
    conn->prev = list->last;
    *(list->last == KVT_SHM_NONE ? &list->first : &conn_at(port, list->last)->next) =
        index;
    list->last = index;
}

void kvt_shm_list_remove(
    struct kvt_shm_port *port, struct kvt_shm_list *list, struct kvt_shm_conn *conn)
{
    *(conn->prev == KVT_SHM_NONE ? &list->first : &conn_at(port, conn->prev)->next) =
        conn->next;
    *(conn->next == KVT_SHM_NONE ? &list->last : &conn_at(port, conn->next)->prev) =
        conn->prev;
}

/* ---- news ----------------------------------------------------------------------- */

static void put(struct kvt_shm_port *port, enum kvt_shm_news kind, uint32_t index)
{
    kvt_ring_put(/* (4) */
                 &port->keeper.news,
                 (struct kvt_note){.kind = (uint16_t)kind, .index = index});
    port->keeper.has_news = true;
}

void kvt_shm_put(
    struct kvt_shm_port *port, enum kvt_shm_news kind, const struct kvt_shm_conn *conn)
{
    put(port, kind, kvt_shm_conn_index(port, conn));
}

static void tell(struct kvt_shm_port *port)
{
    if (port->keeper.has_news) {
        port->keeper.has_news = false;
        kvt_bell_ring(&port->bell);
    }
}

/* ---- the end of a connection ---------------------------------------------------- */

/* A child between fork and exec has the file, too: with it open epoll would go on
 * telling of a connection that is not there. */
static void forget(const struct kvt_shm_port *port, int fd)
{
    if (port->keeper.epoll_fd >= 0) {
        (void)epoll_ctl(port->keeper.epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    }
    close(fd);
}

void kvt_shm_shut(const struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    if (conn->fd >= 0) {
        forget(port, conn->fd);
    }
    conn->fd = -1;
}

static void close_fds(const struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    kvt_shm_shut(port, conn);
    if (conn->pidfd >= 0) {
        forget(port, conn->pidfd);
    }
    conn->pidfd = -1;
}

void kvt_shm_hang_up(const struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    kvt_shm_unmap(conn);
    if (conn->state == KVT_SHM_SAID || conn->state == KVT_SHM_MAPPED
        || conn->state == KVT_SHM_LEAVING || conn->state == KVT_SHM_PARTING) {
        uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
        (void)kvt_shm_send(conn->fd, bytes, kvt_shm_write_goodbye(bytes), NULL, 0);
    }
    close_fds(port, conn);
    conn->state = KVT_SHM_UNUSED;
}

void kvt_shm_dead(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    const bool stranger = conn->state == KVT_SHM_STRANGER;

    close_fds(port, conn);
    conn->state = KVT_SHM_DEAD;
    if (stranger) {
        conn->state = KVT_SHM_UNUSED;
        kvt_shm_put(port, KVT_SHM_GONE, conn); /* (6) */
    } else if (conn->closing) {
        conn->state = KVT_SHM_UNUSED;
        kvt_shm_put(port, KVT_SHM_CLOSED, conn);
    }
}

static void end(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    switch (conn->state) {
    case KVT_SHM_DIALLING:
    case KVT_SHM_CONNECTED:
    case KVT_SHM_SAID:
    case KVT_SHM_MAPPED:
        kvt_shm_reader_end(port, conn);
        break;
    case KVT_SHM_STRANGER:
    case KVT_SHM_INTRODUCED:
    case KVT_SHM_OWNER:
        kvt_shm_owner_end(port, conn);
        break;
    case KVT_SHM_LEAVING:
    case KVT_SHM_PARTING:
    case KVT_SHM_FENCING:
        break; /* it is ending */
    case KVT_SHM_DEAD:
        kvt_shm_dead(port, conn);
        break;
    case KVT_SHM_UNUSED:
        KV_UNREACHABLE("a slot without a connection has no end");
    }
}

void kvt_shm_break(
    struct kvt_shm_port *port, struct kvt_shm_conn *conn, kv_status_t why)
{
    if (!conn->closing && !conn->told && conn->state != KVT_SHM_STRANGER) {
        conn->told = true;
        conn->why = why;
        kvt_shm_put(port, KVT_SHM_BROKEN, conn);
    }
    end(port, conn);
}

/* ---- epoll ---------------------------------------------------------------------- */

static bool
watch(struct kvt_shm_port *port, int op, int fd, uint32_t events, uint64_t of)
{
    struct epoll_event event = {.events = events, .data.u64 = of};

    return !KV_FAULT() && epoll_ctl(port->keeper.epoll_fd, op, fd, &event) == 0;
}

bool kvt_shm_watch(struct kvt_shm_port *port, struct kvt_shm_conn *conn, bool pidfd)
{
    const uint64_t index = kvt_shm_conn_index(port, conn);

    return pidfd
               ? watch(port, EPOLL_CTL_ADD, conn->pidfd, EPOLLIN, index << 2 | OF_PIDFD)
               : watch(
                   port, EPOLL_CTL_ADD, conn->fd, EPOLLIN | EPOLLRDHUP,
                   index << 2 | OF_SOCKET);
}

/* One knock at a time: the loop answers it with LISTEN. */
static void listen_again(struct kvt_shm_port *port)
{
    port->keeper.is_paused = !watch(
        port, EPOLL_CTL_MOD, port->listen_fd, EPOLLIN | EPOLLONESHOT, OF_LISTENER);
    if (port->keeper.is_paused) {
        kvt_shm_tick(port);
    }
}

void kvt_shm_tick(struct kvt_shm_port *port)
{
    if (!port->keeper.is_ticking) {
        port->keeper.is_ticking = true;
        port->keeper.tick_ns = kvt_now_ns() + KVT_SHM_TICK_MS * UINT64_C(1000000);
    }
}

/* ---- commands ------------------------------------------------------------------- */

/* The loop has filled path and hello, or fd. */
static struct kvt_shm_conn *conn_init(struct kvt_shm_port *port, uint32_t index)
{
    struct kvt_shm_conn *conn = conn_at(port, index);

    KV_ASSERT(conn->state == KVT_SHM_UNUSED && conn->pidfd < 0);
    conn->told = conn->closing = false;
    conn->why = KV_OK;
    conn->pid = 0;
    conn->goodbye_tries = 0;
    conn->nr_maps = 0;
    KV_ASSERT(atomic_load_explicit(&conn->copying, memory_order_relaxed) == 0);
    atomic_store_explicit(&conn->ending, false, memory_order_relaxed);
    return conn;
}

static void close_conn(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    KV_ASSERT(conn->state != KVT_SHM_UNUSED && !conn->closing);
    conn->closing = true;
    end(port, conn);
}

static void obey(struct kvt_shm_port *port, struct kvt_note note)
{
    switch ((enum kvt_shm_command)note.kind) {
    case KVT_SHM_OPEN:
        kvt_shm_reader_dial(port, conn_init(port, note.index));
        break;
    case KVT_SHM_ADOPT:
        kvt_shm_owner_adopt(port, conn_init(port, note.index));
        break;
    case KVT_SHM_ACCEPT:
        kvt_shm_owner_accept(port, conn_at(port, note.index));
        break;
    case KVT_SHM_CLOSE:
        close_conn(port, conn_at(port, note.index));
        break;
    case KVT_SHM_LISTEN:
        listen_again(port);
        break;
    case KVT_SHM_PAUSE:
        port->keeper.is_paused = true;
        kvt_shm_tick(port);
        break;
    case KVT_SHM_QUIT:
        port->keeper.quit = true;
        break;
    }
}

/* ---- turns ---------------------------------------------------------------------- */

/* A connection has two descriptors, and the event of the one may have ended it before
 * that of the other is looked at: then its slot waits for the loop, or is unused. Slots
 * are begun anew only between batches. */
static void turn(struct kvt_shm_port *port, struct kvt_shm_conn *conn, bool pidfd)
{
    switch (conn->state) {
    case KVT_SHM_CONNECTED:
    case KVT_SHM_SAID:
    case KVT_SHM_MAPPED:
        kvt_shm_reader_turn(port, conn);
        break;
    case KVT_SHM_STRANGER:
    case KVT_SHM_INTRODUCED:
    case KVT_SHM_OWNER:
    case KVT_SHM_FENCING:
        if (pidfd) {
            kvt_shm_owner_death(port, conn);
        } else {
            kvt_shm_owner_turn(port, conn);
        }
        break;
    case KVT_SHM_UNUSED:
    case KVT_SHM_DEAD:
        break;
    case KVT_SHM_DIALLING:
    case KVT_SHM_LEAVING:
    case KVT_SHM_PARTING:
        KV_UNREACHABLE("such a connection has no descriptor in epoll");
    }
}

static void take_event(struct kvt_shm_port *port, uint64_t of)
{
    switch (of & 3) {
    case OF_BELL:
        kvt_bell_heard(&port->keeper.bell);
        break;
    case OF_LISTENER:
        put(port, KVT_SHM_KNOCK, 0);
        break;
    case OF_SOCKET:
    case OF_PIDFD:
        turn(port, conn_at(port, (uint32_t)(of >> 2)), (of & 3) == OF_PIDFD);
        break;
    }
}

/* Strangers stand in the order of their deadlines, since all have the same time. */
static void expire_strangers(struct kvt_shm_port *port)
{
    while (port->keeper.strangers.first != KVT_SHM_NONE) {
        struct kvt_shm_conn *conn = conn_at(port, port->keeper.strangers.first);
        if (conn->hello_deadline_ns > kvt_now_ns()) {
            return;
        }
        kvt_shm_break(port, conn, KV_ERR_DEADLINE);
    }
}

static void expire_tick(struct kvt_shm_port *port)
{
    if (!port->keeper.is_ticking || kvt_now_ns() < port->keeper.tick_ns) {
        return;
    }
    port->keeper.is_ticking = false;
    if (port->keeper.is_paused) {
        listen_again(port);
    }
    for (uint32_t i = 0; i < port->nr_conns; i++) {
        if (port->conns[i].state == KVT_SHM_DIALLING) {
            kvt_shm_reader_dial(port, &port->conns[i]);
        } else if (port->conns[i].state == KVT_SHM_PARTING) {
            kvt_shm_reader_goodbye(port, &port->conns[i]);
        }
    }
}

static int timeout_ms(struct kvt_shm_port *port)
{
    uint64_t at = UINT64_MAX;

    if (port->keeper.strangers.first != KVT_SHM_NONE) {
        at = conn_at(port, port->keeper.strangers.first)->hello_deadline_ns;
    }
    if (port->keeper.is_ticking && port->keeper.tick_ns < at) {
        at = port->keeper.tick_ns;
    }
    return at == UINT64_MAX ? -1 : kvt_timeout_ms(kvt_now_ns(), at);
}

static int wait(struct kvt_shm_port *port, struct epoll_event *events)
{
    int n;

    kvt_bell_rest(&port->keeper.bell);
    /* A last copy that ended before the bell was at rest has rung nothing. */
    kvt_shm_readers_part(port);
    tell(port);
    const int timeout = kvt_ring_empty(&port->keeper.commands) ? timeout_ms(port) : 0;
    n = epoll_wait(port->keeper.epoll_fd, events, BATCH, timeout);
    kvt_bell_up(&port->keeper.bell);
    KV_ASSERT(n >= 0 || errno == EINTR); /* signals are blocked, but a debugger's */
    return n;
}

static kv_status_t watch_own(struct kvt_shm_port *port)
{
    if (!watch(port, EPOLL_CTL_ADD, port->keeper.bell.fd, EPOLLIN, OF_BELL)) {
        return KV_ERR_IO;
    }
    return port->listen_fd < 0
                   || watch(
                       port, EPOLL_CTL_ADD, port->listen_fd, EPOLLIN | EPOLLONESHOT,
                       OF_LISTENER)
               ? KV_OK
               : KV_ERR_IO;
}

kv_status_t kvt_shm_keeper_init(struct kvt_shm_port *port)
{
    const struct kvt_shm_list empty = {KVT_SHM_NONE, KVT_SHM_NONE};
    struct kvt_shm_keeper *keeper = &port->keeper;

    keeper->strangers = keeper->leavers = empty;
    /* (4) */
    if (kvt_ring_init(
            &keeper->commands,
            KVT_SHM_CONN_COMMANDS * port->nr_conns + KVT_SHM_PORT_COMMANDS)
            != KV_OK
        || kvt_ring_init(
               &keeper->news, KVT_SHM_CONN_NEWS * port->nr_conns + KVT_SHM_PORT_NEWS)
               != KV_OK) {
        return KV_ERR_NOMEM;
    }
    keeper->epoll_fd = KV_FAULT() ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (keeper->epoll_fd < 0 || kvt_bell_init(&keeper->bell) != KV_OK) {
        return KV_ERR_IO;
    }
    return watch_own(port);
}

void *kvt_shm_keeper_main(void *arg)
{
    struct kvt_shm_port *port = arg;
    struct epoll_event events[BATCH];
    struct kvt_note note;

    (void)prctl(PR_SET_NAME, "kvt-shm", 0, 0, 0);
    for (;;) {
        while (!port->keeper.quit && kvt_ring_take(&port->keeper.commands, &note)) {
            obey(port, note);
        }
        if (port->keeper.quit) {
            return NULL; /* the loop hangs up what is left */
        }
        const int n = wait(port, events);
        for (int i = 0; i < n; i++) {
            take_event(port, events[i].data.u64);
        }
        expire_strangers(port);
        expire_tick(port);
        tell(port);
    }
}
