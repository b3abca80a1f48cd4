/* Filling and sealing: how bytes that somebody writes here become a copy. */
#include "pager/pager_priv.h"

kv_status_t kvp_fill_begin(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, enum kvp_tier tier,
    uint32_t n_tokens, struct kvp_ref *ref_p)
{
    struct kvp_pool *pool;

    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(variant < pager->config.nr_variants);
    if (n_tokens == 0 || n_tokens > pager->config.variants[variant].page_tokens) {
        return KV_ERR_INVALID;
    }
    const uint32_t len = kvp_copy_len(pager, variant, n_tokens);
    const kv_status_t status = kvp_room(pager, tenant, tier, len, 1, &pool);
    if (status != KV_OK) {
        return status;
    }
    const uint32_t i = kvp_frame_alloc(pager, pool, tenant, variant, KVP_FILLING);
    pager->cold[i].n_tokens = n_tokens;
    pager->cold[i].len = len;
    kvp_prepare(pager, i, KVP_NO_FRAME, 0);
    *ref_p = kvp_ref_of(pager, i);
    return KV_OK;
}

bool kvp_writable(const kvp_pager_t *pager, struct kvp_ref ref)
{
    if (!kvp_ref_valid(pager, ref)) {
        return false;
    }
    const struct kvp_frame *f = &pager->frames[ref.frame];
    return f->state == KVP_FILLING && f->ios == 0 && (f->flags & KVP_F_FAILED) == 0;
}

void kvp_seal_begin(
    struct kvp_pager *p, uint32_t i, const kv_key_t *key, const struct kvp_place *place,
    uint32_t n_tokens)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    const bool tail = n_tokens < p->config.variants[f->variant].page_tokens;

    KV_ASSERT(f->state == KVP_FILLING && f->ios == 0); /* (2) */
    f->key = *key;
    f->flags |= tail ? KVP_F_TAIL : 0;
    cold->segment = place->segment;
    cold->index = place->index;
    cold->prev = tail ? place->prev : (kv_key_t){{0}};
    cold->n_tokens = n_tokens;
    cold->len = kvp_copy_len(p, f->variant, n_tokens);
    cold->last_use_us = p->now_us;
    kvp_frame_move(p, i, KVP_SEALING);
    kvp_order_give(p, i, KVP_WORK_SEAL, KVP_NO_FRAME, cold->len);
}

/* A copy that a page just sealed can go over to: equal, sound, and in `tier` (or
 * anywhere, KVP_NR_TIERS). One that is being re-checked is not: its bytes are in doubt,
 * the new ones are not. */
static uint32_t
equal_copy(struct kvp_pager *p, const struct kvp_frame *f, enum kvp_tier tier)
{
    const uint32_t head = kvp_find(p, f->tenant, f->variant, &f->key);

    for (unsigned t = 0; t < KVP_NR_TIERS; t++) {
        const uint32_t i = kvp_in_tier(p, head, (enum kvp_tier)t);
        if (i != KVP_NO_FRAME && (tier == KVP_NR_TIERS || tier == t)
            && kvp_sound(p, i)) {
            return i;
        }
    }
    return KVP_NO_FRAME;
}

kv_status_t kvp_fill_seal(
    kvp_pager_t *pager, struct kvp_ref ref, const kv_key_t *key,
    const struct kvp_place *place, struct kvp_ref *existing_p)
{
    struct kvp_pager *p = pager;

    if (!kvp_ref_valid(p, ref)) {
        return KV_ERR_STALE;
    }
    struct kvp_frame *f = &p->frames[ref.frame];
    if (f->state != KVP_FILLING || p->cold[ref.frame].seq != KVP_NO_SEQ) {
        return KV_ERR_INVALID;
    }
    if ((f->flags & KVP_F_FAILED) != 0) {
        return KV_ERR_IO;
    }
    if (f->ios != 0) {
        return KV_ERR_AGAIN;
    }
    f->key = *key;
    const uint32_t equal = equal_copy(p, f, KVP_NR_TIERS);
    if (equal != KVP_NO_FRAME) {
        kvp_want(p, equal);
        *existing_p = kvp_ref_of(p, equal);
        p->metrics.dedup++;
        kvp_frame_quarantine(p, ref.frame);
        return KV_EXISTS;
    }
    kvp_seal_begin(p, ref.frame, key, place, p->cold[ref.frame].n_tokens);
    return KV_SEALING;
}

void kvp_fill_abort(kvp_pager_t *pager, struct kvp_ref ref, bool fence)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    struct kvp_frame *f = &pager->frames[ref.frame];

    KV_ASSERT(f->state == KVP_FILLING || f->state == KVP_SEALING);
    KV_ASSERT(pager->cold[ref.frame].seq == KVP_NO_SEQ);
    f->fences += fence;
    kvp_frame_quarantine(pager, ref.frame);
}

/* The frame lost: whoever holds it goes over to the copy that was first. */
static void seal_lost(struct kvp_pager *p, uint32_t i, uint32_t equal)
{
    struct kvp_frame *f = &p->frames[i];

    KV_ASSERT(f->state == KVP_SEALING && i != equal);
    f->flags |= KVP_F_LOST;
    p->metrics.dedup++;
    if (p->cold[i].seq != KVP_NO_SEQ) {
        kvp_seq_switch(p, i, equal);
        return;
    }
    kvp_want(p, equal);
    kvp_ref_drop(p, i);
    p->out.sealed(p->out.arg, kvp_ref_of(p, i), kvp_ref_of(p, equal), KV_OK);
}

void kvp_seal_done(
    struct kvp_pager *p, uint32_t i, kv_status_t status, uint64_t computed)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    const bool put = cold->seq == KVP_NO_SEQ;
    const struct kvp_ref ref = kvp_ref_of(p, i);

    if (f->state != KVP_SEALING) {
        KV_ASSERT(f->state == KVP_QUARANTINE); /* aborted meanwhile */
        return;
    }
    if (status != KV_OK) {
        f->flags |= KVP_F_LOST; /* a sequence may go on reading its own bytes */
        if (put) {
            kvp_ref_drop(p, i);
            p->out.sealed(p->out.arg, ref, ref, status);
        }
        return;
    }
    /* A put may have its page anywhere; a block table needs it in its own tier, so a
     * copy in the other tier becomes the twin instead. */
    const uint32_t equal = equal_copy(p, f, put ? KVP_NR_TIERS : kvp_tier_of(p, i));
    if (equal != KVP_NO_FRAME) {
        seal_lost(p, i, equal);
        return;
    }
    cold->digest = computed;
    cold->last_use_us = p->now_us;
    cold->seq = KVP_NO_SEQ;
    kvp_frame_move(p, i, KVP_SEALED); /* (4) */
    p->metrics.sealed++;
    kvp_publish(p, i, KVP_EVICT_HOT);
    if (put) {
        p->out.sealed(p->out.arg, ref, ref, KV_OK);
    }
}

static kv_status_t seq_exists(
    struct kvp_pager *p, struct kvp_seq *seq, uint32_t page, uint32_t own,
    uint32_t equal)
{
    if (p->nr_retired_free == 0) {
        p->metrics.again++;
        return KV_ERR_AGAIN;
    }
    const struct kvp_ref was = kvp_ref_of(p, own);
    KV_ASSERT(own != equal);
    kvp_want(p, equal);
    kvp_seq_put(p, seq, page, equal);
    seq->version++;
    p->metrics.dedup++;
    if (KV_PLANTED(KV_PLANT_DEDUP_EARLY)) {
        kvp_seq_ref_end(p, own);
    } else {
        kvp_retire(p, seq, own, seq->version);
    }
    p->out.switched(p->out.arg, kvp_seq_id_of(p, seq), page, was, kvp_ref_of(p, equal));
    return KV_EXISTS;
}

kv_status_t kvp_seq_seal(
    kvp_pager_t *pager, struct kvp_seq_id id, uint32_t page, const kv_key_t *key,
    const struct kvp_place *place)
{
    struct kvp_pager *p = pager;
    struct kvp_seq *seq;

    if (!kvp_seq_find(p, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    const uint32_t page_tokens = p->config.variants[seq->variant].page_tokens;
    if (page >= seq->nr_pages) {
        return KV_ERR_INVALID;
    }
    const uint32_t i = kvp_seq_get(p, seq, page);
    struct kvp_frame *f = &p->frames[i];
    if (f->state != KVP_FILLING) {
        return KV_ERR_INVALID;
    }
    if ((f->flags & KVP_F_FAILED) != 0) {
        return KV_ERR_IO;
    }
    if (f->ios != 0) {
        return KV_ERR_AGAIN;
    }
    const uint32_t behind = seq->n_tokens - page * page_tokens;
    f->key = *key;
    const uint32_t equal = equal_copy(p, f, kvp_tier_of(p, i));
    if (equal != KVP_NO_FRAME) {
        return seq_exists(p, seq, page, i, equal);
    }
    p->cold[i].seq = id.index;
    p->cold[i].page = page;
    kvp_seal_begin(p, i, key, place, behind < page_tokens ? behind : page_tokens);
    return KV_SEALING;
}

void kvp_seq_switch(struct kvp_pager *p, uint32_t was, uint32_t now)
{
    const uint32_t page = p->cold[was].page;

    KV_ASSERT(p->frames[was].state == KVP_SEALING);
    KV_ASSERT((p->frames[now].flags & KVP_F_INDEXED) != 0);
    /* A fork shares the page under the same number, so every table that holds it is
     * found by looking at one place in each. Rare: it takes two equal prefills at one
     * time. */
    for (uint32_t s = 0; s < p->config.nr_sequences; s++) {
        struct kvp_seq *seq = &p->seqs[s];
        if (!seq->open || seq->ending || page >= seq->nr_pages
            || kvp_seq_get(p, seq, page) != was) {
            continue;
        }
        if (p->nr_retired_free == 0) {
            return; /* it keeps its own copy, which nobody else finds */
        }
        const struct kvp_ref old = kvp_ref_of(p, was);
        kvp_want(p, now);
        kvp_seq_put(p, seq, page, now);
        seq->version++;
        if (KV_PLANTED(KV_PLANT_DEDUP_EARLY)) {
            kvp_ref_drop(p, was); /* the caller settles it */
        } else {
            kvp_retire(p, seq, was, seq->version);
        }
        p->out.switched(
            p->out.arg, kvp_seq_id_of(p, seq), page, old, kvp_ref_of(p, now));
    }
}
