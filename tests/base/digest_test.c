/* A digest is compared across machines and years: every implementation must give the
 * documented number, and the accidents it exists for must change it. */
#include "base/digest.h"
#include "base/hash.h"
#include "base/mem.h"
#include "tests/base/vectors.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BUFFER_BYTES = 1 << 20, LEAF = KV_DIGEST_LEAF_BYTES };

static uint8_t *buffer;

static int setup(void **state)
{
    (void)state;
    buffer = kv_calloc(1, BUFFER_BYTES);
    return buffer == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    kv_free(buffer);
    return kv_digest_force(NULL);
}

static uint64_t vector_value(const struct vector_reader *reader)
{
    const uint64_t seed = strtoull(reader->argv[1], NULL, 10);
    if (strcmp(reader->argv[0], "constant") == 0) {
        return kv_mix64((seed + 1) * KV_GOLDEN64);
    }
    const size_t len = strtoull(reader->argv[2], NULL, 10);
    assert_true(len <= BUFFER_BYTES);
    vector_stream(seed, buffer, len);
    return strcmp(reader->argv[0], "leaf") == 0 ? kv_digest_leaf(buffer, len)
                                                : kv_digest(buffer, len);
}

/* The document is the contract; whatever disagrees with it is wrong. */
static void digest__vectors_match_in_every_implementation(void **state)
{
    (void)state;
    for (unsigned i = 0; kv_digest_impl(i) != NULL; i++) {
        struct vector_reader reader;
        unsigned nr = 0;
        assert_int_equal(kv_digest_force(kv_digest_impl(i)), 0);
        vectors_open(&reader, "docs/digest.md");
        while (vectors_next(&reader)) {
            char hex[17];
            snprintf(hex, sizeof(hex), "%016" PRIx64, vector_value(&reader));
            assert_string_equal(hex, reader.answer);
            nr++;
        }
        vectors_close(&reader);
        assert_true(nr >= 12);
    }
}

/* Nodes with different processors must agree on every length and alignment. */
static void digest__implementations_agree_on_any_length_and_alignment(void **state)
{
    (void)state;
    struct kv_rng rng = kv_rng_seed(1);
    vector_stream(2, buffer, BUFFER_BYTES);
    for (unsigned round = 0; round < 3000; round++) {
        const size_t at = kv_rng_below(&rng, 130);
        const size_t len = kv_rng_below(&rng, round % 4 == 0 ? 70000 : 4500);
        assert_int_equal(kv_digest_force("portable"), 0);
        const uint64_t wanted = kv_digest(buffer + at, len);
        for (unsigned i = 0; kv_digest_impl(i) != NULL; i++) {
            assert_int_equal(kv_digest_force(kv_digest_impl(i)), 0);
            assert_int_equal(kv_digest(buffer + at, len), wanted);
        }
    }
}

/* Carries must propagate alike: all ones give the largest products and sums. */
static void digest__implementations_agree_on_extreme_bytes(void **state)
{
    (void)state;
    static const uint8_t fills[] = {0x00, 0xff, 0x80, 0x01};
    for (unsigned f = 0; f < sizeof(fills); f++) {
        memset(buffer, fills[f], LEAF);
        assert_int_equal(kv_digest_force("portable"), 0);
        const uint64_t wanted = kv_digest_leaf(buffer, LEAF);
        for (unsigned i = 0; kv_digest_impl(i) != NULL; i++) {
            assert_int_equal(kv_digest_force(kv_digest_impl(i)), 0);
            assert_int_equal(kv_digest_leaf(buffer, LEAF), wanted);
        }
    }
}

/* Chunks land out of order; the digest must be that of the whole all the same. */
static void digest__leaves_in_any_order_give_the_same_digest(void **state)
{
    (void)state;
    enum { NR = 33 };
    const size_t len = (NR - 1) * LEAF + 100;
    struct kv_rng rng = kv_rng_seed(3);
    vector_stream(3, buffer, len);
    unsigned order[NR];
    for (unsigned i = 0; i < NR; i++) {
        const unsigned j = (unsigned)kv_rng_below(&rng, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    struct kv_digest_state sum;
    kv_digest_init(&sum);
    for (unsigned i = 0; i < NR; i++) {
        const size_t at = (size_t)order[i] * LEAF;
        const size_t left = len - at;
        kv_digest_add(
            &sum, order[i], kv_digest_leaf(buffer + at, left < LEAF ? left : LEAF));
    }
    assert_int_equal(kv_digest_end(&sum, len), kv_digest(buffer, len));
}

/* The accident that hardware makes: one bit of a page. Every bit, two kinds of page. */
static void digest__every_flipped_bit_of_a_page_is_found(void **state)
{
    (void)state;
    for (unsigned kind = 0; kind < 2; kind++) {
        memset(buffer, 0, LEAF);
        if (kind == 1) {
            vector_stream(4, buffer, LEAF);
        }
        const uint64_t before = kv_digest(buffer, LEAF);
        for (unsigned bit = 0; bit < 8 * LEAF; bit++) {
            buffer[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_not_equal(kv_digest(buffer, LEAF), before);
            buffer[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}

static int compare_u64(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Nearly empty pages are real (padding, quantised zeros). All leaves of zeros with two
 * bits set in two words must differ from each other, also in 40 of their bits alone:
 * 8256 values in 2^40 meet with a probability of 3 in 100,000. */
static void digest__sparse_leaves_do_not_collide(void **state)
{
    (void)state;
    enum { NR = 128 * 129 / 2 };
    static uint64_t high[NR], low[NR];
    memset(buffer, 0, LEAF);
    unsigned n = 0;
    for (unsigned i = 0; i < 128; i++) {
        for (unsigned j = 0; j <= i; j++) {
            /* j == i clears what i set: take a second bit of the word then. */
            buffer[i * 32] ^= 1;
            buffer[j * 32] ^= 2;
            const uint64_t value = kv_digest_leaf(buffer, LEAF);
            high[n] = value >> 24;
            low[n++] = value & ((UINT64_C(1) << 40) - 1);
            buffer[i * 32] ^= 1;
            buffer[j * 32] ^= 2;
        }
    }
    qsort(high, NR, sizeof(high[0]), compare_u64);
    qsort(low, NR, sizeof(low[0]), compare_u64);
    for (unsigned i = 1; i < NR; i++) {
        assert_int_not_equal(high[i], high[i - 1]);
        assert_int_not_equal(low[i], low[i - 1]);
    }
}

static void swap_bytes(uint8_t *a, uint8_t *b, size_t len)
{
    uint8_t t[LEAF];
    memcpy(t, a, len);
    memcpy(a, b, len);
    memcpy(b, t, len);
}

/* Every pair of equal-lane words, which differ in one half only: the case for which the
 * second product of docs/digest.md is there. */
static void digest__swapped_words_are_found(void **state)
{
    (void)state;
    memset(buffer, 0, LEAF);
    for (uint32_t w = 0; w < LEAF / 8; w++) {
        const uint32_t low_half = w * 3;
        memcpy(buffer + 8 * (size_t)w, &low_half, sizeof(low_half));
    }
    const uint64_t before = kv_digest(buffer, LEAF);
    for (unsigned i = 0; i < LEAF / 8; i++) {
        for (unsigned j = i + 8; j < LEAF / 8; j += 8) {
            swap_bytes(buffer + 8 * (size_t)i, buffer + 8 * (size_t)j, 8);
            assert_int_not_equal(kv_digest(buffer, LEAF), before);
            swap_bytes(buffer + 8 * (size_t)i, buffer + 8 * (size_t)j, 8);
        }
    }
}

/* Fragments that land in each other's place are the accident of a data path. */
static void digest__swapped_rows_and_leaves_are_found(void **state)
{
    (void)state;
    const size_t len = 8 * LEAF;
    vector_stream(6, buffer, len);
    const uint64_t before = kv_digest(buffer, len);
    for (size_t piece = 64; piece <= LEAF; piece *= 4) {
        for (size_t at = piece; at < len; at += piece) {
            swap_bytes(buffer, buffer + at, piece);
            assert_int_not_equal(kv_digest(buffer, len), before);
            swap_bytes(buffer, buffer + at, piece);
        }
    }
    assert_int_equal(kv_digest(buffer, len), before);
}

/* A short read of zeros looks like padding: the length must tell them apart. */
static void digest__zeros_of_every_length_differ(void **state)
{
    (void)state;
    enum { NR = 2 * LEAF };
    static uint64_t values[NR];
    memset(buffer, 0, NR);
    for (size_t len = 0; len < NR; len++) {
        values[len] = kv_digest(buffer, len);
    }
    qsort(values, NR, sizeof(values[0]), compare_u64);
    for (unsigned i = 1; i < NR; i++) {
        assert_int_not_equal(values[i], values[i - 1]);
    }
}

/* A leaf that came twice, or not at all, must not pass for the whole. */
static void digest__missing_or_doubled_leaf_is_found(void **state)
{
    (void)state;
    const size_t len = 2 * LEAF;
    memset(buffer, 0, len);
    const uint64_t leaf = kv_digest_leaf(buffer, LEAF);
    struct kv_digest_state sum;
    kv_digest_init(&sum);
    kv_digest_add(&sum, 0, leaf);
    assert_int_not_equal(kv_digest_end(&sum, len), kv_digest(buffer, len));
    kv_digest_add(&sum, 0, leaf);
    assert_int_not_equal(kv_digest_end(&sum, len), kv_digest(buffer, len));
}

static void digest__force_refuses_unknown_names(void **state)
{
    (void)state;
    assert_int_equal(kv_digest_force("sse9"), -1);
    assert_int_equal(kv_digest_force("portable"), 0);
    assert_string_equal(kv_digest_chosen(), "portable");
    assert_int_equal(kv_digest_force(NULL), 0);
    unsigned last = 0;
    while (kv_digest_impl(last + 1) != NULL) {
        last++;
    }
    assert_string_equal(kv_digest_chosen(), kv_digest_impl(last));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digest__vectors_match_in_every_implementation),
        cmocka_unit_test(digest__implementations_agree_on_any_length_and_alignment),
        cmocka_unit_test(digest__implementations_agree_on_extreme_bytes),
        cmocka_unit_test(digest__leaves_in_any_order_give_the_same_digest),
        cmocka_unit_test(digest__every_flipped_bit_of_a_page_is_found),
        cmocka_unit_test(digest__sparse_leaves_do_not_collide),
        cmocka_unit_test(digest__swapped_words_are_found),
        cmocka_unit_test(digest__swapped_rows_and_leaves_are_found),
        cmocka_unit_test(digest__zeros_of_every_length_differ),
        cmocka_unit_test(digest__missing_or_doubled_leaf_is_found),
        cmocka_unit_test(digest__force_refuses_unknown_names),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
