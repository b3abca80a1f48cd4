#include "node/replay.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/placement.h"
#include "pager/pager.h"

#include <string.h>

enum {
    FRAME_BYTES = KVP_ALIGN, /* of a page of which nothing is ever read or copied */
    TENANT = 1,
    ORDERS_MAX = 64, /* between two calls; each call gives out at most two */
    BATCH = 64,
};

/* ------------------------------------------------------------------ the real pager */

struct replayer {
    const struct kvn_trace *trace;
    kvp_pager_t *pager;
    kv_key_t *keys;        /* [nr_ids] */
    kv_key_t *run_keys;    /* [pages of the longest request] */
    struct kvp_ref *refs;  /* the same */
    kv_status_t *statuses; /* the same */
    struct kvp_order orders[ORDERS_MAX];
    unsigned nr_orders;
    struct kvn_replay *out;
};

static void on_order(void *arg, const struct kvp_order *order)
{
    struct replayer *rp = arg;
    KV_ASSERT(rp->nr_orders < ORDERS_MAX);
    rp->orders[rp->nr_orders++] = *order;
}

static void on_listed(void *arg, struct kvp_ref ref, uint64_t hold)
{
    (void)arg, (void)ref, (void)hold;
}

static void on_unlisted(
    void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold)
{
    (void)arg, (void)copy, (void)segment;
    (void)hold;
}

static void on_switched(
    void *arg, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    (void)arg, (void)seq, (void)page, (void)was, (void)now;
}

static void on_verified(void *arg, struct kvp_ref ref, kv_status_t status)
{
    (void)arg, (void)ref, (void)status;
}

static void
on_sealed(void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    (void)arg, (void)ref, (void)now, (void)status;
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

/* Orders are carried out at once. There are no bytes: a page's digest is made up from
 * its frame's key, so that equal pages have equal digests. */
static void carry_out(struct replayer *rp)
{
    while (rp->nr_orders > 0) {
        struct kvp_order order = rp->orders[--rp->nr_orders];
        struct kvp_info info;
        uint64_t digest = 0;
        if (order.kind == KVP_ORDER_DIGEST
            && kvp_info(rp->pager, order.dst, &info) == KV_OK) {
            digest = kv_mix64(kv_key_word(&info.copy.key));
        }
        kv_status_t status = kvp_order_done(rp->pager, order.id, KV_OK, digest);
        KV_ASSERT(status == KV_OK);
    }
}

static kv_status_t pager_make(
    struct replayer *rp, const struct kvp_evict_ops *evict, uint32_t pages,
    struct kv_detail *detail)
{
    struct kvp_config *config = kv_calloc(1, sizeof(*config));
    if (config == NULL) {
        return KV_ERR_NOMEM;
    }
    *config = (struct kvp_config){
        .pools[0] =
            {.tier = KVP_DEVICE, .frame_bytes = FRAME_BYTES, .nr_frames = pages},
        .nr_pools = 1,
        .tenants[0] = {.id = TENANT},
        .nr_tenants = 1,
        .variants[0] =
            {.page_tokens = rp->trace->page_tokens, .page_bytes = FRAME_BYTES},
        .nr_variants = 1,
        .evict = evict,
        .verify_local = KVP_VERIFY_OFF,
        .nr_sequences = 1,
        .nr_leaves = KVP_SEQ_LEAVES_MAX,
        .nr_retired = BATCH,
    };
    const struct kvp_out out = {
        .arg = rp,
        .order = on_order,
        .listed = on_listed,
        .unlisted = on_unlisted,
        .switched = on_switched,
        .verified = on_verified,
        .sealed = on_sealed,
        .copied = on_copied,
        .freed = on_freed,
    };
    kv_status_t status = kvp_create(config, &out, &rp->pager, detail);
    kv_free(config);
    return status;
}

/* Takes references on the leading run of pages that are here; returns its length. Looks
 * first: an acquire past the run would touch pages that are no hit. */
static uint32_t take_run(struct replayer *rp, uint32_t n)
{
    uint32_t run = 0;
    for (uint32_t at = 0; at < n && run == at; at += BATCH) {
        uint32_t batch = n - at < BATCH ? n - at : BATCH;
        kvp_lookup(rp->pager, 0, 0, rp->run_keys + at, batch, rp->refs + at);
        while (run < at + batch && rp->refs[run].frame != KVP_NO_FRAME) {
            run++;
        }
    }
    for (uint32_t at = 0; at < run; at += BATCH) {
        uint32_t batch = run - at < BATCH ? run - at : BATCH;
        uint32_t taken = kvp_acquire(
            rp->pager, 0, 0, rp->run_keys + at, batch, rp->refs + at,
            rp->statuses + at);
        KV_ASSERT(taken == batch);
    }
    return run;
}

/* One page more, computed and sealed; false when the tier has no frame for it. Page by
 * page, so that a page that is here already (behind a gap) costs one frame for a moment
 * and not a second one to the end of the request. */
static bool fill_page(struct replayer *rp, struct kvp_seq_id seq, uint32_t page)
{
    const uint32_t tokens = rp->trace->page_tokens;
    kv_status_t status = kvp_seq_append(rp->pager, seq, tokens);
    if (status != KV_OK) {
        return false;
    }
    carry_out(rp);
    struct kvc_segment segment = kvc_segment_at(page, tokens);
    const struct kvp_place place = {
        .segment = rp->run_keys[segment.first], .index = page - segment.first};
    status = kvp_seq_seal(rp->pager, seq, page, &rp->run_keys[page], &place);
    KV_ASSERT(status == KV_SEALING || status == KV_EXISTS);
    carry_out(rp);
    if (status == KV_EXISTS) {
        struct kvp_seq_info info;
        status = kvp_seq_info(rp->pager, seq, &info);
        KV_ASSERT(status == KV_OK);
        status = kvp_seq_confirm(rp->pager, seq, info.version);
        KV_ASSERT(status == KV_OK);
        carry_out(rp);
    }
    return true;
}

static kv_status_t
replay_request(struct replayer *rp, const struct kvn_request *request)
{
    const uint32_t n = request->nr_pages;
    struct kvp_seq_id seq;
    for (uint32_t i = 0; i < n; i++) {
        rp->run_keys[i] = rp->keys[rp->trace->ids[request->first + i]];
    }
    kvp_now(rp->pager, request->arrival_us);
    kv_status_t status = kvp_seq_open(rp->pager, 0, 0, &seq);
    if (status != KV_OK) {
        return status;
    }
    uint32_t run = take_run(rp, n);
    status = kvp_seq_adopt(rp->pager, seq, rp->refs, run);
    KV_ASSERT(status == KV_OK);
    uint32_t page = run;
    while (page < n && fill_page(rp, seq, page)) {
        page++;
    }
    rp->out->nr_refs += n;
    rp->out->hits += run;
    rp->out->unkept += n - page;
    status = kvp_seq_end(rp->pager, seq, false); /* tails first */
    carry_out(rp);
    return status;
}

static uint32_t longest_request(const struct kvn_trace *trace)
{
    uint32_t longest = 1;
    for (uint32_t r = 0; r < trace->nr_requests; r++) {
        if (trace->requests[r].nr_pages > longest) {
            longest = trace->requests[r].nr_pages;
        }
    }
    return longest;
}

kv_status_t kvn_replay_pager(
    const struct kvn_trace *trace, const struct kvp_evict_ops *evict, uint32_t pages,
    struct kvn_replay *replay, struct kv_detail *detail)
{
    const uint32_t longest = longest_request(trace);
    struct kvn_replay result = {0};
    kv_status_t status = KV_ERR_NOMEM;
    struct replayer *rp = kv_calloc(1, sizeof(*rp));
    if (rp == NULL) {
        return KV_ERR_NOMEM;
    }
    rp->trace = trace;
    rp->out = &result;
    rp->run_keys = kv_calloc(longest, sizeof(*rp->run_keys));
    rp->refs = kv_calloc(longest, sizeof(*rp->refs));
    rp->statuses = kv_calloc(longest, sizeof(*rp->statuses));
    if (rp->run_keys == NULL || rp->refs == NULL || rp->statuses == NULL) {
        goto err_free;
    }
    status = kvn_trace_keys(trace, &rp->keys);
    if (status != KV_OK) {
        goto err_free;
    }
    status = pager_make(rp, evict, pages, detail);
    for (uint32_t r = 0; status == KV_OK && r < trace->nr_requests; r++) {
        status = replay_request(rp, &trace->requests[r]);
    }
    if (status == KV_OK) {
        kvp_check(rp->pager);
        result.evicted = kvp_metrics(rp->pager)->evicted;
        *replay = result;
    }

err_free:
    kvp_destroy(rp->pager);
    kv_free(rp->keys);
    kv_free(rp->statuses);
    kv_free(rp->refs);
    kv_free(rp->run_keys);
    kv_free(rp);
    return status;
}

double kvn_replay_rate(const struct kvn_replay *replay)
{
    return replay->nr_refs == 0 ? 0 : (double)replay->hits / (double)replay->nr_refs;
}

double kvn_pooled_hit_rate(const struct kvn_trace *trace, uint32_t pages)
{
    struct kvn_replay replay;
    kv_status_t status = kvn_replay_pager(trace, &kvp_evict_lru, pages, &replay, NULL);
    return status == KV_OK ? kvn_replay_rate(&replay) : -1;
}
