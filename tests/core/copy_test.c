/* Copies between clients' buffers and frames: with all of them out, a key waits its
 * turn, at most until its request's deadline. It is never refused for want of one. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
    PAGES = 1000, /* in host memory before each test; 24 frames more */
    COPIES = 2 * KVO_BATCH_KEYS_MAX, /* out at once with the kit's 8 requests */
    SOON_US = 1000,
};

static struct ck ck;

/* The node with pages 0 … PAGES - 1; page i is full of the byte 1 + i % 251. */
static struct kvo_client_id open_filled(uint32_t nr_ops)
{
    ck_init(&ck);
    ck.config.nr_ops = nr_ops;
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    for (uint32_t i = 0; i < PAGES; i++) {
        memset(ck_page(&ck, i), (int)(1 + i % 251), CK_PAGE_BYTES);
    }
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 0, PAGES, 0), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), PAGES);
    ck.nr_answers = 0;
    return client;
}

/* Keys first … first + n - 1, from or to buffer pages first + at …; not pumped. */
static void send(
    struct kvo_client_id client, enum kvo_op op, uint32_t first, uint32_t n,
    uint32_t at, uint64_t within_us)
{
    static kv_key_t keys[KVO_BATCH_KEYS_MAX];
    static uint64_t buffers[KVO_BATCH_KEYS_MAX];

    ck_keys(keys, first, n);
    for (uint32_t i = 0; i < n; i++) {
        buffers[i] = (uint64_t)(first + at + i) * CK_PAGE_BYTES;
    }
    const struct kvo_request request = {
        .op = op,
        .keys = keys,
        .nr_keys = n,
        .buffers = buffers,
        .deadline_us = ck.now_us + within_us,
    };
    ck_send(&ck, client, &request);
}

static uint64_t told(kv_status_t status)
{
    return kvo_metrics(ck.node)->statuses[kv_status_index(status)];
}

static void get__waits_for_a_copy_and_is_served(void **state)
{
    (void)state;
    const struct kvo_client_id client = open_filled(8);
    const uint64_t before = told(KV_OK);

    for (uint32_t i = 0; i < 3; i++) {
        send(client, KVO_GET, 0, PAGES, KVO_BATCH_KEYS_MAX, CK_LATER_US);
    }
    assert_int_equal(ck.nr_moves, COPIES);
    assert_int_equal(ck.nr_answers, 0);
    ck_pump(&ck);
    assert_int_equal(ck.nr_answers, 3);
    assert_int_equal(told(KV_OK), before + 3 * (PAGES + 1)); /* each key, each whole */
    assert_int_equal(told(KV_ERR_AGAIN), 0);
    for (uint32_t i = 0; i < PAGES; i++) {
        assert_memory_equal(
            ck_page(&ck, KVO_BATCH_KEYS_MAX + i), ck_page(&ck, i), CK_PAGE_BYTES);
    }
    ck_close(&ck);
}

/* Reads fill every copy; the put's frames are there, its bytes come later. */
static void put__waits_for_a_copy_and_is_served(void **state)
{
    (void)state;
    enum { NEW = 20 };
    const struct kvo_client_id client = open_filled(8);

    for (uint32_t i = 0; i < 3; i++) {
        send(client, KVO_GET, 0, PAGES, KVO_BATCH_KEYS_MAX, CK_LATER_US);
    }
    const uint64_t before = told(KV_OK);
    send(client, KVO_PUT, PAGES, NEW, 0, CK_LATER_US);
    assert_int_equal(ck.nr_moves, COPIES);
    assert_int_equal(ck_frames(&ck, 1, KVP_FILLING), NEW);
    ck_tick(&ck, ck.config.tick_us); /* background work does not lose it either */
    ck_pump(&ck);
    assert_int_equal(ck.nr_answers, 4);
    assert_int_equal(told(KV_OK), before + 3 * (PAGES + 1) + NEW + 1);
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), PAGES + NEW);
    ck_close(&ck);
}

static uint32_t moves_to(uint32_t first, uint32_t n)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < ck.nr_moves; i++) {
        const uint64_t page = ck.moves[i].part.buffer / CK_PAGE_BYTES;
        nr += page >= first && page < first + n;
    }
    return nr;
}

/* Each completion serves the request that has waited longest; a newer one does not
 * slip in between. */
static void copies__go_to_the_first_who_asked(void **state)
{
    (void)state;
    const struct kvo_client_id client = open_filled(8);

    send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
    send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
    send(client, KVO_GET, 0, 68, 1500, CK_LATER_US); /* 20 of them wait */
    send(client, KVO_GET, 0, 10, 1600, CK_LATER_US);
    assert_int_equal(moves_to(1500, 68), 48);
    assert_int_equal(moves_to(1600, 10), 0);
    const struct kvo_done done = {.status = KV_OK, .len = CK_PAGE_BYTES};
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(moves_to(1500, 68), 48 + i);
        assert_int_equal(moves_to(1600, 10), 0);
        kvo_complete(ck.node, ck.now_us, ck.moves[i].part.id, &done);
        kvo_check(ck.node);
    }
    assert_int_equal(moves_to(1500, 68), 68);
    kvo_complete(ck.node, ck.now_us, ck.moves[20].part.id, &done);
    assert_int_equal(moves_to(1600, 10), 1);
    /* Those were completed here already: late ones, counted and ignored. */
    ck_pump(&ck);
    assert_int_equal(kvo_metrics(ck.node)->late_completions, 21);
    assert_int_equal(ck.nr_answers, 4);
    ck_close(&ck);
}

/* What has not begun by the deadline will not; what has is waited for, because a mover
 * writes to the client's buffer. */
static void get__that_still_waits_ends_by_its_deadline(void **state)
{
    (void)state;
    const struct kvo_client_id client = open_filled(8);

    send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
    send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
    send(client, KVO_GET, 0, 100, 1500, SOON_US);
    send(client, KVO_GET, 0, 10, 1700, SOON_US);
    assert_int_equal(moves_to(1500, 100), 48);
    ck_tick(&ck, SOON_US - 1);
    assert_int_equal(ck.nr_answers, 0);
    ck_tick(&ck, 1);
    assert_int_equal(ck.nr_answers, 1); /* the ten */
    assert_int_equal(ck.answer.nr_keys, 10);
    assert_int_equal(ck_count(&ck, KV_ERR_DEADLINE), 10);
    assert_int_equal(ck.reasons[9], KV_MISS_TOO_SLOW);
    assert_int_equal(ck.places[9], KVO_FROM_NONE);
    ck_pump(&ck);
    assert_int_equal(ck.nr_answers, 4);
    assert_int_equal(ck.answer.nr_keys, 100);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(ck.statuses[i], i < 48 ? KV_OK : KV_ERR_DEADLINE);
    }
    ck_close(&ck);
}

/* Movers may be slower than requests: their copies are out when the next request comes,
 * and no bound on requests bounds them. */
static void copies__that_outlive_their_request_refuse_nobody(void **state)
{
    (void)state;
    const struct kvo_client_id client = open_filled(1);

    send(client, KVO_GET, 0, PAGES, 0, SOON_US);
    const uint32_t nr_moves = ck.nr_moves;
    assert_int_equal(nr_moves, KVO_BATCH_KEYS_MAX / 4);
    kvo_client_hung_up(ck.node, ck.now_us, client);
    kvo_check(ck.node);
    const struct kvo_client_id other = ck_client(&ck, 1);
    const uint64_t before = told(KV_OK);
    send(other, KVO_GET, 0, 30, KVO_BATCH_KEYS_MAX, CK_LATER_US);
    assert_int_equal(ck.nr_moves, nr_moves);
    ck_pump(&ck);
    assert_int_equal(ck.nr_answers, 1);
    assert_int_equal(told(KV_OK), before + 31);
    ck_close(&ck);
}

/* Whoever stands in line may leave it, in front, in the middle or at the end. */
static void client__that_hangs_up_leaves_the_line(void **state)
{
    (void)state;
    const struct kvo_client_id client = open_filled(8);
    struct kvo_client_id others[3];

    for (uint32_t i = 0; i < 3; i++) {
        others[i] = ck_client(&ck, 1);
    }
    for (uint32_t gone = 0; gone < 3; gone++) {
        send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
        send(client, KVO_GET, 0, PAGES, 0, CK_LATER_US);
        send(client, KVO_GET, 0, 48, 0, CK_LATER_US);
        for (uint32_t i = 0; i < 3; i++) {
            send(others[i], KVO_GET, 0, 10, 1500 + 20 * i, CK_LATER_US);
        }
        ck.nr_answers = 0;
        kvo_client_hung_up(ck.node, ck.now_us, others[gone]);
        kvo_check(ck.node);
        ck_pump(&ck);
        assert_int_equal(ck.nr_answers, 5);
        kvo_client_dead(ck.node, ck.now_us, others[gone]);
        others[gone] = ck_client(&ck, 1);
    }
    ck_close(&ck);
}

/* Pages whose digests are known together are published together: a message each, and
 * its answer, cost a node more than its pages (measured with pages of 16 KiB). */
static void publish__of_pages_that_end_together_is_one_message(void **state)
{
    (void)state;
    enum { TOGETHER = 16 };

    ck_init(&ck);
    ck_two_nodes(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    ck_meet(&ck);
    while (ck_said(&ck, KV_MSG_PUBLISH) != NULL) {
    }
    ck_complete_many(true);
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 1, TOGETHER, 0), KV_OK);
    ck_complete_many(false);
    assert_int_equal(ck_count(&ck, KV_OK), TOGETHER);
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_PUBLISH);
    assert_non_null(msg);
    assert_int_equal(msg->u.publish.nr_items, TOGETHER);
    assert_null(ck_said(&ck, KV_MSG_PUBLISH));
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(get__waits_for_a_copy_and_is_served),
        cmocka_unit_test(put__waits_for_a_copy_and_is_served),
        cmocka_unit_test(copies__go_to_the_first_who_asked),
        cmocka_unit_test(get__that_still_waits_ends_by_its_deadline),
        cmocka_unit_test(copies__that_outlive_their_request_refuse_nobody),
        cmocka_unit_test(client__that_hangs_up_leaves_the_line),
        cmocka_unit_test(publish__of_pages_that_end_together_is_one_message),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ck_complete_many(true); /* and all of it again, completions in one go */
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
