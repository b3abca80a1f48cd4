#include "tests/node/tls_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

kv_status_t tls_wire_carry(
    struct tls_wire *wire, kvn_tls_session_t *from, kvn_tls_session_t *to,
    bool *moved_p)
{
    static uint8_t bytes[TLS_WIRE_BYTES];
    size_t len = kvn_tls_out(from, bytes, sizeof(bytes));
    *moved_p = *moved_p || len > 0;
    for (size_t i = 0; i < len; i++) {
        wire->nr_bytes++;
        if (wire->nr_bytes == wire->flip_at) {
            bytes[i] ^= 0x10;
        }
        if (wire->nr_bytes == wire->cut_at) {
            len = i;
        }
    }
    return len == 0 ? KV_OK : kvn_tls_in(to, bytes, len);
}

/* Until nobody has anything to say. */
void tls_wire_settle(struct tls_wire *wire)
{
    bool moved = true;
    while (moved) {
        moved = false;
        const kv_status_t b = tls_wire_carry(wire, wire->a, wire->b, &moved);
        wire->b_status = wire->b_status == KV_OK ? b : wire->b_status;
        const kv_status_t a = tls_wire_carry(wire, wire->b, wire->a, &moved);
        wire->a_status = wire->a_status == KV_OK ? a : wire->a_status;
    }
}

void tls_wire_meet(struct tls_wire *wire, uint32_t peer)
{
    assert_int_equal(kvn_tls_open(wire->a_tls, true, peer, &wire->a), KV_OK);
    assert_int_equal(
        kvn_tls_open(wire->b_tls, false, KVN_TLS_NO_NODE, &wire->b), KV_OK);
    tls_wire_settle(wire);
}

void tls_wire_part(struct tls_wire *wire)
{
    kvn_tls_close(wire->a);
    kvn_tls_close(wire->b);
    wire->a = wire->b = NULL;
    wire->a_status = wire->b_status = KV_OK;
    wire->nr_bytes = 0;
    wire->flip_at = wire->cut_at = 0;
}

/* All that can be read clear. */
size_t tls_read_all(kvn_tls_session_t *session, uint8_t *bytes, size_t cap)
{
    size_t len = 0, nr = 1;
    while (nr > 0) {
        assert_int_equal(kvn_tls_read(session, bytes + len, cap - len, &nr), KV_OK);
        len += nr;
        if (len == cap) {
            break;
        }
    }
    return len;
}

void tls_wire_expect_linked(struct tls_wire *wire)
{
    static const uint8_t ping[] = "ping", pong[] = "pong";
    uint8_t bytes[16];
    assert_true(kvn_tls_ready(wire->a));
    assert_true(kvn_tls_ready(wire->b));
    assert_string_equal(kvn_tls_reason(wire->a), "");
    assert_int_equal(kvn_tls_write(wire->a, ping, 4), KV_OK);
    assert_int_equal(kvn_tls_write(wire->b, pong, 4), KV_OK);
    tls_wire_settle(wire);
    assert_int_equal(tls_read_all(wire->b, bytes, sizeof(bytes)), 4);
    assert_memory_equal(bytes, ping, 4);
    assert_int_equal(tls_read_all(wire->a, bytes, sizeof(bytes)), 4);
    assert_memory_equal(bytes, pong, 4);
}

void tls_expect_reason(const kvn_tls_session_t *session, const char *text)
{
    if (strstr(kvn_tls_reason(session), text) == NULL) {
        fail_msg("'%s' is not in '%s'", text, kvn_tls_reason(session));
    }
    assert_null(strchr(kvn_tls_reason(session), '\n'));
    assert_false(kvn_tls_ready(session));
    assert_int_equal(kvn_tls_peer(session), KVN_TLS_NO_NODE);
}
