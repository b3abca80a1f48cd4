#include "base/mem.h"
#include "node/cli.h"
#include "node/replay.h"
#include "node/sim/replay.h"
#include "node/sim_trace.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum flag {
    FLAG_TRACE,
    FLAG_WORKLOAD,
    FLAG_NODES,
    FLAG_PAGES,
    FLAG_BALANCE,
    FLAG_SPILL,
    FLAG_TRANSPORT,
    FLAG_MEMORY,
    FLAG_IN_FLIGHT,
    FLAG_PAGE_BYTES,
    FLAG_SEED,
    FLAG_JSON,
    FLAG_JSON_FILE,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_TRACE] = {"trace", "FILE", "chats or agent sessions, .jsonl or .jsonl.gz"},
    [FLAG_WORKLOAD] = {"workload", "chats", "generated requests instead of a trace"},
    [FLAG_NODES] = {"nodes", "N", "of the cluster (3)"},
    [FLAG_PAGES] = {"pages", "N", "capacity of the whole cluster (10000)"},
    [FLAG_BALANCE] = {"balance", "even|skew", "round robin, or 8 of 10 to one (even)"},
    [FLAG_SPILL] = {"spill", "on|off", "offer evicted pages to other nodes (on)"},
    [FLAG_TRANSPORT] = {"transport", "NAME", "named, onesided or both (both)"},
    [FLAG_MEMORY] = {"memory", "NAME", "tiers, device, own: of a tenant alone (tiers)"},
    [FLAG_IN_FLIGHT] = {"in-flight", "N", "requests at once, whole cluster (16)"},
    [FLAG_PAGE_BYTES] = {"page-bytes", "N", "of each page, all checked (4096)"},
    [FLAG_SEED] = {"seed", "N", "of the simulation (1)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
    [FLAG_JSON_FILE] = {"json-file", "FILE", "write JSON to FILE beside the table"},
};

static const struct kvn_cli cli = {
    .verb = "sim",
    .summary =
        "Replays requests through a simulated cluster: every hit's bytes are checked,\n"
        "and the hit rate stands beside that of one cache of the same size.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

enum { PAGES_MAX = 1 << 22, PAGE_BYTES_MAX = 1 << 20, NODES_MAX = 64 };

static const char *const balances[] = {"even", "skew", NULL};
static const char *const switches[] = {"off", "on", NULL};
static const char *const memories[] = {
    [KVS_TIERS] = "tiers", [KVS_DEVICE] = "device", [KVS_OWN] = "own", NULL};
static const char *const transports[] = {
    [KVS_ALL_NAMED] = "named",
    [KVS_ALL_ONE_SIDED] = "onesided",
    [KVS_MIXED] = "both",
    NULL};

struct options {
    const char *trace;
    const char *json_file;
    uint64_t nodes, pages, in_flight, page_bytes, seed;
    unsigned balance, spill, transport, memory; /* indices of the words above */
    bool chats, json;
};

struct outcome {
    struct kvs_replay replay;
    double seconds;
    double hit_rate, hit_rate_pooled;
};

/* ------------------------------------------------------------------ options */

static int take_word(
    enum flag flag, const char *value, const char *const *words, unsigned *index_p)
{
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strcmp(value, words[i]) == 0) {
            *index_p = i;
            return KVN_EXIT_OK;
        }
    }
    return kvn_cli_refuse(
        &cli, "--%s: '%s' is not %s, %s%s%s", flags[flag].name, value, words[0],
        words[1], words[2] != NULL ? ", " : "", words[2] != NULL ? words[2] : "");
}

static int take_number(
    enum flag flag, const char *value, uint64_t min, uint64_t max, uint64_t *number_p)
{
    return kvn_cli_number(&cli, flags[flag].name, value, min, max, number_p)
               ? KVN_EXIT_OK
               : KVN_EXIT_USAGE;
}

static int take_flag(struct options *options, enum flag flag, const char *value)
{
    switch (flag) {
    case FLAG_TRACE:
        options->trace = value;
        return KVN_EXIT_OK;
    case FLAG_WORKLOAD:
        if (strcmp(value, "chats") != 0) {
            return kvn_cli_refuse(&cli, "--workload: '%s' is not chats", value);
        }
        options->chats = true;
        return KVN_EXIT_OK;
    case FLAG_NODES:
        return take_number(flag, value, 1, NODES_MAX, &options->nodes);
    case FLAG_PAGES:
        return take_number(flag, value, 1, PAGES_MAX, &options->pages);
    case FLAG_BALANCE:
        return take_word(flag, value, balances, &options->balance);
    case FLAG_SPILL:
        return take_word(flag, value, switches, &options->spill);
    case FLAG_TRANSPORT:
        return take_word(flag, value, transports, &options->transport);
    case FLAG_MEMORY:
        return take_word(flag, value, memories, &options->memory);
    case FLAG_IN_FLIGHT:
        return take_number(
            flag, value, 1, KVS_REPLAY_IN_FLIGHT_MAX, &options->in_flight);
    case FLAG_PAGE_BYTES:
        return take_number(
            flag, value, KVP_ALIGN, PAGE_BYTES_MAX, &options->page_bytes);
    case FLAG_SEED:
        return take_number(flag, value, 0, UINT64_MAX, &options->seed);
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
    *options = (struct options){
        .nodes = 3,
        .pages = 10000,
        .in_flight = 16,
        .page_bytes = 4096,
        .seed = 1,
        .spill = 1,
        .transport = KVS_MIXED,
    };
    const char *value = NULL;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        const int exit_code = take_flag(options, (enum flag)flag, value);
        if (exit_code != KVN_EXIT_OK) {
            return exit_code;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag != KVN_CLI_END) {
        return flag == KVN_CLI_HELP ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    if (options->chats == (options->trace != NULL)) {
        return kvn_cli_refuse(
            &cli, "one of --trace FILE and --workload chats is needed");
    }
    if (options->page_bytes % KVP_ALIGN != 0) {
        return kvn_cli_refuse(
            &cli, "--page-bytes: %" PRIu64 " is not a multiple of %d",
            options->page_bytes, KVP_ALIGN);
    }
    return KVN_EXIT_OK;
}

bool kvn_sim_is_trace(int argc, char **argv)
{
    static const char *const words[] = {"--trace", "--workload"};
    for (int i = 1; i < argc; i++) {
        for (unsigned w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
            const size_t len = strlen(words[w]);
            if (strncmp(argv[i], words[w], len) == 0
                && (argv[i][len] == '\0' || argv[i][len] == '=')) {
                return true;
            }
        }
    }
    return false;
}

/* ------------------------------------------------------------------ results */

static double rate(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0.0;
}

static json_t *to_json(const struct options *options, const struct outcome *outcome)
{
    const struct kvs_replay *replay = &outcome->replay;
    json_t *hits = json_object();
    json_object_set_new(hits, "device", kvn_json_uint(replay->hits[KVO_FROM_DEVICE]));
    json_object_set_new(hits, "host", kvn_json_uint(replay->hits[KVO_FROM_HOST]));
    json_object_set_new(hits, "peer", kvn_json_uint(replay->hits[KVO_FROM_PEER]));
    json_t *misses = json_object();
#define X(symbol, name, text)                                                          \
    json_object_set_new(misses, name, kvn_json_uint(replay->misses[symbol]));
    KV_MISS_MAP(X)
#undef X
    json_t *root = json_object();
    json_object_set_new(root, "requests", kvn_json_uint(replay->requests));
    json_object_set_new(root, "page_refs", kvn_json_uint(replay->page_refs));
    json_object_set_new(root, "hits", hits);
    json_object_set_new(root, "misses", misses);
    json_object_set_new(root, "wrong_bytes", kvn_json_uint(replay->wrong_bytes));
    json_object_set_new(root, "fetched_bytes", kvn_json_uint(replay->fetched_bytes));
    json_object_set_new(
        root, "messages_per_lookup", json_real(rate(replay->calls, replay->lookups)));
    json_object_set_new(
        root, "round_trips_per_lookup",
        json_real(rate(replay->rounds, replay->lookups)));
    json_object_set_new(root, "seconds", json_real(outcome->seconds));
    json_object_set_new(root, "hit_rate", json_real(outcome->hit_rate));
    json_object_set_new(root, "hit_rate_pooled", json_real(outcome->hit_rate_pooled));
    json_object_set_new(root, "nodes", kvn_json_uint(options->nodes));
    json_object_set_new(root, "pages", kvn_json_uint(options->pages));
    json_object_set_new(root, "balance", json_string(balances[options->balance]));
    json_object_set_new(root, "spill", json_string(switches[options->spill]));
    json_object_set_new(root, "transport", json_string(transports[options->transport]));
    json_object_set_new(root, "memory", json_string(memories[options->memory]));
    json_object_set_new(root, "lookups_asked", kvn_json_uint(replay->lookups));
    json_object_set_new(root, "dedup", kvn_json_uint(replay->dedup));
    json_object_set_new(root, "again", kvn_json_uint(replay->again));
    json_object_set_new(root, "unkept", kvn_json_uint(replay->unkept));
    json_object_set_new(
        root, "virtual_seconds", json_real((double)replay->virtual_us / 1e6));
    json_t *failed = json_object();
#define X(symbol, value, name, text)                                                   \
    if (replay->failed[kv_status_index(symbol)] > 0) {                                 \
        json_object_set_new(                                                           \
            failed, name, kvn_json_uint(replay->failed[kv_status_index(symbol)]));     \
    }
    KV_STATUS_MAP(X)
#undef X
    json_object_set_new(root, "failed", failed);
    return root;
}

static void row(const char *name, uint64_t count, uint64_t of)
{
    printf("  %-28s  %12" PRIu64 "  %7.1f %%\n", name, count, 100.0 * rate(count, of));
}

static void print_table(const struct options *options, const struct outcome *outcome)
{
    const struct kvs_replay *replay = &outcome->replay;
    const uint64_t refs = replay->page_refs;
    printf(
        "%" PRIu64 " requests, %" PRIu64 " page references; %" PRIu64 " nodes, %" PRIu64
        " pages, balance %s, spill %s\n\n",
        replay->requests, refs, options->nodes, options->pages,
        balances[options->balance], switches[options->spill]);
    printf("  %-28s  %12s  %9s\n", "pages", "count", "share");
    row("hit on the device", replay->hits[KVO_FROM_DEVICE], refs);
    row("hit in host memory", replay->hits[KVO_FROM_HOST], refs);
    row("hit at a peer", replay->hits[KVO_FROM_PEER], refs);
    static const char *const reasons[] = {
#define X(symbol, name, text) [symbol] = "miss: " name,
        KV_MISS_MAP(X)
#undef X
    };
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        if (replay->misses[i] > 0) {
            row(reasons[i], replay->misses[i], refs);
        }
    }
    printf("\n  %-28s  %12.4f\n", "hit rate", outcome->hit_rate);
    printf("  %-28s  %12.4f\n", "one pooled cache", outcome->hit_rate_pooled);
    printf("  %-28s  %12" PRIu64 "\n", "wrong bytes", replay->wrong_bytes);
    printf("  %-28s  %12" PRIu64 "\n", "bytes from peers", replay->fetched_bytes);
    printf(
        "  %-28s  %12.2f\n", "messages per look-up",
        rate(replay->calls, replay->lookups));
    printf(
        "  %-28s  %12.2f\n", "round trips per look-up",
        rate(replay->rounds, replay->lookups));
    printf("  %-28s  %12.1f\n", "seconds", outcome->seconds);
    for (unsigned i = 0; i < KV_NR_STATUSES; i++) {
        static const kv_status_t statuses[] = {
#define X(symbol, value, name, text) symbol,
            KV_STATUS_MAP(X)
#undef X
        };
        if (replay->failed[i] > 0) {
            printf(
                "  operations ended: %-10s  %12" PRIu64 "\n",
                kv_status_name(statuses[i]), replay->failed[i]);
        }
    }
}

/* ------------------------------------------------------------------ running */

static kv_status_t replay(
    const struct options *options, const struct kvn_trace *trace, const kv_key_t *keys,
    struct outcome *outcome, struct kv_detail *detail)
{
    struct kvs_replay_request *requests =
        kv_calloc(trace->nr_requests, sizeof(*requests));
    if (requests == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < trace->nr_requests; i++) {
        requests[i].first = trace->requests[i].first;
        requests[i].nr_pages = trace->requests[i].nr_pages;
    }
    uint32_t drawn = UINT32_MAX;
    const struct kvs_replay_config config = {
        .nr_nodes = (uint32_t)options->nodes,
        .pages = (uint32_t)options->pages,
        .page_bytes = (uint32_t)options->page_bytes,
        .page_tokens = trace->page_tokens,
        .in_flight = (uint32_t)options->in_flight,
        .skew = options->balance == 1,
        .spill = options->spill == 1,
        .mix = (enum kvs_mix)options->transport,
        .memory = (enum kvs_memory)options->memory,
        .seed = options->seed,
        .requests = requests,
        .nr_requests = trace->nr_requests,
        .ids = trace->ids,
        .keys = keys,
        .progress = kvn_bar_wanted(),
        .arg = &drawn,
    };
    const double start = kvn_report_seconds();
    const kv_status_t status = kvs_replay_run(&config, &outcome->replay, detail);
    outcome->seconds = kvn_report_seconds() - start;
    const uint64_t *hits = outcome->replay.hits;
    outcome->hit_rate = rate(
        hits[KVO_FROM_DEVICE] + hits[KVO_FROM_HOST] + hits[KVO_FROM_PEER],
        outcome->replay.page_refs);
    kv_free(requests);
    return status;
}

static int
run(const struct options *options, const struct kvn_trace *trace,
    struct outcome *outcome)
{
    kv_key_t *keys = NULL;
    struct kv_detail detail = {0};
    kv_status_t status = kvn_trace_keys(trace, &keys);
    if (status == KV_OK) {
        status = replay(options, trace, keys, outcome, &detail);
    }
    kv_free(keys);
    if (status != KV_OK) {
        char text[256];
        kv_detail_format(&detail, status, text, sizeof(text));
        fprintf(
            stderr, "kvrail sim: %s\n",
            outcome->replay.failure[0] != '\0' ? outcome->replay.failure : text);
        return status == KV_ERR_CONFIG ? KVN_EXIT_USAGE : KVN_EXIT_FAILED;
    }
    outcome->hit_rate_pooled = kvn_pooled_hit_rate(trace, (uint32_t)options->pages);
    int exit_code = KVN_EXIT_OK;
    if (options->json_file != NULL) {
        exit_code = kvn_report_json(to_json(options, outcome), options->json_file);
    }
    if (options->json) {
        const int printed = kvn_report_json(to_json(options, outcome), NULL);
        exit_code = exit_code == KVN_EXIT_OK ? printed : exit_code;
    } else {
        print_table(options, outcome);
    }
    if (outcome->replay.wrong_bytes > 0) {
        fprintf(
            stderr, "kvrail sim: %" PRIu64 " wrong bytes\n",
            outcome->replay.wrong_bytes);
        return KVN_EXIT_FAILED;
    }
    return exit_code;
}

int kvn_sim_trace(int argc, char **argv)
{
    struct options options;
    bool done = false;
    int exit_code = parse(&options, argc, argv, &done);
    if (exit_code != KVN_EXIT_OK || done) {
        return exit_code;
    }
    struct kvn_trace trace;
    struct kvn_trace_error error;
    const kv_status_t status =
        options.chats ? kvn_trace_generate(&kvn_trace_chats, &trace, &error)
                      : kvn_trace_load(options.trace, options.seed, &trace, &error);
    if (status != KV_OK) {
        return kvn_cli_refuse(&cli, "%s", error.line);
    }
    static struct outcome outcome; /* zeroed, and large */
    exit_code = run(&options, &trace, &outcome);
    kvn_trace_free(&trace);
    return exit_code;
}
