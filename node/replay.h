/* A trace through one node's pager: what a cache of so many pages would have hit.
 *
 *   kvn_trace ──► kvp_lookup, kvp_acquire, kvp_seq_* (nothing copied) ──► hit rate
 *             ──► clairvoyant optimum (no pager) ──────────────────────►
 *
 * Request by request, in order of arrival: the leading run of pages that are here is
 * the hit; the rest is filled and sealed; at the end all references go, tails first. A
 * request with more pages than frames keeps the first that fit; its other pages count
 * as misses and are not kept.
 *
 * Threading: each call works on its own pager. Ownership: the trace is only read.
 */
#ifndef KVN_REPLAY_H
#define KVN_REPLAY_H

#include "node/trace.h"
#include "pager/evict.h"

struct kvn_replay {
    uint64_t nr_refs; /* page references of all requests */
    uint64_t hits;    /* those in a leading run of hits */
    uint64_t evicted; /* 0 for the optimum, which does not count them */
    uint64_t unkept;  /* pages for which a request found no frame */
};

/* The real pager with `pages` frames. KV_ERR_CONFIG for pages == 0 or a pool that the
 * pager refuses (detail), NOMEM. */
kv_status_t kvn_replay_pager(
    const struct kvn_trace *trace, const struct kvp_evict_ops *evict, uint32_t pages,
    struct kvn_replay *replay, struct kv_detail *detail);

/* The clairvoyant bound (Belady with bypass; of pages wanted again at the same time the
 * deepest goes first, so what is kept are prefixes). */
kv_status_t kvn_replay_optimum(
    const struct kvn_trace *trace, uint32_t pages, struct kvn_replay *replay,
    struct kv_detail *detail);

/* hits / refs; 0 for an empty trace. */
double kvn_replay_rate(const struct kvn_replay *replay);

/* What one LRU cache of `pages` pages, all nodes' pooled, would have hit; -1 when it
 * could not be computed (pages == 0, or memory is out). */
double kvn_pooled_hit_rate(const struct kvn_trace *trace, uint32_t pages);

#endif
