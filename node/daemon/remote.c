/* Sessions of remote clients: how they come, what they say, and how they end. */
#include "node/daemon/remote_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

uint64_t kvn_remote_now(void)
{
    return uv_hrtime() / 1000;
}

static void note(kvn_remote_t *remote, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void note(kvn_remote_t *remote, const char *format, ...)
{
    char line[KVN_LOCAL_NOTE_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (remote->events.client.note != NULL) {
        remote->events.client.note(remote->events.client.arg, line);
    }
}

/* ---- the end --------------------------------------------------------------------- */

static void finish_try(kvn_remote_t *remote)
{
    if (!remote->closing || remote->nr_conns > 0 || remote->nr_handles > 0) {
        return;
    }
    void (*closed)(void *arg) = remote->closed;
    void *arg = remote->closed_arg;
    kvn_told_wipe(&remote->told);
    kv_free(remote->orders);
    kv_free(remote);
    closed(arg);
}

void kvn_remote_free_try(struct remote_conn *conn)
{
    kvn_remote_t *remote = conn->remote;
    if (conn->state != REMOTE_ENDED || conn->nr_handles > 0 || conn->nr_orders > 0
        || conn->reads != 0 || conn->offers != 0) {
        return;
    }
    *(conn->prev != NULL ? &conn->prev->next : &remote->conns) = conn->next;
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
    remote->nr_conns--;
    kv_free(conn->frame_buffer);
    kv_free(conn->held);
    kv_free(conn->clear);
    kvn_outbox_free(&conn->out);
    kv_free(conn->entries);
    kv_free(conn->posts);
    explicit_bzero(conn->secret, sizeof(conn->secret));
    kv_free(conn);
    finish_try(remote);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct remote_conn *conn = handle->data;
    conn->nr_handles--;
    kvn_remote_free_try(conn);
}

/* From the loop alone. */
static void conn_end(struct remote_conn *conn)
{
    kvn_remote_t *remote = conn->remote;
    const enum remote_state was = conn->state;
    if (was == REMOTE_ENDED) {
        return;
    }
    conn->state = REMOTE_ENDED;
    note(
        remote, "remote client of tenant %u at %s %s: %s", conn->tenant_id,
        conn->address, was == REMOTE_ATTACHED ? "ended" : "refused", conn->reason);
    uv_poll_stop(&conn->poll);
    uv_close((uv_handle_t *)&conn->poll, on_handle_closed);
    uv_close((uv_handle_t *)&conn->turn, on_handle_closed);
    close(conn->fd);
    kvn_tls_close(conn->tls);
    conn->tls = NULL;
    if (was == REMOTE_ATTACHED) {
        remote->counts.ended++;
        remote->counts.clients--;
        remote->by_index[conn->id.index] = NULL;
        remote->events.client.hung_up(remote->events.client.arg, conn->id);
        remote->events.client.dead(remote->events.client.arg, conn->id);
        kvn_remote_entries_drop(conn);
        kvn_remote_orders_end(conn);
    } else {
        remote->counts.refused++;
    }
}

static void on_turn(uv_idle_t *turn);

void kvn_remote_go_on(struct remote_conn *conn)
{
    if (conn->state != REMOTE_ENDED && !uv_is_active((uv_handle_t *)&conn->turn)) {
        KV_ASSERT(uv_idle_start(&conn->turn, on_turn) == 0);
    }
}

void kvn_remote_break(struct remote_conn *conn, const char *format, ...)
{
    va_list args;
    if (conn->broken || conn->state == REMOTE_ENDED) {
        return;
    }
    conn->broken = true;
    va_start(args, format);
    (void)vsnprintf(conn->reason, sizeof(conn->reason), format, args);
    va_end(args);
    kvn_remote_go_on(conn);
}

void kvn_remote_malformed(struct remote_conn *conn, const struct kv_detail *detail)
{
    char text[140];
    if (!conn->broken) {
        conn->remote->counts.malformed++;
        kv_detail_format(detail, KV_ERR_INVALID, text, sizeof(text));
        kvn_remote_break(conn, "%s", text);
    }
}

/* ---- bytes out ------------------------------------------------------------------- */

static void on_poll(uv_poll_t *poll, int status, int events);

static bool reads(const struct remote_conn *conn)
{
    return !conn->unread
           && (conn->state == REMOTE_ATTACHING || kvn_remote_may_ask(conn));
}

static void watch_for(struct remote_conn *conn, int wanted)
{
    if (conn->state != REMOTE_ENDED && conn->watched != wanted) {
        conn->watched = wanted;
        KV_ASSERT(uv_poll_start(&conn->poll, wanted, on_poll) == 0);
    }
}

/* A socket that may not be read is watched on until something comes (on_poll()): mostly
 * it may again before that, and telling libuv costs two system calls each time. */
static void watch(struct remote_conn *conn)
{
    const int wanted = UV_DISCONNECT | (reads(conn) ? UV_READABLE : 0)
                       | (conn->watched & UV_READABLE)
                       | (conn->out.len > 0 ? UV_WRITABLE : 0);
    watch_for(conn, wanted);
}

/* What TLS has for the socket joins what waits: bounded by what may_ask() lets in. */
static bool out_pull(struct remote_conn *conn)
{
    if (kvn_outbox_pull(&conn->out, conn->tls) != KV_OK) {
        kvn_remote_break(conn, "out of memory");
        return false;
    }
    return true;
}

static void flush(struct remote_conn *conn)
{
    if (!conn->broken && !kvn_outbox_send(&conn->out, conn->fd, NULL)) {
        kvn_remote_break(conn, "%s", strerror(errno));
    }
}

void kvn_remote_send(struct remote_conn *conn, const uint8_t *bytes, size_t len)
{
    uint8_t head[KVN_FRAME_HEAD_BYTES];
    if (conn->broken || conn->state == REMOTE_ENDED) {
        return;
    }
    kvn_frame_head((uint32_t)len, head);
    if (kvn_tls_write(conn->tls, head, sizeof(head)) != KV_OK
        || kvn_tls_write(conn->tls, bytes, len) != KV_OK) {
        kvn_remote_break(conn, "%s", kvn_tls_reason(conn->tls));
        return;
    }
    if (out_pull(conn)) {
        kvn_remote_go_on(conn); /* sends it, with others of this turn */
    }
}

/* ---- ATTACH ---------------------------------------------------------------------- */

static void
refuse(struct remote_conn *conn, kv_status_t status, const struct kv_detail *detail)
{
    struct kvn_packet packet;
    char text[140];
    kvn_packet_refuse(&packet, 0, status, detail);
    kvn_remote_send(conn, (const uint8_t *)&packet, sizeof(packet));
    if (!conn->broken) {
        flush(conn); /* as much as the socket takes: nobody waits for it */
    }
    kv_detail_format(detail, status, text, sizeof(text));
    kvn_remote_break(conn, "%s", text);
}

static bool attached_send(struct remote_conn *conn)
{
    kvn_remote_t *remote = conn->remote;
    struct {
        struct kvn_packet packet;
        struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    } reply;
    kvn_packet_init(&reply.packet, KVN_PACKET_ATTACHED);
    reply.packet.nr_spaces = (uint16_t)remote->told.nr_spaces;
    const bool good =
        kvn_told_spaces(&remote->told, conn->tenant, reply.spaces) == KV_OK;
    if (good) {
        kvn_remote_send(
            conn, (const uint8_t *)&reply,
            sizeof(reply.packet) + remote->told.nr_spaces * sizeof(reply.spaces[0]));
    }
    explicit_bzero(&reply, sizeof(reply));
    return good && !conn->broken;
}

static kv_status_t attach_do(
    struct remote_conn *conn, const struct kvn_packet *packet, struct kv_detail *detail)
{
    kvn_remote_t *remote = conn->remote;
    uint16_t tenant = 0;
    while (tenant < remote->told.nr_tenants
           && remote->told.tenants[tenant].id != conn->tenant_id) {
        tenant++;
    }
    /* The same answer for a tenant that there is not. */
    if (packet->tenant != conn->tenant_id || tenant == remote->told.nr_tenants) {
        return KV_ERR_DENIED;
    }
    if (packet->level != KVN_PACKET_LEVEL_OBJECT || packet->ring_bytes != 0
        || packet->nonce != 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "attach.level", KVN_PACKET_LEVEL_OBJECT,
            packet->level);
    }
    conn->tenant = tenant;
    if (remote->counts.clients == remote->config.nr_clients) {
        return kv_fail(
            detail, KV_ERR_AGAIN, "attach.clients", remote->config.nr_clients,
            remote->counts.clients + 1);
    }
    conn->entries = kv_calloc(KVN_RING_REQUESTS_MAX, sizeof(*conn->entries));
    conn->posts = kv_calloc(KVN_RING_REQUESTS_MAX, sizeof(*conn->posts));
    conn->held = kv_calloc(1, (KVN_REQUEST_BYTES_MAX + 7) / 8 * 8);
    if (conn->entries == NULL || conn->posts == NULL || conn->held == NULL) {
        return KV_ERR_NOMEM;
    }
    kv_status_t status = remote->events.client.attach(
        remote->events.client.arg, UINT64_C(1) << tenant, &conn->id);
    if (status != KV_OK) {
        return kv_fail(
            detail, status, "attach.clients", remote->config.nr_clients,
            remote->counts.clients + 1);
    }
    KV_ASSERT(conn->id.index < KVO_CLIENTS_MAX);
    KV_ASSERT(remote->by_index[conn->id.index] == NULL);
    remote->by_index[conn->id.index] = conn;
    remote->counts.clients++;
    remote->counts.attached++;
    conn->state = REMOTE_ATTACHED;
    if (!attached_send(conn)) {
        kvn_remote_break(conn, "out of memory");
    }
    return KV_OK;
}

static void attach(struct remote_conn *conn, const uint8_t *bytes, uint32_t len)
{
    struct kvn_packet packet;
    struct kv_detail detail = {0};
    kv_status_t status = kvn_packet_read(bytes, len, &packet, NULL, &detail);
    if (status == KV_OK && packet.type != KVN_PACKET_ATTACH) {
        status = kv_fail(&detail, KV_ERR_INVALID, "packet.unexpected", 0, packet.type);
    }
    if (status == KV_OK) {
        status = attach_do(conn, &packet, &detail);
    }
    if (status != KV_OK) {
        refuse(conn, status, &detail);
    }
}

/* ---- bytes in -------------------------------------------------------------------- */

static void frame_take(struct remote_conn *conn, const uint8_t *bytes, uint32_t len)
{
    kvn_remote_t *remote = conn->remote;
    if (conn->state == REMOTE_ATTACHING) {
        attach(conn, bytes, len);
        return;
    }
    memcpy(remote->scratch, bytes, len); /* aligned */
    if (!kvn_remote_ask(conn, remote->scratch, len)) {
        memcpy(conn->held, bytes, len);
        conn->held_len = len;
        conn->held_until_us = kvn_remote_now() + KVN_REMOTE_HOLD_US;
    }
}

static bool wants_frames(const struct remote_conn *conn)
{
    return !conn->broken
           && (conn->state == REMOTE_ATTACHING || kvn_remote_may_ask(conn));
}

/* What came and was not looked at, as far as there is room for its answers. */
static void frames_take(struct remote_conn *conn)
{
    conn->unread = false;
    for (unsigned i = 0; i < REMOTE_TURN_REQUESTS && wants_frames(conn);) {
        struct kv_detail detail = {0};
        const uint8_t *at = conn->clear + conn->clear_at, *frame;
        uint32_t frame_len;
        if (conn->clear_len == 0) {
            conn->clear_at = 0;
            const kv_status_t status = kvn_tls_read(
                conn->tls, conn->clear, REMOTE_CHUNK_BYTES, &conn->clear_len);
            if (status != KV_OK) {
                conn->clear_len = 0;
                kvn_remote_break(conn, "%s", kvn_tls_reason(conn->tls));
                return;
            }
            if (conn->clear_len == 0) {
                return;
            }
            at = conn->clear;
        }
        const uint8_t *rest = at;
        const kv_status_t status = kvn_frames_next(
            &conn->frames, &rest, &conn->clear_len, &frame, &frame_len, &detail);
        conn->clear_at += (size_t)(rest - at);
        if (status == KV_OK) {
            frame_take(conn, frame, frame_len);
            i++;
        } else if (status != KV_INPROGRESS) {
            kvn_remote_malformed(conn, &detail);
        }
    }
    if (wants_frames(conn)) {
        /* There may be more: the others first. What TLS holds meanwhile is bounded, so
         * the socket is not read before all of it was looked at. */
        conn->unread = true;
        kvn_remote_go_on(conn);
    }
}

static void held_try(struct remote_conn *conn)
{
    const uint32_t len = conn->held_len;
    if (len == 0 || conn->broken) {
        return;
    }
    memcpy(conn->remote->scratch, conn->held, len);
    conn->held_len = 0;
    if (!kvn_remote_ask(conn, conn->remote->scratch, len)) {
        conn->held_len = len;
    }
}

/* Not a timer of no time: started anew in its callback, one runs in the same turn. */
static void on_turn(uv_idle_t *turn)
{
    struct remote_conn *conn = turn->data;
    KV_ASSERT(uv_idle_stop(turn) == 0);
    held_try(conn);
    if (!conn->broken) {
        frames_take(conn);
    }
    if (!conn->broken) {
        flush(conn);
    }
    if (conn->broken) {
        conn_end(conn);
    } else {
        watch(conn);
    }
}

static void readable(struct remote_conn *conn)
{
    kvn_remote_t *remote = conn->remote;
    const ssize_t n =
        recv(conn->fd, remote->cipher, sizeof(remote->cipher), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        kvn_remote_break(conn, "%s", n == 0 ? "hung up" : strerror(errno));
        return;
    }
    if (kvn_tls_in(conn->tls, remote->cipher, (size_t)n) != KV_OK) {
        kvn_remote_break(conn, "%s", kvn_tls_reason(conn->tls));
        return;
    }
    (void)out_pull(conn); /* what TLS answers by itself */
    kvn_remote_go_on(conn);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct remote_conn *conn = poll->data;
    if (status < 0) { /* libuv's number for any error: the socket has its own */
        int error = 0;
        socklen_t len = sizeof(error);
        const bool said =
            getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error != 0;
        kvn_remote_break(conn, "%s", said ? strerror(error) : uv_strerror(status));
        return;
    }
    if ((events & UV_READABLE) != 0 && !reads(conn)) {
        watch_for(conn, conn->watched & ~UV_READABLE);
    } else if ((events & UV_READABLE) != 0) {
        readable(conn);
    } else if ((events & UV_DISCONNECT) != 0) {
        kvn_remote_break(conn, "hung up");
    }
    if ((events & UV_WRITABLE) != 0 && !conn->broken) {
        flush(conn);
        kvn_remote_go_on(conn);
    }
}

/* ---- they come ------------------------------------------------------------------- */

static uint32_t nr_attaching(const kvn_remote_t *remote)
{
    uint32_t nr = 0;
    for (const struct remote_conn *c = remote->conns; c != NULL; c = c->next) {
        nr += c->state == REMOTE_ATTACHING;
    }
    return nr;
}

void kvn_remote_take(
    kvn_remote_t *remote, int fd, kvn_tls_session_t *tls, uint32_t tenant,
    const char *address)
{
    struct remote_conn *conn = NULL;
    /* Those that have ended and still wait for the transport count, too. */
    if (remote->closing || nr_attaching(remote) >= KVN_LOCAL_ATTACHING_MAX
        || remote->nr_conns >= 2 * remote->config.nr_clients + KVN_LOCAL_ATTACHING_MAX
        || (conn = kv_calloc(1, sizeof(*conn))) == NULL) {
        goto err_close;
    }
    conn->clear = kv_calloc(1, REMOTE_CHUNK_BYTES);
    conn->frame_buffer = kv_calloc(1, KVN_REQUEST_BYTES_MAX);
    if (conn->clear == NULL || conn->frame_buffer == NULL
        || kvn_tls_export(tls, KVN_REMOTE_LABEL, conn->secret, sizeof(conn->secret))
               != KV_OK
        || KV_FAULT() || uv_poll_init(remote->loop, &conn->poll, fd) != 0) {
        goto err_free;
    }
    kvn_frames_init(&conn->frames, conn->frame_buffer, KVN_REQUEST_BYTES_MAX);
    KV_ASSERT(uv_idle_init(remote->loop, &conn->turn) == 0);
    conn->remote = remote;
    conn->fd = fd;
    conn->tls = tls;
    conn->tenant_id = tenant;
    conn->since_us = kvn_remote_now();
    conn->first_waiting = conn->last_waiting = REMOTE_NONE;
    (void)snprintf(conn->address, sizeof(conn->address), "%s", address);
    conn->poll.data = conn->turn.data = conn;
    conn->nr_handles = 2;
    conn->next = remote->conns;
    if (conn->next != NULL) {
        conn->next->prev = conn;
    }
    remote->conns = conn;
    remote->nr_conns++;
    kvn_remote_keep_alive(fd);
    watch(conn);
    kvn_remote_go_on(conn); /* bytes may have come with the end of the handshake */
    return;

err_free:
    kv_free(conn->clear);
    kv_free(conn->frame_buffer);
    kv_free(conn);
err_close:
    remote->counts.refused++;
    note(
        remote, "remote client of tenant %u at %s refused: too many, or no memory",
        tenant, address);
    close(fd);
    kvn_tls_close(tls);
}

static void on_clock(uv_timer_t *clock)
{
    kvn_remote_t *remote = clock->data;
    const uint64_t now = kvn_remote_now();
    for (struct remote_conn *c = remote->conns; c != NULL; c = c->next) {
        if (c->state == REMOTE_ATTACHING
            && now - c->since_us > remote->config.attach_us) {
            kvn_remote_break(c, "no attach in time");
        } else if (c->held_len > 0 && now > c->held_until_us) {
            kvn_remote_break(c, "did not post what its request moves");
        }
    }
    kvn_remote_orders_look(remote, now);
}

/* ---- open and close -------------------------------------------------------------- */

static uint32_t client_ops(uint32_t nr_clients)
{
    const uint32_t ops = KVN_REMOTE_OPS_MAX / nr_clients;
    return ops < REMOTE_CLIENT_OPS_MAX ? ops : REMOTE_CLIENT_OPS_MAX;
}
_Static_assert(
    KVN_REMOTE_OPS_MAX / KVN_REMOTE_CLIENTS_MAX >= REMOTE_CLIENT_OPS_MIN, "a share");

uint32_t kvn_remote_ops(uint32_t nr_clients)
{
    /* Twice: of a client that has gone while its operations end. */
    return nr_clients == 0 ? 0 : 2 * nr_clients * client_ops(nr_clients);
}

kv_status_t kvn_remote_open(
    uv_loop_t *loop, const struct kvn_remote_config *config,
    const struct kvn_remote_events *events, kvn_remote_t **remote_p)
{
    KV_ASSERT(config->nr_clients >= 1 && config->nr_clients <= KVN_REMOTE_CLIENTS_MAX);
    kvn_remote_t *remote = kv_calloc(1, sizeof(*remote));
    if (remote == NULL) {
        return KV_ERR_NOMEM;
    }
    remote->loop = loop;
    remote->config = *config;
    remote->events = *events;
    remote->client_ops = client_ops(config->nr_clients);
    remote->nr_orders = KVO_COPIES_MAX + kvn_remote_ops(config->nr_clients);
    remote->orders = kv_calloc(remote->nr_orders, sizeof(*remote->orders));
    if (remote->orders == NULL) {
        kv_free(remote);
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < remote->nr_orders; i++) {
        remote->orders[i].next = i + 1 < remote->nr_orders ? i + 1 : REMOTE_NONE;
    }
    kvn_told_init(
        &remote->told, config->tenants, config->nr_tenants, config->spaces,
        config->nr_spaces);
    remote->config.tenants = NULL;
    remote->config.spaces = NULL;
    KV_ASSERT(uv_timer_init(loop, &remote->clock) == 0);
    remote->clock.data = remote;
    remote->nr_handles = 1;
    KV_ASSERT(
        uv_timer_start(&remote->clock, on_clock, REMOTE_CLOCK_MS, REMOTE_CLOCK_MS)
        == 0);
    *remote_p = remote;
    return KV_OK;
}

static void on_clock_closed(uv_handle_t *handle)
{
    kvn_remote_t *remote = handle->data;
    remote->nr_handles--;
    finish_try(remote);
}

void kvn_remote_close(kvn_remote_t *remote, void (*closed)(void *arg), void *arg)
{
    KV_ASSERT(!remote->closing);
    remote->closing = true;
    remote->closed = closed;
    remote->closed_arg = arg;
    for (struct remote_conn *c = remote->conns; c != NULL; c = c->next) {
        kvn_remote_break(c, "this node closes");
    }
    uv_close((uv_handle_t *)&remote->clock, on_clock_closed);
}

bool kvn_remote_has(const kvn_remote_t *remote, uint32_t index)
{
    return index < KVO_CLIENTS_MAX && remote->by_index[index] != NULL;
}

const struct kvn_remote_counts *kvn_remote_counts(const kvn_remote_t *remote)
{
    return &remote->counts;
}
