/* Batches into the request ring, results out of the answer ring. */
#include "node/lib/lib_priv.h"

#include <errno.h>
#include <poll.h>

_Static_assert((int)KVR_BATCH_MAX == (int)KVN_RING_KEYS_MAX, "one batch, one request");
_Static_assert((int)KVR_FLIGHT_MAX == (int)KVN_RING_REQUESTS_MAX, "as the node");
_Static_assert((int)KVR_OP_EXISTS == (int)KVN_OP_EXISTS, "one number");
_Static_assert((int)KVR_OP_DROP == (int)KVN_OP_DROP, "one number");

/* ------------------------------------------------------------------ submit */

const struct kvn_packet_space *
kvr_space_of(const kvr_client_t *client, uint16_t variant)
{
    for (uint32_t i = 0; i < client->nr_spaces; i++) {
        const struct kvn_packet_space *s = &client->spaces[i];
        if (variant >= s->first_variant && variant - s->first_variant < s->nr_groups) {
            return s;
        }
    }
    return NULL;
}

static kv_status_t places_check(
    const kvr_client_t *client, const struct kvr_batch *batch, uint32_t page_bytes,
    struct kv_detail *detail)
{
    for (uint32_t i = 0; i < batch->nr_keys; i++) {
        const struct kvr_at *at = &batch->at[i];
        const struct kvr_memory *memory =
            &client->buffers[at->buffer % KVR_BUFFERS_MAX];
        if (!memory->used || memory->id != at->buffer) {
            return kv_fail(
                detail, KV_ERR_STALE, "batch.at.buffer", KVR_BUFFERS_MAX, at->buffer);
        }
        if (memory->bytes < page_bytes || at->offset > memory->bytes - page_bytes) {
            return kv_fail(
                detail, KV_ERR_INVALID, "batch.at.offset",
                memory->bytes < page_bytes ? 0 : memory->bytes - page_bytes,
                at->offset);
        }
    }
    return KV_OK;
}

/* *pool_p: the pool that it moves pages of; NULL: buffers, or nothing. */
static kv_status_t batch_check(
    kvr_client_t *client, const struct kvr_batch *batch, struct kvr_pool_state **pool_p,
    struct kv_detail *detail)
{
    *pool_p = NULL;
    if (batch->struct_size != sizeof(*batch)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.struct_size", sizeof(*batch),
            batch->struct_size);
    }
    if ((unsigned)batch->op >= KVN_RING_OPS) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.op", KVN_RING_OPS - 1, (uint64_t)batch->op);
    }
    if (batch->nr_keys == 0 || batch->nr_keys > KVR_BATCH_MAX || batch->keys == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.nr_keys", KVR_BATCH_MAX, batch->nr_keys);
    }
    const struct kvn_packet_space *space = kvr_space_of(client, batch->variant);
    if (space == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.variant", client->nr_spaces, batch->variant);
    }
    bool moves = kvn_op_moves(batch->op);
    bool waits = moves || batch->op == KVR_OP_EXISTS;
    if (batch->timeout_us > KVN_RING_TIMEOUT_MAX_US
        || (waits && batch->timeout_us == 0)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "batch.timeout_us", KVN_RING_TIMEOUT_MAX_US,
            batch->timeout_us);
    }
    if (!moves) {
        return KV_OK;
    }
    if (batch->at == NULL) {
        return kv_fail(detail, KV_ERR_INVALID, "batch.at", batch->nr_keys, 0);
    }
    *pool_p = kvr_pool_find(client, batch->at[0].buffer);
    return *pool_p != NULL
               ? kvr_pool_check(*pool_p, batch, space->page_bytes, detail)
               : places_check(client, batch, space->page_bytes, detail);
}

void kvr_request_write(
    uint8_t *to, const struct kvr_batch *batch, uint64_t tag, uint32_t bytes,
    bool remote)
{
    uint32_t n = batch->nr_keys;
    int loose = batch->loose ? KVN_REQUEST_LOOSE : 0;
    int tokens = batch->n_tokens != NULL ? KVN_REQUEST_TOKENS : 0;
    struct kvn_request_head head = {
        .bytes = bytes,
        .type = KVN_RECORD_REQUEST,
        .op = (uint16_t)batch->op,
        .tag = tag,
        .timeout_us = batch->timeout_us,
        .nr_keys = n,
        .first_page = batch->first_page,
        .variant = batch->variant,
        .flags = (uint16_t)(loose | tokens),
    };
    if (batch->anchor != NULL) {
        memcpy(&head.anchor, batch->anchor, sizeof(head.anchor));
    }
    if (batch->prev != NULL) {
        memcpy(&head.prev, batch->prev, sizeof(head.prev));
    }
    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    memcpy(to, batch->keys, n * sizeof(struct kvr_key));
    to += n * sizeof(struct kvr_key);
    for (uint32_t i = 0; kvn_op_moves(batch->op) && i < n; i++) {
        uint64_t address =
            remote ? 0
                   : (uint64_t)batch->at[i].buffer << KVN_OFFSET_BITS
                         | batch->at[i].offset;
        memcpy(to, &address, sizeof(address));
        to += sizeof(address);
    }
    if (batch->n_tokens != NULL) {
        memcpy(to, batch->n_tokens, n * sizeof(uint32_t));
    }
}

struct kvr_flight *kvr_flight_take(kvr_client_t *client)
{
    uint16_t index = client->free_flight;
    struct kvr_flight *flight = &client->flights[index];
    KV_ASSERT(index < KVR_FLIGHT_MAX && !flight->used);
    client->free_flight = flight->next_free;
    client->nr_flights++;
    flight->used = true;
    return flight;
}

kvr_status_t kvr_request_begin(
    kvr_client_t *client, uint32_t bytes, uint8_t **to_p, struct kvr_flight **flight_p)
{
    struct kv_detail detail = {0};
    if (client->nr_flights == KVR_FLIGHT_MAX) {
        kv_fail(
            &detail, KV_ERR_AGAIN, "client.flights", KVR_FLIGHT_MAX,
            KVR_FLIGHT_MAX + 1);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    kv_status_t status = kvn_ring_room(&client->requests, bytes, to_p, &detail);
    if (status == KV_ERR_AGAIN) {
        kv_fail(&detail, KV_ERR_AGAIN, "ring.bytes", client->ring_bytes, bytes);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    if (status != KV_OK) {
        client->gone = true; /* (2) */
        return kvr_fail(client, KV_ERR_LINK_LOST, &detail);
    }
    *flight_p = kvr_flight_take(client);
    return KVR_OK;
}

uint64_t kvr_flight_tag(const kvr_client_t *client, const struct kvr_flight *flight)
{
    return (uint64_t)flight->gen << 16 | (uint64_t)(flight - client->flights);
}

struct kvr_flight *kvr_flight_of(kvr_client_t *client, uint64_t tag)
{
    const uint64_t index = tag & 0xffff;
    struct kvr_flight *flight = index < KVR_FLIGHT_MAX ? &client->flights[index] : NULL;
    return flight != NULL && flight->used && tag >> 16 == flight->gen ? flight : NULL;
}

struct kvr_flight *
kvr_flight_answered(kvr_client_t *client, const struct kvn_answer *answer)
{
    const struct kvn_answer_head *head = &answer->head;
    struct kvr_flight *flight = kvr_flight_of(client, head->tag);
    if (flight == NULL || head->op != flight->op
        || (head->nr_keys != 0 && head->nr_keys != flight->nr_keys)
        || (head->nr_keys == 0 && flight->nr_keys != 0 && head->status == KV_OK)) {
        return NULL;
    }
    return flight;
}

void kvr_request_send(kvr_client_t *client)
{
    kvn_ring_put(&client->requests);
    if (kvn_ring_must_wake(&client->rings->node_sleeps, KVN_ASLEEP)) {
        kvr_wake_node(client);
    }
}

kvr_status_t kvr_submit(kvr_client_t *client, const struct kvr_batch *batch)
{
    struct kv_detail detail = {0};
    struct kvr_flight *flight;
    uint8_t *to;
    if (client->gone) {
        return kvr_fail(client, KV_ERR_LINK_LOST, NULL);
    }
    struct kvr_pool_state *pool;
    kv_status_t status = batch_check(client, batch, &pool, &detail);
    if (status != KV_OK) {
        return kvr_fail(client, status, &detail);
    }
    if (client->remote != NULL) {
        return kvr_remote_submit(client, batch, pool);
    }
    uint32_t bytes =
        kvn_request_bytes(batch->op, batch->nr_keys, batch->n_tokens != NULL);
    status = kvr_request_begin(client, bytes, &to, &flight);
    if (status != KV_OK) {
        return status;
    }
    flight->tag = batch->tag;
    flight->op = (uint8_t)batch->op;
    flight->nr_keys = batch->nr_keys;
    struct kvr_batch sent = *batch;
    if (pool != NULL) {
        kvr_pool_begin(client, pool, flight, &sent);
    }
    kvr_request_write(to, &sent, kvr_flight_tag(client, flight), bytes, false);
    kvr_request_send(client);
    return KVR_OK;
}

/* ------------------------------------------------------------------ results */

void kvr_flight_give(
    kvr_client_t *client, struct kvr_flight *flight, const int32_t *statuses)
{
    KV_ASSERT(flight->used && client->nr_flights > 0);
    if (flight->pool != NULL) {
        kvr_pool_end(flight, statuses);
    }
    flight->used = false;
    flight->gen++;
    flight->next_free = client->free_flight;
    client->free_flight = (uint16_t)(flight - client->flights);
    client->nr_flights--;
}

static void statuses_whole(
    kvr_client_t *client, const struct kvr_flight *flight, kvr_status_t status,
    struct kvr_result *result)
{
    for (uint32_t i = 0; i < flight->nr_keys; i++) {
        client->statuses[i] = status;
    }
    result->nr_keys = flight->nr_keys;
    result->statuses = client->statuses;
    result->reasons = result->places = client->zeros;
}

void kvr_result_whole(
    kvr_client_t *client, const struct kvr_flight *flight, kvr_status_t status,
    struct kvr_result *result)
{
    *result = (struct kvr_result){
        .tag = flight->tag,
        .op = (enum kvr_op)flight->op,
        .status = status,
    };
    statuses_whole(client, flight, status, result);
}

/* Of a refusal of the whole, and of what a sequence's operation came to. */
void kvr_error_take(kvr_client_t *client, const struct kvn_answer *answer)
{
    const struct kv_detail detail = {
        .field = answer->head.field[0] != '\0' ? answer->head.field : NULL,
        .limit = answer->head.limit,
        .value = answer->head.value,
    };
    (void)kvr_fail(client, (kv_status_t)answer->head.status, &detail);
}

void kvr_result_answer(
    kvr_client_t *client, const struct kvr_flight *flight,
    const struct kvn_answer *answer, struct kvr_result *result)
{
    if (answer->head.nr_keys == 0) {
        kvr_error_take(client, answer);
        kvr_result_whole(client, flight, answer->head.status, result);
        return;
    }
    *result = (struct kvr_result){
        .tag = flight->tag,
        .op = (enum kvr_op)flight->op,
        .status = answer->head.status,
        .nr_keys = answer->head.nr_keys,
        .statuses = answer->statuses,
        .reasons = answer->reasons,
        .places = answer->places,
    };
}

/* (1) The node's answer to one of our batches, or LINK_LOST when it is not. A notice
 * that the caller is not told is AGAIN. */
static kv_status_t
answer_take(kvr_client_t *client, uint32_t len, struct kvr_result *result)
{
    struct kv_detail detail = {0};
    struct kvn_answer answer;
    kv_status_t status = kvn_answer_read(client->copy, len, &answer, &detail);
    if (status != KV_OK) {
        (void)kvr_fail(client, status, &detail);
        return KV_ERR_LINK_LOST;
    }
    if (answer.head.type == KVN_RECORD_NOTICE) {
        return kvr_seq_take(client, &answer, NULL, result);
    }
    struct kvr_flight *flight = kvr_flight_answered(client, &answer);
    if (flight == NULL) {
        (void)kvr_fail_text(
            client, KV_ERR_LINK_LOST, "link_lost: an answer to no batch of ours");
        return KV_ERR_LINK_LOST;
    }
    if (kvn_op_seq(flight->op)) {
        if (answer.head.status < 0) {
            kvr_error_take(client, &answer);
        }
        status = kvr_seq_take(client, &answer, flight, result);
        if (status == KV_OK && answer.head.nr_keys < flight->nr_keys) {
            statuses_whole(client, flight, answer.head.status, result);
        }
    } else {
        kvr_result_answer(client, flight, &answer, result);
    }
    if (status == KV_OK) {
        kvr_flight_give(client, flight, result->statuses);
    }
    return status;
}

/* OK; AGAIN: nothing there. LINK_LOST: a node that has written nonsense is gone. */
static kv_status_t ring_next(kvr_client_t *client, struct kvr_result *result)
{
    kv_status_t status = client->nonsense ? KV_ERR_LINK_LOST : KV_ERR_AGAIN;
    while (status == KV_ERR_AGAIN) {
        struct kv_detail detail = {0};
        uint32_t len;
        status = kvn_ring_peek(
            &client->answers, client->copy, KVN_SEQ_ANSWER_BYTES_MAX, &len, &detail);
        if (status == KV_ERR_AGAIN) {
            return status;
        }
        if (status != KV_OK) {
            (void)kvr_fail(client, KV_ERR_LINK_LOST, &detail);
            break;
        }
        kvn_ring_take(&client->answers);
        if (kvn_ring_must_wake(&client->rings->node_sleeps, KVN_WANTS_ROOM)) {
            kvr_wake_node(client);
        }
        status = answer_take(client, len, result);
    }
    if (status != KV_OK) {
        client->gone = client->nonsense = true;
        return KV_ERR_LINK_LOST;
    }
    return KV_OK;
}

/* The node is gone and its ring is empty: what is in flight ends now, one a call. */
kvr_status_t kvr_cancelled_next(kvr_client_t *client, struct kvr_result *result)
{
    for (uint32_t i = 0; i < KVR_FLIGHT_MAX && client->nr_flights > 0; i++) {
        struct kvr_flight *flight = &client->flights[i];
        if (flight->used) {
            kvr_result_whole(client, flight, KVR_CANCELLED, result);
            if (kvn_op_seq(flight->op)) {
                kvr_seq_cancelled(client, flight, result);
            }
            kvr_flight_give(client, flight, client->statuses);
            return KVR_OK;
        }
    }
    return KVR_LINK_LOST;
}

static void sleep_flag(kvr_client_t *client, uint32_t flag)
{
    /* Sequentially consistent: before the second look at the ring, see
     * kvn_ring_put(). */
    atomic_store_explicit(&client->rings->client_sleeps, flag, memory_order_seq_cst);
}

int kvr_arm(kvr_client_t *client)
{
    if (client->remote != NULL) {
        return kvr_remote_arm(client);
    }
    kvr_socket_drain(client);
    if (client->gone) {
        return 0;
    }
    sleep_flag(client, KVN_ASLEEP);
    if (kvn_ring_any(&client->answers)) {
        sleep_flag(client, KVN_AWAKE);
        return 0;
    }
    return 1;
}

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* True when there may be something: an answer, or the node's end. */
static bool spin(const kvr_client_t *client, uint64_t until_us)
{
    do {
        for (unsigned i = 0; i < 64; i++) {
            if (kvn_ring_any(&client->answers)) {
                return true;
            }
            relax();
        }
    } while (kvr_now_us() < until_us);
    return false;
}

/* Spinning for what takes longer only keeps a core from those who would bring it: with
 * more threads than cores that halved what four clients got (docs/measurements.md,
 * "Nodes"). So the next spin is as long as this wait says that it is worth. */
static void learn(kvr_client_t *client, uint64_t began_us)
{
    if (!kvn_ring_any(&client->answers)) {
        return; /* the caller's time is over, or the node is gone: it says nothing */
    }
    uint64_t longer = 2 * client->spin_now_us + 1;
    if (kvr_now_us() - began_us > client->spin_us) {
        client->spin_now_us /= 2;
    } else {
        client->spin_now_us = longer < client->spin_us ? longer : client->spin_us;
    }
}

static void wait_for(kvr_client_t *client, uint64_t until_us)
{
    const uint64_t began = kvr_now_us();
    uint64_t now = began, spun = now + client->spin_now_us;
    if (spin(client, spun < until_us ? spun : until_us) || !kvr_arm(client)) {
        learn(client, began);
        return;
    }
    now = kvr_now_us();
    if (now < until_us) {
        struct pollfd readable = {.fd = client->fd, .events = POLLIN};
        uint64_t ms = (until_us - now + 999) / 1000;
        (void)poll(&readable, 1, ms > 60000 ? 60000 : (int)ms);
    }
    sleep_flag(client, KVN_AWAKE);
    kvr_socket_drain(client);
    learn(client, began);
}

kvr_status_t
kvr_next(kvr_client_t *client, uint64_t timeout_us, struct kvr_result *result_p)
{
    if (client->remote != NULL) {
        return kvr_remote_next(client, timeout_us, result_p);
    }
    uint64_t now = kvr_now_us();
    uint64_t until = timeout_us < UINT64_MAX - now ? now + timeout_us : UINT64_MAX;
    for (;;) {
        /* What the node had answered before it went is an answer. */
        if (ring_next(client, result_p) == KV_OK) {
            return KVR_OK;
        }
        if (client->gone) {
            return kvr_cancelled_next(client, result_p);
        }
        bool none = client->nr_flights == 0 && client->nr_open == 0;
        if (now - client->looked_us >= KVR_LOOK_US || none) {
            kvr_socket_drain(client);
            if (client->gone) {
                continue;
            }
        }
        if (now >= until || none) {
            return KVR_AGAIN;
        }
        wait_for(client, until);
        now = kvr_now_us();
    }
}
