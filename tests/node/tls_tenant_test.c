/* Goal: a client of a tenant is known by that tenant's credential and by nothing else;
 * it is no node, no node is a client, and a stranger does not learn which tenants there
 * are. Method: two sessions in one process, a wire between them by hand. */
#include "base/fault.h"
#include "base/mem.h"
#include "node/keygen.h"
#include "tests/node/cert_kit.h"
#include "tests/node/tls_kit.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NODE = 2, SEVEN = 7, NINE = 9 };

static struct cert_kit kit;
static char line[512];

static void make_psk(const char *name)
{
    struct kvn_keygen_made made;
    assert_int_equal(
        kvn_keygen_secret(cert_kit_path(&kit, name), "pre-shared key", &made), KV_OK);
}

static int setup(void **state)
{
    struct kvn_keygen_made made;
    (void)state;
    cert_kit_make(&kit);
    cert_kit_node(&kit, "c1", 1);
    cert_kit_node(&kit, "c1", NODE);
    assert_int_equal(kvn_keygen_tenant(kit.folder, "c1", SEVEN, 0, &made), KV_OK);
    assert_int_equal(kvn_keygen_tenant(kit.folder, "c1", 0, 0, &made), KV_OK);
    make_psk("seven.psk");
    make_psk("nine.psk");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cert_kit_remove(&kit);
    return 0;
}

/* ---- who is who ------------------------------------------------------------------ */

static struct kvn_tls_config with_certs(const char *stem)
{
    char cert[64], key[64];
    snprintf(cert, sizeof(cert), "%s.pem", stem);
    snprintf(key, sizeof(key), "%s.key", stem);
    return (struct kvn_tls_config){
        .cluster = "c1",
        .ca = cert_kit_path(&kit, "ca.pem"),
        .cert = cert_kit_path(&kit, cert),
        .key = cert_kit_path(&kit, key),
    };
}

static kvn_tls_t *load(const struct kvn_tls_config *config)
{
    kvn_tls_t *tls = NULL;
    if (kvn_tls_load(config, &tls, line, sizeof(line)) != KV_OK) {
        fail_msg("%s", line);
    }
    return tls;
}

static void expect_bad(const struct kvn_tls_config *config, const char *text)
{
    kvn_tls_t *tls = NULL;
    assert_int_equal(kvn_tls_load(config, &tls, line, sizeof(line)), KV_ERR_CONFIG);
    assert_null(tls);
    if (strstr(line, text) == NULL) {
        fail_msg("'%s' is not in '%s'", text, line);
    }
}

/* Node 2, of either kind; takes clients of tenants 7 and 9 by key where `clients`. */
static kvn_tls_t *load_node(bool certs, bool clients)
{
    const struct kvn_tls_tenant tenants[] = {
        {SEVEN, cert_kit_path(&kit, "seven.psk")},
        {NINE, cert_kit_path(&kit, "nine.psk")},
    };
    struct kvn_tls_config config = {
        .cluster = "c1", .psk = cert_kit_path(&kit, "psk")};
    if (certs) {
        config = with_certs("node-2");
    }
    config.node = NODE;
    config.clients = clients;
    config.tenants = tenants;
    config.nr_tenants = clients ? 2 : 0;
    return load(&config);
}

static kvn_tls_t *load_client(uint32_t tenant, const char *psk)
{
    char stem[64];
    snprintf(stem, sizeof(stem), "tenant-%u", tenant);
    struct kvn_tls_config config = {.cluster = "c1"};
    if (psk != NULL) {
        config.psk = cert_kit_path(&kit, psk);
    } else {
        config = with_certs(stem);
    }
    config.client = true;
    config.tenant = tenant;
    return load(&config);
}

static void expect_tenant(struct tls_wire *wire, uint32_t tenant)
{
    uint32_t found = UINT32_MAX;
    assert_true(kvn_tls_tenant(wire->b, &found));
    assert_int_equal(found, tenant);
    assert_int_equal(kvn_tls_peer(wire->b), KVN_TLS_NO_NODE);
    assert_false(kvn_tls_tenant(wire->a, &found)); /* who was dialled is a node */
    tls_wire_expect_linked(wire);
}

/* Each kind of credential of a tenant, at nodes of each kind that know it: the node
 * knows whose client it is, and takes it for no node. */
static void tenants__come_by_their_own_credential(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *node = load_node(certs, true);
        kvn_tls_t *seven = load_client(SEVEN, "seven.psk");
        kvn_tls_t *nine = load_client(NINE, "nine.psk");
        struct tls_wire wire = {.a_tls = seven, .b_tls = node};
        tls_wire_meet(&wire, KVN_TLS_NO_NODE);
        expect_tenant(&wire, SEVEN);
        tls_wire_part(&wire);
        wire.a_tls = nine;
        tls_wire_meet(&wire, KVN_TLS_NO_NODE);
        expect_tenant(&wire, NINE);
        tls_wire_part(&wire);
        kvn_tls_free(seven);
        kvn_tls_free(nine);
        for (uint32_t i = 0; certs && i < 2; i++) { /* number 0 is a tenant's, too */
            kvn_tls_t *client = load_client(i * SEVEN, NULL);
            wire.a_tls = client;
            tls_wire_meet(&wire, KVN_TLS_NO_NODE);
            expect_tenant(&wire, i * SEVEN);
            assert_int_equal(kvn_tls_peer(wire.a), NODE);
            tls_wire_part(&wire);
            tls_wire_meet(&wire, NODE); /* the one that it wants, by number */
            expect_tenant(&wire, i * SEVEN);
            tls_wire_part(&wire);
            tls_wire_meet(&wire, 3);
            tls_expect_reason(wire.b, "wants 'node-3.kvrail'");
            tls_wire_part(&wire);
            kvn_tls_free(client);
        }
        kvn_tls_free(node);
    }
}

/* Nodes among themselves are as they were where clients are taken. */
static void nodes__are_nodes_where_clients_are_taken(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *one = certs ? cert_kit_load(&kit, 1) : cert_kit_load_psk(&kit, 1);
        kvn_tls_t *two = load_node(certs, true);
        struct tls_wire wire = {.a_tls = one, .b_tls = two};
        uint32_t tenant;
        tls_wire_meet(&wire, NODE);
        assert_int_equal(kvn_tls_peer(wire.b), 1);
        assert_false(kvn_tls_tenant(wire.b, &tenant));
        tls_wire_expect_linked(&wire);
        tls_wire_part(&wire);
        kvn_tls_free(one);
        kvn_tls_free(two);
    }
}

/* ---- who is not ------------------------------------------------------------------ */

static void expect_stranger(struct tls_wire *wire)
{
    uint32_t tenant;
    uint8_t bytes[16];
    size_t nr = 0;
    assert_int_equal(wire->b_status, KV_ERR_DENIED);
    assert_false(kvn_tls_ready(wire->b));
    assert_false(kvn_tls_tenant(wire->b, &tenant));
    assert_int_equal(kvn_tls_peer(wire->b), KVN_TLS_NO_NODE);
    assert_int_equal(kvn_tls_read(wire->b, bytes, sizeof(bytes), &nr), KV_ERR_DENIED);
    assert_int_equal(kvn_tls_write(wire->b, bytes, 1), KV_ERR_DENIED);
}

/* The switch is off: with whatever credential, nobody comes. */
static void tenants__are_refused_unless_taken(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *node = load_node(certs, false);
        for (int by_cert = 0; by_cert < 2; by_cert++) {
            kvn_tls_t *client = load_client(SEVEN, by_cert ? NULL : "seven.psk");
            struct tls_wire wire = {.a_tls = client, .b_tls = node};
            tls_wire_meet(&wire, KVN_TLS_NO_NODE);
            expect_stranger(&wire);
            if (certs == by_cert) {
                tls_expect_reason(
                    wire.b, "a client of tenant 7, and no clients are taken here");
            }
            tls_wire_part(&wire);
            kvn_tls_free(client);
        }
        kvn_tls_free(node);
    }
}

/* The cluster's key makes nobody a client, one tenant's key no client of another, and
 * no tenant's key a node. A tenant that has no key here is told what a wrong key is
 * told: which there are is not to be found out. */
static void tenants__wrong_keys_are_all_the_same(void **state)
{
    static const struct {
        uint32_t tenant; /* 0: as node 1 */
        const char *psk;
    } bad[] = {{SEVEN, "psk"}, {SEVEN, "nine.psk"}, {NINE, "seven.psk"},
               {8, "psk"},     {8, "seven.psk"},    {0, "seven.psk"}};
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *node = load_node(certs, true);
        char said[KVN_TLS_REASON_MAX] = "";
        uint64_t nr_bytes = 0;
        for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
            const struct kvn_tls_config as_node = {
                .cluster = "c1", .node = 1, .psk = cert_kit_path(&kit, bad[i].psk)};
            kvn_tls_t *client = bad[i].tenant == 0
                                    ? load(&as_node)
                                    : load_client(bad[i].tenant, bad[i].psk);
            struct tls_wire wire = {.a_tls = client, .b_tls = node};
            tls_wire_meet(&wire, KVN_TLS_NO_NODE);
            expect_stranger(&wire);
            tls_expect_reason(
                wire.b, certs && bad[i].tenant == 0
                            ? "the peer has a pre-shared key, we have certificates"
                            : "another pre-shared key");
            if (bad[i].tenant != 0) { /* to the letter, and to the byte */
                assert_true(i == 0 || strcmp(said, kvn_tls_reason(wire.a)) == 0);
                assert_true(i == 0 || nr_bytes == wire.nr_bytes);
                snprintf(said, sizeof(said), "%s", kvn_tls_reason(wire.a));
                nr_bytes = wire.nr_bytes;
            }
            tls_wire_part(&wire);
            kvn_tls_free(client);
        }
        kvn_tls_free(node);
    }
}

/* A server of OpenSSL's own, which has what no node would load: a certificate of a
 * tenant, for any purpose. */
static void meet_impostor(kvn_tls_session_t *session, const char *stem)
{
    char cert[64], key[64];
    uint8_t bytes[16384];
    snprintf(cert, sizeof(cert), "%s.pem", stem);
    snprintf(key, sizeof(key), "%s.key", stem);
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    assert_int_equal(
        SSL_CTX_use_certificate_file(
            ctx, cert_kit_path(&kit, cert), SSL_FILETYPE_PEM),
        1);
    assert_int_equal(
        SSL_CTX_use_PrivateKey_file(ctx, cert_kit_path(&kit, key), SSL_FILETYPE_PEM),
        1);
    SSL *ssl = SSL_new(ctx);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    SSL_set_bio(ssl, in, out);
    SSL_set_accept_state(ssl);
    for (unsigned i = 0; i < 4; i++) {
        const size_t len = kvn_tls_out(session, bytes, sizeof(bytes));
        assert_true(len == 0 || BIO_write(in, bytes, (int)len) == (int)len);
        (void)SSL_do_handshake(ssl);
        const int n = BIO_read(out, bytes, sizeof(bytes));
        if (n > 0) {
            (void)kvn_tls_in(session, bytes, (size_t)n);
        }
    }
    ERR_clear_error();
    SSL_free(ssl);
    SSL_CTX_free(ctx);
}

/* A client that was led to another client, and a node that was: both see that it is no
 * node, whatever its certificate may be used for. */
static void dialled__is_a_node_and_no_client(void **state)
{
    static const struct cert_kit_spec any = {
        .names = "URI:kvrail:c1:tenant:9", .from_s = -60, .until_s = 3600};
    (void)state;
    cert_kit_sign(&kit, "odd", &any);
    for (int as_node = 0; as_node < 2; as_node++) {
        kvn_tls_t *tls =
            as_node ? cert_kit_load(&kit, NODE) : load_client(SEVEN, NULL);
        kvn_tls_session_t *session = NULL;
        assert_int_equal(
            kvn_tls_open(tls, true, as_node ? 9 : KVN_TLS_NO_NODE, &session), KV_OK);
        meet_impostor(session, "odd");
        tls_expect_reason(session, "a client of tenant 9 answers");
        kvn_tls_close(session);
        /* and one that keygen made is not for servers at all */
        assert_int_equal(
            kvn_tls_open(tls, true, KVN_TLS_NO_NODE, &session), KV_OK);
        meet_impostor(session, "tenant-7");
        tls_expect_reason(session, "the peer's certificate");
        kvn_tls_close(session);
        kvn_tls_free(tls);
    }
}

/* ---- files ----------------------------------------------------------------------- */

/* What cannot be is said at load, with the file and the fix. */
static void load__wrong_credentials_are_named(void **state)
{
    (void)state;
    struct kvn_tls_config config = with_certs("node-1");
    config.client = true;
    config.tenant = 1;
    expect_bad(&config, "is of node 1, this is tenant 1");
    config = with_certs("tenant-7");
    config.node = SEVEN;
    expect_bad(&config, "is of tenant 7, this is node 7");
    config = with_certs("tenant-7");
    config.client = true;
    config.tenant = NINE;
    expect_bad(&config, "is of tenant 7, this is tenant 9");

    struct kvn_tls_tenant tenants[KVN_TLS_TENANTS_MAX + 1] = {
        {SEVEN, cert_kit_path(&kit, "psk")}};
    config = (struct kvn_tls_config){
        .cluster = "c1",
        .node = NODE,
        .psk = cert_kit_path(&kit, "psk"),
        .clients = true,
        .tenants = tenants,
        .nr_tenants = 1,
    };
    expect_bad(&config, "is another's too");
    tenants[0].psk = cert_kit_path(&kit, "seven.psk");
    tenants[1] = (struct kvn_tls_tenant){NINE, cert_kit_path(&kit, "seven.psk")};
    config.nr_tenants = 2;
    expect_bad(&config, "is another's too");
    tenants[1] = (struct kvn_tls_tenant){SEVEN, cert_kit_path(&kit, "nine.psk")};
    expect_bad(&config, "pre-shared key of tenant 7: is given twice");
    tenants[1] = (struct kvn_tls_tenant){NINE, cert_kit_path(&kit, "none.psk")};
    expect_bad(&config, "none.psk: is missing");
    tenants[1].psk = cert_kit_path(&kit, "ca.key");
    expect_bad(&config, "ca.key: is not 64 hex digits");
    config.nr_tenants = KVN_TLS_TENANTS_MAX + 1;
    expect_bad(&config, "pre-shared keys of 65 tenants, the limit is 64");
}

/* The n-th fallible call of loading and of meeting fails: nothing is left, nobody is
 * taken for somebody. */
static void load__survives_every_fault(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        bool done = false;
        unsigned n = 0;
        while (!done) {
            const struct kvn_tls_tenant tenants[] = {
                {SEVEN, cert_kit_path(&kit, "seven.psk")}};
            struct kvn_tls_config config = {
                .cluster = "c1", .psk = cert_kit_path(&kit, "psk")};
            if (certs) {
                config = with_certs("node-2");
            }
            config.node = NODE;
            config.clients = true;
            config.tenants = tenants;
            config.nr_tenants = 1;
            kvn_tls_t *client = load_client(SEVEN, "seven.psk"), *tls = NULL;
            const int64_t live = kv_mem_live();
            struct tls_wire wire = {0};
            uint32_t tenant;
            kv_fault_after(++n);
            const kv_status_t status = kvn_tls_load(&config, &tls, line, sizeof(line));
            assert_true((status == KV_OK) == (tls != NULL));
            if (tls != NULL
                && kvn_tls_open(client, true, KVN_TLS_NO_NODE, &wire.a) == KV_OK
                && kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &wire.b) == KV_OK) {
                tls_wire_settle(&wire);
                done = kvn_tls_tenant(wire.b, &tenant) && kvn_tls_ready(wire.a);
                assert_true(!done || tenant == SEVEN);
            }
            done = done && !kv_fault_now();
            kv_fault_after(0);
            tls_wire_part(&wire);
            kvn_tls_free(tls);
            assert_int_equal(kv_mem_live(), live);
            kvn_tls_free(client);
            assert_true(n < 200);
        }
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tenants__come_by_their_own_credential),
        cmocka_unit_test(nodes__are_nodes_where_clients_are_taken),
        cmocka_unit_test(tenants__are_refused_unless_taken),
        cmocka_unit_test(tenants__wrong_keys_are_all_the_same),
        cmocka_unit_test(dialled__is_a_node_and_no_client),
        cmocka_unit_test(load__wrong_credentials_are_named),
        cmocka_unit_test(load__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
