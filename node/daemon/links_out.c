/* What waits to be sent on a connection: clear bytes in, bytes of the socket out. */
#include "node/daemon/links_priv.h"

#include "base/assert.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static bool out_done(struct kvn_conn *conn, kv_status_t status)
{
    if (status != KV_OK) {
        kvn_conn_break(conn, "out of memory");
    }
    return status == KV_OK;
}

/* What TLS has for the socket joins what waits. No bound of its own: kvn_conn_send()
 * keeps to queue_bytes and one frame, and TLS adds little. */
bool kvn_conn_pull(struct kvn_conn *conn)
{
    return out_done(conn, kvn_outbox_pull(&conn->out, conn->tls));
}

/* Clear bytes on their way. */
bool kvn_conn_put(struct kvn_conn *conn, const uint8_t *bytes, size_t len)
{
    if (conn->tls == NULL) {
        return out_done(conn, kvn_outbox_put(&conn->out, bytes, len));
    }
    if (kvn_tls_write(conn->tls, bytes, len) != KV_OK) {
        kvn_conn_break(conn, "%s", kvn_tls_reason(conn->tls));
        return false;
    }
    return kvn_conn_pull(conn);
}

/* As much as the socket takes. False: it is broken, errno says why. */
bool kvn_conn_send_out(struct kvn_conn *conn)
{
    return kvn_outbox_send(&conn->out, conn->fd, &conn->links->counts.bytes_out);
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
    kvn_conn_watch_for(conn, UV_READABLE | (conn->out.len > 0 ? UV_WRITABLE : 0));
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
    if (conn->out.len >= links->queue_bytes) {
        kvn_conn_flush(conn); /* many sends in one turn are not a slow peer */
    }
    if (conn->out.len >= links->queue_bytes) {
        kvn_conn_break(
            conn, "does not read: %zu bytes wait, the limit is %" PRIu64, conn->out.len,
            links->queue_bytes);
    }
    if (conn->broken || !put_frame(conn, bytes, len)) {
        return false;
    }
    links->counts.frames_out++;
    if (conn->out.len >= KVN_LINKS_FLUSH_BYTES) {
        kvn_conn_flush(conn);
    } else {
        kvn_conn_call(conn, &conn->flush);
    }
    return !conn->broken;
}
