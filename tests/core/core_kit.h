/* What the unit tests of node/core share: one node, no network, and memory small enough
 * to look at. Orders wait in a list until ck_pump() carries them out: bytes really
 * move, and digests are those of the bytes.
 *
 *   test ──ck_ask──► kvo_request ──► orders ──ck_pump──► kvo_complete, kvo_local_done
 *                        └── answer ──► struct ck, copied
 *   test ──ck_tell──► kvo_message, as node 2 ──► said[] ──ck_said──► test
 *                                    └── its orders ──► wire[] ──ck_wire──► test
 *
 * Threading: none. Ownership: ck_close() takes down what ck_open() made; memory, orders
 * and answers are in struct ck. Units: bytes, pages, microseconds of a clock that only
 * ck_tick() moves. Errors: the test fails, also for an order or a message that the node
 * should not have given; ck_create(), ck_ask() and ck_batch() give the node's status.
 */
#ifndef KV_TEST_CORE_KIT_H
#define KV_TEST_CORE_KIT_H

#include "node/core/core.h"

enum {
    CK_PAGE_BYTES = 256,
    CK_PAGE_TOKENS = 8,
    CK_DEVICE_FRAMES = 16,
    CK_HOST_FRAMES = 1024,
    CK_FRAMES = CK_DEVICE_FRAMES + CK_HOST_FRAMES,
    CK_CLIENT_PAGES = 2 * KVO_BATCH_KEYS_MAX,
    CK_LATER_US = 1000 * 1000, /* from now to the deadline of what may wait */
    CK_ORDERS = 4096,
    CK_SAID = 256,
    CK_SAID_BYTES = 2048, /* of one message */
    CK_PEER = 1,          /* node 2, by index: the peer that a test plays */
    CK_CONN = 100,        /* its first connection */
};

/* What the node said to the peer, encoded; or that it hung up (len 0). */
struct ck_said {
    uint64_t conn; /* 0: the data connection that the node opened */
    uint32_t type, len;
    uint8_t bytes[CK_SAID_BYTES];
};

/* A part of an order that concerns the peer: read, serve, fence. */
struct ck_wire {
    enum kvo_order_kind kind;
    uint64_t link, req;
    uint32_t data_gen;
    struct kvo_part part;
};

struct ck {
    struct kvc_view view;
    struct kvo_config config;
    kvo_node_t *node;
    uint64_t now_us;
    uint8_t frames[CK_FRAMES * CK_PAGE_BYTES]; /* of all pools, one after another */
    uint8_t buffer[CK_CLIENT_PAGES * CK_PAGE_BYTES]; /* of every client */

    struct kvp_order locals[CK_ORDERS]; /* not carried out yet, oldest first */
    struct {
        enum kvo_order_kind kind;
        struct kvo_part part;
    } moves[CK_ORDERS];
    uint32_t nr_locals, nr_moves, nr_answers, nr_dials, nr_switched;

    bool met; /* ck_connect() was called: messages and orders below are no fault */
    struct ck_said said[CK_SAID];
    struct ck_wire wire[CK_SAID];
    uint32_t nr_said, nr_wire;
    uint64_t link; /* of the peer's link, from HELLO_OK */
    uint64_t epoch;        /* of the peer's messages */
    uint64_t incarnation;  /* of the peer; and how its HELLO covers tenants: */
    uint32_t nr_tenants;
    uint64_t stream;       /* its stream to the node: number of the last message */
    uint8_t nonce[KV_NONCE_BYTES];

    struct kvo_answer answer; /* the last one; its arrays are these: */
    kv_status_t statuses[KVO_BATCH_KEYS_MAX];
    uint8_t reasons[KVO_BATCH_KEYS_MAX], places[KVO_BATCH_KEYS_MAX];
};

/* Node 1, alone in its view; device pool of 16 and host pool of 1,024 frames, tenants
 * 10 and 20, two shards of 8 tokens and 256 bytes a page. To be changed before
 * ck_open(). */
void ck_init(struct ck *ck);
/* It reads one-sidedly where it can; by name too. */
void ck_one_sided(struct ck *ck);
/* Node 1 of two; the other is never heard of. */
void ck_two_nodes(struct ck *ck);
kv_status_t ck_create(struct ck *ck, struct kv_detail *detail);
void ck_open(struct ck *ck);
/* Checks everything, then closes; nothing may be left allocated. */
void ck_close(struct ck *ck);

kv_key_t ck_key(uint64_t number); /* never zero */
void ck_keys(kv_key_t *keys, uint64_t first, uint32_t n);
struct kvo_client_id ck_client(struct ck *ck, uint64_t tenants);
void ck_tick(struct ck *ck, uint64_t us);
/* Carries out every order, and those that follow from them. */
void ck_pump(struct ck *ck);
/* From now on ck_pump() completes all orders that are out in one go, as the daemon
 * does (kvo_many_begin()), not each in a step of its own. */
void ck_complete_many(bool many);

/* Hands the request in; it must be taken. Deadline as given. */
void ck_send(
    struct ck *ck, struct kvo_client_id client, const struct kvo_request *request);
/* The same with a deadline, then pumps: it must be answered. Returns the status. */
kv_status_t
ck_ask(struct ck *ck, struct kvo_client_id client, const struct kvo_request *request);
/* ck_ask() of keys first … first + n - 1, page i from or to buffer page i + at. */
kv_status_t ck_batch(
    struct ck *ck, struct kvo_client_id client, enum kvo_op op, uint64_t first,
    uint32_t n, uint32_t at);
struct kvp_seq_id ck_seq(struct ck *ck, struct kvo_client_id client);
/* How many keys of the last answer have this status. */
uint32_t ck_count(const struct ck *ck, kv_status_t status);
/* Frames of the pool in this state. */
uint32_t ck_frames(struct ck *ck, uint32_t pool, enum kvp_frame_state state);
uint8_t *ck_page(struct ck *ck, uint32_t at); /* of the client's buffer */
bool ck_here(struct ck *ck, const kv_key_t *key); /* of tenant 0 and variant 0 */

/* ---- node 2, played by the test (core_peer.c) */

/* The peer's connection is up; says nothing on it. */
void ck_connect(struct ck *ck, uint64_t conn);
/* What node 2 would say: right in everything. Lives until the next call. */
struct kv_msg *ck_hello(struct ck *ck);
/* Connects, says HELLO and hears HELLO_OK: the link is up, all else still unsaid. */
void ck_meet(struct ck *ck);
/* On connection `conn`, as it is; ck_tell(): on the link, in its envelope. */
void ck_tell_on(struct ck *ck, uint64_t conn, struct kv_msg *msg);
void ck_tell(struct ck *ck, struct kv_msg *msg);
/* Takes the oldest message of this type, or NULL; lives until the next call. */
const struct kv_msg *ck_said(struct ck *ck, uint32_t type);
/* How much was said before the oldest such message or, type 0, hang-up on that
 * connection; ck->nr_said when there is none. Takes nothing. */
uint32_t ck_said_at(const struct ck *ck, uint32_t type, uint64_t conn);
/* Takes the oldest order of this kind; false when there is none. */
bool ck_wire(struct ck *ck, enum kvo_order_kind kind, struct ck_wire *wire);
/* The read's mover is done: bytes have landed and are right, n_tokens as the owner
 * said, and what the owner said of it is `status`. */
void ck_landed(
    struct ck *ck, const struct ck_wire *wire, kv_status_t status, uint32_t n_tokens);
void ck_fenced(struct ck *ck, const struct ck_wire *wire);

/* A key whose segment, when it is page 0, has that first home. */
kv_key_t ck_key_of(const struct ck *ck, uint32_t home, uint64_t nth);
struct kv_copy ck_copy(const kv_key_t *key); /* tenant 10, variant 0 */
/* The peer syncs: it lists these and nothing else. */
void ck_lists(struct ck *ck, const kv_key_t *keys, uint32_t n);
struct kv_msg_entry ck_entry(const kv_key_t *key);
struct kv_msg_offer ck_offer(const kv_key_t *key);
/* Offers one copy; returns what the node answers. */
kv_status_t ck_offers(struct ck *ck, struct kv_msg_offer *offer);
/* DATA_OPEN with this number; `good`: with the right proof. True: it was believed. */
bool ck_opens(struct ck *ck, uint32_t data_gen, bool good);
/* The same of the other kind, for reads under grants. */
bool ck_opens_one_sided(struct ck *ck, uint32_t data_gen, bool good);

/* Called by the kit's own callbacks. */
void ck_heard(struct ck *ck, uint64_t conn, const struct kv_msg *msg);
void ck_hung_up(struct ck *ck, uint64_t conn);
void ck_ordered(struct ck *ck, const struct kvo_order *order);
uint8_t *ck_bytes_at(struct ck *ck, uint32_t pool, uint32_t pool_frame);

#endif
