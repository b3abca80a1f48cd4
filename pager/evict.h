/* An eviction policy ranks frames. It never frees, moves or pins one: the pager asks
 * victim(), does the work, and reports it.
 *
 *   pager ── insert, touch, remove ──► policy state ── victim ──► pager
 *
 * A policy is pure data over slots 0 .. nr_slots - 1 of one pool, without clock or
 * heap, so a trace file replays it. Recency is tails first: the pager touches the
 * deepest page of a run first, so that a chain loses its end before its beginning.
 *
 * Threading: the loop thread. Ownership: the pager owns the state's memory.
 */
#ifndef KVP_EVICT_H
#define KVP_EVICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVP_NO_SLOT UINT32_MAX
#define KVP_ANY_TENANT UINT16_MAX

enum kvp_evict_where {
    KVP_EVICT_HOT,   /* just used */
    KVP_EVICT_AGED,  /* last used at stamp_us: takes its place by that */
    KVP_EVICT_FIRST, /* wanted least: also held in another tier, or a peer has it now */
};

struct kvp_evict_ops {
    const char *name; /* "lru": the value of pager.evict */

    /* Bytes of state for a pool; asked for once. */
    size_t (*size)(uint32_t nr_slots, uint16_t nr_tenants);
    void (*init)(void *self, uint32_t nr_slots, uint16_t nr_tenants);

    /* The slot holds a sealed copy from now on. `stamp_us` is its last use. */
    void (*insert)(
        void *self, uint32_t slot, uint16_t tenant, enum kvp_evict_where where,
        uint64_t stamp_us);
    /* It was used, or became evictable again; O(1). The slot is inserted. */
    void (*touch)(void *self, uint32_t slot, uint64_t stamp_us);
    /* Moves an inserted slot to the front of the line. */
    void (*first)(void *self, uint32_t slot);
    /* touch() will come for this inserted slot: step 0 brings its own memory near,
     * step 1 (some slots later) that of its neighbours. Changes nothing. */
    void (*warm)(const void *self, uint32_t slot, unsigned step);
    /* It holds nothing any more; the slot is inserted. */
    void (*remove)(void *self, uint32_t slot);

    /* The best slot of `tenant` (or of any) for which ok(arg, slot) holds, or
     * KVP_NO_SLOT. A slot for which ok() is false may be parked: it is not offered
     * again before its next touch(), which the pager promises when it becomes
     * evictable. So a tier full of referenced frames costs each of them once, not once
     * a call. */
    uint32_t (*victim)(
        void *self, uint16_t tenant, bool (*ok)(void *arg, uint32_t slot), void *arg);

    /* The same of any tenant, those passed over that are in line only because they are
     * wanted least: how far back the memory of this pool reaches. */
    uint32_t (*coldest)(void *self, bool (*ok)(void *arg, uint32_t slot), void *arg);

    /* Structure check for debug and simulation builds; asserts. */
    void (*check)(const void *self);
};

extern const struct kvp_evict_ops kvp_evict_lru;
extern const struct kvp_evict_ops kvp_evict_fifo;

/* "lru" or "fifo"; NULL for a name that is none. */
const struct kvp_evict_ops *kvp_evict_find(const char *name);

#endif
