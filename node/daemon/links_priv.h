/* One connection, and what the files of links share.
 *
 *   links.c       the port, calls from outside, the turn, close
 *   links_conn.c  a connection from its first byte to its last
 *   links_out.c   what waits to be sent
 *   links_dial.c  names, addresses, connect
 *   links_rate.c  how many handshakes an address may begin
 *
 * accepted:         kvn_sniff             handshake done        hello fits
 *     ─────► SNIFF ───────────► SHAKE ───────────────────► HELLO ──────────► UP
 *              │  "kvl1", no credentials: no SHAKE           ▲               │ hang up
 *              └─────────────────────────────────────────────┤               ▼
 *     ─────► RESOLVE ─► CONNECT ─► SHAKE ────────────────────┘            LINGER
 * dialled:
 *     any state ── error, deadline, end of the peer, close ──► CLOSED
 *
 *  RESOLVE  (1) no socket yet. Only dialled.
 *  SNIFF    (2) nothing was taken from the socket. Only accepted.
 *  until UP (3) an accepted one is in links->hellos, a dialled one is its peer's
 *               dial; the timer runs towards handshake_us.
 *  UP       (4) up() was said, down() was not; nobody else has its number, ever.
 *           (5) the timer runs exactly while a frame or record is begun and not whole.
 *  LINGER   (6) down() was said; what waits is sent, what comes is thrown away.
 *  CLOSED   (7) no slot, no socket, in no list; the memory waits for its handles.
 *
 * Threading: the loop thread. "In the loop" below: called by libuv, not by our caller;
 * only there are callbacks made (down and others), and only there connections end.
 * Ownership: a connection has its socket, session and what waits until CLOSED. Units:
 * bytes, microseconds. Errors: a reason of one line, and the end of that connection.
 */
#ifndef KVN_LINKS_PRIV_H
#define KVN_LINKS_PRIV_H

#include "node/address.h"
#include "node/daemon/frame.h"
#include "node/daemon/links.h"
#include "node/daemon/outbox.h"

#include <sys/queue.h>

enum {
    KVN_LINKS_ADDRESSES_MAX = 4,       /* of one name that are tried */
    KVN_LINKS_READ_BYTES = 64 << 10,   /* of one connection a turn of the loop */
    KVN_LINKS_RECORD_BYTES = 16 << 10, /* of clear bytes in one record */
    KVN_LINKS_FLUSH_BYTES = 64 << 10,  /* wait for the turn of the loop, no more */
    KVN_LINKS_ACCEPTS_MAX = 16,        /* in one turn of the loop */
    KVN_LINKS_PAUSE_MS = 100, /* of accepting, when the system lacks descriptors */
    KVN_LINKS_LINGER_MS = 1000,
    KVN_LINKS_BACKLOG = 128,
    KVN_LINKS_REASON_MAX = 200,
    KVN_LINKS_SLOT_BITS = 16, /* of a number; the rest never repeats */
    KVN_LINKS_NO_PEER = UINT32_MAX,
    KVN_LINKS_PARTIES_MAX = 64, /* whose rates are known; past it the idlest's is not */
};

enum kvn_conn_state {
    KVN_CONN_RESOLVE,
    KVN_CONN_CONNECT,
    KVN_CONN_SNIFF,
    KVN_CONN_SHAKE,
    KVN_CONN_HELLO,
    KVN_CONN_UP,
    KVN_CONN_LINGER,
    KVN_CONN_CLOSED,
    KVN_NR_CONN_STATES
};

struct kvn_conn;

/* A watched descriptor: apart from its connection, which may try several. */
struct kvn_watch {
    uv_poll_t poll;
    struct kvn_conn *conn;
};

struct kvn_conn {
    struct kvn_links *links;
    enum kvn_conn_state state;
    uint32_t slot;
    uint64_t number;
    bool dialled;
    uint32_t peer;       /* index, or NO_PEER while that is not known */
    unsigned nr_handles; /* of libuv, with this memory or pointing at it */
    uv_timer_t timer;

    int fd; /* -1: none */
    struct kvn_watch *watch;
    int watched; /* events asked for */
    union kvn_sockaddr addr;
    char addr_text[KVN_ADDRESS_TEXT_MAX];
    union kvn_sockaddr addrs[KVN_LINKS_ADDRESSES_MAX]; /* to be tried */
    uint32_t nr_addrs, next_addr;

    kvn_tls_session_t *tls; /* NULL: clear */
    struct kvn_hello hello;
    struct kvn_frames frames;
    uint8_t *frame_buffer; /* from HELLO on */
    uint64_t nr_frames;    /* that came */
    bool timing;           /* (5) */

    struct kvn_outbox out;

    /* Of calls from outside: done in the next turn. */
    TAILQ_ENTRY(kvn_conn) in_turn, in_hellos;
    bool has_turn, begin, flush, hang_up, broken;
    char reason[KVN_LINKS_REASON_MAX]; /* why it is broken, or ended */
};
TAILQ_HEAD(kvn_conns, kvn_conn);

struct kvn_links_target {
    uint32_t id;
    struct kvn_address address;
    struct kvn_conn *dial; /* under way */
    bool dial_failed;      /* to be said in the next turn */
    bool resolving;
    uv_getaddrinfo_t resolve;
    struct kvn_links *links;
    char reason[KVN_LINKS_REASON_MAX]; /* of the last failed dial: is said once */
};

struct kvn_party {
    union kvn_sockaddr addr;
    uint64_t full_us; /* when its bucket is full again */
};

struct kvn_links {
    uv_loop_t *loop;
    const kvn_tls_t *tls;
    struct kvn_links_events events;
    uint64_t handshake_us, frame_us, queue_bytes;
    uint32_t self, nr_targets;
    struct kvn_links_target *targets;
    struct kvn_links_counts counts;

    int fd;
    uint16_t port;
    uv_poll_t listener;
    uv_timer_t pause;
    uv_idle_t turn;
    unsigned nr_handles, nr_resolves;

    struct kvn_conn **conns; /* [nr_slots]; a number's low bits are its slot */
    uint32_t *free_slots;    /* [nr_free] */
    uint32_t nr_slots, nr_free;
    uint64_t serial;
    struct kvn_conns turns;  /* in the order of the calls */
    struct kvn_conns hellos; /* accepted, not introduced: oldest first */
    uint32_t nr_lingers;
    struct kvn_party parties[KVN_LINKS_PARTIES_MAX];
    uint32_t nr_parties;

    bool closing, ending;
    void (*closed)(void *arg);
    void *closed_arg;

    uint8_t cipher[KVN_LINKS_READ_BYTES]; /* as read */
    uint8_t clear[KVN_LINKS_RECORD_BYTES];
    uint8_t record[KVN_LINKS_RECORD_BYTES]; /* of kvn_links_send() */
};

/* ---- links.c */
void kvn_links_wake(struct kvn_links *links);
void kvn_links_handle_closed(struct kvn_links *links);
/* A connection's turn comes: `flag` is one of its own. */
void kvn_conn_call(struct kvn_conn *conn, bool *flag);
/* Index of a node in the view, or NO_PEER. */
uint32_t kvn_links_find(const struct kvn_links *links, uint32_t id);

/* ---- links_conn.c */
/* NULL: no memory, or no slot. The state is RESOLVE or SNIFF, the timer runs. */
struct kvn_conn *kvn_conn_create(struct kvn_links *links, bool dialled, uint32_t peer);
/* Takes over fd at once, also when the answer is not KV_OK. */
kv_status_t kvn_conn_watch(struct kvn_conn *conn, int fd, int events);
void kvn_conn_unwatch(struct kvn_conn *conn);
void kvn_conn_watch_for(struct kvn_conn *conn, int events);
/* Fewer bytes than these do not make the socket readable. */
void kvn_conn_set_low_water(int fd, int bytes);
void kvn_conn_move(struct kvn_conn *conn, enum kvn_conn_state next);
/* Connected, by us: speaks first. In the loop. */
void kvn_conn_connected(struct kvn_conn *conn);
/* From outside: ends in its turn, with this reason. */
void kvn_conn_break(struct kvn_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* In the loop: at once, with down() or dial_failed(). */
void kvn_conn_end(struct kvn_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* In the loop: down() at once; the socket once all is sent, or after a second. */
void kvn_conn_linger(struct kvn_conn *conn);
/* True while bytes of the peer are wanted. */
bool kvn_conn_takes(const struct kvn_conn *conn);

/* ---- links_out.c: false when it is broken, and its turn will come */
/* What TLS has for the socket joins what waits. */
bool kvn_conn_pull(struct kvn_conn *conn);
/* Clear bytes on their way. */
bool kvn_conn_put(struct kvn_conn *conn, const uint8_t *bytes, size_t len);
/* A frame, within queue_bytes. */
bool kvn_conn_send(struct kvn_conn *conn, const uint8_t *bytes, size_t len);
/* As much as the socket takes now; the rest when it can. */
void kvn_conn_flush(struct kvn_conn *conn);
/* The same without a look at what comes of it. False: errno says why. */
bool kvn_conn_send_out(struct kvn_conn *conn);

/* ---- links_rate.c */
/* Takes one handshake out of the address's bucket; false when that is empty. */
bool kvn_links_may_shake(struct kvn_links *links, const union kvn_sockaddr *addr);

/* ---- links_dial.c */
void kvn_dial_begin(struct kvn_conn *conn);
void kvn_dial_connected(struct kvn_conn *conn, int error);

#endif
