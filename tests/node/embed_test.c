/* Goal: a node in the process of its engine is a node as any other, to be had by
 * opening it and gone when the last client closes; and the process is what it was:
 * descriptors, threads, memory, signals, limits, its children.
 * Method: whole nodes by kvr_open("embed:…"), one and two in this process, from many
 * threads; faults by number; children of fork(); programs that end without closing. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/daemon/host.h"
#include "node/ring.h"
#include "tests/base/process_kit.h"
#include "tests/node/engine_kit.h"

#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <dlfcn.h>

#include <cmocka.h>

enum {
    FILLER = 11,    /* the tenant whose engines fill in place */
    NOBODY = 12345, /* the uid that both tenants are given to: none of ours */
    PAGES = 64,
    FAULTS_MAX = 3000,
    STARTS = 100,
    CROWD = 6,
    TURNS = 25,
    SLOW_US = 700 * 1000, /* of a name */
};

#define SECRET "00112233445566778899aabbccddeeff"

static char folder[] = "/tmp/kvrail-embed-XXXXXX";
static uint16_t ports[2];
static const char *self;

/* ------------------------------------------------------------------ the kit */

/* In front of the system's, also for libuv: the name "localhost" takes its time. */
__attribute__((visibility("default"))) int getaddrinfo(
    const char *name, const char *service, const struct addrinfo *hints,
    struct addrinfo **list)
{
    static int (*real)(
        const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (name != NULL && strcmp(name, "localhost") == 0) {
        usleep(SLOW_US);
        return EAI_NONAME;
    }
    if (real == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
        memcpy(&real, &symbol, sizeof(real));
    }
    return real(name, service, hints, list);
}

/* libuv closes its descriptors without the C library, so that the thread sanitizer
 * takes a number that is used again, by another thread, for the epoll descriptor of
 * before. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:epoll_wait\nrace:epoll_ctl\n";
}

static void take_ports(void)
{
    int fds[KV_COUNT_OF(ports)];
    for (unsigned i = 0; i < KV_COUNT_OF(ports); i++) {
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        KV_ASSERT(bind(fds[i], (struct sockaddr *)&address, len) == 0);
        KV_ASSERT(getsockname(fds[i], (struct sockaddr *)&address, &len) == 0);
        ports[i] = ntohs(address.sin_port);
    }
    for (unsigned i = 0; i < KV_COUNT_OF(ports); i++) {
        close(fds[i]);
    }
}

static const char *path_of(const char *name)
{
    static _Thread_local char paths[8][160];
    static _Thread_local unsigned next;
    char *path = paths[next++ % KV_COUNT_OF(paths)];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

/* NAME in the folder: node `node` of `nr`; `more` are lines of sections of their own,
 * `odd` are of [log], or of a section in its place. */
static void config_odd(
    const char *name, unsigned nr, unsigned node, const char *odd, const char *more)
{
    FILE *file = fopen(path_of(name), "w");
    KV_ASSERT(file != NULL);
    fprintf(
        file,
        "[cluster]\nname = test\nnode = %u\n[tls]\nclear = yes\n"
        "[tenant \"%u\"]\nsecret = " SECRET "\nuids = %u\n"
        "[tenant \"%u\"]\nsecret = " SECRET "\nuids = %u\ndomain = own\n"
        "device_bytes = 64KiB\nfill = yes\n"
        "[space \"chat\"]\nmodel = m\npage_tokens = %u\npage_bytes = %u\n"
        "[limits]\nclients = 8\nrequests = 64\nfetching = 256\ncalls = 256\n"
        "reads = 256\ngrants = 256\nsequences = 32\n"
        "[directory]\nentries = 1024\n[data]\nconnections = 4\n"
        "[pager]\nhost_bytes = 1MiB\n%s%s",
        node, LK_TENANT, NOBODY, FILLER, NOBODY, LK_PAGE_TOKENS, LK_PAGE_BYTES, odd,
        more);
    for (unsigned i = 0; i < nr; i++) {
        fprintf(file, "[node \"%u\"]\naddress = 127.0.0.1:%u\n", i + 1, ports[i]);
    }
    fclose(file);
}

static void config_write(const char *name, unsigned nr, unsigned node, const char *more)
{
    char log[200];
    snprintf(
        log, sizeof(log), "device_bytes = 64KiB\n[log]\nfile = %s/node.log\n", folder);
    config_odd(name, nr, node, log, more);
}

static kvr_status_t open_as(
    const char *name, uint32_t tenant, enum kvr_level level, kvr_client_t **client_p,
    char *error, size_t cap)
{
    char target[256];
    snprintf(target, sizeof(target), "embed:%s", path_of(name));
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = tenant,
        .timeout_us = LK_LATER_US,
        .level = level,
    };
    return kvr_open(&config, client_p, error, cap);
}

static kvr_client_t *must_open(const char *name, uint32_t tenant, enum kvr_level level)
{
    char error[700] = "";
    kvr_client_t *client = NULL;
    if (open_as(name, tenant, level, &client, error, sizeof(error)) != KVR_OK) {
        fprintf(stderr, "%s\n", error);
    }
    KV_ASSERT(client != NULL); /* also on other threads than the test's */
    return client;
}

/* Puts pages first … first + n - 1 and gets them elsewhere, every byte checked. The
 * place of the last hit. */
static void put(kvr_client_t *client, uint64_t first, uint32_t n)
{
    struct kvr_buffer buffer;
    int32_t statuses[PAGES];
    KV_ASSERT(n <= PAGES);
    KV_ASSERT(kvr_buffer_create(client, n * LK_PAGE_BYTES, &buffer) == KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, first + i);
    }
    KV_ASSERT(lk_batch(client, KVR_OP_PUT, first, n, buffer.id, 0, statuses) == KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        KV_ASSERT(statuses[i] == KVR_OK || statuses[i] == KVR_EXISTS);
    }
    kvr_buffer_destroy(client, &buffer);
}

/* How many of them it has; a byte of a hit that is wrong ends the test. *peers_p (may
 * be NULL): and of those that came from a peer. */
static uint32_t
get_from(kvr_client_t *client, uint64_t first, uint32_t n, uint32_t *peers_p)
{
    struct kvr_buffer buffer;
    struct kvr_result result;
    uint8_t wanted[LK_PAGE_BYTES];
    uint32_t hits = 0, peers = 0;
    KV_ASSERT(n <= PAGES);
    KV_ASSERT(kvr_buffer_create(client, n * LK_PAGE_BYTES, &buffer) == KVR_OK);
    KV_ASSERT(
        lk_submit(client, KVR_OP_GET, first, n, buffer.id, 0, first, LK_LATER_US)
        == KVR_OK);
    KV_ASSERT(kvr_next(client, LK_LATER_US, &result) == KVR_OK);
    KV_ASSERT(result.status == KVR_OK && result.nr_keys == n);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *got = (uint8_t *)buffer.base + i * LK_PAGE_BYTES;
        const kvr_status_t status = result.statuses[i];
        lk_page(wanted, first + i);
        KV_ASSERT(status == KVR_OK || status == KVR_MISS);
        KV_ASSERT(status != KVR_OK || memcmp(got, wanted, LK_PAGE_BYTES) == 0);
        hits += status == KVR_OK;
        peers += status == KVR_OK && result.places[i] == KVR_FROM_PEER;
    }
    kvr_buffer_destroy(client, &buffer);
    if (peers_p != NULL) {
        *peers_p += peers;
    }
    return hits;
}

static uint32_t get(kvr_client_t *client, uint64_t first, uint32_t n)
{
    return get_from(client, first, n, NULL);
}

/* What a first node leaves in the process for ever: OpenSSL's and libuv's own. */
static struct process_kit_held traces_settled(const char *name)
{
    kvr_close(must_open(name, LK_TENANT, KVR_LEVEL_OBJECT));
    return process_kit_held();
}

/* ------------------------------------------------------------------ what it is */

static void object_level__stores_and_fetches(void **state)
{
    (void)state;
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    assert_int_equal(get(client, 1, PAGES), 0);
    put(client, 1, PAGES);
    assert_int_equal(get(client, 1, PAGES), PAGES);
    kvr_close(client);
    process_kit_expect_held(&before);
    /* The node was gone: what it held is. */
    client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    assert_int_equal(get(client, 1, PAGES), 0);
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
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
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
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *client = must_open("a.conf", FILLER, KVR_LEVEL_PAGER);
    kvr_client_t *reader = must_open("a.conf", FILLER, KVR_LEVEL_PAGER);
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
    snprintf(more, sizeof(more), "[listen]\nunix = %s\n", path_of("sock"));
    config_write("a.conf", 1, 1, more);
    const struct process_kit_held before = traces_settled("a.conf");
    assert_int_not_equal(access(path_of("sock"), F_OK), 0);
    assert_int_equal(link(path_of("a.conf"), path_of("b.conf")), 0);
    kvr_client_t *one = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = must_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    put(one, 1, 8);
    kvr_close(one);
    assert_int_equal(get(other, 1, 8), 8);

    /* Tenant 10 is of another uid: not to be had by the socket, but here. */
    snprintf(target, sizeof(target), "unix:%s", path_of("sock"));
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = LK_TENANT};
    assert_int_equal(kvr_open(&config, &unix_client, error, sizeof(error)), KVR_DENIED);
    assert_int_equal(
        open_as("a.conf", 999, KVR_LEVEL_OBJECT, &one, error, sizeof(error)),
        KVR_DENIED);
    kvr_close(other);
    assert_int_equal(
        kvr_open(&config, &unix_client, error, sizeof(error)), KVR_LINK_LOST);
    assert_int_equal(unlink(path_of("b.conf")), 0);
    process_kit_expect_held(&before);
}

static void two_nodes__are_one_cluster(const char *more1, const char *more2)
{
    config_write("a.conf", 2, 1, more1);
    config_write("b.conf", 2, 2, more2);
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *one = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = must_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    put(one, 1, PAGES);
    uint32_t hits = 0, peers = 0;
    for (unsigned i = 0; i < 5000 && hits < PAGES; i++) { /* once they are linked */
        hits = get_from(other, 1, PAGES, &peers);
        usleep(1000);
    }
    assert_int_equal(hits, PAGES);
    assert_true(peers > 0);
    kvr_close(one);
    assert_int_equal(get(other, 1, PAGES), PAGES); /* they were brought here */
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
            "[listen]\npeers = %s%u\n[link]\ntransports = onesided\n", path_of("peers"),
            i);
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
    config_write("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    (void)traces_settled("a.conf");
    const unsigned idle_takers = threads_that_take_signals(&nr_idle);
    process_look(&before);
    kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    put(client, 1, 8);
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
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    const struct rlimit low = {.rlim_cur = 100, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(
        open_as("a.conf", LK_TENANT, KVR_LEVEL_OBJECT, &client, error, sizeof(error)),
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
        open_as(name, LK_TENANT, KVR_LEVEL_OBJECT, &client, error, sizeof(error));
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
        .sin_port = htons(ports[0]),
    };
    (void)state;
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    expect_refused("none.conf", KVR_CONFIG, "none.conf: No such file");
    config_write("b.conf", 1, 1, "[link]\ncall = 5parsecs\n");
    expect_refused("b.conf", KVR_CONFIG, "link.call: \"5parsecs\"");
    config_write("b.conf", 1, 1, "[link]\ncalll = 3s\n");
    expect_refused("b.conf", KVR_CONFIG, "did you mean \"call\"?");
    config_write("b.conf", 1, 9, "");
    expect_refused("b.conf", KVR_CONFIG, "cluster.node");
    snprintf(more, sizeof(more), "[listen]\nunix = %s/none/sock\n", folder);
    config_write("b.conf", 1, 1, more);
    expect_refused("b.conf", KVR_IO, "is the folder there, and writable?");
    config_odd("b.conf", 1, 1, "[log]\nfile = /nowhere/node.log\n", "");
    expect_refused("b.conf", KVR_CONFIG, "log.file: /nowhere/node.log: No such file");
    config_odd("b.conf", 1, 1, "device_bytes = 2TiB\n", "");
    expect_refused("b.conf", KVR_NOMEM, "pool 0");

    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 1), 0);
    config_write("b.conf", 2, 1, "");
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
        debug, sizeof(debug), "[log]\nlevel = debug\nfile = %s/node.log\n", folder);
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    config_odd("b.conf", 1, 1, debug, "");
    expect_refused("b.conf", KVR_CONFIG, "a process has one log");
    config_odd("b.conf", 1, 1, "[log]\nfile = b.log\n", "");
    expect_refused("b.conf", KVR_CONFIG, "a process has one log");
    config_write("b.conf", 1, 1, "");
    kvr_client_t *other = must_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_close(client);
    put(other, 1, 4);
    kvr_close(other);
    config_odd("b.conf", 1, 1, debug, "");
    kvr_close(must_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT)); /* now the first */
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ faults */

/* One life whose n-th fallible call fails. False: it has fewer. */
static bool life_with_fault(uint64_t n)
{
    char error[700] = "";
    kvr_client_t *client = NULL;
    bool unused = false;
    kv_fault_after(n);
    const kvr_status_t status =
        open_as("a.conf", FILLER, KVR_LEVEL_PAGER, &client, error, sizeof(error));
    if (status == KVR_OK) {
        kvr_close(client);
    } else if (
        client != NULL || error[0] == '\0'
        || (status != KVR_NOMEM && status != KVR_IO && status != KVR_CONFIG
            && status != KVR_LINK_LOST && status != KVR_AGAIN && status != KVR_INVALID
            && status != KVR_DENIED)) {
        fail_msg("fault %u: %s: '%s'", (unsigned)n, kvr_status_name(status), error);
    }
    for (uint64_t i = 0; i < n && !unused; i++) {
        unused = kv_fault_now();
    }
    kv_fault_after(0);
    return !unused;
}

static void life__survives_every_fault(void **state)
{
    char more[300];
    (void)state;
    snprintf(
        more, sizeof(more), "[listen]\nunix = %s\nhttp = 127.0.0.1:0\n",
        path_of("sock"));
    config_write("a.conf", 2, 1, more);
    const struct process_kit_held before = traces_settled("a.conf");
    uint64_t n = 1;
    while (life_with_fault(n)) {
        process_kit_expect_held(&before);
        assert_int_not_equal(access(path_of("sock"), F_OK), 0);
        n++;
        assert_true(n < FAULTS_MAX);
    }
    process_kit_expect_held(&before);
    print_message("%u calls failed once each\n", (unsigned)n - 1);
    assert_true(n > 100);
}

static void life__a_hundred_leave_nothing(void **state)
{
    (void)state;
    config_write("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    const struct process_kit_held before = traces_settled("a.conf");
    for (unsigned i = 0; i < STARTS; i++) {
        kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
        if (i % 2 == 0) {
            put(client, i, 4);
        }
        kvr_close(client);
    }
    process_kit_expect_held(&before);
}

static void log_begin(void)
{
    const struct kv_log_config log = {
        .level = KV_LOG_INFO, .path = path_of("node.log")};
    assert_int_equal(kv_log_start(&log, NULL), KV_OK);
}

/* A node whose end takes longer than anybody waits goes on ending, and says when. */
static void on_ended(void *arg)
{
    atomic_store((atomic_bool *)arg, true);
}

static void stop__that_takes_long_ends_by_itself(void **state)
{
    static atomic_bool ended;
    char line[KVN_HOST_LINE_BYTES];
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    kvn_host_t *host = NULL;
    (void)state;
    assert_non_null(errors);
    config_write("a.conf", 1, 1, "[node \"2\"]\naddress = localhost:7400\n");
    kvr_close(
        must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT)); /* waits: libuv's own */
    const struct process_kit_held before = process_kit_held();
    const struct kvn_config_source source = {.path = path_of("a.conf")};
    log_begin();
    assert_int_equal(kvn_config_load(&source, &config, errors), KV_OK);
    assert_int_equal(kvn_host_create(config, &host), KV_OK);
    assert_int_equal(kvn_host_await(host, LK_LATER_US, line, sizeof(line)), KV_OK);
    usleep(50 * 1000); /* it asks for the name */
    assert_false(kvn_host_free(host, 1000, on_ended, &ended));
    for (unsigned i = 0; i < 10000 && !atomic_load(&ended); i++) {
        usleep(1000);
    }
    assert_true(atomic_load(&ended));
    kv_log_stop();
    process_kit_expect_held(&before);
    free(errors);
}

/* Nor does a start that nobody waited for. */
static void start__that_is_not_waited_for_ends_by_itself(void **state)
{
    static atomic_bool ended;
    char line[KVN_HOST_LINE_BYTES] = "";
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    (void)state;
    assert_non_null(errors);
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    const struct kvn_config_source source = {.path = path_of("a.conf")};
    log_begin();
    for (unsigned i = 0; i < 20; i++) {
        struct kvn_config *config = NULL;
        kvn_host_t *host = NULL;
        atomic_store(&ended, false);
        assert_int_equal(kvn_config_load(&source, &config, errors), KV_OK);
        assert_int_equal(kvn_host_create(config, &host), KV_OK);
        const kv_status_t status = kvn_host_await(host, 100 * i, line, sizeof(line));
        assert_true(status == KV_OK || status == KV_ERR_DEADLINE);
        if (!kvn_host_free(host, 100 * i, on_ended, &ended)) {
            for (unsigned k = 0; k < 10000 && !atomic_load(&ended); k++) {
                usleep(1000);
            }
            assert_true(atomic_load(&ended));
        }
    }
    kv_log_stop();
    process_kit_expect_held(&before);
    free(errors);
}

/* ------------------------------------------------------------------ threads */

static void *crowd_main(void *arg)
{
    struct kv_rng rng = kv_rng_seed((uint64_t)(uintptr_t)arg);
    for (unsigned i = 0; i < TURNS; i++) {
        const bool second = kv_rng_next(&rng) % 2 == 0;
        kvr_client_t *client =
            must_open(second ? "b.conf" : "a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
        const uint64_t first = kv_rng_next(&rng) % 64;
        put(client, first, 4);
        (void)get(client, first, 4);
        usleep((unsigned)(kv_rng_next(&rng) % 3000));
        kvr_close(client);
    }
    return NULL;
}

static void threads__open_and_close_at_once(void **state)
{
    pthread_t threads[CROWD];
    (void)state;
    config_write("a.conf", 2, 1, "");
    config_write("b.conf", 2, 2, "");
    const struct process_kit_held before = traces_settled("a.conf");
    for (uintptr_t i = 0; i < CROWD; i++) {
        assert_int_equal(
            pthread_create(&threads[i], NULL, crowd_main, (void *)(i + 1)), 0);
    }
    for (unsigned i = 0; i < CROWD; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    process_kit_expect_held(&before);
}

/* ------------------------------------------------------------------ other processes */

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
    config_write("a.conf", 1, 1, "");
    config_write("b.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    kvr_client_t *client = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *engine = must_open("a.conf", FILLER, KVR_LEVEL_PAGER);
    const kvr_seq_t seq = ek_open(engine);
    struct kvr_buffer buffer;
    assert_int_equal(kvr_buffer_create(client, 8192, &buffer), KVR_OK);
    put(client, 1, 8);
    const pid_t pid = fork();
    if (pid == 0) {
        char error[700] = "";
        kvr_client_t *other;
        alarm(20);
        kvr_close(client);
        kvr_close(engine);
        const kvr_status_t status = open_as(
            "b.conf", LK_TENANT, KVR_LEVEL_OBJECT, &other, error, sizeof(error));
        _exit(status == KVR_INVALID && strstr(error, "was forked") != NULL ? 7 : 8);
    }
    assert_true(pid > 0);
    assert_int_equal(wait_for(pid), 7);
    assert_int_equal(get(client, 1, 8), 8);
    ek_grow(engine, seq, 0, 500);
    put(client, 20, 8);

    /* A child that lives on has copies of the sockets: a close is one all the same. Of
     * limits.clients, 8, six would be taken in each round. */
    int hold[2];
    pid_t idle[4];
    assert_int_equal(pipe(hold), 0);
    for (unsigned i = 0; i < KV_COUNT_OF(idle); i++) {
        kvr_client_t *more[6];
        for (unsigned k = 0; k < KV_COUNT_OF(more); k++) {
            more[k] = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
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

/* A client of the process may be any tenant, by a socket that it was given: a child
 * that inherits that socket, or whoever gets it otherwise, may be none. */
static void fork__gives_the_child_no_tenant(void **state)
{
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    kvn_host_t *host = NULL;
    char line[KVN_HOST_LINE_BYTES];
    (void)state;
    assert_non_null(errors);
    config_write("a.conf", 1, 1, "");
    const struct process_kit_held before = traces_settled("a.conf");
    const struct kvn_config_source source = {.path = path_of("a.conf")};
    log_begin();
    assert_int_equal(kvn_config_load(&source, &config, errors), KV_OK);
    assert_int_equal(kvn_host_create(config, &host), KV_OK);
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
    free(errors);
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
    kvr_client_t *one = must_open("a.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    kvr_client_t *other = must_open("b.conf", LK_TENANT, KVR_LEVEL_OBJECT);
    put(one, 1, 8);
    KV_ASSERT(pthread_create(&thread, NULL, user_main, other) == 0);
    KV_ASSERT(pthread_detach(thread) == 0);
    usleep(20 * 1000);
    if (strcmp(how, "fork") == 0) {
        const pid_t pid = fork();
        if (pid == 0) {
            exit(7); /* a child that was not told of _exit() */
        }
        const int code = wait_for(pid);
        KV_ASSERT(code == 7 && get(one, 1, 8) == 8);
    }
    exit(7);
}

static void exit__ends_nodes_first(void **state)
{
    extern char **environ;
    static const char *const hows[] = {"plain", "fork"};
    char text[4096];
    (void)state;
    config_write("a.conf", 2, 1, "[listen]\nhttp = 127.0.0.1:0\n");
    config_write("b.conf", 2, 2, "");
    for (unsigned i = 0; i < 10; i++) {
        pid_t pid;
        (void)unlink(path_of("node.log"));
        char *words[] = {
            (char *)(uintptr_t)self, (char *)(uintptr_t) "--exit", folder,
            (char *)(uintptr_t)hows[i % 2], NULL};
        /* Of a child's threads, which are the parent's, LeakSanitizer knows nothing. */
        char *childs[] = {(char *)(uintptr_t) "ASAN_OPTIONS=detect_leaks=0", NULL};
        assert_int_equal(
            posix_spawn(&pid, self, NULL, NULL, words, i % 2 == 1 ? childs : environ),
            0);
        assert_int_equal(wait_for(pid), 7);
        FILE *file = fopen(path_of("node.log"), "r");
        assert_non_null(file);
        text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
        fclose(file);
        assert_non_null(strstr(text, "node 1 stops"));
        assert_non_null(strstr(text, "node 2 stops"));
    }
}

/* ------------------------------------------------------------------ */

static int set_up(void **state)
{
    (void)state;
    take_ports();
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    (void)unlink(path_of("a.conf"));
    (void)unlink(path_of("b.conf"));
    (void)unlink(path_of("node.log"));
    return rmdir(folder);
}

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
        cmocka_unit_test(life__survives_every_fault),
        cmocka_unit_test(life__a_hundred_leave_nothing),
        cmocka_unit_test(stop__that_takes_long_ends_by_itself),
        cmocka_unit_test(start__that_is_not_waited_for_ends_by_itself),
        cmocka_unit_test(threads__open_and_close_at_once),
        cmocka_unit_test(fork__leaves_the_node_to_the_parent),
        cmocka_unit_test(fork__gives_the_child_no_tenant),
        cmocka_unit_test(exit__ends_nodes_first),
    };
    self = argv[0];
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    if (argc == 4 && strcmp(argv[1], "--exit") == 0) {
        snprintf(folder, sizeof(folder), "%s", argv[2]);
        return leaver(argv[3]);
    }
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
