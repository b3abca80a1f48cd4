/* What every transport checks alike, at the edges of each bound: transport/check.h,
 * transport/clock.h. That each transport does check is the contract's to show. */
#include "tests/transport/transport_kit.h"
#include "transport/check.h"
#include "transport/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { FIRST = 4096, SECOND = 100 };

static uint8_t memory[FIRST + SECOND + 1]; /* a byte between the regions is nobody's */
static uint8_t *const second = memory + FIRST + 1;
static struct kvt_regions regions;

static void begin(void)
{
    const struct kvt_region table[] = {
        {.base = memory, .bytes = FIRST, .fd = -1},
        {.base = second, .bytes = SECOND, .fd = -1},
    };
    const struct kvt_config config = {.regions = table, .nr_regions = 2};

    kvt_regions_take(&regions, &config);
}

/* Up to the last byte of each region, and not one further; over the gap between two
 * neighbours neither; a length that would wrap round is no way in. */
static void inside__to_the_last_byte(void **state)
{
    static const struct {
        ptrdiff_t at;
        uint32_t len;
        bool is_inside;
    } rows[] = {
        {0, 0, true},
        {0, FIRST, true},
        {0, FIRST + 1, false},
        {1, FIRST, false},
        {1, FIRST - 1, true},
        {FIRST - 1, 1, true},
        {FIRST - 1, 2, false},
        {FIRST, 0, true}, /* nothing, at the end */
        {FIRST, 1, false},
        {FIRST + 1, SECOND, true},
        {FIRST + 1, SECOND + 1, false},
        {FIRST + SECOND, 1, true},
        {FIRST + SECOND, 2, false},
        {0, UINT32_MAX, false},
        {FIRST - 1, UINT32_MAX, false},
    };
    (void)state;

    begin();
    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        assert_int_equal(
            kvt_check_inside(&regions, memory + rows[i].at, rows[i].len),
            rows[i].is_inside);
    }
    const uint8_t *before = (const uint8_t *)((uintptr_t)memory - 1);
    assert_false(kvt_check_inside(&regions, before, 1));
    assert_false(kvt_check_inside(&regions, before, 2));
    assert_false(kvt_check_inside(&regions, NULL, 0));
    assert_false(kvt_check_inside(&regions, NULL, 1));
    regions.table[1].bytes = UINT64_MAX; /* begins where it begins all the same */
    assert_true(kvt_check_inside(&regions, second, UINT32_MAX));
    assert_false(kvt_check_inside(&regions, before, 1));
    regions.nr = 1; /* what is behind the last is no region */
    assert_false(kvt_check_inside(&regions, second, 1));
    regions.nr = 0;
    assert_false(kvt_check_inside(&regions, memory, 0));
}

/* A READ has a byte and a part at least, and at most as many as its message; each of
 * its parts is inside, be it the first or the last. */
static void read__every_part_and_length(void **state)
{
    struct kvt_part parts[KV_MSG_READ_MAX + 1];
    (void)state;

    begin();
    for (unsigned i = 0; i < KV_COUNT_OF(parts); i++) {
        parts[i] = (struct kvt_part){.to = memory + i, .room = 8};
    }
    assert_int_equal(kvt_check_read(&regions, 1, parts, 1), KV_OK);
    assert_int_equal(
        kvt_check_read(&regions, KVT_REQUEST_BYTES_MAX, parts, KV_MSG_READ_MAX), KV_OK);
    assert_int_equal(kvt_check_read(&regions, 0, parts, 1), KV_ERR_INVALID);
    assert_int_equal(
        kvt_check_read(&regions, KVT_REQUEST_BYTES_MAX + 1, parts, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_check_read(&regions, 1, parts, 0), KV_ERR_INVALID);
    assert_int_equal(
        kvt_check_read(&regions, 1, parts, KV_MSG_READ_MAX + 1), KV_ERR_INVALID);
    for (unsigned i = 0; i < KV_MSG_READ_MAX; i++) {
        parts[i].room = FIRST + 1 - i; /* one byte over the end */
        assert_int_equal(
            kvt_check_read(&regions, 1, parts, KV_MSG_READ_MAX), KV_ERR_INVALID);
        parts[i].room = FIRST - i;
        assert_int_equal(kvt_check_read(&regions, 1, parts, KV_MSG_READ_MAX), KV_OK);
    }
}

/* A page comes from a region, and an answer without bytes from nowhere. */
static void send__head_and_page(void **state)
{
    (void)state;

    begin();
    assert_int_equal(kvt_check_send(&regions, 1, memory, FIRST), KV_OK);
    assert_int_equal(kvt_check_send(&regions, KVT_HEAD_BYTES_MAX, NULL, 0), KV_OK);
    assert_int_equal(kvt_check_send(&regions, 0, memory, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_check_send(&regions, 0, NULL, 0), KV_ERR_INVALID);
    assert_int_equal(
        kvt_check_send(&regions, KVT_HEAD_BYTES_MAX + 1, NULL, 0), KV_ERR_INVALID);
    assert_int_equal(kvt_check_send(&regions, 1, memory, FIRST + 1), KV_ERR_INVALID);
    assert_int_equal(kvt_check_send(&regions, 1, memory + FIRST, 1), KV_ERR_INVALID);
    assert_int_equal(kvt_check_send(&regions, 1, NULL, 1), KV_ERR_INVALID);
}

/* What a DATA says, what comes behind it and the room of its part agree, or nothing of
 * it is believed; a page comes with OK, and with no other word of an owner's. */
static void fits__data_page_and_room(void **state)
{
    static const struct {
        int32_t status;
        uint32_t said, body, room;
        bool fits;
    } rows[] = {
        {KV_OK, 8, 8, 8, true},
        {KV_OK, 8, 8, 9, true},
        {KV_OK, 8, 8, 7, false},
        {KV_OK, 8, 7, 8, false},
        {KV_OK, 7, 8, 8, false},
        {KV_OK, 0, 0, 0, true},
        {KV_OK, 0, 8, 8, false},
        {KV_OK, UINT32_MAX, UINT32_MAX, UINT32_MAX, true},
        {KV_OK, UINT32_MAX, UINT32_MAX, UINT32_MAX - 1, false},
        {KV_ERR_MISS, 0, 0, 0, true},
        {KV_ERR_MISS, 0, 0, 8, true},
        {KV_ERR_MISS, 8, 8, 8, false},
        {KV_ERR_MISS, 0, 8, 8, false},
        {KV_ERR_MISS, 8, 0, 8, false},
        {KV_ERR_LINK_LOST, 0, 0, 8, true}, /* no word of an owner's: a miss */
        {KV_ERR_LINK_LOST, 8, 8, 8, false},
        {77, 8, 8, 8, false},
    };
    (void)state;

    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        const struct kv_msg_data data = {.status = rows[i].status, .len = rows[i].said};
        assert_int_equal(
            kvt_check_fits(&data, rows[i].body, rows[i].room), rows[i].fits);
    }
}

/* Rounded up, so that nobody wakes before the deadline to wait for nothing; bounded. */
static void timeout__is_not_too_short(void **state)
{
    enum { MS = 1000000 };
    const uint64_t now = 5 * (uint64_t)MS;
    (void)state;

    assert_int_equal(kvt_timeout_ms(now, 0), 0);
    assert_int_equal(kvt_timeout_ms(now, now), 0);
    assert_int_equal(kvt_timeout_ms(now, now + 1), 1);
    assert_int_equal(kvt_timeout_ms(now, now + MS), 1);
    assert_int_equal(kvt_timeout_ms(now, now + MS + 1), 2);
    assert_int_equal(
        kvt_timeout_ms(now, now + KVT_TIMEOUT_MS_MAX * (uint64_t)MS),
        KVT_TIMEOUT_MS_MAX);
    assert_int_equal(kvt_timeout_ms(now, UINT64_MAX - MS), KVT_TIMEOUT_MS_MAX);
}

static void hello__has_a_byte_and_an_end(void **state)
{
    (void)state;

    assert_false(kvt_check_hello(0));
    assert_true(kvt_check_hello(1));
    assert_true(kvt_check_hello(KVT_HELLO_BYTES_MAX));
    assert_false(kvt_check_hello(KVT_HELLO_BYTES_MAX + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inside__to_the_last_byte),
        cmocka_unit_test(read__every_part_and_length),
        cmocka_unit_test(send__head_and_page),
        cmocka_unit_test(fits__data_page_and_room),
        cmocka_unit_test(timeout__is_not_too_short),
        cmocka_unit_test(hello__has_a_byte_and_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
