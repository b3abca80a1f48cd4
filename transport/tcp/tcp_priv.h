/* The tcp transport's insides: who owns what, and what the loop and the movers tell
 * each other.
 *
 *   port.c    loop     seats, free slots; commands out, events in
 *   mover.c   movers   epoll, commands, breaking and closing
 *   send.c    movers   hello, READs and pages out
 *   receive.c movers   hello and READs in; pages in, straight to where they belong
 *   resolve.c resolver names to addresses, off the loop and off the movers
 *
 * Threading: a slot (connection, operation, request) is written by one side at a time.
 * The loop fills it and puts a command; from then on it is its mover's, until the mover
 * puts the event that gives it back. Fields say whose they are where that differs.
 * Ownership: slots are the port's; a connection's socket is its mover's, or the loop's
 * when no mover runs any more. Hellos, heads and requests are copied; the memory that
 * operations name is the caller's, and untouched after their DONE. Errors: a
 * connection's are its `why`, told once as BROKEN.
 *
 * Numbered, cited in the code:
 *  (1) Only a connection's mover touches its socket, so when that has closed it nothing
 *      lands and nothing leaves: CLOSED is put after the close, after all its DONE.
 *  (2) Whatever a mover may put has had room in its ring since it was accepted: DONE
 *      one an operation; HELLO, BROKEN, CLOSED or GONE, and two REQUEST a connection.
 *  (3) A part is matched only while its READ has been sent whole and its bit is set;
 *      the bit goes when its DONE is put.
 *  (4) Bytes land only in to[0 … len) with len <= room.
 *  (5) A connection that has not been introduced is nobody's: its end is told to the
 *      loop (GONE) and not to the caller.
 */
#ifndef KVT_TCP_PRIV_H
#define KVT_TCP_PRIV_H

#include "base/digest.h"
#include "transport/bell.h"
#include "transport/check.h"
#include "transport/clock.h"
#include "transport/ring.h"
#include "transport/seat.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/resolve.h"
#include "transport/transport.h"

#include <pthread.h>

enum {
    KVT_TCP_HEAD_BYTES = KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX,
    KVT_TCP_IN_BYTES = KVT_FRAME_HEADER_BYTES + KVT_REQUEST_BYTES_MAX,
    /* READs of one connection that the loop has not taken: one that it looks at, and
     * the next. More only fill memory for a reader that asks faster than we answer. */
    KVT_TCP_TRAYS = 2,
    /* One turn of one connection, each way, before the next one has its turn. */
    KVT_TCP_TURN_BYTES = 512 << 10,
    /* One recvmsg of a page that is digested: what was copied in is still in the second
     * cache when it is read. */
    KVT_TCP_CHUNK_BYTES = 128 << 10,
    KVT_TCP_IOVS = 32, /* of one sendmsg */
    /* Smaller pages come through a mover's stage, several with one recvmsg, and are
     * copied from there while they are in cache: at 16 KiB the copy costs less than a
     * call, and the acknowledgement that it makes the kernel send, for each page. */
    KVT_TCP_SMALL_BYTES = 64 << 10,
    KVT_TCP_STAGE_BYTES = 128 << 10,
};

#define KVT_TCP_NONE UINT32_MAX

/* loop to mover; index: connection, operation or request */
enum kvt_tcp_command {
    KVT_TCP_OPEN,   /* connection: its hello */
    KVT_TCP_DIAL,   /* connection: its addresses; none: there is no such host */
    KVT_TCP_ADOPT,  /* connection: its fd */
    KVT_TCP_ACCEPT, /* connection */
    KVT_TCP_CLOSE,  /* connection */
    KVT_TCP_TAKEN,  /* connection: the oldest tray is free */
    KVT_TCP_READ,   /* request */
    KVT_TCP_SEND,   /* operation */
    KVT_TCP_QUIT,
};
enum { KVT_TCP_CONN_COMMANDS = 4 + KVT_TCP_TRAYS }; /* at most, at one time */

/* mover to loop */
enum kvt_tcp_news {
    KVT_TCP_HELLO,   /* connection; arg: tray */
    KVT_TCP_OFFER,   /* the same, and its owner opened it */
    KVT_TCP_REQUEST, /* connection; arg: tray */
    KVT_TCP_DONE,    /* operation */
    KVT_TCP_BROKEN,  /* connection: its `why` */
    KVT_TCP_CLOSED,  /* connection */
    KVT_TCP_GONE,    /* connection, never introduced */
};
enum { KVT_TCP_CONN_NEWS = 3 + KVT_TCP_TRAYS };

/* A part of a READ, or a page being sent. */
struct kvt_tcp_op {
    uint64_t id;
    uint32_t conn;
    uint32_t request; /* of a read; NONE: a send */
    uint32_t next;    /* loop: free list; mover: queue of sends */
    uint8_t *to;      /* read */
    uint32_t room;
    uint32_t len; /* send */
    const uint8_t *from;
    uint32_t frame_len;
    uint8_t frame[KVT_TCP_HEAD_BYTES]; /* send: header and head */
    /* the mover's, until DONE */
    kv_status_t status;
    uint64_t computed, expected, gen;
    uint32_t data_len, n_tokens;
};

/* A READ: its bytes until they are sent, its parts until the last is done. */
struct kvt_tcp_request {
    uint64_t req;
    uint32_t conn;
    uint32_t nr_parts;
    uint32_t nr_left; /* loop: parts whose DONE was not taken */
    uint32_t next;    /* loop: free list; mover: waiting, then sent */
    uint32_t prev;
    uint64_t pending; /* (3), bit i: ops[i] */
    uint32_t ops[KV_MSG_READ_MAX];
    uint32_t frame_len;
    uint8_t frame[KVT_TCP_IN_BYTES];
};
_Static_assert(KV_MSG_READ_MAX <= 64, "pending has a bit a part");

enum kvt_tcp_state {
    KVT_TCP_UNUSED,
    KVT_TCP_CONNECTING,
    KVT_TCP_READER,     /* dialled, or offered and accepted: READs out, pages in */
    KVT_TCP_STRANGER,   /* adopted: has not said its hello */
    KVT_TCP_INTRODUCED, /* its hello is handed up; nothing more is read yet */
    KVT_TCP_OWNER,      /* accepted, or offered by us: READs in, pages out */
    KVT_TCP_DEAD,       /* its socket is closed; waits for KVT_TCP_CLOSE */
};

struct kvt_tcp_list {
    uint32_t first, last;
};

struct kvt_tcp_tray {
    uint32_t len;
    uint8_t bytes[KVT_REQUEST_BYTES_MAX];
};

struct kvt_tcp_conn {
    uint32_t mover; /* loop: whose it is */
    int fd;
    enum kvt_tcp_state state;
    kv_status_t why;     /* of BROKEN */
    uint32_t interest;   /* EPOLL* that epoll knows */
    bool offered;        /* its owner dials: us, or he who came in */
    bool dirty;          /* has something to send; in the mover's list by `next` */
    uint32_t next, prev; /* dirty list; of strangers the list by deadline */
    uint64_t hello_deadline_ns;

    struct kvt_address addresses[KVT_ADDRESSES];
    uint32_t nr_addresses, next_address;

    /* out: the hello, then queued requests (reader) or operations (owner) */
    uint32_t hello_len, hello_sent;
    uint8_t hello[KVT_FRAME_HEADER_BYTES + KVT_HELLO_BYTES_MAX];
    struct kvt_tcp_list queue;
    uint32_t queue_sent; /* bytes of its first that are sent */

    /* reader, in: READs sent whole, oldest first, and the page that is landing */
    struct kvt_tcp_list sent;
    uint32_t landing; /* operation, or NONE */
    uint32_t landing_request, landing_part;
    uint32_t landed, digested;
    bool pages_are_small; /* the last one was */
    struct kv_digest_state digest;

    /* owner, in */
    uint32_t nr_filled, nr_taken; /* trays, since the beginning */

    uint32_t in_at, in_len; /* bytes of `in` that are not parsed yet */
    uint8_t in[KVT_TCP_IN_BYTES];
    struct kvt_tcp_tray trays[KVT_TCP_TRAYS];
};

struct kvt_tcp_mover {
    struct kvt_tcp_port *port;
    struct kvt_ring commands, news;
    struct kvt_bell bell;
    int epoll_fd;
    bool started, quit;
    bool has_news; /* put, and the loop's bell not rung yet */
    pthread_t thread;
    uint32_t nr_conns; /* loop: of this mover */
    struct kvt_tcp_list dirty, strangers;
    uint32_t gone;                      /* strangers that have ended, by `next` */
    _Alignas(16) uint8_t arena[4096];   /* a DATA takes none of it */
    uint8_t stage[KVT_TCP_STAGE_BYTES]; /* within one turn */
};

struct kvt_tcp_port {
    struct kvt_port port;
    struct kvt_regions regions;
    uint32_t nr_ops, nr_conns, nr_movers;
    uint64_t hello_ns;
    bool verify;

    struct kvt_tcp_mover *movers;
    struct kvt_tcp_conn *conns;
    struct kvt_tcp_op *ops;
    struct kvt_tcp_request *requests;
    struct kvt_resolver *resolver;
    struct kvt_bell bell; /* the loop's */

    /* the loop's */
    struct kvt_seats seats;
    uint32_t free_op, free_request;
    uint32_t nr_free_ops;
    uint32_t next_mover;   /* whose events are taken next */
    uint32_t first_mover;  /* that the next connection is given to, of equals */
    uint32_t nr_resolving; /* names asked, and their answers not taken */
    kvt_conn_t lent;       /* connection whose tray the caller looks at; 0: none */
};

/* mover.c: runs until KVT_TCP_QUIT. Its event fd is in its epoll as index NONE. */
void *kvt_tcp_mover_main(void *mover);
/* Closes the socket, if there is one; by its mover (`epoll_fd` is the mover's), or when
 * no mover runs (-1). */
void kvt_tcp_hang_up(int epoll_fd, struct kvt_tcp_conn *conn);
/* STRANGER to INTRODUCED. */
void kvt_tcp_introduced(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn);

/* For send.c and receive.c: ends the connection by itself; every operation of it ends
 * with LINK_LOST. */
void kvt_tcp_break(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, kv_status_t why);
void kvt_tcp_put(
    struct kvt_tcp_mover *mover, enum kvt_tcp_news kind, uint32_t index, uint32_t arg);
void kvt_tcp_done(
    struct kvt_tcp_mover *mover, struct kvt_tcp_op *op, kv_status_t status);
/* Tells epoll what the connection waits for; breaks it when that fails. */
void kvt_tcp_watch(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t interest);
static inline uint32_t
kvt_tcp_conn_index(const struct kvt_tcp_port *port, const struct kvt_tcp_conn *conn)
{
    return (uint32_t)(conn - port->conns);
}

/* send.c: sends what is queued, at most one turn. May break the connection, as all
 * below: look at its state before going on. */
void kvt_tcp_flush(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn);
void kvt_tcp_queue_request(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t index);
void kvt_tcp_queue_op(
    struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn, uint32_t index);

/* receive.c: reads what there is, at most one turn. */
void kvt_tcp_receive_pages(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn);
void kvt_tcp_receive_requests(struct kvt_tcp_mover *mover, struct kvt_tcp_conn *conn);

#endif
