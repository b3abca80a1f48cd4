#include "node/daemon/frame.h"

#include "base/assert.h"

#include <string.h>

static const uint8_t data_magic[KVN_SNIFF_BYTES] = {'k', 'v', 'd', '1'};
static const uint8_t link_magic[KVN_SNIFF_BYTES] = {'k', 'v', 'l', '1'};

enum { TLS_HANDSHAKE_RECORD = 0x16 }; /* RFC 8446, section 5.1 */

static void put_u32(uint8_t *bytes, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(value >> 8 * i);
    }
}

static uint32_t get_u32(const uint8_t *bytes)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < 4; i++) {
        value |= (uint32_t)bytes[i] << 8 * i;
    }
    return value;
}

enum kvn_sniff kvn_sniff(const uint8_t *bytes, size_t len)
{
    const size_t n = len < KVN_SNIFF_BYTES ? len : KVN_SNIFF_BYTES;
    if (n == 0) {
        return KVN_SNIFF_MORE;
    }
    if (bytes[0] == TLS_HANDSHAKE_RECORD) {
        return KVN_SNIFF_TLS;
    }
    const bool data = memcmp(bytes, data_magic, n) == 0;
    const bool link = memcmp(bytes, link_magic, n) == 0;
    if (!data && !link) {
        return KVN_SNIFF_NONE;
    }
    if (n < KVN_SNIFF_BYTES) {
        return KVN_SNIFF_MORE;
    }
    return data ? KVN_SNIFF_DATA : KVN_SNIFF_CLEAR;
}

/* Up to `need` bytes in all to `to`, which has *have_p of them. */
static void take(
    uint8_t *to, uint32_t *have_p, uint32_t need, const uint8_t **bytes_p,
    size_t *len_p)
{
    KV_ASSERT(*have_p <= need);
    const size_t missing = need - *have_p;
    const size_t n = *len_p < missing ? *len_p : missing;
    if (n == 0) {
        return; /* also the end of nothing, which may be NULL */
    }
    memcpy(to + *have_p, *bytes_p, n);
    *have_p += (uint32_t)n;
    *bytes_p += n;
    *len_p -= n;
}

void kvn_hello_make(uint32_t node, uint8_t bytes[KVN_HELLO_BYTES])
{
    KV_ASSERT(node != 0);
    memcpy(bytes, link_magic, KVN_SNIFF_BYTES);
    put_u32(bytes + KVN_SNIFF_BYTES, node);
}

kv_status_t kvn_hello_take(
    struct kvn_hello *hello, const uint8_t **bytes_p, size_t *len_p, uint32_t *node_p)
{
    take(hello->bytes, &hello->have, KVN_HELLO_BYTES, bytes_p, len_p);
    const uint32_t have = hello->have;
    const size_t known = have < KVN_SNIFF_BYTES ? have : KVN_SNIFF_BYTES;
    if (memcmp(hello->bytes, link_magic, known) != 0) {
        return KV_ERR_PROTOCOL;
    }
    if (have < KVN_HELLO_BYTES) {
        return KV_INPROGRESS;
    }
    const uint32_t node = get_u32(hello->bytes + KVN_SNIFF_BYTES);
    if (node == 0) {
        return KV_ERR_PROTOCOL;
    }
    *node_p = node;
    return KV_OK;
}

void kvn_frames_init(struct kvn_frames *frames, uint8_t *buffer, uint32_t max)
{
    KV_ASSERT(max > 0);
    *frames = (struct kvn_frames){.buffer = buffer, .max = max};
}

static void frames_reset(struct kvn_frames *frames)
{
    frames->body = 0;
    frames->have = 0;
    frames->have_head = 0;
}

kv_status_t kvn_frames_next(
    struct kvn_frames *frames, const uint8_t **bytes_p, size_t *len_p,
    const uint8_t **frame_p, uint32_t *frame_len_p, struct kv_detail *detail)
{
    if (frames->body == 0) {
        take(frames->head, &frames->have_head, KVN_FRAME_HEAD_BYTES, bytes_p, len_p);
        if (frames->have_head < KVN_FRAME_HEAD_BYTES) {
            return KV_INPROGRESS;
        }
        const uint32_t body = get_u32(frames->head);
        if (body == 0 || body > frames->max) {
            /* have_head stays: asked again, the answer is the same. */
            return kv_fail(
                detail, KV_ERR_PROTOCOL, "frame.len", body == 0 ? 1 : frames->max,
                body);
        }
        frames->body = body;
    }
    const uint32_t body = frames->body;
    if (frames->have == 0 && *len_p >= body) {
        *frame_p = *bytes_p; /* whole as it lies: not copied */
        *bytes_p += body;
        *len_p -= body;
    } else {
        take(frames->buffer, &frames->have, body, bytes_p, len_p);
        if (frames->have < body) {
            return KV_INPROGRESS;
        }
        *frame_p = frames->buffer;
    }
    *frame_len_p = body;
    frames_reset(frames);
    return KV_OK;
}

bool kvn_frames_begun(const struct kvn_frames *frames)
{
    KV_DASSERT(KV_IMPLIES(frames->body > 0, frames->have < frames->body));
    return frames->have_head > 0;
}

void kvn_frame_head(uint32_t len, uint8_t bytes[KVN_FRAME_HEAD_BYTES])
{
    put_u32(bytes, len);
}
