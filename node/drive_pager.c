/* One request of the pager level: what an engine that computes in place would do.
 *
 *   OPEN ──► FETCH ──► check each hit where it lies ──► FETCH … ──► a page is missing
 *     ──► (APPEND 4 pages ──► "compute" into their blocks ──► SEAL each ──► CONFIRM)*
 *     ──► END                  APPEND: AGAIN, later
 *
 * (1) A sequence belongs to one life of its node: after that its handle names nothing.
 * (2) The next step begins when every result of the one before is in.
 */
#include "node/drive_priv.h"

#include "base/assert.h"

#include <string.h>

enum {
    AGAIN_US = 2000,  /* pause before asking again for frames */
    AGAIN_MAX = 5000, /* 10 s without a frame: the rest is not kept */
};

static struct kvn_drive_end *
end_of(struct kvn_drive_run *run, const struct kvn_drive_flight *flight)
{
    return &run->ends[flight->node];
}

static uint32_t
left_of(const struct kvn_drive_run *run, const struct kvn_drive_flight *flight)
{
    return kvn_drive_pages(run, flight->request) - flight->done;
}

/* Where the sequence's page lies. */
static uint8_t *
page_at(struct kvn_drive_run *run, const struct kvn_drive_flight *flight, uint32_t page)
{
    const struct kvr_arena *arenas;
    struct kvr_table table;
    kvr_client_t *client = end_of(run, flight)->client;
    uint32_t nr = kvr_arenas(client, &arenas);
    if (kvr_seq_table(client, flight->seq, &table) != KVR_OK || page >= table.nr_pages
        || table.arenas[page] >= nr) {
        return NULL;
    }
    const struct kvr_arena *arena = &arenas[table.arenas[page]];
    return (uint8_t *)arena->base + (size_t)table.blocks[page] * arena->block_bytes;
}

/* ------------------------------------------------------------------ asking */

static bool
ask(struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    struct kvr_seq_call *call)
{
    struct kvn_drive_end *end = end_of(run, flight);
    bool old = flight->seq != 0 && flight->life != end->life; /* (1) */
    if (end->client == NULL || old) {
        return false;
    }
    call->struct_size = sizeof(*call);
    call->tag = (uint64_t)(flight - run->flights);
    call->timeout_us = run->config->timeout_us;
    call->seq = flight->seq;
    call->variant = end->space.variant;
    flight->life = end->life;
    if (kvr_seq_submit(end->client, call) != KVR_OK) {
        return false;
    }
    flight->out++;
    return true;
}

static bool ask_fetch(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    uint32_t left = left_of(run, flight);
    flight->n = left < KVN_DRIVE_WINDOW ? left : KVN_DRIVE_WINDOW;
    for (uint32_t i = 0; i < flight->n; i++) {
        const kv_key_t *key = kvn_drive_key(run, flight->request, flight->done + i);
        memcpy(run->scratch[i].bytes, key, KVR_KEY_BYTES);
    }
    const struct kvr_key anchor = kvn_drive_anchor(run, flight->request, flight->done);
    struct kvr_seq_call call = {
        .op = KVR_OP_SEQ_FETCH,
        .keys = run->scratch,
        .nr_keys = flight->n,
        .first_page = flight->done,
        .anchor = &anchor,
    };
    return ask(run, flight, &call);
}

static bool ask_append(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    uint32_t left = left_of(run, flight);
    flight->n = left < KVN_DRIVE_CHUNK ? left : KVN_DRIVE_CHUNK;
    flight->step = KVN_DRIVE_APPENDING;
    struct kvr_seq_call call = {
        .op = KVR_OP_SEQ_APPEND, .tokens = flight->n * run->trace->page_tokens};
    return ask(run, flight, &call);
}

/* Writes the pages of the chunk where they lie, and seals each. */
static bool ask_seals(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    flight->step = KVN_DRIVE_PUTTING;
    for (uint32_t i = 0; i < flight->n; i++) {
        uint32_t page = flight->done + i;
        const kv_key_t *key = kvn_drive_key(run, flight->request, page);
        uint8_t *at = page_at(run, flight, page);
        if (at == NULL) {
            return false;
        }
        kvn_drive_write(at, run->drive->page_bytes, key);
        const struct kvr_key anchor = kvn_drive_anchor(run, flight->request, page);
        memcpy(run->scratch[0].bytes, key, KVR_KEY_BYTES);
        struct kvr_seq_call call = {
            .op = KVR_OP_SEQ_SEAL,
            .keys = run->scratch,
            .nr_keys = 1,
            .anchor = &anchor,
            .page = page,
        };
        if (!ask(run, flight, &call)) {
            return false;
        }
    }
    return true;
}

static bool ask_confirm(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    struct kvr_table table;
    if (kvr_seq_table(end_of(run, flight)->client, flight->seq, &table) != KVR_OK) {
        return false;
    }
    struct kvr_seq_call call = {.op = KVR_OP_SEQ_CONFIRM, .version = table.version};
    return ask(run, flight, &call);
}

static bool ask_end(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    struct kvr_seq_call call = {.op = KVR_OP_SEQ_END};
    run->drive->unkept += left_of(run, flight);
    flight->done = kvn_drive_pages(run, flight->request);
    flight->step = KVN_DRIVE_ENDING;
    return ask(run, flight, &call);
}

/* ------------------------------------------------------------------ steps */

/* Was the next thing asked for? Else what is left of the request is lost, as soon as
 * nothing of it is out any more (2). */
static void
asked(struct kvn_drive_run *run, struct kvn_drive_flight *flight, bool whole)
{
    flight->lost = flight->lost || !whole;
    if (!flight->lost || flight->out > 0) {
        return;
    }
    kvn_drive_lost(run, flight);
    flight->lost = false;
    if (flight->step == KVN_DRIVE_ENDING || flight->seq == 0 || !ask_end(run, flight)) {
        kvn_drive_flight_end(run, flight);
    }
}

static bool grow_or_end(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    return left_of(run, flight) > 0 ? ask_append(run, flight) : ask_end(run, flight);
}

void kvn_drive_pager_start(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    struct kvr_seq_call call = {.op = KVR_OP_SEQ_OPEN};
    asked(run, flight, ask(run, flight, &call));
}

void kvn_drive_pager_due(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    bool computed = flight->step == KVN_DRIVE_COMPUTING;
    bool old = flight->life != end_of(run, flight)->life
               || end_of(run, flight)->client == NULL; /* (1) */
    flight->until_us = 0;
    asked(
        run, flight,
        !old && (computed ? ask_seals(run, flight) : ask_append(run, flight)));
}

static bool fetched(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    uint32_t hits = result->status == KVR_OK ? result->nr_hits : 0;
    for (uint32_t i = 0; i < hits; i++) {
        const kv_key_t *key = kvn_drive_key(run, flight->request, flight->done + i);
        const uint8_t *at = page_at(run, flight, flight->done + i);
        if (at == NULL) {
            return false;
        }
        run->drive->wrong_bytes += kvn_drive_wrong(at, run->drive->page_bytes, key);
        run->drive->checked_bytes += run->drive->page_bytes;
        kvn_drive_hit(run, flight->request, result->places[i]);
    }
    flight->done += hits;
    if (hits == flight->n && left_of(run, flight) > 0) {
        return ask_fetch(run, flight);
    }
    if (hits < flight->n) {
        uint8_t reason =
            result->status == KVR_OK ? result->reasons[hits] : KV_MISS_TOO_SLOW;
        kvn_drive_misses(run, flight->request, reason, left_of(run, flight));
    }
    return grow_or_end(run, flight);
}

static bool appended(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    if (result->status == KVR_OK) {
        flight->tries = 0;
        flight->step = KVN_DRIVE_COMPUTING;
        flight->until_us = kvn_drive_now_us() + flight->n * run->config->compute_us;
        return true;
    }
    if (result->status == KVR_AGAIN && ++flight->tries < AGAIN_MAX) {
        flight->until_us = kvn_drive_now_us() + AGAIN_US;
        return true;
    }
    return ask_end(run, flight);
}

static bool sealed(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    run->drive->stored += result->status == KVR_SEALING;
    run->drive->existed += result->status == KVR_EXISTS;
    run->drive->unkept += result->status < 0;
    return flight->out > 0 || ask_confirm(run, flight); /* (2) */
}

static bool next(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    switch (result->op) {
    case KVR_OP_SEQ_OPEN:
        flight->seq = result->seq;
        if (result->status != KVR_OK) {
            return false;
        }
        return left_of(run, flight) > 0 ? ask_fetch(run, flight) : ask_end(run, flight);
    case KVR_OP_SEQ_FETCH:
        return fetched(run, flight, result);
    case KVR_OP_SEQ_APPEND:
        return appended(run, flight, result);
    case KVR_OP_SEQ_SEAL:
        return sealed(run, flight, result);
    case KVR_OP_SEQ_CONFIRM:
        flight->done += flight->n;
        return grow_or_end(run, flight);
    default:
        KV_ASSERT(result->op == KVR_OP_SEQ_END);
        kvn_drive_flight_end(run, flight);
        return true;
    }
}

void kvn_drive_pager_ended(
    struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    KV_ASSERT(flight->out > 0);
    flight->out--;
    flight->lost = flight->lost || result->status == KVR_CANCELLED;
    asked(run, flight, flight->lost || next(run, flight, result));
}
