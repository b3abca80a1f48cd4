/* What a node's protocols add to a look-up that is answered wholly from its own pager:
 * checking the request, cutting it into segments, a status a key, the answer. */
#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/bench.h"
#include "node/core/core.h"

#include <string.h>

enum {
    BATCH_KEYS = 256, /* of one request */
    PAGE_TOKENS = 16,
    PAGE_BYTES = 256,
    PREFIXES = 1 << 10,
    QUICK_PREFIXES = 1 << 2,
    SLICE_PREFIXES = 8,
    QUICK_SLICE_PREFIXES = 2,
    SPARE_FRAMES = 64, /* so that nothing has to leave */
    DEADLINE_US = 1000 * 1000,
};

struct core_bench {
    struct kvc_view view;
    struct kvo_config config;
    kvo_node_t *node;
    struct kvo_client_id client;
    uint64_t now_us;
    uint32_t nr_prefixes, slice_prefixes;
    kv_key_t *keys;  /* [nr_prefixes][BATCH_KEYS] */
    uint32_t *order; /* of the prefixes; the subject has the first half */
    struct kv_rng rng;
    kv_key_t *hot_keys; /* [slice_prefixes][BATCH_KEYS] */
    struct kvp_ref refs[BATCH_KEYS];
    uint64_t buffers[BATCH_KEYS];
    uint32_t nr_answers, nr_ok;
    uint64_t locals[BATCH_KEYS], clients[BATCH_KEYS]; /* orders that are out */
    uint32_t nr_locals, nr_clients;
};

/* ------------------------------------------------------------------ a lone node */

static void on_peer(void *arg, uint32_t peer)
{
    (void)arg, (void)peer;
}

static void on_hang_up(void *arg, uint32_t peer, uint64_t conn)
{
    (void)arg, (void)peer, (void)conn;
}

static void on_send(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg)
{
    (void)arg, (void)peer, (void)conn, (void)msg;
    KV_UNREACHABLE("a node without peers has nobody to ask");
}

static void on_send_data(void *arg, uint32_t peer, const struct kv_msg *msg)
{
    on_send(arg, peer, 0, msg);
}

static void on_order(void *arg, const struct kvo_order *order)
{
    struct core_bench *b = arg;
    if (order->kind == KVO_ORDER_LOCAL) {
        KV_ASSERT(b->nr_locals < BATCH_KEYS);
        b->locals[b->nr_locals++] = order->local.id;
        return;
    }
    KV_ASSERT(order->kind == KVO_ORDER_CLIENT_IN && b->nr_clients < BATCH_KEYS);
    b->clients[b->nr_clients++] = order->parts[0].id;
}

static void on_answer(void *arg, const struct kvo_answer *answer)
{
    struct core_bench *b = arg;
    KV_ASSERT(answer->status == KV_OK);
    b->nr_answers++;
    for (uint32_t i = 0; i < answer->nr_keys; i++) {
        b->nr_ok += answer->statuses[i] == KV_OK;
    }
}

static void on_switched(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    (void)arg, (void)client, (void)seq, (void)page, (void)was, (void)now;
}

static void on_random(void *arg, uint8_t *bytes, size_t len)
{
    (void)arg;
    memset(bytes, 0, len); /* no links here */
}

static kv_status_t node_create(struct core_bench *b)
{
    const struct kvc_member self = {.id = 1, .weight = 1};
    const uint32_t nr_frames = b->nr_prefixes * BATCH_KEYS + SPARE_FRAMES;
    const struct kvo_out out = {
        .arg = b,
        .dial = on_peer,
        .hang_up = on_hang_up,
        .send = on_send,
        .send_data = on_send_data,
        .order = on_order,
        .answer = on_answer,
        .switched = on_switched,
        .random = on_random,
    };
    b->config = (struct kvo_config){
        .node = self.id,
        .incarnation = 1,
        .cluster = "bench",
        .view = &b->view,
        .pager =
            {
                .pools =
                    {{.tier = KVP_DEVICE,
                      .frame_bytes = PAGE_BYTES,
                      .nr_frames = nr_frames}},
                .nr_pools = 1,
                .tenants = {{.id = 1}},
                .nr_tenants = 1,
                .variants = {{.page_tokens = PAGE_TOKENS, .page_bytes = PAGE_BYTES}},
                .nr_variants = 1,
                .evict = &kvp_evict_lru,
                .verify_local = KVP_VERIFY_OFF,
                .nr_sequences = 1,
                .nr_leaves = 1,
                .nr_retired = 1,
                .seed = 1,
            },
        .liveness = {.heartbeat_us = 250000, .suspect_us = 1000000, .lost_us = 3000000},
        .directory = {.nr_entries = nr_frames, .nr_holdings = nr_frames, .cold_us = 1},
        .transports = {{.kind = KVO_NAMED, .name = "tcp"}},
        .nr_transports = 1,
        .grant_us = 1000000,
        .call_us = 50000,
        .double_us = 10000,
        .read_us = 100000,
        .revoke_us = 50000,
        .spill_us = 1000000,
        .redial_us = 100000,
        .nr_clients = 1,
        .nr_ops = 16,
        .nr_items = BATCH_KEYS,
        .nr_calls = 16,
        .nr_reads = BATCH_KEYS,
        .nr_grants = 16,
        .nr_spills = 16,
        .sync_items = KV_MSG_ITEMS_MAX,
        .tick_us = 10000,
        .seed = 1,
    };
    kv_status_t status = kvc_view_build(&b->view, 1, &self, 1, NULL);
    if (status == KV_OK) {
        status = kvo_create(&b->config, &out, b->now_us, &b->node, NULL);
    }
    return status == KV_OK ? kvo_client_attach(b->node, b->now_us, 1, &b->client)
                           : status;
}

static void ask(struct core_bench *b, enum kvo_op op, const kv_key_t *keys)
{
    const struct kvo_request request = {
        .op = op,
        .deadline_us = ++b->now_us + DEADLINE_US,
        .keys = keys,
        .nr_keys = BATCH_KEYS,
        .buffers = b->buffers,
    };
    KV_ASSERT(kvo_request(b->node, b->now_us, b->client, &request) == KV_OK);
}

/* As far as the node can tell, a batch's bytes are written and digested at once. */
static void prefix_put(struct core_bench *b, const kv_key_t *keys)
{
    const struct kvo_done done = {.status = KV_OK, .computed = 1};
    b->nr_answers = b->nr_ok = 0;
    ask(b, KVO_PUT, keys);
    while (b->nr_clients + b->nr_locals > 0) {
        if (b->nr_clients > 0) {
            kvo_complete(b->node, b->now_us, b->clients[--b->nr_clients], &done);
        } else {
            kvo_local_done(b->node, b->now_us, b->locals[--b->nr_locals], KV_OK, 1);
        }
    }
    KV_ASSERT(b->nr_answers == 1 && b->nr_ok == BATCH_KEYS);
}

/* ------------------------------------------------------------------ both sides */

static void begin(void *arg)
{
    struct core_bench *b = arg;
    for (uint32_t i = b->nr_prefixes; i > 1; i--) {
        const uint32_t j = (uint32_t)kv_rng_below(&b->rng, i);
        const uint32_t prefix = b->order[i - 1];
        b->order[i - 1] = b->order[j];
        b->order[j] = prefix;
    }
}

static void ready(struct core_bench *b, uint32_t half, unsigned slice)
{
    for (uint32_t i = 0; i < b->slice_prefixes; i++) {
        const uint32_t at = half * (b->nr_prefixes / 2) + slice * b->slice_prefixes + i;
        memcpy(
            &b->hot_keys[(size_t)i * BATCH_KEYS],
            &b->keys[(size_t)b->order[at] * BATCH_KEYS], BATCH_KEYS * sizeof(*b->keys));
    }
    b->nr_answers = b->nr_ok = 0;
}

static void lookup_ready(void *arg, unsigned slice)
{
    ready(arg, 1, slice);
}

static void lookup_run(void *arg, unsigned slice)
{
    struct core_bench *b = arg;
    (void)slice;
    for (uint32_t i = 0; i < b->slice_prefixes; i++) {
        b->nr_ok += kvp_lookup(
            kvo_pager(b->node), 0, 0, &b->hot_keys[(size_t)i * BATCH_KEYS], BATCH_KEYS,
            b->refs);
    }
}

static void exists_ready(void *arg, unsigned slice)
{
    ready(arg, 0, slice);
}

static void exists_run(void *arg, unsigned slice)
{
    struct core_bench *b = arg;
    (void)slice;
    for (uint32_t i = 0; i < b->slice_prefixes; i++) {
        ask(b, KVO_EXISTS, &b->hot_keys[(size_t)i * BATCH_KEYS]);
    }
    KV_ASSERT(b->nr_answers == b->slice_prefixes);
}

static void keep(void *arg, unsigned slice)
{
    const struct core_bench *b = arg;
    (void)slice;
    KV_ASSERT(b->nr_ok == b->slice_prefixes * BATCH_KEYS);
}

/* ------------------------------------------------------------------ set up */

static kv_status_t keys_make(struct core_bench *b)
{
    uint32_t tokens[PAGE_TOKENS];
    kv_keygen_t *gen;
    kv_status_t status = kv_keygen_create(&gen);
    if (status != KV_OK) {
        return status;
    }
    for (size_t i = 0; i < (size_t)b->nr_prefixes * BATCH_KEYS; i++) {
        const kv_key_t salt = {{1}};
        kv_key_t prev = b->keys[i == 0 ? 0 : i - 1];
        if (i % BATCH_KEYS == 0) {
            kv_key_root(gen, &salt, &prev);
        }
        for (unsigned t = 0; t < PAGE_TOKENS; t++) {
            tokens[t] = (uint32_t)kv_rng_next(&b->rng);
        }
        KV_ASSERT(
            kv_key_page(gen, &prev, tokens, PAGE_TOKENS, NULL, 0, &b->keys[i], NULL)
            == KV_OK);
    }
    kv_keygen_destroy(gen);
    return KV_OK;
}

static kv_status_t core_init(struct core_bench *b, bool quick)
{
    b->now_us = 1;
    b->nr_prefixes = quick ? QUICK_PREFIXES : PREFIXES;
    b->slice_prefixes = quick ? QUICK_SLICE_PREFIXES : SLICE_PREFIXES;
    b->rng = kv_rng_seed(1);
    b->keys = kv_calloc((size_t)b->nr_prefixes * BATCH_KEYS, sizeof(*b->keys));
    b->hot_keys = kv_calloc((size_t)b->slice_prefixes * BATCH_KEYS, sizeof(*b->keys));
    b->order = kv_calloc(b->nr_prefixes, sizeof(*b->order));
    if (b->keys == NULL || b->hot_keys == NULL || b->order == NULL) {
        return KV_ERR_NOMEM;
    }
    kv_status_t status = keys_make(b);
    if (status == KV_OK) {
        status = node_create(b);
    }
    for (uint32_t i = 0; status == KV_OK && i < b->nr_prefixes; i++) {
        b->order[i] = i;
        prefix_put(b, &b->keys[(size_t)i * BATCH_KEYS]);
    }
    return status;
}

kv_status_t kvn_bench_core(struct kvn_bench *bench)
{
    if (!kvn_bench_wants(bench, KVN_BENCH_LOOKUP_LOCAL)) {
        return KV_OK;
    }
    struct core_bench *b = kv_calloc(1, sizeof(*b));
    if (b == NULL) {
        return KV_ERR_NOMEM;
    }
    kv_status_t status = core_init(b, bench->quick);
    if (status == KV_OK) {
        const struct kvn_bench_case c = {
            .name = KVN_BENCH_LOOKUP_LOCAL,
            .slices = b->nr_prefixes / 2 / b->slice_prefixes,
            .nr_per_slice = (double)b->slice_prefixes * BATCH_KEYS,
            .begin = begin,
            .reference = {lookup_ready, lookup_run, keep},
            .subject = {exists_ready, exists_run, keep},
        };
        kvn_bench_measure(bench, &c, b);
    }
    if (b->node != NULL) {
        kvo_destroy(b->node);
    }
    kv_free(b->order);
    kv_free(b->hot_keys);
    kv_free(b->keys);
    kv_free(b);
    return status;
}
