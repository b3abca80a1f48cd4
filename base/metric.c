#include "base/metric.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static void text_add_list(struct kv_metric_text *text, const char *format, va_list args)
{
    size_t used = text->len < text->cap ? text->len : text->cap;
    int len = vsnprintf(
        text->cap > 0 ? text->out + used : NULL, text->cap - used, format, args);
    text->len += len > 0 ? (size_t)len : 0;
}

__attribute__((format(printf, 2, 3))) static void
text_add(struct kv_metric_text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_add_list(text, format, args);
    va_end(args);
}

/* Length of the family: the name without its labels. */
static size_t family_len(const char *name)
{
    return strcspn(name, "{");
}

static bool same_family(const char *a, const char *b)
{
    size_t len = family_len(a);
    return family_len(b) == len && memcmp(a, b, len) == 0;
}

static bool ends_in(const char *name, size_t len, const char *end)
{
    const size_t end_len = strlen(end);
    return len > end_len && memcmp(name + len - end_len, end, end_len) == 0;
}

/* What OpenMetrics takes off a name to get its family's. */
static size_t suffix_len(enum kv_metric_kind kind, const char *name, size_t len)
{
    const char *suffix = kind == KV_METRIC_COUNTER ? "_total"
                         : kind == KV_METRIC_INFO  ? "_info"
                                                   : "";
    return suffix[0] != '\0' && ends_in(name, len, suffix) ? strlen(suffix) : 0;
}

static const char *type_name(enum kv_metric_kind kind, enum kv_metric_format format)
{
    switch (kind) {
    case KV_METRIC_COUNTER:
        return "counter";
    case KV_METRIC_GAUGE:
        return "gauge";
    case KV_METRIC_INFO:
        return format == KV_METRIC_OPENMETRICS ? "info" : "gauge";
    }
    KV_UNREACHABLE("every kind has a name");
}

void kv_metrics_family(
    struct kv_metric_text *text, enum kv_metric_kind kind, const char *name,
    const char *help)
{
    size_t len = family_len(name);
    if (text->format == KV_METRIC_OPENMETRICS) {
        len -= suffix_len(kind, name, len);
    }
    text_add(text, "# HELP %.*s %s\n", (int)len, name, help);
    text_add(text, "# TYPE %.*s %s\n", (int)len, name, type_name(kind, text->format));
}

void kv_metrics_value(
    struct kv_metric_text *text, const char *name, uint64_t value, const char *labels,
    ...)
{
    text_add(text, "%s", name);
    if (labels != NULL) {
        va_list args;
        va_start(args, labels);
        text_add(text, "{");
        text_add_list(text, labels, args);
        text_add(text, "}");
        va_end(args);
    }
    text_add(text, " %" PRIu64 "\n", value);
}

void kv_metrics_seconds(struct kv_metric_text *text, const char *name, uint64_t us)
{
    text_add(text, "%s %" PRIu64 ".%06" PRIu64 "\n", name, us / 1000000, us % 1000000);
}

void kv_metrics_table(
    struct kv_metric_text *text, const struct kv_metric *table, unsigned nr,
    const void *base)
{
    for (unsigned i = 0; i < nr; i++) {
        const struct kv_metric *m = &table[i];
        if (i == 0 || !same_family(m->name, table[i - 1].name)) {
            kv_metrics_family(text, m->kind, m->name, m->help);
        }
        kv_metrics_value(text, m->name, kv_metric_value(m, base), NULL);
    }
}

void kv_metrics_end(struct kv_metric_text *text)
{
    if (text->format == KV_METRIC_OPENMETRICS) {
        text_add(text, "# EOF\n");
    }
}

const char *kv_metrics_escape(const char *from, char *out, size_t cap)
{
    size_t len = 0;
    KV_ASSERT(cap > 0);
    for (; *from != '\0'; from++) {
        const bool escaped = *from == '\\' || *from == '"' || *from == '\n';
        if (len + (escaped ? 2 : 1) >= cap) {
            break;
        }
        if (escaped) {
            out[len++] = '\\';
        }
        out[len++] = *from == '\n' ? 'n' : *from;
    }
    out[len] = '\0';
    return out;
}

size_t kv_metrics_format(
    const struct kv_metric *table, unsigned nr, const void *base, char *out, size_t cap)
{
    struct kv_metric_text text = {.out = out, .cap = cap};
    if (cap > 0) {
        out[0] = '\0';
    }
    kv_metrics_table(&text, table, nr, base);
    return text.len;
}
