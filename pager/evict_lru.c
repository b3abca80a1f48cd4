/* Exact least recently used: a use moves the slot to the newest end. */
#include "base/assert.h"
#include "pager/evict_priv.h"

static void lru_touch(void *self, uint32_t slot, uint64_t stamp_us)
{
    struct kvp_lanes *lanes = self;

    KV_ASSERT(slot < lanes->nr_slots);
    kvp_lanes_unlink(lanes, slot);
    kvp_lanes_link_by_stamp(lanes, slot, stamp_us);
}

const struct kvp_evict_ops kvp_evict_lru = {
    .name = "lru",
    .size = kvp_lanes_size,
    .init = kvp_lanes_init,
    .insert = kvp_lanes_insert,
    .touch = lru_touch,
    .first = kvp_lanes_first,
    .warm = kvp_lanes_warm,
    .remove = kvp_lanes_remove,
    .victim = kvp_lanes_victim,
    .coldest = kvp_lanes_coldest,
    .check = kvp_lanes_check,
};
