/* kvrail bench node: running nodes on this machine, beside the tools they are measured
 * against. */
#include "node/bench/cmd.h"

#include "base/option.h"
#include "node/bench/callgrind.h"
#include "node/bench/world.h"
#include "node/cli.h"
#include "node/machine.h"
#include "node/report.h"
#include "node/verbs.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum flag {
    FLAG_ONLY,
    FLAG_ROUNDS,
    FLAG_SECONDS,
    FLAG_QUICK,
    FLAG_INSTRUCTIONS,
    FLAG_JSON,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_ONLY] = {"only", "NAME", "one figure alone"},
    [FLAG_ROUNDS] =
        {"rounds", "N",
         "times that each side of a figure is taken (7; with --instructions 3)"},
    [FLAG_SECONDS] = {"seconds", "S", "of each side in a round, 0.01 to 60 (1)"},
    [FLAG_QUICK] = {"quick", NULL, "small sets: shows that it runs, measures nothing"},
    [FLAG_INSTRUCTIONS] =
        {"instructions", NULL,
         "count the nodes' instructions a page and a byte, by valgrind; no speeds"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "bench node",
    .summary =
        "Measures what running nodes move. Starts kvraild processes on loopback, with\n"
        "credentials of their own in a folder that goes away, and takes each\n"
        "operation beside its reference (memcached, iperf3, …) in turns: the ratio is\n"
        "what counts, its median and its least and greatest over the rounds.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

#define SECONDS_MIN 0.01
#define SECONDS_MAX 60.0

enum { ROUNDS = 7, COUNTED_ROUNDS = 3 };

struct options {
    struct kvn_bench_node bench;
    bool instructions;
    bool seconds; /* were given */
    bool json;
};

/* ------------------------------------------------------------------ signals */

static atomic_int stop_signal;

static void on_signal(int number)
{
    atomic_store(&stop_signal, number);
}

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { NR_SIGNALS = sizeof(signals) / sizeof(signals[0]) };

/* Waits end with EINTR or within their time; what runs looks at stop_signal. */
static void signals_take(struct sigaction *before)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    atomic_store(&stop_signal, 0);
    for (unsigned i = 0; i < NR_SIGNALS; i++) {
        (void)sigaction(signals[i], &action, &before[i]);
    }
}

static void signals_give(const struct sigaction *before)
{
    for (unsigned i = 0; i < NR_SIGNALS; i++) {
        (void)sigaction(signals[i], &before[i], NULL);
    }
}

/* ------------------------------------------------------------------ printing */

/* "ratio >= 2.00"; empty where nothing is asked. */
static void goal_format(const struct kvn_figure_desc *desc, char *out, size_t cap)
{
    out[0] = '\0';
    if (desc->goal != KVN_GOAL_ANY) {
        snprintf(
            out, cap, "ratio %s %.2f",
            desc->goal == KVN_GOAL_AT_MOST ? "<=" : ">=", desc->goal_ratio);
    }
}

/* null: not known. */
static json_t *known(double value)
{
    return value < 0 ? json_null() : json_real(value);
}

static json_t *spread_json(double least, double greatest)
{
    json_t *spread = json_array();
    json_array_append_new(spread, json_real(least));
    json_array_append_new(spread, json_real(greatest));
    return spread;
}

static json_t *reference_json(const struct kvn_figure_reference *reference)
{
    json_t *one = json_object();
    json_object_set_new(one, "against", json_string(reference->name));
    if (!reference->measured) {
        json_object_set_new(one, "no_reference", json_string(reference->missing));
        return one;
    }
    json_object_set_new(one, "value", json_real(reference->value));
    json_object_set_new(one, "ratio", json_real(reference->ratio));
    json_object_set_new(
        one, "spread", spread_json(reference->ratio_min, reference->ratio_max));
    json_object_set_new(one, "cpu_s_per_gb", known(reference->cpu_s_gb));
    json_object_set_new(
        one, "client_cpu_s_per_gb", known(reference->client_cpu_s_gb));
    return one;
}

/* Who counts the instructions; null: nobody. */
static json_t *source_json(const struct kvn_bench_node *bench)
{
    return bench->callgrind != NULL  ? json_string("callgrind")
           : bench->counters == NULL ? json_string("processor")
                                     : json_null();
}

static json_t *counted_json(const struct kvn_bench_node *bench, unsigned i)
{
    const struct kvn_figure_desc *desc = &kvn_figure_descs[i];
    const struct kvn_counted *counted = &bench->figures[i].counted;
    json_t *one = json_object(), *functions = json_array();
    json_object_set_new(one, "name", json_string(desc->name));
    json_object_set_new(one, "verification", json_string(desc->verify));
    json_object_set_new(one, "rounds", json_integer(bench->figures[i].rounds));
    json_object_set_new(one, "pages", kvn_json_uint(counted->pages));
    json_object_set_new(one, "instructions_source", source_json(bench));
    json_object_set_new(one, "instructions_per_page", json_real(counted->page));
    json_object_set_new(
        one, "instructions_per_page_spread",
        spread_json(counted->page_min, counted->page_max));
    json_object_set_new(one, "instructions_per_byte", known(counted->byte));
    json_object_set_new(one, "work_per_page", json_real(counted->work));
    json_object_set_new(
        one, "work_per_page_spread", spread_json(counted->work_min, counted->work_max));
    json_object_set_new(one, "copies_per_page", json_real(counted->copies));
    json_object_set_new(one, "waits_per_page", json_real(counted->waits));
    json_object_set_new(one, "idle_per_second", json_real(counted->idle));
    for (unsigned f = 0; f < KVN_FIGURE_TOP && counted->top[f].name[0] != '\0'; f++) {
        json_t *function = json_object();
        json_object_set_new(function, "name", json_string(counted->top[f].name));
        json_object_set_new(function, "self_per_page", json_real(counted->top[f].self));
        json_object_set_new(
            function, "inclusive_per_page", json_real(counted->top[f].inclusive));
        json_array_append_new(functions, function);
    }
    json_object_set_new(one, "functions", functions);
    return one;
}

static json_t *figure_json(const struct kvn_bench_node *bench, unsigned i)
{
    if (bench->callgrind != NULL) {
        return counted_json(bench, i);
    }
    const struct kvn_figure_desc *desc = &kvn_figure_descs[i];
    const struct kvn_figure *row = &bench->figures[i];
    json_t *one = json_object(), *references = json_array();
    char goal[64];
    goal_format(desc, goal, sizeof(goal));
    json_object_set_new(one, "name", json_string(desc->name));
    json_object_set_new(one, "value", json_real(row->value));
    json_object_set_new(one, "unit", json_string(kvn_figure_unit_text(desc->unit)));
    json_object_set_new(
        one, "value_spread", spread_json(row->value_min, row->value_max));
    json_object_set_new(one, "verification", json_string(desc->verify));
    for (unsigned r = 0; r < row->nr_references; r++) {
        json_array_append_new(references, reference_json(&row->references[r]));
    }
    json_object_set_new(one, "references", references);
    json_object_set_new(one, "rounds", json_integer(row->rounds));
    json_object_set_new(one, "node_cpu_s_per_gb", known(row->cpu_s_gb));
    json_object_set_new(one, "client_cpu_s_per_gb", known(row->client_cpu_s_gb));
    json_object_set_new(one, "instructions_source", source_json(bench));
    json_object_set_new(one, "instructions_per_page", known(row->instructions_page));
    json_object_set_new(one, "instructions_per_byte", known(row->instructions_byte));
    json_object_set_new(one, "pages", kvn_json_uint(row->pages));
    json_object_set_new(one, "bytes", kvn_json_uint(row->bytes));
    json_object_set_new(one, "load", known(row->load));
    if (goal[0] != '\0') {
        json_object_set_new(one, "target", json_string(goal));
        json_object_set_new(
            one, "held",
            row->references[0].measured ? json_boolean(kvn_figure_holds(bench, i))
                                        : json_null());
    }
    return one;
}

static const char *counters_text(const struct kvn_bench_node *bench)
{
    return bench->callgrind != NULL || bench->counters == NULL ? "counted"
                                                               : bench->counters;
}

static int print_json(const struct kvn_bench_node *bench)
{
    json_t *root = json_object(), *figures = json_array();
    char cpu[128], kernel[256];
    kvn_machine_cpu(cpu, sizeof(cpu));
    kvn_machine_kernel(kernel, sizeof(kernel));
    json_object_set_new(root, "machine", json_string(cpu));
    json_object_set_new(root, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    json_object_set_new(root, "kernel", json_string(kernel));
    json_object_set_new(root, "compiler", json_string(kvn_machine_compiler()));
    json_object_set_new(root, "rounds", json_integer(bench->rounds));
    json_object_set_new(root, "seconds", json_real(bench->seconds));
    json_object_set_new(root, "quick", json_boolean(bench->quick));
    json_object_set_new(root, "instructions", json_string(counters_text(bench)));
    json_object_set_new(root, "instructions_source", source_json(bench));
    for (unsigned i = 0; i < KVN_NR_FIGURES; i++) {
        if (bench->figures[i].measured) {
            json_array_append_new(figures, figure_json(bench, i));
        }
    }
    json_object_set_new(root, "figures", figures);
    return kvn_report_json(root, NULL);
}

static void print_references(const struct kvn_bench_node *bench, unsigned i)
{
    const struct kvn_figure *row = &bench->figures[i];
    char goal[64];
    goal_format(&kvn_figure_descs[i], goal, sizeof(goal));
    for (unsigned r = 0; r < row->nr_references; r++) {
        const struct kvn_figure_reference *reference = &row->references[r];
        if (!reference->measured) {
            printf("    %-43s no reference: %s\n", reference->name, reference->missing);
            continue;
        }
        printf(
            "    %-43s %9.2f  ratio %6.2f (%.2f, %.2f)", reference->name,
            reference->value, reference->ratio, reference->ratio_min,
            reference->ratio_max);
        if (reference->cpu_s_gb >= 0) {
            printf("  %.3f CPU s/GB", reference->cpu_s_gb);
        }
        if (reference->client_cpu_s_gb >= 0) {
            printf(", clients %.3f", reference->client_cpu_s_gb);
        }
        if (r == 0 && goal[0] != '\0') {
            printf("  %s: %s", goal, kvn_figure_holds(bench, i) ? "held" : "missed");
        }
        putchar('\n');
    }
}

static void print_counted(const struct kvn_bench_node *bench)
{
    printf(
        "%-27s %9s %9s  %-16s %9s %9s %9s\n", "instructions of the nodes", "a page",
        "work", "(least, most)", "copies", "waits", "a byte");
    for (unsigned i = 0; i < KVN_NR_FIGURES; i++) {
        const struct kvn_counted *counted = &bench->figures[i].counted;
        char spread[48], byte[24] = "-";
        if (!bench->figures[i].measured) {
            continue;
        }
        (void)snprintf(
            spread, sizeof(spread), "(%.0f, %.0f)", counted->work_min,
            counted->work_max);
        if (counted->byte >= 0) {
            (void)snprintf(byte, sizeof(byte), "%.4f", counted->byte);
        }
        printf(
            "%-27s %9.0f %9.0f  %-16s %9.0f %9.0f %9s\n", kvn_figure_descs[i].name,
            counted->page, counted->work, spread, counted->copies, counted->waits,
            byte);
    }
    printf(
        "\nby callgrind, user mode alone; medians of %u rounds. copies: memcpy and its "
        "like;\nwaits: looking for work, polling too; work: the rest. --json names "
        "the %d\nfunctions that cost most.\n",
        bench->rounds, KVN_FIGURE_TOP);
}

static void print_table(const struct kvn_bench_node *bench)
{
    char cpu[128], kernel[256];
    kvn_machine_cpu(cpu, sizeof(cpu));
    kvn_machine_kernel(kernel, sizeof(kernel));
    printf(
        "machine       %s, %ld cores\nkernel        %s\ncompiler      %s\n", cpu,
        sysconf(_SC_NPROCESSORS_ONLN), kernel, kvn_machine_compiler());
    printf("instructions  %s\n\n", counters_text(bench));
    if (bench->callgrind != NULL) {
        print_counted(bench);
        return;
    }
    for (unsigned i = 0; i < KVN_NR_FIGURES; i++) {
        const struct kvn_figure *row = &bench->figures[i];
        if (!row->measured) {
            continue;
        }
        printf(
            "%-27s %9.2f %-8s  (%.2f, %.2f)  load %.1f", kvn_figure_descs[i].name,
            row->value, kvn_figure_unit_text(kvn_figure_descs[i].unit), row->value_min,
            row->value_max, row->load);
        if (row->cpu_s_gb >= 0) {
            printf("  nodes: %.3f CPU s/GB", row->cpu_s_gb);
        }
        if (row->client_cpu_s_gb >= 0) {
            printf(", clients: %.3f", row->client_cpu_s_gb);
        }
        if (row->instructions_page >= 0) {
            printf(", %.0f instructions/page", row->instructions_page);
        }
        putchar('\n');
        print_references(bench, i);
    }
    printf(
        "\nmedians of %u rounds of %.2f s, least and greatest; quick: %s\n",
        bench->rounds, bench->seconds, bench->quick ? "yes" : "no");
}

/* ------------------------------------------------------------------ running */

/* kvraild lies beside us. */
static bool find_bin(struct kvn_bench_node *bench)
{
    const ssize_t len = readlink("/proc/self/exe", bench->bin, sizeof(bench->bin) - 1);
    if (len <= 0) {
        return false;
    }
    bench->bin[len] = '\0';
    char *slash = strrchr(bench->bin, '/');
    if (slash == NULL) {
        return false;
    }
    *slash = '\0';
    return true;
}

static kv_status_t measure(struct kvn_bench_node *bench)
{
    static kv_status_t (*const groups[])(struct kvn_bench_node * bench) = {
        kvn_figures_get, kvn_figures_pin, kvn_figures_fetch, kvn_figures_remote,
        kvn_figures_lookup};
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < sizeof(groups) / sizeof(groups[0]);
         i++) {
        status = groups[i](bench);
    }
    return status;
}

/* False, and one line: they cannot be. */
static bool count_with_callgrind(struct kvn_bench_node *bench)
{
    static struct kvn_callgrind callgrind;
    static struct kvn_counts counts, idle;
    const char *why_not = kvn_callgrind_find(bench->bin, &callgrind);
    if (why_not != NULL) {
        fprintf(stderr, "kvrail bench node: --instructions: %s\n", why_not);
        return false;
    }
    bench->callgrind = &callgrind;
    bench->counts = &counts;
    bench->idle = &idle;
    bench->quick = true; /* what a cache holds tells in no count */
    return true;
}

static int run(struct options *options)
{
    struct kvn_bench_node *bench = &options->bench;
    struct sigaction before[NR_SIGNALS];
    if (!find_bin(bench)) {
        fprintf(stderr, "kvrail bench node: where this program lies is not known\n");
        return KVN_EXIT_FAILED;
    }
    if (options->instructions && !count_with_callgrind(bench)) {
        return KVN_EXIT_FAILED;
    }
    bench->counters = kvn_counters_why_not();
    bench->stop = &stop_signal;
    signals_take(before);
    kv_status_t status = measure(bench);
    signals_give(before);
    const int number = atomic_load(&stop_signal);
    if (number != 0) {
        fprintf(stderr, "kvrail bench node: stopped by signal %d\n", number);
        return 128 + number;
    }
    if (status != KV_OK) {
        fprintf(stderr, "kvrail bench node: %s\n", bench->line);
        return KVN_EXIT_FAILED;
    }
    if (options->json) {
        return print_json(bench);
    }
    print_table(bench);
    return KVN_EXIT_OK;
}

/* ------------------------------------------------------------------ options */

static int check_only(const char *name)
{
    const char *names[KVN_NR_FIGURES];
    for (unsigned i = 0; i < KVN_NR_FIGURES; i++) {
        names[i] = kvn_figure_descs[i].name;
        if (strcmp(names[i], name) == 0) {
            return KVN_EXIT_OK;
        }
    }
    const char *nearest = kv_nearest(name, names, KVN_NR_FIGURES);
    return kvn_cli_refuse(
        &cli, "--only: '%s' is no figure%s%s%s", name,
        nearest == NULL ? "" : ", did you mean ", nearest == NULL ? "" : nearest,
        nearest == NULL ? "" : "?");
}

static int take_seconds(const char *text, double *seconds_p)
{
    char *end;
    *seconds_p = strtod(text, &end);
    if (*text == '\0' || *end != '\0'
        || !(*seconds_p >= SECONDS_MIN && *seconds_p <= SECONDS_MAX)) {
        return kvn_cli_refuse(
            &cli, "--seconds: '%s' is not a number from %g to %g", text, SECONDS_MIN,
            SECONDS_MAX);
    }
    return KVN_EXIT_OK;
}

static int take_flag(struct options *options, enum flag flag, const char *value)
{
    uint64_t number;
    switch (flag) {
    case FLAG_ONLY:
        options->bench.only = value;
        return check_only(value);
    case FLAG_ROUNDS:
        if (!kvn_cli_number(&cli, "rounds", value, 1, KVN_FIGURE_ROUNDS_MAX, &number)) {
            return KVN_EXIT_USAGE;
        }
        options->bench.rounds = (unsigned)number;
        return KVN_EXIT_OK;
    case FLAG_SECONDS:
        options->seconds = true;
        return take_seconds(value, &options->bench.seconds);
    case FLAG_QUICK:
        options->bench.quick = true;
        return KVN_EXIT_OK;
    case FLAG_INSTRUCTIONS:
        options->instructions = true;
        return KVN_EXIT_OK;
    case FLAG_JSON:
        options->json = true;
        return KVN_EXIT_OK;
    case NR_FLAGS:
        break;
    }
    return KVN_EXIT_USAGE;
}

/* Words that say nothing together. */
static int check_instructions(struct options *options)
{
    const char *only = options->bench.only;
    if (options->bench.rounds == 0) {
        options->bench.rounds = options->instructions ? COUNTED_ROUNDS : ROUNDS;
    }
    if (options->instructions && options->seconds) {
        return kvn_cli_refuse(
            &cli, "--seconds: --instructions counts so many pages, not so long");
    }
    if (options->instructions && only != NULL
        && strncmp(only, "acquire_embedded", strlen("acquire_embedded")) == 0) {
        return kvn_cli_refuse(
            &cli,
            "--only: '%s' has its node in this process: --instructions counts nodes "
            "that have their own",
            only);
    }
    return KVN_EXIT_OK;
}

int kvn_bench_node_cmd(int argc, char **argv)
{
    struct options options = {.bench = {.seconds = 1}};
    const char *value = NULL;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        const int exit_code = take_flag(&options, (enum flag)flag, value);
        if (exit_code != KVN_EXIT_OK) {
            return exit_code;
        }
    }
    if (flag != KVN_CLI_END) {
        return flag == KVN_CLI_HELP ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    const int exit_code = check_instructions(&options);
    return exit_code == KVN_EXIT_OK ? run(&options) : exit_code;
}
