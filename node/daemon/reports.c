#define _GNU_SOURCE
#include "node/daemon/reports_priv.h"

#include "base/fault.h"
#include "base/mem.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

struct kvn_reports {
    uint64_t credit_us; /* of time: a report costs 1 s / KVN_REPORTS_A_SECOND */
    uint64_t at_us;     /* when that was so */
    char text[KVN_REPORT_BYTES_MAX];
};

enum {
    COST_US = 1000000 / KVN_REPORTS_A_SECOND,
    CREDIT_MAX_US = COST_US * KVN_REPORTS_BURST,
};

kvn_reports_t *kvn_reports_open(void)
{
    kvn_reports_t *reports = kv_calloc(1, sizeof(*reports));
    if (reports != NULL) {
        reports->credit_us = CREDIT_MAX_US;
    }
    return reports;
}

void kvn_reports_close(kvn_reports_t *reports)
{
    kv_free(reports);
}

/* A tenant leaves half of the burst to the operator. */
static bool take_credit(kvn_reports_t *reports, uint64_t now_us, bool operates)
{
    const uint64_t least = operates ? COST_US : CREDIT_MAX_US / 2 + COST_US;
    reports->credit_us += now_us - reports->at_us;
    reports->at_us = now_us;
    if (reports->credit_us > CREDIT_MAX_US) {
        reports->credit_us = CREDIT_MAX_US;
    }
    if (reports->credit_us < least) {
        return false;
    }
    reports->credit_us -= COST_US;
    return true;
}

const char *kvn_report_tier(enum kvp_tier tier)
{
    return tier == KVP_DEVICE ? "device" : "host";
}

const char *kvn_report_life(enum kvc_life life)
{
    static const char *const names[] = {
        [KVC_ALIVE] = "alive", [KVC_SUSPECT] = "suspect", [KVC_LOST] = "lost"};
    return names[life];
}

uint32_t kvn_report_self(const struct kvn_report_source *source)
{
    return kvc_view_index(source->core_config->view, source->core_config->node);
}

/* The text in memory that nobody can change: the asker maps or reads it. */
static int seal(const char *text, size_t len)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    int fd = KV_FAULT()
                 ? -1
                 : memfd_create("kvrail-report", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -1;
    }
    if (KV_FAULT() || pwrite(fd, text, len, 0) != (ssize_t)len
        || fcntl(fd, F_ADD_SEALS, seals) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

kv_status_t kvn_reports_make(
    kvn_reports_t *reports, const struct kvn_report_source *source,
    const struct kvn_local_asker *asker, uint32_t tenant,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail)
{
    static const struct {
        kv_status_t (*make)(const struct kvn_report *report);
        bool tenants; /* may ask it, too */
    } kinds[KVN_NR_ASKS] = {
        [KVN_ASK_STATUS] = {kvn_report_status, false},
        [KVN_ASK_PEERS] = {kvn_report_peers, false},
        [KVN_ASK_SPACES] = {kvn_report_spaces, true},
        [KVN_ASK_EXPLAIN] = {kvn_report_explain, true},
    };
    KV_ASSERT(ask->what < KVN_NR_ASKS);
    if (!asker->operates && !kinds[ask->what].tenants) {
        return KV_ERR_DENIED;
    }
    if (!take_credit(reports, source->now_us, asker->operates)) {
        return kv_fail(
            detail, KV_ERR_AGAIN, "reports.a_second", KVN_REPORTS_A_SECOND,
            KVN_REPORTS_A_SECOND + 1);
    }
    struct kvn_json json;
    kvn_json_init(&json, reports->text, sizeof(reports->text));
    const struct kvn_report report = {
        .source = source,
        .asker = asker,
        .tenant = tenant,
        .ask = ask,
        .json = &json,
        .detail = detail,
    };
    kvn_json_open(&json, NULL, '{');
    kv_status_t status = kinds[ask->what].make(&report);
    if (status != KV_OK) {
        return status;
    }
    kvn_json_close(&json);
    KV_ASSERT(json.depth == 0);
    if (json.full) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "report.bytes", KVN_REPORT_BYTES_MAX,
            KVN_REPORT_BYTES_MAX + 1);
    }
    const int fd = seal(json.out, json.len);
    if (fd < 0) {
        return KV_ERR_NOMEM;
    }
    *fd_p = fd;
    *bytes_p = json.len;
    return KV_OK;
}
