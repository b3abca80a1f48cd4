/* What the files of libkvrail share: attach.c (opening, packets, buffers), batch.c
 * (rings), keys.c (names).
 *
 * (1) A batch that was submitted has one slot of `flights` until its result is given:
 * by an answer, or, once the node is gone and the ring is empty, as CANCELLED. (2) The
 * node is hostile to nobody here, but may be broken: what does not keep to the shape
 * counts as a node that is gone.
 *
 * Threading: as kvrail.h.
 */
#ifndef KVR_LIB_PRIV_H
#define KVR_LIB_PRIV_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "include/kvrail/kvrail.h"
#include "node/ring.h"

#include <string.h>

enum {
    KVR_ERROR_MAX = 320,
    KVR_RING_BYTES_DEFAULT = 1 << 20,
    KVR_TIMEOUT_US_DEFAULT = 5000000,
    KVR_SPIN_US_DEFAULT = 50,
    KVR_LOOK_US = 1000, /* a caller that never waits looks at the socket so often */
};

struct kvr_flight {
    uint64_t tag;
    uint32_t nr_keys;
    uint16_t next_free;
    uint16_t gen;
    uint8_t op;
    bool used;
};

struct kvr_memory {
    void *base; /* ours to unmap, or NULL */
    size_t bytes;
    uint32_t id;
    bool used;
};

struct kvr_client {
    int fd;
    bool gone;     /* (1) */
    bool nonsense; /* was in its ring: nothing behind it is believed */
    struct kvn_rings *rings;
    uint32_t ring_bytes;
    struct kvn_ring requests, answers;
    uint64_t timeout_us, spin_us;
    uint64_t looked_us; /* at the socket */
    uint64_t req;       /* of packets */
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    uint32_t nr_spaces;
    struct kvr_memory buffers[KVR_BUFFERS_MAX]; /* by the low bits of their ids */
    struct kvr_flight flights[KVR_FLIGHT_MAX];
    uint32_t nr_flights;
    uint16_t free_flight;
    char error[KVR_ERROR_MAX];
    int32_t statuses[KVR_BATCH_MAX]; /* of a result that no answer filled */
    uint8_t zeros[KVR_BATCH_MAX];
    uint8_t copy[(KVN_ANSWER_BYTES_MAX + 63) / 64 * 64] __attribute__((aligned(64)));
};

/* ------------------------------------------------------------------ attach.c */
uint64_t kvr_now_us(void);
/* Says it in client->error, and returns `status`. */
kvr_status_t
kvr_fail(kvr_client_t *client, kv_status_t status, const struct kv_detail *detail);
kvr_status_t
kvr_fail_text(kvr_client_t *client, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Reads the socket until it is empty: wakes are forgotten, a hang-up is noticed. */
void kvr_socket_drain(kvr_client_t *client);
void kvr_wake_node(kvr_client_t *client);

#endif
