/* What the pager adds to the memory accesses that nobody can save.
 *
 * The pool holds about a million pages, far more than any cache, in an order that has
 * nothing to do with the prefixes: a pool that has been in use looks like that, and no
 * prefetching of neighbours by the processor can help either side. Floor and pager have
 * tables of one size and load, the same pages in the same places, and keys in cache,
 * where an engine that has just derived them has them; each side gets prefixes that the
 * other has not just touched. */
#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "node/bench.h"
#include "pager/pager.h"

#include <string.h>

enum {
    PREFIX_PAGES = 64,   /* of one call */
    SLICE_PREFIXES = 16, /* their keys and answers fit the nearest caches */
    SLICE_PAGES = SLICE_PREFIXES * PREFIX_PAGES,
    PAGE_TOKENS = 16,
    PAGE_BYTES = 256,
    FRAMES = 1 << 20,
    FREE_FRAMES = 1 << 13, /* so that nothing is ever evicted */
    SLICES = 496,          /* of one run: nearly half of the pages on either side */
    QUICK_FRAMES = 1 << 12,
    QUICK_FREE_FRAMES = 1 << 8,
    ALLOC_PAGES = 64,
    ALLOC_LOOPS = 64,
    VERIFY_SAMPLE = 64, /* the preset of pager.verify_local */
};

#define NO_LINE UINT32_MAX

/* The least that a look-up can touch: a slot, and a line with the key. */
struct floor_slot {
    uint32_t tag;
    uint32_t line;
};

struct floor_line {
    kv_key_t key;
    uint64_t gen;
    uint32_t refs;
    uint32_t zero; /* always */
    uint32_t next; /* of the free list */
    uint32_t spare[3];
};
_Static_assert(sizeof(struct floor_line) == 64, "one line of frame data");

/* The least that exact recency needs of a page. */
struct floor_node {
    uint32_t older, newer;
};

struct floor {
    struct floor_slot *slots;
    struct floor_line *lines;
    struct floor_node *nodes; /* [nr_lines + 1], the last is the list's head */
    uint32_t nr_lines;
    uint32_t mask, shift;
    uint32_t free_line;
};

struct pager_bench {
    struct floor floor;
    kvp_pager_t *pager;
    uint32_t nr_frames, nr_prefixes, slices;
    kv_key_t *keys;       /* [nr_prefixes * PREFIX_PAGES] */
    struct kvp_ref *held; /* [slices * SLICE_PAGES], of the subject */
    uint32_t *lines_held; /* likewise, of the reference */
    uint32_t *order;      /* of the prefixes; the subject has the first half */
    struct kv_rng rng;
    uint64_t *orders; /* digests that are out */
    uint32_t nr_orders;

    /* of one slice, hot */
    kv_key_t hot_keys[SLICE_PAGES];
    struct kvp_ref hot_refs[SLICE_PAGES];
    kv_status_t hot_statuses[SLICE_PAGES];
    uint32_t hot_lines[SLICE_PAGES];
    struct kvp_ref alloc_refs[ALLOC_PAGES];
    uint32_t alloc_lines[ALLOC_PAGES];
};

/* ------------------------------------------------------------------ the floor */

/* A key is SHA-256 already: any word of it is a hash. */
static inline uint32_t floor_tag(const kv_key_t *key)
{
    return (uint32_t)(kv_key_word(key) >> 32);
}

static kv_status_t floor_init(struct floor *floor, uint32_t nr_lines, uint32_t nr_free)
{
    uint32_t bits = 4;
    while (UINT64_C(1) << bits < 2 * (uint64_t)nr_lines) {
        bits++;
    }
    const uint32_t nr_slots = UINT32_C(1) << bits;
    *floor = (struct floor){
        .slots = kv_calloc(nr_slots, sizeof(*floor->slots)),
        .lines = kv_calloc(nr_lines, sizeof(*floor->lines)),
        .nodes = kv_calloc((size_t)nr_lines + 1, sizeof(*floor->nodes)),
        .nr_lines = nr_lines,
        .mask = nr_slots - 1,
        .shift = 32 - bits,
        .free_line = NO_LINE,
    };
    if (floor->slots == NULL || floor->lines == NULL || floor->nodes == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < nr_slots; i++) {
        floor->slots[i].line = NO_LINE;
    }
    floor->nodes[nr_lines] = (struct floor_node){.older = nr_lines, .newer = nr_lines};
    for (uint32_t i = nr_lines; i-- > nr_lines - nr_free;) {
        floor->lines[i].next = floor->free_line;
        floor->free_line = i;
    }
    return KV_OK;
}

static void floor_fini(struct floor *floor)
{
    kv_free(floor->nodes);
    kv_free(floor->lines);
    kv_free(floor->slots);
}

static inline void floor_unlink(struct floor_node *nodes, uint32_t i)
{
    nodes[nodes[i].older].newer = nodes[i].newer;
    nodes[nodes[i].newer].older = nodes[i].older;
}

static inline void
floor_link_newest(struct floor_node *nodes, uint32_t head, uint32_t i)
{
    const uint32_t newest = nodes[head].older;
    nodes[i] = (struct floor_node){.older = newest, .newer = head};
    nodes[newest].newer = i;
    nodes[head].older = i;
}

static void floor_add(struct floor *floor, const kv_key_t *key, uint32_t line)
{
    uint32_t slot = floor_tag(key) >> floor->shift;
    KV_ASSERT(line != floor->free_line && line < floor->nr_lines);
    while (floor->slots[slot].line != NO_LINE) {
        slot = (slot + 1) & floor->mask;
    }
    floor->slots[slot] = (struct floor_slot){.tag = floor_tag(key), .line = line};
    floor->lines[line].key = *key;
    floor_link_newest(floor->nodes, floor->nr_lines, line);
}

static inline uint32_t
floor_walk(const struct floor *floor, uint32_t slot, uint32_t tag)
{
    while (floor->slots[slot].line != NO_LINE && floor->slots[slot].tag != tag) {
        slot = (slot + 1) & floor->mask;
    }
    return slot;
}

static inline bool floor_same(const struct floor_line *line, const kv_key_t *key)
{
    uint64_t a[4], b[4];
    memcpy(a, line->key.b, sizeof(a));
    memcpy(b, key->b, sizeof(b));
    return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3])) == 0;
}

static inline uint32_t
floor_settle(const struct floor *floor, const kv_key_t *key, uint32_t slot)
{
    for (;;) {
        const uint32_t line = floor->slots[slot].line;
        if (line == NO_LINE || floor_same(&floor->lines[line], key)) {
            return line;
        }
        slot = floor_walk(floor, (slot + 1) & floor->mask, floor_tag(key));
    }
}

/* PREFIX_PAGES keys: all slots on their way, then all lines, then the compares. */
static void
floor_probe(const struct floor *floor, const kv_key_t *keys, uint32_t *lines)
{
    uint32_t slots[PREFIX_PAGES];

    for (unsigned i = 0; i < PREFIX_PAGES; i++) {
        slots[i] = floor_tag(&keys[i]) >> floor->shift;
        __builtin_prefetch(&floor->slots[slots[i]]);
    }
    for (unsigned i = 0; i < PREFIX_PAGES; i++) {
        slots[i] = floor_walk(floor, slots[i], floor_tag(&keys[i]));
        const uint32_t line = floor->slots[slots[i]].line;
        __builtin_prefetch(&floor->lines[line == NO_LINE ? 0 : line]);
    }
    for (unsigned i = 0; i < PREFIX_PAGES; i++) {
        lines[i] = floor_settle(floor, &keys[i], slots[i]);
    }
}

/* ------------------------------------------------------------------ the pager */

static void on_order(void *arg, const struct kvp_order *order)
{
    struct pager_bench *b = arg;
    KV_ASSERT(order->kind == KVP_ORDER_DIGEST && b->nr_orders < b->nr_frames);
    b->orders[b->nr_orders++] = order->id;
}

static void on_listed(void *arg, struct kvp_ref ref, uint64_t hold)
{
    (void)arg, (void)ref, (void)hold;
}

static void on_unlisted(
    void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold)
{
    (void)arg, (void)copy, (void)segment, (void)hold;
}

static void on_switched(
    void *arg, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    (void)arg, (void)seq, (void)page, (void)was, (void)now;
}

static void on_verified(void *arg, struct kvp_ref ref, kv_status_t status)
{
    (void)arg, (void)ref;
    KV_ASSERT(status == KV_OK);
}

static void
on_sealed(void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    (void)arg, (void)ref, (void)now;
    KV_ASSERT(status == KV_OK);
}

static void
on_copied(void *arg, struct kvp_ref ref, kv_status_t status, uint64_t computed)
{
    (void)arg, (void)ref, (void)status, (void)computed;
}

static void on_freed(void *arg, struct kvp_ref ref)
{
    (void)arg, (void)ref;
}

static kv_status_t pager_create(struct pager_bench *b, enum kvp_verify verify)
{
    struct kvp_config *config = kv_calloc(1, sizeof(*config));
    const struct kvp_out out = {
        .arg = b,
        .order = on_order,
        .listed = on_listed,
        .unlisted = on_unlisted,
        .switched = on_switched,
        .verified = on_verified,
        .sealed = on_sealed,
        .copied = on_copied,
        .freed = on_freed,
    };
    if (config == NULL) {
        return KV_ERR_NOMEM;
    }
    *config = (struct kvp_config){
        .pools =
            {{.tier = KVP_HOST, .frame_bytes = PAGE_BYTES, .nr_frames = b->nr_frames}},
        .nr_pools = 1,
        .tenants = {{.id = 1}},
        .nr_tenants = 1,
        .variants = {{.page_tokens = PAGE_TOKENS, .page_bytes = PAGE_BYTES}},
        .nr_variants = 1,
        .evict = &kvp_evict_lru,
        .verify_local = verify,
        .verify_sample = VERIFY_SAMPLE,
        .nr_sequences = 1,
        .nr_leaves = 1,
        .nr_retired = 1,
        .seed = 1,
    };
    kv_status_t status = kvp_create(config, &out, &b->pager, NULL);
    kv_free(config);
    return status;
}

/* Every digest is the same number: what is measured here never reads a byte. */
static void orders_done(struct pager_bench *b)
{
    for (; b->nr_orders > 0; b->nr_orders--) {
        KV_ASSERT(
            kvp_order_done(b->pager, b->orders[b->nr_orders - 1], KV_OK, 1) == KV_OK);
    }
}

static void shuffle(struct kv_rng *rng, uint32_t *items, uint32_t nr)
{
    for (uint32_t i = nr; i > 1; i--) {
        const uint32_t j = (uint32_t)kv_rng_below(rng, i);
        const uint32_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

static void page_fill(struct pager_bench *b, const kv_key_t *key, struct kvp_ref *ref_p)
{
    const struct kvp_place place = {.segment = *key};
    struct kvp_ref existing;
    KV_ASSERT(kvp_fill_begin(b->pager, 0, 0, KVP_HOST, PAGE_TOKENS, ref_p) == KV_OK);
    KV_ASSERT(kvp_fill_seal(b->pager, *ref_p, key, &place, &existing) == KV_SEALING);
    orders_done(b);
    kvp_release(b->pager, ref_p, 1);
}

/* Token keys of random prompts. */
static kv_status_t keys_make(struct pager_bench *b)
{
    const kv_key_t salt = {{1}};
    uint32_t tokens[PAGE_TOKENS];
    kv_keygen_t *gen;
    kv_status_t status = kv_keygen_create(&gen);
    if (status != KV_OK) {
        return status;
    }
    for (uint32_t p = 0; p < b->nr_prefixes && status == KV_OK; p++) {
        kv_key_t key;
        kv_key_root(gen, &salt, &key);
        for (unsigned i = 0; i < PREFIX_PAGES && status == KV_OK; i++) {
            for (unsigned t = 0; t < PAGE_TOKENS; t++) {
                tokens[t] = (uint32_t)kv_rng_next(&b->rng);
            }
            status = kv_key_page(gen, &key, tokens, PAGE_TOKENS, NULL, 0, &key, NULL);
            b->keys[(size_t)p * PREFIX_PAGES + i] = key;
        }
    }
    kv_keygen_destroy(gen);
    return status;
}

/* The floor has the same pages in the same places: only one of several pagers adds to
 * it. */
static kv_status_t fill(struct pager_bench *b, bool with_floor)
{
    const uint32_t nr_pages = b->nr_prefixes * PREFIX_PAGES;
    uint32_t *pages = kv_calloc(nr_pages, sizeof(*pages));
    if (pages == NULL) {
        return KV_ERR_NOMEM;
    }
    struct kv_rng rng = kv_rng_seed(2); /* the same places in each pager */
    for (uint32_t i = 0; i < nr_pages; i++) {
        pages[i] = i;
    }
    shuffle(&rng, pages, nr_pages);
    for (uint32_t i = 0; i < nr_pages; i++) {
        const kv_key_t *key = &b->keys[pages[i]];
        struct kvp_ref ref;
        page_fill(b, key, &ref);
        if (with_floor) {
            floor_add(&b->floor, key, ref.frame);
        }
    }
    kv_free(pages);
    return KV_OK;
}

/* ------------------------------------------------------------------ acquire */

static const kv_key_t *keys_of(const struct pager_bench *b, uint32_t at)
{
    return &b->keys[(size_t)b->order[at] * PREFIX_PAGES];
}

/* The half of the order that one side has. */
static void ready_keys(struct pager_bench *b, uint32_t half, unsigned slice)
{
    for (unsigned i = 0; i < SLICE_PREFIXES; i++) {
        const uint32_t at = half * (b->nr_prefixes / 2) + slice * SLICE_PREFIXES + i;
        memcpy(
            &b->hot_keys[(size_t)i * PREFIX_PAGES], keys_of(b, at),
            PREFIX_PAGES * sizeof(kv_key_t));
    }
}

static void floor_ready(void *arg, unsigned slice)
{
    ready_keys(arg, 1, slice);
}

static void floor_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < SLICE_PAGES; i += PREFIX_PAGES) {
        floor_probe(&b->floor, b->hot_keys + i, b->hot_lines + i);
    }
    kvn_bench_use(b->hot_lines);
}

static void floor_keep(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    for (unsigned i = 0; i < SLICE_PAGES; i++) {
        KV_ASSERT(b->hot_lines[i] != NO_LINE);
        b->floor.lines[b->hot_lines[i]].refs++;
    }
    memcpy(
        b->lines_held + (size_t)slice * SLICE_PAGES, b->hot_lines,
        sizeof(b->hot_lines));
}

static void floor_check(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < SLICE_PAGES; i++) {
        KV_ASSERT(b->hot_lines[i] != NO_LINE);
    }
}

static void acquire_ready(void *arg, unsigned slice)
{
    ready_keys(arg, 0, slice);
}

static void acquire_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    uint32_t nr = 0;
    (void)slice;
    for (unsigned i = 0; i < SLICE_PAGES; i += PREFIX_PAGES) {
        nr += kvp_acquire(
            b->pager, 0, 0, b->hot_keys + i, PREFIX_PAGES, b->hot_refs + i,
            b->hot_statuses + i);
    }
    KV_ASSERT(nr == SLICE_PAGES);
}

static void acquire_keep(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    orders_done(b); /* a reference that waits for a re-check cannot be given back */
    memcpy(b->held + (size_t)slice * SLICE_PAGES, b->hot_refs, sizeof(b->hot_refs));
}

static void acquire_begin(void *arg)
{
    struct pager_bench *b = arg;
    shuffle(&b->rng, b->order, b->nr_prefixes);
}

static void acquire_end(void *arg)
{
    struct pager_bench *b = arg;
    for (uint32_t i = 0; i < b->slices * SLICE_PAGES; i += PREFIX_PAGES) {
        kvp_release(b->pager, b->held + i, PREFIX_PAGES);
    }
}

/* Everything is held before the first is given back, as requests hold their pages while
 * they run: a release finds its frames where other requests left them. */
static void release_begin(void *arg)
{
    struct pager_bench *b = arg;
    acquire_begin(b);
    for (unsigned slice = 0; slice < b->slices; slice++) {
        acquire_ready(b, slice);
        acquire_run(b, slice);
        acquire_keep(b, slice);
        floor_ready(b, slice);
        floor_run(b, slice);
        floor_keep(b, slice);
    }
}

static void release_ready(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    memcpy(b->hot_refs, b->held + (size_t)slice * SLICE_PAGES, sizeof(b->hot_refs));
}

static void release_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    (void)slice;
    for (unsigned i = 0; i < SLICE_PAGES; i += PREFIX_PAGES) {
        kvp_release(b->pager, b->hot_refs + i, PREFIX_PAGES);
    }
}

static void recency_ready(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    memcpy(
        b->hot_lines, b->lines_held + (size_t)slice * SLICE_PAGES,
        sizeof(b->hot_lines));
}

/* Tails first, as the pager does; whoever is unreferenced becomes the newest. */
static void recency_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    struct floor *floor = &b->floor;
    struct floor_node *nodes = floor->nodes;
    (void)slice;
    for (unsigned at = 0; at < SLICE_PAGES; at += PREFIX_PAGES) {
        const uint32_t *lines = b->hot_lines + at;
        for (unsigned i = 0; i < PREFIX_PAGES; i++) {
            __builtin_prefetch(&floor->lines[lines[i]], 1);
            __builtin_prefetch(&nodes[lines[i]], 1);
        }
        for (unsigned i = 0; i < PREFIX_PAGES; i++) {
            __builtin_prefetch(&nodes[nodes[lines[i]].older], 1);
            __builtin_prefetch(&nodes[nodes[lines[i]].newer], 1);
        }
        for (unsigned i = PREFIX_PAGES; i-- > 0;) {
            if (--floor->lines[lines[i]].refs == 0) {
                floor_unlink(nodes, lines[i]);
                floor_link_newest(nodes, floor->nr_lines, lines[i]);
            }
        }
    }
    kvn_bench_use(nodes);
}

/* ------------------------------------------------------------------ one by one */

static void dependent_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    const struct floor *floor = &b->floor;
    (void)slice;
    for (uint32_t i = 0; i < SLICE_PAGES;) {
        const kv_key_t *key = &b->hot_keys[i];
        const uint32_t tag = floor_tag(key);
        const uint32_t slot = floor_walk(floor, tag >> floor->shift, tag);
        const uint32_t line = floor_settle(floor, key, slot);
        b->hot_lines[i] = line;
        i += 1 + floor->lines[line].zero; /* which only the line itself can tell */
    }
    kvn_bench_use(b->hot_lines);
}

static void other_half_ready(void *arg, unsigned slice)
{
    ready_keys(arg, 0, slice);
}

/* ------------------------------------------------------------------ alloc and free */

static void list_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    struct floor *floor = &b->floor;
    (void)slice;
    for (unsigned loop = 0; loop < ALLOC_LOOPS; loop++) {
        for (unsigned i = 0; i < ALLOC_PAGES; i++) {
            const uint32_t line = floor->free_line;
            floor->free_line = floor->lines[line].next;
            floor->lines[line].refs = 1;
            b->alloc_lines[i] = line;
        }
        kvn_bench_use(b->alloc_lines);
        for (unsigned i = 0; i < ALLOC_PAGES; i++) {
            struct floor_line *line = &floor->lines[b->alloc_lines[i]];
            line->refs = 0;
            line->gen++;
            line->next = floor->free_line;
            floor->free_line = b->alloc_lines[i];
        }
        kvn_bench_use(floor->lines);
    }
}

static void alloc_run(void *arg, unsigned slice)
{
    struct pager_bench *b = arg;
    (void)slice;
    for (unsigned loop = 0; loop < ALLOC_LOOPS; loop++) {
        for (unsigned i = 0; i < ALLOC_PAGES; i++) {
            KV_ASSERT(
                kvp_fill_begin(b->pager, 0, 0, KVP_HOST, PAGE_TOKENS, &b->alloc_refs[i])
                == KV_OK);
        }
        for (unsigned i = 0; i < ALLOC_PAGES; i++) {
            kvp_fill_abort(b->pager, b->alloc_refs[i], false);
        }
    }
}

/* ------------------------------------------------------------------ all of them */

static void measure(struct kvn_bench *bench, struct pager_bench *b)
{
    const struct kvn_bench_side floor = {floor_ready, floor_run, floor_check};
    const struct kvn_bench_case alloc = {
        .name = KVN_BENCH_PAGE_ALLOC_FREE,
        .slices = bench->quick ? 2 : 64,
        .nr_per_slice = ALLOC_LOOPS * ALLOC_PAGES,
        .reference = {NULL, list_run, NULL},
        .subject = {NULL, alloc_run, NULL},
    };
    const struct kvn_bench_case probe = {
        .name = KVN_BENCH_PROBE_FLOOR,
        .slices = b->slices,
        .nr_per_slice = SLICE_PAGES,
        .begin = acquire_begin,
        .reference = {other_half_ready, dependent_run, floor_check},
        .subject = floor,
    };
    const struct kvn_bench_case acquire = {
        .name = KVN_BENCH_ACQUIRE,
        .slices = b->slices,
        .nr_per_slice = SLICE_PAGES,
        .begin = acquire_begin,
        .end = acquire_end,
        .reference = floor,
        .subject = {acquire_ready, acquire_run, acquire_keep},
    };
    const struct kvn_bench_case release = {
        .name = KVN_BENCH_RELEASE,
        .slices = b->slices,
        .nr_per_slice = SLICE_PAGES,
        .begin = release_begin,
        .reference = {recency_ready, recency_run, NULL},
        .subject = {release_ready, release_run, NULL},
    };
    kvn_bench_measure(bench, &alloc, b);
    kvn_bench_measure(bench, &probe, b);
    kvn_bench_measure(bench, &acquire, b);
    kvn_bench_measure(bench, &release, b);
}

/* The same pages in a pager that re-checks one acquire in VERIFY_SAMPLE. */
static kv_status_t measure_sample(struct kvn_bench *bench, struct pager_bench *b)
{
    const struct kvn_bench_case acquire = {
        .name = KVN_BENCH_ACQUIRE_SAMPLE,
        .slices = b->slices,
        .nr_per_slice = SLICE_PAGES,
        .begin = acquire_begin,
        .end = acquire_end,
        .reference = {floor_ready, floor_run, floor_check},
        .subject = {acquire_ready, acquire_run, acquire_keep},
    };
    if (!kvn_bench_wants(bench, KVN_BENCH_ACQUIRE_SAMPLE)) {
        return KV_OK;
    }
    kvp_destroy(b->pager);
    b->pager = NULL;
    kv_status_t status = pager_create(b, KVP_VERIFY_SAMPLE);
    if (status == KV_OK) {
        status = fill(b, false);
    }
    if (status == KV_OK) {
        kvn_bench_measure(bench, &acquire, b);
    }
    return status;
}

static kv_status_t bench_init(struct pager_bench *b, bool quick)
{
    const uint32_t nr_free = quick ? QUICK_FREE_FRAMES : FREE_FRAMES;
    b->nr_frames = quick ? QUICK_FRAMES : FRAMES;
    b->nr_prefixes = (b->nr_frames - nr_free) / PREFIX_PAGES;
    b->slices = b->nr_prefixes / 2 / SLICE_PREFIXES;
    b->slices = b->slices < SLICES ? b->slices : SLICES;
    const size_t nr_pages = (size_t)b->nr_prefixes * PREFIX_PAGES;
    const size_t nr_held = (size_t)b->slices * SLICE_PAGES;
    b->rng = kv_rng_seed(1);
    b->keys = kv_calloc(nr_pages, sizeof(*b->keys));
    b->held = kv_calloc(nr_held, sizeof(*b->held));
    b->lines_held = kv_calloc(nr_held, sizeof(*b->lines_held));
    b->order = kv_calloc(b->nr_prefixes, sizeof(*b->order));
    b->orders = kv_calloc(b->nr_frames, sizeof(*b->orders));
    if (b->keys == NULL || b->held == NULL || b->lines_held == NULL || b->order == NULL
        || b->orders == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < b->nr_prefixes; i++) {
        b->order[i] = i;
    }
    kv_status_t status = floor_init(&b->floor, b->nr_frames, nr_free);
    return status == KV_OK ? keys_make(b) : status;
}

static void bench_fini(struct pager_bench *b)
{
    kvp_destroy(b->pager);
    floor_fini(&b->floor);
    kv_free(b->orders);
    kv_free(b->order);
    kv_free(b->lines_held);
    kv_free(b->held);
    kv_free(b->keys);
    kv_free(b);
}

kv_status_t kvn_bench_pager(struct kvn_bench *bench)
{
    bool wanted = false;
    for (unsigned i = KVN_BENCH_PAGE_ALLOC_FREE; i <= KVN_BENCH_RELEASE; i++) {
        wanted |= kvn_bench_wants(bench, i);
    }
    if (!wanted) {
        return KV_OK;
    }
    struct pager_bench *b = kv_calloc(1, sizeof(*b));
    if (b == NULL) {
        return KV_ERR_NOMEM;
    }
    kv_status_t status = bench_init(b, bench->quick);
    if (status == KV_OK) {
        status = pager_create(b, KVP_VERIFY_OFF);
    }
    if (status == KV_OK) {
        status = fill(b, true);
    }
    if (status == KV_OK) {
        measure(bench, b);
        kvp_check(b->pager); /* a fast pager that loses count would be no figure */
        status = measure_sample(bench, b);
    }
    bench_fini(b);
    return status;
}
