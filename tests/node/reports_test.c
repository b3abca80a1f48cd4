/* Goal: a report is whole or there is none: JSON at its largest, within its bound,
 * sealed; the n-th call that fails leaves no descriptor and no memory; who asks too
 * often waits, the operator last; and whatever a name holds, the text stays JSON.
 * Method: a real node of this process with as many tenants, spaces and members as a
 * configuration may have, asked without its socket; jansson reads what it says. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/json.h"
#include "node/daemon/node_priv.h"
#include "node/ring.h"
#include "tests/base/process_kit.h"
#include "tests/node/cluster_kit.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MEMBERS = 200, FAULTS_MAX = 20 };

static struct kvn_config *config;
static uv_loop_t loop;
static kvn_node_t *node;

/* ------------------------------------------------------------------ the kit */

/* Every list as long as it may be, every text as long and as strange. */
static void config_write(FILE *file)
{
    char text[120];
    memset(text, '"', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    fprintf(
        file, "[cluster]\nname = a \"b\" \\c \xc3\xa9\nnode = 7\n[tls]\nclear = yes\n"
              "[listen]\naddress = 127.0.0.1:0\n[pager]\ndevice_bytes = 64MiB\n"
              "host_bytes = 64MiB\n[directory]\nentries = 1024\n");
    for (unsigned i = 1; i <= MEMBERS; i++) {
        fprintf(file, "[node \"%u\"]\naddress = 127.0.0.1:%u\n", i, i);
    }
    for (unsigned i = 0; i < KVP_TENANTS_MAX; i++) {
        fprintf(
            file, "[tenant \"%u\"]\nsecret = 00112233445566778899aabbccddeeff\n",
            4000000000u + i);
    }
    for (unsigned i = 0; i < KVN_CONFIG_SPACES_MAX; i++) {
        fprintf(
            file,
            "[space \"s%u\"]\nmodel = %s\nrevision = %s\ntag = %s\nformat = %s\n"
            "page_tokens = 8\npage_bytes = 1KiB\nlayout = %u\n",
            i, text, text, text, text, i);
    }
}

static int node_start(void **state)
{
    char path[] = "/tmp/kvrail-reports-XXXXXX", line[KVN_NODE_LINE_BYTES];
    (void)state;
    const int fd = mkstemp(path);
    FILE *file = fdopen(fd, "w");
    KV_ASSERT(file != NULL);
    config_write(file);
    fclose(file);
    config = cluster_kit_load(path);
    unlink(path);
    KV_ASSERT(uv_loop_init(&loop) == 0);
    if (kvn_node_start(&loop, config, &node, line, sizeof(line)) != KV_OK) {
        fprintf(stderr, "%s\n", line);
        return -1;
    }
    return 0;
}

static int node_stop(void **state)
{
    (void)state;
    kvn_node_stop(node, NULL, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    KV_ASSERT(uv_loop_close(&loop) == 0);
    kvn_config_free(config);
    return 0;
}

static const struct kvn_local_asker everything = {
    .operates = true, .tenants = UINT64_MAX};

static struct kvn_packet_ask question(enum kvn_ask_what what)
{
    struct kvn_packet_ask ask = {.what = what};
    if (what == KVN_ASK_EXPLAIN) {
        ask.flags = KVN_ASK_TENANT;
        snprintf(ask.space, sizeof(ask.space), "s3");
    }
    return ask;
}

static uint64_t longest_us; /* that a report has stopped the loop */
static const uint32_t tenant_of_explain = 4000000005u;

/* Credit for one report more, without the time it takes. */
static void credit(void)
{
    kvn_reports_close(node->reports);
    node->reports = kvn_reports_open();
    assert_non_null(node->reports);
}

/* The report as JSON; checks length, seals and that nothing is left open. */
static json_t *
take(const struct kvn_local_asker *asker, const struct kvn_packet_ask *ask)
{
    struct kv_detail detail = {0};
    uint64_t bytes = 0;
    int fd = -1;
    credit();
    const uint64_t start = kvn_node_now(node);
    assert_int_equal(
        kvn_node_ask(node, asker, tenant_of_explain, ask, &fd, &bytes, &detail), KV_OK);
    const uint64_t took_us = kvn_node_now(node) - start;
    longest_us = took_us > longest_us ? took_us : longest_us;
    assert_int_equal(lseek(fd, 0, SEEK_END), bytes);
    assert_true(bytes <= KVN_REPORT_BYTES_MAX);
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    assert_int_equal(fcntl(fd, F_GET_SEALS), seals);
    char *text = malloc(bytes);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, bytes, 0), bytes);
    json_t *json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    close(fd);
    assert_true(json_is_object(json));
    return json;
}

/* ------------------------------------------------------------------ the writer */

static void json__escapes_what_a_name_may_hold(void **state)
{
    char text[4096], name[256];
    struct kvn_json json;
    (void)state;
    for (int c = 1; c < 256; c++) {
        name[c - 1] = (char)c;
    }
    name[255] = '\0';
    kvn_json_init(&json, text, sizeof(text));
    kvn_json_open(&json, NULL, '{');
    kvn_json_text(&json, name, name);
    kvn_json_open(&json, "list", '[');
    kvn_json_number(&json, NULL, UINT64_MAX >> 1);
    kvn_json_none(&json, NULL);
    kvn_json_flag(&json, NULL, true);
    kvn_json_hex64(&json, NULL, 0x1234);
    kvn_json_hex(&json, NULL, "\x01\xff", 2);
    kvn_json_open(&json, NULL, '{');
    kvn_json_close(&json);
    kvn_json_close(&json);
    kvn_json_close(&json);
    assert_false(json.full);
    json_t *root = json_loadb(text, json.len, 0, NULL);
    assert_non_null(root);
    const json_t *list = json_object_get(root, "list");
    assert_int_equal(json_object_size(root), 2);
    assert_int_equal(json_array_size(list), 6);
    assert_int_equal(json_integer_value(json_array_get(list, 0)), UINT64_MAX >> 1);
    assert_string_equal(json_string_value(json_array_get(list, 3)), "0000000000001234");
    assert_string_equal(json_string_value(json_array_get(list, 4)), "01ff");
    json_decref(root);
}

/* What is text stays as it is; what is none becomes U+FFFD, byte by byte. */
static void json__keeps_text_and_replaces_what_is_none(void **state)
{
#define NONE "\xef\xbf\xbd"
    static const struct {
        const char *name, *text;
    } cases[] = {
        {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", NULL},
        {"\xee\x80\x80\xf4\x8f\xbf\xbf", NULL},
        {"\xc0\x80", NONE NONE},                   /* overlong */
        {"\xe0\x80\xa9", NONE NONE NONE},          /* overlong */
        {"\xed\xa0\x80", NONE NONE NONE},          /* a surrogate */
        {"\xf4\x90\x80\x80", NONE NONE NONE NONE}, /* past the last */
        {"a\xe2\x82", "a" NONE NONE},              /* cut off */
        {"\xe2\x82g\xff", NONE NONE "g" NONE},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[128];
        struct kvn_json json;
        kvn_json_init(&json, text, sizeof(text));
        kvn_json_open(&json, NULL, '[');
        kvn_json_text(&json, NULL, cases[i].name);
        kvn_json_close(&json);
        json_t *root = json_loadb(text, json.len, 0, NULL);
        assert_non_null(root);
        assert_string_equal(
            json_string_value(json_array_get(root, 0)),
            cases[i].text != NULL ? cases[i].text : cases[i].name);
        json_decref(root);
    }
}

static void json__writes_nothing_past_its_end(void **state)
{
    char text[64];
    struct kvn_json json;
    (void)state;
    for (size_t cap = 0; cap < sizeof(text); cap++) {
        memset(text, 'x', sizeof(text));
        kvn_json_init(&json, text, cap);
        kvn_json_open(&json, NULL, '{');
        kvn_json_text(&json, "name", "\"value\"");
        kvn_json_number(&json, "n", 12345);
        kvn_json_close(&json);
        assert_int_equal(json.full, cap < 30);
        assert_true(json.len <= cap);
        for (size_t i = cap; i < sizeof(text); i++) {
            assert_int_equal(text[i], 'x');
        }
    }
}

/* ------------------------------------------------------------------ reports */

static void report__at_its_largest_is_whole_and_within_its_bound(void **state)
{
    (void)state;
    struct kvn_packet_ask ask = question(KVN_ASK_STATUS);
    json_t *status = take(&everything, &ask);
    assert_int_equal(
        json_array_size(json_object_get(status, "tenants")), KVP_TENANTS_MAX);
    assert_string_equal(
        json_string_value(json_object_get(status, "cluster")), "a \"b\" \\c \xc3\xa9");
    json_decref(status);
    ask = question(KVN_ASK_SPACES);
    json_t *spaces = take(&everything, &ask);
    assert_int_equal(
        json_array_size(json_object_get(spaces, "spaces")), KVN_CONFIG_SPACES_MAX);
    json_decref(spaces);
    ask = question(KVN_ASK_EXPLAIN);
    json_decref(take(&everything, &ask));
    uint32_t told = 0;
    for (ask = question(KVN_ASK_PEERS); ask.first < MEMBERS - 1;) {
        json_t *peers = take(&everything, &ask);
        const size_t nr = json_array_size(json_object_get(peers, "peers"));
        assert_true(nr > 0 && nr <= KVN_REPORT_ITEMS_MAX);
        for (size_t i = 0; i < nr; i++, told++) { /* all but node 7, in order */
            const json_t *peer = json_array_get(json_object_get(peers, "peers"), i);
            assert_int_equal(
                json_integer_value(json_object_get(peer, "node")),
                told < 6 ? told + 1 : told + 2);
        }
        ask.first += (uint32_t)nr;
        json_decref(peers);
    }
    assert_int_equal(told, MEMBERS - 1);
    print_message("the longest of them took %llu us\n", (unsigned long long)longest_us);
    assert_true(longest_us < 250000); /* of a loaded machine, with sanitizers */
}

static void report__survives_every_fault(void **state)
{
    (void)state;
    for (enum kvn_ask_what what = KVN_ASK_STATUS; what < KVN_NR_ASKS; what++) {
        const struct kvn_packet_ask ask = question(what);
        kv_status_t status = KV_ERR_NOMEM;
        unsigned n = 0;
        while (status != KV_OK) {
            struct kv_detail detail = {0};
            uint64_t bytes = 0;
            int fd = -1;
            credit();
            const struct process_kit_held before = process_kit_held();
            kv_fault_after(++n);
            status = kvn_node_ask(
                node, &everything, tenant_of_explain, &ask, &fd, &bytes, &detail);
            kv_fault_after(0);
            assert_int_equal(status == KV_OK, fd >= 0);
            assert_true(status == KV_OK || status == KV_ERR_NOMEM);
            if (fd >= 0) {
                close(fd);
            }
            process_kit_expect_held(&before);
            assert_true(n < FAULTS_MAX);
        }
        assert_int_equal(n - 1, 2); /* memfd_create, and its bytes and seals */
    }
}

static void report__tells_nobody_what_is_not_his(void **state)
{
    const struct kvn_local_asker one = {.tenants = 1 << 5}, other = {.tenants = 1 << 6};
    struct kv_detail detail = {0};
    uint64_t bytes;
    int fd = -1;
    (void)state;
    credit();
    const enum kvn_ask_what operators[] = {KVN_ASK_STATUS, KVN_ASK_PEERS};
    for (unsigned i = 0; i < 2; i++) {
        const struct kvn_packet_ask ask = question(operators[i]);
        assert_int_equal(
            kvn_node_ask(node, &one, 0, &ask, &fd, &bytes, &detail), KV_ERR_DENIED);
    }
    const struct kvn_packet_ask explain = question(KVN_ASK_EXPLAIN);
    json_decref(take(&one, &explain));
    assert_int_equal(
        kvn_node_ask(node, &other, tenant_of_explain, &explain, &fd, &bytes, &detail),
        KV_ERR_DENIED);
    assert_int_equal(
        kvn_node_ask(node, &other, 17, &explain, &fd, &bytes, &detail), KV_ERR_DENIED);
    const struct kvn_packet_ask list = question(KVN_ASK_SPACES);
    json_t *spaces = take(&one, &list);
    const json_t *tenants = json_object_get(spaces, "tenants");
    assert_int_equal(json_array_size(tenants), 1);
    assert_int_equal(
        json_integer_value(json_object_get(json_array_get(tenants, 0), "id")),
        tenant_of_explain);
    json_decref(spaces);
    assert_int_equal(fd, -1);
}

/* The clock stands still between two turns of the loop only in theory: so many more may
 * have been earned meanwhile. */
static unsigned asked_until_again(const struct kvn_local_asker *asker)
{
    const struct kvn_packet_ask ask = question(KVN_ASK_SPACES);
    for (unsigned n = 0;; n++) {
        struct kv_detail detail = {0};
        uint64_t bytes;
        int fd = -1;
        kv_status_t status = kvn_node_ask(node, asker, 0, &ask, &fd, &bytes, &detail);
        if (status != KV_OK) {
            assert_int_equal(status, KV_ERR_AGAIN);
            assert_string_equal(detail.field, "reports.a_second");
            assert_int_equal(fd, -1);
            return n;
        }
        close(fd);
        assert_true(n < 10 * KVN_REPORTS_BURST);
    }
}

static void report__is_not_made_more_often_than_its_bound(void **state)
{
    const struct kvn_local_asker tenant = {.tenants = 1};
    (void)state;
    credit();
    const uint64_t start = kvn_node_now(node);
    const unsigned first = asked_until_again(&tenant);
    const unsigned then = asked_until_again(&everything);
    const uint64_t earned =
        (kvn_node_now(node) - start) * KVN_REPORTS_A_SECOND / 1000000 + 1;
    assert_in_range(first, KVN_REPORTS_BURST / 2, KVN_REPORTS_BURST / 2 + earned);
    assert_in_range(then, KVN_REPORTS_BURST / 2, KVN_REPORTS_BURST / 2 + earned);
    assert_int_equal(asked_until_again(&tenant), 0);
    usleep(3 * 1000000 / KVN_REPORTS_A_SECOND);
    assert_true(asked_until_again(&everything) >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json__escapes_what_a_name_may_hold),
        cmocka_unit_test(json__keeps_text_and_replaces_what_is_none),
        cmocka_unit_test(json__writes_nothing_past_its_end),
        cmocka_unit_test(report__at_its_largest_is_whole_and_within_its_bound),
        cmocka_unit_test(report__survives_every_fault),
        cmocka_unit_test(report__tells_nobody_what_is_not_his),
        cmocka_unit_test(report__is_not_made_more_often_than_its_bound),
    };
    return cmocka_run_group_tests(tests, node_start, node_stop);
}
