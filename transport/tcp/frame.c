#include "transport/tcp/frame.h"

#include "base/assert.h"
#include "base/digest.h"
#include "transport/transport.h"

#include <string.h>

static const uint8_t magic[4] = {'k', 'v', 'd', '1'};

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16
           | (uint32_t)at[3] << 24;
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

uint32_t kvt_frame_head_max(uint32_t kind)
{
    switch (kind) {
    case KVT_FRAME_HELLO:
    case KVT_FRAME_OFFER:
        return KVT_HELLO_BYTES_MAX;
    case KVT_FRAME_REQUEST:
        return KVT_REQUEST_BYTES_MAX;
    case KVT_FRAME_DATA:
        return KVT_HEAD_BYTES_MAX;
    default:
        return 0;
    }
}

/* The check stands between the two pieces that it covers, so they are joined here: at
 * most 16 KiB for a READ of 64 copies, and less than 100 bytes for each DATA. */
static uint64_t check_of(const uint8_t *header, const uint8_t *head, uint32_t head_len)
{
    uint8_t joined[KVT_FRAME_CHECKED_BYTES + KVT_REQUEST_BYTES_MAX];

    KV_ASSERT(head_len <= KVT_REQUEST_BYTES_MAX);
    memcpy(joined, header, KVT_FRAME_CHECKED_BYTES);
    memcpy(joined + KVT_FRAME_CHECKED_BYTES, head, head_len);
    return kv_digest(joined, KVT_FRAME_CHECKED_BYTES + (size_t)head_len);
}

kv_status_t kvt_frame_parse(
    const uint8_t *bytes, size_t len, enum kvt_frame_kind kind, struct kvt_frame *frame,
    struct kv_detail *detail)
{
    const size_t magic_len = len < sizeof(magic) ? len : sizeof(magic);

    if (memcmp(bytes, magic, magic_len) != 0) {
        return kv_fail(detail, KV_ERR_PROTOCOL, "frame.magic", 0, bytes[0]);
    }
    if (len < KVT_FRAME_HEADER_BYTES) {
        return KV_INPROGRESS;
    }
    const uint32_t found = get_u32(bytes + 4);
    const uint32_t head_len = get_u32(bytes + 8);
    const uint32_t body_len = get_u32(bytes + 12);
    const uint32_t head_max = kvt_frame_head_max(kind);
    if (found != kind) {
        return kv_fail(detail, KV_ERR_PROTOCOL, "frame.kind", kind, found);
    }
    if (head_len == 0 || head_len > head_max) {
        return kv_fail(detail, KV_ERR_PROTOCOL, "frame.head_len", head_max, head_len);
    }
    if (kind != KVT_FRAME_DATA && body_len != 0) {
        return kv_fail(detail, KV_ERR_PROTOCOL, "frame.body_len", 0, body_len);
    }
    if (len - KVT_FRAME_HEADER_BYTES < head_len) {
        return KV_INPROGRESS;
    }
    const uint8_t *head = bytes + KVT_FRAME_HEADER_BYTES;
    const uint64_t check = get_u32(bytes + 16) | (uint64_t)get_u32(bytes + 20) << 32;
    const uint64_t computed = check_of(bytes, head, head_len);
    if (computed != check) {
        return kv_fail(detail, KV_ERR_PROTOCOL, "frame.check", computed, check);
    }
    *frame =
        (struct kvt_frame){.head = head, .head_len = head_len, .body_len = body_len};
    return KV_OK;
}

enum kvt_frame_kind kvt_frame_first(const uint8_t *bytes, size_t len)
{
    return len >= 8 && get_u32(bytes + 4) == KVT_FRAME_OFFER ? KVT_FRAME_OFFER
                                                             : KVT_FRAME_HELLO;
}

kv_status_t kvt_frame_data(
    const struct kvt_frame *frame, struct kv_arena *arena, struct kv_msg *msg,
    struct kv_detail *detail)
{
    kv_status_t status = kv_decode(frame->head, frame->head_len, arena, msg, detail);

    if (status != KV_OK) {
        return KV_ERR_PROTOCOL;
    }
    if (msg->type != KV_MSG_DATA) {
        return kv_fail(
            detail, KV_ERR_PROTOCOL, "frame.message", KV_MSG_DATA, msg->type);
    }
    return KV_OK;
}

void kvt_frame_write(
    uint8_t out[KVT_FRAME_HEADER_BYTES], enum kvt_frame_kind kind, const uint8_t *head,
    uint32_t head_len, uint32_t body_len)
{
    KV_ASSERT(head_len > 0 && head_len <= kvt_frame_head_max(kind));
    KV_ASSERT(KV_IMPLIES(kind != KVT_FRAME_DATA, body_len == 0));
    memcpy(out, magic, sizeof(magic));
    put_u32(out + 4, kind);
    put_u32(out + 8, head_len);
    put_u32(out + 12, body_len);
    const uint64_t check = check_of(out, head, head_len);
    put_u32(out + 16, (uint32_t)check);
    put_u32(out + 20, (uint32_t)(check >> 32));
}
