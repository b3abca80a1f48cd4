/* What credentials (tls_load.c) and sessions (tls.c) share.
 *
 *   files ──► struct kvn_tls ──► SSL_CTX ──► sessions
 *
 * Threading: a loaded kvn_tls is only read. Ownership: it has its context and keys, and
 * is wiped when it is freed; sessions must not outlive it. Units: bytes. Errors: a name
 * is judged by enum kvn_tls_name; what is wrong is said in words.
 */
#ifndef KVN_TLS_PRIV_H
#define KVN_TLS_PRIV_H

#include "node/daemon/tls.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

enum { KVN_TLS_NAME_MAX = KVN_TLS_CLUSTER_MAX + 32 };

/* Whom a credential names. */
struct kvn_tls_who {
    bool tenant; /* a client of it; else a node */
    uint32_t id;
};

struct kvn_tls {
    SSL_CTX *ctx;
    bool has_psk; /* of our own; else certificates */
    uint8_t psk[KVN_TLS_PSK_BYTES];
    struct kvn_tls_who who; /* we are */
    bool clients;
    struct {
        uint32_t id;
        uint8_t psk[KVN_TLS_PSK_BYTES];
    } tenants[KVN_TLS_TENANTS_MAX];
    uint32_t nr_tenants;
    /* In place of the key of a tenant that there is not: a stranger is told the same as
     * one who has a wrong key, and cannot ask which tenants there are. */
    uint8_t nobodys_psk[KVN_TLS_PSK_BYTES];
    char cluster[KVN_TLS_CLUSTER_MAX + 1];
};

enum kvn_tls_name {
    KVN_TLS_NAME_OK,
    KVN_TLS_NAME_NONE,    /* not "kvrail:<cluster>:node:<id>" or :tenant:<id> at all */
    KVN_TLS_NAME_CLUSTER, /* of another cluster */
    KVN_TLS_NAME_SEVERAL, /* a certificate that names more than one */
};
/* "kvrail:<cluster>:node:<id>" or "…:tenant:<id>"; *who_p is written on OK alone. */
enum kvn_tls_name kvn_tls_name_parse(
    const char *cluster, const char *name, size_t len, struct kvn_tls_who *who_p);
void kvn_tls_name_make(
    const char *cluster, struct kvn_tls_who who, char out[KVN_TLS_NAME_MAX]);
/* The one name of ours among the certificate's URIs. */
enum kvn_tls_name
kvn_tls_cert_name(const char *cluster, X509 *cert, struct kvn_tls_who *who_p);

/* Why X509_verify_cert() said no, to follow the name of the certificate. */
void kvn_tls_verify_words(X509_STORE_CTX *store, char *out, size_t cap);
/* "2027-01-31 12:00:00 UTC" */
void kvn_tls_time_format(const ASN1_TIME *time, char *out, size_t cap);

/* Callbacks of sessions (tls.c), wired by kvn_tls_load(). */
void kvn_tls_wire(struct kvn_tls *tls);

#endif
