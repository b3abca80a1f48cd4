/* Bytes between a client's buffers and frames (docs/protocol.md, "client").
 *
 *   PUT: key HERE, its frame writable ──kvo_copy_want──┐  a copy is free ──► key OUT
 *   GET: key HERE, reference held     ──kvo_copy_want──┤
 *                                                      └─ else: the request waits in
 *                                      node->copiers, served as copies complete
 *
 * (1) A key that was accepted is never refused for want of a copy: it waits, at most
 * until its request's deadline. (2) Requests are served first come first, keys by
 * their number, so nobody is overtaken for ever. (3) While a request waits, every copy
 * is out: its completion is what serves the next key. Copies outlive their requests
 * (a deadline, a hang-up), which is why no bound on requests would bound them.
 */
#include "node/core/core_priv.h"

uint32_t kvo_copies_max(const struct kvo_config *config)
{
    uint32_t nr = config->nr_ops * KVO_COPIES_PER_OP;
    return nr < KVO_COPIES_MAX ? nr : KVO_COPIES_MAX;
}

static bool copy_free(const kvo_node_t *node)
{
    return node->nr_copying < kvo_copies_max(&node->config);
}

static struct kvo_op_obj *op_at(kvo_node_t *node, uint32_t index)
{
    return kvo_slots_at(&node->ops, index);
}

/* A fault of ours that tests plant: the page is committed while its bytes are still on
 * their way. The request has nothing more to do with the frame then. */
static void commit_early(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    struct kvo_key *key = &op->keys[i];
    struct kvp_place place;
    struct kvp_ref existing;
    kvo_op_place(node, op, i, &place);
    node->owners[key->ref.frame].id = 0;
    if (kvp_fill_seal(node->pager, key->ref, &key->key, &place, &existing)
        == KV_EXISTS) {
        kvp_release(node->pager, &existing, 1);
    }
    key->ref.frame = KVP_NO_FRAME;
}

static void copy_start(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    struct kvo_key *key = &op->keys[i];
    bool in = op->state == OP_FILL;
    KV_ASSERT(key->phase == KEY_HERE);
    struct kvo_data_op *data = kvo_data_take(
        node, in ? DATA_CLIENT_IN : DATA_CLIENT_OUT, op->client.index);
    KV_ASSERT(data != NULL); /* copy_free() said so */
    data->op = kvo_slots_id(&node->ops, op);
    data->key = i;
    data->ref = key->ref;
    struct kvo_part part = {0};
    kvo_part_at(node, key->ref, &part);
    part.id = kvo_slots_id(&node->datas, data);
    part.len = kvp_copy_len(node->pager, op->request.variant, key->n_tokens);
    part.buffer = key->buffer;
    if (!in) {
        /* The operation has the reference: it outlives the request if need be. */
        key->ref.frame = KVP_NO_FRAME;
    }
    key->phase = KEY_OUT;
    op->nr_out++;
    struct kvo_order order = {
        .kind = in ? KVO_ORDER_CLIENT_IN : KVO_ORDER_CLIENT_OUT,
        .peer = op->client.index,
        .parts = &part,
        .nr_parts = 1,
    };
    node->out.order(node->out.arg, &order);
    if (in && KV_PLANTED(KV_PLANT_VISIBLE_EARLY)) {
        commit_early(node, op, i);
    }
}

static void wait_in_line(kvo_node_t *node, struct kvo_op_obj *op)
{
    uint32_t index = kvo_slots_index(&node->ops, op);
    op->in_line = true;
    op->next_copier = KVO_NONE;
    if (node->copiers.nr++ == 0) {
        node->copiers.head = index;
    } else {
        op_at(node, node->copiers.tail)->next_copier = index;
    }
    node->copiers.tail = index;
}

void kvo_copy_want(kvo_node_t *node, struct kvo_op_obj *op, uint32_t i)
{
    if (node->copiers.nr == 0 && copy_free(node)) {
        copy_start(node, op, i);
        return;
    }
    if (!op->in_line) {
        wait_in_line(node, op); /* (2) */
        op->next_copy = i;
    }
    op->next_copy = i < op->next_copy ? i : op->next_copy;
}

void kvo_copy_want_none(kvo_node_t *node, struct kvo_op_obj *op)
{
    if (!op->in_line) {
        return;
    }
    uint32_t index = kvo_slots_index(&node->ops, op), before = KVO_NONE;
    for (uint32_t k = node->copiers.head; k != index; k = op_at(node, k)->next_copier) {
        KV_ASSERT(k != KVO_NONE);
        before = k;
    }
    if (before == KVO_NONE) {
        node->copiers.head = op->next_copier;
    } else {
        op_at(node, before)->next_copier = op->next_copier;
    }
    if (node->copiers.tail == index) {
        node->copiers.tail = before;
    }
    node->copiers.nr--;
    op->in_line = false;
}

/* Of a PUT some frames may not be written yet: kvo_ops_work() comes for those. */
static bool wants_copy(kvo_node_t *node, const struct kvo_op_obj *op, uint32_t i)
{
    const struct kvo_key *key = &op->keys[i];
    return key->phase == KEY_HERE &&
           (op->state == OP_OUT || kvp_writable(node->pager, key->ref));
}

void kvo_copies_work(kvo_node_t *node)
{
    while (node->copiers.nr > 0 && copy_free(node)) {
        struct kvo_op_obj *op = op_at(node, node->copiers.head);
        KV_ASSERT(op->in_line && (op->state == OP_OUT || op->state == OP_FILL));
        while (op->next_copy < op->nr_keys && !wants_copy(node, op, op->next_copy)) {
            op->next_copy++;
        }
        if (op->next_copy == op->nr_keys) {
            kvo_copy_want_none(node, op);
        } else {
            copy_start(node, op, op->next_copy++);
        }
    }
}

void kvo_copies_check(const kvo_node_t *node)
{
    uint32_t copying = 0, in_line = 0;
    for (uint32_t i = 0; i < node->datas.nr; i++) {
        const struct kvo_data_op *data = kvo_slots_at(&node->datas, i);
        copying += data != NULL && (data->kind == DATA_CLIENT_IN ||
                                    data->kind == DATA_CLIENT_OUT);
    }
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        const struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        in_line += op != NULL && op->in_line;
        bool out = op != NULL && op->state == OP_OUT;
        for (uint32_t k = 0; out && k < op->nr_keys; k++) {
            bool waits = op->keys[k].phase == KEY_HERE;
            KV_ASSERT(KV_IMPLIES(waits, op->in_line && k >= op->next_copy));
        }
    }
    KV_ASSERT(copying == node->nr_copying);
    KV_ASSERT(in_line == node->copiers.nr);
    KV_ASSERT(KV_IMPLIES(in_line > 0, !copy_free(node))); /* (3) */
}
