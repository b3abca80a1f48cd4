/* Pools: memory of the caller's own, which the node never sees. What a batch moves goes
 * through a window, shared memory of ours with a slot a page.
 *
 *   PUT: block ── gather ──► slot ──► node        in kvr_submit()
 *   GET: node ──► slot ── scatter ──► block       in kvr_next(), keys that are OK alone
 *
 * (1) A slot is one batch's from its submit to its result. After CANCELLED the node may
 * still be writing it; but then the node is gone, and no slot is taken any more.
 * (2) Of the caller's memory nothing is written but blocks of keys whose GET is OK, and
 * of a tail's block nothing behind its tokens.
 */
#include "node/lib/lib_priv.h"

enum {
    POOL_ID = UINT16_MAX + 1, /* buffers', the node's, are less */
    POOL_GENS = 1 << 16,
    POOL_SLOTS_DEFAULT = 256,
};
_Static_assert(POOL_ID + (uint64_t)POOL_GENS * KVR_POOLS_MAX <= UINT32_MAX, "ids fit");

static uint32_t id_of(const kvr_client_t *client, const struct kvr_pool_state *pool)
{
    const uint32_t index = (uint32_t)(pool - client->pools);
    return POOL_ID + (pool->gen % POOL_GENS * KVR_POOLS_MAX + index);
}

struct kvr_pool_state *kvr_pool_find(kvr_client_t *client, uint32_t id)
{
    if (id < POOL_ID) {
        return NULL;
    }
    struct kvr_pool_state *pool = &client->pools[(id - POOL_ID) % KVR_POOLS_MAX];
    return pool->used && id_of(client, pool) == id ? pool : NULL;
}

/* ------------------------------------------------------------------ add, remove */

static kv_status_t runs_check(
    const struct kvr_pool_config *config, const struct kvr_space *space,
    struct kv_detail *detail)
{
    uint64_t sum = 0;
    if (config->nr_runs == 0 || config->nr_runs > KVR_RUNS_MAX
        || config->runs == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "pool.nr_runs", KVR_RUNS_MAX, config->nr_runs);
    }
    for (uint32_t i = 0; i < config->nr_runs; i++) {
        const struct kvr_run *run = &config->runs[i];
        if (run->base == NULL || run->bytes == 0 || run->bytes > space->page_bytes) {
            return kv_fail(
                detail, KV_ERR_INVALID, "pool.runs.bytes", space->page_bytes,
                run->base == NULL ? 0 : run->bytes);
        }
        if (run->bytes % space->page_tokens != 0) { /* a tail is some tokens of each */
            return kv_fail(
                detail, KV_ERR_INVALID, "pool.runs.bytes: a multiple of page_tokens",
                space->page_tokens, run->bytes);
        }
        if (config->nr_blocks > 1 && run->stride < run->bytes) {
            return kv_fail(
                detail, KV_ERR_INVALID, "pool.runs.stride: at least the run's bytes",
                run->bytes, run->stride);
        }
        sum += run->bytes;
    }
    if (sum > space->page_bytes) {
        return kv_fail(
            detail, KV_ERR_INVALID, "pool.runs.bytes: all of a page", space->page_bytes,
            sum);
    }
    return KV_OK;
}

static kv_status_t pool_check(
    const struct kvr_pool_config *config, const struct kvr_space *space,
    struct kv_detail *detail)
{
    if (config->struct_size != sizeof(*config)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "pool.struct_size", sizeof(*config),
            config->struct_size);
    }
    if (config->nr_blocks == 0) {
        return kv_fail(detail, KV_ERR_INVALID, "pool.nr_blocks", UINT32_MAX, 0);
    }
    if (config->nr_slots > KVR_POOL_SLOTS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "pool.nr_slots", KVR_POOL_SLOTS_MAX,
            config->nr_slots);
    }
    return runs_check(config, space, detail);
}

static kv_status_t
pool_take_memory(struct kvr_pool_state *pool, const struct kvr_pool_config *config)
{
    const size_t runs = config->nr_runs * sizeof(*pool->runs);
    const size_t slots = pool->nr_slots * sizeof(*pool->slots);
    uint8_t *memory = kv_calloc(1, runs + slots);
    if (memory == NULL) {
        return KV_ERR_NOMEM;
    }
    pool->runs = (struct kvr_run *)memory;
    pool->slots = (struct kvr_slot *)(memory + runs);
    memcpy(pool->runs, config->runs, runs);
    for (uint32_t i = 0; i < pool->nr_slots; i++) {
        pool->slots[i].next = i + 1;
    }
    return KV_OK;
}

kvr_status_t kvr_pool_add(
    kvr_client_t *client, const struct kvr_space *space,
    const struct kvr_pool_config *config, struct kvr_pool *pool_p)
{
    struct kv_detail detail = {0};
    kv_status_t status = pool_check(config, space, &detail);
    if (status != KV_OK) {
        return kvr_fail(client, status, &detail);
    }
    struct kvr_pool_state *pool = client->pools;
    while (pool < client->pools + KVR_POOLS_MAX && pool->used) {
        pool++;
    }
    if (pool == client->pools + KVR_POOLS_MAX) {
        kv_fail(
            &detail, KV_ERR_AGAIN, "client.pools", KVR_POOLS_MAX, KVR_POOLS_MAX + 1);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    const uint32_t gen = pool->gen + 1;
    *pool = (struct kvr_pool_state){
        .gen = gen,
        .nr_runs = config->nr_runs,
        .nr_blocks = config->nr_blocks,
        .page_bytes = space->page_bytes,
        .page_tokens = space->page_tokens,
        .nr_slots = config->nr_slots != 0 ? config->nr_slots : POOL_SLOTS_DEFAULT,
    };
    pool->nr_free = pool->nr_slots;
    if (pool_take_memory(pool, config) != KV_OK) {
        return kvr_fail_text(client, KV_ERR_NOMEM, "nomem: a pool's slots");
    }
    const kvr_status_t created = kvr_buffer_create(
        client, (size_t)pool->nr_slots * pool->page_bytes, &pool->window);
    if (created != KVR_OK) {
        kv_free(pool->runs);
        return created;
    }
    pool->used = true;
    *pool_p = (struct kvr_pool){.id = id_of(client, pool), .nr_slots = pool->nr_slots};
    return KVR_OK;
}

kvr_status_t kvr_pool_remove(kvr_client_t *client, struct kvr_pool *pool_p)
{
    struct kvr_pool_state *pool = kvr_pool_find(client, pool_p->id);
    struct kv_detail detail = {0};
    if (pool == NULL) {
        kv_fail(&detail, KV_ERR_STALE, "pool.id", KVR_POOLS_MAX, pool_p->id);
        return kvr_fail(client, KV_ERR_STALE, &detail);
    }
    if (pool->nr_free != pool->nr_slots) {
        kv_fail(
            &detail, KV_ERR_AGAIN, "pool.slots of batches in flight", 0,
            pool->nr_slots - pool->nr_free);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    kvr_buffer_destroy(client, &pool->window);
    kv_free(pool->runs);
    pool->used = false;
    *pool_p = (struct kvr_pool){0};
    return KVR_OK;
}

void kvr_pools_free(kvr_client_t *client)
{
    for (uint32_t i = 0; i < KVR_POOLS_MAX; i++) {
        if (client->pools[i].used) { /* its window goes with the other buffers */
            kv_free(client->pools[i].runs);
        }
    }
}

/* ------------------------------------------------------------------ batches */

kv_status_t kvr_pool_check(
    const struct kvr_pool_state *pool, const struct kvr_batch *batch,
    uint32_t page_bytes, struct kv_detail *detail)
{
    if (pool->page_bytes != page_bytes) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.variant: page_bytes of the pool's space",
            pool->page_bytes, page_bytes);
    }
    for (uint32_t i = 0; i < batch->nr_keys; i++) {
        if (batch->at[i].buffer != batch->at[0].buffer) {
            return kv_fail(
                detail, KV_ERR_INVALID, "batch.at.buffer: one pool a batch",
                batch->at[0].buffer, batch->at[i].buffer);
        }
        if (batch->at[i].offset >= pool->nr_blocks) {
            return kv_fail(
                detail, KV_ERR_INVALID, "batch.at.offset: a block of the pool",
                pool->nr_blocks - 1, batch->at[i].offset);
        }
        if (batch->n_tokens != NULL
            && (batch->n_tokens[i] == 0 || batch->n_tokens[i] > pool->page_tokens)) {
            return kv_fail(
                detail, KV_ERR_INVALID, "batch.n_tokens", pool->page_tokens,
                batch->n_tokens[i]);
        }
    }
    if (batch->nr_keys > pool->nr_slots) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "pool.slots", pool->nr_slots, batch->nr_keys);
    }
    if (batch->nr_keys > pool->nr_free) {
        return kv_fail(
            detail, KV_ERR_AGAIN, "pool.slots that are free", pool->nr_free,
            batch->nr_keys);
    }
    return KV_OK;
}

static uint8_t *slot_bytes(const struct kvr_pool_state *pool, uint32_t slot)
{
    return (uint8_t *)pool->window.base + (size_t)slot * pool->page_bytes;
}

/* What of a run `tokens` take. */
static size_t
run_part(const struct kvr_pool_state *pool, const struct kvr_run *run, uint32_t tokens)
{
    return run->bytes / pool->page_tokens * tokens;
}

static void gather(const struct kvr_pool_state *pool, uint32_t index)
{
    const struct kvr_slot *slot = &pool->slots[index];
    uint8_t *to = slot_bytes(pool, index), *end = to + pool->page_bytes;
    for (uint32_t i = 0; i < pool->nr_runs; i++) {
        const struct kvr_run *run = &pool->runs[i];
        const size_t part = run_part(pool, run, slot->tokens);
        memcpy(to, (const uint8_t *)run->base + slot->block * run->stride, part);
        to += part;
    }
    /* Equal blocks make equal pages: what is behind them is nobody's. */
    memset(to, 0, (size_t)(end - to));
}

static void scatter(const struct kvr_pool_state *pool, uint32_t index)
{
    const struct kvr_slot *slot = &pool->slots[index];
    const uint8_t *from = slot_bytes(pool, index);
    for (uint32_t i = 0; i < pool->nr_runs; i++) {
        const struct kvr_run *run = &pool->runs[i];
        const size_t part = run_part(pool, run, slot->tokens);
        memcpy((uint8_t *)run->base + slot->block * run->stride, from, part);
        from += part;
    }
}

/* Slots of a flight are a chain in the order of its keys. */
void kvr_pool_begin(
    kvr_client_t *client, struct kvr_pool_state *pool, struct kvr_flight *flight,
    struct kvr_batch *batch)
{
    uint32_t *link = &flight->slot;
    KV_ASSERT(batch->nr_keys <= pool->nr_free);
    for (uint32_t i = 0; i < batch->nr_keys; i++) {
        const uint32_t index = pool->free_slot;
        struct kvr_slot *slot = &pool->slots[index];
        pool->free_slot = slot->next;
        slot->block = (size_t)batch->at[i].offset;
        slot->tokens =
            batch->n_tokens != NULL ? batch->n_tokens[i] : pool->page_tokens;
        if (batch->op == KVR_OP_PUT) {
            gather(pool, index);
        }
        client->at[i] = (struct kvr_at){
            .buffer = pool->window.id, .offset = (uint64_t)index * pool->page_bytes};
        *link = index;
        link = &slot->next;
    }
    pool->nr_free -= batch->nr_keys;
    flight->pool = pool;
    batch->at = client->at;
}

void kvr_pool_end(struct kvr_flight *flight, const int32_t *statuses)
{
    struct kvr_pool_state *pool = flight->pool;
    uint32_t index = flight->slot;
    for (uint32_t i = 0; i < flight->nr_keys; i++) {
        struct kvr_slot *slot = &pool->slots[index];
        const uint32_t next = slot->next;
        const bool got = statuses != NULL && statuses[i] == KVR_OK;
        if (flight->op == KVR_OP_GET && got) { /* (2) */
            scatter(pool, index);
        }
        slot->next = pool->free_slot;
        pool->free_slot = index;
        index = next;
    }
    pool->nr_free += flight->nr_keys;
    flight->pool = NULL;
}
