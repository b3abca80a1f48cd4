/* What lies on the Unix socket between a reader and an owner: packets, whole or none.
 *
 *   reader                                 owner
 *     connect ──────────────────────────►  uid, pidfd
 *     ◄──────────────────────── GREETING   nonce, drawn after the pidfd was opened
 *     HELLO ────────────────────────────►  nonce, the caller's bytes; sender's pid
 *     ◄────────────────────────── ARENAS   sizes and descriptors, after accept()
 *     ⋮  copies, nothing on the socket  ⋮
 *     ◄─────────────────── end of stream   the owner closes, or has died
 *     GOODBYE ──────────────────────────►  "I read no more": nothing is mapped any more
 *
 * All numbers little endian: both ends are one machine. README.md has the layout
 * byte for byte.
 *
 * Threading: pure but for kvt_shm_send() and kvt_shm_receive(), which never wait.
 * Ownership: descriptors that came are the packet's until kvt_shm_drop_fds(); what is
 * sent stays the sender's. Errors: KV_ERR_PROTOCOL for what is no such packet.
 */
#ifndef KVT_SHM_WIRE_H
#define KVT_SHM_WIRE_H

#include "transport/transport.h"

#include <sys/types.h>

enum {
    KVT_SHM_MAGIC = 0x3173766b, /* "kvs1" */
    KVT_SHM_HEAD_BYTES = 16,
    KVT_SHM_ARENA_BYTES = 24, /* one record of ARENAS */
    KVT_SHM_PACKET_BYTES_MAX =
        KVT_SHM_HEAD_BYTES + KVT_REGIONS_MAX * KVT_SHM_ARENA_BYTES,
};
_Static_assert(
    KVT_SHM_HEAD_BYTES + KVT_HELLO_BYTES_MAX <= KVT_SHM_PACKET_BYTES_MAX, "");
_Static_assert(KVT_REGIONS_MAX <= 253, "SCM_MAX_FD: one packet carries them all");

enum kvt_shm_type {
    KVT_SHM_GREETING = 1,
    KVT_SHM_HELLO = 2,
    KVT_SHM_ARENAS = 3,
    KVT_SHM_GOODBYE = 4,
};

/* One arena as its owner says it is. */
struct kvt_shm_arena {
    uint64_t bytes;      /* that may be read, from the beginning of the file */
    uint64_t file_bytes; /* 0: not given out, and no descriptor */
};

/* A packet that came, with what the kernel put beside it. */
struct kvt_shm_packet {
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX + 1]; /* a longer one shows */
    uint32_t len;
    pid_t pid; /* the sender's, in our pid namespace; 0: not told */
    int fds[KVT_REGIONS_MAX];
    uint32_t nr_fds;
    bool fds_lost; /* there were more than we had room, or descriptors, for */
};

/* One packet into bytes[KVT_SHM_PACKET_BYTES_MAX]; returns its length. */
uint32_t kvt_shm_write_greeting(uint8_t *out, uint64_t nonce);
uint32_t
kvt_shm_write_hello(uint8_t *out, uint64_t nonce, const uint8_t *hello, uint32_t len);
uint32_t kvt_shm_write_arenas(
    uint8_t *out, const struct kvt_shm_arena *arenas, uint32_t nr_arenas);
uint32_t kvt_shm_write_goodbye(uint8_t *out);

/* What is written only on OK; *hello_p points into the packet. */
kv_status_t kvt_shm_read_greeting(const struct kvt_shm_packet *packet, uint64_t *nonce);
kv_status_t kvt_shm_read_hello(
    const struct kvt_shm_packet *packet, uint64_t nonce, const uint8_t **hello_p,
    uint32_t *len_p);
/* Sizes are in their bounds and there are as many descriptors as arenas given out;
 * IO: the kernel has left descriptors out, for want of room for them here. */
kv_status_t kvt_shm_read_arenas(
    const struct kvt_shm_packet *packet, struct kvt_shm_arena arenas[KVT_REGIONS_MAX],
    uint32_t *nr_p);
kv_status_t kvt_shm_read_goodbye(const struct kvt_shm_packet *packet);

/* All of it with its descriptors, or an errno; 0: sent. */
int kvt_shm_send(
    int socket, const uint8_t *bytes, uint32_t len, const int *fds, uint32_t nr_fds);
/* One packet: OK. AGAIN: none now. LINK_LOST: the stream has ended. `nr_fds_max`: more
 * descriptors than that are never let in. */
kv_status_t
kvt_shm_receive(int socket, uint32_t nr_fds_max, struct kvt_shm_packet *packet);
/* Every packet's descriptors are ours to close, whatever is in it. */
void kvt_shm_drop_fds(struct kvt_shm_packet *packet);

#endif
