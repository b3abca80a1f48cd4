#include "node/trace_build.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

kv_status_t kvn_build_reserve(struct kvn_build *build, size_t n)
{
    if (n > UINT32_MAX - build->nr_refs) {
        return KV_ERR_NOMEM;
    }
    if (build->nr_refs + n > build->refs_cap) {
        size_t cap = 2 * build->refs_cap + n + 1024;
        uint32_t *ids = realloc(build->ids, cap * sizeof(*ids));
        if (ids == NULL) {
            return KV_ERR_NOMEM;
        }
        build->ids = ids;
        build->refs_cap = cap;
    }
    memset(build->ids + build->nr_refs, 0, n * sizeof(*build->ids));
    return KV_OK;
}

kv_status_t kvn_build_request(
    struct kvn_build *build, uint64_t arrival_us, uint32_t n, uint32_t output_tokens)
{
    KV_ASSERT(build->nr_refs + n <= build->refs_cap);
    if (build->nr_requests == build->requests_cap) {
        size_t cap = 2 * build->requests_cap + 1024;
        struct kvn_request *requests =
            realloc(build->requests, cap * sizeof(*requests));
        if (requests == NULL) {
            return KV_ERR_NOMEM;
        }
        build->requests = requests;
        build->requests_cap = cap;
    }
    build->requests[build->nr_requests++] = (struct kvn_request){
        .arrival_us = arrival_us,
        .first = (uint32_t)build->nr_refs,
        .nr_pages = n,
        .output_tokens = output_tokens,
    };
    build->nr_refs += n;
    return KV_OK;
}

/* Requests that arrive together stay in the order of the file: `first` grows with
 * it. */
static int by_arrival(const void *a, const void *b)
{
    const struct kvn_request *ra = a;
    const struct kvn_request *rb = b;
    if (ra->arrival_us != rb->arrival_us) {
        return ra->arrival_us < rb->arrival_us ? -1 : 1;
    }
    return (ra->first > rb->first) - (ra->first < rb->first);
}

void kvn_build_end(
    struct kvn_build *build, uint32_t page_tokens, struct kvn_trace *trace)
{
    KV_ASSERT(build->nr_requests <= UINT32_MAX && build->nr_refs <= UINT32_MAX);
    if (build->nr_requests > 0) {
        qsort(
            build->requests, build->nr_requests, sizeof(*build->requests), by_arrival);
    }
    *trace = (struct kvn_trace){
        .page_tokens = page_tokens,
        .nr_requests = (uint32_t)build->nr_requests,
        .nr_refs = (uint32_t)build->nr_refs,
        .nr_ids = build->nr_ids,
        .requests = build->requests,
        .ids = build->ids,
    };
    memset(build, 0, sizeof(*build));
}

void kvn_build_abort(struct kvn_build *build)
{
    free(build->requests);
    free(build->ids);
    memset(build, 0, sizeof(*build));
}

void kvn_trace_free(struct kvn_trace *trace)
{
    free(trace->requests);
    free(trace->ids);
    memset(trace, 0, sizeof(*trace));
}

/* ------------------------------------------------------------------ keys */

void kvn_trace_key(kv_keygen_t *gen, uint32_t id, kv_key_t *key_p)
{
    static const kv_key_t salt = {"kvrail trace"};
    uint8_t bytes[8];
    for (unsigned i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)((uint64_t)id >> (8 * i));
    }
    kv_status_t status = kv_key_opaque(gen, &salt, bytes, sizeof(bytes), key_p, NULL);
    KV_ASSERT(status == KV_OK); /* the length is fixed, the context is there */
}

kv_status_t kvn_trace_keys(const struct kvn_trace *trace, kv_key_t **keys_p)
{
    kv_keygen_t *gen;
    kv_status_t status = kv_keygen_create(&gen);
    if (status != KV_OK) {
        return status;
    }
    kv_key_t *keys = kv_calloc(trace->nr_ids, sizeof(*keys));
    if (keys == NULL) {
        status = KV_ERR_NOMEM;
        goto err_gen;
    }
    for (uint32_t id = 0; id < trace->nr_ids; id++) {
        kvn_trace_key(gen, id, &keys[id]);
    }
    *keys_p = keys;

err_gen:
    kv_keygen_destroy(gen);
    return status;
}
