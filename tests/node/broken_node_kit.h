/* A node's side of the Unix socket as far as ATTACHED, for tests of libkvrail: from
 * then on the test plays it, and keeps to no rule.
 *
 * Threading: broken_node_open() has a thread of its own, which ends with it.
 * Ownership: broken_node_close() takes down what open made, client included. Units:
 * bytes. Errors: the test fails.
 */
#ifndef TESTS_NODE_BROKEN_NODE_KIT_H
#define TESTS_NODE_BROKEN_NODE_KIT_H

#include "include/kvrail/kvrail.h"
#include "node/ring.h"

enum {
    BN_RING_BYTES = KVN_RING_BYTES_MIN,
    BN_PAGE_BYTES = 256,
    BN_PAGE_TOKENS = 8,
    BN_BLOCKS = 16, /* of an arena */
};

/* What the client is given; zeroed: rings as they should be, and no arena. */
struct broken_node_offer {
    enum kvr_level level; /* that the client asks for */
    size_t rings_short;   /* bytes that the rings' memory lacks */
    uint16_t nr_arenas;   /* records; one at most is honest */
    uint32_t nr_fds;      /* of arenas; two at most */
    uint64_t said_bytes;  /* of the arena */
    uint64_t spin_us;     /* of the client's configuration */
};

struct broken_node {
    struct broken_node_offer offer;
    char dir[64], path[108];
    int listen_fd, fd; /* fd: -1 when the test has closed it */
    size_t bytes;      /* of the rings' memory */
    struct kvn_rings *rings;
    struct kvn_ring requests, answers;
    kvr_client_t *client; /* NULL unless OK */
};

/* What kvr_open() said. */
kvr_status_t
broken_node_open(struct broken_node *node, const struct broken_node_offer *offer);
void broken_node_close(struct broken_node *node);

#endif
