/* A cluster in one process: node/core unchanged on every node, a virtual clock, a
 * network, a fabric, memories, and faults drawn from a seed.
 *
 *   a driver (chaos, golden trace, replay of a trace file)
 *        │ kvs_submit, kvs_memory, kvs_kill …        ▲ kvs_client_ops, kvs_at
 *        ▼                                           │
 *   kvs_world ── kvo_* ──► node/core of node 0 … n-1 ── kvo_out ──► kvs_world
 *        messages: kv_encode → bytes → kv_decode; orders: bytes move piece by piece
 *
 * Threading: one thread, one world at a time per thread.
 * Ownership: the world owns nodes, memories, messages and clients. What is handed to a
 *   callback lives until it returns. Callbacks of this header run from the event loop,
 *   never inside a call of node/core: they may call anything here but run and destroy.
 * Time: virtual microseconds from 0, kvs_now(). A node's own clock starts elsewhere
 * and,
 *   under KVS_F_CLOCK, runs up to 500 ppm faster or slower.
 * Order: events are ordered by (time, sequence), all chance comes from the seed: equal
 *   configurations give equal runs, on any compiler. kvs_hash() proves it.
 * Errors: a checker that finds a broken invariant makes the world stop for good:
 *   kvs_failure() tells which. A failed KV_ASSERT ends the process (node/sim/run.c
 *   catches that in a child).
 *
 * Nodes are named by their index, 0 … nr_nodes - 1, which is their index in the view;
 * node i has the id i + 1 and is printed as "n<id>".
 */
#ifndef KVS_WORLD_H
#define KVS_WORLD_H

#include "node/core/core.h"

#include <stdio.h>

/* X(symbol, name of --faults, what it does) */
#define KVS_FAULT_MAP(X)                                                               \
    X(KVS_F_DELAY, "delay", "a message comes late; those behind it pass it")           \
    X(KVS_F_DUPLICATE, "duplicate", "a message comes twice")                           \
    X(KVS_F_LOSS, "loss", "a message is lost")                                         \
    X(KVS_F_CORRUPT, "corrupt", "a bit of a message flips before it is decoded")       \
    X(KVS_F_BREAK, "break", "a control connection breaks")                             \
    X(KVS_F_PARTITION, "partition", "nothing passes between two nodes, both ways")     \
    X(KVS_F_ONE_WAY, "one-way", "nothing passes from one node to another")             \
    X(KVS_F_KILL, "kill", "kill -9 and a later start with a new incarnation")          \
    X(KVS_F_PAUSE, "pause", "a process stops for 0.05 to 10 s; its memory is read on") \
    X(KVS_F_SLOW_NODE, "slow-node", "a node's messages and orders take 20 × as long")  \
    X(KVS_F_SLOW_FABRIC, "slow-fabric", "reads from a node take 50 × as long")         \
    X(KVS_F_LOST_DONE, "lost-completion", "a completion never comes")                  \
    X(KVS_F_LATE_DONE, "late-completion", "a completion comes late")                   \
    X(KVS_F_DOUBLE_DONE, "double-completion", "a completion comes twice")              \
    X(KVS_F_FLIP, "flip", "a bit of landed bytes flips")                               \
    X(KVS_F_REST_FLIP, "rest-flip", "a bit of a resting sealed frame flips")           \
    X(KVS_F_READ_ERROR, "read-error", "the fabric reports an error for a read")        \
    X(KVS_F_DATA_BREAK, "data-break", "a data connection breaks")                      \
    X(KVS_F_DIAL, "dial", "a dial fails")                                              \
    X(KVS_F_IO, "io", "a copy, digest or zero order fails")                            \
    X(KVS_F_HOSTILE, "hostile", "a peer sends what the protocol forbids")              \
    X(KVS_F_REPLAY, "replay", "recorded messages of ended links come again")           \
    X(KVS_F_TENANT, "tenant", "requests that the asker may not make, or not like that")\
    X(KVS_F_HANG_UP, "hang-up", "a client hangs up and dies later")                    \
    X(KVS_F_CLOCK, "clock", "nodes' clocks differ by up to 500 ppm")

enum kvs_fault {
#define X(symbol, name, text) symbol,
    KVS_FAULT_MAP(X)
#undef X
    KVS_NR_FAULTS
};
#define KVS_FAULT_BIT(fault) (UINT32_C(1) << (fault))
/* All but REST_FLIP, which only a world that re-checks every acquire can promise to
 * find (verify_local always). */
#define KVS_FAULTS_ALL                                                                 \
    ((KVS_FAULT_BIT(KVS_NR_FAULTS) - 1) & ~KVS_FAULT_BIT(KVS_F_REST_FLIP))
const char *kvs_fault_name(unsigned fault); /* NULL past the last */

/* KVS_DOMAINS: nodes with even and with odd indices are two hosts: within one, pages
 * are read one-sidedly, between them by name. */
enum kvs_mix { KVS_ALL_NAMED, KVS_ALL_ONE_SIDED, KVS_MIXED, KVS_DOMAINS };

enum { KVS_NODES_MAX = KVC_NODES_MAX, KVS_APART_MAX = 8 };

struct kvs_config {
    uint32_t nr_nodes;
    uint64_t seed;
    enum kvs_mix mix;       /* transports of the nodes */
    bool named_device;      /* device pools cannot be mapped: they are read by name */

    uint32_t page_bytes;    /* a multiple of KVP_ALIGN */
    uint32_t page_tokens;
    uint32_t device_frames; /* of the common domain, per node */
    uint32_t host_frames;   /* 0: no host tier */
    uint32_t nr_tenants;    /* ids 100, 101, … */
    uint32_t nr_apart;      /* the last so many tenants have domains of their own */
    uint32_t apart_frames;  /* device frames of each such domain (host: the same) */
    uint32_t ceiling;       /* device frames of tenant 0; 0: none */
    uint32_t nr_variants;   /* group i of layout 7, shard 0 */

    uint64_t net_us;        /* one way, control messages */
    uint64_t net_jitter_us;
    uint64_t fabric_us;     /* until a read's first byte */
    uint32_t fabric_bytes_us; /* bytes a microsecond of one read; also local copies */
    uint64_t engine_us;     /* an answer reaches its client */
    /* Completions that come within so long of the first are one turn of a node's loop:
     * kvo_many_begin() and _end(). 0: each by itself. */
    uint64_t turn_us;

    uint32_t faults;        /* KVS_FAULT_BIT()s that may happen */
    uint64_t fault_gap_us;  /* mean time between faults of a whole node or link */
    /* KVS_F_KILL takes so many nodes from first_killed on, around the end; 0: any. */
    uint32_t first_killed, nr_killed;
    bool poison;            /* freed frames are overwritten at once */
    bool checks;            /* the checkers of node/sim/check.c */
    bool digest_off;        /* every digest is 0, so that all compare equal */
    bool replay_all;        /* KVS_F_REPLAY: all that is recorded, not one message */
    bool clock_stops;       /* a paused node's clock stands, as in a stopped VM */
    bool registered;        /* a dead process' memory cannot be read over the fabric */
    uint32_t buffer_bytes;  /* of each client, for GET and PUT */

    /* Times, table sizes, spill, verify_local (core.pager.verify_local), eviction … of
     * every node. The world fills in node, incarnation, view, tenants, pools, variants,
     * transports and seed. */
    struct kvo_config core;
};

/* Three nodes, 64 device and 64 host frames of 256 bytes, no faults, 1 ms network,
 * times near the defaults of docs/protocol.md. Change what you need, then create. */
void kvs_preset(struct kvs_config *config);

typedef struct kvs_world kvs_world_t;

/* CONFIG or NOMEM as kvo_create(). The nodes start at time 0 and link up by themselves
 * (kvs_linked). */
kv_status_t kvs_world_create(
    const struct kvs_config *config, kvs_world_t **world_p, struct kv_detail *detail);
void kvs_world_destroy(kvs_world_t *world); /* NULL is fine */

/* ------------------------------------------------------------------ time */

uint64_t kvs_now(const kvs_world_t *world);
/* The next event; false when the world has failed (there is always a next event). */
bool kvs_step(kvs_world_t *world);
/* Everything up to and including `until_us`; false when the world has failed. */
bool kvs_run(kvs_world_t *world, uint64_t until_us);
/* Until done(arg) holds (asked after each event) or `until_us`; true when it held. */
bool kvs_run_until(
    kvs_world_t *world, bool (*done)(void *arg), void *arg, uint64_t until_us);
/* Calls fn(arg, value) in delay_us. */
void kvs_at(
    kvs_world_t *world, uint64_t delay_us, void (*fn)(void *arg, uint64_t value),
    void *arg, uint64_t value);
uint64_t kvs_steps(const kvs_world_t *world);

/* ------------------------------------------------------------------ clients */

struct kvs_client {
    uint32_t node;
    uint32_t slot; /* of the world */
    uint64_t serial;
};

struct kvs_client_ops {
    /* Arrays of the answer are copies, valid during the call. May submit. */
    void (*answer)(
        void *arg, struct kvs_client client, const struct kvo_answer *answer);
    /* NULL: not wanted. */
    void (*switched)(
        void *arg, struct kvs_client client, struct kvp_seq_id seq, uint32_t page,
        struct kvp_ref was, struct kvp_ref now);
    /* The node was killed: the client is gone, nothing else will be called. May be
     * NULL. */
    void (*lost)(void *arg, struct kvs_client client);
};

/* Tenants: bit i is index i. LINK_LOST while the node is down; else as
 * kvo_client_attach(). */
kv_status_t kvs_attach(
    kvs_world_t *world, uint32_t node, uint64_t tenants,
    const struct kvs_client_ops *ops, void *arg, struct kvs_client *client_p);
/* kvo_request() now, but request->deadline_us is the time from now (0 stays 0). The
 * answer always comes later, by ops->answer. While the process is paused the request
 * waits for it. LINK_LOST: the client is gone. */
kv_status_t kvs_submit(
    kvs_world_t *world, struct kvs_client client, const struct kvo_request *request);
/* buffer_bytes at the client, addressed by request->buffers; NULL when it is gone. */
uint8_t *kvs_buffer(kvs_world_t *world, struct kvs_client client);
/* The connection ends now; the process dies after dead_us (0: at once). */
void kvs_hang_up(kvs_world_t *world, struct kvs_client client, uint64_t dead_us);
bool kvs_client_up(const kvs_world_t *world, struct kvs_client client);

/* ------------------------------------------------------------------ memory */

/* Bytes of a frame, whatever its state and generation (the caller knows what it may
 * touch); NULL while the node is down. frame_bytes of its pool lie there. */
uint8_t *kvs_memory(kvs_world_t *world, uint32_t node, struct kvp_ref ref);

/* The content of a page: 8 bytes of nonce (the commit's), then PRF(tenant, key,
 * variant), so that two commits differ and each is checkable as a whole. */
void kvs_content_make(
    uint8_t *bytes, uint32_t len, uint32_t tenant, const kv_key_t *key,
    uint32_t variant, uint64_t nonce);
bool kvs_content_ok(
    const uint8_t *bytes, uint32_t len, uint32_t tenant, const kv_key_t *key,
    uint32_t variant);

/* ------------------------------------------------------------------ looking in */

kvo_node_t *kvs_node(kvs_world_t *world, uint32_t node); /* NULL while it is down */
uint64_t kvs_life(const kvs_world_t *world, uint32_t node); /* grows with each start */
bool kvs_paused(const kvs_world_t *world, uint32_t node);
/* Every living pair of nodes has a link and no home is cold. */
bool kvs_linked(kvs_world_t *world);
/* The configuration that the nodes run with. */
const struct kvs_config *kvs_config(const kvs_world_t *world);
const struct kvc_view *kvs_view(const kvs_world_t *world);

struct kvs_stats {
    uint64_t steps;
    uint64_t messages[KV_NR_MSGS]; /* delivered, by kv_msg_index(); data ones too */
    uint64_t message_bytes;
    uint64_t fetched_bytes;        /* landed by reads from peers */
    uint64_t copied_bytes;         /* by local orders and client copies */
    uint64_t orders[KVO_ORDER_FENCE_OUT + 1];
    uint64_t faults[KVS_NR_FAULTS]; /* how often each happened */
    uint64_t requests, answers;
    uint64_t torn;                 /* reads that landed a mix of two contents */
};
const struct kvs_stats *kvs_stats(const kvs_world_t *world);

/* What all lives of all nodes counted, those that were killed too. */
enum { KVS_EDGES_MAX = 128 };
struct kvs_counts {
    struct kvo_metrics metrics; /* sums */
    struct kvp_metrics pager;   /* sums */
    uint32_t nr_edges;
    struct kvo_edge edges[KVS_EDGES_MAX];
};
void kvs_counts(kvs_world_t *world, struct kvs_counts *counts);
/* Rolling 64 bits over every event: time, kind, node, ids and message bytes. */
uint64_t kvs_hash(const kvs_world_t *world);

/* A person's trace: "[    12.345] n3 > n1 lookup …". NULL ends it. Lines also go to the
 * buffer of kvs_record(), of which kvs_recorded() gives the text since the last call of
 * kvs_record(). `messages`: control messages too, else kvo_out.trace lines alone. */
void kvs_trace(kvs_world_t *world, FILE *file);
void kvs_record(kvs_world_t *world, bool messages);
const char *kvs_recorded(const kvs_world_t *world);

struct kvs_failure {
    const char *invariant; /* "I1"; NULL: all is well */
    char what[400];
    uint64_t now_us;
};
const struct kvs_failure *kvs_failure(const kvs_world_t *world);
/* For drivers with checks of their own: the first one counts. */
void kvs_fail(kvs_world_t *world, const char *invariant, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ------------------------------------------------------------------ faults by hand */

void kvs_kill(kvs_world_t *world, uint32_t node);    /* kill -9 */
void kvs_start(kvs_world_t *world, uint32_t node);   /* again, a new incarnation */
void kvs_pause(kvs_world_t *world, uint32_t node, uint64_t for_us);
/* Nothing passes from a to b (and back, when `both`) for `for_us`. */
void kvs_cut(kvs_world_t *world, uint32_t a, uint32_t b, bool both, uint64_t for_us);
void kvs_break(kvs_world_t *world, uint32_t a, uint32_t b); /* control connections */
/* Reads of this node's memory take `times` as long from now on. */
void kvs_slow_fabric(kvs_world_t *world, uint32_t node, uint32_t times);
/* Which of config.faults may happen from now on; 0 ends them all and heals cuts. A
 * pause under way still ends when it was to end. */
void kvs_faults(kvs_world_t *world, uint32_t faults);

#endif
