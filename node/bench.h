/* Figures of one machine, each beside what the machine can do at best: `kvrail bench`.
 *
 *   bench_cmd ──► bench_base, bench_pager, bench_cluster, bench_core ──► bench.c
 *                 set up, and give both sides of each figure           measures
 *
 * Order: a run is cut into slices, and in every slice reference and subject take turns
 *   in who goes first, so that a neighbour's load falls on both. A side's time in a run
 *   is its median slice's: one in which another process had the core says nothing. What
 *   is reported is the median of the runs' ratios and their least and greatest. One run
 *   before them is not counted.
 * Threading: one thread, kept on one core by the caller.
 * Ownership: a suite owns what it sets up and frees it before it returns.
 */
#ifndef KVN_BENCH_H
#define KVN_BENCH_H

#include "base/status.h"

enum { KVN_BENCH_RUNS_MAX = 99, KVN_BENCH_SLICES_MAX = 512 };

/* What the design asks of a ratio. */
enum kvn_bench_goal { KVN_BENCH_ANY, KVN_BENCH_AT_MOST, KVN_BENCH_AT_LEAST };

/* X(symbol, name, unit, reference, goal, its ratio, greatest value or 0). Units of time
 * are better when lower; GB/s is better when higher. */
#define KVN_BENCH_MAP(X)                                                               \
    X(KVN_BENCH_PAGE_ALLOC_FREE, "page_alloc_free", "ns/page",                         \
      "free list pop and push, a line written each", ANY, 0, 0)                        \
    X(KVN_BENCH_PROBE_FLOOR, "probe_floor", "ns/page",                                 \
      "the same probe, each waiting for the one before", ANY, 0, 0)                    \
    X(KVN_BENCH_ACQUIRE, "acquire_embed_64", "ns/page",                                \
      "batched probe and one line of frame data", AT_MOST, 1.3, 50)                    \
    X(KVN_BENCH_ACQUIRE_SAMPLE, "acquire_embed_64_sample", "ns/page",                  \
      "batched probe and one line of frame data", AT_MOST, 1.3, 50)                    \
    X(KVN_BENCH_RELEASE, "release_embed_64", "ns/page",                                \
      "batched count down and bare list move", ANY, 0, 0)                              \
    X(KVN_BENCH_KEY_16, "key_token_page_16", "ns/key",                                 \
      "SHA-256 of the same bytes by libcrypto", ANY, 0, 0)                             \
    X(KVN_BENCH_KEY_64, "key_token_page_64", "ns/key",                                 \
      "SHA-256 of the same bytes by libcrypto", ANY, 0, 0)                             \
    X(KVN_BENCH_KEY_OPAQUE, "key_opaque", "ns/key",                                    \
      "SHA-256 of the same bytes by libcrypto", ANY, 0, 0)                             \
    X(KVN_BENCH_DIGEST_1M, "digest_1m", "GB/s", "read of four streams at once",        \
      AT_LEAST, 0.80, 0)                                                               \
    X(KVN_BENCH_DIGEST_1M_LINEAR, "digest_1m_linear", "GB/s",                          \
      "read from beginning to end", AT_LEAST, 0.80, 0)                                 \
    X(KVN_BENCH_DIGEST_CACHED, "digest_cached", "GB/s", "read from the same cache",    \
      ANY, 0, 0)                                                                       \
    X(KVN_BENCH_LOOKUP_LOCAL, "lookup_local_256", "ns/page",                           \
      "the pager's look-up of the same keys", ANY, 0, 0)                               \
    X(KVN_BENCH_DIRECTORY, "directory_publish", "ns/entry",                            \
      "bare hash insert and delete of the same bytes", ANY, 0, 0)                      \
    X(KVN_BENCH_CODEC_LOOKUP, "codec_lookup", "ns/message",                            \
      "msgpack-c packs and unpacks the same bytes", ANY, 0, 0)

enum kvn_bench_name {
#define X(symbol, name, unit, against, goal, ratio, value) symbol,
    KVN_BENCH_MAP(X)
#undef X
    KVN_NR_BENCHES
};

struct kvn_bench_desc {
    const char *name;
    const char *unit;
    const char *against;
    enum kvn_bench_goal goal;
    double goal_ratio;
    double goal_value; /* 0: none */
};
extern const struct kvn_bench_desc kvn_bench_descs[KVN_NR_BENCHES];

struct kvn_bench_row {
    bool measured;
    unsigned runs;
    double value;     /* of the subject, in the desc's unit; median */
    double reference; /* likewise */
    double ratio;     /* value over reference; median */
    double ratio_min, ratio_max;
};

struct kvn_bench {
    unsigned runs;
    bool quick; /* sizes that only show that everything runs */
    const char *only;
    struct kvn_bench_row rows[KVN_NR_BENCHES];
};

/* One side of a figure. ready() and keep() are not timed; NULL: nothing to do. */
struct kvn_bench_side {
    void (*ready)(void *arg, unsigned slice);
    void (*run)(void *arg, unsigned slice);
    void (*keep)(void *arg, unsigned slice);
};

struct kvn_bench_case {
    enum kvn_bench_name name;
    unsigned slices;          /* of one run */
    double nr_per_slice;      /* pages, keys, bytes: what the unit counts */
    void (*begin)(void *arg); /* of a run; NULL: nothing to do */
    void (*end)(void *arg);
    struct kvn_bench_side reference, subject;
};

/* False when --only names another one. */
bool kvn_bench_wants(const struct kvn_bench *bench, enum kvn_bench_name name);
/* Measures the figure, unless it is not wanted. */
void kvn_bench_measure(
    struct kvn_bench *bench, const struct kvn_bench_case *c, void *arg);
/* Does the row hold what the design asks? True where it asks nothing. */
bool kvn_bench_holds(const struct kvn_bench *bench, enum kvn_bench_name name);

/* The compiler must believe that `p`'s memory is read here. */
static inline void kvn_bench_use(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* The suites: NOMEM, or what a part answered that should have answered OK. */
kv_status_t kvn_bench_pager(struct kvn_bench *bench);
kv_status_t kvn_bench_base(struct kvn_bench *bench);
kv_status_t kvn_bench_cluster(struct kvn_bench *bench);
kv_status_t kvn_bench_core(struct kvn_bench *bench);

#endif
