/* Resident prefixes of 64 pages, keys derived from their tokens, by one client through
 * the rings: PIN and UNPIN at the object level, SEQ_FETCH into a block table and
 * SEQ_TRUNCATE at the pager level, there also of a node in this process; beside
 * what the same costs without rings: keys derived by the same code, acquire and release
 * as `kvrail bench core` takes them. */
#include "node/bench/load.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "include/kvrail/kvrail.h"
#include "node/bench.h"

enum {
    PREFIX_PAGES = 64,
    PAGE_TOKENS = 16,
    PREFIX_TOKENS = PREFIX_PAGES * PAGE_TOKENS,
    PAGE_BYTES = 256,
    PREFIXES = 1 << 12, /* their index and frames fit no cache */
    QUICK_PREFIXES = 1 << 4,
    SPINS_US = 1000, /* of a client that polls, longer than an answer takes */
};

struct pins {
    struct kvn_bench_node *bench;
    uint32_t nr_prefixes;
    uint32_t *tokens; /* [nr_prefixes][PREFIX_TOKENS] */
};

struct pinner {
    struct pins *pins;
    struct kvn_world world;
    kvr_client_t *client;
    struct kvr_space space;
    uint32_t next;
    kvr_seq_t seq; /* of the pager level; 0: none */
    uint64_t version;
};

static const uint32_t *tokens_of(const struct pins *pins, uint32_t prefix)
{
    return &pins->tokens[(size_t)prefix * PREFIX_TOKENS];
}

static bool derive(
    const struct pins *pins, const struct kvr_space *space, uint32_t prefix,
    struct kvr_key *keys)
{
    size_t nr = 0;
    return kvr_keys_tokens(
               space, tokens_of(pins, prefix), PREFIX_TOKENS, keys, PREFIX_PAGES, &nr)
               == KVR_OK
           && nr == PREFIX_PAGES;
}

/* One batch of a prefix, and its answer: every page OK. */
static bool
ask(const struct pinner *p, enum kvr_op op, const struct kvr_key *keys,
    const struct kvr_at *at)
{
    struct kvr_result result;
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .variant = p->space.variant,
        .timeout_us = op == KVR_OP_PUT ? KVN_LOAD_WAIT_US : 0,
        .keys = keys,
        .nr_keys = PREFIX_PAGES,
        .at = at,
    };
    if (kvr_submit(p->client, &batch) != KVR_OK
        || kvr_next(p->client, KVN_LOAD_WAIT_US, &result) != KVR_OK
        || result.status != KVR_OK) {
        return false;
    }
    for (uint32_t i = 0; i < PREFIX_PAGES; i++) {
        if (result.statuses[i] != KVR_OK) {
            return false;
        }
    }
    return true;
}

static kv_status_t fill(struct pinner *p)
{
    struct kvn_bench_node *bench = p->pins->bench;
    struct kvr_buffer buffer;
    struct kvr_key keys[PREFIX_PAGES];
    struct kvr_at at[PREFIX_PAGES];
    kvr_status_t status =
        kvr_buffer_create(p->client, (size_t)PREFIX_PAGES * PAGE_BYTES, &buffer);
    if (status != KVR_OK) {
        return kvn_figure_fail(bench, status, "%s", kvr_error(p->client));
    }
    for (uint32_t i = 0; i < PREFIX_PAGES; i++) {
        at[i] = (struct kvr_at){.buffer = buffer.id, .offset = i * PAGE_BYTES};
    }
    for (uint32_t i = 0; i < p->pins->nr_prefixes && !kvn_figure_stopped(bench); i++) {
        if (!derive(p->pins, &p->space, i, keys) || !ask(p, KVR_OP_PUT, keys, at)) {
            return kvn_figure_fail(
                bench, KV_ERR_IO, "prefix %u was not stored: %s", i,
                kvr_error(p->client));
        }
    }
    kvr_buffer_destroy(p->client, &buffer);
    return KV_OK;
}

static void work(struct kvn_worker *worker)
{
    struct pinner *p = worker->arg;
    struct kvr_key keys[PREFIX_PAGES];
    while (!kvn_worker_over(worker)) {
        /* Neighbours in the order of their storing are no neighbours here. */
        const uint32_t prefix = (uint32_t)(kv_mix64(p->next++) % p->pins->nr_prefixes);
        if (!derive(p->pins, &p->space, prefix, keys) || !ask(p, KVR_OP_PIN, keys, NULL)
            || !ask(p, KVR_OP_UNPIN, keys, NULL)) {
            kvn_worker_fail(
                worker, KV_ERR_IO, "prefix %u was not pinned: %s", prefix,
                kvr_error(p->client));
            return;
        }
        worker->pages += PREFIX_PAGES;
    }
}

static void fetch_work(struct kvn_worker *worker);

static kv_status_t pin_take(void *arg, double seconds, struct kvn_take *take)
{
    struct pinner *p = arg;
    const struct kvn_spent before = kvn_world_spent(&p->world);
    kv_status_t status = kvn_crew_run(
        p->pins->bench, 1, p->seq != 0 ? fetch_work : work, p, seconds, 0, take);
    kvn_world_charge(&p->world, &before, take);
    return status;
}

/* ------------------------------------------------------------------ the pager level */

/* One call and its result; calls before it have had theirs. */
static bool call(struct pinner *p, struct kvr_seq_call *c, struct kvr_result *result)
{
    c->struct_size = sizeof(*c);
    c->seq = p->seq;
    if (kvr_seq_submit(p->client, c) != KVR_OK) {
        return false;
    }
    do { /* of itself a table does not change here: nothing is sealed */
        if (kvr_next(p->client, KVN_LOAD_WAIT_US, result) != KVR_OK) {
            return false;
        }
    } while (result->op != c->op);
    return result->status == KVR_OK;
}

/* Its 64 pages into the table, and out of it; what the table held before is let go. */
static bool fetch(struct pinner *p, const struct kvr_key *keys)
{
    struct kvr_result result;
    struct kvr_table table;
    if (!call(
            p,
            &(struct kvr_seq_call){
                .op = KVR_OP_SEQ_FETCH,
                .timeout_us = KVN_LOAD_WAIT_US,
                .keys = keys,
                .nr_keys = PREFIX_PAGES},
            &result)
        || result.nr_hits != PREFIX_PAGES
        || !call(p, &(struct kvr_seq_call){.op = KVR_OP_SEQ_TRUNCATE}, &result)
        || kvr_seq_table(p->client, p->seq, &table) != KVR_OK) {
        return false;
    }
    return call(
        p, &(struct kvr_seq_call){.op = KVR_OP_SEQ_CONFIRM, .version = table.version},
        &result);
}

static void fetch_work(struct kvn_worker *worker)
{
    struct pinner *p = worker->arg;
    struct kvr_key keys[PREFIX_PAGES];
    while (!kvn_worker_over(worker)) {
        const uint32_t prefix = (uint32_t)(kv_mix64(p->next++) % p->pins->nr_prefixes);
        if (!derive(p->pins, &p->space, prefix, keys) || !fetch(p, keys)) {
            kvn_worker_fail(
                worker, KV_ERR_IO, "prefix %u was not fetched: %s", prefix,
                kvr_error(p->client));
            return;
        }
        worker->pages += PREFIX_PAGES;
    }
}

static kv_status_t seq_open(struct pinner *p)
{
    struct kvr_result result;
    const bool opened = call(
        p,
        &(struct kvr_seq_call){
            .op = KVR_OP_SEQ_OPEN, .variant = p->space.variant},
        &result);
    p->seq = result.seq;
    return opened ? KV_OK
                  : kvn_figure_fail(
                      p->pins->bench, KV_ERR_IO, "no sequence: %s",
                      kvr_error(p->client));
}

/* ------------------------------------------------------------------ in one process */

/* ns/page of that figure of `kvrail bench core`, taken now. */
static kv_status_t
core_figure(const struct kvn_bench_node *bench, enum kvn_bench_name name, double *ns_p)
{
    struct kvn_bench core = {
        .runs = 1, .quick = bench->quick, .only = kvn_bench_descs[name].name};
    kv_status_t status = kvn_bench_pager(&core);
    *ns_p = status == KV_OK ? core.rows[name].value : 0;
    return status;
}

/* Its space is the first pinner's: any salt costs the same. */
static kv_status_t embedded_take(void *arg, double seconds, struct kvn_take *take)
{
    const struct pinner *p = arg;
    struct kvn_bench_node *bench = p->pins->bench;
    struct kvr_key keys[PREFIX_PAGES];
    double acquire_ns, release_ns = 0;
    (void)seconds;
    kv_status_t status = core_figure(bench, KVN_BENCH_ACQUIRE, &acquire_ns);
    if (status == KV_OK) {
        status = core_figure(bench, KVN_BENCH_RELEASE, &release_ns);
    }
    if (status != KV_OK) {
        return kvn_figure_fail(bench, status, "the pager's figures were not taken");
    }
    const double from = kvn_now_s();
    for (uint32_t i = 0; i < p->pins->nr_prefixes; i++) {
        KV_ASSERT(derive(p->pins, &p->space, i, keys));
        kvn_bench_use(keys);
    }
    const double derive_s = kvn_now_s() - from;
    take->pages = (uint64_t)p->pins->nr_prefixes * PREFIX_PAGES;
    take->seconds = derive_s + (double)take->pages * (acquire_ns + release_ns) / 1e9;
    return KV_OK;
}

/* ------------------------------------------------------------------ open and close */

static kv_status_t pinner_open(
    struct pins *pins, bool level, bool polls, bool embedded, struct pinner *p)
{
    char target[300], error[256] = "";
    const uint64_t bytes = (uint64_t)pins->nr_prefixes * PREFIX_PAGES * PAGE_BYTES;
    const struct kvn_world_config config = {
        .nr_nodes = 1,
        .page_bytes = PAGE_BYTES,
        .page_tokens = PAGE_TOKENS,
        .node_bytes = {bytes + bytes / 4},
        .verify_local = "off",
        .verify_reads = true,
        .poll = polls ? "200us" : "0us",
        .transports = "named",
        .fill = {level},
        .embedded = embedded,
    };
    p->pins = pins;
    kv_status_t status = kvn_world_start(pins->bench, &config, &p->world);
    if (status != KV_OK) {
        return status;
    }
    kvn_world_target(&p->world, 0, target, sizeof(target));
    const struct kvr_config client = {
        .struct_size = sizeof(client),
        .target = target,
        .tenant = KVN_WORLD_TENANT,
        .spin_us = polls ? SPINS_US : 1,
        .level = level ? KVR_LEVEL_PAGER : KVR_LEVEL_OBJECT,
    };
    status = kvr_open(&client, &p->client, error, sizeof(error));
    if (status != KV_OK) {
        return kvn_figure_fail(pins->bench, status, "%s", error);
    }
    status = kvr_space_find(p->client, KVN_WORLD_SPACE, &p->space);
    if (status != KV_OK) {
        return kvn_figure_fail(pins->bench, status, "%s", kvr_error(p->client));
    }
    status = fill(p);
    return status == KV_OK && level ? seq_open(p) : status;
}

static void pinner_close(struct pinner *p)
{
    kvr_close(p->client);
    kvn_world_stop(&p->world);
}

static kv_status_t tokens_make(struct pins *pins)
{
    struct kv_rng rng = kv_rng_seed(1);
    const size_t nr = (size_t)pins->nr_prefixes * PREFIX_TOKENS;
    pins->tokens = kv_calloc(nr, sizeof(*pins->tokens));
    if (pins->tokens == NULL) {
        return kvn_figure_fail(pins->bench, KV_ERR_NOMEM, "out of memory");
    }
    for (size_t i = 0; i < nr; i++) {
        pins->tokens[i] = (uint32_t)kv_rng_next(&rng);
    }
    return KV_OK;
}

/* The rows of one level: polling, asleep; of a process, or of nodes in this one. */
static kv_status_t measure(
    struct pins *pins, bool level, bool embedded, enum kvn_figure_name polling_row,
    enum kvn_figure_name asleep_row)
{
    struct kvn_bench_node *bench = pins->bench;
    struct pinner polling = {0}, asleep = {0};
    if (!kvn_figure_wants(bench, polling_row, asleep_row)
        || (embedded && bench->callgrind != NULL)) { /* the node is in this process */
        return KV_OK;
    }
    kv_status_t status = pinner_open(pins, level, true, embedded, &polling);
    if (status == KV_OK) {
        status = pinner_open(pins, level, false, embedded, &asleep);
    }
    if (status == KV_OK) {
        const struct kvn_figure_side sides[] = {
            {.rows = {polling_row}, .nr_rows = 1, .take = pin_take, .arg = &polling},
            {.reference = "keys, acquire and release in one process",
             .take = embedded_take,
             .arg = &polling},
            {.rows = {asleep_row}, .nr_rows = 1, .take = pin_take, .arg = &asleep},
        };
        status = kvn_figure_rounds(bench, sides, sizeof(sides) / sizeof(sides[0]));
    }
    status = kvn_world_blame(bench, &polling.world, status);
    status = kvn_world_blame(bench, &asleep.world, status);
    pinner_close(&asleep);
    pinner_close(&polling);
    return status;
}

kv_status_t kvn_figures_pin(struct kvn_bench_node *bench)
{
    struct pins pins = {
        .bench = bench, .nr_prefixes = bench->quick ? QUICK_PREFIXES : PREFIXES};
    if (!kvn_figure_wants(bench, KVN_FIGURE_PIN, KVN_FIGURE_EMBED_ASLEEP)) {
        return KV_OK;
    }
    kv_status_t status = tokens_make(&pins);
    if (status == KV_OK) {
        status = measure(&pins, false, false, KVN_FIGURE_PIN, KVN_FIGURE_PIN_ASLEEP);
    }
    if (status == KV_OK) {
        status = measure(
            &pins, true, false, KVN_FIGURE_ACQUIRE, KVN_FIGURE_ACQUIRE_ASLEEP);
    }
    if (status == KV_OK) {
        status = measure(
            &pins, true, true, KVN_FIGURE_EMBED, KVN_FIGURE_EMBED_ASLEEP);
    }
    kv_free(pins.tokens);
    return status;
}
