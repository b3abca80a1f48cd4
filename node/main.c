/* kvrail VERB [options]: finds the verb and hands over. */
#include "base/option.h"
#include "node/verbs.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const struct verb {
    const char *name;
    const char *text;
    int (*run)(int argc, char **argv);
} verbs[] = {
#define X(name, text) {#name, text, kvn_verb_##name},
    KVN_VERBS(X)
#undef X
};

enum { NR_VERBS = sizeof(verbs) / sizeof(verbs[0]) };

static void help(FILE *file)
{
    fprintf(file, "usage: kvrail VERB [options]\n\nverbs:\n");
    for (unsigned i = 0; i < NR_VERBS; i++) {
        fprintf(file, "  %-12s  %s\n", verbs[i].name, verbs[i].text);
    }
    fprintf(file, "\nkvrail VERB --help lists a verb's options.\n");
}

static int unknown(const char *kind, const char *word)
{
    const char *names[NR_VERBS + 1];
    for (unsigned i = 0; i < NR_VERBS; i++) {
        names[i] = verbs[i].name;
    }
    names[NR_VERBS] = "--help";
    const char *nearest = kv_nearest(word, names, NR_VERBS + 1);
    fprintf(
        stderr, "kvrail: %s: no such %s%s%s%s\n", word, kind,
        nearest == NULL ? ", see --help" : ", did you mean ",
        nearest == NULL ? "" : nearest, nearest == NULL ? "" : "?");
    return KVN_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{.name = "help", .val = 'h'}, {0}};
    opterr = 0;
    int got = getopt_long(argc, argv, "+", options, NULL);
    if (got == 'h') {
        help(stdout);
        return KVN_EXIT_OK;
    }
    if (got != -1) {
        return unknown("option", argv[1]);
    }
    if (optind >= argc) {
        help(stderr);
        return KVN_EXIT_USAGE;
    }
    for (unsigned i = 0; i < NR_VERBS; i++) {
        if (strcmp(argv[optind], verbs[i].name) == 0) {
            return verbs[i].run(argc - optind, argv + optind);
        }
    }
    return unknown("verb", argv[optind]);
}
