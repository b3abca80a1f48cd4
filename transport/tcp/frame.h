/* What lies on a data connection: frames, checked before anything of them is believed.
 *
 *   bytes of a socket ──kvt_frame_parse──► header and head ──kvt_frame_data──► DATA
 *   head to be sent   ──kvt_frame_write──► header
 *
 *   offset  0  "kvd1"             16  u64 check = kv_digest(bytes 0 … 15 ‖ head)
 *           4  u32 kind           24  head: one encoded message, head_len bytes
 *           8  u32 head_len        …  body: body_len bytes of a page, DATA alone
 *          12  u32 body_len           (all numbers little endian)
 *
 * The check finds accidents in the framing, so that a flipped length can not lead bytes
 * astray; the body has its own digest, in the head. It is no proof of who sent it: that
 * is DATA_OPEN's, in the head of the first frame.
 *
 * Threading: pure. Ownership: nothing is kept; a frame points into the bytes that were
 * parsed. Errors: KV_ERR_PROTOCOL, with the field, its limit and the value.
 */
#ifndef KVT_TCP_FRAME_H
#define KVT_TCP_FRAME_H

#include "base/codec.h"

enum {
    KVT_FRAME_HEADER_BYTES = 24,
    KVT_FRAME_CHECKED_BYTES = 16, /* of the header, before the check */
};

enum kvt_frame_kind {
    KVT_FRAME_HELLO = 1,   /* head: DATA_OPEN; reader to owner, first, once */
    KVT_FRAME_REQUEST = 2, /* head: READ; reader to owner */
    KVT_FRAME_DATA = 3,    /* head: DATA; owner to reader; the only one with a body */
    KVT_FRAME_OFFER = 4,   /* head: DATA_OPEN; owner to reader, first, once */
};

struct kvt_frame {
    const uint8_t *head; /* into the bytes that were parsed */
    uint32_t head_len;
    uint32_t body_len;
};

/* Do bytes[0 … len) begin with a frame of `kind`? OK: header and head are whole and
 * right, *frame is written. INPROGRESS: right so far, but more bytes are needed. */
kv_status_t kvt_frame_parse(
    const uint8_t *bytes, size_t len, enum kvt_frame_kind kind, struct kvt_frame *frame,
    struct kv_detail *detail);

/* The first frame of a connection that came in: OFFER where its bytes say so, else
 * HELLO. To be parsed as that; of fewer than 8 bytes HELLO is no more than a guess. */
enum kvt_frame_kind kvt_frame_first(const uint8_t *bytes, size_t len);

/* The message in the head of a DATA frame. */
kv_status_t kvt_frame_data(
    const struct kvt_frame *frame, struct kv_arena *arena, struct kv_msg *msg,
    struct kv_detail *detail);

/* Largest head of `kind`; 0 for a number that is no kind. */
uint32_t kvt_frame_head_max(uint32_t kind);

void kvt_frame_write(
    uint8_t out[KVT_FRAME_HEADER_BYTES], enum kvt_frame_kind kind, const uint8_t *head,
    uint32_t head_len, uint32_t body_len);

#endif
