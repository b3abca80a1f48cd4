/* A signal that a worker took would run its handler, or end a write, in the midst of a
 * page: threads of ours take none, and whoever begins one keeps its own mask. */
#include "base/fault.h"
#include "base/thread.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void *tell_mask(void *arg)
{
    return pthread_sigmask(SIG_BLOCK, NULL, arg) == 0 ? arg : NULL;
}

static void start__blocks_signals_there_and_not_here(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGCHLD, SIGUSR1};
    sigset_t before, after, there;
    pthread_t thread;
    void *told;

    (void)state;
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &before), 0);
    assert_int_equal(kv_thread_start(&thread, NULL, tell_mask, &there), 0);
    assert_int_equal(pthread_join(thread, &told), 0);
    assert_ptr_equal(told, &there);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        assert_int_equal(sigismember(&there, signals[i]), 1);
        assert_int_equal(
            sigismember(&after, signals[i]), sigismember(&before, signals[i]));
    }
}

static void start__fails_with_an_errno_and_the_same_mask(void **state)
{
    sigset_t after, there;
    pthread_t thread;

    (void)state;
    kv_fault_after(1);
    assert_int_equal(kv_thread_start(&thread, NULL, tell_mask, &there), EAGAIN);
    kv_fault_after(0);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
    assert_int_equal(sigismember(&after, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start__blocks_signals_there_and_not_here),
        cmocka_unit_test(start__fails_with_an_errno_and_the_same_mask),
    };

    return cmocka_run_group_tests_name("thread", tests, NULL, NULL);
}
