/* Grants that we gave, and those that we give back (docs/protocol.md, "grant").
 *
 *   NONE ──► GIVEN ── expired ──► REVOKING ── no answer ──► FENCING
 *    ▲         │ released            │ revoked                 │ fence completed
 *    └─────────┴─────────────────────┴─────────────────────────┘
 *
 * Time is a trigger, never a proof: (1) a frame's grant ends only by RELEASE,
 * REVOKED or the completion of a fence of the reader's data connection. (2) A grant
 * is tied to the link and the data connection under which it was given. (3) A grant
 * names memory that the reader can map; what lies elsewhere it must read by name.
 */
#include "node/core/core_priv.h"

kv_status_t kvo_grant_give(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_copy *copy, bool spill,
    struct kv_grant *grant)
{
    uint32_t index = kvo_peer_index(node, peer);
    uint16_t tenant = kvp_tenant(node->pager, copy->tenant);
    uint16_t variant = kvp_variant(node->pager, copy->layout, copy->group, copy->shard);
    if (tenant == UINT16_MAX || (peer->tenants >> tenant & 1) == 0) {
        return KV_ERR_DENIED;
    }
    if (peer->in != CONN_OPEN) {
        return KV_ERR_AGAIN;
    }
    struct kvp_ref ref;
    if (variant == UINT16_MAX ||
        kvp_lookup(node->pager, tenant, variant, &copy->key, 1, &ref) == 0) {
        return KV_ERR_MISS;
    }
    struct kvp_info info;
    KV_ASSERT(kvp_info(node->pager, ref, &info) == KV_OK);
    if ((node->config.named_pools >> info.pool & 1) != 0) { /* (3) */
        node->metrics.grants_by_name++;
        return KV_ERR_BY_NAME;
    }
    struct kvo_given *given = kvo_slots_take(&node->givens);
    if (given == NULL) {
        return KV_ERR_AGAIN;
    }
    kv_status_t status = kvp_grant(node->pager, ref, index);
    if (status != KV_OK) {
        kvo_slots_give(&node->givens, given);
        return status == KV_ERR_STALE ? KV_ERR_MISS : status;
    }
    KVO_MOVE(node, given, state, GRANT, NONE, GIVEN);
    given->peer = index;
    given->ref = ref;
    given->spill = spill;
    given->data_gen = peer->in_gen;
    given->timer.pos = KVO_NONE;
    given->timer.kind = KVO_TIMER_GIVEN;
    given->timer.index = kvo_slots_index(&node->givens, given);
    kvo_timer_set(&node->timers, &given->timer, node->now + node->config.grant_us);
    *grant = (struct kv_grant){
        .id = kvo_slots_id(&node->givens, given),
        .gen = ref.gen,
        .offset = (uint64_t)info.pool_frame *
                  node->config.pager.pools[info.pool].frame_bytes,
        .digest = info.digest,
        .arena = info.pool,
        .frame = ref.frame,
        .len = info.len,
        .n_tokens = info.n_tokens,
        .duration_us = (uint32_t)node->config.grant_us,
    };
    node->metrics.grants_given++;
    kvo_observe(node, KVO_SAW_GRANT_GIVEN, &info.copy, ref, index, grant->id);
    return KV_OK;
}

/* (1) Called by the three proofs alone. `read`: the reader says that it has it. */
static void given_end(kvo_node_t *node, struct kvo_given *given, bool read)
{
    kvo_observe(
        node, KVO_SAW_GRANT_ENDED, NULL, given->ref, given->peer,
        kvo_slots_id(&node->givens, given));
    struct kvp_info info;
    node->metrics.grants_ended++;
    if (read && kvp_info(node->pager, given->ref, &info) == KV_OK) {
        node->metrics.grants_read++;
        node->metrics.served_bytes += info.len;
        if (!given->spill) {
            kvo_cooled(node, given->ref); /* a peer has it now */
        }
    }
    kvp_ungrant(node->pager, given->ref, given->peer);
    kvo_timer_stop(&node->timers, &given->timer);
    kvo_slots_give(&node->givens, given);
}

/* A fault of ours that tests plant: as if time proved something. */
static void given_forget(kvo_node_t *node, struct kvo_given *given)
{
    kvp_ungrant(node->pager, given->ref, given->peer);
    kvo_timer_stop(&node->timers, &given->timer);
    kvo_slots_give(&node->givens, given);
}

void kvo_grant_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_grant *wish = &msg->u.grant;
    struct kv_msg_granted_item items[KV_MSG_ITEMS_MAX];
    memset(items, 0, wish->nr_copies * sizeof(items[0]));
    for (uint32_t i = 0; i < wish->nr_copies; i++) {
        items[i].status = kvo_grant_give(
            node, peer, &wish->copies[i], wish->purpose == KV_GRANT_SPILL,
            &items[i].grant);
    }
    struct kv_msg answer = {.type = KV_MSG_GRANTED, .req = msg->req};
    answer.u.granted.items = items;
    answer.u.granted.nr_items = wish->nr_copies;
    kvo_send(node, peer, &answer);
}

void kvo_given_timer(kvo_node_t *node, struct kvo_given *given)
{
    struct kvo_peer *peer = &node->peers[given->peer];
    if (given->state == GRANT_GIVEN) {
        if (KV_PLANTED(KV_PLANT_REUSE_ON_TIME)) {
            given_forget(node, given);
            return;
        }
        KVO_MOVE(node, given, state, GRANT, GIVEN, REVOKING);
        node->metrics.revokes++;
        kvo_timer_set(&node->timers, &given->timer, node->now + node->config.revoke_us);
        if (peer->state == LINK_UP) {
            uint64_t id = kvo_slots_id(&node->givens, given);
            struct kv_msg msg = {.type = KV_MSG_REVOKE};
            msg.u.revoke.ids = &id;
            msg.u.revoke.nr_ids = 1;
            kvo_trace(node, "revoke n%u", kvo_node_id(node, given->peer));
            kvo_send(node, peer, &msg);
        }
        return;
    }
    if (KV_PLANTED(KV_PLANT_EXPIRED_FREED)) {
        given_forget(node, given);
        return;
    }
    kvo_fence_in(node, peer); /* marks this one with the rest */
}

/* The fence is out: it will end every grant of the peer. */
void kvo_givens_fencing(kvo_node_t *node, uint32_t peer)
{
    for (uint32_t i = 0; i < node->givens.nr; i++) {
        struct kvo_given *given = kvo_slots_at(&node->givens, i);
        if (given == NULL || given->peer != peer) {
            continue;
        }
        if (given->state == GRANT_GIVEN) {
            KVO_MOVE(node, given, state, GRANT, GIVEN, FENCING);
        } else if (given->state == GRANT_REVOKING) {
            KVO_MOVE(node, given, state, GRANT, REVOKING, FENCING);
        }
        kvo_timer_stop(&node->timers, &given->timer);
    }
}

void kvo_givens_fenced(kvo_node_t *node, uint32_t peer, uint32_t data_gen)
{
    for (uint32_t i = 0; i < node->givens.nr; i++) {
        struct kvo_given *given = kvo_slots_at(&node->givens, i);
        if (given != NULL && given->peer == peer && given->data_gen <= data_gen) {
            KVO_MOVE(node, given, state, GRANT, FENCING, NONE);
            given_end(node, given, false);
        }
    }
}

/* The reader's reads under this grant are over. A grant that a fence is ending waits
 * for the fence all the same: it ends once. */
static void
given_back(kvo_node_t *node, const struct kvo_peer *peer, uint64_t id, bool read)
{
    struct kvo_given *given = kvo_slots_find(&node->givens, id);
    if (given == NULL || given->peer != kvo_peer_index(node, peer) ||
        given->state == GRANT_FENCING) {
        return; /* twice, or late: harmless */
    }
    if (given->state == GRANT_GIVEN) {
        KVO_MOVE(node, given, state, GRANT, GIVEN, NONE);
    } else {
        KVO_MOVE(node, given, state, GRANT, REVOKING, NONE);
    }
    given_end(node, given, read);
}

void kvo_grant_released(
    kvo_node_t *node, const struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_release *release = &msg->u.release;
    for (uint32_t i = 0; i < release->nr_items; i++) {
        given_back(node, peer, release->items[i].id, release->items[i].read);
    }
}

void kvo_grant_ended(
    kvo_node_t *node, const struct kvo_peer *peer, const struct kv_msg *msg)
{
    for (uint32_t i = 0; i < msg->u.revoked.nr_ids; i++) {
        given_back(node, peer, msg->u.revoked.ids[i], false);
    }
}

/* ------------------------------------------------------------------ as a reader */

/* Does an item or a read of ours use this grant of the peer? */
static struct kvo_data_op *reading_under(kvo_node_t *node, uint32_t peer, uint64_t id)
{
    for (uint32_t i = 0; i < node->datas.nr; i++) {
        struct kvo_data_op *data = kvo_slots_at(&node->datas, i);
        if (data != NULL && data->kind == DATA_READ && data->peer == peer &&
            data->grant == id) {
            return data;
        }
    }
    return NULL;
}

static bool held(kvo_node_t *node, uint32_t peer, uint64_t id)
{
    if (reading_under(node, peer, id) != NULL) {
        return true;
    }
    for (uint32_t i = 0; i < node->items.nr; i++) {
        struct kvo_item *item = kvo_slots_at(&node->items, i);
        if (item != NULL && item->has_grant && item->peer == peer &&
            item->grant.id == id) {
            return true;
        }
    }
    return false;
}

/* A GRANTED that nobody waits for: late, or the second of its kind. What nobody uses is
 * given back; a copy of an answer that we took must not end grants in use. */
void kvo_granted_late(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    uint32_t index = kvo_peer_index(node, peer);
    for (uint32_t i = 0; i < msg->u.granted.nr_items; i++) {
        const struct kv_msg_granted_item *item = &msg->u.granted.items[i];
        if (item->status == KV_OK && !held(node, index, item->grant.id)) {
            kvo_release_queue(node, index, peer->link, item->grant.id, false);
        }
    }
}

/* Likewise a grant that came with a FOUND. Keys of requests may hold it too. */
void kvo_found_late(kvo_node_t *node, struct kvo_peer *peer, uint64_t grant)
{
    uint32_t index = kvo_peer_index(node, peer);
    for (uint32_t k = 0; k < node->ops.nr; k++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, k);
        for (uint32_t j = 0; op != NULL && j < op->nr_keys; j++) {
            if (op->keys[j].grant.id == grant && op->keys[j].grant_peer == index) {
                return;
            }
        }
    }
    if (!held(node, index, grant)) {
        kvo_release_queue(node, index, peer->link, grant, false);
    }
}

/* The owner wants grants back. Those under which we read are told later, when the read
 * has ended; the rest at once. */
void kvo_grant_revoked(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    uint32_t index = kvo_peer_index(node, peer);
    uint64_t done[KV_MSG_ITEMS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < msg->u.revoke.nr_ids; i++) {
        uint64_t id = msg->u.revoke.ids[i];
        struct kvo_data_op *data = reading_under(node, index, id);
        if (data != NULL) {
            data->revoke = true;
            continue;
        }
        for (uint32_t k = 0; k < node->items.nr; k++) {
            struct kvo_item *item = kvo_slots_at(&node->items, k);
            if (item != NULL && item->has_grant && item->peer == index &&
                item->grant.id == id) {
                item->has_grant = false; /* it asks for another before it posts */
            }
        }
        for (uint32_t k = 0; k < node->ops.nr; k++) {
            struct kvo_op_obj *op = kvo_slots_at(&node->ops, k);
            for (uint32_t j = 0; op != NULL && j < op->nr_keys; j++) {
                if (op->keys[j].grant.id == id && op->keys[j].grant_peer == index) {
                    op->keys[j].grant.id = 0;
                }
            }
        }
        done[n++] = id;
    }
    if (n > 0) {
        struct kv_msg answer = {.type = KV_MSG_REVOKED};
        answer.u.revoked.ids = done;
        answer.u.revoked.nr_ids = n;
        kvo_send(node, peer, &answer);
    }
}

void kvo_release_flush(kvo_node_t *node, struct kvo_peer *peer)
{
    if (peer->nr_releases == 0 || peer->state != LINK_UP) {
        peer->nr_releases = 0;
        return;
    }
    struct kv_msg msg = {.type = KV_MSG_RELEASE};
    msg.u.release.items = peer->releases;
    msg.u.release.nr_items = peer->nr_releases;
    kvo_send(node, peer, &msg);
    peer->nr_releases = 0;
}

void kvo_release_queue(
    kvo_node_t *node, uint32_t index, uint64_t link, uint64_t id, bool read)
{
    struct kvo_peer *peer = &node->peers[index];
    if (peer->state != LINK_UP || peer->link != link || id == 0) {
        return; /* (2) it ended with its link */
    }
    if (peer->nr_releases == KVO_RELEASES_MAX) {
        kvo_release_flush(node, peer);
    }
    if (peer->nr_releases == 0) {
        node->any_releases = true;
    }
    peer->releases[peer->nr_releases++] =
        (struct kv_msg_released){.id = id, .read = read};
}
