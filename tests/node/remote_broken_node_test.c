/* Goal: whatever a node says to a remote client, by hand and with a right credential,
 * opening ends with a status, each batch ends once, nothing of another batch's or of no
 * batch's memory is touched or given, and a page that is not what its digest says is no
 * hit. Method: the node is this test: TLS, frames and data connections by hand;
 * kvr_open() waits on a thread of its own. */
#include "base/codec.h"
#include "base/digest.h"
#include "node/lib/remote_priv.h"
#include "tests/node/remote_raw_kit.h"

#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 4, LATE_US = 300000, ASK_US = 1000000 /* of a batch */ };

/* ---- a node by hand -------------------------------------------------------------- */

struct fake {
    int listen_fd;
    struct rk_raw raw;
    int reads, offers; /* data connections: the client reads, offers; -1 */
    kvr_client_t *client;
    kvr_status_t status; /* of kvr_open() */
    char error[320], target[512];
    uint64_t timeout_us;
    pthread_t thread;
    struct kvr_buffer buffer;
};

static void *open_main(void *arg)
{
    struct fake *fake = arg;
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = fake->target,
        .tenant = RK_SEVEN,
        .timeout_us = fake->timeout_us,
    };
    fake->status =
        kvr_open(&config, &fake->client, fake->error, sizeof(fake->error));
    return NULL;
}

static int fake_accept(struct fake *fake)
{
    const struct timeval limit = {.tv_sec = RK_PATIENCE_US / 1000000};
    const int fd = accept(fake->listen_fd, NULL, NULL);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

/* Listens; a client begins to open, and its socket is here. */
static void fake_begin(struct fake *fake, uint64_t timeout_us)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    const struct timeval limit = {.tv_sec = RK_PATIENCE_US / 1000000};
    memset(fake, 0, sizeof(*fake));
    fake->reads = fake->offers = -1;
    fake->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fake->listen_fd >= 0);
    assert_int_equal(bind(fake->listen_fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fake->listen_fd, 8), 0);
    assert_int_equal(
        setsockopt(fake->listen_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(
        getsockname(fake->listen_fd, (struct sockaddr *)&at, &len), 0);
    snprintf(
        fake->target, sizeof(fake->target),
        "tls://127.0.0.1:%u?cluster=c1&ca=%s/ca.pem&cert=%s/tenant-7.pem&key=%s/"
        "tenant-7.key",
        ntohs(at.sin_port), rk_certs.folder, rk_certs.folder, rk_certs.folder);
    fake->timeout_us = timeout_us;
    assert_int_equal(pthread_create(&fake->thread, NULL, open_main, fake), 0);
    fake->raw.fd = fake_accept(fake);
}

/* TLS as node 1, then ATTACH has come. */
static void fake_shake(struct fake *fake)
{
    char line[512];
    uint8_t bytes[KVN_PACKET_BYTES_MAX];
    struct kvn_packet packet;
    const struct kvn_tls_config config = {
        .cluster = "c1",
        .node = 1,
        .clients = true,
        .ca = cert_kit_path(&rk_certs, "ca.pem"),
        .cert = cert_kit_path(&rk_certs, "node-1.pem"),
        .key = cert_kit_path(&rk_certs, "node-1.key"),
    };
    struct rk_raw *raw = &fake->raw;
    kvn_frames_init(&raw->frames, raw->buffer, sizeof(raw->buffer));
    assert_int_equal(kvn_tls_load(&config, &raw->tls, line, sizeof(line)), KV_OK);
    assert_int_equal(
        kvn_tls_open(raw->tls, false, KVN_TLS_NO_NODE, &raw->session), KV_OK);
    assert_true(rk_raw_shake(raw));
    const uint32_t len = rk_raw_hear(raw, bytes, sizeof(bytes));
    assert_int_equal(kvn_packet_read(bytes, len, &packet, NULL, NULL), KV_OK);
    assert_int_equal(packet.type, KVN_PACKET_ATTACH);
    assert_int_equal(packet.tenant, RK_SEVEN);
}

struct attached {
    struct kvn_packet packet;
    struct kvn_packet_space space;
};

static struct attached right_answer(void)
{
    struct attached answer = {
        .space = {
            .name = "chat", .page_tokens = 8, .page_bytes = RK_PAGE, .nr_groups = 1}};
    kvn_packet_init(&answer.packet, KVN_PACKET_ATTACHED);
    answer.packet.nr_spaces = 1;
    return answer;
}

static void fake_opened(struct fake *fake, kvr_status_t status)
{
    pthread_join(fake->thread, NULL);
    if (fake->status != status) {
        fail_msg("%d is not %d: %s", fake->status, status, fake->error);
    }
    assert_true((status == KVR_OK) == (fake->client != NULL));
    assert_true((status == KVR_OK) == (fake->error[0] == '\0'));
}

/* As a node should be: attached, both data connections here. */
static void fake_open(struct fake *fake)
{
    uint8_t head[KVT_REQUEST_BYTES_MAX];
    const struct attached answer = right_answer();
    fake_begin(fake, RK_PATIENCE_US);
    fake_shake(fake);
    rk_raw_say(&fake->raw, &answer, sizeof(answer));
    fake_opened(fake, KVR_OK);
    for (unsigned i = 0; i < 2; i++) {
        uint32_t kind;
        const int fd = fake_accept(fake);
        assert_int_equal(recv(fd, head, 8, MSG_PEEK | MSG_WAITALL), 8);
        memcpy(&kind, head + 4, sizeof(kind));
        *(kind == KVT_FRAME_OFFER ? &fake->offers : &fake->reads) = fd;
        (void)rk_frame_get(fd, kind, head);
    }
    assert_true(fake->reads >= 0 && fake->offers >= 0);
    assert_int_equal(
        kvr_buffer_create(fake->client, KEYS * RK_PAGE, &fake->buffer), KVR_OK);
    memset(fake->buffer.base, 0xa5, KEYS * RK_PAGE);
}

static void fake_close(struct fake *fake)
{
    kvr_close(fake->client);
    if (fake->raw.tls != NULL) {
        rk_raw_close(&fake->raw);
    } else {
        close(fake->raw.fd);
    }
    if (fake->reads >= 0) {
        close(fake->reads);
    }
    if (fake->offers >= 0) {
        close(fake->offers);
    }
    close(fake->listen_fd);
}

/* A batch of the client: what the node is told of it is its tag. */
static uint64_t
ask_at(struct fake *fake, enum kvr_op op, uint64_t tag, uint32_t buffer, uint64_t step)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    static struct kvr_key keys[KEYS];
    struct kvr_at at[KEYS];
    struct kvn_request request;
    for (uint32_t i = 0; i < KEYS; i++) {
        at[i] = (struct kvr_at){buffer, i * step};
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .tag = tag,
        .timeout_us = ASK_US,
        .keys = keys,
        .nr_keys = KEYS,
        .at = at,
        .loose = 1,
    };
    assert_int_equal(kvr_submit(fake->client, &batch), KVR_OK);
    const uint32_t len = rk_raw_hear(&fake->raw, copy, sizeof(copy));
    assert_int_equal(kvn_request_read(copy, len, &request, NULL), KV_OK);
    return request.head.tag;
}

static uint64_t ask(struct fake *fake, enum kvr_op op, uint64_t tag)
{
    return ask_at(fake, op, tag, fake->buffer.id, RK_PAGE);
}

static uint64_t
ask_blocks(struct fake *fake, enum kvr_op op, uint64_t tag, uint32_t pool)
{
    return ask_at(fake, op, tag, pool, 1);
}

/* Every key OK, if it is believed. */
static void
answer(struct fake *fake, const struct kvn_answer_head *head, uint32_t bytes)
{
    static uint8_t record[KVN_SEQ_ANSWER_BYTES_MAX + 8];
    memset(record, 0, sizeof(record));
    memcpy(record, head, sizeof(*head));
    rk_raw_say(&fake->raw, record, bytes);
}

static struct kvn_answer_head answer_head(enum kvr_op op, uint64_t tag, uint32_t n)
{
    return (struct kvn_answer_head){
        .bytes = kvn_answer_bytes(n),
        .type = KVN_RECORD_ANSWER,
        .op = (uint16_t)op,
        .tag = tag,
        .nr_keys = n,
    };
}

static void expect_next(struct fake *fake, uint64_t tag, kvr_status_t status)
{
    struct kvr_result result;
    assert_int_equal(kvr_next(fake->client, RK_PATIENCE_US, &result), KVR_OK);
    assert_int_equal(result.tag, tag);
    assert_int_equal(result.nr_keys, KEYS);
    rk_expect_all(result.statuses, KEYS, status);
}

/* The client is of no more use, everybody is told so, and nothing has landed. */
static void expect_gone(struct fake *fake)
{
    struct kvr_result result;
    struct kvr_buffer buffer;
    const uint8_t *bytes = fake->buffer.base;
    const struct kvr_batch batch = {.struct_size = sizeof(batch)};
    assert_int_equal(kvr_next(fake->client, RK_PATIENCE_US, &result), KVR_LINK_LOST);
    assert_int_equal(kvr_submit(fake->client, &batch), KVR_LINK_LOST);
    assert_int_equal(kvr_buffer_create(fake->client, 4096, &buffer), KVR_LINK_LOST);
    assert_true(
        bytes[0] == 0xa5 && memcmp(bytes, bytes + 1, KEYS * RK_PAGE - 1) == 0);
}

/* ---- opening --------------------------------------------------------------------- */

static void open__silence_has_an_end(void **state)
{
    (void)state;
    for (unsigned step = 0; step < 2; step++) {
        struct fake fake;
        fake_begin(&fake, LATE_US);
        if (step == 1) { /* TLS is up, and no answer comes to ATTACH */
            fake_shake(&fake);
        }
        fake_opened(&fake, KVR_DEADLINE);
        fake_close(&fake);
    }
}

static void open__wrong_answers_are_refused(void **state)
{
    enum { CASES = 10 };
    static const kvr_status_t wanted[CASES] = {
        KVR_DENIED,  KVR_DENIED,  KVR_INVALID, KVR_VERSION, KVR_VERSION,
        KVR_INVALID, KVR_VERSION, KVR_AGAIN,   KVR_INVALID, KVR_DENIED};
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        struct {
            struct attached a;
            struct kvn_packet_arena arena;
        } said = {.a = right_answer(), .arena = {RK_PAGE, RK_PAGE, 1}};
        const uint8_t huge[4] = {0xff, 0xff, 0xff, 0x7f};
        uint32_t len = sizeof(said.a);
        struct fake fake;
        fake_begin(&fake, RK_PATIENCE_US);
        if (i == 0) { /* no TLS at all */
            assert_true(send(fake.raw.fd, "HTTP/1.1 400 Bad\r\n", 18, 0) == 18);
            shutdown(fake.raw.fd, SHUT_WR);
            fake_opened(&fake, wanted[i]);
            fake_close(&fake);
            continue;
        }
        fake_shake(&fake);
        switch (i) {
        case 1: /* hangs up */
            shutdown(fake.raw.fd, SHUT_RDWR);
            len = 0;
            break;
        case 2:
            len = 7;
            break;
        case 3:
            said.a.packet.version = 99;
            break;
        case 4:
            kvn_packet_init(&said.a.packet, KVN_PACKET_BUFFERED);
            len = sizeof(said.a.packet);
            break;
        case 5:
            said.a.packet.nr_spaces = 2;
            break;
        case 6: /* memory that nobody can map */
            said.a.packet.nr_arenas = 1;
            len = sizeof(said);
            break;
        case 7:
        case 8: /* a status that this version does not have */
            kvn_packet_init(&said.a.packet, KVN_PACKET_REFUSED);
            said.a.packet.status = i == 7 ? KV_ERR_AGAIN : -9999;
            len = sizeof(said.a.packet);
            break;
        default: /* a frame longer than any */
            assert_int_equal(kvn_tls_write(fake.raw.session, huge, 4), KV_OK);
            rk_raw_flush(&fake.raw);
            len = 0;
            break;
        }
        if (len > 0) {
            rk_raw_say(&fake.raw, &said, len);
        }
        fake_opened(&fake, wanted[i]);
        assert_true(
            i != 8 || strstr(fake.error, "unknown: a status of a newer version"));
        fake_close(&fake);
    }
}

/* ---- answers --------------------------------------------------------------------- */

/* An answer is a batch's own, whole and once, or the node is gone. */
static void answer__to_no_batch_of_ours_is_no_result(void **state)
{
    enum { CASES = 14 };
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        struct fake fake;
        fake_open(&fake);
        const uint64_t former = ask(&fake, KVR_OP_EXISTS, 1);
        struct kvn_answer_head head = answer_head(KVR_OP_EXISTS, former, KEYS);
        answer(&fake, &head, head.bytes);
        expect_next(&fake, 1, KVR_OK);
        const uint64_t first = ask(&fake, KVR_OP_EXISTS, 2),
                       second = ask(&fake, KVR_OP_EXISTS, 3);
        head.tag = first;
        switch (i) {
        case 0:
            head.tag = former; /* the slot, in another life */
            break;
        case 1:
            head = answer_head(KVR_OP_EXISTS, second + 1, 0); /* nobody's slot */
            head.status = KV_ERR_AGAIN;
            break;
        case 2:
            head.tag = first | 0xffff; /* no slot */
            break;
        case 3:
            head.tag = first | UINT64_C(1) << 32;
            break;
        case 4:
            head = answer_head(KVR_OP_EXISTS, first, KEYS - 1);
            break;
        case 5:
            head = answer_head(KVR_OP_EXISTS, first, KVN_RING_KEYS_MAX);
            break;
        case 6:
            head = answer_head(KVR_OP_EXISTS, first, 0); /* OK, and of no key */
            break;
        case 7:
            head.bytes = kvn_answer_bytes(0); /* shorter than its keys */
            break;
        case 8:
            head.type = KVN_RECORD_REQUEST;
            break;
        case 9:
            head.op = KVN_RING_SEQ_OPS + 1;
            break;
        case 10:
            head.op = KVN_OP_GET; /* of another kind: its pages would be hits */
            break;
        case 11: /* a sequence, which nobody has here */
            head.op = KVN_OP_SEQ_OPEN;
            head.nr_keys = 0;
            head.bytes = kvn_seq_answer_bytes(0, 0, 0);
            break;
        case 12:
            head.type = KVN_RECORD_NOTICE;
            head.op = KVN_OP_SEQ_CHANGED;
            head.nr_keys = 0;
            head.bytes = kvn_seq_answer_bytes(0, 0, 0);
            break;
        default:
            memset(head.field, 'x', sizeof(head.field));
            break;
        }
        answer(&fake, &head, head.bytes);
        expect_next(&fake, 2, KVR_CANCELLED);
        expect_next(&fake, 3, KVR_CANCELLED);
        expect_gone(&fake);
        fake_close(&fake);
    }
}

/* Twice is once too often; when any of the three connections ends, all has. */
static void link__one_end_is_all(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct fake fake;
        fake_open(&fake);
        const uint64_t tag = ask(&fake, KVR_OP_EXISTS, 1);
        const struct kvn_answer_head head = answer_head(KVR_OP_EXISTS, tag, KEYS);
        (void)ask(&fake, KVR_OP_EXISTS, 2);
        if (i == 0) {
            answer(&fake, &head, head.bytes);
            expect_next(&fake, 1, KVR_OK);
            answer(&fake, &head, head.bytes);
        } else {
            shutdown(
                i == 1   ? fake.raw.fd
                : i == 2 ? fake.reads
                         : fake.offers,
                SHUT_RDWR);
            expect_next(&fake, 1, KVR_CANCELLED);
        }
        expect_next(&fake, 2, KVR_CANCELLED);
        expect_gone(&fake);
        fake_close(&fake);
    }
}

/* A node that is there and says nothing has so long: each batch its own time and
 * KVR_REMOTE_FLIGHT_US, whatever of it has come. Nobody waits for that here: the bound
 * is looked at where the client keeps it, and then moved to come soon. */
static void batch__of_a_silent_node_has_an_end(void **state)
{
    enum { CASES = 4, SOON_US = 1200000, LOOK_US = 1000000, SLACK_US = 5000000 };
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        static const enum kvr_op ops[CASES] = {
            KVR_OP_EXISTS, KVR_OP_GET, KVR_OP_GET, KVR_OP_PUT};
        struct fake fake;
        struct kvr_result result;
        unsigned nr = 0;
        fake_open(&fake);
        const uint64_t from = kvr_now_us();
        const uint64_t tag = ask(&fake, ops[i], 1);
        (void)ask(&fake, KVR_OP_EXISTS, 2);
        const uint64_t until = kvr_now_us(), bound = ASK_US + KVR_REMOTE_FLIGHT_US;
        if (i == 2) { /* the answer, and no page */
            const struct kvn_answer_head said = answer_head(ops[i], tag, KEYS);
            answer(&fake, &said, said.bytes);
        }
        for (unsigned k = 0; k < KVR_FLIGHT_MAX; k++) {
            if (fake.client->flights[k].used) {
                uint64_t *end = &fake.client->remote->flights[k].until_us;
                assert_true(*end >= from + bound && *end <= until + bound);
                *end -= bound;
                *end += fake.client->flights[k].tag == 1 ? SOON_US : bound;
                nr++;
            }
        }
        assert_int_equal(nr, 2);
        assert_int_equal(kvr_next(fake.client, SOON_US / 2, &result), KVR_AGAIN);
        expect_next(&fake, 1, KVR_CANCELLED);
        expect_next(&fake, 2, KVR_CANCELLED); /* the node is gone for all */
        const uint64_t took = kvr_now_us() - from;
        assert_true(took >= SOON_US && took < SOON_US + LOOK_US + SLACK_US);
        assert_non_null(strstr(kvr_error(fake.client), "the node does not answer"));
        expect_gone(&fake);
        fake_close(&fake);
    }
}

/* ---- pages ----------------------------------------------------------------------- */

/* Of a GET: a page is a hit when it is what its digest says, whatever the answer says;
 * one that never came, or only in part, is none. */
static void get__only_what_landed_whole_is_a_hit(void **state)
{
    static uint8_t page[RK_PAGE];
    static const uint32_t lens[KEYS] = {RK_PAGE, RK_PAGE, 0, RK_PAGE - 256};
    struct fake fake;
    struct kvr_result result;
    (void)state;
    fake_open(&fake);
    const uint64_t tag = ask(&fake, KVR_OP_GET, 1);
    uint8_t head[KVT_REQUEST_BYTES_MAX];
    struct kvn_remote_post post = {0};
    const uint32_t len = rk_frame_get(fake.reads, KVT_FRAME_REQUEST, head);
    assert_int_equal(kvn_remote_post_read(head, len, &post, NULL), KV_OK);
    assert_int_equal(post.tag, tag);
    assert_int_equal(post.nr_keys, KEYS);
    for (uint32_t i = 0; i < KEYS; i++) {
        rk_page_fill(page, i);
        const struct kv_msg_data data = {
            .data_gen = KVN_REMOTE_READS,
            .index = i,
            .status = i == 2 ? KV_ERR_MISS : KV_OK,
            .len = lens[i],
            .digest = i == 2 ? 0 : kv_digest(page, lens[i]) ^ (i == 1),
        };
        rk_page_give(&fake.raw, fake.reads, &data, kvn_remote_req(tag, 0), page);
    }
    const struct kvn_answer_head said = answer_head(KVR_OP_GET, tag, KEYS);
    answer(&fake, &said, said.bytes);
    assert_int_equal(kvr_next(fake.client, RK_PATIENCE_US, &result), KVR_OK);
    assert_int_equal(result.statuses[0], KVR_OK);
    assert_int_equal(result.statuses[1], KVR_NOT_VERIFIED);
    assert_int_equal(result.statuses[2], KVR_IO);
    assert_int_equal(result.statuses[3], KVR_IO);
    rk_page_fill(page, 0);
    assert_memory_equal(fake.buffer.base, page, RK_PAGE);
    fake_close(&fake);
}

/* Blocks of a pool: a page that is not what its digest says, and one that never came,
 * leave theirs alone; so does a batch that is cancelled, and its slots come back. */
static void get__leaves_the_blocks_of_what_is_no_hit(void **state)
{
    static uint8_t blocks[KEYS][RK_PAGE], page[RK_PAGE], alone[RK_PAGE];
    uint8_t head[KVT_REQUEST_BYTES_MAX];
    const struct kvr_run run = {blocks, RK_PAGE, RK_PAGE};
    const struct kvr_pool_config config = {
        .struct_size = sizeof(config),
        .runs = &run,
        .nr_runs = 1,
        .nr_blocks = KEYS,
        .nr_slots = KEYS};
    struct fake fake;
    struct kvr_space space;
    struct kvr_pool pool;
    struct kvr_result result;
    (void)state;
    memset(blocks, 0xa5, sizeof(blocks));
    memset(alone, 0xa5, sizeof(alone));
    fake_open(&fake);
    assert_int_equal(kvr_space_find(fake.client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_pool_add(fake.client, &space, &config, &pool), KVR_OK);
    const uint64_t tag = ask_blocks(&fake, KVR_OP_GET, 1, pool.id);
    (void)rk_frame_get(fake.reads, KVT_FRAME_REQUEST, head); /* it is posted */
    for (uint32_t i = 0; i < KEYS; i++) {
        rk_page_fill(page, i);
        const struct kv_msg_data data = {
            .data_gen = KVN_REMOTE_READS,
            .index = i,
            .status = i == 2 ? KV_ERR_MISS : KV_OK,
            .len = i == 2 ? 0 : RK_PAGE,
            .digest = i == 2 ? 0 : kv_digest(page, RK_PAGE) ^ (i == 1),
        };
        rk_page_give(&fake.raw, fake.reads, &data, kvn_remote_req(tag, 0), page);
    }
    const struct kvn_answer_head said = answer_head(KVR_OP_GET, tag, KEYS);
    answer(&fake, &said, said.bytes);
    assert_int_equal(kvr_next(fake.client, RK_PATIENCE_US, &result), KVR_OK);
    assert_int_equal(result.statuses[1], KVR_NOT_VERIFIED);
    assert_int_equal(result.statuses[2], KVR_IO);
    for (uint32_t i = 0; i < KEYS; i++) {
        rk_page_fill(page, i);
        assert_memory_equal(blocks[i], i == 1 || i == 2 ? alone : page, RK_PAGE);
    }
    memset(blocks, 0xa5, sizeof(blocks));
    (void)ask_blocks(&fake, KVR_OP_GET, 2, pool.id);
    assert_int_equal(kvr_pool_remove(fake.client, &pool), KVR_AGAIN);
    shutdown(fake.raw.fd, SHUT_RDWR);
    expect_next(&fake, 2, KVR_CANCELLED);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_memory_equal(blocks[i], alone, RK_PAGE);
    }
    assert_int_equal(kvr_pool_remove(fake.client, &pool), KVR_OK);
    expect_gone(&fake);
    fake_close(&fake);
}

/* An answer that comes before the pages is no result yet: whoever has the result has
 * the memory, and nobody else writes to it. */
static void get__ends_when_its_pages_have(void **state)
{
    static uint8_t page[RK_PAGE];
    struct fake fake;
    struct kvr_result result;
    (void)state;
    fake_open(&fake);
    const uint64_t tag = ask(&fake, KVR_OP_GET, 1);
    const struct kvn_answer_head said = answer_head(KVR_OP_GET, tag, KEYS);
    answer(&fake, &said, said.bytes);
    for (uint32_t i = 0; i < KEYS; i++) {
        assert_int_equal(kvr_next(fake.client, 30000, &result), KVR_AGAIN);
        rk_page_fill(page, i);
        const struct kv_msg_data data = {
            .data_gen = KVN_REMOTE_READS,
            .index = i,
            .len = RK_PAGE,
            .digest = kv_digest(page, RK_PAGE),
        };
        rk_page_give(&fake.raw, fake.reads, &data, kvn_remote_req(tag, 0), page);
    }
    expect_next(&fake, 1, KVR_OK);
    fake_close(&fake);
}

/* Pages that nobody asked for, too long, of no chunk, of a part that has ended, before
 * anything was posted: the node is gone, and what lay in memory lies there. */
static void get__wild_pages_land_nowhere(void **state)
{
    enum { CASES = 5 };
    static uint8_t page[2 * RK_PAGE];
    (void)state;
    for (unsigned i = 0; i < CASES; i++) {
        struct fake fake;
        fake_open(&fake);
        const uint64_t tag = ask(&fake, KVR_OP_GET, 1);
        struct kv_msg_data data = {
            .data_gen = KVN_REMOTE_READS, .len = RK_PAGE, .status = KV_OK};
        uint64_t req = kvn_remote_req(tag, 0);
        if (i == 0) {
            req++;
        } else if (i == 1) {
            data.len = RK_PAGE + 1;
        } else if (i == 2) {
            data.index = KEYS;
        } else if (i == 3) {
            data.index = 63;
        }
        data.digest = kv_digest(page, data.len);
        if (i == 4) { /* on the connection on which the client only gives */
            rk_page_give(&fake.raw, fake.offers, &data, req, page);
        } else {
            rk_page_give(&fake.raw, fake.reads, &data, req, page);
        }
        expect_next(&fake, 1, KVR_CANCELLED);
        expect_gone(&fake);
        fake_close(&fake);
    }
}

static void want(struct fake *fake, const void *bytes, uint32_t len)
{
    uint8_t header[KVT_FRAME_HEADER_BYTES];
    kvt_frame_write(header, KVT_FRAME_REQUEST, bytes, len, 0);
    assert_true(send(fake->offers, header, sizeof(header), MSG_NOSIGNAL) > 0);
    assert_true(send(fake->offers, bytes, len, MSG_NOSIGNAL) > 0);
}

/* The DATA that the client gives on its offer: its length. */
static uint32_t given(struct fake *fake, uint64_t req, int32_t *status_p, uint8_t *page)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX];
    uint8_t memory[4096] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kvt_frame frame;
    struct kv_msg msg;
    uint32_t len;
    assert_int_equal(recv(fake->offers, bytes, 24, MSG_WAITALL), 24);
    memcpy(&len, bytes + 8, sizeof(len));
    assert_true(len <= KVT_HEAD_BYTES_MAX);
    assert_int_equal(recv(fake->offers, bytes + 24, len, MSG_WAITALL), len);
    assert_int_equal(
        kvt_frame_parse(bytes, 24 + len, KVT_FRAME_DATA, &frame, NULL), KV_OK);
    assert_int_equal(kvt_frame_data(&frame, &arena, &msg, NULL), KV_OK);
    assert_int_equal(msg.req, req);
    assert_true(msg.u.data.len <= RK_PAGE);
    if (msg.u.data.len > 0) {
        assert_int_equal(
            recv(fake->offers, page, msg.u.data.len, MSG_WAITALL), msg.u.data.len);
        assert_int_equal(kv_digest(page, msg.u.data.len), msg.u.data.digest);
    }
    *status_p = msg.u.data.status;
    return msg.u.data.len;
}

/* Of a PUT: the client gives what that batch names while it is under way, as often as
 * it is asked, and nothing else: a tag of another life, of a GET, of no key is MISS. */
static void put__gives_its_own_pages_alone(void **state)
{
    static uint8_t page[RK_PAGE];
    struct fake fake;
    int32_t status;
    (void)state;
    fake_open(&fake);
    const uint64_t get = ask(&fake, KVR_OP_GET, 1), put = ask(&fake, KVR_OP_PUT, 2);
    const struct {
        uint64_t tag;
        uint32_t key, len;
        bool gives;
    } rows[] = {
        {put, 0, RK_PAGE, true},
        {put, 3, RK_PAGE, true},
        {get, 0, RK_PAGE, false},
        {put, KEYS, RK_PAGE, false},
        {put + 1, 0, RK_PAGE, false},
        {put + (1 << 16), 0, RK_PAGE, false},
        {UINT64_MAX, 0, RK_PAGE, false},
        {put, 1023, 1, false},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct kvn_remote_want ask_for = {
            .req = 100 + i, .tag = rows[i].tag, .key = rows[i].key, .len = rows[i].len};
        struct kvr_result result;
        want(&fake, &ask_for, sizeof(ask_for));
        /* The library works while somebody waits in it. */
        assert_int_equal(kvr_next(fake.client, 20000, &result), KVR_AGAIN);
        for (unsigned n = 0; n < 100; n++) {
            uint8_t byte;
            if (recv(fake.offers, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1) {
                break;
            }
            assert_int_equal(kvr_next(fake.client, 20000, &result), KVR_AGAIN);
        }
        const uint32_t len = given(&fake, 100 + i, &status, page);
        assert_int_equal(status, rows[i].gives ? KV_OK : KV_ERR_MISS);
        assert_int_equal(len, rows[i].gives ? rows[i].len : 0);
    }
    fake_close(&fake);
}

/* Malformed, or for more or fewer bytes than the page has: the node is gone. */
static void put__malformed_wants_end_it(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct fake fake;
        fake_open(&fake);
        struct kvn_remote_want ask_for = {
            .req = 1, .tag = ask(&fake, KVR_OP_PUT, 1), .len = RK_PAGE};
        ask_for.len += i == 0;
        ask_for.len -= i == 3;
        ask_for.key = i == 1 ? KVN_RING_KEYS_MAX : 0;
        want(&fake, &ask_for, i == 2 ? sizeof(ask_for) - 4 : sizeof(ask_for));
        expect_next(&fake, 1, KVR_CANCELLED);
        expect_gone(&fake);
        fake_close(&fake);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open__silence_has_an_end),
        cmocka_unit_test(open__wrong_answers_are_refused),
        cmocka_unit_test(answer__to_no_batch_of_ours_is_no_result),
        cmocka_unit_test(link__one_end_is_all),
        cmocka_unit_test(batch__of_a_silent_node_has_an_end),
        cmocka_unit_test(get__only_what_landed_whole_is_a_hit),
        cmocka_unit_test(get__leaves_the_blocks_of_what_is_no_hit),
        cmocka_unit_test(get__ends_when_its_pages_have),
        cmocka_unit_test(get__wild_pages_land_nowhere),
        cmocka_unit_test(put__gives_its_own_pages_alone),
        cmocka_unit_test(put__malformed_wants_end_it),
    };
    return cmocka_run_group_tests(tests, rk_setup, rk_teardown);
}
