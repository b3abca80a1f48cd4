/* Leaving: what goes before room is short, so that it can be kept somewhere colder. */
#include "pager/pager_priv.h"

/* A share of the pool, but enough for a burst of demands where the pool is small. */
uint32_t kvp_free_target(const struct kvp_pager *p, const struct kvp_pool *pool)
{
    const uint32_t divisor = p->config.free_target_divisor, nr = pool->config.nr_frames;
    const uint32_t floor = nr / 8 < KVP_FREE_TARGET_MIN ? nr / 8 : KVP_FREE_TARGET_MIN;

    KV_ASSERT(nr > 0);
    if (divisor == 0) {
        return 0;
    }
    return nr / divisor > floor ? nr / divisor : floor;
}

uint32_t kvp_pool_of(
    const kvp_pager_t *pager, uint16_t tenant, uint16_t variant, enum kvp_tier tier)
{
    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(variant < pager->config.nr_variants);
    const uint32_t len = pager->config.variants[variant].page_bytes;
    /* Only looked at: kvp_pool_fit() changes nothing. */
    const struct kvp_pool *pool =
        kvp_pool_fit((struct kvp_pager *)(uintptr_t)pager, tenant, tier, len);

    return pool == NULL ? KVP_POOLS_MAX : (uint32_t)(pool - pager->pools);
}

uint32_t kvp_pressure(const kvp_pager_t *pager, uint32_t pool)
{
    KV_ASSERT(pool < pager->config.nr_pools);
    const struct kvp_pool *from = &pager->pools[pool];

    const uint32_t target = kvp_free_target(pager, from);
    const uint32_t coming = from->in_state[KVP_FREE] + from->in_state[KVP_LEAVING];
    const uint32_t limbo =
        from->in_class[KVP_CLASS_LIMBO] + from->in_class[KVP_CLASS_SOON];
    if (coming >= target || limbo >= from->limbo_max) {
        return 0;
    }
    const uint32_t want = target - coming, room = from->limbo_max - limbo;
    const uint32_t nr = want < room ? want : room;
    const uint32_t idle = from->in_class[KVP_CLASS_IDLE];
    KV_ASSERT(nr > 0);
    return nr < idle ? nr : idle;
}

kv_status_t kvp_leave_begin(
    kvp_pager_t *pager, uint32_t pool, struct kvp_ref *ref_p, uint32_t *token_p,
    uint32_t *dropped_p)
{
    struct kvp_pager *p = pager;
    struct kvp_pool *from = &p->pools[pool];
    uint32_t i;

    KV_ASSERT(pool < p->config.nr_pools);
    *dropped_p = 0;
    for (;;) {
        i = kvp_limbo_room(from, KVP_OWN) ? kvp_victim(p, from, KVP_ANY_TENANT)
                                          : KVP_NO_FRAME;
        if (i == KVP_NO_FRAME) {
            p->metrics.again++;
            return KV_ERR_AGAIN;
        }
        const uint32_t twin = p->frames[i].twin;
        if (twin == KVP_NO_FRAME || p->frames[twin].state != KVP_SEALED) {
            break;
        }
        kvp_drop_frame(p, i, true);
        (*dropped_p)++;
        if (kvp_pressure(p, pool) == 0) {
            return KV_ERR_AGAIN; /* that was room enough */
        }
    }
    kvp_policy_remove(p, i);
    kvp_frame_move(p, i, KVP_LEAVING); /* (5) */
    p->cold[i].leave_token = ++p->next_token;
    *ref_p = kvp_ref_of(p, i);
    *token_p = p->cold[i].leave_token;
    return KV_OK;
}

bool kvp_leaves(const kvp_pager_t *p, struct kvp_ref ref, uint32_t token)
{
    KV_ASSERT(token <= p->next_token);
    return kvp_ref_valid(p, ref) && p->frames[ref.frame].state == KVP_LEAVING
           && p->cold[ref.frame].leave_token == token;
}

kv_status_t kvp_leave_done(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token)
{
    if (!kvp_leaves(pager, ref, token)) {
        return KV_ERR_STALE;
    }
    kvp_drop_frame(pager, ref.frame, true);
    return KV_OK;
}

/* Would its frame be free at once? One that somebody still reads would be lost for
 * nothing. */
static bool ready_goes(const struct kvp_pager *p, uint32_t i, uint16_t tenant)
{
    const struct kvp_frame *f = &p->frames[i];

    KV_ASSERT(f->state == KVP_LEAVING && p->cold[i].ready);
    return (tenant == KVP_ANY_TENANT || tenant == f->tenant)
           && (f->grants | f->ios | f->fences) == 0;
}

uint32_t
kvp_ready_first(const struct kvp_pager *p, const struct kvp_pool *pool, uint16_t tenant)
{
    uint32_t i = pool->nr_ready > 0 ? pool->ready_head : KVP_NO_FRAME;

    while (i != KVP_NO_FRAME && !ready_goes(p, i, tenant)) {
        i = p->cold[i].next_ready;
    }
    return i;
}

uint32_t
kvp_ready_nr(const struct kvp_pager *p, const struct kvp_pool *pool, uint16_t tenant)
{
    uint32_t i = pool->ready_head, nr = 0;

    for (uint32_t n = 0; n < pool->nr_ready; n++) {
        nr += ready_goes(p, i, tenant);
        i = p->cold[i].next_ready;
    }
    return nr;
}

bool kvp_ready_drop(struct kvp_pager *p, struct kvp_pool *pool)
{
    const uint32_t i = kvp_ready_first(p, pool, KVP_ANY_TENANT);

    if (i == KVP_NO_FRAME) {
        return false;
    }
    kvp_drop_frame(p, i, true);
    KV_ASSERT(pool->in_state[KVP_FREE] > 0);
    return true;
}

/* A walk, but no longer than the quarter of the limbo that may be ready. */
void kvp_ready_remove(struct kvp_pager *p, uint32_t i)
{
    struct kvp_pool *pool = &p->pools[p->frames[i].pool];
    uint32_t before = KVP_NO_FRAME;

    if (!p->cold[i].ready) {
        return;
    }
    KV_ASSERT(pool->nr_ready > 0);
    for (uint32_t k = pool->ready_head; k != i; k = p->cold[k].next_ready) {
        KV_ASSERT(k != KVP_NO_FRAME);
        before = k;
    }
    if (before == KVP_NO_FRAME) {
        pool->ready_head = p->cold[i].next_ready;
    } else {
        p->cold[before].next_ready = p->cold[i].next_ready;
    }
    if (pool->ready_tail == i) {
        pool->ready_tail = before;
    }
    p->cold[i].ready = false;
    pool->nr_ready--;
}

kv_status_t kvp_leave_ready(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token)
{
    struct kvp_pager *p = pager;

    if (!kvp_leaves(p, ref, token)) {
        return KV_ERR_STALE;
    }
    struct kvp_pool *pool = &p->pools[p->frames[ref.frame].pool];
    KV_ASSERT(!p->cold[ref.frame].ready);
    if (pool->nr_ready >= pool->limbo_max / 4) {
        kvp_drop_frame(p, ref.frame, true);
        return KV_OK;
    }
    p->cold[ref.frame].ready = true;
    p->cold[ref.frame].next_ready = KVP_NO_FRAME;
    if (pool->nr_ready++ == 0) {
        pool->ready_head = ref.frame;
    } else {
        p->cold[pool->ready_tail].next_ready = ref.frame;
    }
    pool->ready_tail = ref.frame;
    return KV_OK;
}

kv_status_t kvp_leave_cancel(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token)
{
    if (!kvp_leaves(pager, ref, token)) {
        return KV_ERR_STALE;
    }
    kvp_ready_remove(pager, ref.frame);
    kvp_frame_move(pager, ref.frame, KVP_SEALED);
    kvp_policy_insert(
        pager, ref.frame, KVP_EVICT_FIRST, pager->cold[ref.frame].last_use_us);
    return KV_OK;
}

kv_status_t kvp_demote(
    kvp_pager_t *pager, struct kvp_ref ref, uint32_t token, enum kvp_tier tier,
    bool may_drop)
{
    struct kvp_pager *p = pager;
    uint32_t dst;

    if (!kvp_leaves(p, ref, token)) {
        return KV_ERR_STALE;
    }
    const struct kvp_frame *f = &p->frames[ref.frame];
    const struct kvp_frame_cold *cold = &p->cold[ref.frame];
    KV_ASSERT(kvp_tier_of(p, ref.frame) != tier);
    /* While this tier still has some, the reserve below is kept for when it has not:
     * fetches wait for room, a demand does not. */
    const struct kvp_pool *from = &p->pools[f->pool];
    const bool spare = from->in_state[KVP_FREE] > kvp_free_target(p, from) / 2;
    const struct kvp_arrival arrival = {
        .tenant = f->tenant,
        .variant = f->variant,
        .tier = tier,
        .key = f->key,
        .n_tokens = cold->n_tokens,
        .place = {.segment = cold->segment, .index = cold->index, .prev = cold->prev},
        .peer = KVP_OWN,
        .may_drop = may_drop,
        .keep_reserve = spare,
        .by_age = true, /* a warmer copy does not go for a colder one */
        .last_use_us = cold->last_use_us,
    };
    const kv_status_t status = kvp_arrive_start(p, &arrival, &dst);
    if (status == KV_EXISTS) {
        if (p->frames[dst].state == KVP_ARRIVING) {
            return KV_ERR_AGAIN;
        }
        kvp_drop_frame(p, ref.frame, true);
        return KV_EXISTS;
    }
    if (status != KV_OK) {
        return status;
    }
    p->frames[dst].flags |= f->flags & KVP_F_SPILLED;
    kvp_order_give(p, dst, KVP_WORK_DEMOTE, ref.frame, cold->len);
    p->cold[dst].copy_token = token;
    kvp_io_drop(p, dst); /* the order is the mover */
    return KV_OK;
}

void kvp_demote_done(
    struct kvp_pager *p, uint32_t dst, uint32_t src, kv_status_t status,
    uint64_t computed)
{
    struct kvp_frame *f = &p->frames[dst];
    const uint64_t digest = p->cold[src].digest;
    const bool leaving = kvp_leaves(p, kvp_ref_of(p, src), p->cold[dst].copy_token);
    const bool good = status == KV_OK && computed == digest;

    KV_ASSERT(f->state == KVP_ARRIVING);
    KV_ASSERT(f->tenant == p->frames[src].tenant);
    const uint32_t same = kvp_in_tier(
        p, kvp_find(p, f->tenant, f->variant, &f->key), kvp_tier_of(p, dst));
    const bool have =
        same != KVP_NO_FRAME && (p->frames[same].flags & KVP_F_VERIFYING) == 0;
    if (!good || have || (f->flags & KVP_F_LOST) != 0) {
        kvp_arrive_fail(p, dst);
    } else {
        kvp_arrive_seal(p, dst, digest, KVP_ARRIVE_TWIN);
        p->metrics.demoted++;
    }
    if (leaving) {
        kvp_drop_frame(p, src, !good);
        p->metrics.verify_failed += (status == KV_OK && !good);
    } else if (status == KV_OK && !good) {
        kvp_recheck_start(p, src); /* the copy or the source? somebody reads it */
    }
}

bool kvp_cool(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(ref.frame == KVP_NO_FRAME || ref.frame < pager->nr_frames);
    if (!kvp_ref_valid(pager, ref) || !kvp_in_policy(&pager->frames[ref.frame])
        || pager->cold[ref.frame].first) {
        return false;
    }
    kvp_policy_first(pager, ref.frame);
    pager->cold[ref.frame].cool = true;
    const uint32_t twin = pager->frames[ref.frame].twin;
    if (twin != KVP_NO_FRAME) {
        pager->cold[twin].cool = true;
    }
    return true;
}

void kvp_warm(kvp_pager_t *pager, struct kvp_ref ref, uint64_t last_use_us)
{
    KV_ASSERT(last_use_us <= pager->now_us);
    if (!kvp_ref_valid(pager, ref) || !kvp_in_policy(&pager->frames[ref.frame])) {
        return; /* held, and so used later than that */
    }
    struct kvp_frame_cold *cold = &pager->cold[ref.frame];
    if (cold->last_use_us < last_use_us) {
        cold->last_use_us = last_use_us;
    }
    cold->cool = false;
    kvp_policy_remove(pager, ref.frame);
    kvp_policy_insert(pager, ref.frame, KVP_EVICT_AGED, cold->last_use_us);
}
