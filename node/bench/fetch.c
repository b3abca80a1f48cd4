/* Prefixes that only a peer has, fetched into a block table at the pager level: a page
 * goes from its owner's frame into the reader's, which the engine maps, and nowhere
 * else. (With a client's own buffer behind it: remote.c.) A transport that is new is a
 * row of `ways`, with its reference.
 *
 *   owner   object level, PUT: pages lie in arenas that peers may map (grants)
 *   reader  the tenant's own memory, filled in place; SEQ_FETCH ──► look at each page
 *           where it lies ──► SEQ_TRUNCATE ──► SEQ_CONFIRM, and the next prefix
 *
 * (1) The reader has room for a part of the set and goes round it, so each page that it
 * asks for has left before. (2) Every byte of the set is looked at once before the
 * takes, one word in 4 KiB during them.
 */
#include "node/bench/load.h"
#include "node/bench/reference.h"

#include "base/assert.h"
#include "base/mem.h"
#include "include/kvrail/kvrail.h"

enum {
    DEPTH_MAX = 16,
    READER_SHARE = 4, /* (1) */
    QUICK_SHARE = 2,
    PAGE_TOKENS = 16,
    PREFIX_PAGES_MAX = 64,
};
#define SET_BYTES (UINT64_C(512) << 20)
#define QUICK_SET_BYTES (UINT64_C(128) << 20)

struct way {
    enum kvn_figure_name off, verify;
    const char *transports; /* link.transports */
    bool maps; /* the reader copies out of the owner's memory: memcpy is its measure */
    uint64_t page_bytes;
    uint32_t prefix_pages;
    uint32_t depth; /* sequences, each with one fetch in flight */
};

/* In flight are 32 MiB of large pages and 16 of small ones: more large ones than that a
 * reader of this size does not let arrive at once, and fewer small ones leave the
 * connection idle while a look-up goes its way. */
static const struct way ways[] = {
    {KVN_FIGURE_FETCH_SHM_1M, KVN_FIGURE_FETCH_SHM_1M_VERIFY, "onesided", true, 1 << 20,
     8, 4},
    {KVN_FIGURE_FETCH_TCP_1M, KVN_FIGURE_FETCH_TCP_1M_VERIFY, "named", false, 1 << 20,
     8, 4},
    {KVN_FIGURE_FETCH_TCP_16K, KVN_FIGURE_FETCH_TCP_16K_VERIFY, "named", false,
     16 << 10, 64, 16},
};

enum { OFF, VERIFY, NR_WORLDS };
enum { OWNER, READER, NR_ENDS };

/* One sequence, empty or with one prefix. */
struct slot {
    kvr_seq_t seq;
    uint32_t prefix;
};

struct fetcher {
    struct kvn_bench_node *bench;
    const struct way *way;
    uint32_t nr_prefixes;
    uint32_t depth;
    struct kvn_world world;
    kvr_client_t *client;
    struct kvr_space space;
    struct kvr_key *keys; /* [nr_prefixes][prefix_pages] */
    struct slot slots[DEPTH_MAX];
    uint32_t next;  /* prefix */
    uint32_t whole; /* prefixes that are still to be looked at whole; 0: a take */
    uint32_t out;   /* calls without a result yet */
};

static uint64_t reader_share(const struct kvn_bench_node *bench)
{
    return bench->quick ? QUICK_SHARE : READER_SHARE;
}

static const struct kvr_key *keys_of(const struct fetcher *f, uint32_t prefix)
{
    return &f->keys[(size_t)prefix * f->way->prefix_pages];
}

static uint64_t number_of(const struct fetcher *f, uint32_t prefix, uint32_t page)
{
    return (uint64_t)prefix * f->way->prefix_pages + page;
}

/* ------------------------------------------------------------------ the owner */

static kv_status_t keys_make(struct fetcher *f)
{
    struct kvn_bench_node *bench = f->bench;
    const uint32_t n = f->way->prefix_pages;
    uint32_t tokens[PREFIX_PAGES_MAX * PAGE_TOKENS] = {0};
    f->keys = kv_calloc((size_t)f->nr_prefixes * n, sizeof(*f->keys));
    if (f->keys == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < f->nr_prefixes; i++) {
        size_t nr = 0;
        tokens[0] = i;
        if (kvr_keys_tokens(
                &f->space, tokens, n * PAGE_TOKENS, &f->keys[(size_t)i * n], n, &nr)
                != KVR_OK
            || nr != n) {
            return kvn_figure_fail(bench, KV_ERR_NOMEM, "no keys: out of memory");
        }
    }
    return KV_OK;
}

/* All pages of a prefix stored, by one batch. */
static bool prefix_put(
    const struct fetcher *f, kvr_client_t *owner, const struct kvr_buffer *buffer,
    uint32_t prefix)
{
    struct kvr_at at[PREFIX_PAGES_MAX];
    struct kvr_result result;
    bool stored = true;
    for (uint32_t i = 0; i < f->way->prefix_pages; i++) {
        at[i] = (struct kvr_at){
            .buffer = buffer->id, .offset = i * f->way->page_bytes};
        kvn_paint(
            (uint8_t *)buffer->base + at[i].offset, f->way->page_bytes,
            number_of(f, prefix, i));
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = KVR_OP_PUT,
        .variant = f->space.variant,
        .timeout_us = KVN_LOAD_WAIT_US,
        .keys = keys_of(f, prefix),
        .nr_keys = f->way->prefix_pages,
        .at = at,
    };
    if (kvr_submit(owner, &batch) != KVR_OK
        || kvr_next(owner, 2 * KVN_LOAD_WAIT_US, &result) != KVR_OK
        || result.status != KVR_OK) {
        return false;
    }
    for (uint32_t i = 0; i < result.nr_keys; i++) {
        stored = stored && result.statuses[i] == KVR_OK;
    }
    return stored;
}

static kv_status_t
client_open(struct fetcher *f, unsigned node, enum kvr_level level, kvr_client_t **to)
{
    char target[300], error[256] = "";
    kvn_world_target(&f->world, node, target, sizeof(target));
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = KVN_WORLD_TENANT,
        .level = level,
    };
    kvr_status_t status = kvr_open(&config, to, error, sizeof(error));
    if (status != KVR_OK) {
        return kvn_figure_fail(f->bench, status, "%s", error);
    }
    status = kvr_space_find(*to, KVN_WORLD_SPACE, &f->space);
    return status == KVR_OK
               ? KV_OK
               : kvn_figure_fail(f->bench, status, "%s", kvr_error(*to));
}

static kv_status_t owner_fill(struct fetcher *f)
{
    kvr_client_t *owner = NULL;
    struct kvr_buffer buffer;
    kv_status_t status = client_open(f, OWNER, KVR_LEVEL_OBJECT, &owner);
    if (status == KV_OK) {
        status = keys_make(f);
    }
    if (status == KV_OK
        && kvr_buffer_create(owner, f->way->prefix_pages * f->way->page_bytes, &buffer)
               != KVR_OK) {
        status = kvn_figure_fail(f->bench, KV_ERR_NOMEM, "%s", kvr_error(owner));
    }
    for (uint32_t i = 0; status == KV_OK && i < f->nr_prefixes; i++) {
        if (kvn_figure_stopped(f->bench)) {
            status = KV_ERR_CANCELLED;
        } else if (!prefix_put(f, owner, &buffer, i)) {
            status = kvn_figure_fail(
                f->bench, KV_ERR_IO, "prefix %u was not stored: %s", i,
                kvr_error(owner));
        }
    }
    kvr_close(owner);
    return status;
}

/* ------------------------------------------------------------------ the reader */

static bool ask(struct fetcher *f, const struct slot *slot, struct kvr_seq_call *call)
{
    call->struct_size = sizeof(*call);
    call->seq = slot->seq;
    call->tag = (uint64_t)(slot - f->slots);
    if (kvr_seq_submit(f->client, call) != KVR_OK) {
        return false;
    }
    f->out++;
    return true;
}

/* The next prefix, if there is to be one. */
static bool begin(struct kvn_worker *worker, struct fetcher *f, struct slot *slot)
{
    if (worker->status != KV_OK || kvn_figure_stopped(f->bench)
        || (f->whole > 0 ? f->next == f->whole : kvn_worker_over(worker))) {
        return true;
    }
    slot->prefix = f->next++ % f->nr_prefixes;
    return ask(
        f, slot,
        &(struct kvr_seq_call){
            .op = KVR_OP_SEQ_FETCH,
            .timeout_us = KVN_LOAD_WAIT_US,
            .keys = keys_of(f, slot->prefix),
            .nr_keys = f->way->prefix_pages,
        });
}

/* Each page is where the table says, with its bytes (2). */
static void look(
    struct kvn_worker *worker, const struct fetcher *f, const struct slot *slot,
    const struct kvr_result *result)
{
    const struct kvr_arena *arenas;
    struct kvr_table table;
    const uint32_t n = f->way->prefix_pages, nr = kvr_arenas(f->client, &arenas);
    if (result->nr_hits != n
        || kvr_seq_table(f->client, slot->seq, &table) != KVR_OK
        || table.nr_pages != n) {
        kvn_worker_fail(
            worker, KV_ERR_MISS, "prefix %u: page %u: %s", slot->prefix,
            result->nr_hits,
            result->nr_hits < n ? kvr_miss_name(result->reasons[result->nr_hits])
                                : "no table");
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        KV_ASSERT(table.arenas[i] < nr && table.blocks[i] >= 0); /* libkvrail's word */
        const struct kvr_arena *arena = &arenas[table.arenas[i]];
        const uint8_t *page =
            (uint8_t *)arena->base + (size_t)table.blocks[i] * arena->block_bytes;
        const uint64_t number = number_of(f, slot->prefix, i);
        const bool right = f->whole > 0
                               ? kvn_painted(page, f->way->page_bytes, number)
                               : kvn_stamped(page, f->way->page_bytes, number);
        if (!right) {
            kvn_worker_fail(
                worker, KV_ERR_NOT_VERIFIED, "prefix %u: page %u has wrong bytes",
                slot->prefix, i);
        } else if (result->places[i] != KVR_FROM_PEER) {
            worker->others++;
        } else {
            worker->pages++;
        }
    }
}

/* False: nothing more can be asked. */
static bool next(struct kvn_worker *worker, const struct kvr_result *result)
{
    struct fetcher *f = worker->arg;
    struct slot *slot = &f->slots[result->tag % DEPTH_MAX];
    struct kvr_table table;
    if (result->status != KVR_OK) {
        kvn_worker_fail(
            worker, result->status, "prefix %u: %s", slot->prefix,
            kvr_error(f->client));
        return false;
    }
    switch (result->op) {
    case KVR_OP_SEQ_FETCH:
        look(worker, f, slot, result);
        return ask(f, slot, &(struct kvr_seq_call){.op = KVR_OP_SEQ_TRUNCATE});
    case KVR_OP_SEQ_TRUNCATE:
        return kvr_seq_table(f->client, slot->seq, &table) == KVR_OK
               && ask(
                   f, slot,
                   &(struct kvr_seq_call){
                       .op = KVR_OP_SEQ_CONFIRM, .version = table.version})
               && begin(worker, f, slot);
    default:
        return true;
    }
}

static void work(struct kvn_worker *worker)
{
    struct fetcher *f = worker->arg;
    bool asked = true;
    for (uint32_t i = 0; asked && i < f->depth; i++) {
        asked = begin(worker, f, &f->slots[i]);
    }
    while (asked && f->out > 0) {
        struct kvr_result result;
        asked = kvr_next(f->client, 2 * KVN_LOAD_WAIT_US, &result) == KVR_OK;
        if (asked && result.op != KVR_OP_SEQ_CHANGED) {
            f->out--;
            asked = next(worker, &result);
        }
    }
    if (!asked && worker->status == KV_OK) {
        kvn_worker_fail(worker, KV_ERR_IO, "%s", kvr_error(f->client));
    }
    kvn_worker_others(worker);
}

static kv_status_t fetch_take(void *arg, double seconds, struct kvn_take *take)
{
    struct fetcher *f = arg;
    const struct kvn_spent before = kvn_world_spent(&f->world);
    kv_status_t status =
        kvn_crew_run(f->bench, 1, work, f, seconds, f->way->page_bytes, take);
    kvn_world_charge(&f->world, &before, take);
    return status;
}

static kv_status_t reader_open(struct fetcher *f)
{
    kv_status_t status = client_open(f, READER, KVR_LEVEL_PAGER, &f->client);
    for (uint32_t i = 0; status == KV_OK && i < f->depth; i++) {
        struct kvr_result result = {0};
        struct kvr_seq_call open = {
            .op = KVR_OP_SEQ_OPEN, .variant = f->space.variant};
        if (!ask(f, &f->slots[i], &open)
            || kvr_next(f->client, KVN_LOAD_WAIT_US, &result) != KVR_OK
            || result.status != KVR_OK) {
            return kvn_figure_fail(
                f->bench, KV_ERR_IO, "no sequence: %s", kvr_error(f->client));
        }
        f->out--;
        f->slots[i].seq = result.seq;
    }
    return status;
}

/* ------------------------------------------------------------------ whole */

static kv_status_t fetcher_open(
    struct kvn_bench_node *bench, const struct way *way, uint32_t nr_prefixes,
    bool verify, struct fetcher *f)
{
    const uint64_t set = nr_prefixes * way->prefix_pages * way->page_bytes;
    const struct kvn_world_config config = {
        .nr_nodes = NR_ENDS,
        .page_bytes = way->page_bytes,
        .page_tokens = PAGE_TOKENS,
        .node_bytes = {[OWNER] = set + set / 4, [READER] = set / reader_share(bench)},
        .verify_local = "off",
        .verify_reads = verify,
        .poll = "200us",
        .transports = way->transports,
        .fill = {[READER] = true},
    };
    struct kvn_take take;
    *f = (struct fetcher){
        .bench = bench,
        .way = way,
        .nr_prefixes = nr_prefixes,
        /* A small owner gives few grants at a time. */
        .depth = bench->quick ? 1 : way->depth,
    };
    kv_status_t status = kvn_world_start(bench, &config, &f->world);
    if (status == KV_OK) {
        status = owner_fill(f);
    }
    if (status == KV_OK) {
        status = reader_open(f);
    }
    if (status == KV_OK) { /* (2) */
        f->whole = nr_prefixes;
        status = fetch_take(f, 0, &take);
        f->whole = 0;
    }
    return status;
}

static kv_status_t measure(struct kvn_bench_node *bench, const struct way *way)
{
    const uint64_t set = bench->quick ? QUICK_SET_BYTES : SET_BYTES;
    const uint32_t nr_prefixes =
        (uint32_t)(set / (way->prefix_pages * way->page_bytes));
    const uint64_t nr_pages = (uint64_t)nr_prefixes * way->prefix_pages;
    struct fetcher fetchers[NR_WORLDS] = {0};
    struct kvn_wire wire = {0};
    kv_status_t status = kvn_wire_open(
        bench, way->maps, way->page_bytes, nr_pages, nr_pages / reader_share(bench),
        &wire);
    for (unsigned i = 0; status == KV_OK && i < NR_WORLDS; i++) {
        status = fetcher_open(bench, way, nr_prefixes, i == VERIFY, &fetchers[i]);
    }
    if (status == KV_OK) {
        const struct kvn_figure_side sides[] = {
            {.rows = {way->off},
             .nr_rows = 1,
             .take = fetch_take,
             .arg = &fetchers[OFF]},
            kvn_wire_side(&wire),
            {.rows = {way->verify},
             .nr_rows = 1,
             .take = fetch_take,
             .arg = &fetchers[VERIFY]},
        };
        status = kvn_figure_rounds(bench, sides, sizeof(sides) / sizeof(sides[0]));
    }
    for (unsigned i = 0; i < NR_WORLDS; i++) {
        struct fetcher *f = &fetchers[i];
        status = kvn_world_blame(bench, &f->world, status);
        kvr_close(f->client);
        kvn_world_stop(&f->world);
        kv_free(f->keys);
    }
    kvn_wire_close(&wire);
    return status;
}

kv_status_t kvn_figures_fetch(struct kvn_bench_node *bench)
{
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < sizeof(ways) / sizeof(ways[0]); i++) {
        if (kvn_figure_wants(bench, ways[i].off, ways[i].verify)) {
            status = measure(bench, &ways[i]);
        }
    }
    return status;
}
