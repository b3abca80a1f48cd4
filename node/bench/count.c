/* What nodes did for a page, in instructions, counted by callgrind: figures.c calls
 * this in place of its own rounds when nodes run under it.
 *
 *   a round: a take of N batches of each client, and one of 2 N ──► the difference
 *
 * So what a take costs once (clients wake up, the node hears of them) is in no number,
 * and neither is a start. Clocks go as ever while a node takes fifty times as long, so
 * what they have it do, ticks and heartbeats, would be fifty times as much a page: it
 * is counted by itself while nobody calls, and taken off. Clients are not slowed, and a
 * node has nearly always something to do. What it spends on looking for it is told
 * apart; the rest is what can be compared between two versions.
 */
#include "node/bench/callgrind.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

enum { BATCHES = 64 }; /* of each client, in the shorter take */
#define IDLE_S 3.0
#define TOO_MANY "a node has too many functions"

struct counting {
    struct kvn_bench_node *bench;
    const struct kvn_figure_side *side;
    struct kvn_counts *round, *all; /* differences: of one round, of all */
    double pages, bytes;            /* of all rounds */
    double idle_s;                  /* that bench->idle is of */
    double values[KVN_FIGURE_ROUNDS_MAX], works[KVN_FIGURE_ROUNDS_MAX];
};

static kv_status_t
take(struct counting *c, uint64_t batches, double sign, struct kvn_take *take)
{
    struct kvn_bench_node *bench = c->bench;
    bench->batches = batches;
    *take = (struct kvn_take){.cpu_s = -1, .instructions = -1};
    kv_status_t status = c->side->take(c->side->arg, 0, take);
    bench->batches = 0;
    if (kvn_figure_stopped(bench)) {
        return kvn_figure_fail(bench, KV_ERR_CANCELLED, "stopped by a signal");
    }
    if (status == KV_OK && take->instructions < 0) {
        status = KV_ERR_IO; /* bench->line is written */
    }
    if (status == KV_OK) {
        status = kvn_counts_add(c->round, bench->counts, sign);
        KV_ASSERT(status == KV_OK || status == KV_ERR_NOMEM);
        if (status != KV_OK) {
            (void)kvn_figure_fail(bench, status, TOO_MANY);
        }
    }
    return status;
}

static kv_status_t round_take(struct counting *c, unsigned round)
{
    struct kvn_take once, twice;
    *c->round = (struct kvn_counts){0};
    kv_status_t status = take(c, BATCHES, -1, &once);
    if (status == KV_OK) {
        status = take(c, UINT64_C(2) * BATCHES, 1, &twice);
    }
    if (status != KV_OK) {
        return status;
    }
    if (twice.pages <= once.pages) {
        return kvn_figure_fail(
            c->bench, KV_ERR_INVALID,
            "%llu pages by %d batches of a client, %llu by twice as many",
            (unsigned long long)once.pages, BATCHES, (unsigned long long)twice.pages);
    }
    const double pages = (double)(twice.pages - once.pages);
    status = kvn_counts_add(
        c->round, c->bench->idle, (once.seconds - twice.seconds) / c->idle_s);
    if (status != KV_OK) {
        return kvn_figure_fail(c->bench, status, TOO_MANY);
    }
    c->values[round] = c->round->all / pages;
    c->works[round] =
        (c->round->all - kvn_counts_copies(c->round) - kvn_counts_waits(c->round))
        / pages;
    c->pages += pages;
    c->bytes += (double)twice.bytes - (double)once.bytes;
    return kvn_counts_add(c->all, c->round, 1);
}

static int compare(const void *a, const void *b)
{
    const struct kvn_counts_function *x = a, *y = b;
    return (x->self < y->self) - (x->self > y->self);
}

static void fill_row(struct counting *c, struct kvn_figure *row)
{
    struct kvn_counts *all = c->all;
    struct kvn_counted *counted = &row->counted;
    *row = (struct kvn_figure){.measured = true, .rounds = c->bench->rounds};
    counted->page = kvn_figure_median(c->values, row->rounds);
    counted->page_min = c->values[0];
    counted->page_max = c->values[row->rounds - 1];
    counted->work = kvn_figure_median(c->works, row->rounds);
    counted->work_min = c->works[0];
    counted->work_max = c->works[row->rounds - 1];
    counted->idle = c->bench->idle->all / c->idle_s;
    counted->pages = (uint64_t)(c->pages / row->rounds);
    counted->byte = c->bytes > 0 ? counted->page * c->pages / c->bytes : -1;
    counted->copies = kvn_counts_copies(all) / c->pages;
    counted->waits = kvn_counts_waits(all) / c->pages;
    qsort(all->functions, all->nr_functions, sizeof(*all->functions), compare);
    for (unsigned i = 0; i < KVN_FIGURE_TOP && i < all->nr_functions; i++) {
        const struct kvn_counts_function *f = &all->functions[i];
        memcpy(counted->top[i].name, f->name, sizeof(f->name));
        counted->top[i].self = f->self / c->pages;
        counted->top[i].inclusive = f->inclusive / c->pages;
    }
}

static kv_status_t side_count(struct counting *c)
{
    struct kvn_bench_node *bench = c->bench;
    struct kvn_take warm;
    /* Not counted: symbols are bound, tables grow to what they will be. */
    bench->idle_s = IDLE_S;
    kv_status_t status = take(c, BATCHES, 1, &warm);
    c->idle_s = bench->idle_s;
    bench->idle_s = 0;
    for (unsigned i = 0; status == KV_OK && i < bench->rounds; i++) {
        status = round_take(c, i);
    }
    for (unsigned i = 0; status == KV_OK && i < c->side->nr_rows; i++) {
        if (kvn_figure_wants(bench, c->side->rows[i], c->side->rows[i])) {
            fill_row(c, &bench->figures[c->side->rows[i]]);
        }
    }
    return status;
}

kv_status_t kvn_count_rounds(
    struct kvn_bench_node *bench, const struct kvn_figure_side *sides, unsigned nr)
{
    struct kvn_counts *counts = calloc(2, sizeof(*counts));
    kv_status_t status = KV_OK;
    if (counts == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    for (unsigned i = 0; status == KV_OK && i < nr; i++) {
        if (sides[i].nr_rows > 0 && kvn_figure_side_wanted(bench, &sides[i])) {
            struct counting counting = {
                .bench = bench,
                .side = &sides[i],
                .round = &counts[0],
                .all = &counts[1],
            };
            counts[1] = (struct kvn_counts){0};
            status = side_count(&counting);
        }
    }
    free(counts);
    return status;
}
