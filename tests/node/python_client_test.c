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

static void python__client_does_what_the_c_one_does(void **state)
{
    extern char **environ;
    char target[128];
    int how;
    pid_t pid;
    const char *python = getenv("KVRAIL_PYTHON");
    (void)state;
    if (python == NULL || getenv("KVRAIL_LIBRARY") == NULL) {
        print_message(
            "KVRAIL_PYTHON and KVRAIL_LIBRARY are not set: run it by ctest\n");
        skip();
    }
    lk_init(&lk);
    lk_start(&lk);
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    char *words[] = {
        (char *)(uintptr_t)python, (char *)(uintptr_t) "tests/node/python_client.py",
        target, NULL};
    assert_int_equal(posix_spawn(&pid, python, NULL, NULL, words, environ), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    lk_stop(&lk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(python__client_does_what_the_c_one_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
