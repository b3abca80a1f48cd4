#include "tests/node/cert_kit.h"

#include "node/keygen.h"

#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

const char *cert_kit_path(const struct cert_kit *kit, const char *name)
{
    static char paths[32][160];
    static unsigned next;
    char *path = paths[next++ % 32];
    snprintf(path, sizeof(paths[0]), "%s/%s", kit->folder, name);
    return path;
}

void cert_kit_make(struct cert_kit *kit)
{
    struct kvn_keygen_made made;
    snprintf(kit->folder, sizeof(kit->folder), "/tmp/kvrail-cert-XXXXXX");
    assert_non_null(mkdtemp(kit->folder));
    assert_int_equal(kvn_keygen_authority(kit->folder, 30, &made), KV_OK);
    assert_int_equal(
        kvn_keygen_secret(cert_kit_path(kit, "psk"), "pre-shared key", &made), KV_OK);
}

void cert_kit_remove(struct cert_kit *kit)
{
    DIR *dir = opendir(kit->folder);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (entry->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(dir), entry->d_name, 0), 0);
        }
    }
    closedir(dir);
    assert_int_equal(rmdir(kit->folder), 0);
}

void cert_kit_write(const char *path, const void *bytes, size_t len, unsigned mode)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static FILE *open_pem(
    const struct cert_kit *kit, const char *stem, const char *kind, const char *mode)
{
    char name[64];
    snprintf(name, sizeof(name), "%s.%s", stem, kind);
    FILE *file = fopen(cert_kit_path(kit, name), mode);
    assert_non_null(file);
    return file;
}

void cert_kit_sign(
    const struct cert_kit *kit, const char *name, const struct cert_kit_spec *spec)
{
    FILE *file = open_pem(kit, "ca", "pem", "r");
    X509 *issuer = PEM_read_X509(file, NULL, NULL, NULL);
    fclose(file);
    file = open_pem(kit, "ca", "key", "r");
    EVP_PKEY *issuer_key = PEM_read_PrivateKey(file, NULL, NULL, NULL);
    fclose(file);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_true(issuer != NULL && issuer_key != NULL && key != NULL && cert != NULL);
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 7);
    ASN1_TIME_set(X509_getm_notBefore(cert), time(NULL) + spec->from_s);
    ASN1_TIME_set(X509_getm_notAfter(cert), time(NULL) + spec->until_s);
    X509_set_issuer_name(cert, X509_get_subject_name(issuer));
    X509_set_pubkey(cert, key);
    if (spec->names != NULL) {
        extend(cert, issuer, NID_subject_alt_name, spec->names);
    }
    if (spec->use != NULL) {
        extend(cert, issuer, NID_ext_key_usage, spec->use);
    }
    assert_true(X509_sign(cert, issuer_key, EVP_sha256()) > 0);

    file = open_pem(kit, name, "pem", "w");
    assert_int_equal(PEM_write_X509(file, cert), 1);
    fclose(file);
    file = open_pem(kit, name, "key", "w");
    assert_int_equal(fchmod(fileno(file), 0600), 0);
    assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    X509_free(cert);
    X509_free(issuer);
    EVP_PKEY_free(key);
    EVP_PKEY_free(issuer_key);
}

void cert_kit_node(const struct cert_kit *kit, const char *cluster, uint32_t node)
{
    struct kvn_keygen_made made;
    assert_int_equal(kvn_keygen_node(kit->folder, cluster, node, 0, &made), KV_OK);
}

static kvn_tls_t *load(const struct kvn_tls_config *config)
{
    char line[512];
    kvn_tls_t *tls = NULL;
    if (kvn_tls_load(config, &tls, line, sizeof(line)) != KV_OK) {
        fail_msg("%s", line);
    }
    assert_string_equal(line, "");
    return tls;
}

kvn_tls_t *cert_kit_load_psk(const struct cert_kit *kit, uint32_t node)
{
    const struct kvn_tls_config config = {
        .cluster = "c1", .node = node, .psk = cert_kit_path(kit, "psk")};
    return load(&config);
}

kvn_tls_t *cert_kit_load(const struct cert_kit *kit, uint32_t node)
{
    char cert[32], key[32];
    snprintf(cert, sizeof(cert), "node-%u.pem", node);
    snprintf(key, sizeof(key), "node-%u.key", node);
    const struct kvn_tls_config config = {
        .cluster = "c1",
        .node = node,
        .ca = cert_kit_path(kit, "ca.pem"),
        .cert = cert_kit_path(kit, cert),
        .key = cert_kit_path(kit, key),
    };
    return load(&config);
}
