#define _GNU_SOURCE /* struct ucred */

#include "transport/shm/wire.h"

#include "base/assert.h"
#include "base/fault.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "packets are little endian");

/* The first 16 bytes of every packet. `word` is the nonce, or how many arenas. */
struct head {
    uint32_t magic, type;
    uint64_t word;
};
_Static_assert(sizeof(struct head) == KVT_SHM_HEAD_BYTES, "documented");

struct record {
    uint64_t bytes, file_bytes, zero;
};
_Static_assert(sizeof(struct record) == KVT_SHM_ARENA_BYTES, "documented");

/* What one owner may make a reader map: far above any machine's memory, and far below
 * the address space, of which a hostile owner's holes would take it all. */
static const uint64_t map_bytes_max = UINT64_C(1) << 42;

/* ---- packets -------------------------------------------------------------------- */

static uint32_t head_write(uint8_t *out, enum kvt_shm_type type, uint64_t word)
{
    const struct head head = {.magic = KVT_SHM_MAGIC, .type = type, .word = word};

    memcpy(out, &head, sizeof(head));
    return sizeof(head);
}

uint32_t kvt_shm_write_greeting(uint8_t *out, uint64_t nonce)
{
    return head_write(out, KVT_SHM_GREETING, nonce);
}

uint32_t
kvt_shm_write_hello(uint8_t *out, uint64_t nonce, const uint8_t *hello, uint32_t len)
{
    KV_ASSERT(len > 0 && len <= KVT_HELLO_BYTES_MAX);
    const uint32_t at = head_write(out, KVT_SHM_HELLO, nonce);
    memcpy(out + at, hello, len);
    return at + len;
}

uint32_t kvt_shm_write_arenas(
    uint8_t *out, const struct kvt_shm_arena *arenas, uint32_t nr_arenas)
{
    KV_ASSERT(nr_arenas <= KVT_REGIONS_MAX);
    uint32_t at = head_write(out, KVT_SHM_ARENAS, nr_arenas);
    for (uint32_t i = 0; i < nr_arenas; i++) {
        const struct record record = {
            .bytes = arenas[i].bytes, .file_bytes = arenas[i].file_bytes};
        memcpy(out + at, &record, sizeof(record));
        at += (uint32_t)sizeof(record);
    }
    return at;
}

uint32_t kvt_shm_write_goodbye(uint8_t *out)
{
    return head_write(out, KVT_SHM_GOODBYE, 0);
}

/* A packet of `type` with `tail` bytes behind its head, at least and at most. */
static bool head_read(
    const struct kvt_shm_packet *packet, enum kvt_shm_type type, uint32_t tail_min,
    uint32_t tail_max, struct head *head)
{
    if (packet->len < sizeof(*head) + tail_min
        || packet->len > sizeof(*head) + tail_max) {
        return false;
    }
    memcpy(head, packet->bytes, sizeof(*head));
    return head->magic == KVT_SHM_MAGIC && head->type == type
           && (type == KVT_SHM_ARENAS || (packet->nr_fds == 0 && !packet->fds_lost));
}

kv_status_t kvt_shm_read_greeting(const struct kvt_shm_packet *packet, uint64_t *nonce)
{
    struct head head;

    if (!head_read(packet, KVT_SHM_GREETING, 0, 0, &head)) {
        return KV_ERR_PROTOCOL;
    }
    *nonce = head.word;
    return KV_OK;
}

kv_status_t kvt_shm_read_hello(
    const struct kvt_shm_packet *packet, uint64_t nonce, const uint8_t **hello_p,
    uint32_t *len_p)
{
    struct head head;

    if (!head_read(packet, KVT_SHM_HELLO, 1, KVT_HELLO_BYTES_MAX, &head)
        || head.word != nonce) {
        return KV_ERR_PROTOCOL;
    }
    *hello_p = packet->bytes + sizeof(head);
    *len_p = packet->len - (uint32_t)sizeof(head);
    return KV_OK;
}

static bool arena_read(const uint8_t *at, struct kvt_shm_arena *arena)
{
    struct record record;

    memcpy(&record, at, sizeof(record));
    *arena =
        (struct kvt_shm_arena){.bytes = record.bytes, .file_bytes = record.file_bytes};
    return record.zero == 0
           && (record.file_bytes == 0
                   ? record.bytes == 0
                   : record.bytes > 0 && record.bytes <= record.file_bytes);
}

kv_status_t kvt_shm_read_arenas(
    const struct kvt_shm_packet *packet, struct kvt_shm_arena arenas[KVT_REGIONS_MAX],
    uint32_t *nr_p)
{
    const uint32_t tail_max = KVT_REGIONS_MAX * KVT_SHM_ARENA_BYTES;
    struct head head;
    uint32_t nr_fds = 0;
    uint64_t room = map_bytes_max;

    if (!head_read(packet, KVT_SHM_ARENAS, 0, tail_max, &head)
        || head.word > KVT_REGIONS_MAX
        || packet->len != KVT_SHM_HEAD_BYTES + head.word * KVT_SHM_ARENA_BYTES) {
        return KV_ERR_PROTOCOL;
    }
    for (uint32_t i = 0; i < head.word; i++) {
        if (!arena_read(
                packet->bytes + KVT_SHM_HEAD_BYTES + i * KVT_SHM_ARENA_BYTES,
                &arenas[i])
            || arenas[i].file_bytes > room) {
            return KV_ERR_PROTOCOL;
        }
        room -= arenas[i].file_bytes;
        nr_fds += arenas[i].file_bytes > 0;
    }
    if (packet->nr_fds < nr_fds && packet->fds_lost) {
        return KV_ERR_IO;
    }
    if (packet->nr_fds != nr_fds || packet->fds_lost) {
        return KV_ERR_PROTOCOL;
    }
    *nr_p = (uint32_t)head.word;
    return KV_OK;
}

kv_status_t kvt_shm_read_goodbye(const struct kvt_shm_packet *packet)
{
    struct head head;

    return head_read(packet, KVT_SHM_GOODBYE, 0, 0, &head) && head.word == 0
               ? KV_OK
               : KV_ERR_PROTOCOL;
}

/* ---- the socket ----------------------------------------------------------------- */

int kvt_shm_send(
    int socket, const uint8_t *bytes, uint32_t len, const int *fds, uint32_t nr_fds)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(KVT_REGIONS_MAX * sizeof(int))];
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t ret;

    KV_ASSERT(nr_fds <= KVT_REGIONS_MAX);
    if (nr_fds > 0) {
        memset(control, 0, sizeof(control));
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(nr_fds * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(nr_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, nr_fds * sizeof(int));
    }
    if (KV_FAULT()) {
        return ENOBUFS;
    }
    do {
        ret = sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (ret < 0 && errno == EINTR);
    KV_ASSERT(ret < 0 || ret == (ssize_t)len); /* packets are sent whole */
    return ret < 0 ? errno : 0;
}

static void take_fds(const struct cmsghdr *cmsg, struct kvt_shm_packet *packet)
{
    const size_t nr = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

    for (size_t i = 0; i < nr; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
        if (packet->nr_fds < KVT_REGIONS_MAX) {
            packet->fds[packet->nr_fds++] = fd;
        } else {
            close(fd);
            packet->fds_lost = true;
        }
    }
}

static void take_control(struct msghdr *msg, struct kvt_shm_packet *packet)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            take_fds(c, packet);
        } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred sender;
            memcpy(&sender, CMSG_DATA(c), sizeof(sender));
            packet->pid = sender.pid;
        }
    }
    packet->fds_lost |= (msg->msg_flags & MSG_CTRUNC) != 0;
}

/* The room for what comes beside the bytes is exact: what the kernel finds no room for
 * it closes itself. */
kv_status_t
kvt_shm_receive(int socket, uint32_t nr_fds_max, struct kvt_shm_packet *packet)
{
    enum { TRIES = 3 };
    _Alignas(struct cmsghdr) char control
        [CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(KVT_REGIONS_MAX * sizeof(int))];
    struct iovec iov = {packet->bytes, sizeof(packet->bytes)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t len = -1;

    KV_ASSERT(nr_fds_max <= KVT_REGIONS_MAX);
    if (KV_FAULT()) {
        return KV_ERR_LINK_LOST;
    }
    errno = EINTR;
    /* ECONNRESET, once: the other side has closed with packets of ours unread. What it
     * had sent before, its goodbye perhaps, comes behind that. */
    for (unsigned i = 0;
         i < TRIES && len < 0 && (errno == EINTR || errno == ECONNRESET); i++) {
        msg.msg_control = control;
        msg.msg_controllen =
            CMSG_SPACE(sizeof(struct ucred))
            + (nr_fds_max > 0 ? CMSG_SPACE(nr_fds_max * sizeof(int)) : 0);
        len = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    }
    if (len <= 0) {
        return len < 0 && (errno == EAGAIN || errno == EINTR) ? KV_ERR_AGAIN
                                                              : KV_ERR_LINK_LOST;
    }
    packet->len = (uint32_t)len;
    packet->pid = 0;
    packet->nr_fds = 0;
    packet->fds_lost = false;
    take_control(&msg, packet);
    return KV_OK;
}

void kvt_shm_drop_fds(struct kvt_shm_packet *packet)
{
    for (uint32_t i = 0; i < packet->nr_fds; i++) {
        if (packet->fds[i] >= 0) {
            close(packet->fds[i]);
        }
    }
    packet->nr_fds = 0;
}
