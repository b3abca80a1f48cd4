/* Programs that we start beside us: nodes, and the tools that we compare with.
 *
 *   kvn_child_start ──► runs ──► kvn_child_wait, kvn_child_stop ──► reaped
 *
 * A child dies with the thread that started it, whatever ends that; it is in a process
 * group of its own, so that a terminal's Ctrl-C comes to us alone, and we stop it.
 *
 * Threading: one thread starts a child and waits for it. Ownership: every child that
 * was started is stopped or waited for by the caller. Units: milliseconds. Errors:
 * KV_ERR_IO, and errno.
 */
#ifndef KVN_CHILD_H
#define KVN_CHILD_H

#include "base/status.h"

#include <stddef.h>
#include <sys/types.h>

enum {
    KVN_CHILD_RUNS = -1,
    KVN_CHILD_LOST = 255,     /* its status is not to be had */
    KVN_CHILD_KILL_MS = 5000, /* SIGKILL needs no longer */
};

struct kvn_child {
    pid_t pid; /* 0: none, or reaped */
};

/* Of a program in $PATH; false when there is none. */
bool kvn_child_find(const char *name, char *path, size_t cap);

/* argv[0] is a path. Standard output and error go to `out`, a descriptor. */
kv_status_t kvn_child_start(struct kvn_child *child, const char *const *argv, int out);
/* Its exit status, 128 and its signal, or KVN_CHILD_RUNS after `ms` of waiting. */
int kvn_child_wait(struct kvn_child *child, unsigned ms);
/* SIGTERM, and SIGKILL after `ms`; its status as above. A child that has ended, or was
 * never started, is fine. */
int kvn_child_stop(struct kvn_child *child, unsigned ms);

/* A port of 127.0.0.1 that nobody has at this moment; 0: none. */
unsigned kvn_child_free_port(void);

#endif
