/* Goal: nodes that may link do, whatever others do to their ports; who may not, or is
 * slow, or speaks nonsense, costs himself alone; and nothing is left behind. Method: up
 * to three nodes and raw sockets on 127.0.0.1, one loop, real time with small
 * deadlines. */
#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/msg.h"
#include "tests/node/links_kit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static uint8_t big[KV_MSG_BYTES_MAX];

static const struct kvn_links_counts *counts(unsigned node)
{
    return kvn_links_counts(lk_nodes[node].links);
}

static void expect_frame(unsigned from, unsigned to, const char *text)
{
    struct lk_conn *out = lk_link(from, to);
    struct lk_conn *in = lk_link(to, from);
    assert_non_null(out);
    assert_non_null(in);
    const uint64_t before = counts(to)->frames_in;
    assert_int_equal(lk_send(from, out->number, text, strlen(text)), KV_OK);
    UNTIL(counts(to)->frames_in == before + 1);
    assert_memory_equal(lk_nodes[to].last, text, strlen(text));
}

/* ---- who may, does --------------------------------------------------------------- */

/* By each kind of credential: up at both ends, frames both ways, and the end of one end
 * is the end of the other. */
static void links__two_nodes_link(void **state)
{
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_CERT; kind++) {
        lk_open(&(struct lk_options){.kind = kind, .nr = 2});
        lk_link_up(0, 1);
        assert_true(lk_link(0, 1)->dialled);
        assert_false(lk_link(1, 0)->dialled);
        expect_frame(0, 1, "ping");
        expect_frame(1, 0, "pong");
        const uint64_t number = lk_link(0, 1)->number;
        lk_hang_up(0, number);
        assert_int_equal(lk_send(0, number, "x", 1), KV_ERR_LINK_LOST);
        UNTIL(lk_nodes[0].nr_downs == 1 && lk_nodes[1].nr_downs == 1);
        assert_int_equal(lk_send(0, number, "x", 1), KV_ERR_LINK_LOST);
        assert_int_equal(lk_send(0, 12345, "x", 1), KV_ERR_LINK_LOST);
        lk_hang_up(0, number);
        lk_hang_up(0, UINT64_MAX);
        assert_int_equal(counts(0)->dialled, 1);
        assert_int_equal(counts(1)->accepted, 1);
        assert_int_equal(counts(0)->frames_out, 1);
        assert_int_equal(counts(0)->bytes_out, counts(1)->bytes_in);
        lk_link_up(1, 0); /* and again, under another number */
        lk_close();
    }
}

static void keep(struct lk_node *node, uint64_t conn, const uint8_t *bytes, size_t len)
{
    (void)node;
    (void)conn;
    if (len == sizeof(big)) {
        assert_memory_equal(bytes, big, len);
    }
}

/* Three nodes, each with each; the largest frames arrive whole and in order. */
static void links__three_nodes_link_and_send_big_frames(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(big); i++) {
        big[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    lk_open(&(struct lk_options){.kind = LK_CERT, .nr = 3});
    for (unsigned i = 0; i < 3; i++) {
        lk_nodes[i].on_frame = keep;
        lk_link_up(i, (i + 1) % 3);
    }
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned j = 0; j < 3; j++) {
            for (unsigned n = 0; i != j && n < 4; n++) {
                const uint64_t number = lk_link(i, j)->number;
                assert_int_equal(lk_send(i, number, big, sizeof(big)), KV_OK);
                assert_int_equal(lk_send(i, number, "small", 5), KV_OK);
            }
        }
    }
    for (unsigned i = 0; i < 3; i++) {
        UNTIL(counts(i)->frames_in == 16);
        assert_memory_equal(lk_nodes[i].last, "small", 5);
        assert_int_equal(lk_nodes[i].nr_downs, 0);
    }
    lk_close();
}

/* Both dial at once: both connections come up at both ends, under four numbers; which
 * of them lives is for the caller to say. */
static void links__simultaneous_dials_both_come_up(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2});
    lk_dial(0, 1);
    lk_dial(1, 0);
    lk_dial(0, 1); /* one a peer at a time */
    assert_int_equal(lk_nodes[0].nr_dials, 1);
    UNTIL(lk_nodes[0].nr_up == 2 && lk_nodes[1].nr_up == 2);
    assert_int_equal(lk_nodes[0].conns[0].dialled + lk_nodes[0].conns[1].dialled, 1);
    lk_close();
}

/* A name is resolved off the loop, and all its addresses are tried: localhost is ::1,
 * where nobody listens, before it is 127.0.0.1, on many machines. */
static void links__dials_by_name(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){
        .kind = LK_PSK, .nr = 2, .hosts = {"localhost", "localhost"}});
    lk_link_up(0, 1);
    lk_close();
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 2, .hosts = {"localhost"}});
    lk_link_up(1, 0);
    lk_close();
}

/* What was sent before hang_up() arrives: a refusal says why. */
static void links__hang_up_delivers_what_was_sent(void **state)
{
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_PSK; kind++) {
        lk_open(&(struct lk_options){.kind = kind, .nr = 2});
        lk_link_up(0, 1);
        const uint64_t number = lk_link(0, 1)->number;
        struct lk_conn *back = lk_link(1, 0);
        /* The other side sends, so that unread bytes lie here when we close. */
        assert_int_equal(lk_send(1, back->number, big, sizeof(big)), KV_OK);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(lk_send(0, number, big, sizeof(big)), KV_OK);
        }
        assert_int_equal(lk_send(0, number, "refused", 7), KV_OK);
        lk_hang_up(0, number);
        UNTIL(lk_nodes[0].nr_downs == 1 && lk_nodes[1].nr_downs == 1);
        assert_int_equal(back->nr_frames, 4);
        assert_memory_equal(lk_nodes[1].last, "refused", 7);
        lk_close();
    }
}

/* A number is of one connection, for ever: what is sent or hung up by the number of one
 * that has ended does not reach the one that lies in its place. */
static void links__old_numbers_reach_nobody(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2});
    uint64_t old[8];
    for (unsigned i = 0; i < KV_COUNT_OF(old); i++) {
        lk_link_up(0, 1);
        old[i] = lk_link(0, 1)->number;
        lk_hang_up(0, old[i]);
        UNTIL(lk_nodes[0].nr_up == 0 && lk_nodes[1].nr_up == 0);
        lk_run_ms(5); /* its place is free */
    }
    lk_link_up(0, 1);
    const uint64_t number = lk_link(0, 1)->number;
    for (unsigned i = 0; i < KV_COUNT_OF(old); i++) {
        assert_true(old[i] != number);
        assert_int_equal(lk_send(0, old[i], "not for you", 11), KV_ERR_LINK_LOST);
        lk_hang_up(0, old[i]);
    }
    lk_run_ms(20);
    assert_int_equal(lk_nodes[0].nr_up, 1);
    assert_int_equal(counts(1)->frames_in, 0);
    expect_frame(0, 1, "for you");
    lk_close();
}

/* A node that links again and again holds a few links and no more: the newest. */
static void links__links_of_a_node_are_bounded(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2});
    for (unsigned i = 0; i < KVN_LINKS_PEER_CONNS_MAX + 2; i++) {
        lk_dial(0, 1);
        UNTIL(lk_nodes[1].nr_conns == i + 1 && lk_nodes[0].nr_conns == i + 1);
    }
    UNTIL(lk_nodes[1].nr_up == KVN_LINKS_PEER_CONNS_MAX);
    UNTIL(lk_nodes[0].nr_up == KVN_LINKS_PEER_CONNS_MAX);
    assert_false(lk_nodes[1].conns[0].up);
    assert_true(lk_nodes[1].conns[KVN_LINKS_PEER_CONNS_MAX + 1].up);
    expect_frame(0, 1, "on the newest");
    lk_close();
}

/* ---- who may not, does not ------------------------------------------------------- */

/* Another key, another authority, credentials against none. */
static void links__wrong_credentials_end_the_dial(void **state)
{
    struct cert_kit foreign;
    (void)state;
    cert_kit_make(&foreign);
    cert_kit_node(&foreign, "c1", 1);
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *tls =
            certs ? cert_kit_load(&foreign, 1) : cert_kit_load_psk(&foreign, 1);
        lk_open(&(struct lk_options){
            .kind = certs ? LK_CERT : LK_PSK, .nr = 3, .tls = {tls}});
        lk_dial(0, 1);
        lk_dial(2, 0);
        lk_link_up(1, 2);
        UNTIL(lk_nodes[0].nr_dials_failed == 1 && lk_nodes[2].nr_dials_failed == 1);
        UNTIL(counts(1)->handshake_failed == 1 && counts(0)->handshake_failed >= 1);
        assert_int_equal(lk_nodes[0].nr_conns, 0);
        expect_frame(1, 2, "as before");
        lk_close();
        kvn_tls_free(tls);
    }
    cert_kit_remove(&foreign);
}

/* A valid credential of a node that the view does not have, or of ourselves. */
static void links__unknown_nodes_are_refused(void **state)
{
    kvn_tls_t *three = cert_kit_load_psk(&lk_certs, 3);
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .tls = {three}});
    lk_dial(0, 1);
    UNTIL(lk_nodes[0].nr_dials_failed == 1 && counts(1)->handshake_failed == 1);
    lk_close();
    kvn_tls_free(three);

    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 2});
    const uint32_t ids[] = {1, 9};
    for (unsigned i = 0; i < 2; i++) {
        const int fd = lk_raw_link(0, ids[i]);
        UNTIL(lk_raw_ended(fd));
        close(fd);
    }
    assert_int_equal(counts(0)->handshake_failed, 2);
    assert_int_equal(lk_nodes[0].nr_conns, 0);
    lk_close();
}

/* Hello cannot say more than the credential: a member that speaks for another member is
 * refused, so nobody's frames are taken for those of a node that did not send them. */
static void links__hello_that_is_not_the_credentials_is_refused(void **state)
{
    (void)state;
    for (enum lk_kind kind = LK_PSK; kind <= LK_CERT; kind++) {
        /* Node 1 in what it says, node 3 in what it proves. */
        kvn_tls_t *three = kind == LK_PSK ? cert_kit_load_psk(&lk_certs, 3)
                                          : cert_kit_load(&lk_certs, 3);
        lk_open(&(struct lk_options){.kind = kind, .nr = 3, .tls = {three}});
        lk_dial(0, 1);
        UNTIL(counts(1)->handshake_failed == 1 || lk_nodes[1].nr_conns > 0);
        assert_int_equal(lk_nodes[1].nr_conns, 0);
        UNTIL(lk_nodes[0].nr_up == 0);
        lk_link_up(2, 1); /* the true one */
        expect_frame(2, 1, "as before");
        lk_close();
        kvn_tls_free(three);
    }
}

/* What is neither TLS nor ours is closed at its first bytes. */
static void links__garbage_is_closed_at_once(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18},
        {"\0\0\0\0", 4},
        {"kvd2", 4},
        {"kvl0", 4},
        {"\x16\x03\x01\x00\x05hello", 10},
        {"\x15\x03\x03\x00\x02\x02\x28", 7},
    };
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_CERT; kind++) {
        lk_open(&(struct lk_options){.kind = kind, .nr = 2});
        lk_link_up(1, 0);
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            const int fd = lk_raw(0);
            lk_raw_send(fd, rows[i].bytes, rows[i].len);
            UNTIL(lk_raw_ended(fd));
            close(fd);
        }
        int fd = lk_raw(0); /* leaves after two bytes that could have been ours */
        lk_raw_send(fd, "kv", 2);
        shutdown(fd, SHUT_WR);
        UNTIL(lk_raw_ended(fd));
        close(fd);
        close(lk_raw(0)); /* leaves without a word */
        if (kind != LK_CLEAR) {
            fd = lk_raw_link(0, 2);
            UNTIL(lk_raw_ended(fd));
            close(fd);
        }
        UNTIL(counts(0)->handshake_failed == 8 + (kind != LK_CLEAR));
        expect_frame(1, 0, "as before");
        lk_close();
    }
}

/* A data connection is handed over as it came, its first bytes unread. */
static void links__data_connections_are_handed_over_untouched(void **state)
{
    char bytes[16];
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_CERT; kind++) {
        lk_open(&(struct lk_options){.kind = kind, .nr = 2});
        const int fd = lk_raw(0);
        for (unsigned i = 0; i < 3; i++) {
            lk_raw_send(fd, &"kvd"[i], 1); /* even so */
            lk_run_ms(10);
            assert_int_equal(lk_nodes[0].nr_fds, 0);
        }
        lk_raw_send(fd, "1open", 5);
        UNTIL(lk_nodes[0].nr_fds == 1);
        const int got = lk_nodes[0].fds[0];
        int mark = 0;
        socklen_t len = sizeof(mark);
        assert_int_equal(getsockopt(got, SOL_SOCKET, SO_RCVLOWAT, &mark, &len), 0);
        assert_int_equal(mark, 1);
        assert_int_equal(recv(got, bytes, sizeof(bytes), MSG_DONTWAIT), 8);
        assert_memory_equal(bytes, "kvd1open", 8);
        assert_int_equal(recv(got, bytes, sizeof(bytes), 0), -1); /* non-blocking */
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(send(got, "ok", 2, 0), 2);
        lk_run_ms(20);
        assert_int_equal(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 2);
        close(fd);
        lk_close();
    }
}

/* ---- limits ---------------------------------------------------------------------- */

/* A length out of bounds is the end of that link, before a byte of it is waited for. */
static void links__frames_out_of_bounds_end_the_link(void **state)
{
    static const uint8_t lengths[][4] = {
        {0, 0, 0, 0}, {1, 0, 16, 0}, {0xff, 0xff, 0xff, 0xff}};
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 3});
    lk_link_up(2, 0);
    for (unsigned i = 0; i < 3; i++) {
        const int fd = lk_raw_link(0, 2);
        UNTIL(lk_link(0, 1) != NULL);
        lk_raw_send(fd, "\2\0\0\0ok", 6);
        UNTIL(lk_link(0, 1)->nr_frames == 1);
        lk_raw_send(fd, lengths[i], 4);
        UNTIL(lk_nodes[0].nr_downs == i + 1);
        UNTIL(lk_raw_ended(fd));
        close(fd);
    }
    expect_frame(2, 0, "as before");
    lk_close();
}

/* A frame that has begun is timed, silence is not; nor is a stream of whole frames,
 * each of which ends in the middle of the next read. */
static void links__slow_frames_end_the_link(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 3, .frame_us = 150000});
    const int slow = lk_raw_link(0, 2);
    const int steady = lk_raw_link(0, 3);
    UNTIL(lk_link(0, 1) != NULL && lk_link(0, 2) != NULL);
    lk_run_ms(300);
    assert_int_equal(lk_nodes[0].nr_downs, 0);
    lk_raw_send(slow, "\x08\0\0\0", 4);
    lk_raw_send(steady, "\x02\0", 2);
    for (unsigned i = 0; i < 20; i++) {
        lk_run_ms(30);
        if (lk_link(0, 1) != NULL) {
            (void)send(slow, "x", i < 7, MSG_NOSIGNAL);
        }
        lk_raw_send(steady, "\0\0ok\x02\0", 6); /* one ends, one begins */
    }
    assert_null(lk_link(0, 1));
    assert_non_null(lk_link(0, 2));
    UNTIL(lk_link(0, 2)->nr_frames == 20);
    close(slow);
    close(steady);
    lk_close();
}

/* One who sends his ClientHello byte by byte is cut off by the deadline, and meanwhile
 * others link and talk. */
static void links__slow_handshakes_are_cut_off(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .handshake_us = 1500000});
    int fds[8];
    for (unsigned i = 0; i < 8; i++) {
        fds[i] = lk_raw(0);
    }
    const uint64_t from = lk_now_ms();
    lk_link_up(1, 0);
    bool ended = false;
    for (unsigned n = 0; !ended; n++) {
        ended = true;
        for (unsigned i = 0; i < 8; i++) {
            const char byte = "\x16\x03\x01\x02\x00"[n < 5 ? n : 4];
            (void)send(fds[i], &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
            ended = lk_raw_ended(fds[i]) && ended;
        }
        expect_frame(1, 0, "meanwhile");
        lk_run_ms(50);
        assert_true(lk_now_ms() - from < LK_PATIENCE_MS);
    }
    assert_true(lk_now_ms() - from >= 1400);
    assert_int_equal(counts(0)->handshake_failed, 8);
    for (unsigned i = 0; i < 8; i++) {
        close(fds[i]);
    }
    lk_close();
}

/* A hundred connections that say nothing: only so many are kept, a link goes on, and a
 * new one still comes up, as the oldest silent one gives way. */
static void links__silent_connections_cost_others_nothing(void **state)
{
    enum { SILENT = 100 };
    int fds[SILENT];
    unsigned nr_ended = 0;
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 3});
    lk_link_up(1, 0);
    for (unsigned i = 0; i < SILENT; i++) {
        fds[i] = lk_raw(0);
        lk_turn();
    }
    UNTIL(counts(0)->accepted == SILENT + 1);
    for (unsigned i = 0; i < 50; i++) {
        expect_frame(1, 0, "through");
    }
    lk_link_up(2, 0);
    expect_frame(0, 2, "and new");
    for (unsigned i = 0; i < SILENT; i++) {
        nr_ended += lk_raw_ended(fds[i]);
        close(fds[i]);
    }
    assert_true(nr_ended >= SILENT - KVN_LINKS_HELLO_ADDRESS_MAX);
    assert_true(nr_ended <= SILENT - KVN_LINKS_HELLO_ADDRESS_MAX + 1);
    assert_int_equal(counts(0)->refused, nr_ended);
    lk_close();
}

/* Those who have begun to shake hands stay: past the limit the newest goes. */
static void links__handshakes_under_way_are_kept(void **state)
{
    int fds[KVN_LINKS_HELLO_ADDRESS_MAX];
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .handshake_us = 2000000});
    for (unsigned i = 0; i < KVN_LINKS_HELLO_ADDRESS_MAX; i++) {
        fds[i] = lk_raw(0);
        lk_raw_send(fds[i], "\x16\x03\x01\x02", 4);
    }
    UNTIL(counts(0)->accepted == KVN_LINKS_HELLO_ADDRESS_MAX);
    lk_run_ms(50);
    const int late = lk_raw(0);
    UNTIL(lk_raw_ended(late));
    assert_int_equal(counts(0)->refused, 1);
    assert_false(lk_raw_ended(fds[0]));
    UNTIL(lk_raw_ended(fds[0])); /* by the deadline */
    lk_link_up(1, 0);
    close(late);
    for (unsigned i = 0; i < KVN_LINKS_HELLO_ADDRESS_MAX; i++) {
        close(fds[i]);
    }
    lk_close();
}

/* A peer that does not read is closed when so many bytes wait for it, and no other. */
static void links__slow_readers_are_closed(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 3, .queue_bytes = 1 << 22});
    lk_link_up(2, 0);
    const int fd = lk_raw_link(0, 2);
    UNTIL(lk_link(0, 1) != NULL);
    const uint64_t number = lk_link(0, 1)->number;
    kv_status_t status = KV_OK;
    unsigned nr = 0;
    while (status == KV_OK) {
        status = lk_send(0, number, big, sizeof(big));
        nr++;
        lk_turn();
        assert_true(nr < 64); /* what kernels hold, and the queue */
    }
    assert_int_equal(status, KV_ERR_LINK_LOST);
    assert_true(nr > 4);
    UNTIL(lk_nodes[0].nr_downs == 1);
    assert_null(lk_link(0, 1));
    expect_frame(0, 2, "as before");
    close(fd);
    lk_close();
}

/* Many sends in one turn are no slow reader: they go out as the socket takes them. */
static void links__bursts_are_no_slow_reader(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .queue_bytes = 4096});
    lk_link_up(0, 1);
    struct lk_conn *in = lk_link(1, 0);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(lk_send(0, lk_link(0, 1)->number, big, 1000), KV_OK);
    }
    UNTIL(in->nr_frames == 200);
    lk_close();
}

/* ---- ends ------------------------------------------------------------------------ */

/* A peer whose process dies: with a reset, or with its end of the stream. */
static void links__killed_peers_are_down(void **state)
{
    const struct linger hard = {.l_onoff = 1};
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 3});
    for (unsigned i = 0; i < 2; i++) {
        const int fd = lk_raw_link(0, 2);
        UNTIL(lk_link(0, 1) != NULL);
        const uint64_t number = lk_link(0, 1)->number;
        lk_raw_send(fd, "\x08\0\0\0half", 8);
        if (i == 0) {
            assert_int_equal(
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
        }
        close(fd);
        UNTIL(lk_nodes[0].nr_downs == i + 1);
        assert_int_equal(lk_send(0, number, "x", 1), KV_ERR_LINK_LOST);
    }
    /* And a node that closes its links altogether. */
    lk_link_up(0, 2);
    lk_close_node(&lk_nodes[2]);
    UNTIL(lk_nodes[2].closed && lk_nodes[0].nr_downs == 3);
    lk_close();
}

/* Each dial has one answer: nobody there, one who is silent, a name that is none. */
static void links__dials_that_fail_say_so_once(void **state)
{
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .handshake_us = 200000});
    lk_close_node(&lk_nodes[1]);
    UNTIL(lk_nodes[1].closed);
    lk_dial(0, 1);
    UNTIL(lk_nodes[0].nr_dials_failed == 1);
    lk_close();

    /* Listening, and never a word. */
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2, .handshake_us = 200000});
    lk_close_node(&lk_nodes[1]);
    UNTIL(lk_nodes[1].closed);
    lk_listen(1);
    const uint64_t from = lk_now_ms();
    lk_dial(0, 1);
    UNTIL(lk_nodes[0].nr_dials_failed == 1);
    assert_in_range(lk_now_ms() - from, 190, 5000);
    lk_close();

    lk_open(&(struct lk_options){
        .kind = LK_PSK, .nr = 2, .handshake_us = 300000, .hosts = {NULL, "a..b"}});
    for (unsigned i = 0; i < 2; i++) {
        lk_dial(0, 1);
        UNTIL(lk_nodes[0].nr_dials_failed == i + 1);
    }
    lk_run_ms(50);
    assert_int_equal(lk_nodes[0].nr_dials_failed, 2);
    lk_close();
}

static void hang_up_now(struct lk_node *node, uint64_t conn)
{
    lk_hang_up(node->index, conn);
}

static void dial_again(struct lk_node *node, uint64_t conn)
{
    (void)conn;
    if (node->links != NULL) {
        lk_send(node->index, conn, "late", 4);
        lk_dial(node->index, 1 - node->index);
    }
}

static void close_now(struct lk_node *node, uint64_t conn)
{
    (void)conn;
    lk_close_node(node);
}

static void
answer(struct lk_node *node, uint64_t conn, const uint8_t *bytes, size_t len)
{
    (void)len;
    if (bytes[0] < 10) {
        const uint8_t next = (uint8_t)(bytes[0] + 1);
        lk_send(node->index, conn, &next, 1);
    } else {
        lk_hang_up(node->index, conn);
    }
}

static void
close_on_frame(struct lk_node *node, uint64_t conn, const uint8_t *bytes, size_t len)
{
    (void)bytes;
    (void)len;
    close_now(node, conn);
}

/* Callbacks may call: send, hang up, dial, close, from each of them. */
static void links__callbacks_may_call(void **state)
{
    const struct lk_options options = {.kind = LK_PSK, .nr = 2};
    (void)state;
    lk_open(&options); /* ten frames to and fro, then the end */
    lk_nodes[0].on_frame = lk_nodes[1].on_frame = answer;
    lk_link_up(0, 1);
    assert_int_equal(lk_send(0, lk_link(0, 1)->number, "\0", 1), KV_OK);
    UNTIL(lk_nodes[0].nr_downs == 1 && lk_nodes[1].nr_downs == 1);
    assert_int_equal(counts(0)->frames_in + counts(1)->frames_in, 11);
    lk_close();

    lk_open(&options); /* hung up in up, dialled again in down, for a while */
    lk_nodes[0].on_up = hang_up_now;
    lk_nodes[0].on_down = dial_again;
    lk_dial(0, 1);
    UNTIL(lk_nodes[0].nr_downs == 5);
    lk_nodes[0].on_down = NULL;
    lk_close();

    lk_open(&options); /* closed in up */
    lk_nodes[0].on_up = close_now;
    lk_dial(0, 1);
    UNTIL(lk_nodes[0].closed);
    lk_close();

    lk_open(&options); /* closed in frame, with more frames behind it */
    lk_link_up(0, 1);
    lk_nodes[0].on_frame = close_on_frame;
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(lk_send(1, lk_link(1, 0)->number, "x", 1), KV_OK);
    }
    UNTIL(lk_nodes[0].closed);
    assert_int_equal(lk_nodes[0].conns[0].nr_frames, 1);
    lk_close();

    lk_open(&options); /* closed in down */
    lk_link_up(0, 1);
    lk_nodes[0].on_down = close_now;
    lk_hang_up(0, lk_link(0, 1)->number);
    UNTIL(lk_nodes[0].closed);
    lk_close();
}

/* After each number of turns of the loop, from before the first to long after the last
 * of a handshake, everything is closed: each up has its down, each dial its answer, and
 * no handle, descriptor or memory is left (lk_close looks). */
static void links__close_is_total_in_every_state(void **state)
{
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_CERT; kind++) {
        for (unsigned nr_turns = 0; nr_turns < 30; nr_turns++) {
            lk_open(&(struct lk_options){
                .kind = kind, .nr = 2, .hosts = {nr_turns % 2 ? "localhost" : NULL}});
            int silent = lk_raw(0), half = lk_raw(0);
            lk_raw_send(half, kind == LK_CLEAR ? "kvl1\2" : "\x16\x03\x01\2\1", 5);
            lk_dial(0, 1);
            lk_dial(1, 0);
            for (unsigned i = 0; i < nr_turns; i++) {
                uv_run(&lk_loop, UV_RUN_NOWAIT);
                if (lk_link(0, 1) != NULL) {
                    (void)lk_send(0, lk_link(0, 1)->number, big, sizeof(big));
                    if (i % 3 == 0) {
                        lk_hang_up(0, lk_link(0, 1)->number);
                    }
                }
            }
            lk_close_node(&lk_nodes[nr_turns % 2]);
            UNTIL(nr_turns % 3 != 0 || lk_nodes[nr_turns % 2].closed);
            lk_close_node(&lk_nodes[1 - nr_turns % 2]);
            UNTIL(lk_nodes[0].closed && lk_nodes[1].closed);
            close(silent);
            close(half);
            lk_close();
        }
    }
}

/* ---- open that is refused -------------------------------------------------------- */

static void expect_open(
    const char *listen, const char *peer, const kvn_tls_t *tls, uint64_t frame_us,
    kv_status_t wanted, const char *text)
{
    const struct kvn_links_peer peers[] = {
        {.id = 1, .address = "ignored"}, {.id = 2, .address = peer}};
    const struct kvn_links_config config = {
        .listen = listen,
        .tls = tls,
        .peers = peers,
        .nr_peers = 2,
        .handshake_us = 1000,
        .frame_us = frame_us,
        .queue_bytes = 1,
    };
    const struct kvn_links_events events = {0};
    kvn_links_t *links = NULL;
    char line[512];
    assert_int_equal(
        kvn_links_open(&lk_loop, &config, &events, &links, line, sizeof(line)), wanted);
    assert_null(links);
    if (strstr(line, text) == NULL) {
        fail_msg("'%s' is not in '%s'", text, line);
    }
}

static void links__open_names_what_is_wrong(void **state)
{
    kvn_tls_t *tls = cert_kit_load_psk(&lk_certs, 1);
    char busy[64], endless[160];
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_CLEAR, .nr = 2});
    snprintf(busy, sizeof(busy), "127.0.0.1:%u", kvn_links_port(lk_nodes[0].links));
    memset(endless, 'x', sizeof(endless));
    snprintf(endless + 121, sizeof(endless) - 121, ":1");
    const char *ok = "127.0.0.1:0", *peer = "127.0.0.1:1";
    const struct {
        const char *listen, *peer;
        const kvn_tls_t *tls;
        kv_status_t wanted;
        const char *text;
    } rows[] = {
        {busy, peer, NULL, KV_ERR_IO, "another process has the port"},
        {"192.0.2.1:0", peer, tls, KV_ERR_IO, "is no address of this machine"},
        {"192.0.2.1:0", peer, NULL, KV_ERR_CONFIG, "not on loopback: credentials are"},
        {"0.0.0.0:0", peer, NULL, KV_ERR_CONFIG, "not on loopback: credentials are"},
        {"[::]:0", peer, NULL, KV_ERR_CONFIG, "not on loopback: credentials are"},
        {"a..b:0", peer, tls, KV_ERR_IO, "the name does not resolve"},
        {"127.0.0.1", peer, tls, KV_ERR_CONFIG, "has no port"},
        {"127.0.0.1:65536", peer, tls, KV_ERR_CONFIG, "the limit is 65535"},
        {"127.0.0.1:http", peer, tls, KV_ERR_CONFIG, "has port 'http'"},
        {":7070", peer, tls, KV_ERR_CONFIG, "host of 0 characters"},
        {"::1:7070", peer, tls, KV_ERR_CONFIG, "goes in brackets"},
        {endless, peer, tls, KV_ERR_CONFIG, "121 characters, the limit is 120"},
        {ok, "10.0.0.2:7070", NULL, KV_ERR_CONFIG, "node 2: address '10.0.0.2:7070'"},
        {ok, "cache-2:7070", NULL, KV_ERR_CONFIG, "not on loopback: credentials are"},
        {ok, "cache-2", tls, KV_ERR_CONFIG, "node 2: address 'cache-2' has no port"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        expect_open(
            rows[i].listen, rows[i].peer, rows[i].tls, 1000, rows[i].wanted,
            rows[i].text);
    }
    expect_open(
        ok, peer, tls, 999, KV_ERR_CONFIG, "time of a frame: 999 is below the minimum");
    lk_close();
    kvn_tls_free(tls);
}

/* ---- faults ---------------------------------------------------------------------- */

/* The n-th fallible call fails, for each n, while two nodes open, link, talk and close:
 * a status or an event says so, the other node is none the worse, nothing is left. */
static void links__survives_every_fault(void **state)
{
    (void)state;
    for (enum lk_kind kind = LK_CLEAR; kind <= LK_CERT; kind++) {
        bool reached = true;
        unsigned n = 0;
        while (reached) {
            kvn_tls_t *tls[2] = {NULL};
            for (unsigned i = 0; kind != LK_CLEAR && i < 2; i++) {
                tls[i] = kind == LK_PSK ? cert_kit_load_psk(&lk_certs, i + 1)
                                        : cert_kit_load(&lk_certs, i + 1);
            }
            kv_fault_after(++n);
            const kv_status_t status = lk_try_open(&(struct lk_options){
                .kind = kind,
                .nr = 2,
                .handshake_us = 2000000,
                .hosts = {NULL, n % 2 ? "localhost" : NULL},
                .tls = {tls[0], tls[1]}});
            if (status == KV_OK) {
                lk_dial(0, 1);
                UNTIL(lk_nodes[0].nr_dial_ups + lk_nodes[0].nr_dials_failed == 1);
                for (unsigned i = 0; i < 50 && lk_link(0, 1) != NULL; i++) {
                    (void)lk_send(0, lk_link(0, 1)->number, big, 40000);
                    uv_run(&lk_loop, UV_RUN_NOWAIT);
                }
            }
            for (unsigned i = 0; i < n; i++) { /* what is left of the countdown */
                reached = !kv_fault_now() && reached;
            }
            kv_fault_after(0);
            assert_true(n < 1000);
            lk_close();
            kvn_tls_free(tls[0]);
            kvn_tls_free(tls[1]);
        }
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links__two_nodes_link),
        cmocka_unit_test(links__three_nodes_link_and_send_big_frames),
        cmocka_unit_test(links__simultaneous_dials_both_come_up),
        cmocka_unit_test(links__dials_by_name),
        cmocka_unit_test(links__hang_up_delivers_what_was_sent),
        cmocka_unit_test(links__old_numbers_reach_nobody),
        cmocka_unit_test(links__links_of_a_node_are_bounded),
        cmocka_unit_test(links__wrong_credentials_end_the_dial),
        cmocka_unit_test(links__unknown_nodes_are_refused),
        cmocka_unit_test(links__hello_that_is_not_the_credentials_is_refused),
        cmocka_unit_test(links__garbage_is_closed_at_once),
        cmocka_unit_test(links__data_connections_are_handed_over_untouched),
        cmocka_unit_test(links__frames_out_of_bounds_end_the_link),
        cmocka_unit_test(links__slow_frames_end_the_link),
        cmocka_unit_test(links__slow_handshakes_are_cut_off),
        cmocka_unit_test(links__silent_connections_cost_others_nothing),
        cmocka_unit_test(links__handshakes_under_way_are_kept),
        cmocka_unit_test(links__slow_readers_are_closed),
        cmocka_unit_test(links__bursts_are_no_slow_reader),
        cmocka_unit_test(links__killed_peers_are_down),
        cmocka_unit_test(links__dials_that_fail_say_so_once),
        cmocka_unit_test(links__callbacks_may_call),
        cmocka_unit_test(links__close_is_total_in_every_state),
        cmocka_unit_test(links__open_names_what_is_wrong),
        cmocka_unit_test(links__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, lk_setup, lk_teardown);
}
