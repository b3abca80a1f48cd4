/* Lanes: the lists that both policies order their slots in.
 *
 *   tenant 0   FIRST: oldest … newest    wanted least, in the order they became so
 *              AGED:  oldest … newest    came with a stamp of their own; several lists,
 *                                        each sorted, one a stream of arrivals
 *              MAIN:  oldest … newest    in the order of use (lru) or sealing (fifo)
 *   tenant 1   …
 *
 * The next victim is the oldest head: of the FIRST lanes if any has one, else of all
 * the others by (stamp, serial). One list a tenant makes "the coldest of this tenant"
 * O(1), and a bit a tenant makes "the coldest of all" a look at the lanes that are not
 * empty. A parked slot is inserted but in no lane.
 *
 * Threading: the loop thread. Ownership: the pager's memory, see evict.h.
 */
#ifndef KVP_EVICT_PRIV_H
#define KVP_EVICT_PRIV_H

#include "pager/evict.h"

enum { KVP_LANE_TENANTS = 64 };

enum kvp_lane {
    KVP_LANE_FIRST,
    KVP_LANE_AGED,
    KVP_LANE_MAIN = KVP_LANE_AGED + 8,
    KVP_NR_LANES,
    KVP_LANE_PARKED = KVP_NR_LANES,
    KVP_LANE_ABSENT,
};

struct kvp_lane_node {
    uint64_t stamp_us;
    uint64_t serial; /* breaks ties between equal stamps: exact order, always */
    uint32_t older, newer;
    uint16_t tenant;
    uint8_t lane;
};

struct kvp_lane_list {
    uint32_t oldest, newest;
};

struct kvp_lanes {
    uint64_t filled[KVP_NR_LANES]; /* bit t: tenant t's list is not empty */
    uint64_t serial;
    uint32_t nr_slots;
    uint32_t nr_inserted;
    uint16_t nr_tenants;
    struct kvp_lane_list lists[KVP_NR_LANES][KVP_LANE_TENANTS];
    struct kvp_lane_node nodes[];
};

/* Everything of kvp_evict_ops that does not depend on what a use means. */
size_t kvp_lanes_size(uint32_t nr_slots, uint16_t nr_tenants);
void kvp_lanes_init(void *self, uint32_t nr_slots, uint16_t nr_tenants);
void kvp_lanes_insert(
    void *self, uint32_t slot, uint16_t tenant, enum kvp_evict_where where,
    uint64_t stamp_us);
void kvp_lanes_first(void *self, uint32_t slot);
void kvp_lanes_warm(const void *self, uint32_t slot, unsigned step);
void kvp_lanes_remove(void *self, uint32_t slot);
uint32_t kvp_lanes_victim(
    void *self, uint16_t tenant, bool (*ok)(void *arg, uint32_t slot), void *arg);
uint32_t kvp_lanes_coldest(void *self, bool (*ok)(void *arg, uint32_t slot), void *arg);
void kvp_lanes_check(const void *self);

/* Takes a slot out of its lane; it stays inserted. */
void kvp_lanes_unlink(struct kvp_lanes *lanes, uint32_t slot);
/* To the newest end of MAIN, or into AGED if something there is newer. */
void kvp_lanes_link_by_stamp(struct kvp_lanes *lanes, uint32_t slot, uint64_t stamp_us);
/* To the oldest end of MAIN, stamp and serial as they were. */
void kvp_lanes_link_oldest(struct kvp_lanes *lanes, uint32_t slot);

#endif
