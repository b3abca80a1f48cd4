/* The owner's side: who comes in, what they are given, and what proves that they have
 * stopped reading.
 *
 * A reader is a process of our own uid and pid namespace, known by a pidfd. That the
 * pidfd, the sender of the hello and the peer of the socket are one process is shown as
 * for clients (docs/clients.md, "What the credentials prove"): the hello repeats a
 * nonce that was sent after the pidfd was opened, the kernel put the sender's number on
 * it, and the pidfd's process had not died when it was read. SO_PEERPIDFD (Linux 6.5)
 * would give the pidfd alone, not the sender of the hello, and would need the other way
 * beside it on older kernels; so there is one way.
 */
#define _GNU_SOURCE /* struct ucred */

#include "transport/shm/shm_priv.h"

#include "base/fault.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* Linux 6.16 */
#endif

/* ---- strangers ------------------------------------------------------------------ */

/* Who it is; false: a process that is none of ours, or that we can not watch. */
static bool identify(struct kvt_shm_conn *conn)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (KV_FAULT() || getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0
        || peer.uid != geteuid() || peer.pid <= 0) {
        return false;
    }
    conn->pid = peer.pid;
    conn->pidfd = KV_FAULT() ? -1 : (int)syscall(SYS_pidfd_open, peer.pid, 0);
    return conn->pidfd >= 0;
}

static bool greet(struct kvt_shm_conn *conn)
{
    const int on = 1, off = 0;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    /* Nobody has descriptors to send us. Where the kernel knows the switch, they are
     * not even taken, so that closing them (which may take its time: a socket that
     * lingers) is their sender's business; elsewhere there is no room for them. */
    (void)setsockopt(conn->fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
    return !KV_FAULT()
           && setsockopt(conn->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0
           && getrandom(&conn->nonce, sizeof(conn->nonce), GRND_NONBLOCK)
                  == sizeof(conn->nonce)
           && kvt_shm_send(
                  conn->fd, bytes, kvt_shm_write_greeting(bytes, conn->nonce), NULL, 0)
                  == 0;
}

void kvt_shm_owner_adopt(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    conn->state = KVT_SHM_STRANGER;
    conn->hello_deadline_ns = kvt_now_ns() + port->hello_ns;
    kvt_shm_list_add(port, &port->keeper.strangers, conn);
    if (!identify(conn) || !kvt_shm_watch(port, conn, false)
        || !kvt_shm_watch(port, conn, true) || !greet(conn)) {
        kvt_shm_break(port, conn, KV_ERR_IO);
    }
}

static bool
same_process(const struct kvt_shm_conn *conn, const struct kvt_shm_packet *packet)
{
    struct pollfd dead = {.fd = conn->pidfd, .events = POLLIN};

    return packet->pid == conn->pid && poll(&dead, 1, 0) == 0;
}

static void hello_came(
    struct kvt_shm_port *port, struct kvt_shm_conn *conn,
    const struct kvt_shm_packet *packet)
{
    const uint8_t *hello;
    uint32_t len;

    if (kvt_shm_read_hello(packet, conn->nonce, &hello, &len) != KV_OK
        || !same_process(conn, packet)) {
        kvt_shm_break(port, conn, KV_ERR_PROTOCOL);
        return;
    }
    memcpy(conn->hello, hello, len);
    conn->hello_len = len;
    kvt_shm_list_remove(port, &port->keeper.strangers, conn);
    conn->state = KVT_SHM_INTRODUCED;
    kvt_shm_put(port, KVT_SHM_HELLO_CAME, conn);
}

/* ---- what they are given -------------------------------------------------------- */

static int arenas_send(const struct kvt_shm_port *port, const struct kvt_shm_conn *conn)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    int fds[KVT_REGIONS_MAX];
    uint32_t nr_fds = 0;

    for (uint32_t i = 0; i < port->regions.nr; i++) {
        if (port->arenas[i].file_bytes > 0) {
            fds[nr_fds++] = port->regions.table[i].fd;
        }
    }
    return kvt_shm_send(
        conn->fd, bytes, kvt_shm_write_arenas(bytes, port->arenas, port->regions.nr),
        fds, nr_fds);
}

/* A packet is sent whole or not at all: without it nothing was given. */
void kvt_shm_owner_accept(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    if (conn->state != KVT_SHM_INTRODUCED) {
        return;
    }
    const int error = arenas_send(port, conn);
    if (error != 0) {
        kvt_shm_break(
            port, conn,
            error == EPIPE || error == ECONNRESET ? KV_ERR_LINK_LOST : KV_ERR_IO);
        return;
    }
    conn->state = KVT_SHM_OWNER;
}

/* ---- the end -------------------------------------------------------------------- */

/* To the reader: the end of the stream, which needs no memory and cannot fail; its
 * goodbye may still come. */
void kvt_shm_owner_end(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    if (conn->state == KVT_SHM_OWNER) {
        if (conn->fd >= 0) {
            (void)shutdown(conn->fd, SHUT_WR);
        }
        conn->state = KVT_SHM_FENCING; /* (3) */
        return;
    }
    if (conn->state == KVT_SHM_STRANGER) {
        kvt_shm_list_remove(port, &port->keeper.strangers, conn);
    }
    kvt_shm_dead(port, conn); /* it was given nothing */
}

/* Nothing of it is read any more (2), (3). */
static void fenced(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    KV_ASSERT(conn->state == KVT_SHM_OWNER || conn->state == KVT_SHM_FENCING);
    if (conn->state == KVT_SHM_OWNER) {
        kvt_shm_break(port, conn, KV_ERR_LINK_LOST);
    }
    KV_ASSERT(conn->state == KVT_SHM_FENCING);
    kvt_shm_dead(port, conn);
}

void kvt_shm_owner_death(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    if (conn->state == KVT_SHM_OWNER || conn->state == KVT_SHM_FENCING) {
        fenced(port, conn);
    } else {
        kvt_shm_break(port, conn, KV_ERR_LINK_LOST);
    }
}

/* After its hello a reader has one thing to say, and before it is accepted nothing but
 * that. What else comes is not listened to any more: then its death alone counts. */
void kvt_shm_owner_turn(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    struct kvt_shm_packet *packet = &port->keeper.packet;
    kv_status_t status = kvt_shm_receive(conn->fd, 0, packet);

    if (status == KV_ERR_AGAIN) {
        return;
    }
    if (status == KV_OK) {
        kvt_shm_drop_fds(packet);
        if (conn->state == KVT_SHM_STRANGER) {
            hello_came(port, conn, packet);
            return;
        }
        status = kvt_shm_read_goodbye(packet);
    }
    if (status == KV_OK
        && (conn->state == KVT_SHM_OWNER || conn->state == KVT_SHM_FENCING)) {
        fenced(port, conn);
        return;
    }
    const bool fencing = conn->state == KVT_SHM_FENCING;
    if (!fencing) {
        kvt_shm_break(port, conn, status == KV_OK ? KV_ERR_LINK_LOST : status);
    }
    if (conn->state == KVT_SHM_FENCING) {
        kvt_shm_shut(port, conn);
    }
}
