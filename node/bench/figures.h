/* `kvrail bench node`: what running nodes move, each figure beside a reference that is
 * taken in the same run.
 *
 *   cmd ──► group: starts nodes and tools, gives sides ──► figures.c: rounds ──► rows
 *            get, fetch, remote, lookup, pin                warm-up, then in turns
 *
 * A group sets up once and has several sides: one a row (verification on, off), one a
 * reference. In every round each side is taken once, and the round after begins with
 * the next side, so that a neighbour's load falls on all of them. A row's figure is its
 * median over the rounds, its ratio the median of the rounds' own ratios, beside the
 * least and greatest of them. One round before is not counted.
 *
 * Threading: the main thread runs groups; a side may have threads of its own, which end
 * with the take. `stop` is set by a signal: every wait looks at it.
 * Ownership: a group frees, stops and removes what it set up before it returns.
 * Errors: a status, and bench->line says what, with the field, limit and value.
 */
#ifndef KVN_BENCH_FIGURES_H
#define KVN_BENCH_FIGURES_H

#include "base/status.h"

#include <stdatomic.h>

enum {
    KVN_FIGURE_ROUNDS_MAX = 99,
    KVN_FIGURE_SIDES_MAX = 8,
    KVN_FIGURE_REFERENCES_MAX = 3,
    KVN_FIGURE_TEXT_BYTES = 128,
    KVN_FIGURE_TOP = 15, /* functions of a node that a counted row names */
    KVN_FIGURE_NAME_BYTES = 64,
};

enum kvn_figure_goal { KVN_GOAL_ANY, KVN_GOAL_AT_MOST, KVN_GOAL_AT_LEAST };

/* How a take becomes a number. GB/s is better when higher, the others when lower. */
enum kvn_figure_unit {
    KVN_UNIT_GB_S,
    KVN_UNIT_NS_PAGE,
    KVN_UNIT_P50_US,
    KVN_UNIT_P99_US
};

/* X(symbol, name, unit, verification, goal, its ratio): a row each, groups together. A
 * transport that is new has its rows here and its sides in fetch.c, remote.c. */
#define KVN_FIGURE_MAP(X)                                                              \
    X(KVN_FIGURE_GET_1M, "get_unix_1m_c4", GB_S, "off", AT_LEAST, 2.0)                 \
    X(KVN_FIGURE_GET_1M_VERIFY, "get_unix_1m_c4_verify", GB_S, "always", ANY, 0)       \
    X(KVN_FIGURE_PUT_1M, "put_unix_1m_c4", GB_S, "off", ANY, 0)                        \
    X(KVN_FIGURE_GET_16K, "get_unix_16k_b16_c4", GB_S, "off", AT_LEAST, 2.0)           \
    X(KVN_FIGURE_GET_16K_VERIFY, "get_unix_16k_b16_c4_verify", GB_S, "always", ANY, 0) \
    X(KVN_FIGURE_PUT_16K, "put_unix_16k_b16_c4", GB_S, "off", ANY, 0)                  \
    X(KVN_FIGURE_GET_TCP_1M, "get_tcp_1m_c4", GB_S, "off", AT_LEAST, 1.0)              \
    X(KVN_FIGURE_GET_TCP_1M_VERIFY, "get_tcp_1m_c4_verify", GB_S, "on", ANY, 0)        \
    X(KVN_FIGURE_PUT_TCP_1M, "put_tcp_1m_c4", GB_S, "off", ANY, 0)                     \
    X(KVN_FIGURE_PUT_TCP_1M_VERIFY, "put_tcp_1m_c4_verify", GB_S, "on", ANY, 0)        \
    X(KVN_FIGURE_GET_TCP_16K, "get_tcp_16k_b16_c4", GB_S, "off", AT_LEAST, 1.0)        \
    X(KVN_FIGURE_GET_TCP_16K_VERIFY, "get_tcp_16k_b16_c4_verify", GB_S, "on", ANY, 0)  \
    X(KVN_FIGURE_PUT_TCP_16K, "put_tcp_16k_b16_c4", GB_S, "off", ANY, 0)               \
    X(KVN_FIGURE_PUT_TCP_16K_VERIFY, "put_tcp_16k_b16_c4_verify", GB_S, "on", ANY, 0)  \
    X(KVN_FIGURE_PIN, "pin_unix_64", NS_PAGE, "off", AT_MOST, 3.0)                     \
    X(KVN_FIGURE_PIN_ASLEEP, "pin_unix_64_asleep", NS_PAGE, "off", ANY, 0)             \
    X(KVN_FIGURE_ACQUIRE, "acquire_unix_64", NS_PAGE, "off", AT_MOST, 3.0)             \
    X(KVN_FIGURE_ACQUIRE_ASLEEP, "acquire_unix_64_asleep", NS_PAGE, "off", ANY, 0)     \
    X(KVN_FIGURE_EMBED, "acquire_embedded_64", NS_PAGE, "off", ANY, 0)                 \
    X(KVN_FIGURE_EMBED_ASLEEP, "acquire_embedded_64_asleep", NS_PAGE, "off", ANY, 0)   \
    X(KVN_FIGURE_FETCH_SHM_1M, "fetch_shm_1m", GB_S, "off", AT_LEAST, 0.90)            \
    X(KVN_FIGURE_FETCH_SHM_1M_VERIFY, "fetch_shm_1m_verify", GB_S, "on",               \
      AT_LEAST, 0.80)                                                                  \
    X(KVN_FIGURE_FETCH_TCP_1M, "fetch_tcp_1m", GB_S, "off", AT_LEAST, 0.90)            \
    X(KVN_FIGURE_FETCH_TCP_1M_VERIFY, "fetch_tcp_1m_verify", GB_S, "on",               \
      AT_LEAST, 0.90)                                                                  \
    X(KVN_FIGURE_FETCH_TCP_16K, "fetch_tcp_16k", GB_S, "off", AT_LEAST, 0.90)          \
    X(KVN_FIGURE_FETCH_TCP_16K_VERIFY, "fetch_tcp_16k_verify", GB_S, "on",             \
      AT_LEAST, 0.90)                                                                  \
    X(KVN_FIGURE_REMOTE_SHM_1M, "get_remote_shm_1m", GB_S, "off", ANY, 0)              \
    X(KVN_FIGURE_REMOTE_SHM_1M_VERIFY, "get_remote_shm_1m_verify", GB_S, "on", ANY, 0) \
    X(KVN_FIGURE_REMOTE_SHM_1M_SPILL, "get_remote_shm_1m_spill", GB_S, "on", ANY, 0)   \
    X(KVN_FIGURE_REMOTE_TCP_1M, "get_remote_tcp_1m", GB_S, "off", ANY, 0)              \
    X(KVN_FIGURE_REMOTE_TCP_1M_VERIFY, "get_remote_tcp_1m_verify", GB_S, "on", ANY, 0) \
    X(KVN_FIGURE_REMOTE_TCP_1M_SPILL, "get_remote_tcp_1m_spill", GB_S, "on", ANY, 0)   \
    X(KVN_FIGURE_REMOTE_TCP_16K, "get_remote_tcp_16k", GB_S, "off", ANY, 0)            \
    X(KVN_FIGURE_REMOTE_TCP_16K_VERIFY, "get_remote_tcp_16k_verify", GB_S, "on",       \
      ANY, 0)                                                                          \
    X(KVN_FIGURE_REMOTE_TCP_16K_SPILL, "get_remote_tcp_16k_spill", GB_S, "on", ANY, 0) \
    X(KVN_FIGURE_LOOKUP_P50, "lookup_remote_p50", P50_US, "off", ANY, 0)               \
    X(KVN_FIGURE_LOOKUP_P99, "lookup_remote_p99", P99_US, "off", ANY, 0)

enum kvn_figure_name {
#define X(symbol, name, unit, verify, goal, ratio) symbol,
    KVN_FIGURE_MAP(X)
#undef X
        KVN_NR_FIGURES
};

struct kvn_figure_desc {
    const char *name;
    enum kvn_figure_unit unit;
    const char *verify;
    enum kvn_figure_goal goal;
    double goal_ratio;
};
extern const struct kvn_figure_desc kvn_figure_descs[KVN_NR_FIGURES];
const char *kvn_figure_unit_text(enum kvn_figure_unit unit); /* "GB/s" */

/* ------------------------------------------------------------------ one take */

/* What one side did once. What is not known of it is 0 (bytes, µs), or below 0. */
struct kvn_take {
    double seconds;
    uint64_t pages, bytes;
    double cpu_s;        /* of nodes or of the tool; < 0: not known */
    double client_cpu_s; /* of this process: its clients; < 0: not known */
    double instructions; /* of the nodes, in user space; < 0: not known */
    double p50_us, p99_us;
};

struct kvn_bench_node;

struct kvn_figure_side {
    /* Rows that this side gives; none: it is a reference. */
    enum kvn_figure_name rows[2];
    unsigned nr_rows;
    const char *reference; /* what a reference is, for people */
    /* A reference that is not to be had: why, with the package. Never taken then. */
    const char *missing;
    kv_status_t (*take)(void *arg, double seconds, struct kvn_take *take);
    void *arg;
};

/* ------------------------------------------------------------------ results */

struct kvn_figure_reference {
    char name[KVN_FIGURE_TEXT_BYTES];
    bool measured;
    char missing[KVN_FIGURE_TEXT_BYTES]; /* unless measured */
    double value;
    double ratio, ratio_min, ratio_max;
    double cpu_s_gb, client_cpu_s_gb; /* < 0: not known */
};

/* What nodes did for a page, counted by callgrind (count.c). */
struct kvn_counted {
    double page, page_min, page_max; /* instructions: median over the rounds */
    double byte;                     /* < 0: of no bytes */
    double copies, waits;            /* of them, a page: callgrind.h */
    double work, work_min, work_max; /* neither: median over the rounds */
    double idle;                     /* a second, when no client calls: in none */
    uint64_t pages;                  /* that a round's number is from */
    struct {
        char name[KVN_FIGURE_NAME_BYTES];
        double self, inclusive; /* a page; over all rounds */
    } top[KVN_FIGURE_TOP];      /* by self; "": no more */
};

struct kvn_figure {
    bool measured;
    unsigned rounds;
    double value, value_min, value_max;
    double cpu_s_gb, client_cpu_s_gb;            /* < 0: not known */
    double instructions_page, instructions_byte; /* < 0: not known */
    double load;                                 /* of one minute, at its end */
    uint64_t pages, bytes;                       /* of all its rounds */
    struct kvn_counted counted; /* with bench->callgrind: this, rounds and no more */
    unsigned nr_references; /* the first is the one that a goal is against */
    struct kvn_figure_reference references[KVN_FIGURE_REFERENCES_MAX];
};

struct kvn_callgrind;
struct kvn_counts;

struct kvn_bench_node {
    unsigned rounds;
    double seconds;   /* of one take */
    uint64_t batches; /* 0; else a take ends with so many of each client */
    bool quick;       /* small sets: shows that it runs, measures nothing */
    const char *only;
    const atomic_int *stop; /* a signal's number, once one has come */
    char bin[512];          /* folder of kvraild */
    const char *counters;   /* why instructions are not counted; NULL: they are */
    /* Nodes run under callgrind; NULL: they do not. With it `counts` is what they did
     * in the take that was charged last, and after one with idle_s > 0 `idle` what they
     * did in so many seconds without a call. */
    const struct kvn_callgrind *callgrind;
    struct kvn_counts *counts, *idle;
    double idle_s;
    char line[640]; /* what went wrong */
    struct kvn_figure figures[KVN_NR_FIGURES];
};

/* Writes bench->line and answers `status`. */
kv_status_t kvn_figure_fail(
    struct kvn_bench_node *bench, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool kvn_figure_stopped(const struct kvn_bench_node *bench);
/* Is any of first … last wanted? */
bool kvn_figure_wants(
    const struct kvn_bench_node *bench, enum kvn_figure_name first,
    enum kvn_figure_name last);
/* Sides whose rows are not wanted are not taken. */
kv_status_t kvn_figure_rounds(
    struct kvn_bench_node *bench, const struct kvn_figure_side *sides, unsigned nr);
bool kvn_figure_side_wanted(
    const struct kvn_bench_node *bench, const struct kvn_figure_side *side);
/* Sorts: the least is first then, the greatest last. */
double kvn_figure_median(double *values, unsigned nr);
/* kvn_figure_rounds() under callgrind; references are not taken. */
kv_status_t kvn_count_rounds(
    struct kvn_bench_node *bench, const struct kvn_figure_side *sides, unsigned nr);
/* True where nothing is asked, or where there is no reference to hold it against. */
bool kvn_figure_holds(const struct kvn_bench_node *bench, enum kvn_figure_name name);

/* The groups. KV_OK too when a tool is missing. */
kv_status_t kvn_figures_get(struct kvn_bench_node *bench);
kv_status_t kvn_figures_pin(struct kvn_bench_node *bench);
kv_status_t kvn_figures_fetch(struct kvn_bench_node *bench);
kv_status_t kvn_figures_remote(struct kvn_bench_node *bench);
kv_status_t kvn_figures_lookup(struct kvn_bench_node *bench);

#endif
