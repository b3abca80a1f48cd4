/* A node on a thread of its own, in a process that has other things to do.
 *
 *   kvn_host_create(config) ──► thread: loop, kvn_node_embed() ──► running
 *   kvn_host_adopt(socket) ──► waiting ──► door (uv_async) ──► kvn_node_adopt()
 *   kvn_host_stop() ─────────────────────► door ──► kvn_node_stop() ──► ended
 *
 * Nothing of the process is touched: the thread, and all that the node begins, block
 * every signal, so that none is taken from the process's own threads, and a pipe or a
 * file that takes no more is a write that failed. The log is the process's, and the
 * caller's to start and stop around all hosts.
 *
 * Threading: any thread; all calls about one host come in turn, but for adopt and stop.
 * A lock guards what passes between threads; nobody holds it over a system call that
 * may wait. Ownership: a host takes its config over, and descriptors given to adopt.
 * Units: microseconds. Errors: as of kvn_node_start().
 */
#ifndef KVN_HOST_H
#define KVN_HOST_H

#include "node/config.h"

enum {
    KVN_HOST_LINE_BYTES = 512,
    KVN_HOST_WAITING_MAX = 64, /* sockets that the loop has not taken yet */
};

typedef struct kvn_host kvn_host_t;

/* NOMEM: no memory, or no thread. Frees the config when it fails, too. */
kv_status_t kvn_host_create(struct kvn_config *config, kvn_host_t **host_p);
/* Waits at most wait_us for the end of the start: OK, and the node runs; DEADLINE; or
 * why not, with `line` (cap >= KVN_HOST_LINE_BYTES). Then only kvn_host_free() is left.
 */
kv_status_t kvn_host_await(kvn_host_t *host, uint64_t wait_us, char *line, size_t cap);
/* One end of a SEQPACKET socket pair, as for kvn_local_adopt(); closed when it fails.
 * AGAIN: KVN_HOST_WAITING_MAX. LINK_LOST: it stops. */
kv_status_t kvn_host_adopt(kvn_host_t *host, int fd);
void kvn_host_stop(kvn_host_t *host); /* does not wait; again and again is fine */
/* Waits at most wait_us for its end: true, and nothing of it is left but its memory. */
bool kvn_host_ended(kvn_host_t *host, uint64_t wait_us);
/* Stops it and waits at most wait_us. True: it is gone. False: it goes on ending by
 * itself, and calls ended(arg) from its own thread as the last thing it does; what it
 * waits for is the system's resolver of names, which nobody can hurry. */
bool kvn_host_free(
    kvn_host_t *host, uint64_t wait_us, void (*ended)(void *arg), void *arg);

#endif
