/* Small integer hashing and a seeded generator: fixed for ever where nodes must agree
 * (placement), deterministic where simulations must replay.
 *
 * Threading: pure functions; a kv_rng belongs to its caller.
 */
#ifndef KV_HASH_H
#define KV_HASH_H

#include <stdint.h>

/* The 64-bit finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
 * Number Generators, OOPSLA 2014; Stafford's variant 13). A bijection. */
static inline uint64_t kv_mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    return x;
}

#define KV_GOLDEN64 UINT64_C(0x9e3779b97f4a7c15)

/* SplitMix64: one word of state, so a seed is a whole generator. */
struct kv_rng {
    uint64_t state;
};

static inline struct kv_rng kv_rng_seed(uint64_t seed)
{
    return (struct kv_rng){.state = kv_mix64(seed + KV_GOLDEN64)};
}

static inline uint64_t kv_rng_next(struct kv_rng *rng)
{
    rng->state += KV_GOLDEN64;
    return kv_mix64(rng->state);
}

/* Uniform in [0, bound); bound > 0. Multiply-shift (Lemire 2019) without the rejection
 * step: the bias is below 2^-32 for the small bounds used here. */
static inline uint64_t kv_rng_below(struct kv_rng *rng, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)kv_rng_next(rng) * bound) >> 64);
}

/* True once in `n` calls on average; n == 0 is never. */
static inline int kv_rng_one_in(struct kv_rng *rng, uint64_t n)
{
    return n != 0 && kv_rng_below(rng, n) == 0;
}

#endif
