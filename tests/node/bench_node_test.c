/* Goal: `kvrail bench node` measures every figure, says what a reader of its JSON
 * relies on, and leaves no process, file or socket behind, however it ends. Method: the
 * program itself, small sets, in a temporary folder of the test's own, where everything
 * that it makes must be; no time is asserted, because a test machine has other work. */
#define _GNU_SOURCE
#include "node/bench/callgrind.h"
#include "node/child.h"
#include "node/verbs.h"

#include "tests/node/node_kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { RUN_MS = 240000, END_MS = 60000, ARGS_MAX = 16, TEXT_BYTES = 1 << 16 };

static char folder[64]; /* $TMPDIR of what we start */

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof(folder), "/tmp/kvrail-bench-test.XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    assert_int_equal(rmdir(folder), 0); /* empty */
    return 0;
}

/* ------------------------------------------------------------------ looking */

/* A process that `what` stands in the command line of, together with our folder. */
static pid_t process_of(const char *what)
{
    pid_t found = 0;
    const struct dirent *entry;
    DIR *dir = opendir("/proc");
    assert_non_null(dir);
    while (found == 0 && (entry = readdir(dir)) != NULL) {
        char path[300], line[4096];
        const long pid = strtol(entry->d_name, NULL, 10);
        (void)snprintf(path, sizeof(path), "/proc/%ld/cmdline", pid);
        const int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0) {
            continue;
        }
        const ssize_t len = read(fd, line, sizeof(line));
        close(fd);
        const size_t n = len > 0 ? (size_t)len : 0;
        if (memmem(line, n, folder, strlen(folder)) != NULL
            && memmem(line, n, what, strlen(what)) != NULL) {
            found = (pid_t)pid;
        }
    }
    closedir(dir);
    return found;
}

static void expect_nothing_left(void)
{
    assert_int_equal(process_of(""), 0);
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        assert_int_equal(entry->d_name[0], '.'); /* itself and its parent */
    }
    closedir(dir);
}

/* ------------------------------------------------------------------ running */

struct bench {
    struct kvn_child child;
    int out;
    char text[TEXT_BYTES];
};

static void start(struct bench *bench, const char *const *words)
{
    char program[512];
    const char *argv[ARGS_MAX] = {program, "bench", "node", "--quick"};
    unsigned nr = 4;
    const ssize_t len = readlink("/proc/self/exe", program, sizeof(program) - 16);
    assert_true(len > 0);
    program[len] = '\0';
    (void)snprintf(strrchr(program, '/'), 16, "/kvrail");
    for (unsigned i = 0; words[i] != NULL; i++) {
        assert_true(nr < ARGS_MAX - 1);
        argv[nr++] = words[i];
    }
    bench->out = memfd_create("bench", MFD_CLOEXEC);
    assert_true(bench->out >= 0);
    assert_int_equal(kvn_child_start(&bench->child, argv, bench->out), KV_OK);
}

/* Its exit status; its text is there then. */
static int end(struct bench *bench, unsigned ms)
{
    int status = kvn_child_wait(&bench->child, ms);
    if (status == KVN_CHILD_RUNS) {
        (void)kvn_child_stop(&bench->child, 0);
    }
    const ssize_t len = pread(bench->out, bench->text, sizeof(bench->text) - 1, 0);
    bench->text[len > 0 ? len : 0] = '\0';
    close(bench->out);
    if (status != 0) {
        print_message("exit %d: %s", status, bench->text);
    }
    return status;
}

static void wait_process(const struct bench *bench, const char *what, pid_t *pid_p)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    for (unsigned i = 0; i < END_MS / 10; i++) {
        *pid_p = process_of(what);
        if (*pid_p != 0) {
            nanosleep(
                &(struct timespec){.tv_nsec = 300000000}, NULL); /* in the midst */
            return;
        }
        nanosleep(&pause, NULL);
    }
    fail_msg("%s was not started by %d", what, (int)bench->child.pid);
}

/* ------------------------------------------------------------------ figures */

static void check_spread(const json_t *spread, double value)
{
    assert_int_equal(json_array_size(spread), 2);
    assert_true(json_real_value(json_array_get(spread, 0)) <= value);
    assert_true(json_real_value(json_array_get(spread, 1)) >= value);
}

static void check_figure(const json_t *figure, const struct kvn_figure_desc *desc)
{
    const double value = json_real_value(json_object_get(figure, "value"));
    const json_t *references = json_object_get(figure, "references");
    assert_string_equal(json_string_value(json_object_get(figure, "name")), desc->name);
    assert_true(json_is_string(json_object_get(figure, "unit")));
    assert_true(json_is_string(json_object_get(figure, "verification")));
    assert_true(value > 0);
    check_spread(json_object_get(figure, "value_spread"), value);
    assert_int_equal(json_integer_value(json_object_get(figure, "rounds")), 2);
    assert_true(json_integer_value(json_object_get(figure, "pages")) > 0);
    assert_true(json_is_number(json_object_get(figure, "load")));
    assert_non_null(json_object_get(figure, "instructions_per_page"));
    assert_non_null(json_object_get(figure, "instructions_per_byte"));
    assert_non_null(json_object_get(figure, "instructions_source"));
    if (desc->unit == KVN_UNIT_GB_S) {
        const json_t *cpu = json_object_get(figure, "node_cpu_s_per_gb");
        assert_true(json_real_value(cpu) > 0);
        assert_non_null(json_object_get(figure, "client_cpu_s_per_gb"));
    }
    assert_true(json_array_size(references) > 0);
    for (size_t i = 0; i < json_array_size(references); i++) {
        const json_t *reference = json_array_get(references, i);
        assert_true(json_is_string(json_object_get(reference, "against")));
        if (json_object_get(reference, "no_reference") == NULL) {
            const double ratio = json_real_value(json_object_get(reference, "ratio"));
            assert_true(json_real_value(json_object_get(reference, "value")) > 0);
            assert_true(ratio > 0);
            check_spread(json_object_get(reference, "spread"), ratio);
        }
    }
    assert_int_equal(
        json_object_get(figure, "target") != NULL, desc->goal != KVN_GOAL_ANY);
}

static json_t *figures_of(struct bench *bench, const char *const *words)
{
    start(bench, words);
    assert_int_equal(end(bench, RUN_MS), KVN_EXIT_OK);
    expect_nothing_left();
    json_t *root = json_loads(bench->text, 0, NULL);
    assert_non_null(root);
    assert_true(json_is_string(json_object_get(root, "machine")));
    assert_true(json_is_string(json_object_get(root, "instructions")));
    return root;
}

/* A figure that is forgotten would look like one that needs no watching. */
static void bench_node__measures_every_figure_in_order(void **state)
{
    (void)state;
    static struct bench bench;
    json_t *root = figures_of(
        &bench, (const char *[]){"--rounds", "2", "--seconds", "0.02", "--json", NULL});
    const json_t *figures = json_object_get(root, "figures");
    assert_int_equal(json_array_size(figures), KVN_NR_FIGURES);
    for (unsigned i = 0; i < KVN_NR_FIGURES; i++) {
        check_figure(json_array_get(figures, i), &kvn_figure_descs[i]);
    }
    json_decref(root);
}

/* The figure is still taken; what it lacks is named with its package. */
static void bench_node__without_tools_names_them(void **state)
{
    (void)state;
    static const struct {
        const char *figure, *package;
    } cases[] = {
        {"put_unix_1m_c4", "apt-get install memcached"},
        {"fetch_tcp_1m", "apt-get install iperf3"},
    };
    static struct bench bench;
    const char *path = getenv("PATH");
    char kept[4096];
    assert_non_null(path);
    assert_true(strlen(path) < sizeof(kept));
    memcpy(kept, path, strlen(path) + 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(setenv("PATH", folder, 1), 0);
        json_t *root = figures_of(
            &bench, (const char *[]){
                        "--rounds", "1", "--seconds", "0.02", "--json", "--only",
                        cases[i].figure, NULL});
        assert_int_equal(setenv("PATH", kept, 1), 0);
        const json_t *figures = json_object_get(root, "figures");
        assert_int_equal(json_array_size(figures), 1);
        const json_t *figure = json_array_get(figures, 0);
        assert_true(json_real_value(json_object_get(figure, "value")) > 0);
        const json_t *reference =
            json_array_get(json_object_get(figure, "references"), 0);
        const char *why = json_string_value(json_object_get(reference, "no_reference"));
        assert_non_null(why);
        assert_non_null(strstr(why, cases[i].package));
        assert_null(json_object_get(reference, "ratio"));
        json_decref(root);
    }
}

/* ------------------------------------------------------------------ instructions */

/* A table without them would look like a machine that counts nothing. */
static void bench_node__without_valgrind_names_it(void **state)
{
    (void)state;
    static struct bench bench;
    const char *path = getenv("PATH");
    char kept[4096];
    assert_non_null(path);
    assert_true(strlen(path) < sizeof(kept));
    memcpy(kept, path, strlen(path) + 1);
    assert_int_equal(setenv("PATH", folder, 1), 0);
    start(&bench, (const char *[]){"--instructions", NULL});
    assert_int_equal(setenv("PATH", kept, 1), 0);
    assert_int_equal(end(&bench, END_MS), KVN_EXIT_FAILED);
    assert_string_equal(
        bench.text,
        "kvrail bench node: --instructions: valgrind is not installed; Debian: apt-get "
        "install valgrind\n");
    expect_nothing_left();
}

static bool can_count(void)
{
    char path[512];
#ifdef KVN_CALLGRIND_NEVER
    return false;
#endif
    return kvn_child_find("valgrind", path, sizeof(path));
}

/* Look-ups of three nodes: most of what they do is neither a copy nor a wait, and the
 * functions that a row names have names. No bound is that of a good node. */
static void bench_node__counts_instructions(void **state)
{
    (void)state;
    static struct bench bench;
    if (!can_count()) {
        skip();
    }
    json_t *root = figures_of(
        &bench, (const char *[]){
                    "--instructions", "--rounds", "1", "--json", "--only",
                    "lookup_remote_p50", NULL});
    const json_t *figures = json_object_get(root, "figures");
    assert_int_equal(json_array_size(figures), 1);
    const json_t *figure = json_array_get(figures, 0);
    const json_t *page_json = json_object_get(figure, "instructions_per_page");
    const double page = json_real_value(page_json);
    assert_true(page > 100 && page < 1e6);
    check_spread(json_object_get(figure, "instructions_per_page_spread"), page);
    const double work = json_real_value(json_object_get(figure, "work_per_page"));
    assert_true(work > 0 && work < page);
    check_spread(json_object_get(figure, "work_per_page_spread"), work);
    assert_string_equal(
        json_string_value(json_object_get(figure, "instructions_source")), "callgrind");
    assert_true(json_is_null(json_object_get(figure, "instructions_per_byte")));
    assert_int_equal(json_integer_value(json_object_get(figure, "pages")), 64 * 64);
    assert_null(json_object_get(figure, "value"));
    const json_t *functions = json_object_get(figure, "functions");
    double self = 0, before = page;
    assert_int_equal(json_array_size(functions), KVN_FIGURE_TOP);
    for (size_t i = 0; i < KVN_FIGURE_TOP; i++) {
        const json_t *function = json_array_get(functions, i);
        const double own = json_real_value(json_object_get(function, "self_per_page"));
        assert_true(own > 0 && own <= before);
        assert_true(json_is_string(json_object_get(function, "name")));
        before = own;
        self += own;
    }
    assert_true(self < page);
    json_decref(root);
}

/* ------------------------------------------------------------------ other ends */

static void bench_node__told_to_stop_leaves_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *figure;
        int number;
    } cases[] = {
        {"get_unix_1m_c4", SIGINT},
        {"pin_unix_64", SIGTERM},
        {"fetch_tcp_1m", SIGINT},
        {"lookup_remote_p50", SIGHUP},
    };
    static struct bench bench;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        pid_t node;
        start(
            &bench,
            (const char *[]){
                "--rounds", "99", "--seconds", "1", "--only", cases[i].figure, NULL});
        wait_process(&bench, "kvraild", &node);
        assert_int_equal(kill(bench.child.pid, cases[i].number), 0);
        assert_int_equal(end(&bench, END_MS), 128 + cases[i].number);
        assert_non_null(strstr(bench.text, "stopped by signal"));
        expect_nothing_left();
    }
}

/* One line says who has gone; the figure is not printed from half a run. */
static void bench_node__whose_child_dies_says_so(void **state)
{
    (void)state;
    static const char *const figures[] = {
        "get_unix_16k_b16_c4", "pin_unix_64", "fetch_tcp_16k", "lookup_remote_p99"};
    static struct bench bench;
    for (unsigned i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        pid_t node;
        start(
            &bench,
            (const char *[]){
                "--rounds", "99", "--seconds", "1", "--only", figures[i], NULL});
        wait_process(&bench, "kvraild", &node);
        assert_int_equal(kill(node, SIGKILL), 0);
        assert_int_equal(end(&bench, END_MS), KVN_EXIT_FAILED);
        assert_non_null(strstr(bench.text, "has ended with 137"));
        expect_nothing_left();
    }
}

static void bench_node__whose_reference_dies_says_so(void **state)
{
    (void)state;
    char path[512];
    static struct bench bench;
    pid_t tool;
    if (!kvn_child_find("memcached", path, sizeof(path))) {
        skip();
    }
    start(
        &bench,
        (const char *[]){
            "--rounds", "99", "--seconds", "1", "--only", "get_unix_1m_c4", NULL});
    wait_process(&bench, "memcached", &tool);
    assert_int_equal(kill(tool, SIGKILL), 0);
    assert_int_equal(end(&bench, END_MS), KVN_EXIT_FAILED);
    assert_non_null(strstr(bench.text, "kvrail bench node: memcached"));
    expect_nothing_left();
}

static void usage(const char *const *words, const char *line)
{
    struct node_kit_result result;
    node_kit_run(kvn_verb_bench, words, &result);
    assert_int_equal(result.exit_code, KVN_EXIT_USAGE);
    assert_string_equal(result.err, line);
}

static void bench_node__wrong_words_are_refused(void **state)
{
    (void)state;
    usage(
        (const char *[]){"bench", "node", "--rounds", "0", NULL},
        "kvrail bench node: --rounds: 0 is below the minimum 1\n");
    usage(
        (const char *[]){"bench", "node", "--seconds", "nan", NULL},
        "kvrail bench node: --seconds: 'nan' is not a number from 0.01 to 60\n");
    usage(
        (const char *[]){"bench", "node", "--only", "get_unix_2m_c4", NULL},
        "kvrail bench node: --only: 'get_unix_2m_c4' is no figure, did you mean "
        "get_unix_1m_c4?\n");
    usage(
        (const char *[]){
            "bench", "node", "--instructions", "--only", "put_unix_16k_b16_c5", NULL},
        "kvrail bench node: --only: 'put_unix_16k_b16_c5' is no figure, did you mean "
        "put_unix_16k_b16_c4?\n");
    usage(
        (const char *[]){"bench", "node", "--seconds", "2", "--instructions", NULL},
        "kvrail bench node: --seconds: --instructions counts so many pages, not so "
        "long\n");
    usage(
        (const char *[]){
            "bench", "node", "--instructions", "--only", "acquire_embedded_64", NULL},
        "kvrail bench node: --only: 'acquire_embedded_64' has its node in this "
        "process: --instructions counts nodes that have their own\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            bench_node__measures_every_figure_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__without_tools_names_them, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__without_valgrind_names_it, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__counts_instructions, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__told_to_stop_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__whose_child_dies_says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(
            bench_node__whose_reference_dies_says_so, setup, teardown),
        cmocka_unit_test(bench_node__wrong_words_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
