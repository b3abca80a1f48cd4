/* A node for tests of its clients: a real node/core behind a real socket, its loop in a
 * thread of its own. Orders wait in a list; the loop carries them out, bytes and all.
 *
 *   test ── libkvrail ──► socket, rings ──► kvn_local ──► kvo_node
 *   test ── lk_do(fn) ──► fn runs on the loop thread
 *
 * Threading: lk_* by the test's thread; struct lk is the loop's between lk_start() and
 * lk_stop(), but for `path`. Ownership: lk_stop() takes down what lk_init() and
 * lk_start() made; clients are the caller's. Units: bytes, microseconds. Errors:
 * asserts that work on any thread: the process ends; lk_client_at() and lk_engine_at()
 * give NULL, and why is on stderr; lk_batch() and lk_submit() the status of libkvrail.
 */
#ifndef TESTS_NODE_LOCAL_KIT_H
#define TESTS_NODE_LOCAL_KIT_H

#include "include/kvrail/kvrail.h"
#include "node/daemon/local.h"
#include "node/daemon/memory.h"

#include <pthread.h>
#include <semaphore.h>

enum {
    LK_PAGE_BYTES = 1024,
    LK_PAGE_TOKENS = 8,
    LK_DEVICE_FRAMES = 16,
    LK_HOST_FRAMES = 2048,
    LK_FRAMES = LK_DEVICE_FRAMES + LK_HOST_FRAMES,
    LK_FILL_FRAMES = 64, /* of the fill arena, see lk_init_fill() */
    LK_ORDERS = 32768,
    LK_TENANT = 10,  /* of this uid */
    LK_FOREIGN = 20, /* of another uid */
    LK_LATER_US = 20 * 1000 * 1000,
    LK_HELD_MS = 2000,         /* lk_await_held() */
    LK_BUFFER_BYTES = 8 << 20, /* of a client */
};

struct lk_move {
    enum kvo_order_kind kind;
    uint64_t id;
    uint8_t *frame, *client; /* client: NULL when there were no such bytes */
    uint64_t hold;
    uint32_t len;
};

struct lk {
    char dir[64], path[108];
    /* To be changed before lk_start(). */
    struct kvo_config config;
    struct kvn_local_config local_config;
    struct kvn_local_tenant tenants[2];
    struct kvn_local_space spaces[2];

    struct kvn_local_arena arenas[KVP_POOLS_MAX];
    enum kvn_memory_mode modes[KVP_POOLS_MAX];

    struct kvc_view view;
    kvn_memory_t *memory;
    uv_loop_t loop;
    uv_async_t call;
    uv_timer_t tick;
    uv_idle_t mover;
    pthread_t thread;
    kvo_node_t *node;
    kvn_local_t *local;
    bool stuck;    /* client copies wait */
    uint32_t held; /* local orders of these kinds wait: bit enum kvp_order_kind */
    bool closing, closed;
    struct lk_move *moves;
    struct kvp_order *locals;
    uint32_t nr_moves, nr_locals;
    char note[KVN_LOCAL_NOTE_MAX];

    void (*fn)(struct lk *lk, void *arg);
    void *arg;
    sem_t done;
};

/* A node of 8 clients, tenants LK_TENANT and LK_FOREIGN, spaces "chat" (two groups) and
 * "code"; loop polls for 200 µs. */
void lk_init(struct lk *lk);
/* … where LK_TENANT has a domain of its own, LK_FILL_FRAMES of whose device its clients
 * fill in place, and LK_FOREIGN is of this uid too, without that. */
void lk_init_fill(struct lk *lk);
void lk_start(struct lk *lk);
/* Ends the clients' side: hang-ups, and no socket any more. lk_stop() does it too. */
void lk_close_local(struct lk *lk);
/* Checks everything, ends the thread; no socket, mapping or memory may be left. */
void lk_stop(struct lk *lk);
void lk_do(struct lk *lk, void (*fn)(struct lk *lk, void *arg), void *arg);
void lk_stuck(struct lk *lk, bool stuck);
void lk_hold(struct lk *lk, uint32_t kinds);
struct kvn_local_counts lk_counts(struct lk *lk);
/* Frames in this state, all pools. */
uint32_t lk_frames(struct lk *lk, enum kvp_frame_state state);
/* Until `counts` says so many clients and mappings; at most some seconds. */
void lk_await(struct lk *lk, uint32_t clients, uint32_t mapped);
void lk_note(struct lk *lk, char line[KVN_LOCAL_NOTE_MAX]);

/* Mappings of memfds of ours. */
unsigned lk_maps(void);
/* What this process, which has node and clients, holds; and that it is the same again,
 * soon: the node's handles of a connection close after the client's. */
struct lk_held {
    unsigned fds, maps;
    int64_t live; /* kv_mem_live() */
};
struct lk_held lk_held(void);
void lk_await_held(const struct lk_held *before);

kvr_client_t *lk_client(struct lk *lk);
kvr_client_t *lk_client_at(const char *path, uint32_t ring_bytes);
/* At the pager level. */
kvr_client_t *lk_engine_at(const char *path, uint32_t ring_bytes);
struct kvr_key lk_key(uint64_t number);
/* Bytes that only this page has. */
void lk_page(uint8_t *to, uint64_t number);
/* Keys first … first + n - 1, loose, page i at buffer offset (at + i) pages; one batch
 * and its result. Statuses are copied to `statuses` (may be NULL). */
kvr_status_t lk_batch(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    uint32_t at, int32_t *statuses);
kvr_status_t lk_submit(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    uint32_t at, uint64_t tag, uint64_t timeout_us);

#endif
