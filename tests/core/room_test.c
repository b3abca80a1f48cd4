/* Room in a full node: what is coldest goes to a peer that takes it before anything is
 * dropped for a demand, as long as waiting for that has an end. The peer here takes
 * everything that it is offered, one copy after another. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Of core_priv.h: KVO_PATIENCE_TICKS and KVO_GROW_TICKS. A reserve of two frames. */
enum { FRAMES = 16, FREE_DIVISOR = 8, PATIENCE_TICKS = 4, GROW_TICKS = 4 };

static struct ck ck;
static struct kvo_client_id client;
static struct kv_copy taken[4 * FRAMES]; /* not said to be done yet, oldest first */
static uint32_t nr_taken;
static uint32_t ceiling; /* of the tenant, 0: none */

static void open_with(uint32_t nr_pools, bool meet)
{
    nr_taken = 0;
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck.config.spill = true;
    ck.config.pager.nr_pools = nr_pools;
    ck.config.pager.pools[nr_pools - 1].nr_frames = FRAMES;
    ck.config.pager.free_target_divisor = FREE_DIVISOR;
    ck.config.pager.tenants[0].ceiling[KVP_DEVICE] = ceiling;
    ck_open(&ck);
    client = ck_client(&ck, 1);
    if (meet) {
        ck_meet(&ck);
    }
    for (unsigned i = 1; i <= FRAMES; i++) {
        assert_int_equal(ck_batch(&ck, client, KVO_PUT, i, 1, 0), KV_OK);
        assert_int_equal(ck.statuses[0], KV_OK);
    }
}

/* What the peer says to all that it is offered. */
static void answer_offers(int32_t status)
{
    const struct kv_msg *msg;
    while ((msg = ck_said(&ck, KV_MSG_SPILL_OFFER)) != NULL) {
        const struct kv_msg_spill_offer *offer = &msg->u.spill_offer;
        int32_t statuses[KV_MSG_OFFERS_MAX];
        struct kv_msg answer = {.type = KV_MSG_SPILL_ANSWER, .req = msg->req};
        answer.u.spill_answer.statuses = statuses;
        answer.u.spill_answer.nr_statuses = offer->nr_items;
        for (uint32_t i = 0; i < offer->nr_items; i++) {
            statuses[i] = status;
            if (status == KV_TAKE) {
                taken[nr_taken++] = offer->items[i].copy;
            }
        }
        ck_tell(&ck, &answer);
    }
}

static void take_offers(void)
{
    answer_offers(KV_TAKE);
}

/* … and has the oldest of them. */
static void done_one(void)
{
    assert_true(nr_taken > 0);
    struct kv_msg_spilled item = {.copy = taken[0], .status = KV_OK};
    struct kv_msg msg = {.type = KV_MSG_SPILL_DONE};
    msg.u.spill_done.items = &item;
    msg.u.spill_done.nr_items = 1;
    memmove(taken, taken + 1, --nr_taken * sizeof(taken[0]));
    ck_tell(&ck, &msg);
}

static void nothing_was_dropped(void)
{
    assert_int_equal(
        kvp_metrics(kvo_pager(ck.node))->evicted, kvo_metrics(ck.node)->spills_taken);
}

/* ------------------------------------------------------------------ fetches */

/* A long fetch gets its frames one by one. That its last pages wait longer than
 * PATIENCE_TICKS is no reason to drop what is about to leave in order. */
static void fetch__behind_others_keeps_its_patience(void **state)
{
    (void)state;
    enum { PAGES = 8, FIRST = 100 };
    kv_key_t keys[PAGES];
    uint64_t buffers[PAGES];
    open_with(2, true);
    for (unsigned i = 0; i < PAGES; i++) {
        keys[i] = ck_key(FIRST + i);
        buffers[i] = (uint64_t)i * CK_PAGE_BYTES;
    }
    ck_lists(&ck, keys, PAGES);
    const struct kvo_request request = {
        .op = KVO_GET,
        .keys = keys,
        .nr_keys = PAGES,
        .buffers = buffers,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    const uint32_t before = ck.nr_answers;
    ck_send(&ck, client, &request);
    unsigned ticks = 0;
    while (ck.nr_answers == before) {
        struct ck_wire read;
        assert_true(ticks++ < 4 * PAGES);
        ck_tick(&ck, ck.config.tick_us);
        take_offers();
        done_one();
        while (ck_wire(&ck, KVO_ORDER_READ_NAMED, &read)) {
            ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
        }
        ck_pump(&ck);
        nothing_was_dropped();
    }
    assert_true(ticks > PATIENCE_TICKS + 1);
    assert_int_equal(ck_count(&ck, KV_OK), PAGES);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ sequences */

static void append(uint32_t pages)
{
    const struct kvo_request request = {
        .op = KVO_SEQ_APPEND,
        .seq = ck_seq(&ck, client),
        .tokens = pages * CK_PAGE_TOKENS,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    ck_send(&ck, client, &request);
}

/* With one tier, what is coldest on this node may be warm for the cluster: a growing
 * sequence waits a few ticks for a peer to take it. */
static void append__waits_for_what_a_peer_takes(void **state)
{
    (void)state;
    enum { PAGES = 4 };
    open_with(1, true);
    const struct kvo_request open = {.op = KVO_SEQ_OPEN};
    assert_int_equal(ck_ask(&ck, client, &open), KV_OK);
    ck_tick(&ck, ck.config.tick_us);
    const uint32_t before = ck.nr_answers;
    append(PAGES);
    const uint32_t opened = ck.nr_answers;
    assert_int_equal(opened, before + 1); /* the sequence, not its pages */
    take_offers();
    while (ck.nr_answers == opened) {
        nothing_was_dropped();
        done_one();
        take_offers();
    }
    assert_int_equal(ck.answer.op, KVO_SEQ_APPEND);
    assert_int_equal(ck.answer.status, KV_OK);
    nothing_was_dropped();
    assert_int_equal(kvo_metrics(ck.node)->spills_taken, PAGES);
    ck_close(&ck);
}

/* A peer that does not answer costs a few ticks, not the request. */
static void append__does_not_wait_longer_for_a_silent_peer(void **state)
{
    (void)state;
    open_with(1, true);
    append(4);
    const uint32_t before = ck.nr_answers;
    for (unsigned tick = 1; tick < GROW_TICKS; tick++) {
        ck_tick(&ck, ck.config.tick_us);
        assert_int_equal(ck.nr_answers, before);
    }
    ck_tick(&ck, ck.config.tick_us);
    assert_int_equal(ck.nr_answers, before + 1);
    assert_int_equal(ck.answer.status, KV_OK);
    ck_close(&ck);
}

static void append__without_a_peer_does_not_wait(void **state)
{
    (void)state;
    open_with(1, false);
    append(4);
    assert_int_equal(ck.answer.op, KVO_SEQ_APPEND);
    assert_int_equal(ck.answer.status, KV_OK);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ puts */

enum { PUT = 4, NEW = 100 }; /* so many pages, of these numbers */

/* Sends it, and carries out what it can do now. True when it has been answered. */
static bool put(uint64_t for_us)
{
    kv_key_t keys[PUT];
    uint64_t buffers[PUT] = {0};
    ck_keys(keys, NEW, PUT);
    const struct kvo_request request = {
        .op = KVO_PUT,
        .keys = keys,
        .nr_keys = PUT,
        .buffers = buffers,
        .deadline_us = ck.now_us + for_us,
    };
    const uint32_t before = ck.nr_answers;
    ck_send(&ck, client, &request);
    ck_pump(&ck);
    return ck.nr_answers > before;
}

static void put_is_done(void)
{
    assert_int_equal(ck.answer.op, KVO_PUT);
    assert_int_equal(ck.answer.status, KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), PUT);
}

/* Ticks until it has been answered. */
static unsigned put_ticks(void)
{
    const uint32_t before = ck.nr_answers;
    unsigned ticks = 0;
    while (ck.nr_answers == before) {
        assert_true(ticks++ <= GROW_TICKS);
        ck_tick(&ck, ck.config.tick_us);
        ck_pump(&ck);
    }
    return ticks;
}

/* A put's pages get their frames one by one, as a peer has what they held. */
static void put__waits_for_what_a_peer_takes(void **state)
{
    (void)state;
    open_with(1, true);
    assert_false(put(CK_LATER_US));
    const uint32_t before = ck.nr_answers;
    take_offers();
    for (unsigned i = 1; ck.nr_answers == before; i++) {
        assert_int_equal(kvo_metrics(ck.node)->spills_taken, i - 1);
        nothing_was_dropped();
        done_one();
        ck_pump(&ck);
        assert_int_equal(ck_frames(&ck, 0, KVP_FREE), 0); /* it has been filled */
        take_offers();
    }
    put_is_done();
    nothing_was_dropped();
    assert_int_equal(kvo_metrics(ck.node)->spills_taken, PUT);
    ck_close(&ck);
}

static void put__does_not_wait_longer_for_a_silent_peer(void **state)
{
    (void)state;
    open_with(1, true);
    assert_false(put(CK_LATER_US));
    assert_int_equal(put_ticks(), GROW_TICKS);
    put_is_done();
    ck_close(&ck);
}

/* Half of what its deadline leaves is for the bytes. */
static void put__waits_no_longer_than_its_deadline_lets_it(void **state)
{
    (void)state;
    open_with(1, true);
    assert_false(put((uint64_t)GROW_TICKS * ck.config.tick_us));
    assert_int_equal(put_ticks(), GROW_TICKS / 2);
    put_is_done();
    ck_close(&ck);
}

/* What nobody takes is as good as free. */
static void put__ends_its_wait_when_a_peer_refuses(void **state)
{
    (void)state;
    open_with(1, true);
    assert_false(put(CK_LATER_US));
    const uint32_t before = ck.nr_answers;
    while (ck.nr_answers == before) {
        const uint64_t offered = kvo_metrics(ck.node)->spills_refused;
        answer_offers(KV_ERR_REFUSED);
        ck_pump(&ck);
        assert_true(kvo_metrics(ck.node)->spills_refused > offered);
    }
    put_is_done();
    ck_close(&ck);
}

static void put__without_a_peer_does_not_wait(void **state)
{
    (void)state;
    open_with(1, false);
    assert_true(put(CK_LATER_US));
    put_is_done();
    ck_close(&ck);
}

/* Its own oldest goes, whatever others give up. */
static void put__at_the_tenants_ceiling_does_not_wait(void **state)
{
    (void)state;
    ceiling = FRAMES;
    open_with(1, true);
    ceiling = 0;
    assert_true(put(CK_LATER_US));
    put_is_done();
    ck_close(&ck);
}

static void put__of_a_dead_client_is_waited_for_no_longer(void **state)
{
    (void)state;
    open_with(1, true);
    assert_false(put(CK_LATER_US));
    const uint32_t before = ck.nr_answers;
    kvo_client_dead(ck.node, ck.now_us, client);
    assert_int_equal(ck.nr_answers, before);
    kvo_check(ck.node); /* also that nobody is waited for */
    ck_close(&ck);
}

/* ------------------------------------------------------------------ reach */

/* Tenant 20 has memory of its own, which is full, and the common domain has room. */
static const struct kv_msg_ping *ping_of(uint32_t nr_tenants)
{
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck.nr_tenants = nr_tenants; /* that the peer covers */
    ck.config.spill = true;
    ck.config.pager.free_target_divisor = FREE_DIVISOR;
    ck.config.pager.nr_pools = 2;
    for (unsigned domain = 0; domain < 2; domain++) {
        ck.config.pager.pools[domain] = (struct kvp_pool_config){
            .tier = KVP_DEVICE,
            .domain = domain,
            .frame_bytes = CK_PAGE_BYTES,
            .nr_frames = FRAMES,
        };
    }
    ck.config.pager.tenants[1].domain = 1;
    ck_open(&ck);
    client = ck_client(&ck, 3);
    kv_key_t keys[FRAMES];
    uint64_t buffers[FRAMES] = {0};
    ck_keys(keys, 1, FRAMES);
    const struct kvo_request put = {
        .op = KVO_PUT,
        .tenant = 1,
        .keys = keys,
        .nr_keys = FRAMES,
        .buffers = buffers,
    };
    assert_int_equal(ck_ask(&ck, client, &put), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), FRAMES);
    ck_meet(&ck);
    while (ck_said(&ck, KV_MSG_PING) != NULL) {
    }
    ck_tick(&ck, ck.config.liveness.heartbeat_us);
    const struct kv_msg *ping = ck_said(&ck, KV_MSG_PING);
    assert_non_null(ping);
    return &ping->u.ping;
}

/* A copy spills to where memory of its own tenant reaches back furthest: each domain
 * has a reach, and who does not cover its tenant hears nothing of it. */
static void reach__is_told_by_domain(void **state)
{
    (void)state;
    const struct kv_msg_ping *ping = ping_of(2);
    assert_int_equal(ping->reach_us, UINT64_MAX); /* the common domain is empty */
    assert_int_equal(ping->nr_reaches, 1);
    assert_int_equal(ping->reaches[0].tenant, 20);
    assert_in_range(
        ping->reaches[0].reach_us, ck.config.liveness.heartbeat_us, ck.now_us);
    ck_close(&ck);

    ping = ping_of(1);
    assert_int_equal(ping->nr_reaches, 0);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetch__behind_others_keeps_its_patience),
        cmocka_unit_test(append__waits_for_what_a_peer_takes),
        cmocka_unit_test(append__does_not_wait_longer_for_a_silent_peer),
        cmocka_unit_test(append__without_a_peer_does_not_wait),
        cmocka_unit_test(put__waits_for_what_a_peer_takes),
        cmocka_unit_test(put__does_not_wait_longer_for_a_silent_peer),
        cmocka_unit_test(put__waits_no_longer_than_its_deadline_lets_it),
        cmocka_unit_test(put__ends_its_wait_when_a_peer_refuses),
        cmocka_unit_test(put__without_a_peer_does_not_wait),
        cmocka_unit_test(put__at_the_tenants_ceiling_does_not_wait),
        cmocka_unit_test(put__of_a_dead_client_is_waited_for_no_longer),
        cmocka_unit_test(reach__is_told_by_domain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
