/* What the tests of the codec share: two arenas, and a round trip that is compared with
 * the second encoder of tests/base/msg_make.h.
 *
 * Threading: none. Ownership: what kit_encode() gives is the caller's to free; all else
 * is the arenas'. Errors: the test fails; kit_decode() gives a status.
 */
#ifndef KV_TEST_CODEC_KIT_H
#define KV_TEST_CODEC_KIT_H

#include "tests/base/msg_make.h"

/* What kit_decode() decodes into; emptied by each call. */
extern struct kv_arena kit_arena;

/* Of a cmocka group. */
int kit_setup(void **state);
int kit_teardown(void **state);

/* Forgets what was made before. */
struct make kit_make(uint64_t seed);

kv_status_t kit_decode(
    const uint8_t *bytes, size_t len, struct kv_msg *msg, struct kv_detail *detail);

/* Encoded by kv_encode() into a block of exactly its size, so that the sanitizer sees
 * a write past it; the caller frees it. */
uint8_t *kit_encode(const struct kv_msg *msg, size_t *len_p);

/* Both encoders agree, and so does what comes back. */
void kit_check_round_trip(const struct make *make, const struct kv_msg *msg);

#endif
