/* Control connections between nodes: who is connected to whom, over TLS, and the frames
 * on them; and the one listening port of a node.
 *
 *   listener ──► first byte 0x16: TLS ──► handshake ──► up(peer, conn) ──► frames
 *            └─► first bytes "kvd1": a data connection ──► data(fd), as it came
 *            └─► first bytes "kvl1", without credentials alone: a clear link
 *            └─► anything else: closed
 *   kvn_links_dial(peer) ──► connect ──► TLS ──► up(peer, conn), or dial_failed(peer)
 *
 *   hello: "kvl1" ‖ u32 id of the sender, little endian; each side's first bytes
 *   frame: u32 length, little endian, 1 … KV_MSG_BYTES_MAX ‖ that many bytes
 *
 * Hello and frames go inside TLS. up() is said when the other side's hello has come: it
 * then has accepted us, and says who it is also where TLS does not prove it (the
 * dialled side of a pre-shared key). Without credentials there is no TLS, a link begins
 * with hello on the socket itself and the id is a claim: on loopback alone.
 *
 * Limits hold before anybody is authenticated: connections not yet introduced (all,
 * and of one address), bytes and time of a handshake, bytes of a frame; a connection
 * that sends slower than a frame in frame_us is closed, one whose peer does not read is
 * closed when queue_bytes wait for it. What is refused is one log line with its reason.
 *
 * Threading: the loop thread (libuv). Callbacks never run inside a call of this module
 * but from the loop. Ownership: bytes of callbacks live until they return. Order:
 * frames of one connection in order; after down(conn) nothing of it comes. Units:
 * bytes, microseconds. Errors: as said at each; what is wrong with a connection is a
 * log line, and down() or dial_failed().
 */
#ifndef KVN_LINKS_H
#define KVN_LINKS_H

#include "node/daemon/tls.h"

#include <uv.h>

enum {
    KVN_LINKS_HELLO_CONNS_MAX = 64,  /* accepted and not yet introduced */
    KVN_LINKS_HELLO_ADDRESS_MAX = 16, /* of them, from one address (IPv6: one /64) */
    KVN_LINKS_PEER_CONNS_MAX = 4, /* up with one node: past it the oldest goes */
    KVN_LINKS_LINGER_MAX = 64,    /* hung up, and sending what waits */
    KVN_LINKS_TIME_MIN_US = 1000, /* of handshake_us and frame_us */
    /* Handshakes that one address may begin, 1 to 3 ms of the loop each: the start of a
     * whole cluster behind one address, then one in so long. */
    KVN_LINKS_SHAKES_BURST = 128,
    KVN_LINKS_SHAKE_US = 31250,
};

struct kvn_links_peer {
    uint32_t id;         /* of the node */
    const char *address; /* host:port */
};

struct kvn_links_config {
    const char *listen; /* host:port; port 0: any, see kvn_links_port() */
    const kvn_tls_t *tls; /* NULL: clear, allowed on loopback addresses alone */
    const struct kvn_links_peer *peers; /* by index in the view, us too; copied */
    uint32_t nr_peers;
    uint32_t self;           /* index of this node */
    uint64_t handshake_us;   /* from accept or connect to up */
    uint64_t frame_us;       /* a frame that has begun is whole within this */
    uint64_t queue_bytes;    /* one frame more may wait to be sent on a connection */
};

/* A peer is its index in the view. Each up() has one down(), each dial one up() or
 * dial_failed(), also when links close. */
struct kvn_links_events {
    void *arg;
    /* dialled: by us. A connection number is never used twice. */
    void (*up)(void *arg, uint32_t peer, uint64_t conn, bool dialled);
    void (*down)(void *arg, uint32_t peer, uint64_t conn);
    void (*dial_failed)(void *arg, uint32_t peer);
    void (*frame)(
        void *arg, uint32_t peer, uint64_t conn, const uint8_t *bytes, size_t len);
    /* The receiver owns the socket (non-blocking); nothing was read from it. */
    void (*data)(void *arg, int fd);
    /* A client of `tenant` has proved that it is one; the receiver owns its socket and
     * its session, in which bytes may wait. NULL: clients are refused. */
    void (*client)(
        void *arg, int fd, kvn_tls_session_t *tls, uint32_t tenant,
        const char *address);
};

struct kvn_links_counts {
    uint64_t accepted, refused, dialled, dial_failed, handshake_failed;
    uint64_t frames_in, frames_out, bytes_in, bytes_out;
};

typedef struct kvn_links kvn_links_t;

/* Binds and listens. KV_ERR_CONFIG or IO with `line` (cap >= 512): a busy port, an
 * address that is not ours, a name that does not resolve, a non-loopback address
 * without credentials. */
kv_status_t kvn_links_open(
    uv_loop_t *loop, const struct kvn_links_config *config,
    const struct kvn_links_events *events, kvn_links_t **links_p, char *line,
    size_t cap);
/* Closes everything; `closed` runs from the loop when all handles are gone, and the
 * memory with them. A name that the system is resolving is waited for: that cannot be
 * cancelled. */
void kvn_links_close(kvn_links_t *links, void (*closed)(void *arg), void *arg);

uint16_t kvn_links_port(const kvn_links_t *links);
/* up() or dial_failed() follows, within handshake_us. One dial a peer at a time: a
 * second while one is under way is ignored. */
void kvn_links_dial(kvn_links_t *links, uint32_t peer);
/* down() follows. What was sent before still goes out, for a second at most. A
 * connection that is not known is ignored. */
void kvn_links_hang_up(kvn_links_t *links, uint64_t conn);
/* LINK_LOST: there is no such connection (down() has been or will be said).
 * AGAIN never: a connection with a full queue is closed. */
kv_status_t
kvn_links_send(kvn_links_t *links, uint64_t conn, const uint8_t *bytes, size_t len);
const struct kvn_links_counts *kvn_links_counts(const kvn_links_t *links);

#endif
