/* Clients and their requests (docs/protocol.md, "client").
 *
 *   GET, SEQ_FETCH, EXISTS:  NONE ──► LOOK ──► MOVE ──► OUT ──► NONE
 *   PUT:                      NONE ──► FILL ──► NONE
 *   SEQ_APPEND:               NONE ──► READY ──► NONE   while its frames are readied
 *   client:  GONE ──► ATTACHED ── hung up ──► HUNG_UP ── dead ──► GONE
 *
 * (1) A request ends once: op_finish() answers, kvo_op_drop() does not. (2) Whatever
 * a key of a request holds (a reference, an item, a fill) is given back or handed
 * over before the request ends. (3) What a hung-up client could still write stays
 * fenced until it is dead. (4) A client's tenants come from its attachment, never
 * from its requests.
 */
#include "node/core/core_priv.h"

const kv_status_t kvo_answer_statuses[] = {
    KV_OK,          KV_SEALING,      KV_EXISTS,     KV_ERR_AGAIN,
    KV_ERR_MISS,    KV_ERR_INVALID,  KV_ERR_STALE,  KV_ERR_TOO_LARGE,
    KV_ERR_DENIED,  KV_ERR_QUOTA,    KV_ERR_DEADLINE, KV_ERR_NOT_VERIFIED,
    KV_ERR_IO,
};
const unsigned kvo_nr_answer_statuses = KV_COUNT_OF(kvo_answer_statuses);

/* ------------------------------------------------------------------ answers */

static void count_status(kvo_node_t *node, kv_status_t status)
{
    node->metrics.statuses[kv_status_index(status)]++;
}

void kvo_answer_now(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request,
    struct kvo_answer *answer, kv_status_t status, const struct kv_detail *detail)
{
    answer->client = client;
    answer->tag = request->tag;
    answer->op = request->op;
    answer->status = status;
    if (detail != NULL) {
        answer->detail = *detail;
    }
    count_status(node, status);
    node->metrics.answers++;
    node->out.answer(node->out.arg, answer);
}

static void count_key(kvo_node_t *node, enum kvo_op op, const struct kvo_key *key)
{
    bool unmet = key->status == KV_ERR_MISS || key->status == KV_ERR_NOT_VERIFIED ||
                 key->status == KV_ERR_DEADLINE || key->status == KV_ERR_QUOTA;
    count_status(node, key->status);
    if (unmet && op != KVO_PUT) {
        node->metrics.misses[key->reason]++;
    }
    node->metrics.hits_device += key->place == KVO_FROM_DEVICE;
    node->metrics.hits_host += key->place == KVO_FROM_HOST;
    node->metrics.hits_peer += key->place == KVO_FROM_PEER;
}

/* ------------------------------------------------------------------ in flight */

static struct kvo_op_obj *op_take(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request)
{
    struct kvo_op_obj *op = kvo_slots_take(&node->ops);
    if (op == NULL) {
        return NULL;
    }
    uint32_t index = kvo_slots_index(&node->ops, op);
    op->client = client;
    op->request = *request;
    op->keys = &node->key_memory[(size_t)index * KVO_BATCH_KEYS_MAX];
    op->segs = &node->seg_memory[(size_t)index * KVO_BATCH_KEYS_MAX];
    op->timer.pos = KVO_NONE;
    op->timer.kind = KVO_TIMER_OP;
    op->timer.index = index;
    op->nr_keys = op->run = request->nr_keys;
    uint32_t full = node->config.pager.variants[request->variant].page_tokens;
    static const kv_key_t zero;
    for (uint32_t i = 0; i < request->nr_keys; i++) {
        struct kvo_key *key = &op->keys[i];
        memset(key, 0, sizeof(*key));
        key->key = request->keys[i];
        key->ref.frame = KVP_NO_FRAME;
        key->buffer = request->buffers != NULL ? request->buffers[i] : 0;
        key->n_tokens = request->n_tokens != NULL ? request->n_tokens[i] : full;
        key->phase = KEY_IDLE;
        key->reason = KV_MISS_NOT_FOUND;
        if (kv_key_equal(&key->key, &zero) || key->n_tokens == 0 ||
            key->n_tokens > full) {
            key->phase = KEY_DONE;
            key->status = KV_ERR_INVALID;
            key->n_tokens = full; /* so that segments stay plain */
        }
    }
    op->request.keys = NULL;
    op->request.buffers = NULL;
    op->request.n_tokens = NULL;
    kvo_op_segments(node, op);
    kvo_timer_set(&node->timers, &op->timer, request->deadline_us);
    node->clients[client.index].nr_ops++;
    return op;
}

static void op_give(kvo_node_t *node, struct kvo_op_obj *op)
{
    KV_ASSERT(op->nr_items == 0 && op->nr_queued == 0);
    KV_ASSERT(node->clients[op->client.index].nr_ops > 0);
    node->clients[op->client.index].nr_ops--;
    kvo_timer_stop(&node->timers, &op->timer);
    kvo_slots_give(&node->ops, op);
}

static struct kvo_item *item_of_key(
    kvo_node_t *node, const struct kvo_op_obj *op, uint32_t key)
{
    uint64_t id = kvo_slots_id(&node->ops, op);
    for (uint32_t i = 0; i < node->items.nr; i++) {
        struct kvo_item *item = kvo_slots_at(&node->items, i);
        if (item != NULL && item->op == id && item->key == key) {
            return item;
        }
    }
    return NULL;
}

/* Of no use any more: it came with FOUND, and another holder was asked, or none. */
static void key_drop_grant(kvo_node_t *node, struct kvo_key *key)
{
    if (key->grant.id != 0) {
        kvo_release_queue(
            node, key->grant_peer, key->grant_link, key->grant.id, false);
        key->grant.id = 0;
    }
}

/* (2) Ends what the key is in the middle of. References stay in key->ref. */
static void key_stop(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    struct kvo_key *key = &op->keys[i];
    key_drop_grant(node, key);
    switch ((enum kvo_key_phase)key->phase) {
    case KEY_QUEUED:
        op->nr_queued--;
        node->nr_queued--;
        break;
    case KEY_ITEM: {
        struct kvo_item *item = item_of_key(node, op, i);
        KV_ASSERT(item != NULL);
        kvo_item_cancel(node, item); /* gives the promotion's source back */
        key->ref.frame = KVP_NO_FRAME;
        op->nr_items--;
        break;
    }
    case KEY_MOVED:
        op->nr_moved--;
        break;
    case KEY_CHECK:
        op->nr_checks--;
        kvp_release_waiting(node->pager, key->ref);
        key->ref.frame = KVP_NO_FRAME;
        break;
    default:
        break;
    }
}

static void key_release(kvo_node_t *node, struct kvo_key *key)
{
    if (key->ref.frame != KVP_NO_FRAME) {
        kvp_release(node->pager, &key->ref, 1);
        key->ref.frame = KVP_NO_FRAME;
    }
}

/* The key ends here with `status`; whatever it held is given back. */
static void key_end(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t i, kv_status_t status)
{
    key_stop(node, op, i);
    key_release(node, &op->keys[i]);
    op->keys[i].phase = KEY_DONE;
    op->keys[i].status = status;
    if (status != KV_OK) {
        op->keys[i].place = KVO_FROM_NONE;
    }
}

/* ------------------------------------------------------------------ PUT */

static void
fill_end(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i, kv_status_t why)
{
    struct kvo_key *key = &op->keys[i];
    KV_ASSERT(
        key->phase == KEY_HERE || key->phase == KEY_OUT || key->phase == KEY_SEAL);
    bool fence = key->phase == KEY_OUT; /* its mover still writes */
    node->owners[key->ref.frame].id = 0;
    kvp_fill_abort(node->pager, key->ref, fence);
    key->ref.frame = KVP_NO_FRAME;
    key->phase = KEY_DONE;
    key->status = why;
}

static void fill_begin(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    struct kvo_key *key = &op->keys[i];
    uint16_t tenant = op->request.tenant, variant = op->request.variant;
    struct kvp_ref ref;
    if (kvp_lookup(node->pager, tenant, variant, &key->key, 1, &ref) == 1) {
        key->phase = KEY_DONE;
        key->status = KV_EXISTS;
        return;
    }
    enum kvp_tier tier = node->has_host ? KVP_HOST : KVP_DEVICE;
    kv_status_t status =
        kvp_fill_begin(node->pager, tenant, variant, tier, key->n_tokens, &ref);
    if (status != KV_OK) {
        key->phase = KEY_DONE;
        key->status = status;
        if (op->detail.field == NULL) {
            kvo_room_detail(node, &op->request, tier, 1, status, &op->detail);
        }
        return;
    }
    key->ref = ref;
    key->phase = KEY_HERE; /* the frame is; its bytes come once it may be written */
    node->owners[ref.frame].id = kvo_slots_id(&node->ops, op);
    node->owners[ref.frame].key = i;
    if (kvp_writable(node->pager, ref)) {
        kvo_copy_want(node, op, i);
    }
}

/* Keys that wait for a frame, in their order. */
static void fill_more(kvo_node_t *node, struct kvo_op_obj *op)
{
    uint32_t left = kvo_room_now(node, op);
    for (uint32_t i = 0; i < op->nr_keys && op->nr_wanted > 0; i++) {
        struct kvo_key *key = &op->keys[i];
        if (key->phase != KEY_ROOM) {
            continue;
        }
        if (left == 0 && !kvo_room_at_ceiling(node, op, 1)) {
            return;
        }
        if (op->growing) {
            node->wanted[op->pool]--;
        }
        op->nr_wanted--;
        fill_begin(node, op, i);
        left -= left > 0 && key->phase != KEY_DONE;
    }
    KV_ASSERT(op->nr_wanted == 0);
    kvo_room_end(node, op);
}

static void fill_seal(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    struct kvo_key *key = &op->keys[i];
    struct kvp_place place;
    struct kvp_ref existing;
    kvo_op_place(node, op, i, &place);
    key->phase = KEY_SEAL;
    kv_status_t status =
        kvp_fill_seal(node->pager, key->ref, &key->key, &place, &existing);
    if (status == KV_SEALING) {
        return;
    }
    node->owners[key->ref.frame].id = 0;
    if (status == KV_EXISTS) {
        kvp_release(node->pager, &existing, 1);
        key->ref.frame = KVP_NO_FRAME;
        key->phase = KEY_DONE;
        key->status = KV_EXISTS;
        return;
    }
    fill_end(node, op, i, status);
}

void kvo_op_sealed(
    kvo_node_t *node, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    struct kvo_frame_owner *owner = &node->owners[ref.frame];
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, owner->id);
    uint32_t i = owner->key;
    owner->id = 0;
    bool ours = op != NULL && op->state == OP_FILL && op->keys[i].phase == KEY_SEAL;
    if (status == KV_OK) {
        kvp_release(node->pager, &now, 1); /* a put keeps no reference */
    }
    if (!ours) {
        return;
    }
    op->keys[i].ref.frame = KVP_NO_FRAME;
    op->keys[i].phase = KEY_DONE;
    op->keys[i].status = status != KV_OK ? status
                         : now.frame == ref.frame && now.gen == ref.gen ? KV_OK
                                                                        : KV_EXISTS;
    kvo_op_advance(node, op);
}

/* ------------------------------------------------------------------ the end */

static void finish_seq_fetch(
    kvo_node_t *node, struct kvo_op_obj *op, struct kvo_answer *answer)
{
    uint32_t n = 0;
    while (n < op->nr_keys && op->keys[n].phase == KEY_HERE) {
        node->refs[n] = op->keys[n].ref;
        n++;
    }
    kv_status_t status =
        n == 0 ? KV_OK : kvp_seq_adopt(node->pager, op->request.seq, node->refs, n);
    if (status == KV_ERR_AGAIN) {
        /* The deadline came while some page is being re-checked: up to there. */
        uint32_t taken = 0;
        while (taken < n && kvp_seq_adopt(
                                node->pager, op->request.seq, &node->refs[taken], 1) ==
                                KV_OK) {
            taken++;
        }
        n = taken;
    } else if (status != KV_OK) {
        answer->status = status;
        n = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        op->keys[i].ref.frame = KVP_NO_FRAME; /* the sequence's now */
        op->keys[i].phase = KEY_DONE;
        op->keys[i].status = KV_OK;
    }
    struct kvp_seq_info info;
    answer->nr_hits = n;
    answer->seq = op->request.seq;
    if (kvp_seq_info(node->pager, op->request.seq, &info) == KV_OK) {
        kvo_answer_table(node, answer, info.nr_pages - n, n);
    }
    answer->tails = op->tails;
    answer->nr_tails = op->nr_tails;
}

/* Ends what is still open, tails first as everywhere. `why` is for keys cut short. */
static void op_close_keys(kvo_node_t *node, struct kvo_op_obj *op, kv_status_t why)
{
    for (uint32_t i = op->nr_keys; i-- > 0;) {
        struct kvo_key *key = &op->keys[i];
        if (key->phase == KEY_DONE) {
            key_drop_grant(node, key);
            continue;
        }
        if (op->state == OP_FILL && key->ref.frame != KVP_NO_FRAME) {
            fill_end(node, op, i, why);
            continue;
        }
        bool here = key->phase == KEY_HERE;
        bool cut = !here && key->phase != KEY_IDLE && key->phase != KEY_FOUND;
        bool late = why == KV_ERR_DEADLINE && (cut || key->phase == KEY_FOUND);
        key_end(node, op, i, late ? KV_ERR_DEADLINE : KV_ERR_MISS);
        if (late) {
            key->reason = KV_MISS_TOO_SLOW;
        }
    }
}

static void settled(kvo_node_t *node, struct kvo_op_obj *op)
{
    node->nr_ready -= op->settling;
    op->settling = false;
}

static void op_leave_state(kvo_node_t *node, struct kvo_op_obj *op)
{
    settled(node, op);
    kvo_lookup_stop(node, op);
    kvo_copy_want_none(node, op);
    switch ((enum kvo_op_state)op->state) {
    case OP_LOOK:
        KVO_MOVE(node, op, state, OP, LOOK, NONE);
        break;
    case OP_MOVE:
        KVO_MOVE(node, op, state, OP, MOVE, NONE);
        break;
    case OP_OUT:
        KVO_MOVE(node, op, state, OP, OUT, NONE);
        break;
    case OP_FILL:
        kvo_room_end(node, op);
        KVO_MOVE(node, op, state, OP, FILL, NONE);
        node->nr_ready--;
        break;
    case OP_READY:
        kvo_room_end(node, op);
        KVO_MOVE(node, op, state, OP, READY, NONE);
        node->nr_ready--;
        break;
    case OP_NONE:
        break;
    }
}

/* In the tier that the sequence's pages go to: see kvp_seq_append(). */
static void append_detail(
    kvo_node_t *node, struct kvo_op_obj *op, const struct kvp_seq_info *info,
    kv_status_t why)
{
    const struct kvo_request *request = &op->request;
    const struct kvp_config *pager = &node->config.pager;
    uint32_t domain = pager->tenants[request->tenant].domain;
    enum kvp_tier tier = KVP_HOST;
    for (uint32_t i = 0; i < pager->nr_pools; i++) {
        const struct kvp_pool_config *pool = &pager->pools[i];
        tier = pool->tier == KVP_DEVICE && pool->domain == domain ? KVP_DEVICE : tier;
    }
    uint32_t full = pager->variants[request->variant].page_tokens;
    uint64_t tokens = (uint64_t)info->n_tokens + request->tokens;
    uint64_t pages = tokens / full + (tokens % full != 0) - info->nr_pages;
    kvo_room_detail(node, request, tier, (uint32_t)pages, why, &op->detail);
}

static void
op_finish(kvo_node_t *node, struct kvo_op_obj *op, kv_status_t why) /* (1) */
{
    struct kvo_answer answer = {.status = KV_OK};
    op->busy = true; /* nothing that ends now advances it */
    if (op->request.op == KVO_SEQ_FETCH) {
        finish_seq_fetch(node, op, &answer);
    } else if (op->request.op == KVO_SEQ_APPEND) {
        answer.status = why;
        answer.seq = op->request.seq;
        struct kvp_seq_info info;
        if (kvp_seq_info(node->pager, op->request.seq, &info) == KV_OK) {
            kvo_answer_table(node, &answer, op->run, UINT32_MAX);
            append_detail(node, op, &info, why);
        }
    }
    op_close_keys(node, op, why);
    op_leave_state(node, op);
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        const struct kvo_key *key = &op->keys[i];
        KV_ASSERT(key->phase == KEY_DONE && key->ref.frame == KVP_NO_FRAME); /* (2) */
        node->answer_statuses[i] = key->status;
        node->answer_reasons[i] = key->reason;
        node->answer_places[i] = key->place;
        count_key(node, op->request.op, key);
    }
    answer.nr_keys = op->nr_keys;
    answer.statuses = op->nr_keys > 0 ? node->answer_statuses : NULL;
    answer.reasons = node->answer_reasons;
    answer.places = node->answer_places;
    answer.nr_calls = op->nr_calls;
    answer.nr_rounds = op->nr_rounds;
    struct kvo_client_id client = op->client;
    struct kvo_request request = op->request;
    struct kv_detail detail = op->detail;
    op_give(node, op);
    kvo_answer_now(node, client, &request, &answer, answer.status, &detail);
}

/* The client is gone: everything is given back, nobody is told. */
void kvo_op_drop(kvo_node_t *node, struct kvo_op_obj *op)
{
    op->busy = true;
    op_close_keys(node, op, KV_ERR_CANCELLED);
    op_leave_state(node, op);
    op_give(node, op);
    node->metrics.answers++;
}

/* What it worked on has ended. */
void kvo_op_cancel(kvo_node_t *node, struct kvo_op_obj *op)
{
    op_finish(node, op, KV_ERR_STALE);
}

/* GET: copies that have not begun will not. */
static void cut_waiting(kvo_node_t *node, struct kvo_op_obj *op)
{
    kvo_copy_want_none(node, op);
    for (uint32_t i = op->nr_keys; i-- > 0;) {
        if (op->keys[i].phase == KEY_HERE) {
            key_end(node, op, i, KV_ERR_DEADLINE);
            op->keys[i].reason = KV_MISS_TOO_SLOW;
        }
    }
}

void kvo_op_timer(kvo_node_t *node, struct kvo_op_obj *op)
{
    if (op->state == OP_OUT) {
        /* Movers still write to the client's buffers: they end it, and soon. */
        cut_waiting(node, op);
        kvo_op_advance(node, op);
        return;
    }
    op_finish(node, op, KV_ERR_DEADLINE);
}

/* ------------------------------------------------------------------ advancing */

static void key_want_item(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    op->keys[i].phase = KEY_QUEUED;
    op->nr_queued++;
    node->nr_queued++;
}

/* SEQ_FETCH: pages from `run` on cannot become hits any more. */
static void cut_run(kvo_node_t *node, struct kvo_op_obj *op, uint32_t run)
{
    if (run >= op->run) {
        return;
    }
    for (uint32_t i = op->nr_keys; i-- > run;) {
        if (op->keys[i].phase != KEY_DONE) {
            key_end(node, op, i, KV_ERR_MISS);
        }
    }
    op->run = run;
}

/* Every answer is in: which keys will be brought here? */
static void plan_moves(kvo_node_t *node, struct kvo_op_obj *op)
{
    bool seq = op->request.op == KVO_SEQ_FETCH, planned = op->planned;
    op->planned = true;
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        struct kvo_key *key = &op->keys[i];
        if (planned && !key->again) {
            continue;
        }
        if (key->phase == KEY_IDLE || key->phase == KEY_ASK) {
            const struct kvo_seg *seg = &op->segs[key->seg];
            if (!key->again) {
                key->reason = (uint8_t)kvp_miss_reason(
                    node->pager, op->request.tenant, op->request.variant, &key->key);
            }
            if (seg->cold) {
                key->reason = KV_MISS_COLD_HOME;
            } else if (seg->lost) {
                key->reason = KV_MISS_PEER_LOST;
            }
            key->phase = KEY_DONE;
            key->status = KV_ERR_MISS;
        }
        if (seq && key->phase == KEY_DONE) {
            cut_run(node, op, i);
            return;
        }
        if (op->request.op == KVO_EXISTS) {
            if (key->phase == KEY_FOUND) {
                key_end(node, op, i, KV_OK);
                key->place = KVO_FROM_PEER;
            }
            continue;
        }
        if (key->phase == KEY_FOUND ||
            (seq && key->phase == KEY_HERE && key->place == KVO_FROM_HOST)) {
            key_want_item(node, op, i);
        }
    }
}

static void start_items(kvo_node_t *node, struct kvo_op_obj *op)
{
    for (uint32_t i = 0; i < op->nr_keys && op->nr_queued > 0; i++) {
        struct kvo_key *key = &op->keys[i];
        if (key->phase != KEY_QUEUED) {
            continue;
        }
        if (node->items.free == KVO_NONE) {
            return;
        }
        bool promote = key->ref.frame != KVP_NO_FRAME;
        op->nr_queued--;
        node->nr_queued--;
        bool started =
            kvo_fetch_start(node, op, i, promote ? ITEM_PROMOTE : ITEM_FETCH);
        KV_ASSERT(started);
    }
}

static void start_out(kvo_node_t *node, struct kvo_op_obj *op)
{
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        if (op->keys[i].phase == KEY_HERE) {
            kvo_copy_want(node, op, i);
        }
    }
}

static bool fills_open(const struct kvo_op_obj *op)
{
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        if (op->keys[i].phase != KEY_DONE) {
            return true;
        }
    }
    return false;
}

/* Is a page that is to be adopted being re-checked, for somebody else's acquire? */
static bool run_settling(kvo_node_t *node, const struct kvo_op_obj *op)
{
    for (uint32_t i = 0; i < op->nr_keys && op->keys[i].phase == KEY_HERE; i++) {
        struct kvp_glance page;
        if (kvp_glance(node->pager, op->keys[i].ref, &page) == KV_OK
            && page.verifying) {
            return true;
        }
    }
    return false;
}

/* The page that the first new token goes to. */
static uint32_t append_page(
    const kvo_node_t *node, const struct kvo_op_obj *op,
    const struct kvp_seq_info *info)
{
    uint32_t full = node->config.pager.variants[op->request.variant].page_tokens;
    return info->n_tokens / full;
}

/* Frames for the sequence's growth: there, or no longer waited for. */
static bool grow(kvo_node_t *node, struct kvo_op_obj *op, kv_status_t *status_p)
{
    *status_p = KV_OK;
    if (!op->growing) {
        return true;
    }
    if (kvo_room_now(node, op) < op->nr_wanted
        && !kvo_room_at_ceiling(node, op, op->nr_wanted)) {
        return false;
    }
    kvo_room_end(node, op);
    struct kvp_seq_info info;
    KV_ASSERT(kvp_seq_info(node->pager, op->request.seq, &info) == KV_OK);
    op->run = append_page(node, op, &info); /* it may have been truncated meanwhile */
    *status_p = kvp_seq_append(node->pager, op->request.seq, op->request.tokens);
    return true;
}

static bool append_ready(kvo_node_t *node, const struct kvo_op_obj *op)
{
    struct kvp_seq_info info;
    if (kvp_seq_info(node->pager, op->request.seq, &info) != KV_OK) {
        return true;
    }
    for (uint32_t page = info.nr_pages; page-- > op->run;) {
        struct kvp_ref ref;
        struct kvp_info frame;
        if (kvp_seq_table(node->pager, op->request.seq, page, 1, &ref) != KV_OK ||
            kvp_info(node->pager, ref, &frame) != KV_OK) {
            return true;
        }
        if (frame.state == KVP_FILLING && !kvp_writable(node->pager, ref)) {
            return false;
        }
    }
    return true;
}

/* One step of the request's life; true when it took one. Ends it at last. */
static bool op_step(kvo_node_t *node, struct kvo_op_obj *op, bool *ended_p)
{
    kv_status_t status = KV_OK;
    switch ((enum kvo_op_state)op->state) {
    case OP_LOOK:
        if (op->nr_open > 0) {
            return false;
        }
        KVO_MOVE(node, op, state, OP, LOOK, MOVE);
        plan_moves(node, op);
        return true;
    case OP_MOVE:
        if (op->nr_queued > 0) {
            start_items(node, op);
        }
        if (op->nr_items > 0 || op->nr_queued > 0 || op->nr_checks > 0) {
            return false;
        }
        if (op->nr_moved > 0) {
            kvo_look_again(node, op);
            return true;
        }
        if (op->request.op == KVO_GET) {
            KVO_MOVE(node, op, state, OP, MOVE, OUT);
            start_out(node, op);
            return true;
        }
        if (op->request.op == KVO_SEQ_FETCH && run_settling(node, op)) {
            node->nr_ready += !op->settling;
            op->settling = true;
            return false;
        }
        settled(node, op);
        break;
    case OP_OUT:
        if (op->nr_out > 0 || op->in_line) {
            return false;
        }
        break;
    case OP_FILL:
        if (op->nr_wanted > 0) {
            fill_more(node, op);
        }
        if (fills_open(op)) {
            return false;
        }
        break;
    case OP_READY:
        if (!grow(node, op, &status) || (status == KV_OK && !append_ready(node, op))) {
            return false;
        }
        break;
    case OP_NONE:
        KV_ASSERT(false);
    }
    op->busy = false;
    op_finish(node, op, status);
    *ended_p = true;
    return false;
}

void kvo_op_advance(kvo_node_t *node, struct kvo_op_obj *op)
{
    if (op->busy) {
        return; /* the call below us goes on */
    }
    bool ended = false;
    op->busy = true;
    while (op_step(node, op, &ended)) {
    }
    if (!ended) {
        op->busy = false;
    }
}

void kvo_op_key_here(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t i, struct kvp_ref ref,
    enum kvo_place place, bool checking)
{
    struct kvo_key *key = &op->keys[i];
    KV_ASSERT(key->phase == KEY_ITEM);
    op->nr_items--;
    key_drop_grant(node, key);
    key->ref = ref;
    key->place = (uint8_t)place;
    key->phase = checking ? KEY_CHECK : KEY_HERE;
    op->nr_checks += checking;
    kvo_op_advance(node, op);
}

void kvo_op_key_failed(
    kvo_node_t *node, struct kvo_op_obj *op, uint32_t i, kv_status_t status,
    enum kv_miss reason)
{
    struct kvo_key *key = &op->keys[i];
    KV_ASSERT(key->phase == KEY_ITEM);
    op->nr_items--;
    key_drop_grant(node, key);
    key->ref.frame = KVP_NO_FRAME; /* a promotion's source has been given back */
    key->reason = (uint8_t)reason;
    if (reason == KV_MISS_HOLDER_REFUSED && !key->again) {
        key->phase = KEY_MOVED;
        key->again = true;
        op->nr_moved++;
        kvo_op_advance(node, op);
        return;
    }
    key->phase = KEY_DONE;
    key->status = status;
    key->place = KVO_FROM_NONE;
    if (op->request.op == KVO_SEQ_FETCH) {
        cut_run(node, op, i);
    }
    kvo_op_advance(node, op);
}

void kvo_op_copied(
    kvo_node_t *node, struct kvo_data_op *data, const struct kvo_done *done)
{
    struct kvo_op_obj *op = kvo_slots_find(&node->ops, data->op);
    bool in = data->kind == DATA_CLIENT_IN;
    uint32_t i = data->key;
    struct kvp_ref ref = data->ref;
    bool ours = op != NULL && op->keys[i].phase == KEY_OUT &&
                op->state == (in ? OP_FILL : OP_OUT);
    kvo_data_give(node, data);
    if (!in) {
        kvp_release(node->pager, &ref, 1);
    } else if (!ours && !KV_PLANTED(KV_PLANT_VISIBLE_EARLY)) {
        kvp_fence_end(node->pager, ref); /* the aborted fill waited for this */
    }
    if (!ours) {
        return;
    }
    op->nr_out--;
    if (in && KV_PLANTED(KV_PLANT_VISIBLE_EARLY)) {
        op->keys[i].phase = KEY_DONE;
        op->keys[i].status = done->status;
    } else if (in && done->status == KV_OK) {
        fill_seal(node, op, i);
    } else if (in) {
        op->keys[i].phase = KEY_HERE; /* nothing writes it any more */
        fill_end(node, op, i, done->status);
    } else {
        op->keys[i].phase = KEY_DONE;
        op->keys[i].status = done->status;
    }
    kvo_op_advance(node, op);
}

/* A re-check that acquires waited for has ended; a failed one took the references. */
void kvo_op_verified(kvo_node_t *node, struct kvp_ref ref, kv_status_t status)
{
    uint32_t left = node->ops.nr_taken; /* as in kvo_ops_work() */
    for (uint32_t i = 0; left > 0 && i < node->ops.nr; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        left -= op != NULL;
        if (op == NULL || op->nr_checks == 0) {
            continue;
        }
        for (uint32_t k = 0; k < op->nr_keys; k++) {
            struct kvo_key *key = &op->keys[k];
            if (key->phase != KEY_CHECK || key->ref.frame != ref.frame ||
                key->ref.gen != ref.gen) {
                continue;
            }
            op->nr_checks--;
            if (status == KV_OK) {
                key->phase = KEY_HERE;
                if (op->state == OP_MOVE && op->request.op == KVO_SEQ_FETCH &&
                    key->place == KVO_FROM_HOST) {
                    key_want_item(node, op, k);
                }
                continue;
            }
            key->ref.frame = KVP_NO_FRAME;
            key->phase = KEY_DONE;
            key->status = KV_ERR_NOT_VERIFIED;
            key->reason = KV_MISS_NOT_VERIFIED;
            key->place = KVO_FROM_NONE;
            if (op->state == OP_MOVE && op->request.op == KVO_SEQ_FETCH) {
                cut_run(node, op, k);
            }
        }
        kvo_op_advance(node, op);
    }
}

void kvo_ops_work(kvo_node_t *node)
{
    /* None is begun in here, and the first slots are taken first. */
    uint32_t left = node->ops.nr_taken;
    for (uint32_t i = 0; left > 0 && i < node->ops.nr; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        if (node->nr_events >= KVO_EVENTS_PAUSE) {
            node->local_ended = true; /* the step comes back when these are handled */
            return;
        }
        if (op == NULL) {
            continue;
        }
        left--;
        if (op->state == OP_FILL) {
            for (uint32_t k = 0; k < op->nr_keys; k++) {
                if (op->keys[k].phase == KEY_HERE &&
                    kvp_writable(node->pager, op->keys[k].ref)) {
                    kvo_copy_want(node, op, k);
                }
            }
        }
        if (op->state == OP_FILL || op->state == OP_READY || op->settling ||
            op->nr_queued > 0) {
            kvo_op_advance(node, op);
        }
    }
}

/* ------------------------------------------------------------------ beginning */

static void start_put(kvo_node_t *node, struct kvo_op_obj *op)
{
    KVO_MOVE(node, op, state, OP, NONE, FILL);
    node->nr_ready++;
    uint32_t n = 0;
    for (uint32_t i = 0; i < op->nr_keys; i++) {
        if (op->keys[i].phase == KEY_IDLE) {
            op->keys[i].phase = KEY_ROOM;
            n++;
        }
    }
    kvo_room_want(node, op, node->has_host ? KVP_HOST : KVP_DEVICE, n);
}

static void start_append(kvo_node_t *node, struct kvo_op_obj *op)
{
    struct kvp_seq_info info;
    KV_ASSERT(kvp_seq_info(node->pager, op->request.seq, &info) == KV_OK);
    op->run = append_page(node, op, &info);
    KVO_MOVE(node, op, state, OP, NONE, READY);
    node->nr_ready++;
    uint32_t full = node->config.pager.variants[op->request.variant].page_tokens;
    kvo_room_want(node, op, KVP_DEVICE, op->request.tokens / full);
    if (op->growing) {
        kvo_op_advance(node, op);
        return;
    }
    op_finish(
        node, op, kvp_seq_append(node->pager, op->request.seq, op->request.tokens));
}

void kvo_op_start(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request)
{
    struct kvo_request kept = *request;
    if (request->op == KVO_SEQ_APPEND) {
        kept.nr_keys = 0;
    }
    struct kvo_op_obj *op = op_take(node, client, &kept);
    KV_ASSERT(op != NULL);
    if (request->op == KVO_SEQ_APPEND) {
        start_append(node, op);
        return;
    }
    if (request->op == KVO_PUT) {
        start_put(node, op);
    } else if (kvo_look_here(node, op) > 0) {
        KVO_MOVE(node, op, state, OP, NONE, LOOK);
        kvo_lookup_start(node, op);
    } else {
        KVO_MOVE(node, op, state, OP, NONE, MOVE);
        plan_moves(node, op);
    }
    kvo_op_advance(node, op);
}
