/* A port around another port: traces what passes, and makes faults from a seed.
 *
 *   caller ──► kvt_*() ──► hook ──► inner port            (any transport's)
 *   caller ◄── kvt_next() ◄── delayed, lost, torn, broken ◄──┘
 *
 * What it may do is what a transport may do to its caller, and no more: the promises of
 * transport.h hold through it. Each id has one DONE; CLOSED is last; memory is touched
 * only while its operation is in flight. Without faults it changes nothing.
 *
 *   delay   a DONE is handed up some calls of kvt_next() later, after younger ones
 *   lose    a DONE is kept back until its connection is closed; LINK_LOST then
 *   tear    one bit of what landed is flipped before its DONE is handed up, and the
 *           digest computed anew: what a check against the owner's digest must find
 *   fail    an open that was accepted breaks at once
 *   break   a connection ends at the next read or send
 *
 * Threading: as the inner port's; digests are computed in the caller's thread, so it is
 * for tests and for trying a node's nerves, not for speed. Ownership: the hook owns the
 * inner port once it was created; when that fails it is the caller's still. `line` is
 * the hook's, until trace() returns. Errors: KV_ERR_NOMEM, KV_ERR_IO.
 */
#ifndef KVT_HOOK_H
#define KVT_HOOK_H

#include "transport/transport.h"

struct kvt_hook_config {
    uint32_t nr_ops, nr_conns; /* of the inner port */
    /* One in so many; 0: never. */
    uint32_t delay_one_in, lose_one_in, tear_one_in, fail_one_in, break_one_in;
    uint32_t delay_calls;                       /* at most; of kvt_next() */
    void (*trace)(void *arg, const char *line); /* may be NULL */
    void *arg;
};

struct kvt_hook_counts {
    uint64_t delayed, lost, torn, failed, broken;
};

kv_status_t kvt_hook_create(
    kvt_port_t *inner, const struct kvt_hook_config *config, uint64_t seed,
    kvt_port_t **port_p);
/* Of a port that kvt_hook_create() gave. */
struct kvt_hook_counts kvt_hook_counts(const kvt_port_t *port);

#endif
