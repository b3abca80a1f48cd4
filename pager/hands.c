/* Others' hands: peers, transports and clients that may touch a frame. Each is counted,
 * and a frame waits for all of them, whatever the clock says. */
#include "pager/pager_priv.h"

static bool readable(const struct kvp_pager *p, struct kvp_ref ref)
{
    return kvp_ref_valid(p, ref)
           && (p->frames[ref.frame].state == KVP_SEALED
               || p->frames[ref.frame].state == KVP_LEAVING);
}

kv_status_t kvp_grant(kvp_pager_t *pager, struct kvp_ref ref, uint32_t peer)
{
    KV_ASSERT(peer < KVP_PEERS_MAX);
    if (!readable(pager, ref)
        || (pager->frames[ref.frame].flags & KVP_F_INDEXED) == 0) {
        return KV_ERR_STALE;
    }
    struct kvp_frame *f = &pager->frames[ref.frame];
    struct kvp_pool *pool = &pager->pools[f->pool];
    /* What is in limbo or granted already does not add to it. */
    const bool counted = f->grants > 0 || f->state == KVP_LEAVING;

    if (f->grants == UINT16_MAX || pool->of_peer[peer] >= pool->limbo_max / 2
        || (!counted && !kvp_limbo_room(pool, peer))) {
        pager->metrics.again++;
        return KV_ERR_AGAIN;
    }
    const enum kvp_class was = kvp_frame_class(f);
    f->grants++;
    pool->of_peer[peer]++;
    kvp_account(pager, f, was);
    return KV_OK;
}

void kvp_ungrant(kvp_pager_t *pager, struct kvp_ref ref, uint32_t peer)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    KV_ASSERT(peer < KVP_PEERS_MAX);
    struct kvp_frame *f = &pager->frames[ref.frame];
    struct kvp_pool *pool = &pager->pools[f->pool];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->grants > 0 && pool->of_peer[peer] > 0);
    f->grants--;
    pool->of_peer[peer]--;
    kvp_account(pager, f, was);
    kvp_settle(pager, ref.frame); /* a peer's use is none of ours */
}

kv_status_t kvp_io_begin(kvp_pager_t *pager, struct kvp_ref ref)
{
    if (!readable(pager, ref)) {
        return KV_ERR_STALE;
    }
    if (pager->frames[ref.frame].ios >= UINT16_MAX / 2) {
        return KV_ERR_AGAIN; /* the other half is for the pager's own orders */
    }
    kvp_io_take(pager, ref.frame);
    return KV_OK;
}

void kvp_io_end(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    kvp_io_drop(pager, ref.frame);
    kvp_settle(pager, ref.frame);
}

void kvp_fence_end(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    struct kvp_frame *f = &pager->frames[ref.frame];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->fences > 0);
    f->fences--;
    kvp_account(pager, f, was);
    kvp_settle(pager, ref.frame);
}
