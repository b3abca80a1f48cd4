/* Makes what node/daemon/tls.h loads: pre-shared keys, an authority, certificates of
 * nodes; and secrets of tenants.
 *
 *   random ──► 64 hex digits, mode 0600           --psk FILE, --secret FILE
 *   P-256 ──► ca.pem, ca.key ──► node-ID.pem, node-ID.key  (URI:kvrail:CLUSTER:node:ID)
 *                        └─────► tenant-ID.pem, tenant-ID.key  (…:tenant:ID): clients
 *
 * Nothing is ever written over: a file that is there is refused. What was written
 * before something failed is taken away again.
 *
 * Threading: one thread a call. Errors: KV_ERR_CONFIG (what was asked is wrong), IO or
 * NOMEM, and one line. Secrets are wiped from memory.
 */
#ifndef KVN_KEYGEN_H
#define KVN_KEYGEN_H

#include "base/status.h"

enum {
    KVN_KEYGEN_SECRET_BYTES = 32,
    KVN_KEYGEN_FILES_MAX = 2,
    KVN_KEYGEN_PATH_MAX = 512,
    KVN_KEYGEN_CA_DAYS = 3650,
    KVN_KEYGEN_NODE_DAYS = 365,
    KVN_KEYGEN_DAYS_MAX = 36500,
    KVN_KEYGEN_SLACK_S = 600, /* a peer's clock may be so much behind ours */
};

struct kvn_keygen_file {
    char path[KVN_KEYGEN_PATH_MAX];
    const char *kind;     /* "authority", "certificate", "key", "pre-shared key", … */
    char fingerprint[65]; /* hex: SHA-256 of a certificate; 16 digits of a secret; "" */
    char from[32], until[32]; /* validity of a certificate, ISO 8601; "" */
};

struct kvn_keygen_made {
    struct kvn_keygen_file files[KVN_KEYGEN_FILES_MAX];
    unsigned nr;
    char line[512]; /* what is wrong, unless the answer is KV_OK */
};

/* `kind`: of kvn_keygen_file, static text. */
kv_status_t
kvn_keygen_secret(const char *path, const char *kind, struct kvn_keygen_made *made);
/* The folder is made when it is missing. */
kv_status_t
kvn_keygen_authority(const char *folder, uint64_t days, struct kvn_keygen_made *made);
/* days 0: KVN_KEYGEN_NODE_DAYS, or until the authority ends. */
kv_status_t kvn_keygen_node(
    const char *folder, const char *cluster, uint32_t node, uint64_t days,
    struct kvn_keygen_made *made);
/* The same for clients of a tenant: theirs is for TLS clients alone, and no node's. */
kv_status_t kvn_keygen_tenant(
    const char *folder, const char *cluster, uint32_t tenant, uint64_t days,
    struct kvn_keygen_made *made);

#endif
