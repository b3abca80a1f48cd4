#include "base/codec.h"

#include "base/assert.h"
#include "base/codec_priv.h"

#include <msgpack/pack.h>

/* `len` runs on past `cap`, so that a refusal can say how much was needed; the bounds
 * of the table keep it small. */
struct writer {
    uint8_t *out;
    size_t cap;
    size_t len;
    uint64_t nr_keys;
    struct kv_detail *detail;
};

static inline int writer_append(void *data, const char *bytes, size_t n)
{
    struct writer *w = data;

    if (n <= w->cap && w->len <= w->cap - n) {
        memcpy(w->out + w->len, bytes, n);
    }
    w->len += n;
    return 0;
}

/* A packer in each function, not in the writer: the compiler then sees the callback
 * and inlines it. writer_append() never fails, so neither does a packer. */
#define PACKER(w) (&(msgpack_packer){.data = (w), .callback = writer_append})

static void put_uint(struct writer *w, uint64_t n)
{
    msgpack_pack_uint64(PACKER(w), n);
}

static void put_int(struct writer *w, int32_t n)
{
    msgpack_pack_int32(PACKER(w), n);
}

static void put_array(struct writer *w, uint32_t n)
{
    msgpack_pack_array(PACKER(w), n);
}

static void put_bin(struct writer *w, const void *bytes, size_t len)
{
    msgpack_pack_bin(PACKER(w), len);
    if (len > 0) {
        writer_append(w, bytes, len);
    }
}

static kv_status_t
put_text(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    struct kv_msg_text text;
    int control;

    memcpy(&text, base + field->offset, sizeof(text));
    if (text.len > field->max) {
        return kv_field_invalid(w->detail, field, text.len);
    }
    KV_ASSERT(KV_IMPLIES(text.len > 0, text.text != NULL));
    control = kv_text_control((const uint8_t *)text.text, text.len);
    if (control >= 0) {
        return kv_field_invalid(w->detail, field, (uint64_t)control);
    }
    msgpack_pack_str(PACKER(w), text.len);
    if (text.len > 0) {
        writer_append(w, text.text, text.len);
    }
    return KV_OK;
}

static kv_status_t
put_keys(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    uint32_t n = kv_field_count(field, base);
    kv_status_t status;

    if (n > field->max) {
        return kv_field_invalid(w->detail, field, n);
    }
    status = kv_keys_add(field, n, &w->nr_keys, w->detail);
    if (status != KV_OK) {
        return status;
    }
    put_bin(w, kv_field_pointer(field, base), (size_t)n * KV_KEY_BYTES);
    return KV_OK;
}

static kv_status_t
put_leaf(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    const uint8_t *at = base + field->offset;
    uint64_t n;
    int32_t status;

    KV_DASSERT(kv_field_is_leaf(field)); /* (1), (2) */
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        n = kv_field_uint(field, base);
        if (n > field->max) {
            return kv_field_invalid(w->detail, field, n);
        }
        put_uint(w, n);
        return KV_OK;
    case KV_FIELD_STATUS:
        memcpy(&status, at, sizeof(status));
        put_int(w, status);
        return KV_OK;
    case KV_FIELD_BOOL:
        writer_append(w, *at != 0 ? "\xc3" : "\xc2", 1);
        return KV_OK;
    case KV_FIELD_BYTES:
        n = field->optional && kv_bytes_are_zero(at, field->width) ? 0 : field->width;
        put_bin(w, at, n);
        return KV_OK;
    case KV_FIELD_TEXT:
        return put_text(w, field, base);
    case KV_FIELD_KEYS:
        return put_keys(w, field, base);
    case KV_FIELD_LIST:
    case KV_FIELD_RECORD:
        break;
    }
    return KV_ERR_INVALID;
}

/* A list's length against its bound; its elements. */
static kv_status_t list_of(
    struct writer *w, const struct kv_field *field, const uint8_t *base, uint32_t *n_p,
    const uint8_t **items_p)
{
    uint32_t n = kv_field_count(field, base);

    if (n > field->max) {
        return kv_field_invalid(w->detail, field, n);
    }
    *items_p = kv_field_pointer(field, base);
    *n_p = n;
    KV_ASSERT(KV_IMPLIES(n > 0, *items_p != NULL));
    return KV_OK;
}

static kv_status_t
put_bare_list(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    const struct kv_record *record = field->record;
    const uint8_t *item;
    uint32_t n;
    kv_status_t status = list_of(w, field, base, &n, &item);

    if (status != KV_OK) {
        return status;
    }
    put_array(w, n);
    for (uint32_t i = 0; i < n && status == KV_OK; i++, item += record->bytes) {
        status = put_leaf(w, record->fields, item);
    }
    return status;
}

/* A record inside a record: leaves alone. */
static kv_status_t
put_inner(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    const struct kv_record *record = field->record;
    kv_status_t status = KV_OK;

    put_array(w, record->nr_fields);
    for (uint32_t i = 0; i < record->nr_fields && status == KV_OK; i++) {
        status = put_leaf(w, &record->fields[i], base + field->offset);
    }
    return status;
}

static kv_status_t
put_record(struct writer *w, const struct kv_record *record, const uint8_t *item)
{
    kv_status_t status = KV_OK;

    put_array(w, record->nr_fields);
    for (uint32_t i = 0; i < record->nr_fields && status == KV_OK; i++) {
        const struct kv_field *field = &record->fields[i];
        if (field->kind == KV_FIELD_RECORD) {
            status = put_inner(w, field, item);
        } else if (field->kind == KV_FIELD_LIST) {
            status = put_bare_list(w, field, item);
        } else {
            status = put_leaf(w, field, item);
        }
    }
    return status;
}

static kv_status_t
put_list(struct writer *w, const struct kv_field *field, const uint8_t *base)
{
    const struct kv_record *record = field->record;
    const uint8_t *item;
    uint32_t n;
    kv_status_t status;

    if (record->bare) {
        return put_bare_list(w, field, base);
    }
    status = list_of(w, field, base, &n, &item);
    if (status != KV_OK) {
        return status;
    }
    put_array(w, n);
    for (uint32_t i = 0; i < n && status == KV_OK; i++, item += record->bytes) {
        status = put_record(w, record, item);
    }
    return status;
}

/* One bit for each field that is set; adds their number to *n_p. */
static uint32_t fields_set(
    const struct kv_field *fields, uint32_t nr_fields, const uint8_t *base, size_t *n_p)
{
    uint32_t set = 0;

    KV_DASSERT(nr_fields <= KV_MSG_FIELDS_MAX);
    for (uint32_t i = 0; i < nr_fields; i++) {
        uint32_t bit = !kv_field_is_zero(&fields[i], base);
        set |= bit << i;
        *n_p += bit;
    }
    return set;
}

static kv_status_t put_fields(
    struct writer *w, const struct kv_field *fields, uint32_t set, const uint8_t *base)
{
    kv_status_t status = KV_OK;

    for (; set != 0 && status == KV_OK; set &= set - 1) {
        const struct kv_field *field = &fields[__builtin_ctz(set)];
        put_uint(w, field->key);
        if (field->kind == KV_FIELD_LIST) {
            status = put_list(w, field, base);
        } else {
            status = put_leaf(w, field, base);
        }
    }
    return status;
}

static kv_status_t
put_msg(struct writer *w, const struct kv_msg *msg, const struct kv_msg_desc *desc)
{
    const uint8_t *envelope = (const uint8_t *)msg;
    const uint8_t *body = (const uint8_t *)&msg->u;
    uint32_t outer, inner;
    kv_status_t status;
    size_t n = 0;

    outer = fields_set(kv_envelope_fields, kv_nr_envelope_fields, envelope, &n);
    inner = fields_set(desc->fields, desc->nr_fields, body, &n);
    msgpack_pack_map(PACKER(w), n);
    status = put_fields(w, kv_envelope_fields, outer, envelope);
    if (status == KV_OK) {
        status = put_fields(w, desc->fields, inner, body);
    }
    return status;
}

kv_status_t kv_encode(
    const struct kv_msg *msg, uint8_t *out, size_t cap, size_t *len_p,
    struct kv_detail *detail)
{
    struct writer w = {
        .out = out,
        .cap = cap < KV_MSG_BYTES_MAX ? cap : KV_MSG_BYTES_MAX,
        .detail = detail,
    };
    const struct kv_msg_desc *desc = NULL;
    kv_status_t status = kv_msg_check_envelope(msg, &desc, detail);

    if (status == KV_OK) {
        status = put_msg(&w, msg, desc);
    }
    if (status != KV_OK) {
        return status;
    }
    if (w.len > w.cap) {
        return kv_fail(detail, KV_ERR_TOO_LARGE, "message.bytes", w.cap, w.len);
    }
    *len_p = w.len;
    return KV_OK;
}
