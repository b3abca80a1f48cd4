#include "cluster/directory.h"

#include "base/assert.h"
#include "base/mem.h"
#include "cluster/directory_priv.h"

enum { DIR_SIZE_MAX = 1 << 30 }; /* entries or holdings: far from KVC_NONE */

/* ------------------------------------------------------------------ creating */

static kv_status_t
config_check(const struct kvc_dir_config *config, struct kv_detail *detail)
{
    if (config->nr_entries == 0 || config->nr_entries > DIR_SIZE_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "directory.entries", DIR_SIZE_MAX,
            config->nr_entries);
    }
    if (config->nr_holdings == 0 || config->nr_holdings > DIR_SIZE_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "directory.holdings", DIR_SIZE_MAX,
            config->nr_holdings);
    }
    if (config->nr_nodes == 0 || config->nr_nodes > KVC_NODES_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "view.nodes", KVC_NODES_MAX, config->nr_nodes);
    }
    return KV_OK;
}

static void dir_init(struct kvc_dir *dir)
{
    const struct kvc_dir_config *config = &dir->config;
    for (uint32_t i = 0; i <= dir->mask; i++) {
        dir->copy_heads[i] = KVC_NONE;
        dir->tail_heads[i] = KVC_NONE;
    }
    for (uint32_t i = 0; i < config->nr_entries; i++) {
        dir->entries[i].copy_next = i + 1 < config->nr_entries ? i + 1 : KVC_NONE;
    }
    for (uint32_t i = 0; i < config->nr_holdings; i++) {
        dir->holdings[i].entry = KVC_NONE;
        dir->holdings[i].entry_next = i + 1 < config->nr_holdings ? i + 1 : KVC_NONE;
    }
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        dir->nodes[i].holdings = KVC_NONE;
    }
    dir->nr_never_up = config->nr_nodes;
}

kv_status_t kvc_dir_create(
    const struct kvc_dir_config *config, uint64_t now_us, kvc_dir_t **dir_p,
    struct kv_detail *detail)
{
    kv_status_t status = config_check(config, detail);
    if (status != KV_OK) {
        return status;
    }
    size_t nr_heads = 1;
    while (nr_heads < config->nr_entries) {
        nr_heads *= 2;
    }

    struct kvc_dir *dir = kv_calloc(1, sizeof(*dir));
    if (dir == NULL) {
        goto err;
    }
    dir->entries = kv_calloc(config->nr_entries, sizeof(*dir->entries));
    if (dir->entries == NULL) {
        goto err_free;
    }
    dir->holdings = kv_calloc(config->nr_holdings, sizeof(*dir->holdings));
    if (dir->holdings == NULL) {
        goto err_entries;
    }
    dir->nodes = kv_calloc(config->nr_nodes, sizeof(*dir->nodes));
    if (dir->nodes == NULL) {
        goto err_holdings;
    }
    dir->copy_heads = kv_calloc(nr_heads, sizeof(*dir->copy_heads));
    if (dir->copy_heads == NULL) {
        goto err_nodes;
    }
    dir->tail_heads = kv_calloc(nr_heads, sizeof(*dir->tail_heads));
    if (dir->tail_heads == NULL) {
        goto err_copy_heads;
    }

    dir->config = *config;
    dir->mask = (uint32_t)(nr_heads - 1);
    dir->warm_us =
        config->cold_us > UINT64_MAX - now_us ? UINT64_MAX : now_us + config->cold_us;
    dir_init(dir);
    *dir_p = dir;
    return KV_OK;

err_copy_heads:
    kv_free(dir->copy_heads);
err_nodes:
    kv_free(dir->nodes);
err_holdings:
    kv_free(dir->holdings);
err_entries:
    kv_free(dir->entries);
err_free:
    kv_free(dir);
err:
    return kv_fail(detail, KV_ERR_NOMEM, "directory.entries", 0, config->nr_entries);
}

void kvc_dir_destroy(kvc_dir_t *dir)
{
    if (dir == NULL) {
        return;
    }
    kv_free(dir->tail_heads);
    kv_free(dir->copy_heads);
    kv_free(dir->nodes);
    kv_free(dir->holdings);
    kv_free(dir->entries);
    kv_free(dir);
}

/* ------------------------------------------------------------------ entries */

static void tail_link(struct kvc_dir *dir, uint32_t e)
{
    struct kvc_entry *entry = &dir->entries[e];
    uint32_t *head =
        &dir->tail_heads[kvc_tail_bucket(dir, entry->copy.tenant, &entry->prev)];
    entry->tail_prev = KVC_NONE;
    entry->tail_next = *head;
    if (*head != KVC_NONE) {
        dir->entries[*head].tail_prev = e;
    }
    *head = e;
}

static void tail_unlink(struct kvc_dir *dir, uint32_t e)
{
    struct kvc_entry *entry = &dir->entries[e];
    if (entry->tail_next != KVC_NONE) {
        dir->entries[entry->tail_next].tail_prev = entry->tail_prev;
    }
    if (entry->tail_prev != KVC_NONE) {
        dir->entries[entry->tail_prev].tail_next = entry->tail_next;
        return;
    }
    uint32_t bucket = kvc_tail_bucket(dir, entry->copy.tenant, &entry->prev);
    KV_ASSERT(dir->tail_heads[bucket] == e);
    dir->tail_heads[bucket] = entry->tail_next;
}

/* KVC_NONE when none is free. The caller gives it a holding at once: (1). */
static uint32_t entry_add(struct kvc_dir *dir, const struct kv_msg_entry *item)
{
    uint32_t e = dir->free_entry;
    if (e == KVC_NONE) {
        return KVC_NONE;
    }
    struct kvc_entry *entry = &dir->entries[e];
    KV_ASSERT(!entry->used);
    dir->free_entry = entry->copy_next;
    dir->nr_entries++;

    uint32_t *head = &dir->copy_heads[kvc_copy_bucket(dir, &item->copy)];
    *entry = (struct kvc_entry){
        .copy = item->copy,
        .prev = item->prev,
        .n_tokens = item->n_tokens,
        .copy_next = *head,
        .tail_next = KVC_NONE,
        .tail_prev = KVC_NONE,
        .holdings = KVC_NONE,
        .tail = item->tail,
        .used = true,
    };
    *head = e;
    if (entry->tail) {
        tail_link(dir, e);
    }
    return e;
}

static void entry_remove(struct kvc_dir *dir, uint32_t e)
{
    struct kvc_entry *entry = &dir->entries[e];
    KV_ASSERT(entry->used);
    KV_ASSERT(entry->nr_holdings == 0 && entry->holdings == KVC_NONE);
    if (entry->tail) {
        tail_unlink(dir, e);
    }
    uint32_t *link = &dir->copy_heads[kvc_copy_bucket(dir, &entry->copy)];
    while (*link != e) {
        KV_ASSERT(*link != KVC_NONE);
        link = &dir->entries[*link].copy_next;
    }
    *link = entry->copy_next;
    entry->used = false;
    entry->copy_next = dir->free_entry;
    dir->free_entry = e;
    dir->nr_entries--;
}

/* ------------------------------------------------------------------ holdings */

static uint32_t
holding_find(const struct kvc_dir *dir, const struct kvc_entry *entry, uint32_t holder)
{
    uint32_t h = entry->holdings;
    while (h != KVC_NONE && dir->holdings[h].holder != holder) {
        h = dir->holdings[h].entry_next;
    }
    return h;
}

/* Takes `h` out of its entry's list; the entry keeps its place even when empty. */
static void holding_detach(struct kvc_dir *dir, uint32_t h)
{
    struct kvc_entry *entry = &dir->entries[dir->holdings[h].entry];
    uint32_t *link = &entry->holdings;
    while (*link != h) {
        KV_ASSERT(*link != KVC_NONE); /* (2) */
        link = &dir->holdings[*link].entry_next;
    }
    *link = dir->holdings[h].entry_next;
    KV_ASSERT(entry->nr_holdings > 0);
    entry->nr_holdings--;
}

static void holding_attach(struct kvc_dir *dir, uint32_t h, uint32_t e)
{
    struct kvc_entry *entry = &dir->entries[e];
    struct kvc_holding *holding = &dir->holdings[h];
    holding->entry = e;
    holding->entry_next = entry->holdings;
    entry->holdings = h;
    entry->nr_holdings++;
    KV_ASSERT(entry->nr_holdings <= KVC_HOLDERS_MAX);
}

static void holding_remove(struct kvc_dir *dir, uint32_t h)
{
    struct kvc_holding *holding = &dir->holdings[h];
    struct kvc_node *node = &dir->nodes[holding->holder];
    uint32_t e = holding->entry;

    holding_detach(dir, h);
    if (dir->entries[e].nr_holdings == 0) {
        entry_remove(dir, e); /* (1) */
    }
    if (holding->node_next != KVC_NONE) {
        dir->holdings[holding->node_next].node_prev = holding->node_prev;
    }
    if (holding->node_prev != KVC_NONE) {
        dir->holdings[holding->node_prev].node_next = holding->node_next;
    } else {
        KV_ASSERT(node->holdings == h);
        node->holdings = holding->node_next;
    }
    KV_ASSERT(node->nr_entries > 0);
    node->nr_entries--; /* (3) */
    holding->entry = KVC_NONE;
    holding->entry_next = dir->free_holding;
    dir->free_holding = h;
    dir->nr_holdings--;
}

/* KVC_NONE when none is free. */
static uint32_t holding_add(struct kvc_dir *dir, uint32_t e, uint32_t holder)
{
    uint32_t h = dir->free_holding;
    if (h == KVC_NONE) {
        return KVC_NONE;
    }
    struct kvc_holding *holding = &dir->holdings[h];
    struct kvc_node *node = &dir->nodes[holder];
    dir->free_holding = holding->entry_next;
    dir->nr_holdings++;

    holding->holder = holder;
    holding->node_prev = KVC_NONE;
    holding->node_next = node->holdings;
    if (node->holdings != KVC_NONE) {
        dir->holdings[node->holdings].node_prev = h;
    }
    node->holdings = h;
    node->nr_entries++; /* (3) */
    holding_attach(dir, h, e);
    return h;
}

/* ------------------------------------------------------------------ publishing */

static kv_status_t refuse_full(struct kvc_node *node)
{
    if (node->refused < UINT32_MAX) {
        node->refused++;
    }
    return KV_ERR_FULL;
}

/* The newest listing goes to the front of its entry. */
static void holding_renew(struct kvc_dir *dir, uint32_t h)
{
    uint32_t e = dir->holdings[h].entry;
    holding_detach(dir, h);
    holding_attach(dir, h, e);
}

kv_status_t
kvc_dir_publish(kvc_dir_t *dir, uint32_t holder, const struct kv_msg_entry *item)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    struct kvc_node *node = &dir->nodes[holder];
    KV_ASSERT(node->up); /* (4) */

    uint32_t e = kvc_entry_find(dir, &item->copy);
    uint32_t h = e == KVC_NONE ? KVC_NONE : holding_find(dir, &dir->entries[e], holder);
    if (h != KVC_NONE) {
        if (item->gen < dir->holdings[h].hold) {
            return KV_OK;
        }
        if (item->gen > dir->holdings[h].hold) {
            holding_renew(dir, h);
        }
    } else {
        if (dir->free_holding == KVC_NONE
            || (e != KVC_NONE && dir->entries[e].nr_holdings == KVC_HOLDERS_MAX)) {
            return refuse_full(node);
        }
        if (e == KVC_NONE) {
            e = entry_add(dir, item);
        }
        if (e == KVC_NONE) {
            return refuse_full(node);
        }
        h = holding_add(dir, e, holder);
        KV_ASSERT(h != KVC_NONE);
    }
    struct kvc_holding *holding = &dir->holdings[h];
    holding->hold = item->gen;
    holding->tier = item->tier;
    holding->mark = node->mark;
    return KV_OK;
}

bool kvc_dir_withdraw(kvc_dir_t *dir, uint32_t holder, const struct kv_msg_gone *item)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    uint32_t e = kvc_entry_find(dir, &item->copy);
    uint32_t h = e == KVC_NONE ? KVC_NONE : holding_find(dir, &dir->entries[e], holder);
    if (h == KVC_NONE || dir->holdings[h].hold != item->gen) {
        return false;
    }
    holding_remove(dir, h);
    return true;
}

bool kvc_dir_forget(kvc_dir_t *dir, uint32_t holder, const struct kv_copy *copy)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    uint32_t e = kvc_entry_find(dir, copy);
    uint32_t h = e == KVC_NONE ? KVC_NONE : holding_find(dir, &dir->entries[e], holder);
    if (h == KVC_NONE) {
        return false;
    }
    holding_remove(dir, h);
    return true;
}

/* ------------------------------------------------------------------ holders */

/* Keeps nr_unsynced equal to the nodes that are up and not synced. */
static void node_set(struct kvc_dir *dir, struct kvc_node *node, bool up, bool synced)
{
    dir->nr_unsynced -= node->up && !node->synced;
    node->up = up;
    node->synced = synced;
    dir->nr_unsynced += node->up && !node->synced;
}

void kvc_dir_sync_begin(kvc_dir_t *dir, uint32_t holder)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    struct kvc_node *node = &dir->nodes[holder];
    KV_ASSERT(node->up);
    node->mark++;
    node->refused = 0;
    node->syncing = true;
}

bool kvc_dir_sync_end(kvc_dir_t *dir, uint32_t holder, uint32_t count)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    struct kvc_node *node = &dir->nodes[holder];
    KV_ASSERT(node->up);
    if (!node->syncing) {
        return false; /* its beginning was lost: nothing tells what is still true */
    }
    node->syncing = false;
    for (uint32_t h = node->holdings, next; h != KVC_NONE; h = next) {
        next = dir->holdings[h].node_next;
        if (dir->holdings[h].mark != node->mark) {
            holding_remove(dir, h);
        }
    }
    /* The holder counts what it sent, and cannot yet know which of that met FULL. */
    bool agrees =
        count >= node->nr_entries && count - node->nr_entries <= node->refused;
    node_set(dir, node, true, agrees);
    return agrees;
}

void kvc_dir_holder_up(kvc_dir_t *dir, uint32_t holder)
{
    kvc_dir_holder_gone(dir, holder);
    struct kvc_node *node = &dir->nodes[holder];
    node_set(dir, node, true, false);
    if (!node->ever_up) {
        node->ever_up = true;
        KV_ASSERT(dir->nr_never_up > 0);
        dir->nr_never_up--;
    }
}

void kvc_dir_holder_gone(kvc_dir_t *dir, uint32_t holder)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    struct kvc_node *node = &dir->nodes[holder];
    while (node->holdings != KVC_NONE) {
        holding_remove(dir, node->holdings);
    }
    KV_ASSERT(node->nr_entries == 0); /* (3), (4) */
    node->syncing = false;
    node->refused = 0;
    node_set(dir, node, false, false);
}

bool kvc_dir_cold(const kvc_dir_t *dir, uint64_t now_us)
{
    return now_us < dir->warm_us && (dir->nr_never_up > 0 || dir->nr_unsynced > 0);
}

uint32_t kvc_dir_nr_entries(const kvc_dir_t *dir, uint32_t holder)
{
    KV_ASSERT(holder < dir->config.nr_nodes);
    return dir->nodes[holder].nr_entries;
}

/* ------------------------------------------------------------------ looking in */

void kvc_dir_stats(const kvc_dir_t *dir, struct kvc_dir_stats *stats)
{
    *stats = (struct kvc_dir_stats){
        .nr_entries = dir->nr_entries,
        .nr_holdings = dir->nr_holdings,
        .entries_max = dir->config.nr_entries,
        .holdings_max = dir->config.nr_holdings,
    };
}

static void check_entries(const struct kvc_dir *dir)
{
    uint32_t nr_entries = 0;
    uint32_t nr_holdings = 0;
    for (uint32_t e = 0; e < dir->config.nr_entries; e++) {
        const struct kvc_entry *entry = &dir->entries[e];
        if (!entry->used) {
            continue;
        }
        uint32_t nr = 0;
        for (uint32_t h = entry->holdings; h != KVC_NONE;
             h = dir->holdings[h].entry_next) {
            KV_ASSERT(dir->holdings[h].entry == e); /* (2) */
            nr++;
        }
        KV_ASSERT(nr >= 1 && nr <= KVC_HOLDERS_MAX); /* (1) */
        KV_ASSERT(nr == entry->nr_holdings);
        KV_ASSERT(kvc_entry_find(dir, &entry->copy) == e);
        nr_entries++;
        nr_holdings += nr;
    }
    KV_ASSERT(nr_entries == dir->nr_entries);
    KV_ASSERT(nr_holdings == dir->nr_holdings);
}

static void check_tails(const struct kvc_dir *dir)
{
    uint32_t linked = 0;
    uint32_t tails = 0;
    for (uint32_t b = 0; b <= dir->mask; b++) {
        uint32_t prev = KVC_NONE;
        for (uint32_t e = dir->tail_heads[b]; e != KVC_NONE;
             e = dir->entries[e].tail_next) {
            KV_ASSERT(dir->entries[e].used && dir->entries[e].tail);
            KV_ASSERT(dir->entries[e].tail_prev == prev);
            prev = e;
            linked++;
        }
    }
    for (uint32_t e = 0; e < dir->config.nr_entries; e++) {
        tails += dir->entries[e].used && dir->entries[e].tail;
    }
    KV_ASSERT(linked == tails);
}

static void check_nodes(const struct kvc_dir *dir)
{
    uint32_t nr_holdings = 0;
    uint32_t nr_never_up = 0;
    uint32_t nr_unsynced = 0;
    for (uint32_t n = 0; n < dir->config.nr_nodes; n++) {
        const struct kvc_node *node = &dir->nodes[n];
        uint32_t nr = 0;
        uint32_t prev = KVC_NONE;
        for (uint32_t h = node->holdings; h != KVC_NONE;
             h = dir->holdings[h].node_next) {
            KV_ASSERT(dir->holdings[h].holder == n); /* (2) */
            KV_ASSERT(dir->holdings[h].node_prev == prev);
            KV_ASSERT(dir->entries[dir->holdings[h].entry].used);
            prev = h;
            nr++;
        }
        KV_ASSERT(nr == node->nr_entries);         /* (3) */
        KV_ASSERT(KV_IMPLIES(!node->up, nr == 0)); /* (4) */
        KV_ASSERT(KV_IMPLIES(node->up, node->ever_up));
        nr_holdings += nr;
        nr_never_up += !node->ever_up;
        nr_unsynced += node->up && !node->synced;
    }
    KV_ASSERT(nr_holdings == dir->nr_holdings);
    KV_ASSERT(nr_never_up == dir->nr_never_up);
    KV_ASSERT(nr_unsynced == dir->nr_unsynced);
}

void kvc_dir_check(const kvc_dir_t *dir)
{
    check_entries(dir);
    check_tails(dir);
    check_nodes(dir);
}
