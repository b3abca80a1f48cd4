#include "node/daemon/outbox.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* Room for `more` bytes after those that wait. */
static kv_status_t reserve(struct kvn_outbox *box, size_t more)
{
    if (box->at + box->len + more <= box->cap) {
        return KV_OK;
    }
    if (box->len + more <= box->cap / 2) {
        memmove(box->bytes, box->bytes + box->at, box->len);
        box->at = 0;
        return KV_OK;
    }
    size_t cap = box->cap == 0 ? KVN_OUTBOX_RECORD_BYTES : box->cap;
    while (cap < box->len + more) {
        cap *= 2;
    }
    uint8_t *bytes = kv_calloc(1, cap);
    if (bytes == NULL) {
        return KV_ERR_NOMEM;
    }
    if (box->len > 0) {
        memcpy(bytes, box->bytes + box->at, box->len);
    }
    kv_free(box->bytes);
    *box = (struct kvn_outbox){.bytes = bytes, .len = box->len, .cap = cap};
    return KV_OK;
}

kv_status_t kvn_outbox_put(struct kvn_outbox *box, const void *bytes, size_t len)
{
    const kv_status_t status = reserve(box, len);
    if (status == KV_OK && len > 0) {
        memcpy(box->bytes + box->at + box->len, bytes, len);
        box->len += len;
    }
    return status;
}

kv_status_t kvn_outbox_pull(struct kvn_outbox *box, kvn_tls_session_t *tls)
{
    size_t len;
    do {
        const kv_status_t status = reserve(box, KVN_OUTBOX_RECORD_BYTES);
        if (status != KV_OK) {
            return status;
        }
        len = kvn_tls_out(
            tls, box->bytes + box->at + box->len, KVN_OUTBOX_RECORD_BYTES);
        box->len += len;
    } while (len > 0);
    return KV_OK;
}

bool kvn_outbox_send(struct kvn_outbox *box, int fd, uint64_t *sent_p)
{
    while (box->len > 0) {
        const ssize_t n =
            send(fd, box->bytes + box->at, box->len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN || errno == EWOULDBLOCK;
        }
        box->at += (size_t)n;
        box->len -= (size_t)n;
        if (sent_p != NULL) {
            *sent_p += (uint64_t)n;
        }
    }
    if (box->cap > KVN_OUTBOX_KEEP_BYTES) {
        kvn_outbox_free(box);
    }
    box->at = 0;
    return true;
}

void kvn_outbox_free(struct kvn_outbox *box)
{
    kv_free(box->bytes);
    *box = (struct kvn_outbox){0};
}
