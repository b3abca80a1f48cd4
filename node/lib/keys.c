/* Names: of pages, statuses and reasons. Nothing here needs a node. */
#include "node/lib/lib_priv.h"

#include "base/key.h"
#include "base/miss.h"

#include <pthread.h>

_Static_assert((int)KVR_KEY_BYTES == (int)KV_KEY_BYTES, "one key");
_Static_assert(sizeof(struct kvr_key) == sizeof(kv_key_t), "copied as it is");
_Static_assert((int)KVR_EXTRA_MAX == (int)KV_EXTRA_BYTES_MAX, "docs/keys.md");
_Static_assert((int)KVR_OPAQUE_MAX == (int)KV_OPAQUE_BYTES_MAX, "docs/keys.md");
#define SAME(name) _Static_assert((int)KVR_##name == (int)KV_ERR_##name, "one number")
SAME(AGAIN);
SAME(MISS);
SAME(NOT_VERIFIED);
SAME(INVALID);
SAME(TOO_LARGE);
SAME(STALE);
SAME(DENIED);
SAME(QUOTA);
SAME(DEADLINE);
SAME(CANCELLED);
SAME(LINK_LOST);
SAME(VERSION);
SAME(NOMEM);
SAME(CONFIG);
SAME(IO);
_Static_assert((int)KVR_EXISTS == (int)KV_EXISTS, "one number");
_Static_assert((int)KVR_SEALING == (int)KV_SEALING, "one number");

#define STRING_(x) #x
#define STRING(x) STRING_(x)

const char *kvr_version(void)
{
    return STRING(KVR_VERSION_MAJOR) "." STRING(KVR_VERSION_MINOR) ".0";
}

const char *kvr_status_name(kvr_status_t status)
{
    return kv_status_name((kv_status_t)status);
}

const char *kvr_status_text(kvr_status_t status)
{
    return kv_status_text((kv_status_t)status);
}

const char *kvr_miss_name(uint8_t reason)
{
    static const char *const names[] = {
#define X(symbol, name, text) [symbol] = (name),
        KV_MISS_MAP(X)
#undef X
    };
    return reason < KV_NR_MISSES ? names[reason] : "unknown";
}

/* ------------------------------------------------------------------ keys */

/* A generator costs an allocation, a key does not: each thread keeps one. */
static pthread_once_t keygen_once = PTHREAD_ONCE_INIT;
static pthread_key_t keygen_key;
static bool keygen_keyed;

static void keygen_destroy(void *gen)
{
    kv_keygen_destroy(gen);
}

static void keygen_key_create(void)
{
    keygen_keyed = pthread_key_create(&keygen_key, keygen_destroy) == 0;
}

static kv_keygen_t *keygen(void)
{
    (void)pthread_once(&keygen_once, keygen_key_create);
    if (!keygen_keyed) {
        return NULL;
    }
    kv_keygen_t *gen = pthread_getspecific(keygen_key);
    if (gen == NULL && kv_keygen_create(&gen) == KV_OK
        && pthread_setspecific(keygen_key, gen) != 0) {
        kv_keygen_destroy(gen);
        gen = NULL;
    }
    return gen;
}

static void start_of(
    kv_keygen_t *gen, const struct kvr_space *space, const struct kvr_key *prev,
    kv_key_t *start)
{
    if (prev != NULL) {
        memcpy(start, prev, sizeof(*start));
        return;
    }
    kv_key_t salt;
    memcpy(&salt, space->salt, sizeof(salt));
    kv_key_root(gen, &salt, start);
}

kvr_status_t kvr_key_next(
    const struct kvr_space *space, const struct kvr_key *prev, const uint32_t *tokens,
    size_t n, const void *extra, size_t extra_len, struct kvr_key *key_p)
{
    kv_keygen_t *gen = keygen();
    kv_key_t start, key;
    if (gen == NULL) {
        return KVR_NOMEM;
    }
    if (n == 0 || n > space->page_tokens || extra_len > KVR_EXTRA_MAX) {
        return KVR_INVALID;
    }
    start_of(gen, space, prev, &start);
    kv_status_t status = kv_key_page(
        gen, &start, tokens, (uint32_t)n, extra, (uint32_t)extra_len, &key, NULL);
    if (status == KV_OK) {
        memcpy(key_p, &key, sizeof(key));
    }
    return status;
}

kvr_status_t kvr_keys_tokens(
    const struct kvr_space *space, const uint32_t *tokens, size_t n,
    struct kvr_key *keys, size_t cap, size_t *nr_p)
{
    size_t page = space->page_tokens;
    if (page == 0 || n / page + (n % page != 0) > cap) {
        return KVR_INVALID;
    }
    const struct kvr_key *prev = NULL;
    size_t nr = 0;
    for (size_t i = 0; i < n; i += page, nr++) {
        size_t here = n - i < page ? n - i : page;
        kvr_status_t status =
            kvr_key_next(space, prev, &tokens[i], here, NULL, 0, &keys[nr]);
        if (status != KVR_OK) {
            return status;
        }
        prev = &keys[nr];
    }
    *nr_p = nr;
    return KVR_OK;
}

kvr_status_t kvr_key_opaque(
    const struct kvr_space *space, const void *name, size_t len, struct kvr_key *key_p)
{
    kv_keygen_t *gen = keygen();
    kv_key_t salt, key;
    if (gen == NULL) {
        return KVR_NOMEM;
    }
    if (len == 0 || len > KVR_OPAQUE_MAX) {
        return KVR_INVALID;
    }
    memcpy(&salt, space->salt, sizeof(salt));
    kv_status_t status = kv_key_opaque(gen, &salt, name, (uint32_t)len, &key, NULL);
    if (status == KV_OK) {
        memcpy(key_p, &key, sizeof(key));
    }
    return status;
}
