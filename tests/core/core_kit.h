/* What the unit tests of node/core share: one node, no network, and memory small enough
 * to look at. Orders wait in a list until ck_pump() carries them out: bytes really
 * move, and digests are those of the bytes.
 *
 *   test ──ck_ask──► kvo_request ──► orders ──ck_pump──► kvo_complete, kvo_local_done
 *                        └── answer ──► struct ck, copied
 *
 * Threading: none.
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

    struct kvo_answer answer; /* the last one; its arrays are these: */
    kv_status_t statuses[KVO_BATCH_KEYS_MAX];
    uint8_t reasons[KVO_BATCH_KEYS_MAX], places[KVO_BATCH_KEYS_MAX];
};

/* Node 1, alone in its view; device pool of 16 and host pool of 1,024 frames, tenants
 * 10 and 20, two shards of 8 tokens and 256 bytes a page. To be changed before
 * ck_open(). */
void ck_init(struct ck *ck);
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

#endif
