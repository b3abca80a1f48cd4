#include "base/assert.h"
#include "pager/evict_priv.h"

/* How far an aged slot looks for its place when no list ends before it; past the bound
 * it is a little too young. */
enum { AGED_STEPS_MAX = 32 };

size_t kvp_lanes_size(uint32_t nr_slots, uint16_t nr_tenants)
{
    KV_ASSERT(nr_slots > 0);
    KV_ASSERT(nr_tenants > 0 && nr_tenants <= KVP_LANE_TENANTS);
    return sizeof(struct kvp_lanes) + nr_slots * sizeof(struct kvp_lane_node);
}

void kvp_lanes_init(void *self, uint32_t nr_slots, uint16_t nr_tenants)
{
    struct kvp_lanes *lanes = self;

    *lanes = (struct kvp_lanes){.nr_slots = nr_slots, .nr_tenants = nr_tenants};
    for (unsigned lane = 0; lane < KVP_NR_LANES; lane++) {
        for (unsigned t = 0; t < KVP_LANE_TENANTS; t++) {
            lanes->lists[lane][t] = (struct kvp_lane_list){KVP_NO_SLOT, KVP_NO_SLOT};
        }
    }
    for (uint32_t i = 0; i < nr_slots; i++) {
        lanes->nodes[i] = (struct kvp_lane_node){.lane = KVP_LANE_ABSENT};
    }
}

static struct kvp_lane_node *node_at(struct kvp_lanes *lanes, uint32_t slot)
{
    KV_ASSERT(slot < lanes->nr_slots);
    return &lanes->nodes[slot];
}

/* Behind `older` (KVP_NO_SLOT: at the oldest end). */
static void
link_behind(struct kvp_lanes *lanes, uint32_t slot, uint32_t older, enum kvp_lane lane)
{
    struct kvp_lane_node *node = node_at(lanes, slot);
    struct kvp_lane_list *list = &lanes->lists[lane][node->tenant];

    KV_ASSERT(node->lane == KVP_LANE_PARKED);
    node->lane = (uint8_t)lane;
    node->older = older;
    node->newer = older == KVP_NO_SLOT ? list->oldest : lanes->nodes[older].newer;
    if (node->older == KVP_NO_SLOT) {
        list->oldest = slot;
    } else {
        lanes->nodes[node->older].newer = slot;
    }
    if (node->newer == KVP_NO_SLOT) {
        list->newest = slot;
    } else {
        lanes->nodes[node->newer].older = slot;
    }
    lanes->filled[lane] |= UINT64_C(1) << node->tenant;
}

void kvp_lanes_unlink(struct kvp_lanes *lanes, uint32_t slot)
{
    struct kvp_lane_node *node = node_at(lanes, slot);

    KV_ASSERT(node->lane != KVP_LANE_ABSENT);
    if (node->lane == KVP_LANE_PARKED) {
        return;
    }
    struct kvp_lane_list *list = &lanes->lists[node->lane][node->tenant];
    if (node->older == KVP_NO_SLOT) {
        list->oldest = node->newer;
    } else {
        lanes->nodes[node->older].newer = node->newer;
    }
    if (node->newer == KVP_NO_SLOT) {
        list->newest = node->older;
    } else {
        lanes->nodes[node->newer].older = node->older;
    }
    if (list->oldest == KVP_NO_SLOT) {
        lanes->filled[node->lane] &= ~(UINT64_C(1) << node->tenant);
    }
    node->lane = KVP_LANE_PARKED;
}

/* The aged list that an arrival of this stamp continues: the one that ends closest
 * before it, else an empty one, else the one that ends first. Demotions, and the spills
 * of each peer, come in the order of their age, so each stream finds a list of its own
 * and every list stays sorted (patience sorting: Mallows 1963). */
static enum kvp_lane
aged_lane(const struct kvp_lanes *lanes, const struct kvp_lane_node *node)
{
    enum kvp_lane best = KVP_LANE_MAIN, empty = KVP_LANE_MAIN, first = KVP_LANE_AGED;
    uint64_t best_us = 0, first_us = UINT64_MAX;

    for (enum kvp_lane lane = KVP_LANE_AGED; lane < KVP_LANE_MAIN; lane++) {
        const uint32_t newest = lanes->lists[lane][node->tenant].newest;
        if (newest == KVP_NO_SLOT) {
            empty = lane;
            continue;
        }
        const uint64_t newest_us = lanes->nodes[newest].stamp_us;
        if (newest_us <= node->stamp_us
            && (best == KVP_LANE_MAIN || newest_us > best_us)) {
            best = lane;
            best_us = newest_us;
        }
        if (newest_us < first_us) {
            first = lane;
            first_us = newest_us;
        }
    }
    if (best != KVP_LANE_MAIN) {
        return best;
    }
    return empty != KVP_LANE_MAIN ? empty : first;
}

static void link_aged(struct kvp_lanes *lanes, uint32_t slot)
{
    const struct kvp_lane_node *node = node_at(lanes, slot);
    const enum kvp_lane lane = aged_lane(lanes, node);
    uint32_t older = lanes->lists[lane][node->tenant].newest;

    for (unsigned i = 0; i < AGED_STEPS_MAX && older != KVP_NO_SLOT; i++) {
        if (lanes->nodes[older].stamp_us <= node->stamp_us) {
            break;
        }
        older = lanes->nodes[older].older;
    }
    link_behind(lanes, slot, older, lane);
}

void kvp_lanes_link_by_stamp(struct kvp_lanes *lanes, uint32_t slot, uint64_t stamp_us)
{
    struct kvp_lane_node *node = node_at(lanes, slot);
    const uint32_t newest = lanes->lists[KVP_LANE_MAIN][node->tenant].newest;

    KV_ASSERT(node->lane == KVP_LANE_PARKED);
    node->stamp_us = stamp_us;
    node->serial = ++lanes->serial;
    if (newest != KVP_NO_SLOT && lanes->nodes[newest].stamp_us > stamp_us) {
        link_aged(lanes, slot);
    } else {
        link_behind(lanes, slot, newest, KVP_LANE_MAIN);
    }
}

void kvp_lanes_link_oldest(struct kvp_lanes *lanes, uint32_t slot)
{
    link_behind(lanes, slot, KVP_NO_SLOT, KVP_LANE_MAIN);
}

void kvp_lanes_first(void *self, uint32_t slot)
{
    struct kvp_lanes *lanes = self;
    struct kvp_lane_node *node = node_at(lanes, slot);

    kvp_lanes_unlink(lanes, slot);
    node->serial = ++lanes->serial;
    link_behind(
        lanes, slot, lanes->lists[KVP_LANE_FIRST][node->tenant].newest, KVP_LANE_FIRST);
}

void kvp_lanes_insert(
    void *self, uint32_t slot, uint16_t tenant, enum kvp_evict_where where,
    uint64_t stamp_us)
{
    struct kvp_lanes *lanes = self;
    struct kvp_lane_node *node = node_at(lanes, slot);

    KV_ASSERT(node->lane == KVP_LANE_ABSENT);
    KV_ASSERT(tenant < lanes->nr_tenants);
    *node = (struct kvp_lane_node){
        .stamp_us = stamp_us,
        .serial = ++lanes->serial,
        .tenant = tenant,
        .lane = KVP_LANE_PARKED,
    };
    lanes->nr_inserted++;
    switch (where) {
    case KVP_EVICT_HOT:
        kvp_lanes_link_by_stamp(lanes, slot, stamp_us);
        return;
    case KVP_EVICT_AGED:
        link_aged(lanes, slot);
        return;
    case KVP_EVICT_FIRST:
        kvp_lanes_first(lanes, slot);
        return;
    }
    KV_ASSERT(false && "known place");
}

void kvp_lanes_warm(const void *self, uint32_t slot, unsigned step)
{
    const struct kvp_lanes *lanes = self;
    const struct kvp_lane_node *node = &lanes->nodes[slot];

    if (step == 0) {
        __builtin_prefetch(node, 1);
        return;
    }
    if (node->lane >= KVP_NR_LANES) {
        return;
    }
    if (node->older != KVP_NO_SLOT) {
        __builtin_prefetch(&lanes->nodes[node->older], 1);
    }
    if (node->newer != KVP_NO_SLOT) {
        __builtin_prefetch(&lanes->nodes[node->newer], 1);
    }
}

void kvp_lanes_remove(void *self, uint32_t slot)
{
    struct kvp_lanes *lanes = self;

    kvp_lanes_unlink(lanes, slot);
    node_at(lanes, slot)->lane = KVP_LANE_ABSENT;
    KV_ASSERT(lanes->nr_inserted > 0);
    lanes->nr_inserted--;
}

/* The older of two slots, either of which may be none. */
static uint32_t
older_of(const struct kvp_lanes *lanes, uint32_t a, uint32_t b, bool by_stamp)
{
    if (a == KVP_NO_SLOT || b == KVP_NO_SLOT) {
        return a == KVP_NO_SLOT ? b : a;
    }
    const struct kvp_lane_node *x = &lanes->nodes[a], *y = &lanes->nodes[b];
    if (by_stamp && x->stamp_us != y->stamp_us) {
        return x->stamp_us < y->stamp_us ? a : b;
    }
    return x->serial < y->serial ? a : b;
}

static uint32_t oldest_in(
    const struct kvp_lanes *lanes, enum kvp_lane lane, uint64_t tenants, bool by_stamp)
{
    uint32_t best = KVP_NO_SLOT;

    for (uint64_t left = lanes->filled[lane] & tenants; left != 0; left &= left - 1) {
        const int tenant = __builtin_ctzll(left);
        best = older_of(lanes, best, lanes->lists[lane][tenant].oldest, by_stamp);
    }
    return best;
}

static uint32_t oldest_used(const struct kvp_lanes *lanes, uint64_t tenants)
{
    uint32_t best = oldest_in(lanes, KVP_LANE_MAIN, tenants, true);

    for (enum kvp_lane lane = KVP_LANE_AGED; lane < KVP_LANE_MAIN; lane++) {
        best = older_of(lanes, best, oldest_in(lanes, lane, tenants, true), true);
    }
    return best;
}

/* FIRST goes by when it became unwanted, the others by last use. */
static uint32_t oldest_of(const struct kvp_lanes *lanes, uint64_t tenants)
{
    const uint32_t first = oldest_in(lanes, KVP_LANE_FIRST, tenants, false);

    return first != KVP_NO_SLOT ? first : oldest_used(lanes, tenants);
}

uint32_t kvp_lanes_victim(
    void *self, uint16_t tenant, bool (*ok)(void *arg, uint32_t slot), void *arg)
{
    struct kvp_lanes *lanes = self;
    const bool any = tenant == KVP_ANY_TENANT;
    uint64_t tenants = UINT64_MAX;

    KV_ASSERT(any || tenant < lanes->nr_tenants);
    if (!any) {
        tenants = UINT64_C(1) << tenant;
    }
    for (;;) {
        const uint32_t slot = oldest_of(lanes, tenants);
        if (slot == KVP_NO_SLOT || ok == NULL || ok(arg, slot)) {
            return slot;
        }
        kvp_lanes_unlink(lanes, slot); /* parked, so this loop ends */
    }
}

uint32_t kvp_lanes_coldest(void *self, bool (*ok)(void *arg, uint32_t slot), void *arg)
{
    struct kvp_lanes *lanes = self;

    for (;;) {
        const uint32_t slot = oldest_used(lanes, UINT64_MAX);
        if (slot == KVP_NO_SLOT || ok == NULL || ok(arg, slot)) {
            return slot;
        }
        kvp_lanes_unlink(lanes, slot); /* parked, as in kvp_lanes_victim() */
    }
}

void kvp_lanes_check(const void *self)
{
    const struct kvp_lanes *lanes = self;
    uint32_t nr = 0;

    for (uint32_t i = 0; i < lanes->nr_slots; i++) {
        nr += lanes->nodes[i].lane != KVP_LANE_ABSENT;
        nr -= lanes->nodes[i].lane == KVP_LANE_PARKED;
    }
    for (unsigned lane = 0; lane < KVP_NR_LANES; lane++) {
        for (unsigned t = 0; t < KVP_LANE_TENANTS; t++) {
            const struct kvp_lane_list *list = &lanes->lists[lane][t];
            const bool filled = (lanes->filled[lane] >> t & 1) != 0;
            uint32_t older = KVP_NO_SLOT;

            KV_ASSERT(filled == (list->oldest != KVP_NO_SLOT));
            for (uint32_t s = list->oldest; s != KVP_NO_SLOT;
                 s = lanes->nodes[s].newer) {
                KV_ASSERT(lanes->nodes[s].lane == lane && lanes->nodes[s].tenant == t);
                KV_ASSERT(lanes->nodes[s].older == older);
                KV_ASSERT(nr > 0);
                nr--;
                older = s;
            }
            KV_ASSERT(list->newest == older);
        }
    }
    KV_ASSERT(nr == 0);
}
