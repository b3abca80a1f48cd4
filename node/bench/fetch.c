/* Pages that only a peer has, read through a client of the other node. A transport that
 * is new is a row of `ways`, with its reference. */
#include "node/bench/load.h"

#include "base/mem.h"
#include "include/kvrail/kvrail.h"
#include "node/iperf3.h"

#include <string.h>

enum {
    DEPTH = 4,        /* batches in flight */
    STREAMS = 1,      /* a node has one data connection to each peer */
    READER_SHARE = 8, /* the reader holds so little of the set: each page is fresh */
    QUICK_PAGES = 64,
    QUICK_SHARE = 2,
};
#define SET_BYTES (UINT64_C(512) << 20)
#define IPERF3_BYTES_S 2500000000.0 /* about what it moves in a second */
#define IPERF3_BYTES_MIN 50000000.0
#define IPERF3_MISSING "iperf3 is not installed; Debian: apt-get install iperf3"

struct way {
    enum kvn_figure_name off, verify, spill;
    const char *transports; /* link.transports */
    bool maps; /* the reader copies out of the owner's memory: memcpy is its measure */
    uint64_t page_bytes;
    uint32_t batch;
};

static const struct way ways[] = {
    {KVN_FIGURE_SHM_1M, KVN_FIGURE_SHM_1M_VERIFY, KVN_FIGURE_SHM_1M_SPILL, "onesided",
     true, 1 << 20, 1},
    {KVN_FIGURE_FETCH_1M, KVN_FIGURE_FETCH_1M_VERIFY, KVN_FIGURE_FETCH_1M_SPILL,
     "named", false, 1 << 20, 1},
    {KVN_FIGURE_FETCH_16K, KVN_FIGURE_FETCH_16K_VERIFY, KVN_FIGURE_FETCH_16K_SPILL,
     "named", false, 16 << 10, 16},
};

enum { OFF, VERIFY, SPILL, NR_WORLDS };
enum { OWNER, READER, NR_ENDS };

struct group {
    struct kvn_load_shape shape;
    struct kvn_world worlds[NR_WORLDS];
    struct kvn_load *loads[NR_WORLDS];
};

static kv_status_t world_set_up(
    struct kvn_bench_node *bench, const struct way *way, struct group *g, unsigned i)
{
    const uint64_t set = g->shape.nr_pages * g->shape.page_bytes;
    const struct kvn_world_config config = {
        .nr_nodes = NR_ENDS,
        .page_bytes = g->shape.page_bytes,
        .page_tokens = 16,
        .node_bytes =
            {[OWNER] = set + set / 4,
             [READER] = set / (bench->quick ? QUICK_SHARE : READER_SHARE)},
        .verify_local = "off",
        .verify_reads = i != OFF,
        .poll = "200us",
        .transports = way->transports,
        .spill = i == SPILL, /* what has to leave is offered to the owner */
    };
    struct kvn_load *owner = NULL;
    kv_status_t status = kvn_world_start(bench, &config, &g->worlds[i]);
    if (status == KV_OK) {
        status = kvn_load_open(
            bench, &g->worlds[i], OWNER, &g->shape, KVR_FROM_DEVICE, &owner);
    }
    if (status == KV_OK) {
        status = kvn_load_fill(owner, g->shape.nr_pages);
    }
    kvn_load_close(owner);
    return status == KV_OK ? kvn_load_open(
               bench, &g->worlds[i], READER, &g->shape, KVR_FROM_PEER, &g->loads[i])
                           : status;
}

static kv_status_t iperf3_take(void *arg, double seconds, struct kvn_take *take)
{
    struct kvn_bench_node *bench = arg;
    struct kvn_iperf3 figure = {0};
    double bytes = seconds * IPERF3_BYTES_S;
    bytes = bytes < IPERF3_BYTES_MIN ? IPERF3_BYTES_MIN : bytes;
    kv_status_t status = kvn_iperf3_run((uint64_t)bytes, STREAMS, bench->stop, &figure);
    if (status != KV_OK) {
        return kvn_figure_fail(bench, status, "iperf3 did not run to its end");
    }
    take->seconds = figure.seconds;
    take->bytes = (uint64_t)(figure.gb_s * 1e9 * figure.seconds);
    take->cpu_s = figure.cpu_s_gb * (double)take->bytes / 1e9;
    return KV_OK;
}

/* ------------------------------------------------------------------ memcpy */

/* The same set of pages, page by page into as many places as the reader has. */
struct copying {
    struct kvn_bench_node *bench;
    uint64_t page_bytes, nr_from, nr_to;
    uint8_t *from, *to;
    uint64_t next;
};

static void copying_close(struct copying *c)
{
    kv_free(c->to);
    kv_free(c->from);
}

static kv_status_t copying_open(struct copying *c)
{
    const size_t from = c->nr_from * c->page_bytes, to = c->nr_to * c->page_bytes;
    c->from = kv_calloc(1, from);
    c->to = kv_calloc(1, to);
    if (c->from == NULL || c->to == NULL) {
        return kvn_figure_fail(c->bench, KV_ERR_NOMEM, "out of memory");
    }
    memset(c->from, 1, from); /* present, as a node's memory is */
    memset(c->to, 2, to);
    return KV_OK;
}

static kv_status_t memcpy_take(void *arg, double seconds, struct kvn_take *take)
{
    struct copying *c = arg;
    const double begin = kvn_now_s();
    do {
        memcpy(
            c->to + c->next % c->nr_to * c->page_bytes,
            c->from + c->next % c->nr_from * c->page_bytes, c->page_bytes);
        __asm__ volatile("" ::: "memory"); /* it is wanted */
        c->next++;
        take->pages++;
        take->seconds = kvn_now_s() - begin;
    } while (take->seconds < seconds && !kvn_figure_stopped(c->bench));
    take->bytes = take->pages * c->page_bytes;
    take->cpu_s = take->seconds;
    return KV_OK;
}

static kv_status_t measure(struct kvn_bench_node *bench, const struct way *way)
{
    char path[512];
    struct group g = {
        .shape = {
            .page_bytes = way->page_bytes,
            .nr_pages =
                bench->quick ? QUICK_PAGES * way->batch : SET_BYTES / way->page_bytes,
            .batch = way->batch,
            .depth = DEPTH,
            .nr_clients = 1,
        }};
    struct copying copying = {
        .bench = bench,
        .page_bytes = way->page_bytes,
        .nr_from = g.shape.nr_pages,
        .nr_to = g.shape.nr_pages / (bench->quick ? QUICK_SHARE : READER_SHARE),
    };
    kv_status_t status = way->maps ? copying_open(&copying) : KV_OK;
    for (unsigned i = 0; status == KV_OK && i < NR_WORLDS; i++) {
        status = world_set_up(bench, way, &g, i);
    }
    if (status == KV_OK) {
        const bool there = way->maps || kvn_child_find("iperf3", path, sizeof(path));
        const struct kvn_figure_side sides[] = {
            {.rows = {way->off},
             .nr_rows = 1,
             .take = kvn_load_get,
             .arg = g.loads[OFF]},
            {.reference =
                 way->maps ? "memcpy, one thread" : "iperf3, one stream over loopback",
             .missing = there ? NULL : IPERF3_MISSING,
             .take = way->maps ? memcpy_take : iperf3_take,
             .arg = way->maps ? (void *)&copying : bench},
            {.rows = {way->verify},
             .nr_rows = 1,
             .take = kvn_load_get,
             .arg = g.loads[VERIFY]},
            {.rows = {way->spill},
             .nr_rows = 1,
             .take = kvn_load_get,
             .arg = g.loads[SPILL]},
        };
        status = kvn_figure_rounds(bench, sides, sizeof(sides) / sizeof(sides[0]));
    }
    for (unsigned i = 0; i < NR_WORLDS; i++) {
        status = kvn_world_blame(bench, &g.worlds[i], status);
        kvn_load_close(g.loads[i]);
        kvn_world_stop(&g.worlds[i]);
    }
    copying_close(&copying);
    return status;
}

kv_status_t kvn_figures_fetch(struct kvn_bench_node *bench)
{
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (kvn_figure_wants(bench, ways[i].off, ways[i].spill)) {
            status = measure(bench, &ways[i]);
        }
    }
    return status;
}
