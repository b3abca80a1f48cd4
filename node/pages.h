/* Pages that a verb names: of a prefix of tokens, or by an engine's own name; through
 * libkvrail, as an engine would.
 *
 *   --tokens FILE ──► keys of the prefix, chained      kvn_pages_open() ──► client,
 *   --key TEXT    ──► one key, loose                                        space, keys
 *   pages [from, until) ──► kvn_pages_batch(): GET, PUT, EXISTS ──► a status a page
 *
 * Threading: the main thread. Ownership: kvn_pages_close() frees. Errors: CONFIG is
 * what the caller wrote; others are kvr_status; each with one line.
 */
#ifndef KVN_PAGES_H
#define KVN_PAGES_H

#include "base/status.h"
#include "include/kvrail/kvrail.h"
#include "node/ask.h"
#include "node/cli.h"

#include <jansson.h>

enum {
    KVN_TOKENS_MAX = 1 << 22,          /* of a file */
    KVN_PAGES_WINDOW_BYTES = 64 << 20, /* of a batch's buffer; one page at least */
    KVN_PAGES_LINE_BYTES = 512,
    KVN_PAGES_TIMEOUT_MS = 5000,
};
#define KVN_PAGES_ALL UINT64_MAX

/* What the options say; zeroed, then kvn_pages_options_init(). */
struct kvn_pages_options {
    const char *socket; /* of the node */
    const char *space, *tokens, *key;
    uint64_t tenant, group;
    uint64_t page; /* of the prefix; KVN_PAGES_ALL */
    uint64_t tail; /* tokens of the page of --key; 0: full */
    uint64_t timeout_ms;
};

struct kvn_pages {
    struct kvn_pages_options options;
    kvr_client_t *client;
    struct kvr_space space;
    struct kvr_key *keys; /* of the whole prefix, or the one */
    uint32_t *n_tokens;   /* of each */
    size_t nr;
    size_t from, until; /* the pages that are meant */
    bool chained;
    struct kvr_buffer buffer; /* `window` pages; none before kvn_pages_buffer() */
    size_t window;
};

/* "--space chat --tenant 7 --tokens FILE": rows of the verbs' tables. */
#define KVN_FLAG_SPACE                                                                 \
    {                                                                                  \
        "space", "NAME", "of the node's configuration"                                 \
    }
#define KVN_FLAG_TENANT                                                                \
    {                                                                                  \
        "tenant", "ID", "to speak as"                                                  \
    }
#define KVN_FLAG_GROUP                                                                 \
    {                                                                                  \
        "group", "N", "layer group of the space (0)"                                   \
    }
#define KVN_FLAG_TOKENS                                                                \
    {                                                                                  \
        "tokens", "FILE",                                                              \
            "token numbers of a prefix, blanks or commas between; -: stdin"            \
    }
#define KVN_FLAG_KEY                                                                   \
    {                                                                                  \
        "key", "TEXT", "instead: an engine's own name of one page"                     \
    }
#define KVN_FLAG_PAGE                                                                  \
    {                                                                                  \
        "page", "N", "of the prefix alone, from 0 (all of them)"                       \
    }
#define KVN_FLAG_TAIL                                                                  \
    {                                                                                  \
        "tail", "N", "with --key: the page has only N tokens"                          \
    }
/* Takes the value of such a row, or of KVN_FLAG_SOCKET, KVN_FLAG_CONFIG or
 * "timeout-ms", known by its name. False: it is wrong, and a line on stderr says
 * how. */
bool kvn_pages_flag(
    const struct kvn_cli *cli, int flag, const char *value, struct kvn_ask_where *where,
    struct kvn_pages_options *options);

/* Checks what can be checked without a node, opens a client, makes the keys. */
kv_status_t kvn_pages_open(
    const struct kvn_pages_options *options, struct kvn_pages *pages, char *line,
    size_t cap);
void kvn_pages_close(struct kvn_pages *pages);
/* Bytes of page i in a buffer and in a file; then of all pages that are meant. */
size_t kvn_pages_len(const struct kvn_pages *pages, size_t i);
size_t kvn_pages_bytes(const struct kvn_pages *pages);
/* Shared memory for a window of pages: slot s is page_bytes × s. */
kv_status_t kvn_pages_buffer(struct kvn_pages *pages, char *line, size_t cap);
/* Pages first … first + n - 1, page first + s in slot s. Whole: *result_p, which lives
 * until the next call. */
kv_status_t kvn_pages_batch(
    struct kvn_pages *pages, enum kvr_op op, size_t first, size_t n,
    struct kvr_result *result_p, char *line, size_t cap);
/* { "page", "key", "tokens", "bytes", "status", "place" or "reason" } */
json_t *kvn_pages_row(
    const struct kvn_pages *pages, size_t i, int status, uint8_t place, uint8_t reason);
const char *kvn_place_name(uint8_t place);

#endif
