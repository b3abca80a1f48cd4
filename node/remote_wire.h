/* What a remote client and its node share beside records and packets (node/ring.h):
 * the data connections of a session, what is asked on them (docs/clients.md), and how a
 * host that has fallen silent is noticed.
 *
 *   GET, the client reads: POST{tag, chunk} ──► node; DATA{req, index} ‖ page ──► it
 *   PUT, the node reads:   WANT{req, tag, key} ──► client; DATA{req, 0} ‖ page ──► node
 *
 * Threading: values. Ownership: what is read is copied out of the bytes given; a socket
 * stays its owner's. Units: bytes; seconds of silence. Errors: INVALID with the field,
 * its limit and the value; of a proof those of kv_hmac().
 */
#ifndef KVN_REMOTE_WIRE_H
#define KVN_REMOTE_WIRE_H

#include "base/msg.h"
#include "node/ring.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

enum {
    KVN_REMOTE_SECRET_BYTES =
        40,                /* exporter: u64 id of the session ‖ 32 of its proof */
    KVN_REMOTE_READS = 1,  /* data_gen of the connection that the client reads */
    KVN_REMOTE_OFFERS = 2, /* … of the one that it offers */
    KVN_REMOTE_CHUNK_KEYS = KV_MSG_READ_MAX,
    KVN_REMOTE_CHUNKS = KVN_RING_KEYS_MAX / KVN_REMOTE_CHUNK_KEYS,
    KVN_REMOTE_SILENCE_S = 10, /* of a host that does not acknowledge */
};
#define KVN_REMOTE_LABEL "EXPORTER-kvrail-session"

/* Of the session's socket, on both sides: a host that is gone without a word is
 * noticed; a process that is slow is not. */
static inline void kvn_remote_keep_alive(int fd)
{
    const int on = 1, idle = KVN_REMOTE_SILENCE_S / 2, interval = 1,
              count = KVN_REMOTE_SILENCE_S / 2, user_ms = KVN_REMOTE_SILENCE_S * 1000;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_ms, sizeof(user_ms));
}

/* req of a POST and of its DATA. A client's tag is its flight's: gen << 16 | index. */
static inline uint64_t kvn_remote_req(uint64_t tag, uint32_t chunk)
{
    return tag << 4 | chunk;
}

/* Requests of data connections, little endian. */
struct kvn_remote_post {
    uint64_t tag;
    uint32_t chunk;
    uint32_t nr_keys; /* of the whole batch */
};
struct kvn_remote_want {
    uint64_t req;
    uint64_t tag;
    uint32_t key; /* of the batch */
    uint32_t len;
};

/* What came from the other side: INVALID with the field, its limit and the value.
 * Whether the tag is of anything in flight is the caller's to judge. */
static inline kv_status_t kvn_remote_post_read(
    const uint8_t *bytes, size_t len, struct kvn_remote_post *post,
    struct kv_detail *detail)
{
    if (len != sizeof(*post)) {
        return kv_fail(detail, KV_ERR_INVALID, "post.bytes", sizeof(*post), len);
    }
    memcpy(post, bytes, sizeof(*post));
    if ((post->tag & 0xffff) >= KVN_RING_REQUESTS_MAX || post->tag > UINT32_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "post.tag", KVN_RING_REQUESTS_MAX - 1, post->tag);
    }
    if (post->nr_keys == 0 || post->nr_keys > KVN_RING_KEYS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "post.nr_keys", KVN_RING_KEYS_MAX, post->nr_keys);
    }
    const uint32_t last = (post->nr_keys - 1) / KVN_REMOTE_CHUNK_KEYS;
    return post->chunk <= last
               ? KV_OK
               : kv_fail(detail, KV_ERR_INVALID, "post.chunk", last, post->chunk);
}
static inline kv_status_t kvn_remote_want_read(
    const uint8_t *bytes, size_t len, struct kvn_remote_want *want,
    struct kv_detail *detail)
{
    if (len != sizeof(*want)) {
        return kv_fail(detail, KV_ERR_INVALID, "want.bytes", sizeof(*want), len);
    }
    memcpy(want, bytes, sizeof(*want));
    return want->key < KVN_RING_KEYS_MAX
               ? KV_OK
               : kv_fail(
                   detail, KV_ERR_INVALID, "want.key", KVN_RING_KEYS_MAX - 1,
                   want->key);
}

/* HMAC(secret, id ‖ data_gen), as of links (node/core/data.c). */
static inline kv_status_t kvn_remote_proof(
    const uint8_t secret[KVN_REMOTE_SECRET_BYTES], uint32_t data_gen, kv_key_t *proof)
{
    uint8_t text[12];
    for (unsigned i = 0; i < 8; i++) {
        text[i] = secret[i];
    }
    for (unsigned i = 0; i < 4; i++) {
        text[8 + i] = (uint8_t)(data_gen >> 8 * i);
    }
    return kv_hmac(secret + 8, KVN_REMOTE_SECRET_BYTES - 8, text, sizeof(text), proof);
}
static inline uint64_t kvn_remote_id(const uint8_t secret[KVN_REMOTE_SECRET_BYTES])
{
    uint64_t id = 0;
    for (unsigned i = 0; i < 8; i++) {
        id |= (uint64_t)secret[i] << 8 * i;
    }
    return id;
}

#endif
