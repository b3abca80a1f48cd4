/* The keys that chaos asks for: documents that share prefixes, half-page tails, and
 * opaque names; the same tokens and names for every tenant. */
#include "base/assert.h"
#include "base/fault.h"
#include "node/sim/chaos.h"

#include <string.h>

/* The token that makes document `doc` its own from page share[doc] on. */
static const uint32_t share[KVS_CHAOS_DOCS] = {0, 4, 9, 0, 2, 4};
static const uint32_t after[KVS_CHAOS_DOCS] = {0, 0, 1, 3, 3, 4};

static void page_tokens_of(uint32_t doc, uint32_t page, uint32_t n, uint32_t *tokens)
{
    /* Before share[doc] pages a document is the one that it follows. */
    while (page < share[doc]) {
        doc = after[doc];
    }
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = doc * 1000003 + page * 8192 + i;
    }
}

static void
make_tenant(struct kvs_population *population, kv_keygen_t *gen, uint32_t tenant)
{
    uint8_t secret[KV_SECRET_BYTES_MIN] = {(uint8_t)(tenant + 1)};
    kv_key_t space, salt;
    memset(&space, 0x33, sizeof(space));
    if (KV_PLANTED(KV_PLANT_OPAQUE_NO_TENANT)) {
        secret[0] = 1; /* as a library would that left the tenant out of its keys */
    }
    kv_status_t status = kv_salt(secret, sizeof(secret), &space, &salt, NULL);
    KV_ASSERT(status == KV_OK);
    kv_key_root(gen, &salt, &population->root[tenant]);
    uint32_t tokens[KV_PAGE_TOKENS_MAX];
    uint32_t n = population->page_tokens;
    for (uint32_t doc = 0; doc < KVS_CHAOS_DOCS; doc++) {
        kv_key_t prev = population->root[tenant];
        for (uint32_t page = 0; page < KVS_CHAOS_PAGES; page++) {
            kv_key_t *full = &population->full[tenant][doc][page];
            kv_key_t *tail = &population->tail[tenant][doc][page];
            page_tokens_of(doc, page, n, tokens);
            status = kv_key_page(gen, &prev, tokens, n, NULL, 0, full, NULL);
            KV_ASSERT(status == KV_OK);
            status = kv_key_page(gen, &prev, tokens, n / 2, NULL, 0, tail, NULL);
            KV_ASSERT(status == KV_OK);
            prev = *full;
        }
    }
    for (uint32_t i = 0; i < KVS_CHAOS_OPAQUE; i++) {
        uint8_t name[4] = {'p', 'g', (uint8_t)('a' + i / 16), (uint8_t)('a' + i % 16)};
        status = kv_key_opaque(
            gen, &salt, name, sizeof(name), &population->opaque[tenant][i], NULL);
        KV_ASSERT(status == KV_OK);
    }
}

void kvs_population_make(struct kvs_population *population, uint32_t page_tokens)
{
    kv_keygen_t *gen = NULL;
    kv_status_t status = kv_keygen_create(&gen);
    KV_ASSERT(status == KV_OK && page_tokens <= KV_PAGE_TOKENS_MAX);
    population->page_tokens = page_tokens;
    for (uint32_t tenant = 0; tenant < KVS_CHAOS_TENANTS; tenant++) {
        make_tenant(population, gen, tenant);
    }
    kv_keygen_destroy(gen);
}

void kvs_population_page(
    const struct kvs_population *population, uint32_t tenant, uint32_t doc,
    uint32_t page, bool tail, struct kvs_page *out)
{
    const kv_key_t *full = population->full[tenant][doc];
    uint32_t n = population->page_tokens;
    /* A tail is filed behind the page it follows. */
    uint32_t filed = tail && page > 0 ? page - 1 : page;
    *out = (struct kvs_page){
        .kind = tail ? KVS_PAGE_TAIL : KVS_PAGE_FULL,
        .key = tail ? population->tail[tenant][doc][page] : full[page],
        .anchor = full[kvc_segment_at(filed, n).first],
        .prev = page > 0 ? full[page - 1] : population->root[tenant],
        .page = page,
        .n_tokens = tail ? n / 2 : n,
    };
}

bool kvs_population_find(
    const struct kvs_population *population, uint32_t tenant, const kv_key_t *key,
    struct kvs_page *out)
{
    for (uint32_t doc = 0; doc < KVS_CHAOS_DOCS; doc++) {
        for (uint32_t page = 0; page < KVS_CHAOS_PAGES; page++) {
            bool full = kv_key_equal(key, &population->full[tenant][doc][page]);
            bool tail = kv_key_equal(key, &population->tail[tenant][doc][page]);
            if (full || tail) {
                kvs_population_page(population, tenant, doc, page, tail, out);
                return true;
            }
        }
    }
    for (uint32_t i = 0; i < KVS_CHAOS_OPAQUE; i++) {
        if (kv_key_equal(key, &population->opaque[tenant][i])) {
            *out = (struct kvs_page){
                .kind = KVS_PAGE_OPAQUE,
                .key = *key,
                .n_tokens = population->page_tokens,
            };
            return true;
        }
    }
    return false;
}
