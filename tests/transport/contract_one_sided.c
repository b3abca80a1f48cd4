/* The contract of one-sided reads, and of the fence that they need: contract_kit.h. */
#include "base/assert.h"
#include "base/digest.h"
#include "tests/transport/contract_kit.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* ---- KVT_CAP_ONE_SIDED, KVT_CAP_VERIFIES ----------------------------------------- */

/* What lands is what lies at the owner, with the digest of what landed; for lengths
 * around the leaf, at any offset, and up to the arena's last byte. */
static void get__any_size_lands_whole(void **state)
{
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 64 * KIB, MIB, 16 * MIB};
    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    tk_open(&tk, 16 * MIB + 64);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < 2 * KV_COUNT_OF(sizes); i++) {
        const uint32_t size = sizes[i / 2];
        const uint64_t offset = i % 2 == 0 ? i : tk.owner.bytes - size;
        memset(tk.reader.memory, POISON, tk.reader.bytes);
        assert_int_equal(
            tk_get_one(&tk, conn, i, 0, offset, tk.reader.memory + 3, size), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        const struct kvt_event *done = &tk.reader.done[i];
        assert_int_equal(done->status, KV_OK);
        assert_int_equal(done->conn, conn);
        assert_int_equal(done->len, size);
        assert_memory_equal(tk.reader.memory + 3, tk.owner.memory + offset, size);
        if (can(KVT_CAP_VERIFIES)) {
            assert_int_equal(done->computed, kv_digest(tk.reader.memory + 3, size));
        }
        /* and nothing beside it */
        assert_true(tk_all(tk.reader.memory, 3, POISON));
        assert_true(tk_all(tk.reader.memory + 3 + size, 32, POISON));
    }
    tk_close(&tk);
}

static void get__verification_off_computes_nothing(void **state)
{
    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    tk.config.verify = false;
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(
        tk_get_one(&tk, conn, 0, 0, 77, tk.reader.memory, 300 * KIB), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[0]);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_int_equal(tk.reader.done[0].computed, 0);
    assert_memory_equal(tk.reader.memory, tk.owner.memory + 77, 300 * KIB);
    tk_close(&tk);
}

/* Bytes that there are not: IO for that get, and the connection goes on. An owner's
 * arena that it gives nobody is as good as none. */
static void get__outside_of_an_arena_is_io(void **state)
{
    static const struct {
        uint32_t arena;
        uint64_t offset;
        uint32_t len;
    } bad[] = {
        {0, MIB, 1},        {0, MIB + 1, 0}, {0, MIB - 4095, 4096},
        {0, UINT64_MAX, 2}, {0, 0, MIB + 1}, {0, UINT64_MAX - 4095, 4096},
        {1, 0, 1},          {1, 0, 0},       {2, 0, 4096},
        {63, 0, 4096},      {64, 0, 1},      {UINT32_MAX, 0, 1},
    };
    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    tk_place(&tk);
    tk_memory(&tk, &tk.owner, MIB);
    tk_memory(&tk, &tk.reader, 2 * MIB);
    const struct kvt_region regions[] = {
        {.base = tk.owner.memory, .bytes = MIB, .fd = tk.owner.fd},
        {.base = tk.reader.memory, .bytes = MIB, .fd = -1},
    };
    struct kvt_config config = tk.config;
    config.listen = tk.address;
    config.regions = regions;
    config.nr_regions = 2;
    assert_int_equal(tk.candidate->ops->create(&config, &tk.owner.port, NULL), KV_OK);
    assert_int_equal(tk_port(tk.candidate, &tk.config, &tk.reader, NULL), KV_OK);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < KV_COUNT_OF(bad); i++) {
        assert_int_equal(
            tk_get_one(
                &tk, conn, i, bad[i].arena, bad[i].offset, tk.reader.memory,
                bad[i].len),
            KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        assert_int_equal(tk.reader.done[i].status, KV_ERR_IO);
        assert_int_equal(tk.reader.done[i].len, 0);
        assert_int_equal(tk.reader.done[i].computed, 0);
    }
    assert_true(tk_all(tk.reader.memory, tk.reader.bytes, POISON));
    assert_int_equal(tk_get_one(&tk, conn, 99, 0, 0, tk.reader.memory, MIB), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[99]);
    assert_int_equal(tk.reader.done[99].status, KV_OK);
    tk_close(&tk);
}

enum { PAGE = 64 * KIB, BATCH = 1500, CONNS = 5, ALL = BATCH + CONNS - 1 };

/* All gets posted, and all connections mapped before the reader looks: they begin
 * together, as far as the scheduler lets the loop. */
static void post_batch(void)
{
    kvt_conn_t conns[CONNS];

    for (uint32_t c = 0; c < CONNS; c++) {
        conns[c] = tk_connect(&tk, NULL);
    }
    for (uint32_t i = 0; i < ALL; i++) { /* backwards, so that a swap would show */
        assert_int_equal(
            tk_get_one(
                &tk, conns[i < BATCH ? 0 : i - BATCH + 1], i, 0,
                (uint64_t)(ALL - 1 - i) * PAGE, tk.reader.memory + (size_t)i * PAGE,
                PAGE),
            KV_OK);
    }
    for (uint32_t c = 0; c < CONNS; c++) {
        kvt_accept(tk.owner.port, tk.owner.hellos[c]);
    }
    usleep(100000);
}

/* How many of the batch were done when the last of the others was. */
static unsigned take_batch(void)
{
    struct pollfd ready = {.fd = kvt_fd(tk.reader.port), .events = POLLIN};
    unsigned nr_batch = 0;

    while (tk.reader.nr_done < ALL) {
        unsigned nr_small = 0;
        for (uint32_t i = BATCH; i < ALL; i++) {
            nr_small += tk.reader.was_done[i];
        }
        if (nr_small < CONNS - 1) {
            nr_batch = tk.reader.nr_done;
        }
        assert_int_equal(poll(&ready, 1, TK_PATIENCE_MS), 1);
        (void)tk_take_one(&tk, &tk.reader);
    }
    return nr_batch;
}

/* A large batch on one connection and a single get on each of others, begun together:
 * all end, each with its own bytes, and the single ones do not wait for the batch. A
 * loop that is not scheduled between posting the one and the others gives the batch a
 * start, so some tries are allowed; first come, first served would fail them all. */
static void get__a_batch_starves_nobody(void **state)
{
    enum { TRIES = 10 };
    bool is_fair = false;

    for (unsigned n = 0; n < TRIES && !is_fair; n++) {
        begin(state);
        needs(KVT_CAP_ONE_SIDED);
        tk.accept_all = false;
        tk_open(&tk, (size_t)ALL * PAGE);
        post_batch();
        is_fair = take_batch() < BATCH / 2;
        for (uint32_t i = 0; i < ALL; i++) {
            assert_int_equal(tk.reader.done[i].status, KV_OK);
            assert_memory_equal(
                tk.reader.memory + (size_t)i * PAGE,
                tk.owner.memory + (size_t)(ALL - 1 - i) * PAGE, PAGE);
        }
        assert_int_equal(tk.reader.nr_broken + tk.owner.nr_broken, 0);
        tk_close(&tk);
    }
    assert_true(is_fair);
}

/* An owner whose page has changed since its digest was taken is found out. */
static void get__a_flipped_bit_is_seen(void **state)
{
    enum { LEN = 100000 };

    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    needs(KVT_CAP_VERIFIES);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < 20; i++) {
        const uint64_t digest = kv_digest(tk.owner.memory, LEN);
        tk.owner.memory[(1 + i * 40013) % LEN] ^= 1;
        assert_int_equal(tk_get_one(&tk, conn, i, 0, 0, tk.reader.memory, LEN), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_true(tk.reader.done[i].computed != digest);
        assert_int_equal(tk.reader.done[i].computed, kv_digest(tk.reader.memory, LEN));
    }
    tk_close(&tk);
}

struct scribbler {
    pthread_t thread;
    atomic_bool stop;
};

static void *scribble(void *arg)
{
    struct scribbler *self = arg;

    while (!atomic_load(&self->stop)) {
        for (size_t at = 0; at < MIB; at += 64) {
            ((volatile uint8_t *)tk.owner.memory)[at]++;
        }
    }
    return NULL;
}

/* An owner that writes while it is read gets through what it likes; but the digest is
 * of what has landed, so what was checked is what is used. */
static void get__the_digest_is_of_what_landed(void **state)
{
    struct scribbler scribbler = {.stop = false};

    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    needs(KVT_CAP_VERIFIES);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(pthread_create(&scribbler.thread, NULL, scribble, &scribbler), 0);
    for (uint32_t i = 0; i < 50; i++) {
        assert_int_equal(tk_get_one(&tk, conn, i, 0, 0, tk.reader.memory, MIB), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_int_equal(tk.reader.done[i].computed, kv_digest(tk.reader.memory, MIB));
    }
    atomic_store(&scribbler.stop, true);
    assert_int_equal(pthread_join(scribbler.thread, NULL), 0);
    tk_close(&tk);
}

/* ---- bounds --------------------------------------------------------------------- */

/* Each get takes one operation, until its DONE was taken; those that wait for the
 * owner's consent, too. */
static void limits__nr_ops_of_gets_is_again(void **state)
{
    begin(state);
    needs(KVT_CAP_ONE_SIDED);
    tk.config.nr_ops = 4;
    tk.accept_all = false;
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(tk_get_one(&tk, conn, i, 0, 0, tk.reader.memory, 64), KV_OK);
    }
    assert_int_equal(
        tk_get_one(&tk, conn, 4, 0, 0, tk.reader.memory, 64), KV_ERR_AGAIN);
    kvt_accept(tk.owner.port, tk.owner.hellos[0]);
    TK_UNTIL(&tk, tk.reader.nr_done == 4);
    assert_int_equal(tk_get_one(&tk, conn, 4, 0, 0, tk.reader.memory, 64), KV_OK);
    TK_UNTIL(&tk, tk.reader.nr_done == 5);
    assert_int_equal(tk.reader.done[4].status, KV_OK);
    tk_close(&tk);
}

/* ---- without KVT_CAP_CLOSE_FENCES ------------------------------------------------ */

enum { WHILE_MS = 150 }; /* for what shall not happen */

static void needs_waiting_owner(void)
{
    if (!can(KVT_CAP_ONE_SIDED) || can(KVT_CAP_CLOSE_FENCES)) {
        skip();
    }
}

/* Another process with a reader's port: reads a page, and says so; then lives on, and
 * says when its connection has broken. */
static void child_reads(int from_test, int to_test, void *arg)
{
    struct tk *its = arg;
    struct kvt_event event;
    bool done = false;

    (void)tk_child_wait(from_test); /* the owner's port is there */
    tk_memory(its, &its->reader, MIB);
    if (tk_port(its->candidate, &its->config, &its->reader, NULL) != KV_OK) {
        _exit(1);
    }
    const kvt_conn_t conn = tk_dial(its);
    if (tk_get_one(its, conn, 1, 0, 0, its->reader.memory, 4096) != KV_OK) {
        _exit(1);
    }
    for (;;) {
        struct pollfd fd = {.fd = kvt_fd(its->reader.port), .events = POLLIN};
        (void)poll(&fd, 1, TK_PATIENCE_MS);
        while (kvt_next(its->reader.port, &event)) {
            if (event.kind == KVT_EV_DONE && event.status == KV_OK && !done) {
                done = write(to_test, "r", 1) == 1;
            } else if (event.kind == KVT_EV_BROKEN) {
                (void)!write(to_test, "b", 1);
            }
        }
    }
}

/* The owner's connection with a reader in another process that has read a page. */
static kvt_conn_t reader_elsewhere(struct tk_child *child)
{
    tk_place(&tk);
    tk_child_begin(child, child_reads, &tk);
    tk_memory(&tk, &tk.owner, MIB);
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(tk.candidate, &tk.config, &tk.owner, NULL), KV_OK);
    tk_child_put(child, 'g');
    TK_UNTIL(&tk, tk.owner.nr_hellos == 1);
    assert_int_equal(tk_child_get(child), 'r');
    return tk.owner.hellos[0];
}

/* And nobody spins over it. */
static void nothing_closes(void)
{
    const unsigned cpu_ms = tk_cpu_ms();

    for (unsigned i = 0; i < 10; i++) {
        (void)tk_look(&tk, WHILE_MS / 10);
    }
    assert_int_equal(tk.owner.nr_closed, 0);
    assert_true(tk_cpu_ms() - cpu_ms < WHILE_MS / 2);
}

/* A stopped reader may be in the middle of a copy: the owner's CLOSED does not come as
 * long as it is stopped, and costs nobody else anything; when it goes on, it hears that
 * it is over, says that it reads no more, and CLOSED comes. */
static void fence__a_stopped_reader_keeps_closed_back(void **state)
{
    struct tk_child child;

    begin(state);
    needs_waiting_owner();
    const kvt_conn_t from = reader_elsewhere(&child);
    tk_child_stop(&child);
    kvt_close(tk.owner.port, from);
    nothing_closes();
    assert_int_equal(tk_port(tk.candidate, &tk.config, &tk.reader, NULL), KV_OK);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(tk_get_one(&tk, conn, 1, 0, 0, tk.reader.memory, 4096), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[1]);
    assert_int_equal(tk.reader.done[1].status, KV_OK);
    kvt_close(tk.owner.port, tk.owner.hellos[1]); /* closing others goes on, too */
    TK_UNTIL(&tk, tk.owner.nr_closed == 1 && tk.reader.nr_broken == 1);
    assert_int_equal(tk.owner.closed[0], tk.owner.hellos[1]);
    assert_int_equal(kill(child.pid, SIGCONT), 0);
    TK_UNTIL(&tk, tk.owner.nr_closed == 2);
    assert_int_equal(tk.owner.closed[1], from);
    assert_int_equal(tk_child_get(&child), 'b');
    assert_int_equal(tk.owner.nr_broken, 0);
    tk_child_end(&child);
    tk_close(&tk);
}

/* Its death is the other proof; it comes to that without a word. */
static void fence__a_stopped_reader_that_dies_is_closed(void **state)
{
    struct tk_child child;

    begin(state);
    needs_waiting_owner();
    const kvt_conn_t from = reader_elsewhere(&child);
    tk_child_stop(&child);
    kvt_close(tk.owner.port, from);
    nothing_closes();
    tk_child_end(&child);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    assert_int_equal(tk.owner.nr_broken, 0);
    tk_close(&tk);
}

/* A reader that dies by itself: BROKEN, and CLOSED follows close() at once. */
static void fence__a_reader_that_dies_is_broken(void **state)
{
    struct tk_child child;

    begin(state);
    needs_waiting_owner();
    const kvt_conn_t from = reader_elsewhere(&child);
    tk_child_end(&child);
    TK_UNTIL(&tk, tk.owner.nr_broken == 1);
    assert_int_equal(tk.owner.why, KV_ERR_LINK_LOST);
    assert_int_equal(tk.owner.nr_closed, 0);
    kvt_close(tk.owner.port, from);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    tk_close(&tk);
}

/* destroy() waits for no reader, stopped or not: its mapping stays what it was. */
static void fence__destroy_waits_for_nobody(void **state)
{
    struct tk_child child;

    begin(state);
    needs_waiting_owner();
    const kvt_conn_t from = reader_elsewhere(&child);
    tk_child_stop(&child);
    kvt_close(tk.owner.port, from);
    kvt_destroy(tk.owner.port);
    tk.owner.port = NULL;
    assert_int_equal(kill(child.pid, SIGCONT), 0);
    assert_int_equal(tk_child_get(&child), 'b'); /* it hears the end */
    tk_child_end(&child);
    tk_close(&tk);
}

const struct contract_test contract_one_sided[] = {
    TEST(get__any_size_lands_whole),
    TEST(get__verification_off_computes_nothing),
    TEST(get__outside_of_an_arena_is_io),
    TEST(get__a_batch_starves_nobody),
    TEST(get__a_flipped_bit_is_seen),
    TEST(get__the_digest_is_of_what_landed),
    TEST(limits__nr_ops_of_gets_is_again),
    TEST(fence__a_stopped_reader_keeps_closed_back),
    TEST(fence__a_stopped_reader_that_dies_is_closed),
    TEST(fence__a_reader_that_dies_is_broken),
    TEST(fence__destroy_waits_for_nobody),
};
const unsigned contract_one_sided_nr = KV_COUNT_OF(contract_one_sided);
