/* Whatever arrives on a data connection: the parser reads nothing past its end, says
 * the same of a frame whether it comes at once or in pieces, and what it accepts is a
 * frame that we could have written. The first byte of an input chooses the kind. */
#include "base/assert.h"
#include "transport/tcp/frame.h"
#include "transport/transport.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const enum kvt_frame_kind kinds[] = {
    KVT_FRAME_HELLO, KVT_FRAME_REQUEST, KVT_FRAME_DATA, KVT_FRAME_OFFER};

/* In pieces of growing length, each a block of its own so that the sanitizer sees a
 * read past it: right so far, until it is whole, or wrong and then for good. */
static kv_status_t in_pieces(const uint8_t *bytes, size_t len, enum kvt_frame_kind kind)
{
    kv_status_t status = KV_INPROGRESS;

    for (size_t n = 1; n <= len && status == KV_INPROGRESS; n += 1 + n / 7) {
        struct kvt_frame frame;
        uint8_t *piece = malloc(n);
        KV_ASSERT(piece != NULL);
        memcpy(piece, bytes, n);
        status = kvt_frame_parse(piece, n, kind, &frame, NULL);
        free(piece);
    }
    return status;
}

static void
accepted(const uint8_t *bytes, const struct kvt_frame *frame, enum kvt_frame_kind kind)
{
    static uint8_t memory[4096] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    uint8_t header[KVT_FRAME_HEADER_BYTES];
    struct kv_msg msg;

    KV_ASSERT(frame->head == bytes + KVT_FRAME_HEADER_BYTES);
    KV_ASSERT(frame->head_len > 0 && frame->head_len <= kvt_frame_head_max(kind));
    KV_ASSERT(kind == KVT_FRAME_DATA || frame->body_len == 0);
    kvt_frame_write(header, kind, frame->head, frame->head_len, frame->body_len);
    KV_ASSERT(memcmp(header, bytes, sizeof(header)) == 0);
    if (kind == KVT_FRAME_DATA && kvt_frame_data(frame, &arena, &msg, NULL) == KV_OK) {
        KV_ASSERT(msg.type == KV_MSG_DATA && msg.u.data.index < KV_MSG_READ_MAX);
        KV_ASSERT(arena.used == 0);
    }
}

static void parse(const uint8_t *bytes, size_t len, enum kvt_frame_kind kind)
{
    struct kv_detail detail = {.field = NULL};
    struct kvt_frame frame;
    const kv_status_t status = kvt_frame_parse(bytes, len, kind, &frame, &detail);

    if (status == KV_OK) {
        accepted(bytes, &frame, kind);
    } else if (status != KV_INPROGRESS) {
        KV_ASSERT(status == KV_ERR_PROTOCOL && detail.field != NULL);
    }
    /* The last piece may stop short of the end, and so of the answer. */
    const kv_status_t pieces = in_pieces(bytes, len, kind);
    KV_ASSERT(pieces == status || pieces == KV_INPROGRESS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *mended;

    if (size < 2) {
        return 0;
    }
    const enum kvt_frame_kind kind = kinds[data[0] % KV_COUNT_OF(kinds)];
    parse(data + 1, size - 1, kind);
    /* The same with a check that is right, which a fuzzer does not find by itself. */
    size--;
    if (size <= KVT_FRAME_HEADER_BYTES
        || size > KVT_FRAME_HEADER_BYTES + KVT_REQUEST_BYTES_MAX) {
        return 0;
    }
    mended = malloc(size);
    KV_ASSERT(mended != NULL);
    memcpy(mended, data + 1, size);
    const uint32_t head_len = (uint32_t)(size - KVT_FRAME_HEADER_BYTES);
    if (head_len <= kvt_frame_head_max(kind)) {
        uint32_t body_len = 0;
        if (kind == KVT_FRAME_DATA) {
            memcpy(&body_len, data + 1 + 12, sizeof(body_len));
        }
        kvt_frame_write(
            mended, kind, mended + KVT_FRAME_HEADER_BYTES, head_len, body_len);
        parse(mended, size, kind);
    }
    free(mended);
    return 0;
}
