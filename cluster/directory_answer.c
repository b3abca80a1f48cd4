/* Answers from what is listed; directory.c keeps the lists. */
#include "cluster/directory.h"

#include "base/assert.h"
#include "cluster/directory_priv.h"

#include <string.h>

enum {
    /* Every short prompt's tail follows its tenant's root key, so one chain can hold a
     * large share of all tails. A hint may miss some; a look-up may not take long. */
    TAILS_WALK_MAX = 256,
};

static uint32_t entry_holders(
    const struct kvc_dir *dir, uint32_t e, uint32_t except, uint32_t max, uint32_t *out)
{
    uint32_t nr = 0;
    if (e == KVC_NONE) {
        return 0;
    }
    uint32_t h = dir->entries[e].holdings;
    for (; h != KVC_NONE && nr < max; h = dir->holdings[h].entry_next) {
        if (dir->holdings[h].holder != except) {
            out[nr++] = dir->holdings[h].holder;
        }
    }
    return nr;
}

uint32_t kvc_dir_holders(
    const kvc_dir_t *dir, const struct kv_copy *copy, uint32_t except, uint32_t max,
    uint32_t *out)
{
    return entry_holders(dir, kvc_entry_find(dir, copy), except, max, out);
}

uint32_t
kvc_dir_keeper(const kvc_dir_t *dir, const struct kv_copy *copy, uint32_t except)
{
    uint32_t e = kvc_entry_find(dir, copy);
    if (e == KVC_NONE) {
        return KVC_NO_NODE;
    }
    uint32_t h = dir->entries[e].holdings;
    for (; h != KVC_NONE; h = dir->holdings[h].entry_next) {
        const struct kvc_holding *holding = &dir->holdings[h];
        if (holding->holder != except && holding->tier != KV_TIER_COOL) {
            return holding->holder;
        }
    }
    return KVC_NO_NODE;
}

/* Equal as sets: pages of one prefix are often listed by the same nodes in another
 * order, and one run of ten pages is worth more to the reader than ten of one. */
static bool
holders_equal(const uint32_t *a, uint32_t nr_a, const uint32_t *b, uint32_t nr_b)
{
    if (nr_a != nr_b) {
        return false;
    }
    for (uint32_t i = 0; i < nr_a; i++) {
        uint32_t j = 0;
        while (j < nr_b && b[j] != a[i]) {
            j++;
        }
        if (j == nr_b) {
            return false;
        }
    }
    return true;
}

/* Adds page `page` to the last run, or opens one; false when the answer is full. */
static bool run_add(
    struct kvc_dir_answer *answer, const struct kv_msg_run *page, const uint32_t *nodes)
{
    if (answer->nr_runs > 0) {
        struct kv_msg_run *run = &answer->runs[answer->nr_runs - 1];
        if (run->seg == page->seg && run->want == page->want
            && run->first + run->n == page->first
            && holders_equal(run->holders, run->nr_holders, nodes, page->nr_holders)) {
            run->n++;
            return true;
        }
    }
    if (answer->nr_runs == KV_MSG_RUNS_MAX) {
        return false;
    }
    struct kv_msg_run *run = &answer->runs[answer->nr_runs];
    *run = *page;
    run->holders = answer->holders[answer->nr_runs];
    memcpy(run->holders, nodes, page->nr_holders * sizeof(*nodes));
    answer->nr_runs++;
    return true;
}

/* The runs of one segment for one want. Three passes, so that the misses of memory of
 * all its pages overlap: heads, entries, answers. False when the answer is full. */
static bool lookup_segment(
    const struct kvc_dir *dir, const struct kv_msg_lookup *lookup, uint32_t seg,
    uint32_t want, uint32_t except, struct kvc_dir_answer *answer)
{
    const struct kv_msg_segment *segment = &lookup->segs[seg];
    const struct kv_msg_want *w = &lookup->wants[want];
    struct kv_copy copy = {
        .tenant = lookup->tenant,
        .layout = w->layout,
        .group = w->group,
        .shard = w->shard};
    uint32_t at[KV_MSG_SEG_KEYS_MAX];
    uint32_t nodes[KV_MSG_HOLDERS_MAX];

    KV_ASSERT(segment->nr_keys <= KV_MSG_SEG_KEYS_MAX);
    for (uint32_t i = 0; i < segment->nr_keys; i++) {
        copy.key = segment->keys[i];
        at[i] = kvc_copy_bucket(dir, &copy);
        __builtin_prefetch(&dir->copy_heads[at[i]]);
    }
    for (uint32_t i = 0; i < segment->nr_keys; i++) {
        at[i] = dir->copy_heads[at[i]];
        if (at[i] != KVC_NONE) {
            __builtin_prefetch(&dir->entries[at[i]]);
        }
    }
    for (uint32_t i = 0; i < segment->nr_keys; i++) {
        copy.key = segment->keys[i];
        uint32_t e = at[i];
        while (e != KVC_NONE && !kvc_copy_equal(&dir->entries[e].copy, &copy)) {
            e = dir->entries[e].copy_next;
        }
        struct kv_msg_run page = {.seg = seg, .want = want, .first = i, .n = 1};
        page.nr_holders = entry_holders(dir, e, except, KV_MSG_HOLDERS_MAX, nodes);
        if (page.nr_holders > 0 && !run_add(answer, &page, nodes)) {
            return false;
        }
    }
    return true;
}

/* Longest first; then the earlier want and the smaller key: the same everywhere. */
static bool tail_before(const struct kv_msg_tail *a, const struct kv_msg_tail *b)
{
    if (a->n_tokens != b->n_tokens) {
        return a->n_tokens > b->n_tokens;
    }
    if (a->want != b->want) {
        return a->want < b->want;
    }
    return memcmp(a->key.b, b->key.b, KV_KEY_BYTES) < 0;
}

static void tail_insert(struct kvc_dir_answer *answer, const struct kv_msg_tail *tail)
{
    uint32_t i = answer->nr_tails;
    if (i == KV_MSG_TAILS_MAX) {
        if (!tail_before(tail, &answer->tails[i - 1])) {
            return;
        }
        i--;
    } else {
        answer->nr_tails++;
    }
    while (i > 0 && tail_before(tail, &answer->tails[i - 1])) {
        answer->tails[i] = answer->tails[i - 1];
        i--;
    }
    answer->tails[i] = *tail;
}

/* Index of the entry's (layout, group, shard) in the wants, or their number. */
static uint32_t want_of(const struct kv_msg_lookup *lookup, const struct kv_copy *copy)
{
    uint32_t i = 0;
    while (i < lookup->nr_wants
           && (lookup->wants[i].layout != copy->layout
               || lookup->wants[i].group != copy->group
               || lookup->wants[i].shard != copy->shard)) {
        i++;
    }
    return i;
}

static void lookup_tails(
    const struct kvc_dir *dir, const struct kv_msg_lookup *lookup, uint32_t except,
    struct kvc_dir_answer *answer)
{
    uint32_t bucket = kvc_tail_bucket(dir, lookup->tenant, &lookup->tail_prev);
    uint32_t e = dir->tail_heads[bucket];
    for (uint32_t n = 0; e != KVC_NONE && n < TAILS_WALK_MAX; n++) {
        const struct kvc_entry *entry = &dir->entries[e];
        struct kv_msg_tail tail = {.n_tokens = entry->n_tokens, .key = entry->copy.key};
        tail.want = want_of(lookup, &entry->copy);
        if (entry->copy.tenant == lookup->tenant && tail.want < lookup->nr_wants
            && kv_key_equal(&entry->prev, &lookup->tail_prev)
            && entry_holders(dir, e, except, 1, &tail.holder) > 0) {
            tail_insert(answer, &tail);
        }
        e = entry->tail_next;
    }
}

static uint32_t id_of(const struct kvc_view *view, uint32_t node)
{
    KV_ASSERT(node < view->nr);
    return view->members[node].id;
}

void kvc_dir_lookup(
    const kvc_dir_t *dir, const struct kvc_view *view,
    const struct kv_msg_lookup *lookup, uint32_t except, struct kvc_dir_answer *answer)
{
    answer->nr_runs = 0;
    answer->nr_tails = 0;
    bool room = true;
    for (uint32_t seg = 0; room && seg < lookup->nr_segs; seg++) {
        for (uint32_t want = 0; room && want < lookup->nr_wants; want++) {
            room = lookup_segment(dir, lookup, seg, want, except, answer);
        }
    }
    if (lookup->tails) {
        lookup_tails(dir, lookup, except, answer);
    }
    for (uint32_t i = 0; i < answer->nr_runs; i++) {
        for (uint32_t j = 0; j < answer->runs[i].nr_holders; j++) {
            answer->holders[i][j] = id_of(view, answer->holders[i][j]);
        }
    }
    for (uint32_t i = 0; i < answer->nr_tails; i++) {
        answer->tails[i].holder = id_of(view, answer->tails[i].holder);
    }
}
