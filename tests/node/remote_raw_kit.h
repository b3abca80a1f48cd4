/* One end of a remote client's session by hand, whichever it is: TLS, frames, data
 * connections. The test connects or accepts, loads its keys and opens the TLS session;
 * from there on this says and hears, right or wrong.
 *
 *   fd, tls, session ──► rk_raw_shake ──► rk_raw_say, rk_raw_hear ──► rk_raw_close
 *   fd of a data connection ──► rk_frame_get, rk_page_give ──► close()
 *
 * Threading: one thread an end. Ownership: rk_raw_close() takes socket, session and
 * keys; data connections are the test's. Units: bytes. Errors: that the other side has
 * ended is an answer; silence is none: it lasts as long as the socket's timeout, which
 * the test sets, and then the test fails, as it does for a frame that is none. What is
 * sent to a side that has gone is lost without a word.
 */
#ifndef TESTS_NODE_REMOTE_RAW_KIT_H
#define TESTS_NODE_REMOTE_RAW_KIT_H

#include "node/daemon/frame.h"
#include "node/daemon/tls.h"
#include "node/remote_wire.h"
#include "tests/node/remote_kit.h"
#include "transport/tcp/frame.h"
#include "transport/transport.h"

struct rk_raw {
    int fd;
    kvn_tls_t *tls;
    kvn_tls_session_t *session;
    uint8_t secret[KVN_REMOTE_SECRET_BYTES];
    struct kvn_frames frames;
    uint8_t buffer[KVN_REQUEST_BYTES_MAX], clear[16384];
    const uint8_t *at; /* in `clear`: `left` bytes are not looked at */
    size_t left;
};

void rk_raw_flush(struct rk_raw *raw);
/* More bytes; false: the other side has ended it. */
bool rk_raw_more(struct rk_raw *raw);
void rk_raw_say(struct rk_raw *raw, const void *bytes, uint32_t len);
/* The next frame's length; 0: the other side has ended it. */
uint32_t rk_raw_hear(struct rk_raw *raw, uint8_t *to, size_t cap);
/* Until the session is ready and its secret is there; false: it was ended. */
bool rk_raw_shake(struct rk_raw *raw);
void rk_raw_close(struct rk_raw *raw);

/* The head of the next frame of a data connection: its length. */
uint32_t rk_frame_get(int fd, enum kvt_frame_kind kind, uint8_t *head);
/* DATA, with as many bytes of the page as it says; the other side may have gone. */
void rk_page_give(
    const struct rk_raw *raw, int fd, const struct kv_msg_data *data, uint64_t req,
    const uint8_t *page);

#endif
