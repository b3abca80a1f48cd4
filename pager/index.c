#include "pager/index.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

enum { INDEX_SLOTS_MIN = 16 };

kv_status_t kvp_index_init(struct kvp_index *index, uint32_t nr_max)
{
    uint64_t nr_slots = INDEX_SLOTS_MIN;
    uint32_t bits = 4;

    KV_ASSERT(nr_max <= UINT32_C(1) << 30);
    while (nr_slots < 2 * (uint64_t)nr_max) {
        nr_slots *= 2;
        bits++;
    }
    KV_ASSERT(nr_slots == UINT64_C(1) << bits);
    *index = (struct kvp_index){0};
    struct kvp_index_slot *slots = kv_calloc(nr_slots, sizeof(*slots));
    if (slots == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint64_t i = 0; i < nr_slots; i++) {
        slots[i].frame = KVP_NO_FRAME;
    }
    *index = (struct kvp_index){
        .slots = slots,
        .mask = (uint32_t)(nr_slots - 1),
        .shift = 32 - bits,
        .nr_max = nr_max,
    };
    return KV_OK;
}

void kvp_index_fini(struct kvp_index *index)
{
    kv_free(index->slots);
    *index = (struct kvp_index){0};
}

struct kvp_index_salt
kvp_index_salt(const uint64_t seed[2], uint16_t tenant, uint16_t variant)
{
    const uint16_t hashed = KV_PLANTED(KV_PLANT_OPAQUE_NO_TENANT) ? 0 : tenant;
    const uint64_t who = ((uint64_t)hashed << 16 | variant) + 1;

    return (struct kvp_index_salt){
        .w = {seed[0] ^ kv_mix64(who * KV_GOLDEN64), seed[1]},
        .tenant = tenant,
        .variant = variant,
    };
}

uint32_t kvp_index_find(
    const struct kvp_index *index, const struct kvp_frame *frames,
    const struct kvp_index_salt *salt, const kv_key_t *key)
{
    const uint32_t tag = kvp_index_tag(salt, key);
    const uint32_t slot = kvp_index_walk(index, tag >> index->shift, tag);

    KV_ASSERT(slot <= index->mask);
    return kvp_index_settle(index, frames, salt, key, slot, tag);
}

void kvp_index_add(struct kvp_index *index, uint32_t tag, uint32_t frame)
{
    uint32_t slot = tag >> index->shift;

    KV_ASSERT(frame != KVP_NO_FRAME);
    KV_ASSERT(index->nr < index->nr_max); /* load <= 1/2, so every walk ends */
    while (index->slots[slot].frame != KVP_NO_FRAME) {
        KV_ASSERT(index->slots[slot].frame != frame);
        slot = (slot + 1) & index->mask;
    }
    index->slots[slot] = (struct kvp_index_slot){.tag = tag, .frame = frame};
    index->nr++;
}

static uint32_t slot_of(const struct kvp_index *index, uint32_t tag, uint32_t frame)
{
    uint32_t slot = tag >> index->shift;

    while (index->slots[slot].frame != frame) {
        KV_ASSERT(index->slots[slot].frame != KVP_NO_FRAME);
        slot = (slot + 1) & index->mask;
    }
    KV_ASSERT(index->slots[slot].tag == tag);
    return slot;
}

void kvp_index_remove(struct kvp_index *index, uint32_t tag, uint32_t frame)
{
    uint32_t hole = slot_of(index, tag, frame);
    uint32_t next = hole;

    KV_ASSERT(index->nr > 0);
    for (;;) {
        next = (next + 1) & index->mask;
        if (index->slots[next].frame == KVP_NO_FRAME) {
            break;
        }
        /* It may fill the hole unless its home lies behind the hole. */
        const uint32_t home = index->slots[next].tag >> index->shift;
        if (((next - home) & index->mask) >= ((next - hole) & index->mask)) {
            index->slots[hole] = index->slots[next];
            hole = next;
        }
    }
    index->slots[hole] = (struct kvp_index_slot){.frame = KVP_NO_FRAME};
    index->nr--;
}

void kvp_index_replace(
    struct kvp_index *index, uint32_t tag, uint32_t was, uint32_t now)
{
    KV_ASSERT(now != KVP_NO_FRAME);
    KV_ASSERT(was != now);
    index->slots[slot_of(index, tag, was)].frame = now;
}

void kvp_index_check(const struct kvp_index *index)
{
    uint32_t nr = 0;

    for (uint32_t i = 0; i <= index->mask; i++) {
        if (index->slots[i].frame == KVP_NO_FRAME) {
            continue;
        }
        nr++;
        for (uint32_t s = index->slots[i].tag >> index->shift; s != i;
             s = (s + 1) & index->mask) {
            KV_ASSERT(index->slots[s].frame != KVP_NO_FRAME);
        }
    }
    KV_ASSERT(nr == index->nr);
    KV_ASSERT(nr <= index->nr_max);
}
