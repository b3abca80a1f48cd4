/* kvrail: the client library's object level. Pages of attention keys and values go in
 * and come out by the names of their content, in batches, asynchronously.
 *
 *   kvr_open("unix:/run/kvrail/node.sock") ──► kvr_client
 *   kvr_space_find("chat") ──► kvr_space ──► kvr_keys_tokens(tokens) ──► keys
 *   kvr_buffer_create ──► memory that the node reads and writes
 *   kvr_submit(batch) ──► … ──► kvr_next(): one result a batch, one status a page
 *
 * Threading: a client belongs to one thread at a time; open one a thread. Keys may be
 * derived on any thread. Ownership: the caller's arrays of a batch are copied by
 * kvr_submit(); the bytes in buffers belong to the node from submit to result. Units:
 * lengths in bytes, times in microseconds. Errors: kvr_status, negative ones are
 * errors; out arguments are set on KVR_OK only; kvr_error() says the last failure of a
 * client in one line that names the field, the limit and the value. A client that dies
 * gives everything back.
 */
#ifndef KVRAIL_KVRAIL_H
#define KVRAIL_KVRAIL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVR_API __attribute__((visibility("default")))

#define KVR_VERSION_MAJOR 0
#define KVR_VERSION_MINOR 1

/* Equal in number to the statuses of the wire; grouped by what must be replaced. */
enum kvr_status {
    KVR_OK = 0,
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

KVR_API const char *kvr_version(void);
KVR_API const char *kvr_status_name(kvr_status_t status);
KVR_API const char *kvr_status_text(kvr_status_t status);

/* ------------------------------------------------------------------ opening */

enum { KVR_KEY_BYTES = 32, KVR_BATCH_MAX = 1024, KVR_EXTRA_MAX = 256 };

struct kvr_key {
    uint8_t bytes[KVR_KEY_BYTES];
};

typedef struct kvr_client kvr_client_t;

struct kvr_config {
    size_t struct_size; /* sizeof(struct kvr_config) */
    const char *target; /* "unix:PATH" */
    uint32_t tenant;    /* id; the credentials of the process must cover it */
    uint32_t ring_bytes; /* a power of two, 128 KiB … 16 MiB; 0: 1 MiB */
    uint64_t timeout_us; /* of attaching; 0: 5 s */
    uint64_t spin_us;    /* kvr_next() spins so long before it sleeps; 0: 50 µs */
};

/* DENIED: the tenant is not covered. LINK_LOST: nobody listens. VERSION. CONFIG. */
KVR_API kvr_status_t kvr_open(
    const struct kvr_config *config, kvr_client_t **client_p, char *error,
    size_t error_cap);
KVR_API void kvr_close(kvr_client_t *client);
KVR_API const char *kvr_error(const kvr_client_t *client);
/* Readable when kvr_next() has a result, or the node is gone. Call kvr_arm() before
 * waiting for it: false means there is something already. */
KVR_API int kvr_fd(const kvr_client_t *client);
KVR_API int kvr_arm(kvr_client_t *client);

/* ------------------------------------------------------------------ names */

struct kvr_space {
    uint16_t variant; /* of group 0 */
    uint16_t nr_groups;
    uint32_t page_tokens;
    uint32_t page_bytes;
    uint8_t salt[KVR_KEY_BYTES];
    uint8_t id[KVR_KEY_BYTES];
};

/* A space of the node's configuration, by name. INVALID: there is none. */
KVR_API kvr_status_t
kvr_space_find(kvr_client_t *client, const char *name, struct kvr_space *space_p);

/* Keys of the pages that hold tokens[0 … n): one a full page, and one more for a tail
 * when n is no multiple of page_tokens (*nr_p of them). cap: room in keys. Pages that
 * hold more than tokens (an image, an adapter) take kvr_key_next() instead. */
KVR_API kvr_status_t kvr_keys_tokens(
    const struct kvr_space *space, const uint32_t *tokens, size_t n,
    struct kvr_key *keys, size_t cap, size_t *nr_p);
/* The key of a page after `prev` (NULL: the first). */
KVR_API kvr_status_t kvr_key_next(
    const struct kvr_space *space, const struct kvr_key *prev, const uint32_t *tokens,
    size_t n, const void *extra, size_t extra_len, struct kvr_key *key_p);
/* The key of an engine's own name of 1 to 256 bytes. */
KVR_API kvr_status_t kvr_key_opaque(
    const struct kvr_space *space, const void *name, size_t len,
    struct kvr_key *key_p);

/* ------------------------------------------------------------------ memory */

struct kvr_buffer {
    void *base;
    size_t bytes;
    uint32_t id;
};

/* Shared, sealed memory for pages; freed by kvr_buffer_destroy() or kvr_close(). */
KVR_API kvr_status_t
kvr_buffer_create(kvr_client_t *client, size_t bytes, struct kvr_buffer *buffer_p);
/* A memfd of the caller's: sealed with F_SEAL_SHRINK, else INVALID. `fd` stays the
 * caller's; *buffer_p has no base. */
KVR_API kvr_status_t kvr_buffer_add(
    kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p);
/* Batches under way keep the memory until they end. */
KVR_API void kvr_buffer_destroy(kvr_client_t *client, struct kvr_buffer *buffer);

/* ------------------------------------------------------------------ batches */

enum kvr_op {
    KVR_OP_EXISTS,
    KVR_OP_GET,
    KVR_OP_PUT,
    KVR_OP_PIN,
    KVR_OP_UNPIN,
    KVR_OP_DROP,
};

/* Where a page lies in a buffer. */
struct kvr_at {
    uint32_t buffer; /* kvr_buffer.id */
    uint64_t offset;
};

struct kvr_batch {
    size_t struct_size;
    enum kvr_op op;
    uint16_t variant; /* kvr_space.variant + group */
    uint64_t tag;     /* comes back */
    uint64_t timeout_us; /* EXISTS, GET, PUT: the result comes within this */
    const struct kvr_key *keys;
    uint32_t nr_keys;    /* 1 … KVR_BATCH_MAX */
    const struct kvr_at *at;  /* GET, PUT: one a key; page_bytes each */
    const uint32_t *n_tokens; /* PUT: one a key; NULL: full pages */
    /* Chained: keys[i] is page first_page + i of one prefix, and `anchor` the key that
     * opens the segment of keys[0] (NULL when first_page is 0). Loose: each on its
     * own. */
    int loose;
    uint32_t first_page;
    const struct kvr_key *anchor;
};

/* AGAIN: the ring is full or too many are in flight; take results first. INVALID,
 * STALE, LINK_LOST. OK: kvr_next() will give one result. */
KVR_API kvr_status_t kvr_submit(kvr_client_t *client, const struct kvr_batch *batch);

enum kvr_place { KVR_FROM_NONE, KVR_FROM_DEVICE, KVR_FROM_HOST, KVR_FROM_PEER };

struct kvr_result {
    uint64_t tag;
    enum kvr_op op;
    kvr_status_t status; /* of the whole; OK: see statuses */
    uint32_t nr_keys;
    /* One a key; they live until the next call with this client. */
    const int32_t *statuses;
    const uint8_t *reasons; /* why a MISS: kvr_miss_name() */
    const uint8_t *places;  /* enum kvr_place of a hit */
};

/* Waits at most timeout_us (0: not at all) for a result. AGAIN: none. LINK_LOST: the
 * node is gone; every batch in flight has had its result, CANCELLED, before. */
KVR_API kvr_status_t
kvr_next(kvr_client_t *client, uint64_t timeout_us, struct kvr_result *result_p);
KVR_API const char *kvr_miss_name(uint8_t reason);

#ifdef __cplusplus
}
#endif

#endif
