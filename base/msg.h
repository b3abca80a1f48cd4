/* The messages between nodes: their shapes in memory. docs/protocol.md says what each
 * one means and what becomes of it when it is late, doubled, stale or over a bound.
 *
 *   node/core ──► struct kv_msg ──► base/codec ──► bytes on a link
 *
 * Threading: plain data.
 * Ownership: arrays and byte strings of a decoded message point into the caller's
 * arena (or, for bytes, into the received buffer) and live as long as both.
 * Units: durations in microseconds, lengths in bytes; no wall-clock time anywhere.
 */
#ifndef KV_MSG_H
#define KV_MSG_H

#include "base/key.h"

enum {
    KV_PROTO_MIN = 1,
    KV_PROTO_MAX = 1,

    KV_MSG_BYTES_MAX = 1 << 20,  /* one encoded message */
    KV_MSG_DEPTH_MAX = 8,        /* nesting of arrays and maps */
    KV_MSG_ITEMS_MAX = 256,      /* PUBLISH, WITHDRAW, GRANT, RELEASE, REVOKE */
    KV_MSG_TENANTS_MAX = 64,
    KV_MSG_TRANSPORTS_MAX = 8,
    KV_MSG_SEGS_MAX = 64,        /* segments of one LOOKUP */
    KV_MSG_SEG_KEYS_MAX = 128,   /* keys of one segment */
    KV_MSG_KEYS_MAX = 1024,      /* keys of one LOOKUP, all segments */
    KV_MSG_WANTS_MAX = 16,       /* (group, layout, shard) of one LOOKUP */
    KV_MSG_RUNS_MAX = 1024,
    KV_MSG_HOLDERS_MAX = 4,      /* of one run */
    KV_MSG_TAILS_MAX = 4,
    KV_MSG_GRANTS_MAX = 256,     /* grants in one FOUND */
    KV_MSG_READ_MAX = 64,        /* copies of one READ */
    KV_MSG_OFFERS_MAX = 64,
    KV_MSG_TEXT_MAX = 64,        /* cluster and transport names, refused fields */
    KV_MSG_PLACE_MAX = 127,      /* a transport's domain, or its address */
    KV_NONCE_BYTES = 16,
};

/* X(symbol, number on the wire, name, the union's member). Numbers are for ever. */
#define KV_MSG_MAP(X)                                                                  \
    X(KV_MSG_HELLO, 1, "hello", hello)                                                 \
    X(KV_MSG_HELLO_OK, 2, "hello_ok", hello_ok)                                        \
    X(KV_MSG_STATUS, 3, "status", status)                                              \
    X(KV_MSG_PING, 4, "ping", ping)                                                    \
    X(KV_MSG_PONG, 5, "pong", pong)                                                    \
    X(KV_MSG_PUBLISH, 8, "publish", publish)                                           \
    X(KV_MSG_PUBLISHED, 9, "published", published)                                     \
    X(KV_MSG_WITHDRAW, 10, "withdraw", withdraw)                                       \
    X(KV_MSG_SYNC_BEGIN, 11, "sync_begin", sync_begin)                                 \
    X(KV_MSG_SYNC_END, 12, "sync_end", sync_end)                                       \
    X(KV_MSG_SYNC_WANT, 13, "sync_want", sync_want)                                    \
    X(KV_MSG_LOOKUP, 16, "lookup", lookup)                                             \
    X(KV_MSG_FOUND, 17, "found", found)                                                \
    X(KV_MSG_GRANT, 20, "grant", grant)                                                \
    X(KV_MSG_GRANTED, 21, "granted", granted)                                          \
    X(KV_MSG_RELEASE, 22, "release", release)                                          \
    X(KV_MSG_REVOKE, 23, "revoke", revoke)                                             \
    X(KV_MSG_REVOKED, 24, "revoked", revoked)                                          \
    X(KV_MSG_DATA_OPEN, 28, "data_open", data_open)                                    \
    X(KV_MSG_READ, 29, "read", read)                                                   \
    X(KV_MSG_DATA, 30, "data", data)                                                   \
    X(KV_MSG_SPILL_OFFER, 32, "spill_offer", spill_offer)                              \
    X(KV_MSG_SPILL_ANSWER, 33, "spill_answer", spill_answer)                           \
    X(KV_MSG_SPILL_DONE, 34, "spill_done", spill_done)

enum kv_msg_type {
#define X(symbol, number, name, member) symbol = (number),
    KV_MSG_MAP(X)
#undef X
};

enum {
    KV_NR_MSGS = 0
#define X(symbol, number, name, member) +1
    KV_MSG_MAP(X)
#undef X
};

/* One page as it lies somewhere, named for the whole cluster. */
struct kv_copy {
    uint32_t tenant;
    uint32_t layout; /* fingerprint of the layout, equal in all configs */
    uint16_t group;
    uint16_t shard;
    kv_key_t key;
};

struct kv_msg_text {
    const char *text; /* not terminated */
    uint32_t len;     /* <= KV_MSG_TEXT_MAX, or the field's own bound */
};

/* A way to read the sender's pages, or for the sender to read others'. Two nodes have
 * it in common when names and domains are equal. */
struct kv_msg_transport {
    struct kv_msg_text name;    /* "tcp" */
    struct kv_msg_text domain;  /* who reaches whom: host and namespaces; or empty */
    struct kv_msg_text address; /* where readers come in; empty: the view says where */
};

struct kv_msg_tenant {
    uint32_t id;
    uint64_t check; /* kv_check_proof() of the sender */
};

/* First on a link, both ways: who I am. Epoch is in the envelope. */
struct kv_msg_hello {
    uint32_t proto_min, proto_max;
    struct kv_msg_text cluster;
    uint32_t node;
    uint64_t incarnation;
    uint64_t view_digest;
    struct kv_msg_transport *transports;
    uint32_t nr_transports;
    struct kv_msg_tenant *tenants; /* that my credential covers */
    uint32_t nr_tenants;
};

/* The acceptor's answer; the envelope's `link` is the new link's id. */
struct kv_msg_hello_ok {
    uint32_t proto;
    uint32_t node;
    uint64_t incarnation;
    uint64_t view_digest;
    uint8_t nonce[KV_NONCE_BYTES]; /* opens data connections */
    struct kv_msg_transport *transports;
    uint32_t nr_transports;
    struct kv_msg_tenant *tenants;
    uint32_t nr_tenants;
};

/* The answer to a request that cannot be served at all; also refuses a HELLO. */
struct kv_msg_status {
    int32_t status; /* kv_status_t, or a newer peer's */
    struct kv_msg_text field;
    uint64_t limit;
    uint64_t value;
};

/* How far back a node's memory for one tenant reaches; tenants whose memory is set
 * apart. */
struct kv_msg_reach {
    uint32_t tenant; /* its id */
    uint64_t reach_us;
};

/* Heartbeat and anti-entropy: my stream to you stands at `stream_pos`, and I believe
 * that you list `nr_entries` of my copies. */
struct kv_msg_ping {
    uint64_t seq;
    uint64_t stream_pos;
    uint32_t nr_entries;
    uint32_t free_frames;
    uint64_t reach_us; /* how far back my lowest tier's memory reaches; common domain */
    struct kv_msg_reach *reaches; /* … and other domains */
    uint32_t nr_reaches;
};
struct kv_msg_pong {
    uint64_t seq;
    uint64_t stream_pos; /* of your stream to me, as received */
    uint32_t nr_entries; /* of yours that I list */
};

/* Listed as being in this tier: the holder lets it go before anything else (a peer has
 * read it). A fine source, but no reason for another to drop its own. */
enum { KV_TIER_COOL = 15 };

/* One copy that its holder lists with a home. */
struct kv_msg_entry {
    struct kv_copy copy;
    kv_key_t segment;  /* first key of its segment */
    uint32_t index;    /* in the segment */
    uint32_t n_tokens; /* < page_tokens: a tail */
    uint32_t tier;
    uint32_t frame;
    uint64_t gen;
    bool tail;
    kv_key_t prev; /* of a tail: the key it follows; else zero */
};

struct kv_msg_publish {
    uint64_t pos; /* number of this message in the holder's stream to this home */
    struct kv_msg_entry *items;
    uint32_t nr_items;
};
struct kv_msg_published {
    uint64_t pos;
    int32_t *statuses; /* one an item: OK, FULL, NOT_HOME, DENIED */
    uint32_t nr_statuses;
};

struct kv_msg_gone {
    struct kv_copy copy;
    uint32_t frame;
    uint64_t gen;
};
struct kv_msg_withdraw {
    uint64_t pos;
    struct kv_msg_gone *items;
    uint32_t nr_items;
};

struct kv_msg_sync_begin {
    uint64_t pos; /* the stream goes on from here */
};
struct kv_msg_sync_end {
    uint64_t pos;
    uint32_t count; /* entries listed since SYNC_BEGIN that are still held */
};
struct kv_msg_sync_want {
    uint64_t pos; /* last position seen */
};

struct kv_msg_want {
    uint32_t layout;
    uint16_t group;
    uint16_t shard;
};

struct kv_msg_segment {
    kv_key_t segment;
    uint32_t index; /* of keys[0] in the segment */
    kv_key_t *keys;
    uint32_t nr_keys;
};

struct kv_msg_lookup {
    uint32_t tenant;
    uint32_t grants_max; /* 0: the reader's transport names copies */
    struct kv_msg_want *wants;
    uint32_t nr_wants;
    struct kv_msg_segment *segs;
    uint32_t nr_segs;
    bool tails;         /* list tails that follow tail_prev in tail_segment */
    kv_key_t tail_segment;
    kv_key_t tail_prev;
};

/* Pages first .. first + n - 1 of segs[seg].keys exist as wants[want] at each
 * holder. */
struct kv_msg_run {
    uint32_t seg, want, first, n;
    uint32_t *holders; /* node ids, best first */
    uint32_t nr_holders;
};
struct kv_msg_tail {
    uint32_t want;
    uint32_t n_tokens;
    uint32_t holder;
    kv_key_t key;
};

/* The right to read one frame one-sidedly, for as long as the link lives, but posted
 * only within the first half of duration_us. */
struct kv_grant {
    uint64_t id;
    uint64_t gen;
    uint64_t offset; /* of the copy in its arena */
    uint64_t digest;
    uint32_t arena;
    uint32_t frame;
    uint32_t len;
    uint32_t n_tokens;
    uint32_t duration_us;
};
struct kv_msg_found_grant {
    uint32_t seg, want, page; /* segs[seg].keys[page] */
    struct kv_grant grant;
};
struct kv_msg_found {
    bool cold; /* not every holder that is up has synced: an absence proves nothing */
    struct kv_msg_run *runs;
    uint32_t nr_runs;
    struct kv_msg_tail *tails;
    uint32_t nr_tails;
    struct kv_msg_found_grant *grants;
    uint32_t nr_grants;
};

enum kv_grant_purpose { KV_GRANT_FETCH = 0, KV_GRANT_SPILL = 1 };
struct kv_msg_grant {
    uint32_t purpose;
    uint32_t duration_us; /* wished; the owner gives what its config says */
    struct kv_copy *copies;
    uint32_t nr_copies;
};
struct kv_msg_granted_item {
    int32_t status; /* OK, MISS, AGAIN, DENIED */
    struct kv_grant grant; /* zero unless OK */
};
struct kv_msg_granted {
    struct kv_msg_granted_item *items;
    uint32_t nr_items;
};

/* RELEASE has no answer and may come twice. */
struct kv_msg_released {
    uint64_t id;
    bool read; /* the page was read under it, and verified: the reader has a copy */
};
struct kv_msg_release {
    struct kv_msg_released *items;
    uint32_t nr_items;
};

/* REVOKE is answered by REVOKED once the reader's own reads under these grants have
 * ended. */
struct kv_msg_ids {
    uint64_t *ids;
    uint32_t nr_ids;
};

/* First on a data connection. Those of one data_gen, at most one of each kind, are
 * opened and fenced together. */
struct kv_msg_data_open {
    uint32_t data_gen;
    /* HMAC(nonce of the link, link ‖ data_gen ‖ one_sided): u64, u32 LE, u8 */
    kv_key_t proof;
    bool one_sided; /* for reads under grants; else by name */
};

/* Send me these copies, one DATA each. */
struct kv_msg_read {
    uint32_t data_gen;
    struct kv_copy *copies;
    uint32_t nr_copies;
};
/* Heads the bytes of READ's copies[index]; len 0 unless status is OK. */
struct kv_msg_data {
    uint32_t data_gen;
    uint32_t index;
    int32_t status;
    uint32_t len;
    uint32_t n_tokens;
    uint64_t gen;
    uint64_t digest;
};

struct kv_msg_offer {
    struct kv_copy copy;
    kv_key_t segment;
    uint32_t index;
    uint32_t n_tokens;
    uint32_t len;
    uint64_t digest;
    uint64_t age_us; /* since it was last used, at the owner */
    bool tail;
    kv_key_t prev;
};
struct kv_msg_spill_offer {
    uint64_t stream_pos; /* of the asker's stream to this node: HAVE needs all of it */
    struct kv_msg_offer *items;
    uint32_t nr_items;
};
struct kv_msg_spill_answer {
    int32_t *statuses; /* EXISTS (= HAVE), TAKE, REFUSED, AGAIN, QUOTA, DENIED */
    uint32_t nr_statuses;
    uint64_t reach_us; /* as in PING, and so: */
    struct kv_msg_reach *reaches;
    uint32_t nr_reaches;
};
struct kv_msg_spilled {
    struct kv_copy copy;
    int32_t status; /* OK (taken and published), NOT_VERIFIED, MISS */
};
struct kv_msg_spill_done {
    struct kv_msg_spilled *items;
    uint32_t nr_items;
};

struct kv_msg {
    uint32_t proto;
    uint32_t type;             /* enum kv_msg_type */
    uint64_t req;              /* pairs an answer with its request; 0 for none */
    uint64_t link;             /* 0 before HELLO_OK */
    uint64_t epoch; /* of the sender's view; looked at as docs/protocol.md says */
    uint32_t deadline_left_us; /* of the request; 0 for none; not looked at yet */
    union {
        struct kv_msg_hello hello;
        struct kv_msg_hello_ok hello_ok;
        struct kv_msg_status status;
        struct kv_msg_ping ping;
        struct kv_msg_pong pong;
        struct kv_msg_publish publish;
        struct kv_msg_published published;
        struct kv_msg_withdraw withdraw;
        struct kv_msg_sync_begin sync_begin;
        struct kv_msg_sync_end sync_end;
        struct kv_msg_sync_want sync_want;
        struct kv_msg_lookup lookup;
        struct kv_msg_found found;
        struct kv_msg_grant grant;
        struct kv_msg_granted granted;
        struct kv_msg_release release;
        struct kv_msg_ids revoke;
        struct kv_msg_ids revoked;
        struct kv_msg_data_open data_open;
        struct kv_msg_read read;
        struct kv_msg_data data;
        struct kv_msg_spill_offer spill_offer;
        struct kv_msg_spill_answer spill_answer;
        struct kv_msg_spill_done spill_done;
    } u;
};

#endif
