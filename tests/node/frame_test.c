/* Goal: bytes of a socket are what they are however they are cut, and an address is
 * what a person wrote. Method: tables; tests/fuzz/links_fuzz.c does the rest. */
#include "node/address.h"
#include "node/daemon/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void frame__sniff_waits_only_for_what_could_be_ours(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        enum kvn_sniff kind;
    } rows[] = {
        {"", 0, KVN_SNIFF_MORE},        {"\x16", 1, KVN_SNIFF_TLS},
        {"k", 1, KVN_SNIFF_MORE},       {"kv", 2, KVN_SNIFF_MORE},
        {"kvd", 3, KVN_SNIFF_MORE},     {"kvl", 3, KVN_SNIFF_MORE},
        {"kvd1", 4, KVN_SNIFF_DATA},    {"kvl1", 4, KVN_SNIFF_CLEAR},
        {"kvd1xyz", 7, KVN_SNIFF_DATA}, {"kvd2", 4, KVN_SNIFF_NONE},
        {"kx", 2, KVN_SNIFF_NONE},      {"\x17", 1, KVN_SNIFF_NONE},
        {"\0", 1, KVN_SNIFF_NONE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(
            kvn_sniff((const uint8_t *)rows[i].bytes, rows[i].len), rows[i].kind);
    }
}

/* A whole frame is not copied; one in pieces is, to the buffer. */
static void frame__whole_frames_are_not_copied(void **state)
{
    uint8_t buffer[8];
    const uint8_t bytes[] = "\3\0\0\0abc\2\0\0\0de\1\0";
    const uint8_t *at = bytes, *frame;
    size_t len = sizeof(bytes) - 1;
    uint32_t frame_len;
    struct kvn_frames frames;
    (void)state;
    kvn_frames_init(&frames, buffer, sizeof(buffer));
    assert_int_equal(
        kvn_frames_next(&frames, &at, &len, &frame, &frame_len, NULL), KV_OK);
    assert_ptr_equal(frame, bytes + 4);
    assert_int_equal(frame_len, 3);
    assert_int_equal(
        kvn_frames_next(&frames, &at, &len, &frame, &frame_len, NULL), KV_OK);
    assert_ptr_equal(frame, bytes + 11);
    assert_false(kvn_frames_begun(&frames));
    assert_int_equal(
        kvn_frames_next(&frames, &at, &len, &frame, &frame_len, NULL), KV_INPROGRESS);
    assert_int_equal(len, 0);
    assert_true(kvn_frames_begun(&frames));
    at = (const uint8_t *)"\0\0";
    len = 2;
    assert_int_equal(
        kvn_frames_next(&frames, &at, &len, &frame, &frame_len, NULL), KV_INPROGRESS);
    at = (const uint8_t *)"z";
    len = 1;
    assert_int_equal(
        kvn_frames_next(&frames, &at, &len, &frame, &frame_len, NULL), KV_OK);
    assert_int_equal(frame_len, 1);
    assert_int_equal(frame[0], 'z');
}

/* A wrong length names itself, and stays wrong whatever follows. */
static void frame__wrong_lengths_are_named(void **state)
{
    uint8_t buffer[8], bytes[4];
    static const uint32_t lengths[] = {0, 9, UINT32_MAX};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct kvn_frames frames;
        struct kv_detail detail = {0};
        const uint8_t *at = bytes, *frame;
        size_t len = 4;
        uint32_t frame_len;
        kvn_frame_head(lengths[i], bytes);
        kvn_frames_init(&frames, buffer, sizeof(buffer));
        for (unsigned again = 0; again < 2; again++) {
            assert_int_equal(
                kvn_frames_next(&frames, &at, &len, &frame, &frame_len, &detail),
                KV_ERR_PROTOCOL);
            assert_string_equal(detail.field, "frame.len");
            assert_int_equal(detail.limit, i == 0 ? 1 : 8);
            assert_int_equal(detail.value, lengths[i]);
            at = bytes;
            len = 4;
        }
    }
}

static void frame__hello_is_eight_bytes(void **state)
{
    uint8_t bytes[KVN_HELLO_BYTES + 1] = {0};
    struct kvn_hello hello = {.have = 0};
    const uint8_t *at = bytes;
    size_t len = sizeof(bytes);
    uint32_t node = 0;
    (void)state;
    kvn_hello_make(0x01020304, bytes);
    assert_memory_equal(bytes, "kvl1\4\3\2\1", 8);
    assert_int_equal(kvn_hello_take(&hello, &at, &len, &node), KV_OK);
    assert_int_equal(node, 0x01020304);
    assert_int_equal(len, 1);
}

static void address__is_what_was_written(void **state)
{
    static const struct {
        const char *text;
        const char *host; /* NULL: refused */
        unsigned port;
        bool numeric, loopback;
    } rows[] = {
        {"127.0.0.1:7070", "127.0.0.1", 7070, true, true},
        {"127.255.0.9:0", "127.255.0.9", 0, true, true},
        {"10.0.0.3:65535", "10.0.0.3", 65535, true, false},
        {"[::1]:7070", "::1", 7070, true, true},
        {"[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1", 1, true, true},
        {"[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1", 1, true, false},
        {"[fd00::3]:1", "fd00::3", 1, true, false},
        {"[fe80::1%lo]:1", "fe80::1%lo", 1, true, false},
        {"[fe80::1%nowhere]:1", "fe80::1%nowhere", 1, false, false},
        {"localhost:1", "localhost", 1, false, true},
        {"localhost.evil.example:1", "localhost.evil.example", 1, false, false},
        {"127.1:1", "127.1", 1, false, false}, /* not the form of inet_aton() */
        {"0.0.0.0:1", "0.0.0.0", 1, true, false},
        {"", NULL, 0, false, false},
        {"host", NULL, 0, false, false},
        {"host:", NULL, 0, false, false},
        {"host:-1", NULL, 0, false, false},
        {"host:65536", NULL, 0, false, false},
        {"::1:1", NULL, 0, false, false},
        {"[]:1", NULL, 0, false, false},
        {"[::1:1", NULL, 0, false, false},
        {"[host:1", NULL, 0, false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kvn_address address;
        union kvn_sockaddr addr;
        char why[160] = "";
        const kv_status_t status =
            kvn_address_parse(rows[i].text, &address, why, sizeof(why));
        assert_int_equal(status, rows[i].host == NULL ? KV_ERR_CONFIG : KV_OK);
        assert_true((status == KV_OK) == (why[0] == '\0'));
        if (status != KV_OK) {
            continue;
        }
        assert_string_equal(address.host, rows[i].host);
        assert_int_equal(address.port, rows[i].port);
        assert_int_equal(kvn_address_numeric(&address, &addr), rows[i].numeric);
        assert_int_equal(kvn_address_is_loopback(&address), rows[i].loopback);
    }
}

static void sockaddr_of(const char *text, union kvn_sockaddr *addr)
{
    struct kvn_address address;
    char why[160];
    assert_int_equal(kvn_address_parse(text, &address, why, sizeof(why)), KV_OK);
    assert_true(kvn_address_numeric(&address, addr));
}

/* Limits count a host, and an IPv6 host has a whole /64 to speak from. */
static void address__party_is_a_host(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } rows[] = {
        {"10.0.0.1:1", "10.0.0.1:2", true},
        {"10.0.0.1:1", "10.0.0.2:1", false},
        {"10.0.0.1:1", "[::ffff:10.0.0.1]:1", true},
        {"[fd00::1]:1", "[fd00::ffff:2]:1", true},
        {"[fd00::1]:1", "[fd00:0:0:1::1]:1", false},
        {"[::1]:1", "127.0.0.1:1", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        union kvn_sockaddr a, b;
        sockaddr_of(rows[i].a, &a);
        sockaddr_of(rows[i].b, &b);
        assert_int_equal(kvn_sockaddr_same_party(&a, &b), rows[i].same);
        assert_int_equal(kvn_sockaddr_same_party(&b, &a), rows[i].same);
    }
    union kvn_sockaddr addr;
    char out[KVN_ADDRESS_TEXT_MAX];
    sockaddr_of("[fd00::3]:7070", &addr);
    kvn_sockaddr_format(&addr, out, sizeof(out));
    assert_string_equal(out, "[fd00::3]:7070");
    sockaddr_of("10.0.0.3:7070", &addr);
    kvn_sockaddr_format(&addr, out, sizeof(out));
    assert_string_equal(out, "10.0.0.3:7070");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame__sniff_waits_only_for_what_could_be_ours),
        cmocka_unit_test(frame__whole_frames_are_not_copied),
        cmocka_unit_test(frame__wrong_lengths_are_named),
        cmocka_unit_test(frame__hello_is_eight_bytes),
        cmocka_unit_test(address__is_what_was_written),
        cmocka_unit_test(address__party_is_a_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
