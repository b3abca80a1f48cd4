#include "tests/pager/pager_kit.h"

#include "base/hash.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void on_order(void *arg, const struct kvp_order *order)
{
    struct kit *kit = arg;
    assert_true(kit->nr_orders < KIT_LOG);
    kit->orders[kit->nr_orders++] = *order;
}

static void on_listed(void *arg, struct kvp_ref ref, uint64_t hold)
{
    struct kit *kit = arg;
    assert_true(hold > kit->last_hold);
    kit->nr_listed++;
    kit->last_listed = ref;
    kit->last_hold = hold;
}

static void on_unlisted(
    void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold)
{
    struct kit *kit = arg;
    (void)segment;
    assert_true(kit->nr_unlisted < KIT_LOG);
    kit->unlisted[kit->nr_unlisted] = *copy;
    kit->unlisted_hold[kit->nr_unlisted++] = hold;
}

static void on_switched(
    void *arg, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    struct kit *kit = arg;
    kit->nr_switched++;
    kit->last_switch = (struct kit_switch){seq, page, was, now};
}

static void on_verified(void *arg, struct kvp_ref ref, kv_status_t status)
{
    struct kit *kit = arg;
    kit->nr_verified++;
    kit->last_verified = (struct kit_end){.ref = ref, .status = status};
}

static void
on_sealed(void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    struct kit *kit = arg;
    kit->nr_sealed++;
    kit->last_sealed = (struct kit_end){.ref = ref, .now = now, .status = status};
}

static void
on_copied(void *arg, struct kvp_ref ref, kv_status_t status, uint64_t computed)
{
    struct kit *kit = arg;
    kit->nr_copied++;
    kit->last_copied =
        (struct kit_end){.ref = ref, .status = status, .computed = computed};
}

static void on_freed(void *arg, struct kvp_ref ref)
{
    struct kit *kit = arg;
    kit->nr_freed++;
    kit->last_freed = ref;
}

void kit_init(struct kit *kit)
{
    memset(kit, 0, sizeof(*kit));
    kit->config = (struct kvp_config){
        .pools =
            {
                {.tier = KVP_DEVICE, .frame_bytes = 4096, .nr_frames = 16},
                {.tier = KVP_HOST, .frame_bytes = 4096, .nr_frames = 32},
            },
        .nr_pools = 2,
        .tenants = {{.id = 10}, {.id = 20}},
        .nr_tenants = 2,
        .variants = {{.layout = 1, .page_tokens = 8, .page_bytes = 4096}},
        .nr_variants = 1,
        .evict = &kvp_evict_lru,
        .nr_sequences = 8,
        .nr_leaves = 8,
        .nr_retired = 16,
        .free_target_divisor = 4,
    };
}

void kit_open(struct kit *kit)
{
    const struct kvp_out out = {
        .arg = kit,
        .order = on_order,
        .listed = on_listed,
        .unlisted = on_unlisted,
        .switched = on_switched,
        .verified = on_verified,
        .sealed = on_sealed,
        .copied = on_copied,
        .freed = on_freed,
    };
    assert_int_equal(kvp_create(&kit->config, &out, &kit->pager, NULL), KV_OK);
    kit_tick(kit, 1000);
}

void kit_close(struct kit *kit)
{
    kvp_check(kit->pager);
    kvp_destroy(kit->pager);
    assert_int_equal(kv_mem_live(), 0);
}

kv_key_t kit_key(uint64_t number)
{
    struct kv_rng rng = kv_rng_seed(number);
    kv_key_t key;

    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        key.b[i] = (uint8_t)kv_rng_next(&rng);
    }
    return key;
}

uint64_t kit_digest(uint64_t number)
{
    return kv_mix64(number + 1);
}

void kit_tick(struct kit *kit, uint64_t us)
{
    kit->now_us += us;
    kvp_now(kit->pager, kit->now_us);
}

void kit_order(struct kit *kit, kv_status_t status, uint64_t computed)
{
    assert_true(kit->nr_orders > 0);
    const uint64_t id = kit->orders[0].id;
    kit->nr_orders--;
    memmove(kit->orders, kit->orders + 1, kit->nr_orders * sizeof(kit->orders[0]));
    assert_int_equal(kvp_order_done(kit->pager, id, status, computed), KV_OK);
}

struct kvp_ref
kit_put(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number)
{
    const kv_key_t key = kit_key(number);
    const struct kvp_place place = {.segment = key};
    struct kvp_ref ref, existing;

    assert_int_equal(kit->nr_orders, 0);
    assert_int_equal(kvp_fill_begin(kit->pager, tenant, 0, tier, 8, &ref), KV_OK);
    while (!kvp_writable(kit->pager, ref)) {
        kit_order(kit, KV_OK, 0);
    }
    assert_int_equal(
        kvp_fill_seal(kit->pager, ref, &key, &place, &existing), KV_SEALING);
    kit_order(kit, KV_OK, kit_digest(number));
    assert_int_equal(kit->last_sealed.status, KV_OK);
    assert_int_equal(kit->last_sealed.now.frame, ref.frame);
    return ref;
}

struct kvp_ref
kit_cache(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number)
{
    const struct kvp_ref ref = kit_put(kit, tenant, tier, number);
    kvp_release(kit->pager, &ref, 1);
    return ref;
}

void kit_seal(struct kit *kit, struct kvp_seq_id seq, uint32_t page, uint64_t number)
{
    const kv_key_t key = kit_key(number);
    const struct kvp_place place = {.segment = key};

    while (kit->nr_orders > 0) {
        kit_order(kit, KV_OK, 0);
    }
    assert_int_equal(kvp_seq_seal(kit->pager, seq, page, &key, &place), KV_SEALING);
    kit_order(kit, KV_OK, kit_digest(number));
}

struct kvp_ref kit_find(struct kit *kit, uint16_t tenant, uint64_t number)
{
    const kv_key_t key = kit_key(number);
    struct kvp_ref ref;

    kvp_lookup(kit->pager, tenant, 0, &key, 1, &ref);
    return ref;
}

bool kit_here(struct kit *kit, uint16_t tenant, uint64_t number)
{
    return kit_find(kit, tenant, number).frame != KVP_NO_FRAME;
}

struct kvp_info kit_info(struct kit *kit, struct kvp_ref ref)
{
    struct kvp_info info;
    struct kvp_glance glance;
    assert_int_equal(kvp_info(kit->pager, ref, &info), KV_OK);
    assert_int_equal(kvp_glance(kit->pager, ref, &glance), KV_OK);
    assert_int_equal(glance.tier, info.tier);
    assert_int_equal(glance.pool, info.pool);
    assert_int_equal(glance.pool_frame, info.pool_frame);
    assert_int_equal(glance.n_tokens, info.n_tokens);
    assert_int_equal(glance.len, info.len);
    assert_int_equal(glance.digest, info.digest);
    assert_int_equal(glance.verifying, info.verifying);
    return info;
}

struct kvp_arrival
kit_arrival(uint16_t tenant, enum kvp_tier tier, uint64_t number, uint64_t last_use_us)
{
    return (struct kvp_arrival){
        .tenant = tenant,
        .tier = tier,
        .key = kit_key(number),
        .n_tokens = 8,
        .place = {.segment = kit_key(number)},
        .peer = KVP_OWN,
        .may_drop = true,
        .last_use_us = last_use_us,
    };
}

struct kvp_ref
kit_fetch(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number)
{
    const struct kvp_arrival arrival = kit_arrival(tenant, tier, number, kit->now_us);
    const uint64_t digest = kit_digest(number);
    struct kvp_ref ref;

    assert_int_equal(kvp_arrive_begin(kit->pager, &arrival, &ref), KV_OK);
    assert_int_equal(
        kvp_arrive_done(kit->pager, &ref, KV_OK, digest, digest, KVP_ARRIVE_USED),
        KV_OK);
    return ref;
}
