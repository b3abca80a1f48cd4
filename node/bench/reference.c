#include "node/bench/reference.h"

#include "base/mem.h"
#include "node/bench/load.h"
#include "node/iperf3.h"

#include <string.h>

enum { STREAMS = 1 }; /* a node has one data connection to each peer */
#define IPERF3_BYTES_S 2500000000.0 /* about what it moves in a second */
#define IPERF3_BYTES_MIN 50000000.0
#define IPERF3_MISSING "iperf3 is not installed; Debian: apt-get install iperf3"

kv_status_t kvn_wire_open(
    struct kvn_bench_node *bench, bool maps, uint64_t page_bytes, uint64_t nr_from,
    uint64_t nr_to, struct kvn_wire *wire)
{
    *wire = (struct kvn_wire){
        .bench = bench,
        .maps = maps,
        .page_bytes = page_bytes,
        .nr_from = nr_from,
        .nr_to = nr_to,
    };
    if (!maps || bench->callgrind != NULL) { /* never taken then */
        return KV_OK;
    }
    wire->from = kv_calloc(1, nr_from * page_bytes);
    wire->to = kv_calloc(1, nr_to * page_bytes);
    if (wire->from == NULL || wire->to == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    memset(wire->from, 1, nr_from * page_bytes); /* present, as a node's memory is */
    memset(wire->to, 2, nr_to * page_bytes);
    return KV_OK;
}

void kvn_wire_close(struct kvn_wire *wire)
{
    kv_free(wire->to);
    kv_free(wire->from);
}

static kv_status_t iperf3_take(void *arg, double seconds, struct kvn_take *take)
{
    const struct kvn_wire *wire = arg;
    struct kvn_bench_node *bench = wire->bench;
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

static kv_status_t memcpy_take(void *arg, double seconds, struct kvn_take *take)
{
    struct kvn_wire *wire = arg;
    const double begin = kvn_now_s();
    do {
        memcpy(
            wire->to + wire->next % wire->nr_to * wire->page_bytes,
            wire->from + wire->next % wire->nr_from * wire->page_bytes,
            wire->page_bytes);
        __asm__ volatile("" ::: "memory"); /* it is wanted */
        wire->next++;
        take->pages++;
        take->seconds = kvn_now_s() - begin;
    } while (take->seconds < seconds && !kvn_figure_stopped(wire->bench));
    take->bytes = take->pages * wire->page_bytes;
    take->cpu_s = take->seconds;
    return KV_OK;
}

struct kvn_figure_side kvn_wire_side(struct kvn_wire *wire)
{
    char path[512];
    const bool there = wire->maps || kvn_child_find("iperf3", path, sizeof(path));
    return (struct kvn_figure_side){
        .reference =
            wire->maps ? "memcpy, one thread" : "iperf3, one stream over loopback",
        .missing = there ? NULL : IPERF3_MISSING,
        .take = wire->maps ? memcpy_take : iperf3_take,
        .arg = wire,
    };
}
