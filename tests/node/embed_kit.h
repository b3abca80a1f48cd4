/* What the tests of nodes in the process of their engine share: configurations in one
 * folder, opening by "embed:FILE", and pages whose bytes follow from their number.
 *
 *   embed_config ──► FOLDER/a.conf ──► embed_settled ──► embed_open ──► kvr_close
 *                                      (the first node)  (the test's)
 *
 * Threading: the test's thread sets up and writes configurations; embed_open(),
 * embed_put() and embed_get*() run on any, and end the process where a test on its own
 * thread would fail. Ownership: clients are the caller's; embed_tear_down() takes the
 * folder away, and fails if a node left something there. Units: tokens, pages, bytes
 * as in local_kit.h. Errors: the test fails, but for embed_try().
 */
#ifndef TESTS_NODE_EMBED_KIT_H
#define TESTS_NODE_EMBED_KIT_H

#include "node/daemon/host.h"
#include "tests/base/process_kit.h"
#include "tests/node/cluster_kit.h"
#include "tests/node/local_kit.h"

enum {
    EMBED_FILLER = 11, /* the tenant whose engines fill in place; LK_TENANT's do not */
    EMBED_NOBODY = 12345, /* the uid that both tenants are given to: none of ours */
    EMBED_PAGES = 64,     /* of one embed_put(), embed_get() */
};

extern struct cluster_kit embed_nodes;

/* Of cmocka's groups. */
int embed_set_up(void **state);
int embed_tear_down(void **state);

const char *embed_path(const char *name); /* as cluster_kit_path() */
/* NAME in the folder: node `node` of `nr`; `more` are lines of sections of their own,
 * `odd` are of [log], or of a section in its place. Without `odd`: a small device, and
 * the log in node.log. */
void embed_config_odd(
    const char *name, unsigned nr, unsigned node, const char *odd, const char *more);
void embed_config(const char *name, unsigned nr, unsigned node, const char *more);
/* A node without kvr_open(): the caller's to free. Its log, to node.log, is begun
 * before, and ends by kv_log_stop(). */
kvn_host_t *embed_host(const char *name);
void embed_log_begin(void);

/* What kvr_open() says. */
kvr_status_t embed_try(
    const char *name, uint32_t tenant, enum kvr_level level, kvr_client_t **client_p,
    char *error, size_t cap);
kvr_client_t *embed_open(const char *name, uint32_t tenant, enum kvr_level level);
/* What the process holds once a first node has come and gone: OpenSSL and libuv keep
 * something for ever. */
struct process_kit_held embed_settled(const char *name);

/* Puts pages first … first + n - 1: each is there then. */
void embed_put(kvr_client_t *client, uint64_t first, uint32_t n);
/* How many of them it has; a byte of a hit that is wrong ends the test. *peers_p (may
 * be NULL): and of those that came from a peer. */
uint32_t
embed_get_from(kvr_client_t *client, uint64_t first, uint32_t n, uint32_t *peers_p);
uint32_t embed_get(kvr_client_t *client, uint64_t first, uint32_t n);

#endif
