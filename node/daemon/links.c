#define _GNU_SOURCE /* accept4 */

#include "node/daemon/links_priv.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOT_MASK = (1 << KVN_LINKS_SLOT_BITS) - 1 };

/* All that the bounds allow at one time. */
static uint32_t nr_slots_for(uint32_t nr_peers)
{
    return KVN_LINKS_HELLO_CONNS_MAX + KVN_LINKS_LINGER_MAX
           + nr_peers * (KVN_LINKS_PEER_CONNS_MAX + 1);
}

uint32_t kvn_links_find(const struct kvn_links *links, uint32_t id)
{
    for (uint32_t i = 0; i < links->nr_targets; i++) {
        if (links->targets[i].id == id) {
            return i;
        }
    }
    return KVN_LINKS_NO_PEER;
}

/* NULL: no link of that number is up, or its end is only to be said yet. */
static struct kvn_conn *conn_find(const struct kvn_links *links, uint64_t number)
{
    const uint64_t slot = number & SLOT_MASK;
    struct kvn_conn *conn = slot < links->nr_slots ? links->conns[slot] : NULL;
    if (conn == NULL || conn->number != number || conn->state != KVN_CONN_UP
        || conn->broken || conn->hang_up || links->closing) {
        return NULL;
    }
    return conn;
}

/* ---- the turn -------------------------------------------------------------------- */

static void on_turn(uv_idle_t *turn);

void kvn_links_wake(struct kvn_links *links)
{
    if (!links->ending) {
        uv_idle_start(&links->turn, on_turn);
    }
}

void kvn_conn_call(struct kvn_conn *conn, bool *flag)
{
    struct kvn_links *links = conn->links;
    *flag = true;
    if (!conn->has_turn) {
        conn->has_turn = true;
        TAILQ_INSERT_TAIL(&links->turns, conn, in_turn);
        kvn_links_wake(links);
    }
}

static void take_turn(struct kvn_conn *conn)
{
    const bool begin = conn->begin;
    const bool flush = conn->flush;
    TAILQ_REMOVE(&conn->links->turns, conn, in_turn);
    conn->has_turn = false;
    conn->begin = false;
    conn->flush = false;
    if (conn->broken) {
        kvn_conn_end(conn, "broken");
    } else if (conn->hang_up) {
        kvn_conn_linger(conn);
    } else if (begin) {
        kvn_dial_begin(conn);
    } else if (flush) {
        kvn_conn_flush(conn);
    }
}

static void say_dials_failed(struct kvn_links *links)
{
    for (uint32_t i = 0; i < links->nr_targets; i++) {
        if (links->targets[i].dial_failed) {
            links->targets[i].dial_failed = false;
            links->counts.dial_failed++;
            links->events.dial_failed(links->events.arg, i);
        }
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct kvn_links *links = handle->data;
    links->nr_handles--;
    kvn_links_handle_closed(links);
}

static void close_handle(struct kvn_links *links, uv_handle_t *handle)
{
    handle->data = links;
    uv_close(handle, on_handle_closed);
}

/* In the loop, once: every link and dial gets its last word, then the handles go. */
static void end_all(struct kvn_links *links)
{
    KV_ASSERT(links->closing && !links->ending);
    for (uint32_t i = 0; i < links->nr_slots; i++) {
        if (links->conns[i] != NULL) {
            kvn_conn_end(links->conns[i], "this node closes its links");
        }
    }
    say_dials_failed(links);
    KV_ASSERT(TAILQ_EMPTY(&links->turns) && TAILQ_EMPTY(&links->hellos));
    KV_ASSERT(links->nr_free == links->nr_slots);
    links->ending = true;
    for (uint32_t i = 0; i < links->nr_targets; i++) {
        if (links->targets[i].resolving) {
            (void)uv_cancel((uv_req_t *)&links->targets[i].resolve);
        }
    }
    uv_poll_stop(&links->listener);
    close(links->fd);
    close_handle(links, (uv_handle_t *)&links->listener);
    close_handle(links, (uv_handle_t *)&links->pause);
    close_handle(links, (uv_handle_t *)&links->turn);
}

/* What calls from outside have asked for. Bounded by what was asked before it began. */
static void on_turn(uv_idle_t *turn)
{
    struct kvn_links *links = turn->data;
    struct kvn_conn *conn;
    unsigned nr = 0;
    uv_idle_stop(turn);
    TAILQ_FOREACH(conn, &links->turns, in_turn)
    {
        nr++;
    }
    while (nr-- > 0 && !links->closing && !TAILQ_EMPTY(&links->turns)) {
        take_turn(TAILQ_FIRST(&links->turns));
    }
    say_dials_failed(links);
    if (links->closing) {
        end_all(links);
    } else if (!TAILQ_EMPTY(&links->turns)) {
        kvn_links_wake(links);
    }
}

/* ---- somebody comes -------------------------------------------------------------- */

static bool same_party(const struct kvn_conn *conn, const union kvn_sockaddr *party)
{
    return party == NULL || kvn_sockaddr_same_party(&conn->addr, party);
}

/* Room for one more within `max` of a party (NULL: of all). The oldest that has not
 * said a word gives way: a flood of silent ones pushes out itself, and not him who
 * speaks. */
static bool
hello_room(struct kvn_links *links, const union kvn_sockaddr *party, unsigned max)
{
    struct kvn_conn *conn, *silent = NULL;
    unsigned nr = 0;
    TAILQ_FOREACH(conn, &links->hellos, in_hellos)
    {
        if (same_party(conn, party)) {
            nr++;
            if (silent == NULL && conn->state == KVN_CONN_SNIFF) {
                silent = conn;
            }
        }
    }
    if (nr < max) {
        return true;
    }
    if (silent == NULL) {
        return false;
    }
    links->counts.refused++;
    kvn_conn_end(
        silent, "silent, and %u connections wait%s, the limit is %u", nr,
        party == NULL ? "" : " of its address", max);
    return true;
}

static void conn_accept(struct kvn_links *links, int fd, const union kvn_sockaddr *addr)
{
    char text[KVN_ADDRESS_TEXT_MAX];
    const int one = 1;
    struct kvn_conn *conn = NULL;
    kvn_sockaddr_format(addr, text, sizeof(text));
    if (!hello_room(links, addr, KVN_LINKS_HELLO_ADDRESS_MAX)
        || !hello_room(links, NULL, KVN_LINKS_HELLO_CONNS_MAX)) {
        kv_log(KV_LOG_WARN, "link", "%s refused: too many shake hands", text);
        goto err_close;
    }
    conn = kvn_conn_create(links, false, KVN_LINKS_NO_PEER);
    if (conn == NULL) {
        kv_log(KV_LOG_WARN, "link", "%s refused: out of memory", text);
        goto err_close;
    }
    conn->addr = *addr;
    memcpy(conn->addr_text, text, sizeof(text));
    TAILQ_INSERT_TAIL(&links->hellos, conn, in_hellos);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    kvn_conn_set_low_water(fd, KVN_SNIFF_BYTES);
    if (kvn_conn_watch(conn, fd, UV_READABLE) != KV_OK) {
        links->counts.refused++;
        kvn_conn_end(conn, "out of memory");
    }
    return;

err_close:
    links->counts.refused++;
    close(fd);
}

/* ---- the port -------------------------------------------------------------------- */

static void on_listener(uv_poll_t *listener, int ret, int events);

static void on_pause(uv_timer_t *pause)
{
    struct kvn_links *links = pause->data;
    if (!links->closing) {
        uv_poll_start(&links->listener, UV_READABLE, on_listener);
    }
}

/* No descriptor or memory to accept with: who waits in the backlog would wake us again
 * and again. */
static void pause_accepting(struct kvn_links *links, int error)
{
    kv_log(
        KV_LOG_WARN, "link", "accepting pauses for %d ms: %s", KVN_LINKS_PAUSE_MS,
        strerror(error));
    uv_poll_stop(&links->listener);
    uv_timer_start(&links->pause, on_pause, KVN_LINKS_PAUSE_MS, 0);
}

/* Errors of the connection that was to be accepted, accept(2): the next may be fine. */
static bool of_the_peer(int error)
{
    return error == ECONNABORTED || error == EINTR || error == EPROTO
           || error == ENETDOWN || error == ENOPROTOOPT || error == EHOSTDOWN
           || error == ENONET || error == EHOSTUNREACH || error == EOPNOTSUPP
           || error == ENETUNREACH || error == EPERM;
}

static void on_listener(uv_poll_t *listener, int ret, int events)
{
    struct kvn_links *links = listener->data;
    (void)ret;
    (void)events;
    for (unsigned i = 0; i < KVN_LINKS_ACCEPTS_MAX && !links->closing; i++) {
        union kvn_sockaddr addr = {0};
        socklen_t len = sizeof(addr);
        const int fd =
            KV_FAULT()
                ? (errno = EMFILE, -1)
                : accept4(links->fd, &addr.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        }
        if (fd < 0 && !of_the_peer(errno)) {
            pause_accepting(links, errno);
            return;
        }
        if (fd >= 0) {
            links->counts.accepted++;
            conn_accept(links, fd, &addr);
        }
    }
}

/* ---- open ------------------------------------------------------------------------ */

/* What one open works on; a line for the operator. */
struct opening {
    const struct kvn_links_config *config;
    char *line;
    size_t cap;
};

static kv_status_t
wrong(struct opening *opening, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static kv_status_t
wrong(struct opening *opening, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(opening->line, opening->cap, format, args);
    va_end(args);
    return status;
}

static kv_status_t check_times(struct opening *opening)
{
    const struct kvn_links_config *config = opening->config;
    const struct {
        const char *name;
        uint64_t value, min;
    } rows[] = {
        {"time of a handshake", config->handshake_us, KVN_LINKS_TIME_MIN_US},
        {"time of a frame", config->frame_us, KVN_LINKS_TIME_MIN_US},
        {"bytes of a queue", config->queue_bytes, 1},
    };
    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        if (rows[i].value < rows[i].min) {
            return wrong(
                opening, KV_ERR_CONFIG,
                "links: %s: %" PRIu64 " is below the minimum %" PRIu64, rows[i].name,
                rows[i].value, rows[i].min);
        }
    }
    return KV_OK;
}

static kv_status_t take_peers(struct opening *opening, struct kvn_links *links)
{
    const struct kvn_links_config *config = opening->config;
    char why[160];
    for (uint32_t i = 0; i < config->nr_peers; i++) {
        const struct kvn_links_peer *peer = &config->peers[i];
        struct kvn_links_target *target = &links->targets[i];
        target->id = peer->id;
        target->links = links;
        KV_ASSERT(peer->id != KVN_TLS_NO_NODE);
        if (i == config->self) {
            continue; /* we listen elsewhere perhaps, and never dial it */
        }
        kv_status_t status =
            kvn_address_parse(peer->address, &target->address, why, sizeof(why));
        if (status != KV_OK) {
            return wrong(
                opening, status, "node %" PRIu32 ": address '%.130s' %s", peer->id,
                peer->address, why);
        }
        if (config->tls == NULL && !kvn_address_is_loopback(&target->address)) {
            return wrong(
                opening, KV_ERR_CONFIG,
                "node %" PRIu32
                ": address '%.130s' is not on loopback: credentials are "
                "needed, see kvrail keygen",
                peer->id, peer->address);
        }
    }
    return KV_OK;
}

static kv_status_t listen_failed(struct opening *opening, int error)
{
    const char *address = opening->config->listen;
    switch (error) {
    case EADDRINUSE:
        return wrong(
            opening, KV_ERR_IO,
            "listen '%.130s': another process has the port: does a "
            "node run already?",
            address);
    case EADDRNOTAVAIL:
        return wrong(
            opening, KV_ERR_IO, "listen '%.130s': is no address of this machine",
            address); /* or not yet: interfaces come up beside us */
    case EACCES:
        return wrong(
            opening, KV_ERR_CONFIG, "listen '%.130s': a port that needs privileges",
            address);
    default:
        return wrong(
            opening, KV_ERR_IO, "listen '%.130s': %s", address, strerror(error));
    }
}

/* A listening socket at addr, or -1 and errno. */
static int listen_at(const union kvn_sockaddr *addr)
{
    const int one = 1;
    const int fd = KV_FAULT() ? (errno = EMFILE, -1)
                              : socket(
                                  addr->any.sa_family,
                                  SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    /* A port of our former life that still has ends in TIME_WAIT is ours again. */
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (KV_FAULT()) {
        errno = ENOBUFS;
    } else if (
        bind(fd, &addr->any, kvn_sockaddr_len(addr)) == 0
        && listen(fd, KVN_LINKS_BACKLOG) == 0) {
        return fd;
    }
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
}

/* The first address of the name that can be bound. The only call that may wait for a
 * resolver, at start. */
static kv_status_t resolve_listen(
    struct opening *opening, const struct kvn_address *address,
    union kvn_sockaddr *addr)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *info = NULL;
    if (kvn_address_numeric(address, addr)) {
        return KV_OK;
    }
    const int ret =
        KV_FAULT() ? EAI_MEMORY : getaddrinfo(address->host, NULL, &hints, &info);
    if (ret != 0) {
        return wrong(
            opening, KV_ERR_IO, "listen '%.130s': the name does not resolve: %s",
            opening->config->listen, gai_strerror(ret));
    }
    memcpy(&addr->storage, info->ai_addr, info->ai_addrlen);
    freeaddrinfo(info);
    kvn_sockaddr_set_port(addr, address->port);
    return KV_OK;
}

static kv_status_t open_port(struct opening *opening, struct kvn_links *links)
{
    struct kvn_address address;
    union kvn_sockaddr addr;
    char why[160];
    kv_status_t status =
        kvn_address_parse(opening->config->listen, &address, why, sizeof(why));
    if (status != KV_OK) {
        return wrong(
            opening, status, "listen '%.130s' %s", opening->config->listen, why);
    }
    status = resolve_listen(opening, &address, &addr);
    if (status != KV_OK) {
        return status;
    }
    if (links->tls == NULL && !kvn_sockaddr_is_loopback(&addr)) {
        return wrong(
            opening, KV_ERR_CONFIG,
            "listen '%.130s' is not on loopback: credentials are "
            "needed, see kvrail keygen",
            opening->config->listen);
    }
    links->fd = listen_at(&addr);
    if (links->fd < 0) {
        return listen_failed(opening, errno);
    }
    socklen_t len = sizeof(addr);
    if (getsockname(links->fd, &addr.any, &len) != 0) {
        status = listen_failed(opening, errno);
        close(links->fd);
        return status;
    }
    links->port =
        ntohs(addr.any.sa_family == AF_INET ? addr.v4.sin_port : addr.v6.sin6_port);
    return KV_OK;
}

static bool make_tables(struct kvn_links *links, uint32_t nr_peers)
{
    links->nr_targets = nr_peers;
    links->nr_slots = nr_slots_for(nr_peers);
    KV_ASSERT(links->nr_slots <= SLOT_MASK);
    links->targets = kv_calloc(nr_peers, sizeof(*links->targets));
    links->conns = kv_calloc(links->nr_slots, sizeof(struct kvn_conn *));
    links->free_slots = kv_calloc(links->nr_slots, sizeof(uint32_t));
    if (links->targets == NULL || links->conns == NULL || links->free_slots == NULL) {
        return false;
    }
    while (links->nr_free < links->nr_slots) {
        links->free_slots[links->nr_free] = links->nr_slots - 1 - links->nr_free;
        links->nr_free++;
    }
    return true;
}

static void links_free(struct kvn_links *links)
{
    kv_free(links->free_slots);
    kv_free(links->conns);
    kv_free(links->targets);
    kv_free(links);
}

/* The last that can fail comes first: a handle that is there must be closed by the
 * loop, and open has none to spare. */
static kv_status_t open_handles(struct opening *opening, struct kvn_links *links)
{
    const int ret =
        KV_FAULT() ? UV_ENOMEM : uv_poll_init(links->loop, &links->listener, links->fd);
    if (ret != 0) {
        return wrong(
            opening, KV_ERR_IO, "listen '%.130s': %s", opening->config->listen,
            uv_strerror(ret));
    }
    uv_timer_init(links->loop, &links->pause);
    uv_idle_init(links->loop, &links->turn);
    links->listener.data = links;
    links->pause.data = links;
    links->turn.data = links;
    links->nr_handles = 3;
    uv_poll_start(&links->listener, UV_READABLE, on_listener);
    return KV_OK;
}

kv_status_t kvn_links_open(
    uv_loop_t *loop, const struct kvn_links_config *config,
    const struct kvn_links_events *events, kvn_links_t **links_p, char *line,
    size_t cap)
{
    struct opening opening = {.config = config, .line = line, .cap = cap};
    KV_ASSERT(config->self < config->nr_peers);
    KV_ASSERT(cap > 0);
    line[0] = '\0';
    kv_status_t status = check_times(&opening);
    if (status != KV_OK) {
        goto err;
    }
    struct kvn_links *links = kv_calloc(1, sizeof(*links));
    if (links == NULL || !make_tables(links, config->nr_peers)) {
        status = wrong(&opening, KV_ERR_NOMEM, "links: out of memory");
        goto err_free;
    }
    links->loop = loop;
    links->tls = config->tls;
    links->events = *events;
    links->handshake_us = config->handshake_us;
    links->frame_us = config->frame_us;
    links->queue_bytes = config->queue_bytes;
    links->self = config->self;
    TAILQ_INIT(&links->turns);
    TAILQ_INIT(&links->hellos);
    status = take_peers(&opening, links);
    if (status != KV_OK) {
        goto err_free;
    }
    status = open_port(&opening, links);
    if (status != KV_OK) {
        goto err_free;
    }
    status = open_handles(&opening, links);
    if (status != KV_OK) {
        goto err_close;
    }
    *links_p = links;
    return KV_OK;

err_close:
    close(links->fd);
err_free:
    if (links != NULL) {
        links_free(links);
    }
err:
    return status;
}

/* ---- close ----------------------------------------------------------------------- */

void kvn_links_close(kvn_links_t *links, void (*closed)(void *arg), void *arg)
{
    KV_ASSERT(!links->closing);
    links->closing = true;
    links->closed = closed;
    links->closed_arg = arg;
    kvn_links_wake(links);
}

/* Also when a name was resolved: whichever is the last. */
void kvn_links_handle_closed(struct kvn_links *links)
{
    if (!links->ending || links->nr_handles > 0 || links->nr_resolves > 0) {
        return;
    }
    void (*closed)(void *arg) = links->closed;
    void *arg = links->closed_arg;
    links_free(links);
    if (closed != NULL) {
        closed(arg);
    }
}

/* ---- calls ----------------------------------------------------------------------- */

uint16_t kvn_links_port(const kvn_links_t *links)
{
    return links->port;
}

const struct kvn_links_counts *kvn_links_counts(const kvn_links_t *links)
{
    return &links->counts;
}

void kvn_links_dial(kvn_links_t *links, uint32_t peer)
{
    KV_ASSERT(peer < links->nr_targets && peer != links->self);
    struct kvn_links_target *target = &links->targets[peer];
    if (links->closing || target->dial != NULL || target->dial_failed) {
        return;
    }
    links->counts.dialled++;
    struct kvn_conn *conn = kvn_conn_create(links, true, peer);
    if (conn == NULL) {
        target->dial_failed = true;
        kvn_links_wake(links);
        return;
    }
    target->dial = conn;
    kvn_conn_call(conn, &conn->begin);
}

void kvn_links_hang_up(kvn_links_t *links, uint64_t number)
{
    struct kvn_conn *conn = conn_find(links, number);
    if (conn != NULL) {
        kvn_conn_call(conn, &conn->hang_up);
    }
}

kv_status_t
kvn_links_send(kvn_links_t *links, uint64_t number, const uint8_t *bytes, size_t len)
{
    struct kvn_conn *conn = conn_find(links, number);
    KV_ASSERT(len >= 1 && len <= KV_MSG_BYTES_MAX);
    if (conn == NULL || !kvn_conn_send(conn, bytes, len)) {
        return KV_ERR_LINK_LOST;
    }
    return KV_OK;
}
