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
 * Threading: plain fields, written by the thread that owns them.
 */
#ifndef KV_METRIC_H
#define KV_METRIC_H

#include <stddef.h>
#include <stdint.h>

enum kv_metric_kind { KV_METRIC_COUNTER, KV_METRIC_GAUGE };

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

/* Serialises as Prometheus text (version 0.0.4) into out[cap]; returns the bytes it
 * needs, as snprintf does: without the NUL, which it always writes when cap > 0. */
size_t kv_metrics_format(
    const struct kv_metric *table, unsigned nr, const void *base, char *out,
    size_t cap);

#endif
