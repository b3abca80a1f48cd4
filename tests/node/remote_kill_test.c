/* Goal: clients on other hosts are killed, each in the middle of its GETs and PUTs;
 * whatever one held is given back: its place, pins, references, frames, descriptors,
 * memory; what the dead have put is right or not there. Method: a real node on a loop
 * of this process; victims are this program again, "--victim FOLDER PORT". With a
 * number as its argument it kills so many. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"
#include "tests/node/remote_kit.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 600, BATCH = 100, FLIGHTS = 8, KILLS = 60 };

static unsigned kills = KILLS;

/* ---- the victims ----------------------------------------------------------------- */

/* Puts, gets, pins, drops, several at once and without end; "." on stdout when it has
 * begun. Batches that are put and those that are gotten lie in different places. */
static int victim(const char *folder, const char *port)
{
    static struct kvr_key keys[BATCH];
    static struct kvr_at at[BATCH];
    char error[320];
    kvr_client_t *client;
    struct kvr_buffer from, to;
    struct kvr_space space;
    struct kvr_result result;
    struct kv_rng rng = kv_rng_seed((uint64_t)getpid());
    rk_node_is(folder, (uint16_t)strtoul(port, NULL, 10));
    if (rk_open_as(RK_SEVEN, "seven.psk", &client, error) != KVR_OK
        || kvr_space_find(client, "chat", &space) != KVR_OK
        || kvr_buffer_create(client, (size_t)KEYS * RK_PAGE, &from) != KVR_OK
        || kvr_buffer_create(client, (size_t)FLIGHTS * BATCH * RK_PAGE, &to)
               != KVR_OK) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    for (uint32_t i = 0; i < KEYS; i++) {
        rk_page_fill((uint8_t *)from.base + (size_t)i * RK_PAGE, i);
    }
    for (uint64_t turn = 0;; turn++) {
        static const enum kvr_op ops[] = {
            KVR_OP_PUT, KVR_OP_GET, KVR_OP_PUT, KVR_OP_GET,
            KVR_OP_PIN, KVR_OP_GET, KVR_OP_PUT, KVR_OP_DROP};
        const enum kvr_op op = ops[kv_rng_next(&rng) % KV_COUNT_OF(ops)];
        const bool moves = op == KVR_OP_PUT || op == KVR_OP_GET;
        const uint32_t first = (uint32_t)(kv_rng_next(&rng) % (KEYS - BATCH));
        const uint32_t n =
            op == KVR_OP_PIN ? 4 : 1 + (uint32_t)(kv_rng_next(&rng) % BATCH);
        for (uint32_t i = 0; i < n; i++) {
            keys[i] = rk_key_of(first + i);
            at[i] = op == KVR_OP_PUT
                        ? (struct kvr_at){from.id, (uint64_t)(first + i) * RK_PAGE}
                        : (struct kvr_at){
                            to.id, (turn % FLIGHTS * BATCH + i) * RK_PAGE};
        }
        const struct kvr_batch ask = {
            .struct_size = sizeof(ask),
            .op = op,
            .variant = space.variant,
            .timeout_us = moves ? 1000000 : 0,
            .keys = keys,
            .nr_keys = n,
            .at = moves ? at : NULL,
            .loose = 1,
        };
        (void)kvr_submit(client, &ask);
        /* One result a turn, so that FLIGHTS are under way. */
        const bool full = turn >= FLIGHTS - 1;
        const kvr_status_t status =
            kvr_next(client, full ? RK_PATIENCE_US : 0, &result);
        if (status != KVR_OK && (full || status != KVR_AGAIN)) {
            fprintf(stderr, "%s\n", kvr_error(client));
            return 1;
        }
        if (turn == FLIGHTS && write(STDOUT_FILENO, ".", 1) != 1) {
            return 1;
        }
    }
}

static pid_t spawn(void)
{
    extern char **environ;
    char port[16], byte;
    int pipes[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    char *words[] = {"/proc/self/exe", "--victim", rk_certs.folder, port, NULL};
    snprintf(port, sizeof(port), "%u", rk_port());
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, pipes[1], 1), 0);
    assert_int_equal(posix_spawn(&pid, words[0], &actions, NULL, words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1); /* else it has ended, and said why */
    close(pipes[0]);
    return pid;
}

/* ---- what must hold -------------------------------------------------------------- */

static void client__killed_gives_everything_back(void **state)
{
    static uint8_t page[RK_PAGE];
    int32_t statuses[KEYS];
    struct kv_rng rng = kv_rng_seed(60);
    uint32_t hits = 0;
    unsigned fds = 0;
    int64_t live = 0;
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *witness = rk_client_of(RK_SEVEN, NULL);
    struct kvr_buffer buffer;
    assert_int_equal(kvr_buffer_create(witness, KEYS * RK_PAGE, &buffer), KVR_OK);
    for (unsigned i = 0; i < kills; i++) {
        const pid_t pid = spawn();
        int how;
        usleep((useconds_t)(kv_rng_next(&rng) % 20000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_true(WIFSIGNALED(how)); /* it was not over by itself */
        if (i % 10 == 9 || i == kills - 1) {
            rk_await_rest(1);
        }
        if (i == 9) { /* what stays for ever has come by now */
            fds = process_kit_fds();
            live = kv_mem_live();
        }
    }
    /* No more than then, when something may still have been on its way out. */
    for (unsigned i = 0;
         kills > 10
         && (process_kit_fds() > fds || kv_mem_live() > live);
         i++) {
        if (i == RK_PATIENCE_US / 1000) {
            fail_msg(
                "%u descriptors were %u, %lld allocations were %lld",
                process_kit_fds(), fds, (long long)kv_mem_live(),
                (long long)live);
        }
        usleep(1000);
    }
    rk_batch(witness, KVR_OP_GET, 0, KEYS, buffer.id, statuses);
    for (uint32_t i = 0; i < KEYS; i++) {
        if (statuses[i] == KVR_OK) {
            rk_page_fill(page, i);
            assert_memory_equal(
                (uint8_t *)buffer.base + (size_t)i * RK_PAGE, page, RK_PAGE);
            hits++;
        }
    }
    assert_true(hits > 0);
    print_message("%u kills; %u of %u pages are there, right\n", kills, hits, KEYS);
    rk_batch(witness, KVR_OP_DROP, 0, KEYS, 0, statuses); /* nobody pins them */
    rk_batch(witness, KVR_OP_EXISTS, 0, KEYS, 0, statuses);
    rk_expect_all(statuses, KEYS, KVR_MISS);
    kvr_close(witness);
    rk_await_rest(0);
    rk_node_stop();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(client__killed_gives_everything_back),
    };
    if (argc == 4 && strcmp(argv[1], "--victim") == 0) {
        return victim(argv[2], argv[3]);
    }
    if (argc == 2) {
        kills = (unsigned)strtoul(argv[1], NULL, 10);
    }
    return cmocka_run_group_tests(tests, rk_setup, rk_teardown);
}
