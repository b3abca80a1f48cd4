/* What the files of reports share.
 *
 *   reports.c          who may have what, how often, and the memfd
 *   reports_status.c   STATUS
 *   reports_peers.c    PEERS, SPACES
 *   reports_explain.c  EXPLAIN
 *
 * Threading: the loop thread. Ownership: all pointers live for one report. Units:
 * microseconds, bytes. Errors: a status and report->detail; a text that does not fit is
 * found in the end.
 */
#ifndef KVN_REPORTS_PRIV_H
#define KVN_REPORTS_PRIV_H

#include "base/assert.h"
#include "node/daemon/json.h"
#include "node/daemon/reports.h"
#include "node/ring.h"

/* One question under way. */
struct kvn_report {
    const struct kvn_report_source *source;
    const struct kvn_local_asker *asker;
    uint32_t tenant; /* id, if the flag says so */
    const struct kvn_packet_ask *ask;
    struct kvn_json *json;
    struct kv_detail *detail;
};

/* Each writes the members of one object. */
kv_status_t kvn_report_status(const struct kvn_report *report);
kv_status_t kvn_report_peers(const struct kvn_report *report);
kv_status_t kvn_report_spaces(const struct kvn_report *report);
kv_status_t kvn_report_explain(const struct kvn_report *report);

static inline bool kvn_report_covers(const struct kvn_report *report, uint32_t tenant)
{
    return (report->asker->tenants >> tenant & 1) != 0;
}
const char *kvn_report_tier(enum kvp_tier tier);
const char *kvn_report_life(enum kvc_life life);
/* The node itself, as an index in the view. */
uint32_t kvn_report_self(const struct kvn_report_source *source);
/* { "bytes": …, "frames": …, "ceiling": … } of a tenant in each tier. */
void kvn_report_tenant(const struct kvn_report *report, uint32_t tenant);

#endif
