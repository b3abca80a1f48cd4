/* Fetching pages over shm, and over loop, beside memcpy of the same pages.
 *
 *   shm_bench [--rounds N] [--mib N] [--page-kib N] [--threads N] [--depth N]
 *
 * One process with an owner's port and a reader's: a set of pages in a `read` arena,
 * and as many places for them at the reader. In turns, round by round: memcpy of all
 * pages by so many threads (from the owner's mapping, each thread its share), gets of
 * all pages by shm with as many copiers and `depth` in flight, verification off, then
 * on; the same by loop, in READs of BATCH pages, which the owner's port decodes and
 * answers in the posting thread, too.
 * Medians over the rounds, and the median of the ratios of a round: a machine that is
 * busy is busy for both. `cpu_to_memcpy` is the ratio of processor time, the posting
 * thread's included: it tells more where others compute meanwhile. `first` is the first
 * pass over the mapping, with its page faults. Prints one JSON object.
 */
#define _GNU_SOURCE /* memfd_create */

#include "base/assert.h"
#include "base/codec.h"
#include "base/digest.h"
#include "transport/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { ROUNDS_MAX = 99, THREADS_MAX = 64, DEPTH_MAX = 4096, BATCH = 8 };

static struct options {
    unsigned rounds, mib, page_kib, threads, depth;
} options = {.rounds = 9, .mib = 1024, .page_kib = 1024, .threads = 2, .depth = 16};

struct bench {
    uint8_t *from, *to;
    uint64_t bytes;
    uint32_t page_bytes, nr_pages;
    uint64_t *digests;
    char path[80];
};

struct figures {
    double gb_s[ROUNDS_MAX], ratio[ROUNDS_MAX], cpu_ratio[ROUNDS_MAX];
};

/* Of one pass over all pages. */
struct pass {
    double gb_s, cpu_s;
};

static double seconds(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct pass pass_since(const struct bench *b, double wall, double cpu)
{
    return (struct pass){
        .gb_s = (double)b->bytes / (seconds(CLOCK_MONOTONIC) - wall) / 1e9,
        .cpu_s = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu,
    };
}

/* ---- memcpy --------------------------------------------------------------------- */

struct share {
    const struct bench *bench;
    pthread_barrier_t *start;
    uint32_t first;
    pthread_t thread;
};

static void *copy_share(void *arg)
{
    const struct share *share = arg;
    const struct bench *b = share->bench;

    pthread_barrier_wait(share->start);
    for (uint32_t i = share->first; i < b->nr_pages; i += options.threads) {
        const uint64_t at = (uint64_t)i * b->page_bytes;
        memcpy(b->to + at, b->from + at, b->page_bytes);
    }
    return NULL;
}

static struct pass memcpy_pass(const struct bench *b)
{
    struct share shares[THREADS_MAX];
    pthread_barrier_t start;

    pthread_barrier_init(&start, NULL, options.threads + 1);
    for (unsigned i = 0; i < options.threads; i++) {
        shares[i] = (struct share){.bench = b, .start = &start, .first = i};
        KV_ASSERT(pthread_create(&shares[i].thread, NULL, copy_share, &shares[i]) == 0);
    }
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    pthread_barrier_wait(&start);
    const double wall = seconds(CLOCK_MONOTONIC);
    for (unsigned i = 0; i < options.threads; i++) {
        pthread_join(shares[i].thread, NULL);
    }
    const struct pass pass = pass_since(b, wall, cpu);
    pthread_barrier_destroy(&start);
    return pass;
}

/* ---- gets ----------------------------------------------------------------------- */

struct pair {
    kvt_port_t *owner, *reader;
    kvt_conn_t conn;
    bool verify;
};

static void wait_for(kvt_port_t *a, kvt_port_t *b)
{
    struct pollfd fds[2] = {
        {.fd = kvt_fd(a), .events = POLLIN}, {.fd = kvt_fd(b), .events = POLLIN}};

    (void)poll(fds, 2, -1);
}

static struct pair
pair_open(const struct kvt_ops *ops, const struct bench *b, int fd, bool verify)
{
    const struct kvt_region regions[] = {
        {.base = b->from, .bytes = b->bytes, .fd = fd},
        {.base = b->to, .bytes = b->bytes, .fd = -1},
    };
    struct kvt_config config = {
        .listen = b->path,
        .regions = &regions[0],
        .nr_regions = 1,
        .nr_ops = DEPTH_MAX,
        .nr_conns = 4,
        .nr_threads = 1,
        .hello_us = 10000000,
        .verify = verify,
    };
    struct pair pair = {.verify = verify};
    struct kvt_event event = {.conn = 0};
    bool accepted = false;

    KV_ASSERT(ops->create(&config, &pair.owner, NULL) == KV_OK);
    config.listen = NULL;
    config.regions = &regions[1];
    config.nr_threads = options.threads;
    KV_ASSERT(ops->create(&config, &pair.reader, NULL) == KV_OK);
    KV_ASSERT(
        kvt_open(pair.reader, b->path, (const uint8_t *)"b", 1, &pair.conn) == KV_OK);
    while (!accepted) {
        wait_for(pair.owner, pair.reader);
        while (kvt_next(pair.owner, &event)) {
            KV_ASSERT(event.kind == KVT_EV_HELLO);
            kvt_accept(pair.owner, event.conn);
            accepted = true;
        }
        KV_ASSERT(!kvt_next(pair.reader, &event));
    }
    return pair;
}

static void pair_close(struct pair *pair)
{
    kvt_destroy(pair->reader);
    kvt_destroy(pair->owner);
}

static struct pass gets_pass(const struct bench *b, const struct pair *pair)
{
    struct kvt_event event;
    uint32_t nr_posted = 0, nr_done = 0;
    const double wall = seconds(CLOCK_MONOTONIC);
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);

    while (nr_done < b->nr_pages) {
        for (; nr_posted < b->nr_pages && nr_posted - nr_done < options.depth;
             nr_posted++) {
            const uint64_t at = (uint64_t)nr_posted * b->page_bytes;
            const struct kvt_part part = {
                .id = nr_posted,
                .to = b->to + at,
                .room = b->page_bytes,
                .arena = 0,
                .offset = at,
            };
            KV_ASSERT(kvt_get(pair->reader, pair->conn, &part) == KV_OK);
        }
        while (kvt_next(pair->reader, &event)) {
            KV_ASSERT(event.kind == KVT_EV_DONE && event.status == KV_OK);
            KV_ASSERT(!pair->verify || event.computed == b->digests[event.id]);
            nr_done++;
        }
        if (nr_done < b->nr_pages
            && (nr_posted == b->nr_pages || nr_posted - nr_done == options.depth)) {
            wait_for(pair->reader, pair->owner);
        }
    }
    return pass_since(b, wall, cpu);
}

/* ---- reads by name --------------------------------------------------------------- */

static void post_read(const struct bench *b, const struct pair *pair, uint32_t first)
{
    uint8_t bytes[KVT_REQUEST_BYTES_MAX];
    struct kv_copy copies[BATCH];
    struct kvt_part parts[BATCH];
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_READ, .req = first, .link = 1};
    uint32_t nr = 0;
    size_t len;

    for (; nr < BATCH && first + nr < b->nr_pages; nr++) {
        const uint32_t page = first + nr;
        copies[nr] = (struct kv_copy){.tenant = 1};
        memcpy(copies[nr].key.b, &page, sizeof(page));
        parts[nr] = (struct kvt_part){
            .id = page,
            .to = b->to + (uint64_t)page * b->page_bytes,
            .room = b->page_bytes};
    }
    msg.u.read.data_gen = 1;
    msg.u.read.copies = copies;
    msg.u.read.nr_copies = nr;
    KV_ASSERT(kv_encode(&msg, bytes, sizeof(bytes), &len, NULL) == KV_OK);
    KV_ASSERT(
        kvt_read(pair->reader, pair->conn, first, bytes, (uint32_t)len, parts, nr)
        == KV_OK);
}

static void
answer(const struct bench *b, const struct pair *pair, const struct kvt_event *event)
{
    static uint8_t memory[1 << 16] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kv_msg msg, data = {.proto = 1, .type = KV_MSG_DATA, .link = 1};
    uint8_t head[KVT_HEAD_BYTES_MAX];
    size_t len;

    KV_ASSERT(kv_decode(event->bytes, event->nr_bytes, &arena, &msg, NULL) == KV_OK);
    data.req = msg.req;
    for (uint32_t i = 0; i < msg.u.read.nr_copies; i++) {
        uint32_t page;
        memcpy(&page, msg.u.read.copies[i].key.b, sizeof(page));
        data.u.data = (struct kv_msg_data){
            .data_gen = 1,
            .index = i,
            .len = b->page_bytes,
            .n_tokens = 1,
            .gen = 1,
            .digest = b->digests[page],
        };
        KV_ASSERT(kv_encode(&data, head, sizeof(head), &len, NULL) == KV_OK);
        KV_ASSERT(
            kvt_send(
                pair->owner, event->conn, page, head, (uint32_t)len,
                b->from + (uint64_t)page * b->page_bytes, b->page_bytes)
            == KV_OK);
    }
}

static struct pass reads_pass(const struct bench *b, const struct pair *pair)
{
    struct kvt_event event;
    uint32_t nr_posted = 0, nr_done = 0;
    const double wall = seconds(CLOCK_MONOTONIC);
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);

    while (nr_done < b->nr_pages) {
        while (nr_posted < b->nr_pages && nr_posted - nr_done < options.depth) {
            post_read(b, pair, nr_posted);
            nr_posted +=
                b->nr_pages - nr_posted < BATCH ? b->nr_pages - nr_posted : BATCH;
        }
        bool any = false;
        while (kvt_next(pair->owner, &event)) {
            if (event.kind == KVT_EV_REQUEST) {
                answer(b, pair, &event);
            }
        }
        while (kvt_next(pair->reader, &event)) {
            KV_ASSERT(event.kind == KVT_EV_DONE && event.status == KV_OK);
            KV_ASSERT(!pair->verify || event.computed == event.expected);
            nr_done++;
            any = true;
        }
        if (!any && nr_done < b->nr_pages) {
            wait_for(pair->reader, pair->owner);
        }
    }
    return pass_since(b, wall, cpu);
}

/* ---- figures -------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(const double *values)
{
    double sorted[ROUNDS_MAX];

    memcpy(sorted, values, options.rounds * sizeof(*values));
    qsort(sorted, options.rounds, sizeof(*sorted), by_value);
    return sorted[options.rounds / 2];
}

static void row(const char *name, const struct figures *f, double first)
{
    printf(
        "  \"%s\": {\"gb_s\": %.2f, \"to_memcpy\": %.3f, \"cpu_to_memcpy\": %.3f, "
        "\"first_gb_s\": %.2f},\n",
        name, median(f->gb_s), median(f->ratio), median(f->cpu_ratio), first);
}

static void
note(struct figures *f, unsigned i, const struct pass *pass, const struct pass *copied)
{
    f->gb_s[i] = pass->gb_s;
    f->ratio[i] = pass->gb_s / copied->gb_s;
    f->cpu_ratio[i] = copied->cpu_s / pass->cpu_s;
}

static void run(const struct bench *b, int fd)
{
    static struct figures copied, off, on, loop_off, loop_on;
    struct bench second = *b;

    (void)snprintf(
        second.path, sizeof(second.path), "/tmp/shm_bench-%d-2", (int)getpid());
    (void)memcpy_pass(b); /* The reader's places have their pages. */
    struct pair plain = pair_open(&kvt_shm, b, fd, false);
    struct pair checked = pair_open(&kvt_shm, &second, fd, true);
    struct pair loop = pair_open(&kvt_loop, b, -1, false);
    struct pair loop_checked = pair_open(&kvt_loop, &second, -1, true);
    const double first_off = gets_pass(b, &plain).gb_s;
    const double first_on = gets_pass(b, &checked).gb_s;
    const double first_loop_off = reads_pass(b, &loop).gb_s;
    const double first_loop_on = reads_pass(b, &loop_checked).gb_s;
    for (unsigned i = 0; i < options.rounds; i++) {
        const struct pass c = memcpy_pass(b);
        const struct pass x = gets_pass(b, &plain);
        const struct pass y = gets_pass(b, &checked);
        const struct pass u = reads_pass(b, &loop);
        const struct pass v = reads_pass(b, &loop_checked);
        note(&copied, i, &c, &c);
        note(&off, i, &x, &c);
        note(&on, i, &y, &c);
        note(&loop_off, i, &u, &c);
        note(&loop_on, i, &v, &c);
    }
    pair_close(&plain);
    pair_close(&checked);
    pair_close(&loop);
    pair_close(&loop_checked);
    printf(
        "{\n  \"page_bytes\": %u, \"set_bytes\": %llu, \"threads\": %u, \"depth\": %u, "
        "\"rounds\": %u,\n",
        b->page_bytes, (unsigned long long)b->bytes, options.threads, options.depth,
        options.rounds);
    row("verification_off", &off, first_off);
    row("verification_on", &on, first_on);
    row("loop_verification_off", &loop_off, first_loop_off);
    row("loop_verification_on", &loop_on, first_loop_on);
    printf("  \"memcpy_gb_s\": %.2f\n}\n", median(copied.gb_s));
}

static bool parse(int argc, char **argv)
{
    const struct {
        const char *name;
        unsigned *value, max;
    } all[] = {
        {"--rounds", &options.rounds, ROUNDS_MAX},
        {"--mib", &options.mib, 1 << 20},
        {"--page-kib", &options.page_kib, 1 << 20},
        {"--threads", &options.threads, THREADS_MAX},
        {"--depth", &options.depth, DEPTH_MAX},
    };

    for (int i = 1; i < argc; i += 2) {
        unsigned k = 0;
        while (k < KV_COUNT_OF(all) && strcmp(argv[i], all[k].name) != 0) {
            k++;
        }
        const unsigned long value = i + 1 < argc ? strtoul(argv[i + 1], NULL, 10) : 0;
        if (k == KV_COUNT_OF(all) || value == 0 || value > all[k].max) {
            return false;
        }
        *all[k].value = (unsigned)value;
    }
    return (uint64_t)options.mib * 1024 >= options.page_kib;
}

int main(int argc, char **argv)
{
    struct bench b = {.from = NULL};

    if (!parse(argc, argv)) {
        fprintf(
            stderr, "shm_bench [--rounds N] [--mib N] [--page-kib N] [--threads N] "
                    "[--depth N]\n");
        return 2;
    }
    b.page_bytes = options.page_kib * 1024;
    b.nr_pages = (uint32_t)((uint64_t)options.mib * 1024 / options.page_kib);
    b.bytes = (uint64_t)b.nr_pages * b.page_bytes;
    (void)snprintf(b.path, sizeof(b.path), "/tmp/shm_bench-%d", (int)getpid());
    const int fd = memfd_create("shm_bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    KV_ASSERT(fd >= 0 && ftruncate(fd, (off_t)b.bytes) == 0);
    b.from = mmap(NULL, b.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    b.to =
        mmap(NULL, b.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    b.digests = calloc(b.nr_pages, sizeof(*b.digests));
    KV_ASSERT(b.from != MAP_FAILED && b.to != MAP_FAILED && b.digests != NULL);
    KV_ASSERT(
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE) == 0);
    for (uint64_t i = 0; i < b.bytes; i += 8) {
        const uint64_t word = i * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(b.from + i, &word, 8);
    }
    for (uint32_t i = 0; i < b.nr_pages; i++) {
        b.digests[i] = kv_digest(b.from + (uint64_t)i * b.page_bytes, b.page_bytes);
    }
    run(&b, fd);
    free(b.digests);
    return 0;
}
