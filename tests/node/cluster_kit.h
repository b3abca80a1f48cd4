/* Whole nodes in the test's own process: a folder for their files, free ports for their
 * links, their configuration as a file, and each on a loop in a thread of its own.
 *
 *   cluster_kit_make ──► cluster_kit_write ──► cluster_kit_load ──► cluster_kit_start
 *                        (FOLDER/NAME)         (as kvraild would)        │
 *   test ── cluster_kit_do(fn) ──► fn runs in the node's thread          │
 *                                  cluster_kit_tell_stop ◄───────────────┘
 *                                  cluster_kit_join
 *
 * Threading: cluster_kit_* by the test's thread; cluster_kit_path() and
 * cluster_kit_write() by any. What `fn` looks at is the node's thread's.
 * Ownership: the folder and what is written there are the test's to remove; a
 * configuration is the caller's, kvn_config_free(), and outlives its nodes;
 * cluster_kit_join() takes back what cluster_kit_start() took.
 * Errors: the test fails, with the line that the operator would read.
 */
#ifndef TESTS_NODE_CLUSTER_KIT_H
#define TESTS_NODE_CLUSTER_KIT_H

#include "node/daemon/node.h"

#include <pthread.h>
#include <semaphore.h>

enum { CLUSTER_KIT_NODES = 4, CLUSTER_KIT_PATH_BYTES = 160 };

struct cluster_kit {
    char folder[64];
    uint16_t ports[CLUSTER_KIT_NODES]; /* of 127.0.0.1: node 1's, … */
};

/* A folder of mkdtemp(), and ports that were free a moment ago, no two the same. */
void cluster_kit_make(struct cluster_kit *kit);
/* FOLDER/NAME; one of 8 buffers of the thread that are used in turn. */
const char *cluster_kit_path(const struct cluster_kit *kit, const char *name);
/* FOLDER/NAME: this text, and then a section [node] for the first `nr` ports. */
void cluster_kit_write(
    const struct cluster_kit *kit, const char *name, unsigned nr, const char *format,
    ...) __attribute__((format(printf, 4, 5)));
struct kvn_config *cluster_kit_load(const char *path);

struct cluster_kit_node {
    uint16_t port; /* of links */
    /* The kit's. */
    kvn_node_t *node;
    uv_loop_t loop;
    uv_async_t call, stop;
    pthread_t thread;
    void (*fn)(kvn_node_t *node, void *arg);
    void *arg;
    sem_t done;
    bool stopped;
};

void cluster_kit_start(struct cluster_kit_node *node, const struct kvn_config *config);
/* Comes back when `fn` has; not of a node that was told to stop. */
void cluster_kit_do(
    struct cluster_kit_node *node, void (*fn)(kvn_node_t *node, void *arg), void *arg);
/* Comes back at once. */
void cluster_kit_tell_stop(struct cluster_kit_node *node);
/* Until a node that was told to stop has: nothing of it is left on its loop. */
void cluster_kit_join(struct cluster_kit_node *node);

#endif
