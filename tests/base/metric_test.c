/* One row makes the field and its line for Prometheus; a scraper must be able to read
 * what comes out, and a buffer that is too small must be told by the return value. */
#include "base/metric.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define TEST_METRICS(X)                                                                \
    X(COUNTER, hits, "kvrail_hits_total", "pages found here")                          \
    X(COUNTER, miss_cold, "kvrail_misses_total{reason=\"cold\"}", "pages not found")   \
    X(COUNTER, miss_lost, "kvrail_misses_total{reason=\"lost\"}", "pages not found")   \
    X(GAUGE, frames, "kvrail_frames", "frames in use")

struct test_metrics {
    TEST_METRICS(KV_METRIC_FIELD)
};

#define KV_METRIC_STRUCT struct test_metrics
static const struct kv_metric table[] = {TEST_METRICS(KV_METRIC_ROW)};
#undef KV_METRIC_STRUCT

static const char wanted[] = "# HELP kvrail_hits_total pages found here\n"
                             "# TYPE kvrail_hits_total counter\n"
                             "kvrail_hits_total 1\n"
                             "# HELP kvrail_misses_total pages not found\n"
                             "# TYPE kvrail_misses_total counter\n"
                             "kvrail_misses_total{reason=\"cold\"} 2\n"
                             "kvrail_misses_total{reason=\"lost\"} 0\n"
                             "# HELP kvrail_frames frames in use\n"
                             "# TYPE kvrail_frames gauge\n"
                             "kvrail_frames 18446744073709551615\n";

static const struct test_metrics values = {
    .hits = 1,
    .miss_cold = 2,
    .frames = UINT64_MAX,
};

static void metrics__format_is_prometheus_text(void **state)
{
    (void)state;
    char out[1024];
    assert_int_equal(
        kv_metrics_format(table, 4, &values, out, sizeof(out)), strlen(wanted));
    assert_string_equal(out, wanted);
    assert_string_equal(table[1].field, "miss_cold");
    assert_int_equal(kv_metric_value(&table[1], &values), 2);
}

/* Every size from none to enough: cut, terminated, never past the end. */
static void metrics__small_buffers_are_cut_and_say_how_much_is_needed(void **state)
{
    (void)state;
    assert_int_equal(kv_metrics_format(table, 4, &values, NULL, 0), strlen(wanted));
    for (size_t cap = 1; cap <= sizeof(wanted); cap++) {
        char out[sizeof(wanted) + 1];
        memset(out, '!', sizeof(out));
        assert_int_equal(
            kv_metrics_format(table, 4, &values, out, cap), strlen(wanted));
        assert_int_equal(strlen(out), cap - 1);
        assert_memory_equal(out, wanted, cap - 1);
        assert_int_equal(out[cap], '!');
    }
}

static void metrics__no_rows_give_an_empty_text(void **state)
{
    (void)state;
    char out[4] = "abc";
    assert_int_equal(kv_metrics_format(table, 0, &values, out, sizeof(out)), 0);
    assert_string_equal(out, "");
}

static void write_all(struct kv_metric_text *text)
{
    char label[16];
    kv_metrics_table(text, table, 1, &values);
    kv_metrics_family(text, KV_METRIC_INFO, "kvrail_build_info", "what runs");
    kv_metrics_value(
        text, "kvrail_build_info", 1, "version=\"%s\"",
        kv_metrics_escape("a\"b\\\n", label, sizeof(label)));
    kv_metrics_family(text, KV_METRIC_COUNTER, "process_cpu_seconds_total", "time");
    kv_metrics_seconds(text, "process_cpu_seconds_total", 12000034);
    kv_metrics_end(text);
}

/* The same families in both formats: OpenMetrics names a counter's family without its
 * _total, an info's without its _info, and wants an end that a cut text lacks. */
static void metrics__both_formats_are_written(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "# HELP kvrail_hits_total pages found here\n"
        "# TYPE kvrail_hits_total counter\n"
        "kvrail_hits_total 1\n"
        "# HELP kvrail_build_info what runs\n"
        "# TYPE kvrail_build_info gauge\n"
        "kvrail_build_info{version=\"a\\\"b\\\\\\n\"} 1\n"
        "# HELP process_cpu_seconds_total time\n"
        "# TYPE process_cpu_seconds_total counter\n"
        "process_cpu_seconds_total 12.000034\n",
        "# HELP kvrail_hits pages found here\n"
        "# TYPE kvrail_hits counter\n"
        "kvrail_hits_total 1\n"
        "# HELP kvrail_build what runs\n"
        "# TYPE kvrail_build info\n"
        "kvrail_build_info{version=\"a\\\"b\\\\\\n\"} 1\n"
        "# HELP process_cpu_seconds time\n"
        "# TYPE process_cpu_seconds counter\n"
        "process_cpu_seconds_total 12.000034\n"
        "# EOF\n",
    };
    for (unsigned i = 0; i < 2; i++) {
        char out[1024];
        struct kv_metric_text text = {
            .out = out, .cap = sizeof(out), .format = (enum kv_metric_format)i};
        write_all(&text);
        assert_string_equal(out, texts[i]);
        assert_int_equal(text.len, strlen(texts[i]));
        struct kv_metric_text none = {.format = (enum kv_metric_format)i};
        write_all(&none);
        assert_int_equal(none.len, text.len);
    }
}

/* A label that is cut must not end in half an escape, which would swallow the quote
 * that follows. */
static void metrics__escapes_are_not_cut_in_half(void **state)
{
    (void)state;
    static const char *const wants[] = {"", "a", "a", "a\\\"", "a\\\"b"};
    char out[8];
    for (size_t cap = 1; cap <= 5; cap++) {
        assert_string_equal(kv_metrics_escape("a\"b", out, cap), wants[cap - 1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics__format_is_prometheus_text),
        cmocka_unit_test(metrics__small_buffers_are_cut_and_say_how_much_is_needed),
        cmocka_unit_test(metrics__no_rows_give_an_empty_text),
        cmocka_unit_test(metrics__both_formats_are_written),
        cmocka_unit_test(metrics__escapes_are_not_cut_in_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
