/* For tests of node/: small files, the real traces where they are, verbs run inside the
 * test with what they print, and what the process holds before and after.
 *
 * Threading: one thread. Ownership: said at each function.
 */
#ifndef TESTS_NODE_NODE_KIT_H
#define TESTS_NODE_NODE_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* What a service must leave as it found it: what kv_calloc() gave, descriptors and
 * threads of the process. */
struct node_kit_traces {
    int64_t live; /* kv_mem_live() */
    unsigned fds, threads;
};
struct node_kit_traces node_kit_traces(void);
/* Fails the test when there are more or fewer now; waits a little for threads, which
 * leave /proc/self/task a moment after they were joined. */
void node_kit_expect_traces(const struct node_kit_traces *before);

#endif
