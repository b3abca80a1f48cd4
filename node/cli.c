#include "node/cli.h"

#include "base/assert.h"
#include "base/option.h"
#include "node/verbs.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { HELP_COLUMN = 24 };

int kvn_cli_refuse(const struct kvn_cli *cli, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s%s: ", cli->program ? "" : "kvrail ", cli->verb);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return KVN_EXIT_USAGE;
}

static void help_row(const char *name, const char *value, const char *text)
{
    char head[64];
    snprintf(
        head, sizeof(head), "--%s%s%s", name, value == NULL ? "" : " ",
        value == NULL ? "" : value);
    printf("  %-*s  %s\n", HELP_COLUMN, head, text);
}

static void help(const struct kvn_cli *cli)
{
    printf(
        "usage: %s%s [options]%s%s\n\n%s\n\noptions:\n", cli->program ? "" : "kvrail ",
        cli->verb, cli->word != NULL ? " " : "", cli->word != NULL ? cli->word : "",
        cli->summary);
    for (unsigned i = 0; i < cli->nr_flags; i++) {
        help_row(cli->flags[i].name, cli->flags[i].value, cli->flags[i].help);
    }
    help_row("help", NULL, "print this and exit");
}

/* "--pagse=5": unknown, or without its value, or with one it does not take. */
static void explain(const struct kvn_cli *cli, const char *word, int got)
{
    const char *names[KVN_CLI_FLAGS_MAX + 1];
    char name[64];
    if (got == ':') {
        kvn_cli_refuse(cli, "%s: needs a value", word);
        return;
    }
    size_t dashes = strspn(word, "-");
    snprintf(
        name, sizeof(name), "%.*s", (int)strcspn(word + dashes, "="), word + dashes);
    for (unsigned i = 0; i < cli->nr_flags; i++) {
        names[i] = cli->flags[i].name;
        if (strcmp(name, names[i]) == 0) {
            kvn_cli_refuse(cli, "--%s: takes no value", name);
            return;
        }
    }
    names[cli->nr_flags] = "help";
    const char *nearest = kv_nearest(name, names, cli->nr_flags + 1);
    kvn_cli_refuse(
        cli, "%s: no such option%s%s%s", word,
        nearest == NULL ? ", see --help" : ", did you mean --",
        nearest == NULL ? "" : nearest, nearest == NULL ? "" : "?");
}

void kvn_cli_start(void)
{
    optind = 0; /* glibc: begin anew, whatever another verb has parsed */
    opterr = 0;
}

int kvn_cli_next(const struct kvn_cli *cli, int argc, char **argv, const char **value_p)
{
    struct option table[KVN_CLI_FLAGS_MAX + 2];
    KV_ASSERT(cli->nr_flags <= KVN_CLI_FLAGS_MAX);
    memset(table, 0, sizeof(table));
    for (unsigned i = 0; i < cli->nr_flags; i++) {
        table[i].name = cli->flags[i].name;
        table[i].has_arg =
            cli->flags[i].value == NULL ? no_argument : required_argument;
        table[i].val = 0;
    }
    table[cli->nr_flags] = (struct option){.name = "help", .val = 0};

    int found = -1;
    int at = optind > 0 ? optind : 1;
    int got = getopt_long(argc, argv, "+:", table, &found);
    if (got == -1) {
        if (optind < argc && cli->word != NULL) {
            *value_p = argv[optind++];
            return (int)cli->nr_flags;
        }
        if (optind < argc) {
            kvn_cli_refuse(cli, "%s: is no option, see --help", argv[optind]);
            return KVN_CLI_BAD;
        }
        return KVN_CLI_END;
    }
    if (got != 0) {
        explain(cli, argv[at], got);
        return KVN_CLI_BAD;
    }
    if ((unsigned)found == cli->nr_flags) {
        help(cli);
        return KVN_CLI_HELP;
    }
    *value_p = optarg;
    return found;
}

bool kvn_cli_number(
    const struct kvn_cli *cli, const char *flag, const char *text, uint64_t min,
    uint64_t max, uint64_t *value_p)
{
    uint64_t value;
    if (kv_parse_uint(text, &value) != KV_OK) {
        kvn_cli_refuse(
            cli, "--%s: '%s' is not a whole number from %" PRIu64 " to %" PRIu64, flag,
            text, min, max);
        return false;
    }
    if (value < min) {
        kvn_cli_refuse(
            cli, "--%s: %" PRIu64 " is below the minimum %" PRIu64, flag, value, min);
        return false;
    }
    if (value > max) {
        kvn_cli_refuse(
            cli, "--%s: %" PRIu64 " is above the maximum %" PRIu64, flag, value, max);
        return false;
    }
    *value_p = value;
    return true;
}
