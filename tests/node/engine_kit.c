#include "tests/node/engine_kit.h"

#include "base/assert.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

unsigned ek_nr_changed;
kvr_seq_t ek_last_changed;

static void changed(const struct kvr_result *result)
{
    KV_ASSERT(result->op == KVR_OP_SEQ_CHANGED && result->status == KVR_OK);
    ek_nr_changed++;
    ek_last_changed = result->seq;
}

struct kvr_result ek_call(kvr_client_t *client, const struct kvr_seq_call *call)
{
    static uint64_t tags;
    struct kvr_seq_call tagged = *call;
    struct kvr_result result;
    tagged.struct_size = sizeof(tagged);
    tagged.tag = ++tags;
    tagged.timeout_us = LK_LATER_US;
    kvr_status_t status = kvr_seq_submit(client, &tagged);
    if (status != KVR_OK) {
        fprintf(stderr, "op %d: %s\n", (int)call->op, kvr_error(client));
    }
    KV_ASSERT(status == KVR_OK);
    for (;;) {
        KV_ASSERT(kvr_next(client, 2 * LK_LATER_US, &result) == KVR_OK);
        if (result.op != KVR_OP_SEQ_CHANGED) {
            break;
        }
        changed(&result);
    }
    KV_ASSERT(result.tag == tags && result.op == call->op);
    return result;
}

kvr_seq_t ek_open(kvr_client_t *client)
{
    const struct kvr_seq_call call = {.op = KVR_OP_SEQ_OPEN};
    struct kvr_result result = ek_call(client, &call);
    KV_ASSERT(result.status == KVR_OK && result.seq != 0);
    return result.seq;
}

uint32_t
ek_fetch(kvr_client_t *client, kvr_seq_t seq, uint32_t at, uint64_t first, uint32_t n)
{
    struct kvr_key keys[KVR_BATCH_MAX];
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = lk_key(first + i);
    }
    const struct kvr_seq_call call = {
        .op = KVR_OP_SEQ_FETCH,
        .seq = seq,
        .keys = keys,
        .nr_keys = n,
        .first_page = at,
        .anchor = keys,
    };
    struct kvr_result result = ek_call(client, &call);
    KV_ASSERT(result.status == KVR_OK && result.nr_keys == n && result.nr_hits <= n);
    for (uint32_t i = 0; i < n; i++) {
        KV_ASSERT((result.statuses[i] == KVR_OK) == (i < result.nr_hits));
    }
    return result.nr_hits;
}

static kvr_status_t simple(kvr_client_t *client, const struct kvr_seq_call *call)
{
    return ek_call(client, call).status;
}

kvr_status_t ek_append(kvr_client_t *client, kvr_seq_t seq, uint32_t tokens)
{
    return simple(
        client,
        &(struct kvr_seq_call){.op = KVR_OP_SEQ_APPEND, .seq = seq, .tokens = tokens});
}

kvr_status_t
ek_seal(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number)
{
    const struct kvr_key key = lk_key(number), before = lk_key(number - 1);
    return simple(
        client, &(struct kvr_seq_call){
                    .op = KVR_OP_SEQ_SEAL,
                    .seq = seq,
                    .keys = &key,
                    .nr_keys = 1,
                    .anchor = &key,
                    .prev = &before,
                    .page = page});
}

kvr_status_t ek_confirm(kvr_client_t *client, kvr_seq_t seq, uint64_t version)
{
    return simple(
        client, &(struct kvr_seq_call){
                    .op = KVR_OP_SEQ_CONFIRM, .seq = seq, .version = version});
}

kvr_status_t ek_truncate(kvr_client_t *client, kvr_seq_t seq, uint32_t tokens)
{
    return simple(
        client, &(struct kvr_seq_call){
                    .op = KVR_OP_SEQ_TRUNCATE, .seq = seq, .tokens = tokens});
}

kvr_seq_t ek_fork(kvr_client_t *client, kvr_seq_t seq)
{
    const struct kvr_seq_call call = {.op = KVR_OP_SEQ_FORK, .seq = seq};
    return ek_call(client, &call).seq;
}

kvr_status_t ek_end(kvr_client_t *client, kvr_seq_t seq)
{
    return simple(client, &(struct kvr_seq_call){.op = KVR_OP_SEQ_END, .seq = seq});
}

struct kvr_table ek_table(kvr_client_t *client, kvr_seq_t seq)
{
    struct kvr_table table;
    KV_ASSERT(kvr_seq_table(client, seq, &table) == KVR_OK);
    return table;
}

uint8_t *ek_at(kvr_client_t *client, kvr_seq_t seq, uint32_t page)
{
    const struct kvr_arena *arenas;
    struct kvr_table table = ek_table(client, seq);
    KV_ASSERT(page < table.nr_pages);
    KV_ASSERT(table.arenas[page] < kvr_arenas(client, &arenas));
    const struct kvr_arena *arena = &arenas[table.arenas[page]];
    return (uint8_t *)arena->base + (size_t)table.blocks[page] * arena->block_bytes;
}

void ek_grow(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number)
{
    KV_ASSERT(ek_append(client, seq, LK_PAGE_TOKENS) == KVR_OK);
    lk_page(ek_at(client, seq, page), number);
    kvr_status_t status = ek_seal(client, seq, page, number);
    KV_ASSERT(status == KVR_SEALING || status == KVR_EXISTS);
}

bool ek_holds(kvr_client_t *client, kvr_seq_t seq, uint32_t page, uint64_t number)
{
    uint8_t wanted[LK_PAGE_BYTES];
    lk_page(wanted, number);
    return memcmp(ek_at(client, seq, page), wanted, sizeof(wanted)) == 0;
}

kvr_seq_t ek_await_changed(kvr_client_t *client)
{
    struct kvr_result result;
    KV_ASSERT(kvr_next(client, LK_LATER_US, &result) == KVR_OK);
    changed(&result);
    return result.seq;
}

void ek_await_frames(struct lk *lk, enum kvp_frame_state state, uint32_t n)
{
    for (unsigned i = 0; lk_frames(lk, state) != n; i++) {
        if (i == 5000) {
            fprintf(
                stderr, "%u frames are %s, not %u\n", lk_frames(lk, state),
                kvp_state_name(state), n);
        }
        KV_ASSERT(i < 5000);
        usleep(1000);
    }
}
