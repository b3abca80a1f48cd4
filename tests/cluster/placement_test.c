/* Goal: homes are those of docs/placement.md, fall by weight, and move as little as
 * they can when the view changes. Method: the page's vectors; 10^5 random segments,
 * counted; properties of the logarithm and of segments against naive versions. */
#include "cluster/placement.h"

#include "base/hash.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NR_SEGMENTS = 100000, FIRST_ID = 100 };

static kv_key_t random_key(struct kv_rng *rng)
{
    kv_key_t key;
    for (unsigned i = 0; i < KV_KEY_BYTES / 8; i++) {
        uint64_t w = kv_rng_next(rng);
        memcpy(key.b + 8 * i, &w, sizeof(w));
    }
    return key;
}

static struct kvc_view view_of(const uint32_t *weights, uint32_t nr)
{
    struct kvc_member members[KVC_NODES_MAX];
    struct kvc_view view;
    for (uint32_t i = 0; i < nr; i++) {
        members[i] = (struct kvc_member){.id = FIRST_ID + i, .weight = weights[i]};
    }
    assert_int_equal(kvc_view_build(&view, 1, members, nr, NULL), KV_OK);
    return view;
}

static struct kvc_view view_even(uint32_t nr)
{
    uint32_t weights[KVC_NODES_MAX];
    for (uint32_t i = 0; i < nr; i++) {
        weights[i] = 1;
    }
    return view_of(weights, nr);
}

/* ---- the page's vectors ---------------------------------------------------------- */

static void check_homes_vector(char *members, const char *hex, const char *expected)
{
    struct kvc_member list[16];
    struct kvc_view view;
    kv_key_t key;
    uint32_t nr = 0, homes[4];
    char got[128] = "";

    for (char *at = members; *at != '\0'; at += *at == ',') {
        assert_true(nr < 16);
        list[nr].id = (uint32_t)strtoul(at, &at, 10);
        assert_int_equal(*at, ':');
        list[nr++].weight = (uint32_t)strtoul(at + 1, &at, 10);
    }
    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        assert_int_equal(sscanf(hex + 2 * i, "%2hhx", &key.b[i]), 1);
    }
    assert_int_equal(kvc_view_build(&view, 1, list, nr, NULL), KV_OK);
    uint32_t n = kvc_homes(&view, &key, 4, homes);
    for (uint32_t i = 0; i < n; i++) {
        size_t len = strlen(got);
        snprintf(
            got + len, sizeof(got) - len, "%s%" PRIu32, i == 0 ? "" : ",",
            view.members[homes[i]].id);
    }
    assert_string_equal(got, expected);
}

static void check_vector(char *line)
{
    uint64_t h, result;
    uint32_t page_tokens, page, first, len;
    char members[512], hex[80], expected[128];
    if (sscanf(line, "neg_log2 %" SCNx64 " %" SCNx64, &h, &result) == 2) {
        assert_true(kvc_neg_log2(h) == result);
    } else if (
        sscanf(
            line, "segment %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32, &page_tokens,
            &page, &first, &len)
        == 4) {
        struct kvc_segment segment = kvc_segment_at(page, page_tokens);
        assert_int_equal(segment.first, first);
        assert_int_equal(segment.len, len);
    } else {
        assert_int_equal(
            sscanf(line, "homes %511s %79s %127s", members, hex, expected), 3);
        check_homes_vector(members, hex, expected);
    }
}

/* Other implementations go by the page, so the page must be what we do. Tests run in
 * the source folder. */
static void placement__is_what_the_page_says(void **state)
{
    char line[1024];
    unsigned nr = 0;
    bool inside = false;
    FILE *file = fopen("docs/placement.md", "r");
    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, "```", 3) == 0) {
            inside = strcmp(line, "```vectors\n") == 0;
        } else if (inside) {
            check_vector(line);
            nr++;
        }
    }
    fclose(file);
    assert_true(nr > 100);
}

/* ---- segments -------------------------------------------------------------------- */

static void segment__lengths_double_up_to_2048_tokens(void **state)
{
    static const uint32_t sizes[] = {1, 16, 100, 128, 512, 1000, 2048, 4096, 8192};
    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint32_t longest = sizes[i] >= 2048 ? 1 : 2048 / sizes[i];
        uint32_t first = 0, len = 1;
        for (uint32_t page = 0; page < 20000; page++) {
            if (page == first + len) {
                first = page;
                len = first < longest ? first : longest;
            }
            struct kvc_segment got = kvc_segment_at(page, sizes[i]);
            assert_int_equal(got.first, first);
            assert_int_equal(got.len, len);
        }
    }
    struct kvc_segment last = kvc_segment_at(UINT32_MAX, 512);
    assert_true(last.first <= UINT32_MAX && UINT32_MAX - last.first < last.len);
}

/* ---- the logarithm --------------------------------------------------------------- */

static void neg_log2__is_close_to_the_library_and_never_rises(void **state)
{
    struct kv_rng rng = kv_rng_seed(1);
    (void)state;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t a = kv_rng_next(&rng) >> kv_rng_below(&rng, 64);
        uint64_t b = kv_rng_one_in(&rng, 2) ? a + kv_rng_below(&rng, 1 << 20)
                                            : kv_rng_next(&rng);
        double exact = (64 - log2((double)(a == 0 ? 1 : a))) * 0x1p40;
        double got = (double)kvc_neg_log2(a);
        assert_true(fabs(got - exact) <= 2 + 64 * 0x1p40 * 0x1p-50);
        assert_true(
            a <= b ? kvc_neg_log2(a) >= kvc_neg_log2(b)
                   : kvc_neg_log2(a) <= kvc_neg_log2(b));
    }
}

/* ---- homes ----------------------------------------------------------------------- */

static void count_firsts(const struct kvc_view *view, uint64_t seed, uint32_t *firsts)
{
    struct kv_rng rng = kv_rng_seed(seed);
    memset(firsts, 0, view->nr * sizeof(*firsts));
    for (unsigned i = 0; i < NR_SEGMENTS; i++) {
        kv_key_t key = random_key(&rng);
        uint32_t home;
        assert_int_equal(kvc_homes(view, &key, 1, &home), 1);
        firsts[home]++;
    }
}

/* Shares are in proportion to weights, to 2 % of all segments' share of a node; the
 * largest weights too, where a product that overflowed would show. */
static void homes__fall_by_weight(void **state)
{
    static const uint32_t lists[][4] = {
        {1, 1, 1, 1}, {1, 2, 3, 4}, {3, 3, 1, 1}, {16384, 65536, 65536, 32768}};
    (void)state;
    for (unsigned l = 0; l < 4; l++) {
        struct kvc_view view = view_of(lists[l], 4);
        uint32_t firsts[4];
        uint64_t sum = 0;
        count_firsts(&view, l, firsts);
        for (unsigned i = 0; i < 4; i++) {
            sum += lists[l][i];
        }
        for (unsigned i = 0; i < 4; i++) {
            double share = (double)NR_SEGMENTS * lists[l][i] / (double)sum;
            assert_true(fabs(firsts[i] - share) <= 0.02 * share);
        }
    }
}

/* Equal weights take a shorter way; it must lead to the same homes as the long one.
 * With many nodes the best costs are close to 0, where the bound that saves logarithms
 * is closest to them. */
static void check_ways(uint32_t nodes, uint32_t keys)
{
    struct kv_rng rng = kv_rng_seed(3);
    struct kvc_view fast = view_even(nodes);
    struct kvc_view slow = fast;
    slow.equal_weights = false;
    for (unsigned i = 0; i < keys; i++) {
        kv_key_t key = random_key(&rng);
        uint32_t a[5], b[5];
        assert_int_equal(kvc_homes(&fast, &key, 5, a), 5);
        assert_int_equal(kvc_homes(&slow, &key, 5, b), 5);
        assert_memory_equal(a, b, sizeof(a));
    }
}

static void homes__equal_weights_agree_with_weighted(void **state)
{
    (void)state;
    check_ways(20, 20000);
    check_ways(KVC_NODES_MAX, 3000);
}

/* Asking for fewer homes gives the beginning of the whole order, whose members
 * differ. */
static void homes__are_a_prefix_of_one_order(void **state)
{
    static const uint32_t weights[] = {5, 1, 1, 7, 2, 65536, 3};
    struct kv_rng rng = kv_rng_seed(4);
    struct kvc_view view = view_of(weights, 7);
    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        kv_key_t key = random_key(&rng);
        uint32_t all[7], some[7], seen = 0;
        assert_int_equal(kvc_homes(&view, &key, 9, all), 7);
        for (uint32_t n = 0; n <= 7; n++) {
            assert_int_equal(kvc_homes(&view, &key, n, some), n);
            assert_memory_equal(some, all, n * sizeof(*some));
        }
        for (uint32_t n = 0; n < 7; n++) {
            seen |= 1u << all[n];
            assert_int_equal(kvc_is_home(&view, &key, all[n]), n < KVC_HOMES);
        }
        assert_int_equal(seen, 0x7f);
    }
}

/* When the last of `nr` leaves: only what it was a home of changes, what remains keeps
 * its order, and a share close to R / nr of all segments is concerned. Read backwards,
 * the same of a node that joins. */
static void check_movement(const uint32_t *weights, uint32_t nr)
{
    struct kv_rng rng = kv_rng_seed(5);
    struct kvc_view with = view_of(weights, nr);
    struct kvc_view without = view_of(weights, nr - 1);
    uint32_t concerned = 0;
    for (unsigned i = 0; i < NR_SEGMENTS; i++) {
        kv_key_t key = random_key(&rng);
        uint32_t before[KVC_HOMES + 1], after[KVC_HOMES];
        uint32_t left = 0;
        kvc_homes(&with, &key, KVC_HOMES + 1, before);
        kvc_homes(&without, &key, KVC_HOMES, after);
        for (uint32_t n = 0; n < KVC_HOMES + 1 && left < KVC_HOMES; n++) {
            if (before[n] == nr - 1) {
                concerned += n < KVC_HOMES;
            } else {
                assert_int_equal(after[left], before[n]);
                left++;
            }
        }
    }
    double share = (double)KVC_HOMES / nr * NR_SEGMENTS;
    assert_true(
        weights[0] != weights[nr - 1] || fabs(concerned - share) < 0.05 * share);
    assert_true(concerned > 0);
}

static void homes__move_only_with_their_node(void **state)
{
    static const uint32_t even[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint32_t uneven[6] = {4, 1, 2, 9, 1, 3};
    (void)state;
    check_movement(even, 10);
    check_movement(even, 4);
    check_movement(uneven, 6);
}

/* A node that becomes heavier only gains. */
static void homes__weight_only_draws(void **state)
{
    static const uint32_t before[5] = {2, 3, 4, 5, 6};
    static const uint32_t after[5] = {2, 3, 8, 5, 6};
    struct kv_rng rng = kv_rng_seed(6);
    struct kvc_view a = view_of(before, 5);
    struct kvc_view b = view_of(after, 5);
    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        kv_key_t key = random_key(&rng);
        uint32_t x, y;
        kvc_homes(&a, &key, 1, &x);
        kvc_homes(&b, &key, 1, &y);
        assert_true(x == y || y == 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placement__is_what_the_page_says),
        cmocka_unit_test(segment__lengths_double_up_to_2048_tokens),
        cmocka_unit_test(neg_log2__is_close_to_the_library_and_never_rises),
        cmocka_unit_test(homes__fall_by_weight),
        cmocka_unit_test(homes__equal_weights_agree_with_weighted),
        cmocka_unit_test(homes__are_a_prefix_of_one_order),
        cmocka_unit_test(homes__move_only_with_their_node),
        cmocka_unit_test(homes__weight_only_draws),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
