/* Look-ups: which nodes hold the pages that a request lacks (docs/protocol.md,
 * "look-up").
 *
 *   keys ──► segments ──► one LOOKUP per home, all at once ──► holders per key
 *                 │ home here: no message
 *                 │ silent for double_us, lost or cold: the next home is asked too
 *
 * (1) A segment is open while an answer may still come; the request moves on when
 * none is. (2) An answer is merged only into keys that were asked for; what a peer
 * says about anything else is ignored. (3) An absence is believed unless the home is
 * cold. (4) With as many calls out as may be, a segment waits, open, for one to end: at
 * most until its request's deadline.
 */
#include "node/core/core_priv.h"

/* ------------------------------------------------------------------ segments */

static bool key_is_tail(const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t i)
{
    uint32_t full = node->config.pager.variants[op->request.variant].page_tokens;
    return op->keys[i].n_tokens < full;
}

/* Name and index of the segment under which page i of the batch is filed; a tail is
 * filed behind its predecessor. */
static void key_segment(
    const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t i, kv_key_t *name,
    uint32_t *index)
{
    const struct kvo_request *request = &op->request;
    if (request->loose) {
        *name = op->keys[i].key;
        *index = 0;
        return;
    }
    uint32_t full = node->config.pager.variants[request->variant].page_tokens;
    uint32_t page = request->first_page + i;
    bool tail = key_is_tail(node, op, i);
    if (tail && page == 0) {
        *name = request->prev;
        *index = 0;
        return;
    }
    struct kvc_segment segment = kvc_segment_at(tail ? page - 1 : page, full);
    *name = segment.first >= request->first_page
                ? op->keys[segment.first - request->first_page].key
                : request->anchor;
    *index = page - segment.first;
}

void kvo_op_segments(kvo_node_t *node, struct kvo_op_obj *op)
{
    op->nr_segs = 0;
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        kv_key_t name;
        uint32_t index;
        key_segment(node, op, i, &name, &index);
        struct kvo_seg *seg = op->nr_segs > 0 ? &op->segs[op->nr_segs - 1] : NULL;
        if (seg == NULL || seg->n == KV_MSG_SEG_KEYS_MAX ||
            index != seg->index + seg->n || !kv_key_equal(&name, &seg->name)) {
            seg = &op->segs[op->nr_segs++];
            memset(seg, 0, sizeof(*seg));
            seg->name = name;
            seg->index = index;
            seg->first = (uint16_t)i;
        }
        seg->n++;
        op->keys[i].seg = (uint16_t)(op->nr_segs - 1);
    }
}

void kvo_op_place(
    const kvo_node_t *node, const struct kvo_op_obj *op, uint32_t i,
    struct kvp_place *place)
{
    memset(place, 0, sizeof(*place));
    key_segment(node, op, i, &place->segment, &place->index);
    if (key_is_tail(node, op, i)) {
        place->prev =
            i > 0 && !op->request.loose ? op->keys[i - 1].key : op->request.prev;
    }
}

/* ------------------------------------------------------------------ calls */

struct kvo_call *kvo_call_take(
    kvo_node_t *node, enum kvo_call_kind kind, uint32_t peer, uint64_t timeout_us)
{
    struct kvo_call *call = kvo_slots_take(&node->calls);
    if (call == NULL) {
        return NULL;
    }
    call->kind = (uint8_t)kind;
    call->peer = peer;
    call->asked_us = node->now;
    call->data_gen = node->peers[peer].out_gen;
    call->timer.pos = KVO_NONE;
    call->timer.kind = KVO_TIMER_CALL;
    call->timer.index = kvo_slots_index(&node->calls, call);
    kvo_timer_set(&node->timers, &call->timer, node->now + timeout_us);
    return call;
}

void kvo_call_give(kvo_node_t *node, struct kvo_call *call)
{
    kvo_timer_stop(&node->timers, &call->timer);
    kvo_slots_give(&node->calls, call);
}

/* The call is over without an answer: what waits for it goes on elsewhere. */
void kvo_call_failed(kvo_node_t *node, struct kvo_call *call)
{
    switch ((enum kvo_call_kind)call->kind) {
    case CALL_LOOKUP:
        kvo_lookup_failed(node, call);
        break;
    case CALL_GRANT:
        kvo_item_grant_failed(node, call);
        break;
    case CALL_OFFER:
        kvo_spill_unanswered(node, call);
        break;
    }
    kvo_call_give(node, call);
}

void kvo_call_timer(kvo_node_t *node, struct kvo_call *call)
{
    if (call->kind == CALL_LOOKUP && !call->doubled) {
        kvo_lookup_timer(node, call);
        return;
    }
    kvo_call_failed(node, call);
}

/* ------------------------------------------------------------------ what is here */

/* The page is here: `status` of the acquire, or of the look-up for EXISTS. */
static void key_local(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t i, struct kvp_ref ref,
    kv_status_t status)
{
    struct kvo_key *key = &op->keys[i];
    struct kvp_glance page;
    KV_ASSERT(kvp_glance(node->pager, ref, &page) == KV_OK);
    bool exists = op->request.op == KVO_EXISTS;
    bool fits = page.n_tokens == key->n_tokens;
    if (key->phase != KEY_IDLE || !fits) {
        /* Refused before, or a page of another length under this name. */
        if (!exists && status == KV_INPROGRESS) {
            kvp_release_waiting(node->pager, ref);
        } else if (!exists) {
            kvp_release(node->pager, &ref, 1);
        }
        if (key->phase == KEY_IDLE) {
            key->phase = KEY_DONE;
            key->status = KV_ERR_INVALID;
        }
        return;
    }
    key->place = page.tier == KVP_DEVICE ? KVO_FROM_DEVICE : KVO_FROM_HOST;
    if (exists) {
        key->phase = KEY_DONE;
        key->status = KV_OK;
        return;
    }
    key->ref = ref;
    key->phase = KEY_HERE;
    if (status == KV_INPROGRESS) {
        key->phase = KEY_CHECK;
        op->nr_checks++;
    }
}

/* What is here already: references for GET and SEQ_FETCH, mere knowledge for EXISTS.
 * Returns how many keys are still wanted. */
uint32_t kvo_look_here(kvo_node_t *node, struct kvo_op_obj *op)
{
    uint16_t tenant = op->request.tenant, variant = op->request.variant;
    uint32_t n = op->nr_keys, lacking = 0;
    for (uint32_t i = 0; i < n; i++) {
        node->keys[i] = op->keys[i].key;
    }
    if (op->request.op == KVO_EXISTS) {
        kvp_lookup(node->pager, tenant, variant, node->keys, n, node->refs);
    } else {
        kvp_acquire(
            node->pager, tenant, variant, node->keys, n, node->refs,
            node->answer_statuses);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (node->refs[i].frame == KVP_NO_FRAME) {
            lacking += op->keys[i].phase == KEY_IDLE;
        } else {
            key_local(node, op, i, node->refs[i], node->answer_statuses[i]);
        }
    }
    return lacking;
}

/* ------------------------------------------------------------------ asking */

static bool key_wants(const struct kvo_key *key)
{
    return key->phase == KEY_IDLE || key->phase == KEY_ASK;
}

static void add_holder(kvo_node_t *node, struct kvo_key *key, uint32_t holder)
{
    if (holder == node->self) {
        return;
    }
    for (uint32_t i = 0; i < key->nr_holders; i++) {
        if (key->holders[i] == holder) {
            return;
        }
    }
    if (key->nr_holders < KVO_HOLDERS_MAX) {
        key->holders[key->nr_holders++] = holder;
    }
    key->phase = KEY_FOUND;
}

static struct kv_copy key_copy(
    const kvo_node_t *node, const struct kvo_op_obj *op, const struct kvo_key *key)
{
    const struct kvp_variant_config *v =
        &node->config.pager.variants[op->request.variant];
    return (struct kv_copy){
        .tenant = node->config.pager.tenants[op->request.tenant].id,
        .layout = v->layout,
        .group = v->group,
        .shard = v->shard,
        .key = key->key,
    };
}

/* Keys of the segment without a holder yet; narrows what is asked to them. */
static uint32_t seg_lacks(const struct kvo_op_obj *op, struct kvo_seg *seg)
{
    uint32_t lacking = 0, last = seg->first;
    for (uint32_t i = seg->first; i < (uint32_t)seg->first + seg->n; i++) {
        if (key_wants(&op->keys[i])) {
            if (lacking++ == 0) {
                seg->ask_first = (uint16_t)i;
            }
            last = i;
        }
    }
    seg->ask_n = lacking == 0 ? 0 : (uint16_t)(last - seg->ask_first + 1);
    return lacking;
}

static void answer_here(kvo_node_t *node, struct kvo_op_obj *op, struct kvo_seg *seg)
{
    for (uint32_t i = seg->first; i < (uint32_t)seg->first + seg->n; i++) {
        struct kvo_key *key = &op->keys[i];
        if (!key_wants(key)) {
            continue;
        }
        struct kv_copy copy = key_copy(node, op, key);
        uint32_t holders[KVO_HOLDERS_MAX];
        uint32_t n =
            kvc_dir_holders(node->dir, &copy, node->self, KVO_HOLDERS_MAX, holders);
        for (uint32_t h = 0; h < n; h++) {
            add_holder(node, key, holders[h]);
        }
    }
    seg->cold =
        kvc_dir_cold(node->dir, node->now) && !KV_PLANTED(KV_PLANT_COLD_BELIEVED);
}

/* The segment's next home that can be asked, or KVO_NONE. */
static uint32_t seg_next_home(kvo_node_t *node, struct kvo_seg *seg)
{
    while (seg->next_home < seg->nr_homes) {
        uint32_t home = seg->homes[seg->next_home++];
        if (home == node->self) {
            continue;
        }
        if (kvo_usable(node, home)) {
            return home;
        }
        seg->lost = true;
    }
    return KVO_NONE;
}

static void seg_close(struct kvo_op_obj *op, struct kvo_seg *seg)
{
    if (seg->open) {
        seg->open = false;
        seg->ask_home = KVO_NONE;
        KV_ASSERT(op->nr_open > 0); /* (1) */
        op->nr_open--;
    }
}

/* (4) The segments keep their ask_home. */
static void ask_later(kvo_node_t *node, struct kvo_op_obj *op, uint32_t depth)
{
    node->nr_asking += !op->asking;
    op->asking = true;
    op->ask_depth = depth;
}

void kvo_lookup_stop(kvo_node_t *node, struct kvo_op_obj *op)
{
    node->nr_asking -= op->asking;
    op->asking = false;
}

static void send_lookup(
    kvo_node_t *node, struct kvo_op_obj *op, struct kvo_call *call, uint32_t depth)
{
    struct kvo_peer *peer = &node->peers[call->peer];
    const struct kvp_variant_config *v =
        &node->config.pager.variants[op->request.variant];
    struct kv_msg_want want = {
        .layout = v->layout, .group = v->group, .shard = v->shard};
    uint32_t nr_keys = 0;
    struct kv_msg msg = {
        .type = KV_MSG_LOOKUP,
        .req = kvo_slots_id(&node->calls, call),
        .deadline_left_us = (uint32_t)node->config.call_us,
    };
    struct kv_msg_lookup *lookup = &msg.u.lookup;
    *lookup = (struct kv_msg_lookup){
        .tenant = node->config.pager.tenants[op->request.tenant].id,
        .wants = &want,
        .nr_wants = 1,
        .segs = node->msg_segs,
        .nr_segs = call->n,
    };
    if (kvo_reads(peer, KVO_ONE_SIDED) && op->request.op != KVO_EXISTS) {
        lookup->grants_max = KV_MSG_GRANTS_MAX;
    }
    for (uint32_t s = 0; s < call->n; s++) {
        uint32_t first = call->u.segs[s].first, n = call->u.segs[s].n;
        struct kvo_seg *seg = &op->segs[call->u.segs[s].seg];
        node->msg_segs[s] = (struct kv_msg_segment){
            .segment = seg->name,
            .index = seg->index + (first - seg->first),
            .keys = &node->msg_keys[nr_keys],
            .nr_keys = n,
        };
        for (uint32_t i = 0; i < n; i++) {
            node->msg_keys[nr_keys++] = op->keys[first + i].key;
        }
        if (call->u.segs[s].seg + 1u == op->nr_segs && op->request.op == KVO_SEQ_FETCH
            && !op->request.loose) {
            lookup->tails = true;
            lookup->tail_segment = seg->name;
            lookup->tail_prev = op->keys[op->nr_keys - 1].key;
        }
    }
    KV_ASSERT(nr_keys <= KV_MSG_KEYS_MAX);
    op->nr_calls++;
    op->nr_rounds = op->nr_rounds < depth ? depth : op->nr_rounds;
    node->metrics.lookups_sent++;
    kvo_trace(
        node, "lookup n%u segments %u keys %u", kvo_node_id(node, call->peer), call->n,
        nr_keys);
    kvo_send(node, peer, &msg);
}

/* One message per home for the segments whose ask_home is set; clears it. */
static void ask_homes(kvo_node_t *node, struct kvo_op_obj *op, uint32_t depth)
{
    for (uint32_t s = 0; s < op->nr_segs; s++) {
        uint32_t home = op->segs[s].ask_home;
        if (home == KVO_NONE) {
            continue;
        }
        struct kvo_call *call =
            kvo_call_take(node, CALL_LOOKUP, home, node->config.double_us);
        if (call == NULL) {
            ask_later(node, op, depth);
            return;
        }
        uint32_t nr_keys = 0;
        for (uint32_t t = s; t < op->nr_segs; t++) {
            struct kvo_seg *seg = &op->segs[t];
            if (seg->ask_home != home) {
                continue;
            }
            if (call->n == KV_MSG_SEGS_MAX || nr_keys + seg->ask_n > KV_MSG_KEYS_MAX) {
                break; /* the rest of this home's in another message */
            }
            call->u.segs[call->n].seg = (uint16_t)t;
            call->u.segs[call->n].first = seg->ask_first;
            call->u.segs[call->n++].n = seg->ask_n;
            nr_keys += seg->ask_n;
            seg->ask_home = KVO_NONE;
            seg->waiting++;
        }
        call->op = kvo_slots_id(&node->ops, op);
        call->depth = (uint8_t)depth;
        call->look = op->looks;
        send_lookup(node, op, call, depth);
        KV_ASSERT(op->segs[s].ask_home == KVO_NONE); /* one segment always fits */
    }
}

void kvo_lookup_start(kvo_node_t *node, struct kvo_op_obj *op)
{
    op->nr_open = 0;
    op->looks++;
    for (uint32_t s = 0; s < op->nr_segs; s++) {
        struct kvo_seg *seg = &op->segs[s];
        seg->waiting = 0;
        seg->ask_home = KVO_NONE;
        seg->open = false;
        if (seg_lacks(op, seg) == 0) {
            continue;
        }
        seg->nr_homes =
            (uint8_t)kvc_homes(&node->view, &seg->name, KVC_HOMES, seg->homes);
        seg->next_home = 0;
        bool here = false;
        for (uint32_t h = 0; h < seg->nr_homes; h++) {
            here = here || seg->homes[h] == node->self;
        }
        if (here) {
            answer_here(node, op, seg);
            if (!seg->cold || seg_lacks(op, seg) == 0) {
                continue;
            }
        }
        uint32_t home = seg_next_home(node, seg);
        if (home == KVO_NONE) {
            continue;
        }
        seg->open = true;
        op->nr_open++;
        seg->ask_home = home;
        for (uint32_t i = 0; i < seg->ask_n; i++) {
            struct kvo_key *key = &op->keys[seg->ask_first + i];
            if (key->phase == KEY_IDLE) {
                key->phase = KEY_ASK;
            }
        }
    }
    ask_homes(node, op, op->nr_rounds + 1);
}

/* What no holder had any more may have moved while we asked: to another node, or here.
 * Once a key. */
void kvo_look_again(kvo_node_t *node, struct kvo_op_obj *op)
{
    KV_ASSERT(op->request.op != KVO_EXISTS); /* it fetches nothing */
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        struct kvo_key *key = &op->keys[i];
        struct kvp_ref ref;
        kv_status_t status;
        if (key->phase != KEY_MOVED) {
            continue;
        }
        op->nr_moved--;
        key->phase = KEY_IDLE;
        key->nr_holders = key->next_holder = 0;
        if (kvp_acquire(
                node->pager, op->request.tenant, op->request.variant, &key->key, 1,
                &ref, &status)
            == 1) {
            key_local(node, op, i, ref, status);
        }
    }
    KVO_MOVE(node, op, state, OP, MOVE, LOOK);
    kvo_lookup_start(node, op);
}

/* (4) A home may have gone while nobody could be asked. */
static void aim_again(kvo_node_t *node, struct kvo_op_obj *op)
{
    for (uint32_t s = 0; s < op->nr_segs; s++) {
        struct kvo_seg *seg = &op->segs[s];
        if (seg->ask_home == KVO_NONE || kvo_usable(node, seg->ask_home)) {
            continue;
        }
        seg->lost = true;
        seg->ask_home = seg_next_home(node, seg);
        if (seg->ask_home == KVO_NONE && seg->waiting == 0) {
            seg_close(op, seg);
        }
    }
}

static void ask_again(
    kvo_node_t *node, struct kvo_op_obj *op, const struct kvo_call *call, bool silent)
{
    bool any = false;
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_seg *seg = &op->segs[call->u.segs[i].seg];
        if (!seg->open || (silent && seg->waiting > 1)) {
            continue;
        }
        if (seg_lacks(op, seg) == 0) {
            seg_close(op, seg);
            continue;
        }
        if (seg->ask_home != KVO_NONE) {
            continue; /* (4) */
        }
        uint32_t home = seg_next_home(node, seg);
        if (home != KVO_NONE) {
            seg->ask_home = home;
            any = true;
        } else if (seg->waiting == 0) {
            seg_close(op, seg);
        }
    }
    if (any) {
        aim_again(node, op); /* others of it may wait, for a home that is gone by now */
        ask_homes(node, op, call->depth + 1u);
    }
}

void kvo_lookups_work(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->ops.nr && node->nr_asking > 0; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        if (op == NULL || !op->asking || node->calls.free == KVO_NONE) {
            continue;
        }
        kvo_lookup_stop(node, op);
        if (op->state == OP_LOOK) {
            aim_again(node, op);
            ask_homes(node, op, op->ask_depth);
            kvo_op_advance(node, op);
        }
    }
}

/* The request, if this call is of the look-up that it waits for. */
static struct kvo_op_obj *call_op(kvo_node_t *node, const struct kvo_call *call)
{
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, call->op);
    bool live = op != NULL && op->state == OP_LOOK && op->looks == call->look;
    return live ? op : NULL;
}

void kvo_lookup_timer(kvo_node_t *node, struct kvo_call *call)
{
    struct kvo_op_obj *op = call_op(node, call);
    call->doubled = true;
    uint64_t left = node->config.call_us > node->config.double_us
                        ? node->config.call_us - node->config.double_us
                        : 0;
    kvo_timer_set(&node->timers, &call->timer, node->now + left);
    if (op != NULL) {
        node->metrics.lookups_doubled++;
        ask_again(node, op, call, true);
        kvo_op_advance(node, op);
    }
}

void kvo_lookup_failed(kvo_node_t *node, struct kvo_call *call)
{
    struct kvo_op_obj *op = call_op(node, call);
    if (op == NULL) {
        return;
    }
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_seg *seg = &op->segs[call->u.segs[i].seg];
        KV_ASSERT(seg->waiting > 0);
        seg->waiting--;
        seg->lost = true;
    }
    ask_again(node, op, call, false);
    kvo_op_advance(node, op);
}

/* ------------------------------------------------------------------ the answer */

static void take_runs(
    kvo_node_t *node, struct kvo_op_obj *op, const struct kvo_call *call,
    const struct kv_msg_found *found)
{
    for (uint32_t r = 0; r < found->nr_runs; r++) {
        const struct kv_msg_run *run = &found->runs[r];
        if (run->seg >= call->n || run->want != 0) {
            continue; /* (2) */
        }
        uint32_t first = call->u.segs[run->seg].first, n = call->u.segs[run->seg].n;
        if (run->n > n || run->first > n - run->n) {
            continue;
        }
        for (uint32_t i = 0; i < run->n; i++) {
            struct kvo_key *key = &op->keys[first + run->first + i];
            if (key->phase != KEY_ASK && key->phase != KEY_IDLE &&
                key->phase != KEY_FOUND) {
                continue;
            }
            for (uint32_t h = 0; h < run->nr_holders; h++) {
                uint32_t holder = kvc_view_index(&node->view, run->holders[h]);
                if (holder != KVC_NO_NODE) {
                    add_holder(node, key, holder);
                }
            }
        }
    }
}

/* A grant that came with the answer is kept with its key if it is of use, else it is
 * given back at once. */
static void take_found_grant(
    kvo_node_t *node, struct kvo_op_obj *op, const struct kvo_call *call,
    const struct kv_msg_found_grant *given)
{
    const struct kvo_peer *peer = &node->peers[call->peer];
    struct kvo_key *key = NULL;
    if (op != NULL && given->seg < call->n) {
        if (given->page < call->u.segs[given->seg].n) {
            key = &op->keys[call->u.segs[given->seg].first + given->page];
        }
    }
    if (key == NULL || key->phase != KEY_FOUND || key->grant.id != 0) {
        kvo_release_queue(node, call->peer, peer->link, given->grant.id, false);
        return;
    }
    key->grant = given->grant;
    key->grant_asked_us = call->asked_us;
    key->grant_link = peer->link;
    key->grant_peer = call->peer;
    key->grant_gen = call->data_gen;
}

void kvo_lookup_found(kvo_node_t *node, struct kvo_call *call, const struct kv_msg *msg)
{
    struct kvo_op_obj *op = call_op(node, call);
    const struct kv_msg_found *found = &msg->u.found;
    if (op != NULL) {
        take_runs(node, op, call, found);
    }
    for (uint32_t g = 0; g < found->nr_grants; g++) {
        take_found_grant(node, op, call, &found->grants[g]);
    }
    if (op == NULL) {
        return;
    }
    if (found->nr_tails > 0 && op->nr_tails == 0) {
        op->nr_tails = found->nr_tails;
        memcpy(op->tails, found->tails, found->nr_tails * sizeof(op->tails[0]));
    }
    bool cold = found->cold && !KV_PLANTED(KV_PLANT_COLD_BELIEVED);
    for (uint32_t i = 0; i < call->n; i++) {
        struct kvo_seg *seg = &op->segs[call->u.segs[i].seg];
        KV_ASSERT(seg->waiting > 0);
        seg->waiting--;
        if (!cold || seg_lacks(op, seg) == 0) {
            seg_close(op, seg); /* (3) */
        } else {
            seg->cold = true;
        }
    }
    if (cold) {
        ask_again(node, op, call, false);
    }
    kvo_op_advance(node, op);
}

/* ------------------------------------------------------------------ as a home */

/* Grants on copies of our own, for a reader that reads one-sidedly. */
static uint32_t found_grants(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_lookup *lookup)
{
    const struct kvc_dir_answer *answer = node->found;
    uint32_t nr = 0;
    uint32_t me = node->config.node;
    for (uint32_t r = 0; r < answer->nr_runs; r++) {
        const struct kv_msg_run *run = &answer->runs[r];
        bool mine = false;
        for (uint32_t h = 0; h < run->nr_holders; h++) {
            mine = mine || run->holders[h] == me;
        }
        for (uint32_t i = 0; mine && i < run->n; i++) {
            if (nr == lookup->grants_max || nr == KV_MSG_GRANTS_MAX) {
                return nr;
            }
            const struct kv_msg_want *want = &lookup->wants[run->want];
            struct kv_copy copy = {
                .tenant = lookup->tenant,
                .layout = want->layout,
                .group = want->group,
                .shard = want->shard,
                .key = lookup->segs[run->seg].keys[run->first + i],
            };
            struct kv_msg_found_grant *given = &node->found_grants[nr];
            if (kvo_grant_give(node, peer, &copy, false, &given->grant) == KV_OK) {
                given->seg = run->seg;
                given->want = run->want;
                given->page = run->first + i;
                nr++;
            }
        }
    }
    return nr;
}

void kvo_lookup_asked(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_lookup *lookup = &msg->u.lookup;
    uint16_t tenant = kvp_tenant(node->pager, lookup->tenant);
    if (tenant == UINT16_MAX || (peer->tenants >> tenant & 1) == 0) {
        node->metrics.messages_bad++;
        kvo_send_status(
            node, peer, msg->req, KV_ERR_DENIED, "lookup.tenant", 0, lookup->tenant);
        return;
    }
    uint32_t asker = kvo_peer_index(node, peer);
    kvc_dir_lookup(node->dir, &node->view, lookup, asker, node->found);
    struct kv_msg answer = {.type = KV_MSG_FOUND, .req = msg->req};
    answer.u.found = (struct kv_msg_found){
        .cold = kvc_dir_cold(node->dir, node->now),
        .runs = node->found->runs,
        .nr_runs = node->found->nr_runs,
        .tails = node->found->tails,
        .nr_tails = node->found->nr_tails,
        .grants = node->found_grants,
    };
    if (lookup->grants_max > 0) {
        answer.u.found.nr_grants = found_grants(node, peer, lookup);
    }
    kvo_send(node, peer, &answer);
}
