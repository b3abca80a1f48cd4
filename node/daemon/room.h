/* How much memory this process may still touch, and what bounds it: asked before memory
 * is populated, because past a cgroup's limit the kernel does not refuse, it kills. And
 * how many descriptors it may have: asked at start, because later it costs connections.
 *
 *   /proc/meminfo, /proc/self/cgroup, the memory cgroups (v2 and v1) ──► kvn_room
 *
 * /dev/shm's size is none of the bounds: a memfd lies on a mount of the kernel's own.
 *
 * Threading: any thread; a picture of one moment. Ownership: values. Units: bytes, and
 * descriptors. Errors: IO with one line; what cannot be read bounds nothing.
 */
#ifndef KVN_ROOM_H
#define KVN_ROOM_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { KVN_ROOM_NAME_BYTES = 192 };

struct kvn_room_bound {
    uint64_t bytes; /* UINT64_MAX: nothing is known to bound it */
    /* "the machine's free memory (MemAvailable)", "the memory cgroup /a/b (memory.max)"
     */
    char name[KVN_ROOM_NAME_BYTES];
};

struct kvn_room {
    struct kvn_room_bound now;  /* could be touched at this moment */
    struct kvn_room_bound ever; /* with nothing else running */
};

/* `root` is "" or, in tests, a folder that holds a proc/ and a sys/. What cannot be
 * read bounds nothing. */
void kvn_room_read(const char *root, struct kvn_room *room);

/* So many descriptors are wanted: where it is lower, RLIMIT_NOFILE's soft limit is
 * raised to that, if `raise` (the process is ours) and the hard one let it. Else IO,
 * and `line` says what to raise, or which options (`what`) to lower. */
kv_status_t kvn_room_files(
    uint64_t wanted, bool raise, const char *what, char *line, size_t cap);

#endif
