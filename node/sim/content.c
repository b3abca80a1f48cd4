/* What pages hold: a nonce, then words that only (tenant, key, variant) gives. */
#include "base/hash.h"
#include "node/sim/world.h"

#include <string.h>

static uint64_t content_seed(uint32_t tenant, const kv_key_t *key, uint32_t variant)
{
    uint64_t h = kv_mix64(((uint64_t)tenant << 32 | variant) + KV_GOLDEN64);
    for (unsigned i = 0; i < KV_KEY_BYTES; i += 8) {
        uint64_t word = 0;
        for (unsigned b = 0; b < 8; b++) {
            word |= (uint64_t)key->b[i + b] << (8 * b);
        }
        h = kv_mix64(h ^ word);
    }
    return h;
}

static void put_word(uint8_t *out, uint64_t word)
{
    for (unsigned b = 0; b < 8; b++) {
        out[b] = (uint8_t)(word >> (8 * b));
    }
}

void kvs_content_make(
    uint8_t *bytes, uint32_t len, uint32_t tenant, const kv_key_t *key,
    uint32_t variant, uint64_t nonce)
{
    uint64_t seed = content_seed(tenant, key, variant);
    for (uint32_t i = 0; i + 8 <= len; i += 8) {
        put_word(bytes + i, i == 0 ? nonce : seed + i * KV_GOLDEN64);
    }
}

bool kvs_content_ok(
    const uint8_t *bytes, uint32_t len, uint32_t tenant, const kv_key_t *key,
    uint32_t variant)
{
    uint64_t seed = content_seed(tenant, key, variant);
    for (uint32_t i = 8; i + 8 <= len; i += 8) {
        uint8_t word[8];
        put_word(word, seed + i * KV_GOLDEN64);
        if (memcmp(word, bytes + i, sizeof(word)) != 0) {
            return false;
        }
    }
    return true;
}
