/* Counters and gauges by table: one row gives the field, its name for Prometheus, its
 * help text and the test that it has one.
 *
 *   #define KVP_METRICS(X)  X(COUNTER, hits, "kvrail_hits_total", "pages found here")
 *   struct kvp_metrics { KVP_METRICS(KV_METRIC_FIELD) };
 *
 *   #define KV_METRIC_STRUCT struct kvp_metrics
 *   static const struct kv_metric table[] = { KVP_METRICS(KV_METRIC_ROW) };
 *   #undef KV_METRIC_STRUCT
 *
 * An X-macro's rows cannot carry the struct, so a row reads it from KV_METRIC_STRUCT,
 * which lives just around the table. A name may end in labels, {reason="evicted"}; rows
 * of one family stand next to each other and share the first one's help text.
 *
 * What no table can hold (labels counted by an enum, fractions of seconds) is written
 * family by family:
 *
 *   kv_metrics_family(text, KV_METRIC_COUNTER, "kvrail_misses_total", "pages lacked")
 *   kv_metrics_value(text, "kvrail_misses_total", n, "reason=\"%s\"", name)   … each
 *   kv_metrics_end(text)
 *
 * Threading: plain fields, written by the thread that owns them.
 */
#ifndef KV_METRIC_H
#define KV_METRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kv_metric_kind {
    KV_METRIC_COUNTER, /* its name ends in _total */
    KV_METRIC_GAUGE,
    KV_METRIC_INFO, /* its name ends in _info, its value is 1 */
};

struct kv_metric {
    enum kv_metric_kind kind;
    const char *field; /* name in C and in JSON */
    const char *name;  /* name for Prometheus: kvrail_…, _total, base units */
    const char *help;
    size_t offset; /* of a uint64_t */
};

#define KV_METRIC_FIELD(kind, field, name, help) uint64_t field;
#define KV_METRIC_ROW(kind, field, name, help)                                         \
    {KV_METRIC_##kind, #field, name, help, offsetof(KV_METRIC_STRUCT, field)},

/* Value of `metric` in the struct at `base`. */
static inline uint64_t kv_metric_value(const struct kv_metric *metric, const void *base)
{
    return *(const uint64_t *)((const char *)base + metric->offset);
}

/* Prometheus text, version 0.0.4, or OpenMetrics 1.0.0, in which a counter's family has
 * no _total, an info's no _info, and the text ends with # EOF. */
enum kv_metric_format { KV_METRIC_PROMETHEUS, KV_METRIC_OPENMETRICS };

/* A text that is being written. `len` is what all of it needs, beyond cap too, as
 * snprintf counts; what is in `out` is terminated when cap > 0. */
struct kv_metric_text {
    char *out;
    size_t cap;
    size_t len;
    enum kv_metric_format format;
};

/* HELP and TYPE; its values follow before the next family. `name` may have labels,
 * which are not looked at. */
void kv_metrics_family(
    struct kv_metric_text *text, enum kv_metric_kind kind, const char *name,
    const char *help);
/* One value; `labels` is a format for what stands inside the braces: escape what comes
 * from outside by kv_metrics_escape(). NULL: no labels. */
void kv_metrics_value(
    struct kv_metric_text *text, const char *name, uint64_t value, const char *labels,
    ...) __attribute__((format(printf, 4, 5)));
/* The same in seconds. */
void kv_metrics_seconds(struct kv_metric_text *text, const char *name, uint64_t us);
/* Every row of the table. */
void kv_metrics_table(
    struct kv_metric_text *text, const struct kv_metric *table, unsigned nr,
    const void *base);
/* Ends OpenMetrics; nothing in the other format. */
void kv_metrics_end(struct kv_metric_text *text);

/* `from` as a label's value: backslash, quote and newline escaped, cut at cap - 1 but
 * never inside an escape. Returns out. */
const char *kv_metrics_escape(const char *from, char *out, size_t cap);

/* Serialises a table as Prometheus text into out[cap]; returns the bytes it needs, as
 * snprintf does: without the NUL, which it always writes when cap > 0. */
size_t kv_metrics_format(
    const struct kv_metric *table, unsigned nr, const void *base, char *out,
    size_t cap);

#endif
