#include "pager/ghost.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stddef.h>

kv_status_t kvp_ghost_init(struct kvp_ghost *ghost, uint64_t nr)
{
    uint64_t nr_prints = 16;

    while (nr_prints < nr) {
        nr_prints *= 2;
    }
    KV_ASSERT((nr_prints & (nr_prints - 1)) == 0);
    ghost->prints = kv_calloc(nr_prints, sizeof(*ghost->prints));
    ghost->mask = nr_prints - 1;
    return ghost->prints != NULL ? KV_OK : KV_ERR_NOMEM;
}

void kvp_ghost_fini(struct kvp_ghost *ghost)
{
    kv_free(ghost->prints);
    *ghost = (struct kvp_ghost){0};
}

/* Never the mark of an empty place. */
static uint32_t print_of(uint64_t hash)
{
    const uint32_t print = (uint32_t)(hash >> 32);
    return print != 0 ? print : 1;
}

/* A younger ghost takes the place of an older one: that is how they age. */
void kvp_ghost_add(struct kvp_ghost *ghost, uint64_t hash)
{
    KV_ASSERT(ghost->prints != NULL);
    ghost->prints[hash & ghost->mask] = print_of(hash);
}

void kvp_ghost_remove(struct kvp_ghost *ghost, uint64_t hash)
{
    KV_ASSERT(ghost->prints != NULL);
    if (ghost->prints[hash & ghost->mask] == print_of(hash)) {
        ghost->prints[hash & ghost->mask] = 0;
    }
}

bool kvp_ghost_has(const struct kvp_ghost *ghost, uint64_t hash)
{
    KV_ASSERT(ghost->prints != NULL);
    return ghost->prints[hash & ghost->mask] == print_of(hash);
}
