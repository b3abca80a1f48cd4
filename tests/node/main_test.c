/* Goal: the program finds its verbs and refuses what is none with the nearest name.
 * Method: the program itself, which is built beside this test. */
#include "node/verbs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char program[512];

/* Exit code of `kvrail words`; the beginning of what it prints, both streams. */
static int run(const char *words, char *out, size_t cap)
{
    char command[1024];
    snprintf(command, sizeof(command), "'%s' %s 2>&1", program, words);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t len = fread(out, 1, cap - 1, pipe);
    out[len] = '\0';
    int status = pclose(pipe);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int find_program(void **state)
{
    ssize_t len = readlink("/proc/self/exe", program, sizeof(program) - 16);
    (void)state;
    assert_true(len > 0);
    program[len] = '\0';
    char *slash = strrchr(program, '/');
    assert_non_null(slash);
    snprintf(slash, 16, "/kvrail");
    return 0;
}

static void check(const char *words, int exit_code, const char *text)
{
    char out[8192];
    if (access(program, X_OK) != 0) {
        print_message("no %s: skipped\n", program);
        skip();
    }
    assert_int_equal(run(words, out, sizeof(out)), exit_code);
    assert_non_null(strstr(out, text));
}

static void main__lists_every_verb(void **state)
{
    (void)state;
#define X(name, text) check("--help", KVN_EXIT_OK, "  " #name " ");
    KVN_VERBS(X)
#undef X
    check("", KVN_EXIT_USAGE, "usage: kvrail VERB");
}

static void main__refuses_with_the_nearest_name(void **state)
{
    (void)state;
    check(
        "repaly", KVN_EXIT_USAGE, "kvrail: repaly: no such verb, did you mean replay?");
    check("--hlep", KVN_EXIT_USAGE, "kvrail: --hlep: no such option");
    check("qqqqqqqqqqqq", KVN_EXIT_USAGE, "no such verb, see --help");
}

static void main__hands_the_words_to_the_verb(void **state)
{
    (void)state;
    check("replay --help", KVN_EXIT_OK, "usage: kvrail replay");
    check("placement --nodes 0", KVN_EXIT_USAGE, "--nodes: 0 is below the minimum 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(main__lists_every_verb),
        cmocka_unit_test(main__refuses_with_the_nearest_name),
        cmocka_unit_test(main__hands_the_words_to_the_verb),
    };
    return cmocka_run_group_tests(tests, find_program, NULL);
}
