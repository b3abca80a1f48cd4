/* What the files of remote clients share: remote.c (batches, pages, ends) and
 * remote_open.c (opening).
 *
 *   kvr_submit ──► record ──► TLS ──► node;   pages ◄──► port, two data connections
 *
 * Threading: as kvrail.h; the port has a mover of its own. Ownership: the client's, and
 * kvr_remote_close() frees it; a flight has its lists and its answer until its result
 * is given, and memory that it names is not unmapped before. Units: bytes; microseconds
 * of kvr_now_us(). Errors: kvr_status_t with its line in client->error; false is a
 * session that has ended.
 */
#ifndef KVR_REMOTE_PRIV_H
#define KVR_REMOTE_PRIV_H

#include "node/daemon/frame.h"
#include "node/daemon/outbox.h"
#include "node/daemon/tls.h"
#include "node/lib/lib_priv.h"
#include "node/remote_wire.h"
#include "transport/transport.h"

enum {
    KVR_REMOTE_PARTS = 8192, /* pages posted and being sent */
    KVR_REMOTE_FLIGHT_US = 30000000,
    KVR_REMOTE_CHUNK_BYTES = 16 << 10,
    KVR_REMOTE_OUT_MAX = 4 << 20, /* requests not taken by the socket: then AGAIN */
    KVR_REMOTE_LOOK_MS = 500,     /* between looks for flights that are too late */
};

/* What a client waits for: its session, and its port. */
enum { KVR_REMOTE_ANSWERS, KVR_REMOTE_PAGES, KVR_REMOTE_SOURCES };

struct remote_flight {
    bool answered;
    uint32_t nr_parts; /* that have not ended */
    uint64_t until_us;
    uint8_t **pages; /* GET, PUT: one a key */
    uint32_t *lens;  /* of each: nothing longer or shorter is believed */
    int32_t *landed; /* GET: how each part ended */
    uint8_t *answer;
    uint32_t answer_len;
    uint64_t memories; /* bit i: buffers[i] is used */
};

struct kvr_remote {
    int fd, epoll_fd;
    kvn_tls_t *tls;
    kvn_tls_session_t *session;
    uint8_t secret[KVN_REMOTE_SECRET_BYTES];
    bool verify; /* what lands is compared with its digest */
    kvt_port_t *port;
    kvt_conn_t reads, offers;
    struct kvn_frames frames;
    uint8_t frame_buffer[KVN_PACKET_BYTES_MAX];
    uint8_t clear[KVR_REMOTE_CHUNK_BYTES];
    struct kvn_outbox out;
    bool wants_write;
    bool readable; /* the session's socket, as far as is known */
    uint32_t nr_parts;
    struct remote_flight flights[KVR_FLIGHT_MAX];
    uint16_t ready[KVR_FLIGHT_MAX]; /* ring: flights that have ended */
    uint32_t ready_head, nr_ready;
    uint32_t uses[KVR_BUFFERS_MAX]; /* flights that use the memory */
    bool leaving[KVR_BUFFERS_MAX];  /* destroyed, and still used */
    uint64_t looked_us;             /* for flights that are too late */
};

/* ------------------------------------------------------------------ remote.c */
/* What TLS has for the socket joins what waits; then as much as the socket takes. */
bool kvr_remote_out_pull(struct kvr_remote *remote);
bool kvr_remote_flush(struct kvr_remote *remote);
/* A frame. */
bool kvr_remote_say(struct kvr_remote *remote, const void *bytes, size_t len);
/* The next frame: OK; AGAIN: none yet; LINK_LOST. *at_p and *len_p are its own, zero at
 * first. */
kv_status_t kvr_remote_hear(
    struct kvr_remote *remote, const uint8_t **at_p, size_t *len_p,
    const uint8_t **frame_p, uint32_t *frame_len_p);

#endif
