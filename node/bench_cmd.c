/* kvrail bench core: the node's data structures beside what this machine can do. */
#define _GNU_SOURCE /* sched_getaffinity */

#include "base/option.h"
#include "node/bench.h"
#include "node/bench/cmd.h"
#include "node/cli.h"
#include "node/machine.h"
#include "node/report.h"
#include "node/verbs.h"

#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum flag { FLAG_RUNS, FLAG_ONLY, FLAG_CPU, FLAG_QUICK, FLAG_JSON, NR_FLAGS };

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_RUNS] = {"runs", "N", "times that each figure is taken (7)"},
    [FLAG_ONLY] = {"only", "NAME", "one figure alone"},
    [FLAG_CPU] = {"cpu", "N", "core to stay on (the one that it starts on)"},
    [FLAG_QUICK] = {"quick", NULL, "small sizes: shows that it runs, measures nothing"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "bench core",
    .summary =
        "Measures what the node's structures cost on one core, each beside a\n"
        "reference in the same run: the ratio is what counts, its median and its\n"
        "least and greatest over the runs.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

enum { CPU_ANY = -1 };

struct options {
    struct kvn_bench bench;
    int cpu;
    bool json;
};

/* ------------------------------------------------------------------ the machine */

static void print_machine(int cpu)
{
    static const char *const levels[] = {"L1d", "L1i", "L2", "L3"};
    char model[128], kernel[256];
    kvn_machine_cpu(model, sizeof(model));
    kvn_machine_kernel(kernel, sizeof(kernel));
    printf("machine   %s, core %d", model, cpu);
    for (unsigned i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        char path[96], size[32];
        snprintf(
            path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cache/index%u/size", cpu,
            i);
        FILE *file = fopen(path, "r");
        if (file != NULL && fgets(size, sizeof(size), file) != NULL) {
            printf(", %s %.*s", levels[i], (int)strcspn(size, "\n"), size);
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    printf("\nkernel    %s\ncompiler  %s\n\n", kernel, kvn_machine_compiler());
}

/* ------------------------------------------------------------------ printing */

/* "ratio <= 1.3, value <= 50"; empty where nothing is asked. */
static void goal_format(const struct kvn_bench_desc *desc, char *out, size_t cap)
{
    out[0] = '\0';
    if (desc->goal == KVN_BENCH_ANY) {
        return;
    }
    const char *sign = desc->goal == KVN_BENCH_AT_MOST ? "<=" : ">=";
    int len = snprintf(out, cap, "ratio %s %.2f", sign, desc->goal_ratio);
    if (desc->goal_value > 0) {
        snprintf(out + len, cap - (size_t)len, ", value <= %.0f", desc->goal_value);
    }
}

static void print_table(const struct kvn_bench *bench)
{
    printf(
        "%-24s %10s %10s  %-10s %7s  %-15s\n", "figure", "value", "reference", "unit",
        "ratio", "least, greatest");
    for (unsigned i = 0; i < KVN_NR_BENCHES; i++) {
        const struct kvn_bench_desc *desc = &kvn_bench_descs[i];
        const struct kvn_bench_row *row = &bench->rows[i];
        char goal[64];
        if (!row->measured) {
            continue;
        }
        goal_format(desc, goal, sizeof(goal));
        printf(
            "%-24s %10.2f %10.2f  %-10s %7.2f  %6.2f, %6.2f  against: %s", desc->name,
            row->value, row->reference, desc->unit, row->ratio, row->ratio_min,
            row->ratio_max, desc->against);
        if (goal[0] != '\0') {
            printf("; %s: %s", goal, kvn_bench_holds(bench, i) ? "held" : "missed");
        }
        putchar('\n');
    }
    printf(
        "\nmedians of %u runs; quick: %s\n", bench->runs, bench->quick ? "yes" : "no");
}

static json_t *row_json(const struct kvn_bench *bench, unsigned i)
{
    const struct kvn_bench_desc *desc = &kvn_bench_descs[i];
    const struct kvn_bench_row *row = &bench->rows[i];
    json_t *one = json_object();
    json_t *spread = json_array();
    char goal[64];
    goal_format(desc, goal, sizeof(goal));
    json_array_append_new(spread, json_real(row->ratio_min));
    json_array_append_new(spread, json_real(row->ratio_max));
    json_object_set_new(one, "name", json_string(desc->name));
    json_object_set_new(one, "value", json_real(row->value));
    json_object_set_new(one, "unit", json_string(desc->unit));
    json_object_set_new(one, "against", json_string(desc->against));
    json_object_set_new(one, "reference", json_real(row->reference));
    json_object_set_new(one, "ratio", json_real(row->ratio));
    json_object_set_new(one, "runs", json_integer(row->runs));
    json_object_set_new(one, "spread", spread);
    if (goal[0] != '\0') {
        json_object_set_new(one, "target", json_string(goal));
        json_object_set_new(one, "held", json_boolean(kvn_bench_holds(bench, i)));
    }
    return one;
}

static int print_json(const struct kvn_bench *bench)
{
    json_t *root = json_array();
    for (unsigned i = 0; i < KVN_NR_BENCHES; i++) {
        if (bench->rows[i].measured) {
            json_array_append_new(root, row_json(bench, i));
        }
    }
    return kvn_report_json(root, NULL);
}

/* ------------------------------------------------------------------ running */

static int measure(struct options *options)
{
    static kv_status_t (*const suites[])(struct kvn_bench * bench) = {
        kvn_bench_pager, kvn_bench_base, kvn_bench_core, kvn_bench_cluster};
    for (unsigned i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
        kv_status_t status = suites[i](&options->bench);
        if (status != KV_OK) {
            fprintf(stderr, "kvrail bench core: %s\n", kv_status_text(status));
            return KVN_EXIT_FAILED;
        }
    }
    if (options->json) {
        return print_json(&options->bench);
    }
    print_machine(options->cpu);
    print_table(&options->bench);
    return KVN_EXIT_OK;
}

/* Stays on one core: a move in the middle of a run would cost one side its caches. */
static int run(struct options *options)
{
    cpu_set_t before, one;
    const int start = sched_getcpu();
    if (options->cpu == CPU_ANY) {
        options->cpu = start >= 0 ? start : 0;
    }
    CPU_ZERO(&one);
    CPU_SET((unsigned)options->cpu, &one);
    if (sched_getaffinity(0, sizeof(before), &before) != 0
        || sched_setaffinity(0, sizeof(one), &one) != 0) {
        return kvn_cli_refuse(&cli, "--cpu: core %d is not ours to use", options->cpu);
    }
    int exit_code = measure(options);
    sched_setaffinity(0, sizeof(before), &before);
    return exit_code;
}

static int check_only(const char *name)
{
    const char *names[KVN_NR_BENCHES];
    for (unsigned i = 0; i < KVN_NR_BENCHES; i++) {
        names[i] = kvn_bench_descs[i].name;
        if (strcmp(names[i], name) == 0) {
            return KVN_EXIT_OK;
        }
    }
    const char *nearest = kv_nearest(name, names, KVN_NR_BENCHES);
    return kvn_cli_refuse(
        &cli, "--only: '%s' is no figure%s%s%s", name,
        nearest == NULL ? "" : ", did you mean ", nearest == NULL ? "" : nearest,
        nearest == NULL ? "" : "?");
}

static int parse(struct options *options, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    uint64_t number;
    int flag;
    *done_p = false;
    *options = (struct options){.bench = {.runs = 7}, .cpu = CPU_ANY};
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        switch ((enum flag)flag) {
        case FLAG_RUNS:
            if (!kvn_cli_number(&cli, "runs", value, 1, KVN_BENCH_RUNS_MAX, &number)) {
                return KVN_EXIT_USAGE;
            }
            options->bench.runs = (unsigned)number;
            break;
        case FLAG_ONLY:
            if (check_only(value) != KVN_EXIT_OK) {
                return KVN_EXIT_USAGE;
            }
            options->bench.only = value;
            break;
        case FLAG_CPU:
            if (!kvn_cli_number(&cli, "cpu", value, 0, CPU_SETSIZE - 1, &number)) {
                return KVN_EXIT_USAGE;
            }
            options->cpu = (int)number;
            break;
        case FLAG_QUICK:
            options->bench.quick = true;
            break;
        case FLAG_JSON:
            options->json = true;
            break;
        case NR_FLAGS:
            break;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    return flag == KVN_CLI_BAD ? KVN_EXIT_USAGE : KVN_EXIT_OK;
}

static int bench_core(int argc, char **argv)
{
    struct options options;
    bool done;
    int exit_code = parse(&options, argc, argv, &done);
    return exit_code != KVN_EXIT_OK || done ? exit_code : run(&options);
}

/* The first word names what is measured. */
int kvn_verb_bench(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } kinds[] = {{"core", bench_core}, {"node", kvn_bench_node_cmd}};
    if (argc < 2) {
        fprintf(
            stderr,
            "kvrail bench: what is to be measured? 'core' or 'node', as in kvrail "
            "bench core\n");
        return KVN_EXIT_USAGE;
    }
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(argv[1], kinds[i].name) == 0) {
            return kinds[i].run(argc - 1, argv + 1);
        }
    }
    if (strcmp(argv[1], "--help") == 0) {
        printf("kvrail bench core --help, kvrail bench node --help: one page each\n");
        return KVN_EXIT_OK;
    }
    fprintf(
        stderr, "kvrail bench: '%s' is nothing to measure, 'core' and 'node' are\n",
        argv[1]);
    return KVN_EXIT_USAGE;
}
