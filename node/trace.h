/* Request traces: the two public formats, and a generator of our own.
 *
 *   file.jsonl / file.jsonl.gz ──► kvn_trace ──► replay, sim, placement
 *   seed                       ──►
 *
 * A request is a list of page ids; equal ids mean equal prefixes up to there (so an id
 * names the page and all before it). Ids are dense: 0 .. nr_ids - 1.
 *
 * Threading: a trace is immutable once loaded. Ownership: kvn_trace_free().
 * Errors: KV_ERR_CONFIG or KV_ERR_IO with one line that names the file, the line, the
 * field, the limit and the value; nothing is half loaded.
 */
#ifndef KVN_TRACE_H
#define KVN_TRACE_H

#include "base/key.h"
#include "base/status.h"

#include <stddef.h>

enum {
    KVN_TRACE_PAGES_MAX = 65536,     /* of one request */
    KVN_TRACE_LINE_BYTES_MAX = 2 << 20,
    KVN_TRACE_REQUESTS_MAX = 1 << 24,
};

struct kvn_request {
    uint64_t arrival_us; /* since the trace's start */
    uint32_t first;      /* in ids[] */
    uint32_t nr_pages;
    uint32_t output_tokens;
};

struct kvn_trace {
    uint32_t page_tokens; /* of one page: 512 for both public formats */
    uint32_t nr_requests;
    uint32_t nr_refs; /* pages of all requests */
    uint32_t nr_ids;
    struct kvn_request *requests; /* by arrival */
    uint32_t *ids;
};

struct kvn_trace_error {
    char line[512];
};

/* Format told from the first line: {"timestamp", "input_length", "output_length",
 * "hash_ids"} a line, or {"s","t","in","out","n","p","l"} a line (64-token blocks,
 * folded into 512-token pages; sessions get starts seeded uniform over 8 h). Gzip told
 * from its magic. A last page that is not full is a page of its own: shared only with a
 * request that ends there too. Fields that are not of the format are skipped. */
kv_status_t kvn_trace_load(
    const char *path, uint64_t seed, struct kvn_trace *trace,
    struct kvn_trace_error *error);

/* Chats: `nr_sessions` conversations over `nr_prompts` shared system prompts, several
 * rounds each, every round repeating the prefix so far. */
struct kvn_trace_shape {
    uint64_t seed;
    uint32_t nr_sessions;
    uint32_t nr_prompts;
    uint32_t prompt_pages_max;
    uint32_t rounds_max;
    uint32_t round_pages_max; /* new pages of one round */
};
/* About 2,000 requests with 40,000 page references. */
extern const struct kvn_trace_shape kvn_trace_chats;

kv_status_t kvn_trace_generate(
    const struct kvn_trace_shape *shape, struct kvn_trace *trace,
    struct kvn_trace_error *error);

void kvn_trace_free(struct kvn_trace *trace);

/* The key of page `id`: the opaque key of the id as 8 bytes, little endian, under a
 * fixed salt, so that every tool places a trace's pages alike. */
void kvn_trace_key(kv_keygen_t *gen, uint32_t id, kv_key_t *key_p);
/* Keys of all ids, in (*keys_p)[nr_ids]; the caller's, until kv_free(). NOMEM. */
kv_status_t kvn_trace_keys(const struct kvn_trace *trace, kv_key_t **keys_p);

#endif
