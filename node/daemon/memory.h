/* The memory that frames lie in: one arena a pool of the pager, a memfd each.
 *
 *   struct kvp_config.pools[i] ──► arena i: memfd, sealed against shrinking and growing,
 *                                  mapped once, address of a frame = base + number × size
 *
 * Modes (design.md, "Memory that others map"): `served` is mapped by the node alone and
 * has no descriptor to give away; `read` is write-sealed after the node's own mapping, so
 * that its descriptor can go to readers.
 *
 * Threading: built at start, constant after that; any thread may ask for addresses.
 * Errors: KV_ERR_NOMEM or IO with one line that names the pool, the bytes wanted, the
 * limit that stood in the way (free memory, /dev/shm, RLIMIT_MEMLOCK) and the fix.
 */
#ifndef KVN_MEMORY_H
#define KVN_MEMORY_H

#include "pager/pager.h"
#include "transport/transport.h"

enum kvn_memory_mode { KVN_MEMORY_SERVED, KVN_MEMORY_READ };

typedef struct kvn_memory kvn_memory_t;

/* `populate`: touch every page now, so that a lack shows at start. */
kv_status_t kvn_memory_create(
    const struct kvp_config *config, enum kvn_memory_mode mode, bool populate,
    kvn_memory_t **memory_p, char *line, size_t cap);
void kvn_memory_destroy(kvn_memory_t *memory);
uint8_t *kvn_memory_frame(const kvn_memory_t *memory, uint32_t pool, uint32_t frame);
uint32_t kvn_memory_nr(const kvn_memory_t *memory);
/* Arena i as a transport's region; its fd is -1 unless the mode is READ. */
struct kvt_region kvn_memory_region(const kvn_memory_t *memory, uint32_t i);

#endif
