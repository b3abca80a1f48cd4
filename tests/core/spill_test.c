/* Spill, both sides, against a peer that says what it should not: nothing that it says
 * may cost a copy that is wanted, or keep one that is not. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct ck ck;
static struct kvo_client_id client;

static void open_linked(uint32_t free_divisor)
{
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck.config.spill = true;
    ck.config.pager.free_target_divisor = free_divisor;
    ck_open(&ck);
    client = ck_client(&ck, 3);
    ck_meet(&ck);
}

static const struct kvo_metrics *metrics(void)
{
    return kvo_metrics(ck.node);
}

static kv_status_t ask_one(enum kvo_op op, const kv_key_t *key)
{
    const uint64_t buffer = 0;
    const struct kvo_request request = {
        .op = op, .keys = key, .nr_keys = 1, .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    return ck.statuses[0];
}

/* ------------------------------------------------------------------ as a taker */

/* The length alone says nothing: 0 tokens are 0 bytes, 9 of 8 would be two pages. */
static void offer__of_no_or_too_many_tokens_is_refused(void **state)
{
    (void)state;
    open_linked(0);
    const kv_key_t key = ck_key(1);
    struct kv_msg_offer offer = ck_offer(&key);
    offer.n_tokens = 0;
    offer.len = 0;
    assert_int_equal(ck_offers(&ck, &offer), KV_ERR_REFUSED);
    offer = ck_offer(&key);
    offer.n_tokens = CK_PAGE_TOKENS + 1;
    offer.len = 2 * CK_PAGE_BYTES;
    assert_int_equal(ck_offers(&ck, &offer), KV_ERR_REFUSED);
    offer.n_tokens = UINT32_MAX;
    assert_int_equal(ck_offers(&ck, &offer), KV_ERR_REFUSED);
    offer = ck_offer(&key);
    assert_int_equal(ck_offers(&ck, &offer), KV_TAKE);
    ck_close(&ck);
}

/* What SPILL_DONE said of the one copy. */
static kv_status_t done_status(void)
{
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_SPILL_DONE);
    assert_non_null(msg);
    assert_int_equal(msg->u.spill_done.nr_items, 1);
    return msg->u.spill_done.items[0].status;
}

static struct ck_wire taken(const kv_key_t *key)
{
    struct kv_msg_offer offer = ck_offer(key);
    struct ck_wire read;
    assert_int_equal(ck_offers(&ck, &offer), KV_TAKE);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_NAMED, &read));
    return read;
}

/* The owner drops its copy on OK: said of bytes that never came, it was the last. */
static void spill_in__a_status_that_is_no_error_is_no_success(void **state)
{
    (void)state;
    static const kv_status_t statuses[] = {KV_EXISTS, KV_TAKE, KV_INPROGRESS};

    open_linked(0);
    for (unsigned i = 0; i < 3; i++) {
        const kv_key_t key = ck_key(1 + i);
        const struct ck_wire read = taken(&key);
        ck_landed(&ck, &read, statuses[i], CK_PAGE_TOKENS);
        assert_int_equal(done_status(), KV_ERR_MISS);
        assert_false(ck_here(&ck, &key));
        assert_int_equal(metrics()->spills_in, 0);
    }
    const kv_key_t key = ck_key(9);
    const struct ck_wire read = taken(&key);
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    assert_int_equal(done_status(), KV_OK);
    assert_true(ck_here(&ck, &key));
    ck_close(&ck);
}

/* Dropped before it was here: what arrives later is what the client wanted gone. */
static void drop__reaches_a_copy_that_is_only_arriving(void **state)
{
    (void)state;
    open_linked(0);
    const kv_key_t key = ck_key(1);
    const struct ck_wire read = taken(&key);
    const kv_status_t dropped = ask_one(KVO_DROP, &key);
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    assert_int_equal(done_status(), KV_ERR_MISS);
    assert_int_equal(dropped, KV_OK);
    assert_false(ck_here(&ck, &key));
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), 0);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ as an owner */

/* With a reserve of all frames, whatever is idle leaves at the next tick. */
static uint64_t next_offer(void)
{
    ck_tick(&ck, ck.config.tick_us);
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_SPILL_OFFER);
    assert_non_null(msg);
    assert_int_equal(msg->u.spill_offer.nr_items, 1);
    return msg->req;
}

static void answer(uint64_t req, kv_status_t status)
{
    struct kv_msg msg = {.type = KV_MSG_SPILL_ANSWER, .req = req};
    int32_t statuses[] = {status};
    msg.u.spill_answer = (struct kv_msg_spill_answer){
        .statuses = statuses, .nr_statuses = 1};
    ck_tell(&ck, &msg);
}

/* HAVE of an offer that was overtaken: the copy is kept, and the home hears of it
 * again, so that it may by now have named us to another as its keeper. What it says of
 * the second offer was decided before that, and is not believed. */
static void have__of_an_old_offer_makes_the_newer_one_doubtful(void **state)
{
    (void)state;
    open_linked(1);
    const kv_key_t key = ck_key_of(&ck, CK_PEER, 0);
    assert_int_equal(ask_one(KVO_PUT, &key), KV_OK);
    const uint64_t first = next_offer();
    assert_int_equal(ask_one(KVO_GET, &key), KV_OK); /* wanted again */
    const uint64_t second = next_offer();
    assert_int_not_equal(first, second);

    while (ck_said(&ck, KV_MSG_PUBLISH) != NULL) {
    }
    answer(first, KV_EXISTS);
    const struct kv_msg *again = ck_said(&ck, KV_MSG_PUBLISH);
    assert_non_null(again);
    assert_memory_equal(&again->u.publish.items[0].copy.key, &key, sizeof(key));
    answer(second, KV_EXISTS);
    assert_true(ck_here(&ck, &key));
    assert_int_equal(metrics()->spills_have, 0);
    assert_non_null(ck_said(&ck, KV_MSG_PUBLISH)); /* forgotten twice, listed twice */

    answer(next_offer(), KV_EXISTS); /* this one is about what is listed */
    assert_false(ck_here(&ck, &key));
    assert_int_equal(metrics()->spills_have, 1);
    ck_close(&ck);
}

/* Two homes that both say HAVE would let two holders go, each for the other's sake. */
static void have__of_another_than_the_first_home_is_a_refusal(void **state)
{
    (void)state;
    open_linked(1);
    const kv_key_t key = ck_key_of(&ck, 0, 0); /* ourselves */
    assert_int_equal(ask_one(KVO_PUT, &key), KV_OK);
    answer(next_offer(), KV_EXISTS);
    assert_int_equal(metrics()->spills_have, 0);
    assert_int_equal(metrics()->spills_refused, 1);
    assert_true(ck_here(&ck, &key)); /* readable until its frame is needed */
    assert_int_equal(ask_one(KVO_GET, &key), KV_OK);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ what is owed */

static void beat(uint32_t nr_entries)
{
    struct kv_msg msg = {.type = KV_MSG_PING};
    msg.u.ping = (struct kv_msg_ping){
        .seq = 1, .stream_pos = ck.stream, .nr_entries = nr_entries};
    ck_tell(&ck, &msg);
    assert_non_null(ck_said(&ck, KV_MSG_PONG));
}

/* We told the peer HAVE, and forgot its entry; it kept the copy all the same. That it
 * withdraws something else, which its credential did not cover and we never listed,
 * must not pass for the withdrawal of that copy: then the counts would agree for ever,
 * and the copy never be found. */
static void forgotten__is_not_settled_by_withdrawing_what_was_denied(void **state)
{
    (void)state;
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck.config.spill = true;
    ck.nr_tenants = 1; /* tenant 10 alone */
    ck_open(&ck);
    client = ck_client(&ck, 1);
    const kv_key_t key = ck_key_of(&ck, 0, 0), other = ck_key_of(&ck, 0, 1);
    assert_int_equal(ask_one(KVO_PUT, &key), KV_OK);
    ck_meet(&ck);
    ck_lists(&ck, &key, 1);
    struct kv_msg_entry entry = ck_entry(&other);
    entry.copy.tenant = 20;
    struct kv_msg publish = {.type = KV_MSG_PUBLISH};
    publish.u.publish = (struct kv_msg_publish){
        .pos = ++ck.stream, .items = &entry, .nr_items = 1};
    ck_tell(&ck, &publish);
    struct kv_msg_offer offer = ck_offer(&key);
    assert_int_equal(ck_offers(&ck, &offer), KV_EXISTS); /* HAVE: forgotten */
    beat(2);

    struct kv_msg_gone gone = {.copy = entry.copy, .gen = entry.gen};
    struct kv_msg withdraw = {.type = KV_MSG_WITHDRAW};
    withdraw.u.withdraw = (struct kv_msg_withdraw){
        .pos = ++ck.stream, .items = &gone, .nr_items = 1};
    ck_tell(&ck, &withdraw);
    bool asked = false;
    for (unsigned i = 0; i < 16 && !asked; i++) { /* more than KVO_FORGOTTEN_BEATS */
        beat(1);
        asked = ck_said(&ck, KV_MSG_SYNC_WANT) != NULL;
        assert_true(!asked || i >= 8); /* given time to withdraw it */
    }
    assert_true(asked);
    ck_lists(&ck, &key, 1); /* found again */
    beat(1);
    beat(1);
    assert_null(ck_said(&ck, KV_MSG_SYNC_WANT));
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offer__of_no_or_too_many_tokens_is_refused),
        cmocka_unit_test(spill_in__a_status_that_is_no_error_is_no_success),
        cmocka_unit_test(drop__reaches_a_copy_that_is_only_arriving),
        cmocka_unit_test(have__of_an_old_offer_makes_the_newer_one_doubtful),
        cmocka_unit_test(have__of_another_than_the_first_home_is_a_refusal),
        cmocka_unit_test(forgotten__is_not_settled_by_withdrawing_what_was_denied),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ck_complete_many(true); /* and all of it again, completions in one go */
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
