/* GET at one node of pages that only its peer has: they land in a frame, and are copied
 * on into the client's buffer. (Without that copy: fetch.c.) A transport that is new is
 * a row of `ways`, with its reference. */
#include "node/bench/load.h"
#include "node/bench/reference.h"

#include "include/kvrail/kvrail.h"

enum {
    DEPTH = 4,        /* batches in flight */
    READER_SHARE = 8, /* the reader holds so little of the set: each page is fresh */
    QUICK_PAGES = 64,
    QUICK_SHARE = 2,
};
#define SET_BYTES (UINT64_C(512) << 20)

struct way {
    enum kvn_figure_name off, verify, spill;
    const char *transports; /* link.transports */
    bool maps; /* the reader copies out of the owner's memory: memcpy is its measure */
    uint64_t page_bytes;
    uint32_t batch;
};

static const struct way ways[] = {
    {KVN_FIGURE_REMOTE_SHM_1M, KVN_FIGURE_REMOTE_SHM_1M_VERIFY,
     KVN_FIGURE_REMOTE_SHM_1M_SPILL, "onesided", true, 1 << 20, 1},
    {KVN_FIGURE_REMOTE_TCP_1M, KVN_FIGURE_REMOTE_TCP_1M_VERIFY,
     KVN_FIGURE_REMOTE_TCP_1M_SPILL, "named", false, 1 << 20, 1},
    {KVN_FIGURE_REMOTE_TCP_16K, KVN_FIGURE_REMOTE_TCP_16K_VERIFY,
     KVN_FIGURE_REMOTE_TCP_16K_SPILL, "named", false, 16 << 10, 16},
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

static kv_status_t measure(struct kvn_bench_node *bench, const struct way *way)
{
    struct group g = {
        .shape = {
            .page_bytes = way->page_bytes,
            .nr_pages =
                bench->quick ? QUICK_PAGES * way->batch : SET_BYTES / way->page_bytes,
            .batch = way->batch,
            .depth = DEPTH,
            .nr_clients = 1,
        }};
    struct kvn_wire wire = {0};
    kv_status_t status = kvn_wire_open(
        bench, way->maps, way->page_bytes, g.shape.nr_pages,
        g.shape.nr_pages / (bench->quick ? QUICK_SHARE : READER_SHARE), &wire);
    for (unsigned i = 0; status == KV_OK && i < NR_WORLDS; i++) {
        status = world_set_up(bench, way, &g, i);
    }
    if (status == KV_OK) {
        const enum kvn_figure_name rows[] = {
            [OFF] = way->off, [VERIFY] = way->verify, [SPILL] = way->spill};
        struct kvn_figure_side sides[1 + NR_WORLDS] = {kvn_wire_side(&wire)};
        for (unsigned i = 0; i < NR_WORLDS; i++) {
            sides[1 + i] = (struct kvn_figure_side){
                .rows = {rows[i]},
                .nr_rows = 1,
                .take = kvn_load_get,
                .arg = g.loads[i],
            };
        }
        status = kvn_figure_rounds(bench, sides, 1 + NR_WORLDS);
    }
    for (unsigned i = 0; i < NR_WORLDS; i++) {
        status = kvn_world_blame(bench, &g.worlds[i], status);
        kvn_load_close(g.loads[i]);
        kvn_world_stop(&g.worlds[i]);
    }
    kvn_wire_close(&wire);
    return status;
}

kv_status_t kvn_figures_remote(struct kvn_bench_node *bench)
{
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (kvn_figure_wants(bench, ways[i].off, ways[i].spill)) {
            status = measure(bench, &ways[i]);
        }
    }
    return status;
}
