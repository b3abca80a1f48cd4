/* Frames for what is new on this node: pages of appends and of puts.
 *
 *   want ──► growing: node->wanted[pool] ──► the coldest leaves in order (spill.c)
 *              │ frames are free, or nobody takes what they hold
 *              │ its patience has ended: a demand drops the coldest
 *              ▼
 *             end
 *
 * (1) The wait is of the node's own clock and has an end, whatever peers do. (2) Who
 * waits is counted in node->wanted[] until it waits no longer.
 */
#include "node/core/core_priv.h"

/* Does the coldest leave for somewhere: a tier below, or a peer that may take it? */
static bool leaves_in_order(const kvo_node_t *node, enum kvp_tier tier)
{
    bool out = node->has_host && tier == KVP_DEVICE;
    for (uint32_t i = 0; !out && node->config.spill && i < node->view.nr; i++) {
        out = i != node->self && kvo_usable(node, i);
    }
    return out;
}

/* Frames for what is new here, n of them. A demand takes the coldest copy's place;
 * waiting a few ticks of our own clock lets that copy move a tier down or to a peer
 * first, so that the coldest of the domain, or of the cluster, goes and not the coldest
 * of this pool. At most half of what the deadline leaves: the rest is for the bytes. */
void kvo_room_want(
    kvo_node_t *node, struct kvo_op_obj *op, enum kvp_tier tier, uint32_t n)
{
    const struct kvo_request *request = &op->request;
    op->pool = kvp_pool_of(node->pager, request->tenant, request->variant, tier);
    op->nr_wanted = n;
    op->until = node->now;
    op->growing = op->pool < KVP_POOLS_MAX;
    if (!op->growing) {
        return;
    }
    struct kvp_pool_stats stats;
    kvp_pool_stats(node->pager, op->pool, &stats);
    node->wanted[op->pool] += n;
    if (leaves_in_order(node, tier) && n < stats.nr_frames
        && request->deadline_us > node->now) {
        uint64_t wait = KVO_GROW_TICKS * node->config.tick_us;
        uint64_t most = (request->deadline_us - node->now) / 2;
        op->until += wait < most ? wait : most;
    }
}

/* It waits for frames no longer. */
void kvo_room_end(kvo_node_t *node, struct kvo_op_obj *op)
{
    if (op->growing) {
        KV_ASSERT(node->wanted[op->pool] >= op->nr_wanted);
        node->wanted[op->pool] -= op->nr_wanted;
        op->growing = false;
    }
}

/* So many frames may be taken now: those there are, in the end also others'. */
uint32_t kvo_room_now(const kvo_node_t *node, const struct kvo_op_obj *op)
{
    if (!op->growing || node->now >= op->until) {
        return UINT32_MAX;
    }
    struct kvp_pool_stats stats;
    kvp_pool_stats(node->pager, op->pool, &stats);
    return stats.in_state[KVP_FREE] + stats.ready;
}

/* With n frames more the tenant's own oldest goes: what else leaves is no help. */
bool kvo_room_at_ceiling(
    const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t n)
{
    KV_ASSERT(op->pool < KVP_POOLS_MAX);
    uint16_t tenant = op->request.tenant;
    enum kvp_tier tier = node->config.pager.pools[op->pool].tier;
    uint32_t ceiling = node->config.pager.tenants[tenant].ceiling[tier];
    uint64_t used = kvp_used(node->pager, tenant, tier);
    return ceiling != 0 && used + n > ceiling;
}
