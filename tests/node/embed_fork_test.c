/* Goal: a node is its process's alone: a child of fork() takes nothing of it and is no
 * tenant of it, and a process that ends without closing ends its nodes first.
 * Method: children of fork(), and this program again, which leaves in some way while
 * another thread uses a node. */
#include "base/assert.h"
#include "base/log.h"
#include "node/ring.h"
#include "tests/node/embed_kit.h"
#include "tests/node/engine_kit.h"

#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *self;

static int wait_for(pid_t pid)
{
    int how = 0;
    for (unsigned i = 0; i < 30000; i++) {
        if (waitpid(pid, &how, WNOHANG) == pid) {
            return WIFEXITED(how) ? WEXITSTATUS(how) : 1000 + WTERMSIG(how);
        }
        usleep(1000);
    }
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &how, 0);
    return -1; /* it hung */
}

/* The child closes what its parent opened: its own memory goes, and nothing of the
 * parent's node. It cannot open nodes of its own. */
static void fork__leaves_the_node_to_the_parent(void **state)
{
    (void)state;
    embed_config("a.conf", 1, 1, "");
    embed_config("b.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *engine = embed_open("a.conf", EMBED_FILLER, KVR_LEVEL_PAGER);
    const kvr_seq_t seq = ek_open(engine);
    struct kvr_buffer buffer;
    assert_int_equal(kvr_buffer_create(client, 8192, &buffer), KVR_OK);
    embed_put(client, 1, 8);
    const pid_t pid = fork();
    if (pid == 0) {
        char error[700] = "";
        kvr_client_t *other;
        alarm(20);
        kvr_close(client);
        kvr_close(engine);
        const kvr_status_t status = embed_try(
            "b.conf", LK_TENANT, KVR_LEVEL_OBJECT, &other, error, sizeof(error));
        _exit(status == KVR_INVALID && strstr(error, "was forked") != NULL ? 7 : 8);
    }
    assert_true(pid > 0);
    assert_int_equal(wait_for(pid), 7);
    assert_int_equal(embed_get(client, 1, 8), 8);
    ek_grow(engine, seq, 0, 500);
    embed_put(client, 20, 8);

    /* A child that lives on has copies of the sockets: a close is one all the same. Of
     * limits.clients, 8, six would be taken in each round. */
    int hold[2];
    pid_t idle[4];
    assert_int_equal(pipe(hold), 0);
    for (unsigned i = 0; i < KV_COUNT_OF(idle); i++) {
        kvr_client_t *more[6];
        for (unsigned k = 0; k < KV_COUNT_OF(more); k++) {
            more[k] = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
        }
        idle[i] = fork();
        if (idle[i] == 0) {
            char byte;
            close(hold[1]);
            _exit(read(hold[0], &byte, 1) == 0 ? 7 : 8);
        }
        for (unsigned k = 0; k < KV_COUNT_OF(more); k++) {
            kvr_close(more[k]);
        }
    }
    kvr_close(client);
    kvr_close(engine);
    close(hold[0]);
    close(hold[1]);
    for (unsigned i = 0; i < KV_COUNT_OF(idle); i++) {
        assert_int_equal(wait_for(idle[i]), 7);
    }
    process_kit_expect_held(&before);
}

static void on_ended(void *arg)
{
    (void)arg; /* nobody waits: the test fails by then */
}

/* A client of the process may be any tenant, by a socket that it was given: a child
 * that inherits that socket, or whoever gets it otherwise, may be none. */
static void fork__gives_the_child_no_tenant(void **state)
{
    char line[KVN_HOST_LINE_BYTES];
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    embed_log_begin();
    kvn_host_t *host = embed_host("a.conf");
    assert_int_equal(kvn_host_await(host, LK_LATER_US, line, sizeof(line)), KV_OK);
    for (unsigned child = 0; child < 2; child++) {
        int ends[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
        assert_int_equal(kvn_host_adopt(host, ends[1]), KV_OK);
        const pid_t pid = child != 0 ? fork() : 0;
        struct kvn_packet packet;
        if (pid == 0) {
            KV_ASSERT(recv(ends[0], &packet, sizeof(packet), 0) > 0);
            const uint64_t nonce = packet.nonce;
            kvn_packet_init(&packet, KVN_PACKET_ATTACH);
            packet.nonce = nonce;
            packet.tenant = LK_TENANT;
            packet.ring_bytes = 1 << 17;
            KV_ASSERT(kvn_packet_send(ends[0], &packet, sizeof(packet), -1));
            KV_ASSERT(recv(ends[0], &packet, sizeof(packet), 0) > 0);
            if (child != 0) {
                _exit(
                    packet.type == KVN_PACKET_REFUSED && packet.status == KV_ERR_DENIED
                        ? 7
                        : 8);
            }
            assert_int_equal(packet.type, KVN_PACKET_ATTACHED);
        } else {
            assert_int_equal(wait_for(pid), 7);
        }
        close(ends[0]);
    }
    assert_true(kvn_host_free(host, LK_LATER_US, on_ended, NULL));
    kv_log_stop();
    process_kit_expect_held(&before);
}

/* "--exit FOLDER HOW": this program again, which opens two nodes and ends in some way
 * without closing them, while another thread uses one. */
static void *user_main(void *arg)
{
    struct kvr_result result;
    for (uint64_t i = 0;; i++) { /* until the node is gone */
        if (lk_submit(arg, KVR_OP_EXISTS, i, 8, 0, 0, i, 1000000) != KVR_OK
            || kvr_next(arg, 1000000, &result) != KVR_OK) {
            return NULL;
        }
    }
}

static int leaver(const char *how)
{
    pthread_t thread;
    kvr_client_t *one = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = embed_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    embed_put(one, 1, 8);
    KV_ASSERT(pthread_create(&thread, NULL, user_main, other) == 0);
    KV_ASSERT(pthread_detach(thread) == 0);
    usleep(20 * 1000);
    if (strcmp(how, "fork") == 0) {
        const pid_t pid = fork();
        if (pid == 0) {
            exit(7); /* a child that was not told of _exit() */
        }
        const int code = wait_for(pid);
        KV_ASSERT(code == 7 && embed_get(one, 1, 8) == 8);
    }
    exit(7);
}

static void exit__ends_nodes_first(void **state)
{
    extern char **environ;
    static const char *const hows[] = {"plain", "fork"};
    char text[4096];
    (void)state;
    embed_config("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    embed_config("b.conf", 2, 2, "");
    for (unsigned i = 0; i < 10; i++) {
        pid_t pid;
        (void)unlink(embed_path("node.log"));
        char *words[] = {
            (char *)(uintptr_t)self, (char *)(uintptr_t) "--exit", embed_nodes.folder,
            (char *)(uintptr_t)hows[i % 2], NULL};
        /* Of a child's threads, which are the parent's, LeakSanitizer knows nothing. */
        char *childs[] = {(char *)(uintptr_t) "ASAN_OPTIONS=detect_leaks=0", NULL};
        assert_int_equal(
            posix_spawn(&pid, self, NULL, NULL, words, i % 2 == 1 ? childs : environ),
            0);
        assert_int_equal(wait_for(pid), 7);
        FILE *file = fopen(embed_path("node.log"), "r");
        assert_non_null(file);
        text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
        fclose(file);
        assert_non_null(strstr(text, "node 1 stops"));
        assert_non_null(strstr(text, "node 2 stops"));
    }
}

/* ------------------------------------------------------------------ */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fork__leaves_the_node_to_the_parent),
        cmocka_unit_test(fork__gives_the_child_no_tenant),
        cmocka_unit_test(exit__ends_nodes_first),
    };
    self = argv[0];
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    if (argc == 4 && strcmp(argv[1], "--exit") == 0) {
        snprintf(embed_nodes.folder, sizeof(embed_nodes.folder), "%s", argv[2]);
        return leaver(argv[3]);
    }
    return cmocka_run_group_tests(tests, embed_set_up, embed_tear_down);
}
