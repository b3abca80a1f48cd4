#include "tests/node/local_kit.h"

#include "base/assert.h"
#include "base/digest.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint8_t secrets[2][16] = {"first tenant's..", "other tenant's.."};

static uint64_t lk_now(void)
{
    return uv_hrtime() / 1000;
}

/* ------------------------------------------------------------------ callbacks */

static void on_dial(void *arg, uint32_t peer)
{
    (void)arg;
    (void)peer;
}

static void on_hang_up(void *arg, uint32_t peer, uint64_t conn)
{
    (void)arg;
    (void)peer;
    (void)conn;
}

static void on_send(void *arg, uint32_t peer, uint64_t conn, const struct kv_msg *msg)
{
    (void)arg;
    (void)peer;
    (void)conn;
    (void)msg;
}

static void on_send_data(void *arg, uint32_t peer, const struct kv_msg *msg)
{
    (void)arg;
    (void)peer;
    (void)msg;
}

static void on_switched(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    struct lk *lk = arg;
    (void)was;
    (void)now;
    kvn_local_switched(lk->local, client, seq, page);
}

static kv_status_t on_table(
    void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t first,
    uint32_t *n_p, struct kvo_page *pages, struct kvp_seq_info *info)
{
    struct lk *lk = arg;
    return kvo_seq_table(lk->node, client, seq, first, n_p, pages, info);
}

static uint8_t *frame_of(struct lk *lk, struct kvp_ref ref)
{
    struct kvp_info info;
    KV_ASSERT(kvp_info(kvo_pager(lk->node), ref, &info) == KV_OK);
    return kvn_memory_frame(lk->memory, info.pool, info.pool_frame);
}

static void on_mover(uv_idle_t *handle);

static void on_order(void *arg, const struct kvo_order *order)
{
    struct lk *lk = arg;
    KV_ASSERT(uv_idle_start(&lk->mover, on_mover) == 0);
    if (order->kind == KVO_ORDER_LOCAL) {
        KV_ASSERT(lk->nr_locals < LK_ORDERS);
        lk->locals[lk->nr_locals++] = order->local;
        return;
    }
    const struct kvo_part *part = &order->parts[0];
    KV_ASSERT(lk->nr_moves < LK_ORDERS);
    struct lk_move *move = &lk->moves[lk->nr_moves++];
    *move = (struct lk_move){
        .kind = order->kind,
        .id = part->id,
        .frame = kvn_memory_frame(lk->memory, part->pool, part->pool_frame),
        .len = part->len,
    };
    move->client =
        kvn_local_hold(lk->local, order->peer, part->buffer, part->len, &move->hold);
}

static void on_answer(void *arg, const struct kvo_answer *answer)
{
    struct lk *lk = arg;
    kvn_local_answer(lk->local, answer);
}

static kv_status_t
on_attach(void *arg, uint64_t tenants, struct kvo_client_id *client_p)
{
    struct lk *lk = arg;
    return kvo_client_attach(lk->node, lk_now(), tenants, client_p);
}

static kv_status_t
on_request(void *arg, struct kvo_client_id client, const struct kvo_request *request)
{
    struct lk *lk = arg;
    return kvo_request(lk->node, lk_now(), client, request);
}

static void on_hung_up(void *arg, struct kvo_client_id client)
{
    struct lk *lk = arg;
    kvo_client_hung_up(lk->node, lk_now(), client);
}

static void on_dead(void *arg, struct kvo_client_id client)
{
    struct lk *lk = arg;
    kvo_client_dead(lk->node, lk_now(), client);
}

static void on_note(void *arg, const char *line)
{
    struct lk *lk = arg;
    snprintf(lk->note, sizeof(lk->note), "%s", line);
}

/* ------------------------------------------------------------------ the loop */

static void local_do(struct lk *lk, const struct kvp_order *order)
{
    uint8_t *dst = frame_of(lk, order->dst);
    if (order->kind == KVP_ORDER_COPY) {
        memcpy(dst, frame_of(lk, order->src), order->len);
    } else if (order->kind == KVP_ORDER_ZERO) {
        memset(dst, 0, order->len);
    }
    kvo_local_done(lk->node, lk_now(), order->id, KV_OK, kv_digest(dst, order->len));
}

static void move_do(struct lk *lk, const struct lk_move *move)
{
    struct kvo_done done = {.status = KV_ERR_INVALID};
    if (move->client != NULL) {
        bool in = move->kind == KVO_ORDER_CLIENT_IN;
        memcpy(
            in ? move->frame : move->client, in ? move->client : move->frame,
            move->len);
        kvn_local_release(lk->local, move->hold);
        done = (struct kvo_done){.status = KV_OK, .len = move->len};
    }
    kvo_complete(lk->node, lk_now(), move->id, &done);
}

/* The latest local order that may go; false: none. */
static bool local_next(struct lk *lk, struct kvp_order *order)
{
    for (uint32_t i = lk->nr_locals; i-- > 0;) {
        if ((lk->held >> lk->locals[i].kind & 1) == 0) {
            *order = lk->locals[i];
            lk->locals[i] = lk->locals[--lk->nr_locals];
            return true;
        }
    }
    return false;
}

/* A few orders a turn, so that they interleave with requests. */
static void on_mover(uv_idle_t *handle)
{
    struct lk *lk = handle->data;
    bool any = true;
    for (unsigned i = 0; i < 64 && any; i++) {
        struct kvp_order order;
        any = local_next(lk, &order);
        if (any) {
            local_do(lk, &order);
        }
        if (lk->nr_moves > 0 && !lk->stuck) {
            const struct lk_move move = lk->moves[--lk->nr_moves];
            move_do(lk, &move);
            any = true;
        }
    }
    if (!any) {
        (void)uv_idle_stop(handle);
    }
}

static void on_tick(uv_timer_t *handle)
{
    struct lk *lk = handle->data;
    kvo_tick(lk->node, lk_now());
}

static void on_call(uv_async_t *handle)
{
    struct lk *lk = handle->data;
    if (lk->fn != NULL) {
        void (*fn)(struct lk *, void *) = lk->fn;
        lk->fn = NULL;
        fn(lk, lk->arg);
        KV_ASSERT(sem_post(&lk->done) == 0);
    }
}

static void *loop_run(void *arg)
{
    struct lk *lk = arg;
    KV_ASSERT(uv_run(&lk->loop, UV_RUN_DEFAULT) == 0);
    return NULL;
}

void lk_do(struct lk *lk, void (*fn)(struct lk *lk, void *arg), void *arg)
{
    lk->fn = fn;
    lk->arg = arg;
    KV_ASSERT(uv_async_send(&lk->call) == 0);
    while (sem_wait(&lk->done) != 0) {}
}

/* ------------------------------------------------------------------ begin and end */

void lk_init(struct lk *lk)
{
    memset(lk, 0, sizeof(*lk));
    const struct kvc_member members[] = {{.id = 1, .weight = 1}};
    KV_ASSERT(kvc_view_build(&lk->view, 1, members, 1, NULL) == KV_OK);
    snprintf(lk->dir, sizeof(lk->dir), "/tmp/kvrail-local-XXXXXX");
    KV_ASSERT(mkdtemp(lk->dir) != NULL);
    snprintf(lk->path, sizeof(lk->path), "%s/node.sock", lk->dir);
    lk->config = (struct kvo_config){
        .node = 1,
        .incarnation = 77,
        .cluster = "test",
        .view = &lk->view,
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
        .nr_clients = 8,
        .nr_ops = 16,
        .nr_items = 64,
        .nr_calls = 64,
        .nr_reads = 64,
        .nr_grants = 64,
        .nr_spills = 16,
        .sync_items = 64,
        .tick_us = 10000,
        .seed = 3,
    };
    lk->config.pager = (struct kvp_config){
        .pools =
            {{.tier = KVP_DEVICE,
              .frame_bytes = LK_PAGE_BYTES,
              .nr_frames = LK_DEVICE_FRAMES},
             {.tier = KVP_HOST,
              .frame_bytes = LK_PAGE_BYTES,
              .nr_frames = LK_HOST_FRAMES}},
        .nr_pools = 2,
        .tenants = {{.id = LK_TENANT}, {.id = LK_FOREIGN}},
        .nr_tenants = 2,
        .nr_variants = 3,
        .evict = &kvp_evict_lru,
        .nr_sequences = 8,
        .nr_leaves = 8,
        .nr_retired = 64,
    };
    for (uint16_t i = 0; i < 3; i++) {
        lk->config.pager.variants[i] = (struct kvp_variant_config){
            .layout = 1,
            .group = i,
            .page_tokens = LK_PAGE_TOKENS,
            .page_bytes = LK_PAGE_BYTES};
    }
    const uint32_t ids[] = {LK_TENANT, LK_FOREIGN};
    for (uint32_t i = 0; i < 2; i++) {
        lk->tenants[i] = (struct kvn_local_tenant){
            .id = ids[i], .secret = secrets[i], .secret_len = 16, .nr_uids = 1};
        lk->tenants[i].uids[0] = i == 0 ? getuid() : getuid() + 1;
        lk->spaces[i] = (struct kvn_local_space){
            .name = i == 0 ? "chat" : "code",
            .id = {{(uint8_t)(i + 1)}},
            .page_tokens = LK_PAGE_TOKENS,
            .page_bytes = LK_PAGE_BYTES,
            .nr_groups = i == 0 ? 2 : 1,
            .first_variant = i == 0 ? 0 : 2,
        };
    }
    lk->local_config = (struct kvn_local_config){
        .path = lk->path,
        .tenants = lk->tenants,
        .nr_tenants = 2,
        .spaces = lk->spaces,
        .nr_spaces = 2,
        .nr_clients = 8,
        .buffer_bytes = LK_BUFFER_BYTES,
        .poll_us = 200,
        .attach_us = 300000,
    };
}

void lk_init_fill(struct lk *lk)
{
    lk_init(lk);
    struct kvp_config *pager = &lk->config.pager;
    pager->pools[0].domain = pager->pools[1].domain = 1;
    pager->pools[0].nr_frames = LK_FILL_FRAMES;
    pager->pools[2] = (struct kvp_pool_config){
        .tier = KVP_DEVICE,
        .frame_bytes = LK_PAGE_BYTES,
        .nr_frames = LK_DEVICE_FRAMES,
    };
    pager->nr_pools = 3;
    pager->tenants[0].domain = 1;
    pager->nr_sequences = 64;
    pager->nr_leaves = 64;
    pager->nr_retired = 256;
    lk->tenants[1].uids[0] = getuid();
    lk->modes[0] = KVN_MEMORY_FILL;
}

/* Pool of mode FILL and domain d: of tenant d - 1. */
static void take_arenas(struct lk *lk)
{
    struct kvn_local_config *local = &lk->local_config;
    local->arenas = lk->arenas;
    local->nr_arenas = 0;
    local->nr_sequences = lk->config.pager.nr_sequences;
    for (uint32_t i = 0; i < lk->config.pager.nr_pools; i++) {
        const struct kvp_pool_config *pool = &lk->config.pager.pools[i];
        if (lk->modes[i] == KVN_MEMORY_FILL) {
            struct kvn_local_arena *arena = &lk->arenas[local->nr_arenas++];
            *arena = (struct kvn_local_arena){
                .tenant = (uint16_t)(pool->domain - 1),
                .pool = i,
                .block_bytes = pool->frame_bytes,
                .nr_blocks = pool->nr_frames,
            };
            arena->fd = kvn_memory_fill_fd(lk->memory, i, &arena->bytes);
        }
    }
}

void lk_start(struct lk *lk)
{
    const struct kvo_out out = {
        .arg = lk,
        .dial = on_dial,
        .hang_up = on_hang_up,
        .send = on_send,
        .send_data = on_send_data,
        .order = on_order,
        .answer = on_answer,
        .switched = on_switched,
    };
    const struct kvn_local_events events = {
        .arg = lk,
        .attach = on_attach,
        .request = on_request,
        .table = on_table,
        .hung_up = on_hung_up,
        .dead = on_dead,
        .note = on_note,
    };
    char line[512];
    lk->config.view = &lk->view;
    KV_ASSERT(
        kvn_memory_create(&lk->config.pager, lk->modes, false, &lk->memory, line, 512)
        == KV_OK);
    take_arenas(lk);
    lk->moves = calloc(LK_ORDERS, sizeof(*lk->moves));
    lk->locals = calloc(LK_ORDERS, sizeof(*lk->locals));
    KV_ASSERT(lk->moves != NULL && lk->locals != NULL);
    KV_ASSERT(kvo_create(&lk->config, &out, lk_now(), &lk->node, NULL) == KV_OK);
    KV_ASSERT(uv_loop_init(&lk->loop) == 0);
    kv_status_t status =
        kvn_local_open(&lk->loop, &lk->local_config, &events, &lk->local, line, 512);
    if (status != KV_OK) {
        fprintf(stderr, "%s\n", line);
    }
    KV_ASSERT(status == KV_OK);
    KV_ASSERT(uv_async_init(&lk->loop, &lk->call, on_call) == 0);
    KV_ASSERT(uv_timer_init(&lk->loop, &lk->tick) == 0);
    KV_ASSERT(uv_idle_init(&lk->loop, &lk->mover) == 0);
    lk->call.data = lk->tick.data = lk->mover.data = lk;
    KV_ASSERT(uv_timer_start(&lk->tick, on_tick, 2, 2) == 0);
    KV_ASSERT(sem_init(&lk->done, 0, 0) == 0);
    KV_ASSERT(pthread_create(&lk->thread, NULL, loop_run, lk) == 0);
}

static void on_closed(void *arg)
{
    struct lk *lk = arg;
    lk->closed = true;
}

static void close_do(struct lk *lk, void *arg)
{
    (void)arg;
    if (!lk->closing) {
        lk->closing = true;
        lk->stuck = false;
        lk->held = 0;
        (void)uv_idle_start(&lk->mover, on_mover);
        kvn_local_close(lk->local, on_closed, lk);
    }
}

static void closed_do(struct lk *lk, void *arg)
{
    *(bool *)arg = lk->closed && lk->nr_moves == 0 && lk->nr_locals == 0;
}

void lk_close_local(struct lk *lk)
{
    bool closed = false;
    lk_do(lk, close_do, NULL);
    for (unsigned i = 0; !closed; i++) {
        KV_ASSERT(i < 10000);
        usleep(500);
        lk_do(lk, closed_do, &closed);
    }
}

static void stop_do(struct lk *lk, void *arg)
{
    (void)arg;
    kvo_check(lk->node);
    uv_close((uv_handle_t *)&lk->call, NULL);
    uv_close((uv_handle_t *)&lk->tick, NULL);
    uv_close((uv_handle_t *)&lk->mover, NULL);
}

void lk_stop(struct lk *lk)
{
    lk_close_local(lk);
    KV_ASSERT(access(lk->path, F_OK) != 0);
    KV_ASSERT(rmdir(lk->dir) == 0);
    lk_do(lk, stop_do, NULL);
    KV_ASSERT(pthread_join(lk->thread, NULL) == 0);
    KV_ASSERT(uv_loop_close(&lk->loop) == 0);
    KV_ASSERT(sem_destroy(&lk->done) == 0);
    kvo_destroy(lk->node);
    kvn_memory_destroy(lk->memory);
    free(lk->moves);
    free(lk->locals);
}

/* ------------------------------------------------------------------ looking in */

static void stuck_do(struct lk *lk, void *arg)
{
    lk->stuck = *(bool *)arg;
    (void)uv_idle_start(&lk->mover, on_mover);
}

void lk_stuck(struct lk *lk, bool stuck)
{
    lk_do(lk, stuck_do, &stuck);
}

static void hold_do(struct lk *lk, void *arg)
{
    lk->held = *(uint32_t *)arg;
    (void)uv_idle_start(&lk->mover, on_mover);
}

void lk_hold(struct lk *lk, uint32_t kinds)
{
    lk_do(lk, hold_do, &kinds);
}

static void counts_do(struct lk *lk, void *arg)
{
    *(struct kvn_local_counts *)arg = *kvn_local_counts(lk->local);
}

struct kvn_local_counts lk_counts(struct lk *lk)
{
    struct kvn_local_counts counts;
    lk_do(lk, counts_do, &counts);
    return counts;
}

struct frames_ask {
    enum kvp_frame_state state;
    uint32_t nr;
};

static void frames_do(struct lk *lk, void *arg)
{
    struct frames_ask *ask = arg;
    kvo_check(lk->node);
    for (uint32_t pool = 0; pool < lk->config.pager.nr_pools; pool++) {
        struct kvp_pool_stats stats;
        kvp_pool_stats(kvo_pager(lk->node), pool, &stats);
        ask->nr += stats.in_state[ask->state];
    }
}

uint32_t lk_frames(struct lk *lk, enum kvp_frame_state state)
{
    struct frames_ask ask = {.state = state};
    lk_do(lk, frames_do, &ask);
    return ask.nr;
}

void lk_await(struct lk *lk, uint32_t clients, uint32_t mapped)
{
    for (unsigned i = 0; i < 20000; i++) {
        struct kvn_local_counts counts = lk_counts(lk);
        if (counts.clients == clients && counts.mapped == mapped) {
            return;
        }
        usleep(500);
    }
    KV_UNREACHABLE("clients or mappings are left");
}

static void note_do(struct lk *lk, void *arg)
{
    memcpy(arg, lk->note, sizeof(lk->note));
}

void lk_note(struct lk *lk, char line[KVN_LOCAL_NOTE_MAX])
{
    lk_do(lk, note_do, line);
}

unsigned lk_maps(void)
{
    unsigned nr = 0;
    char line[512];
    FILE *file = fopen("/proc/self/maps", "r");
    KV_ASSERT(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL) {
        nr += strstr(line, "memfd:kvrail") != NULL;
    }
    fclose(file);
    return nr;
}

struct lk_held lk_held(void)
{
    return (struct lk_held){
        .fds = process_kit_fds(), .maps = lk_maps(), .live = kv_mem_live()};
}

void lk_await_held(const struct lk_held *before)
{
    unsigned fds = process_kit_fds();
    int64_t live = kv_mem_live();
    for (unsigned i = 0; fds != before->fds || live != before->live; i++) {
        if (i == LK_HELD_MS) {
            fprintf(
                stderr, "%u descriptors were %u, %lld allocations were %lld\n", fds,
                before->fds, (long long)live, (long long)before->live);
        }
        KV_ASSERT(i < LK_HELD_MS);
        usleep(1000);
        fds = process_kit_fds();
        live = kv_mem_live();
    }
    KV_ASSERT(lk_maps() == before->maps);
}

/* ------------------------------------------------------------------ clients */

static kvr_client_t *
client_open(const char *path, uint32_t ring_bytes, enum kvr_level level)
{
    char target[128], error[256];
    kvr_client_t *client;
    snprintf(target, sizeof(target), "unix:%s", path);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = LK_TENANT,
        .ring_bytes = ring_bytes,
        .timeout_us = LK_LATER_US,
        .level = level,
    };
    if (kvr_open(&config, &client, error, sizeof(error)) != KVR_OK) {
        fprintf(stderr, "%s\n", error);
        return NULL;
    }
    return client;
}

kvr_client_t *lk_client_at(const char *path, uint32_t ring_bytes)
{
    return client_open(path, ring_bytes, KVR_LEVEL_OBJECT);
}

kvr_client_t *lk_engine_at(const char *path, uint32_t ring_bytes)
{
    return client_open(path, ring_bytes, KVR_LEVEL_PAGER);
}

kvr_client_t *lk_client(struct lk *lk)
{
    kvr_client_t *client = lk_client_at(lk->path, 0);
    KV_ASSERT(client != NULL);
    return client;
}

struct kvr_key lk_key(uint64_t number)
{
    struct kv_rng rng = kv_rng_seed(number);
    struct kvr_key key;
    for (unsigned i = 0; i < KVR_KEY_BYTES; i++) {
        key.bytes[i] = (uint8_t)kv_rng_next(&rng);
    }
    return key;
}

void lk_page(uint8_t *to, uint64_t number)
{
    struct kv_rng rng = kv_rng_seed(number ^ UINT64_C(0xb17e5));
    for (unsigned i = 0; i < LK_PAGE_BYTES; i += 8) {
        uint64_t word = kv_rng_next(&rng);
        memcpy(to + i, &word, sizeof(word));
    }
}

kvr_status_t lk_submit(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    uint32_t at, uint64_t tag, uint64_t timeout_us)
{
    struct kvr_key keys[KVR_BATCH_MAX];
    struct kvr_at places[KVR_BATCH_MAX];
    KV_ASSERT(n <= KVR_BATCH_MAX);
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = lk_key(first + i);
        places[i] = (struct kvr_at){
            .buffer = buffer, .offset = (uint64_t)(at + i) * LK_PAGE_BYTES};
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .tag = tag,
        .timeout_us = op <= KVR_OP_PUT ? timeout_us : 0,
        .keys = keys,
        .nr_keys = n,
        .at = places,
        .loose = 1,
    };
    return kvr_submit(client, &batch);
}

kvr_status_t lk_batch(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    uint32_t at, int32_t *statuses)
{
    struct kvr_result result;
    kvr_status_t status =
        lk_submit(client, op, first, n, buffer, at, first, LK_LATER_US);
    if (status == KVR_OK) {
        status = kvr_next(client, 2 * LK_LATER_US, &result);
    }
    if (status != KVR_OK) {
        return status;
    }
    KV_ASSERT(result.tag == first && result.op == op && result.nr_keys == n);
    if (statuses != NULL) {
        memcpy(statuses, result.statuses, n * sizeof(*statuses));
    }
    return result.status;
}
