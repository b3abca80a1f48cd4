/* A client of a node on another host: requests and answers over TLS, pages over two
 * data connections (docs/clients.md, "Remote").
 *
 * (1) A flight ends when its answer has come and every page of it that was posted or is
 * being sent has ended: nobody touches its memory then. (2) The three connections have
 * one fate: when one ends, or the node speaks nonsense, the client is gone; its port is
 * destroyed first, so that nothing lands behind the results, CANCELLED. (3) Every wait
 * has an end: a flight KVR_REMOTE_FLIGHT_US past its own time is a node that is gone.
 */
#define _GNU_SOURCE
#include "node/lib/remote_priv.h"

#include "base/codec.h"
#include "base/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    /* Of a page that is sent, and the flight; of a refusal, and no flight. Below it:
     * flight << 10 | key of a page that is read. */
    SEND_ID = 1 << 24,
    REFUSAL_ID = SEND_ID + KVR_FLIGHT_MAX,
    PAGE_ALIGN = 256,
};

static void lose(kvr_client_t *client, const char *why)
{
    struct kvr_remote *remote = client->remote;
    if (!client->gone) {
        (void)kvr_fail_text(client, KV_ERR_LINK_LOST, "link_lost: %s: open again", why);
    }
    client->gone = true;
    kvt_destroy(remote->port); /* (2) */
    remote->port = NULL;
}

/* ---- bytes ----------------------------------------------------------------------- */

static void watch(struct kvr_remote *remote)
{
    const bool wants = remote->out.len > 0;
    struct epoll_event event = {
        .events = EPOLLIN | (wants ? EPOLLOUT : 0u), .data.u32 = KVR_REMOTE_ANSWERS};
    if (wants != remote->wants_write
        && epoll_ctl(remote->epoll_fd, EPOLL_CTL_MOD, remote->fd, &event) == 0) {
        remote->wants_write = wants;
    }
}

bool kvr_remote_out_pull(struct kvr_remote *remote)
{
    return kvn_outbox_pull(&remote->out, remote->session) == KV_OK;
}

bool kvr_remote_flush(struct kvr_remote *remote)
{
    const bool whole = kvn_outbox_send(&remote->out, remote->fd, NULL);
    watch(remote);
    return whole;
}

bool kvr_remote_say(struct kvr_remote *remote, const void *bytes, size_t len)
{
    uint8_t head[KVN_FRAME_HEAD_BYTES];
    kvn_frame_head((uint32_t)len, head);
    return kvn_tls_write(remote->session, head, sizeof(head)) == KV_OK
           && kvn_tls_write(remote->session, bytes, len) == KV_OK
           && kvr_remote_out_pull(remote) && kvr_remote_flush(remote);
}

/* The next frame: OK; AGAIN: none yet; LINK_LOST. */
kv_status_t kvr_remote_hear(
    struct kvr_remote *remote, const uint8_t **at_p, size_t *len_p,
    const uint8_t **frame_p, uint32_t *frame_len_p)
{
    for (;;) {
        if (*len_p > 0) {
            const kv_status_t status = kvn_frames_next(
                &remote->frames, at_p, len_p, frame_p, frame_len_p, NULL);
            if (status != KV_INPROGRESS) {
                return status == KV_OK ? KV_OK : KV_ERR_LINK_LOST;
            }
        }
        *at_p = remote->clear;
        if (kvn_tls_read(remote->session, remote->clear, KVR_REMOTE_CHUNK_BYTES, len_p)
            != KV_OK) {
            return KV_ERR_LINK_LOST;
        }
        if (*len_p > 0) {
            continue;
        }
        if (!remote->readable) {
            return KV_ERR_AGAIN;
        }
        uint8_t cipher[KVR_REMOTE_CHUNK_BYTES];
        const ssize_t n = recv(remote->fd, cipher, sizeof(cipher), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
            return KV_ERR_AGAIN;
        }
        remote->readable = n == (ssize_t)sizeof(cipher); /* else it is empty now */
        if (n <= 0 || kvn_tls_in(remote->session, cipher, (size_t)n) != KV_OK
            || !kvr_remote_out_pull(remote) || !kvr_remote_flush(remote)) {
            return KV_ERR_LINK_LOST;
        }
        if (!kvn_tls_ready(remote->session)) {
            return KV_ERR_AGAIN;
        }
    }
}

/* ---- flights --------------------------------------------------------------------- */

static void memory_unmap(kvr_client_t *client, uint32_t i)
{
    struct kvr_memory *memory = &client->buffers[i];
    KV_ASSERT(munmap(memory->base, memory->bytes) == 0);
    memory->base = NULL;
    memory->used = false;
    client->remote->leaving[i] = false;
}

static void flight_free(kvr_client_t *client, uint32_t index)
{
    struct kvr_remote *remote = client->remote;
    struct remote_flight *flight = &remote->flights[index];
    for (uint32_t i = 0; i < KVR_BUFFERS_MAX; i++) {
        if ((flight->memories >> i & 1) != 0 && --remote->uses[i] == 0
            && remote->leaving[i]) {
            memory_unmap(client, i);
        }
    }
    kv_free(flight->pages);
    kv_free(flight->lens);
    kv_free(flight->landed);
    kv_free(flight->answer);
    *flight = (struct remote_flight){0};
}

static void ready_try(kvr_client_t *client, uint32_t index)
{
    struct kvr_remote *remote = client->remote;
    const struct remote_flight *flight = &remote->flights[index];
    if (flight->answered && flight->nr_parts == 0) { /* (1) */
        const uint32_t at = (remote->ready_head + remote->nr_ready++) % KVR_FLIGHT_MAX;
        remote->ready[at] = (uint16_t)index;
    }
}

/* What is kept here of a flight; NULL: of none. */
static struct remote_flight *
flight_at(const kvr_client_t *client, const struct kvr_flight *known)
{
    return known != NULL ? &client->remote->flights[known - client->flights] : NULL;
}

static bool answer_keep(kvr_client_t *client, const uint8_t *frame, uint32_t len)
{
    struct kvn_answer answer;
    if (len > KVN_ANSWER_BYTES_MAX) {
        return false;
    }
    memcpy(client->copy, frame, len); /* aligned */
    if (kvn_answer_read(client->copy, len, &answer, NULL) != KV_OK) {
        return false;
    }
    struct remote_flight *flight =
        flight_at(client, kvr_flight_answered(client, &answer));
    if (flight == NULL || flight->answered || answer.head.type != KVN_RECORD_ANSWER) {
        return false;
    }
    flight->answer = kv_calloc(1, len);
    if (flight->answer == NULL) {
        return false;
    }
    memcpy(flight->answer, frame, len);
    flight->answer_len = len;
    flight->answered = true;
    ready_try(client, answer.head.tag & 0xffff);
    return true;
}

/* ---- pages ----------------------------------------------------------------------- */

/* The node wants a page of a PUT. One that is not under way any more is refused. */
static bool page_give(kvr_client_t *client, const struct kvt_event *event)
{
    struct kvr_remote *remote = client->remote;
    struct kvn_remote_want want;
    uint8_t head[KVT_HEAD_BYTES_MAX];
    struct kv_detail detail;
    size_t head_len;
    KV_ASSERT(event->conn == remote->offers); /* the one that we send on */
    if (kvn_remote_want_read(event->bytes, event->nr_bytes, &want, NULL) != KV_OK) {
        return false;
    }
    const struct kvr_flight *known = kvr_flight_of(client, want.tag);
    struct remote_flight *flight = flight_at(client, known);
    const uint32_t index = want.tag & 0xffff;
    const bool ours = known != NULL && known->op == KVR_OP_PUT
                      && want.key < known->nr_keys && !flight->answered;
    if (ours && want.len != flight->lens[want.key]) {
        return false;
    }
    const uint8_t *page = ours ? flight->pages[want.key] : NULL;
    const uint32_t len = ours ? want.len : 0;
    const struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA,
        .req = want.req,
        .link = kvn_remote_id(remote->secret),
        .u.data =
            {
                .data_gen = KVN_REMOTE_OFFERS,
                .status = ours ? KV_OK : KV_ERR_MISS,
                .len = len,
                .digest = ours ? kv_digest(page, len) : 0,
            },
    };
    if (kv_encode(&msg, head, sizeof(head), &head_len, &detail) != KV_OK
        || kvt_send(
               remote->port, remote->offers, ours ? SEND_ID + index : REFUSAL_ID, head,
               (uint32_t)head_len, page, len)
               != KV_OK) {
        return false;
    }
    remote->nr_parts++;
    if (ours) {
        flight->nr_parts++;
    }
    return true;
}

static void part_done(kvr_client_t *client, const struct kvt_event *event)
{
    struct kvr_remote *remote = client->remote;
    KV_ASSERT(remote->nr_parts > 0);
    remote->nr_parts--;
    if (event->id == REFUSAL_ID) {
        return;
    }
    const bool sent = event->id >= SEND_ID;
    const uint32_t index =
        sent ? (uint32_t)event->id - SEND_ID : (uint32_t)(event->id >> 10);
    struct remote_flight *flight = &remote->flights[index];
    KV_ASSERT(index < KVR_FLIGHT_MAX && flight->nr_parts > 0); /* (1) */
    if (!sent) {
        const uint32_t key = event->id & (KVR_BATCH_MAX - 1);
        const bool right = !remote->verify || event->computed == event->expected;
        flight->landed[key] = event->status != KV_OK            ? event->status
                              : event->len != flight->lens[key] ? KV_ERR_IO
                              : right                           ? KV_OK
                                                                : KV_ERR_NOT_VERIFIED;
    }
    flight->nr_parts--;
    ready_try(client, index);
}

static void pages_move(kvr_client_t *client)
{
    struct kvt_event event;
    while (!client->gone && kvt_next(client->remote->port, &event)) {
        switch (event.kind) {
        case KVT_EV_REQUEST:
            if (!page_give(client, &event)) {
                lose(client, "the node wants what there is not");
            }
            break;
        case KVT_EV_DONE:
            part_done(client, &event);
            break;
        case KVT_EV_BROKEN:
        case KVT_EV_CLOSED:
            lose(client, "a data connection ended");
            break;
        case KVT_EV_HELLO:
            break;
        }
    }
}

static void late_look(kvr_client_t *client)
{
    struct kvr_remote *remote = client->remote;
    const uint64_t now = kvr_now_us();
    if (client->nr_flights == 0 || now - remote->looked_us < 1000000) {
        return;
    }
    remote->looked_us = now;
    for (uint32_t i = 0; i < KVR_FLIGHT_MAX; i++) {
        const bool over =
            remote->flights[i].answered && remote->flights[i].nr_parts == 0;
        if (client->flights[i].used && !over && now > remote->flights[i].until_us) {
            lose(client, "the node does not answer"); /* (3) */
            return;
        }
    }
}

static void answers_take(kvr_client_t *client)
{
    struct kvr_remote *remote = client->remote;
    const uint8_t *at = NULL, *frame;
    size_t len = 0;
    uint32_t frame_len;
    kv_status_t status = KV_OK;
    while (!client->gone
           && (status = kvr_remote_hear(remote, &at, &len, &frame, &frame_len))
                  == KV_OK) {
        if (!answer_keep(client, frame, frame_len)) {
            lose(client, "an answer to no batch of ours");
        }
    }
    if (!client->gone && status == KV_ERR_LINK_LOST) {
        lose(client, "the node hung up");
    }
    if (!client->gone && !kvr_remote_flush(remote)) {
        lose(client, "the node hung up");
    }
}

/* What has come is taken; when nothing has, waits for it so long. 0: not at all. */
static void pump(kvr_client_t *client, int ms)
{
    struct kvr_remote *remote = client->remote;
    struct epoll_event events[KVR_REMOTE_SOURCES];
    const int n = epoll_wait(remote->epoll_fd, events, KVR_REMOTE_SOURCES, ms);
    for (int i = 0; i < n && !client->gone; i++) {
        if (events[i].data.u32 == KVR_REMOTE_PAGES) {
            pages_move(client);
        } else {
            remote->readable = true;
            answers_take(client);
        }
    }
    if (!client->gone) {
        late_look(client);
    }
}

/* ---- batches --------------------------------------------------------------------- */

/* Bytes of a page of so many tokens (docs/clients.md); of no such page the node says
 * INVALID. */
static uint32_t page_len(const struct kvn_packet_space *space, uint32_t n_tokens)
{
    if (n_tokens == 0 || n_tokens >= space->page_tokens) {
        return space->page_bytes;
    }
    const uint64_t scaled = (uint64_t)space->page_bytes * n_tokens;
    const uint64_t bytes = (scaled + space->page_tokens - 1) / space->page_tokens;
    return (uint32_t)((bytes + PAGE_ALIGN - 1) / PAGE_ALIGN * PAGE_ALIGN);
}

static bool flight_fill(
    kvr_client_t *client, struct remote_flight *flight, const struct kvr_batch *batch)
{
    const struct kvn_packet_space *space = kvr_space_of(client, batch->variant);
    const uint32_t n = batch->nr_keys;
    if (!kvn_op_moves((uint32_t)batch->op)) {
        return true;
    }
    flight->pages = kv_calloc(n, sizeof(*flight->pages));
    flight->lens = kv_calloc(n, sizeof(*flight->lens));
    flight->landed = kv_calloc(n, sizeof(*flight->landed));
    if (flight->pages == NULL || flight->lens == NULL || flight->landed == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        flight->lens[i] =
            page_len(space, batch->n_tokens != NULL ? batch->n_tokens[i] : 0);
        const uint32_t slot = batch->at[i].buffer % KVR_BUFFERS_MAX;
        flight->pages[i] = (uint8_t *)client->buffers[slot].base + batch->at[i].offset;
        if ((flight->memories >> slot & 1) == 0) {
            flight->memories |= UINT64_C(1) << slot;
            client->remote->uses[slot]++;
        }
    }
    return true;
}

/* Posts the pages of a GET: the node sends nothing before all are. */
static kv_status_t
post(kvr_client_t *client, uint32_t index, uint64_t tag, uint32_t nr_keys)
{
    struct kvr_remote *remote = client->remote;
    struct remote_flight *flight = &remote->flights[index];
    for (uint32_t first = 0; first < nr_keys; first += KVN_REMOTE_CHUNK_KEYS) {
        struct kvt_part parts[KVN_REMOTE_CHUNK_KEYS];
        const uint32_t left = nr_keys - first;
        const uint32_t n = left < KVN_REMOTE_CHUNK_KEYS ? left : KVN_REMOTE_CHUNK_KEYS;
        const uint32_t chunk = first / KVN_REMOTE_CHUNK_KEYS;
        const struct kvn_remote_post ask = {
            .tag = tag, .chunk = chunk, .nr_keys = nr_keys};
        for (uint32_t i = 0; i < n; i++) {
            parts[i] = (struct kvt_part){
                .id = (uint64_t)index << 10 | (first + i),
                .to = flight->pages[first + i],
                .room = flight->lens[first + i],
            };
        }
        const kv_status_t status = kvt_read(
            remote->port, remote->reads, kvn_remote_req(tag, chunk),
            (const uint8_t *)&ask, sizeof(ask), parts, n);
        if (status != KV_OK) {
            return first == 0 ? status : KV_ERR_LINK_LOST;
        }
        flight->nr_parts += n;
        remote->nr_parts += n;
    }
    return KV_OK;
}

kvr_status_t kvr_remote_submit(
    kvr_client_t *client, const struct kvr_batch *batch, struct kvr_pool_state *pool)
{
    struct kvr_remote *remote = client->remote;
    struct kv_detail detail = {0};
    const bool get = batch->op == KVR_OP_GET;
    pump(client, 0);
    if (client->gone) {
        return KVR_LINK_LOST;
    }
    if (remote->out.len > KVR_REMOTE_OUT_MAX
        || (get && remote->nr_parts + batch->nr_keys > KVR_REMOTE_PARTS)) {
        kv_fail(
            &detail, KV_ERR_AGAIN, "client.pages", KVR_REMOTE_PARTS,
            remote->nr_parts + batch->nr_keys);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    const uint32_t bytes =
        kvn_request_bytes(batch->op, batch->nr_keys, batch->n_tokens != NULL);
    uint8_t *record = kv_calloc(1, bytes);
    if (record == NULL) {
        return kvr_fail(client, KV_ERR_NOMEM, NULL);
    }
    struct kvr_flight *known = kvr_flight_take(client);
    known->tag = batch->tag;
    known->op = (uint8_t)batch->op;
    known->nr_keys = batch->nr_keys;
    const uint32_t index = (uint32_t)(known - client->flights);
    const uint64_t tag = kvr_flight_tag(client, known);
    struct remote_flight *flight = &remote->flights[index];
    struct kvr_batch sent = *batch;
    if (pool != NULL) {
        kvr_pool_begin(client, pool, known, &sent);
    }
    flight->until_us = kvr_now_us() + batch->timeout_us + KVR_REMOTE_FLIGHT_US;
    kv_status_t status =
        flight_fill(client, flight, &sent) ? KV_OK : KV_ERR_NOMEM;
    if (status == KV_OK && get) {
        status = post(client, index, tag, batch->nr_keys);
    }
    if (status == KV_OK) {
        kvr_request_write(record, &sent, tag, bytes, true);
        status = kvr_remote_say(remote, record, bytes) ? KV_OK : KV_ERR_LINK_LOST;
    }
    kv_free(record);
    if (status == KV_OK) {
        return KVR_OK;
    }
    if (status == KV_ERR_LINK_LOST || flight->nr_parts > 0) {
        lose(client, "the node hung up");
        status = KV_ERR_LINK_LOST;
    }
    flight_free(client, index);
    kvr_flight_give(client, known, NULL);
    return client->gone ? KVR_LINK_LOST : kvr_fail(client, status, NULL);
}

static void result_join(kvr_client_t *client, uint32_t index, struct kvr_result *result)
{
    struct remote_flight *flight = &client->remote->flights[index];
    struct kvr_flight *known = &client->flights[index];
    struct kvn_answer answer;
    memcpy(client->copy, flight->answer, flight->answer_len);
    KV_ASSERT(
        kvn_answer_read(client->copy, flight->answer_len, &answer, NULL) == KV_OK);
    kvr_result_answer(client, known, &answer, result);
    for (uint32_t i = 0; i < answer.head.nr_keys; i++) {
        const bool bytes = known->op == KVR_OP_GET && answer.statuses[i] == KV_OK;
        const int32_t landed = bytes ? flight->landed[i] : KV_OK;
        client->statuses[i] = landed == KV_OK || landed == KV_ERR_NOT_VERIFIED
                                  ? (bytes ? landed : answer.statuses[i])
                                  : KV_ERR_IO;
    }
    result->statuses = client->statuses;
    flight_free(client, index);
    kvr_flight_give(client, known, result->statuses);
}

int kvr_remote_arm(kvr_client_t *client)
{
    pump(client, 0);
    return client->gone || client->remote->nr_ready > 0 ? 0 : 1;
}

kvr_status_t
kvr_remote_next(kvr_client_t *client, uint64_t timeout_us, struct kvr_result *result)
{
    struct kvr_remote *remote = client->remote;
    const uint64_t from = kvr_now_us();
    const uint64_t until =
        timeout_us < UINT64_MAX - from ? from + timeout_us : UINT64_MAX;
    for (bool looked = false;; looked = true) {
        if (remote->nr_ready > 0) {
            const uint32_t index = remote->ready[remote->ready_head];
            remote->ready_head = (remote->ready_head + 1) % KVR_FLIGHT_MAX;
            remote->nr_ready--;
            result_join(client, index, result);
            return KVR_OK;
        }
        if (client->gone) {
            return kvr_cancelled_next(client, result);
        }
        const uint64_t now = kvr_now_us();
        const bool waits = client->nr_flights > 0 && now < until;
        if (looked && !waits) {
            return KVR_AGAIN;
        }
        const uint64_t ms = waits ? (until - now + 999) / 1000 : 0;
        pump(client, ms > KVR_REMOTE_LOOK_MS ? KVR_REMOTE_LOOK_MS : (int)ms);
    }
}

int kvr_remote_fd(const kvr_client_t *client)
{
    return client->remote->epoll_fd;
}

/* ---- buffers --------------------------------------------------------------------- */

/* Memory of this process alone: the node never sees it. fd -1: of our own. */
static kvr_status_t
buffer_map(kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p)
{
    struct kv_detail detail = {0};
    uint32_t i = 0;
    if (client->gone) {
        return kvr_fail(client, KV_ERR_LINK_LOST, NULL);
    }
    while (i < KVR_BUFFERS_MAX && client->buffers[i].used) {
        i++;
    }
    if (i == KVR_BUFFERS_MAX) {
        kv_fail(&detail, KV_ERR_AGAIN, "client.buffers", KVR_BUFFERS_MAX, i + 1);
        return kvr_fail(client, KV_ERR_AGAIN, &detail);
    }
    const int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *base = KV_FAULT() ? MAP_FAILED
                            : mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (base == MAP_FAILED) {
        return kvr_fail_text(
            client, KV_ERR_NOMEM, "nomem: cannot map %zu bytes", bytes);
    }
    struct kvr_memory *memory = &client->buffers[i];
    const uint32_t id =
        (memory->id + KVR_BUFFERS_MAX) / KVR_BUFFERS_MAX * KVR_BUFFERS_MAX % (1 << 16)
        + i;
    *memory = (struct kvr_memory){.base = base, .bytes = bytes, .id = id, .used = true};
    *buffer_p =
        (struct kvr_buffer){.base = fd < 0 ? base : NULL, .bytes = bytes, .id = id};
    return KVR_OK;
}

kvr_status_t kvr_remote_buffer_create(
    kvr_client_t *client, size_t bytes, struct kvr_buffer *buffer_p)
{
    return buffer_map(client, -1, bytes, buffer_p);
}

/* The same memfds as a node on this machine takes: what could be taken away under the
 * port would kill this process. */
kvr_status_t kvr_remote_buffer_add(
    kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p)
{
    struct kv_detail detail = {0};
    kv_status_t status = kvn_memfd_check(fd, bytes, &detail);
    const int seals = status == KV_OK ? fcntl(fd, F_GET_SEALS) : 0;
    if ((seals & F_SEAL_WRITE) != 0) {
        status = kv_fail(
            &detail, KV_ERR_INVALID, "buffer.seals", F_SEAL_SHRINK, (uint64_t)seals);
    }
    return status == KV_OK ? buffer_map(client, fd, bytes, buffer_p)
                           : kvr_fail(client, status, &detail);
}

void kvr_remote_unbuffer(kvr_client_t *client, struct kvr_memory *memory)
{
    const uint32_t i = (uint32_t)(memory - client->buffers);
    if (client->remote->uses[i] > 0) {
        client->remote->leaving[i] = true; /* (1): the last flight unmaps it */
        memory->id += KVR_BUFFERS_MAX;     /* no batch names it any more */
    } else {
        memory_unmap(client, i);
    }
}

void kvr_remote_close(kvr_client_t *client, bool ours)
{
    struct kvr_remote *remote = client->remote;
    if (ours) { /* a child of fork() has none of its threads, and nothing lands there */
        kvt_destroy(remote->port); /* first: nothing lands in what is freed below */
    }
    remote->port = NULL;
    for (uint32_t i = 0; i < KVR_FLIGHT_MAX; i++) {
        flight_free(client, i);
    }
    if (remote->fd >= 0) {
        if (ours) {
            (void)shutdown(remote->fd, SHUT_RDWR); /* children may have copies of it */
        }
        close(remote->fd);
    }
    if (remote->epoll_fd >= 0) {
        close(remote->epoll_fd);
    }
    kvn_tls_close(remote->session);
    kvn_tls_free(remote->tls);
    kvn_outbox_free(&remote->out);
    explicit_bzero(remote->secret, sizeof(remote->secret));
    kv_free(remote);
    client->remote = NULL;
}
