/* What a socket's bytes are, before and after anybody is known: pure, so that it can be
 * fuzzed. Links, sessions of remote clients (remote.c) and such clients themselves
 * (node/lib/remote.c) read sockets; how they take apart what they read is here.
 *
 *   first bytes ──► kvn_sniff ──► TLS | a data connection | a clear link | none of ours
 *   clear bytes ──► kvn_hello_take ──► who speaks
 *   clear bytes ──► kvn_frames_next ──► frames: u32 length, little endian ‖ its bytes
 *
 * Threading: values; one thread a splitter. Ownership: a frame lies in the bytes handed
 * in, or in the splitter's buffer: until the next call. Units: bytes. Errors:
 * KV_ERR_PROTOCOL with its detail; the splitter then is at its end.
 */
#ifndef KVN_FRAME_H
#define KVN_FRAME_H

#include "base/msg.h"
#include "base/status.h"

enum {
    KVN_SNIFF_BYTES = 4, /* that tell all kinds apart */
    KVN_HELLO_BYTES = 8, /* "kvl1" ‖ u32 id of the node, little endian */
    KVN_FRAME_HEAD_BYTES = 4,
};

enum kvn_sniff {
    KVN_SNIFF_MORE, /* could still be one of ours */
    KVN_SNIFF_TLS,
    KVN_SNIFF_DATA,
    KVN_SNIFF_CLEAR,
    KVN_SNIFF_NONE,
};
enum kvn_sniff kvn_sniff(const uint8_t *bytes, size_t len);

/* The first bytes of either side of a link: inside TLS, or, on loopback, in clear. */
struct kvn_hello {
    uint8_t bytes[KVN_HELLO_BYTES];
    uint32_t have;
};
void kvn_hello_make(uint32_t node, uint8_t bytes[KVN_HELLO_BYTES]);
/* Takes what it needs from the front of *bytes_p. INPROGRESS: more is needed. OK:
 * *node_p is who it says, never 0. PROTOCOL: no hello. */
kv_status_t kvn_hello_take(
    struct kvn_hello *hello, const uint8_t **bytes_p, size_t *len_p, uint32_t *node_p);

struct kvn_frames {
    uint8_t *buffer; /* of max bytes; the caller's */
    uint32_t max;
    uint32_t body;      /* bytes of the frame under way; 0: its length is not known */
    uint32_t have;      /* of them, in the buffer */
    uint32_t have_head; /* of the length */
    uint8_t head[KVN_FRAME_HEAD_BYTES];
};
void kvn_frames_init(struct kvn_frames *frames, uint8_t *buffer, uint32_t max);
/* The next frame, or INPROGRESS: all bytes are taken and the frame under way is not
 * whole. PROTOCOL: a length of 0 or above max. */
kv_status_t kvn_frames_next(
    struct kvn_frames *frames, const uint8_t **bytes_p, size_t *len_p,
    const uint8_t **frame_p, uint32_t *frame_len_p, struct kv_detail *detail);
/* A frame has begun and is not whole. */
bool kvn_frames_begun(const struct kvn_frames *frames);
void kvn_frame_head(uint32_t len, uint8_t bytes[KVN_FRAME_HEAD_BYTES]);

#endif
