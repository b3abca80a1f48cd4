/* What the transports are asked by a node, seen from ports that only count; and what
 * the node does of what they say. The core around it is the kit's, with node 2 played
 * by the test. */
#include "node/daemon/node_priv.h"
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 2, REFUSALS = 8, CONNS = 16 };

struct port {
    kvt_port_t base;
    uint32_t sent[CONNS + 1];
    uint32_t closed[CONNS + 1];
    uint32_t accepted[CONNS + 1];
    uint32_t gets;
    struct kvt_part get; /* the last one */
    uint32_t pending;    /* times that `event` is still to be said */
    struct kvt_event event;
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

static kv_status_t
count_get(kvt_port_t *base, kvt_conn_t conn, const struct kvt_part *part)
{
    struct port *port = (struct port *)base;
    assert_int_equal(conn, 1);
    port->gets++;
    port->get = *part;
    return KV_OK;
}

static bool next_event(kvt_port_t *base, struct kvt_event *event)
{
    struct port *port = (struct port *)base;
    if (port->pending == 0) {
        return false;
    }
    port->pending--;
    *event = port->event;
    return true;
}

static const struct kvt_ops counting = {
    .name = "counting",
    .send = count_send,
    .close = count_close,
    .accept = count_accept,
    .get = count_get,
    .next = next_event,
};

/* ------------------------------------------------------------------ a node */

static struct kvn_config config;
static struct port tcp, shm;
static struct kvn_data_conn conns[CONNS];
static struct kvn_fence fences[2 * NODES];
static struct kvn_reopen reopens[NODES];
static struct kvn_deferred deferred[CONNS];
static struct kvn_node node;
static struct ck ck;
static uint8_t wire[KV_MSG_BYTES_MAX];
static _Alignas(16) uint8_t arena[KV_MSG_ARENA_BYTES];

static void node_open(void)
{
    tcp = (struct port){.base = {.ops = &counting}};
    shm = tcp;
    memset(conns, 0, sizeof(conns));
    memset(fences, 0, sizeof(fences));
    memset(reopens, 0, sizeof(reopens));
    config.nr_nodes = NODES;
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck_one_sided(&ck);
    ck.now_us = uv_hrtime() / 1000; /* as the node's own calls have it */
    ck_open(&ck);
    ck_meet(&ck);
    node = (struct kvn_node){
        .config = &config,
        .core = ck.node,
        .ports = {[KVN_PORT_TCP] = &tcp.base, [KVN_PORT_SHM] = &shm.base},
        .conns = conns,
        .nr_conns = CONNS,
        .fences = fences,
        .nr_fences = 2 * NODES,
        .reopens = reopens,
        .deferred = deferred,
        .deferred_size = CONNS,
        .wire = wire,
        .arena = {.base = arena, .size = sizeof(arena)},
    };
}

static void say(enum kvn_port at, const struct kvt_event *event)
{
    struct port *port = at == KVN_PORT_TCP ? &tcp : &shm;
    port->event = *event;
    port->pending = 1;
    kvn_data_events(&node, at);
}

/* The peer's DATA_OPEN, right in all but what the caller makes wrong, by `port`. */
static void hello(
    enum kvn_port port, kvt_conn_t conn, uint32_t data_gen, bool one_sided, bool good)
{
    uint8_t bytes[KVT_HELLO_BYTES_MAX], text[13];
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX, .type = KV_MSG_DATA_OPEN, .link = ck.link};
    size_t len;
    for (unsigned i = 0; i < 8; i++) {
        text[i] = (uint8_t)(ck.link >> (8 * i));
    }
    for (unsigned i = 0; i < 4; i++) {
        text[8 + i] = (uint8_t)(data_gen >> (8 * i));
    }
    text[12] = one_sided;
    msg.u.data_open.data_gen = data_gen;
    msg.u.data_open.one_sided = one_sided;
    assert_int_equal(
        kv_hmac(ck.nonce, KV_NONCE_BYTES, text, 13, &msg.u.data_open.proof), KV_OK);
    msg.u.data_open.proof.b[0] ^= (uint8_t)!good;
    assert_int_equal(kv_encode(&msg, bytes, sizeof(bytes), &len, NULL), KV_OK);
    say(port, &(struct kvt_event){
                  .kind = KVT_EV_HELLO,
                  .conn = conn,
                  .bytes = bytes,
                  .nr_bytes = (uint32_t)len,
              });
}

/* ------------------------------------------------------------------ refusals */

static void refuse_one(uint32_t peer)
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
    kvn_data_serve(&node, &order);
}

/* A peer that asks for what is not here and never reads the answers loses its own
 * connection; what others are told still goes out. Those it takes are forgotten. */
static void refusals__have_a_bound_of_their_own(void **state)
{
    (void)state;
    node_open();
    node.refusals_max = REFUSALS;
    conns[0] = (struct kvn_data_conn){.conn = 1, .peer = 0, .link = 7, .data_gen = 1};
    conns[1] = (struct kvn_data_conn){.conn = 2, .peer = 1, .link = 7, .data_gen = 1};
    for (uint32_t i = 0; i < REFUSALS; i++) {
        refuse_one(0);
    }
    assert_int_equal(tcp.sent[1], REFUSALS);
    assert_int_equal(tcp.closed[1], 0);

    for (uint32_t i = 0; i < 3; i++) { /* taken: as many more may wait */
        say(KVN_PORT_TCP, &(struct kvt_event){.kind = KVT_EV_DONE, .conn = 1});
    }
    for (uint32_t i = 0; i < 3; i++) {
        refuse_one(0);
    }
    assert_int_equal(tcp.sent[1], REFUSALS + 3);
    assert_int_equal(tcp.closed[1], 0);

    refuse_one(0);
    assert_int_equal(tcp.sent[1], REFUSALS + 3);
    assert_int_equal(tcp.closed[1], 1);
    refuse_one(1);
    assert_int_equal(tcp.sent[2], 1);
    assert_int_equal(tcp.closed[2], 0);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ two kinds */

/* What opens one kind opens no other, wherever its bytes are said again. */
static void hello__is_believed_on_the_port_of_its_kind(void **state)
{
    (void)state;
    node_open();
    hello(KVN_PORT_SHM, 1, 1, false, true); /* of tcp, said to shm */
    hello(KVN_PORT_TCP, 2, 1, true, true);
    hello(KVN_PORT_SHM, 3, 1, true, false);
    assert_int_equal(shm.closed[1] + tcp.closed[2] + shm.closed[3], 3);
    assert_int_equal(shm.accepted[1] + tcp.accepted[2] + shm.accepted[3], 0);
    hello(KVN_PORT_TCP, 4, 1, false, true);
    hello(KVN_PORT_SHM, 4, 1, true, true); /* of another port: another connection */
    assert_int_equal(tcp.accepted[4] + shm.accepted[4], 2);
    assert_int_equal(tcp.closed[4] + shm.closed[4], 0);
    hello(KVN_PORT_SHM, 5, 1, true, true); /* twice */
    assert_int_equal(shm.closed[5], 1);

    hello(KVN_PORT_SHM, 6, 2, true, true); /* a newer one ends both of the older */
    assert_int_equal(shm.accepted[6], 1);
    assert_int_equal(tcp.closed[4] + shm.closed[4], 2);
    assert_int_equal(shm.closed[6], 0);
    ck_close(&ck);
}

/* A peer's newer connection ends its older one, and nothing else: neither ours to it
 * nor another peer's. One that has no proof, or an old number, ends itself alone. */
static void hello__newer_ends_the_older_of_its_peer_alone(void **state)
{
    (void)state;
    enum { OURS = 1, OTHERS = 2, OLD = 3, NEW = 4 };
    node_open();
    conns[0] = (struct kvn_data_conn){
        .conn = OURS, .peer = CK_PEER, .link = ck.link, .data_gen = 1, .out = true};
    conns[1] =
        (struct kvn_data_conn){.conn = OTHERS, .peer = 0, .link = 7, .data_gen = 1};
    hello(KVN_PORT_TCP, OLD, 1, false, true);
    assert_int_equal(tcp.accepted[OLD], 1);
    hello(KVN_PORT_TCP, NEW, 2, false, false); /* no proof */
    hello(KVN_PORT_TCP, NEW, 1, false, true);  /* the number of the old one */
    assert_int_equal(tcp.closed[NEW], 2);
    assert_int_equal(tcp.accepted[NEW], 0);
    assert_int_equal(tcp.closed[OLD], 0);
    hello(KVN_PORT_TCP, NEW, 2, false, true);
    assert_int_equal(tcp.accepted[NEW], 1);
    assert_int_equal(tcp.closed[NEW], 2);
    assert_int_equal(tcp.closed[OLD], 1);
    assert_int_equal(tcp.closed[OURS], 0);
    assert_int_equal(tcp.closed[OTHERS], 0);
    ck_close(&ck);
}

/* Connections of shm end by their reader's word: one that opens and never says it gets
 * no more of them. */
static void hello__of_one_peer_has_a_bound(void **state)
{
    (void)state;
    node_open();
    for (uint32_t gen = 1; gen <= KVN_NODE_PEER_CONNS_MAX; gen++) {
        hello(KVN_PORT_SHM, gen, gen, true, true);
        assert_int_equal(shm.accepted[gen], 1);
    }
    hello(KVN_PORT_SHM, 9, 9, true, true);
    assert_int_equal(shm.accepted[9], 0);
    assert_int_equal(shm.closed[9], 1);
    hello(KVN_PORT_TCP, 11, 9, false, true); /* it is not left without data */
    assert_int_equal(tcp.accepted[11], 1);
    say(KVN_PORT_SHM, &(struct kvt_event){.kind = KVT_EV_CLOSED, .conn = 1});
    hello(KVN_PORT_SHM, 10, 9, true, true);
    assert_int_equal(shm.accepted[10], 1);
    ck_close(&ck);
}

/* A one-sided reader may still read when tcp is closed already: only both are proof. */
static void fence__waits_for_both_kinds(void **state)
{
    (void)state;
    const struct kvo_part part = {.id = 77};
    const struct kvo_order order = {
        .kind = KVO_ORDER_FENCE_IN,
        .peer = CK_PEER,
        .data_gen = 1,
        .parts = &part,
        .nr_parts = 1,
    };
    node_open();
    struct kvo_order fence = order;
    fence.link = ck.link;
    hello(KVN_PORT_TCP, 3, 1, false, true);
    hello(KVN_PORT_SHM, 3, 1, true, true);
    kvn_data_fence(&node, &fence);
    assert_int_equal(tcp.closed[3], 1);
    assert_int_equal(shm.closed[3], 1);
    assert_true(fences[0].used);
    say(KVN_PORT_TCP, &(struct kvt_event){.kind = KVT_EV_CLOSED, .conn = 3});
    assert_true(fences[0].used);
    assert_int_equal(node.deferred_nr, 0);
    say(KVN_PORT_SHM, &(struct kvt_event){.kind = KVT_EV_CLOSED, .conn = 3});
    assert_false(fences[0].used);
    ck_close(&ck);
}

/* A read under a grant goes where the grant says; without a connection it ends at once.
 * Also when there is one of the other kind. */
static void get__goes_by_the_one_sided_connection(void **state)
{
    (void)state;
    const struct kvp_pool_config pool = {
        .tier = KVP_HOST, .frame_bytes = 4096, .nr_frames = 4};
    struct kvp_config *pager = calloc(1, sizeof(*pager));
    const enum kvn_memory_mode mode = KVN_MEMORY_READ;
    char line[KVN_MEMORY_LINE_BYTES];
    const struct kvo_part part = {
        .id = 88,
        .pool_frame = 2,
        .len = 4096,
        .grant = {.id = 5, .arena = 3, .offset = 8192, .len = 4096},
    };
    const struct kvo_order order = {
        .kind = KVO_ORDER_READ_GRANT,
        .peer = CK_PEER,
        .link = 7,
        .data_gen = 1,
        .parts = &part,
        .nr_parts = 1,
    };
    node_open();
    assert_non_null(pager);
    pager->pools[0] = pool;
    pager->nr_pools = 1;
    assert_int_equal(
        kvn_memory_create(
            pager, &mode, false, &node.memory, line, sizeof(line)),
        KV_OK);
    conns[0] = (struct kvn_data_conn){
        .conn = 1, .kind = KVO_NAMED, .peer = CK_PEER, .link = 7, .data_gen = 1,
        .out = true};
    kvn_data_get(&node, &order);
    assert_int_equal(node.deferred_nr, 1);
    assert_int_equal(deferred[0].id, 88);
    assert_int_equal(deferred[0].status, KV_ERR_LINK_LOST);
    assert_int_equal(shm.gets, 0);
    conns[1] = conns[0];
    conns[1].kind = KVO_ONE_SIDED;
    conns[1].port = KVN_PORT_SHM;
    kvn_data_get(&node, &order);
    assert_int_equal(shm.gets, 1);
    assert_int_equal(node.deferred_nr, 1);
    assert_int_equal(shm.get.id, 88);
    assert_int_equal(shm.get.arena, 3);
    assert_int_equal(shm.get.offset, 8192);
    assert_int_equal(shm.get.room, 4096);
    assert_ptr_equal(shm.get.to, kvn_memory_frame(node.memory, 0, 2));
    kvn_memory_destroy(node.memory);
    free(pager);
    ck_close(&ck);
}

/* A GET of a page that node 2 grants us, up to the order to read it. */
static struct ck_wire ordered(const kv_key_t *key)
{
    const uint64_t buffer = 0;
    const struct kvo_request get = {
        .op = KVO_GET,
        .keys = key,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    ck_lists(&ck, key, 1);
    ck_send(&ck, ck_client(&ck, 1), &get);
    const struct kv_msg *asked = ck_said(&ck, KV_MSG_GRANT);
    assert_non_null(asked);
    struct kv_msg_granted_item item = {
        .grant = {
            .id = 500,
            .digest = 1234,
            .len = CK_PAGE_BYTES,
            .n_tokens = CK_PAGE_TOKENS,
            .duration_us = 60000000,
        }};
    struct kv_msg msg = {.type = KV_MSG_GRANTED, .req = asked->req};
    msg.u.granted = (struct kv_msg_granted){.items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
    struct ck_wire read;
    assert_true(ck_wire(&ck, KVO_ORDER_READ_GRANT, &read));
    return read;
}

/* The digest of what landed is what counts, not that it landed; but for data.verify,
 * which says that nobody looks. */
static void done__of_other_bytes_is_not_verified(void **state)
{
    (void)state;
    static const struct {
        bool verify, equal, here;
    } rows[] = {{true, false, false}, {true, true, true}, {false, false, true}};
    for (unsigned i = 0; i < 3; i++) {
        const kv_key_t key = ck_key(1);
        node_open();
        config.verify_reads = rows[i].verify;
        const struct ck_wire read = ordered(&key);
        say(KVN_PORT_SHM, &(struct kvt_event){
                               .kind = KVT_EV_DONE,
                               .id = read.part.id,
                               .computed = rows[i].equal ? 1234 : 0,
                               .len = CK_PAGE_BYTES,
                           });
        assert_int_equal(ck_here(&ck, &key), rows[i].here);
        assert_int_equal(kvo_metrics(ck.node)->not_verified, !rows[i].here);
        const struct kv_msg *released = ck_said(&ck, KV_MSG_RELEASE);
        assert_non_null(released);
        assert_int_equal(released->u.release.items[0].read, rows[i].here);
        ck.now_us = uv_hrtime() / 1000; /* the kit's own calls come after */
        ck_close(&ck);
    }
}

/* A peer that offers to be read from is refused, whatever its hello says: nothing of it
 * is looked at, and nothing is accepted. */
static void offers__of_peers_are_refused(void **state)
{
    (void)state;
    node_open();
    for (unsigned kind = 0; kind < KVO_NR_KINDS; kind++) {
        say(kind, &(struct kvt_event){
                      .kind = KVT_EV_HELLO, .conn = 3, .offered = true});
    }
    assert_int_equal(tcp.closed[3] + shm.closed[3], 2);
    assert_int_equal(tcp.accepted[3] + shm.accepted[3], 0);
    assert_int_equal(conns[0].conn, 0);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals__have_a_bound_of_their_own),
        cmocka_unit_test(hello__is_believed_on_the_port_of_its_kind),
        cmocka_unit_test(hello__newer_ends_the_older_of_its_peer_alone),
        cmocka_unit_test(hello__of_one_peer_has_a_bound),
        cmocka_unit_test(fence__waits_for_both_kinds),
        cmocka_unit_test(get__goes_by_the_one_sided_connection),
        cmocka_unit_test(done__of_other_bytes_is_not_verified),
        cmocka_unit_test(offers__of_peers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
