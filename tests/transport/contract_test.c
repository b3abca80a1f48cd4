/* The contract of transport.h, for every transport: each row of `candidates` runs every
 * test below, but those of capabilities that it has not. A new transport joins by one
 * row. What only one of them can be shown (its wire) is in a test of its own:
 * tcp_wire_test.c, shm_wire_test.c, loop_test.c. */
#include "base/assert.h"
#include "base/digest.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"
#include "tests/transport/contract_kit.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const struct tk_candidate candidates[] = {
    {.name = "tcp", .ops = &kvt_tcp, .nr_faults = 25},
    {.name = "hook of tcp", .ops = &kvt_tcp, .hooked = true, .nr_faults = 25},
    {.name = "shm", .ops = &kvt_shm, .nr_faults = 25},
    {.name = "hook of shm", .ops = &kvt_shm, .hooked = true, .nr_faults = 25},
    {.name = "loop", .ops = &kvt_loop, .nr_faults = 15},
    {.name = "hook of loop", .ops = &kvt_loop, .hooked = true, .nr_faults = 20},
    {.name = "tcp, offered", .ops = &kvt_tcp, .offered = true, .nr_faults = 25},
};

struct tk tk;

void begin(void **state)
{
    tk_init(&tk, *state);
}

bool can(enum kvt_cap cap)
{
    return (tk.candidate->ops->caps & cap) != 0;
}

void needs(enum kvt_cap cap)
{
    if (!can(cap)) {
        skip();
    }
}

/* ---- KVT_CAP_NAMED, KVT_CAP_VERIFIES -------------------------------------------- */

/* What lands is what the owner sent, its digest was computed from what landed, and the
 * owner's words come along; for lengths around the leaf and far above every buffer. */
static void read__any_size_lands_whole(void **state)
{
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 64 * KIB, MIB, 16 * MIB};
    begin(state);
    needs(KVT_CAP_NAMED);
    tk_open(&tk, 16 * MIB + 64);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < KV_COUNT_OF(sizes); i++) {
        const struct tk_copy copy = {.offset = i, .len = sizes[i]};
        memset(tk.reader.memory, POISON, tk.reader.bytes);
        assert_int_equal(
            tk_read(&tk, conn, 70 + i, &copy, 1, i, tk.reader.memory + 3, sizes[i]),
            KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        const struct kvt_event *done = &tk.reader.done[i];
        assert_int_equal(done->status, KV_OK);
        assert_int_equal(done->conn, conn);
        assert_int_equal(done->len, sizes[i]);
        assert_int_equal(done->gen, 100);
        assert_int_equal(done->n_tokens, 16);
        assert_memory_equal(tk.reader.memory + 3, tk.owner.memory + i, sizes[i]);
        assert_int_equal(done->expected, kv_digest(tk.owner.memory + i, sizes[i]));
        if (can(KVT_CAP_VERIFIES)) {
            assert_int_equal(done->computed, done->expected);
        }
        /* and nothing beside it */
        assert_true(tk_all(tk.reader.memory, 3, POISON));
        assert_true(tk_all(tk.reader.memory + 3 + sizes[i], 32, POISON));
    }
    TK_UNTIL(&tk, tk.owner.nr_done == KV_COUNT_OF(sizes));
    for (uint32_t i = 1; i <= KV_COUNT_OF(sizes); i++) {
        assert_int_equal(tk.owner.done[i].status, KV_OK);
        assert_int_equal(tk.owner.done[i].computed, 0);
    }
    tk_close(&tk);
}

/* Without verification nothing is computed, and all else is the same. */
static void read__verification_off_computes_nothing(void **state)
{
    const struct tk_copy copy = {.len = 300 * KIB};

    begin(state);
    needs(KVT_CAP_NAMED);
    tk.config.verify = false;
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(
        tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, copy.len), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[0]);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_int_equal(tk.reader.done[0].computed, 0);
    assert_memory_equal(tk.reader.memory, tk.owner.memory, copy.len);
    tk_close(&tk);
}

/* One READ of as many copies as fit, every second one refused in some way: each part
 * has its own end, and a refusal lands nothing. */
static void read__mixed_answers_reach_their_parts(void **state)
{
    static const kv_status_t words[] = {KV_OK,        KV_ERR_MISS, KV_OK,
                                        KV_ERR_AGAIN, KV_OK,       KV_ERR_DENIED};
    struct tk_copy copies[KV_MSG_READ_MAX];

    begin(state);
    needs(KVT_CAP_NAMED);
    tk_open(&tk, MIB);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < KV_MSG_READ_MAX; i++) {
        copies[i] = (struct tk_copy){
            .offset = i * 4100, .len = 4000 + i, .status = words[i % 6]};
    }
    assert_int_equal(
        tk_read(&tk, conn, 9, copies, KV_MSG_READ_MAX, 0, tk.reader.memory, 8 * KIB),
        KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == KV_MSG_READ_MAX);
    for (uint32_t i = 0; i < KV_MSG_READ_MAX; i++) {
        const uint8_t *to = tk.reader.memory + 8 * KIB * i;
        const uint32_t len = copies[i].status == KV_OK ? copies[i].len : 0;
        assert_int_equal(tk.reader.done[i].status, copies[i].status);
        assert_int_equal(tk.reader.done[i].len, len);
        assert_memory_equal(to, tk.owner.memory + copies[i].offset, len);
        assert_true(tk_all(to + len, 8 * KIB - len, POISON));
    }
    tk_close(&tk);
}

/* Many READs at once on several connections: every one ends, with its own bytes. */
static void read__many_in_flight_on_many_connections(void **state)
{
    enum { CONNS = 5, READS = 40, PARTS = 8, PAGE = 16 * KIB };
    kvt_conn_t conns[CONNS];

    begin(state);
    needs(KVT_CAP_NAMED);
    tk_open(&tk, (size_t)CONNS * READS * PARTS * PAGE);
    for (uint32_t c = 0; c < CONNS; c++) {
        conns[c] = tk_connect(&tk, NULL);
    }
    for (uint32_t r = 0; r < READS * CONNS; r++) {
        struct tk_copy copies[PARTS];
        for (uint32_t i = 0; i < PARTS; i++) {
            /* backwards in the owner's memory, so that a swap would show */
            const uint32_t page = CONNS * READS * PARTS - 1 - (r * PARTS + i);
            copies[i] = (struct tk_copy){.offset = page * PAGE, .len = PAGE};
        }
        assert_int_equal(
            tk_read(
                &tk, conns[r % CONNS], r, copies, PARTS, r * PARTS,
                tk.reader.memory + (size_t)r * PARTS * PAGE, PAGE),
            KV_OK);
    }
    TK_UNTIL(&tk, tk.reader.nr_done == CONNS * READS * PARTS);
    for (uint32_t i = 0; i < CONNS * READS * PARTS; i++) {
        const uint32_t page = CONNS * READS * PARTS - 1 - i;
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_int_equal(tk.reader.done[i].computed, tk.reader.done[i].expected);
        assert_memory_equal(
            tk.reader.memory + (size_t)i * PAGE, tk.owner.memory + (size_t)page * PAGE,
            PAGE);
    }
    assert_int_equal(tk.reader.nr_broken + tk.owner.nr_broken, 0);
    tk_close(&tk);
}

/* An owner whose page has changed since its digest was taken is found out. */
static void read__a_flipped_bit_is_seen(void **state)
{
    const struct tk_copy copy = {.len = 100000};

    begin(state);
    needs(KVT_CAP_NAMED);
    needs(KVT_CAP_VERIFIES);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < 20; i++) {
        tk.flip = 1 + i * 40013;
        assert_int_equal(
            tk_read(&tk, conn, i, &copy, 1, i, tk.reader.memory, copy.len), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_true(tk.reader.done[i].computed != tk.reader.done[i].expected);
        assert_int_equal(
            tk.reader.done[i].computed, kv_digest(tk.reader.memory, copy.len));
    }
    tk_close(&tk);
}

/* A page that is larger than the part: IO for it, and the rest of the connection is
 * not believed any more. Not a byte past the room. */
static void read__a_page_larger_than_its_room_ends_the_connection(void **state)
{
    const struct tk_copy copies[] = {{.len = 4096}, {.len = 8192}, {.len = 4096}};

    begin(state);
    needs(KVT_CAP_NAMED);
    tk_open(&tk, MIB);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(
        tk_read(&tk, conn, 1, copies, 3, 0, tk.reader.memory, 5000), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == 3 && tk.reader.nr_broken == 1);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_int_equal(tk.reader.done[1].status, KV_ERR_IO);
    assert_int_equal(tk.reader.done[2].status, KV_ERR_LINK_LOST);
    assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
    assert_true(tk_all(tk.reader.memory + 4096, tk.reader.bytes - 4096, POISON));
    tk_close(&tk);
}

/* ---- calls ---------------------------------------------------------------------- */

/* A byte and a part at least, as many as a READ's at most, and every part inside. */
static void read_is_bounded(kvt_port_t *port, kvt_conn_t conn)
{
    enum { LEN = KVT_REQUEST_BYTES_MAX, PARTS = KV_MSG_READ_MAX };
    const uint8_t bytes[LEN + 1] = {0};
    struct kvt_part parts[PARTS + 1];

    for (unsigned i = 0; i <= PARTS; i++) {
        parts[i] = (struct kvt_part){.id = i, .to = tk.reader.memory, .room = 1};
    }
    assert_int_equal(kvt_read(port, conn, 1, bytes, 0, parts, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_read(port, conn, 1, bytes, LEN + 1, parts, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_read(port, conn, 1, bytes, 1, parts, 0), KV_ERR_INVALID);
    assert_int_equal(
        kvt_read(port, conn, 1, bytes, 1, parts, PARTS + 1), KV_ERR_INVALID);
    parts[PARTS - 1].to += tk.reader.bytes;
    assert_int_equal(kvt_read(port, conn, 1, bytes, 1, parts, PARTS), KV_ERR_INVALID);
}

/* What is wrong in a call is said at once, and nothing was posted. */
static void calls__wrong_arguments_are_refused(void **state)
{
    const struct tk_copy copy = {.len = 4096};
    const struct kvt_part part = {.to = NULL, .room = 1};
    uint8_t bytes[KVT_REQUEST_BYTES_MAX + 1] = {0}, head[KVT_HEAD_BYTES_MAX];
    kvt_conn_t from, other;

    begin(state);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, &from);
    uint8_t *end = tk.reader.memory + tk.reader.bytes;
    kvt_port_t *reader = tk.reader.port, *owner = tk.owner.port;
    /* memory outside the regions, by one byte */
    assert_int_equal(
        tk_fetch(&tk, conn, 1, &copy, 1, 0, end - 4095, 4096), KV_ERR_INVALID);
    assert_int_equal(
        tk_fetch(&tk, conn, 1, &copy, 1, 0, tk.reader.memory - 1, 16), KV_ERR_INVALID);
    /* sizes */
    assert_int_equal(
        kvt_open(reader, tk.address, bytes, KVT_HELLO_BYTES_MAX + 1, &other),
        KV_ERR_INVALID);
    assert_int_equal(kvt_open(reader, tk.address, bytes, 0, &other), KV_ERR_INVALID);
    assert_int_equal(kvt_open(reader, "", bytes, 1, &other), KV_ERR_INVALID);
    if (can(KVT_CAP_NAMED)) {
        const uint32_t len = tk_encode_data(1, 0, KV_OK, 16, 0, head);
        assert_int_equal(
            kvt_send(owner, from, 1, head, len, tk.owner.memory - 1, 16),
            KV_ERR_INVALID);
        assert_int_equal(
            kvt_send(owner, from, 1, bytes, KVT_HEAD_BYTES_MAX + 1, NULL, 0),
            KV_ERR_INVALID);
        assert_int_equal(kvt_send(owner, from, 1, bytes, 0, NULL, 0), KV_ERR_INVALID);
        read_is_bounded(reader, conn);
    }
    /* A connection goes one way; who can not do it says the same. */
    assert_int_equal(
        kvt_send(reader, conn, 1, bytes, 16, tk.reader.memory, 16), KV_ERR_INVALID);
    assert_int_equal(kvt_read(owner, from, 1, bytes, 16, &part, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_get(owner, from, &part), KV_ERR_INVALID);
    if (!can(KVT_CAP_ONE_SIDED)) {
        assert_int_equal(kvt_get(reader, conn, &part), KV_ERR_INVALID);
    }
    if (!can(KVT_CAP_NAMED)) {
        assert_int_equal(
            tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 4096), KV_ERR_INVALID);
        assert_int_equal(
            kvt_send(owner, from, 1, bytes, 16, tk.owner.memory, 16), KV_ERR_INVALID);
    }
    /* A connection has a name that others have not. */
    assert_int_equal(
        tk_fetch(&tk, conn + 1, 1, &copy, 1, 0, end - 1, 1), KV_ERR_LINK_LOST);
    assert_int_equal(tk_fetch(&tk, 0, 1, &copy, 1, 0, end - 1, 1), KV_ERR_LINK_LOST);
    kvt_close(reader, conn + 1);
    kvt_close(reader, 0);
    kvt_accept(reader, 77);
    /* none of it has hurt */
    assert_int_equal(tk_fetch(&tk, conn, 2, &copy, 1, 0, end - 4096, 4096), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == 1);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_int_equal(tk.reader.nr_broken + tk.owner.nr_broken, 0);
    tk_close(&tk);
}

/* ---- connections ---------------------------------------------------------------- */

/* The hello comes up as it was said; before accept() nothing is read; then all is. */
static void hello__holds_back_reads_until_accepted(void **state)
{
    const struct tk_copy copy = {.len = 4096};
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    const uint32_t len = tk_encode_hello(hello);

    begin(state);
    tk.accept_all = false;
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_dial(&tk);
    for (uint32_t i = 0; i < 10; i++) { /* before it is even connected */
        assert_int_equal(
            tk_fetch(&tk, conn, i, &copy, 1, i, tk.reader.memory + 4096 * i, 4096),
            KV_OK);
    }
    TK_UNTIL(&tk, tk.owner.nr_hellos == 1);
    assert_int_equal(tk.owner.hello_len, len);
    assert_memory_equal(tk.owner.hello, hello, len);
    for (unsigned i = 0; i < 5; i++) { /* what shall not happen has its time */
        (void)tk_look(&tk, 20);
    }
    assert_int_equal(tk.owner.nr_requests, 0);
    assert_int_equal(tk.reader.nr_done, 0);
    assert_int_equal(
        kvt_send(tk.owner.port, tk.owner.hellos[0], 1, hello, 8, NULL, 0),
        KV_ERR_INVALID);
    kvt_accept(tk.owner.port, tk.owner.hellos[0]);
    kvt_accept(tk.owner.port, tk.owner.hellos[0]); /* once is enough */
    TK_UNTIL(&tk, tk.reader.nr_done == 10);
    assert_int_equal(tk.owner.nr_requests, can(KVT_CAP_NAMED) ? 10 : 0);
    tk_close(&tk);
}

/* Where nobody is: of a remote one a port without a listener, by number and by name; of
 * a local one a path without a file, and one whose listener has gone; a name that was a
 * port's, twice. */
static void leave_the_place(unsigned i)
{
    char name[KVT_ADDRESS_MAX];

    if (can(KVT_CAP_REMOTE) && i == 0) {
        close(tk.listener);
        tk.listener = -1;
    } else if (can(KVT_CAP_REMOTE)) {
        (void)snprintf(name, sizeof(name), "localhost%s", strrchr(tk.address, ':'));
        memcpy(tk.address, name, sizeof(name));
    } else if (i == 0) {
        kvt_destroy(tk.owner.port);
        tk.owner.port = NULL;
    } else if (tk_place_kind(&tk) == TK_PATH) {
        close(tk_listen_at(tk.address));
    }
}

/* Nobody listens: accepted, then BROKEN; what was asked meanwhile is lost; CLOSED comes
 * when it is closed. */
static void open__refused_is_broken(void **state)
{
    const struct tk_copy copy = {.len = 64};

    begin(state);
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < 2; i++) {
        leave_the_place(i);
        const kvt_conn_t conn = tk_dial(&tk);
        assert_int_equal(
            tk_fetch(&tk, conn, 1, &copy, 1, i, tk.reader.memory, 64), KV_OK);
        TK_UNTIL(&tk, tk.reader.nr_broken == i + 1 && tk.reader.was_done[i]);
        assert_int_equal(tk.reader.broken[i], conn);
        assert_int_equal(tk.reader.why, KV_ERR_LINK_LOST);
        assert_int_equal(tk.reader.done[i].status, KV_ERR_LINK_LOST);
        assert_int_equal(tk.reader.nr_closed, i);
        kvt_close(tk.reader.port, conn);
        TK_UNTIL(&tk, tk.reader.nr_closed == i + 1);
    }
    if (tk_place_kind(&tk) == TK_PATH) {
        assert_int_equal(unlink(tk.address), 0);
    }
    tk_close(&tk);
}

/* A host by name, and one that does not exist; an address that is none. */
static void open__names_are_resolved(void **state)
{
    static const char *const bad[] = {
        "",         ":",         "nowhere",       "1.2.3.4",
        "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:http",
        "::1:80",   "[]:80",     ":80",           "1.2.3.4:0x50"};
    const struct tk_copy copy = {.len = 4096};
    char name[KVT_ADDRESS_MAX], longest[KVT_ADDRESS_MAX + 8];
    kvt_conn_t conn = 0;

    begin(state);
    needs(KVT_CAP_REMOTE);
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < KV_COUNT_OF(bad); i++) {
        assert_int_equal(
            kvt_open(tk.reader.port, bad[i], (const uint8_t *)"x", 1, &conn),
            KV_ERR_INVALID);
    }
    memset(longest, 'a', sizeof(longest));
    memcpy(longest + sizeof(longest) - 4, ":80", 4);
    assert_int_equal(
        kvt_open(tk.reader.port, longest, (const uint8_t *)"x", 1, &conn),
        KV_ERR_INVALID);
    (void)snprintf(name, sizeof(name), "localhost%s", strrchr(tk.address, ':'));
    memcpy(tk.address, name, sizeof(name));
    conn = tk_connect(&tk, NULL);
    assert_int_equal(tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 4096), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == 1);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    /* Closed while its name is being asked for: CLOSED alone. */
    conn = tk_dial(&tk);
    assert_int_equal(tk_read(&tk, conn, 2, &copy, 1, 1, tk.reader.memory, 4096), KV_OK);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk.reader.done[1].status, KV_ERR_LINK_LOST);
    assert_int_equal(tk.reader.nr_broken, 0);
    /* An empty label: no name server need be asked to know that it does not exist. */
    assert_int_equal(
        kvt_open(tk.reader.port, "kvrail..node:80", (const uint8_t *)"x", 1, &conn),
        KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_broken == 1);
    assert_int_equal(tk.reader.why, KV_ERR_LINK_LOST);
    tk_close(&tk);
}

/* Sockets that are not what was promised are closed and forgotten, without a word. */
static void adopt__dead_sockets_disappear(void **state)
{
    begin(state);
    needs(KVT_CAP_REMOTE);
    tk.config.nr_conns = 4;
    tk_open(&tk, MIB);
    const unsigned nr_fds = process_kit_fds();
    for (unsigned i = 0; i < 20; i++) {
        int fds[2] = {-1, -1};
        if (i % 2 == 0) {
            const int peer = tk_dial_raw(tk.address);
            fds[0] = tk_accept(tk.listener);
            tk_abort(peer);
        } else {
            assert_int_equal(pipe(fds), 0); /* no socket at all */
            close(fds[1]);
        }
        /* AGAIN when those before are not buried yet: still its owner from here on. */
        const kv_status_t status = kvt_adopt(tk.owner.port, fds[0]);
        assert_true(status == KV_OK || status == KV_ERR_AGAIN);
        tk_drain(&tk, &tk.owner);
    }
    (void)kvt_adopt(tk.owner.port, -1);
    /* A live one finds room all the same. */
    const struct tk_copy copy = {.len = 64};
    kvt_conn_t conn = 0;
    for (;;) {
        conn = tk_dial(&tk);
        assert_int_equal(
            tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 64), KV_OK);
        TK_UNTIL(&tk, tk.reader.nr_done == 1);
        if (tk.reader.done[0].status == KV_OK) {
            break;
        }
        tk.reader.nr_done = 0;
        tk.reader.was_done[0] = false;
        kvt_close(tk.reader.port, conn);
        usleep(5000); /* the dead are buried by a thread that needs its turn */
    }
    assert_int_equal(tk.owner.nr_hellos, 1);
    assert_int_equal(tk.owner.nr_closed + tk.owner.nr_broken, 0);
    kvt_close(tk.reader.port, conn);
    kvt_close(tk.owner.port, tk.owner.hellos[0]);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1 && tk.reader.nr_closed > 0);
    tk_drain(&tk, &tk.reader);
    while (process_kit_fds() > nr_fds) {
        usleep(1000);
    }
    tk_close(&tk);
}

/* Where connections come by `listen` alone a socket is refused, and closed. */
static void adopt__is_refused_where_listen_is_the_way(void **state)
{
    int fds[2];

    begin(state);
    if (can(KVT_CAP_REMOTE)) {
        skip();
    }
    tk_open(&tk, MIB);
    const unsigned nr_fds = process_kit_fds();
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(kvt_adopt(tk.owner.port, fds[0]), KV_ERR_INVALID);
    close(fds[1]);
    assert_int_equal(process_kit_fds(), nr_fds);
    assert_int_equal(kvt_adopt(tk.owner.port, -1), KV_ERR_INVALID);
    tk_close(&tk);
}

/* ---- bounds --------------------------------------------------------------------- */

static void limits__nr_ops_is_again(void **state)
{
    const struct tk_copy copies[3] = {{.len = 64}, {.len = 64}, {.len = 64}};
    uint8_t head[KVT_HEAD_BYTES_MAX];
    kvt_conn_t from;

    begin(state);
    needs(KVT_CAP_NAMED);
    tk.config.nr_ops = 4;
    tk.serve = false;
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, &from);
    uint8_t *to = tk.reader.memory;
    assert_int_equal(tk_read(&tk, conn, 1, copies, 3, 0, to, 64), KV_OK);
    assert_int_equal(tk_read(&tk, conn, 2, copies, 2, 3, to, 64), KV_ERR_AGAIN);
    assert_int_equal(tk_read(&tk, conn, 3, copies, 1, 3, to, 64), KV_OK);
    assert_int_equal(tk_read(&tk, conn, 4, copies, 1, 4, to, 64), KV_ERR_AGAIN);
    TK_UNTIL(&tk, tk.owner.nr_requests == 2); /* and not three */
    /* The owner's are its own; each is free again when its DONE was taken. */
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t len = i < 3 ? tk_encode_data(1, i, KV_ERR_MISS, 0, 0, head)
                                   : tk_encode_data(3, 0, KV_ERR_MISS, 0, 0, head);
        assert_int_equal(kvt_send(tk.owner.port, from, i, head, len, NULL, 0), KV_OK);
    }
    assert_int_equal(kvt_send(tk.owner.port, from, 4, head, 8, NULL, 0), KV_ERR_AGAIN);
    TK_UNTIL(&tk, tk.reader.nr_done == 4 && tk.owner.nr_done == 4);
    assert_int_equal(tk_read(&tk, conn, 5, copies, 3, 4, to, 64), KV_OK);
    assert_int_equal(tk.reader.nr_broken, 0);
    tk_close(&tk);
}

/* One that the owner has no place for: its socket is closed, adopt takes it all the
 * same. */
static void socket_is_refused(void)
{
    const int peer = tk_dial_raw(tk.address);

    if (tk.listener >= 0) {
        assert_int_equal(
            kvt_adopt(tk.owner.port, tk_accept(tk.listener)), KV_ERR_AGAIN);
    } else {
        /* Looking wakes for other things, too: until the socket has ended. */
        struct pollfd end = {.fd = peer, .events = POLLIN};
        for (unsigned ms = 0; ms < TK_PATIENCE_MS && poll(&end, 1, 0) == 0; ms++) {
            (void)tk_look(&tk, 1);
        }
    }
    assert_true(tk_ended(peer));
    close(peer);
}

/* The same where there are no sockets: another port's reader is sent away. */
static void knock_is_refused(void)
{
    struct tk_side other = {.fd = -1};
    struct kvt_event event = {.kind = KVT_EV_HELLO};
    kvt_conn_t conn = 0;

    assert_int_equal(tk_port(tk.candidate, &tk.config, &other, NULL), KV_OK);
    assert_int_equal(
        kvt_open(other.port, tk.address, (const uint8_t *)"x", 1, &conn), KV_OK);
    tk_step(&tk);
    assert_true(kvt_next(other.port, &event));
    assert_int_equal(event.kind, KVT_EV_BROKEN);
    assert_int_equal(event.status, KV_ERR_LINK_LOST);
    kvt_destroy(other.port);
}

static void limits__nr_conns_is_again(void **state)
{
    kvt_conn_t conns[4], other = 0;

    begin(state);
    tk.config.nr_conns = 4;
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < 4; i++) {
        conns[i] = tk_connect(&tk, NULL);
    }
    assert_int_equal(
        kvt_open(tk.reader.port, tk.address, (const uint8_t *)"x", 1, &other),
        KV_ERR_AGAIN);
    assert_int_equal(other, 0);
    if (tk_place_kind(&tk) == TK_NAME) {
        knock_is_refused();
    } else {
        socket_is_refused();
    }
    kvt_close(tk.reader.port, conns[2]);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    other = tk_dial(&tk); /* a name that was never used before */
    for (unsigned i = 0; i < 4; i++) {
        assert_true(other != conns[i]);
    }
    tk_close(&tk);
}

/* A figure that can not be kept is named with its limit. */
static void create__bounds_are_kept_and_named(void **state)
{
    static const struct {
        const char *field;
        struct kvt_config config;
    } bad[] = {
        {"transport.ops", {.nr_conns = 1, .nr_threads = 1, .hello_us = 1}},
        {"transport.conns", {.nr_ops = 1, .nr_threads = 1, .hello_us = 1}},
        {"transport.threads", {.nr_conns = 1, .nr_ops = 1, .hello_us = 1}},
        {"transport.hello", {.nr_conns = 1, .nr_ops = 1, .nr_threads = 1}},
        {"transport.regions",
         {.nr_regions = KVT_REGIONS_MAX + 1,
          .nr_conns = 1,
          .nr_ops = 1,
          .nr_threads = 1,
          .hello_us = 1}},
        {"transport.ops",
         {.nr_ops = UINT32_MAX, .nr_conns = 1, .nr_threads = 1, .hello_us = 1}},
    };
    begin(state);
    for (unsigned i = 0; i < KV_COUNT_OF(bad); i++) {
        struct kv_detail detail = {0};
        kvt_port_t *port = NULL;
        assert_int_equal(
            tk.candidate->ops->create(&bad[i].config, &port, &detail), KV_ERR_CONFIG);
        assert_string_equal(detail.field, bad[i].field);
        assert_null(port);
    }
    assert_int_equal(kv_mem_live(), 0);
}

/* ---- close ---------------------------------------------------------------------- */

/* Closed with everything in flight, on either side: each id ends once, CLOSED is last,
 * and from then on the memory is ours: nothing lands in what was posted, and nothing is
 * read from what was given out. Large pages and small sockets' buffers make sure that
 * it happens in the middle. */
static void close_in_flight(void **state, bool by_reader)
{
    enum { PARTS = 8, PAGE = 2 * MIB, ROUNDS = 10 };
    const struct tk_copy copies[PARTS] = {{.len = PAGE}, {.len = PAGE}, {.len = PAGE},
                                          {.len = PAGE}, {.len = PAGE}, {.len = PAGE},
                                          {.len = PAGE}, {.len = PAGE}};
    kvt_conn_t from;

    begin(state);
    tk_open(&tk, (size_t)PARTS * PAGE);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const uint64_t first = round * PARTS;
        const unsigned nr_requests = tk.owner.nr_requests;
        tk_fill(tk.owner.memory, PAGE, round);
        const uint64_t digest = kv_digest(tk.owner.memory, PAGE);
        const kvt_conn_t conn = tk_connect(&tk, &from);
        assert_int_equal(
            tk_fetch(&tk, conn, round, copies, PARTS, first, tk.reader.memory, PAGE),
            KV_OK);
        if (can(KVT_CAP_NAMED)) {
            TK_UNTIL(&tk, tk.owner.nr_requests > nr_requests);
        }
        if (round % 2 == 1) { /* some of it has come */
            TK_UNTIL(&tk, tk.reader.was_done[first + 2]);
        } else if (round % 4 == 2) {
            (void)tk_look(&tk, 1); /* it has begun */
        }
        kvt_close(by_reader ? tk.reader.port : tk.owner.port, by_reader ? conn : from);
        struct tk_side *side = by_reader ? &tk.reader : &tk.owner;
        TK_UNTIL(&tk, side->nr_closed == round + 1);
        for (uint32_t i = 0; by_reader && i < PARTS; i++) {
            assert_true(tk.reader.was_done[first + i]);
        }
        memset(side->memory, POISON, side->bytes);
        /* The other side sees its end, and has all of its own ended, too. */
        struct tk_side *other = by_reader ? &tk.owner : &tk.reader;
        TK_UNTIL(&tk, other->nr_broken == round + 1);
        kvt_close(other->port, other->broken[round]);
        TK_UNTIL(&tk, other->nr_closed == round + 1);
        assert_true(tk_all(side->memory, side->bytes, POISON));
        assert_int_equal(tk.reader.nr_done, (round + 1) * PARTS);
        assert_int_equal(tk.owner.nr_done, tk.nr_served);
        /* No page that came late was taken for one that came whole. */
        for (uint64_t i = first; i < first + PARTS; i++) {
            const struct kvt_event *done = &tk.reader.done[i];
            assert_true(done->status == KV_OK || done->status == KV_ERR_LINK_LOST);
            assert_true(done->status != KV_OK || done->computed == digest);
        }
    }
    tk_close(&tk);
}

static void close__by_the_reader_fences(void **state)
{
    close_in_flight(state, true);
}

static void close__by_the_owner_fences(void **state)
{
    close_in_flight(state, false);
}

/* At any moment of a connection's life, twice, and of one that broke before. */
static void close__at_once_and_twice(void **state)
{
    begin(state);
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < 30; i++) {
        const kvt_conn_t conn = tk_dial(&tk);
        if (i % 3 == 1) {
            usleep(200 * (i % 7)); /* spread over connecting and connected */
        }
        kvt_close(tk.reader.port, conn);
        kvt_close(tk.reader.port, conn);
        TK_UNTIL(&tk, tk.reader.nr_closed == i + 1);
        assert_int_equal(tk.reader.closed[i], conn);
        kvt_close(tk.reader.port, conn);
        /* The owner's half goes as it came: a hello and a BROKEN, or nothing. */
        tk_drain(&tk, &tk.owner);
        for (unsigned k = 0; k < tk.owner.nr_broken; k++) {
            kvt_close(tk.owner.port, tk.owner.broken[k]);
        }
    }
    assert_int_equal(tk.reader.nr_broken, 0);
    tk_close(&tk);
}

/* Destroyed with connections in every state and operations in both roles. */
static void destroy__with_everything_open(void **state)
{
    enum { PAGE = MIB };
    const struct tk_copy copies[4] = {
        {.len = PAGE}, {.len = PAGE}, {.len = PAGE}, {.len = PAGE}};
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    const uint32_t len = tk_encode_hello(hello);
    const unsigned nr_fds = process_kit_fds();

    for (unsigned round = 0; round < 6; round++) {
        begin(state);
        tk_open(&tk, 4 * PAGE);
        kvt_conn_t conn = tk_connect(&tk, NULL);
        assert_int_equal(
            tk_fetch(&tk, conn, 1, copies, 4, 0, tk.reader.memory, PAGE), KV_OK);
        if (round % 3 == 1 && can(KVT_CAP_NAMED)) {
            TK_UNTIL(&tk, tk.owner.nr_requests == 1);
        } else if (round % 3 == 1) {
            TK_UNTIL(&tk, tk.reader.nr_done > 0);
        }
        conn = tk_dial(&tk);
        assert_int_equal(
            tk_fetch(&tk, conn, 2, copies, 4, 4, tk.reader.memory, PAGE), KV_OK);
        const bool by_socket = tk_place_kind(&tk) != TK_NAME;
        const int silent = by_socket ? tk_dial_raw(tk.address) : -1;
        if (tk.listener >= 0) {
            (void)kvt_adopt(tk.owner.port, tk_accept(tk.listener));
        }
        (void)kvt_open(
            tk.reader.port, can(KVT_CAP_REMOTE) ? "localhost:9" : "/nowhere", hello,
            len, &conn);
        if (round % 3 == 2) {
            kvt_close(tk.reader.port, conn);
        }
        tk_close(&tk);
        if (silent >= 0) {
            close(silent);
        }
    }
    assert_int_equal(process_kit_fds(), nr_fds);
}

/* ---- events --------------------------------------------------------------------- */

/* One event at a time, with a look at the fd before each: it is readable as long as
 * there is another. */
static void events__fd_stays_readable_until_all_are_taken(void **state)
{
    struct tk_copy copies[KV_MSG_READ_MAX];
    struct kvt_event event;
    unsigned nr_taken = 0;

    begin(state);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    memset(copies, 0, sizeof(copies));
    assert_int_equal(
        tk_fetch(&tk, conn, 1, copies, KV_MSG_READ_MAX, 0, tk.reader.memory, 0), KV_OK);
    while (can(KVT_CAP_NAMED) && tk.owner.nr_done < KV_MSG_READ_MAX) {
        struct tk_side reader = tk.reader; /* pump the owner alone */
        tk.reader.port = NULL;
        tk_step(&tk);
        tk.reader = reader;
    }
    while (nr_taken < KV_MSG_READ_MAX) {
        struct pollfd fd = {.fd = kvt_fd(tk.reader.port), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, TK_PATIENCE_MS), 1);
        nr_taken += kvt_next(tk.reader.port, &event);
    }
    assert_false(kvt_next(tk.reader.port, &event));
    tk_close(&tk);
}

/* ---- n-th call fails ------------------------------------------------------------ */

/* All of a life: create both, connect, read, end. False when it came to a clean end
 * before that. */
static bool whole_life(const struct tk_candidate *candidate)
{
    const struct tk_copy copy = {.len = 70000};
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    const uint32_t len = tk_encode_hello(hello);
    bool whole = false;
    kvt_conn_t conn = 0;

    if (tk_port(candidate, &tk.config, &tk.owner, NULL) != KV_OK
        || tk_port(candidate, &tk.config, &tk.reader, NULL) != KV_OK
        || kvt_open(tk.reader.port, tk.address, hello, len, &conn) != KV_OK) {
        return false;
    }
    const kv_status_t status =
        tk_fetch(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, copy.len);
    if (status == KV_OK) {
        while (!tk.reader.was_done[0] && tk.reader.nr_broken == 0) {
            tk_step(&tk);
            if (tk.nr_served < tk.owner.nr_requests) { /* send was refused */
                break;
            }
        }
        whole = tk.reader.was_done[0] && tk.reader.done[0].status == KV_OK
                && tk.reader.nr_broken == 0;
        assert_true(
            !whole
            || tk.reader.done[0].computed == kv_digest(tk.owner.memory, copy.len));
    }
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_true(status != KV_OK || tk.reader.was_done[0]);
    return whole;
}

/* Fail the 1st, 2nd, 3rd … fallible call until a life passes whole: it ends clean each
 * time, and nothing is left behind. */
static void faults__every_call_may_fail(void **state)
{
    const unsigned nr_fds = process_kit_fds();
    unsigned n = 1, nr_passed = 0;

    for (; nr_passed < 3; n++) {
        begin(state);
        tk.config.nr_threads = 1;
        tk_place(&tk);
        tk_memory(&tk, &tk.owner, 1 << 17);
        tk_memory(&tk, &tk.reader, 1 << 17);
        kv_fault_after(n);
        nr_passed = whole_life(tk.candidate) ? nr_passed + 1 : 0;
        kv_fault_after(0);
        kvt_destroy(tk.reader.port);
        kvt_destroy(tk.owner.port);
        tk_forget(&tk);
        assert_int_equal(kv_mem_live(), 0);
        assert_int_equal(process_kit_fds(), nr_fds);
        assert_int_equal(access(tk.address, F_OK), -1); /* and no path */
    }
    assert_true(n > ((const struct tk_candidate *)*state)->nr_faults);
}

/* A process that has every descriptor of ours, as one between fork and exec has them.
 * When told it makes all of them say something: their streams end. */
static pid_t child_with_our_files(int told[2], int done[2])
{
    uint8_t byte = 0;
    assert_int_equal(pipe(told), 0);
    assert_int_equal(pipe(done), 0);
    const pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* not left when an assertion fails */
        (void)!read(told[0], &byte, 1);
        for (int fd = 3; fd < 1024; fd++) {
            int listens = 1;
            socklen_t len = sizeof(listens);
            if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0
                && !listens) {
                (void)shutdown(fd, SHUT_RDWR);
            }
        }
        (void)!write(done[1], &byte, 1);
        for (;;) {
            pause();
        }
    }
    assert_true(child > 0);
    return child;
}

/* What this process closes is closed for it, whoever else has the file: nobody is told
 * of a connection that is gone. */
static void close__while_a_child_has_the_files(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        int told[2], done[2];
        uint8_t byte = 0;
        kvt_conn_t owned;
        begin(state);
        tk_open(&tk, MIB);
        const kvt_conn_t conn = tk_connect(&tk, &owned);
        const pid_t child = child_with_our_files(told, done);
        const bool owner = i % 2 == 0; /* who closes first */
        kvt_close(owner ? tk.owner.port : tk.reader.port, owner ? owned : conn);
        kvt_close(owner ? tk.reader.port : tk.owner.port, owner ? conn : owned);
        TK_UNTIL(&tk, tk.owner.nr_closed == 1 && tk.reader.nr_closed == 1);
        assert_int_equal(write(told[1], &byte, 1), 1);
        assert_int_equal(read(done[0], &byte, 1), 1);
        for (unsigned look = 0; look < 20; look++) {
            (void)tk_look(&tk, 1); /* its threads have turns */
        }
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, NULL, 0), child);
        for (unsigned k = 0; k < 2; k++) {
            close(told[k]);
            close(done[k]);
        }
        tk_close(&tk);
    }
}

/* ---- all rows ------------------------------------------------------------------- */

static const struct contract_test tests[] = {
    EITHER(read__any_size_lands_whole),
    EITHER(read__verification_off_computes_nothing),
    EITHER(read__mixed_answers_reach_their_parts),
    EITHER(read__many_in_flight_on_many_connections),
    EITHER(read__a_flipped_bit_is_seen),
    EITHER(read__a_page_larger_than_its_room_ends_the_connection),
    TEST(calls__wrong_arguments_are_refused),
    TEST(hello__holds_back_reads_until_accepted),
    TEST(open__refused_is_broken),
    TEST(open__names_are_resolved),
    TEST(adopt__dead_sockets_disappear),
    TEST(adopt__is_refused_where_listen_is_the_way),
    EITHER(limits__nr_ops_is_again),
    TEST(limits__nr_conns_is_again),
    TEST(create__bounds_are_kept_and_named),
    EITHER(close__by_the_reader_fences),
    EITHER(close__by_the_owner_fences),
    TEST(close__at_once_and_twice),
    TEST(destroy__with_everything_open),
    EITHER(close__while_a_child_has_the_files),
    EITHER(events__fd_stays_readable_until_all_are_taken),
    TEST(faults__every_call_may_fail),
};

int main(void)
{
    enum { ROWS = KV_COUNT_OF(candidates), OWN = KV_COUNT_OF(tests) };
    static char names[CONTRACT_TESTS_MAX][128];
    static struct CMUnitTest all[CONTRACT_TESTS_MAX];
    unsigned nr = 0;

    for (unsigned i = 0; i < ROWS; i++) {
        for (unsigned k = 0; k < OWN + contract_one_sided_nr; k++) {
            const struct contract_test *test =
                k < OWN ? &tests[k] : &contract_one_sided[k - OWN];
            if (candidates[i].offered && !test->either) {
                continue; /* what is special to offers: offer_test.c */
            }
            KV_ASSERT(nr < CONTRACT_TESTS_MAX);
            (void)snprintf(
                names[nr], sizeof(names[nr]), "%s: %s", candidates[i].name, test->name);
            all[nr] = (struct CMUnitTest){
                .name = names[nr],
                .test_func = test->run,
                .initial_state = (void *)(uintptr_t)&candidates[i],
            };
            nr++;
        }
    }
    return _cmocka_run_group_tests("contract", all, nr, NULL, NULL);
}
