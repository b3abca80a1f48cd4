/* The view: who belongs to the cluster, with which weight, at which epoch; and each
 * node's own opinion of who is alive.
 *
 *   config (static) or etcd ──► kvc_view ──► placement, directory, HELLO
 *   messages heard          ──► kvc_liveness ──► node/core
 *
 * Threading: a view is immutable once built; liveness belongs to the loop thread.
 * Ownership: both are plain structs of the caller.
 * Order: members are sorted by id, so an index names the same member on every node that
 * has the same view. Liveness moves no epoch and re-homes nothing.
 */
#ifndef KVC_VIEW_H
#define KVC_VIEW_H

#include "base/status.h"

enum {
    KVC_NODES_MAX = 1024,
    KVC_WEIGHT_MAX = 1 << 16,
};
#define KVC_NO_NODE UINT32_MAX

struct kvc_member {
    uint32_t id;
    uint32_t weight; /* 1 .. KVC_WEIGHT_MAX; shares are in proportion */
    uint64_t hash;   /* of the id, for placement; filled in by kvc_view_build */
};

struct kvc_view {
    uint64_t epoch;
    uint64_t digest; /* of members and weights, equal on all nodes of one view */
    uint32_t nr;
    bool equal_weights;
    struct kvc_member members[KVC_NODES_MAX];
};

/* Sorts, checks and seals the view. KV_ERR_CONFIG: "view.nodes" (none, or more than
 * KVC_NODES_MAX), "node.weight" (0 or too large), "node.id" (twice). */
kv_status_t kvc_view_build(
    struct kvc_view *view, uint64_t epoch, const struct kvc_member *members,
    uint32_t nr, struct kv_detail *detail);

/* Index of a node id, or KVC_NO_NODE. O(log n). */
uint32_t kvc_view_index(const struct kvc_view *view, uint32_t id);

/* ------------------------------------------------------------------ liveness
 *
 *      heard                 silent for suspect_us          silent for lost_us
 *   ALIVE ◄──────────────── SUSPECT ◄──────────── ALIVE      SUSPECT ──────► LOST
 *
 * ALIVE becomes LOST at once when nobody asked in between. LOST is left only by
 * kvc_liveness_reset(), when a new link is up. */
enum kvc_life { KVC_ALIVE, KVC_SUSPECT, KVC_LOST };

struct kvc_liveness_config {
    uint64_t heartbeat_us; /* 250 ms */
    uint64_t suspect_us;   /* 1 s */
    uint64_t lost_us;      /* 3 s */
};

struct kvc_liveness {
    uint64_t heard_us;
    enum kvc_life life;
};

/* KV_ERR_CONFIG unless 0 < heartbeat < suspect < lost ("liveness.…"). */
kv_status_t kvc_liveness_check(
    const struct kvc_liveness_config *config, struct kv_detail *detail);
void kvc_liveness_reset(struct kvc_liveness *liveness, uint64_t now_us);
void kvc_liveness_heard(struct kvc_liveness *liveness, uint64_t now_us);
/* The opinion at now_us; true when it changed. */
bool kvc_liveness_tick(
    struct kvc_liveness *liveness, const struct kvc_liveness_config *config,
    uint64_t now_us);

#endif
