#include "node/pages.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/option.h"
#include "cluster/placement.h"
#include "node/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { ALIGN = 256 /* of a page's bytes, docs/clients.md */ };

/* For the line of a failure. */
struct says {
    char *line;
    size_t cap;
};

static kv_status_t
fail(const struct says *says, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static kv_status_t
fail(const struct says *says, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(says->line, says->cap, format, args);
    va_end(args);
    return status;
}

/* ---- options --------------------------------------------------------------------- */

bool kvn_pages_flag(
    const struct kvn_cli *cli, int flag, const char *value, struct kvn_ask_where *where,
    struct kvn_pages_options *options)
{
    const struct {
        const char *name, **to;
    } texts[] = {
        {"socket", &where->socket}, {"config", &where->config},
        {"space", &options->space}, {"tokens", &options->tokens},
        {"key", &options->key},
    };
    const struct {
        const char *name;
        uint64_t min, max, *to;
    } numbers[] = {
        {"tenant", 0, UINT32_MAX, &options->tenant},
        {"group", 0, UINT16_MAX, &options->group},
        {"page", 0, UINT32_MAX, &options->page},
        {"tail", 0, UINT32_MAX, &options->tail},
        {"timeout-ms", 1, 3600000, &options->timeout_ms},
    };
    const char *name = cli->flags[flag].name;
    for (unsigned i = 0; i < KV_COUNT_OF(texts); i++) {
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].to = value;
            return true;
        }
    }
    for (unsigned i = 0; i < KV_COUNT_OF(numbers); i++) {
        if (strcmp(name, numbers[i].name) == 0) {
            return kvn_cli_number(
                cli, name, value, numbers[i].min, numbers[i].max, numbers[i].to);
        }
    }
    KV_UNREACHABLE("a row of the verb's own table that it does not take itself");
}

/* ---- tokens ---------------------------------------------------------------------- */

static bool is_between(int c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == '['
           || c == ']';
}

/* The next number: 1, 0 at the end, -1 for what is none. */
static int next_token(FILE *file, uint32_t *token)
{
    uint64_t value = 0;
    int c, digits = 0;
    do {
        c = getc(file);
    } while (is_between(c));
    for (; c >= '0' && c <= '9'; c = getc(file), digits++) {
        value = value * 10 + (uint64_t)(c - '0');
        if (value > UINT32_MAX) {
            return -1;
        }
    }
    if (c == EOF && digits == 0) {
        return 0;
    }
    if (digits == 0 || (c != EOF && !is_between(c))) {
        return -1;
    }
    *token = (uint32_t)value;
    return 1;
}

static kv_status_t tokens_read(
    FILE *file, const char *path, uint32_t *tokens, size_t *n_p,
    const struct says *says)
{
    size_t n = 0;
    uint32_t token = 0;
    int got;
    while ((got = next_token(file, &token)) > 0) {
        if (n == KVN_TOKENS_MAX) {
            return fail(
                says, KV_ERR_CONFIG, "--tokens: %s has more than %d numbers", path,
                KVN_TOKENS_MAX);
        }
        tokens[n++] = token;
    }
    if (ferror(file)) {
        return fail(says, KV_ERR_CONFIG, "--tokens: %s: %s", path, strerror(errno));
    }
    if (got < 0) {
        return fail(
            says, KV_ERR_CONFIG,
            "--tokens: %s: number %zu is no whole number from 0 to %u", path, n + 1,
            UINT32_MAX);
    }
    if (n == 0) {
        return fail(says, KV_ERR_CONFIG, "--tokens: %s has no numbers", path);
    }
    *n_p = n;
    return KV_OK;
}

/* *tokens_p is the caller's to free. */
static kv_status_t
tokens_load(const char *path, uint32_t **tokens_p, size_t *n_p, const struct says *says)
{
    const bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : KV_FAULT() ? NULL : fopen(path, "re");
    if (file == NULL) {
        return fail(says, KV_ERR_CONFIG, "--tokens: %s: %s", path, strerror(errno));
    }
    uint32_t *tokens = kv_calloc(KVN_TOKENS_MAX, sizeof(*tokens));
    kv_status_t status = tokens == NULL ? fail(says, KV_ERR_NOMEM, "out of memory")
                                        : tokens_read(file, path, tokens, n_p, says);
    if (!standard) {
        (void)fclose(file);
    }
    if (status != KV_OK) {
        kv_free(tokens);
        return status;
    }
    *tokens_p = tokens;
    return KV_OK;
}

/* ---- keys ------------------------------------------------------------------------ */

static kv_status_t
keys_room(struct kvn_pages *pages, size_t nr, const struct says *says)
{
    pages->keys = kv_calloc(nr, sizeof(*pages->keys));
    pages->n_tokens = kv_calloc(nr, sizeof(*pages->n_tokens));
    if (pages->keys == NULL || pages->n_tokens == NULL) {
        return fail(says, KV_ERR_NOMEM, "out of memory");
    }
    pages->nr = nr;
    return KV_OK;
}

static kv_status_t keys_of_tokens(struct kvn_pages *pages, const struct says *says)
{
    const uint32_t page_tokens = pages->space.page_tokens;
    uint32_t *tokens = NULL;
    size_t n = 0, nr;
    kv_status_t status = tokens_load(pages->options.tokens, &tokens, &n, says);
    if (status != KV_OK) {
        return status;
    }
    status = keys_room(pages, (n + page_tokens - 1) / page_tokens, says);
    if (status == KV_OK
        && kvr_keys_tokens(&pages->space, tokens, n, pages->keys, pages->nr, &nr)
               != KVR_OK) {
        status = fail(says, KV_ERR_INVALID, "the tokens give no keys");
    }
    kv_free(tokens);
    for (size_t i = 0; status == KV_OK && i < pages->nr; i++) {
        const size_t left = n - i * page_tokens;
        pages->n_tokens[i] = left < page_tokens ? (uint32_t)left : page_tokens;
    }
    pages->chained = true;
    return status;
}

static kv_status_t key_of_name(struct kvn_pages *pages, const struct says *says)
{
    const char *name = pages->options.key;
    const uint32_t page_tokens = pages->space.page_tokens;
    kv_status_t status = keys_room(pages, 1, says);
    if (status != KV_OK) {
        return status;
    }
    if (kvr_key_opaque(&pages->space, name, strlen(name), pages->keys) != KVR_OK) {
        return fail(
            says, KV_ERR_CONFIG, "--key: a name of %zu bytes, the limits are 1 and %d",
            strlen(name), KVR_OPAQUE_MAX);
    }
    const uint64_t tail = pages->options.tail;
    if (tail > page_tokens) {
        return fail(
            says, KV_ERR_CONFIG, "--tail: %llu is above the page's %u tokens",
            (unsigned long long)tail, page_tokens);
    }
    pages->n_tokens[0] = tail != 0 ? (uint32_t)tail : page_tokens;
    return KV_OK;
}

static kv_status_t keys_make(struct kvn_pages *pages, const struct says *says)
{
    const struct kvn_pages_options *options = &pages->options;
    if (options->group >= pages->space.nr_groups) {
        return fail(
            says, KV_ERR_CONFIG, "--group: %llu is above the maximum %u",
            (unsigned long long)options->group, pages->space.nr_groups - 1u);
    }
    kv_status_t status =
        options->key != NULL ? key_of_name(pages, says) : keys_of_tokens(pages, says);
    if (status != KV_OK) {
        return status;
    }
    pages->from = 0;
    pages->until = pages->nr;
    if (options->page != KVN_PAGES_ALL) {
        if (options->page >= pages->nr) {
            return fail(
                says, KV_ERR_CONFIG, "--page: %llu is above the maximum %zu",
                (unsigned long long)options->page, pages->nr - 1);
        }
        pages->from = (size_t)options->page;
        pages->until = pages->from + 1;
    }
    return KV_OK;
}

/* ---- opening --------------------------------------------------------------------- */

static kv_status_t
options_check(const struct kvn_pages_options *options, const struct says *says)
{
    if ((options->tokens == NULL) == (options->key == NULL)) {
        return fail(says, KV_ERR_CONFIG, "--tokens FILE or --key TEXT: one of the two");
    }
    if (options->space == NULL || options->tenant > UINT32_MAX) {
        return fail(says, KV_ERR_CONFIG, "--space NAME and --tenant ID are needed");
    }
    if (options->key != NULL && options->page != KVN_PAGES_ALL) {
        return fail(says, KV_ERR_CONFIG, "--page: goes with --tokens");
    }
    if (options->tokens != NULL && options->tail != 0) {
        return fail(
            says, KV_ERR_CONFIG,
            "--tail: goes with --key; the tokens say how long their last page is");
    }
    return KV_OK;
}

kv_status_t kvn_pages_open(
    const struct kvn_pages_options *options, struct kvn_pages *pages, char *line,
    size_t cap)
{
    const struct says says = {line, cap};
    char target[160];
    *pages = (struct kvn_pages){.options = *options};
    kv_status_t status = options_check(options, &says);
    if (status != KV_OK) {
        return status;
    }
    (void)snprintf(target, sizeof(target), "unix:%s", options->socket);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = (uint32_t)options->tenant,
        .timeout_us = options->timeout_ms * 1000,
    };
    const kvr_status_t opened = kvr_open(&config, &pages->client, line, cap);
    if (opened != KVR_OK) {
        pages->client = NULL;
        return (kv_status_t)opened;
    }
    if (kvr_space_find(pages->client, options->space, &pages->space) != KVR_OK) {
        status = fail(
            &says, KV_ERR_CONFIG,
            "--space: the node has no space \"%s\": kvrail spaces "
            "lists them",
            options->space);
    } else {
        status = keys_make(pages, &says);
    }
    if (status != KV_OK) {
        kvn_pages_close(pages);
    }
    return status;
}

void kvn_pages_close(struct kvn_pages *pages)
{
    kvr_close(pages->client); /* and its buffer */
    kv_free(pages->keys);
    kv_free(pages->n_tokens);
    *pages = (struct kvn_pages){0};
}

size_t kvn_pages_len(const struct kvn_pages *pages, size_t i)
{
    const struct kvr_space *space = &pages->space;
    const uint64_t bytes =
        (uint64_t)space->page_bytes * pages->n_tokens[i] / space->page_tokens;
    return (size_t)((bytes + ALIGN - 1) / ALIGN * ALIGN);
}

size_t kvn_pages_bytes(const struct kvn_pages *pages)
{
    size_t bytes = 0;
    for (size_t i = pages->from; i < pages->until; i++) {
        bytes += kvn_pages_len(pages, i);
    }
    return bytes;
}

kv_status_t kvn_pages_buffer(struct kvn_pages *pages, char *line, size_t cap)
{
    const size_t page_bytes = pages->space.page_bytes;
    size_t window = KVN_PAGES_WINDOW_BYTES / page_bytes;
    window = window < KVR_BATCH_MAX ? window : KVR_BATCH_MAX;
    window = window < pages->until - pages->from ? window : pages->until - pages->from;
    window = window > 0 ? window : 1;
    const kvr_status_t status =
        kvr_buffer_create(pages->client, window * page_bytes, &pages->buffer);
    if (status != KVR_OK) {
        (void)snprintf(line, cap, "%s", kvr_error(pages->client));
        return (kv_status_t)status;
    }
    pages->window = window;
    return KV_OK;
}

kv_status_t kvn_pages_batch(
    struct kvn_pages *pages, enum kvr_op op, size_t first, size_t n,
    struct kvr_result *result_p, char *line, size_t cap)
{
    struct kvr_at at[KVR_BATCH_MAX];
    const uint32_t page_tokens = pages->space.page_tokens;
    for (size_t i = 0; i < n; i++) {
        at[i] = (struct kvr_at){
            .buffer = pages->buffer.id, .offset = i * pages->space.page_bytes};
    }
    const size_t opens = kvc_segment_at((uint32_t)first, page_tokens).first;
    const bool tail = pages->n_tokens[first] < page_tokens;
    const uint64_t timeout_us = pages->options.timeout_ms * 1000;
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .variant = (uint16_t)(pages->space.variant + pages->options.group),
        .timeout_us = timeout_us,
        .keys = &pages->keys[first],
        .nr_keys = (uint32_t)n,
        .at = op == KVR_OP_EXISTS ? NULL : at,
        .n_tokens = &pages->n_tokens[first],
        .loose = !pages->chained,
        .first_page = pages->chained ? (uint32_t)first : 0,
        .anchor = pages->chained && first > 0 ? &pages->keys[opens] : NULL,
        .prev = pages->chained && tail && first > 0 ? &pages->keys[first - 1] : NULL,
    };
    kvr_status_t status = kvr_submit(pages->client, &batch);
    if (status == KVR_OK) {
        /* The node answers by the deadline; a second more, for a node that does not. */
        status = kvr_next(pages->client, timeout_us + 1000000, result_p);
        status = status == KVR_AGAIN ? KVR_DEADLINE : status;
    }
    if (status == KVR_OK && result_p->status != KVR_OK) {
        status = result_p->status;
    }
    if (status != KVR_OK) {
        const char *why = kvr_error(pages->client);
        (void)snprintf(line, cap, "%s", why[0] != '\0' ? why : kvr_status_text(status));
    }
    return (kv_status_t)status;
}

const char *kvn_place_name(uint8_t place)
{
    static const char *const names[] = {
        [KVR_FROM_NONE] = "none",
        [KVR_FROM_DEVICE] = "device",
        [KVR_FROM_HOST] = "host",
        [KVR_FROM_PEER] = "peer",
    };
    return place < sizeof(names) / sizeof(names[0]) ? names[place] : "unknown";
}

json_t *kvn_pages_row(
    const struct kvn_pages *pages, size_t i, int status, uint8_t place, uint8_t reason)
{
    char key[2 * KVR_KEY_BYTES + 1];
    json_t *row = json_object();
    for (size_t b = 0; b < KVR_KEY_BYTES; b++) {
        (void)snprintf(&key[2 * b], 3, "%02x", pages->keys[i].bytes[b]);
    }
    json_object_set_new(row, "page", kvn_json_uint(i));
    json_object_set_new(row, "key", json_string(key));
    json_object_set_new(row, "tokens", kvn_json_uint(pages->n_tokens[i]));
    json_object_set_new(row, "bytes", kvn_json_uint(kvn_pages_len(pages, i)));
    json_object_set_new(row, "status", json_string(kvr_status_name(status)));
    if (status == KVR_MISS) {
        json_object_set_new(row, "reason", json_string(kvr_miss_name(reason)));
    } else if (place != KVR_FROM_NONE) {
        json_object_set_new(row, "place", json_string(kvn_place_name(place)));
    }
    return row;
}
