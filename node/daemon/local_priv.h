/* What the files of local share: local.c (socket, packets, lives), local_ring.c
 * (requests and answers), local_map.c (memory of clients), local_ask.c (who is told
 * what).
 *
 *   GREETED ── ATTACH ──► ATTACHED ──► ENDED ── handles closed ──► freed
 *      └── late, refused, malformed, told ─┘
 *
 * (1) A connection is found by the core's client index from attach() to conn_end(), so
 * no callback runs for a client that was said to be dead. (2) A buffer's slot is free
 * when it is not registered and no request in flight names it; a mapping is unmapped
 * when its slot has let go of it and no hold is left. (3) Whatever a client can fill
 * (its answer ring, its socket, its descriptors) stands in nobody else's way.
 *
 * Threading: the loop thread.
 */
#ifndef KVN_LOCAL_PRIV_H
#define KVN_LOCAL_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
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

struct local_buffer {
    uint32_t map;   /* LOCAL_NONE: the slot is free */
    uint32_t users; /* requests in flight that name it */
    uint16_t gen;   /* 10 bits of the id */
    bool registered;
};

/* A request in flight. */
struct local_entry {
    uint64_t tag;
    uint64_t buffers; /* slots that it names */
    uint32_t room;    /* promised in the answer ring */
    uint16_t next_free;
    uint16_t gen;
    uint16_t op;
    bool used;
};

enum conn_state { CONN_GREETED, CONN_ATTACHED, CONN_ENDED };

struct local_conn {
    kvn_local_t *local;
    struct local_conn *prev, *next;
    enum conn_state state;
    int fd, pidfd; /* pidfd -1: a process that this one cannot see */
    pid_t pid;
    uid_t uid;
    uint64_t nonce;
    uint64_t since_us;
    unsigned nr_handles;
    uv_poll_t socket_poll, pid_poll;

    /* from ATTACHED */
    struct kvo_client_id id;
    uint16_t tenant;
    bool broken;  /* to be ended by the next turn */
    bool stalled; /* no room for another answer, or too many in flight */
    struct kvn_rings *rings;
    uint32_t ring_bytes;
    struct kvn_ring requests, answers;
    uint32_t promised;           /* bytes of the answer ring */
    struct local_entry *entries; /* KVN_RING_REQUESTS_MAX */
    uint32_t nr_entries;
    uint16_t free_entry;
    struct local_buffer buffers[KVN_LOCAL_BUFFERS_MAX];
    uint64_t buffer_bytes;
};

struct local_tenant {
    uint32_t id;
    uint8_t secret[KV_SECRET_BYTES_MAX];
    size_t secret_len;
    uint32_t uids[KVN_LOCAL_UIDS_MAX];
    uint32_t nr_uids;
};

struct local_space {
    char name[KVN_PACKET_NAME_MAX];
    kv_key_t id;
    uint32_t page_tokens, page_bytes, nr_groups;
    uint16_t first_variant;
};

struct kvn_local {
    uv_loop_t *loop;
    struct kvn_local_events events;
    struct kvn_local_counts counts;
    struct local_tenant tenants[KVP_TENANTS_MAX];
    uint32_t nr_tenants;
    struct local_space spaces[KVN_PACKET_SPACES_MAX];
    uint32_t nr_spaces;
    uint32_t variant_bytes[KVP_VARIANTS_MAX]; /* of a page; 0: of no space */
    uint32_t nr_clients;
    uint64_t buffer_bytes, poll_us, attach_us;

    char path[108];
    dev_t path_dev;
    ino_t path_ino;
    int listen_fd;
    bool accept_paused;
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
        __attribute__((aligned(64))); /* the record being judged */
};

/* ------------------------------------------------------------------ local.c */
void kvn_local_note(kvn_local_t *local, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Ends it now; from the loop alone. */
void kvn_local_conn_end(struct local_conn *conn);
void kvn_local_conn_malformed(struct local_conn *conn, const struct kv_detail *detail);

/* ------------------------------------------------------------------ local_ring.c */
kv_status_t
kvn_local_conn_rings(struct local_conn *conn, uint32_t ring_bytes, int *fd_p);
void kvn_local_conn_rings_drop(struct local_conn *conn);
void kvn_local_wake(kvn_local_t *local);
void kvn_local_turn(kvn_local_t *local);

/* ------------------------------------------------------------------ local_ask.c */
/* What the sender of `ask` is told: DENIED for who is neither operator nor tenant. */
kv_status_t kvn_local_conn_ask(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail);

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
