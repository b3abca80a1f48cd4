/* What operators and Prometheus ask a node, on a thread of its own:
 *
 *   loop ── kvn_http_publish ──► snapshot, three buffers ──► HTTP thread ──► GET, HEAD
 *                                                           (libmicrohttpd)
 *   /          the index, a few lines of text
 *   /metrics   Prometheus text 0.0.4, or OpenMetrics 1.0.0 when Accept asks for it
 *   /healthz   200 {"status":"ok",…}; 503 {"status":"stuck","reason":…} when nothing
 *              was published for stuck_us, "starting" when nothing has been yet
 *
 * A health check that the loop answered would be silent just when it is needed; so the
 * HTTP thread answers from the last snapshot and its age, and never touches state of
 * the loop. The loop never waits for the HTTP thread: publishing is a copy and one
 * exchange, whatever that thread is doing.
 *
 * Bounds: conns_max connections, 16 KiB of memory each (a longer request is refused
 * with 413, 414 or 431), request_us from accept to the last byte of the answer, one
 * request a connection. One connection too many ends the oldest that has not yet asked
 * anything, so that slow ones cannot keep others out. No secrets, keys or tenants are
 * in any answer; there is no TLS here, so the address is loopback unless the config
 * says otherwise.
 *
 * Threading: open, publish, port and close by the loop's thread. Ownership: a snapshot
 * is copied; the config is only looked at. Units: microseconds, bytes. Errors: CONFIG,
 * NOMEM or IO with one line.
 */
#ifndef KVN_HTTP_H
#define KVN_HTTP_H

#include "base/log.h"
#include "node/core/core.h"

#define KVN_HTTP_LISTEN "127.0.0.1:9273"

enum {
    KVN_HTTP_CONNS_MAX = 1024,
    KVN_HTTP_CONNS = 32,            /* when conns_max is 0 */
    KVN_HTTP_STUCK_US = 2000000,    /* when stuck_us is 0 */
    KVN_HTTP_REQUEST_US = 10000000, /* when request_us is 0 */
    KVN_HTTP_LINE_BYTES = 512,
    KVN_HTTP_READS_MAX = 8, /* transports that are told apart */
};

struct kvn_http_config {
    const char *listen; /* host:port, [v6]:port; NULL: KVN_HTTP_LISTEN. Port 0: any */
    uint64_t stuck_us;  /* 0: the default, as for the others */
    uint64_t request_us;
    uint32_t conns_max;
};

struct kvn_http_pool {
    struct kvp_pool_config config;
    struct kvp_pool_stats stats;
};

struct kvn_http_peer {
    uint32_t id;
    bool up; /* its link */
};

/* Pages that came from peers, by transport. */
struct kvn_http_read {
    const char *transport; /* constant */
    uint64_t bytes;
};

/* Plain numbers of one moment. */
struct kvn_http_snapshot {
    uint32_t node;
    uint64_t incarnation;
    uint64_t epoch; /* of the view */
    bool cold;      /* the directory, see kvc_dir_cold() */
    uint32_t nr_clients;
    uint32_t nr_clients_remote; /* of them, those on other hosts */
    uint32_t nr_clients_fenced; /* hung up with sequences open, and not dead */
    struct kv_log_counts logs;

    struct kvn_http_read reads[KVN_HTTP_READS_MAX];
    uint32_t nr_reads;
    struct kvo_metrics core;
    struct kvp_metrics pager;
    struct kvc_dir_stats directory;
    uint32_t nr_pools;
    struct kvn_http_pool pools[KVP_POOLS_MAX];
    uint32_t nr_peers; /* the other members of the view */
    struct kvn_http_peer peers[KVC_NODES_MAX];
};

/* Everything that node/core can be asked; clients and logs stay as they are. */
void kvn_http_collect(
    kvo_node_t *core, const struct kvo_config *config, uint64_t now_us,
    struct kvn_http_snapshot *snapshot);

typedef struct kvn_http kvn_http_t;

/* Binds, listens and starts the thread: it answers from then on. */
kv_status_t kvn_http_open(
    const struct kvn_http_config *config, kvn_http_t **http_p, char *line, size_t cap);
/* Ends all connections and the thread, in bounded time. NULL is fine. */
void kvn_http_close(kvn_http_t *http);

/* Also the loop's sign of life: at least every stuck_us / 2, in a copy of 15 KiB. */
void kvn_http_publish(kvn_http_t *http, const struct kvn_http_snapshot *snapshot);
uint16_t kvn_http_port(const kvn_http_t *http);

#endif
