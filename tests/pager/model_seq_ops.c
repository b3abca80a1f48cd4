/* Random operations on sequences, and what each must answer. */
#include "tests/pager/model_world.h"

static uint32_t page_tokens(const struct mw *w, const struct mw_seq *seq)
{
    return w->config.variants[seq->variant].page_tokens;
}

static enum kvp_tier seq_tier(const struct mw_seq *seq)
{
    return seq->tenant == 2 ? KVP_HOST : KVP_DEVICE;
}

static uint32_t pages_for(const struct mw *w, const struct mw_seq *seq, uint32_t n)
{
    return (n + page_tokens(w, seq) - 1) / page_tokens(w, seq);
}

static uint32_t retired_free(const struct mw *w)
{
    uint32_t nr = MW_RETIRED;

    for (uint32_t s = 0; s < MW_SEQS; s++) {
        nr -= w->seqs[s].open ? w->seqs[s].nr_retired : 0;
    }
    return nr;
}

static uint32_t leaves_free(const struct mw *w)
{
    uint32_t nr = w->config.nr_leaves;

    for (uint32_t s = 0; s < MW_SEQS; s++) {
        nr -= w->seqs[s].open && w->seqs[s].nr_pages > 0;
    }
    return nr;
}

static enum kvp_frame_state state_of(const struct mw *w, struct kvp_ref ref)
{
    struct kvp_info info;

    MW_MUST(w, kvp_info(w->pager, ref, &info) == KV_OK);
    return info.state;
}

static void fetch_new_pages(struct mw *w, struct mw_seq *seq, uint32_t first)
{
    for (uint32_t i = first; i < seq->nr_pages; i++) {
        MW_MUST(w, kvp_seq_table(w->pager, seq->id, i, 1, &seq->pages[i]) == KV_OK);
        mw_born(w, seq->pages[i], seq->tenant);
        MW_MUST(w, state_of(w, seq->pages[i]) == KVP_FILLING);
    }
}

static void op_open(struct mw *w)
{
    struct mw_seq *seq = &w->seqs[mw_below(w, MW_SEQS)];
    const uint16_t tenant = (uint16_t)mw_below(w, MW_TENANTS);
    const uint16_t variant = (uint16_t)mw_below(w, MW_VARIANTS);

    if (seq->open) {
        return;
    }
    *seq = (struct mw_seq){.tenant = tenant, .variant = variant};
    MW_MUST(w, kvp_seq_open(w->pager, tenant, variant, &seq->id) == KV_OK);
    seq->open = true;
}

static void op_append(struct mw *w, struct mw_seq *seq)
{
    const uint32_t n = 1 + mw_below(w, 2 * page_tokens(w, seq));
    const uint32_t total = pages_for(w, seq, seq->n_tokens + n);
    const uint32_t had = seq->nr_pages;
    const bool mid = seq->n_tokens % page_tokens(w, seq) != 0;
    const bool replace = mid && state_of(w, seq->pages[had - 1]) != KVP_FILLING;
    const uint32_t nr_new = total - had + replace;
    kv_status_t expect = KV_OK;

    if (total > MW_SEQ_PAGES) {
        return;
    }
    if ((replace && retired_free(w) == 0)
        || (had == 0 && total > 0 && leaves_free(w) == 0)) {
        expect = KV_ERR_AGAIN;
    } else if (nr_new > 0) {
        expect = mw_expect_room(
            w, seq->tenant, seq_tier(seq), w->config.variants[seq->variant].page_bytes,
            nr_new);
    }
    w->may_unlist = true;
    MW_MUST(w, kvp_seq_append(w->pager, seq->id, n) == expect);
    if (expect != KV_OK) {
        return;
    }
    seq->n_tokens += n;
    seq->version += nr_new > 0;
    seq->nr_pages = total;
    if (replace) {
        mw_retire(w, seq, seq->pages[had - 1]);
    }
    fetch_new_pages(w, seq, replace ? had - 1 : had);
}

bool mw_equal_copy_in(
    struct mw *w, uint16_t tenant, uint16_t variant, uint32_t number, unsigned tiers)
{
    struct kvp_ref ref;
    struct kvp_info info;

    if (kvp_lookup(w->pager, tenant, variant, &w->keys[number], 1, &ref) == 0) {
        return false;
    }
    MW_MUST(w, kvp_info(w->pager, ref, &info) == KV_OK);
    if ((tiers >> info.tier & 1) != 0 && !mw_recheck_out(w, ref.frame)) {
        return true;
    }
    if (info.twin == KVP_NO_FRAME) {
        return false;
    }
    kvp_frame_at(w->pager, info.twin, &info);
    return (tiers >> info.tier & 1) != 0 && !mw_recheck_out(w, info.ref.frame);
}

static void op_seal(struct mw *w, struct mw_seq *seq)
{
    const struct kvp_place place = {.index = mw_below(w, 100)};
    const uint32_t number = mw_below(w, MW_KEYS);

    if (seq->nr_pages == 0) {
        return;
    }
    const uint32_t page = mw_below(w, seq->nr_pages);
    const struct kvp_ref own = seq->pages[page];
    struct kvp_info info;
    MW_MUST(w, kvp_info(w->pager, own, &info) == KV_OK);
    kv_status_t expect = KV_SEALING;
    bool relies = false;
    if (info.state != KVP_FILLING) {
        expect = KV_ERR_INVALID;
    } else if (info.failed) {
        expect = KV_ERR_IO;
    } else if (info.ios != 0) {
        expect = KV_ERR_AGAIN;
    } else if (mw_equal_copy_in(
                   w, seq->tenant, seq->variant, number, 1u << seq_tier(seq))) {
        relies = true;
        expect = retired_free(w) > 0 ? KV_EXISTS : KV_ERR_AGAIN;
    }
    if (expect == KV_SEALING) {
        /* Another tenant's bytes must be gone before this one may look. */
        MW_MUST(w, kvp_writable(w->pager, own));
        const uint64_t word = w->words[own.frame];
        MW_MUST(w, word == 0 || mw_word_tenant(word) == seq->tenant);
        w->words[own.frame] = mw_word(w, seq->tenant, seq->variant, number);
    }
    const uint64_t before = w->words[own.frame];
    if (relies) {
        w->words[own.frame] = mw_word(w, seq->tenant, seq->variant, number);
    }
    const kv_status_t status =
        kvp_seq_seal(w->pager, seq->id, page, &w->keys[number], &place);
    if (relies && status != KV_SEALING) {
        w->words[own.frame] = before;
    }
    (void)mw_or_rechecked(w, status, expect, relies, KV_SEALING);
}

static void op_truncate(struct mw *w, struct mw_seq *seq)
{
    const uint32_t n = mw_below(w, seq->n_tokens + 1);
    const uint32_t keep = pages_for(w, seq, n);
    const uint32_t gone = seq->nr_pages - keep;
    const bool room = gone <= retired_free(w);

    MW_MUST(w, kvp_seq_truncate(w->pager, seq->id, n) == (room ? KV_OK : KV_ERR_AGAIN));
    MW_MUST(
        w, kvp_seq_truncate(w->pager, seq->id, seq->n_tokens + 1) == KV_ERR_INVALID);
    if (!room) {
        return;
    }
    seq->version += gone > 0;
    for (uint32_t i = seq->nr_pages; i-- > keep;) {
        mw_retire(w, seq, seq->pages[i]);
    }
    seq->nr_pages = keep;
    seq->n_tokens = n;
}

static void op_confirm(struct mw *w, struct mw_seq *seq)
{
    const uint64_t version = seq->version - mw_below(w, seq->version > 2 ? 3 : 1);
    uint32_t kept = 0;

    for (uint32_t i = 0; i < seq->nr_retired; i++) {
        if (seq->retired[i].version > version) {
            seq->retired[kept++] = seq->retired[i];
        }
    }
    seq->nr_retired = kept;
    MW_MUST(w, kvp_seq_confirm(w->pager, seq->id, seq->version + 1) == KV_ERR_INVALID);
    MW_MUST(w, kvp_seq_confirm(w->pager, seq->id, version) == KV_OK);
}

/* Answers of a fork, from its filling pages. */
static kv_status_t expect_fork(struct mw *w, const struct mw_seq *seq)
{
    uint32_t nr_filling = 0;

    for (uint32_t i = 0; i < seq->nr_pages; i++) {
        struct kvp_info info;
        MW_MUST(w, kvp_info(w->pager, seq->pages[i], &info) == KV_OK);
        if (info.state != KVP_FILLING) {
            continue;
        }
        if (info.failed) {
            return KV_ERR_IO;
        }
        for (uint32_t o = 0; o < w->nr_orders; o++) {
            if (w->orders[o].order.dst.frame == seq->pages[i].frame) {
                return KV_ERR_AGAIN;
            }
        }
        nr_filling++;
    }
    if (seq->nr_pages > 0 && leaves_free(w) == 0) {
        return KV_ERR_AGAIN;
    }
    return nr_filling == 0 ? KV_OK
                           : mw_expect_room(
                               w, seq->tenant, seq_tier(seq),
                               w->config.variants[seq->variant].page_bytes, nr_filling);
}

static void op_fork(struct mw *w, struct mw_seq *seq)
{
    struct mw_seq *child = &w->seqs[mw_below(w, MW_SEQS)];
    struct kvp_seq_id id;

    if (child->open) {
        return;
    }
    const kv_status_t expect = expect_fork(w, seq);
    w->may_unlist = true;
    MW_MUST(w, kvp_seq_fork(w->pager, seq->id, &id) == expect);
    if (expect != KV_OK) {
        return;
    }
    *child = *seq;
    child->id = id;
    child->version = 1;
    child->nr_retired = 0;
    for (uint32_t i = 0; i < child->nr_pages; i++) {
        const bool filling = state_of(w, seq->pages[i]) == KVP_FILLING;
        MW_MUST(w, kvp_seq_table(w->pager, id, i, 1, &child->pages[i]) == KV_OK);
        MW_MUST(w, (child->pages[i].frame != seq->pages[i].frame) == filling);
        if (filling) {
            mw_born(w, child->pages[i], child->tenant);
        }
    }
}

static void op_end(struct mw *w, struct mw_seq *seq)
{
    const bool fence = mw_chance(w, 40);

    seq->open = fence;
    seq->ending = true;
    MW_MUST(w, kvp_seq_end(w->pager, seq->id, fence) == KV_OK);
    MW_MUST(w, kvp_seq_end(w->pager, seq->id, fence) == KV_ERR_STALE);
}

/* Takes over a reference that we hold, or is refused it. */
static void op_adopt(struct mw *w, struct mw_seq *seq)
{
    if (w->refs.nr == 0 || seq->nr_pages >= MW_SEQ_PAGES) {
        return;
    }
    const uint32_t i = mw_below(w, w->refs.nr);
    const struct mw_hold hold = w->refs.at[i];
    struct kvp_info info;
    kv_status_t expect = KV_OK;

    MW_MUST(w, kvp_info(w->pager, hold.ref, &info) == KV_OK);
    if (seq->n_tokens % page_tokens(w, seq) != 0 || info.tenant != seq->tenant
        || info.variant != seq->variant) {
        expect = KV_ERR_INVALID;
    } else if (
        hold.waiting || mw_recheck_out(w, hold.ref.frame)
        || (seq->nr_pages == 0 && leaves_free(w) == 0)) {
        expect = KV_ERR_AGAIN;
    }
    MW_MUST(w, kvp_seq_adopt(w->pager, seq->id, &hold.ref, 1) == expect);
    if (expect != KV_OK) {
        return;
    }
    mw_take(&w->refs, i);
    seq->pages[seq->nr_pages++] = hold.ref;
    seq->n_tokens += info.n_tokens;
    seq->version++;
}

void mw_op_seq(struct mw *w)
{
    struct mw_seq *seq = mw_any_seq(w);
    const uint32_t roll = mw_below(w, 100);

    if (seq == NULL) {
        op_open(w);
    } else if (seq->ending) {
        MW_MUST(w, kvp_seq_append(w->pager, seq->id, 1) == KV_ERR_STALE);
        if (roll < 30) {
            seq->open = false;
            MW_MUST(w, kvp_seq_fenced(w->pager, seq->id) == KV_OK);
        }
    } else if (roll < 28) {
        op_append(w, seq);
    } else if (roll < 60) {
        op_seal(w, seq);
    } else if (roll < 68) {
        op_truncate(w, seq);
    } else if (roll < 78) {
        op_confirm(w, seq);
    } else if (roll < 84) {
        op_fork(w, seq);
    } else if (roll < 93) {
        op_adopt(w, seq);
    } else {
        op_end(w, seq);
    }
}
