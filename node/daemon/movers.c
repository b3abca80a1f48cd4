/* How a job goes round, and why nobody waits for anybody:
 *
 *              free list (loop)
 *                 │ post                                     next
 *                 ▼                                           │
 *   slot ──► waiting ring ──► worker: CAS on head ──► done stack ──► taken list
 *            of slot numbers                         (push, CAS)     (loop)
 *
 *   (1) A slot is in exactly one of: free list, ring, a worker's hands, done stack,
 *       taken list. All but free count as posted: at most nr_jobs.
 *   (2) head <= tail <= head + nr_slots: what waits is posted, and there are no more
 *       slots than cells; so the loop overwrites a cell only when head has passed it,
 *       and a worker that read the old number loses its CAS. Both are 64 bits wide and
 *       never come round.
 *   (3) A worker that finds nothing says that it sleeps, looks once more, and only then
 *       waits for a token; who wakes takes one sleeper off the count and gives one
 *       token. So sleepers said and tokens given are as many as workers that wait or
 *       are about to. Saying and posting are sequentially consistent: one sees the
 *       other. The loop wakes one for all that it has posted; whoever takes a job and
 *       leaves others waiting wakes the next.
 *   (4) Whenever something is done and not taken, `fd` is readable, or the worker that
 *       did it is about to make it so; or the loop polls.
 *   (5) Who pushes looks at `polled` after it; who ends polling looks at the stack
 *       after it. Both orders are sequentially consistent: one of the two rings.
 */
#define _GNU_SOURCE /* pthread_setname_np */

#include "node/daemon/movers.h"

#include "base/assert.h"
#include "base/digest.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    MOVERS_THREADS_MAX = 64,
    MOVERS_JOBS_MAX = 65536,
    /* Workers hold a leaf's sums; glibc wants 16 KiB, the sanitizers more. */
    MOVERS_STACK_BYTES = 256 * 1024,
    /* How often a worker asks again before it sleeps, some 20 us in all: waking a
     * sleeper is a system call. */
    MOVERS_SPINS = 1000,
    /* What a COPY copies before it digests it: one leaf. AMD EPYC, 512 KiB of L2,
     * 2026-11, GB/s of pages of 16 KiB, 256 KiB and 1 MiB at random places of 512 MiB:
     * chunks of 4 KiB 6.9, 8.6 and 8.9; 16 KiB 5.8, 6.7 and 7.1; 64 KiB -, 6.7 and 7.0;
     * copy it all, then digest it 5.0, 7.1 and 6.8; only copy 7.2, 9.6 and 9.6. */
    MOVERS_CHUNK_BYTES = KV_DIGEST_LEAF_BYTES,
};

#define NO_SLOT UINT32_MAX

struct slot {
    struct kvn_job job;
    uint64_t digest;
    uint32_t next; /* in the free list, the done stack or the taken list */
};

struct kvn_movers {
    /* The loop's. */
    struct slot *slots;
    uint32_t nr_slots;
    uint32_t nr_posted;
    uint32_t free;
    uint32_t taken; /* in order of completion */
    uint64_t woken; /* tail at the last kvn_movers_wake() */
    int fd;

    /* Constant after create. */
    _Atomic uint32_t *cells; /* nr_slots of them */
    uint32_t nr_threads;
    pthread_t threads[MOVERS_THREADS_MAX];

    /* Everybody's, each on a line of its own. */
    _Alignas(64) atomic_uint_fast64_t tail; /* the loop's to write */
    _Alignas(64) atomic_uint_fast64_t head;
    _Alignas(64) _Atomic uint32_t done; /* last one done */
    _Alignas(64) atomic_uint asleep;    /* (3) */
    sem_t tokens;
    atomic_bool stopping, polled;
};

/* ---- workers ------------------------------------------------------------------- */

/* Digests what lies in `to`, not what came from `from`: a client may write its buffer
 * while it is copied, and what counts is what the frame holds. */
static uint64_t copy_digested(uint8_t *to, const uint8_t *from, uint32_t len)
{
    struct kv_digest_state state;
    kv_digest_init(&state);
    for (uint32_t at = 0; at < len;) {
        const uint32_t left = len - at;
        const uint32_t n = left < MOVERS_CHUNK_BYTES ? left : MOVERS_CHUNK_BYTES;
        memcpy(to + at, from + at, n);
        kv_digest_add(&state, at / MOVERS_CHUNK_BYTES, kv_digest_leaf(to + at, n));
        at += n;
    }
    return kv_digest_end(&state, len);
}

static uint64_t work(const struct kvn_job *job)
{
    switch (job->move) {
    case KVN_MOVE_DIGEST:
        return kv_digest(job->from, job->len);
    case KVN_MOVE_COPY:
        if (job->digest) {
            return copy_digested(job->to, job->from, job->len);
        }
        memcpy(job->to, job->from, job->len);
        return 0;
    case KVN_MOVE_ZERO:
        memset(job->to, 0, job->len);
        return 0;
    }
    KV_UNREACHABLE("post() checked the kind");
}

static bool any_waiting(kvn_movers_t *movers)
{
    const uint_fast64_t head =
        atomic_load_explicit(&movers->head, memory_order_relaxed);
    return atomic_load_explicit(&movers->tail, memory_order_seq_cst) > head;
}

/* False: nothing waits. The number is read before the CAS, since after it the loop may
 * write the cell (2). Tail is read after head, so it is the later of the two. */
static bool take_waiting(kvn_movers_t *movers, uint32_t *number_p)
{
    uint_fast64_t head = atomic_load_explicit(&movers->head, memory_order_acquire);
    uint32_t number;
    do {
        if (atomic_load_explicit(&movers->tail, memory_order_acquire) <= head) {
            return false;
        }
        number = atomic_load_explicit(
            &movers->cells[head % movers->nr_slots], memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(
        &movers->head, &head, head + 1, memory_order_acq_rel, memory_order_acquire));
    KV_ASSERT(number < movers->nr_slots);
    *number_p = number;
    return true;
}

/* (3) One sleeper fewer; false: nobody sleeps. */
static bool take_sleeper(kvn_movers_t *movers)
{
    unsigned nr = atomic_load_explicit(&movers->asleep, memory_order_seq_cst);
    while (nr > 0) {
        if (atomic_compare_exchange_weak_explicit(
                &movers->asleep, &nr, nr - 1, memory_order_seq_cst,
                memory_order_seq_cst)) {
            return true;
        }
    }
    return false;
}

static bool wake_one(kvn_movers_t *movers)
{
    if (!take_sleeper(movers)) {
        return false;
    }
    KV_ASSERT(sem_post(&movers->tokens) == 0); /* no more tokens than workers */
    return true;
}

/* An event fd holds 2^64 - 2 and gets one per push onto an empty stack: it is never
 * full, and so the write never waits. */
static void ring_bell(int fd)
{
    const uint64_t one = 1;
    ssize_t ret;
    do {
        ret = write(fd, &one, sizeof(one));
    } while (ret < 0 && errno == EINTR);
    KV_ASSERT(ret == sizeof(one));
}

static void give_done(kvn_movers_t *movers, uint32_t number)
{
    uint32_t last = atomic_load_explicit(&movers->done, memory_order_relaxed);
    do {
        movers->slots[number].next = last;
    } while (!atomic_compare_exchange_weak_explicit(
        &movers->done, &last, number, memory_order_seq_cst, memory_order_relaxed));
    /* (4): who found others there left it to them. (5) */
    if (last == NO_SLOT
        && !atomic_load_explicit(&movers->polled, memory_order_seq_cst)) {
        ring_bell(movers->fd);
    }
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* (3) */
static void sleep_now(kvn_movers_t *movers)
{
    int ret;
    atomic_fetch_add_explicit(&movers->asleep, 1, memory_order_seq_cst);
    if ((any_waiting(movers)
         || atomic_load_explicit(&movers->stopping, memory_order_seq_cst))
        && take_sleeper(movers)) {
        return; /* ourselves, or another in our stead: it is a number alone */
    }
    do {
        ret = sem_wait(&movers->tokens);
    } while (ret != 0 && errno == EINTR);
    KV_ASSERT(ret == 0);
}

static bool stopping(kvn_movers_t *movers)
{
    return atomic_load_explicit(&movers->stopping, memory_order_acquire);
}

/* False: we are to stop. */
static bool next_job(kvn_movers_t *movers, uint32_t *number_p)
{
    while (!stopping(movers)) {
        for (unsigned i = 0; i < MOVERS_SPINS; i++) {
            if (take_waiting(movers, number_p)) {
                return true;
            }
            cpu_relax();
        }
        sleep_now(movers);
    }
    return false;
}

static void *worker_main(void *arg)
{
    kvn_movers_t *movers = arg;
    uint32_t number;
    while (next_job(movers, &number)) {
        struct slot *slot = &movers->slots[number];
        if (any_waiting(movers)) {
            (void)wake_one(movers);
        }
        slot->digest = work(&slot->job);
        give_done(movers, number);
    }
    return NULL;
}

/* ---- life ---------------------------------------------------------------------- */

static void stop_workers(kvn_movers_t *movers)
{
    atomic_store_explicit(&movers->stopping, true, memory_order_seq_cst);
    while (wake_one(movers)) { /* who says so later looks at `stopping` after it */
    }
    for (uint32_t i = 0; i < movers->nr_threads; i++) {
        KV_ASSERT(pthread_join(movers->threads[i], NULL) == 0);
    }
    movers->nr_threads = 0;
}

static int start_worker(kvn_movers_t *movers, const pthread_attr_t *attr)
{
    pthread_t *thread = &movers->threads[movers->nr_threads];
    const int ret = kv_thread_start(thread, attr, worker_main, movers);
    if (ret == 0) {
        char name[16]; /* the kernel's limit, with the NUL */
        snprintf(name, sizeof(name), "kvn-mover-%u", movers->nr_threads % 100);
        pthread_setname_np(*thread, name);
        movers->nr_threads++;
    }
    return ret;
}

static kv_status_t
start_workers(kvn_movers_t *movers, uint32_t nr_threads, struct kv_detail *detail)
{
    pthread_attr_t attr;
    int ret = 0;

    if (KV_FAULT() || pthread_attr_init(&attr) != 0) {
        return kv_fail(detail, KV_ERR_NOMEM, "movers.threads", nr_threads, 0);
    }
    KV_ASSERT(pthread_attr_setstacksize(&attr, MOVERS_STACK_BYTES) == 0);
    while (ret == 0 && movers->nr_threads < nr_threads) {
        ret = start_worker(movers, &attr);
    }
    pthread_attr_destroy(&attr);
    if (ret != 0) {
        const uint32_t started = movers->nr_threads;
        stop_workers(movers);
        return kv_fail(detail, KV_ERR_IO, "movers.threads", started, nr_threads);
    }
    return KV_OK;
}

static kv_status_t
config_check(const struct kvn_movers_config *config, struct kv_detail *detail)
{
    if (config->nr_threads == 0 || config->nr_threads > MOVERS_THREADS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "movers.threads",
            config->nr_threads == 0 ? 1 : MOVERS_THREADS_MAX, config->nr_threads);
    }
    if (config->nr_jobs == 0 || config->nr_jobs > MOVERS_JOBS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "movers.jobs",
            config->nr_jobs == 0 ? 1 : MOVERS_JOBS_MAX, config->nr_jobs);
    }
    return KV_OK;
}

static void slots_init(kvn_movers_t *movers)
{
    for (uint32_t i = 0; i < movers->nr_slots; i++) {
        movers->slots[i].next = i + 1 < movers->nr_slots ? i + 1 : NO_SLOT;
    }
    movers->free = 0;
    movers->taken = NO_SLOT;
    atomic_init(&movers->done, NO_SLOT);
    atomic_init(&movers->head, 0);
    atomic_init(&movers->tail, 0);
    atomic_init(&movers->asleep, 0);
    atomic_init(&movers->stopping, false);
    atomic_init(&movers->polled, false);
}

kv_status_t kvn_movers_create(
    const struct kvn_movers_config *config, kvn_movers_t **movers_p,
    struct kv_detail *detail)
{
    kvn_movers_t *movers;
    kv_status_t status = config_check(config, detail);
    if (status != KV_OK) {
        goto err;
    }
    status = kv_fail(detail, KV_ERR_NOMEM, "movers.jobs", config->nr_jobs, 0);
    movers = kv_calloc(1, sizeof(*movers));
    if (movers == NULL) {
        goto err;
    }
    movers->nr_slots = config->nr_jobs;
    movers->slots = kv_calloc(config->nr_jobs, sizeof(movers->slots[0]));
    if (movers->slots == NULL) {
        goto err_movers;
    }
    movers->cells = kv_calloc(config->nr_jobs, sizeof(movers->cells[0]));
    if (movers->cells == NULL) {
        goto err_slots;
    }
    slots_init(movers);
    movers->fd = KV_FAULT() ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (movers->fd < 0) {
        status = kv_fail(detail, KV_ERR_IO, "movers.eventfd", 1, 0);
        goto err_cells;
    }
    if (KV_FAULT() || sem_init(&movers->tokens, 0, 0) != 0) {
        status = kv_fail(detail, KV_ERR_IO, "movers.semaphore", 1, 0);
        goto err_fd;
    }
    status = start_workers(movers, config->nr_threads, detail);
    if (status != KV_OK) {
        goto err_semaphore;
    }
    if (detail != NULL) {
        *detail = (struct kv_detail){0};
    }
    *movers_p = movers;
    return KV_OK;

err_semaphore:
    sem_destroy(&movers->tokens);
err_fd:
    close(movers->fd);
err_cells:
    kv_free(movers->cells);
err_slots:
    kv_free(movers->slots);
err_movers:
    kv_free(movers);
err:
    return status;
}

void kvn_movers_destroy(kvn_movers_t *movers)
{
    if (movers == NULL) {
        return;
    }
    stop_workers(movers);
    sem_destroy(&movers->tokens);
    close(movers->fd);
    kv_free(movers->cells);
    kv_free(movers->slots);
    kv_free(movers);
}

/* ---- the loop's side ----------------------------------------------------------- */

int kvn_movers_fd(const kvn_movers_t *movers)
{
    return movers->fd;
}

static void job_check(const struct kvn_job *job)
{
    const uintptr_t to = (uintptr_t)job->to, from = (uintptr_t)job->from;
    KV_ASSERT(job->move <= KVN_MOVE_ZERO);
    KV_ASSERT(KV_IMPLIES(job->move != KVN_MOVE_DIGEST, job->to != NULL));
    KV_ASSERT(KV_IMPLIES(job->move != KVN_MOVE_ZERO, job->from != NULL));
    KV_ASSERT(KV_IMPLIES(
        job->move == KVN_MOVE_COPY, to + job->len <= from || from + job->len <= to));
}

kv_status_t kvn_movers_post(kvn_movers_t *movers, const struct kvn_job *job)
{
    job_check(job);
    if (movers->free == NO_SLOT) {
        return KV_ERR_AGAIN;
    }
    const uint32_t number = movers->free;
    struct slot *slot = &movers->slots[number];
    movers->free = slot->next;
    movers->nr_posted++;
    KV_ASSERT(movers->nr_posted <= movers->nr_slots); /* (1), and with it (2) */
    slot->job = *job;
    const uint_fast64_t tail =
        atomic_load_explicit(&movers->tail, memory_order_relaxed); /* ours */
    atomic_store_explicit(
        &movers->cells[tail % movers->nr_slots], number, memory_order_relaxed);
    /* Publishes the slot and its cell. */
    atomic_store_explicit(&movers->tail, tail + 1, memory_order_release);
    return KV_OK;
}

/* The tail is written once more, in the order that (3) asks for: one such write for all
 * that was posted. */
void kvn_movers_wake(kvn_movers_t *movers)
{
    const uint_fast64_t tail =
        atomic_load_explicit(&movers->tail, memory_order_relaxed);
    if (tail != movers->woken) {
        movers->woken = tail;
        atomic_store_explicit(&movers->tail, tail, memory_order_seq_cst);
        (void)wake_one(movers);
    }
}

/* Takes all that is done and turns it round: the stack has the last one on top. */
static void take_done(kvn_movers_t *movers)
{
    uint32_t number =
        atomic_exchange_explicit(&movers->done, NO_SLOT, memory_order_acquire);
    KV_ASSERT(movers->taken == NO_SLOT);
    while (number != NO_SLOT) {
        struct slot *slot = &movers->slots[number];
        const uint32_t older = slot->next;
        slot->next = movers->taken;
        movers->taken = number;
        number = older;
    }
}

/* The bell is silenced only when nothing was found, and then we look again: what came
 * in between has rung it before we read it, or will ring it after. In the first case
 * we ring it again ourselves: (4) holds for callers that take a few at a time. */
static bool find_done(kvn_movers_t *movers)
{
    uint64_t rung;
    if (movers->taken == NO_SLOT) {
        take_done(movers);
    }
    if (movers->taken != NO_SLOT) {
        return true;
    }
    if (atomic_load_explicit(&movers->polled, memory_order_relaxed)) { /* ours */
        return false;
    }
    const ssize_t ret = read(movers->fd, &rung, sizeof(rung));
    KV_ASSERT(ret == sizeof(rung) || errno == EAGAIN || errno == EINTR);
    take_done(movers);
    if (movers->taken != NO_SLOT) {
        ring_bell(movers->fd);
        return true;
    }
    return false;
}

void kvn_movers_polled(kvn_movers_t *movers, bool polled)
{
    atomic_store_explicit(&movers->polled, polled, memory_order_seq_cst);
    if (!polled
        && (movers->taken != NO_SLOT
            || atomic_load_explicit(&movers->done, memory_order_seq_cst) != NO_SLOT)) {
        ring_bell(movers->fd); /* (5) */
    }
}

bool kvn_movers_next(kvn_movers_t *movers, struct kvn_job_done *done)
{
    if (!find_done(movers)) {
        return false;
    }
    const uint32_t number = movers->taken;
    struct slot *slot = &movers->slots[number];
    KV_ASSERT(movers->nr_posted > 0);
    movers->taken = slot->next;
    *done = (struct kvn_job_done){
        .id = slot->job.id, .tag = slot->job.tag, .digest = slot->digest};
    slot->next = movers->free;
    movers->free = number;
    movers->nr_posted--;
    return true;
}
