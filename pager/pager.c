/* Construction, the configuration's checks, and plain answers about what is here. */
#include "pager/pager.h"

#include "pager/pager_priv.h"

enum { GHOSTS_PER_FRAME = 4 };

void kvp_now(kvp_pager_t *pager, uint64_t now_us)
{
    KV_ASSERT(pager != NULL);
    KV_ASSERT(now_us >= pager->now_us);
    pager->now_us = now_us;
}

uint16_t kvp_tenant(const kvp_pager_t *pager, uint32_t id)
{
    KV_ASSERT(pager->config.nr_tenants <= KVP_TENANTS_MAX);
    for (uint16_t i = 0; i < pager->config.nr_tenants; i++) {
        if (pager->config.tenants[i].id == id) {
            return i;
        }
    }
    return UINT16_MAX;
}

uint16_t
kvp_variant(const kvp_pager_t *pager, uint32_t layout, uint16_t group, uint16_t shard)
{
    KV_ASSERT(pager->config.nr_variants <= KVP_VARIANTS_MAX);
    for (uint16_t i = 0; i < pager->config.nr_variants; i++) {
        const struct kvp_variant_config *v = &pager->config.variants[i];
        if (v->layout == layout && v->group == group && v->shard == shard) {
            return i;
        }
    }
    return UINT16_MAX;
}

uint32_t kvp_copy_len(const kvp_pager_t *pager, uint16_t variant, uint32_t n_tokens)
{
    KV_ASSERT(variant < pager->config.nr_variants);
    const struct kvp_variant_config *v = &pager->config.variants[variant];

    KV_ASSERT(n_tokens > 0 && n_tokens <= v->page_tokens);
    const uint64_t scaled = (uint64_t)v->page_bytes * n_tokens;
    const uint64_t bytes = scaled / v->page_tokens + (scaled % v->page_tokens != 0);
    return (uint32_t)((bytes + KVP_ALIGN - 1) / KVP_ALIGN * KVP_ALIGN);
}

/* ------------------------------------------------------------------ looking in */

static void info_of(const struct kvp_pager *p, uint32_t i, struct kvp_info *info)
{
    const struct kvp_frame *f = &p->frames[i];
    const struct kvp_frame_cold *cold = &p->cold[i];
    const struct kvp_pool *pool = &p->pools[f->pool];

    KV_ASSERT(i >= pool->base && i - pool->base < pool->config.nr_frames);
    *info = (struct kvp_info){
        .ref = kvp_ref_of(p, i),
        .tier = pool->config.tier,
        .state = f->state,
        .tenant = f->tenant,
        .variant = f->variant,
        .n_tokens = cold->n_tokens,
        .len = cold->len,
        .digest = cold->digest,
        .hold = cold->hold,
        .last_use_us = cold->last_use_us,
        .segment = cold->segment,
        .index = cold->index,
        .tail = (f->flags & KVP_F_TAIL) != 0,
        .prev = cold->prev,
        .verifying = (f->flags & KVP_F_VERIFYING) != 0,
        .spilled = (f->flags & KVP_F_SPILLED) != 0,
        .cool = cold->cool,
        .ready = cold->ready,
        .failed = (f->flags & KVP_F_FAILED) != 0,
        .pool = f->pool,
        .pool_frame = i - pool->base,
        .refs = f->refs,
        .pins = f->pins,
        .grants = f->grants,
        .ios = f->ios,
        .fences = f->fences,
        .twin = f->twin,
    };
    if (f->state != KVP_FREE) {
        kvp_copy_name(p, i, &info->copy);
    }
}

kv_status_t
kvp_info(const kvp_pager_t *pager, struct kvp_ref ref, struct kvp_info *info)
{
    KV_ASSERT(info != NULL);
    if (!kvp_ref_valid(pager, ref)) {
        return KV_ERR_STALE;
    }
    info_of(pager, ref.frame, info);
    return KV_OK;
}

kv_status_t
kvp_glance(const kvp_pager_t *pager, struct kvp_ref ref, struct kvp_glance *glance)
{
    KV_ASSERT(glance != NULL);
    if (!kvp_ref_valid(pager, ref)) {
        return KV_ERR_STALE;
    }
    const struct kvp_frame_cold *cold = &pager->cold[ref.frame];
    const struct kvp_frame *frame = &pager->frames[ref.frame];
    const struct kvp_pool *pool = &pager->pools[frame->pool];
    KV_ASSERT(ref.frame >= pool->base
              && ref.frame - pool->base < pool->config.nr_frames);
    *glance = (struct kvp_glance){
        .tier = pool->config.tier,
        .pool = frame->pool,
        .pool_frame = ref.frame - pool->base,
        .n_tokens = cold->n_tokens,
        .len = cold->len,
        .digest = cold->digest,
        .verifying = (frame->flags & KVP_F_VERIFYING) != 0,
    };
    return KV_OK;
}

void kvp_where(
    const kvp_pager_t *pager, uint32_t frame, uint32_t *pool_p, uint32_t *pool_frame_p)
{
    KV_ASSERT(frame < pager->nr_frames);
    const uint32_t pool = pager->frames[frame].pool;
    *pool_p = pool;
    *pool_frame_p = frame - pager->pools[pool].base;
}

void kvp_frame_at(const kvp_pager_t *pager, uint32_t frame, struct kvp_info *info)
{
    KV_ASSERT(frame < pager->nr_frames);
    info_of(pager, frame, info);
}

uint32_t kvp_nr_frames(const kvp_pager_t *pager)
{
    KV_ASSERT(pager != NULL);
    return pager->nr_frames;
}

const struct kvp_metrics *kvp_metrics(const kvp_pager_t *pager)
{
    KV_ASSERT(pager != NULL);
    return &pager->metrics;
}

/* ------------------------------------------------------------------ configuration */

static kv_status_t check_pools(const struct kvp_config *c, struct kv_detail *detail)
{
    uint64_t nr_frames = 0;

    if (c->nr_pools == 0 || c->nr_pools > KVP_POOLS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "pager.pools", KVP_POOLS_MAX, c->nr_pools);
    }
    for (uint32_t i = 0; i < c->nr_pools; i++) {
        const struct kvp_pool_config *pool = &c->pools[i];
        if ((unsigned)pool->tier >= KVP_NR_TIERS) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.pools.tier", KVP_NR_TIERS - 1,
                pool->tier);
        }
        if (pool->frame_bytes == 0 || pool->frame_bytes % KVP_ALIGN != 0) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.pools.frame_bytes", KVP_ALIGN,
                pool->frame_bytes);
        }
        nr_frames += pool->nr_frames;
        if (pool->nr_frames == 0 || nr_frames > UINT32_C(1) << 30) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.pools.nr_frames", UINT32_C(1) << 30,
                nr_frames);
        }
        for (uint32_t j = 0; j < i; j++) {
            /* Two of one size would make "the pool that fits" a matter of luck. */
            if (c->pools[j].tier == pool->tier && c->pools[j].domain == pool->domain
                && c->pools[j].frame_bytes == pool->frame_bytes) {
                return kv_fail(
                    detail, KV_ERR_CONFIG, "pager.pools.twice", 1, pool->frame_bytes);
            }
        }
    }
    return KV_OK;
}

/* Largest frame of that domain and tier; 0 without pools. */
static uint32_t largest(const struct kvp_config *c, uint32_t domain, enum kvp_tier tier)
{
    uint32_t bytes = 0;

    KV_ASSERT(c->nr_pools <= KVP_POOLS_MAX);
    for (uint32_t i = 0; i < c->nr_pools; i++) {
        if (c->pools[i].domain == domain && c->pools[i].tier == tier
            && c->pools[i].frame_bytes > bytes) {
            bytes = c->pools[i].frame_bytes;
        }
    }
    return bytes;
}

static kv_status_t check_tenants(const struct kvp_config *c, struct kv_detail *detail)
{
    if (c->nr_tenants == 0 || c->nr_tenants > KVP_TENANTS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "pager.tenants", KVP_TENANTS_MAX, c->nr_tenants);
    }
    for (uint32_t i = 0; i < c->nr_tenants; i++) {
        const struct kvp_tenant_config *tenant = &c->tenants[i];
        for (uint32_t j = 0; j < i; j++) {
            if (c->tenants[j].id == tenant->id) {
                return kv_fail(
                    detail, KV_ERR_CONFIG, "pager.tenants.id", 1, tenant->id);
            }
        }
        if (largest(c, tenant->domain, KVP_DEVICE) == 0
            && largest(c, tenant->domain, KVP_HOST) == 0) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.tenants.domain", 1, tenant->domain);
        }
    }
    return KV_OK;
}

static kv_status_t check_variants(const struct kvp_config *c, struct kv_detail *detail)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < c->nr_pools; i++) {
        most = c->pools[i].frame_bytes > most ? c->pools[i].frame_bytes : most;
    }
    KV_ASSERT(most > 0);
    if (c->nr_variants == 0 || c->nr_variants > KVP_VARIANTS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "pager.variants", KVP_VARIANTS_MAX, c->nr_variants);
    }
    for (uint32_t i = 0; i < c->nr_variants; i++) {
        const struct kvp_variant_config *v = &c->variants[i];
        if (v->page_tokens == 0 || v->page_tokens > KV_PAGE_TOKENS_MAX) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.variants.page_tokens", KV_PAGE_TOKENS_MAX,
                v->page_tokens);
        }
        if (v->page_bytes == 0 || v->page_bytes % KVP_ALIGN != 0) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.variants.page_bytes", KVP_ALIGN,
                v->page_bytes);
        }
        if (v->page_bytes > most) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "pager.variants.page_bytes", most,
                v->page_bytes);
        }
        for (uint32_t j = 0; j < i; j++) {
            if (c->variants[j].layout == v->layout && c->variants[j].group == v->group
                && c->variants[j].shard == v->shard) {
                return kv_fail(
                    detail, KV_ERR_CONFIG, "pager.variants.twice", 1, v->layout);
            }
        }
    }
    return KV_OK;
}

static kv_status_t check_config(const struct kvp_config *c, struct kv_detail *detail)
{
    const struct {
        const char *field;
        uint64_t max, value;
    } bounds[] = {
        {"pager.verify_local", KVP_VERIFY_ALWAYS, c->verify_local},
        {"pager.nr_sequences", UINT32_C(1) << 20, c->nr_sequences},
        {"pager.nr_leaves", UINT32_C(1) << 24, c->nr_leaves},
        {"pager.nr_retired", UINT32_C(1) << 24, c->nr_retired},
    };

    for (unsigned i = 0; i < KV_COUNT_OF(bounds); i++) {
        if (bounds[i].value > bounds[i].max) {
            return kv_fail(
                detail, KV_ERR_CONFIG, bounds[i].field, bounds[i].max, bounds[i].value);
        }
    }
    if (c->evict == NULL) {
        return kv_fail(detail, KV_ERR_CONFIG, "pager.evict", 1, 0);
    }
    if (c->verify_local == KVP_VERIFY_SAMPLE && c->verify_sample == 0) {
        return kv_fail(detail, KV_ERR_CONFIG, "pager.verify_sample", 1, 0);
    }
    kv_status_t status = check_pools(c, detail);
    if (status == KV_OK) {
        status = check_tenants(c, detail);
    }
    return status == KV_OK ? check_variants(c, detail) : status;
}

/* ------------------------------------------------------------------ construction */

static void shelves_init(struct kvp_pager *p)
{
    for (uint32_t i = 0; i < p->config.nr_pools; i++) {
        const struct kvp_pool_config *pool = &p->config.pools[i];
        for (uint32_t t = 0; t < p->config.nr_tenants; t++) {
            struct kvp_shelf *shelf = &p->shelves[t][pool->tier];
            if (p->config.tenants[t].domain != pool->domain) {
                continue;
            }
            uint32_t at = shelf->nr_pools++;
            KV_ASSERT(at < KVP_POOLS_MAX);
            for (; at > 0; at--) {
                const uint8_t before = shelf->pools[at - 1];
                if (p->config.pools[before].frame_bytes < pool->frame_bytes) {
                    break;
                }
                shelf->pools[at] = before;
            }
            shelf->pools[at] = (uint8_t)i;
        }
    }
}

static kv_status_t pool_init(struct kvp_pager *p, uint32_t n, uint32_t base)
{
    struct kvp_pool *pool = &p->pools[n];
    const struct kvp_evict_ops *evict = p->config.evict;
    const uint32_t nr = p->config.pools[n].nr_frames;
    const uint16_t nr_tenants = (uint16_t)p->config.nr_tenants;

    KV_ASSERT(base + nr <= p->nr_frames);
    pool->config = p->config.pools[n];
    pool->base = base;
    pool->free_head = base;
    pool->in_state[KVP_FREE] = nr;
    pool->limbo_max = nr / KVP_LIMBO_DIVISOR;
    if (pool->limbo_max < KVP_LIMBO_MIN) {
        pool->limbo_max = KVP_LIMBO_MIN;
    }
    for (uint32_t i = base; i < base + nr; i++) {
        p->frames[i] = (struct kvp_frame){
            .gen = 1,
            .twin = KVP_NO_FRAME,
            .pool = (uint8_t)n,
        };
        p->cold[i] = (struct kvp_frame_cold){
            .next_free = i + 1 < base + nr ? i + 1 : KVP_NO_FRAME,
            .peer = KVP_OWN,
            .bytes_of = KVP_BYTES_NOBODYS,
        };
    }
    pool->of_peer = kv_calloc(KVP_PEERS_MAX, sizeof(*pool->of_peer));
    pool->evict = kv_calloc(1, evict->size(nr, nr_tenants));
    if (pool->of_peer == NULL || pool->evict == NULL) {
        return KV_ERR_NOMEM;
    }
    evict->init(pool->evict, nr, nr_tenants);
    return KV_OK;
}

static kv_status_t sequences_init(struct kvp_pager *p)
{
    const struct kvp_config *c = &p->config;

    p->seqs = kv_calloc(c->nr_sequences, sizeof(*p->seqs));
    p->leaves = kv_calloc(c->nr_leaves, sizeof(*p->leaves));
    p->leaf_next = kv_calloc(c->nr_leaves, sizeof(*p->leaf_next));
    p->retired = kv_calloc(c->nr_retired, sizeof(*p->retired));
    if (p->seqs == NULL || p->leaves == NULL || p->leaf_next == NULL
        || p->retired == NULL) {
        return KV_ERR_NOMEM;
    }
    p->seq_free = KVP_NO_SEQ;
    for (uint32_t i = c->nr_sequences; i-- > 0;) {
        p->seqs[i].gen = 1;
        p->seqs[i].next_free = p->seq_free;
        p->seqs[i].retired_head = KVP_NO_RETIRED;
        memset(p->seqs[i].leaves, 0xff, sizeof(p->seqs[i].leaves));
        p->seq_free = i;
    }
    p->leaf_free = KVP_NO_LEAF;
    for (uint32_t i = c->nr_leaves; i-- > 0;) {
        p->leaf_next[i] = p->leaf_free;
        p->leaf_free = i;
    }
    p->retired_free = KVP_NO_RETIRED;
    for (uint32_t i = c->nr_retired; i-- > 0;) {
        p->retired[i].next = p->retired_free;
        p->retired_free = i;
    }
    p->nr_leaves_free = c->nr_leaves;
    p->nr_retired_free = c->nr_retired;
    _Static_assert(KVP_NO_LEAF == UINT32_MAX, "what memset to 0xff gives");
    return KV_OK;
}

static kv_status_t frames_init(struct kvp_pager *p)
{
    for (uint32_t i = 0; i < p->config.nr_pools; i++) {
        p->nr_frames += p->config.pools[i].nr_frames;
    }
    p->frames = kv_calloc(p->nr_frames, sizeof(*p->frames));
    p->cold = kv_calloc(p->nr_frames, sizeof(*p->cold));
    p->scratch = kv_calloc(p->nr_frames, sizeof(*p->scratch));
    if (p->frames == NULL || p->cold == NULL || p->scratch == NULL) {
        return KV_ERR_NOMEM;
    }
    uint32_t base = 0, nr_arriving[KVP_NR_TIERS] = {0};
    for (uint32_t i = 0; i < p->config.nr_pools; i++) {
        const kv_status_t status = pool_init(p, i, base);
        if (status != KV_OK) {
            return status;
        }
        base += p->config.pools[i].nr_frames;
        nr_arriving[p->config.pools[i].tier] += p->pools[i].limbo_max;
    }
    KV_ASSERT(base == p->nr_frames);
    kv_status_t status = kvp_index_init(&p->index, p->nr_frames);
    for (unsigned t = 0; t < KVP_NR_TIERS && status == KV_OK; t++) {
        status = kvp_index_init(&p->arriving[t], nr_arriving[t]);
    }
    if (status == KV_OK) {
        status = kvp_ghost_init(&p->ghost, (uint64_t)GHOSTS_PER_FRAME * p->nr_frames);
    }
    return status;
}

kv_status_t kvp_create(
    const struct kvp_config *config, const struct kvp_out *out, kvp_pager_t **pager_p,
    struct kv_detail *detail)
{
    kv_status_t status = check_config(config, detail);

    if (status != KV_OK) {
        return status;
    }
    struct kvp_pager *p = kv_calloc(1, sizeof(*p));
    if (p == NULL) {
        return kv_fail(detail, KV_ERR_NOMEM, "pager", 0, sizeof(*p));
    }
    p->config = *config;
    p->out = *out;
    p->rng = kv_rng_seed(config->seed);
    p->salt[0] = kv_rng_next(&p->rng);
    p->salt[1] = kv_rng_next(&p->rng);
    shelves_init(p);
    kvp_verify_draw(p);
    status = frames_init(p);
    if (status == KV_OK) {
        status = sequences_init(p);
    }
    if (status != KV_OK) {
        status = kv_fail(detail, status, "pager", 0, p->nr_frames);
        kvp_destroy(p);
        return status;
    }
    *pager_p = p;
    return KV_OK;
}

void kvp_destroy(kvp_pager_t *pager)
{
    struct kvp_pager *p = pager;

    if (p == NULL) {
        return;
    }
    kv_free(p->retired);
    kv_free(p->leaf_next);
    kv_free(p->leaves);
    kv_free(p->seqs);
    kvp_ghost_fini(&p->ghost);
    for (unsigned t = 0; t < KVP_NR_TIERS; t++) {
        kvp_index_fini(&p->arriving[t]);
    }
    kvp_index_fini(&p->index);
    for (uint32_t i = 0; i < p->config.nr_pools; i++) {
        kv_free(p->pools[i].of_peer);
        kv_free(p->pools[i].evict);
    }
    kv_free(p->scratch);
    kv_free(p->cold);
    kv_free(p->frames);
    kv_free(p);
}
