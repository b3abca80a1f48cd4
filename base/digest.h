/* The digest: 64 bits over the bytes of one copy (docs/digest.md, byte for byte, with
 * test vectors).
 *
 *   bytes ──► leaves of 4 KiB, each on its own ──► one root over (leaves, length)
 *
 * Leaves and the root are sums, so SIMD lanes, GPU warps and chunks that land out of
 * order all compute the same value. It finds accidents (flipped, missing, stale, torn
 * or swapped bytes); it is no defence against malice: tenants and credentials are.
 *
 * Threading: pure; any thread, never the loop for whole pages. The implementation is
 * chosen once, at the first call, from what the processor can do.
 */
#ifndef KV_DIGEST_H
#define KV_DIGEST_H

#include <stddef.h>
#include <stdint.h>

enum { KV_DIGEST_LEAF_BYTES = 4096 };

/* Of `len` bytes at `data` (any alignment; len == 0 is fine). */
uint64_t kv_digest(const void *data, size_t len);

/* One leaf; len <= KV_DIGEST_LEAF_BYTES. Only the last leaf of a copy may be short. */
uint64_t kv_digest_leaf(const void *data, size_t len);

/* For chunks that arrive in any order: start, add each leaf once by its number, end. */
struct kv_digest_state {
    uint64_t acc[2]; /* sum over the leaves, leaves added */
};
void kv_digest_init(struct kv_digest_state *state);
void kv_digest_add(struct kv_digest_state *state, uint64_t leaf_index, uint64_t leaf);
uint64_t kv_digest_end(const struct kv_digest_state *state, uint64_t total_len);

/* The implementations, for tests and benchmarks: "portable", "avx2", "avx512"; NULL
 * past the last that this processor can run. kv_digest_force(NULL) lets the library
 * choose again. */
const char *kv_digest_impl(unsigned i);
const char *kv_digest_chosen(void);
int kv_digest_force(const char *name); /* 0, or -1 when it cannot run here */

#endif
