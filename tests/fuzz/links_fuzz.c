/* What a socket can feed before anybody is known: the first bytes, hello and frames,
 * cut at any place. However the bytes are cut, the answers are those of one look at all
 * of them by the plainest code; and no byte is read that was not handed in.
 *
 * The first byte of the input says how the rest is cut. */
#include "base/assert.h"
#include "node/address.h"
#include "node/daemon/frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAME_MAX = 4096 };

static uint64_t fold(uint64_t sum, const uint8_t *bytes, size_t len)
{
    sum = sum * 31 + len;
    for (size_t i = 0; i < len; i++) {
        sum = sum * 31 + bytes[i];
    }
    return sum;
}

struct outcome {
    bool bad;
    unsigned nr;
    uint64_t sum; /* of all frames */
    size_t rest;  /* bytes after the last whole frame */
};

static struct outcome plain(const uint8_t *bytes, size_t len)
{
    struct outcome out = {0};
    while (len >= 4) {
        const uint32_t body = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8
                              | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
        if (body == 0 || body > FRAME_MAX) {
            out.bad = true;
            return out;
        }
        if (len - 4 < body) {
            break;
        }
        out.nr++;
        out.sum = fold(out.sum, bytes + 4, body);
        bytes += 4 + body;
        len -= 4 + body;
    }
    out.rest = len;
    return out;
}

/* A piece in memory of its own, so that a read past it is found. */
static void
feed(struct kvn_frames *frames, struct outcome *out, const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len + (len == 0));
    KV_ASSERT(copy != NULL);
    if (len > 0) {
        memcpy(copy, bytes, len);
    }
    const uint8_t *at = copy, *frame;
    uint32_t frame_len;
    struct kv_detail detail = {0};
    kv_status_t status = KV_OK;
    while (status == KV_OK) {
        status = kvn_frames_next(frames, &at, &len, &frame, &frame_len, &detail);
        if (status == KV_OK) {
            out->nr++;
            out->sum = fold(out->sum, frame, frame_len);
        }
    }
    KV_ASSERT(KV_IMPLIES(status == KV_INPROGRESS, len == 0));
    KV_ASSERT(KV_IMPLIES(status != KV_INPROGRESS, status == KV_ERR_PROTOCOL));
    KV_ASSERT(KV_IMPLIES(status == KV_ERR_PROTOCOL, detail.field != NULL));
    out->bad = status == KV_ERR_PROTOCOL;
    free(copy);
}

static void check_frames(uint8_t cut, const uint8_t *bytes, size_t len)
{
    static uint8_t buffer[FRAME_MAX];
    struct kvn_frames frames;
    struct outcome got = {0};
    const struct outcome wanted = plain(bytes, len);
    uint32_t seed = cut;
    kvn_frames_init(&frames, buffer, FRAME_MAX);
    while (len > 0 && !got.bad) {
        seed = seed * 1103515245 + 12345;
        size_t n = cut == 0 ? len : 1 + (seed >> 16) % ((size_t)cut * 4);
        n = n < len ? n : len;
        feed(&frames, &got, bytes, n);
        bytes += n;
        len -= n;
    }
    KV_ASSERT(got.bad == wanted.bad);
    KV_ASSERT(got.nr == wanted.nr && got.sum == wanted.sum);
    KV_ASSERT(got.bad || kvn_frames_begun(&frames) == (wanted.rest > 0));
}

/* What is said of the first bytes is never taken back by more of them. */
static void check_sniff(const uint8_t *bytes, size_t len)
{
    const enum kvn_sniff whole = kvn_sniff(bytes, len);
    for (size_t n = 0; n <= len && n <= KVN_SNIFF_BYTES; n++) {
        const enum kvn_sniff part = kvn_sniff(bytes, n);
        KV_ASSERT(part == KVN_SNIFF_MORE || part == whole);
    }
    KV_ASSERT(KV_IMPLIES(len >= KVN_SNIFF_BYTES, whole != KVN_SNIFF_MORE));
}

static void check_hello(const uint8_t *bytes, size_t len)
{
    struct kvn_hello whole = {.have = 0}, cut = {.have = 0};
    const uint8_t *at = bytes;
    size_t left = len;
    uint32_t node = 0, node_cut = 0;
    const kv_status_t status = kvn_hello_take(&whole, &at, &left, &node);
    kv_status_t status_cut = KV_INPROGRESS;
    for (size_t i = 0; i < len && status_cut == KV_INPROGRESS; i++) {
        const uint8_t *byte = bytes + i;
        size_t one = 1;
        status_cut = kvn_hello_take(&cut, &byte, &one, &node_cut);
    }
    KV_ASSERT(status == status_cut && node == node_cut);
    KV_ASSERT(KV_IMPLIES(status == KV_OK, node != 0 && left == len - KVN_HELLO_BYTES));
    KV_ASSERT(KV_IMPLIES(status == KV_OK, kvn_sniff(bytes, len) == KVN_SNIFF_CLEAR));
    if (status == KV_OK) {
        uint8_t again[KVN_HELLO_BYTES];
        kvn_hello_make(node, again);
        KV_ASSERT(memcmp(again, bytes, sizeof(again)) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    check_sniff(data + 1, size - 1);
    check_hello(data + 1, size - 1);
    check_frames(data[0], data + 1, size - 1);

    char text[256], why[160];
    struct kvn_address address;
    union kvn_sockaddr addr;
    const size_t len = size - 1 < sizeof(text) - 1 ? size - 1 : sizeof(text) - 1;
    memcpy(text, data + 1, len);
    text[len] = '\0';
    if (kvn_address_parse(text, &address, why, sizeof(why)) == KV_OK
        && kvn_address_numeric(&address, &addr)) {
        char out[KVN_ADDRESS_TEXT_MAX];
        kvn_sockaddr_format(&addr, out, sizeof(out));
        KV_ASSERT(strlen(out) > 0);
    }
    return 0;
}
