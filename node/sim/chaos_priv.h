/* Insides of chaos, shared by chaos.c (clients, object level) and chaos_seq.c (pager
 * level). Threading: the world's thread. */
#ifndef KVS_CHAOS_PRIV_H
#define KVS_CHAOS_PRIV_H

#include "base/assert.h"
#include "base/hash.h"
#include "node/sim/chaos.h"

enum {
    KVS_BATCH_MAX = 10,   /* pages of one request of chaos */
    KVS_SLOTS = 2,        /* object requests of one client at once */
    KVS_SEQS = 3,         /* sequences of one client */
    KVS_PINS_MAX = 6,
    KVS_OLD_MAX = 64,     /* pages of tables that are not confirmed away */
};

enum kvs_tag { KVS_TAG_SLOT = 1, KVS_TAG_SEQ = 2, KVS_TAG_MISTAKE = 3 };

/* One object-level request, and the part of the buffer that is its own. */
struct kvs_slot {
    bool busy, put_next, guarded;
    enum kvo_op op;
    uint32_t tenant;  /* of the world */
    uint32_t variant;
    uint32_t n;
    struct kvs_page pages[KVS_BATCH_MAX];
    uint64_t at;      /* in the buffer */
};

/* What a page of a sequence's table must hold. */
enum kvs_want { KVS_WANT_RAW, KVS_WANT_HALF, KVS_WANT_FULL, KVS_WANT_TAIL };

struct kvs_seq_page {
    enum kvs_want want;
    bool sealed;   /* SEAL was asked for: it may switch, and is never written again */
    bool shared;   /* forked from: not rewritten with anything else */
    bool begun;    /* RAW: its first half is written */
    bool copied;   /* RAW: the node copies `from` into it first */
    enum kvs_want from;
    uint64_t nonce;
    struct kvp_ref ref; /* as last read from the table */
};

/* A page of an older table, which kernels in flight still read. */
struct kvs_old {
    struct kvp_ref ref;
    enum kvs_want want;
    uint32_t page;
};

enum kvs_seq_state { KVS_SEQ_NONE, KVS_SEQ_IDLE, KVS_SEQ_BUSY };

struct kvs_seq {
    enum kvs_seq_state state;
    enum kvo_op op;      /* while BUSY */
    struct kvp_seq_id id;
    uint32_t tenant, variant, doc;
    uint32_t n_tokens;
    uint32_t nr_pages;
    bool fetched;
    uint32_t sealing;    /* page, while SEQ_SEAL is out */
    uint32_t asked;      /* tokens or child's slot, by op */
    struct kvs_seq_page pages[KVS_CHAOS_PAGES];
    struct kvs_old old[KVS_OLD_MAX];
    uint32_t nr_old;
};

struct kvs_chaos_client {
    struct kvs_chaos *chaos;
    uint32_t node;
    bool attached, leaving;
    struct kvs_client client;
    uint64_t tenants;     /* world tenants it may use */
    uint64_t serial;      /* of the attachment, against late think calls */
    struct kv_rng rng;
    struct kvs_slot slots[KVS_SLOTS];
    struct kvs_seq seqs[KVS_SEQS];
    uint32_t nr_pins;
    struct kvs_page pins[KVS_PINS_MAX];
    uint32_t pin_tenant[KVS_PINS_MAX], pin_variant[KVS_PINS_MAX];
};

/* A write of a hung-up engine that is still to come. */
struct kvs_ghost;

struct kvs_chaos {
    kvs_world_t *world;
    struct kvs_ghost *ghosts;
    struct kvs_chaos_config config;
    struct kvs_population population;
    struct kvs_chaos_counts counts;
    uint32_t nr_clients;
    struct kvs_chaos_client *clients;
    uint64_t nonce;
};

/* Index in the node's own config of a tenant of the world; the world's tenant i has the
 * id 100 + i. */
uint16_t kvs_chaos_tenant(const struct kvs_chaos_client *client, uint32_t tenant);
void kvs_chaos_submit(struct kvs_chaos_client *client, struct kvo_request *request);
uint64_t kvs_chaos_deadline(struct kvs_chaos_client *client);
/* Checks a whole page; a violation otherwise. */
void kvs_chaos_check(
    struct kvs_chaos_client *client, const uint8_t *bytes, uint32_t tenant,
    uint32_t variant, const struct kvs_page *page, const char *where);
uint32_t kvs_chaos_len(const struct kvs_chaos_client *client, uint32_t n_tokens);

/* chaos_seq.c */
void kvs_chaos_seq_step(struct kvs_chaos_client *client);
void kvs_chaos_seq_answer(
    struct kvs_chaos_client *client, uint32_t index, const struct kvo_answer *answer);
void kvs_chaos_seq_check(struct kvs_chaos_client *client);
/* The client hangs up and goes on writing where it had been writing, for dead_us. */
void kvs_chaos_zombie(struct kvs_chaos_client *client, uint64_t dead_us);
void kvs_chaos_ghosts_free(struct kvs_chaos *chaos);

#endif
