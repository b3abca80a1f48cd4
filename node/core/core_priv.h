/* Inside of node/core: the node's tables and what its files call of each other.
 *
 *   core.c     create, the step every call runs in, what the pager tells us
 *   link.c     connections, HELLO, liveness, the end of a link
 *   publish.c  our streams to the homes of our copies; the directory's side of it
 *   lookup.c   asking homes, answering as a home
 *   fetch.c    one page's way here: frame, grant, read or copy, digest
 *   grant.c    grants that we gave
 *   data.c     data operations in flight, and the fences that end them
 *   spill.c    what leaves: demotion, offers, takers
 *   client.c   requests that take time
 *   copy.c     bytes between a client's buffers and frames
 *   request.c  clients, what they hold, and requests that are answered at once
 *   inspect.c  what operators are told
 *
 * Threading: the loop thread. Every public call is one step: step_begin(), the
 * event, step_end(). Work that several events of a step ask for (publishing,
 * reading, granting) is collected and sent at the step's end, in one message a peer.
 */
#ifndef KVO_CORE_PRIV_H
#define KVO_CORE_PRIV_H

#include "base/assert.h"
#include "base/codec.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/core/core.h"

#include <stddef.h>
#include <string.h>

#define KVO_NEVER UINT64_MAX
#define KVO_NONE UINT32_MAX

enum {
    KVO_EVENTS_MAX = 16384,  /* of the pager between two drains of a step */
    KVO_EVENTS_PAUSE = KVO_EVENTS_MAX / 2, /* from here on loops stop and drain first */
    KVO_PUBS_MAX = 512,      /* directory items collected before they are sent */
    KVO_RELEASES_MAX = 32,   /* of one peer, likewise */
    KVO_DONES_MAX = 64,      /* SPILL_DONE items, likewise */
    KVO_HOLDERS_MAX = KV_MSG_HOLDERS_MAX,
    KVO_NEAR_MAX = 5,        /* nodes of a segment among which a spill seeks room */
    KVO_TARGETS_MAX = 2,     /* nodes that a spill is offered to */
    KVO_PINS_MAX = 65536,    /* pins of all clients, and no more than frames */
    KVO_SYNC_SCAN = 4096,    /* frames looked at per tick and home while syncing */
    KVO_SPILL_BATCH = 8,     /* so many are worth a message before the next tick */
    KVO_SPILL_BURST = 64,    /* copies made to leave in one step */
    KVO_PATIENCE_TICKS = 4,  /* fetches wait so long for any frame before one drops */
    KVO_FORGOTTEN_BEATS = 8, /* heartbeats until what HAVE forgot must be withdrawn */
    KVO_GROW_TICKS = 4,      /* appends and puts wait so for what leaves, then drop */
    KVO_STEP_ROUNDS = 64,    /* of step_end(): each must bring progress */
    KVO_NO_WAY = UINT8_MAX,  /* a peer is not read in this way */
    /* Copies between clients' buffers and frames that are out at once: so many for each
     * request, and no more than keep any mover busy. What finds none free waits
     * (copy.c), so this bounds memory, never what may be asked. */
    KVO_COPIES_PER_OP = KVO_BATCH_KEYS_MAX / 4,
};

/* ------------------------------------------------------------------ timers, slots */

enum kvo_timer_kind {
    KVO_TIMER_BEAT,  /* the node's heartbeat */
    KVO_TIMER_WORK,  /* the node's background work */
    KVO_TIMER_PEER,  /* a link's handshake or redial */
    KVO_TIMER_OP,
    KVO_TIMER_ITEM,
    KVO_TIMER_CALL,
    KVO_TIMER_DATA,
    KVO_TIMER_GIVEN,
    KVO_TIMER_SPILL,
};

struct kvo_timer {
    uint64_t at;
    uint32_t pos; /* in the heap, or KVO_NONE */
    uint32_t kind;
    uint32_t index;
};

/* A binary heap by (at, kind, index): total, so that simulations replay. */
struct kvo_timers {
    struct kvo_timer **heap;
    uint32_t nr, max;
};
void kvo_timer_set(struct kvo_timers *timers, struct kvo_timer *timer, uint64_t at);
void kvo_timer_stop(struct kvo_timers *timers, struct kvo_timer *timer);

/* Tables of objects named (generation, index): a name that outlived its object finds
 * nothing. Every element begins with struct kvo_slot. */
struct kvo_slot {
    uint32_t gen;  /* odd while taken */
    uint32_t next; /* free list */
};
struct kvo_slots {
    uint8_t *base;
    size_t stride;
    uint32_t nr, nr_taken, free;
};
kv_status_t kvo_slots_create(struct kvo_slots *slots, uint32_t nr, size_t stride);
void kvo_slots_destroy(struct kvo_slots *slots);
void *kvo_slots_take(struct kvo_slots *slots); /* zeroed but for its slot; or NULL */
void kvo_slots_give(struct kvo_slots *slots, void *element);
void *kvo_slots_find(const struct kvo_slots *slots, uint64_t id);
void *kvo_slots_at(const struct kvo_slots *slots, uint32_t index); /* NULL: not taken */
uint32_t kvo_slots_index(const struct kvo_slots *slots, const void *element);
uint64_t kvo_slots_id(const struct kvo_slots *slots, const void *element);

/* ------------------------------------------------------------------ state machines */

/* X(machine, FROM, TO); kvo_move() asserts that the edge is here, and counts it. */
#define KVO_EDGES(X)                                                                   \
    X(LINK, DOWN, DIALING)                                                             \
    X(LINK, DOWN, HELLO)                                                               \
    X(LINK, DIALING, HELLO)                                                            \
    X(LINK, DIALING, DOWN)                                                             \
    X(LINK, HELLO, UP)                                                                 \
    X(LINK, HELLO, DOWN)                                                               \
    X(LINK, UP, ENDING)                                                                \
    X(LINK, ENDING, DOWN)                                                              \
    X(CONN, CLOSED, OPEN)                                                              \
    X(CONN, OPEN, FENCING)                                                             \
    X(CONN, FENCING, CLOSED)                                                           \
    X(GRANT, NONE, GIVEN)                                                              \
    X(GRANT, GIVEN, REVOKING)                                                          \
    X(GRANT, GIVEN, FENCING)                                                           \
    X(GRANT, REVOKING, FENCING)                                                        \
    X(GRANT, GIVEN, NONE)                                                              \
    X(GRANT, REVOKING, NONE)                                                           \
    X(GRANT, FENCING, NONE)                                                            \
    X(ITEM, NONE, FRAME)                                                               \
    X(ITEM, FRAME, OTHER)                                                              \
    X(ITEM, FRAME, GRANT)                                                              \
    X(ITEM, FRAME, POST)                                                               \
    X(ITEM, FRAME, COPY)                                                               \
    X(ITEM, FRAME, NONE)                                                               \
    X(ITEM, OTHER, FRAME)                                                              \
    X(ITEM, OTHER, NONE)                                                               \
    X(ITEM, GRANT, POST)                                                               \
    X(ITEM, GRANT, FRAME)                                                              \
    X(ITEM, GRANT, NONE)                                                               \
    X(ITEM, POST, READ)                                                                \
    X(ITEM, POST, GRANT)                                                               \
    X(ITEM, POST, FRAME)                                                               \
    X(ITEM, POST, NONE)                                                                \
    X(ITEM, READ, FRAME)                                                               \
    X(ITEM, READ, NONE)                                                                \
    X(ITEM, COPY, NONE)                                                                \
    X(SPILL, NONE, QUEUED)                                                             \
    X(SPILL, QUEUED, OFFERED)                                                          \
    X(SPILL, QUEUED, NONE)                                                             \
    X(SPILL, OFFERED, QUEUED)                                                          \
    X(SPILL, OFFERED, TAKEN)                                                           \
    X(SPILL, OFFERED, NONE)                                                            \
    X(SPILL, TAKEN, QUEUED)                                                            \
    X(SPILL, TAKEN, NONE)                                                              \
    X(OP, NONE, LOOK)                                                                  \
    X(OP, NONE, MOVE)                                                                  \
    X(OP, NONE, FILL)                                                                  \
    X(OP, NONE, READY)                                                                 \
    X(OP, LOOK, MOVE)                                                                  \
    X(OP, LOOK, NONE)                                                                  \
    X(OP, MOVE, LOOK)                                                                  \
    X(OP, MOVE, OUT)                                                                   \
    X(OP, MOVE, NONE)                                                                  \
    X(OP, OUT, NONE)                                                                   \
    X(OP, FILL, NONE)                                                                  \
    X(OP, READY, NONE)                                                                 \
    X(CLIENT, GONE, ATTACHED)                                                          \
    X(CLIENT, ATTACHED, HUNG_UP)                                                       \
    X(CLIENT, HUNG_UP, GONE)

enum kvo_edge_index {
#define X(machine, from, to) KVO_EDGE_##machine##_##from##_##to,
    KVO_EDGES(X)
#undef X
    KVO_NR_EDGES
};

enum kvo_link_state { LINK_DOWN, LINK_DIALING, LINK_HELLO, LINK_UP, LINK_ENDING };
enum kvo_conn_state { CONN_CLOSED, CONN_OPEN, CONN_FENCING };
enum kvo_grant_state { GRANT_NONE, GRANT_GIVEN, GRANT_REVOKING, GRANT_FENCING };
enum kvo_item_state {
    ITEM_NONE, ITEM_FRAME, ITEM_OTHER, ITEM_GRANT, ITEM_POST, ITEM_READ, ITEM_COPY
};
enum kvo_spill_state { SPILL_NONE, SPILL_QUEUED, SPILL_OFFERED, SPILL_TAKEN };
enum kvo_op_state { OP_NONE, OP_LOOK, OP_MOVE, OP_OUT, OP_FILL, OP_READY };
enum kvo_client_state { CLIENT_GONE, CLIENT_ATTACHED, CLIENT_HUNG_UP };

/* The only way to change a state: checks that it was `from`, counts the edge. */
#define KVO_MOVE(node, object, field, machine, from, to)                               \
    do {                                                                               \
        KV_ASSERT((object)->field == machine##_##from);                                \
        (object)->field = machine##_##to;                                              \
        (node)->edges[KVO_EDGE_##machine##_##from##_##to]++;                           \
    } while (0)

/* ------------------------------------------------------------------ objects */

/* A peer of the view, by index; the node's own entry is unused.
 *
 *   link:  DOWN → DIALING → HELLO → UP → ENDING (fences out) → DOWN
 *   conn:  CLOSED → OPEN → FENCING → CLOSED, each way */
struct kvo_peer {
    struct kvo_timer timer;
    uint64_t conn;         /* the control connection; 0: none */
    uint64_t pending_conn; /* one more, which has not said HELLO */
    uint64_t link;
    uint64_t incarnation;
    uint64_t tenants;      /* covered, a bit per index of ours */
    uint64_t redial_us;
    uint64_t pending_since;
    struct kvc_liveness live;
    uint8_t nonce[KV_NONCE_BYTES];
    uint8_t state;     /* enum kvo_link_state */
    uint8_t out;       /* our data connection to it: enum kvo_conn_state */
    uint8_t in;        /* its to us */
    uint32_t in_next;  /* proved while `in` was FENCING: opens after it; 0: none */
    uint8_t in_kinds, in_next_kinds; /* connections of in_gen, in_next: a bit a kind */
    uint8_t ways[KVO_NR_KINDS]; /* by which transport of ours; KVO_NO_WAY */
    char addresses[KVO_NR_KINDS][KV_MSG_PLACE_MAX + 1];
    bool dialled;
    bool in_lost;      /* its stream to us has a gap: wait for SYNC_BEGIN */
    bool in_sync;      /* between its SYNC_BEGIN and SYNC_END: counts cannot agree */
    bool syncing;      /* our share goes to it again */
    bool want_sync;
    uint8_t mismatches;
    uint32_t out_gen, in_gen;
    uint32_t sync_cursor;
    uint32_t nr_syncs; /* begun on this link and those before */
    uint32_t listed;   /* own listed copies that it is a home of */
    /* Entries that it believes listed and we do not have, since its last sync: */
    uint32_t denied;    /* … its credential does not cover, or of no segment of ours */
    uint32_t full;      /* … that found no room */
    uint32_t forgotten; /* … let go of with HAVE, for so many of its heartbeats: */
    uint32_t forgotten_beats;
    uint64_t out_pos;  /* our stream to it */
    uint64_t in_pos;   /* its stream to us */
    uint64_t ping_seq;
    /* By tenant: last use of its coldest copy, as it last said; our clock. */
    uint64_t reach_at[KVP_TENANTS_MAX];
    uint64_t since;    /* its link is up, or not any more; for those who look in */
    uint64_t fetched_bytes, served_bytes;
    uint32_t free_frames; /* as it last said */
    uint64_t out_fence, in_fence; /* data operations of the fences under way */
    uint32_t nr_releases;
    struct kv_msg_released releases[KVO_RELEASES_MAX];
};

static inline bool kvo_reads(const struct kvo_peer *peer, enum kvo_kind kind)
{
    return peer->ways[kind] != KVO_NO_WAY;
}

/* One key of a request and what is known of it. */
enum kvo_key_phase {
    KEY_IDLE,   /* not wanted (yet) */
    KEY_ASK,    /* its segment's home has been asked */
    KEY_FOUND,  /* holders are known */
    KEY_QUEUED, /* wants an item */
    KEY_ITEM,   /* an item works on it */
    KEY_MOVED,  /* no holder had it any more: to be looked up once more */
    KEY_ROOM,   /* PUT: waits for a frame */
    KEY_CHECK,  /* here, being re-checked */
    KEY_HERE,   /* a reference is held */
    KEY_OUT,    /* a client copy is under way, reference held or fill open */
    KEY_SEAL,   /* PUT: its digest is being computed */
    KEY_DONE,   /* status is final, nothing held */
};
struct kvo_key {
    kv_key_t key;
    struct kvp_ref ref;
    uint64_t buffer;
    struct kv_grant grant;   /* from FOUND; id 0: none */
    uint64_t grant_asked_us;
    uint64_t grant_link;     /* link it was given on */
    uint32_t grant_peer;
    uint32_t grant_gen;      /* data_gen of our connection when it was asked for */
    uint32_t holders[KVO_HOLDERS_MAX];
    uint32_t n_tokens;
    uint8_t nr_holders, next_holder;
    uint8_t phase;
    uint8_t place;           /* enum kvo_place */
    uint8_t reason;          /* enum kv_miss */
    bool again;              /* was MOVED once */
    uint16_t seg;
    kv_status_t status;
};

/* A segment of a request's keys. */
struct kvo_seg {
    kv_key_t name;
    uint32_t index;     /* of its first key here, in the segment */
    uint16_t first, n;           /* keys */
    uint16_t ask_first, ask_n;   /* of them, those that are asked for */
    uint32_t homes[KVC_HOMES];
    uint8_t nr_homes;
    uint8_t next_home;  /* homes[next_home] would be asked next */
    uint8_t waiting;    /* calls out */
    bool open;          /* an answer is still wanted */
    bool cold;          /* a cold home knew less than was asked */
    bool lost;          /* a home could not be reached */
    uint32_t ask_home;  /* while a round of calls is put together, or waits */
};

struct kvo_op_obj {
    struct kvo_slot slot;
    struct kvo_timer timer;
    struct kvo_client_id client;
    struct kvo_request request; /* its pointers are not used after acceptance */
    uint8_t state;
    bool busy;          /* op_advance is on the stack */
    uint32_t nr_keys, nr_segs;
    uint32_t nr_open;   /* segments that wait for an answer */
    uint32_t nr_items;  /* keys with an item */
    uint32_t nr_queued; /* keys that want one */
    uint32_t nr_checks;
    uint32_t nr_moved;
    uint32_t nr_out;
    bool asking;          /* LOOK: some segments wait for a call */
    uint32_t ask_depth;   /* … of this round */
    bool in_line;         /* some of its keys wait for a copy */
    uint32_t next_copy;   /* … none before this one */
    uint32_t next_copier; /* the request behind it */
    bool planned;       /* plan_moves() has run */
    uint8_t looks;      /* how often it was in LOOK: answers to the last one count */
    uint32_t nr_calls, nr_rounds;
    uint32_t run;       /* SEQ_FETCH: keys that can still become hits */
    bool settling; /* SEQ_FETCH: a page of the run is being re-checked for others */
    bool growing;       /* SEQ_APPEND, PUT: waits for frames */
    uint32_t pool;      /* … of this pool */
    uint32_t nr_wanted; /* … so many */
    uint64_t until;     /* … and takes what is there from then on */
    struct kv_detail detail; /* of the first refusal for want of room */
    uint32_t nr_tails;
    struct kv_msg_tail tails[KV_MSG_TAILS_MAX];
    struct kvo_key *keys;  /* [KVO_BATCH_KEYS_MAX], the op's own */
    struct kvo_seg *segs;  /* likewise */
};

/* Items that wait for the same thing, first come first. */
struct kvo_list {
    uint32_t head, tail, nr;
};

/* A page on its way here.
 *
 *   FRAME  wants a frame          OTHER  somebody else's arrival of the same page
 *   GRANT  wants a grant          POST   goes out at the step's end
 *   READ   a mover works          COPY   from another tier of this node */
enum kvo_item_kind { ITEM_FETCH, ITEM_PROMOTE, ITEM_SPILL_IN };
struct kvo_item {
    struct kvo_slot slot;
    struct kvo_timer timer;
    uint32_t prev, next;  /* in `list` */
    struct kvo_list *list;
    uint8_t kind, state;
    uint8_t reason;    /* of the last holder's failure: enum kv_miss */
    uint8_t grant_tries;
    bool has_frame, has_grant;
    bool by_name;      /* no grant can name the holder's copy: it is read by name */
    uint64_t op;       /* FETCH, PROMOTE */
    uint32_t key;
    uint32_t peer;     /* holder that is being tried */
    uint32_t waits;    /* ticks without a frame for anybody who waits */
    bool at_ceiling;   /* the tenant's: others' frames are no help */
    struct kvp_arrival arrival;
    struct kv_copy copy;
    struct kvp_ref dst, src;
    uint32_t len;
    uint64_t digest;   /* expected: SPILL_IN */
    struct kv_grant grant;
    uint64_t grant_asked_us;
    uint64_t grant_link;
    uint32_t grant_gen;
    uint64_t data;     /* data operation while READ */
    uint64_t call;     /* GRANT under way */
};

/* A request of ours that a peer has to answer. */
enum kvo_call_kind { CALL_LOOKUP, CALL_GRANT, CALL_OFFER };
struct kvo_call {
    struct kvo_slot slot;
    struct kvo_timer timer;
    uint8_t kind, depth;
    uint8_t look; /* LOOKUP: kvo_op_obj.looks when it was sent */
    bool doubled;
    uint32_t peer;
    uint32_t n;
    uint32_t data_gen;
    uint64_t op;      /* LOOKUP */
    uint64_t asked_us;
    union {
        /* What was asked, as it was asked: a segment's own range may change while this
         * call is out, and the answer counts from these. */
        struct {
            uint16_t seg, first, n;
        } segs[KV_MSG_SEGS_MAX];
        uint64_t ids[KV_MSG_ITEMS_MAX]; /* items, spills */
    } u;
};

/* An order to a mover that has not ended. */
enum kvo_data_kind {
    DATA_READ,
    DATA_SERVE,
    DATA_CLIENT_IN,
    DATA_CLIENT_OUT,
    DATA_FENCE_IN,
    DATA_FENCE_OUT
};
struct kvo_data_op {
    struct kvo_slot slot;
    struct kvo_timer timer;
    uint8_t kind;
    bool orphan;       /* given up: ends with its completion or its fence */
    bool revoke;       /* the owner wants the grant back */
    bool spill;        /* SERVE: for a taker */
    bool batch;        /* READ: one of several of its order */
    uint32_t peer;     /* or client */
    uint32_t data_gen;
    uint64_t link;
    uint64_t item;     /* READ */
    uint64_t op;       /* CLIENT_* */
    uint32_t key;
    uint64_t grant;    /* READ under a grant */
    uint64_t grant_asked_us;
    uint32_t grant_us;
    struct kvp_ref ref;
    uint64_t expected;
    bool has_expected;
};

/* A grant that a peer holds on one of our frames. */
struct kvo_given {
    struct kvo_slot slot;
    struct kvo_timer timer;
    uint8_t state;
    bool spill;
    uint32_t peer;
    uint32_t data_gen;
    struct kvp_ref ref;
};

/* One of our copies that is being offered to others. */
struct kvo_spill {
    struct kvo_slot slot;
    struct kvo_timer timer;
    uint8_t state;
    uint8_t nr_targets, next;
    uint32_t targets[KVO_TARGETS_MAX];
    uint32_t token;
    uint32_t syncs; /* of the target, when it was asked */
    bool relisted;  /* with the target, since it was asked */
    uint64_t call;
    struct kvp_ref ref;
    struct kv_msg_offer offer;
    uint64_t last_use_us;
};

struct kvo_client {
    uint64_t tenants;
    uint32_t gen;
    uint8_t state;
    uint32_t nr_ops, nr_seqs, nr_pins, nr_fills;
};

struct kvo_pin {
    struct kvo_slot slot;
    uint32_t client;
    uint32_t next; /* of the same frame */
    struct kvp_ref ref;
    kv_key_t key;
};

/* What an arriving or filling frame belongs to. */
struct kvo_frame_owner {
    uint64_t id;  /* item (promotion) or op (put); 0: none */
    uint32_t key;
    uint32_t pins; /* first struct kvo_pin, or KVO_NONE */
};

/* Something that a client could still write after it hung up. */
struct kvo_seq_owner {
    uint32_t client; /* KVO_NONE: no such sequence */
    uint32_t gen;
    uint16_t tenant; /* index */
    bool fenced;     /* ended by hang-up: waits for the client's death */
};

/* What the pager told us inside a call of ours; handled after it. */
enum kvo_event_kind {
    EVENT_LISTED,
    EVENT_UNLISTED,
    EVENT_VERIFIED,
    EVENT_SEALED,
    EVENT_COPIED
};
struct kvo_event_obj {
    uint8_t kind;
    kv_status_t status;
    struct kvp_ref ref, now;
    uint64_t value;            /* hold, computed digest */
    struct kv_msg_entry entry; /* LISTED, UNLISTED (copy and segment) */
};

struct kvo_pub {
    uint32_t peer; /* KVO_NONE: sent */
    bool withdraw;
    struct kv_msg_entry entry;
};

struct kvo_pending_done {
    uint32_t peer; /* KVO_NONE: sent */
    struct kv_msg_spilled item;
};

struct kvo_node {
    struct kvo_config config;
    struct kvc_view view;
    struct kvo_out out;
    uint32_t self;
    bool has_host; /* some pool is of the host tier */
    uint64_t now;
    uint64_t last_tick;
    bool in_step;
    bool many;       /* completions follow each other, and are one step */
    bool many_ended; /* there was one */
    struct kv_rng rng;
    char cluster[KV_MSG_TEXT_MAX + 1];

    kvp_pager_t *pager;
    kvc_dir_t *dir;

    struct kvo_timers timers;
    struct kvo_timer beat, work;
    struct kvo_peer *peers;
    struct kvo_slots ops, items, calls, datas, givens, spills, pins;
    struct kvo_key *key_memory;
    struct kvo_seg *seg_memory;
    struct kvo_client *clients;
    struct kvo_seq_owner *seqs;
    uint32_t tenant_seqs[KVP_TENANTS_MAX]; /* of `seqs`; those that are fenced, too */

    struct kvo_event_obj *events;
    uint32_t nr_events;
    struct kvo_pub *pubs;
    uint32_t nr_pubs;
    struct kvo_pending_done dones[KVO_DONES_MAX];
    uint32_t nr_dones;
    struct kvo_list waiting; /* items in FRAME and OTHER */
    struct kvo_list wanting; /* items in GRANT whose call is not out */
    struct kvo_list posted;  /* items in POST; both empty unless tables are full */
    uint32_t nr_reading;   /* data operations of kind READ and SERVE */
    uint32_t nr_copying;   /* … of kind CLIENT_IN and CLIENT_OUT */
    struct kvo_list copiers; /* ops with keys that wait for a copy */
    uint32_t nr_queued;    /* keys that want an item */
    uint32_t nr_asking;    /* ops whose look-up waits for a call */
    uint32_t nr_offers;    /* spills in SPILL_QUEUED */
    uint32_t nr_ready;     /* ops in OP_READY or OP_FILL, or settling */
    uint32_t wanted[KVP_POOLS_MAX]; /* frames that appends and puts wait for */
    struct kvo_frame_owner *owners; /* by frame */
    bool gave[KVP_POOLS_MAX]; /* this tick, a frame to an item that waited */
    bool frames_freed;     /* since items last tried for one */
    bool arrived;          /* something ended that others may wait for */
    bool local_ended;      /* a local order ended */
    bool any_releases;     /* some peer has releases to flush */

    struct kvc_dir_answer *found; /* scratch for one answer */
    struct kv_msg_found_grant *found_grants;
    struct kv_msg_segment *msg_segs;
    kv_key_t *msg_keys;
    struct kv_msg_entry *msg_entries;
    struct kv_msg_gone *msg_gone;
    struct kvo_part *parts;
    kv_status_t *answer_statuses;
    uint8_t *answer_reasons, *answer_places;
    int32_t *msg_statuses;
    struct kvp_ref *refs;
    kv_key_t *keys;

    struct kvo_metrics metrics;
    uint64_t edges[KVO_NR_EDGES];
};

/* ------------------------------------------------------------------ core.c */
void kvo_trace(kvo_node_t *node, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void kvo_observe(
    kvo_node_t *node, enum kvo_event event, const struct kv_copy *copy,
    struct kvp_ref frame, uint32_t peer, uint64_t value);
static inline uint32_t
kvo_peer_index(const kvo_node_t *node, const struct kvo_peer *peer)
{
    return (uint32_t)(peer - node->peers);
}
static inline uint32_t kvo_node_id(const kvo_node_t *node, uint32_t index)
{
    return node->view.members[index].id;
}
struct kvp_out kvo_pager_hooks(kvo_node_t *node);
bool kvo_usable(const kvo_node_t *node, uint32_t peer); /* up and not suspect */
void kvo_part_at(kvo_node_t *node, struct kvp_ref ref, struct kvo_part *part);

/* ------------------------------------------------------------------ link.c */
void kvo_send(kvo_node_t *node, struct kvo_peer *peer, struct kv_msg *msg);
/* Says STATUS on a connection that is going to be closed. */
void kvo_link_tell(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, kv_status_t status,
    const struct kv_detail *detail);
void kvo_send_status(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t req, kv_status_t status,
    const char *field, uint64_t limit, uint64_t value);
void kvo_link_conn_up(kvo_node_t *node, uint32_t index, uint64_t conn, bool dialled);
void kvo_link_conn_down(kvo_node_t *node, uint32_t index, uint64_t conn);
void kvo_link_dial_failed(kvo_node_t *node, uint32_t index);
void kvo_link_end(kvo_node_t *node, struct kvo_peer *peer, kv_status_t why);
void kvo_link_fenced(kvo_node_t *node, struct kvo_peer *peer);
bool kvo_link_one_sided_lost(kvo_node_t *node, struct kvo_peer *peer, uint64_t link);
void kvo_link_timer(kvo_node_t *node, struct kvo_peer *peer);
void kvo_link_beat(kvo_node_t *node);
void kvo_link_hello(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, const struct kv_msg *msg);
void kvo_link_hello_ok(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_link_refused(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_link_ping(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_link_pong(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);

/* ------------------------------------------------------------------ publish.c */
void kvo_listed(kvo_node_t *node, const struct kv_msg_entry *entry);
void kvo_unlisted(kvo_node_t *node, const struct kv_msg_entry *entry);
void kvo_list_again(kvo_node_t *node, uint32_t peer, const struct kvp_info *info);
void kvo_cooled(kvo_node_t *node, struct kvp_ref ref);
void kvo_publish_flush(kvo_node_t *node);
void kvo_sync_start(kvo_node_t *node, struct kvo_peer *peer);
void kvo_sync_work(kvo_node_t *node);
void kvo_owed_nothing(struct kvo_peer *peer);
void kvo_directory_message(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_entry_of(const struct kvp_info *info, struct kv_msg_entry *entry);

/* ------------------------------------------------------------------ lookup.c */
void kvo_op_segments(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_op_place(
    const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t key,
    struct kvp_place *place);
uint32_t kvo_look_here(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_look_again(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_lookup_start(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_lookup_asked(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_lookup_found(
    kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg);
void kvo_lookup_failed(kvo_node_t *node, struct kvo_call *call);
void kvo_lookup_timer(kvo_node_t *node, struct kvo_call *call);
void kvo_lookup_stop(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_lookups_work(kvo_node_t *node);

/* Any call: ends it unanswered. */
struct kvo_call *kvo_call_take(
    kvo_node_t *node, enum kvo_call_kind kind, uint32_t peer, uint64_t timeout_us);
void kvo_call_give(kvo_node_t *node, struct kvo_call *call);
void kvo_call_failed(kvo_node_t *node, struct kvo_call *call);
void kvo_call_timer(kvo_node_t *node, struct kvo_call *call);

/* ------------------------------------------------------------------ fetch.c */
bool kvo_fetch_start(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t key, enum kvo_item_kind kind);
bool kvo_spill_in_start(
    kvo_node_t *node, uint32_t peer, const struct kv_msg_offer *offer,
    struct kvp_ref dst, const struct kvp_arrival *arrival);
void kvo_item_granted(
    kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg);
void kvo_item_grant_failed(kvo_node_t *node, struct kvo_call *call);
/* True: the bytes are right, and here. */
bool kvo_item_read_done(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done);
void kvo_item_copied(
    kvo_node_t *node, struct kvp_ref ref, kv_status_t status, uint64_t computed);
void kvo_item_cancel(kvo_node_t *node, struct kvo_item *item);
void kvo_item_timer(kvo_node_t *node, struct kvo_item *item);
void kvo_item_drop_grant(kvo_node_t *node, struct kvo_item *item);
void kvo_items_of_peer_lost(kvo_node_t *node, uint32_t peer);
void kvo_items_work(kvo_node_t *node, bool tick);
void kvo_items_flush(kvo_node_t *node);

/* ------------------------------------------------------------------ grant.c */
kv_status_t kvo_grant_give(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_copy *copy, bool spill,
    struct kv_grant *grant);
void kvo_grant_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_grant_released(
    kvo_node_t *node, const struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_grant_ended(
    kvo_node_t *node, const struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_grant_revoked(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_granted_late(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_found_late(kvo_node_t *node, struct kvo_peer *peer, uint64_t grant);
void kvo_given_timer(kvo_node_t *node, struct kvo_given *given);
void kvo_givens_fencing(kvo_node_t *node, uint32_t peer);
void kvo_givens_fenced(kvo_node_t *node, uint32_t peer, uint32_t data_gen);
void kvo_release_queue(
    kvo_node_t *node, uint32_t peer, uint64_t link, uint64_t id, bool read);
void kvo_release_flush(kvo_node_t *node, struct kvo_peer *peer);

/* ------------------------------------------------------------------ data.c */
struct kvo_data_op *kvo_data_take(
    kvo_node_t *node, enum kvo_data_kind kind, uint32_t peer);
void kvo_data_give(kvo_node_t *node, struct kvo_data_op *data);
void kvo_data_lost(kvo_node_t *node, struct kvo_data_op *data);
void kvo_data_open(kvo_node_t *node, struct kvo_peer *peer);
bool kvo_data_opened(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_data_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_fence_in(kvo_node_t *node, struct kvo_peer *peer);
void kvo_fence_out(kvo_node_t *node, struct kvo_peer *peer);
void kvo_data_completed(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done);
void kvo_data_pause(kvo_node_t *node);
void kvo_data_timer(kvo_node_t *node, struct kvo_data_op *data);

/* ------------------------------------------------------------------ spill.c */
void kvo_spill_work(kvo_node_t *node, bool tick);
void kvo_spill_flush(kvo_node_t *node);
void kvo_spill_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_spill_answered(
    kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg);
void kvo_spill_unanswered(kvo_node_t *node, struct kvo_call *call);
uint64_t kvo_reach(kvo_node_t *node, uint16_t tenant);
uint64_t kvo_reach_common(kvo_node_t *node);
uint32_t kvo_reach_apart(
    kvo_node_t *node, const struct kvo_peer *peer,
    struct kv_msg_reach reaches[KVP_TENANTS_MAX]);
void kvo_reach_none(kvo_node_t *node, struct kvo_peer *peer);
void kvo_reach_heard(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t reach_us,
    const struct kv_msg_reach *reaches, uint32_t nr_reaches);
void kvo_spill_told(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg);
void kvo_spill_timer(kvo_node_t *node, struct kvo_spill *spill);
void kvo_spill_peer_lost(kvo_node_t *node, uint32_t peer);
void kvo_spill_done_queue(
    kvo_node_t *node, uint32_t peer, const struct kv_copy *copy, kv_status_t status);
void kvo_spill_done_flush(kvo_node_t *node);

/* ------------------------------------------------------------------ client.c */
void kvo_answer_now(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request,
    struct kvo_answer *answer, kv_status_t status, const struct kv_detail *detail);
void kvo_op_start(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request);
void kvo_op_drop(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_op_cancel(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_op_advance(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_op_timer(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_op_key_here(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t key, struct kvp_ref ref,
    enum kvo_place place, bool checking);
void kvo_op_key_failed(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t key, kv_status_t status,
    enum kv_miss reason);
void kvo_op_copied(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done);
void kvo_op_verified(kvo_node_t *node, struct kvp_ref ref, kv_status_t status);
void kvo_op_sealed(
    kvo_node_t *node, struct kvp_ref ref, struct kvp_ref now, kv_status_t status);
void kvo_ops_work(kvo_node_t *node);

/* ------------------------------------------------------------------ copy.c */
uint32_t kvo_copies_max(const struct kvo_config *config);
void kvo_copy_want(kvo_node_t *node, struct kvo_op_obj *op, uint32_t key);
void kvo_copy_want_none(kvo_node_t *node, struct kvo_op_obj *op);
void kvo_copies_work(kvo_node_t *node);
void kvo_copies_check(const kvo_node_t *node);

/* ------------------------------------------------------------------ request.c */
kv_status_t kvo_request_core(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request);
kv_status_t kvo_client_attach_core(
    kvo_node_t *node, uint64_t tenants, struct kvo_client_id *client_p);
void kvo_client_hang_up_core(kvo_node_t *node, struct kvo_client_id client);
void kvo_client_dead_core(kvo_node_t *node, struct kvo_client_id client);
void kvo_room_detail(
    const kvo_node_t *node, const struct kvo_request *request, enum kvp_tier tier,
    uint32_t n, kv_status_t status, struct kv_detail *detail);
/* Frames for n pages of an append or a put, from now on waited for (room.c). */
void kvo_room_want(
    kvo_node_t *node, struct kvo_op_obj *op, enum kvp_tier tier, uint32_t n);
void kvo_room_end(kvo_node_t *node, struct kvo_op_obj *op);
uint32_t kvo_room_now(const kvo_node_t *node, const struct kvo_op_obj *op);
bool kvo_room_at_ceiling(
    const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t n);
/* What an answer says of answer->seq's table: `changed` pages from `first` on, no more
 * than there are. */
void kvo_answer_table(
    const kvo_node_t *node, struct kvo_answer *answer, uint32_t first,
    uint32_t changed);
void kvo_client_switched(
    kvo_node_t *node, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now);

#endif
