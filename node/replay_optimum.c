/* The clairvoyant bound: of all pages that are here or pass by, those stay that are
 * wanted again soonest; a page that is never wanted again does not stay at all. */
#include "node/replay.h"

#include "base/assert.h"
#include "base/mem.h"

#define NEVER UINT32_MAX
#define NOWHERE UINT32_MAX

/* A heap of the pages that are here, the one to go first at its root. */
struct optimum {
    uint32_t *heap;     /* [pages + 1] ids */
    uint32_t *at;       /* [nr_ids] place in the heap, or NOWHERE */
    uint32_t *next_use; /* [nr_ids] request that wants it next */
    uint32_t *depth;    /* [nr_ids] pages before it in its prefix */
    uint32_t
        *next_ref; /* [nr_refs] request of the same id's next reference, or NEVER */
    uint32_t nr;
};

/* Wanted later; at the same time, deeper: so that what stays are prefixes. */
static bool goes_before(const struct optimum *opt, uint32_t a, uint32_t b)
{
    if (opt->next_use[a] != opt->next_use[b]) {
        return opt->next_use[a] > opt->next_use[b];
    }
    return opt->depth[a] > opt->depth[b];
}

static void heap_put(struct optimum *opt, uint32_t place, uint32_t id)
{
    opt->heap[place] = id;
    opt->at[id] = place;
}

static void heap_up(struct optimum *opt, uint32_t place)
{
    uint32_t id = opt->heap[place];
    while (place > 0 && goes_before(opt, id, opt->heap[(place - 1) / 2])) {
        heap_put(opt, place, opt->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    heap_put(opt, place, id);
}

static void heap_down(struct optimum *opt, uint32_t place)
{
    uint32_t id = opt->heap[place];
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= opt->nr) {
            break;
        }
        if (child + 1 < opt->nr
            && goes_before(opt, opt->heap[child + 1], opt->heap[child])) {
            child++;
        }
        if (!goes_before(opt, opt->heap[child], id)) {
            break;
        }
        heap_put(opt, place, opt->heap[child]);
        place = child;
    }
    heap_put(opt, place, id);
}

static void heap_remove(struct optimum *opt, uint32_t id)
{
    uint32_t place = opt->at[id];
    KV_ASSERT(place < opt->nr && opt->heap[place] == id);
    uint32_t last = opt->heap[--opt->nr];
    opt->at[id] = NOWHERE;
    if (last == id) {
        return;
    }
    heap_put(opt, place, last);
    heap_up(opt, place);
    heap_down(opt, opt->at[last]);
}

static void heap_add(struct optimum *opt, uint32_t id)
{
    opt->nr++;
    heap_put(opt, opt->nr - 1, id);
    heap_up(opt, opt->nr - 1);
}

/* Walks the trace backwards; `next_use` serves as the request last seen. */
static void find_next_refs(struct optimum *opt, const struct kvn_trace *trace)
{
    for (uint32_t id = 0; id < trace->nr_ids; id++) {
        opt->next_use[id] = NEVER;
        opt->at[id] = NOWHERE;
    }
    for (uint32_t r = trace->nr_requests; r-- > 0;) {
        const struct kvn_request *request = &trace->requests[r];
        for (uint32_t i = 0; i < request->nr_pages; i++) {
            uint32_t id = trace->ids[request->first + i];
            opt->next_ref[request->first + i] = opt->next_use[id];
            opt->next_use[id] = r;
            opt->depth[id] = i;
        }
    }
}

/* First the pages that are here get their new times, then the others come in: else one
 * could be put out for a page of this very request that will be wanted later still. */
static void serve(
    struct optimum *opt, const struct kvn_trace *trace,
    const struct kvn_request *request, uint32_t pages, struct kvn_replay *replay)
{
    const uint32_t *ids = trace->ids + request->first;
    const uint32_t *next = opt->next_ref + request->first;
    uint32_t run = 0;
    while (run < request->nr_pages && opt->at[ids[run]] != NOWHERE) {
        run++;
    }
    replay->nr_refs += request->nr_pages;
    replay->hits += run;
    for (uint32_t i = 0; i < request->nr_pages; i++) {
        bool here = opt->at[ids[i]] != NOWHERE;
        if (here) {
            heap_remove(opt, ids[i]);
        }
        opt->next_use[ids[i]] = next[i];
        if (here && next[i] != NEVER) {
            heap_add(opt, ids[i]);
        }
    }
    for (uint32_t i = 0; i < request->nr_pages; i++) {
        if (opt->at[ids[i]] == NOWHERE && next[i] != NEVER) {
            heap_add(opt, ids[i]);
            if (opt->nr > pages) {
                heap_remove(opt, opt->heap[0]);
            }
        }
    }
}

kv_status_t kvn_replay_optimum(
    const struct kvn_trace *trace, uint32_t pages, struct kvn_replay *replay,
    struct kv_detail *detail)
{
    if (pages == 0 || pages == UINT32_MAX) {
        return kv_fail(detail, KV_ERR_CONFIG, "pages", 1, pages);
    }
    /* More than there are different pages is as good as all of them. */
    const uint32_t room = pages < trace->nr_ids ? pages : trace->nr_ids;
    struct kvn_replay result = {0};
    struct optimum opt = {
        .heap = kv_calloc((size_t)room + 1, sizeof(uint32_t)),
        .at = kv_calloc(trace->nr_ids, sizeof(uint32_t)),
        .next_use = kv_calloc(trace->nr_ids, sizeof(uint32_t)),
        .depth = kv_calloc(trace->nr_ids, sizeof(uint32_t)),
        .next_ref = kv_calloc(trace->nr_refs, sizeof(uint32_t)),
    };
    kv_status_t status = KV_ERR_NOMEM;
    if (opt.heap == NULL || opt.at == NULL || opt.next_use == NULL || opt.depth == NULL
        || opt.next_ref == NULL) {
        goto err_free;
    }
    find_next_refs(&opt, trace);
    for (uint32_t r = 0; r < trace->nr_requests; r++) {
        serve(&opt, trace, &trace->requests[r], room, &result);
    }
    *replay = result;
    status = KV_OK;

err_free:
    kv_free(opt.next_ref);
    kv_free(opt.depth);
    kv_free(opt.next_use);
    kv_free(opt.at);
    kv_free(opt.heap);
    return status;
}
