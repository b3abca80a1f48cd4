#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>

/* Rows in the order of KV_STATUS_MAP, so that a row's index is the counter's. */
static const struct {
    int value;
    const char *name;
    const char *text;
} rows[KV_NR_STATUSES] = {
#define X(symbol, value, name, text) {value, name, text},
    KV_STATUS_MAP(X)
#undef X
};

unsigned kv_status_index(kv_status_t status)
{
    unsigned i = 0;
    while (i < KV_NR_STATUSES && rows[i].value != (int)status) {
        i++;
    }
    return i;
}

bool kv_status_known(int value)
{
    for (unsigned i = 0; i < KV_NR_STATUSES; i++) {
        if (rows[i].value == value) {
            return true;
        }
    }
    return false;
}

const char *kv_status_name(kv_status_t status)
{
    unsigned i = kv_status_index(status);
    return i < KV_NR_STATUSES ? rows[i].name : "unknown";
}

const char *kv_status_text(kv_status_t status)
{
    unsigned i = kv_status_index(status);
    return i < KV_NR_STATUSES ? rows[i].text : "a status of a newer version";
}

kv_status_t kv_fail(
    struct kv_detail *detail, kv_status_t status, const char *field, uint64_t limit,
    uint64_t value)
{
    if (detail != NULL) {
        *detail = (struct kv_detail){.field = field, .limit = limit, .value = value};
    }
    return status;
}

void kv_detail_format(
    const struct kv_detail *detail, kv_status_t status, char *out, size_t cap)
{
    if (detail == NULL || detail->field == NULL) {
        snprintf(out, cap, "%s: %s", kv_status_name(status), kv_status_text(status));
        return;
    }
    snprintf(
        out, cap, "%s: %s: %s is %" PRIu64 ", the limit is %" PRIu64,
        kv_status_name(status), kv_status_text(status), detail->field, detail->value,
        detail->limit);
}
