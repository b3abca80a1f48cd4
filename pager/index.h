/* From (tenant, variant, key) to the head frame of the copy.
 *
 *   key ──hash──► tag (32 bits): its top bits are the home slot
 *   slots: [tag|frame][tag|frame][ empty ] …   linear probing, load <= 1/2
 *
 * An entry is 8 bytes, so a line holds a whole run of them; the tag alone tells an
 * entry's home, so that deletion shifts back without touching frames. A tag is a hint:
 * what decides is the full key, tenant and variant on the frame's own line.
 *
 * Threading: the loop thread. Ownership: the index owns its slots.
 */
#ifndef KVP_INDEX_H
#define KVP_INDEX_H

#include "base/fault.h"
#include "base/status.h"
#include "pager/frame.h"

struct kvp_index_slot {
    uint32_t tag;
    uint32_t frame; /* KVP_NO_FRAME: empty */
};

struct kvp_index {
    struct kvp_index_slot *slots;
    uint32_t mask;
    uint32_t shift; /* home = tag >> shift */
    uint32_t nr;
    uint32_t nr_max;
};

/* Two words that differ by tenant and variant and that nobody outside knows. */
struct kvp_index_salt {
    uint64_t w[2];
    uint16_t tenant, variant;
};

/* Room for nr_max entries at half load. NOMEM leaves *index zero. */
kv_status_t kvp_index_init(struct kvp_index *index, uint32_t nr_max);
void kvp_index_fini(struct kvp_index *index);

struct kvp_index_salt
kvp_index_salt(const uint64_t seed[2], uint16_t tenant, uint16_t variant);

static inline uint64_t kvp_index_word(const kv_key_t *key, unsigned i)
{
    uint64_t w;

    memcpy(&w, key->b + i * sizeof(w), sizeof(w));
    return w;
}

/* Folded 64 × 64 multiplication with secret factors: without them nobody can make keys
 * that collide. */
static inline uint32_t
kvp_index_tag(const struct kvp_index_salt *salt, const kv_key_t *key)
{
    const unsigned __int128 m = (unsigned __int128)(kvp_index_word(key, 0) ^ salt->w[0])
                                * (kvp_index_word(key, 1) ^ salt->w[1]);
    return (uint32_t)(((uint64_t)m ^ (uint64_t)(m >> 64)) >> 32);
}

/* All 32 bytes, word by word: memcmp is a call, and a struct of words goes through the
 * stack; either costs more than everything else that is done for a page in cache. */
static inline bool kvp_index_same(
    const struct kvp_frame *f, const struct kvp_index_salt *salt, const kv_key_t *key)
{
    const uint64_t differ = (kvp_index_word(&f->key, 0) ^ kvp_index_word(key, 0))
                            | (kvp_index_word(&f->key, 1) ^ kvp_index_word(key, 1))
                            | (kvp_index_word(&f->key, 2) ^ kvp_index_word(key, 2))
                            | (kvp_index_word(&f->key, 3) ^ kvp_index_word(key, 3));
    return differ == 0 && f->variant == salt->variant
           && (f->tenant == salt->tenant || KV_PLANTED(KV_PLANT_OPAQUE_NO_TENANT));
}

/* First slot from `slot` on that is empty or has the tag. */
static inline uint32_t
kvp_index_walk(const struct kvp_index *index, uint32_t slot, uint32_t tag)
{
    while (index->slots[slot].frame != KVP_NO_FRAME && index->slots[slot].tag != tag) {
        slot = (slot + 1) & index->mask;
    }
    return slot;
}

/* The frame of the copy, from a slot that kvp_index_walk() gave. */
static inline uint32_t kvp_index_settle(
    const struct kvp_index *index, const struct kvp_frame *frames,
    const struct kvp_index_salt *salt, const kv_key_t *key, uint32_t slot, uint32_t tag)
{
    for (;;) {
        const uint32_t frame = index->slots[slot].frame;
        if (frame == KVP_NO_FRAME || kvp_index_same(&frames[frame], salt, key)) {
            return frame;
        }
        slot = kvp_index_walk(index, (slot + 1) & index->mask, tag);
    }
}

uint32_t kvp_index_find(
    const struct kvp_index *index, const struct kvp_frame *frames,
    const struct kvp_index_salt *salt, const kv_key_t *key);
/* The copy is not there yet. */
void kvp_index_add(struct kvp_index *index, uint32_t tag, uint32_t frame);
void kvp_index_remove(struct kvp_index *index, uint32_t tag, uint32_t frame);
/* The copy's head frame is another one now. */
void kvp_index_replace(
    struct kvp_index *index, uint32_t tag, uint32_t was, uint32_t now);
/* Every entry can be reached from its home; asserts. */
void kvp_index_check(const struct kvp_index *index);

#endif
