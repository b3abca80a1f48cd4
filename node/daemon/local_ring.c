/* Requests out of rings, answers into them, and when the loop polls or sleeps. */
#define _GNU_SOURCE
#include "node/daemon/local_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------ memory */

kv_status_t
kvn_local_conn_rings(struct local_conn *conn, uint32_t ring_bytes, int *fd_p)
{
    size_t bytes = kvn_rings_bytes(ring_bytes);
    conn->entries = kv_calloc(KVN_RING_REQUESTS_MAX, sizeof(*conn->entries));
    if (conn->entries == NULL) {
        goto err;
    }
    for (uint16_t i = 0; i < KVN_RING_REQUESTS_MAX; i++) {
        conn->entries[i].next_free = (uint16_t)(i + 1);
    }
    conn->free_entry = 0;
    /* SEAL too: nobody may add a seal against writing. */
    int fd = kvn_memfd_sealed(
        "kvrail-rings", bytes, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (fd < 0) {
        goto err_free;
    }
    /* Populated: the loop takes no page faults on the client's behalf. */
    void *base = KV_FAULT() ? MAP_FAILED
                            : mmap(
                                NULL, bytes, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED) {
        goto err_close;
    }
    conn->rings = base;
    conn->ring_bytes = ring_bytes;
    kvn_rings_format(conn->rings, ring_bytes);
    kvn_ring_bind(&conn->requests, conn->rings, ring_bytes, KVN_REQUEST_IN);
    kvn_ring_bind(&conn->answers, conn->rings, ring_bytes, KVN_ANSWER_OUT);
    *fd_p = fd;
    return KV_OK;

err_close:
    close(fd);
err_free:
    kv_free(conn->entries);
    conn->entries = NULL;
err:
    return KV_ERR_NOMEM;
}

void kvn_local_conn_rings_drop(struct local_conn *conn)
{
    if (conn->rings != NULL) {
        KV_ASSERT(munmap(conn->rings, kvn_rings_bytes(conn->ring_bytes)) == 0);
        conn->rings = NULL;
    }
    kv_free(conn->entries);
    conn->entries = NULL;
}

/* ------------------------------------------------------------------ answers */

static struct local_entry *
entry_take(struct local_conn *conn, const struct kvn_request *request)
{
    const struct kvn_request_head *head = &request->head;
    KV_ASSERT(conn->free_entry < KVN_RING_REQUESTS_MAX);
    struct local_entry *entry = &conn->entries[conn->free_entry];
    KV_ASSERT(!entry->used);
    conn->free_entry = entry->next_free;
    conn->nr_entries++;
    entry->used = true;
    entry->tag = head->tag;
    entry->op = head->op;
    entry->buffers = 0;
    entry->appends = false;
    entry->nr_pages = 0;
    entry->room = kvn_answer_bytes(head->nr_keys);
    if (kvn_op_seq(head->op)) {
        uint32_t tails = head->op == KVN_OP_SEQ_FETCH ? KVN_SEQ_TAILS_MAX : 0;
        entry->nr_pages = kvn_seq_pages_max(conn->local, request);
        entry->room = kvn_seq_answer_bytes(head->nr_keys, entry->nr_pages, tails);
    }
    KV_ASSERT(entry->room <= conn->answer_max);
    conn->promised += entry->room;
    return entry;
}

static void entry_give(struct local_conn *conn, struct local_entry *entry)
{
    KV_ASSERT(entry->used && conn->promised >= entry->room);
    conn->promised -= entry->room;
    kvn_buffers_unuse(conn, entry->buffers);
    entry->used = false;
    entry->gen++;
    entry->next_free = conn->free_entry;
    conn->free_entry = (uint16_t)(entry - conn->entries);
    conn->nr_entries--;
}

/* A packet of one byte. A full socket has others before it that wake as well. */
void kvn_local_wake_client(struct local_conn *conn)
{
    const char wake = KVN_PACKET_WAKE;
    if (!kvn_ring_must_wake(&conn->rings->client_sleeps, KVN_ASLEEP)) {
        return;
    }
    conn->local->counts.woken++;
    (void)!send(conn->fd, &wake, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void entry_answer(
    struct local_conn *conn, struct local_entry *entry, const struct kvo_answer *answer,
    bool of_core)
{
    uint32_t n = kvn_answer_keys(answer);
    uint32_t bytes = kvn_answer_bytes(n);
    struct kvn_answer_seq seq = {0};
    uint8_t *to;
    struct kv_detail detail = {0};
    bool of_seq = kvn_op_seq(entry->op);
    if (of_seq) {
        if (of_core) {
            kvn_seq_look(conn, entry, answer, &seq);
        }
        bytes = kvn_seq_answer_bytes(n, seq.nr_entries, seq.nr_tails);
    }
    KV_ASSERT(bytes <= entry->room);
    kv_status_t status = kvn_ring_room(&conn->answers, bytes, &to, &detail);
    KV_ASSERT(status != KV_ERR_AGAIN); /* (4) of ring.h */
    if (status != KV_OK) {
        kvn_local_conn_malformed(conn, &detail);
        return; /* its end gives the entry back */
    }
    kvn_answer_write(to, bytes, entry->op, entry->tag, answer);
    if (of_seq) {
        kvn_seq_write(conn->local, to + sizeof(struct kvn_answer_head), &seq, answer);
    }
    entry_give(conn, entry);
    kvn_ring_put(&conn->answers);
    kvn_local_wake_client(conn);
    if (conn->stalled) {
        kvn_local_wake(conn->local);
    }
}

void kvn_local_answer(kvn_local_t *local, const struct kvo_answer *answer)
{
    struct kvo_client_id id = answer->client;
    struct local_conn *conn =
        id.index < local->nr_clients ? local->by_index[id.index] : NULL;
    if (conn == NULL || conn->id.gen != id.gen || conn->broken) {
        return; /* it is gone, or about to be */
    }
    uint16_t index = (uint16_t)answer->tag;
    KV_ASSERT(index < KVN_RING_REQUESTS_MAX);
    struct local_entry *entry = &conn->entries[index];
    /* The core answers once, and what it was asked. */
    KV_ASSERT(entry->used && entry->gen == (uint16_t)(answer->tag >> 16));
    entry_answer(conn, entry, answer, true);
}

/* ------------------------------------------------------------------ requests */

static kv_status_t request_check(
    struct local_conn *conn, const struct kvn_request *in, uint64_t *mask_p,
    struct kv_detail *detail)
{
    const struct kvn_request_head *h = &in->head;
    const kvn_local_t *local = conn->local;
    kv_status_t status = kvn_request_check(&local->told, h, detail);
    if (status != KV_OK) {
        return status;
    }
    if (kvn_op_seq(h->op)) {
        return kvn_seq_check(local, in, detail);
    }
    if (in->addresses != NULL) {
        return kvn_buffer_addresses(
            conn, in->addresses, h->nr_keys, local->told.page_bytes[h->variant], mask_p,
            detail);
    }
    return KV_OK;
}

/* `in` lies in scratch: what is asked of the core points there too. */
static void request_do(struct local_conn *conn, const struct kvn_request *in)
{
    kvn_local_t *local = conn->local;
    const struct kvn_request_head *h = &in->head;
    struct local_entry *entry = entry_take(conn, in);
    struct kv_detail detail = {0};
    uint64_t mask = 0;
    kv_status_t status = request_check(conn, in, &mask, &detail);
    if (status == KV_OK) {
        entry->buffers = mask;
        kvn_buffers_use(conn, mask);
        const uint64_t tag =
            (uint64_t)entry->gen << 16 | (uint64_t)(entry - conn->entries);
        const struct kvo_request request = kvn_request_core(
            in, tag, conn->tenant, uv_hrtime() / 1000 + h->timeout_us);
        if (kvn_op_seq(h->op)) {
            kvn_seq_begin(conn, entry, in);
        }
        status = local->events.request(local->events.arg, conn->id, &request);
        if (status == KV_OK) {
            return;
        }
        kvn_seq_cancel(conn, entry, in);
    }
    const struct kvo_answer answer = {.status = status, .detail = detail};
    entry_answer(conn, entry, &answer, false);
}

bool kvn_local_room(struct local_conn *conn)
{
    struct kv_detail detail = {0};
    uint32_t used;
    if (kvn_ring_used(&conn->answers, &used, &detail) != KV_OK) {
        kvn_local_conn_malformed(conn, &detail);
        return false;
    }
    return conn->nr_entries < KVN_RING_REQUESTS_MAX
           && used + conn->promised + 2 * conn->answer_max <= conn->ring_bytes;
}

/* Some requests of one client; true when there was any. */
static bool conn_serve(struct local_conn *conn)
{
    kvn_local_t *local = conn->local;
    bool any = false;
    kvn_seq_notices(conn);
    for (unsigned i = 0; i < LOCAL_TURN_REQUESTS && !conn->broken; i++) {
        struct kv_detail detail = {0};
        struct kvn_request request;
        uint32_t len;
        conn->stalled = !kvn_local_room(conn);
        if (conn->stalled) {
            break;
        }
        kv_status_t status = kvn_ring_peek(
            &conn->requests, local->scratch, KVN_REQUEST_BYTES_MAX, &len, &detail);
        if (status == KV_ERR_AGAIN) {
            break;
        }
        any = true;
        if (status == KV_OK) {
            kvn_ring_take(&conn->requests); /* copied: the client may write there */
            status = kvn_request_read(local->scratch, len, &request, &detail);
        }
        if (status == KV_OK && kvn_op_seq(request.head.op)
            && conn->level == KVN_PACKET_LEVEL_OBJECT) {
            status = kv_fail(
                &detail, KV_ERR_INVALID, "request.op", KVN_RING_OPS - 1,
                request.head.op);
        }
        if (status != KV_OK) {
            kvn_local_conn_malformed(conn, &detail);
            break;
        }
        local->counts.requests++;
        request_do(conn, &request);
    }
    return any;
}

/* ------------------------------------------------------------------ polling */

static void flags_set(kvn_local_t *local, bool asleep)
{
    for (struct local_conn *c = local->conns; c != NULL; c = c->next) {
        if (c->state == CONN_ATTACHED) {
            uint32_t flag = !asleep      ? KVN_AWAKE
                            : c->stalled ? KVN_WANTS_ROOM
                                         : KVN_ASLEEP;
            /* Sequentially consistent: before the second look, see kvn_ring_put(). */
            atomic_store_explicit(&c->rings->node_sleeps, flag, memory_order_seq_cst);
        }
    }
}

void kvn_local_wake(kvn_local_t *local)
{
    local->last_us = uv_hrtime() / 1000;
    if (!local->awake) {
        local->awake = true;
        flags_set(local, false);
        KV_ASSERT(uv_idle_start(&local->turn, local->turn.idle_cb) == 0);
    }
}

bool kvn_local_awake(const kvn_local_t *local)
{
    return local->awake;
}

/* Flags up, then a second look: a client that wrote before it could see its flag is
 * seen here, one that wrote after sees the flag and wakes us. */
static void sleep_try(kvn_local_t *local)
{
    flags_set(local, true);
    for (struct local_conn *c = local->conns; c != NULL; c = c->next) {
        if (c->state != CONN_ATTACHED) {
            continue;
        }
        /* What a stalled client has read is looked at in that order too. Promised room
         * comes back by answers, and kvn_local_answer() wakes us then. */
        bool more = kvn_ring_any(c->stalled ? &c->answers : &c->requests);
        if (c->stalled) {
            more = kvn_local_room(c);
        } else if (kvn_seq_due(c)) {
            more = true;
        }
        if (more || c->broken) {
            flags_set(local, false);
            return;
        }
    }
    local->awake = false;
    KV_ASSERT(uv_idle_stop(&local->turn) == 0);
}

/* The next turn begins with another client. */
static void rotate(kvn_local_t *local)
{
    struct local_conn *first = local->conns;
    if (first == NULL || first->next == NULL) {
        return;
    }
    struct local_conn *last = first;
    while (last->next != NULL) {
        last = last->next;
    }
    local->conns = first->next;
    local->conns->prev = NULL;
    last->next = first;
    first->prev = last;
    first->next = NULL;
}

void kvn_local_turn(kvn_local_t *local)
{
    bool any = false;
    struct local_conn *next;
    for (struct local_conn *c = local->conns; c != NULL; c = next) {
        next = c->next;
        if (c->state == CONN_ATTACHED) {
            any |= conn_serve(c);
            if (c->broken) {
                kvn_local_conn_end(c);
            }
        }
    }
    uint64_t now_us = uv_hrtime() / 1000;
    if (any) {
        local->last_us = now_us;
        rotate(local);
    } else if (now_us - local->last_us >= local->poll_us) {
        sleep_try(local);
    }
}
