#include "node/sim/replay.h"

#include "base/assert.h"
#include "base/hash.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_PAGES = 4,        /* of one step of chunked prefill */
    CHUNK_US = 20000,       /* 2,048 tokens at about 100,000 a second */
    AGAIN_US = 2000,        /* pause before asking again for a frame */
    AGAIN_MAX = 5000,       /* 10 s without a frame: the rest is not kept */
    FETCH_US = 5000000,     /* deadline of a fetch */
    REQUEST_US = 120000000, /* a request that takes longer is a hang */
    LINK_US = 60000000,     /* … and a cluster that does not link up */
    SLACK = 64,             /* of tables that are sized by what is in flight */
    COMMON_FRAMES = 64,     /* of a domain that nobody uses */
};

/* One request on its way:
 *
 *   OPEN ──► FETCH ──► (APPEND ──► compute ──► SEAL each) again and again ──► END
 *            check bytes   AGAIN: later                      */
enum step {
    STEP_IDLE,
    STEP_OPEN,
    STEP_FETCH,
    STEP_APPEND,
    STEP_COMPUTE,
    STEP_SEAL,
    STEP_CONFIRM,
    STEP_END
};

struct flight {
    struct run *run;
    enum step step;
    uint32_t request;
    uint32_t node;
    uint32_t nr_pages; /* kept: no more than fit */
    struct kvp_seq_id seq;
    uint32_t asked;  /* pages that fetches asked for */
    uint32_t done;   /* pages that are in the table and sealed or being sealed */
    uint32_t chunk;  /* pages of the chunk under way */
    uint32_t sealed; /* of those, sealed */
    uint32_t tries;
    uint64_t version;
    uint64_t started_us;
    uint64_t calls, rounds;
};

struct run {
    const struct kvs_replay_config *config;
    struct kvs_replay *out;
    kvs_world_t *world;
    struct kvs_client clients[KVS_NODES_MAX];
    uint32_t used[KVS_NODES_MAX]; /* pages of the requests in flight, per node */
    uint32_t room;                /* … and how many may be */
    uint32_t device_frames;
    uint32_t next; /* request to admit */
    uint32_t ended;
    uint64_t nonce; /* of the last page written */
    uint64_t drawn; /* chance, from the seed */
    kv_key_t *scratch; /* keys of one request, KVO_BATCH_KEYS_MAX */
    struct flight flights[KVS_REPLAY_IN_FLIGHT_MAX];
};

static void flight_next(struct flight *flight);
static void admit(struct run *run);

/* ---- talking to the node --------------------------------------------------------- */

static struct kvs_client client_of(const struct flight *flight)
{
    return flight->run->clients[flight->node];
}

/* The page's key. */
static const kv_key_t *key_at(const struct flight *flight, uint32_t page)
{
    const struct kvs_replay_config *config = flight->run->config;
    const struct kvs_replay_request *request = &config->requests[flight->request];
    return &config->keys[config->ids[request->first + page]];
}

static void count_failed(struct run *run, kv_status_t status)
{
    const unsigned index = kv_status_index(status);
    KV_ASSERT(index < KV_NR_STATUSES);
    run->out->failed[index]++;
}

static void submit(struct flight *flight, struct kvo_request *request)
{
    struct run *run = flight->run;
    request->tag = (uint64_t)(flight - run->flights);
    request->seq = flight->seq;
    const kv_status_t status = kvs_submit(run->world, client_of(flight), request);
    if (status != KV_OK) {
        kvs_fail(
            run->world, "replay", "request %" PRIu32 ": op %d was not taken: %s",
            flight->request, (int)request->op, kv_status_name(status));
    }
}

static void ask(struct flight *flight, enum kvo_op op, uint64_t deadline_us)
{
    struct kvo_request request = {.op = op, .deadline_us = deadline_us};
    request.version = flight->version;
    submit(flight, &request);
}

/* Anchor of a batch that starts at `page`: the key that opens its segment. */
static kv_key_t anchor_of(const struct flight *flight, uint32_t page)
{
    const struct kvc_segment segment =
        kvc_segment_at(page, flight->run->config->page_tokens);
    return *key_at(flight, segment.first);
}

static void ask_fetch(struct flight *flight)
{
    struct run *run = flight->run;
    uint32_t n = flight->nr_pages - flight->asked;
    n = n < KVO_BATCH_KEYS_MAX ? n : KVO_BATCH_KEYS_MAX;
    for (uint32_t i = 0; i < n; i++) {
        run->scratch[i] = *key_at(flight, flight->asked + i);
    }
    struct kvo_request request = {
        .op = KVO_SEQ_FETCH,
        .deadline_us = FETCH_US,
        .first_page = flight->asked,
        .anchor = anchor_of(flight, flight->asked),
        .keys = run->scratch,
        .nr_keys = n,
    };
    flight->step = STEP_FETCH;
    submit(flight, &request);
    flight->asked += n;
}

static void ask_append(struct flight *flight)
{
    const uint32_t left = flight->nr_pages - flight->done;
    flight->chunk = left < CHUNK_PAGES ? left : CHUNK_PAGES;
    struct kvo_request request = {
        .op = KVO_SEQ_APPEND,
        .deadline_us = FETCH_US,
        .tokens = flight->chunk * flight->run->config->page_tokens,
    };
    flight->step = STEP_APPEND;
    submit(flight, &request);
}

static void ask_seal(struct flight *flight, uint32_t page)
{
    const kv_key_t key = *key_at(flight, page);
    struct kvo_request request = {
        .op = KVO_SEQ_SEAL,
        .deadline_us = FETCH_US,
        .page = page,
        .first_page = page,
        .anchor = anchor_of(flight, page),
        .keys = &key,
        .nr_keys = 1,
        .prev = page > 0 ? *key_at(flight, page - 1) : (kv_key_t){{0}},
    };
    submit(flight, &request);
}

/* ---- bytes ----------------------------------------------------------------------- */

/* Where page `page` of the sequence lies now. */
static uint8_t *bytes_at(struct flight *flight, uint32_t page, struct kvp_ref *ref_p)
{
    struct run *run = flight->run;
    kvo_node_t *node = kvs_node(run->world, flight->node);
    if (node == NULL
        || kvp_seq_table(kvo_pager(node), flight->seq, page, 1, ref_p) != KV_OK) {
        kvs_fail(
            run->world, "replay", "request %" PRIu32 " has no page %" PRIu32,
            flight->request, page);
        return NULL;
    }
    return kvs_memory(run->world, flight->node, *ref_p);
}

/* Pages that a fetch brought: where they lie on the device, word for word. */
static void check_pages(struct flight *flight, uint32_t first, uint32_t n)
{
    struct run *run = flight->run;
    const uint32_t bytes = run->config->page_bytes;
    for (uint32_t page = first; page < first + n; page++) {
        struct kvp_ref ref;
        const uint8_t *at = bytes_at(flight, page, &ref);
        if (at == NULL) {
            return;
        }
        if (!kvs_content_ok(
                at, bytes, kvs_config(run->world)->core.pager.tenants[0].id,
                key_at(flight, page), 0)) {
            run->out->wrong_bytes += bytes;
        }
    }
}

/* What the engine's kernels would compute for the pages of the chunk. */
static void write_pages(struct flight *flight)
{
    struct run *run = flight->run;
    for (uint32_t i = 0; i < flight->chunk; i++) {
        const uint32_t page = flight->done + i;
        struct kvp_ref ref;
        uint8_t *at = bytes_at(flight, page, &ref);
        if (at == NULL) {
            return;
        }
        kvs_content_make(
            at, run->config->page_bytes,
            kvs_config(run->world)->core.pager.tenants[0].id, key_at(flight, page), 0,
            ++run->nonce);
    }
}

/* ---- a request's life ------------------------------------------------------------ */

static void later(void *arg, uint64_t value)
{
    struct run *run = arg;
    flight_next(&run->flights[value]);
}

static void wait_then_next(struct flight *flight, uint64_t delay_us)
{
    struct run *run = flight->run;
    kvs_at(run->world, delay_us, later, run, (uint64_t)(flight - run->flights));
}

static void finish(struct flight *flight)
{
    struct run *run = flight->run;
    run->used[flight->node] -= flight->nr_pages;
    run->ended++;
    if (flight->calls > 0) {
        run->out->lookups++;
        run->out->calls += flight->calls;
        run->out->rounds += flight->rounds;
    }
    flight->step = STEP_IDLE;
    if (run->config->progress != NULL) {
        run->config->progress(run->config->arg, run->ended, run->config->nr_requests);
    }
    admit(run);
}

/* No more pages will be stored: the rest was computed and is thrown away. */
static void give_up(struct flight *flight)
{
    flight->run->out->unkept += flight->nr_pages - flight->done;
    flight->step = STEP_END;
    ask(flight, KVO_SEQ_END, FETCH_US);
}

/* The step that `flight->step` names is over. */
static void flight_next(struct flight *flight)
{
    switch (flight->step) {
    case STEP_OPEN: /* or a pause before the fetch is tried again */
        if (flight->nr_pages > 0) {
            ask_fetch(flight);
            return;
        }
        break;
    case STEP_FETCH:
    case STEP_APPEND: /* a pause after AGAIN */
        if (flight->done < flight->nr_pages) {
            ask_append(flight);
            return;
        }
        break;
    case STEP_COMPUTE:
        write_pages(flight);
        flight->step = STEP_SEAL;
        flight->sealed = 0;
        for (uint32_t i = 0; i < flight->chunk; i++) {
            ask_seal(flight, flight->done + i);
        }
        return;
    case STEP_SEAL:
        flight->done += flight->chunk;
        flight->step = STEP_CONFIRM;
        ask(flight, KVO_SEQ_CONFIRM, FETCH_US);
        return;
    case STEP_CONFIRM:
        if (flight->done < flight->nr_pages) {
            ask_append(flight);
            return;
        }
        break;
    default:
        KV_ASSERT(flight->step == STEP_END);
        finish(flight);
        return;
    }
    flight->step = STEP_END;
    ask(flight, KVO_SEQ_END, FETCH_US);
}

/* Why the pages behind the run were not had: each its own reason, or the reason of the
 * page that ended the run, when it was there but out of reach behind that. */
static void
count_misses(struct flight *flight, const struct kvo_answer *answer, uint32_t first)
{
    struct kvs_replay *out = flight->run->out;
    enum kv_miss reason = KV_MISS_TOO_SLOW;
    for (uint32_t i = answer->nr_hits; i < answer->nr_keys; i++) {
        if (answer->statuses[i] == KV_ERR_MISS) {
            reason = answer->reasons[i];
        }
        KV_ASSERT(reason < KV_NR_MISSES);
        out->misses[reason]++;
    }
    const uint32_t asked = first + answer->nr_keys;
    const struct kvs_replay_request *request =
        &flight->run->config->requests[flight->request];
    out->misses[reason] += request->nr_pages - asked;
}

static void fetched(struct flight *flight, const struct kvo_answer *answer)
{
    struct kvs_replay *out = flight->run->out;
    const uint32_t first = flight->done;
    flight->calls += answer->nr_calls;
    flight->rounds += answer->nr_rounds;
    if (answer->status == KV_ERR_AGAIN && ++flight->tries < AGAIN_MAX) {
        flight->asked = flight->done;
        flight->step = STEP_OPEN;
        out->again++;
        wait_then_next(flight, AGAIN_US);
        return;
    }
    flight->tries = 0;
    if (answer->status != KV_OK) {
        count_failed(flight->run, answer->status);
        out->misses[KV_MISS_TOO_SLOW] +=
            flight->run->config->requests[flight->request].nr_pages - first;
        flight_next(flight);
        return;
    }
    KV_ASSERT(answer->nr_hits <= answer->nr_keys);
    for (uint32_t i = 0; i < answer->nr_hits; i++) {
        KV_ASSERT(answer->places[i] <= KVO_FROM_PEER);
        out->hits[answer->places[i]]++;
    }
    check_pages(flight, first, answer->nr_hits);
    flight->done += answer->nr_hits;
    flight->version = answer->version;
    if (answer->nr_hits == answer->nr_keys && flight->asked < flight->nr_pages) {
        ask_fetch(flight);
        return;
    }
    if (answer->nr_hits < answer->nr_keys) {
        count_misses(flight, answer, first);
    } else {
        out->misses[KV_MISS_QUOTA] +=
            flight->run->config->requests[flight->request].nr_pages - flight->asked;
    }
    flight_next(flight);
}

/* No two engines' steps are in step for long: three to five quarters of CHUNK_US,
 * drawn, so that nodes are not asked for all frames of a round at once. */
static uint64_t chunk_us(struct run *run)
{
    run->drawn = kv_mix64(run->drawn + KV_GOLDEN64);
    return CHUNK_US * 3 / 4 + run->drawn % (CHUNK_US / 2);
}

static void appended(struct flight *flight, const struct kvo_answer *answer)
{
    if (answer->status == KV_OK) {
        flight->version = answer->version;
        flight->tries = 0;
        flight->step = STEP_COMPUTE;
        wait_then_next(flight, chunk_us(flight->run));
        return;
    }
    if (answer->status == KV_ERR_AGAIN && ++flight->tries < AGAIN_MAX) {
        flight->run->out->again++;
        wait_then_next(flight, AGAIN_US);
        return;
    }
    count_failed(flight->run, answer->status);
    give_up(flight);
}

static void sealed(struct flight *flight, const struct kvo_answer *answer)
{
    const kv_status_t status = answer->status == KV_OK && answer->statuses != NULL
                                   ? answer->statuses[0]
                                   : answer->status;
    if (status == KV_EXISTS) {
        flight->run->out->dedup++;
    } else if (status != KV_OK && status != KV_SEALING) {
        count_failed(flight->run, status);
    }
    flight->version =
        answer->version > flight->version ? answer->version : flight->version;
    if (++flight->sealed == flight->chunk) {
        flight_next(flight);
    }
}

static void
on_answer(void *arg, struct kvs_client client, const struct kvo_answer *answer)
{
    (void)client;
    struct run *run = arg;
    KV_ASSERT(answer->tag < KVS_REPLAY_IN_FLIGHT_MAX);
    struct flight *flight = &run->flights[answer->tag];
    switch (answer->op) {
    case KVO_SEQ_OPEN:
        if (answer->status != KV_OK) {
            kvs_fail(
                run->world, "replay", "request %" PRIu32 ": no sequence: %s",
                flight->request, kv_status_name(answer->status));
            return;
        }
        flight->seq = answer->seq;
        flight->version = answer->version;
        flight_next(flight);
        return;
    case KVO_SEQ_FETCH:
        fetched(flight, answer);
        return;
    case KVO_SEQ_APPEND:
        appended(flight, answer);
        return;
    case KVO_SEQ_SEAL:
        sealed(flight, answer);
        return;
    default:
        if (answer->status != KV_OK) {
            count_failed(run, answer->status);
        }
        flight_next(flight);
    }
}

/* A late dedup gave the table another frame for a page; its version is confirmed with
 * the next chunk, or the end of the sequence gives all back. */
static void on_switched(
    void *arg, struct kvs_client client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    (void)client;
    (void)seq;
    (void)page;
    (void)was;
    (void)now;
    struct run *run = arg;
    run->out->dedup++;
}

/* ---- admission ------------------------------------------------------------------- */

static uint32_t entry_node(const struct kvs_replay_config *config, uint32_t request)
{
    if (!config->skew || config->nr_nodes == 1) {
        return request % config->nr_nodes;
    }
    const uint32_t part = request % 10;
    return part < 8 ? 0 : 1 + (part - 8) % (config->nr_nodes - 1);
}

static void start(struct run *run, struct flight *flight, uint32_t node, uint32_t pages)
{
    *flight = (struct flight){
        .run = run,
        .step = STEP_OPEN,
        .request = run->next,
        .node = node,
        .nr_pages = pages,
        .started_us = kvs_now(run->world),
    };
    run->out->requests++;
    run->out->page_refs += run->config->requests[run->next].nr_pages;
    run->out->unkept += run->config->requests[run->next].nr_pages - pages;
    run->used[node] += pages;
    run->next++;
    ask(flight, KVO_SEQ_OPEN, FETCH_US);
}

/* The first request that has not ended: request r starts once r - in_flight and all
 * before it have. */
static uint32_t oldest(const struct run *run)
{
    uint32_t first = run->next;
    for (uint32_t slot = 0; slot < run->config->in_flight; slot++) {
        const struct flight *flight = &run->flights[slot];
        if (flight->step != STEP_IDLE && flight->request < first) {
            first = flight->request;
        }
    }
    return first;
}

static void admit(struct run *run)
{
    const struct kvs_replay_config *config = run->config;
    while (run->next < config->nr_requests
           && run->next - oldest(run) < config->in_flight) {
        const uint32_t node = entry_node(config, run->next);
        uint32_t pages = config->requests[run->next].nr_pages;
        pages = pages < run->room ? pages : run->room;
        if (run->used[node] + pages > run->room) {
            return;
        }
        uint32_t slot = 0;
        while (run->flights[slot].step != STEP_IDLE) {
            slot++;
        }
        start(run, &run->flights[slot], node, pages);
    }
}

/* ---- the whole ------------------------------------------------------------------- */

static uint32_t at_least(uint32_t value, uint32_t least)
{
    return value > least ? value : least;
}

static void world_config(const struct run *run, struct kvs_config *world)
{
    const struct kvs_replay_config *config = run->config;
    const uint32_t share = config->pages / config->nr_nodes;
    kvs_preset(world);
    world->nr_nodes = config->nr_nodes;
    world->seed = config->seed;
    world->mix = config->mix;
    world->page_bytes = config->page_bytes;
    world->page_tokens = config->page_tokens;
    world->device_frames = run->device_frames;
    world->host_frames = share - run->device_frames;
    world->nr_tenants = 1;
    world->nr_apart = config->memory == KVS_OWN ? 1 : 0;
    if (config->memory == KVS_OWN) {
        world->apart_frames = share;
        world->device_frames = COMMON_FRAMES;
        world->named_device = true;
    }
    world->nr_variants = 1;
    world->ceiling = 0;
    world->faults = 0;
    world->checks = false;
    world->poison = false;
    struct kvo_config *core = &world->core;
    core->spill = config->spill;
    /* A reserve of a few frames: what is kept free caches nothing. With one tier it is
     * for demands and for spills at once, and as large as a node's preset. */
    core->pager.free_target_divisor = config->memory == KVS_TIERS ? 100 : 64;
    core->nr_clients = at_least(core->nr_clients, 4);
    core->nr_ops =
        at_least(core->nr_ops, config->in_flight * (CHUNK_PAGES + 1) + SLACK);
    core->nr_items = at_least(core->nr_items, 4096);
    core->nr_calls = at_least(core->nr_calls, 1024);
    core->nr_reads = at_least(core->nr_reads, 4096);
    core->nr_grants = at_least(core->nr_grants, 4096);
    core->nr_spills = at_least(core->nr_spills, 256);
    core->pager.nr_sequences =
        at_least(core->pager.nr_sequences, config->in_flight + SLACK);
    core->pager.nr_leaves =
        at_least(core->pager.nr_leaves, (config->in_flight + SLACK) * 4 + share / 64);
    core->pager.nr_retired = at_least(core->pager.nr_retired, share + SLACK);
    /* Every copy has an entry at both its homes, and homes are not quite even. */
    core->directory.nr_entries =
        at_least(core->directory.nr_entries, config->pages * 2 + SLACK);
    core->directory.nr_holdings =
        at_least(core->directory.nr_holdings, config->pages * 4 + SLACK);
}

static bool failed(const kvs_world_t *world)
{
    const struct kvs_failure *failure = kvs_failure(world);
    return failure != NULL && failure->invariant != NULL;
}

static bool all_linked(void *arg)
{
    const struct run *run = arg;
    return kvs_linked(run->world);
}

static bool all_ended(void *arg)
{
    const struct run *run = arg;
    return run->ended == run->config->nr_requests;
}

static kv_status_t replay_world(struct run *run)
{
    static const struct kvs_client_ops ops = {
        .answer = on_answer, .switched = on_switched};
    if (!kvs_run_until(run->world, all_linked, run, LINK_US)) {
        kvs_fail(run->world, "replay", "the cluster did not link up");
        return KV_ERR_IO;
    }
    for (uint32_t node = 0; node < run->config->nr_nodes; node++) {
        const kv_status_t status =
            kvs_attach(run->world, node, 1, &ops, run, &run->clients[node]);
        if (status != KV_OK) {
            kvs_fail(run->world, "replay", "attach: %s", kv_status_name(status));
            return KV_ERR_IO;
        }
    }
    admit(run);
    uint32_t ended = 0;
    while (!all_ended(run)) {
        /* As long as some request ends in each such time, nothing hangs. */
        kvs_run_until(run->world, all_ended, run, kvs_now(run->world) + REQUEST_US);
        if (run->ended == ended || failed(run->world)) {
            kvs_fail(
                run->world, "replay", "no request ended for %d s, %" PRIu32 " have",
                REQUEST_US / 1000000, run->ended);
            return KV_ERR_IO;
        }
        ended = run->ended;
    }
    return KV_OK;
}

static kv_status_t run_with_world(struct run *run, struct kv_detail *detail)
{
    struct kvs_config *world = calloc(1, sizeof(*world));
    if (world == NULL) {
        return KV_ERR_NOMEM;
    }
    world_config(run, world);
    kv_status_t status = kvs_world_create(world, &run->world, detail);
    free(world);
    if (status != KV_OK) {
        return status;
    }
    status = replay_world(run);
    if (failed(run->world)) {
        const struct kvs_failure *failure = kvs_failure(run->world);
        snprintf(
            run->out->failure, sizeof(run->out->failure), "%s: %.380s",
            failure->invariant, failure->what);
        status = KV_ERR_IO;
    }
    run->out->fetched_bytes = kvs_stats(run->world)->fetched_bytes;
    run->out->virtual_us = kvs_now(run->world);
    kvs_world_destroy(run->world);
    return status;
}

kv_status_t kvs_replay_run(
    const struct kvs_replay_config *config, struct kvs_replay *replay,
    struct kv_detail *detail)
{
    memset(replay, 0, sizeof(*replay));
    if (config->nr_nodes < 1 || config->nr_nodes > KVS_NODES_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "replay.nodes", KVS_NODES_MAX, config->nr_nodes);
    }
    if (config->in_flight < 1 || config->in_flight > KVS_REPLAY_IN_FLIGHT_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "replay.in_flight", KVS_REPLAY_IN_FLIGHT_MAX,
            config->in_flight);
    }
    const uint32_t quarters = config->memory == KVS_TIERS ? 1 : 4;
    const uint32_t frames = config->pages / config->nr_nodes * quarters / 4;
    if (frames < 2 * KVP_LIMBO_MIN) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "replay.pages",
            (uint64_t)8 * KVP_LIMBO_MIN * config->nr_nodes, config->pages);
    }
    struct run *run = calloc(1, sizeof(*run));
    kv_key_t *scratch = calloc(KVO_BATCH_KEYS_MAX, sizeof(*scratch));
    kv_status_t status = KV_ERR_NOMEM;
    if (run != NULL && scratch != NULL) {
        run->config = config;
        run->out = replay;
        run->device_frames = frames;
        run->room = frames * 3 / 4;
        run->scratch = scratch;
        run->drawn = config->seed;
        status = run_with_world(run, detail);
    }
    free(scratch);
    free(run);
    return status;
}
