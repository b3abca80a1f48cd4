/* What is to be found: the index, pairs of twins, the policy and the listing change
 * together, here and nowhere else.
 *
 *   one copy in two tiers:   index ──► device frame ◄──twin──► host frame
 *
 * The listing belongs to the pair: it begins with the first frame and ends with the
 * last, so a move between tiers withdraws nothing. */
#include "pager/pager_priv.h"

static struct kvp_index_salt
salt_of(const struct kvp_pager *p, const struct kvp_frame *f)
{
    return kvp_index_salt(p->salt, f->tenant, f->variant);
}

static uint32_t tag_of(const struct kvp_pager *p, const struct kvp_frame *f)
{
    const struct kvp_index_salt salt = salt_of(p, f);
    return kvp_index_tag(&salt, &f->key);
}

static uint64_t ghost_hash(const struct kvp_index_salt *salt, const kv_key_t *key)
{
    return kv_mix64(kv_key_word(key) ^ salt->w[0]);
}

uint32_t kvp_find(
    const struct kvp_pager *p, uint16_t tenant, uint16_t variant, const kv_key_t *key)
{
    const struct kvp_index_salt salt = kvp_index_salt(p->salt, tenant, variant);

    KV_ASSERT(tenant < p->config.nr_tenants && variant < p->config.nr_variants);
    return kvp_index_find(&p->index, p->frames, &salt, key);
}

uint32_t kvp_in_tier(const struct kvp_pager *p, uint32_t head, enum kvp_tier tier)
{
    if (head == KVP_NO_FRAME || kvp_tier_of(p, head) == tier) {
        return head;
    }
    const uint32_t twin = p->frames[head].twin;
    KV_ASSERT(twin == KVP_NO_FRAME || kvp_tier_of(p, twin) == tier);
    return twin;
}

void kvp_copy_name(const struct kvp_pager *p, uint32_t i, struct kv_copy *copy)
{
    const struct kvp_frame *f = &p->frames[i];
    const struct kvp_variant_config *variant = &p->config.variants[f->variant];

    KV_ASSERT(f->variant < p->config.nr_variants);
    *copy = (struct kv_copy){
        .tenant = p->config.tenants[f->tenant].id,
        .layout = variant->layout,
        .group = variant->group,
        .shard = variant->shard,
        .key = f->key,
    };
}

/* ------------------------------------------------------------------ policy */

void kvp_policy_insert(
    struct kvp_pager *p, uint32_t i, enum kvp_evict_where where, uint64_t stamp_us)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_pool *pool = &p->pools[f->pool];

    KV_ASSERT(kvp_in_policy(f));
    KV_ASSERT((f->flags & KVP_F_PARKED) == 0);
    if (f->twin != KVP_NO_FRAME && pool->config.tier == KVP_HOST) {
        where = KVP_EVICT_FIRST; /* the device has it too */
    }
    p->cold[i].first = where == KVP_EVICT_FIRST;
    p->config.evict->insert(pool->evict, i - pool->base, f->tenant, where, stamp_us);
}

void kvp_policy_remove(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_pool *pool = &p->pools[f->pool];

    KV_ASSERT(kvp_in_policy(f));
    p->config.evict->remove(pool->evict, i - pool->base);
    f->flags &= (uint8_t)~KVP_F_PARKED;
    p->cold[i].first = false;
}

void kvp_policy_first(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_pool *pool = &p->pools[f->pool];

    KV_ASSERT(kvp_in_policy(f));
    p->config.evict->first(pool->evict, i - pool->base);
    f->flags &= (uint8_t)~KVP_F_PARKED;
    p->cold[i].first = true;
}

/* ------------------------------------------------------------------ in and out */

static void pair_up(struct kvp_pager *p, uint32_t i, uint32_t head)
{
    struct kvp_frame *f = &p->frames[i], *g = &p->frames[head];

    KV_ASSERT(g->twin == KVP_NO_FRAME);
    KV_ASSERT(kvp_tier_of(p, i) != kvp_tier_of(p, head));
    f->twin = head;
    g->twin = i;
    p->cold[i].hold = p->cold[head].hold;
    if (kvp_tier_of(p, i) == KVP_DEVICE) {
        kvp_index_replace(&p->index, tag_of(p, f), head, i);
        if (kvp_in_policy(g)) {
            kvp_policy_first(p, head);
        }
    }
}

void kvp_publish(struct kvp_pager *p, uint32_t i, enum kvp_evict_where where)
{
    struct kvp_frame *f = &p->frames[i];
    const struct kvp_index_salt salt = salt_of(p, f);

    KV_ASSERT(f->state == KVP_SEALED && (f->flags & KVP_F_INDEXED) == 0);
    const uint32_t same =
        kvp_in_tier(p, kvp_find(p, f->tenant, f->variant, &f->key), kvp_tier_of(p, i));
    if (same != KVP_NO_FRAME) {
        /* Callers dedup against what is sound; this one is being re-checked, and the
         * new copy's bytes have just been digested. */
        KV_ASSERT((p->frames[same].flags & KVP_F_VERIFYING) != 0);
        kvp_drop_frame(p, same, false);
    }
    const uint32_t head = kvp_find(p, f->tenant, f->variant, &f->key);
    f->flags |= KVP_F_INDEXED;
    if (head == KVP_NO_FRAME) {
        kvp_index_add(&p->index, kvp_index_tag(&salt, &f->key), i);
        p->cold[i].hold = ++p->next_hold;
        kvp_ghost_remove(&p->ghost, ghost_hash(&salt, &f->key));
        p->out.listed(p->out.arg, kvp_ref_of(p, i), p->cold[i].hold);
    } else {
        pair_up(p, i, head);
    }
    kvp_policy_insert(p, i, where, p->cold[i].last_use_us);
}

/* The other of the pair is the only one from now on. */
static void part(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    const uint32_t twin = f->twin;
    struct kvp_frame *g = &p->frames[twin];

    KV_ASSERT(g->twin == i);
    KV_ASSERT((g->flags & KVP_F_INDEXED) != 0);
    f->twin = KVP_NO_FRAME;
    g->twin = KVP_NO_FRAME;
    if (kvp_tier_of(p, i) != KVP_DEVICE) {
        return; /* the device's frame stays where its last use put it */
    }
    kvp_index_replace(&p->index, tag_of(p, f), i, twin);
    if (p->cold[twin].last_use_us < p->cold[i].last_use_us) {
        p->cold[twin].last_use_us = p->cold[i].last_use_us;
    }
    /* Uses of the pair are the device's: one since it was cooled counts for both. */
    p->cold[twin].cool = p->cold[twin].cool && p->cold[i].cool;
    if (kvp_in_policy(g)) {
        kvp_policy_remove(p, twin);
        kvp_policy_insert(
            p, twin, p->cold[twin].cool ? KVP_EVICT_FIRST : KVP_EVICT_AGED,
            p->cold[twin].last_use_us);
    }
}

void kvp_unpublish(struct kvp_pager *p, uint32_t i, bool evicted)
{
    struct kvp_frame *f = &p->frames[i];
    struct kv_copy copy;

    KV_ASSERT((f->flags & KVP_F_INDEXED) != 0);
    KV_ASSERT(f->state == KVP_SEALED || f->state == KVP_LEAVING);
    kvp_ready_remove(p, i);
    if (f->state == KVP_SEALED) {
        kvp_policy_remove(p, i);
    }
    if (f->twin != KVP_NO_FRAME) {
        part(p, i);
    } else {
        const struct kvp_index_salt salt = salt_of(p, f);
        kvp_index_remove(&p->index, kvp_index_tag(&salt, &f->key), i);
        if (evicted) {
            kvp_ghost_add(&p->ghost, ghost_hash(&salt, &f->key));
        }
        kvp_copy_name(p, i, &copy);
        p->out.unlisted(p->out.arg, &copy, &p->cold[i].segment, p->cold[i].hold);
    }
    f->flags &= (uint8_t)~KVP_F_INDEXED;
    p->cold[i].hold = 0;
}

void kvp_drop_frame(struct kvp_pager *p, uint32_t i, bool evicted)
{
    KV_ASSERT(i < p->nr_frames);
    kvp_unpublish(p, i, evicted);
    p->metrics.evicted += evicted;
    if (p->frames[i].state == KVP_LEAVING) {
        kvp_frame_quarantine(p, i);
    } else {
        kvp_settle(p, i); /* (9): stays SEALED while somebody holds it */
    }
}

void kvp_wanted_again(struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT(p->frames[i].state == KVP_LEAVING);
    kvp_ready_remove(p, i);
    kvp_frame_move(p, i, KVP_SEALED);
    p->cold[i].cool = false;
    kvp_policy_insert(p, i, KVP_EVICT_HOT, p->now_us);
    p->metrics.wanted_again++;
    KV_ASSERT(kvp_in_policy(&p->frames[i]));
}

void kvp_want(struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT((p->frames[i].flags & KVP_F_INDEXED) != 0);
    if (p->frames[i].state == KVP_LEAVING) {
        kvp_wanted_again(p, i);
    }
    kvp_ref_take(p, i);
}

enum kv_miss kvp_miss_reason(
    const kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *key)
{
    const struct kvp_index_salt salt = kvp_index_salt(pager->salt, tenant, variant);

    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(variant < pager->config.nr_variants);
    return kvp_ghost_has(&pager->ghost, ghost_hash(&salt, key)) ? KV_MISS_EVICTED
                                                                : KV_MISS_NOT_FOUND;
}
