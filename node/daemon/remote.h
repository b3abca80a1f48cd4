/* Clients of tenants on other hosts, at the object level: requests and answers over
 * TLS, pages over two data connections that the client opens (docs/clients.md,
 * "Clients on other hosts").
 *
 *   links ── a TLS session of a tenant's client ──► kvn_remote_take()
 *   client ── ATTACH ──► attach() ──► core;   ◄── ATTACHED: spaces, salts
 *   client ── request records ──► copied, checked ──► request() ──► core
 *          ◄── answer records ── kvn_remote_answer() ◄── core
 *   GET: core ── CLIENT_OUT ──► kvt_send on the connection that the client reads
 *   PUT: core ── CLIENT_IN ──► kvt_read on the connection that the client offered
 *
 * The tenant is the credential's and nothing else says it. The session's id and the
 * secret that data connections prove come from TLS on both sides (RFC 5705) and the
 * secret is never sent. One fate: when one of its three connections ends, the client
 * has. (1) An order completes once, also when its client is gone: by the transport's
 * DONE, or here while it had not begun. (2) Nothing is read for a client whose answers
 * find no room, nor while it has not posted what its request moves. (3) Whatever a
 * client holds up is its own: requests in flight, answers unsent and operations of the
 * transport have bounds per client; an order that is out ORDER_US past its deadline
 * ends the client.
 *
 * Threading: the loop thread. Callbacks come from the loop, or from inside
 * kvn_remote_event(); attach(), hung_up() and dead() never from inside another call.
 * Ownership: tenants and spaces are copied; a socket and its session are ours from
 * kvn_remote_take() on; the frame of an order stays the core's, and is touched until
 * complete(). Units: bytes; microseconds of uv_hrtime(). Errors: NOMEM to open; what is
 * wrong with a client refuses or ends it, with one line by note(); an order's status is
 * in its kvo_done.
 */
#ifndef KVN_REMOTE_H
#define KVN_REMOTE_H

#include "node/daemon/local.h"
#include "node/daemon/tls.h"
#include "transport/transport.h"

enum {
    KVN_REMOTE_CLIENTS_MAX = 256,
    KVN_REMOTE_OUT_BYTES = 1 << 20, /* answers of a client: unsent and promised */
    KVN_REMOTE_OPS_MAX = 4096,      /* of the transport, all clients together */
    KVN_REMOTE_HOLD_US = 5000000,   /* a request waits so long for what it posts */
    KVN_REMOTE_ORDER_US = 2000000,  /* an order may be out so long past its deadline */
};

struct kvn_remote_config {
    kvt_port_t *port;                       /* outlives the module */
    const struct kvn_local_tenant *tenants; /* copied, secrets wiped at close */
    uint32_t nr_tenants;
    const struct kvn_local_space *spaces;
    uint32_t nr_spaces;
    uint32_t nr_clients;
    uint64_t attach_us;
    bool verify;
};

struct kvn_remote_events {
    struct kvn_local_events client; /* as of clients on this machine */
    void (*complete)(void *arg, uint64_t id, const struct kvo_done *done);
};

struct kvn_remote_counts {
    uint64_t attached, refused, ended, malformed, requests;
    uint32_t clients;
};

typedef struct kvn_remote kvn_remote_t;

/* Operations that the port must have for remote clients. */
uint32_t kvn_remote_ops(uint32_t nr_clients);

kv_status_t kvn_remote_open(
    uv_loop_t *loop, const struct kvn_remote_config *config,
    const struct kvn_remote_events *events, kvn_remote_t **remote_p);
/* Ends every client; `closed` when all connections are. The port must be pumped. */
void kvn_remote_close(kvn_remote_t *remote, void (*closed)(void *arg), void *arg);

/* A session whose handshake is over, of a client of `tenant`: takes socket and session,
 * whatever comes of it. */
void kvn_remote_take(
    kvn_remote_t *remote, int fd, kvn_tls_session_t *tls, uint32_t tenant,
    const char *address);
/* An event of the port: true when it was one of ours. */
bool kvn_remote_event(kvn_remote_t *remote, const struct kvt_event *event);

/* Is the core's client of this index one of ours? */
bool kvn_remote_has(const kvn_remote_t *remote, uint32_t index);
/* CLIENT_IN or CLIENT_OUT of such a client; `frame` is where its page lies. */
void kvn_remote_order(
    kvn_remote_t *remote, const struct kvo_order *order, uint8_t *frame,
    const struct kvp_glance *page);
void kvn_remote_answer(kvn_remote_t *remote, const struct kvo_answer *answer);
const struct kvn_remote_counts *kvn_remote_counts(const kvn_remote_t *remote);

#endif
