/* Tables of the directory; private to directory.c and directory_answer.c. Links are
 * indices, KVC_NONE ends a list:
 *
 *   copy_heads[hash] ──► entry ──copy_next──► entry          one chain a bucket
 *   tail_heads[hash of prev] ──► entry ◄─tail_prev/next─► …  newest first
 *   entry.holdings ──► holding ──entry_next──► holding       newest first
 *   node.holdings ◄─► holding ◄─node_prev/next─► holding     newest first
 *   free_entry, free_holding                                 by copy_next, entry_next
 *
 * Threading: as directory.h.
 */
#ifndef KVC_DIRECTORY_PRIV_H
#define KVC_DIRECTORY_PRIV_H

#include "cluster/directory.h"

#include "base/hash.h"

#define KVC_NONE UINT32_MAX

struct kvc_entry {
    struct kv_copy copy;
    kv_key_t prev; /* of a tail */
    uint32_t n_tokens;
    uint32_t copy_next;
    uint32_t tail_next, tail_prev; /* of a tail */
    uint32_t holdings;
    uint16_t nr_holdings;
    bool tail;
    bool used;
};

struct kvc_holding {
    uint64_t hold; /* the item's gen */
    uint32_t entry;
    uint32_t holder;
    uint32_t mark; /* of the sync in which it was last published */
    uint32_t tier; /* as listed; KV_TIER_COOL: about to go */
    uint32_t entry_next;
    uint32_t node_next, node_prev;
};

struct kvc_node {
    uint32_t holdings;
    uint32_t nr_entries; /* (3) */
    uint32_t mark;       /* of its newest sync */
    uint32_t refused;    /* FULL since that began */
    bool up, ever_up, synced, syncing;
};

struct kvc_dir {
    struct kvc_entry *entries;
    struct kvc_holding *holdings;
    struct kvc_node *nodes;
    uint32_t *copy_heads, *tail_heads;
    uint32_t mask; /* of both tables of heads */
    uint32_t free_entry, free_holding;
    uint32_t nr_entries, nr_holdings;
    uint32_t nr_never_up, nr_unsynced; /* unsynced: of those that are up */
    struct kvc_dir_config config;
    uint64_t warm_us; /* cold at most until then */
};

/* ------------------------------------------------------------------ hashing */

static inline uint32_t
kvc_copy_bucket(const struct kvc_dir *dir, const struct kv_copy *copy)
{
    uint64_t where = (uint64_t)copy->tenant << 32 | copy->layout;
    uint64_t which = (uint64_t)copy->group << 16 | copy->shard;
    uint64_t h = kv_mix64(where ^ kv_mix64(which + KV_GOLDEN64));
    return (uint32_t)kv_mix64(h ^ kv_key_word(&copy->key)) & dir->mask;
}

/* Tails of all wants of one prefix share a bucket. */
static inline uint32_t
kvc_tail_bucket(const struct kvc_dir *dir, uint32_t tenant, const kv_key_t *prev)
{
    uint64_t h = kv_mix64((uint64_t)tenant + KV_GOLDEN64);
    return (uint32_t)kv_mix64(h ^ kv_key_word(prev)) & dir->mask;
}

static inline bool kvc_copy_equal(const struct kv_copy *a, const struct kv_copy *b)
{
    return kv_key_equal(&a->key, &b->key) && a->tenant == b->tenant
           && a->layout == b->layout && a->group == b->group && a->shard == b->shard;
}

static inline uint32_t
kvc_entry_find(const struct kvc_dir *dir, const struct kv_copy *copy)
{
    uint32_t e = dir->copy_heads[kvc_copy_bucket(dir, copy)];
    while (e != KVC_NONE && !kvc_copy_equal(&dir->entries[e].copy, copy)) {
        e = dir->entries[e].copy_next;
    }
    return e;
}

#endif
