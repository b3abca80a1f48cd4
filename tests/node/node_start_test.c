/* Goal: a node starts whole or not at all, and stops without a rest: descriptors,
 * threads, memory and its socket are what they were, whatever call failed and whatever
 * was under way; and a data connection that cannot be had costs nothing.
 * Method: real nodes on loops of this process; faults by number; a resolver that is
 * slow when asked to be. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "node/daemon/node.h"
#include "tests/base/process_kit.h"
#include "tests/node/local_kit.h"

#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

static char folder[] = "/tmp/kvrail-start-XXXXXX";
static char config_path[64], socket_path[64], first_socket[80];
static uint16_t ports[NODES];

/* ------------------------------------------------------------------ the kit */

/* In front of the system's, also for libuv: the name "localhost" takes its time. */
__attribute__((visibility("default"))) int getaddrinfo(
    const char *name, const char *service, const struct addrinfo *hints,
    struct addrinfo **list)
{
    static int (*real)(
        const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (name != NULL && strcmp(name, "localhost") == 0) {
        usleep(SLOW_US);
        return EAI_NONAME;
    }
    if (real == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
        memcpy(&real, &symbol, sizeof(real));
    }
    return real(name, service, hints, list);
}

static void take_ports(void)
{
    int fds[NODES];
    for (unsigned i = 0; i < NODES; i++) {
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        KV_ASSERT(bind(fds[i], (struct sockaddr *)&address, len) == 0);
        KV_ASSERT(getsockname(fds[i], (struct sockaddr *)&address, &len) == 0);
        ports[i] = ntohs(address.sin_port);
    }
    for (unsigned i = 0; i < NODES; i++) {
        close(fds[i]);
    }
}

/* The configuration of a cluster of `nr` nodes; the second one's address when given. */
static struct kvn_config *load(unsigned nr, unsigned self, const char *second)
{
    char address[64], http[64], set[3][160];
    FILE *file = fopen(config_path, "w");
    KV_ASSERT(file != NULL);
    fprintf(
        file,
        "[cluster]\nname = test\n[tls]\nclear = yes\n[pager]\ndevice_bytes = 1MiB\n"
        "host_bytes = 1MiB\n[tenant \"10\"]\nsecret = " SECRET "\n"
        "[tenant \"11\"]\nsecret = " SECRET "\ndomain = own\ndevice_bytes = 64KiB\n"
        "fill = yes\n[space \"chat\"]\n"
        "model = m\npage_tokens = 8\npage_bytes = 1KiB\n[limits]\nclients = 8\n"
        "requests = 64\nfetching = 256\ncalls = 256\nreads = 256\ngrants = 256\n"
        "[directory]\nentries = 1024\n[data]\nconnections = 4\n");
    for (unsigned i = 0; i < nr; i++) {
        snprintf(address, sizeof(address), "127.0.0.1:%u", ports[i]);
        fprintf(
            file, "[node \"%u\"]\naddress = %s\n", i + 1,
            i == 1 && second != NULL ? second : address);
    }
    fclose(file);
    snprintf(http, sizeof(http), "listen.http=127.0.0.1:0");
    snprintf(set[0], sizeof(set[0]), "cluster.node=%u", self + 1);
    snprintf(set[1], sizeof(set[1]), "listen.unix=%s%u", socket_path, self);
    const char *sets[] = {set[0], set[1], http};
    const struct kvn_config_source source = {
        .path = config_path, .sets = sets, .nr_sets = 3};
    struct kvn_config *config = NULL;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    KV_ASSERT(errors != NULL);
    if (kvn_config_load(&source, &config, errors) != KV_OK) {
        fail_msg("%s", errors->lines[0]);
    }
    free(errors);
    return config;
}

static void expect_held(const struct process_kit_held *before)
{
    process_kit_expect_held(before);
    assert_int_not_equal(access(first_socket, F_OK), 0);
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
    struct kvn_config *config = load(2, 0, NULL);
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
    struct kvn_config *config = load(2, 0, NULL);
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
    struct kvn_config *config = load(2, 0, NULL);
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
    struct kvn_config *config = load(2, 0, "localhost:7400");
    (void)state;
    start_and_stop(config, 100);
    start_and_stop(config, 300);
    assert_int_not_equal(access(first_socket, F_OK), 0);
    kvn_config_free(config);
}

/* ------------------------------------------------------------------ clients */

struct served {
    uv_loop_t loop;
    uv_async_t stop;
    kvn_node_t *node;
    pthread_t thread;
    bool stopped;
};

static void on_stop(uv_async_t *async)
{
    struct served *served = async->data;
    kvn_node_stop(served->node, on_stopped, &served->stopped);
    uv_close((uv_handle_t *)async, NULL);
}

static void *serve(void *arg)
{
    struct served *served = arg;
    (void)uv_run(&served->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void served_start(struct served *served, const struct kvn_config *config)
{
    char line[KVN_NODE_LINE_BYTES];
    *served = (struct served){.node = NULL};
    assert_int_equal(uv_loop_init(&served->loop), 0);
    assert_int_equal(uv_async_init(&served->loop, &served->stop, on_stop), 0);
    served->stop.data = served;
    assert_int_equal(
        kvn_node_start(&served->loop, config, &served->node, line, sizeof(line)),
        KV_OK);
    assert_int_equal(pthread_create(&served->thread, NULL, serve, served), 0);
}

static void served_end(struct served *served)
{
    assert_int_equal(pthread_join(served->thread, NULL), 0);
    assert_true(served->stopped);
    assert_int_equal(uv_loop_close(&served->loop), 0);
}

static uint64_t first_of(uint32_t flight)
{
    return (uint64_t)(flight / 2) * BATCH % KEYS;
}

/* Batches of puts and gets; the node is told to stop after `early` of them. Each that
 * was taken ends once. */
static uint32_t stop_in_flight(const struct kvn_config *config, uint32_t early)
{
    struct served served;
    struct kvr_buffer buffer;
    struct kvr_result result;
    uint32_t nr = 0, seen = 0, cancelled = 0;
    served_start(&served, config);
    kvr_client_t *client = lk_client_at(first_socket, 0);
    assert_non_null(client);
    assert_int_equal(
        kvr_buffer_create(client, 2 * KEYS * LK_PAGE_BYTES, &buffer), KVR_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, i);
    }
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        if (i == early) {
            uv_async_send(&served.stop);
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
    served_end(&served);
    assert_int_not_equal(access(first_socket, F_OK), 0);
    return cancelled;
}

static void stop__ends_every_batch_in_flight(void **state)
{
    struct kvn_config *config = load(1, 0, NULL);
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
        configs[i] = load(NODES, i, NULL);
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
    struct kv_detail detail;
    const struct kv_log_config log = {.level = KV_LOG_ERROR, .path = "/dev/null"};
    (void)state;
    if (mkdtemp(folder) == NULL || kv_log_start(&log, &detail) != KV_OK) {
        return -1;
    }
    snprintf(config_path, sizeof(config_path), "%s/test.conf", folder);
    snprintf(socket_path, sizeof(socket_path), "%s/sock", folder);
    snprintf(first_socket, sizeof(first_socket), "%s0", socket_path);
    take_ports();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kv_log_stop();
    (void)unlink(config_path);
    return rmdir(folder);
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
