/* Nodes that are nothing but their links, on one loop, over real sockets of 127.0.0.1;
 * and sockets that are no node at all.
 *
 *   lk_open ──► lk_node[] ──► UNTIL(condition) turns the loop ──► lk_close
 *
 * Every callback checks that it comes from the loop and not from inside a call, that
 * ups and downs come in pairs and that no number comes twice.
 *
 * Threading: one thread. Ownership: lk_close() gives all back and checks that it did;
 * sockets of lk_raw*() are the test's. Errors: the test fails; waits end after
 * LK_PATIENCE_MS, with the condition that never came; lk_try_open() and lk_send() give
 * a status.
 */
#ifndef TESTS_NODE_LINKS_KIT_H
#define TESTS_NODE_LINKS_KIT_H

#include "node/daemon/links.h"
#include "tests/node/cert_kit.h"

enum { LK_NODES_MAX = 3, LK_CONNS_MAX = 64, LK_FDS_MAX = 8 };
enum lk_kind { LK_CLEAR, LK_PSK, LK_CERT };

struct lk_conn {
    uint64_t number;
    uint32_t peer;
    bool up, dialled;
    uint64_t nr_frames, nr_bytes;
};

struct lk_node {
    uint32_t index; /* its id is index + 1 */
    kvn_tls_t *tls;
    kvn_links_t *links;
    struct lk_conn conns[LK_CONNS_MAX]; /* all that ever were */
    unsigned nr_conns, nr_up, nr_downs;
    unsigned nr_dials, nr_dial_ups, nr_dials_failed;
    int fds[LK_FDS_MAX];
    unsigned nr_fds;
    uint8_t last[64]; /* the first bytes of the last frame */
    bool closed;
    /* What to do inside a callback; NULL: nothing. */
    void (*on_up)(struct lk_node *node, uint64_t conn);
    void (*on_down)(struct lk_node *node, uint64_t conn);
    void (*on_frame)(struct lk_node *node, uint64_t conn, const uint8_t *, size_t);
};

struct lk_options {
    enum lk_kind kind;
    unsigned nr;
    uint64_t handshake_us, frame_us, queue_bytes; /* 0: generous */
    const char *hosts[LK_NODES_MAX];              /* NULL: 127.0.0.1 */
    kvn_tls_t *tls[LK_NODES_MAX]; /* instead of the kind's; the test's to free */
};

extern struct lk_node lk_nodes[LK_NODES_MAX];
extern uv_loop_t lk_loop;
extern struct cert_kit lk_certs;

int lk_setup(void **state); /* of the group: credentials */
int lk_teardown(void **state);

/* A statement of `nr` nodes that know each other; the status of the last open. */
kv_status_t lk_try_open(const struct lk_options *options);
void lk_open(const struct lk_options *options);
void lk_close(void);
void lk_close_node(struct lk_node *node); /* begins */

void lk_dial(unsigned from, unsigned to);
/* The newest link of `node` with `peer` that is up, or NULL. */
struct lk_conn *lk_link(unsigned node, unsigned peer);
void lk_link_up(unsigned from, unsigned to);
kv_status_t lk_send(unsigned node, uint64_t conn, const void *bytes, size_t len);
void lk_hang_up(unsigned node, uint64_t conn);

/* One turn of the loop, at most 5 ms. */
void lk_turn(void);
uint64_t lk_now_ms(void);
enum { LK_PATIENCE_MS = 20000 };
#define UNTIL(condition)                                                               \
    do {                                                                               \
        const uint64_t until_from_ = lk_now_ms();                                      \
        while (!(condition)) {                                                         \
            lk_turn();                                                                 \
            if (lk_now_ms() - until_from_ > LK_PATIENCE_MS) {                          \
                fail_msg("never: %s", #condition);                                     \
            }                                                                          \
        }                                                                              \
    } while (0)
void lk_run_ms(uint64_t ms);

/* At the address of a node whose links are closed: one that never says a word. */
void lk_listen(unsigned node);

/* A socket connected to the node's port: non-blocking. */
int lk_raw(unsigned node);
/* The same with hello of a clear link sent. */
int lk_raw_link(unsigned node, uint32_t id);
void lk_raw_send(int fd, const void *bytes, size_t len);
/* True once the other side has closed; takes what comes before. */
bool lk_raw_ended(int fd);

#endif
