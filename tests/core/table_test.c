/* What a request on a sequence says of its block table is what changed in it, and
 * kvo_seq_table() gives the rest: to the sequence's client, and to nobody else. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct ck ck;
static struct kvo_client_id client;

static kv_status_t
ask(enum kvo_op op, struct kvp_seq_id seq, uint32_t tokens, uint32_t page)
{
    kv_key_t key = ck_key(100 + page);
    struct kvo_request request = {
        .op = op,
        .seq = seq,
        .tokens = tokens,
        .page = page,
        .keys = &key,
        .nr_keys = op == KVO_SEQ_SEAL,
    };
    return ck_ask(&ck, client, &request);
}

/* The table as it is, and that it is the pager's. */
static uint32_t table_of(struct kvp_seq_id seq, struct kvo_page *pages)
{
    struct kvp_seq_info info;
    uint32_t n = CK_DEVICE_FRAMES;
    assert_int_equal(kvo_seq_table(ck.node, client, seq, 0, &n, pages, &info), KV_OK);
    assert_int_equal(n, info.nr_pages);
    for (uint32_t i = 0; i < n; i++) {
        struct kvp_ref ref;
        struct kvp_info frame;
        kvp_pager_t *pager = kvo_pager(ck.node);
        assert_int_equal(kvp_seq_table(pager, seq, i, 1, &ref), KV_OK);
        assert_int_equal(kvp_info(pager, ref, &frame), KV_OK);
        assert_int_equal(pages[i].gen, ref.gen);
        assert_int_equal(pages[i].pool, frame.pool);
        assert_int_equal(pages[i].pool_frame, frame.pool_frame);
    }
    return n;
}

static void expect_changed(uint32_t first, uint32_t nr)
{
    assert_int_equal(ck.answer.first_page, first);
    assert_int_equal(ck.answer.nr_changed, nr);
}

static void answer__says_which_pages_changed(void **state)
{
    struct kvo_page pages[CK_DEVICE_FRAMES], forked[CK_DEVICE_FRAMES];
    (void)state;
    ck_init(&ck);
    ck_open(&ck);
    client = ck_client(&ck, 1);
    struct kvp_seq_id seq = ck_seq(&ck, client);
    expect_changed(0, 0);
    assert_int_equal(ask(KVO_SEQ_APPEND, seq, 2 * CK_PAGE_TOKENS + 3, 0), KV_OK);
    expect_changed(0, 3);
    assert_int_equal(ask(KVO_SEQ_APPEND, seq, 2, 0), KV_OK);
    expect_changed(2, 1); /* into the page that is being filled */
    assert_int_equal(ask(KVO_SEQ_SEAL, seq, 0, 1), KV_SEALING);
    expect_changed(1, 1);
    assert_int_equal(table_of(seq, pages), 3);
    assert_int_equal(ask(KVO_SEQ_FORK, seq, 0, 0), KV_OK);
    expect_changed(0, 3);
    struct kvp_seq_id child = ck.answer.seq;
    assert_int_equal(table_of(child, forked), 3);
    assert_int_equal(forked[1].pool_frame, pages[1].pool_frame); /* sealed: shared */
    assert_int_not_equal(forked[2].pool_frame, pages[2].pool_frame);
    assert_int_equal(ask(KVO_SEQ_TRUNCATE, seq, CK_PAGE_TOKENS, 0), KV_OK);
    expect_changed(0, 0);
    assert_int_equal(table_of(seq, pages), 1);
    /* A refusal changes nothing; an END leaves no table. */
    assert_int_equal(ask(KVO_SEQ_TRUNCATE, seq, CK_PAGE_TOKENS + 1, 0), KV_ERR_INVALID);
    expect_changed(0, 0);
    assert_int_equal(ask(KVO_SEQ_END, seq, 0, 0), KV_OK);
    expect_changed(0, 0);
    struct kvp_seq_info info;
    uint32_t n = 1;
    assert_int_equal(
        kvo_seq_table(ck.node, client, seq, 0, &n, pages, &info), KV_ERR_STALE);
    assert_int_equal(ask(KVO_SEQ_END, child, 0, 0), KV_OK);
    ck_close(&ck);
}

/* Another client, another generation, an index that there is not. Past the end there
 * are no pages, and that is no error. */
static void table__is_its_clients_alone(void **state)
{
    struct kvo_page pages[4];
    struct kvp_seq_info info;
    uint32_t n = 4;
    (void)state;
    ck_init(&ck);
    ck_open(&ck);
    client = ck_client(&ck, 1);
    struct kvo_client_id other = ck_client(&ck, 1);
    struct kvp_seq_id seq = ck_seq(&ck, client);
    assert_int_equal(ask(KVO_SEQ_APPEND, seq, 2 * CK_PAGE_TOKENS, 0), KV_OK);
    assert_int_equal(
        kvo_seq_table(ck.node, other, seq, 0, &n, pages, &info), KV_ERR_STALE);
    const struct kvp_seq_id wild[] = {
        {.index = seq.index, .gen = seq.gen + 1}, {.index = UINT32_MAX}};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(
            kvo_seq_table(ck.node, client, wild[i], 0, &n, pages, &info), KV_ERR_STALE);
    }
    assert_int_equal(n, 4); /* written on success alone */
    assert_int_equal(kvo_seq_table(ck.node, client, seq, 1, &n, pages, &info), KV_OK);
    assert_int_equal(n, 1);
    assert_int_equal(
        kvo_seq_table(ck.node, client, seq, UINT32_MAX, &n, pages, &info), KV_OK);
    assert_int_equal(n, 0);
    /* One that hung up asks for nothing any more. */
    kvo_client_hung_up(ck.node, ck.now_us, client);
    assert_int_equal(
        kvo_seq_table(ck.node, client, seq, 0, &n, pages, &info), KV_ERR_STALE);
    kvo_client_dead(ck.node, ck.now_us, client);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer__says_which_pages_changed),
        cmocka_unit_test(table__is_its_clients_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
