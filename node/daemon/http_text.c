#include "node/daemon/http_priv.h"

#include "base/assert.h"
#include "base/codec.h"
#include "base/digest.h"
#include "include/kvrail/kvrail.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KV_METRIC_STRUCT struct kvo_metrics
static const struct kv_metric core_table[] = {KVO_METRICS(KV_METRIC_ROW)};
#undef KV_METRIC_STRUCT

#define KV_METRIC_STRUCT struct kvp_metrics
static const struct kv_metric pager_table[] = {KVP_METRICS(KV_METRIC_ROW)};
#undef KV_METRIC_STRUCT

static const char *tier_name(enum kvp_tier tier)
{
    return tier == KVP_DEVICE ? "device" : "host";
}

/* ---- counters with labels ------------------------------------------------------ */

static void put_misses(struct kv_metric_text *text, const struct kvo_metrics *core)
{
    static const char *const reasons[KV_NR_MISSES] = {
#define X(symbol, name, what) [symbol] = (name),
        KV_MISS_MAP(X)
#undef X
    };
    static const char name[] = "kvrail_misses_total";
    kv_metrics_family(text, KV_METRIC_COUNTER, name, "pages not to be had, by reason");
    for (unsigned i = 0; i < KV_NR_MISSES; i++) {
        kv_metrics_value(text, name, core->misses[i], "reason=\"%s\"", reasons[i]);
    }
}

static void put_statuses(struct kv_metric_text *text, const struct kvo_metrics *core)
{
    static const char *const statuses[KV_NR_STATUSES] = {
#define X(symbol, value, name, what) (name),
        KV_STATUS_MAP(X)
#undef X
    };
    static const char name[] = "kvrail_statuses_total";
    kv_metrics_family(
        text, KV_METRIC_COUNTER, name,
        "statuses answered to clients, whole or per key");
    for (unsigned i = 0; i < KV_NR_STATUSES; i++) {
        kv_metrics_value(text, name, core->statuses[i], "status=\"%s\"", statuses[i]);
    }
}

static void put_messages(
    struct kv_metric_text *text, const char *name, const char *help,
    const uint64_t counts[KV_NR_MSGS])
{
    static const char *const types[KV_NR_MSGS] = {
#define X(symbol, number, type, member) (type),
        KV_MSG_MAP(X)
#undef X
    };
    kv_metrics_family(text, KV_METRIC_COUNTER, name, help);
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        kv_metrics_value(text, name, counts[i], "type=\"%s\"", types[i]);
    }
}

static void put_edges(struct kv_metric_text *text, const struct kvp_metrics *pager)
{
    static const uint8_t edges[][2] = {
#define X(from, to) {(from), (to)},
        KVP_FRAME_EDGES(X)
#undef X
    };
    static const char name[] = "kvrail_pager_frame_moves_total";
    kv_metrics_family(
        text, KV_METRIC_COUNTER, name, "frames that went from a state to another");
    for (unsigned i = 0; i < KV_COUNT_OF(edges); i++) {
        kv_metrics_value(
            text, name, pager->edges[edges[i][0]][edges[i][1]], "from=\"%s\",to=\"%s\"",
            kvp_state_name(edges[i][0]), kvp_state_name(edges[i][1]));
    }
}

/* ---- gauges -------------------------------------------------------------------- */

static void put_gauge(
    struct kv_metric_text *text, const char *name, const char *help, uint64_t value)
{
    kv_metrics_family(text, KV_METRIC_GAUGE, name, help);
    kv_metrics_value(text, name, value, NULL);
}

static void put_counter(
    struct kv_metric_text *text, const char *name, const char *help, uint64_t value)
{
    kv_metrics_family(text, KV_METRIC_COUNTER, name, help);
    kv_metrics_value(text, name, value, NULL);
}

static void put_pool_value(
    struct kv_metric_text *text, const char *name,
    const struct kvn_http_snapshot *snapshot, uint32_t i, uint64_t value)
{
    const struct kvp_pool_config *pool = &snapshot->pools[i].config;
    kv_metrics_value(
        text, name, value, "pool=\"%u\",tier=\"%s\",domain=\"%u\"", i,
        tier_name(pool->tier), pool->domain);
}

static void
put_frames(struct kv_metric_text *text, const struct kvn_http_snapshot *snapshot)
{
    static const char name[] = "kvrail_frames";
    kv_metrics_family(text, KV_METRIC_GAUGE, name, "frames in each state");
    for (uint32_t i = 0; i < snapshot->nr_pools; i++) {
        const struct kvn_http_pool *pool = &snapshot->pools[i];
        for (unsigned state = 0; state < KVP_NR_STATES; state++) {
            kv_metrics_value(
                text, name, pool->stats.in_state[state],
                "pool=\"%u\",tier=\"%s\",domain=\"%u\",state=\"%s\"", i,
                tier_name(pool->config.tier), pool->config.domain,
                kvp_state_name(state));
        }
    }
}

static void
put_pools(struct kv_metric_text *text, const struct kvn_http_snapshot *snapshot)
{
    enum { NR = 4 };
    static const struct {
        const char *name, *help;
    } rows[NR] = {
        {"kvrail_pool_frames", "frames of the pool"},
        {"kvrail_pool_frame_bytes", "bytes of one frame"},
        {"kvrail_pool_limbo_frames",
         "frames kept by grants alone, leaving, arriving or in quarantine"},
        {"kvrail_pool_limbo_limit_frames", "most frames that may be so"},
    };
    put_frames(text, snapshot);
    for (unsigned row = 0; row < NR; row++) {
        kv_metrics_family(text, KV_METRIC_GAUGE, rows[row].name, rows[row].help);
        for (uint32_t i = 0; i < snapshot->nr_pools; i++) {
            const struct kvn_http_pool *pool = &snapshot->pools[i];
            const uint64_t values[NR] = {
                pool->stats.nr_frames, pool->config.frame_bytes, pool->stats.limbo,
                pool->stats.limbo_max};
            put_pool_value(text, rows[row].name, snapshot, i, values[row]);
        }
    }
}

static uint32_t links_up(const struct kvn_http_snapshot *snapshot)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < snapshot->nr_peers; i++) {
        nr += snapshot->peers[i].up;
    }
    return nr;
}

/* One line a member of the view: KVC_NODES_MAX of them at most. */
static void
put_peers(struct kv_metric_text *text, const struct kvn_http_snapshot *snapshot)
{
    static const char name[] = "kvrail_peer_up";
    kv_metrics_family(
        text, KV_METRIC_GAUGE, name, "1 when the link to that node is up");
    for (uint32_t i = 0; i < snapshot->nr_peers; i++) {
        kv_metrics_value(
            text, name, snapshot->peers[i].up, "peer=\"%u\"", snapshot->peers[i].id);
    }
    put_gauge(text, "kvrail_links_up", "links that are up", links_up(snapshot));
    put_gauge(
        text, "kvrail_links", "links to the other nodes of the view",
        snapshot->nr_peers);
}

static void
put_reads(struct kv_metric_text *text, const struct kvn_http_snapshot *snapshot)
{
    static const char name[] = "kvrail_transport_read_bytes_total";
    kv_metrics_family(
        text, KV_METRIC_COUNTER, name, "bytes of pages that came from peers");
    for (uint32_t i = 0; i < snapshot->nr_reads; i++) {
        kv_metrics_value(
            text, name, snapshot->reads[i].bytes, "transport=\"%s\"",
            snapshot->reads[i].transport);
    }
}

static void
put_node(struct kv_metric_text *text, const struct kvn_http_snapshot *snapshot)
{
    const struct kvc_dir_stats *dir = &snapshot->directory;
    put_gauge(
        text, "kvrail_view_epoch", "epoch of the cluster's view", snapshot->epoch);
    put_peers(text, snapshot);
    put_reads(text, snapshot);
    put_gauge(text, "kvrail_clients", "clients attached", snapshot->nr_clients);
    put_gauge(
        text, "kvrail_clients_remote", "clients attached from other hosts, of those",
        snapshot->nr_clients_remote);
    put_gauge(
        text, "kvrail_clients_fenced",
        "clients that hung up with sequences open, and whose process lives",
        snapshot->nr_clients_fenced);
    put_gauge(
        text, "kvrail_directory_cold",
        "1 while an absence in this directory proves nothing", snapshot->cold);
    put_gauge(text, "kvrail_directory_entries", "copies listed here", dir->nr_entries);
    put_gauge(
        text, "kvrail_directory_entries_limit", "copies that can be listed",
        dir->entries_max);
    put_gauge(
        text, "kvrail_directory_holdings", "holdings listed here", dir->nr_holdings);
    put_gauge(
        text, "kvrail_directory_holdings_limit", "holdings that can be listed",
        dir->holdings_max);
    put_pools(text, snapshot);
    kv_metrics_table(text, core_table, KV_COUNT_OF(core_table), &snapshot->core);
    put_misses(text, &snapshot->core);
    put_statuses(text, &snapshot->core);
    put_messages(
        text, "kvrail_messages_sent_total", "messages sent, by type",
        snapshot->core.sent);
    put_messages(
        text, "kvrail_messages_received_total", "messages taken, by type",
        snapshot->core.received);
    kv_metrics_table(text, pager_table, KV_COUNT_OF(pager_table), &snapshot->pager);
    put_edges(text, &snapshot->pager);
    put_counter(
        text, "kvrail_log_lines_total", "log lines written", snapshot->logs.written);
    put_counter(
        text, "kvrail_log_lines_dropped_total",
        "log lines lost: ring full, call site too fast, or the write failed",
        snapshot->logs.dropped);
}

/* ---- what the HTTP thread knows itself ----------------------------------------- */

static void put_build(struct kv_metric_text *text)
{
    static const char name[] = "kvrail_build_info";
    char compiler[128];
    kv_metrics_family(
        text, KV_METRIC_INFO, name, "what runs: version, compiler, digest in use");
    kv_metrics_value(
        text, name, 1, "version=\"%d.%d\",compiler=\"%s\",digest=\"%s\"",
        KVR_VERSION_MAJOR, KVR_VERSION_MINOR,
        kv_metrics_escape(__VERSION__, compiler, sizeof(compiler)), kv_digest_chosen());
}

static void put_http(struct kv_metric_text *text, const struct kvn_http_view *view)
{
    static const char requests[] = "kvrail_http_requests_total";
    static const char ended[] = "kvrail_http_connections_ended_total";
    kv_metrics_family(text, KV_METRIC_COUNTER, requests, "answers of this port");
#define X(code)                                                                        \
    kv_metrics_value(text, requests, view->counts.code_##code, "code=\"" #code "\"");
    KVN_HTTP_CODES(X)
#undef X
    kv_metrics_family(
        text, KV_METRIC_COUNTER, ended, "connections of this port cut short");
    kv_metrics_value(text, ended, view->counts.evicted, "reason=\"room\"");
    kv_metrics_value(text, ended, view->counts.expired, "reason=\"time\"");
    put_gauge(
        text, "kvrail_http_connections", "connections of this port", view->nr_conns);
}

static void
put_process(struct kv_metric_text *text, const struct kvn_http_process *process)
{
    if (process->has_memory) {
        put_gauge(
            text, "process_resident_memory_bytes", "resident memory",
            process->resident_bytes);
        put_gauge(
            text, "process_virtual_memory_bytes", "address space in use",
            process->virtual_bytes);
    }
    if (process->has_fds) {
        put_gauge(text, "process_open_fds", "open descriptors", process->open_fds);
        put_gauge(text, "process_max_fds", "most descriptors", process->max_fds);
    }
    kv_metrics_family(
        text, KV_METRIC_COUNTER, "process_cpu_seconds_total",
        "user and system time of all threads");
    kv_metrics_seconds(text, "process_cpu_seconds_total", process->cpu_us);
    if (process->has_start) {
        kv_metrics_family(
            text, KV_METRIC_GAUGE, "process_start_time_seconds",
            "start of the process, since 1970");
        kv_metrics_seconds(text, "process_start_time_seconds", process->start_us);
    }
}

void kvn_http_metrics(const struct kvn_http_view *view, struct kv_metric_text *text)
{
    put_build(text);
    if (view->snapshot != NULL) {
        kv_metrics_family(
            text, KV_METRIC_GAUGE, "kvrail_snapshot_age_seconds",
            "since the loop last published its numbers; more than the tick: stuck");
        kv_metrics_seconds(text, "kvrail_snapshot_age_seconds", view->age_us);
        put_node(text, view->snapshot);
    }
    put_http(text, view);
    put_process(text, &view->process);
    kv_metrics_end(text);
}

/* ---- health -------------------------------------------------------------------- */

unsigned kvn_http_health(const struct kvn_http_view *view, char *out, size_t cap)
{
    const struct kvn_http_snapshot *snapshot = view->snapshot;
    const unsigned uptime_ms = (unsigned)(view->uptime_us / 1000 % 1000);
    const uint64_t uptime = view->uptime_us / 1000000;
    if (snapshot == NULL) {
        snprintf(
            out, cap,
            "{\"status\":\"starting\",\"reason\":\"the loop has published nothing yet\""
            ",\"uptime_seconds\":%" PRIu64 ".%03u}\n",
            uptime, uptime_ms);
        return 503;
    }
    if (view->age_us > view->stuck_us) {
        snprintf(
            out, cap,
            "{\"status\":\"stuck\",\"reason\":\"no sign of life of the loop for "
            "%" PRIu64 " ms, the limit is %" PRIu64 " ms\",\"uptime_seconds\":%" PRIu64
            ".%03u,\"node\":%u,\"incarnation\":\"%016" PRIx64 "\"}\n",
            view->age_us / 1000, view->stuck_us / 1000, uptime, uptime_ms,
            snapshot->node, snapshot->incarnation);
        return 503;
    }
    snprintf(
        out, cap,
        "{\"status\":\"ok\",\"uptime_seconds\":%" PRIu64
        ".%03u,\"node\":%u,\"incarnation\":\"%016" PRIx64
        "\",\"links_up\":%u,\"links_total\":%u,\"cold\":%s}\n",
        uptime, uptime_ms, snapshot->node, snapshot->incarnation, links_up(snapshot),
        snapshot->nr_peers, snapshot->cold ? "true" : "false");
    return 200;
}

/* ---- which format -------------------------------------------------------------- */

/* Thousandths of the q of one media range, "…;version=1.0.0;q=0.75"; 1000 without. */
static unsigned range_quality(const char *range, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (range[i] != ';') {
            continue;
        }
        size_t k = i + 1;
        while (k < len && (range[k] == ' ' || range[k] == '\t')) {
            k++;
        }
        if (k + 2 < len && tolower((unsigned char)range[k]) == 'q'
            && range[k + 1] == '=') {
            unsigned quality = 0, place = 1000;
            for (k += 2; k < len && place > 0; k++) {
                if (isdigit((unsigned char)range[k])) {
                    quality += (unsigned)(range[k] - '0') * place;
                    place /= 10;
                } else if (range[k] != '.') {
                    break;
                }
            }
            return quality;
        }
    }
    return 1000;
}

static bool range_is(const char *range, size_t len, const char *type)
{
    const size_t type_len = strlen(type);
    return len >= type_len && strncasecmp(range, type, type_len) == 0
           && (len == type_len || strchr("; \t", range[type_len]) != NULL);
}

/* Only who names OpenMetrics gets it: a browser's or curl's wildcards mean text. */
enum kv_metric_format kvn_http_format(const char *accept)
{
    unsigned open = 0, plain = 0;
    for (const char *range = accept; range != NULL && *range != '\0';) {
        range += strspn(range, ", \t");
        const size_t len = strcspn(range, ",");
        const unsigned quality = range_quality(range, len);
        if (range_is(range, len, "application/openmetrics-text")) {
            open = quality > open ? quality : open;
        } else if (range_is(range, len, "text/plain")) {
            plain = quality > plain ? quality : plain;
        }
        range += len;
    }
    return open > 0 && open >= plain ? KV_METRIC_OPENMETRICS : KV_METRIC_PROMETHEUS;
}

/* ---- the loop's side ----------------------------------------------------------- */

void kvn_http_collect(
    kvo_node_t *core, const struct kvo_config *config, uint64_t now_us,
    struct kvn_http_snapshot *snapshot)
{
    const kvp_pager_t *pager = kvo_pager(core);
    const struct kvc_view *view = config->view;
    snapshot->node = config->node;
    snapshot->incarnation = config->incarnation;
    snapshot->epoch = view->epoch;
    snapshot->cold = kvc_dir_cold(kvo_directory(core), now_us);
    snapshot->core = *kvo_metrics(core);
    snapshot->pager = *kvp_metrics(pager);
    kvc_dir_stats(kvo_directory(core), &snapshot->directory);
    snapshot->nr_pools = config->pager.nr_pools;
    for (uint32_t i = 0; i < snapshot->nr_pools; i++) {
        snapshot->pools[i].config = config->pager.pools[i];
        kvp_pool_stats(pager, i, &snapshot->pools[i].stats);
    }
    snapshot->nr_peers = 0;
    for (uint32_t i = 0; i < view->nr; i++) {
        if (view->members[i].id != config->node) {
            snapshot->peers[snapshot->nr_peers++] = (struct kvn_http_peer){
                .id = view->members[i].id, .up = kvo_link_up(core, i)};
        }
    }
}
