/* A node of this process whose clients come by TLS, and clients of it: one node on a
 * loop in a thread of its own, tenants 7 (a key, and a certificate) and 9 (a
 * certificate), a space "chat" with pages of RK_PAGE bytes.
 *
 *   rk_setup ──► rk_node_start ──► rk_client_of ──► rk_batch ──► rk_node_stop
 *   (of the group: credentials)    (by TLS, or by the Unix socket)
 *
 * Threading: all calls by the test's thread; what they ask of the node is answered in
 * the node's own. Ownership: one node at a time, which rk_node_stop() takes down with
 * its configuration; clients are the caller's to close, before or after;
 * rk_teardown() takes the folder of credentials away. Units: bytes, microseconds; a
 * wait lasts RK_PATIENCE_US at most. Errors: the test fails, with the line that the
 * node or the client said; rk_open_as() alone gives a status.
 */
#ifndef TESTS_NODE_REMOTE_KIT_H
#define TESTS_NODE_REMOTE_KIT_H

#include "include/kvrail/kvrail.h"
#include "tests/node/cert_kit.h"

enum { RK_PAGE = 4096, RK_SEVEN = 7, RK_NINE = 9, RK_PATIENCE_US = 20000000 };

extern struct cert_kit rk_certs;

/* Of cmocka's groups. */
int rk_setup(void **state);
int rk_teardown(void **state);

/* Of the node's configuration, beside the rest; "" at first. */
extern const char *rk_extra;
/* With certificates or the cluster's key; takes clients of other hosts, or does not. */
void rk_node_start(bool certs, bool clients);
void rk_node_stop(void);
uint16_t rk_port(void);
/* In another process than the node's: where it is. */
void rk_node_is(const char *folder, uint16_t port);
/* What the node still holds: frames that somebody fills, reads, pins or may touch, and
 * requests; the core's invariants hold. A full pool keeps some frames ready to leave
 * (pager/leave.c): nobody has those. */
uint32_t rk_node_held(void);
uint32_t rk_node_clients(void);
/* Nothing is held, and so many clients are there; in time. */
void rk_await_rest(uint32_t clients);

/* `how`: NULL, by the Unix socket; a name with a dash, that pair of certificate and
 * key; else that file with a key. */
kvr_status_t
rk_open_as(uint32_t tenant, const char *how, kvr_client_t **client_p, char error[320]);
kvr_client_t *rk_client_of(uint32_t tenant, const char *how);
void rk_page_fill(uint8_t *to, uint64_t number);
struct kvr_key rk_key_of(uint64_t number);
/* One batch and its result: keys first … first + n - 1, loose, page i at i pages. */
void rk_batch(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    int32_t *statuses);
void rk_expect_all(const int32_t *statuses, uint32_t n, int32_t wanted);

#endif
