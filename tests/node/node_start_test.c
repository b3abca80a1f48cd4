/* Goal: a node starts whole or not at all, and stops without a rest: descriptors,
 * threads, memory and its socket are what they were, whatever call failed and whatever
 * was under way; and a data connection that cannot be had costs nothing.
 * Method: real nodes on loops of this process; faults by number; a resolver that is
 * slow when asked to be. */
#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "tests/base/process_kit.h"
#include "tests/node/cluster_kit.h"
#include "tests/node/local_kit.h"
#include "tests/node/name_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    NODES = 4,
    FAULTS_MAX = 2000,
    FLIGHTS = 24,
    BATCH = 64,
    KEYS = 1024,
    SLOW_US = 700 * 1000, /* of a name: longer than two snapshots are apart */
};

#define SECRET "00112233445566778899aabbccddeeff"

static struct cluster_kit cluster;

/* ------------------------------------------------------------------ the kit */

/* Node `node` of `nr`; `more` is a section of its own. */
static struct kvn_config *load(unsigned nr, unsigned node, const char *more)
{
    cluster_kit_write(
        &cluster, "test.conf", nr,
        "[cluster]\nname = test\nnode = %u\n[listen]\nunix = %s%u\n"
        "http = 127.0.0.1:0\n[tls]\nclear = yes\n[pager]\ndevice_bytes = 1MiB\n"
        "host_bytes = 1MiB\n[tenant \"10\"]\nsecret = " SECRET "\n"
        "[tenant \"11\"]\nsecret = " SECRET "\ndomain = own\ndevice_bytes = 64KiB\n"
        "fill = yes\n[space \"chat\"]\n"
        "model = m\npage_tokens = 8\npage_bytes = 1KiB\n[limits]\nclients = 8\n"
        "requests = 64\nfetching = 256\ncalls = 256\nreads = 256\ngrants = 256\n"
        "[directory]\nentries = 1024\n[data]\nconnections = 4\n%s",
        node, cluster_kit_path(&cluster, "sock"), node, more);
    return cluster_kit_load(cluster_kit_path(&cluster, "test.conf"));
}

static void expect_held(const struct process_kit_held *before)
{
    process_kit_expect_held(before);
    assert_int_not_equal(access(cluster_kit_path(&cluster, "sock1"), F_OK), 0);
}

static void on_time(uv_timer_t *timer)
{
    uv_stop(timer->loop);
    uv_close((uv_handle_t *)timer, NULL);
}

static void run_for(uv_loop_t *loop, unsigned ms)
{
    uv_timer_t timer;
    uv_update_time(loop);
    KV_ASSERT(uv_timer_init(loop, &timer) == 0);
    KV_ASSERT(uv_timer_start(&timer, on_time, ms, 0) == 0);
    (void)uv_run(loop, UV_RUN_DEFAULT);
    (void)uv_run(loop, UV_RUN_NOWAIT); /* the timer's own end */
}

static void on_stopped(void *arg)
{
    *(bool *)arg = true;
}

static void finish(uv_loop_t *loop)
{
    (void)uv_run(loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(loop), 0);
}

static void stop_and_finish(uv_loop_t *loop, kvn_node_t *node)
{
    bool stopped = false;
    kvn_node_stop(node, on_stopped, &stopped);
    finish(loop);
    assert_true(stopped);
}

static void start_and_stop(const struct kvn_config *config, unsigned ms)
{
    uv_loop_t loop;
    kvn_node_t *node = NULL;
    char line[KVN_NODE_LINE_BYTES] = "";
    assert_int_equal(uv_loop_init(&loop), 0);
    if (kvn_node_start(&loop, config, &node, line, sizeof(line)) != KV_OK) {
        fail_msg("%s", line);
    }
    if (ms > 0) {
        run_for(&loop, ms);
    }
    stop_and_finish(&loop, node);
}

/* ------------------------------------------------------------------ starts */

/* One start whose n-th fallible call fails. False: it has fewer. */
static bool start_with_fault(const struct kvn_config *config, uint64_t n)
{
    uv_loop_t loop;
    kvn_node_t *node = NULL;
    char line[KVN_NODE_LINE_BYTES] = "";
    bool unused = false;
    assert_int_equal(uv_loop_init(&loop), 0);
    kv_fault_after(n);
    kv_status_t status = kvn_node_start(&loop, config, &node, line, sizeof(line));
    for (uint64_t i = 0; i < n && !unused; i++) {
        unused = kv_fault_now();
    }
    kv_fault_after(0);
    if (status == KV_OK) { /* not all that fails is needed */
        stop_and_finish(&loop, node);
        return !unused;
    }
    assert_false(unused);
    assert_null(node); /* written only on success */
    if ((status != KV_ERR_NOMEM && status != KV_ERR_IO && status != KV_ERR_CONFIG)
        || line[0] == '\0') {
        fail_msg("fault %u: %s: '%s'", (unsigned)n, kv_status_text(status), line);
    }
    finish(&loop);
    return true;
}

static void start__survives_every_fault(void **state)
{
    struct kvn_config *config = load(2, 1, "");
    (void)state;
    start_and_stop(config, 50); /* what libraries keep for ever */
    const struct process_kit_held before = process_kit_held();
    uint64_t n = 1;
    while (start_with_fault(config, n)) {
        expect_held(&before);
        n++;
        assert_true(n < FAULTS_MAX);
    }
    expect_held(&before);
    print_message("%u calls failed once each\n", (unsigned)n - 1);
    assert_true(n > 60);
    kvn_config_free(config);
}

static void start__twenty_times_leaves_nothing(void **state)
{
    struct kvn_config *config = load(2, 1, "");
    (void)state;
    start_and_stop(config, 50);
    const struct process_kit_held before = process_kit_held();
    for (unsigned i = 0; i < 20; i++) {
        start_and_stop(config, i % 2 == 0 ? 0 : 5 * i);
    }
    expect_held(&before);
    kvn_config_free(config);
}

/* The largest values of limits.reads and data.connections are none too many for what is
 * sized by them. */
static void start__takes_the_largest_tables(void **state)
{
    struct kvn_config *config = load(2, 1, "");
    (void)state;
    config->nr_reads = 32736;
    config->nr_data_conns = 4096;
    start_and_stop(config, 20);
    kvn_config_free(config);
}

/* Clients are gone at once, the links wait for a name: numbers are published meanwhile,
 * and must not be asked of what is gone. */
static void stop__waits_for_a_name_without_its_clients(void **state)
{
    struct kvn_config *config =
        load(1, 1, "[node \"2\"]\naddress = localhost:7400\n");
    (void)state;
    start_and_stop(config, 100);
    start_and_stop(config, 300);
    assert_int_not_equal(access(cluster_kit_path(&cluster, "sock1"), F_OK), 0);
    kvn_config_free(config);
}

/* ------------------------------------------------------------------ clients */

static uint64_t first_of(uint32_t flight)
{
    return (uint64_t)(flight / 2) * BATCH % KEYS;
}

/* Batches of puts and gets; the node is told to stop after `early` of them. Each that
 * was taken ends once. */
static uint32_t stop_in_flight(const struct kvn_config *config, uint32_t early)
{
    struct cluster_kit_node served;
    struct kvr_buffer buffer;
    struct kvr_result result;
    uint32_t nr = 0, seen = 0, cancelled = 0;
    cluster_kit_start(&served, config);
    kvr_client_t *client = lk_client_at(cluster_kit_path(&cluster, "sock1"), 0);
    assert_non_null(client);
    assert_int_equal(
        kvr_buffer_create(client, 2 * KEYS * LK_PAGE_BYTES, &buffer), KVR_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, i);
    }
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        if (i == early) {
            cluster_kit_tell_stop(&served);
        }
        bool put = i % 2 == 0;
        uint32_t at = (uint32_t)first_of(i) + (put ? 0 : KEYS);
        nr += lk_submit(
                  client, put ? KVR_OP_PUT : KVR_OP_GET, first_of(i), BATCH, buffer.id,
                  at, i, LK_LATER_US)
              == KVR_OK;
    }
    while (seen < nr && kvr_next(client, LK_LATER_US, &result) == KVR_OK) {
        assert_true(result.status == KVR_OK || result.status == KVR_CANCELLED);
        cancelled += result.status == KVR_CANCELLED;
        seen++;
        for (uint32_t k = 0; result.op == KVR_OP_GET && k < result.nr_keys; k++) {
            uint64_t number = first_of((uint32_t)result.tag) + k;
            const uint8_t *bytes = buffer.base;
            if (result.status == KVR_OK && result.statuses[k] == KVR_OK) {
                assert_memory_equal(
                    bytes + (number + KEYS) * LK_PAGE_BYTES,
                    bytes + number * LK_PAGE_BYTES, LK_PAGE_BYTES);
            }
        }
    }
    assert_int_equal(seen, nr);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_LINK_LOST);
    kvr_close(client);
    cluster_kit_join(&served);
    assert_int_not_equal(access(cluster_kit_path(&cluster, "sock1"), F_OK), 0);
    return cancelled;
}

static void stop__ends_every_batch_in_flight(void **state)
{
    struct kvn_config *config = load(1, 1, "");
    uint32_t cancelled = 0;
    (void)state;
    (void)stop_in_flight(config, 0);
    const struct process_kit_held before = process_kit_held();
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        cancelled += stop_in_flight(config, i);
        expect_held(&before);
    }
    print_message("%u batches were cancelled\n", cancelled);
    assert_true(cancelled > 0);
    kvn_config_free(config);
}

/* ------------------------------------------------------------------ connections */

/* Four nodes want six data connections each and may have four. Those that cannot be
 * had are asked for again, slower and slower, not in a circle. */
static void data__that_cannot_be_had_is_not_asked_for_in_a_circle(void **state)
{
    struct kvn_config *configs[NODES];
    kvn_node_t *nodes[NODES];
    bool stopped[NODES] = {false};
    char line[KVN_NODE_LINE_BYTES] = "";
    uv_loop_t loop;
    (void)state;
    assert_int_equal(uv_loop_init(&loop), 0);
    for (unsigned i = 0; i < NODES; i++) {
        configs[i] = load(NODES, i + 1, "");
        if (kvn_node_start(&loop, configs[i], &nodes[i], line, sizeof(line)) != KV_OK) {
            fail_msg("%s", line);
        }
    }
    for (unsigned turns = 0; turns < 200; turns++) {
        unsigned up = 0;
        run_for(&loop, 50);
        for (unsigned i = 0; i < NODES; i++) {
            up += kvo_links_up(kvn_node_core(nodes[i]));
        }
        if (up == NODES * (NODES - 1)) {
            break;
        }
        assert_true(turns < 199);
    }
    run_for(&loop, 2000);
    for (unsigned i = 0; i < NODES; i++) {
        uint64_t fences = kvo_metrics(kvn_node_core(nodes[i]))->fences;
        print_message("node %u: %u fences\n", i + 1, (unsigned)fences);
        assert_true(fences < 200);
        assert_int_equal(kvo_links_up(kvn_node_core(nodes[i])), NODES - 1);
        kvn_node_stop(nodes[i], on_stopped, &stopped[i]);
    }
    finish(&loop);
    for (unsigned i = 0; i < NODES; i++) {
        assert_true(stopped[i]);
        kvn_config_free(configs[i]);
    }
}

/* ------------------------------------------------------------------ */

static int set_up(void **state)
{
    const struct kv_log_config log = {.level = KV_LOG_ERROR, .path = "/dev/null"};
    (void)state;
    cluster_kit_make(&cluster);
    name_kit_slow("localhost", SLOW_US);
    return kv_log_start(&log, NULL) == KV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    kv_log_stop();
    (void)unlink(cluster_kit_path(&cluster, "test.conf"));
    return rmdir(cluster.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start__survives_every_fault),
        cmocka_unit_test(start__twenty_times_leaves_nothing),
        cmocka_unit_test(start__takes_the_largest_tables),
        cmocka_unit_test(stop__waits_for_a_name_without_its_clients),
        cmocka_unit_test(stop__ends_every_batch_in_flight),
        cmocka_unit_test(data__that_cannot_be_had_is_not_asked_for_in_a_circle),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
