/* For tests of node/: small files, the real traces where they are, and verbs run inside
 * the test with what they print.
 *
 * Threading: one thread: a verb's output is that of the process meanwhile. Ownership:
 * said at each function. Errors: the test fails, unless a function says otherwise.
 */
#ifndef TESTS_NODE_NODE_KIT_H
#define TESTS_NODE_NODE_KIT_H

#include <stdbool.h>
#include <stddef.h>

enum { NODE_KIT_PATH_BYTES = 512 };

/* A new file of these bytes, gzipped or as they are; node_kit_remove() when done. */
void node_kit_file(const char *bytes, size_t len, bool gzip, char *path);
void node_kit_remove(const char *path);

/* Path of a real trace ("mooncake/conversation_trace.jsonl") below $KVRAIL_TRACES, or
 * ../shared/traces. False, saying so, where it is not: the caller then skips. */
bool node_kit_trace(const char *name, char *path);

typedef int (*node_kit_verb)(int argc, char **argv);
struct node_kit_result {
    int exit_code;
    char out[8192];
    char err[2048];
};
/* Runs a verb on these words (the first is its name; NULL ends them). */
void node_kit_run(
    node_kit_verb verb, const char *const *words, struct node_kit_result *result);

#endif
