/* Block tables: what several sequences share is never written, what a queued kernel may
 * still carry is never freed before the engine confirms, and of two equal pages one is
 * kept. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct kvp_seq_id open_with(struct kit *kit, uint32_t n_tokens)
{
    struct kvp_seq_id seq;

    assert_int_equal(kvp_seq_open(kit->pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_append(kit->pager, seq, n_tokens), KV_OK);
    return seq;
}

static struct kvp_ref page_of(struct kit *kit, struct kvp_seq_id seq, uint32_t page)
{
    struct kvp_ref ref;
    assert_int_equal(kvp_seq_table(kit->pager, seq, page, 1, &ref), KV_OK);
    return ref;
}

static struct kvp_seq_info info_of(struct kit *kit, struct kvp_seq_id seq)
{
    struct kvp_seq_info info;
    assert_int_equal(kvp_seq_info(kit->pager, seq, &info), KV_OK);
    return info;
}

static void end(struct kit *kit, struct kvp_seq_id seq)
{
    assert_int_equal(kvp_seq_end(kit->pager, seq, false), KV_OK);
}

static void seq__grows_by_pages_and_seals_them(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 12);
    assert_int_equal(info_of(&kit, seq).nr_pages, 2);
    assert_int_equal(info_of(&kit, seq).version, 1);
    assert_true(kvp_writable(kit.pager, page_of(&kit, seq, 1)));
    kit_seal(&kit, seq, 0, 1);
    kit_seal(&kit, seq, 1, 2); /* a tail of four tokens */
    assert_true(kit_info(&kit, page_of(&kit, seq, 1)).tail);
    assert_int_equal(kit_info(&kit, page_of(&kit, seq, 1)).len, 2048);
    assert_true(kit_here(&kit, 0, 1) && kit_here(&kit, 0, 2));
    assert_int_equal(info_of(&kit, seq).version, 1); /* no frame changed */
    end(&kit, seq);
    assert_true(kit_here(&kit, 0, 1) && kit_here(&kit, 0, 2));
    assert_int_equal(kvp_seq_append(kit.pager, seq, 1), KV_ERR_STALE);
    kit_close(&kit);
}

/* Most requests end right after their last page: it is cached all the same. */
static void seq__ends_while_sealing_and_the_page_is_kept(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 8);
    assert_int_equal(kvp_seq_seal(kit.pager, seq, 0, &key, &place), KV_SEALING);
    end(&kit, seq);
    assert_false(kit_here(&kit, 0, 1)); /* not before its digest is known */
    kit_order(&kit, KV_OK, 77);
    assert_true(kit_here(&kit, 0, 1));
    assert_int_equal(kit_info(&kit, kit_find(&kit, 0, 1)).refs, 0);
    kit_close(&kit);
}

/* The page that grows behind a sealed tail follows the same predecessor: a new frame
 * with the tail's bytes; kernels in the queue may still read the old one. */
static void seq__append_behind_a_tail_copies_it(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 4);
    kit_seal(&kit, seq, 0, 1);
    const struct kvp_ref tail = page_of(&kit, seq, 0);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 2), KV_OK);
    const struct kvp_ref page = page_of(&kit, seq, 0);
    assert_int_not_equal(page.frame, tail.frame);
    assert_int_equal(kit.orders[0].kind, KVP_ORDER_COPY);
    assert_int_equal(kit.orders[0].src.frame, tail.frame);
    assert_int_equal(kit.orders[0].len, 2048); /* four of eight tokens */
    assert_false(kvp_writable(kit.pager, page));
    assert_int_equal(info_of(&kit, seq).version, 2);
    assert_int_equal(kit_info(&kit, tail).refs, 1);
    kit_order(&kit, KV_OK, 0);
    assert_true(kvp_writable(kit.pager, page));
    assert_int_equal(kvp_seq_confirm(kit.pager, seq, 1), KV_OK);
    assert_int_equal(kit_info(&kit, tail).refs, 1); /* table 1 still has it */
    assert_int_equal(kvp_seq_confirm(kit.pager, seq, 3), KV_ERR_INVALID);
    assert_int_equal(kvp_seq_confirm(kit.pager, seq, 2), KV_OK);
    assert_int_equal(kit_info(&kit, tail).refs, 0);
    end(&kit, seq);
    kit_close(&kit);
}

static void seq__copy_that_fails_ends_the_page(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id child;
    const kv_key_t key = kit_key(5);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 4);
    kit_seal(&kit, seq, 0, 1);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 4), KV_OK);
    assert_int_equal(kvp_seq_seal(kit.pager, seq, 0, &key, &place), KV_ERR_AGAIN);
    assert_int_equal(kvp_seq_fork(kit.pager, seq, &child), KV_ERR_AGAIN);
    kit_order(&kit, KV_ERR_IO, 0);
    assert_true(kit_info(&kit, page_of(&kit, seq, 0)).failed);
    assert_int_equal(kvp_seq_seal(kit.pager, seq, 0, &key, &place), KV_ERR_IO);
    assert_int_equal(kvp_seq_fork(kit.pager, seq, &child), KV_ERR_IO);
    end(&kit, seq);
    kit_close(&kit);
}

static void seq__fork_shares_sealed_pages_and_copies_the_open_one(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id child;
    const kv_key_t key = kit_key(2);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 19);
    kit_seal(&kit, seq, 0, 1);
    assert_int_equal(kvp_seq_seal(kit.pager, seq, 1, &key, &place), KV_SEALING);
    assert_int_equal(kvp_seq_fork(kit.pager, seq, &child), KV_OK);
    assert_int_equal(info_of(&kit, child).n_tokens, 19);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(page_of(&kit, child, i).frame, page_of(&kit, seq, i).frame);
        assert_int_equal(kit_info(&kit, page_of(&kit, seq, i)).refs, 2);
    }
    const struct kvp_ref own = page_of(&kit, seq, 2), copy = page_of(&kit, child, 2);
    assert_int_not_equal(own.frame, copy.frame);
    assert_false(kvp_writable(kit.pager, own)); /* it is being read */
    assert_false(kvp_writable(kit.pager, copy));
    kit_order(&kit, KV_OK, kit_digest(2));
    kit_order(&kit, KV_OK, 0);
    assert_true(kvp_writable(kit.pager, own) && kvp_writable(kit.pager, copy));
    end(&kit, seq);
    assert_int_equal(kit_info(&kit, page_of(&kit, child, 0)).refs, 1);
    end(&kit, child);
    kit_close(&kit);
}

static void seq__fork_is_all_or_nothing(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id child;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 8 * 9); /* nine of 16 frames */
    assert_int_equal(kvp_seq_fork(kit.pager, seq, &child), KV_ERR_AGAIN);
    assert_int_equal(kit.nr_orders, 0);
    assert_int_equal(kvp_used(kit.pager, 0, KVP_DEVICE), 9);
    end(&kit, seq);
    kit_close(&kit);
}

static void seq__truncate_into_a_sealed_page_copies_on_append(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 20);
    kit_seal(&kit, seq, 0, 1);
    kit_seal(&kit, seq, 1, 2);
    const struct kvp_ref fallen = page_of(&kit, seq, 2);
    const struct kvp_ref shared = page_of(&kit, seq, 1);
    assert_int_equal(kvp_seq_truncate(kit.pager, seq, 21), KV_ERR_INVALID);
    assert_int_equal(kvp_seq_truncate(kit.pager, seq, 13), KV_OK);
    assert_int_equal(info_of(&kit, seq).nr_pages, 2);
    assert_int_equal(kit_info(&kit, fallen).state, KVP_FILLING); /* until confirm */
    assert_int_equal(kvp_seq_append(kit.pager, seq, 1), KV_OK);
    assert_int_equal(kit.orders[0].src.frame, shared.frame);
    assert_int_equal(kit.orders[0].len, 2560); /* five of eight tokens */
    kit_order(&kit, KV_OK, 0);
    assert_int_equal(info_of(&kit, seq).nr_retired, 2);
    const uint32_t freed = kit.nr_freed;
    assert_int_equal(
        kvp_seq_confirm(kit.pager, seq, info_of(&kit, seq).version), KV_OK);
    assert_int_equal(
        kit.nr_freed, freed + 1); /* the open page; the sealed are cached */
    assert_true(kit_here(&kit, 0, 2));
    end(&kit, seq);
    kit_close(&kit);
}

static void seq__seal_of_an_equal_page_switches_and_keeps_the_own(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref first = kit_cache(&kit, 0, KVP_DEVICE, 1);
    const struct kvp_seq_id seq = open_with(&kit, 8);
    const struct kvp_ref own = page_of(&kit, seq, 0);
    assert_int_equal(kvp_seq_seal(kit.pager, seq, 0, &key, &place), KV_EXISTS);
    assert_int_equal(kit.nr_switched, 1);
    assert_int_equal(kit.last_switch.was.frame, own.frame);
    assert_int_equal(kit.last_switch.now.frame, first.frame);
    assert_int_equal(page_of(&kit, seq, 0).frame, first.frame);
    assert_int_equal(kit_info(&kit, own).state, KVP_FILLING); /* kernels have it */
    const uint32_t freed = kit.nr_freed;
    assert_int_equal(
        kvp_seq_confirm(kit.pager, seq, info_of(&kit, seq).version), KV_OK);
    assert_int_equal(kit.nr_freed, freed + 1);
    end(&kit, seq);
    kit_close(&kit);
}

/* Of two that are sealing the first digest wins; every table that holds the loser goes
 * over, a fork's too. */
static void seq__loser_of_two_digests_is_switched_everywhere(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id fork;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id a = open_with(&kit, 8), b = open_with(&kit, 8);
    const struct kvp_ref won = page_of(&kit, a, 0), lost = page_of(&kit, b, 0);
    assert_int_equal(kvp_seq_seal(kit.pager, a, 0, &key, &place), KV_SEALING);
    assert_int_equal(kvp_seq_seal(kit.pager, b, 0, &key, &place), KV_SEALING);
    assert_int_equal(kvp_seq_fork(kit.pager, b, &fork), KV_OK);
    kit_order(&kit, KV_OK, 5);
    kit_order(&kit, KV_OK, 6); /* low bits differ: each is right */
    assert_int_equal(kit.nr_switched, 2);
    assert_int_equal(page_of(&kit, b, 0).frame, won.frame);
    assert_int_equal(page_of(&kit, fork, 0).frame, won.frame);
    assert_int_equal(kit_info(&kit, won).digest, 5);
    assert_int_equal(kit_info(&kit, won).refs, 3);
    assert_int_equal(kit_info(&kit, lost).refs, 2);
    assert_int_equal(kvp_seq_confirm(kit.pager, b, info_of(&kit, b).version), KV_OK);
    assert_int_equal(kit_info(&kit, lost).refs, 1);
    end(&kit, fork);
    assert_int_equal(kit.last_freed.frame, lost.frame);
    end(&kit, a);
    end(&kit, b);
    kit_close(&kit);
}

/* With nothing left to retire with: at once AGAIN, later the own page is kept
 * unlisted. */
static void seq__no_room_to_retire_changes_nothing(void **state)
{
    (void)state;
    struct kit kit;
    const kv_key_t key = kit_key(1);
    const struct kvp_place place = {.index = 0};

    kit_init(&kit);
    kit.config.nr_retired = 0;
    kit_open(&kit);
    const struct kvp_seq_id a = open_with(&kit, 8), b = open_with(&kit, 8);
    const struct kvp_seq_id c = open_with(&kit, 8);
    assert_int_equal(kvp_seq_seal(kit.pager, a, 0, &key, &place), KV_SEALING);
    assert_int_equal(kvp_seq_seal(kit.pager, b, 0, &key, &place), KV_SEALING);
    kit_order(&kit, KV_OK, 5);
    kit_order(&kit, KV_OK, 5);
    assert_int_equal(kit.nr_switched, 0);
    const struct kvp_ref own = page_of(&kit, b, 0);
    assert_int_equal(kit_info(&kit, own).refs, 1);
    assert_int_equal(kvp_seq_seal(kit.pager, c, 0, &key, &place), KV_ERR_AGAIN);
    assert_true(kvp_writable(kit.pager, page_of(&kit, c, 0)));
    assert_int_equal(kvp_seq_truncate(kit.pager, c, 0), KV_ERR_AGAIN);
    assert_int_equal(info_of(&kit, c).nr_pages, 1);
    end(&kit, b);
    assert_int_equal(kit.last_freed.frame, own.frame);
    end(&kit, a);
    end(&kit, c);
    kit_close(&kit);
}

/* A block table needs its page on the device: a copy in host memory becomes the
 * twin. */
static void seq__copy_in_the_other_tier_is_no_exists(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_ref host = kit_cache(&kit, 0, KVP_HOST, 1);
    const struct kvp_seq_id seq = open_with(&kit, 8);
    kit_seal(&kit, seq, 0, 1);
    assert_int_equal(kit_info(&kit, page_of(&kit, seq, 0)).twin, host.frame);
    assert_int_equal(kit.nr_listed, 1);
    end(&kit, seq);
    kit_close(&kit);
}

static void seq__adopts_held_pages_and_a_tail_ends_it(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id seq;
    struct kvp_ref refs[3];

    kit_init(&kit);
    kit_open(&kit);
    refs[0] = kit_put(&kit, 0, KVP_DEVICE, 1);
    refs[2] = kit_put(&kit, 0, KVP_DEVICE, 2);
    const struct kvp_seq_id other = open_with(&kit, 3);
    kit_seal(&kit, other, 0, 9);
    refs[1] = page_of(&kit, other, 0);
    assert_int_equal(kvp_retain(kit.pager, refs[1]), KV_OK);
    assert_int_equal(kvp_seq_open(kit.pager, 1, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, refs, 1), KV_ERR_INVALID);
    end(&kit, seq);
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, refs, 3), KV_ERR_INVALID);
    assert_int_equal(info_of(&kit, seq).nr_pages, 0);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, &refs[2], 1), KV_OK);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, refs, 2), KV_OK);
    assert_int_equal(info_of(&kit, seq).n_tokens, 19);
    assert_int_equal(kvp_seq_adopt(kit.pager, seq, refs, 1), KV_ERR_INVALID);
    end(&kit, seq);
    end(&kit, other);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(kit_info(&kit, refs[i]).refs, 0);
    }
    kit_close(&kit);
}

/* The fence of a client is its death: until then its frames stay in place. */
static void seq__fenced_end_keeps_every_frame(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    const struct kvp_seq_id seq = open_with(&kit, 12);
    kit_seal(&kit, seq, 0, 1);
    assert_int_equal(kvp_seq_fenced(kit.pager, seq), KV_ERR_INVALID);
    assert_int_equal(kvp_seq_end(kit.pager, seq, true), KV_OK);
    assert_true(info_of(&kit, seq).ending);
    assert_int_equal(kit_info(&kit, page_of(&kit, seq, 1)).state, KVP_FILLING);
    assert_int_equal(kvp_seq_truncate(kit.pager, seq, 0), KV_ERR_STALE);
    assert_int_equal(kit.nr_freed, 0);
    assert_int_equal(kvp_seq_fenced(kit.pager, seq), KV_OK);
    assert_int_equal(kit.nr_freed, 1);
    assert_int_equal(kvp_seq_fenced(kit.pager, seq), KV_ERR_STALE);
    kit_close(&kit);
}

static void seq__long_table_takes_leaves_and_gives_them_back(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_seq_id one, two;
    const uint32_t tokens = 8 * (KVP_SEQ_LEAF_PAGES + 1);

    kit_init(&kit);
    kit.config.pools[0].nr_frames = 3 * KVP_SEQ_LEAF_PAGES;
    kit.config.nr_leaves = 3;
    kit.config.nr_retired = 1000;
    kit_open(&kit);
    one = open_with(&kit, tokens);
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &two), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, two, tokens), KV_ERR_AGAIN);
    assert_int_equal(kvp_seq_truncate(kit.pager, one, 8), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, two, tokens), KV_OK);
    kvp_check(kit.pager);
    assert_int_equal(
        kvp_seq_append(kit.pager, two, UINT32_MAX - tokens), KV_ERR_TOO_LARGE);
    end(&kit, one);
    end(&kit, two);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seq__grows_by_pages_and_seals_them),
        cmocka_unit_test(seq__ends_while_sealing_and_the_page_is_kept),
        cmocka_unit_test(seq__append_behind_a_tail_copies_it),
        cmocka_unit_test(seq__copy_that_fails_ends_the_page),
        cmocka_unit_test(seq__fork_shares_sealed_pages_and_copies_the_open_one),
        cmocka_unit_test(seq__fork_is_all_or_nothing),
        cmocka_unit_test(seq__truncate_into_a_sealed_page_copies_on_append),
        cmocka_unit_test(seq__seal_of_an_equal_page_switches_and_keeps_the_own),
        cmocka_unit_test(seq__loser_of_two_digests_is_switched_everywhere),
        cmocka_unit_test(seq__no_room_to_retire_changes_nothing),
        cmocka_unit_test(seq__copy_in_the_other_tier_is_no_exists),
        cmocka_unit_test(seq__adopts_held_pages_and_a_tail_ends_it),
        cmocka_unit_test(seq__fenced_end_keeps_every_frame),
        cmocka_unit_test(seq__long_table_takes_leaves_and_gives_them_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
