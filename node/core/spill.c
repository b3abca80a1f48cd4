/* What leaves this node, and what comes by spill (docs/protocol.md, "spill").
 *
 *   device ── demote ──► host ── offer ──► a home of its segment
 *
 *            call out            TAKE              done, lost, too late
 *   QUEUED ──────────► OFFERED ──────► TAKEN ─────────────────────────► NONE
 *     ▲                   │ refused      │ not verified there
 *     └───────────────────┴──────────────┘  the next target
 *
 * (1) The owner's frame is LEAVING all the while: wanted again wins, and everything
 * that arrives later finds a token that has moved on. (2) HAVE: the answering home
 * forgets the asker's entry in the same step, so that two askers are not both told.
 * (3) What came by spill is not spilled on. (4) A taker says OK after it has
 * published.
 */
#include "node/core/core_priv.h"

/* ------------------------------------------------------------------ the owner */

static void spill_give(kvo_node_t *node, struct kvo_spill *spill)
{
    KV_ASSERT(spill->state == SPILL_NONE);
    kvo_timer_stop(&node->timers, &spill->timer);
    kvo_slots_give(&node->spills, spill);
}

/* The copy goes; nothing happens if it was wanted again. */
static void leave(kvo_node_t *node, struct kvo_spill *spill)
{
    (void)kvp_leave_done(node->pager, spill->ref, spill->token); /* (1) */
    spill_give(node, spill);
}

static void queue_offer(kvo_node_t *node, struct kvo_spill *spill)
{
    KV_ASSERT(spill->state == SPILL_QUEUED);
    node->nr_offers++;
}

/* Nobody takes it: as good as free for those who wait for a frame. */
static void make_ready(kvo_node_t *node, struct kvp_ref ref, uint32_t token)
{
    node->metrics.spills_dropped++;
    (void)kvp_leave_ready(node->pager, ref, token);
    node->frames_freed = true;
}

/* Refused, unanswered, or not verified over there: the next target, or the end. The
 * caller has moved it to QUEUED. */
static void spill_next(kvo_node_t *node, struct kvo_spill *spill)
{
    KV_ASSERT(spill->state == SPILL_QUEUED);
    while (spill->next < spill->nr_targets &&
           !kvo_usable(node, spill->targets[spill->next])) {
        spill->next++;
    }
    bool leaves = kvp_leaves(node->pager, spill->ref, spill->token);
    if (spill->next < spill->nr_targets && leaves) {
        queue_offer(node, spill);
        return;
    }
    KVO_MOVE(node, spill, state, SPILL, QUEUED, NONE);
    make_ready(node, spill->ref, spill->token);
    spill_give(node, spill);
}

/* ------------------------------------------------------------------ where to */

/* How long ago the coldest copy of a domain's lowest tier was used. Ages travel, not
 * times. */
static uint64_t reach_of(kvo_node_t *node, uint32_t domain)
{
    uint64_t at = node->now;
    for (uint32_t pool = 0; pool < node->config.pager.nr_pools; pool++) {
        const struct kvp_pool_config *config = &node->config.pager.pools[pool];
        bool lowest = config->tier == KVP_HOST || !node->has_host;
        if (config->domain == domain && lowest) {
            uint64_t us = kvp_reach_us(node->pager, pool);
            at = us < at ? us : at;
        }
    }
    return at == 0 ? UINT64_MAX : node->now - at;
}

static uint32_t domain_of(const kvo_node_t *node, uint16_t tenant)
{
    KV_ASSERT(tenant < node->config.pager.nr_tenants);
    return node->config.pager.tenants[tenant].domain;
}

uint64_t kvo_reach(kvo_node_t *node, uint16_t tenant)
{
    return reach_of(node, domain_of(node, tenant));
}

uint64_t kvo_reach_common(kvo_node_t *node)
{
    return reach_of(node, 0);
}

/* Of the tenants set apart that the peer covers: of others it hears nothing. */
uint32_t kvo_reach_apart(
    kvo_node_t *node, const struct kvo_peer *peer,
    struct kv_msg_reach reaches[KVP_TENANTS_MAX])
{
    uint32_t nr = 0;
    for (uint16_t tenant = 0; tenant < node->config.pager.nr_tenants; tenant++) {
        if (domain_of(node, tenant) != 0 && (peer->tenants >> tenant & 1) != 0) {
            reaches[nr++] = (struct kv_msg_reach){
                .tenant = node->config.pager.tenants[tenant].id,
                .reach_us = kvo_reach(node, tenant),
            };
        }
    }
    return nr;
}

static uint64_t heard_at(const kvo_node_t *node, uint64_t reach_us)
{
    return reach_us < node->now ? node->now - reach_us : 0;
}

void kvo_reach_none(kvo_node_t *node, struct kvo_peer *peer)
{
    kvo_reach_heard(node, peer, 0, NULL, 0);
}

/* A tenant that it does not name has its share of its common domain. */
void kvo_reach_heard(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t reach_us,
    const struct kv_msg_reach *reaches, uint32_t nr_reaches)
{
    for (uint16_t tenant = 0; tenant < node->config.pager.nr_tenants; tenant++) {
        peer->reach_at[tenant] = heard_at(node, reach_us);
    }
    for (uint32_t i = 0; i < nr_reaches; i++) {
        uint16_t tenant = kvp_tenant(node->pager, reaches[i].tenant);
        if (tenant != UINT16_MAX) {
            peer->reach_at[tenant] = heard_at(node, reaches[i].reach_us);
        }
    }
}

/* The peer whose memory for the tenant reaches back furthest, but for two, among the
 * first nodes of the segment: of a few drawn at random the best is nearly the best of
 * all, and not every node of a large cluster runs to the same one. */
static uint32_t furthest(
    const kvo_node_t *node, uint16_t tenant, const kv_key_t *segment, uint32_t but,
    uint32_t nor)
{
    uint32_t order[KVO_NEAR_MAX], best = KVO_NONE;
    uint32_t nr = kvc_homes(&node->view, segment, KVO_NEAR_MAX, order);
    for (uint32_t k = 0; k < nr; k++) {
        uint32_t i = order[k];
        if (i == node->self || i == but || i == nor || !kvo_usable(node, i)) {
            continue;
        }
        if (best == KVO_NONE
            || node->peers[i].reach_at[tenant] < node->peers[best].reach_at[tenant]) {
            best = i;
        }
    }
    return best;
}

static bool we_are_first_home(const kvo_node_t *node, const kv_key_t *segment)
{
    uint32_t first;
    return kvc_homes(&node->view, segment, 1, &first) == 1 && first == node->self;
}

/* First the segment's first home, which knows whether another keeps the copy; then
 * whoever's memory reaches back furthest, so that what leaves the cluster is what one
 * pooled cache would drop. Never ourselves, never a suspect, at most two. */
static void
find_targets(kvo_node_t *node, struct kvo_spill *spill, const struct kvp_info *info)
{
    const kv_key_t *segment = &info->segment;
    uint32_t target = KVO_NONE;
    (void)kvc_homes(&node->view, segment, 1, &target);
    if (target == node->self || !kvo_usable(node, target)) {
        target = furthest(node, info->tenant, segment, KVO_NONE, KVO_NONE);
    }
    for (uint32_t but = KVO_NONE; target != KVO_NONE;) {
        spill->targets[spill->nr_targets++] = target;
        if (spill->nr_targets == KVO_TARGETS_MAX) {
            return;
        }
        uint32_t next = furthest(node, info->tenant, segment, target, but);
        but = target;
        target = next;
    }
}

/* (2) where we are the first home ourselves: does another living node mean to keep it?
 * Then our own entry goes, and the copy with it. */
static bool have_elsewhere(
    kvo_node_t *node, const struct kvp_info *info, struct kvp_ref ref)
{
    uint32_t keeper = KVC_NO_NODE;
    if (we_are_first_home(node, &info->segment)) {
        keeper = kvc_dir_keeper(node->dir, &info->copy, node->self);
    }
    if (keeper == KVC_NO_NODE) {
        return false;
    }
    if (!KV_PLANTED(KV_PLANT_HAVE_TO_BOTH)) {
        (void)kvc_dir_forget(node->dir, node->self, &info->copy);
    }
    node->metrics.spills_have++;
    kvo_observe(node, KVO_SAW_HAVE_TOLD, &info->copy, ref, node->self, keeper);
    kvo_observe(node, KVO_SAW_HAVE_DROP, &info->copy, ref, KVO_NONE, 0);
    return true;
}

/* A leaving copy that no tier here will keep: offered, or dropped. */
static bool spill_away(kvo_node_t *node, struct kvp_ref ref, uint32_t token)
{
    struct kvp_info info;
    KV_ASSERT(kvp_info(node->pager, ref, &info) == KV_OK);
    /* With a twin in another tier the node keeps the copy, and its listing, anyway. */
    if (info.twin != KVP_NO_FRAME || have_elsewhere(node, &info, ref)) {
        (void)kvp_leave_done(node->pager, ref, token);
        return true;
    }
    bool offer = node->config.spill && !info.spilled; /* (3) */
    struct kvo_spill *spill = offer ? kvo_slots_take(&node->spills) : NULL;
    if (spill == NULL) {
        make_ready(node, ref, token);
        return true;
    }
    spill->timer.pos = KVO_NONE;
    spill->timer.kind = KVO_TIMER_SPILL;
    spill->timer.index = kvo_slots_index(&node->spills, spill);
    spill->ref = ref;
    spill->token = token;
    spill->last_use_us = info.last_use_us;
    spill->offer = (struct kv_msg_offer){
        .copy = info.copy,
        .segment = info.segment,
        .index = info.index,
        .n_tokens = info.n_tokens,
        .len = info.len,
        .digest = info.digest,
        .tail = info.tail,
    };
    if (info.tail) {
        spill->offer.prev = info.prev;
    }
    find_targets(node, spill, &info);
    KVO_MOVE(node, spill, state, SPILL, NONE, QUEUED);
    kvo_timer_set(&node->timers, &spill->timer, node->now + node->config.spill_us);
    spill_next(node, spill);
    return true;
}

/* One victim of the lowest tier. False when nothing could leave. */
static bool spill_one(kvo_node_t *node, uint32_t pool)
{
    struct kvp_ref ref;
    uint32_t token, dropped = 0;
    kv_status_t status = kvp_leave_begin(node->pager, pool, &ref, &token, &dropped);
    if (status != KV_OK) {
        return dropped > 0;
    }
    return spill_away(node, ref, token);
}

/* One victim of a tier with another below it. */
static bool demote_one(kvo_node_t *node, uint32_t pool, bool may_drop)
{
    struct kvp_ref ref;
    struct kvp_info info;
    uint32_t token, dropped = 0;
    kv_status_t status = kvp_leave_begin(node->pager, pool, &ref, &token, &dropped);
    if (status != KV_OK) {
        return dropped > 0;
    }
    KV_ASSERT(kvp_info(node->pager, ref, &info) == KV_OK);
    if (info.cool) {
        return spill_away(node, ref, token); /* no use in keeping it a tier lower */
    }
    if (kvp_demote(node->pager, ref, token, KVP_HOST, may_drop) != KV_OK) {
        (void)kvp_leave_cancel(node->pager, ref, token);
        return false;
    }
    return true;
}

/* How many of the pool should leave: for its reserve, or for appends and puts. */
static uint32_t to_leave(kvo_node_t *node, uint32_t pool, bool *urgent_p)
{
    uint32_t n = kvp_pressure(node->pager, pool);
    *urgent_p = false;
    if (node->wanted[pool] > 0) {
        struct kvp_pool_stats stats;
        kvp_pool_stats(node->pager, pool, &stats);
        uint32_t coming = stats.in_state[KVP_FREE] + stats.in_state[KVP_LEAVING];
        *urgent_p = coming < node->wanted[pool];
        if (*urgent_p && n < node->wanted[pool] - coming) {
            n = node->wanted[pool] - coming;
        }
    }
    return n;
}

/* Has a sequence waited for frames of the pool for a whole tick? */
static bool waited_long(const kvo_node_t *node, uint32_t pool)
{
    uint64_t patience = (KVO_GROW_TICKS - 1) * node->config.tick_us;
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        const struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        if (op != NULL && op->growing && op->pool == pool
            && op->until <= node->now + patience) {
            return true;
        }
    }
    return false;
}

void kvo_spill_work(kvo_node_t *node, bool tick)
{
    const struct kvp_config *pager = &node->config.pager;
    for (uint32_t pool = 0; pool < pager->nr_pools; pool++) {
        bool lowest = pager->pools[pool].tier == KVP_HOST || !node->has_host;
        if (lowest && !node->config.spill) {
            continue; /* the demand that needs room drops the coldest */
        }
        bool urgent;
        uint32_t n = to_leave(node, pool, &urgent);
        bool waited_for = urgent || node->waiting.nr > 0;
        if (lowest && !tick && n < KVO_SPILL_BATCH && !waited_for) {
            continue; /* a few more make one message */
        }
        /* Where copies below are spilled before they go, a demotion waits for that,
         * unless a sequence has waited for it for a tick. */
        bool may_drop = !node->config.spill || (urgent && waited_long(node, pool));
        for (uint32_t i = 0; i < n && i < KVO_SPILL_BURST; i++) {
            if (lowest ? !spill_one(node, pool) : !demote_one(node, pool, may_drop)) {
                break;
            }
        }
    }
}

/* Offers everything that is queued, one message a target. */
void kvo_spill_flush(kvo_node_t *node)
{
    if (node->nr_offers > 0) {
        kvo_publish_flush(node); /* so that stream_pos covers it */
    }
    while (node->nr_offers > 0) {
        uint32_t target = KVO_NONE, n = 0;
        struct kvo_call *call = NULL;
        struct kv_msg_offer offers[KV_MSG_OFFERS_MAX];
        for (uint32_t i = 0; i < node->spills.nr && n < KV_MSG_OFFERS_MAX; i++) {
            struct kvo_spill *spill = kvo_slots_at(&node->spills, i);
            if (spill == NULL || spill->state != SPILL_QUEUED ||
                (target != KVO_NONE && spill->targets[spill->next] != target)) {
                continue;
            }
            if (target == KVO_NONE) {
                target = spill->targets[spill->next];
                call =
                    kvo_usable(node, target)
                        ? kvo_call_take(node, CALL_OFFER, target, node->config.call_us)
                        : NULL;
            }
            node->nr_offers--;
            if (call == NULL) {
                spill->next++;
                spill_next(node, spill);
                break;
            }
            KVO_MOVE(node, spill, state, SPILL, QUEUED, OFFERED);
            spill->call = kvo_slots_id(&node->calls, call);
            call->u.ids[n] = kvo_slots_id(&node->spills, spill);
            spill->syncs = node->peers[target].nr_syncs;
            spill->relisted = false;
            offers[n] = spill->offer;
            offers[n++].age_us = node->now - spill->last_use_us;
        }
        if (call == NULL) {
            continue;
        }
        call->n = n;
        struct kv_msg msg = {
            .type = KV_MSG_SPILL_OFFER,
            .req = kvo_slots_id(&node->calls, call),
            .deadline_left_us = (uint32_t)node->config.call_us,
        };
        msg.u.spill_offer.stream_pos = node->peers[target].out_pos;
        msg.u.spill_offer.items = offers;
        msg.u.spill_offer.nr_items = n;
        node->metrics.spills_offered += n;
        kvo_trace(node, "offer n%u copies %u", kvo_node_id(node, target), n);
        kvo_send(node, &node->peers[target], &msg);
    }
}

static struct kvo_spill *call_spill(kvo_node_t *node, struct kvo_call *call, uint32_t i)
{
    struct kvo_spill *spill = kvo_slots_find(&node->spills, call->u.ids[i]);
    if (spill == NULL || spill->state != SPILL_OFFERED ||
        spill->call != kvo_slots_id(&node->calls, call)) {
        return NULL;
    }
    spill->call = 0;
    return spill;
}

static bool copy_equal(const struct kv_copy *a, const struct kv_copy *b)
{
    return a->tenant == b->tenant && a->layout == b->layout && a->group == b->group &&
           a->shard == b->shard && kv_key_equal(&a->key, &b->key);
}

/* To the home that has forgotten it though we kept it. From now on it may tell another
 * holder that we keep it: a second offer of the same copy that is out already (it was
 * wanted again, and left anew) must not be let go by what the home said before. */
static void
list_again(kvo_node_t *node, uint32_t home, const struct kvp_info *info)
{
    for (uint32_t i = 0; i < node->spills.nr; i++) {
        struct kvo_spill *spill = kvo_slots_at(&node->spills, i);
        if (spill != NULL && spill->state == SPILL_OFFERED &&
            spill->targets[spill->next] == home &&
            copy_equal(&spill->offer.copy, &info->copy)) {
            spill->relisted = true;
        }
    }
    kvo_list_again(node, home, info);
}

/* HAVE. A copy that was wanted again meanwhile, or that another tier has got as
 * well, is still ours: the home has forgotten it, and hears of it again. */
static void
spill_have(kvo_node_t *node, struct kvo_spill *spill, const struct kvo_peer *peer)
{
    KVO_MOVE(node, spill, state, SPILL, OFFERED, NONE);
    struct kvp_info info;
    bool here = kvp_info(node->pager, spill->ref, &info) == KV_OK && info.hold != 0;
    bool twin = here && info.twin != KVP_NO_FRAME;
    bool doubt = here && (spill->relisted || spill->syncs != peer->nr_syncs); /* (2) */
    kv_status_t left = KV_ERR_STALE;
    if (doubt && !twin) {
        (void)kvp_leave_cancel(node->pager, spill->ref, spill->token);
    } else {
        left = kvp_leave_done(node->pager, spill->ref, spill->token);
    }
    if (left == KV_OK && !twin) {
        node->metrics.spills_have++;
        kvo_observe(
            node, KVO_SAW_HAVE_DROP, &spill->offer.copy, spill->ref, KVO_NONE, 0);
    } else if (here) {
        list_again(node, kvo_peer_index(node, peer), &info);
    }
    spill_give(node, spill);
}

/* (2) Only the segment's first home may say HAVE. */
static bool first_home_is(
    const kvo_node_t *node, const struct kvo_spill *spill, uint32_t peer)
{
    uint32_t first;
    return kvc_homes(&node->view, &spill->offer.segment, 1, &first) == 1 &&
           first == peer;
}

void kvo_spill_answered(
    kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg)
{
    const struct kv_msg_spill_answer *answer = &msg->u.spill_answer;
    kvo_reach_heard(
        node, &node->peers[call->peer], answer->reach_us, answer->reaches,
        answer->nr_reaches);
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_spill *spill = call_spill(node, call, i);
        int32_t status = i < answer->nr_statuses ? answer->statuses[i] : KV_ERR_REFUSED;
        if (spill == NULL) {
            continue;
        }
        if (status == KV_EXISTS && first_home_is(node, spill, call->peer)) {
            spill_have(node, spill, &node->peers[call->peer]);
        } else if (status == KV_TAKE) {
            KVO_MOVE(node, spill, state, SPILL, OFFERED, TAKEN);
        } else {
            KVO_MOVE(node, spill, state, SPILL, OFFERED, QUEUED);
            node->metrics.spills_refused++;
            spill->next++;
            spill_next(node, spill);
        }
    }
}

void kvo_spill_unanswered(kvo_node_t *node, struct kvo_call *call)
{
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_spill *spill = call_spill(node, call, i);
        if (spill != NULL) {
            KVO_MOVE(node, spill, state, SPILL, OFFERED, QUEUED);
            spill->next++;
            spill_next(node, spill);
        }
    }
}

void kvo_spill_told(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_spill_done *done = &msg->u.spill_done;
    uint32_t index = kvo_peer_index(node, peer);
    for (uint32_t k = 0; k < done->nr_items; k++) {
        for (uint32_t i = 0; i < node->spills.nr; i++) {
            struct kvo_spill *spill = kvo_slots_at(&node->spills, i);
            if (spill == NULL || spill->state != SPILL_TAKEN ||
                spill->targets[spill->next] != index ||
                !copy_equal(&spill->offer.copy, &done->items[k].copy)) {
                continue;
            }
            if (done->items[k].status == KV_OK) {
                KVO_MOVE(node, spill, state, SPILL, TAKEN, NONE);
                node->metrics.spills_taken++;
                leave(node, spill);
            } else {
                KVO_MOVE(node, spill, state, SPILL, TAKEN, QUEUED);
                spill->next++;
                spill_next(node, spill);
            }
            break;
        }
    }
}

/* The deadline of the whole: dropped. */
void kvo_spill_timer(kvo_node_t *node, struct kvo_spill *spill)
{
    switch ((enum kvo_spill_state)spill->state) {
    case SPILL_QUEUED:
        node->nr_offers--;
        KVO_MOVE(node, spill, state, SPILL, QUEUED, NONE);
        break;
    case SPILL_OFFERED:
        KVO_MOVE(node, spill, state, SPILL, OFFERED, NONE);
        break;
    case SPILL_TAKEN:
        KVO_MOVE(node, spill, state, SPILL, TAKEN, NONE);
        break;
    case SPILL_NONE:
        KV_ASSERT(false);
    }
    node->metrics.spills_dropped++;
    leave(node, spill);
}

void kvo_spill_peer_lost(kvo_node_t *node, uint32_t peer)
{
    for (uint32_t i = 0; i < node->spills.nr; i++) {
        struct kvo_spill *spill = kvo_slots_at(&node->spills, i);
        if (spill != NULL && spill->state == SPILL_TAKEN &&
            spill->targets[spill->next] == peer) {
            KVO_MOVE(node, spill, state, SPILL, TAKEN, QUEUED);
            spill->next++;
            spill_next(node, spill);
        }
    }
}

/* ------------------------------------------------------------------ the taker */

/* The living node but the asker that means to keep this copy, or KVC_NO_NODE. Only the
 * segment's first home says so (2). Our own copy is kept from now on as long as the
 * asker's would have been. */
static uint32_t keeper_of(
    kvo_node_t *node, uint32_t asker, uint16_t tenant, uint16_t variant,
    const struct kv_msg_offer *offer, uint64_t last_use_us)
{
    if (!we_are_first_home(node, &offer->segment)) {
        return KVC_NO_NODE;
    }
    struct kvp_ref ref;
    struct kvp_info info;
    if (kvp_lookup(node->pager, tenant, variant, &offer->copy.key, 1, &ref) == 1 &&
        kvp_info(node->pager, ref, &info) == KV_OK && info.state == KVP_SEALED) {
        kvp_warm(node->pager, ref, last_use_us);
        return node->self;
    }
    uint32_t keeper = kvc_dir_keeper(node->dir, &offer->copy, asker);
    return keeper != node->self ? keeper : KVC_NO_NODE;
}

/* As its first home we were asked for our word: would another, whom the asker asks
 * next, miss less? */
static bool another_reaches_further(
    kvo_node_t *node, uint32_t asker, uint16_t tenant, const kv_key_t *segment)
{
    if (!we_are_first_home(node, segment)) {
        return false;
    }
    uint32_t other = furthest(node, tenant, segment, asker, KVO_NONE);
    return other != KVO_NONE
           && node->now - node->peers[other].reach_at[tenant] > kvo_reach(node, tenant);
}

/* `abreast`: we have taken everything that the asker published before it asked, so that
 * nothing of it can list the copy again once we have said HAVE. */
static kv_status_t take_offer(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_offer *offer,
    bool abreast)
{
    uint32_t asker = kvo_peer_index(node, peer);
    uint16_t tenant = kvp_tenant(node->pager, offer->copy.tenant);
    uint16_t variant = kvp_variant(
        node->pager, offer->copy.layout, offer->copy.group, offer->copy.shard);
    if (tenant == UINT16_MAX || (peer->tenants >> tenant & 1) == 0) {
        return KV_ERR_DENIED;
    }
    if (variant == UINT16_MAX || offer->n_tokens == 0 ||
        offer->n_tokens > node->config.pager.variants[variant].page_tokens ||
        offer->len != kvp_copy_len(node->pager, variant, offer->n_tokens)) {
        return KV_ERR_REFUSED;
    }
    uint64_t last_use_us = node->now > offer->age_us ? node->now - offer->age_us : 0;
    uint32_t keeper = KVC_NO_NODE;
    if (abreast) {
        keeper = keeper_of(node, asker, tenant, variant, offer, last_use_us);
    }
    if (keeper != KVC_NO_NODE) {
        /* (2) Otherwise the other holder would hear the same of the asker. */
        if (!KV_PLANTED(KV_PLANT_HAVE_TO_BOTH) &&
            kvc_dir_forget(node->dir, asker, &offer->copy)) {
            peer->forgotten++;
            peer->forgotten_beats = 0;
        }
        kvo_observe(
            node, KVO_SAW_HAVE_TOLD, &offer->copy, (struct kvp_ref){KVP_NO_FRAME, 0},
            asker, keeper);
        return KV_EXISTS;
    }
    if (!node->config.spill || node->items.free == KVO_NONE
        || another_reaches_further(node, asker, tenant, &offer->segment)) {
        return KV_ERR_REFUSED;
    }
    struct kvp_arrival arrival = {
        .tenant = tenant,
        .variant = variant,
        .tier = node->has_host ? KVP_HOST : KVP_DEVICE,
        .key = offer->copy.key,
        .n_tokens = offer->n_tokens,
        .place =
            {.segment = offer->segment, .index = offer->index, .prev = offer->prev},
        .peer = asker,
        .may_drop = true,
        .keep_reserve = true,
        .by_age = true,
        .last_use_us = last_use_us,
    };
    struct kvp_ref ref;
    kv_status_t status = kvp_arrive_begin(node->pager, &arrival, &ref);
    if (status == KV_EXISTS) {
        return KV_ERR_REFUSED; /* held or arriving here, but by no listing of ours */
    }
    if (status != KV_OK) {
        return status == KV_ERR_AGAIN || status == KV_ERR_QUOTA ? status
                                                                : KV_ERR_REFUSED;
    }
    KV_ASSERT(kvo_spill_in_start(node, asker, offer, ref, &arrival));
    return KV_TAKE;
}

void kvo_spill_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_spill_offer *offer = &msg->u.spill_offer;
    int32_t statuses[KV_MSG_OFFERS_MAX];
    if (msg->epoch < node->view.epoch) {
        node->metrics.messages_bad++;
        kvo_send_status(
            node, peer, msg->req, KV_ERR_STALE_EPOCH, "epoch", node->view.epoch,
            msg->epoch);
        return;
    }
    bool abreast =
        !peer->in_lost && !peer->in_sync && peer->in_pos >= offer->stream_pos;
    for (uint32_t i = 0; i < offer->nr_items; i++) {
        statuses[i] = take_offer(node, peer, &offer->items[i], abreast);
    }
    struct kv_msg answer = {.type = KV_MSG_SPILL_ANSWER, .req = msg->req};
    answer.u.spill_answer.statuses = statuses;
    answer.u.spill_answer.nr_statuses = offer->nr_items;
    struct kv_msg_reach reaches[KVP_TENANTS_MAX];
    answer.u.spill_answer.reach_us = kvo_reach_common(node);
    answer.u.spill_answer.reaches = reaches;
    answer.u.spill_answer.nr_reaches = kvo_reach_apart(node, peer, reaches);
    kvo_send(node, peer, &answer);
}

void kvo_spill_done_queue(
    kvo_node_t *node, uint32_t peer, const struct kv_copy *copy, kv_status_t status)
{
    if (node->nr_dones == KVO_DONES_MAX) {
        kvo_publish_flush(node);
        kvo_spill_done_flush(node);
    }
    node->dones[node->nr_dones++] = (struct kvo_pending_done){
        .peer = peer, .item = {.copy = *copy, .status = status}};
}

/* (4) The caller has flushed what these arrivals publish. */
void kvo_spill_done_flush(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->nr_dones; i++) {
        uint32_t target = node->dones[i].peer;
        if (target == KVO_NONE) {
            continue;
        }
        struct kv_msg_spilled items[KVO_DONES_MAX];
        uint32_t n = 0;
        for (uint32_t k = i; k < node->nr_dones; k++) {
            if (node->dones[k].peer == target) {
                items[n++] = node->dones[k].item;
                node->dones[k].peer = KVO_NONE;
            }
        }
        if (node->peers[target].state != LINK_UP) {
            continue;
        }
        struct kv_msg msg = {.type = KV_MSG_SPILL_DONE};
        msg.u.spill_done.items = items;
        msg.u.spill_done.nr_items = n;
        kvo_send(node, &node->peers[target], &msg);
    }
    node->nr_dones = 0;
}
