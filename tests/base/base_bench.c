/* What keys and digests cost on this machine: one core, JSON on stdout.
 *
 *   build/bin/base_bench
 *
 * The digest stands beside a plain read of the same bytes, because its target is a
 * share of the core's read bandwidth. Each figure is the best of several rounds, the
 * two taken in turn: what the code can do, not what the neighbours left.
 */
#include "base/assert.h"
#include "base/digest.h"
#include "base/hash.h"
#include "base/key.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 9 };

static volatile uint64_t sink;

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

typedef uint64_t v4_t __attribute__((vector_size(32), aligned(32), may_alias));

/* Reads every word; eight sums, so that no addition waits for the one before. Compiled
 * twice, as the digest is: a slow read would make the digest look good. */
static inline __attribute__((always_inline)) uint64_t
read_body(const void *data, size_t len)
{
    const v4_t *v = data;
    v4_t a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
    for (size_t i = 0; i < len / sizeof(*v); i += 8) {
        a ^= v[i], b ^= v[i + 1], c ^= v[i + 2], d ^= v[i + 3];
        e ^= v[i + 4], f ^= v[i + 5], g ^= v[i + 6], h ^= v[i + 7];
    }
    a ^= b ^ c ^ d ^ e ^ f ^ g ^ h;
    return a[0] ^ a[1] ^ a[2] ^ a[3];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_avx2(const void *data, size_t len)
{
    return read_body(data, len);
}
#endif

static uint64_t read_portable(const void *data, size_t len)
{
    return read_body(data, len);
}

static uint64_t read_all(const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return read_avx2(data, len);
    }
#endif
    return read_portable(data, len);
}

typedef uint64_t (*pass_fn)(const void *data, size_t len);

/* `total` bytes in pieces of `len`, going round in the first `span`. */
static double
pass_ns(pass_fn pass, const uint8_t *data, size_t len, size_t span, size_t total)
{
    const double start = now_ns();
    size_t at = 0;
    for (size_t done = 0; done < total; done += len) {
        sink ^= pass(data + at, len);
        at = at + len < span ? at + len : 0;
    }
    return now_ns() - start;
}

static void bench_digest(const char *name, const uint8_t *data, size_t len, size_t span)
{
    const size_t total = span > len ? span : (size_t)32 << 20;
    double read_ns = 1e99, digest_ns = 1e99;
    for (unsigned i = 0; i < ROUNDS; i++) {
        const double r = pass_ns(read_all, data, len, span, total);
        const double d = pass_ns(kv_digest, data, len, span, total);
        read_ns = r < read_ns ? r : read_ns;
        digest_ns = d < digest_ns ? d : digest_ns;
    }
    printf(
        "  {\"what\": \"digest\", \"impl\": \"%s\", \"bytes\": %zu, \"from\": \"%s\", "
        "\"gb_s\": %.1f, \"read_gb_s\": %.1f, \"ratio\": %.2f},\n",
        name, len, span > len ? "memory" : "cache", (double)total / digest_ns,
        (double)total / read_ns, read_ns / digest_ns);
}

enum { NR_KEYS = 200 * 1000 };

/* Chained, as a prompt is: each key waits for the one before. */
static double page_ns(kv_keygen_t *gen, const uint32_t *tokens, uint32_t n)
{
    kv_key_t key = {{1}};
    const double start = now_ns();
    for (unsigned i = 0; i < NR_KEYS; i++) {
        KV_ASSERT(kv_key_page(gen, &key, tokens, n, NULL, 0, &key, NULL) == KV_OK);
    }
    sink ^= kv_key_word(&key);
    return (now_ns() - start) / NR_KEYS;
}

static double opaque_ns(kv_keygen_t *gen, const void *bytes, uint32_t len)
{
    kv_key_t salt = {{1}}, key = {{0}};
    const double start = now_ns();
    for (unsigned i = 0; i < NR_KEYS; i++) {
        KV_ASSERT(kv_key_opaque(gen, &salt, bytes, len, &key, NULL) == KV_OK);
    }
    sink ^= kv_key_word(&key);
    return (now_ns() - start) / NR_KEYS;
}

static void bench_keys(const uint8_t *data)
{
    static const uint32_t page_tokens[] = {16, 64, 256};
    kv_keygen_t *gen;
    KV_ASSERT(kv_keygen_create(&gen) == KV_OK);
    for (unsigned k = 0; k < KV_COUNT_OF(page_tokens); k++) {
        double best = 1e99;
        for (unsigned i = 0; i < ROUNDS; i++) {
            double ns = page_ns(gen, (const void *)data, page_tokens[k]);
            best = ns < best ? ns : best;
        }
        printf(
            "  {\"what\": \"key_page\", \"tokens\": %u, \"ns\": %.1f},\n",
            page_tokens[k], best);
    }
    double best = 1e99;
    for (unsigned i = 0; i < ROUNDS; i++) {
        double ns = opaque_ns(gen, data, 32);
        best = ns < best ? ns : best;
    }
    printf("  {\"what\": \"key_opaque\", \"bytes\": 32, \"ns\": %.1f}\n", best);
    kv_keygen_destroy(gen);
}

int main(void)
{
    const size_t span = (size_t)256 << 20;
    uint8_t *data = aligned_alloc(4096, span);
    KV_ASSERT(data != NULL);
    for (size_t i = 0; i < span / 8; i++) {
        ((uint64_t *)(void *)data)[i] = kv_mix64(i);
    }
    printf("[\n");
    for (unsigned i = 0; kv_digest_impl(i) != NULL; i++) {
        const char *name = kv_digest_impl(i);
        KV_ASSERT(kv_digest_force(name) == 0);
        bench_digest(name, data, 4096, 4096);
        bench_digest(name, data, 1 << 20, 1 << 20);
        bench_digest(name, data, 1 << 20, span);
    }
    bench_keys(data);
    printf("]\n");
    free(data);
    return 0;
}
