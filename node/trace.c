/* The reader of the two public formats. A line is parsed, checked field by field, then
 * applied; the first bad one ends the load with a line that says where and why. */
#include "node/trace.h"

#include "base/assert.h"
#include "base/hash.h"
#include "node/trace_build.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    PAGE_TOKENS = 512,
    BLOCK_TOKENS = 64,
    PAGE_BLOCKS = PAGE_TOKENS / BLOCK_TOKENS,
    BLOCKS_MAX = KVN_TRACE_PAGES_MAX * PAGE_BLOCKS,
    GZ_BUFFER_BYTES = 128 << 10,
};
static const uint64_t tokens_max = (uint64_t)KVN_TRACE_PAGES_MAX * PAGE_TOKENS;
static const uint64_t starts_within_us = UINT64_C(8) * 3600 * 1000000;
static const double seconds_max = 1e9;

/* ------------------------------------------------------------------ numbers seen */

/* (a, b) → a number, open addressing; for ids of pages, and requests of sessions. */
struct seen_slot {
    uint64_t a;
    uint32_t b;
    uint32_t number;
    bool used;
};
struct seen {
    struct seen_slot *slots;
    size_t mask; /* slots - 1; no slots before the first seen_add */
    size_t nr;
};

static struct seen_slot *seen_slot(struct seen *seen, uint64_t a, uint32_t b)
{
    size_t i = (size_t)kv_mix64(a ^ kv_mix64(b + KV_GOLDEN64)) & seen->mask;
    while (seen->slots[i].used && (seen->slots[i].a != a || seen->slots[i].b != b)) {
        i = (i + 1) & seen->mask;
    }
    return &seen->slots[i];
}

/* NULL when it was never added; else where its number is. */
static uint32_t *seen_find(struct seen *seen, uint64_t a, uint32_t b)
{
    if (seen->slots == NULL) {
        return NULL;
    }
    struct seen_slot *slot = seen_slot(seen, a, b);
    return slot->used ? &slot->number : NULL;
}

static kv_status_t seen_grow(struct seen *seen)
{
    struct seen grown = {.mask = seen->slots == NULL ? 1023 : 2 * seen->mask + 1};
    grown.slots = calloc(grown.mask + 1, sizeof(*grown.slots));
    if (grown.slots == NULL) {
        return KV_ERR_NOMEM;
    }
    for (size_t i = 0; seen->slots != NULL && i <= seen->mask; i++) {
        if (seen->slots[i].used) {
            *seen_slot(&grown, seen->slots[i].a, seen->slots[i].b) = seen->slots[i];
        }
    }
    grown.nr = seen->nr;
    free(seen->slots);
    *seen = grown;
    return KV_OK;
}

/* (a, b) was not there before. */
static kv_status_t seen_add(struct seen *seen, uint64_t a, uint32_t b, uint32_t number)
{
    if (seen->slots == NULL || 2 * seen->nr > seen->mask) {
        kv_status_t status = seen_grow(seen);
        if (status != KV_OK) {
            return status;
        }
    }
    struct seen_slot *slot = seen_slot(seen, a, b);
    KV_ASSERT(!slot->used);
    *slot = (struct seen_slot){.a = a, .b = b, .number = number, .used = true};
    seen->nr++;
    return KV_OK;
}

/* ------------------------------------------------------------------ reader */

struct reader {
    const char *path;
    uint64_t seed;
    uint32_t line; /* of the file, from 1; 0: the file as a whole */
    struct kvn_trace_error *error;
    struct kvn_build build;
    struct seen seen; /* (page id, 0), or (session, index of its request) */
    uint32_t *blocks; /* agent sessions: n of every request, in order of the file */
    size_t blocks_cap;
    uint32_t *parents; /* chats: page before this one + 1, by dense id */
    size_t parents_cap;
};

/* Formats the one line of the refusal and returns `status`. */
static kv_status_t
fail(struct reader *reader, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static kv_status_t
fail(struct reader *reader, kv_status_t status, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    char *out = reader->error->line;
    const size_t cap = sizeof(reader->error->line);
    if (reader->line == 0) {
        snprintf(out, cap, "%.200s: %s", reader->path, text);
    } else {
        snprintf(out, cap, "%.200s:%" PRIu32 ": %s", reader->path, reader->line, text);
    }
    return status;
}

static kv_status_t out_of_memory(struct reader *reader)
{
    return fail(reader, KV_ERR_NOMEM, "out of memory");
}

/* The field as a whole number from min to max. */
static kv_status_t field_int(
    struct reader *reader, const json_t *object, const char *field, int64_t min,
    uint64_t max, int64_t *value_p)
{
    const json_t *value = json_object_get(object, field);
    if (value == NULL) {
        return fail(reader, KV_ERR_CONFIG, "%s: is missing", field);
    }
    if (!json_is_integer(value)) {
        return fail(reader, KV_ERR_CONFIG, "%s: is not a whole number", field);
    }
    int64_t number = json_integer_value(value);
    if (number < min) {
        return fail(
            reader, KV_ERR_CONFIG, "%s: %" PRId64 " is below the minimum %" PRId64,
            field, number, min);
    }
    if (number > 0 && (uint64_t)number > max) {
        return fail(
            reader, KV_ERR_CONFIG, "%s: %" PRId64 " is above the maximum %" PRIu64,
            field, number, max);
    }
    *value_p = number;
    return KV_OK;
}

static kv_status_t field_count(
    struct reader *reader, const json_t *object, const char *field, uint64_t max,
    uint64_t *value_p)
{
    int64_t value;
    kv_status_t status = field_int(reader, object, field, 0, max, &value);
    if (status == KV_OK) {
        *value_p = (uint64_t)value;
    }
    return status;
}

/* Makes room for index `at` in an array of numbers that grows with the file. */
static kv_status_t grow(uint32_t **array_p, size_t *cap_p, size_t at)
{
    if (at < *cap_p) {
        return KV_OK;
    }
    size_t cap = 2 * at + 1024;
    uint32_t *array = realloc(*array_p, cap * sizeof(*array));
    if (array == NULL) {
        return KV_ERR_NOMEM;
    }
    *array_p = array;
    *cap_p = cap;
    return KV_OK;
}

/* ------------------------------------------------------------------ chats */

/* The dense id of the i-th of the request's pages; `before` is that of the page before
 * it, plus 1, or 0. An id names its whole prefix, so it always follows the same
 * page. */
static kv_status_t chat_page(
    struct reader *reader, const json_t *value, size_t i, uint32_t before,
    uint32_t *id_p)
{
    struct kvn_build *build = &reader->build;
    if (!json_is_integer(value)) {
        return fail(reader, KV_ERR_CONFIG, "hash_ids[%zu]: is not a whole number", i);
    }
    int64_t number = json_integer_value(value);
    if (number < 0) {
        return fail(
            reader, KV_ERR_CONFIG, "hash_ids[%zu]: %" PRId64 " is below the minimum 0",
            i, number);
    }
    const uint32_t *known = seen_find(&reader->seen, (uint64_t)number, 0);
    if (known != NULL) {
        *id_p = *known;
        if (reader->parents[*id_p] != before) {
            return fail(
                reader, KV_ERR_CONFIG,
                "hash_ids[%zu]: %" PRId64 " followed another page before", i, number);
        }
        return KV_OK;
    }
    uint32_t id = build->nr_ids;
    if (seen_add(&reader->seen, (uint64_t)number, 0, id) != KV_OK
        || grow(&reader->parents, &reader->parents_cap, id) != KV_OK) {
        return out_of_memory(reader);
    }
    reader->parents[id] = before;
    build->nr_ids++;
    *id_p = id;
    return KV_OK;
}

static kv_status_t chat_line(struct reader *reader, const json_t *object)
{
    uint64_t timestamp_ms, input, output;
    kv_status_t status;
    if ((status =
             field_count(reader, object, "timestamp", UINT64_MAX / 2000, &timestamp_ms))
            != KV_OK
        || (status = field_count(reader, object, "input_length", tokens_max, &input))
               != KV_OK
        || (status = field_count(reader, object, "output_length", UINT32_MAX, &output))
               != KV_OK) {
        return status;
    }
    const json_t *ids = json_object_get(object, "hash_ids");
    if (!json_is_array(ids)) {
        return fail(
            reader, KV_ERR_CONFIG, "hash_ids: is %s",
            ids == NULL ? "missing" : "not an array");
    }
    const size_t n = json_array_size(ids);
    const size_t expected = (size_t)((input + PAGE_TOKENS - 1) / PAGE_TOKENS);
    if (n > KVN_TRACE_PAGES_MAX) {
        return fail(
            reader, KV_ERR_CONFIG, "hash_ids: %zu pages are above the maximum %d", n,
            KVN_TRACE_PAGES_MAX);
    }
    if (n != expected) {
        return fail(
            reader, KV_ERR_CONFIG,
            "hash_ids: %zu pages, but input_length %" PRIu64 " makes %zu", n, input,
            expected);
    }
    if (kvn_build_reserve(&reader->build, n) != KV_OK) {
        return out_of_memory(reader);
    }
    uint32_t *out = reader->build.ids + reader->build.nr_refs;
    uint32_t before = 0;
    for (size_t i = 0; i < n; i++) {
        status = chat_page(reader, json_array_get(ids, i), i, before, &out[i]);
        if (status != KV_OK) {
            return status;
        }
        before = out[i] + 1;
    }
    status = kvn_build_request(
        &reader->build, timestamp_ms * 1000, (uint32_t)n, (uint32_t)output);
    return status == KV_OK ? KV_OK : out_of_memory(reader);
}

/* ------------------------------------------------------------------ agent sessions */

/* Under (session, this) the number of requests so far; below it, requests by index. */
#define SESSION_COUNT UINT32_MAX

struct agent_fields {
    uint64_t session;
    uint64_t arrival_us;
    uint64_t output;
    uint64_t blocks;
    uint64_t shared;
    int64_t parent; /* index in the session, -1 for none */
};

/* Sessions have no common clock: each starts at a time of its own, drawn from the seed
 * and its number alone. */
static uint64_t session_start_us(uint64_t seed, uint64_t session)
{
    struct kv_rng rng = kv_rng_seed(seed ^ kv_mix64(session + KV_GOLDEN64));
    return kv_rng_below(&rng, starts_within_us);
}

static kv_status_t
agent_time(struct reader *reader, const json_t *object, struct agent_fields *fields)
{
    const json_t *t = json_object_get(object, "t");
    if (!json_is_number(t)) {
        return fail(
            reader, KV_ERR_CONFIG, "t: is %s", t == NULL ? "missing" : "not a number");
    }
    double seconds = json_number_value(t);
    if (!(seconds >= 0 && seconds <= seconds_max)) {
        return fail(
            reader, KV_ERR_CONFIG, "t: %g is not within 0 and %g", seconds,
            seconds_max);
    }
    fields->arrival_us = session_start_us(reader->seed, fields->session)
                         + (uint64_t)(seconds * 1e6 + 0.5);
    return KV_OK;
}

static kv_status_t agent_fields(
    struct reader *reader, const json_t *object, uint32_t nr_before,
    struct agent_fields *fields)
{
    kv_status_t status;
    uint64_t input;
    if ((status = agent_time(reader, object, fields)) != KV_OK
        || (status = field_count(reader, object, "in", UINT32_MAX, &input)) != KV_OK
        || (status = field_count(reader, object, "out", UINT32_MAX, &fields->output))
               != KV_OK
        || (status = field_count(reader, object, "n", BLOCKS_MAX, &fields->blocks))
               != KV_OK
        || (status = field_int(reader, object, "p", -1, BLOCKS_MAX, &fields->parent))
               != KV_OK
        || (status = field_count(reader, object, "l", fields->blocks, &fields->shared))
               != KV_OK) {
        return status;
    }
    if (fields->parent >= (int64_t)nr_before) {
        return fail(
            reader, KV_ERR_CONFIG,
            "p: %" PRId64 " is above the maximum %" PRId64
            ", the session's last request so far",
            fields->parent, (int64_t)nr_before - 1);
    }
    if (fields->parent < 0 && fields->shared > 0) {
        return fail(
            reader, KV_ERR_CONFIG, "l: %" PRIu64 " is above the maximum 0 for p -1",
            fields->shared);
    }
    return KV_OK;
}

static uint64_t page_blocks(uint64_t blocks, uint64_t page)
{
    uint64_t left = blocks - page * PAGE_BLOCKS;
    return left < PAGE_BLOCKS ? left : PAGE_BLOCKS;
}

/* Page i is the parent's when both cut it at the same block and share all of it. */
static void agent_pages(
    struct kvn_build *build, const struct agent_fields *fields,
    const struct kvn_request *parent, uint64_t parent_blocks, uint32_t n)
{
    uint32_t *out = build->ids + build->nr_refs;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t blocks = page_blocks(fields->blocks, i);
        bool same = parent != NULL && i < parent->nr_pages
                    && (uint64_t)i * PAGE_BLOCKS + blocks <= fields->shared
                    && page_blocks(parent_blocks, i) == blocks;
        out[i] = same ? build->ids[parent->first + i] : build->nr_ids++;
    }
}

static kv_status_t agent_line(struct reader *reader, const json_t *object)
{
    struct kvn_build *build = &reader->build;
    struct agent_fields fields = {0};
    kv_status_t status = field_count(reader, object, "s", UINT32_MAX, &fields.session);
    if (status != KV_OK) {
        return status;
    }
    uint32_t *count_p = seen_find(&reader->seen, fields.session, SESSION_COUNT);
    const uint32_t index = count_p == NULL ? 0 : *count_p;
    status = agent_fields(reader, object, index, &fields);
    if (status != KV_OK) {
        return status;
    }

    const uint32_t n = (uint32_t)((fields.blocks + PAGE_BLOCKS - 1) / PAGE_BLOCKS);
    const uint32_t request = (uint32_t)build->nr_requests;
    if (kvn_build_reserve(build, n) != KV_OK
        || grow(&reader->blocks, &reader->blocks_cap, request) != KV_OK) {
        return out_of_memory(reader);
    }
    const struct kvn_request *parent = NULL;
    uint64_t parent_blocks = 0;
    if (fields.parent >= 0) {
        uint32_t number =
            *seen_find(&reader->seen, fields.session, (uint32_t)fields.parent);
        parent = &build->requests[number];
        parent_blocks = reader->blocks[number];
    }
    if (fields.shared > parent_blocks) {
        return fail(
            reader, KV_ERR_CONFIG,
            "l: %" PRIu64 " is above the maximum %" PRIu64 ", n of request p",
            fields.shared, parent_blocks);
    }
    if (n > UINT32_MAX - build->nr_ids) {
        return out_of_memory(reader);
    }
    agent_pages(build, &fields, parent, parent_blocks, n);
    reader->blocks[request] = (uint32_t)fields.blocks;

    if (count_p != NULL) {
        *count_p = index + 1;
    } else if (seen_add(&reader->seen, fields.session, SESSION_COUNT, 1) != KV_OK) {
        return out_of_memory(reader);
    }
    if (seen_add(&reader->seen, fields.session, index, request) != KV_OK
        || kvn_build_request(build, fields.arrival_us, n, (uint32_t)fields.output)
               != KV_OK) {
        return out_of_memory(reader);
    }
    return KV_OK;
}

/* ------------------------------------------------------------------ lines */

typedef kv_status_t (*line_fn)(struct reader *reader, const json_t *object);

/* Which format the first line is of; NULL for neither. */
static line_fn format_of(const json_t *object)
{
    if (json_object_get(object, "hash_ids") != NULL
        || json_object_get(object, "timestamp") != NULL) {
        return chat_line;
    }
    return json_object_get(object, "s") != NULL ? agent_line : NULL;
}

static kv_status_t
take_line(struct reader *reader, line_fn *format_p, const char *text, size_t len)
{
    json_error_t why;
    json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (object == NULL) {
        return fail(
            reader, KV_ERR_CONFIG, "column %d: not JSON: %s", why.column, why.text);
    }
    kv_status_t status;
    if (*format_p == NULL) {
        *format_p = format_of(object);
    }
    if (*format_p == NULL) {
        status = fail(
            reader, KV_ERR_CONFIG,
            "not a request: neither hash_ids (chats) nor s (agent sessions) is there");
    } else if (reader->build.nr_requests >= KVN_TRACE_REQUESTS_MAX) {
        status = fail(
            reader, KV_ERR_CONFIG, "requests: more than the maximum %d",
            KVN_TRACE_REQUESTS_MAX);
    } else {
        status = (*format_p)(reader, object);
    }
    json_decref(object);
    return status;
}

/* The reason why the file gave no more bytes; KV_OK at its proper end. */
static kv_status_t read_failure(struct reader *reader, gzFile file)
{
    int ret;
    const char *text = gzerror(file, &ret);
    if (ret == Z_OK || ret == Z_STREAM_END) {
        return KV_OK;
    }
    if (ret == Z_ERRNO) {
        text = strerror(errno);
    } else if (ret == Z_BUF_ERROR) {
        text = "the gzip stream ends early";
    }
    return fail(reader, KV_ERR_IO, "%s", text);
}

static kv_status_t read_lines(struct reader *reader, gzFile file, char *text)
{
    line_fn format = NULL;
    while (gzgets(file, text, KVN_TRACE_LINE_BYTES_MAX) != NULL) {
        size_t len = strlen(text); /* a NUL byte cuts the line: then it is not JSON */
        reader->line++;
        if (len + 1 == KVN_TRACE_LINE_BYTES_MAX && text[len - 1] != '\n') {
            return fail(
                reader, KV_ERR_CONFIG, "line: longer than the maximum %d bytes",
                KVN_TRACE_LINE_BYTES_MAX - 1);
        }
        kv_status_t status = read_failure(reader, file);
        if (status == KV_OK) {
            status = take_line(reader, &format, text, len);
        }
        if (status != KV_OK) {
            return status;
        }
    }
    kv_status_t status = read_failure(reader, file);
    if (status == KV_OK && reader->build.nr_requests == 0) {
        reader->line = 0;
        status = fail(reader, KV_ERR_CONFIG, "requests: 0 is below the minimum 1");
    }
    return status;
}

kv_status_t kvn_trace_load(
    const char *path, uint64_t seed, struct kvn_trace *trace,
    struct kvn_trace_error *error)
{
    struct reader reader = {.path = path, .seed = seed, .error = error};
    errno = 0; /* gzopen leaves it alone when memory is out */
    gzFile file = gzopen(path, "rb");
    if (file == NULL) {
        return fail(
            &reader, KV_ERR_IO, "%s", errno == 0 ? "out of memory" : strerror(errno));
    }
    kv_status_t status;
    char *text = malloc(KVN_TRACE_LINE_BYTES_MAX);
    if (text == NULL || gzbuffer(file, GZ_BUFFER_BYTES) != 0) {
        status = out_of_memory(&reader);
        goto err_close;
    }
    status = read_lines(&reader, file, text);
    if (status == KV_OK) {
        kvn_build_end(&reader.build, PAGE_TOKENS, trace);
    }
    kvn_build_abort(&reader.build); /* nothing is left in it after the end */
    free(reader.seen.slots);
    free(reader.blocks);
    free(reader.parents);

err_close:
    free(text);
    gzclose(file);
    return status;
}
