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

/* A full node offers its coldest page to the homes of its segment, and gives it up when
 * one has taken it: it is found there. */
static void spill__coldest_page_is_taken_and_found(void **state)
{
    (void)state;
    struct kvs_config config = three_nodes();
    config.device_frames = 16;
    config.host_frames = 0;
    config.core.pager.free_target_divisor = 4;
    struct sim sim;
    char name[8];
    sim_start(&sim, &config);
    for (unsigned i = 0; i < 13; i++) {
        snprintf(name, sizeof(name), "p%u", i);
        assert_int_equal(sim_put(&sim, 1, name), KV_OK);
        sim_run(&sim, 1000);
    }
    sim_skip(&sim);
    sim_run(&sim, 100000);
    sim_expect(
        &sim,
        "[    40.000] n1 > offer n3 copies 1\n"
        "[    40.000] n1 > n3 spill_offer items 1 stream_pos 10\n"
        "[    41.000] n3 > n1 spill_answer statuses 1\n"
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetch__page_of_a_peer_is_found_and_read),
        cmocka_unit_test(fetch__owner_dies_while_it_sends),
        cmocka_unit_test(grant__outlived_by_its_read_is_revoked),
        cmocka_unit_test(dedup__engines_frame_stays_until_confirm),
        cmocka_unit_test(client__frames_wait_for_its_death),
        cmocka_unit_test(spill__coldest_page_is_taken_and_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
