/* Whatever arrives on a link: kv_decode() reads nothing past its end, takes no more of
 * the arena than is promised, and what it accepts is a message that we could send. */
#include "base/assert.h"
#include "base/codec.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t memory[KV_MSG_ARENA_BYTES] __attribute__((aligned(16)));
static uint8_t memory_again[KV_MSG_ARENA_BYTES] __attribute__((aligned(16)));
static uint8_t encoded[KV_MSG_BYTES_MAX];
static uint8_t encoded_again[KV_MSG_BYTES_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kv_arena arena_again = {.base = memory_again, .size = sizeof(memory_again)};
    struct kv_msg msg, again;
    struct kv_detail detail = {.field = NULL};
    char line[256];
    size_t len, len_again;
    kv_status_t status = kv_decode(data, size, &arena, &msg, &detail);

    if (status != KV_OK) {
        KV_ASSERT(
            status == KV_ERR_INVALID || status == KV_ERR_VERSION
            || (status == KV_ERR_TOO_LARGE && size > KV_MSG_BYTES_MAX));
        KV_ASSERT(detail.field != NULL);
        KV_ASSERT(arena.used == 0);
        return 0;
    }
    kv_msg_format(&msg, line, sizeof(line));
    KV_ASSERT(kv_encode(&msg, encoded, sizeof(encoded), &len, NULL) == KV_OK);
    /* Equal length: no part was unknown, so there is only one encoding. */
    KV_ASSERT(len <= size);
    KV_ASSERT(KV_IMPLIES(len == size, memcmp(encoded, data, len) == 0));
    KV_ASSERT(kv_decode(encoded, len, &arena_again, &again, NULL) == KV_OK);
    KV_ASSERT(arena_again.used == arena.used);
    KV_ASSERT(
        kv_encode(&again, encoded_again, sizeof(encoded_again), &len_again, NULL)
        == KV_OK);
    KV_ASSERT(len_again == len && memcmp(encoded_again, encoded, len) == 0);
    return 0;
}
