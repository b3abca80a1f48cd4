/* Two threads and what each may touch:
 *
 *   loop   back ──publish──► middle ──take──► front   HTTP thread
 *          three numbers, always a permutation of 0 … 2: a buffer has one user
 *
 *   (1) `back` belongs to the loop, `front` to the HTTP thread; `middle` changes hands
 *       by an exchange alone, which also carries the bytes.
 *   (2) All of libmicrohttpd runs on the HTTP thread, and after its end on the closing
 *       one: no lock of it is ever met by the loop.
 *   (3) A connection is in `conns` from its accept to its close by libmicrohttpd, so a
 *       descriptor that we shut down is still that connection's.
 */
#define _GNU_SOURCE /* pthread_setname_np */

#include "node/daemon/http.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "node/daemon/http_priv.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONN_MEMORY_BYTES = 16384, /* of libmicrohttpd: a request with its headers */
    /* Connections that were told to end and are not gone yet; libmicrohttpd accepts
     * at most 10 between two looks at them. */
    CONNS_SLACK = 16,
    BACKLOG = 128,
    TICK_MS = 50, /* how exactly request_us is kept */
    /* An answer takes under 10 rounds. When descriptors are short, libmicrohttpd fails
     * to accept and tries again at once, for ever: then it gets so many a tick. */
    ROUNDS_MAX = 500,
    HOST_BYTES = 256,
};

enum { FRESH = 4 }; /* beside the number in `middle`: not taken yet */

struct published {
    uint64_t at_us;
    struct kvn_http_snapshot snapshot;
};

struct conn {
    bool used;
    bool asked; /* its request has come */
    bool ended; /* shut down by us */
    int fd;
    uint64_t since_us;
};

struct kvn_http {
    /* Constant after open. */
    uint64_t opened_us, stuck_us, request_us;
    uint32_t conns_max, nr_slots;
    uint16_t port;
    int listen_fd; /* libmicrohttpd's, once that is started */
    int stop_fd;
    struct MHD_Daemon *daemon;
    pthread_t thread;

    struct published buffers[3];
    atomic_uint middle;
    unsigned back; /* the loop's */

    /* The HTTP thread's. */
    unsigned front;
    bool has_front;
    struct kvn_http_counts counts;
    struct conn *conns;
    uint32_t nr_conns;
};

static uint64_t now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- snapshots ----------------------------------------------------------------- */

void kvn_http_publish(kvn_http_t *http, const struct kvn_http_snapshot *snapshot)
{
    KV_ASSERT(snapshot->nr_pools <= KVP_POOLS_MAX);
    KV_ASSERT(snapshot->nr_peers <= KVC_NODES_MAX);
    struct published *back = &http->buffers[http->back];
    back->snapshot = *snapshot;
    back->at_us = now_us();
    const unsigned was = atomic_exchange_explicit(
        &http->middle, http->back | FRESH, memory_order_acq_rel);
    http->back = was & ~(unsigned)FRESH; /* (1) */
}

/* The newest one, or NULL. */
static const struct published *take(kvn_http_t *http)
{
    if ((atomic_load_explicit(&http->middle, memory_order_relaxed) & FRESH) != 0) {
        const unsigned was =
            atomic_exchange_explicit(&http->middle, http->front, memory_order_acq_rel);
        http->front = was & ~(unsigned)FRESH; /* (1) */
        http->has_front = true;
    }
    return http->has_front ? &http->buffers[http->front] : NULL;
}

static struct kvn_http_view view_of(kvn_http_t *http)
{
    const struct published *front = take(http);
    const uint64_t now = now_us(); /* after take(): an age is never negative */
    struct kvn_http_view view = {
        .uptime_us = now - http->opened_us,
        .stuck_us = http->stuck_us,
        .counts = http->counts,
        .nr_conns = http->nr_conns,
    };
    if (front != NULL) {
        view.snapshot = &front->snapshot;
        view.age_us = now - front->at_us;
    }
    return view;
}

/* ---- connections --------------------------------------------------------------- */

/* libmicrohttpd finds out by its next look at the descriptor, and closes it. */
static void conn_end(struct conn *conn, uint64_t *count)
{
    conn->ended = true;
    (*count)++;
    (void)shutdown(conn->fd, SHUT_RDWR);
}

/* Ends the oldest that has not asked anything, else the oldest. `newest` stays. */
static void evict_one(kvn_http_t *http, const struct conn *newest)
{
    struct conn *oldest = NULL;
    for (uint32_t i = 0; i < http->nr_slots; i++) {
        struct conn *conn = &http->conns[i];
        if (!conn->used || conn->ended || conn == newest) {
            continue;
        }
        if (oldest == NULL || conn->asked < oldest->asked
            || (conn->asked == oldest->asked && conn->since_us < oldest->since_us)) {
            oldest = conn;
        }
    }
    if (oldest != NULL) {
        conn_end(oldest, &http->counts.evicted);
    }
}

static uint32_t nr_living(const kvn_http_t *http)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < http->nr_slots; i++) {
        nr += http->conns[i].used && !http->conns[i].ended;
    }
    return nr;
}

static void expire(kvn_http_t *http)
{
    const uint64_t now = now_us();
    for (uint32_t i = 0; i < http->nr_slots; i++) {
        struct conn *conn = &http->conns[i];
        if (conn->used && !conn->ended && now - conn->since_us > http->request_us) {
            conn_end(conn, &http->counts.expired);
        }
    }
}

static void conn_started(kvn_http_t *http, struct MHD_Connection *connection, void **p)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    uint32_t i = 0;
    while (i < http->nr_slots && http->conns[i].used) {
        i++;
    }
    KV_ASSERT(i < http->nr_slots); /* libmicrohttpd's own limit is nr_slots */
    http->conns[i] =
        (struct conn){.used = true, .fd = info->connect_fd, .since_us = now_us()};
    http->nr_conns++;
    *p = &http->conns[i];
    if (nr_living(http) > http->conns_max) {
        evict_one(http, &http->conns[i]);
    }
}

/* libmicrohttpd: a connection was accepted, or is about to be closed (3). */
static void on_connection(
    void *arg, struct MHD_Connection *connection, void **p,
    enum MHD_ConnectionNotificationCode code)
{
    kvn_http_t *http = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        conn_started(http, connection, p);
    } else {
        struct conn *conn = *p;
        KV_ASSERT(conn->used && http->nr_conns > 0);
        conn->used = false;
        http->nr_conns--;
    }
}

/* ---- answers ------------------------------------------------------------------- */

static const char index_text[] =
    "kvrail\n"
    "\n"
    "/metrics   counters and gauges: Prometheus text, or OpenMetrics by Accept\n"
    "/healthz   200 while the node's loop shows signs of life, else 503; JSON\n";

struct reply {
    unsigned code;
    char *body; /* malloc'ed; NULL: `text` */
    const char *text;
    size_t len;
    const char *type;
};

static const char text_plain[] = "text/plain; charset=utf-8";

static struct reply reply_text(unsigned code, const char *text)
{
    return (struct reply){
        .code = code, .text = text, .len = strlen(text), .type = text_plain};
}

static struct reply reply_health(kvn_http_t *http)
{
    struct reply reply = {.type = "application/json"};
    const struct kvn_http_view view = view_of(http);
    reply.body = malloc(KVN_HTTP_HEALTH_BYTES);
    if (reply.body != NULL) {
        reply.code = kvn_http_health(&view, reply.body, KVN_HTTP_HEALTH_BYTES);
        reply.len = strlen(reply.body);
    }
    return reply;
}

/* Twice over the same numbers: how long it is, then the text. */
static struct reply reply_metrics(kvn_http_t *http, const char *accept)
{
    struct kv_metric_text text = {.format = kvn_http_format(accept)};
    struct reply reply = {.code = 200};
    struct kvn_http_view view = view_of(http);
    view.counts.code_200++; /* this one */
    kvn_http_process_read(&view.process);
    kvn_http_metrics(&view, &text);
    const size_t len = text.len;
    text.out = reply.body = malloc(len + 1);
    text.cap = len + 1;
    text.len = 0;
    if (reply.body != NULL) {
        kvn_http_metrics(&view, &text);
        KV_ASSERT(text.len == len);
    }
    reply.len = len;
    reply.type = text.format == KV_METRIC_OPENMETRICS
                     ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                     : "text/plain; version=0.0.4; charset=utf-8";
    return reply;
}

static void count_code(struct kvn_http_counts *counts, unsigned code)
{
    switch (code) {
#define X(n)                                                                           \
    case n:                                                                            \
        counts->code_##n++;                                                            \
        break;
        KVN_HTTP_CODES(X)
#undef X
    default:
        KV_UNREACHABLE("every code that we answer is in KVN_HTTP_CODES");
    }
}

/* Frees the reply's body in every case. False: the connection is closed unanswered. */
static bool send_reply(
    kvn_http_t *http, struct MHD_Connection *connection, const struct reply *reply)
{
    struct MHD_Response *response;
    bool queued;
    if (reply->body == NULL && reply->text == NULL) {
        return false; /* out of memory */
    }
    /* libmicrohttpd takes a void *, and only reads what is PERSISTENT. */
    response = reply->body != NULL ? MHD_create_response_from_buffer(
                   reply->len, reply->body, MHD_RESPMEM_MUST_FREE)
                                   : MHD_create_response_from_buffer(
                                       reply->len, (void *)(uintptr_t)reply->text,
                                       MHD_RESPMEM_PERSISTENT);
    if (response == NULL) {
        free(reply->body);
        return false;
    }
    /* One request a connection, so that request_us bounds a connection's life. */
    queued =
        MHD_add_response_header(response, "Connection", "close") == MHD_YES
        && MHD_add_response_header(response, "Content-Type", reply->type) == MHD_YES
        && MHD_add_response_header(response, "Cache-Control", "no-store") == MHD_YES
        && (reply->code != 405
            || MHD_add_response_header(response, "Allow", "GET, HEAD") == MHD_YES)
        && MHD_queue_response(connection, reply->code, response) == MHD_YES;
    MHD_destroy_response(response);
    if (queued) {
        count_code(&http->counts, reply->code);
    }
    return queued;
}

/* A request's headers have come. Its body, if it has one, is nothing to us: answering
 * now makes libmicrohttpd close behind the answer. */
static enum MHD_Result on_request(
    void *arg, struct MHD_Connection *connection, const char *url, const char *method,
    const char *version, const char *upload, size_t *upload_bytes, void **state)
{
    kvn_http_t *http = arg;
    struct reply reply;
    struct conn *conn =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)
            ->socket_context;
    (void)version, (void)upload, (void)upload_bytes, (void)state;
    conn->asked = true;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        reply = reply_text(405, "only GET and HEAD\n");
    } else if (strcmp(url, "/metrics") == 0) {
        reply = reply_metrics(
            http, MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Accept"));
    } else if (strcmp(url, "/healthz") == 0) {
        reply = reply_health(http);
    } else if (strcmp(url, "/") == 0) {
        reply = reply_text(200, index_text);
    } else {
        reply = reply_text(404, "there are /metrics, /healthz and /\n");
    }
    return send_reply(http, connection, &reply) ? MHD_YES : MHD_NO;
}

/* ---- the thread ---------------------------------------------------------------- */

/* Until when nothing is due: -1 for ever. */
static int poll_ms(const kvn_http_t *http)
{
    MHD_UNSIGNED_LONG_LONG ms;
    const int tick = http->nr_conns > 0 ? TICK_MS : -1;
    return MHD_get_timeout(http->daemon, &ms) == MHD_YES && ms < TICK_MS ? (int)ms
                                                                         : tick;
}

static void *thread_main(void *arg)
{
    kvn_http_t *http = arg;
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd fds[] = {
        {.fd = info->epoll_fd, .events = POLLIN},
        {.fd = http->stop_fd, .events = POLLIN},
    };
    unsigned rounds = 0;
    uint64_t since_us = now_us();
    while (fds[1].revents == 0) {
        if (now_us() - since_us >= TICK_MS * 1000) {
            since_us = now_us();
            rounds = 0;
        }
        const bool rest = ++rounds > ROUNDS_MAX;
        const int ret = rest ? poll(&fds[1], 1, TICK_MS) : poll(fds, 2, poll_ms(http));
        KV_ASSERT(ret >= 0 || errno == EINTR);
        (void)MHD_run(http->daemon);
        expire(http);
    }
    return NULL;
}

static int thread_start(kvn_http_t *http)
{
    const int ret = kv_thread_start(&http->thread, NULL, thread_main, http);
    if (ret == 0) {
        pthread_setname_np(http->thread, "kvn-http");
    }
    return ret;
}

/* ---- opening ------------------------------------------------------------------- */

__attribute__((format(printf, 5, 6))) static kv_status_t complain(
    const char *address, kv_status_t status, char *line, size_t cap, const char *format,
    ...)
{
    char why[KVN_HTTP_LINE_BYTES / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    snprintf(line, cap, "http address %.200s: %s", address, why);
    return status;
}

/* "127.0.0.1:80", "name:80", "[::1]:80": host into out, and what follows the last
 * colon. NULL when it is none of them. */
static const char *split(const char *address, char host[HOST_BYTES])
{
    const char *colon = strrchr(address, ':');
    if (colon == NULL || colon == address || colon[1] == '\0') {
        return NULL;
    }
    size_t len = (size_t)(colon - address);
    if (address[0] == '[') {
        if (len < 3 || address[len - 1] != ']') {
            return NULL;
        }
        address++;
        len -= 2;
    } else if (memchr(address, ':', len) != NULL) {
        return NULL; /* ::1:80 could be either */
    }
    if (len >= HOST_BYTES) {
        return NULL;
    }
    memcpy(host, address, len);
    host[len] = '\0';
    return colon + 1;
}

/* A listening socket, or -1 with errno. */
static int listen_on(const struct addrinfo *address)
{
    const int one = 1;
    const int fd = KV_FAULT() ? -1
                              : socket(
                                  address->ai_family,
                                  address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK,
                                  address->ai_protocol);
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!KV_FAULT() && bind(fd, address->ai_addr, address->ai_addrlen) == 0
        && listen(fd, BACKLOG) == 0) {
        return fd;
    }
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    in_port_t port = 0;
    if (getsockname(fd, (struct sockaddr *)&address, &len) == 0) {
        port = address.ss_family == AF_INET6
                   ? ((const struct sockaddr_in6 *)(const void *)&address)->sin6_port
                   : ((const struct sockaddr_in *)(const void *)&address)->sin_port;
    }
    return ntohs(port);
}

static const char *bind_hint(int error)
{
    switch (error) {
    case EADDRINUSE:
        return "; another process listens there";
    case EADDRNOTAVAIL:
        return "; it is no address of this machine";
    case EACCES:
        return "; ports below 1024 need CAP_NET_BIND_SERVICE";
    default:
        return "";
    }
}

/* A name is looked up here, once, before anything runs. */
static kv_status_t
open_socket(kvn_http_t *http, const char *address, char *line, size_t cap)
{
    const struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    char host[HOST_BYTES];
    struct addrinfo *list;
    const char *port = split(address, host);
    if (port == NULL) {
        return complain(
            address, KV_ERR_CONFIG, line, cap,
            "wanted host:port or [v6]:port, 0.0.0.0:port for all addresses");
    }
    const int ret = KV_FAULT() ? EAI_MEMORY : getaddrinfo(host, port, &hints, &list);
    if (ret != 0) {
        return complain(
            address, ret == EAI_MEMORY ? KV_ERR_NOMEM : KV_ERR_CONFIG, line, cap, "%s",
            gai_strerror(ret));
    }
    int error = 0;
    for (const struct addrinfo *a = list; a != NULL && http->listen_fd < 0;
         a = a->ai_next) {
        errno = ENOMEM; /* of a failing call of a test */
        http->listen_fd = listen_on(a);
        error = errno;
    }
    freeaddrinfo(list);
    if (http->listen_fd < 0) {
        return complain(
            address, KV_ERR_IO, line, cap, "%s%s", strerror(error), bind_hint(error));
    }
    http->port = port_of(http->listen_fd);
    return KV_OK;
}

/* Without MHD_USE_ERROR_LOG it is silent: what strangers send is no event of ours. */
static struct MHD_Daemon *daemon_start(kvn_http_t *http)
{
    return KV_FAULT() ? NULL
                      : MHD_start_daemon(
                          MHD_USE_EPOLL, 0, NULL, NULL, on_request, http,
                          MHD_OPTION_LISTEN_SOCKET, http->listen_fd,
                          MHD_OPTION_CONNECTION_LIMIT, http->nr_slots,
                          MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONN_MEMORY_BYTES,
                          MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
                          MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

static kvn_http_t *
http_alloc(const struct kvn_http_config *config, char *line, size_t cap)
{
    const uint32_t conns_max =
        config->conns_max != 0 ? config->conns_max : (uint32_t)KVN_HTTP_CONNS;
    kvn_http_t *http = kv_calloc(1, sizeof(*http));
    struct conn *conns = kv_calloc(conns_max + CONNS_SLACK, sizeof(conns[0]));
    if (http == NULL || conns == NULL) {
        snprintf(line, cap, "http: out of memory");
        kv_free(http);
        kv_free(conns);
        return NULL;
    }
    *http = (struct kvn_http){
        .opened_us = now_us(),
        .stuck_us = config->stuck_us != 0 ? config->stuck_us : KVN_HTTP_STUCK_US,
        .request_us =
            config->request_us != 0 ? config->request_us : KVN_HTTP_REQUEST_US,
        .conns_max = conns_max,
        .nr_slots = conns_max + CONNS_SLACK,
        .conns = conns,
        .listen_fd = -1,
        .stop_fd = -1,
        .back = 0,
        .front = 1,
    };
    atomic_init(&http->middle, 2);
    return http;
}

kv_status_t kvn_http_open(
    const struct kvn_http_config *config, kvn_http_t **http_p, char *line, size_t cap)
{
    const char *address = config->listen != NULL ? config->listen : KVN_HTTP_LISTEN;
    kvn_http_t *http;
    kv_status_t status = KV_ERR_NOMEM;
    int ret;
    if (config->conns_max > KVN_HTTP_CONNS_MAX) {
        snprintf(
            line, cap, "http connections is %u, the limit is %d", config->conns_max,
            KVN_HTTP_CONNS_MAX);
        status = KV_ERR_CONFIG;
        goto err;
    }
    http = http_alloc(config, line, cap);
    if (http == NULL) {
        goto err;
    }
    status = open_socket(http, address, line, cap);
    if (status != KV_OK) {
        goto err_free;
    }
    http->stop_fd = KV_FAULT() ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (http->stop_fd < 0) {
        status = complain(address, KV_ERR_IO, line, cap, "no event descriptor");
        goto err_listen;
    }
    http->daemon = daemon_start(http);
    if (http->daemon == NULL) {
        status = complain(
            address, KV_ERR_IO, line, cap,
            "libmicrohttpd does not start: memory or "
            "descriptors (ulimit -n) are short");
        goto err_stop;
    }
    ret = thread_start(http);
    if (ret != 0) {
        status =
            complain(address, KV_ERR_IO, line, cap, "no thread: %s", strerror(ret));
        goto err_daemon;
    }
    *http_p = http;
    return KV_OK;

err_daemon:
    MHD_stop_daemon(http->daemon); /* and the listening socket with it */
    http->listen_fd = -1;
err_stop:
    close(http->stop_fd);
err_listen:
    if (http->listen_fd >= 0) {
        close(http->listen_fd);
    }
err_free:
    kv_free(http->conns);
    kv_free(http);
err:
    return status;
}

void kvn_http_close(kvn_http_t *http)
{
    const uint64_t one = 1;
    if (http == NULL) {
        return;
    }
    KV_ASSERT(write(http->stop_fd, &one, sizeof(one)) == sizeof(one));
    KV_ASSERT(pthread_join(http->thread, NULL) == 0);
    MHD_stop_daemon(http->daemon);
    KV_ASSERT(http->nr_conns == 0); /* (3): each was told closed */
    close(http->stop_fd);
    kv_free(http->conns);
    kv_free(http);
}

uint16_t kvn_http_port(const kvn_http_t *http)
{
    return http->port;
}
