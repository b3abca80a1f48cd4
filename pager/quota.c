/* Ceilings: how many frames of a tier one tenant may hold. Every frame that is not FREE
 * counts, so what arrives, leaves or waits in QUARANTINE is paid for too. */
#include "pager/pager_priv.h"

static uint32_t
ceiling_of(const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier)
{
    KV_ASSERT(tenant < p->config.nr_tenants);
    KV_ASSERT(tier < KVP_NR_TIERS);
    const uint32_t ceiling = p->config.tenants[tenant].ceiling[tier];
    return ceiling != 0 ? ceiling : UINT32_MAX;
}

bool kvp_quota_ever(
    const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t n)
{
    return n <= ceiling_of(p, tenant, tier);
}

uint32_t kvp_quota_over(
    const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t n)
{
    const uint64_t want = (uint64_t)p->used[tenant][tier] + n;
    const uint32_t ceiling = ceiling_of(p, tenant, tier);

    KV_ASSERT(p->used[tenant][tier] <= ceiling);
    return want > ceiling ? (uint32_t)(want - ceiling) : 0;
}

uint32_t kvp_quota_idle(const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier)
{
    const struct kvp_shelf *shelf = &p->shelves[tenant][tier];
    uint32_t nr = 0;

    for (uint32_t i = 0; i < shelf->nr_pools; i++) {
        const struct kvp_pool *pool = &p->pools[shelf->pools[i]];
        nr += pool->idle_of[tenant] + kvp_ready_nr(p, pool, tenant);
    }
    KV_ASSERT(nr <= p->used[tenant][tier]);
    return nr;
}

static uint32_t victim_in(struct kvp_pager *p, uint16_t tenant, struct kvp_pool *pool)
{
    const uint32_t ready = kvp_ready_first(p, pool, tenant);

    if (ready != KVP_NO_FRAME) {
        return ready;
    }
    return pool->idle_of[tenant] > 0 ? kvp_victim(p, pool, tenant) : KVP_NO_FRAME;
}

uint32_t kvp_quota_victim(
    struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, struct kvp_pool *pool)
{
    const struct kvp_shelf *shelf = &p->shelves[tenant][tier];

    KV_ASSERT(pool->config.tier == tier);
    uint32_t victim = victim_in(p, tenant, pool);
    for (uint32_t i = 0; i < shelf->nr_pools && victim == KVP_NO_FRAME; i++) {
        victim = victim_in(p, tenant, &p->pools[shelf->pools[i]]);
    }
    return victim;
}

uint32_t kvp_used(const kvp_pager_t *pager, uint16_t tenant, enum kvp_tier tier)
{
    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(tier < KVP_NR_TIERS);
    return pager->used[tenant][tier];
}
