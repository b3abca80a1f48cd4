/* GET and PUT through a node's Unix socket, and over TLS and tcp as a client on another
 * host has it, beside memcached. */
#include "node/bench/load.h"

#include "base/assert.h"
#include "include/kvrail/kvrail.h"

#include <stdio.h>

enum {
    CLIENTS = 4,
    DEPTH = 2,       /* one batch moves while the other is looked at */
    FULL_FACTOR = 3, /* of the set, stored before PUT: memcached is full then */
    QUICK_PAGES = 64,
};
#define SET_BYTES (UINT64_C(512) << 20)

struct sizes {
    enum kvn_figure_name get, get_verify, put, last;
    uint64_t page_bytes;
    uint32_t batch;
    bool remote; /* PUT is verified too, or not: last */
};

static const struct sizes sizes[] = {
    {KVN_FIGURE_GET_1M, KVN_FIGURE_GET_1M_VERIFY, KVN_FIGURE_PUT_1M, KVN_FIGURE_PUT_1M,
     1 << 20, 1, false},
    {KVN_FIGURE_GET_16K, KVN_FIGURE_GET_16K_VERIFY, KVN_FIGURE_PUT_16K,
     KVN_FIGURE_PUT_16K, 16 << 10, 16, false},
    {KVN_FIGURE_GET_TCP_1M, KVN_FIGURE_GET_TCP_1M_VERIFY, KVN_FIGURE_PUT_TCP_1M,
     KVN_FIGURE_PUT_TCP_1M_VERIFY, 1 << 20, 1, true},
    {KVN_FIGURE_GET_TCP_16K, KVN_FIGURE_GET_TCP_16K_VERIFY, KVN_FIGURE_PUT_TCP_16K,
     KVN_FIGURE_PUT_TCP_16K_VERIFY, 16 << 10, 16, true},
};

enum { OFF, VERIFY, NR_NODES };
enum { TCP, UNIX, NR_TOOLS };

struct group {
    struct kvn_load_shape shape;
    struct kvn_world worlds[NR_NODES];
    struct kvn_load *loads[NR_NODES];
    struct kvn_memcached *tools[NR_TOOLS];
};

/* Of what lies in the node: each page at each GET, or none; of what crosses the wire,
 * where there is one, the same. */
static kv_status_t set_up(struct kvn_bench_node *bench, struct group *g, bool remote)
{
    static const char *const verify[NR_NODES] = {"off", "always"};
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < NR_NODES; i++) {
        const uint64_t set = g->shape.nr_pages * g->shape.page_bytes;
        const struct kvn_world_config config = {
            .nr_nodes = 1,
            .page_bytes = g->shape.page_bytes,
            .page_tokens = 16,
            .node_bytes = {set + set / 4}, /* nothing of the set has to leave */
            .verify_local = remote ? "off" : verify[i],
            .verify_reads = !remote || i == VERIFY,
            .remote = remote,
            .threads = remote ? CLIENTS : 0, /* as memcached has */
            .poll = "200us",
            .transports = "named",
        };
        status = kvn_world_start(bench, &config, &g->worlds[i]);
        if (status == KV_OK) {
            status = kvn_load_open(
                bench, &g->worlds[i], 0, &g->shape, KVR_FROM_DEVICE, &g->loads[i]);
        }
        if (status == KV_OK) {
            status = kvn_load_fill(g->loads[i], g->shape.nr_pages);
        }
    }
    for (unsigned i = 0; status == KV_OK && i < (remote ? UNIX : NR_TOOLS); i++) {
        status = kvn_memcached_open(bench, &g->shape, i == TCP, &g->tools[i]);
    }
    return status;
}

static struct kvn_figure_side tool_side(
    const struct group *g, unsigned i,
    kv_status_t (*take)(void *arg, double seconds, struct kvn_take *take))
{
    static const char *const names[NR_TOOLS] = {
        "memcached -t 4, TCP on loopback", "memcached -t 4, Unix socket"};
    return (struct kvn_figure_side){
        .reference = names[i],
        .missing = g->tools[i] == NULL ? KVN_MEMCACHED_MISSING : NULL,
        .take = take,
        .arg = g->tools[i],
    };
}

static kv_status_t
measure_get(struct kvn_bench_node *bench, const struct sizes *s, const struct group *g)
{
    const struct kvn_figure_side sides[] = {
        {.rows = {s->get}, .nr_rows = 1, .take = kvn_load_get, .arg = g->loads[OFF]},
        tool_side(g, TCP, kvn_memcached_get),
        {.rows = {s->get_verify},
         .nr_rows = 1,
         .take = kvn_load_get,
         .arg = g->loads[VERIFY]},
        tool_side(g, UNIX, kvn_memcached_get),
    };
    return kvn_figure_rounds(bench, sides, KV_COUNT_OF(sides) - s->remote);
}

/* Pages that were never seen, into stores that are full: something has to leave. */
static kv_status_t
measure_put(struct kvn_bench_node *bench, const struct sizes *s, const struct group *g)
{
    const uint64_t full = FULL_FACTOR * g->shape.nr_pages;
    kv_status_t status = kvn_load_fill(g->loads[OFF], full);
    if (status == KV_OK && s->remote) {
        status = kvn_load_fill(g->loads[VERIFY], full);
    }
    for (unsigned i = 0; status == KV_OK && i < NR_TOOLS; i++) {
        if (g->tools[i] != NULL) {
            status = kvn_memcached_fill(g->tools[i], full);
        }
    }
    const struct kvn_figure_side sides[] = {
        {.rows = {s->put}, .nr_rows = 1, .take = kvn_load_put, .arg = g->loads[OFF]},
        tool_side(g, TCP, kvn_memcached_put),
        s->remote ? (struct kvn_figure_side){
                        .rows = {s->last},
                        .nr_rows = 1,
                        .take = kvn_load_put,
                        .arg = g->loads[VERIFY]}
                  : tool_side(g, UNIX, kvn_memcached_put),
    };
    return status == KV_OK ? kvn_figure_rounds(bench, sides, KV_COUNT_OF(sides))
                           : status;
}

static kv_status_t measure(struct kvn_bench_node *bench, const struct sizes *s)
{
    struct group g = {
        .shape = {
            .page_bytes = s->page_bytes,
            .nr_pages =
                bench->quick ? QUICK_PAGES * s->batch : SET_BYTES / s->page_bytes,
            .batch = s->batch,
            .depth = DEPTH,
            .nr_clients = CLIENTS,
        }};
    kv_status_t status = set_up(bench, &g, s->remote);
    if (status == KV_OK && kvn_figure_wants(bench, s->get, s->get_verify)) {
        status = measure_get(bench, s, &g);
    }
    if (status == KV_OK && kvn_figure_wants(bench, s->put, s->last)) {
        status = measure_put(bench, s, &g);
    }
    for (unsigned i = 0; i < NR_TOOLS; i++) {
        kvn_memcached_close(g.tools[i]);
    }
    for (unsigned i = 0; i < NR_NODES; i++) {
        status = kvn_world_blame(bench, &g.worlds[i], status);
        kvn_load_close(g.loads[i]);
        kvn_world_stop(&g.worlds[i]);
    }
    return status;
}

kv_status_t kvn_figures_get(struct kvn_bench_node *bench)
{
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < KV_COUNT_OF(sizes); i++) {
        if (kvn_figure_wants(bench, sizes[i].get, sizes[i].last)) {
            status = measure(bench, &sizes[i]);
        }
    }
    return status;
}
