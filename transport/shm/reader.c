/* The reader's side: comes in, maps what it is given, and says when it reads no more.
 *
 * What it is given it checks, since an owner could kill it otherwise: a file that its
 * owner may shrink, or that has pages which cannot be had (hugetlbfs), is a SIGBUS at
 * the next copy. So it maps memfds of ordinary memory alone, sealed against shrinking.
 *
 * Page faults: a mapping is not populated. That takes 93 ms a GiB before the first get,
 * and only pages that are read are wanted; a page's first copy pays a fault per 64 KiB
 * instead (fault-around), 5.2 GB/s against 8.8 later. Populating what a get reads costs
 * each time: 4.7 and 5.5 (1 MiB pages, processor time, AMD EPYC, 2026-11).
 */
#define _GNU_SOURCE /* F_GET_SEALS, struct ucred */

#include "transport/shm/shm_priv.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef TMPFS_MAGIC
#define TMPFS_MAGIC 0x01021994 /* <linux/magic.h>; memfds but those of hugetlbfs */
#endif

/* ---- coming in ------------------------------------------------------------------ */

/* A place that anybody may write to could hold another user's socket. */
static bool owner_is_ours(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return !KV_FAULT() && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0
           && peer.uid == geteuid();
}

/* A connect to a Unix socket is done at once, or there is no place in the backlog. */
void kvt_shm_reader_dial(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    conn->state = KVT_SHM_DIALLING;
    memcpy(to.sun_path, conn->path, sizeof(to.sun_path));
    KV_ASSERT(conn->fd < 0);
    conn->fd = KV_FAULT()
                   ? -1
                   : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0) {
        kvt_shm_break(port, conn, KV_ERR_IO);
        return;
    }
    if (connect(conn->fd, (const struct sockaddr *)&to, sizeof(to)) != 0) {
        const bool again = errno == EAGAIN || errno == EINTR;
        kvt_shm_shut(port, conn);
        if (again) {
            kvt_shm_tick(port);
        } else {
            kvt_shm_break(port, conn, KV_ERR_LINK_LOST);
        }
        return;
    }
    conn->state = KVT_SHM_CONNECTED;
    if (!owner_is_ours(conn->fd)) {
        kvt_shm_break(port, conn, KV_ERR_PROTOCOL);
    } else if (!kvt_shm_watch(port, conn, false)) {
        kvt_shm_break(port, conn, KV_ERR_IO);
    }
}

static void greeting_came(
    struct kvt_shm_port *port, struct kvt_shm_conn *conn,
    const struct kvt_shm_packet *packet)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    uint64_t nonce;

    if (kvt_shm_read_greeting(packet, &nonce) != KV_OK) {
        kvt_shm_break(port, conn, KV_ERR_PROTOCOL);
        return;
    }
    const uint32_t len =
        kvt_shm_write_hello(bytes, nonce, conn->hello, conn->hello_len);
    if (kvt_shm_send(conn->fd, bytes, len, NULL, 0) != 0) {
        kvt_shm_break(port, conn, KV_ERR_LINK_LOST);
        return;
    }
    conn->state = KVT_SHM_SAID;
}

/* ---- mapping -------------------------------------------------------------------- */

static bool file_is_safe(int fd, uint64_t file_bytes)
{
    struct stat st;
    struct statfs fs;
    const int seals = fcntl(fd, F_GET_SEALS);

    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && fstat(fd, &st) == 0
           && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file_bytes
           && fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

/* Not for children, whose reading no goodbye of ours would end, and not for cores. */
static kv_status_t
map(int fd, const struct kvt_shm_arena *arena, struct kvt_shm_map *to)
{
    if (!file_is_safe(fd, arena->file_bytes)) {
        return KV_ERR_PROTOCOL;
    }
    void *base = KV_FAULT()
                     ? MAP_FAILED
                     : mmap(NULL, arena->file_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        return KV_ERR_IO;
    }
    *to = (struct kvt_shm_map){
        .base = base, .bytes = arena->bytes, .file_bytes = arena->file_bytes};
    if (KV_FAULT() || madvise(base, arena->file_bytes, MADV_DONTFORK) != 0
        || madvise(base, arena->file_bytes, MADV_DONTDUMP) != 0) {
        return KV_ERR_IO; /* unmapped with the rest */
    }
    return KV_OK;
}

void kvt_shm_unmap(struct kvt_shm_conn *conn)
{
    for (uint32_t i = 0; i < conn->nr_maps; i++) {
        if (conn->maps[i].base != NULL) {
            KV_ASSERT(munmap(conn->maps[i].base, conn->maps[i].file_bytes) == 0);
        }
    }
    conn->nr_maps = 0;
}

/* From here on copiers may be at work. */
static void arenas_came(
    struct kvt_shm_port *port, struct kvt_shm_conn *conn, struct kvt_shm_packet *packet)
{
    struct kvt_shm_arena arenas[KVT_REGIONS_MAX];
    uint32_t nr, at = 0;
    kv_status_t status = kvt_shm_read_arenas(packet, arenas, &nr);

    for (uint32_t i = 0; status == KV_OK && i < nr; i++) {
        conn->maps[i] = (struct kvt_shm_map){.base = NULL};
        conn->nr_maps = i + 1;
        if (arenas[i].file_bytes > 0) {
            status = map(packet->fds[at++], &arenas[i], &conn->maps[i]);
        }
    }
    kvt_shm_drop_fds(packet);
    if (status != KV_OK) {
        kvt_shm_break(port, conn, status);
        return;
    }
    conn->state = KVT_SHM_MAPPED;
    kvt_shm_put(port, KVT_SHM_MAPPED_NOW, conn);
}

/* ---- the end -------------------------------------------------------------------- */

void kvt_shm_reader_goodbye(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    KV_ASSERT(conn->state == KVT_SHM_PARTING && conn->nr_maps == 0); /* (2) */
    const int error =
        kvt_shm_send(conn->fd, bytes, kvt_shm_write_goodbye(bytes), NULL, 0);
    const bool again = error == EAGAIN || error == ENOBUFS || error == ENOMEM;
    if (again && ++conn->goodbye_tries < KVT_SHM_GOODBYE_TRIES) {
        kvt_shm_tick(port);
        return;
    }
    kvt_shm_dead(port, conn); /* it is said, or there is nobody to say it to */
}

static void part(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    KV_ASSERT(atomic_load_explicit(&conn->copying, memory_order_relaxed) == 0);
    kvt_shm_unmap(conn);
    conn->state = KVT_SHM_PARTING;
    kvt_shm_reader_goodbye(port, conn);
}

/* (1) */
static bool is_copying(const struct kvt_shm_conn *conn)
{
    return atomic_load_explicit(&conn->copying, memory_order_seq_cst) > 0;
}

void kvt_shm_readers_part(struct kvt_shm_port *port)
{
    for (uint32_t i = port->keeper.leavers.first, next; i != KVT_SHM_NONE; i = next) {
        struct kvt_shm_conn *conn = &port->conns[i];
        next = conn->next;
        if (!is_copying(conn)) {
            kvt_shm_list_remove(port, &port->keeper.leavers, conn);
            part(port, conn);
        }
    }
}

/* The socket leaves epoll, which would report its end again and again. */
static void unwatch(struct kvt_shm_port *port, const struct kvt_shm_conn *conn)
{
    KV_ASSERT(epoll_ctl(port->keeper.epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL) == 0);
}

void kvt_shm_reader_end(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    atomic_store_explicit(&conn->ending, true, memory_order_seq_cst); /* (1) */
    switch (conn->state) {
    case KVT_SHM_SAID:
        unwatch(port, conn);
        part(port, conn);
        break;
    case KVT_SHM_MAPPED:
        unwatch(port, conn);
        conn->state = KVT_SHM_LEAVING;
        kvt_shm_list_add(port, &port->keeper.leavers, conn);
        break; /* before the keeper sleeps it looks who may part */
    default:
        kvt_shm_dead(port, conn);
        break;
    }
}

void kvt_shm_reader_turn(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    struct kvt_shm_packet *packet = &port->keeper.packet;
    const kv_status_t status = kvt_shm_receive(conn->fd, KVT_REGIONS_MAX, packet);

    if (status == KV_ERR_AGAIN) {
        return;
    }
    if (status != KV_OK) {
        kvt_shm_break(port, conn, status);
        return;
    }
    if (conn->state == KVT_SHM_CONNECTED) {
        greeting_came(port, conn, packet);
    } else if (conn->state == KVT_SHM_SAID) {
        arenas_came(port, conn, packet);
    } else {
        kvt_shm_break(port, conn, KV_ERR_PROTOCOL); /* nothing comes after those */
    }
    kvt_shm_drop_fds(packet);
}
