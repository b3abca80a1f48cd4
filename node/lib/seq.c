/* Sequences: requests out, and what their answers and the node's notices say of block
 * tables. */
#include "node/lib/lib_priv.h"

#include <errno.h>
#include <fcntl.h>

_Static_assert((int)KVR_OP_SEQ_OPEN == (int)KVN_OP_SEQ_OPEN, "one number");
_Static_assert((int)KVR_OP_SEQ_CHANGED == (int)KVN_OP_SEQ_CHANGED, "one number");
_Static_assert(sizeof(struct kvr_tail) == sizeof(struct kvn_seq_tail), "as it is");
_Static_assert(KVN_PACKET_ARENAS_MAX <= UINT8_MAX, "numbers of arenas are bytes");

enum {
    NO_SLOT = UINT32_MAX,
    SLOTS_FIRST = 16, /* doubled when they are all used */
    PAGES_FIRST = 64,
};

/* ------------------------------------------------------------------ slots */

static kvr_seq_t handle_of(const kvr_client_t *client, uint32_t slot)
{
    return (uint64_t)client->seqs[slot].gen << 32 | slot;
}

static struct kvr_sequence *seq_find(const kvr_client_t *client, kvr_seq_t handle)
{
    uint32_t slot = (uint32_t)handle;
    struct kvr_sequence *seq = slot < client->nr_seqs ? &client->seqs[slot] : NULL;
    return seq != NULL && seq->used && seq->gen == handle >> 32 ? seq : NULL;
}

static bool slots_grow(kvr_client_t *client)
{
    uint32_t nr = client->nr_seqs == 0 ? SLOTS_FIRST : 2 * client->nr_seqs;
    struct kvr_sequence *seqs = kv_calloc(nr, sizeof(*seqs));
    if (seqs == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < client->nr_seqs; i++) {
        seqs[i] = client->seqs[i];
    }
    for (uint32_t i = client->nr_seqs; i < nr; i++) {
        seqs[i].gen = 1; /* a handle is never 0 */
        seqs[i].next_free = i + 1 < nr ? i + 1 : NO_SLOT;
    }
    client->free_seq = client->nr_seqs;
    kv_free(client->seqs);
    client->seqs = seqs;
    client->nr_seqs = nr;
    return true;
}

static uint32_t slot_take(kvr_client_t *client)
{
    bool none = client->nr_seqs == 0 || client->free_seq == NO_SLOT;
    if (none && !slots_grow(client)) {
        return NO_SLOT;
    }
    uint32_t slot = client->free_seq;
    struct kvr_sequence *seq = &client->seqs[slot];
    KV_ASSERT(!seq->used);
    client->free_seq = seq->next_free;
    *seq = (struct kvr_sequence){.gen = seq->gen, .used = true};
    return slot;
}

static void slot_give(kvr_client_t *client, uint32_t slot)
{
    struct kvr_sequence *seq = &client->seqs[slot];
    KV_ASSERT(seq->used);
    client->nr_open -= seq->open;
    kv_free(seq->memory);
    *seq = (struct kvr_sequence){.gen = seq->gen + 1, .next_free = client->free_seq};
    client->free_seq = slot;
}

void kvr_seqs_free(kvr_client_t *client)
{
    for (uint32_t i = 0; i < client->nr_seqs; i++) {
        kv_free(client->seqs[i].memory);
    }
    kv_free(client->seqs);
}

/* (3) Room for `pages` in all. */
static bool table_grow(struct kvr_sequence *seq, uint32_t pages)
{
    if (pages <= seq->cap) {
        return true;
    }
    size_t cap = seq->cap == 0 ? PAGES_FIRST : seq->cap;
    while (cap < pages) {
        cap *= 2;
    }
    size_t each = sizeof(*seq->gens) + sizeof(*seq->blocks) + sizeof(*seq->arenas);
    void *memory = kv_calloc(cap, each);
    if (memory == NULL) {
        return false;
    }
    uint64_t *gens = memory;
    int32_t *blocks = (int32_t *)(void *)(gens + cap);
    uint8_t *arenas = (uint8_t *)(blocks + cap);
    if (seq->cap > 0) {
        memcpy(gens, seq->gens, seq->cap * sizeof(*gens));
        memcpy(blocks, seq->blocks, seq->cap * sizeof(*blocks));
        memcpy(arenas, seq->arenas, seq->cap * sizeof(*arenas));
    }
    kv_free(seq->memory);
    seq->memory = memory;
    seq->gens = gens;
    seq->blocks = blocks;
    seq->arenas = arenas;
    seq->cap = (uint32_t)cap;
    return true;
}

/* ------------------------------------------------------------------ requests */

static kv_status_t call_fields_check(
    const struct kvr_seq_call *call, const struct kvr_sequence *seq,
    struct kv_detail *detail)
{
    bool fetch = call->op == KVR_OP_SEQ_FETCH, append = call->op == KVR_OP_SEQ_APPEND;
    uint32_t most = fetch ? KVR_BATCH_MAX : 1;
    if ((fetch || call->op == KVR_OP_SEQ_SEAL)
        && (call->keys == NULL || call->nr_keys == 0 || call->nr_keys > most)) {
        return kv_fail(detail, KV_ERR_INVALID, "call.nr_keys", most, call->nr_keys);
    }
    if ((fetch || append)
        && (call->timeout_us == 0 || call->timeout_us > KVN_RING_TIMEOUT_MAX_US)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "call.timeout_us", KVN_RING_TIMEOUT_MAX_US,
            call->timeout_us);
    }
    uint64_t tokens_max = seq != NULL ? (uint64_t)KVR_BATCH_MAX * seq->page_tokens : 0;
    if (append && call->tokens > tokens_max) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "call.tokens", tokens_max, call->tokens);
    }
    return KV_OK;
}

/* *seq_p: NULL for OPEN. */
static kv_status_t call_check(
    const kvr_client_t *client, const struct kvr_seq_call *call,
    struct kvr_sequence **seq_p, struct kv_detail *detail)
{
    if (call->struct_size != sizeof(*call)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "call.struct_size", sizeof(*call),
            call->struct_size);
    }
    if (client->level != KVR_LEVEL_PAGER) {
        return kv_fail(
            detail, KV_ERR_INVALID, "client.level", KVR_LEVEL_PAGER, client->level);
    }
    if ((unsigned)call->op < KVR_OP_SEQ_OPEN || (unsigned)call->op > KVR_OP_SEQ_END) {
        return kv_fail(
            detail, KV_ERR_INVALID, "call.op", KVR_OP_SEQ_END, (uint64_t)call->op);
    }
    *seq_p = NULL;
    if (call->op == KVR_OP_SEQ_OPEN) {
        return kvr_space_of(client, call->variant) != NULL
                   ? KV_OK
                   : kv_fail(
                       detail, KV_ERR_INVALID, "call.variant", client->nr_spaces,
                       call->variant);
    }
    struct kvr_sequence *seq = seq_find(client, call->seq);
    if (seq == NULL || !seq->open || seq->ended) {
        return kv_fail(
            detail, KV_ERR_STALE, "call.seq", client->nr_open, (uint32_t)call->seq);
    }
    *seq_p = seq;
    return call_fields_check(call, seq, detail);
}

/* Pages that the table may have more, once it is answered. */
static uint32_t
pages_of(const struct kvr_seq_call *call, const struct kvr_sequence *seq)
{
    return call->op == KVR_OP_SEQ_FETCH    ? call->nr_keys
           : call->op == KVR_OP_SEQ_APPEND ? call->tokens / seq->page_tokens + 2
                                           : 0;
}

static void call_write(
    uint8_t *to, const struct kvr_seq_call *call, const struct kvr_sequence *seq,
    uint32_t bytes, uint64_t tag, uint64_t name)
{
    bool fetch = call->op == KVR_OP_SEQ_FETCH;
    bool keys = fetch || call->op == KVR_OP_SEQ_SEAL;
    bool tokens = fetch && call->n_tokens != NULL;
    struct kvn_request_head head = {
        .bytes = bytes,
        .type = KVN_RECORD_REQUEST,
        .op = (uint16_t)call->op,
        .tag = tag,
        .timeout_us = fetch || call->op == KVR_OP_SEQ_APPEND ? call->timeout_us : 0,
        .nr_keys = keys ? call->nr_keys : 0,
        .first_page = call->first_page,
        .variant = seq != NULL ? seq->variant : call->variant,
        .flags = tokens ? KVN_REQUEST_TOKENS : 0,
    };
    const struct kvn_request_seq about = {
        .seq = seq != NULL ? seq->id : 0,
        .name = name,
        .version = call->version,
        .page = call->page,
        .tokens = call->tokens,
    };
    if (keys && call->anchor != NULL) {
        memcpy(&head.anchor, call->anchor, sizeof(head.anchor));
    }
    if (keys && call->prev != NULL) {
        memcpy(&head.prev, call->prev, sizeof(head.prev));
    }
    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    memcpy(to, &about, sizeof(about));
    to += sizeof(about);
    if (keys) {
        memcpy(to, call->keys, call->nr_keys * sizeof(struct kvr_key));
        to += call->nr_keys * sizeof(struct kvr_key);
    }
    if (tokens) {
        memcpy(to, call->n_tokens, call->nr_keys * sizeof(uint32_t));
    }
}

/* The slot that the answer is for: a new one for OPEN and FORK, with room for what a
 * fork may share. NO_SLOT: no memory. */
static uint32_t call_slot(kvr_client_t *client, const struct kvr_seq_call *call)
{
    if (call->op != KVR_OP_SEQ_OPEN && call->op != KVR_OP_SEQ_FORK) {
        return (uint32_t)call->seq;
    }
    uint32_t slot = slot_take(client);
    if (slot == NO_SLOT) {
        return NO_SLOT;
    }
    struct kvr_sequence *seq = &client->seqs[slot];
    if (call->op == KVR_OP_SEQ_OPEN) {
        seq->variant = call->variant;
        seq->page_tokens = kvr_space_of(client, call->variant)->page_tokens;
        return slot;
    }
    const struct kvr_sequence *parent = seq_find(client, call->seq);
    seq->variant = parent->variant;
    seq->page_tokens = parent->page_tokens;
    if (!table_grow(seq, parent->nr_pages + parent->pending)) {
        slot_give(client, slot);
        return NO_SLOT;
    }
    return slot;
}

kvr_status_t kvr_seq_submit(kvr_client_t *client, const struct kvr_seq_call *call)
{
    struct kv_detail detail = {0};
    struct kvr_sequence *seq = NULL;
    if (client->gone) {
        return kvr_fail(client, KV_ERR_LINK_LOST, NULL);
    }
    kv_status_t status = call_check(client, call, &seq, &detail);
    if (status != KV_OK) {
        return kvr_fail(client, status, &detail);
    }
    uint32_t pages = seq != NULL ? pages_of(call, seq) : 0;
    if (seq != NULL && !table_grow(seq, seq->nr_pages + seq->pending + pages)) {
        return kvr_fail_text(client, KV_ERR_NOMEM, "nomem: a table of %u pages", pages);
    }
    uint32_t slot = call_slot(client, call); /* slots may have moved */
    if (slot == NO_SLOT) {
        return kvr_fail_text(client, KV_ERR_NOMEM, "nomem: one more sequence");
    }
    seq = call->op == KVR_OP_SEQ_OPEN ? NULL : seq_find(client, call->seq);
    bool fetch = call->op == KVR_OP_SEQ_FETCH;
    uint32_t nr_keys = fetch || call->op == KVR_OP_SEQ_SEAL ? call->nr_keys : 0;
    uint32_t bytes =
        kvn_request_bytes(call->op, nr_keys, fetch && call->n_tokens != NULL);
    struct kvr_flight *flight;
    uint8_t *to;
    status = kvr_request_begin(client, bytes, &to, &flight);
    if (status != KV_OK) {
        if (slot != (uint32_t)call->seq || seq == NULL) {
            slot_give(client, slot);
        }
        return status;
    }
    flight->tag = call->tag;
    flight->op = (uint8_t)call->op;
    flight->nr_keys = fetch ? nr_keys : 0;
    flight->seq = slot;
    flight->pages = pages;
    if (seq != NULL) {
        seq->pending += pages;
        seq->ended = call->op == KVR_OP_SEQ_END;
    }
    call_write(
        to, call, seq, bytes, kvr_flight_tag(client, flight), handle_of(client, slot));
    kvr_request_send(client);
    return KVR_OK;
}

/* ------------------------------------------------------------------ answers */

static kv_status_t broken(kvr_client_t *client, const char *what)
{
    (void)kvr_fail_text(client, KV_ERR_LINK_LOST, "link_lost: the node told %s", what);
    return KV_ERR_LINK_LOST;
}

/* What a record says of a table. */
static kv_status_t table_take(
    kvr_client_t *client, struct kvr_sequence *seq, const struct kvn_answer *answer)
{
    const struct kvn_answer_seq *told = &answer->seq;
    if (told->seq != seq->id || told->nr_pages > seq->cap) {
        return broken(client, "of a table that is not ours, or has no room");
    }
    seq->nr_pages = told->nr_pages;
    seq->n_tokens = told->n_tokens;
    seq->version = told->version;
    seq->known = seq->known < seq->nr_pages ? seq->known : seq->nr_pages;
    for (uint32_t i = 0; i < told->nr_entries; i++) {
        const struct kvn_seq_page *page = &answer->pages[i];
        uint32_t at = told->first_page + i;
        if (page->arena >= client->nr_arenas
            || page->block >= client->arenas[page->arena].nr_blocks) {
            return broken(client, "a block that there is not");
        }
        seq->gens[at] = page->gen;
        seq->blocks[at] = (int32_t)page->block;
        seq->arenas[at] = (uint8_t)page->arena;
    }
    uint32_t end = told->first_page + told->nr_entries;
    if (told->first_page <= seq->known && end > seq->known) {
        seq->known = end;
    }
    if ((told->flags & KVN_SEQ_MORE) == 0) {
        seq->known = seq->nr_pages;
    }
    if (told->nr_entries > 0) {
        bool none = seq->first >= seq->end;
        seq->first =
            none || told->first_page < seq->first ? told->first_page : seq->first;
        seq->end = none || end > seq->end ? end : seq->end;
    }
    seq->partial = seq->partial && (told->flags & KVN_SEQ_MORE) != 0;
    return KV_OK;
}

static void changed_give(struct kvr_sequence *seq, struct kvr_result *result)
{
    uint32_t end = seq->end < seq->known ? seq->end : seq->known;
    result->first_page = seq->first;
    result->nr_changed = end > seq->first ? end - seq->first : 0;
    seq->first = seq->end = 0;
}

static kv_status_t notice_take(
    kvr_client_t *client, const struct kvn_answer *answer, struct kvr_result *result)
{
    struct kvr_sequence *seq = seq_find(client, answer->seq.name);
    if (seq == NULL || !seq->open || (answer->seq.flags & KVN_SEQ_TABLE) == 0) {
        return broken(client, "of a sequence that there is not");
    }
    kv_status_t status = table_take(client, seq, answer);
    if (status != KV_OK) {
        return status;
    }
    if ((answer->seq.flags & KVN_SEQ_MORE) != 0) {
        return KV_ERR_AGAIN; /* told when it is whole */
    }
    *result = (struct kvr_result){
        .op = KVR_OP_SEQ_CHANGED, .status = KVR_OK, .seq = answer->seq.name};
    changed_give(seq, result);
    return KV_OK;
}

/* The sequence that OPEN or FORK was for is there; false: not. */
static bool made_take(
    kvr_client_t *client, const struct kvn_answer *answer,
    const struct kvr_flight *flight)
{
    if (answer->head.status != KV_OK) {
        slot_give(client, flight->seq);
        return false;
    }
    struct kvr_sequence *seq = &client->seqs[flight->seq];
    seq->open = true;
    seq->partial = true;
    seq->id = answer->seq.seq;
    client->nr_open++;
    return true;
}

kv_status_t kvr_seq_take(
    kvr_client_t *client, const struct kvn_answer *answer,
    const struct kvr_flight *flight, struct kvr_result *result)
{
    if (flight == NULL) {
        return notice_take(client, answer, result);
    }
    bool makes = flight->op == KVR_OP_SEQ_OPEN || flight->op == KVR_OP_SEQ_FORK;
    bool told = (answer->seq.flags & KVN_SEQ_TABLE) != 0;
    if (makes && answer->head.status == KV_OK && !told) {
        return broken(client, "of a sequence without a table");
    }
    bool there = !makes || made_take(client, answer, flight);
    struct kvr_sequence *seq = &client->seqs[flight->seq];
    *result = (struct kvr_result){
        .tag = flight->tag,
        .op = (enum kvr_op)flight->op,
        .status = answer->head.status,
        .nr_keys = answer->head.nr_keys,
        .statuses = answer->statuses,
        .reasons = answer->reasons,
        .places = answer->places,
        .seq = there ? handle_of(client, flight->seq) : 0,
        .nr_hits = answer->seq.nr_hits,
        .tails = (const struct kvr_tail *)(const void *)answer->tails,
        .nr_tails = answer->seq.nr_tails,
    };
    if (!there) {
        return KV_OK;
    }
    KV_ASSERT(seq->used && seq->open && seq->pending >= flight->pages);
    if (answer->seq.nr_hits > answer->head.nr_keys) {
        return broken(client, "of more hits than keys");
    }
    if (told) {
        kv_status_t status = table_take(client, seq, answer);
        if (status != KV_OK) {
            return status;
        }
        changed_give(seq, result);
    }
    seq->pending -= flight->pages;
    if (flight->op == KVR_OP_SEQ_END) {
        slot_give(client, flight->seq); /* whatever it said: nothing is left of it */
    }
    return KV_OK;
}

void kvr_seq_cancelled(
    kvr_client_t *client, const struct kvr_flight *flight, struct kvr_result *result)
{
    bool makes = flight->op == KVR_OP_SEQ_OPEN || flight->op == KVR_OP_SEQ_FORK;
    result->seq = makes ? 0 : handle_of(client, flight->seq);
    if (makes) {
        slot_give(client, flight->seq);
    }
}

/* ------------------------------------------------------------------ asking */

uint32_t kvr_arenas(const kvr_client_t *client, const struct kvr_arena **arenas_p)
{
    *arenas_p = client->arenas;
    return client->nr_arenas;
}

kvr_status_t
kvr_seq_table(kvr_client_t *client, kvr_seq_t handle, struct kvr_table *table_p)
{
    struct kv_detail detail = {0};
    const struct kvr_sequence *seq = seq_find(client, handle);
    if (seq == NULL || !seq->open) {
        kv_fail(&detail, KV_ERR_STALE, "table.seq", client->nr_open, (uint32_t)handle);
        return kvr_fail(client, KV_ERR_STALE, &detail);
    }
    if (seq->partial) {
        kv_fail(&detail, KV_ERR_AGAIN, "table.pages", seq->known, seq->nr_pages);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    uint64_t tokens = (uint64_t)seq->known * seq->page_tokens; /* (4) */
    *table_p = (struct kvr_table){
        .blocks = seq->blocks,
        .arenas = seq->arenas,
        .gens = seq->gens,
        .nr_pages = seq->known,
        .n_tokens = seq->n_tokens < tokens ? seq->n_tokens : (uint32_t)tokens,
        .version = seq->version,
    };
    return KVR_OK;
}
