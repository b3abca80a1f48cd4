/* Goal: the reader takes canonical msgpack within its bounds and nothing else. Method:
 * bytes written by hand around every limit; tests/fuzz/msgpack_fuzz.c goes on from
 * there with msgpack-c as the judge.
 *
 *   msgpack_test --corpus FOLDER   writes seeds to FOLDER/msg/ and FOLDER/msgpack/;
 *                                  FOLDER is tests/fuzz/corpus
 */
#include "tests/base/msg_make.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/msgpack_priv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CORPUS_ARENA_BYTES = 1 << 20 };

static void
expect_form(const uint8_t *bytes, size_t len, kv_status_t status, const char *field)
{
    struct kv_detail detail = {.field = "none"};
    /* Of exactly this size, so that the sanitizer sees a read past it. */
    uint8_t *exact = malloc(len + (len == 0));
    kv_status_t got;

    assert_non_null(exact);
    if (len > 0) {
        memcpy(exact, bytes, len);
    }
    got = kv_msgpack_check(exact, len, &detail);
    if (got != status || (field != NULL && strcmp(detail.field, field) != 0)) {
        fail_msg(
            "%s field %s, wanted %s field %s", kv_status_name(got), detail.field,
            kv_status_name(status), field);
    }
    free(exact);
}
#define EXPECT(status, field, ...)                                                     \
    expect_form(                                                                       \
        (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}),        \
        (status), (field))

/* Nesting costs the reader a fixed table, never stack. */
static void msgpack__deep_nesting_is_refused(void **state)
{
    enum { DEEP = 100000 };
    uint8_t *bytes = malloc(DEEP);
    struct kv_detail detail;

    (void)state;
    assert_non_null(bytes);
    memset(bytes, 0x91, DEEP);
    assert_int_equal(kv_msgpack_check(bytes, DEEP, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "message.depth");
    assert_int_equal(detail.limit, KV_MSG_DEPTH_MAX);
    for (size_t i = 0; i < DEEP; i += 2) {
        bytes[i] = 0x81;
        bytes[i + 1] = 0x00;
    }
    assert_int_equal(kv_msgpack_check(bytes, DEEP, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "message.depth");
    memset(bytes, 0x91, DEEP);
    bytes[KV_MSG_DEPTH_MAX - 1] = 0x90;
    assert_int_equal(kv_msgpack_check(bytes, KV_MSG_DEPTH_MAX, &detail), KV_OK);
    bytes[KV_MSG_DEPTH_MAX - 1] = 0x91;
    bytes[KV_MSG_DEPTH_MAX] = 0x90;
    assert_int_equal(
        kv_msgpack_check(bytes, KV_MSG_DEPTH_MAX + 1, &detail), KV_ERR_INVALID);
    free(bytes);
}

/* Lengths and counts are compared with what is there before anything is taken. */
static void msgpack__huge_sizes_are_refused(void **state)
{
    (void)state;
    EXPECT(KV_ERR_INVALID, "message.end", 0xc6, 0xff, 0xff, 0xff, 0xff, 0);
    EXPECT(KV_ERR_INVALID, "message.end", 0xdb, 0xff, 0xff, 0xff, 0xff, 0);
    EXPECT(KV_ERR_INVALID, "message.count", 0xdd, 0xff, 0xff, 0xff, 0xff, 0);
    EXPECT(KV_ERR_INVALID, "message.count", 0xdf, 0xff, 0xff, 0xff, 0xff, 0);
    EXPECT(KV_ERR_INVALID, "message.count", 0xdc, 0x04, 0x01, 0);
    EXPECT(KV_ERR_INVALID, "message.end", 0xdc, 0x04, 0x00, 0);
    EXPECT(KV_ERR_INVALID, "message.end", 0xde, 0x04, 0x00, 0);
    EXPECT(KV_ERR_INVALID, "message.end", 0xcf, 0, 0, 0, 1);
    EXPECT(KV_ERR_INVALID, "message.end", 0x82, 0, 1, 1);
    expect_form(NULL, 0, KV_ERR_INVALID, "message.end");
}

/* A length and as many bytes: values in a form that is longer than need be. */
static const uint8_t longer[][10] = {
    {2, 0xcc, 0x7f},
    {3, 0xcd, 0x00, 0xff},
    {5, 0xce, 0x00, 0x00, 0xff, 0xff},
    {9, 0xcf, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
    {2, 0xd0, 0xe0},
    {2, 0xd0, 0x01},
    {3, 0xd1, 0xff, 0x80},
    {3, 0xd1, 0x7f, 0xff},
    {5, 0xd2, 0xff, 0xff, 0x80, 0x00},
    {5, 0xd2, 0x7f, 0xff, 0xff, 0xff},
    {9, 0xd3, 0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0},
    {9, 0xd3, 0, 0, 0, 0, 0, 0, 0, 1},
    {3, 0xc5, 0x00, 0x00},
    {5, 0xc6, 0, 0, 0, 0},
    {2, 0xd9, 0x00},
    {3, 0xda, 0x00, 0x00},
    {5, 0xdb, 0, 0, 0, 0},
    {3, 0xdc, 0x00, 0x00},
    {5, 0xdd, 0, 0, 0, 0},
    {3, 0xde, 0x00, 0x00},
    {5, 0xdf, 0, 0, 0, 0},
};
/* The same for values around the limits of each form, in their only one. */
static const uint8_t shortest[][10] = {
    {1, 0x7f},
    {2, 0xcc, 0x80},
    {3, 0xcd, 0x01, 0x00},
    {5, 0xce, 0x00, 0x01, 0x00, 0x00},
    {9, 0xcf, 0, 0, 0, 1, 0, 0, 0, 0},
    {9, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    {1, 0xe0},
    {2, 0xd0, 0xdf},
    {2, 0xd0, 0x80},
    {3, 0xd1, 0xff, 0x7f},
    {3, 0xd1, 0x80, 0x00},
    {5, 0xd2, 0xff, 0xff, 0x7f, 0xff},
    {5, 0xd2, 0x80, 0x00, 0x00, 0x00},
    {9, 0xd3, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff},
    {9, 0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0},
    {1, 0xc2},
    {2, 0xc4, 0x00},
    {1, 0xa0},
    {1, 0x90},
    {1, 0x80},
};

/* Each number and length has one form; the same value in any longer one is refused. */
static void msgpack__longer_forms_are_refused(void **state)
{
    struct kv_detail detail;

    (void)state;
    for (size_t i = 0; i < KV_COUNT_OF(longer); i++) {
        assert_int_equal(
            kv_msgpack_check(longer[i] + 1, longer[i][0], &detail), KV_ERR_INVALID);
        assert_string_equal(detail.field, "message.form");
    }
    for (size_t i = 0; i < KV_COUNT_OF(shortest); i++) {
        assert_int_equal(
            kv_msgpack_check(shortest[i] + 1, shortest[i][0], &detail), KV_OK);
    }
}

/* Nil, floats, extensions: none of our fields is one, so none of them has a reader. */
static void msgpack__foreign_types_are_refused(void **state)
{
    static const uint8_t leads[] = {0xc0, 0xc1, 0xc7, 0xc8, 0xc9, 0xca,
                                    0xcb, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8};

    (void)state;
    for (size_t i = 0; i < KV_COUNT_OF(leads); i++) {
        uint8_t bytes[24] = {0x83, 0, 1, 1, 5, 20, leads[i]};
        expect_form(bytes, sizeof(bytes), KV_ERR_INVALID, "message.type");
        expect_form(bytes, 7, KV_ERR_INVALID, "message.type");
    }
}

/* Keys grow, so none comes twice and a reader looks at each once; this holds for maps
 * that we skip, too. */
static void msgpack__keys_that_do_not_grow_are_refused(void **state)
{
    (void)state;
    EXPECT(KV_ERR_INVALID, "message.order", 0x82, 1, 5, 0, 1);
    EXPECT(KV_ERR_INVALID, "message.order", 0x83, 0, 1, 1, 5, 1, 5);
    EXPECT(KV_ERR_INVALID, "message.order", 0x83, 0, 1, 1, 5, 20, 0x82, 3, 1, 3, 1);
    EXPECT(KV_ERR_INVALID, "message.key", 0x81, 0xa1, 'a', 1);
    EXPECT(KV_ERR_INVALID, "message.key", 0x81, 0xff, 1);
    EXPECT(KV_ERR_INVALID, "message.key", 0x81, 0x90, 1);
    EXPECT(KV_ERR_INVALID, "message.key", 0x81, 0xce, 0, 1, 0, 0, 1);
    EXPECT(KV_OK, NULL, 0x83, 0, 1, 1, 5, 0xcd, 0xff, 0xff, 1);
    EXPECT(KV_ERR_INVALID, "message.trailing", 0x82, 0, 1, 1, 5, 0);
}

/* ---- seeds of the fuzz programs -------------------------------------------------- */

static void
write_seed(const char *folder, const char *name, const uint8_t *bytes, size_t len)
{
    char path[512];
    FILE *out;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    out = fopen(path, "wb");
    KV_ASSERT(out != NULL);
    KV_ASSERT(fwrite(bytes, 1, len, out) == len);
    KV_ASSERT(fclose(out) == 0);
}

static void write_msg_seed(
    const char *folder, const char *kind, const struct make *make,
    const struct kv_msg *msg)
{
    char name[64];
    size_t len;
    uint8_t *bytes = make_bytes(make, msg, &len);

    snprintf(name, sizeof(name), "msg/%s%s", kv_msg_name(msg->type), kind);
    write_seed(folder, name, bytes, len);
    free(bytes);
}

static void write_form_seeds(
    const char *folder, const char *kind, const uint8_t (*forms)[10], size_t n)
{
    char name[64];

    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "msgpack/%s_%02zu", kind, i);
        write_seed(folder, name, forms[i] + 1, forms[i][0]);
    }
}

static int write_corpus(const char *folder)
{
    static const uint8_t nested[] = {0x91, 0x81, 1,    0x91, 0x81, 2,   0x91,
                                     0x81, 3,    0x91, 0x81, 4,    0xc2};
    static const uint8_t mixed[] = {0x83, 0,    0x93, 0xe0, 0xc3, 0xa2, 'a',
                                    'b',  0x10, 0xc4, 2,    1,    2,    0xcd,
                                    1,    0,    0x92, 0xcc, 0xff, 0xd0, 0x80};

    struct kv_arena arena = {.base = kv_calloc(1, CORPUS_ARENA_BYTES)};

    KV_ASSERT(arena.base != NULL);
    arena.size = CORPUS_ARENA_BYTES;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct kv_msg empty = {.proto = 1, .type = kv_msg_type_at(i)}, msg;
        struct make make = {.rng = kv_rng_seed(i), .arena = &arena};
        arena.used = 0;
        make.target = kv_envelope_fields; /* so that no list is empty */
        make.value = 1;
        make_msg(&make, kv_msg_type_at(i), &msg);
        write_msg_seed(folder, "", &make, &msg);
        write_msg_seed(folder, "_empty", &make, &empty);
        make.unknown_keys = true;
        write_msg_seed(folder, "_unknown_keys", &make, &msg);
    }
    write_form_seeds(folder, "longer", longer, KV_COUNT_OF(longer));
    write_form_seeds(folder, "shortest", shortest, KV_COUNT_OF(shortest));
    write_seed(folder, "msgpack/nested", nested, sizeof(nested));
    write_seed(folder, "msgpack/mixed", mixed, sizeof(mixed));
    kv_free(arena.base);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(msgpack__deep_nesting_is_refused),
        cmocka_unit_test(msgpack__huge_sizes_are_refused),
        cmocka_unit_test(msgpack__longer_forms_are_refused),
        cmocka_unit_test(msgpack__foreign_types_are_refused),
        cmocka_unit_test(msgpack__keys_that_do_not_grow_are_refused),
    };

    if (argc == 3 && strcmp(argv[1], "--corpus") == 0) {
        return write_corpus(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
