/* The life of a frame: one slot of a tier, named (tier, index, generation).
 *
 *          frame_fill         frame_seal           frame_sealed        frame_leave
 *   FREE ─────────────► FILLING ───────► SEALING ──────────────► SEALED ──────► LEAVING
 *    │ ▲                   │ abort          │ abort, dedup        │ │ ▲  wanted    │ │
 *    │ │                   ▼                ▼                     │ │ └────────────┘ │
 *    │ └── drained ── QUARANTINE ◄──────────┴───── drop ──────────┘ │   left         │
 *    │                     ▲  ▲                                     │                │
 *    │ frame_arrive        │  └─────────────────────────────────────┼────────────────┘
 *    └──────────────► ARRIVING ── digest equal ─────────────────────┘
 *
 *  FREE        (1) refs, pins, grants, ios and fences are 0; it is on its pool's free
 *                  list, in no index and no policy.
 *  FILLING     (2) one writer: the sequence or the put that allocated it. In no index.
 *  SEALING     (3) no writer; a digest order is out, or this copy lost to an equal one
 *                  and waits for its engine to confirm the switch. In no index.
 *  SEALED      (4) the bytes are immutable and their digest is known. Indexed, unless
 *                  dropped or purged while somebody still reads it.
 *  LEAVING     (5) refs == 0, pins == 0; the bytes are still valid and indexed, so an
 *                  acquire cancels the eviction instead of waiting for it.
 *  ARRIVING    (6) a mover writes it; in no index.
 *  QUARANTINE  (7) in no index, nobody new may read; left only when refs, pins, grants,
 *                  ios and fences are all 0.
 *  always      (8) gen grows on every entry to FREE, so that (frame, gen) never names
 *                  two different contents.
 *              (9) a frame with refs, pins or grants is never LEAVING's end: it does
 *                  not become FREE, whatever the clock says.
 *             (10) per pool: free + filling + sealing + sealed + leaving + arriving +
 *                  quarantine == nr_frames.
 *
 * Threading: the loop thread alone. Private to pager/ but for the types below.
 */
#ifndef KVP_FRAME_H
#define KVP_FRAME_H

#include "base/key.h"

/* X(symbol, name) */
#define KVP_FRAME_STATES(X)                                                            \
    X(KVP_FREE, "free")                                                                \
    X(KVP_FILLING, "filling")                                                          \
    X(KVP_SEALING, "sealing")                                                          \
    X(KVP_SEALED, "sealed")                                                            \
    X(KVP_LEAVING, "leaving")                                                          \
    X(KVP_ARRIVING, "arriving")                                                        \
    X(KVP_QUARANTINE, "quarantine")

enum kvp_frame_state {
#define X(symbol, name) symbol,
    KVP_FRAME_STATES(X)
#undef X
        KVP_NR_STATES
};

/* Every edge that frame_move() allows: X(from, to). Counted, so that a simulation can
 * show that each was walked. */
#define KVP_FRAME_EDGES(X)                                                             \
    X(KVP_FREE, KVP_FILLING)                                                           \
    X(KVP_FREE, KVP_ARRIVING)                                                          \
    X(KVP_FILLING, KVP_SEALING)                                                        \
    X(KVP_FILLING, KVP_QUARANTINE)                                                     \
    X(KVP_SEALING, KVP_SEALED)                                                         \
    X(KVP_SEALING, KVP_QUARANTINE)                                                     \
    X(KVP_SEALED, KVP_LEAVING)                                                         \
    X(KVP_SEALED, KVP_QUARANTINE)                                                      \
    X(KVP_LEAVING, KVP_SEALED)                                                         \
    X(KVP_LEAVING, KVP_QUARANTINE)                                                     \
    X(KVP_ARRIVING, KVP_SEALED)                                                        \
    X(KVP_ARRIVING, KVP_QUARANTINE)                                                    \
    X(KVP_QUARANTINE, KVP_FREE)

#define KVP_NO_FRAME UINT32_MAX

/* A frame as it was at one moment: every handle that crosses a call or a wire. */
struct kvp_ref {
    uint32_t frame; /* index over all pools of the node */
    uint64_t gen;
};

enum kvp_frame_flag {
    KVP_F_INDEXED = 1,   /* the index leads here */
    KVP_F_SPILLED = 2,   /* came by a peer's spill: is not spilled on */
    KVP_F_TAIL = 4,      /* n_tokens < page_tokens */
    KVP_F_VERIFYING = 8, /* a re-check of its bytes is out */
    KVP_F_LOST = 16,     /* will never be indexed: an equal copy was sealed first, its
                          * digest failed, or it was dropped while it arrived */
    KVP_F_PARKED = 32,   /* the policy offers it again only after a touch */
    KVP_F_FAILED = 64,   /* FILLING: a ZERO or COPY into it failed; can only be ended */
};

/* What a lookup touches: one cache line. The rest is struct kvp_frame_cold. */
struct kvp_frame {
    kv_key_t key;
    uint64_t gen;
    uint32_t refs;    /* readers and sequences */
    uint32_t twin;    /* the same copy in the other tier, or KVP_NO_FRAME */
    uint16_t tenant;  /* index in the config */
    uint16_t variant; /* index in the config */
    uint16_t grants;  /* of peers */
    uint16_t pins;
    uint16_t ios;    /* orders in flight that touch the bytes */
    uint16_t fences; /* engine events and client deaths that must come first */
    uint8_t state;
    uint8_t flags;
    uint8_t pool;
    uint8_t spare;
};
_Static_assert(sizeof(struct kvp_frame) == 64, "one line per frame on the hot path");

const char *kvp_state_name(unsigned state);

#endif
