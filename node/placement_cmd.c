/* kvrail placement: how evenly a trace's directory falls on the homes.
 *
 * Requests enter the nodes in turn and nodes keep what they have seen. A request looks
 * up the segments that are not wholly held at its entry node, then lists what is new
 * there with both homes. Counted per node:
 *
 *   entries  records that it keeps as a home: one a copy and holder
 *   bytes    of the different pages that it answers for, one page as many as another
 *   lookups  that it answers as the first home of a segment: one a request, however
 *            many of the request's segments are its own; its own requests' too, which
 *            need no message but the same work
 */
#include "base/mem.h"
#include "cluster/placement.h"
#include "node/cli.h"
#include "node/trace.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum flag {
    FLAG_TRACE,
    FLAG_NODES,
    FLAG_PAGE_TOKENS,
    FLAG_BALANCE,
    FLAG_JSON,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_TRACE] = {"trace", "FILE", "chats or agent sessions, .jsonl or .jsonl.gz"},
    [FLAG_NODES] = {"nodes", "N", "nodes of equal weight (3)"},
    [FLAG_PAGE_TOKENS] =
        {"page-tokens", "N", "tokens of a page, for the segments (the trace's: 512)"},
    [FLAG_BALANCE] =
        {"balance", "even", "how requests enter the nodes: in turn (even)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "placement",
    .summary = "Replays a trace over N nodes that keep what they have seen and prints\n"
               "the most loaded home's share, max/mean over the nodes.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

struct options {
    const char *trace;
    uint64_t nodes;
    uint64_t page_tokens; /* 0: the trace's */
    bool json;
};

/* ------------------------------------------------------------------ counting */

enum load { LOAD_ENTRIES, LOAD_BYTES, LOAD_LOOKUPS, NR_LOADS };
static const char *const load_names[NR_LOADS] = {"entries", "bytes", "lookups"};

struct count {
    const struct kvn_trace *trace;
    uint32_t page_tokens;
    struct kvc_view *view;
    kv_key_t *keys;     /* [nr_ids] */
    uint8_t *held;      /* [nodes][nr_ids], a bit each */
    uint8_t *listed;    /* [nr_ids], a bit each */
    uint64_t *load;     /* [NR_LOADS][nodes] */
    uint32_t *asked_at; /* [nodes]: last request that asked this home, plus 1 */
};

static bool bit_test(const uint8_t *bits, size_t i)
{
    return (bits[i / 8] >> (i % 8)) & 1;
}

static void bit_set(uint8_t *bits, size_t i)
{
    bits[i / 8] = (uint8_t)(bits[i / 8] | 1u << (i % 8));
}

static uint64_t *load_of(struct count *count, enum load load, uint32_t node)
{
    return &count->load[(size_t)load * count->view->nr + node];
}

/* What the entry node lacks of one segment is looked up, then listed. */
static void count_segment(
    struct count *count, uint32_t request, const uint32_t *ids,
    struct kvc_segment segment)
{
    const size_t row = ((size_t)count->trace->nr_ids + 7) / 8;
    uint8_t *held = count->held + row * (request % count->view->nr);
    uint32_t homes[KVC_HOMES];
    uint32_t nr = 0;

    for (uint32_t i = segment.first; i < segment.first + segment.len; i++) {
        if (bit_test(held, ids[i])) {
            continue;
        }
        if (nr == 0) {
            nr = kvc_homes(
                count->view, &count->keys[ids[segment.first]], KVC_HOMES, homes);
            if (count->asked_at[homes[0]] != request + 1) {
                count->asked_at[homes[0]] = request + 1;
                ++*load_of(count, LOAD_LOOKUPS, homes[0]);
            }
        }
        bool first = !bit_test(count->listed, ids[i]);
        for (uint32_t h = 0; h < nr; h++) {
            ++*load_of(count, LOAD_ENTRIES, homes[h]);
            *load_of(count, LOAD_BYTES, homes[h]) += first;
        }
        bit_set(held, ids[i]);
        bit_set(count->listed, ids[i]);
    }
}

static void count_trace(struct count *count)
{
    for (uint32_t r = 0; r < count->trace->nr_requests; r++) {
        const struct kvn_request *request = &count->trace->requests[r];
        const uint32_t *ids = count->trace->ids + request->first;
        for (uint32_t page = 0; page < request->nr_pages;) {
            struct kvc_segment s = kvc_segment_at(page, count->page_tokens);
            if (s.len > request->nr_pages - s.first) {
                s.len = request->nr_pages - s.first;
            }
            count_segment(count, r, ids, s);
            page = s.first + s.len;
        }
    }
}

static double max_mean(const struct count *count, enum load load)
{
    uint64_t max = 0;
    uint64_t sum = 0;
    for (uint32_t node = 0; node < count->view->nr; node++) {
        uint64_t value = count->load[(size_t)load * count->view->nr + node];
        sum += value;
        max = value > max ? value : max;
    }
    return sum == 0 ? 1 : (double)max * count->view->nr / (double)sum;
}

/* ------------------------------------------------------------------ printing */

static int print_json(uint32_t nodes, const double *ratios)
{
    json_t *of = json_object();
    for (unsigned i = 0; i < NR_LOADS; i++) {
        json_object_set_new(of, load_names[i], json_real(ratios[i]));
    }
    json_t *root = json_object();
    json_object_set_new(root, "nodes", json_integer(nodes));
    json_object_set_new(root, "max_mean", of);
    return kvn_report_json(root, NULL);
}

static int print(const struct count *count, bool json)
{
    double ratios[NR_LOADS];
    for (unsigned i = 0; i < NR_LOADS; i++) {
        ratios[i] = max_mean(count, i);
    }
    if (json) {
        return print_json(count->view->nr, ratios);
    }
    printf("%8s  %10s  %10s  %10s\n", "nodes", "entries", "bytes", "lookups");
    printf(
        "%8" PRIu32 "  %10.3f  %10.3f  %10.3f\n", count->view->nr, ratios[LOAD_ENTRIES],
        ratios[LOAD_BYTES], ratios[LOAD_LOOKUPS]);
    return KVN_EXIT_OK;
}

/* ------------------------------------------------------------------ running */

static struct kvc_view *view_make(uint32_t nodes)
{
    struct kvc_member members[KVC_NODES_MAX];
    memset(members, 0, sizeof(members));
    for (uint32_t i = 0; i < nodes; i++) {
        members[i] = (struct kvc_member){.id = i + 1, .weight = 1};
    }
    struct kvc_view *view = kv_calloc(1, sizeof(*view));
    if (view != NULL && kvc_view_build(view, 1, members, nodes, NULL) != KV_OK) {
        kv_free(view);
        view = NULL;
    }
    return view;
}

static int run(const struct options *options, const struct kvn_trace *trace)
{
    int exit_code = KVN_EXIT_FAILED;
    const uint32_t nodes = (uint32_t)options->nodes;
    const size_t row = ((size_t)trace->nr_ids + 7) / 8;
    struct count count = {
        .trace = trace,
        .page_tokens = options->page_tokens == 0 ? trace->page_tokens
                                                 : (uint32_t)options->page_tokens,
        .view = view_make(nodes),
        .held = kv_calloc(nodes, row),
        .listed = kv_calloc(1, row),
        .load = kv_calloc((size_t)NR_LOADS * nodes, sizeof(*count.load)),
        .asked_at = kv_calloc(nodes, sizeof(*count.asked_at)),
    };
    if (count.view == NULL || count.held == NULL || count.listed == NULL
        || count.load == NULL || count.asked_at == NULL
        || kvn_trace_keys(trace, &count.keys) != KV_OK) {
        fprintf(stderr, "kvrail placement: out of memory\n");
        goto err_free;
    }
    count_trace(&count);
    exit_code = print(&count, options->json);

err_free:
    kv_free(count.keys);
    kv_free(count.asked_at);
    kv_free(count.load);
    kv_free(count.listed);
    kv_free(count.held);
    kv_free(count.view);
    return exit_code;
}

/* KVN_EXIT_OK, with trace NULL after --help. */
static int parse(struct options *options, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    int flag;
    *done_p = false;
    *options = (struct options){.nodes = 3};
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        bool ok = true;
        switch ((enum flag)flag) {
        case FLAG_TRACE:
            options->trace = value;
            break;
        case FLAG_NODES:
            ok =
                kvn_cli_number(&cli, "nodes", value, 1, KVC_NODES_MAX, &options->nodes);
            break;
        case FLAG_PAGE_TOKENS:
            ok = kvn_cli_number(
                &cli, "page-tokens", value, 1, KV_PAGE_TOKENS_MAX,
                &options->page_tokens);
            break;
        case FLAG_BALANCE:
            if (strcmp(value, "even") != 0) {
                return kvn_cli_refuse(&cli, "--balance: '%s' is not even", value);
            }
            break;
        case FLAG_JSON:
            options->json = true;
            break;
        case NR_FLAGS:
            break;
        }
        if (!ok) {
            return KVN_EXIT_USAGE;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag == KVN_CLI_END && options->trace == NULL) {
        return kvn_cli_refuse(&cli, "--trace: is needed, see --help");
    }
    return flag == KVN_CLI_BAD ? KVN_EXIT_USAGE : KVN_EXIT_OK;
}

int kvn_verb_placement(int argc, char **argv)
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
