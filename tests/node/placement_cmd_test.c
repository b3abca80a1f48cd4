/* Goal: `kvrail placement` counts what its page says, and the placement holds its
 * figures on the real trace. Method: a trace small enough to count by hand; the bounds
 * on the real one where it is at hand. */
#include "node/verbs.h"

#include "tests/node/node_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Number after "name": in the JSON. */
static double number_of(const char *json, const char *name)
{
    const char *at = strstr(json, name);
    assert_non_null(at);
    at = strchr(at, ':');
    assert_non_null(at);
    return strtod(at + 1, NULL);
}

static void placement_verb__one_node_is_even(void **state)
{
    static const char text[] =
        "{\"timestamp\":0,\"input_length\":1024,\"output_length\":1,\"hash_ids\":[0,1]}"
        "\n";
    char path[NODE_KIT_PATH_BYTES];
    struct node_kit_result result;
    (void)state;
    node_kit_file(text, sizeof(text) - 1, false, path);
    const char *words[] = {"placement", "--trace", path, "--nodes",
                           "1",         "--json",  NULL};
    node_kit_run(kvn_verb_placement, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_string_equal(
        result.out, "{\n  \"nodes\": 1,\n  \"max_mean\": {\n    \"entries\": 1.0,\n"
                    "    \"bytes\": 1.0,\n    \"lookups\": 1.0\n  }\n}\n");
    /* Two nodes: both are homes of every page; each of the two segments is looked up
     * once, so look-ups are even (1.0) or all at one node (2.0, asked once: 1 of 1). */
    words[4] = "2";
    node_kit_run(kvn_verb_placement, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_true(number_of(result.out, "\"entries\"") == 1);
    assert_true(number_of(result.out, "\"bytes\"") == 1);
    double lookups = number_of(result.out, "\"lookups\"");
    assert_true(lookups == 1 || lookups == 2);
    words[5] = NULL;
    node_kit_run(kvn_verb_placement, words, &result);
    assert_non_null(strstr(result.out, "lookups"));
    node_kit_remove(path);
}

/* No home may become the place where everybody asks and everything is listed. */
static void placement_verb__is_even_on_the_real_trace(void **state)
{
    static const struct {
        const char *nodes;
        double bound;
    } known[] = {{"3", 1.10}, {"8", 1.15}, {"100", 1.5}};
    char path[NODE_KIT_PATH_BYTES];
    struct node_kit_result result;
    (void)state;
    if (!node_kit_trace("mooncake/conversation_trace.jsonl", path)) {
        skip();
    }
    for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const char *words[] = {"placement",    "--trace", path, "--nodes",
                               known[i].nodes, "--json",  NULL};
        node_kit_run(kvn_verb_placement, words, &result);
        assert_int_equal(result.exit_code, KVN_EXIT_OK);
        assert_true(number_of(result.out, "\"entries\"") <= known[i].bound);
        assert_true(number_of(result.out, "\"bytes\"") <= known[i].bound);
        assert_true(number_of(result.out, "\"lookups\"") <= known[i].bound);
    }
}

static void usage(const char *const *words, const char *line)
{
    struct node_kit_result result;
    node_kit_run(kvn_verb_placement, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_USAGE);
    assert_string_equal(result.err, line);
}

static void placement_verb__wrong_words_are_refused(void **state)
{
    (void)state;
    usage(
        (const char *[]){"placement", "--nodes", "1025", NULL},
        "kvrail placement: --nodes: 1025 is above the maximum 1024\n");
    usage(
        (const char *[]){"placement", "--page-tokens", "0", NULL},
        "kvrail placement: --page-tokens: 0 is below the minimum 1\n");
    usage(
        (const char *[]){"placement", "--balance", "odd", NULL},
        "kvrail placement: --balance: 'odd' is not even\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placement_verb__one_node_is_even),
        cmocka_unit_test(placement_verb__is_even_on_the_real_trace),
        cmocka_unit_test(placement_verb__wrong_words_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
