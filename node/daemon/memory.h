/* The memory that frames lie in: one arena a pool of the pager.
 *
 *   struct kvp_config.pools[i] ──► arena i, mapped once for the life of the node;
 *                                  address of a frame = base + number × frame_bytes
 *
 * Modes (design.md, "Memory that others map"):
 *   served  mapped by the node alone: private memory, in huge pages where the machine
 *           has them. Nobody can be given a descriptor: there is none.
 *   read    a memfd "kvrail-pool-<i>", sealed against shrinking, growing and every
 *           further writable mapping, so that its descriptor can go to readers.
 *   fill    such a memfd, not sealed against writing: the engines of the one tenant
 *           whose domain it is map it and write their pages in place. Its descriptor
 *           goes to them alone: it is no transport's region's.
 * All are named in /proc/self/maps where the kernel can, are not inherited by children
 * and not written into core dumps.
 *
 * Threading: built at start, constant after that; any thread may ask for addresses.
 * Ownership: arenas and their descriptors are the module's until it is destroyed.
 * Units: bytes.
 * Errors: CONFIG, NOMEM or IO with one line that names the pool, the bytes wanted, the
 * limit that stood in the way (free memory, a memory cgroup, an rlimit) and the fix;
 * nothing is left behind. A lack is found before a page is touched, because past a
 * cgroup's limit the kernel kills instead of refusing.
 */
#ifndef KVN_MEMORY_H
#define KVN_MEMORY_H

#include "pager/pager.h"
#include "transport/transport.h"

enum { KVN_MEMORY_LINE_BYTES = 512 }; /* no line is longer, with its NUL */

enum kvn_memory_mode { KVN_MEMORY_SERVED, KVN_MEMORY_READ, KVN_MEMORY_FILL };

typedef struct kvn_memory kvn_memory_t;

/* modes[i]: of pool i, for life. A pool of the common domain is never filled: asserts.
 * `populate`: touch every page now, so that a lack shows at start. Without it pools
 * that the machine or the cgroup could never hold are still refused. */
kv_status_t kvn_memory_create(
    const struct kvp_config *config, const enum kvn_memory_mode *modes, bool populate,
    kvn_memory_t **memory_p, char *line, size_t cap);
void kvn_memory_destroy(kvn_memory_t *memory); /* NULL is fine */
uint8_t *kvn_memory_frame(const kvn_memory_t *memory, uint32_t pool, uint32_t frame);
uint32_t kvn_memory_nr(const kvn_memory_t *memory);
enum kvn_memory_mode kvn_memory_mode(const kvn_memory_t *memory, uint32_t i);
/* Arena i as a transport's region; its fd, ours to close, is -1 unless the mode is
 * READ. */
struct kvt_region kvn_memory_region(const kvn_memory_t *memory, uint32_t i);
/* What an engine maps of an arena whose mode is FILL: descriptor, ours to close, and
 * the bytes of the memfd. */
int kvn_memory_fill_fd(const kvn_memory_t *memory, uint32_t i, uint64_t *bytes_p);

#endif
