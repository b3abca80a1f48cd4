/* What the files of pager/ share and nobody else sees.
 *
 *   read fill sequence arrive leave hands ──► order, publish ──► tier, quota ──► frame
 *                                                   └──► index, ghost, evict policy
 *
 * A frame's counts change only through the helpers below, because three sums follow
 * them in O(1): what is idle, what sits in limbo, what would sit there (kvp_class).
 *
 * Threading: the loop thread. Ownership: struct kvp_pager owns every array here.
 */
#ifndef KVP_PAGER_PRIV_H
#define KVP_PAGER_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "pager/ghost.h"
#include "pager/index.h"
#include "pager/pager.h"

#define KVP_NO_SEQ UINT32_MAX
#define KVP_NO_LEAF UINT32_MAX
#define KVP_NO_RETIRED UINT32_MAX
#define KVP_BYTES_NOBODYS UINT16_MAX     /* as the system gave it: zero */
#define KVP_BYTES_MIXED (UINT16_MAX - 1) /* of more than one tenant */

enum {
    KVP_BATCH = 64
}; /* pages probed together; what fits the line-fill buffers' queue */

/* What the one order into a frame is for. */
enum kvp_work {
    KVP_WORK_NONE,
    KVP_WORK_SEAL,    /* DIGEST of a page that is being sealed */
    KVP_WORK_RECHECK, /* DIGEST of a sealed page */
    KVP_WORK_ZERO,
    KVP_WORK_PAGE,   /* COPY of a page's first tokens, for fork and append */
    KVP_WORK_ARRIVE, /* COPY for kvp_arrive_copy() */
    KVP_WORK_DEMOTE, /* COPY for kvp_demote() */
};

/* The part of a frame that a look-up does not touch. */
struct kvp_frame_cold {
    kv_key_t segment;
    kv_key_t prev;
    uint64_t digest;
    uint64_t hold; /* both frames of a pair have the same */
    uint64_t last_use_us;
    uint32_t index; /* of the page in its segment */
    uint32_t len;
    uint32_t n_tokens;
    uint32_t next_free;
    uint32_t leave_token; /* of this LEAVING */
    uint32_t waiters;     /* references that acquire gave with INPROGRESS */
    uint32_t peer;        /* whose arrival this is until it is sealed or free */
    uint32_t seq;         /* whose page, FILLING or SEALING; KVP_NO_SEQ: a put's */
    uint32_t page;
    uint32_t copy_src; /* of the COPY that is out, or that follows a ZERO */
    uint32_t copy_len;
    uint32_t copy_token; /* of the source's LEAVING */
    uint32_t order_gen;  /* id of the order: order_gen << 32 | frame */
    uint16_t bytes_of;   /* tenant whose bytes lie here, also when it is FREE */
    uint8_t work;        /* enum kvp_work: the order that is out */
    bool first;          /* in the policy's FIRST lane */
    bool cool;           /* a peer has read it, and nobody here has used it since */
    bool ready;          /* LEAVING, and refused: goes when its frame is needed */
    uint32_t next_ready; /* of those, in the order they go */
};

/* What a frame counts as. */
enum kvp_class {
    KVP_CLASS_NONE,
    KVP_CLASS_IDLE,  /* SEALED, and nothing keeps it: may be dropped */
    KVP_CLASS_SOON,  /* referenced and granted: in limbo when the references end */
    KVP_CLASS_LIMBO, /* what the 1/8 rule bounds */
    KVP_NR_CLASSES,
};

struct kvp_pool {
    struct kvp_pool_config config;
    uint32_t base; /* its first frame */
    uint32_t free_head;
    uint32_t in_state[KVP_NR_STATES];
    uint32_t in_class[KVP_NR_CLASSES]; /* NONE is not kept */
    uint32_t idle_of[KVP_TENANTS_MAX];
    uint32_t limbo_max;
    uint32_t nr_ready, ready_head, ready_tail; /* LEAVING frames that just wait to go */
    uint32_t *of_peer; /* [KVP_PEERS_MAX] arrivals and grants */
    void *evict;
};

/* One (tier, domain): its pools by growing frame_bytes. */
struct kvp_shelf {
    uint8_t pools[KVP_POOLS_MAX];
    uint32_t nr_pools;
};

struct kvp_seq {
    uint32_t gen;
    uint32_t next_free;
    bool open;
    bool ending;
    uint16_t tenant, variant;
    uint32_t nr_pages;
    uint32_t n_tokens;
    uint64_t version;
    uint32_t retired_head, retired_tail, nr_retired;
    uint32_t leaves[KVP_SEQ_LEAVES_MAX];
};

struct kvp_leaf {
    uint32_t frames[KVP_SEQ_LEAF_PAGES];
};

/* A reference that tables older than `version` alone hold. */
struct kvp_retired {
    uint64_t version;
    uint32_t frame;
    uint32_t next;
};

struct kvp_pager {
    /* the hot path */
    struct kvp_frame *frames;
    struct kvp_index index;
    struct kvp_pool pools[KVP_POOLS_MAX];
    uint64_t salt[2]; /* of the index's hash */
    uint64_t now_us;
    uint64_t verify_left; /* acquires until the next re-check of the sample */

    struct kvp_frame_cold *cold;
    struct kvp_index arriving[KVP_NR_TIERS];
    struct kvp_ghost ghost;
    struct kvp_shelf shelves[KVP_TENANTS_MAX][KVP_NR_TIERS];
    uint32_t used[KVP_TENANTS_MAX][KVP_NR_TIERS];
    uint32_t nr_frames;

    struct kvp_seq *seqs;
    struct kvp_leaf *leaves;
    uint32_t *leaf_next;
    struct kvp_retired *retired;
    uint32_t seq_free, leaf_free, retired_free;
    uint32_t nr_leaves_free, nr_retired_free, nr_seqs_open;

    struct kv_rng rng;
    uint64_t next_hold;
    uint32_t next_token;
    uint64_t nr_orders;
    uint32_t *scratch; /* kvp_check: references that the pager itself holds */
    struct kvp_metrics metrics;
    struct kvp_config config;
    struct kvp_out out;
};

/* ------------------------------------------------------------------ frame.c */

static inline enum kvp_class kvp_frame_class(const struct kvp_frame *f)
{
    switch (f->state) {
    case KVP_SEALED:
        if ((f->refs | f->pins) != 0) {
            return f->grants != 0 ? KVP_CLASS_SOON : KVP_CLASS_NONE;
        }
        if (f->grants != 0) {
            return KVP_CLASS_LIMBO;
        }
        return (f->ios | f->fences) == 0 ? KVP_CLASS_IDLE : KVP_CLASS_NONE;
    case KVP_LEAVING:
    case KVP_ARRIVING:
    case KVP_QUARANTINE:
        return KVP_CLASS_LIMBO;
    default:
        return KVP_CLASS_NONE;
    }
}

/* The sums follow a frame that was of class `was`. */
static inline void
kvp_account(struct kvp_pager *p, const struct kvp_frame *f, enum kvp_class was)
{
    const enum kvp_class is = kvp_frame_class(f);
    struct kvp_pool *pool = &p->pools[f->pool];

    if (was == is) {
        return;
    }
    if (was != KVP_CLASS_NONE) {
        pool->in_class[was]--;
        pool->idle_of[f->tenant] -= (was == KVP_CLASS_IDLE);
    }
    if (is != KVP_CLASS_NONE) {
        pool->in_class[is]++;
        pool->idle_of[f->tenant] += (is == KVP_CLASS_IDLE);
    }
}

/* So many of the tenant's idle frames got their first reference. */
static inline void kvp_idle_drop(struct kvp_pool *pool, uint16_t tenant, uint32_t nr)
{
    KV_ASSERT(nr <= pool->idle_of[tenant]);
    pool->in_class[KVP_CLASS_IDLE] -= nr;
    pool->idle_of[tenant] -= nr;
}

static inline void kvp_ref_take(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    const enum kvp_class was = kvp_frame_class(f);

    f->refs++;
    KV_ASSERT(f->refs != 0);
    kvp_account(p, f, was);
}

static inline void kvp_ref_drop(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->refs > 0);
    f->refs--;
    kvp_account(p, f, was);
}

static inline void kvp_io_take(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->ios < UINT16_MAX);
    f->ios++;
    kvp_account(p, f, was);
}

static inline void kvp_io_drop(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(f->ios > 0);
    f->ios--;
    kvp_account(p, f, was);
}

bool kvp_edge_allowed(unsigned from, unsigned to);
void kvp_frame_move(struct kvp_pager *p, uint32_t i, enum kvp_frame_state next);
/* (1) to (7), as far as one frame tells. */
void kvp_frame_check(const struct kvp_pager *p, uint32_t i);
/* After anything ended: leaves SEALED, SEALING and QUARANTINE when nothing is left. */
void kvp_settle(struct kvp_pager *p, uint32_t i);
/* The same after a use: the frame takes the hot end of its policy. */
void kvp_settle_used(struct kvp_pager *p, uint32_t i);
/* FILLING, SEALING or ARRIVING ends without a copy; LEAVING and SEALED once they are
 * unpublished. References end here. */
void kvp_frame_quarantine(struct kvp_pager *p, uint32_t i);

static inline struct kvp_ref kvp_ref_of(const struct kvp_pager *p, uint32_t i)
{
    return (struct kvp_ref){.frame = i, .gen = p->frames[i].gen};
}

static inline bool kvp_ref_valid(const struct kvp_pager *p, struct kvp_ref ref)
{
    return ref.frame < p->nr_frames && p->frames[ref.frame].gen == ref.gen
           && p->frames[ref.frame].state != KVP_FREE;
}

static inline enum kvp_tier kvp_tier_of(const struct kvp_pager *p, uint32_t i)
{
    return p->pools[p->frames[i].pool].config.tier;
}

static inline bool kvp_in_policy(const struct kvp_frame *f)
{
    return f->state == KVP_SEALED && (f->flags & KVP_F_INDEXED) != 0;
}

/* ------------------------------------------------------------------ tier.c, quota.c */

/* Smallest frames of the tenant's shelf that hold len bytes; NULL: none ever will. */
struct kvp_pool *
kvp_pool_fit(struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t len);
/* Makes n frames of *pool_p free for the tenant, dropping what must go; on failure
 * nothing has changed, but that ready frames may have gone. */
kv_status_t kvp_room(
    struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t len, uint32_t n,
    struct kvp_pool **pool_p);
/* May a page just sealed or landed go over to this equal copy? Counts as an acquire
 * of it for verify_local: one that is, or is now drawn to be, re-checked is not
 * taken, and the new copy, whose bytes have just been digested, replaces it. */
bool kvp_sound(struct kvp_pager *p, uint32_t i);
/* Ready frames of the tenant (or KVP_ANY_TENANT) that would be free at once: the first
 * to go, or KVP_NO_FRAME, and how many. A walk of at most limbo_max / 4. */
uint32_t kvp_ready_first(
    const struct kvp_pager *p, const struct kvp_pool *pool, uint16_t tenant);
uint32_t
kvp_ready_nr(const struct kvp_pager *p, const struct kvp_pool *pool, uint16_t tenant);
/* Drops the first of any tenant's; false when there is none. */
bool kvp_ready_drop(struct kvp_pager *p, struct kvp_pool *pool);
/* Takes a frame that is wanted again, or dropped, off that list. */
void kvp_ready_remove(struct kvp_pager *p, uint32_t i);
/* Free frames that kvp_pressure() aims at. */
uint32_t kvp_free_target(const struct kvp_pager *p, const struct kvp_pool *pool);
/* One frame for an arrival, by its rules about dropping. */
kv_status_t kvp_room_arrival(
    struct kvp_pager *p, const struct kvp_arrival *arrival, uint32_t len,
    struct kvp_pool **pool_p);
/* A free frame of the pool as FILLING (one reference) or ARRIVING (one io). */
uint32_t kvp_frame_alloc(
    struct kvp_pager *p, struct kvp_pool *pool, uint16_t tenant, uint16_t variant,
    enum kvp_frame_state state);
void kvp_frame_free(struct kvp_pager *p, uint32_t i);
/* The policy's choice among the idle, or KVP_NO_FRAME. */
uint32_t kvp_victim(struct kvp_pager *p, struct kvp_pool *pool, uint16_t tenant);
/* 0 for what is wanted least or just waits to go, else the last use. */
uint64_t kvp_victim_age(const struct kvp_pager *p, uint32_t i);
bool kvp_limbo_room(const struct kvp_pool *pool, uint32_t peer);

/* How many frames too many n more would be. */
uint32_t kvp_quota_over(
    const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t n);
/* Could n frames ever be within the ceiling? */
bool kvp_quota_ever(
    const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, uint32_t n);
/* The tenant's own frames in that tier that can go at once: idle, or ready. */
uint32_t kvp_quota_idle(const struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier);
/* The next of them, in `pool` if it has any there; what is ready goes first. */
uint32_t kvp_quota_victim(
    struct kvp_pager *p, uint16_t tenant, enum kvp_tier tier, struct kvp_pool *pool);

/* ------------------------------------------------------------------ publish.c */

uint32_t kvp_find(
    const struct kvp_pager *p, uint16_t tenant, uint16_t variant, const kv_key_t *key);
/* The frame of the pair (head and its twin) that lies in `tier`, or KVP_NO_FRAME. */
uint32_t kvp_in_tier(const struct kvp_pager *p, uint32_t head, enum kvp_tier tier);
/* SEALED frame i is to be found from now on; listed, or the twin of what is. */
void kvp_publish(struct kvp_pager *p, uint32_t i, enum kvp_evict_where where);
/* Takes i out of the index and the policy; its twin, if any, stays. */
void kvp_unpublish(struct kvp_pager *p, uint32_t i, bool evicted);
/* Unpublishes; the frame follows when nobody holds it. */
void kvp_drop_frame(struct kvp_pager *p, uint32_t i, bool evicted);
/* LEAVING → SEALED. */
void kvp_wanted_again(struct kvp_pager *p, uint32_t i);
/* One reference on an indexed frame; cancels its leaving. */
void kvp_want(struct kvp_pager *p, uint32_t i);
void kvp_policy_first(struct kvp_pager *p, uint32_t i);
void kvp_policy_insert(
    struct kvp_pager *p, uint32_t i, enum kvp_evict_where where, uint64_t stamp_us);
void kvp_policy_remove(struct kvp_pager *p, uint32_t i);
void kvp_copy_name(const struct kvp_pager *p, uint32_t i, struct kv_copy *copy);

/* ------------------------------------------------------------------ order.c */

/* One order into `dst` may be out at a time. `src` is KVP_NO_FRAME unless it copies. */
void kvp_order_give(
    struct kvp_pager *p, uint32_t dst, enum kvp_work work, uint32_t src, uint32_t len);
/* A new page's first bytes: zero if the frame held another tenant's, then (src) a copy
 * of len bytes. */
void kvp_prepare(struct kvp_pager *p, uint32_t i, uint32_t src, uint32_t len);

/* ------------------------------------------------------------------ callers' ends */

/* fill.c */
void kvp_seal_begin(
    struct kvp_pager *p, uint32_t i, const kv_key_t *key, const struct kvp_place *place,
    uint32_t n_tokens);
void kvp_seal_done(
    struct kvp_pager *p, uint32_t i, kv_status_t status, uint64_t computed);
/* read.c */
/* A DIGEST order of a sealed, indexed frame, unless one is out. */
void kvp_recheck_start(struct kvp_pager *p, uint32_t i);
void kvp_recheck_done(
    struct kvp_pager *p, uint32_t i, kv_status_t status, uint64_t computed);
void kvp_verify_draw(struct kvp_pager *p);
/* leave.c */
void kvp_demote_done(
    struct kvp_pager *p, uint32_t dst, uint32_t src, kv_status_t status,
    uint64_t computed);
/* arrive.c */
kv_status_t
kvp_arrive_start(struct kvp_pager *p, const struct kvp_arrival *arrival, uint32_t *i_p);
/* ARRIVING → QUARANTINE. */
void kvp_arrive_fail(struct kvp_pager *p, uint32_t i);
/* ARRIVING → SEALED, published, in its place. */
void kvp_arrive_seal(
    struct kvp_pager *p, uint32_t i, uint64_t digest, enum kvp_arrive_how how);

/* sequence.c */
bool kvp_seq_find(
    const struct kvp_pager *p, struct kvp_seq_id id, struct kvp_seq **seq_p);
struct kvp_seq_id kvp_seq_id_of(const struct kvp_pager *p, const struct kvp_seq *seq);
uint32_t
kvp_seq_get(const struct kvp_pager *p, const struct kvp_seq *seq, uint32_t page);
void kvp_seq_put(
    struct kvp_pager *p, struct kvp_seq *seq, uint32_t page, uint32_t frame);
/* Leaves for nr_pages in all; false: none left, nothing changed. */
bool kvp_seq_reach(struct kvp_pager *p, struct kvp_seq *seq, uint32_t nr_pages);
void kvp_seq_shrink(struct kvp_pager *p, struct kvp_seq *seq, uint32_t nr_pages);
enum kvp_tier kvp_seq_tier(const struct kvp_pager *p, uint16_t tenant);
/* The reference moves to the list of what older tables than `version` held. */
void kvp_retire(
    struct kvp_pager *p, struct kvp_seq *seq, uint32_t frame, uint64_t version);
/* A sequence's reference ends: an unsealed page of its own ends with it. */
void kvp_seq_ref_end(struct kvp_pager *p, uint32_t frame);
/* fill.c: every table that holds the lost frame goes over to `now`. */
void kvp_seq_switch(struct kvp_pager *p, uint32_t was, uint32_t now);

static inline uint32_t kvp_pages_of(uint32_t n_tokens, uint32_t page_tokens)
{
    return n_tokens / page_tokens + (n_tokens % page_tokens != 0);
}

static inline uint32_t kvp_leaves_of(uint32_t nr_pages)
{
    return kvp_pages_of(nr_pages, KVP_SEQ_LEAF_PAGES);
}

#endif
