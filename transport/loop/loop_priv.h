/* The loop transport's insides: ports of one process, and the ends of connections
 * between them.
 *
 *   process.c  any      the lock, the ports that are found by name, the domain, fork()
 *   port.c     loop     create, destroy, events
 *   conn.c     loop     open, accept, close, read, send: what happens at an end
 *   copier.c   copiers  threads that copy pages and digest them, and do nothing else
 *
 * A connection has an end at its reader's port and one at its owner's. The reader's
 * exists from open on, the owner's when its loop has taken the knock:
 *
 *   reader  KNOCKING ──hello taken──► JOINED ───────cut──────► CUT
 *                └───────no port, no place, close──────────────►┘
 *   owner                             JOINED ───────cut──────► CUT
 *
 *   CUT ── kvt_close, last DONE taken ──► CLOSED is told, FREE
 *
 * Numbered, cited in the code:
 *  (1) Both ends of a connection are JOINED and point to each other, or neither.
 *  (2) A READ is in its end's `posted` (not handed up) or `asked` (handed up) as long
 *      as one of its parts is pending; a part is pending until a page was matched with
 *      it, or it ended.
 *  (3) A page that waits is in `pages` of the reader's end, and has the part that it
 *      goes to; both end together. A reader's end with pages has its turn coming.
 *  (4) A page is copied only while both ports count it in nr_copying, and it is done
 *      after that. A cut leaves such a page alone.
 *  (5) CLOSED is told after the last DONE of the end, so nothing of it is copied any
 *      more; a port leaves with nr_copying 0.
 *
 * Threading: the lock covers what is not marked as the loop's; that is touched by the
 * port's own thread alone. A page under way, and its part, are the copier's.
 * Ownership: ends, operations and READs are their port's and go with it; what points
 * from one port to another (a peer, a knock, the part of a page) is cut before. Hellos
 * and requests are copies; the memory of parts and pages is the callers', and untouched
 * after their DONE. Errors: a connection's are its `why`, told once as BROKEN.
 */
#ifndef KVT_LOOP_PRIV_H
#define KVT_LOOP_PRIV_H

#include "transport/bell.h"
#include "transport/check.h"
#include "transport/loop/loop.h"
#include "transport/seat.h"
#include "transport/transport.h"

#include <pthread.h>
#include <sys/queue.h>

struct kvt_loop_end;
struct kvt_loop_read;

/* A part of a READ (at the reader), or a page that is sent (at the owner). */
struct kvt_loop_op {
    TAILQ_ENTRY(kvt_loop_op) link; /* free (loop), pages, done, told (loop) */
    struct kvt_loop_end *end;      /* of its own port */
    uint64_t id;
    kv_status_t status;
    /* part */
    struct kvt_loop_read *read; /* NULL: a page */
    uint8_t *to;
    uint32_t room, len, n_tokens;
    uint64_t computed, expected, gen;
    /* page */
    const uint8_t *from;
    struct kvt_loop_op *part; /* where it goes: part->len bytes */
    bool fits;                /* there, and is as long as its DATA says */
};
TAILQ_HEAD(kvt_loop_ops, kvt_loop_op);

struct kvt_loop_read {
    TAILQ_ENTRY(kvt_loop_read) link; /* free (loop), posted, asked */
    struct kvt_loop_end *end;
    bool is_asked;
    uint64_t req;
    uint64_t pending; /* bit i: parts[i] (2) */
    uint32_t nr_parts;
    uint32_t nr_left; /* loop: parts whose DONE was not taken */
    struct kvt_loop_op *parts[KV_MSG_READ_MAX];
    uint32_t len;
    uint8_t bytes[KVT_REQUEST_BYTES_MAX];
};
_Static_assert(KV_MSG_READ_MAX <= 64, "pending has a bit a part");
TAILQ_HEAD(kvt_loop_reads, kvt_loop_read);

enum kvt_loop_state {
    KVT_LOOP_FREE,
    KVT_LOOP_KNOCKING,
    KVT_LOOP_JOINED,
    KVT_LOOP_CUT,
};

struct kvt_loop_end {
    struct kvt_loop_port *port; /* constant */
    struct kvt_loop_end *peer;  /* (1); KNOCKING: NULL */
    enum kvt_loop_state state;
    bool is_reader, is_accepted, is_closing;
    bool tell_broken; /* `why` is to be told */
    kv_status_t why;
    uint32_t nr_ops; /* loop: accepted, and their DONE not taken (5) */

    TAILQ_ENTRY(kvt_loop_end) telling; /* in its port's list */
    bool is_telling;

    /* reader */
    TAILQ_ENTRY(kvt_loop_end) queue; /* the owner's knocks, then its own port's turns */
    struct kvt_loop_port *knocks_at;
    struct kvt_loop_reads posted, asked;
    struct kvt_loop_ops pages;
    uint32_t hello_len;
    uint8_t hello[KVT_HELLO_BYTES_MAX];
};
TAILQ_HEAD(kvt_loop_ends, kvt_loop_end);

struct kvt_loop_port {
    struct kvt_port port;
    LIST_ENTRY(kvt_loop_port) listening;
    char name[KVT_ADDRESS_MAX]; /* "": nobody finds it */
    struct kvt_regions regions;
    uint32_t nr_ops, nr_conns, nr_threads;
    bool verify;
    struct kvt_bell bell; /* the loop's */

    struct kvt_loop_ends knocks;  /* readers' ends of other ports */
    struct kvt_loop_ends telling; /* ends that may have something to tell */
    struct kvt_loop_ops done;
    struct kvt_loop_ends turns; /* readers' ends with pages */
    uint32_t nr_copying;        /* from or to its memory (4) */
    bool quit;
    pthread_cond_t work; /* turns, quit */
    pthread_cond_t idle; /* nr_copying is 0, and quit */

    /* the loop's */
    struct kvt_seats seats;
    struct kvt_loop_end *ends; /* by seat */
    struct kvt_loop_op *ops;
    struct kvt_loop_read *reads;
    struct kvt_loop_ops free_ops, told;
    struct kvt_loop_reads free_reads;
    uint32_t nr_free_ops;
    uint32_t nr_used_ops, nr_used_reads; /* ever: slots behind them were not */
    uint32_t nr_started;
    pthread_t threads[KVT_THREADS_MAX];
    uint8_t bytes[KVT_REQUEST_BYTES_MAX]; /* of the last event */
};

static inline struct kvt_loop_port *kvt_loop_of(kvt_port_t *port)
{
    return (struct kvt_loop_port *)port;
}
static inline uint32_t kvt_loop_index(const struct kvt_loop_end *end)
{
    return (uint32_t)(end - end->port->ends);
}

/* ---- process.c ------------------------------------------------------------------ */

void kvt_loop_lock(void);
void kvt_loop_unlock(void);
/* Waits with the lock given back meanwhile. */
void kvt_loop_wait(pthread_cond_t *condition);
/* AGAIN with its detail: another port of this process has the name. */
kv_status_t kvt_loop_publish(
    struct kvt_loop_port *port, const char *name, struct kv_detail *detail);
/* The rest is called under the lock, here and below where it says so. */
void kvt_loop_withdraw(struct kvt_loop_port *port);
struct kvt_loop_port *kvt_loop_find(const char *name); /* NULL: none */

/* ---- conn.c --------------------------------------------------------------------- */

kv_status_t kvt_loop_open(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p);
void kvt_loop_accept(kvt_port_t *port, kvt_conn_t conn);
void kvt_loop_close(kvt_port_t *port, kvt_conn_t conn);
kv_status_t kvt_loop_read(
    kvt_port_t *port, kvt_conn_t conn, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts);
kv_status_t kvt_loop_send(
    kvt_port_t *port, kvt_conn_t conn, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len);

/* Under the lock. Its port's kvt_next() will look at it. */
void kvt_loop_tell(struct kvt_loop_end *end);
/* Its DONE is to be told; of a page and of its part. */
void kvt_loop_done(struct kvt_loop_op *op, kv_status_t status);
void kvt_loop_page_done(struct kvt_loop_op *page, kv_status_t status);
/* The owner takes a knock: its end is at this seat from now on. */
void kvt_loop_join(struct kvt_loop_end *reader, struct kvt_loop_port *port, uint32_t i);
/* Nothing of the connection is begun any more (4). Each end that is not being closed
 * tells why; nothing happens to one that is CUT. */
void kvt_loop_cut(struct kvt_loop_end *end, kv_status_t why, kv_status_t why_there);

/* ---- copier.c ------------------------------------------------------------------- */

/* Those that are not there yet. IO: there is none at all. */
kv_status_t kvt_loop_copiers_start(struct kvt_loop_port *port);
/* Under the lock: told to end, and no page from or to our memory is under way. */
void kvt_loop_copiers_quit(struct kvt_loop_port *port);
void kvt_loop_copiers_join(struct kvt_loop_port *port); /* without the lock */

#endif
