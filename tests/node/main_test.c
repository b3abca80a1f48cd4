/* Goal: the program finds its verbs and refuses what is none with the nearest name.
 * Method: the program itself, which is built beside this test. */
#include "node/verbs.h"

#include "tests/node/node_kit.h"

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

/* One line and no more, whatever is wrong: the option, its limit and the value. */
static void refused(const char *words, const char *line)
{
    char out[8192], expected[1024];
    if (access(program, X_OK) != 0) {
        print_message("no %s: skipped\n", program);
        skip();
    }
    snprintf(expected, sizeof(expected), "%s\n", line);
    assert_int_equal(run(words, out, sizeof(out)), KVN_EXIT_USAGE);
    assert_string_equal(out, expected);
}

static void main__option_out_of_range_is_refused_in_one_line(void **state)
{
    static const struct {
        const char *words, *line;
    } rows[] = {
        {"replay --pages 0", "kvrail replay: --pages: 0 is below the minimum 1"},
        {"replay --pages 67108865",
         "kvrail replay: --pages: 67108865 is above the maximum 67108864"},
        {"replay --pages 4k",
         "kvrail replay: --pages: '4k' is not a whole number from 1 to 67108864"},
        {"replay --policy mru",
         "kvrail replay: --policy: 'mru' is not lru, fifo, opt or all"},
        {"sim --nodes 0", "kvrail sim: --nodes: 0 is below the minimum 1"},
        {"sim --nodes 100000", "kvrail sim: --nodes: 100000 is above the maximum 1024"},
        {"sim --nodes 17",
         "kvrail sim: --nodes: 17 is above the maximum 16 with faults"},
        {"sim --seeds -1",
         "kvrail sim: --seeds: '-1' is not a whole number from 1 to 4294967295"},
        {"sim --seeds 0", "kvrail sim: --seeds: 0 is below the minimum 1"},
        {"sim --seeds 4294967296",
         "kvrail sim: --seeds: 4294967296 is above the maximum 4294967295"},
        {"sim --first-seed 18446744073709551616",
         "kvrail sim: --first-seed: '18446744073709551616' is not a whole number from "
         "0 to 18446744073709551615"},
        {"sim --ops-per-seed 0",
         "kvrail sim: --ops-per-seed: 0 is below the minimum 1"},
        {"sim --jobs 65", "kvrail sim: --jobs: 65 is above the maximum 64"},
        {"sim --lookups 0", "kvrail sim: --lookups: 0 is below the minimum 1"},
        {"sim --plant termites",
         "kvrail sim: --plant: no bug is named termites; see docs/planted-bugs.md"},
        {"sim --workload chats --nodes 0",
         "kvrail sim: --nodes: 0 is below the minimum 1"},
        {"sim --workload chats --nodes 100000",
         "kvrail sim: --nodes: 100000 is above the maximum 64"},
        {"sim --workload chats --pages 0",
         "kvrail sim: --pages: 0 is below the minimum 1"},
        {"sim --workload chats --pages 1",
         "kvrail sim: config: the configuration is wrong: replay.pages is 1, the limit "
         "is 192"},
        {"sim --workload chats --page-bytes 255",
         "kvrail sim: --page-bytes: 255 is below the minimum 256"},
        {"sim --workload chats --page-bytes 4097",
         "kvrail sim: --page-bytes: 4097 is not a multiple of 256"},
        {"sim --workload chats --in-flight 0",
         "kvrail sim: --in-flight: 0 is below the minimum 1"},
        {"sim --workload chats --balance odd",
         "kvrail sim: --balance: 'odd' is not even, skew"},
        {"sim --workload chats --spill maybe",
         "kvrail sim: --spill: 'maybe' is not off, on"},
        {"sim --workload chats --transport tcp",
         "kvrail sim: --transport: 'tcp' is not named, onesided, both"},
        {"sim --workload talks", "kvrail sim: --workload: 'talks' is not chats"},
        {"placement --nodes 100000",
         "kvrail placement: --nodes: 100000 is above the maximum 1024"},
        {"bench core --runs 0", "kvrail bench core: --runs: 0 is below the minimum 1"},
        {"bench core --runs -3",
         "kvrail bench core: --runs: '-3' is not a whole number from 1 to 99"},
        {"bench core --cpu 1024",
         "kvrail bench core: --cpu: 1024 is above the maximum 1023"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        refused(rows[i].words, rows[i].line);
    }
}

/* A fault that is none is told the names of those that are, on the same line. */
static void main__unknown_fault_is_refused_in_one_line(void **state)
{
    static const char *const words[] = {
        "sim --faults rain", "sim --faults loss,rain,kill", "sim --faults kill,rain"};
    static const char begin[] =
        "kvrail sim: --faults: 'rain' is not one of all, none, delay, duplicate, loss,";
    char out[8192];
    (void)state;
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        check(words[i], KVN_EXIT_USAGE, begin);
        (void)run(words[i], out, sizeof(out));
        assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1);
    }
}

/* A file of these bytes and a verb that takes it; `line` follows the file's path. */
static void
refused_file(const char *verb, const char *bytes, const char *begin, const char *line)
{
    char path[NODE_KIT_PATH_BYTES], words[2 * NODE_KIT_PATH_BYTES];
    char whole[2 * NODE_KIT_PATH_BYTES];
    node_kit_file(bytes, strlen(bytes), false, path);
    snprintf(words, sizeof(words), "%s '%s'", verb, path);
    snprintf(whole, sizeof(whole), "%s%s%s", begin, path, line);
    refused(words, whole);
    node_kit_remove(path);
}

#define SECRET "00112233445566778899aabbccddeeff"
#define NODE(id, more) "[node \"" id "\"]\naddress = h" id ":7400\n" more
#define CONFIG(nodes, pager, space)                                                    \
    "[cluster]\nname = test\n" nodes "[pager]\ndevice_bytes = 1MiB\n" pager            \
    "[tenant \"7\"]\nsecret = " SECRET "\n[space \"chat\"]\nmodel = m\n" space

/* The same lines that config_test.c checks, as the program prints them. */
static void main__bad_config_is_refused_in_one_line(void **state)
{
    static const struct {
        const char *text, *line;
    } rows[] = {
        {CONFIG(NODE("1", ""), "evcit = lru\n", "page_bytes = 4KiB\n"),
         ":7: unknown option \"pager.evcit\"; did you mean \"evict\"?"},
        {CONFIG(NODE("1", ""), "host_bytes = 1MB\n", "page_bytes = 4KiB\n"),
         ":7: pager.host_bytes: \"1MB\" is not a size such as 64GiB or 256k"},
        {CONFIG(NODE("1", "") NODE("01", ""), "", "page_bytes = 4KiB\n"),
         ":5: duplicate node id 1"},
        {CONFIG(NODE("1", "weight = 0\n"), "", "page_bytes = 4KiB\n"),
         ":5: node.weight: 0 is below the minimum 1"},
        {CONFIG(NODE("1", ""), "", "page_bytes = 4000\n"),
         ":11: space.page_bytes: 4000 is not a multiple of 256"},
        {CONFIG(NODE("1", ""), "", "page_bytes = 2MiB\n"),
         ":6: pager.device_bytes: 1048576 bytes a page size hold no page of 2097152 "
         "bytes"},
        {CONFIG(NODE("1", ""), "", "page_bytes = 4KiB\nid = " SECRET SECRET "\n"),
         ":12: space.id: space \"chat\" disagrees with its id: its fields give "
         "17368170f6275eb8b395da98340311c6a6172c3d2aef6d5802815394f4a95b05"},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        refused_file("config --check", rows[i].text, "", rows[i].line);
    }
}

static void main__broken_trace_is_refused_in_one_line(void **state)
{
    static const char good[] = "{\"timestamp\": 0, \"input_length\": 512, "
                               "\"output_length\": 1, \"hash_ids\": [1]}\n";
    static const char bad[] = "{\"timestamp\": 1, \"input_length\": -2, "
                              "\"output_length\": 1, \"hash_ids\": [1]}\n";
    static const struct {
        const char *verb, *begin;
    } verbs[] = {
        {"replay --trace", "kvrail replay: "},
        {"sim --trace", "kvrail sim: "},
        {"placement --trace", "kvrail placement: "},
    };
    char text[512];
    (void)state;
    snprintf(text, sizeof(text), "%s%s%s", good, bad, good);
    for (unsigned i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        refused_file(
            verbs[i].verb, text, verbs[i].begin,
            ":2: input_length: -2 is below the minimum 0");
        refused_file(
            verbs[i].verb, "", verbs[i].begin, ": requests: 0 is below the minimum 1");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(main__lists_every_verb),
        cmocka_unit_test(main__refuses_with_the_nearest_name),
        cmocka_unit_test(main__hands_the_words_to_the_verb),
        cmocka_unit_test(main__option_out_of_range_is_refused_in_one_line),
        cmocka_unit_test(main__unknown_fault_is_refused_in_one_line),
        cmocka_unit_test(main__bad_config_is_refused_in_one_line),
        cmocka_unit_test(main__broken_trace_is_refused_in_one_line),
    };
    return cmocka_run_group_tests(tests, find_program, NULL);
}
