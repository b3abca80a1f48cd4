/* Goal: every node that reads the same list has the same view, wrong lists change
 * nothing, and silence is judged by its length alone. Method: lists in all orders, each
 * wrong list once, a clock by hand. */
#include "cluster/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct kvc_member three[] = {
    {.id = 7, .weight = 2}, {.id = 3, .weight = 1}, {.id = 900, .weight = 2}};

/* An index is what directories and placement go by: it must not depend on who wrote the
 * list in which order. */
static void view__order_of_the_list_changes_nothing(void **state)
{
    static const unsigned orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                         {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    struct kvc_view first, view;
    (void)state;
    assert_int_equal(kvc_view_build(&first, 4, three, 3, NULL), KV_OK);
    assert_int_equal(first.members[0].id, 3);
    assert_int_equal(first.members[2].id, 900);
    assert_false(first.equal_weights);
    for (unsigned i = 0; i < 6; i++) {
        struct kvc_member list[3];
        for (unsigned j = 0; j < 3; j++) {
            list[j] = three[orders[i][j]];
        }
        assert_int_equal(kvc_view_build(&view, 4, list, 3, NULL), KV_OK);
        assert_memory_equal(&view, &first, sizeof(view));
    }
}

/* Two nodes compare digests to learn whether they place alike. */
static void view__digest_tells_members_and_weights(void **state)
{
    struct kvc_view a, b;
    struct kvc_member list[3];
    (void)state;
    memcpy(list, three, sizeof(list));
    assert_int_equal(kvc_view_build(&a, 1, list, 3, NULL), KV_OK);
    assert_int_equal(kvc_view_build(&b, 2, list, 3, NULL), KV_OK);
    assert_true(a.digest == b.digest); /* the epoch is compared on its own */
    list[1].weight = 2;
    assert_int_equal(kvc_view_build(&b, 1, list, 3, NULL), KV_OK);
    assert_true(a.digest != b.digest);
    assert_true(b.equal_weights);
    assert_int_equal(kvc_view_build(&b, 1, three, 2, NULL), KV_OK);
    assert_true(a.digest != b.digest);
}

static void view__index_finds_members_only(void **state)
{
    struct kvc_view view;
    (void)state;
    assert_int_equal(kvc_view_build(&view, 1, three, 3, NULL), KV_OK);
    assert_int_equal(kvc_view_index(&view, 3), 0);
    assert_int_equal(kvc_view_index(&view, 7), 1);
    assert_int_equal(kvc_view_index(&view, 900), 2);
    assert_int_equal(kvc_view_index(&view, 0), KVC_NO_NODE);
    assert_int_equal(kvc_view_index(&view, 8), KVC_NO_NODE);
    assert_int_equal(kvc_view_index(&view, UINT32_MAX), KVC_NO_NODE);
}

static void
refused(const struct kvc_member *list, uint32_t nr, const char *field, uint64_t value)
{
    struct kvc_view view, before;
    struct kv_detail detail = {0};
    memset(&before, 0x5a, sizeof(before));
    view = before;
    assert_int_equal(kvc_view_build(&view, 1, list, nr, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, field);
    assert_int_equal(detail.value, value);
    assert_memory_equal(&view, &before, sizeof(view));
}

static void view__wrong_list_is_refused_and_changes_nothing(void **state)
{
    static struct kvc_member many[KVC_NODES_MAX + 1];
    struct kvc_member list[3];
    struct kvc_view view;
    (void)state;
    for (uint32_t i = 0; i < KVC_NODES_MAX + 1; i++) {
        many[i] = (struct kvc_member){.id = i, .weight = KVC_WEIGHT_MAX};
    }
    refused(many, 0, "view.nodes", 0);
    refused(many, KVC_NODES_MAX + 1, "view.nodes", KVC_NODES_MAX + 1);
    assert_int_equal(kvc_view_build(&view, 1, many, KVC_NODES_MAX, NULL), KV_OK);
    memcpy(list, three, sizeof(list));
    list[2].id = 7;
    refused(list, 3, "node.id", 7);
    memcpy(list, three, sizeof(list));
    list[1].weight = 0;
    refused(list, 3, "node.weight", 0);
    list[1].weight = KVC_WEIGHT_MAX + 1;
    refused(list, 3, "node.weight", KVC_WEIGHT_MAX + 1);
}

static const struct kvc_liveness_config times = {
    .heartbeat_us = 250000, .suspect_us = 1000000, .lost_us = 3000000};

/* Suspicion ends with a word; loss does not: the grants of a lost node are being
 * fenced, and only a new link begins without any. */
static void liveness__silence_makes_suspect_then_lost(void **state)
{
    struct kvc_liveness liveness;
    (void)state;
    kvc_liveness_reset(&liveness, 5000000);
    assert_false(kvc_liveness_tick(&liveness, &times, 5999999));
    assert_int_equal(liveness.life, KVC_ALIVE);
    assert_true(kvc_liveness_tick(&liveness, &times, 6000000));
    assert_int_equal(liveness.life, KVC_SUSPECT);
    assert_false(kvc_liveness_tick(&liveness, &times, 7999999));
    kvc_liveness_heard(&liveness, 7999999);
    assert_int_equal(liveness.life, KVC_ALIVE);
    assert_false(kvc_liveness_tick(&liveness, &times, 8000000));
    assert_true(kvc_liveness_tick(&liveness, &times, 10999999));
    assert_int_equal(liveness.life, KVC_LOST);
    kvc_liveness_heard(&liveness, 11000000);
    assert_false(kvc_liveness_tick(&liveness, &times, 11000000));
    assert_int_equal(liveness.life, KVC_LOST);
    kvc_liveness_reset(&liveness, 12000000);
    assert_int_equal(liveness.life, KVC_ALIVE);
}

/* A message stamped before the last one must not make the silence look longer. */
static void liveness__time_does_not_go_back(void **state)
{
    struct kvc_liveness liveness;
    (void)state;
    kvc_liveness_reset(&liveness, 5000000);
    kvc_liveness_heard(&liveness, 4000000);
    assert_false(kvc_liveness_tick(&liveness, &times, 5500000));
    assert_false(kvc_liveness_tick(&liveness, &times, 1));
}

static void liveness__times_must_grow(void **state)
{
    struct kvc_liveness_config wrong = times;
    struct kv_detail detail = {0};
    (void)state;
    assert_int_equal(kvc_liveness_check(&times, NULL), KV_OK);
    wrong.heartbeat_us = 0;
    assert_int_equal(kvc_liveness_check(&wrong, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "liveness.heartbeat");
    wrong = times;
    wrong.suspect_us = wrong.heartbeat_us;
    assert_int_equal(kvc_liveness_check(&wrong, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "liveness.suspect");
    wrong = times;
    wrong.lost_us = wrong.suspect_us;
    assert_int_equal(kvc_liveness_check(&wrong, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "liveness.lost");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(view__order_of_the_list_changes_nothing),
        cmocka_unit_test(view__digest_tells_members_and_weights),
        cmocka_unit_test(view__index_finds_members_only),
        cmocka_unit_test(view__wrong_list_is_refused_and_changes_nothing),
        cmocka_unit_test(liveness__silence_makes_suspect_then_lost),
        cmocka_unit_test(liveness__time_does_not_go_back),
        cmocka_unit_test(liveness__times_must_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
