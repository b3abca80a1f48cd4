/* A node that keeps to no rule, as an engine sees it: of what it says of block tables
 * nothing is written outside a table, no block is given that the arena does not have,
 * and a node that lies once is gone. */
#include "tests/node/broken_node_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 4 };
#define SEQ_ID UINT64_C(0x500000003)

static const struct broken_node_offer honest = {
    .level = KVR_LEVEL_PAGER,
    .nr_arenas = 1,
    .nr_fds = 1,
    .said_bytes = BN_BLOCKS * BN_PAGE_BYTES};

/* What the node reads of a call. */
static struct kvn_request
ask(struct broken_node *fake, enum kvr_op op, kvr_seq_t seq, uint32_t tokens)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    static const struct kvr_key keys[KEYS];
    struct kvn_request request;
    uint32_t len;
    const struct kvr_seq_call call = {
        .struct_size = sizeof(call),
        .op = op,
        .timeout_us = 1000000,
        .seq = seq,
        .keys = keys,
        .nr_keys = KEYS,
        .tokens = tokens,
    };
    assert_int_equal(kvr_seq_submit(fake->client, &call), KVR_OK);
    assert_int_equal(
        kvn_ring_peek(&fake->requests, copy, sizeof(copy), &len, NULL), KV_OK);
    kvn_ring_take(&fake->requests);
    assert_int_equal(kvn_request_read(copy, len, &request, NULL), KV_OK);
    return request;
}

static void say(
    struct broken_node *fake, struct kvn_answer_head head,
    const struct kvn_answer_seq *seq, const struct kvn_seq_page *page)
{
    uint8_t *to;
    head.bytes = kvn_seq_answer_bytes(head.nr_keys, seq->nr_entries, seq->nr_tails);
    assert_int_equal(kvn_ring_room(&fake->answers, head.bytes, &to, NULL), KV_OK);
    memset(to, 0, head.bytes);
    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    memcpy(to, seq, sizeof(*seq));
    to += sizeof(*seq);
    for (uint32_t i = 0; i < seq->nr_entries; i++) {
        memcpy(to + i * sizeof(*page), page, sizeof(*page));
    }
    kvn_ring_put(&fake->answers);
}

/* A sequence as a good node would open it; its name for notices. */
static kvr_seq_t open_one(struct broken_node *fake, uint64_t *name_p)
{
    struct kvr_result result;
    struct kvn_request request = ask(fake, KVR_OP_SEQ_OPEN, 0, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_OPEN, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {
        .seq = SEQ_ID, .name = request.seq.name, .flags = KVN_SEQ_TABLE};
    say(fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake->client, 1000000, &result), KVR_OK);
    assert_int_equal(result.status, KVR_OK);
    *name_p = request.seq.name;
    return result.seq;
}

/* ------------------------------------------------------------------ attaching */

static void attach__arenas_are_what_was_said(void **state)
{
    struct broken_node fake;
    (void)state;
    assert_int_equal(broken_node_open(&fake, &honest), KVR_OK);
    broken_node_close(&fake);
    struct broken_node_offer lies[] = {
        {.nr_arenas = 0, .nr_fds = 0},
        {.nr_arenas = 1, .nr_fds = 0, .said_bytes = BN_BLOCKS * BN_PAGE_BYTES},
        {.nr_arenas = 1, .nr_fds = 2, .said_bytes = BN_BLOCKS * BN_PAGE_BYTES},
        {.nr_arenas = 1, .nr_fds = 1, .said_bytes = 2 * BN_BLOCKS * BN_PAGE_BYTES},
        {.nr_arenas = 1, .nr_fds = 1, .said_bytes = BN_PAGE_BYTES},
    };
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        lies[i].level = KVR_LEVEL_PAGER;
        kvr_status_t status = broken_node_open(&fake, &lies[i]);
        assert_true(status == KVR_VERSION || status == KVR_INVALID);
        assert_null(fake.client);
        broken_node_close(&fake);
    }
}

/* ------------------------------------------------------------------ tables */

/* One answer to a FETCH of four keys, with one thing wrong in each case. */
static void fetch__a_lie_ends_the_node(void **state)
{
    static const struct {
        struct kvn_answer_head head;
        struct kvn_answer_seq seq;
        struct kvn_seq_page page;
    } lies[] = {
        {.seq = {.seq = SEQ_ID + 1}},             /* another sequence */
        {.seq = {.seq = SEQ_ID, .nr_pages = 65}}, /* no room was made for so many */
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4},
         .page = {.block = BN_BLOCKS}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4},
         .page = {.block = UINT32_MAX}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4}, .page = {.arena = 1}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_hits = 5}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .first_page = 3, .nr_entries = 2}},
        {.head = {.op = KVN_OP_SEQ_APPEND}, .seq = {.seq = SEQ_ID}},
        {.head = {.op = KVN_OP_GET}, .seq = {.seq = SEQ_ID}},
        {.head = {.tag = 1 << 16}, .seq = {.seq = SEQ_ID}},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct broken_node fake;
        struct kvr_result result;
        uint64_t name;
        assert_int_equal(broken_node_open(&fake, &honest), KVR_OK);
        kvr_seq_t seq = open_one(&fake, &name);
        struct kvn_request request = ask(&fake, KVR_OP_SEQ_FETCH, seq, 0);
        struct kvn_answer_head head = lies[i].head;
        struct kvn_answer_seq about = lies[i].seq;
        head.type = KVN_RECORD_ANSWER;
        head.op = head.op == 0 ? (uint16_t)KVN_OP_SEQ_FETCH : head.op;
        head.tag += request.head.tag;
        head.nr_keys = head.op == KVN_OP_SEQ_FETCH ? KEYS : 0;
        about.flags = KVN_SEQ_TABLE;
        about.name = name;
        say(&fake, head, &about, &lies[i].page);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
        assert_int_equal(result.status, KVR_CANCELLED);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_LINK_LOST);
        broken_node_close(&fake);
    }
}

/* An OPEN that went well and tells nothing of it. */
static void open__without_a_table_ends_the_node(void **state)
{
    struct broken_node fake;
    struct kvr_result result;
    (void)state;
    assert_int_equal(broken_node_open(&fake, &honest), KVR_OK);
    struct kvn_request request = ask(&fake, KVR_OP_SEQ_OPEN, 0, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_OPEN, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {0};
    say(&fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
    assert_int_equal(result.status, KVR_CANCELLED);
    assert_int_equal(result.seq, 0);
    broken_node_close(&fake);
}

/* Notices of sequences that there are not, or that never end the MORE. */
static void notice__a_lie_ends_the_node(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct broken_node fake;
        struct kvr_result result;
        uint64_t name;
        assert_int_equal(broken_node_open(&fake, &honest), KVR_OK);
        (void)open_one(&fake, &name);
        const struct kvn_answer_head head = {
            .type = KVN_RECORD_NOTICE, .op = KVN_OP_SEQ_CHANGED};
        struct kvn_answer_seq seq = {
            .seq = SEQ_ID, .name = name, .flags = KVN_SEQ_TABLE};
        seq.name = i == 0 ? name + 1 : i == 1 ? UINT64_MAX : name;
        seq.flags = i == 2 ? 0 : KVN_SEQ_TABLE;
        seq.seq = i == 3 ? SEQ_ID + 1 : SEQ_ID;
        say(&fake, head, &seq, NULL);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_LINK_LOST);
        broken_node_close(&fake);
    }
    /* One that says that there is more is not told to the caller, nor waited for. */
    struct broken_node fake;
    struct kvr_result result;
    uint64_t name;
    assert_int_equal(broken_node_open(&fake, &honest), KVR_OK);
    kvr_seq_t handle = open_one(&fake, &name);
    for (unsigned i = 0; i < 64; i++) {
        const struct kvn_answer_head head = {
            .type = KVN_RECORD_NOTICE, .op = KVN_OP_SEQ_CHANGED};
        const struct kvn_answer_seq seq = {
            .seq = SEQ_ID, .name = name, .flags = KVN_SEQ_TABLE | KVN_SEQ_MORE};
        say(&fake, head, &seq, NULL);
    }
    assert_int_equal(kvr_next(fake.client, 10000, &result), KVR_AGAIN);
    /* And what it says of a fork that has not been told whole is not shown. */
    struct kvn_request request = ask(&fake, KVR_OP_SEQ_FORK, handle, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_FORK, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {
        .seq = 9, .name = request.seq.name, .flags = KVN_SEQ_TABLE | KVN_SEQ_MORE};
    struct kvr_table table;
    say(&fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
    assert_int_not_equal(result.seq, 0);
    assert_int_equal(kvr_seq_table(fake.client, result.seq, &table), KVR_AGAIN);
    broken_node_close(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach__arenas_are_what_was_said),
        cmocka_unit_test(fetch__a_lie_ends_the_node),
        cmocka_unit_test(open__without_a_table_ends_the_node),
        cmocka_unit_test(notice__a_lie_ends_the_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
