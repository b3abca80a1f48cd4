/* First sealed, first out: the baseline that every other policy has to beat. */
#include "base/assert.h"
#include "pager/evict_priv.h"

/* A use changes nothing. A slot that was parked was next in line, so that is where it
 * comes back. */
static void fifo_touch(void *self, uint32_t slot, uint64_t stamp_us)
{
    struct kvp_lanes *lanes = self;

    (void)stamp_us;
    KV_ASSERT(slot < lanes->nr_slots);
    if (lanes->nodes[slot].lane == KVP_LANE_PARKED) {
        kvp_lanes_link_oldest(lanes, slot);
    }
}

const struct kvp_evict_ops kvp_evict_fifo = {
    .name = "fifo",
    .size = kvp_lanes_size,
    .init = kvp_lanes_init,
    .insert = kvp_lanes_insert,
    .touch = fifo_touch,
    .first = kvp_lanes_first,
    .warm = kvp_lanes_warm,
    .remove = kvp_lanes_remove,
    .victim = kvp_lanes_victim,
    .coldest = kvp_lanes_coldest,
    .check = kvp_lanes_check,
};
