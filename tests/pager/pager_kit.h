/* What the unit tests of the pager share: a small configuration, callbacks that write
 * down what they were told, and the steps that every test takes (put a page, finish an
 * order).
 *
 * Threading: none. Ownership: kit_close() takes down what kit_open() made; references
 * are the caller's where a function says so. Units: microseconds of a clock that only
 * kit_tick() moves. Errors: the test fails.
 */
#ifndef KV_TEST_PAGER_KIT_H
#define KV_TEST_PAGER_KIT_H

#include "pager/pager.h"

enum { KIT_LOG = 4096 };

struct kit_switch {
    struct kvp_seq_id seq;
    uint32_t page;
    struct kvp_ref was, now;
};

struct kit_end {
    struct kvp_ref ref, now;
    kv_status_t status;
    uint64_t computed;
};

struct kit {
    struct kvp_config config;
    kvp_pager_t *pager;
    uint64_t now_us;

    struct kvp_order orders[KIT_LOG]; /* not finished yet, oldest first */
    uint32_t nr_orders;
    struct kv_copy unlisted[KIT_LOG];
    uint64_t unlisted_hold[KIT_LOG];
    uint32_t nr_listed, nr_unlisted, nr_freed, nr_switched, nr_verified, nr_sealed,
        nr_copied;
    uint64_t last_hold;
    struct kvp_ref last_listed, last_freed;
    struct kit_switch last_switch;
    struct kit_end last_verified, last_sealed, last_copied;
};

/* One domain, device pool of 16 and host pool of 32 frames of 4 KiB, tenants 10 and 20,
 * one variant of 8 tokens and 4 KiB a page, LRU, no verification. To be changed before
 * kit_open(). */
void kit_init(struct kit *kit);
void kit_open(struct kit *kit);
/* Checks everything, then closes; nothing may be left allocated. */
void kit_close(struct kit *kit);

kv_key_t kit_key(uint64_t number);
/* Digests are the key's number here. */
uint64_t kit_digest(uint64_t number);
void kit_tick(struct kit *kit, uint64_t us);

/* Ends the oldest order. */
void kit_order(struct kit *kit, kv_status_t status, uint64_t computed);
/* A put of a full page, sealed, its reference kept by the caller. */
struct kvp_ref
kit_put(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number);
/* The same, and the reference given back: a cached page. */
struct kvp_ref
kit_cache(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number);
/* Seals page `page` of the sequence and ends the digest order. */
void kit_seal(struct kit *kit, struct kvp_seq_id seq, uint32_t page, uint64_t number);
struct kvp_ref kit_find(struct kit *kit, uint16_t tenant, uint64_t number);
bool kit_here(struct kit *kit, uint16_t tenant, uint64_t number);
struct kvp_info kit_info(struct kit *kit, struct kvp_ref ref);
/* Brings the page to `tier` as an arrival of our own; the reference is the caller's. */
struct kvp_ref
kit_fetch(struct kit *kit, uint16_t tenant, enum kvp_tier tier, uint64_t number);
struct kvp_arrival
kit_arrival(uint16_t tenant, enum kvp_tier tier, uint64_t number, uint64_t last_use_us);

#endif
