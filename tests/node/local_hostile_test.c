/* A client that keeps to no rule: it is ended, or refused, and counted; the node reads
 * no byte past what it copied, maps nothing that can be taken away, and goes on serving
 * the client beside it. */
#define _GNU_SOURCE
#include "node/ring.h"
#include "tests/base/process_kit.h"
#include "tests/node/local_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct lk lk;
static kvr_client_t *good;
static struct kvr_buffer good_buffer;

/* What libkvrail does, without its manners. */
struct raw {
    int fd;
    struct kvn_rings *rings;
    uint64_t nonce;
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
};

static void raw_send(
    const struct raw *raw, const void *bytes, size_t len, int nr_fds, const int *fds)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nr_fds > 0) {
        size_t n = (size_t)nr_fds * sizeof(int);
        msg.msg_control = room;
        msg.msg_controllen = CMSG_SPACE(n);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(n);
        memcpy(CMSG_DATA(cmsg), fds, n);
    }
    (void)!sendmsg(raw->fd, &msg, MSG_NOSIGNAL);
}

/* The next packet that is no wake; 0: hung up. */
static size_t raw_receive(struct raw *raw, struct kvn_packet *packet, int *fd_p)
{
    uint8_t bytes[KVN_PACKET_BYTES_MAX];
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
    struct pollfd readable = {.fd = raw->fd, .events = POLLIN};
    for (;;) {
        struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr msg = {
            .msg_iov = &iov,
            .msg_iovlen = 1,
            .msg_control = room,
            .msg_controllen = sizeof(room)};
        assert_int_equal(poll(&readable, 1, 20000), 1);
        ssize_t len = recvmsg(raw->fd, &msg, MSG_CMSG_CLOEXEC);
        if (len <= 0) {
            return 0;
        }
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        if (cmsg != NULL && fd_p != NULL) {
            memcpy(fd_p, CMSG_DATA(cmsg), sizeof(int));
        }
        if (len > 1) {
            assert_int_equal(
                kvn_packet_read(bytes, (size_t)len, packet, raw->spaces, NULL), KV_OK);
            return (size_t)len;
        }
    }
}

static void raw_connect(struct raw *raw)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct kvn_packet packet;
    memset(raw, 0, sizeof(*raw));
    memcpy(address.sun_path, lk.path, sizeof(address.sun_path));
    raw->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(raw->fd, (struct sockaddr *)&address, sizeof(address)), 0);
    if (raw_receive(raw, &packet, NULL) > 0) {
        assert_int_equal(packet.type, KVN_PACKET_GREETING);
        raw->nonce = packet.nonce;
    }
}

static struct kvn_packet attach_packet(const struct raw *raw)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_ATTACH);
    packet.nonce = raw->nonce;
    packet.tenant = LK_TENANT;
    packet.ring_bytes = KVN_RING_BYTES_MIN;
    return packet;
}

static void raw_attach(struct raw *raw)
{
    struct kvn_packet packet;
    int fd = -1;
    raw_connect(raw);
    packet = attach_packet(raw);
    raw_send(raw, &packet, sizeof(packet), 0, NULL);
    assert_true(raw_receive(raw, &packet, &fd) > 0);
    assert_int_equal(packet.type, KVN_PACKET_ATTACHED);
    raw->rings = mmap(
        NULL, kvn_rings_bytes(KVN_RING_BYTES_MIN), PROT_READ | PROT_WRITE, MAP_SHARED,
        fd, 0);
    assert_ptr_not_equal(raw->rings, MAP_FAILED);
    /* What would stop the loop, if it could be done: it cannot. */
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    close(fd);
}

static void raw_close(struct raw *raw)
{
    if (raw->rings != NULL) {
        munmap(raw->rings, kvn_rings_bytes(KVN_RING_BYTES_MIN));
    }
    close(raw->fd);
}

static void raw_wake(const struct raw *raw)
{
    raw_send(raw, "w", 1, 0, NULL);
}

/* Hung up on, within seconds. */
static void raw_expect_end(struct raw *raw)
{
    struct kvn_packet packet;
    while (raw_receive(raw, &packet, NULL) > 0) {}
    raw_close(raw);
}

static int start(void **state)
{
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    good = lk_client(&lk);
    assert_int_equal(kvr_buffer_create(good, 16 * LK_PAGE_BYTES, &good_buffer), KVR_OK);
    return 0;
}

/* The client beside is served as ever. */
static void good_works(void)
{
    static uint64_t turn = 1 << 20;
    uint8_t *bytes = good_buffer.base, page[LK_PAGE_BYTES];
    lk_page(bytes, turn);
    assert_int_equal(
        lk_batch(good, KVR_OP_PUT, turn, 1, good_buffer.id, 0, NULL), KVR_OK);
    assert_int_equal(
        lk_batch(good, KVR_OP_GET, turn, 1, good_buffer.id, 1, NULL), KVR_OK);
    lk_page(page, turn);
    assert_memory_equal(bytes + LK_PAGE_BYTES, page, LK_PAGE_BYTES);
    assert_int_equal(lk_batch(good, KVR_OP_DROP, turn, 1, 0, 0, NULL), KVR_OK);
    turn++;
}

static int stop(void **state)
{
    (void)state;
    good_works();
    lk_await(&lk, 1, 1); /* itself */
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    kvr_close(good);
    lk_stop(&lk);
    return 0;
}

/* ------------------------------------------------------------------ rings */

static struct kvn_request_head request_head(uint16_t op, uint32_t n)
{
    return (struct kvn_request_head){
        .bytes = kvn_request_bytes(op, n, false),
        .type = KVN_RECORD_REQUEST,
        .op = op,
        .tag = 1,
        .timeout_us = 1000000,
        .nr_keys = n,
        .flags = KVN_REQUEST_LOOSE,
    };
}

static uint8_t *ring_bytes(struct raw *raw)
{
    return (uint8_t *)raw->rings + KVN_RING_HEADER_BYTES;
}

/* Positions and records of every wrong kind end the client that wrote them. */
static void ring__nonsense_ends_its_writer_alone(void **state)
{
    enum { CASES = 14 };
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        struct raw raw;
        raw_attach(&raw);
        struct kvn_request_head head = request_head(KVN_OP_PIN, 2);
        uint64_t tail = head.bytes, answer_head = 0;
        switch (i) {
        case 0:
            tail = KVN_RING_BYTES_MIN + 8;
            break;
        case 1:
            tail = UINT64_MAX - 7;
            break;
        case 2:
            tail = 4;
            break;
        case 3:
            head.bytes = 0;
            break;
        case 4:
            head.bytes = UINT32_MAX - 7;
            break;
        case 5:
            head.bytes += 8;
            break;
        case 6:
            head.type = 77;
            break;
        case 7:
            head.op = 200;
            break;
        case 8:
            head.nr_keys = UINT32_MAX;
            break;
        case 9:
            head.nr_keys = 0;
            break;
        case 10:
            head.flags = 0xffff;
            break;
        case 11:
            head.zero = 1;
            break;
        case 12:
            answer_head = 8;
            break; /* it has read what was never written */
        case 13:
            head.type = KVN_RECORD_SKIP;
            break;
        default:
            break;
        }
        memcpy(ring_bytes(&raw), &head, sizeof(head));
        atomic_store(&raw.rings->answer_head, answer_head);
        atomic_store(&raw.rings->request_tail, tail);
        raw_wake(&raw);
        raw_expect_end(&raw);
        lk_await(&lk, 1, 1);
        assert_int_equal(lk_counts(&lk).malformed, i + 1);
    }
    char line[KVN_LOCAL_NOTE_MAX];
    lk_note(&lk, line);
    assert_non_null(strstr(line, "ended: invalid"));
}

static _Atomic bool enough;

static void *scribble(void *arg)
{
    struct raw *raw = arg;
    unsigned turn = 0;
    struct kvn_request_head head = request_head(KVN_OP_PUT, 64);
    while (!atomic_load(&enough)) {
        /* A record that is right one moment and wrong the next. */
        struct kvn_request_head other = head;
        other.nr_keys = turn % 2 == 0 ? 64 : 1024;
        other.bytes = turn % 3 == 0 ? head.bytes : KVN_REQUEST_BYTES_MAX;
        other.variant = (uint16_t)turn;
        memcpy(ring_bytes(raw), &other, sizeof(other));
        memset(ring_bytes(raw) + sizeof(other), (int)turn, 64 * 40);
        turn++;
    }
    return NULL;
}

/* Memory that changes while it is read: the node judges its copy. Many lives, since one
 * wrong moment ends each of them. */
static void ring__that_changes_while_it_is_read_is_read_once(void **state)
{
    (void)state;
    for (unsigned life = 0; life < 150; life++) {
        struct raw raw;
        pthread_t thread;
        raw_attach(&raw);
        struct kvn_request_head head = request_head(KVN_OP_PUT, 64);
        memcpy(ring_bytes(&raw), &head, sizeof(head));
        atomic_store(&enough, false);
        assert_int_equal(pthread_create(&thread, NULL, scribble, &raw), 0);
        atomic_store(
            &raw.rings->request_tail, life % 2 == 0 ? head.bytes : KVN_RING_BYTES_MIN);
        raw_wake(&raw);
        if (life % 10 == 0) {
            good_works();
        }
        usleep(300);
        atomic_store(&enough, true);
        pthread_join(thread, NULL);
        raw_close(&raw);
    }
    lk_await(&lk, 1, 1);
}

/* Addresses: of no buffer, of a former one, past the end, wrapping round; a variant of
 * no space, a time that is too long or none. Refused, each with its status; the client
 * lives on, and nothing is copied anywhere. */
static void ring__wild_addresses_are_refused(void **state)
{
    struct raw raw;
    struct kvn_packet packet;
    const uint64_t bytes = 4 * LK_PAGE_BYTES;
    enum { SECOND_US = 1000000 };
    (void)state;
    raw_attach(&raw);
    int fd = memfd_create("kvrail-test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    kvn_packet_init(&packet, KVN_PACKET_BUFFER);
    packet.req = 5;
    packet.bytes = bytes;
    raw_send(&raw, &packet, sizeof(packet), 1, &fd);
    assert_true(raw_receive(&raw, &packet, NULL) > 0);
    assert_int_equal(packet.type, KVN_PACKET_BUFFERED);
    assert_int_equal(packet.req, 5);
    uint64_t id = packet.buffer;
    const struct {
        uint64_t address;
        int32_t status;
        uint16_t variant;
        uint64_t timeout_us;
    } cases[] = {
        {id << 48 | 3 * LK_PAGE_BYTES, KV_OK, 0, SECOND_US},
        {id << 48 | (3 * LK_PAGE_BYTES + 1), KV_ERR_INVALID, 0, SECOND_US},
        {id << 48 | bytes, KV_ERR_INVALID, 0, SECOND_US},
        {id << 48 | ((UINT64_C(1) << 48) - 1), KV_ERR_INVALID, 0, SECOND_US},
        {(id + 1) << 48, KV_ERR_STALE, 0, SECOND_US},
        {(id + 64) << 48, KV_ERR_STALE, 0, SECOND_US}, /* the slot, in another life */
        {UINT64_MAX, KV_ERR_STALE, 0, SECOND_US},
        {id << 48, KV_ERR_INVALID, 3, SECOND_US},
        {id << 48, KV_ERR_INVALID, UINT16_MAX, SECOND_US},
        {id << 48, KV_ERR_INVALID, 0, KVN_RING_TIMEOUT_MAX_US + 1},
        {id << 48, KV_ERR_INVALID, 0, UINT64_MAX},
        {id << 48, KV_ERR_INVALID, 0, 0},
        /* ids are each client's own */
        {(uint64_t)good_buffer.id + 1, KV_OK, 0, SECOND_US},
    };
    struct kvn_ring in, out;
    kvn_ring_bind(&out, raw.rings, KVN_RING_BYTES_MIN, KVN_REQUEST_OUT);
    kvn_ring_bind(&in, raw.rings, KVN_RING_BYTES_MIN, KVN_ANSWER_IN);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static uint8_t copy[KVN_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
        struct kvn_request_head head = request_head(KVN_OP_GET, 1);
        struct kvr_key key = lk_key(i);
        struct kvn_answer answer;
        uint8_t *to;
        uint32_t len;
        head.variant = cases[i].variant;
        head.timeout_us = cases[i].timeout_us;
        assert_int_equal(kvn_ring_room(&out, head.bytes, &to, NULL), KV_OK);
        memcpy(to, &head, sizeof(head));
        memcpy(to + sizeof(head), &key, sizeof(key));
        memcpy(to + sizeof(head) + sizeof(key), &cases[i].address, 8);
        kvn_ring_put(&out);
        raw_wake(&raw);
        for (unsigned n = 0; !kvn_ring_any(&in); n++) {
            assert_true(n < 20000);
            usleep(500);
        }
        assert_int_equal(kvn_ring_peek(&in, copy, sizeof(copy), &len, NULL), KV_OK);
        kvn_ring_take(&in);
        assert_int_equal(kvn_answer_read(copy, len, &answer, NULL), KV_OK);
        assert_int_equal(answer.head.status, cases[i].status);
        assert_int_equal(answer.head.nr_keys, cases[i].status == KV_OK);
        if (cases[i].status != KV_OK) {
            assert_memory_equal(answer.head.field, "request.", 8);
            assert_true(
                cases[i].timeout_us == SECOND_US
                || strcmp(answer.head.field, "request.timeout") == 0);
        }
    }
    assert_int_equal(ftruncate(fd, 0), -1); /* the seal that was asked for */
    close(fd);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    raw_close(&raw);
}

/* ------------------------------------------------------------------ memory */

static void expect_refused(struct raw *raw, int fd, uint64_t bytes, const char *field)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_BUFFER);
    packet.req = 9;
    packet.bytes = bytes;
    raw_send(raw, &packet, sizeof(packet), 1, &fd);
    assert_true(raw_receive(raw, &packet, NULL) > 0);
    assert_int_equal(packet.type, KVN_PACKET_REFUSED);
    assert_int_equal(packet.req, 9);
    assert_string_equal(packet.field, field);
}

static int memfd_of(uint64_t bytes, int seals)
{
    int fd = memfd_create("kvrail-test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Memory that could be taken away under the node, or that it could not write, is not
 * mapped. */
static void buffer__that_could_be_taken_away_is_refused(void **state)
{
    struct raw raw;
    char path[96], fd_path[64];
    (void)state;
    raw_attach(&raw);
    int fd = memfd_of(8192, 0);
    expect_refused(&raw, fd, 8192, "buffer.seals");
    expect_refused(&raw, fd, 8192, "buffer.seals");
    close(fd);
    fd = memfd_of(8192, F_SEAL_GROW);
    expect_refused(&raw, fd, 8192, "buffer.seals");
    close(fd);
    fd = memfd_of(8192, F_SEAL_SHRINK);
    expect_refused(&raw, fd, 8193, "buffer.bytes");
    expect_refused(&raw, fd, UINT64_MAX, "buffer.bytes");
    expect_refused(&raw, fd, 0, "buffer.bytes");
    snprintf(fd_path, sizeof(fd_path), "/proc/self/fd/%d", fd);
    int read_only = open(fd_path, O_RDONLY | O_CLOEXEC);
    expect_refused(&raw, read_only, 8192, "buffer.mmap");
    close(read_only);
    close(fd);
    fd = memfd_of(8192, F_SEAL_SHRINK | F_SEAL_WRITE);
    expect_refused(&raw, fd, 8192, "buffer.mmap");
    close(fd);
    fd = memfd_of(LK_BUFFER_BYTES * 2, F_SEAL_SHRINK);
    expect_refused(&raw, fd, LK_BUFFER_BYTES + 1, "buffer.bytes");
    close(fd);
    snprintf(path, sizeof(path), "%s/file", lk.dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, 8192), 0);
    expect_refused(&raw, fd, 8192, "buffer.memfd");
    close(fd);
    unlink(path);
    expect_refused(&raw, raw.fd, 8192, "buffer.memfd");
    fd = memfd_create("kvrail-test", MFD_ALLOW_SEALING | MFD_CLOEXEC | MFD_HUGETLB);
    if (fd >= 0 && ftruncate(fd, 2 << 20) == 0
        && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0) {
        expect_refused(&raw, fd, 8192, "buffer.memfd");
    }
    close(fd);
    assert_int_equal(lk_counts(&lk).mapped, 1);
    raw_close(&raw);
}

/* What the seal leaves to its owner: a hole is punched in the buffer that the node has
 * mapped, before a PUT and under others. The node reads zeros there and lives. */
static void buffer__with_a_hole_is_zeros(void **state)
{
    const uint32_t pages = 64;
    struct kvr_buffer buffer;
    (void)state;
    kvr_client_t *client = lk_client(&lk);
    int fd = memfd_of(pages * LK_PAGE_BYTES, F_SEAL_SHRINK);
    uint8_t *bytes =
        mmap(NULL, pages * LK_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(bytes != MAP_FAILED);
    memset(bytes, 7, pages * LK_PAGE_BYTES);
    assert_int_equal(
        kvr_buffer_add(client, fd, pages * LK_PAGE_BYTES, &buffer), KVR_OK);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(
            lk_submit(client, KVR_OP_PUT, 500, pages / 2, buffer.id, 0, 1, LK_LATER_US),
            KVR_OK);
        assert_int_equal(
            fallocate(
                fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                pages / 2 * LK_PAGE_BYTES),
            0);
        struct kvr_result result;
        assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
        assert_int_equal(result.status, KVR_OK);
        int32_t statuses[64];
        assert_int_equal(
            lk_batch(
                client, KVR_OP_GET, 500, pages / 2, buffer.id, pages / 2, statuses),
            KVR_OK);
        assert_int_equal(statuses[0], KVR_OK);
        for (uint32_t at = 0; at < pages / 2 * LK_PAGE_BYTES; at++) {
            const uint8_t byte = bytes[pages / 2 * LK_PAGE_BYTES + at];
            assert_true(byte == 7 || byte == 0); /* as it was, or the hole */
        }
        assert_int_equal(
            lk_batch(client, KVR_OP_DROP, 500, pages / 2, 0, 0, NULL), KVR_OK);
        memset(bytes, 7, pages / 2 * LK_PAGE_BYTES);
    }
    munmap(bytes, pages * LK_PAGE_BYTES);
    close(fd);
    kvr_close(client);
    lk_await(&lk, 1, 1);
}

/* ------------------------------------------------------------------ packets */

/* What an attached client may not say, and what one may not say before. */
static void packet__out_of_place_ends_its_sender(void **state)
{
    (void)state;
    lk_await(&lk, 1, 1); /* the node has closed what it was sent */
    unsigned fds = process_kit_fds();
    for (unsigned i = 0; i < 9; i++) {
        struct raw raw;
        struct kvn_packet packet;
        uint8_t many[4096] = {0};
        int pair[2];
        assert_int_equal(pipe(pair), 0);
        if (i < 6) {
            raw_attach(&raw);
        } else {
            raw_connect(&raw);
        }
        packet = attach_packet(&raw);
        switch (i) {
        case 0:
            raw_send(&raw, &packet, sizeof(packet), 0, NULL);
            break; /* again */
        case 1:
            raw_send(&raw, "x", 1, 0, NULL);
            break;
        case 2:
            raw_send(&raw, many, sizeof(many), 0, NULL);
            break;
        case 3:
            kvn_packet_init(&packet, KVN_PACKET_UNBUFFER); /* of none */
            packet.buffer = 3;
            raw_send(&raw, &packet, sizeof(packet), 0, NULL);
            break;
        case 4:
        case 6: /* two descriptors; and before ATTACH */
            kvn_packet_init(&packet, KVN_PACKET_BUFFER);
            packet.bytes = 4096;
            raw_send(&raw, &packet, sizeof(packet), 2, pair);
            break;
        case 5:
            kvn_packet_init(&packet, KVN_PACKET_BUFFER); /* no descriptor */
            packet.bytes = 4096;
            raw_send(&raw, &packet, sizeof(packet), 0, NULL);
            break;
        case 7:
            raw_send(&raw, "w", 1, 2, pair);
            break; /* a wake, before ATTACH */
        default:
            raw_send(&raw, "", 0, 0, NULL);
            break;
        }
        close(pair[0]);
        close(pair[1]);
        raw_expect_end(&raw);
        lk_await(&lk, 1, 1);
    }
    assert_int_equal(lk_counts(&lk).malformed, 8);
    for (unsigned i = 0; process_kit_fds() != fds; i++) {
        assert_true(i < 2000); /* none of theirs was kept */
        usleep(1000);
    }
}

static void expect_status(struct raw *raw, const struct kvn_packet *attach, int status)
{
    struct kvn_packet packet;
    raw_send(raw, attach, sizeof(*attach), 0, NULL);
    assert_true(raw_receive(raw, &packet, NULL) > 0);
    assert_int_equal(packet.type, KVN_PACKET_REFUSED);
    assert_int_equal(packet.status, status);
    if (status == KV_ERR_DENIED) { /* it says nothing more */
        assert_true(packet.limit == 0 && packet.value == 0 && packet.field[0] == '\0');
    }
    raw_expect_end(raw);
}

/* Who sends ATTACH must be the process that connected, now, for a tenant of its uid. */
static void attach__of_another_is_denied(void **state)
{
    struct raw raw;
    struct kvn_packet packet;
    (void)state;
    raw_connect(&raw);
    packet = attach_packet(&raw);
    packet.tenant = LK_FOREIGN;
    packet.ring_bytes = 3; /* judged after the right to ask */
    expect_status(&raw, &packet, KV_ERR_DENIED);
    raw_connect(&raw);
    packet = attach_packet(&raw);
    packet.nonce++;
    expect_status(&raw, &packet, KV_ERR_DENIED);
    raw_connect(&raw);
    packet = attach_packet(&raw);
    packet.ring_bytes = KVN_RING_BYTES_MIN + 8;
    expect_status(&raw, &packet, KV_ERR_INVALID);
    raw_connect(&raw);
    packet = attach_packet(&raw);
    packet.level = 1;
    expect_status(&raw, &packet, KV_ERR_INVALID);
    raw_connect(&raw);
    packet = attach_packet(&raw);
    packet.version = 2;
    expect_status(&raw, &packet, KV_ERR_VERSION);
    /* A child that was given the socket. */
    raw_connect(&raw);
    packet = attach_packet(&raw);
    pid_t child = fork();
    if (child == 0) {
        (void)!send(raw.fd, &packet, sizeof(packet), MSG_NOSIGNAL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(raw_receive(&raw, &packet, NULL) > 0);
    assert_int_equal(packet.status, KV_ERR_DENIED);
    raw_expect_end(&raw);
    assert_int_equal(lk_counts(&lk).refused, 6);
}

/* A process that has died is a client that is gone, even while another process holds
 * its socket open: the pidfd says so. */
static void death__is_seen_behind_a_socket_that_lives(void **state)
{
    int pair[2];
    char byte;
    (void)state;
    assert_int_equal(pipe(pair), 0);
    pid_t parent = fork();
    if (parent == 0) {
        kvr_client_t *client = lk_client_at(lk.path, 0);
        struct kvr_buffer buffer;
        if (client == NULL || kvr_buffer_create(client, 4096, &buffer) != KVR_OK) {
            _exit(1);
        }
        pid_t heir = fork(); /* keeps every descriptor, and lives on */
        if (heir == 0) {
            usleep(30 * 1000 * 1000);
            _exit(0);
        }
        (void)!write(pair[1], &heir, sizeof(heir));
        (void)!read(pair[0], &byte, 0);
        usleep(50000);
        _exit(0);
    }
    pid_t heir = 0;
    assert_int_equal(read(pair[0], &heir, sizeof(heir)), sizeof(heir));
    lk_await(&lk, 2, 2);
    assert_int_equal(waitpid(parent, NULL, 0), parent);
    lk_await(&lk, 1, 1);
    assert_int_equal(kill(heir, SIGKILL), 0);
    close(pair[0]);
    close(pair[1]);
}

/* Who connects and says nothing is closed in time, and keeps nobody else out: past the
 * bound the oldest gives way. */
static void attach__slow_is_closed_in_time(void **state)
{
    struct raw raws[KVN_LOCAL_ATTACHING_UID_MAX + 4];
    unsigned nr = sizeof(raws) / sizeof(raws[0]);
    (void)state;
    for (unsigned i = 0; i < nr; i++) {
        raw_connect(&raws[i]);
        assert_int_not_equal(raws[i].nonce, 0);
    }
    assert_int_equal(lk_counts(&lk).refused, nr - KVN_LOCAL_ATTACHING_UID_MAX);
    good_works();
    kvr_close(lk_client(&lk)); /* in front of all that are silent */
    assert_int_equal(lk_counts(&lk).refused, nr - KVN_LOCAL_ATTACHING_UID_MAX + 1);
    for (unsigned i = 0; i < nr; i++) {
        raw_expect_end(&raws[i]);
    }
    assert_int_equal(lk_counts(&lk).refused, nr);
    lk_await(&lk, 1, 1);
}

/* A client that asks to be woken and never reads its socket fills that socket alone. */
static void wake__into_a_full_socket_stops_nobody(void **state)
{
    struct raw raw;
    struct kvn_ring out, in;
    (void)state;
    raw_attach(&raw);
    kvn_ring_bind(&out, raw.rings, KVN_RING_BYTES_MIN, KVN_REQUEST_OUT);
    kvn_ring_bind(&in, raw.rings, KVN_RING_BYTES_MIN, KVN_ANSWER_IN);
    for (unsigned i = 0; i < 3000; i++) {
        static uint8_t copy[KVN_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
        struct kvn_request_head head = request_head(KVN_OP_PIN, 1);
        struct kvr_key key = lk_key(i);
        uint8_t *to;
        uint32_t len;
        assert_int_equal(kvn_ring_room(&out, head.bytes, &to, NULL), KV_OK);
        memcpy(to, &head, sizeof(head));
        memcpy(to + sizeof(head), &key, sizeof(key));
        atomic_store(&raw.rings->client_sleeps, KVN_ASLEEP);
        kvn_ring_put(&out);
        if (kvn_ring_must_wake(&raw.rings->node_sleeps, KVN_ASLEEP)) {
            raw_wake(&raw);
        }
        for (unsigned n = 0; !kvn_ring_any(&in); n++) {
            assert_true(n < 100000);
            sched_yield();
            if (n % 1000 == 999) {
                usleep(100);
            }
        }
        assert_int_equal(kvn_ring_peek(&in, copy, sizeof(copy), &len, NULL), KV_OK);
        kvn_ring_take(&in);
    }
    assert_true(lk_counts(&lk).woken >= 2900);
    good_works();
    raw_close(&raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            ring__nonsense_ends_its_writer_alone, start, stop),
        cmocka_unit_test_setup_teardown(
            ring__that_changes_while_it_is_read_is_read_once, start, stop),
        cmocka_unit_test_setup_teardown(ring__wild_addresses_are_refused, start, stop),
        cmocka_unit_test_setup_teardown(
            buffer__that_could_be_taken_away_is_refused, start, stop),
        cmocka_unit_test_setup_teardown(buffer__with_a_hole_is_zeros, start, stop),
        cmocka_unit_test_setup_teardown(
            packet__out_of_place_ends_its_sender, start, stop),
        cmocka_unit_test_setup_teardown(attach__of_another_is_denied, start, stop),
        cmocka_unit_test_setup_teardown(
            death__is_seen_behind_a_socket_that_lives, start, stop),
        cmocka_unit_test_setup_teardown(attach__slow_is_closed_in_time, start, stop),
        cmocka_unit_test_setup_teardown(
            wake__into_a_full_socket_stops_nobody, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
