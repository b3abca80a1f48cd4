/* Messages to bytes and back: canonical msgpack, bounded before anything is believed.
 *
 *   struct kv_msg ──kv_encode──► bytes ──kv_decode──► struct kv_msg + arena
 *
 * One table of fields per message drives encoding, decoding, bounds, fuzzing and the
 * printed form, so that they cannot disagree. A message is a map {small integer: value}
 * with keys in growing order; a list item is an array of fixed order. A field whose
 * value is zero or empty is left out. Keys that a reader does not know, and array
 * elements past those it knows, are skipped: that is how a newer peer adds fields.
 * Canonical: shortest integer form, growing keys, no duplicate, no float, no ext, no
 * nil.
 *
 * Threading: pure. Memory: kv_encode writes into the caller's buffer, kv_decode
 * takes arrays from the caller's arena; neither allocates or recurses. Errors:
 * KV_ERR_INVALID names the field ("publish.items"), its limit and the value;
 * KV_ERR_VERSION (field "proto") for an envelope of an unknown version;
 * KV_ERR_TOO_LARGE (field "message.bytes") past KV_MSG_BYTES_MAX or the caller's
 * buffer.
 */
#ifndef KV_CODEC_H
#define KV_CODEC_H

#include "base/msg.h"

/* What decoded arrays are taken from; reset by setting used = 0. */
struct kv_arena {
    uint8_t *base; /* 16-byte aligned */
    size_t size;
    size_t used;
};

/* An arena of this size holds any message that kv_decode accepts. */
enum { KV_MSG_ARENA_BYTES = 2 << 20 };

/* Appends nothing on failure. *len_p bytes into out[cap]. */
kv_status_t kv_encode(
    const struct kv_msg *msg, uint8_t *out, size_t cap, size_t *len_p,
    struct kv_detail *detail);

kv_status_t kv_decode(
    const uint8_t *bytes, size_t len, struct kv_arena *arena, struct kv_msg *msg,
    struct kv_detail *detail);

/* "publish"; "unknown". Index in KV_MSG_MAP for counters; KV_NR_MSGS when unknown. */
const char *kv_msg_name(uint32_t type);
unsigned kv_msg_index(uint32_t type);
/* Numbers of the types in order of KV_MSG_MAP: i < KV_NR_MSGS. */
uint32_t kv_msg_type_at(unsigned i);

/* Well-formed, canonical and within the bounds of depth, counts and sizes? Says nothing
 * about the fields; kv_decode calls it first. */
kv_status_t
kv_msgpack_check(const uint8_t *bytes, size_t len, struct kv_detail *detail);

/* One line for logs and golden traces, e.g. "publish pos 3 items 2"; truncated at cap,
 * always terminated. */
void kv_msg_format(const struct kv_msg *msg, char *out, size_t cap);

#endif
