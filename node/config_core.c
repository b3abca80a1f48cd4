/* From the configuration to what node/core takes. */
#include "node/config_priv.h"

#include "base/assert.h"

#include <string.h>

/* ---- pools ----------------------------------------------------------------------- */

/* The different page sizes of all spaces; how many. */
static uint32_t page_sizes(const struct kvn_config *config, uint64_t *sizes)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < config->nr_spaces; i++) {
        uint32_t j = 0;
        while (j < nr && sizes[j] != config->spaces[i].page_bytes) {
            j++;
        }
        if (j == nr) {
            sizes[nr++] = config->spaces[i].page_bytes;
        }
    }
    return nr;
}

/* `bytes` of one domain and tier, in equal shares for each page size. */
static kv_status_t add_pools(
    const struct kvn_config *config, struct kvp_config *pager, enum kvp_tier tier,
    uint32_t domain, uint64_t bytes, const char *field, struct kv_detail *detail)
{
    uint64_t sizes[KVN_CONFIG_SPACES_MAX];
    const uint32_t nr = page_sizes(config, sizes);
    KV_ASSERT(nr > 0);
    for (uint32_t i = 0; i < nr; i++) {
        const uint64_t frames = bytes / nr / sizes[i];
        if (frames == 0) {
            return kv_fail(detail, KV_ERR_CONFIG, field, sizes[i], bytes / nr);
        }
        if (pager->nr_pools == KVP_POOLS_MAX) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.pools", KVP_POOLS_MAX, KVP_POOLS_MAX + 1);
        }
        pager->pools[pager->nr_pools++] = (struct kvp_pool_config){
            .tier = tier,
            .domain = domain,
            .frame_bytes = (uint32_t)sizes[i],
            /* The pager numbers all frames of a node in 32 bits. */
            .nr_frames = frames < UINT32_MAX / 4 ? (uint32_t)frames : UINT32_MAX / 4,
        };
    }
    return KV_OK;
}

kv_status_t kvn_config_pools(
    const struct kvn_config *config, struct kvp_config *pager, struct kv_detail *detail)
{
    bool common = false;
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        common = common || config->tenants[i].domain == KVN_DOMAIN_COMMON;
    }
    kv_status_t status = KV_OK;
    if (common) {
        status = add_pools(
            config, pager, KVP_DEVICE, 0, config->device_bytes, "pager.device_bytes",
            detail);
        if (status == KV_OK && config->host_bytes > 0) {
            status = add_pools(
                config, pager, KVP_HOST, 0, config->host_bytes, "pager.host_bytes",
                detail);
        }
    }
    for (uint32_t i = 0; status == KV_OK && i < config->nr_tenants; i++) {
        const struct kvn_config_tenant *tenant = &config->tenants[i];
        if (tenant->domain != KVN_DOMAIN_OWN) {
            continue;
        }
        status = add_pools(
            config, pager, KVP_DEVICE, i + 1, tenant->device_bytes,
            "tenant.device_bytes", detail);
        if (status == KV_OK && tenant->host_bytes > 0) {
            status = add_pools(
                config, pager, KVP_HOST, i + 1, tenant->host_bytes, "tenant.host_bytes",
                detail);
        }
    }
    return status;
}

const struct kvn_config_tenant *
kvn_config_filler(const struct kvn_config *config, enum kvp_tier tier, uint32_t domain)
{
    if (tier != KVP_DEVICE || domain == 0 || domain > config->nr_tenants) {
        return NULL;
    }
    const struct kvn_config_tenant *tenant = &config->tenants[domain - 1];
    return tenant->domain == KVN_DOMAIN_OWN && tenant->fill ? tenant : NULL;
}

/* ---- the rest -------------------------------------------------------------------- */

/* The most groups that a space of this layout has: all are made with its first space,
 * so that group g of any space is variant (its group 0's) + g. */
static uint32_t groups_of(const struct kvn_config *config, uint64_t layout)
{
    uint32_t most = 0;
    for (uint32_t s = 0; s < config->nr_spaces; s++) {
        const struct kvn_config_space *space = &config->spaces[s];
        if (space->layout == layout && space->nr_groups > most) {
            most = space->nr_groups;
        }
    }
    return most;
}

/* One variant for each (layout, group) that some space has. */
static kv_status_t add_variants(
    const struct kvn_config *config, struct kvp_config *pager, struct kv_detail *detail)
{
    for (uint32_t s = 0; s < config->nr_spaces; s++) {
        const struct kvn_config_space *space = &config->spaces[s];
        for (uint16_t g = 0; g < groups_of(config, space->layout); g++) {
            uint32_t v = 0; /* a layout's groups follow each other: see groups_of() */
            while (v < pager->nr_variants
                   && (pager->variants[v].layout != space->layout
                       || pager->variants[v].group != g)) {
                v++;
            }
            if (v < pager->nr_variants) {
                continue;
            }
            if (v == KVP_VARIANTS_MAX) {
                return kv_fail(
                    detail, KV_ERR_CONFIG, "pager.variants", KVP_VARIANTS_MAX, v + 1);
            }
            pager->variants[pager->nr_variants++] = (struct kvp_variant_config){
                .layout = (uint32_t)space->layout,
                .group = g,
                .page_tokens = (uint32_t)space->page_tokens,
                .page_bytes = (uint32_t)space->page_bytes,
            };
        }
    }
    return KV_OK;
}

static kv_status_t add_tenants(
    const struct kvn_config *config, struct kvo_config *out, struct kv_detail *detail)
{
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        const struct kvn_config_tenant *tenant = &config->tenants[i];
        out->pager.tenants[i] = (struct kvp_tenant_config){
            .id = tenant->id,
            .domain = tenant->domain == KVN_DOMAIN_OWN ? i + 1 : 0,
            .ceiling =
                {(uint32_t)tenant->device_ceiling, (uint32_t)tenant->host_ceiling},
        };
        out->tenant_sequences[i] = (uint32_t)tenant->sequences;
        const kv_status_t status = kv_secret_check(
            tenant->secret_bytes, tenant->secret_len, &out->tenant_checks[i], detail);
        if (status != KV_OK) {
            return status;
        }
    }
    out->pager.nr_tenants = config->nr_tenants;
    return KV_OK;
}

static void add_transports(const struct kvn_config *config, struct kvo_config *out)
{
    out->nr_transports = 0;
    if (kvn_transports_loop(config->transports)) {
        out->transports[out->nr_transports++] =
            (struct kvo_transport){.kind = KVO_NAMED, .name = "loop"};
    }
    if (kvn_transports_shm(config->transports)) {
        out->transports[out->nr_transports++] =
            (struct kvo_transport){.kind = KVO_ONE_SIDED, .name = "shm"};
    }
    if (kvn_transports_tcp(config->transports)) {
        out->transports[out->nr_transports++] =
            (struct kvo_transport){.kind = KVO_NAMED, .name = "tcp"};
    }
}

static void add_limits(const struct kvn_config *config, struct kvo_config *out)
{
    out->grant_us = config->grant_us;
    out->call_us = config->call_us;
    out->double_us = config->double_us;
    out->read_us = config->read_us;
    out->revoke_us = config->revoke_us;
    out->spill_us = config->spill_us;
    out->redial_us = config->redial_us;
    out->tick_us = config->tick_us;
    out->spill = config->spill;
    out->nr_clients = (uint32_t)config->nr_clients;
    out->nr_ops = (uint32_t)config->nr_ops;
    out->nr_items = (uint32_t)config->nr_items;
    out->nr_calls = (uint32_t)config->nr_calls;
    out->nr_reads = (uint32_t)config->nr_reads;
    out->nr_grants = (uint32_t)config->nr_grants;
    out->nr_spills = (uint32_t)config->nr_spills;
    out->sync_items = (uint32_t)config->sync_items;
    out->pager.nr_sequences = (uint32_t)config->nr_sequences;
    out->pager.nr_leaves = (uint32_t)config->nr_leaves;
    out->pager.nr_retired = (uint32_t)config->nr_retired;
    out->directory.nr_entries = (uint32_t)config->dir_entries;
    out->directory.nr_holdings = (uint32_t)config->dir_holdings;
    out->directory.cold_us = config->dir_cold_us;
}

kv_status_t kvn_config_core(
    const struct kvn_config *config, uint32_t node, uint64_t incarnation, uint64_t seed,
    struct kvo_config *out, struct kv_detail *detail)
{
    memset(out, 0, sizeof(*out));
    if (kvc_view_index(&config->view, node) == KVC_NO_NODE) {
        return kv_fail(detail, KV_ERR_CONFIG, "cluster.node", config->nr_nodes, node);
    }
    out->node = node;
    out->incarnation = incarnation;
    out->cluster = config->cluster_name;
    out->view = &config->view;
    out->liveness = config->liveness;
    out->seed = seed;
    out->pager.evict = kvp_evict_find(config->evict == 0 ? "lru" : "fifo");
    out->pager.verify_local = config->verify_local;
    out->pager.verify_sample = config->verify_sample;
    out->pager.free_target_divisor = (uint32_t)config->free_target;
    out->pager.seed = seed;
    add_transports(config, out);
    add_limits(config, out);
    kv_status_t status = add_tenants(config, out, detail);
    if (status == KV_OK) {
        status = kvn_config_pools(config, &out->pager, detail);
    }
    if (status == KV_OK) {
        status = add_variants(config, &out->pager, detail);
    }
    return status;
}
