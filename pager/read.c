/* Reading: look-ups, references, pins, re-checks, drops. The only part that runs once a
 * page of every request, so pages are probed in batches: all index lines are on their
 * way before the first is looked at, and then all frame lines. */
#include "pager/pager_priv.h"

/* Finds up to KVP_BATCH pages: four short loops, each with independent steps, so that
 * the processor has as many misses under way as it can. (One loop that works some pages
 * behind its prefetches was a quarter slower: the walk's branches wait for each
 * slot.) */
static inline void probe(
    const struct kvp_pager *p, const struct kvp_index_salt *salt, const kv_key_t *keys,
    uint32_t n, uint32_t *frames)
{
    const struct kvp_index *index = &p->index;
    uint32_t tags[KVP_BATCH], slots[KVP_BATCH];

    KV_ASSERT(n <= KVP_BATCH);
    for (uint32_t i = 0; i < n; i++) {
        tags[i] = kvp_index_tag(salt, &keys[i]);
        __builtin_prefetch(&index->slots[tags[i] >> index->shift]);
    }
    for (uint32_t i = 0; i < n; i++) {
        slots[i] = kvp_index_walk(index, tags[i] >> index->shift, tags[i]);
        frames[i] = index->slots[slots[i]].frame;
        /* An empty slot prefetches frame 0: cheaper than a branch. */
        __builtin_prefetch(&p->frames[frames[i] == KVP_NO_FRAME ? 0 : frames[i]], 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (frames[i] != KVP_NO_FRAME
            && !kvp_index_same(&p->frames[frames[i]], salt, &keys[i])) {
            /* Another key's tag: one in 2^32 / slots. */
            frames[i] =
                kvp_index_settle(index, p->frames, salt, &keys[i], slots[i], tags[i]);
        }
    }
}

static inline uint32_t batch_of(uint32_t n)
{
    return n < KVP_BATCH ? n : KVP_BATCH;
}

uint32_t kvp_lookup(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *keys,
    uint32_t n, struct kvp_ref *refs)
{
    const struct kvp_index_salt salt = kvp_index_salt(pager->salt, tenant, variant);
    uint32_t frames[KVP_BATCH], nr = 0;

    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(variant < pager->config.nr_variants);
    for (uint32_t at = 0; at < n; at += KVP_BATCH) {
        const uint32_t batch = batch_of(n - at);
        probe(pager, &salt, keys + at, batch, frames);
        for (uint32_t i = 0; i < batch; i++) {
            refs[at + i] = (struct kvp_ref){.frame = frames[i]};
            if (frames[i] != KVP_NO_FRAME) {
                refs[at + i].gen = pager->frames[frames[i]].gen;
                nr++;
            }
        }
    }
    return nr;
}

/* Gaps are uniform in [1, 2N - 1], so that one acquire in N is re-checked on average
 * and no access pattern can keep in step with it. */
void kvp_verify_draw(struct kvp_pager *p)
{
    const uint64_t n = p->config.verify_sample;

    switch (p->config.verify_local) {
    case KVP_VERIFY_OFF:
        p->verify_left = UINT64_MAX;
        return;
    case KVP_VERIFY_SAMPLE:
        KV_ASSERT(n > 0);
        p->verify_left = 1 + kv_rng_below(&p->rng, 2 * n - 1);
        return;
    case KVP_VERIFY_ALWAYS:
        p->verify_left = 1;
        return;
    }
    KV_ASSERT(false && "known mode");
}

void kvp_recheck_start(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];

    KV_ASSERT(i < p->nr_frames);
    if (kvp_in_policy(f) && (f->flags & KVP_F_VERIFYING) == 0) {
        f->flags |= KVP_F_VERIFYING;
        kvp_order_give(p, i, KVP_WORK_RECHECK, KVP_NO_FRAME, p->cold[i].len);
    }
}

bool kvp_sound(struct kvp_pager *p, uint32_t i)
{
    KV_ASSERT((p->frames[i].flags & KVP_F_INDEXED) != 0);
    if ((p->frames[i].flags & KVP_F_VERIFYING) != 0) {
        return false;
    }
    if (--p->verify_left != 0) {
        return true;
    }
    kvp_verify_draw(p);
    if (p->frames[i].state == KVP_LEAVING) {
        kvp_wanted_again(p, i);
    }
    kvp_recheck_start(p, i);
    return (p->frames[i].flags & KVP_F_VERIFYING) == 0;
}

/* The reference that was just taken waits for a re-check. */
static __attribute__((noinline)) kv_status_t
recheck(struct kvp_pager *p, uint32_t i, bool drawn)
{
    struct kvp_frame *f = &p->frames[i];

    if (drawn) {
        kvp_verify_draw(p);
    }
    KV_ASSERT(f->state == KVP_SEALED);
    kvp_recheck_start(p, i);
    p->cold[i].waiters++;
    KV_ASSERT(p->cold[i].waiters <= f->refs);
    return KV_INPROGRESS;
}

/* Any frame that the index leads to. */
static __attribute__((noinline)) kv_status_t take(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];

    if (f->state == KVP_LEAVING) {
        kvp_wanted_again(p, i);
    }
    kvp_ref_take(p, i);
    const bool drawn = --p->verify_left == 0;
    if (drawn || (f->flags & KVP_F_VERIFYING) != 0) {
        return recheck(p, i, drawn);
    }
    return KV_OK;
}

/* Sealed, held by references alone, not being re-checked: nearly all that is acquired.
 * Taking one then changes no sum but "idle", and that with the first reference. */
static inline bool plain(const struct kvp_frame *f)
{
    return f->state == KVP_SEALED && (f->grants | f->pins | f->ios | f->fences) == 0
           && (f->flags & KVP_F_VERIFYING) == 0;
}

/* Takes the frames of one batch; the sums are kept aside while they stay in one pool,
 * because a counter in memory that every page changes is what pages would wait for. */
static void take_batch(
    struct kvp_pager *p, const uint32_t *frames, uint32_t n, uint16_t tenant,
    struct kvp_ref *refs, kv_status_t *statuses, uint32_t *hits)
{
    uint32_t nr_woken = 0, nr_hits = 0, nr_plain = 0;
    uint8_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        refs[i] = (struct kvp_ref){.frame = frames[i]};
        statuses[i] = KV_ERR_MISS;
        if (frames[i] == KVP_NO_FRAME) {
            continue;
        }
        struct kvp_frame *f = &p->frames[frames[i]];
        refs[i].gen = f->gen;
        if (f->pool != at) {
            kvp_idle_drop(&p->pools[at], tenant, nr_woken);
            hits[p->pools[at].config.tier] += nr_hits;
            nr_woken = nr_hits = 0;
            at = f->pool;
        }
        nr_hits++;
        const bool draws = p->verify_left == nr_plain + 1;
        if (__builtin_expect(draws || f->tenant != tenant || !plain(f), 0)) {
            p->verify_left -= nr_plain; /* take() counts from where they left it */
            nr_plain = 0;
            statuses[i] = take(p, frames[i]);
            continue;
        }
        nr_plain++;
        nr_woken += f->refs == 0;
        f->refs++;
        KV_ASSERT(f->refs != 0);
        statuses[i] = KV_OK;
    }
    kvp_idle_drop(&p->pools[at], tenant, nr_woken);
    hits[p->pools[at].config.tier] += nr_hits;
    p->verify_left -= nr_plain;
}

uint32_t kvp_acquire(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *keys,
    uint32_t n, struct kvp_ref *refs, kv_status_t *statuses)
{
    struct kvp_pager *p = pager;
    const struct kvp_index_salt salt = kvp_index_salt(p->salt, tenant, variant);
    uint32_t frames[KVP_BATCH], hits[KVP_NR_TIERS] = {0};

    KV_ASSERT(tenant < p->config.nr_tenants);
    KV_ASSERT(variant < p->config.nr_variants);
    for (uint32_t at = 0; at < n; at += KVP_BATCH) {
        const uint32_t batch = batch_of(n - at);
        probe(p, &salt, keys + at, batch, frames);
        take_batch(p, frames, batch, tenant, refs + at, statuses + at, hits);
    }
    const uint32_t nr = hits[KVP_DEVICE] + hits[KVP_HOST];
    p->metrics.hits_device += hits[KVP_DEVICE];
    p->metrics.hits_host += hits[KVP_HOST];
    p->metrics.misses += n - nr;
    return nr;
}

void kvp_recheck_done(
    struct kvp_pager *p, uint32_t i, kv_status_t status, uint64_t computed)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_frame_cold *cold = &p->cold[i];
    const bool equal = status == KV_OK && computed == cold->digest;
    const bool waited = cold->waiters > 0;

    f->flags &= (uint8_t)~KVP_F_VERIFYING;
    if (equal) {
        p->metrics.verified++;
        cold->waiters = 0;
        if (waited) {
            p->out.verified(p->out.arg, kvp_ref_of(p, i), KV_OK);
        }
        return;
    }
    /* A digest that could not be computed proves nothing for the bytes: the copy goes
     * too, and costs a hit. */
    p->metrics.verify_failed++;
    KV_ASSERT(cold->waiters <= f->refs);
    if ((f->flags & KVP_F_INDEXED) != 0) {
        kvp_unpublish(p, i, false);
    }
    for (; cold->waiters > 0; cold->waiters--) {
        kvp_ref_drop(p, i);
    }
    if (waited) {
        p->out.verified(p->out.arg, kvp_ref_of(p, i), KV_ERR_NOT_VERIFIED);
    }
}

kv_status_t kvp_retain(kvp_pager_t *pager, struct kvp_ref ref)
{
    if (!kvp_ref_valid(pager, ref)) {
        return KV_ERR_STALE;
    }
    const struct kvp_frame *f = &pager->frames[ref.frame];
    if ((f->state != KVP_SEALED && f->state != KVP_LEAVING)
        || (f->flags & KVP_F_INDEXED) == 0) {
        return KV_ERR_STALE; /* dropped: nobody new may read it */
    }
    kvp_want(pager, ref.frame);
    return KV_OK;
}

/* A release touches five lines a page that nothing else has touched lately: brings
 * those of a batch near, each step's addresses from the lines of the step before. */
static void warm(struct kvp_pager *p, const struct kvp_ref *refs, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct kvp_frame_cold *cold = &p->cold[refs[i].frame];
        __builtin_prefetch(&p->frames[refs[i].frame], 1);
        __builtin_prefetch(&cold->last_use_us, 1);
        __builtin_prefetch(&cold->first, 1);
    }
    for (unsigned step = 0; step < 2; step++) {
        for (uint32_t i = 0; i < n; i++) {
            const struct kvp_pool *pool = &p->pools[p->frames[refs[i].frame].pool];
            p->config.evict->warm(pool->evict, refs[i].frame - pool->base, step);
        }
    }
}

static void release_batch(struct kvp_pager *p, const struct kvp_ref *refs, uint32_t n)
{
    if (n > 1) {
        warm(p, refs, n);
    }
    for (uint32_t i = n; i-- > 0;) {
        const uint32_t frame = refs[i].frame;
        KV_ASSERT(kvp_ref_valid(p, refs[i]));
        KV_ASSERT(p->frames[frame].state == KVP_SEALED);
        kvp_ref_drop(p, frame);
        /* A reference that waits for a re-check is not given back before it ends. */
        KV_ASSERT(p->frames[frame].refs >= p->cold[frame].waiters);
        kvp_settle_used(p, frame);
    }
}

void kvp_release(kvp_pager_t *pager, const struct kvp_ref *refs, uint32_t n)
{
    while (n > 0) {
        const uint32_t batch = batch_of(n);
        n -= batch;
        release_batch(pager, refs + n, batch);
    }
}

void kvp_release_waiting(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    KV_ASSERT(pager->cold[ref.frame].waiters > 0);
    pager->cold[ref.frame].waiters--;
    kvp_release(pager, &ref, 1);
}

kv_status_t kvp_pin(kvp_pager_t *pager, struct kvp_ref ref)
{
    if (!kvp_ref_valid(pager, ref)) {
        return KV_ERR_STALE;
    }
    struct kvp_frame *f = &pager->frames[ref.frame];
    if ((f->state != KVP_SEALED && f->state != KVP_LEAVING)
        || (f->flags & KVP_F_INDEXED) == 0) {
        return KV_ERR_STALE;
    }
    if (f->pins == UINT16_MAX) {
        return KV_ERR_AGAIN;
    }
    if (f->state == KVP_LEAVING) {
        kvp_wanted_again(pager, ref.frame);
    }
    const enum kvp_class was = kvp_frame_class(f);
    f->pins++;
    kvp_account(pager, f, was);
    return KV_OK;
}

void kvp_unpin(kvp_pager_t *pager, struct kvp_ref ref)
{
    KV_ASSERT(kvp_ref_valid(pager, ref));
    struct kvp_frame *f = &pager->frames[ref.frame];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->pins > 0);
    f->pins--;
    kvp_account(pager, f, was);
    kvp_settle_used(pager, ref.frame);
}

kv_status_t
kvp_drop(kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *key)
{
    struct kvp_pager *p = pager;
    const struct kvp_index_salt salt = kvp_index_salt(p->salt, tenant, variant);
    bool found = false;

    KV_ASSERT(tenant < p->config.nr_tenants && variant < p->config.nr_variants);
    for (unsigned t = 0; t < KVP_NR_TIERS; t++) {
        /* What is on its way would bring the copy back after its purge. */
        const uint32_t i = kvp_index_find(&p->arriving[t], p->frames, &salt, key);
        if (i != KVP_NO_FRAME) {
            p->frames[i].flags |= KVP_F_LOST;
            found = true;
        }
    }
    for (unsigned t = 0; t < KVP_NR_TIERS; t++) {
        const uint32_t i = kvp_index_find(&p->index, p->frames, &salt, key);
        if (i == KVP_NO_FRAME) {
            break;
        }
        kvp_drop_frame(p, i, false); /* the twin, if any, is next */
        found = true;
    }
    KV_ASSERT(kvp_index_find(&p->index, p->frames, &salt, key) == KVP_NO_FRAME);
    return found ? KV_OK : KV_ERR_MISS;
}
