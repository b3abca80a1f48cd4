/* Sequences of the chaos: page tables that are fetched, filled, sealed, forked, cut and
 * confirmed, with every page that they show checked each time the client wakes.
 *
 * The model of a table is what the engine knows: which key each page stands for, and
 * whether it wrote it. Frames are read from the node's table, as kernels would; a frame
 * that left the table stays in `old` until the engine confirms, and must stay readable
 * that long. */
#include "node/sim/chaos_priv.h"

#include <stdlib.h>
#include <string.h>

static uint64_t below(struct kvs_chaos_client *client, uint64_t bound)
{
    return kv_rng_below(&client->rng, bound);
}

static uint32_t full_tokens(const struct kvs_chaos_client *client)
{
    return client->chaos->population.page_tokens;
}

static struct kvs_page page_of(
    const struct kvs_chaos_client *client, const struct kvs_seq *seq, uint32_t page,
    bool tail)
{
    struct kvs_page out;
    kvs_population_page(
        &client->chaos->population, seq->tenant, seq->doc, page, tail, &out);
    return out;
}

/* ------------------------------------------------------------------ checking */

static void check_bytes(
    struct kvs_chaos_client *client, const struct kvs_seq *seq, uint32_t page,
    enum kvs_want want, struct kvp_ref ref, const char *where)
{
    if (want == KVS_WANT_RAW) {
        return;
    }
    struct kvs_page expected = page_of(client, seq, page, want == KVS_WANT_TAIL);
    if (want == KVS_WANT_HALF) {
        expected.n_tokens = full_tokens(client) / 2; /* of a page that goes on */
    }
    const uint8_t *bytes = kvs_memory(client->chaos->world, client->node, ref);
    kvs_chaos_check(client, bytes, seq->tenant, seq->variant, &expected, where);
}

static void add_old(
    struct kvs_chaos_client *client, struct kvs_seq *seq, uint32_t page,
    enum kvs_want want, struct kvp_ref ref)
{
    (void)client;
    if (seq->nr_old < KVS_OLD_MAX) {
        seq->old[seq->nr_old++] =
            (struct kvs_old){.ref = ref, .want = want, .page = page};
    }
}

/* (I7) The tables that kernels in flight carry. */
static void check_old(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    kvs_world_t *world = client->chaos->world;
    kvp_pager_t *pager = kvo_pager(kvs_node(world, client->node));
    for (uint32_t i = 0; i < seq->nr_old; i++) {
        const struct kvs_old *old = &seq->old[i];
        struct kvp_info info;
        if (kvp_info(pager, old->ref, &info) != KV_OK) {
            kvs_fail(
                world, "I7",
                "n%u: frame %u gen %llu of an older table was freed before "
                "the engine confirmed",
                client->node + 1, old->ref.frame, (unsigned long long)old->ref.gen);
        }
        check_bytes(client, seq, old->page, old->want, old->ref, "an older table");
    }
}

/* Reads the table anew: what was replaced becomes old. */
static bool read_table(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    kvs_world_t *world = client->chaos->world;
    kvp_pager_t *pager = kvo_pager(kvs_node(world, client->node));
    struct kvp_ref refs[KVS_CHAOS_PAGES];
    struct kvp_seq_info info;
    if (kvp_seq_info(pager, seq->id, &info) != KV_OK || info.nr_pages < seq->nr_pages
        || kvp_seq_table(pager, seq->id, 0, seq->nr_pages, refs) != KV_OK) {
        kvs_fail(
            world, "I3", "n%u: a live sequence's table is gone or too short",
            client->node + 1);
        return false;
    }
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        struct kvs_seq_page *model = &seq->pages[page];
        bool same =
            model->ref.frame == refs[page].frame && model->ref.gen == refs[page].gen;
        if (!same && model->ref.frame != KVP_NO_FRAME) {
            add_old(client, seq, page, model->want, model->ref);
        }
        model->ref = refs[page];
    }
    return true;
}

static void check_seq(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    bool ends = seq->op == KVO_SEQ_OPEN || seq->op == KVO_SEQ_END;
    bool moves = seq->op == KVO_SEQ_APPEND || seq->op == KVO_SEQ_TRUNCATE;
    if (seq->state == KVS_SEQ_NONE || (seq->state == KVS_SEQ_BUSY && ends)) {
        return;
    }
    if (seq->state == KVS_SEQ_BUSY && moves) {
        check_old(client, seq);
        return; /* the table may be the next one already */
    }
    if (!read_table(client, seq)) {
        return;
    }
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        const struct kvs_seq_page *model = &seq->pages[page];
        check_bytes(client, seq, page, model->want, model->ref, "a table");
    }
    check_old(client, seq);
}

void kvs_chaos_seq_check(struct kvs_chaos_client *client)
{
    if (!client->attached || kvs_node(client->chaos->world, client->node) == NULL) {
        return;
    }
    for (unsigned i = 0; i < KVS_SEQS; i++) {
        struct kvs_seq *seq = &client->seqs[i];
        bool child = seq->state == KVS_SEQ_BUSY && seq->op == KVO_SEQ_FORK
                     && seq->asked == UINT32_MAX;
        if (!child) {
            check_seq(client, seq);
        }
    }
}

/* ------------------------------------------------------------------ asking */

static void
send(struct kvs_chaos_client *client, struct kvs_seq *seq, struct kvo_request *request)
{
    request->tag = (uint64_t)KVS_TAG_SEQ << 32 | (uint64_t)(seq - client->seqs);
    request->tenant = kvs_chaos_tenant(client, seq->tenant);
    request->variant = (uint16_t)seq->variant;
    request->deadline_us = kvs_chaos_deadline(client);
    request->seq = seq->id;
    seq->state = KVS_SEQ_BUSY;
    seq->op = request->op;
    kvs_chaos_submit(client, request);
}

static void open_seq(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    const struct kvs_config *config = kvs_config(client->chaos->world);
    *seq = (struct kvs_seq){0};
    seq->tenant = (uint32_t)below(client, config->nr_tenants);
    while ((client->tenants >> seq->tenant & 1) == 0) {
        seq->tenant = (seq->tenant + 1) % config->nr_tenants;
    }
    seq->variant = (uint32_t)below(client, config->nr_variants);
    seq->doc = (uint32_t)below(client, client->chaos->config.docs);
    struct kvo_request request = {.op = KVO_SEQ_OPEN};
    send(client, seq, &request);
}

/* The whole prompt; sometimes it ends in a tail. */
static void fetch(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    kv_key_t keys[KVS_CHAOS_PAGES];
    uint32_t n_tokens[KVS_CHAOS_PAGES];
    uint32_t n = 1 + (uint32_t)below(client, KVS_CHAOS_PAGES - 2);
    bool tail = below(client, 4) == 0;
    struct kvs_page page = {0};
    for (uint32_t i = 0; i < n; i++) {
        page = page_of(client, seq, i, tail && i + 1 == n);
        keys[i] = page.key;
        n_tokens[i] = page.n_tokens;
    }
    seq->asked = n | (tail ? UINT32_C(1) << 31 : 0);
    struct kvo_request request = {
        .op = KVO_SEQ_FETCH,
        .keys = keys,
        .n_tokens = n_tokens,
        .nr_keys = n,
        .anchor = keys[0],
        .prev = page_of(client, seq, 0, false).prev,
    };
    send(client, seq, &request);
}

static void append(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    uint32_t half = full_tokens(client) / 2;
    uint32_t most = KVS_CHAOS_PAGES * 2 - seq->n_tokens / half;
    if (most == 0) {
        return;
    }
    if ((kvs_config(client->chaos->world)->faults & KVS_FAULT_BIT(KVS_F_TENANT)) != 0
        && below(client, 20) == 0) {
        /* More than the tier can ever hold: refused, and nothing has changed. */
        struct kvo_request request = {
            .op = KVO_SEQ_APPEND, .tokens = 20000 * full_tokens(client)};
        send(client, seq, &request);
        return;
    }
    uint32_t halves = 1 + (uint32_t)below(client, most < 4 ? most : 4);
    struct kvo_request request = {.op = KVO_SEQ_APPEND, .tokens = halves * half};
    send(client, seq, &request);
}

static bool writable(struct kvs_chaos_client *client, const struct kvs_seq_page *model)
{
    kvo_node_t *core = kvs_node(client->chaos->world, client->node);
    return kvp_writable(kvo_pager(core), model->ref);
}

/* What the node copied into a new frame, before the engine goes on in it. */
static void
check_copied(struct kvs_chaos_client *client, struct kvs_seq *seq, uint32_t page)
{
    struct kvs_seq_page *model = &seq->pages[page];
    if (model->copied) {
        enum kvs_want want =
            model->from == KVS_WANT_TAIL ? KVS_WANT_TAIL : KVS_WANT_HALF;
        check_bytes(client, seq, page, want, model->ref, "a copy for a sequence");
    }
    model->copied = false;
}

/* The kernel's writes to page `page`, in two steps. */
static void
write_page(struct kvs_chaos_client *client, struct kvs_seq *seq, uint32_t page)
{
    struct kvs_seq_page *model = &seq->pages[page];
    uint32_t behind = seq->n_tokens - page * full_tokens(client);
    bool part = behind < full_tokens(client);
    bool tail = part && !model->shared && below(client, 2) == 0;
    struct kvs_page content = page_of(client, seq, page, tail);
    uint32_t len =
        kvs_chaos_len(client, part ? full_tokens(client) / 2 : full_tokens(client));
    uint8_t *bytes = kvs_memory(client->chaos->world, client->node, model->ref);
    if (model->nonce == 0) {
        model->nonce = ++client->chaos->nonce;
    }
    check_copied(client, seq, page);
    kvs_content_make(
        bytes, model->begun ? len : len / 2, 100 + seq->tenant, &content.key,
        seq->variant, model->nonce);
    if (model->begun) {
        model->want = tail ? KVS_WANT_TAIL : part ? KVS_WANT_HALF : KVS_WANT_FULL;
    }
    model->begun = !model->begun;
}

static bool write_next(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        struct kvs_seq_page *model = &seq->pages[page];
        if (model->want == KVS_WANT_RAW && writable(client, model)) {
            write_page(client, seq, page);
            return true;
        }
    }
    return false;
}

static bool seal_next(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        const struct kvs_seq_page *model = &seq->pages[page];
        bool tail = model->want == KVS_WANT_TAIL;
        if (model->sealed || (model->want != KVS_WANT_FULL && !tail)) {
            continue;
        }
        struct kvs_page content = page_of(client, seq, page, tail);
        struct kvo_request request = {
            .op = KVO_SEQ_SEAL,
            .keys = &content.key,
            .n_tokens = &content.n_tokens,
            .nr_keys = 1,
            .first_page = page,
            .page = page,
            .anchor = content.anchor,
            .prev = content.prev,
        };
        seq->sealing = page;
        send(client, seq, &request);
        return true;
    }
    return false;
}

static void confirm(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    kvp_pager_t *pager = kvo_pager(kvs_node(client->chaos->world, client->node));
    struct kvp_seq_info info;
    if (!read_table(client, seq) || kvp_seq_info(pager, seq->id, &info) != KV_OK) {
        return;
    }
    seq->nr_old = 0; /* every kernel from here on carries this table */
    struct kvo_request request = {.op = KVO_SEQ_CONFIRM, .version = info.version};
    send(client, seq, &request);
}

static void truncate_seq(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    uint32_t half = full_tokens(client) / 2;
    uint32_t tokens = (uint32_t)below(client, seq->n_tokens / half + 1) * half;
    struct kvo_request request = {.op = KVO_SEQ_TRUNCATE, .tokens = tokens};
    send(client, seq, &request);
}

static bool fork_seq(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    struct kvs_seq *child = NULL;
    for (unsigned i = 0; i < KVS_SEQS; i++) {
        if (client->seqs[i].state == KVS_SEQ_NONE) {
            child = &client->seqs[i];
        }
    }
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        if (seq->pages[page].want == KVS_WANT_RAW) {
            return false; /* engines fork what they have computed */
        }
    }
    if (child == NULL) {
        return false;
    }
    *child = (struct kvs_seq){
        .state = KVS_SEQ_BUSY, .op = KVO_SEQ_FORK, .asked = UINT32_MAX};
    seq->asked = (uint32_t)(child - client->seqs);
    struct kvo_request request = {.op = KVO_SEQ_FORK};
    send(client, seq, &request);
    return true;
}

static void end_seq(struct kvs_chaos_client *client, struct kvs_seq *seq)
{
    struct kvo_request request = {.op = KVO_SEQ_END};
    send(client, seq, &request);
}

void kvs_chaos_seq_step(struct kvs_chaos_client *client)
{
    struct kvs_seq *seq = &client->seqs[below(client, KVS_SEQS)];
    if (seq->state == KVS_SEQ_NONE) {
        open_seq(client, seq);
        return;
    }
    if (seq->state == KVS_SEQ_BUSY) {
        return;
    }
    if (!seq->fetched) {
        fetch(client, seq);
        return;
    }
    uint64_t roll = below(client, 100);
    if (roll < 30 && write_next(client, seq)) {
        return;
    }
    if (roll < 60 && seal_next(client, seq)) {
        return;
    }
    if (roll < 75) {
        append(client, seq);
    } else if (roll < 85) {
        confirm(client, seq);
    } else if (roll < 89) {
        fork_seq(client, seq);
    } else if (roll < 93) {
        truncate_seq(client, seq);
    } else if (roll < 97) {
        end_seq(client, seq);
    }
}

/* ------------------------------------------------------------------ answers */

/* Tokens and pages as the node has them now; new or continued pages are raw. */
static void
grown(struct kvs_chaos_client *client, struct kvs_seq *seq, uint32_t n_tokens)
{
    uint32_t full = full_tokens(client);
    uint32_t before = seq->n_tokens;
    seq->n_tokens = n_tokens;
    if (n_tokens > before && before % full != 0) {
        struct kvs_seq_page *last = &seq->pages[before / full];
        bool own = !last->sealed; /* goes on in its frame */
        last->copied = !own || last->copied;
        if (!own) {
            last->from = last->want;
        }
        /* read_table() below files the old frame with its old content. */
        if (!own && last->ref.frame != KVP_NO_FRAME) {
            add_old(client, seq, before / full, last->want, last->ref);
            last->ref.frame = KVP_NO_FRAME;
        }
        last->want = KVS_WANT_RAW;
        last->begun = false;
        if (!own) {
            last->sealed = last->shared = false;
            last->nonce = 0;
        }
    }
    uint32_t nr_pages = (n_tokens + full - 1) / full;
    KV_ASSERT(nr_pages <= KVS_CHAOS_PAGES);
    for (uint32_t page = seq->nr_pages; page < nr_pages; page++) {
        seq->pages[page] = (struct kvs_seq_page){.ref = {KVP_NO_FRAME, 0}};
    }
    seq->nr_pages = nr_pages;
    read_table(client, seq);
}

static void cut(struct kvs_chaos_client *client, struct kvs_seq *seq, uint32_t n_tokens)
{
    uint32_t full = full_tokens(client);
    uint32_t nr_pages = (n_tokens + full - 1) / full;
    for (uint32_t page = nr_pages; page < seq->nr_pages; page++) {
        add_old(client, seq, page, seq->pages[page].want, seq->pages[page].ref);
    }
    bool into = n_tokens < seq->n_tokens && n_tokens % full != 0;
    seq->n_tokens = n_tokens;
    seq->nr_pages = nr_pages;
    if (into) {
        struct kvs_seq_page *last = &seq->pages[nr_pages - 1];
        last->begun = false;
        if (last->want == KVS_WANT_FULL && !last->sealed) {
            last->want = KVS_WANT_HALF;
        }
    }
    read_table(client, seq);
}

static void fetched(
    struct kvs_chaos_client *client, struct kvs_seq *seq,
    const struct kvo_answer *answer)
{
    kvs_world_t *world = client->chaos->world;
    kvp_pager_t *pager = kvo_pager(kvs_node(world, client->node));
    uint32_t n = seq->asked & ~(UINT32_C(1) << 31);
    bool tail = seq->asked >> 31 != 0 && answer->nr_hits == n;
    uint32_t full = full_tokens(client);
    seq->fetched = true;
    KV_ASSERT(answer->nr_hits <= n);
    client->chaos->counts.hits += answer->nr_hits;
    client->chaos->counts.misses += n - answer->nr_hits;
    seq->nr_pages = answer->nr_hits;
    seq->n_tokens = answer->nr_hits * full - (tail ? full / 2 : 0);
    for (uint32_t page = 0; page < answer->nr_hits; page++) {
        bool last = tail && page + 1 == answer->nr_hits;
        seq->pages[page] = (struct kvs_seq_page){
            .want = last ? KVS_WANT_TAIL : KVS_WANT_FULL,
            .sealed = true,
            .ref = {KVP_NO_FRAME, 0},
        };
    }
    if (!read_table(client, seq)) {
        return;
    }
    for (uint32_t page = 0; page < seq->nr_pages; page++) {
        struct kvp_info info;
        kv_status_t status = kvp_info(pager, seq->pages[page].ref, &info);
        if (status != KV_OK || info.state == KVP_FILLING || info.state == KVP_SEALING
            || info.state == KVP_ARRIVING) { /* (I2) */
            kvs_fail(
                world, "I2", "n%u: SEQ_FETCH adopted a page that is not sealed",
                client->node + 1);
        }
    }
}

static void forked(
    struct kvs_chaos_client *client, struct kvs_seq *seq,
    const struct kvo_answer *answer)
{
    struct kvs_seq *child = &client->seqs[seq->asked];
    if (answer->status != KV_OK) {
        *child = (struct kvs_seq){0};
        return;
    }
    *child = *seq;
    child->state = KVS_SEQ_IDLE;
    child->id = answer->seq;
    child->nr_old = 0;
    for (uint32_t page = 0; page < child->nr_pages; page++) {
        struct kvs_seq_page *model = &child->pages[page];
        model->ref.frame = KVP_NO_FRAME;
        if (!model->sealed) { /* being filled: the child has a copy of its own */
            model->copied = true;
            model->from = model->want;
            model->want = KVS_WANT_RAW;
            model->begun = false;
            model->shared = true;
            seq->pages[page].shared = true;
        }
    }
    read_table(client, child);
}

static void sealed(
    struct kvs_chaos_client *client, struct kvs_seq *seq,
    const struct kvo_answer *answer)
{
    kv_status_t status = answer->status;
    if (status == KV_OK && answer->statuses != NULL) {
        status = answer->statuses[0];
    }
    if (status == KV_OK || status == KV_SEALING || status == KV_EXISTS) {
        seq->pages[seq->sealing].sealed = true;
    }
    read_table(client, seq);
}

void kvs_chaos_seq_answer(
    struct kvs_chaos_client *client, uint32_t index, const struct kvo_answer *answer)
{
    struct kvs_seq *seq = &client->seqs[index];
    kvs_world_t *world = client->chaos->world;
    if (kvs_node(world, client->node) == NULL) {
        return; /* killed at this moment: lost() comes next */
    }
    enum kvo_op op = seq->op;
    seq->state = KVS_SEQ_IDLE;
    if (answer->status == KV_ERR_STALE || answer->status == KV_ERR_INVALID) {
        kvs_fail(
            world, "I3",
            "n%u answers %s to operation %d on a live sequence: %s limit "
            "%llu value %llu",
            client->node + 1, kv_status_name(answer->status), (int)op,
            answer->detail.field != NULL ? answer->detail.field : "-",
            (unsigned long long)answer->detail.limit,
            (unsigned long long)answer->detail.value);
        return;
    }
    if (op == KVO_SEQ_OPEN) {
        seq->id = answer->seq;
        seq->state = answer->status == KV_OK ? KVS_SEQ_IDLE : KVS_SEQ_NONE;
        return;
    }
    if (op == KVO_SEQ_END) {
        seq->state = answer->status == KV_OK ? KVS_SEQ_NONE : KVS_SEQ_IDLE;
        return;
    }
    struct kvp_seq_info info;
    if (kvp_seq_info(kvo_pager(kvs_node(world, client->node)), seq->id, &info)
        != KV_OK) {
        kvs_fail(world, "I3", "n%u: a live sequence is gone", client->node + 1);
        return;
    }
    if (op == KVO_SEQ_FETCH && answer->status == KV_OK) {
        fetched(client, seq, answer);
    } else if (op == KVO_SEQ_APPEND) {
        grown(client, seq, info.n_tokens);
    } else if (op == KVO_SEQ_TRUNCATE) {
        cut(client, seq, info.n_tokens);
    } else if (op == KVO_SEQ_FORK) {
        forked(client, seq, answer);
    } else if (op == KVO_SEQ_SEAL) {
        sealed(client, seq, answer);
    }
    check_seq(client, seq);
}

/* ------------------------------------------------------------------ death */

struct kvs_ghost {
    struct kvs_ghost *next, **link; /* of the chaos: a world may end before it writes */
    kvs_world_t *world;
    uint32_t node;
    uint64_t life;
    struct kvp_ref ref;
};

static void ghost_free(struct kvs_ghost *ghost)
{
    *ghost->link = ghost->next;
    if (ghost->next != NULL) {
        ghost->next->link = ghost->link;
    }
    free(ghost);
}

void kvs_chaos_ghosts_free(struct kvs_chaos *chaos)
{
    while (chaos->ghosts != NULL) {
        ghost_free(chaos->ghosts);
    }
}

static struct kvs_ghost *ghost_make(struct kvs_chaos *chaos)
{
    struct kvs_ghost *ghost = malloc(sizeof(*ghost));
    KV_ASSERT(ghost != NULL);
    *ghost = (struct kvs_ghost){.next = chaos->ghosts, .link = &chaos->ghosts};
    if (ghost->next != NULL) {
        ghost->next->link = &ghost->next;
    }
    chaos->ghosts = ghost;
    return ghost;
}

static void ghost_writes(void *arg, uint64_t value)
{
    struct kvs_ghost *ghost = arg;
    uint8_t *bytes = kvs_memory(ghost->world, ghost->node, ghost->ref);
    if (bytes != NULL && kvs_life(ghost->world, ghost->node) == ghost->life) {
        memset(bytes, (int)value, kvs_config(ghost->world)->page_bytes / 2);
    }
    ghost_free(ghost);
}

void kvs_chaos_zombie(struct kvs_chaos_client *client, uint64_t dead_us)
{
    for (unsigned i = 0; i < KVS_SEQS; i++) {
        struct kvs_seq *seq = &client->seqs[i];
        if (seq->state != KVS_SEQ_IDLE) {
            continue;
        }
        for (uint32_t page = 0; page < seq->nr_pages; page++) {
            if (seq->pages[page].sealed) {
                continue;
            }
            struct kvs_ghost *ghost = ghost_make(client->chaos);
            ghost->world = client->chaos->world;
            ghost->node = client->node;
            ghost->life = kvs_life(client->chaos->world, client->node);
            ghost->ref = seq->pages[page].ref;
            kvs_at(
                client->chaos->world, below(client, dead_us), ghost_writes, ghost,
                0xee);
        }
    }
}
