/* What waits to be sent on a connection: clear bytes in, bytes of the socket out. */
#include "node/daemon/links_priv.h"

#include "base/assert.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

/* Room for `more` bytes after those that wait. No bound of its own: kvn_conn_send()
 * keeps to queue_bytes and one frame, and TLS adds little. */
static bool out_reserve(struct kvn_conn *conn, size_t more)
{
    if (conn->out_at + conn->out_len + more <= conn->out_cap) {
        return true;
    }
    if (conn->out_len + more <= conn->out_cap / 2) {
        memmove(conn->out, conn->out + conn->out_at, conn->out_len);
        conn->out_at = 0;
        return true;
    }
    size_t cap = conn->out_cap == 0 ? KVN_LINKS_RECORD_BYTES : conn->out_cap;
    while (cap < conn->out_len + more) {
        cap *= 2;
    }
    uint8_t *out = kv_calloc(1, cap);
    if (out == NULL) {
        kvn_conn_break(conn, "out of memory");
        return false;
    }
    if (conn->out_len > 0) {
        memcpy(out, conn->out + conn->out_at, conn->out_len);
    }
    kv_free(conn->out);
    conn->out = out;
    conn->out_at = 0;
    conn->out_cap = cap;
    return true;
}

/* What TLS has for the socket joins what waits. */
bool kvn_conn_pull(struct kvn_conn *conn)
{
    size_t len;
    do {
        if (!out_reserve(conn, KVN_LINKS_RECORD_BYTES)) {
            return false;
        }
        len = kvn_tls_out(
            conn->tls, conn->out + conn->out_at + conn->out_len,
            KVN_LINKS_RECORD_BYTES);
        conn->out_len += len;
    } while (len > 0);
    return true;
}

/* Clear bytes on their way. */
bool kvn_conn_put(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    if (conn->tls == NULL) {
        if (!out_reserve(conn, len)) {
            return false;
        }
        memcpy(conn->out + conn->out_at + conn->out_len, bytes, len);
        conn->out_len += len;
        return true;
    }
    if (kvn_tls_write(conn->tls, bytes, len) != KV_OK) {
        kvn_conn_break(conn, "%s", kvn_tls_reason(conn->tls));
        return false;
    }
    return kvn_conn_pull(conn);
}

void kvn_conn_out_free(struct kvn_conn *conn)
{
    kv_free(conn->out);
    conn->out = NULL;
    conn->out_at = conn->out_len = conn->out_cap = 0;
}

/* As much as the socket takes. False: it is broken, errno says why. */
bool kvn_conn_send_out(struct kvn_conn *conn)
{
    while (conn->out_len > 0) {
        const ssize_t ret = send(
            conn->fd, conn->out + conn->out_at, conn->out_len,
            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (ret < 0 && errno == EINTR) {
            continue;
        }
        if (ret < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK;
        }
        conn->out_at += (size_t)ret;
        conn->out_len -= (size_t)ret;
        conn->links->counts.bytes_out += (uint64_t)ret;
    }
    if (conn->out_cap > KVN_LINKS_FLUSH_BYTES) {
        kvn_conn_out_free(conn);
    }
    conn->out_at = 0;
    return true;
}

void kvn_conn_flush(struct kvn_conn *conn)
{
    KV_ASSERT(conn->fd >= 0);
    if (conn->broken) {
        return;
    }
    if (!kvn_conn_send_out(conn)) {
        kvn_conn_break(conn, "%s", strerror(errno));
        return;
    }
    kvn_conn_watch_for(conn, UV_READABLE | (conn->out_len > 0 ? UV_WRITABLE : 0));
}

/* Head and body go out in one record, not two. */
static bool put_frame(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    uint8_t *record = conn->links->record;
    const size_t room = KVN_LINKS_RECORD_BYTES - KVN_FRAME_HEAD_BYTES;
    const size_t first = len < room ? len : room;
    kvn_frame_head((uint32_t)len, record);
    memcpy(record + KVN_FRAME_HEAD_BYTES, bytes, first);
    return kvn_conn_put(conn, record, KVN_FRAME_HEAD_BYTES + first)
           && (first == len || kvn_conn_put(conn, bytes + first, len - first));
}

bool kvn_conn_send(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    struct kvn_links *links = conn->links;
    KV_ASSERT(conn->state == KVN_CONN_UP);
    if (conn->out_len >= links->queue_bytes) {
        kvn_conn_flush(conn); /* many sends in one turn are not a slow peer */
    }
    if (conn->out_len >= links->queue_bytes) {
        kvn_conn_break(
            conn, "does not read: %zu bytes wait, the limit is %" PRIu64, conn->out_len,
            links->queue_bytes);
    }
    if (conn->broken || !put_frame(conn, bytes, len)) {
        return false;
    }
    links->counts.frames_out++;
    if (conn->out_len >= KVN_LINKS_FLUSH_BYTES) {
        kvn_conn_flush(conn);
    } else {
        kvn_conn_call(conn, &conn->flush);
    }
    return !conn->broken;
}
