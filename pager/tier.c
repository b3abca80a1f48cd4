/* Pools of frames: where a copy fits, what is free, what must go to make room. */
#include "pager/pager_priv.h"

struct kvp_pool *
kvp_pool_fit(struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t len)
{
    const struct kvp_shelf *shelf = &p->shelves[tenant][tier];

    KV_ASSERT(tenant < p->config.nr_tenants);
    for (uint32_t i = 0; i < shelf->nr_pools; i++) {
        struct kvp_pool *pool = &p->pools[shelf->pools[i]];
        if (pool->config.frame_bytes >= len) {
            return pool;
        }
    }
    return NULL;
}

struct victim_arg {
    struct kvp_pager *p;
    const struct kvp_pool *pool;
};

static bool victim_ok(void *arg, uint32_t slot)
{
    const struct victim_arg *a = arg;
    struct kvp_frame *f = &a->p->frames[a->pool->base + slot];

    KV_ASSERT(kvp_in_policy(f));
    if (kvp_frame_class(f) == KVP_CLASS_IDLE) {
        return true;
    }
    f->flags |= KVP_F_PARKED; /* kvp_settle() touches it when it is idle again */
    return false;
}

uint32_t kvp_victim(struct kvp_pager *p, struct kvp_pool *pool, uint16_t tenant)
{
    struct victim_arg arg = {.p = p, .pool = pool};
    const uint32_t slot = p->config.evict->victim(pool->evict, tenant, victim_ok, &arg);

    KV_ASSERT(slot == KVP_NO_SLOT || slot < pool->config.nr_frames);
    /* Idle frames are always offered; with none there is nothing to give. */
    KV_ASSERT(
        (slot == KVP_NO_SLOT)
        == ((tenant == KVP_ANY_TENANT ? pool->in_class[KVP_CLASS_IDLE]
                                      : pool->idle_of[tenant])
            == 0));
    return slot == KVP_NO_SLOT ? KVP_NO_FRAME : pool->base + slot;
}

uint64_t kvp_reach_us(kvp_pager_t *pager, uint32_t pool)
{
    KV_ASSERT(pool < pager->config.nr_pools);
    struct kvp_pool *from = &pager->pools[pool];
    struct victim_arg arg = {.p = pager, .pool = from};

    if (from->in_state[KVP_FREE] + from->nr_ready > kvp_free_target(pager, from)) {
        return 0;
    }
    const uint32_t slot = pager->config.evict->coldest(from->evict, victim_ok, &arg);
    return slot == KVP_NO_SLOT ? pager->now_us
                               : pager->cold[from->base + slot].last_use_us;
}

uint64_t kvp_victim_age(const struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT(i < p->nr_frames);
    return p->cold[i].first || p->cold[i].ready ? 0 : p->cold[i].last_use_us;
}

bool kvp_limbo_room(const struct kvp_pool *pool, uint32_t peer)
{
    KV_ASSERT(peer == KVP_OWN || peer < KVP_PEERS_MAX);
    if (peer != KVP_OWN && pool->of_peer[peer] >= pool->limbo_max / 2) {
        return false;
    }
    /* What is granted and referenced counts too: it is in limbo as soon as its
     * references end, and nobody can refuse that. */
    return pool->in_class[KVP_CLASS_LIMBO] + pool->in_class[KVP_CLASS_SOON]
           < pool->limbo_max;
}

static kv_status_t refuse(struct kvp_pager *p, kv_status_t status)
{
    KV_ASSERT(status == KV_ERR_AGAIN || status == KV_ERR_QUOTA);
    p->metrics.again += (status == KV_ERR_AGAIN);
    p->metrics.quota += (status == KV_ERR_QUOTA);
    return status;
}

kv_status_t kvp_room(
    struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t len, uint32_t n,
    struct kvp_pool **pool_p)
{
    struct kvp_pool *pool = kvp_pool_fit(p, tenant, tier, len);

    if (pool == NULL || n > pool->config.nr_frames) {
        return KV_ERR_TOO_LARGE;
    }
    const uint32_t over = kvp_quota_over(p, tenant, tier, n);
    if (!kvp_quota_ever(p, tenant, tier, n)
        || (over > 0 && over > kvp_quota_idle(p, tenant, tier))) {
        return refuse(p, KV_ERR_QUOTA);
    }
    /* The tenant's own that go for its ceiling are among the ready and the idle, so
     * this one sum tells whether all n can be had: nothing is dropped in vain. */
    const uint32_t nr_free = pool->in_state[KVP_FREE];
    if (n > nr_free
        && n - nr_free > pool->in_class[KVP_CLASS_IDLE]
                             + kvp_ready_nr(p, pool, KVP_ANY_TENANT)) {
        return refuse(p, KV_ERR_AGAIN);
    }
    for (uint32_t i = 0; i < over; i++) {
        kvp_drop_frame(p, kvp_quota_victim(p, tenant, tier, pool), true);
    }
    while (pool->in_state[KVP_FREE] < n && kvp_ready_drop(p, pool)) {
    }
    while (pool->in_state[KVP_FREE] < n) {
        kvp_drop_frame(p, kvp_victim(p, pool, KVP_ANY_TENANT), true);
    }
    *pool_p = pool;
    return KV_OK;
}

/* May this one go for the arrival? */
static bool
gives_way(const struct kvp_pager *p, const struct kvp_arrival *arrival, uint32_t victim)
{
    KV_ASSERT(arrival->tenant < p->config.nr_tenants);
    if (victim != KVP_NO_FRAME && p->cold[victim].ready) {
        return true; /* it only waits for somebody who needs its frame */
    }
    if (victim == KVP_NO_FRAME || !arrival->may_drop) {
        return false;
    }
    return !arrival->by_age || kvp_victim_age(p, victim) < arrival->last_use_us;
}

kv_status_t kvp_room_arrival(
    struct kvp_pager *p, const struct kvp_arrival *arrival, uint32_t len,
    struct kvp_pool **pool_p)
{
    const uint16_t tenant = arrival->tenant;
    const enum kvp_tier tier = arrival->tier;
    struct kvp_pool *pool = kvp_pool_fit(p, tenant, tier, len);
    uint32_t own = KVP_NO_FRAME, other = KVP_NO_FRAME;

    if (pool == NULL) {
        return KV_ERR_TOO_LARGE;
    }
    if (!kvp_limbo_room(pool, arrival->peer)) {
        return refuse(p, KV_ERR_AGAIN);
    }
    if (kvp_quota_over(p, tenant, tier, 1) > 0) {
        own = kvp_quota_victim(p, tenant, tier, pool);
        if (!gives_way(p, arrival, own)) {
            return refuse(p, KV_ERR_QUOTA);
        }
    }
    const bool own_is_here =
        own != KVP_NO_FRAME && &p->pools[p->frames[own].pool] == pool;
    const uint32_t target = kvp_free_target(p, pool);
    /* What only waits to go is as good as free. */
    const uint32_t nr_free =
        pool->in_state[KVP_FREE] + kvp_ready_nr(p, pool, KVP_ANY_TENANT);
    if (arrival->peer != KVP_OWN && nr_free <= target && !own_is_here) {
        /* What is kept free is no room to spare: a spill comes in for something clearly
         * older, which then leaves by itself (kvp_pressure). */
        other = kvp_victim(p, pool, KVP_ANY_TENANT);
        if (!gives_way(p, arrival, other)
            || kvp_victim_age(p, other) + KVP_SPILL_MARGIN_US > arrival->last_use_us) {
            return refuse(p, KV_ERR_AGAIN);
        }
        other = nr_free > 0 ? KVP_NO_FRAME : other;
    } else if (nr_free <= (arrival->keep_reserve ? target / 2 : 0) && !own_is_here) {
        other = kvp_victim(p, pool, KVP_ANY_TENANT);
        if (!gives_way(p, arrival, other)) {
            return refuse(p, KV_ERR_AGAIN);
        }
    }
    if (own != KVP_NO_FRAME) {
        kvp_drop_frame(p, own, true);
    }
    if (other != KVP_NO_FRAME) {
        kvp_drop_frame(p, other, true);
    } else if (pool->in_state[KVP_FREE] == 0) {
        (void)kvp_ready_drop(p, pool);
    }
    KV_ASSERT(pool->in_state[KVP_FREE] > 0);
    *pool_p = pool;
    return KV_OK;
}

uint32_t kvp_frame_alloc(
    struct kvp_pager *p, struct kvp_pool *pool, uint16_t tenant, uint16_t variant,
    enum kvp_frame_state state)
{
    const uint32_t i = pool->free_head;

    KV_ASSERT(i != KVP_NO_FRAME);
    KV_ASSERT(state == KVP_FILLING || state == KVP_ARRIVING);
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];

    kvp_frame_check(p, i); /* (1) */
    pool->free_head = cold->next_free;
    f->tenant = tenant;
    f->variant = variant;
    f->refs = state == KVP_FILLING;
    f->ios = state == KVP_ARRIVING;
    *cold = (struct kvp_frame_cold){
        .next_free = KVP_NO_FRAME,
        .peer = KVP_OWN,
        .seq = KVP_NO_SEQ,
        .copy_src = KVP_NO_FRAME,
        .order_gen = KV_PLANTED(KV_PLANT_NO_GENERATION) ? 0 : cold->order_gen,
        .bytes_of = cold->bytes_of,
    };
    p->used[tenant][pool->config.tier]++;
    kvp_frame_move(p, i, state);
    return i;
}

void kvp_frame_free(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    struct kvp_pool *pool = &p->pools[f->pool];
    const struct kvp_ref was = kvp_ref_of(p, i);

    KV_ASSERT(cold->work == KVP_WORK_NONE);
    KV_ASSERT(f->twin == KVP_NO_FRAME);
    if (cold->peer != KVP_OWN) {
        KV_ASSERT(pool->of_peer[cold->peer] > 0);
        pool->of_peer[cold->peer]--;
        cold->peer = KVP_OWN;
    }
    KV_ASSERT(p->used[f->tenant][pool->config.tier] > 0);
    p->used[f->tenant][pool->config.tier]--;
    f->flags = 0;
    kvp_frame_move(p, i, KVP_FREE);
    cold->next_free = pool->free_head;
    pool->free_head = i;
    p->out.freed(p->out.arg, was);
}

void kvp_pool_stats(
    const kvp_pager_t *pager, uint32_t pool, struct kvp_pool_stats *stats)
{
    KV_ASSERT(pool < pager->config.nr_pools);
    const struct kvp_pool *from = &pager->pools[pool];

    stats->nr_frames = from->config.nr_frames;
    memcpy(stats->in_state, from->in_state, sizeof(stats->in_state));
    stats->ready = kvp_ready_nr(pager, from, KVP_ANY_TENANT);
    stats->idle = from->in_class[KVP_CLASS_IDLE];
    stats->limbo = from->in_class[KVP_CLASS_LIMBO];
    stats->limbo_max = from->limbo_max;
}
