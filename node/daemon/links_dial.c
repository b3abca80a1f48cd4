/* From a peer's address to a connected socket. */
#include "node/daemon/links_priv.h"

#include "base/assert.h"
#include "base/fault.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_socket(const union kvn_sockaddr *addr)
{
    const int one = 1;
    if (KV_FAULT()) {
        errno = EMFILE;
        return -1;
    }
    const int fd =
        socket(addr->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        /* Heartbeats and look-ups are small and wanted now. */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }
    return fd;
}

/* The address under conn->next_addr. errno, or 0: connected or on the way. */
static int try_address(struct kvn_conn *conn)
{
    conn->addr = conn->addrs[conn->next_addr++];
    kvn_sockaddr_format(&conn->addr, conn->addr_text, sizeof(conn->addr_text));
    if (conn->links->tls == NULL && !kvn_sockaddr_is_loopback(&conn->addr)) {
        return EPERM; /* a name that was local has moved: nothing goes out in clear */
    }
    const int fd = open_socket(&conn->addr);
    if (fd < 0) {
        return errno;
    }
    if (KV_FAULT()) {
        close(fd);
        return ENETUNREACH;
    }
    if (connect(fd, &conn->addr.any, kvn_sockaddr_len(&conn->addr)) != 0
        && errno != EINPROGRESS) {
        const int error = errno;
        close(fd);
        return error;
    }
    return kvn_conn_watch(conn, fd, UV_WRITABLE) == KV_OK ? 0 : ENOMEM;
}

/* Until one is on the way, or none is left. */
static void try_addresses(struct kvn_conn *conn, int error)
{
    while (conn->next_addr < conn->nr_addrs) {
        error = try_address(conn);
        if (error == 0) {
            if (conn->state == KVN_CONN_RESOLVE) {
                kvn_conn_move(conn, KVN_CONN_CONNECT);
            }
            return;
        }
    }
    kvn_conn_end(conn, "%s: %s", conn->addr_text, strerror(error));
}

void kvn_dial_connected(struct kvn_conn *conn, int error)
{
    int pending = 0;
    socklen_t len = sizeof(pending);
    KV_ASSERT(conn->state == KVN_CONN_CONNECT);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &pending, &len) != 0) {
        pending = errno;
    }
    error = pending != 0 ? pending : error;
    if (error == 0) {
        kvn_conn_connected(conn);
        return;
    }
    kvn_conn_unwatch(conn);
    close(conn->fd);
    conn->fd = -1;
    try_addresses(conn, error);
}

static void take_addresses(struct kvn_conn *conn, const struct addrinfo *info)
{
    const uint16_t port = conn->links->targets[conn->peer].address.port;
    for (; info != NULL && conn->nr_addrs < KVN_LINKS_ADDRESSES_MAX;
         info = info->ai_next) {
        union kvn_sockaddr *addr = &conn->addrs[conn->nr_addrs];
        if (info->ai_family != AF_INET && info->ai_family != AF_INET6) {
            continue;
        }
        memcpy(&addr->storage, info->ai_addr, info->ai_addrlen);
        kvn_sockaddr_set_port(addr, port);
        conn->nr_addrs++;
    }
}

static void on_resolved(uv_getaddrinfo_t *request, int ret, struct addrinfo *info)
{
    struct kvn_links_target *target = request->data;
    struct kvn_links *links = target->links;
    struct kvn_conn *conn = target->dial;
    KV_ASSERT(target->resolving);
    target->resolving = false;
    links->nr_resolves--;
    /* The dial may have ended meanwhile, and another may wait for the same answer. */
    if (conn != NULL && conn->state == KVN_CONN_RESOLVE && !links->closing) {
        if (ret != 0) {
            kvn_conn_end(conn, "%s: %s", target->address.host, uv_strerror(ret));
        } else {
            take_addresses(conn, info);
            try_addresses(conn, EADDRNOTAVAIL);
        }
    }
    uv_freeaddrinfo(info);
    kvn_links_handle_closed(links);
}

static void resolve(struct kvn_conn *conn, struct kvn_links_target *target)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    if (target->resolving) {
        return;
    }
    target->resolve.data = target;
    const int ret = KV_FAULT() ? UV_ENOMEM
                               : uv_getaddrinfo(
                                   conn->links->loop, &target->resolve, on_resolved,
                                   target->address.host, NULL, &hints);
    if (ret != 0) {
        kvn_conn_end(conn, "%s: %s", target->address.host, uv_strerror(ret));
        return;
    }
    target->resolving = true;
    conn->links->nr_resolves++;
}

void kvn_dial_begin(struct kvn_conn *conn)
{
    struct kvn_links_target *target = &conn->links->targets[conn->peer];
    KV_ASSERT(conn->state == KVN_CONN_RESOLVE);
    if (kvn_address_numeric(&target->address, &conn->addrs[0])) {
        conn->nr_addrs = 1;
        try_addresses(conn, 0);
    } else {
        resolve(conn, target);
    }
}
