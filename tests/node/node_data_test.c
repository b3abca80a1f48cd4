/* What the transport is asked by a node, seen from a port that only counts. */
#include "node/daemon/node_priv.h"
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 2, REFUSALS = 8, CONNS = 4 };

struct port {
    kvt_port_t base;
    uint32_t sent[CONNS + 1];
    uint32_t closed[CONNS + 1];
    uint32_t accepted[CONNS + 1];
    uint32_t pending;       /* DONE events of refusals on connection 1 */
    struct kvt_event hello; /* of a connection that has come in; kind, or conn 0 */
};

static kv_status_t count_send(
    kvt_port_t *base, kvt_conn_t conn, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    struct port *port = (struct port *)base;
    assert_true(id == 0 && from == NULL && len == 0);
    assert_true(head != NULL && head_len > 0);
    port->sent[conn]++;
    return KV_OK;
}

static void count_close(kvt_port_t *base, kvt_conn_t conn)
{
    ((struct port *)base)->closed[conn]++;
}

static void count_accept(kvt_port_t *base, kvt_conn_t conn)
{
    ((struct port *)base)->accepted[conn]++;
}

static bool next_event(kvt_port_t *base, struct kvt_event *event)
{
    struct port *port = (struct port *)base;
    if (port->hello.conn != 0) {
        *event = port->hello;
        port->hello.conn = 0;
        return true;
    }
    if (port->pending == 0) {
        return false;
    }
    port->pending--;
    *event = (struct kvt_event){.kind = KVT_EV_DONE, .conn = 1};
    return true;
}

static const struct kvt_ops counting = {
    .name = "counting",
    .send = count_send,
    .close = count_close,
    .accept = count_accept,
    .next = next_event,
};

static void refuse_one(struct kvn_node *node, uint32_t peer)
{
    const struct kvo_part part = {.req = 1, .data = {.status = KV_ERR_MISS}};
    const struct kvo_order order = {
        .kind = KVO_ORDER_SERVE,
        .peer = peer,
        .link = 7,
        .data_gen = 1,
        .parts = &part,
        .nr_parts = 1,
    };
    kvn_data_serve(node, &order);
}

/* A peer that asks for what is not here and never reads the answers loses its own
 * connection; what others are told still goes out. Those it takes are forgotten. */
static void refusals__have_a_bound_of_their_own(void **state)
{
    (void)state;
    static uint8_t wire[KV_MSG_BYTES_MAX];
    static struct kvn_config config;
    struct kvn_data_conn conns[CONNS] = {
        {.conn = 1, .peer = 0, .link = 7, .data_gen = 1},
        {.conn = 2, .peer = 1, .link = 7, .data_gen = 1},
    };
    struct port port = {.base = {.ops = &counting}};
    struct kvn_node node = {
        .config = &config,
        .port = &port.base,
        .conns = conns,
        .nr_conns = CONNS,
        .refusals_max = REFUSALS,
        .wire = wire,
    };
    for (uint32_t i = 0; i < REFUSALS; i++) {
        refuse_one(&node, 0);
    }
    assert_int_equal(port.sent[1], REFUSALS);
    assert_int_equal(port.closed[1], 0);

    port.pending = 3; /* taken: as many more may wait */
    kvn_data_events(&node);
    for (uint32_t i = 0; i < 3; i++) {
        refuse_one(&node, 0);
    }
    assert_int_equal(port.sent[1], REFUSALS + 3);
    assert_int_equal(port.closed[1], 0);

    refuse_one(&node, 0);
    assert_int_equal(port.sent[1], REFUSALS + 3);
    assert_int_equal(port.closed[1], 1);
    refuse_one(&node, 1);
    assert_int_equal(port.sent[2], 1);
    assert_int_equal(port.closed[2], 0);
}

/* ------------------------------------------------------------------ HELLO */

static struct ck ck;

/* The peer's DATA_OPEN, number data_gen, has come in on this connection. */
static void
come_in(struct kvn_node *node, kvt_conn_t conn, uint32_t data_gen, bool good)
{
    static uint8_t bytes[KVT_HELLO_BYTES_MAX];
    uint8_t text[12];
    size_t len;
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX, .type = KV_MSG_DATA_OPEN, .link = ck.link, .epoch = 1};
    for (unsigned i = 0; i < 12; i++) {
        text[i] = (uint8_t)(i < 8 ? ck.link >> (8 * i) : data_gen >> (8 * (i - 8)));
    }
    msg.u.data_open.data_gen = data_gen;
    assert_int_equal(
        kv_hmac(ck.nonce, KV_NONCE_BYTES, text, sizeof(text), &msg.u.data_open.proof),
        KV_OK);
    msg.u.data_open.proof.b[0] ^= (uint8_t)!good;
    assert_int_equal(kv_encode(&msg, bytes, sizeof(bytes), &len, NULL), KV_OK);
    ((struct port *)node->port)->hello = (struct kvt_event){
        .kind = KVT_EV_HELLO, .conn = conn, .bytes = bytes, .nr_bytes = (uint32_t)len};
    kvn_data_events(node);
}

/* A peer's newer connection ends its older one, and nothing else: neither ours to it
 * nor another peer's. One that has no proof, or an old number, ends itself alone. */
static void hello__newer_ends_the_older_of_its_peer_alone(void **state)
{
    (void)state;
    static uint8_t arena[KV_MSG_ARENA_BYTES] __attribute__((aligned(16)));
    static struct kvn_config config;
    enum { OURS = 1, OLD = 3, NEW = 4, OTHERS = 2, OTHER_PEER = 0 };
    struct port port = {.base = {.ops = &counting}};
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck_open(&ck);
    ck_meet(&ck);
    struct kvn_data_conn conns[CONNS] = {
        {.conn = OURS, .peer = CK_PEER, .link = ck.link, .data_gen = 1, .out = true},
        {.conn = OTHERS, .peer = OTHER_PEER, .link = 7, .data_gen = 1},
    };
    struct kvn_node node = {
        .config = &config,
        .core = ck.node,
        .port = &port.base,
        .conns = conns,
        .nr_conns = CONNS,
        .arena = {.base = arena, .size = sizeof(arena)},
    };
    come_in(&node, OLD, 1, true);
    assert_int_equal(port.accepted[OLD], 1);
    assert_int_equal(port.closed[OLD], 0);

    come_in(&node, NEW, 2, false); /* no proof */
    assert_int_equal(port.closed[NEW], 1);
    come_in(&node, NEW, 1, true); /* the number of the old one */
    assert_int_equal(port.closed[NEW], 2);
    assert_int_equal(port.accepted[NEW], 0);
    assert_int_equal(port.closed[OLD], 0);

    come_in(&node, NEW, 2, true);
    assert_int_equal(port.accepted[NEW], 1);
    assert_int_equal(port.closed[NEW], 2);
    assert_int_equal(port.closed[OLD], 1);
    assert_int_equal(port.closed[OURS], 0);
    assert_int_equal(port.closed[OTHERS], 0);

    ck.now_us = kvn_node_now(&node);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello__newer_ends_the_older_of_its_peer_alone),
        cmocka_unit_test(refusals__have_a_bound_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
