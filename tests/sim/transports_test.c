/* How each pair reads is what both can do, and each direction of it is its reader's
 * choice. Three nodes of mix KVS_DOMAINS: n1 and n3 are on one host, n2 on another; n3
 * reads by name first, wherever the owner is. */
#include "tests/sim/sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct kvs_config hosts(void)
{
    struct kvs_config config;
    kvs_preset(&config);
    config.mix = KVS_DOMAINS;
    return config;
}

struct reads {
    uint64_t named, granted;
};

static struct reads reads_of(struct sim *sim)
{
    const struct kvs_stats *stats = kvs_stats(sim->world);
    return (struct reads){
        stats->orders[KVO_ORDER_READ_NAMED], stats->orders[KVO_ORDER_READ_GRANT]};
}

/* The page is put at `owner`, and got at `reader`, once. */
static struct reads
read_one(struct sim *sim, uint32_t owner, uint32_t reader, const char *name)
{
    assert_int_equal(sim_put(sim, owner, name), KV_OK);
    sim_run(sim, 20000);
    const struct reads before = reads_of(sim);
    assert_int_equal(sim_get(sim, reader, name), KV_OK);
    assert_int_equal(sim->clients[reader].place, KVO_FROM_PEER);
    const struct reads after = reads_of(sim);
    return (struct reads){after.named - before.named, after.granted - before.granted};
}

static void domains__one_host_reads_under_grants_others_by_name(void **state)
{
    (void)state;
    const struct kvs_config config = hosts();
    struct sim sim;
    sim_start(&sim, &config);
    struct reads reads = read_one(&sim, 3, 1, "a");
    assert_int_equal(reads.granted, 1);
    assert_int_equal(reads.named, 0);
    reads = read_one(&sim, 1, 3, "b"); /* back: n3's choice */
    assert_int_equal(reads.granted, 0);
    assert_int_equal(reads.named, 1);
    reads = read_one(&sim, 2, 1, "c");
    assert_int_equal(reads.granted, 0);
    assert_int_equal(reads.named, 1);
    reads = read_one(&sim, 1, 2, "d");
    assert_int_equal(reads.granted, 0);
    assert_int_equal(reads.named, 1);
    sim_end(&sim);
}

/* On the same link, by both ways: what lies where the reader cannot map it is named. */
static void named_pools__are_named_on_a_link_of_grants(void **state)
{
    (void)state;
    struct kvs_config config = hosts();
    config.named_device = true;
    config.host_frames = 0; /* put on the device */
    struct sim sim;
    sim_start(&sim, &config);
    struct reads reads = read_one(&sim, 3, 1, "a");
    assert_int_equal(reads.granted, 0);
    assert_int_equal(reads.named, 1);
    struct kvs_counts counts;
    kvs_counts(sim.world, &counts);
    assert_int_equal(counts.metrics.grants_given, 0);
    assert_true(counts.metrics.grants_by_name > 0);
    sim_end(&sim);

    config.host_frames = 64; /* put in the host tier, which can be mapped */
    sim_start(&sim, &config);
    reads = read_one(&sim, 3, 1, "a");
    assert_int_equal(reads.granted, 1);
    assert_int_equal(reads.named, 0);
    sim_end(&sim);
}

/* A home gives grants on its own copies with FOUND; the reader may ask another holder,
 * a newer one. What it does not use goes back at once: kept, it would hold one of the
 * few frames that may be kept so, until it is revoked. */
static void found_grants__that_are_not_used_go_back(void **state)
{
    (void)state;
    struct kvs_config config;
    kvs_preset(&config);
    config.mix = KVS_ALL_ONE_SIDED;
    config.core.grant_us = 100000;
    struct sim sim;
    sim_start(&sim, &config);
    assert_int_equal(sim_put(&sim, 1, "page"), KV_OK); /* n1 is its home */
    sim_run(&sim, 20000);
    assert_int_equal(sim_get(&sim, 2, "page"), KV_OK);
    sim_run(&sim, 20000);
    assert_int_equal(sim_get(&sim, 3, "page"), KV_OK);
    sim_run(&sim, 500000);
    struct kvs_counts counts;
    kvs_counts(sim.world, &counts);
    assert_int_equal(counts.metrics.grants_read, 2);
    assert_int_equal(counts.metrics.grants_given, 3); /* one for nothing */
    assert_int_equal(counts.metrics.revokes, 0);
    sim_end(&sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(domains__one_host_reads_under_grants_others_by_name),
        cmocka_unit_test(named_pools__are_named_on_a_link_of_grants),
        cmocka_unit_test(found_grants__that_are_not_used_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
