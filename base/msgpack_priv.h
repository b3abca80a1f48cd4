/* A bounded pull reader for canonical msgpack: one token a call, nothing believed.
 *
 *   bytes ──kv_mp_pull──► token ──► kv_msgpack_check (form) and kv_decode (fields)
 *
 * Every token is checked against what is left of the buffer before it is returned, so
 * a caller that trusts a length or a count of a token stays inside the buffer.
 *
 * Threading: pure.  Ownership: tokens point into the caller's bytes.
 */
#ifndef KV_MSGPACK_PRIV_H
#define KV_MSGPACK_PRIV_H

#include "base/codec.h"

enum {
    /* Elements of one array or map. The longest list of any message is
     * KV_MSG_RUNS_MAX; what is longer in a field that we skip is a bomb. */
    KV_MSGPACK_COUNT_MAX = 1024,
    KV_MSGPACK_KEY_MAX = UINT16_MAX, /* of a map's keys */
};

enum kv_mp_kind {
    KV_MP_NONE, /* nil, float, ext and the byte that msgpack never uses */
    KV_MP_UINT,
    KV_MP_NEGATIVE,
    KV_MP_BOOL,
    KV_MP_BIN,
    KV_MP_STR,
    KV_MP_ARRAY,
    KV_MP_MAP,
};

struct kv_mp_token {
    enum kv_mp_kind kind;
    uint64_t n;           /* value (negative: two's complement), length or count */
    const uint8_t *bytes; /* of BIN and STR: n of them */
};

struct kv_mp_reader {
    const uint8_t *next;
    const uint8_t *end;
};

/* The rest of kv_mp_pull(), for what is not a number below 128. */
kv_status_t kv_mp_pull_long(
    struct kv_mp_reader *reader, struct kv_mp_token *token, struct kv_detail *detail);

/* The next token, in its shortest form and within the buffer. The bytes of a bin or str
 * are passed over, the elements of an array or map are not. Inline for the keys of maps
 * and small numbers, which are most tokens of a message. */
static inline kv_status_t kv_mp_pull(
    struct kv_mp_reader *reader, struct kv_mp_token *token, struct kv_detail *detail)
{
    if (reader->next < reader->end && *reader->next < 0x80) {
        token->kind = KV_MP_UINT;
        token->n = *reader->next++;
        return KV_OK;
    }
    return kv_mp_pull_long(reader, token, detail);
}

/* Passes over one whole value. */
kv_status_t kv_mp_skip(struct kv_mp_reader *reader, struct kv_detail *detail);

#endif
