/* Requests of remote clients, and what they are answered. */
#include "node/daemon/remote_priv.h"

/* ---- entries --------------------------------------------------------------------- */

static void entry_take(
    struct remote_conn *conn, struct remote_entry *entry,
    const struct kvn_request_head *h)
{
    const uint16_t gen = (uint16_t)(entry->gen + 1);
    KV_ASSERT(!entry->used);
    *entry = (struct remote_entry){
        .used = true,
        .op = h->op,
        .gen = gen,
        .nr_keys = h->nr_keys,
        .tag = h->tag,
        .deadline_us = kvn_remote_now() + h->timeout_us,
        .room = kvn_answer_bytes(h->nr_keys),
    };
    conn->nr_entries++;
    conn->promised += entry->room;
}

static void entry_give(struct remote_conn *conn, struct remote_entry *entry)
{
    KV_ASSERT(entry->used && conn->promised >= entry->room && conn->nr_entries > 0);
    conn->promised -= entry->room;
    conn->nr_entries--;
    conn->nr_draining -= entry->answered;
    kv_free(entry->answer);
    entry->answer = NULL;
    entry->used = entry->answered = false;
}

void kvn_remote_entries_drop(struct remote_conn *conn)
{
    for (uint32_t i = 0; conn->entries != NULL && i < KVN_RING_REQUESTS_MAX; i++) {
        if (conn->entries[i].used) {
            entry_give(conn, &conn->entries[i]);
        }
    }
}

/* ---- answers --------------------------------------------------------------------- */

/* Every part that the client posted ends: by its page, or by a refusal; then it is
 * answered, and the slot is free before the client can know it. False: not yet. */
static bool entry_drain(struct remote_conn *conn, struct remote_entry *entry)
{
    for (; entry->op == KVN_OP_GET && entry->next_refusal < entry->nr_keys;
         entry->next_refusal++) {
        const uint32_t key = entry->next_refusal;
        if ((entry->sent[key / 64] >> key % 64 & 1) == 0
            && !kvn_remote_refuse(
                conn, kvn_remote_req(entry->tag, key / KVN_REMOTE_CHUNK_KEYS),
                key % KVN_REMOTE_CHUNK_KEYS)) {
            return false;
        }
    }
    kvn_remote_send(conn, entry->answer, entry->answer_len);
    entry_give(conn, entry);
    return true;
}

void kvn_remote_drain(struct remote_conn *conn)
{
    if (conn->state != REMOTE_ATTACHED || conn->broken) {
        return;
    }
    for (uint32_t i = 0; conn->nr_draining > 0 && i < KVN_RING_REQUESTS_MAX; i++) {
        struct remote_entry *entry = &conn->entries[i];
        if (entry->answered && !entry_drain(conn, entry)) {
            return;
        }
    }
    kvn_remote_go_on(conn);
}

static void entry_answer(
    struct remote_conn *conn, struct remote_entry *entry,
    const struct kvo_answer *answer)
{
    entry->answer_len = kvn_answer_bytes(kvn_answer_keys(answer));
    entry->answer = kv_calloc(1, entry->answer_len);
    if (entry->answer == NULL) {
        kvn_remote_break(conn, "out of memory");
        return;
    }
    kvn_answer_write(entry->answer, entry->answer_len, entry->op, entry->tag, answer);
    entry->answered = true;
    conn->nr_draining++;
    if (entry_drain(conn, entry)) {
        kvn_remote_go_on(conn);
    }
}

void kvn_remote_answer(kvn_remote_t *remote, const struct kvo_answer *answer)
{
    struct remote_conn *conn = kvn_remote_has(remote, answer->client.index)
                                   ? remote->by_index[answer->client.index]
                                   : NULL;
    if (conn == NULL || conn->id.gen != answer->client.gen || conn->broken) {
        return; /* it is gone, or about to be */
    }
    const uint32_t slot = answer->tag & 0xffff;
    KV_ASSERT(slot < KVN_RING_REQUESTS_MAX);
    struct remote_entry *entry = &conn->entries[slot];
    /* The core answers once, and what it was asked. */
    KV_ASSERT(entry->used && !entry->answered);
    KV_ASSERT(entry->gen == (uint16_t)(answer->tag >> 16));
    entry_answer(conn, entry, answer);
}

/* ---- requests -------------------------------------------------------------------- */

/* (2) */
bool kvn_remote_may_ask(const struct remote_conn *conn)
{
    return conn->state == REMOTE_ATTACHED && !conn->broken && conn->held_len == 0
           && conn->nr_entries < KVN_RING_REQUESTS_MAX
           && conn->out.len + conn->promised + 2 * KVN_ANSWER_BYTES_MAX
                  <= KVN_REMOTE_OUT_BYTES;
}

static bool is_posted(const struct remote_conn *conn, const struct kvn_request_head *h)
{
    if (h->op == KVN_OP_PUT) {
        return conn->offers != 0;
    }
    if (h->op != KVN_OP_GET) {
        return true;
    }
    const struct remote_post *post = &conn->posts[h->tag & 0xffff];
    const uint32_t n = (h->nr_keys + KVN_REMOTE_CHUNK_KEYS - 1) / KVN_REMOTE_CHUNK_KEYS;
    return conn->reads != 0 && post->tag == h->tag && post->nr_keys == h->nr_keys
           && post->mask == (1u << n) - 1;
}

static kv_status_t request_check(
    struct remote_conn *conn, const struct kvn_request *in, struct kv_detail *detail)
{
    const kv_status_t status =
        kvn_request_check(&conn->remote->told, &in->head, detail);
    if (status != KV_OK) {
        return status;
    }
    for (uint32_t i = 0; in->addresses != NULL && i < in->head.nr_keys; i++) {
        if (in->addresses[i] != 0) { /* whoever is far has no buffers here */
            return kv_fail(
                detail, KV_ERR_INVALID, "request.address", 0, in->addresses[i]);
        }
    }
    return KV_OK;
}

static void request_do(struct remote_conn *conn, const struct kvn_request *in)
{
    kvn_remote_t *remote = conn->remote;
    const struct kvn_request_head *h = &in->head;
    const uint32_t slot = h->tag & 0xffff;
    struct remote_entry *entry = &conn->entries[slot];
    struct kv_detail detail = {0};
    entry_take(conn, entry, h);
    conn->posts[slot] = (struct remote_post){0};
    remote->counts.requests++;
    kv_status_t status = request_check(conn, in, &detail);
    if (status == KV_OK) {
        for (uint32_t i = 0; in->addresses != NULL && i < h->nr_keys; i++) {
            in->addresses[i] = (uint64_t)slot << REMOTE_KEY_BITS | i;
        }
        const struct kvo_request request = kvn_request_core(
            in, (uint64_t)entry->gen << 16 | slot, conn->tenant, entry->deadline_us);
        status = remote->events.client.request(
            remote->events.client.arg, conn->id, &request);
        if (status == KV_OK) {
            return;
        }
    }
    const struct kvo_answer answer = {.status = status, .detail = detail};
    entry_answer(conn, entry, &answer);
}

bool kvn_remote_ask(struct remote_conn *conn, uint8_t *record, uint32_t len)
{
    struct kvn_request request;
    struct kv_detail detail = {0};
    const kv_status_t status = kvn_request_read(record, len, &request, &detail);
    const uint32_t slot = status == KV_OK ? request.head.tag & 0xffff : 0;
    if (status != KV_OK) {
        kvn_remote_malformed(conn, &detail);
        return true;
    }
    if (request.head.op >= KVN_RING_OPS) { /* sequences are of engines on this host */
        kv_fail(
            &detail, KV_ERR_INVALID, "request.op", KVN_RING_OPS - 1, request.head.op);
        kvn_remote_malformed(conn, &detail);
        return true;
    }
    if (slot >= KVN_RING_REQUESTS_MAX || request.head.tag > UINT32_MAX
        || conn->entries[slot].used) {
        kv_fail(
            &detail, KV_ERR_INVALID, "request.tag", KVN_RING_REQUESTS_MAX - 1,
            request.head.tag);
        kvn_remote_malformed(conn, &detail);
        return true;
    }
    if (!is_posted(conn, &request.head)) {
        return false;
    }
    request_do(conn, &request);
    return true;
}
