/* The path that readers come in by: a socket of mode 0600, made and removed as the
 * node's own (node/daemon/local.c). */
#define _GNU_SOURCE /* lstat's struct with everything */

#include "transport/shm/shm_priv.h"

#include "base/assert.h"
#include "base/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A socket that nobody answers on any more is removed; a living one is not. */
static kv_status_t
path_clear(const struct sockaddr_un *address, struct kv_detail *detail)
{
    struct stat st;

    if (lstat(address->sun_path, &st) != 0) {
        return KV_OK; /* bind() says what else may be wrong */
    }
    if (!S_ISSOCK(st.st_mode)) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "transport.listen: files there that are no socket",
            0, 1);
    }
    int fd = KV_FAULT()
                 ? -1
                 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return kv_fail(detail, KV_ERR_IO, "transport.listen: errno of socket", 0, 1);
    }
    const int ret = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    const bool stale = ret != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!stale) {
        return kv_fail(
            detail, KV_ERR_AGAIN,
            "transport.listen: others that listen there (stop them, or choose another "
            "path)",
            0, 1);
    }
    if (KV_FAULT() || unlink(address->sun_path) != 0) {
        return kv_fail(
            detail, KV_ERR_IO,
            "transport.listen: stale sockets there that cannot be removed", 0, 1);
    }
    return KV_OK;
}

kv_status_t
kvt_shm_listen(struct kvt_shm_port *port, const char *path, struct kv_detail *detail)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    const size_t len = strlen(path);
    kv_status_t status;

    if (len == 0 || len >= sizeof(address.sun_path)) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "transport.listen: bytes of its path",
            len == 0 ? 1 : sizeof(address.sun_path) - 1, len);
    }
    memcpy(address.sun_path, path, len);
    status = path_clear(&address, detail);
    if (status != KV_OK) {
        return status;
    }
    int fd = KV_FAULT()
                 ? -1
                 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of the socket before bind() is that of the file: there is no moment at
     * which others may connect. */
    if (fd < 0 || fchmod(fd, 0600) != 0
        || bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        status = kv_fail(
            detail, KV_ERR_IO,
            "transport.listen: errno of bind (is the folder there, and writable?)", 0,
            (uint64_t)errno);
        goto err_close;
    }
    if (KV_FAULT() || lstat(path, &st) != 0 || listen(fd, KVT_SHM_BACKLOG) != 0) {
        status = kv_fail(
            detail, KV_ERR_IO, "transport.listen: errno of listen", 0, (uint64_t)errno);
        goto err_unlink;
    }
    memcpy(port->path, path, len + 1);
    port->path_dev = st.st_dev;
    port->path_ino = st.st_ino;
    port->listen_fd = fd;
    return KV_OK;

err_unlink:
    (void)unlink(path);
err_close:
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* Ours alone: another may have put its own there since. */
void kvt_shm_unlisten(struct kvt_shm_port *port)
{
    struct stat st;

    if (port->listen_fd < 0) {
        return;
    }
    if (lstat(port->path, &st) == 0 && st.st_dev == port->path_dev
        && st.st_ino == port->path_ino) {
        (void)unlink(port->path);
    }
    close(port->listen_fd);
    port->listen_fd = -1;
}
