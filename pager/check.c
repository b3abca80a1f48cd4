/* Every invariant that one call cannot break alone, walked from scratch. */
#include "pager/pager_priv.h"

void kvp_check_quick(const kvp_pager_t *pager)
{
    for (uint32_t n = 0; n < pager->config.nr_pools; n++) {
        const struct kvp_pool *pool = &pager->pools[n];
        uint32_t sum = 0;
        for (unsigned s = 0; s < KVP_NR_STATES; s++) {
            sum += pool->in_state[s];
        }
        KV_ASSERT(sum == pool->config.nr_frames); /* (10) */
        KV_ASSERT(
            pool->in_class[KVP_CLASS_LIMBO] >= pool->in_state[KVP_LEAVING]
                                                   + pool->in_state[KVP_ARRIVING]
                                                   + pool->in_state[KVP_QUARANTINE]);
        KV_ASSERT(pool->in_class[KVP_CLASS_IDLE] <= pool->in_state[KVP_SEALED]);
    }
    KV_ASSERT(pager->nr_orders <= pager->nr_frames);
    KV_ASSERT(pager->nr_retired_free <= pager->config.nr_retired);
}

static void check_pool(const struct kvp_pager *p, const struct kvp_pool *pool)
{
    uint32_t in_state[KVP_NR_STATES] = {0}, in_class[KVP_NR_CLASSES] = {0};
    uint32_t idle_of[KVP_TENANTS_MAX] = {0}, nr_free = 0;

    for (uint32_t i = pool->base; i < pool->base + pool->config.nr_frames; i++) {
        const struct kvp_frame *f = &p->frames[i];
        const enum kvp_class class = kvp_frame_class(f);
        in_state[f->state]++;
        in_class[class]++;
        idle_of[f->tenant] += (class == KVP_CLASS_IDLE);
        KV_ASSERT(&p->pools[f->pool] == pool);
    }
    for (unsigned s = 0; s < KVP_NR_STATES; s++) {
        KV_ASSERT(in_state[s] == pool->in_state[s]); /* (10) */
    }
    for (unsigned c = KVP_CLASS_IDLE; c < KVP_NR_CLASSES; c++) {
        KV_ASSERT(in_class[c] == pool->in_class[c]);
    }
    for (unsigned t = 0; t < KVP_TENANTS_MAX; t++) {
        KV_ASSERT(idle_of[t] == pool->idle_of[t]);
    }
    for (uint32_t i = pool->free_head; i != KVP_NO_FRAME; i = p->cold[i].next_free) {
        KV_ASSERT(p->frames[i].state == KVP_FREE); /* (1) */
        KV_ASSERT(nr_free < pool->config.nr_frames);
        nr_free++;
    }
    KV_ASSERT(nr_free == pool->in_state[KVP_FREE]);
    p->config.evict->check(pool->evict);
}

/* The ready list has all of the pool's ready frames, each once, and no more than may
 * wait. */
static void check_ready(const struct kvp_pager *p, const struct kvp_pool *pool)
{
    uint32_t nr = 0, last = KVP_NO_FRAME;

    for (uint32_t i = pool->base; i < pool->base + pool->config.nr_frames; i++) {
        KV_ASSERT(KV_IMPLIES(p->cold[i].ready, p->frames[i].state == KVP_LEAVING));
        nr += p->cold[i].ready;
    }
    KV_ASSERT(nr == pool->nr_ready && nr <= pool->limbo_max / 4);
    for (uint32_t i = nr > 0 ? pool->ready_head : KVP_NO_FRAME; i != KVP_NO_FRAME;
         i = p->cold[i].next_ready) {
        KV_ASSERT(&p->pools[p->frames[i].pool] == pool && p->cold[i].ready);
        KV_ASSERT(nr > 0);
        nr--;
        last = i;
    }
    KV_ASSERT(nr == 0);
    KV_ASSERT(KV_IMPLIES(pool->nr_ready > 0, last == pool->ready_tail));
}

static void check_pair(const struct kvp_pager *p, uint32_t i)
{
    const struct kvp_frame *f = &p->frames[i];
    const struct kvp_frame *g = &p->frames[f->twin];

    KV_ASSERT(f->twin < p->nr_frames && g->twin == i);
    KV_ASSERT(kvp_tier_of(p, i) != kvp_tier_of(p, f->twin));
    KV_ASSERT((f->flags & g->flags & KVP_F_INDEXED) != 0);
    KV_ASSERT(f->tenant == g->tenant && f->variant == g->variant);
    KV_ASSERT(kv_key_equal(&f->key, &g->key));
    KV_ASSERT(p->cold[i].hold == p->cold[f->twin].hold);
    KV_ASSERT(KV_IMPLIES(
        kvp_tier_of(p, i) == KVP_HOST && f->state == KVP_SEALED, p->cold[i].first));
}

static void check_frame(const struct kvp_pager *p, uint32_t i)
{
    const struct kvp_frame *f = &p->frames[i];
    const struct kvp_frame_cold *cold = &p->cold[i];
    const bool indexed = (f->flags & KVP_F_INDEXED) != 0;

    kvp_frame_check(p, i);
    KV_ASSERT(indexed == (cold->hold != 0));
    KV_ASSERT(KV_IMPLIES(indexed, f->state == KVP_SEALED || f->state == KVP_LEAVING));
    if (f->state == KVP_SEALED) {
        KV_ASSERT(indexed || (f->refs | f->pins | f->grants) != 0); /* (4) */
    }
    if (indexed) {
        const uint32_t head = kvp_find(p, f->tenant, f->variant, &f->key);
        KV_ASSERT(head == i || (head == f->twin && kvp_tier_of(p, i) == KVP_HOST));
    }
    if (f->twin != KVP_NO_FRAME) {
        check_pair(p, i);
    }
    if (f->state == KVP_ARRIVING) {
        KV_ASSERT(f->ios > 0); /* (6) */
    }
    if (f->state == KVP_SEALING && (f->flags & KVP_F_LOST) == 0) {
        KV_ASSERT(cold->work == KVP_WORK_SEAL); /* (3) */
    }
    if (f->state == KVP_QUARANTINE) {
        KV_ASSERT((f->grants | f->ios | f->fences) != 0); /* (7) else it is FREE */
    }
    KV_ASSERT(((f->flags & KVP_F_VERIFYING) != 0) == (cold->work == KVP_WORK_RECHECK));
    KV_ASSERT(cold->waiters <= f->refs);
    KV_ASSERT(KV_IMPLIES(cold->work != KVP_WORK_NONE, f->ios > 0));
}

static void check_index(const struct kvp_pager *p)
{
    uint32_t nr_heads = 0, nr_arriving[KVP_NR_TIERS] = {0};

    for (uint32_t i = 0; i < p->nr_frames; i++) {
        const struct kvp_frame *f = &p->frames[i];
        const bool twin = f->twin != KVP_NO_FRAME && kvp_tier_of(p, i) == KVP_HOST;
        nr_heads += (f->flags & KVP_F_INDEXED) != 0 && !twin;
        nr_arriving[kvp_tier_of(p, i)] += f->state == KVP_ARRIVING;
    }
    KV_ASSERT(nr_heads == p->index.nr);
    kvp_index_check(&p->index);
    for (unsigned t = 0; t < KVP_NR_TIERS; t++) {
        KV_ASSERT(nr_arriving[t] == p->arriving[t].nr);
        kvp_index_check(&p->arriving[t]);
    }
}

static void check_sequences(const struct kvp_pager *p)
{
    uint32_t nr_open = 0, nr_leaves = 0, nr_retired = 0;

    memset(p->scratch, 0, p->nr_frames * sizeof(*p->scratch));
    for (uint32_t s = 0; s < p->config.nr_sequences; s++) {
        const struct kvp_seq *seq = &p->seqs[s];
        if (!seq->open) {
            KV_ASSERT(seq->nr_pages == 0 && seq->nr_retired == 0);
            continue;
        }
        nr_open++;
        nr_leaves += kvp_leaves_of(seq->nr_pages);
        nr_retired += seq->nr_retired;
        for (uint32_t page = 0; page < seq->nr_pages; page++) {
            p->scratch[kvp_seq_get(p, seq, page)]++;
        }
        uint32_t r = seq->retired_head;
        for (uint32_t i = 0; i < seq->nr_retired; i++) {
            KV_ASSERT(p->retired[r].version <= seq->version);
            p->scratch[p->retired[r].frame]++;
            r = p->retired[r].next;
        }
        KV_ASSERT(seq->nr_retired == 0 || r == KVP_NO_RETIRED);
    }
    KV_ASSERT(nr_open == p->nr_seqs_open);
    KV_ASSERT(nr_leaves + p->nr_leaves_free == p->config.nr_leaves);
    KV_ASSERT(nr_retired + p->nr_retired_free == p->config.nr_retired);
    for (uint32_t i = 0; i < p->nr_frames; i++) {
        KV_ASSERT(p->frames[i].refs >= p->scratch[i]); /* (9) */
    }
}

void kvp_check(const kvp_pager_t *pager)
{
    uint32_t used[KVP_TENANTS_MAX][KVP_NR_TIERS] = {{0}};
    uint64_t nr_orders = 0;

    kvp_check_quick(pager);
    for (uint32_t n = 0; n < pager->config.nr_pools; n++) {
        check_pool(pager, &pager->pools[n]);
        check_ready(pager, &pager->pools[n]);
    }
    for (uint32_t i = 0; i < pager->nr_frames; i++) {
        check_frame(pager, i);
        if (pager->frames[i].state != KVP_FREE) {
            used[pager->frames[i].tenant][kvp_tier_of(pager, i)]++;
        }
        nr_orders += pager->cold[i].work != KVP_WORK_NONE;
    }
    KV_ASSERT(memcmp(used, pager->used, sizeof(used)) == 0);
    KV_ASSERT(nr_orders == pager->nr_orders);
    check_index(pager);
    check_sequences(pager);
}
