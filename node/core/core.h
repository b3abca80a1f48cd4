/* node/core: every protocol of a node, as pure state machines over the pager and the
 * cluster's view and directory.
 *
 *   node/ (or the simulator)                             node/core
 *     messages, completions, connections ──kvo_*()──►  link, publish, lookup, fetch,
 *     requests, ticks; each with `now`                  grant, data, spill, client
 *     struct kvo_out ◄──callbacks── messages, orders, answers, notices
 *
 * Threading: the loop thread alone. No call blocks. Callbacks run inside the call
 * that caused them and must not call back into the node. Ownership: all memory is
 * taken in kvo_create(), sized by the config. Pointers handed to callbacks live
 * until the callback returns; pointers handed in are not kept. Time: microseconds of
 * a monotonic clock that starts anywhere. Every call carries the time; it never goes
 * back. kvo_next_timer() says when kvo_tick() is wanted next. Promises: every
 * request ends once, with a typed status, by its deadline (a GET whose bytes are being
 * written to its client then: when that has ended); every order is completed once by
 * node/ or ended by the fence of its data connection; a frame that some order may
 * still touch is not reused (docs/protocol.md, pager/frame.h).
 */
#ifndef KVO_CORE_H
#define KVO_CORE_H

#include "base/metric.h"
#include "base/miss.h"
#include "cluster/directory.h"
#include "cluster/placement.h"
#include "cluster/view.h"
#include "pager/pager.h"

enum {
    KVO_BATCH_KEYS_MAX = 1024, /* of one request */
    KVO_APPEND_PAGES_MAX = 2048, /* of one SEQ_APPEND: longer ones come in several */
    KVO_CLIENTS_MAX = 1024,
    KVO_COPIES_MAX = 16 * KVO_BATCH_KEYS_MAX, /* CLIENT_* orders out at once */
};

/* How bytes come from a peer. */
enum kvo_kind {
    KVO_NAMED = 0,     /* the reader names the copy, the owner sends ("tcp", "ucx") */
    KVO_ONE_SIDED = 1, /* the reader reads the owner's frame under a grant ("shm") */
    KVO_NR_KINDS
};

/* A way to read pages. Two nodes have it in common when names and domains are equal. A
 * reader reads a peer by the first of its own list that is common; if that is
 * one-sided, it reads what no grant can name by the first common one that names. Each
 * direction of a pair is its reader's choice. */
struct kvo_transport {
    enum kvo_kind kind;
    char name[KV_MSG_TEXT_MAX + 1];     /* "tcp" */
    char domain[KV_MSG_PLACE_MAX + 1];  /* who reaches whom; "": all */
    char address[KV_MSG_PLACE_MAX + 1]; /* where readers of ours come in */
};

struct kvo_config {
    uint32_t node;         /* id; a member of the view */
    uint64_t incarnation;  /* random, not 0, new at every start */
    const char *cluster;   /* name; <= KV_MSG_TEXT_MAX */
    const struct kvc_view *view; /* copied */
    struct kvp_config pager;
    /* kv_secret_check() of pager.tenants[i]: as secret as the secret is, never sent. */
    uint64_t tenant_checks[KVP_TENANTS_MAX];
    uint32_t tenant_sequences[KVP_TENANTS_MAX]; /* at once, at most; 0: no ceiling */
    struct kvc_liveness_config liveness;
    struct kvc_dir_config directory;         /* nr_nodes is filled in */
    struct kvo_transport transports[KV_MSG_TRANSPORTS_MAX]; /* best first */
    uint32_t nr_transports;
    /* Bit i: peers cannot map pool i (a `fill` arena). No grant names a copy there. */
    uint32_t named_pools;

    uint64_t grant_us;   /* duration of the grants that we give; then REVOKE */
    uint64_t call_us;    /* an answer that takes longer is not coming */
    uint64_t double_us;  /* a home silent for this long is doubled by the next one */
    /* A read that takes longer is given up, its connection fenced; a serve may take
     * twice as long. */
    uint64_t read_us;
    uint64_t revoke_us;  /* REVOKED must come within this, else fence */
    uint64_t spill_us;   /* from leaving to done; at the taker from its answer */
    uint64_t redial_us;  /* first pause before dialling again; doubles up to 16 × */

    bool spill;
    uint32_t nr_clients;
    uint32_t nr_ops;     /* client requests in flight */
    uint32_t nr_items;   /* pages being fetched */
    uint32_t nr_calls;   /* LOOKUP, GRANT, SPILL_OFFER in flight */
    uint32_t nr_reads;   /* data operations in flight, both directions */
    uint32_t nr_grants;  /* given, all peers */
    uint32_t nr_spills;  /* copies being offered */
    uint32_t sync_items; /* published per tick and home while syncing */
    uint64_t tick_us;    /* period of background work: sync, demotion, spill */
    uint64_t seed;       /* of link ids: another one for every life */
};

/* ------------------------------------------------------------------ orders out */

enum kvo_order_kind {
    KVO_ORDER_LOCAL,      /* a kvp_order: digest, copy, zero */
    KVO_ORDER_CLIENT_IN,  /* client buffer → frame */
    KVO_ORDER_CLIENT_OUT, /* frame → client buffer */
    KVO_ORDER_READ_NAMED, /* send READ for these copies; each lands in its frame */
    KVO_ORDER_READ_GRANT, /* read one frame of the peer under its grant */
    KVO_ORDER_SERVE,      /* send DATA and the frame's bytes to a reader */
    /* End the peer's data connection to us: when this completes, no read of that peer
     * under data_gen or older touches us again. */
    KVO_ORDER_FENCE_IN,
    KVO_ORDER_FENCE_OUT, /* end ours to the peer: nothing lands any more */
};

/* One page of an order. `id` comes back in kvo_complete(). */
struct kvo_part {
    uint64_t id;
    struct kvp_ref
        frame; /* local: destination of reads, source of SERVE and CLIENT_OUT */
    uint32_t pool;        /* where it lies: pool and frame number inside the pool */
    uint32_t pool_frame;
    uint32_t len;         /* bytes to move; READ_NAMED: room */
    struct kv_copy copy;      /* READ_NAMED */
    struct kv_grant grant;    /* READ_GRANT */
    struct kv_msg_data data;  /* SERVE: the header; no bytes unless its status is OK */
    uint64_t req;             /* SERVE: request number of the READ it answers */
    uint64_t buffer;          /* CLIENT_*: offset in the client's buffer */
};

struct kvo_order {
    enum kvo_order_kind kind;
    uint32_t peer;     /* index in the view; client index for CLIENT_* */
    uint64_t link;     /* the link that the data connection belongs to */
    uint32_t data_gen;
    struct kvp_order local; /* LOCAL: its id goes to kvo_local_done() */
    const struct kvo_part *parts; /* READ_NAMED: up to KV_MSG_READ_MAX; others: one */
    uint32_t nr_parts;
    uint64_t req;      /* READ_NAMED: number for READ, in the envelope */
};

/* What a mover found out. */
struct kvo_done {
    /* OK; MISS, AGAIN, DENIED from the owner; LINK_LOST; IO. Never another status that
     * is no error: what DATA says is the mover's to check. */
    kv_status_t status;
    bool unverified;     /* of a read: nobody has looked at its bytes */
    uint64_t computed;   /* digest of the landed bytes (reads) or of the frame */
    uint64_t expected;   /* READ_NAMED: digest, from the owner's DATA */
    uint64_t gen;        /* READ_NAMED: of the owner's frame; told along */
    uint32_t len;        /* READ_NAMED */
    uint32_t n_tokens;   /* READ_NAMED */
};

/* ------------------------------------------------------------------ clients */

struct kvo_client_id {
    uint32_t index;
    uint32_t gen;
};

enum kvo_op {
    /* object level: batches of keys, one status each */
    KVO_EXISTS, /* OK: here or listed somewhere; MISS */
    KVO_GET,    /* page i's bytes to buffer offset buffers[i] */
    KVO_PUT,    /* OK, EXISTS, or why not */
    KVO_PIN,    /* local copies; OK, MISS, AGAIN (no pin free) */
    KVO_UNPIN,
    KVO_DROP, /* local copies, and what is only arriving; MISS when there is neither */
    /* pager level */
    KVO_SEQ_OPEN,  /* → seq */
    KVO_SEQ_FETCH, /* the longest run of keys[] that can be had, adopted: → nr_hits */
    KVO_SEQ_APPEND,   /* n_tokens more */
    KVO_SEQ_SEAL,     /* page, keys[0] */
    KVO_SEQ_FORK,     /* → seq */
    KVO_SEQ_TRUNCATE, /* to n_tokens */
    KVO_SEQ_CONFIRM,  /* version */
    KVO_SEQ_END,      /* the engine's queued work on it is over */
    KVO_NR_OPS
};

/* A chained batch: keys[i] is page first_page + i of one prefix; `anchor` is the key
 * that opens the segment of keys[0] (ignored when first_page opens one). Loose: each
 * key is a segment of its own. A wrong anchor costs hits only. */
struct kvo_request {
    uint64_t tag; /* the caller's; comes back in the answer */
    enum kvo_op op;
    /* Absolute; 0 is refused for EXISTS, GET, PUT, SEQ_FETCH and SEQ_APPEND. */
    uint64_t deadline_us;
    uint16_t tenant;      /* index; must be one of the client's */
    uint16_t variant;
    bool loose;
    uint32_t first_page;
    kv_key_t anchor;
    const kv_key_t *keys;
    uint32_t nr_keys;
    const uint64_t *buffers;  /* GET, PUT: one a key */
    const uint32_t *n_tokens; /* one a key, NULL for full pages */
    struct kvp_seq_id seq;
    uint32_t page;            /* SEQ_SEAL */
    uint32_t tokens;          /* SEQ_APPEND, SEQ_TRUNCATE */
    uint64_t version;         /* SEQ_CONFIRM */
    kv_key_t prev;            /* of a tail: the key it follows */
};

enum kvo_place { KVO_FROM_NONE, KVO_FROM_DEVICE, KVO_FROM_HOST, KVO_FROM_PEER };

struct kvo_answer {
    struct kvo_client_id client;
    uint64_t tag;
    enum kvo_op op;
    kv_status_t status;           /* of the whole; OK with per-key statuses otherwise */
    struct kv_detail detail;      /* why not; PUT: of the first key without room */
    const kv_status_t *statuses;  /* per key; NULL for ops without keys */
    const uint8_t *reasons;       /* enum kv_miss where statuses[i] is MISS */
    const uint8_t *places;        /* enum kvo_place where it was found */
    uint32_t nr_keys;
    uint32_t nr_hits;             /* SEQ_FETCH: adopted pages */
    struct kvp_seq_id seq;        /* SEQ_OPEN, SEQ_FORK */
    uint64_t version;             /* of the table after the operation */
    /* Where the table may differ from what it was, beyond what `switched` has told:
     * kvo_seq_table() says where these pages lie. */
    uint32_t first_page, nr_changed;
    /* SEQ_FETCH: tails that some home lists behind the last key; hints. */
    const struct kv_msg_tail *tails;
    uint32_t nr_tails;
    uint32_t nr_calls; /* messages that this request asked peers (look-ups) */
    uint32_t nr_rounds;           /* … and round trips one after another */
};

/* ------------------------------------------------------------------ what comes out */

/* What a simulation's checkers follow; a running node leaves `observe` NULL. */
enum kvo_event {
    KVO_SAW_LISTED,   /* copy, frame: sealed and visible */
    KVO_SAW_UNLISTED, /* copy: no frame of it is left here */
    KVO_SAW_FREED,    /* frame: (frame, gen) is free */
    KVO_SAW_HAVE_TOLD, /* copy: as first home, told `peer` that `value` keeps it */
    KVO_SAW_HAVE_DROP,   /* copy: dropped because a home said that another has it */
    KVO_SAW_LINK_UP,     /* peer, value = link */
    KVO_SAW_LINK_END,    /* peer, value = link */
    KVO_SAW_GRANT_GIVEN, /* peer, frame, value = grant id */
    KVO_SAW_GRANT_ENDED, /* peer, frame, value = grant id: proved over */
    KVO_SAW_ACCEPTED,    /* peer, value = incarnation whose message was acted on */
};
struct kvo_observed {
    enum kvo_event event;
    const struct kv_copy *copy;
    struct kvp_ref frame;
    uint32_t peer;
    uint64_t value;
};

struct kvo_out {
    void *arg;
    void (*dial)(void *arg, uint32_t peer);
    void (*hang_up)(void *arg, uint32_t peer, uint64_t conn);
    void (*send)(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg);
    /* DATA_OPEN, first on a data connection that is to be opened to the peer by its
     * transport of that kind. */
    void (*send_data)(void *arg, uint32_t peer, const struct kv_msg *msg);
    void (*order)(void *arg, const struct kvo_order *order);
    void (*answer)(void *arg, const struct kvo_answer *answer);
    /* The engine's table of `seq` changed at `page`: confirm the new version. */
    void (*switched)(
        void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
        struct kvp_ref was, struct kvp_ref now);
    void (*observe)(void *arg, const struct kvo_observed *observed); /* may be NULL */
    /* Bytes that nobody can foretell, for the nonce of a link: link ids travel in clear
     * on data connections, and come from the same generator as all else that a node
     * draws, so nothing secret may. */
    void (*random)(void *arg, uint8_t *bytes, size_t len);
    /* One line of the protocol's life, stable text: "link n2 up". May be NULL. */
    void (*trace)(void *arg, const char *line);
};

/* ------------------------------------------------------------------ calls in */

typedef struct kvo_node kvo_node_t;

/* KV_ERR_CONFIG with its detail, or NOMEM. Dials nobody before the first tick. */
kv_status_t kvo_create(
    const struct kvo_config *config, const struct kvo_out *out, uint64_t now_us,
    kvo_node_t **node_p, struct kv_detail *detail);
void kvo_destroy(kvo_node_t *node);

/* Everything that is due by now_us. A gap in the caller's own ticks (a pause of the
 * process) is noticed here, before anything else is done. */
void kvo_tick(kvo_node_t *node, uint64_t now_us);
uint64_t kvo_next_timer(const kvo_node_t *node);

/* A connection authenticated as `peer` is up (dialled by us or by them), or gone. */
void kvo_conn_up(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn, bool dialled);
void kvo_conn_down(kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn);
/* dial() came to nothing. */
void kvo_dial_failed(kvo_node_t *node, uint64_t now_us, uint32_t peer);

/* A decoded message on a control connection. */
void kvo_message(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn,
    const struct kv_msg *msg);
/* Bytes that did not decode: the peer is told what is wrong with them, and the link
 * ends with `status`. */
void kvo_bad_message(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn, kv_status_t status,
    const struct kv_detail *detail);
/* DATA_OPEN or READ on a data connection that the peer opened to us; DATA_OPEN on one
 * of the kind that it says. False: a DATA_OPEN that is not believed (its proof, its
 * generation, its link, a second one of its kind); the connection is to be closed. */
bool kvo_data_message(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, const struct kv_msg *msg);
/* One of our data connections to the peer broke by itself (the owner fenced it): those
 * of its generation are fenced, and opened anew. */
void kvo_data_broken(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t link, uint32_t data_gen);
/* The one-sided connection to the peer cannot be had: until this link ends its pages
 * are read by name. False: the link has ended, or nothing that names is common. */
bool kvo_one_sided_lost(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t link);

/* Between these two, completions that follow each other are one step: what they make
 * possible is begun, and what they have for peers (publishing, offers, releases) goes
 * out, at the end. Else each page would be a message. Any other call in between is a
 * step of its own, and does it at once. */
void kvo_many_begin(kvo_node_t *node);
void kvo_many_end(kvo_node_t *node);
/* An order's part has ended. An id that is not out any more is counted and ignored. */
void kvo_complete(
    kvo_node_t *node, uint64_t now_us, uint64_t id, const struct kvo_done *done);
void kvo_local_done(
    kvo_node_t *node, uint64_t now_us, uint64_t id, kv_status_t status,
    uint64_t computed);

/* A client with the right to these tenants (bit i: index i). AGAIN: nr_clients. */
kv_status_t kvo_client_attach(
    kvo_node_t *node, uint64_t now_us, uint64_t tenants,
    struct kvo_client_id *client_p);
/* Accepts a request: its answer comes by kvo_out.answer, perhaps before this returns.
 * STALE for a client that is gone; AGAIN when nr_ops are in flight: neither is answered
 * otherwise. */
kv_status_t kvo_request(
    kvo_node_t *node, uint64_t now_us, struct kvo_client_id client,
    const struct kvo_request *request);
/* It hung up: everything it holds is given back, but for the frames of its sequences,
 * which it could still write: they wait for kvo_client_dead(). Its requests end
 * unanswered. */
void kvo_client_hung_up(
    kvo_node_t *node, uint64_t now_us, struct kvo_client_id client);
void kvo_client_dead(kvo_node_t *node, uint64_t now_us, struct kvo_client_id client);

/* Where a page of a block table lies: pool, frame number inside it, and the frame's
 * generation. */
struct kvo_page {
    uint64_t gen;
    uint32_t pool, pool_frame;
};
/* The client's sequence as it is now: *info, and its pages from `first` on, *n_p of
 * them at most (then: how many there were). Reads alone: may be called from inside
 * kvo_out.answer. STALE: not, or no more, a sequence of this client. */
kv_status_t kvo_seq_table(
    const kvo_node_t *node, struct kvo_client_id client, struct kvp_seq_id seq,
    uint32_t first, uint32_t *n_p, struct kvo_page *pages, struct kvp_seq_info *info);

/* ------------------------------------------------------------------ looking in */

kvp_pager_t *kvo_pager(kvo_node_t *node);       /* reading only */
const kvc_dir_t *kvo_directory(const kvo_node_t *node);
bool kvo_link_up(const kvo_node_t *node, uint32_t peer);
/* The peer whose living link has this id, or KVC_NO_NODE: who opens a data
 * connection. */
uint32_t kvo_link_peer(const kvo_node_t *node, uint64_t link);
/* By which transport of ours we read this peer in this way, as the config has it; NULL:
 * not in this way, or the link is down. The address is the peer's, "" for none. */
const struct kvo_transport *
kvo_peer_transport(const kvo_node_t *node, uint32_t peer, enum kvo_kind kind);
const char *kvo_peer_address(const kvo_node_t *node, uint32_t peer, enum kvo_kind kind);
/* Peers whose link is up. */
uint32_t kvo_links_up(const kvo_node_t *node);

/* How full the tables are whose bounds the config sets. */
#define KVO_TABLES(X) /* name, what is in it */                                        \
    X(clients, "clients attached")                                                     \
    X(requests, "requests of clients in flight")                                       \
    X(fetching, "pages on their way here")                                             \
    X(calls, "questions to peers in flight")                                           \
    X(reads, "reads from and for peers in flight")                                     \
    X(grants, "grants given and not ended")                                            \
    X(spills, "copies being offered to peers")                                         \
    X(pins, "pins of clients")
struct kvo_table {
    uint32_t used, max;
};
struct kvo_tables {
#define X(name, what) struct kvo_table name;
    KVO_TABLES(X)
#undef X
};
void kvo_tables(const kvo_node_t *node, struct kvo_tables *tables);

/* What is known of a peer. What it said counts from when it was said. */
struct kvo_peer_info {
    const char *state; /* of its link: "down", "dialing", "hello", "up", "ending" */
    bool up;
    bool dialled;         /* by us */
    uint64_t incarnation; /* 0: not known */
    uint64_t since_us;    /* up, or not up any more, for so long */
    enum kvc_life life;
    uint64_t silent_us;
    const char *transport; /* by which we read it first: "shm"; "": none yet */
    const char *out, *in; /* data connections: "closed", "open", "fencing" */
    uint64_t tenants;     /* that it covers, a bit an index of ours */
    uint32_t listed_there, listed_here; /* our copies there, its copies here */
    bool owes_sync;       /* its share is not whole here */
    bool syncing;         /* ours is on its way */
    uint64_t stream_out, stream_in; /* positions of the two streams */
    uint64_t fetched_bytes, served_bytes; /* since our start */
    uint32_t free_frames; /* as it last said */
    uint64_t reach_us;    /* how far back its memory reaches, least; 0: it has room */
};
void kvo_peer_info(
    const kvo_node_t *node, uint64_t now_us, uint32_t peer, struct kvo_peer_info *info);
/* Up and heard of lately: a peer that would be asked. True for the node itself. */
bool kvo_peer_usable(const kvo_node_t *node, uint32_t peer);

/* An edge of a protocol's states, and how often this node walked it. */
struct kvo_edge {
    const char *machine, *from, *to;
    uint64_t count;
};
/* Fills *edge with the i-th edge; false past the last. */
bool kvo_edge_at(const kvo_node_t *node, unsigned i, struct kvo_edge *edge);

/* The statuses that a client can be answered with, whole or per key. What movers say of
 * CLIENT_IN and CLIENT_OUT is passed on, and must be one of these. */
extern const kv_status_t kvo_answer_statuses[];
extern const unsigned kvo_nr_answer_statuses;

#define KVO_METRICS(X)                                                                 \
    X(COUNTER, requests, "kvrail_requests_total", "client requests taken")             \
    X(COUNTER, answers, "kvrail_answers_total", "client requests ended")               \
    X(COUNTER, hits_device, "kvrail_hits_device_total", "pages found on the device")   \
    X(COUNTER, hits_host, "kvrail_hits_host_total", "pages found in host memory")      \
    X(COUNTER, hits_peer, "kvrail_hits_peer_total", "pages fetched from peers")        \
    X(COUNTER, lookups_sent, "kvrail_lookups_sent_total", "LOOKUP messages sent")      \
    X(COUNTER, lookups_doubled, "kvrail_lookups_doubled_total",                        \
      "look-ups repeated at the next home")                                            \
    X(COUNTER, messages_in, "kvrail_messages_in_total", "messages taken")              \
    X(COUNTER, messages_out, "kvrail_messages_out_total", "messages sent")             \
    X(COUNTER, messages_stale, "kvrail_messages_stale_total",                          \
      "messages of an ended link, a former incarnation or an ended request")           \
    X(COUNTER, messages_bad, "kvrail_messages_bad_total", "messages refused")          \
    X(COUNTER, fetched_bytes, "kvrail_fetched_bytes_total", "bytes read from peers")   \
    X(COUNTER, fetched_one_sided_bytes, "kvrail_fetched_one_sided_bytes_total",        \
      "... of them one-sidedly, under grants")                                         \
    X(COUNTER, served_bytes, "kvrail_served_bytes_total", "bytes that peers read")     \
    X(COUNTER, not_verified, "kvrail_verify_failed_total",                             \
      "arrivals that did not match their digest")                                      \
    X(COUNTER, reads_lost, "kvrail_reads_lost_total", "reads given up by time")        \
    X(COUNTER, fences, "kvrail_fences_total", "data connections fenced")               \
    X(COUNTER, revokes, "kvrail_revokes_total", "grants revoked")                      \
    X(COUNTER, grants_given, "kvrail_grants_given_total", "grants given")              \
    X(COUNTER, grants_ended, "kvrail_grants_ended_total",                              \
      "grants released, revoked or fenced")                                            \
    X(COUNTER, grants_read, "kvrail_grants_read_total", "grants that pages were read"  \
      " under")                                                                        \
    X(COUNTER, grants_by_name, "kvrail_grants_by_name_total",                          \
      "grants refused for copies that can only be named")                              \
    X(COUNTER, pauses, "kvrail_pauses_total", "own pauses longer than suspect")        \
    X(COUNTER, syncs, "kvrail_syncs_total", "directory shares sent again")             \
    X(COUNTER, spills_offered, "kvrail_spills_offered_total", "copies offered")        \
    X(COUNTER, spills_have, "kvrail_spills_have_total", "offers answered HAVE")        \
    X(COUNTER, spills_taken, "kvrail_spills_taken_total", "offers taken and done")     \
    X(COUNTER, spills_refused, "kvrail_spills_refused_total", "offers refused")        \
    X(COUNTER, spills_dropped, "kvrail_spills_dropped_total",                          \
      "copies dropped unspilled")                                                      \
    X(COUNTER, spills_in, "kvrail_spills_in_total", "copies taken from peers")         \
    X(COUNTER, late_completions, "kvrail_late_completions_total",                      \
      "completions of operations that had ended")                                      \
    X(COUNTER, clients_lost, "kvrail_clients_lost_total", "clients that hung up")

struct kvo_metrics {
#define X(kind, field, name, help) uint64_t field;
    KVO_METRICS(X)
#undef X
    uint64_t misses[KV_NR_MISSES];
    uint64_t statuses[KV_NR_STATUSES];  /* answered, whole or per key */
    uint64_t sent[KV_NR_MSGS];
    uint64_t received[KV_NR_MSGS];
};
const struct kvo_metrics *kvo_metrics(const kvo_node_t *node);

/* Every invariant of core, pager and directory; asserts. O(everything). */
void kvo_check(const kvo_node_t *node);
/* The O(1) part. */
void kvo_check_quick(const kvo_node_t *node);

#endif
