#include "cluster/placement.h"

#include "base/assert.h"
#include "base/hash.h"

enum {
    FRACTION_BITS = 40, /* of kvc_neg_log2 */
    LOW_BOUND_SHIFT = 8,
};

/* 369 / 256 = 1.4414 is just below log2(e) = 1.4427. */
static const uint64_t low_bound_factor = 369;

/* ------------------------------------------------------------------ segments */

static uint32_t segment_pages_max(uint32_t page_tokens)
{
    uint32_t pages = KVC_SEGMENT_TOKENS / page_tokens;
    return pages > 0 ? pages : 1;
}

/* While lengths double, the segment of length 2^k begins at page 2^k (and page 0 is one
 * of its own). The last that doubles has the largest 2^k <= G; then they are G long. */
struct kvc_segment kvc_segment_at(uint32_t page, uint32_t page_tokens)
{
    KV_ASSERT(page_tokens > 0);
    const uint32_t longest = segment_pages_max(page_tokens);
    if (page == 0) {
        return (struct kvc_segment){.first = 0, .len = 1};
    }
    uint32_t power = UINT32_C(1) << (31 - __builtin_clz(longest));
    if (page < 2 * power) {
        uint32_t first = UINT32_C(1) << (31 - __builtin_clz(page));
        return (struct kvc_segment){.first = first, .len = first};
    }
    uint32_t beyond = page - 2 * power;
    return (struct kvc_segment){.first = page - beyond % longest, .len = longest};
}

/* ------------------------------------------------------------------ hashing */

/* The binary digits of log2(m), 1 <= m < 2, by squaring: m² >= 2 says that the next
 * digit is 1. Every step truncates, so the digits are those of a value at most 2^-61
 * below the logarithm; the steps are monotone in m, so the result is too. */
uint64_t kvc_neg_log2(uint64_t h)
{
    if (h == 0) {
        h = 1;
    }
    unsigned zeros = (unsigned)__builtin_clzll(h);
    uint64_t m = h << zeros; /* m / 2^63 is in [1, 2) */
    uint64_t fraction = 0;
    for (unsigned i = 0; i < FRACTION_BITS; i++) {
        unsigned __int128 square = ((unsigned __int128)m * m) >> 63;
        unsigned digit = (unsigned)(square >> 64);
        KV_DASSERT(digit <= 1);
        m = (uint64_t)(square >> digit);
        fraction = fraction << 1 | digit;
    }
    /* -log2(h / 2^64) = 64 - (63 - zeros) - log2(m) */
    return ((uint64_t)(zeros + 1) << FRACTION_BITS) - fraction;
}

/* -log2(u) >= (1 - u) * log2(e): never above kvc_neg_log2(h), at a 40th of its
 * price. */
static uint64_t neg_log2_low_bound(uint64_t h)
{
    return ((~h >> (64 - FRACTION_BITS)) * low_bound_factor) >> LOW_BOUND_SHIFT;
}

/* What a node offers for a segment; the smallest cost / weight wins. */
struct bid {
    uint64_t hash;
    uint64_t cost; /* -log2(hash), or 0 where weights are equal and hashes decide */
    uint32_t weight;
    uint32_t index;
};

_Static_assert(
    (UINT64_C(64) << FRACTION_BITS) <= UINT64_MAX / KVC_WEIGHT_MAX,
    "a cost times a weight fits 64 bits");

/* cost_a / weight_a < cost_b / weight_b in whole numbers; then the higher hash, then
 * the lower index. */
static bool bid_beats(const struct bid *a, const struct bid *b)
{
    uint64_t left = a->cost * b->weight;
    uint64_t right = b->cost * a->weight;
    if (left != right) {
        return left < right;
    }
    if (a->hash != b->hash) {
        return a->hash > b->hash;
    }
    return a->index < b->index;
}

/* Keeps bids[0 .. nr-1] best first; returns the new count, at most max. */
static uint32_t
bid_insert(struct bid *bids, uint32_t nr, uint32_t max, const struct bid *bid)
{
    if (nr == max) {
        if (!bid_beats(bid, &bids[nr - 1])) {
            return nr;
        }
        nr--;
    }
    uint32_t i = nr;
    while (i > 0 && bid_beats(bid, &bids[i - 1])) {
        bids[i] = bids[i - 1];
        i--;
    }
    bids[i] = *bid;
    return nr + 1;
}

uint32_t kvc_homes(
    const struct kvc_view *view, const kv_key_t *segment, uint32_t nr, uint32_t *out)
{
    struct bid bids[KVC_NODES_MAX];
    const uint64_t word = kv_key_word(segment);
    const uint32_t max = nr < view->nr ? nr : view->nr;
    uint32_t kept = 0;

    KV_ASSERT(view->nr <= KVC_NODES_MAX);
    if (max == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < view->nr; i++) {
        const struct kvc_member *m = &view->members[i];
        struct bid bid = {
            .hash = kv_mix64(word ^ m->hash), .weight = m->weight, .index = i};
        if (!view->equal_weights) {
            bid.cost = neg_log2_low_bound(bid.hash);
            if (kept == max && !bid_beats(&bid, &bids[kept - 1])) {
                continue; /* its true cost is no lower */
            }
            bid.cost = kvc_neg_log2(bid.hash);
        }
        kept = bid_insert(bids, kept, max, &bid);
    }
    for (uint32_t i = 0; i < kept; i++) {
        out[i] = bids[i].index;
    }
    KV_ASSERT(kept == max);
    return kept;
}

bool kvc_is_home(const struct kvc_view *view, const kv_key_t *segment, uint32_t node)
{
    uint32_t homes[KVC_HOMES];
    uint32_t nr = kvc_homes(view, segment, KVC_HOMES, homes);
    for (uint32_t i = 0; i < nr; i++) {
        if (homes[i] == node) {
            return true;
        }
    }
    return false;
}
