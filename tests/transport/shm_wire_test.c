/* The shm transport against readers that are not ours: every packet by hand. Whatever
 * they send costs them their connection, and nobody else anything. Owners that are not
 * ours: shm_owner_test.c. */
#define _GNU_SOURCE /* F_ADD_SEALS, struct ucred */

#include "base/assert.h"
#include "tests/base/process_kit.h"
#include "tests/transport/shm_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, WHILE_MS = 150 /* for what shall not happen */ };

static const struct tk_candidate shm = {.name = "shm", .ops = &kvt_shm};
static struct tk tk;
static const uint8_t hello_bytes[] = "it is me";

static uint64_t greeting_get(int fd)
{
    struct kvt_shm_packet packet;
    uint64_t nonce = 0;

    assert_true(sk_get(&tk, fd, &packet));
    assert_int_equal(kvt_shm_read_greeting(&packet, &nonce), KV_OK);
    return nonce;
}

static void hello_put(int fd, uint64_t nonce)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    assert_true(sk_put(
        fd, bytes,
        kvt_shm_write_hello(bytes, nonce, hello_bytes, sizeof(hello_bytes))));
}

static bool goodbye_put(int fd)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    return sk_put(fd, bytes, kvt_shm_write_goodbye(bytes));
}

static void owner_open(void)
{
    tk_init(&tk, &shm);
    tk_open(&tk, MIB);
}

/* Somebody well-behaved is still served. */
static void others_are_served(uint64_t id)
{
    const kvt_conn_t conn = tk_connect(&tk, NULL);

    assert_int_equal(tk_get_one(&tk, conn, id, 0, 5, tk.reader.memory, 8192), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[id]);
    assert_int_equal(tk.reader.done[id].status, KV_OK);
    assert_memory_equal(tk.reader.memory, tk.owner.memory + 5, 8192);
    const unsigned nr = tk.reader.nr_closed, nr_owner = tk.owner.nr_closed;
    kvt_close(tk.reader.port, conn);
    kvt_close(tk.owner.port, tk.owner.hellos[tk.owner.nr_hellos - 1]);
    TK_UNTIL(&tk, tk.reader.nr_closed > nr && tk.owner.nr_closed > nr_owner);
}

static void ends(int fd)
{
    struct pollfd end = {.fd = fd, .events = POLLIN | POLLRDHUP};
    struct kvt_shm_packet packet;

    for (unsigned i = 0; i < 600 && poll(&end, 1, 0) == 0; i++) {
        (void)tk_look(&tk, 100);
    }
    while (sk_get(&tk, fd, &packet)) {
        kvt_shm_drop_fds(&packet);
    }
    close(fd);
}

/* ---- a hostile reader ----------------------------------------------------------- */

static uint32_t bad_hello(unsigned i, uint64_t nonce, uint8_t *out)
{
    uint32_t len = kvt_shm_write_hello(out, nonce, hello_bytes, sizeof(hello_bytes));

    switch (i) {
    case 0: /* magic */
        out[0] ^= 1;
        return len;
    case 1: /* another packet's type */
        out[4] = KVT_SHM_ARENAS;
        return len;
    case 2: /* none of ours */
        out[7] = 0x80;
        return len;
    case 3: /* nonce */
        out[8] ^= 1;
        return len;
    case 4: /* nothing said */
        return KVT_SHM_HEAD_BYTES;
    case 5: /* half a head */
        return 7;
    case 6: /* one byte more than a hello may have */
        memset(out + len, 'x', KVT_HELLO_BYTES_MAX);
        return KVT_SHM_HEAD_BYTES + KVT_HELLO_BYTES_MAX + 1;
    case 7: /* far more than any packet has */
        memset(out + len, 'x', 60000 - len);
        return 60000;
    case 8:
        return kvt_shm_write_goodbye(out);
    default:
        return 0;
    }
}

static void reader__a_bad_hello_ends_it(void **state)
{
    static uint8_t bytes[65536];

    (void)state;
    owner_open();
    const unsigned nr_fds = process_kit_fds();
    for (unsigned i = 0;; i++) {
        const int fd = tk_dial_raw(tk.address);
        const uint32_t len = bad_hello(i, greeting_get(fd), bytes);
        if (len == 0) {
            close(fd);
            break;
        }
        assert_true(sk_put(fd, bytes, len));
        ends(fd);
    }
    assert_int_equal(tk.owner.nr_hellos, 0);
    others_are_served(1);
    while (process_kit_fds() > nr_fds) {
        sk_pump(&tk, 10);
    }
    tk_close(&tk);
}

/* Descriptors that nobody asked for are not kept, with any packet. */
static void reader__descriptors_are_not_taken(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    int fds[KVT_REGIONS_MAX];

    (void)state;
    owner_open();
    for (unsigned i = 0; i < KVT_REGIONS_MAX; i++) {
        fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_true(fds[i] >= 0);
    }
    const unsigned nr_fds = process_kit_fds();
    for (unsigned i = 0; i < 3; i++) {
        const int fd = tk_dial_raw(tk.address);
        const uint32_t len = kvt_shm_write_hello(
            bytes, greeting_get(fd), hello_bytes, sizeof(hello_bytes));
        const int error =
            kvt_shm_send(fd, bytes, len, fds, i == 0 ? 1 : KVT_REGIONS_MAX);
        /* Linux 6.16 and later: their sender is told. */
        assert_true(error == 0 || error == EPERM);
        if (error == 0) {
            ends(fd);
        } else {
            close(fd);
            sk_pump(&tk, 10);
        }
    }
    assert_int_equal(tk.owner.nr_hellos, 0);
    while (process_kit_fds() > nr_fds) {
        sk_pump(&tk, 10);
    }
    others_are_served(1);
    for (unsigned i = 0; i < KVT_REGIONS_MAX; i++) {
        close(fds[i]);
    }
    tk_close(&tk);
}

/* Who says nothing is gone after its time; until then it takes one of the places for
 * strangers, which are half. */
static void reader__silence_costs_half_the_places_for_a_time(void **state)
{
    enum { PLACES = 8, SILENT = 20 };
    int fds[SILENT];

    (void)state;
    tk_init(&tk, &shm);
    tk.config.nr_conns = PLACES;
    tk.config.hello_us = 300000;
    tk_open(&tk, MIB);
    const unsigned nr_fds = process_kit_fds();
    for (unsigned i = 0; i < SILENT; i++) {
        fds[i] = tk_dial_raw(tk.address);
    }
    kvt_conn_t conn = 0; /* the owner's own, with all places for strangers taken */
    sk_pump(&tk, 20);
    assert_int_equal(
        kvt_open(tk.owner.port, "/nowhere", hello_bytes, sizeof(hello_bytes), &conn),
        KV_OK);
    unsigned nr_ended = 0;
    for (unsigned i = 0; i < SILENT; i++) {
        struct pollfd end = {.fd = fds[i], .events = POLLRDHUP};
        nr_ended += poll(&end, 1, 0) == 1;
    }
    assert_true(nr_ended >= SILENT - PLACES / 2);
    for (unsigned i = 0; i < SILENT; i++) {
        ends(fds[i]);
    }
    kvt_close(tk.owner.port, conn);
    others_are_served(1);
    while (process_kit_fds() > nr_fds) {
        sk_pump(&tk, 10);
    }
    tk_close(&tk);
}

/* Through with hello and accept: the owner's name for it, and what it was given. */
static kvt_conn_t let_in(int fd, struct kvt_shm_packet *packet)
{
    const unsigned nr = tk.owner.nr_hellos;

    hello_put(fd, greeting_get(fd));
    TK_UNTIL(&tk, tk.owner.nr_hellos > nr);
    assert_int_equal(tk.owner.hello_len, sizeof(hello_bytes));
    assert_memory_equal(tk.owner.hello, hello_bytes, sizeof(hello_bytes));
    if (packet != NULL) {
        assert_true(sk_get(&tk, fd, packet));
    }
    return tk.owner.hellos[nr];
}

/* What is given out: as large as it is, and nobody can write it. */
static void reader__gets_what_it_can_not_write(void **state)
{
    struct kvt_shm_packet packet;
    struct kvt_shm_arena arenas[KVT_REGIONS_MAX];
    uint32_t nr;

    (void)state;
    owner_open();
    const int fd = tk_dial_raw(tk.address);
    (void)let_in(fd, &packet);
    assert_int_equal(kvt_shm_read_arenas(&packet, arenas, &nr), KV_OK);
    assert_int_equal(nr, 1);
    assert_int_equal(arenas[0].bytes, MIB);
    assert_int_equal(arenas[0].file_bytes, MIB);
    char path[64];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", packet.fds[0]);
    const int again = open(path, O_RDWR | O_CLOEXEC);
    const int writer = again >= 0 ? again : packet.fds[0];
    assert_true(
        mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0) == MAP_FAILED);
    assert_int_equal(pwrite(writer, "x", 1, 0), -1);
    assert_int_equal(ftruncate(writer, 0), -1);
    if (again >= 0) {
        close(again);
    }
    kvt_shm_drop_fds(&packet);
    close(fd);
    tk_close(&tk);
}

/* Goodbye, and the socket closed with the arenas unread: the kernel tells the owner of
 * that first, and the goodbye is heard all the same. */
static void reader__goodbye_is_heard_behind_a_reset(void **state)
{
    (void)state;
    owner_open();
    for (unsigned i = 0; i < 10; i++) {
        const int fd = tk_dial_raw(tk.address);
        const kvt_conn_t conn = let_in(fd, NULL);
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&ready, 1, TK_PATIENCE_MS), 1); /* and not taken */
        assert_true(goodbye_put(fd));
        close(fd);
        TK_UNTIL(&tk, tk.owner.nr_broken == i + 1);
        assert_int_equal(tk.owner.why, KV_ERR_LINK_LOST);
        kvt_close(tk.owner.port, conn);
        TK_UNTIL(&tk, tk.owner.nr_closed == i + 1);
    }
    tk_close(&tk);
}

/* A reader that is given nothing yet owes no proof. */
static void reader__gone_before_accept_is_closed_at_once(void **state)
{
    (void)state;
    tk_init(&tk, &shm);
    tk.accept_all = false;
    tk_open(&tk, MIB);
    int fd = tk_dial_raw(tk.address);
    kvt_conn_t conn = let_in(fd, NULL);
    close(fd);
    TK_UNTIL(&tk, tk.owner.nr_broken == 1);
    kvt_accept(tk.owner.port, conn); /* late */
    kvt_close(tk.owner.port, conn);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    fd = tk_dial_raw(tk.address);
    conn = let_in(fd, NULL);
    kvt_close(tk.owner.port, conn);
    TK_UNTIL(&tk, tk.owner.nr_closed == 2);
    ends(fd);
    tk_close(&tk);
}

/* ---- a reader that lives on: another process ------------------------------------ */

enum child_does { CLOSES, TALKS, FLOODS, HANDS_ON, IS_ANOTHER_USER };

struct child_plan {
    char address[KVT_ADDRESS_MAX];
    enum child_does does;
};

/* cmocka's assertions mean nothing in a child: it stops, and the test misses a word. */
static void child_comes_in(int fd)
{
    struct kvt_shm_packet packet;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    uint64_t nonce = 0;

    if (!sk_get(&tk, fd, &packet) || kvt_shm_read_greeting(&packet, &nonce) != KV_OK) {
        _exit(1);
    }
    const uint32_t len =
        kvt_shm_write_hello(bytes, nonce, hello_bytes, sizeof(hello_bytes));
    if (kvt_shm_send(fd, bytes, len, NULL, 0) != 0) {
        _exit(1);
    }
}

static void child_run(int from_test, int to_test, void *arg)
{
    const struct child_plan *plan = arg;
    struct kvt_shm_packet packet;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX] = {0};

    (void)tk_child_wait(from_test);
    if (plan->does == IS_ANOTHER_USER && setuid(65534) != 0) {
        _exit(1);
    }
    const int fd = tk_dial_raw(plan->address);
    if (plan->does == HANDS_ON) {
        if (fork() == 0) {
            child_comes_in(fd);
            _exit(0);
        }
        (void)wait(NULL);
    }
    if (plan->does == HANDS_ON || plan->does == IS_ANOTHER_USER) {
        (void)!write(to_test, sk_get(&tk, fd, &packet) ? "g" : "e", 1);
    } else {
        child_comes_in(fd);
        if (!sk_get(&tk, fd, &packet) || packet.nr_fds != 1) {
            _exit(1);
        }
    }
    (void)!write(to_test, "i", 1);
    (void)tk_child_wait(from_test);
    if (plan->does == CLOSES) {
        close(fd);
    } else if (plan->does == TALKS) {
        (void)kvt_shm_send(fd, bytes, 100, NULL, 0);
        (void)kvt_shm_send(fd, bytes, kvt_shm_write_goodbye(bytes), NULL, 0);
    }
    for (unsigned i = 0; plan->does == FLOODS && i < 100000; i++) {
        (void)kvt_shm_send(fd, bytes, sizeof(bytes), NULL, 0);
    }
    (void)!write(to_test, "d", 1);
    for (;;) {
        (void)tk_child_wait(from_test);
    }
}

static struct child_plan plan; /* what the child sees is a copy */

static kvt_conn_t child_let_in(struct tk_child *child, enum child_does does)
{
    tk_init(&tk, &shm);
    tk_place(&tk);
    plan.does = does;
    memcpy(plan.address, tk.address, sizeof(plan.address));
    tk_child_begin(child, child_run, &plan);
    tk_memory(&tk, &tk.owner, MIB);
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.owner, NULL), KV_OK);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    if (does == IS_ANOTHER_USER) {
        assert_int_equal(chmod(tk.address, 0777), 0);
    }
    tk_child_put(child, 'g');
    if (does == HANDS_ON || does == IS_ANOTHER_USER) {
        return 0; /* it never is */
    }
    TK_UNTIL(&tk, tk.owner.nr_hellos == 1);
    assert_int_equal(tk_child_get(child), 'i');
    return tk.owner.hellos[0];
}

/* The end of its stream proves nothing, nor does what comes behind a packet that is
 * none: it still has the arenas. CLOSED comes with its death. */
static void lives_on(enum child_does does, kv_status_t why)
{
    struct tk_child child;
    const kvt_conn_t conn = child_let_in(&child, does);

    tk_child_put(&child, 'g');
    TK_UNTIL(&tk, tk.owner.nr_broken == 1);
    assert_int_equal(tk.owner.why, why);
    assert_int_equal(tk_child_get(&child), 'd');
    kvt_close(tk.owner.port, conn);
    const unsigned cpu_ms = tk_cpu_ms();
    sk_pump(&tk, WHILE_MS);
    assert_int_equal(tk.owner.nr_closed, 0);
    assert_true(tk_cpu_ms() - cpu_ms < WHILE_MS / 2); /* and nobody spins over it */
    others_are_served(1);
    assert_int_equal(tk.owner.nr_closed, 1);
    assert_true(tk.owner.closed[0] != conn);
    tk_child_end(&child);
    TK_UNTIL(&tk, tk.owner.nr_closed == 2);
    assert_int_equal(tk.owner.closed[1], conn);
    tk_close(&tk);
}

static void reader__the_end_of_its_stream_proves_nothing(void **state)
{
    (void)state;
    lives_on(CLOSES, KV_ERR_LINK_LOST);
}

static void reader__who_has_sent_garbage_is_not_believed(void **state)
{
    (void)state;
    lives_on(TALKS, KV_ERR_PROTOCOL);
}

static void reader__a_flood_is_not_listened_to(void **state)
{
    (void)state;
    lives_on(FLOODS, KV_ERR_PROTOCOL);
}

/* It hears the end before it was given anything, and we have not heard of it. */
static void is_refused(struct tk_child *child)
{
    struct pollfd word = {.fd = child->from, .events = POLLIN};

    while (poll(&word, 1, 0) == 0) {
        (void)tk_look(&tk, 10);
    }
    assert_int_equal(tk_child_get(child), 'e');
    assert_int_equal(tk.owner.nr_hellos, 0);
    others_are_served(1);
    tk_child_end(child);
    tk_close(&tk);
}

/* A socket that was handed to another process: the hello's sender is not the peer. */
static void reader__a_handed_on_socket_is_refused(void **state)
{
    struct tk_child child;

    (void)state;
    (void)child_let_in(&child, HANDS_ON);
    is_refused(&child);
}

/* The mode of the path keeps others out; and if somebody has changed it, who they are
 * does. Needs root, to become somebody else. */
static void reader__another_user_is_refused(void **state)
{
    struct tk_child child;

    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    (void)child_let_in(&child, IS_ANOTHER_USER);
    is_refused(&child);
}

/* ---- without descriptors -------------------------------------------------------- */

/* Without a descriptor left the listener rests instead of spinning, and goes on when
 * there is one. */
static void listen__survives_without_descriptors(void **state)
{
    struct rlimit before, none;
    unsigned nr_wakes = 0;

    (void)state;
    owner_open();
    const int fd = tk_dial_raw(tk.address);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (unsigned i = 0; i < 300; i++) { /* 300 ms */
        struct pollfd ready = {.fd = kvt_fd(tk.owner.port), .events = POLLIN};
        if (poll(&ready, 1, 1) == 1) {
            nr_wakes++;
            tk_drain(&tk, &tk.owner);
        }
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(nr_wakes > 0 && nr_wakes < 20);
    (void)let_in(fd, NULL);
    close(fd);
    tk_close(&tk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader__a_bad_hello_ends_it),
        cmocka_unit_test(reader__descriptors_are_not_taken),
        cmocka_unit_test(reader__silence_costs_half_the_places_for_a_time),
        cmocka_unit_test(reader__gets_what_it_can_not_write),
        cmocka_unit_test(reader__goodbye_is_heard_behind_a_reset),
        cmocka_unit_test(reader__gone_before_accept_is_closed_at_once),
        cmocka_unit_test(reader__the_end_of_its_stream_proves_nothing),
        cmocka_unit_test(reader__who_has_sent_garbage_is_not_believed),
        cmocka_unit_test(reader__a_flood_is_not_listened_to),
        cmocka_unit_test(reader__a_handed_on_socket_is_refused),
        cmocka_unit_test(reader__another_user_is_refused),
        cmocka_unit_test(listen__survives_without_descriptors),
    };

    return cmocka_run_group_tests_name("shm wire", tests, NULL, NULL);
}
