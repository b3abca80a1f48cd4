/* What the files of libkvrail share: attach.c (opening, packets, buffers), embed.c
 * (nodes of this process), batch.c (rings), pool.c (memory of the caller's own), seq.c
 * (sequences and their tables), keys.c (names).
 *
 * (1) A batch that was submitted has one slot of `flights` until its result is given:
 * by an answer, or, once the node is gone and the ring is empty, as CANCELLED. (2) The
 * node is hostile to nobody here, but may be broken: what does not keep to the shape
 * counts as a node that is gone. (3) A table has room for every page that its requests
 * in flight may add before they are sent, so that no answer needs memory. (4) The first
 * `known` pages of a table are what the node has told; what lies behind is not shown
 * before all of it was told (an answer without MORE).
 *
 * Threading: as kvrail.h. Ownership: all is the client's until kvr_close(); pointers of
 * a result hold until the next call. Units: bytes; microseconds of kvr_now_us().
 * Errors: a status, and its line in client->error.
 */
#ifndef KVR_LIB_PRIV_H
#define KVR_LIB_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "include/kvrail/kvrail.h"
#include "node/ring.h"

#include <string.h>
#include <sys/types.h>

enum {
    KVR_ERROR_MAX = 640, /* a configuration's line is up to 512 */
    KVR_RING_BYTES_DEFAULT = 1 << 20,
    KVR_TIMEOUT_US_DEFAULT = 5000000,
    KVR_SPIN_US_DEFAULT = 50,
    KVR_LOOK_US = 1000, /* a caller that never waits looks at the socket so often */
};

struct kvr_flight {
    uint64_t tag;
    uint32_t nr_keys;
    uint32_t seq;   /* slots: of the sequence, and of the one being made (OPEN, FORK) */
    uint32_t pages; /* of `seq`, that this may add */
    struct kvr_pool_state *pool; /* of a batch that moves; NULL: buffers */
    uint32_t slot;               /* the first of its chain */
    uint16_t next_free;
    uint16_t gen;
    uint8_t op;
    bool used;
};

/* A slot: free, being made (id not known), or open. */
struct kvr_sequence {
    uint64_t id;  /* the node's */
    uint32_t gen; /* of the handle */
    uint32_t next_free;
    bool used, open, ended; /* ended: END is on its way */
    bool partial;           /* a fork whose table is not told whole yet */
    uint16_t variant;
    uint32_t page_tokens;
    uint32_t nr_pages, n_tokens;
    uint32_t known;      /* (4) */
    uint32_t pending;    /* pages that requests in flight may add */
    uint32_t cap;        /* (3) */
    uint32_t first, end; /* changed, and the caller has not been told */
    uint64_t version;
    void *memory; /* of the three below */
    uint64_t *gens;
    int32_t *blocks;
    uint8_t *arenas;
};

struct kvr_memory {
    void *base; /* ours to unmap, or NULL */
    size_t bytes;
    uint32_t id;
    bool used;
};

struct kvr_slot {
    size_t block;    /* of its batch's key */
    uint32_t tokens;
    uint32_t next; /* of the batch, in the order of keys; or free */
};

struct kvr_pool_state {
    bool used;
    uint32_t gen;
    struct kvr_run *runs; /* with `slots` in one piece */
    struct kvr_slot *slots;
    uint32_t nr_runs, nr_blocks, page_bytes, page_tokens;
    uint32_t nr_slots, nr_free, free_slot;
    struct kvr_buffer window;
};

struct kvr_remote;

struct kvr_client {
    struct kvr_remote *remote; /* of a node on another host; NULL: rings */
    pid_t pid; /* that opened it: a child of fork() touches nothing of it */
    int fd;
    struct kvr_embedded *embedded; /* NULL: the node is another process */
    bool gone;     /* (1) */
    bool nonsense; /* was in its ring: nothing behind it is believed */
    struct kvn_rings *rings;
    uint32_t ring_bytes;
    struct kvn_ring requests, answers;
    uint64_t timeout_us;
    uint64_t spin_us, spin_now_us; /* at most; what waits of late were worth */
    uint64_t looked_us; /* at the socket */
    uint64_t req;       /* of packets */
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    uint32_t nr_spaces;
    uint32_t level;
    struct kvr_arena arenas[KVN_PACKET_ARENAS_MAX];
    uint32_t nr_arenas;
    struct kvr_sequence *seqs;
    uint32_t nr_seqs, free_seq, nr_open;
    struct kvr_memory buffers[KVR_BUFFERS_MAX]; /* by the low bits of their ids */
    struct kvr_pool_state pools[KVR_POOLS_MAX];
    struct kvr_at at[KVR_BATCH_MAX]; /* where a batch of a pool has its slots */
    struct kvr_flight flights[KVR_FLIGHT_MAX];
    uint32_t nr_flights;
    uint16_t free_flight;
    char error[KVR_ERROR_MAX];
    int32_t statuses[KVR_BATCH_MAX]; /* of a result that no answer filled */
    uint8_t zeros[KVR_BATCH_MAX];
    uint8_t copy[(KVN_SEQ_ANSWER_BYTES_MAX + 63) / 64 * 64]
        __attribute__((aligned(64)));
};

/* ------------------------------------------------------------------ attach.c */
uint64_t kvr_now_us(void);
/* Says it in client->error, and returns `status`. */
kvr_status_t
kvr_fail(kvr_client_t *client, kv_status_t status, const struct kv_detail *detail);
kvr_status_t
kvr_fail_text(kvr_client_t *client, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The status of a REFUSED; client->error says what it says. */
kvr_status_t kvr_refused(kvr_client_t *client, const struct kvn_packet *packet);
/* Reads the socket until it is empty: wakes are forgotten, a hang-up is noticed. */
void kvr_socket_drain(kvr_client_t *client);
void kvr_wake_node(kvr_client_t *client);

/* ------------------------------------------------------------------ embed.c */
/* Sets client->fd and client->embedded: `path` is a node's configuration. Either may be
 * set when it fails; kvr_close() gives back what is. */
kvr_status_t kvr_embed_open(
    kvr_client_t *client, const struct kvr_config *config, const char *path);
/* One user less; after the last, waits KVR_EMBED_STOP_US at most for the node's end. */
void kvr_embed_release(struct kvr_embedded *embedded);

/* ------------------------------------------------------------------ batch.c */
const struct kvn_packet_space *
kvr_space_of(const kvr_client_t *client, uint16_t variant);
/* Room for a request of `bytes` and a flight for it: AGAIN, LINK_LOST. */
kvr_status_t kvr_request_begin(
    kvr_client_t *client, uint32_t bytes, uint8_t **to_p, struct kvr_flight **flight_p);
/* Takes a slot of `flights`, which there is. */
struct kvr_flight *kvr_flight_take(kvr_client_t *client);
/* `statuses`: one a key; NULL: it was never sent. */
void kvr_flight_give(
    kvr_client_t *client, struct kvr_flight *flight, const int32_t *statuses);
/* The tag that the node gives back. */
uint64_t kvr_flight_tag(const kvr_client_t *client, const struct kvr_flight *flight);
/* The flight under way that such a tag names; NULL: none of ours. */
struct kvr_flight *kvr_flight_of(kvr_client_t *client, uint64_t tag);
/* The one that this answer (no notice) is to, by its operation and keys too. */
struct kvr_flight *
kvr_flight_answered(kvr_client_t *client, const struct kvn_answer *answer);
void kvr_request_send(kvr_client_t *client);
/* `remote`: addresses are zero, since the node has no buffers of ours. */
void kvr_request_write(
    uint8_t *to, const struct kvr_batch *batch, uint64_t tag, uint32_t bytes,
    bool remote);
/* A result whose keys all have the status of the whole. */
void kvr_result_whole(
    kvr_client_t *client, const struct kvr_flight *flight, kvr_status_t status,
    struct kvr_result *result);
/* What an answer with keys, or a refusal of the whole, came to; it points into it. */
void kvr_result_answer(
    kvr_client_t *client, const struct kvr_flight *flight,
    const struct kvn_answer *answer, struct kvr_result *result);
/* What an answer says of the whole is the client's last error. */
void kvr_error_take(kvr_client_t *client, const struct kvn_answer *answer);
kvr_status_t kvr_cancelled_next(kvr_client_t *client, struct kvr_result *result);

/* ------------------------------------------------------------------ pool.c */
void kvr_pools_free(kvr_client_t *client);
/* NULL: no pool's id. */
struct kvr_pool_state *kvr_pool_find(kvr_client_t *client, uint32_t id);
/* A batch that moves, all but its places checked. AGAIN, TOO_LARGE: slots. */
kv_status_t kvr_pool_check(
    const struct kvr_pool_state *pool, const struct kvr_batch *batch,
    uint32_t page_bytes, struct kv_detail *detail);
/* Takes slots, gathers what is PUT, and has `batch` name the slots. */
void kvr_pool_begin(
    kvr_client_t *client, struct kvr_pool_state *pool, struct kvr_flight *flight,
    struct kvr_batch *batch);
/* Scatters what was got, gives the slots back. NULL: nothing was. */
void kvr_pool_end(struct kvr_flight *flight, const int32_t *statuses);

/* ------------------------------------------------------------------ seq.c */
void kvr_seqs_free(kvr_client_t *client);
/* The answer to `flight`, or (NULL) a notice. AGAIN: nothing that the caller is told;
 * LINK_LOST: (2). */
kv_status_t kvr_seq_take(
    kvr_client_t *client, const struct kvn_answer *answer,
    const struct kvr_flight *flight, struct kvr_result *result);
/* No answer will come. */
void kvr_seq_cancelled(
    kvr_client_t *client, const struct kvr_flight *flight, struct kvr_result *result);
/* ------------------------------------------------------------------ remote.c */
/* `text`: what follows "tls://". */
kvr_status_t kvr_remote_open(
    kvr_client_t *client, const struct kvr_config *config, const char *text);
/* Before memory is unmapped. `ours`: no child of fork(). */
void kvr_remote_close(kvr_client_t *client, bool ours);
/* `pool`: of its pages, or NULL. */
kvr_status_t kvr_remote_submit(
    kvr_client_t *client, const struct kvr_batch *batch, struct kvr_pool_state *pool);
kvr_status_t kvr_remote_next(
    kvr_client_t *client, uint64_t timeout_us, struct kvr_result *result);
int kvr_remote_arm(kvr_client_t *client);
int kvr_remote_fd(const kvr_client_t *client);
kvr_status_t kvr_remote_buffer_create(
    kvr_client_t *client, size_t bytes, struct kvr_buffer *buffer_p);
kvr_status_t kvr_remote_buffer_add(
    kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p);
void kvr_remote_unbuffer(kvr_client_t *client, struct kvr_memory *memory);

#endif
