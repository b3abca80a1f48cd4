#include "tests/pager/model_world.h"

_Noreturn void
mw_broken(const struct mw *w, const char *rule, const char *file, int line)
{
    fprintf(
        stderr, "%s:%d: seed %llu step %llu: broken: %s\n", file, line,
        (unsigned long long)w->seed, (unsigned long long)w->step, rule);
    abort();
}

uint32_t mw_below(struct mw *w, uint32_t bound)
{
    return (uint32_t)kv_rng_below(&w->rng, bound);
}

bool mw_chance(struct mw *w, uint32_t percent)
{
    return mw_below(w, 100) < percent;
}

static void make_keys(struct mw *w)
{
    struct kv_rng rng = kv_rng_seed(w->seed + 1000);

    for (uint32_t k = 0; k < MW_KEYS; k++) {
        for (unsigned i = 0; i < KV_KEY_BYTES / 8; i++) {
            const uint64_t word = kv_rng_next(&rng);
            memcpy(w->keys[k].b + 8 * i, &word, sizeof(word));
        }
    }
}

/* tenant + 1, variant, key and a serial number: never 0, which is a frame's zero. */
uint64_t mw_word(struct mw *w, uint16_t tenant, uint16_t variant, uint32_t key)
{
    return (uint64_t)(tenant + 1) << 56 | (uint64_t)variant << 48 | (uint64_t)key << 32
           | (++w->serial & UINT32_MAX);
}

bool mw_word_is(uint64_t word, uint16_t tenant, uint16_t variant, uint32_t key)
{
    return word >> 32 == ((uint64_t)(tenant + 1) << 24 | (uint64_t)variant << 16 | key);
}

uint16_t mw_word_tenant(uint64_t word)
{
    return (uint16_t)((word >> 56) - 1);
}

void mw_put(struct mw *w, struct mw_list *list, struct mw_hold hold)
{
    MW_MUST(w, list->nr < MW_LIST_MAX);
    list->at[list->nr++] = hold;
}

struct mw_hold mw_take(struct mw_list *list, uint32_t i)
{
    const struct mw_hold hold = list->at[i];
    list->at[i] = list->at[--list->nr];
    return hold;
}

void mw_born(struct mw *w, struct kvp_ref ref, uint16_t tenant)
{
    MW_MUST(w, ref.frame < w->nr_frames);
    MW_MUST(w, !w->live[ref.frame]);
    MW_MUST(w, ref.gen >= w->gen_next[ref.frame]); /* never the name of an old frame */
    w->live[ref.frame] = true;
    w->owner[ref.frame] = tenant;
}

bool mw_recheck_out(const struct mw *w, uint32_t frame)
{
    for (uint32_t i = 0; i < w->nr_orders; i++) {
        const struct kvp_order *order = &w->orders[i].order;
        if (order->kind == KVP_ORDER_DIGEST && order->dst.frame == frame) {
            struct kvp_info info;
            kvp_frame_at(w->pager, frame, &info);
            return info.state == KVP_SEALED;
        }
    }
    return false;
}

bool mw_any_copy(struct mw *w, struct mw_hold *hold)
{
    *hold = (struct mw_hold){
        .tenant = (uint16_t)mw_below(w, MW_TENANTS),
        .variant = (uint16_t)mw_below(w, MW_VARIANTS),
        .key = mw_below(w, MW_KEYS),
    };
    const kv_key_t *key = &w->keys[hold->key];
    return kvp_lookup(w->pager, hold->tenant, hold->variant, key, 1, &hold->ref) == 1;
}

static bool evictable(const struct kvp_info *info)
{
    return (info->state == KVP_SEALED || info->ready)
           && (info->refs | info->pins | info->grants | info->ios | info->fences) == 0;
}

kv_status_t mw_expect_room(
    struct mw *w, uint16_t tenant, enum kvp_tier tier, uint32_t len, uint32_t n)
{
    const struct kvp_config *c = &w->config;
    uint32_t pool = UINT32_MAX, nr_free = 0, nr_idle = 0, own_used = 0, own_idle = 0;

    for (uint32_t i = 0; i < c->nr_pools; i++) {
        if (c->pools[i].tier == tier && c->pools[i].domain == c->tenants[tenant].domain
            && c->pools[i].frame_bytes >= len
            && (pool == UINT32_MAX
                || c->pools[i].frame_bytes < c->pools[pool].frame_bytes)) {
            pool = i;
        }
    }
    if (pool == UINT32_MAX || n > c->pools[pool].nr_frames) {
        return KV_ERR_TOO_LARGE;
    }
    for (uint32_t i = 0; i < w->nr_frames; i++) {
        struct kvp_info info;
        kvp_frame_at(w->pager, i, &info);
        const bool own =
            info.state != KVP_FREE && info.tenant == tenant && info.tier == tier;
        nr_free += info.pool == pool && info.state == KVP_FREE;
        nr_idle += info.pool == pool && evictable(&info);
        own_used += own;
        own_idle += own && evictable(&info);
    }
    const uint32_t ceiling = c->tenants[tenant].ceiling[tier];
    if (ceiling != 0 && (n > ceiling || own_used + n > ceiling + own_idle)) {
        return KV_ERR_QUOTA;
    }
    return n > nr_free + nr_idle ? KV_ERR_AGAIN : KV_OK;
}

void mw_retire(struct mw *w, struct mw_seq *seq, struct kvp_ref ref)
{
    MW_MUST(w, seq->nr_retired < MW_RETIRED);
    seq->retired[seq->nr_retired].ref = ref;
    seq->retired[seq->nr_retired++].version = seq->version;
}

struct mw_seq *mw_any_seq(struct mw *w)
{
    struct mw_seq *seq = &w->seqs[mw_below(w, MW_SEQS)];
    return seq->open ? seq : NULL;
}

/* ------------------------------------------------------------------ begin and end */

static void configure(struct mw *w)
{
    struct kvp_config *c = &w->config;

    *c = (struct kvp_config){
        .pools =
            {
                {.tier = KVP_DEVICE, .domain = 0, .frame_bytes = 4096, .nr_frames = 28},
                {.tier = KVP_DEVICE, .domain = 0, .frame_bytes = 1024, .nr_frames = 20},
                {.tier = KVP_HOST, .domain = 0, .frame_bytes = 4096, .nr_frames = 36},
                {.tier = KVP_HOST, .domain = 9, .frame_bytes = 4096, .nr_frames = 24},
            },
        .nr_pools = 4,
        .tenants =
            {
                {.id = 100, .domain = 0},
                {.id = 200, .domain = 0, .ceiling = {12, 14}},
                {.id = 300, .domain = 9, .ceiling = {0, 20}},
            },
        .nr_tenants = MW_TENANTS,
        .variants =
            {
                {.layout = 1, .page_tokens = 8, .page_bytes = 4096},
                {.layout = 2, .page_tokens = 4, .page_bytes = 1024},
            },
        .nr_variants = MW_VARIANTS,
        .evict = w->seed % 5 == 4 ? &kvp_evict_fifo : &kvp_evict_lru,
        .verify_local = (enum kvp_verify)(w->seed % 3),
        .verify_sample = 8,
        .nr_sequences = MW_SEQS,
        .nr_leaves = MW_SEQS - 1,
        .nr_retired = MW_RETIRED,
        .free_target_divisor = w->seed % 2 == 0 ? 6 : 0,
        .seed = w->seed,
    };
}

struct mw *mw_create(uint64_t seed)
{
    struct mw *w = calloc(1, sizeof(*w));
    struct kvp_out out = mw_out;

    if (w == NULL) {
        abort();
    }
    w->seed = seed;
    w->rng = kv_rng_seed(seed);
    configure(w);
    make_keys(w);
    out.arg = w;
    MW_MUST(w, kvp_create(&w->config, &out, &w->pager, NULL) == KV_OK);
    w->nr_frames = kvp_nr_frames(w->pager);
    MW_MUST(w, w->nr_frames <= MW_FRAMES_MAX);
    return w;
}

void mw_destroy(struct mw *w)
{
    kvp_destroy(w->pager);
    free(w);
}

/* ------------------------------------------------------------------ draining */

static void drain_holds(struct mw *w)
{
    while (w->refs.nr > 0) {
        const struct mw_hold hold = mw_take(&w->refs, w->refs.nr - 1);
        kvp_release(w->pager, &hold.ref, 1);
    }
    while (w->pins.nr > 0) {
        kvp_unpin(w->pager, mw_take(&w->pins, 0).ref);
    }
    while (w->grants.nr > 0) {
        const struct mw_hold hold = mw_take(&w->grants, 0);
        kvp_ungrant(w->pager, hold.ref, hold.peer);
    }
    while (w->ios.nr > 0) {
        kvp_io_end(w->pager, mw_take(&w->ios, 0).ref);
    }
    while (w->fences.nr > 0) {
        kvp_fence_end(w->pager, mw_take(&w->fences, 0).ref);
    }
    while (w->movers.nr > 0) {
        kvp_io_end(w->pager, mw_take(&w->movers, 0).ref);
    }
    while (w->leavings.nr > 0) {
        const struct mw_hold hold = mw_take(&w->leavings, 0);
        kvp_leave_done(w->pager, hold.ref, hold.token);
    }
}

void mw_drain(struct mw *w)
{
    w->may_unlist = true;
    w->may_list = true;
    for (uint32_t s = 0; s < MW_SEQS; s++) {
        struct mw_seq *seq = &w->seqs[s];
        if (!seq->open) {
            continue;
        }
        seq->open = false;
        MW_MUST(
            w, (seq->ending ? kvp_seq_fenced(w->pager, seq->id)
                            : kvp_seq_end(w->pager, seq->id, false))
                   == KV_OK);
    }
    while (w->fills.nr > 0) {
        kvp_fill_abort(w->pager, mw_take(&w->fills, 0).ref, false);
    }
    while (w->arrivals.nr > 0) {
        const struct mw_hold hold = mw_take(&w->arrivals, 0);
        mw_put(w, &w->movers, hold);
        kvp_arrive_abandon(w->pager, hold.ref);
    }
    while (w->nr_orders > 0) {
        mw_op_order(w);
    }
    drain_holds(w);
    mw_compare(w);
    for (uint32_t i = 0; i < w->nr_frames; i++) {
        struct kvp_info info;
        kvp_frame_at(w->pager, i, &info);
        MW_MUST(w, info.state == KVP_FREE || info.state == KVP_SEALED);
        MW_MUST(w, (info.refs | info.pins | info.grants | info.ios | info.fences) == 0);
    }
}

/* ------------------------------------------------------------------ comparing */

static uint32_t count(const struct mw_list *list, uint32_t frame)
{
    uint32_t nr = 0;

    for (uint32_t i = 0; i < list->nr; i++) {
        nr += list->at[i].ref.frame == frame;
    }
    return nr;
}

static uint32_t count_in_seqs(const struct mw *w, uint32_t frame)
{
    uint32_t nr = 0;

    for (uint32_t s = 0; s < MW_SEQS; s++) {
        const struct mw_seq *seq = &w->seqs[s];
        for (uint32_t i = 0; seq->open && i < seq->nr_pages; i++) {
            nr += seq->pages[i].frame == frame;
        }
        for (uint32_t i = 0; seq->open && i < seq->nr_retired; i++) {
            nr += seq->retired[i].ref.frame == frame;
        }
    }
    return nr;
}

static uint32_t count_orders(const struct mw *w, uint32_t frame)
{
    uint32_t nr = 0;

    for (uint32_t i = 0; i < w->nr_orders; i++) {
        const struct kvp_order *order = &w->orders[i].order;
        nr += order->dst.frame == frame;
        nr += order->kind == KVP_ORDER_COPY && order->src.frame == frame;
    }
    return nr;
}

/* References, pins, grants, fences and ios are conserved, frame by frame. */
static void compare_frames(struct mw *w)
{
    for (uint32_t i = 0; i < w->nr_frames; i++) {
        struct kvp_info info;
        kvp_frame_at(w->pager, i, &info);
        MW_MUST(w, w->live[i] == (info.state != KVP_FREE));
        MW_MUST(w, info.pins == count(&w->pins, i));
        MW_MUST(w, info.grants == count(&w->grants, i));
        MW_MUST(w, info.fences == count(&w->fences, i));
        MW_MUST(
            w, info.refs
                   == count(&w->refs, i) + count(&w->fills, i) + count(&w->sealing, i)
                          + count_in_seqs(w, i));
        MW_MUST(
            w,
            info.ios >= count(&w->ios, i) + count(&w->movers, i) + count_orders(w, i));
        if (info.hold != 0) {
            MW_MUST(w, w->words[i] == info.digest || w->config.verify_local == 2);
        }
    }
}

/* A page is found exactly when it is listed, by its own tenant alone. */
static void compare_index(struct mw *w)
{
    struct kvp_ref refs[MW_KEYS];

    for (uint16_t t = 0; t < MW_TENANTS; t++) {
        for (uint16_t v = 0; v < MW_VARIANTS; v++) {
            kvp_lookup(w->pager, t, v, w->keys, MW_KEYS, refs);
            for (uint32_t k = 0; k < MW_KEYS; k++) {
                struct kvp_info info;
                MW_MUST(
                    w, (refs[k].frame != KVP_NO_FRAME) == (w->listed[t][v][k] != 0));
                if (refs[k].frame == KVP_NO_FRAME) {
                    continue;
                }
                MW_MUST(w, kvp_info(w->pager, refs[k], &info) == KV_OK);
                MW_MUST(w, info.hold == w->listed[t][v][k] && info.tenant == t);
                MW_MUST(w, mw_word_is(info.digest, t, v, k));
            }
        }
    }
}

static void compare_seqs(struct mw *w)
{
    for (uint32_t s = 0; s < MW_SEQS; s++) {
        const struct mw_seq *seq = &w->seqs[s];
        struct kvp_ref refs[MW_SEQ_PAGES + 2];
        struct kvp_seq_info info;
        if (!seq->open) {
            continue;
        }
        MW_MUST(w, kvp_seq_info(w->pager, seq->id, &info) == KV_OK);
        MW_MUST(w, info.nr_pages == seq->nr_pages && info.n_tokens == seq->n_tokens);
        MW_MUST(w, info.version == seq->version && info.ending == seq->ending);
        MW_MUST(w, info.nr_retired == seq->nr_retired);
        MW_MUST(w, kvp_seq_table(w->pager, seq->id, 0, seq->nr_pages, refs) == KV_OK);
        for (uint32_t i = 0; i < seq->nr_pages; i++) {
            MW_MUST(w, refs[i].frame == seq->pages[i].frame);
            MW_MUST(w, refs[i].gen == seq->pages[i].gen);
        }
    }
}

void mw_compare(struct mw *w)
{
    kvp_check(w->pager);
    compare_frames(w);
    compare_index(w);
    compare_seqs(w);
    MW_MUST(w, kvp_orders_out(w->pager) == w->nr_orders);
    for (uint16_t t = 0; t < MW_TENANTS; t++) {
        for (unsigned tier = 0; tier < KVP_NR_TIERS; tier++) {
            uint32_t nr = 0;
            for (uint32_t i = 0; i < w->nr_frames; i++) {
                struct kvp_info info;
                kvp_frame_at(w->pager, i, &info);
                nr += w->live[i] && w->owner[i] == t && info.tier == tier;
            }
            const uint32_t ceiling = w->config.tenants[t].ceiling[tier];
            MW_MUST(w, kvp_used(w->pager, t, (enum kvp_tier)tier) == nr);
            MW_MUST(w, ceiling == 0 || nr <= ceiling);
        }
    }
}

void mw_step(struct mw *w)
{
    const uint32_t roll = mw_below(w, 100);

    w->step++;
    w->now_us += mw_below(w, 3);
    kvp_now(w->pager, w->now_us);
    w->may_unlist = false;
    w->may_list = false;
    if (roll < 30) {
        mw_op_order(w);
    } else if (roll < 55) {
        mw_op_seq(w);
    } else {
        mw_op_other(w);
    }
    kvp_check_quick(w->pager);
    if (w->step % 1000 == 0) {
        mw_compare(w);
    }
}

kv_status_t mw_or_rechecked(
    struct mw *w, kv_status_t status, kv_status_t expect, bool relies,
    kv_status_t fresh)
{
    const bool may_draw = relies && w->config.verify_local != KVP_VERIFY_OFF;

    MW_MUST(w, status == expect || (may_draw && status == fresh));
    return status;
}
