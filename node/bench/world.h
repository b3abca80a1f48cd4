/* Nodes of one cluster as processes of this machine, made for one measurement:
 * credentials, configuration, logs and sockets lie in a folder of their own, and all of
 * it goes away.
 *
 *   kvn_world_start ──► kvraild × nr, linked ──► kvn_world_spent … ──► kvn_world_stop
 *
 * Threading: the main thread (a child dies with the thread that started it).
 * Ownership: kvn_world_stop() stops, reaps and removes; also after a failed start,
 * where that has happened already. Errors: a status and bench->line, with a node's own
 * last line where it has ended.
 */
#ifndef KVN_BENCH_WORLD_H
#define KVN_BENCH_WORLD_H

#include "node/bench/figures.h"
#include "node/child.h"

enum {
    KVN_WORLD_NODES_MAX = 3,
    KVN_WORLD_TENANT = 7,
    KVN_WORLD_START_MS = 60000,
    KVN_WORLD_STOP_MS = 20000,
    KVN_WORLD_DIE_MS = 200,   /* from a node's hang-up to its end */
    KVN_WORLD_TASKS_MAX = 64, /* threads of a node whose instructions are counted */
};
#define KVN_WORLD_SPACE "bench"
enum { KVN_WORLD_TARGET_BYTES = 512 };

struct kvn_world_config {
    unsigned nr_nodes;
    uint64_t page_bytes;
    uint32_t page_tokens;
    uint64_t node_bytes[KVN_WORLD_NODES_MAX]; /* page memory of each */
    const char *verify_local;                 /* pager.verify_local */
    bool verify_reads;                        /* data.verify, and of remote clients */
    bool remote; /* clients come by TLS as from another host, not by the socket */
    const char *poll;                         /* client.poll */
    const char *transports;                   /* link.transports */
    unsigned threads;                         /* data.threads; 0: 2 */
    bool spill;                               /* spill.enabled */
    /* Of each: there the tenant has memory of its own, node_bytes, that engines map. */
    bool fill[KVN_WORLD_NODES_MAX];
    /* One node, in the process of whoever opens kvn_world_target(): what it spends is
     * not told from what that process does. */
    bool embedded;
};

/* What nodes have spent since they began. */
struct kvn_spent {
    double cpu_s;        /* user and kernel */
    double instructions; /* in user space; < 0: not counted */
};

struct kvn_world {
    struct kvn_bench_node *bench;
    struct kvn_world_config config;
    char folder[256];
    struct kvn_child nodes[KVN_WORLD_NODES_MAX];
    unsigned ports[KVN_WORLD_NODES_MAX], http[KVN_WORLD_NODES_MAX];
    int counters[KVN_WORLD_NODES_MAX][KVN_WORLD_TASKS_MAX];
    unsigned nr_counters[KVN_WORLD_NODES_MAX];
};

kv_status_t kvn_world_start(
    struct kvn_bench_node *bench, const struct kvn_world_config *config,
    struct kvn_world *world);
/* A world that was never started is fine, when it is zeroed. */
void kvn_world_stop(struct kvn_world *world);
/* For kvr_open(): "unix:PATH" of a node's socket, "embed:FILE", or "tls://…". */
void kvn_world_target(
    const struct kvn_world *world, unsigned node, char *out, size_t cap);
/* After a failure: CONFIG and its end in bench->line when one of them has ended, for
 * that explains it; else `status`, as it was. Waits a moment, since a process that dies
 * hangs up before it has ended. */
kv_status_t kvn_world_blame(
    struct kvn_bench_node *bench, struct kvn_world *world, kv_status_t status);
/* Of all its nodes. Under callgrind instructions begin anew with each call. */
struct kvn_spent kvn_world_spent(const struct kvn_world *world);
/* Into `take`: what was spent from `before` until now; under callgrind into
 * bench->counts too, and where it fails bench->line says why. */
void kvn_world_charge(
    const struct kvn_world *world, const struct kvn_spent *before,
    struct kvn_take *take);

/* CPU seconds of any process; < 0: not to be had. */
double kvn_process_cpu_s(pid_t pid);
/* A descriptor that counts the instructions of a thread (0: the caller) in user space;
 * -1 and errno. */
int kvn_counter_open(pid_t tid);
/* NULL when instructions of our own processes can be counted, else why not. */
const char *kvn_counters_why_not(void);

/* A new folder below $TMPDIR or /tmp; and away with it and the files in it. */
kv_status_t
kvn_bench_folder_make(struct kvn_bench_node *bench, char *folder, size_t cap);
void kvn_bench_folder_remove(const char *folder);

#endif
