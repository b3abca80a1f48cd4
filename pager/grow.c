/* How a sequence's table changes: adopt, append, truncate. Nothing that another
 * sequence or a queued kernel may read is ever written: a page that is not this
 * sequence's own FILLING frame is copied first, and what leaves the table is
 * retired. */
#include "pager/pager_priv.h"

static uint32_t page_tokens_of(const struct kvp_pager *p, const struct kvp_seq *seq)
{
    KV_ASSERT(seq->variant < p->config.nr_variants);
    return p->config.variants[seq->variant].page_tokens;
}

/* ------------------------------------------------------------------ adopt */

static kv_status_t adoptable(
    const struct kvp_pager *p, const struct kvp_seq *seq, struct kvp_ref ref, bool last)
{
    if (!kvp_ref_valid(p, ref)) {
        return KV_ERR_STALE;
    }
    const struct kvp_frame *f = &p->frames[ref.frame];
    if (f->state != KVP_SEALED || f->refs == 0) {
        return KV_ERR_STALE;
    }
    if (f->tenant != seq->tenant || f->variant != seq->variant) {
        return KV_ERR_INVALID;
    }
    if ((f->flags & KVP_F_TAIL) != 0 && !last) {
        return KV_ERR_INVALID; /* a tail ends its chain */
    }
    if ((f->flags & KVP_F_VERIFYING) != 0) {
        return KV_ERR_AGAIN; /* the reference may yet be taken back */
    }
    return KV_OK;
}

kv_status_t kvp_seq_adopt(
    kvp_pager_t *pager, struct kvp_seq_id id, const struct kvp_ref *refs, uint32_t n)
{
    struct kvp_pager *p = pager;
    struct kvp_seq *seq;

    if (!kvp_seq_find(p, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    if (seq->n_tokens % page_tokens_of(p, seq) != 0) {
        return KV_ERR_INVALID;
    }
    for (uint32_t i = 0; i < n; i++) {
        const kv_status_t status = adoptable(p, seq, refs[i], i + 1 == n);
        if (status != KV_OK) {
            return status;
        }
    }
    const uint32_t had = seq->nr_pages;
    if (n > KVP_SEQ_LEAVES_MAX * KVP_SEQ_LEAF_PAGES - had) {
        return KV_ERR_TOO_LARGE;
    }
    if (!kvp_seq_reach(p, seq, had + n)) {
        p->metrics.again++;
        return KV_ERR_AGAIN;
    }
    seq->nr_pages = had + n;
    for (uint32_t i = 0; i < n; i++) {
        kvp_seq_put(p, seq, had + i, refs[i].frame);
        seq->n_tokens += p->cold[refs[i].frame].n_tokens;
    }
    seq->version += (n > 0);
    KV_ASSERT(kvp_pages_of(seq->n_tokens, page_tokens_of(p, seq)) == seq->nr_pages);
    return KV_OK;
}

/* ------------------------------------------------------------------ append */

/* What an append would do. */
struct growth {
    uint32_t nr_pages; /* in all, afterwards */
    uint32_t nr_new;   /* frames */
    bool replace;      /* the last page is shared or sealed: copy it first */
};

static kv_status_t
plan(const struct kvp_pager *p, const struct kvp_seq *seq, uint32_t n, struct growth *g)
{
    const uint32_t page_tokens = page_tokens_of(p, seq);
    const uint64_t total = (uint64_t)seq->n_tokens + n;
    const uint64_t pages = total / page_tokens + (total % page_tokens != 0);

    KV_ASSERT(n > 0);
    if (pages > KVP_SEQ_LEAVES_MAX * KVP_SEQ_LEAF_PAGES || total > UINT32_MAX) {
        return KV_ERR_TOO_LARGE;
    }
    g->nr_pages = (uint32_t)pages;
    g->replace = false;
    if (seq->n_tokens % page_tokens != 0) {
        const uint32_t last = kvp_seq_get(p, seq, seq->nr_pages - 1);
        g->replace = p->frames[last].state != KVP_FILLING;
    }
    g->nr_new = g->nr_pages - seq->nr_pages + g->replace;
    KV_ASSERT(g->nr_pages >= seq->nr_pages);
    return KV_OK;
}

/* A table whose own pages fill its pool can never grow: that is no matter of
 * waiting. */
static bool never_fits(
    const struct kvp_pager *p, const struct kvp_seq *seq, const struct growth *g,
    const struct kvp_pool *pool)
{
    uint32_t nr_held = 0;

    KV_ASSERT(pool != NULL);
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        const uint32_t i = kvp_seq_get(p, seq, page);
        nr_held += &p->pools[p->frames[i].pool] == pool;
    }
    return nr_held + g->nr_pages - seq->nr_pages > pool->config.nr_frames;
}

static uint32_t new_page(
    struct kvp_pager *p, const struct kvp_seq *seq, struct kvp_pool *pool,
    uint32_t page)
{
    const uint32_t i = kvp_frame_alloc(p, pool, seq->tenant, seq->variant, KVP_FILLING);

    p->cold[i].seq = (uint32_t)(seq - p->seqs);
    p->cold[i].page = page;
    KV_ASSERT(p->frames[i].refs == 1); /* (2) */
    return i;
}

static void grow(
    struct kvp_pager *p, struct kvp_seq *seq, const struct growth *g,
    struct kvp_pool *pool)
{
    const uint32_t had = seq->nr_pages;
    const uint32_t page_tokens = page_tokens_of(p, seq);

    KV_ASSERT(g->nr_new == 0 || pool != NULL);
    seq->version += (g->nr_new > 0);
    seq->nr_pages = g->nr_pages;
    if (g->replace) {
        const uint32_t was = kvp_seq_get(p, seq, had - 1);
        const uint32_t now = new_page(p, seq, pool, had - 1);
        kvp_seq_put(p, seq, had - 1, now);
        kvp_prepare(
            p, now, was, kvp_copy_len(p, seq->variant, seq->n_tokens % page_tokens));
        kvp_retire(p, seq, was, seq->version);
    }
    for (uint32_t page = had; page < g->nr_pages; page++) {
        const uint32_t i = new_page(p, seq, pool, page);
        kvp_seq_put(p, seq, page, i);
        kvp_prepare(p, i, KVP_NO_FRAME, 0);
    }
}

kv_status_t kvp_seq_append(kvp_pager_t *pager, struct kvp_seq_id id, uint32_t n_tokens)
{
    struct kvp_pager *p = pager;
    struct kvp_pool *pool = NULL;
    struct kvp_seq *seq;
    struct growth g;

    if (!kvp_seq_find(p, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    if (n_tokens == 0) {
        return KV_OK;
    }
    kv_status_t status = plan(p, seq, n_tokens, &g);
    if (status != KV_OK) {
        return status;
    }
    if ((g.replace && p->nr_retired_free == 0)
        || kvp_leaves_of(g.nr_pages) - kvp_leaves_of(seq->nr_pages)
               > p->nr_leaves_free) {
        p->metrics.again++;
        return KV_ERR_AGAIN;
    }
    if (g.nr_new > 0) {
        const enum kvp_tier tier = kvp_seq_tier(p, seq->tenant);
        const uint32_t len = p->config.variants[seq->variant].page_bytes;
        status = kvp_room(p, seq->tenant, tier, len, g.nr_new, &pool);
        if (status == KV_ERR_AGAIN
            && never_fits(p, seq, &g, kvp_pool_fit(p, seq->tenant, tier, len))) {
            return KV_ERR_TOO_LARGE;
        }
        if (status != KV_OK) {
            return status;
        }
    }
    const bool reached = kvp_seq_reach(p, seq, g.nr_pages);
    KV_ASSERT(reached);
    grow(p, seq, &g, pool);
    seq->n_tokens += n_tokens;
    return KV_OK;
}

/* ------------------------------------------------------------------ truncate */

kv_status_t
kvp_seq_truncate(kvp_pager_t *pager, struct kvp_seq_id id, uint32_t n_tokens)
{
    struct kvp_pager *p = pager;
    struct kvp_seq *seq;

    if (!kvp_seq_find(p, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    if (n_tokens > seq->n_tokens) {
        return KV_ERR_INVALID;
    }
    const uint32_t keep = kvp_pages_of(n_tokens, page_tokens_of(p, seq));
    const uint32_t gone = seq->nr_pages - keep;
    if (gone > p->nr_retired_free) {
        p->metrics.again++;
        return KV_ERR_AGAIN;
    }
    KV_ASSERT(keep <= seq->nr_pages);
    seq->version += (gone > 0);
    for (uint32_t page = seq->nr_pages; page-- > keep;) { /* tails first */
        kvp_retire(p, seq, kvp_seq_get(p, seq, page), seq->version);
    }
    kvp_seq_shrink(p, seq, keep);
    seq->n_tokens = n_tokens;
    return KV_OK;
}
