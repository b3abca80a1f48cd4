/* Goal: both public formats are read as they are meant, and a file that is wrong
 * anywhere is refused with a line that says where. Method: small files; each field
 * wrong in each way; the real traces' known totals where they are at hand. */
#include "node/trace.h"

#include "base/mem.h"
#include "tests/node/node_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kv_status_t load_bytes(
    const char *bytes, size_t len, bool gzip, struct kvn_trace *trace,
    struct kvn_trace_error *error)
{
    char path[NODE_KIT_PATH_BYTES];
    node_kit_file(bytes, len, gzip, path);
    kv_status_t status = kvn_trace_load(path, 1, trace, error);
    /* Messages begin with the path, which the tests do not know: cut it off. */
    if (status != KV_OK) {
        assert_memory_equal(error->line, path, strlen(path));
        memmove(
            error->line, error->line + strlen(path),
            strlen(error->line + strlen(path)) + 1);
    }
    node_kit_remove(path);
    return status;
}

static void load(const char *text, struct kvn_trace *trace)
{
    struct kvn_trace_error error = {""};
    kv_status_t status = load_bytes(text, strlen(text), false, trace, &error);
    if (status != KV_OK) {
        fail_msg("%s", error.line);
    }
}

static void check_ids(
    const struct kvn_trace *trace, uint32_t request, const uint32_t *ids, uint32_t nr)
{
    const struct kvn_request *r = &trace->requests[request];
    assert_int_equal(r->nr_pages, nr);
    assert_memory_equal(trace->ids + r->first, ids, nr * sizeof(*ids));
}

#define CHAT(timestamp, input, ids)                                                    \
    "{\"timestamp\": " timestamp ", \"input_length\": " input                          \
    ", \"output_length\": 5, \"hash_ids\": " ids "}\n"

/* ---- right files ----------------------------------------------------------------- */

static void trace__chats_are_read(void **state)
{
    static const uint32_t first[] = {0, 1}, second[] = {0, 2, 3};
    struct kvn_trace trace;
    (void)state;
    /* Ids become dense, a last line may lack its end, and arrival decides the order. */
    load(
        CHAT("7", "1000", "[50, 9]") "{\"timestamp\": 3, \"input_length\": 1025, "
                                     "\"output_length\": 8, \"more\": {}, "
                                     "\"hash_ids\": [50, 7, 6]}",
        &trace);
    assert_int_equal(trace.page_tokens, 512);
    assert_int_equal(trace.nr_requests, 2);
    assert_int_equal(trace.nr_refs, 5);
    assert_int_equal(trace.nr_ids, 4);
    check_ids(&trace, 0, second, 3);
    check_ids(&trace, 1, first, 2);
    assert_int_equal(trace.requests[0].arrival_us, 3000);
    assert_int_equal(trace.requests[0].output_tokens, 8);
    kvn_trace_free(&trace);
}

static void trace__gzip_is_told_from_its_content(void **state)
{
    static const char text[] = CHAT("0", "512", "[1]") CHAT("1", "513", "[1, 2]");
    struct kvn_trace trace;
    struct kvn_trace_error error;
    (void)state;
    assert_int_equal(load_bytes(text, sizeof(text) - 1, true, &trace, &error), KV_OK);
    assert_int_equal(trace.nr_refs, 3);
    assert_int_equal(trace.nr_ids, 2);
    kvn_trace_free(&trace);
}

#define AGENT(s, t, n, p, l)                                                           \
    "{\"s\":" s ",\"t\":" t ",\"in\":1,\"out\":2,\"n\":" n ",\"p\":" p ",\"l\":" l "}\n"

/* Blocks of 64 tokens are folded into pages of 512: shared is a page whose 8 blocks are
 * all shared, or a last page that both requests cut at the same block. */
static void trace__agent_sessions_are_folded_into_pages(void **state)
{
    struct kvn_trace trace;
    (void)state;
    load(
        AGENT("4", "0.0", "20", "-1", "0") /* pages 0 1 and 2, of 4 blocks */
        AGENT("4", "1.5", "24", "0", "20") /* 0 1 shared, 2 grew: 3 */
        AGENT("4", "2", "20", "0", "20")   /* all of the first again */
        AGENT("4", "3", "20", "0", "19")   /* … but for its last block */
        AGENT("9", "0", "8", "-1", "0")    /* another session shares nothing */
        AGENT("4", "4", "0", "1", "0"),
        &trace);
    assert_int_equal(trace.nr_requests, 6);
    assert_int_equal(trace.nr_ids, 6);
    /* Session 9 starts at a time of its own: find the requests by their pages. */
    static const uint32_t expected[][3] = {{0, 1, 2}, {0, 1, 3}, {0, 1, 2}, {0, 1, 4}};
    uint32_t at = 0;
    for (uint32_t r = 0; r < 6; r++) {
        if (trace.requests[r].nr_pages == 3) {
            check_ids(&trace, r, expected[at++], 3);
        }
    }
    assert_int_equal(at, 4);
    kvn_trace_free(&trace);
}

/* A session's start hangs on the seed and its number, not on the file around it. */
static void trace__sessions_start_by_seed(void **state)
{
    static const char text[] = AGENT("1", "1", "8", "-1", "0");
    char path[NODE_KIT_PATH_BYTES];
    struct kvn_trace a, b, c;
    struct kvn_trace_error error;
    (void)state;
    node_kit_file(text, sizeof(text) - 1, false, path);
    assert_int_equal(kvn_trace_load(path, 1, &a, &error), KV_OK);
    assert_int_equal(kvn_trace_load(path, 1, &b, &error), KV_OK);
    assert_int_equal(kvn_trace_load(path, 2, &c, &error), KV_OK);
    node_kit_remove(path);
    assert_true(a.requests[0].arrival_us == b.requests[0].arrival_us);
    assert_true(a.requests[0].arrival_us != c.requests[0].arrival_us);
    assert_true(a.requests[0].arrival_us <= UINT64_C(8) * 3600 * 1000000 + 1000000);
    kvn_trace_free(&a);
    kvn_trace_free(&b);
    kvn_trace_free(&c);
}

/* ---- wrong files ----------------------------------------------------------------- */

static void refused(const char *text, const char *line)
{
    struct kvn_trace trace;
    struct kvn_trace_error error = {""};
    assert_int_equal(
        load_bytes(text, strlen(text), false, &trace, &error), KV_ERR_CONFIG);
    if (strncmp(error.line, line, strlen(line)) != 0) {
        fail_msg("expected '%s', got '%s'", line, error.line);
    }
    assert_null(strchr(error.line, '\n'));
}

static void trace__bad_chat_is_refused_with_its_place(void **state)
{
    const char *good = CHAT("0", "512", "[1]");
    char text[512];
    (void)state;
    refused("", ": requests: 0 is below the minimum 1");
    refused("{\"timestamp\": 0", ":1: column 15: not JSON: ");
    refused("[]\n", ":1: not a request: ");
    refused("7\n", ":1: column ");
    refused("{\"x\": 1}\n", ":1: not a request: ");
    snprintf(text, sizeof(text), "%s\n%s", good, good);
    refused(text, ":2: column ");
    snprintf(text, sizeof(text), "%s{} {}\n", good);
    refused(text, ":2: column ");
    snprintf(text, sizeof(text), "%s{}\n", good);
    refused(text, ":2: timestamp: is missing");
    refused(CHAT("0.5", "512", "[1]"), ":1: timestamp: is not a whole number");
    refused(CHAT("-1", "512", "[1]"), ":1: timestamp: -1 is below the minimum 0");
    refused(CHAT("0", "-2", "[1]"), ":1: input_length: -2 is below the minimum 0");
    refused(
        CHAT("0", "33554433", "[1]"),
        ":1: input_length: 33554433 is above the maximum 33554432");
    refused(
        CHAT("9300000000000000", "1", "[1]"),
        ":1: timestamp: 9300000000000000 is above the maximum 9223372036854775");
    refused(CHAT("0", "512", "7"), ":1: hash_ids: is not an array");
    refused(CHAT("0", "512", "[\"a\"]"), ":1: hash_ids[0]: is not a whole number");
    refused(CHAT("0", "1024", "[3, -4]"), ":1: hash_ids[1]: -4 is below the minimum 0");
    refused(CHAT("0", "99999999999999999999", "[1]"), ":1: column ");
    refused(
        CHAT("0", "1025", "[1, 2]"),
        ":1: hash_ids: 2 pages, but input_length 1025 makes 3");
    /* An id names its whole prefix: behind another page it would be another page. */
    refused(
        CHAT("0", "1024", "[1, 2]") CHAT("0", "1024", "[3, 2]"),
        ":2: hash_ids[1]: 2 followed another page before");
    refused(
        CHAT("0", "1024", "[1, 1]"), ":1: hash_ids[1]: 1 followed another page before");
    refused(
        "{\"timestamp\": 1, \"timestamp\": 2}", ":1: column "); /* which one is it? */
}

static void trace__bad_agent_session_is_refused_with_its_place(void **state)
{
#define FIRST AGENT("1", "0", "16", "-1", "0")
    (void)state;
    refused(
        "{\"s\":1,\"t\":0,\"in\":1,\"out\":2,\"p\":-1,\"l\":0}", ":1: n: is missing");
    refused("{\"s\":1,\"in\":1,\"out\":2,\"p\":-1,\"l\":0}", ":1: t: is missing");
    refused(AGENT("-1", "0", "1", "-1", "0"), ":1: s: -1 is below the minimum 0");
    refused(AGENT("1", "\"a\"", "1", "-1", "0"), ":1: t: is not a number");
    refused(
        AGENT("1", "-0.5", "1", "-1", "0"), ":1: t: -0.5 is not within 0 and 1e+09");
    refused(AGENT("1", "1e300", "1", "-1", "0"), ":1: t: 1e+300 is not within 0 and");
    refused(
        AGENT("1", "0", "524289", "-1", "0"),
        ":1: n: 524289 is above the maximum 524288");
    refused(AGENT("1", "0", "1", "-2", "0"), ":1: p: -2 is below the minimum -1");
    refused(AGENT("1", "0", "8", "-1", "9"), ":1: l: 9 is above the maximum 8");
    refused(
        AGENT("1", "0", "8", "-1", "1"), ":1: l: 1 is above the maximum 0 for p -1");
    refused(
        FIRST AGENT("1", "0", "16", "1", "0"),
        ":2: p: 1 is above the maximum 0, the session's last request so far");
    refused(
        FIRST AGENT("2", "0", "16", "0", "0"), /* another session's request */
        ":2: p: 0 is above the maximum -1");
    refused(
        FIRST AGENT("1", "0", "32", "0", "17"),
        ":2: l: 17 is above the maximum 16, n of request p");
#undef FIRST
}

static void trace__too_many_pages_are_refused(void **state)
{
    const size_t cap = 1 << 20;
    char *text = malloc(cap);
    assert_non_null(text);
    size_t len = (size_t)snprintf(
        text, cap,
        "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[0");
    (void)state;
    for (unsigned i = 1; i <= KVN_TRACE_PAGES_MAX; i++) {
        len += (size_t)snprintf(text + len, cap - len, ",%u", i);
    }
    snprintf(text + len, cap - len, "]}\n");
    refused(text, ":1: hash_ids: 65537 pages are above the maximum 65536");
    free(text);
}

static void trace__too_long_line_is_refused(void **state)
{
    char *text = malloc(KVN_TRACE_LINE_BYTES_MAX + 2);
    (void)state;
    assert_non_null(text);
    memset(text, ' ', KVN_TRACE_LINE_BYTES_MAX + 1);
    text[KVN_TRACE_LINE_BYTES_MAX + 1] = '\0';
    refused(text, ":1: line: longer than the maximum 2097151 bytes");
    free(text);
}

static void trace__unreadable_file_is_an_io_error(void **state)
{
    static const char text[] = CHAT("0", "512", "[1]") CHAT("1", "513", "[1, 2]");
    char path[NODE_KIT_PATH_BYTES], cut[NODE_KIT_PATH_BYTES], bytes[4096];
    struct kvn_trace trace;
    struct kvn_trace_error error;
    (void)state;
    assert_int_equal(
        kvn_trace_load("/nonexistent/trace", 1, &trace, &error), KV_ERR_IO);
    assert_string_equal(error.line, "/nonexistent/trace: No such file or directory");
    assert_int_equal(kvn_trace_load("/", 1, &trace, &error), KV_ERR_IO);
    /* A gzip stream that was cut off must not pass for a shorter trace. */
    node_kit_file(text, sizeof(text) - 1, true, path);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t len = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    node_kit_remove(path);
    for (size_t keep = 20; keep < len; keep += 7) {
        node_kit_file(bytes, keep, false, cut);
        assert_int_equal(kvn_trace_load(cut, 1, &trace, &error), KV_ERR_IO);
        node_kit_remove(cut);
    }
}

/* ---- generated chats ------------------------------------------------------------- */

static void trace__generated_chats_have_their_shape(void **state)
{
    struct kvn_trace trace, again, other;
    struct kvn_trace_error error;
    struct kvn_trace_shape shape = kvn_trace_chats;
    (void)state;
    assert_int_equal(kvn_trace_generate(&shape, &trace, &error), KV_OK);
    assert_in_range(trace.nr_requests, 1700, 2300);
    assert_in_range(trace.nr_refs, 34000, 46000);
    uint32_t next = 0; /* ids are numbered as they first appear, so they are dense */
    for (uint32_t r = 0; r < trace.nr_requests; r++) {
        const struct kvn_request *request = &trace.requests[r];
        assert_true(r == 0 || request[-1].arrival_us <= request->arrival_us);
        assert_in_range(request->nr_pages, 1, 8 + 9 * 7);
        for (uint32_t i = 0; i < request->nr_pages; i++) {
            uint32_t id = trace.ids[request->first + i];
            assert_true(id <= next);
            next += id == next;
        }
    }
    assert_int_equal(next, trace.nr_ids);

    assert_int_equal(kvn_trace_generate(&shape, &again, &error), KV_OK);
    assert_int_equal(again.nr_refs, trace.nr_refs);
    assert_memory_equal(again.ids, trace.ids, trace.nr_refs * sizeof(*trace.ids));
    shape.seed++;
    assert_int_equal(kvn_trace_generate(&shape, &other, &error), KV_OK);
    assert_true(
        other.nr_refs != trace.nr_refs
        || memcmp(other.ids, trace.ids, trace.nr_refs * sizeof(*trace.ids)) != 0);
    kvn_trace_free(&trace);
    kvn_trace_free(&again);
    kvn_trace_free(&other);
}

static void trace__impossible_shapes_are_refused(void **state)
{
    struct kvn_trace trace;
    struct kvn_trace_error error;
    struct kvn_trace_shape shape = kvn_trace_chats;
    (void)state;
    shape.nr_prompts = 0;
    assert_int_equal(kvn_trace_generate(&shape, &trace, &error), KV_ERR_CONFIG);
    assert_string_equal(error.line, "shape.prompts: 0 is below the minimum 1");
    shape = kvn_trace_chats;
    shape.rounds_max = 10000;
    assert_int_equal(kvn_trace_generate(&shape, &trace, &error), KV_ERR_CONFIG);
    assert_string_equal(
        error.line,
        "shape.rounds times shape.round_pages: 70008 is above the maximum 65536");
    shape = kvn_trace_chats;
    shape.nr_sessions = UINT32_MAX;
    assert_int_equal(kvn_trace_generate(&shape, &trace, &error), KV_ERR_CONFIG);
}

/* ---- keys ------------------------------------------------------------------------ */

static void trace__keys_name_ids(void **state)
{
    struct kvn_trace trace;
    struct kvn_trace_error error;
    kv_keygen_t *gen;
    kv_key_t *keys, key;
    const int64_t live = kv_mem_live();
    (void)state;
    assert_int_equal(kvn_trace_generate(&kvn_trace_chats, &trace, &error), KV_OK);
    assert_int_equal(kvn_trace_keys(&trace, &keys), KV_OK);
    assert_int_equal(kv_keygen_create(&gen), KV_OK);
    for (uint32_t id = 0; id < trace.nr_ids; id += 97) {
        kvn_trace_key(gen, id, &key);
        assert_true(kv_key_equal(&key, &keys[id]));
        assert_false(kv_key_equal(&key, &keys[id == 0 ? 1 : 0]));
    }
    kv_keygen_destroy(gen);
    kv_free(keys);
    kvn_trace_free(&trace);
    assert_true(kv_mem_live() == live);
}

/* ---- the real traces ------------------------------------------------------------- */

static void trace__conversation_has_its_known_totals(void **state)
{
    char path[NODE_KIT_PATH_BYTES];
    struct kvn_trace trace;
    struct kvn_trace_error error;
    (void)state;
    if (!node_kit_trace("mooncake/conversation_trace.jsonl", path)) {
        skip();
    }
    assert_int_equal(kvn_trace_load(path, 1, &trace, &error), KV_OK);
    assert_int_equal(trace.nr_requests, 12031);
    assert_int_equal(trace.nr_refs, 288500);
    assert_int_equal(trace.nr_ids, 182790);
    kvn_trace_free(&trace);
}

static void trace__agent_sessions_have_their_known_totals(void **state)
{
    char path[NODE_KIT_PATH_BYTES];
    struct kvn_trace trace;
    struct kvn_trace_error error;
    (void)state;
    if (!node_kit_trace("claude-code-sessions/sessions.jsonl.gz", path)) {
        skip();
    }
    assert_int_equal(kvn_trace_load(path, 1, &trace, &error), KV_OK);
    assert_int_equal(trace.nr_requests, 24015);
    /* With an endless cache about 96 % hit: what is new is what has a new id. */
    double rate = 1 - (double)trace.nr_ids / trace.nr_refs;
    assert_true(rate > 0.955 && rate < 0.965);
    kvn_trace_free(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trace__chats_are_read),
        cmocka_unit_test(trace__gzip_is_told_from_its_content),
        cmocka_unit_test(trace__agent_sessions_are_folded_into_pages),
        cmocka_unit_test(trace__sessions_start_by_seed),
        cmocka_unit_test(trace__bad_chat_is_refused_with_its_place),
        cmocka_unit_test(trace__bad_agent_session_is_refused_with_its_place),
        cmocka_unit_test(trace__too_many_pages_are_refused),
        cmocka_unit_test(trace__too_long_line_is_refused),
        cmocka_unit_test(trace__unreadable_file_is_an_io_error),
        cmocka_unit_test(trace__generated_chats_have_their_shape),
        cmocka_unit_test(trace__impossible_shapes_are_refused),
        cmocka_unit_test(trace__keys_name_ids),
        cmocka_unit_test(trace__conversation_has_its_known_totals),
        cmocka_unit_test(trace__agent_sessions_have_their_known_totals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
