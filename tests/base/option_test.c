/* Configuration is refused, never guessed: every bound, unit and misspelling ends in a
 * line that says what to write instead, and changes nothing. */
#include "base/option.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

struct config {
    uint64_t frames;
    uint64_t page_bytes;
    uint64_t timeout_us;
    bool prefetch;
    char name[KV_OPT_TEXT_BYTES];
    int evict;
};

#define AT(field) offsetof(struct config, field)
static const struct kv_option table[] = {
    {"pager.device_frames", KV_OPT_UINT, AT(frames), "64", 1, 1000, NULL, "frames"},
    {"pager.page_bytes", KV_OPT_BYTES, AT(page_bytes), "256KiB", 4096, 16 << 20, NULL,
     "bytes of a page"},
    {"cluster.timeout", KV_OPT_TIME, AT(timeout_us), "250ms", 1000, 3600000000, NULL,
     "until a peer is lost"},
    {"pager.prefetch", KV_OPT_BOOL, AT(prefetch), "on", 0, 0, NULL, "fetch ahead"},
    {"cluster.name", KV_OPT_TEXT, AT(name), "main", 1, 64, NULL, "of the cluster"},
    {"pager.evict", KV_OPT_ENUM, AT(evict), "lru", 0, 0, "lru|fifo|clock", "policy"},
};
enum { NR = sizeof(table) / sizeof(table[0]) };

static struct config config;
static struct kv_option_error error;

static int setup(void **state)
{
    (void)state;
    memset(&config, 0xff, sizeof(config));
    memset(&error, 0, sizeof(error));
    kv_options_preset(table, NR, &config);
    return 0;
}

static kv_status_t set(const char *name, const char *value)
{
    return kv_option_set(table, NR, &config, name, value, &error);
}

static void refused(const char *name, const char *value, const char *line)
{
    const struct config before = config;
    assert_int_equal(set(name, value), KV_ERR_CONFIG);
    assert_string_equal(error.line, line);
    assert_memory_equal(&before, &config, sizeof(config));
    assert_int_equal(
        kv_option_set(table, NR, &config, name, value, NULL), KV_ERR_CONFIG);
}

static void option__presets_are_set(void **state)
{
    (void)state;
    assert_int_equal(config.frames, 64);
    assert_int_equal(config.page_bytes, 256 << 10);
    assert_int_equal(config.timeout_us, 250000);
    assert_true(config.prefetch);
    assert_string_equal(config.name, "main");
    assert_int_equal(config.evict, 0);
}

static void option__bounds_are_inclusive(void **state)
{
    (void)state;
    assert_int_equal(set("pager.device_frames", "1"), KV_OK);
    assert_int_equal(set("pager.device_frames", "1000"), KV_OK);
    refused(
        "pager.device_frames", "0", "pager.device_frames: 0 is below the minimum 1");
    refused(
        "pager.device_frames", "1001",
        "pager.device_frames: 1001 is above the maximum 1000");
    refused(
        "pager.page_bytes", "17MiB",
        "pager.page_bytes: 17MiB is above the maximum 16MiB");
    refused(
        "pager.page_bytes", "4095", "pager.page_bytes: 4095 is below the minimum 4KiB");
    refused("cluster.timeout", "2h", "cluster.timeout: 2h is above the maximum 1h");
    refused("cluster.name", "", "cluster.name: 0 characters are below the minimum 1");
}

static void option__wrong_words_say_what_is_wanted(void **state)
{
    (void)state;
    refused(
        "pager.device_frames", "12x",
        "pager.device_frames: \"12x\" is not a whole number");
    refused(
        "pager.page_bytes", "1MB",
        "pager.page_bytes: \"1MB\" is not a size such as 64GiB or 256k");
    refused(
        "cluster.timeout", "250",
        "cluster.timeout: \"250\" is not a time with its unit, such as 250ms (us, ms, "
        "s, m, h)");
    refused(
        "pager.prefetch", "maybe",
        "pager.prefetch: \"maybe\" is not one of true, false, yes, no, on, off");
    refused("pager.evict", "lr", "pager.evict: \"lr\" is not one of lru|fifo|clock");
    refused("pager.evict", "", "pager.evict: \"\" is not one of lru|fifo|clock");
}

static void option__unknown_name_is_refused_with_the_nearest(void **state)
{
    (void)state;
    refused(
        "pager.device_frame", "1",
        "unknown option \"pager.device_frame\"; did you mean \"pager.device_frames\"?");
    refused(
        "pager.evcit", "fifo",
        "unknown option \"pager.evcit\"; did you mean \"pager.evict\"?");
    refused("colour", "1", "unknown option \"colour\"");
    refused("", "1", "unknown option \"\"");
}

/* A hostile or broken file must end in a line, not in an overrun. */
static void option__overlong_names_and_values_are_cut_in_the_line(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(set(text, "1"), KV_ERR_CONFIG);
    assert_true(strlen(error.line) < 200);
    assert_int_equal(set("pager.evict", text), KV_ERR_CONFIG);
    assert_int_equal(set("cluster.name", text), KV_ERR_CONFIG);
    assert_string_equal(
        error.line, "cluster.name: 1999 characters are above the maximum 64");
    memset(text, '9', sizeof(text) - 1);
    assert_int_equal(set("pager.device_frames", text), KV_ERR_CONFIG);
}

/* What kv_option_get() writes, kv_option_set() takes: `kvrail config` prints a file. */
static void option__get_round_trips(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"pager.device_frames", "7", "7"},    {"pager.page_bytes", "4096", "4KiB"},
        {"pager.page_bytes", "4097", "4097"}, {"pager.page_bytes", "1m", "1MiB"},
        {"cluster.timeout", "1000us", "1ms"}, {"cluster.timeout", "1500us", "1500us"},
        {"cluster.timeout", "120s", "2m"},    {"pager.prefetch", "no", "false"},
        {"pager.prefetch", "yes", "true"},    {"cluster.name", "west 1", "west 1"},
        {"pager.evict", "clock", "clock"},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct kv_option *option = table;
        while (strcmp(option->name, rows[i][0]) != 0) {
            option++;
        }
        char text[KV_OPT_TEXT_BYTES];
        assert_int_equal(set(rows[i][0], rows[i][1]), KV_OK);
        kv_option_get(option, &config, text, sizeof(text));
        assert_string_equal(text, rows[i][2]);
        const struct config before = config;
        assert_int_equal(set(rows[i][0], text), KV_OK);
        assert_memory_equal(&before, &config, sizeof(config));
    }
}

static void parse__units_and_overflow(void **state)
{
    (void)state;
    uint64_t v = 5;
    assert_int_equal(kv_parse_bytes("3TiB", &v), KV_OK);
    assert_int_equal(v, UINT64_C(3) << 40);
    assert_int_equal(kv_parse_bytes("64g", &v), KV_OK);
    assert_int_equal(v, UINT64_C(64) << 30);
    assert_int_equal(kv_parse_time_us("2h", &v), KV_OK);
    assert_int_equal(v, UINT64_C(7200000000));
    assert_int_equal(kv_parse_time_us("0us", &v), KV_OK);
    assert_int_equal(v, 0);
    assert_int_equal(kv_parse_uint("18446744073709551615", &v), KV_OK);
    assert_int_equal(v, UINT64_MAX);
    static const char *const bad[] = {
        "", " 1", "1 ", "-1", "+1", "0x10", "1.5", "k", "18446744073709551616"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(kv_parse_uint(bad[i], &v), KV_ERR_CONFIG);
        assert_int_equal(kv_parse_bytes(bad[i], &v), KV_ERR_CONFIG);
        assert_int_equal(kv_parse_time_us(bad[i], &v), KV_ERR_CONFIG);
    }
    assert_int_equal(kv_parse_bytes("16777216TiB", &v), KV_ERR_CONFIG);
    assert_int_equal(kv_parse_time_us("5124095577h", &v), KV_ERR_CONFIG);
    assert_int_equal(v, UINT64_MAX);
}

/* Secrets and ids come as hex: half a byte, another letter or one byte too many is no
 * hex, and says nothing of how much there was. */
static void parse__hex_is_whole_bytes(void **state)
{
    uint8_t out[4] = {0};
    size_t nr = 99;
    (void)state;
    assert_int_equal(kv_parse_hex("09afAF", 6, out, sizeof(out), &nr), KV_OK);
    assert_int_equal(nr, 3);
    assert_memory_equal(out, "\x09\xaf\xaf", 3);
    assert_int_equal(kv_parse_hex("ffff", 2, out, 1, &nr), KV_OK);
    assert_int_equal(nr, 1);
    assert_int_equal(kv_parse_hex("", 0, out, sizeof(out), &nr), KV_OK);
    assert_int_equal(nr, 0);
    nr = 99;
    static const char *const bad[] = {"0",  "000", "0g", "G0", "/0", "0:",
                                      "@0", "0`",  " 0", "0x", "0000000000"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(
            kv_parse_hex(bad[i], strlen(bad[i]), out, sizeof(out), &nr), KV_ERR_CONFIG);
    }
    assert_int_equal(kv_parse_hex("00\0" "0", 4, out, sizeof(out), &nr), KV_ERR_CONFIG);
    assert_int_equal(nr, 99);
}

static void nearest__finds_typing_errors_and_nothing_far(void **state)
{
    (void)state;
    static const char *const names[] = {"info", "config", "stats", "serve"};
    assert_string_equal(kv_nearest("confg", names, 4), "config");
    assert_string_equal(kv_nearest("stat", names, 4), "stats");
    assert_string_equal(kv_nearest("serve", names, 4), "serve");
    assert_null(kv_nearest("bench", names, 4));
    assert_null(kv_nearest("x", names, 4));
    assert_null(kv_nearest("info", names, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(option__presets_are_set, setup),
        cmocka_unit_test_setup(option__bounds_are_inclusive, setup),
        cmocka_unit_test_setup(option__wrong_words_say_what_is_wanted, setup),
        cmocka_unit_test_setup(option__unknown_name_is_refused_with_the_nearest, setup),
        cmocka_unit_test_setup(
            option__overlong_names_and_values_are_cut_in_the_line, setup),
        cmocka_unit_test_setup(option__get_round_trips, setup),
        cmocka_unit_test(parse__units_and_overflow),
        cmocka_unit_test(parse__hex_is_whole_bytes),
        cmocka_unit_test(nearest__finds_typing_errors_and_nothing_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
