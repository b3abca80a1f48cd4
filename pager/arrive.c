/* Arrivals: copies that a mover brings here from a peer, a file or the other tier. What
 * is in flight has an index of its own a tier, so that one copy is brought once. */
#include "pager/pager_priv.h"

static struct kvp_index_salt
salt_of(const struct kvp_pager *p, const struct kvp_frame *f)
{
    return kvp_index_salt(p->salt, f->tenant, f->variant);
}

static struct kvp_index *arriving_of(struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT(i < p->nr_frames);
    return &p->arriving[kvp_tier_of(p, i)];
}

/* Sealed or arriving in that tier already; KVP_NO_FRAME if neither. */
static uint32_t here_already(const struct kvp_pager *p, const struct kvp_arrival *a)
{
    const struct kvp_index_salt salt = kvp_index_salt(p->salt, a->tenant, a->variant);
    const uint32_t i =
        kvp_in_tier(p, kvp_find(p, a->tenant, a->variant, &a->key), a->tier);

    if (i != KVP_NO_FRAME) {
        return i;
    }
    return kvp_index_find(&p->arriving[a->tier], p->frames, &salt, &a->key);
}

/* The bytes overwrite what lay here. If they are shorter than what another tenant left,
 * the rest stays: nobody sees it while this copy is here, because readers get len bytes
 * and no more, and the frame is zeroed before anybody fills it (kvp_prepare). */
static void overwrite(struct kvp_frame_cold *cold, uint16_t tenant)
{
    KV_ASSERT(tenant < KVP_BYTES_MIXED);
    if (cold->bytes_of == KVP_BYTES_NOBODYS || cold->bytes_of == tenant) {
        cold->bytes_of = tenant;
    } else {
        cold->bytes_of = KVP_BYTES_MIXED;
    }
}

kv_status_t
kvp_arrive_start(struct kvp_pager *p, const struct kvp_arrival *a, uint32_t *i_p)
{
    const uint32_t page_tokens = p->config.variants[a->variant].page_tokens;
    struct kvp_pool *pool;

    if (a->n_tokens == 0 || a->n_tokens > page_tokens) {
        return KV_ERR_INVALID;
    }
    const uint32_t here = here_already(p, a);
    if (here != KVP_NO_FRAME) {
        *i_p = here;
        return KV_EXISTS;
    }
    const uint32_t len = kvp_copy_len(p, a->variant, a->n_tokens);
    const kv_status_t status = kvp_room_arrival(p, a, len, &pool);
    if (status != KV_OK) {
        return status;
    }
    const uint32_t i = kvp_frame_alloc(p, pool, a->tenant, a->variant, KVP_ARRIVING);
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    const bool tail = a->n_tokens < page_tokens;

    f->key = a->key;
    f->flags |= tail ? KVP_F_TAIL : 0;
    cold->segment = a->place.segment;
    cold->index = a->place.index;
    cold->prev = tail ? a->place.prev : (kv_key_t){{0}};
    cold->n_tokens = a->n_tokens;
    cold->len = len;
    cold->last_use_us = a->last_use_us < p->now_us ? a->last_use_us : p->now_us;
    cold->peer = a->peer;
    if (a->peer != KVP_OWN) {
        pool->of_peer[a->peer]++;
    }
    overwrite(cold, a->tenant);
    const struct kvp_index_salt salt = salt_of(p, f);
    kvp_index_add(&p->arriving[a->tier], kvp_index_tag(&salt, &f->key), i);
    *i_p = i;
    return KV_OK;
}

static void arrived(struct kvp_pager *p, uint32_t i)
{
    const struct kvp_frame *f = &p->frames[i];
    const struct kvp_index_salt salt = salt_of(p, f);

    KV_ASSERT(f->state == KVP_ARRIVING);
    kvp_index_remove(arriving_of(p, i), kvp_index_tag(&salt, &f->key), i);
}

void kvp_arrive_fail(struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT(p->frames[i].refs == 0);
    arrived(p, i);
    kvp_frame_quarantine(p, i);
}

void kvp_arrive_seal(
    struct kvp_pager *p, uint32_t i, uint64_t digest, enum kvp_arrive_how how)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];

    KV_ASSERT((f->flags & KVP_F_LOST) == 0);
    arrived(p, i);
    if (cold->peer != KVP_OWN) {
        struct kvp_pool *pool = &p->pools[f->pool];
        KV_ASSERT(pool->of_peer[cold->peer] > 0);
        pool->of_peer[cold->peer]--;
        cold->peer = KVP_OWN;
    }
    cold->digest = digest;
    if (how == KVP_ARRIVE_AGED) {
        f->flags |= KVP_F_SPILLED;
    }
    if (how == KVP_ARRIVE_USED) {
        cold->last_use_us = p->now_us;
    }
    kvp_frame_move(p, i, KVP_SEALED); /* (4) */
    p->metrics.sealed++;
    if (how == KVP_ARRIVE_USED) {
        kvp_ref_take(p, i);
    }
    kvp_publish(p, i, how == KVP_ARRIVE_USED ? KVP_EVICT_HOT : KVP_EVICT_AGED);
}

kv_status_t kvp_arrive_begin(
    kvp_pager_t *pager, const struct kvp_arrival *arrival, struct kvp_ref *ref_p)
{
    uint32_t i;

    KV_ASSERT(arrival->tenant < pager->config.nr_tenants);
    KV_ASSERT(arrival->variant < pager->config.nr_variants);
    const kv_status_t status = kvp_arrive_start(pager, arrival, &i);
    if (status == KV_OK || status == KV_EXISTS) {
        *ref_p = kvp_ref_of(pager, i);
    }
    return status;
}

kv_status_t kvp_arrive_done(
    kvp_pager_t *pager, struct kvp_ref *ref_p, kv_status_t status, uint64_t expected,
    uint64_t computed, enum kvp_arrive_how how)
{
    struct kvp_pager *p = pager;
    const uint32_t i = ref_p->frame;

    if (!kvp_ref_valid(p, *ref_p) || p->frames[i].state != KVP_ARRIVING) {
        return KV_ERR_STALE;
    }
    const struct kvp_frame *f = &p->frames[i];
    const bool dropped = (f->flags & KVP_F_LOST) != 0;

    kvp_io_drop(p, i);
    KV_ASSERT(KV_IMPLIES(status == KV_OK, f->ios == 0)); /* (6): no mover is left */
    if (status != KV_OK || expected != computed || dropped) {
        kvp_arrive_fail(p, i);
        return status != KV_OK ? status : dropped ? KV_ERR_MISS : KV_ERR_NOT_VERIFIED;
    }
    const uint32_t same =
        kvp_in_tier(p, kvp_find(p, f->tenant, f->variant, &f->key), kvp_tier_of(p, i));
    if (same != KVP_NO_FRAME && kvp_sound(p, same)) {
        kvp_arrive_fail(p, i);
        if (how == KVP_ARRIVE_USED) {
            kvp_want(p, same);
        }
        *ref_p = kvp_ref_of(p, same);
        return KV_EXISTS;
    }
    kvp_arrive_seal(p, i, computed, how);
    return KV_OK;
}

kv_status_t kvp_arrive_copy(kvp_pager_t *pager, struct kvp_ref ref, struct kvp_ref src)
{
    struct kvp_pager *p = pager;

    KV_ASSERT(kvp_ref_valid(p, ref));
    KV_ASSERT(p->frames[ref.frame].state == KVP_ARRIVING);
    if (!kvp_ref_valid(p, src)
        || (p->frames[src.frame].state != KVP_SEALED
            && p->frames[src.frame].state != KVP_LEAVING)) {
        return KV_ERR_STALE;
    }
    KV_ASSERT(p->cold[src.frame].len == p->cold[ref.frame].len);
    kvp_order_give(p, ref.frame, KVP_WORK_ARRIVE, src.frame, p->cold[src.frame].len);
    return KV_OK;
}

void kvp_arrive_abandon(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    KV_ASSERT(pager->frames[ref.frame].state == KVP_ARRIVING);
    kvp_arrive_fail(pager, ref.frame); /* its io keeps it in QUARANTINE: (7) */
    KV_ASSERT(pager->frames[ref.frame].state == KVP_QUARANTINE);
}
