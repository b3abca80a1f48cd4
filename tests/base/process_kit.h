/* What a process holds, for tests that must leave it as it was: what kv_calloc() gave,
 * descriptors and threads.
 *
 *   held = process_kit_held() ──► what is tested ──► process_kit_expect_held(&held)
 *
 * What libraries keep for ever is in the numbers: let them do their work once before
 * the first look.
 *
 * Threading: any thread; threads that come and go meanwhile are in the numbers.
 * Ownership: nothing is held. Units: allocations,
 * descriptors, threads. Errors: the test fails, and says both numbers.
 */
#ifndef KV_TEST_PROCESS_KIT_H
#define KV_TEST_PROCESS_KIT_H

#include <stdint.h>

/* A thread that was joined stays in /proc/self/task for a moment. */
enum { PROCESS_KIT_PATIENCE_MS = 1000 };

/* Descriptors and threads now, by the entries of their folders of /proc: a constant
 * more than there are, to be compared with each other. */
unsigned process_kit_fds(void);
unsigned process_kit_threads(void);

struct process_kit_held {
    int64_t live; /* kv_mem_live() */
    unsigned fds, threads;
};
struct process_kit_held process_kit_held(void);
/* Neither more nor fewer; waits for threads alone, PROCESS_KIT_PATIENCE_MS. */
void process_kit_expect_held(const struct process_kit_held *before);

#endif
