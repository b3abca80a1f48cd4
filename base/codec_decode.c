#include "base/codec.h"

#include "base/assert.h"
#include "base/codec_priv.h"
#include "base/msgpack_priv.h"

struct parser {
    struct kv_mp_reader reader;
    struct kv_arena *arena;
    uint64_t nr_keys;
    struct kv_detail *detail;
};

enum { ARENA_ALIGN = 16 };

/* Zeroed, so that padding and what a record leaves out are the same in every run. */
static kv_status_t
take(struct parser *parser, size_t count, size_t size, void **taken_p)
{
    struct kv_arena *arena = parser->arena;
    size_t used = (arena->used + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    size_t bytes = count * size; /* both bounded by the table */

    if (used > arena->size || bytes > arena->size - used) {
        return kv_fail(
            parser->detail, KV_ERR_TOO_LARGE, "arena.bytes", arena->size, used + bytes);
    }
    memset(arena->base + arena->used, 0, used + bytes - arena->used);
    *taken_p = arena->base + used;
    arena->used = used + bytes;
    return KV_OK;
}

/* The next token, which must be of one kind; its number against the field's bound. */
static inline kv_status_t pull(
    struct parser *parser, const struct kv_field *field, enum kv_mp_kind kind,
    struct kv_mp_token *token)
{
    uint8_t lead = parser->reader.next < parser->reader.end ? *parser->reader.next : 0;
    kv_status_t status = kv_mp_pull(&parser->reader, token, parser->detail);

    if (status != KV_OK) {
        return status;
    }
    if (token->kind != kind) {
        return kv_field_invalid(parser->detail, field, lead);
    }
    return KV_OK;
}

/* As pull(), for kinds whose number is what the table bounds. */
static inline kv_status_t pull_bounded(
    struct parser *parser, const struct kv_field *field, enum kv_mp_kind kind,
    struct kv_mp_token *token)
{
    kv_status_t status = pull(parser, field, kind, token);

    if (status == KV_OK && token->n > field->max) {
        return kv_field_invalid(parser->detail, field, token->n);
    }
    return status;
}

static kv_status_t
get_uint(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    kv_status_t status = pull_bounded(parser, field, KV_MP_UINT, &token);
    uint16_t h;
    uint32_t w;

    if (status != KV_OK) {
        return status;
    }
    switch (field->width) {
    case sizeof(h):
        h = (uint16_t)token.n;
        memcpy(base + field->offset, &h, sizeof(h));
        break;
    case sizeof(w):
        w = (uint32_t)token.n;
        memcpy(base + field->offset, &w, sizeof(w));
        break;
    default:
        memcpy(base + field->offset, &token.n, sizeof(token.n));
        break;
    }
    return KV_OK;
}

static kv_status_t
get_status(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    kv_status_t status = kv_mp_pull(&parser->reader, &token, parser->detail);
    int64_t n;
    int32_t stored;

    if (status != KV_OK) {
        return status;
    }
    n = (int64_t)token.n;
    if (!(token.kind == KV_MP_UINT && token.n <= INT32_MAX)
        && !(token.kind == KV_MP_NEGATIVE && n >= INT32_MIN)) {
        return kv_fail(parser->detail, KV_ERR_INVALID, field->name, INT32_MAX, token.n);
    }
    stored = (int32_t)n;
    memcpy(base + field->offset, &stored, sizeof(stored));
    return KV_OK;
}

static kv_status_t
get_bool(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    kv_status_t status = pull(parser, field, KV_MP_BOOL, &token);

    if (status == KV_OK) {
        bool flag = token.n != 0;
        memcpy(base + field->offset, &flag, sizeof(flag));
    }
    return status;
}

static kv_status_t
get_bytes(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    kv_status_t status = pull(parser, field, KV_MP_BIN, &token);

    if (status != KV_OK) {
        return status;
    }
    if (field->optional && token.n == 0) {
        memset(base + field->offset, 0, field->width);
        return KV_OK;
    }
    if (token.n != field->width
        || (field->optional && kv_bytes_are_zero(token.bytes, field->width))) {
        return kv_field_invalid(parser->detail, field, token.n);
    }
    memcpy(base + field->offset, token.bytes, field->width);
    return KV_OK;
}

static kv_status_t
get_text(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    struct kv_msg_text text;
    kv_status_t status = pull_bounded(parser, field, KV_MP_STR, &token);
    int control;

    if (status != KV_OK) {
        return status;
    }
    control = kv_text_control(token.bytes, token.n);
    if (control >= 0) {
        return kv_field_invalid(parser->detail, field, (uint64_t)control);
    }
    text.text = (const char *)token.bytes;
    text.len = (uint32_t)token.n;
    memcpy(base + field->offset, &text, sizeof(text));
    return KV_OK;
}

static void
set_list(const struct kv_field *field, uint8_t *base, void *items, uint32_t n)
{
    memcpy(base + field->offset, &items, sizeof(void *));
    memcpy(base + field->count_offset, &n, sizeof(n));
}

static kv_status_t
get_keys(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    struct kv_mp_token token;
    kv_status_t status = pull(parser, field, KV_MP_BIN, &token);
    void *keys = NULL;
    uint32_t n;

    if (status != KV_OK) {
        return status;
    }
    if (token.n % KV_KEY_BYTES != 0 || token.n / KV_KEY_BYTES > field->max) {
        /* Rounded up: a key and a half is two keys, of which one is cut. */
        uint64_t keys_up = token.n / KV_KEY_BYTES + (token.n % KV_KEY_BYTES != 0);
        return kv_field_invalid(parser->detail, field, keys_up);
    }
    n = (uint32_t)(token.n / KV_KEY_BYTES);
    status = kv_keys_add(field, n, &parser->nr_keys, parser->detail);
    if (status == KV_OK && n > 0) {
        status = take(parser, n, sizeof(kv_key_t), &keys);
    }
    if (status != KV_OK) {
        return status;
    }
    if (n > 0) {
        memcpy(keys, token.bytes, token.n);
    }
    set_list(field, base, keys, n);
    return KV_OK;
}

static kv_status_t
get_leaf(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    KV_DASSERT(kv_field_is_leaf(field)); /* (1), (2) */
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        return get_uint(parser, field, base);
    case KV_FIELD_STATUS:
        return get_status(parser, field, base);
    case KV_FIELD_BOOL:
        return get_bool(parser, field, base);
    case KV_FIELD_BYTES:
        return get_bytes(parser, field, base);
    case KV_FIELD_TEXT:
        return get_text(parser, field, base);
    case KV_FIELD_KEYS:
        return get_keys(parser, field, base);
    case KV_FIELD_LIST:
    case KV_FIELD_RECORD:
        break;
    }
    return KV_ERR_INVALID;
}

/* The head of a list, and room for its elements. */
static kv_status_t open_list(
    struct parser *parser, const struct kv_field *field, uint8_t *base, uint32_t *n_p,
    uint8_t **items_p)
{
    struct kv_mp_token token;
    void *items = NULL;
    kv_status_t status = pull_bounded(parser, field, KV_MP_ARRAY, &token);

    if (status == KV_OK && token.n > 0) {
        status = take(parser, token.n, field->record->bytes, &items);
    }
    if (status != KV_OK) {
        return status;
    }
    *n_p = (uint32_t)token.n;
    *items_p = items;
    set_list(field, base, items, *n_p);
    return KV_OK;
}

static kv_status_t
get_bare_list(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    const struct kv_record *record = field->record;
    uint8_t *item;
    uint32_t n;
    kv_status_t status = open_list(parser, field, base, &n, &item);

    if (status != KV_OK) {
        return status;
    }
    for (uint32_t i = 0; i < n && status == KV_OK; i++, item += record->bytes) {
        status = get_leaf(parser, record->fields, item);
    }
    return status;
}

/* The head of a record: *extra_p elements come after those that we know. */
static kv_status_t
open_record(struct parser *parser, const struct kv_field *field, uint32_t *extra_p)
{
    struct kv_mp_token token;
    uint32_t known = field->record->nr_fields;
    kv_status_t status = pull(parser, field, KV_MP_ARRAY, &token);

    if (status != KV_OK) {
        return status;
    }
    if (token.n < known) {
        return kv_fail(parser->detail, KV_ERR_INVALID, field->name, known, token.n);
    }
    *extra_p = (uint32_t)token.n - known;
    return KV_OK;
}

static kv_status_t skip(struct parser *parser, uint32_t n)
{
    kv_status_t status = KV_OK;

    for (uint32_t i = 0; i < n && status == KV_OK; i++) {
        status = kv_mp_skip(&parser->reader, parser->detail);
    }
    return status;
}

/* A record inside a record: leaves alone. */
static kv_status_t
get_inner(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    const struct kv_record *record = field->record;
    uint32_t extra = 0;
    kv_status_t status = open_record(parser, field, &extra);

    for (uint32_t i = 0; i < record->nr_fields && status == KV_OK; i++) {
        status = get_leaf(parser, &record->fields[i], base + field->offset);
    }
    return status == KV_OK ? skip(parser, extra) : status;
}

static kv_status_t
get_record(struct parser *parser, const struct kv_field *list, uint8_t *item)
{
    const struct kv_record *record = list->record;
    uint32_t extra = 0;
    kv_status_t status = open_record(parser, list, &extra);

    for (uint32_t i = 0; i < record->nr_fields && status == KV_OK; i++) {
        const struct kv_field *field = &record->fields[i];
        if (field->kind == KV_FIELD_RECORD) {
            status = get_inner(parser, field, item);
        } else if (field->kind == KV_FIELD_LIST) {
            status = get_bare_list(parser, field, item);
        } else {
            status = get_leaf(parser, field, item);
        }
    }
    return status == KV_OK ? skip(parser, extra) : status;
}

static kv_status_t
get_list(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    uint8_t *item;
    uint32_t n;
    kv_status_t status;

    if (field->record->bare) {
        return get_bare_list(parser, field, base);
    }
    status = open_list(parser, field, base, &n, &item);
    if (status != KV_OK) {
        return status;
    }
    for (uint32_t i = 0; i < n && status == KV_OK; i++, item += field->record->bytes) {
        status = get_record(parser, field, item);
    }
    return status;
}

/* A field of the map. One that is there though it is zero would give one message two
 * encodings. */
static kv_status_t
get_field(struct parser *parser, const struct kv_field *field, uint8_t *base)
{
    kv_status_t status;

    if (field->kind == KV_FIELD_LIST) {
        status = get_list(parser, field, base);
    } else {
        status = get_leaf(parser, field, base);
    }
    if (status == KV_OK && kv_field_is_zero(field, base)) {
        return kv_field_invalid(parser->detail, field, 0);
    }
    return status;
}

/* A table of fields that is read in the order of its keys. */
struct cursor {
    const struct kv_field *field;
    const struct kv_field *end;
    uint8_t *base;
};

static kv_status_t get_pair(struct parser *parser, struct cursor *cursor, uint64_t key)
{
    while (cursor->field < cursor->end && cursor->field->key < key) {
        cursor->field++;
    }
    if (cursor->field == cursor->end || cursor->field->key != key) {
        return kv_mp_skip(&parser->reader, parser->detail);
    }
    return get_field(parser, cursor->field++, cursor->base);
}

static kv_status_t get_msg(struct parser *parser, struct kv_msg *msg)
{
    struct cursor cursor = {
        .field = kv_envelope_fields,
        .end = kv_envelope_fields + kv_nr_envelope_fields,
        .base = (uint8_t *)msg,
    };
    const struct kv_msg_desc *desc = NULL;
    struct kv_mp_token token;
    kv_status_t status = kv_mp_pull(&parser->reader, &token, parser->detail);
    uint64_t n;

    if (status != KV_OK) {
        return status;
    }
    if (token.kind != KV_MP_MAP) {
        return kv_fail(parser->detail, KV_ERR_INVALID, "message.map", 0, 0);
    }
    n = token.n;
    for (uint64_t i = 0; i < n && status == KV_OK; i++) {
        status = kv_mp_pull(&parser->reader, &token, parser->detail);
        if (status == KV_OK && token.n >= KV_BODY_KEY_MIN && desc == NULL) {
            status = kv_msg_check_envelope(msg, &desc, parser->detail);
            if (status == KV_OK) {
                cursor.field = desc->fields;
                cursor.end = desc->fields + desc->nr_fields;
                cursor.base = (uint8_t *)&msg->u;
            }
        }
        if (status == KV_OK) {
            status = get_pair(parser, &cursor, token.n);
        }
    }
    if (status == KV_OK && desc == NULL) {
        status = kv_msg_check_envelope(msg, &desc, parser->detail);
    }
    return status;
}

kv_status_t kv_decode(
    const uint8_t *bytes, size_t len, struct kv_arena *arena, struct kv_msg *msg,
    struct kv_detail *detail)
{
    struct parser parser = {
        .reader = {.next = bytes, .end = bytes + len},
        .arena = arena,
        .detail = detail,
    };
    struct kv_msg decoded;
    size_t used = arena->used;
    kv_status_t status;

    KV_ASSERT((uintptr_t)arena->base % ARENA_ALIGN == 0);
    status = kv_msgpack_check(bytes, len, detail);
    if (status != KV_OK) {
        return status;
    }
    memset(&decoded, 0, sizeof(decoded));
    status = get_msg(&parser, &decoded);
    if (status != KV_OK) {
        arena->used = used;
        return status;
    }
    KV_ASSERT(parser.reader.next == parser.reader.end);
    *msg = decoded;
    return KV_OK;
}
