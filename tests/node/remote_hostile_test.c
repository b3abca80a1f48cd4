/* Goal: whatever a remote client sends, by hand and with a right credential, it ends
 * itself alone, moves no byte that is not its own, and holds nothing for long. Method:
 * a real node on a loop of this process, sockets and TLS by hand. */
#include "base/codec.h"
#include "base/digest.h"
#include "node/daemon/frame.h"
#include "node/remote_wire.h"
#include "pager/pager.h"
#include "tests/node/remote_raw_kit.h"
#include "transport/tcp/frame.h"
#include "transport/transport.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a client by hand ------------------------------------------------------------ */

static int dial(void)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET,
        .sin_port = htons(rk_port()),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {.tv_sec = RK_PATIENCE_US / 1000000};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void raw_open(struct rk_raw *raw)
{
    char line[512];
    const struct kvn_tls_config config = {
        .cluster = "c1",
        .client = true,
        .tenant = RK_SEVEN,
        .psk = cert_kit_path(&rk_certs, "seven.psk"),
    };
    memset(raw, 0, sizeof(*raw));
    kvn_frames_init(&raw->frames, raw->buffer, sizeof(raw->buffer));
    assert_int_equal(kvn_tls_load(&config, &raw->tls, line, sizeof(line)), KV_OK);
    assert_int_equal(
        kvn_tls_open(raw->tls, true, KVN_TLS_NO_NODE, &raw->session), KV_OK);
    raw->fd = dial();
    rk_raw_flush(raw);
    assert_true(rk_raw_shake(raw));
}

static void raw_attach(struct rk_raw *raw)
{
    uint8_t bytes[KVN_PACKET_BYTES_MAX];
    struct kvn_packet packet;
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    kvn_packet_init(&packet, KVN_PACKET_ATTACH);
    packet.tenant = RK_SEVEN;
    rk_raw_say(raw, &packet, sizeof(packet));
    const uint32_t len = rk_raw_hear(raw, bytes, sizeof(bytes));
    assert_int_equal(kvn_packet_read(bytes, len, &packet, spaces, NULL), KV_OK);
    assert_int_equal(packet.type, KVN_PACKET_ATTACHED);
}

static bool raw_ended(struct rk_raw *raw)
{
    uint8_t bytes[KVN_PACKET_BYTES_MAX];
    return rk_raw_hear(raw, bytes, sizeof(bytes)) == 0;
}

/* A request of n keys from number 0 on, whose pages lie nowhere that the node knows. */
static uint32_t
raw_request(uint8_t *to, uint16_t op, uint64_t tag, uint32_t n, uint64_t timeout_us)
{
    const uint32_t bytes = kvn_request_bytes(op, n, false);
    const struct kvn_request_head head = {
        .bytes = bytes,
        .type = KVN_RECORD_REQUEST,
        .op = op,
        .tag = tag,
        .timeout_us = timeout_us,
        .nr_keys = n,
        .flags = KVN_REQUEST_LOOSE,
    };
    memset(to, 0, bytes);
    memcpy(to, &head, sizeof(head));
    for (uint32_t i = 0; i < n; i++) {
        const struct kvr_key key = rk_key_of(i);
        memcpy(to + sizeof(head) + i * sizeof(key), &key, sizeof(key));
    }
    return bytes;
}

/* A data connection with this id, secret and number; its socket. */
static int
raw_data(const uint8_t secret[KVN_REMOTE_SECRET_BYTES], uint32_t gen, bool offer)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HELLO_BYTES_MAX];
    uint8_t *head = bytes + KVT_FRAME_HEADER_BYTES;
    struct kv_detail detail;
    size_t len;
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA_OPEN,
        .link = kvn_remote_id(secret),
        .u.data_open.data_gen = gen,
    };
    assert_int_equal(kvn_remote_proof(secret, gen, &msg.u.data_open.proof), KV_OK);
    assert_int_equal(kv_encode(&msg, head, KVT_HELLO_BYTES_MAX, &len, &detail), KV_OK);
    kvt_frame_write(
        bytes, offer ? KVT_FRAME_OFFER : KVT_FRAME_HELLO, head, (uint32_t)len, 0);
    const int fd = dial();
    assert_true(send(fd, bytes, KVT_FRAME_HEADER_BYTES + len, 0) > 0);
    return fd;
}

static bool data_ended(int fd)
{
    uint8_t byte;
    const ssize_t n = recv(fd, &byte, 1, 0);
    const bool ended = n == 0 || (n < 0 && errno != EAGAIN);
    close(fd);
    return ended;
}

/* ---- hostile --------------------------------------------------------------------- */

/* What does not keep to the shape ends that client, and no other. */
static void hostile__malformed_ends_it_alone(void **state)
{
    enum { ROWS = 13 };
    static uint8_t record[KVN_REQUEST_BYTES_MAX];
    int32_t statuses[4];
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *good = rk_client_of(RK_SEVEN, "tenant-7");
    for (unsigned i = 0; i < ROWS; i++) {
        struct rk_raw raw;
        struct kvn_packet packet;
        uint32_t len = raw_request(record, KVN_OP_EXISTS, 5, 4, 1000000);
        struct kvn_request_head *head = (struct kvn_request_head *)(void *)record;
        raw_open(&raw);
        kvn_packet_init(&packet, KVN_PACKET_ATTACH);
        packet.tenant = i == 0 ? RK_NINE : RK_SEVEN;
        packet.ring_bytes = i == 1 ? 1 << 20 : 0;
        packet.level = i == 2;
        if (i < 3) { /* refused with a word, and ended */
            rk_raw_say(&raw, &packet, sizeof(packet));
            uint8_t bytes[KVN_PACKET_BYTES_MAX];
            len = rk_raw_hear(&raw, bytes, sizeof(bytes));
            assert_int_equal(kvn_packet_read(bytes, len, &packet, NULL, NULL), KV_OK);
            assert_int_equal(packet.type, KVN_PACKET_REFUSED);
            assert_int_equal(packet.status, i == 0 ? KV_ERR_DENIED : KV_ERR_INVALID);
            assert_true(i > 0 || packet.field[0] == '\0');
        } else if (i == 3) {
            rk_raw_say(&raw, record, len); /* before ATTACH */
            uint8_t bytes[KVN_PACKET_BYTES_MAX];
            (void)rk_raw_hear(&raw, bytes, sizeof(bytes));
        } else {
            raw_attach(&raw);
            head->tag = i == 4 ? KVN_RING_REQUESTS_MAX : i == 5 ? UINT64_MAX : 5;
            head->nr_keys = i == 6 ? 0 : i == 7 ? KVN_RING_KEYS_MAX + 1 : 4;
            head->op = i == 8 ? KVN_RING_OPS : KVN_OP_EXISTS;
            head->type = i == 9 ? KVN_RECORD_ANSWER : KVN_RECORD_REQUEST;
            if (i == 10) { /* a frame longer than any */
                const uint8_t huge[4] = {0xff, 0xff, 0xff, 0x7f};
                assert_int_equal(kvn_tls_write(raw.session, huge, 4), KV_OK);
                rk_raw_flush(&raw);
            } else if (i == 12) { /* a sequence: of engines on the node's host */
                len = raw_request(record, KVN_OP_SEQ_OPEN, 5, 0, 1000000);
                head->flags = 0; /* well formed */
                rk_raw_say(&raw, record, len);
            } else if (i == 11) { /* a slot that is in use */
                len = raw_request(record, KVN_OP_PUT, 5, 4, 3000000);
                const int fd = raw_data(raw.secret, KVN_REMOTE_OFFERS, true);
                rk_raw_say(&raw, record, len);
                rk_raw_say(&raw, record, len);
                assert_true(raw_ended(&raw));
                close(fd);
            } else {
                rk_raw_say(&raw, record, len);
            }
        }
        assert_true(raw_ended(&raw));
        rk_raw_close(&raw);
        rk_batch(good, KVR_OP_EXISTS, 0, 4, 0, statuses);
    }
    kvr_close(good);
    rk_await_rest(0);
    rk_node_stop();
}

/* A data connection needs the session's secret, its part's number, and comes once. */
static void hostile__data_connections_prove_the_session(void **state)
{
    uint8_t stolen[KVN_REMOTE_SECRET_BYTES];
    struct rk_raw raw;
    (void)state;
    rk_node_start(true, true);
    raw_open(&raw);
    memcpy(stolen, raw.secret, sizeof(stolen));
    assert_true(data_ended(raw_data(raw.secret, 1, false))); /* not attached yet */
    raw_attach(&raw);
    stolen[20] ^= 1; /* the id is right, and was seen on the wire */
    assert_true(data_ended(raw_data(stolen, KVN_REMOTE_READS, false)));
    assert_true(data_ended(raw_data(stolen, KVN_REMOTE_OFFERS, true)));
    memcpy(stolen, raw.secret, sizeof(stolen));
    stolen[0] ^= 1; /* another id */
    assert_true(data_ended(raw_data(stolen, KVN_REMOTE_READS, false)));
    assert_true(data_ended(raw_data(raw.secret, KVN_REMOTE_READS, true)));
    assert_true(data_ended(raw_data(raw.secret, KVN_REMOTE_OFFERS, false)));
    assert_true(data_ended(raw_data(raw.secret, 3, false)));
    const int fd = raw_data(raw.secret, KVN_REMOTE_READS, false);
    usleep(100000);
    assert_true(data_ended(raw_data(raw.secret, KVN_REMOTE_READS, false)));
    uint8_t byte; /* the first one lives, until its client does not */
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    rk_raw_close(&raw);
    assert_true(data_ended(fd));
    rk_node_stop();
}

static void data_say(int fd, enum kvt_frame_kind kind, const void *head, uint32_t len)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX];
    kvt_frame_write(bytes, kind, head, len, 0);
    memcpy(bytes + KVT_FRAME_HEADER_BYTES, head, len);
    (void)send(fd, bytes, KVT_FRAME_HEADER_BYTES + len, MSG_NOSIGNAL);
}

/* What goes over a data connection is judged as hard: posts that there cannot be, pages
 * that nobody asked for, requests where the node reads. */
static void hostile__data_connections_end_it(void **state)
{
    enum { ROWS = 8 };
    static const uint8_t page[RK_PAGE];
    int32_t statuses[4];
    (void)state;
    rk_node_start(true, true);
    kvr_client_t *good = rk_client_of(RK_SEVEN, "tenant-7");
    for (unsigned i = 0; i < ROWS; i++) {
        struct rk_raw raw;
        raw_open(&raw);
        raw_attach(&raw);
        const int reads = raw_data(raw.secret, KVN_REMOTE_READS, false),
                  offers = raw_data(raw.secret, KVN_REMOTE_OFFERS, true);
        struct kvn_remote_post post = {.tag = 5, .nr_keys = 4};
        const struct kv_msg_data data = {
            .data_gen = KVN_REMOTE_OFFERS, .len = RK_PAGE};
        post.tag = i == 0 ? KVN_RING_REQUESTS_MAX : i == 1 ? UINT64_C(1) << 32 : 5;
        post.chunk = i == 2 ? 1 : 0;
        post.nr_keys = i == 3 ? 0 : i == 4 ? KVN_RING_KEYS_MAX + 1 : 4;
        if (i < 6) {
            data_say(
                reads, KVT_FRAME_REQUEST, &post, sizeof(post) - (i == 5 ? 1 : 0));
        } else if (i == 6) { /* a page that nobody wants */
            rk_page_give(&raw, offers, &data, 1, page);
        } else { /* asks where it is asked */
            data_say(offers, KVT_FRAME_REQUEST, &post, sizeof(post));
        }
        assert_true(raw_ended(&raw));
        close(reads);
        close(offers);
        rk_raw_close(&raw);
        rk_batch(good, KVR_OP_EXISTS, 0, 4, 0, statuses);
    }
    rk_await_rest(1);
    kvr_close(good);
    rk_await_rest(0);
    rk_node_stop();
}

/* Gives one page that is wanted: with its digest, another digest, or too few bytes. */
static void give(struct rk_raw *raw, int fd, uint64_t digest_flip, uint32_t len)
{
    static uint8_t head[KVT_REQUEST_BYTES_MAX], page[RK_PAGE];
    struct kvn_remote_want want = {0};
    const uint32_t head_len = rk_frame_get(fd, KVT_FRAME_REQUEST, head);
    assert_int_equal(kvn_remote_want_read(head, head_len, &want, NULL), KV_OK);
    assert_int_equal(want.len, RK_PAGE);
    rk_page_fill(page, want.key);
    const struct kv_msg_data data = {
        .data_gen = KVN_REMOTE_OFFERS,
        .len = len,
        .digest = kv_digest(page, len) ^ digest_flip,
    };
    rk_page_give(raw, fd, &data, want.req, page);
}

/* A page that does not match its digest, or is cut short, is not taken; the others of
 * its batch are, and nobody can get what was not. */
static void hostile__pages_are_verified(void **state)
{
    static uint8_t record[KVN_REQUEST_BYTES_MAX];
    static uint8_t answer[KVN_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
    struct kvn_answer said;
    int32_t statuses[3];
    struct rk_raw raw;
    (void)state;
    rk_node_start(true, true);
    raw_open(&raw);
    raw_attach(&raw);
    const int fd = raw_data(raw.secret, KVN_REMOTE_OFFERS, true);
    rk_raw_say(&raw, record, raw_request(record, KVN_OP_PUT, 3, 3, 5000000));
    give(&raw, fd, 0, RK_PAGE);
    give(&raw, fd, 1, RK_PAGE);
    give(&raw, fd, 0, RK_PAGE / 2);
    const uint32_t len = rk_raw_hear(&raw, answer, sizeof(answer));
    assert_int_equal(kvn_answer_read(answer, len, &said, NULL), KV_OK);
    assert_int_equal(said.head.tag, 3);
    assert_int_equal(said.statuses[0], KV_OK);
    assert_int_equal(said.statuses[1], KV_ERR_NOT_VERIFIED);
    assert_int_equal(said.statuses[2], KV_ERR_IO);
    kvr_client_t *client = rk_client_of(RK_SEVEN, NULL);
    rk_batch(client, KVR_OP_EXISTS, 0, 3, 0, statuses);
    assert_int_equal(statuses[0], KVR_OK);
    rk_expect_all(statuses + 1, 2, KVR_MISS);
    kvr_close(client);
    close(fd);
    rk_raw_close(&raw);
    rk_node_stop();
}

/* A variant of no space, a time that is too long or none: refused, and it lives on. */
static void hostile__requests_out_of_bounds_are_refused(void **state)
{
    static const struct {
        uint16_t variant;
        uint64_t timeout_us;
        const char *field; /* "": taken */
    } rows[] = {
        {0, 1000000, ""},
        {1, 1000000, "request.variant"},
        {UINT16_MAX, 1000000, "request.variant"},
        {0, 0, "request.timeout"},
        {0, UINT64_MAX, "request.timeout"},
    };
    static uint8_t record[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    uint8_t answer[KVN_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
    struct kvn_request_head *head = (struct kvn_request_head *)(void *)record;
    struct kvn_answer said;
    struct rk_raw raw;
    (void)state;
    rk_node_start(true, true);
    raw_open(&raw);
    raw_attach(&raw);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const uint32_t bytes =
            raw_request(record, KVN_OP_EXISTS, 1, 1, rows[i].timeout_us);
        head->variant = rows[i].variant;
        rk_raw_say(&raw, record, bytes);
        const uint32_t len = rk_raw_hear(&raw, answer, sizeof(answer));
        assert_int_equal(kvn_answer_read(answer, len, &said, NULL), KV_OK);
        assert_string_equal(said.head.field, rows[i].field);
        assert_int_equal(
            said.head.status, rows[i].field[0] != '\0' ? KV_ERR_INVALID : KV_OK);
    }
    rk_raw_close(&raw);
    rk_await_rest(0);
    rk_node_stop();
}

static uint64_t clock_ms(clockid_t clock)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(clock, &ts), 0);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Who asks and then neither gives nor posts its pages is ended in bounded time; every
 * frame comes back. Nobody spins over what it has sent besides: that is not read. */
static void hostile__silence_is_bounded(void **state)
{
    static uint8_t record[KVN_REQUEST_BYTES_MAX];
    uint8_t head[KVT_REQUEST_BYTES_MAX];
    (void)state;
    rk_node_start(true, true);
    struct rk_raw silent, late;
    raw_open(&silent);
    raw_attach(&silent);
    rk_raw_say(&silent, record, raw_request(record, KVN_OP_GET, 1, 8, 1000000));
    rk_raw_say(&silent, record, raw_request(record, KVN_OP_GET, 2, 8, 1000000));
    raw_open(&late);
    raw_attach(&late);
    const int fd = raw_data(late.secret, KVN_REMOTE_OFFERS, true);
    rk_raw_say(&late, record, raw_request(record, KVN_OP_PUT, 1, 8, 200000));
    rk_frame_get(fd, KVT_FRAME_REQUEST, head); /* is asked, and says nothing */
    uint8_t answer[KVN_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
    struct kvn_answer said;
    const uint32_t len = rk_raw_hear(&late, answer, sizeof(answer));
    assert_int_equal(kvn_answer_read(answer, len, &said, NULL), KV_OK);
    assert_int_equal(said.statuses[0], KV_ERR_DEADLINE);
    assert_true(rk_node_held() > 0); /* the transport may still write to them */
    assert_true(raw_ended(&late));
    /* All of the first came at once; this is behind what is held, in the socket. */
    rk_raw_say(&silent, record, raw_request(record, KVN_OP_GET, 3, 8, 1000000));
    const uint64_t cpu_ms = clock_ms(CLOCK_PROCESS_CPUTIME_ID),
                   wall_ms = clock_ms(CLOCK_MONOTONIC);
    assert_true(raw_ended(&silent));
    const uint64_t waited_ms = clock_ms(CLOCK_MONOTONIC) - wall_ms;
    assert_true(waited_ms > 500);
    assert_true(clock_ms(CLOCK_PROCESS_CPUTIME_ID) - cpu_ms < waited_ms / 2);
    rk_await_rest(0);
    close(fd);
    rk_raw_close(&late);
    rk_raw_close(&silent);
    rk_node_stop();
}

/* Requests that cost nothing to refuse, as fast as they go, and answers that nobody
 * deciphers: the node reads no faster than it answers, so what it holds is bounded. */
static void hostile__floods_wait_outside(void **state)
{
    enum {
        TOTAL_BYTES = 48 << 20,
        HELD_BYTES_MAX = 16 << 20, /* what the kernel may have, both sides */
        BURST = 96,
        RECORD_BYTES = 22, /* of TLS, beside what is in it; an answer is two */
    };
    static uint8_t burst[BURST * 160], cipher[64 << 10], record[KVN_REQUEST_BYTES_MAX];
    struct kvn_request_head *head = (struct kvn_request_head *)(void *)record;
    const size_t one = KVN_FRAME_HEAD_BYTES + kvn_answer_bytes(0) + 2 * RECORD_BYTES;
    struct rk_raw raw;
    size_t len = 0, at = 0, left = 0, sent = 0, heard = 0, held = 1, held_max = 0;
    (void)state;
    rk_node_start(true, true);
    raw_open(&raw);
    raw_attach(&raw);
    const uint32_t bytes = raw_request(record, KVN_OP_EXISTS, 3, 1, 1000000);
    assert_true(KVN_FRAME_HEAD_BYTES + bytes <= sizeof(burst) / BURST);
    head->variant = KVP_VARIANTS_MAX - 1; /* there is no such space */
    for (unsigned i = 0; i < BURST; i++) {
        kvn_frame_head(bytes, burst + len);
        memcpy(burst + len + KVN_FRAME_HEAD_BYTES, record, bytes);
        len += KVN_FRAME_HEAD_BYTES + bytes;
    }
    while (sent < TOTAL_BYTES || held > 0) {
        const bool more = left > 0 || sent < TOTAL_BYTES;
        struct pollfd fd = {.fd = raw.fd, .events = POLLIN | (more ? POLLOUT : 0)};
        assert_true(poll(&fd, 1, RK_PATIENCE_US / 1000) == 1);
        if (left == 0 && more) {
            assert_int_equal(kvn_tls_write(raw.session, burst, len), KV_OK);
            left = kvn_tls_out(raw.session, cipher, sizeof(cipher));
            at = 0;
            sent += len;
        }
        const ssize_t gone =
            left == 0 ? 0 : send(raw.fd, cipher + at, left, MSG_DONTWAIT);
        assert_true(gone >= 0 || errno == EAGAIN);
        at += gone > 0 ? (size_t)gone : 0;
        left -= gone > 0 ? (size_t)gone : 0;
        const ssize_t came = recv(raw.fd, NULL, 1 << 20, MSG_DONTWAIT | MSG_TRUNC);
        assert_true(came > 0 || (came < 0 && errno == EAGAIN));
        heard += came > 0 ? (size_t)came : 0;
        const size_t answered = heard / one * (len / BURST);
        held = sent > answered ? sent - answered : 0;
        held_max = held > held_max ? held : held_max;
    }
    assert_in_range(held_max, len, HELD_BYTES_MAX);
    rk_raw_close(&raw);
    rk_await_rest(0);
    rk_node_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile__malformed_ends_it_alone),
        cmocka_unit_test(hostile__data_connections_prove_the_session),
        cmocka_unit_test(hostile__data_connections_end_it),
        cmocka_unit_test(hostile__pages_are_verified),
        cmocka_unit_test(hostile__requests_out_of_bounds_are_refused),
        cmocka_unit_test(hostile__silence_is_bounded),
        cmocka_unit_test(hostile__floods_wait_outside),
    };
    return cmocka_run_group_tests(tests, rk_setup, rk_teardown);
}
