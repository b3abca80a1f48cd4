/* One seed: a world drawn from it, chaos and faults, then quiet and the last checks.
 *
 *   kvs_run_seed(config) ──► world ──► chaos … faults end … all leave ──► kvs_result
 *
 * A result is plain data without pointers into the run, so that it can cross a pipe
 * between a process and its fork; names are found again by index.
 *
 * Threading: one seed per process at a time. Errors: a violation is part of the
 * result; a failed assertion ends the process, and who forked it reports that
 * (node/sim_cmd.c).  */
#ifndef KVS_RUN_H
#define KVS_RUN_H

#include "base/fault.h"
#include "node/sim/world.h"

enum { KVS_CHAOS_NODES_MAX = 16 };

struct kvs_run_config {
    uint32_t nr_nodes;
    uint64_t seed;
    uint32_t faults;     /* allowed; each world takes some of them */
    uint64_t operations;
    enum kv_plant plant; /* KV_NR_PLANTS: none. Chooses the world, too */
    bool plant_off;      /* the same world without the bug: the twin of a comparison */
    bool digest_off;
    FILE *trace;
};

struct kvs_result {
    uint64_t seed;
    uint64_t hash;
    bool violated;
    char invariant[16];
    char what[400];
    uint64_t at_us;       /* of the violation */
    uint64_t virtual_us;  /* of the whole run */
    uint64_t operations;
    uint64_t pages_checked;
    uint64_t hits, misses;
    struct kvs_stats stats;
    uint64_t statuses[KV_NR_STATUSES];
    uint64_t reasons[KV_NR_MISSES];
    uint64_t answers[KVO_NR_OPS];
    uint64_t edges[KVS_EDGES_MAX]; /* by kvo_edge_at() */
    uint64_t frame_edges[KVP_NR_STATES][KVP_NR_STATES];
    struct kvo_metrics metrics;
};

void kvs_run_seed(const struct kvs_run_config *config, struct kvs_result *result);

/* What a look-up costs in a large cluster without faults. */
struct kvs_lookups {
    uint32_t nr_nodes;
    uint32_t lookups;
    uint64_t seed;
};
struct kvs_lookups_result {
    uint64_t lookups, hits, pages, messages, rounds, failed;
    uint64_t round_trips_max;
    uint64_t virtual_us; /* mean time of a look-up */
};
/* KV_OK, or why the cluster could not be made. */
kv_status_t
kvs_run_lookups(const struct kvs_lookups *config, struct kvs_lookups_result *result);

#endif
