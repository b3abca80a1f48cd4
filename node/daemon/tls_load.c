/* Credentials from files: what is wrong with them is said here, at start, and not by a
 * handshake that fails hours later. */
#include "node/daemon/tls_priv.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/option.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What one load works on; a line for the operator. */
struct load {
    const struct kvn_tls_config *config;
    struct kvn_tls *tls;
    char *line;
    size_t cap;
    kv_status_t status; /* NOMEM when that was it, else CONFIG */
};

/* Always false, so that it can be returned. */
static bool wrong(struct load *load, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static bool wrong(struct load *load, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(load->line, load->cap, format, args);
    va_end(args);
    load->status = KV_ERR_CONFIG;
    return false;
}

static bool no_memory(struct load *load)
{
    snprintf(load->line, load->cap, "credentials: out of memory");
    load->status = KV_ERR_NOMEM;
    return false;
}

/* ---- files ---------------------------------------------------------------------- */

struct blob {
    char *bytes; /* ends with a NUL that is not counted */
    size_t len;
};

static void blob_free(struct blob *blob)
{
    if (blob->bytes != NULL) {
        OPENSSL_cleanse(blob->bytes, blob->len);
        kv_free(blob->bytes);
        blob->bytes = NULL;
    }
}

static bool check_mode(
    struct load *load, const char *what, const char *path, const struct stat *info,
    bool secret)
{
    if (!S_ISREG(info->st_mode)) {
        return wrong(load, "%s %.300s: is no regular file", what, path);
    }
    if (secret && (info->st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        return wrong(
            load, "%s %.300s: has mode %04o, the limit is 0600: chmod 600 it", what,
            path, (unsigned)(info->st_mode & 07777));
    }
    if (info->st_size > KVN_TLS_FILE_BYTES_MAX) {
        return wrong(
            load, "%s %.300s: has %lld bytes, the limit is %d", what, path,
            (long long)info->st_size, KVN_TLS_FILE_BYTES_MAX);
    }
    return true;
}

static bool read_whole(struct load *load, int fd, size_t size, struct blob *blob)
{
    blob->bytes = kv_calloc(1, size + 1);
    blob->len = 0;
    if (blob->bytes == NULL) {
        return no_memory(load);
    }
    ssize_t ret = 0;
    while (blob->len < size
           && (ret = KV_FAULT() ? (errno = EIO, -1)
                                : read(fd, blob->bytes + blob->len, size - blob->len))
                  > 0) {
        blob->len += (size_t)ret;
    }
    return ret >= 0;
}

static bool read_file(
    struct load *load, const char *what, const char *path, bool secret,
    struct blob *blob)
{
    struct stat info;
    bool done = false;
    blob->bytes = NULL;
    /* Not to wait for the other end of a pipe. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        return wrong(
            load, "%s %.300s: is missing: kvrail keygen makes one", what, path);
    }
    if (fd < 0 || fstat(fd, &info) != 0) {
        wrong(load, "%s %.300s: cannot be read: %s", what, path, strerror(errno));
    } else if (check_mode(load, what, path, &info, secret)) {
        done = read_whole(load, fd, (size_t)info.st_size, blob);
        if (!done && blob->bytes != NULL) {
            wrong(load, "%s %.300s: cannot be read: %s", what, path, strerror(errno));
            blob_free(blob);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

/* ---- a pre-shared key ----------------------------------------------------------- */

static bool psk_parse(const struct blob *blob, uint8_t psk[KVN_TLS_PSK_BYTES])
{
    size_t len = blob->len;
    while (len > 0 && strchr(" \t\r\n", blob->bytes[len - 1]) != NULL) {
        len--;
    }
    size_t bytes = 0;
    return kv_parse_hex(blob->bytes, len, psk, KVN_TLS_PSK_BYTES, &bytes) == KV_OK
           && bytes == KVN_TLS_PSK_BYTES;
}

static bool
read_psk(struct load *load, const char *path, uint8_t psk[KVN_TLS_PSK_BYTES])
{
    struct blob blob;
    if (!read_file(load, "pre-shared key", path, true, &blob)) {
        return false;
    }
    const bool parsed = psk_parse(&blob, psk);
    blob_free(&blob);
    return parsed
           || wrong(
               load,
               "pre-shared key %.300s: is not %d hex digits: kvrail keygen "
               "--psk FILE makes one",
               path, 2 * KVN_TLS_PSK_BYTES);
}

static bool load_psk(struct load *load)
{
    load->tls->has_psk = true;
    return read_psk(load, load->config->psk, load->tls->psk);
}

/* A tenant's key that is another's, or the nodes', would make one the other. */
static bool psk_is_new(struct load *load, uint32_t nr_before)
{
    const struct kvn_tls *tls = load->tls;
    const uint8_t *psk = tls->tenants[nr_before].psk;
    bool same = tls->has_psk && CRYPTO_memcmp(tls->psk, psk, KVN_TLS_PSK_BYTES) == 0;
    for (uint32_t i = 0; i < nr_before; i++) {
        same |= CRYPTO_memcmp(tls->tenants[i].psk, psk, KVN_TLS_PSK_BYTES) == 0;
        if (tls->tenants[i].id == tls->tenants[nr_before].id) {
            return wrong(
                load, "pre-shared key of tenant %" PRIu32 ": is given twice",
                tls->tenants[i].id);
        }
    }
    return !same
           || wrong(
               load,
               "pre-shared key %.300s: is another's too: kvrail keygen --psk FILE "
               "makes one for tenant %" PRIu32 " alone",
               load->config->tenants[nr_before].psk, tls->tenants[nr_before].id);
}

static bool load_tenants(struct load *load)
{
    const struct kvn_tls_config *config = load->config;
    struct kvn_tls *tls = load->tls;
    if (KV_FAULT() || RAND_bytes(tls->nobodys_psk, KVN_TLS_PSK_BYTES) != 1) {
        return no_memory(load);
    }
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        tls->tenants[i].id = config->tenants[i].id;
        if (!read_psk(load, config->tenants[i].psk, tls->tenants[i].psk)
            || !psk_is_new(load, i)) {
            return false;
        }
        tls->nr_tenants++;
    }
    return true;
}

/* ---- certificates --------------------------------------------------------------- */

void kvn_tls_time_format(const ASN1_TIME *time, char *out, size_t cap)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(time, &tm) != 1
        || strftime(out, cap, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0) {
        snprintf(out, cap, "an unreadable time");
    }
}

void kvn_tls_name_make(
    const char *cluster, struct kvn_tls_who who, char out[KVN_TLS_NAME_MAX])
{
    snprintf(
        out, KVN_TLS_NAME_MAX, "kvrail:%s:%s:%" PRIu32, cluster,
        who.tenant ? "tenant" : "node", who.id);
}

/* 0 to UINT32_MAX, written in the one way in which we write it. */
static bool parse_id(const char *text, size_t len, uint32_t *id_p)
{
    uint64_t id = 0;
    if (len == 0 || len > 10 || (text[0] == '0' && len > 1)) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        id = 10 * id + (uint64_t)(text[i] - '0');
    }
    if (id > UINT32_MAX) {
        return false;
    }
    *id_p = (uint32_t)id;
    return true;
}

enum kvn_tls_name kvn_tls_name_parse(
    const char *cluster, const char *name, size_t len, struct kvn_tls_who *who_p)
{
    static const char ours[] = "kvrail:", nodes[] = "node:", tenants[] = "tenant:";
    char head[KVN_TLS_NAME_MAX];
    uint32_t id;
    if (len < strlen(ours) || memcmp(name, ours, strlen(ours)) != 0) {
        return KVN_TLS_NAME_NONE;
    }
    const size_t head_len =
        (size_t)snprintf(head, sizeof(head), "kvrail:%s:", cluster);
    if (len < head_len || memcmp(name, head, head_len) != 0) {
        return KVN_TLS_NAME_CLUSTER;
    }
    name += head_len;
    len -= head_len;
    const bool tenant =
        len >= strlen(tenants) && memcmp(name, tenants, strlen(tenants)) == 0;
    const char *kind = tenant ? tenants : nodes;
    if (len < strlen(kind) || memcmp(name, kind, strlen(kind)) != 0
        || !parse_id(name + strlen(kind), len - strlen(kind), &id)
        || (!tenant && id == KVN_TLS_NO_NODE)) {
        return KVN_TLS_NAME_NONE;
    }
    *who_p = (struct kvn_tls_who){.tenant = tenant, .id = id};
    return KVN_TLS_NAME_OK;
}

enum kvn_tls_name
kvn_tls_cert_name(const char *cluster, X509 *cert, struct kvn_tls_who *who_p)
{
    enum kvn_tls_name found = KVN_TLS_NAME_NONE;
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        const enum kvn_tls_name got = kvn_tls_name_parse(
            cluster, (const char *)ASN1_STRING_get0_data(uri),
            (size_t)ASN1_STRING_length(uri), who_p);
        if (got != KVN_TLS_NAME_NONE) {
            found = found == KVN_TLS_NAME_NONE ? got : KVN_TLS_NAME_SEVERAL;
        }
    }
    GENERAL_NAMES_free(names);
    return found;
}

void kvn_tls_verify_words(X509_STORE_CTX *store, char *out, size_t cap)
{
    const int error = X509_STORE_CTX_get_error(store);
    const char *who = X509_STORE_CTX_get_error_depth(store) > 0 ? "its authority " : "";
    X509 *cert = X509_STORE_CTX_get_current_cert(store);
    char at[40] = "?";
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        if (cert != NULL) {
            kvn_tls_time_format(X509_get0_notAfter(cert), at, sizeof(at));
        }
        snprintf(out, cap, "%sexpired %s by this clock: is it right?", who, at);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        if (cert != NULL) {
            kvn_tls_time_format(X509_get0_notBefore(cert), at, sizeof(at));
        }
        snprintf(
            out, cap, "%sis not yet valid by this clock, but from %s: is it right?",
            who, at);
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        snprintf(out, cap, "is not of our authority");
        break;
    default:
        snprintf(out, cap, "%s%s", who, X509_verify_cert_error_string(error));
    }
}

/* Nobody is there to type one. */
static int no_passphrase(char *bytes, int cap, int writing, void *arg)
{
    (void)bytes, (void)cap, (void)writing, (void)arg;
    return -1;
}

typedef bool (*take_cert_fn)(struct load *load, X509 *cert, unsigned index);

/* Each certificate of a PEM file. */
static bool
each_cert(struct load *load, const char *what, const char *path, take_cert_fn take_cert)
{
    struct blob blob;
    if (!read_file(load, what, path, false, &blob)) {
        return false;
    }
    BIO *bio = KV_FAULT() ? NULL : BIO_new_mem_buf(blob.bytes, (int)blob.len);
    bool good = bio != NULL || no_memory(load);
    unsigned nr = 0;
    X509 *cert;
    while (good && (cert = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL) {
        good = (!KV_FAULT() && take_cert(load, cert, nr++)) || no_memory(load);
        X509_free(cert);
    }
    /* After the last one "no start line" ends the loop; all else is damage. */
    if (good
        && (nr == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)) {
        good = wrong(load, "%s %.300s: is no PEM certificate", what, path);
    }
    ERR_clear_error();
    BIO_free(bio);
    blob_free(&blob);
    return good;
}

static bool take_authority(struct load *load, X509 *cert, unsigned index)
{
    (void)index;
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(load->tls->ctx), cert) == 1;
}

/* Ours, then those between it and the authority. */
static bool take_own(struct load *load, X509 *cert, unsigned index)
{
    SSL_CTX *ctx = load->tls->ctx;
    return index == 0 ? SSL_CTX_use_certificate(ctx, cert) == 1
                      : SSL_CTX_add1_chain_cert(ctx, cert) == 1;
}

static bool load_key(struct load *load)
{
    struct blob blob;
    const char *path = load->config->key;
    if (!read_file(load, "key", path, true, &blob)) {
        return false;
    }
    BIO *bio = KV_FAULT() ? NULL : BIO_new_mem_buf(blob.bytes, (int)blob.len);
    EVP_PKEY *key =
        bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    BIO_free(bio);
    blob_free(&blob);
    if (key == NULL) {
        ERR_clear_error();
        return bio == NULL ? no_memory(load)
                           : wrong(
                               load,
                               "key %.300s: is no PEM private key without a "
                               "passphrase",
                               path);
    }
    X509 *cert = SSL_CTX_get0_certificate(load->tls->ctx);
    bool good = X509_check_private_key(cert, key) == 1
                || wrong(
                    load, "key %.300s: does not fit the certificate %.100s", path,
                    load->config->cert);
    if (good) {
        good = (!KV_FAULT() && SSL_CTX_use_PrivateKey(load->tls->ctx, key) == 1)
               || no_memory(load);
    }
    EVP_PKEY_free(key);
    ERR_clear_error();
    return good;
}

/* Against the authority's file, as the peers will. */
static bool check_chain(struct load *load, X509 *cert)
{
    char words[200];
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(load->tls->ctx, &chain);
    X509_STORE_CTX *store = KV_FAULT() ? NULL : X509_STORE_CTX_new();
    if (store == NULL
        || X509_STORE_CTX_init(
               store, SSL_CTX_get_cert_store(load->tls->ctx), cert, chain)
               != 1) {
        X509_STORE_CTX_free(store);
        return no_memory(load);
    }
    bool good = X509_verify_cert(store) == 1;
    if (!good && X509_STORE_CTX_get_error(store) == X509_V_ERR_OUT_OF_MEM) {
        no_memory(load);
    } else if (!good) {
        kvn_tls_verify_words(store, words, sizeof(words));
        wrong(
            load, "certificate %.200s: %s (authority %.100s)", load->config->cert,
            words, load->config->ca);
    }
    X509_STORE_CTX_free(store);
    ERR_clear_error();
    return good;
}

static bool check_name(struct load *load, X509 *cert)
{
    char name[KVN_TLS_NAME_MAX];
    const char *path = load->config->cert;
    const struct kvn_tls *tls = load->tls;
    const char *kind = tls->who.tenant ? "tenant" : "node";
    struct kvn_tls_who who = {0};
    kvn_tls_name_make(tls->cluster, tls->who, name);
    switch (kvn_tls_cert_name(tls->cluster, cert, &who)) {
    case KVN_TLS_NAME_NONE:
        return wrong(
            load,
            "certificate %.200s: names no %s: it needs the alternative name "
            "URI:%s",
            path, kind, name);
    case KVN_TLS_NAME_CLUSTER:
        return wrong(
            load, "certificate %.200s: is of another cluster than '%s'", path,
            tls->cluster);
    case KVN_TLS_NAME_SEVERAL:
        return wrong(load, "certificate %.200s: names several %ss", path, kind);
    case KVN_TLS_NAME_OK:
        break;
    }
    return (who.tenant == tls->who.tenant && who.id == tls->who.id)
           || wrong(
               load,
               "certificate %.200s: is of %s %" PRIu32 ", this is %s %" PRIu32, path,
               who.tenant ? "tenant" : "node", who.id, kind, tls->who.id);
}

/* A node is server to those who dial it and client to those whom it dials; a client is
 * nobody's server. */
static bool check_purpose(struct load *load, X509 *cert)
{
    if (load->tls->who.tenant) {
        return X509_check_purpose(cert, X509_PURPOSE_SSL_CLIENT, 0) == 1
               || wrong(
                   load, "certificate %.200s: is not for TLS clients",
                   load->config->cert);
    }
    return (X509_check_purpose(cert, X509_PURPOSE_SSL_CLIENT, 0) == 1
            && X509_check_purpose(cert, X509_PURPOSE_SSL_SERVER, 0) == 1)
           || wrong(
               load, "certificate %.200s: is not for TLS client and server both",
               load->config->cert);
}

static bool load_certs(struct load *load)
{
    const struct kvn_tls_config *config = load->config;
    if (!each_cert(load, "authority", config->ca, take_authority)
        || !each_cert(load, "certificate", config->cert, take_own) || !load_key(load)) {
        return false;
    }
    X509 *cert = SSL_CTX_get0_certificate(load->tls->ctx);
    return check_chain(load, cert) && check_name(load, cert)
           && check_purpose(load, cert);
}

/* ---- both ----------------------------------------------------------------------- */

static bool given(const char *path)
{
    return path != NULL && path[0] != '\0';
}

static bool check_config(struct load *load)
{
    const struct kvn_tls_config *config = load->config;
    const size_t len = config->cluster == NULL ? 0 : strlen(config->cluster);
    const bool any = given(config->ca) || given(config->cert) || given(config->key);
    const bool all = given(config->ca) && given(config->cert) && given(config->key);
    if (len == 0 || len > KVN_TLS_CLUSTER_MAX) {
        return wrong(
            load,
            "credentials: the cluster's name has %zu characters, the limits are "
            "1 and %d",
            len, KVN_TLS_CLUSTER_MAX);
    }
    if (!config->client && config->node == KVN_TLS_NO_NODE) {
        return wrong(load, "credentials: no node has the id 0");
    }
    if (config->nr_tenants > KVN_TLS_TENANTS_MAX) {
        return wrong(
            load,
            "credentials: pre-shared keys of %" PRIu32 " tenants, the limit is %d",
            config->nr_tenants, KVN_TLS_TENANTS_MAX);
    }
    KV_ASSERT(KV_IMPLIES(
        config->client, config->node == KVN_TLS_NO_NODE && !config->clients));
    KV_ASSERT(KV_IMPLIES(config->nr_tenants > 0, config->clients));
    if (given(config->psk) && any) {
        return wrong(
            load, "credentials: both a pre-shared key and certificates are given: "
                  "take one kind");
    }
    if (!given(config->psk) && !all) {
        return wrong(
            load, any ? "credentials: authority, certificate and key are needed, all "
                        "three"
                      : "credentials: none are given: a pre-shared key, or authority, "
                        "certificate and key");
    }
    return true;
}

/* The key of the pre-shared kind is bound to the hash of this suite. */
#define SUITES_PSK "TLS_AES_256_GCM_SHA384"
#define SUITES_CERT "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256"

static bool make_context(struct load *load, bool psk)
{
    SSL_CTX *ctx = KV_FAULT() ? NULL : SSL_CTX_new(TLS_method());
    load->tls->ctx = ctx;
    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1
        || SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1
        || SSL_CTX_set_ciphersuites(ctx, psk ? SUITES_PSK : SUITES_CERT) != 1
        || SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") != 1
        || SSL_CTX_set_num_tickets(ctx, 0) != 1) {
        return no_memory(load);
    }
    SSL_CTX_set_options(
        ctx,
        SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_early_data(ctx, 0);
    SSL_CTX_set_recv_max_early_data(ctx, 0);
    SSL_CTX_set_max_cert_list(ctx, KVN_TLS_HANDSHAKE_BYTES_MAX / 2);
    SSL_CTX_set_verify_depth(ctx, 4);
    kvn_tls_wire(load->tls);
    return true;
}

kv_status_t kvn_tls_load(
    const struct kvn_tls_config *config, kvn_tls_t **tls_p, char *line, size_t cap)
{
    struct load load = {.config = config, .line = line, .cap = cap};
    KV_ASSERT(cap > 0);
    line[0] = '\0';
    if (!check_config(&load)) {
        return load.status;
    }
    load.tls = kv_calloc(1, sizeof(*load.tls));
    if (load.tls == NULL) {
        no_memory(&load);
        return load.status;
    }
    const bool psk = given(config->psk);
    load.tls->who.tenant = config->client;
    load.tls->who.id = config->client ? config->tenant : config->node;
    load.tls->clients = config->clients;
    snprintf(load.tls->cluster, sizeof(load.tls->cluster), "%s", config->cluster);
    if (!make_context(&load, psk) || !(psk ? load_psk(&load) : load_certs(&load))
        || !load_tenants(&load)) {
        kvn_tls_free(load.tls);
        KV_ASSERT(load.status != KV_OK);
        return load.status;
    }
    *tls_p = load.tls;
    return KV_OK;
}

void kvn_tls_free(kvn_tls_t *tls)
{
    if (tls == NULL) {
        return;
    }
    SSL_CTX_free(tls->ctx);
    OPENSSL_cleanse(tls, sizeof(*tls));
    kv_free(tls);
}

int64_t kvn_tls_expires_s(const kvn_tls_t *tls)
{
    int days = 0, seconds = 0;
    if (tls->has_psk) {
        return INT64_MAX;
    }
    const X509 *cert = SSL_CTX_get0_certificate(tls->ctx);
    const int ret = ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert));
    KV_ASSERT(ret == 1); /* it was verified at load */
    return (int64_t)days * 86400 + seconds;
}
