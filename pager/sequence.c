/* Sequences: page tables of two levels, their references, and what is retired until the
 * engine confirms that its queued kernels no longer carry the old table. */
#include "pager/pager_priv.h"

/* ------------------------------------------------------------------ tables */

bool kvp_seq_find(
    const struct kvp_pager *p, struct kvp_seq_id id, struct kvp_seq **seq_p)
{
    if (id.index >= p->config.nr_sequences) {
        return false;
    }
    struct kvp_seq *seq = &p->seqs[id.index];
    if (!seq->open || seq->gen != id.gen) {
        return false;
    }
    *seq_p = seq;
    return true;
}

struct kvp_seq_id kvp_seq_id_of(const struct kvp_pager *p, const struct kvp_seq *seq)
{
    KV_ASSERT(seq->open);
    return (struct kvp_seq_id){.index = (uint32_t)(seq - p->seqs), .gen = seq->gen};
}

uint32_t
kvp_seq_get(const struct kvp_pager *p, const struct kvp_seq *seq, uint32_t page)
{
    KV_ASSERT(page < seq->nr_pages);
    const uint32_t leaf = seq->leaves[page / KVP_SEQ_LEAF_PAGES];
    const uint32_t frame = p->leaves[leaf].frames[page % KVP_SEQ_LEAF_PAGES];
    KV_ASSERT(frame < p->nr_frames);
    return frame;
}

void kvp_seq_put(
    struct kvp_pager *p, struct kvp_seq *seq, uint32_t page, uint32_t frame)
{
    const uint32_t leaf = seq->leaves[page / KVP_SEQ_LEAF_PAGES];

    KV_ASSERT(leaf != KVP_NO_LEAF);
    KV_ASSERT(frame < p->nr_frames);
    p->leaves[leaf].frames[page % KVP_SEQ_LEAF_PAGES] = frame;
}

bool kvp_seq_reach(struct kvp_pager *p, struct kvp_seq *seq, uint32_t nr_pages)
{
    const uint32_t have = kvp_leaves_of(seq->nr_pages), want = kvp_leaves_of(nr_pages);

    KV_ASSERT(want >= have && want <= KVP_SEQ_LEAVES_MAX);
    if (want - have > p->nr_leaves_free) {
        return false;
    }
    for (uint32_t l = have; l < want; l++) {
        KV_ASSERT(seq->leaves[l] == KVP_NO_LEAF);
        seq->leaves[l] = p->leaf_free;
        p->leaf_free = p->leaf_next[p->leaf_free];
        p->nr_leaves_free--;
    }
    return true;
}

void kvp_seq_shrink(struct kvp_pager *p, struct kvp_seq *seq, uint32_t nr_pages)
{
    KV_ASSERT(nr_pages <= seq->nr_pages);
    for (uint32_t l = kvp_leaves_of(nr_pages); l < kvp_leaves_of(seq->nr_pages); l++) {
        KV_ASSERT(seq->leaves[l] != KVP_NO_LEAF);
        p->leaf_next[seq->leaves[l]] = p->leaf_free;
        p->leaf_free = seq->leaves[l];
        p->nr_leaves_free++;
        seq->leaves[l] = KVP_NO_LEAF;
    }
    seq->nr_pages = nr_pages;
}

/* A domain without device pools keeps its block tables in host memory. */
enum kvp_tier kvp_seq_tier(const struct kvp_pager *p, uint16_t tenant)
{
    KV_ASSERT(tenant < p->config.nr_tenants);
    return p->shelves[tenant][KVP_DEVICE].nr_pools > 0 ? KVP_DEVICE : KVP_HOST;
}

/* ------------------------------------------------------------------ retired */

void kvp_retire(
    struct kvp_pager *p, struct kvp_seq *seq, uint32_t frame, uint64_t version)
{
    const uint32_t r = p->retired_free;

    KV_ASSERT(r != KVP_NO_RETIRED && p->nr_retired_free > 0);
    KV_ASSERT(seq->nr_retired == 0 || p->retired[seq->retired_tail].version <= version);
    p->retired_free = p->retired[r].next;
    p->nr_retired_free--;
    p->retired[r] = (struct kvp_retired){
        .version = version,
        .frame = frame,
        .next = KVP_NO_RETIRED,
    };
    if (seq->nr_retired == 0) {
        seq->retired_head = r;
    } else {
        p->retired[seq->retired_tail].next = r;
    }
    seq->retired_tail = r;
    seq->nr_retired++;
}

static uint32_t unretire(struct kvp_pager *p, struct kvp_seq *seq)
{
    const uint32_t r = seq->retired_head;

    KV_ASSERT(seq->nr_retired > 0);
    seq->retired_head = p->retired[r].next;
    seq->nr_retired--;
    p->retired[r].next = p->retired_free;
    p->retired_free = r;
    p->nr_retired_free++;
    KV_ASSERT((seq->nr_retired == 0) == (seq->retired_head == KVP_NO_RETIRED));
    return p->retired[r].frame;
}

void kvp_seq_ref_end(struct kvp_pager *p, uint32_t frame)
{
    const struct kvp_frame *f = &p->frames[frame];

    switch (f->state) {
    case KVP_FILLING:
        KV_ASSERT(f->refs == 1); /* (2) */
        kvp_frame_quarantine(p, frame);
        return;
    case KVP_SEALING: /* goes on being sealed: its bytes are complete */
    case KVP_SEALED:
        kvp_ref_drop(p, frame);
        kvp_settle_used(p, frame);
        return;
    default:
        KV_ASSERT(false && "a state that sequences hold");
    }
}

kv_status_t kvp_seq_confirm(kvp_pager_t *pager, struct kvp_seq_id id, uint64_t version)
{
    struct kvp_seq *seq;

    if (!kvp_seq_find(pager, id, &seq)) {
        return KV_ERR_STALE;
    }
    if (version > seq->version) {
        return KV_ERR_INVALID;
    }
    while (seq->nr_retired > 0
           && pager->retired[seq->retired_head].version <= version) {
        kvp_seq_ref_end(pager, unretire(pager, seq));
    }
    KV_ASSERT(KV_IMPLIES(version == seq->version, seq->nr_retired == 0));
    return KV_OK;
}

/* ------------------------------------------------------------------ begin and end */

static struct kvp_seq *seq_alloc(struct kvp_pager *p, uint16_t tenant, uint16_t variant)
{
    if (p->seq_free == KVP_NO_SEQ) {
        return NULL;
    }
    struct kvp_seq *seq = &p->seqs[p->seq_free];
    KV_ASSERT(!seq->open && seq->nr_pages == 0);
    p->seq_free = seq->next_free;
    p->nr_seqs_open++;
    seq->open = true;
    seq->ending = false;
    seq->tenant = tenant;
    seq->variant = variant;
    seq->n_tokens = 0;
    seq->version = 0;
    return seq;
}

static void seq_free(struct kvp_pager *p, struct kvp_seq *seq)
{
    const uint32_t nr = seq->nr_pages;

    KV_ASSERT(seq->open);
    for (uint32_t page = nr; page-- > 0;) { /* tails first */
        kvp_seq_ref_end(p, kvp_seq_get(p, seq, page));
    }
    kvp_seq_shrink(p, seq, 0);
    while (seq->nr_retired > 0) {
        kvp_seq_ref_end(p, unretire(p, seq));
    }
    seq->open = false;
    seq->gen++;
    seq->next_free = p->seq_free;
    p->seq_free = (uint32_t)(seq - p->seqs);
    KV_ASSERT(p->nr_seqs_open > 0);
    p->nr_seqs_open--;
}

kv_status_t kvp_seq_open(
    kvp_pager_t *pager, uint16_t tenant, uint16_t variant, struct kvp_seq_id *seq_p)
{
    KV_ASSERT(tenant < pager->config.nr_tenants);
    KV_ASSERT(variant < pager->config.nr_variants);
    struct kvp_seq *seq = seq_alloc(pager, tenant, variant);
    if (seq == NULL) {
        pager->metrics.again++;
        return KV_ERR_AGAIN;
    }
    *seq_p = kvp_seq_id_of(pager, seq);
    return KV_OK;
}

kv_status_t kvp_seq_end(kvp_pager_t *pager, struct kvp_seq_id id, bool fence)
{
    struct kvp_seq *seq;

    if (!kvp_seq_find(pager, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    seq->ending = true;
    if (!fence) {
        seq_free(pager, seq);
    }
    return KV_OK;
}

kv_status_t kvp_seq_fenced(kvp_pager_t *pager, struct kvp_seq_id id)
{
    struct kvp_seq *seq;

    if (!kvp_seq_find(pager, id, &seq)) {
        return KV_ERR_STALE;
    }
    if (!seq->ending) {
        return KV_ERR_INVALID;
    }
    seq_free(pager, seq);
    return KV_OK;
}

kv_status_t
kvp_seq_info(const kvp_pager_t *pager, struct kvp_seq_id id, struct kvp_seq_info *info)
{
    struct kvp_seq *seq;

    if (!kvp_seq_find(pager, id, &seq)) {
        return KV_ERR_STALE;
    }
    *info = (struct kvp_seq_info){
        .tenant = seq->tenant,
        .variant = seq->variant,
        .nr_pages = seq->nr_pages,
        .n_tokens = seq->n_tokens,
        .version = seq->version,
        .nr_retired = seq->nr_retired,
        .ending = seq->ending,
    };
    return KV_OK;
}

kv_status_t kvp_seq_table(
    const kvp_pager_t *pager, struct kvp_seq_id id, uint32_t first, uint32_t n,
    struct kvp_ref *refs)
{
    struct kvp_seq *seq;

    if (!kvp_seq_find(pager, id, &seq)) {
        return KV_ERR_STALE;
    }
    if (first > seq->nr_pages || n > seq->nr_pages - first) {
        return KV_ERR_INVALID;
    }
    for (uint32_t i = 0; i < n; i++) {
        refs[i] = kvp_ref_of(pager, kvp_seq_get(pager, seq, first + i));
    }
    return KV_OK;
}

/* ------------------------------------------------------------------ fork */

/* Pages that are still being filled must be copied: how many, and can they be? */
static kv_status_t fork_counts(
    const struct kvp_pager *p, const struct kvp_seq *seq, uint32_t *nr_filling_p)
{
    uint32_t nr = 0;

    KV_ASSERT(seq->open);
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        const struct kvp_frame *f = &p->frames[kvp_seq_get(p, seq, page)];
        if (f->state != KVP_FILLING) {
            continue;
        }
        if ((f->flags & KVP_F_FAILED) != 0) {
            return KV_ERR_IO;
        }
        if (p->cold[kvp_seq_get(p, seq, page)].work != KVP_WORK_NONE) {
            return KV_ERR_AGAIN; /* its own first bytes are still on their way */
        }
        nr++;
    }
    *nr_filling_p = nr;
    return KV_OK;
}

static void fork_page(
    struct kvp_pager *p, const struct kvp_seq *seq, struct kvp_seq *child,
    struct kvp_pool *pool, uint32_t page)
{
    const uint32_t from = kvp_seq_get(p, seq, page);
    const uint32_t page_tokens = p->config.variants[seq->variant].page_tokens;
    const uint32_t behind = seq->n_tokens - page * page_tokens;

    if (p->frames[from].state != KVP_FILLING) {
        kvp_ref_take(p, from);
        kvp_seq_put(p, child, page, from);
        return;
    }
    KV_ASSERT(pool != NULL && behind > 0);
    const uint32_t i = kvp_frame_alloc(p, pool, seq->tenant, seq->variant, KVP_FILLING);
    p->cold[i].seq = (uint32_t)(child - p->seqs);
    p->cold[i].page = page;
    kvp_seq_put(p, child, page, i);
    kvp_prepare(
        p, i, from,
        kvp_copy_len(p, seq->variant, behind < page_tokens ? behind : page_tokens));
}

kv_status_t
kvp_seq_fork(kvp_pager_t *pager, struct kvp_seq_id id, struct kvp_seq_id *child_p)
{
    struct kvp_pager *p = pager;
    struct kvp_pool *pool = NULL;
    struct kvp_seq *seq;
    uint32_t nr_filling;

    if (!kvp_seq_find(p, id, &seq) || seq->ending) {
        return KV_ERR_STALE;
    }
    kv_status_t status = fork_counts(p, seq, &nr_filling);
    if (status != KV_OK) {
        return status;
    }
    if (p->seq_free == KVP_NO_SEQ || kvp_leaves_of(seq->nr_pages) > p->nr_leaves_free) {
        p->metrics.again++;
        return KV_ERR_AGAIN;
    }
    if (nr_filling > 0) {
        status = kvp_room(
            p, seq->tenant, kvp_seq_tier(p, seq->tenant),
            p->config.variants[seq->variant].page_bytes, nr_filling, &pool);
        if (status != KV_OK) {
            return status;
        }
    }
    struct kvp_seq *child = seq_alloc(p, seq->tenant, seq->variant);
    const bool reached = kvp_seq_reach(p, child, seq->nr_pages);
    KV_ASSERT(reached);
    child->nr_pages = seq->nr_pages;
    child->n_tokens = seq->n_tokens;
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        fork_page(p, seq, child, pool, page);
    }
    child->version = 1;
    *child_p = kvp_seq_id_of(p, child);
    return KV_OK;
}
