/* Placement: which nodes are the homes of a segment.
 *
 *   prefix of pages ──kvc_segment──► segments ──kvc_homes──► R nodes of the view
 *
 * Weighted rendezvous hashing (Thaler, Ravishankar 1998; weights after Schindelhauer,
 * Schomaker 2005: the smallest -log2(u) / weight wins) in integer arithmetic, so that
 * every node and every language computes the same homes. docs/placement.md has vectors.
 * A node that joins or leaves moves only its own share.
 *
 * Threading: pure functions.
 */
#ifndef KVC_PLACEMENT_H
#define KVC_PLACEMENT_H

#include "base/key.h"
#include "cluster/view.h"

enum {
    KVC_HOMES = 2,             /* R */
    KVC_SEGMENT_TOKENS = 2048, /* G = max(1, this / page_tokens) pages */
};

/* Where page `page` (0-based, of its prefix) stands: lengths 1, 1, 2, 4, … up to G,
 * then G. Equal lengths would put most of a real trace's pages on the home of the
 * shared system prompt. */
struct kvc_segment {
    uint32_t first; /* page number of the segment's first page */
    uint32_t len;   /* pages */
};
struct kvc_segment kvc_segment_at(uint32_t page, uint32_t page_tokens);

/* -log2(h / 2^64) for h > 0 (h == 0 counts as 1), in units of 2^-40, rounded up: from 1
 * to 64 * 2^40. Integer arithmetic only, digit by digit as docs/placement.md says;
 * never rises when h does. */
uint64_t kvc_neg_log2(uint64_t h);

/* The best min(nr, view->nr) nodes of the segment in order, as indices into the view.
 * Returns how many. nr <= KVC_NODES_MAX; small nr is fast. */
uint32_t kvc_homes(
    const struct kvc_view *view, const kv_key_t *segment, uint32_t nr, uint32_t *out);

/* Is `node` (an index) among the first KVC_HOMES? */
bool kvc_is_home(const struct kvc_view *view, const kv_key_t *segment, uint32_t node);

#endif
