/* Faults from a seed, around transports that have none: what the hook does is what it
 * says, and no promise of transport.h breaks by it (the kit checks each event). */
#include "base/assert.h"
#include "base/digest.h"
#include "tests/transport/transport_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MIB = 1 << 20, PARTS = 16, PAGE = 4096 };

static struct tk tk;
static struct tk_candidate candidate;

static void start(void **state, struct kvt_hook_config faults, uint64_t seed)
{
    candidate = (struct tk_candidate){
        .name = "hook", .ops = *state, .hooked = true, .faults = faults, .seed = seed};
    tk_init(&tk, &candidate);
    tk_open(&tk, MIB);
}

static kv_status_t read_all(kvt_conn_t conn, uint64_t first)
{
    struct tk_copy copies[PARTS];
    /* Up to four READs are in flight, each with memory of its own. */
    uint8_t *to = tk.reader.memory + first / PARTS % 4 * PARTS * PAGE;

    for (uint32_t i = 0; i < PARTS; i++) {
        copies[i] = (struct tk_copy){.offset = i * PAGE, .len = PAGE};
    }
    return tk_fetch(&tk, conn, first, copies, PARTS, first, to, PAGE);
}

/* Every DONE late, and out of order: all come, with what they had. */
static void hook__delay_loses_nothing(void **state)
{
    start(state, (struct kvt_hook_config){.delay_one_in = 1, .delay_calls = 20}, 1);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_int_equal(
            tk.reader.done[i].computed, kv_digest(tk.owner.memory + i * PAGE, PAGE));
    }
    assert_int_equal(kvt_hook_counts(tk.reader.port).delayed, PARTS);
    tk_close(&tk);
}

/* Lost until the connection is closed: then LINK_LOST, before CLOSED. */
static void hook__lost_completions_come_at_close(void **state)
{
    start(state, (struct kvt_hook_config){.lose_one_in = 1}, 2);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, kvt_hook_counts(tk.reader.port).lost == PARTS);
    assert_int_equal(tk.reader.nr_done, 0);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk.reader.nr_done, PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        assert_int_equal(tk.reader.done[i].status, KV_ERR_LINK_LOST);
    }
    tk_close(&tk);
}

/* One bit of each page: the digest is of what lies there, so a check finds it. */
static void hook__tear_is_found_by_the_digest(void **state)
{
    start(state, (struct kvt_hook_config){.tear_one_in = 1}, 3);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        const struct kvt_event *done = &tk.reader.done[i];
        assert_int_equal(done->status, KV_OK);
        assert_true(done->computed != kv_digest(tk.owner.memory + i * PAGE, PAGE));
        assert_int_equal(done->computed, kv_digest(tk.reader.memory + i * PAGE, PAGE));
    }
    assert_int_equal(kvt_hook_counts(tk.reader.port).torn, PARTS);
    tk_close(&tk);
}

static void hook__failed_open_is_broken(void **state)
{
    start(state, (struct kvt_hook_config){.fail_one_in = 1}, 4);
    const kvt_conn_t conn = tk_dial(&tk);
    TK_UNTIL(&tk, tk.reader.nr_broken == 1);
    assert_int_equal(read_all(conn, 0), KV_ERR_LINK_LOST);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk.reader.closed[0], conn);
    tk_close(&tk);
}

/* All faults at once, many connections: one end for each id and each connection. */
static void hook__all_faults_keep_the_promises(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        unsigned nr_posted = 0, nr_opened = 0;
        start(
            state,
            (struct kvt_hook_config){
                .delay_one_in = 3,
                .delay_calls = 9,
                .lose_one_in = 5,
                .tear_one_in = 4,
                .fail_one_in = 6,
                .break_one_in = 6},
            seed);
        for (unsigned round = 0; round < 12; round++) {
            const kvt_conn_t conn = tk_dial(&tk);
            nr_opened++;
            for (unsigned i = 0; i < 4; i++) {
                (void)read_all(conn, nr_posted);
                nr_posted += tk.nr_fetched;
            }
            for (unsigned i = 0; i < round % 5; i++) { /* closed early, and late */
                (void)tk_look(&tk, 1);
            }
            kvt_close(tk.reader.port, conn);
            TK_UNTIL(&tk, tk.reader.nr_closed == nr_opened);
            assert_int_equal(tk.reader.nr_done, nr_posted);
            for (unsigned k = 0; k < tk.owner.nr_broken; k++) {
                kvt_close(tk.owner.port, tk.owner.broken[k]);
            }
        }
        tk_close(&tk);
    }
}

static unsigned nr_lines;

static void count_line(void *arg, const char *line)
{
    (void)arg;
    assert_true(strlen(line) > 0);
    nr_lines++;
}

static void hook__traces_calls_and_events(void **state)
{
    nr_lines = 0;
    start(state, (struct kvt_hook_config){.trace = count_line}, 5);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    /* open, read or as many gets, done …, close, closed */
    const unsigned nr_calls = *state == &kvt_tcp ? 1 : PARTS;
    assert_int_equal(nr_lines, 1 + nr_calls + PARTS + 1 + 1);
    tk_close(&tk);
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } tests[] = {
        {"delay_loses_nothing", hook__delay_loses_nothing},
        {"lost_completions_come_at_close", hook__lost_completions_come_at_close},
        {"tear_is_found_by_the_digest", hook__tear_is_found_by_the_digest},
        {"failed_open_is_broken", hook__failed_open_is_broken},
        {"all_faults_keep_the_promises", hook__all_faults_keep_the_promises},
        {"traces_calls_and_events", hook__traces_calls_and_events},
    };
    static const struct kvt_ops *const inner[] = {&kvt_tcp, &kvt_shm};
    enum { TESTS = KV_COUNT_OF(tests), ALL = TESTS * KV_COUNT_OF(inner) };
    static char names[ALL][64];
    static struct CMUnitTest all[ALL];

    for (unsigned i = 0; i < ALL; i++) {
        const struct kvt_ops *ops = inner[i / TESTS];
        (void)snprintf(
            names[i], sizeof(names[i]), "hook of %s: %s", ops->name,
            tests[i % TESTS].name);
        all[i] = (struct CMUnitTest){
            .name = names[i],
            .test_func = tests[i % TESTS].run,
            .initial_state = (void *)(uintptr_t)ops,
        };
    }
    return _cmocka_run_group_tests("hook", all, ALL, NULL, NULL);
}
