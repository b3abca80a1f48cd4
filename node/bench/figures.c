#include "node/bench/figures.h"

#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct kvn_figure_desc kvn_figure_descs[KVN_NR_FIGURES] = {
#define X(symbol, name, unit, verify, goal, ratio)                                     \
    [symbol] = {name, KVN_UNIT_##unit, verify, KVN_GOAL_##goal, ratio},
    KVN_FIGURE_MAP(X)
#undef X
};

const char *kvn_figure_unit_text(enum kvn_figure_unit unit)
{
    switch (unit) {
    case KVN_UNIT_GB_S:
        return "GB/s";
    case KVN_UNIT_NS_PAGE:
        return "ns/page";
    case KVN_UNIT_P50_US:
        return "us, p50";
    case KVN_UNIT_P99_US:
        return "us, p99";
    }
    KV_UNREACHABLE("known unit");
}

kv_status_t kvn_figure_fail(
    struct kvn_bench_node *bench, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(bench->line, sizeof(bench->line), format, args);
    va_end(args);
    return status;
}

bool kvn_figure_stopped(const struct kvn_bench_node *bench)
{
    return atomic_load(bench->stop) != 0;
}

bool kvn_figure_wants(
    const struct kvn_bench_node *bench, enum kvn_figure_name first,
    enum kvn_figure_name last)
{
    for (unsigned i = first; bench->only != NULL && i <= (unsigned)last; i++) {
        if (strcmp(bench->only, kvn_figure_descs[i].name) == 0) {
            return true;
        }
    }
    return bench->only == NULL;
}

/* ------------------------------------------------------------------ rounds */

/* [side][round] */
typedef struct kvn_take takes_t[KVN_FIGURE_SIDES_MAX][KVN_FIGURE_ROUNDS_MAX];

bool kvn_figure_side_wanted(
    const struct kvn_bench_node *bench, const struct kvn_figure_side *side)
{
    if (side->nr_rows == 0) {
        return side->missing == NULL;
    }
    for (unsigned i = 0; i < side->nr_rows; i++) {
        if (kvn_figure_wants(bench, side->rows[i], side->rows[i])) {
            return true;
        }
    }
    return false;
}

static kv_status_t take_round(
    struct kvn_bench_node *bench, const struct kvn_figure_side *sides, unsigned nr,
    unsigned first, double seconds, struct kvn_take *takes)
{
    for (unsigned i = 0; i < nr; i++) {
        const unsigned at = (first + i) % nr;
        if (!kvn_figure_side_wanted(bench, &sides[at])) {
            continue;
        }
        takes[at] = (struct kvn_take){
            .cpu_s = -1, .client_cpu_s = -1, .instructions = -1};
        kv_status_t status = sides[at].take(sides[at].arg, seconds, &takes[at]);
        if (status != KV_OK) {
            return status;
        }
        if (kvn_figure_stopped(bench)) {
            return kvn_figure_fail(bench, KV_ERR_CANCELLED, "stopped by a signal");
        }
    }
    return KV_OK;
}

/* ------------------------------------------------------------------ rows */

static double value_of(enum kvn_figure_unit unit, const struct kvn_take *take)
{
    switch (unit) {
    case KVN_UNIT_GB_S:
        return (double)take->bytes / take->seconds / 1e9;
    case KVN_UNIT_NS_PAGE:
        return take->seconds * 1e9 / (double)take->pages;
    case KVN_UNIT_P50_US:
        return take->p50_us;
    case KVN_UNIT_P99_US:
        return take->p99_us;
    }
    KV_UNREACHABLE("known unit");
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

double kvn_figure_median(double *values, unsigned nr)
{
    qsort(values, nr, sizeof(*values), compare);
    return nr % 2 == 1 ? values[nr / 2] : (values[nr / 2 - 1] + values[nr / 2]) / 2;
}

/* Of all rounds together; < 0: not known, or of no bytes. */
static double cpu_s_gb(const struct kvn_take *takes, unsigned rounds, bool clients)
{
    double seconds = 0, bytes = 0;
    for (unsigned i = 0; i < rounds; i++) {
        const double cpu_s = clients ? takes[i].client_cpu_s : takes[i].cpu_s;
        if (cpu_s < 0) {
            return -1;
        }
        seconds += cpu_s;
        bytes += (double)takes[i].bytes;
    }
    return bytes > 0 ? seconds / bytes * 1e9 : -1;
}

static void count_instructions(struct kvn_figure *row, const struct kvn_take *takes)
{
    double instructions = 0;
    for (unsigned i = 0; i < row->rounds; i++) {
        row->pages += takes[i].pages;
        row->bytes += takes[i].bytes;
        if (instructions < 0 || takes[i].instructions < 0) {
            instructions = -1;
        } else {
            instructions += takes[i].instructions;
        }
    }
    const bool known = instructions >= 0;
    row->instructions_page =
        known && row->pages > 0 ? instructions / (double)row->pages : -1;
    row->instructions_byte =
        known && row->bytes > 0 ? instructions / (double)row->bytes : -1;
}

static void add_reference(
    struct kvn_figure *row, enum kvn_figure_unit unit,
    const struct kvn_figure_side *side, const struct kvn_take *subject,
    const struct kvn_take *reference)
{
    double values[KVN_FIGURE_ROUNDS_MAX], ratios[KVN_FIGURE_ROUNDS_MAX];
    KV_ASSERT(row->nr_references < KVN_FIGURE_REFERENCES_MAX);
    struct kvn_figure_reference *to = &row->references[row->nr_references++];
    (void)snprintf(to->name, sizeof(to->name), "%s", side->reference);
    if (side->missing != NULL) {
        (void)snprintf(to->missing, sizeof(to->missing), "%s", side->missing);
        return;
    }
    for (unsigned i = 0; i < row->rounds; i++) {
        values[i] = value_of(unit, &reference[i]);
        ratios[i] = value_of(unit, &subject[i]) / values[i];
    }
    to->measured = true;
    to->value = kvn_figure_median(values, row->rounds);
    to->ratio = kvn_figure_median(ratios, row->rounds);
    to->ratio_min = ratios[0];
    to->ratio_max = ratios[row->rounds - 1];
    to->cpu_s_gb = cpu_s_gb(reference, row->rounds, false);
    to->client_cpu_s_gb = cpu_s_gb(reference, row->rounds, true);
}

static void fill_row(
    struct kvn_bench_node *bench, enum kvn_figure_name name,
    const struct kvn_figure_side *sides, unsigned nr, unsigned at, takes_t takes)
{
    const enum kvn_figure_unit unit = kvn_figure_descs[name].unit;
    struct kvn_figure *row = &bench->figures[name];
    double values[KVN_FIGURE_ROUNDS_MAX];

    *row = (struct kvn_figure){.measured = true, .rounds = bench->rounds};
    for (unsigned i = 0; i < row->rounds; i++) {
        values[i] = value_of(unit, &takes[at][i]);
    }
    row->value = kvn_figure_median(values, row->rounds);
    row->value_min = values[0];
    row->value_max = values[row->rounds - 1];
    row->cpu_s_gb = cpu_s_gb(takes[at], row->rounds, false);
    row->client_cpu_s_gb = cpu_s_gb(takes[at], row->rounds, true);
    count_instructions(row, takes[at]);
    if (getloadavg(&row->load, 1) != 1) {
        row->load = -1;
    }
    for (unsigned i = 0; i < nr; i++) {
        if (sides[i].nr_rows == 0) {
            add_reference(row, unit, &sides[i], takes[at], takes[i]);
        }
    }
}

kv_status_t kvn_figure_rounds(
    struct kvn_bench_node *bench, const struct kvn_figure_side *sides, unsigned nr)
{
    KV_ASSERT(nr > 0 && nr <= KVN_FIGURE_SIDES_MAX);
    KV_ASSERT(bench->rounds > 0 && bench->rounds <= KVN_FIGURE_ROUNDS_MAX);
    if (bench->callgrind != NULL) {
        return kvn_count_rounds(bench, sides, nr);
    }
    struct kvn_take round[KVN_FIGURE_SIDES_MAX];
    takes_t *takes = calloc(1, sizeof(*takes));
    if (takes == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    /* The first is not counted: windows and caches get warm. */
    kv_status_t status = take_round(bench, sides, nr, 0, bench->seconds / 2, round);
    for (unsigned i = 0; status == KV_OK && i < bench->rounds; i++) {
        status = take_round(bench, sides, nr, i, bench->seconds, round);
        for (unsigned s = 0; s < nr; s++) {
            (*takes)[s][i] = round[s];
        }
    }
    for (unsigned s = 0; status == KV_OK && s < nr; s++) {
        for (unsigned i = 0; i < sides[s].nr_rows; i++) {
            if (kvn_figure_wants(bench, sides[s].rows[i], sides[s].rows[i])) {
                fill_row(bench, sides[s].rows[i], sides, nr, s, *takes);
            }
        }
    }
    free(takes);
    return status;
}

bool kvn_figure_holds(const struct kvn_bench_node *bench, enum kvn_figure_name name)
{
    const struct kvn_figure_desc *desc = &kvn_figure_descs[name];
    const struct kvn_figure *row = &bench->figures[name];
    if (row->nr_references == 0 || !row->references[0].measured) {
        return true;
    }
    switch (desc->goal) {
    case KVN_GOAL_ANY:
        return true;
    case KVN_GOAL_AT_MOST:
        return row->references[0].ratio <= desc->goal_ratio;
    case KVN_GOAL_AT_LEAST:
        return row->references[0].ratio >= desc->goal_ratio;
    }
    KV_UNREACHABLE("known goal");
}
