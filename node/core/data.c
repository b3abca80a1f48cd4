/* Data operations in flight, and the fences that end them (docs/protocol.md, "data").
 *
 *   our connection to the peer:  CLOSED ──DATA_OPEN──► OPEN ──► FENCING ──► CLOSED
 *   the peer's to us:            CLOSED ──its DATA_OPEN──► OPEN ──► FENCING ──► CLOSED
 *
 * (1) Every order that is out has one data operation, found by its id. (2) An operation
 * ends by its completion, or by the fence of its connection; never by time. (3) Nothing
 * new is posted on a connection that is not OPEN. (4) DATA_OPEN carries a proof of the
 * link's nonce and a number that only grows. (5) A connection is one of each kind by
 * which the peer is read: they have one number, are believed once each, and are fenced
 * together.
 */
#include "node/core/core_priv.h"

struct kvo_data_op *
kvo_data_take(kvo_node_t *node, enum kvo_data_kind kind, uint32_t peer)
{
    bool read = kind == DATA_READ || kind == DATA_SERVE;
    bool copy = kind == DATA_CLIENT_IN || kind == DATA_CLIENT_OUT;
    if ((read && node->nr_reading >= node->config.nr_reads) ||
        (copy && node->nr_copying >= kvo_copies_max(&node->config))) {
        return NULL;
    }
    struct kvo_data_op *data = kvo_slots_take(&node->datas);
    KV_ASSERT(data != NULL); /* each kind has a bound, the table is their sum */
    node->nr_reading += read;
    node->nr_copying += copy;
    data->kind = (uint8_t)kind;
    data->peer = peer;
    data->timer.pos = KVO_NONE;
    data->timer.kind = KVO_TIMER_DATA;
    data->timer.index = kvo_slots_index(&node->datas, data);
    if (kind == DATA_READ || kind == DATA_FENCE_OUT) {
        data->link = node->peers[peer].link;
        data->data_gen = node->peers[peer].out_gen;
    } else if (kind == DATA_SERVE || kind == DATA_FENCE_IN) {
        data->link = node->peers[peer].link;
        data->data_gen = node->peers[peer].in_gen;
    }
    return data;
}

void kvo_data_give(kvo_node_t *node, struct kvo_data_op *data)
{
    node->nr_reading -= data->kind == DATA_READ || data->kind == DATA_SERVE;
    node->nr_copying -=
        data->kind == DATA_CLIENT_IN || data->kind == DATA_CLIENT_OUT;
    kvo_timer_stop(&node->timers, &data->timer);
    kvo_slots_give(&node->datas, data);
}

/* ------------------------------------------------------------------ opening */

static kv_status_t proof_of(
    const struct kvo_peer *peer, uint32_t data_gen, bool one_sided, kv_key_t *proof)
{
    uint8_t text[13];
    for (unsigned i = 0; i < 8; i++) {
        text[i] = (uint8_t)(peer->link >> (8 * i));
    }
    for (unsigned i = 0; i < 4; i++) {
        text[8 + i] = (uint8_t)(data_gen >> (8 * i));
    }
    text[12] = one_sided;
    return kv_hmac(peer->nonce, KV_NONCE_BYTES, text, sizeof(text), proof);
}

void kvo_data_open(kvo_node_t *node, struct kvo_peer *peer)
{
    KV_ASSERT(peer->state == LINK_UP);
    if (peer->out != CONN_CLOSED) {
        return;
    }
    kv_key_t proofs[KVO_NR_KINDS];
    for (unsigned kind = 0; kind < KVO_NR_KINDS; kind++) {
        if (proof_of(peer, peer->out_gen + 1, kind == KVO_ONE_SIDED, &proofs[kind]) !=
            KV_OK) {
            return; /* out of memory: the next tick tries again */
        }
    }
    peer->out_gen++; /* (4) */
    KVO_MOVE(node, peer, out, CONN, CLOSED, OPEN);
    for (unsigned kind = 0; kind < KVO_NR_KINDS; kind++) { /* (5) */
        if (!kvo_reads(peer, (enum kvo_kind)kind)) {
            continue;
        }
        struct kv_msg msg = {
            .proto = KV_PROTO_MAX,
            .type = KV_MSG_DATA_OPEN,
            .link = peer->link,
            .epoch = node->view.epoch,
        };
        msg.u.data_open = (struct kv_msg_data_open){
            .data_gen = peer->out_gen,
            .proof = proofs[kind],
            .one_sided = kind == KVO_ONE_SIDED,
        };
        node->metrics.messages_out++;
        node->metrics.sent[kv_msg_index(msg.type)]++;
        node->out.send_data(node->out.arg, kvo_peer_index(node, peer), &msg);
    }
}

/* Newer than all before, or the other kind of the newest. */
static bool open_expected(
    const struct kvo_peer *peer, const struct kv_msg_data_open *open, uint8_t bit)
{
    if (open->data_gen > peer->in_gen && open->data_gen > peer->in_next) {
        return true;
    }
    if (peer->in == CONN_FENCING) {
        return peer->in_next != 0 && open->data_gen == peer->in_next &&
               (peer->in_next_kinds & bit) == 0;
    }
    return peer->in == CONN_OPEN && open->data_gen == peer->in_gen &&
           (peer->in_kinds & bit) == 0;
}

bool kvo_data_opened(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_data_open *open = &msg->u.data_open;
    uint8_t bit = (uint8_t)(1 << (open->one_sided ? KVO_ONE_SIDED : KVO_NAMED));
    kv_key_t proof;
    if (!open_expected(peer, open, bit) ||
        proof_of(peer, open->data_gen, open->one_sided, &proof) != KV_OK ||
        !kv_key_equal_secret(&proof, &open->proof)) {
        node->metrics.messages_bad++;
        return false;
    }
    if (peer->in == CONN_FENCING) { /* the fence is of the one before */
        peer->in_next_kinds |= bit;
        if (open->data_gen != peer->in_next) {
            peer->in_next = open->data_gen;
            peer->in_next_kinds = bit;
        }
        return true;
    }
    peer->in_kinds |= bit;
    if (open->data_gen != peer->in_gen) {
        peer->in_gen = open->data_gen;
        peer->in_kinds = bit;
    }
    if (peer->in == CONN_CLOSED) {
        KVO_MOVE(node, peer, in, CONN, CLOSED, OPEN);
    }
    return true;
}

/* ------------------------------------------------------------------ serving */

static void serve(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t req, const struct kv_copy *copy,
    uint32_t item)
{
    struct kvo_part part = {.req = req};
    part.data = (struct kv_msg_data){.data_gen = peer->in_gen, .index = item};
    uint16_t tenant = kvp_tenant(node->pager, copy->tenant);
    uint16_t variant = kvp_variant(node->pager, copy->layout, copy->group, copy->shard);
    struct kvp_ref ref;
    struct kvo_data_op *data = NULL;
    struct kvp_info info;
    if (tenant == UINT16_MAX || (peer->tenants >> tenant & 1) == 0) {
        part.data.status = KV_ERR_DENIED;
    } else if (
        variant == UINT16_MAX ||
        kvp_lookup(node->pager, tenant, variant, &copy->key, 1, &ref) == 0) {
        part.data.status = KV_ERR_MISS;
    } else {
        data = kvo_data_take(node, DATA_SERVE, kvo_peer_index(node, peer));
        if (data == NULL || kvp_io_begin(node->pager, ref) != KV_OK) {
            part.data.status = KV_ERR_AGAIN;
        }
    }
    if (part.data.status != KV_OK && data != NULL) {
        kvo_data_give(node, data);
    }
    if (part.data.status == KV_OK) {
        KV_ASSERT(kvp_info(node->pager, ref, &info) == KV_OK);
        data->ref = ref;
        data->spill = info.state == KVP_LEAVING;
        kvo_timer_set(
            &node->timers, &data->timer, node->now + 2 * node->config.read_us);
        kvo_part_at(node, ref, &part);
        part.id = kvo_slots_id(&node->datas, data);
        part.len = info.len;
        part.data.len = info.len;
        part.data.n_tokens = info.n_tokens;
        part.data.gen = ref.gen;
        part.data.digest = info.digest;
    }
    struct kvo_order order = {
        .kind = KVO_ORDER_SERVE,
        .peer = kvo_peer_index(node, peer),
        .link = peer->link,
        .data_gen = peer->in_gen,
        .parts = &part,
        .nr_parts = 1,
    };
    node->metrics.sent[kv_msg_index(KV_MSG_DATA)]++;
    node->out.order(node->out.arg, &order);
}

void kvo_data_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_read *read = &msg->u.read;
    if (peer->in != CONN_OPEN || read->data_gen != peer->in_gen) {
        node->metrics.messages_stale++;
        return; /* (3) the reader's time ends it there */
    }
    for (uint32_t i = 0; i < read->nr_copies; i++) {
        serve(node, peer, msg->req, &read->copies[i], i);
    }
}

/* ------------------------------------------------------------------ fences */

static void fence(
    kvo_node_t *node, struct kvo_peer *peer, enum kvo_data_kind kind, uint64_t *id)
{
    uint32_t index = kvo_peer_index(node, peer);
    struct kvo_data_op *data = kvo_data_take(node, kind, index);
    KV_ASSERT(data != NULL); /* never refused: a peer has at most one each way */
    *id = kvo_slots_id(&node->datas, data);
    struct kvo_part part = {.id = *id};
    struct kvo_order order = {
        .kind = kind == DATA_FENCE_IN ? KVO_ORDER_FENCE_IN : KVO_ORDER_FENCE_OUT,
        .peer = index,
        .link = peer->link,
        .data_gen = data->data_gen,
        .parts = &part,
        .nr_parts = 1,
    };
    node->metrics.fences++;
    kvo_trace(
        node, "fence n%u %s", kvo_node_id(node, index),
        kind == DATA_FENCE_IN ? "in" : "out");
    node->out.order(node->out.arg, &order);
}

void kvo_fence_in(kvo_node_t *node, struct kvo_peer *peer)
{
    if (peer->in == CONN_OPEN) {
        KVO_MOVE(node, peer, in, CONN, OPEN, FENCING);
        kvo_givens_fencing(node, kvo_peer_index(node, peer));
        fence(node, peer, DATA_FENCE_IN, &peer->in_fence);
    }
}

void kvo_fence_out(kvo_node_t *node, struct kvo_peer *peer)
{
    if (peer->out == CONN_OPEN) {
        KVO_MOVE(node, peer, out, CONN, OPEN, FENCING);
        fence(node, peer, DATA_FENCE_OUT, &peer->out_fence);
    }
}

/* (2) What an orphan still held: its frame's io, its grant. */
static void orphan_end(kvo_node_t *node, struct kvo_data_op *data)
{
    kvp_io_end(node->pager, data->ref);
    if (data->grant != 0) {
        kvo_release_queue(node, data->peer, data->link, data->grant, false);
    }
    kvo_data_give(node, data);
}

static void revoked_now(kvo_node_t *node, struct kvo_data_op *data)
{
    struct kvo_peer *peer = &node->peers[data->peer];
    if (peer->state != LINK_UP || peer->link != data->link) {
        return;
    }
    struct kv_msg msg = {.type = KV_MSG_REVOKED};
    msg.u.revoked.ids = &data->grant;
    msg.u.revoked.nr_ids = 1;
    kvo_send(node, peer, &msg);
}

static void read_end(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done)
{
    if (data->revoke) {
        revoked_now(node, data);
        data->grant = 0;
    }
    if (data->orphan) {
        orphan_end(node, data);
        return;
    }
    struct kvo_data_op ended = *data;
    kvo_data_give(node, data);
    bool read = kvo_item_read_done(node, &ended, done);
    if (ended.grant != 0) {
        kvo_release_queue(node, ended.peer, ended.link, ended.grant, read);
    }
}

static void serve_end(kvo_node_t *node, struct kvo_data_op *data, kv_status_t status)
{
    struct kvp_glance page;
    if (status == KV_OK && kvp_glance(node->pager, data->ref, &page) == KV_OK) {
        node->metrics.served_bytes += page.len;
        node->peers[data->peer].served_bytes += page.len;
        if (!data->spill) {
            kvo_cooled(node, data->ref); /* the peer has it now */
        }
    }
    kvp_io_end(node->pager, data->ref);
    kvo_data_give(node, data);
}

/* Ends every operation of `kind` on the peer's connection up to data_gen. */
static void end_all(
    kvo_node_t *node, enum kvo_data_kind kind, uint32_t peer, uint32_t data_gen)
{
    static const struct kvo_done lost = {.status = KV_ERR_LINK_LOST};
    for (uint32_t i = 0; i < node->datas.nr; i++) {
        struct kvo_data_op *data = kvo_slots_at(&node->datas, i);
        if (data == NULL || data->kind != kind || data->peer != peer ||
            data->data_gen > data_gen) {
            continue;
        }
        if (kind == DATA_READ) {
            read_end(node, data, &lost);
        } else {
            serve_end(node, data, KV_ERR_LINK_LOST);
        }
    }
}

static void fence_out_end(kvo_node_t *node, struct kvo_data_op *data)
{
    struct kvo_peer *peer = &node->peers[data->peer];
    uint32_t index = data->peer, data_gen = data->data_gen;
    KV_ASSERT(peer->out_fence == kvo_slots_id(&node->datas, data));
    peer->out_fence = 0;
    kvo_data_give(node, data);
    KVO_MOVE(node, peer, out, CONN, FENCING, CLOSED);
    if (peer->state == LINK_UP) {
        /* Grants that came under the old connection are refused by item_fresh():
         * opening first lets the requests that follow go on at once. */
        kvo_data_open(node, peer);
    }
    end_all(node, DATA_READ, index, data_gen);
    kvo_link_fenced(node, peer);
}

static void fence_in_end(kvo_node_t *node, struct kvo_data_op *data)
{
    struct kvo_peer *peer = &node->peers[data->peer];
    uint32_t index = data->peer, data_gen = data->data_gen;
    KV_ASSERT(peer->in_fence == kvo_slots_id(&node->datas, data));
    peer->in_fence = 0;
    kvo_data_give(node, data);
    KVO_MOVE(node, peer, in, CONN, FENCING, CLOSED);
    end_all(node, DATA_SERVE, index, data_gen);
    kvo_givens_fenced(node, index, data_gen);
    if (peer->in_next != 0 && peer->state == LINK_UP) {
        KV_ASSERT(peer->in_next > peer->in_gen);
        peer->in_gen = peer->in_next;
        peer->in_kinds = peer->in_next_kinds;
        KVO_MOVE(node, peer, in, CONN, CLOSED, OPEN);
    }
    peer->in_next = 0;
    kvo_link_fenced(node, peer);
}

/* ------------------------------------------------------------------ completions */

void kvo_data_completed(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done)
{
    switch ((enum kvo_data_kind)data->kind) {
    case DATA_READ:
        read_end(node, data, done);
        break;
    case DATA_SERVE:
        serve_end(node, data, done->status);
        break;
    case DATA_CLIENT_IN:
    case DATA_CLIENT_OUT:
        kvo_op_copied(node, data, done);
        break;
    case DATA_FENCE_IN:
        fence_in_end(node, data);
        break;
    case DATA_FENCE_OUT:
        fence_out_end(node, data);
        break;
    }
}

/* A read that takes too long is given up and its connection fenced; a reader that does
 * not take its bytes is fenced too. */
void kvo_data_timer(kvo_node_t *node, struct kvo_data_op *data)
{
    struct kvo_peer *peer = &node->peers[data->peer];
    if (data->kind == DATA_SERVE) {
        kvo_fence_in(node, peer);
        return;
    }
    KV_ASSERT(data->kind == DATA_READ);
    bool newest = data->data_gen == peer->out_gen && data->link == peer->link;
    if (newest) {
        kvo_fence_out(node, peer);
    }
    if (!data->orphan) {
        kvo_data_lost(node, data);
    }
}

/* Our process was stopped for longer than the others wait: every grant that we hold may
 * have been taken back, so nothing that was read under one is used. */
void kvo_data_pause(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->datas.nr; i++) {
        struct kvo_data_op *data = kvo_slots_at(&node->datas, i);
        if (data != NULL && data->kind == DATA_READ && data->grant != 0 &&
            !data->orphan) {
            kvo_fence_out(node, &node->peers[data->peer]);
            kvo_data_lost(node, data);
        }
    }
    for (uint32_t i = 0; i < node->items.nr; i++) {
        struct kvo_item *item = kvo_slots_at(&node->items, i);
        if (item != NULL) {
            kvo_item_drop_grant(node, item);
        }
    }
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        for (uint32_t k = 0; op != NULL && k < op->nr_keys; k++) {
            struct kvo_key *key = &op->keys[k];
            kvo_release_queue(
                node, key->grant_peer, key->grant_link, key->grant.id, false);
            key->grant.id = 0;
        }
    }
}
