/* Small stories of a cluster, told by its own trace. Each says what a person would
 * expect to read; a change of these lines is a change of the protocol's life. */
#include "tests/sim/sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static struct kvs_config three_nodes(void)
{
    struct kvs_config config;
    kvs_preset(&config);
    config.seed = 7;
    return config;
}

/* A page that one node has put is found through its home and read by name. */
static void fetch__page_of_a_peer_is_found_and_read(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    struct sim sim;
    sim_start(&sim, &config);
    assert_int_equal(sim_put(&sim, 1, "page"), KV_OK);
    sim_run(&sim, 10000);
    assert_int_equal(sim_get(&sim, 3, "page"), KV_OK);
    assert_int_equal(sim.clients[3].place, KVO_FROM_PEER);
    assert_int_equal(sim_get(&sim, 3, "page"), KV_OK);
    assert_int_not_equal(sim.clients[3].place, KVO_FROM_PEER); /* it is here now */
    assert_int_equal(sim_get(&sim, 2, "other"), KV_ERR_MISS);
    assert_int_equal(sim.clients[2].reason, KV_MISS_NOT_FOUND);
    sim_expect(
        &sim,
        "[    21.096] n1 > n2 publish pos 3 items 1\n"
        "[    22.096] n2 > n1 published pos 3 statuses 1\n"
        "[    31.106] n3 > lookup n1 segments 1 keys 1\n"
        "[    31.106] n3 > n1 lookup tenant 100 wants 1 segs 1\n"
        "[    32.106] n1 > n3 found runs 1\n"
        "[    33.106] n3 > n1 read data_gen 1 copies 1\n"
        "[    34.152] n1 > n3 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "11933922159563174139\n"
        "[    34.153] n1 > n2 publish pos 4 items 1\n"
        "[    35.153] n2 > n1 published pos 4 statuses 1\n"
        "[    35.175] n3 > n1 publish pos 3 items 1\n"
        "[    35.175] n3 > n2 publish pos 3 items 1\n");
    sim_end(&sim);
}

/* The owner dies between look-up and read: the reader ends in a miss with its reason,
 * never in bytes of another page. */
static void fetch__owner_dies_while_it_sends(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    struct sim sim;
    sim_start(&sim, &config);
    assert_int_equal(sim_put(&sim, 1, "page"), KV_OK);
    sim_run(&sim, 10000);
    kvs_slow_fabric(sim.world, 0, 10000);
    sim_ask(&sim, 3, KVO_GET, "page");
    sim_run(&sim, 6000);
    kvs_kill(sim.world, 0);
    assert_int_equal(sim_wait(&sim, 3), KV_ERR_MISS);
    assert_int_equal(sim.clients[3].reason, KV_MISS_PEER_LOST);
    sim_run(&sim, 100000);
    sim_expect(
        &sim,
        "[    21.096] n1 > n2 publish pos 3 items 1\n"
        "[    22.096] n2 > n1 published pos 3 statuses 1\n"
        "[    31.106] n3 > lookup n1 segments 1 keys 1\n"
        "[    31.106] n3 > n1 lookup tenant 100 wants 1 segs 1\n"
        "[    32.106] n1 > n3 found runs 1\n"
        "[    33.106] n3 > n1 read data_gen 1 copies 1\n"
        "[    37.101] n1 ! killed\n"
        "[    45.688] n2 > link n1 ended link_lost\n"
        "[    45.688] n2 > fence n1 in\n"
        "[    45.688] n2 > fence n1 out\n"
        "[    47.426] n3 > link n1 ended link_lost\n"
        "[    47.426] n3 > fence n1 in\n"
        "[    47.426] n3 > fence n1 out\n");
    sim_end(&sim);
}

/* A read under a grant that takes longer than the grant: the owner asks for it back,
 * and the frame stays until the reader has answered. */
static void grant__outlived_by_its_read_is_revoked(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    config.mix = KVS_ALL_ONE_SIDED;
    config.core.grant_us = 20000;
    config.core.revoke_us = 500000;
    struct sim sim;
    sim_start(&sim, &config);
    assert_int_equal(sim_put(&sim, 1, "page"), KV_OK);
    sim_run(&sim, 10000);
    kvs_slow_fabric(sim.world, 0, 3000);
    sim_ask(&sim, 3, KVO_GET, "page");
    sim_run(&sim, 8000);
    sim_ask(&sim, 1, KVO_DROP, "page");
    assert_int_equal(sim_wait(&sim, 1), KV_OK);
    assert_int_equal(sim_wait(&sim, 3), KV_OK);
    sim_run(&sim, 100000);
    sim_expect(
        &sim,
        "[    21.096] n1 > n2 publish pos 3 items 1\n"
        "[    22.096] n2 > n1 published pos 3 statuses 1\n"
        "[    31.106] n3 > lookup n1 segments 1 keys 1\n"
        "[    31.106] n3 > n1 lookup tenant 100 grants_max 256 wants 1 segs 1\n"
        "[    32.106] n1 > n3 found runs 1 grants 1\n"
        "[    39.106] n1 > n2 withdraw pos 4 items 1\n"
        "[    52.106] n1 > revoke n3\n"
        "[    52.106] n1 > n3 revoke ids 1\n"
        "[   172.127] n3 > n1 revoked ids 1\n"
        "[   172.127] n3 > n1 publish pos 3 items 1\n"
        "[   172.127] n3 > n2 publish pos 3 items 1\n"
        "[   173.127] n1 > n3 published pos 3 statuses 1\n"
        "[   173.127] n2 > n3 published pos 3 statuses 1\n");
    sim_end(&sim);
}

/* The second of two equal pages is switched to the first; its own frame stays until the
 * engine confirms, because kernels in flight read it. */
static void dedup__engines_frame_stays_until_confirm(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    struct sim sim;
    sim_start(&sim, &config);
    struct kvp_seq_id first = sim_seq(&sim, 1), second = sim_seq(&sim, 1);
    struct kvp_ref a = sim_seq_write(&sim, 1, first, "page");
    struct kvp_ref b = sim_seq_write(&sim, 1, second, "page");
    assert_int_equal(sim_seq_seal(&sim, 1, first, "page"), KV_SEALING);
    sim_run(&sim, 5000);
    assert_int_equal(sim_state(&sim, 1, a), KVP_SEALED);
    assert_int_equal(sim_seq_seal(&sim, 1, second, "page"), KV_EXISTS);
    sim_run(&sim, 5000);
    assert_int_equal(sim.clients[1].nr_switched, 1);
    assert_int_not_equal(sim_state(&sim, 1, b), KVP_FREE);
    assert_int_equal(sim_seq_op(&sim, 1, KVO_SEQ_CONFIRM, second), KV_OK);
    assert_int_equal(sim_state(&sim, 1, b), KVP_FREE);
    assert_int_equal(sim_seq_op(&sim, 1, KVO_SEQ_END, first), KV_OK);
    assert_int_equal(sim_seq_op(&sim, 1, KVO_SEQ_END, second), KV_OK);
    assert_int_equal(sim_state(&sim, 1, a), KVP_SEALED);
    sim_end(&sim);
}

/* A client's fence is its death: what a hung-up process could still write is not used
 * again before. */
static void client__frames_wait_for_its_death(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    struct sim sim;
    sim_start(&sim, &config);
    struct kvp_seq_id seq = sim_seq(&sim, 2);
    struct kvp_ref ref = sim_seq_write(&sim, 2, seq, "half");
    kvs_hang_up(sim.world, sim.clients[2].client, 50000);
    sim_run(&sim, 40000);
    assert_int_not_equal(sim_state(&sim, 2, ref), KVP_FREE);
    sim_run(&sim, 20000);
    assert_int_equal(sim_state(&sim, 2, ref), KVP_FREE);
    sim_end(&sim);
}

/* Three nodes of 16 frames, of which four are to be free. */
static void start_small(struct sim *sim)
{
    struct kvs_config config = three_nodes();
    config.device_frames = 16;
    config.host_frames = 0;
    config.core.pager.free_target_divisor = 4;
    sim_start(sim, &config);
}

static void put_pages(struct sim *sim, uint32_t node, char series, unsigned n)
{
    char name[16];
    for (unsigned i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "%c%u", series, i);
        assert_int_equal(sim_put(sim, node, name), KV_OK);
        sim_run(sim, 1000);
    }
}

/* A full node offers its coldest page to the homes of its segment, and gives it up when
 * one has taken it: it is found there. */
static void spill__coldest_page_is_taken_and_found(void **state)
{
    (void)state;
    struct sim sim;
    start_small(&sim);
    put_pages(&sim, 1, 'p', 13);
    sim_skip(&sim);
    sim_run(&sim, 100000);
    sim_expect(
        &sim,
        "[    40.000] n1 > offer n3 copies 1\n"
        "[    40.000] n1 > n3 spill_offer items 1 stream_pos 10\n"
        "[    41.000] n3 > n1 spill_answer statuses 1 reach_us 18446744073709551615\n"
        "[    41.000] n3 > n1 read data_gen 1 copies 1\n"
        "[    42.048] n1 > n3 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "10301792593519692031\n"
        "[    43.093] n3 > n1 publish pos 3 items 1\n"
        "[    43.093] n3 > n1 spill_done items 1\n"
        "[    44.093] n1 > n3 published pos 3 statuses 1\n"
        "[    44.093] n1 > n3 withdraw pos 11 items 1\n");
    assert_int_equal(sim_get(&sim, 1, "p0"), KV_OK);
    assert_int_equal(sim.clients[1].place, KVO_FROM_PEER);
    sim_end(&sim);
}

/* A page that is spilled between look-up and read is looked up once more, and read
 * where it is now. */
static void fetch__page_that_moved_meanwhile_is_found_again(void **state)
{
    (void)state;
    struct sim sim;
    start_small(&sim);
    put_pages(&sim, 1, 'p', 13);
    sim_skip(&sim);
    sim_run(&sim, 6000);
    sim_ask(&sim, 2, KVO_GET, "p0");
    assert_int_equal(sim_wait(&sim, 2), KV_OK);
    assert_int_equal(sim.clients[2].place, KVO_FROM_PEER);
    sim_expect(
        &sim,
        "[    40.000] n1 > offer n3 copies 1\n"
        "[    40.000] n1 > n3 spill_offer items 1 stream_pos 10\n"
        "[    41.000] n3 > n1 spill_answer statuses 1 reach_us 18446744073709551615\n"
        "[    41.000] n3 > n1 read data_gen 1 copies 1\n"
        "[    41.120] n2 > lookup n1 segments 1 keys 1\n"
        "[    41.120] n2 > n1 lookup tenant 100 wants 1 segs 1\n"
        "[    42.048] n1 > n3 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "10301792593519692031\n"
        "[    42.120] n1 > n2 found runs 1\n"
        "[    43.093] n3 > n1 publish pos 3 items 1\n"
        "[    43.093] n3 > n1 spill_done items 1\n"
        "[    43.120] n2 > n1 read data_gen 1 copies 1\n"
        "[    44.093] n1 > n3 published pos 3 statuses 1\n"
        "[    44.093] n1 > n3 withdraw pos 11 items 1\n"
        "[    44.166] n1 > n2 data data_gen 1 status miss\n"
        "[    45.167] n2 > lookup n1 segments 1 keys 1\n"
        "[    45.167] n2 > n1 lookup tenant 100 wants 1 segs 1\n"
        "[    46.167] n1 > n2 found runs 1\n"
        "[    47.167] n2 > n3 read data_gen 1 copies 1\n"
        "[    48.202] n3 > n2 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "10301792593519692031\n"
        "[    48.203] n3 > n1 publish pos 4 items 1\n"
        "[    49.203] n1 > n3 published pos 4 statuses 1\n"
        "[    49.239] n2 > n1 publish pos 3 items 1\n"
        "[    49.239] n2 > n3 publish pos 3 items 1\n");
    sim_end(&sim);
}

/* Two peers are as full as we are. The one whose coldest page has lain longest is to
 * take ours; a first home that remembers less refuses in its favour. */
static void spill__goes_where_memory_reaches_back_furthest(void **state)
{
    (void)state;
    struct sim sim;
    start_small(&sim);
    put_pages(&sim, 2, 'a', 12);
    sim_run(&sim, 1000000);
    put_pages(&sim, 3, 'b', 12);
    sim_run(&sim, 1000000);
    put_pages(&sim, 1, 'q', 14);
    sim_skip(&sim);
    sim_run(&sim, 30000);
    sim_expect(
        &sim,
        "[  2080.000] n1 > offer n2 copies 1\n"
        "[  2080.000] n1 > n2 spill_offer items 1 stream_pos 10\n"
        "[  2080.000] n1 > offer n3 copies 1\n"
        "[  2080.000] n1 > n3 spill_offer items 1 stream_pos 12\n"
        "[  2081.000] n2 > n1 spill_answer statuses 1 reach_us 2059904\n"
        "[  2081.000] n2 > n1 read data_gen 1 copies 1\n"
        "[  2081.000] n3 > n1 spill_answer statuses 1 reach_us 1046890\n"
        "[  2082.000] n1 > offer n2 copies 1\n"
        "[  2082.000] n1 > n2 spill_offer items 1 stream_pos 10\n"
        "[  2082.034] n1 > n2 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "9781057733936769216\n"
        "[  2083.000] n2 > n1 spill_answer statuses 1 reach_us 2061904\n"
        "[  2083.000] n2 > n1 read data_gen 1 copies 1\n"
        "[  2083.075] n2 > n1 publish pos 13 items 1\n"
        "[  2083.075] n2 > n1 spill_done items 1\n"
        "[  2084.038] n1 > n2 data data_gen 1 len 256 n_tokens 128 gen 1 digest "
        "14840964811830163529\n"
        "[  2084.075] n1 > n2 published pos 13 statuses 1\n"
        "[  2084.075] n1 > n2 withdraw pos 11 items 1\n"
        "[  2085.074] n2 > n3 publish pos 10 items 1\n"
        "[  2085.074] n2 > n1 publish pos 14 items 1\n"
        "[  2085.074] n2 > n1 spill_done items 1\n"
        "[  2086.074] n3 > n2 published pos 10 statuses 1\n"
        "[  2086.074] n1 > n2 published pos 14 statuses 1\n"
        "[  2086.074] n1 > n3 withdraw pos 13 items 1\n");
    sim_end(&sim);
}

/* The same where the pages are of a tenant with memory of its own: the common domain,
 * where all have room, says nothing about it. */
static void spill__goes_by_the_reach_of_its_own_domain(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    config.nr_apart = 1;
    config.apart_frames = 16;
    config.device_frames = 64;
    config.host_frames = 0;
    config.core.pager.free_target_divisor = 4;
    struct sim sim;
    sim_start(&sim, &config);
    put_pages(&sim, 2, 'a', 12);
    sim_run(&sim, 1000000);
    put_pages(&sim, 3, 'b', 12);
    sim_run(&sim, 1000000);
    put_pages(&sim, 1, 'q', 14);
    sim_run(&sim, 30000);
    assert_int_equal(kvo_metrics(kvs_node(sim.world, 1))->spills_in, 2);
    assert_int_equal(kvo_metrics(kvs_node(sim.world, 2))->spills_in, 0);
    sim_end(&sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetch__page_of_a_peer_is_found_and_read),
        cmocka_unit_test(fetch__owner_dies_while_it_sends),
        cmocka_unit_test(grant__outlived_by_its_read_is_revoked),
        cmocka_unit_test(dedup__engines_frame_stays_until_confirm),
        cmocka_unit_test(client__frames_wait_for_its_death),
        cmocka_unit_test(spill__coldest_page_is_taken_and_found),
        cmocka_unit_test(spill__goes_where_memory_reaches_back_furthest),
        cmocka_unit_test(spill__goes_by_the_reach_of_its_own_domain),
        cmocka_unit_test(fetch__page_that_moved_meanwhile_is_found_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
