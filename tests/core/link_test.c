/* Links and data connections against a peer that says what it should not, or says it at
 * the wrong moment: it is told so, and nothing else changes. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct ck ck;

static void open_two(void)
{
    ck_init(&ck);
    ck_two_nodes(&ck);
}

static uint64_t edge(const char *machine, const char *from, const char *to)
{
    struct kvo_edge e;
    for (unsigned i = 0; kvo_edge_at(ck.node, i, &e); i++) {
        if (strcmp(e.machine, machine) == 0 && strcmp(e.from, from) == 0
            && strcmp(e.to, to) == 0) {
            return e.count;
        }
    }
    fail_msg("no edge %s %s %s", machine, from, to);
    return 0;
}

/* The refusal that the peer hears on that connection before it is hung up. */
static void
expect_told(uint64_t conn, kv_status_t status, const char *field, uint64_t link)
{
    const uint32_t told = ck_said_at(&ck, KV_MSG_STATUS, conn);
    assert_true(told < ck.nr_said);
    assert_true(told < ck_said_at(&ck, 0, conn)); /* first the word, then the end */
    assert_true(ck_said_at(&ck, 0, conn) < ck.nr_said);
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_STATUS);
    assert_int_equal(msg->u.status.status, status);
    assert_int_equal(msg->u.status.field.len, strlen(field));
    assert_memory_equal(msg->u.status.field.text, field, strlen(field));
    assert_int_equal(msg->link, link);
}

/* ------------------------------------------------------------------ HELLO */

/* The living link is none of a mistaken newcomer's business, also if it claims to be
 * the very process that the link is with. */
static void second_hello__wrong_one_leaves_the_link_up(void **state)
{
    (void)state;
    open_two();
    ck_open(&ck);
    ck_meet(&ck);
    struct kv_msg *hello = ck_hello(&ck);
    hello->u.hello.cluster = (struct kv_msg_text){.text = "other", .len = 5};
    ck_connect(&ck, 200);
    ck_tell_on(&ck, 200, hello);
    expect_told(200, KV_ERR_CLUSTER, "hello.cluster", 0);
    assert_true(kvo_link_up(ck.node, CK_PEER));

    hello = ck_hello(&ck);
    hello->u.hello.proto_min = hello->u.hello.proto_max = KV_PROTO_MAX + 1;
    ck_connect(&ck, 201);
    ck_tell_on(&ck, 201, hello);
    expect_told(201, KV_ERR_VERSION, "hello.proto", 0);
    assert_true(kvo_link_up(ck.node, CK_PEER));
    assert_int_equal(kvo_link_peer(ck.node, ck.link), CK_PEER);
    ck_close(&ck);
}

/* Of two lives of one node none draws the ids of the other, whatever the seeds have in
 * common: a message of the old life would be believed in the new one. */
static uint64_t link_of_life(uint64_t seed, uint64_t incarnation)
{
    open_two();
    ck.config.seed = seed;
    ck.config.incarnation = incarnation;
    ck_open(&ck);
    ck_meet(&ck);
    const uint64_t link = ck.link;
    ck_close(&ck);
    return link;
}

static void link_id__every_life_draws_others(void **state)
{
    (void)state;
    const uint64_t link = link_of_life(3, 77);
    assert_int_equal(link, link_of_life(3, 77)); /* it is a seed */
    assert_int_not_equal(link, link_of_life(3, 78));
    assert_int_not_equal(link, link_of_life(4, 77));
    /* Seeds that are made from the incarnation, as the simulator's were. */
    assert_int_not_equal(link, link_of_life(3 ^ 77 ^ 78, 78));
    assert_int_not_equal(link_of_life(77, 77), link_of_life(78, 78));
}

/* ------------------------------------------------------------------ bad bytes */

static void bad_message__says_why_before_the_end(void **state)
{
    (void)state;
    const struct kv_detail detail = {
        .field = "publish.items", .limit = 256, .value = 300};
    open_two();
    ck_open(&ck);
    ck_connect(&ck, CK_CONN); /* before UP */
    kvo_bad_message(ck.node, ck.now_us, CK_PEER, CK_CONN, KV_ERR_INVALID, &detail);
    kvo_check(ck.node);
    expect_told(CK_CONN, KV_ERR_INVALID, "publish.items", 0);
    assert_false(kvo_link_up(ck.node, CK_PEER));
    ck.nr_said = 0;

    ck_meet(&ck); /* and UP */
    kvo_bad_message(ck.node, ck.now_us, CK_PEER, CK_CONN, KV_ERR_INVALID, &detail);
    kvo_check(ck.node);
    assert_true(
        ck_said_at(&ck, KV_MSG_STATUS, CK_CONN) < ck_said_at(&ck, 0, CK_CONN));
    assert_true(ck_said_at(&ck, 0, CK_CONN) < ck.nr_said);
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_STATUS);
    assert_int_equal(msg->u.status.status, KV_ERR_INVALID);
    assert_memory_equal(msg->u.status.field.text, "publish.items", 13);
    assert_int_equal(msg->u.status.limit, 256);
    assert_int_equal(msg->u.status.value, 300);
    assert_int_equal(msg->link, ck.link);
    assert_false(kvo_link_up(ck.node, CK_PEER));
    ck_close(&ck);
}

/* ------------------------------------------------------------------ PING */

static void ping(uint64_t epoch)
{
    struct kv_msg msg = {.type = KV_MSG_PING};
    msg.u.ping = (struct kv_msg_ping){.seq = 1, .stream_pos = 5, .nr_entries = 2};
    ck.epoch = epoch;
    ck_tell(&ck, &msg);
    assert_non_null(ck_said(&ck, KV_MSG_PONG));
}

/* What it publishes would be refused, and so would be a sync: asking for one would go
 * round for ever. */
static void ping__of_an_older_epoch_asks_for_no_sync(void **state)
{
    (void)state;
    const struct kvc_member members[] = {
        {.id = 1, .weight = 1}, {.id = 2, .weight = 1}};
    open_two();
    assert_int_equal(kvc_view_build(&ck.view, 2, members, 2, NULL), KV_OK);
    ck_open(&ck);
    ck_meet(&ck); /* of epoch 1 */
    for (unsigned i = 0; i < 5; i++) {
        ping(1);
        assert_null(ck_said(&ck, KV_MSG_SYNC_WANT));
    }
    ping(2);
    assert_non_null(ck_said(&ck, KV_MSG_SYNC_WANT));
    ck_close(&ck);
}

/* ------------------------------------------------------------------ DATA_OPEN */

/* What GRANT for the key is answered: OK when the peer's data connection is open. */
static kv_status_t granted(const kv_key_t *key)
{
    struct kv_copy copy = ck_copy(key);
    struct kv_msg msg = {.type = KV_MSG_GRANT, .req = 9};
    msg.u.grant = (struct kv_msg_grant){
        .purpose = KV_GRANT_FETCH, .copies = &copy, .nr_copies = 1};
    ck_tell(&ck, &msg);
    const struct kv_msg *answer = ck_said(&ck, KV_MSG_GRANTED);
    assert_non_null(answer);
    return answer->u.granted.items[0].status;
}

/* A grant on the key that the peer does not give back, until its connection is being
 * fenced. */
static struct ck_wire fence_of(const kv_key_t *key)
{
    struct ck_wire fence;
    assert_int_equal(granted(key), KV_OK);
    ck_tick(&ck, 100000); /* REVOKE */
    assert_non_null(ck_said(&ck, KV_MSG_REVOKE));
    ck_tick(&ck, 100000);
    assert_true(ck_wire(&ck, KVO_ORDER_FENCE_IN, &fence));
    return fence;
}

static void open_with_a_copy(const kv_key_t *key)
{
    open_two();
    ck.config.grant_us = ck.config.revoke_us = 100000;
    ck_open(&ck);
    const uint64_t buffer = 0;
    const struct kvo_request put = {
        .op = KVO_PUT, .keys = key, .nr_keys = 1, .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, ck_client(&ck, 1), &put), KV_OK);
    assert_true(ck_here(&ck, key));
    ck_meet(&ck);
    assert_int_equal(granted(key), KV_ERR_AGAIN); /* no connection yet */
    assert_true(ck_opens(&ck, 1, true));
}

/* The reader has noticed the break before our fence is through: its new connection is
 * the one after the fence. Refused, it would come again only at some later time. */
static void data_open__during_a_fence_opens_after_it(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    open_with_a_copy(&key);
    const struct ck_wire fence = fence_of(&key);
    assert_false(ck_opens(&ck, 2, false));
    assert_true(ck_opens(&ck, 2, true));
    assert_false(ck_opens(&ck, 2, true)); /* not newer any more */
    assert_int_equal(granted(&key), KV_ERR_AGAIN); /* not before the fence has ended */
    assert_int_equal(edge("CONN", "FENCING", "CLOSED"), 0);
    assert_int_equal(edge("CONN", "CLOSED", "OPEN"), 2); /* ours, and the first */
    ck_fenced(&ck, &fence);
    assert_int_equal(edge("CONN", "FENCING", "CLOSED"), 1);
    assert_int_equal(edge("CONN", "CLOSED", "OPEN"), 3);
    assert_int_equal(granted(&key), KV_OK);
    ck_close(&ck);
}

static void data_open__wrong_during_a_fence_does_not(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    open_with_a_copy(&key);
    const struct ck_wire fence = fence_of(&key);
    assert_false(ck_opens(&ck, 2, false));
    assert_false(ck_opens(&ck, 1, true));
    assert_false(ck_opens(&ck, 0, true));
    ck_fenced(&ck, &fence);
    assert_int_equal(edge("CONN", "CLOSED", "OPEN"), 2);
    assert_int_equal(granted(&key), KV_ERR_AGAIN);
    assert_true(ck_opens(&ck, 2, true));
    assert_int_equal(granted(&key), KV_OK);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_hello__wrong_one_leaves_the_link_up),
        cmocka_unit_test(link_id__every_life_draws_others),
        cmocka_unit_test(bad_message__says_why_before_the_end),
        cmocka_unit_test(ping__of_an_older_epoch_asks_for_no_sync),
        cmocka_unit_test(data_open__during_a_fence_opens_after_it),
        cmocka_unit_test(data_open__wrong_during_a_fence_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
