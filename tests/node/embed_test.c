/* Goal: a node in the process of its engine is a node as any other, to be had by
 * opening it and gone when the last client closes; the process is what it was:
 * descriptors, threads, memory, signals, limits; and what cannot be is one line.
 * Method: whole nodes by kvr_open("embed:…"), one and two in this process. Lives and
 * their ends are in embed_life_test.c, other processes in embed_fork_test.c. */
#define _GNU_SOURCE
#include "tests/node/embed_kit.h"
#include "tests/node/engine_kit.h"

#include <dirent.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ------------------------------------------------------------------ what it is */

static void object_level__stores_and_fetches(void **state)
{
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    assert_int_equal(embed_get(client, 1, EMBED_PAGES), 0);
    embed_put(client, 1, EMBED_PAGES);
    assert_int_equal(embed_get(client, 1, EMBED_PAGES), EMBED_PAGES);
    kvr_close(client);
    process_kit_expect_held(&before);
    /* The node was gone: what it held is. */
    client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    assert_int_equal(embed_get(client, 1, EMBED_PAGES), 0);
    kvr_close(client);
    process_kit_expect_held(&before);
}

/* Blocks of the caller's own memory, by a window that the node maps; what is no hit
 * leaves its block alone. */
static void pool__goes_and_comes(void **state)
{
    enum { N = 8 };
    static uint8_t blocks[N][LK_PAGE_BYTES], wanted[LK_PAGE_BYTES];
    const struct kvr_run run = {blocks, LK_PAGE_BYTES, LK_PAGE_BYTES};
    const struct kvr_pool_config config = {
        .struct_size = sizeof(config), .runs = &run, .nr_runs = 1, .nr_blocks = N};
    int32_t statuses[1];
    struct kvr_space space;
    struct kvr_pool pool;
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_OK);
    for (uint32_t i = 0; i < N; i++) { /* block 0 is offset 0: one key a batch */
        lk_page(blocks[0], i);
        (void)lk_batch(client, KVR_OP_PUT, i, 1, pool.id, 0, statuses);
        assert_int_equal(statuses[0], KVR_OK);
    }
    for (uint32_t i = 0; i <= N; i++) {
        memset(blocks, 0xa5, sizeof(blocks));
        (void)lk_batch(client, KVR_OP_GET, i, 1, pool.id, 0, statuses);
        assert_int_equal(statuses[0], i < N ? KVR_OK : KVR_MISS);
        lk_page(wanted, i);
        memset(wanted, 0xa5, i < N ? 0 : sizeof(wanted));
        assert_memory_equal(blocks[0], wanted, sizeof(wanted));
        assert_int_equal(blocks[1][0], 0xa5);
    }
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_OK);
    kvr_close(client);
    process_kit_expect_held(&before);
}

static void pager_level__fills_in_place(void **state)
{
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *client = embed_open("a.conf", EMBED_FILLER, KVR_LEVEL_PAGER);
    kvr_client_t *reader = embed_open("a.conf", EMBED_FILLER, KVR_LEVEL_PAGER);
    const kvr_seq_t seq = ek_open(client), other = ek_open(reader);
    for (uint32_t i = 0; i < 8; i++) {
        ek_grow(client, seq, i, 100 + i);
    }
    uint32_t hits = 0;
    for (unsigned i = 0; i < 5000 && hits < 8; i++) { /* once digests are known */
        assert_int_equal(ek_truncate(reader, other, 0), KVR_OK);
        hits = ek_fetch(reader, other, 0, 100, 8);
        usleep(1000);
    }
    assert_int_equal(hits, 8);
    for (uint32_t i = 0; i < 8; i++) {
        assert_true(ek_holds(reader, other, i, 100 + i));
        assert_true(ek_holds(client, seq, i, 100 + i));
    }
    assert_int_equal(ek_end(client, seq), KVR_OK);
    kvr_close(client);
    kvr_close(reader); /* with a sequence that it has not ended */
    process_kit_expect_held(&before);
}

/* A file is what it is, by whatever name: one node, and so one cache. The process's
 * other doors are open too: a Unix socket for others, if the configuration says so. */
static void node__is_shared_by_file(void **state)
{
    char more[300], error[700], target[256];
    kvr_client_t *unix_client;
    (void)state;
    snprintf(more, sizeof(more), "[listen]\nunix = %s\n", embed_path("sock"));
    embed_config("a.conf", 1, 1, more);
    const struct process_kit_held before = embed_settled("a.conf");
    assert_int_not_equal(access(embed_path("sock"), F_OK), 0);
    assert_int_equal(link(embed_path("a.conf"), embed_path("b.conf")), 0);
    kvr_client_t *one = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = embed_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    embed_put(one, 1, 8);
    kvr_close(one);
    assert_int_equal(embed_get(other, 1, 8), 8);

    /* Tenant 10 is of another uid: not to be had by the socket, but here. */
    snprintf(target, sizeof(target), "unix:%s", embed_path("sock"));
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = LK_TENANT};
    assert_int_equal(kvr_open(&config, &unix_client, error, sizeof(error)), KVR_DENIED);
    assert_int_equal(
        embed_try("a.conf", 999, KVR_LEVEL_OBJECT, &one, error, sizeof(error)),
        KVR_DENIED);
    kvr_close(other);
    assert_int_equal(
        kvr_open(&config, &unix_client, error, sizeof(error)), KVR_LINK_LOST);
    assert_int_equal(unlink(embed_path("b.conf")), 0);
    process_kit_expect_held(&before);
}

static void two_nodes__are_one_cluster(const char *more1, const char *more2)
{
    embed_config("a.conf", 2, 1, more1);
    embed_config("b.conf", 2, 2, more2);
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *one = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = embed_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    embed_put(one, 1, EMBED_PAGES);
    uint32_t hits = 0, peers = 0;
    for (unsigned i = 0; i < 5000 && hits < EMBED_PAGES; i++) { /* once linked */
        hits = embed_get_from(other, 1, EMBED_PAGES, &peers);
        usleep(1000);
    }
    assert_int_equal(hits, EMBED_PAGES);
    assert_true(peers > 0);
    kvr_close(one);
    /* They were brought here. */
    assert_int_equal(embed_get(other, 1, EMBED_PAGES), EMBED_PAGES);
    kvr_close(other);
    process_kit_expect_held(&before);
}

static void two_nodes__read_each_other_by_tcp(void **state)
{
    (void)state;
    two_nodes__are_one_cluster("", "");
}

static void two_nodes__read_each_other_by_shm(void **state)
{
    char more[2][300];
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        snprintf(
            more[i], sizeof(more[i]),
            "[listen]\npeers = %s%u\n[link]\ntransports = onesided\n",
            embed_path("peers"), i);
    }
    two_nodes__are_one_cluster(more[0], more[1]);
}

/* ------------------------------------------------------------------ what it is not */

struct process {
    void (*handlers[NSIG])(int);
    int flags[NSIG];
    sigset_t mask;
    struct rlimit files;
    char folder[256];
    mode_t mode;
};

static void process_look(struct process *process)
{
    memset(process, 0, sizeof(*process));
    for (int i = 1; i < NSIG; i++) {
        struct sigaction action = {.sa_flags = 0};
        (void)sigaction(i, NULL, &action);
        process->handlers[i] = action.sa_handler;
        process->flags[i] = action.sa_flags;
    }
    assert_int_equal(pthread_sigmask(SIG_SETMASK, NULL, &process->mask), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &process->files), 0);
    assert_non_null(getcwd(process->folder, sizeof(process->folder)));
    process->mode = umask(022);
    umask(process->mode);
}

/* Threads of this process beside the caller, and how many of them would take a signal
 * that can be blocked. */
static unsigned threads_that_take_signals(unsigned *nr_p)
{
    unsigned takers = 0;
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[300], line[200];
        if (e->d_name[0] == '.' || atol(e->d_name) == (long)gettid()) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", e->d_name);
        FILE *file = fopen(path, "r");
        while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
            uint64_t blocked;
            if (sscanf(line, "SigBlk: %lx", &blocked) == 1) {
                /* All but KILL, STOP and two that the C library keeps for itself. */
                const uint64_t all =
                    ~(UINT64_C(1) << (SIGKILL - 1) | UINT64_C(1) << (SIGSTOP - 1)
                      | UINT64_C(3) << 31);
                (*nr_p)++;
                takers += (blocked & all) != all;
            }
        }
        if (file != NULL) {
            fclose(file);
        }
    }
    closedir(dir);
    return takers;
}

static void process__is_left_as_it_was(void **state)
{
    static struct process before, now;
    unsigned nr = 0, nr_idle = 0;
    (void)state;
    embed_config("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    (void)embed_settled("a.conf");
    const unsigned idle_takers = threads_that_take_signals(&nr_idle);
    process_look(&before);
    kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    embed_put(client, 1, 8);
    process_look(&now);
    assert_memory_equal(&before, &now, sizeof(now));
    assert_int_equal(threads_that_take_signals(&nr), idle_takers);
    assert_true(nr >= nr_idle + 5); /* the loop, movers, tcp, HTTP, the log */
    kvr_close(client);
    process_look(&now);
    assert_memory_equal(&before, &now, sizeof(now));
}

/* Where kvraild raises the soft limit, this says what to raise. */
static void descriptors__are_asked_for_and_not_taken(void **state)
{
    struct rlimit was, now;
    char error[700] = "";
    kvr_client_t *client;
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    const struct rlimit low = {.rlim_cur = 100, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(
        embed_try("a.conf", LK_TENANT, KVR_LEVEL_OBJECT, &client, error, sizeof(error)),
        KVR_IO);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 100);
    assert_non_null(strstr(error, "the limit is 100: raise it (ulimit -n"));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ mistakes */

static void expect_refused(const char *name, kvr_status_t wanted, const char *part)
{
    char error[700] = "";
    kvr_client_t *client = NULL;
    const kvr_status_t status =
        embed_try(name, LK_TENANT, KVR_LEVEL_OBJECT, &client, error, sizeof(error));
    if (status != wanted || strstr(error, part) == NULL
        || strchr(error, '\n') != NULL) {
        fail_msg("%s: %s", kvr_status_name(status), error);
    }
    assert_null(client);
}

static void mistake__is_one_line(void **state)
{
    char more[400], text[600] = "";
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons(embed_nodes.ports[0]),
    };
    (void)state;
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    expect_refused("none.conf", KVR_CONFIG, "none.conf: No such file");
    embed_config("b.conf", 1, 1, "[link]\ncall = 5parsecs\n");
    expect_refused("b.conf", KVR_CONFIG, "link.call: \"5parsecs\"");
    embed_config("b.conf", 1, 1, "[link]\ncalll = 3s\n");
    expect_refused("b.conf", KVR_CONFIG, "did you mean \"call\"?");
    embed_config("b.conf", 1, 9, "");
    expect_refused("b.conf", KVR_CONFIG, "cluster.node");
    snprintf(more, sizeof(more), "[listen]\nunix = %s/none/sock\n", embed_nodes.folder);
    embed_config("b.conf", 1, 1, more);
    expect_refused("b.conf", KVR_IO, "is the folder there, and writable?");
    embed_config_odd("b.conf", 1, 1, "[log]\nfile = /nowhere/node.log\n", "");
    expect_refused("b.conf", KVR_CONFIG, "log.file: /nowhere/node.log: No such file");
    embed_config_odd("b.conf", 1, 1, "device_bytes = 2TiB\n", "");
    expect_refused("b.conf", KVR_NOMEM, "pool 0");

    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    embed_config("b.conf", 2, 1, "");
    expect_refused("b.conf", KVR_IO, "another process has the port");
    close(fd);

    memset(text, 'x', sizeof(text) - 1);
    memcpy(text, "embed:", 6);
    struct kvr_config config = {
        .struct_size = sizeof(config), .target = text, .tenant = 1};
    kvr_client_t *client;
    assert_int_equal(kvr_open(&config, &client, more, sizeof(more)), KVR_CONFIG);
    assert_string_equal(
        more, "config: the configuration is wrong: config.target is 593, the limit is "
              "511");
    config.target = "embed:";
    assert_int_equal(kvr_open(&config, &client, text, sizeof(text)), KVR_CONFIG);
    assert_string_equal(
        text, "config: config.target is \"embed:\", not \"unix:PATH\" or "
              "\"embed:FILE\" or \"tls://host:port?…\"");
    process_kit_expect_held(&before);
}

/* The log is the process's: a node that says where else its lines go is refused. */
static void log__is_one_for_all(void **state)
{
    char debug[200];
    (void)state;
    snprintf(
        debug, sizeof(debug), "[log]\nlevel = debug\nfile = %s\n",
        embed_path("node.log"));
    embed_config("a.conf", 1, 1, "");
    const struct process_kit_held before = embed_settled("a.conf");
    kvr_client_t *client = embed_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    embed_config_odd("b.conf", 1, 1, debug, "");
    expect_refused("b.conf", KVR_CONFIG, "a process has one log");
    embed_config_odd("b.conf", 1, 1, "[log]\nfile = b.log\n", "");
    expect_refused("b.conf", KVR_CONFIG, "a process has one log");
    embed_config("b.conf", 1, 1, "");
    kvr_client_t *other = embed_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_close(client);
    embed_put(other, 1, 4);
    kvr_close(other);
    embed_config_odd("b.conf", 1, 1, debug, "");
    kvr_close(embed_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT)); /* now the first */
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(object_level__stores_and_fetches),
        cmocka_unit_test(pool__goes_and_comes),
        cmocka_unit_test(pager_level__fills_in_place),
        cmocka_unit_test(node__is_shared_by_file),
        cmocka_unit_test(two_nodes__read_each_other_by_tcp),
        cmocka_unit_test(two_nodes__read_each_other_by_shm),
        cmocka_unit_test(process__is_left_as_it_was),
        cmocka_unit_test(descriptors__are_asked_for_and_not_taken),
        cmocka_unit_test(mistake__is_one_line),
        cmocka_unit_test(log__is_one_for_all),
    };
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, embed_set_up, embed_tear_down);
}
