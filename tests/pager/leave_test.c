/* Copies that nobody takes: "ready". They wait, LEAVING and readable, until a frame is
 * needed, so that a reserve costs no hits. What must hold: they are as good as free to
 * whoever needs room, in the order they came, and never lost for nothing. */
#include "tests/pager/pager_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Pool 1 is host memory; with the kit's 32 frames 8 may be in limbo, and 2 ready. */
enum { HOST = 1, STEP_US = 10, FRAMES = 32, READY_MAX = 2 };

static struct kit kit;

static void open_with(uint32_t nr_frames, uint32_t divisor)
{
    kit_init(&kit);
    kit.config.pools[HOST].nr_frames = nr_frames;
    kit.config.free_target_divisor = divisor;
    kit_open(&kit);
}

/* Pages first … first + n - 1 in host memory, oldest first. */
static void cache_pages(uint16_t tenant, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        kit_tick(&kit, STEP_US);
        kit_cache(&kit, tenant, KVP_HOST, first + i);
    }
}

struct leaving {
    struct kvp_ref ref;
    uint32_t token;
};

static struct leaving leave(uint32_t pool)
{
    struct leaving l;
    uint32_t dropped;

    assert_int_equal(
        kvp_leave_begin(kit.pager, pool, &l.ref, &l.token, &dropped), KV_OK);
    assert_int_equal(dropped, 0);
    return l;
}

/* The pool's next victim leaves, and nobody takes it. */
static struct leaving make_ready(uint32_t pool)
{
    const struct leaving l = leave(pool);

    assert_int_equal(kvp_leave_ready(kit.pager, l.ref, l.token), KV_OK);
    kvp_check(kit.pager);
    return l;
}

static bool is_ready(uint64_t number)
{
    const struct kvp_ref ref = kit_find(&kit, 0, number);
    return ref.frame != KVP_NO_FRAME && kit_info(&kit, ref).ready;
}

static uint32_t nr_in(uint32_t pool, enum kvp_frame_state state)
{
    struct kvp_pool_stats stats;
    kvp_pool_stats(kit.pager, pool, &stats);
    return stats.in_state[state];
}

static struct kvp_ref acquire(uint16_t tenant, uint64_t number)
{
    const kv_key_t key = kit_key(number);
    struct kvp_ref ref;
    kv_status_t status;

    assert_int_equal(kvp_acquire(kit.pager, tenant, 0, &key, 1, &ref, &status), 1);
    assert_int_equal(status, KV_OK);
    return ref;
}

/* An arrival of our own that drops nothing; its frame goes back at once. */
static kv_status_t arrive(uint16_t tenant, uint64_t number)
{
    struct kvp_arrival a = kit_arrival(tenant, KVP_HOST, number, kit.now_us);
    struct kvp_ref ref;

    a.may_drop = false;
    const kv_status_t status = kvp_arrive_begin(kit.pager, &a, &ref);
    if (status == KV_OK) {
        kvp_arrive_abandon(kit.pager, ref);
        kvp_io_end(kit.pager, ref);
    }
    kvp_check(kit.pager);
    return status;
}

/* ------------------------------------------------------------------ waiting */

static void ready__stays_leaving_listed_and_readable(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving l = make_ready(HOST);
    const struct kvp_info info = kit_info(&kit, l.ref);
    assert_int_equal(info.state, KVP_LEAVING);
    assert_true(info.ready && info.hold != 0);
    assert_true(kit_here(&kit, 0, 0));
    assert_int_equal(kit.nr_unlisted, 0);
    assert_int_equal(kit.nr_freed, 0);
    /* A peer may read it, by name or under a grant, and it waits on. */
    assert_int_equal(kvp_io_begin(kit.pager, l.ref), KV_OK);
    assert_int_equal(kvp_grant(kit.pager, l.ref, 3), KV_OK);
    kvp_io_end(kit.pager, l.ref);
    kvp_ungrant(kit.pager, l.ref, 3);
    assert_true(is_ready(0));
    kit_close(&kit);
}

/* A hit takes it back: an acquire, a pin; each as if it had just been used. */
static void ready__hit_cancels_the_leaving(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving zero = make_ready(HOST), one = make_ready(HOST);
    const struct kvp_ref ref = acquire(0, 0);
    assert_int_equal(ref.frame, zero.ref.frame);
    assert_int_equal(kvp_pin(kit.pager, one.ref), KV_OK);
    kvp_check(kit.pager);
    assert_int_equal(kit_info(&kit, zero.ref).state, KVP_SEALED);
    assert_int_equal(kit_info(&kit, one.ref).state, KVP_SEALED);
    assert_false(is_ready(0) || is_ready(1));
    assert_int_equal(kvp_metrics(kit.pager)->wanted_again, 2);
    /* Its leaving is over, whatever is said of it later. */
    assert_int_equal(kvp_leave_ready(kit.pager, zero.ref, zero.token), KV_ERR_STALE);
    assert_int_equal(kvp_leave_done(kit.pager, one.ref, one.token), KV_ERR_STALE);
    assert_int_equal(kvp_leave_cancel(kit.pager, one.ref, one.token), KV_ERR_STALE);
    kvp_release(kit.pager, &ref, 1);
    kvp_unpin(kit.pager, one.ref);
    /* The two are the newest now: 2 is the next to go. */
    assert_int_equal(make_ready(HOST).ref.frame, kit_find(&kit, 0, 2).frame);
    kit_close(&kit);
}

/* Cancelled, it goes back to the cold end: it is the first victim again. */
static void ready__cancelled_is_the_next_victim(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving zero = make_ready(HOST);
    make_ready(HOST);
    assert_int_equal(kvp_leave_cancel(kit.pager, zero.ref, zero.token), KV_OK);
    kvp_check(kit.pager);
    assert_int_equal(kit_info(&kit, zero.ref).state, KVP_SEALED);
    assert_false(is_ready(0));
    const struct leaving again = make_ready(HOST);
    assert_int_equal(again.ref.frame, zero.ref.frame);
    assert_true(again.token != zero.token);
    assert_int_equal(kvp_leave_done(kit.pager, zero.ref, zero.token), KV_ERR_STALE);
    assert_true(is_ready(0));
    kit_close(&kit);
}

/* A quarter of what may be in limbo: the next one is dropped at once. */
static void ready__no_more_than_a_quarter_of_limbo(void **state)
{
    (void)state;
    static const struct {
        uint32_t nr_frames, ready;
    } rows[] = {{FRAMES, READY_MAX}, {256, 8}, {512, 16}};

    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        open_with(rows[i].nr_frames, 2);
        cache_pages(0, 0, rows[i].nr_frames);
        for (uint32_t n = 0; n < rows[i].ready; n++) {
            make_ready(HOST);
            assert_int_equal(kit.nr_unlisted, 0);
        }
        make_ready(HOST);
        assert_int_equal(kit.nr_unlisted, 1);
        assert_false(kit_here(&kit, 0, rows[i].ready));
        assert_int_equal(nr_in(HOST, KVP_LEAVING), rows[i].ready);
        assert_int_equal(nr_in(HOST, KVP_FREE), 1);
        kit_close(&kit);
    }
}

/* ------------------------------------------------------------------ going */

/* What became ready first goes first, whoever needs the frame; those that stand in
 * front, in the middle or at the end may leave the line. */
static void ready__go_in_the_order_they_came(void **state)
{
    (void)state;
    for (uint64_t taken = 0; taken < 4; taken++) {
        open_with(128, 4); /* 4 ready at most */
        cache_pages(0, 0, 128);
        for (uint32_t i = 0; i < 4; i++) {
            make_ready(HOST);
        }
        const struct kvp_ref ref = acquire(0, taken);
        kvp_check(kit.pager);
        for (uint64_t i = 0; i < 4; i++) {
            if (i == taken) {
                continue;
            }
            assert_true(is_ready(i));
            const struct kvp_ref put = kit_put(&kit, 0, KVP_HOST, 1000 + i);
            assert_false(kit_here(&kit, 0, i));
            kvp_release(kit.pager, &put, 1);
            kvp_check(kit.pager);
        }
        assert_true(kit_here(&kit, 0, taken));
        assert_true(kit_here(&kit, 0, 4)); /* no idle one had to go */
        kvp_release(kit.pager, &ref, 1);
        kit_close(&kit);
    }
}

/* Every kind of need is served: a put, an arrival that may drop nothing, a sequence. */
static void ready__frames_serve_whoever_needs_one(void **state)
{
    (void)state;
    struct kvp_seq_id seq;
    struct kvp_ref ref;

    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    make_ready(HOST);
    assert_int_equal(arrive(0, 100), KV_OK); /* takes 0's frame and gives it back */
    assert_false(kit_here(&kit, 0, 0));
    ref = kit_put(&kit, 0, KVP_HOST, 101); /* the free one */
    kvp_release(kit.pager, &ref, 1);
    make_ready(HOST);
    ref = kit_put(&kit, 0, KVP_HOST, 102);
    assert_false(kit_here(&kit, 0, 1));
    kvp_release(kit.pager, &ref, 1);
    assert_int_equal(nr_in(HOST, KVP_SEALED), FRAMES);
    kit_close(&kit);

    kit_init(&kit);
    kit_open(&kit);
    for (uint32_t i = 0; i < 16; i++) {
        kit_tick(&kit, STEP_US);
        kit_cache(&kit, 0, KVP_DEVICE, i);
    }
    make_ready(0);
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8), KV_OK);
    assert_false(kit_here(&kit, 0, 0));
    assert_true(kit_here(&kit, 0, 1));
    assert_int_equal(kvp_seq_end(kit.pager, seq, false), KV_OK);
    kit_close(&kit);
}

/* Free frames first: what waits is not lost before it must be. */
static void ready__goes_only_when_no_frame_is_free(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES - 2);
    make_ready(HOST);
    cache_pages(0, 100, 2);
    assert_true(is_ready(0));
    cache_pages(0, 102, 1);
    assert_false(kit_here(&kit, 0, 0));
    kit_close(&kit);
}

/* One that a peer reads or was granted frees no frame: it is passed over, not lost; and
 * a demand that cannot be met drops nothing. */
static void ready__that_is_being_read_is_passed_over(void **state)
{
    (void)state;
    struct kvp_ref refs[FRAMES];

    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving zero = make_ready(HOST), one = make_ready(HOST);
    assert_int_equal(kvp_io_begin(kit.pager, zero.ref), KV_OK);
    struct kvp_ref put = kit_put(&kit, 0, KVP_HOST, 100);
    assert_true(is_ready(0));
    assert_false(kit_here(&kit, 0, 1));
    (void)one;
    for (uint64_t i = 2; i < FRAMES; i++) {
        refs[i] = acquire(0, i); /* nothing is idle any more */
    }
    struct kvp_ref ref;
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_ERR_AGAIN);
    assert_int_equal(arrive(0, 101), KV_ERR_AGAIN);
    assert_true(is_ready(0));
    kvp_io_end(kit.pager, zero.ref);
    assert_int_equal(kvp_grant(kit.pager, zero.ref, 3), KV_OK);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_ERR_AGAIN);
    assert_true(is_ready(0));
    kvp_ungrant(kit.pager, zero.ref, 3);
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_OK);
    assert_false(kit_here(&kit, 0, 0));
    kvp_fill_abort(kit.pager, ref, false);
    kvp_release(kit.pager, &refs[2], FRAMES - 2);
    kvp_release(kit.pager, &put, 1);
    kit_close(&kit);
}

/* Two pages are wanted and one can be had: the ready one stays. */
static void ready__refused_demand_drops_nothing(void **state)
{
    (void)state;
    struct kvp_seq_id seq;
    struct kvp_ref refs[16];

    kit_init(&kit);
    kit_open(&kit);
    for (uint32_t i = 0; i < 16; i++) {
        kit_tick(&kit, STEP_US);
        kit_cache(&kit, 0, KVP_DEVICE, i);
    }
    make_ready(0);
    for (uint64_t i = 1; i < 16; i++) {
        refs[i] = acquire(0, i);
    }
    assert_int_equal(kvp_seq_open(kit.pager, 0, 0, &seq), KV_OK);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 16), KV_ERR_AGAIN);
    assert_true(is_ready(0));
    assert_int_equal(kit.nr_unlisted, 0);
    assert_int_equal(kvp_seq_append(kit.pager, seq, 8), KV_OK);
    assert_int_equal(kit.nr_unlisted, 1);
    assert_int_equal(kvp_seq_end(kit.pager, seq, false), KV_OK);
    kvp_release(kit.pager, &refs[1], 15);
    kit_close(&kit);
}

/* A purge takes it off the line and out of the index. */
static void ready__dropped_by_name_leaves_the_line(void **state)
{
    (void)state;
    const kv_key_t key = kit_key(0);

    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving zero = make_ready(HOST);
    make_ready(HOST);
    assert_int_equal(kvp_grant(kit.pager, zero.ref, 3), KV_OK);
    assert_int_equal(kvp_drop(kit.pager, 0, 0, &key), KV_OK);
    kvp_check(kit.pager);
    assert_int_equal(kit_info(&kit, zero.ref).state, KVP_QUARANTINE);
    assert_false(kit_here(&kit, 0, 0));
    make_ready(HOST); /* there is a place again */
    assert_true(is_ready(1) && is_ready(2));
    kvp_ungrant(kit.pager, zero.ref, 3);
    assert_int_equal(nr_in(HOST, KVP_FREE), 1);
    kit_close(&kit);
}

/* ------------------------------------------------------------------ pressure */

/* Ready copies count towards the free target: no others have to leave for it. */
static void ready__counts_as_coming_free(void **state)
{
    (void)state;
    open_with(FRAMES, 16); /* 4 frames: an eighth, the floor of a small pool */
    cache_pages(0, 0, FRAMES);
    assert_int_equal(kvp_pressure(kit.pager, HOST), 4);
    make_ready(HOST);
    make_ready(HOST);
    assert_int_equal(kvp_pressure(kit.pager, HOST), 2);
    kit_close(&kit);
}

/* … and towards the reserve that a patient arrival leaves alone: here 4 of 32. */
static void ready__counts_as_part_of_the_reserve(void **state)
{
    (void)state;
    struct kvp_ref ref;

    open_with(FRAMES, 4);
    cache_pages(0, 0, 29);
    make_ready(HOST);
    make_ready(HOST); /* 3 free and 2 ready */
    struct kvp_arrival a = kit_arrival(0, KVP_HOST, 100, kit.now_us);
    a.keep_reserve = true;
    a.may_drop = false;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_int_equal(arrive(0, 101), KV_OK); /* one that is not patient */
    struct kvp_arrival b = kit_arrival(0, KVP_HOST, 102, kit.now_us);
    b.keep_reserve = true;
    b.may_drop = false;
    struct kvp_ref more;
    assert_int_equal(kvp_arrive_begin(kit.pager, &b, &more), KV_ERR_AGAIN);
    assert_true(is_ready(0) && is_ready(1));
    assert_int_equal(kit.nr_unlisted, 0);
    kvp_arrive_abandon(kit.pager, ref);
    kvp_io_end(kit.pager, ref);
    kit_close(&kit);
}

/* A peer's spill finds room in the reserve only for something clearly older; then it
 * takes a ready frame, and the older copy leaves by itself. */
static void ready__frame_takes_a_spill_for_something_older(void **state)
{
    (void)state;
    struct kvp_ref ref;

    open_with(FRAMES, 16);
    cache_pages(0, 0, FRAMES);
    make_ready(HOST);
    struct kvp_arrival a = kit_arrival(0, KVP_HOST, 100, kit.now_us);
    a.peer = 3;
    a.keep_reserve = true;
    a.by_age = true;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_ERR_AGAIN);
    assert_true(is_ready(0));
    kit_tick(&kit, KVP_SPILL_MARGIN_US);
    a.last_use_us = kit.now_us;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &ref), KV_OK);
    assert_false(kit_here(&kit, 0, 0));
    assert_true(kit_here(&kit, 0, 1));
    kvp_arrive_abandon(kit.pager, ref);
    kvp_io_end(kit.pager, ref);
    kit_close(&kit);
}

/* ------------------------------------------------------------------ tiers */

/* Wanted on the device, a ready host copy becomes its twin and stays: the first victim,
 * but not lost. */
static void ready__promoted_is_kept_as_a_twin(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    const struct leaving zero = make_ready(HOST);
    const struct kvp_ref src = acquire(0, 0); /* as a promotion begins */
    const struct kvp_arrival a = kit_arrival(0, KVP_DEVICE, 0, kit.now_us);
    struct kvp_ref dst;
    assert_int_equal(kvp_arrive_begin(kit.pager, &a, &dst), KV_OK);
    assert_int_equal(kvp_arrive_copy(kit.pager, dst, src), KV_OK);
    kit_order(&kit, KV_OK, kit_digest(0));
    assert_int_equal(
        kvp_arrive_done(
            kit.pager, &dst, KV_OK, kit_digest(0), kit_digest(0), KVP_ARRIVE_USED),
        KV_OK);
    kvp_release(kit.pager, &src, 1);
    kvp_release(kit.pager, &dst, 1);
    assert_int_equal(kit_info(&kit, dst).twin, zero.ref.frame);
    assert_false(kit_info(&kit, zero.ref).ready);
    assert_int_equal(kit.nr_unlisted, 0);
    kit_close(&kit);
}

/* … and one whose page comes to the device from elsewhere waits on; when it goes, the
 * listing stays with the pair's other half. */
static void ready__twin_of_an_arrival_goes_unheard(void **state)
{
    (void)state;
    open_with(FRAMES, 4);
    cache_pages(0, 0, FRAMES);
    make_ready(HOST);
    const struct kvp_ref ref = kit_fetch(&kit, 0, KVP_DEVICE, 0);
    kvp_check(kit.pager);
    const struct kvp_ref put = kit_put(&kit, 0, KVP_HOST, 100);
    assert_int_equal(kit.nr_unlisted, 0);
    assert_int_equal(kit_info(&kit, ref).twin, KVP_NO_FRAME);
    assert_true(kit_here(&kit, 0, 0) && kit_here(&kit, 0, 1));
    kvp_release(kit.pager, &ref, 1);
    kvp_release(kit.pager, &put, 1);
    kit_close(&kit);
}

/* A device copy that found no taker may still move down; a frame is needed while it
 * does: the one that moves is not taken, and ends as a move. */
static void ready__may_still_be_demoted(void **state)
{
    (void)state;
    kit_init(&kit);
    kit_open(&kit);
    for (uint32_t i = 0; i < 16; i++) {
        kit_tick(&kit, STEP_US);
        kit_cache(&kit, 0, KVP_DEVICE, i);
    }
    const struct leaving zero = make_ready(0);
    assert_int_equal(
        kvp_demote(kit.pager, zero.ref, zero.token, KVP_HOST, false), KV_OK);
    struct kvp_ref ref;
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_DEVICE, 8, &ref), KV_OK);
    assert_false(kit_here(&kit, 0, 1)); /* an idle one went instead */
    assert_true(is_ready(0));
    kit_order(&kit, KV_OK, kit_digest(0));
    kvp_check(kit.pager);
    assert_int_equal(kit_info(&kit, kit_find(&kit, 0, 0)).tier, KVP_HOST);
    assert_false(is_ready(0));
    kvp_fill_abort(kit.pager, ref, false);
    kit_close(&kit);
}

/* ------------------------------------------------------------------ ceilings */

/* At its ceiling a tenant gives up what only waits to go, before anything that is of
 * use, and before it is told QUOTA. */
static void ready__makes_room_under_its_tenants_ceiling(void **state)
{
    (void)state;
    enum { CEILING = 4 };

    kit_init(&kit);
    kit.config.tenants[0].ceiling[KVP_HOST] = CEILING;
    kit_open(&kit);
    cache_pages(0, 0, CEILING);
    make_ready(HOST);
    cache_pages(0, 100, 1);
    assert_false(kit_here(&kit, 0, 0));
    assert_true(kit_here(&kit, 0, 1));
    assert_int_equal(kvp_used(kit.pager, 0, KVP_HOST), CEILING);
    /* Nothing is idle: the ready one still goes, for a put as for an arrival. */
    make_ready(HOST); /* 1 */
    make_ready(HOST); /* 2 */
    struct kvp_ref three = acquire(0, 3), other = acquire(0, 100);
    assert_int_equal(arrive(0, 101), KV_OK);
    assert_false(kit_here(&kit, 0, 1));
    const struct kvp_ref put = kit_put(&kit, 0, KVP_HOST, 102);
    const struct kvp_ref more = kit_put(&kit, 0, KVP_HOST, 103);
    assert_false(kit_here(&kit, 0, 2));
    struct kvp_ref ref;
    assert_int_equal(kvp_fill_begin(kit.pager, 0, 0, KVP_HOST, 8, &ref), KV_ERR_QUOTA);
    assert_int_equal(arrive(0, 104), KV_ERR_QUOTA);
    kvp_release(kit.pager, &three, 1);
    kvp_release(kit.pager, &other, 1);
    kvp_release(kit.pager, &put, 1);
    kvp_release(kit.pager, &more, 1);
    kit_close(&kit);
}

/* What another tenant has ready helps the pool, not the ceiling. */
static void ready__of_others_does_not_lift_a_ceiling(void **state)
{
    (void)state;
    struct kvp_ref ref;

    kit_init(&kit);
    kit.config.tenants[1].ceiling[KVP_HOST] = 1;
    kit_open(&kit);
    cache_pages(0, 0, FRAMES - 1);
    make_ready(HOST); /* tenant 0's page 0 */
    const struct kvp_ref own = kit_put(&kit, 1, KVP_HOST, 500);
    assert_int_equal(kvp_fill_begin(kit.pager, 1, 0, KVP_HOST, 8, &ref), KV_ERR_QUOTA);
    assert_int_equal(arrive(1, 501), KV_ERR_QUOTA);
    assert_true(is_ready(0));
    kvp_release(kit.pager, &own, 1);
    /* Within it, its own idle page goes for the ceiling and frees the frame as well. */
    const struct kvp_ref next = kit_put(&kit, 1, KVP_HOST, 502);
    assert_false(kit_here(&kit, 1, 500));
    assert_true(is_ready(0));
    kvp_release(kit.pager, &next, 1);
    kit_close(&kit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ready__stays_leaving_listed_and_readable),
        cmocka_unit_test(ready__hit_cancels_the_leaving),
        cmocka_unit_test(ready__cancelled_is_the_next_victim),
        cmocka_unit_test(ready__no_more_than_a_quarter_of_limbo),
        cmocka_unit_test(ready__go_in_the_order_they_came),
        cmocka_unit_test(ready__frames_serve_whoever_needs_one),
        cmocka_unit_test(ready__goes_only_when_no_frame_is_free),
        cmocka_unit_test(ready__that_is_being_read_is_passed_over),
        cmocka_unit_test(ready__refused_demand_drops_nothing),
        cmocka_unit_test(ready__dropped_by_name_leaves_the_line),
        cmocka_unit_test(ready__counts_as_coming_free),
        cmocka_unit_test(ready__counts_as_part_of_the_reserve),
        cmocka_unit_test(ready__frame_takes_a_spill_for_something_older),
        cmocka_unit_test(ready__promoted_is_kept_as_a_twin),
        cmocka_unit_test(ready__twin_of_an_arrival_goes_unheard),
        cmocka_unit_test(ready__may_still_be_demoted),
        cmocka_unit_test(ready__makes_room_under_its_tenants_ceiling),
        cmocka_unit_test(ready__of_others_does_not_lift_a_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
