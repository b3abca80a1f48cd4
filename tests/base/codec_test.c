/* Goal: what we encode we can decode, and nothing that a peer sends does harm. Method:
 * messages made from the field table (tests/base/msg_make.h), right and wrong in every
 * field, compared with a second encoder that is msgpack-c and a walk over the table.
 *
 *   codec_test --wire-table      prints the tables of docs/wire.md
 */
#include "tests/base/codec_kit.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/msgpack_priv.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SEEDS = 40 };

/* ---- messages that are right ----------------------------------------------------- */

/* Whatever a message holds within its bounds arrives unchanged, in one encoding: else
 * two nodes could disagree about what was said. */
static void codec__random_message_round_trips(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            struct make make = kit_make(seed * KV_NR_MSGS + i);
            struct kv_msg msg;
            make_msg(&make, kv_msg_type_at(i), &msg);
            kit_check_round_trip(&make, &msg);
        }
    }
}

/* A message may consist of its envelope alone: zero fields are left out. */
static void codec__empty_message_round_trips(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        const struct kv_msg msg = {.proto = 1, .type = kv_msg_type_at(i)};
        struct make make = kit_make(i);
        size_t len;
        uint8_t *bytes = kit_encode(&msg, &len);
        assert_int_equal(len, 5);
        kit_check_round_trip(&make, &msg);
        free(bytes);
    }
}

/* The bounds exist so that one message and one arena of known sizes hold everything. */
static void codec__largest_message_fits_message_and_arena(void **state)
{
    size_t most_bytes = 0, most_arena = 0;

    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg, back;
        uint8_t *bytes;
        size_t len;
        make.fill = MAKE_LARGEST;
        make_msg(&make, kv_msg_type_at(i), &msg);
        kit_check_round_trip(&make, &msg);
        bytes = kit_encode(&msg, &len);
        assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
        most_bytes = len > most_bytes ? len : most_bytes;
        most_arena = kit_arena.used > most_arena ? kit_arena.used : most_arena;
        free(bytes);
    }
    print_message(
        "largest message %zu bytes, largest arena %zu bytes\n", most_bytes, most_arena);
    assert_true(most_bytes <= KV_MSG_BYTES_MAX);
    assert_true(most_arena <= KV_MSG_ARENA_BYTES);
}

/* Many short lists waste more of the arena on alignment than few long ones. */
static void codec__lookup_of_most_segments_fits_arena(void **state)
{
    enum { EACH = KV_MSG_KEYS_MAX / KV_MSG_SEGS_MAX };
    static kv_key_t keys[EACH];
    struct kv_msg_segment segs[KV_MSG_SEGS_MAX];
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_LOOKUP}, back;
    uint8_t *bytes;
    size_t len;

    (void)state;
    memset(segs, 0, sizeof(segs));
    for (size_t i = 0; i < KV_MSG_SEGS_MAX; i++) {
        segs[i].keys = keys;
        segs[i].nr_keys = EACH;
    }
    msg.u.lookup.segs = segs;
    msg.u.lookup.nr_segs = KV_MSG_SEGS_MAX;
    bytes = kit_encode(&msg, &len);
    assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
    assert_int_equal(back.u.lookup.segs[KV_MSG_SEGS_MAX - 1].nr_keys, EACH);
    free(bytes);
}

/* The example of docs/wire.md, so that a change of the encoding is seen as one. */
static void codec__example_has_the_documented_bytes(void **state)
{
    static const uint8_t want[] = {0x86, 0x00, 0x01, 0x01, 0x04, 0x02, 0x07, 0x04,
                                   0x02, 0x10, 0xcd, 0x01, 0x2c, 0x11, 0x01};
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_PING, .req = 7, .epoch = 2};
    uint8_t *bytes;
    size_t len;

    (void)state;
    msg.u.ping.seq = 300;
    msg.u.ping.stream_pos = 1;
    bytes = kit_encode(&msg, &len);
    assert_int_equal(len, sizeof(want));
    assert_memory_equal(bytes, want, sizeof(want));
    free(bytes);
}

/* ---- the table ------------------------------------------------------------------- */

static void check_shape(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    const struct kv_record *record = field->record;

    (void)arg;
    (void)type;
    assert_true((record == NULL) == kv_field_is_leaf(field));
    assert_true(field->max <= KV_MSGPACK_COUNT_MAX || field->kind == KV_FIELD_UINT);
    if (list == NULL) { /* (1) */
        assert_true(field->kind != KV_FIELD_RECORD);
        assert_true(field->key >= KV_BODY_KEY_MIN);
        assert_false(field->optional);
        return;
    }
    if (list->kind == KV_FIELD_RECORD || list->record->bare) { /* (2) */
        assert_true(kv_field_is_leaf(field));
    }
    if (field->kind == KV_FIELD_LIST) { /* (2) */
        assert_true(record->bare);
    }
    if (list->record->bare) {
        assert_int_equal(list->record->nr_fields, 1);
        assert_int_equal(field->offset, 0);
    }
}

static void check_keys_grow(const struct kv_field *fields, uint32_t n)
{
    assert_true(n <= KV_MSG_FIELDS_MAX);
    for (uint32_t i = 1; i < n; i++) {
        assert_true(fields[i].key > fields[i - 1].key);
    }
}

/* The walks over the table are as deep as rules (1) and (2) of codec_priv.h allow. */
static void table__shapes_are_what_the_walks_expect(void **state)
{
    (void)state;
    check_keys_grow(kv_envelope_fields, kv_nr_envelope_fields);
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        const struct kv_msg_desc *desc = kv_msg_desc(kv_msg_type_at(i));
        check_keys_grow(desc->fields, desc->nr_fields);
        make_each_field(kv_msg_type_at(i), check_shape, NULL);
        assert_int_equal(kv_msg_index(kv_msg_type_at(i)), i);
        assert_string_equal(kv_msg_name(kv_msg_type_at(i)), desc->name);
    }
    assert_int_equal(kv_msg_index(6), KV_NR_MSGS);
    assert_string_equal(kv_msg_name(6), "unknown");
    assert_string_equal(kv_msg_name(UINT32_MAX), "unknown");
}

/* The document is what another implementation is written from. */
static void table__wire_document_has_it(void **state)
{
    char *tables = NULL, *text = kv_calloc(1, 1 << 17);
    size_t len = 0;
    FILE *out = open_memstream(&tables, &len), *in = fopen("docs/wire.md", "r");

    (void)state;
    assert_non_null(out);
    assert_non_null(text);
    if (in == NULL) {
        fail_msg("docs/wire.md: run from the source folder");
    }
    make_wire_tables(out);
    fclose(out);
    assert_true(fread(text, 1, (1 << 17) - 1, in) > 0);
    fclose(in);
    if (strstr(text, tables) == NULL) {
        print_message("docs/wire.md should have:\n%s", tables);
        fail_msg("docs/wire.md differs from the table");
    }
    free(tables);
    kv_free(text);
}

/* ---- versions -------------------------------------------------------------------- */

/* What a newer peer adds is passed over, and the rest read as if it were not there. */
static void codec__unknown_keys_are_skipped(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg, back;
        size_t len, want_len, back_len;
        uint8_t *bytes, *want, *again;
        make_msg(&make, kv_msg_type_at(i), &msg);
        want = make_bytes(&make, &msg, &want_len);
        make.unknown_keys = true;
        bytes = make_bytes(&make, &msg, &len);
        assert_true(len > want_len);
        assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
        again = kit_encode(&back, &back_len);
        assert_int_equal(back_len, want_len);
        assert_memory_equal(again, want, want_len);
        free(again);
        free(bytes);
        free(want);
    }
}

static void
expect_field(const uint8_t *bytes, size_t len, kv_status_t status, const char *field)
{
    struct kv_detail detail = {.field = "none"};
    /* Of exactly this size, so that the sanitizer sees a read past it. */
    uint8_t *exact = malloc(len + (len == 0));
    struct kv_msg msg;
    kv_status_t got;

    assert_non_null(exact);
    if (len > 0) {
        memcpy(exact, bytes, len);
    }
    got = kit_decode(exact, len, &msg, &detail);
    if (got != status || (field != NULL && strcmp(detail.field, field) != 0)) {
        fail_msg(
            "%s field %s, wanted %s field %s", kv_status_name(got), detail.field,
            kv_status_name(status), field);
    }
    free(exact);
}
#define EXPECT(status, field, ...)                                                     \
    expect_field(                                                                      \
        (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}),        \
        (status), (field))

/* Version before type: a newer version has types that we need not know. */
static void codec__envelope_is_checked_version_first(void **state)
{
    struct kv_msg msg = {.proto = KV_PROTO_MAX + 1, .type = 6};
    struct kv_detail detail;
    uint8_t out[16];
    size_t len = 77;

    (void)state;
    EXPECT(KV_OK, NULL, 0x82, 0, 1, 1, 5);
    EXPECT(KV_ERR_VERSION, "proto", 0x82, 0, 2, 1, 6);
    EXPECT(KV_ERR_VERSION, "proto", 0x81, 1, 5);
    EXPECT(KV_ERR_VERSION, "proto", 0x80);
    EXPECT(KV_ERR_INVALID, "type", 0x82, 0, 1, 1, 6);
    EXPECT(KV_ERR_INVALID, "type", 0x81, 0, 1);
    EXPECT(KV_ERR_INVALID, "type", 0x82, 0, 1, 16, 1);
    EXPECT(KV_ERR_INVALID, "type", 0x82, 0, 1, 1, 0xce, 0xff, 0xff, 0xff, 0xff);
    EXPECT(KV_ERR_INVALID, "proto", 0x82, 0, 0, 1, 5);
    EXPECT(KV_ERR_INVALID, "req", 0x83, 0, 1, 1, 5, 2, 0);
    EXPECT(KV_ERR_INVALID, "req", 0x83, 0, 1, 1, 5, 2, 0xff);
    EXPECT(
        KV_ERR_INVALID, "deadline_left_us", 0x83, 0, 1, 1, 5, 5, 0xcf, 0, 0, 0, 1, 0, 0,
        0, 0);
    EXPECT(KV_ERR_INVALID, "message.map", 0x92, 0, 1);
    EXPECT(KV_ERR_INVALID, "message.map", 5);
    assert_int_equal(kv_encode(&msg, out, sizeof(out), &len, &detail), KV_ERR_VERSION);
    assert_string_equal(detail.field, "proto");
    msg.proto = KV_PROTO_MAX;
    assert_int_equal(kv_encode(&msg, out, sizeof(out), &len, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "type");
    assert_int_equal(len, 77);
}

/* ---- bytes that are no message --------------------------------------------------- */

/* Every beginning of every message is refused, and nothing past its end is read. */
static void codec__cut_message_is_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg;
        size_t len;
        uint8_t *bytes;
        make_msg(&make, kv_msg_type_at(i), &msg);
        bytes = kit_encode(&msg, &len);
        for (size_t cut = 0; cut < len; cut++) {
            expect_field(bytes, cut, KV_ERR_INVALID, "message.end");
        }
        free(bytes);
    }
}

/* One wrong bit gives an error or another message, but a message we could have sent:
 * it encodes to as many bytes, the same ones, or to fewer if it has unknown parts. */
static void codec__flipped_bits_do_no_harm(void **state)
{
    struct kv_rng rng = kv_rng_seed(1);

    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS * 8; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg, back;
        size_t len, back_len;
        uint8_t *bytes;
        make_msg(&make, kv_msg_type_at(i % KV_NR_MSGS), &msg);
        bytes = kit_encode(&msg, &len);
        for (unsigned flip = 0; flip < 200; flip++) {
            uint64_t bit = kv_rng_below(&rng, 8 * len);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (kit_decode(bytes, len, &back, NULL) == KV_OK) {
                uint8_t *again = kit_encode(&back, &back_len);
                assert_true(back_len <= len);
                if (back_len == len) {
                    assert_memory_equal(again, bytes, len);
                }
                free(again);
            }
            if (!kv_rng_one_in(&rng, 8)) { /* else let some wrong bits stay */
                bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
        }
        free(bytes);
    }
}

/* A message of the greatest size is read, even if all of it is a newer peer's. */
static void codec__greatest_message_is_read_and_one_byte_more_refused(void **state)
{
    static const uint8_t head[] = {0x83, 0, 1, 1, 5, 0xcd, 0x01, 0x00, 0xc6};
    uint32_t rest = KV_MSG_BYTES_MAX - sizeof(head) - 4;
    uint8_t *bytes = calloc(1, KV_MSG_BYTES_MAX + 1);

    (void)state;
    assert_non_null(bytes);
    memcpy(bytes, head, sizeof(head));
    for (size_t i = 0; i < 4; i++) {
        bytes[sizeof(head) + i] = (uint8_t)(rest >> (24 - 8 * i));
    }
    expect_field(bytes, KV_MSG_BYTES_MAX, KV_OK, NULL);
    expect_field(bytes, KV_MSG_BYTES_MAX + 1, KV_ERR_TOO_LARGE, "message.bytes");
    expect_field(bytes, KV_MSG_BYTES_MAX - 1, KV_ERR_INVALID, "message.end");
    free(bytes);
}

/* What a log says of bytes that are no message: the field, the limit and the value. */
static void codec__refusal_is_one_line(void **state)
{
    static uint8_t large[KV_MSG_BYTES_MAX + 1], deep[KV_MSG_DEPTH_MAX + 2];
    static const uint8_t cut[] = {0x82, 0, 1, 1, 0xcd, 1};
    static const uint8_t newer[] = {0x82, 0, 2, 1, 5};
    static const struct {
        const uint8_t *bytes;
        size_t len;
        const char *line;
    } rows[] = {
        {cut, sizeof(cut),
         "invalid: a field is malformed or out of its bound: message.end is 2, the "
         "limit is 1"},
        {large, sizeof(large),
         "too_large: more than can ever be held: message.bytes is 1048577, the limit "
         "is 1048576"},
        {deep, sizeof(deep),
         "invalid: a field is malformed or out of its bound: message.depth is 9, the "
         "limit is 8"},
        {newer, sizeof(newer),
         "version: no protocol version in common: proto is 2, the limit is 1"},
    };

    (void)state;
    memset(deep, 0x91, sizeof(deep));
    for (size_t i = 0; i < KV_COUNT_OF(rows); i++) {
        struct kv_detail detail = {0};
        struct kv_msg msg;
        char line[256];
        kv_status_t status = kit_decode(rows[i].bytes, rows[i].len, &msg, &detail);
        kv_detail_format(&detail, status, line, sizeof(line));
        assert_string_equal(line, rows[i].line);
    }
}

/* ---- room ------------------------------------------------------------------------ */

/* One byte too few is a status, what was taken is given back, and the message that
 * the caller had is left alone. */
static void codec__small_arena_gives_too_large(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg, back = {.proto = 99};
        struct kv_arena arena = kit_arena;
        struct kv_detail detail;
        size_t len, needed;
        uint8_t *bytes;
        make.fill = MAKE_LARGEST;
        make_msg(&make, kv_msg_type_at(i), &msg);
        bytes = kit_encode(&msg, &len);
        assert_int_equal(kit_decode(bytes, len, &msg, NULL), KV_OK);
        needed = kit_arena.used;
        if (needed > 0) {
            arena.used = 0;
            arena.size = needed - 1;
            assert_int_equal(
                kv_decode(bytes, len, &arena, &back, &detail), KV_ERR_TOO_LARGE);
            assert_string_equal(detail.field, "arena.bytes");
            assert_int_equal(detail.limit, needed - 1);
            assert_int_equal(arena.used, 0);
            assert_int_equal(back.proto, 99);
        }
        arena.used = 1; /* 15 bytes go to alignment */
        arena.size = needed + 16;
        assert_int_equal(kv_decode(bytes, len, &arena, &back, &detail), KV_OK);
        free(bytes);
    }
}

/* What the arena held before shows nowhere, not even between the fields of a record: a
 * simulation that hashes messages must replay. */
static void codec__arena_is_the_same_whatever_it_held(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_msg msg, back;
        size_t len, used;
        uint8_t *bytes, *first;
        make_msg(&make, kv_msg_type_at(i), &msg);
        bytes = kit_encode(&msg, &len);
        memset(kit_arena.base, 0xff, kit_arena.size);
        assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
        used = kit_arena.used;
        first = kv_calloc(used, 1);
        assert_non_null(first);
        memcpy(first, kit_arena.base, used);
        memset(kit_arena.base, 0x00, kit_arena.size);
        assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
        assert_int_equal(kit_arena.used, used);
        assert_memory_equal(kit_arena.base, first, used);
        kv_free(first);
        free(bytes);
    }
}

/* A buffer one byte too small is refused with the size it should have. */
static void codec__small_buffer_gives_too_large(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        struct make make = kit_make(i);
        struct kv_detail detail;
        struct kv_msg msg;
        size_t len, got = 77;
        uint8_t *bytes, *small;
        make_msg(&make, kv_msg_type_at(i), &msg);
        bytes = kit_encode(&msg, &len);
        small = malloc(len - 1);
        assert_non_null(small);
        assert_int_equal(
            kv_encode(&msg, small, len - 1, &got, &detail), KV_ERR_TOO_LARGE);
        assert_string_equal(detail.field, "message.bytes");
        assert_int_equal(detail.limit, len - 1);
        assert_int_equal(detail.value, len);
        assert_int_equal(got, 77);
        assert_int_equal(kv_encode(&msg, NULL, 0, &got, &detail), KV_ERR_TOO_LARGE);
        assert_int_equal(detail.value, len);
        free(small);
        free(bytes);
    }
}

/* ---- the printed form ------------------------------------------------------------ */

static void expect_line(const struct kv_msg *msg, const char *line)
{
    char out[256];
    size_t len = strlen(line);

    kv_msg_format(msg, out, sizeof(out));
    assert_string_equal(out, line);
    for (size_t cap = 1; cap <= len; cap++) {
        memset(out, 'x', sizeof(out));
        kv_msg_format(msg, out, cap);
        assert_int_equal(strlen(out), cap - 1);
        assert_memory_equal(out, line, cap - 1);
    }
}

/* Golden traces match these lines; keys are in none of them. */
static void format__line_has_what_is_set_without_keys(void **state)
{
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_PUBLISH};

    (void)state;
    msg.u.publish.pos = 3;
    msg.u.publish.nr_items = 2;
    expect_line(&msg, "publish pos 3 items 2");
    msg = (struct kv_msg){.type = KV_MSG_STATUS};
    msg.u.status.status = KV_ERR_INVALID;
    msg.u.status.field = (struct kv_msg_text){.text = "a\nb", .len = 3};
    msg.u.status.limit = 256;
    expect_line(&msg, "status status invalid field a?b limit 256");
    msg = (struct kv_msg){.type = KV_MSG_STATUS};
    msg.u.status.status = -9999;
    expect_line(&msg, "status status -9999");
    msg = (struct kv_msg){.type = KV_MSG_LOOKUP};
    msg.u.lookup.tails = true;
    msg.u.lookup.tail_prev.b[0] = 1;
    expect_line(&msg, "lookup tails");
    msg = (struct kv_msg){.type = 6};
    expect_line(&msg, "unknown 6");
    kv_msg_format(&msg, NULL, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec__random_message_round_trips),
        cmocka_unit_test(codec__empty_message_round_trips),
        cmocka_unit_test(codec__largest_message_fits_message_and_arena),
        cmocka_unit_test(codec__lookup_of_most_segments_fits_arena),
        cmocka_unit_test(codec__example_has_the_documented_bytes),
        cmocka_unit_test(table__shapes_are_what_the_walks_expect),
        cmocka_unit_test(table__wire_document_has_it),
        cmocka_unit_test(codec__unknown_keys_are_skipped),
        cmocka_unit_test(codec__envelope_is_checked_version_first),
        cmocka_unit_test(codec__cut_message_is_refused),
        cmocka_unit_test(codec__flipped_bits_do_no_harm),
        cmocka_unit_test(codec__greatest_message_is_read_and_one_byte_more_refused),
        cmocka_unit_test(codec__refusal_is_one_line),
        cmocka_unit_test(codec__small_arena_gives_too_large),
        cmocka_unit_test(codec__arena_is_the_same_whatever_it_held),
        cmocka_unit_test(codec__small_buffer_gives_too_large),
        cmocka_unit_test(format__line_has_what_is_set_without_keys),
    };

    if (argc == 2 && strcmp(argv[1], "--wire-table") == 0) {
        make_wire_tables(stdout);
        return 0;
    }
    return cmocka_run_group_tests(tests, kit_setup, kit_teardown);
}
