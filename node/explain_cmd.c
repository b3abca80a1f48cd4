/* kvrail explain: where one page is, and why it would hit or miss. */
#include "node/ask.h"
#include "node/pages.h"
#include "node/report.h"
#include "node/verbs.h"

#include "base/miss.h"
#include "base/option.h"
#include "cluster/placement.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum flag {
    FLAG_SOCKET,
    FLAG_CONFIG,
    FLAG_SPACE,
    FLAG_TENANT,
    FLAG_GROUP,
    FLAG_TOKENS,
    FLAG_KEY,
    FLAG_PAGE,
    FLAG_LOCAL,
    FLAG_TIMEOUT,
    FLAG_JSON,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_SOCKET] = KVN_FLAG_SOCKET,
    [FLAG_CONFIG] = KVN_FLAG_CONFIG,
    [FLAG_SPACE] = {"space", "NAME", "of the node's configuration (the only one)"},
    [FLAG_TENANT] = {"tenant", "ID", "whose page it is (the only one)"},
    [FLAG_GROUP] = KVN_FLAG_GROUP,
    [FLAG_TOKENS] = KVN_FLAG_TOKENS,
    [FLAG_KEY] = KVN_FLAG_KEY,
    [FLAG_PAGE] = {"page", "N", "with --tokens: of the prefix, from 0 (the last)"},
    [FLAG_LOCAL] = {"local", NULL, "ask this node alone, look nothing up"},
    [FLAG_TIMEOUT] = {"timeout-ms", "N", "of the question and of the look-up (5000)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "explain",
    .summary =
        "Says where one page is and what would become of a GET for it: this node's\n"
        "copy, the homes of its segment, who holds it as far as this node lists it,\n"
        "and what a look-up through the cluster answers. KEY is 64 hex digits; --key\n"
        "and --tokens make it instead, which needs the right to speak as the tenant.\n"
        "The node's own user, root, and the tenant's users may ask. Nothing is\n"
        "changed by asking, but that the look-up is counted as a request.\n\n"
        "exit status: 0; 1 no answer, or not for this user; 2 wrong options.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
    .word = "[KEY]",
};

struct run {
    struct kvn_ask_where where;
    struct kvn_pages_options options;
    const char *word;
    bool local, json;
    struct kvn_ask ask;
    struct kvn_pages pages;
    json_t *report;
    char line[KVN_ASK_LINE_BYTES];
};

/* ---- options --------------------------------------------------------------------- */

static bool take_flag(struct run *run, int flag, const char *value)
{
    switch ((enum flag)flag) {
    case FLAG_LOCAL:
        run->local = true;
        return true;
    case FLAG_JSON:
        run->json = true;
        return true;
    case NR_FLAGS:
        if (run->word != NULL) {
            (void)kvn_cli_refuse(&cli, "%s: one KEY is enough", value);
            return false;
        }
        run->word = value;
        return true;
    default:
        return kvn_pages_flag(&cli, flag, value, &run->where, &run->options);
    }
}

static int parse(struct run *run, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        if (!take_flag(run, flag, value)) {
            return KVN_EXIT_USAGE;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag != KVN_CLI_END) {
        return *done_p ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    const struct kvn_pages_options *options = &run->options;
    if ((run->word != NULL) + (options->tokens != NULL) + (options->key != NULL) != 1) {
        return kvn_cli_refuse(
            &cli, "KEY, --key TEXT or --tokens FILE: one of the three");
    }
    return kvn_ask_where(&cli, &run->where);
}

/* ---- what is asked --------------------------------------------------------------- */

static int key_of_word(struct run *run)
{
    size_t bytes = 0;
    kv_key_t *key = &run->ask.record.key;
    const size_t len = strlen(run->word);
    if (len != 2 * KV_KEY_BYTES
        || kv_parse_hex(run->word, len, key->b, sizeof(key->b), &bytes) != KV_OK) {
        return kvn_cli_refuse(
            &cli, "%.80s: is not %d hex digits: --key makes a key of a name", run->word,
            2 * KV_KEY_BYTES);
    }
    return KVN_EXIT_OK;
}

/* From a name or tokens, with the tenant's salt. */
static int key_of_pages(struct run *run)
{
    struct kvn_pages *pages = &run->pages;
    const kv_status_t status =
        kvn_pages_open(&run->options, pages, run->line, sizeof(run->line));
    if (status != KV_OK) {
        return kvn_ask_failed(&cli, status, run->line);
    }
    if (run->options.page == KVN_PAGES_ALL) {
        pages->from = pages->until - 1;
    }
    const size_t page = pages->from;
    const size_t opens =
        pages->chained ? kvc_segment_at((uint32_t)page, pages->space.page_tokens).first
                       : page;
    memcpy(run->ask.record.key.b, pages->keys[page].bytes, KVR_KEY_BYTES);
    memcpy(run->ask.record.segment.b, pages->keys[opens].bytes, KVR_KEY_BYTES);
    run->ask.record.flags |= KVN_ASK_SEGMENT;
    return KVN_EXIT_OK;
}

static int ask(struct run *run)
{
    struct kvn_packet_ask *record = &run->ask.record;
    if (run->options.space != NULL) {
        if (strlen(run->options.space) >= sizeof(record->space)) {
            return kvn_cli_refuse(
                &cli, "--space: a name of %zu characters, the limit is %zu",
                strlen(run->options.space), sizeof(record->space) - 1);
        }
        memcpy(record->space, run->options.space, strlen(run->options.space));
    }
    if (run->options.tenant != UINT64_MAX) {
        record->flags |= KVN_ASK_TENANT;
        run->ask.tenant = (uint32_t)run->options.tenant;
    }
    record->what = KVN_ASK_EXPLAIN;
    record->group = (uint32_t)run->options.group;
    run->ask.socket = run->where.path;
    run->ask.timeout_us = run->options.timeout_ms * 1000;
    const kv_status_t status =
        kvn_ask(&run->ask, &run->report, run->line, sizeof(run->line));
    return status == KV_OK ? KVN_EXIT_OK : kvn_ask_failed(&cli, status, run->line);
}

/* ---- the look-up ----------------------------------------------------------------- */

/* A client for the key of a word: as the tenant and the space of the answer. */
static kv_status_t open_for_word(struct run *run)
{
    struct kvn_pages_options options = run->options;
    const char *space = json_string_value(json_object_get(run->report, "space"));
    options.space = space != NULL ? space : "";
    options.tenant = kvn_ask_number(run->report, "tenant");
    options.key = "-"; /* a place for the key that there is */
    kv_status_t status =
        kvn_pages_open(&options, &run->pages, run->line, sizeof(run->line));
    if (status == KV_OK) {
        memcpy(run->pages.keys[0].bytes, run->ask.record.key.b, KVR_KEY_BYTES);
    }
    return status;
}

/* EXISTS, as an engine would ask: here, then at the homes. */
static void look_up(struct run *run)
{
    json_t *lookup = json_object();
    struct kvr_result result;
    kv_status_t status = KV_OK;
    if (run->pages.client == NULL) {
        status = open_for_word(run);
    }
    if (status == KV_OK) {
        status = kvn_pages_batch(
            &run->pages, KVR_OP_EXISTS, run->pages.from, 1, &result, run->line,
            sizeof(run->line));
    }
    if (status != KV_OK) {
        json_object_set_new(lookup, "status", json_string(kv_status_name(status)));
        json_object_set_new(lookup, "error", json_string(run->line));
    } else {
        json_object_set_new(
            lookup, "status", json_string(kvr_status_name(result.statuses[0])));
        if (result.statuses[0] == KVR_OK) {
            json_object_set_new(
                lookup, "place", json_string(kvn_place_name(result.places[0])));
        } else if (result.statuses[0] == KVR_MISS) {
            json_object_set_new(
                lookup, "reason", json_string(kvr_miss_name(result.reasons[0])));
        }
    }
    json_object_set_new(run->report, "lookup", lookup);
}

/* ---- for people ------------------------------------------------------------------ */

static const char *miss_text(const char *reason)
{
    static const struct {
        const char *name, *text;
    } misses[] = {
#define X(symbol, name, text) {name, text},
        KV_MISS_MAP(X)
#undef X
    };
    for (unsigned i = 0; i < sizeof(misses) / sizeof(misses[0]); i++) {
        if (strcmp(misses[i].name, reason) == 0) {
            return misses[i].text;
        }
    }
    return reason;
}

static void print_here(const json_t *r)
{
    size_t i;
    json_t *copy;
    json_array_foreach(json_object_get(r, "here"), i, copy)
    {
        char bytes[KVN_TEXT_BYTES], unused[KVN_TEXT_BYTES];
        printf(
            "%-10s %s: %s%s, %" PRIu64 " tokens, %s, digest %s\n"
            "%-10s frame %" PRIu64 ", generation %" PRIu64
            ", unused for %s; references "
            "%" PRIu64 ", pins %" PRIu64 ", grants %" PRIu64 ", orders %" PRIu64
            "%s%s\n",
            i == 0 ? "here" : "", kvn_ask_text(copy, "tier"),
            kvn_ask_text(copy, "state"), kvn_ask_true(copy, "tail") ? ", a tail" : "",
            kvn_ask_number(copy, "tokens"),
            kvn_text_bytes(kvn_ask_number(copy, "bytes"), bytes),
            kvn_ask_text(copy, "digest"), "", kvn_ask_number(copy, "frame"),
            kvn_ask_number(copy, "generation"),
            kvn_text_time(kvn_ask_number(copy, "unused_us"), unused),
            kvn_ask_number(copy, "references"), kvn_ask_number(copy, "pins"),
            kvn_ask_number(copy, "grants"), kvn_ask_number(copy, "orders"),
            kvn_ask_true(copy, "spilled") ? "; came by spill" : "",
            kvn_ask_true(copy, "cool") ? "; a peer has it, goes first" : "");
    }
    if (i == 0) {
        const bool evicted = strcmp(kvn_ask_text(r, "absent"), "evicted") == 0;
        printf(
            "%-10s no%s\n", "here",
            evicted ? ": it was here lately, and was dropped for room" : "");
    }
}

static void print_nodes(const json_t *nodes)
{
    size_t i;
    json_t *node;
    json_array_foreach(nodes, i, node)
    {
        const bool self = kvn_ask_true(node, "self");
        printf(
            "%snode %" PRIu64 " (%s%s%s)", i > 0 ? ", " : "",
            kvn_ask_number(node, "node"),
            self ? "this one" : kvn_ask_text(node, "link"), self ? "" : ", ",
            self ? "" : kvn_ask_text(node, "life"));
    }
    printf("%s\n", i == 0 ? "nobody" : "");
}

static void print_homes(const json_t *r)
{
    const json_t *segment = json_object_get(r, "segment");
    const json_t *dir = json_object_get(r, "directory");
    const char *from = kvn_ask_text(segment, "from");
    printf(
        "%-10s opened by %s%s\n", "segment", kvn_ask_text(segment, "key"),
        strcmp(from, "assumed") == 0
            ? " (assumed: the key itself; --tokens knows better)"
            : "");
    printf("%-10s ", "homes");
    print_nodes(json_object_get(r, "homes"));
    printf("%-10s ", "directory");
    if (json_is_object(dir)) {
        printf("%sheld by ", kvn_ask_true(dir, "cold") ? "cold; " : "");
        print_nodes(json_object_get(dir, "holders"));
    } else {
        printf("this node is no home: its homes list the holders\n");
    }
}

static void print_lookup(const json_t *r)
{
    const json_t *lookup = json_object_get(r, "lookup");
    const char *reason = json_string_value(json_object_get(lookup, "reason"));
    const char *error = json_string_value(json_object_get(lookup, "error"));
    if (lookup == NULL) {
        return;
    }
    printf("%-10s ", "look-up");
    if (error != NULL) {
        printf("not done: %s\n", error);
    } else if (reason != NULL) {
        printf("miss, %s: %s\n", reason, miss_text(reason));
    } else {
        printf(
            "%s, %s\n", kvn_ask_text(lookup, "status"), kvn_ask_text(lookup, "place"));
    }
}

static void print_verdict(const json_t *r)
{
    const json_t *verdict = json_object_get(r, "verdict");
    const char *would = kvn_ask_text(verdict, "would");
    const uint64_t node = kvn_ask_number(verdict, "node");
    printf("%-10s ", "so");
    if (strcmp(would, "hit") == 0) {
        const json_t *copy = json_array_get(json_object_get(r, "here"), 0);
        printf("a GET hits here, in %s memory\n", kvn_ask_text(copy, "tier"));
    } else if (strcmp(would, "fetch") == 0) {
        printf(
            "a GET fetches it from node %" PRIu64 " by %s\n", node,
            kvn_ask_text(verdict, "transport"));
    } else if (strcmp(would, "ask") == 0) {
        printf("a GET asks node %" PRIu64 ", its home, who holds it\n", node);
    } else {
        const char *reason = kvn_ask_text(verdict, "reason");
        printf("a GET misses, %s: %s\n", reason, miss_text(reason));
    }
}

static void print(const json_t *r)
{
    printf(
        "key %s\ntenant %" PRIu64 ", space \"%s\", group %" PRIu64
        ", asked at node %" PRIu64 "\n\n",
        kvn_ask_text(r, "key"), kvn_ask_number(r, "tenant"), kvn_ask_text(r, "space"),
        kvn_ask_number(r, "group"), kvn_ask_number(r, "node"));
    print_here(r);
    print_homes(r);
    print_lookup(r);
    print_verdict(r);
}

/* ---- whole ----------------------------------------------------------------------- */

static int run_all(struct run *run)
{
    run->options.socket = run->where.path;
    int exit_code = run->word != NULL ? key_of_word(run) : key_of_pages(run);
    if (exit_code == KVN_EXIT_OK) {
        exit_code = ask(run);
    }
    if (exit_code == KVN_EXIT_OK) {
        if (!run->local) {
            look_up(run);
        }
        if (run->json) {
            exit_code = kvn_report_json(json_incref(run->report), NULL);
        } else {
            print(run->report);
        }
    }
    json_decref(run->report);
    kvn_pages_close(&run->pages);
    return exit_code;
}

int kvn_verb_explain(int argc, char **argv)
{
    struct run run = {
        .options =
            {
                .tenant = UINT64_MAX,
                .page = KVN_PAGES_ALL,
                .timeout_ms = KVN_PAGES_TIMEOUT_MS,
            },
    };
    bool done = false;
    const int exit_code = parse(&run, argc, argv, &done);
    return exit_code != KVN_EXIT_OK || done ? exit_code : run_all(&run);
}
