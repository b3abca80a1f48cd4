/* The socket: who comes, what they send, and how they end. */
#define _GNU_SOURCE
#include "node/daemon/local_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

void kvn_local_note(kvn_local_t *local, const char *format, ...)
{
    char line[KVN_LOCAL_NOTE_MAX];
    if (local->events.note == NULL) {
        return;
    }
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    local->events.note(local->events.arg, line);
}

static uint64_t now_us(void)
{
    return uv_hrtime() / 1000;
}

/* ------------------------------------------------------------------ the end */

static void finish_try(kvn_local_t *local)
{
    if (!local->closing || local->nr_conns > 0 || local->nr_handles > 0
        || local->nr_holds > 0) {
        return;
    }
    void (*closed)(void *arg) = local->closed;
    void *arg = local->closed_arg;
    kvn_told_wipe(&local->told);
    kv_free(local->maps);
    kv_free(local->by_index);
    kv_free(local->seqs);
    kv_free(local);
    closed(arg);
}

static void conn_closed(uv_handle_t *handle)
{
    struct local_conn *conn = handle->data;
    kvn_local_t *local = conn->local;
    if (--conn->nr_handles > 0) {
        return;
    }
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        local->conns = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
    local->nr_conns--;
    kv_free(conn);
    finish_try(local);
}

static void socket_close(struct local_conn *conn)
{
    uv_close((uv_handle_t *)&conn->socket_poll, conn_closed);
    close(conn->fd);
}

static void pidfd_close(struct local_conn *conn)
{
    if (conn->pidfd >= 0) {
        uv_close((uv_handle_t *)&conn->pid_poll, conn_closed);
        close(conn->pidfd);
    }
}

/* `dead`: the process is, as its pidfd said. */
static void conn_end(struct local_conn *conn, bool dead)
{
    kvn_local_t *local = conn->local;
    enum conn_state was = conn->state;
    if (was == CONN_ENDED || (was == CONN_FENCED && !dead && !local->closing)) {
        return;
    }
    conn->state = CONN_ENDED;
    if (was == CONN_GREETED) {
        local->nr_greeted--;
        socket_close(conn);
        pidfd_close(conn);
        return;
    }
    if (was == CONN_FENCED) {
        local->counts.fenced--;
        if (dead) {
            local->events.dead(local->events.arg, conn->id);
        }
        pidfd_close(conn);
        return;
    }
    uint32_t nr_seqs = conn->nr_seqs;
    bool writes = nr_seqs > 0 && !dead; /* it could still */
    local->counts.hung_up += !conn->broken;
    local->counts.clients--;
    local->by_index[conn->id.index] = NULL; /* (1) */
    local->events.hung_up(local->events.arg, conn->id);
    if (!writes) {
        local->events.dead(local->events.arg, conn->id);
    }
    kvn_seqs_drop(conn);
    kvn_buffers_drop(conn);
    kvn_local_conn_rings_drop(conn);
    socket_close(conn);
    if (writes && !local->closing) {
        conn->state = CONN_FENCED;
        local->counts.fenced++;
        kvn_local_note(
            local,
            "client pid %d uid %u is gone with %u sequences open: their pages are kept "
            "until the process has died",
            (int)conn->pid, conn->uid, nr_seqs);
        return;
    }
    pidfd_close(conn);
}

void kvn_local_conn_end(struct local_conn *conn)
{
    conn_end(conn, false);
}

void kvn_local_conn_malformed(struct local_conn *conn, const struct kv_detail *detail)
{
    char text[160];
    if (conn->broken) {
        return;
    }
    conn->broken = true;
    conn->local->counts.malformed++;
    kv_detail_format(detail, KV_ERR_INVALID, text, sizeof(text));
    kvn_local_note(
        conn->local, "client pid %d uid %u ended: %s", (int)conn->pid, conn->uid, text);
    kvn_local_wake(conn->local); /* the turn ends it */
}

/* ------------------------------------------------------------------ packets in */

static void buffer(struct local_conn *conn, const struct kvn_packet *packet, int fd)
{
    struct kv_detail detail = {0};
    struct kvn_packet reply;
    kvn_packet_init(&reply, KVN_PACKET_BUFFERED);
    reply.req = packet->req;
    reply.bytes = packet->bytes;
    kv_status_t status =
        kvn_buffer_add(conn, fd, packet->bytes, &reply.buffer, &detail);
    bool told = status == KV_OK
                    ? kvn_local_conn_say(conn, &reply, sizeof(reply), -1)
                    : kvn_local_conn_refuse(conn, packet->req, status, &detail);
    if (!told) {
        kvn_local_conn_end(conn); /* it would wait for ever */
    }
}

/* What came with a packet beside its bytes. */
struct control {
    struct ucred sender;
    bool has_sender;
    int fd; /* -1: none, or more than one */
};

/* Takes descriptors and credentials out of `msg`; surplus descriptors are closed. */
static void control_take(struct msghdr *msg, struct control *control)
{
    unsigned nr_fds = 0;
    *control = (struct control){.fd = -1};
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET) {
            continue;
        }
        if (c->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&control->sender, CMSG_DATA(c), sizeof(control->sender));
            control->has_sender = true;
        } else if (c->cmsg_type == SCM_RIGHTS) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < n; i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                if (nr_fds++ == 0) {
                    control->fd = fd;
                } else {
                    close(fd);
                }
            }
        }
    }
    if (control->fd >= 0 && (nr_fds > 1 || (msg->msg_flags & MSG_CTRUNC) != 0)) {
        close(control->fd);
        control->fd = -1;
    }
}

static void packet_take(
    struct local_conn *conn, const uint8_t *bytes, size_t len,
    const struct control *control)
{
    struct kv_detail detail = {0};
    struct kvn_packet packet;
    kv_status_t status = kvn_packet_read(bytes, len, &packet, NULL, &detail);
    if (status == KV_ERR_VERSION && conn->state == CONN_GREETED) {
        conn->local->counts.refused++;
        (void)kvn_local_conn_refuse(conn, 0, status, &detail);
        kvn_local_conn_end(conn);
        return;
    }
    bool attached = conn->state == CONN_ATTACHED;
    const struct ucred *sender = control->has_sender ? &control->sender : NULL;
    if (status == KV_OK && packet.type == KVN_PACKET_ATTACH && !attached) {
        kvn_local_conn_attach(conn, &packet, sender);
        return;
    }
    struct kvn_packet_ask ask;
    if (status == KV_OK && packet.type == KVN_PACKET_ASK && !attached
        && (status = kvn_packet_ask_read(bytes, &ask, &detail)) == KV_OK) {
        kvn_local_conn_asked(conn, &packet, &ask, sender);
        return;
    }
    if (status == KV_OK && packet.type == KVN_PACKET_BUFFER && attached
        && control->fd >= 0) {
        buffer(conn, &packet, control->fd);
        return;
    }
    if (status == KV_OK && packet.type == KVN_PACKET_UNBUFFER && attached) {
        status = kvn_buffer_remove(conn, packet.buffer);
        if (status == KV_OK) {
            return;
        }
        kv_fail(
            &detail, status, "unbuffer.buffer", KVN_LOCAL_BUFFERS_MAX, packet.buffer);
    } else if (status == KV_OK) {
        kv_fail(&detail, KV_ERR_INVALID, "packet.unexpected", 0, packet.type);
    }
    kvn_local_conn_malformed(conn, &detail);
    kvn_local_conn_end(conn);
}

/* One packet; false when there is none, or no connection any more. */
static bool packet_receive(struct local_conn *conn)
{
    /* One more than any that we take. */
    uint8_t bytes[sizeof(struct kvn_packet) + sizeof(struct kvn_packet_ask) + 1];
    _Alignas(struct cmsghdr) char
        room[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = room,
        .msg_controllen = sizeof(room),
    };
    ssize_t len = recvmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) {
        return false;
    }
    if (len < 0) {
        kvn_local_conn_end(conn);
        return false;
    }
    struct control control;
    control_take(&msg, &control);
    if (len == 0) {
        kvn_local_conn_end(conn); /* hung up */
    } else if (
        len == 1 && bytes[0] == KVN_PACKET_WAKE && conn->state == CONN_ATTACHED) {
        conn->local->counts.wakes++;
        kvn_local_wake(conn->local);
    } else {
        packet_take(conn, bytes, (size_t)len, &control);
    }
    if (control.fd >= 0) {
        close(control.fd);
    }
    return conn->state != CONN_ENDED;
}

static void on_socket(uv_poll_t *handle, int status, int events)
{
    struct local_conn *conn = handle->data;
    (void)events;
    if (status < 0) {
        kvn_local_conn_end(conn);
        return;
    }
    for (unsigned i = 0; i < LOCAL_TURN_PACKETS && packet_receive(conn); i++) {}
}

/* Proved; that asking fails proves nothing. */
static bool process_dead(const struct local_conn *conn)
{
    struct pollfd dead = {.fd = conn->pidfd, .events = POLLIN};
    return poll(&dead, 1, 0) == 1 && (dead.revents & POLLIN) != 0;
}

static void on_death(uv_poll_t *handle, int status, int events)
{
    struct local_conn *conn = handle->data;
    (void)status;
    (void)events;
    conn_end(conn, process_dead(conn));
}

/* ------------------------------------------------------------------ connections */

/* Room for one more who is not attached yet, within the bound of its uid and that of
 * all. The oldest gives way: a flood of silent ones pushes out itself, and who attaches
 * at once does not notice. */
static void attaching_room(kvn_local_t *local, uid_t uid)
{
    struct local_conn *oldest = NULL, *of_uid = NULL;
    uint32_t same = 0;
    for (struct local_conn *c = local->conns; c != NULL; c = c->next) {
        if (c->state != CONN_GREETED || c->own) {
            continue;
        }
        if (oldest == NULL || c->since_us < oldest->since_us) {
            oldest = c;
        }
        if (c->uid == uid) {
            same++;
            of_uid = of_uid == NULL || c->since_us < of_uid->since_us ? c : of_uid;
        }
    }
    struct local_conn *out = same >= KVN_LOCAL_ATTACHING_UID_MAX            ? of_uid
                             : local->nr_greeted >= KVN_LOCAL_ATTACHING_MAX ? oldest
                                                                            : NULL;
    if (out != NULL) {
        local->counts.refused++;
        kvn_local_note(
            local, "client pid %d uid %u refused: silent, and %u connections attach",
            (int)out->pid, out->uid, local->nr_greeted);
        kvn_local_conn_end(out);
    }
}

static int pidfd_open_of(pid_t pid)
{
    return KV_FAULT() ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
}

static bool greet(struct local_conn *conn)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_GREETING);
    if (getrandom(&conn->nonce, sizeof(conn->nonce), GRND_NONBLOCK)
        != sizeof(conn->nonce)) {
        return false;
    }
    packet.nonce = conn->nonce;
    return kvn_local_conn_say(conn, &packet, sizeof(packet), -1);
}

static bool conn_watch(struct local_conn *conn)
{
    uv_loop_t *loop = conn->local->loop;
    KV_ASSERT(uv_poll_init(loop, &conn->socket_poll, conn->fd) == 0);
    conn->socket_poll.data = conn;
    conn->nr_handles = 1;
    if (conn->pidfd >= 0) {
        KV_ASSERT(uv_poll_init(loop, &conn->pid_poll, conn->pidfd) == 0);
        conn->pid_poll.data = conn;
        conn->nr_handles = 2;
        (void)uv_poll_start(&conn->pid_poll, UV_READABLE, on_death);
    }
    return uv_poll_start(&conn->socket_poll, UV_READABLE, on_socket) == 0;
}

static void on_clock(uv_timer_t *timer);

static void clock_run(kvn_local_t *local)
{
    if (!local->closing) {
        (void)uv_timer_start(&local->clock, on_clock, LOCAL_CLOCK_MS, LOCAL_CLOCK_MS);
    }
}

/* Takes the socket over, or closes it. `own`: of this process. */
static void conn_open(kvn_local_t *local, int fd, bool own)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0;
    struct local_conn *conn = NULL;
    if (known) {
        if (!own) {
            attaching_room(local, peer.uid);
        }
        conn = kv_calloc(1, sizeof(*conn));
    }
    if (conn == NULL) {
        local->counts.refused++;
        kvn_local_note(
            local, "client pid %d uid %u refused: no memory", known ? (int)peer.pid : 0,
            known ? peer.uid : 0);
        close(fd);
        return;
    }
    conn->local = local;
    conn->own = own;
    conn->fd = fd;
    conn->pid = peer.pid;
    conn->uid = peer.uid;
    conn->since_us = now_us();
    conn->owed = LOCAL_NONE;
    for (uint32_t i = 0; i < KVN_LOCAL_BUFFERS_MAX; i++) {
        conn->buffers[i].map = LOCAL_NONE;
    }
    conn->pidfd = peer.pid > 0 ? pidfd_open_of(peer.pid) : -1;
    if (peer.pid > 0 && conn->pidfd < 0) {
        local->counts.refused++; /* it is gone already, or we have no descriptor left */
        kvn_local_note(
            local, "client pid %d uid %u refused: no pidfd: %s", (int)peer.pid,
            peer.uid, strerror(errno));
        close(fd);
        kv_free(conn);
        return;
    }
    conn->next = local->conns;
    if (conn->next != NULL) {
        conn->next->prev = conn;
    }
    local->conns = conn;
    local->nr_conns++;
    local->nr_greeted++;
    if (!conn_watch(conn) || !greet(conn)) {
        local->counts.refused++;
        kvn_local_conn_end(conn);
        return;
    }
    clock_run(local);
}

static void on_listen(uv_poll_t *handle, int status, int events)
{
    kvn_local_t *local = handle->data;
    (void)status;
    (void)events;
    for (unsigned i = 0; i < LOCAL_TURN_ACCEPTS; i++) {
        int fd = accept4(local->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            local->pause_said = false;
            conn_open(local, fd, false);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            if (errno != EAGAIN) {
                /* No descriptor or memory left: asking again now would only spin. */
                (void)uv_poll_stop(&local->listen_poll);
                local->accept_paused = true;
                if (!local->pause_said) {
                    local->pause_said = true;
                    kvn_local_note(
                        local, "accepting pauses: %s: raise ulimit -n (LimitNOFILE=)",
                        strerror(errno));
                }
                clock_run(local);
            }
            return;
        }
    }
}

static void on_clock(uv_timer_t *timer)
{
    kvn_local_t *local = timer->data;
    struct local_conn *next;
    for (struct local_conn *c = local->conns; c != NULL; c = next) {
        next = c->next;
        if (c->state == CONN_GREETED && now_us() - c->since_us > local->attach_us) {
            local->counts.refused++;
            kvn_local_note(
                local, "client pid %d uid %u refused: no attach in time", (int)c->pid,
                c->uid);
            kvn_local_conn_end(c);
        }
    }
    if (local->accept_paused && !local->closing) {
        local->accept_paused =
            uv_poll_start(&local->listen_poll, UV_READABLE, on_listen) != 0;
    }
    if (local->nr_greeted == 0 && !local->accept_paused) {
        (void)uv_timer_stop(timer);
    }
}

static void handle_closed(uv_handle_t *handle)
{
    kvn_local_t *local = handle->data;
    local->nr_handles--;
    finish_try(local);
}

/* Everybody out; then, once nobody holds a client's memory any more, the rest. */
static void close_turn(kvn_local_t *local)
{
    for (struct local_conn *c = local->conns, *next; c != NULL; c = next) {
        next = c->next;
        kvn_local_conn_end(c);
    }
    if (!uv_is_closing((uv_handle_t *)&local->clock)) {
        uv_close((uv_handle_t *)&local->clock, handle_closed);
        if (local->listen_fd >= 0) {
            uv_close((uv_handle_t *)&local->listen_poll, handle_closed);
            close(local->listen_fd);
        }
    }
    if (local->nr_holds == 0) {
        uv_close((uv_handle_t *)&local->turn, handle_closed);
    } else {
        local->awake = false; /* kvn_local_release() wakes us */
        KV_ASSERT(uv_idle_stop(&local->turn) == 0);
    }
}

static void on_turn(uv_idle_t *handle)
{
    kvn_local_t *local = handle->data;
    if (local->closing) {
        close_turn(local);
    } else {
        kvn_local_turn(local);
    }
}

/* ------------------------------------------------------------------ opening */

static kv_status_t
config_check(const struct kvn_local_config *config, char *line, size_t cap)
{
    const struct {
        const char *field;
        uint64_t value, min, max;
    } bounds[] = {
        {"path", config->path != NULL ? strlen(config->path) : 0, 0, 107},
        {"clients", config->nr_clients, 1, KVO_CLIENTS_MAX},
        {"tenants", config->nr_tenants, 1, KVP_TENANTS_MAX},
        {"spaces", config->nr_spaces, 0, KVN_PACKET_SPACES_MAX},
        {"arenas", config->nr_arenas, 0, KVN_PACKET_ARENAS_MAX},
        {"sequences", config->nr_sequences, config->nr_arenas > 0, UINT32_MAX - 1},
        {"buffer_bytes", config->buffer_bytes, 1, UINT64_C(1) << KVN_OFFSET_BITS},
        {"poll_us", config->poll_us, 0, 1000000},
        {"attach_us", config->attach_us, 1000, 3600000000},
    };
    for (unsigned i = 0; i < KV_COUNT_OF(bounds); i++) {
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max) {
            (void)snprintf(
                line, cap, "local.%s is %llu, the limits are %llu and %llu",
                bounds[i].field, (unsigned long long)bounds[i].value,
                (unsigned long long)bounds[i].min, (unsigned long long)bounds[i].max);
            return KV_ERR_CONFIG;
        }
    }
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        const struct kvn_local_tenant *t = &config->tenants[i];
        if (t->secret_len < KV_SECRET_BYTES_MIN || t->secret_len > KV_SECRET_BYTES_MAX
            || t->nr_uids > KVN_LOCAL_UIDS_MAX) {
            (void)snprintf(
                line, cap, "local: tenant %u has a secret of %zu bytes and %u uids",
                t->id, t->secret_len, t->nr_uids);
            return KV_ERR_CONFIG;
        }
    }
    for (uint32_t i = 0; i < config->nr_spaces; i++) {
        const struct kvn_local_space *s = &config->spaces[i];
        if (strlen(s->name) >= KVN_PACKET_NAME_MAX || s->nr_groups == 0
            || s->first_variant + s->nr_groups > KVP_VARIANTS_MAX || s->page_bytes == 0
            || s->page_tokens == 0) {
            (void)snprintf(
                line, cap,
                "local: space \"%s\": its name is longer than %d bytes, or its groups, "
                "page_bytes or page_tokens are out of bounds",
                s->name, KVN_PACKET_NAME_MAX - 1);
            return KV_ERR_CONFIG;
        }
    }
    return KV_OK;
}

static void config_copy(kvn_local_t *local, const struct kvn_local_config *config)
{
    local->nr_clients = config->nr_clients;
    local->buffer_bytes = config->buffer_bytes;
    local->poll_us = config->poll_us;
    local->attach_us = config->attach_us;
    kvn_told_init(
        &local->told, config->tenants, config->nr_tenants, config->spaces,
        config->nr_spaces);
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        const struct kvn_local_tenant *from = &config->tenants[i];
        memcpy(local->uids[i].uids, from->uids, sizeof(from->uids));
        local->uids[i].nr = from->nr_uids;
    }
}

/* A socket that nobody answers on any more is removed; a living one is not. */
static kv_status_t path_clear(const struct sockaddr_un *address, char *line, size_t cap)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0) {
        return KV_OK; /* bind() says what else may be wrong */
    }
    if (!S_ISSOCK(st.st_mode)) {
        (void)snprintf(line, cap, "%s is there and is no socket", address->sun_path);
        return KV_ERR_CONFIG;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        (void)snprintf(line, cap, "socket: %s", strerror(errno));
        return KV_ERR_IO;
    }
    int ret = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    bool stale = ret != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!stale) {
        (void)snprintf(
            line, cap,
            "%s: another node listens there: stop it, or choose another path",
            address->sun_path);
        return KV_ERR_IO;
    }
    if (unlink(address->sun_path) != 0) {
        (void)snprintf(
            line, cap, "%s: cannot remove the stale socket: %s", address->sun_path,
            strerror(errno));
        return KV_ERR_IO;
    }
    return KV_OK;
}

static kv_status_t listen_open(
    kvn_local_t *local, const struct kvn_local_config *config, char *line, size_t cap)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    const int on = 1;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", local->path);
    kv_status_t status = path_clear(&address, line, cap);
    if (status != KV_OK) {
        return status;
    }
    int fd = KV_FAULT()
                 ? -1
                 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of the socket before bind() is that of the file: there is no moment at
     * which others may connect. Credentials with every packet: see
     * kvn_local_same_process(). */
    status = KV_ERR_IO;
    if (fd < 0 || fchmod(fd, 0600) != 0
        || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0
        || bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        (void)snprintf(
            line, cap, "%s: %s: is the folder there, and writable?", local->path,
            strerror(errno));
        goto err_close;
    }
    status = kvn_local_group_give(config, line, cap);
    if (status != KV_OK) {
        goto err_unlink;
    }
    status = KV_ERR_IO;
    if (KV_FAULT() || lstat(local->path, &st) != 0 || listen(fd, LOCAL_BACKLOG) != 0) {
        (void)snprintf(line, cap, "%s: %s", local->path, strerror(errno));
        goto err_unlink;
    }
    local->path_dev = st.st_dev;
    local->path_ino = st.st_ino;
    local->listen_fd = fd;
    return KV_OK;

err_unlink:
    (void)unlink(local->path);
err_close:
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* Ours alone: another node may have put its own there since. */
static void path_remove(const kvn_local_t *local)
{
    struct stat st;
    if (local->listen_fd >= 0 && lstat(local->path, &st) == 0
        && st.st_dev == local->path_dev && st.st_ino == local->path_ino) {
        (void)unlink(local->path);
    }
}

kv_status_t kvn_local_open(
    uv_loop_t *loop, const struct kvn_local_config *config,
    const struct kvn_local_events *events, kvn_local_t **local_p, char *line,
    size_t cap)
{
    kv_status_t status = config_check(config, line, cap);
    if (status != KV_OK) {
        return status;
    }
    status = KV_ERR_NOMEM;
    (void)snprintf(line, cap, "no memory for %u clients", config->nr_clients);
    kvn_local_t *local = kv_calloc(1, sizeof(*local));
    if (local == NULL) {
        return status;
    }
    local->loop = loop;
    local->events = *events;
    config_copy(local, config);
    local->listen_fd = -1;
    (void)snprintf(
        local->path, sizeof(local->path), "%s",
        config->path != NULL ? config->path : "");
    local->by_index = kv_calloc(config->nr_clients, sizeof(struct local_conn *));
    if (local->by_index == NULL || kvn_maps_init(local) != KV_OK
        || kvn_seqs_init(local, config) != KV_OK) {
        goto err_free;
    }
    if (local->path[0] != '\0') {
        status = listen_open(local, config, line, cap);
        if (status != KV_OK) {
            goto err_free;
        }
    }
    KV_ASSERT(uv_idle_init(loop, &local->turn) == 0);
    KV_ASSERT(uv_timer_init(loop, &local->clock) == 0);
    local->turn.data = local->clock.data = local;
    local->nr_handles = 2;
    KV_ASSERT(uv_idle_start(&local->turn, on_turn) == 0);
    if (local->listen_fd >= 0) {
        KV_ASSERT(uv_poll_init(loop, &local->listen_poll, local->listen_fd) == 0);
        KV_ASSERT(uv_poll_start(&local->listen_poll, UV_READABLE, on_listen) == 0);
        local->listen_poll.data = local;
        local->nr_handles = 3;
    }
    local->awake = true;
    local->last_us = now_us();
    line[0] = '\0';
    *local_p = local;
    return KV_OK;

err_free:
    kvn_told_wipe(&local->told);
    kv_free(local->maps);
    kv_free(local->by_index);
    kv_free(local->seqs);
    kv_free(local);
    return status;
}

void kvn_local_adopt(kvn_local_t *local, int fd)
{
    const int on = 1;
    /* Credentials with every packet, as of those who come by the path. */
    if (local->closing || KV_FAULT()
        || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
        close(fd);
        return;
    }
    conn_open(local, fd, true);
}

void kvn_local_close(kvn_local_t *local, void (*closed)(void *arg), void *arg)
{
    KV_ASSERT(!local->closing);
    local->closing = true;
    local->closed = closed;
    local->closed_arg = arg;
    path_remove(local);
    kvn_local_wake(local); /* on_turn() does the rest, from the loop */
}

const struct kvn_local_counts *kvn_local_counts(const kvn_local_t *local)
{
    return &local->counts;
}
