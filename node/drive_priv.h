/* Inside `kvrail drive`: what its two levels share.
 *
 *   drive.c        nodes, window, counting, bytes; the object level's request
 *   drive_pager.c  the pager level's request
 *
 * Threading: one thread. Ownership: the run's; flights and ends live as long as it.
 * Errors: a node that is gone loses its flights, counted as unserved.
 */
#ifndef KVN_DRIVE_PRIV_H
#define KVN_DRIVE_PRIV_H

#include "include/kvrail/kvrail.h"
#include "node/drive.h"

#include "base/key.h"

/* One node as we see it. */
struct kvn_drive_end {
    kvr_client_t *client; /* NULL: gone */
    uint32_t life;        /* grows with every attach: handles are of one life */
    struct kvr_buffer buffer;
    struct kvr_space space;
    uint64_t retry_us;
};

enum kvn_drive_step {
    KVN_DRIVE_IDLE,
    KVN_DRIVE_GETTING, /* OPEN and FETCH at the pager level */
    KVN_DRIVE_COMPUTING,
    KVN_DRIVE_PUTTING, /* SEAL and CONFIRM */
    KVN_DRIVE_APPENDING,
    KVN_DRIVE_ENDING,
};

/* A request under way. Its pages lie in region `index` of its node's buffer, or in its
 * sequence's blocks. */
struct kvn_drive_flight {
    enum kvn_drive_step step;
    uint32_t request;
    uint32_t node;
    uint32_t done;     /* pages that are settled: hits first, then puts */
    uint32_t n;        /* of the batch that is out */
    uint64_t until_us; /* COMPUTING; APPENDING: before it is asked again */
    /* at the pager level */
    kvr_seq_t seq; /* 0: not open */
    uint32_t life; /* of its node, when it was opened */
    uint32_t out;  /* results to come */
    uint32_t tries;
    bool lost; /* a result was CANCELLED */
};

struct kvn_drive_run {
    const struct kvn_drive_config *config;
    const struct kvn_trace *trace;
    struct kvn_drive *drive;
    struct kvn_drive_end ends[KVN_DRIVE_NODES_MAX];
    struct kvn_drive_flight flights[KVN_DRIVE_IN_FLIGHT_MAX];
    kv_key_t *keys; /* by id; of the tenant and the space */
    uint8_t *ended; /* [request] */
    uint32_t next;  /* request to start */
    uint32_t first; /* all before it have ended */
    uint32_t nr_ended;
    bool stray;        /* a place or a reason that this version does not know */
    uint64_t moved_us; /* when a request has ended last */
    struct kvr_key scratch[KVN_DRIVE_WINDOW];
    struct kvr_at at[KVN_DRIVE_WINDOW];
};

/* ------------------------------------------------------------------ drive.c */
uint64_t kvn_drive_now_us(void);
uint32_t kvn_drive_pages(const struct kvn_drive_run *run, uint32_t request);
const kv_key_t *
kvn_drive_key(const struct kvn_drive_run *run, uint32_t request, uint32_t page);
/* The key that opens the segment of this page. */
struct kvr_key
kvn_drive_anchor(const struct kvn_drive_run *run, uint32_t request, uint32_t page);
/* Words that follow from the key alone; how many bytes differ from them. */
void kvn_drive_write(uint8_t *bytes, uint32_t len, const kv_key_t *key);
uint64_t kvn_drive_wrong(const uint8_t *bytes, uint32_t len, const kv_key_t *key);
void kvn_drive_hit(struct kvn_drive_run *run, uint32_t request, uint8_t place);
void kvn_drive_misses(
    struct kvn_drive_run *run, uint32_t request, uint8_t reason, uint64_t n);
/* What is left of the request is not served, or not kept: it is counted and settled. */
void kvn_drive_lost(struct kvn_drive_run *run, struct kvn_drive_flight *flight);
void kvn_drive_flight_end(struct kvn_drive_run *run, struct kvn_drive_flight *flight);

/* ------------------------------------------------------------------ drive_pager.c */
void kvn_drive_pager_start(struct kvn_drive_run *run, struct kvn_drive_flight *flight);
/* A pause is over. */
void kvn_drive_pager_due(struct kvn_drive_run *run, struct kvn_drive_flight *flight);
/* A result whose numbers are known. */
void kvn_drive_pager_ended(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result);

#endif
