/* Fetching pages over tcp on loopback, beside what the sockets can do.
 *
 *   tcp_bench [--rounds N] [--mib N] [--set-mib N] [--page-kib 16|1024]
 *             [--no-iperf3]
 *
 * Each row: pages of one size over so many connections, with digests or without. In
 * turns, round by round: the transport (an owner's port and a reader's, one mover
 * each, one loop for both), then a pump that only sends and receives between the same
 * memories (one thread each), then iperf3 if it is installed. Medians over the
 * rounds; CPU seconds are of the whole process, both sides. The memory that pages come
 * from and land in is the working set, of each side: iperf3 sends one buffer of 128 KiB
 * again and again, which stays in cache, so a small set compares with it, and a large
 * one shows what memory costs. Prints one JSON object.
 */
#include "base/assert.h"
#include "base/digest.h"
#include "node/iperf3.h"
#include "transport/tcp/frame.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

enum { CONNS_MAX = 4, ROUNDS_MAX = 31, PUMP_BYTES = 128 << 10, READ_BYTES = 1 << 20 };

static struct options {
    unsigned rounds;
    uint64_t bytes, set_bytes, page_kib; /* 0: all */
    bool iperf3;
} options = {.rounds = 5, .bytes = UINT64_C(2) << 30, .set_bytes = 0, .iperf3 = true};

struct figure {
    double gb_s, cpu_s_gb;
};

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static struct figure figure_of(uint64_t bytes, uint64_t from_ns, uint64_t cpu_ns)
{
    const double ns = (double)(clock_ns(CLOCK_MONOTONIC) - from_ns);
    const double cpu = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns);

    return (struct figure){.gb_s = (double)bytes / ns, .cpu_s_gb = cpu / (double)bytes};
}

static int listen_any(struct sockaddr_in *at)
{
    socklen_t len = sizeof(*at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    *at = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    KV_ASSERT(bind(fd, (struct sockaddr *)at, len) == 0 && listen(fd, 16) == 0);
    KV_ASSERT(getsockname(fd, (struct sockaddr *)at, &len) == 0);
    return fd;
}

/* ---- the transport -------------------------------------------------------------- */

struct bench {
    struct kvt_region owner_memory, reader_memory;
    kvt_port_t *owner, *reader;
    kvt_conn_t conns[CONNS_MAX];
    uint32_t nr_conns, page_bytes, per_read;
    uint64_t nr_pages, nr_posted, nr_done; /* of this run */
    uint64_t set_pages;
    uint64_t *digests; /* of the owner's pages */
    unsigned nr_hellos;
};

/* The key of a copy is the number of its page. */
static void post_read(struct bench *b, uint32_t conn)
{
    struct kv_copy copies[KV_MSG_READ_MAX];
    struct kvt_part parts[KV_MSG_READ_MAX];
    uint8_t bytes[KVT_REQUEST_BYTES_MAX];
    size_t len;
    struct kv_msg msg = {
        .proto = 1, .type = KV_MSG_READ, .req = b->nr_posted + 1, .link = 5};

    for (uint32_t i = 0; i < b->per_read; i++) {
        const uint64_t page = (b->nr_posted + i) % b->set_pages;
        copies[i] = (struct kv_copy){.tenant = 1, .layout = 7};
        memcpy(copies[i].key.b, &page, sizeof(page));
        parts[i] = (struct kvt_part){
            .id = (page << 8) | conn,
            .to = b->reader_memory.base + page * b->page_bytes,
            .room = b->page_bytes,
        };
    }
    msg.u.read =
        (struct kv_msg_read){.data_gen = 1, .copies = copies, .nr_copies = b->per_read};
    KV_ASSERT(kv_encode(&msg, bytes, sizeof(bytes), &len, NULL) == KV_OK);
    KV_ASSERT(
        kvt_read(
            b->reader, b->conns[conn], msg.req, bytes, (uint32_t)len, parts,
            b->per_read)
        == KV_OK);
    b->nr_posted += b->per_read;
}

static void serve(struct bench *b, const struct kvt_event *event)
{
    static uint8_t memory[1 << 16] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kv_msg msg;

    KV_ASSERT(kv_decode(event->bytes, event->nr_bytes, &arena, &msg, NULL) == KV_OK);
    for (uint32_t i = 0; i < msg.u.read.nr_copies; i++) {
        uint8_t head[KVT_HEAD_BYTES_MAX];
        size_t len;
        uint64_t page;
        memcpy(&page, msg.u.read.copies[i].key.b, sizeof(page));
        struct kv_msg data = {
            .proto = 1, .type = KV_MSG_DATA, .req = msg.req, .link = 5};
        data.u.data = (struct kv_msg_data){
            .data_gen = 1,
            .index = i,
            .len = b->page_bytes,
            .n_tokens = 16,
            .gen = 1,
            .digest = b->digests[page],
        };
        KV_ASSERT(kv_encode(&data, head, sizeof(head), &len, NULL) == KV_OK);
        KV_ASSERT(
            kvt_send(
                b->owner, event->conn, page, head, (uint32_t)len,
                b->owner_memory.base + page * b->page_bytes, b->page_bytes)
            == KV_OK);
    }
}

static void take_owner(struct bench *b)
{
    struct kvt_event event;

    while (kvt_next(b->owner, &event)) {
        if (event.kind == KVT_EV_HELLO) {
            kvt_accept(b->owner, event.conn);
            b->nr_hellos++;
        } else if (event.kind == KVT_EV_REQUEST) {
            serve(b, &event);
        }
    }
}

static void take_reader(struct bench *b)
{
    struct kvt_event event;

    while (kvt_next(b->reader, &event)) {
        KV_ASSERT(event.kind == KVT_EV_DONE && event.status == KV_OK);
        KV_ASSERT(event.computed == 0 || event.computed == event.expected);
        b->nr_done++;
        if (b->nr_done % b->per_read == 0 && b->nr_posted < b->nr_pages) {
            post_read(b, (uint32_t)(event.id & 255));
        }
    }
}

static void step(struct bench *b)
{
    struct pollfd fds[2] = {
        {.fd = kvt_fd(b->owner), .events = POLLIN},
        {.fd = kvt_fd(b->reader), .events = POLLIN},
    };

    (void)poll(fds, 2, -1);
    take_owner(b);
    take_reader(b);
}

static void connect_all(struct bench *b)
{
    struct sockaddr_in at;
    char address[KVT_ADDRESS_MAX];
    const int listener = listen_any(&at);

    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", ntohs(at.sin_port));
    for (uint32_t i = 0; i < b->nr_conns; i++) {
        KV_ASSERT(
            kvt_open(b->reader, address, (const uint8_t *)"x", 1, &b->conns[i])
            == KV_OK);
        KV_ASSERT(kvt_adopt(b->owner, accept(listener, NULL, NULL)) == KV_OK);
    }
    while (b->nr_hellos < b->nr_conns) {
        step(b);
    }
    close(listener);
}

/* READs of 1 MiB together, or of one page; eight in flight on each connection. */
static void run_pages(struct bench *b, uint64_t nr_pages)
{
    b->nr_pages = nr_pages;
    b->nr_posted = b->nr_done = 0;
    for (uint32_t i = 0; i < 8 * b->nr_conns; i++) {
        post_read(b, i % b->nr_conns);
    }
    while (b->nr_done < b->nr_posted || b->nr_posted < b->nr_pages) {
        step(b);
    }
}

static struct figure bench_pages(struct bench *b, bool verify)
{
    struct kvt_config config = {
        .regions = &b->owner_memory,
        .nr_regions = 1,
        .nr_ops = 4096,
        .nr_conns = 8,
        .nr_threads = 1,
        .hello_us = 60000000,
        .verify = verify,
    };
    const uint64_t nr_pages = options.bytes / b->page_bytes;

    b->nr_hellos = 0;
    KV_ASSERT(kvt_tcp.create(&config, &b->owner, NULL) == KV_OK);
    config.regions = &b->reader_memory;
    KV_ASSERT(kvt_tcp.create(&config, &b->reader, NULL) == KV_OK);
    connect_all(b);
    run_pages(b, nr_pages / 8); /* windows and caches get warm */
    const uint64_t from = clock_ns(CLOCK_MONOTONIC);
    const uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    run_pages(b, nr_pages);
    const struct figure figure = figure_of(b->nr_posted * b->page_bytes, from, cpu);
    kvt_destroy(b->reader);
    kvt_destroy(b->owner);
    return figure;
}

/* ---- the pump ------------------------------------------------------------------- */

struct pump {
    const struct kvt_region *memory;
    int fds[CONNS_MAX];
    uint32_t nr_fds;
    uint64_t bytes;
    bool sender, zero_copy;
};

/* Zero copy holds the pages until its notices come: they are taken from time to time,
 * as a sender must. */
static void take_notices(int fd)
{
    uint8_t control[256];
    struct msghdr msg = {.msg_control = control, .msg_controllen = sizeof(control)};

    while (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0) {
        msg.msg_controllen = sizeof(control);
    }
}

static ssize_t pump_call(const struct pump *pump, int fd, uint8_t *at)
{
    if (!pump->sender) {
        return recv(fd, at, PUMP_BYTES, MSG_DONTWAIT);
    }
    if (pump->zero_copy) {
        take_notices(fd);
    }
    return send(
        fd, at, PUMP_BYTES,
        MSG_DONTWAIT | MSG_NOSIGNAL | (pump->zero_copy ? MSG_ZEROCOPY : 0));
}

static void *pump_main(void *arg)
{
    struct pump *pump = arg;
    struct pollfd fds[CONNS_MAX];
    uint64_t moved = 0;

    for (uint32_t i = 0; i < pump->nr_fds; i++) {
        fds[i] = (struct pollfd){
            .fd = pump->fds[i], .events = pump->sender ? POLLOUT : POLLIN};
    }
    while (moved < pump->bytes) {
        (void)poll(fds, pump->nr_fds, -1);
        for (uint32_t i = 0; i < pump->nr_fds; i++) {
            for (unsigned n = 0; fds[i].revents != 0 && n < 8; n++) {
                uint8_t *at =
                    pump->memory->base + moved % (pump->memory->bytes - PUMP_BYTES);
                const ssize_t len = pump_call(pump, fds[i].fd, at);
                if (len <= 0) {
                    break;
                }
                moved += (uint64_t)len;
            }
        }
    }
    if (pump->sender) {
        for (uint32_t i = 0; i < pump->nr_fds; i++) {
            shutdown(pump->fds[i], SHUT_WR);
        }
    }
    return NULL;
}

static struct figure bench_pump(const struct bench *b, bool zero_copy)
{
    struct sockaddr_in at;
    pthread_t threads[2];
    struct pump ends[2] = {
        {.memory = &b->owner_memory,
         .nr_fds = b->nr_conns,
         .bytes = options.bytes,
         .sender = true,
         .zero_copy = zero_copy},
        {.memory = &b->reader_memory, .nr_fds = b->nr_conns, .bytes = options.bytes},
    };
    const int listener = listen_any(&at);
    const int on = 1;

    for (uint32_t i = 0; i < b->nr_conns; i++) {
        ends[0].fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        KV_ASSERT(connect(ends[0].fds[i], (struct sockaddr *)&at, sizeof(at)) == 0);
        ends[1].fds[i] = accept(listener, NULL, NULL);
        if (zero_copy) {
            (void)setsockopt(ends[0].fds[i], SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on));
        }
    }
    const uint64_t from = clock_ns(CLOCK_MONOTONIC);
    const uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < 2; i++) {
        KV_ASSERT(pthread_create(&threads[i], NULL, pump_main, &ends[i]) == 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    const struct figure figure = figure_of(options.bytes, from, cpu);
    for (uint32_t i = 0; i < b->nr_conns; i++) {
        close(ends[0].fds[i]);
        close(ends[1].fds[i]);
    }
    close(listener);
    return figure;
}

/* ---- iperf3 --------------------------------------------------------------------- */

/* 0 when it is not installed, or said nothing. */
static struct figure bench_iperf3(uint32_t nr_streams)
{
    struct kvn_iperf3 run = {0};

    if (options.iperf3
        && kvn_iperf3_run(options.bytes, nr_streams, NULL, &run) != KV_OK) {
        options.iperf3 = false;
    }
    return (struct figure){.gb_s = run.gb_s, .cpu_s_gb = run.cpu_s_gb};
}

/* ---- rows ----------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static struct figure median(const struct figure *figures, unsigned nr)
{
    double speed[ROUNDS_MAX], cpu[ROUNDS_MAX];

    for (unsigned i = 0; i < nr; i++) {
        speed[i] = figures[i].gb_s;
        cpu[i] = figures[i].cpu_s_gb;
    }
    qsort(speed, nr, sizeof(speed[0]), by_value);
    qsort(cpu, nr, sizeof(cpu[0]), by_value);
    return (struct figure){speed[nr / 2], cpu[nr / 2]};
}

static void print_figure(const char *name, struct figure figure)
{
    printf(
        ", \"%s_gb_s\": %.2f, \"%s_cpu_s_gb\": %.3f", name, figure.gb_s, name,
        figure.cpu_s_gb);
}

static double ratio(struct figure a, struct figure b)
{
    return b.gb_s > 0 ? a.gb_s / b.gb_s : 0;
}

enum { PAGES_ON, PAGES_OFF, PUMP, ZERO_COPY, IPERF3, NR_WAYS };

static void
set_up(struct bench *b, uint32_t page_bytes, uint32_t nr_conns, uint64_t set)
{
    *b = (struct bench){.nr_conns = nr_conns, .page_bytes = page_bytes};
    b->per_read = page_bytes >= READ_BYTES ? 1 : READ_BYTES / page_bytes;
    b->set_pages = set / page_bytes;
    struct kvt_region *both[] = {&b->owner_memory, &b->reader_memory};
    for (unsigned i = 0; i < 2; i++) {
        *both[i] = (struct kvt_region){.base = aligned_alloc(4096, set), .bytes = set};
        KV_ASSERT(both[i]->base != NULL);
        memset(both[i]->base, (int)(17 + i), set);
    }
    b->digests = malloc(b->set_pages * sizeof(*b->digests));
    KV_ASSERT(b->digests != NULL);
    for (uint64_t i = 0; i < b->set_pages; i++) {
        b->digests[i] = kv_digest(b->owner_memory.base + i * page_bytes, page_bytes);
    }
}

static void bench_row(uint32_t page_bytes, uint32_t nr_conns, uint64_t set, bool first)
{
    static struct figure figures[NR_WAYS][ROUNDS_MAX];
    struct bench b;
    struct figure m[NR_WAYS];
    double load[1] = {0};

    set_up(&b, page_bytes, nr_conns, set);
    for (unsigned i = 0; i < options.rounds; i++) {
        figures[PAGES_OFF][i] = bench_pages(&b, false);
        figures[PUMP][i] = bench_pump(&b, false);
        figures[IPERF3][i] = bench_iperf3(nr_conns);
        figures[PAGES_ON][i] = bench_pages(&b, true);
        figures[ZERO_COPY][i] = bench_pump(&b, true);
    }
    for (unsigned i = 0; i < NR_WAYS; i++) {
        m[i] = median(figures[i], options.rounds);
    }
    (void)getloadavg(load, 1);
    printf(
        "%s\n {\"page_kib\": %u, \"connections\": %u, \"set_mib\": %u, \"load\": %.1f",
        first ? "" : ",", page_bytes >> 10, nr_conns, (unsigned)(set >> 20), load[0]);
    print_figure("off", m[PAGES_OFF]);
    print_figure("on", m[PAGES_ON]);
    print_figure("pump", m[PUMP]);
    print_figure("zero_copy_pump", m[ZERO_COPY]);
    print_figure("iperf3", m[IPERF3]);
    printf(
        ",\n  \"off_to_pump\": %.2f, \"off_to_iperf3\": %.2f, \"on_to_pump\": %.2f, "
        "\"on_to_iperf3\": %.2f}",
        ratio(m[PAGES_OFF], m[PUMP]), ratio(m[PAGES_OFF], m[IPERF3]),
        ratio(m[PAGES_ON], m[PUMP]), ratio(m[PAGES_ON], m[IPERF3]));
    (void)fflush(stdout);
    free(b.digests);
    free(b.owner_memory.base);
    free(b.reader_memory.base);
}

static bool option_number(const char *text, uint64_t max, uint64_t *number_p)
{
    char *end;
    const uint64_t number = text == NULL ? 0 : strtoull(text, &end, 10);

    *number_p = number;
    return number > 0 && number <= max && *end == '\0';
}

static bool options_parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        uint64_t number;
        if (strcmp(argv[i], "--no-iperf3") == 0) {
            options.iperf3 = false;
        } else if (
            strcmp(argv[i], "--rounds") == 0
            && option_number(argv[i + 1], ROUNDS_MAX, &number)) {
            options.rounds = (unsigned)number;
            i++;
        } else if (
            strcmp(argv[i], "--mib") == 0
            && option_number(argv[i + 1], 1 << 20, &number)) {
            options.bytes = number << 20;
            i++;
        } else if (
            strcmp(argv[i], "--set-mib") == 0
            && option_number(argv[i + 1], 1 << 20, &number)) {
            options.set_bytes = number << 20;
            i++;
        } else if (
            strcmp(argv[i], "--page-kib") == 0
            && option_number(argv[i + 1], 1 << 14, &options.page_kib)) {
            i++;
        } else {
            (void)fprintf(stderr, "unknown option or value: %s\n", argv[i]);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static const uint64_t sets[] = {UINT64_C(32) << 20, UINT64_C(512) << 20};
    static const uint32_t pages[] = {1 << 20, 16 << 10};
    bool first = true;

    if (!options_parse(argc, argv)) {
        return 2;
    }
    printf("{\"rounds\": %u, \"rows\": [", options.rounds);
    for (unsigned s = 0; s < (options.set_bytes != 0 ? 1 : 2); s++) {
        for (unsigned p = 0; p < 2; p++) {
            if (options.page_kib != 0 && options.page_kib != pages[p] >> 10) {
                continue;
            }
            for (uint32_t conns = 1; conns <= CONNS_MAX; conns += CONNS_MAX - 1) {
                bench_row(
                    pages[p], conns,
                    options.set_bytes != 0 ? options.set_bytes : sets[s], first);
                first = false;
            }
        }
    }
    printf("\n]}\n");
    return 0;
}
