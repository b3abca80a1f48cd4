/* Clients that do everything an engine may do, in an order drawn from a seed, and check
 * every byte they are given.
 *
 *   kvs_chaos ──kvs_submit, kvs_memory──► kvs_world
 *             ◄── answers, switches ────  every page in full, while it is held
 *
 * Contents: 2 or 3 tenants share token streams and opaque keys, so that a key that left
 * the tenant out would show; documents share prefixes; pages exist in several variants.
 * The clients obey the rules of engines: write only where kvp_writable(), read the old
 * table until its confirm, end a sequence when nothing is queued on it. Under
 * KVS_F_HANG_UP some die in the middle and go on writing until they are dead.
 *
 * Threading, ownership: of the world's thread; the chaos outlives its world's last
 * event.  */
#ifndef KVS_CHAOS_H
#define KVS_CHAOS_H

#include "node/sim/world.h"

enum {
    KVS_CHAOS_DOCS = 6,
    KVS_CHAOS_FAMILY = 3, /* documents next to each other that share pages */
    KVS_CHAOS_PAGES = 14, /* of one document */
    KVS_CHAOS_OPAQUE = 24,
    KVS_CHAOS_TENANTS = 4,
};

struct kvs_chaos_config {
    uint64_t seed;
    uint32_t clients;    /* per node */
    uint64_t operations; /* of all clients; then they stop */
    uint64_t think_us;   /* mean pause of a client between two operations */
    uint32_t docs;       /* <= KVS_CHAOS_DOCS: fewer meet more often */
    bool sequences;      /* pager level too */
    bool drops;
    /* Two nodes that are never killed put one family of documents each and read none;
     * all others read, and keep nothing of it: each page they read was looked up. */
    bool apart;
};

struct kvs_chaos_counts {
    uint64_t operations;
    uint64_t answers[KVO_NR_OPS];
    uint64_t pages_checked;
    uint64_t hits, misses; /* pages of GET and SEQ_FETCH */
    uint64_t hung_up, lost, denied;
};

typedef struct kvs_chaos kvs_chaos_t;

kvs_chaos_t *kvs_chaos_start(kvs_world_t *world, const struct kvs_chaos_config *config);
void kvs_chaos_destroy(kvs_chaos_t *chaos); /* with or after its world */
/* All operations were submitted and answered, or will not be. */
bool kvs_chaos_done(const kvs_chaos_t *chaos);
/* Every client leaves: sequences end, pins go with the connection. */
void kvs_chaos_leave(kvs_chaos_t *chaos);
const struct kvs_chaos_counts *kvs_chaos_counts(const kvs_chaos_t *chaos);

/* ------------------------------------------------------------------ its pages */

enum kvs_page_kind { KVS_PAGE_FULL, KVS_PAGE_TAIL, KVS_PAGE_OPAQUE };

/* How an engine would ask for one page of the population. */
struct kvs_page {
    enum kvs_page_kind kind;
    kv_key_t key;
    kv_key_t anchor; /* chained: opens the segment under which it is filed */
    kv_key_t prev;
    uint32_t page;
    uint32_t n_tokens;
};
struct kvs_population {
    uint32_t page_tokens;
    kv_key_t root[KVS_CHAOS_TENANTS];
    kv_key_t full[KVS_CHAOS_TENANTS][KVS_CHAOS_DOCS][KVS_CHAOS_PAGES];
    kv_key_t tail[KVS_CHAOS_TENANTS][KVS_CHAOS_DOCS][KVS_CHAOS_PAGES]; /* half pages */
    kv_key_t opaque[KVS_CHAOS_TENANTS][KVS_CHAOS_OPAQUE];
};
void kvs_population_make(struct kvs_population *population, uint32_t page_tokens);
void kvs_population_page(
    const struct kvs_population *population, uint32_t tenant, uint32_t doc,
    uint32_t page, bool tail, struct kvs_page *out);
/* The page that a key names for a tenant; false when none of ours. */
bool kvs_population_find(
    const struct kvs_population *population, uint32_t tenant, const kv_key_t *key,
    struct kvs_page *out);

#endif
