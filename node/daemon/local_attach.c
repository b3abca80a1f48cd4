/* What goes out on the socket, and who may attach: the tenant by the uid that the
 * kernel tells, the process by its pidfd. */
#define _GNU_SOURCE
#include "node/daemon/local_priv.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------ packets out */

/* All or nothing, without waiting: a client that does not empty its socket has no use
 * for what we say. */
bool kvn_local_conn_say(struct local_conn *conn, const void *bytes, size_t len, int fd)
{
    return !KV_FAULT() && kvn_packet_send(conn->fd, bytes, len, fd);
}

bool kvn_local_conn_refuse(
    struct local_conn *conn, uint64_t req, kv_status_t status,
    const struct kv_detail *detail)
{
    struct kvn_packet packet;
    kvn_packet_refuse(&packet, req, status, detail);
    return kvn_local_conn_say(conn, &packet, sizeof(packet), -1);
}

/* ------------------------------------------------------------------ ATTACH */

/* The tenant's index, if the config gives it to this uid. Who is in our process has our
 * memory, and every secret in it: that one may be any tenant. */
static uint16_t tenant_find(const struct local_conn *conn, uint32_t id)
{
    const kvn_local_t *local = conn->local;
    for (uint16_t i = 0; i < local->told.nr_tenants; i++) {
        const struct local_uids *may = &local->uids[i];
        const bool meant = local->told.tenants[i].id == id;
        if (meant && conn->own) {
            return i;
        }
        for (uint32_t u = 0; u < may->nr && meant; u++) {
            if (may->uids[u] == conn->uid) {
                return i;
            }
        }
    }
    return UINT16_MAX;
}

static bool process_alive(const struct local_conn *conn)
{
    struct pollfd dead = {.fd = conn->pidfd, .events = POLLIN};
    return poll(&dead, 1, 0) == 0;
}

/* The process of the pidfd is the one that sent this packet, and so the one that the
 * kernel named when it connected: the packet repeats a nonce that was sent after the
 * pidfd was opened, the kernel put the sender's number on it, and the pidfd's process
 * has not died until now, so that its number was nobody else's in between. */
bool kvn_local_same_process(
    const struct local_conn *conn, const struct kvn_packet *attach,
    const struct ucred *sender)
{
    if (attach->nonce != conn->nonce || sender == NULL || sender->pid != conn->pid) {
        return false;
    }
    /* Those of another pid namespace have number 0, all of them. */
    return conn->pidfd < 0 || process_alive(conn);
}

/* The fill arenas of its tenant, in the order of arena_of[]: how many. */
static uint32_t
arenas_write(const struct local_conn *conn, struct kvn_packet_arena *arenas, int *fds)
{
    const kvn_local_t *local = conn->local;
    uint32_t nr = 0;
    for (uint32_t i = 0; i < local->nr_arenas; i++) {
        const struct kvn_local_arena *arena = &local->arenas[i];
        if (arena->tenant == conn->tenant) {
            KV_ASSERT(local->arena_of[arena->pool] == nr);
            fds[nr] = arena->fd;
            arenas[nr++] = (struct kvn_packet_arena){
                .bytes = arena->bytes,
                .block_bytes = arena->block_bytes,
                .nr_blocks = arena->nr_blocks,
            };
        }
    }
    return nr;
}

/* ATTACHED, with the rings' descriptor and those of the arenas. */
static bool attached_send(struct local_conn *conn, int rings_fd)
{
    struct {
        struct kvn_packet packet;
        struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
        struct kvn_packet_arena arenas[KVN_PACKET_ARENAS_MAX];
    } reply;
    kvn_local_t *local = conn->local;
    int fds[KVN_PACKET_FDS_MAX] = {rings_fd};
    uint32_t nr = 0;
    size_t len = sizeof(reply.packet) + local->told.nr_spaces * sizeof(reply.spaces[0]);
    kvn_packet_init(&reply.packet, KVN_PACKET_ATTACHED);
    reply.packet.ring_bytes = conn->ring_bytes;
    reply.packet.nr_spaces = (uint16_t)local->told.nr_spaces;
    if (conn->level == KVN_PACKET_LEVEL_PAGER) {
        nr = arenas_write(conn, reply.arenas, &fds[1]);
        reply.packet.nr_arenas = (uint16_t)nr;
        memmove((uint8_t *)&reply + len, reply.arenas, nr * sizeof(reply.arenas[0]));
        len += nr * sizeof(reply.arenas[0]);
    }
    bool sent = kvn_told_spaces(&local->told, conn->tenant, reply.spaces) == KV_OK
                && !KV_FAULT()
                && kvn_packet_send_fds(conn->fd, &reply, len, fds, 1 + nr);
    explicit_bzero(&reply, sizeof(reply));
    return sent;
}

/* The core's consent, then the client's notice; both or neither. */
static kv_status_t attach_core(struct local_conn *conn, int rings_fd)
{
    kvn_local_t *local = conn->local;
    kv_status_t status =
        local->events.attach(local->events.arg, UINT64_C(1) << conn->tenant, &conn->id);
    if (status != KV_OK) {
        return status;
    }
    KV_ASSERT(conn->id.index < local->nr_clients);
    KV_ASSERT(local->by_index[conn->id.index] == NULL);
    if (!attached_send(conn, rings_fd)) {
        local->events.hung_up(local->events.arg, conn->id);
        local->events.dead(local->events.arg, conn->id);
        return KV_ERR_IO;
    }
    local->by_index[conn->id.index] = conn;
    return KV_OK;
}

/* The level that it asks for: one that its tenant has memory for, and a process whose
 * death will be seen. */
static kv_status_t
level_check(struct local_conn *conn, uint16_t level, struct kv_detail *detail)
{
    const kvn_local_t *local = conn->local;
    uint16_t most = KVN_PACKET_LEVEL_OBJECT;
    for (uint32_t i = 0; i < local->nr_arenas; i++) {
        if (local->arenas[i].tenant == conn->tenant) {
            most = KVN_PACKET_LEVEL_PAGER;
        }
    }
    if (level > most) {
        return kv_fail(detail, KV_ERR_INVALID, "attach.level", most, level);
    }
    conn->level = level;
    conn->answer_max = KVN_ANSWER_BYTES_MAX;
    if (level == KVN_PACKET_LEVEL_OBJECT) {
        return KV_OK;
    }
    conn->answer_max = KVN_SEQ_ANSWER_BYTES_MAX;
    if (conn->pidfd < 0 || KV_FAULT()
        || !uv_is_active((uv_handle_t *)&conn->pid_poll)) {
        return kv_fail(detail, KV_ERR_INVALID, "attach.pidfd", 1, 0);
    }
    return KV_OK;
}

static kv_status_t attach_do(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct ucred *sender, struct kv_detail *detail)
{
    kvn_local_t *local = conn->local;
    conn->tenant = tenant_find(conn, packet->tenant);
    /* The same answer for a tenant that there is not: nothing is said about others. */
    if (conn->tenant == UINT16_MAX || !kvn_local_same_process(conn, packet, sender)) {
        return KV_ERR_DENIED;
    }
    kv_status_t status = level_check(conn, packet->level, detail);
    if (status != KV_OK) {
        return status;
    }
    if (!kvn_rings_size_ok(packet->ring_bytes)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "attach.ring_bytes", KVN_RING_BYTES_MAX,
            packet->ring_bytes);
    }
    int rings_fd;
    status = kvn_local_conn_rings(conn, packet->ring_bytes, &rings_fd);
    if (status != KV_OK) {
        return kv_fail(
            detail, status, "attach.ring_bytes", KVN_RING_BYTES_MAX,
            packet->ring_bytes);
    }
    status = attach_core(conn, rings_fd);
    close(rings_fd); /* the client has its own, and we our mapping */
    if (status != KV_OK) {
        kvn_local_conn_rings_drop(conn);
        return kv_fail(
            detail, status, "attach.clients", local->nr_clients,
            local->counts.clients + 1);
    }
    return KV_OK;
}

void kvn_local_conn_attach(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct ucred *sender)
{
    kvn_local_t *local = conn->local;
    struct kv_detail detail = {0};
    kv_status_t status = attach_do(conn, packet, sender, &detail);
    if (status != KV_OK) {
        char text[160];
        local->counts.refused++;
        kv_detail_format(&detail, status, text, sizeof(text));
        kvn_local_note(
            local, "client pid %d uid %u tenant %u refused: %s", (int)conn->pid,
            conn->uid, packet->tenant, text);
        (void)kvn_local_conn_refuse(conn, packet->req, status, &detail);
        kvn_local_conn_end(conn);
        return;
    }
    if (conn->pidfd < 0) {
        kvn_local_note(
            local,
            "a client of uid %u is in a process namespace that this node does not see: "
            "its death is known by its hang-up alone; run both in one (--pid=host)",
            conn->uid);
    }
    conn->state = CONN_ATTACHED;
    local->nr_greeted--;
    local->counts.attached++;
    local->counts.clients++;
    kvn_local_wake(local);
}
