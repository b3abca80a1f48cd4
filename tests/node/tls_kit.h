/* A wire between two TLS sessions of one process: bytes carried, cut and flipped by
 * hand, and what both sides must say at its ends.
 *
 *   a_tls, b_tls ──► tls_wire_meet: a ══► wire ══► b, until both are silent
 *                    tls_wire_carry, tls_wire_settle: the same, later
 *                    tls_wire_part
 *
 * Threading: one thread; nothing waits. Ownership: keys are the test's; tls_wire_part()
 * closes both sessions. Units: bytes of the wire, counted in both directions together.
 * Errors: a session that fails is what a test looks for: its status is in the wire.
 * Sessions that cannot be opened, and what tls_wire_expect_*() and tls_expect_*() do
 * not find, fail the test.
 */
#ifndef TESTS_NODE_TLS_KIT_H
#define TESTS_NODE_TLS_KIT_H

#include "node/daemon/tls.h"

enum { TLS_WIRE_BYTES = 1 << 18 };

struct tls_wire {
    const kvn_tls_t *a_tls, *b_tls; /* a dials */
    kvn_tls_session_t *a, *b;
    kv_status_t a_status, b_status;
    uint64_t nr_bytes; /* that went over */
    uint64_t flip_at;  /* the byte of this number has a bit flipped; 0: none */
    uint64_t cut_at;   /* bytes from this number on are lost; 0: none */
};

/* Opens both, a dialling `peer`, and carries until nobody has anything to say. */
void tls_wire_meet(struct tls_wire *wire, uint32_t peer);
/* What `from` has to say, once: what `to` made of it. */
kv_status_t tls_wire_carry(
    struct tls_wire *wire, kvn_tls_session_t *from, kvn_tls_session_t *to,
    bool *moved_p);
void tls_wire_settle(struct tls_wire *wire);
void tls_wire_part(struct tls_wire *wire);
/* All that can be read clear. */
size_t tls_read_all(kvn_tls_session_t *session, uint8_t *bytes, size_t cap);
/* Both are ready, and bytes go through each way. */
void tls_wire_expect_linked(struct tls_wire *wire);
/* It failed, it knows nobody, and `text` is in its one line. */
void tls_expect_reason(const kvn_tls_session_t *session, const char *text);

#endif
