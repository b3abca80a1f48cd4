/* Clients of the chaos, and what they do with single pages: batches of GET, PUT,
 * EXISTS, PIN, UNPIN, DROP. */
#include "node/sim/chaos_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    AFTER_GET = 0xa5, /* the engine uses its buffer for something else */
    AFTER_PUT = 0x5a,
    REGION_PAGES = KVS_BATCH_MAX,
    ATTACH_US = 50000,
    ONE_IN_HANG_UP = 150,
    ONE_IN_FOREIGN = 60,
    PATIENT_US = 2000000,
};

static uint64_t below(struct kvs_chaos_client *client, uint64_t bound)
{
    return kv_rng_below(&client->rng, bound);
}

uint16_t kvs_chaos_tenant(const struct kvs_chaos_client *client, uint32_t tenant)
{
    kvo_node_t *core = kvs_node(client->chaos->world, client->node);
    return core != NULL ? kvp_tenant(kvo_pager(core), 100 + tenant) : UINT16_MAX;
}

uint32_t kvs_chaos_len(const struct kvs_chaos_client *client, uint32_t n_tokens)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    uint64_t len = (uint64_t)config->page_bytes * n_tokens;
    len = (len + config->page_tokens - 1) / config->page_tokens;
    return (uint32_t)((len + KVP_ALIGN - 1) / KVP_ALIGN * KVP_ALIGN);
}

uint64_t kvs_chaos_deadline(struct kvs_chaos_client *client)
{
    static const uint64_t most[] = {3000, 30000, 300000, 1000000, 3000000};
    if (client->chaos->config.apart) {
        return PATIENT_US;
    }
    return 1000 + below(client, most[below(client, 5)]);
}

void kvs_chaos_check(
    struct kvs_chaos_client *client, const uint8_t *bytes, uint32_t tenant,
    uint32_t variant, const struct kvs_page *page, const char *where)
{
    uint32_t len = kvs_chaos_len(client, page->n_tokens);
    client->chaos->counts.pages_checked++;
    if (kvs_content_ok(bytes, len, 100 + tenant, &page->key, variant)) {
        return;
    }
    for (uint32_t t = 0; t < KVS_CHAOS_TENANTS; t++) {
        if (kvs_content_ok(bytes, len, 100 + t, &page->key, variant)) {
            kvs_fail(
                client->chaos->world, "I9",
                "%s at n%u: tenant %u was given tenant %u's "
                "page",
                where, client->node + 1, 100 + tenant, 100 + t);
        }
    }
    kvs_fail(
        client->chaos->world, "I1",
        "%s at n%u: tenant %u variant %u page %u (%s) has "
        "other bytes",
        where, client->node + 1, 100 + tenant, variant, page->page,
        page->kind == KVS_PAGE_TAIL ? "tail" : "full");
}

void kvs_chaos_submit(struct kvs_chaos_client *client, struct kvo_request *request)
{
    client->chaos->counts.operations++;
    kv_status_t status = kvs_submit(client->chaos->world, client->client, request);
    KV_ASSERT(status == KV_OK);
}

/* ------------------------------------------------------------------ requests */

static uint32_t pick_tenant(struct kvs_chaos_client *client)
{
    uint32_t nr = kvs_config(client->chaos->world)->nr_tenants;
    uint32_t tenant = (uint32_t)below(client, nr);
    while ((client->tenants >> tenant & 1) == 0) {
        tenant = (tenant + 1) % nr;
    }
    return tenant;
}

/* config.apart: the node that puts this document and those that share pages with it. */
static uint32_t owner_of(const struct kvs_chaos *chaos, uint32_t doc)
{
    const struct kvs_config *config = kvs_config(chaos->world);
    uint32_t nr_steady = config->nr_nodes - config->nr_killed;
    uint32_t nth = doc / KVS_CHAOS_FAMILY % nr_steady;
    return (config->first_killed + config->nr_killed + nth) % config->nr_nodes;
}

static bool owns_any(const struct kvs_chaos_client *client)
{
    bool owns = false;
    for (uint32_t doc = 0; doc < client->chaos->config.docs; doc++) {
        owns = owns || owner_of(client->chaos, doc) == client->node;
    }
    return owns;
}

static uint32_t pick_doc(struct kvs_chaos_client *client)
{
    uint32_t docs = client->chaos->config.docs;
    uint32_t doc = (uint32_t)below(client, docs);
    if (client->chaos->config.apart && owns_any(client)) {
        while (owner_of(client->chaos, doc) != client->node) {
            doc = (doc + 1) % docs;
        }
    }
    return doc;
}

/* A prefix, a middle, a tail, or opaque names. All of one kind: that is how the request
 * is chained or loose. */
static void pick_pages(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    const struct kvs_population *population = &client->chaos->population;
    uint32_t doc = pick_doc(client);
    uint64_t shape = below(client, client->chaos->config.apart ? 8 : 10);
    slot->n = 1 + (uint32_t)below(client, KVS_BATCH_MAX - 1);
    if (shape >= 8) {
        for (uint32_t i = 0; i < slot->n; i++) {
            uint64_t name = (below(client, KVS_CHAOS_OPAQUE) + i) % KVS_CHAOS_OPAQUE;
            slot->pages[i] = (struct kvs_page){
                .kind = KVS_PAGE_OPAQUE,
                .key = population->opaque[slot->tenant][name],
                .n_tokens = population->page_tokens,
            };
        }
        return;
    }
    uint32_t first = shape < 5 ? 0 : (uint32_t)below(client, KVS_CHAOS_PAGES - slot->n);
    for (uint32_t i = 0; i < slot->n; i++) {
        bool tail = shape == 7 && i + 1 == slot->n;
        kvs_population_page(
            population, slot->tenant, doc, first + i, tail, &slot->pages[i]);
    }
}

static void send_slot(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    struct kvs_chaos *chaos = client->chaos;
    kv_key_t keys[KVS_BATCH_MAX];
    uint64_t buffers[KVS_BATCH_MAX];
    uint32_t n_tokens[KVS_BATCH_MAX];
    uint8_t *memory = kvs_buffer(chaos->world, client->client);
    uint32_t page_bytes = kvs_config(chaos->world)->page_bytes;
    for (uint32_t i = 0; i < slot->n; i++) {
        const struct kvs_page *page = &slot->pages[i];
        keys[i] = page->key;
        buffers[i] = slot->at + (uint64_t)i * page_bytes;
        n_tokens[i] = page->n_tokens;
        if (slot->op == KVO_PUT) {
            kvs_content_make(
                memory + buffers[i], kvs_chaos_len(client, page->n_tokens),
                100 + slot->tenant, &page->key, slot->variant, ++chaos->nonce);
        }
    }
    const struct kvs_page *first = &slot->pages[0];
    struct kvo_request request = {
        .tag = (uint64_t)KVS_TAG_SLOT << 32 | (uint64_t)(slot - client->slots),
        .op = slot->op,
        .deadline_us = kvs_chaos_deadline(client),
        .tenant = kvs_chaos_tenant(client, slot->tenant),
        .variant = (uint16_t)slot->variant,
        .loose = first->kind == KVS_PAGE_OPAQUE,
        .first_page = first->page,
        .anchor = first->anchor,
        .keys = keys,
        .nr_keys = slot->n,
        .buffers = slot->op == KVO_GET || slot->op == KVO_PUT ? buffers : NULL,
        .n_tokens = n_tokens,
        .prev = first->prev,
    };
    slot->busy = true;
    kvs_chaos_submit(client, &request);
}

/* (I7) Nobody may have written where an earlier answer had ended the node's right to.
 * */
static void check_guard(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    const uint8_t *memory = kvs_buffer(client->chaos->world, client->client) + slot->at;
    for (uint32_t i = 0; slot->guarded && i < REGION_PAGES * config->page_bytes; i++) {
        if (memory[i] != AFTER_GET) {
            kvs_fail(
                client->chaos->world, "I7", "n%u wrote into a buffer after its answer",
                client->node + 1);
            return;
        }
    }
    slot->guarded = false;
}

static enum kvo_op pick_op(struct kvs_chaos_client *client)
{
    uint64_t roll = below(client, 100);
    if (client->chaos->config.apart) {
        return owns_any(client) ? KVO_PUT : KVO_GET;
    }
    if (roll < 42) {
        return KVO_GET;
    }
    if (roll < 70) {
        return KVO_PUT;
    }
    if (roll < 85) {
        return KVO_EXISTS;
    }
    if (roll < 90) {
        return KVO_PIN;
    }
    if (roll < 96 && client->nr_pins > 0) {
        return KVO_UNPIN;
    }
    return client->chaos->config.drops ? KVO_DROP : KVO_GET;
}

static void pick_unpin(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    uint32_t last = --client->nr_pins;
    slot->tenant = client->pin_tenant[last];
    slot->variant = client->pin_variant[last];
    slot->pages[0] = client->pins[last];
    slot->n = 1;
}

static void start_slot(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    check_guard(client, slot);
    if (slot->put_next) {
        slot->put_next = false;
        slot->op = KVO_PUT;
        send_slot(client, slot);
        return;
    }
    slot->op = pick_op(client);
    slot->tenant = pick_tenant(client);
    slot->variant = (uint32_t)below(client, config->nr_variants);
    if (slot->op == KVO_UNPIN) {
        pick_unpin(client, slot);
    } else {
        pick_pages(client, slot);
        if (slot->op == KVO_PIN) {
            slot->n = 1;
        }
    }
    send_slot(client, slot);
}

/* A tenant of the node that this client may not use. */
static bool start_foreign(struct kvs_chaos_client *client, struct kvs_slot *slot)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    for (uint32_t tenant = 0; tenant < config->nr_tenants; tenant++) {
        if ((client->tenants >> tenant & 1) == 0
            && kvs_chaos_tenant(client, tenant) != UINT16_MAX) {
            check_guard(client, slot);
            slot->op = below(client, 2) == 0 ? KVO_GET : KVO_EXISTS;
            slot->tenant = tenant;
            slot->variant = 0;
            slot->put_next = false;
            pick_pages(client, slot);
            send_slot(client, slot);
            return true;
        }
    }
    return false;
}

/* What an engine with a bug would ask. Each has one right answer. */
static void make_mistake(struct kvs_chaos_client *client)
{
    static const kv_key_t zero;
    kv_key_t key = client->chaos->population.opaque[0][0];
    struct kvo_request request = {
        .op = KVO_EXISTS,
        .deadline_us = kvs_chaos_deadline(client),
        .tenant = kvs_chaos_tenant(client, pick_tenant(client)),
        .loose = true,
        .keys = &key,
        .nr_keys = 1,
    };
    kv_status_t right = KV_ERR_INVALID;
    switch (below(client, 5)) {
    case 0:
        key = zero;
        break;
    case 1:
        request.deadline_us = 0;
        break;
    case 2:
        request.variant = 200;
        break;
    case 3:
        request.nr_keys = 0;
        break;
    default:
        request.op = KVO_SEQ_CONFIRM;
        request.nr_keys = 0;
        request.seq = (struct kvp_seq_id){0, UINT32_MAX};
        right = KV_ERR_STALE;
        break;
    }
    request.tag = (uint64_t)KVS_TAG_MISTAKE << 32 | (uint32_t)right;
    kvs_chaos_submit(client, &request);
}

static void
mistake_answer(struct kvs_chaos_client *client, const struct kvo_answer *answer)
{
    kv_status_t right = (kv_status_t)(int32_t)(uint32_t)answer->tag;
    kv_status_t status = answer->status;
    if (status == KV_OK && answer->statuses != NULL) {
        status = answer->statuses[0];
    }
    client->chaos->counts.denied++;
    if (status != right && status != KV_ERR_AGAIN) {
        kvs_fail(
            client->chaos->world, "P7", "n%u answers %s where %s is right",
            client->node + 1, kv_status_name(status), kv_status_name(right));
    }
}

/* ------------------------------------------------------------------ answers */

/* config.apart: what was read from a peer does not stay. DROP is answered at once and
 * locally. */
static void drop_read(
    struct kvs_chaos_client *client, struct kvs_slot *slot,
    const struct kvo_answer *answer)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < answer->nr_keys; i++) {
        if (answer->statuses[i] == KV_OK && answer->places[i] == KVO_FROM_PEER) {
            slot->pages[n++] = slot->pages[i];
        }
    }
    if (n > 0) {
        slot->n = n;
        slot->op = KVO_DROP;
        send_slot(client, slot);
    }
}

static void
got(struct kvs_chaos_client *client, struct kvs_slot *slot,
    const struct kvo_answer *answer)
{
    uint8_t *memory = kvs_buffer(client->chaos->world, client->client) + slot->at;
    uint32_t page_bytes = kvs_config(client->chaos->world)->page_bytes;
    for (uint32_t i = 0; i < answer->nr_keys; i++) {
        if (answer->statuses[i] == KV_OK) {
            client->chaos->counts.hits++;
            kvs_chaos_check(
                client, memory + (size_t)i * page_bytes, slot->tenant, slot->variant,
                &slot->pages[i], "GET");
        } else {
            client->chaos->counts.misses++;
            slot->put_next = below(client, 3) > 0;
        }
    }
    memset(memory, AFTER_GET, (size_t)REGION_PAGES * page_bytes);
    slot->guarded = true;
    if (client->chaos->config.apart) {
        slot->put_next = false;
        drop_read(client, slot, answer);
    }
}

static void slot_answer(
    struct kvs_chaos_client *client, struct kvs_slot *slot,
    const struct kvo_answer *answer)
{
    uint32_t page_bytes = kvs_config(client->chaos->world)->page_bytes;
    uint8_t *memory = kvs_buffer(client->chaos->world, client->client) + slot->at;
    slot->busy = false;
    /* (I9) */
    if ((client->tenants >> slot->tenant & 1) == 0) {
        client->chaos->counts.denied++;
        if (answer->status != KV_ERR_DENIED) {
            kvs_fail(
                client->chaos->world, "I9",
                "n%u answers %s to a client without the "
                "tenant",
                client->node + 1, kv_status_name(answer->status));
        }
        return;
    }
    if (answer->status != KV_OK || answer->statuses == NULL) {
        return;
    }
    if (slot->op == KVO_GET) {
        got(client, slot, answer);
    } else if (slot->op == KVO_PUT) {
        memset(memory, AFTER_PUT, (size_t)REGION_PAGES * page_bytes);
    } else if (
        slot->op == KVO_PIN && answer->statuses[0] == KV_OK
        && client->nr_pins < KVS_PINS_MAX) {
        client->pin_tenant[client->nr_pins] = slot->tenant;
        client->pin_variant[client->nr_pins] = slot->variant;
        client->pins[client->nr_pins++] = slot->pages[0];
    }
}

static void answered(void *arg, struct kvs_client name, const struct kvo_answer *answer)
{
    struct kvs_chaos_client *client = arg;
    (void)name;
    client->chaos->counts.answers[answer->op]++;
    uint32_t index = (uint32_t)answer->tag;
    if (answer->tag >> 32 == KVS_TAG_SLOT) {
        slot_answer(client, &client->slots[index], answer);
    } else if (answer->tag >> 32 == KVS_TAG_MISTAKE) {
        mistake_answer(client, answer);
    } else {
        kvs_chaos_seq_answer(client, index, answer);
    }
}

static void switched(
    void *arg, struct kvs_client name, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    (void)name;
    (void)seq;
    (void)page;
    (void)was;
    (void)now;
    kvs_chaos_seq_check(arg); /* the table says it all */
}

static void lost(void *arg, struct kvs_client name)
{
    struct kvs_chaos_client *client = arg;
    (void)name;
    client->attached = false;
    client->chaos->counts.lost++;
}

static const struct kvs_client_ops ops = {
    .answer = answered,
    .switched = switched,
    .lost = lost,
};

/* ------------------------------------------------------------ life of a client */

static void forget(struct kvs_chaos_client *client)
{
    client->attached = false;
    client->nr_pins = 0;
    memset(client->slots, 0, sizeof(client->slots));
    memset(client->seqs, 0, sizeof(client->seqs));
}

static void attach(struct kvs_chaos_client *client)
{
    struct kvs_chaos *chaos = client->chaos;
    const struct kvs_config *config = kvs_config(chaos->world);
    forget(client);
    if (kvs_node(chaos->world, client->node) == NULL) {
        return;
    }
    uint64_t tenants = 0, mask = 0;
    for (uint32_t tenant = 0; tenant < config->nr_tenants; tenant++) {
        uint16_t index = kvs_chaos_tenant(client, tenant);
        bool mine = below(client, 3) > 0 || tenant == 0;
        if (index != UINT16_MAX && mine) {
            tenants |= UINT64_C(1) << tenant;
            mask |= UINT64_C(1) << index;
        }
    }
    client->tenants = tenants;
    if (kvs_attach(chaos->world, client->node, mask, &ops, client, &client->client)
        != KV_OK) {
        return;
    }
    client->attached = true;
    for (unsigned i = 0; i < KVS_SLOTS; i++) {
        client->slots[i].at = (uint64_t)i * REGION_PAGES * config->page_bytes;
    }
}

static void hang_up(struct kvs_chaos_client *client)
{
    uint64_t dead_us = below(client, 2) == 0 ? 0 : below(client, 3000000);
    client->chaos->counts.hung_up++;
    if (dead_us > 0) {
        kvs_chaos_zombie(client, dead_us);
    }
    kvs_hang_up(client->chaos->world, client->client, dead_us);
    forget(client);
}

static bool spent(const struct kvs_chaos *chaos)
{
    return chaos->counts.operations >= chaos->config.operations;
}

static void act(struct kvs_chaos_client *client)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    bool may_hang_up = (config->faults & KVS_FAULT_BIT(KVS_F_HANG_UP)) != 0;
    bool may_cross = (config->faults & KVS_FAULT_BIT(KVS_F_TENANT)) != 0;
    if (may_hang_up && below(client, ONE_IN_HANG_UP) == 0) {
        hang_up(client);
        return;
    }
    kvs_chaos_seq_check(client);
    if (may_cross && below(client, ONE_IN_FOREIGN) == 0) {
        make_mistake(client);
        return;
    }
    if (client->chaos->config.sequences && below(client, 2) == 0) {
        kvs_chaos_seq_step(client);
        return;
    }
    struct kvs_slot *slot = &client->slots[below(client, KVS_SLOTS)];
    if (slot->busy) {
        return;
    }
    if (may_cross && below(client, ONE_IN_FOREIGN) == 0
        && start_foreign(client, slot)) {
        return;
    }
    start_slot(client, slot);
}

static void think(void *arg, uint64_t value)
{
    struct kvs_chaos_client *client = arg;
    struct kvs_chaos *chaos = client->chaos;
    (void)value;
    if (client->leaving || spent(chaos)) {
        return;
    }
    uint64_t pause = 1 + below(client, 2 * chaos->config.think_us);
    if (!client->attached) {
        attach(client);
        pause = client->attached ? pause : ATTACH_US + below(client, ATTACH_US);
    } else if (kvs_client_up(chaos->world, client->client)) {
        act(client);
    } /* or its node was killed at this very moment: lost() comes next */
    kvs_at(chaos->world, pause, think, client, 0);
}

/* ------------------------------------------------------------------ all of them */

kvs_chaos_t *kvs_chaos_start(kvs_world_t *world, const struct kvs_chaos_config *config)
{
    struct kvs_chaos *chaos = calloc(1, sizeof(*chaos));
    KV_ASSERT(chaos != NULL);
    uint32_t nr_nodes = kvs_config(world)->nr_nodes;
    KV_ASSERT(kvs_config(world)->nr_tenants <= KVS_CHAOS_TENANTS);
    KV_ASSERT(
        kvs_config(world)->buffer_bytes
        >= KVS_SLOTS * REGION_PAGES * kvs_config(world)->page_bytes);
    chaos->world = world;
    chaos->config = *config;
    chaos->nr_clients = nr_nodes * config->clients;
    chaos->clients = calloc(chaos->nr_clients, sizeof(*chaos->clients));
    KV_ASSERT(chaos->clients != NULL);
    kvs_population_make(&chaos->population, kvs_config(world)->page_tokens);
    struct kv_rng rng = kv_rng_seed(config->seed ^ UINT64_C(0xc4a05));
    for (uint32_t i = 0; i < chaos->nr_clients; i++) {
        struct kvs_chaos_client *client = &chaos->clients[i];
        client->chaos = chaos;
        client->node = i % nr_nodes;
        client->rng = kv_rng_seed(kv_rng_next(&rng));
        kvs_at(world, below(client, config->think_us + 1), think, client, 0);
    }
    return chaos;
}

void kvs_chaos_destroy(kvs_chaos_t *chaos)
{
    if (chaos != NULL) {
        kvs_chaos_ghosts_free(chaos);
        free(chaos->clients);
        free(chaos);
    }
}

bool kvs_chaos_done(const kvs_chaos_t *chaos)
{
    return spent(chaos);
}

void kvs_chaos_leave(kvs_chaos_t *chaos)
{
    for (uint32_t i = 0; i < chaos->nr_clients; i++) {
        struct kvs_chaos_client *client = &chaos->clients[i];
        client->leaving = true;
        if (client->attached) {
            kvs_chaos_seq_check(client);
            kvs_hang_up(chaos->world, client->client, 1000);
            client->attached = false;
        }
    }
}

const struct kvs_chaos_counts *kvs_chaos_counts(const kvs_chaos_t *chaos)
{
    return &chaos->counts;
}
