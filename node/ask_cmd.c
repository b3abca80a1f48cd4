/* Which node is asked, and the verbs that only ask and print. */
#include "node/ask.h"

#include "base/mem.h"
#include "node/config.h"
#include "node/report.h"
#include "node/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int socket_of_config(const struct kvn_cli *cli, struct kvn_ask_where *where)
{
    const struct kvn_config_source source = {
        .path = where->config, .env = (const char *const *)environ};
    struct kvn_config_errors *errors = kv_calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    if (errors == NULL) {
        return kvn_ask_failed(cli, KV_ERR_NOMEM, "out of memory");
    }
    const kv_status_t status = kvn_config_load(&source, &config, errors);
    kvn_config_errors_print(errors, stderr);
    kv_free(errors);
    if (status != KV_OK) {
        return KVN_EXIT_USAGE;
    }
    (void)snprintf(where->path, sizeof(where->path), "%s", config->unix_path);
    kvn_config_free(config);
    return where->path[0] != '\0'
               ? KVN_EXIT_OK
               : kvn_cli_refuse(
                   cli, "--config: %s has no listen.unix: give --socket",
                   where->config);
}

int kvn_ask_where(const struct kvn_cli *cli, struct kvn_ask_where *where)
{
    const char *from = where->socket;
    if (from == NULL && where->config != NULL) {
        return socket_of_config(cli, where);
    }
    if (from == NULL) {
        from = getenv("KVRAIL_LISTEN_UNIX");
    }
    if (from == NULL || from[0] == '\0') {
        return kvn_cli_refuse(
            cli, "which node? --socket PATH, --config FILE, or KVRAIL_LISTEN_UNIX");
    }
    if (strlen(from) >= sizeof(where->path)) {
        return kvn_cli_refuse(
            cli, "--socket: a path of %zu characters, the limit is 107", strlen(from));
    }
    (void)snprintf(where->path, sizeof(where->path), "%s", from);
    return KVN_EXIT_OK;
}

int kvn_ask_failed(const struct kvn_cli *cli, kv_status_t status, const char *line)
{
    (void)kvn_cli_refuse(cli, "%s", line);
    return status == KV_ERR_INVALID || status == KV_ERR_CONFIG ? KVN_EXIT_USAGE
                                                               : KVN_EXIT_FAILED;
}

/* ---- verbs that ask -------------------------------------------------------------- */

enum flag { FLAG_SOCKET, FLAG_CONFIG, FLAG_TIMEOUT, FLAG_JSON, NR_FLAGS };
_Static_assert((int)NR_FLAGS == (int)KVN_ASK_NR_FLAGS, "as many as the header says");

const struct kvn_flag kvn_ask_flags[KVN_ASK_NR_FLAGS] = {
    [FLAG_SOCKET] = KVN_FLAG_SOCKET,
    [FLAG_CONFIG] = KVN_FLAG_CONFIG,
    [FLAG_TIMEOUT] = {"timeout-ms", "N", "until an answer must be there (5000)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

int kvn_ask_verb(
    const struct kvn_cli *cli, int argc, char **argv, enum kvn_ask_what what,
    const char *list, void (*print)(const json_t *report))
{
    struct kvn_ask_where where = {0};
    struct kvn_ask ask = {.record = {.what = what}};
    char line[KVN_ASK_LINE_BYTES];
    uint64_t timeout_ms = KVN_ASK_TIMEOUT_US / 1000;
    bool json = false;
    const char *value;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(cli, argc, argv, &value)) >= 0) {
        where.socket = flag == FLAG_SOCKET ? value : where.socket;
        where.config = flag == FLAG_CONFIG ? value : where.config;
        json = json || flag == FLAG_JSON;
        if (flag == FLAG_TIMEOUT
            && !kvn_cli_number(cli, "timeout-ms", value, 1, 3600000, &timeout_ms)) {
            return KVN_EXIT_USAGE;
        }
    }
    if (flag != KVN_CLI_END) {
        return flag == KVN_CLI_HELP ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    const int exit_code = kvn_ask_where(cli, &where);
    if (exit_code != KVN_EXIT_OK) {
        return exit_code;
    }
    ask.socket = where.path;
    ask.timeout_us = timeout_ms * 1000;
    json_t *report = NULL;
    const kv_status_t status =
        list == NULL ? kvn_ask(&ask, &report, line, sizeof(line))
                     : kvn_ask_list(&ask, list, &report, line, sizeof(line));
    if (status != KV_OK) {
        return kvn_ask_failed(cli, status, line);
    }
    if (json) {
        return kvn_report_json(report, NULL);
    }
    print(report);
    json_decref(report);
    return fflush(stdout) == 0 ? KVN_EXIT_OK : KVN_EXIT_FAILED;
}

/* ---- reading a report ------------------------------------------------------------ */

uint64_t kvn_ask_number(const json_t *from, const char *path)
{
    char name[64];
    size_t len;
    for (; path[len = strcspn(path, ".")] != '\0'; path += len + 1) {
        (void)snprintf(name, sizeof(name), "%.*s", (int)len, path);
        from = json_object_get(from, name);
    }
    const json_int_t value = json_integer_value(json_object_get(from, path));
    return value > 0 ? (uint64_t)value : 0;
}

const char *kvn_ask_text(const json_t *from, const char *name)
{
    const char *text = json_string_value(json_object_get(from, name));
    return text != NULL ? text : "-";
}

bool kvn_ask_true(const json_t *from, const char *name)
{
    return json_is_true(json_object_get(from, name));
}
