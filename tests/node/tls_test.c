/* Goal: only nodes of the cluster ever exchange a byte, each side knows whom it speaks
 * to, and each way to be refused says why in one line. Method: two sessions in one
 * process with their bytes carried, cut, flipped and swapped by hand. */
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/tls.h"
#include "tests/node/cert_kit.h"
#include "tests/node/tls_kit.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { HOUR_S = 3600, DAY_S = 86400 };

static struct cert_kit kit, foreign;
static char line[512];

static int setup(void **state)
{
    (void)state;
    cert_kit_make(&kit);
    cert_kit_make(&foreign);
    for (uint32_t node = 1; node <= 3; node++) {
        cert_kit_node(&kit, "c1", node);
    }
    cert_kit_node(&foreign, "c1", 1);
    cert_kit_node(&foreign, "c1", 2);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    cert_kit_remove(&kit);
    cert_kit_remove(&foreign);
    return 0;
}

/* ---- sessions that succeed ------------------------------------------------------- */

/* Both kinds of credential: both sides know each other, and bytes go through. */
static void tls__links_with_either_credential(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *one = certs ? cert_kit_load(&kit, 1) : cert_kit_load_psk(&kit, 1);
        kvn_tls_t *two = certs ? cert_kit_load(&kit, 2) : cert_kit_load_psk(&kit, 2);
        struct tls_wire wire = {.a_tls = one, .b_tls = two};
        tls_wire_meet(&wire, 2);
        assert_int_equal(kvn_tls_peer(wire.a), 2);
        assert_int_equal(kvn_tls_peer(wire.b), 1);
        tls_wire_expect_linked(&wire);
        tls_wire_part(&wire);
        if (certs) {
            assert_in_range(kvn_tls_expires_s(one), 29 * DAY_S, 30 * DAY_S);
            tls_wire_meet(&wire, KVN_TLS_NO_NODE); /* whoever comes */
            assert_int_equal(kvn_tls_peer(wire.a), 2);
            tls_wire_part(&wire);
        } else {
            assert_true(kvn_tls_expires_s(one) == INT64_MAX);
        }
        kvn_tls_free(one);
        kvn_tls_free(two);
    }
}

/* Bytes of any number go through whole, however the wire cuts them. */
static void tls__carries_many_bytes_in_small_pieces(void **state)
{
    enum { BYTES = 200000 };
    uint8_t *sent = malloc(BYTES), *got = malloc(BYTES);
    kvn_tls_t *one = cert_kit_load_psk(&kit, 1), *two = cert_kit_load_psk(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    (void)state;
    tls_wire_meet(&wire, 2);
    assert_int_equal(RAND_bytes(sent, BYTES), 1);
    assert_int_equal(kvn_tls_write(wire.a, sent, BYTES), KV_OK);
    assert_int_equal(kvn_tls_write(wire.a, sent, 0), KV_OK);
    size_t have = 0, len, size = 1;
    uint8_t piece[997];
    while ((len = kvn_tls_out(wire.a, piece, size)) > 0) {
        assert_int_equal(kvn_tls_in(wire.b, piece, len), KV_OK);
        have += tls_read_all(wire.b, got + have, BYTES - have);
        size = size % sizeof(piece) + 1;
    }
    assert_int_equal(have, BYTES);
    assert_memory_equal(sent, got, BYTES);
    tls_wire_part(&wire);
    kvn_tls_free(one);
    kvn_tls_free(two);
    free(sent);
    free(got);
}

/* Half a record is told apart from none: a link times the one and not the other. */
static void tls__partial_says_half_a_record(void **state)
{
    kvn_tls_t *one = cert_kit_load_psk(&kit, 1), *two = cert_kit_load_psk(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    uint8_t bytes[64], clear[16];
    size_t nr;
    (void)state;
    tls_wire_meet(&wire, 2);
    assert_false(kvn_tls_partial(wire.b));
    assert_int_equal(kvn_tls_write(wire.a, (const uint8_t *)"hello", 5), KV_OK);
    const size_t len = kvn_tls_out(wire.a, bytes, sizeof(bytes));
    for (size_t i = 0; i < len; i++) {
        assert_int_equal(kvn_tls_in(wire.b, bytes + i, 1), KV_OK);
        assert_int_equal(kvn_tls_read(wire.b, clear, sizeof(clear), &nr), KV_OK);
        assert_int_equal(nr, i + 1 == len ? 5 : 0);
        assert_int_equal(kvn_tls_partial(wire.b), i + 1 < len);
    }
    tls_wire_part(&wire);
    kvn_tls_free(one);
    kvn_tls_free(two);
}

/* A goodbye is told apart from a cut wire. */
static void tls__goodbye_ends_reading(void **state)
{
    kvn_tls_t *one = cert_kit_load_psk(&kit, 1), *two = cert_kit_load_psk(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    uint8_t bytes[16];
    size_t nr;
    (void)state;
    tls_wire_meet(&wire, 2);
    assert_int_equal(kvn_tls_write(wire.a, (const uint8_t *)"last", 4), KV_OK);
    kvn_tls_bye(wire.a);
    tls_wire_settle(&wire);
    assert_int_equal(kvn_tls_read(wire.b, bytes, sizeof(bytes), &nr), KV_OK);
    assert_int_equal(nr, 4);
    assert_int_equal(kvn_tls_read(wire.b, bytes, sizeof(bytes), &nr), KV_ERR_LINK_LOST);
    assert_non_null(strstr(kvn_tls_reason(wire.b), "goodbye"));
    tls_wire_part(&wire);
    kvn_tls_free(one);
    kvn_tls_free(two);
}

/* Two links of the same nodes share nothing: no ticket, no session, is handed out. */
static void tls__never_resumes(void **state)
{
    kvn_tls_t *one = cert_kit_load(&kit, 1), *two = cert_kit_load(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    uint64_t bytes[2];
    (void)state;
    for (int i = 0; i < 2; i++) {
        tls_wire_meet(&wire, 2);
        assert_true(kvn_tls_ready(wire.b));
        uint8_t rest[16];
        assert_int_equal(kvn_tls_out(wire.b, rest, sizeof(rest)), 0);
        bytes[i] = wire.nr_bytes;
        tls_wire_part(&wire);
    }
    /* A resumed one has no certificates: half the bytes. Signatures vary by a few. */
    assert_in_range(bytes[1], bytes[0] - 16, bytes[0] + 16);
    kvn_tls_free(one);
    kvn_tls_free(two);
}

/* ---- sessions that are refused --------------------------------------------------- */

/* b refuses a for this reason; a may have thought that it was through, but hears of it
 * before it reads a byte. */
static void expect_refused_by_b(struct tls_wire *wire, const char *text)
{
    uint8_t bytes[16];
    size_t nr = 0;
    assert_int_equal(wire->b_status, KV_ERR_DENIED);
    tls_expect_reason(wire->b, text);
    assert_int_equal(kvn_tls_read(wire->b, bytes, sizeof(bytes), &nr), KV_ERR_DENIED);
    assert_int_equal(kvn_tls_write(wire->b, bytes, 1), KV_ERR_DENIED);
    assert_int_equal(kvn_tls_in(wire->b, bytes, 1), KV_ERR_DENIED);
    const kv_status_t status = kvn_tls_read(wire->a, bytes, sizeof(bytes), &nr);
    assert_true(status == KV_ERR_DENIED || status == KV_ERR_PROTOCOL);
    assert_non_null(strstr(kvn_tls_reason(wire->a), "the peer refused us"));
}

static void expect_refused_by_a(struct tls_wire *wire, const char *text)
{
    assert_int_equal(wire->a_status, KV_ERR_DENIED);
    tls_expect_reason(wire->a, text);
    assert_false(kvn_tls_ready(wire->b));
}

/* Another key, another cluster, our own id: the identity is right only with the key. */
static void tls__refuses_other_psk_and_other_names(void **state)
{
    kvn_tls_t *one = cert_kit_load_psk(&kit, 1), *two = cert_kit_load_psk(&kit, 2);
    kvn_tls_t *other = cert_kit_load_psk(&foreign, 1);
    struct kvn_tls_config config = {
        .cluster = "c2", .node = 1, .psk = cert_kit_path(&kit, "psk")};
    kvn_tls_t *elsewhere = NULL;
    (void)state;
    assert_int_equal(kvn_tls_load(&config, &elsewhere, line, sizeof(line)), KV_OK);

    struct tls_wire wire = {.a_tls = other, .b_tls = two};
    tls_wire_meet(&wire, 2);
    expect_refused_by_b(&wire, "another pre-shared key");
    tls_wire_part(&wire);
    wire.a_tls = elsewhere;
    tls_wire_meet(&wire, 2);
    expect_refused_by_b(&wire, "identity is of another cluster");
    tls_wire_part(&wire);
    /* Led back to ourselves, by a mirror of our own words. */
    wire.a_tls = two;
    tls_wire_meet(&wire, 1);
    expect_refused_by_b(&wire, "node 2, which we are");
    tls_wire_part(&wire);
    /* Led to node 2 while node 3 was dialled: all hold the key, and still. */
    wire.a_tls = one;
    tls_wire_meet(&wire, 3);
    expect_refused_by_b(&wire, "wants 'node-3.kvrail', this is 'node-2.kvrail'");
    tls_wire_part(&wire);
    kvn_tls_free(one);
    kvn_tls_free(two);
    kvn_tls_free(other);
    kvn_tls_free(elsewhere);
}

/* One of each kind never meet. */
static void tls__refuses_the_other_kind(void **state)
{
    kvn_tls_t *psk = cert_kit_load_psk(&kit, 1), *cert = cert_kit_load(&kit, 2);
    struct tls_wire wire = {.a_tls = psk, .b_tls = cert};
    (void)state;
    tls_wire_meet(&wire, 2);
    expect_refused_by_a(&wire, "the peer has a certificate, we have a pre-shared key");
    tls_wire_part(&wire);
    wire.a_tls = cert;
    wire.b_tls = psk;
    tls_wire_meet(&wire, 1);
    expect_refused_by_b(&wire, "offers no pre-shared key");
    tls_wire_part(&wire);
    kvn_tls_free(psk);
    kvn_tls_free(cert);
}

/* Another authority of the same making; both sides look. */
static void tls__refuses_another_authority(void **state)
{
    kvn_tls_t *ours = cert_kit_load(&kit, 2), *theirs = cert_kit_load(&foreign, 1);
    struct tls_wire wire = {.a_tls = theirs, .b_tls = ours};
    (void)state;
    tls_wire_meet(&wire, 2);
    expect_refused_by_a(&wire, "certificate is not of our authority");
    tls_wire_part(&wire);
    wire.a_tls = ours;
    wire.b_tls = theirs;
    tls_wire_meet(&wire, 1);
    expect_refused_by_a(&wire, "certificate is not of our authority");
    tls_wire_part(&wire);
    kvn_tls_free(ours);
    kvn_tls_free(theirs);
}

/* A peer of our own library's, with a certificate as odd as it may be: what
 * kvn_tls_load() would not load. It accepts anything of us. */
struct raw {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO *in, *out;
};

static void raw_open(struct raw *raw, bool dialling, const char *stem, int version)
{
    char name[64];
    raw->ctx = SSL_CTX_new(TLS_method());
    assert_non_null(raw->ctx);
    SSL_CTX_set_security_level(raw->ctx, 0);
    SSL_CTX_set_max_proto_version(raw->ctx, version);
    if (stem != NULL) {
        snprintf(name, sizeof(name), "%s.pem", stem);
        assert_int_equal(
            SSL_CTX_use_certificate_file(
                raw->ctx, cert_kit_path(&kit, name), SSL_FILETYPE_PEM),
            1);
        snprintf(name, sizeof(name), "%s.key", stem);
        assert_int_equal(
            SSL_CTX_use_PrivateKey_file(
                raw->ctx, cert_kit_path(&kit, name), SSL_FILETYPE_PEM),
            1);
    }
    raw->ssl = SSL_new(raw->ctx);
    raw->in = BIO_new(BIO_s_mem());
    raw->out = BIO_new(BIO_s_mem());
    SSL_set_bio(raw->ssl, raw->in, raw->out);
    if (dialling) {
        SSL_set_connect_state(raw->ssl);
    } else {
        SSL_set_accept_state(raw->ssl);
    }
}

static void raw_close(struct raw *raw)
{
    SSL_free(raw->ssl);
    SSL_CTX_free(raw->ctx);
    ERR_clear_error();
}

/* Until nobody has anything to say; what the session says at the end. */
static kv_status_t raw_settle(struct raw *raw, kvn_tls_session_t *session)
{
    uint8_t bytes[8192];
    kv_status_t status = KV_OK;
    for (int idle = 0; idle < 2;) {
        SSL_do_handshake(raw->ssl);
        const int len = BIO_read(raw->out, bytes, sizeof(bytes));
        if (len > 0 && status == KV_OK) {
            status = kvn_tls_in(session, bytes, (size_t)len);
        }
        const size_t back = kvn_tls_out(session, bytes, sizeof(bytes));
        if (back > 0) {
            BIO_write(raw->in, bytes, (int)back);
        }
        idle = len > 0 || back > 0 ? 0 : idle + 1;
    }
    return status;
}

/* Each thing that can be wrong with a peer's certificate, on both sides of the dial. */
static void tls__refuses_odd_certificates_and_says_why(void **state)
{
    static const struct {
        struct cert_kit_spec spec;
        const char *text;
    } rows[] = {
        {{"URI:kvrail:c1:node:3", -2 * DAY_S, -DAY_S, NULL}, "certificate expired 2"},
        {{"URI:kvrail:c1:node:3", DAY_S, 2 * DAY_S, NULL},
         "is not yet valid by this clock, but from 2"},
        {{"URI:kvrail:c1:node:2", -DAY_S, DAY_S, NULL}, "node 2, which we are"},
        {{NULL, -DAY_S, DAY_S, NULL}, "certificate names no node"},
        {{"DNS:node-3,URI:https://c1/3", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c1:node:", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c1:node:03", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c1:node:0", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c1:node:3x", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c1:node:4294967296", -DAY_S, DAY_S, NULL}, "names no node"},
        {{"URI:kvrail:c10:node:3", -DAY_S, DAY_S, NULL}, "of another cluster"},
        {{"URI:kvrail:c:node:3", -DAY_S, DAY_S, NULL}, "of another cluster"},
        {{"URI:kvrail:c1:node:3,URI:kvrail:c1:node:4", -DAY_S, DAY_S, NULL},
         "names several nodes"},
    };
    kvn_tls_t *tls = cert_kit_load(&kit, 2);
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cert_kit_sign(&kit, "odd", &rows[i].spec);
        for (int dialling = 0; dialling < 2; dialling++) {
            struct raw raw;
            kvn_tls_session_t *session;
            raw_open(&raw, !dialling, "odd", TLS1_3_VERSION);
            assert_int_equal(
                kvn_tls_open(tls, dialling, dialling ? 3 : KVN_TLS_NO_NODE, &session),
                KV_OK);
            assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
            tls_expect_reason(session, rows[i].text);
            kvn_tls_close(session);
            raw_close(&raw);
        }
    }
    kvn_tls_free(tls);
}

/* The purposes of a certificate hold: one for servers alone does not dial. */
static void tls__refuses_certificates_for_other_purposes(void **state)
{
    const struct cert_kit_spec server = {
        "URI:kvrail:c1:node:3", -DAY_S, DAY_S, "serverAuth"};
    kvn_tls_t *tls = cert_kit_load(&kit, 2);
    kvn_tls_session_t *session;
    struct raw raw;
    (void)state;
    cert_kit_sign(&kit, "odd", &server);
    raw_open(&raw, true, "odd", TLS1_3_VERSION);
    assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
    assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
    tls_expect_reason(session, "purpose");
    kvn_tls_close(session);
    raw_close(&raw);
    kvn_tls_free(tls);
}

/* A client of an earlier version, or without a certificate, is no peer. */
static void tls__refuses_tls12_and_no_certificate(void **state)
{
    (void)state;
    for (int psk = 0; psk < 2; psk++) {
        kvn_tls_t *tls = psk ? cert_kit_load_psk(&kit, 2) : cert_kit_load(&kit, 2);
        kvn_tls_session_t *session;
        struct raw raw;
        raw_open(&raw, true, "node-1", TLS1_2_VERSION);
        assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
        assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
        tls_expect_reason(session, "does not speak TLS 1.3");
        kvn_tls_close(session);
        raw_close(&raw);

        raw_open(&raw, false, "node-1", TLS1_2_VERSION);
        assert_int_equal(kvn_tls_open(tls, true, 1, &session), KV_OK);
        assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
        assert_false(kvn_tls_ready(session));
        kvn_tls_close(session);
        raw_close(&raw);

        raw_open(&raw, true, NULL, TLS1_3_VERSION);
        assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
        assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
        tls_expect_reason(session, psk ? "no pre-shared key" : "has no certificate");
        kvn_tls_close(session);
        raw_close(&raw);
        kvn_tls_free(tls);
    }
}

/* Dialled is node 3 and node 2 answers, with a certificate as good as any. */
static void tls__refuses_another_node_than_dialled(void **state)
{
    kvn_tls_t *one = cert_kit_load(&kit, 1), *two = cert_kit_load(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    (void)state;
    tls_wire_meet(&wire, 3);
    expect_refused_by_b(&wire, "wants 'node-3.kvrail', this is 'node-2.kvrail'");
    tls_wire_part(&wire);
    kvn_tls_free(one);
    kvn_tls_free(two);

    /* And one that does not look at what we want. */
    one = cert_kit_load(&kit, 1);
    kvn_tls_session_t *session;
    struct raw raw;
    raw_open(&raw, false, "node-2", TLS1_3_VERSION);
    assert_int_equal(kvn_tls_open(one, true, 3, &session), KV_OK);
    assert_int_equal(raw_settle(&raw, session), KV_ERR_DENIED);
    tls_expect_reason(session, "node 2 answers where node 3 was dialled");
    kvn_tls_close(session);
    raw_close(&raw);
    kvn_tls_free(one);
}

/* ---- a hostile wire -------------------------------------------------------------- */

/* One bit of the handshake or of the data is flipped, at every place in turn: nothing
 * is accepted but what was sent. A byte in the record header's version is the one that
 * RFC 8446 tells to ignore, so a flip may be without effect: then both are ready. */
static void tls__flipped_bits_never_change_a_byte(void **state)
{
    static const uint8_t sent[] = "the very bytes";
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        kvn_tls_t *one = certs ? cert_kit_load(&kit, 1) : cert_kit_load_psk(&kit, 1);
        kvn_tls_t *two = certs ? cert_kit_load(&kit, 2) : cert_kit_load_psk(&kit, 2);
        struct tls_wire wire = {.a_tls = one, .b_tls = two};
        uint64_t nr_bytes = UINT64_MAX;
        unsigned nr_through = 0, nr_refused = 0;
        for (uint64_t at = 1; at <= nr_bytes; at += certs ? 7 : 3) {
            uint8_t got[64];
            size_t nr = 0;
            wire.flip_at = at;
            tls_wire_meet(&wire, 2);
            if (kvn_tls_ready(wire.a)
                && kvn_tls_write(wire.a, sent, sizeof(sent)) == KV_OK) {
                tls_wire_settle(&wire);
            }
            const kv_status_t status = kvn_tls_ready(wire.b)
                                           ? kvn_tls_read(wire.b, got, sizeof(got), &nr)
                                           : KV_ERR_DENIED;
            if (status == KV_OK && nr > 0) {
                assert_int_equal(nr, sizeof(sent));
                assert_memory_equal(got, sent, nr);
                nr_through++;
            } else {
                nr_refused++;
            }
            if (nr_bytes == UINT64_MAX) {
                nr_bytes = 1200 + (uint64_t)certs * 1800;
            }
            tls_wire_part(&wire);
        }
        assert_true(nr_refused > 100);
        assert_true(nr_refused > nr_through);
        kvn_tls_free(one);
        kvn_tls_free(two);
    }
}

/* A stream that ends early is no handshake and no message: only waited for. */
static void tls__cut_streams_are_never_ready(void **state)
{
    kvn_tls_t *one = cert_kit_load(&kit, 1), *two = cert_kit_load(&kit, 2);
    struct tls_wire wire = {.a_tls = one, .b_tls = two};
    uint64_t whole;
    (void)state;
    tls_wire_meet(&wire, 2);
    whole = wire.nr_bytes;
    tls_wire_part(&wire);
    for (uint64_t at = 1; at + 16 < whole; at += 13) {
        bool moved;
        wire.cut_at = at;
        assert_int_equal(kvn_tls_open(one, true, 2, &wire.a), KV_OK);
        assert_int_equal(kvn_tls_open(two, false, KVN_TLS_NO_NODE, &wire.b), KV_OK);
        do { /* nothing follows what was cut */
            moved = false;
            assert_int_equal(tls_wire_carry(&wire, wire.a, wire.b, &moved), KV_OK);
            if (wire.nr_bytes < at) {
                assert_int_equal(tls_wire_carry(&wire, wire.b, wire.a, &moved), KV_OK);
            }
        } while (moved && wire.nr_bytes < at);
        assert_false(kvn_tls_ready(wire.b));
        tls_wire_part(&wire);
    }
    kvn_tls_free(one);
    kvn_tls_free(two);
}

/* Whatever is no handshake ends it; and one that never ends is cut off. */
static void tls__handshake_bytes_are_bounded(void **state)
{
    kvn_tls_t *tls = cert_kit_load(&kit, 2);
    kvn_tls_session_t *session;
    uint8_t bytes[1024];
    kv_status_t status = KV_OK;
    (void)state;
    /* A ClientHello of 16 MiB less one byte, in records of 1,000 bytes. */
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, "\x16\x03\x01\x03\xe8\x01\xff\xff\xff", 9);
    assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
    size_t fed = 0;
    while (status == KV_OK && fed < 2 * KVN_TLS_HANDSHAKE_BYTES_MAX) {
        status = kvn_tls_in(session, bytes, 1005);
        fed += 1005;
        memcpy(bytes + 5, "\0\0\0\0", 4);
    }
    assert_int_equal(status, KV_ERR_DENIED);
    assert_true(fed <= KVN_TLS_HANDSHAKE_BYTES_MAX + 1005);
    kvn_tls_close(session);

    /* A record that never gets whole: one byte at a time. */
    assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
    assert_int_equal(
        kvn_tls_in(session, (const uint8_t *)"\x16\x03\x01\x40\x00\x01", 6), KV_OK);
    assert_false(kvn_tls_ready(session));
    kvn_tls_close(session);

    /* Records without a message in them are legal, and for ever the same. */
    assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
    status = KV_OK;
    for (fed = 0; status == KV_OK && fed < 2 * KVN_TLS_HANDSHAKE_BYTES_MAX; fed += 6) {
        status = kvn_tls_in(session, (const uint8_t *)"\x14\x03\x03\x00\x01\x01", 6);
    }
    assert_int_equal(status, KV_ERR_DENIED);
    assert_true(fed <= KVN_TLS_HANDSHAKE_BYTES_MAX + 6);
    kvn_tls_close(session);

    assert_int_equal(kvn_tls_open(tls, false, KVN_TLS_NO_NODE, &session), KV_OK);
    assert_int_equal(
        kvn_tls_in(session, (const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 18),
        KV_ERR_DENIED);
    assert_string_not_equal(kvn_tls_reason(session), "");
    kvn_tls_close(session);
    kvn_tls_free(tls);
}

/* ---- files ----------------------------------------------------------------------- */

struct bad {
    struct kvn_tls_config config;
    const char *text;
};

static void expect_bad(const struct kvn_tls_config *config, const char *text)
{
    kvn_tls_t *tls = NULL;
    assert_int_equal(kvn_tls_load(config, &tls, line, sizeof(line)), KV_ERR_CONFIG);
    assert_null(tls);
    if (strstr(line, text) == NULL) {
        fail_msg("'%s' is not in '%s'", text, line);
    }
    assert_null(strchr(line, '\n'));
}

static void tls__bad_psk_files_are_named(void **state)
{
    static const char hex[] =
        "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF\n";
    struct kvn_tls_config config = {.cluster = "c1", .node = 1};
    kvn_tls_t *tls;
    (void)state;
    const char *path = cert_kit_path(&kit, "odd.psk");
    config.psk = path;
    expect_bad(&config, "odd.psk: is missing: kvrail keygen makes one");
    cert_kit_write(path, hex, strlen(hex), 0640);
    expect_bad(&config, "has mode 0640, the limit is 0600");
    cert_kit_write(path, hex, strlen(hex) - 2, 0600);
    expect_bad(&config, "is not 64 hex digits");
    cert_kit_write(
        path,
        "zz112233445566778899aabbccddeeff"
        "00112233445566778899aabbccddeeff",
        64, 0600);
    expect_bad(&config, "is not 64 hex digits");
    cert_kit_write(path, "", 0, 0600);
    expect_bad(&config, "is not 64 hex digits");
    static char large[KVN_TLS_FILE_BYTES_MAX + 1];
    cert_kit_write(path, large, sizeof(large), 0600);
    expect_bad(&config, "has 65537 bytes, the limit is 65536");
    cert_kit_write(path, hex, strlen(hex), 0400);
    assert_int_equal(kvn_tls_load(&config, &tls, line, sizeof(line)), KV_OK);
    kvn_tls_free(tls);
    config.psk = kit.folder;
    expect_bad(&config, "is no regular file");
    if (geteuid() != 0) { /* root reads all */
        cert_kit_write(path, hex, strlen(hex), 0000);
        config.psk = path;
        expect_bad(&config, "cannot be read: Permission denied");
    }
}

static void tls__bad_configs_are_named(void **state)
{
    const char *psk = cert_kit_path(&kit, "psk");
    const char *ca = cert_kit_path(&kit, "ca.pem");
    const char *cert = cert_kit_path(&kit, "node-1.pem");
    const char *key = cert_kit_path(&kit, "node-1.key");
    char name[80];
    (void)state;
    memset(name, 'x', sizeof(name));
    name[65] = '\0';
    const struct bad rows[] = {
        {{.cluster = "c1", .node = 1}, "none are given"},
        {{.cluster = "c1", .node = 1, .psk = "", .ca = "", .cert = "", .key = ""},
         "none are given"},
        {{.cluster = "c1", .node = 1, .psk = psk, .ca = ca}, "take one kind"},
        {{.cluster = "c1", .node = 1, .ca = ca, .cert = cert}, "all three"},
        {{.cluster = "", .node = 1, .psk = psk}, "0 characters"},
        {{.cluster = name, .node = 1, .psk = psk}, "65 characters, the limits are 1"},
        {{.cluster = "c1", .node = 0, .psk = psk}, "no node has the id 0"},
        {{.cluster = "c1", .node = 2, .ca = ca, .cert = cert, .key = key},
         "is of node 1, this is node 2"},
        {{.cluster = "c2", .node = 1, .ca = ca, .cert = cert, .key = key},
         "is of another cluster than 'c2'"},
        {{.cluster = "c1",
          .node = 1,
          .ca = ca,
          .cert = cert,
          .key = cert_kit_path(&kit, "node-2.key")},
         "does not fit the certificate"},
        {{.cluster = "c1",
          .node = 1,
          .ca = cert_kit_path(&foreign, "ca.pem"),
          .cert = cert,
          .key = key},
         "is not of our authority"},
        {{.cluster = "c1", .node = 1, .ca = key, .cert = cert, .key = key},
         "authority /tmp"},
        {{.cluster = "c1", .node = 1, .ca = ca, .cert = key, .key = key},
         "is no PEM certificate"},
        {{.cluster = "c1", .node = 1, .ca = ca, .cert = cert, .key = psk},
         "is no PEM private key"},
        {{.cluster = "c1", .node = 1, .ca = ca, .cert = cert, .key = "/none/key"},
         "key /none/key: is missing"},
        {{.cluster = "c1", .node = 1, .ca = "/none/ca", .cert = cert, .key = key},
         "authority /none/ca: is missing"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        expect_bad(&rows[i].config, rows[i].text);
    }
    assert_int_equal(chmod(key, 0644), 0);
    expect_bad(&rows[7].config, "has mode 0644, the limit is 0600");
    assert_int_equal(chmod(key, 0600), 0);
}

/* What a certificate says is looked at before anybody is dialled. */
static void tls__bad_certificates_are_named_at_load(void **state)
{
    const struct {
        struct cert_kit_spec spec;
        const char *text;
    } rows[] = {
        {{"URI:kvrail:c1:node:1", -2 * DAY_S, -HOUR_S, NULL},
         "by this clock: is it right?"},
        {{"URI:kvrail:c1:node:1", HOUR_S, DAY_S, NULL},
         "is not yet valid by this clock, but from "},
        {{"DNS:node-1", -DAY_S, DAY_S, NULL},
         "needs the alternative name URI:kvrail:c1:node:1"},
        {{"URI:kvrail:c1:node:1,URI:kvrail:c1:node:1", -DAY_S, DAY_S, NULL},
         "names several nodes"},
        {{"URI:kvrail:c1:node:1", -DAY_S, DAY_S, "serverAuth"}, "client and server"},
    };
    const struct kvn_tls_config config = {
        .cluster = "c1",
        .node = 1,
        .ca = cert_kit_path(&kit, "ca.pem"),
        .cert = cert_kit_path(&kit, "odd.pem"),
        .key = cert_kit_path(&kit, "odd.key"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        cert_kit_sign(&kit, "odd", &rows[i].spec);
        expect_bad(&config, rows[i].text);
    }
    cert_kit_write(
        config.cert,
        "-----BEGIN CERTIFICATE-----\nAAAA\n"
        "-----END CERTIFICATE-----\n",
        59, 0644);
    expect_bad(&config, "is no PEM certificate");
}

/* ---- faults ---------------------------------------------------------------------- */

/* The n-th fallible call fails, for each n: load answers a status with a line, a
 * session a status; a run without a failure ends it; nothing is left (the sanitizer
 * looks too). */
static void tls__survives_every_fault(void **state)
{
    (void)state;
    for (int certs = 0; certs < 2; certs++) {
        const int64_t live = kv_mem_live();
        unsigned n = 0;
        bool done = false;
        while (!done) {
            const struct kvn_tls_config config = {
                .cluster = "c1",
                .node = 1,
                .psk = certs ? NULL : cert_kit_path(&kit, "psk"),
                .ca = certs ? cert_kit_path(&kit, "ca.pem") : NULL,
                .cert = certs ? cert_kit_path(&kit, "node-1.pem") : NULL,
                .key = certs ? cert_kit_path(&kit, "node-1.key") : NULL,
            };
            kvn_tls_t *two =
                certs ? cert_kit_load(&kit, 2) : cert_kit_load_psk(&kit, 2);
            kvn_tls_t *tls = NULL;
            kvn_tls_session_t *a = NULL, *b = NULL;
            struct tls_wire wire = {0};
            kv_fault_after(++n);
            kv_status_t status = kvn_tls_load(&config, &tls, line, sizeof(line));
            assert_true((status == KV_OK) == (tls != NULL));
            assert_true((status == KV_OK) == (line[0] == '\0'));
            status = tls == NULL ? KV_ERR_NOMEM : kvn_tls_open(tls, true, 2, &a);
            assert_true((status == KV_OK) == (a != NULL));
            if (a != NULL && kvn_tls_open(two, false, KVN_TLS_NO_NODE, &b) == KV_OK) {
                wire.a = a;
                wire.b = b;
                tls_wire_settle(&wire);
                done = kvn_tls_ready(a) && kvn_tls_ready(b);
                assert_true(KV_OK == wire.a_status || kvn_tls_reason(a)[0] != '\0');
                assert_true(KV_OK == wire.b_status || kvn_tls_reason(b)[0] != '\0');
            }
            done = done && !kv_fault_now();
            kv_fault_after(0);
            kvn_tls_close(a);
            kvn_tls_close(b);
            kvn_tls_free(tls);
            kvn_tls_free(two);
            assert_int_equal(kv_mem_live(), live);
            assert_true(n < 200);
        }
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tls__links_with_either_credential),
        cmocka_unit_test(tls__carries_many_bytes_in_small_pieces),
        cmocka_unit_test(tls__partial_says_half_a_record),
        cmocka_unit_test(tls__goodbye_ends_reading),
        cmocka_unit_test(tls__never_resumes),
        cmocka_unit_test(tls__refuses_other_psk_and_other_names),
        cmocka_unit_test(tls__refuses_the_other_kind),
        cmocka_unit_test(tls__refuses_another_authority),
        cmocka_unit_test(tls__refuses_odd_certificates_and_says_why),
        cmocka_unit_test(tls__refuses_certificates_for_other_purposes),
        cmocka_unit_test(tls__refuses_tls12_and_no_certificate),
        cmocka_unit_test(tls__refuses_another_node_than_dialled),
        cmocka_unit_test(tls__flipped_bits_never_change_a_byte),
        cmocka_unit_test(tls__cut_streams_are_never_ready),
        cmocka_unit_test(tls__handshake_bytes_are_bounded),
        cmocka_unit_test(tls__bad_psk_files_are_named),
        cmocka_unit_test(tls__bad_configs_are_named),
        cmocka_unit_test(tls__bad_certificates_are_named_at_load),
        cmocka_unit_test(tls__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
