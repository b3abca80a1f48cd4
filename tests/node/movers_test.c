/* Jobs go round between one loop and many workers without a lock: each must complete
 * once, with the right bytes and the right digest, whatever order the threads run in;
 * and the loop must never be kept, not even by a worker in the midst of a large copy.
 * The thread sanitizer runs the same tests. */
#define _GNU_SOURCE /* memfd_create */

#include "base/digest.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/daemon/movers.h"
#include "tests/base/process_kit.h"

#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAIT_MS = 20000 }; /* longer than any loaded machine needs */

static kvn_movers_t *movers_of(uint32_t nr_threads, uint32_t nr_jobs)
{
    const struct kvn_movers_config config = {
        .nr_threads = nr_threads, .nr_jobs = nr_jobs};
    kvn_movers_t *movers = NULL;
    struct kv_detail detail;
    assert_int_equal(kvn_movers_create(&config, &movers, &detail), KV_OK);
    assert_non_null(movers);
    return movers;
}

static bool readable(const kvn_movers_t *movers, int ms)
{
    struct pollfd pollfd = {.fd = kvn_movers_fd(movers), .events = POLLIN};
    return poll(&pollfd, 1, ms) == 1;
}

/* The next completion, waited for as a loop does: by the descriptor alone, and before
 * it waits it wakes for what it has posted. */
static struct kvn_job_done done_wait(kvn_movers_t *movers)
{
    struct kvn_job_done done;
    kvn_movers_wake(movers);
    while (!kvn_movers_next(movers, &done)) {
        assert_true(readable(movers, WAIT_MS));
    }
    return done;
}

static void fill(uint8_t *bytes, size_t len, uint64_t seed)
{
    struct kv_rng rng = kv_rng_seed(seed);
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)kv_rng_next(&rng);
    }
}

/* ---- what a job does ----------------------------------------------------------- */

/* Lengths around the leaf and its last, short one: the digest is kv_digest's, of what
 * was copied, and not a byte is touched beyond `len`. */
static void copy__moves_the_bytes_and_gives_their_digest(void **state)
{
    (void)state;
    static const uint32_t lens[] = {
        0,    1,    255,   256,   4095,  4096,   4097,    8192,
        8193, 9999, 16384, 65536, 65537, 262144, 1048576, 1048577,
    };
    enum { MAX = 1048577, GUARD = 64 };
    uint8_t *from = malloc(MAX), *to = malloc(MAX + GUARD);
    kvn_movers_t *movers = movers_of(1, 1);

    assert_true(from != NULL && to != NULL);
    fill(from, MAX, 1);
    for (unsigned i = 0; i < 2 * sizeof(lens) / sizeof(lens[0]); i++) {
        const uint32_t len = lens[i / 2];
        const bool digest = i % 2 == 0;
        memset(to, 0xaa, len + GUARD);
        const struct kvn_job job = {
            .id = i,
            .tag = ~(uint64_t)i,
            .move = KVN_MOVE_COPY,
            .digest = digest,
            .to = to,
            .from = from,
            .len = len};
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        const struct kvn_job_done done = done_wait(movers);
        assert_int_equal(done.id, i);
        assert_int_equal(done.tag, ~(uint64_t)i);
        assert_true(done.digest == (digest ? kv_digest(from, len) : 0));
        assert_memory_equal(to, from, len);
        for (unsigned k = 0; k < GUARD; k++) {
            assert_int_equal(to[len + k], 0xaa);
        }
    }
    kvn_movers_destroy(movers);
    free(from);
    free(to);
}

/* A client may write its buffer while it is copied: what counts is what the frame
 * holds. Here the copy itself changes what it copies, since both addresses lead to the
 * same bytes, a few apart. */
static void copy__digests_what_arrived(void **state)
{
    (void)state;
    enum { LEN = 3900, APART = 100, BYTES = 4096 };
    const int fd = memfd_create("movers-test", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    uint8_t *to = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const uint8_t *from = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    kvn_movers_t *movers = movers_of(1, 1);
    const struct kvn_job job = {
        .move = KVN_MOVE_COPY,
        .digest = true,
        .to = to,
        .from = from + APART,
        .len = LEN,
    };

    assert_true(to != MAP_FAILED && from != MAP_FAILED);
    close(fd);
    fill(to, BYTES, 3);
    assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    const struct kvn_job_done done = done_wait(movers);
    assert_true(memcmp(to, job.from, job.len) != 0);
    assert_true(done.digest == kv_digest(to, job.len));
    kvn_movers_destroy(movers);
    munmap(to, BYTES);
    munmap((void *)(uintptr_t)from, BYTES);
}

static void zero_and_digest__do_what_they_say(void **state)
{
    (void)state;
    enum { LEN = 70000 };
    uint8_t *bytes = malloc(LEN + 1);
    kvn_movers_t *movers = movers_of(2, 4);
    struct kvn_job job = {.id = 7, .move = KVN_MOVE_DIGEST, .len = LEN};

    assert_non_null(bytes);
    fill(bytes, LEN + 1, 2);
    bytes[LEN] = 0xcc;
    job.from = bytes;
    assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    assert_true(done_wait(movers).digest == kv_digest(bytes, LEN));
    job = (struct kvn_job){.id = 8, .move = KVN_MOVE_ZERO, .to = bytes, .len = LEN};
    assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    const struct kvn_job_done done = done_wait(movers);
    assert_int_equal(done.id, 8);
    assert_int_equal(done.digest, 0);
    for (unsigned i = 0; i < LEN; i++) {
        assert_int_equal(bytes[i], 0);
    }
    assert_int_equal(bytes[LEN], 0xcc);
    kvn_movers_destroy(movers);
    free(bytes);
}

/* ---- each job once ------------------------------------------------------------- */

enum {
    STORM_JOBS = 60000,
    STORM_SLOTS_MAX = 37,
    STORM_PAGE_MAX = 9000,
    STORM_PAGES = 64
};

struct storm {
    uint32_t nr_slots, page_bytes;
    uint64_t nr_jobs;
    uint8_t from[STORM_PAGES][STORM_PAGE_MAX];
    uint8_t to[STORM_SLOTS_MAX][STORM_PAGE_MAX];
    uint64_t digests[STORM_PAGES];
    uint8_t seen[STORM_JOBS];
    uint32_t free[STORM_SLOTS_MAX]; /* destinations that no job has */
    uint32_t nr_free;
};

static void storm_post(struct storm *storm, kvn_movers_t *movers, uint64_t id)
{
    const uint32_t to = storm->free[--storm->nr_free];
    const uint32_t page = (uint32_t)(kv_mix64(id) % STORM_PAGES);
    const struct kvn_job job = {
        .id = id,
        .tag = (uint64_t)to << 32 | page,
        .move = KVN_MOVE_COPY,
        .digest = true,
        .to = storm->to[to],
        .from = storm->from[page],
        .len = storm->page_bytes};
    assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
}

static void storm_done(struct storm *storm, const struct kvn_job_done *done)
{
    const uint32_t to = (uint32_t)(done->tag >> 32), page = (uint32_t)done->tag;
    assert_true(done->id < storm->nr_jobs);
    assert_int_equal(storm->seen[done->id]++, 0);
    assert_int_equal(page, kv_mix64(done->id) % STORM_PAGES);
    assert_true(done->digest == storm->digests[page]);
    assert_memory_equal(storm->to[to], storm->from[page], storm->page_bytes);
    storm->free[storm->nr_free++] = to;
}

static void storm_run(uint32_t nr_slots, uint32_t page_bytes, uint64_t nr_jobs)
{
    struct storm *storm = calloc(1, sizeof(*storm));
    kvn_movers_t *movers = movers_of(9, nr_slots);
    uint64_t posted = 0, nr_done = 0;

    assert_non_null(storm);
    storm->nr_slots = nr_slots;
    storm->page_bytes = page_bytes;
    storm->nr_jobs = nr_jobs;
    fill(&storm->from[0][0], sizeof(storm->from), 3);
    for (unsigned i = 0; i < STORM_PAGES; i++) {
        storm->digests[i] = kv_digest(storm->from[i], page_bytes);
    }
    for (uint32_t i = 0; i < nr_slots; i++) {
        storm->free[storm->nr_free++] = i;
    }
    while (nr_done < nr_jobs) {
        while (posted < nr_jobs && storm->nr_free > 0) {
            storm_post(storm, movers, posted++);
        }
        const struct kvn_job_done done = done_wait(movers);
        storm_done(storm, &done);
        nr_done++;
    }
    struct kvn_job_done none;
    assert_false(kvn_movers_next(movers, &none));
    assert_false(readable(movers, 0));
    kvn_movers_destroy(movers);
    free(storm);
}

/* More workers than cores and a ring that comes round 500 times; the number of slots
 * is no power of two. */
static void jobs__complete_once_each(void **state)
{
    (void)state;
    storm_run(STORM_SLOTS_MAX, STORM_PAGE_MAX, 20000);
}

/* The ring comes round at every other job: a worker that is stopped between reading its
 * cell and taking it meets another job's number there when it goes on. */
static void jobs__complete_once_each_in_a_tiny_ring(void **state)
{
    (void)state;
    storm_run(1, 64, 10000);
    storm_run(2, 64, STORM_JOBS);
    storm_run(3, 64, STORM_JOBS);
}

/* A budget: the loop takes one completion and goes back to poll. The descriptor must
 * stay readable as long as there is one, or the rest would wait for the next job. To
 * ask without poll first is what meets completions just as the bell is silenced. */
static void fd__is_readable_while_something_is_done(void **state)
{
    (void)state;
    enum { N = 8, ROUNDS = 5000 };
    uint8_t bytes[N][64];
    kvn_movers_t *movers = movers_of(3, N);
    struct kvn_job_done done;

    assert_false(readable(movers, 0));
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < N; i++) {
            const struct kvn_job job = {
                .id = i, .move = KVN_MOVE_ZERO, .to = bytes[i], .len = 64};
            assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        }
        kvn_movers_wake(movers);
        unsigned i = 0;
        while (round % 2 == 0 && i == 0) {
            i += kvn_movers_next(movers, &done);
        }
        while (i < N) {
            assert_true(readable(movers, WAIT_MS));
            i += kvn_movers_next(movers, &done);
        }
    }
    assert_false(kvn_movers_next(movers, &done));
    assert_false(readable(movers, 0));
    kvn_movers_destroy(movers);
}

/* Whoever polls is not rung for; when he stops, he is told of what came meanwhile, and
 * of what is being finished in that very moment. */
static void polled__is_silent_and_tells_when_it_ends(void **state)
{
    (void)state;
    enum { N = 4, ROUNDS = 5000 };
    uint8_t bytes[N][64];
    kvn_movers_t *movers = movers_of(3, N);
    struct kvn_job_done done;

    kvn_movers_polled(movers, true);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned taken = 0;
        for (unsigned i = 0; i < N; i++) {
            const struct kvn_job job = {
                .id = i, .move = KVN_MOVE_ZERO, .to = bytes[i], .len = 64};
            assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        }
        kvn_movers_wake(movers);
        for (unsigned i = 0; i < round % 64; i++) { /* from a little to all of it */
            taken += kvn_movers_next(movers, &done);
        }
        if (round == 0) {
            assert_false(readable(movers, 50));
        }
        kvn_movers_polled(movers, false);
        while (taken < N) {
            assert_true(readable(movers, WAIT_MS));
            taken += kvn_movers_next(movers, &done);
        }
        /* A worker may yet ring for what was taken: without reason, and harmless. */
        assert_false(kvn_movers_next(movers, &done));
        kvn_movers_polled(movers, true);
    }
    kvn_movers_destroy(movers);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A job that is posted while the worker falls asleep is begun all the same: whoever
 * says that he sleeps looks once more. Pauses from none to longer than he spins for. */
static void wake__finds_who_falls_asleep(void **state)
{
    (void)state;
    enum { ROUNDS = 20000, PAUSE_NS = 300000 };
    uint8_t bytes[64];
    kvn_movers_t *movers = movers_of(1, 1);
    struct kv_rng rng = kv_rng_seed(6);

    for (unsigned round = 0; round < ROUNDS; round++) {
        const struct kvn_job job = {
            .id = round, .move = KVN_MOVE_ZERO, .to = bytes, .len = sizeof(bytes)};
        const uint64_t until = now_ns() + kv_rng_next(&rng) % PAUSE_NS;
        while (now_ns() < until) {
        }
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        assert_int_equal(done_wait(movers).id, round);
    }
    kvn_movers_destroy(movers);
}

/* Nanoseconds that our threads of this name have run for. */
static uint64_t ran_ns(const char *name)
{
    uint64_t sum = 0;
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *entry;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char path[300], comm[32] = "", text[96] = "";
        (void)snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = entry->d_name[0] != '.' ? fopen(path, "re") : NULL;
        if (file == NULL) {
            continue;
        }
        (void)!fgets(comm, sizeof(comm), file);
        (void)fclose(file);
        comm[strcspn(comm, "\n")] = '\0';
        (void)snprintf(
            path, sizeof(path), "/proc/self/task/%s/schedstat", entry->d_name);
        file = strcmp(comm, name) == 0 ? fopen(path, "re") : NULL;
        if (file != NULL) {
            (void)!fgets(text, sizeof(text), file);
            (void)fclose(file);
            sum += strtoull(text, NULL, 10);
        }
    }
    closedir(dir);
    return sum;
}

/* The loop wakes once for many jobs, and not one worker alone does them: who takes one
 * and leaves others waiting wakes the next. */
static void wake__once_is_for_all_that_was_posted(void **state)
{
    (void)state;
    enum { N = 64, LEN = 1 << 20 };
    static const char *const names[] = {"kvn-mover-0", "kvn-mover-1", "kvn-mover-2"};
    uint8_t *bytes = calloc(N, LEN);
    kvn_movers_t *movers = movers_of(3, N);
    uint64_t before[3];

    assert_non_null(bytes);
    memset(bytes, 1, (size_t)N * LEN);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); /* all sleep */
    for (unsigned i = 0; i < 3; i++) {
        before[i] = ran_ns(names[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        const struct kvn_job job = {
            .id = i,
            .move = KVN_MOVE_DIGEST,
            .from = bytes + (size_t)i * LEN,
            .len = LEN};
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    }
    for (unsigned i = 0; i < N; i++) {
        (void)done_wait(movers); /* wakes again only when there is something new */
    }
    const uint64_t until = now_ns() + (uint64_t)WAIT_MS * 1000000;
    for (unsigned i = 0; i < 3; i++) { /* who was woken runs, be it late */
        while (ran_ns(names[i]) == before[i] && now_ns() < until) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        assert_true(ran_ns(names[i]) > before[i]);
    }
    kvn_movers_destroy(movers);
    free(bytes);
}

/* Room for a completion is kept from post to next: what is done and not taken counts,
 * so workers never wait for the loop and the bound is a bound. */
static void post__is_again_at_nr_jobs(void **state)
{
    (void)state;
    enum { N = 5 };
    uint8_t bytes[N + 1][64];
    kvn_movers_t *movers = movers_of(2, N);
    struct kvn_job job = {.move = KVN_MOVE_ZERO, .len = 64};

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < N; i++) {
            job.to = bytes[i];
            assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        }
        job.to = bytes[N];
        assert_int_equal(kvn_movers_post(movers, &job), KV_ERR_AGAIN);
        kvn_movers_wake(movers);
        assert_true(readable(movers, WAIT_MS)); /* some are done, and still count */
        assert_int_equal(kvn_movers_post(movers, &job), KV_ERR_AGAIN);
        (void)done_wait(movers);
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        for (unsigned i = 0; i < N; i++) {
            (void)done_wait(movers);
        }
    }
    kvn_movers_destroy(movers);
}

static uint64_t now_us(void)
{
    return now_ns() / 1000;
}

/* Both workers are deep in copies of 64 MiB: the loop posts and asks all the same. The
 * bound is far under what one of the copies takes and far over what a call does. */
static void post__does_not_wait_for_a_busy_worker(void **state)
{
    (void)state;
    enum { LARGE = 64 << 20, N = 100 };
    uint8_t *from = malloc(LARGE), *to = malloc((size_t)2 * LARGE), small[64];
    kvn_movers_t *movers = movers_of(2, 2 + N);
    struct kvn_job_done done;

    assert_true(from != NULL && to != NULL);
    fill(from, 4096, 4);
    memset(from + 4096, 5, LARGE - 4096);
    for (unsigned i = 0; i < 2; i++) {
        const struct kvn_job job = {
            .id = 1000 + i,
            .move = KVN_MOVE_COPY,
            .digest = true,
            .to = to + (size_t)i * LARGE,
            .from = from,
            .len = LARGE};
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    }
    kvn_movers_wake(movers);
    unsigned nr_done = 0;
    const uint64_t start = now_us();
    for (unsigned i = 0; i < N; i++) {
        const struct kvn_job job = {
            .id = i, .move = KVN_MOVE_DIGEST, .from = small, .len = sizeof(small)};
        memset(small, 1, i == 0 ? sizeof(small) : 0);
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
        nr_done += kvn_movers_next(movers, &done);
    }
    const uint64_t took = now_us() - start;
    print_message("100 posts beside two copies of 64 MiB: %u us\n", (unsigned)took);
    while (nr_done < N + 2) {
        (void)done_wait(movers);
        nr_done++;
    }
    const uint64_t all = now_us() - start;
    assert_true(took < all / 2);
    assert_memory_equal(to + LARGE, from, LARGE);
    kvn_movers_destroy(movers);
    free(from);
    free(to);
}

/* ---- the end ------------------------------------------------------------------- */

enum { WAITING_JOBS = 4000, WAITING_LEN = 65536 };

/* Destroys while jobs wait; how many were not begun. */
static unsigned destroy_round(uint8_t *to)
{
    kvn_movers_t *movers = movers_of(2, WAITING_JOBS);
    unsigned nr_whole = 0, nr_none = 0;

    memset(to, 1, (size_t)WAITING_JOBS * WAITING_LEN);
    for (unsigned i = 0; i < WAITING_JOBS; i++) {
        const struct kvn_job job = {
            .id = i,
            .move = KVN_MOVE_ZERO,
            .to = to + (size_t)i * WAITING_LEN,
            .len = WAITING_LEN};
        assert_int_equal(kvn_movers_post(movers, &job), KV_OK);
    }
    kvn_movers_wake(movers);
    kvn_movers_destroy(movers);
    for (unsigned i = 0; i < WAITING_JOBS; i++) {
        const uint8_t *page = to + (size_t)i * WAITING_LEN;
        assert_memory_equal(page, page + 1, WAITING_LEN - 1); /* whole, or not begun */
        nr_whole += page[0] == 0;
        nr_none += page[0] == 1;
    }
    assert_int_equal(nr_whole + nr_none, WAITING_JOBS);
    return nr_none;
}

/* Destroy finishes what is under way, so that memory may go after it, and begins
 * nothing more. Some rounds, because on a loaded machine the workers may have done it
 * all before this thread runs again. */
static void destroy__leaves_waiting_jobs_unbegun(void **state)
{
    (void)state;
    uint8_t *to = malloc((size_t)WAITING_JOBS * WAITING_LEN);
    const struct process_kit_held before = process_kit_held();
    unsigned nr_none = 0;

    assert_non_null(to);
    for (unsigned i = 0; i < 50 && nr_none == 0; i++) {
        nr_none = destroy_round(to);
    }
    print_message("of %u jobs %u were not begun\n", WAITING_JOBS, nr_none);
    assert_true(nr_none > 0);
    process_kit_expect_held(&before);
    free(to);
    kvn_movers_destroy(NULL);
}

static void destroy__is_quick_when_idle(void **state)
{
    (void)state;
    const struct process_kit_held before = process_kit_held();
    for (unsigned i = 0; i < 20; i++) {
        kvn_movers_destroy(movers_of(1 + i % 7, 1 + i));
    }
    process_kit_expect_held(&before);
}

static void create__bounds_are_kept_and_named(void **state)
{
    (void)state;
    static const struct {
        struct kvn_movers_config config;
        const char *field;
        uint64_t limit, value;
    } bads[] = {
        {{0, 1}, "movers.threads", 1, 0},
        {{65, 1}, "movers.threads", 64, 65},
        {{1, 0}, "movers.jobs", 1, 0},
        {{1, 65537}, "movers.jobs", 65536, 65537},
    };
    for (unsigned i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
        kvn_movers_t *movers = NULL;
        struct kv_detail detail = {0};
        assert_int_equal(
            kvn_movers_create(&bads[i].config, &movers, &detail), KV_ERR_CONFIG);
        assert_null(movers);
        assert_string_equal(detail.field, bads[i].field);
        assert_int_equal(detail.limit, bads[i].limit);
        assert_int_equal(detail.value, bads[i].value);
        assert_int_equal(
            kvn_movers_create(&bads[i].config, &movers, NULL), KV_ERR_CONFIG);
    }
    kvn_movers_destroy(movers_of(64, 65536));
}

/* Fail the 1st, 2nd, 3rd … fallible call: every label of create runs once. Threads are
 * the last: with the third refused, two are running and must end. */
static void create__survives_every_fault(void **state)
{
    (void)state;
    const struct kvn_movers_config config = {.nr_threads = 4, .nr_jobs = 16};
    const struct process_kit_held before = process_kit_held();
    kvn_movers_t *movers = NULL;
    uint64_t n = 0;

    while (movers == NULL) {
        struct kv_detail detail = {0};
        kv_fault_after(++n);
        const kv_status_t status = kvn_movers_create(&config, &movers, &detail);
        kv_fault_after(0);
        assert_int_equal(status == KV_OK, movers != NULL);
        assert_true(status == KV_OK || status == KV_ERR_NOMEM || status == KV_ERR_IO);
        if (movers == NULL) {
            assert_non_null(detail.field);
            process_kit_expect_held(&before);
        }
    }
    /* three allocations, event fd, semaphore, attributes, four threads */
    assert_int_equal(n - 1, 10);
    kvn_movers_destroy(movers);
    process_kit_expect_held(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copy__moves_the_bytes_and_gives_their_digest),
        cmocka_unit_test(copy__digests_what_arrived),
        cmocka_unit_test(zero_and_digest__do_what_they_say),
        cmocka_unit_test(jobs__complete_once_each),
        cmocka_unit_test(jobs__complete_once_each_in_a_tiny_ring),
        cmocka_unit_test(fd__is_readable_while_something_is_done),
        cmocka_unit_test(polled__is_silent_and_tells_when_it_ends),
        cmocka_unit_test(wake__finds_who_falls_asleep),
        cmocka_unit_test(wake__once_is_for_all_that_was_posted),
        cmocka_unit_test(post__is_again_at_nr_jobs),
        cmocka_unit_test(post__does_not_wait_for_a_busy_worker),
        cmocka_unit_test(destroy__leaves_waiting_jobs_unbegun),
        cmocka_unit_test(destroy__is_quick_when_idle),
        cmocka_unit_test(create__bounds_are_kept_and_named),
        cmocka_unit_test(create__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
