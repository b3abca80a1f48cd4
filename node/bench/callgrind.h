/* Instructions of whole nodes, counted by callgrind, where the processor's own counters
 * are not to be had (world.h has those): a node runs under valgrind, and what it did
 * between two cuts is read from the files that callgrind writes.
 *
 *   kvn_callgrind_find ──► kvn_callgrind_words: what a node is started with
 *   kvn_callgrind_cut: vgdb dump ──► callgrind.PID.PART-THREAD ──► kvn_callgrind_read
 *
 * Counted is user mode alone: the kernel's part of a system call is not. One thread of
 * the node runs at a time, on a processor that valgrind makes up: it has AVX2 and no
 * SHA extensions or AVX-512, so what chooses its code by these chooses as there.
 *
 * Threading: the main thread. Ownership: the caller's. Errors: a status and, where a
 * bench is given, bench->line.
 */
#ifndef KVN_BENCH_CALLGRIND_H
#define KVN_BENCH_CALLGRIND_H

#include "node/bench/figures.h"

#include <stdio.h>
#include <sys/types.h>

/* No sanitizer runs under valgrind. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVN_CALLGRIND_NEVER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KVN_CALLGRIND_NEVER 1
#endif
#endif

enum {
    KVN_COUNTS_FUNCTIONS_MAX = 4096,
    KVN_CALLGRIND_CUT_MS = 60000, /* a node under valgrind is slow to answer */
    KVN_CALLGRIND_WORDS_MAX = 12,
    KVN_CALLGRIND_WORD_BYTES = 640,
};

/* A function by its name alone: static ones of one name are one. What a library has
 * no names for is one function, by the library's name, inclusive of itself alone. */
struct kvn_counts_function {
    char name[KVN_FIGURE_NAME_BYTES];
    double self;
    double inclusive; /* with what it called; recursion counts once */
};

struct kvn_counts {
    double all;
    uint32_t nr_functions;
    struct kvn_counts_function functions[KVN_COUNTS_FUNCTIONS_MAX];
};

/* Where the programs are. */
struct kvn_callgrind {
    char env[512], valgrind[512], vgdb[512], preload[600];
};

/* `bin`: kvraild's folder. NULL when nodes can be counted, else why not. */
const char *kvn_callgrind_find(const char *bin, struct kvn_callgrind *callgrind);

/* The words before a program's own, in that order; how many. */
unsigned kvn_callgrind_words(
    const struct kvn_callgrind *callgrind, const char *folder,
    char words[KVN_CALLGRIND_WORDS_MAX][KVN_CALLGRIND_WORD_BYTES]);

/* What that node did since its last cut, or its start, is added to *counts (NULL: is
 * forgotten). IO: it did not answer in time, or its files do not add up. */
kv_status_t kvn_callgrind_cut(
    struct kvn_bench_node *bench, const char *folder, pid_t pid,
    struct kvn_counts *counts);

/* One file of callgrind, added to *counts. INVALID, and counts changed in part: it is
 * cut off, has a line that is none, or its lines are not what its total says; NOMEM:
 * more functions than there is room for. */
kv_status_t kvn_callgrind_read(FILE *file, struct kvn_counts *counts);

/* to += sign * from. */
kv_status_t
kvn_counts_add(struct kvn_counts *to, const struct kvn_counts *from, double sign);

/* Self cost of copies: memcpy, memmove and memset, of pages and of all else, and shm's
 * copier, into which they are compiled as string instructions: those are counted once
 * every 8 bytes, by a processor once. */
double kvn_counts_copies(const struct kvn_counts *counts);
/* Self cost of looking for work: turns of the loop (libuv, timers, clocks, a look at
 * rings) and movers at their queue. Polling in vain is a part of it, and the part that
 * changes from run to run; so this bounds it from above. */
double kvn_counts_waits(const struct kvn_counts *counts);

#endif
