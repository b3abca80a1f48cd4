/* Traces of our own making: chats that share system prompts and repeat their prefix. */
#include "base/hash.h"
#include "node/trace_build.h"

#include <inttypes.h>
#include <stdio.h>

enum {
    PAGE_TOKENS = 512,
    OUTPUT_TOKENS_MAX = 1024,
    REFS_MAX = 1 << 28, /* of a generated trace */
};
static const uint64_t starts_within_us = UINT64_C(3600) * 1000000;
static const uint64_t think_min_us = UINT64_C(10) * 1000000;
static const uint64_t think_max_us = UINT64_C(120) * 1000000;

const struct kvn_trace_shape kvn_trace_chats = {
    .seed = 1,
    .nr_sessions = 400,
    .nr_prompts = 8,
    .prompt_pages_max = 8,
    .rounds_max = 9,
    .round_pages_max = 7,
};

static kv_status_t refuse(
    struct kvn_trace_error *error, const char *field, uint64_t value, const char *side,
    uint64_t limit)
{
    snprintf(
        error->line, sizeof(error->line), "%s: %" PRIu64 " is %s %" PRIu64, field,
        value, side, limit);
    return KV_ERR_CONFIG;
}

static kv_status_t
shape_check(const struct kvn_trace_shape *shape, struct kvn_trace_error *error)
{
    const struct {
        const char *field;
        uint64_t value;
    } counts[] = {
        {"shape.sessions", shape->nr_sessions},
        {"shape.prompts", shape->nr_prompts},
        {"shape.prompt_pages", shape->prompt_pages_max},
        {"shape.rounds", shape->rounds_max},
        {"shape.round_pages", shape->round_pages_max},
    };
    for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        if (counts[i].value == 0) {
            return refuse(error, counts[i].field, 0, "below the minimum", 1);
        }
    }
    uint64_t rounds = shape->rounds_max;
    uint64_t pages = shape->prompt_pages_max + rounds * shape->round_pages_max;
    if (pages > KVN_TRACE_PAGES_MAX) {
        return refuse(
            error, "shape.rounds times shape.round_pages", pages, "above the maximum",
            KVN_TRACE_PAGES_MAX);
    }
    if (rounds * shape->nr_sessions > KVN_TRACE_REQUESTS_MAX) {
        return refuse(
            error, "shape.sessions times shape.rounds", rounds * shape->nr_sessions,
            "above the maximum", KVN_TRACE_REQUESTS_MAX);
    }
    uint64_t refs = pages * rounds * shape->nr_sessions;
    if (refs > REFS_MAX) {
        return refuse(error, "shape.pages", refs, "above the maximum", REFS_MAX);
    }
    return KV_OK;
}

/* Pages of prompt `prompt`; its ids are prompt * prompt_pages_max + 0, 1, … */
static uint32_t prompt_pages(const struct kvn_trace_shape *shape, uint32_t prompt)
{
    struct kv_rng rng = kv_rng_seed(shape->seed ^ ((uint64_t)prompt << 32));
    return 1 + (uint32_t)kv_rng_below(&rng, shape->prompt_pages_max);
}

/* The lower of two draws: the first prompts are the popular ones. */
static uint32_t draw_prompt(const struct kvn_trace_shape *shape, struct kv_rng *rng)
{
    uint32_t a = (uint32_t)kv_rng_below(rng, shape->nr_prompts);
    uint32_t b = (uint32_t)kv_rng_below(rng, shape->nr_prompts);
    return a < b ? a : b;
}

static kv_status_t generate_session(
    const struct kvn_trace_shape *shape, struct kv_rng *rng, struct kvn_build *build)
{
    uint32_t prompt = draw_prompt(shape, rng);
    uint32_t nr_prompt = prompt_pages(shape, prompt);
    uint32_t rounds = 1 + (uint32_t)kv_rng_below(rng, shape->rounds_max);
    uint64_t at_us = kv_rng_below(rng, starts_within_us);
    uint32_t first_own =
        build->nr_ids; /* a session's own pages are numbered in a row */

    for (uint32_t round = 0; round < rounds; round++) {
        build->nr_ids += 1 + (uint32_t)kv_rng_below(rng, shape->round_pages_max);
        uint32_t n = nr_prompt + build->nr_ids - first_own;
        kv_status_t status = kvn_build_reserve(build, n);
        if (status != KV_OK) {
            return status;
        }
        uint32_t *ids = build->ids + build->nr_refs;
        for (uint32_t i = 0; i < n; i++) {
            ids[i] = i < nr_prompt ? prompt * shape->prompt_pages_max + i
                                   : first_own + i - nr_prompt;
        }
        uint32_t output = 1 + (uint32_t)kv_rng_below(rng, OUTPUT_TOKENS_MAX);
        status = kvn_build_request(build, at_us, n, output);
        if (status != KV_OK) {
            return status;
        }
        at_us += think_min_us + kv_rng_below(rng, think_max_us - think_min_us);
    }
    return KV_OK;
}

/* Ids in order of their first use by arrival: dense, also where a prompt has fewer
 * pages than its share of numbers or is never drawn. */
static kv_status_t renumber(struct kvn_trace *trace)
{
    struct kvn_build map = {0};
    kv_status_t status = kvn_build_reserve(&map, trace->nr_ids);
    if (status != KV_OK) {
        return status;
    }
    uint32_t used = 0;
    for (uint32_t r = 0; r < trace->nr_requests; r++) {
        uint32_t *ids = trace->ids + trace->requests[r].first;
        for (uint32_t i = 0; i < trace->requests[r].nr_pages; i++) {
            if (map.ids[ids[i]] == 0) {
                map.ids[ids[i]] = ++used; /* 0 is free */
            }
            ids[i] = map.ids[ids[i]] - 1;
        }
    }
    trace->nr_ids = used;
    kvn_build_abort(&map);
    return KV_OK;
}

kv_status_t kvn_trace_generate(
    const struct kvn_trace_shape *shape, struct kvn_trace *trace,
    struct kvn_trace_error *error)
{
    struct kvn_build build = {0};
    struct kvn_trace made;
    struct kv_rng rng = kv_rng_seed(shape->seed);
    kv_status_t status = shape_check(shape, error);
    if (status != KV_OK) {
        return status;
    }
    build.nr_ids = shape->nr_prompts * shape->prompt_pages_max;
    for (uint32_t s = 0; s < shape->nr_sessions; s++) {
        status = generate_session(shape, &rng, &build);
        if (status != KV_OK) {
            goto err_build;
        }
    }
    kvn_build_end(&build, PAGE_TOKENS, &made);
    status = renumber(&made);
    if (status != KV_OK) {
        goto err_made;
    }
    *trace = made;
    return KV_OK;

err_made:
    kvn_trace_free(&made);
err_build:
    kvn_build_abort(&build);
    snprintf(error->line, sizeof(error->line), "out of memory");
    return status;
}
