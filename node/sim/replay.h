/* A list of requests, replayed through a simulated cluster with real bytes: what each
 * node's engine would do, and a check of every byte that a hit brings.
 *
 *   requests (page keys) ──► kvs_replay_run ──► kvs_world: SEQ_OPEN, SEQ_FETCH, check,
 *                                               SEQ_APPEND, write, SEQ_SEAL, SEQ_END
 *                                          ──► struct kvs_replay (counts)
 *
 * Threading: as kvs_world. Ownership: requests and keys are only read.
 * Order: requests are admitted in the order given, each once the one in_flight places
 *   before it has ended, and on one node only while their pages fit three quarters of
 *   its device tier: an engine's scheduler admits no more than its memory holds. The
 *   first that does not fit waits, and all behind it do.
 * Errors: CONFIG or NOMEM with the detail; IO when the world found a broken invariant
 *   or a request did not end (kvs_replay.failure says which).
 */
#ifndef KVS_REPLAY_H
#define KVS_REPLAY_H

#include "node/sim/world.h"

enum { KVS_REPLAY_IN_FLIGHT_MAX = 256 };

struct kvs_replay_request {
    uint32_t first; /* of its pages, in ids */
    uint32_t nr_pages;
};

enum kvs_memory {
    KVS_TIERS,  /* a quarter of a node's pages is device, the rest host */
    KVS_DEVICE, /* all are device, as deploy/three-nodes.sh has it */
    KVS_OWN,    /* … in a domain of the tenant's own, that peers read by name */
};

struct kvs_replay_config {
    uint32_t nr_nodes;
    uint32_t pages; /* of the whole cluster */
    enum kvs_memory memory;
    uint32_t page_bytes; /* a multiple of KVP_ALIGN */
    uint32_t page_tokens;
    uint32_t in_flight; /* requests, whole cluster */
    bool skew;          /* 8 of 10 requests enter node 0, else they go round */
    bool spill;
    enum kvs_mix mix;
    uint64_t seed;

    const struct kvs_replay_request *requests;
    uint32_t nr_requests;
    const uint32_t *ids;  /* pages of all requests */
    const kv_key_t *keys; /* by id */

    void (*progress)(void *arg, uint32_t done, uint32_t of); /* may be NULL */
    void *arg;
};

struct kvs_replay {
    uint64_t requests, page_refs;
    uint64_t hits[KVO_FROM_PEER + 1]; /* adopted pages by enum kvo_place */
    uint64_t misses[KV_NR_MISSES];    /* all other page references */
    uint64_t wrong_bytes;             /* hit pages' bytes that are not their key's */
    uint64_t fetched_bytes;           /* landed by reads from peers */
    uint64_t lookups;                 /* fetches that asked at least one peer */
    uint64_t calls, rounds;           /* messages and round trips of these */
    uint64_t again;                   /* appends and fetches that were told AGAIN */
    uint64_t dedup;  /* pages computed that another request had sealed */
    uint64_t unkept; /* pages that were not stored: past the tier, or given up */
    uint64_t failed[KV_NR_STATUSES]; /* operations by a status nobody expected */
    uint64_t virtual_us;
    char failure[400];
};

/* Writes *replay in every case. */
kv_status_t kvs_replay_run(
    const struct kvs_replay_config *config, struct kvs_replay *replay,
    struct kv_detail *detail);

#endif
