/* A trace through running nodes by libkvrail, with real bytes, and a check of every
 * byte of a hit. At the object level: what engines that keep their own KV tensors
 * would do.
 *
 *   requests ──► node r of the balance ──► GET the prefix, 256 pages at a time, until a
 *   page is missing ──► check the bytes ──► "compute" and PUT the rest, 4 pages at a
 *   time (their bytes follow from their keys) ──► the next request
 *
 * At the pager level (drive_pager.c): what engines whose kernels work in the node's own
 * memory would do. Hits are checked, and missing pages written, where they lie.
 *
 * `in_flight` is a sliding window: request r starts once r - in_flight and all before
 * it have ended. Pages behind the first one missing are misses: an engine cannot use
 * them. A node that is gone is attached again every second; requests that come to it
 * meanwhile count as unserved and find nothing.
 *
 * Threading: one thread drives all clients. Ownership: trace and nodes are only
 * read. Errors: every call that waits has a deadline; a run whose requests do not
 * end within it ends with IO and says which.
 */
#ifndef KVN_DRIVE_H
#define KVN_DRIVE_H

#include "base/miss.h"
#include "node/trace.h"

#include <stdbool.h>

enum {
    KVN_DRIVE_NODES_MAX = 64,
    KVN_DRIVE_IN_FLIGHT_MAX = 256,
    KVN_DRIVE_WINDOW = 256, /* pages asked for at once */
    KVN_DRIVE_CHUNK = 4,    /* pages computed and stored at once */
    KVN_DRIVE_PLACES = 4, /* enum kvr_place */
};

struct kvn_drive_config {
    /* Socket of each; or "embed:FILE", "tls://…", as kvr_open() takes them. */
    const char *const *nodes;
    uint32_t nr_nodes;
    const char *space;
    uint32_t tenant;
    uint32_t in_flight;
    bool pager;           /* level: else the object level */
    bool skew;            /* 8 of 10 requests enter node 0, else they go round */
    uint64_t timeout_us;  /* of each batch */
    uint64_t compute_us;  /* an engine computes a missing page for so long; 0: not */
    uint32_t last;        /* requests at the end that are counted again, apart */
    void (*progress)(void *arg, uint32_t done, uint32_t of); /* may be NULL */
    void *arg;
};

struct kvn_drive_counts {
    uint64_t requests, page_refs;
    uint64_t hits[KVN_DRIVE_PLACES];
    uint64_t misses[KV_NR_MISSES]; /* by the node's reason */
    uint64_t unserved; /* page references of requests whose node was gone */
};

struct kvn_drive {
    struct kvn_drive_counts all, last;
    uint64_t wrong_bytes;
    uint64_t checked_bytes;
    uint64_t stored, existed;  /* pages put */
    uint64_t unkept;           /* pages that a node did not take */
    uint64_t lost;             /* nodes that went away while attached */
    uint32_t page_bytes;
    char failure[512];
};

/* Writes *drive in every case. CONFIG: no node, an unknown space, spaces that
 * differ. */
kv_status_t kvn_drive_run(
    const struct kvn_drive_config *config, const struct kvn_trace *trace,
    struct kvn_drive *drive);

#endif
