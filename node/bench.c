#include "node/bench.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct kvn_bench_desc kvn_bench_descs[KVN_NR_BENCHES] = {
#define X(symbol, name, unit, against, goal, ratio, value)                             \
    [symbol] = {name, unit, against, KVN_BENCH_##goal, ratio, value},
    KVN_BENCH_MAP(X)
#undef X
};

bool kvn_bench_wants(const struct kvn_bench *bench, enum kvn_bench_name name)
{
    return bench->only == NULL || strcmp(bench->only, kvn_bench_descs[name].name) == 0;
}

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static double side_ns(const struct kvn_bench_side *side, void *arg, unsigned slice)
{
    if (side->ready != NULL) {
        side->ready(arg, slice);
    }
    const double start = now_ns();
    side->run(arg, slice);
    const double ns = now_ns() - start;
    if (side->keep != NULL) {
        side->keep(arg, slice);
    }
    return ns;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Sorts. */
static double median(double *values, unsigned nr)
{
    qsort(values, nr, sizeof(*values), compare);
    return nr % 2 == 1 ? values[nr / 2] : (values[nr / 2 - 1] + values[nr / 2]) / 2;
}

/* Nanoseconds of the run's usual slice, on either side. */
static void
run_once(const struct kvn_bench_case *c, void *arg, double *reference, double *subject)
{
    double references[KVN_BENCH_SLICES_MAX], subjects[KVN_BENCH_SLICES_MAX];

    KV_ASSERT(c->slices > 0 && c->slices <= KVN_BENCH_SLICES_MAX);
    if (c->begin != NULL) {
        c->begin(arg);
    }
    for (unsigned slice = 0; slice < c->slices; slice++) {
        if (slice % 2 == 0) {
            references[slice] = side_ns(&c->reference, arg, slice);
            subjects[slice] = side_ns(&c->subject, arg, slice);
        } else {
            subjects[slice] = side_ns(&c->subject, arg, slice);
            references[slice] = side_ns(&c->reference, arg, slice);
        }
    }
    if (c->end != NULL) {
        c->end(arg);
    }
    *reference = median(references, c->slices);
    *subject = median(subjects, c->slices);
}

static bool is_rate(const struct kvn_bench_desc *desc)
{
    return strcmp(desc->unit, "GB/s") == 0;
}

void kvn_bench_measure(
    struct kvn_bench *bench, const struct kvn_bench_case *c, void *arg)
{
    const struct kvn_bench_desc *desc = &kvn_bench_descs[c->name];
    struct kvn_bench_row *row = &bench->rows[c->name];
    double values[KVN_BENCH_RUNS_MAX], references[KVN_BENCH_RUNS_MAX];
    double ratios[KVN_BENCH_RUNS_MAX];

    if (!kvn_bench_wants(bench, c->name)) {
        return;
    }
    KV_ASSERT(bench->runs > 0 && bench->runs <= KVN_BENCH_RUNS_MAX);
    const double nr = c->nr_per_slice;
    double reference, subject;
    run_once(c, arg, &reference, &subject);
    for (unsigned i = 0; i < bench->runs; i++) {
        run_once(c, arg, &reference, &subject);
        values[i] = is_rate(desc) ? nr / subject : subject / nr;
        references[i] = is_rate(desc) ? nr / reference : reference / nr;
        ratios[i] = values[i] / references[i];
    }
    *row = (struct kvn_bench_row){
        .measured = true,
        .runs = bench->runs,
        .value = median(values, bench->runs),
        .reference = median(references, bench->runs),
        .ratio = median(ratios, bench->runs),
    };
    row->ratio_min = ratios[0];
    row->ratio_max = ratios[bench->runs - 1];
}

bool kvn_bench_holds(const struct kvn_bench *bench, enum kvn_bench_name name)
{
    const struct kvn_bench_desc *desc = &kvn_bench_descs[name];
    const struct kvn_bench_row *row = &bench->rows[name];

    switch (desc->goal) {
    case KVN_BENCH_ANY:
        return true;
    case KVN_BENCH_AT_MOST:
        return row->ratio <= desc->goal_ratio
               && (desc->goal_value <= 0 || row->value <= desc->goal_value);
    case KVN_BENCH_AT_LEAST:
        return row->ratio >= desc->goal_ratio;
    }
    KV_UNREACHABLE("known goal");
}
