/* Every call of a client × another tenant's pages: nothing is done, and the answer is,
 * byte for byte, that for pages which nobody has. (No credential and a wrong one do not
 * attach, and buffers are each client's own: local_hostile_test.c.) */
#include "tests/node/local_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 4, NOBODYS = 100, MINE = 8 }; /* first keys; MINE: a page of the buffer */

static struct lk lk;
static kvr_client_t *one, *other; /* of LK_TENANT, of LK_FOREIGN */
static struct kvr_buffer mine, theirs;

static kvr_client_t *client_of(uint32_t tenant)
{
    char target[128], error[256];
    kvr_client_t *client = NULL;
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = tenant};
    assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_OK);
    return client;
}

/* Two tenants of one user: only what the node says keeps them apart. The other one has
 * pages 0 to 3, the first two pinned. */
static void open_both(void)
{
    lk_init(&lk);
    lk.tenants[1].uids[0] = getuid();
    lk_start(&lk);
    one = client_of(LK_TENANT);
    other = client_of(LK_FOREIGN);
    assert_int_equal(kvr_buffer_create(one, 16 * LK_PAGE_BYTES, &mine), KVR_OK);
    assert_int_equal(kvr_buffer_create(other, 16 * LK_PAGE_BYTES, &theirs), KVR_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        lk_page((uint8_t *)theirs.base + i * LK_PAGE_BYTES, i);
        lk_page((uint8_t *)mine.base + i * LK_PAGE_BYTES, 1000 + i);
    }
    assert_int_equal(lk_batch(other, KVR_OP_PUT, 0, KEYS, theirs.id, 0, NULL), KVR_OK);
    assert_int_equal(lk_batch(other, KVR_OP_PIN, 0, 2, 0, 0, NULL), KVR_OK);
}

static void close_both(void)
{
    kvr_close(one);
    kvr_close(other);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* All of an answer. */
struct told {
    kvr_status_t status;
    uint32_t nr_keys;
    int32_t statuses[KEYS];
    uint8_t reasons[KEYS], places[KEYS];
    char error[256];
};

static struct told ask(enum kvr_op op, uint64_t first, uint32_t buffer, uint32_t at)
{
    struct kvr_result result;
    struct told told;
    memset(&told, 0, sizeof(told));
    assert_int_equal(
        lk_submit(one, op, first, KEYS, buffer, at, first, LK_LATER_US), KVR_OK);
    assert_int_equal(kvr_next(one, LK_LATER_US, &result), KVR_OK);
    told.status = result.status;
    told.nr_keys = result.nr_keys;
    snprintf(told.error, sizeof(told.error), "%s", kvr_error(one));
    memcpy(told.statuses, result.statuses, sizeof(told.statuses));
    memcpy(told.reasons, result.reasons, sizeof(told.reasons));
    memcpy(told.places, result.places, sizeof(told.places));
    return told;
}

/* The other's pages: there, right, and the pins on two of them still count. */
static void expect_untouched(void)
{
    int32_t statuses[KEYS];
    memset(theirs.base, 0, KEYS * LK_PAGE_BYTES);
    assert_int_equal(
        lk_batch(other, KVR_OP_GET, 0, KEYS, theirs.id, 0, statuses), KVR_OK);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t page[LK_PAGE_BYTES];
        lk_page(page, i);
        assert_int_equal(statuses[i], KVR_OK);
        assert_memory_equal(
            (uint8_t *)theirs.base + i * LK_PAGE_BYTES, page, sizeof(page));
    }
}

static void call__about_another_tenants_page_is_as_if_there_were_none(void **state)
{
    static const enum kvr_op ops[] = {KVR_OP_EXISTS, KVR_OP_GET,  KVR_OP_PIN,
                                      KVR_OP_UNPIN,  KVR_OP_DROP, KVR_OP_PUT};
    (void)state;
    open_both();
    for (unsigned i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
        const bool put = ops[i] == KVR_OP_PUT;
        uint8_t was[KEYS * LK_PAGE_BYTES];
        memcpy(was, (uint8_t *)mine.base + MINE * LK_PAGE_BYTES, sizeof(was));
        const struct told theirs_told = ask(ops[i], 0, mine.id, put ? 0 : MINE);
        const struct told nobodys_told = ask(ops[i], NOBODYS, mine.id, put ? 0 : MINE);
        assert_memory_equal(&theirs_told, &nobodys_told, sizeof(theirs_told));
        assert_int_equal(theirs_told.status, KVR_OK);
        assert_int_equal(theirs_told.statuses[0], put ? KVR_OK : KVR_MISS);
        assert_memory_equal(/* nothing was copied out */
                            (uint8_t *)mine.base + MINE * LK_PAGE_BYTES, was,
                            sizeof(was));
        expect_untouched();
    }
    /* After that PUT the key names two pages: each tenant gets its own. */
    const struct told got = ask(KVR_OP_GET, 0, mine.id, MINE);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t page[LK_PAGE_BYTES];
        lk_page(page, 1000 + i);
        assert_int_equal(got.statuses[i], KVR_OK);
        assert_memory_equal(
            (uint8_t *)mine.base + (MINE + i) * LK_PAGE_BYTES, page, sizeof(page));
    }
    /* And a DROP takes its own alone, pinned or not. */
    assert_int_equal(ask(KVR_OP_DROP, 0, 0, 0).statuses[0], KVR_OK);
    expect_untouched();
    close_both();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(call__about_another_tenants_page_is_as_if_there_were_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
