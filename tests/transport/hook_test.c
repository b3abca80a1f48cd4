/* Faults from a seed, around a transport that has none: what the hook does is what it
 * says, and no promise of transport.h breaks by it (the kit checks each event). */
#include "base/digest.h"
#include "tests/transport/transport_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { MIB = 1 << 20, PARTS = 16, PAGE = 4096 };

static struct tk tk;
static struct tk_candidate candidate;

static void start(struct kvt_hook_config faults, uint64_t seed)
{
    candidate = (struct tk_candidate){
        .name = "hook",
        .ops = &kvt_tcp,
        .hooked = true,
        .faults = faults,
        .seed = seed};
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
    return tk_read(&tk, conn, first, copies, PARTS, first, to, PAGE);
}

/* Every DONE late, and out of order: all come, with what they had. */
static void hook__delay_loses_nothing(void **state)
{
    (void)state;
    start((struct kvt_hook_config){.delay_one_in = 1, .delay_calls = 20}, 1);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_int_equal(tk.reader.done[i].computed, tk.reader.done[i].expected);
    }
    assert_int_equal(kvt_hook_counts(tk.reader.port).delayed, PARTS);
    tk_close(&tk);
}

/* Lost until the connection is closed: then LINK_LOST, before CLOSED. */
static void hook__lost_completions_come_at_close(void **state)
{
    (void)state;
    start((struct kvt_hook_config){.lose_one_in = 1}, 2);
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
    (void)state;
    start((struct kvt_hook_config){.tear_one_in = 1}, 3);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    for (uint32_t i = 0; i < PARTS; i++) {
        const struct kvt_event *done = &tk.reader.done[i];
        assert_int_equal(done->status, KV_OK);
        assert_true(done->computed != done->expected);
        assert_int_equal(done->computed, kv_digest(tk.reader.memory + i * PAGE, PAGE));
    }
    assert_int_equal(kvt_hook_counts(tk.reader.port).torn, PARTS);
    tk_close(&tk);
}

static void hook__failed_open_is_broken(void **state)
{
    (void)state;
    start((struct kvt_hook_config){.fail_one_in = 1}, 4);
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
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        unsigned nr_posted = 0, nr_opened = 0;
        start(
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
                if (read_all(conn, nr_posted) == KV_OK) {
                    nr_posted += PARTS;
                }
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
    (void)state;
    nr_lines = 0;
    start((struct kvt_hook_config){.trace = count_line}, 5);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(read_all(conn, 0), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == PARTS);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(
        nr_lines, 1 + 1 + PARTS + 1 + 1); /* open read done … close closed */
    tk_close(&tk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hook__delay_loses_nothing),
        cmocka_unit_test(hook__lost_completions_come_at_close),
        cmocka_unit_test(hook__tear_is_found_by_the_digest),
        cmocka_unit_test(hook__failed_open_is_broken),
        cmocka_unit_test(hook__all_faults_keep_the_promises),
        cmocka_unit_test(hook__traces_calls_and_events),
    };

    return cmocka_run_group_tests_name("hook", tests, NULL, NULL);
}
