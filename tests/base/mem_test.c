/* Pools are sized once and used for ever: memory is zeroed, aligned for SIMD, counted,
 * and the n-th allocation can be made to fail so that every unwind path runs. */
#include "base/fault.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void mem__blocks_are_aligned_zeroed_and_counted(void **state)
{
    (void)state;
    void *blocks[64];
    const int64_t live = kv_mem_live(), bytes = kv_mem_live_bytes();
    int64_t total = 0;
    for (size_t i = 0; i < 64; i++) {
        const size_t size = i * i * 3 + 1;
        blocks[i] = kv_calloc(size, 1);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        for (size_t k = 0; k < size; k++) {
            assert_int_equal(((uint8_t *)blocks[i])[k], 0);
        }
        memset(blocks[i], 0xee, size);
        total += (int64_t)size;
    }
    assert_int_equal(kv_mem_live(), live + 64);
    assert_int_equal(kv_mem_live_bytes(), bytes + total);
    for (size_t i = 0; i < 64; i++) {
        kv_free(blocks[i]);
    }
    kv_free(NULL);
    assert_int_equal(kv_mem_live(), live);
    assert_int_equal(kv_mem_live_bytes(), bytes);
}

static void mem__empty_allocation_is_valid(void **state)
{
    (void)state;
    void *a = kv_calloc(0, 8), *b = kv_calloc(8, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_ptr_not_equal(a, b);
    kv_free(a);
    kv_free(b);
}

/* Counts come from configuration and peers: a product that wraps must not be small. */
static void mem__overflow_gives_null(void **state)
{
    (void)state;
    const int64_t live = kv_mem_live();
    assert_null(kv_calloc(SIZE_MAX, 2));
    assert_null(kv_calloc(SIZE_MAX / 2 + 1, 2));
    assert_null(kv_calloc(SIZE_MAX, 1));
    assert_null(kv_calloc(1, SIZE_MAX - 64));
    assert_int_equal(kv_mem_live(), live);
}

static void mem__nth_allocation_fails_once(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 4; n++) {
        kv_fault_after(n);
        for (unsigned i = 1; i <= 6; i++) {
            void *p = kv_calloc(1, 1);
            assert_true((p == NULL) == (i == n));
            kv_free(p);
        }
    }
    kv_fault_after(2);
    kv_fault_after(0);
    for (unsigned i = 0; i < 4; i++) {
        void *p = kv_calloc(1, 1);
        assert_non_null(p);
        kv_free(p);
    }
}

/* --plant takes a name, and a misspelt one must not plant something else. */
static void plant__names_are_found_and_switch(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_PLANTS; i++) {
        const enum kv_plant plant = (enum kv_plant)i;
        assert_int_equal(kv_plant_find(kv_plant_name(plant)), plant);
        assert_true(strlen(kv_plant_text(plant)) > 0);
        assert_false(kv_plant_on(plant));
        kv_plant_set(plant, true);
        assert_true(KV_PLANTED(plant));
        kv_plant_set(plant, false);
        assert_false(KV_PLANTED(plant));
    }
    assert_int_equal(kv_plant_find("no-such-bug"), KV_NR_PLANTS);
    assert_null(kv_plant_name(KV_NR_PLANTS));
    assert_null(kv_plant_text(KV_NR_PLANTS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mem__blocks_are_aligned_zeroed_and_counted),
        cmocka_unit_test(mem__empty_allocation_is_valid),
        cmocka_unit_test(mem__overflow_gives_null),
        cmocka_unit_test(mem__nth_allocation_fails_once),
        cmocka_unit_test(plant__names_are_found_and_switch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
