#include "tests/base/msg_make.h"

#include "base/assert.h"

#include <inttypes.h>
#include <msgpack.h>
#include <stdlib.h>

enum { RANDOM_ITEMS_MAX = 4 }; /* of a list, unless the target says otherwise */

/* ---- structs --------------------------------------------------------------------- */

static void *take(struct make *make, size_t bytes)
{
    struct kv_arena *arena = make->arena;
    size_t used = (arena->used + 15) & ~(size_t)15;

    KV_ASSERT(used <= arena->size && bytes <= arena->size - used);
    arena->used = used + bytes;
    return memset(arena->base + used, 0, bytes);
}

/* A number of any length, often an edge. */
static uint64_t random_number(struct make *make, uint64_t max)
{
    uint64_t n = kv_rng_next(&make->rng) >> kv_rng_below(&make->rng, 64);

    if (kv_rng_one_in(&make->rng, 6)) {
        return max;
    }
    if (kv_rng_one_in(&make->rng, 6)) {
        return 0;
    }
    return max == UINT64_MAX ? n : n % (max + 1);
}

static uint64_t
number_for(struct make *make, const struct kv_field *field, uint64_t most)
{
    if (field == make->target) {
        return make->value;
    }
    if (make->fill == MAKE_LARGEST) {
        return field->max;
    }
    return random_number(make, most < field->max ? most : field->max);
}

static uint32_t count_for(struct make *make, const struct kv_field *field)
{
    uint64_t n = number_for(make, field, RANDOM_ITEMS_MAX);

    if (make->target != NULL && field != make->target && n == 0) {
        return 1; /* the target may lie in the list */
    }
    return (uint32_t)n;
}

static void set_uint(const struct kv_field *field, uint8_t *base, uint64_t n)
{
    uint16_t h = (uint16_t)n;
    uint32_t w = (uint32_t)n;

    if (field->width == sizeof(h)) {
        memcpy(base + field->offset, &h, sizeof(h));
    } else if (field->width == sizeof(w)) {
        memcpy(base + field->offset, &w, sizeof(w));
    } else {
        memcpy(base + field->offset, &n, sizeof(n));
    }
}

static void random_bytes(struct make *make, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)kv_rng_next(&make->rng);
    }
}

static void set_text(struct make *make, const struct kv_field *field, uint8_t *base)
{
    struct kv_msg_text text = {.len = (uint32_t)number_for(make, field, field->max)};
    char *bytes = take(make, text.len);

    for (uint32_t i = 0; i < text.len; i++) {
        do {
            bytes[i] = (char)(0x20 + kv_rng_below(&make->rng, 0xe0));
        } while (bytes[i] == 0x7f);
    }
    text.text = bytes;
    memcpy(base + field->offset, &text, sizeof(text));
}

static void set_keys(struct make *make, const struct kv_field *field, uint8_t *base)
{
    uint32_t n = count_for(make, field);
    void *keys;

    if (field != make->target && n > make->keys_left) {
        n = (uint32_t)make->keys_left;
    }
    make->keys_left -= n < make->keys_left ? n : make->keys_left;
    keys = take(make, (size_t)n * KV_KEY_BYTES);
    random_bytes(make, keys, (size_t)n * KV_KEY_BYTES);
    memcpy(base + field->offset, &keys, sizeof(keys));
    memcpy(base + field->count_offset, &n, sizeof(n));
}

static void set_field(struct make *make, const struct kv_field *field, uint8_t *base);

static void set_list(struct make *make, const struct kv_field *field, uint8_t *base)
{
    const struct kv_record *record = field->record;
    uint32_t n = count_for(make, field);
    uint8_t *items = take(make, (size_t)n * record->bytes);

    memcpy(base + field->offset, &items, sizeof(items));
    memcpy(base + field->count_offset, &n, sizeof(n));
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < record->nr_fields; j++) {
            set_field(make, &record->fields[j], items + (size_t)i * record->bytes);
        }
    }
}

static void set_field(struct make *make, const struct kv_field *field, uint8_t *base)
{
    bool largest = make->fill == MAKE_LARGEST;
    int32_t status;
    bool flag;

    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        set_uint(field, base, number_for(make, field, UINT64_MAX));
        break;
    case KV_FIELD_STATUS:
        status = (int32_t)(int64_t)random_number(make, UINT32_MAX);
        status >>= kv_rng_below(&make->rng, 31);
        status = largest ? INT32_MIN : status;
        memcpy(base + field->offset, &status, sizeof(status));
        break;
    case KV_FIELD_BOOL:
        flag = largest || kv_rng_one_in(&make->rng, 2);
        memcpy(base + field->offset, &flag, sizeof(flag));
        break;
    case KV_FIELD_BYTES:
        if (largest || !kv_rng_one_in(&make->rng, 3)) {
            random_bytes(make, base + field->offset, field->width);
        }
        break;
    case KV_FIELD_TEXT:
        set_text(make, field, base);
        break;
    case KV_FIELD_KEYS:
        set_keys(make, field, base);
        break;
    case KV_FIELD_LIST:
        set_list(make, field, base);
        break;
    case KV_FIELD_RECORD:
        for (uint32_t i = 0; i < field->record->nr_fields; i++) {
            set_field(make, &field->record->fields[i], base + field->offset);
        }
        break;
    }
}

void make_msg(struct make *make, uint32_t type, struct kv_msg *msg)
{
    const struct kv_msg_desc *desc = kv_msg_desc(type);

    KV_ASSERT(desc != NULL);
    memset(msg, 0, sizeof(*msg));
    make->keys_left = KV_MSG_KEYS_MAX;
    for (uint32_t i = 0; i < kv_nr_envelope_fields; i++) {
        set_field(make, &kv_envelope_fields[i], (uint8_t *)msg);
    }
    msg->proto = KV_PROTO_MAX;
    msg->type = type;
    for (uint32_t i = 0; i < desc->nr_fields; i++) {
        set_field(make, &desc->fields[i], (uint8_t *)&msg->u);
    }
}

/* ---- bytes ----------------------------------------------------------------------- */

static void write_field(
    const struct make *make, msgpack_packer *pk, const struct kv_field *field,
    const uint8_t *base);

/* What a newer peer may put where we expect nothing: {1: [true, -200], 2: "new"}. */
static void write_news(msgpack_packer *pk)
{
    msgpack_pack_map(pk, 2);
    msgpack_pack_int(pk, 1);
    msgpack_pack_array(pk, 2);
    msgpack_pack_true(pk);
    msgpack_pack_int(pk, -200);
    msgpack_pack_int(pk, 2);
    msgpack_pack_str_with_body(pk, "new", 3);
}

static void write_record(
    const struct make *make, msgpack_packer *pk, const struct kv_field *field,
    const uint8_t *item)
{
    const struct kv_record *record = field->record;
    uint32_t n = record->nr_fields;
    bool target = field == make->target;
    bool news = target && make->wrong == MAKE_LONG;

    if (target && make->wrong == MAKE_SHORT) {
        n--;
    }
    msgpack_pack_array(pk, n + news);
    for (uint32_t i = 0; i < n; i++) {
        write_field(make, pk, &record->fields[i], item);
    }
    if (news) {
        write_news(pk);
    }
}

static void write_list(
    const struct make *make, msgpack_packer *pk, const struct kv_field *field,
    const uint8_t *base)
{
    const struct kv_record *record = field->record;
    uint32_t n = kv_field_count(field, base);
    const uint8_t *item = kv_field_pointer(field, base);

    msgpack_pack_array(pk, n);
    for (uint32_t i = 0; i < n; i++, item += record->bytes) {
        if (record->bare) {
            write_field(make, pk, record->fields, item);
        } else {
            write_record(make, pk, field, item);
        }
    }
}

static void write_bytes(
    const struct make *make, msgpack_packer *pk, const struct kv_field *field,
    const uint8_t *base)
{
    static const uint8_t ones[UINT8_MAX + 1] = {[0 ... UINT8_MAX] = 1};
    bool zero = kv_bytes_are_zero(base + field->offset, field->width);

    if (field == make->target && make->wrong == MAKE_VALUE) {
        msgpack_pack_bin_with_body(pk, ones, make->value);
    } else if (field->optional && zero) {
        msgpack_pack_bin(pk, 0);
    } else {
        msgpack_pack_bin_with_body(pk, base + field->offset, field->width);
    }
}

/* A target that is not a composite, written wrong. True when that was all. */
static bool
write_wrong(const struct make *make, msgpack_packer *pk, const struct kv_field *field)
{
    if (field != make->target) {
        return false;
    }
    if (make->wrong == MAKE_WRONG_TYPE) {
        msgpack_pack_map(pk, 0);
        return true;
    }
    if (make->wrong == MAKE_NEGATIVE) {
        msgpack_pack_int64(pk, (int64_t)make->value);
        return true;
    }
    if (make->wrong == MAKE_VALUE
        && (field->kind == KV_FIELD_UINT || field->kind == KV_FIELD_STATUS)) {
        msgpack_pack_uint64(pk, make->value);
        return true;
    }
    return false;
}

static void write_field(
    const struct make *make, msgpack_packer *pk, const struct kv_field *field,
    const uint8_t *base)
{
    const uint8_t *at = base + field->offset;
    struct kv_msg_text text;
    int32_t status;

    if (write_wrong(make, pk, field)) {
        return;
    }
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        msgpack_pack_uint64(pk, kv_field_uint(field, base));
        break;
    case KV_FIELD_STATUS:
        memcpy(&status, at, sizeof(status));
        msgpack_pack_int32(pk, status);
        break;
    case KV_FIELD_BOOL:
        (void)(*at != 0 ? msgpack_pack_true(pk) : msgpack_pack_false(pk));
        break;
    case KV_FIELD_BYTES:
        write_bytes(make, pk, field, base);
        break;
    case KV_FIELD_TEXT:
        memcpy(&text, at, sizeof(text));
        msgpack_pack_str_with_body(pk, text.len > 0 ? text.text : "", text.len);
        break;
    case KV_FIELD_KEYS:
        msgpack_pack_bin(pk, (size_t)kv_field_count(field, base) * KV_KEY_BYTES);
        if (kv_field_count(field, base) > 0) {
            msgpack_pack_bin_body(
                pk, kv_field_pointer(field, base),
                (size_t)kv_field_count(field, base) * KV_KEY_BYTES);
        }
        break;
    case KV_FIELD_LIST:
        write_list(make, pk, field, base);
        break;
    case KV_FIELD_RECORD:
        write_record(make, pk, field, at);
        break;
    }
}

static bool
is_written(const struct make *make, const struct kv_field *field, const uint8_t *base)
{
    bool target = field == make->target && make->wrong != MAKE_RIGHT;

    return target || !kv_field_is_zero(field, base);
}

static uint32_t write_fields(
    const struct make *make, msgpack_packer *pk, const struct kv_field *fields,
    uint32_t nr_fields, const uint8_t *base)
{
    uint32_t written = 0;

    for (uint32_t i = 0; i < nr_fields; i++) {
        if (!is_written(make, &fields[i], base)) {
            continue;
        }
        written++;
        if (pk != NULL) {
            msgpack_pack_int(pk, fields[i].key);
            write_field(make, pk, &fields[i], base);
        }
    }
    return written;
}

uint8_t *make_bytes(const struct make *make, const struct kv_msg *msg, size_t *len_p)
{
    const struct kv_msg_desc *desc = kv_msg_desc(msg->type);
    const uint8_t *head = (const uint8_t *)msg;
    const uint8_t *body = (const uint8_t *)&msg->u;
    msgpack_sbuffer buffer;
    msgpack_packer pk;
    uint32_t n;

    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&pk, &buffer, msgpack_sbuffer_write);
    n = write_fields(make, NULL, kv_envelope_fields, kv_nr_envelope_fields, head);
    n += write_fields(make, NULL, desc->fields, desc->nr_fields, body);
    msgpack_pack_map(&pk, n + (make->unknown_keys ? 2 : 0));
    write_fields(make, &pk, kv_envelope_fields, kv_nr_envelope_fields, head);
    if (make->unknown_keys) {
        msgpack_pack_int(&pk, KV_BODY_KEY_MIN - 1);
        write_news(&pk);
    }
    write_fields(make, &pk, desc->fields, desc->nr_fields, body);
    if (make->unknown_keys) {
        msgpack_pack_int(&pk, 300);
        write_news(&pk);
    }
    *len_p = buffer.size;
    return (uint8_t *)msgpack_sbuffer_release(&buffer);
}

/* ---- the table ------------------------------------------------------------------- */

static void each_field(
    uint32_t type, const struct kv_field *fields, uint32_t nr_fields,
    const struct kv_field *list, make_visit_fn visit, void *arg)
{
    for (uint32_t i = 0; i < nr_fields; i++) {
        const struct kv_record *record = fields[i].record;
        visit(arg, type, &fields[i], list);
        if (record != NULL) {
            each_field(type, record->fields, record->nr_fields, &fields[i], visit, arg);
        }
    }
}

void make_each_field(uint32_t type, make_visit_fn visit, void *arg)
{
    const struct kv_msg_desc *desc = kv_msg_desc(type);

    each_field(type, desc->fields, desc->nr_fields, NULL, visit, arg);
}

static void print_form(FILE *out, const struct kv_field *field)
{
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        fprintf(out, "uint");
        break;
    case KV_FIELD_STATUS:
        fprintf(out, "int, a status");
        break;
    case KV_FIELD_BOOL:
        fprintf(out, "bool");
        break;
    case KV_FIELD_BYTES:
        fprintf(out, "bin%s", field->optional ? ", may be empty" : "");
        break;
    case KV_FIELD_TEXT:
        fprintf(out, "str");
        break;
    case KV_FIELD_KEYS:
        fprintf(out, "bin of %d-byte keys", KV_KEY_BYTES);
        break;
    case KV_FIELD_LIST:
        fprintf(out, "array of %s", field->record->name);
        break;
    case KV_FIELD_RECORD:
        fprintf(out, "%s", field->record->name);
        break;
    }
}

static void print_bound(FILE *out, const struct kv_field *field)
{
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        if (field->max == UINT64_MAX >> (64 - 8 * field->width)) {
            fprintf(out, "%d bits", 8 * field->width);
        } else {
            fprintf(out, "%" PRIu64, field->max);
        }
        break;
    case KV_FIELD_STATUS:
        fprintf(out, "32 bits with the sign");
        break;
    case KV_FIELD_BYTES:
        fprintf(out, "%d bytes", field->width);
        break;
    case KV_FIELD_TEXT:
        fprintf(out, "%" PRIu64 " bytes", field->max);
        break;
    case KV_FIELD_KEYS:
        fprintf(
            out, "%" PRIu64 " keys, %" PRIu32 " in the message", field->max,
            field->total);
        break;
    case KV_FIELD_LIST:
        fprintf(out, "%" PRIu64 " elements", field->max);
        break;
    case KV_FIELD_BOOL:
    case KV_FIELD_RECORD:
        fprintf(out, "-");
        break;
    }
}

static const char *label(const struct kv_field *field)
{
    const char *dot = strrchr(field->name, '.');

    return dot != NULL ? dot + 1 : field->name;
}

static void print_rows(FILE *out, const struct kv_field *fields, uint32_t n, bool map)
{
    fprintf(out, "| %s | field | form | at most |\n", map ? "key" : "place");
    fprintf(out, "| --- | --- | --- | --- |\n");
    for (uint32_t i = 0; i < n; i++) {
        fprintf(
            out, "| %" PRIu32 " | %s | ", map ? fields[i].key : i, label(&fields[i]));
        print_form(out, &fields[i]);
        fprintf(out, " | ");
        print_bound(out, &fields[i]);
        fprintf(out, " |\n");
    }
}

enum { RECORDS_MAX = 64 };

struct records {
    const struct kv_record *seen[RECORDS_MAX];
    size_t n;
};

static void note_record(
    void *arg, uint32_t type, const struct kv_field *field, const struct kv_field *list)
{
    struct records *records = arg;

    (void)type;
    (void)list;
    if (field->record == NULL) {
        return;
    }
    for (size_t i = 0; i < records->n; i++) {
        if (records->seen[i] == field->record) {
            return;
        }
    }
    KV_ASSERT(records->n < RECORDS_MAX);
    records->seen[records->n++] = field->record;
}

void make_wire_tables(FILE *out)
{
    struct records records = {.n = 0};

    fprintf(out, "### Envelope\n\n");
    print_rows(out, kv_envelope_fields, kv_nr_envelope_fields, true);
    for (unsigned i = 0; i < KV_NR_MSGS; i++) {
        const struct kv_msg_desc *desc = kv_msg_desc(kv_msg_type_at(i));
        fprintf(out, "\n### %s: type %" PRIu32 "\n\n", desc->name, kv_msg_type_at(i));
        print_rows(out, desc->fields, desc->nr_fields, true);
        make_each_field(kv_msg_type_at(i), note_record, &records);
    }
    for (size_t i = 0; i < records.n; i++) {
        const struct kv_record *record = records.seen[i];
        if (record->bare) {
            fprintf(out, "\n### Element %s: the value itself\n\n", record->name);
        } else {
            fprintf(
                out, "\n### Record %s: an array of %" PRIu32 "\n\n", record->name,
                (uint32_t)record->nr_fields);
        }
        print_rows(out, record->fields, record->nr_fields, false);
    }
}
