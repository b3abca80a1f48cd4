/* One page: is it here, whose segment is it, who would be asked, who would be read. The
 * same functions decide here as for a request; nothing is taken, touched or counted. */
#include "node/daemon/reports_priv.h"

#include <string.h>

/* What the question is about, in the node's own numbers. */
struct subject {
    uint16_t tenant, variant;
    const struct kvn_config_space *space;
    struct kv_copy copy;
    kv_key_t segment;
    const char *segment_from;
};

static kv_status_t find_tenant(const struct kvn_report *report, struct subject *subject)
{
    const struct kvp_config *pager = &report->source->core_config->pager;
    uint32_t nr = 0;
    for (uint32_t i = 0; i < pager->nr_tenants; i++) {
        const bool meant = (report->ask->flags & KVN_ASK_TENANT) == 0
                           || pager->tenants[i].id == report->tenant;
        if (meant && kvn_report_covers(report, i)) {
            subject->tenant = (uint16_t)i;
            nr++;
        }
    }
    if (nr > 1) {
        return kv_fail(report->detail, KV_ERR_INVALID, "ask.tenants", 1, nr);
    }
    return nr == 1 ? KV_OK : KV_ERR_DENIED;
}

static kv_status_t find_space(const struct kvn_report *report, struct subject *subject)
{
    const struct kvn_config *config = report->source->config;
    const struct kvn_packet_ask *ask = report->ask;
    uint32_t nr = 0;
    for (uint32_t i = 0; i < config->nr_spaces; i++) {
        if (ask->space[0] == '\0'
            || strcmp(ask->space, config->spaces[i].section.name) == 0) {
            subject->space = &config->spaces[i];
            nr++;
        }
    }
    if (nr != 1) {
        return kv_fail(report->detail, KV_ERR_INVALID, "ask.spaces", 1, nr);
    }
    if (ask->group >= subject->space->nr_groups) {
        return kv_fail(
            report->detail, KV_ERR_INVALID, "ask.group", subject->space->nr_groups - 1,
            ask->group);
    }
    const uint32_t layout = (uint32_t)subject->space->layout;
    subject->variant =
        kvp_variant(kvo_pager(report->source->core), layout, (uint16_t)ask->group, 0);
    KV_ASSERT(subject->variant != UINT16_MAX);
    return KV_OK;
}

static void put_copy(
    struct kvn_json *json, const struct kvn_report *report, const struct kvp_info *info)
{
    const uint64_t now = report->source->now_us;
    kvn_json_open(json, NULL, '{');
    kvn_json_text(json, "tier", kvn_report_tier(info->tier));
    kvn_json_text(json, "state", kvp_state_name(info->state));
    kvn_json_number(json, "frame", info->ref.frame);
    kvn_json_number(json, "generation", info->ref.gen);
    kvn_json_number(json, "tokens", info->n_tokens);
    kvn_json_number(json, "bytes", info->len);
    kvn_json_hex64(json, "digest", info->digest);
    kvn_json_number(
        json, "unused_us", now > info->last_use_us ? now - info->last_use_us : 0);
    kvn_json_number(json, "references", info->refs);
    kvn_json_number(json, "pins", info->pins);
    kvn_json_number(json, "grants", info->grants);
    kvn_json_number(json, "orders", info->ios);
    kvn_json_flag(json, "tail", info->tail);
    kvn_json_flag(json, "listed", info->hold != 0);
    kvn_json_flag(json, "verifying", info->verifying);
    kvn_json_flag(json, "spilled", info->spilled);
    kvn_json_flag(json, "cool", info->cool);
    kvn_json_close(json);
}

/* Its copies in our tiers; the first is the one that would be read. */
static bool put_here(const struct kvn_report *report, struct subject *subject)
{
    kvp_pager_t *pager = kvo_pager(report->source->core);
    struct kvn_json *json = report->json;
    struct kvp_ref ref;
    struct kvp_info info;
    kvn_json_open(json, "here", '[');
    const bool found =
        kvp_lookup(pager, subject->tenant, subject->variant, &report->ask->key, 1, &ref)
        == 1;
    if (found) {
        KV_ASSERT(kvp_info(pager, ref, &info) == KV_OK);
        put_copy(json, report, &info);
        if ((report->ask->flags & KVN_ASK_SEGMENT) == 0) {
            subject->segment = info.segment;
            subject->segment_from = "copy";
        }
        if (info.twin != KVP_NO_FRAME) {
            kvp_frame_at(pager, info.twin, &info);
            put_copy(json, report, &info);
        }
    }
    kvn_json_close(json);
    return found;
}

static const char *miss_name(enum kv_miss reason)
{
    static const char *const names[KV_NR_MISSES] = {
#define X(symbol, name, what) [symbol] = (name),
        KV_MISS_MAP(X)
#undef X
    };
    return names[reason];
}

static void put_node(const struct kvn_report *report, uint32_t node)
{
    const struct kvn_report_source *source = report->source;
    struct kvn_json *json = report->json;
    const bool self = node == kvn_report_self(source);
    kvn_json_open(json, NULL, '{');
    kvn_json_number(json, "node", source->core_config->view->members[node].id);
    kvn_json_flag(json, "self", self);
    kvn_json_flag(json, "usable", kvo_peer_usable(source->core, node));
    if (self) {
        kvn_json_text(json, "link", "self");
        kvn_json_text(json, "life", "alive");
    } else {
        struct kvo_peer_info info;
        kvo_peer_info(source->core, source->now_us, node, &info);
        kvn_json_text(json, "link", info.state);
        kvn_json_text(json, "life", kvn_report_life(info.life));
    }
    kvn_json_close(json);
}

/* What would become of a GET. `node`: who would be asked or read, KVC_NO_NODE: nobody.
 */
struct verdict {
    const char *would; /* "hit", "fetch", "ask", "miss" */
    uint32_t node;
    enum kv_miss reason; /* of "miss" */
};

static struct verdict judge_home(
    const struct kvn_report *report, const struct subject *subject,
    const uint32_t *homes, uint32_t nr_homes, const uint32_t *holders,
    uint32_t nr_holders)
{
    const struct kvn_report_source *source = report->source;
    const uint32_t self = kvn_report_self(source);
    for (uint32_t i = 0; i < nr_holders; i++) {
        if (holders[i] != self && kvo_peer_usable(source->core, holders[i])) {
            return (struct verdict){"fetch", holders[i], KV_MISS_NOT_FOUND};
        }
    }
    if (nr_holders > 0) {
        return (struct verdict){"miss", KVC_NO_NODE, KV_MISS_PEER_LOST};
    }
    if (kvc_dir_cold(kvo_directory(source->core), source->now_us)) {
        for (uint32_t i = 0; i < nr_homes; i++) {
            if (homes[i] != self && kvo_peer_usable(source->core, homes[i])) {
                return (struct verdict){"ask", homes[i], KV_MISS_NOT_FOUND};
            }
        }
        return (struct verdict){"miss", KVC_NO_NODE, KV_MISS_COLD_HOME};
    }
    return (struct verdict){
        "miss", KVC_NO_NODE,
        kvp_miss_reason(
            kvo_pager(source->core), subject->tenant, subject->variant,
            &report->ask->key)};
}

static struct verdict
judge_asker(const struct kvn_report *report, const uint32_t *homes, uint32_t nr_homes)
{
    for (uint32_t i = 0; i < nr_homes; i++) {
        if (kvo_peer_usable(report->source->core, homes[i])) {
            return (struct verdict){"ask", homes[i], KV_MISS_NOT_FOUND};
        }
    }
    return (struct verdict){"miss", KVC_NO_NODE, KV_MISS_PEER_LOST};
}

static void put_verdict(const struct kvn_report *report, const struct verdict *verdict)
{
    const struct kvn_report_source *source = report->source;
    struct kvn_json *json = report->json;
    kvn_json_open(json, "verdict", '{');
    kvn_json_text(json, "would", verdict->would);
    if (verdict->node != KVC_NO_NODE) {
        kvn_json_number(
            json, "node", source->core_config->view->members[verdict->node].id);
    } else {
        kvn_json_none(json, "node");
    }
    if (strcmp(verdict->would, "fetch") == 0) {
        struct kvo_peer_info info;
        kvo_peer_info(source->core, source->now_us, verdict->node, &info);
        kvn_json_text(json, "transport", info.transport);
    }
    if (strcmp(verdict->would, "miss") == 0) {
        kvn_json_text(json, "reason", miss_name(verdict->reason));
    }
    kvn_json_close(json);
}

/* Homes in order; what this one lists, when it is one of them; then the verdict. */
static void
put_homes(const struct kvn_report *report, const struct subject *subject, bool found)
{
    const struct kvn_report_source *source = report->source;
    const uint32_t self = kvn_report_self(source);
    struct kvn_json *json = report->json;
    uint32_t homes[KVC_HOMES], holders[KVC_HOLDERS_MAX], nr_holders = 0;
    const uint32_t nr_homes =
        kvc_homes(source->core_config->view, &subject->segment, KVC_HOMES, homes);
    bool home = false;
    kvn_json_open(json, "homes", '[');
    for (uint32_t i = 0; i < nr_homes; i++) {
        put_node(report, homes[i]);
        home = home || homes[i] == self;
    }
    kvn_json_close(json);
    if (home) {
        const kvc_dir_t *dir = kvo_directory(source->core);
        nr_holders =
            kvc_dir_holders(dir, &subject->copy, KVC_NO_NODE, KVC_HOLDERS_MAX, holders);
        kvn_json_open(json, "directory", '{');
        kvn_json_flag(json, "cold", kvc_dir_cold(dir, source->now_us));
        kvn_json_open(json, "holders", '[');
        for (uint32_t i = 0; i < nr_holders; i++) {
            put_node(report, holders[i]);
        }
        kvn_json_close(json);
        kvn_json_close(json);
    } else {
        kvn_json_none(json, "directory");
    }
    struct verdict verdict = {"hit", self, KV_MISS_NOT_FOUND};
    if (!found) {
        verdict =
            home ? judge_home(report, subject, homes, nr_homes, holders, nr_holders)
                 : judge_asker(report, homes, nr_homes);
    }
    put_verdict(report, &verdict);
}

kv_status_t kvn_report_explain(const struct kvn_report *report)
{
    const struct kvn_packet_ask *ask = report->ask;
    struct kvn_json *json = report->json;
    struct subject subject = {0};
    kv_status_t status = find_tenant(report, &subject);
    if (status == KV_OK) {
        status = find_space(report, &subject);
    }
    if (status != KV_OK) {
        return status;
    }
    const struct kvp_config *pager = &report->source->core_config->pager;
    const struct kvp_variant_config *variant = &pager->variants[subject.variant];
    subject.copy = (struct kv_copy){
        .tenant = pager->tenants[subject.tenant].id,
        .layout = variant->layout,
        .group = variant->group,
        .shard = variant->shard,
        .key = ask->key,
    };
    const bool given = (ask->flags & KVN_ASK_SEGMENT) != 0;
    subject.segment = given ? ask->segment : ask->key;
    subject.segment_from = given ? "asker" : "assumed";
    kvn_json_number(json, "node", report->source->core_config->node);
    kvn_json_hex(json, "key", &ask->key, sizeof(ask->key));
    kvn_json_number(json, "tenant", subject.copy.tenant);
    kvn_json_text(json, "space", subject.space->section.name);
    kvn_json_number(json, "group", ask->group);
    kvn_json_number(json, "variant", subject.variant); /* what clients call it by */
    const bool found = put_here(report, &subject);
    kvn_json_open(json, "segment", '{');
    kvn_json_hex(json, "key", &subject.segment, sizeof(subject.segment));
    kvn_json_text(json, "from", subject.segment_from);
    kvn_json_close(json);
    if (!found) {
        const enum kv_miss reason = kvp_miss_reason(
            kvo_pager(report->source->core), subject.tenant, subject.variant,
            &ask->key);
        kvn_json_text(json, "absent", miss_name(reason));
    }
    put_homes(report, &subject, found);
    return KV_OK;
}
