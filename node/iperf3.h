/* One run of iperf3 over loopback: the reference of what bytes cost on TCP sockets.
 *
 * Threading: any, one run at a time each. Ownership: nothing is left behind, neither
 * process nor file. Errors: KV_ERR_CONFIG: it is not installed; KV_ERR_IO: it did not
 * run, or said nothing, within the deadline.
 */
#ifndef KVN_IPERF3_H
#define KVN_IPERF3_H

#include "base/status.h"

#include <stdatomic.h>

enum { KVN_IPERF3_RUN_MS = 60000 };

struct kvn_iperf3 {
    double seconds;
    double gb_s;     /* received */
    double cpu_s_gb; /* of both sides */
};

/* `bytes` over so many streams. `stop`: gives up when it is set; NULL: never. */
kv_status_t kvn_iperf3_run(
    uint64_t bytes, uint32_t nr_streams, const atomic_int *stop,
    struct kvn_iperf3 *out);

#endif
