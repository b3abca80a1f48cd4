/* memcached as a store of pages: its server, and the best client that we could write.
 *
 * The meta protocol: "mg KEY v" is answered by "VA BYTES", the bytes and a line end;
 * "ms KEY BYTES" and the bytes by "HD". Requests of a batch go out with one call; what
 * an answer's parts are long is known, so one scattered read puts pages where they
 * belong. https://github.com/memcached/memcached, doc/protocol.txt
 */
#define _GNU_SOURCE
#include "node/bench/load.h"

#include "base/assert.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    THREADS = 4,
    LINE_BYTES = 64, /* of a request or an answer's first line */
    PARTS = 3,       /* line, page, line end */
    START_MS = 10000,
    LOOK_MS = 10,
    STOP_MS = 5000,
    MEMORY_FACTOR = 2, /* of the set: items of 1 MiB lie in several chunks */
};

struct conn {
    int fd;
    uint8_t *pages; /* [depth][batch] */
    uint64_t cursor, fresh;
    uint64_t numbers[KVN_LOAD_DEPTH_MAX][KVN_LOAD_BATCH_MAX];
};

struct kvn_memcached {
    struct kvn_bench_node *bench;
    struct kvn_load_shape shape;
    char folder[256];
    struct kvn_child server;
    bool tcp;
    unsigned port;
    bool put;
    uint64_t fill_until;
    char hit[LINE_BYTES]; /* first line of a hit: all pages are of one length */
    struct conn conns[KVN_LOAD_CLIENTS_MAX];
};

/* ------------------------------------------------------------------ bytes */

/* All of it, or false: an error, the end, or SO_RCVTIMEO's time. */
static bool move_all(int fd, struct iovec *parts, size_t nr, bool out)
{
    while (nr > 0) {
        struct msghdr msg = {.msg_iov = parts, .msg_iovlen = nr};
        ssize_t n = out ? sendmsg(fd, &msg, MSG_NOSIGNAL) : recvmsg(fd, &msg, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        while (nr > 0 && (size_t)n >= parts->iov_len) {
            n -= (ssize_t)parts->iov_len;
            parts++;
            nr--;
        }
        if (nr > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + n;
            parts->iov_len -= (size_t)n;
        }
    }
    return true;
}

static uint8_t *page_at(
    const struct kvn_memcached *mc, const struct conn *conn, uint32_t group, uint32_t i)
{
    return conn->pages + (group * mc->shape.batch + i) * mc->shape.page_bytes;
}

/* As load.c draws them. */
static uint64_t
next_number(const struct kvn_memcached *mc, struct conn *conn, unsigned index)
{
    const uint64_t share = mc->shape.nr_pages / mc->shape.nr_clients;
    const uint64_t n = mc->put ? conn->fresh++ : conn->cursor++ % share;
    return n * mc->shape.nr_clients + index;
}

/* ------------------------------------------------------------------ one group */

static bool
group_ask(const struct kvn_memcached *mc, unsigned index, struct conn *conn, uint32_t g)
{
    static const char end[] = "\r\n";
    char lines[KVN_LOAD_BATCH_MAX][LINE_BYTES];
    struct iovec parts[KVN_LOAD_BATCH_MAX * PARTS];
    size_t nr = 0;
    for (uint32_t i = 0; i < mc->shape.batch; i++) {
        const uint64_t number = next_number(mc, conn, index);
        int len;
        conn->numbers[g][i] = number;
        if (mc->put) {
            uint8_t *page = page_at(mc, conn, g, i);
            kvn_stamp(page, mc->shape.page_bytes, number);
            len = snprintf(
                lines[i], LINE_BYTES, "ms page%llu %llu\r\n",
                (unsigned long long)number, (unsigned long long)mc->shape.page_bytes);
            parts[nr + 1] = (struct iovec){page, mc->shape.page_bytes};
            parts[nr + 2] = (struct iovec){(void *)(uintptr_t)end, sizeof(end) - 1};
        } else {
            len = snprintf(
                lines[i], LINE_BYTES, "mg page%llu v\r\n", (unsigned long long)number);
        }
        parts[nr] = (struct iovec){lines[i], (size_t)len};
        nr += mc->put ? PARTS : 1;
    }
    return move_all(conn->fd, parts, nr, true);
}

/* What is answered instead of what was expected shows in the line's first bytes. */
static bool group_take_hits(
    const struct kvn_memcached *mc, struct conn *conn, uint32_t g,
    struct kvn_worker *worker)
{
    char lines[KVN_LOAD_BATCH_MAX][LINE_BYTES], ends[KVN_LOAD_BATCH_MAX][2];
    struct iovec parts[KVN_LOAD_BATCH_MAX * PARTS];
    const size_t line_len = strlen(mc->hit);
    for (uint32_t i = 0; i < mc->shape.batch; i++) {
        parts[i * PARTS] = (struct iovec){lines[i], line_len};
        parts[i * PARTS + 1] =
            (struct iovec){page_at(mc, conn, g, i), mc->shape.page_bytes};
        parts[i * PARTS + 2] = (struct iovec){ends[i], sizeof(ends[i])};
    }
    if (!move_all(conn->fd, parts, (size_t)mc->shape.batch * PARTS, false)) {
        return false;
    }
    for (uint32_t i = 0; i < mc->shape.batch; i++) {
        if (memcmp(lines[i], mc->hit, line_len) != 0
            || !kvn_stamped(
                page_at(mc, conn, g, i), mc->shape.page_bytes, conn->numbers[g][i])) {
            kvn_worker_fail(
                worker, KV_ERR_MISS, "memcached does not have page %llu",
                (unsigned long long)conn->numbers[g][i]);
            return true;
        }
        worker->pages++;
    }
    return true;
}

static bool group_take_stored(
    const struct kvn_memcached *mc, const struct conn *conn, struct kvn_worker *worker)
{
    static const char stored[] = "HD\r\n";
    char answers[KVN_LOAD_BATCH_MAX * sizeof(stored)];
    const size_t len = sizeof(stored) - 1;
    struct iovec part = {answers, mc->shape.batch * len};
    if (!move_all(conn->fd, &part, 1, false)) {
        return false;
    }
    for (uint32_t i = 0; i < mc->shape.batch; i++) {
        if (memcmp(answers + i * len, stored, len) != 0) {
            kvn_worker_fail(
                worker, KV_ERR_IO, "memcached does not store pages of %llu bytes: %.4s",
                (unsigned long long)mc->shape.page_bytes, answers + i * len);
            return true;
        }
        worker->pages++;
    }
    return true;
}

/* ------------------------------------------------------------------ takes */

static bool wants_more(struct kvn_worker *worker, const struct conn *conn)
{
    const struct kvn_memcached *mc = worker->arg;
    if (worker->status != KV_OK || kvn_figure_stopped(worker->bench)) {
        return false;
    }
    return mc->fill_until == UINT64_MAX
               ? !kvn_worker_over(worker)
               : conn->fresh < mc->fill_until / mc->shape.nr_clients;
}

static void work(struct kvn_worker *worker)
{
    const struct kvn_memcached *mc = worker->arg;
    struct conn *conn =
        (struct conn *)(uintptr_t)&mc->conns[worker->index]; /* this thread's */
    uint32_t asked = 0, taken = 0;
    bool ok = true;
    while (ok && asked < mc->shape.depth && wants_more(worker, conn)) {
        ok = group_ask(mc, worker->index, conn, asked++);
    }
    while (ok && taken < asked) {
        const uint32_t g = taken++ % mc->shape.depth;
        ok = mc->put ? group_take_stored(mc, conn, worker)
                     : group_take_hits(mc, conn, g, worker);
        if (ok && wants_more(worker, conn)) {
            ok = group_ask(mc, worker->index, conn, g);
            asked++;
        }
    }
    if (!ok) {
        kvn_worker_fail(worker, KV_ERR_IO, "memcached: %s", strerror(errno));
    }
}

static kv_status_t take_op(
    struct kvn_memcached *mc, bool put, double seconds, uint64_t fill_until,
    struct kvn_take *take)
{
    mc->put = put;
    mc->fill_until = fill_until;
    const double before = kvn_process_cpu_s(mc->server.pid);
    kv_status_t status = kvn_crew_run(
        mc->bench, mc->shape.nr_clients, work, mc, seconds, mc->shape.page_bytes, take);
    const double after = kvn_process_cpu_s(mc->server.pid);
    take->cpu_s = before < 0 || after < 0 ? -1 : after - before;
    return status;
}

kv_status_t kvn_memcached_get(void *arg, double seconds, struct kvn_take *take)
{
    return take_op(arg, false, seconds, UINT64_MAX, take);
}

kv_status_t kvn_memcached_put(void *arg, double seconds, struct kvn_take *take)
{
    return take_op(arg, true, seconds, UINT64_MAX, take);
}

kv_status_t kvn_memcached_fill(struct kvn_memcached *mc, uint64_t nr)
{
    struct kvn_take take = {0};
    return take_op(mc, true, 0, nr, &take);
}

/* ------------------------------------------------------------------ open and close */

static kv_status_t server_start(struct kvn_memcached *mc)
{
    char path[512], threads[16], megabytes[32], socket_path[300], port[16];
    const uint64_t bytes = mc->shape.nr_pages * mc->shape.page_bytes * MEMORY_FACTOR;
    (void)snprintf(threads, sizeof(threads), "%d", THREADS);
    (void)snprintf(
        megabytes, sizeof(megabytes), "%llu", (unsigned long long)(bytes >> 20) + 64);
    (void)snprintf(socket_path, sizeof(socket_path), "%s/memcached.sock", mc->folder);
    (void)snprintf(port, sizeof(port), "%u", mc->port);
    const char *argv[] = {
        path,
        "-t",
        threads,
        "-m",
        megabytes,
        "-I",
        "2m",
        "-U",
        "0",
        "-u",
        "root", /* only root has to say */
        mc->tcp ? "-l" : "-s",
        mc->tcp ? "127.0.0.1" : socket_path,
        mc->tcp ? "-p" : NULL,
        port,
        NULL};
    KV_ASSERT(kvn_child_find("memcached", path, sizeof(path)));
    const int out = memfd_create("memcached", MFD_CLOEXEC);
    if (out < 0) {
        return kvn_figure_fail(mc->bench, KV_ERR_IO, "memfd: %s", strerror(errno));
    }
    kv_status_t status = kvn_child_start(&mc->server, argv, out);
    close(out);
    return status == KV_OK
               ? KV_OK
               : kvn_figure_fail(mc->bench, status, "%s: %s", path, strerror(errno));
}

static int dial(const struct kvn_memcached *mc)
{
    struct sockaddr_un unix_at = {.sun_family = AF_UNIX};
    const struct sockaddr_in tcp_at = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)mc->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    (void)snprintf(
        unix_at.sun_path, sizeof(unix_at.sun_path), "%.90s/memcached.sock", mc->folder);
    const struct sockaddr *at =
        mc->tcp ? (const void *)&tcp_at : (const void *)&unix_at;
    const struct timeval wait = {.tv_sec = KVN_LOAD_WAIT_US / 1000000};
    const int on = 1;
    const int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    if (mc->tcp) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (connect(fd, at, mc->tcp ? sizeof(tcp_at) : sizeof(unix_at)) != 0) {
        const int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static kv_status_t conn_open(struct kvn_memcached *mc, struct conn *conn)
{
    const size_t bytes = mc->shape.depth * mc->shape.batch * mc->shape.page_bytes;
    for (unsigned ms = 0; conn->fd < 0 && ms < START_MS; ms += LOOK_MS) {
        conn->fd = dial(mc);
        const int error = errno;
        const int status =
            mc->server.pid != 0 ? kvn_child_wait(&mc->server, 0) : KVN_CHILD_LOST;
        if (status != KVN_CHILD_RUNS) {
            return kvn_figure_fail(
                mc->bench, KV_ERR_IO, "memcached has ended with %d", status);
        }
        if (conn->fd < 0
            && (kvn_figure_stopped(mc->bench) || ms + LOOK_MS >= START_MS)) {
            return kvn_figure_fail(
                mc->bench, KV_ERR_IO, "memcached: connect: %s", strerror(error));
        }
        if (conn->fd < 0) {
            nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        }
    }
    conn->pages = kv_calloc(1, bytes);
    if (conn->pages == NULL) {
        return kvn_figure_fail(mc->bench, KV_ERR_NOMEM, "out of memory");
    }
    memset(conn->pages, 0x5a, bytes); /* no page faults later */
    return KV_OK;
}

kv_status_t kvn_memcached_open(
    struct kvn_bench_node *bench, const struct kvn_load_shape *shape, bool tcp,
    struct kvn_memcached **memcached_p)
{
    char path[512];
    *memcached_p = NULL;
    if (bench->callgrind != NULL || !kvn_child_find("memcached", path, sizeof(path))) {
        return KV_OK;
    }
    struct kvn_memcached *mc = kv_calloc(1, sizeof(*mc));
    if (mc == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    mc->bench = bench;
    mc->shape = *shape;
    mc->tcp = tcp;
    mc->port = kvn_child_free_port();
    (void)snprintf(
        mc->hit, sizeof(mc->hit), "VA %llu\r\n", (unsigned long long)shape->page_bytes);
    for (unsigned i = 0; i < KVN_LOAD_CLIENTS_MAX; i++) {
        mc->conns[i].fd = -1;
    }
    kv_status_t status = kvn_bench_folder_make(bench, mc->folder, sizeof(mc->folder));
    if (status == KV_OK) {
        status = server_start(mc);
    }
    for (unsigned i = 0; status == KV_OK && i < shape->nr_clients; i++) {
        status = conn_open(mc, &mc->conns[i]);
    }
    if (status == KV_OK) {
        status = kvn_memcached_fill(mc, shape->nr_pages);
    }
    if (status != KV_OK) {
        kvn_memcached_close(mc);
        return status;
    }
    *memcached_p = mc;
    return KV_OK;
}

void kvn_memcached_close(struct kvn_memcached *mc)
{
    if (mc == NULL) {
        return;
    }
    for (unsigned i = 0; i < mc->shape.nr_clients; i++) {
        if (mc->conns[i].fd >= 0) {
            close(mc->conns[i].fd);
        }
        kv_free(mc->conns[i].pages);
    }
    (void)kvn_child_stop(&mc->server, STOP_MS);
    kvn_bench_folder_remove(mc->folder);
    kv_free(mc);
}
