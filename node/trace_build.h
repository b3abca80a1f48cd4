/* A trace while it grows, for the reader and the generator.
 *
 *   requests and ids, appended ──► kvn_build_end: sorted by arrival ──► kvn_trace
 *
 * Threading: one thread. Ownership: the caller's until kvn_build_end or
 * kvn_build_abort, one of which ends it.
 */
#ifndef KVN_TRACE_BUILD_H
#define KVN_TRACE_BUILD_H

#include "node/trace.h"

struct kvn_build {
    struct kvn_request *requests;
    uint32_t *ids;
    size_t nr_requests, requests_cap;
    size_t nr_refs, refs_cap;
    uint32_t nr_ids;
};

/* Room for `n` more ids, zeroed, at ids[nr_refs]; NOMEM, also when the trace would have
 * more than 2^32 - 1 references. */
kv_status_t kvn_build_reserve(struct kvn_build *build, size_t n);
/* The n ids at ids[nr_refs] become a request. */
kv_status_t kvn_build_request(
    struct kvn_build *build, uint64_t arrival_us, uint32_t n, uint32_t output_tokens);
void kvn_build_end(
    struct kvn_build *build, uint32_t page_tokens, struct kvn_trace *trace);
void kvn_build_abort(struct kvn_build *build);

#endif
