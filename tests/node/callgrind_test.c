/* Goal: what callgrind wrote of a node becomes the instructions that it did, function
 * by function, and a file that is not whole becomes no number. Method: files as
 * callgrind writes them, whole and broken; a shell script plays vgdb and the node, so
 * that this runs without valgrind, and under the sanitizers. A node under the real one
 * is in bench_node_test.c. */
#define _GNU_SOURCE
#include "node/bench/callgrind.h"

#include "base/fault.h"
#include "base/mem.h"

#include "tests/node/node_kit.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER                                                                         \
    "# callgrind format\nversion: 1\ncreator: callgrind-3.19.0\npid: 12\npart: 2\n"    \
    "thread: 1\n\n\ndesc: Timerange: Basic block 1 - 2\ndesc: Trigger: dump cut\n\n"   \
    "positions: line\nevents: Ir\nsummary: 195\n\n\n"

/* turn() costs 30 itself and calls walk(), which calls itself; libuv has functions
 * without a name. */
#define BODY                                                                           \
    "ob=/usr/bin/kvraild\nfl=node.c\nfn=turn\n12 10\n14 20\ncfn=walk\ncalls=2 40 \n"   \
    "13 100\ncob=/usr/lib/libc.so.6\ncfi=memmove.S\ncfn=__memcpy_avx\ncalls=1 0 \n"    \
    "15 50\nfi=inlined.h\n9 5\nfe=node.c\n16 0\n\n"                                    \
    "fn=walk\n40 40\ncfn=walk'2\ncalls=2 40 \n41 60\n\nfn=walk'2\n40 50\n"             \
    "cfn=walk'2\ncalls=1 40 \n41 20\n42 10\n\n"                                        \
    "ob=/usr/lib/libc.so.6\nfl=memmove.S\nfn=__memcpy_avx\n0 50\n\n"                   \
    "ob=/usr/lib/libuv.so.1.0.0\nfl=???\nfn=0x00000000000b710\n0 4\n"                  \
    "cfn=0x00000000000bc90\ncalls=1 0 \n0 6\n\n"                                       \
    "fn=0x00000000000bc90\n0 6\n\n"
#define WHOLE HEADER BODY "totals: 195\n"

static kv_status_t read_text(const char *text, struct kvn_counts *counts)
{
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    assert_non_null(file);
    kv_status_t status = kvn_callgrind_read(file, counts);
    assert_int_equal(fclose(file), 0);
    return status;
}

static struct kvn_counts *counts_new(void)
{
    struct kvn_counts *counts = kv_calloc(1, sizeof(*counts));
    assert_non_null(counts);
    return counts;
}

static void
expect(const struct kvn_counts *counts, const char *name, int self, int inclusive)
{
    for (uint32_t i = 0; i < counts->nr_functions; i++) {
        if (strcmp(counts->functions[i].name, name) == 0) {
            assert_int_equal((int)counts->functions[i].self, self);
            assert_int_equal((int)counts->functions[i].inclusive, inclusive);
            return;
        }
    }
    fail_msg("%s was not counted", name);
}

/* ------------------------------------------------------------------ files */

/* Cost of a call is its caller's, inclusive, and nobody's self: counted twice, a page
 * would cost what its stack is deep. */
static void file__gives_each_function_its_own(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new();
    assert_int_equal(read_text(WHOLE, counts), KV_OK);
    assert_int_equal((int)counts->all, 195);
    expect(counts, "turn", 35, 185);
    expect(counts, "walk", 100, 100); /* by itself: once */
    expect(counts, "__memcpy_avx", 50, 50);
    expect(counts, "(libuv.so.1.0.0)", 10, 10);
    assert_int_equal(counts->nr_functions, 4);
    assert_int_equal((int)kvn_counts_copies(counts), 50);
    assert_int_equal((int)kvn_counts_waits(counts), 10);
    kv_free(counts);
}

/* Another thread's file, or another node's; and what came before, taken away. */
static void files__add_up(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new(), *sum = counts_new();
    static const char mover[] = "events: Ir\nob=/usr/bin/kvraild\nfn=worker_main\n7 9\n"
                                "fn=turn\n12 1\ntotals: 10\n";
    assert_int_equal(read_text(WHOLE, counts), KV_OK);
    assert_int_equal(read_text(mover, counts), KV_OK);
    assert_int_equal((int)counts->all, 205);
    assert_int_equal((int)kvn_counts_waits(counts), 10 + 9);
    expect(counts, "turn", 36, 186);
    assert_int_equal(kvn_counts_add(sum, counts, 1), KV_OK);
    assert_int_equal(kvn_counts_add(sum, counts, 1), KV_OK);
    assert_int_equal(read_text(WHOLE, counts), KV_OK);
    assert_int_equal(kvn_counts_add(sum, counts, -1), KV_OK);
    assert_int_equal((int)sum->all, 10);
    expect(sum, "turn", 1, 1);
    expect(sum, "worker_main", 9, 9);
    expect(sum, "walk", 0, 0);
    kv_free(sum);
    kv_free(counts);
}

static void broken_file__is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        HEADER BODY,                                   /* cut off before its total */
        HEADER BODY "totals: 196\n",                   /* a line is missing */
        HEADER "fn=turn\n12\ntotals: 0\n",             /* no cost */
        HEADER "fn=turn\n12 x\ntotals: 0\n",           /* a word for a cost */
        HEADER "fn=turn\n12 7y\ntotals: 7\n",          /* more than a number */
        HEADER "12 7\ntotals: 7\n",                    /* of no function */
        HEADER "fn=turn\ncalls=1 2\n12 7\ntotals: 7\n" /* a call's is nobody's */
    };
    struct kvn_counts *counts = counts_new();
    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        *counts = (struct kvn_counts){0};
        assert_int_equal(read_text(texts[i], counts), KV_ERR_INVALID);
    }
    kv_free(counts);
}

static void functions__are_bounded(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new(), *sum = counts_new();
    char text[128], *names = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&names, &len);
    assert_non_null(file);
    for (unsigned i = 0; i < KVN_COUNTS_FUNCTIONS_MAX; i++) {
        (void)fprintf(file, "fn=function_%u\n1 1\n", i);
    }
    (void)fprintf(file, "totals: %d\n", KVN_COUNTS_FUNCTIONS_MAX);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(read_text(names, counts), KV_OK);
    assert_int_equal(read_text("fn=one_more\n1 1\ntotals: 1\n", counts), KV_ERR_NOMEM);
    assert_int_equal(read_text("fn=other\n1 1\ntotals: 1\n", sum), KV_OK);
    assert_int_equal(kvn_counts_add(sum, counts, 1), KV_ERR_NOMEM);
    /* A long name is cut, and is the same one the second time. */
    (void)snprintf(text, sizeof(text), "fn=%0100d\n1 3\ntotals: 3\n", 7);
    *sum = (struct kvn_counts){0};
    assert_int_equal(read_text(text, sum), KV_OK);
    assert_int_equal(read_text(text, sum), KV_OK);
    assert_int_equal(sum->nr_functions, 1);
    assert_int_equal((int)sum->functions[0].self, 6);
    free(names);
    kv_free(sum);
    kv_free(counts);
}

/* ------------------------------------------------------------------ cuts */

static uint64_t now_ms(void)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static char folder[64];
static struct kvn_callgrind callgrind;
static atomic_int nobody;
static struct kvn_bench_node bench;

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof(folder), "/tmp/kvrail-callgrind.XXXXXX");
    assert_non_null(mkdtemp(folder));
    bench = (struct kvn_bench_node){.stop = &nobody, .callgrind = &callgrind};
    return 0;
}

static void write_file(const char *name, const char *text, unsigned mode)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

/* What `dump` does, as a script. */
static void vgdb_is(const char *script)
{
    char text[512];
    (void)snprintf(text, sizeof(text), "#!/bin/sh\ncd %s\n%s\n", folder, script);
    write_file("vgdb", text, 0700);
    (void)snprintf(callgrind.vgdb, sizeof(callgrind.vgdb), "%s/vgdb", folder);
}

/* Those but vgdb and what it copies from. */
static unsigned files_left(void)
{
    unsigned nr = 0;
    const struct dirent *entry;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        nr += strncmp(entry->d_name, "callgrind.", 10) == 0;
    }
    closedir(dir);
    return nr;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", folder);
    assert_int_equal(system(command), 0);
    return 0;
}

/* All threads of that node, none of another, and nothing is counted twice. */
static void cut__reads_that_node_and_removes(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new();
    write_file("whole", WHOLE, 0600);
    vgdb_is("[ \"$*\" = \"--vgdb-prefix=$PWD/vgdb --pid=12 dump cut\" ] || exit 3\n"
            "cp whole callgrind.12.1-01; cp whole callgrind.12.1-02\n"
            "touch callgrind.12; cp whole callgrind.123.1-01");
    assert_int_equal(kvn_callgrind_cut(&bench, folder, 12, counts), KV_OK);
    assert_int_equal((int)counts->all, 2 * 195);
    assert_int_equal(files_left(), 2); /* its empty one, and the other node's */
    assert_int_equal(kvn_callgrind_cut(&bench, folder, 12, NULL), KV_OK);
    assert_int_equal((int)counts->all, 2 * 195);
    assert_int_equal(files_left(), 2);
    kv_free(counts);
}

static void cut_that_fails__says_so(void **state)
{
    (void)state;
    static const struct {
        const char *script;
        kv_status_t status;
        const char *line;
    } cases[] = {
        {"exit 1", KV_ERR_IO,
         "the node's instructions were not counted: vgdb ended with 1"},
        {"exit 0", KV_ERR_INVALID,
         "what callgrind wrote of the node: is not whole, or does not add up"},
        {"head -20 whole > callgrind.12.1-01", KV_ERR_INVALID,
         "what callgrind wrote of the node: is not whole, or does not add up"},
    };
    struct kvn_counts *counts = counts_new();
    write_file("whole", WHOLE, 0600);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vgdb_is(cases[i].script);
        assert_int_equal(
            kvn_callgrind_cut(&bench, folder, 12, counts), cases[i].status);
        assert_string_equal(bench.line, cases[i].line);
        assert_int_equal(files_left(), 0);
    }
    kv_free(counts);
}

/* Neither a dead node nor a signal is waited for as long as a slow node is. */
static void cut_in_vain__ends_at_once(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new();
    siginfo_t info;
    vgdb_is("exec sleep 30");
    const pid_t node = fork();
    assert_true(node >= 0);
    if (node == 0) {
        _exit(0);
    }
    assert_int_equal(waitid(P_PID, (id_t)node, &info, WEXITED | WNOWAIT), 0);
    const uint64_t from = now_ms();
    assert_int_equal(kvn_callgrind_cut(&bench, folder, node, counts), KV_ERR_IO);
    assert_int_equal(waitpid(node, NULL, 0), node);
    atomic_store(&nobody, SIGINT);
    assert_int_equal(kvn_callgrind_cut(&bench, folder, 1, counts), KV_ERR_IO);
    atomic_store(&nobody, 0);
    assert_true(now_ms() - from < 20000);
    kv_free(counts);
}

/* No count is told of a part of what there is. Calls that may fail: a null device, a
 * child, the folder, and two for each of two files. */
static void cut__survives_every_fault(void **state)
{
    (void)state;
    struct kvn_counts *counts = counts_new();
    kv_status_t status = KV_ERR_IO;
    unsigned n = 0;
    write_file("whole", WHOLE, 0600);
    vgdb_is("cp whole callgrind.12.1-01; cp whole callgrind.12.1-02");
    while (status != KV_OK) {
        *counts = (struct kvn_counts){0};
        bench.line[0] = '\0';
        kv_fault_after(++n);
        status = kvn_callgrind_cut(&bench, folder, 12, counts);
        kv_fault_after(0);
        assert_true(status == KV_OK || status == KV_ERR_IO);
        assert_int_equal(status == KV_OK, bench.line[0] == '\0');
    }
    assert_int_equal(n - 1, 7);
    assert_int_equal((int)counts->all, 2 * 195);
    kv_free(counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file__gives_each_function_its_own),
        cmocka_unit_test(files__add_up),
        cmocka_unit_test(broken_file__is_refused),
        cmocka_unit_test(functions__are_bounded),
        cmocka_unit_test_setup_teardown(
            cut__reads_that_node_and_removes, setup, teardown),
        cmocka_unit_test_setup_teardown(cut_that_fails__says_so, setup, teardown),
        cmocka_unit_test_setup_teardown(cut_in_vain__ends_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(cut__survives_every_fault, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
