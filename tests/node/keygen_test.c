/* Goal: what keygen makes, nodes load; nothing is ever written over, keys are for their
 * owner alone, and half of a pair never stays. Method: the verb, and kvn_tls_load(). */
#include "base/fault.h"
#include "node/keygen.h"
#include "node/verbs.h"
#include "tests/node/cert_kit.h"
#include "tests/node/node_kit.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct cert_kit kit; /* only its folder: everything in it is the verb's */
static struct node_kit_result result;

static int setup(void **state)
{
    (void)state;
    snprintf(kit.folder, sizeof(kit.folder), "/tmp/kvrail-keygen-XXXXXX");
    assert_non_null(mkdtemp(kit.folder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cert_kit_remove(&kit);
    return 0;
}

#define RUN(...)                                                                       \
    node_kit_run(                                                                      \
        kvn_verb_keygen, (const char *const[]){"keygen", __VA_ARGS__, NULL}, &result)

static void expect_ok(void)
{
    if (result.exit_code != KVN_EXIT_OK) {
        fail_msg("%s", result.err);
    }
    assert_string_equal(result.err, "");
}

static void expect_refused(const char *text)
{
    assert_int_equal(result.exit_code, KVN_EXIT_USAGE);
    assert_string_equal(result.out, "");
    if (strstr(result.err, text) == NULL) {
        fail_msg("'%s' is not in '%s'", text, result.err);
    }
    assert_ptr_equal(strchr(result.err, '\n'), result.err + strlen(result.err) - 1);
}

static unsigned mode_of(const char *name)
{
    struct stat info;
    assert_int_equal(stat(cert_kit_path(&kit, name), &info), 0);
    return info.st_mode & 07777;
}

static bool is_there(const char *name)
{
    return access(cert_kit_path(&kit, name), F_OK) == 0;
}

/* Two keys differ, are 64 hex digits for their owner alone, and load. */
static void keygen__makes_secrets(void **state)
{
    char first[80] = "", second[80] = "";
    (void)state;
    RUN("--psk", cert_kit_path(&kit, "psk"));
    expect_ok();
    assert_non_null(strstr(result.out, "psk: pre-shared key, fingerprint "));
    RUN("--secret", cert_kit_path(&kit, "secret"));
    expect_ok();
    assert_non_null(strstr(result.out, "secret: tenant secret, fingerprint "));
    assert_int_equal(mode_of("psk"), 0600);
    assert_int_equal(mode_of("secret"), 0600);
    FILE *file = fopen(cert_kit_path(&kit, "psk"), "r");
    assert_int_equal(fread(first, 1, sizeof(first), file), 65);
    fclose(file);
    file = fopen(cert_kit_path(&kit, "secret"), "r");
    assert_int_equal(fread(second, 1, sizeof(second), file), 65);
    fclose(file);
    assert_int_equal(strspn(first, "0123456789abcdef"), 64);
    assert_int_equal(first[64], '\n');
    assert_string_not_equal(first, second);
    assert_null(strstr(result.out, second)); /* never printed */
    kvn_tls_free(cert_kit_load_psk(&kit, 1));
}

/* An authority and two nodes: they load, and the JSON says what openssl would. */
static void keygen__makes_certificates(void **state)
{
    (void)state;
    RUN("--ca", kit.folder, "--days", "40");
    expect_ok();
    assert_int_equal(mode_of("ca.pem"), 0644);
    assert_int_equal(mode_of("ca.key"), 0600);
    RUN("--ca", kit.folder, "--cluster", "c1", "--node", "1");
    expect_ok();
    RUN("--ca", kit.folder, "--cluster", "c1", "--node", "4294967295", "--days", "7",
        "--json");
    expect_ok();
    assert_int_equal(mode_of("node-4294967295.key"), 0600);
    json_t *json = json_loads(result.out, 0, NULL);
    assert_non_null(json);
    json_t *files = json_object_get(json, "files");
    assert_int_equal(json_array_size(files), 2);
    json_t *cert = json_array_get(files, 0);
    assert_string_equal(
        json_string_value(json_object_get(cert, "kind")), "certificate");
    assert_int_equal(
        strlen(json_string_value(json_object_get(cert, "fingerprint"))), 64);
    assert_int_equal(
        strlen(json_string_value(json_object_get(cert, "valid_until"))), 20);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(files, 1), "kind")), "key");
    json_decref(json);

    kvn_tls_t *tls = cert_kit_load(&kit, 1); /* cut to what the authority has left */
    assert_in_range(kvn_tls_expires_s(tls), 39 * 86400, 40 * 86400);
    kvn_tls_free(tls);
    tls = cert_kit_load(&kit, UINT32_MAX);
    assert_in_range(kvn_tls_expires_s(tls), 7 * 86400 - 100, 7 * 86400);
    kvn_tls_free(tls);
}

/* A pair for clients of a tenant: theirs to load, and no node's. */
static void keygen__makes_certificates_of_tenants(void **state)
{
    (void)state;
    RUN("--ca", kit.folder);
    expect_ok();
    RUN("--ca", kit.folder, "--cluster", "c1", "--tenant", "7", "--days", "9");
    expect_ok();
    assert_non_null(strstr(result.out, "tenant-7.pem: certificate"));
    assert_int_equal(mode_of("tenant-7.pem"), 0644);
    assert_int_equal(mode_of("tenant-7.key"), 0600);
    struct kvn_tls_config config = {
        .cluster = "c1",
        .client = true,
        .tenant = 7,
        .ca = cert_kit_path(&kit, "ca.pem"),
        .cert = cert_kit_path(&kit, "tenant-7.pem"),
        .key = cert_kit_path(&kit, "tenant-7.key"),
    };
    char line[512];
    kvn_tls_t *tls = NULL;
    assert_int_equal(kvn_tls_load(&config, &tls, line, sizeof(line)), KV_OK);
    assert_in_range(kvn_tls_expires_s(tls), 9 * 86400 - 100, 9 * 86400);
    kvn_tls_free(tls);
    config.client = false;
    config.node = 7;
    assert_int_equal(kvn_tls_load(&config, &tls, line, sizeof(line)), KV_ERR_CONFIG);
}

/* What is there stays as it is, to the byte; also when only one of a pair is there. */
static void keygen__never_writes_over(void **state)
{
    struct stat before, after;
    (void)state;
    RUN("--psk", cert_kit_path(&kit, "psk"));
    expect_ok();
    assert_int_equal(stat(cert_kit_path(&kit, "psk"), &before), 0);
    RUN("--psk", cert_kit_path(&kit, "psk"));
    expect_refused("psk: is there: never written over");
    RUN("--secret", cert_kit_path(&kit, "psk"));
    expect_refused("is there");
    assert_int_equal(stat(cert_kit_path(&kit, "psk"), &after), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));

    cert_kit_write(cert_kit_path(&kit, "ca.key"), "mine", 4, 0600);
    RUN("--ca", kit.folder);
    expect_refused("ca.key: is there: never written over");
    assert_false(is_there("ca.pem"));
    assert_int_equal(stat(cert_kit_path(&kit, "ca.key"), &after), 0);
    assert_int_equal(after.st_size, 4);
}

/* One line each, with the field, the limit and the value. */
static void keygen__refuses_and_says_why(void **state)
{
    char endless[80];
    const char *ca = kit.folder;
    (void)state;
    memset(endless, 'x', sizeof(endless) - 1);
    endless[sizeof(endless) - 1] = '\0';
    RUN("--json");
    expect_refused("one of --psk, --secret and --ca is needed");
    RUN("--psk", "a", "--ca", "b");
    expect_refused("one of --psk, --secret and --ca is needed");
    RUN("--psk", "a", "--psk", "b");
    expect_refused("--psk: is given twice");
    RUN("--psk", "a", "--days", "3");
    expect_refused("--days: goes with --ca");
    RUN("--psk", "");
    expect_refused("the file's name is empty");
    RUN("--ca", "");
    expect_refused("--ca: the folder's name is empty");
    RUN("--ca", ca, "--node", "3");
    expect_refused("--cluster and --node go together");
    RUN("--ca", ca, "--tenant", "3");
    expect_refused("--cluster and --tenant go together");
    RUN("--ca", ca, "--cluster", "c1", "--tenant", "3", "--node", "3");
    expect_refused("--node and --tenant: a certificate is of one");
    RUN("--psk", "a", "--cluster", "c1", "--tenant", "3");
    expect_refused("--tenant: goes with --ca");
    RUN("--ca", ca, "--cluster", "c1", "--tenant", "4294967296");
    expect_refused("--tenant: 4294967296 is above the maximum 4294967295");
    RUN("--ca", ca, "--cluster", "c1", "--node", "0");
    expect_refused("--node: 0 is below the minimum 1");
    RUN("--ca", ca, "--cluster", "c1", "--node", "4294967296");
    expect_refused("--node: 4294967296 is above the maximum 4294967295");
    RUN("--ca", ca, "--days", "36501");
    expect_refused("--days: 36501 is above the maximum 36500");
    RUN("--ca", ca, "--cluster", "c1", "--node", "3");
    expect_refused("ca.pem: No such file or directory: kvrail keygen --ca makes");
    RUN("--psk", "/none/at/all");
    assert_int_equal(result.exit_code, KVN_EXIT_FAILED);
    assert_non_null(strstr(result.err, "/none/at/all: No such file"));
    RUN("--ac", ca);
    expect_refused("no such option");

    RUN("--ca", ca, "--days", "10");
    expect_ok();
    RUN("--ca", ca, "--cluster", endless, "--node", "3");
    expect_refused("--cluster: has 79 characters, the limits are 1 and 64");
    RUN("--ca", ca, "--cluster", "a,URI:kvrail:b:node:1", "--node", "3");
    expect_refused("has characters other than letters, digits, . _ -");
    RUN("--ca", ca, "--cluster", "c1", "--node", "3", "--days", "11");
    expect_refused("--days: 11 are more than the 10 that the authority has left");
    assert_int_equal(chmod(cert_kit_path(&kit, "ca.key"), 0640), 0);
    RUN("--ca", ca, "--cluster", "c1", "--node", "3");
    expect_refused("ca.key: has mode 0640, the limit is 0600");
    cert_kit_write(cert_kit_path(&kit, "ca.key"), "no key", 6, 0600);
    RUN("--ca", ca, "--cluster", "c1", "--node", "3");
    expect_refused("ca.key: is not in PEM, without a passphrase");
    assert_false(is_there("node-3.pem"));
}

/* A certificate of a node does not sign for others, nor with another's key. */
static void keygen__signs_with_an_authority_alone(void **state)
{
    struct kvn_keygen_made made;
    (void)state;
    assert_int_equal(kvn_keygen_authority(kit.folder, 10, &made), KV_OK);
    assert_int_equal(kvn_keygen_node(kit.folder, "c1", 1, 0, &made), KV_OK);
    assert_int_equal(
        rename(cert_kit_path(&kit, "node-1.pem"), cert_kit_path(&kit, "ca.pem")), 0);
    assert_int_equal(kvn_keygen_node(kit.folder, "c1", 2, 0, &made), KV_ERR_CONFIG);
    assert_non_null(strstr(made.line, "does not fit"));
    assert_int_equal(
        rename(cert_kit_path(&kit, "node-1.key"), cert_kit_path(&kit, "ca.key")), 0);
    assert_int_equal(kvn_keygen_node(kit.folder, "c1", 2, 0, &made), KV_ERR_CONFIG);
    assert_non_null(strstr(made.line, "is no authority"));
}

/* More fallible calls than any of them makes: what fails by itself ends the loops. */
enum { CALLS_MAX = 100 };

/* The n-th fallible call fails: one line, and no file is left, neither half a pair. */
static void keygen__survives_every_fault(void **state)
{
    struct kvn_keygen_made made;
    (void)state;
    kv_status_t status = KV_ERR_IO;
    for (unsigned n = 1; status != KV_OK; n++) {
        assert_in_range(n, 1, CALLS_MAX);
        kv_fault_after(n);
        status = kvn_keygen_secret(cert_kit_path(&kit, "psk"), "key", &made);
        kv_fault_after(0);
        assert_int_equal(is_there("psk"), status == KV_OK);
        assert_true((status == KV_OK) == (made.line[0] == '\0'));
    }
    status = KV_ERR_IO;
    for (unsigned n = 1; status != KV_OK; n++) {
        assert_in_range(n, 1, CALLS_MAX);
        kv_fault_after(n);
        status = kvn_keygen_authority(kit.folder, 10, &made);
        kv_fault_after(0);
        assert_int_equal(is_there("ca.pem"), status == KV_OK);
        assert_int_equal(is_there("ca.key"), status == KV_OK);
    }
    status = KV_ERR_IO;
    for (unsigned n = 1; status != KV_OK; n++) {
        assert_in_range(n, 1, CALLS_MAX);
        kv_fault_after(n);
        status = kvn_keygen_node(kit.folder, "c1", 5, 0, &made);
        kv_fault_after(0);
        assert_int_equal(is_there("node-5.pem"), status == KV_OK);
        assert_int_equal(is_there("node-5.key"), status == KV_OK);
        assert_true((status == KV_OK) == (made.line[0] == '\0'));
    }
    kvn_tls_free(cert_kit_load(&kit, 5));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(keygen__makes_secrets),
        TEST(keygen__makes_certificates),
        TEST(keygen__makes_certificates_of_tenants),
        TEST(keygen__never_writes_over),
        TEST(keygen__refuses_and_says_why),
        TEST(keygen__signs_with_an_authority_alone),
        TEST(keygen__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
