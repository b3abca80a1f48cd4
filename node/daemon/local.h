/* Clients on this machine: a Unix socket to attach by, shared rings to ask by, buffers
 * of theirs that pages are copied to and from (docs/clients.md, byte for byte).
 *
 *   client ── connect ──► peer credentials, pidfd ──► GREETING
 *   client ── ATTACH ──► its uid's tenants ──► attach() ──► core
 *          ◄── ATTACHED: salts, spaces, memfd of the rings ──
 *   client ── ring: requests ──► copied once, checked ──► request() ──► core
 *          ◄── ring: answers ── kvn_local_answer() ◄── core
 *   client ── hang-up, or its pidfd readable ──► hung_up(), dead()
 *   this process ── kvn_local_adopt(socket) ──► GREETING, and on as any client
 *   anybody ── ASK ──► what its uid covers ──► ask() ──► REPORT, and the end
 *
 * The socket is 0600, or 0660 for a group that the configuration names; what the
 * credentials do not cover is not there. A ring is hostile
 * input: every record is copied to memory of ours before a byte of it is looked at;
 * head and tail are judged each time they are read; anything malformed ends that client
 * and no other. Room for a request's answer is kept when it is taken from the ring, so
 * that a client that does not read slows down nobody else. The loop polls the rings for
 * poll_us after the last request, then says that it sleeps; only then need a client
 * wake it, by one byte on the socket. (Not by an event fd: its flags are shared with
 * whoever has a copy, so a client could fill it, make it blocking, and stop our loop in
 * write().) A client's memory is mapped only when it is sealed against shrinking; it
 * stays mapped while an order uses it, also when the client is gone.
 *
 * Death: clients of the object level map nothing of ours but their own rings, so a
 * hang-up leaves nothing that they could still write, and dead() follows hung_up() at
 * once. The pidfd tells of a death that a hang-up does not: another process has a copy
 * of the socket. Clients of the pager level map the fill arenas of their tenant: what
 * one that hangs up with sequences open could still write stays fenced until the pidfd
 * says that the process is dead. So a process that has none (of another pid namespace)
 * is not let in there.
 *
 * Notices: a table that changes by itself (kvn_local_switched) is told by a record when
 * the answer ring has room; until then the sequence is marked, and no answer gives a
 * version that the client could confirm without knowing its table. A client that reads
 * nothing costs one mark a sequence.
 *
 * Threading: the loop thread (libuv). Callbacks come from the loop, never from inside a
 * call, but for note(). Bounds: clients, buffers and their bytes a client, connections
 * not yet attached; bytes of a ring and requests in flight as in node/ring.h.
 * Ownership: lists and texts of the configuration are copied, descriptors of arenas
 * stay the caller's; clients' memory is mapped until the last kvn_local_release().
 * Units: bytes; deadlines are uv_hrtime() in microseconds. Errors: CONFIG, IO or NOMEM
 * with one line to open; what is wrong with a client it is told, or it is ended, with
 * one line by note().
 */
#ifndef KVN_LOCAL_H
#define KVN_LOCAL_H

#include "node/core/core.h"

#include <uv.h>

enum {
    KVN_LOCAL_BUFFERS_MAX = 64,       /* of a client */
    KVN_LOCAL_UIDS_MAX = 16,          /* of a tenant */
    KVN_LOCAL_ATTACHING_MAX = 32, /* not attached yet: then the oldest gives way */
    KVN_LOCAL_ATTACHING_UID_MAX = 16, /* of them, of one uid */
    KVN_LOCAL_NOTE_MAX = 256,
};

/* Tenant i of the pager's config: who may speak as it. */
struct kvn_local_tenant {
    uint32_t id;
    const uint8_t *secret; /* to make salts of; not given away */
    size_t secret_len;
    uint32_t uids[KVN_LOCAL_UIDS_MAX]; /* of client processes */
    uint32_t nr_uids;
};

/* What clients may know of a space: variant first_variant + g is its group g. */
struct kvn_local_space {
    const char *name; /* [space "name"]; at most 39 bytes */
    kv_key_t id;
    uint32_t page_tokens;
    uint32_t page_bytes; /* that a full page takes in a client's buffer */
    uint32_t nr_groups;
    uint16_t first_variant;
};

/* A pool in memory of mode `fill`: clients of its tenant map it at the pager level. */
struct kvn_local_arena {
    uint16_t tenant; /* index */
    uint32_t pool;   /* index in the pager's config */
    int fd;          /* the caller's, until kvn_local_close() has ended */
    uint64_t bytes;  /* of the descriptor */
    uint32_t block_bytes, nr_blocks;
};

struct kvn_local_config {
    /* Of the socket; a stale one is removed, a living one refused. NULL or "": none,
     * and clients come by kvn_local_adopt() alone. */
    const char *path;
    bool group_too; /* mode 0660 instead of 0600, of this group: */
    const char *group; /* a name or a number; NULL or "": that of the process */
    const struct kvn_local_tenant *tenants; /* copied, secrets wiped at close */
    uint32_t nr_tenants;
    const struct kvn_local_space *spaces;
    uint32_t nr_spaces;
    const struct kvn_local_arena *arenas; /* copied */
    uint32_t nr_arenas;                   /* 0: no pager level */
    uint32_t nr_sequences;                /* of the pager's config */
    uint32_t nr_clients;
    uint64_t buffer_bytes; /* of one client, all buffers */
    uint64_t poll_us;      /* rings are polled for so long after the last request */
    uint64_t attach_us;    /* from connect to a whole ATTACH */
};

/* Who asks: what the kernel says of its process, and what that covers. */
struct kvn_local_asker {
    bool operates;    /* the node's own uid, or root */
    uint64_t tenants; /* a bit an index of ours; all of them for the operator */
};
struct kvn_packet;
struct kvn_packet_ask;

struct kvn_local_events {
    void *arg;
    /* A question on a socket of its own: OK and a descriptor for the caller to close,
     * *bytes_p long; or why not. NULL: nobody is told anything. */
    kv_status_t (*ask)(
        void *arg, const struct kvn_local_asker *asker, uint32_t tenant,
        const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
        struct kv_detail *detail);
    kv_status_t (*attach)(void *arg, uint64_t tenants, struct kvo_client_id *client_p);
    /* OK: kvn_local_answer() follows once. Else answered here with that status. */
    kv_status_t (*request)(
        void *arg, struct kvo_client_id client, const struct kvo_request *request);
    /* As kvo_seq_table(); may be called from inside request() and kvn_local_answer().
     * NULL where there are no arenas. */
    kv_status_t (*table)(
        void *arg, struct kvo_client_id client, struct kvp_seq_id seq, uint32_t first,
        uint32_t *n_p, struct kvo_page *pages, struct kvp_seq_info *info);
    void (*hung_up)(void *arg, struct kvo_client_id client);
    void (*dead)(void *arg, struct kvo_client_id client);
    /* One line for the log: who was refused or ended, and why. May be NULL; may come
     * from inside kvn_local_answer(). */
    void (*note)(void *arg, const char *line);
};

struct kvn_local_counts {
    uint64_t attached, refused, hung_up, malformed, requests;
    uint64_t reported;        /* questions answered */
    uint64_t wakes;           /* of us, by clients */
    uint64_t woken;           /* clients, by us */
    uint64_t notices;         /* of changed tables */
    uint32_t clients, mapped; /* now: attached; pieces of clients' memory */
    uint32_t fenced;          /* now: hung up with sequences, and not dead */
};

typedef struct kvn_local kvn_local_t;

/* KV_ERR_CONFIG or IO with `line` (cap >= 512): a path too long (limit 107), a
 * directory that is missing or not writable, a living node behind the socket, a group
 * that is not there or that this process cannot give the socket to. */
kv_status_t kvn_local_open(
    uv_loop_t *loop, const struct kvn_local_config *config,
    const struct kvn_local_events *events, kvn_local_t **local_p, char *line,
    size_t cap);
/* Removes the socket and ends every client: hung_up() and dead() come from the loop (no
 * dead() of those that are fenced: nothing may be given to others any more); then, when
 * every hold has been released, `closed`, and the memory is gone. */
void kvn_local_close(kvn_local_t *local, void (*closed)(void *arg), void *arg);

/* One end of a SEQPACKET socket pair of this process, ours from here on: a client as
 * any other, but for two things. It may be any tenant of the configuration, since who
 * is in this process can read its secrets anyway; and no stranger's connections push it
 * out before it has attached. What cannot be served is closed. From the loop alone. */
void kvn_local_adopt(kvn_local_t *local, int fd);

/* May be called from inside request(), hung_up() and dead(). A client that is gone is
 * ignored. */
void kvn_local_answer(kvn_local_t *local, const struct kvo_answer *answer);

/* The page of a client's table lies elsewhere now: kvo_out.switched. May be called from
 * inside request(). */
void kvn_local_switched(
    kvn_local_t *local, struct kvo_client_id client, struct kvp_seq_id seq,
    uint32_t page);

/* Address of `len` bytes of client `index`'s memory, as its request named them
 * (kvo_part.buffer), held until kvn_local_release(hold): a client that is gone keeps
 * its mapping as long. NULL: no such bytes. */
uint8_t *kvn_local_hold(
    kvn_local_t *local, uint32_t index, uint64_t buffer, uint32_t len,
    uint64_t *hold_p);
/* Every hold is released once, by kvn_local_close() and after. */
void kvn_local_release(kvn_local_t *local, uint64_t hold);
const struct kvn_local_counts *kvn_local_counts(const kvn_local_t *local);
/* It polls rings: the loop does not sleep. */
bool kvn_local_awake(const kvn_local_t *local);

#endif
