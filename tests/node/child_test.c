/* Goal: a program that we start is found, runs, and is gone when it is told to,
 * whatever it does; what cannot be started says so. Method: /bin/sh plays them. */
#include "node/child.h"

#include "base/fault.h"
#include "node/iperf3.h"
#include "tests/base/process_kit.h"


#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct kvn_child shell(const char *script)
{
    struct kvn_child child;
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    assert_int_equal(kvn_child_start(&child, argv, STDERR_FILENO), KV_OK);
    return child;
}

static void child_that_ends__gives_its_status(void **state)
{
    (void)state;
    struct kvn_child child = shell("exit 7");
    assert_int_equal(kvn_child_wait(&child, 10000), 7);
    assert_int_equal(child.pid, 0);
    child = shell("kill -9 $$");
    assert_int_equal(kvn_child_wait(&child, 10000), 128 + SIGKILL);
}

/* Nothing waits without a bound. */
static void child_that_runs__is_told_and_killed(void **state)
{
    (void)state;
    struct kvn_child child = shell("exec sleep 1000");
    assert_int_equal(kvn_child_wait(&child, 20), KVN_CHILD_RUNS);
    assert_int_equal(kvn_child_stop(&child, 10000), 128 + SIGTERM);
    child = shell("trap '' TERM; while :; do sleep 1; done");
    assert_int_equal(kvn_child_wait(&child, 200), KVN_CHILD_RUNS); /* the trap is set */
    assert_int_equal(kvn_child_stop(&child, 100), 128 + SIGKILL);
    assert_int_equal(kvn_child_stop(&child, 100), 0); /* again: nothing is there */
}

/* A socket of ours that a child held open would never end. */
static void child__has_no_descriptor_of_ours(void **state)
{
    (void)state;
    int fds[2];
    char byte;
    assert_int_equal(pipe(fds), 0); /* not close-on-exec, on purpose */
    struct kvn_child child = shell("exec sleep 1000");
    close(fds[1]);
    assert_int_equal(read(fds[0], &byte, 1), 0);
    close(fds[0]);
    assert_int_equal(kvn_child_stop(&child, 10000), 128 + SIGTERM);
}

static void program_that_is_not_there__is_told(void **state)
{
    (void)state;
    char path[64];
    struct kvn_child child;
    const char *const argv[] = {"/nonexistent/program", NULL};
    assert_false(kvn_child_find("no-such-program-here", path, sizeof(path)));
    assert_true(kvn_child_find("sh", path, sizeof(path)));
    assert_int_equal(path[0], '/');
    assert_int_equal(kvn_child_start(&child, argv, STDERR_FILENO), KV_OK);
    assert_int_equal(kvn_child_wait(&child, 10000), 127);
    kv_fault_after(1);
    assert_int_equal(kvn_child_start(&child, argv, STDERR_FILENO), KV_ERR_IO);
    kv_fault_after(0);
    assert_int_equal(child.pid, 0);
}

/* A tool that never says anything is given up when we are told to stop. */
static void iperf3__that_is_missing_or_stopped_leaves_nothing(void **state)
{
    (void)state;
    struct kvn_iperf3 figure;
    const struct process_kit_held before = process_kit_held();
    const char *path = getenv("PATH");
    char kept[4096];
    atomic_int stop = SIGINT;
    assert_non_null(path);
    assert_true(strlen(path) < sizeof(kept));
    memcpy(kept, path, strlen(path) + 1);
    assert_int_not_equal(kvn_iperf3_run(1 << 20, 1, &stop, &figure), KV_OK);
    assert_int_equal(setenv("PATH", "/nonexistent", 1), 0);
    assert_int_equal(kvn_iperf3_run(1 << 20, 1, NULL, &figure), KV_ERR_CONFIG);
    assert_int_equal(setenv("PATH", kept, 1), 0);
    process_kit_expect_held(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(child_that_ends__gives_its_status),
        cmocka_unit_test(child_that_runs__is_told_and_killed),
        cmocka_unit_test(child__has_no_descriptor_of_ours),
        cmocka_unit_test(program_that_is_not_there__is_told),
        cmocka_unit_test(iperf3__that_is_missing_or_stopped_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
