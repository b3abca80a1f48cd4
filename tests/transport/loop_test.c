/* What only the loop transport can be shown: whom its ports can reach, that they may go
 * in any order and at any moment, and that they work between two threads. */
#include "base/digest.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"
#include "tests/transport/transport_kit.h"
#include "transport/loop/loop.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { KIB = 1024, MIB = 1 << 20, POISON = 0xa5 };

static const struct tk_candidate candidate = {.name = "loop", .ops = &kvt_loop};
static struct tk tk;

static void begin(size_t bytes)
{
    tk_init(&tk, &candidate);
    tk_open(&tk, bytes);
}

/* ---- who reaches whom ------------------------------------------------------------ */

/* In a child: its own domain; and a port that its parent has is not found by `arg`, its
 * name. NULL: no port is opened, so no thread begins in a child of several threads. */
static bool child_finds_nothing(const char *name)
{
    const struct kvt_config config = {
        .nr_ops = 1, .nr_conns = 1, .nr_threads = 1, .hello_us = 1};
    struct kvt_event event = {.kind = KVT_EV_CLOSED};
    kvt_port_t *port = NULL;
    kvt_conn_t conn = 0;

    if (kvt_loop.create(&config, &port, NULL) != KV_OK) {
        return false;
    }
    struct pollfd fd = {.fd = kvt_fd(port), .events = POLLIN};
    const bool ok =
        name == NULL
        || (kvt_open(port, name, (const uint8_t *)"x", 1, &conn) == KV_OK
            && poll(&fd, 1, TK_PATIENCE_MS) == 1 && kvt_next(port, &event)
            && event.kind == KVT_EV_BROKEN && event.status == KV_ERR_LINK_LOST);
    kvt_destroy(port);
    return ok;
}

static void child_main(int from_test, int to_test, void *arg)
{
    char domain[KVT_LOOP_DOMAIN_BYTES] = "";

    (void)tk_child_wait(from_test);
    const bool ok =
        kvt_loop_domain(domain) == KV_OK && child_finds_nothing((const char *)arg);
    if (write(to_test, ok ? "b" : "?", 1) != 1
        || write(to_test, domain, sizeof(domain)) != sizeof(domain)) {
        _exit(1);
    }
    (void)tk_child_wait(from_test);
}

static void child_domain(struct tk_child *child, char domain[KVT_LOOP_DOMAIN_BYTES])
{
    tk_child_put(child, 'g');
    assert_int_equal(tk_child_get(child), 'b');
    for (unsigned i = 0; i < KVT_LOOP_DOMAIN_BYTES; i++) {
        domain[i] = tk_child_get(child);
    }
    assert_int_equal(strlen(domain), KVT_LOOP_DOMAIN_BYTES - 1);
}

/* The first call of the process, so each thing that it needs may fail: IO, and the next
 * call begins where that ended. */
static void domain__survives_every_fault(void **state)
{
    char domain[KVT_LOOP_DOMAIN_BYTES] = "";
    unsigned n = 1;

    (void)state;
    for (;; n++) {
        kv_fault_after(n);
        const kv_status_t status = kvt_loop_domain(domain);
        kv_fault_after(0);
        if (status == KV_OK) {
            break;
        }
        assert_int_equal(status, KV_ERR_IO);
        assert_string_equal(domain, "");
    }
    assert_int_equal(n, 3); /* the handlers of fork(), random bytes */
    assert_int_equal(strlen(domain), KVT_LOOP_DOMAIN_BYTES - 1);
}

/* One process is one domain for all its life; others have another each, be they its
 * children or its children's children's. A child finds no port of its parent's. */
static void domain__is_the_process(void **state)
{
    char ours[KVT_LOOP_DOMAIN_BYTES], again[KVT_LOOP_DOMAIN_BYTES];
    char theirs[2][KVT_LOOP_DOMAIN_BYTES];
    struct tk_child children[2];

    (void)state;
    begin(4 * KIB);
    assert_int_equal(kvt_loop_domain(ours), KV_OK);
    for (unsigned i = 0; i < 2; i++) {
        tk_child_begin(&children[i], child_main, tk.address);
        child_domain(&children[i], theirs[i]);
        tk_child_end(&children[i]);
        assert_string_not_equal(theirs[i], ours);
    }
    assert_string_not_equal(theirs[0], theirs[1]);
    assert_int_equal(kvt_loop_domain(again), KV_OK);
    assert_string_equal(again, ours);
    (void)tk_connect(&tk, NULL); /* and its port is where it was */
    tk_close(&tk);
}

/* A child that begins while copiers hold the lock again and again does not inherit it
 * locked: whatever it asks of the transport comes to an end. */
static void fork__in_the_middle_of_copies(void **state)
{
    enum { PAGE = 4 * KIB, PARTS = 64, CHILDREN = 10 };
    char domain[KVT_LOOP_DOMAIN_BYTES];
    struct tk_copy copies[PARTS] = {{0}};

    (void)state;
    begin(PARTS * PAGE);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    for (unsigned i = 0; i < PARTS; i++) {
        copies[i] = (struct tk_copy){.offset = i * PAGE, .len = PAGE};
    }
    for (unsigned i = 0; i < CHILDREN; i++) {
        struct tk_child child;
        assert_int_equal(
            tk_read(&tk, conn, i, copies, PARTS, i * PARTS, tk.reader.memory, PAGE),
            KV_OK);
        tk_drain(&tk, &tk.owner); /* the pages are on their way */
        tk_child_begin(&child, child_main, NULL);
        child_domain(&child, domain);
        tk_child_end(&child);
        TK_UNTIL(&tk, tk.reader.nr_done == (i + 1) * PARTS);
    }
    tk_close(&tk);
}

/* A name is one port's at a time. */
static void name__is_taken_once(void **state)
{
    static char long_name[KVT_ADDRESS_MAX + 1];
    struct tk_side other = {.fd = -1};
    struct kv_detail detail = {0};

    (void)state;
    begin(4 * KIB);
    other.listen = tk.address;
    assert_int_equal(tk_port(&candidate, &tk.config, &other, &detail), KV_ERR_AGAIN);
    assert_string_equal(detail.field, "transport.listen: others that listen");
    memset(long_name, 'n', sizeof(long_name) - 1);
    for (unsigned i = 0; i < 2; i++) {
        other.listen = i == 0 ? "" : long_name;
        assert_int_equal(
            tk_port(&candidate, &tk.config, &other, &detail), KV_ERR_CONFIG);
        assert_string_equal(detail.field, "transport.listen: bytes of its name");
    }
    assert_null(other.port);
    kvt_destroy(tk.owner.port);
    tk.owner.port = NULL;
    other.listen = tk.address;
    assert_int_equal(tk_port(&candidate, &tk.config, &other, &detail), KV_OK);
    kvt_destroy(other.port);
    tk_close(&tk);
}

/* A port that nobody uses costs one descriptor and no thread; one that reads has the
 * threads that it was given. Sockets are nothing that it could take. */
static void create__costs_nothing_until_it_reads(void **state)
{
    const unsigned nr_threads = process_kit_threads(), nr_fds = process_kit_fds();
    int pipes[2];

    (void)state;
    begin(4 * KIB);
    assert_int_equal(process_kit_threads(), nr_threads);
    assert_int_equal(process_kit_fds(), nr_fds + 2);
    (void)tk_connect(&tk, NULL);
    assert_int_equal(process_kit_threads(), nr_threads + tk.config.nr_threads);
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(kvt_adopt(tk.owner.port, pipes[0]), KV_ERR_INVALID);
    assert_int_equal(kvt_adopt(tk.owner.port, pipes[1]), KV_ERR_INVALID);
    assert_int_equal(kvt_adopt(tk.owner.port, -1), KV_ERR_INVALID);
    assert_int_equal(process_kit_fds(), nr_fds + 2);
    tk_close(&tk);
    assert_int_equal(process_kit_threads(), nr_threads);
}

/* A node is its own peer in no cluster, but nothing breaks if a port is. */
static void open__of_itself(void **state)
{
    const struct tk_copy copy = {.len = 64 * KIB};
    uint8_t request[KVT_REQUEST_BYTES_MAX];

    (void)state;
    begin(MIB);
    kvt_conn_t conn = 0;
    assert_int_equal(
        kvt_open(tk.owner.port, tk.address, (const uint8_t *)"x", 1, &conn), KV_OK);
    const struct kvt_part part = {
        .id = 500, .to = tk.owner.memory + MIB - copy.len, .room = copy.len};
    const uint32_t len = tk_encode_read(1, &copy, 1, request);
    assert_int_equal(kvt_read(tk.owner.port, conn, 1, request, len, &part, 1), KV_OK);
    TK_UNTIL(&tk, tk.owner.nr_done == 2);
    assert_int_equal(tk.owner.done[500].status, KV_OK);
    assert_memory_equal(part.to, tk.owner.memory, copy.len);
    kvt_close(tk.owner.port, conn);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1 && tk.owner.nr_broken == 1);
    tk_close(&tk);
}

/* ---- what an owner may answer ---------------------------------------------------- */

/* Each of these answers is given once, to a READ of one copy of 4 KiB. What is no DATA
 * is refused; what does not fit what was asked ends the connection, and not a byte of
 * it lands. */
static void send__what_does_not_fit_ends_the_connection(void **state)
{
    enum { ROOM = 4 * KIB };
    static const struct {
        uint64_t req;
        uint32_t index;
        kv_status_t status;
        uint32_t said, body;
        kv_status_t part; /* of the reader's part */
        bool lives;
    } answers[] = {
        {1, 0, KV_OK, ROOM, ROOM, KV_OK, true},
        {1, 0, KV_OK, 7, 7, KV_OK, true},
        {1, 0, KV_OK, 0, 0, KV_OK, true},
        {1, 0, KV_ERR_DENIED, 0, 0, KV_ERR_DENIED, true},
        {1, 0, KV_ERR_CANCELLED, 0, 0, KV_ERR_MISS, true}, /* no word of an owner's */
        {1, 0, KV_OK, ROOM + 1, ROOM + 1, KV_ERR_IO, false},
        {1, 0, KV_OK, ROOM, ROOM - 1, KV_ERR_IO, false},
        {1, 0, KV_OK, ROOM - 1, ROOM, KV_ERR_IO, false},
        {1, 0, KV_ERR_MISS, 0, 8, KV_ERR_IO, false},
        {2, 0, KV_OK, ROOM, ROOM, KV_ERR_LINK_LOST, false}, /* nobody asked */
        {1, 1, KV_OK, ROOM, ROOM, KV_ERR_LINK_LOST, false},
        {1, 63, KV_OK, ROOM, ROOM, KV_ERR_LINK_LOST, false},
    };
    const struct tk_copy copy = {.len = ROOM};
    uint8_t head[KVT_HEAD_BYTES_MAX] = {0};

    (void)state;
    for (unsigned i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        kvt_conn_t from;
        tk_init(&tk, &candidate);
        tk.serve = false;
        tk_open(&tk, MIB);
        memset(tk.reader.memory, POISON, tk.reader.bytes);
        const kvt_conn_t conn = tk_connect(&tk, &from);
        assert_int_equal(
            tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, ROOM), KV_OK);
        TK_UNTIL(&tk, tk.owner.nr_requests == 1);
        assert_int_equal(/* no message at all */
                         kvt_send(tk.owner.port, from, 9, head, 16, NULL, 0),
                         KV_ERR_INVALID);
        const uint32_t len = tk_encode_data(
            answers[i].req, answers[i].index, answers[i].status, answers[i].said, 5,
            head);
        assert_int_equal(
            kvt_send(
                tk.owner.port, from, 1, head, len, tk.owner.memory, answers[i].body),
            KV_OK);
        TK_UNTIL(&tk, tk.reader.nr_done == 1 && tk.owner.nr_done == 1);
        assert_int_equal(tk.reader.done[0].status, answers[i].part);
        const uint32_t landed = answers[i].part == KV_OK ? answers[i].said : 0;
        assert_memory_equal(tk.reader.memory, tk.owner.memory, landed);
        assert_true(
            tk_all(tk.reader.memory + landed, tk.reader.bytes - landed, POISON));
        (void)tk_look(&tk, 0);
        assert_int_equal(tk.reader.nr_broken, answers[i].lives ? 0 : 1);
        assert_int_equal(tk.owner.nr_broken, answers[i].lives ? 0 : 1);
        assert_true(answers[i].lives || tk.reader.why == KV_ERR_PROTOCOL);
        if (answers[i].lives) { /* the same answer once more answers nothing */
            assert_int_equal(
                kvt_send(
                    tk.owner.port, from, 2, head, len, tk.owner.memory,
                    answers[i].body),
                KV_OK);
            TK_UNTIL(&tk, tk.reader.nr_broken == 1 && tk.owner.nr_done == 2);
            assert_int_equal(tk.owner.done[2].status, KV_ERR_LINK_LOST);
        }
        tk_close(&tk);
    }
}

/* ---- turns ----------------------------------------------------------------------- */

/* Whoever asks for much does not keep others waiting: each connection has its turn. The
 * owner answers all before anything is taken: the order is the copier's alone. */
static void turns__are_by_connection(void **state)
{
    enum { PAGE = 512 * KIB, MANY = 60 };
    uint8_t head[KVT_HEAD_BYTES_MAX];
    struct tk_copy copies[MANY];
    kvt_conn_t from[2];

    (void)state;
    tk_init(&tk, &candidate);
    tk.config.nr_threads = 1;
    tk.serve = false;
    tk_open(&tk, MIB);
    const kvt_conn_t busy = tk_connect(&tk, &from[0]);
    const kvt_conn_t other = tk_connect(&tk, &from[1]);
    for (unsigned i = 0; i < MANY; i++) {
        copies[i] = (struct tk_copy){.len = PAGE};
    }
    uint8_t *to = tk.reader.memory;
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(tk_read(&tk, busy, i, copies, 1, i, to, PAGE), KV_OK);
    }
    assert_int_equal(tk_read(&tk, other, 0, copies, 1, MANY, to + PAGE, PAGE), KV_OK);
    TK_UNTIL(&tk, tk.owner.nr_requests == MANY + 1);
    for (unsigned i = 0; i <= MANY; i++) {
        const bool last = i == MANY;
        const uint32_t len = tk_encode_data(last ? 0 : i, 0, KV_OK, PAGE, 0, head);
        assert_int_equal(
            kvt_send(tk.owner.port, from[last], i, head, len, tk.owner.memory, PAGE),
            KV_OK);
    }
    unsigned busy_first = 0;
    while (!tk.reader.was_done[MANY]) {
        struct pollfd fd = {.fd = kvt_fd(tk.reader.port), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, TK_PATIENCE_MS), 1);
        busy_first += tk_take_one(&tk, &tk.reader) && !tk.reader.was_done[MANY];
    }
    assert_true(busy_first < MANY); /* it was posted last, and does not come last */
    TK_UNTIL(&tk, tk.reader.nr_done == MANY + 1);
    tk_close(&tk);
}

/* ---- ports that go --------------------------------------------------------------- */

/* A port may be destroyed while pages are copied from it or to it, and its memory freed
 * at once: the other side is told, and what came whole is right. */
static void gone_in_flight(bool owner)
{
    enum { PARTS = 16, PAGE = MIB, ROUNDS = 20 };
    struct tk_copy copies[PARTS];

    for (unsigned i = 0; i < PARTS; i++) {
        copies[i] = (struct tk_copy){.offset = i * PAGE, .len = PAGE};
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t digests[PARTS];
        begin((size_t)PARTS * PAGE);
        for (unsigned i = 0; i < PARTS; i++) {
            digests[i] = kv_digest(tk.owner.memory + i * PAGE, PAGE);
        }
        (void)tk_dial(&tk); /* knocks, or is joined */
        const kvt_conn_t conn = tk_connect(&tk, NULL);
        assert_int_equal(
            tk_read(&tk, conn, 1, copies, PARTS, 0, tk.reader.memory, PAGE), KV_OK);
        TK_UNTIL(&tk, tk.nr_served == PARTS);
        usleep(100 * round);
        struct tk_side *gone = owner ? &tk.owner : &tk.reader;
        struct tk_side *left = owner ? &tk.reader : &tk.owner;
        kvt_destroy(gone->port);
        memset(gone->memory, POISON, gone->bytes);
        gone->port = NULL;
        TK_UNTIL(&tk, left->nr_done == PARTS && left->nr_broken == 2);
        assert_true(tk_all(gone->memory, gone->bytes, POISON));
        for (unsigned i = 0; owner && i < PARTS; i++) {
            const struct kvt_event *done = &tk.reader.done[i];
            assert_true(done->status == KV_OK || done->status == KV_ERR_LINK_LOST);
            assert_true(done->status != KV_OK || done->computed == digests[i]);
        }
        for (unsigned i = 0; i < 2; i++) {
            kvt_close(left->port, left->broken[i]);
        }
        TK_UNTIL(&tk, left->nr_closed == 2);
        tk_close(&tk);
    }
}

static void destroy__of_the_owner_in_flight(void **state)
{
    (void)state;
    gone_in_flight(true);
}

static void destroy__of_the_reader_in_flight(void **state)
{
    (void)state;
    gone_in_flight(false);
}

/* An owner may look at what it was asked after the asker has gone. */
static void request__outlives_its_reader(void **state)
{
    const struct tk_copy copy = {.len = 64};
    uint8_t request[KVT_REQUEST_BYTES_MAX];
    const uint32_t len = tk_encode_read(1, &copy, 1, request);
    struct kvt_event event;

    (void)state;
    begin(4 * KIB);
    const kvt_conn_t conn = tk_connect(&tk, NULL);
    assert_int_equal(tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 64), KV_OK);
    assert_true(kvt_next(tk.owner.port, &event));
    assert_int_equal(event.kind, KVT_EV_REQUEST);
    kvt_destroy(tk.reader.port);
    tk.reader.port = NULL;
    assert_int_equal(event.nr_bytes, len);
    assert_memory_equal(event.bytes, request, len);
    tk_close(&tk);
}

/* ---- two threads ----------------------------------------------------------------- */

/* Each thread has a port and memory, reads from the other and answers it, and closes
 * and opens its connection again and again. What came whole has the digest that the
 * other said: pages are what their place gives. */
enum { DUEL_PAGE = 20 * KIB, DUEL_PAGES = 64, DUEL_PARTS = 8, DUEL_READS = 600 };

struct duellist {
    pthread_t thread;
    char name[KVT_ADDRESS_MAX];
    const char *other;
    kvt_port_t *port;
    uint8_t *memory; /* what is read by the other; behind it what is read */
    kvt_conn_t conn;
    struct kv_rng rng;
    unsigned nr_posted, nr_left, nr_ok, nr_sends;
    atomic_uint *nr_over;
};

static void duel_serve(struct duellist *d, const struct kvt_event *event)
{
    static _Thread_local uint8_t memory[1 << 16] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    uint8_t head[KVT_HEAD_BYTES_MAX];
    struct kv_msg msg;

    assert_int_equal(
        kv_decode(event->bytes, event->nr_bytes, &arena, &msg, NULL), KV_OK);
    for (uint32_t i = 0; i < msg.u.read.nr_copies; i++) {
        struct tk_copy copy;
        memcpy(&copy, msg.u.read.copies[i].key.b, sizeof(copy));
        const uint8_t *from = d->memory + copy.offset;
        const uint32_t len = tk_encode_data(
            msg.req, i, KV_OK, copy.len, kv_digest(from, copy.len), head);
        const kv_status_t status =
            kvt_send(d->port, event->conn, 7, head, len, from, copy.len);
        assert_true(status == KV_OK || status == KV_ERR_LINK_LOST);
        d->nr_sends += status == KV_OK;
    }
}

static void duel_read(struct duellist *d)
{
    struct tk_copy copies[DUEL_PARTS];
    struct kvt_part parts[DUEL_PARTS];
    uint8_t request[KVT_REQUEST_BYTES_MAX];

    for (unsigned i = 0; i < DUEL_PARTS; i++) {
        const uint32_t page = (uint32_t)kv_rng_below(&d->rng, DUEL_PAGES);
        copies[i] = (struct tk_copy){.offset = page * DUEL_PAGE, .len = DUEL_PAGE};
        parts[i] = (struct kvt_part){
            .id = 8 + i,
            .to = d->memory + (DUEL_PAGES + i) * DUEL_PAGE,
            .room = DUEL_PAGE};
    }
    const uint32_t len = tk_encode_read(d->nr_posted, copies, DUEL_PARTS, request);
    assert_int_equal(
        kvt_read(d->port, d->conn, d->nr_posted, request, len, parts, DUEL_PARTS),
        KV_OK);
    d->nr_left = DUEL_PARTS;
    d->nr_posted++;
}

static void duel_event(struct duellist *d, const struct kvt_event *event)
{
    switch (event->kind) {
    case KVT_EV_HELLO:
        kvt_accept(d->port, event->conn);
        break;
    case KVT_EV_REQUEST:
        duel_serve(d, event);
        break;
    case KVT_EV_DONE:
        if (event->id == 7) {
            assert_true(d->nr_sends-- > 0);
            break;
        }
        assert_true(event->status == KV_OK || event->status == KV_ERR_LINK_LOST);
        assert_true(event->status != KV_OK || event->computed == event->expected);
        d->nr_ok += event->status == KV_OK;
        d->nr_left--;
        break;
    case KVT_EV_BROKEN:
        kvt_close(d->port, event->conn);
        break;
    case KVT_EV_CLOSED:
        if (event->conn == d->conn) {
            assert_int_equal(d->nr_left, 0);
            d->conn = 0;
        }
        break;
    }
}

static void *duel(void *arg)
{
    struct duellist *d = arg;
    bool over = false, closing = false;

    while (!over || atomic_load(d->nr_over) < 2 || d->nr_sends > 0) {
        struct pollfd fd = {.fd = kvt_fd(d->port), .events = POLLIN};
        struct kvt_event event;
        if (d->conn == 0 && !over) {
            closing = false;
            assert_int_equal(
                kvt_open(d->port, d->other, (const uint8_t *)"x", 1, &d->conn), KV_OK);
        }
        if (d->nr_left == 0 && !over && !closing) {
            over = d->nr_posted == DUEL_READS;
            if (over) {
                atomic_fetch_add(d->nr_over, 1);
            } else {
                duel_read(d);
            }
        }
        if (!over && !closing && kv_rng_one_in(&d->rng, 40)) {
            closing = true; /* with pages in every state */
            kvt_close(d->port, d->conn);
        }
        (void)poll(&fd, 1, over ? 1 : 100);
        while (kvt_next(d->port, &event)) {
            duel_event(d, &event);
        }
    }
    return NULL;
}

static void threads__read_each_other(void **state)
{
    struct duellist two[2];
    atomic_uint nr_over = 0;

    (void)state;
    memset(two, 0, sizeof(two));
    for (unsigned i = 0; i < 2; i++) {
        struct duellist *d = &two[i];
        const size_t bytes = (DUEL_PAGES + DUEL_PARTS) * DUEL_PAGE;
        d->memory = malloc(bytes);
        assert_non_null(d->memory);
        tk_fill(d->memory, bytes, i);
        d->rng = kv_rng_seed(77 + i);
        d->nr_over = &nr_over;
        (void)snprintf(d->name, sizeof(d->name), "duel %u", i);
        d->other = two[1 - i].name;
        const struct kvt_region region = {.base = d->memory, .bytes = bytes, .fd = -1};
        const struct kvt_config config = {
            .listen = d->name,
            .regions = &region,
            .nr_regions = 1,
            .nr_ops = 256,
            .nr_conns = 16,
            .nr_threads = 2,
            .hello_us = 1,
            .verify = true,
        };
        assert_int_equal(kvt_loop.create(&config, &d->port, NULL), KV_OK);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&two[i].thread, NULL, duel, &two[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(two[i].thread, NULL), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_true(two[i].nr_ok > DUEL_READS); /* most of them */
        kvt_destroy(two[i].port);
        free(two[i].memory);
    }
    assert_int_equal(kv_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(domain__survives_every_fault),
        cmocka_unit_test(domain__is_the_process),
        cmocka_unit_test(fork__in_the_middle_of_copies),
        cmocka_unit_test(name__is_taken_once),
        cmocka_unit_test(create__costs_nothing_until_it_reads),
        cmocka_unit_test(open__of_itself),
        cmocka_unit_test(send__what_does_not_fit_ends_the_connection),
        cmocka_unit_test(turns__are_by_connection),
        cmocka_unit_test(destroy__of_the_owner_in_flight),
        cmocka_unit_test(destroy__of_the_reader_in_flight),
        cmocka_unit_test(request__outlives_its_reader),
        cmocka_unit_test(threads__read_each_other),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
