/* What pages that move between two nodes are measured beside: the same bytes by iperf3
 * over loopback, as many streams as nodes have data connections, or memcpy of the same
 * pages by one thread, for a transport whose reader copies out of the owner's memory.
 *
 *   kvn_wire_open ──► kvn_wire_side: a side of kvn_figure_rounds ──► kvn_wire_close
 *
 * Threading: the main thread. Ownership: the side's argument is the wire, which stays
 * the caller's; closing one that was not opened is fine, when it is zeroed.
 * Errors: a status and bench->line.
 */
#ifndef KVN_BENCH_REFERENCE_H
#define KVN_BENCH_REFERENCE_H

#include "node/bench/figures.h"

struct kvn_wire {
    struct kvn_bench_node *bench;
    bool maps; /* memcpy */
    uint64_t page_bytes, nr_from, nr_to;
    uint8_t *from, *to;
    uint64_t next;
};

/* `maps`: nr_from pages are copied, one after the other, into room for nr_to. */
kv_status_t kvn_wire_open(
    struct kvn_bench_node *bench, bool maps, uint64_t page_bytes, uint64_t nr_from,
    uint64_t nr_to, struct kvn_wire *wire);
void kvn_wire_close(struct kvn_wire *wire);
struct kvn_figure_side kvn_wire_side(struct kvn_wire *wire);

#endif
