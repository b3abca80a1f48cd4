/* The small records of a remote client's data connections, as either side reads them:
 * one that is taken names a slot, a chunk and a key that there can be. */
#include "base/assert.h"
#include "node/remote_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvn_remote_post post;
    struct kvn_remote_want want;
    struct kv_detail detail = {0};
    if (kvn_remote_post_read(data, size, &post, &detail) == KV_OK) {
        KV_ASSERT(size == sizeof(post));
        KV_ASSERT((post.tag & 0xffff) < KVN_RING_REQUESTS_MAX);
        KV_ASSERT(post.nr_keys > 0 && post.nr_keys <= KVN_RING_KEYS_MAX);
        KV_ASSERT(post.chunk < KVN_REMOTE_CHUNKS);
        KV_ASSERT(post.chunk * KVN_REMOTE_CHUNK_KEYS < post.nr_keys);
        /* No two chunks of two flights have one number. */
        KV_ASSERT(kvn_remote_req(post.tag, post.chunk) >> 4 == post.tag);
    } else {
        KV_ASSERT(detail.field != NULL);
    }
    if (kvn_remote_want_read(data, size, &want, &detail) == KV_OK) {
        KV_ASSERT(size == sizeof(want) && want.key < KVN_RING_KEYS_MAX);
    } else {
        KV_ASSERT(detail.field != NULL);
    }
    return 0;
}
