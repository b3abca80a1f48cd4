/* kvrail put, kvrail get: pages from a file to a node and back, as an engine would. */
#include "node/ask.h"
#include "node/pages.h"
#include "node/report.h"
#include "node/verbs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum flag {
    FLAG_SOCKET,
    FLAG_CONFIG,
    FLAG_SPACE,
    FLAG_TENANT,
    FLAG_GROUP,
    FLAG_TOKENS,
    FLAG_KEY,
    FLAG_PAGE,
    FLAG_TAIL,
    FLAG_FILE, /* --in or --out */
    FLAG_TIMEOUT,
    FLAG_JSON,
    NR_FLAGS
};

#define SHARED_FLAGS                                                                   \
    [FLAG_SOCKET] = KVN_FLAG_SOCKET, [FLAG_CONFIG] = KVN_FLAG_CONFIG,                  \
    [FLAG_SPACE] = KVN_FLAG_SPACE, [FLAG_TENANT] = KVN_FLAG_TENANT,                    \
    [FLAG_GROUP] = KVN_FLAG_GROUP, [FLAG_TOKENS] = KVN_FLAG_TOKENS,                    \
    [FLAG_KEY] = KVN_FLAG_KEY, [FLAG_PAGE] = KVN_FLAG_PAGE,                            \
    [FLAG_TAIL] = KVN_FLAG_TAIL,                                                       \
    [FLAG_TIMEOUT] = {"timeout-ms", "N", "of each batch (5000)"},                      \
    [FLAG_JSON] = {"json", NULL, "print JSON"}

static const struct kvn_flag put_flags[NR_FLAGS] = {
    SHARED_FLAGS,
    [FLAG_FILE] = {"in", "FILE", "the pages' bytes, one after another; -: stdin"},
};
static const struct kvn_flag get_flags[NR_FLAGS] = {
    SHARED_FLAGS,
    [FLAG_FILE] = {"out", "FILE", "for the pages' bytes; -: stdout, without a table"},
};

static const struct kvn_cli put_cli = {
    .verb = "put",
    .summary =
        "Writes pages to a node of this machine: of a prefix of tokens, or one by an\n"
        "engine's own name. The file holds page_bytes for each full page, and for a\n"
        "tail of n tokens page_bytes * n / page_tokens, rounded up to 256; no more\n"
        "and no less.\n\n"
        "exit status: 0 all pages are there now; 1 some are not; 2 wrong options.",
    .flags = put_flags,
    .nr_flags = NR_FLAGS,
};
static const struct kvn_cli get_cli = {
    .verb = "get",
    .summary =
        "Reads pages from a node of this machine, or through it from its peers, up to "
        "the\nfirst that is not to be had, and writes their bytes to a file.\n\n"
        "exit status: 0 all pages came; 1 some did not: the table says why; 2 wrong "
        "options.",
    .flags = get_flags,
    .nr_flags = NR_FLAGS,
};

struct run {
    const struct kvn_cli *cli;
    bool put, json;
    struct kvn_ask_where where;
    struct kvn_pages_options options;
    const char *path;
    FILE *file;
    struct kvn_pages pages;
    json_t *rows;
    uint64_t nr_good;
    char line[KVN_PAGES_LINE_BYTES];
};

/* ---- options --------------------------------------------------------------------- */

static bool take_flag(struct run *run, int flag, const char *value)
{
    switch ((enum flag)flag) {
    case FLAG_FILE:
        run->path = value;
        return true;
    case FLAG_JSON:
        run->json = true;
        return true;
    default:
        return kvn_pages_flag(run->cli, flag, value, &run->where, &run->options);
    }
}

static int parse(struct run *run, int argc, char **argv, bool *done_p)
{
    const char *value = NULL;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(run->cli, argc, argv, &value)) >= 0) {
        if (!take_flag(run, flag, value)) {
            return KVN_EXIT_USAGE;
        }
    }
    *done_p = flag == KVN_CLI_HELP;
    if (flag != KVN_CLI_END) {
        return *done_p ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    const char *name = run->cli->flags[FLAG_FILE].name;
    if (run->path == NULL) {
        return kvn_cli_refuse(run->cli, "--%s FILE is needed", name);
    }
    if (!run->put && run->json && strcmp(run->path, "-") == 0) {
        return kvn_cli_refuse(run->cli, "--json and --out -: both go to stdout");
    }
    if (run->put && run->options.tokens != NULL && strcmp(run->path, "-") == 0
        && strcmp(run->options.tokens, "-") == 0) {
        return kvn_cli_refuse(run->cli, "--tokens - and --in -: both come from stdin");
    }
    return kvn_ask_where(run->cli, &run->where);
}

/* ---- bytes ----------------------------------------------------------------------- */

static int failed(const struct run *run, const char *what)
{
    (void)kvn_cli_refuse(run->cli, "%s: %s", run->path, what);
    return KVN_EXIT_FAILED;
}

static uint8_t *slot(const struct run *run, size_t s)
{
    return (uint8_t *)run->pages.buffer.base + s * run->pages.space.page_bytes;
}

/* The file has not the bytes that the pages need. */
static int wrong_length(const struct run *run)
{
    return kvn_cli_refuse(
        run->cli, "--in: %s has %s than the %zu bytes of %zu pages", run->path,
        feof(run->file) ? "less" : "more", kvn_pages_bytes(&run->pages),
        run->pages.until - run->pages.from);
}

static int fill(struct run *run, size_t first, size_t n)
{
    for (size_t s = 0; s < n; s++) {
        const size_t len = kvn_pages_len(&run->pages, first + s);
        if (fread(slot(run, s), 1, len, run->file) != len) {
            return ferror(run->file) ? failed(run, strerror(errno)) : wrong_length(run);
        }
    }
    return KVN_EXIT_OK;
}

/* Before anything is put: a file that can be measured is measured. */
static int measure(struct run *run)
{
    if (fseek(run->file, 0, SEEK_END) != 0) {
        return KVN_EXIT_OK; /* a pipe: noticed when it is over */
    }
    const long len = ftell(run->file);
    rewind(run->file);
    if (len >= 0 && (size_t)len != kvn_pages_bytes(&run->pages)) {
        return kvn_cli_refuse(
            run->cli, "--in: %s has %ld bytes, %zu pages have %zu", run->path, len,
            run->pages.until - run->pages.from, kvn_pages_bytes(&run->pages));
    }
    return KVN_EXIT_OK;
}

/* Opened with the first page that came: a miss leaves no empty file behind. */
static int keep(struct run *run, size_t page, size_t s)
{
    if (run->file == NULL) {
        const bool standard = strcmp(run->path, "-") == 0;
        run->file = standard ? stdout : fopen(run->path, "we");
        if (run->file == NULL) {
            return failed(run, strerror(errno));
        }
    }
    const size_t len = kvn_pages_len(&run->pages, page);
    return fwrite(slot(run, s), 1, len, run->file) == len
               ? KVN_EXIT_OK
               : failed(run, strerror(errno));
}

/* ---- running --------------------------------------------------------------------- */

/* What came of pages first … first + n - 1; *stop_p: a GET has met a miss. */
static int take(
    struct run *run, const struct kvr_result *result, size_t first, size_t n,
    bool *stop_p)
{
    for (size_t s = 0; s < n; s++) {
        const int status = result->statuses[s];
        const bool good = status == KVR_OK || (run->put && status == KVR_EXISTS);
        json_array_append_new(
            run->rows,
            kvn_pages_row(
                &run->pages, first + s, status, result->places[s], result->reasons[s]));
        *stop_p = *stop_p || (!good && !run->put);
        run->nr_good += good && !*stop_p;
        if (good && !run->put && !*stop_p) {
            const int exit_code = keep(run, first + s, s);
            if (exit_code != KVN_EXIT_OK) {
                return exit_code;
            }
        }
    }
    return KVN_EXIT_OK;
}

static int move(struct run *run)
{
    struct kvn_pages *pages = &run->pages;
    kv_status_t status = kvn_pages_buffer(pages, run->line, sizeof(run->line));
    bool stop = false;
    for (size_t at = pages->from; at < pages->until && status == KV_OK && !stop;) {
        const size_t left = pages->until - at;
        const size_t n = left < pages->window ? left : pages->window;
        struct kvr_result result;
        int exit_code = run->put ? fill(run, at, n) : KVN_EXIT_OK;
        if (exit_code == KVN_EXIT_OK) {
            status = kvn_pages_batch(
                pages, run->put ? KVR_OP_PUT : KVR_OP_GET, at, n, &result, run->line,
                sizeof(run->line));
        }
        if (exit_code == KVN_EXIT_OK && status == KV_OK) {
            exit_code = take(run, &result, at, n, &stop);
        }
        if (exit_code != KVN_EXIT_OK) {
            return exit_code;
        }
        at += n;
    }
    if (status != KV_OK) {
        return kvn_ask_failed(run->cli, status, run->line);
    }
    return run->put && getc(run->file) != EOF ? wrong_length(run) : KVN_EXIT_OK;
}

static void print_table(const struct run *run)
{
    size_t i;
    json_t *row;
    printf(
        "%8s  %-16s  %8s %10s  %s\n", "page", "key", "tokens", "bytes",
        run->put ? "status" : "status  from, or why not");
    json_array_foreach(run->rows, i, row)
    {
        const bool missed = json_object_get(row, "reason") != NULL;
        printf(
            "%8" PRIu64 "  %.16s  %8" PRIu64 " %10" PRIu64 "  %-*s%s\n",
            kvn_ask_number(row, "page"), kvn_ask_text(row, "key"),
            kvn_ask_number(row, "tokens"), kvn_ask_number(row, "bytes"),
            run->put ? 0 : 8, kvn_ask_text(row, "status"),
            run->put ? "" : kvn_ask_text(row, missed ? "reason" : "place"));
    }
}

static int report(struct run *run)
{
    const size_t nr = run->pages.until - run->pages.from;
    if (run->json) {
        json_t *root = json_object();
        json_object_set_new(root, "space", json_string(run->options.space));
        json_object_set_new(root, "tenant", kvn_json_uint(run->options.tenant));
        json_object_set_new(root, "group", kvn_json_uint(run->options.group));
        json_object_set_new(root, "wanted", kvn_json_uint(nr));
        json_object_set_new(root, "good", kvn_json_uint(run->nr_good));
        json_object_set(root, "pages", run->rows);
        if (kvn_report_json(root, NULL) != KVN_EXIT_OK) {
            return KVN_EXIT_FAILED;
        }
    } else if (run->put || strcmp(run->path, "-") != 0) {
        print_table(run);
    }
    return run->nr_good == nr ? KVN_EXIT_OK : KVN_EXIT_FAILED;
}

static int run_open(struct run *run)
{
    run->options.socket = run->where.path;
    const kv_status_t status =
        kvn_pages_open(&run->options, &run->pages, run->line, sizeof(run->line));
    if (status != KV_OK) {
        return kvn_ask_failed(run->cli, status, run->line);
    }
    int exit_code = KVN_EXIT_OK;
    if (run->put) {
        run->file = strcmp(run->path, "-") == 0 ? stdin : fopen(run->path, "re");
        exit_code =
            run->file == NULL
                ? kvn_cli_refuse(run->cli, "--in: %s: %s", run->path, strerror(errno))
                : measure(run);
    }
    run->rows = json_array();
    if (exit_code == KVN_EXIT_OK) {
        exit_code = move(run);
    }
    if (run->file != NULL && run->file != stdin
        && (run->file == stdout ? fflush(run->file) : fclose(run->file)) != 0
        && exit_code == KVN_EXIT_OK) {
        exit_code = failed(run, strerror(errno));
    }
    exit_code = exit_code == KVN_EXIT_OK ? report(run) : exit_code;
    json_decref(run->rows);
    kvn_pages_close(&run->pages);
    return exit_code;
}

static int verb(const struct kvn_cli *cli, bool put, int argc, char **argv)
{
    struct run run = {
        .cli = cli,
        .put = put,
        .options =
            {
                .tenant = UINT64_MAX,
                .page = KVN_PAGES_ALL,
                .timeout_ms = KVN_PAGES_TIMEOUT_MS,
            },
    };
    bool done = false;
    const int exit_code = parse(&run, argc, argv, &done);
    return exit_code != KVN_EXIT_OK || done ? exit_code : run_open(&run);
}

int kvn_verb_put(int argc, char **argv)
{
    return verb(&put_cli, true, argc, argv);
}

int kvn_verb_get(int argc, char **argv)
{
    return verb(&get_cli, false, argc, argv);
}
