#include "base/metric.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct metric_text {
    char *out;
    size_t cap;
    size_t len; /* what all of it needs, beyond cap too */
};

__attribute__((format(printf, 2, 3))) static void
text_add(struct metric_text *text, const char *format, ...)
{
    size_t used = text->len < text->cap ? text->len : text->cap;
    va_list args;
    va_start(args, format);
    int len = vsnprintf(
        text->cap > 0 ? text->out + used : NULL, text->cap - used, format, args);
    va_end(args);
    text->len += len > 0 ? (size_t)len : 0;
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

size_t kv_metrics_format(
    const struct kv_metric *table, unsigned nr, const void *base, char *out, size_t cap)
{
    struct metric_text text = {.out = out, .cap = cap};
    if (cap > 0) {
        out[0] = '\0';
    }
    for (unsigned i = 0; i < nr; i++) {
        const struct kv_metric *m = &table[i];
        if (i == 0 || !same_family(m->name, table[i - 1].name)) {
            int len = (int)family_len(m->name);
            text_add(&text, "# HELP %.*s %s\n", len, m->name, m->help);
            text_add(
                &text, "# TYPE %.*s %s\n", len, m->name,
                m->kind == KV_METRIC_COUNTER ? "counter" : "gauge");
        }
        text_add(&text, "%s %" PRIu64 "\n", m->name, kv_metric_value(m, base));
    }
    return text.len;
}
