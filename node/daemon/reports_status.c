/* The node itself, in what one screen holds. */
#include "node/daemon/reports_priv.h"

#include "base/digest.h"
#include "include/kvrail/kvrail.h"

#include <stdio.h>
#include <unistd.h>

static void put_self(const struct kvn_report *report)
{
    const struct kvn_report_source *source = report->source;
    struct kvn_json *json = report->json;
    char version[24];
    (void)snprintf(
        version, sizeof(version), "%d.%d", KVR_VERSION_MAJOR, KVR_VERSION_MINOR);
    kvn_json_text(json, "version", version);
    kvn_json_text(json, "cluster", source->config->cluster_name);
    kvn_json_number(json, "node", source->core_config->node);
    kvn_json_hex64(json, "incarnation", source->core_config->incarnation);
    kvn_json_number(json, "pid", (uint64_t)getpid());
    kvn_json_number(json, "uptime_us", source->now_us - source->started_us);
    kvn_json_number(json, "epoch", source->core_config->view->epoch);
    kvn_json_hex64(json, "view_digest", source->core_config->view->digest);
    kvn_json_text(json, "digest", kv_digest_chosen());
    kvn_json_number(json, "port", source->port);
    kvn_json_number(json, "http_port", source->http_port);
    kvn_json_open(json, "loop", '{');
    kvn_json_number(json, "lag_us", source->lag_us);
    kvn_json_number(json, "lag_worst_us", source->lag_worst_us);
    kvn_json_close(json);
}

static void put_links(const struct kvn_report *report)
{
    const struct kvn_report_source *source = report->source;
    struct kvn_json *json = report->json;
    kvn_json_open(json, "links", '{');
    kvn_json_number(json, "up", kvo_links_up(source->core));
    kvn_json_number(json, "of", source->core_config->view->nr - 1);
    if (source->links != NULL) {
        kvn_json_number(json, "accepted", source->links->accepted);
        kvn_json_number(json, "refused", source->links->refused);
        kvn_json_number(json, "dialled", source->links->dialled);
        kvn_json_number(json, "dial_failed", source->links->dial_failed);
        kvn_json_number(json, "handshake_failed", source->links->handshake_failed);
    }
    kvn_json_close(json);
}

static void put_pool(const struct kvn_report *report, uint32_t i)
{
    const struct kvp_pool_config *pool = &report->source->core_config->pager.pools[i];
    struct kvn_json *json = report->json;
    struct kvp_pool_stats stats;
    kvp_pool_stats(kvo_pager(report->source->core), i, &stats);
    kvn_json_open(json, NULL, '{');
    kvn_json_text(json, "tier", kvn_report_tier(pool->tier));
    kvn_json_number(json, "domain", pool->domain);
    kvn_json_number(json, "frame_bytes", pool->frame_bytes);
    kvn_json_number(json, "frames", stats.nr_frames);
    kvn_json_open(json, "states", '{');
    for (unsigned state = 0; state < KVP_NR_STATES; state++) {
        kvn_json_number(json, kvp_state_name(state), stats.in_state[state]);
    }
    kvn_json_close(json);
    /* Sealed ones that references, pins or grants keep: those cannot go for room. */
    kvn_json_number(json, "held", stats.in_state[KVP_SEALED] - stats.idle);
    kvn_json_number(json, "idle", stats.idle);
    kvn_json_number(json, "limbo", stats.limbo);
    kvn_json_number(json, "limbo_max", stats.limbo_max);
    kvn_json_number(
        json, "free_bytes", (uint64_t)stats.in_state[KVP_FREE] * pool->frame_bytes);
    kvn_json_close(json);
}

static void put_tables(const struct kvn_report *report)
{
    struct kvn_json *json = report->json;
    struct kvo_tables tables;
    kvo_tables(report->source->core, &tables);
    const struct {
        const char *name;
        struct kvo_table table;
    } rows[] = {
#define X(name, what) {#name, tables.name},
        KVO_TABLES(X)
#undef X
    };
    kvn_json_open(json, "tables", '{');
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        kvn_json_open(json, rows[i].name, '{');
        kvn_json_number(json, "used", rows[i].table.used);
        kvn_json_number(json, "max", rows[i].table.max);
        kvn_json_close(json);
    }
    kvn_json_close(json);
}

static void put_directory(const struct kvn_report *report)
{
    const kvc_dir_t *dir = kvo_directory(report->source->core);
    struct kvn_json *json = report->json;
    struct kvc_dir_stats stats;
    kvc_dir_stats(dir, &stats);
    kvn_json_open(json, "directory", '{');
    kvn_json_flag(json, "cold", kvc_dir_cold(dir, report->source->now_us));
    kvn_json_number(json, "entries", stats.nr_entries);
    kvn_json_number(json, "entries_max", stats.entries_max);
    kvn_json_number(json, "holdings", stats.nr_holdings);
    kvn_json_number(json, "holdings_max", stats.holdings_max);
    kvn_json_close(json);
}

/* Since the start. */
static void put_counts(const struct kvn_report *report)
{
    static const char *const reasons[KV_NR_MISSES] = {
#define X(symbol, name, what) [symbol] = (name),
        KV_MISS_MAP(X)
#undef X
    };
    const struct kvo_metrics *core = kvo_metrics(report->source->core);
    const struct kvp_metrics *pager = kvp_metrics(kvo_pager(report->source->core));
    struct kvn_json *json = report->json;
    kvn_json_number(json, "requests", core->requests);
    kvn_json_open(json, "hits", '{');
    kvn_json_number(json, "device", core->hits_device);
    kvn_json_number(json, "host", core->hits_host);
    kvn_json_number(json, "peer", core->hits_peer);
    kvn_json_close(json);
    kvn_json_open(json, "misses", '{');
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        kvn_json_number(json, reasons[i], core->misses[i]);
    }
    kvn_json_close(json);
    kvn_json_open(json, "verify", '{');
    kvn_json_number(json, "passed_here", pager->verified);
    kvn_json_number(json, "failed_here", pager->verify_failed);
    kvn_json_number(json, "failed_arriving", core->not_verified);
    kvn_json_close(json);
    kvn_json_number(json, "fetched_bytes", core->fetched_bytes);
    kvn_json_number(json, "served_bytes", core->served_bytes);
    kvn_json_number(json, "sealed", pager->sealed);
    kvn_json_number(json, "dedup", pager->dedup);
    kvn_json_number(json, "evicted", pager->evicted);
    kvn_json_number(json, "demoted", pager->demoted);
    kvn_json_number(json, "spilled_out", core->spills_taken);
    kvn_json_number(json, "spilled_in", core->spills_in);
    kvn_json_number(json, "pauses", core->pauses);
}

static void put_clients(const struct kvn_report *report)
{
    const struct kvn_local_counts *counts = report->source->clients;
    struct kvn_json *json = report->json;
    if (counts == NULL) {
        kvn_json_none(json, "clients");
        return;
    }
    kvn_json_open(json, "clients", '{');
    kvn_json_number(json, "now", counts->clients);
    kvn_json_number(json, "buffers", counts->mapped);
    kvn_json_number(json, "attached", counts->attached);
    kvn_json_number(json, "refused", counts->refused);
    kvn_json_number(json, "hung_up", counts->hung_up);
    kvn_json_number(json, "malformed", counts->malformed);
    kvn_json_close(json);
}

static void put_remote(const struct kvn_report *report)
{
    const struct kvn_remote_counts *counts = report->source->remote;
    struct kvn_json *json = report->json;
    if (counts == NULL) {
        kvn_json_none(json, "remote_clients");
        return;
    }
    kvn_json_open(json, "remote_clients", '{');
    kvn_json_number(json, "now", counts->clients);
    kvn_json_number(json, "attached", counts->attached);
    kvn_json_number(json, "refused", counts->refused);
    kvn_json_number(json, "ended", counts->ended);
    kvn_json_number(json, "malformed", counts->malformed);
    kvn_json_close(json);
}

void kvn_report_tenant(const struct kvn_report *report, uint32_t tenant)
{
    const struct kvp_config *pager = &report->source->core_config->pager;
    const struct kvp_tenant_config *config = &pager->tenants[tenant];
    struct kvn_json *json = report->json;
    kvn_json_open(json, NULL, '{');
    kvn_json_number(json, "id", config->id);
    kvn_json_number(json, "domain", config->domain);
    for (enum kvp_tier tier = KVP_DEVICE; tier < KVP_NR_TIERS; tier++) {
        kvn_json_open(json, kvn_report_tier(tier), '{');
        kvn_json_number(
            json, "frames",
            kvp_used(kvo_pager(report->source->core), (uint16_t)tenant, tier));
        kvn_json_number(json, "ceiling", config->ceiling[tier]);
        kvn_json_close(json);
    }
    kvn_json_close(json);
}

kv_status_t kvn_report_status(const struct kvn_report *report)
{
    const struct kvp_config *pager = &report->source->core_config->pager;
    put_self(report);
    put_links(report);
    kvn_json_open(report->json, "pools", '[');
    for (uint32_t i = 0; i < pager->nr_pools; i++) {
        put_pool(report, i);
    }
    kvn_json_close(report->json);
    kvn_json_open(report->json, "tenants", '[');
    for (uint32_t i = 0; i < pager->nr_tenants; i++) {
        kvn_report_tenant(report, i);
    }
    kvn_json_close(report->json);
    put_tables(report);
    put_clients(report);
    put_remote(report);
    put_directory(report);
    put_counts(report);
    return KV_OK;
}
