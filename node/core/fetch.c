/* One page's way into a frame of ours (docs/protocol.md, "fetch").
 *
 *                     ┌──► OTHER ──┐ (the same page is arriving already)
 *                     │            ▼
 *   NONE ──────────► FRAME ──► GRANT ──► POST ──► READ ──► NONE
 *                     │ ▲        │         │        │
 *                     │ └────────┴─────────┴────────┘  next holder
 *                     └──► COPY ──► NONE              (from another tier of ours)
 *
 * (1) An item in FRAME without has_frame has taken nothing from the pager. (2) A
 * read is posted only within the first half of its grant, counted from before it was
 * asked for, on the data connection under which it was asked for. (3) Landed bytes
 * are visible only once their digest equals the owner's. (4) A frame that a mover
 * may still write is abandoned to QUARANTINE, never reused, until the completion or
 * the fence.
 */
#include "node/core/core_priv.h"

/* ------------------------------------------------------------------ lists */

static struct kvo_item *item_at(kvo_node_t *node, uint32_t index)
{
    struct kvo_item *item = kvo_slots_at(&node->items, index);
    KV_ASSERT(item != NULL);
    return item;
}

static void list_push(kvo_node_t *node, struct kvo_list *list, struct kvo_item *item)
{
    uint32_t index = kvo_slots_index(&node->items, item);
    KV_ASSERT(item->list == NULL);
    item->list = list;
    item->prev = list->tail;
    item->next = KVO_NONE;
    if (list->tail == KVO_NONE) {
        list->head = index;
    } else {
        item_at(node, list->tail)->next = index;
    }
    list->tail = index;
    list->nr++;
}

static void list_remove(kvo_node_t *node, struct kvo_item *item)
{
    struct kvo_list *list = item->list;
    if (list == NULL) {
        return;
    }
    if (item->prev == KVO_NONE) {
        list->head = item->next;
    } else {
        item_at(node, item->prev)->next = item->next;
    }
    if (item->next == KVO_NONE) {
        list->tail = item->prev;
    } else {
        item_at(node, item->next)->prev = item->prev;
    }
    list->nr--;
    item->list = NULL;
}

/* ------------------------------------------------------------------ begin, end */

static uint64_t item_id(const kvo_node_t *node, const struct kvo_item *item)
{
    return kvo_slots_id(&node->items, item);
}

static struct kvo_item *item_take(kvo_node_t *node, enum kvo_item_kind kind)
{
    struct kvo_item *item = kvo_slots_take(&node->items);
    if (item == NULL) {
        return NULL;
    }
    item->kind = (uint8_t)kind;
    item->timer.pos = KVO_NONE;
    item->timer.kind = KVO_TIMER_ITEM;
    item->timer.index = kvo_slots_index(&node->items, item);
    item->peer = KVO_NONE;
    item->reason = KV_MISS_HOLDER_REFUSED;
    return item;
}

static void item_give(kvo_node_t *node, struct kvo_item *item)
{
    KV_ASSERT(item->state == ITEM_NONE && !item->has_frame && !item->has_grant);
    list_remove(node, item);
    kvo_timer_stop(&node->timers, &item->timer);
    kvo_slots_give(&node->items, item);
    node->arrived = true;
}

void kvo_item_drop_grant(kvo_node_t *node, struct kvo_item *item)
{
    if (item->has_grant) {
        kvo_release_queue(node, item->peer, item->grant_link, item->grant.id, false);
        item->has_grant = false;
    }
}

/* Gives the frame back that nothing has been posted into. */
static void item_drop_frame(kvo_node_t *node, struct kvo_item *item)
{
    if (item->has_frame) {
        struct kvp_ref ref = item->dst;
        (void)kvp_arrive_done(
            node->pager, &ref, KV_ERR_CANCELLED, 0, 0, KVP_ARRIVE_USED);
        item->has_frame = false;
    }
}

static void item_success(
    kvo_node_t *node, struct kvo_item *item, struct kvp_ref ref, enum kvo_place place,
    bool checking)
{
    KV_ASSERT(item->state == ITEM_NONE);
    uint64_t op_id = item->op;
    uint32_t key = item->key;
    struct kvp_ref src = item->src;
    bool promote = item->kind == ITEM_PROMOTE;
    item->has_frame = false;
    item_give(node, item);
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, op_id);
    KV_ASSERT(op != NULL); /* a request that ends cancels its items */
    if (promote) {
        kvp_release(node->pager, &src, 1); /* the host's twin */
    }
    kvo_op_key_here(node, op, key, ref, place, checking);
}

static void item_fail(
    kvo_node_t *node, struct kvo_item *item, kv_status_t status, enum kv_miss reason)
{
    KV_ASSERT(item->state == ITEM_NONE);
    item_drop_frame(node, item);
    kvo_item_drop_grant(node, item);
    uint64_t op_id = item->op;
    uint32_t key = item->key, peer = item->peer;
    struct kv_copy copy = item->copy;
    struct kvp_ref src = item->src;
    uint8_t kind = item->kind;
    item_give(node, item);
    if (kind == ITEM_SPILL_IN) {
        kvo_spill_done_queue(node, peer, &copy, status);
        return;
    }
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, op_id);
    KV_ASSERT(op != NULL);
    if (kind == ITEM_PROMOTE) {
        kvp_release(node->pager, &src, 1);
    } else if (KV_PLANTED(KV_PLANT_LEAK_ON_MISS)) {
        struct kvp_ref found;
        uint16_t tenant = op->request.tenant, variant = op->request.variant;
        if (kvp_lookup(node->pager, tenant, variant, &copy.key, 1, &found) == 0 &&
            op->nr_keys > 0 && op->keys[0].phase == KEY_HERE) {
            (void)kvp_retain(node->pager, op->keys[0].ref);
        }
    }
    kvo_op_key_failed(node, op, key, status, reason);
}

/* ------------------------------------------------------------------ FRAME */

/* The next holder that can be asked; false when there is none left. */
static bool next_holder(kvo_node_t *node, struct kvo_op_obj *op, struct kvo_item *item)
{
    struct kvo_key *key = &op->keys[item->key];
    while (key->next_holder < key->nr_holders) {
        uint32_t holder = key->holders[key->next_holder++];
        if (!kvo_usable(node, holder)) {
            item->reason = KV_MISS_PEER_LOST;
            continue;
        }
        item->peer = holder;
        item->grant_tries = 0;
        item->by_name = false;
        if (key->grant.id != 0 && key->grant_peer == holder) {
            item->grant = key->grant;
            item->grant_asked_us = key->grant_asked_us;
            item->grant_link = key->grant_link;
            item->grant_gen = key->grant_gen;
            item->has_grant = true;
            key->grant.id = 0;
        }
        return true;
    }
    return false;
}

/* A grant names bytes of the length and the tokens that we want, or is no use. */
static bool grant_fits(const struct kvo_item *item, const struct kv_grant *grant)
{
    return grant->len == item->len && grant->n_tokens == item->arrival.n_tokens;
}

/* Its holder is asked for it by name: always, or for this copy. */
static bool item_named(const kvo_node_t *node, const struct kvo_item *item)
{
    return item->by_name || !kvo_reads(&node->peers[item->peer], KVO_ONE_SIDED);
}

static bool grant_fresh(const kvo_node_t *node, const struct kvo_item *item)
{
    const struct kvo_peer *peer = &node->peers[item->peer];
    return item->has_grant && !item_named(node, item) &&
           grant_fits(item, &item->grant) && item->grant_link == peer->link &&
           item->grant_gen == peer->out_gen &&
           node->now - item->grant_asked_us < item->grant.duration_us / 2; /* (2) */
}

/* The frame is there: on to the grant, or straight to the read. */
static void item_aim(kvo_node_t *node, struct kvo_item *item)
{
    KV_ASSERT(item->state == ITEM_FRAME && item->has_frame);
    list_remove(node, item);
    bool named = item_named(node, item);
    if (named) {
        kvo_item_drop_grant(node, item); /* nobody asked for one */
    }
    if (named || grant_fresh(node, item)) {
        KVO_MOVE(node, item, state, ITEM, FRAME, POST);
        list_push(node, &node->posted, item);
        return;
    }
    kvo_item_drop_grant(node, item);
    KVO_MOVE(node, item, state, ITEM, FRAME, GRANT);
    list_push(node, &node->wanting, item);
}

static void item_copy(kvo_node_t *node, struct kvo_item *item)
{
    list_remove(node, item);
    if (kvp_arrive_copy(node->pager, item->dst, item->src) != KV_OK) {
        KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
        item_fail(node, item, KV_ERR_MISS, KV_MISS_EVICTED);
        return;
    }
    struct kvo_frame_owner *owner = &node->owners[item->dst.frame];
    owner->id = item_id(node, item);
    KVO_MOVE(node, item, state, ITEM, FRAME, COPY);
}

/* Somebody else brought it, or is about to. */
static void item_exists(kvo_node_t *node, struct kvo_item *item, struct kvp_ref ref)
{
    struct kvp_info info;
    kv_status_t status;
    struct kvp_ref now;
    if (kvp_info(node->pager, ref, &info) == KV_OK && info.hold != 0
        && kvp_acquire(
               node->pager, item->arrival.tenant, item->arrival.variant,
               &item->copy.key, 1, &now, &status)
               == 1) {
        bool checking = status == KV_INPROGRESS;
        KV_ASSERT(kvp_info(node->pager, now, &info) == KV_OK);
        list_remove(node, item);
        KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
        kvo_item_drop_grant(node, item);
        item_success(
            node, item, now, info.tier == KVP_DEVICE ? KVO_FROM_DEVICE : KVO_FROM_HOST,
            checking);
        return;
    }
    KVO_MOVE(node, item, state, ITEM, FRAME, OTHER);
    if (item->list == NULL) {
        list_push(node, &node->waiting, item);
    }
}

static uint32_t pool_of(const kvo_node_t *node, const struct kvo_item *item)
{
    return kvp_pool_of(
        node->pager, item->arrival.tenant, item->arrival.variant, item->arrival.tier);
}

/* A frame that leaves in order is waited for: its copy goes a tier lower, or to a peer.
 * Where neither is done with copies nothing else makes room, so a demand drops the
 * coldest at once. */
static bool may_drop(const kvo_node_t *node, const struct kvo_item *item)
{
    bool lowest = item->arrival.tier == KVP_HOST || !node->has_host;
    bool demand = item->kind != ITEM_SPILL_IN;
    return item->waits >= KVO_PATIENCE_TICKS
           || (demand && lowest && !node->config.spill);
}

static void item_run(kvo_node_t *node, struct kvo_item *item)
{
    KV_ASSERT(item->state == ITEM_FRAME);
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, item->op);
    if (item->kind == ITEM_FETCH && item->peer == KVO_NONE &&
        !next_holder(node, op, item)) {
        list_remove(node, item);
        KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
        bool bytes = item->reason == KV_MISS_NOT_VERIFIED;
        item_fail(
            node, item, bytes ? KV_ERR_NOT_VERIFIED : KV_ERR_MISS,
            (enum kv_miss)item->reason);
        return;
    }
    if (!item->has_frame) {
        struct kvp_ref ref;
        item->arrival.may_drop = may_drop(node, item);
        kv_status_t status = kvp_arrive_begin(node->pager, &item->arrival, &ref);
        if (status == KV_EXISTS) {
            item_exists(node, item, ref);
            return;
        }
        /* At the tenant's ceiling its own oldest goes, once the item may drop. */
        item->at_ceiling = status == KV_ERR_QUOTA;
        if (status == KV_ERR_AGAIN ||
            (status == KV_ERR_QUOTA && !item->arrival.may_drop)) {
            if (item->list == NULL) {
                list_push(node, &node->waiting, item);
            }
            return;
        }
        if (status != KV_OK) {
            list_remove(node, item);
            KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
            item_fail(node, item, status, KV_MISS_QUOTA);
            return;
        }
        item->dst = ref;
        item->has_frame = true;
        if (item->list == &node->waiting) {
            node->gave[pool_of(node, item)] = true;
        }
    }
    if (item->kind == ITEM_PROMOTE) {
        item_copy(node, item);
    } else {
        item_aim(node, item);
    }
}

/* After a holder failed: the frame is kept if nothing was posted into it. */
static void item_next(kvo_node_t *node, struct kvo_item *item, enum kv_miss reason)
{
    KV_ASSERT(item->state == ITEM_FRAME);
    kvo_item_drop_grant(node, item);
    item->reason = (uint8_t)reason;
    if (item->kind == ITEM_SPILL_IN) { /* it has one holder */
        KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
        bool bytes = reason == KV_MISS_NOT_VERIFIED;
        item_fail(node, item, bytes ? KV_ERR_NOT_VERIFIED : KV_ERR_MISS, reason);
        return;
    }
    item->peer = KVO_NONE;
    item_run(node, item);
}

bool kvo_fetch_start(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t index, enum kvo_item_kind kind)
{
    struct kvo_item *item = item_take(node, kind);
    if (item == NULL) {
        return false;
    }
    struct kvo_key *key = &op->keys[index];
    uint16_t tenant = op->request.tenant, variant = op->request.variant;
    const struct kvp_variant_config *v = &node->config.pager.variants[variant];
    item->op = kvo_slots_id(&node->ops, op);
    item->key = index;
    item->copy = (struct kv_copy){
        .tenant = node->config.pager.tenants[tenant].id,
        .layout = v->layout,
        .group = v->group,
        .shard = v->shard,
        .key = key->key,
    };
    item->arrival = (struct kvp_arrival){
        .tenant = tenant,
        .variant = variant,
        .tier = op->request.op == KVO_SEQ_FETCH || !node->has_host ? KVP_DEVICE
                                                                   : KVP_HOST,
        .key = key->key,
        .n_tokens = key->n_tokens,
        .peer = KVP_OWN,
        .keep_reserve = true,
        .last_use_us = node->now,
    };
    kvo_op_place(node, op, index, &item->arrival.place);
    item->len = kvp_copy_len(node->pager, variant, key->n_tokens);
    item->src = key->ref;
    key->phase = KEY_ITEM;
    op->nr_items++;
    KVO_MOVE(node, item, state, ITEM, NONE, FRAME);
    item_run(node, item);
    return true;
}

bool kvo_spill_in_start(
    kvo_node_t *node, uint32_t peer, const struct kv_msg_offer *offer,
    struct kvp_ref dst, const struct kvp_arrival *arrival)
{
    struct kvo_item *item = item_take(node, ITEM_SPILL_IN);
    if (item == NULL) {
        return false;
    }
    item->peer = peer;
    item->copy = offer->copy;
    item->arrival = *arrival;
    item->len = offer->len;
    item->digest = offer->digest;
    item->dst = dst;
    item->has_frame = true;
    kvo_timer_set(&node->timers, &item->timer, node->now + node->config.spill_us);
    KVO_MOVE(node, item, state, ITEM, NONE, FRAME);
    item_aim(node, item);
    return true;
}

/* ------------------------------------------------------------------ GRANT */

static void ask_grants(kvo_node_t *node, uint32_t peer_index, bool spill)
{
    struct kvo_call *call =
        kvo_call_take(node, CALL_GRANT, peer_index, node->config.call_us);
    struct kv_copy copies[KV_MSG_ITEMS_MAX];
    uint32_t n = 0;
    KV_ASSERT(call != NULL); /* one is free */
    for (uint32_t i = node->wanting.head; i != KVO_NONE && n < KV_MSG_ITEMS_MAX;) {
        struct kvo_item *item = item_at(node, i);
        i = item->next;
        if (item->peer != peer_index || (item->kind == ITEM_SPILL_IN) != spill) {
            continue;
        }
        list_remove(node, item);
        item->call = kvo_slots_id(&node->calls, call);
        call->u.ids[n] = item_id(node, item);
        copies[n++] = item->copy;
    }
    call->n = n;
    struct kv_msg msg = {
        .type = KV_MSG_GRANT,
        .req = kvo_slots_id(&node->calls, call),
        .deadline_left_us = (uint32_t)node->config.call_us,
    };
    msg.u.grant = (struct kv_msg_grant){
        .purpose = spill ? KV_GRANT_SPILL : KV_GRANT_FETCH,
        .duration_us = (uint32_t)node->config.grant_us,
        .copies = copies,
        .nr_copies = n,
    };
    kvo_send(node, &node->peers[peer_index], &msg);
}

/* This item's share of a GRANT call that has ended. */
static struct kvo_item *call_item(kvo_node_t *node, struct kvo_call *call, uint32_t i)
{
    struct kvo_item *item = kvo_slots_find(&node->items, call->u.ids[i]);
    if (item == NULL || item->state != ITEM_GRANT ||
        item->call != kvo_slots_id(&node->calls, call)) {
        return NULL; /* cancelled meanwhile */
    }
    item->call = 0;
    return item;
}

/* Refused as a grant, but not as a copy. A grant keeps a frame from being reused until
 * it is given back, so an owner gives few at a time (AGAIN); serving one that is named
 * keeps it for the time of sending alone. */
static bool named_instead(const kvo_node_t *node, uint32_t peer, int32_t status)
{
    return (status == KV_ERR_BY_NAME || status == KV_ERR_AGAIN) &&
           kvo_reads(&node->peers[peer], KVO_NAMED);
}

void kvo_item_granted(kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg)
{
    const struct kv_msg_granted *granted = &msg->u.granted;
    uint64_t link = node->peers[call->peer].link;
    for (uint32_t i = 0; i < call->n; i++) {
        const struct kv_msg_granted_item *answer =
            i < granted->nr_items ? &granted->items[i] : NULL;
        struct kvo_item *item = call_item(node, call, i);
        bool given = answer != NULL && answer->status == KV_OK;
        if (item == NULL) {
            if (given) {
                kvo_release_queue(node, call->peer, link, answer->grant.id, false);
            }
            continue;
        }
        if (answer != NULL && named_instead(node, call->peer, answer->status)) {
            item->by_name = true;
            KVO_MOVE(node, item, state, ITEM, GRANT, POST);
            list_push(node, &node->posted, item);
            continue;
        }
        if (given) {
            item->grant = answer->grant;
            item->grant_asked_us = call->asked_us;
            item->grant_link = link;
            item->grant_gen = call->data_gen;
            item->has_grant = true;
        }
        if (given && grant_fits(item, &answer->grant)) {
            KVO_MOVE(node, item, state, ITEM, GRANT, POST);
            list_push(node, &node->posted, item);
        } else {
            KVO_MOVE(node, item, state, ITEM, GRANT, FRAME);
            item_next(node, item, KV_MISS_HOLDER_REFUSED);
        }
    }
}

void kvo_item_grant_failed(kvo_node_t *node, struct kvo_call *call)
{
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_item *item = call_item(node, call, i);
        if (item != NULL) {
            KVO_MOVE(node, item, state, ITEM, GRANT, FRAME);
            item_next(node, item, KV_MISS_PEER_LOST);
        }
    }
}

/* ------------------------------------------------------------------ POST */

static bool post_ready(kvo_node_t *node, struct kvo_item *item)
{
    const struct kvo_peer *peer = &node->peers[item->peer];
    if (peer->state != LINK_UP || peer->out != CONN_OPEN) {
        KVO_MOVE(node, item, state, ITEM, POST, FRAME);
        item_next(node, item, KV_MISS_PEER_LOST);
        return false;
    }
    if (item_named(node, item)) {
        kvo_item_drop_grant(node, item); /* of before its holder was named to */
        return true;
    }
    if (!grant_fresh(node, item)) {
        kvo_item_drop_grant(node, item);
        if (++item->grant_tries > 2) {
            KVO_MOVE(node, item, state, ITEM, POST, FRAME);
            item_next(node, item, KV_MISS_TOO_SLOW);
            return false;
        }
        KVO_MOVE(node, item, state, ITEM, POST, GRANT);
        list_push(node, &node->wanting, item);
        return false;
    }
    return true;
}

static void post_part(kvo_node_t *node, struct kvo_item *item, struct kvo_part *part)
{
    struct kvo_data_op *data = kvo_data_take(node, DATA_READ, item->peer);
    KV_ASSERT(data != NULL); /* read_free() said so */
    data->item = item_id(node, item);
    data->ref = item->dst;
    if (item->has_grant) {
        data->grant = item->grant.id;
        data->grant_asked_us = item->grant_asked_us;
        data->grant_us = item->grant.duration_us;
        data->expected = item->grant.digest;
        data->has_expected = true;
        item->has_grant = false; /* the read has it now */
    }
    if (item->kind == ITEM_SPILL_IN) {
        data->expected = item->digest;
        data->has_expected = true;
    }
    kvo_timer_set(&node->timers, &data->timer, node->now + node->config.read_us);
    kvo_part_at(node, item->dst, part);
    part->id = kvo_slots_id(&node->datas, data);
    part->len = item->len;
    part->copy = item->copy;
    if (data->grant != 0) {
        part->grant = item->grant;
    }
    item->data = part->id;
    KVO_MOVE(node, item, state, ITEM, POST, READ);
}

static void order_parts(
    kvo_node_t *node, const struct kvo_peer *peer, enum kvo_order_kind kind,
    struct kvo_part *parts, uint32_t n)
{
    for (uint32_t i = 0; n > 1 && i < n; i++) {
        struct kvo_data_op *data = kvo_slots_find(&node->datas, parts[i].id);
        data->batch = true;
    }
    struct kvo_order order = {
        .kind = kind,
        .peer = kvo_peer_index(node, peer),
        .link = peer->link,
        .data_gen = peer->out_gen,
        .parts = parts,
        .nr_parts = n,
        .req = parts[0].id,
    };
    node->out.order(node->out.arg, &order);
}

/* With as many out as may be, the others stay in POST until one ends: what is asked of
 * us is not a miss because we are busy. */
static bool read_free(const kvo_node_t *node)
{
    return node->nr_reading < node->config.nr_reads;
}

/* Posts every read for one peer: one READ message for up to KV_MSG_READ_MAX copies that
 * are named, one order for each that is read under a grant. */
static void post_peer(kvo_node_t *node, uint32_t peer_index)
{
    const struct kvo_peer *peer = &node->peers[peer_index];
    uint32_t n = 0;
    for (uint32_t i = node->posted.head; i != KVO_NONE && read_free(node);) {
        struct kvo_item *item = item_at(node, i);
        i = item->next;
        if (item->peer != peer_index) {
            continue;
        }
        list_remove(node, item);
        if (!post_ready(node, item)) {
            i = node->posted.head; /* the list may have changed */
            continue;
        }
        if (!item_named(node, item)) {
            struct kvo_part part = {0};
            post_part(node, item, &part);
            order_parts(node, peer, KVO_ORDER_READ_GRANT, &part, 1);
            continue;
        }
        post_part(node, item, &node->parts[n++]);
        if (n == KV_MSG_READ_MAX) {
            order_parts(node, peer, KVO_ORDER_READ_NAMED, node->parts, n);
            n = 0;
        }
    }
    if (n > 0) {
        order_parts(node, peer, KVO_ORDER_READ_NAMED, node->parts, n);
    }
}

void kvo_items_flush(kvo_node_t *node)
{
    while (node->wanting.head != KVO_NONE) {
        struct kvo_item *item = item_at(node, node->wanting.head);
        if (node->peers[item->peer].state != LINK_UP) {
            list_remove(node, item);
            KVO_MOVE(node, item, state, ITEM, GRANT, FRAME);
            item_next(node, item, KV_MISS_PEER_LOST);
            continue;
        }
        if (node->calls.free == KVO_NONE) {
            break; /* they wait in GRANT for a call to end */
        }
        ask_grants(node, item->peer, item->kind == ITEM_SPILL_IN);
    }
    while (node->posted.head != KVO_NONE && read_free(node)) {
        post_peer(node, item_at(node, node->posted.head)->peer);
    }
}

/* ------------------------------------------------------------------ READ, COPY */

/* What is wrong with a read that its mover calls done; OK when nothing is. */
static kv_status_t read_check(
    const kvo_node_t *node, const struct kvo_item *item, const struct kvo_data_op *data,
    const struct kvo_done *done)
{
    if (done->status != KV_OK) {
        /* An owner's word: what is no error is no success either. */
        return done->status < 0 ? done->status : KV_ERR_IO;
    }
    if (data->grant == 0 &&
        (done->len != item->len || done->n_tokens != item->arrival.n_tokens)) {
        return KV_ERR_NOT_VERIFIED;
    }
    if (data->grant != 0 && node->now - data->grant_asked_us >= data->grant_us) {
        return KV_ERR_STALE;
    }
    return KV_OK;
}

static enum kv_miss read_reason(kv_status_t status)
{
    switch (status) {
    case KV_ERR_NOT_VERIFIED:
        return KV_MISS_NOT_VERIFIED;
    case KV_ERR_LINK_LOST:
    case KV_ERR_IO:
        return KV_MISS_PEER_LOST;
    case KV_ERR_STALE:
    case KV_ERR_DEADLINE:
        return KV_MISS_TOO_SLOW;
    default:
        return KV_MISS_HOLDER_REFUSED;
    }
}

bool kvo_item_read_done(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done)
{
    struct kvo_item *item = kvo_slots_find(&node->items, data->item);
    KV_ASSERT(item != NULL && item->state == ITEM_READ);
    uint64_t expected = data->has_expected ? data->expected : done->expected;
    uint64_t computed = done->unverified ? expected : done->computed;
    if (KV_PLANTED(KV_PLANT_SKIP_DIGEST) && data->batch) {
        computed = expected;
    }
    kv_status_t status = read_check(node, item, data, done);
    struct kvp_ref ref = item->dst;
    bool spill = item->kind == ITEM_SPILL_IN;
    item->has_frame = false;
    item->data = 0;
    status = kvp_arrive_done( /* (3) */
        node->pager, &ref, status, expected, computed,
        spill ? KVP_ARRIVE_AGED : KVP_ARRIVE_USED);
    if (status == KV_OK || status == KV_EXISTS) {
        node->metrics.fetched_bytes += item->len;
        node->peers[item->peer].fetched_bytes += item->len;
        node->metrics.fetched_one_sided_bytes += data->grant != 0 ? item->len : 0;
        KVO_MOVE(node, item, state, ITEM, READ, NONE);
        if (spill) {
            kvo_spill_done_queue(node, item->peer, &item->copy, KV_OK);
            node->metrics.spills_in++;
            item_give(node, item);
        } else {
            item_success(node, item, ref, KVO_FROM_PEER, false);
        }
        return true;
    }
    if (status == KV_ERR_NOT_VERIFIED) {
        node->metrics.not_verified++;
        kvo_trace(
            node, "fetch n%u not verified", kvo_node_id(node, item->peer));
    }
    KVO_MOVE(node, item, state, ITEM, READ, FRAME);
    item_next(node, item, read_reason(status));
    return false;
}

/* The read is given up while its mover may still write: the item goes on without it. */
static void item_abandon_read(kvo_node_t *node, struct kvo_item *item)
{
    KV_ASSERT(item->state == ITEM_READ);
    struct kvo_data_op *data = kvo_slots_find(&node->datas, item->data);
    KV_ASSERT(data != NULL && !data->orphan);
    data->orphan = true;
    kvp_arrive_abandon(node->pager, item->dst); /* (4) */
    item->has_frame = false;
    item->data = 0;
}

void kvo_data_lost(kvo_node_t *node, struct kvo_data_op *data)
{
    struct kvo_item *item = kvo_slots_find(&node->items, data->item);
    KV_ASSERT(data->kind == DATA_READ && !data->orphan && item != NULL);
    node->metrics.reads_lost++;
    item_abandon_read(node, item);
    KVO_MOVE(node, item, state, ITEM, READ, FRAME);
    item_next(node, item, KV_MISS_TOO_SLOW);
}

void kvo_item_copied(
    kvo_node_t *node, struct kvp_ref ref, kv_status_t status, uint64_t computed)
{
    struct kvo_frame_owner *owner = &node->owners[ref.frame];
    struct kvo_item *item = kvo_slots_find(&node->items, owner->id);
    owner->id = 0;
    if (item == NULL || item->state != ITEM_COPY || item->dst.frame != ref.frame ||
        item->dst.gen != ref.gen) {
        kvp_io_end(node->pager, ref); /* was cancelled: (4) ends here */
        return;
    }
    struct kvp_info src;
    uint64_t expected = 0;
    if (kvp_info(node->pager, item->src, &src) == KV_OK) {
        expected = src.digest;
    }
    struct kvp_ref now = ref;
    item->has_frame = false;
    KVO_MOVE(node, item, state, ITEM, COPY, NONE);
    status = kvp_arrive_done(
        node->pager, &now, status, expected, computed, KVP_ARRIVE_USED);
    if (status == KV_OK || status == KV_EXISTS) {
        item_success(node, item, now, KVO_FROM_HOST, false);
        return;
    }
    if (status == KV_ERR_NOT_VERIFIED) {
        /* The host's own bytes have changed: nobody may have them any more. */
        node->metrics.not_verified++;
        (void)kvp_drop(
            node->pager, item->arrival.tenant, item->arrival.variant, &item->copy.key);
        item_fail(node, item, KV_ERR_NOT_VERIFIED, KV_MISS_NOT_VERIFIED);
    } else {
        item_fail(node, item, KV_ERR_MISS, KV_MISS_HOLDER_REFUSED);
    }
}

/* ------------------------------------------------------------------ giving up */

void kvo_item_cancel(kvo_node_t *node, struct kvo_item *item)
{
    list_remove(node, item);
    switch ((enum kvo_item_state)item->state) {
    case ITEM_FRAME:
        KVO_MOVE(node, item, state, ITEM, FRAME, NONE);
        break;
    case ITEM_OTHER:
        KVO_MOVE(node, item, state, ITEM, OTHER, NONE);
        break;
    case ITEM_GRANT:
        KVO_MOVE(node, item, state, ITEM, GRANT, NONE);
        break;
    case ITEM_POST:
        KVO_MOVE(node, item, state, ITEM, POST, NONE);
        break;
    case ITEM_READ:
        item_abandon_read(node, item);
        KVO_MOVE(node, item, state, ITEM, READ, NONE);
        break;
    case ITEM_COPY:
        kvp_arrive_abandon(node->pager, item->dst); /* kvo_item_copied() ends it */
        item->has_frame = false;
        KVO_MOVE(node, item, state, ITEM, COPY, NONE);
        break;
    case ITEM_NONE:
        KV_ASSERT(false);
    }
    item_drop_frame(node, item);
    kvo_item_drop_grant(node, item);
    if (item->kind == ITEM_PROMOTE) {
        kvp_release(node->pager, &item->src, 1);
    }
    item_give(node, item);
}

/* A spill that takes too long here; fetches end with their request. */
void kvo_item_timer(kvo_node_t *node, struct kvo_item *item)
{
    KV_ASSERT(item->kind == ITEM_SPILL_IN);
    uint32_t peer = item->peer;
    struct kv_copy copy = item->copy;
    kvo_item_cancel(node, item);
    kvo_spill_done_queue(node, peer, &copy, KV_ERR_MISS);
}

/* The link has ended, and with it every grant that came by it. Reads wait for their
 * fence. */
void kvo_items_of_peer_lost(kvo_node_t *node, uint32_t peer)
{
    for (uint32_t i = 0; i < node->items.nr; i++) {
        struct kvo_item *item = kvo_slots_at(&node->items, i);
        if (item == NULL || item->peer != peer) {
            continue;
        }
        item->has_grant = false;
        if (item->state == ITEM_POST) {
            list_remove(node, item);
            KVO_MOVE(node, item, state, ITEM, POST, FRAME);
            item_next(node, item, KV_MISS_PEER_LOST);
        } else if (item->list == &node->wanting) {
            list_remove(node, item);
            KVO_MOVE(node, item, state, ITEM, GRANT, FRAME);
            item_next(node, item, KV_MISS_PEER_LOST);
        }
    }
}

/* Patience is with a pool that gives nothing. Who waits behind others there is served
 * in its turn: were the whole wait counted, the end of every long fetch would drop what
 * was about to leave in order. */
static bool stuck(const kvo_node_t *node, const struct kvo_item *item)
{
    uint32_t pool = pool_of(node, item);
    return item->at_ceiling || pool == KVP_POOLS_MAX || !node->gave[pool];
}

/* Tries again for those that wait for a frame or for another's arrival. */
void kvo_items_work(kvo_node_t *node, bool tick)
{
    uint32_t n = node->waiting.nr;
    for (uint32_t i = tick ? node->waiting.head : KVO_NONE; i != KVO_NONE;) {
        struct kvo_item *item = item_at(node, i);
        item->waits += stuck(node, item);
        i = item->next;
    }
    if (tick) {
        memset(node->gave, 0, sizeof(node->gave));
    }
    for (uint32_t i = node->waiting.head; i != KVO_NONE && n > 0; n--) {
        if (node->nr_events >= KVO_EVENTS_PAUSE) {
            node->arrived = true; /* the step comes back when these are handled */
            return;
        }
        struct kvo_item *item = item_at(node, i);
        uint32_t next = item->next;
        if (item->state == ITEM_OTHER) {
            KVO_MOVE(node, item, state, ITEM, OTHER, FRAME);
        }
        item_run(node, item);
        /* item_run() can end this one and, by its request, others. */
        struct kvo_item *after =
            next == KVO_NONE ? NULL : kvo_slots_at(&node->items, next);
        i = after != NULL && after->list == &node->waiting ? next : node->waiting.head;
        if (after == NULL && next != KVO_NONE) {
            break;
        }
        if (next == KVO_NONE) {
            break;
        }
    }
}
