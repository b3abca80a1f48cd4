/* What credentials (tls_load.c) and sessions (tls.c) share.
 *
 *   files ──► struct kvn_tls ──► SSL_CTX ──► sessions
 *
 * Threading: a loaded kvn_tls is only read.
 */
#ifndef KVN_TLS_PRIV_H
#define KVN_TLS_PRIV_H

#include "node/daemon/tls.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

enum { KVN_TLS_NAME_MAX = KVN_TLS_CLUSTER_MAX + 32 };

struct kvn_tls {
    SSL_CTX *ctx;
    bool has_psk;
    uint8_t psk[KVN_TLS_PSK_BYTES];
    uint32_t node;
    char cluster[KVN_TLS_CLUSTER_MAX + 1];
};

enum kvn_tls_name {
    KVN_TLS_NAME_OK,
    KVN_TLS_NAME_NONE,    /* not "kvrail:<cluster>:node:<id>" at all */
    KVN_TLS_NAME_CLUSTER, /* of another cluster */
    KVN_TLS_NAME_SEVERAL, /* a certificate that names more than one node */
};
/* "kvrail:<cluster>:node:<id>"; *node_p is written on OK alone. */
enum kvn_tls_name
kvn_tls_name_parse(const char *cluster, const char *name, size_t len, uint32_t *node_p);
void kvn_tls_name_make(const char *cluster, uint32_t node, char out[KVN_TLS_NAME_MAX]);
/* The one name of ours among the certificate's URIs. */
enum kvn_tls_name kvn_tls_cert_name(const char *cluster, X509 *cert, uint32_t *node_p);

/* Why X509_verify_cert() said no, to follow the name of the certificate. */
void kvn_tls_verify_words(X509_STORE_CTX *store, char *out, size_t cap);
/* "2027-01-31 12:00:00 UTC" */
void kvn_tls_time_format(const ASN1_TIME *time, char *out, size_t cap);

/* Callbacks of sessions (tls.c), wired by kvn_tls_load(). */
void kvn_tls_wire(struct kvn_tls *tls);

#endif
