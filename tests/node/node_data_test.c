/* What the transport is asked by a node, seen from a port that only counts. */
#include "node/daemon/node_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { NODES = 2, REFUSALS = 8, CONNS = 4 };

struct port {
    kvt_port_t base;
    uint32_t sent[CONNS + 1];
    uint32_t closed[CONNS + 1];
    uint32_t pending; /* DONE events of refusals on connection 1 */
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

static bool next_done(kvt_port_t *base, struct kvt_event *event)
{
    struct port *port = (struct port *)base;
    if (port->pending == 0) {
        return false;
    }
    port->pending--;
    *event = (struct kvt_event){.kind = KVT_EV_DONE, .conn = 1};
    return true;
}

static const struct kvt_ops counting = {
    .name = "counting", .send = count_send, .close = count_close, .next = next_done};

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals__have_a_bound_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
