/* TLS 1.3 for links and remote clients, as a machine over bytes: no socket, no loop.
 *
 *   socket ──► kvn_tls_in(cipher) ──► kvn_tls_read ──► clear bytes
 *   clear bytes ──► kvn_tls_write ──► kvn_tls_out(cipher) ──► socket
 *
 * Two kinds of credential, by config: certificates (both sides, of one authority; the
 * subject's alternative name "URI:kvrail:<cluster>:node:<id>" says which node it is) or
 * one pre-shared key of the cluster (32 random bytes in a file of mode 0600; the
 * identity "kvrail:<cluster>:node:<id>" says who speaks: whoever has the key may be any
 * node). A client of a tenant has a credential of that tenant, and is no node: a
 * certificate of the same authority for "URI:kvrail:<cluster>:tenant:<id>", or the
 * tenant's own pre-shared key, which nodes know beside their own credential and which
 * goes with the identity "kvrail:<cluster>:tenant:<id>". Clients dial nodes, and nobody
 * else; nodes take them where `clients` says so.
 *
 * Nothing is sent or taken in clear; no earlier version, no renegotiation, no 0-RTT, no
 * session resumption, nobody without a credential. The dialling side also names the
 * node it wants (SNI "node-<id>.kvrail"), so that one who was led to another node is
 * refused there, whichever credential it is.
 *
 * Threading: one thread a session. Ownership: kvn_tls_close() frees; secrets are wiped;
 * what was loaded outlives its sessions. Units: bytes.
 * Errors: KV_ERR_CONFIG at load, with one line that names the file and the fix
 * (missing, unreadable, mode not 0600, expired or not yet valid by this clock, key does
 * not fit the certificate, not of the authority, names no node or another cluster).
 * A failed handshake is KV_ERR_DENIED and a reason of one line for the log.
 */
#ifndef KVN_TLS_H
#define KVN_TLS_H

#include "base/status.h"

enum {
    KVN_TLS_PSK_BYTES = 32,
    KVN_TLS_REASON_MAX = 256,
    KVN_TLS_NO_NODE = 0, /* no id is 0 */
    KVN_TLS_HANDSHAKE_BYTES_MAX = 64 << 10, /* that we take before ready */
    KVN_TLS_FILE_BYTES_MAX = 64 << 10,
    KVN_TLS_CLUSTER_MAX = 64, /* characters of the cluster's name */
    KVN_TLS_TENANTS_MAX = 64, /* with a pre-shared key of their own */
};

/* A tenant whose clients may come with this key. */
struct kvn_tls_tenant {
    uint32_t id;
    const char *psk; /* file of 64 hex digits, mode 0600 */
};

struct kvn_tls_config {
    const char *cluster;
    uint32_t node;     /* ours; NO_NODE for a client */
    bool client;       /* we are one, of `tenant`; we dial, and nobody dials us */
    uint32_t tenant;
    bool clients; /* a node: clients may come, by certificate or one of these keys */
    const struct kvn_tls_tenant *tenants;
    uint32_t nr_tenants;
    const char *psk;   /* file of 64 hex digits; or the three below; "" or NULL: none */
    const char *ca;    /* PEM */
    const char *cert;
    const char *key;
};

typedef struct kvn_tls kvn_tls_t;             /* credentials, loaded */
typedef struct kvn_tls_session kvn_tls_session_t; /* one connection */

/* `line` (cap >= 512): what is wrong and what to do. KV_ERR_CONFIG when neither or both
 * kinds are given: the caller decides whether none is allowed. */
kv_status_t kvn_tls_load(
    const struct kvn_tls_config *config, kvn_tls_t **tls_p, char *line, size_t cap);
void kvn_tls_free(kvn_tls_t *tls);
/* Seconds until our certificate ends; INT64_MAX for a pre-shared key. */
int64_t kvn_tls_expires_s(const kvn_tls_t *tls);

/* `peer`: the node that must answer (dialling); KVN_TLS_NO_NODE: whoever comes. */
kv_status_t kvn_tls_open(
    const kvn_tls_t *tls, bool dialling, uint32_t peer, kvn_tls_session_t **session_p);
void kvn_tls_close(kvn_tls_session_t *session);

/* Bytes that came. Takes them all. KV_ERR_DENIED: the end; see reason. */
kv_status_t
kvn_tls_in(kvn_tls_session_t *session, const uint8_t *bytes, size_t len);
/* Bytes to send: up to cap, 0 when there are none. */
size_t kvn_tls_out(kvn_tls_session_t *session, uint8_t *bytes, size_t cap);
/* The handshake is over and the other side is who it says. */
bool kvn_tls_ready(const kvn_tls_session_t *session);
/* Who it is; KVN_TLS_NO_NODE before ready, and for a client of a tenant. With a
 * pre-shared key the dialling side believes that it is whom it dialled: HELLO_OK says
 * it again; and a client, that it is some node: whoever has its tenant's key. */
uint32_t kvn_tls_peer(const kvn_tls_session_t *session);
/* It is ready, and the other side is a client of *tenant_p. */
bool kvn_tls_tenant(const kvn_tls_session_t *session, uint32_t *tenant_p);
/* Bytes that both sides of this session know and nobody else (RFC 5705), when it is
 * ready. NOMEM. */
kv_status_t kvn_tls_export(
    kvn_tls_session_t *session, const char *label, uint8_t *bytes, size_t len);
/* Clear bytes: *len_p of them, 0 when there are no more now. LINK_LOST after the other
 * side's close_notify; PROTOCOL (a bad record), DENIED (failed before): see reason. */
kv_status_t kvn_tls_read(
    kvn_tls_session_t *session, uint8_t *bytes, size_t cap, size_t *len_p);
/* Takes all of it, or fails for good. Only when ready. */
kv_status_t
kvn_tls_write(kvn_tls_session_t *session, const uint8_t *bytes, size_t len);
/* Bytes came that are no whole record yet. */
bool kvn_tls_partial(const kvn_tls_session_t *session);
/* close_notify, for kvn_tls_out(). */
void kvn_tls_bye(kvn_tls_session_t *session);
/* Why it failed, one line; "" while it has not. */
const char *kvn_tls_reason(const kvn_tls_session_t *session);

#endif
