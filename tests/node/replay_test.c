/* Goal: the tool's hit rates are those of the pager and of the optimum, and nothing of
 * the tool's own making. Method: naive versions of LRU and of the optimum on generated
 * chats, hit by hit; the figures known for the real trace where it is at hand. */
#include "node/replay.h"

#include "base/fault.h"
#include "base/mem.h"
#include "node/verbs.h"
#include "tests/node/node_kit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct kvn_trace_shape small_shape = {
    .seed = 5,
    .nr_sessions = 40,
    .nr_prompts = 3,
    .prompt_pages_max = 4,
    .rounds_max = 5,
    .round_pages_max = 5,
};

static struct kvn_trace generate(const struct kvn_trace_shape *shape)
{
    struct kvn_trace trace;
    struct kvn_trace_error error;
    assert_int_equal(kvn_trace_generate(shape, &trace, &error), KV_OK);
    return trace;
}

/* ---- naive versions -------------------------------------------------------------- */

struct naive {
    uint64_t *rank; /* [nr_ids]: of those here; 0: not here */
    const struct kvn_trace *trace;
    uint32_t here;
    uint64_t clock;
};

static struct naive naive_make(const struct kvn_trace *trace)
{
    struct naive naive = {.trace = trace, .clock = 1};
    naive.rank = calloc(trace->nr_ids, sizeof(*naive.rank));
    assert_non_null(naive.rank);
    return naive;
}

static uint32_t naive_run(const struct naive *naive, const struct kvn_request *request)
{
    uint32_t run = 0;
    while (run < request->nr_pages
           && naive->rank[naive->trace->ids[request->first + run]] != 0) {
        run++;
    }
    return run;
}

static bool in_request(
    const struct kvn_trace *trace, const struct kvn_request *request, uint32_t id)
{
    for (uint32_t i = 0; i < request->nr_pages; i++) {
        if (trace->ids[request->first + i] == id) {
            return true;
        }
    }
    return false;
}

/* The page here with the lowest rank that this request does not use; nr_ids if none. */
static uint32_t
naive_coldest(const struct naive *naive, const struct kvn_request *request)
{
    uint32_t coldest = naive->trace->nr_ids;
    for (uint32_t id = 0; id < naive->trace->nr_ids; id++) {
        if (naive->rank[id] != 0
            && (coldest == naive->trace->nr_ids
                || naive->rank[id] < naive->rank[coldest])
            && !in_request(naive->trace, request, id)) {
            coldest = id;
        }
    }
    return coldest;
}

/* Least recently used, a request's pages kept while it lasts and touched tails
 * first. */
static uint64_t naive_lru(const struct kvn_trace *trace, uint32_t pages)
{
    struct naive naive = naive_make(trace);
    uint64_t hits = 0;
    for (uint32_t r = 0; r < trace->nr_requests; r++) {
        const struct kvn_request *request = &trace->requests[r];
        const uint32_t *ids = trace->ids + request->first;
        uint32_t kept = naive_run(&naive, request);
        hits += kept;
        for (; kept < request->nr_pages; kept++) {
            uint32_t coldest = trace->nr_ids;
            if (naive.here == pages) {
                coldest = naive_coldest(&naive, request);
                if (coldest == trace->nr_ids) {
                    break;
                }
                naive.rank[coldest] = 0;
                naive.here--;
            }
            naive.here += naive.rank[ids[kept]] == 0;
            naive.rank[ids[kept]] = naive.clock;
        }
        while (kept > 0) {
            naive.rank[ids[--kept]] = ++naive.clock;
        }
    }
    free(naive.rank);
    return hits;
}

/* Request that wants `id` next after request r; nr_requests when none does. */
static uint32_t naive_next(const struct kvn_trace *trace, uint32_t r, uint32_t id)
{
    for (r++; r < trace->nr_requests; r++) {
        if (in_request(trace, &trace->requests[r], id)) {
            break;
        }
    }
    return r;
}

struct wish {
    uint32_t next, depth, id;
};

static int by_wish(const void *a, const void *b)
{
    const struct wish *wa = a;
    const struct wish *wb = b;
    if (wa->next != wb->next) {
        return wa->next < wb->next ? -1 : 1;
    }
    return (wa->depth > wb->depth) - (wa->depth < wb->depth);
}

/* After each request all pages here and all of the request are sorted by when they are
 * wanted, and the first `pages` stay. rank is depth + 1. */
static uint64_t naive_optimum(const struct kvn_trace *trace, uint32_t pages)
{
    struct naive naive = naive_make(trace);
    struct wish *wishes = calloc(trace->nr_ids, sizeof(*wishes));
    uint64_t hits = 0;
    assert_non_null(wishes);
    for (uint32_t r = 0; r < trace->nr_requests; r++) {
        const struct kvn_request *request = &trace->requests[r];
        uint32_t nr = 0;
        hits += naive_run(&naive, request);
        for (uint32_t i = 0; i < request->nr_pages; i++) {
            naive.rank[trace->ids[request->first + i]] = i + 1;
        }
        for (uint32_t id = 0; id < trace->nr_ids; id++) {
            uint32_t next =
                naive.rank[id] == 0 ? trace->nr_requests : naive_next(trace, r, id);
            if (next < trace->nr_requests) {
                wishes[nr++] = (struct wish){
                    .next = next, .depth = (uint32_t)naive.rank[id], .id = id};
            }
            naive.rank[id] = 0;
        }
        qsort(wishes, nr, sizeof(*wishes), by_wish);
        for (uint32_t i = 0; i < nr && i < pages; i++) {
            naive.rank[wishes[i].id] = wishes[i].depth;
        }
    }
    free(wishes);
    free(naive.rank);
    return hits;
}

/* ---- generated chats ------------------------------------------------------------- */

static const uint32_t capacities[] = {1, 3, 10, 20, 40, 80, 150, 5000};
enum { NR_CAPACITIES = sizeof(capacities) / sizeof(capacities[0]) };

/* Also with fewer frames than one request has pages: what fits is served. */
static void replay__lru_agrees_with_naive(void **state)
{
    struct kvn_trace trace = generate(&small_shape);
    (void)state;
    for (unsigned i = 0; i < NR_CAPACITIES; i++) {
        struct kvn_replay replay;
        assert_int_equal(
            kvn_replay_pager(&trace, &kvp_evict_lru, capacities[i], &replay, NULL),
            KV_OK);
        assert_int_equal(replay.nr_refs, trace.nr_refs);
        assert_int_equal(replay.hits, naive_lru(&trace, capacities[i]));
        assert_int_equal(replay.unkept > 0, capacities[i] <= 20);
    }
    kvn_trace_free(&trace);
}

static void replay__optimum_agrees_with_naive(void **state)
{
    struct kvn_trace trace = generate(&small_shape);
    (void)state;
    for (unsigned i = 0; i < NR_CAPACITIES; i++) {
        struct kvn_replay replay;
        assert_int_equal(
            kvn_replay_optimum(&trace, capacities[i], &replay, NULL), KV_OK);
        assert_int_equal(replay.hits, naive_optimum(&trace, capacities[i]));
    }
    kvn_trace_free(&trace);
}

/* The bound is a bound; and with room for everything all policies reach it. */
static void replay__no_policy_beats_the_optimum(void **state)
{
    struct kvn_trace trace = generate(&kvn_trace_chats);
    (void)state;
    for (uint32_t pages = 100; pages <= trace.nr_ids * 2; pages *= 4) {
        struct kvn_replay lru, fifo, opt;
        kvn_replay_pager(&trace, &kvp_evict_lru, pages, &lru, NULL);
        kvn_replay_pager(&trace, &kvp_evict_fifo, pages, &fifo, NULL);
        kvn_replay_optimum(&trace, pages, &opt, NULL);
        assert_true(lru.hits <= opt.hits && fifo.hits <= opt.hits);
        assert_true(
            pages < trace.nr_ids
            || (lru.hits == opt.hits && fifo.hits == opt.hits && lru.evicted == 0));
        double rate = kvn_pooled_hit_rate(&trace, pages);
        assert_true(fabs(rate - kvn_replay_rate(&lru)) < 1e-12);
    }
    kvn_trace_free(&trace);
}

static void replay__no_frames_are_refused(void **state)
{
    struct kvn_trace trace = generate(&small_shape);
    struct kvn_replay replay;
    struct kv_detail detail = {0};
    (void)state;
    assert_int_equal(
        kvn_replay_pager(&trace, &kvp_evict_lru, 0, &replay, &detail), KV_ERR_CONFIG);
    assert_non_null(detail.field);
    assert_int_equal(kvn_replay_optimum(&trace, 0, &replay, &detail), KV_ERR_CONFIG);
    assert_true(kvn_pooled_hit_rate(&trace, 0) < 0);
    kvn_trace_free(&trace);
}

static void replay__survives_every_fault(void **state)
{
    struct kvn_trace trace = generate(&small_shape);
    struct kvn_replay replay;
    const int64_t live = kv_mem_live();
    (void)state;
    kv_status_t status = KV_ERR_NOMEM;
    for (uint64_t n = 1; status != KV_OK; n++) {
        kv_fault_after(n);
        status = kvn_replay_pager(&trace, &kvp_evict_lru, 50, &replay, NULL);
        assert_true(status == KV_OK || status == KV_ERR_NOMEM);
        assert_true(kv_mem_live() == live);
    }
    status = KV_ERR_NOMEM;
    for (uint64_t n = 1; status != KV_OK; n++) {
        kv_fault_after(n);
        status = kvn_replay_optimum(&trace, 50, &replay, NULL);
        assert_true(status == KV_OK || status == KV_ERR_NOMEM);
        assert_true(kv_mem_live() == live);
    }
    kv_fault_after(0);
    kvn_trace_free(&trace);
}

/* ---- the real trace -------------------------------------------------------------- */

/* As published with the traces, to a thousandth. FIFO differs a little more where
 * requests are long against the cache: ours keeps a request's own pages while it lasts,
 * which the published one does not. */
static void replay__conversation_has_its_known_rates(void **state)
{
    static const struct {
        uint32_t pages;
        double lru, fifo, opt;
    } known[] = {
        {1000, .0445, .0434, .1907},
        {5000, .1118, .1053, .3412},
        {10000, .2116, .1815, .3664},
        {50000, .3546, .3335, .3664},
    };
    char path[NODE_KIT_PATH_BYTES];
    struct kvn_trace trace;
    struct kvn_trace_error error;
    (void)state;
    if (!node_kit_trace("mooncake/conversation_trace.jsonl", path)) {
        skip();
    }
    assert_int_equal(kvn_trace_load(path, 1, &trace, &error), KV_OK);
    for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        struct kvn_replay lru, fifo, opt;
        kvn_replay_pager(&trace, &kvp_evict_lru, known[i].pages, &lru, NULL);
        kvn_replay_pager(&trace, &kvp_evict_fifo, known[i].pages, &fifo, NULL);
        kvn_replay_optimum(&trace, known[i].pages, &opt, NULL);
        assert_true(fabs(kvn_replay_rate(&lru) - known[i].lru) < .0001);
        assert_true(fabs(kvn_replay_rate(&opt) - known[i].opt) < .0001);
        assert_true(fabs(kvn_replay_rate(&fifo) - known[i].fifo) < .0015);
    }
    kvn_trace_free(&trace);
}

/* ---- the verb -------------------------------------------------------------------- */

static const char three_chats[] =
    "{\"timestamp\":0,\"input_length\":1024,\"output_length\":1,\"hash_ids\":[0,1]}\n"
    "{\"timestamp\":1,\"input_length\":1024,\"output_length\":1,\"hash_ids\":[0,1]}\n"
    "{\"timestamp\":2,\"input_length\":1536,\"output_length\":1,"
    "\"hash_ids\":[0,1,2]}\n";

static void replay_verb__prints_rates(void **state)
{
    char path[NODE_KIT_PATH_BYTES];
    struct node_kit_result result;
    (void)state;
    node_kit_file(three_chats, sizeof(three_chats) - 1, false, path);
    const char *words[] = {"replay",   "--trace", path,     "--pages", "8",
                           "--policy", "lru",     "--json", NULL};
    node_kit_run(kvn_verb_replay, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_non_null(strstr(result.out, "\"pages\": 8"));
    assert_non_null(strstr(result.out, "\"references\": 7"));
    assert_non_null(strstr(result.out, "\"hits\": 4"));
    assert_non_null(strstr(result.out, "\"hit_rate\": 0.571429"));
    assert_null(strstr(result.out, "fifo"));
    words[5] = NULL;
    node_kit_run(kvn_verb_replay, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_non_null(strstr(result.out, "policy"));
    assert_non_null(strstr(result.out, "opt"));
    assert_non_null(strstr(result.out, "0.5714"));
    node_kit_remove(path);
}

static void usage(const char *const *words, const char *line)
{
    struct node_kit_result result;
    node_kit_run(kvn_verb_replay, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_USAGE);
    assert_string_equal(result.err, line);
    assert_string_equal(result.out, "");
}

static void replay_verb__wrong_words_are_refused(void **state)
{
    (void)state;
    usage(
        (const char *[]){"replay", NULL},
        "kvrail replay: --trace: is needed, see --help\n");
    usage(
        (const char *[]){"replay", "--trcae", "x", NULL},
        "kvrail replay: --trcae: no such option, did you mean --trace?\n");
    usage(
        (const char *[]){"replay", "--pages=0", NULL},
        "kvrail replay: --pages: 0 is below the minimum 1\n");
    usage(
        (const char *[]){"replay", "--pages", "many", NULL},
        "kvrail replay: --pages: 'many' is not a whole number from 1 to 67108864\n");
    usage(
        (const char *[]){"replay", "--policy", "best", NULL},
        "kvrail replay: --policy: 'best' is not lru, fifo, opt or all\n");
    usage(
        (const char *[]){"replay", "--json=1", NULL},
        "kvrail replay: --json: takes no value\n");
    usage(
        (const char *[]){"replay", "--trace", NULL},
        "kvrail replay: --trace: needs a value\n");
    usage(
        (const char *[]){"replay", "file", NULL},
        "kvrail replay: file: is no option, see --help\n");
    usage(
        (const char *[]){"replay", "--trace", "/nonexistent/x", NULL},
        "kvrail replay: /nonexistent/x: No such file or directory\n");
}

static void replay_verb__help_lists_options(void **state)
{
    struct node_kit_result result;
    (void)state;
    node_kit_run(kvn_verb_replay, (const char *[]){"replay", "--help", NULL}, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_non_null(strstr(result.out, "--policy NAME"));
    assert_non_null(strstr(result.out, "--trace FILE"));
    assert_string_equal(result.err, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay__lru_agrees_with_naive),
        cmocka_unit_test(replay__optimum_agrees_with_naive),
        cmocka_unit_test(replay__no_policy_beats_the_optimum),
        cmocka_unit_test(replay__no_frames_are_refused),
        cmocka_unit_test(replay__survives_every_fault),
        cmocka_unit_test(replay__conversation_has_its_known_rates),
        cmocka_unit_test(replay_verb__prints_rates),
        cmocka_unit_test(replay_verb__wrong_words_are_refused),
        cmocka_unit_test(replay_verb__help_lists_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
