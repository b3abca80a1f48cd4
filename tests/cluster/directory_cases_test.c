/* Goal and method: see directory_test.c; here the single cases, and every allocation
 * failed once. */
#include "cluster/directory.h"

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { COLD_US = 1000000 };

static kv_key_t key_of(uint64_t number)
{
    kv_key_t key;
    for (unsigned i = 0; i < KV_KEY_BYTES / 8; i++) {
        uint64_t w = kv_mix64(number * 8 + i + KV_GOLDEN64);
        memcpy(key.b + 8 * i, &w, sizeof(w));
    }
    return key;
}

static kvc_dir_t *small_dir(uint32_t entries, uint32_t holdings, uint32_t nodes)
{
    const struct kvc_dir_config config = {
        .nr_entries = entries,
        .nr_holdings = holdings,
        .nr_nodes = nodes,
        .cold_us = COLD_US};
    kvc_dir_t *dir = NULL;
    assert_int_equal(kvc_dir_create(&config, 500, &dir, NULL), KV_OK);
    return dir;
}

static struct kv_msg_entry page(uint32_t number)
{
    return (struct kv_msg_entry){
        .copy = {.tenant = 1, .key = key_of(number)}, .gen = 1, .n_tokens = 512};
}

/* A node that has just started has heard of nothing: it must not be believed. */
static void directory__is_cold_until_all_have_synced(void **state)
{
    kvc_dir_t *dir = small_dir(8, 8, 2);
    (void)state;
    assert_true(kvc_dir_cold(dir, 500));
    kvc_dir_holder_up(dir, 0);
    kvc_dir_sync_begin(dir, 0);
    assert_true(kvc_dir_sync_end(dir, 0, 0));
    assert_true(kvc_dir_cold(dir, 500)); /* node 1 was never up */
    kvc_dir_holder_up(dir, 1);
    kvc_dir_sync_begin(dir, 1);
    assert_false(kvc_dir_sync_end(dir, 1, 1)); /* an entry was lost on the way */
    assert_true(kvc_dir_cold(dir, 500));
    kvc_dir_sync_begin(dir, 1);
    assert_true(kvc_dir_sync_end(dir, 1, 0));
    assert_false(kvc_dir_cold(dir, 500));
    kvc_dir_holder_gone(dir, 1); /* its copies went with it: nothing is missing */
    assert_false(kvc_dir_cold(dir, 500));
    kvc_dir_holder_up(dir, 1);
    assert_true(kvc_dir_cold(dir, 500));
    assert_true(kvc_dir_cold(dir, 500 + COLD_US - 1));
    assert_false(kvc_dir_cold(dir, 500 + COLD_US));
    kvc_dir_destroy(dir);
}

static void directory__full_counts_as_sent_in_a_sync(void **state)
{
    kvc_dir_t *dir = small_dir(2, 8, 1);
    (void)state;
    kvc_dir_holder_up(dir, 0);
    kvc_dir_sync_begin(dir, 0);
    for (uint32_t i = 0; i < 4; i++) {
        struct kv_msg_entry item = page(i);
        assert_int_equal(kvc_dir_publish(dir, 0, &item), i < 2 ? KV_OK : KV_ERR_FULL);
    }
    assert_true(kvc_dir_sync_end(dir, 0, 4));
    kvc_dir_sync_begin(dir, 0);
    assert_false(kvc_dir_sync_end(dir, 0, 4)); /* FULL of an earlier sync */
    assert_int_equal(kvc_dir_nr_entries(dir, 0), 0);
    kvc_dir_destroy(dir);
}

/* An end whose beginning was lost says nothing about what is still held. */
static void directory__sync_end_alone_drops_nothing(void **state)
{
    kvc_dir_t *dir = small_dir(4, 4, 1);
    struct kv_msg_entry item = page(1);
    (void)state;
    kvc_dir_holder_up(dir, 0);
    assert_int_equal(kvc_dir_publish(dir, 0, &item), KV_OK);
    assert_false(kvc_dir_sync_end(dir, 0, 1));
    assert_int_equal(kvc_dir_nr_entries(dir, 0), 1);
    kvc_dir_destroy(dir);
}

/* A withdraw that is older than what is listed must not take the newer copy away. */
static void directory__late_withdraw_is_ignored(void **state)
{
    kvc_dir_t *dir = small_dir(4, 4, 1);
    struct kv_msg_entry item = page(1);
    struct kv_msg_gone gone = {.copy = item.copy, .gen = 1};
    (void)state;
    kvc_dir_holder_up(dir, 0);
    assert_int_equal(kvc_dir_publish(dir, 0, &item), KV_OK);
    item.gen = 2;
    assert_int_equal(kvc_dir_publish(dir, 0, &item), KV_OK);
    assert_int_equal(kvc_dir_nr_entries(dir, 0), 1);
    assert_false(kvc_dir_withdraw(dir, 0, &gone));
    gone.gen = 2;
    assert_true(kvc_dir_withdraw(dir, 0, &gone));
    assert_false(kvc_dir_withdraw(dir, 0, &gone));
    kvc_dir_check(dir);
    kvc_dir_destroy(dir);
}

/* Thousands of short prompts end in tails of one root: a look-up stays bounded, and
 * each of them can still be withdrawn. */
static void directory__many_tails_of_one_root(void **state)
{
    enum { TAILS = 5000 };
    kvc_dir_t *dir = small_dir(TAILS, TAILS, 1);
    const struct kvc_member member = {.id = 9, .weight = 1};
    static struct kvc_view view;
    static struct kvc_dir_answer answer;
    struct kv_msg_want want = {0};
    struct kv_msg_lookup lookup = {
        .tenant = 1,
        .wants = &want,
        .nr_wants = 1,
        .tails = true,
        .tail_prev = key_of(1)};
    struct kv_msg_entry item;
    (void)state;
    assert_int_equal(kvc_view_build(&view, 1, &member, 1, NULL), KV_OK);
    kvc_dir_holder_up(dir, 0);
    for (uint32_t i = 0; i < TAILS; i++) {
        item = page(10 + i);
        item.tail = true;
        item.n_tokens = 1 + i % 500;
        item.prev = key_of(1);
        assert_int_equal(kvc_dir_publish(dir, 0, &item), KV_OK);
    }
    kvc_dir_lookup(dir, &view, &lookup, KVC_NO_NODE, &answer);
    assert_int_equal(answer.nr_tails, KV_MSG_TAILS_MAX);
    assert_int_equal(answer.tails[0].holder, 9);
    kvc_dir_check(dir);
    for (uint32_t i = 0; i < TAILS; i++) {
        struct kv_msg_gone gone = {.gen = 1};
        gone.copy = page(10 + i).copy;
        assert_true(kvc_dir_withdraw(dir, 0, &gone));
    }
    kvc_dir_lookup(dir, &view, &lookup, KVC_NO_NODE, &answer);
    assert_int_equal(answer.nr_tails, 0);
    kvc_dir_check(dir);
    kvc_dir_destroy(dir);
}

enum { NAMES = 6 };

static void check_names(uint32_t number)
{
    kvc_dir_t *dir = small_dir(NAMES, NAMES, 1);
    struct kv_msg_entry items[NAMES];
    kvc_dir_holder_up(dir, 0);
    for (uint32_t i = 0; i < NAMES; i++) {
        items[i] = page(number);
    }
    items[1].copy.tenant++;
    items[2].copy.layout++;
    items[3].copy.group++;
    items[4].copy.shard++;
    items[5].copy.key.b[KV_KEY_BYTES - 1] ^= 1;
    for (uint32_t i = 0; i < NAMES; i++) {
        assert_int_equal(kvc_dir_publish(dir, 0, &items[i]), KV_OK);
        assert_int_equal(kvc_dir_nr_entries(dir, 0), i + 1);
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        uint32_t holder;
        assert_true(kvc_dir_forget(dir, 0, &items[i].copy));
        for (uint32_t j = 0; j < NAMES; j++) {
            uint32_t nr = kvc_dir_holders(dir, &items[j].copy, KVC_NO_NODE, 1, &holder);
            assert_int_equal(nr, j > i);
        }
    }
    kvc_dir_check(dir);
    kvc_dir_destroy(dir);
}

/* Copies that differ in one part of their name are different copies; with few buckets
 * and many keys every two of them share one now and then. */
static void directory__every_part_of_a_name_counts(void **state)
{
    (void)state;
    for (uint32_t number = 0; number < 100; number++) {
        check_names(number);
    }
}

/* With so few buckets tails of other prefixes and tenants share one: they must not be
 * taken for each other, for a tail of another tenant would be another's page. */
static void directory__tails_of_others_are_not_listed(void **state)
{
    const struct kvc_member member = {.id = 9, .weight = 1};
    static struct kvc_view view;
    static struct kvc_dir_answer answer;
    struct kv_msg_want want = {0};
    (void)state;
    assert_int_equal(kvc_view_build(&view, 1, &member, 1, NULL), KV_OK);
    for (uint32_t i = 0; i < 20; i++) {
        kvc_dir_t *dir = small_dir(2, 2, 1);
        kvc_dir_holder_up(dir, 0);
        for (uint32_t other = 0; other < 2; other++) {
            struct kv_msg_entry item = page(10 + other);
            item.copy.tenant += other * (i % 2);
            item.prev = key_of(100 + other * i * (1 - i % 2));
            item.tail = true;
            item.n_tokens = 5 + other;
            assert_int_equal(kvc_dir_publish(dir, 0, &item), KV_OK);
        }
        const struct kv_msg_lookup lookup = {
            .tenant = 1,
            .wants = &want,
            .nr_wants = 1,
            .tails = true,
            .tail_prev = key_of(100)};
        kvc_dir_lookup(dir, &view, &lookup, KVC_NO_NODE, &answer);
        assert_int_equal(answer.nr_tails, i == 0 ? 2 : 1);
        assert_int_equal(answer.tails[answer.nr_tails - 1].n_tokens, 5);
        kvc_dir_destroy(dir);
    }
}

/* An answer has bounds of its own: the largest look-up, every second page listed, for
 * several wants, makes more runs than one FOUND may carry. */
static void directory__answer_stops_when_full(void **state)
{
    enum { SEGS = 8, WANTS = 4 };
    kvc_dir_t *dir = small_dir(4096, 4096, 1);
    const struct kvc_member member = {.id = 9, .weight = 1};
    static struct kvc_view view;
    static struct kvc_dir_answer answer;
    static kv_key_t keys[SEGS][KV_MSG_SEG_KEYS_MAX];
    struct kv_msg_segment segs[SEGS];
    struct kv_msg_want wants[WANTS];
    (void)state;
    assert_int_equal(kvc_view_build(&view, 1, &member, 1, NULL), KV_OK);
    kvc_dir_holder_up(dir, 0);
    for (uint32_t s = 0; s < SEGS; s++) {
        segs[s] =
            (struct kv_msg_segment){.keys = keys[s], .nr_keys = KV_MSG_SEG_KEYS_MAX};
        for (uint32_t k = 0; k < KV_MSG_SEG_KEYS_MAX; k++) {
            keys[s][k] = key_of(s * KV_MSG_SEG_KEYS_MAX + k);
            for (uint16_t w = 0; w < WANTS; w++) {
                struct kv_msg_entry item = page(s * KV_MSG_SEG_KEYS_MAX + k);
                item.copy.group = w;
                wants[w] = (struct kv_msg_want){.group = w};
                assert_int_equal(
                    k % 2 == 0 ? kvc_dir_publish(dir, 0, &item) : KV_OK, KV_OK);
            }
        }
    }
    const struct kv_msg_lookup lookup = {
        .tenant = 1, .wants = wants, .nr_wants = WANTS, .segs = segs, .nr_segs = SEGS};
    kvc_dir_lookup(dir, &view, &lookup, KVC_NO_NODE, &answer);
    assert_int_equal(answer.nr_runs, KV_MSG_RUNS_MAX);
    kvc_dir_lookup(dir, &view, &lookup, 0, &answer); /* the asker itself is no news */
    assert_int_equal(answer.nr_runs, 0);
    kvc_dir_destroy(dir);
}

static void directory__wrong_config_is_refused(void **state)
{
    const struct kvc_dir_config good = {
        .nr_entries = 1, .nr_holdings = 1, .nr_nodes = 1};
    struct kvc_dir_config wrong = good;
    struct kv_detail detail = {0};
    kvc_dir_t *dir = NULL;
    (void)state;
    wrong.nr_entries = 0;
    assert_int_equal(kvc_dir_create(&wrong, 0, &dir, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "directory.entries");
    wrong = good;
    wrong.nr_holdings = UINT32_MAX;
    assert_int_equal(kvc_dir_create(&wrong, 0, &dir, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "directory.holdings");
    wrong = good;
    wrong.nr_nodes = KVC_NODES_MAX + 1;
    assert_int_equal(kvc_dir_create(&wrong, 0, &dir, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "view.nodes");
    assert_null(dir);
    kvc_dir_destroy(NULL);
}

/* Fail the 1st, 2nd, … allocation until creating succeeds: every unwind label runs once
 * and leaves nothing behind. */
static void directory__create_survives_every_fault(void **state)
{
    const struct kvc_dir_config config = {
        .nr_entries = 10, .nr_holdings = 10, .nr_nodes = 2};
    const int64_t live = kv_mem_live();
    kvc_dir_t *dir = NULL;
    uint64_t n = 0;
    (void)state;
    while (dir == NULL) {
        kv_fault_after(++n);
        kv_status_t status = kvc_dir_create(&config, 0, &dir, NULL);
        assert_int_equal(status == KV_OK, dir != NULL);
        assert_true(dir != NULL || (status == KV_ERR_NOMEM && kv_mem_live() == live));
    }
    kv_fault_after(0);
    assert_int_equal(n - 1, 6);
    kvc_dir_check(dir);
    kvc_dir_destroy(dir);
    assert_true(kv_mem_live() == live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directory__is_cold_until_all_have_synced),
        cmocka_unit_test(directory__full_counts_as_sent_in_a_sync),
        cmocka_unit_test(directory__sync_end_alone_drops_nothing),
        cmocka_unit_test(directory__late_withdraw_is_ignored),
        cmocka_unit_test(directory__many_tails_of_one_root),
        cmocka_unit_test(directory__every_part_of_a_name_counts),
        cmocka_unit_test(directory__tails_of_others_are_not_listed),
        cmocka_unit_test(directory__answer_stops_when_full),
        cmocka_unit_test(directory__wrong_config_is_refused),
        cmocka_unit_test(directory__create_survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
