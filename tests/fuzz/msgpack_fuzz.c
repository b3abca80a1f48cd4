/* What our reader accepts must be msgpack to others, too: msgpack-c parses the same
 * bytes to their end, and packs what it parsed into the same bytes, since it always
 * uses the shortest form. */
#include "base/assert.h"
#include "base/msgpack_priv.h"

#include <msgpack.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_mp_reader reader = {.next = data, .end = data + size};
    struct kv_detail detail = {.field = NULL};
    kv_status_t status = kv_msgpack_check(data, size, &detail);
    msgpack_unpacked unpacked;
    msgpack_sbuffer packed;
    msgpack_packer packer;
    size_t offset = 0;

    if (status != KV_OK) {
        KV_ASSERT(detail.field != NULL);
        return 0;
    }
    KV_ASSERT(kv_mp_skip(&reader, NULL) == KV_OK && reader.next == reader.end);
    msgpack_unpacked_init(&unpacked);
    KV_ASSERT(
        msgpack_unpack_next(&unpacked, (const char *)data, size, &offset)
        == MSGPACK_UNPACK_SUCCESS);
    KV_ASSERT(offset == size);
    msgpack_sbuffer_init(&packed);
    msgpack_packer_init(&packer, &packed, msgpack_sbuffer_write);
    KV_ASSERT(msgpack_pack_object(&packer, unpacked.data) == 0);
    KV_ASSERT(packed.size == size && memcmp(packed.data, data, size) == 0);
    msgpack_sbuffer_destroy(&packed);
    msgpack_unpacked_destroy(&unpacked);
    return 0;
}
