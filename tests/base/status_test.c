/* A status crosses versions and is read by people: every one has a name and a text, and
 * a number that this version does not know is survived, not asserted. */
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const kv_status_t all[] = {
#define X(symbol, value, name, text) symbol,
    KV_STATUS_MAP(X)
#undef X
};

/* Counters are arrays over the index: it must be dense, and in the map's order. */
static void status__every_one_has_name_text_and_index(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_STATUSES; i++) {
        assert_true(kv_status_known((int)all[i]));
        assert_int_equal(kv_status_index(all[i]), i);
        assert_true(strlen(kv_status_name(all[i])) > 0);
        assert_true(strlen(kv_status_text(all[i])) > 0);
        for (unsigned k = 0; k < i; k++) {
            assert_string_not_equal(kv_status_name(all[i]), kv_status_name(all[k]));
        }
    }
}

static void status__number_of_a_newer_version_is_unknown(void **state)
{
    (void)state;
    assert_false(kv_status_known(-1000));
    assert_string_equal(kv_status_name((kv_status_t)-1000), "unknown");
    assert_true(strlen(kv_status_text((kv_status_t)-1000)) > 0);
    assert_int_equal(kv_status_index((kv_status_t)-1000), KV_NR_STATUSES);
}

static void status__fail_fills_the_detail_and_may_have_none(void **state)
{
    (void)state;
    struct kv_detail d = {0};
    assert_int_equal(
        kv_fail(&d, KV_ERR_INVALID, "publish.items", 256, 300), KV_ERR_INVALID);
    assert_string_equal(d.field, "publish.items");
    assert_int_equal(d.limit, 256);
    assert_int_equal(d.value, 300);
    assert_int_equal(kv_fail(NULL, KV_ERR_QUOTA, "x", 1, 2), KV_ERR_QUOTA);
}

static void detail__one_line_names_field_limit_and_value(void **state)
{
    (void)state;
    const struct kv_detail d = {.field = "publish.items", .limit = 256, .value = 300};
    char line[128];
    kv_detail_format(&d, KV_ERR_INVALID, line, sizeof(line));
    assert_string_equal(
        line,
        "invalid: a field is malformed or out of its bound: publish.items is 300, "
        "the limit is 256");
    kv_detail_format(NULL, KV_ERR_MISS, line, sizeof(line));
    assert_string_equal(line, "miss: the page is not to be had");
    kv_detail_format(&d, KV_ERR_INVALID, line, 5);
    assert_string_equal(line, "inva");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status__every_one_has_name_text_and_index),
        cmocka_unit_test(status__number_of_a_newer_version_is_unknown),
        cmocka_unit_test(status__fail_fills_the_detail_and_may_have_none),
        cmocka_unit_test(detail__one_line_names_field_limit_and_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
