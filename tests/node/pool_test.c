/* Pools of libkvrail: what lies in an engine's own tensors goes to the node and comes
 * back, run by run, and nothing else of that memory is ever touched. */
#include "base/fault.h"
#include "tests/node/local_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    LAYERS = 4,
    RUN_BYTES = LK_PAGE_BYTES / LAYERS,
    BLOCKS = 12,
    UNTOUCHED = 0xa5,
};

static struct lk lk;

/* As engines have them: a tensor a layer, in it a part of every block, and something
 * of theirs between any two. */
struct tensors {
    uint8_t layers[LAYERS][BLOCKS][RUN_BYTES + 8];
    struct kvr_run runs[LAYERS];
};

static kvr_client_t *begin(void)
{
    lk_init(&lk);
    lk_start(&lk);
    return lk_client(&lk);
}

static void end(kvr_client_t *client)
{
    kvr_close(client);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

static void tensors_init(struct tensors *t)
{
    memset(t->layers, UNTOUCHED, sizeof(t->layers));
    for (unsigned i = 0; i < LAYERS; i++) {
        t->runs[i] = (struct kvr_run){
            .base = t->layers[i], .stride = RUN_BYTES + 8, .bytes = RUN_BYTES};
    }
}

static struct kvr_pool_config config_of(const struct tensors *t, uint32_t nr_slots)
{
    return (struct kvr_pool_config){
        .struct_size = sizeof(struct kvr_pool_config),
        .runs = t->runs,
        .nr_runs = LAYERS,
        .nr_blocks = BLOCKS,
        .nr_slots = nr_slots,
    };
}

static struct kvr_pool
pool_of(kvr_client_t *client, const struct tensors *t, uint32_t nr_slots)
{
    const struct kvr_pool_config config = config_of(t, nr_slots);
    struct kvr_space space;
    struct kvr_pool pool;
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_OK);
    assert_true(pool.nr_slots > 0);
    return pool;
}

/* The first `tokens` of a page, in a block's runs. */
static void block_fill(struct tensors *t, uint32_t block, uint64_t number)
{
    uint8_t page[LK_PAGE_BYTES];
    lk_page(page, number);
    for (unsigned i = 0; i < LAYERS; i++) {
        memcpy(t->layers[i][block], page + i * RUN_BYTES, RUN_BYTES);
    }
}

static void block_expect(
    const struct tensors *t, uint32_t block, uint64_t number, uint32_t tokens)
{
    const size_t part = (size_t)RUN_BYTES / LK_PAGE_TOKENS * tokens;
    uint8_t page[LK_PAGE_BYTES];
    lk_page(page, number);
    for (unsigned i = 0; i < LAYERS; i++) {
        const uint8_t *run = t->layers[i][block];
        assert_memory_equal(run, page + i * RUN_BYTES, part);
        for (size_t at = part; at < sizeof(t->layers[i][block]); at++) {
            assert_int_equal(run[at], UNTOUCHED);
        }
    }
}

static void
untouched(const struct tensors *t, uint32_t first_block, uint32_t end_block)
{
    for (uint32_t b = first_block; b < end_block; b++) {
        block_expect(t, b, 0, 0);
    }
}

/* Keys first … first + n - 1 and blocks `block` and on; n_tokens NULL: full pages. */
static kvr_status_t submit(
    kvr_client_t *client, enum kvr_op op, const struct kvr_pool *pool, uint64_t first,
    uint32_t n, uint32_t block, const uint32_t *n_tokens)
{
    struct kvr_key keys[KVR_BATCH_MAX];
    struct kvr_at at[KVR_BATCH_MAX];
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = lk_key(first + i);
        at[i] = (struct kvr_at){.buffer = pool->id, .offset = block + i};
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .tag = first,
        .timeout_us = LK_LATER_US,
        .keys = keys,
        .nr_keys = n,
        .at = at,
        .n_tokens = n_tokens,
        .loose = 1,
    };
    return kvr_submit(client, &batch);
}

static void batch(
    kvr_client_t *client, enum kvr_op op, const struct kvr_pool *pool, uint64_t first,
    uint32_t n, uint32_t block, const uint32_t *n_tokens, kvr_status_t wanted)
{
    struct kvr_result result;
    assert_int_equal(
        submit(client, op, pool, first, n, block, n_tokens), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.status, KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(result.statuses[i], wanted);
    }
}

static void says(kvr_client_t *client, const char *words)
{
    if (strstr(kvr_error(client), words) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", kvr_error(client), words);
    }
}

/* A page is its block's runs in their order: what one client gathers another finds in
 * a plain buffer, and the other way round. */
static void page__is_the_runs_of_its_block(void **state)
{
    static struct tensors from, to;
    uint8_t page[LK_PAGE_BYTES];
    struct kvr_buffer buffer;
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&from);
    tensors_init(&to);
    const struct kvr_pool out = pool_of(client, &from, 0), in = pool_of(client, &to, 3);
    for (uint32_t i = 0; i < 6; i++) {
        block_fill(&from, i, 40 + i);
    }
    batch(client, KVR_OP_PUT, &out, 40, 6, 0, NULL, KVR_OK);
    batch(client, KVR_OP_PUT, &out, 40, 6, 0, NULL, KVR_EXISTS);

    assert_int_equal(kvr_buffer_create(client, 6 * LK_PAGE_BYTES, &buffer), KVR_OK);
    assert_int_equal(lk_batch(client, KVR_OP_GET, 40, 6, buffer.id, 0, NULL), KVR_OK);
    for (uint32_t i = 0; i < 6; i++) {
        lk_page(page, 40 + i);
        assert_memory_equal(
            (uint8_t *)buffer.base + (size_t)i * LK_PAGE_BYTES, page, sizeof(page));
    }
    batch(client, KVR_OP_GET, &in, 40, 3, 5, NULL, KVR_OK);
    batch(client, KVR_OP_GET, &in, 43, 3, 8, NULL, KVR_OK);
    for (uint32_t i = 0; i < 6; i++) {
        block_expect(&to, 5 + i, 40 + i, LK_PAGE_TOKENS);
    }
    untouched(&to, 0, 5);
    untouched(&to, 11, BLOCKS);
    end(client); /* with its pools */
}

/* Runs may be less than a page: the rest is zeros, whatever its slot had before. */
static void page__ends_in_zeros(void **state)
{
    static struct tensors t;
    static const uint8_t zeros[RUN_BYTES];
    struct kvr_buffer buffer;
    struct kvr_space space;
    struct kvr_pool pool;
    (void)state;
    kvr_client_t *client = begin();
    assert_int_equal(kvr_buffer_create(client, LK_PAGE_BYTES, &buffer), KVR_OK);
    lk_page(buffer.base, 1);
    assert_int_equal(lk_batch(client, KVR_OP_PUT, 1, 1, buffer.id, 0, NULL), KVR_OK);
    tensors_init(&t);
    struct kvr_pool_config config = config_of(&t, 1);
    config.nr_runs = LAYERS - 1;
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_OK);
    batch(client, KVR_OP_GET, &pool, 1, 1, 0, NULL, KVR_OK);
    batch(client, KVR_OP_PUT, &pool, 2, 1, 0, NULL, KVR_OK);
    assert_int_equal(lk_batch(client, KVR_OP_GET, 2, 1, buffer.id, 0, NULL), KVR_OK);
    assert_memory_equal(
        (uint8_t *)buffer.base + (LAYERS - 1) * RUN_BYTES, zeros, sizeof(zeros));
    assert_memory_equal(buffer.base, t.layers[0][0], RUN_BYTES);
    end(client);
}

/* Of a tail the first tokens of each run go and come; what lies behind them in the
 * block is the engine's. */
static void tail__is_the_first_tokens_of_each_run(void **state)
{
    static struct tensors from, to;
    static const uint32_t n_tokens[] = {3, LK_PAGE_TOKENS, 1};
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&from);
    tensors_init(&to);
    const struct kvr_pool out = pool_of(client, &from, 8), in = pool_of(client, &to, 8);
    for (uint32_t i = 0; i < 3; i++) {
        block_fill(&from, i, 70 + i);
    }
    batch(client, KVR_OP_PUT, &out, 70, 3, 0, n_tokens, KVR_OK);
    batch(client, KVR_OP_GET, &in, 70, 3, 0, n_tokens, KVR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        block_expect(&to, i, 70 + i, n_tokens[i]);
    }
    end(client);
}

/* A block whose key is missed keeps its bytes, though its slot has had others. */
static void miss__leaves_the_block_alone(void **state)
{
    static struct tensors t;
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&t);
    const struct kvr_pool pool = pool_of(client, &t, 2);
    block_fill(&t, 0, 1);
    block_fill(&t, 1, 2);
    batch(client, KVR_OP_PUT, &pool, 1, 2, 0, NULL, KVR_OK);
    batch(client, KVR_OP_GET, &pool, 900, 2, 4, NULL, KVR_MISS);
    untouched(&t, 2, BLOCKS);
    end(client);
}

/* Slots bound what is in flight; a pool stays until nothing of it is, and what is gone
 * is STALE for ever. */
static void slots__are_taken_until_the_result(void **state)
{
    static struct tensors t;
    struct kvr_result result;
    struct kvr_pool pools[KVR_POOLS_MAX], pool, old;
    struct kvr_space space;
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&t);
    pool = old = pool_of(client, &t, 4);
    assert_int_equal(submit(client, KVR_OP_PUT, &pool, 0, 5, 0, NULL), KVR_TOO_LARGE);
    says(client, "pool.slots is 5, the limit is 4");
    lk_stuck(&lk, true);
    assert_int_equal(submit(client, KVR_OP_PUT, &pool, 0, 3, 0, NULL), KVR_OK);
    assert_int_equal(submit(client, KVR_OP_PUT, &pool, 3, 2, 3, NULL), KVR_AGAIN);
    says(client, "is 2, the limit is 1");
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_AGAIN);
    lk_stuck(&lk, false);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    batch(client, KVR_OP_PUT, &pool, 3, 4, 3, NULL, KVR_OK);

    assert_int_equal(kvr_pool_remove(client, &pool), KVR_OK);
    assert_int_equal(submit(client, KVR_OP_GET, &old, 0, 1, 0, NULL), KVR_STALE);
    assert_int_equal(kvr_pool_remove(client, &old), KVR_STALE);
    for (unsigned i = 0; i < KVR_POOLS_MAX; i++) {
        pools[i] = pool_of(client, &t, 1);
    }
    assert_int_equal(submit(client, KVR_OP_GET, &old, 0, 1, 0, NULL), KVR_STALE);
    const struct kvr_pool_config config = config_of(&t, 1);
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_AGAIN);
    says(client, "client.pools is 17, the limit is 16");
    assert_int_equal(kvr_pool_remove(client, &pools[7]), KVR_OK);
    pools[7] = pool_of(client, &t, 1);
    end(client);
}

/* What was in flight when the node went writes nothing any more. */
static void node__gone_leaves_blocks_alone(void **state)
{
    static struct tensors t;
    struct kvr_result result;
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&t);
    struct kvr_pool pool = pool_of(client, &t, 4);
    block_fill(&t, 0, 5);
    batch(client, KVR_OP_PUT, &pool, 5, 1, 0, NULL, KVR_OK);
    lk_stuck(&lk, true);
    assert_int_equal(submit(client, KVR_OP_GET, &pool, 5, 1, 1, NULL), KVR_OK);
    usleep(20000);
    lk_close_local(&lk);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.status, KVR_CANCELLED);
    untouched(&t, 1, BLOCKS);
    assert_int_equal(submit(client, KVR_OP_GET, &pool, 5, 1, 1, NULL), KVR_LINK_LOST);
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_OK);
    kvr_close(client);
    lk_stuck(&lk, false);
    lk_stop(&lk);
}

struct mistake {
    const char *says;
    void (*make)(struct kvr_pool_config *config, struct kvr_run *runs);
};

static void no_runs(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)runs;
    config->nr_runs = 0;
}
static void many_runs(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)runs;
    config->nr_runs = KVR_RUNS_MAX + 1;
}
static void no_blocks(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)runs;
    config->nr_blocks = 0;
}
static void many_slots(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)runs;
    config->nr_slots = KVR_POOL_SLOTS_MAX + 1;
}
static void old_struct(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)runs;
    config->struct_size--;
}
static void no_bytes(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)config;
    runs[1].bytes = 0;
}
static void part_of_a_token(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)config;
    runs[1].bytes -= 1;
}
static void blocks_overlap(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)config;
    runs[2].stride = RUN_BYTES - 1;
}
static void more_than_a_page(struct kvr_pool_config *config, struct kvr_run *runs)
{
    (void)config;
    runs[3].bytes += LK_PAGE_TOKENS;
}

/* One line each, and nothing is left of it. */
static void add__refuses_what_it_can_not_hold(void **state)
{
    static const struct mistake mistakes[] = {
        {"pool.nr_runs is 0, the limit is 4096", no_runs},
        {"pool.nr_runs is 4097, the limit is 4096", many_runs},
        {"pool.nr_blocks is 0", no_blocks},
        {"pool.nr_slots is 65537, the limit is 65536", many_slots},
        {"pool.struct_size is", old_struct},
        {"pool.runs.bytes is 0, the limit is 1024", no_bytes},
        {"a multiple of page_tokens is 255, the limit is 8", part_of_a_token},
        {"at least the run's bytes is 255, the limit is 256", blocks_overlap},
        {"all of a page is 1032, the limit is 1024", more_than_a_page},
    };
    static struct tensors t;
    struct kvr_space space;
    struct kvr_pool pool;
    (void)state;
    kvr_client_t *client = begin();
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    const unsigned maps = lk_maps();
    for (unsigned i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        tensors_init(&t);
        struct kvr_pool_config config = config_of(&t, 0);
        mistakes[i].make(&config, t.runs);
        assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_INVALID);
        says(client, mistakes[i].says);
    }
    tensors_init(&t);
    const struct kvr_pool_config large = config_of(&t, LK_BUFFER_BYTES / 1024 + 1);
    assert_int_equal(kvr_pool_add(client, &space, &large, &pool), KVR_TOO_LARGE);
    assert_int_equal(lk_maps(), maps);

    pool = pool_of(client, &t, 2);
    struct kvr_pool none = {.id = pool.id + KVR_POOLS_MAX};
    static const uint32_t beyond[] = {LK_PAGE_TOKENS + 1};
    assert_int_equal(submit(client, KVR_OP_GET, &none, 0, 1, 0, NULL), KVR_STALE);
    assert_int_equal(
        submit(client, KVR_OP_GET, &pool, 0, 1, BLOCKS, NULL), KVR_INVALID);
    says(client, "a block of the pool is 12, the limit is 11");
    assert_int_equal(submit(client, KVR_OP_GET, &pool, 0, 1, 0, beyond), KVR_INVALID);
    says(client, "batch.n_tokens is 9, the limit is 8");
    untouched(&t, 0, BLOCKS);
    end(client);
}

/* A batch is of one pool, or of buffers. */
static void batch__of_two_pools_is_refused(void **state)
{
    static struct tensors t;
    (void)state;
    kvr_client_t *client = begin();
    tensors_init(&t);
    const struct kvr_pool one = pool_of(client, &t, 4), two = pool_of(client, &t, 4);
    const struct kvr_key keys[] = {lk_key(1), lk_key(2)};
    struct kvr_at at[] = {{.buffer = one.id}, {.buffer = two.id}};
    struct kvr_batch both = {
        .struct_size = sizeof(both),
        .op = KVR_OP_PUT,
        .timeout_us = LK_LATER_US,
        .keys = keys,
        .nr_keys = 2,
        .at = at,
        .loose = 1,
    };
    assert_int_equal(kvr_submit(client, &both), KVR_INVALID);
    says(client, "one pool a batch");
    at[0] = (struct kvr_at){.buffer = 0};
    assert_int_equal(kvr_submit(client, &both), KVR_STALE);
    end(client);
}

static void nothing(struct lk *kit, void *arg)
{
    (void)kit, (void)arg;
}

/* The n-th fallible call fails, for every n and on either side: nothing is left behind,
 * and the next client has its pool. */
static void add__survives_every_fault(void **state)
{
    static struct tensors t;
    struct kvr_space space;
    struct kvr_pool pool;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    tensors_init(&t);
    block_fill(&t, 0, 3);
    const struct kvr_pool_config config = config_of(&t, 4);
    kvr_close(lk_client(&lk));
    lk_await(&lk, 0, 0);
    lk_do(&lk, nothing, NULL); /* of two turns the first has closed its handles */
    lk_do(&lk, nothing, NULL);
    const struct lk_held before = lk_held();
    unsigned n = 0;
    for (bool whole = false; !whole; n++) {
        kvr_client_t *client = lk_client(&lk);
        assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
        kv_fault_after(n + 1);
        const kvr_status_t status = kvr_pool_add(client, &space, &config, &pool);
        kv_fault_after(0);
        assert_true(status <= 0 && status != KVR_DEADLINE);
        whole = status == KVR_OK;
        if (whole) {
            batch(client, KVR_OP_PUT, &pool, 3, 1, 0, NULL, KVR_OK);
        }
        kvr_close(client);
        lk_await(&lk, 0, 0);
        lk_await_held(&before);
        assert_true(n < 100);
    }
    assert_true(n > 3); /* slots, memfd, mapping */
    lk_stop(&lk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page__is_the_runs_of_its_block),
        cmocka_unit_test(page__ends_in_zeros),
        cmocka_unit_test(tail__is_the_first_tokens_of_each_run),
        cmocka_unit_test(miss__leaves_the_block_alone),
        cmocka_unit_test(slots__are_taken_until_the_result),
        cmocka_unit_test(node__gone_leaves_blocks_alone),
        cmocka_unit_test(add__refuses_what_it_can_not_hold),
        cmocka_unit_test(batch__of_two_pools_is_refused),
        cmocka_unit_test(add__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
