/* Goal: nodes of this process come and go as often as anybody likes, from as many
 * threads, whatever call fails, and however long an end takes: nothing is left behind.
 * Method: lives of whole nodes by kvr_open("embed:…") and by kvn_host_*; faults by
 * number; a resolver that is slow when asked to be. */
#include "base/assert.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "tests/node/embed_kit.h"
#include "tests/node/name_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    FAULTS_MAX = 3000,
    STARTS = 100,
    CROWD = 6,
    TURNS = 25,
    SLOW_US = 700 * 1000, /* of a name */
};

/* ------------------------------------------------------------------ faults */

/* One life whose n-th fallible call fails. False: it has fewer. */
static bool life_with_fault(uint64_t n)
{
    char error[700] = "";
    kvr_client_t *client = NULL;
    bool unused = false;
    kv_fault_after(n);
    const kvr_status_t status =
        embed_try(
            "a.conf", EMBED_FILLER, KVR_LEVEL_PAGER, &client, error, sizeof(error));
    if (status == KVR_OK) {
        kvr_close(client);
    } else if (
        client != NULL || error[0] == '\0'
        || (status != KVR_NOMEM && status != KVR_IO && status != KVR_CONFIG
            && status != KVR_LINK_LOST && status != KVR_AGAIN && status != KVR_INVALID
            && status != KVR_DENIED)) {
        fail_msg("fault %u: %s: '%s'", (unsigned)n, kvr_status_name(status), error);
    }
    for (uint64_t i = 0; i < n && !unused; i++) {
        unused = kv_fault_now();
    }
    kv_fault_after(0);
    return !unused;
}

static void life__survives_every_fault(void **state)
{
    char more[300];
    (void)state;
    snprintf(
        more, sizeof(more), "[listen]\nunix = %s\nhttp = 127.0.0.1:0\n",
        embed_path("sock"));
    embed_config("a.conf", 2, 1, more);
    const struct process_kit_held before = embed_settled("a.conf");
    uint64_t n = 1;
    while (life_with_fault(n)) {
        process_kit_expect_held(&before);
        assert_int_not_equal(access(embed_path("sock"), F_OK), 0);
        n++;
        assert_true(n < FAULTS_MAX);
    }
    process_kit_expect_held(&before);
    print_message("%u calls failed once each\n", (unsigned)n - 1);
    assert_true(n > 100);
}

static void life__a_hundred_leave_nothing(void **state)
{
    (void)state;
    embed_config("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    const struct process_kit_held before = embed_settled("a.conf");
    for (unsigned i = 0; i < STARTS; i++) {
        kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
        if (i % 2 == 0) {
            embed_put(client, i, 4);
        }
        kvr_close(client);
    }
    process_kit_expect_held(&before);
}

static void on_ended(void *arg)
{
    atomic_store((atomic_bool *)arg, true);
}

/* A node whose end takes longer than anybody waits goes on ending, and says when. */
static void stop__that_takes_long_ends_by_itself(void **state)
{
    static atomic_bool ended;
    char line[KVN_HOST_LINE_BYTES];
    (void)state;
    embed_config("a.conf", 1, 1, "[node \"2\"]\naddress = localhost:7400\n");
    const struct process_kit_held before = embed_settled("a.conf"); /* it waits, too */
    embed_log_begin();
    kvn_host_t *host = embed_host("a.conf");
    assert_int_equal(kvn_host_await(host, LK_LATER_US, line, sizeof(line)), KV_OK);
    usleep(50 * 1000); /* it asks for the name */
    assert_false(kvn_host_free(host, 1000, on_ended, &ended));
    for (unsigned i = 0; i < 10000 && !atomic_load(&ended); i++) {
        usleep(1000);
    }
    assert_true(atomic_load(&ended));
    kv_log_stop();
    process_kit_expect_held(&before);
}

/* Nor does a start that nobody waited for. */
static void start__that_is_not_waited_for_ends_by_itself(void **state)
{
    static atomic_bool ended;
    char line[KVN_HOST_LINE_BYTES] = "";
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    embed_log_begin();
    for (unsigned i = 0; i < 20; i++) {
        atomic_store(&ended, false);
        kvn_host_t *host = embed_host("a.conf");
        const kv_status_t status = kvn_host_await(host, 100 * i, line, sizeof(line));
        assert_true(status == KV_OK || status == KV_ERR_DEADLINE);
        if (!kvn_host_free(host, 100 * i, on_ended, &ended)) {
            for (unsigned k = 0; k < 10000 && !atomic_load(&ended); k++) {
                usleep(1000);
            }
            assert_true(atomic_load(&ended));
        }
    }
    kv_log_stop();
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ threads */

static void *crowd_main(void *arg)
{
    struct kv_rng rng = kv_rng_seed((uint64_t)(uintptr_t)arg);
    for (unsigned i = 0; i < TURNS; i++) {
        const bool second = kv_rng_next(&rng) % 2 == 0;
        kvr_client_t *client =
            embed_open(second ? "b.conf" : "a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
        const uint64_t first = kv_rng_next(&rng) % 64;
        embed_put(client, first, 4);
        (void)embed_get(client, first, 4);
        usleep((unsigned)(kv_rng_next(&rng) % 3000));
        kvr_close(client);
    }
    return NULL;
}

static void threads__open_and_close_at_once(void **state)
{
    pthread_t threads[CROWD];
    (void)state;
    embed_config("a.conf", 2, 1, "");
    embed_config("b.conf", 2, 2, "");
    const struct process_kit_held before = embed_settled("a.conf");
    for (uintptr_t i = 0; i < CROWD; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, crowd_main, (void *)(i + 1)), 0);
    }
    for (unsigned i = 0; i < CROWD; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ */

static int set_up(void **state)
{
    name_kit_slow("localhost", SLOW_US);
    return embed_set_up(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(life__survives_every_fault),
        cmocka_unit_test(life__a_hundred_leave_nothing),
        cmocka_unit_test(stop__that_takes_long_ends_by_itself),
        cmocka_unit_test(start__that_is_not_waited_for_ends_by_itself),
        cmocka_unit_test(threads__open_and_close_at_once),
    };
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, set_up, embed_tear_down);
}
