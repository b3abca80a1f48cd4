/* The table of fields: what a message consists of, in memory and on the wire.
 *
 *   codec_table.c ──► kv_encode, kv_decode, kv_msg_format, docs/wire.md, tests
 *
 * Shapes nest no deeper than the functions that walk them, so that nothing recurses:
 *   (1) a message's fields are leaves, lists of records, or lists of bare leaves;
 *   (2) a record's fields are leaves, records of leaves, or lists of bare leaves.
 * A leaf is every kind but LIST and RECORD. tests/base/codec_test.c checks (1) and (2).
 *
 * Threading: constant data.
 */
#ifndef KV_CODEC_PRIV_H
#define KV_CODEC_PRIV_H

#include "base/msg.h"

enum kv_field_kind {
    KV_FIELD_UINT,   /* `width` bytes in memory; bound: the value */
    KV_FIELD_STATUS, /* int32_t, any value: a newer peer may know more of them */
    KV_FIELD_BOOL,
    KV_FIELD_BYTES, /* `width` bytes, as they are; a bin of that length */
    KV_FIELD_TEXT,  /* struct kv_msg_text; bound: its length */
    KV_FIELD_KEYS,  /* kv_key_t * and a count; one bin; bound: the count */
    KV_FIELD_LIST,  /* pointer and count; bound: the count */
    KV_FIELD_RECORD,
};

struct kv_record;

struct kv_field {
    const char *name; /* in details and documents: "publish.items" */
    uint8_t kind;     /* enum kv_field_kind */
    uint8_t key;      /* in the message's map; 0 in a record */
    uint8_t width;
    bool optional;         /* BYTES of a record: zero is a bin of no bytes */
    uint16_t offset;       /* in the body, or in the record */
    uint16_t count_offset; /* of the uint32_t that counts a list */
    uint32_t total;        /* KEYS: bound of the sum over the message; 0 for none */
    uint64_t max;
    const struct kv_record *record; /* of LIST and RECORD */
};

struct kv_record {
    const char *name;
    const struct kv_field *fields;
    uint16_t nr_fields;
    uint16_t bytes; /* in memory */
    bool bare;      /* one leaf, without the array around it */
};

struct kv_msg_desc {
    const char *name; /* NULL: no such type */
    const struct kv_field *fields;
    uint32_t nr_fields;
};

enum {
    KV_ENVELOPE_PROTO = 0,
    KV_ENVELOPE_TYPE = 1,
    KV_BODY_KEY_MIN = 16,   /* of the first field that belongs to one type */
    KV_MSG_FIELDS_MAX = 32, /* of one table: the encoder keeps a bit for each */
};

/* Offsets from the start of struct kv_msg; those of a message from its union. */
extern const struct kv_field kv_envelope_fields[];
extern const uint32_t kv_nr_envelope_fields;

/* NULL when unknown. */
const struct kv_msg_desc *kv_msg_desc(uint32_t type);

static inline bool kv_field_is_leaf(const struct kv_field *field)
{
    return field->kind != KV_FIELD_LIST && field->kind != KV_FIELD_RECORD;
}

/* Access to a field of the struct at `base`; memcpy, for the union's sake. */
static inline uint64_t kv_field_uint(const struct kv_field *field, const uint8_t *base)
{
    uint16_t h;
    uint32_t w;
    uint64_t d;

    switch (field->width) {
    case sizeof(h):
        memcpy(&h, base + field->offset, sizeof(h));
        return h;
    case sizeof(w):
        memcpy(&w, base + field->offset, sizeof(w));
        return w;
    default:
        memcpy(&d, base + field->offset, sizeof(d));
        return d;
    }
}

static inline uint32_t kv_field_count(const struct kv_field *field, const uint8_t *base)
{
    uint32_t n;
    memcpy(&n, base + field->count_offset, sizeof(n));
    return n;
}

static inline void *kv_field_pointer(const struct kv_field *field, const uint8_t *base)
{
    void *p;
    memcpy(&p, base + field->offset, sizeof(p));
    return p;
}

static inline bool kv_bytes_are_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        any |= p[i];
    }
    return any == 0;
}

/* Zero, empty or false: left out of a map. Not for RECORD. */
bool kv_field_is_zero(const struct kv_field *field, const uint8_t *base);

/* The rules that encoder and decoder share: what one refuses, so does the other. */

/* KV_ERR_INVALID with the field's name and bound. */
kv_status_t kv_field_invalid(
    struct kv_detail *detail, const struct kv_field *field, uint64_t value);

/* Adds to the keys of one message, all lists together; KV_ERR_INVALID past `total`. */
kv_status_t kv_keys_add(
    const struct kv_field *field, uint32_t nr_keys, uint64_t *total_p,
    struct kv_detail *detail);

/* A text goes to logs and terminals as it is, so it may not steer them. The first byte
 * that would, or -1. */
int kv_text_control(const uint8_t *text, size_t len);

/* A version and a type that we know? */
kv_status_t kv_msg_check_envelope(
    const struct kv_msg *msg, const struct kv_msg_desc **desc_p,
    struct kv_detail *detail);

#endif
