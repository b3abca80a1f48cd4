/* The shm transport against peers that are not ours: every packet by hand. Whatever
 * they send costs them their connection, and nobody else anything. */
#define _GNU_SOURCE /* F_ADD_SEALS, struct ucred */

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "tests/transport/transport_kit.h"
#include "transport/shm/wire.h"

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

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
    MIB = 1 << 20,
    WHILE_MS = 150, /* for what shall not happen */
    SIZES = F_SEAL_SHRINK | F_SEAL_GROW,
};

static const struct tk_candidate shm = {.name = "shm", .ops = &kvt_shm};
static struct tk tk;
static const uint8_t hello_bytes[] = "it is me";

/* ---- by hand -------------------------------------------------------------------- */

/* The next packet; false: the stream has ended. */
static bool packet_get(int fd, struct kvt_shm_packet *packet)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    for (unsigned i = 0; poll(&ready, 1, 0) == 0; i++) {
        assert_true(i < TK_PATIENCE_MS / 10);
        (void)tk_look(&tk, 10); /* it may take the port's loop to send it */
    }
    return kvt_shm_receive(fd, KVT_REGIONS_MAX, packet) == KV_OK;
}

/* False: it was not taken; what it was sent to has ended already, or takes none. */
static bool packet_put(int fd, const uint8_t *bytes, uint32_t len)
{
    const int error = kvt_shm_send(fd, bytes, len, NULL, 0);

    assert_true(error == 0 || error == EPIPE || error == ECONNRESET);
    return error == 0;
}

static uint64_t greeting_get(int fd)
{
    struct kvt_shm_packet packet;
    uint64_t nonce = 0;

    assert_true(packet_get(fd, &packet));
    assert_int_equal(kvt_shm_read_greeting(&packet, &nonce), KV_OK);
    return nonce;
}

static void hello_put(int fd, uint64_t nonce)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    assert_true(packet_put(
        fd, bytes,
        kvt_shm_write_hello(bytes, nonce, hello_bytes, sizeof(hello_bytes))));
}

static bool goodbye_put(int fd)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    return packet_put(fd, bytes, kvt_shm_write_goodbye(bytes));
}

static void pump(unsigned ms)
{
    for (unsigned i = 0; i < 10; i++) {
        (void)tk_look(&tk, (int)ms / 10);
    }
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
    while (packet_get(fd, &packet)) {
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
    const unsigned nr_fds = tk_nr_fds();
    for (unsigned i = 0;; i++) {
        const int fd = tk_dial_raw(tk.address);
        const uint32_t len = bad_hello(i, greeting_get(fd), bytes);
        if (len == 0) {
            close(fd);
            break;
        }
        assert_true(packet_put(fd, bytes, len));
        ends(fd);
    }
    assert_int_equal(tk.owner.nr_hellos, 0);
    others_are_served(1);
    while (tk_nr_fds() > nr_fds) {
        pump(10);
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
    const unsigned nr_fds = tk_nr_fds();
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
            pump(10);
        }
    }
    assert_int_equal(tk.owner.nr_hellos, 0);
    while (tk_nr_fds() > nr_fds) {
        pump(10);
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
    const unsigned nr_fds = tk_nr_fds();
    for (unsigned i = 0; i < SILENT; i++) {
        fds[i] = tk_dial_raw(tk.address);
    }
    kvt_conn_t conn = 0; /* the owner's own, with all places for strangers taken */
    pump(20);
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
    while (tk_nr_fds() > nr_fds) {
        pump(10);
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
        assert_true(packet_get(fd, packet));
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

enum child_does { CLOSES, TALKS, FLOODS, HANDS_ON };

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

    if (!packet_get(fd, &packet) || kvt_shm_read_greeting(&packet, &nonce) != KV_OK) {
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
    const int fd = tk_dial_raw(plan->address);
    if (plan->does == HANDS_ON) {
        if (fork() == 0) {
            child_comes_in(fd);
            _exit(0);
        }
        (void)wait(NULL);
        (void)!write(to_test, packet_get(fd, &packet) ? "g" : "e", 1);
    } else {
        child_comes_in(fd);
        if (!packet_get(fd, &packet) || packet.nr_fds != 1) {
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
    tk_child_put(child, 'g');
    if (does == HANDS_ON) {
        return 0;
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
    pump(WHILE_MS);
    assert_int_equal(tk.owner.nr_closed, 0);
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

/* A socket that was handed to another process: the hello's sender is not the peer. */
static void reader__a_handed_on_socket_is_refused(void **state)
{
    struct tk_child child;

    (void)state;
    (void)child_let_in(&child, HANDS_ON);
    struct pollfd word = {.fd = child.from, .events = POLLIN};
    while (poll(&word, 1, 0) == 0) {
        (void)tk_look(&tk, 10);
    }
    assert_int_equal(tk_child_get(&child), 'e');
    assert_int_equal(tk.owner.nr_hellos, 0);
    others_are_served(1);
    tk_child_end(&child);
    tk_close(&tk);
}

/* ---- a hostile owner ------------------------------------------------------------ */

static int owner_socket; /* listens, by hand */

/* Our reader has come in and said hello, with a get posted; returns the owner's end. */
static int owner_by_hand(kvt_conn_t *conn_p)
{
    struct kvt_shm_packet packet;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    const uint8_t *hello;
    uint32_t len;

    tk_init(&tk, &shm);
    tk_path(tk.address);
    owner_socket = tk_listen_at(tk.address);
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    *conn_p = tk_dial(&tk);
    assert_int_equal(tk_get_one(&tk, *conn_p, 1, 0, 0, tk.reader.memory, 64), KV_OK);
    const int fd = tk_accept(owner_socket);
    assert_true(fd >= 0);
    assert_true(packet_put(fd, bytes, kvt_shm_write_greeting(bytes, 77)));
    assert_true(packet_get(fd, &packet));
    assert_int_equal(kvt_shm_read_hello(&packet, 77, &hello, &len), KV_OK);
    return fd;
}

static void owner_by_hand_end(int fd)
{
    close(fd);
    close(owner_socket);
    assert_int_equal(unlink(tk.address), 0);
    tk_close(&tk);
}

/* The reader has ended it: its get is lost, nothing is left open or mapped, and it has
 * said goodbye, since descriptors were on their way to it. */
static void expect_refused(int fd, kvt_conn_t conn, kv_status_t why, unsigned nr_fds)
{
    struct kvt_shm_packet packet;

    TK_UNTIL(&tk, tk.reader.nr_broken == 1 && tk.reader.was_done[1]);
    assert_int_equal(tk.reader.why, why);
    assert_int_equal(tk.reader.done[1].status, KV_ERR_LINK_LOST);
    assert_true(packet_get(fd, &packet));
    assert_int_equal(kvt_shm_read_goodbye(&packet), KV_OK);
    assert_false(packet_get(fd, &packet));
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk_nr_fds(), nr_fds - 1); /* but its socket's */
}

/* Descriptors that would kill the reader, or are something else. */
static int bad_file(unsigned i)
{
    int fds[2];

    switch (i) {
    case 0: /* it could be shrunk: SIGBUS */
        return tk_memfd(MIB, F_SEAL_GROW, NULL);
    case 1: /* smaller than said */
        return tk_memfd(MIB / 2, SIZES, NULL);
    case 2: /* larger */
        return tk_memfd(2 * MIB, SIZES, NULL);
    case 3:
        return open("/dev/zero", O_RDONLY | O_CLOEXEC);
    case 4:
        assert_int_equal(pipe(fds), 0);
        close(fds[1]);
        return fds[0];
    case 5: /* pages that cannot be had: SIGBUS, too; -1 where there are no such */
        fds[0] = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
        if (fds[0] >= 0) {
            assert_int_equal(ftruncate(fds[0], 2 * MIB), 0);
            assert_int_equal(fcntl(fds[0], F_ADD_SEALS, SIZES), 0);
        }
        return fds[0];
    default:
        return -2;
    }
}

static void owner__unsafe_files_are_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    (void)state;
    for (unsigned i = 0;; i++) {
        const int file = bad_file(i);
        if (file == -2) {
            break;
        }
        if (file == -1) {
            continue;
        }
        kvt_conn_t conn;
        const struct kvt_shm_arena arenas[2] = {
            {.bytes = 4096, .file_bytes = MIB},
            {.bytes = 4096, .file_bytes = i == 5 ? 2 * MIB : MIB}};
        const int fd = owner_by_hand(&conn);
        const int good = tk_memfd(MIB, SIZES, NULL);
        const int fds[] = {good, file};
        const unsigned nr_fds = tk_nr_fds();
        const uint32_t len = kvt_shm_write_arenas(bytes, arenas, 2);
        assert_int_equal(kvt_shm_send(fd, bytes, len, fds, 2), 0);
        expect_refused(fd, conn, KV_ERR_PROTOCOL, nr_fds);
        close(good);
        close(file);
        owner_by_hand_end(fd);
    }
}

/* What is wrong with the table itself. */
static uint32_t bad_table(unsigned i, uint8_t *out, uint32_t *nr_fds)
{
    struct kvt_shm_arena arenas[KVT_REGIONS_MAX] = {
        {.bytes = 4096, .file_bytes = MIB}, {.bytes = 0, .file_bytes = 0}};
    uint32_t len;

    *nr_fds = 1;
    switch (i) {
    case 0: /* more to be read than there is */
        arenas[0].bytes = MIB + 1;
        break;
    case 1: /* nothing to be read */
        arenas[0].bytes = 0;
        break;
    case 2: /* bytes of an arena that is not given out */
        arenas[1].bytes = 1;
        break;
    case 3: /* a descriptor too many */
        *nr_fds = 2;
        break;
    case 4: /* one too few */
        *nr_fds = 0;
        break;
    case 5: /* all the address space */
        arenas[0].file_bytes = UINT64_C(1) << 62;
        break;
    case 6: /* its sum */
        for (unsigned k = 0; k < KVT_REGIONS_MAX; k++) {
            arenas[k] =
                (struct kvt_shm_arena){.bytes = 1, .file_bytes = UINT64_C(1) << 37};
        }
        *nr_fds = KVT_REGIONS_MAX;
        return kvt_shm_write_arenas(out, arenas, KVT_REGIONS_MAX);
    case 7: /* a byte too few */
        return kvt_shm_write_arenas(out, arenas, 2) - 1;
    case 8: /* more arenas than said */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[8] = 1;
        return len;
    case 9: /* and than there may be */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[8] = KVT_REGIONS_MAX + 1;
        return len;
    case 10: /* what is zero is not */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[KVT_SHM_HEAD_BYTES + 16] = 1;
        return len;
    case 11: /* another packet */
        *nr_fds = 0;
        return kvt_shm_write_greeting(out, 5);
    default:
        return 0;
    }
    return kvt_shm_write_arenas(out, arenas, 2);
}

static void owner__a_bad_table_is_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    uint32_t nr;

    (void)state;
    for (unsigned i = 0; bad_table(i, bytes, &nr) > 0; i++) {
        kvt_conn_t conn;
        int fds[KVT_REGIONS_MAX];
        const int fd = owner_by_hand(&conn);
        fds[0] = tk_memfd(MIB, SIZES, NULL);
        for (unsigned k = 1; k < KVT_REGIONS_MAX; k++) {
            fds[k] = fds[0];
        }
        const unsigned nr_fds = tk_nr_fds();
        const uint32_t len = bad_table(i, bytes, &nr);
        assert_int_equal(kvt_shm_send(fd, bytes, len, fds, nr), 0);
        expect_refused(fd, conn, KV_ERR_PROTOCOL, nr_fds);
        close(fds[0]);
        owner_by_hand_end(fd);
    }
}

/* A greeting that is none: nothing was said, so there is no goodbye. */
static void owner__a_bad_greeting_is_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        tk_init(&tk, &shm);
        tk_path(tk.address);
        owner_socket = tk_listen_at(tk.address);
        tk_memory(&tk, &tk.reader, MIB);
        assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
        const kvt_conn_t conn = tk_dial(&tk);
        const int fd = tk_accept(owner_socket);
        const unsigned nr_fds = tk_nr_fds();
        uint32_t len = kvt_shm_write_greeting(bytes, 5);
        bytes[i % 2 == 0 ? 0 : 4] ^= 9;
        len -= i == 2;
        if (i == 3) {
            len = kvt_shm_write_greeting(bytes, 5);
            assert_int_equal(kvt_shm_send(fd, bytes, len, &(int){fd}, 1), 0);
        } else {
            assert_true(packet_put(fd, bytes, len));
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
        assert_true(tk_ended(fd));
        kvt_close(tk.reader.port, conn);
        TK_UNTIL(&tk, tk.reader.nr_closed == 1);
        assert_int_equal(tk_nr_fds(), nr_fds - 1);
        owner_by_hand_end(fd);
    }
}

/* After the arenas there is nothing to say but the end. A get that was posted before
 * is served in full. */
static void owner__more_after_the_arenas_ends_it(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    struct kvt_shm_packet packet;
    uint8_t *memory;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        kvt_conn_t conn;
        const int fd = owner_by_hand(&conn);
        const int file = tk_memfd(MIB, SIZES, &memory);
        const struct kvt_shm_arena arena = {.bytes = MIB, .file_bytes = MIB};
        memset(memory, 7, MIB);
        uint32_t len = kvt_shm_write_arenas(bytes, &arena, 1);
        assert_int_equal(kvt_shm_send(fd, bytes, len, &file, 1), 0);
        TK_UNTIL(&tk, tk.reader.was_done[1]);
        assert_int_equal(tk.reader.done[1].status, KV_OK);
        assert_true(tk_all(tk.reader.memory, 64, 7));
        if (i == 0) {
            assert_int_equal(kvt_shm_send(fd, bytes, len, &file, 1), 0);
        } else {
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, i == 0 ? KV_ERR_PROTOCOL : KV_ERR_LINK_LOST);
        assert_true(packet_get(fd, &packet)); /* by itself, before close() */
        assert_int_equal(kvt_shm_read_goodbye(&packet), KV_OK);
        assert_int_equal(tk_get_one(&tk, conn, 2, 0, 0, tk.reader.memory, 64), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[2]);
        assert_int_equal(tk.reader.done[2].status, KV_ERR_LINK_LOST);
        close(file);
        munmap(memory, MIB);
        owner_by_hand_end(fd);
    }
}

/* ---- the path, the regions ------------------------------------------------------ */

static kv_status_t owner_at(const char *path, struct kv_detail *detail)
{
    tk.owner.listen = path;
    *detail = (struct kv_detail){0};
    return tk_port(&shm, &tk.config, &tk.owner, detail);
}

static bool says(const struct kv_detail *detail, const char *what)
{
    return detail->field != NULL && strstr(detail->field, what) != NULL;
}

static void listen__what_stands_in_the_way_is_named(void **state)
{
    struct kv_detail detail;
    struct kvt_event event;
    struct stat st;
    char path[KVT_ADDRESS_MAX], longest[KVT_ADDRESS_MAX];

    (void)state;
    tk_init(&tk, &shm);
    tk_memory(&tk, &tk.owner, MIB);
    tk_path(path);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[0] = '/';
    longest[108] = '\0';
    assert_int_equal(owner_at(longest, &detail), KV_ERR_CONFIG);
    assert_true(says(&detail, "bytes of its path"));
    assert_int_equal(detail.limit, 107);
    assert_int_equal(detail.value, 108);
    assert_int_equal(owner_at("", &detail), KV_ERR_CONFIG);
    assert_int_equal(owner_at("/nowhere/at/all", &detail), KV_ERR_IO);
    assert_true(says(&detail, "is the folder there"));
    assert_int_equal(detail.value, ENOENT);
    /* a file that is no socket stays */
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(owner_at(path, &detail), KV_ERR_CONFIG);
    assert_true(says(&detail, "no socket"));
    assert_int_equal(unlink(path), 0);
    /* another listens */
    int other = tk_listen_at(path);
    assert_int_equal(owner_at(path, &detail), KV_ERR_CONFIG);
    assert_true(says(&detail, "others that listen there"));
    /* it is gone, and has left its socket there */
    close(other);
    assert_int_equal(owner_at(path, &detail), KV_OK);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    kvt_destroy(tk.owner.port);
    assert_int_equal(lstat(path, &st), -1);
    /* somebody else's that has taken the place stays */
    assert_int_equal(owner_at(path, &detail), KV_OK);
    assert_int_equal(unlink(path), 0);
    other = tk_listen_at(path);
    kvt_destroy(tk.owner.port);
    tk.owner.port = NULL;
    assert_int_equal(lstat(path, &st), 0);
    close(other);
    assert_int_equal(unlink(path), 0);
    /* an address that is none is refused at once */
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    kvt_conn_t conn = 0;
    assert_int_equal(
        kvt_open(tk.reader.port, longest, hello_bytes, 1, &conn), KV_ERR_INVALID);
    assert_false(kvt_next(tk.reader.port, &event));
    tk_close(&tk);
}

/* A memfd that readers could write, grow or shrink is not given to them. */
static void create__unsealed_regions_are_refused(void **state)
{
    static const int seals[] = {
        0, SIZES, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE,
        F_SEAL_GROW | F_SEAL_FUTURE_WRITE};

    (void)state;
    for (unsigned i = 0; i <= KV_COUNT_OF(seals); i++) {
        const bool sealed = i == KV_COUNT_OF(seals);
        struct kv_detail detail;
        tk_init(&tk, &shm);
        tk_path(tk.address);
        tk.owner.fd = tk_memfd(
            MIB, sealed ? SIZES | F_SEAL_FUTURE_WRITE : seals[i], &tk.owner.memory);
        tk.owner.bytes = sealed ? MIB + 1 : MIB;
        assert_int_equal(owner_at(tk.address, &detail), KV_ERR_CONFIG);
        assert_true(says(&detail, sealed ? "bytes of a memfd" : "seals of a memfd"));
        tk.owner.bytes = MIB;
        assert_int_equal(access(tk.address, F_OK), -1);
        tk_close(&tk);
    }
}

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

/* A reader without descriptors left says that it was its own fault. */
static void reader__without_descriptors_is_broken(void **state)
{
    struct rlimit before, none;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    const struct kvt_shm_arena arena = {.bytes = MIB, .file_bytes = MIB};
    kvt_conn_t conn;

    (void)state;
    const int fd = owner_by_hand(&conn);
    const int file = tk_memfd(MIB, SIZES, NULL);
    const unsigned nr_fds = tk_nr_fds();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    const int error =
        kvt_shm_send(fd, bytes, kvt_shm_write_arenas(bytes, &arena, 1), &file, 1);
    TK_UNTIL(&tk, error != 0 || tk.reader.nr_broken == 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(error, 0);
    expect_refused(fd, conn, KV_ERR_IO, nr_fds);
    close(file);
    owner_by_hand_end(fd);
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
        cmocka_unit_test(owner__unsafe_files_are_refused),
        cmocka_unit_test(owner__a_bad_table_is_refused),
        cmocka_unit_test(owner__a_bad_greeting_is_refused),
        cmocka_unit_test(owner__more_after_the_arenas_ends_it),
        cmocka_unit_test(listen__what_stands_in_the_way_is_named),
        cmocka_unit_test(create__unsealed_regions_are_refused),
        cmocka_unit_test(listen__survives_without_descriptors),
        cmocka_unit_test(reader__without_descriptors_is_broken),
    };

    return cmocka_run_group_tests_name("shm wire", tests, NULL, NULL);
}
