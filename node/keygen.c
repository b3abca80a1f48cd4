#include "node/keygen.h"

#include "base/assert.h"
#include "base/fault.h"
#include "node/daemon/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DAY_S = 86400, SERIAL_BYTES = 16 };

static kv_status_t
fail(struct kvn_keygen_made *made, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static kv_status_t
fail(struct kvn_keygen_made *made, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(made->line, sizeof(made->line), format, args);
    va_end(args);
    ERR_clear_error();
    return status;
}

static kv_status_t no_memory(struct kvn_keygen_made *made)
{
    return fail(made, KV_ERR_NOMEM, "out of memory");
}

static void hex(const uint8_t *bytes, size_t len, char *out)
{
    for (size_t i = 0; i < len; i++) {
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

/* ---- files ---------------------------------------------------------------------- */

static bool write_fd(int fd, const char *bytes, size_t len, mode_t mode)
{
    while (len > 0) {
        const ssize_t ret = KV_FAULT() ? (errno = ENOSPC, -1) : write(fd, bytes, len);
        if (ret < 0 && errno != EINTR) {
            return false;
        }
        bytes += ret < 0 ? 0 : ret;
        len -= ret < 0 ? 0 : (size_t)ret;
    }
    return fchmod(fd, mode) == 0 && fsync(fd) == 0;
}

/* The next of made->files: its path is set. Counted once it is there as a whole. */
static kv_status_t
write_new(struct kvn_keygen_made *made, const char *bytes, size_t len, mode_t mode)
{
    const char *path = made->files[made->nr].path;
    const int fd = KV_FAULT()
                       ? (errno = EMFILE, -1)
                       : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) {
        return fail(made, KV_ERR_CONFIG, "%.400s: is there: never written over", path);
    }
    if (fd < 0) {
        return fail(made, KV_ERR_IO, "%.400s: %s", path, strerror(errno));
    }
    const bool written = write_fd(fd, bytes, len, mode);
    const int error = errno;
    if (close(fd) != 0 || !written) {
        unlink(path);
        return fail(made, KV_ERR_IO, "%.400s: %s", path, strerror(error));
    }
    made->nr++;
    return KV_OK;
}

/* Half of a pair helps nobody, and would be in the way of the next try. */
static void take_away(struct kvn_keygen_made *made)
{
    while (made->nr > 0) {
        unlink(made->files[--made->nr].path);
    }
}

/* "FOLDER/NAME" as the path of made->files[i]. */
static kv_status_t file_init(
    struct kvn_keygen_made *made, unsigned i, const char *kind, const char *folder,
    const char *name)
{
    struct kvn_keygen_file *file = &made->files[i];
    memset(file, 0, sizeof(*file));
    file->kind = kind;
    const int len = snprintf(
        file->path, sizeof(file->path), "%s%s%s", folder, folder[0] == '\0' ? "" : "/",
        name);
    if (len < 0 || (size_t)len >= sizeof(file->path)) {
        return fail(
            made, KV_ERR_CONFIG, "%.200s…: has %d characters, the limit is %d", folder,
            len, KVN_KEYGEN_PATH_MAX - 1);
    }
    return KV_OK;
}

/* ---- secrets -------------------------------------------------------------------- */

kv_status_t
kvn_keygen_secret(const char *path, const char *kind, struct kvn_keygen_made *made)
{
    /* Not the digest of the bytes alone: those may be keyed elsewhere with SHA-256. */
    static const char tag[] = "kvrail fingerprint 1";
    uint8_t bytes[sizeof(tag) + KVN_KEYGEN_SECRET_BYTES], digest[EVP_MAX_MD_SIZE];
    char text[2 * KVN_KEYGEN_SECRET_BYTES + 2];
    memset(made, 0, sizeof(*made));
    if (path[0] == '\0') {
        return fail(made, KV_ERR_CONFIG, "the file's name is empty");
    }
    kv_status_t status = file_init(made, 0, kind, "", path);
    if (status != KV_OK) {
        return status;
    }
    memcpy(bytes, tag, sizeof(tag));
    if (KV_FAULT() || RAND_bytes(bytes + sizeof(tag), KVN_KEYGEN_SECRET_BYTES) != 1
        || EVP_Digest(bytes, sizeof(bytes), digest, NULL, EVP_sha256(), NULL) != 1) {
        status = fail(made, KV_ERR_IO, "the system gave no random bytes");
    } else {
        hex(bytes + sizeof(tag), KVN_KEYGEN_SECRET_BYTES, text);
        text[sizeof(text) - 2] = '\n';
        status = write_new(made, text, sizeof(text) - 1, 0600);
        hex(digest, 8, made->files[0].fingerprint);
    }
    OPENSSL_cleanse(bytes, sizeof(bytes));
    OPENSSL_cleanse(text, sizeof(text));
    return status;
}

/* ---- certificates --------------------------------------------------------------- */

struct issuer {
    X509 *cert;
    EVP_PKEY *key;
};

static void issuer_free(struct issuer *issuer)
{
    X509_free(issuer->cert);
    EVP_PKEY_free(issuer->key);
    *issuer = (struct issuer){0};
}

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension =
        KV_FAULT() ? NULL : X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    const bool added = extension != NULL && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return added;
}

static bool set_serial(X509 *cert)
{
    uint8_t bytes[SERIAL_BYTES];
    BIGNUM *number = NULL;
    bool done = false;
    if (RAND_bytes(bytes, sizeof(bytes)) == 1) {
        bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40); /* positive, of full length */
        number = BN_bin2bn(bytes, sizeof(bytes), NULL);
        done = number != NULL
               && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;
    }
    BN_free(number);
    return done;
}

/* All but extensions and signature. Seconds count from now. */
static X509 *
cert_begin(EVP_PKEY *key, const char *name, int64_t from_s, int64_t until_s)
{
    X509 *cert = KV_FAULT() ? NULL : X509_new();
    const time_t now = time(NULL);
    if (cert == NULL) {
        return NULL;
    }
    X509_NAME *subject = X509_get_subject_name(cert);
    if (X509_set_version(cert, X509_VERSION_3) != 1 || !set_serial(cert)
        || ASN1_TIME_set(X509_getm_notBefore(cert), now + from_s) == NULL
        || ASN1_TIME_set(X509_getm_notAfter(cert), now + until_s) == NULL
        || X509_NAME_add_entry_by_txt(
               subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0)
               != 1
        || X509_set_pubkey(cert, key) != 1) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static EVP_PKEY *make_key(void)
{
    return KV_FAULT() ? NULL : EVP_EC_gen("P-256");
}

/* PEM of either into the file made->files[made->nr], which is then counted. */
static kv_status_t
write_pem(struct kvn_keygen_made *made, X509 *cert, EVP_PKEY *key, mode_t mode)
{
    char *bytes = NULL;
    BIO *bio = KV_FAULT() ? NULL : BIO_new(BIO_s_secmem());
    if (bio == NULL
        || (cert != NULL
                ? PEM_write_bio_X509(bio, cert)
                : PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
               != 1) {
        BIO_free(bio);
        return no_memory(made);
    }
    const long len = BIO_get_mem_data(bio, &bytes);
    const kv_status_t status = write_new(made, bytes, (size_t)len, mode);
    if (len > 0) {
        OPENSSL_cleanse(bytes, (size_t)len);
    }
    BIO_free(bio);
    return status;
}

static void iso_time(const ASN1_TIME *time, char out[32])
{
    struct tm tm;
    if (ASN1_TIME_to_tm(time, &tm) != 1
        || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
        out[0] = '\0';
    }
}

static kv_status_t describe(struct kvn_keygen_made *made, X509 *cert)
{
    struct kvn_keygen_file *file = &made->files[0];
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (KV_FAULT() || X509_digest(cert, EVP_sha256(), digest, &len) != 1) {
        return no_memory(made);
    }
    KV_ASSERT(2 * len < sizeof(file->fingerprint));
    hex(digest, len, file->fingerprint);
    iso_time(X509_get0_notBefore(cert), file->from);
    iso_time(X509_get0_notAfter(cert), file->until);
    return KV_OK;
}

/* Certificate and key to made->files, both or none. */
static kv_status_t write_pair(struct kvn_keygen_made *made, X509 *cert, EVP_PKEY *key)
{
    kv_status_t status = describe(made, cert);
    if (status == KV_OK) {
        status = write_pem(made, cert, NULL, 0644);
    }
    if (status == KV_OK) {
        status = write_pem(made, NULL, key, 0600);
    }
    if (status != KV_OK) {
        take_away(made);
    }
    return status;
}

/* ---- the authority --------------------------------------------------------------- */

static kv_status_t pair_init(
    struct kvn_keygen_made *made, const char *kind, const char *folder,
    const char *stem)
{
    char name[64];
    memset(made, 0, sizeof(*made));
    snprintf(name, sizeof(name), "%s.pem", stem);
    kv_status_t status = file_init(made, 0, kind, folder, name);
    if (status == KV_OK) {
        snprintf(name, sizeof(name), "%s.key", stem);
        status = file_init(made, 1, "key", folder, name);
    }
    return status;
}

static bool authority_extensions(X509 *cert)
{
    return add_extension(
               cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0")
           && add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign")
           && add_extension(cert, cert, NID_subject_key_identifier, "hash");
}

/* Two authorities never have one name: a mistaken file then is a plain mistake. */
static bool authority_name(char *out, size_t cap)
{
    uint8_t bytes[4];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1) {
        return false;
    }
    snprintf(
        out, cap, "kvrail authority %02x%02x%02x%02x", bytes[0], bytes[1], bytes[2],
        bytes[3]);
    return true;
}

kv_status_t
kvn_keygen_authority(const char *folder, uint64_t days, struct kvn_keygen_made *made)
{
    char name[64];
    KV_ASSERT(days >= 1 && days <= KVN_KEYGEN_DAYS_MAX);
    kv_status_t status = pair_init(made, "authority", folder, "ca");
    if (status != KV_OK) {
        return status;
    }
    if (mkdir(folder, 0700) != 0 && errno != EEXIST) {
        return fail(made, KV_ERR_IO, "%.400s: %s", folder, strerror(errno));
    }
    EVP_PKEY *key = make_key();
    X509 *cert = NULL;
    if (key != NULL && authority_name(name, sizeof(name))) {
        cert = cert_begin(key, name, -KVN_KEYGEN_SLACK_S, (int64_t)days * DAY_S);
    }
    if (cert == NULL || X509_set_issuer_name(cert, X509_get_subject_name(cert)) != 1
        || !authority_extensions(cert) || X509_sign(cert, key, EVP_sha256()) == 0) {
        status = no_memory(made);
    } else {
        status = write_pair(made, cert, key);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
    return status;
}

/* ---- nodes and clients ----------------------------------------------------------- */

static int no_passphrase(char *bytes, int cap, int writing, void *arg)
{
    (void)bytes, (void)cap, (void)writing, (void)arg;
    return -1;
}

static FILE *
open_authority(struct kvn_keygen_made *made, const char *folder, const char *name)
{
    char path[KVN_KEYGEN_PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = KV_FAULT() ? (errno = EMFILE, NULL) : fopen(path, "re");
    if (file == NULL) {
        fail(
            made, errno == EMFILE ? KV_ERR_IO : KV_ERR_CONFIG,
            "%.400s: %s: kvrail keygen --ca makes an authority", path, strerror(errno));
    }
    return file;
}

static kv_status_t
issuer_load(struct kvn_keygen_made *made, const char *folder, struct issuer *issuer)
{
    struct stat info;
    kv_status_t status = KV_OK;
    *issuer = (struct issuer){0};
    FILE *file = open_authority(made, folder, "ca.pem");
    if (file == NULL) {
        return KV_ERR_CONFIG;
    }
    issuer->cert = PEM_read_X509(file, NULL, no_passphrase, NULL);
    fclose(file);
    file = open_authority(made, folder, "ca.key");
    if (file == NULL) {
        issuer_free(issuer);
        return KV_ERR_CONFIG;
    }
    issuer->key = PEM_read_PrivateKey(file, NULL, no_passphrase, NULL);
    if (issuer->cert == NULL || issuer->key == NULL) {
        status = fail(
            made, KV_ERR_CONFIG, "%.400s/ca.%s: is not in PEM, without a passphrase",
            folder, issuer->cert == NULL ? "pem" : "key");
    } else if (fstat(fileno(file), &info) != 0 || (info.st_mode & 077) != 0) {
        status = fail(
            made, KV_ERR_CONFIG, "%.400s/ca.key: has mode %04o, the limit is 0600",
            folder, (unsigned)(info.st_mode & 07777));
    } else if (X509_check_private_key(issuer->cert, issuer->key) != 1) {
        status =
            fail(made, KV_ERR_CONFIG, "%.400s/ca.key: does not fit ca.pem", folder);
    } else if (X509_check_ca(issuer->cert) != 1) {
        status = fail(made, KV_ERR_CONFIG, "%.400s/ca.pem: is no authority", folder);
    }
    fclose(file);
    if (status != KV_OK) {
        issuer_free(issuer);
    }
    return status;
}

/* No certificate outlives its authority: it would end before the day that it says. */
static kv_status_t holder_until(
    struct kvn_keygen_made *made, X509 *issuer, uint64_t days, int64_t *until_p)
{
    int left_days = 0, left_s = 0;
    if (ASN1_TIME_diff(&left_days, &left_s, NULL, X509_get0_notAfter(issuer)) != 1) {
        return fail(made, KV_ERR_CONFIG, "ca.pem: its time cannot be read");
    }
    const int64_t left = (int64_t)left_days * DAY_S + left_s;
    const int64_t wanted = (int64_t)(days == 0 ? KVN_KEYGEN_NODE_DAYS : days) * DAY_S;
    if (left <= 0) {
        return fail(made, KV_ERR_CONFIG, "ca.pem: expired by this clock: is it right?");
    }
    if (days != 0 && wanted > left) {
        return fail(
            made, KV_ERR_CONFIG,
            "--days: %" PRIu64 " are more than the %d that the authority has left",
            days, left_days);
    }
    *until_p = wanted < left ? wanted : left;
    return KV_OK;
}

/* Whom a certificate is for: "node" or "tenant", and its number. */
struct holder {
    const char *kind;
    uint32_t id;
    const char *use; /* extendedKeyUsage */
};

static bool holder_extensions(
    X509 *cert, X509 *issuer, const char *cluster, const struct holder *holder)
{
    char name[KVN_TLS_CLUSTER_MAX + 64];
    snprintf(
        name, sizeof(name), "URI:kvrail:%s:%s:%" PRIu32, cluster, holder->kind,
        holder->id);
    return add_extension(cert, issuer, NID_basic_constraints, "critical,CA:FALSE")
           && add_extension(cert, issuer, NID_key_usage, "critical,digitalSignature")
           && add_extension(cert, issuer, NID_ext_key_usage, holder->use)
           && add_extension(cert, issuer, NID_subject_alt_name, name)
           && add_extension(cert, issuer, NID_subject_key_identifier, "hash")
           && add_extension(cert, issuer, NID_authority_key_identifier, "keyid:always");
}

/* A name goes into a URI, and into an extension's text where a comma would end it. */
static kv_status_t check_cluster(struct kvn_keygen_made *made, const char *cluster)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               "0123456789._-";
    const size_t len = strlen(cluster);
    if (len == 0 || len > KVN_TLS_CLUSTER_MAX) {
        return fail(
            made, KV_ERR_CONFIG,
            "--cluster: has %zu characters, the limits are 1 and %d", len,
            KVN_TLS_CLUSTER_MAX);
    }
    if (strspn(cluster, good) != len) {
        return fail(
            made, KV_ERR_CONFIG,
            "--cluster: '%.64s' has characters other than letters, digits, . _ -",
            cluster);
    }
    return KV_OK;
}

static kv_status_t holder_make(
    const char *folder, const char *cluster, const struct holder *holder, uint64_t days,
    struct kvn_keygen_made *made)
{
    struct issuer issuer = {0};
    char name[64];
    int64_t until = 0;
    KV_ASSERT(days <= KVN_KEYGEN_DAYS_MAX);
    snprintf(name, sizeof(name), "%s-%" PRIu32, holder->kind, holder->id);
    kv_status_t status = pair_init(made, "certificate", folder, name);
    if (status == KV_OK) {
        status = check_cluster(made, cluster);
    }
    if (status == KV_OK) {
        status = issuer_load(made, folder, &issuer);
    }
    if (status != KV_OK) {
        return status;
    }
    status = holder_until(made, issuer.cert, days, &until);
    if (status == KV_OK) {
        snprintf(name, sizeof(name), "kvrail %s %" PRIu32, holder->kind, holder->id);
        EVP_PKEY *key = make_key();
        X509 *cert =
            key == NULL ? NULL : cert_begin(key, name, -KVN_KEYGEN_SLACK_S, until);
        if (cert == NULL
            || X509_set_issuer_name(cert, X509_get_subject_name(issuer.cert)) != 1
            || !holder_extensions(cert, issuer.cert, cluster, holder)
            || X509_sign(cert, issuer.key, EVP_sha256()) == 0) {
            status = no_memory(made);
        } else {
            status = write_pair(made, cert, key);
        }
        X509_free(cert);
        EVP_PKEY_free(key);
    }
    issuer_free(&issuer);
    return status;
}

kv_status_t kvn_keygen_node(
    const char *folder, const char *cluster, uint32_t node, uint64_t days,
    struct kvn_keygen_made *made)
{
    const struct holder holder = {"node", node, "serverAuth,clientAuth"};
    KV_ASSERT(node != KVN_TLS_NO_NODE);
    return holder_make(folder, cluster, &holder, days, made);
}

kv_status_t kvn_keygen_tenant(
    const char *folder, const char *cluster, uint32_t tenant, uint64_t days,
    struct kvn_keygen_made *made)
{
    const struct holder holder = {"tenant", tenant, "clientAuth"};
    return holder_make(folder, cluster, &holder, days, made);
}
