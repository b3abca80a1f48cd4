/* Goal: nothing over a bound and nothing of a wrong form passes, in any field of any
 * message. Method: a loop over the field table, each field in turn made right, one too
 * much, or wrong; a field that is added is thereby tested.
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

/* ---- bounds ---------------------------------------------------------------------- */

static void expect_refused(
    kv_status_t status, const struct kv_detail *detail, const struct kv_field *field)
{
    if (status != KV_ERR_INVALID || strcmp(detail->field, field->name) != 0) {
        fail_msg(
            "%s: %s, field %s", field->name, kv_status_name(status), detail->field);
    }
}

/* Decoding `make`'s message must be refused for its target. */
static void expect_bytes_refused(
    const struct make *make, const struct kv_msg *msg, uint64_t limit, uint64_t value)
{
    struct kv_detail detail = {.field = "none"};
    struct kv_msg back;
    size_t len;
    uint8_t *bytes = make_bytes(make, msg, &len);
    kv_status_t status = kit_decode(bytes, len, &back, &detail);

    if (status == KV_ERR_INVALID && value == KV_MSGPACK_COUNT_MAX + 1) {
        /* The longest list's bound is that of any list: the check comes first. */
        assert_string_equal(detail.field, "message.count");
    } else {
        expect_refused(status, &detail, make->target);
    }
    assert_int_equal(detail.limit, limit);
    assert_int_equal(detail.value, value);
    assert_int_equal(kit_arena.used, 0);
    free(bytes);
}

static bool fits_memory(const struct kv_field *field, uint64_t n)
{
    return field->kind != KV_FIELD_UINT || field->width == 8
           || n < UINT64_C(1) << (8 * field->width);
}

static void check_bound(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    struct make make = kit_make(type);
    struct kv_detail detail = {.field = "none"};
    unsigned *checked = arg;
    struct kv_msg msg;
    uint8_t out[64];
    size_t len;

    (void)list;
    if (field->kind == KV_FIELD_STATUS || field->kind == KV_FIELD_BOOL
        || field->kind == KV_FIELD_BYTES || field->kind == KV_FIELD_RECORD) {
        return; /* below */
    }
    make.target = field;
    make.value = field->max;
    make_msg(&make, type, &msg);
    kit_check_round_trip(&make, &msg);
    ++*checked;
    if (field->max == UINT64_MAX) {
        return;
    }
    make = kit_make(type);
    make.target = field;
    make.value = field->max + 1;
    if (fits_memory(field, make.value)) {
        make_msg(&make, type, &msg);
        expect_refused(
            kv_encode(&msg, out, sizeof(out), &len, &detail), &detail, field);
        assert_int_equal(detail.limit, field->max);
        assert_int_equal(detail.value, field->max + 1);
    } else {
        make.value = field->max;
        make_msg(&make, type, &msg);
        make.value = field->max + 1;
        make.wrong = MAKE_VALUE;
    }
    expect_bytes_refused(&make, &msg, field->max, field->max + 1);
}

/* Each number, length and count at its bound passes; one more is refused with the
 * field's name, by the encoder and by the decoder: neither trusts the other. */
static void codec__bound_passes_and_one_more_is_refused(void **state)
{
    unsigned checked = 0;

    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        make_each_field(kv_msg_type_at(i), check_bound, &checked);
    }
    print_message("%u bounds\n", checked);
    assert_true(checked > 100);
}

static void check_other_kinds(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    struct make make = kit_make(type);
    struct kv_msg msg;

    (void)arg;
    (void)list;
    make.target = field;
    make.value = 1;
    make_msg(&make, type, &msg);
    make.wrong = MAKE_WRONG_TYPE;
    expect_bytes_refused(
        &make, &msg, field->kind == KV_FIELD_STATUS ? INT32_MAX : field->max,
        field->kind == KV_FIELD_STATUS ? 0 : 0x80);
    if (field->kind == KV_FIELD_BYTES) {
        make.wrong = MAKE_VALUE;
        for (make.value = 0; make.value <= field->width + UINT64_C(1); make.value++) {
            if (make.value != field->width && !(field->optional && make.value == 0)) {
                expect_bytes_refused(&make, &msg, field->max, make.value);
            }
        }
    }
    if (field->kind == KV_FIELD_STATUS) {
        make.wrong = MAKE_VALUE;
        make.value = UINT64_C(1) << 31;
        expect_bytes_refused(&make, &msg, INT32_MAX, make.value);
        make.wrong = MAKE_NEGATIVE;
        make.value = (uint64_t)(INT64_C(-1) - (INT64_C(1) << 31));
        expect_bytes_refused(&make, &msg, INT32_MAX, make.value);
    }
    if (field->kind == KV_FIELD_UINT) {
        make.wrong = MAKE_NEGATIVE;
        make.value = (uint64_t)INT64_C(-1);
        expect_bytes_refused(&make, &msg, field->max, 0xff);
    }
}

/* A field of another type, or bytes of another length, are refused by name. */
static void codec__field_of_another_type_is_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        make_each_field(kv_msg_type_at(i), check_other_kinds, NULL);
    }
}

static void check_zero(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    struct make make = kit_make(type);
    struct kv_msg msg;

    (void)arg;
    if (list != NULL) {
        return;
    }
    make.target = field;
    make.value = 0;
    make_msg(&make, type, &msg);
    if (field->kind == KV_FIELD_BYTES || field->kind == KV_FIELD_BOOL
        || field->kind == KV_FIELD_STATUS) {
        memset((uint8_t *)&msg.u + field->offset, 0, field->width);
    }
    make.wrong = MAKE_ZERO;
    expect_bytes_refused(&make, &msg, field->max, 0);
}

/* A field that is written though it is zero would give one message two encodings. */
static void codec__zero_that_is_written_is_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        make_each_field(kv_msg_type_at(i), check_zero, NULL);
    }
}

/* An optional key has one form of "none", too: no bytes, not 32 zeros. */
static void codec__optional_key_of_zeros_is_refused(void **state)
{
    struct kv_msg_entry entry = {.tail = true, .prev = {{1}}};
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_PUBLISH}, back;
    struct kv_detail detail;
    size_t len;
    uint8_t *bytes;

    (void)state;
    msg.u.publish.items = &entry;
    msg.u.publish.nr_items = 1;
    bytes = kit_encode(&msg, &len);
    assert_int_equal(kit_decode(bytes, len, &back, NULL), KV_OK);
    assert_int_equal(bytes[len - KV_KEY_BYTES], 1);
    bytes[len - KV_KEY_BYTES] = 0;
    assert_int_equal(kit_decode(bytes, len, &back, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "publish.items.prev");
    free(bytes);
}

/* The keys of all segments together are bounded, though each segment's may pass. */
static void codec__keys_of_all_segments_are_bounded(void **state)
{
    static kv_key_t keys[KV_MSG_SEG_KEYS_MAX];
    enum { FULL = KV_MSG_KEYS_MAX / KV_MSG_SEG_KEYS_MAX };
    struct kv_msg_segment segs[FULL + 1];
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_LOOKUP}, back;
    struct make plain = kit_make(0);
    struct kv_detail detail;
    uint8_t *bytes, out[64];
    size_t len;

    (void)state;
    memset(segs, 0, sizeof(segs));
    for (size_t i = 0; i < FULL; i++) {
        segs[i].keys = keys;
        segs[i].nr_keys = KV_MSG_SEG_KEYS_MAX;
    }
    msg.u.lookup.segs = segs;
    msg.u.lookup.nr_segs = FULL + 1;
    kit_check_round_trip(&plain, &msg);
    segs[FULL].keys = keys;
    segs[FULL].nr_keys = 1;
    assert_int_equal(kv_encode(&msg, out, sizeof(out), &len, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "lookup.segs.keys");
    bytes = make_bytes(&plain, &msg, &len);
    assert_int_equal(kit_decode(bytes, len, &back, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "lookup.segs.keys");
    assert_int_equal(detail.limit, KV_MSG_KEYS_MAX);
    assert_int_equal(detail.value, KV_MSG_KEYS_MAX + 1);
    free(bytes);
}

/* A text ends up in logs and on terminals: nothing in it may steer them. */
static void codec__control_character_in_text_is_refused(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        bool control = c < 0x20 || c == 0x7f;
        char text[3] = {'a', (char)c, 'b'};
        struct kv_msg msg = {.proto = 1, .type = KV_MSG_STATUS}, back;
        struct make plain = kit_make(0);
        struct kv_detail detail;
        uint8_t *bytes, out[64];
        size_t len;
        msg.u.status.field = (struct kv_msg_text){.text = text, .len = 3};
        assert_int_equal(
            kv_encode(&msg, out, sizeof(out), &len, &detail),
            control ? KV_ERR_INVALID : KV_OK);
        bytes = make_bytes(&plain, &msg, &len);
        assert_int_equal(
            kit_decode(bytes, len, &back, &detail), control ? KV_ERR_INVALID : KV_OK);
        if (control) {
            assert_string_equal(detail.field, "status.field");
            assert_int_equal(detail.value, c);
        }
        free(bytes);
    }
}

static void check_lengths(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    struct make make = kit_make(type);
    struct kv_msg msg, back;
    size_t len, want_len, back_len;
    uint8_t *bytes, *want, *again;

    (void)arg;
    (void)list;
    if (field->record == NULL || field->record->bare) {
        return;
    }
    make.target = field;
    make.value = 2;
    make_msg(&make, type, &msg);
    make.wrong = MAKE_SHORT;
    expect_bytes_refused(
        &make, &msg, field->record->nr_fields, field->record->nr_fields - UINT64_C(1));
    make.wrong = MAKE_RIGHT;
    want = make_bytes(&make, &msg, &want_len);
    make.wrong = MAKE_LONG;
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

/* A longer record is a newer peer's; a shorter one lacks what we need. */
static void codec__longer_record_is_read_and_shorter_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        make_each_field(kv_msg_type_at(i), check_lengths, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec__bound_passes_and_one_more_is_refused),
        cmocka_unit_test(codec__field_of_another_type_is_refused),
        cmocka_unit_test(codec__zero_that_is_written_is_refused),
        cmocka_unit_test(codec__optional_key_of_zeros_is_refused),
        cmocka_unit_test(codec__keys_of_all_segments_are_bounded),
        cmocka_unit_test(codec__control_character_in_text_is_refused),
        cmocka_unit_test(codec__longer_record_is_read_and_shorter_refused),
    };

    return cmocka_run_group_tests(tests, kit_setup, kit_teardown);
}
