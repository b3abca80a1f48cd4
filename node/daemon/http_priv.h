/* Inside http: from a snapshot to the texts that are answered. Pure functions over it,
 * except for what is read of the process.
 *
 * Threading: the HTTP thread; kvn_http_collect() aside. Ownership: values; texts are
 * the caller's. Units: microseconds, bytes. Errors: none; what cannot be read is left
 * out.
 */
#ifndef KVN_HTTP_PRIV_H
#define KVN_HTTP_PRIV_H

#include "base/metric.h"
#include "node/daemon/http.h"

/* What the HTTP thread counts itself. */
#define KVN_HTTP_CODES(X) X(200) X(404) X(405) X(503)
struct kvn_http_counts {
#define X(code) uint64_t code_##code;
    KVN_HTTP_CODES(X)
#undef X
    uint64_t evicted; /* connections ended for newer ones */
    uint64_t expired; /* … at request_us */
};

/* process_*: what Prometheus' own clients give. What cannot be read is left out. */
struct kvn_http_process {
    bool has_memory, has_fds, has_start;
    uint64_t resident_bytes, virtual_bytes;
    uint64_t open_fds, max_fds;
    uint64_t cpu_us;
    uint64_t start_us; /* since 1970 */
};
void kvn_http_process_read(struct kvn_http_process *process);

/* Everything that an answer is made of. */
struct kvn_http_view {
    const struct kvn_http_snapshot *snapshot; /* NULL: nothing published yet */
    uint64_t age_us;                          /* of the snapshot */
    uint64_t uptime_us;
    uint64_t stuck_us;
    struct kvn_http_counts counts;
    uint32_t nr_conns;
    struct kvn_http_process process;
};

/* Writes the whole text; text->len says what it needs. */
void kvn_http_metrics(const struct kvn_http_view *view, struct kv_metric_text *text);

/* One line of JSON into out; returns 200 or 503. */
enum { KVN_HTTP_HEALTH_BYTES = 512 };
unsigned kvn_http_health(const struct kvn_http_view *view, char *out, size_t cap);

/* OpenMetrics when `accept` (NULL: none) names it and does not refuse it by q=0. */
enum kv_metric_format kvn_http_format(const char *accept);

#endif
