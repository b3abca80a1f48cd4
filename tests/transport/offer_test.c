/* Connections that their owner opens (KVT_CAP_OFFERS): what is special to them. That
 * pages move over them as over others, contract_test.c shows with the same tests. */
#include "base/fault.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"
#include "tests/transport/transport_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, PAGE = 70000 };

static const struct tk_candidate offered = {
    .name = "tcp", .ops = &kvt_tcp, .offered = true};
static const struct tk_candidate hooked = {
    .name = "hook of tcp", .ops = &kvt_tcp, .hooked = true, .offered = true};
static struct tk tk;

/* Its HELLO says who opened it; and each side can do what its part allows, no more:
 * whoever offers can not read, whoever accepts an offer can not send. */
static void roles__are_kept_to(void **state)
{
    const struct tk_copy copy = {.len = 64};
    uint8_t head[KVT_HEAD_BYTES_MAX];
    kvt_conn_t from;
    (void)state;

    tk_init(&tk, &offered);
    tk_open(&tk, MIB);
    const kvt_conn_t conn = tk_connect(&tk, &from);
    const uint32_t len = tk_encode_data(1, 0, KV_ERR_MISS, 0, 0, head);
    struct kvt_part part = {.id = 1, .to = tk.owner.memory, .room = 64};
    assert_true(tk.reader.offered);
    assert_int_equal(tk.owner.nr_hellos, 0); /* no hello comes back */
    assert_int_equal(
        kvt_send(tk.reader.port, conn, 1, head, len, NULL, 0), KV_ERR_INVALID);
    assert_int_equal(
        kvt_read(tk.owner.port, from, 1, head, len, &part, 1), KV_ERR_INVALID);
    assert_int_equal(tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 64), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[0]);
    assert_int_equal(tk.reader.done[0].status, KV_OK);
    assert_memory_equal(tk.reader.memory, tk.owner.memory, 64);
    tk_close(&tk);
}

/* A transport without the capability says so, and does nothing. */
static void offer__needs_the_capability(void **state)
{
    const struct kvt_ops *ops;
    unsigned nr_without = 0;
    (void)state;

    for (unsigned i = 0; (ops = kvt_ops_at(i)) != NULL; i++) {
        kvt_port_t port = {.ops = ops};
        kvt_conn_t conn = 0;
        if ((ops->caps & KVT_CAP_OFFERS) == 0) {
            nr_without++;
            assert_int_equal(
                kvt_offer(&port, "127.0.0.1:1", (const uint8_t *)"x", 1, &conn),
                KV_ERR_INVALID);
            assert_int_equal(conn, 0);
        }
    }
    assert_int_equal(nr_without, 2); /* loop, shm */
}

/* Until it is accepted nothing is read of it, and reads can not be posted; nobody at
 * the address: BROKEN, and what was to be sent is lost. */
static void offer__waits_to_be_accepted(void **state)
{
    const struct tk_copy copy = {.len = 64};
    uint8_t head[KVT_HEAD_BYTES_MAX];
    (void)state;

    tk_init(&tk, &offered);
    tk.accept_all = false;
    tk_open(&tk, MIB);
    kvt_conn_t from;
    const kvt_conn_t conn = tk_connect(&tk, &from);
    assert_int_equal(
        tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 64), KV_ERR_INVALID);
    kvt_accept(tk.reader.port, conn);
    assert_int_equal(tk_read(&tk, conn, 1, &copy, 1, 0, tk.reader.memory, 64), KV_OK);
    TK_UNTIL(&tk, tk.reader.was_done[0]);
    close(tk.listener);
    tk.listener = -1;
    const uint32_t len = tk_encode_data(1, 0, KV_ERR_MISS, 0, 0, head);
    TK_UNTIL(&tk, tk.owner.nr_done == 1);
    const kvt_conn_t lost = tk_dial(&tk);
    assert_int_equal(kvt_send(tk.owner.port, lost, 99, head, len, NULL, 0), KV_OK);
    TK_UNTIL(&tk, tk.owner.nr_broken == 1);
    assert_int_equal(tk.owner.broken[0], lost);
    TK_UNTIL(&tk, tk.owner.nr_done == 2); /* a send that came late ends after it */
    assert_int_equal(tk.owner.done[99].status, KV_ERR_LINK_LOST);
    kvt_close(tk.owner.port, lost);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    tk_close(&tk);
}

/* Bytes that nobody has asked for, right behind the offer or once it is accepted, end
 * it: nothing lands that no READ named. */
static void offer__unasked_bytes_end_it(void **state)
{
    uint8_t head[KVT_HEAD_BYTES_MAX], data[KVT_HEAD_BYTES_MAX];
    (void)state;

    for (unsigned late = 0; late < 2; late++) {
        tk_init(&tk, &offered);
        tk.accept_all = false;
        tk_open(&tk, MIB);
        const int fd = tk_dial_raw(tk.address);
        const uint32_t data_len = tk_encode_data(1, 0, KV_OK, 64, 0, data);
        uint8_t both[2 * (KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX)];
        const uint32_t hello_len = tk_encode_hello(head);
        uint8_t *at = both + KVT_FRAME_HEADER_BYTES + hello_len;
        kvt_frame_write(both, KVT_FRAME_OFFER, head, hello_len, 0);
        memcpy(both + KVT_FRAME_HEADER_BYTES, head, hello_len);
        kvt_frame_write(at, KVT_FRAME_DATA, data, data_len, 64);
        memcpy(at + KVT_FRAME_HEADER_BYTES, data, data_len);
        at += late == 0 ? KVT_FRAME_HEADER_BYTES + data_len : 0;
        tk_put(fd, both, (size_t)(at - both));
        TK_UNTIL(&tk, tk.reader.nr_hellos == 1);
        kvt_accept(tk.reader.port, tk.reader.hellos[0]);
        if (late == 1) {
            tk_put_frame(fd, KVT_FRAME_DATA, data, data_len, tk.owner.memory, 64);
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
        assert_true(tk_all(tk.reader.memory, tk.reader.bytes, 0));
        kvt_close(tk.reader.port, tk.reader.hellos[0]);
        TK_UNTIL(&tk, tk.reader.nr_closed == 1);
        close(fd);
        tk_close(&tk);
    }
}

/* A frame that is neither hello nor offer, first on a connection, or an offer with a
 * body or without a head: it ends without a word to anybody. */
static void offer__malformed_is_nobody(void **state)
{
    uint8_t head[KVT_HEAD_BYTES_MAX];
    (void)state;

    tk_init(&tk, &offered);
    tk_open(&tk, MIB);
    for (unsigned i = 0; i < 4; i++) {
        uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX];
        const int fd = tk_dial_raw(tk.address);
        const uint32_t len = tk_encode_hello(head);
        kvt_frame_write(bytes, KVT_FRAME_OFFER, head, len, 0);
        memcpy(bytes + KVT_FRAME_HEADER_BYTES, head, len);
        bytes[i == 0 ? 4 : i == 1 ? 8 : i == 2 ? 12 : 16] ^= 0xf8;
        tk_put(fd, bytes, KVT_FRAME_HEADER_BYTES + len);
        while (tk_look(&tk, 20)) {
        }
        (void)shutdown(fd, SHUT_WR); /* whoever waits for more gets none */
        (void)tk_look(&tk, 20);
        assert_true(tk_ended(fd));
        close(fd);
    }
    assert_int_equal(tk.reader.nr_hellos + tk.reader.nr_broken, 0);
    tk_close(&tk);
}

/* The owner dies in the middle of a page: its reader's part is LINK_LOST, and after
 * CLOSED the memory is the reader's. */
static void offer__lost_in_the_middle_of_a_page(void **state)
{
    uint8_t head[KVT_REQUEST_BYTES_MAX];
    const struct tk_copy copy = {.len = PAGE};
    (void)state;

    tk_init(&tk, &offered);
    tk_open(&tk, MIB);
    const int fd = tk_dial_raw(tk.address);
    tk_put_frame(fd, KVT_FRAME_OFFER, head, tk_encode_hello(head), NULL, 0);
    TK_UNTIL(&tk, tk.reader.nr_hellos == 1);
    const kvt_conn_t conn = tk.reader.hellos[0];
    assert_int_equal(tk_read(&tk, conn, 7, &copy, 1, 3, tk.reader.memory, PAGE), KV_OK);
    tk_get_frame(fd, KVT_FRAME_REQUEST, head);
    const uint32_t len = tk_encode_data(7, 0, KV_OK, PAGE, 0, head);
    uint8_t header[KVT_FRAME_HEADER_BYTES];
    kvt_frame_write(header, KVT_FRAME_DATA, head, len, PAGE);
    tk_put(fd, header, sizeof(header));
    tk_put(fd, head, len);
    tk_put(fd, tk.owner.memory, PAGE / 2);
    tk_abort(fd);
    TK_UNTIL(&tk, tk.reader.nr_broken == 1);
    assert_true(tk.reader.was_done[3]);
    assert_int_equal(tk.reader.done[3].status, KV_ERR_LINK_LOST);
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    tk_close(&tk);
}

/* The same life with the n-th call failing, through a hook too. */
static bool whole_life(const struct tk_candidate *candidate)
{
    const struct tk_copy copy = {.len = PAGE};
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    const uint32_t len = tk_encode_hello(hello);
    kvt_conn_t from = 0;

    if (tk_port(candidate, &tk.config, &tk.owner, NULL) != KV_OK
        || tk_port(candidate, &tk.config, &tk.reader, NULL) != KV_OK
        || kvt_offer(tk.owner.port, tk.address, hello, len, &from) != KV_OK) {
        return false;
    }
    bool asked = false, given_up = false;
    while (!tk.reader.was_done[0] && tk.owner.nr_broken == 0
           && tk.reader.nr_broken == 0 && !given_up) {
        tk_step(&tk);
        if (!asked && tk.reader.nr_hellos == 1) {
            asked = true;
            given_up = tk_read(
                           &tk, tk.reader.hellos[0], 1, &copy, 1, 0, tk.reader.memory,
                           PAGE)
                       != KV_OK;
        }
        given_up = given_up || tk.nr_served < tk.owner.nr_requests;
    }
    const bool whole = tk.reader.was_done[0] && tk.reader.done[0].status == KV_OK;
    kvt_close(tk.owner.port, from);
    TK_UNTIL(&tk, tk.owner.nr_closed == 1);
    if (tk.reader.nr_hellos == 1) {
        kvt_close(tk.reader.port, tk.reader.hellos[0]);
        TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    }
    return whole;
}

static void faults__every_call_may_fail(void **state)
{
    static uint8_t memory[2][1 << 17];
    const unsigned nr_fds = process_kit_fds();
    (void)state;

    for (unsigned row = 0; row < 2; row++) {
        unsigned n = 1, nr_passed = 0;
        for (; nr_passed < 3; n++) {
            tk_init(&tk, row == 0 ? &offered : &hooked);
            tk.config.nr_threads = 1;
            tk.listener = tk_listen(tk.address);
            tk.owner.memory = memory[0];
            tk.reader.memory = memory[1];
            tk.owner.bytes = tk.reader.bytes = sizeof(memory[0]);
            kv_fault_after(n);
            nr_passed = whole_life(tk.candidate) ? nr_passed + 1 : 0;
            kv_fault_after(0);
            kvt_destroy(tk.reader.port);
            kvt_destroy(tk.owner.port);
            close(tk.listener);
            assert_int_equal(kv_mem_live(), 0);
            assert_int_equal(process_kit_fds(), nr_fds);
        }
        assert_true(n > 25);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(roles__are_kept_to),
        cmocka_unit_test(offer__needs_the_capability),
        cmocka_unit_test(offer__waits_to_be_accepted),
        cmocka_unit_test(offer__unasked_bytes_end_it),
        cmocka_unit_test(offer__malformed_is_nobody),
        cmocka_unit_test(offer__lost_in_the_middle_of_a_page),
        cmocka_unit_test(faults__every_call_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
