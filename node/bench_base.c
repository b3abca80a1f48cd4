/* Keys beside libcrypto, digests beside plain reads, messages beside msgpack-c. */
#define OPENSSL_SUPPRESS_DEPRECATED /* the fastest SHA-256 of libcrypto: base/key.c */

#include "base/assert.h"
#include "base/codec.h"
#include "base/digest.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/bench.h"

#include <msgpack.h>
#include <openssl/sha.h>
#include <string.h>

/* ------------------------------------------------------------------ keys */

enum {
    KEYS = 2000, /* of one slice */
    TAG_BYTES = 8,
    OPAQUE_BYTES = 32, /* what engines' own keys usually are: a hash */
    KEY_MSG_MAX = 512,
};

struct key_bench {
    kv_keygen_t *gen;
    uint32_t nr_tokens;
    uint32_t nr_keys; /* of one slice */
    uint32_t tokens[64];
    uint8_t msg[KEY_MSG_MAX];
    size_t msg_len;
    kv_key_t key;
    SHA256_CTX sha;
};

/* Chained, as a prompt's keys are: each hash begins when the one before has ended. */
static void key_page_run(void *arg, unsigned slice)
{
    struct key_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < b->nr_keys; i++) {
        KV_ASSERT(
            kv_key_page(
                b->gen, &b->key, b->tokens, b->nr_tokens, NULL, 0, &b->key, NULL)
            == KV_OK);
    }
}

/* The message is complete but for the key that is chained into it. */
static void sha_chained_run(void *arg, unsigned slice)
{
    struct key_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < b->nr_keys; i++) {
        memcpy(b->msg + TAG_BYTES, b->key.b, KV_KEY_BYTES);
        SHA256_Init(&b->sha);
        SHA256_Update(&b->sha, b->msg, b->msg_len);
        SHA256_Final(b->key.b, &b->sha);
    }
}

static void key_opaque_run(void *arg, unsigned slice)
{
    struct key_bench *b = arg;
    const kv_key_t salt = {{1}};
    (void)slice;
    for (unsigned i = 0; i < b->nr_keys; i++) {
        KV_ASSERT(
            kv_key_opaque(b->gen, &salt, b->key.b, OPAQUE_BYTES, &b->key, NULL)
            == KV_OK);
    }
}

static void measure_keys(struct kvn_bench *bench, struct key_bench *b)
{
    struct kvn_bench_case c = {
        .slices = bench->quick ? 2 : 16,
        .nr_per_slice = b->nr_keys,
        .reference = {NULL, sha_chained_run, NULL},
        .subject = {NULL, key_page_run, NULL},
    };
    static const struct {
        enum kvn_bench_name name;
        uint32_t nr_tokens;
    } pages[] = {{KVN_BENCH_KEY_16, 16}, {KVN_BENCH_KEY_64, 64}};

    for (unsigned i = 0; i < KV_COUNT_OF(pages); i++) {
        b->nr_tokens = pages[i].nr_tokens;
        /* tag ‖ key ‖ n ‖ tokens ‖ length of extra */
        b->msg_len = TAG_BYTES + KV_KEY_BYTES + sizeof(uint32_t)
                     + b->nr_tokens * sizeof(uint32_t) + sizeof(uint32_t);
        c.name = pages[i].name;
        kvn_bench_measure(bench, &c, b);
    }
    /* tag ‖ salt ‖ length ‖ key: chained through the salt's place, at the same cost */
    b->msg_len = TAG_BYTES + KV_SALT_BYTES + sizeof(uint32_t) + OPAQUE_BYTES;
    c.name = KVN_BENCH_KEY_OPAQUE;
    c.subject.run = key_opaque_run;
    kvn_bench_measure(bench, &c, b);
}

static kv_status_t bench_keys(struct kvn_bench *bench)
{
    struct key_bench *b = kv_calloc(1, sizeof(*b));
    if (b == NULL) {
        return KV_ERR_NOMEM;
    }
    b->nr_keys = bench->quick ? 16 : KEYS;
    kv_status_t status = kv_keygen_create(&b->gen);
    if (status == KV_OK) {
        measure_keys(bench, b);
        kv_keygen_destroy(b->gen);
    }
    kv_free(b);
    return status;
}

/* ------------------------------------------------------------------ digests */

enum {
    PIECE_BYTES = 1 << 20,  /* of one kv_digest() */
    CACHED_BYTES = 1 << 18, /* half of a usual second-level cache */
    SLICE_PIECES = 8,
    SPAN_PIECES = 256, /* far more than any cache */
    CACHED_LOOPS = 32,
    STREAMS = 4,
};

struct digest_bench {
    uint8_t *data;
    unsigned nr_pieces;
    uint64_t sum;
};

typedef uint64_t v4_t __attribute__((vector_size(32), aligned(32), may_alias));

/* Reads every word of `streams` equal parts in turn; eight sums, so that no addition
 * waits for the one before. Several streams keep more of the processor's prefetchers at
 * work: four read a quarter faster than one (2026-11-21, AMD EPYC, 256 MiB, medians of
 * 15: one 15.6, two 18.9, four 20.6 GB/s; with software prefetch 12.9 to 16.8). */
static inline __attribute__((always_inline)) uint64_t
read_body(const uint8_t *data, size_t len, unsigned streams)
{
    v4_t a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a;
    const size_t part = len / streams / sizeof(v4_t);
    for (size_t i = 0; i < part; i += 8) {
        for (unsigned s = 0; s < streams; s++) {
            const v4_t *v = (const v4_t *)(const void *)data + part * s + i;
            a ^= v[0], b ^= v[1], c ^= v[2], d ^= v[3];
            e ^= v[4], f ^= v[5], g ^= v[6], h ^= v[7];
        }
    }
    a ^= b ^ c ^ d ^ e ^ f ^ g ^ h;
    return a[0] ^ a[1] ^ a[2] ^ a[3];
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t
read_avx2(const uint8_t *data, size_t len, unsigned streams)
{
    return streams == 1 ? read_body(data, len, 1) : read_body(data, len, STREAMS);
}
#endif

static uint64_t read_all(const uint8_t *data, size_t len, unsigned streams)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return read_avx2(data, len, streams);
    }
#endif
    return streams == 1 ? read_body(data, len, 1) : read_body(data, len, STREAMS);
}

/* The two sides go round the span half a span apart: neither finds in cache what the
 * other has just read. */
static const uint8_t *piece(const struct digest_bench *b, unsigned at, unsigned half)
{
    const unsigned i = (at + half * (b->nr_pieces / 2)) % b->nr_pieces;
    return b->data + (size_t)i * PIECE_BYTES;
}

static void read_streams_run(void *arg, unsigned slice)
{
    struct digest_bench *b = arg;
    for (unsigned i = 0; i < SLICE_PIECES; i++) {
        b->sum ^= read_all(piece(b, slice * SLICE_PIECES + i, 1), PIECE_BYTES, STREAMS);
    }
}

static void read_linear_run(void *arg, unsigned slice)
{
    struct digest_bench *b = arg;
    for (unsigned i = 0; i < SLICE_PIECES; i++) {
        b->sum ^= read_all(piece(b, slice * SLICE_PIECES + i, 1), PIECE_BYTES, 1);
    }
}

static void digest_run(void *arg, unsigned slice)
{
    struct digest_bench *b = arg;
    for (unsigned i = 0; i < SLICE_PIECES; i++) {
        b->sum ^= kv_digest(piece(b, slice * SLICE_PIECES + i, 0), PIECE_BYTES);
    }
}

static void read_cached_run(void *arg, unsigned slice)
{
    struct digest_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < CACHED_LOOPS; i++) {
        b->sum ^= read_all(b->data, CACHED_BYTES, 1);
        kvn_bench_use(b);
    }
}

static void digest_cached_run(void *arg, unsigned slice)
{
    struct digest_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < CACHED_LOOPS; i++) {
        b->sum ^= kv_digest(b->data, CACHED_BYTES);
        kvn_bench_use(b);
    }
}

static void measure_digests(struct kvn_bench *bench, struct digest_bench *b)
{
    const struct kvn_bench_case streams = {
        .name = KVN_BENCH_DIGEST_1M,
        .slices = b->nr_pieces / SLICE_PIECES,
        .nr_per_slice = (double)SLICE_PIECES * PIECE_BYTES,
        .reference = {NULL, read_streams_run, NULL},
        .subject = {NULL, digest_run, NULL},
    };
    struct kvn_bench_case linear = streams;
    linear.name = KVN_BENCH_DIGEST_1M_LINEAR;
    linear.reference.run = read_linear_run;
    const struct kvn_bench_case cached = {
        .name = KVN_BENCH_DIGEST_CACHED,
        .slices = bench->quick ? 2 : 32,
        .nr_per_slice = (double)CACHED_LOOPS * CACHED_BYTES,
        .reference = {NULL, read_cached_run, NULL},
        .subject = {NULL, digest_cached_run, NULL},
    };
    kvn_bench_measure(bench, &streams, b);
    kvn_bench_measure(bench, &linear, b);
    kvn_bench_measure(bench, &cached, b);
}

static kv_status_t bench_digests(struct kvn_bench *bench)
{
    struct digest_bench b = {
        .nr_pieces = bench->quick ? 2 * SLICE_PIECES : SPAN_PIECES};
    if (!kvn_bench_wants(bench, KVN_BENCH_DIGEST_1M)
        && !kvn_bench_wants(bench, KVN_BENCH_DIGEST_1M_LINEAR)
        && !kvn_bench_wants(bench, KVN_BENCH_DIGEST_CACHED)) {
        return KV_OK;
    }
    b.data = kv_calloc(b.nr_pieces, PIECE_BYTES);
    if (b.data == NULL) {
        return KV_ERR_NOMEM;
    }
    for (size_t i = 0; i < (size_t)b.nr_pieces * PIECE_BYTES; i += sizeof(uint64_t)) {
        const uint64_t word = kv_mix64(i);
        memcpy(b.data + i, &word, sizeof(word));
    }
    measure_digests(bench, &b);
    kvn_bench_use(&b);
    kv_free(b.data);
    return KV_OK;
}

/* ------------------------------------------------------------------ messages */

enum { SEGS = 4, SEG_KEYS = 4, WANTS = 2, MSGS = 500, MSG_ROOM = 4096 };

struct codec_bench {
    unsigned nr_msgs; /* of one slice */
    struct kv_msg msg;
    struct kv_msg_want wants[WANTS];
    struct kv_msg_segment segs[SEGS];
    kv_key_t keys[SEGS * SEG_KEYS];
    _Alignas(16) uint8_t memory[MSG_ROOM * 4];
    uint8_t bytes[MSG_ROOM];
    size_t len;
    msgpack_sbuffer packed;
    msgpack_unpacked unpacked;
};

static void key_random(struct kv_rng *rng, kv_key_t *key)
{
    for (size_t i = 0; i < sizeof(key->b); i += sizeof(uint64_t)) {
        const uint64_t word = kv_rng_next(rng);
        memcpy(key->b + i, &word, sizeof(word));
    }
}

static void codec_init(struct codec_bench *b)
{
    struct kv_rng rng = kv_rng_seed(1);
    for (unsigned i = 0; i < SEGS * SEG_KEYS; i++) {
        key_random(&rng, &b->keys[i]);
    }
    for (unsigned i = 0; i < SEGS; i++) {
        b->segs[i].keys = &b->keys[(size_t)i * SEG_KEYS];
        b->segs[i].nr_keys = SEG_KEYS;
        b->segs[i].segment = b->segs[i].keys[0];
    }
    for (unsigned i = 0; i < WANTS; i++) {
        b->wants[i] = (struct kv_msg_want){.layout = 0x12345678, .group = (uint16_t)i};
    }
    b->msg = (struct kv_msg){
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_LOOKUP,
        .req = 123456,
        .link = kv_rng_next(&rng),
        .epoch = 7,
        .deadline_left_us = 50000,
        .u.lookup =
            {
                .tenant = 3,
                .grants_max = 16,
                .wants = b->wants,
                .nr_wants = WANTS,
                .segs = b->segs,
                .nr_segs = SEGS,
            },
    };
    msgpack_sbuffer_init(&b->packed);
    msgpack_unpacked_init(&b->unpacked);
}

static void pack_bin(msgpack_packer *pk, const void *bytes, size_t len)
{
    msgpack_pack_bin(pk, len);
    msgpack_pack_bin_body(pk, bytes, len);
}

/* The message as base/codec writes it (docs/wire.md), by hand: no table, no check. */
static void lookup_pack(const struct kv_msg *msg, msgpack_packer *pk)
{
    const struct kv_msg_lookup *lookup = &msg->u.lookup;
    const uint64_t uints[][2] = {
        {0, msg->proto},      {1, msg->type},           {2, msg->req},
        {3, msg->link},       {4, msg->epoch},          {5, msg->deadline_left_us},
        {16, lookup->tenant}, {17, lookup->grants_max},
    };
    msgpack_pack_map(pk, KV_COUNT_OF(uints) + 2);
    for (unsigned i = 0; i < KV_COUNT_OF(uints); i++) {
        msgpack_pack_uint64(pk, uints[i][0]);
        msgpack_pack_uint64(pk, uints[i][1]);
    }
    msgpack_pack_uint64(pk, 18);
    msgpack_pack_array(pk, lookup->nr_wants);
    for (uint32_t i = 0; i < lookup->nr_wants; i++) {
        msgpack_pack_array(pk, 3);
        msgpack_pack_uint64(pk, lookup->wants[i].layout);
        msgpack_pack_uint64(pk, lookup->wants[i].group);
        msgpack_pack_uint64(pk, lookup->wants[i].shard);
    }
    msgpack_pack_uint64(pk, 19);
    msgpack_pack_array(pk, lookup->nr_segs);
    for (uint32_t i = 0; i < lookup->nr_segs; i++) {
        const struct kv_msg_segment *seg = &lookup->segs[i];
        msgpack_pack_array(pk, 3);
        pack_bin(pk, seg->segment.b, KV_KEY_BYTES);
        msgpack_pack_uint64(pk, seg->index);
        pack_bin(pk, seg->keys, (size_t)seg->nr_keys * KV_KEY_BYTES);
    }
}

static void msgpack_run(void *arg, unsigned slice)
{
    struct codec_bench *b = arg;
    msgpack_packer pk;
    (void)slice;
    for (unsigned i = 0; i < b->nr_msgs; i++) {
        size_t at = 0;
        b->packed.size = 0; /* keeps its memory */
        msgpack_packer_init(&pk, &b->packed, msgpack_sbuffer_write);
        lookup_pack(&b->msg, &pk);
        KV_ASSERT(
            msgpack_unpack_next(&b->unpacked, b->packed.data, b->packed.size, &at)
            == MSGPACK_UNPACK_SUCCESS);
    }
}

static void codec_run(void *arg, unsigned slice)
{
    struct codec_bench *b = arg;
    struct kv_arena arena = {.base = b->memory, .size = sizeof(b->memory)};
    struct kv_msg back;
    (void)slice;
    for (unsigned i = 0; i < b->nr_msgs; i++) {
        KV_ASSERT(
            kv_encode(&b->msg, b->bytes, sizeof(b->bytes), &b->len, NULL) == KV_OK);
        arena.used = 0;
        KV_ASSERT(kv_decode(b->bytes, b->len, &arena, &back, NULL) == KV_OK);
        kvn_bench_use(&back);
    }
}

static kv_status_t bench_codec(struct kvn_bench *bench)
{
    if (!kvn_bench_wants(bench, KVN_BENCH_CODEC_LOOKUP)) {
        return KV_OK;
    }
    struct codec_bench *b = kv_calloc(1, sizeof(*b));
    if (b == NULL) {
        return KV_ERR_NOMEM;
    }
    b->nr_msgs = bench->quick ? 8 : MSGS;
    codec_init(b);
    codec_run(b, 0);
    msgpack_run(b, 0);
    /* Another form of the message would be another amount of work. */
    KV_ASSERT(
        b->packed.size == b->len && memcmp(b->packed.data, b->bytes, b->len) == 0);
    const struct kvn_bench_case c = {
        .name = KVN_BENCH_CODEC_LOOKUP,
        .slices = bench->quick ? 2 : 32,
        .nr_per_slice = b->nr_msgs,
        .reference = {NULL, msgpack_run, NULL},
        .subject = {NULL, codec_run, NULL},
    };
    kvn_bench_measure(bench, &c, b);
    msgpack_unpacked_destroy(&b->unpacked);
    msgpack_sbuffer_destroy(&b->packed);
    kv_free(b);
    return KV_OK;
}

kv_status_t kvn_bench_base(struct kvn_bench *bench)
{
    kv_status_t status = bench_keys(bench);
    if (status == KV_OK) {
        status = bench_digests(bench);
    }
    return status == KV_OK ? bench_codec(bench) : status;
}
