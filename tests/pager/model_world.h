/* A second opinion on the pager: arrays and loops that know who holds what.
 *
 *   random operation ──► pager ──callbacks──► world: is that allowed now?
 *                          └── status ──────► world: was that the right answer?
 *
 * The bytes of a frame are one word here: whose page it is and a serial number. The
 * word of a page is its digest too. So a reader of the wrong bytes is caught by
 * looking, a frame that is written while somebody reads it changes its word, and a
 * digest can be made wrong at will.
 *
 * Threading: none. Ownership: mw_destroy() takes all that mw_create() made. Errors: a
 * broken rule prints seed and step and aborts.
 */
#ifndef KV_TEST_PAGER_MODEL_WORLD_H
#define KV_TEST_PAGER_MODEL_WORLD_H

#include "base/hash.h"
#include "pager/pager.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MW_KEYS = 48,
    MW_TENANTS = 3,
    MW_VARIANTS = 2,
    MW_PEERS = 3,
    MW_SEQS = 6,
    MW_SEQ_PAGES = 10,
    MW_RETIRED = 20,
    MW_FRAMES_MAX = 160,
    MW_LIST_MAX = 512,
    MW_OLD_ORDERS = 64,
};

/* Something we hold on a frame. */
struct mw_hold {
    struct kvp_ref ref;
    uint32_t peer;   /* grants; arrivals */
    uint32_t token;  /* leavings */
    uint64_t word;   /* arrivals: the bytes that will land */
    uint64_t digest; /* arrivals: of the bytes that the sender has */
    uint16_t tenant, variant;
    uint32_t key;
    bool copying; /* arrivals: a COPY order is the mover */
    bool landed;  /* … and has ended, with `status` */
    bool dropped; /* arrivals: kvp_drop() named it */
    kv_status_t status;
    bool waiting; /* references: a re-check is out */
};

struct mw_list {
    struct mw_hold at[MW_LIST_MAX];
    uint32_t nr;
};

struct mw_seq {
    bool open, ending;
    struct kvp_seq_id id;
    uint16_t tenant, variant;
    uint32_t nr_pages, n_tokens;
    uint64_t version;
    struct kvp_ref pages[MW_SEQ_PAGES + 2];
    struct {
        struct kvp_ref ref;
        uint64_t version;
    } retired[MW_RETIRED];
    uint32_t nr_retired;
};

struct mw_order {
    struct kvp_order order;
    uint64_t src_word; /* what it began to copy */
};

struct mw {
    uint64_t seed, step, ops_done;
    uint64_t nr_ready; /* leavings that became ready */
    struct kv_rng rng;
    struct kvp_config config;
    kvp_pager_t *pager;
    uint64_t now_us, serial;

    /* frames, as we know them */
    uint32_t nr_frames;
    uint64_t words[MW_FRAMES_MAX];
    uint64_t gen_next[MW_FRAMES_MAX]; /* the least generation not yet seen freed */
    bool live[MW_FRAMES_MAX];
    uint16_t owner[MW_FRAMES_MAX];

    /* what is listed: hold by copy */
    uint64_t listed[MW_TENANTS][MW_VARIANTS][MW_KEYS];
    uint64_t hold_last;
    bool may_unlist, may_list; /* in the call that runs now */

    struct mw_list refs, pins, grants, ios, fences, fills, sealing, arrivals, movers,
        leavings;
    struct mw_seq seqs[MW_SEQS];
    struct mw_order orders[MW_LIST_MAX];
    uint32_t nr_orders;
    uint64_t old_orders[MW_OLD_ORDERS];
    uint32_t nr_old_orders;
    kv_key_t keys[MW_KEYS];
};

/* `rule` is what must hold; it is printed when it does not. */
#define MW_MUST(w, rule)                                                               \
    do {                                                                               \
        if (!(rule)) {                                                                 \
            mw_broken((w), #rule, __FILE__, __LINE__);                                 \
        }                                                                              \
    } while (0)
_Noreturn void
mw_broken(const struct mw *w, const char *rule, const char *file, int line);

/* A world of its own for each seed: policy, verification, ceilings differ. */
struct mw *mw_create(uint64_t seed);
void mw_destroy(struct mw *w);
/* One random operation, then the quick checks. */
void mw_step(struct mw *w);
/* Everything that can be compared from scratch. */
void mw_compare(struct mw *w);
/* Gives everything back; nothing may be left but sealed copies. */
void mw_drain(struct mw *w);

/* ------------------------------------------------------------------ shared parts */

uint32_t mw_below(struct mw *w, uint32_t bound);
bool mw_chance(struct mw *w, uint32_t percent);
uint64_t mw_word(struct mw *w, uint16_t tenant, uint16_t variant, uint32_t key);
bool mw_word_is(uint64_t word, uint16_t tenant, uint16_t variant, uint32_t key);
uint16_t mw_word_tenant(uint64_t word);
void mw_put(struct mw *w, struct mw_list *list, struct mw_hold hold);
struct mw_hold mw_take(struct mw_list *list, uint32_t i);
/* A frame that the pager just gave out. */
void mw_born(struct mw *w, struct kvp_ref ref, uint16_t tenant);
bool mw_recheck_out(const struct mw *w, uint32_t frame);
/* A copy that is listed, as a random choice; false when the key drawn is not. */
bool mw_any_copy(struct mw *w, struct mw_hold *hold);
/* What an allocation must answer, found by looking at every frame. */
kv_status_t mw_expect_room(
    struct mw *w, uint16_t tenant, enum kvp_tier tier, uint32_t len, uint32_t n);
void mw_retire(struct mw *w, struct mw_seq *seq, struct kvp_ref ref);
struct mw_seq *mw_any_seq(struct mw *w);
/* Is there a copy in one of the tiers (bits) that is not being re-checked? */
bool mw_equal_copy_in(
    struct mw *w, uint16_t tenant, uint16_t variant, uint32_t number, unsigned tiers);

/* model_ops.c, model_seq_ops.c */
extern const struct kvp_out mw_out;
void mw_op_seq(struct mw *w);
void mw_op_other(struct mw *w);
void mw_op_order(struct mw *w);

/* `status` is what was expected, or, where the call relies on an equal copy and a
 * re-check was drawn for that, `fresh`: the new copy goes its own way. Returns it. */
kv_status_t mw_or_rechecked(
    struct mw *w, kv_status_t status, kv_status_t expect, bool relies,
    kv_status_t fresh);

#endif
