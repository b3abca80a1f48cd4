/* Inside a running node.
 *
 *   node.c       start, stop, the turn of the loop
 *   node_calls.c what the core orders, and what links and clients say to it
 *   node_move.c  orders for the movers: inside the node, and with clients' buffers
 *   node_data.c  orders for the transport: reads, serves, fences
 *   node_ask.c   what the node tells of itself
 *   node_operator.c  what the operator is told of refused links and low limits
 *
 * Threading: the loop thread. Ownership: the node has all its modules, and frees each
 * when it has closed; the config is the caller's. Units: bytes; microseconds of
 * kvn_node_now(). Errors: at start a status and one line; later what an order came to
 * goes to the core, the rest to the log.
 */
#ifndef KVN_NODE_PRIV_H
#define KVN_NODE_PRIV_H

#include "base/codec.h"
#include "node/daemon/http.h"
#include "node/daemon/links.h"
#include "node/daemon/local.h"
#include "node/daemon/memory.h"
#include "node/daemon/movers.h"
#include "node/daemon/nearby.h"
#include "node/daemon/node.h"
#include "node/daemon/reports.h"
#include "node/daemon/remote.h"

enum {
    KVN_NODE_JOBS = 4096,         /* at the movers at once; the rest waits here */
    KVN_NODE_TICKS_A_TURN = 16,   /* of overdue timers, before sockets are looked at */
    KVN_NODE_EVENTS_A_TURN = 256, /* of one source, before the others have theirs */
    KVN_NODE_PUBLISH_MS = 250,    /* numbers for HTTP: also the loop's sign of life */
    /* Before a data connection that lived for less than the longest is opened again:
     * doubles from the first to the longest. The first is short because a peer may be
     * called before it has seen that the link is up. */
    KVN_NODE_REOPEN_FIRST_US = 1000,
    KVN_NODE_REOPEN_LONGEST_US = 1000000,
    KVN_NODE_REOPEN_LOGGED_US = 16000, /* shorter pauses are not worth a line */
    /* Of a refused link the log says what mends it, once in so long. */
    KVN_NODE_ADVICES = 5,
    KVN_NODE_ADVICE_US = 60000000,
    KVN_NODE_MISSED_REDIALS = 64, /* of link.redial: who dials us has done so by then */
    KVN_NODE_FILES = 64, /* descriptors beside connections: loops, log, threads */
    KVN_NODE_CLIENT_FILES = 2, /* its socket and its pidfd */
    KVN_NODE_REMOTE_FILES = 3, /* of a client elsewhere: TLS, two data connections */
    KVN_NODE_SHM_FILES = 2,    /* of a connection by shm: the same */
    /* A one-sided connection that broke so often, and never brought a page, is done
     * without: with the pauses above that is after a quarter of a second. */
    KVN_NODE_ONE_SIDED_TRIES = 8,
    /* Of one peer and kind to us. Those of shm end by their reader's word alone, so a
     * peer that opens and never says it must meet a bound of its own. */
    KVN_NODE_PEER_CONNS_MAX = 8,
};

/* The transports that a node may have a port of. */
enum kvn_port {
    KVN_PORT_TCP,
    KVN_PORT_SHM,  /* NULL: nobody is near, or not wanted */
    KVN_PORT_LOOP, /* NULL: alone in its cluster, or not wanted */
    KVN_NR_PORTS
};

/* A data connection of the transport that node/core knows. */
struct kvn_data_conn {
    kvt_conn_t conn; /* of ports[port]; 0: free */
    enum kvn_port port;
    enum kvo_kind kind; /* of that transport */
    uint32_t peer;
    uint64_t link;
    uint32_t data_gen;
    bool out; /* ours to the peer: we read on it */
    bool worked;       /* a page came by it */
    uint32_t refusals; /* of ours that the peer has not taken yet */
    uint64_t since_us;
};

/* A data connection of ours to a peer broke, or could not be opened: the core is told
 * when the pause is over, because it opens the next ones at once. One a peer. */
struct kvn_reopen {
    bool waits;
    uint64_t link;
    uint32_t data_gen;
    uint64_t due_us;
    uint64_t pause_us; /* of the last time */
    uint32_t failures; /* of the one-sided connection, one after another on this link */
};

/* A fence that waits for its connections to be closed. */
struct kvn_fence {
    bool used;
    uint64_t id;
    uint32_t peer;
    uint64_t link;
    uint32_t data_gen;
    bool out;
};

/* What is known at once, but must not be said inside the order. */
struct kvn_deferred {
    uint64_t id; /* of a completion */
    kv_status_t status;
};

struct kvn_node {
    uv_loop_t *loop;
    const struct kvn_config *config;
    bool embedded; /* the process is not ours */
    struct kvo_config *core_config;
    kvo_node_t *core;
    uint32_t first_frame[KVP_POOLS_MAX + 1]; /* of each pool, in the pager's numbers */

    kvn_memory_t *memory;
    kvn_movers_t *movers;
    kvt_port_t *ports[KVN_NR_PORTS];
    uint64_t read_bytes[KVN_NR_PORTS]; /* that came by each */
    struct kvn_nearby nearby;
    kvn_tls_t *tls;
    kvn_links_t *links; /* NULL: alone in its cluster, or closed */
    kvn_local_t *local; /* NULL: no clients, or closed */
    kvn_remote_t *remote; /* NULL: none from other hosts, or closed */
    kvn_http_t *http;   /* NULL: not asked for */
    kvn_reports_t *reports;
    uint64_t started_us;
    uint64_t published_us;          /* when KVN_NODE_PUBLISH_MS last ran */
    uint64_t lag_us, lag_worst_us; /* … and by how much it came too late */
    struct kvn_http_snapshot *snapshot;

    uv_prepare_t prepare;
    uv_idle_t idle; /* runs while something is deferred: the loop does not sleep */
    uv_timer_t tick, publish;
    uv_poll_t port_polls[KVN_NR_PORTS], movers_poll;
    bool polls_movers; /* and movers_poll is stopped */
    unsigned nr_handles; /* of these, initialised and not yet closed */

    struct kvn_job *backlog; /* ring: jobs that the movers had no room for */
    uint32_t backlog_size, backlog_head, backlog_nr;

    struct kvn_data_conn *conns;
    uint32_t nr_conns;
    uint32_t refusals_max; /* of a connection: its share of what reads leave free */
    struct kvn_fence *fences;
    uint32_t nr_fences;
    struct kvn_reopen *reopens; /* by peer */
    struct kvn_deferred *deferred; /* ring */
    uint32_t deferred_size, deferred_head, deferred_nr;

    uint8_t *wire; /* KV_MSG_BYTES_MAX: what is being sent */
    struct kv_arena arena;

    uint64_t advised_us[KVN_NODE_ADVICES]; /* not again before */
    bool missed_said;

    bool stopping;
    unsigned closing; /* modules that have not said closed yet */
    void (*stopped)(void *arg);
    void *stopped_arg;
};

/* Of the monotonic clock, in microseconds; grows from call to call at least by 0. */
uint64_t kvn_node_now(const struct kvn_node *node);
/* For orders: said at the next turn. */
void kvn_node_defer(struct kvn_node *node, const struct kvn_deferred *deferred);

/* Their lists as the configuration has them: KVP_TENANTS_MAX, KVN_CONFIG_SPACES_MAX. */
void kvn_node_take_tenants(
    const struct kvn_config *config, struct kvn_local_tenant *to);
void kvn_node_take_spaces(const struct kvn_node *node, struct kvn_local_space *to);

/* ---- node_remote.c: where the configuration takes clients from other hosts */
enum { KVN_NODE_PATH_BYTES = 700 };
/* Their tenants' keys, and the room for their paths: how many. */
uint32_t kvn_node_remote_tenants(
    const struct kvn_config *config, struct kvn_tls_tenant *tenants,
    char paths[][KVN_NODE_PATH_BYTES]);
kv_status_t kvn_node_remote_start(struct kvn_node *node, char *line, size_t cap);
/* For kvn_links_events.client. */
void kvn_node_remote_session(
    void *arg, int fd, kvn_tls_session_t *tls, uint32_t tenant, const char *address);

/* ---- node_calls.c: `arg` is the node */
/* Of the kernel's. */
void kvn_node_random(void *arg, uint8_t *bytes, size_t len);
struct kvo_out kvn_node_orders(struct kvn_node *node);
struct kvn_links_events kvn_node_link_events(struct kvn_node *node);
/* What clients ask, wherever they are; and those of this host, which have their own
 * places. */
struct kvn_local_events kvn_node_client_events(struct kvn_node *node);
struct kvn_local_events kvn_node_local_events(struct kvn_node *node);

/* ---- node_ask.c */
/* For kvn_local_events.ask; `arg` is the node. */
kv_status_t kvn_node_ask(
    void *arg, const struct kvn_local_asker *asker, uint32_t tenant,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail);
/* The publishing timer has run: how late is the loop? */
void kvn_node_lag(struct kvn_node *node);

/* ---- node_move.c */
void kvn_move_local(struct kvn_node *node, const struct kvp_order *order);
void kvn_move_client(struct kvn_node *node, const struct kvo_order *order);
void kvn_move_done(struct kvn_node *node); /* takes what the movers have finished */

/* ---- node_operator.c */
/* A line of the core's trace, for the log; with its remedy if it has one. */
void kvn_node_say(struct kvn_node *node, const char *line);
/* Once, a while after the start: who should have dialled us and has not. */
void kvn_node_missed(struct kvn_node *node);
/* IO with `line`: this process may not have as many descriptors as the config asks for;
 * the soft limit is raised as far as the hard one lets it. */
kv_status_t kvn_node_files(const struct kvn_node *node, char *line, size_t cap);

/* ---- node_data.c */
kv_status_t kvn_data_start(struct kvn_node *node, char *line, size_t cap);
void kvn_data_open(struct kvn_node *node, uint32_t peer, const struct kv_msg *msg);
void kvn_data_read(struct kvn_node *node, const struct kvo_order *order);
void kvn_data_get(struct kvn_node *node, const struct kvo_order *order);
void kvn_data_serve(struct kvn_node *node, const struct kvo_order *order);
void kvn_data_fence(struct kvn_node *node, const struct kvo_order *order);
void kvn_data_events(struct kvn_node *node, enum kvn_port port);
void kvn_data_collect(const struct kvn_node *node, struct kvn_http_snapshot *snapshot);
/* Fills in domain and address of those that need one and leaves out what is not to be
 * had here; never none. */
kv_status_t kvn_data_places(struct kvn_node *node, char *line, size_t cap);
/* Tells the core of connections whose pause is over; when the next one is. */
uint64_t kvn_data_reopens(struct kvn_node *node, uint64_t now_us);

#endif
