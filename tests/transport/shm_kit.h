/* What the tests of shm's wire share: packets by hand.
 *
 * Threading: as transport_kit.h. Ownership: descriptors of a packet are the caller's to
 * close. Errors: the test fails; that the other side has ended is an answer.
 */
#ifndef KVT_TEST_SHM_KIT_H
#define KVT_TEST_SHM_KIT_H

#include "tests/transport/transport_kit.h"
#include "transport/shm/wire.h"

/* The next packet; false: the stream has ended. The ports are pumped meanwhile. */
bool sk_get(struct tk *tk, int fd, struct kvt_shm_packet *packet);
/* False: it was not taken; what it was sent to has ended already. */
bool sk_put(int fd, const uint8_t *bytes, uint32_t len);
/* The ports, for about so long, whatever happens. */
void sk_pump(struct tk *tk, unsigned ms);

#endif
