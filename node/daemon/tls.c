#include "node/daemon/tls_priv.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"

#include <inttypes.h>
#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*           kvn_tls_in: Finished is right,       kvn_tls_bye, close_notify of the peer
 *           the peer is who it must be
 *  HANDSHAKE ──────────────────────────► READY ─────────────────────────────► READY
 *      │ anything else, or too much        │ a bad record, an alert
 *      └──────────────► FAILED ◄───────────┘        (left by kvn_tls_close alone)
 *
 *  HANDSHAKE  (1) no clear byte is taken or given, peer is NO_NODE.
 *  READY      (2) peer is authenticated; dialled as N, it is N.
 *  FAILED     (3) reason says why; nothing moves but what kvn_tls_out still holds: the
 *                 alert that tells the other side.
 */
enum state { STATE_HANDSHAKE, STATE_READY, STATE_FAILED };

/* What is looked at between two counts of the bytes of a handshake. */
enum { CHUNK_BYTES = 4 << 10 };
enum { RECORD_HEAD_BYTES = 5 }; /* RFC 8446, section 5.1: type, version, u16 length */

struct kvn_tls_session {
    const struct kvn_tls *tls;
    SSL *ssl;
    BIO *in, *out; /* the SSL's */
    enum state state;
    bool dialling;
    uint32_t expected; /* node that must answer, or NO_NODE */
    struct kvn_tls_who claimed; /* by certificate or identity, while HANDSHAKE */
    size_t handshake_bytes;
    /* Where in a record the bytes that came end: OpenSSL does not tell it of a head. */
    uint8_t record_head[RECORD_HEAD_BYTES];
    size_t record_head_have, record_left;
    char identity[KVN_TLS_NAME_MAX]; /* ours; OpenSSL points at it */
    char reason[KVN_TLS_REASON_MAX];
};

/* The first reason is the cause; what fails after it is not told. */
static void because(struct kvn_tls_session *session, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void because(struct kvn_tls_session *session, const char *format, ...)
{
    va_list args;
    if (session->reason[0] == '\0') {
        va_start(args, format);
        vsnprintf(session->reason, sizeof(session->reason), format, args);
        va_end(args);
    }
}

static struct kvn_tls_session *session_of(const SSL *ssl)
{
    return SSL_get_app_data(ssl);
}

/* "node-3.kvrail": what the dialling side asks for. */
static void server_name(uint32_t node, char *out, size_t cap)
{
    snprintf(out, cap, "node-%" PRIu32 ".kvrail", node);
}

/* ---- callbacks of a handshake ---------------------------------------------------- */

/* Is this one whom we speak to? (2) Clients come to nodes that take them; whoever was
 * dialled is a node. */
static bool admit(struct kvn_tls_session *session, struct kvn_tls_who who)
{
    const struct kvn_tls *tls = session->tls;
    if (who.tenant && session->dialling) {
        because(
            session, "a client of tenant %" PRIu32 " answers where a node was dialled",
            who.id);
        return false;
    }
    if (who.tenant && !tls->clients) {
        because(
            session, "a client of tenant %" PRIu32 ", and no clients are taken here",
            who.id);
        return false;
    }
    if (!who.tenant && !tls->who.tenant && who.id == tls->who.id) {
        because(
            session,
            "the peer says that it is node %" PRIu32
            ", which we are: give each node its own cluster.node",
            who.id);
        return false;
    }
    if (session->expected != KVN_TLS_NO_NODE && who.id != session->expected) {
        because(
            session, "node %" PRIu32 " answers where node %" PRIu32 " was dialled",
            who.id, session->expected);
        return false;
    }
    session->claimed = who;
    return true;
}

static bool admit_name(
    struct kvn_tls_session *session, const char *what, enum kvn_tls_name got,
    struct kvn_tls_who who)
{
    switch (got) {
    case KVN_TLS_NAME_OK:
        return admit(session, who);
    case KVN_TLS_NAME_CLUSTER:
        because(
            session,
            "the peer's %s is of another cluster: nodes of one have the same "
            "cluster.name",
            what);
        return false;
    case KVN_TLS_NAME_SEVERAL:
        because(session, "the peer's %s names several nodes", what);
        return false;
    case KVN_TLS_NAME_NONE:
        break;
    }
    because(session, "the peer's %s names no node", what);
    return false;
}

/* In place of OpenSSL's own: the same check of the chain, and then of the name. */
static int verify_peer(X509_STORE_CTX *store, void *arg)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct kvn_tls_session *session = session_of(ssl);
    char words[160];
    (void)arg;
    if (session->tls->has_psk) {
        because(session, "the peer has a certificate, we have a pre-shared key");
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    if (X509_verify_cert(store) != 1) {
        kvn_tls_verify_words(store, words, sizeof(words));
        because(session, "the peer's certificate %s", words);
        return 0;
    }
    struct kvn_tls_who who = {0};
    const enum kvn_tls_name got = kvn_tls_cert_name(
        session->tls->cluster, X509_STORE_CTX_get0_cert(store), &who);
    if (!admit_name(session, "certificate", got, who)) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    return 1;
}

/* Who was led here although he dialled another node is told so. */
static int check_server_name(SSL *ssl, int *alert, void *arg)
{
    struct kvn_tls_session *session = session_of(ssl);
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    char ours[32];
    (void)arg;
    if (session->dialling || name == NULL) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    server_name(session->tls->who.id, ours, sizeof(ours));
    if (strcmp(name, ours) != 0) {
        because(session, "the peer wants '%.40s', this is '%s'", name, ours);
        *alert = SSL_AD_UNRECOGNIZED_NAME;
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    return SSL_TLSEXT_ERR_OK;
}

/* A pre-shared key in the form that OpenSSL takes for TLS 1.3; NULL: no memory. */
static SSL_SESSION *psk_session(SSL *ssl, const uint8_t psk[KVN_TLS_PSK_BYTES])
{
    static const unsigned char suite[] = {0x13, 0x02}; /* TLS_AES_256_GCM_SHA384 */
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *made = KV_FAULT() ? NULL : SSL_SESSION_new();
    if (made == NULL || cipher == NULL
        || SSL_SESSION_set1_master_key(made, psk, KVN_TLS_PSK_BYTES) != 1
        || SSL_SESSION_set_cipher(made, cipher) != 1
        || SSL_SESSION_set_protocol_version(made, TLS1_3_VERSION) != 1) {
        SSL_SESSION_free(made);
        return NULL;
    }
    return made;
}

static int psk_use(
    SSL *ssl, const EVP_MD *md, const unsigned char **id_p, size_t *len_p,
    SSL_SESSION **psk_p)
{
    struct kvn_tls_session *session = session_of(ssl);
    (void)md; /* one suite, one hash */
    *psk_p = psk_session(ssl, session->tls->psk);
    if (*psk_p == NULL) {
        because(session, "out of memory");
        return 0;
    }
    *id_p = (const unsigned char *)session->identity;
    *len_p = strlen(session->identity);
    return 1;
}

/* The key that who has this identity must have: a tenant's is no other's, and a node's
 * is no tenant's. */
static const uint8_t *psk_of(const struct kvn_tls *tls, struct kvn_tls_who who)
{
    if (!who.tenant) {
        return tls->psk;
    }
    for (uint32_t i = 0; i < tls->nr_tenants; i++) {
        if (tls->tenants[i].id == who.id) {
            return tls->tenants[i].psk;
        }
    }
    return tls->nobodys_psk;
}

static int psk_find(SSL *ssl, const unsigned char *id, size_t len, SSL_SESSION **psk_p)
{
    struct kvn_tls_session *session = session_of(ssl);
    struct kvn_tls_who who = {0};
    const enum kvn_tls_name got =
        kvn_tls_name_parse(session->tls->cluster, (const char *)id, len, &who);
    *psk_p = NULL;
    if (!admit_name(session, "identity", got, who)) {
        return 0;
    }
    if (!who.tenant && !session->tls->has_psk) {
        because(session, "the peer has a pre-shared key, we have certificates");
        return 0;
    }
    *psk_p = psk_session(ssl, psk_of(session->tls, who));
    if (*psk_p == NULL) {
        because(session, "out of memory");
        return 0;
    }
    return 1;
}

void kvn_tls_wire(struct kvn_tls *tls)
{
    SSL_CTX *ctx = tls->ctx;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, verify_peer, NULL);
    SSL_CTX_set_tlsext_servername_callback(ctx, check_server_name);
    SSL_CTX_set_tlsext_servername_arg(ctx, NULL);
}

/* ---- sessions -------------------------------------------------------------------- */

/* What the error queue says, in words that tell an operator where to look. */
static void because_of_errors(struct kvn_tls_session *session)
{
    const unsigned long error = ERR_peek_last_error();
    const int reason = ERR_GET_REASON(error);
    const char *words = ERR_reason_error_string(error);
    const bool offered =
        session->claimed.tenant || session->claimed.id != KVN_TLS_NO_NODE;
    if (error == 0 || words == NULL) {
        because(session, "TLS failed without a reason");
    } else if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason > SSL_AD_REASON_OFFSET) {
        because(
            session, "the peer refused us, its log says why: %s",
            SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET));
    } else if (reason == SSL_R_BINDER_DOES_NOT_VERIFY || reason == SSL_R_BAD_PSK) {
        because(
            session, "the peer has another pre-shared key: all nodes have one file");
    } else if (
        reason == SSL_R_UNSUPPORTED_PROTOCOL || reason == SSL_R_VERSION_TOO_LOW
        || reason == SSL_R_WRONG_VERSION_NUMBER
        || reason == SSL_R_NO_PROTOCOLS_AVAILABLE) {
        because(session, "the peer does not speak TLS 1.3");
    } else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        because(session, "the peer has no certificate");
    } else if (session->tls->has_psk && !session->dialling && !offered) {
        because(session, "the peer offers no pre-shared key (%s)", words);
    } else {
        because(session, "%s", words);
    }
}

static kv_status_t fail(struct kvn_tls_session *session, kv_status_t status)
{
    because_of_errors(session);
    ERR_clear_error();
    session->state = STATE_FAILED;
    KV_ASSERT(session->reason[0] != '\0'); /* (3) */
    return status;
}

/* OpenSSL is content. We are, when it is by our credential and nothing less. */
static kv_status_t handshake_done(struct kvn_tls_session *session)
{
    const struct kvn_tls *tls = session->tls;
    if (SSL_version(session->ssl) != TLS1_3_VERSION) {
        because(session, "the peer does not speak TLS 1.3");
        return fail(session, KV_ERR_DENIED);
    }
    const bool by_psk = SSL_session_reused(session->ssl) == 1;
    if (tls->has_psk && !by_psk) {
        because(session, "the peer took no pre-shared key");
        return fail(session, KV_ERR_DENIED);
    }
    if (tls->has_psk && session->dialling) {
        session->claimed = (struct kvn_tls_who){.id = session->expected};
    }
    if (!by_psk && SSL_get0_peer_certificate(session->ssl) == NULL) {
        because(session, "the peer has no certificate");
        return fail(session, KV_ERR_DENIED);
    }
    /* (2) Beside certificates only clients have keys. */
    KV_ASSERT(KV_IMPLIES(by_psk && !tls->has_psk, session->claimed.tenant));
    KV_ASSERT(KV_IMPLIES(
        session->expected != KVN_TLS_NO_NODE,
        !session->claimed.tenant && session->claimed.id == session->expected));
    session->state = STATE_READY;
    return KV_OK;
}

static kv_status_t handshake(struct kvn_tls_session *session)
{
    KV_ASSERT(session->state == STATE_HANDSHAKE);
    ERR_clear_error();
    const int ret = SSL_do_handshake(session->ssl);
    if (ret == 1) {
        return handshake_done(session);
    }
    if (SSL_get_error(session->ssl, ret) == SSL_ERROR_WANT_READ) {
        return KV_OK;
    }
    return fail(session, KV_ERR_DENIED);
}

static bool make_ssl(struct kvn_tls_session *session)
{
    const struct kvn_tls *tls = session->tls;
    char name[32];
    session->ssl = KV_FAULT() ? NULL : SSL_new(tls->ctx);
    session->in = session->ssl == NULL || KV_FAULT() ? NULL : BIO_new(BIO_s_mem());
    session->out = session->in == NULL || KV_FAULT() ? NULL : BIO_new(BIO_s_mem());
    if (session->out == NULL) {
        BIO_free(session->in);
        return false;
    }
    SSL_set_bio(session->ssl, session->in, session->out);
    SSL_set_app_data(session->ssl, session);
    if (tls->has_psk && session->dialling) {
        SSL_set_psk_use_session_callback(session->ssl, psk_use);
    }
    if (!session->dialling && (tls->has_psk || tls->nr_tenants > 0)) {
        SSL_set_psk_find_session_callback(session->ssl, psk_find);
    }
    if (!session->dialling) {
        SSL_set_accept_state(session->ssl);
        /* A pre-shared key goes through OpenSSL's code for resumed sessions: that wants
         * a context where peers are verified, and on the dialling side none at all. */
        return SSL_set_session_id_context(
                   session->ssl, (const unsigned char *)"kvrail", 6)
               == 1;
    }
    SSL_set_connect_state(session->ssl);
    server_name(session->expected, name, sizeof(name));
    return session->expected == KVN_TLS_NO_NODE
           || (!KV_FAULT() && SSL_set_tlsext_host_name(session->ssl, name) == 1);
}

kv_status_t kvn_tls_open(
    const kvn_tls_t *tls, bool dialling, uint32_t peer, kvn_tls_session_t **session_p)
{
    KV_ASSERT(peer == KVN_TLS_NO_NODE || dialling);
    KV_ASSERT(KV_IMPLIES(tls->who.tenant, dialling)); /* nobody dials a client */
    struct kvn_tls_session *session = kv_calloc(1, sizeof(*session));
    if (session == NULL) {
        return KV_ERR_NOMEM;
    }
    session->tls = tls;
    session->dialling = dialling;
    session->expected = peer;
    kvn_tls_name_make(tls->cluster, tls->who, session->identity);
    /* Of the dialling side: its first bytes. */
    if (!make_ssl(session) || (dialling && handshake(session) != KV_OK)) {
        ERR_clear_error();
        kvn_tls_close(session);
        return KV_ERR_NOMEM;
    }
    *session_p = session;
    return KV_OK;
}

void kvn_tls_close(kvn_tls_session_t *session)
{
    if (session == NULL) {
        return;
    }
    SSL_free(session->ssl); /* both BIOs and their keys with it */
    OPENSSL_cleanse(session, sizeof(*session));
    kv_free(session);
}

static void
follow_records(struct kvn_tls_session *session, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        size_t n = 1;
        if (session->record_left > 0) {
            n = len < session->record_left ? len : session->record_left;
            session->record_left -= n;
        } else {
            uint8_t *head = session->record_head;
            head[session->record_head_have++] = bytes[0];
            if (session->record_head_have == RECORD_HEAD_BYTES) {
                session->record_head_have = 0;
                session->record_left = (size_t)head[3] << 8 | head[4];
            }
        }
        bytes += n;
        len -= n;
    }
}

static bool feed(struct kvn_tls_session *session, const uint8_t *bytes, size_t len)
{
    size_t taken = 0;
    return !KV_FAULT() && BIO_write_ex(session->in, bytes, len, &taken) == 1
           && taken == len;
}

kv_status_t kvn_tls_in(kvn_tls_session_t *session, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        if (session->state == STATE_FAILED) {
            return KV_ERR_DENIED;
        }
        const bool shaking = session->state == STATE_HANDSHAKE;
        const size_t n = shaking && len > CHUNK_BYTES ? CHUNK_BYTES : len;
        session->handshake_bytes += shaking ? n : 0;
        if (session->handshake_bytes > KVN_TLS_HANDSHAKE_BYTES_MAX) {
            because(
                session, "the handshake has more than %d bytes",
                KVN_TLS_HANDSHAKE_BYTES_MAX);
            return fail(session, KV_ERR_DENIED);
        }
        if (!feed(session, bytes, n)) {
            because(session, "out of memory");
            return fail(session, KV_ERR_DENIED);
        }
        follow_records(session, bytes, n);
        bytes += n;
        len -= n;
        if (shaking) {
            (void)handshake(session);
        }
    }
    return session->state == STATE_FAILED ? KV_ERR_DENIED : KV_OK;
}

size_t kvn_tls_out(kvn_tls_session_t *session, uint8_t *bytes, size_t cap)
{
    size_t len = 0;
    if (BIO_read_ex(session->out, bytes, cap, &len) != 1) {
        return 0;
    }
    return len;
}

bool kvn_tls_ready(const kvn_tls_session_t *session)
{
    return session->state == STATE_READY;
}

uint32_t kvn_tls_peer(const kvn_tls_session_t *session)
{
    return session->state == STATE_READY && !session->claimed.tenant
               ? session->claimed.id
               : KVN_TLS_NO_NODE;
}

kv_status_t kvn_tls_export(
    kvn_tls_session_t *session, const char *label, uint8_t *bytes, size_t len)
{
    KV_ASSERT(session->state == STATE_READY);
    ERR_clear_error();
    return !KV_FAULT()
                   && SSL_export_keying_material(
                          session->ssl, bytes, len, label, strlen(label), NULL, 0, 0)
                          == 1
               ? KV_OK
               : KV_ERR_NOMEM;
}

bool kvn_tls_tenant(const kvn_tls_session_t *session, uint32_t *tenant_p)
{
    if (session->state != STATE_READY || !session->claimed.tenant) {
        return false;
    }
    *tenant_p = session->claimed.id;
    return true;
}

kv_status_t
kvn_tls_read(kvn_tls_session_t *session, uint8_t *bytes, size_t cap, size_t *len_p)
{
    size_t len = 0;
    if (session->state == STATE_FAILED) {
        return KV_ERR_DENIED;
    }
    if (session->state == STATE_HANDSHAKE) { /* (1) */
        *len_p = 0;
        return KV_OK;
    }
    ERR_clear_error();
    const int ret = SSL_read_ex(session->ssl, bytes, cap, &len);
    switch (ret == 1 ? SSL_ERROR_NONE : SSL_get_error(session->ssl, ret)) {
    case SSL_ERROR_NONE:
    case SSL_ERROR_WANT_READ:
        *len_p = len;
        return KV_OK;
    case SSL_ERROR_ZERO_RETURN:
        because(session, "the peer said goodbye");
        return KV_ERR_LINK_LOST;
    default:
        return fail(session, KV_ERR_PROTOCOL);
    }
}

kv_status_t kvn_tls_write(kvn_tls_session_t *session, const uint8_t *bytes, size_t len)
{
    size_t taken = 0;
    if (session->state == STATE_FAILED) {
        return KV_ERR_DENIED;
    }
    KV_ASSERT(session->state == STATE_READY); /* (1) */
    if (len == 0) {
        return KV_OK;
    }
    ERR_clear_error();
    /* Into memory: it takes all, or there is none. */
    if (KV_FAULT() || SSL_write_ex(session->ssl, bytes, len, &taken) != 1) {
        if (ERR_peek_error() == 0) {
            because(session, "out of memory");
        }
        return fail(session, KV_ERR_PROTOCOL);
    }
    KV_ASSERT(taken == len);
    return KV_OK;
}

bool kvn_tls_partial(const kvn_tls_session_t *session)
{
    return session->state == STATE_READY
           && (session->record_head_have > 0 || session->record_left > 0);
}

void kvn_tls_bye(kvn_tls_session_t *session)
{
    if (session->state == STATE_READY) {
        ERR_clear_error();
        (void)SSL_shutdown(session->ssl);
        ERR_clear_error();
    }
}

const char *kvn_tls_reason(const kvn_tls_session_t *session)
{
    return session->reason;
}
