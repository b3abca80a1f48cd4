/* Options of one verb: a table gives parsing, --help and the nearest name.
 *
 *   argv ──► getopt_long ──► kvn_cli_next ──► index of the flag and its value
 *
 * Threading: the main thread, at start (getopt_long keeps its place in globals).
 * Errors: one line to stderr that names the option, the limit and the value.
 */
#ifndef KVN_CLI_H
#define KVN_CLI_H

#include <stdbool.h>
#include <stdint.h>

struct kvn_flag {
    const char *name;  /* without the dashes */
    const char *value; /* "FILE" in --help; NULL: a switch */
    const char *help;
};

struct kvn_cli {
    const char *verb;
    const char *summary; /* of --help, one line or a few */
    const struct kvn_flag *flags;
    unsigned nr_flags; /* <= KVN_CLI_FLAGS_MAX */
    bool program;      /* "kvraild …", not "kvrail kvraild …" */
    const char *word;  /* "KEY": words that are no options are taken; NULL: refused */
};

enum { KVN_CLI_FLAGS_MAX = 32 };
enum { KVN_CLI_END = -1, KVN_CLI_HELP = -2, KVN_CLI_BAD = -3 };

/* The next flag's index; nr_flags for a word that is no option; END; HELP (it is
 * printed: exit 0); BAD (the line is printed: exit 2). Start with kvn_cli_start(). A
 * word is BAD where the cli takes none. */
void kvn_cli_start(void);
int kvn_cli_next(
    const struct kvn_cli *cli, int argc, char **argv, const char **value_p);

/* A whole number from min to max, or false and a line on stderr. */
bool kvn_cli_number(
    const struct kvn_cli *cli, const char *flag, const char *text, uint64_t min,
    uint64_t max, uint64_t *value_p);

/* "kvrail VERB: …" as one line on stderr; returns KVN_EXIT_USAGE. */
int kvn_cli_refuse(const struct kvn_cli *cli, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
