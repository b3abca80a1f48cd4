#include "node/bench/load.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/thread.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

double kvn_now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Of all threads of this process, those of libkvrail and of its transport included. */
static double spent_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

bool kvn_worker_over(struct kvn_worker *worker)
{
    const uint64_t asked = worker->asked++;
    const bool over =
        worker->bench->batches > 0
            ? asked >= worker->bench->batches
            : asked > 0 && kvn_now_s() >= worker->begin_s + worker->seconds;
    return over || kvn_figure_stopped(worker->bench);
}

void kvn_worker_fail(
    struct kvn_worker *worker, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(worker->line, sizeof(worker->line), format, args);
    va_end(args);
    worker->status = status;
}

void kvn_worker_others(struct kvn_worker *worker)
{
    if (worker->others > worker->pages / KVN_LOAD_OTHERS && worker->status == KV_OK) {
        kvn_worker_fail(
            worker, KV_ERR_INVALID,
            "%llu pages came from another place than the %llu that are measured",
            (unsigned long long)worker->others, (unsigned long long)worker->pages);
    }
}

struct member {
    pthread_t thread;
    kvn_work_fn work;
    struct kvn_worker worker;
};

static void *member_main(void *arg)
{
    struct member *member = arg;
    member->worker.begin_s = kvn_now_s();
    member->work(&member->worker);
    member->worker.end_s = kvn_now_s();
    return NULL;
}

kv_status_t kvn_crew_run(
    struct kvn_bench_node *bench, unsigned nr, kvn_work_fn work, void *arg,
    double seconds, uint64_t page_bytes, struct kvn_take *take)
{
    struct member members[KVN_LOAD_CLIENTS_MAX] = {0};
    const double spent_before_s = spent_s();
    unsigned begun = 0;
    double from = 0, until = 0;
    kv_status_t status = KV_OK;

    KV_ASSERT(nr > 0 && nr <= KVN_LOAD_CLIENTS_MAX);
    for (; begun < nr; begun++) {
        struct member *member = &members[begun];
        member->work = work;
        member->worker = (struct kvn_worker){
            .bench = bench, .arg = arg, .index = begun, .seconds = seconds};
        if (kv_thread_start(&member->thread, NULL, member_main, member) != 0) {
            status = kvn_figure_fail(bench, KV_ERR_NOMEM, "no thread for a client");
            break;
        }
    }
    for (unsigned i = 0; i < begun; i++) {
        const struct kvn_worker *worker = &members[i].worker;
        KV_ASSERT(pthread_join(members[i].thread, NULL) == 0);
        from = i == 0 || worker->begin_s < from ? worker->begin_s : from;
        until = worker->end_s > until ? worker->end_s : until;
        take->pages += worker->pages;
        if (worker->status != KV_OK && status == KV_OK) {
            status = kvn_figure_fail(bench, worker->status, "%s", worker->line);
        }
    }
    take->seconds = until - from;
    take->client_cpu_s = spent_s() - spent_before_s;
    take->bytes = take->pages * page_bytes;
    return status;
}

/* ------------------------------------------------------------------ bytes */

static uint64_t stamp_of(uint64_t number, uint64_t at)
{
    return kv_mix64(number * KV_GOLDEN64 + at);
}

static void write_words(uint8_t *page, uint64_t bytes, uint64_t number, uint64_t step)
{
    for (uint64_t at = 0; at + sizeof(uint64_t) <= bytes; at += step) {
        const uint64_t word = stamp_of(number, at);
        memcpy(page + at, &word, sizeof(word));
    }
}

static bool
words_right(const uint8_t *page, uint64_t bytes, uint64_t number, uint64_t step)
{
    uint64_t wrong = 0;
    for (uint64_t at = 0; at + sizeof(uint64_t) <= bytes; at += step) {
        uint64_t word;
        memcpy(&word, page + at, sizeof(word));
        wrong |= word ^ stamp_of(number, at);
    }
    return wrong == 0;
}

void kvn_stamp(uint8_t *page, uint64_t bytes, uint64_t number)
{
    write_words(page, bytes, number, KVN_LOAD_STRIDE);
}

bool kvn_stamped(const uint8_t *page, uint64_t bytes, uint64_t number)
{
    return words_right(page, bytes, number, KVN_LOAD_STRIDE);
}

void kvn_paint(uint8_t *page, uint64_t bytes, uint64_t number)
{
    write_words(page, bytes, number, sizeof(uint64_t));
}

bool kvn_painted(const uint8_t *page, uint64_t bytes, uint64_t number)
{
    return words_right(page, bytes, number, sizeof(uint64_t));
}
