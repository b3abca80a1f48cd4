#include "node/daemon/doctor.h"

#include "base/mem.h"
#include "node/ask.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

extern char **environ;

enum flag { FLAG_CONFIG, FLAG_SET, FLAG_SOCKET, FLAG_TIMEOUT, FLAG_JSON, NR_FLAGS };
enum { SETS_MAX = 64, TIMEOUT_MS = 2000 };

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_CONFIG] =
        {"config", "FILE", "the configuration that kvraild is to start with"},
    [FLAG_SET] = {"set", "SECTION.KEY=VALUE", "as for kvraild (again and again)"},
    [FLAG_SOCKET] = {"socket", "PATH", "of a running node (listen.unix of --config)"},
    [FLAG_TIMEOUT] = {"timeout-ms", "N", "for all members together, and a node (2000)"},
    [FLAG_JSON] = {"json", NULL, "print JSON"},
};

static const struct kvn_cli cli = {
    .verb = "doctor",
    .summary =
        "Checks this machine, and with --config whether a node could start here with\n"
        "it: memory, limits, credentials, socket, ports, the other members. Starts\n"
        "nothing and changes nothing; each member's port is connected to, and closed\n"
        "again. Limits are those of this shell: a service has its own.\n\n"
        "exit status: 0 all is well; 3 something is to be known (warn); 1 something\n"
        "is to be done (fail); 2 wrong options.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

static const char *const levels[KVN_DOCTOR_NR_LEVELS] = {
    [KVN_DOCTOR_OK] = "ok",
    [KVN_DOCTOR_NOTE] = "note",
    [KVN_DOCTOR_WARN] = "warn",
    [KVN_DOCTOR_FAIL] = "fail",
};

void kvn_doctor_say(
    struct kvn_doctor *doctor, enum kvn_doctor_level level, const char *area,
    const char *todo, const char *what, ...)
{
    doctor->worst = level > doctor->worst ? level : doctor->worst;
    if (doctor->nr == KVN_DOCTOR_ROWS_MAX) {
        doctor->nr_lost++;
        return;
    }
    struct kvn_doctor_row *row = &doctor->rows[doctor->nr++];
    va_list args;
    row->level = level;
    row->area = area;
    va_start(args, what);
    (void)vsnprintf(row->what, sizeof(row->what), what, args);
    va_end(args);
    (void)snprintf(row->todo, sizeof(row->todo), "%s", todo != NULL ? todo : "");
}

/* ---- a running node -------------------------------------------------------------- */

static void say_node(struct kvn_doctor *doctor, const json_t *r)
{
    char uptime[KVN_TEXT_BYTES], worst[KVN_TEXT_BYTES];
    const uint64_t up = kvn_ask_number(r, "links.up");
    const uint64_t of = kvn_ask_number(r, "links.of");
    const uint64_t lag_us = kvn_ask_number(r, "loop.lag_worst_us");
    const uint64_t bad = kvn_ask_number(r, "verify.failed_here")
                         + kvn_ask_number(r, "verify.failed_arriving");
    kvn_doctor_say(
        doctor, KVN_DOCTOR_OK, "node", NULL,
        "node %" PRIu64 " of \"%s\" answers, up for %s", kvn_ask_number(r, "node"),
        kvn_ask_text(r, "cluster"),
        kvn_text_time(kvn_ask_number(r, "uptime_us"), uptime));
    kvn_doctor_say(
        doctor, up == of ? KVN_DOCTOR_OK : KVN_DOCTOR_WARN, "node",
        up == of ? NULL : "kvrail peers says which are down, and since when",
        "%" PRIu64 " of %" PRIu64 " links are up", up, of);
    kvn_doctor_say(
        doctor, lag_us < 1000000 ? KVN_DOCTOR_OK : KVN_DOCTOR_WARN, "node",
        lag_us < 1000000 ? NULL : "look for swapping, stopped processes, busy cores",
        "its loop was late by %s at worst", kvn_text_time(lag_us, worst));
    kvn_doctor_say(
        doctor, bad == 0 ? KVN_DOCTOR_OK : KVN_DOCTOR_WARN, "node",
        bad == 0 ? NULL
                 : "no wrong byte was given out; test the memory and the network",
        "%" PRIu64 " pages did not match their digest", bad);
}

void kvn_doctor_node(struct kvn_doctor *doctor)
{
    char line[KVN_ASK_LINE_BYTES];
    json_t *report = NULL;
    if (doctor->socket == NULL || doctor->socket[0] == '\0') {
        return;
    }
    const struct kvn_ask ask = {
        .socket = doctor->socket,
        .timeout_us = doctor->timeout_us,
        .record = {.what = KVN_ASK_STATUS},
    };
    const kv_status_t status = kvn_ask(&ask, &report, line, sizeof(line));
    doctor->running = status != KV_ERR_LINK_LOST && status != KV_ERR_CONFIG;
    if (status == KV_OK) {
        say_node(doctor, report);
        json_decref(report);
    } else if (!doctor->running) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_NOTE, "node", NULL, "none runs at %.200s",
            doctor->socket);
    } else if (status == KV_ERR_DENIED) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_NOTE, "node", "be its user, or root, to ask it",
            "one runs at %.200s, of another user", doctor->socket);
    } else {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_FAIL, "node",
            "look at its log; kill -ABRT makes it leave a core to look at", "%s", line);
    }
}

/* ---- the verb -------------------------------------------------------------------- */

static void print_table(const struct kvn_doctor *doctor)
{
    for (unsigned i = 0; i < doctor->nr; i++) {
        const struct kvn_doctor_row *row = &doctor->rows[i];
        printf(
            "%-5s %-12s %s%s%s\n", levels[row->level], row->area, row->what,
            row->todo[0] != '\0' ? ": " : "", row->todo);
    }
    if (doctor->nr_lost > 0) {
        printf("… and %u more\n", doctor->nr_lost);
    }
}

static int print_json(const struct kvn_doctor *doctor)
{
    json_t *root = json_object(), *rows = json_array();
    for (unsigned i = 0; i < doctor->nr; i++) {
        const struct kvn_doctor_row *row = &doctor->rows[i];
        json_t *one = json_object();
        json_object_set_new(one, "level", json_string(levels[row->level]));
        json_object_set_new(one, "area", json_string(row->area));
        json_object_set_new(one, "what", json_string(row->what));
        json_object_set_new(
            one, "do", row->todo[0] != '\0' ? json_string(row->todo) : json_null());
        json_array_append_new(rows, one);
    }
    json_object_set_new(root, "worst", json_string(levels[doctor->worst]));
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "more", kvn_json_uint(doctor->nr_lost));
    return kvn_report_json(root, NULL);
}

/* The configuration, or its mistakes as rows. */
static struct kvn_config *
load(struct kvn_doctor *doctor, const struct kvn_config_source *source)
{
    struct kvn_config_errors *errors = kv_calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    if (errors == NULL) {
        kvn_doctor_say(doctor, KVN_DOCTOR_FAIL, "config", NULL, "out of memory");
        return NULL;
    }
    (void)kvn_config_load(source, &config, errors);
    for (unsigned i = 0; i < errors->nr && i < KVN_CONFIG_ERRORS_MAX; i++) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_FAIL, "config", NULL, "%.*s", KVN_DOCTOR_TEXT_BYTES - 1,
            errors->lines[i]);
    }
    kv_free(errors);
    return config;
}

static int
examine(struct kvn_doctor *doctor, const struct kvn_config_source *source, bool json)
{
    struct kvn_config *config = NULL;
    if (source->path != NULL) {
        config = load(doctor, source);
        doctor->config = config;
    }
    if (config != NULL && doctor->socket == NULL) {
        doctor->socket = config->unix_path;
    }
    kvn_doctor_node(doctor);
    kvn_doctor_machine(doctor);
    if (config != NULL) {
        kvn_doctor_config(doctor);
        kvn_doctor_members(doctor);
    } else if (source->path == NULL) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_NOTE, "config", "--config FILE checks one, too",
            "none was given");
    }
    int exit_code = KVN_EXIT_OK;
    if (json) {
        exit_code = print_json(doctor);
    } else {
        print_table(doctor);
        exit_code = fflush(stdout) == 0 ? KVN_EXIT_OK : KVN_EXIT_FAILED;
    }
    kvn_config_free(config);
    if (exit_code != KVN_EXIT_OK || doctor->worst == KVN_DOCTOR_FAIL) {
        return KVN_EXIT_FAILED;
    }
    return doctor->worst == KVN_DOCTOR_WARN ? KVN_EXIT_WARNED : KVN_EXIT_OK;
}

int kvn_verb_doctor(int argc, char **argv)
{
    const char *sets[SETS_MAX], *socket = NULL, *value;
    struct kvn_config_source source = {
        .sets = sets, .env = (const char *const *)environ};
    uint64_t timeout_ms = TIMEOUT_MS;
    bool json = false;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        if (flag == FLAG_SET && source.nr_sets == SETS_MAX) {
            return kvn_cli_refuse(&cli, "--set: more than %d times", SETS_MAX);
        }
        if (flag == FLAG_SET) {
            sets[source.nr_sets++] = value;
        }
        if (flag == FLAG_TIMEOUT
            && !kvn_cli_number(&cli, "timeout-ms", value, 1, 60000, &timeout_ms)) {
            return KVN_EXIT_USAGE;
        }
        source.path = flag == FLAG_CONFIG ? value : source.path;
        socket = flag == FLAG_SOCKET ? value : socket;
        json = json || flag == FLAG_JSON;
    }
    if (flag != KVN_CLI_END) {
        return flag == KVN_CLI_HELP ? KVN_EXIT_OK : KVN_EXIT_USAGE;
    }
    struct kvn_doctor *doctor = kv_calloc(1, sizeof(*doctor));
    if (doctor == NULL) {
        (void)kvn_cli_refuse(&cli, "out of memory");
        return KVN_EXIT_FAILED;
    }
    doctor->root = "";
    doctor->self = KVC_NO_NODE;
    doctor->socket = socket;
    doctor->timeout_us = timeout_ms * 1000;
    const int exit_code = examine(doctor, &source, json);
    kv_free(doctor);
    return exit_code;
}
