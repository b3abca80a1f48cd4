#include "tests/core/core_kit.h"

#include "base/digest.h"
#include "base/hash.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------------------ callbacks */

static void on_dial(void *arg, uint32_t peer)
{
    struct ck *ck = arg;
    (void)peer;
    ck->nr_dials++;
}

static void on_hang_up(void *arg, uint32_t peer, uint64_t conn)
{
    struct ck *ck = arg;
    if (ck->met && peer == CK_PEER) {
        ck_hung_up(ck, conn);
        return;
    }
    fail_msg("hung up on peer %u, connection %llu", peer, (unsigned long long)conn);
}

static void on_send(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg)
{
    struct ck *ck = arg;
    if (ck->met && peer == CK_PEER) {
        ck_heard(ck, conn, msg);
        return;
    }
    fail_msg("message %d to peer %u, whom nobody has met", (int)msg->type, peer);
}

static void on_send_data(void *arg, uint32_t peer, const struct kv_msg *msg)
{
    on_send(arg, peer, 0, msg);
}

static void on_order(void *arg, const struct kvo_order *order)
{
    struct ck *ck = arg;

    if (order->kind == KVO_ORDER_LOCAL) {
        assert_true(ck->nr_locals < CK_ORDERS);
        ck->locals[ck->nr_locals++] = order->local;
        return;
    }
    if (ck->met && order->kind != KVO_ORDER_CLIENT_IN
        && order->kind != KVO_ORDER_CLIENT_OUT) {
        ck_ordered(ck, order);
        return;
    }
    assert_true(
        order->kind == KVO_ORDER_CLIENT_IN || order->kind == KVO_ORDER_CLIENT_OUT);
    assert_int_equal(order->nr_parts, 1);
    assert_true(ck->nr_moves < CK_ORDERS);
    ck->moves[ck->nr_moves].kind = order->kind;
    ck->moves[ck->nr_moves++].part = order->parts[0];
}

static void on_answer(void *arg, const struct kvo_answer *answer)
{
    struct ck *ck = arg;

    ck->nr_answers++;
    ck->answer = *answer;
    assert_true(answer->nr_keys <= KVO_BATCH_KEYS_MAX);
    if (answer->statuses != NULL) {
        memcpy(ck->statuses, answer->statuses, answer->nr_keys * sizeof(kv_status_t));
        memcpy(ck->reasons, answer->reasons, answer->nr_keys);
        memcpy(ck->places, answer->places, answer->nr_keys);
    }
}

static void on_switched(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    struct ck *ck = arg;
    (void)client;
    (void)seq;
    (void)page;
    (void)was;
    (void)now;
    ck->nr_switched++;
}

/* ------------------------------------------------------------------ begin and end */

static void view_of(struct ck *ck, uint32_t nr)
{
    const struct kvc_member members[] = {
        {.id = 1, .weight = 1}, {.id = 2, .weight = 1}};
    assert_int_equal(kvc_view_build(&ck->view, 1, members, nr, NULL), KV_OK);
}

void ck_init(struct ck *ck)
{
    memset(ck, 0, sizeof(*ck));
    view_of(ck, 1);
    ck->now_us = 5000;
    ck->epoch = 1;
    ck->incarnation = 88;
    ck->nr_tenants = 2;
    ck->config = (struct kvo_config){
        .node = 1,
        .incarnation = 77,
        .cluster = "test",
        .view = &ck->view,
        .pager =
            {
                .pools =
                    {
                        {.tier = KVP_DEVICE,
                         .frame_bytes = CK_PAGE_BYTES,
                         .nr_frames = CK_DEVICE_FRAMES},
                        {.tier = KVP_HOST,
                         .frame_bytes = CK_PAGE_BYTES,
                         .nr_frames = CK_HOST_FRAMES},
                    },
                .nr_pools = 2,
                .tenants = {{.id = 10}, {.id = 20}},
                .nr_tenants = 2,
                .variants =
                    {
                        {.layout = 1,
                         .page_tokens = CK_PAGE_TOKENS,
                         .page_bytes = CK_PAGE_BYTES},
                        {.layout = 1,
                         .shard = 1,
                         .page_tokens = CK_PAGE_TOKENS,
                         .page_bytes = CK_PAGE_BYTES},
                    },
                .nr_variants = 2,
                .evict = &kvp_evict_lru,
                .nr_sequences = 8,
                .nr_leaves = 8,
                .nr_retired = 64,
            },
        .liveness = {.heartbeat_us = 250000, .suspect_us = 1000000, .lost_us = 3000000},
        .directory = {.nr_entries = 4096, .nr_holdings = 8192, .cold_us = 1000000},
        .transports = {{.kind = KVO_NAMED, .name = "tcp"}},
        .nr_transports = 1,
        .grant_us = 10000000,
        .call_us = 50000,
        .double_us = 10000,
        .read_us = 2000000,
        .revoke_us = 1000000,
        .spill_us = 2000000,
        .redial_us = 100000,
        .nr_clients = 4,
        .nr_ops = 8,
        .nr_items = 64,
        .nr_calls = 64,
        .nr_reads = 64,
        .nr_grants = 64,
        .nr_spills = 16,
        .sync_items = 64,
        .tick_us = 10000,
        .seed = 3,
    };
}

void ck_one_sided(struct ck *ck)
{
    ck->config.transports[0] =
        (struct kvo_transport){.kind = KVO_ONE_SIDED, .name = "verbs"};
    ck->config.transports[1] = (struct kvo_transport){.kind = KVO_NAMED, .name = "tcp"};
    ck->config.nr_transports = 2;
}

void ck_two_nodes(struct ck *ck)
{
    view_of(ck, 2);
}

static void on_random(void *arg, uint8_t *bytes, size_t len)
{
    (void)arg;
    memset(bytes, 0x5a, len);
}

kv_status_t ck_create(struct ck *ck, struct kv_detail *detail)
{
    const struct kvo_out out = {
        .arg = ck,
        .dial = on_dial,
        .hang_up = on_hang_up,
        .send = on_send,
        .send_data = on_send_data,
        .order = on_order,
        .answer = on_answer,
        .switched = on_switched,
        .random = on_random,
    };
    return kvo_create(&ck->config, &out, ck->now_us, &ck->node, detail);
}

void ck_open(struct ck *ck)
{
    assert_int_equal(ck_create(ck, NULL), KV_OK);
    kvo_check(ck->node);
}

void ck_close(struct ck *ck)
{
    kvo_check(ck->node);
    kvo_destroy(ck->node);
    assert_int_equal(kv_mem_live(), 0);
}

/* ------------------------------------------------------------------ bytes */

uint8_t *ck_bytes_at(struct ck *ck, uint32_t pool, uint32_t pool_frame)
{
    uint32_t frame = pool_frame;
    for (uint32_t i = 0; i < pool; i++) {
        frame += ck->config.pager.pools[i].nr_frames;
    }
    assert_true(frame < CK_FRAMES);
    return &ck->frames[(size_t)frame * CK_PAGE_BYTES];
}

static uint8_t *bytes_of(struct ck *ck, struct kvp_ref ref)
{
    struct kvp_info info;
    assert_int_equal(kvp_info(kvo_pager(ck->node), ref, &info), KV_OK);
    return ck_bytes_at(ck, info.pool, info.pool_frame);
}

uint8_t *ck_page(struct ck *ck, uint32_t at)
{
    assert_true(at < CK_CLIENT_PAGES);
    return &ck->buffer[(size_t)at * CK_PAGE_BYTES];
}

static void local_do(struct ck *ck, const struct kvp_order *order)
{
    uint8_t *dst = bytes_of(ck, order->dst);

    switch (order->kind) {
    case KVP_ORDER_DIGEST:
        break;
    case KVP_ORDER_COPY:
        memcpy(dst, bytes_of(ck, order->src), order->len);
        break;
    case KVP_ORDER_ZERO:
        memset(dst, 0, order->len);
        break;
    }
    kvo_local_done(ck->node, ck->now_us, order->id, KV_OK, kv_digest(dst, order->len));
}

static void
move_do(struct ck *ck, enum kvo_order_kind kind, const struct kvo_part *part)
{
    uint8_t *frame = ck_bytes_at(ck, part->pool, part->pool_frame);
    const struct kvo_done done = {.status = KV_OK, .len = part->len};

    assert_true(part->buffer + part->len <= sizeof(ck->buffer));
    if (kind == KVO_ORDER_CLIENT_IN) {
        memcpy(frame, &ck->buffer[part->buffer], part->len);
    } else {
        memcpy(&ck->buffer[part->buffer], frame, part->len);
    }
    kvo_complete(ck->node, ck->now_us, part->id, &done);
}

static bool many_at_once;

void ck_complete_many(bool many)
{
    many_at_once = many;
}

static void order_do(struct ck *ck)
{
    if (ck->nr_moves > 0) {
        const enum kvo_order_kind kind = ck->moves[0].kind;
        const struct kvo_part part = ck->moves[0].part;
        ck->nr_moves--;
        memmove(ck->moves, ck->moves + 1, ck->nr_moves * sizeof(ck->moves[0]));
        move_do(ck, kind, &part);
    } else {
        const struct kvp_order order = ck->locals[0];
        ck->nr_locals--;
        memmove(ck->locals, ck->locals + 1, ck->nr_locals * sizeof(ck->locals[0]));
        local_do(ck, &order);
    }
}

void ck_pump(struct ck *ck)
{
    while (ck->nr_locals > 0 || ck->nr_moves > 0) {
        const uint32_t n = many_at_once ? ck->nr_locals + ck->nr_moves : 1;
        if (many_at_once) {
            kvo_many_begin(ck->node);
        }
        for (uint32_t i = 0; i < n; i++) {
            order_do(ck);
        }
        if (many_at_once) {
            kvo_many_end(ck->node);
        }
        kvo_check_quick(ck->node);
    }
    kvo_check(ck->node);
}

/* ------------------------------------------------------------------ asking */

kv_key_t ck_key(uint64_t number)
{
    struct kv_rng rng = kv_rng_seed(number);
    kv_key_t key;

    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        key.b[i] = (uint8_t)kv_rng_next(&rng);
    }
    return key;
}

void ck_keys(kv_key_t *keys, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = ck_key(first + i);
    }
}

struct kvo_client_id ck_client(struct ck *ck, uint64_t tenants)
{
    struct kvo_client_id client;
    assert_int_equal(kvo_client_attach(ck->node, ck->now_us, tenants, &client), KV_OK);
    kvo_check(ck->node);
    return client;
}

void ck_tick(struct ck *ck, uint64_t us)
{
    ck->now_us += us;
    kvo_tick(ck->node, ck->now_us);
    kvo_check(ck->node);
}

void ck_send(
    struct ck *ck, struct kvo_client_id client, const struct kvo_request *request)
{
    assert_int_equal(kvo_request(ck->node, ck->now_us, client, request), KV_OK);
    kvo_check(ck->node);
}

kv_status_t
ck_ask(struct ck *ck, struct kvo_client_id client, const struct kvo_request *request)
{
    struct kvo_request dated = *request;
    const uint32_t before = ck->nr_answers;

    dated.deadline_us = ck->now_us + CK_LATER_US;
    dated.tag = 1000 + before;
    ck_send(ck, client, &dated);
    ck_pump(ck);
    assert_int_equal(ck->nr_answers, before + 1); /* once */
    assert_int_equal(ck->answer.tag, dated.tag);
    assert_int_equal(ck->answer.op, request->op);
    assert_int_equal(ck->answer.client.index, client.index);
    return ck->answer.status;
}

kv_status_t ck_batch(
    struct ck *ck, struct kvo_client_id client, enum kvo_op op, uint64_t first,
    uint32_t n, uint32_t at)
{
    static kv_key_t keys[KVO_BATCH_KEYS_MAX];
    static uint64_t buffers[KVO_BATCH_KEYS_MAX];

    assert_true(n <= KVO_BATCH_KEYS_MAX);
    ck_keys(keys, first, n);
    for (uint32_t i = 0; i < n; i++) {
        buffers[i] = (uint64_t)(at + i) * CK_PAGE_BYTES;
    }
    const struct kvo_request request = {
        .op = op, .keys = keys, .nr_keys = n, .buffers = buffers};
    return ck_ask(ck, client, &request);
}

struct kvp_seq_id ck_seq(struct ck *ck, struct kvo_client_id client)
{
    const struct kvo_request request = {.op = KVO_SEQ_OPEN};
    assert_int_equal(ck_ask(ck, client, &request), KV_OK);
    return ck->answer.seq;
}

uint32_t ck_count(const struct ck *ck, kv_status_t status)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < ck->answer.nr_keys; i++) {
        nr += ck->statuses[i] == status;
    }
    return nr;
}

uint32_t ck_frames(struct ck *ck, uint32_t pool, enum kvp_frame_state state)
{
    struct kvp_pool_stats stats;
    kvp_pool_stats(kvo_pager(ck->node), pool, &stats);
    return stats.in_state[state];
}

bool ck_here(struct ck *ck, const kv_key_t *key)
{
    struct kvp_ref ref;
    return kvp_lookup(kvo_pager(ck->node), 0, 0, key, 1, &ref) == 1;
}
