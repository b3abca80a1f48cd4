/* The index leads to a copy by its whole name: full key, tenant and variant. Entries
 * shift back when one is removed, so that every chain stays whole; random insertion and
 * removal in a table that is as full as it may be shows it. */
#include "base/hash.h"
#include "base/mem.h"
#include "pager/index.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { ENTRIES = 1000 };

static struct kvp_frame frames[ENTRIES];
static const uint64_t seed[2] = {12345, 67890};

static void fill_frames(void)
{
    struct kv_rng rng = kv_rng_seed(3);

    for (uint32_t i = 0; i < ENTRIES; i++) {
        frames[i] = (struct kvp_frame){
            .tenant = (uint16_t)(i % 3),
            .variant = (uint16_t)(i % 2),
        };
        for (unsigned b = 0; b < KV_KEY_BYTES; b++) {
            frames[i].key.b[b] = (uint8_t)kv_rng_next(&rng);
        }
    }
}

static struct kvp_index_salt salt_of(uint32_t i)
{
    return kvp_index_salt(seed, frames[i].tenant, frames[i].variant);
}

static void index__random_changes_keep_every_entry_found(void **state)
{
    (void)state;
    struct kvp_index index;
    struct kv_rng rng = kv_rng_seed(8);
    static bool in[ENTRIES];

    fill_frames();
    assert_int_equal(kvp_index_init(&index, ENTRIES), KV_OK);
    for (uint32_t step = 0; step < 200000; step++) {
        const uint32_t i = (uint32_t)kv_rng_below(&rng, ENTRIES);
        const struct kvp_index_salt salt = salt_of(i);
        const uint32_t tag = kvp_index_tag(&salt, &frames[i].key);
        const uint32_t found = kvp_index_find(&index, frames, &salt, &frames[i].key);
        assert_int_equal(found, in[i] ? i : KVP_NO_FRAME);
        if (in[i]) {
            kvp_index_remove(&index, tag, i);
        } else {
            kvp_index_add(&index, tag, i);
        }
        in[i] = !in[i];
        if (step % 5000 == 0) {
            kvp_index_check(&index);
        }
    }
    kvp_index_fini(&index);
    assert_int_equal(kv_mem_live(), 0);
}

/* Keys that share a tag, or differ in the last byte alone, or in the tenant alone. */
static void index__a_tag_is_only_a_hint(void **state)
{
    (void)state;
    struct kvp_index index;

    fill_frames();
    assert_int_equal(kvp_index_init(&index, ENTRIES), KV_OK);
    frames[1] = frames[0];
    frames[1].key.b[KV_KEY_BYTES - 1] ^= 1;
    const struct kvp_index_salt salt = salt_of(0);
    const uint32_t tag = kvp_index_tag(&salt, &frames[0].key);
    kvp_index_add(&index, tag, 0);
    assert_int_equal(tag, kvp_index_tag(&salt, &frames[1].key));
    assert_int_equal(
        kvp_index_find(&index, frames, &salt, &frames[1].key), KVP_NO_FRAME);
    kvp_index_add(&index, tag, 1);
    assert_int_equal(kvp_index_find(&index, frames, &salt, &frames[1].key), 1);
    kvp_index_remove(&index, tag, 0);
    assert_int_equal(kvp_index_find(&index, frames, &salt, &frames[1].key), 1);
    kvp_index_replace(&index, tag, 1, 0);
    assert_int_equal(kvp_index_find(&index, frames, &salt, &frames[0].key), 0);
    for (uint16_t tenant = 1; tenant < 50; tenant++) {
        const struct kvp_index_salt other =
            kvp_index_salt(seed, tenant, frames[0].variant);
        assert_int_equal(
            kvp_index_find(&index, frames, &other, &frames[0].key), KVP_NO_FRAME);
    }
    kvp_index_fini(&index);
}

/* At half load a chain is short; without it a probe is not one line. */
static void index__chains_stay_short_at_full_load(void **state)
{
    (void)state;
    struct kvp_index index;
    uint64_t steps = 0;

    fill_frames();
    assert_int_equal(kvp_index_init(&index, ENTRIES), KV_OK);
    assert_true((uint64_t)index.mask + 1 >= 2 * (uint64_t)ENTRIES);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        const struct kvp_index_salt salt = salt_of(i);
        kvp_index_add(&index, kvp_index_tag(&salt, &frames[i].key), i);
    }
    for (uint32_t i = 0; i <= index.mask; i++) {
        if (index.slots[i].frame != KVP_NO_FRAME) {
            steps += (i - (index.slots[i].tag >> index.shift)) & index.mask;
        }
    }
    assert_true(steps < ENTRIES); /* expected: half a step an entry */
    kvp_index_fini(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index__random_changes_keep_every_entry_found),
        cmocka_unit_test(index__a_tag_is_only_a_hint),
        cmocka_unit_test(index__chains_stay_short_at_full_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
