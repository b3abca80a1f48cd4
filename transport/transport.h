/* transport: moves the bytes of pages between memories of processes and hosts.
 *
 *   node/daemon (loop thread)                      movers (threads of the transport)
 *     kvt_open, _read, _send, _close ──► commands, bounded ──► sockets, maps, queues
 *     kvt_next ◄── events, bounded, one event fd ◄── landed bytes and their digests
 *
 * A port is one node's end of one transport; a connection is between a reader and an
 * owner and carries pages one way, owner to reader. The reader opens it; or, where the
 * reader cannot reach the owner, the owner offers it (kvt_offer) and the reader accepts
 * it: bytes still move only because the reader asks for them. It knows nothing of
 * pages, links or tenants: the first message (DATA_OPEN) and every request (READ) are
 * handed up as bytes, and the node says what is sent for them.
 *
 * Threading: every call comes from the one thread that opened the port (the loop). No
 * call blocks, none calls back. Ownership: the caller's memory that a read or a send
 * names must stay until its KVT_EV_DONE, or until KVT_EV_CLOSED of its connection:
 * after that nothing touches it any more. That event is the fence that node/core counts
 * on (design.md, "Transports and their fences"). Order: requests and reads of one
 * connection start in the order given; completions come in any order. Promises: each
 * id that was accepted has exactly one KVT_EV_DONE; each connection that kvt_open()
 * gave, or that came by KVT_EV_HELLO, has exactly one KVT_EV_CLOSED, after all DONE of
 * it. Time is the caller's business: a transport gives up nothing by itself but a
 * connection that says no first message (hello_us). Lengths and offsets are bytes.
 * Errors: said with each call; what ends a connection later comes as KVT_EV_BROKEN.
 */
#ifndef KVT_TRANSPORT_H
#define KVT_TRANSPORT_H

#include "base/msg.h"

#include <stdbool.h>

enum {
    KVT_REGIONS_MAX = 64,
    KVT_HELLO_BYTES_MAX = 256,     /* an encoded DATA_OPEN */
    KVT_REQUEST_BYTES_MAX = 16384, /* an encoded READ of KV_MSG_READ_MAX copies */
    KVT_HEAD_BYTES_MAX = 256,      /* an encoded DATA */
    KVT_ADDRESS_MAX = 128,         /* "host:port", a path, a name; with the NUL */
    /* Of one port; more is refused at its start. */
    KVT_OPS_MAX = 65536,
    KVT_CONNS_MAX = 4096,
    KVT_THREADS_MAX = 64,
};

/* What a transport can do; tests/transport/contract_test.c proves every bit. */
enum kvt_cap {
    KVT_CAP_NAMED = 1 << 0,     /* the reader names the copy, the owner sends */
    KVT_CAP_ONE_SIDED = 1 << 1, /* the reader reads the owner's region under a grant */
    KVT_CAP_VERIFIES = 1 << 2,  /* DONE of a read carries the digest of what landed */
    KVT_CAP_REMOTE = 1 << 3,    /* reaches other hosts */
    /* CLOSED follows close() soon, whatever the other side does. Without it that is so
     * at the reader alone: the owner's CLOSED waits until the reader has said that it
     * reads no more, or has died. */
    KVT_CAP_CLOSE_FENCES = 1 << 4,
    /* kvt_offer(): who dials may be the owner, and who is dialled read. */
    KVT_CAP_OFFERS = 1 << 5,
};

/* Memory that reads land in and sends come from. */
struct kvt_region {
    uint8_t *base;
    uint64_t bytes;
    int fd; /* memfd of a `read` arena that peers may map; -1: none */
};

struct kvt_config {
    /* Where readers come in, and so their address: the path of a Unix socket for "shm",
     * a name in this process for "loop". NULL: nobody does, or by kvt_adopt() alone. */
    const char *listen;
    const struct kvt_region *regions; /* copied; index = arena of a grant */
    uint32_t nr_regions;
    uint32_t nr_ops;   /* reads and sends in flight, all connections */
    uint32_t nr_conns; /* both directions, and those not yet introduced */
    uint32_t nr_threads;
    uint64_t hello_us; /* an accepted connection says its first message within this */
    bool verify;       /* compute digests of what lands */
};

typedef struct kvt_port kvt_port_t;

/* Names a connection of this port; a number is never used twice. 0: none. */
typedef uint64_t kvt_conn_t;

/* One page that a READ asks for, or one one-sided read. */
struct kvt_part {
    uint64_t id; /* comes back in KVT_EV_DONE */
    uint8_t *to; /* inside a region */
    uint32_t room;
    /* one-sided: */
    uint32_t arena;
    uint64_t offset;
};

enum kvt_event_kind {
    KVT_EV_HELLO,   /* a connection came in and said its first message: bytes, len */
    KVT_EV_REQUEST, /* a READ came on a connection that was accepted: bytes, len */
    KVT_EV_DONE,    /* id, status, and for reads what landed */
    KVT_EV_BROKEN,  /* the connection ended by itself; CLOSED follows kvt_close() */
    KVT_EV_CLOSED,  /* nothing of this connection touches memory any more */
};

struct kvt_event {
    enum kvt_event_kind kind;
    kvt_conn_t conn;
    uint64_t id;
    /* DONE: OK; what the owner said (MISS, AGAIN, DENIED, …); LINK_LOST; IO: the
     * owner's header does not fit the request. BROKEN, for the log: LINK_LOST,
     * PROTOCOL (what came was no frame, or one that nobody asked for), IO (ours). */
    kv_status_t status;
    uint64_t computed; /* reads: digest of what landed; 0 without KVT_CAP_VERIFIES */
    uint64_t expected; /* READ: the owner's digest, generation, length and tokens */
    uint64_t gen;
    uint32_t len;
    uint32_t n_tokens;
    const uint8_t *bytes; /* until the next kvt_next() of this port */
    uint32_t nr_bytes;
    bool offered; /* HELLO: its owner opened it; after accept, reads are ours to post */
};

struct kvt_ops {
    const char *name; /* "tcp": the word used in config, HELLO, logs and tests */
    uint32_t caps;

    /* KV_ERR_NOMEM, KV_ERR_IO (threads, event fd; `listen` with its detail) or
     * KV_ERR_CONFIG with its detail; AGAIN: another port listens there now. */
    kv_status_t (*create)(
        const struct kvt_config *config, kvt_port_t **port_p, struct kv_detail *detail);
    /* Closes what is open, ends the movers, waits for them (bounded: they never block
     * on a peer). No event comes any more. It proves nothing of an owner's connections
     * without CLOSE_FENCES: readers may go on reading what they were given. */
    void (*destroy)(kvt_port_t *port);
    /* Readable when kvt_next() has something. */
    int (*fd)(const kvt_port_t *port);

    /* Opens a connection to the owner at `address` and says `hello` first. Reads may
     * be posted at once. Failure to connect, and a host that does not exist, come as
     * KVT_EV_BROKEN. AGAIN: nr_conns. INVALID: `address` is none, or the hello has no
     * byte or too many. */
    kv_status_t (*open)(
        kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
        kvt_conn_t *conn_p);
    /* KVT_CAP_OFFERS: the same by the owner: the other side, once it has accepted,
     * reads, and its requests are handed up here. INVALID without the capability. */
    kv_status_t (*offer)(
        kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
        kvt_conn_t *conn_p);
    /* A connected socket that a listener of the node accepted: the transport owns it
     * from here on, also on failure. AGAIN: nr_conns, or half of them have not said
     * their hello. INVALID: connections come by `listen` alone. One that ends before
     * its hello ends without an event. */
    kv_status_t (*adopt)(kvt_port_t *port, int fd);
    /* After KVT_EV_HELLO: requests of this connection are handed up from now on; of one
     * that was offered, reads may be posted. */
    void (*accept)(kvt_port_t *port, kvt_conn_t conn);
    /* Ends it. KVT_EV_CLOSED follows once nothing of it touches memory any more: soon
     * and always, see KVT_CAP_CLOSE_FENCES. Idempotent; an unknown conn is ignored. */
    void (*close)(kvt_port_t *port, kvt_conn_t conn);

    /* KVT_CAP_NAMED, reader: sends `request` (an encoded READ with number `req`, which
     * no other in flight on this connection has); the answer to its i-th copy lands in
     * parts[i]. `request` and `parts` are copied. AGAIN: nr_ops; nothing was posted.
     * LINK_LOST: no such connection, or it is being closed. INVALID: a size, the
     * direction, or memory outside the regions. */
    kv_status_t (*read)(
        kvt_port_t *port, kvt_conn_t conn, uint64_t req, const uint8_t *request,
        uint32_t len, const struct kvt_part *parts, uint32_t nr_parts);
    /* KVT_CAP_NAMED, owner: sends `head` (an encoded DATA) and len bytes from `from`
     * (NULL with 0). DONE when they have left our memory for good; `head` is copied.
     * An answer without bytes takes an operation, too. Errors as for read. */
    kv_status_t (*send)(
        kvt_port_t *port, kvt_conn_t conn, uint64_t id, const uint8_t *head,
        uint32_t head_len, const uint8_t *from, uint32_t len);
    /* KVT_CAP_ONE_SIDED, reader: reads part->room bytes at (arena, offset) of the
     * owner. May be posted before the owner has accepted: it waits. DONE: OK with
     * `computed` and `len`; IO: no such bytes in an arena that the owner gives out;
     * LINK_LOST. Errors as for read. */
    kv_status_t (*get)(kvt_port_t *port, kvt_conn_t conn, const struct kvt_part *part);

    /* The next event; false when there is none. */
    bool (*next)(kvt_port_t *port, struct kvt_event *event);
};

/* Every port begins with its table; the calls below go through it. */
struct kvt_port {
    const struct kvt_ops *ops;
};

static inline void kvt_destroy(kvt_port_t *port)
{
    if (port != NULL) {
        port->ops->destroy(port);
    }
}
static inline int kvt_fd(const kvt_port_t *port)
{
    return port->ops->fd(port);
}
static inline kv_status_t kvt_open(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return port->ops->open(port, address, hello, len, conn_p);
}
static inline kv_status_t kvt_offer(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return port->ops->offer(port, address, hello, len, conn_p);
}
static inline kv_status_t kvt_adopt(kvt_port_t *port, int fd)
{
    return port->ops->adopt(port, fd);
}
static inline void kvt_accept(kvt_port_t *port, kvt_conn_t conn)
{
    port->ops->accept(port, conn);
}
static inline void kvt_close(kvt_port_t *port, kvt_conn_t conn)
{
    port->ops->close(port, conn);
}
static inline kv_status_t kvt_read(
    kvt_port_t *port, kvt_conn_t conn, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts)
{
    return port->ops->read(port, conn, req, request, len, parts, nr_parts);
}
static inline kv_status_t kvt_send(
    kvt_port_t *port, kvt_conn_t conn, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    return port->ops->send(port, conn, id, head, head_len, from, len);
}
static inline kv_status_t
kvt_get(kvt_port_t *port, kvt_conn_t conn, const struct kvt_part *part)
{
    return port->ops->get(port, conn, part);
}
static inline bool kvt_next(kvt_port_t *port, struct kvt_event *event)
{
    return port->ops->next(port, event);
}

extern const struct kvt_ops kvt_loop; /* transport/loop/ */
extern const struct kvt_ops kvt_shm;  /* transport/shm/ */
extern const struct kvt_ops kvt_tcp;  /* transport/tcp/ */

/* The table called `name`, or NULL. kvt_ops_at(i): all of them, NULL past the last. */
const struct kvt_ops *kvt_ops_find(const char *name);
const struct kvt_ops *kvt_ops_at(unsigned i);

#endif
