/* A running node: node/core with a clock, sockets, memory and threads around it.
 *
 *   struct kvn_config ──► kvn_node_start() ──► node ──► uv_run() ──► kvn_node_stop()
 *
 * Start takes everything that the configuration asks for, or nothing: a busy port, too
 * little memory, a bad credential are one line each, and nothing is left behind. Stop
 * ends what is open in bounded time and says when all is gone.
 *
 * Threading: the loop thread. Ownership: the config must outlive the node, which is
 * gone with `stopped`. Units: bytes. Errors: CONFIG, IO, NOMEM or another status of
 * what could not be had, with one line.
 */
#ifndef KVN_NODE_H
#define KVN_NODE_H

#include "node/config.h"

#include <uv.h>

enum { KVN_NODE_LINE_BYTES = 512 };

typedef struct kvn_node kvn_node_t;

/* Starts the member config->self (the only member, when it is 0). `line`: what is
 * wrong, cap >= KVN_NODE_LINE_BYTES. After a failure run the loop until it has no more
 * handles. */
kv_status_t kvn_node_start(
    uv_loop_t *loop, const struct kvn_config *config, kvn_node_t **node_p, char *line,
    size_t cap);
/* As kvn_node_start(), in a process that is somebody else's: no limit of it is raised,
 * and clients of its own come by kvn_node_adopt(), also where the configuration has no
 * listen.unix. */
kv_status_t kvn_node_embed(
    uv_loop_t *loop, const struct kvn_config *config, kvn_node_t **node_p, char *line,
    size_t cap);
/* One end of a SEQPACKET socket pair, the node's from here on: kvn_local_adopt(). Of a
 * node that was embedded and not told to stop; from the loop alone. */
void kvn_node_adopt(kvn_node_t *node, int fd);
/* `stopped` comes from the loop when nothing of the node is left. */
void kvn_node_stop(kvn_node_t *node, void (*stopped)(void *arg), void *arg);

kvo_node_t *kvn_node_core(kvn_node_t *node); /* looking only */
/* Bytes of pages that came from peers by this transport: "loop"; 0 for one unknown. */
uint64_t kvn_node_read_bytes(const kvn_node_t *node, const char *transport);
uint32_t kvn_node_id(const kvn_node_t *node);
uint16_t kvn_node_port(const kvn_node_t *node);      /* of links; 0: none */
uint16_t kvn_node_http_port(const kvn_node_t *node); /* 0: none */

#endif
