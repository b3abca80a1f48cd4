/* Bytes that wait for a socket, in the order in which they came.
 *
 *   clear bytes ── kvn_outbox_put ──┐
 *   a TLS session ─ kvn_outbox_pull ┴─► [at, at + len) ── kvn_outbox_send ──► socket
 *
 * It grows as long as it is put into: how much may wait is its user's to decide. Memory
 * beyond KVN_OUTBOX_KEEP_BYTES is given back when the socket has taken everything.
 *
 * Threading: one thread at a time. Ownership: the box owns its memory, not the socket
 * and not the session; all zero is an empty one. Units: bytes. Errors: NOMEM, and then
 * what waited still waits; errno of send().
 */
#ifndef KVN_OUTBOX_H
#define KVN_OUTBOX_H

#include "base/status.h"
#include "node/daemon/tls.h"

enum {
    KVN_OUTBOX_RECORD_BYTES = 16 << 10, /* of one record of TLS, and a little less */
    KVN_OUTBOX_KEEP_BYTES = 64 << 10,
};

struct kvn_outbox {
    uint8_t *bytes;
    size_t at, len, cap;
};

kv_status_t kvn_outbox_put(struct kvn_outbox *box, const void *bytes, size_t len);
/* All that the session has for its socket. */
kv_status_t kvn_outbox_pull(struct kvn_outbox *box, kvn_tls_session_t *tls);
/* As much as the socket takes now; *sent_p grows by that (NULL: not counted). False: it
 * is broken, and errno says why. */
bool kvn_outbox_send(struct kvn_outbox *box, int fd, uint64_t *sent_p);
void kvn_outbox_free(struct kvn_outbox *box);

#endif
