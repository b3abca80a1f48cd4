/* A bounded queue between two threads: one puts, the other takes, no locks.
 *
 *   loop ── put ──► commands ── take ──► mover ── put ──► news ── take ──► loop
 *
 * A note is two words; what it speaks of lies in a slot that its index names, written
 * before the put and read after the take. Rings are sized so that they can not be full:
 * whoever accepts work has counted it, and a full ring is a bug of ours.
 *
 * Threading: one putter and one taker a ring. Put releases, take acquires. Ownership:
 * whoever made it frees it, when neither side runs any more. Errors: KV_ERR_NOMEM of
 * init; fini may follow.
 */
#ifndef KVT_RING_H
#define KVT_RING_H

#include "base/assert.h"
#include "base/mem.h"
#include "base/status.h"

#include <stdatomic.h>

struct kvt_note {
    uint16_t kind;
    uint16_t arg;
    uint32_t index;
};

/* The putter's and the taker's halves lie on lines of their own: each keeps a copy of
 * the other's position and looks again only when that is used up. */
struct kvt_ring {
    struct kvt_note *notes;
    uint32_t mask;
    _Alignas(64) atomic_uint tail; /* next to put */
    uint32_t head_seen;
    _Alignas(64) atomic_uint head; /* next to take */
    uint32_t tail_seen;
};

static inline kv_status_t kvt_ring_init(struct kvt_ring *ring, uint32_t nr_notes)
{
    uint32_t size = 1;

    KV_ASSERT(nr_notes > 0 && nr_notes <= UINT32_C(1) << 30);
    while (size < nr_notes) {
        size *= 2;
    }
    ring->notes = kv_calloc(size, sizeof(*ring->notes));
    ring->mask = size - 1;
    return ring->notes == NULL ? KV_ERR_NOMEM : KV_OK;
}

static inline void kvt_ring_fini(struct kvt_ring *ring)
{
    kv_free(ring->notes);
    ring->notes = NULL;
}

static inline void kvt_ring_put(struct kvt_ring *ring, struct kvt_note note)
{
    const uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

    if (tail - ring->head_seen > ring->mask) {
        ring->head_seen = atomic_load_explicit(&ring->head, memory_order_acquire);
        KV_ASSERT(tail - ring->head_seen <= ring->mask); /* room was kept for it */
    }
    ring->notes[tail & ring->mask] = note;
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
}

static inline bool kvt_ring_take(struct kvt_ring *ring, struct kvt_note *note)
{
    const uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);

    if (head == ring->tail_seen) {
        ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
        if (head == ring->tail_seen) {
            return false;
        }
    }
    *note = ring->notes[head & ring->mask];
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return true;
}

/* The taker's question; a put that is under way may be missed. */
static inline bool kvt_ring_empty(struct kvt_ring *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_acquire)
           == atomic_load_explicit(&ring->head, memory_order_relaxed);
}

#endif
