#include "tests/node/remote_raw_kit.h"

#include "base/codec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

void rk_raw_flush(struct rk_raw *raw)
{
    uint8_t bytes[16384];
    size_t len;
    while ((len = kvn_tls_out(raw->session, bytes, sizeof(bytes))) > 0) {
        (void)send(raw->fd, bytes, len, MSG_NOSIGNAL);
    }
}

/* More bytes; false: the node has ended it. */
bool rk_raw_more(struct rk_raw *raw)
{
    uint8_t bytes[16384];
    const ssize_t n = recv(raw->fd, bytes, sizeof(bytes), 0);
    assert_true(n >= 0 || errno != EAGAIN); /* silence is no end */
    return n > 0 && kvn_tls_in(raw->session, bytes, (size_t)n) == KV_OK;
}

void rk_raw_say(struct rk_raw *raw, const void *bytes, uint32_t len)
{
    uint8_t head[KVN_FRAME_HEAD_BYTES];
    kvn_frame_head(len, head);
    assert_int_equal(kvn_tls_write(raw->session, head, sizeof(head)), KV_OK);
    assert_int_equal(kvn_tls_write(raw->session, bytes, len), KV_OK);
    rk_raw_flush(raw);
}

/* The next frame's length; 0: the node has ended it. */
uint32_t rk_raw_hear(struct rk_raw *raw, uint8_t *to, size_t cap)
{
    const uint8_t *frame;
    uint32_t len;
    for (;;) {
        if (raw->left > 0
            && kvn_frames_next(&raw->frames, &raw->at, &raw->left, &frame, &len, NULL)
                   == KV_OK) {
            assert_true(len <= cap);
            memcpy(to, frame, len);
            return len;
        }
        raw->at = raw->clear;
        if (kvn_tls_read(raw->session, raw->clear, sizeof(raw->clear), &raw->left)
            != KV_OK) {
            return 0;
        }
        if (raw->left == 0 && !rk_raw_more(raw)) {
            return 0;
        }
    }
}

bool rk_raw_shake(struct rk_raw *raw)
{
    while (!kvn_tls_ready(raw->session)) {
        rk_raw_flush(raw);
        if (!rk_raw_more(raw)) {
            return false;
        }
    }
    rk_raw_flush(raw);
    assert_int_equal(
        kvn_tls_export(
            raw->session, KVN_REMOTE_LABEL, raw->secret, sizeof(raw->secret)),
        KV_OK);
    return true;
}

void rk_raw_close(struct rk_raw *raw)
{
    close(raw->fd);
    kvn_tls_close(raw->session);
    kvn_tls_free(raw->tls);
}

uint32_t rk_frame_get(int fd, enum kvt_frame_kind kind, uint8_t *head)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_REQUEST_BYTES_MAX];
    struct kvt_frame frame;
    uint32_t len;
    assert_int_equal(recv(fd, bytes, KVT_FRAME_HEADER_BYTES, MSG_WAITALL), 24);
    memcpy(&len, bytes + 8, sizeof(len));
    assert_true(len <= KVT_REQUEST_BYTES_MAX);
    assert_int_equal(recv(fd, bytes + 24, len, MSG_WAITALL), len);
    assert_int_equal(kvt_frame_parse(bytes, 24 + len, kind, &frame, NULL), KV_OK);
    memcpy(head, frame.head, len);
    return len;
}

void rk_page_give(
    const struct rk_raw *raw, int fd, const struct kv_msg_data *data, uint64_t req,
    const uint8_t *page)
{
    static uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_HEAD_BYTES_MAX + 2 * RK_PAGE];
    uint8_t *head = bytes + KVT_FRAME_HEADER_BYTES;
    struct kv_detail detail;
    size_t head_len;
    const struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA,
        .req = req,
        .link = kvn_remote_id(raw->secret),
        .u.data = *data,
    };
    assert_true(data->len <= 2 * RK_PAGE);
    assert_int_equal(
        kv_encode(&msg, head, KVT_HEAD_BYTES_MAX, &head_len, &detail), KV_OK);
    kvt_frame_write(bytes, KVT_FRAME_DATA, head, (uint32_t)head_len, data->len);
    if (data->len > 0) {
        memcpy(head + head_len, page, data->len);
    }
    (void)send(
        fd, bytes, KVT_FRAME_HEADER_BYTES + head_len + data->len, MSG_NOSIGNAL);
}
