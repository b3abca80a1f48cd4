/* A node that keeps to no rule, as an engine sees it: of what it says of block tables
 * nothing is written outside a table, no block is given that the arena does not have,
 * and a node that lies once is gone. */
#define _GNU_SOURCE
#include "include/kvrail/kvrail.h"
#include "node/ring.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { RING_BYTES = KVN_RING_BYTES_MIN, BLOCKS = 16, BLOCK_BYTES = 256, KEYS = 4 };
#define SEQ_ID UINT64_C(0x500000003)

/* What the fake node gives out when a client attaches. */
struct offer {
    uint16_t nr_arenas;
    uint32_t nr_fds;     /* of arenas */
    uint64_t said_bytes; /* of the arena */
};

struct fake {
    struct offer offer;
    char dir[64], path[108];
    int listen_fd, fd;
    struct kvn_rings *rings;
    struct kvn_ring requests, answers;
    kvr_client_t *client;
};

static void *attach_one(void *arg)
{
    struct fake *fake = arg;
    struct {
        struct kvn_packet packet;
        struct kvn_packet_space space;
        struct kvn_packet_arena arena;
    } told;
    struct kvn_packet asked;
    memset(&told, 0, sizeof(told));
    fake->fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    kvn_packet_init(&told.packet, KVN_PACKET_GREETING);
    (void)kvn_packet_send(fake->fd, &told.packet, sizeof(told.packet), -1);
    (void)!recv(fake->fd, &asked, sizeof(asked), 0);
    size_t bytes = kvn_rings_bytes(RING_BYTES);
    int fds[3];
    fds[0] = kvn_memfd_sealed("kvrail-fake", bytes, F_SEAL_SHRINK);
    fds[1] = kvn_memfd_sealed("kvrail-arena", BLOCKS * BLOCK_BYTES, F_SEAL_SHRINK);
    fds[2] = fds[1];
    fake->rings = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    kvn_rings_format(fake->rings, RING_BYTES);
    kvn_ring_bind(&fake->requests, fake->rings, RING_BYTES, KVN_REQUEST_IN);
    kvn_ring_bind(&fake->answers, fake->rings, RING_BYTES, KVN_ANSWER_OUT);
    kvn_packet_init(&told.packet, KVN_PACKET_ATTACHED);
    told.packet.ring_bytes = RING_BYTES;
    told.packet.nr_spaces = 1;
    told.packet.nr_arenas = fake->offer.nr_arenas;
    told.space = (struct kvn_packet_space){
        .name = "chat", .page_tokens = 8, .page_bytes = BLOCK_BYTES, .nr_groups = 1};
    told.arena = (struct kvn_packet_arena){
        .bytes = fake->offer.said_bytes,
        .block_bytes = BLOCK_BYTES,
        .nr_blocks = BLOCKS};
    size_t len =
        fake->offer.nr_arenas > 0 ? sizeof(told) : offsetof(__typeof__(told), arena);
    (void)kvn_packet_send_fds(fake->fd, &told, len, fds, 1 + fake->offer.nr_fds);
    close(fds[0]);
    close(fds[1]);
    return NULL;
}

static kvr_status_t fake_open(struct fake *fake, const struct offer *offer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char target[128];
    pthread_t thread;
    memset(fake, 0, sizeof(*fake));
    fake->offer = *offer;
    snprintf(fake->dir, sizeof(fake->dir), "/tmp/kvrail-broken-XXXXXX");
    assert_non_null(mkdtemp(fake->dir));
    snprintf(fake->path, sizeof(fake->path), "%s/node.sock", fake->dir);
    memcpy(address.sun_path, fake->path, sizeof(address.sun_path));
    fake->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(
        bind(fake->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fake->listen_fd, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, attach_one, fake), 0);
    snprintf(target, sizeof(target), "unix:%s", fake->path);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .ring_bytes = RING_BYTES,
        .level = KVR_LEVEL_PAGER};
    kvr_status_t status = kvr_open(&config, &fake->client, NULL, 0);
    pthread_join(thread, NULL);
    return status;
}

static void fake_close(struct fake *fake)
{
    kvr_close(fake->client);
    close(fake->fd);
    close(fake->listen_fd);
    munmap(fake->rings, kvn_rings_bytes(RING_BYTES));
    assert_int_equal(unlink(fake->path), 0);
    assert_int_equal(rmdir(fake->dir), 0);
}

static const struct offer honest = {
    .nr_arenas = 1, .nr_fds = 1, .said_bytes = BLOCKS * BLOCK_BYTES};

/* What the node reads of a call. */
static struct kvn_request
ask(struct fake *fake, enum kvr_op op, kvr_seq_t seq, uint32_t tokens)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    static const struct kvr_key keys[KEYS];
    struct kvn_request request;
    uint32_t len;
    const struct kvr_seq_call call = {
        .struct_size = sizeof(call),
        .op = op,
        .timeout_us = 1000000,
        .seq = seq,
        .keys = keys,
        .nr_keys = KEYS,
        .tokens = tokens,
    };
    assert_int_equal(kvr_seq_submit(fake->client, &call), KVR_OK);
    assert_int_equal(
        kvn_ring_peek(&fake->requests, copy, sizeof(copy), &len, NULL), KV_OK);
    kvn_ring_take(&fake->requests);
    assert_int_equal(kvn_request_read(copy, len, &request, NULL), KV_OK);
    return request;
}

static void
say(struct fake *fake, struct kvn_answer_head head, const struct kvn_answer_seq *seq,
    const struct kvn_seq_page *page)
{
    uint8_t *to;
    head.bytes = kvn_seq_answer_bytes(head.nr_keys, seq->nr_entries, seq->nr_tails);
    assert_int_equal(kvn_ring_room(&fake->answers, head.bytes, &to, NULL), KV_OK);
    memset(to, 0, head.bytes);
    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    memcpy(to, seq, sizeof(*seq));
    to += sizeof(*seq);
    for (uint32_t i = 0; i < seq->nr_entries; i++) {
        memcpy(to + i * sizeof(*page), page, sizeof(*page));
    }
    kvn_ring_put(&fake->answers);
}

/* A sequence as a good node would open it; its name for notices. */
static kvr_seq_t open_one(struct fake *fake, uint64_t *name_p)
{
    struct kvr_result result;
    struct kvn_request request = ask(fake, KVR_OP_SEQ_OPEN, 0, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_OPEN, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {
        .seq = SEQ_ID, .name = request.seq.name, .flags = KVN_SEQ_TABLE};
    say(fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake->client, 1000000, &result), KVR_OK);
    assert_int_equal(result.status, KVR_OK);
    *name_p = request.seq.name;
    return result.seq;
}

/* ------------------------------------------------------------------ attaching */

static void attach__arenas_are_what_was_said(void **state)
{
    struct fake fake;
    (void)state;
    assert_int_equal(fake_open(&fake, &honest), KVR_OK);
    fake_close(&fake);
    const struct offer lies[] = {
        {.nr_arenas = 0, .nr_fds = 0},
        {.nr_arenas = 1, .nr_fds = 0, .said_bytes = BLOCKS * BLOCK_BYTES},
        {.nr_arenas = 1, .nr_fds = 2, .said_bytes = BLOCKS * BLOCK_BYTES},
        {.nr_arenas = 1, .nr_fds = 1, .said_bytes = 2 * BLOCKS * BLOCK_BYTES},
        {.nr_arenas = 1, .nr_fds = 1, .said_bytes = BLOCK_BYTES},
    };
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        kvr_status_t status = fake_open(&fake, &lies[i]);
        assert_true(status == KVR_VERSION || status == KVR_INVALID);
        assert_null(fake.client);
        fake_close(&fake);
    }
}

/* ------------------------------------------------------------------ tables */

/* One answer to a FETCH of four keys, with one thing wrong in each case. */
static void fetch__a_lie_ends_the_node(void **state)
{
    static const struct {
        struct kvn_answer_head head;
        struct kvn_answer_seq seq;
        struct kvn_seq_page page;
    } lies[] = {
        {.seq = {.seq = SEQ_ID + 1}},             /* another sequence */
        {.seq = {.seq = SEQ_ID, .nr_pages = 65}}, /* no room was made for so many */
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4},
         .page = {.block = BLOCKS}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4},
         .page = {.block = UINT32_MAX}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_entries = 4}, .page = {.arena = 1}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .nr_hits = 5}},
        {.seq = {.seq = SEQ_ID, .nr_pages = 4, .first_page = 3, .nr_entries = 2}},
        {.head = {.op = KVN_OP_SEQ_APPEND}, .seq = {.seq = SEQ_ID}},
        {.head = {.op = KVN_OP_GET}, .seq = {.seq = SEQ_ID}},
        {.head = {.tag = 1 << 16}, .seq = {.seq = SEQ_ID}},
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct fake fake;
        struct kvr_result result;
        uint64_t name;
        assert_int_equal(fake_open(&fake, &honest), KVR_OK);
        kvr_seq_t seq = open_one(&fake, &name);
        struct kvn_request request = ask(&fake, KVR_OP_SEQ_FETCH, seq, 0);
        struct kvn_answer_head head = lies[i].head;
        struct kvn_answer_seq about = lies[i].seq;
        head.type = KVN_RECORD_ANSWER;
        head.op = head.op == 0 ? (uint16_t)KVN_OP_SEQ_FETCH : head.op;
        head.tag += request.head.tag;
        head.nr_keys = head.op == KVN_OP_SEQ_FETCH ? KEYS : 0;
        about.flags = KVN_SEQ_TABLE;
        about.name = name;
        say(&fake, head, &about, &lies[i].page);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
        assert_int_equal(result.status, KVR_CANCELLED);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_LINK_LOST);
        fake_close(&fake);
    }
}

/* An OPEN that went well and tells nothing of it. */
static void open__without_a_table_ends_the_node(void **state)
{
    struct fake fake;
    struct kvr_result result;
    (void)state;
    assert_int_equal(fake_open(&fake, &honest), KVR_OK);
    struct kvn_request request = ask(&fake, KVR_OP_SEQ_OPEN, 0, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_OPEN, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {0};
    say(&fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
    assert_int_equal(result.status, KVR_CANCELLED);
    assert_int_equal(result.seq, 0);
    fake_close(&fake);
}

/* Notices of sequences that there are not, or that never end the MORE. */
static void notice__a_lie_ends_the_node(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct fake fake;
        struct kvr_result result;
        uint64_t name;
        assert_int_equal(fake_open(&fake, &honest), KVR_OK);
        (void)open_one(&fake, &name);
        const struct kvn_answer_head head = {
            .type = KVN_RECORD_NOTICE, .op = KVN_OP_SEQ_CHANGED};
        struct kvn_answer_seq seq = {
            .seq = SEQ_ID, .name = name, .flags = KVN_SEQ_TABLE};
        seq.name = i == 0 ? name + 1 : i == 1 ? UINT64_MAX : name;
        seq.flags = i == 2 ? 0 : KVN_SEQ_TABLE;
        seq.seq = i == 3 ? SEQ_ID + 1 : SEQ_ID;
        say(&fake, head, &seq, NULL);
        assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_LINK_LOST);
        fake_close(&fake);
    }
    /* One that says that there is more is not told to the caller, nor waited for. */
    struct fake fake;
    struct kvr_result result;
    uint64_t name;
    assert_int_equal(fake_open(&fake, &honest), KVR_OK);
    kvr_seq_t handle = open_one(&fake, &name);
    for (unsigned i = 0; i < 64; i++) {
        const struct kvn_answer_head head = {
            .type = KVN_RECORD_NOTICE, .op = KVN_OP_SEQ_CHANGED};
        const struct kvn_answer_seq seq = {
            .seq = SEQ_ID, .name = name, .flags = KVN_SEQ_TABLE | KVN_SEQ_MORE};
        say(&fake, head, &seq, NULL);
    }
    assert_int_equal(kvr_next(fake.client, 10000, &result), KVR_AGAIN);
    /* And what it says of a fork that has not been told whole is not shown. */
    struct kvn_request request = ask(&fake, KVR_OP_SEQ_FORK, handle, 0);
    const struct kvn_answer_head head = {
        .type = KVN_RECORD_ANSWER, .op = KVN_OP_SEQ_FORK, .tag = request.head.tag};
    const struct kvn_answer_seq seq = {
        .seq = 9, .name = request.seq.name, .flags = KVN_SEQ_TABLE | KVN_SEQ_MORE};
    struct kvr_table table;
    say(&fake, head, &seq, NULL);
    assert_int_equal(kvr_next(fake.client, 1000000, &result), KVR_OK);
    assert_int_not_equal(result.seq, 0);
    assert_int_equal(kvr_seq_table(fake.client, result.seq, &table), KVR_AGAIN);
    fake_close(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach__arenas_are_what_was_said),
        cmocka_unit_test(fetch__a_lie_ends_the_node),
        cmocka_unit_test(open__without_a_table_ends_the_node),
        cmocka_unit_test(notice__a_lie_ends_the_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
