/* Creation: every table of the node, sized by the config, or nothing at all. */
#include "node/core/core_priv.h"

/* One field of the config and the least value it may have. */
struct bound {
    const char *field;
    uint64_t value, min, max;
};

/* HELLO must be able to say it. */
static kv_status_t text_check(
    const char *text, size_t size, size_t min, const char *field,
    struct kv_detail *detail)
{
    size_t len = strnlen(text, size);
    if (len < min) {
        return kv_fail(detail, KV_ERR_CONFIG, field, min, len);
    }
    if (len == size) {
        return kv_fail(detail, KV_ERR_CONFIG, field, size - 1, len);
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) {
            return kv_fail(detail, KV_ERR_CONFIG, field, 0x20, (unsigned char)text[i]);
        }
    }
    return KV_OK;
}

static kv_status_t
transports_check(const struct kvo_config *config, struct kv_detail *detail)
{
    for (uint32_t i = 0; i < config->nr_transports; i++) {
        const struct kvo_transport *t = &config->transports[i];
        const struct {
            const char *field, *text;
            size_t size, min;
        } texts[] = {
            {"transports.name", t->name, sizeof(t->name), 1},
            {"transports.domain", t->domain, sizeof(t->domain), 0},
            {"transports.address", t->address, sizeof(t->address), 0},
        };
        for (unsigned k = 0; k < KV_COUNT_OF(texts); k++) {
            kv_status_t status = text_check(
                texts[k].text, texts[k].size, texts[k].min, texts[k].field, detail);
            if (status != KV_OK) {
                return status;
            }
        }
        if ((unsigned)t->kind >= KVO_NR_KINDS) {
            return kv_fail(
                detail, KV_ERR_CONFIG, "transports.kind", KVO_NR_KINDS - 1, t->kind);
        }
    }
    return KV_OK;
}

static kv_status_t
config_check(const struct kvo_config *config, struct kv_detail *detail)
{
    const struct bound bounds[] = {
        {"node.incarnation", config->incarnation, 1, UINT64_MAX},
        {"cluster.name", strlen(config->cluster), 1, KV_MSG_TEXT_MAX},
        {"link.transports", config->nr_transports, 1, KV_MSG_TRANSPORTS_MAX},
        {"limits.clients", config->nr_clients, 1, KVO_CLIENTS_MAX},
        {"limits.requests", config->nr_ops, 1, 65536},
        {"limits.fetching", config->nr_items, 1, 1 << 20},
        {"limits.calls", config->nr_calls, 1, 1 << 20},
        {"limits.reads", config->nr_reads, 1, 1 << 20},
        {"limits.grants", config->nr_grants, 1, 1 << 20},
        {"spill.copies", config->nr_spills, 1, 65536},
        {"directory.sync_items", config->sync_items, 1, KV_MSG_ITEMS_MAX},
        {"link.grant", config->grant_us, 1, UINT32_MAX},
        {"link.call", config->call_us, 1, UINT32_MAX},
        {"link.double", config->double_us, 1, config->call_us},
        {"link.read", config->read_us, 1, UINT32_MAX},
        {"link.revoke", config->revoke_us, 1, UINT32_MAX},
        {"spill.deadline", config->spill_us, 1, UINT32_MAX},
        {"link.redial", config->redial_us, 1, UINT32_MAX},
        {"link.tick", config->tick_us, 1, config->liveness.suspect_us},
        {"pager.tenants", config->pager.nr_tenants, 1, KVP_TENANTS_MAX},
        {"pager.variants", config->pager.nr_variants, 1, KVP_VARIANTS_MAX},
    };
    for (unsigned i = 0; i < KV_COUNT_OF(bounds); i++) {
        const struct bound *b = &bounds[i];
        if (b->value < b->min) {
            return kv_fail(detail, KV_ERR_CONFIG, b->field, b->min, b->value);
        }
        if (b->value > b->max) {
            return kv_fail(detail, KV_ERR_CONFIG, b->field, b->max, b->value);
        }
    }
    if (kvc_view_index(config->view, config->node) == KVC_NO_NODE) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "cluster.node", config->view->nr, config->node);
    }
    kv_status_t status = transports_check(config, detail);
    return status == KV_OK ? kvc_liveness_check(&config->liveness, detail) : status;
}

static kv_status_t create_slots(kvo_node_t *node)
{
    const struct kvo_config *c = &node->config;
    uint32_t nr_frames = kvp_nr_frames(node->pager);
    uint32_t nr_pins = nr_frames < KVO_PINS_MAX ? nr_frames : KVO_PINS_MAX;
    /* Reads and serves, clients' copies, and each peer's two fences: each has its own
     * share, so that none can take what another must have. */
    uint32_t nr_datas = c->nr_reads + kvo_copies_max(c) + 2 * node->view.nr;
    const struct {
        struct kvo_slots *slots;
        uint32_t nr;
        size_t stride;
    } tables[] = {
        {&node->ops, c->nr_ops, sizeof(struct kvo_op_obj)},
        {&node->items, c->nr_items, sizeof(struct kvo_item)},
        {&node->calls, c->nr_calls, sizeof(struct kvo_call)},
        {&node->datas, nr_datas, sizeof(struct kvo_data_op)},
        {&node->givens, c->nr_grants, sizeof(struct kvo_given)},
        {&node->spills, c->nr_spills, sizeof(struct kvo_spill)},
        {&node->pins, nr_pins, sizeof(struct kvo_pin)},
    };
    uint32_t nr_timers = 2 + node->view.nr;
    for (unsigned i = 0; i < KV_COUNT_OF(tables); i++) {
        kv_status_t status =
            kvo_slots_create(tables[i].slots, tables[i].nr, tables[i].stride);
        if (status != KV_OK) {
            return status;
        }
        nr_timers += tables[i].nr;
    }
    node->timers.max = nr_timers;
    node->timers.heap = kv_calloc(nr_timers, sizeof(struct kvo_timer *));
    return node->timers.heap != NULL ? KV_OK : KV_ERR_NOMEM;
}

/* kv_calloc() into a typed field; false when memory is out. */
#define TAKE(field, nr) (((field) = kv_calloc((nr), sizeof(*(field)))) != NULL)

static kv_status_t create_arrays(kvo_node_t *node)
{
    const struct kvo_config *c = &node->config;
    size_t keys = (size_t)c->nr_ops * KVO_BATCH_KEYS_MAX;
    uint32_t nr_frames = kvp_nr_frames(node->pager);
    if (!TAKE(node->peers, node->view.nr) || !TAKE(node->key_memory, keys) ||
        !TAKE(node->seg_memory, keys) || !TAKE(node->clients, c->nr_clients) ||
        !TAKE(node->seqs, c->pager.nr_sequences) ||
        !TAKE(node->events, KVO_EVENTS_MAX) || !TAKE(node->pubs, KVO_PUBS_MAX) ||
        !TAKE(node->owners, nr_frames) || !TAKE(node->found, 1) ||
        !TAKE(node->found_grants, KV_MSG_GRANTS_MAX) ||
        !TAKE(node->msg_segs, KV_MSG_SEGS_MAX) ||
        !TAKE(node->msg_keys, KV_MSG_KEYS_MAX) ||
        !TAKE(node->msg_entries, KV_MSG_ITEMS_MAX) ||
        !TAKE(node->msg_gone, KV_MSG_ITEMS_MAX) ||
        !TAKE(node->msg_statuses, KV_MSG_ITEMS_MAX) ||
        !TAKE(node->parts, KV_MSG_READ_MAX) ||
        !TAKE(node->answer_statuses, KVO_BATCH_KEYS_MAX) ||
        !TAKE(node->answer_reasons, KVO_BATCH_KEYS_MAX) ||
        !TAKE(node->answer_places, KVO_BATCH_KEYS_MAX) ||
        !TAKE(node->refs, KVO_BATCH_KEYS_MAX) ||
        !TAKE(node->keys, KVO_BATCH_KEYS_MAX)) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < nr_frames; i++) {
        node->owners[i].pins = KVO_NONE;
    }
    for (uint32_t i = 0; i < c->pager.nr_sequences; i++) {
        node->seqs[i].client = KVO_NONE;
    }
    return KV_OK;
}

static void start_timers(kvo_node_t *node)
{
    uint64_t now = node->now;
    node->beat =
        (struct kvo_timer){.pos = KVO_NONE, .kind = KVO_TIMER_BEAT, .index = 0};
    node->work =
        (struct kvo_timer){.pos = KVO_NONE, .kind = KVO_TIMER_WORK, .index = 0};
    /* Spread, so that the nodes of a cluster do not beat together. */
    kvo_timer_set(
        &node->timers, &node->beat,
        now + kv_rng_below(&node->rng, node->config.liveness.heartbeat_us));
    kvo_timer_set(&node->timers, &node->work, now + node->config.tick_us);
    for (uint32_t i = 0; i < node->view.nr; i++) {
        struct kvo_peer *peer = &node->peers[i];
        peer->timer.pos = KVO_NONE;
        peer->timer.kind = KVO_TIMER_PEER;
        peer->timer.index = i;
        peer->redial_us = node->config.redial_us;
        peer->since = now;
        memset(peer->ways, KVO_NO_WAY, sizeof(peer->ways));
        if (i > node->self) { /* the lower index dials */
            kvo_timer_set(&node->timers, &peer->timer, now);
        }
    }
}

kv_status_t kvo_create(
    const struct kvo_config *config, const struct kvo_out *out, uint64_t now_us,
    kvo_node_t **node_p, struct kv_detail *detail)
{
    kv_status_t status = config_check(config, detail);
    if (status != KV_OK) {
        return status;
    }
    kvo_node_t *node = kv_calloc(1, sizeof(*node));
    if (node == NULL) {
        return KV_ERR_NOMEM;
    }
    node->config = *config;
    node->view = *config->view;
    node->config.view = &node->view;
    memcpy(node->cluster, config->cluster, strlen(config->cluster));
    node->config.cluster = node->cluster;
    node->out = *out;
    node->self = kvc_view_index(&node->view, config->node);
    node->now = node->last_tick = now_us;
    node->rng = kv_rng_seed(kv_mix64(config->seed) ^ config->incarnation);
    node->waiting.head = node->waiting.tail = KVO_NONE;
    node->wanting = node->posted = node->copiers = node->waiting;
    for (uint32_t i = 0; i < config->pager.nr_pools; i++) {
        node->has_host = node->has_host || config->pager.pools[i].tier == KVP_HOST;
    }
    struct kvp_out pager_out = kvo_pager_hooks(node);
    status = kvp_create(&config->pager, &pager_out, &node->pager, detail);
    if (status != KV_OK) {
        goto err_destroy;
    }
    node->config.directory.nr_nodes = node->view.nr;
    status = kvc_dir_create(&node->config.directory, now_us, &node->dir, detail);
    if (status != KV_OK) {
        goto err_destroy;
    }
    status = create_slots(node);
    if (status == KV_OK) {
        status = create_arrays(node);
    }
    if (status != KV_OK) {
        goto err_destroy;
    }
    kvp_now(node->pager, now_us);
    kvc_dir_holder_up(node->dir, node->self);
    kvc_dir_sync_begin(node->dir, node->self);
    (void)kvc_dir_sync_end(node->dir, node->self, 0);
    start_timers(node);
    *node_p = node;
    return KV_OK;

err_destroy:
    kvo_destroy(node);
    return status;
}

void kvo_destroy(kvo_node_t *node)
{
    if (node == NULL) {
        return;
    }
    kv_free(node->keys);
    kv_free(node->refs);
    kv_free(node->answer_places);
    kv_free(node->answer_reasons);
    kv_free(node->answer_statuses);
    kv_free(node->parts);
    kv_free(node->msg_statuses);
    kv_free(node->msg_gone);
    kv_free(node->msg_entries);
    kv_free(node->msg_keys);
    kv_free(node->msg_segs);
    kv_free(node->found_grants);
    kv_free(node->found);
    kv_free(node->owners);
    kv_free(node->pubs);
    kv_free(node->events);
    kv_free(node->seqs);
    kv_free(node->clients);
    kv_free(node->seg_memory);
    kv_free(node->key_memory);
    kv_free(node->peers);
    kv_free(node->timers.heap);
    kvo_slots_destroy(&node->pins);
    kvo_slots_destroy(&node->spills);
    kvo_slots_destroy(&node->givens);
    kvo_slots_destroy(&node->datas);
    kvo_slots_destroy(&node->calls);
    kvo_slots_destroy(&node->items);
    kvo_slots_destroy(&node->ops);
    kvc_dir_destroy(node->dir);
    kvp_destroy(node->pager);
    kv_free(node);
}
