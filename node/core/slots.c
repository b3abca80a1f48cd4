/* Timers and slot tables: the two containers that every object of the node is in. */
#include "node/core/core_priv.h"

/* ------------------------------------------------------------------ timers */

static bool timer_before(const struct kvo_timer *a, const struct kvo_timer *b)
{
    if (a->at != b->at) {
        return a->at < b->at;
    }
    if (a->kind != b->kind) {
        return a->kind < b->kind;
    }
    return a->index < b->index;
}

static void timer_put(struct kvo_timers *timers, uint32_t pos, struct kvo_timer *timer)
{
    timers->heap[pos] = timer;
    timer->pos = pos;
}

static void timer_up(struct kvo_timers *timers, uint32_t pos)
{
    struct kvo_timer *timer = timers->heap[pos];
    while (pos > 0) {
        uint32_t parent = (pos - 1) / 2;
        if (!timer_before(timer, timers->heap[parent])) {
            break;
        }
        timer_put(timers, pos, timers->heap[parent]);
        pos = parent;
    }
    timer_put(timers, pos, timer);
}

static void timer_down(struct kvo_timers *timers, uint32_t pos)
{
    struct kvo_timer *timer = timers->heap[pos];
    for (;;) {
        uint32_t child = 2 * pos + 1;
        if (child >= timers->nr) {
            break;
        }
        if (child + 1 < timers->nr &&
            timer_before(timers->heap[child + 1], timers->heap[child])) {
            child++;
        }
        if (!timer_before(timers->heap[child], timer)) {
            break;
        }
        timer_put(timers, pos, timers->heap[child]);
        pos = child;
    }
    timer_put(timers, pos, timer);
}

void kvo_timer_set(struct kvo_timers *timers, struct kvo_timer *timer, uint64_t at)
{
    if (at == KVO_NEVER) {
        kvo_timer_stop(timers, timer);
        return;
    }
    timer->at = at;
    if (timer->pos == KVO_NONE) {
        KV_ASSERT(timers->nr < timers->max);
        timer_put(timers, timers->nr++, timer);
    }
    KV_ASSERT(timers->heap[timer->pos] == timer);
    timer_up(timers, timer->pos);
    timer_down(timers, timer->pos);
}

void kvo_timer_stop(struct kvo_timers *timers, struct kvo_timer *timer)
{
    uint32_t pos = timer->pos;
    if (pos == KVO_NONE) {
        return;
    }
    KV_ASSERT(pos < timers->nr && timers->heap[pos] == timer);
    timer->pos = KVO_NONE;
    timers->nr--;
    if (pos < timers->nr) {
        timer_put(timers, pos, timers->heap[timers->nr]);
        timer_up(timers, pos);
        timer_down(timers, pos);
    }
}

/* ------------------------------------------------------------------ slots */

static struct kvo_slot *slot_at(const struct kvo_slots *slots, uint32_t index)
{
    KV_ASSERT(index < slots->nr);
    return (struct kvo_slot *)(void *)(slots->base + index * slots->stride);
}

kv_status_t kvo_slots_create(struct kvo_slots *slots, uint32_t nr, size_t stride)
{
    KV_ASSERT(stride >= sizeof(struct kvo_slot));
    slots->base = kv_calloc(nr, stride);
    if (slots->base == NULL) {
        return KV_ERR_NOMEM;
    }
    slots->stride = stride;
    slots->nr = nr;
    slots->nr_taken = 0;
    slots->free = nr == 0 ? KVO_NONE : 0;
    for (uint32_t i = 0; i < nr; i++) {
        slot_at(slots, i)->next = i + 1 < nr ? i + 1 : KVO_NONE;
    }
    return KV_OK;
}

void kvo_slots_destroy(struct kvo_slots *slots)
{
    kv_free(slots->base);
    slots->base = NULL;
}

void *kvo_slots_take(struct kvo_slots *slots)
{
    if (slots->free == KVO_NONE) {
        return NULL;
    }
    struct kvo_slot *slot = slot_at(slots, slots->free);
    struct kvo_slot kept = *slot;
    KV_ASSERT((kept.gen & 1) == 0);
    memset(slot, 0, slots->stride);
    slot->gen = kept.gen + 1;
    slot->next = KVO_NONE;
    slots->free = kept.next;
    slots->nr_taken++;
    return slot;
}

void kvo_slots_give(struct kvo_slots *slots, void *element)
{
    struct kvo_slot *slot = element;
    KV_ASSERT((slot->gen & 1) == 1);
    KV_ASSERT(slots->nr_taken > 0);
    slot->gen++;
    slot->next = slots->free;
    slots->free = kvo_slots_index(slots, element);
    slots->nr_taken--;
}

uint32_t kvo_slots_index(const struct kvo_slots *slots, const void *element)
{
    size_t offset = (size_t)((const uint8_t *)element - slots->base);
    KV_ASSERT(offset % slots->stride == 0);
    KV_ASSERT(offset / slots->stride < slots->nr);
    return (uint32_t)(offset / slots->stride);
}

uint64_t kvo_slots_id(const struct kvo_slots *slots, const void *element)
{
    const struct kvo_slot *slot = element;
    KV_ASSERT((slot->gen & 1) == 1);
    return (uint64_t)slot->gen << 32 | kvo_slots_index(slots, element);
}

void *kvo_slots_at(const struct kvo_slots *slots, uint32_t index)
{
    struct kvo_slot *slot = slot_at(slots, index);
    return (slot->gen & 1) == 1 ? slot : NULL;
}

void *kvo_slots_find(const struct kvo_slots *slots, uint64_t id)
{
    uint32_t index = (uint32_t)id;
    if (index >= slots->nr) {
        return NULL;
    }
    struct kvo_slot *slot = slot_at(slots, index);
    if ((slot->gen & 1) == 0) {
        return NULL;
    }
    return slot->gen == (uint32_t)(id >> 32) ? slot : NULL;
}
