/* 200 clients are killed, each in the middle of what it does; and a node is. Whatever a
 * client held is given back: references, pins, frames, descriptors, mappings are what
 * they were; and of a killed node's client every batch still ends once.
 *
 * Victims are this program again: "--victim PATH" is a client, "--node PATH" a node. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/hash.h"
#include "tests/node/local_kit.h"

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

enum { KILLS = 200, KEYS = 256, BATCH_MAX = 32, FLIGHTS = 8 };

static struct lk lk;
static const char *self;

/* ------------------------------------------------------------------ the victims */

/* Puts, gets, pins, drops, without end; "." on stdout when it has begun. */
static int victim(const char *path)
{
    struct kv_rng rng = kv_rng_seed((uint64_t)getpid());
    kvr_client_t *client = lk_client_at(path, 1 << 17);
    struct kvr_buffer buffer, other;
    struct kvr_result result;
    if (client == NULL
        || kvr_buffer_create(client, KEYS * LK_PAGE_BYTES, &buffer) != KVR_OK) {
        return 1;
    }
    for (uint32_t i = 0; i < KEYS; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, i);
    }
    for (uint64_t turn = 0;; turn++) {
        uint64_t first = kv_rng_next(&rng) % (KEYS - BATCH_MAX);
        enum kvr_op op = (enum kvr_op)(kv_rng_next(&rng) % (KVR_OP_DROP + 1));
        if (op == KVR_OP_GET) { /* into other places than those that PUT reads */
            first = KEYS - BATCH_MAX;
        }
        uint32_t n = 1 + (uint32_t)(kv_rng_next(&rng) % BATCH_MAX);
        (void)lk_submit(
            client, op, first, n, buffer.id, (uint32_t)first, turn, 1000000);
        while (kvr_next(client, turn % FLIGHTS == 0 ? 1000 : 0, &result) == KVR_OK) {}
        if (turn % 16 == 0 && kvr_buffer_create(client, 4096, &other) == KVR_OK
            && turn % 32 == 0) {
            kvr_buffer_destroy(client, &other);
        }
        if (turn == 4 && write(STDOUT_FILENO, ".", 1) != 1) {
            return 1;
        }
    }
}

static int node(const char *path)
{
    lk_init(&lk);
    rmdir(lk.dir);
    snprintf(lk.path, sizeof(lk.path), "%s", path);
    lk_start(&lk);
    lk_stuck(&lk, true);
    if (write(STDOUT_FILENO, ".", 1) != 1) {
        return 1;
    }
    for (;;) {
        pause();
    }
}

/* Starts one and waits until it says that it has begun. */
static pid_t spawn(const char *role, const char *path)
{
    extern char **environ;
    int pipes[2];
    char byte;
    pid_t pid;
    posix_spawn_file_actions_t actions;
    char *words[] = {
        (char *)(uintptr_t)self, (char *)(uintptr_t)role, (char *)(uintptr_t)path,
        NULL};
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, pipes[1], 1), 0);
    assert_int_equal(posix_spawn(&pid, self, &actions, NULL, words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    close(pipes[0]);
    return pid;
}

static void kill_now(pid_t pid)
{
    int how;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFSIGNALED(how));
}

/* ------------------------------------------------------------------ tests */

static void client__killed_gives_everything_back(void **state)
{
    struct kv_rng rng = kv_rng_seed(200);
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer;
    assert_int_equal(kvr_buffer_create(client, KEYS * LK_PAGE_BYTES, &buffer), KVR_OK);
    lk_await(&lk, 1, 1); /* the node has closed what it was sent */
    const struct lk_held before = lk_held();
    for (unsigned i = 0; i < KILLS; i++) {
        pid_t pid = spawn("--victim", lk.path);
        if (i % 4 == 0) {
            lk_stuck(&lk, true); /* copies under way when it dies */
        }
        usleep((useconds_t)(kv_rng_next(&rng) % 3000));
        kill_now(pid);
        lk_stuck(&lk, false);
        if (i % 20 == 19) {
            lk_await(&lk, 1, 1);
        }
    }
    lk_await(&lk, 1, 1);
    lk_await_held(&before);
    assert_int_equal(lk_counts(&lk).attached, KILLS + 1);
    assert_int_equal(lk_counts(&lk).hung_up, KILLS);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    /* What the dead put is whole; and nothing of theirs holds it. */
    int32_t statuses[KEYS];
    uint32_t hits = 0;
    assert_int_equal(
        lk_batch(client, KVR_OP_GET, 0, KEYS, buffer.id, 0, statuses), KVR_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t page[LK_PAGE_BYTES];
        lk_page(page, i);
        if (statuses[i] == KVR_OK) {
            assert_memory_equal(
                (uint8_t *)buffer.base + i * LK_PAGE_BYTES, page, sizeof(page));
            hits++;
        }
    }
    print_message("%u of %u pages were there, each as it was put\n", hits, KEYS);
    assert_int_equal(
        lk_batch(client, KVR_OP_DROP, 0, KEYS, buffer.id, 0, statuses), KVR_OK);
    kvr_close(client);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    lk_stop(&lk);
}

static void node__killed_ends_every_batch_once(void **state)
{
    char dir[] = "/tmp/kvrail-kill-XXXXXX", path[64];
    struct kvr_buffer buffer;
    struct kvr_result result;
    bool seen[64] = {false};
    uint32_t cancelled = 0;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/node.sock", dir);
    pid_t pid = spawn("--node", path);
    kvr_client_t *client = lk_client_at(path, 0);
    assert_non_null(client);
    assert_int_equal(kvr_buffer_create(client, 64 * LK_PAGE_BYTES, &buffer), KVR_OK);
    for (uint32_t i = 0; i < 64; i++) {
        enum kvr_op op = i % 4 == 0 ? KVR_OP_PIN : KVR_OP_PUT;
        assert_int_equal(
            lk_submit(client, op, i, 1, buffer.id, i, i, LK_LATER_US), KVR_OK);
        if (i == 32) {
            kill_now(pid);
        }
    }
    while (kvr_next(client, LK_LATER_US, &result) == KVR_OK) {
        assert_true(result.tag < 64 && !seen[result.tag]);
        seen[result.tag] = true;
        cancelled += result.status == KVR_CANCELLED;
        assert_true(
            result.status == KVR_CANCELLED || result.tag % 4 == 0
            || result.statuses[0] == KVR_AGAIN);
    }
    for (uint32_t i = 0; i < 64; i++) {
        assert_true(seen[i]);
    }
    assert_in_range(cancelled, 31, 64);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_LINK_LOST);
    kvr_close(client);
    unlink(path); /* a killed node leaves it; the next one would take it over */
    assert_int_equal(rmdir(dir), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(client__killed_gives_everything_back),
        cmocka_unit_test(node__killed_ends_every_batch_once),
    };
    self = "/proc/self/exe";
    if (argc == 3 && strcmp(argv[1], "--victim") == 0) {
        return victim(argv[2]);
    }
    if (argc == 3 && strcmp(argv[1], "--node") == 0) {
        return node(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
