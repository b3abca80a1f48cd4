/* A node that keeps to no rule, as libkvrail sees it: what it says is nobody's result,
 * and nothing that it says after that is. A batch that an answer was not meant for must
 * not be told that its bytes have come. */
#include "tests/node/broken_node_kit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 4 };

static const struct broken_node_offer plain;

/* A batch of the client; what the node reads is its tag. */
static uint64_t ask(struct broken_node *fake, uint64_t tag)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    static const struct kvr_key keys[KEYS];
    struct kvn_request request;
    uint32_t len;
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = KVR_OP_EXISTS,
        .tag = tag,
        .timeout_us = 1000000,
        .keys = keys,
        .nr_keys = KEYS,
        .loose = 1,
    };
    assert_int_equal(kvr_submit(fake->client, &batch), KVR_OK);
    assert_int_equal(
        kvn_ring_peek(&fake->requests, copy, sizeof(copy), &len, NULL), KV_OK);
    kvn_ring_take(&fake->requests);
    assert_int_equal(kvn_request_read(copy, len, &request, NULL), KV_OK);
    return request.head.tag;
}

static struct kvn_answer_head answer_head(uint64_t tag, uint32_t n)
{
    return (struct kvn_answer_head){
        .bytes = kvn_answer_bytes(n),
        .type = KVN_RECORD_ANSWER,
        .tag = tag,
        .nr_keys = n,
    };
}

/* All its keys are hits, if it is believed. */
static void
answer(struct broken_node *fake, const struct kvn_answer_head *head, uint32_t room)
{
    uint8_t *to;
    assert_int_equal(kvn_ring_room(&fake->answers, room, &to, NULL), KV_OK);
    memset(to, 0, room);
    memcpy(to, head, sizeof(*head));
    kvn_ring_put(&fake->answers);
}

static void expect_next(struct broken_node *fake, uint64_t tag, kvr_status_t status)
{
    struct kvr_result result;
    assert_int_equal(kvr_next(fake->client, 1000000, &result), KVR_OK);
    assert_int_equal(result.tag, tag);
    assert_int_equal(result.status, status);
    assert_int_equal(result.nr_keys, KEYS);
    for (unsigned i = 0; i < KEYS; i++) {
        assert_int_equal(result.statuses[i], status);
    }
}

/* The client is of no more use, and everybody is told so. */
static void expect_gone(struct broken_node *fake)
{
    struct kvr_result result;
    struct kvr_buffer buffer;
    const struct kvr_batch batch = {.struct_size = sizeof(batch)};
    assert_int_equal(kvr_next(fake->client, 1000000, &result), KVR_LINK_LOST);
    assert_int_equal(kvr_submit(fake->client, &batch), KVR_LINK_LOST);
    assert_int_equal(kvr_buffer_create(fake->client, 4096, &buffer), KVR_LINK_LOST);
}

/* An answer is a batch's own, whole and once, or the node is gone. Behind each wrong
 * one stands a right one, for another batch: it is not believed either. */
static void answer__to_no_batch_of_ours_is_no_result(void **state)
{
    enum { CASES = 12 };
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        struct broken_node fake;
        assert_int_equal(broken_node_open(&fake, &plain), KVR_OK);
        uint64_t former = ask(&fake, 1);
        struct kvn_answer_head head = answer_head(former, KEYS);
        answer(&fake, &head, head.bytes);
        expect_next(&fake, 1, KVR_OK);
        uint64_t first = ask(&fake, 2), second = ask(&fake, 3);
        head.tag = first;
        switch (i) {
        case 0:
            head.tag = former; /* the slot, in another life */
            break;
        case 1:
            head = answer_head(second + 1, 0); /* a slot that nobody uses */
            head.status = KV_ERR_AGAIN;
            break;
        case 2:
            head.tag = first | 0xffff; /* no slot */
            break;
        case 3:
            head.tag = first | UINT64_C(1) << 32;
            break;
        case 4:
            head = answer_head(first, KEYS - 1);
            break;
        case 5:
            head = answer_head(first, KVN_RING_KEYS_MAX);
            break;
        case 6:
            head = answer_head(first, 0); /* OK, and of no key */
            break;
        case 7:
            head.bytes = kvn_answer_bytes(0); /* shorter than its keys */
            break;
        case 8:
            head.type = KVN_RECORD_REQUEST;
            break;
        case 9:
            head.op = KVN_RING_OPS;
            break;
        case 10:
            memset(head.field, 'x', sizeof(head.field));
            break;
        default:
            head.bytes = 8;
            break;
        }
        answer(&fake, &head, kvn_answer_bytes(head.nr_keys));
        head = answer_head(second, KEYS);
        answer(&fake, &head, head.bytes);
        expect_next(&fake, 2, KVR_CANCELLED);
        expect_next(&fake, 3, KVR_CANCELLED);
        expect_gone(&fake);
        broken_node_close(&fake);
    }
}

/* Positions that cannot be, of either ring. */
static void ring__that_cannot_be_is_a_node_that_is_gone(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct broken_node fake;
        struct kvr_batch none = {.struct_size = sizeof(none), .op = KVR_OP_PIN};
        static const struct kvr_key keys[KVR_BATCH_MAX];
        assert_int_equal(broken_node_open(&fake, &plain), KVR_OK);
        (void)ask(&fake, 2);
        if (i == 0) {
            atomic_store(&fake.rings->answer_tail, BN_RING_BYTES + 8);
        } else {
            /* Looked at when what was free has been used. */
            atomic_store(&fake.rings->request_head, 8 * BN_RING_BYTES);
            none.keys = keys;
            none.nr_keys = KVR_BATCH_MAX;
            unsigned n = 0;
            while (kvr_submit(fake.client, &none) == KVR_OK) {
                assert_true(++n < 8);
            }
            for (struct kvr_result result; n > 0; n--) {
                assert_int_equal(kvr_next(fake.client, 0, &result), KVR_OK);
                assert_int_equal(result.status, KVR_CANCELLED);
            }
        }
        struct kvr_result result;
        assert_int_equal(kvr_next(fake.client, 0, &result), KVR_OK);
        assert_int_equal(result.status, KVR_CANCELLED);
        expect_gone(&fake);
        broken_node_close(&fake);
    }
}

/* Rings shorter than they say are not touched: that would be a SIGBUS. */
static void rings__too_short_are_not_used(void **state)
{
    const struct broken_node_offer offer = {.rings_short = 4096};
    struct broken_node fake;
    (void)state;
    assert_int_equal(broken_node_open(&fake, &offer), KVR_VERSION);
    assert_null(fake.client);
    broken_node_close(&fake);
}

/* A node that hung up unnoticed is found out by what is sent to it. */
static void buffer__of_a_node_that_hung_up_is_link_lost(void **state)
{
    struct broken_node fake;
    struct kvr_buffer buffer;
    (void)state;
    assert_int_equal(broken_node_open(&fake, &plain), KVR_OK);
    close(fake.fd);
    fake.fd = -1;
    assert_int_equal(kvr_buffer_create(fake.client, 4096, &buffer), KVR_LINK_LOST);
    assert_string_equal(
        kvr_error(fake.client), "link_lost: the node hung up: open again");
    broken_node_close(&fake);
}

/* ---- a node that takes its time ------------------------------------------------- */

struct late {
    struct broken_node *fake;
    uint64_t tag;
};

/* Answers after a while, and wakes the client if it sleeps, as a node does. */
static void *late_main(void *arg)
{
    const struct late *late = arg;
    const struct kvn_answer_head head = answer_head(late->tag, KEYS);
    const char wake = KVN_PACKET_WAKE;
    nanosleep(&(struct timespec){.tv_nsec = 40000000}, NULL);
    answer(late->fake, &head, head.bytes);
    if (kvn_ring_must_wake(&late->fake->rings->client_sleeps, KVN_ASLEEP)) {
        (void)!send(late->fake->fd, &wake, 1, MSG_NOSIGNAL);
    }
    return NULL;
}

static uint64_t cpu_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* A client may spin for 20 ms, and no answer comes within 40: it learns that spinning
 * is not worth it, and leaves its core to others. Processor time, which other programs
 * do not add to: the first spins are 20, 10, 5, … ms, one after another all of them
 * would be 30 times 20. */
static void next__spins_less_where_answers_take_longer(void **state)
{
    enum { TIMES = 30, SPIN_US = 20000 };
    const struct broken_node_offer offer = {.spin_us = SPIN_US};
    struct broken_node fake;
    (void)state;
    assert_int_equal(broken_node_open(&fake, &offer), KVR_OK);
    const uint64_t from = cpu_us();
    for (unsigned i = 0; i < TIMES; i++) {
        struct late late = {.fake = &fake, .tag = ask(&fake, i)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, late_main, &late), 0);
        expect_next(&fake, i, KVR_OK);
        pthread_join(thread, NULL);
    }
    const uint64_t spent = cpu_us() - from;
    print_message("%u waits: %u us of processor time\n", TIMES, (unsigned)spent);
    assert_true(spent < TIMES * SPIN_US / 4);
    broken_node_close(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer__to_no_batch_of_ours_is_no_result),
        cmocka_unit_test(ring__that_cannot_be_is_a_node_that_is_gone),
        cmocka_unit_test(rings__too_short_are_not_used),
        cmocka_unit_test(buffer__of_a_node_that_hung_up_is_link_lost),
        cmocka_unit_test(next__spins_less_where_answers_take_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
