/* The tcp transport against peers that are not ours: every byte by hand. Whatever they
 * send costs them their connection, and nobody else anything. */
#include "base/assert.h"
#include "base/digest.h"
#include "tests/transport/transport_kit.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, POISON = 0xa5 };

static const struct tk_candidate tcp = {.name = "tcp", .ops = &kvt_tcp};
static struct tk tk;
static uint8_t page[MIB];

/* ---- an owner by hand: the reader is ours --------------------------------------- */

static kvt_conn_t reader_conn;

/* Our reader has dialled and posted a READ of nr_copies pages of 4096 bytes, req 1, ids
 * from 0; returns the owner's end, behind hello and READ. */
static int owner_by_hand(uint32_t nr_copies)
{
    struct tk_copy copies[KV_MSG_READ_MAX] = {{0}};
    uint8_t head[KVT_REQUEST_BYTES_MAX];

    tk_init(&tk, &tcp);
    tk_open(&tk, MIB);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    reader_conn = tk_dial(&tk);
    assert_int_equal(
        tk_read(&tk, reader_conn, 1, copies, nr_copies, 0, tk.reader.memory, 4096),
        KV_OK);
    const int fd = tk_accept(tk.listener);
    assert_true(fd >= 0);
    tk_get_frame(fd, KVT_FRAME_HELLO, head);
    tk_get_frame(fd, KVT_FRAME_REQUEST, head);
    return fd;
}

static void put_data(int fd, uint64_t req, uint32_t index, uint32_t len, uint32_t body)
{
    uint8_t head[KVT_HEAD_BYTES_MAX];
    const uint32_t head_len =
        tk_encode_data(req, index, KV_OK, len, kv_digest(page, len), head);

    tk_put_frame(fd, KVT_FRAME_DATA, head, head_len, page, body);
}

/* A page of 4096 bytes for part 0 begins; only some of it comes. */
static void put_beginning(int fd, uint32_t some)
{
    uint8_t head[KVT_HEAD_BYTES_MAX];
    const uint32_t len = tk_encode_data(1, 0, KV_OK, 4096, 5, head);

    tk_put_frame(fd, KVT_FRAME_DATA, head, len, NULL, 4096);
    tk_put(fd, page, some);
}

/* The reader sees the end; all of its parts have theirs, the bad one `status`. */
static void expect_broken(int fd, uint32_t nr_copies, uint32_t bad, kv_status_t status)
{
    TK_UNTIL(&tk, tk.reader.nr_broken == 1);
    assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
    assert_int_equal(tk.reader.nr_done, nr_copies);
    for (uint32_t i = 0; i < nr_copies; i++) {
        assert_true(
            tk.reader.done[i].status == (i == bad ? status : KV_ERR_LINK_LOST)
            || (tk.reader.done[i].status == KV_OK && i != bad));
    }
    assert_true(tk_ended(fd));
    kvt_close(tk.reader.port, reader_conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    close(fd);
    tk_close(&tk);
}

/* Any one bit of header or head flipped: nothing of it is believed. */
static void owner__a_flipped_bit_in_the_frame_ends_it(void **state)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX];
    uint8_t *head = bytes + KVT_FRAME_HEADER_BYTES;
    const uint32_t head_len = tk_encode_data(1, 0, KV_OK, 4096, 5, head);
    const uint32_t len = KVT_FRAME_HEADER_BYTES + head_len;

    (void)state;
    for (unsigned bit = 0; bit < 8 * len; bit += 3) {
        const int fd = owner_by_hand(2);
        kvt_frame_write(bytes, KVT_FRAME_DATA, head, head_len, 4096);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        tk_put(fd, bytes, len);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        tk_put(fd, page, 4096); /* so that a length that grew finds bytes */
        expect_broken(fd, 2, 0, KV_ERR_LINK_LOST);
    }
}

static void owner__data_that_matches_nothing_ends_it(void **state)
{
    static const struct {
        uint64_t req;
        uint32_t index;
    } wrong[] = {{2, 0}, {0, 0}, {1, 2}, {1, KV_MSG_READ_MAX - 1}, {UINT64_MAX, 1}};

    (void)state;
    for (unsigned i = 0; i < KV_COUNT_OF(wrong); i++) {
        const int fd = owner_by_hand(2);
        put_data(fd, wrong[i].req, wrong[i].index, 16, 16);
        expect_broken(fd, 2, 0, KV_ERR_LINK_LOST);
    }
}

/* Answered once: the second answer to it is one that nobody asked for. */
static void owner__data_twice_ends_it(void **state)
{
    (void)state;
    const int fd = owner_by_hand(2);
    put_data(fd, 1, 0, 4096, 4096);
    TK_UNTIL(&tk, tk.reader.nr_done == 1);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_int_equal(tk.reader.done[0].computed, kv_digest(page, 4096));
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    put_data(fd, 1, 0, 4096, 0);
    TK_UNTIL(&tk, tk.reader.nr_broken == 1);
    assert_true(tk_all(tk.reader.memory, tk.reader.bytes, POISON));
    expect_broken(fd, 2, 1, KV_ERR_LINK_LOST);
}

/* Last first: parts are matched by their number, not by their turn. */
static void owner__answers_in_any_order_are_right(void **state)
{
    (void)state;
    const int fd = owner_by_hand(KV_MSG_READ_MAX);
    for (uint32_t i = KV_MSG_READ_MAX; i-- > 0;) {
        page[0] = (uint8_t)i;
        put_data(fd, 1, i, 4096, 4096);
    }
    TK_UNTIL(&tk, tk.reader.nr_done == KV_MSG_READ_MAX);
    for (uint32_t i = 0; i < KV_MSG_READ_MAX; i++) {
        assert_int_equal(tk.reader.done[i].status, KV_OK);
        assert_int_equal(tk.reader.done[i].computed, tk.reader.done[i].expected);
        assert_int_equal(tk.reader.memory[4096 * i], i);
    }
    close(fd);
    tk_close(&tk);
}

/* ---- answers before their READ --------------------------------------------------- */

/* Our reader's end of the connection that `fd` is the other end of: same process. */
static int other_end(int fd)
{
    struct sockaddr_in peer, name;
    socklen_t len = sizeof(peer);

    assert_int_equal(getpeername(fd, (struct sockaddr *)&peer, &len), 0);
    for (int i = 0; i < 1024; i++) {
        len = sizeof(name);
        if (i != fd && getsockname(i, (struct sockaddr *)&name, &len) == 0
            && name.sin_family == AF_INET && name.sin_port == peer.sin_port) {
            return i;
        }
    }
    fail_msg("no such socket");
    return -1;
}

/* Bytes of READs that our reader's mover has handed to the kernel, of which nothing was
 * taken off `fd`, once the kernel takes no more. */
static size_t bytes_sent(int fd)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct pollfd reader = {.fd = other_end(fd), .events = POLLOUT};
    int sent = -1;

    for (unsigned nr_same = 0, i = 0; nr_same < 100; i++) {
        int unacked, arrived;
        assert_true(i < TK_PATIENCE_MS);
        nanosleep(&pause, NULL);
        assert_int_equal(ioctl(reader.fd, TIOCOUTQ, &unacked), 0);
        assert_int_equal(ioctl(fd, FIONREAD, &arrived), 0);
        const bool full = poll(&reader, 1, 0) == 0;
        nr_same = full && unacked + arrived == sent ? nr_same + 1 : 0;
        sent = unacked + arrived;
    }
    return (size_t)sent;
}

enum {
    EARLY_READS = 1024,
    EARLY_ROOM = 1024,
    EARLY_FRAME_BYTES = KVT_FRAME_HEADER_BYTES + KVT_REQUEST_BYTES_MAX,
};

/* EARLY_READS of one page each, as large as a READ may be: more than the kernel takes
 * as long as nobody reads. Req and id are the READ's number. Returns the owner's
 * end. */
static int owner_that_reads_nothing(void)
{
    static const uint8_t bytes[KVT_REQUEST_BYTES_MAX]; /* which nobody decodes */
    const int small = 4096;
    uint8_t head[KVT_REQUEST_BYTES_MAX];

    tk_init(&tk, &tcp);
    tk_open(&tk, MIB);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    assert_int_equal(
        setsockopt(tk.listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    reader_conn = tk_dial(&tk);
    const int fd = tk_accept(tk.listener);
    assert_true(fd >= 0);
    tk_get_frame(fd, KVT_FRAME_HELLO, head);
    for (uint32_t i = 0; i < EARLY_READS; i++) {
        const struct kvt_part part = {
            .id = i,
            .to = tk.reader.memory + (size_t)EARLY_ROOM * i,
            .room = EARLY_ROOM};
        assert_int_equal(
            kvt_read(tk.reader.port, reader_conn, i, bytes, sizeof(bytes), &part, 1),
            KV_OK);
    }
    return fd;
}

/* A page may land only once its READ has left us wholly: nobody can have been asked
 * for it before. Which READ the kernel has taken in part is counted at both ends. */
static void owner__answers_before_the_read_is_sent_end_it(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        const int fd = owner_that_reads_nothing();
        const uint32_t half = (uint32_t)(bytes_sent(fd) / EARLY_FRAME_BYTES);
        assert_true(half > 0 && half < EARLY_READS - 2);
        put_data(
            fd, half - 1, 0, EARLY_ROOM,
            EARLY_ROOM); /* the last that was wholly sent */
        TK_UNTIL(&tk, tk.reader.nr_done == 1);
        assert_int_equal(tk.reader.done[half - 1].status, KV_OK);
        memset(tk.reader.memory, POISON, tk.reader.bytes);
        const uint32_t early = round < 2 ? half + round : EARLY_READS - 1;
        put_data(fd, early, 0, EARLY_ROOM, EARLY_ROOM);
        TK_UNTIL(&tk, tk.reader.was_done[early]);
        assert_int_equal(tk.reader.done[early].status, KV_ERR_LINK_LOST);
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
        assert_int_equal(tk.reader.nr_done, EARLY_READS);
        assert_true(tk_all(tk.reader.memory, tk.reader.bytes, POISON));
        close(fd);
        tk_close(&tk);
    }
}

/* Head and header must agree, and a page may only come with OK. */
static void owner__lengths_that_differ_are_io(void **state)
{
    uint8_t head[KVT_HEAD_BYTES_MAX];
    uint32_t len;
    int fd;

    (void)state;
    fd = owner_by_hand(2);
    put_data(fd, 1, 1, 100, 99);
    expect_broken(fd, 2, 1, KV_ERR_IO);
    fd = owner_by_hand(2);
    put_data(fd, 1, 1, 4097, 4097); /* one more than the room */
    expect_broken(fd, 2, 1, KV_ERR_IO);
    fd = owner_by_hand(2);
    len = tk_encode_data(1, 1, KV_ERR_MISS, 10, 0, head);
    tk_put_frame(fd, KVT_FRAME_DATA, head, len, page, 10);
    expect_broken(fd, 2, 1, KV_ERR_IO);
    fd = owner_by_hand(2);
    len = tk_encode_data(1, 1, KV_OK, UINT32_MAX, 0, head);
    tk_put_frame(fd, KVT_FRAME_DATA, head, len, NULL, UINT32_MAX);
    expect_broken(fd, 2, 1, KV_ERR_IO);
}

/* Messages that decode, but are none that an owner says; and one that does not. */
static void owner__other_messages_end_it(void **state)
{
    uint8_t head[KVT_HEAD_BYTES_MAX];
    int fd;

    (void)state;
    fd = owner_by_hand(1);
    tk_put_frame(fd, KVT_FRAME_DATA, head, tk_encode_hello(head), NULL, 0);
    expect_broken(fd, 1, 0, KV_ERR_LINK_LOST);
    fd = owner_by_hand(1);
    memset(head, 0xc1, sizeof(head));
    tk_put_frame(fd, KVT_FRAME_DATA, head, sizeof(head), NULL, 0);
    expect_broken(fd, 1, 0, KV_ERR_LINK_LOST);
    fd = owner_by_hand(1);
    tk_put_frame(fd, KVT_FRAME_HELLO, head, tk_encode_hello(head), NULL, 0);
    expect_broken(fd, 1, 0, KV_ERR_LINK_LOST);
}

/* Words about links and devices are ours to say, and a newer owner may know others. */
static void owner__foreign_words_become_a_miss(void **state)
{
    static const int words[] = {KV_ERR_LINK_LOST, KV_ERR_IO, KV_ERR_NOMEM, -9999, 77};
    uint8_t head[KVT_HEAD_BYTES_MAX];

    (void)state;
    const int fd = owner_by_hand(KV_COUNT_OF(words) + 1);
    for (uint32_t i = 0; i < KV_COUNT_OF(words); i++) {
        const uint32_t len = tk_encode_data(1, i, (kv_status_t)words[i], 0, 0, head);
        tk_put_frame(fd, KVT_FRAME_DATA, head, len, NULL, 0);
    }
    TK_UNTIL(&tk, tk.reader.nr_done == KV_COUNT_OF(words));
    for (uint32_t i = 0; i < KV_COUNT_OF(words); i++) {
        assert_int_equal(tk.reader.done[i].status, KV_ERR_MISS);
    }
    assert_int_equal(tk.reader.nr_broken, 0);
    close(fd);
    tk_close(&tk);
}

/* A byte at a time, or three pages at once: where it is cut does not matter. */
static void owner__cuts_of_the_stream_do_not_matter(void **state)
{
    static uint8_t stream[3 * (4096 + 400)];
    size_t len = 0;

    (void)state;
    tk_fill(page, sizeof(page), 9);
    for (unsigned step = 1; step <= sizeof(stream); step = step * 5 + 1) {
        const int fd = owner_by_hand(3);
        len = 0;
        for (uint32_t i = 0; i < 3; i++) {
            uint8_t *head = stream + len + KVT_FRAME_HEADER_BYTES;
            const uint32_t head_len =
                tk_encode_data(1, i, KV_OK, 4096, kv_digest(page, 4096), head);
            kvt_frame_write(stream + len, KVT_FRAME_DATA, head, head_len, 4096);
            len += KVT_FRAME_HEADER_BYTES + head_len;
            memcpy(stream + len, page, 4096);
            len += 4096;
        }
        for (size_t at = 0; at < len; at += step) {
            tk_put(fd, stream + at, len - at < step ? len - at : step);
        }
        TK_UNTIL(&tk, tk.reader.nr_done == 3);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(tk.reader.done[i].status, KV_OK);
            assert_int_equal(tk.reader.done[i].computed, tk.reader.done[i].expected);
            assert_memory_equal(tk.reader.memory + 4096 * i, page, 4096);
        }
        close(fd);
        tk_close(&tk);
    }
}

/* The owner dies in the middle of a page: LINK_LOST, CLOSED, and not a byte after. */
static void owner__dies_in_a_page(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 4; round++) {
        const int fd = owner_by_hand(2);
        put_beginning(fd, round % 2 == 0 ? 1000 : 4000);
        if (round < 2) {
            tk_abort(fd);
        } else {
            close(fd);
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, KV_ERR_LINK_LOST);
        assert_int_equal(tk.reader.done[0].status, KV_ERR_LINK_LOST);
        assert_int_equal(tk.reader.done[1].status, KV_ERR_LINK_LOST);
        assert_int_equal(tk.reader.done[0].computed, 0);
        kvt_close(tk.reader.port, reader_conn);
        TK_UNTIL(&tk, tk.reader.nr_closed == 1);
        tk_close(&tk);
    }
}

/* The reader closes in the middle of a page that goes on coming: after CLOSED the
 * memory is ours, however much the owner still sends. */
static void owner__goes_on_sending_after_closed(void **state)
{
    (void)state;
    const int fd = owner_by_hand(2);
    put_beginning(fd, 1000);
    kvt_close(tk.reader.port, reader_conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk.reader.nr_done, 2);
    memset(tk.reader.memory, POISON, tk.reader.bytes);
    const struct timespec pause = {.tv_nsec = 1000000};
    for (unsigned i = 0; i < 50; i++) {
        (void)!send(fd, page, 100, MSG_NOSIGNAL | MSG_DONTWAIT);
        nanosleep(&pause, NULL);
        assert_true(tk_all(tk.reader.memory, tk.reader.bytes, POISON));
    }
    assert_true(tk_ended(fd));
    close(fd);
    tk_close(&tk);
}

/* ---- a reader by hand: the owner is ours ---------------------------------------- */

static int reader_by_hand(uint64_t hello_us)
{
    tk_init(&tk, &tcp);
    tk.config.hello_us = hello_us;
    tk_open(&tk, 8 * MIB);
    return tk_dial_raw(tk.address);
}

/* The socket ends; not a word of it comes up. */
static void expect_forgotten(int fd)
{
    struct kvt_event event;

    assert_int_equal(kvt_adopt(tk.owner.port, tk_accept(tk.listener)), KV_OK);
    assert_true(tk_ended(fd));
    assert_false(kvt_next(tk.owner.port, &event));
    close(fd);
    tk_close(&tk);
}

static void reader__silence_ends_it(void **state)
{
    (void)state;
    const int fd = reader_by_hand(20000);
    expect_forgotten(fd);
}

/* A hello that comes slower than hello_us is none. */
static void reader__hello_too_slow_ends_it(void **state)
{
    uint8_t head[KVT_HELLO_BYTES_MAX], header[KVT_FRAME_HEADER_BYTES];

    (void)state;
    const int fd = reader_by_hand(20000);
    kvt_frame_write(header, KVT_FRAME_HELLO, head, tk_encode_hello(head), 0);
    tk_put(fd, header, sizeof(header) - 1);
    expect_forgotten(fd);
}

static void reader__hello_that_is_none_ends_it(void **state)
{
    uint8_t head[KVT_REQUEST_BYTES_MAX], header[KVT_FRAME_HEADER_BYTES];
    const struct tk_copy copy = {.len = 1};
    uint32_t len;
    int fd;

    (void)state;
    /* too large, by its header alone */
    fd = reader_by_hand(60000000);
    memset(head, 0, sizeof(head));
    kvt_frame_write(header, KVT_FRAME_REQUEST, head, KVT_HELLO_BYTES_MAX + 1, 0);
    header[4] = KVT_FRAME_HELLO;
    tk_put(fd, header, sizeof(header));
    expect_forgotten(fd);
    /* a READ before the hello */
    fd = reader_by_hand(60000000);
    len = tk_encode_read(1, &copy, 1, head);
    tk_put_frame(fd, KVT_FRAME_REQUEST, head, len, NULL, 0);
    expect_forgotten(fd);
    /* another protocol */
    fd = reader_by_hand(60000000);
    tk_put(fd, "GET / HTTP/1.1\r\n\r\n", 18);
    expect_forgotten(fd);
    /* a wrong check */
    fd = reader_by_hand(60000000);
    len = tk_encode_hello(head);
    kvt_frame_write(header, KVT_FRAME_HELLO, head, len, 0);
    head[len - 1] ^= 1;
    tk_put(fd, header, sizeof(header));
    tk_put(fd, head, len);
    expect_forgotten(fd);
}

/* An introduced reader that then says what no reader says. */
static void reader__bad_requests_end_it(void **state)
{
    static const struct {
        uint32_t at;
        uint8_t with; /* xor, in the header of a READ */
    } wrong[] = {{0, 1}, {4, 3}, {4, 1}, {5, 1}, {8, 8}, {11, 0x80}, {12, 1}, {16, 1}};
    const struct tk_copy copy = {.len = 1};
    uint8_t head[KVT_REQUEST_BYTES_MAX], header[KVT_FRAME_HEADER_BYTES];

    (void)state;
    for (unsigned i = 0; i < KV_COUNT_OF(wrong); i++) {
        const int fd = reader_by_hand(60000000);
        uint32_t len = tk_encode_hello(head);
        tk_put_frame(fd, KVT_FRAME_HELLO, head, len, NULL, 0);
        TK_UNTIL(&tk, tk.owner.nr_hellos == 1);
        len = tk_encode_read(1, &copy, 1, head);
        kvt_frame_write(header, KVT_FRAME_REQUEST, head, len, 0);
        header[wrong[i].at] ^= wrong[i].with;
        tk_put(fd, header, sizeof(header));
        tk_put(fd, head, len);
        tk_put(fd, page, 16); /* a length that grew finds some */
        TK_UNTIL(&tk, tk.owner.nr_broken == 1);
        assert_int_equal(tk.owner.why, KV_ERR_PROTOCOL);
        assert_int_equal(tk.owner.nr_requests, 0);
        assert_true(tk_ended(fd));
        kvt_close(tk.owner.port, tk.owner.hellos[0]);
        TK_UNTIL(&tk, tk.owner.nr_closed == 1);
        close(fd);
        tk_close(&tk);
    }
}

/* READs as fast as they can be written: no more come up than there are trays, until
 * they are taken; then all do, in order. */
static void reader__floods_and_waits(void **state)
{
    enum { READS = 500 };
    const struct tk_copy copy = {.status = KV_ERR_MISS};
    uint8_t head[KVT_REQUEST_BYTES_MAX];

    (void)state;
    const int fd = reader_by_hand(60000000);
    uint32_t len = tk_encode_hello(head);
    tk_put_frame(fd, KVT_FRAME_HELLO, head, len, NULL, 0);
    for (unsigned i = 0; i < READS; i++) {
        len = tk_encode_read(i, &copy, 1, head);
        tk_put_frame(fd, KVT_FRAME_REQUEST, head, len, NULL, 0);
    }
    TK_UNTIL(&tk, tk.owner.nr_done == READS);
    assert_int_equal(tk.owner.nr_requests, READS);
    for (unsigned i = 0; i < READS; i++) {
        static uint8_t memory[4096] __attribute__((aligned(16)));
        struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
        struct kv_msg msg;
        len = tk_get_frame(fd, KVT_FRAME_DATA, head);
        assert_int_equal(kv_decode(head, len, &arena, &msg, NULL), KV_OK);
        assert_int_equal(msg.req, i);
    }
    close(fd);
    tk_close(&tk);
}

/* What had arrived, then a reset: the owner's kernel threw away what it had not sent,
 * where a farewell would have let it send frames that are others' by now. */
static void expect_reset(int fd)
{
    ssize_t n;

    do {
        n = recv(fd, page, sizeof(page), 0);
    } while (n > 0);
    assert_int_equal(n, -1);
    assert_int_equal(errno, ECONNRESET);
}

/* A reader that takes nothing off its socket: the owner's close does not wait for it,
 * and its sends end. Another reader of the same mover is served meanwhile. */
static void reader__that_does_not_read_is_closed_all_the_same(void **state)
{
    struct tk_copy copies[8];
    uint8_t head[KVT_REQUEST_BYTES_MAX];

    (void)state;
    const int fd = reader_by_hand(60000000);
    uint32_t len = tk_encode_hello(head);
    tk_put_frame(fd, KVT_FRAME_HELLO, head, len, NULL, 0);
    for (unsigned i = 0; i < 8; i++) {
        copies[i] = (struct tk_copy){.len = 8 * MIB};
    }
    len = tk_encode_read(1, copies, 8, head);
    tk_put_frame(fd, KVT_FRAME_REQUEST, head, len, NULL, 0);
    TK_UNTIL(&tk, tk.owner.nr_requests == 1);
    for (uint32_t i = 0; i < 4; i++) {
        const kvt_conn_t conn = tk_connect(&tk, NULL);
        assert_int_equal(
            tk_read(&tk, conn, 1, copies, 1, i, tk.reader.memory, 8 * MIB), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[i]);
        assert_int_equal(tk.reader.done[i].status, KV_OK);
    }
    assert_int_equal(tk.owner.nr_broken, 0);
    kvt_close(tk.owner.port, tk.owner.hellos[0]);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    TK_UNTIL(&tk, tk.owner.nr_done == tk.nr_served);
    assert_int_equal(tk.owner.done[8].status, KV_ERR_LINK_LOST);
    expect_reset(fd);
    close(fd);
    tk_close(&tk);
}

/* The reader dies in the middle of a page. */
static void reader__dies_in_a_page(void **state)
{
    const struct tk_copy copies[2] = {{.len = 8 * MIB}, {.len = 8 * MIB}};
    uint8_t head[KVT_REQUEST_BYTES_MAX];

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        const int fd = reader_by_hand(60000000);
        uint32_t len = tk_encode_hello(head);
        tk_put_frame(fd, KVT_FRAME_HELLO, head, len, NULL, 0);
        len = tk_encode_read(1, copies, 2, head);
        tk_put_frame(fd, KVT_FRAME_REQUEST, head, len, NULL, 0);
        TK_UNTIL(&tk, tk.owner.nr_requests == 1);
        tk_get_frame(fd, KVT_FRAME_DATA, head);
        tk_get(fd, page, 100000);
        if (round == 0) {
            tk_abort(fd);
        } else {
            close(fd);
        }
        TK_UNTIL(&tk, tk.owner.nr_broken == 1);
        assert_int_equal(tk.owner.why, KV_ERR_LINK_LOST);
        assert_int_equal(tk.owner.nr_done, 2);
        assert_int_equal(tk.owner.done[2].status, KV_ERR_LINK_LOST);
        tk_close(&tk);
    }
}

/* Strangers take half of the places at most, however many there are; the other half is
 * for those who can say who they are and for our own. */
static void reader__strangers_leave_room(void **state)
{
    int fds[8];
    unsigned nr_again = 0;

    (void)state;
    tk_init(&tk, &tcp);
    tk.config.nr_conns = 8;
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < 8; i++) {
        fds[i] = tk_dial_raw(tk.address);
        nr_again += kvt_adopt(tk.owner.port, tk_accept(tk.listener)) == KV_ERR_AGAIN;
    }
    assert_int_equal(nr_again, 4);
    for (unsigned i = 0; i < 4; i++) {
        kvt_conn_t conn;
        assert_int_equal(
            kvt_open(tk.owner.port, tk.address, (const uint8_t *)"x", 1, &conn), KV_OK);
    }
    for (unsigned i = 0; i < 8; i++) {
        close(fds[i]);
    }
    tk_close(&tk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owner__a_flipped_bit_in_the_frame_ends_it),
        cmocka_unit_test(owner__data_that_matches_nothing_ends_it),
        cmocka_unit_test(owner__data_twice_ends_it),
        cmocka_unit_test(owner__answers_in_any_order_are_right),
        cmocka_unit_test(owner__answers_before_the_read_is_sent_end_it),
        cmocka_unit_test(owner__lengths_that_differ_are_io),
        cmocka_unit_test(owner__other_messages_end_it),
        cmocka_unit_test(owner__foreign_words_become_a_miss),
        cmocka_unit_test(owner__cuts_of_the_stream_do_not_matter),
        cmocka_unit_test(owner__dies_in_a_page),
        cmocka_unit_test(owner__goes_on_sending_after_closed),
        cmocka_unit_test(reader__silence_ends_it),
        cmocka_unit_test(reader__hello_too_slow_ends_it),
        cmocka_unit_test(reader__hello_that_is_none_ends_it),
        cmocka_unit_test(reader__bad_requests_end_it),
        cmocka_unit_test(reader__floods_and_waits),
        cmocka_unit_test(reader__that_does_not_read_is_closed_all_the_same),
        cmocka_unit_test(reader__dies_in_a_page),
        cmocka_unit_test(reader__strangers_leave_room),
    };

    return cmocka_run_group_tests_name("tcp_wire", tests, NULL, NULL);
}
