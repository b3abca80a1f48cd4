/* What the files of local share: local.c (socket, packets, lives), local_ring.c
 * (requests and answers), local_seq.c (block tables), local_map.c (memory of clients),
 * local_attach.c and local_ask.c (who is told what), local_group.c (whose the
 * socket is).
 *
 *   GREETED ── ATTACH ──► ATTACHED ────────────────► ENDED ── handles closed ──► freed
 *      │                     └─ sequences ─► FENCED ───┤ dead, or we close
 *      └── late, refused, malformed, told ─────────────┘
 *
 * (1) A connection is found by the core's client index from attach() to conn_end(), so
 * no callback runs for a client that was said to be dead. (2) A buffer's slot is free
 * when it is not registered and no request in flight names it; a mapping is unmapped
 * when its slot has let go of it and no hold is left. (3) Whatever a client can fill
 * (its answer ring, its socket, its descriptors) stands in nobody else's way. (4) A
 * sequence's `told` is a version whose table the client has been told whole: nothing
 * is owed (first >= end) and no APPEND of it is in flight when it rises. Only that one
 * is given to clients to confirm, since confirming lets go of frames of older tables.
 *
 * Threading: the loop thread. Ownership: a connection has its socket, rings, buffers
 * and requests until it has ENDED or is FENCED, the rest until its handles are closed;
 * a mapping is its holders', (2). Units: bytes; microseconds of uv_hrtime(). Errors: a
 * status and its detail are what the client is told; kvn_local_conn_malformed() ends it
 * with the next turn, and no other.
 */
#ifndef KVN_LOCAL_PRIV_H
#define KVN_LOCAL_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
struct ucred; /* <sys/socket.h>, with _GNU_SOURCE */

#include "node/daemon/clients.h"
#include "node/daemon/local.h"
#include "node/ring.h"

#include <string.h>
#include <sys/types.h>

enum {
    LOCAL_NONE = UINT32_MAX,
    LOCAL_TURN_REQUESTS = 16, /* of one client a turn: others wait behind them */
    LOCAL_TURN_PACKETS = 32,
    LOCAL_TURN_ACCEPTS = 16,
    LOCAL_BACKLOG = 64,
    LOCAL_CLOCK_MS = 25, /* of deadlines of attaching */
    LOCAL_SLOT_BITS = 6, /* of a buffer's id; the rest counts its uses */
};
_Static_assert(1 << LOCAL_SLOT_BITS == KVN_LOCAL_BUFFERS_MAX, "a slot a bit of a mask");

/* One piece of a client's memory, mapped here. */
struct local_map {
    uint8_t *base; /* NULL: free */
    uint64_t bytes;
    uint32_t gen;
    uint32_t holds;
    uint32_t next_free;
    bool kept; /* a slot of a living client has it */
};

/* A sequence of a client of the pager level, by its index in the pager. */
struct local_seq {
    struct local_conn *conn; /* NULL: none */
    uint64_t name;           /* the client's */
    uint64_t told;           /* (4) */
    uint32_t gen;
    uint32_t pages, tokens; /* as told: without those of an APPEND in flight */
    uint32_t first, end;    /* pages that a notice is owed for */
    uint32_t nr_appends;    /* in flight */
    uint32_t prev, next;    /* in conn's list of owed ones */
    bool owed;
};

struct local_buffer {
    uint32_t map;   /* LOCAL_NONE: the slot is free */
    uint32_t users; /* requests in flight that name it */
    uint16_t gen;   /* 10 bits of the id */
    bool registered;
};

/* A request in flight. */
struct local_entry {
    uint64_t tag;
    uint64_t buffers;  /* slots that it names */
    uint64_t name;     /* SEQ_OPEN, SEQ_FORK */
    uint32_t room;     /* promised in the answer ring */
    uint32_t nr_pages; /* of a table, that fit there */
    uint16_t next_free;
    uint16_t gen;
    uint16_t op;
    bool appends; /* counted in its sequence's nr_appends */
    bool used;
};

enum conn_state { CONN_GREETED, CONN_ATTACHED, CONN_FENCED, CONN_ENDED };

struct local_conn {
    kvn_local_t *local;
    struct local_conn *prev, *next;
    enum conn_state state;
    int fd, pidfd; /* pidfd -1: a process that this one cannot see */
    pid_t pid;
    uid_t uid;
    bool own; /* of this process: it may be any tenant */
    uint64_t nonce;
    uint64_t since_us;
    unsigned nr_handles;
    uv_poll_t socket_poll, pid_poll;

    /* from ATTACHED */
    struct kvo_client_id id;
    uint16_t tenant;
    uint16_t level;
    bool broken;  /* to be ended by the next turn */
    bool stalled; /* no room for another answer, or too many in flight */
    struct kvn_rings *rings;
    uint32_t ring_bytes;
    struct kvn_ring requests, answers;
    uint32_t promised;           /* bytes of the answer ring */
    struct local_entry *entries; /* KVN_RING_REQUESTS_MAX */
    uint32_t nr_entries;
    uint16_t free_entry;
    uint32_t answer_max; /* bytes of the longest answer at its level */
    uint32_t nr_seqs;
    uint32_t owed; /* first sequence that a notice is owed for; LOCAL_NONE */
    struct local_buffer buffers[KVN_LOCAL_BUFFERS_MAX];
    uint64_t buffer_bytes;
};

struct local_uids {
    uint32_t uids[KVN_LOCAL_UIDS_MAX];
    uint32_t nr;
};

struct kvn_local {
    uv_loop_t *loop;
    struct kvn_local_events events;
    struct kvn_local_counts counts;
    struct kvn_told told;
    struct local_uids uids[KVP_TENANTS_MAX]; /* of told.tenants */
    struct kvn_local_arena arenas[KVN_PACKET_ARENAS_MAX];
    uint32_t nr_arenas;
    uint16_t arena_of[KVP_POOLS_MAX]; /* number among its tenant's, by pool */
    struct local_seq *seqs;           /* NULL: no arenas */
    uint32_t nr_seqs;
    uint32_t nr_clients;
    uint64_t buffer_bytes, poll_us, attach_us;

    char path[108];
    dev_t path_dev;
    ino_t path_ino;
    int listen_fd; /* -1: no path, and so no listen_poll */
    bool accept_paused, pause_said; /* said once until one is accepted again */
    unsigned nr_handles;
    uv_poll_t listen_poll;
    uv_idle_t turn;   /* active: the loop does not wait */
    uv_timer_t clock; /* active while somebody is attaching, or accept() is paused */

    struct local_conn *conns; /* any state, the next to be served first */
    uint32_t nr_conns, nr_greeted;
    struct local_conn **by_index; /* (1) */
    bool awake;
    uint64_t last_us; /* when a ring last had something */

    struct local_map *maps;
    uint32_t nr_maps, free_map, nr_holds;

    bool closing;
    void (*closed)(void *arg);
    void *closed_arg;

    uint8_t scratch[(KVN_REQUEST_BYTES_MAX + 63) / 64 * 64]
        __attribute__((aligned(64)));           /* the record being judged */
    struct kvo_page pages[KVN_SEQ_ENTRIES_MAX]; /* being told */
};

/* ------------------------------------------------------------------ local.c */
void kvn_local_note(kvn_local_t *local, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Ends it now, as if it had hung up; from the loop alone. */
void kvn_local_conn_end(struct local_conn *conn);
void kvn_local_conn_malformed(struct local_conn *conn, const struct kv_detail *detail);

/* ------------------------------------------------------------------ local_group.c */
/* Lets config->group connect to the socket that is bound to config->path, if the config
 * says so: the group first, then its right; before listen(), so that nobody has
 * connected by then. */
kv_status_t kvn_local_group_give(
    const struct kvn_local_config *config, char *line, size_t cap);

/* ------------------------------------------------------------------ local_ring.c */
kv_status_t
kvn_local_conn_rings(struct local_conn *conn, uint32_t ring_bytes, int *fd_p);
void kvn_local_conn_rings_drop(struct local_conn *conn);
void kvn_local_wake(kvn_local_t *local);
void kvn_local_turn(kvn_local_t *local);
/* Is there room for whatever one more request may be answered with? (4) of ring.h */
bool kvn_local_room(struct local_conn *conn);
/* A packet of one byte, if it sleeps. */
void kvn_local_wake_client(struct local_conn *conn);

/* ------------------------------------------------------------------ local_seq.c */
kv_status_t kvn_seqs_init(kvn_local_t *local, const struct kvn_local_config *config);
/* The conn has none any more: those that it had are the core's to end. */
void kvn_seqs_drop(struct local_conn *conn);
/* Pages of tables that the request's answer may tell, at most. */
uint32_t kvn_seq_pages_max(const kvn_local_t *local, const struct kvn_request *request);
kv_status_t kvn_seq_check(
    const kvn_local_t *local, const struct kvn_request *request,
    struct kv_detail *detail);
/* The request goes to the core: its entry. */
void kvn_seq_begin(
    struct local_conn *conn, struct local_entry *entry,
    const struct kvn_request *request);
/* It was refused before the core had it. */
void kvn_seq_cancel(
    struct local_conn *conn, struct local_entry *entry,
    const struct kvn_request *request);
/* What an answer of the core says of a table, and what its client is owed after it;
 * pages go to local->pages. */
void kvn_seq_look(
    struct local_conn *conn, struct local_entry *entry, const struct kvo_answer *answer,
    struct kvn_answer_seq *seq);
/* Behind the head of an answer: seq, pages, tails. */
void kvn_seq_write(
    const kvn_local_t *local, uint8_t *to, const struct kvn_answer_seq *seq,
    const struct kvo_answer *answer);
/* Writes what is owed, as far as there is room. */
void kvn_seq_notices(struct local_conn *conn);
/* Is anything owed that kvn_seq_notices() would write, given room? */
bool kvn_seq_due(const struct local_conn *conn);

/* ------------------------------------------------------------------ local_attach.c */
/* A packet, all or nothing, without waiting; false: it did not go out. */
bool kvn_local_conn_say(struct local_conn *conn, const void *bytes, size_t len, int fd);
bool kvn_local_conn_refuse(
    struct local_conn *conn, uint64_t req, kv_status_t status,
    const struct kv_detail *detail);
/* The packet was sent by the process that the kernel named when it connected. */
bool kvn_local_same_process(
    const struct local_conn *conn, const struct kvn_packet *attach,
    const struct ucred *sender);
/* ATTACHED, or REFUSED and the end. */
void kvn_local_conn_attach(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct ucred *sender);

/* ------------------------------------------------------------------ local_ask.c */
/* REPORT or REFUSED, and the end. */
void kvn_local_conn_asked(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct kvn_packet_ask *ask, const struct ucred *sender);

/* ------------------------------------------------------------------ local_map.c */
kv_status_t kvn_maps_init(kvn_local_t *local);
/* The memory behind fd as one more buffer of the client: its id. */
kv_status_t kvn_buffer_add(
    struct local_conn *conn, int fd, uint64_t bytes, uint32_t *id_p,
    struct kv_detail *detail);
/* STALE: no such buffer. */
kv_status_t kvn_buffer_remove(struct local_conn *conn, uint32_t id);
void kvn_buffers_drop(struct local_conn *conn);
/* Checks `n` addresses of a client and makes them kvo_part.buffer: slot << 48 | offset.
 * *mask_p: the slots. STALE, INVALID with its detail. */
kv_status_t kvn_buffer_addresses(
    struct local_conn *conn, uint64_t *addresses, uint32_t n, uint32_t bytes,
    uint64_t *mask_p, struct kv_detail *detail);
void kvn_buffers_use(struct local_conn *conn, uint64_t mask);
void kvn_buffers_unuse(struct local_conn *conn, uint64_t mask);

#endif
