/* What listing a copy costs a home, beside a bare hash table of the same bytes.
 *
 * A home takes PUBLISH messages of up to 256 items from its peers and later the
 * WITHDRAW of each; in between come those of others. So entries of many holders are
 * there already, a batch is listed whole, and then withdrawn in another order. */
#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/directory.h"
#include "node/bench.h"

#include <string.h>

enum {
    NODES = 8,
    ENTRIES = 1 << 18,
    QUICK_ENTRIES = 1 << 12,
    BATCH = 4096,
    QUICK_BATCH = 64,
    STRIDE = 1021, /* coprime to both batches */
};

/* What the directory keeps of a copy without tails, holders and syncs. */
struct bare_entry {
    struct kv_copy copy;
    kv_key_t prev;
    uint64_t hold;
    uint32_t holder;
    uint32_t n_tokens;
    uint32_t next;
};

struct cluster_bench {
    kvc_dir_t *dir;
    uint32_t nr_entries, batch;
    struct kv_msg_entry *items; /* [batch], both sides list the same copies */
    struct bare_entry *entries;
    uint32_t *heads;
    uint32_t mask, free_entry;
    uint64_t gen;
    struct kv_rng rng;
};

#define BARE_NONE UINT32_MAX

static void item_random(struct cluster_bench *b, struct kv_msg_entry *item)
{
    *item = (struct kv_msg_entry){
        .copy = {.tenant = 1, .layout = 0x12345678},
        .n_tokens = 16,
        .gen = ++b->gen,
    };
    for (size_t i = 0; i < KV_KEY_BYTES; i += sizeof(uint64_t)) {
        const uint64_t word = kv_rng_next(&b->rng);
        memcpy(item->copy.key.b + i, &word, sizeof(word));
    }
    item->segment = item->copy.key;
}

/* ------------------------------------------------------------------ the bare table */

static uint32_t *bare_head(struct cluster_bench *b, const struct kv_copy *copy)
{
    return &b->heads[(uint32_t)kv_key_word(&copy->key) & b->mask];
}

static bool bare_equal(const struct kv_copy *a, const struct kv_copy *b)
{
    return kv_key_equal(&a->key, &b->key) && a->tenant == b->tenant
           && a->layout == b->layout && a->group == b->group && a->shard == b->shard;
}

static void bare_insert(struct cluster_bench *b, const struct kv_msg_entry *item)
{
    uint32_t *head = bare_head(b, &item->copy);
    for (uint32_t e = *head; e != BARE_NONE; e = b->entries[e].next) {
        if (bare_equal(&b->entries[e].copy, &item->copy)) {
            return;
        }
    }
    const uint32_t e = b->free_entry;
    b->free_entry = b->entries[e].next;
    b->entries[e] = (struct bare_entry){
        .copy = item->copy,
        .prev = item->prev,
        .hold = item->gen,
        .n_tokens = item->n_tokens,
        .next = *head,
    };
    *head = e;
}

static void bare_delete(struct cluster_bench *b, const struct kv_copy *copy)
{
    uint32_t *link = bare_head(b, copy);
    while (*link != BARE_NONE && !bare_equal(&b->entries[*link].copy, copy)) {
        link = &b->entries[*link].next;
    }
    KV_ASSERT(*link != BARE_NONE);
    const uint32_t e = *link;
    *link = b->entries[e].next;
    b->entries[e].next = b->free_entry;
    b->free_entry = e;
}

static void bare_run(void *arg, unsigned slice)
{
    struct cluster_bench *b = arg;
    (void)slice;
    for (uint32_t i = 0; i < b->batch; i++) {
        bare_insert(b, &b->items[i]);
    }
    for (uint32_t i = 0; i < b->batch; i++) {
        bare_delete(b, &b->items[i * STRIDE % b->batch].copy);
    }
}

/* ------------------------------------------------------------------ the directory */

static void publish_run(void *arg, unsigned slice)
{
    struct cluster_bench *b = arg;
    const uint32_t holder = slice % NODES;
    for (uint32_t i = 0; i < b->batch; i++) {
        KV_ASSERT(kvc_dir_publish(b->dir, holder, &b->items[i]) == KV_OK);
    }
    for (uint32_t i = 0; i < b->batch; i++) {
        const struct kv_msg_entry *item = &b->items[i * STRIDE % b->batch];
        const struct kv_msg_gone gone = {.copy = item->copy, .gen = item->gen};
        KV_ASSERT(kvc_dir_withdraw(b->dir, holder, &gone));
    }
}

/* The items are new to both, and in cache for neither more than for the other. */
static void items_ready(void *arg, unsigned slice)
{
    struct cluster_bench *b = arg;
    (void)slice;
    for (uint32_t i = 0; i < b->batch; i++) {
        item_random(b, &b->items[i]);
    }
}

static kv_status_t cluster_init(struct cluster_bench *b)
{
    const struct kvc_dir_config config = {
        .nr_entries = b->nr_entries,
        .nr_holdings = b->nr_entries,
        .nr_nodes = NODES,
        .cold_us = 1,
    };
    kv_status_t status = kvc_dir_create(&config, 0, &b->dir, NULL);
    if (status != KV_OK) {
        return status;
    }
    b->rng = kv_rng_seed(1);
    b->mask = b->nr_entries - 1;
    b->items = kv_calloc(b->batch, sizeof(*b->items));
    b->entries = kv_calloc(b->nr_entries, sizeof(*b->entries));
    b->heads = kv_calloc(b->nr_entries, sizeof(*b->heads));
    if (b->items == NULL || b->entries == NULL || b->heads == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < b->nr_entries; i++) {
        b->heads[i] = BARE_NONE;
        b->entries[i].next = i + 1 < b->nr_entries ? i + 1 : BARE_NONE;
    }
    for (uint32_t n = 0; n < NODES; n++) {
        kvc_dir_holder_up(b->dir, n);
    }
    for (uint32_t i = 0; i < b->nr_entries - b->batch; i++) {
        struct kv_msg_entry item;
        item_random(b, &item);
        KV_ASSERT(kvc_dir_publish(b->dir, i % NODES, &item) == KV_OK);
        bare_insert(b, &item);
    }
    return KV_OK;
}

kv_status_t kvn_bench_cluster(struct kvn_bench *bench)
{
    if (!kvn_bench_wants(bench, KVN_BENCH_DIRECTORY)) {
        return KV_OK;
    }
    struct cluster_bench *b = kv_calloc(1, sizeof(*b));
    if (b == NULL) {
        return KV_ERR_NOMEM;
    }
    b->nr_entries = bench->quick ? QUICK_ENTRIES : ENTRIES;
    b->batch = bench->quick ? QUICK_BATCH : BATCH;
    kv_status_t status = cluster_init(b);
    if (status == KV_OK) {
        const struct kvn_bench_case c = {
            .name = KVN_BENCH_DIRECTORY,
            .slices = bench->quick ? 2 : 32,
            .nr_per_slice = b->batch,
            .reference = {items_ready, bare_run, NULL},
            .subject = {items_ready, publish_run, NULL},
        };
        kvn_bench_measure(bench, &c, b);
    }
    kv_free(b->heads);
    kv_free(b->entries);
    kv_free(b->items);
    kvc_dir_destroy(b->dir);
    kv_free(b);
    return status;
}
