/* Insides of the world, shared by the files of node/sim/ that are the world: event.c,
 * world.c, net.c, fabric.c, fence.c, client.c, fault.c, check.c, look.c.
 *
 *   event.c   heap, hash            world.c   nodes, clocks, run loop
 *   net.c     control connections   fabric.c  orders, reads
 *   client.c  requests, answers     fence.c   … and how they end before their time
 *   check.c   invariants            fault.c   what goes wrong by itself
 *   look.c    trace, looking in
 *
 * Threading, order: see world.h. All memory here is malloc's, never kv_calloc's: the
 *   checker of invariant I12 compares kv_mem_live() with what the nodes took at start.
 */
#ifndef KVS_WORLD_PRIV_H
#define KVS_WORLD_PRIV_H

#include "base/assert.h"
#include "base/codec.h"
#include "base/hash.h"
#include "node/sim/world.h"

enum {
    KVS_PIECE_BYTES = 64,  /* what a fabric moves at once: a cache line */
    KVS_RECORDED_MAX = 16, /* messages kept per ordered pair for replays */
    KVS_LIVES_MAX = 256,   /* starts of one node in one world */
    KVS_REPLAY_NODES_MAX = 16, /* larger worlds keep no recordings */
};

/* The kinds of events. KVS_EV_TO_NODE ones wait while the process is paused and are
 * dropped when the life they were meant for is over. */
enum kvs_event_kind {
    KVS_EV_CALL,
    KVS_EV_DIAL,
    KVS_EV_IO,       /* a moment of an operation of the fabric */
    KVS_EV_DATA,     /* DATA and its bytes reach the reader's fabric */
    KVS_EV_ANSWER,
    KVS_EV_SWITCHED,
    KVS_EV_LOST,     /* a client learns that its node was killed */
    KVS_EV_RESUME,
    KVS_EV_START,
    KVS_EV_FAULT,
    KVS_EV_SCRIBBLE, /* a dead process' memory is used for something else */
    KVS_EV_RESET,    /* a connection of a dead process is refused */
    KVS_EV_TO_NODE,  /* the kinds below run inside a node */
    KVS_EV_TICK,
    KVS_EV_CONN_UP,
    KVS_EV_CONN_DOWN,
    KVS_EV_DIAL_FAILED,
    KVS_EV_MESSAGE,
    KVS_EV_READ_MESSAGE, /* DATA_OPEN, READ at the owner */
    KVS_EV_DONE,
    KVS_EV_LOCAL_DONE,
    KVS_EV_TURN, /* the completions of a turn have been taken */
    KVS_EV_DATA_BROKEN,
    KVS_EV_SUBMIT,
    KVS_EV_HUNG_UP,
    KVS_EV_DEAD,
    KVS_NR_EVENTS
};

struct kvs_event {
    uint64_t at, seq;
    uint32_t kind;
    uint32_t node;
    uint64_t life; /* of the node; 0: any */
    uint64_t id;   /* by kind: connection, io handle, request … */
    void *p;       /* malloc's, freed after the handler unless it takes it */
};

/* The bytes of one life of one node. Kept while an operation of the fabric names them,
 * as pages of a killed process are. */
struct kvs_mem {
    uint32_t refs;
    uint8_t *base;
    size_t bytes;
    size_t pool_at[KVP_POOLS_MAX];
    uint32_t frame_bytes[KVP_POOLS_MAX];
    bool dead; /* its process is gone */
};

struct kvs_node {
    kvo_node_t *core; /* NULL while down */
    struct kvs_port *port;
    uint64_t life;    /* grows with each start; 0 before the first */
    uint64_t incarnations[KVS_LIVES_MAX]; /* [life] */
    uint64_t clock_base;
    int64_t clock_ppm;
    uint64_t paused_until; /* 0: it runs */
    uint64_t paused_at;
    uint64_t stopped_us;   /* what its clock has missed (clock_stops) */
    uint64_t resumed_at;
    uint64_t slow_until;
    uint32_t slow_times;
    uint32_t fabric_times;
    uint64_t fabric_until;
    uint64_t tick_at;     /* of the earliest tick event; UINT64_MAX: none */
    bool in_turn;         /* its completions are taken together until KVS_EV_TURN */
    int64_t allocations;  /* of its core, since its start */
    struct kvs_mem *mem;
    uint32_t nr_frames;
    uint16_t *touched;    /* [frame] operations that may still touch its bytes */
    uint16_t *granted;    /* [frame] grants given and not proved over */
    uint64_t *freed_gen;  /* [frame] generation + 1 that was freed last */
    uint64_t *heard_life; /* [peer] newest life whose message was acted on */
    uint64_t tenants;     /* bit i: it has tenant i */
    uint32_t named_pools; /* bit i: pool i cannot be mapped */
};

/* A control connection. Side 0 dialled. */
struct kvs_conn {
    uint32_t node[2];
    uint64_t life[2];
    bool up[2];        /* the side's node was told that it is up, and not yet down */
    bool broken;
    uint64_t last[2];  /* delivery of the latest message from side i */
};

/* A data connection (or queue pair): reader to owner. */
struct kvs_data_conn {
    uint32_t reader, owner;
    uint64_t reader_life, owner_life;
    uint64_t link;
    uint32_t data_gen;
    bool closed;
    uint8_t kinds; /* that the reader opened: a bit of enum kvo_kind each */
    uint64_t last;
    uint32_t prev; /* the pair's one before: index + 1, 0: none */
};

/* One operation that touches bytes, from its order to its last possible touch. */
struct kvs_io {
    uint32_t gen;
    bool used;
    bool over;    /* touches nothing any more; its completion is out or was lost */
    bool waiting; /* READ_NAMED: no DATA yet */
    enum kvo_order_kind kind;
    uint32_t node, peer;
    uint64_t life;
    uint64_t link;
    uint32_t data_gen;
    uint32_t index; /* READ_NAMED, SERVE: which copy of the READ */
    uint64_t req;
    uint64_t id;    /* the part's or the local order's */
    struct kvp_ref src, dst; /* frames of `node`; KVP_NO_FRAME: none */
    struct kvp_ref far;      /* READ_GRANT: the owner's frame */
    struct kvs_mem *from_mem, *to_mem;
    uint8_t *from, *to;
    uint8_t *bounce; /* SERVE: copied out; READ_NAMED: arrived, not landed */
    uint32_t len;
    uint32_t moments, moment; /* pieces move at so many moments; next one */
    uint64_t span_us;         /* from first to last moment */
    uint64_t salt;            /* which piece moves at which moment */
    enum kvp_order_kind local;
    uint32_t client; /* CLIENT_*: slot, */
    uint64_t serial; /* … and who had it */
    uint64_t buffer;
    struct kv_msg_data data;
    struct kvo_done done;
    uint64_t data_life; /* READ_GRANT: the owner's */
};

struct kvs_client_state {
    bool used, up;
    uint32_t node;
    uint64_t life;
    uint64_t serial;
    struct kvo_client_id id;
    const struct kvs_client_ops *ops;
    void *arg;
    struct kvs_mem *buffer; /* same shape, so that operations can hold it */
    uint16_t *busy;         /* [256 bytes of the buffer] requests that own them */
    uint32_t nr_requests;
};

struct kvs_pending {
    bool used, started;
    uint32_t gen;
    uint32_t client;
    uint64_t serial;
    uint64_t tag;
    enum kvo_op op;
    uint32_t nr_keys;
    uint64_t submitted_us, deadline_us;
    uint64_t *buffers; /* GET; NULL otherwise */
};

/* A key of the map of living copies: see check.c. */
struct kvs_copy_state;

struct kvs_recorded_message {
    uint8_t *bytes;
    uint32_t len;
    bool data; /* of a data connection */
    uint64_t life;
};

struct kvs_world {
    struct kvs_config config;
    struct kvc_view view;
    struct kvs_node *nodes;
    uint64_t now, seq, steps;
    struct kvs_event *heap;
    size_t nr_events, heap_cap;
    uint64_t hash;
    struct kvs_stats stats;
    struct kvs_counts gone; /* of nodes that were killed */
    struct kvs_failure failure;
    int64_t allocations_before; /* of others, when the world was made */
    bool in_core; /* a call into a node is running */
    bool stale;   /* … with a message of a link that has ended */

    struct kv_rng net_rng, fabric_rng, fault_rng, clock_rng, nonce_rng, turn_rng;
    uint32_t faults; /* that may happen now */
    uint64_t fault_serial;

    struct kvs_conn *conns; /* id - 1 */
    size_t nr_conns, conns_cap;
    struct kvs_data_conn *data_conns;
    size_t nr_data_conns, data_conns_cap;
    uint32_t *data_last; /* [reader * nr_nodes + owner] newest: index + 1 */
    uint64_t *cut_until; /* [from * nr_nodes + to] */
    struct kvs_recorded_message *recorded; /* [pair][KVS_RECORDED_MAX]; may be NULL */
    uint32_t *nr_recorded;                 /* [pair] */
    uint64_t *links; /* [node * nr_nodes + peer] link id; 0: none */

    struct kvs_io *ios;
    size_t nr_ios, ios_cap;
    uint32_t *free_ios;
    size_t nr_free_ios;

    struct kvs_client_state *clients;
    size_t nr_clients, clients_cap;
    struct kvs_pending *pending;
    size_t nr_pending, pending_cap;
    uint64_t client_serial;

    struct kvs_copy_state *copies; /* open addressing */
    uint32_t told_serial; /* of HAVE, over all nodes */
    size_t nr_copies, copies_cap;

    uint8_t *wire;     /* KV_MSG_BYTES_MAX */
    struct kv_arena arena;
    FILE *trace;
    bool record, record_messages;
    char *recording;
    size_t recording_len, recording_cap;
};

/* Room for one more element: doubles. Out of memory ends the process. */
void *kvs_grow(void *array, size_t nr, size_t *cap_p, size_t size);
void *kvs_take(size_t bytes); /* zeroed malloc that does not fail */

/* event.c */
void kvs_push(
    kvs_world_t *world, uint64_t at, enum kvs_event_kind kind, uint32_t node,
    uint64_t id, void *p);
/* To the node's life of now. */
void kvs_push_to(
    kvs_world_t *world, uint64_t at, enum kvs_event_kind kind, uint32_t node,
    uint64_t id, void *p);
/* One that was taken out and must wait: keeps its place among equals. */
void kvs_push_again(kvs_world_t *world, const struct kvs_event *event, uint64_t at);
struct kvs_event kvs_pop(kvs_world_t *world);
void kvs_hash_word(kvs_world_t *world, uint64_t word);
void kvs_hash_bytes(kvs_world_t *world, const uint8_t *bytes, size_t len);

/* world.c */
uint64_t kvs_node_now(const kvs_world_t *world, uint32_t node);
/* Before and after every call into a node. */
kvo_node_t *kvs_enter(kvs_world_t *world, uint32_t node);
void kvs_leave(kvs_world_t *world, uint32_t node);
bool kvs_alive(const kvs_world_t *world, uint32_t node, uint64_t life);
bool kvs_roll(kvs_world_t *world, enum kvs_fault fault, uint64_t one_in);
void kvs_say(kvs_world_t *world, bool message, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t kvs_stretch(const kvs_world_t *world, uint32_t node, uint64_t us);
struct kvs_mem *kvs_mem_hold(struct kvs_mem *mem);
void kvs_mem_drop(struct kvs_mem *mem);
uint8_t *kvs_mem_frame(const struct kvs_mem *mem, uint32_t pool, uint32_t frame);

/* net.c: callbacks of kvo_out, and handlers of events */
struct kvs_port { /* the `arg` of a node's kvo_out */
    kvs_world_t *world;
    uint32_t node;
};
void kvs_net_dial(void *arg, uint32_t peer);
void kvs_net_hang_up(void *arg, uint32_t peer, uint64_t conn);
void kvs_net_send(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg);
void kvs_net_send_data(void *arg, uint32_t peer, const struct kv_msg *msg);
void kvs_net_random(void *arg, uint8_t *bytes, size_t len);
void kvs_net_event(kvs_world_t *world, struct kvs_event *event);
void kvs_net_killed(kvs_world_t *world, uint32_t node);
bool kvs_net_cut(const kvs_world_t *world, uint32_t from, uint32_t to);
uint64_t kvs_net_latency(kvs_world_t *world, uint32_t from, uint32_t to);
/* Encoded bytes of msg in world->wire; 0 when it cannot be encoded (a failure). */
size_t kvs_net_encode(kvs_world_t *world, uint32_t from, const struct kv_msg *msg);
/* The message travels on the reader's data connection to the owner. */
void kvs_net_data_out(
    kvs_world_t *world, struct kvs_data_conn *conn, const struct kv_msg *msg);
struct kvs_data_conn *kvs_net_data_conn(
    kvs_world_t *world, uint32_t reader, uint32_t owner, uint64_t link,
    uint32_t data_gen, bool make);
/* Bytes as if the peer had sent them on its newest connection; false: there is none. */
bool kvs_net_inject(
    kvs_world_t *world, uint32_t from, uint32_t to, const uint8_t *bytes, uint32_t len);
/* Likewise on the reader's newest data connection to the owner. */
bool kvs_net_inject_data(
    kvs_world_t *world, uint32_t reader, uint32_t owner, const uint8_t *bytes,
    uint32_t len);

/* fabric.c */
void kvs_fabric_order(void *arg, const struct kvo_order *order);
void kvs_fabric_event(kvs_world_t *world, struct kvs_event *event);
void kvs_fabric_killed(kvs_world_t *world, uint32_t node);
/* The data connection ends for both sides: reads fail, serves fail, the reader is
 * told. */
void kvs_fabric_break(kvs_world_t *world, struct kvs_data_conn *conn);

uint64_t kvs_io_handle(const kvs_world_t *world, const struct kvs_io *io);
struct kvs_io *
kvs_io_of_order(kvs_world_t *world, uint32_t node, const struct kvo_order *order);
void kvs_io_schedule(kvs_world_t *world, struct kvs_io *io, uint64_t delay_us);
/* Its bytes are moved, or will not be; the completion goes out, if no fault eats it. */
void kvs_io_finish(kvs_world_t *world, struct kvs_io *io, kv_status_t status);
/* The completion alone, at `at`; handle UINT64_MAX: the operation is gone already. */
void kvs_io_push_done(
    kvs_world_t *world, const struct kvs_io *io, uint64_t handle, uint64_t at);
/* It touches nothing from here on. */
void kvs_io_give(kvs_world_t *world, struct kvs_io *io);

/* fence.c */
void kvs_fence_order(
    kvs_world_t *world, uint32_t node, const struct kvo_order *order);
void kvs_fence_finish(kvs_world_t *world, struct kvs_io *fence);
/* The reader's node hears that its data connection broke. */
void kvs_fence_told(kvs_world_t *world, const struct kvs_event *event);

/* client.c */
void kvs_client_answered(void *arg, const struct kvo_answer *answer);
void kvs_client_switched(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now);
void kvs_client_event(kvs_world_t *world, struct kvs_event *event);
void kvs_client_killed(kvs_world_t *world, uint32_t node);
/* Slot of the client with this index at that node, or SIZE_MAX. */
size_t kvs_client_slot(const kvs_world_t *world, uint32_t node, uint32_t index);

/* (I11) Fails when a request has waited past its deadline. */
void kvs_client_overdue(kvs_world_t *world);

/* fault.c */
void kvs_fault_event(kvs_world_t *world, struct kvs_event *event);
void kvs_fault_start(kvs_world_t *world);
/* `node` has a link to `peer`: under replay_all, what was sent on older ones comes
 * again. */
void kvs_fault_linked(kvs_world_t *world, uint32_t node, uint32_t peer);

/* check.c */
void kvs_check_observe(void *arg, const struct kvo_observed *observed);
void kvs_check_step(kvs_world_t *world);
void kvs_check_killed(kvs_world_t *world, uint32_t node);
/* An operation starts or ends to touch a frame of `node`. */
void kvs_check_touch(kvs_world_t *world, uint32_t node, struct kvp_ref ref, int by);
/* Bytes are about to be written into / read from a frame. */
void kvs_check_land(kvs_world_t *world, const struct kvs_io *io);
void kvs_check_read(kvs_world_t *world, const struct kvs_io *io);
/* A grant of `owner` is about to be read under: it can be, from there. */
void kvs_check_grant(
    kvs_world_t *world, uint32_t reader, uint32_t owner, const struct kv_grant *grant);
/* Bytes of a frame are about to go to a peer. */
void kvs_check_serve(kvs_world_t *world, const struct kvs_io *io);

#endif
