/* kvrail replay: the hit rate of one node's pager on a trace, by policy. */
#include "node/cli.h"
#include "node/replay.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum flag { FLAG_TRACE, FLAG_PAGES, FLAG_POLICY, FLAG_JSON, NR_FLAGS };

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_TRACE] = {"trace", "FILE", "chats or agent sessions, .jsonl or .jsonl.gz"},
    [FLAG_PAGES] = {"pages", "N", "frames of the pager (10000)"},
    [FLAG_POLICY] = {"policy", "NAME", "lru, fifo, opt (clairvoyant) or all (all)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "replay",
    .summary = "Replays a trace through one node's pager and prints the share of page\n"
               "references that hit as part of a leading run.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

enum { PAGES_MAX = 1 << 26 };

static const char *const policies[] = {"lru", "fifo", "opt"};
enum { NR_POLICIES = sizeof(policies) / sizeof(policies[0]) };

struct options {
    const char *trace;
    const char *policy;
    uint64_t pages;
    bool json;
};

struct results {
    struct kvn_replay of[NR_POLICIES];
    bool ran[NR_POLICIES];
};

static void print_table(const struct options *options, const struct results *results)
{
    printf(
        "%-8s  %10s  %10s  %10s  %10s  %8s\n", "policy", "pages", "references", "hits",
        "evicted", "rate");
    for (unsigned i = 0; i < NR_POLICIES; i++) {
        const struct kvn_replay *r = &results->of[i];
        if (results->ran[i]) {
            printf(
                "%-8s  %10" PRIu64 "  %10" PRIu64 "  %10" PRIu64 "  %10" PRIu64
                "  %8.4f\n",
                policies[i], options->pages, r->nr_refs, r->hits, r->evicted,
                kvn_replay_rate(r));
        }
    }
}

static int print_json(const struct options *options, const struct results *results)
{
    json_t *of = json_object();
    uint64_t nr_refs = 0;
    for (unsigned i = 0; i < NR_POLICIES; i++) {
        const struct kvn_replay *r = &results->of[i];
        if (!results->ran[i]) {
            continue;
        }
        json_t *one = json_object();
        json_object_set_new(one, "hit_rate", json_real(kvn_replay_rate(r)));
        json_object_set_new(one, "hits", json_integer((json_int_t)r->hits));
        json_object_set_new(one, "evicted", json_integer((json_int_t)r->evicted));
        json_object_set_new(one, "unkept", json_integer((json_int_t)r->unkept));
        json_object_set_new(of, policies[i], one);
        nr_refs = r->nr_refs;
    }
    json_t *root = json_object();
    json_object_set_new(root, "pages", json_integer((json_int_t)options->pages));
    json_object_set_new(root, "references", json_integer((json_int_t)nr_refs));
    json_object_set_new(root, "policies", of);
    return kvn_report_json(root, NULL);
}

static int run(const struct options *options, const struct kvn_trace *trace)
{
    struct results results = {0};
    for (unsigned i = 0; i < NR_POLICIES; i++) {
        struct kv_detail detail = {0};
        kv_status_t status;
        if (strcmp(options->policy, "all") != 0
            && strcmp(options->policy, policies[i]) != 0) {
            continue;
        }
        if (strcmp(policies[i], "opt") == 0) {
            status = kvn_replay_optimum(
                trace, (uint32_t)options->pages, &results.of[i], &detail);
        } else {
            status = kvn_replay_pager(
                trace, kvp_evict_find(policies[i]), (uint32_t)options->pages,
                &results.of[i], &detail);
        }
        if (status != KV_OK) {
            char line[256];
            kv_detail_format(&detail, status, line, sizeof(line));
            fprintf(stderr, "kvrail replay: %s: %s\n", policies[i], line);
            return KVN_EXIT_FAILED;
        }
        results.ran[i] = true;
    }
    if (options->json) {
        return print_json(options, &results);
    }
    print_table(options, &results);
    return KVN_EXIT_OK;
}

static bool policy_known(const char *name)
{
    bool known = strcmp(name, "all") == 0;
    for (unsigned i = 0; i < NR_POLICIES; i++) {
        known |= strcmp(name, policies[i]) == 0;
    }
    return known;
}

static int parse(struct options *options, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    int flag;
    *done_p = false;
    *options = (struct options){.policy = "all", .pages = 10000};
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        switch ((enum flag)flag) {
        case FLAG_TRACE:
            options->trace = value;
            break;
        case FLAG_PAGES:
            if (!kvn_cli_number(&cli, "pages", value, 1, PAGES_MAX, &options->pages)) {
                return KVN_EXIT_USAGE;
            }
            break;
        case FLAG_POLICY:
            if (!policy_known(value)) {
                return kvn_cli_refuse(
                    &cli, "--policy: '%s' is not lru, fifo, opt or all", value);
            }
            options->policy = value;
            break;
        case FLAG_JSON:
            options->json = true;
            break;
        case NR_FLAGS:
            break;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag == KVN_CLI_END && options->trace == NULL) {
        return kvn_cli_refuse(&cli, "--trace: is needed, see --help");
    }
    return flag == KVN_CLI_BAD ? KVN_EXIT_USAGE : KVN_EXIT_OK;
}

int kvn_verb_replay(int argc, char **argv)
{
    struct options options;
    bool done;
    int exit_code = parse(&options, argc, argv, &done);
    if (exit_code != KVN_EXIT_OK || done) {
        return exit_code;
    }
    struct kvn_trace trace;
    struct kvn_trace_error error;
    if (kvn_trace_load(options.trace, 1, &trace, &error) != KV_OK) {
        return kvn_cli_refuse(&cli, "%s", error.line);
    }
    exit_code = run(&options, &trace);
    kvn_trace_free(&trace);
    return exit_code;
}
