/* Clients that move pages as fast as they can: those of a node by libkvrail, and those
 * of memcached by its meta protocol, alike in all that is not the store's.
 *
 *   shape ──► kvn_load_open ──► fill ──► get, put takes   nr_clients threads, each
 *         └─► kvn_memcached_open ──► fill ──► get, put takes  its own client, memory
 *
 * A client has `depth` batches of `batch` pages in flight, each with memory of its own,
 * goes round its share of the set, and looks at one word in 4 KiB of every page that
 * came: a wrong one ends the run. PUT stamps pages in the same way; its pages are new
 * ones each time, so that a full store must let others go.
 *
 * Threading: the main thread opens, takes and closes; a take's threads end with it.
 * Ownership: what is opened is closed by the caller; NULL is fine. Errors: a status and
 * bench->line; every wait has KVN_LOAD_WAIT_US.
 */
#ifndef KVN_BENCH_LOAD_H
#define KVN_BENCH_LOAD_H

#include "node/bench/world.h"

enum {
    KVN_LOAD_CLIENTS_MAX = 4,
    KVN_LOAD_DEPTH_MAX = 8,
    KVN_LOAD_BATCH_MAX = 64,
    KVN_LOAD_WAIT_US = 10000000,
    KVN_LOAD_OTHERS = 8,    /* of so many pages one may come from another place */
    KVN_LOAD_STRIDE = 4096, /* bytes between two words that are stamped */
};

struct kvn_load_shape {
    uint64_t page_bytes;
    uint64_t nr_pages; /* of the set, all clients together */
    uint32_t batch, depth, nr_clients;
};

/* ------------------------------------------------------------------ threads */

struct kvn_worker {
    const struct kvn_bench_node *bench;
    void *arg;
    unsigned index;
    double seconds; /* that the take lasts, from the thread's beginning */
    /* Written by the thread. */
    double begin_s, end_s;
    uint64_t asked; /* how often kvn_worker_over() was */
    uint64_t pages;
    uint64_t others; /* from another place than what is measured: not counted */
    kv_status_t status;
    char line[256];
};

typedef void (*kvn_work_fn)(struct kvn_worker *worker);

/* Runs `work` in nr threads for so long; what they moved goes to *take. */
kv_status_t kvn_crew_run(
    struct kvn_bench_node *bench, unsigned nr, kvn_work_fn work, void *arg,
    double seconds, uint64_t page_bytes, struct kvn_take *take);
/* A worker's failure: one line. */
void kvn_worker_fail(
    struct kvn_worker *worker, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Time over, or so many batches begun, or a signal; asked once a batch. The time is
 * never over when it is asked first: a take does something on the busiest machine. */
bool kvn_worker_over(struct kvn_worker *worker);
double kvn_now_s(void);

/* INVALID, when more than a few pages came from another place than what is measured. */
void kvn_worker_others(struct kvn_worker *worker);

void kvn_stamp(uint8_t *page, uint64_t bytes, uint64_t number);
bool kvn_stamped(const uint8_t *page, uint64_t bytes, uint64_t number);
/* Every word of it; a painted page is a stamped one, too. */
void kvn_paint(uint8_t *page, uint64_t bytes, uint64_t number);
bool kvn_painted(const uint8_t *page, uint64_t bytes, uint64_t number);

/* ------------------------------------------------------------------ a node */

struct kvn_load;

/* Clients of that node. `place`: where the pages of a GET come from (enum kvr_place);
 * others do not count, and INVALID when they are more than a few. */
kv_status_t kvn_load_open(
    struct kvn_bench_node *bench, struct kvn_world *world, unsigned node,
    const struct kvn_load_shape *shape, unsigned place, struct kvn_load **load_p);
void kvn_load_close(struct kvn_load *load);
/* Stores pages 0 … nr - 1; more than the set: newer ones push the older out. */
kv_status_t kvn_load_fill(struct kvn_load *load, uint64_t nr);
kv_status_t kvn_load_get(void *load, double seconds, struct kvn_take *take);
kv_status_t kvn_load_put(void *load, double seconds, struct kvn_take *take);

/* ------------------------------------------------------------------ memcached */

struct kvn_memcached;

#define KVN_MEMCACHED_MISSING                                                          \
    "memcached is not installed; Debian: apt-get install memcached"

/* `memcached -t 4` with room for the set, on a Unix socket or on TCP over loopback.
 * *memcached_p is NULL when it is not installed, or not taken: nodes are counted. */
kv_status_t kvn_memcached_open(
    struct kvn_bench_node *bench, const struct kvn_load_shape *shape, bool tcp,
    struct kvn_memcached **memcached_p);
void kvn_memcached_close(struct kvn_memcached *memcached);
kv_status_t kvn_memcached_fill(struct kvn_memcached *memcached, uint64_t nr);
kv_status_t kvn_memcached_get(void *memcached, double seconds, struct kvn_take *take);
kv_status_t kvn_memcached_put(void *memcached, double seconds, struct kvn_take *take);

#endif
