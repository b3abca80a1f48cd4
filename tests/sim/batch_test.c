/* A node whose tables are small is slow, not forgetful: what it cannot ask or read at
 * once waits for what is out, and no key of an accepted batch is a miss for it. */
#include "tests/sim/sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

enum { NR_KEYS = 40, READER = 3 };

static kv_status_t statuses[NR_KEYS];
static kv_key_t keys[NR_KEYS];
static uint32_t nr_hits;

/* A page at each of the other nodes in turn; every second call and read is one too
 * many for the reader. */
static void put_everywhere(struct sim *sim)
{
    for (uint32_t i = 0; i < NR_KEYS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "page %u", i);
        assert_int_equal(sim_put(sim, 1 + i % 2, name), KV_OK);
        keys[i] = sim_key(name);
    }
    sim_run(sim, 10000);
}

static void
answered(void *arg, struct kvs_client client, const struct kvo_answer *answer)
{
    bool *told = arg;
    (void)client;
    *told = true;
    assert_int_equal(answer->status, KV_OK);
    for (uint32_t i = 0; i < answer->nr_keys; i++) {
        statuses[i] = answer->statuses[i];
        nr_hits += answer->places[i] == KVO_FROM_PEER;
    }
}

static void lost(void *arg, struct kvs_client client)
{
    (void)arg;
    (void)client;
    fail();
}

static bool is_told(void *arg)
{
    return *(bool *)arg;
}

static void get_all(struct sim *sim)
{
    static const struct kvs_client_ops ops = {.answer = answered, .lost = lost};
    const uint32_t page_bytes = kvs_config(sim->world)->page_bytes;
    uint64_t buffers[NR_KEYS];
    struct kvs_client client;
    bool told = false;

    for (uint32_t i = 0; i < NR_KEYS; i++) {
        buffers[i] = (uint64_t)i * page_bytes;
    }
    const struct kvo_request request = {
        .op = KVO_GET,
        .deadline_us = 4000000,
        .loose = true,
        .keys = keys,
        .nr_keys = NR_KEYS,
        .buffers = buffers,
    };
    nr_hits = 0;
    assert_int_equal(
        kvs_attach(sim->world, READER - 1, 1, &ops, &told, &client), KV_OK);
    assert_int_equal(kvs_submit(sim->world, client, &request), KV_OK);
    assert_true(kvs_run_until(
        sim->world, is_told, &told, kvs_now(sim->world) + 10 * request.deadline_us));
    for (uint32_t i = 0; i < NR_KEYS; i++) {
        assert_int_equal(statuses[i], KV_OK);
        assert_true(kvs_content_ok(
            kvs_buffer(sim->world, client) + buffers[i], page_bytes, 100, &keys[i], 0));
    }
    assert_int_equal(nr_hits, NR_KEYS);
}

static void batch(enum kvs_mix mix, uint32_t nr_calls, uint32_t nr_reads)
{
    struct kvs_config config;
    struct sim sim;

    kvs_preset(&config);
    config.seed = 11;
    config.mix = mix;
    config.host_frames = 1024; /* the 1/8 rule lets so many grants be out */
    config.core.spill = false; /* offers would be in the way of the only call */
    config.core.nr_calls = nr_calls;
    config.core.nr_reads = nr_reads;
    sim_start(&sim, &config);
    put_everywhere(&sim);
    get_all(&sim);
    sim_end(&sim);
}

static void get__with_one_call_asks_one_home_after_the_other(void **state)
{
    (void)state;
    batch(KVS_ALL_NAMED, 1, 256);
    batch(KVS_ALL_ONE_SIDED, 1, 256); /* grants are asked for by calls too */
}

static void get__with_one_read_reads_one_page_after_the_other(void **state)
{
    (void)state;
    batch(KVS_ALL_NAMED, 128, 1);
    batch(KVS_ALL_ONE_SIDED, 128, 1);
}

static void get__with_one_of_each_still_gets_everything(void **state)
{
    (void)state;
    batch(KVS_MIXED, 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(get__with_one_call_asks_one_home_after_the_other),
        cmocka_unit_test(get__with_one_read_reads_one_page_after_the_other),
        cmocka_unit_test(get__with_one_of_each_still_gets_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
