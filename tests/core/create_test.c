/* Creation: all of it or nothing. A wrong figure is named with its limit, and memory
 * that runs out at any point leaves nothing behind. */
#include "base/fault.h"
#include "base/mem.h"
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define AT(field)                                                                      \
    offsetof(struct kvo_config, field), sizeof(((struct kvo_config *)0)->field)
#define OVER_32 ((uint64_t)UINT32_MAX + 1)
#define OVER_20 ((1u << 20) + 1)

/* Each bound of the configuration, crossed by one on each side. */
static const struct {
    const char *field;
    size_t at, size;
    uint64_t value, limit;
} bads[] = {
    {"node.incarnation", AT(incarnation), 0, 1},
    {"link.transports", AT(nr_transports), 0, 1},
    {"link.transports", AT(nr_transports), KV_MSG_TRANSPORTS_MAX + 1,
     KV_MSG_TRANSPORTS_MAX},
    {"limits.clients", AT(nr_clients), 0, 1},
    {"limits.clients", AT(nr_clients), KVO_CLIENTS_MAX + 1, KVO_CLIENTS_MAX},
    {"limits.requests", AT(nr_ops), 0, 1},
    {"limits.requests", AT(nr_ops), 65537, 65536},
    {"limits.fetching", AT(nr_items), 0, 1},
    {"limits.fetching", AT(nr_items), OVER_20, OVER_20 - 1},
    {"limits.calls", AT(nr_calls), 0, 1},
    {"limits.calls", AT(nr_calls), OVER_20, OVER_20 - 1},
    {"limits.reads", AT(nr_reads), 0, 1},
    {"limits.reads", AT(nr_reads), OVER_20, OVER_20 - 1},
    {"limits.grants", AT(nr_grants), 0, 1},
    {"limits.grants", AT(nr_grants), OVER_20, OVER_20 - 1},
    {"spill.copies", AT(nr_spills), 0, 1},
    {"spill.copies", AT(nr_spills), 65537, 65536},
    {"directory.sync_items", AT(sync_items), 0, 1},
    {"directory.sync_items", AT(sync_items), KV_MSG_ITEMS_MAX + 1, KV_MSG_ITEMS_MAX},
    {"link.grant", AT(grant_us), 0, 1},
    {"link.grant", AT(grant_us), OVER_32, UINT32_MAX},
    {"link.call", AT(call_us), 0, 1},
    {"link.call", AT(call_us), OVER_32, UINT32_MAX},
    {"link.double", AT(double_us), 0, 1},
    {"link.double", AT(double_us), 50001, 50000}, /* call_us of the kit */
    {"link.read", AT(read_us), 0, 1},
    {"link.read", AT(read_us), OVER_32, UINT32_MAX},
    {"link.revoke", AT(revoke_us), 0, 1},
    {"link.revoke", AT(revoke_us), OVER_32, UINT32_MAX},
    {"spill.deadline", AT(spill_us), 0, 1},
    {"spill.deadline", AT(spill_us), OVER_32, UINT32_MAX},
    {"link.redial", AT(redial_us), 0, 1},
    {"link.redial", AT(redial_us), OVER_32, UINT32_MAX},
    {"link.tick", AT(tick_us), 0, 1},
    {"link.tick", AT(tick_us), 1000001, 1000000}, /* suspect_us of the kit */
    {"pager.tenants", AT(pager.nr_tenants), 0, 1},
    {"pager.tenants", AT(pager.nr_tenants), KVP_TENANTS_MAX + 1, KVP_TENANTS_MAX},
    {"pager.variants", AT(pager.nr_variants), 0, 1},
    {"pager.variants", AT(pager.nr_variants), KVP_VARIANTS_MAX + 1, KVP_VARIANTS_MAX},
    {"cluster.node", AT(node), 9, 1}, /* not in the view of one node */
};

static struct ck ck;

static void expect_refused(const char *field, uint64_t limit, uint64_t value)
{
    struct kv_detail detail = {0};

    assert_int_equal(ck_create(&ck, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, field);
    assert_int_equal(detail.limit, limit);
    assert_int_equal(detail.value, value);
    assert_null(ck.node); /* written only on success */
    assert_int_equal(kv_mem_live(), 0);
}

static void create__every_bound_is_kept_and_named(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
        ck_init(&ck);
        uint8_t *field = (uint8_t *)&ck.config + bads[i].at;
        const uint32_t word = (uint32_t)bads[i].value;
        if (bads[i].size == sizeof(word)) {
            memcpy(field, &word, sizeof(word));
        } else {
            assert_int_equal(bads[i].size, sizeof(bads[i].value));
            memcpy(field, &bads[i].value, sizeof(bads[i].value));
        }
        expect_refused(bads[i].field, bads[i].limit, bads[i].value);
    }
}

static void create__names_have_a_length(void **state)
{
    (void)state;
    char name[KV_MSG_TEXT_MAX + 2];

    memset(name, 'a', sizeof(name));
    name[KV_MSG_TEXT_MAX + 1] = '\0';
    ck_init(&ck);
    ck.config.cluster = "";
    expect_refused("cluster.name", 1, 0);
    ck.config.cluster = name;
    expect_refused("cluster.name", KV_MSG_TEXT_MAX, KV_MSG_TEXT_MAX + 1);
    name[KV_MSG_TEXT_MAX] = '\0';
    ck_open(&ck);
    ck_close(&ck);
}

static void create__members_have_a_weight(void **state)
{
    (void)state;
    static const uint32_t weights[] = {0, KVC_WEIGHT_MAX + 1};

    ck_init(&ck);
    for (unsigned i = 0; i < 2; i++) {
        const struct kvc_member member = {.id = 1, .weight = weights[i]};
        struct kv_detail detail = {0};
        assert_int_equal(
            kvc_view_build(&ck.view, 2, &member, 1, &detail), KV_ERR_CONFIG);
        assert_string_equal(detail.field, "node.weight");
        assert_int_equal(detail.value, weights[i]);
    }
    ck_open(&ck); /* a refused list left the view whole */
    ck_close(&ck);
}

/* What the parts refuse comes back as theirs, and what was there already goes. */
static void create__parts_refuse_their_own(void **state)
{
    (void)state;
    struct kv_detail detail;

    ck_init(&ck);
    ck.config.liveness.lost_us = ck.config.liveness.suspect_us;
    assert_int_equal(ck_create(&ck, &detail), KV_ERR_CONFIG);
    assert_memory_equal(detail.field, "liveness.", 9);
    ck_init(&ck);
    ck.config.pager.nr_pools = 0;
    assert_int_equal(ck_create(&ck, &detail), KV_ERR_CONFIG);
    assert_memory_equal(detail.field, "pager.", 6);
    ck_init(&ck);
    ck.config.directory.nr_entries = 0;
    assert_int_equal(ck_create(&ck, &detail), KV_ERR_CONFIG);
    assert_memory_equal(detail.field, "directory.", 10);
    assert_null(ck.node);
    assert_int_equal(kv_mem_live(), 0);
}

/* Fail the 1st, 2nd, 3rd … allocation until creation succeeds. */
static void create__survives_every_fault(void **state)
{
    (void)state;
    kv_status_t status = KV_ERR_NOMEM;
    uint64_t n = 0;

    ck_init(&ck);
    while (status != KV_OK) {
        struct kv_detail detail;
        kv_fault_after(++n);
        status = ck_create(&ck, &detail);
        kv_fault_after(0);
        assert_true(status == KV_OK || status == KV_ERR_NOMEM);
        assert_int_equal(status == KV_OK, ck.node != NULL);
        assert_true(status == KV_OK || kv_mem_live() == 0);
        assert_true(n < 1000);
    }
    assert_true(n > 30); /* node, pager, directory, tables: each failed once */
    ck_close(&ck);
}

/* HELLO is said again and again: one that cannot be encoded would never make a link. */
static void create__transports_can_be_said(void **state)
{
    (void)state;
    const struct kvo_transport right = {.kind = KVO_NAMED, .name = "tcp"};
    struct kvo_transport *t = &ck.config.transports[0];
    ck_init(&ck);
    t->name[0] = '\0';
    expect_refused("transports.name", 1, 0);
    memset(t->name, 'x', sizeof(t->name));
    expect_refused("transports.name", KV_MSG_TEXT_MAX, sizeof(t->name));
    *t = right;
    memset(t->address, 'x', sizeof(t->address));
    expect_refused("transports.address", KV_MSG_PLACE_MAX, sizeof(t->address));
    *t = right;
    t->domain[0] = '\n';
    expect_refused("transports.domain", 0x20, '\n');
    *t = right;
    t->kind = KVO_NR_KINDS;
    expect_refused("transports.kind", KVO_NR_KINDS - 1, KVO_NR_KINDS);
    *t = right;
    memset(t->domain, 'x', KV_MSG_PLACE_MAX);
    ck_open(&ck);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create__every_bound_is_kept_and_named),
        cmocka_unit_test(create__names_have_a_length),
        cmocka_unit_test(create__members_have_a_weight),
        cmocka_unit_test(create__transports_can_be_said),
        cmocka_unit_test(create__parts_refuse_their_own),
        cmocka_unit_test(create__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
