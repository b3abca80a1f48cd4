/* The Python binding against a real node: bytes, statuses, keys derived independently,
 * and what is wrong named as in C. It loads the library as it is installed. */
#include "tests/node/local_kit.h"

#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct lk lk;

static bool python_is_there(void)
{
    bool there = getenv("KVRAIL_PYTHON") != NULL && getenv("KVRAIL_LIBRARY") != NULL;
    if (!there) {
        print_message(
            "KVRAIL_PYTHON and KVRAIL_LIBRARY are not set: run it by ctest\n");
    }
    return there;
}

static void run(const char *level)
{
    extern char **environ;
    char target[128];
    int how;
    pid_t pid;
    const char *python = getenv("KVRAIL_PYTHON");
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    char *words[] = {
        (char *)(uintptr_t)python, (char *)(uintptr_t) "tests/node/python_client.py",
        target, (char *)(uintptr_t)level, NULL};
    assert_int_equal(posix_spawn(&pid, python, NULL, NULL, words, environ), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    lk_await(&lk, 0, 0);
}

static void python__client_does_what_the_c_one_does(void **state)
{
    (void)state;
    if (!python_is_there()) {
        skip();
    }
    lk_init(&lk);
    lk_start(&lk);
    run("object");
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    lk_stop(&lk);
}

static void python__engine_fills_in_place(void **state)
{
    (void)state;
    if (!python_is_there()) {
        skip();
    }
    lk_init_fill(&lk);
    lk_start(&lk);
    run("pager");
    assert_int_equal(lk_counts(&lk).fenced, 0);
    assert_int_equal(lk_frames(&lk, KVP_SEALED), 3);
    lk_stop(&lk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(python__client_does_what_the_c_one_does),
        cmocka_unit_test(python__engine_fills_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
