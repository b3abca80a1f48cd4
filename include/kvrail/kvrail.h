/* kvrail: the client library. Pages of attention keys and values go in and come out by
 * the names of their content, asynchronously.
 *
 *   kvr_open("unix:/run/kvrail/node.sock")  a node of this machine ──► kvr_client
 *   kvr_open("embed:/etc/kvrail/node.conf") a node in this process ──► kvr_client
 *   kvr_open("tls://host:port?cluster=NAME&psk=FILE") ──► of a node on another host
 *   kvr_space_find("chat") ──► kvr_space ──► kvr_keys_tokens(tokens) ──► keys
 *
 * Object level, for engines that keep their own tensors: batches of keys.
 *
 *   kvr_buffer_create ──► memory that the node reads and writes
 *   kvr_pool_add ──► … or blocks of tensors where they are, by one more copy
 *   kvr_submit(batch) ──► … ──► kvr_next(): one result a batch, one status a page
 *
 * Pager level, for engines whose kernels read pages where they lie: sequences with
 * block tables over the node's own memory, which the engine maps and fills in place.
 *
 *   kvr_arenas ──► memory ──► block b is its bytes from b * block_bytes
 *   kvr_seq_submit(OPEN, FETCH, APPEND, SEAL, … END) ──► … ──► kvr_next()
 *   kvr_seq_table ──► block of each page, and the version to confirm
 *
 * Threading: a client and its buffers belong to one thread at a time; open one each.
 * Keys, names and texts may be asked for on any thread. A client does not outlive
 * fork(): the child may only kvr_close() it. Ownership: the caller's arrays of a batch
 * are copied by kvr_submit(); the bytes in buffers belong to the node from submit to
 * result, those in pools to the library. After a result CANCELLED the node may still be
 * finishing a copy: such a buffer is destroyed, not used again. Of an arena a client
 * writes what an APPEND gave it and nothing else, until the SEAL, TRUNCATE or END of
 * that page. Units: lengths in bytes, times in microseconds.
 * Errors: kvr_status, negative ones are errors; out arguments are set on KVR_OK only;
 * kvr_error() says the last failure of a client in one line that names the field, the
 * limit and the value. A client that dies gives everything back: pins, sequences, and
 * what its batches held. One that only hangs up leaves the frames of sequences that it
 * has not ended in quarantine until its process is dead, since kernels may be running.
 *
 * A node in this process ("embed:FILE"; FILE is a configuration as kvraild takes it,
 * with KVRAIL_SECTION_KEY of the environment): the first kvr_open() of a file starts
 * it, others of the same file (device and inode) share it, the last kvr_close() stops
 * it. Two files are two nodes. It is a member of its cluster as any other: links, data
 * connections, and where the configuration says so a Unix socket and HTTP.
 * Threads: its own, which block all signals. It changes nothing of the process (no
 * handlers, no limits, no folder), writes to the log that the configuration names
 * (standard error, if none) and never to standard output. Nodes of one process have one
 * log, and so the same log.file, log.level and log.format.
 * Ownership: clients here may name any tenant of the configuration: who has the process
 * has its memory. The environment is read at a node's start: let no other thread change
 * it then. exit() stops nodes that are still there, as kvr_close() would.
 * Errors: a false assertion in a node aborts the process, since its memory can no
 * longer be trusted; and however the process ends, its nodes end with it.
 * fork(): a child has no nodes and cannot open any; as long as it lives without exec()
 * it keeps the ports and sockets of its parent's nodes busy.
 */
#ifndef KVRAIL_KVRAIL_H
#define KVRAIL_KVRAIL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVR_API __attribute__((visibility("default")))
#else
#define KVR_API
#endif

#define KVR_VERSION_MAJOR 0
#define KVR_VERSION_MINOR 1

/* Equal in number to the statuses of the wire; grouped by what must be replaced. */
enum kvr_status {
    KVR_OK = 0,
    KVR_SEALING = 2,        /* SEAL: found by others once its digest is known */
    KVR_EXISTS = 3,         /* PUT: an equal page is already there */
    KVR_AGAIN = -1,         /* no room at this moment */
    KVR_MISS = -10,         /* not to be had: compute it */
    KVR_NOT_VERIFIED = -11, /* the bytes did not match their digest; dropped */
    KVR_INVALID = -20,
    KVR_TOO_LARGE = -21,
    KVR_STALE = -22,
    KVR_DENIED = -23,
    KVR_QUOTA = -24,
    KVR_DEADLINE = -25,
    KVR_CANCELLED = -26,
    KVR_LINK_LOST = -40, /* the node is gone: open again */
    KVR_VERSION = -41,
    KVR_NOMEM = -60,
    KVR_CONFIG = -61,
    KVR_IO = -62,
};
typedef int kvr_status_t;

KVR_API const char *kvr_version(void); /* of the library: "0.1.0" */
/* "miss"; "unknown" for a number that is none of these. Then the same for people. */
KVR_API const char *kvr_status_name(kvr_status_t status);
KVR_API const char *kvr_status_text(kvr_status_t status);

/* ------------------------------------------------------------------ opening */

enum {
    KVR_KEY_BYTES = 32,
    KVR_BATCH_MAX = 1024,   /* keys of a batch */
    KVR_FLIGHT_MAX = 1024,  /* batches in flight */
    KVR_BUFFERS_MAX = 64,   /* of a client */
    KVR_EXTRA_MAX = 1024,   /* bytes that change a page beyond its tokens */
    KVR_OPAQUE_MAX = 256,   /* bytes of an engine's own name */
    /* How long an embedded node is waited for, µs. */
    KVR_EMBED_START_US = 600 * 1000 * 1000, /* its memory is populated in that time */
    KVR_EMBED_STOP_US = 10 * 1000 * 1000,
};

struct kvr_key {
    uint8_t bytes[KVR_KEY_BYTES];
};

typedef struct kvr_client kvr_client_t;

enum kvr_level {
    KVR_LEVEL_OBJECT = 0, /* kvr_submit() */
    KVR_LEVEL_PAGER = 1,  /* and kvr_seq_submit() */
};

/* Zero it, then set struct_size, target and tenant. */
struct kvr_config {
    size_t struct_size; /* sizeof(struct kvr_config) */
    /* "unix:PATH": a node of this machine. "embed:FILE": one in this process, of this
     * configuration. "tls://host:port?cluster=NAME&psk=FILE": one of another host, by
     * the tenant's key, or with ca=FILE&cert=FILE&key=FILE by its certificate; with
     * node=ID that node or none, with verify=off without a look at the digests of what
     * lands. Of such a node results and statuses are the same, buffers are memory of
     * this process alone, and the bytes of pages cross the network in clear. */
    const char *target;
    uint32_t tenant;    /* id; unix: the credentials of the process must cover it */
    uint32_t ring_bytes; /* a power of two, 128 KiB … 16 MiB; 0: 1 MiB */
    uint64_t timeout_us; /* of attaching and of buffers; 0: 5 s */
    uint64_t spin_us;    /* kvr_next() spins at most so long before it sleeps, and less
                          * while answers take longer; 0: 50 µs */
    enum kvr_level level;
};

/* DENIED: the tenant is not covered, or there is none. LINK_LOST: nobody listens, or
 * the node hung up. INVALID: KVR_LEVEL_PAGER, and the node is on another host, or its
 * configuration has no memory that this tenant fills (tenant.fill), or the process is
 * of another pid namespace, so that the node would not see it die. AGAIN: it has no
 * room for another client. DEADLINE. VERSION. CONFIG: a field of *config, or a
 * credential that it names. NOMEM, IO. On failure `error` (error_cap bytes; NULL and
 * 0: none wanted) gets one line. Waits at most timeout_us.
 *
 * Of a node that it starts: CONFIG: FILE is not there or wrong, or a credential, with
 * the first line of what is (file, line, option, limit, value). IO: a port or socket is
 * busy, or too few descriptors may be open (the limit is not raised here). NOMEM: too
 * little memory for the pools. INVALID: this process is a child of fork() of one that
 * had nodes. DEADLINE: it has not started within KVR_EMBED_START_US. AGAIN: another
 * thread starts or stops the file's node for longer than that. Waits for the start, as
 * long as it takes to populate the pools, at most KVR_EMBED_START_US, then timeout_us.
 * What fails leaves no node behind that was not there. */
KVR_API kvr_status_t kvr_open(
    const struct kvr_config *config, kvr_client_t **client_p, char *error,
    size_t error_cap);
/* Batches in flight end without a result, buffers and pins are given back. Does not
 * wait; but for the last client of an embedded node, which waits until the node has
 * stopped, at most KVR_EMBED_STOP_US: one that has not (the system's resolver of names
 * keeps silent) goes on stopping by itself. NULL is fine. */
KVR_API void kvr_close(kvr_client_t *client);
/* One line; "" when nothing has failed. Lives until the next call with the client. */
KVR_API const char *kvr_error(const kvr_client_t *client);
/* Readable when kvr_next() has a result, or the node is gone; sometimes without reason.
 * Only poll it: the library reads it. Call kvr_arm() each time before waiting. */
KVR_API int kvr_fd(const kvr_client_t *client);
/* 1: nothing is there yet, and kvr_fd() will tell. 0: call kvr_next(). */
KVR_API int kvr_arm(kvr_client_t *client);

/* ------------------------------------------------------------------ names */

/* A model's numbers as the node knows them. May be copied and used on any thread; the
 * salt belongs to the tenant: who knows it can name that tenant's pages. */
struct kvr_space {
    uint16_t variant; /* of group 0; group g is variant + g */
    uint16_t nr_groups;
    uint32_t page_tokens;
    uint32_t page_bytes; /* of a full page, in a buffer */
    uint8_t salt[KVR_KEY_BYTES];
    uint8_t id[KVR_KEY_BYTES];
};

/* A space of the node's configuration, by name. INVALID: there is none. */
KVR_API kvr_status_t
kvr_space_find(kvr_client_t *client, const char *name, struct kvr_space *space_p);

/* Keys of the pages that hold tokens[0 … n): one a full page, and one more for a tail
 * when n is no multiple of page_tokens (*nr_p of them). cap: room in keys; INVALID when
 * it is too little. Pages that hold more than tokens (an image, an adapter) take
 * kvr_key_next() instead. */
KVR_API kvr_status_t kvr_keys_tokens(
    const struct kvr_space *space, const uint32_t *tokens, size_t n,
    struct kvr_key *keys, size_t cap, size_t *nr_p);
/* The key of a page of 1 … page_tokens tokens after `prev` (NULL: the first). */
KVR_API kvr_status_t kvr_key_next(
    const struct kvr_space *space, const struct kvr_key *prev, const uint32_t *tokens,
    size_t n, const void *extra, size_t extra_len, struct kvr_key *key_p);
/* The key of an engine's own name of 1 to 256 bytes. */
KVR_API kvr_status_t kvr_key_opaque(
    const struct kvr_space *space, const void *name, size_t len,
    struct kvr_key *key_p);

/* ------------------------------------------------------------------ memory */

struct kvr_buffer {
    void *base; /* NULL: the caller maps it */
    size_t bytes;
    uint32_t id;
};

/* Shared, sealed, zeroed memory for pages; freed by kvr_buffer_destroy(), kvr_close().
 * INVALID: no bytes. TOO_LARGE: more than the node allows a client. AGAIN:
 * KVR_BUFFERS_MAX. NOMEM, IO, DEADLINE, LINK_LOST. Waits for the node, at most
 * timeout_us of the config. */
KVR_API kvr_status_t
kvr_buffer_create(kvr_client_t *client, size_t bytes, struct kvr_buffer *buffer_p);
/* A memfd of the caller's: sealed with F_SEAL_SHRINK, writable, of ordinary pages, else
 * INVALID. `fd` stays the caller's, and may be closed; *buffer_p has no base. */
KVR_API kvr_status_t kvr_buffer_add(
    kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p);
/* Batches under way keep the memory until they end; ours is unmapped at once. */
KVR_API void kvr_buffer_destroy(kvr_client_t *client, struct kvr_buffer *buffer);

enum {
    KVR_POOLS_MAX = 16,          /* of a client */
    KVR_RUNS_MAX = 4096,         /* of a pool */
    KVR_POOL_SLOTS_MAX = 1 << 16,
};

/* A part of every block of a pool: of block b the `bytes` at base + b * stride. */
struct kvr_run {
    void *base;
    size_t stride;
    size_t bytes; /* a multiple of the space's page_tokens: tokens lie one by one */
};

/* Zero it, then set what is needed. */
struct kvr_pool_config {
    size_t struct_size; /* sizeof(struct kvr_pool_config) */
    const struct kvr_run *runs; /* copied; of a block, in the order of a page's bytes */
    uint32_t nr_runs;   /* 1 … KVR_RUNS_MAX, of at most page_bytes together */
    uint32_t nr_blocks;
    uint32_t nr_slots;  /* pages in flight, page_bytes of shared memory each; 0: 256 */
};

struct kvr_pool {
    uint32_t id; /* goes where a buffer's does; never one's */
    uint32_t nr_slots;
};

/* Memory of the caller's own, any that this process may read and write, as engines lay
 * out their keys and values: a tensor a layer, say, is a run a layer. What a batch
 * moves is copied by this thread, PUT in kvr_submit(), GET in kvr_next(). A page is its
 * block's runs, one after the other, then zeros; a tail the first tokens of each run.
 * The memory stays the caller's, and must stay there until kvr_pool_remove(),
 * kvr_close(). INVALID: a field. AGAIN: KVR_POOLS_MAX. TOO_LARGE: slots of more bytes
 * than the node allows a client. Else, and waits, as kvr_buffer_create(). */
KVR_API kvr_status_t kvr_pool_add(
    kvr_client_t *client, const struct kvr_space *space,
    const struct kvr_pool_config *config, struct kvr_pool *pool_p);
/* AGAIN: batches of it are in flight; take their results first. STALE. */
KVR_API kvr_status_t kvr_pool_remove(kvr_client_t *client, struct kvr_pool *pool);

/* ------------------------------------------------------------------ batches */

enum kvr_op {
    KVR_OP_EXISTS, /* OK: here or at a peer; MISS */
    KVR_OP_GET,    /* OK: its bytes are in the buffer; MISS and why */
    KVR_OP_PUT,    /* OK, EXISTS; AGAIN, QUOTA, DEADLINE: not taken */
    KVR_OP_PIN,    /* pages that are here stay here; OK, MISS */
    KVR_OP_UNPIN,  /* OK; MISS: this client has no such pin */
    KVR_OP_DROP,   /* OK, MISS; AGAIN: something holds it */

    /* of kvr_seq_submit(): the status of the result is that of the operation */
    KVR_OP_SEQ_OPEN,     /* result.seq; AGAIN: no room for one more; QUOTA */
    KVR_OP_SEQ_FETCH,    /* OK: nr_hits pages were appended to the table */
    KVR_OP_SEQ_APPEND,   /* OK: room for more tokens; AGAIN, QUOTA, TOO_LARGE */
    KVR_OP_SEQ_SEAL,     /* SEALING; EXISTS: the table has the equal page; AGAIN, IO */
    KVR_OP_SEQ_FORK,     /* result.seq has the same content; AGAIN, QUOTA */
    KVR_OP_SEQ_TRUNCATE, /* OK */
    KVR_OP_SEQ_CONFIRM,  /* OK; INVALID: no such version yet */
    KVR_OP_SEQ_END,      /* OK */
    KVR_OP_SEQ_CHANGED,  /* results alone: a table changed by itself */
};

/* Where a page lies. All pages of a batch in buffers, or all in one pool. */
struct kvr_at {
    uint32_t buffer; /* kvr_buffer.id, kvr_pool.id */
    uint64_t offset; /* in bytes; of a pool the block's number */
};

/* Zero it, then set what the operation needs. */
struct kvr_batch {
    size_t struct_size; /* sizeof(struct kvr_batch) */
    enum kvr_op op;
    uint16_t variant; /* kvr_space.variant + group */
    uint64_t tag;     /* comes back */
    /* EXISTS, GET, PUT: the result comes within this, from when the node takes the
     * batch; 1 … 3,600,000,000. PIN, UNPIN, DROP do not wait: 0. */
    uint64_t timeout_us;
    const struct kvr_key *keys;
    uint32_t nr_keys;    /* 1 … KVR_BATCH_MAX */
    const struct kvr_at *at;  /* GET, PUT: one a key; room for page_bytes at each */
    const uint32_t *n_tokens; /* EXISTS, GET, PUT: one a key; NULL: full pages */
    /* Chained: keys[i] is page first_page + i of one prefix, and `anchor` the key that
     * opens the segment of keys[0] (NULL when first_page is 0). Loose: each on its
     * own. A wrong anchor costs hits only. */
    int loose;
    uint32_t first_page;
    const struct kvr_key *anchor;
    const struct kvr_key *prev; /* keys[0] is a tail: the key it follows; else NULL */
};

/* AGAIN: the ring is full, KVR_FLIGHT_MAX are in flight or the pool's slots are taken;
 * take results first. TOO_LARGE: more keys than the pool has slots. INVALID: a field of
 * the batch, and nothing was sent. STALE: a buffer or a pool that there is not.
 * LINK_LOST. OK: kvr_next() will give one result. Does not wait. */
KVR_API kvr_status_t kvr_submit(kvr_client_t *client, const struct kvr_batch *batch);

/* ------------------------------------------------------------------ pager level */

/* Memory of the node that the tenant's pages lie in, mapped here until kvr_close(). Any
 * process of the tenant may write all of it: what is sealed is not to be written, and
 * who does costs the tenant's own hits (the bytes no longer match their digest: another
 * node refuses them, and this one where pager.verify_local looks), nobody else's. */
struct kvr_arena {
    void *base;
    size_t bytes;
    uint32_t block_bytes;
    uint32_t nr_blocks;
};
/* How many; *arenas_p lives as long as the client. 0 at the object level. */
KVR_API uint32_t
kvr_arenas(const kvr_client_t *client, const struct kvr_arena **arenas_p);

/* One request's page table for one group of a space. Never 0; STALE after its END. */
typedef uint64_t kvr_seq_t;

/* Zero it, then set what the operation needs.
 *
 *   OPEN ──► FETCH ──► (APPEND ──► write the pages ──► SEAL each ──► CONFIRM)* ──► END
 *
 * FETCH appends the longest run of keys[] that can be had, where it can be had; the
 * table must end on a page boundary, and first_page is how many pages it has. APPEND
 * makes room for `tokens` more, at most KVR_BATCH_MAX pages of them: after its result
 * the bytes of these tokens may be written, and of no others. Behind a sealed tail, or
 * in a page that a FORK shares, the page becomes a block of its own, with what was in
 * it: both sides of a FORK go on with an APPEND, and what was given before it has been
 * written by then. SEAL: page `page` is complete (or the
 * last, a tail), and is named by keys[0]. CONFIRM: the engine's queued work uses table
 * `version` or a newer one; until then blocks that left the table keep their bytes.
 * END: no queued work uses the sequence any more. */
struct kvr_seq_call {
    size_t struct_size; /* sizeof(struct kvr_seq_call) */
    enum kvr_op op;     /* KVR_OP_SEQ_OPEN … KVR_OP_SEQ_END */
    uint16_t variant;   /* OPEN: kvr_space.variant + group */
    uint64_t tag;       /* comes back */
    uint64_t timeout_us; /* FETCH, APPEND: as in struct kvr_batch */
    kvr_seq_t seq;       /* all but OPEN */
    const struct kvr_key *keys; /* FETCH, SEAL */
    uint32_t nr_keys;           /* FETCH: 1 … KVR_BATCH_MAX; SEAL: 1 */
    const uint32_t *n_tokens;   /* FETCH: one a key; NULL: full pages */
    uint32_t first_page;        /* FETCH: page of keys[0] */
    /* FETCH: as in struct kvr_batch. SEAL: the key that opens the page's segment; NULL
     * where this page opens it. */
    const struct kvr_key *anchor;
    const struct kvr_key *prev; /* FETCH, SEAL of a tail: the key it follows */
    uint32_t page;              /* SEAL */
    uint32_t tokens;            /* APPEND: more; TRUNCATE: that stay */
    uint64_t version;           /* CONFIRM */
};

/* AGAIN, INVALID, LINK_LOST as kvr_submit(). STALE: no sequence of this client. NOMEM.
 * OK: kvr_next() will give one result. Does not wait. Calls of one sequence are taken
 * in order, and may end in another: END ends those before it, STALE. */
KVR_API kvr_status_t
kvr_seq_submit(kvr_client_t *client, const struct kvr_seq_call *call);

/* A table as results of kvr_next() have told it; the arrays live until the next call
 * with this client. */
struct kvr_table {
    const int32_t *blocks; /* page i lies in block blocks[i] … */
    const uint8_t *arenas; /* … of arena arenas[i]; all 0 where there is but one */
    const uint64_t *gens;  /* (arena, block, gen) never names two contents */
    uint32_t nr_pages;
    uint32_t n_tokens;
    uint64_t version; /* to confirm, once queued work uses this table */
};
/* Leaves the arrays of a result as they are. STALE. AGAIN: of a fork of more than
 * KVR_BATCH_MAX pages the rest is still on its way: kvr_next() gives KVR_OP_SEQ_CHANGED
 * when it is whole. */
KVR_API kvr_status_t
kvr_seq_table(kvr_client_t *client, kvr_seq_t seq, struct kvr_table *table_p);

/* ------------------------------------------------------------------ results */

/* A shorter page that some node lists behind the last key of a FETCH; a hint. */
struct kvr_tail {
    struct kvr_key key;
    uint32_t n_tokens;
    uint32_t zero;
};

enum kvr_place { KVR_FROM_NONE, KVR_FROM_DEVICE, KVR_FROM_HOST, KVR_FROM_PEER };

struct kvr_result {
    uint64_t tag;
    enum kvr_op op;
    /* Of the whole. OK: see statuses. Else none of it was done, every status is this
     * one, and kvr_error() says why. CANCELLED: the node is gone. */
    kvr_status_t status;
    uint32_t nr_keys;
    /* One a key; they live until the next call with this client. */
    const int32_t *statuses;
    const uint8_t *reasons; /* why a MISS: kvr_miss_name() */
    const uint8_t *places;  /* enum kvr_place of a hit */
    /* KVR_OP_SEQ_*; of OPEN and FORK the new one, 0 when there is none */
    kvr_seq_t seq;
    uint32_t nr_hits; /* FETCH: OK statuses, and pages appended */
    uint32_t first_page, nr_changed; /* where its table may differ now */
    const struct kvr_tail *tails;    /* FETCH; live as statuses do */
    uint32_t nr_tails;
};

/* Waits at most timeout_us (0: not at all) for a result. AGAIN: none; at once when none
 * can come: nothing is in flight, and no sequence is open. LINK_LOST: the node is gone;
 * all that was in flight has had its result, CANCELLED, before. Results come in the
 * order in which requests end. KVR_OP_SEQ_CHANGED comes for no request (its tag is 0):
 * an equal page was sealed first elsewhere, and the table has that one now; both blocks
 * hold the page until the new version is confirmed. */
KVR_API kvr_status_t
kvr_next(kvr_client_t *client, uint64_t timeout_us, struct kvr_result *result_p);
/* "evicted"; "unknown". */
KVR_API const char *kvr_miss_name(uint8_t reason);

#ifdef __cplusplus
}
#endif

#endif
