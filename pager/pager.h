/* The pager: which copy lies in which frame, who holds it, and what leaves when room is
 * short. It decides about frames and never touches a byte: bytes move by the orders
 * that it gives out.
 *
 *   node/core ──calls──► pager ──► kvp_out: copy, zero and digest orders, listings,
 *                                  switch notices
 *   node/core ──kvp_order_done──► pager      (every order ends once)
 *
 * Threading: the loop thread alone; no call blocks; callbacks of kvp_out run inside the
 *   call that caused them and must not call back into the pager.
 * Ownership: all memory is taken in kvp_create(). A kvp_ref is a name, not a reference;
 *   references are what acquire, sequences and fills hold.
 * Time: kvp_now() sets the clock of the calls that follow; it never goes back.
 * Errors: a typed status; out-arguments are written only on success. A call with
 *   several pages does all or nothing unless it has one status a page.
 *   AGAIN      no frame at this moment (all in use, or the 1/8 rule); nothing changed
 *   TOO_LARGE  more than the tenant's pools of that tier will ever hold
 *   QUOTA      the tenant's ceiling in that tier, and nothing of its own can leave (an
 *              arrival: or may, see kvp_arrival.may_drop)
 *   STALE      a handle whose generation moved on
 * Invariants: pager/frame.h (1) to (10); kvp_check() walks them all.
 */
#ifndef KVP_PAGER_H
#define KVP_PAGER_H

#include "base/miss.h"
#include "base/msg.h"
#include "pager/evict.h"
#include "pager/frame.h"

enum kvp_tier { KVP_DEVICE = 0, KVP_HOST = 1, KVP_NR_TIERS };

enum {
    KVP_ALIGN = 256, /* of a copy in its arena, and of frame_bytes */
    KVP_POOLS_MAX = 32,
    KVP_TENANTS_MAX = 64,
    KVP_VARIANTS_MAX = 256,
    KVP_LIMBO_DIVISOR = 8,    /* the 1/8 rule */
    KVP_LIMBO_MIN = 8,        /* … never under 8 frames */
    KVP_FREE_TARGET_MIN = 16, /* frames kept free, in a pool of 128 or more */
    KVP_SPILL_MARGIN_US = 100000, /* a spill takes room from copies older by this */
    KVP_SEQ_LEAF_PAGES = 256, /* pages of one second-level table */
    KVP_SEQ_LEAVES_MAX = 256, /* … so a sequence has at most 65,536 pages */
    KVP_PEERS_MAX = 1024,     /* a `peer` is below: a place in the view, not an id */
};
#define KVP_OWN UINT32_MAX /* `peer` of work that is our own */

/* ------------------------------------------------------------------ configuration */

/* Frames of one size, of one domain, in one tier: cut into arenas by node/. */
struct kvp_pool_config {
    enum kvp_tier tier;
    uint32_t domain;      /* 0 is the common one */
    uint32_t frame_bytes; /* a multiple of KVP_ALIGN */
    uint32_t nr_frames;   /* > 0 */
};

struct kvp_tenant_config {
    uint32_t id;     /* as on the wire; unique */
    uint32_t domain; /* must have pools; one pool a (tier, domain, frame_bytes) */
    uint32_t ceiling[KVP_NR_TIERS]; /* frames; 0 is no ceiling */
};

/* One (space's group, layout, shard): what the numbers of a copy look like. */
struct kvp_variant_config {
    uint32_t layout;
    uint16_t group;
    uint16_t shard;
    uint32_t page_tokens;
    uint32_t page_bytes; /* of a full page; of a tail, see kvp_copy_len */
};

enum kvp_verify { KVP_VERIFY_OFF, KVP_VERIFY_SAMPLE, KVP_VERIFY_ALWAYS };

struct kvp_config {
    struct kvp_pool_config pools[KVP_POOLS_MAX];
    uint32_t nr_pools;
    struct kvp_tenant_config tenants[KVP_TENANTS_MAX];
    uint32_t nr_tenants;
    struct kvp_variant_config variants[KVP_VARIANTS_MAX];
    uint32_t nr_variants;
    const struct kvp_evict_ops *evict; /* kvp_evict_lru */
    enum kvp_verify verify_local;
    uint32_t verify_sample; /* one acquire in so many; > 0 for SAMPLE */
    uint32_t nr_sequences;  /* at once */
    uint32_t nr_leaves;     /* second-level tables of all sequences */
    uint32_t nr_retired;    /* references that wait for an engine's confirm */
    /* kvp_pressure aims at nr_frames / this free, at KVP_FREE_TARGET_MIN at least;
     * 0: at none. */
    uint32_t free_target_divisor;
    uint64_t seed; /* of the verification sample */
};

/* ------------------------------------------------------------------ what comes out */

enum kvp_order_kind {
    KVP_ORDER_DIGEST, /* of `dst`: seal, or a re-check */
    KVP_ORDER_COPY,   /* first `len` bytes of src to dst */
    KVP_ORDER_ZERO,   /* all of dst's frame: it last held another tenant's bytes */
};

/* Bytes to move or read inside this node. `id` comes back in kvp_order_done(). The
 * frames it names stay what they are until then. */
struct kvp_order {
    uint64_t id;
    enum kvp_order_kind kind;
    struct kvp_ref src; /* COPY */
    struct kvp_ref dst;
    uint32_t len;
};

struct kvp_seq_id {
    uint32_t index;
    uint32_t gen;
};

struct kvp_out {
    void *arg;
    void (*order)(void *arg, const struct kvp_order *order);
    /* The node has this copy from now on / no longer: publish, withdraw. `hold` names
     * the holding and never repeats; a move between tiers keeps it. `segment` is what
     * the copy was filed under. */
    void (*listed)(void *arg, struct kvp_ref ref, uint64_t hold);
    void (*unlisted)(
        void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold);
    /* The sequence's page now lies in `now`; `was` stays valid until the engine
     * confirms the table's new version. */
    void (*switched)(
        void *arg, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
        struct kvp_ref now);
    /* A re-check that acquires waited for has ended, told once for all of them: OK, or
     * NOT_VERIFIED (the copy is dropped; every reference that came with INPROGRESS is
     * taken back, the others stay with their holders). */
    void (*verified)(void *arg, struct kvp_ref ref, kv_status_t status);
    /* Digest known: the fill's page is SEALED at `now` (its own frame, or the equal
     * copy that was first), or the order failed. */
    void (*sealed)(
        void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status);
    /* The COPY of kvp_arrive_copy() has ended. */
    void (*copied)(
        void *arg, struct kvp_ref ref, kv_status_t status, uint64_t computed);
    /* (frame, gen) is FREE: nothing on any wire or disk may name it any more. */
    void (*freed)(void *arg, struct kvp_ref ref);
};

typedef struct kvp_pager kvp_pager_t;

/* KV_ERR_CONFIG (detail: field, limit, value) or NOMEM. */
kv_status_t kvp_create(
    const struct kvp_config *config, const struct kvp_out *out, kvp_pager_t **pager_p,
    struct kv_detail *detail);
void kvp_destroy(kvp_pager_t *pager); /* NULL is fine; orders still out are forgotten */

void kvp_now(kvp_pager_t *pager, uint64_t now_us);

/* Index of a tenant id or a variant in the config; UINT16_MAX when there is none. */
uint16_t kvp_tenant(const kvp_pager_t *pager, uint32_t id);
uint16_t
kvp_variant(const kvp_pager_t *pager, uint32_t layout, uint16_t group, uint16_t shard);
/* Bytes of a copy with n_tokens: page_bytes * n / page_tokens, rounded up to KVP_ALIGN
 * (a full page: page_bytes). */
uint32_t kvp_copy_len(const kvp_pager_t *pager, uint16_t variant, uint32_t n_tokens);

/* ------------------------------------------------------------------ reading */

/* Everything that is known of a frame. */
struct kvp_info {
    struct kv_copy copy;
    struct kvp_ref ref;
    enum kvp_tier tier;
    enum kvp_frame_state state;
    uint16_t tenant, variant;
    uint32_t n_tokens, len;
    uint64_t digest;
    uint64_t hold; /* 0 when it is not listed */
    uint64_t last_use_us;
    kv_key_t segment;
    uint32_t index;
    bool tail;
    kv_key_t prev;
    bool verifying;      /* a re-check of its bytes is out */
    bool spilled;        /* came by spill */
    bool cool;           /* a peer has read it, and nobody here has used it since */
    bool ready;          /* LEAVING, and nobody takes it: goes when room is needed */
    bool failed;         /* FILLING, and a ZERO or COPY into it failed: end it */
    uint32_t pool;       /* and where its bytes lie: */
    uint32_t pool_frame; /* frame number inside the pool */
    uint32_t refs, pins, grants, ios, fences;
    uint32_t twin;
};
/* STALE when gen has moved on. */
kv_status_t
kvp_info(const kvp_pager_t *pager, struct kvp_ref ref, struct kvp_info *info);

/* What reading a page asks for, of kvp_info(): that one fills 224 bytes, and was
 * a quarter of what an acquire through a node executed. STALE as there. */
struct kvp_glance {
    enum kvp_tier tier;
    uint32_t pool, pool_frame;
    uint32_t n_tokens, len;
    uint64_t digest;
    bool verifying;
};
kv_status_t
kvp_glance(const kvp_pager_t *pager, struct kvp_ref ref, struct kvp_glance *glance);

/* Where a frame's bytes lie, without the rest of its info. */
void kvp_where(
    const kvp_pager_t *pager, uint32_t frame, uint32_t *pool_p, uint32_t *pool_frame_p);

/* Looks the pages up without taking anything. refs[i].frame is KVP_NO_FRAME for a miss.
 * Prefers the device's copy. Returns how many were found. */
uint32_t kvp_lookup(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *keys,
    uint32_t n, struct kvp_ref *refs);

/* Takes one reference on each page that is here. statuses[i]: OK; INPROGRESS (reference
 * taken, the bytes are being re-checked: wait for `verified`, and give the reference
 * back or to a sequence only then); MISS. Returns how many references were taken.
 * Batches are probed together; n of 64 is a good size. */
uint32_t kvp_acquire(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *keys,
    uint32_t n, struct kvp_ref *refs, kv_status_t *statuses);
/* One more reference on a frame that is SEALED or LEAVING and not dropped; STALE
 * otherwise. */
kv_status_t kvp_retain(kvp_pager_t *pager, struct kvp_ref ref);
/* Gives references back, the last page first (tails first). Frames without references,
 * pins and grants become evictable. A stale ref is our bug: asserts. */
void kvp_release(kvp_pager_t *pager, const struct kvp_ref *refs, uint32_t n);
/* Gives back one reference that an acquire answered with INPROGRESS, before `verified`
 * has come for it: the caller waits no longer. */
void kvp_release_waiting(kvp_pager_t *pager, struct kvp_ref ref);

/* Evicted lately, or never seen? For the reason of a miss. */
enum kv_miss kvp_miss_reason(
    const kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *key);

/* Pinned copies never leave. Counted; STALE when the copy is not sealed any more. */
kv_status_t kvp_pin(kvp_pager_t *pager, struct kvp_ref ref);
void kvp_unpin(kvp_pager_t *pager, struct kvp_ref ref);

/* Takes the copy out of the index at once, in all tiers; frames follow when their last
 * holder ends. What is arriving under this name will end as a MISS. MISS when it was
 * not there; a page that is still SEALING is not there yet. */
kv_status_t
kvp_drop(kvp_pager_t *pager, uint16_t tenant, uint16_t variant, const kv_key_t *key);

/* ------------------------------------------------------------------ filling */

/* Where a page stands in its prefix; what the directory files it under. */
struct kvp_place {
    kv_key_t segment;
    uint32_t index;
    kv_key_t prev; /* used for tails only */
};

/* A frame that one put fills: FREE → FILLING. Counted against quota, never waits: with
 * none free the coldest evictable copy of the domain is dropped. The caller writes once
 * kvp_writable(). */
kv_status_t kvp_fill_begin(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, enum kvp_tier tier,
    uint32_t n_tokens, struct kvp_ref *ref_p);
/* SEALING: a digest order is out, `sealed` will tell. EXISTS (in any tier): *existing_p
 * has one reference for the caller, the fill has ended and its frame is free. AGAIN:
 * not kvp_writable() yet. IO: it never will be, abort it. A copy that is being
 * re-checked is no EXISTS; the new one takes its place. */
kv_status_t kvp_fill_seal(
    kvp_pager_t *pager, struct kvp_ref ref, const kv_key_t *key,
    const struct kvp_place *place, struct kvp_ref *existing_p);
/* Ends a fill before or while sealing. `fence`: something may still write (kvp_fence
 * ends it). */
void kvp_fill_abort(kvp_pager_t *pager, struct kvp_ref ref, bool fence);
/* After `sealed` with OK the filler holds one reference on `now`. */

/* FILLING, and no ZERO or COPY order into it, or COPY from it, is out. Sealing before
 * that is AGAIN. Stays false when such an order failed, see kvp_info. */
bool kvp_writable(const kvp_pager_t *pager, struct kvp_ref ref);

/* ------------------------------------------------------------------ sequences */

/* One request's page table for one variant. Pages that it shares are references; the
 * last, unsealed one is its own FILLING frame. */
kv_status_t kvp_seq_open(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, struct kvp_seq_id *seq_p);
/* Appends sealed full pages (then at most one tail) that the caller holds references
 * on; the sequence owns those references from now on. The sequence must end on a page
 * boundary. AGAIN while one of them is being re-checked. The frames may lie in any
 * tier: an engine whose kernels read the device alone fetches them there first. */
kv_status_t kvp_seq_adopt(
    kvp_pager_t *pager, struct kvp_seq_id seq, const struct kvp_ref *refs, uint32_t n);
/* Room for n_tokens more: new FILLING frames on the device (in host memory, if the
 * tenant's domain has no device pools), all or nothing. Appending
 * behind a sealed tail, or into a page that fork or truncate left shared, gives a new
 * frame and a COPY order of what is in it; the old reference is retired until
 * confirm. */
kv_status_t
kvp_seq_append(kvp_pager_t *pager, struct kvp_seq_id seq, uint32_t n_tokens);
/* Page `page` is complete (or, if it is the last, a tail). SEALING, or EXISTS: the
 * table now has the existing copy (see `switched`), the own frame is retired until
 * confirm. EXISTS needs a copy in the table's own tier; one in the other becomes a
 * twin. AGAIN and IO as kvp_fill_seal; AGAIN also when nothing more can be retired. If
 * a copy wins only later and nothing can be retired then, the sequence keeps its page
 * unlisted. */
kv_status_t kvp_seq_seal(
    kvp_pager_t *pager, struct kvp_seq_id seq, uint32_t page, const kv_key_t *key,
    const struct kvp_place *place);
/* A second sequence with the same content: sealed and sealing pages are shared, the
 * page being filled is copied (COPY order). All or nothing. */
kv_status_t
kvp_seq_fork(kvp_pager_t *pager, struct kvp_seq_id seq, struct kvp_seq_id *child_p);
/* Keeps the first n_tokens. Pages that fall off are retired until confirm. */
kv_status_t
kvp_seq_truncate(kvp_pager_t *pager, struct kvp_seq_id seq, uint32_t n_tokens);
/* The engine uses table `version` or a newer one: what older tables alone held goes. A
 * change makes the table's version one higher and retires what it took out under that
 * new number; confirm(v) ends all that is retired under numbers <= v. INVALID for a
 * version that the table has not reached. A retired page that was never sealed ends
 * with it; one that is SEALING is sealed all the same. */
kv_status_t
kvp_seq_confirm(kvp_pager_t *pager, struct kvp_seq_id seq, uint64_t version);
/* The sequence is over; the engine's queued work is too (else confirm later: with
 * `fence` the frames wait in place for kvp_seq_fenced). References go tails first. */
kv_status_t kvp_seq_end(kvp_pager_t *pager, struct kvp_seq_id seq, bool fence);
kv_status_t kvp_seq_fenced(kvp_pager_t *pager, struct kvp_seq_id seq);

struct kvp_seq_info {
    uint16_t tenant, variant;
    uint32_t nr_pages;
    uint32_t n_tokens;
    uint64_t version; /* of the table; grows with every change of a frame in it */
    uint32_t nr_retired;
    bool ending;
};
kv_status_t kvp_seq_info(
    const kvp_pager_t *pager, struct kvp_seq_id seq, struct kvp_seq_info *info);
/* Frames of pages first .. first + n - 1 into refs. */
kv_status_t kvp_seq_table(
    const kvp_pager_t *pager, struct kvp_seq_id seq, uint32_t first, uint32_t n,
    struct kvp_ref *refs);

/* ------------------------------------------------------------------ arrivals */

struct kvp_arrival {
    uint16_t tenant, variant;
    enum kvp_tier tier;
    kv_key_t key;
    uint32_t n_tokens;
    struct kvp_place place;
    uint32_t peer;        /* whose spill this is (< KVP_PEERS_MAX), or KVP_OWN */
    bool may_drop;        /* drop the coldest copy when no frame is free */
    bool keep_reserve;    /* leave half the free target to those that cannot wait */
    bool by_age;          /* may_drop only what was last used before last_use_us */
    uint64_t last_use_us; /* of the copy at its owner, on our clock */
};
/* FREE → ARRIVING, with one io for the mover. EXISTS: *ref_p names the frame of that
 * tier that is sealed or arriving already. AGAIN: no frame or the 1/8 rule. QUOTA: the
 * ceiling, and may_drop is false or nothing of the tenant's own gives way. */
kv_status_t kvp_arrive_begin(
    kvp_pager_t *pager, const struct kvp_arrival *arrival, struct kvp_ref *ref_p);

enum kvp_arrive_how {
    KVP_ARRIVE_USED, /* somebody waits for it: one reference goes to the caller */
    KVP_ARRIVE_AGED, /* a spill: takes its place by last_use_us, marked spilled */
    KVP_ARRIVE_TWIN, /* a demotion: takes its place by last_use_us */
};
/* The mover is done (the io ends). OK with equal digests → SEALED; equal copy sealed
 * here meanwhile: EXISTS, and *ref_p names it (with the reference, if USED). Anything
 * else → QUARANTINE and NOT_VERIFIED, or `status` itself, or MISS when kvp_drop() came
 * first. STALE when it is not ARRIVING. */
kv_status_t kvp_arrive_done(
    kvp_pager_t *pager, struct kvp_ref *ref_p, kv_status_t status, uint64_t expected,
    uint64_t computed, enum kvp_arrive_how how);
/* The bytes come from another tier of this node (a promotion): a COPY order from `src`,
 * SEALED or LEAVING, to `ref`, ARRIVING. When it ends `copied` tells the digest of what
 * landed, and the caller goes on with kvp_arrive_done. STALE when src is not readable.
 * The order has an io of its own on both frames: `copied` comes also for an arrival
 * that was abandoned, whose kvp_io_end() may come before or after. */
kv_status_t kvp_arrive_copy(kvp_pager_t *pager, struct kvp_ref ref, struct kvp_ref src);
/* The operation is given up while its mover may still write: → QUARANTINE, the io stays
 * until kvp_io_end(). */
void kvp_arrive_abandon(kvp_pager_t *pager, struct kvp_ref ref);

/* ------------------------------------------------------------------ leaving */

/* The pool that full pages of this variant go to in that tier; KVP_POOLS_MAX when there
 * is none. */
uint32_t kvp_pool_of(
    const kvp_pager_t *pager, uint16_t tenant, uint16_t variant, enum kvp_tier tier);
/* How many frames of `pool` should leave now: up to the free target and the 1/8
 * rule. */
uint32_t kvp_pressure(const kvp_pager_t *pager, uint32_t pool);
/* The pool's next victim: SEALED → LEAVING. Copies that another tier holds too are
 * dropped on the way, as long as kvp_pressure() asks for more; *dropped_p (always set)
 * says how many. AGAIN: nothing more needs to leave, nothing can, or the 1/8 rule.
 * *token_p names this leaving. */
kv_status_t kvp_leave_begin(
    kvp_pager_t *pager, uint32_t pool, struct kvp_ref *ref_p, uint32_t *token_p,
    uint32_t *dropped_p);
/* It was copied, taken or refused for good: LEAVING → QUARANTINE → FREE. STALE when it
 * was wanted again (or dropped) since: the copy stays. */
kv_status_t kvp_leave_done(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token);
/* Nobody else takes it: it stays LEAVING, and readable, until its frame is needed, by
 * the pool or under its tenant's ceiling; the oldest first, passing over those that a
 * peer still reads. So a reserve costs no hits. At most a quarter of limbo waits like
 * this: past it the copy is dropped. Once a leaving. */
kv_status_t kvp_leave_ready(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token);
/* Is it still this leaving? Not when it was wanted again, also if it leaves anew. */
bool kvp_leaves(const kvp_pager_t *pager, struct kvp_ref ref, uint32_t token);
/* Back to SEALED at the cold end (the destination had no room). STALE as above. */
kv_status_t kvp_leave_cancel(kvp_pager_t *pager, struct kvp_ref ref, uint32_t token);
/* A demotion: COPY order from the leaving frame to a new ARRIVING frame of `tier`, then
 * verified against its digest, sealed as its twin, and the leaving frame freed; all
 * inside the pager. With may_drop it takes room from copies last used before it.
 * EXISTS: that tier has it, the leaving frame is freed already. AGAIN as
 * kvp_arrive_begin. Wanted again meanwhile: both stay. A COPY that fails costs the
 * copy, if it still leaves. */
kv_status_t kvp_demote(
    kvp_pager_t *pager, struct kvp_ref ref, uint32_t token, enum kvp_tier tier,
    bool may_drop);
/* A peer has it now: first to go here. True when that changed its place. */
bool kvp_cool(kvp_pager_t *pager, struct kvp_ref ref);
/* A peer relies on it now: it takes its place as if last used at last_use_us, unless it
 * was used later. */
void kvp_warm(kvp_pager_t *pager, struct kvp_ref ref, uint64_t last_use_us);
/* How far back the pool's memory reaches: the last use of its coldest idle copy, now
 * when it has none. What goes before that because it is wanted least does not count. 0
 * while more is free than kvp_pressure() aims at. */
uint64_t kvp_reach_us(kvp_pager_t *pager, uint32_t pool);

/* ------------------------------------------------------------------ others' hands */

/* A peer may read the frame one-sidedly / may no longer, proved. STALE unless it is to
 * be found (SEALED, or LEAVING, which goes on). AGAIN: the 1/8 rule for that peer or
 * for all. A granted frame counts even while references keep it too, because nobody
 * could refuse it once they end; a peer's share counts its grants and its arrivals. */
kv_status_t kvp_grant(kvp_pager_t *pager, struct kvp_ref ref, uint32_t peer);
void kvp_ungrant(kvp_pager_t *pager, struct kvp_ref ref, uint32_t peer);
/* A transport sends or receives these bytes. Begin: STALE unless SEALED or LEAVING. */
kv_status_t kvp_io_begin(kvp_pager_t *pager, struct kvp_ref ref);
void kvp_io_end(kvp_pager_t *pager, struct kvp_ref ref);
/* One thing less that might still write the frame (a client's death, an event). */
void kvp_fence_end(kvp_pager_t *pager, struct kvp_ref ref);

/* An order has ended. `computed` is the digest of DIGEST's bytes, or of what COPY
 * landed. KV_ERR_STALE for an id that is not out (counted, ignored). */
kv_status_t
kvp_order_done(kvp_pager_t *pager, uint64_t id, kv_status_t status, uint64_t computed);

/* ------------------------------------------------------------------ looking in */

struct kvp_pool_stats {
    uint32_t nr_frames;
    uint32_t in_state[KVP_NR_STATES];
    uint32_t idle;  /* sealed, and nothing keeps them: they go when room is needed */
    uint32_t ready; /* leaving, nobody takes them, nobody reads them: as good as free */
    uint32_t limbo; /* leaving, arriving, quarantine, kept only by grants; the rule also
                     * counts what is granted and referenced */
    uint32_t limbo_max;
};
void kvp_pool_stats(
    const kvp_pager_t *pager, uint32_t pool, struct kvp_pool_stats *stats);
uint32_t kvp_used(const kvp_pager_t *pager, uint16_t tenant, enum kvp_tier tier);
uint32_t kvp_nr_frames(const kvp_pager_t *pager); /* of all pools */
/* The n-th frame whatever its state, for walks (sync, checkers). */
void kvp_frame_at(const kvp_pager_t *pager, uint32_t frame, struct kvp_info *info);
uint64_t kvp_orders_out(const kvp_pager_t *pager);

#define KVP_METRICS(X)                                                                 \
    X(COUNTER, hits_device, "kvrail_pager_hits_device_total",                          \
      "pages acquired on the device")                                                  \
    X(COUNTER, hits_host, "kvrail_pager_hits_host_total",                              \
      "pages acquired in host memory")                                                 \
    X(COUNTER, misses, "kvrail_pager_misses_total", "pages looked for and not here")   \
    X(COUNTER, sealed, "kvrail_pager_sealed_total", "copies sealed")                   \
    X(COUNTER, dedup, "kvrail_pager_dedup_total", "seals that found an equal copy")    \
    X(COUNTER, evicted, "kvrail_pager_evicted_total", "copies dropped for room")       \
    X(COUNTER, demoted, "kvrail_pager_demoted_total", "copies moved down a tier")      \
    X(COUNTER, wanted_again, "kvrail_pager_wanted_again_total", "evictions cancelled") \
    X(COUNTER, verified, "kvrail_pager_verified_total", "re-checks that passed")       \
    X(COUNTER, verify_failed, "kvrail_pager_verify_failed_total",                      \
      "copies dropped because their bytes had changed")                                \
    X(COUNTER, zeroed, "kvrail_pager_zeroed_total", "frames zeroed between tenants")   \
    X(COUNTER, again, "kvrail_pager_again_total", "calls that found no room")          \
    X(COUNTER, quota, "kvrail_pager_quota_total", "calls that met a ceiling")          \
    X(COUNTER, stale_orders, "kvrail_pager_stale_orders_total",                        \
      "orders that ended twice")

struct kvp_metrics {
#define X(kind, field, name, help) uint64_t field;
    KVP_METRICS(X)
#undef X
    uint64_t edges[KVP_NR_STATES][KVP_NR_STATES];
};
const struct kvp_metrics *kvp_metrics(const kvp_pager_t *pager);

/* Walks everything and asserts every invariant: O(frames + sequences). */
void kvp_check(const kvp_pager_t *pager);
/* The O(1) part, after any call. */
void kvp_check_quick(const kvp_pager_t *pager);

#endif
