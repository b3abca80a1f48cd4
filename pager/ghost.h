/* What was evicted lately, as 32-bit fingerprints: tells a miss "it was here" from "it
 * never was". May be wrong both ways, one time in 2^32 or by age: it is a reason, not a
 * fact that anything rests on.
 *
 * Threading: the loop thread. Ownership: the ghost owns its table.
 */
#ifndef KVP_GHOST_H
#define KVP_GHOST_H

#include "base/status.h"

#include <stdint.h>

struct kvp_ghost {
    uint32_t *prints; /* 0: empty */
    uint64_t mask;
};

/* Remembers about `nr` evictions. */
kv_status_t kvp_ghost_init(struct kvp_ghost *ghost, uint64_t nr);
void kvp_ghost_fini(struct kvp_ghost *ghost);
void kvp_ghost_add(struct kvp_ghost *ghost, uint64_t hash);
void kvp_ghost_remove(struct kvp_ghost *ghost, uint64_t hash);
bool kvp_ghost_has(const struct kvp_ghost *ghost, uint64_t hash);

#endif
