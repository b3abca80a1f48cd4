/* The diagram of frame.h is the table that frame_move() obeys: an edge that is not
 * drawn is not allowed. And a pager is built whole or not at all: every wrong field of
 * the configuration is named, every allocation may fail. */
#include "base/fault.h"
#include "base/mem.h"
#include "pager/pager_priv.h"
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void frame__table_has_the_drawn_edges_and_no_others(void **state)
{
    (void)state;
    unsigned nr = 0;

    for (unsigned from = 0; from < KVP_NR_STATES + 2; from++) {
        for (unsigned to = 0; to < KVP_NR_STATES + 2; to++) {
            nr += kvp_edge_allowed(from, to);
        }
    }
#define X(from, to) assert_true(kvp_edge_allowed(from, to));
    KVP_FRAME_EDGES(X)
#undef X
#define X(from, to) +1
    assert_int_equal(nr, 0 KVP_FRAME_EDGES(X));
#undef X
    /* What would break a promise, one by one. */
    assert_false(kvp_edge_allowed(KVP_FREE, KVP_SEALED));
    assert_false(kvp_edge_allowed(KVP_SEALED, KVP_FREE));
    assert_false(kvp_edge_allowed(KVP_SEALED, KVP_FILLING));
    assert_false(kvp_edge_allowed(KVP_LEAVING, KVP_FREE));
    assert_false(kvp_edge_allowed(KVP_ARRIVING, KVP_FREE));
    assert_false(kvp_edge_allowed(KVP_QUARANTINE, KVP_SEALED));
}

static void frame__states_have_names(void **state)
{
    (void)state;
    assert_string_equal(kvp_state_name(KVP_FREE), "free");
    assert_string_equal(kvp_state_name(KVP_QUARANTINE), "quarantine");
    assert_string_equal(kvp_state_name(KVP_NR_STATES), "unknown");
}

/* (8): whoever kept a name of the old content is told so. */
static void frame__freed_frame_never_answers_to_its_old_name(void **state)
{
    (void)state;
    struct kit kit;
    struct kvp_ref first, again;
    struct kvp_info info;
    struct kvp_glance glance;

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &first), KV_OK);
    kvp_fill_abort(kit.pager, first, false);
    assert_int_equal(kit.nr_freed, 1);
    assert_int_equal(kit.last_freed.gen, first.gen);
    assert_int_equal(kvp_info(kit.pager, first, &info), KV_ERR_STALE);
    assert_int_equal(kvp_glance(kit.pager, first, &glance), KV_ERR_STALE);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &again), KV_OK);
    assert_int_equal(again.frame, first.frame);
    assert_true(again.gen > first.gen);
    assert_int_equal(kvp_retain(kit.pager, first), KV_ERR_STALE);
    kit_close(&kit);
}

static void refuse(struct kit *kit, const char *field)
{
    const struct kvp_out out = {0};
    struct kv_detail detail = {0};
    kvp_pager_t *pager = NULL;

    assert_int_equal(kvp_create(&kit->config, &out, &pager, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, field);
    assert_null(pager);
    assert_int_equal(kv_mem_live(), 0);
    kit_init(kit);
}

static void create__every_wrong_field_is_named(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit.config.nr_pools = 0;
    refuse(&kit, "pager.pools");
    kit.config.pools[1].frame_bytes = 1000;
    refuse(&kit, "pager.pools.frame_bytes");
    kit.config.pools[1].nr_frames = 0;
    refuse(&kit, "pager.pools.nr_frames");
    kit.config.pools[1].tier = KVP_NR_TIERS;
    refuse(&kit, "pager.pools.tier");
    kit.config.pools[1].tier = KVP_DEVICE;
    refuse(&kit, "pager.pools.twice");
    kit.config.nr_tenants = KVP_TENANTS_MAX + 1;
    refuse(&kit, "pager.tenants");
    kit.config.tenants[1].id = 10;
    refuse(&kit, "pager.tenants.id");
    kit.config.tenants[1].domain = 5;
    refuse(&kit, "pager.tenants.domain");
    kit.config.nr_variants = 0;
    refuse(&kit, "pager.variants");
    kit.config.variants[0].page_tokens = 0;
    refuse(&kit, "pager.variants.page_tokens");
    kit.config.variants[0].page_bytes = 300;
    refuse(&kit, "pager.variants.page_bytes");
    kit.config.variants[0].page_bytes = 8192;
    refuse(&kit, "pager.variants.page_bytes");
    kit.config.variants[1] = kit.config.variants[0];
    kit.config.nr_variants = 2;
    refuse(&kit, "pager.variants.twice");
    kit.config.evict = NULL;
    refuse(&kit, "pager.evict");
    kit.config.verify_local = KVP_VERIFY_SAMPLE;
    refuse(&kit, "pager.verify_sample");
    kit.config.nr_sequences = UINT32_MAX;
    refuse(&kit, "pager.nr_sequences");
}

static void create__survives_every_failed_allocation(void **state)
{
    (void)state;
    const struct kvp_out out = {0};
    kvp_pager_t *pager = NULL;
    struct kit kit;
    uint64_t n = 0;

    kit_init(&kit);
    while (pager == NULL) {
        kv_fault_after(++n);
        const kv_status_t status = kvp_create(&kit.config, &out, &pager, NULL);
        assert_int_equal(status, pager != NULL ? KV_OK : KV_ERR_NOMEM);
        assert_true(pager != NULL || kv_mem_live() == 0);
    }
    kv_fault_after(0);
    assert_true(n > 15); /* one for each array */
    kvp_check(pager);
    kvp_destroy(pager);
    kvp_destroy(NULL);
    assert_int_equal(kv_mem_live(), 0);
}

static void config__answers_are_found_by_id(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit_open(&kit);
    assert_int_equal(kvp_tenant(kit.pager, 20), 1);
    assert_int_equal(kvp_tenant(kit.pager, 21), UINT16_MAX);
    assert_int_equal(kvp_variant(kit.pager, 1, 0, 0), 0);
    assert_int_equal(kvp_variant(kit.pager, 1, 0, 1), UINT16_MAX);
    assert_int_equal(kvp_copy_len(kit.pager, 0, 8), 4096);
    assert_int_equal(kvp_copy_len(kit.pager, 0, 1), 512);
    assert_int_equal(kvp_nr_frames(kit.pager), 48);
    kit_close(&kit);
}

/* 4096 bytes over 7 tokens does not divide: rounded up, and a full page is exact. */
static void copy_len__is_in_proportion_and_aligned(void **state)
{
    (void)state;
    struct kit kit;

    kit_init(&kit);
    kit.config.variants[0].page_tokens = 7;
    kit_open(&kit);
    for (uint32_t n = 1; n <= 7; n++) {
        const uint32_t len = kvp_copy_len(kit.pager, 0, n);
        assert_int_equal(len % KVP_ALIGN, 0);
        assert_true((uint64_t)len * 7 >= (uint64_t)4096 * n && len <= 4096);
    }
    assert_int_equal(kvp_copy_len(kit.pager, 0, 7), 4096);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame__table_has_the_drawn_edges_and_no_others),
        cmocka_unit_test(frame__states_have_names),
        cmocka_unit_test(frame__freed_frame_never_answers_to_its_old_name),
        cmocka_unit_test(create__every_wrong_field_is_named),
        cmocka_unit_test(create__survives_every_failed_allocation),
        cmocka_unit_test(config__answers_are_found_by_id),
        cmocka_unit_test(copy_len__is_in_proportion_and_aligned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
