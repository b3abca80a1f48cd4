/* Goal: `kvrail bench core` measures every figure and says so in the agreed shape.
 * Method: small sizes, one or two runs; no time is asserted, because a test machine has
 * other work too. What a figure means is said in docs/measurements.md. */
#include "node/bench.h"
#include "node/verbs.h"

#include "tests/node/node_kit.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Each row has what a reader of the JSON relies on; returns its name. */
static const char *row_check(const json_t *row, int runs)
{
    const json_t *spread = json_object_get(row, "spread");
    const double ratio = json_real_value(json_object_get(row, "ratio"));
    assert_true(json_is_string(json_object_get(row, "name")));
    assert_true(json_is_string(json_object_get(row, "unit")));
    assert_true(json_is_string(json_object_get(row, "against")));
    assert_true(json_real_value(json_object_get(row, "value")) > 0);
    assert_true(json_real_value(json_object_get(row, "reference")) > 0);
    assert_int_equal(json_integer_value(json_object_get(row, "runs")), runs);
    assert_int_equal(json_array_size(spread), 2);
    assert_true(json_real_value(json_array_get(spread, 0)) <= ratio);
    assert_true(json_real_value(json_array_get(spread, 1)) >= ratio);
    assert_true(ratio > 0);
    const json_t *target = json_object_get(row, "target");
    if (target != NULL) {
        assert_true(json_is_string(target));
        assert_true(json_is_boolean(json_object_get(row, "held")));
    }
    return json_string_value(json_object_get(row, "name"));
}

static json_t *bench_json(const char *const *words)
{
    struct node_kit_result result;
    node_kit_run(kvn_verb_bench, words, &result);
    assert_string_equal(result.err, "");
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    json_t *rows = json_loads(result.out, 0, NULL);
    assert_non_null(rows);
    assert_true(json_is_array(rows));
    return rows;
}

/* A figure that is forgotten would look like one that needs no watching. */
static void bench_verb__measures_every_figure_in_order(void **state)
{
    (void)state;
    json_t *rows = bench_json(
        (const char *[]){"bench", "core", "--quick", "--runs", "2", "--json", NULL});
    assert_int_equal(json_array_size(rows), KVN_NR_BENCHES);
    for (unsigned i = 0; i < KVN_NR_BENCHES; i++) {
        assert_string_equal(
            row_check(json_array_get(rows, i), 2), kvn_bench_descs[i].name);
    }
    json_decref(rows);
}

static void bench_verb__only_measures_one(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KVN_NR_BENCHES; i++) {
        const char *name = kvn_bench_descs[i].name;
        json_t *rows = bench_json((const char *[]){
            "bench", "core", "--quick", "--runs", "1", "--only", name, "--json", NULL});
        assert_int_equal(json_array_size(rows), 1);
        assert_string_equal(row_check(json_array_get(rows, 0), 1), name);
        json_decref(rows);
    }
}

/* A ratio without its machine and its spread is no figure. */
static void bench_verb__table_names_machine_and_targets(void **state)
{
    struct node_kit_result result;
    (void)state;
    const char *words[] = {"bench", "core", "--quick", "--runs", "1", NULL};
    node_kit_run(kvn_verb_bench, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_OK);
    assert_non_null(strstr(result.out, "machine   "));
    assert_non_null(strstr(result.out, "compiler  "));
    assert_non_null(strstr(result.out, "ratio <= 1.30, value <= 50: "));
    assert_non_null(strstr(result.out, "medians of 1 runs; quick: yes\n"));
}

static void usage(const char *const *words, const char *line)
{
    struct node_kit_result result;
    node_kit_run(kvn_verb_bench, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_USAGE);
    assert_string_equal(result.err, line);
}

static void bench_verb__wrong_words_are_refused(void **state)
{
    (void)state;
    usage(
        (const char *[]){"bench", NULL},
        "kvrail bench: what is to be measured? 'core' or 'node', as in kvrail bench "
        "core\n");
    usage(
        (const char *[]){"bench", "cores", NULL},
        "kvrail bench: 'cores' is nothing to measure, 'core' and 'node' are\n");
    usage(
        (const char *[]){"bench", "core", "--runs", "0", NULL},
        "kvrail bench core: --runs: 0 is below the minimum 1\n");
    usage(
        (const char *[]){"bench", "core", "--only", "digest_2m", NULL},
        "kvrail bench core: --only: 'digest_2m' is no figure, did you mean "
        "digest_1m?\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bench_verb__measures_every_figure_in_order),
        cmocka_unit_test(bench_verb__only_measures_one),
        cmocka_unit_test(bench_verb__table_names_machine_and_targets),
        cmocka_unit_test(bench_verb__wrong_words_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
