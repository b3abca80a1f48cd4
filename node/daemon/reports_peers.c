/* The other members of the view, and the spaces: lists, a part at a time. */
#include "node/daemon/reports_priv.h"

static void put_data(
    const struct kvn_report *report, uint32_t peer, const struct kvo_peer_info *info)
{
    const struct kvn_report_source *source = report->source;
    struct kvn_json *json = report->json;
    uint32_t out = 0, in = 0;
    if (source->data_conns != NULL) {
        source->data_conns(source->arg, peer, &out, &in);
    }
    kvn_json_open(json, "data", '{');
    kvn_json_text(json, "out", info->out);
    kvn_json_text(json, "in", info->in);
    kvn_json_number(json, "out_connections", out);
    kvn_json_number(json, "in_connections", in);
    kvn_json_close(json);
}

static void put_tenants(const struct kvn_report *report, uint64_t tenants)
{
    const struct kvp_config *pager = &report->source->core_config->pager;
    kvn_json_open(report->json, "tenants", '[');
    for (uint32_t i = 0; i < pager->nr_tenants; i++) {
        if ((tenants >> i & 1) != 0) {
            kvn_json_number(report->json, NULL, pager->tenants[i].id);
        }
    }
    kvn_json_close(report->json);
}

static void put_peer(const struct kvn_report *report, uint32_t peer)
{
    const struct kvn_report_source *source = report->source;
    const struct kvn_config_node *member = &source->config->nodes[peer];
    struct kvn_json *json = report->json;
    struct kvo_peer_info info;
    kvo_peer_info(source->core, source->now_us, peer, &info);
    kvn_json_open(json, NULL, '{');
    kvn_json_number(json, "node", member->id);
    kvn_json_text(json, "address", member->address);
    kvn_json_number(json, "weight", member->weight);
    kvn_json_text(json, "link", info.state);
    kvn_json_flag(json, "up", info.up);
    kvn_json_flag(json, "dialled", info.dialled);
    kvn_json_number(json, "since_us", info.since_us);
    kvn_json_text(json, "life", kvn_report_life(info.life));
    kvn_json_number(json, "silent_us", info.silent_us);
    if (info.incarnation != 0) {
        kvn_json_hex64(json, "incarnation", info.incarnation);
    } else {
        kvn_json_none(json, "incarnation");
    }
    if (info.up) {
        kvn_json_text(json, "transport", info.transport);
    } else {
        kvn_json_none(json, "transport");
    }
    put_data(report, peer, &info);
    put_tenants(report, info.tenants);
    kvn_json_number(json, "listed_there", info.listed_there);
    kvn_json_number(json, "listed_here", info.listed_here);
    kvn_json_open(json, "sync", '{');
    kvn_json_flag(json, "owed_by_it", info.owes_sync);
    kvn_json_flag(json, "under_way_to_it", info.syncing);
    kvn_json_number(json, "stream_out", info.stream_out);
    kvn_json_number(json, "stream_in", info.stream_in);
    kvn_json_close(json);
    kvn_json_number(json, "fetched_bytes", info.fetched_bytes);
    kvn_json_number(json, "served_bytes", info.served_bytes);
    kvn_json_number(json, "free_frames", info.free_frames);
    kvn_json_number(json, "reach_us", info.reach_us);
    kvn_json_close(json);
}

/* `first`, and how many there are in all: who wants the rest asks again. */
static void put_extent(const struct kvn_report *report, uint32_t of)
{
    kvn_json_number(report->json, "first", report->ask->first);
    kvn_json_number(report->json, "of", of);
}

kv_status_t kvn_report_peers(const struct kvn_report *report)
{
    const struct kvn_report_source *source = report->source;
    const uint32_t self = kvn_report_self(source);
    const uint32_t nr = source->core_config->view->nr - 1;
    uint32_t i = report->ask->first, left = KVN_REPORT_ITEMS_MAX;
    kvn_json_number(report->json, "node", source->core_config->node);
    put_extent(report, nr);
    kvn_json_open(report->json, "peers", '[');
    for (; i < nr && left > 0; i++, left--) {
        put_peer(report, i < self ? i : i + 1);
    }
    kvn_json_close(report->json);
    return KV_OK;
}

/* ---- spaces ---------------------------------------------------------------------- */

static void put_groups(struct kvn_json *json, const struct kvn_config_space *space)
{
    static const char *const kinds[] = {
        [KV_GROUP_FULL] = "full",
        [KV_GROUP_WINDOW] = "window",
        [KV_GROUP_STATE] = "state"};
    kvn_json_open(json, "groups", '[');
    for (uint32_t g = 0; g < space->nr_groups; g++) {
        kvn_json_open(json, NULL, '{');
        kvn_json_text(json, "kind", kinds[space->groups[g].kind]);
        kvn_json_number(json, "window", space->groups[g].window);
        kvn_json_close(json);
    }
    kvn_json_close(json);
}

static void
put_space(const struct kvn_report *report, const struct kvn_config_space *space)
{
    struct kvn_json *json = report->json;
    kvn_json_open(json, NULL, '{');
    kvn_json_text(json, "name", space->section.name);
    kvn_json_hex(json, "id", &space->id, sizeof(space->id));
    kvn_json_text(json, "model", space->model);
    kvn_json_text(json, "revision", space->revision);
    kvn_json_text(json, "format", space->format);
    kvn_json_text(json, "tag", space->tag);
    kvn_json_number(json, "page_tokens", space->page_tokens);
    kvn_json_number(json, "page_bytes", space->page_bytes);
    kvn_json_number(json, "layout", space->layout);
    kvn_json_number(json, "shards", 1); /* shard groups are not served yet */
    put_groups(json, space);
    put_tenants(report, report->asker->tenants); /* every tenant may use each */
    kvn_json_close(json);
}

kv_status_t kvn_report_spaces(const struct kvn_report *report)
{
    const struct kvn_config *config = report->source->config;
    uint32_t i = report->ask->first, left = KVN_REPORT_ITEMS_MAX;
    put_extent(report, config->nr_spaces);
    kvn_json_open(report->json, "spaces", '[');
    for (; i < config->nr_spaces && left > 0; i++, left--) {
        put_space(report, &config->spaces[i]);
    }
    kvn_json_close(report->json);
    kvn_json_open(report->json, "tenants", '[');
    for (uint32_t t = 0; t < config->nr_tenants; t++) {
        if (kvn_report_covers(report, t)) {
            kvn_report_tenant(report, t);
        }
    }
    kvn_json_close(report->json);
    return KV_OK;
}
