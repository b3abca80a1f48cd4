/* What the files of remote share: remote.c (sessions, bytes, packets), remote_ask.c
 * (requests and answers), remote_data.c (data connections and orders).
 *
 *   ATTACHING ── ATTACH ──► ATTACHED ──► ENDED ── handles, conns, orders ──► freed
 *
 * Threading: the loop thread. Ownership: a connection has its socket and session
 * until it has ENDED, the rest until handles, orders and data connections are gone.
 * Units: bytes; microseconds of kvn_remote_now(). Errors: kvn_remote_break() and
 * kvn_remote_malformed() end the connection with the next turn, and no other.
 */
#ifndef KVN_REMOTE_PRIV_H
#define KVN_REMOTE_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/clients.h"
#include "node/daemon/frame.h"
#include "node/daemon/outbox.h"
#include "node/daemon/remote.h"
#include "node/remote_wire.h"

#include <string.h>

enum {
    REMOTE_NONE = UINT32_MAX,
    REMOTE_TURN_REQUESTS = 16, /* of one client, before the others have their turn */
    REMOTE_CHUNK_BYTES = 16 << 10,
    REMOTE_CLOCK_MS = 100, /* deadlines of orders and of what is held */
    REMOTE_CLIENT_OPS_MIN = 16,
    REMOTE_CLIENT_OPS_MAX = 256,
    REMOTE_KEY_BITS = 10, /* of kvo_part.buffer: entry << 10 | key */
};
_Static_assert(1 << REMOTE_KEY_BITS == KVN_RING_KEYS_MAX, "a key fits its bits");

/* A request in flight, in the slot that the client's tag names. */
struct remote_entry {
    bool used;
    bool answered; /* by the core; refusals of pages are still to be sent */
    uint16_t op;
    uint16_t gen; /* of our tags for the core */
    uint32_t nr_keys;
    uint64_t tag;
    uint64_t deadline_us;
    uint32_t room;                         /* promised of KVN_REMOTE_OUT_BYTES */
    uint32_t next_refusal;                 /* GET: keys before it have had their DATA */
    uint64_t sent[KVN_RING_KEYS_MAX / 64]; /* GET: bit i: key i had its page */
    uint8_t *answer;                       /* while `answered` */
    uint32_t answer_len;
};

/* What the client has posted for a flight of its own, perhaps before its request. */
struct remote_post {
    uint64_t tag;
    uint32_t mask; /* bit i: chunk i */
    uint32_t nr_keys;
};

struct remote_order {
    struct remote_conn *conn; /* NULL: free */
    uint64_t id;              /* of the core; 0: a refusal */
    bool in;
    bool posted; /* at the transport */
    uint32_t len;
    uint8_t *frame;
    uint64_t req;
    uint64_t deadline_us;
    struct kvn_remote_want want; /* in */
    struct kv_msg_data data;     /* out */
    uint32_t next;               /* free list, or those of its client that wait */
};

enum remote_state { REMOTE_ATTACHING, REMOTE_ATTACHED, REMOTE_ENDED };

struct remote_conn {
    kvn_remote_t *remote;
    struct remote_conn *prev, *next;
    enum remote_state state;
    int fd;
    kvn_tls_session_t *tls;
    char address[64];
    char reason[160];
    bool broken; /* its end comes with the next turn */
    uv_poll_t poll;
    uv_idle_t turn;
    unsigned nr_handles;
    int watched;
    uint64_t since_us;
    uint32_t tenant_id;
    uint16_t tenant;
    struct kvo_client_id id;

    uint8_t secret[KVN_REMOTE_SECRET_BYTES];
    kvt_conn_t reads, offers; /* the client reads on, offers; 0: not there */

    struct kvn_frames frames;
    uint8_t *frame_buffer, *held; /* KVN_REQUEST_BYTES_MAX each */
    uint32_t held_len;            /* 0: nothing is held */
    uint64_t held_until_us;
    uint8_t *clear; /* REMOTE_CHUNK_BYTES: clear_len from clear_at are not looked at */
    size_t clear_at, clear_len;
    bool unread; /* frames of what came wait for the next turn: no more is read */
    struct kvn_outbox out;
    uint32_t promised;

    struct remote_entry *entries; /* KVN_RING_REQUESTS_MAX */
    struct remote_post *posts;    /* the same */
    uint32_t nr_entries, nr_draining;
    uint32_t first_waiting, last_waiting; /* orders that the transport does not have */
    uint32_t nr_orders, nr_posted;
    uint64_t next_want;
};

struct kvn_remote {
    uv_loop_t *loop;
    struct kvn_remote_config config;
    struct kvn_remote_events events;
    struct kvn_remote_counts counts;
    struct kvn_told told;
    struct remote_conn *conns;
    uint32_t nr_conns;
    struct remote_conn *by_index[KVO_CLIENTS_MAX];
    struct remote_order *orders;
    uint32_t nr_orders, free_order, client_ops;
    uint32_t nr_taken;    /* of orders */
    uint32_t nr_refusals; /* orders of our own, within kvn_remote_ops() */
    uv_timer_t clock;
    unsigned nr_handles;
    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;
    uint8_t hello[8192] __attribute__((aligned(16))); /* one DATA_OPEN, decoded */
    uint8_t cipher[64 << 10];
    uint8_t scratch[(KVN_REQUEST_BYTES_MAX + 63) / 64 * 64]
        __attribute__((aligned(64)));
};

uint64_t kvn_remote_now(void);

/* ---- remote.c */
/* It ends with the next turn: for calls from inside others. */
void kvn_remote_break(struct remote_conn *conn, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void kvn_remote_malformed(struct remote_conn *conn, const struct kv_detail *detail);
/* A frame, sent now as far as the socket takes it. */
void kvn_remote_send(struct remote_conn *conn, const uint8_t *bytes, size_t len);
/* Something has made room, or what was held may go on: reads in the next turn. */
void kvn_remote_go_on(struct remote_conn *conn);
void kvn_remote_free_try(struct remote_conn *conn);

/* ---- remote_ask.c */
bool kvn_remote_may_ask(const struct remote_conn *conn);
/* `record` lies aligned in memory of ours. False: it is held until it can go on. */
bool kvn_remote_ask(struct remote_conn *conn, uint8_t *record, uint32_t len);
/* Refusals of pages that were not found, then the answers. */
void kvn_remote_drain(struct remote_conn *conn);
void kvn_remote_entries_drop(struct remote_conn *conn);

/* ---- remote_data.c */
/* A DATA without bytes; false: no operation is free now. */
bool kvn_remote_refuse(struct remote_conn *conn, uint64_t req, uint32_t index);
void kvn_remote_orders_work(struct remote_conn *conn);
/* The client is gone: what had not begun ends, connections close. */
void kvn_remote_orders_end(struct remote_conn *conn);
/* Ends clients whose orders are out for too long: one look at all orders. */
void kvn_remote_orders_look(kvn_remote_t *remote, uint64_t now_us);

#endif
