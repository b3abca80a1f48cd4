/* How a client comes and goes: the socket, its packets, shared memory. */
#define _GNU_SOURCE
#include "node/lib/lib_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t kvr_now_us(void)
{
    struct timespec now;
    KV_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

kvr_status_t
kvr_fail(kvr_client_t *client, kv_status_t status, const struct kv_detail *detail)
{
    kv_detail_format(detail, status, client->error, sizeof(client->error));
    return status;
}

kvr_status_t
kvr_fail_text(kvr_client_t *client, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(client->error, sizeof(client->error), format, args);
    va_end(args);
    return status;
}

static kvr_status_t gone(kvr_client_t *client)
{
    client->gone = true;
    return kvr_fail_text(
        client, KV_ERR_LINK_LOST, "link_lost: the node hung up: open again");
}

/* ------------------------------------------------------------------ packets */

static bool packet_send(kvr_client_t *client, const struct kvn_packet *packet, int fd)
{
    uint64_t until = kvr_now_us() + client->timeout_us;
    while (!kvn_packet_send(client->fd, packet, sizeof(*packet), fd)) {
        struct pollfd writable = {.fd = client->fd, .events = POLLOUT};
        if ((errno != EAGAIN && errno != EINTR) || kvr_now_us() >= until) {
            return false;
        }
        (void)poll(&writable, 1, 10);
    }
    return true;
}

/* Descriptors that came with a packet. */
struct fds {
    int fd[KVN_PACKET_FDS_MAX];
    uint32_t nr;
};

static void fds_close(struct fds *fds)
{
    while (fds->nr > 0) {
        close(fds->fd[--fds->nr]);
    }
}

/* A packet, or a wake (len 1). AGAIN: none. LINK_LOST. *fds: the caller's. */
static kv_status_t packet_receive(
    kvr_client_t *client, uint8_t *bytes, size_t cap, size_t *len_p, struct fds *fds)
{
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(KVN_PACKET_FDS_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = bytes, .iov_len = cap};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = room,
        .msg_controllen = sizeof(room),
    };
    ssize_t len = recvmsg(client->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (len < 0 && (errno == EAGAIN || errno == EINTR)) {
        return KV_ERR_AGAIN;
    }
    fds->nr = 0;
    if (len <= 0) {
        return KV_ERR_LINK_LOST;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < n; i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                if (fds->nr == KVN_PACKET_FDS_MAX) {
                    close(fd);
                } else {
                    fds->fd[fds->nr++] = fd;
                }
            }
        }
    }
    *len_p = (size_t)len;
    return KV_OK;
}

static void unbuffer(kvr_client_t *client, uint32_t id)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_UNBUFFER);
    packet.buffer = id;
    if (!packet_send(client, &packet, -1)) {
        client->gone = true;
    }
}

/* What nobody waits for: a wake; or an answer that came too late, whose buffer nobody
 * knows. */
static void packet_late(kvr_client_t *client, const uint8_t *bytes, size_t len)
{
    struct kvn_packet packet;
    if (len == 1) {
        return;
    }
    if (kvn_packet_read(bytes, len, &packet, NULL, NULL) == KV_OK
        && packet.type == KVN_PACKET_BUFFERED) {
        unbuffer(client, packet.buffer);
    }
}

void kvr_socket_drain(kvr_client_t *client)
{
    uint8_t bytes[sizeof(struct kvn_packet) + 1];
    size_t len;
    struct fds fds;
    client->looked_us = kvr_now_us();
    while (!client->gone) {
        kv_status_t status = packet_receive(client, bytes, sizeof(bytes), &len, &fds);
        if (status == KV_ERR_AGAIN) {
            return;
        }
        if (status != KV_OK) {
            (void)gone(client);
            return;
        }
        fds_close(&fds);
        packet_late(client, bytes, len);
    }
}

void kvr_wake_node(kvr_client_t *client)
{
    const char wake = KVN_PACKET_WAKE;
    /* A full socket has others before it that wake as well. */
    (void)!send(client->fd, &wake, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What a packet is, beside its descriptors. */
struct told {
    struct kvn_packet packet;
    struct kvn_packet_space *spaces; /* room for them, or NULL: none are wanted */
    struct kvn_packet_arena arenas[KVN_PACKET_ARENAS_MAX];
};

static kv_status_t
told_read(const uint8_t *bytes, size_t len, struct told *told, struct kv_detail *detail)
{
    kv_status_t status =
        kvn_packet_read(bytes, len, &told->packet, told->spaces, detail);
    return status == KV_OK
               ? kvn_packet_arenas(bytes, &told->packet, told->arenas, detail)
               : status;
}

kvr_status_t kvr_refused(kvr_client_t *client, const struct kvn_packet *packet)
{
    struct kv_detail detail;
    const kv_status_t status = kvn_packet_refused(packet, &detail);
    /* The number of a newer node is no status of ours, but the line tells of it. */
    (void)kvr_fail(
        client, packet->status < 0 ? (kv_status_t)packet->status : status, &detail);
    return status;
}

/* Why not, in words where the field alone does not tell what to do. */
static kvr_status_t refused(kvr_client_t *client, const struct kvn_packet *packet)
{
    const kvr_status_t status = kvr_refused(client, packet);
    if (strcmp(packet->field, "attach.level") == 0) {
        return kvr_fail_text(
            client, status,
            "invalid: the pager level is not open to this tenant: its section of the "
            "node's configuration needs domain = own and fill = yes");
    }
    if (strcmp(packet->field, "attach.pidfd") == 0) {
        return kvr_fail_text(
            client, status,
            "invalid: the pager level is for processes that the node can see die: run "
            "both in one pid namespace");
    }
    return status;
}

/* Waits for the answer to `req`: of this type, or REFUSED, whose status it is. */
static kvr_status_t packet_wait(
    kvr_client_t *client, enum kvn_packet_type type, uint64_t req, struct told *told,
    struct fds *fds)
{
    uint8_t bytes[KVN_PACKET_BYTES_MAX];
    struct kvn_packet *packet = &told->packet;
    uint64_t until = kvr_now_us() + client->timeout_us;
    struct kv_detail detail = {0};
    for (;;) {
        size_t len;
        kv_status_t status = packet_receive(client, bytes, sizeof(bytes), &len, fds);
        if (status == KV_ERR_LINK_LOST) {
            return gone(client);
        }
        if (status == KV_ERR_AGAIN) {
            struct pollfd readable = {.fd = client->fd, .events = POLLIN};
            uint64_t now = kvr_now_us();
            if (now >= until) {
                return kvr_fail_text(
                    client, KV_ERR_DEADLINE,
                    "deadline: the node did not answer within %llu us",
                    (unsigned long long)client->timeout_us);
            }
            (void)poll(&readable, 1, (int)((until - now) / 1000 + 1));
            continue;
        }
        if (len > 1) {
            status = told_read(bytes, len, told, &detail);
        }
        if (len > 1 && status != KV_OK) {
            fds_close(fds);
            client->gone = true;
            return kvr_fail(client, status, &detail); /* (2) */
        }
        if (len > 1 && packet->req == req
            && (packet->type == type || packet->type == KVN_PACKET_REFUSED)) {
            break;
        }
        fds_close(fds);
        packet_late(client, bytes, len);
    }
    return packet->type == KVN_PACKET_REFUSED ? refused(client, packet) : KVR_OK;
}

/* ------------------------------------------------------------------ opening */

static kvr_status_t
unix_open(kvr_client_t *client, const struct kvr_config *config, const char *path);

/* What a target may begin with, and who connects to what stands behind it: sets
 * client->fd to a socket on which a node says GREETING, or attaches and sets
 * client->remote. */
static const struct door {
    const char *prefix;
    const char *what; /* in a line that says what there is */
    size_t max;       /* characters behind it */
    kvr_status_t (*open)(
        kvr_client_t *client, const struct kvr_config *config, const char *rest);
} doors[] = {
    {"unix:", "unix:PATH", 107, unix_open},
    {"embed:", "embed:FILE", 511, kvr_embed_open},
    {"tls://", "tls://host:port?…", 1000, kvr_remote_open},
};

/* The door of config->target; *rest_p: what stands behind its prefix. */
static kvr_status_t door_find(
    kvr_client_t *client, const struct kvr_config *config, const struct door **door_p,
    const char **rest_p)
{
    const char *target = config->target != NULL ? config->target : "";
    struct kv_detail detail = {0};
    char whats[128] = "";
    for (size_t i = 0; i < KV_COUNT_OF(doors); i++) {
        const size_t len = strlen(doors[i].prefix), used = strlen(whats);
        const char *rest = target + len;
        (void)snprintf(
            whats + used, sizeof(whats) - used, "%s\"%s\"", i > 0 ? " or " : "",
            doors[i].what);
        if (strncmp(target, doors[i].prefix, len) != 0 || rest[0] == '\0') {
            continue;
        }
        if (strlen(rest) > doors[i].max) {
            kv_fail(
                &detail, KV_ERR_CONFIG, "config.target", doors[i].max, strlen(rest));
            return kvr_fail(client, KV_ERR_CONFIG, &detail);
        }
        *door_p = &doors[i];
        *rest_p = rest;
        return KVR_OK;
    }
    return kvr_fail_text(
        client, KV_ERR_CONFIG, "config: config.target is \"%.100s\", not %s", target,
        whats);
}

static kvr_status_t config_check(kvr_client_t *client, const struct kvr_config *config)
{
    struct kv_detail detail = {0};
    uint32_t ring_bytes =
        config->ring_bytes != 0 ? config->ring_bytes : KVR_RING_BYTES_DEFAULT;
    if (config->struct_size != sizeof(*config)) {
        kv_fail(
            &detail, KV_ERR_CONFIG, "config.struct_size", sizeof(*config),
            config->struct_size);
        return kvr_fail(client, KV_ERR_CONFIG, &detail);
    }
    if (!kvn_rings_size_ok(ring_bytes)) {
        kv_fail(
            &detail, KV_ERR_CONFIG, "config.ring_bytes", KVN_RING_BYTES_MAX,
            ring_bytes);
        return kvr_fail(client, KV_ERR_CONFIG, &detail);
    }
    client->ring_bytes = ring_bytes;
    client->timeout_us =
        config->timeout_us != 0 ? config->timeout_us : KVR_TIMEOUT_US_DEFAULT;
    if (client->timeout_us > KVN_RING_TIMEOUT_MAX_US) {
        kv_fail(
            &detail, KV_ERR_CONFIG, "config.timeout_us", KVN_RING_TIMEOUT_MAX_US,
            client->timeout_us);
        return kvr_fail(client, KV_ERR_CONFIG, &detail);
    }
    if ((unsigned)config->level > KVR_LEVEL_PAGER) {
        kv_fail(
            &detail, KV_ERR_CONFIG, "config.level", KVR_LEVEL_PAGER,
            (uint64_t)config->level);
        return kvr_fail(client, KV_ERR_CONFIG, &detail);
    }
    client->level = config->level;
    client->spin_us = config->spin_us != 0 ? config->spin_us : KVR_SPIN_US_DEFAULT;
    client->spin_now_us = client->spin_us;
    return KVR_OK;
}

static kvr_status_t
unix_open(kvr_client_t *client, const struct kvr_config *config, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    (void)config;
    uint64_t until = kvr_now_us() + client->timeout_us;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    client->fd =
        KV_FAULT() ? (errno = EMFILE, -1)
                   : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0) {
        return kvr_fail_text(client, KV_ERR_IO, "io: socket: %s", strerror(errno));
    }
    while (connect(client->fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        if (errno == EAGAIN && kvr_now_us() < until) {
            (void)poll(NULL, 0, 1); /* its queue of connections is full */
            continue;
        }
        kv_status_t status = errno == EACCES || errno == EPERM ? KV_ERR_DENIED
                             : errno == ENOENT || errno == ECONNREFUSED
                                 ? KV_ERR_LINK_LOST
                             : errno == EAGAIN ? KV_ERR_AGAIN
                                               : KV_ERR_IO;
        return kvr_fail_text(
            client, status, "%s: %s: %s", kv_status_name(status), path,
            strerror(errno));
    }
    return KVR_OK;
}

static kvr_status_t rings_map(kvr_client_t *client, int fd)
{
    struct kv_detail detail = {0};
    struct stat st;
    size_t bytes = kvn_rings_bytes(client->ring_bytes);
    if (fd < 0 || fstat(fd, &st) != 0 || (uint64_t)st.st_size != bytes) {
        client->gone = true;
        return kvr_fail_text(
            client, KV_ERR_VERSION, "version: the rings are not %zu bytes", bytes);
    }
    void *base = KV_FAULT() ? MAP_FAILED
                            : mmap(
                                NULL, bytes, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_POPULATE, fd, 0);
    if (base == MAP_FAILED) {
        return kvr_fail_text(
            client, KV_ERR_NOMEM, "nomem: cannot map %zu bytes", bytes);
    }
    client->rings = base;
    /* A child of fork() must not write into the parent's rings. */
    (void)madvise(base, bytes, MADV_DONTFORK);
    kv_status_t status = kvn_rings_check(client->rings, client->ring_bytes, &detail);
    if (status != KV_OK) {
        return kvr_fail(client, status, &detail);
    }
    kvn_ring_bind(
        &client->requests, client->rings, client->ring_bytes, KVN_REQUEST_OUT);
    kvn_ring_bind(&client->answers, client->rings, client->ring_bytes, KVN_ANSWER_IN);
    return KVR_OK;
}

/* One descriptor an arena, behind that of the rings. */
static kvr_status_t
arenas_map(kvr_client_t *client, const struct told *told, const struct fds *fds)
{
    uint32_t nr = told->packet.nr_arenas;
    if (fds->nr != 1 + nr || (nr > 0) != (client->level == KVR_LEVEL_PAGER)) {
        client->gone = true;
        return kvr_fail_text(
            client, KV_ERR_VERSION, "version: %u descriptors came with %u arenas",
            fds->nr, nr);
    }
    for (uint32_t i = 0; i < nr; i++) {
        const struct kvn_packet_arena *arena = &told->arenas[i];
        struct stat st;
        if (fstat(fds->fd[1 + i], &st) != 0 || (uint64_t)st.st_size != arena->bytes) {
            client->gone = true;
            return kvr_fail_text(
                client, KV_ERR_VERSION, "version: arena %u is not %llu bytes", i,
                (unsigned long long)arena->bytes);
        }
        void *base = KV_FAULT() ? MAP_FAILED
                                : mmap(
                                    NULL, arena->bytes, PROT_READ | PROT_WRITE,
                                    MAP_SHARED, fds->fd[1 + i], 0);
        if (base == MAP_FAILED) {
            return kvr_fail_text(
                client, KV_ERR_NOMEM, "nomem: cannot map an arena of %llu bytes",
                (unsigned long long)arena->bytes);
        }
        client->arenas[client->nr_arenas++] = (struct kvr_arena){
            .base = base,
            .bytes = arena->bytes,
            .block_bytes = arena->block_bytes,
            .nr_blocks = arena->nr_blocks,
        };
        /* The node waits for our death alone, not for that of a child of fork(). */
        if (madvise(base, arena->bytes, MADV_DONTFORK) != 0) {
            return kvr_fail_text(
                client, KV_ERR_IO, "io: keeping an arena from children: %s",
                strerror(errno));
        }
        (void)madvise(base, arena->bytes, MADV_DONTDUMP);
    }
    return KVR_OK;
}

static kvr_status_t attach(kvr_client_t *client, const struct kvr_config *config)
{
    struct told told = {0};
    struct fds fds = {.nr = 0};
    kvr_status_t status = packet_wait(client, KVN_PACKET_GREETING, 0, &told, &fds);
    fds_close(&fds);
    if (status != KVR_OK) {
        return status;
    }
    struct kvn_packet ask;
    kvn_packet_init(&ask, KVN_PACKET_ATTACH);
    ask.nonce = told.packet.nonce;
    ask.tenant = config->tenant;
    ask.ring_bytes = client->ring_bytes;
    ask.level = (uint16_t)client->level;
    if (!packet_send(client, &ask, -1)) {
        return gone(client);
    }
    told.spaces = client->spaces;
    status = packet_wait(client, KVN_PACKET_ATTACHED, 0, &told, &fds);
    if (status == KVR_OK) {
        client->nr_spaces = told.packet.nr_spaces;
        status = rings_map(client, fds.nr > 0 ? fds.fd[0] : -1);
    }
    if (status == KVR_OK) {
        status = arenas_map(client, &told, &fds);
    }
    fds_close(&fds);
    return status;
}

kvr_status_t kvr_open(
    const struct kvr_config *config, kvr_client_t **client_p, char *error,
    size_t error_cap)
{
    kvr_client_t *client = kv_calloc(1, sizeof(*client));
    if (client == NULL) {
        if (error_cap > 0) {
            (void)snprintf(error, error_cap, "nomem: %zu bytes", sizeof(*client));
        }
        return KVR_NOMEM;
    }
    client->fd = -1;
    client->pid = getpid();
    for (uint16_t i = 0; i < KVR_FLIGHT_MAX; i++) {
        client->flights[i].next_free = (uint16_t)(i + 1);
    }
    const struct door *door = NULL;
    const char *rest = NULL;
    kvr_status_t status = config_check(client, config);
    if (status == KVR_OK) {
        status = door_find(client, config, &door, &rest);
    }
    if (status == KVR_OK) {
        status = door->open(client, config, rest);
    }
    if (status == KVR_OK && client->remote == NULL) {
        status = attach(client, config);
    }
    if (status != KVR_OK) {
        if (error_cap > 0) {
            (void)snprintf(error, error_cap, "%s", client->error);
        }
        kvr_close(client);
        return status;
    }
    *client_p = client;
    return KVR_OK;
}

void kvr_close(kvr_client_t *client)
{
    if (client == NULL) {
        return;
    }
    const bool ours = client->pid == getpid();
    if (client->remote != NULL) {
        kvr_remote_close(client, ours);
    }
    for (uint32_t i = 0; i < KVR_BUFFERS_MAX; i++) {
        if (client->buffers[i].used && client->buffers[i].base != NULL) {
            KV_ASSERT(munmap(client->buffers[i].base, client->buffers[i].bytes) == 0);
        }
    }
    for (uint32_t i = 0; i < client->nr_arenas; i++) {
        KV_ASSERT(munmap(client->arenas[i].base, client->arenas[i].bytes) == 0);
    }
    kvr_seqs_free(client);
    kvr_pools_free(client);
    if (client->rings != NULL) {
        (void)munmap(client->rings, kvn_rings_bytes(client->ring_bytes));
    }
    if (client->fd >= 0) {
        if (ours) {
            (void)shutdown(client->fd, SHUT_RDWR); /* children may have copies of it */
        }
        close(client->fd);
    }
    if (client->embedded != NULL && ours) {
        kvr_embed_release(client->embedded);
    }
    explicit_bzero(client->spaces, sizeof(client->spaces)); /* salts */
    kv_free(client);
}

const char *kvr_error(const kvr_client_t *client)
{
    return client->error;
}

int kvr_fd(const kvr_client_t *client)
{
    return client->remote != NULL ? kvr_remote_fd(client) : client->fd;
}

kvr_status_t
kvr_space_find(kvr_client_t *client, const char *name, struct kvr_space *space_p)
{
    for (uint32_t i = 0; i < client->nr_spaces; i++) {
        const struct kvn_packet_space *s = &client->spaces[i];
        if (strcmp(s->name, name) == 0) {
            *space_p = (struct kvr_space){
                .variant = s->first_variant,
                .nr_groups = s->nr_groups,
                .page_tokens = s->page_tokens,
                .page_bytes = s->page_bytes,
            };
            memcpy(space_p->salt, &s->salt, sizeof(space_p->salt));
            memcpy(space_p->id, &s->id, sizeof(space_p->id));
            return KVR_OK;
        }
    }
    return kvr_fail_text(
        client, KV_ERR_INVALID, "invalid: the node has no space \"%.60s\" among its %u",
        name, client->nr_spaces);
}

/* ------------------------------------------------------------------ buffers */

static kvr_status_t buffer_register(
    kvr_client_t *client, int fd, size_t bytes, void *base, struct kvr_buffer *buffer_p)
{
    struct kvn_packet ask;
    struct told told = {0};
    struct fds got = {.nr = 0};
    if (client->gone) {
        return gone(client);
    }
    kvn_packet_init(&ask, KVN_PACKET_BUFFER);
    ask.req = ++client->req;
    ask.bytes = bytes;
    if (!packet_send(client, &ask, fd)) {
        int error = errno;
        kvr_socket_drain(client); /* it may have hung up, and says so then */
        return client->gone ? KVR_LINK_LOST
                            : kvr_fail_text(
                                client, KV_ERR_IO, "io: sendmsg: %s", strerror(error));
    }
    kvr_status_t status =
        packet_wait(client, KVN_PACKET_BUFFERED, ask.req, &told, &got);
    fds_close(&got);
    if (status != KVR_OK) {
        return status;
    }
    const struct kvn_packet answer = told.packet;
    struct kvr_memory *memory = &client->buffers[answer.buffer % KVR_BUFFERS_MAX];
    if (answer.buffer > UINT16_MAX || memory->used) { /* (2) */
        return gone(client);
    }
    *memory = (struct kvr_memory){
        .base = base, .bytes = bytes, .id = answer.buffer, .used = true};
    *buffer_p = (struct kvr_buffer){.base = base, .bytes = bytes, .id = answer.buffer};
    return KVR_OK;
}

kvr_status_t
kvr_buffer_add(kvr_client_t *client, int fd, size_t bytes, struct kvr_buffer *buffer_p)
{
    return client->remote != NULL
               ? kvr_remote_buffer_add(client, fd, bytes, buffer_p)
               : buffer_register(client, fd, bytes, NULL, buffer_p);
}

kvr_status_t
kvr_buffer_create(kvr_client_t *client, size_t bytes, struct kvr_buffer *buffer_p)
{
    struct kv_detail detail = {0};
    if (bytes == 0 || bytes > PTRDIFF_MAX) {
        kv_fail(&detail, KV_ERR_INVALID, "buffer.bytes", PTRDIFF_MAX, bytes);
        return kvr_fail(client, KV_ERR_INVALID, &detail);
    }
    if (client->remote != NULL) {
        return kvr_remote_buffer_create(client, bytes, buffer_p);
    }
    int fd = kvn_memfd_sealed("kvrail-buffer", bytes, F_SEAL_SHRINK | F_SEAL_GROW);
    if (fd < 0) {
        return kvr_fail_text(
            client, KV_ERR_NOMEM, "nomem: memfd of %zu bytes: %s", bytes,
            strerror(errno));
    }
    kvr_status_t status;
    void *base = KV_FAULT()
                     ? MAP_FAILED
                     : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        status =
            kvr_fail_text(client, KV_ERR_NOMEM, "nomem: cannot map %zu bytes", bytes);
        goto out_close;
    }
    status = buffer_register(client, fd, bytes, base, buffer_p);
    if (status != KVR_OK) {
        KV_ASSERT(munmap(base, bytes) == 0);
    }

out_close:
    close(fd);
    return status;
}

void kvr_buffer_destroy(kvr_client_t *client, struct kvr_buffer *buffer)
{
    struct kvr_memory *memory = &client->buffers[buffer->id % KVR_BUFFERS_MAX];
    if (!memory->used || memory->id != buffer->id) {
        return;
    }
    if (client->remote != NULL) {
        kvr_remote_unbuffer(client, memory);
        memset(buffer, 0, sizeof(*buffer));
        buffer->id = UINT32_MAX;
        return;
    }
    if (memory->base != NULL) {
        KV_ASSERT(munmap(memory->base, memory->bytes) == 0);
    }
    memory->used = false;
    memset(buffer, 0, sizeof(*buffer));
    buffer->id = UINT32_MAX; /* no buffer's */
    if (!client->gone) {
        unbuffer(client, memory->id);
    }
}
