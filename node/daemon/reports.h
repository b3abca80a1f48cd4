/* What a node tells of itself to those who may ask: JSON in a sealed memfd.
 *
 *   local ── ASK, who asks ──► kvn_reports_make() ──► text ──► memfd, sealed ──► REPORT
 *                                   ▲
 *           core, config, loop ── struct kvn_report_source
 *
 *   STATUS   the node: frames, tables, tenants, hits and misses     operator
 *   PEERS    the other members, from `first`                        operator
 *   SPACES   the spaces; of tenants those that the asker covers     operator, tenant
 *   EXPLAIN  one page: here, its homes, who holds it                operator, tenant
 *
 * A report is made on the loop thread, so its time is bounded: nothing walks frames or
 * entries, and a list has KVN_REPORT_ITEMS_MAX items at most, its length beside it. And
 * so is their number: KVN_REPORTS_BURST at once, KVN_REPORTS_A_SECOND in the long run,
 * past that AGAIN; the last half of a burst is the operator's, so that no tenant can
 * keep him from looking.
 *
 * Threading: the loop thread. Ownership: a report's descriptor is the asker's to close.
 * Units: microseconds, bytes. Errors: DENIED for what the asker's uid does not cover,
 * the same for what there is not; INVALID; AGAIN; TOO_LARGE; NOMEM (no memory or no
 * descriptor for the memfd).
 */
#ifndef KVN_REPORTS_H
#define KVN_REPORTS_H

#include "node/config.h"
#include "node/daemon/links.h"
#include "node/daemon/local.h"
#include "node/daemon/remote.h"

enum {
    KVN_REPORTS_BURST = 32,
    KVN_REPORTS_A_SECOND = 32,
};

/* Where the numbers come from; what a pointer names is read while a report is made. */
struct kvn_report_source {
    kvo_node_t *core;
    const struct kvo_config *core_config;
    const struct kvn_config *config;
    const struct kvn_local_counts *clients; /* NULL: none are served */
    const struct kvn_remote_counts *remote; /* NULL: none come from other hosts */
    const struct kvn_links_counts *links;   /* NULL: alone */
    uint64_t now_us, started_us;
    uint64_t lag_us, lag_worst_us; /* of the loop: last, and worst since the start */
    uint16_t port, http_port;      /* 0: none */
    /* Data connections that are open with peer i, ours to it and its to us. */
    void *arg;
    void (*data_conns)(void *arg, uint32_t peer, uint32_t *out_p, uint32_t *in_p);
};

typedef struct kvn_reports kvn_reports_t;

/* NULL: no memory. */
kvn_reports_t *kvn_reports_open(void);
void kvn_reports_close(kvn_reports_t *reports); /* NULL is fine */
/* OK: *fd_p is the caller's to close. */
kv_status_t kvn_reports_make(
    kvn_reports_t *reports, const struct kvn_report_source *source,
    const struct kvn_local_asker *asker, uint32_t tenant,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail);

#endif
