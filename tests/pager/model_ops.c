/* Random operations on single copies, the callbacks, and what each must answer. */
#include "tests/pager/model_world.h"

/* ------------------------------------------------------------------ callbacks */

static void on_order(void *arg, const struct kvp_order *order)
{
    struct mw *w = arg;

    MW_MUST(w, w->nr_orders < MW_LIST_MAX);
    for (uint32_t i = 0; i < w->nr_orders; i++) {
        MW_MUST(w, w->orders[i].order.id != order->id);
    }
    w->orders[w->nr_orders].order = *order;
    if (order->kind == KVP_ORDER_COPY) {
        MW_MUST(w, w->live[order->src.frame]);
        w->orders[w->nr_orders].src_word = w->words[order->src.frame];
    }
    w->nr_orders++;
}

static void on_listed(void *arg, struct kvp_ref ref, uint64_t hold)
{
    struct mw *w = arg;
    const uint64_t word = w->words[ref.frame];
    const uint16_t tenant = mw_word_tenant(word), variant = word >> 48 & 0xff;
    const uint32_t key = word >> 32 & 0xffff;

    MW_MUST(w, w->may_list && w->live[ref.frame]);
    MW_MUST(w, hold > w->hold_last); /* never repeats */
    MW_MUST(w, tenant == w->owner[ref.frame] && key < MW_KEYS);
    MW_MUST(w, w->listed[tenant][variant][key] == 0);
    w->listed[tenant][variant][key] = hold;
    w->hold_last = hold;
}

static void on_unlisted(
    void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold)
{
    struct mw *w = arg;
    const uint16_t tenant = kvp_tenant(w->pager, copy->tenant);
    const uint16_t variant = kvp_variant(w->pager, copy->layout, 0, 0);
    uint32_t key = 0;

    while (key < MW_KEYS && !kv_key_equal(&w->keys[key], &copy->key)) {
        key++;
    }
    (void)segment;
    MW_MUST(w, w->may_unlist);
    MW_MUST(w, key < MW_KEYS && hold != 0);
    MW_MUST(w, w->listed[tenant][variant][key] == hold);
    w->listed[tenant][variant][key] = 0;
}

static void on_switched(
    void *arg, struct kvp_seq_id id, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    struct mw *w = arg;

    for (uint32_t s = 0; s < MW_SEQS; s++) {
        struct mw_seq *seq = &w->seqs[s];
        if (!seq->open || seq->id.index != id.index || seq->id.gen != id.gen) {
            continue;
        }
        MW_MUST(w, page < seq->nr_pages && !seq->ending);
        MW_MUST(w, seq->pages[page].frame == was.frame);
        MW_MUST(w, w->live[was.frame] && w->live[now.frame]);
        MW_MUST(w, w->owner[now.frame] == seq->tenant);
        seq->pages[page] = now;
        seq->version++;
        mw_retire(w, seq, was);
        return;
    }
    MW_MUST(w, false && "a sequence that we know");
}

static void on_verified(void *arg, struct kvp_ref ref, kv_status_t status)
{
    struct mw *w = arg;
    uint32_t nr = 0;

    for (uint32_t i = w->refs.nr; i-- > 0;) {
        struct mw_hold *hold = &w->refs.at[i];
        if (hold->ref.frame != ref.frame || !hold->waiting) {
            continue;
        }
        MW_MUST(w, hold->ref.gen == ref.gen);
        nr++;
        hold->waiting = false;
        if (status != KV_OK) {
            mw_take(&w->refs, i);
        } else {
            MW_MUST(
                w, mw_word_is(
                       w->words[ref.frame], hold->tenant, hold->variant, hold->key));
        }
    }
    MW_MUST(w, nr > 0);
}

static void
on_sealed(void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    struct mw *w = arg;

    for (uint32_t i = 0; i < w->sealing.nr; i++) {
        if (w->sealing.at[i].ref.frame != ref.frame) {
            continue;
        }
        struct mw_hold hold = mw_take(&w->sealing, i);
        MW_MUST(w, hold.ref.gen == ref.gen && w->live[now.frame]);
        hold.ref = now;
        if (status == KV_OK) {
            mw_put(w, &w->refs, hold);
        }
        return;
    }
    MW_MUST(w, false && "a put that we know");
}

static void
on_copied(void *arg, struct kvp_ref ref, kv_status_t status, uint64_t computed)
{
    struct mw *w = arg;

    for (uint32_t i = 0; i < w->arrivals.nr; i++) {
        struct mw_hold *hold = &w->arrivals.at[i];
        if (hold->ref.frame == ref.frame && hold->ref.gen == ref.gen) {
            MW_MUST(w, hold->copying && !hold->landed);
            hold->landed = true;
            hold->status = status;
            hold->word = computed;
            return;
        }
    }
}

static bool held_in(const struct mw_list *list, uint32_t frame)
{
    for (uint32_t i = 0; i < list->nr; i++) {
        if (list->at[i].ref.frame == frame) {
            return true;
        }
    }
    return false;
}

/* The rule above all: no frame ends while anybody may still touch it. */
static void on_freed(void *arg, struct kvp_ref ref)
{
    struct mw *w = arg;
    const struct mw_list *const lists[] = {
        &w->refs,  &w->pins,    &w->grants,   &w->ios,    &w->fences,
        &w->fills, &w->sealing, &w->arrivals, &w->movers,
    };

    MW_MUST(w, w->live[ref.frame]);
    MW_MUST(w, ref.gen >= w->gen_next[ref.frame]);
    for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        MW_MUST(w, !held_in(lists[i], ref.frame));
    }
    for (uint32_t s = 0; s < MW_SEQS; s++) {
        const struct mw_seq *seq = &w->seqs[s];
        for (uint32_t i = 0; seq->open && i < seq->nr_pages; i++) {
            MW_MUST(w, seq->pages[i].frame != ref.frame);
        }
        for (uint32_t i = 0; seq->open && i < seq->nr_retired; i++) {
            MW_MUST(w, seq->retired[i].ref.frame != ref.frame);
        }
    }
    for (uint32_t i = 0; i < w->nr_orders; i++) {
        const struct kvp_order *order = &w->orders[i].order;
        MW_MUST(w, order->dst.frame != ref.frame);
        MW_MUST(w, order->kind != KVP_ORDER_COPY || order->src.frame != ref.frame);
    }
    w->live[ref.frame] = false;
    w->gen_next[ref.frame] = ref.gen + 1;
}

const struct kvp_out mw_out = {
    .order = on_order,
    .listed = on_listed,
    .unlisted = on_unlisted,
    .switched = on_switched,
    .verified = on_verified,
    .sealed = on_sealed,
    .copied = on_copied,
    .freed = on_freed,
};

/* ------------------------------------------------------------------ orders */

/* What an order does to the bytes, when it does it; its digest. */
static uint64_t carry_out(struct mw *w, const struct mw_order *o, bool seal)
{
    const uint32_t dst = o->order.dst.frame;
    const bool wrong = mw_chance(w, 5);

    switch (o->order.kind) {
    case KVP_ORDER_ZERO:
        w->words[dst] = 0;
        return 0;
    case KVP_ORDER_COPY:
        /* Nobody wrote it while it was read. */
        MW_MUST(w, w->words[o->order.src.frame] == o->src_word);
        w->words[dst] = o->src_word ^ (wrong && o->src_word != 0);
        return w->words[dst];
    case KVP_ORDER_DIGEST:
        return w->words[dst] ^ (wrong && !seal);
    }
    MW_MUST(w, false && "known kind");
    return 0;
}

void mw_op_order(struct mw *w)
{
    if (w->nr_orders == 0) {
        return;
    }
    const uint32_t i = mw_below(w, w->nr_orders);
    const struct mw_order o = w->orders[i];
    const bool seal =
        o.order.kind == KVP_ORDER_DIGEST && !mw_recheck_out(w, o.order.dst.frame);
    const bool fails = mw_chance(w, 4);
    const kv_status_t status = fails ? KV_ERR_IO : KV_OK;
    const uint64_t computed = fails ? 0 : carry_out(w, &o, seal);

    w->orders[i] = w->orders[--w->nr_orders];
    w->old_orders[w->nr_old_orders++ % MW_OLD_ORDERS] = o.order.id;
    w->may_list = true;
    w->may_unlist = true;
    MW_MUST(w, kvp_order_done(w->pager, o.order.id, status, computed) == KV_OK);
    if (mw_chance(w, 20)) {
        /* Twice, or late: whoever has its slot now must not notice. */
        const uint64_t id =
            w->old_orders[mw_below(w, w->nr_old_orders) % MW_OLD_ORDERS];
        MW_MUST(w, kvp_order_done(w->pager, id, KV_OK, 1) == KV_ERR_STALE);
    }
}

/* ------------------------------------------------------------------ reading */

static void op_acquire(struct mw *w)
{
    const uint16_t tenant = (uint16_t)mw_below(w, MW_TENANTS);
    const uint16_t variant = (uint16_t)mw_below(w, MW_VARIANTS);
    const uint32_t n = mw_chance(w, 5) ? 70 : 1 + mw_below(w, 8);
    uint32_t numbers[70], nr = 0;
    kv_key_t keys[70];
    struct kvp_ref refs[70];
    kv_status_t statuses[70];

    if (w->refs.nr > 200) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        numbers[i] = mw_below(w, MW_KEYS);
        keys[i] = w->keys[numbers[i]];
    }
    const uint32_t taken =
        kvp_acquire(w->pager, tenant, variant, keys, n, refs, statuses);
    for (uint32_t i = 0; i < n; i++) {
        const bool listed = w->listed[tenant][variant][numbers[i]] != 0;
        MW_MUST(w, listed == (statuses[i] != KV_ERR_MISS));
        MW_MUST(w, listed == (refs[i].frame != KVP_NO_FRAME));
        if (!listed) {
            continue;
        }
        const bool waits = statuses[i] == KV_INPROGRESS;
        nr++;
        MW_MUST(w, waits || statuses[i] == KV_OK);
        MW_MUST(w, waits || w->config.verify_local != KVP_VERIFY_ALWAYS);
        MW_MUST(w, waits == mw_recheck_out(w, refs[i].frame) || !waits);
        MW_MUST(w, w->live[refs[i].frame]);
        if (!waits) {
            /* Never a wrong byte. */
            const uint64_t word = w->words[refs[i].frame];
            MW_MUST(w, mw_word_is(word, tenant, variant, numbers[i]));
        }
        mw_put(
            w, &w->refs,
            (struct mw_hold){
                .ref = refs[i],
                .tenant = tenant,
                .variant = variant,
                .key = numbers[i],
                .waiting = waits,
            });
    }
    MW_MUST(w, taken == nr);
}

static void op_release(struct mw *w)
{
    struct kvp_ref refs[8];
    uint32_t nr = 0;

    for (uint32_t i = w->refs.nr; i-- > 0;) {
        if (w->refs.at[i].waiting && mw_chance(w, 5)) {
            kvp_release_waiting(w->pager, mw_take(&w->refs, i).ref);
        }
    }
    for (uint32_t tries = 0; tries < 8 && w->refs.nr > 0; tries++) {
        const uint32_t i = mw_below(w, w->refs.nr);
        if (!w->refs.at[i].waiting) {
            refs[nr++] = mw_take(&w->refs, i).ref;
        }
    }
    kvp_release(w->pager, refs, nr);
}

/* Retain, pin, grant or send a copy that we found or hold, by its reference alone. */
static void op_hold(struct mw *w)
{
    struct mw_hold hold;
    struct kvp_info info;
    const bool held = w->refs.nr > 0 && mw_chance(w, 50);

    if (held) {
        hold = w->refs.at[mw_below(w, w->refs.nr)];
    } else if (!mw_any_copy(w, &hold)) {
        return;
    }
    hold.waiting = false;
    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    const kv_status_t expect = info.hold != 0 ? KV_OK : KV_ERR_STALE;
    struct kvp_ref old = hold.ref;
    old.gen--;
    MW_MUST(w, kvp_retain(w->pager, old) == KV_ERR_STALE);
    switch (mw_below(w, 4)) {
    case 0:
        MW_MUST(w, kvp_retain(w->pager, hold.ref) == expect);
        if (expect == KV_OK) {
            mw_put(w, &w->refs, hold);
        }
        return;
    case 1:
        if (w->pins.nr < 12) {
            MW_MUST(w, kvp_pin(w->pager, hold.ref) == expect);
            if (expect == KV_OK) {
                mw_put(w, &w->pins, hold);
            }
        }
        return;
    case 2:
        MW_MUST(w, kvp_io_begin(w->pager, hold.ref) == KV_OK);
        mw_put(w, &w->ios, hold);
        return;
    default:
        hold.peer = mw_below(w, MW_PEERS);
        const kv_status_t status = kvp_grant(w->pager, hold.ref, hold.peer);
        MW_MUST(w, status == expect || (expect == KV_OK && status == KV_ERR_AGAIN));
        if (status == KV_OK) {
            mw_put(w, &w->grants, hold);
        }
    }
}

static void op_unhold(struct mw *w)
{
    struct mw_list *const lists[] = {
        &w->pins, &w->grants, &w->ios, &w->fences, &w->movers,
    };
    const uint32_t which = mw_below(w, 5);

    if (lists[which]->nr == 0) {
        return;
    }
    const struct mw_hold hold = mw_take(lists[which], mw_below(w, lists[which]->nr));
    switch (which) {
    case 0:
        kvp_unpin(w->pager, hold.ref);
        return;
    case 1:
        kvp_ungrant(w->pager, hold.ref, hold.peer);
        if (mw_chance(w, 50)) {
            kvp_cool(w->pager, hold.ref);
        }
        return;
    case 3:
        kvp_fence_end(w->pager, hold.ref);
        return;
    default:
        kvp_io_end(w->pager, hold.ref);
        kvp_warm(w->pager, hold.ref, w->now_us - mw_below(w, (uint32_t)w->now_us));
    }
}

static void op_drop(struct mw *w)
{
    const uint16_t tenant = (uint16_t)mw_below(w, MW_TENANTS);
    const uint16_t variant = (uint16_t)mw_below(w, MW_VARIANTS);
    const uint32_t number = mw_below(w, MW_KEYS);
    bool found = w->listed[tenant][variant][number] != 0;

    for (uint32_t i = 0; i < w->nr_frames; i++) {
        struct kvp_info info;
        kvp_frame_at(w->pager, i, &info);
        found |= info.state == KVP_ARRIVING && info.tenant == tenant
                 && info.variant == variant
                 && kv_key_equal(&info.copy.key, &w->keys[number]);
    }
    for (uint32_t i = 0; i < w->arrivals.nr; i++) {
        struct mw_hold *hold = &w->arrivals.at[i];
        hold->dropped |=
            hold->tenant == tenant && hold->variant == variant && hold->key == number;
    }
    w->may_unlist = true;
    const kv_status_t status = kvp_drop(w->pager, tenant, variant, &w->keys[number]);
    MW_MUST(w, status == (found ? KV_OK : KV_ERR_MISS));
    MW_MUST(w, w->listed[tenant][variant][number] == 0);
}

/* Bits flip in memory, where verification is asked for at every acquire. */
static void op_flip(struct mw *w)
{
    const uint32_t i = mw_below(w, w->nr_frames);
    struct kvp_info info;

    kvp_frame_at(w->pager, i, &info);
    if (w->config.verify_local == KVP_VERIFY_ALWAYS && info.state == KVP_SEALED
        && info.ios == 0) {
        w->words[i] ^= 2;
    }
}

/* ------------------------------------------------------------------ filling */

static void op_fill_begin(struct mw *w)
{
    struct mw_hold hold = {
        .tenant = (uint16_t)mw_below(w, MW_TENANTS),
        .variant = (uint16_t)mw_below(w, MW_VARIANTS),
    };
    const enum kvp_tier tier = (enum kvp_tier)mw_below(w, KVP_NR_TIERS);
    const uint32_t pt = w->config.variants[hold.variant].page_tokens;
    const uint32_t n = 1 + mw_below(w, pt);
    const uint32_t len = kvp_copy_len(w->pager, hold.variant, n);
    const kv_status_t expect = mw_expect_room(w, hold.tenant, tier, len, 1);

    if (w->fills.nr > 12) {
        return;
    }
    w->may_unlist = true;
    MW_MUST(
        w, kvp_fill_begin(w->pager, hold.tenant, hold.variant, tier, n, &hold.ref)
               == expect);
    if (expect == KV_OK) {
        mw_born(w, hold.ref, hold.tenant);
        mw_put(w, &w->fills, hold);
    }
}

static void op_fill_seal(struct mw *w)
{
    const struct kvp_place place = {.index = mw_below(w, 9)};
    struct kvp_ref existing;
    struct kvp_info info;

    if (w->fills.nr == 0) {
        return;
    }
    struct mw_hold hold = mw_take(&w->fills, mw_below(w, w->fills.nr));
    hold.key = mw_below(w, MW_KEYS);
    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    MW_MUST(w, kvp_writable(w->pager, hold.ref) == (info.ios == 0 && !info.failed));
    kv_status_t expect = KV_SEALING;
    if (info.failed) {
        expect = KV_ERR_IO;
    } else if (info.ios != 0) {
        expect = KV_ERR_AGAIN;
    } else if (mw_equal_copy_in(w, hold.tenant, hold.variant, hold.key, 3)) {
        expect = KV_EXISTS;
    }
    if (expect == KV_SEALING) {
        const uint64_t word = w->words[hold.ref.frame];
        MW_MUST(w, word == 0 || mw_word_tenant(word) == hold.tenant);
        w->words[hold.ref.frame] = mw_word(w, hold.tenant, hold.variant, hold.key);
    }
    const uint64_t before = w->words[hold.ref.frame];
    if (expect == KV_EXISTS) {
        w->words[hold.ref.frame] = mw_word(w, hold.tenant, hold.variant, hold.key);
    }
    const kv_status_t status =
        kvp_fill_seal(w->pager, hold.ref, &w->keys[hold.key], &place, &existing);
    if (expect == KV_EXISTS && status == KV_EXISTS) {
        w->words[hold.ref.frame] = before;
    }
    expect = mw_or_rechecked(w, status, expect, expect == KV_EXISTS, KV_SEALING);
    if (expect == KV_SEALING) {
        mw_put(w, &w->sealing, hold);
    } else if (expect == KV_EXISTS) {
        hold.ref = existing;
        mw_put(w, &w->refs, hold);
    } else {
        mw_put(w, &w->fills, hold);
    }
}

static void op_fill_abort(struct mw *w)
{
    struct mw_list *list = mw_chance(w, 50) ? &w->fills : &w->sealing;
    const bool fence = mw_chance(w, 50);

    if (list->nr == 0) {
        return;
    }
    const struct mw_hold hold = mw_take(list, mw_below(w, list->nr));
    if (fence) {
        mw_put(w, &w->fences, hold);
    }
    kvp_fill_abort(w->pager, hold.ref, fence);
}

/* ------------------------------------------------------------------ arriving */

static uint32_t peer_share(const struct mw *w, uint32_t peer, uint32_t pool)
{
    uint32_t nr = 0;

    for (uint32_t i = 0; i < w->grants.nr + w->arrivals.nr; i++) {
        const struct mw_hold *hold =
            i < w->grants.nr ? &w->grants.at[i] : &w->arrivals.at[i - w->grants.nr];
        struct kvp_info info;
        kvp_frame_at(w->pager, hold->ref.frame, &info);
        nr += hold->peer == peer && info.pool == pool;
    }
    return nr;
}

static void op_arrive_begin(struct mw *w)
{
    struct mw_hold hold;
    struct kvp_info info;
    const enum kvp_tier tier = (enum kvp_tier)mw_below(w, KVP_NR_TIERS);
    const bool found = mw_any_copy(w, &hold);
    const uint32_t pt = w->config.variants[hold.variant].page_tokens;
    struct kvp_arrival a = {
        .tenant = hold.tenant,
        .variant = hold.variant,
        .tier = tier,
        .key = w->keys[hold.key],
        .n_tokens = 1 + mw_below(w, pt),
        .peer = mw_chance(w, 50) ? mw_below(w, MW_PEERS) : KVP_OWN,
        .may_drop = mw_chance(w, 70),
        .by_age = mw_chance(w, 50),
        .keep_reserve = mw_chance(w, 50),
        .last_use_us = mw_below(w, (uint32_t)w->now_us + 1),
    };
    if (found) {
        MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
        a.n_tokens = info.n_tokens; /* a key has one length */
    }
    w->may_unlist = true;
    const kv_status_t status = kvp_arrive_begin(w->pager, &a, &hold.ref);
    MW_MUST(
        w, status == KV_OK || status == KV_EXISTS || status == KV_ERR_AGAIN
               || status == KV_ERR_QUOTA || status == KV_ERR_TOO_LARGE);
    MW_MUST(
        w, (status == KV_ERR_TOO_LARGE)
               == (a.tenant == 2 && tier == KVP_DEVICE)); /* no such pool */
    if (status != KV_OK) {
        return;
    }
    struct kvp_pool_stats stats;
    mw_born(w, hold.ref, hold.tenant);
    hold.peer = a.peer;
    hold.word = mw_word(w, hold.tenant, hold.variant, hold.key);
    hold.digest = hold.word;
    mw_put(w, &w->arrivals, hold);
    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    kvp_pool_stats(w->pager, info.pool, &stats);
    MW_MUST(w, stats.limbo <= stats.limbo_max);
    MW_MUST(
        w,
        a.peer == KVP_OWN || peer_share(w, a.peer, info.pool) <= stats.limbo_max / 2);
}

/* A promotion: the bytes come from the copy in the other tier, if there is one. */
static void op_arrive_copy(struct mw *w, struct mw_hold *hold)
{
    struct kvp_ref src;
    struct kvp_info to, from;

    if (kvp_lookup(w->pager, hold->tenant, hold->variant, &w->keys[hold->key], 1, &src)
        == 0) {
        return;
    }
    MW_MUST(w, kvp_info(w->pager, hold->ref, &to) == KV_OK);
    MW_MUST(w, kvp_info(w->pager, src, &from) == KV_OK);
    if (from.tier == to.tier || from.len != to.len) {
        return;
    }
    MW_MUST(w, kvp_arrive_copy(w->pager, hold->ref, src) == KV_OK);
    hold->copying = true;
    hold->digest = from.digest;
}

static void op_arrive_done(struct mw *w, uint32_t at)
{
    struct mw_hold hold = mw_take(&w->arrivals, at);
    const enum kvp_arrive_how how = (enum kvp_arrive_how)mw_below(w, 3);
    const bool fails = mw_chance(w, 10), wrong = mw_chance(w, 10);
    struct kvp_info info;

    if (hold.copying && !hold.landed) {
        mw_put(w, &w->arrivals, hold);
        return;
    }
    const kv_status_t got = hold.copying ? hold.status : fails ? KV_ERR_IO : KV_OK;
    if (!hold.copying) {
        hold.word ^= wrong;
        w->words[hold.ref.frame] = hold.word;
    }
    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    kv_status_t expect = KV_OK;
    if (got != KV_OK) {
        expect = got;
    } else if (hold.dropped) {
        expect = KV_ERR_MISS;
    } else if (hold.word != hold.digest) {
        expect = KV_ERR_NOT_VERIFIED;
    } else if (mw_equal_copy_in(
                   w, hold.tenant, hold.variant, hold.key, 1u << info.tier)) {
        expect = KV_EXISTS;
    }
    w->may_list = true;
    w->may_unlist = true;
    const kv_status_t status =
        kvp_arrive_done(w->pager, &hold.ref, got, hold.digest, hold.word, how);
    expect = mw_or_rechecked(w, status, expect, expect == KV_EXISTS, KV_OK);
    if (how == KVP_ARRIVE_USED && (expect == KV_OK || expect == KV_EXISTS)) {
        mw_put(w, &w->refs, hold);
    }
}

static void op_arrival(struct mw *w)
{
    if (w->arrivals.nr == 0 || mw_chance(w, 40)) {
        op_arrive_begin(w);
        return;
    }
    const uint32_t at = mw_below(w, w->arrivals.nr);
    struct mw_hold *hold = &w->arrivals.at[at];
    if (!hold->copying && mw_chance(w, 30)) {
        op_arrive_copy(w, hold);
    } else if (mw_chance(w, 10)) {
        const struct mw_hold taken = mw_take(&w->arrivals, at);
        mw_put(w, &w->movers, taken);
        kvp_arrive_abandon(w->pager, taken.ref);
    } else {
        op_arrive_done(w, at);
    }
}

/* ------------------------------------------------------------------ leaving */

static void op_leave_begin(struct mw *w)
{
    const uint32_t pool = mw_below(w, w->config.nr_pools);
    struct mw_hold hold = {0};
    struct kvp_pool_stats stats;
    struct kvp_info info;
    uint32_t dropped;

    if (w->leavings.nr > 60) {
        return;
    }
    w->may_unlist = true;
    const kv_status_t status =
        kvp_leave_begin(w->pager, pool, &hold.ref, &hold.token, &dropped);
    if (status != KV_OK) {
        MW_MUST(w, status == KV_ERR_AGAIN);
        return;
    }
    kvp_pool_stats(w->pager, pool, &stats);
    MW_MUST(w, stats.limbo <= stats.limbo_max);
    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    MW_MUST(w, info.state == KVP_LEAVING && info.pool == pool);
    MW_MUST(w, (info.refs | info.pins | info.grants) == 0);
    mw_put(w, &w->leavings, hold);
}

static bool leaves(const struct mw *w, const struct mw_hold *hold)
{
    struct kvp_info info;

    if (kvp_info(w->pager, hold->ref, &info) != KV_OK || info.state != KVP_LEAVING) {
        return false;
    }
    for (uint32_t i = 0; i < w->leavings.nr; i++) {
        if (w->leavings.at[i].ref.frame == hold->ref.frame
            && w->leavings.at[i].token > hold->token) {
            return false; /* it left again since */
        }
    }
    return true;
}

/* The token stays good: what is ready can still be wanted, dropped, or moved down. */
static void op_leave_ready(struct mw *w, const struct mw_hold *hold, bool still)
{
    struct kvp_info info;

    if (kvp_info(w->pager, hold->ref, &info) == KV_OK && info.ready) {
        return; /* one end a leaving */
    }
    const kv_status_t status = kvp_leave_ready(w->pager, hold->ref, hold->token);
    MW_MUST(w, status == (still ? KV_OK : KV_ERR_STALE));
    if (kvp_info(w->pager, hold->ref, &info) == KV_OK) {
        MW_MUST(w, !info.ready || (still && info.state == KVP_LEAVING));
        w->nr_ready += info.ready;
    }
}

static void op_leave_end(struct mw *w)
{
    if (w->leavings.nr == 0) {
        return;
    }
    const uint32_t at = mw_below(w, w->leavings.nr);
    const struct mw_hold hold = w->leavings.at[at];
    const bool still = leaves(w, &hold);
    const uint32_t nr_orders = w->nr_orders;
    struct kvp_info info;
    kv_status_t status;

    w->may_unlist = true;
    switch (mw_below(w, 6)) {
    case 4:
    case 5:
        op_leave_ready(w, &hold, still);
        return;
    case 0:
        mw_take(&w->leavings, at);
        status = kvp_leave_done(w->pager, hold.ref, hold.token);
        MW_MUST(w, status == (still ? KV_OK : KV_ERR_STALE));
        return;
    case 1:
        mw_take(&w->leavings, at);
        status = kvp_leave_cancel(w->pager, hold.ref, hold.token);
        MW_MUST(w, status == (still ? KV_OK : KV_ERR_STALE));
        return;
    default:
        break;
    }
    if (kvp_info(w->pager, hold.ref, &info) != KV_OK || info.tenant == 2) {
        return;
    }
    status = kvp_demote(
        w->pager, hold.ref, hold.token, info.tier == KVP_DEVICE ? KVP_HOST : KVP_DEVICE,
        mw_chance(w, 60));
    MW_MUST(w, (status == KV_ERR_STALE) == !still);
    if (status == KV_OK) {
        MW_MUST(w, w->nr_orders == nr_orders + 1);
        mw_born(w, w->orders[nr_orders].order.dst, info.tenant);
    }
}

void mw_op_other(struct mw *w)
{
    const uint32_t roll = mw_below(w, 100);

    if (roll < 18) {
        op_acquire(w);
    } else if (roll < 38) {
        op_release(w);
    } else if (roll < 43) {
        op_hold(w);
    } else if (roll < 51) {
        op_unhold(w);
    } else if (roll < 54) {
        op_drop(w);
    } else if (roll < 62) {
        op_fill_begin(w);
    } else if (roll < 70) {
        op_fill_seal(w);
    } else if (roll < 72) {
        op_fill_abort(w);
    } else if (roll < 84) {
        op_arrival(w);
    } else if (roll < 90) {
        op_leave_begin(w);
    } else if (roll < 98) {
        op_leave_end(w);
    } else {
        op_flip(w);
    }
    kvp_pressure(w->pager, mw_below(w, w->config.nr_pools));
}
