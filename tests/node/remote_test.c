/* Goal: a client on another host gets what one on the node's machine gets, by its own
 * credential and by nothing else, and leaves nothing behind. Method: a real node on a
 * loop of this process, libkvrail at both doors. */
#define _GNU_SOURCE
#include "base/fault.h"
#include "base/mem.h"
#include "node/remote_wire.h"
#include "tests/base/process_kit.h"
#include "tests/node/remote_kit.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 300 };

/* Stands before the system's: a name server that says nothing, or everything. */
static sem_t name_server;
static atomic_bool name_server_is_silent;

int getaddrinfo(
    const char *host, const char *service, const struct addrinfo *hints,
    struct addrinfo **list)
{
    int (*ask)(
        const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&ask = dlsym(RTLD_NEXT, "getaddrinfo");
    if (name_server_is_silent) {
        while (sem_wait(&name_server) != 0) {}
    }
    host = strcmp(host, "node.test") == 0 ? "127.0.0.1" : host;
    return ask(host, service, hints, list);
}

/* ---- what must hold -------------------------------------------------------------- */

/* What one door took, the other gives, to the byte, with the same statuses; every
 * operation; by each kind of credential. */
static void doors__are_the_same(void **state)
{
    static const char *const hows[] = {"seven.psk", "tenant-7"};
    static uint8_t page[RK_PAGE];
    static int32_t far[KEYS], near[KEYS];
    (void)state;
    for (unsigned h = 0; h < 2; h++) {
        const unsigned fds = process_kit_fds();
        const int64_t live = kv_mem_live();
        rk_node_start(true, true);
        kvr_client_t *a = rk_client_of(RK_SEVEN, hows[h]),
                     *b = rk_client_of(RK_SEVEN, NULL);
        struct kvr_buffer from, to;
        assert_int_equal(kvr_buffer_create(a, KEYS * RK_PAGE, &from), KVR_OK);
        assert_int_equal(kvr_buffer_create(b, KEYS * RK_PAGE, &to), KVR_OK);
        for (uint32_t i = 0; i < KEYS; i++) {
            rk_page_fill((uint8_t *)from.base + i * RK_PAGE, i);
        }
        rk_batch(a, KVR_OP_EXISTS, 0, KEYS, 0, far);
        rk_expect_all(far, KEYS, KVR_MISS);
        rk_batch(a, KVR_OP_PUT, 0, KEYS, from.id, far);
        rk_expect_all(far, KEYS, KVR_OK);
        rk_batch(a, KVR_OP_PUT, 0, KEYS, from.id, far);
        rk_expect_all(far, KEYS, KVR_EXISTS);
        rk_batch(b, KVR_OP_GET, 0, KEYS, to.id, near);
        rk_expect_all(near, KEYS, KVR_OK);
        assert_memory_equal(from.base, to.base, KEYS * RK_PAGE);
        memset(from.base, 0xa5, KEYS * RK_PAGE);
        rk_batch(
            a, KVR_OP_GET, 0, KEYS, from.id, far); /* of what is here, and is not */
        rk_expect_all(far, KEYS, KVR_OK);
        assert_memory_equal(from.base, to.base, KEYS * RK_PAGE);
        memset(from.base, 0xa5, KEYS * RK_PAGE);
        rk_batch(a, KVR_OP_GET, KEYS / 2, KEYS, from.id, far);
        rk_batch(b, KVR_OP_GET, KEYS / 2, KEYS, to.id, near);
        assert_memory_equal(far, near, sizeof(far));
        for (uint32_t i = 0; i < KEYS; i++) {
            const uint8_t *got = (uint8_t *)from.base + i * RK_PAGE;
            rk_page_fill(page, KEYS / 2 + i);
            assert_int_equal(far[i], i < KEYS / 2 ? KVR_OK : KVR_MISS);
            if (far[i] == KVR_OK) {
                assert_memory_equal(got, page, RK_PAGE);
            } else {
                assert_true(got[0] == 0xa5 && memcmp(got, got + 1, RK_PAGE - 1) == 0);
            }
        }
        rk_batch(a, KVR_OP_PIN, 0, 10, 0, far);
        rk_expect_all(far, 10, KVR_OK);
        rk_batch(b, KVR_OP_UNPIN, 0, 10, 0, near); /* another's pins */
        rk_expect_all(near, 10, KVR_MISS);
        rk_batch(a, KVR_OP_UNPIN, 0, 10, 0, far);
        rk_expect_all(far, 10, KVR_OK);
        rk_batch(a, KVR_OP_DROP, 0, KEYS, 0, far);
        rk_expect_all(far, KEYS, KVR_OK);
        rk_batch(b, KVR_OP_EXISTS, 0, KEYS, 0, near);
        rk_expect_all(near, KEYS, KVR_MISS);
        kvr_close(a);
        kvr_close(b);
        rk_node_stop();
        assert_int_equal(process_kit_fds(), fds);
        assert_int_equal(kv_mem_live(), live);
    }
}

/* Both ends of a session notice that the other host is gone without a word; data
 * connections have a fate with it and need not (transport/README.md). */
static void session__notices_a_silent_host(void **state)
{
    static const struct {
        int level, name, value;
    } wanted[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KVN_REMOTE_SILENCE_S / 2},
        {IPPROTO_TCP, TCP_KEEPINTVL, 1},
        {IPPROTO_TCP, TCP_KEEPCNT, KVN_REMOTE_SILENCE_S / 2},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, KVN_REMOTE_SILENCE_S * 1000},
    };
    unsigned nr[sizeof(wanted) / sizeof(wanted[0])] = {0};
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    for (int fd = 0; fd < 1024; fd++) {
        for (unsigned i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
            int value = 0;
            socklen_t len = sizeof(value);
            nr[i] += getsockopt(fd, wanted[i].level, wanted[i].name, &value, &len) == 0
                     && value == wanted[i].value;
        }
    }
    for (unsigned i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        assert_int_equal(nr[i], 2);
    }
    kvr_close(client);
    rk_node_stop();
}

/* Every wrong credential is DENIED, and nothing of another tenant is to be had. */
static void credentials__say_the_tenant(void **state)
{
    static const struct {
        bool certs, clients;
        uint32_t tenant;
        const char *how;
        kvr_status_t status;
    } rows[] = {
        {true, true, RK_SEVEN, "psk", KVR_DENIED},      /* the cluster's */
        {true, true, RK_NINE, "seven.psk", KVR_DENIED}, /* another tenant's */
        {true, true, RK_NINE, "tenant-7", KVR_CONFIG},  /* is said before it is asked */
        {true, true, 1, "node-1", KVR_CONFIG},          /* a node's */
        {true, false, RK_SEVEN, "tenant-7", KVR_DENIED}, /* not switched on */
        {false, true, RK_SEVEN, "psk", KVR_DENIED},
        {false, true, RK_SEVEN, "tenant-7", KVR_DENIED},
        {false, true, RK_SEVEN, "seven.psk", KVR_OK},
        {true, true, RK_NINE, "tenant-9", KVR_OK},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char error[320] = "";
        kvr_client_t *client = NULL;
        rk_node_start(rows[i].certs, rows[i].clients);
        const kvr_status_t status =
            rk_open_as(rows[i].tenant, rows[i].how, &client, error);
        if (status != rows[i].status) {
            fail_msg("row %u: %d, %s", i, status, error);
        }
        assert_true((status == KVR_OK) == (client != NULL));
        kvr_close(client);
        rk_node_stop();
    }
}

/* A node that does not verify what it reads keeps the digest that came with a page: it
 * is right for everybody who looks later. */
static void put__unverified_has_its_digest(void **state)
{
    int32_t statuses[8];
    (void)state;
    rk_extra = "[data]\nverify = no\n";
    rk_node_start(true, true);
    rk_extra = "";
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    struct kvr_buffer buffer;
    assert_int_equal(kvr_buffer_create(client, 8 * RK_PAGE, &buffer), KVR_OK);
    for (uint32_t i = 0; i < 8; i++) {
        rk_page_fill((uint8_t *)buffer.base + i * RK_PAGE, i);
    }
    rk_batch(client, KVR_OP_PUT, 0, 8, buffer.id, statuses);
    rk_expect_all(statuses, 8, KVR_OK);
    rk_batch(client, KVR_OP_GET, 0, 8, buffer.id, statuses); /* the client verifies */
    rk_expect_all(statuses, 8, KVR_OK);
    kvr_close(client);
    rk_node_stop();
}

/* One tenant's pages and pins are not another's, whatever key it names. */
static void tenants__see_nothing_of_each_other(void **state)
{
    int32_t statuses[8];
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *a = rk_client_of(RK_SEVEN, "seven.psk"),
                 *b = rk_client_of(RK_NINE, "tenant-9");
    struct kvr_buffer from, to;
    struct kvr_space one, other;
    assert_int_equal(kvr_buffer_create(a, 8 * RK_PAGE, &from), KVR_OK);
    assert_int_equal(kvr_buffer_create(b, 8 * RK_PAGE, &to), KVR_OK);
    assert_int_equal(kvr_space_find(a, "chat", &one), KVR_OK);
    assert_int_equal(kvr_space_find(b, "chat", &other), KVR_OK);
    assert_memory_not_equal(one.salt, other.salt, sizeof(one.salt));
    rk_batch(a, KVR_OP_PUT, 0, 8, from.id, statuses);
    rk_expect_all(statuses, 8, KVR_OK);
    for (int op = KVR_OP_EXISTS; op <= KVR_OP_DROP; op++) {
        if (op != KVR_OP_PUT) {
            rk_batch(b, (enum kvr_op)op, 0, 8, to.id, statuses);
            rk_expect_all(statuses, 8, KVR_MISS);
        }
    }
    rk_batch(a, KVR_OP_EXISTS, 0, 8, 0, statuses);
    rk_expect_all(statuses, 8, KVR_OK);
    kvr_close(a);
    kvr_close(b);
    rk_node_stop();
}

/* Closed with everything in flight: pins, references and frames are given back, and
 * the next client finds its place. */
static void close__in_the_middle_gives_back(void **state)
{
    static struct kvr_key keys[64];
    static struct kvr_at at[64];
    int32_t statuses[64];
    (void)state;
    rk_node_start(true, true);
    for (unsigned round = 0; round < 40; round++) {
        kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
        struct kvr_buffer buffer;
        struct kvr_space space;
        assert_int_equal(kvr_buffer_create(client, 16 * 64 * RK_PAGE, &buffer), KVR_OK);
        assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
        rk_batch(client, KVR_OP_PUT, 0, 64, buffer.id, statuses);
        rk_batch(client, KVR_OP_PIN, 0, 64, 0, statuses);
        for (uint32_t b = 0; b < 16; b++) {
            for (uint32_t i = 0; i < 64; i++) {
                keys[i] = rk_key_of(b % 2 == 0 ? i : 1000 + round * 64 + i);
                at[i] = (struct kvr_at){buffer.id, (uint64_t)(b * 64 + i) * RK_PAGE};
            }
            const struct kvr_batch ask = {
                .struct_size = sizeof(ask),
                .op = b % 2 == 0 ? KVR_OP_GET : KVR_OP_PUT,
                .variant = space.variant,
                .timeout_us = 5000000,
                .keys = keys,
                .nr_keys = 64,
                .at = at,
                .loose = 1,
            };
            assert_int_equal(kvr_submit(client, &ask), KVR_OK);
        }
        usleep(round * 97);
        kvr_close(client);
    }
    rk_await_rest(0);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    rk_batch(client, KVR_OP_DROP, 0, 64, 0, statuses); /* nobody pins them any more */
    for (unsigned i = 0; i < 64; i++) {
        assert_true(statuses[i] == KVR_OK || statuses[i] == KVR_MISS);
    }
    kvr_close(client);
    rk_node_stop();
}

/* The node goes: what is in flight is CANCELLED, once each, and then LINK_LOST. */
static void node__gone_is_cancelled(void **state)
{
    static struct kvr_key keys[8];
    struct kvr_space space;
    struct kvr_result result;
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    rk_node_stop();
    for (unsigned i = 0; i < 8; i++) {
        keys[i] = rk_key_of(i);
    }
    const struct kvr_batch ask = {
        .struct_size = sizeof(ask),
        .op = KVR_OP_EXISTS,
        .variant = space.variant,
        .timeout_us = 1000000,
        .keys = keys,
        .nr_keys = 8,
        .loose = 1,
    };
    while (kvr_submit(client, &ask) == KVR_OK) {
        kvr_status_t status = kvr_next(client, RK_PATIENCE_US, &result);
        assert_int_equal(status, KVR_OK);
        assert_int_equal(result.status, KVR_CANCELLED);
    }
    assert_int_equal(kvr_next(client, 0, &result), KVR_LINK_LOST);
    kvr_close(client);
}

/* The n-th fallible call of opening fails, here or in the node: a status and a line or
 * a client, and nothing is left of either. */
static void open__survives_every_fault(void **state)
{
    (void)state;
    const unsigned fds = process_kit_fds();
    const int64_t live = kv_mem_live();
    rk_node_start(true, true);
    unsigned nr_opened = 0;
    for (unsigned n = 1; n < 120; n++) {
        char error[320] = "";
        kvr_client_t *client = NULL;
        kv_fault_after(n);
        const kvr_status_t status =
            rk_open_as(RK_SEVEN, n % 2 ? "seven.psk" : "tenant-7", &client, error);
        kv_fault_after(0);
        assert_true((status == KVR_OK) == (client != NULL));
        assert_true((status == KVR_OK) == (error[0] == '\0'));
        nr_opened += status == KVR_OK;
        kvr_close(client);
    }
    assert_in_range(nr_opened, 1, 118);
    rk_node_stop();
    assert_int_equal(process_kit_fds(), fds);
    assert_int_equal(kv_mem_live(), live);
}

/* A name is asked for in time: while its server keeps silent opening ends at its
 * deadline, and what asks ends by itself later. A name that there is leads to the node,
 * one that there is not is a line. */
static void open__waits_not_for_names(void **state)
{
    char target[512], error[320];
    kvr_client_t *client = NULL;
    struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = RK_SEVEN};
    (void)state;
    rk_node_start(true, true);
    snprintf(
        target, sizeof(target), "tls://node.test:%u?cluster=c1&psk=%s/seven.psk",
        rk_port(), rk_certs.folder);
    assert_int_equal(sem_init(&name_server, 0, 0), 0);
    const int64_t live = kv_mem_live();
    name_server_is_silent = true;
    config.timeout_us = 50000;
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_DEADLINE);
    assert_non_null(strstr(error, "node.test"));
    name_server_is_silent = false;
    assert_int_equal(sem_post(&name_server), 0); /* it was still being asked */
    for (unsigned i = 0; kv_mem_live() != live; i++) {
        assert_true(i < RK_PATIENCE_US / 1000);
        usleep(1000);
    }
    config.timeout_us = RK_PATIENCE_US;
    if (kvr_open(&config, &client, error, sizeof(error)) != KVR_OK) {
        fail_msg("%s", error);
    }
    kvr_close(client);
    (void)snprintf(
        target, sizeof(target), "tls://nobody.invalid:7?cluster=c1&psk=%s/seven.psk",
        rk_certs.folder);
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_LINK_LOST);
    rk_node_stop();
}

/* What is wrong with a target is one line that names it, before anybody is called. */
static void open__bad_targets_are_named(void **state)
{
    static const struct {
        const char *target, *word;
        kvr_status_t status;
    } rows[] = {
        {"", "not \"unix:PATH\"", KVR_CONFIG},
        {"tls://", "\"tls://host:port", KVR_CONFIG},
        {"tcp://127.0.0.1:1", "\"tls://host:port", KVR_CONFIG},
        {"tls://here?cluster=c1&psk=/dev/null", "\"here\"", KVR_CONFIG},
        {"tls://here:0?cluster=c1&psk=/dev/null", "\"here:0\"", KVR_CONFIG},
        {"tls://::1:7?cluster=c1&psk=/dev/null", "\"::1:7\"", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1", "credential", KVR_CONFIG},
        {"tls://127.0.0.1:1", "cluster's name", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&pks=x", "\"pks=x\"", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster", "\"cluster\"", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&node=0", "\"0\"", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&node=x", "\"x\"", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&node=4294967296", "4294967296", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&verify=no", "verify=no", KVR_CONFIG},
        {"tls://127.0.0.1:1?cluster=c1&psk=/nowhere", "is missing", KVR_CONFIG},
    };
    char target[2048], error[320];
    kvr_client_t *client = NULL;
    struct kvr_config config = {.struct_size = sizeof(config), .tenant = RK_SEVEN};
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        config.target = rows[i].target;
        const kvr_status_t status = kvr_open(&config, &client, error, sizeof(error));
        if (status != rows[i].status || strstr(error, rows[i].word) == NULL) {
            fail_msg("row %u: %d, %s", i, status, error);
        }
    }
    memset(target, 'x', sizeof(target));
    memcpy(target, "tls://h:1?cluster=", 18);
    target[sizeof(target) - 1] = '\0';
    config.target = target;
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_CONFIG);
    /* Nobody listens; and the pager level is not for those who are far. */
    snprintf(
        target, sizeof(target), "tls://127.0.0.1:1?cluster=c1&psk=%s/seven.psk",
        rk_certs.folder);
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_LINK_LOST);
    config.level = KVR_LEVEL_PAGER;
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_INVALID);
    assert_non_null(strstr(error, "node's host"));
}

/* Memory of the caller's own: the same rules as of a node on this machine. What could
 * be cut off is refused; nobody maps what is not there. */
static void buffer__of_the_callers_own(void **state)
{
    int32_t statuses[4];
    struct kvr_buffer buffer, none;
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    const int fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4 * RK_PAGE), 0);
    assert_int_equal(kvr_buffer_add(client, -1, RK_PAGE, &buffer), KVR_INVALID);
    assert_int_equal(kvr_buffer_add(client, fd, RK_PAGE, &buffer), KVR_INVALID);
    assert_non_null(strstr(kvr_error(client), "buffer.seals"));
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    assert_int_equal(kvr_buffer_add(client, fd, 5 * RK_PAGE, &buffer), KVR_INVALID);
    assert_int_equal(kvr_buffer_add(client, fd, 0, &buffer), KVR_INVALID);
    assert_int_equal(kvr_buffer_add(client, fd, 4 * RK_PAGE, &buffer), KVR_OK);
    const int huge = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
    if (huge >= 0) { /* a kernel without them refuses already here */
        assert_int_equal(ftruncate(huge, 2 << 20), 0);
        assert_int_equal(fcntl(huge, F_ADD_SEALS, F_SEAL_SHRINK), 0);
        assert_int_equal(kvr_buffer_add(client, huge, RK_PAGE, &none), KVR_INVALID);
        assert_non_null(strstr(kvr_error(client), "buffer.memfd"));
        close(huge);
    }
    const int sealed = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(sealed, RK_PAGE), 0);
    assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
    assert_int_equal(kvr_buffer_add(client, sealed, RK_PAGE, &none), KVR_INVALID);
    assert_non_null(strstr(kvr_error(client), "buffer.seals"));
    close(sealed);
    uint8_t *mine =
        mmap(NULL, 4 * RK_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(mine, MAP_FAILED);
    close(fd);
    rk_page_fill(mine, 0);
    rk_batch(client, KVR_OP_PUT, 0, 4, buffer.id, statuses);
    rk_expect_all(statuses, 4, KVR_OK);
    memset(mine, 0, RK_PAGE);
    rk_batch(client, KVR_OP_GET, 0, 4, buffer.id, statuses);
    rk_expect_all(statuses, 4, KVR_OK);
    uint8_t page[RK_PAGE];
    rk_page_fill(page, 0);
    assert_memory_equal(mine, page, RK_PAGE);
    munmap(mine, 4 * RK_PAGE);
    const uint32_t old = buffer.id;
    kvr_buffer_destroy(client, &buffer);
    kvr_buffer_destroy(client, &buffer);
    const struct kvr_key key = rk_key_of(0);
    const struct kvr_at at = {.buffer = old};
    const struct kvr_batch ask = {
        .struct_size = sizeof(ask),
        .op = KVR_OP_GET,
        .timeout_us = 1000000,
        .keys = &key,
        .nr_keys = 1,
        .at = &at,
    };
    assert_int_equal(kvr_submit(client, &ask), KVR_STALE);
    kvr_close(client);
    rk_node_stop();
}

/* Of a child of fork() the session is not: it may close its copy, and the parent goes
 * on; and while one lives that has closed nothing, what the parent closes is closed. */
static void fork__leaves_the_session_to_the_parent(void **state)
{
    enum { IDLE = 4 };
    int32_t statuses[8];
    int hold[2], how;
    pid_t idle[IDLE];
    struct kvr_buffer buffer;
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    assert_int_equal(kvr_buffer_create(client, 8 * RK_PAGE, &buffer), KVR_OK);
    for (uint32_t i = 0; i < 8; i++) {
        rk_page_fill((uint8_t *)buffer.base + i * RK_PAGE, i);
    }
    rk_batch(client, KVR_OP_PUT, 0, 8, buffer.id, statuses);
    rk_expect_all(statuses, 8, KVR_OK);
    const pid_t pid = fork();
    if (pid == 0) {
        alarm(RK_PATIENCE_US / 1000000);
        kvr_close(client);
        _exit(7);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 7);
    rk_batch(client, KVR_OP_GET, 0, 8, buffer.id, statuses);
    rk_expect_all(statuses, 8, KVR_OK);
    kvr_close(client);
    rk_await_rest(0);

    assert_int_equal(pipe(hold), 0);
    for (unsigned i = 0; i < IDLE; i++) {
        client = rk_client_of(RK_SEVEN, "seven.psk");
        idle[i] = fork();
        if (idle[i] == 0) {
            char byte;
            close(hold[1]);
            _exit(read(hold[0], &byte, 1) == 0 ? 7 : 8);
        }
        assert_true(idle[i] > 0);
        kvr_close(client);
    }
    rk_await_rest(0);
    close(hold[0]);
    close(hold[1]);
    for (unsigned i = 0; i < IDLE; i++) {
        assert_int_equal(waitpid(idle[i], &how, 0), idle[i]);
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 7);
    }
    rk_node_stop();
}

/* ---- pools ----------------------------------------------------------------------- */

enum { LAYERS = 4, RUN = RK_PAGE / LAYERS, BLOCKS = 12, UNTOUCHED = 0xa5 };

static kvr_status_t pool_submit(
    kvr_client_t *client, enum kvr_op op, const struct kvr_pool *pool, uint64_t first,
    uint32_t n)
{
    struct kvr_key keys[BLOCKS];
    struct kvr_at at[BLOCKS];
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = rk_key_of(first + i);
        at[i] = (struct kvr_at){.buffer = pool->id, .offset = i};
    }
    const struct kvr_batch ask = {
        .struct_size = sizeof(ask),
        .op = op,
        .timeout_us = RK_PATIENCE_US / 2,
        .keys = keys,
        .nr_keys = n,
        .at = at,
        .loose = 1,
    };
    return kvr_submit(client, &ask);
}

static void pool_batch(
    kvr_client_t *client, enum kvr_op op, const struct kvr_pool *pool, uint64_t first,
    uint32_t n, int32_t *statuses)
{
    struct kvr_result result;
    assert_int_equal(pool_submit(client, op, pool, first, n), KVR_OK);
    assert_int_equal(kvr_next(client, RK_PATIENCE_US, &result), KVR_OK);
    assert_int_equal(result.nr_keys, n);
    memcpy(statuses, result.statuses, n * sizeof(*statuses));
}

/* Blocks of a caller's tensors go and come, through a window that is no node's; what is
 * no hit leaves its block alone; a pool in flight stays, and its slots come back. */
static void pool__goes_and_comes(void **state)
{
    static uint8_t layers[LAYERS][BLOCKS][RUN + 8];
    uint8_t page[RK_PAGE], untouched[RUN + 8];
    struct kvr_run runs[LAYERS];
    int32_t statuses[BLOCKS];
    struct kvr_space space;
    struct kvr_pool pool;
    struct kvr_result result;
    (void)state;
    memset(untouched, UNTOUCHED, sizeof(untouched));
    memset(layers, UNTOUCHED, sizeof(layers));
    for (unsigned l = 0; l < LAYERS; l++) {
        runs[l] = (struct kvr_run){layers[l], RUN + 8, RUN};
    }
    const struct kvr_pool_config config = {
        .struct_size = sizeof(config),
        .runs = runs,
        .nr_runs = LAYERS,
        .nr_blocks = BLOCKS,
        .nr_slots = BLOCKS,
    };
    const int64_t live = kv_mem_live();
    rk_node_start(true, true);
    kvr_client_t *client = rk_client_of(RK_SEVEN, "seven.psk");
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_OK);
    for (uint32_t b = 0; b < BLOCKS; b++) {
        rk_page_fill(page, b);
        for (unsigned l = 0; l < LAYERS; l++) {
            memcpy(layers[l][b], page + l * RUN, RUN);
        }
    }
    pool_batch(client, KVR_OP_PUT, &pool, 0, BLOCKS, statuses);
    rk_expect_all(statuses, BLOCKS, KVR_OK);
    memset(layers, UNTOUCHED, sizeof(layers));
    for (unsigned round = 0; round < 3; round++) { /* half of them there are not */
        const uint64_t first = round == 0 ? BLOCKS / 2 : 0;
        pool_batch(client, KVR_OP_GET, &pool, first, BLOCKS, statuses);
        for (uint32_t b = 0; b < BLOCKS; b++) {
            const bool hit = first + b < BLOCKS;
            rk_page_fill(page, first + b);
            assert_int_equal(statuses[b], hit ? KVR_OK : KVR_MISS);
            for (unsigned l = 0; l < LAYERS; l++) {
                assert_memory_equal(
                    layers[l][b], hit ? page + l * RUN : untouched, RUN);
                assert_memory_equal(layers[l][b] + RUN, untouched, 8);
            }
        }
    }
    assert_int_equal(pool_submit(client, KVR_OP_GET, &pool, 0, BLOCKS), KVR_OK);
    assert_int_equal(pool_submit(client, KVR_OP_GET, &pool, 0, 1), KVR_AGAIN);
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_AGAIN);
    assert_int_equal(kvr_next(client, RK_PATIENCE_US, &result), KVR_OK);
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_OK);

    /* The node goes before the pages are put: nobody knows, and nothing is held. */
    assert_int_equal(kvr_pool_add(client, &space, &config, &pool), KVR_OK);
    rk_node_stop();
    kvr_status_t status;
    while ((status = pool_submit(client, KVR_OP_PUT, &pool, 90, BLOCKS)) == KVR_OK) {
        assert_int_equal(kvr_next(client, RK_PATIENCE_US, &result), KVR_OK);
        assert_int_equal(result.status, KVR_CANCELLED);
    }
    assert_int_equal(status, KVR_LINK_LOST);
    assert_int_equal(kvr_pool_remove(client, &pool), KVR_OK);
    kvr_close(client);
    assert_int_equal(kv_mem_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doors__are_the_same),
        cmocka_unit_test(session__notices_a_silent_host),
        cmocka_unit_test(credentials__say_the_tenant),
        cmocka_unit_test(put__unverified_has_its_digest),
        cmocka_unit_test(tenants__see_nothing_of_each_other),
        cmocka_unit_test(close__in_the_middle_gives_back),
        cmocka_unit_test(node__gone_is_cancelled),
        cmocka_unit_test(open__survives_every_fault),
        cmocka_unit_test(open__waits_not_for_names),
        cmocka_unit_test(open__bad_targets_are_named),
        cmocka_unit_test(buffer__of_the_callers_own),
        cmocka_unit_test(fork__leaves_the_session_to_the_parent),
        cmocka_unit_test(pool__goes_and_comes),
    };
    return cmocka_run_group_tests(tests, rk_setup, rk_teardown);
}
