/* Clients come and go; what they ask is checked here, answered at once where it can be,
 * and handed to client.c where it takes time.
 *
 * (1) A refused request is answered too, with the field, the limit and the value;
 * only a client that is gone and a full table are the caller's to handle. (2) Every
 * sequence and pin has one owner, and goes with it.
 */
#include "node/core/core_priv.h"

/* ------------------------------------------------------------------ clients */

kv_status_t kvo_client_attach_core(
    kvo_node_t *node, uint64_t tenants, struct kvo_client_id *client_p)
{
    for (uint32_t i = 0; i < node->config.nr_clients; i++) {
        struct kvo_client *client = &node->clients[i];
        if (client->state == CLIENT_GONE) {
            KVO_MOVE(node, client, state, CLIENT, GONE, ATTACHED);
            KV_ASSERT(client->nr_ops == 0 && client->nr_seqs == 0);
            KV_ASSERT(client->nr_pins == 0);
            client->tenants = tenants;
            client->gen++;
            *client_p = (struct kvo_client_id){.index = i, .gen = client->gen};
            return KV_OK;
        }
    }
    return KV_ERR_AGAIN;
}

/* The pager has let go of it. */
static void seq_disown(kvo_node_t *node, struct kvo_seq_owner *owner)
{
    KV_ASSERT(node->clients[owner->client].nr_seqs > 0);
    KV_ASSERT(node->tenant_seqs[owner->tenant] > 0);
    node->clients[owner->client].nr_seqs--;
    node->tenant_seqs[owner->tenant]--;
    owner->client = KVO_NONE;
    owner->fenced = false;
}

static struct kvo_client *client_find(kvo_node_t *node, struct kvo_client_id id)
{
    if (id.index >= node->config.nr_clients) {
        return NULL;
    }
    struct kvo_client *client = &node->clients[id.index];
    return client->gen == id.gen && client->state != CLIENT_GONE ? client : NULL;
}

static void pin_give(kvo_node_t *node, struct kvo_pin *pin)
{
    uint32_t index = kvo_slots_index(&node->pins, pin);
    uint32_t *link = &node->owners[pin->ref.frame].pins;
    while (*link != index) {
        KV_ASSERT(*link != KVO_NONE);
        link = &((struct kvo_pin *)kvo_slots_at(&node->pins, *link))->next;
    }
    *link = pin->next;
    KV_ASSERT(node->clients[pin->client].nr_pins > 0);
    node->clients[pin->client].nr_pins--;
    kvp_unpin(node->pager, pin->ref);
    kvo_slots_give(&node->pins, pin);
}

void kvo_client_hang_up_core(kvo_node_t *node, struct kvo_client_id id)
{
    struct kvo_client *client = client_find(node, id);
    if (client == NULL || client->state != CLIENT_ATTACHED) {
        return;
    }
    KVO_MOVE(node, client, state, CLIENT, ATTACHED, HUNG_UP);
    node->metrics.clients_lost++;
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        if (op != NULL && op->client.index == id.index) {
            kvo_op_drop(node, op);
        }
    }
    for (uint32_t i = 0; i < node->pins.nr && client->nr_pins > 0; i++) {
        struct kvo_pin *pin = kvo_slots_at(&node->pins, i);
        if (pin != NULL && pin->client == id.index) {
            pin_give(node, pin);
        }
    }
    for (uint32_t i = 0; i < node->config.pager.nr_sequences; i++) {
        struct kvo_seq_owner *owner = &node->seqs[i];
        if (owner->client == id.index) {
            struct kvp_seq_id seq = {.index = i, .gen = owner->gen};
            /* Its kernels may still run: what they write stays fenced until it is
             * dead. */
            KV_ASSERT(kvp_seq_end(node->pager, seq, true) == KV_OK);
            owner->fenced = true;
        }
    }
}

void kvo_client_dead_core(kvo_node_t *node, struct kvo_client_id id)
{
    kvo_client_hang_up_core(node, id);
    struct kvo_client *client = client_find(node, id);
    if (client == NULL) {
        return;
    }
    for (uint32_t i = 0; i < node->config.pager.nr_sequences; i++) {
        struct kvo_seq_owner *owner = &node->seqs[i];
        if (owner->client == id.index) {
            KV_ASSERT(owner->fenced);
            struct kvp_seq_id seq = {.index = i, .gen = owner->gen};
            KV_ASSERT(kvp_seq_fenced(node->pager, seq) == KV_OK);
            seq_disown(node, owner);
        }
    }
    KV_ASSERT(client->nr_ops == 0 && client->nr_pins == 0 && client->nr_seqs == 0);
    KVO_MOVE(node, client, state, CLIENT, HUNG_UP, GONE);
}

/* ------------------------------------------------------------------ keys at once */

static kv_status_t
pin_one(kvo_node_t *node, uint32_t client, struct kvp_ref ref, const kv_key_t *key)
{
    struct kvo_pin *pin = kvo_slots_take(&node->pins);
    if (pin == NULL) {
        return KV_ERR_AGAIN;
    }
    kv_status_t status = kvp_pin(node->pager, ref);
    if (status != KV_OK) {
        kvo_slots_give(&node->pins, pin);
        return KV_ERR_MISS;
    }
    pin->client = client;
    pin->ref = ref;
    pin->key = *key;
    pin->next = node->owners[ref.frame].pins;
    node->owners[ref.frame].pins = kvo_slots_index(&node->pins, pin);
    node->clients[client].nr_pins++;
    return KV_OK;
}

/* One key names a copy for each tenant and variant: a pin is of one of them. */
static bool pin_is(
    const kvo_node_t *node, const struct kvo_pin *pin, uint32_t client,
    const struct kvo_request *request, const kv_key_t *key)
{
    struct kvp_info info;
    if (pin->client != client || !kv_key_equal(&pin->key, key)) {
        return false;
    }
    KV_ASSERT(kvp_info(node->pager, pin->ref, &info) == KV_OK); /* pinned: it stays */
    return info.tenant == request->tenant && info.variant == request->variant;
}

/* The client's pin of this key: where it lies now, or, if it was dropped since, by
 * looking through all. */
static kv_status_t unpin_one(
    kvo_node_t *node, uint32_t client, const struct kvo_request *request,
    struct kvp_ref ref, const kv_key_t *key)
{
    if (ref.frame != KVP_NO_FRAME) {
        for (uint32_t i = node->owners[ref.frame].pins; i != KVO_NONE;) {
            struct kvo_pin *pin = kvo_slots_at(&node->pins, i);
            if (pin_is(node, pin, client, request, key)) {
                pin_give(node, pin);
                return KV_OK;
            }
            i = pin->next;
        }
    }
    for (uint32_t i = 0; i < node->pins.nr && node->clients[client].nr_pins > 0; i++) {
        struct kvo_pin *pin = kvo_slots_at(&node->pins, i);
        if (pin != NULL && pin_is(node, pin, client, request, key)) {
            pin_give(node, pin);
            return KV_OK;
        }
    }
    return KV_ERR_MISS;
}

/* PIN, UNPIN, DROP: local, so answered now, one status a key. */
static void keys_now(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request)
{
    static const kv_key_t zero;
    for (uint32_t i = 0; i < request->nr_keys; i++) {
        const kv_key_t *key = &request->keys[i];
        struct kvp_ref ref = {.frame = KVP_NO_FRAME};
        kv_status_t status = KV_ERR_INVALID;
        if (!kv_key_equal(key, &zero)) {
            uint32_t found = kvp_lookup(
                node->pager, request->tenant, request->variant, key, 1, &ref);
            if (request->op == KVO_UNPIN) {
                status = unpin_one(node, client.index, request, ref, key);
            } else if (request->op == KVO_DROP) {
                /* Also what is only on its way here. */
                status = kvp_drop(node->pager, request->tenant, request->variant, key);
            } else if (found == 0) {
                status = KV_ERR_MISS;
            } else {
                status = pin_one(node, client.index, ref, key);
            }
        }
        node->answer_statuses[i] = status;
        node->answer_reasons[i] = KV_MISS_NOT_FOUND;
        node->answer_places[i] = KVO_FROM_NONE;
        node->metrics.statuses[kv_status_index(status)]++;
    }
    struct kvo_answer answer = {
        .statuses = node->answer_statuses,
        .reasons = node->answer_reasons,
        .places = node->answer_places,
        .nr_keys = request->nr_keys,
    };
    kvo_answer_now(node, client, request, &answer, KV_OK, NULL);
}

/* ------------------------------------------------------------------ sequences */

static bool
seq_owned(const kvo_node_t *node, struct kvo_client_id client, struct kvp_seq_id seq)
{
    if (seq.index >= node->config.pager.nr_sequences) {
        return false;
    }
    const struct kvo_seq_owner *owner = &node->seqs[seq.index];
    return owner->client == client.index && owner->gen == seq.gen && !owner->fenced;
}

static void seq_own(
    kvo_node_t *node, struct kvo_client_id client, uint16_t tenant,
    struct kvp_seq_id seq)
{
    struct kvo_seq_owner *owner = &node->seqs[seq.index];
    KV_ASSERT(owner->client == KVO_NONE);
    *owner = (struct kvo_seq_owner){
        .client = client.index, .gen = seq.gen, .tenant = tenant};
    node->clients[client.index].nr_seqs++;
    node->tenant_seqs[tenant]++;
}

/* A SEQ_FETCH or SEQ_APPEND of this sequence still under way would find it gone. */
static void seq_drop_ops(kvo_node_t *node, struct kvp_seq_id seq)
{
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        bool seq_op = op != NULL && (op->request.op == KVO_SEQ_FETCH ||
                                     op->request.op == KVO_SEQ_APPEND);
        if (seq_op && op->request.seq.index == seq.index &&
            op->request.seq.gen == seq.gen) {
            kvo_op_cancel(node, op);
        }
    }
}

static kv_status_t seq_seal(kvo_node_t *node, const struct kvo_request *request)
{
    struct kvp_seq_info info;
    kv_status_t status = kvp_seq_info(node->pager, request->seq, &info);
    if (status != KV_OK) {
        return status;
    }
    const struct kvp_variant_config *v = &node->config.pager.variants[info.variant];
    struct kvp_place place = {.prev = request->prev};
    bool tail =
        request->page + 1 == info.nr_pages && info.n_tokens % v->page_tokens != 0;
    if (tail && request->page == 0) {
        place.segment = request->prev;
    } else {
        struct kvc_segment segment =
            kvc_segment_at(tail ? request->page - 1 : request->page, v->page_tokens);
        place.index = request->page - segment.first;
        place.segment =
            segment.first == request->page ? request->keys[0] : request->anchor;
    }
    return kvp_seq_seal(
        node->pager, request->seq, request->page, &request->keys[0], &place);
}

static kv_status_t seq_end(kvo_node_t *node, const struct kvo_request *request)
{
    seq_drop_ops(node, request->seq);
    kv_status_t status = kvp_seq_end(node->pager, request->seq, false);
    if (status == KV_OK) {
        seq_disown(node, &node->seqs[request->seq.index]);
    }
    return status;
}

/* Everything about sequences that needs no waiting. */
static void seq_now(
    kvo_node_t *node, struct kvo_client_id client, const struct kvo_request *request)
{
    struct kvo_answer answer = {.seq = request->seq};
    kv_status_t status = KV_OK;
    switch (request->op) {
    case KVO_SEQ_OPEN:
        status = kvp_seq_open(
            node->pager, request->tenant, request->variant, &answer.seq);
        if (status == KV_OK) {
            seq_own(node, client, request->tenant, answer.seq);
        }
        break;
    case KVO_SEQ_SEAL:
        status = seq_seal(node, request);
        break;
    case KVO_SEQ_FORK:
        status = kvp_seq_fork(node->pager, request->seq, &answer.seq);
        if (status == KV_OK) {
            seq_own(node, client, request->tenant, answer.seq);
        }
        break;
    case KVO_SEQ_TRUNCATE:
        status = kvp_seq_truncate(node->pager, request->seq, request->tokens);
        break;
    case KVO_SEQ_CONFIRM:
        status = kvp_seq_confirm(node->pager, request->seq, request->version);
        break;
    case KVO_SEQ_END:
        status = seq_end(node, request);
        break;
    default:
        KV_ASSERT(false);
    }
    bool made = request->op == KVO_SEQ_OPEN || request->op == KVO_SEQ_FORK;
    if (request->op != KVO_SEQ_END && (status == KV_OK || !made)) {
        /* SEAL: its own page, when an equal copy was there. A fork is all new. */
        bool seal = request->op == KVO_SEQ_SEAL;
        uint32_t changed = seal ? 1 : request->op == KVO_SEQ_FORK ? UINT32_MAX : 0;
        kvo_answer_table(node, &answer, seal ? request->page : 0, changed);
    }
    kvo_answer_now(node, client, request, &answer, status, NULL);
}

void kvo_answer_table(
    const kvo_node_t *node, struct kvo_answer *answer, uint32_t first, uint32_t changed)
{
    struct kvp_seq_info info;
    if (kvp_seq_info(node->pager, answer->seq, &info) != KV_OK) {
        return;
    }
    answer->version = info.version;
    answer->first_page = first < info.nr_pages ? first : info.nr_pages;
    uint32_t behind = info.nr_pages - answer->first_page;
    answer->nr_changed = changed < behind ? changed : behind;
}

kv_status_t kvo_seq_table(
    const kvo_node_t *node, struct kvo_client_id client, struct kvp_seq_id seq,
    uint32_t first, uint32_t *n_p, struct kvo_page *pages, struct kvp_seq_info *info)
{
    if (!seq_owned(node, client, seq)
        || kvp_seq_info(node->pager, seq, info) != KV_OK) {
        return KV_ERR_STALE;
    }
    uint32_t behind = first < info->nr_pages ? info->nr_pages - first : 0;
    uint32_t n = *n_p < behind ? *n_p : behind;
    struct kvp_ref refs[KVP_SEQ_LEAF_PAGES];
    for (uint32_t at = 0; at < n; at += KVP_SEQ_LEAF_PAGES) {
        uint32_t some = n - at < KVP_SEQ_LEAF_PAGES ? n - at : KVP_SEQ_LEAF_PAGES;
        KV_ASSERT(kvp_seq_table(node->pager, seq, first + at, some, refs) == KV_OK);
        for (uint32_t i = 0; i < some; i++) {
            struct kvo_page *page = &pages[at + i];
            page->gen = refs[i].gen;
            kvp_where(node->pager, refs[i].frame, &page->pool, &page->pool_frame);
        }
    }
    *n_p = n;
    return KV_OK;
}

void kvo_client_switched(
    kvo_node_t *node, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    const struct kvo_seq_owner *owner = &node->seqs[seq.index];
    if (owner->client == KVO_NONE || owner->gen != seq.gen || owner->fenced) {
        return;
    }
    struct kvo_client_id client = {
        .index = owner->client, .gen = node->clients[owner->client].gen};
    node->out.switched(node->out.arg, client, seq, page, was, now);
}

/* ------------------------------------------------------------------ checks */

static bool is_seq_op(enum kvo_op op)
{
    return op >= KVO_SEQ_FETCH && op <= KVO_SEQ_END;
}

static bool has_keys(enum kvo_op op)
{
    return op <= KVO_DROP || op == KVO_SEQ_FETCH;
}

/* One tenant alone must not take the table of all. */
static kv_status_t seq_ceiling(
    const kvo_node_t *node, const struct kvo_request *request, struct kv_detail *detail)
{
    uint32_t ceiling = node->config.tenant_sequences[request->tenant];
    uint32_t held = node->tenant_seqs[request->tenant];
    if (ceiling != 0 && held >= ceiling) {
        return kv_fail(detail, KV_ERR_QUOTA, "tenant.sequences", ceiling, held + 1ULL);
    }
    return KV_OK;
}

static kv_status_t seq_check(
    const kvo_node_t *node, struct kvo_client_id id, const struct kvo_request *request,
    struct kv_detail *detail)
{
    struct kvp_seq_id seq = request->seq;
    struct kvp_seq_info info;
    uint32_t last = node->config.pager.nr_sequences - 1;
    if (seq.index > last) {
        return kv_fail(detail, KV_ERR_STALE, "request.seq", last, seq.index);
    }
    if (!seq_owned(node, id, seq) || kvp_seq_info(node->pager, seq, &info) != KV_OK) {
        /* Of another client's sequence nothing is told. */
        const struct kvo_seq_owner *owner = &node->seqs[seq.index];
        uint32_t gen = owner->client == id.index ? owner->gen : 0;
        return kv_fail(detail, KV_ERR_STALE, "request.seq.gen", gen, seq.gen);
    }
    if (info.tenant != request->tenant) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.tenant", info.tenant, request->tenant);
    }
    if (info.variant != request->variant) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.variant", info.variant, request->variant);
    }
    uint32_t full = node->config.pager.variants[info.variant].page_tokens;
    uint64_t tokens_max = (uint64_t)KVO_APPEND_PAGES_MAX * full;
    if (request->op == KVO_SEQ_APPEND && request->tokens > tokens_max) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "request.tokens", tokens_max, request->tokens);
    }
    return request->op == KVO_SEQ_FORK ? seq_ceiling(node, request, detail) : KV_OK;
}

/* n more pages of that tier were refused: how many there are of which, pages that could
 * go not counted. No detail where it was something else that ran out. */
void kvo_room_detail(
    const kvo_node_t *node, const struct kvo_request *request, enum kvp_tier tier,
    uint32_t n, kv_status_t status, struct kv_detail *detail)
{
    const char *field = tier == KVP_DEVICE ? "device.pages" : "host.pages";
    const struct kvp_tenant_config *tenant =
        &node->config.pager.tenants[request->tenant];
    struct kvp_pool_stats stats = {0};
    uint32_t pool = kvp_pool_of(node->pager, request->tenant, request->variant, tier);
    if (pool < KVP_POOLS_MAX) {
        kvp_pool_stats(node->pager, pool, &stats);
    }
    uint64_t limit = stats.nr_frames, value = n;
    if (status == KV_ERR_QUOTA) {
        limit = tenant->ceiling[tier];
        value += kvp_used(node->pager, request->tenant, tier);
    } else if (status == KV_ERR_AGAIN) {
        value += stats.nr_frames - stats.in_state[KVP_FREE] - stats.idle;
    } else if (status != KV_ERR_TOO_LARGE) {
        return;
    }
    if (value > limit) {
        (void)kv_fail(detail, status, field, limit, value);
    }
}

static kv_status_t request_check(
    const kvo_node_t *node, struct kvo_client_id id, const struct kvo_client *client,
    const struct kvo_request *request, struct kv_detail *detail)
{
    if ((unsigned)request->op >= KVO_NR_OPS) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.op", KVO_NR_OPS - 1,
            (uint64_t)request->op);
    }
    bool waits = request->op == KVO_GET || request->op == KVO_PUT ||
                 request->op == KVO_EXISTS || request->op == KVO_SEQ_FETCH ||
                 request->op == KVO_SEQ_APPEND;
    if (waits && request->deadline_us == 0) {
        return kv_fail(detail, KV_ERR_INVALID, "request.deadline", 1, 0);
    }
    if (request->tenant >= node->config.pager.nr_tenants ||
        (client->tenants >> request->tenant & 1) == 0) {
        return kv_fail( /* (4) of client.c */
            detail, KV_ERR_DENIED, "request.tenant",
            node->config.pager.nr_tenants - 1, request->tenant);
    }
    if (request->variant >= node->config.pager.nr_variants) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.variant",
            node->config.pager.nr_variants - 1, request->variant);
    }
    if (has_keys(request->op)) {
        if (request->nr_keys == 0 || request->nr_keys > KVO_BATCH_KEYS_MAX) {
            return kv_fail(
                detail, KV_ERR_INVALID, "request.keys",
                request->nr_keys == 0 ? 1 : KVO_BATCH_KEYS_MAX, request->nr_keys);
        }
        uint64_t pages = (uint64_t)request->first_page + request->nr_keys;
        uint64_t limit = KVP_SEQ_LEAF_PAGES * (uint64_t)KVP_SEQ_LEAVES_MAX;
        if (!request->loose && pages > limit) {
            return kv_fail(detail, KV_ERR_TOO_LARGE, "request.pages", limit, pages);
        }
    }
    if ((request->op == KVO_GET || request->op == KVO_PUT)
        && request->buffers == NULL) {
        return kv_fail(detail, KV_ERR_INVALID, "request.buffers", request->nr_keys, 0);
    }
    if (request->op == KVO_SEQ_SEAL && request->nr_keys != 1) {
        return kv_fail(detail, KV_ERR_INVALID, "request.keys", 1, request->nr_keys);
    }
    static const kv_key_t zero;
    if (request->op == KVO_SEQ_SEAL && kv_key_equal(&request->keys[0], &zero)) {
        return kv_fail(detail, KV_ERR_INVALID, "request.keys", 1, 0);
    }
    if (request->op == KVO_SEQ_OPEN) {
        return seq_ceiling(node, request, detail);
    }
    return is_seq_op(request->op) ? seq_check(node, id, request, detail) : KV_OK;
}

kv_status_t kvo_request_core(
    kvo_node_t *node, struct kvo_client_id id, const struct kvo_request *request)
{
    struct kvo_client *client = client_find(node, id);
    if (client == NULL || client->state != CLIENT_ATTACHED) {
        return KV_ERR_STALE;
    }
    struct kv_detail detail = {0};
    kv_status_t status = request_check(node, id, client, request, &detail);
    if (status != KV_OK) { /* (1) */
        struct kvo_answer answer = {.seq = request->seq};
        node->metrics.requests++;
        kvo_answer_now(node, id, request, &answer, status, &detail);
        return KV_OK;
    }
    switch (request->op) {
    case KVO_EXISTS:
    case KVO_GET:
    case KVO_PUT:
    case KVO_SEQ_FETCH:
    case KVO_SEQ_APPEND:
        if (node->ops.free == KVO_NONE) {
            return KV_ERR_AGAIN;
        }
        node->metrics.requests++;
        kvo_op_start(node, id, request);
        break;
    case KVO_PIN:
    case KVO_UNPIN:
    case KVO_DROP:
        node->metrics.requests++;
        keys_now(node, id, request);
        break;
    default:
        node->metrics.requests++;
        seq_now(node, id, request);
        break;
    }
    return KV_OK;
}
