#include "node/daemon/links_priv.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIT(state) (1u << (state))
static const uint8_t conn_next[KVN_NR_CONN_STATES] = {
    [KVN_CONN_RESOLVE] = BIT(KVN_CONN_CONNECT) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_CONNECT] =
        BIT(KVN_CONN_SHAKE) | BIT(KVN_CONN_HELLO) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_SNIFF] = BIT(KVN_CONN_SHAKE) | BIT(KVN_CONN_HELLO) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_SHAKE] = BIT(KVN_CONN_HELLO) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_HELLO] = BIT(KVN_CONN_UP) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_UP] = BIT(KVN_CONN_LINGER) | BIT(KVN_CONN_CLOSED),
    [KVN_CONN_LINGER] = BIT(KVN_CONN_CLOSED),
    [KVN_CONN_CLOSED] = 0,
};

static bool introduced(const struct kvn_conn *conn)
{
    return conn->state >= KVN_CONN_UP;
}

static void conn_check(const struct kvn_conn *conn)
{
    const struct kvn_links *links = conn->links;
    KV_ASSERT(KV_IMPLIES(conn->state == KVN_CONN_RESOLVE, conn->dialled)); /* (1) */
    KV_ASSERT(KV_IMPLIES(conn->state == KVN_CONN_SNIFF, !conn->dialled));  /* (2) */
    if (conn->state == KVN_CONN_CLOSED) {
        KV_ASSERT(links->conns[conn->slot] != conn); /* (7) */
        KV_ASSERT(conn->fd < 0 && conn->watch == NULL);
        return;
    }
    KV_ASSERT(links->conns[conn->slot] == conn);
    KV_ASSERT(KV_IMPLIES(
        conn->dialled && !introduced(conn),
        links->targets[conn->peer].dial == conn)); /* (3) */
    KV_ASSERT(KV_IMPLIES(introduced(conn), conn->peer < links->nr_targets));
    KV_ASSERT(KV_IMPLIES(conn->state == KVN_CONN_UP, conn->frame_buffer != NULL));
}

void kvn_conn_move(struct kvn_conn *conn, enum kvn_conn_state next)
{
    KV_ASSERT(conn_next[conn->state] & BIT(next));
    conn->state = next;
    conn_check(conn);
}

bool kvn_conn_takes(const struct kvn_conn *conn)
{
    return (conn->state == KVN_CONN_HELLO || conn->state == KVN_CONN_UP)
           && !conn->broken && !conn->hang_up && !conn->links->closing;
}

/* ---- handles --------------------------------------------------------------------- */

static void handle_gone(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    KV_ASSERT(conn->nr_handles > 0);
    if (--conn->nr_handles == 0) {
        KV_ASSERT(conn->state == KVN_CONN_CLOSED);
        kv_free(conn);
    }
    links->nr_handles--;
    kvn_links_handle_closed(links);
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_gone(handle->data);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct kvn_watch *watch = handle->data;
    struct kvn_conn *conn = watch->conn;
    kv_free(watch);
    handle_gone(conn);
}

static void on_timer(uv_timer_t *timer);
static void on_poll(uv_poll_t *poll, int ret, int events);

static void timer_start(struct kvn_conn *conn, uint64_t us)
{
    uv_timer_start(&conn->timer, on_timer, (us + 999) / 1000, 0);
}

void kvn_conn_watch_for(struct kvn_conn *conn, int events)
{
    if (conn->watched != events) {
        conn->watched = events;
        uv_poll_start(&conn->watch->poll, events, on_poll);
    }
}

kv_status_t kvn_conn_watch(struct kvn_conn *conn, int fd, int events)
{
    struct kvn_links *links = conn->links;
    KV_ASSERT(conn->fd < 0 && conn->watch == NULL);
    struct kvn_watch *watch = kv_calloc(1, sizeof(*watch));
    if (watch == NULL) {
        goto err_close;
    }
    if (KV_FAULT() || uv_poll_init(links->loop, &watch->poll, fd) != 0) {
        goto err_free;
    }
    watch->poll.data = watch;
    watch->conn = conn;
    conn->watch = watch;
    conn->fd = fd;
    conn->nr_handles++;
    links->nr_handles++;
    conn->watched = 0;
    kvn_conn_watch_for(conn, events);
    return KV_OK;

err_free:
    kv_free(watch);
err_close:
    close(fd);
    return KV_ERR_NOMEM;
}

/* The descriptor stays, and stays open. */
void kvn_conn_unwatch(struct kvn_conn *conn)
{
    if (conn->watch != NULL) {
        /* At once out of epoll: the descriptor may be another's in the next line. */
        uv_poll_stop(&conn->watch->poll);
        uv_close((uv_handle_t *)&conn->watch->poll, on_watch_closed);
        conn->watch = NULL;
    }
}

struct kvn_conn *kvn_conn_create(struct kvn_links *links, bool dialled, uint32_t peer)
{
    if (links->nr_free == 0) {
        return NULL; /* slots suffice for all bounds: only more lingering ones */
    }
    struct kvn_conn *conn = kv_calloc(1, sizeof(*conn));
    if (conn == NULL) {
        return NULL;
    }
    conn->links = links;
    conn->dialled = dialled;
    conn->peer = peer;
    conn->fd = -1;
    conn->state = dialled ? KVN_CONN_RESOLVE : KVN_CONN_SNIFF;
    conn->slot = links->free_slots[--links->nr_free];
    conn->number = ++links->serial << KVN_LINKS_SLOT_BITS | conn->slot; /* (4) */
    KV_ASSERT(links->conns[conn->slot] == NULL);
    links->conns[conn->slot] = conn;
    uv_timer_init(links->loop, &conn->timer); /* cannot fail */
    conn->timer.data = conn;
    conn->nr_handles++;
    links->nr_handles++;
    timer_start(conn, links->handshake_us);
    return conn;
}

/* ---- the end --------------------------------------------------------------------- */

void kvn_conn_break(struct kvn_conn *conn, const char *format, ...)
{
    va_list args;
    if (!conn->broken) {
        va_start(args, format);
        vsnprintf(conn->reason, sizeof(conn->reason), format, args);
        va_end(args);
        kvn_conn_call(conn, &conn->broken);
    }
}

/* The same failure again and again, as of a node that is down, is one warning. */
static void log_dial_failed(struct kvn_conn *conn)
{
    struct kvn_links_target *target = &conn->links->targets[conn->peer];
    const bool again = strcmp(target->reason, conn->reason) == 0;
    snprintf(target->reason, sizeof(target->reason), "%s", conn->reason);
    if (again) {
        kv_log(
            KV_LOG_DEBUG, "link", "node %" PRIu32 " not reached: %s", target->id,
            conn->reason);
    } else {
        kv_log(
            KV_LOG_WARN, "link", "node %" PRIu32 " not reached: %s", target->id,
            conn->reason);
    }
}

static void log_end(struct kvn_conn *conn)
{
    if (introduced(conn)) {
        kv_log(
            KV_LOG_INFO, "link", "node %" PRIu32 " at %s ended: %s",
            conn->links->targets[conn->peer].id, conn->addr_text, conn->reason);
    } else if (conn->dialled) {
        log_dial_failed(conn);
    } else {
        kv_log(KV_LOG_WARN, "link", "%s refused: %s", conn->addr_text, conn->reason);
    }
}

static void leave_hellos(struct kvn_conn *conn)
{
    KV_ASSERT(!TAILQ_EMPTY(&conn->links->hellos));
    TAILQ_REMOVE(&conn->links->hellos, conn, in_hellos);
}

/* A last word, if the socket takes it: the alert that says why, or goodbye. */
static void last_word(struct kvn_conn *conn)
{
    if (conn->fd < 0 || conn->tls == NULL || conn->state == KVN_CONN_LINGER) {
        return;
    }
    kvn_tls_bye(conn->tls);
    if (kvn_conn_pull(conn)) {
        (void)kvn_conn_send_out(conn);
    }
}

/* Out of all lists, and without all that is not libuv's to give back. (7) */
static void conn_close(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    if (!conn->dialled && !introduced(conn)) {
        leave_hellos(conn);
    }
    if (conn->dialled && !introduced(conn)) {
        links->targets[conn->peer].dial = NULL;
    }
    links->nr_lingers -= conn->state == KVN_CONN_LINGER;
    if (conn->has_turn) {
        TAILQ_REMOVE(&links->turns, conn, in_turn);
        conn->has_turn = false;
    }
    kvn_conn_unwatch(conn);
    if (conn->fd >= 0) {
        close(conn->fd);
        conn->fd = -1;
    }
    kvn_tls_close(conn->tls);
    conn->tls = NULL;
    kvn_outbox_free(&conn->out);
    kv_free(conn->frame_buffer);
    links->conns[conn->slot] = NULL;
    links->free_slots[links->nr_free++] = conn->slot;
    uv_timer_stop(&conn->timer);
    uv_close((uv_handle_t *)&conn->timer, on_timer_closed);
    kvn_conn_move(conn, KVN_CONN_CLOSED);
}

static void conn_end(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    const enum kvn_conn_state was = conn->state;
    KV_ASSERT(was != KVN_CONN_CLOSED);
    if (was != KVN_CONN_LINGER) {
        log_end(conn);
    }
    last_word(conn);
    conn_close(conn);
    if (was == KVN_CONN_UP) {
        links->events.down(links->events.arg, conn->peer, conn->number);
    } else if (conn->dialled && was < KVN_CONN_UP) {
        links->counts.dial_failed++;
        links->counts.handshake_failed += was >= KVN_CONN_SHAKE;
        links->events.dial_failed(links->events.arg, conn->peer);
    } else if (was < KVN_CONN_UP) {
        links->counts.handshake_failed++;
    }
}

void kvn_conn_end(struct kvn_conn *conn, const char *format, ...)
{
    va_list args;
    if (!conn->broken) { /* else the cause is known */
        va_start(args, format);
        vsnprintf(conn->reason, sizeof(conn->reason), format, args);
        va_end(args);
    }
    conn_end(conn);
}

/* Nothing more is written; the peer is given time to read what was. To close at once
 * could make the kernel throw that away, when bytes of the peer are unread here. */
static void linger_on(struct kvn_conn *conn)
{
    kvn_conn_flush(conn);
    if (!conn->broken && conn->out.len == 0) {
        (void)shutdown(conn->fd, SHUT_WR);
    }
}

void kvn_conn_linger(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    KV_ASSERT(conn->state == KVN_CONN_UP);
    if (links->nr_lingers == KVN_LINKS_LINGER_MAX) {
        kvn_conn_end(conn, "hung up");
        return;
    }
    snprintf(conn->reason, sizeof(conn->reason), "hung up");
    log_end(conn);
    links->nr_lingers++;
    kvn_conn_move(conn, KVN_CONN_LINGER);
    conn->hang_up = false;
    timer_start(conn, UINT64_C(1000) * KVN_LINKS_LINGER_MS);
    if (conn->tls != NULL) {
        kvn_tls_bye(conn->tls);
        (void)kvn_conn_pull(conn);
    }
    linger_on(conn);
    links->events.down(links->events.arg, conn->peer, conn->number);
}

static void on_timer(uv_timer_t *timer)
{
    struct kvn_conn *conn = timer->data;
    const struct kvn_links *links = conn->links;
    switch (conn->state) {
    case KVN_CONN_UP:
        kvn_conn_end(
            conn, "a frame took more than %" PRIu64 " ms", links->frame_us / 1000);
        break;
    case KVN_CONN_LINGER:
        kvn_conn_end(conn, "hung up");
        break;
    default:
        kvn_conn_end(conn, "no link within %" PRIu64 " ms", links->handshake_us / 1000);
    }
}

/* ---- the beginning --------------------------------------------------------------- */

/* The oldest of this peer gives way: the newest that authenticated is that node. */
static void make_room(struct kvn_links *links, uint32_t peer)
{
    struct kvn_conn *oldest = NULL;
    unsigned nr = 0;
    for (uint32_t i = 0; i < links->nr_slots; i++) {
        struct kvn_conn *conn = links->conns[i];
        if (conn != NULL && conn->state == KVN_CONN_UP && conn->peer == peer) {
            nr++;
            if (oldest == NULL || conn->number < oldest->number) {
                oldest = conn;
            }
        }
    }
    if (nr >= KVN_LINKS_PEER_CONNS_MAX) {
        kvn_conn_end(
            oldest, "%u connections of that node, the limit is %d: the oldest goes", nr,
            KVN_LINKS_PEER_CONNS_MAX);
    }
}

static void go_up(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    struct kvn_links_target *target = &links->targets[conn->peer];
    make_room(links, conn->peer);
    if (!kvn_conn_takes(conn)) {
        return; /* what its end called has closed us */
    }
    if (conn->dialled) {
        target->dial = NULL;
    } else {
        leave_hellos(conn);
    }
    target->reason[0] = '\0';
    uv_timer_stop(&conn->timer);
    kvn_conn_move(conn, KVN_CONN_UP);
    kv_log(
        KV_LOG_INFO, "link", "node %" PRIu32 " at %s linked, %s", target->id,
        conn->addr_text, conn->dialled ? "dialled" : "accepted");
    links->events.up(links->events.arg, conn->peer, conn->number, conn->dialled);
}

/* Who it is, is known or claimed: our hello goes out, theirs is waited for. */
static void begin_hello(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    uint8_t hello[KVN_HELLO_BYTES];
    conn->frame_buffer = kv_calloc(1, KV_MSG_BYTES_MAX);
    if (conn->frame_buffer == NULL) {
        kvn_conn_end(conn, "out of memory");
        return;
    }
    kvn_frames_init(&conn->frames, conn->frame_buffer, KV_MSG_BYTES_MAX);
    kvn_conn_move(conn, KVN_CONN_HELLO);
    kvn_hello_make(links->targets[links->self].id, hello);
    if (kvn_conn_put(conn, hello, sizeof(hello))) {
        kvn_conn_flush(conn);
    }
}

/* Is `node` the peer of this connection? It then is, for good. */
static bool take_peer(struct kvn_conn *conn, uint32_t node)
{
    struct kvn_links *links = conn->links;
    const uint32_t peer = kvn_links_find(links, node);
    if (peer == KVN_LINKS_NO_PEER) {
        kvn_conn_end(conn, "node %" PRIu32 " is not in the view", node);
        return false;
    }
    if (peer == links->self) {
        kvn_conn_end(conn, "says that it is node %" PRIu32 ", which we are", node);
        return false;
    }
    if (conn->peer != KVN_LINKS_NO_PEER && conn->peer != peer) {
        kvn_conn_end(
            conn, "node %" PRIu32 " where node %" PRIu32 " was expected", node,
            links->targets[conn->peer].id);
        return false;
    }
    conn->peer = peer;
    return true;
}

/* No node, but a tenant's client: others speak with it from here on. */
static void hand_client(struct kvn_conn *conn, uint32_t tenant)
{
    struct kvn_links *links = conn->links;
    kvn_tls_session_t *tls = conn->tls;
    const int fd = conn->fd;
    if (links->events.client == NULL || conn->out.len > 0) {
        kvn_conn_end(conn, "a client of tenant %" PRIu32 ", not taken here", tenant);
        return;
    }
    kvn_conn_unwatch(conn);
    conn->fd = -1;
    conn->tls = NULL;
    conn_close(conn); /* its memory stays until the loop has closed its handles */
    links->events.client(links->events.arg, fd, tls, tenant, conn->addr_text);
}

static void shake_done(struct kvn_conn *conn)
{
    uint32_t tenant;
    if (kvn_tls_tenant(conn->tls, &tenant)) {
        hand_client(conn, tenant);
        return;
    }
    if (take_peer(conn, kvn_tls_peer(conn->tls))) {
        begin_hello(conn);
    }
}

static void begin_tls(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    const uint32_t node =
        conn->dialled ? links->targets[conn->peer].id : (uint32_t)KVN_TLS_NO_NODE;
    const kv_status_t status =
        kvn_tls_open(links->tls, conn->dialled, node, &conn->tls);
    if (status != KV_OK) {
        kvn_conn_end(conn, "%s", kv_status_text(status));
        return;
    }
    kvn_conn_move(conn, KVN_CONN_SHAKE);
    if (kvn_conn_pull(conn)) {
        kvn_conn_flush(conn);
    }
}

void kvn_conn_connected(struct kvn_conn *conn)
{
    kvn_conn_watch_for(conn, UV_READABLE);
    if (conn->links->tls != NULL) {
        begin_tls(conn);
    } else {
        begin_hello(conn);
    }
}

/* ---- what comes ------------------------------------------------------------------ */

void kvn_conn_set_low_water(int fd, int bytes)
{
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

/* Whoever gets the socket finds it as if nobody had looked. */
static void hand_over(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    const int fd = conn->fd;
    kvn_conn_unwatch(conn);
    conn->fd = -1;
    conn_close(conn);
    links->events.data(links->events.arg, fd);
}

/* The low water mark keeps a socket with fewer bytes from being readable, so that one
 * who sends them one by one is not looked at again and again. */
static void sniff(struct kvn_conn *conn)
{
    uint8_t bytes[KVN_SNIFF_BYTES];
    const ssize_t ret = recv(conn->fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);
    if (ret < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (ret <= 0) {
        kvn_conn_end(conn, "%s", ret == 0 ? "left without a word" : strerror(errno));
        return;
    }
    const bool tls = conn->links->tls != NULL;
    kvn_conn_set_low_water(conn->fd, 1);
    switch (kvn_sniff(bytes, (size_t)ret)) {
    case KVN_SNIFF_DATA:
        hand_over(conn);
        break;
    case KVN_SNIFF_TLS:
        if (tls && !kvn_links_may_shake(conn->links, &conn->addr)) {
            conn->links->counts.refused++;
            kvn_conn_end(
                conn, "begins more than %d handshakes a second",
                1000000 / KVN_LINKS_SHAKE_US);
        } else if (tls) {
            begin_tls(conn);
        } else {
            kvn_conn_end(conn, "speaks TLS, and we have no credentials");
        }
        break;
    case KVN_SNIFF_CLEAR:
        if (tls) {
            kvn_conn_end(conn, "speaks in clear, and we have credentials");
        } else {
            begin_hello(conn);
        }
        break;
    case KVN_SNIFF_MORE:
        kvn_conn_end(conn, "left after %zd bytes", ret);
        break;
    case KVN_SNIFF_NONE:
        kvn_conn_end(conn, "is no node: its first byte is 0x%02x", bytes[0]);
    }
}

static void take_frames(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    struct kvn_links *links = conn->links;
    struct kv_detail detail = {0};
    const uint8_t *frame;
    uint32_t frame_len;
    while (kvn_conn_takes(conn)) {
        const kv_status_t status =
            kvn_frames_next(&conn->frames, &bytes, &len, &frame, &frame_len, &detail);
        if (status == KV_INPROGRESS) {
            return;
        }
        if (status != KV_OK) {
            kvn_conn_end(
                conn, "%s is %" PRIu64 ", the limit is %" PRIu64, detail.field,
                detail.value, detail.limit);
            return;
        }
        conn->nr_frames++;
        links->counts.frames_in++;
        links->events.frame(
            links->events.arg, conn->peer, conn->number, frame, frame_len);
    }
}

static void take_clear(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    uint32_t node;
    if (conn->state == KVN_CONN_HELLO) {
        const kv_status_t status = kvn_hello_take(&conn->hello, &bytes, &len, &node);
        if (status == KV_INPROGRESS) {
            return;
        }
        if (status != KV_OK) {
            kvn_conn_end(conn, "its hello is malformed");
            return;
        }
        if (!take_peer(conn, node)) {
            return;
        }
        go_up(conn);
    }
    if (conn->state == KVN_CONN_UP) {
        take_frames(conn, bytes, len);
    }
}

static void take_cipher(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    struct kvn_links *links = conn->links;
    if (kvn_tls_in(conn->tls, bytes, len) != KV_OK) {
        kvn_conn_end(conn, "%s", kvn_tls_reason(conn->tls));
        return;
    }
    if (conn->state == KVN_CONN_SHAKE && kvn_conn_pull(conn)) {
        kvn_conn_flush(conn);
        if (!conn->broken && kvn_tls_ready(conn->tls)) {
            shake_done(conn);
        }
    }
    size_t nr = 1;
    while (nr > 0 && kvn_conn_takes(conn)) {
        const kv_status_t status =
            kvn_tls_read(conn->tls, links->clear, sizeof(links->clear), &nr);
        if (status != KV_OK) {
            kvn_conn_end(conn, "%s", kvn_tls_reason(conn->tls));
            return;
        }
        if (nr > 0) {
            take_clear(conn, links->clear, nr);
        }
    }
    /* Answers that TLS gives by itself, such as to a change of keys. */
    if (kvn_conn_takes(conn) && kvn_conn_pull(conn)) {
        kvn_conn_flush(conn);
    }
}

/* (5): a frame that has begun is whole within frame_us, and so is the record before its
 * first byte can be seen; a stream of whole frames begins anew with each. */
static void time_frames(struct kvn_conn *conn, uint64_t nr_frames_before)
{
    if (conn->state != KVN_CONN_UP) {
        return;
    }
    const bool begun = kvn_frames_begun(&conn->frames)
                       || (conn->tls != NULL && kvn_tls_partial(conn->tls));
    if (!begun) {
        uv_timer_stop(&conn->timer);
    } else if (!conn->timing || conn->nr_frames != nr_frames_before) {
        timer_start(conn, conn->links->frame_us);
    }
    conn->timing = begun;
}

static void readable(struct kvn_conn *conn)
{
    struct kvn_links *links = conn->links;
    const uint64_t nr_frames = conn->nr_frames;
    const ssize_t ret =
        recv(conn->fd, links->cipher, sizeof(links->cipher), MSG_DONTWAIT);
    if (ret < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (ret <= 0) {
        kvn_conn_end(conn, "%s", ret == 0 ? "the peer closed it" : strerror(errno));
        return;
    }
    if (conn->state == KVN_CONN_LINGER) { /* (6) */
        return;
    }
    links->counts.bytes_in += (uint64_t)ret;
    if (conn->tls != NULL) {
        take_cipher(conn, links->cipher, (size_t)ret);
    } else {
        take_clear(conn, links->cipher, (size_t)ret);
    }
    time_frames(conn, nr_frames);
}

static int socket_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        return errno;
    }
    return error == 0 ? EIO : error;
}

static void on_poll(uv_poll_t *poll, int ret, int events)
{
    struct kvn_conn *conn = ((struct kvn_watch *)poll->data)->conn;
    if (conn->links->closing || conn->broken) {
        return; /* its turn comes */
    }
    if (conn->state == KVN_CONN_CONNECT) {
        kvn_dial_connected(conn, ret < 0 ? EIO : 0);
        return;
    }
    if (ret < 0) {
        kvn_conn_end(conn, "%s", strerror(socket_error(conn->fd)));
        return;
    }
    if (conn->state == KVN_CONN_SNIFF) {
        sniff(conn);
        return;
    }
    if ((events & UV_WRITABLE) != 0) {
        if (conn->state == KVN_CONN_LINGER) {
            linger_on(conn);
        } else {
            kvn_conn_flush(conn);
        }
    }
    if ((events & UV_READABLE) != 0 && !conn->broken) {
        readable(conn);
    }
}
