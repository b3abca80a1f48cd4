/* How long a LOOKUP and its FOUND take to encode and to decode: they are on the path of
 * every prompt. One core, warm caches; the best of several rounds. */
#include "base/assert.h"
#include "base/codec.h"
#include "base/hash.h"

#include <stdio.h>
#include <time.h>

enum { SEGS = 4, KEYS = 4, WANTS = 2, ROUNDS = 20, LOOPS = 20000 };

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void bench(const char *name, const struct kv_msg *msg)
{
    static uint8_t memory[1 << 16] __attribute__((aligned(16)));
    static uint8_t bytes[1 << 16];
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    uint64_t best_encode = UINT64_MAX, best_decode = UINT64_MAX;
    struct kv_msg back;
    size_t len = 0;

    for (int round = 0; round < ROUNDS; round++) {
        uint64_t start = now_ns(), middle, end;
        for (int i = 0; i < LOOPS; i++) {
            KV_ASSERT(kv_encode(msg, bytes, sizeof(bytes), &len, NULL) == KV_OK);
        }
        middle = now_ns();
        for (int i = 0; i < LOOPS; i++) {
            arena.used = 0;
            KV_ASSERT(kv_decode(bytes, len, &arena, &back, NULL) == KV_OK);
        }
        end = now_ns();
        best_encode = middle - start < best_encode ? middle - start : best_encode;
        best_decode = end - middle < best_decode ? end - middle : best_decode;
    }
    printf(
        "%-8s %5zu bytes  encode %5.0f ns  decode %5.0f ns\n", name, len,
        (double)best_encode / LOOPS, (double)best_decode / LOOPS);
}

static void random_key(struct kv_rng *rng, kv_key_t *key)
{
    for (size_t i = 0; i < sizeof(key->b); i++) {
        key->b[i] = (uint8_t)kv_rng_next(rng);
    }
}

static void bench_lookup(struct kv_rng *rng)
{
    struct kv_msg_want wants[WANTS] = {
        {.layout = 0x12345678}, {.layout = 1, .group = 1}};
    struct kv_msg_segment segs[SEGS];
    kv_key_t keys[SEGS * KEYS];
    struct kv_msg msg = {
        .proto = 1,
        .type = KV_MSG_LOOKUP,
        .req = 123456,
        .link = kv_rng_next(rng),
        .epoch = 7,
        .deadline_left_us = 50000};

    for (uint32_t i = 0; i < SEGS; i++) {
        random_key(rng, &segs[i].segment);
        for (uint32_t j = 0; j < KEYS; j++) {
            random_key(rng, &keys[i * KEYS + j]);
        }
        segs[i].index = 0;
        segs[i].keys = &keys[i * KEYS];
        segs[i].nr_keys = KEYS;
    }
    msg.u.lookup = (struct kv_msg_lookup){
        .tenant = 3,
        .grants_max = 16,
        .wants = wants,
        .nr_wants = WANTS,
        .segs = segs,
        .nr_segs = SEGS};
    bench("lookup", &msg);
}

static void bench_found(struct kv_rng *rng, uint32_t nr_grants)
{
    uint32_t holders[2] = {1, 2};
    struct kv_msg_run runs[SEGS];
    struct kv_msg_found_grant grants[SEGS * KEYS];
    struct kv_msg msg = {
        .proto = 1,
        .type = KV_MSG_FOUND,
        .req = 123456,
        .link = kv_rng_next(rng),
        .epoch = 7};

    for (uint32_t i = 0; i < SEGS; i++) {
        runs[i] = (struct kv_msg_run){
            .seg = i, .n = KEYS, .holders = holders, .nr_holders = 2};
    }
    for (uint32_t i = 0; i < SEGS * KEYS; i++) {
        grants[i] = (struct kv_msg_found_grant){.seg = i / KEYS, .page = i % KEYS};
        grants[i].grant = (struct kv_grant){
            .id = 1000000 + i,
            .gen = 77,
            .offset = (uint64_t)i << 20,
            .digest = kv_rng_next(rng),
            .frame = i,
            .len = 1 << 20,
            .n_tokens = 256,
            .duration_us = 1000000};
    }
    msg.u.found = (struct kv_msg_found){
        .runs = runs, .nr_runs = SEGS, .grants = grants, .nr_grants = nr_grants};
    bench(nr_grants == 0 ? "found" : "found+16", &msg);
}

int main(void)
{
    struct kv_rng rng = kv_rng_seed(1);

    bench_lookup(&rng);
    bench_found(&rng, 0);
    bench_found(&rng, SEGS * KEYS);
    return 0;
}
