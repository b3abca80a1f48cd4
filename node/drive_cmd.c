/* kvrail drive: a trace through running nodes, and what came back. */
#include "node/cli.h"
#include "node/drive.h"
#include "node/replay.h"
#include "node/report.h"
#include "node/verbs.h"

#include "base/miss.h"
#include "include/kvrail/kvrail.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum flag {
    FLAG_NODE,
    FLAG_TRACE,
    FLAG_WORKLOAD,
    FLAG_SPACE,
    FLAG_TENANT,
    FLAG_PAGES,
    FLAG_LEVEL,
    FLAG_BALANCE,
    FLAG_IN_FLIGHT,
    FLAG_TIMEOUT,
    FLAG_COMPUTE,
    FLAG_LAST,
    FLAG_MARK,
    FLAG_JSON,
    FLAG_JSON_FILE,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_NODE] =
        {"node", "SOCKET", "of a node, or embed:FILE, or tls://…; once for each"},
    [FLAG_TRACE] = {"trace", "FILE", "chats or agent sessions, .jsonl or .jsonl.gz"},
    [FLAG_WORKLOAD] = {"workload", "chats", "generated requests instead of a trace"},
    [FLAG_SPACE] = {"space", "NAME", "of the nodes' configuration (chat)"},
    [FLAG_TENANT] = {"tenant", "ID", "to speak as (7)"},
    [FLAG_PAGES] = {"pages", "N", "of all nodes: prints the pooled cache beside it"},
    [FLAG_LEVEL] = {"level", "object|pager", "batches of keys, or in place (object)"},
    [FLAG_BALANCE] = {"balance", "even|skew", "round robin, or 8 of 10 to one (even)"},
    [FLAG_IN_FLIGHT] = {"in-flight", "N", "requests at once (16)"},
    [FLAG_TIMEOUT] = {"timeout-ms", "N", "of each batch (5000)"},
    [FLAG_COMPUTE] = {"compute-us", "N", "that an engine takes for a missing page (0)"},
    [FLAG_LAST] = {"last", "N", "count the last N requests apart too (0)"},
    [FLAG_MARK] = {"mark", "FILE", "append the number of ended requests, every 100"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
    [FLAG_JSON_FILE] = {"json-file", "FILE", "write JSON to FILE beside the table"},
};

static const struct kvn_cli cli = {
    .verb = "drive",
    .summary = "Replays requests through running nodes: a page's bytes follow from its "
               "key, and\nevery byte of a hit is checked.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

enum { PAGES_MAX = 1 << 22, MARK_REQUESTS = 100 };

struct options {
    const char *nodes[KVN_DRIVE_NODES_MAX];
    uint32_t nr_nodes;
    const char *trace, *space, *json_file, *mark;
    uint64_t tenant, pages, in_flight, timeout_ms, compute_us, last;
    bool chats, pager, skew, json;
};

struct outcome {
    struct kvn_drive drive;
    double seconds;
    double hit_rate_pooled; /* -1: not asked for */
};

/* ------------------------------------------------------------------ options */

static int
number(enum flag flag, const char *value, uint64_t min, uint64_t max, uint64_t *to)
{
    return kvn_cli_number(&cli, flags[flag].name, value, min, max, to)
               ? KVN_EXIT_OK
               : KVN_EXIT_USAGE;
}

static int take_flag(struct options *options, enum flag flag, const char *value)
{
    switch (flag) {
    case FLAG_NODE:
        if (options->nr_nodes == KVN_DRIVE_NODES_MAX) {
            return kvn_cli_refuse(
                &cli, "--node: more than %d times", KVN_DRIVE_NODES_MAX);
        }
        options->nodes[options->nr_nodes++] = value;
        return KVN_EXIT_OK;
    case FLAG_TRACE:
        options->trace = value;
        return KVN_EXIT_OK;
    case FLAG_WORKLOAD:
        options->chats = strcmp(value, "chats") == 0;
        return options->chats
                   ? KVN_EXIT_OK
                   : kvn_cli_refuse(&cli, "--workload: '%s' is not chats", value);
    case FLAG_SPACE:
        options->space = value;
        return KVN_EXIT_OK;
    case FLAG_TENANT:
        return number(flag, value, 0, UINT32_MAX, &options->tenant);
    case FLAG_PAGES:
        return number(flag, value, 0, PAGES_MAX, &options->pages);
    case FLAG_LEVEL:
        options->pager = strcmp(value, "pager") == 0;
        return options->pager || strcmp(value, "object") == 0
                   ? KVN_EXIT_OK
                   : kvn_cli_refuse(&cli, "--level: '%s' is not object, pager", value);
    case FLAG_BALANCE:
        options->skew = strcmp(value, "skew") == 0;
        return options->skew || strcmp(value, "even") == 0
                   ? KVN_EXIT_OK
                   : kvn_cli_refuse(&cli, "--balance: '%s' is not even, skew", value);
    case FLAG_IN_FLIGHT:
        return number(flag, value, 1, KVN_DRIVE_IN_FLIGHT_MAX, &options->in_flight);
    case FLAG_TIMEOUT:
        return number(flag, value, 1, 3600000, &options->timeout_ms);
    case FLAG_COMPUTE:
        return number(flag, value, 0, 10000000, &options->compute_us);
    case FLAG_LAST:
        return number(flag, value, 0, KVN_TRACE_REQUESTS_MAX, &options->last);
    case FLAG_MARK:
        options->mark = value;
        return KVN_EXIT_OK;
    case FLAG_JSON:
        options->json = true;
        return KVN_EXIT_OK;
    case FLAG_JSON_FILE:
        options->json_file = value;
        return KVN_EXIT_OK;
    case NR_FLAGS:
        break;
    }
    return KVN_EXIT_USAGE;
}

static int parse(struct options *options, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    int flag;
    *options = (struct options){
        .space = "chat", .tenant = 7, .in_flight = 16, .timeout_ms = 5000};
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        int exit_code = take_flag(options, (enum flag)flag, value);
        if (exit_code != KVN_EXIT_OK) {
            return exit_code;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag != KVN_CLI_END) {
        return flag == KVN_CLI_HELP ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    if (options->nr_nodes == 0) {
        return kvn_cli_refuse(&cli, "--node SOCKET is needed, once for each node");
    }
    if (options->chats == (options->trace != NULL)) {
        return kvn_cli_refuse(
            &cli, "one of --trace FILE and --workload chats is needed");
    }
    return KVN_EXIT_OK;
}

/* ------------------------------------------------------------------ results */

static const char *const places[KVN_DRIVE_PLACES] = {"none", "device", "host", "peer"};

static uint64_t hits_of(const struct kvn_drive_counts *counts)
{
    uint64_t hits = 0;
    for (unsigned i = 0; i < KVN_DRIVE_PLACES; i++) {
        hits += counts->hits[i];
    }
    return hits;
}

static double rate_of(const struct kvn_drive_counts *counts)
{
    return counts->page_refs > 0
               ? (double)hits_of(counts) / (double)counts->page_refs
               : 0.0;
}

static json_t *json_counts(const struct kvn_drive_counts *counts)
{
    json_t *root = json_object(), *hits = json_object(), *misses = json_object();
    for (unsigned i = 1; i < KVN_DRIVE_PLACES; i++) {
        json_object_set_new(hits, places[i], kvn_json_uint(counts->hits[i]));
    }
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        const char *name = kvr_miss_name((uint8_t)i);
        json_object_set_new(misses, name, kvn_json_uint(counts->misses[i]));
    }
    json_object_set_new(root, "requests", kvn_json_uint(counts->requests));
    json_object_set_new(root, "page_refs", kvn_json_uint(counts->page_refs));
    json_object_set_new(root, "hits", hits);
    json_object_set_new(root, "misses", misses);
    json_object_set_new(root, "unserved", kvn_json_uint(counts->unserved));
    json_object_set_new(root, "hit_rate", json_real(rate_of(counts)));
    return root;
}

static json_t *to_json(const struct options *options, const struct outcome *outcome)
{
    const struct kvn_drive *drive = &outcome->drive;
    json_t *root = json_counts(&drive->all);
    json_object_set_new(root, "wrong_bytes", kvn_json_uint(drive->wrong_bytes));
    json_object_set_new(root, "checked_bytes", kvn_json_uint(drive->checked_bytes));
    json_object_set_new(root, "stored", kvn_json_uint(drive->stored));
    json_object_set_new(root, "existed", kvn_json_uint(drive->existed));
    json_object_set_new(root, "unkept", kvn_json_uint(drive->unkept));
    json_object_set_new(root, "nodes_lost", kvn_json_uint(drive->lost));
    json_object_set_new(root, "page_bytes", kvn_json_uint(drive->page_bytes));
    json_object_set_new(root, "seconds", json_real(outcome->seconds));
    json_object_set_new(root, "nodes", kvn_json_uint(options->nr_nodes));
    json_object_set_new(
        root, "level", json_string(options->pager ? "pager" : "object"));
    json_object_set_new(
        root, "balance", json_string(options->skew ? "skew" : "even"));
    if (outcome->hit_rate_pooled >= 0) {
        json_object_set_new(
            root, "hit_rate_pooled", json_real(outcome->hit_rate_pooled));
    }
    if (options->last > 0) {
        json_object_set_new(root, "last", json_counts(&drive->last));
    }
    return root;
}

static void row(const char *name, uint64_t count, uint64_t of)
{
    double share = of > 0 ? 100.0 * (double)count / (double)of : 0.0;
    printf("  %-28s  %12" PRIu64 "  %7.1f %%\n", name, count, share);
}

static void print_table(const struct options *options, const struct outcome *outcome)
{
    const struct kvn_drive *drive = &outcome->drive;
    const struct kvn_drive_counts *all = &drive->all;
    printf(
        "%" PRIu64 " requests, %" PRIu64 " page references of %" PRIu32
        " bytes; %" PRIu32 " nodes, %s level, balance %s\n\n",
        all->requests, all->page_refs, drive->page_bytes, options->nr_nodes,
        options->pager ? "pager" : "object", options->skew ? "skew" : "even");
    printf("  %-28s  %12s  %9s\n", "pages", "count", "share");
    for (unsigned i = 1; i < KVN_DRIVE_PLACES; i++) {
        char name[32];
        snprintf(name, sizeof(name), "hit: %s", places[i]);
        row(name, all->hits[i], all->page_refs);
    }
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        if (all->misses[i] > 0) {
            char name[32];
            snprintf(name, sizeof(name), "miss: %.20s", kvr_miss_name((uint8_t)i));
            row(name, all->misses[i], all->page_refs);
        }
    }
    if (all->unserved > 0) {
        row("not served: node gone", all->unserved, all->page_refs);
    }
    printf("\n  %-28s  %12.4f\n", "hit rate", rate_of(all));
    if (outcome->hit_rate_pooled >= 0) {
        printf("  %-28s  %12.4f\n", "one pooled cache", outcome->hit_rate_pooled);
    }
    printf("  %-28s  %12" PRIu64 "\n", "bytes checked", drive->checked_bytes);
    printf("  %-28s  %12" PRIu64 "\n", "wrong bytes", drive->wrong_bytes);
    printf("  %-28s  %12" PRIu64 "\n", "pages not kept", drive->unkept);
    printf("  %-28s  %12.1f\n", "seconds", outcome->seconds);
}

/* ------------------------------------------------------------------ running */

/* Who is told how far we are: people by a bar, scripts that do something to a node at
 * some request by lines in a file. */
struct progress {
    kvn_bar_fn bar; /* may be NULL */
    uint32_t drawn;
    FILE *mark; /* may be NULL */
    uint32_t marked;
};

static void tell(void *arg, uint32_t done, uint32_t of)
{
    struct progress *progress = arg;
    if (progress->bar != NULL) {
        progress->bar(&progress->drawn, done, of);
    }
    uint32_t mark = done - done % MARK_REQUESTS;
    if (progress->mark != NULL && mark > progress->marked) {
        progress->marked = mark;
        fprintf(progress->mark, "%" PRIu32 "\n", mark);
        fflush(progress->mark);
    }
}

static int run(const struct options *options, const struct kvn_trace *trace)
{
    static struct outcome outcome; /* zeroed, and large */
    struct progress progress = {.bar = kvn_bar_wanted(), .drawn = UINT32_MAX};
    if (options->mark != NULL && (progress.mark = fopen(options->mark, "ae")) == NULL) {
        perror(options->mark);
        return KVN_EXIT_FAILED;
    }
    const struct kvn_drive_config config = {
        .nodes = options->nodes,
        .nr_nodes = options->nr_nodes,
        .space = options->space,
        .tenant = (uint32_t)options->tenant,
        .in_flight = (uint32_t)options->in_flight,
        .pager = options->pager,
        .skew = options->skew,
        .timeout_us = options->timeout_ms * 1000,
        .compute_us = options->compute_us,
        .last = (uint32_t)options->last,
        .progress = tell,
        .arg = &progress,
    };
    double start = kvn_report_seconds();
    kv_status_t status = kvn_drive_run(&config, trace, &outcome.drive);
    outcome.seconds = kvn_report_seconds() - start;
    if (progress.mark != NULL) {
        (void)fclose(progress.mark);
    }
    if (status != KV_OK) {
        fprintf(stderr, "kvrail drive: %s\n", outcome.drive.failure);
        return status == KV_ERR_CONFIG ? KVN_EXIT_USAGE : KVN_EXIT_FAILED;
    }
    outcome.hit_rate_pooled =
        options->pages > 0 ? kvn_pooled_hit_rate(trace, (uint32_t)options->pages) : -1;
    int exit_code = KVN_EXIT_OK;
    if (options->json_file != NULL) {
        exit_code = kvn_report_json(to_json(options, &outcome), options->json_file);
    }
    if (options->json) {
        int printed = kvn_report_json(to_json(options, &outcome), NULL);
        exit_code = exit_code == KVN_EXIT_OK ? printed : exit_code;
    } else {
        print_table(options, &outcome);
    }
    if (outcome.drive.wrong_bytes > 0) {
        fprintf(
            stderr, "kvrail drive: %" PRIu64 " wrong bytes\n",
            outcome.drive.wrong_bytes);
        return KVN_EXIT_FAILED;
    }
    return exit_code;
}

int kvn_verb_drive(int argc, char **argv)
{
    struct options options;
    bool done = false;
    int exit_code = parse(&options, argc, argv, &done);
    if (exit_code != KVN_EXIT_OK || done) {
        return exit_code;
    }
    struct kvn_trace trace;
    struct kvn_trace_error error;
    kv_status_t status =
        options.chats ? kvn_trace_generate(&kvn_trace_chats, &trace, &error)
                      : kvn_trace_load(options.trace, 1, &trace, &error);
    if (status != KV_OK) {
        return kvn_cli_refuse(&cli, "%s", error.line);
    }
    exit_code = run(&options, &trace);
    kvn_trace_free(&trace);
    return exit_code;
}
