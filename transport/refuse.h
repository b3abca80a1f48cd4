/* The calls that a transport has not the capability for: its table names these, so that
 * no slot of a table is empty and all transports refuse alike.
 *
 * Threading: pure, but for the close of an adopted socket. Ownership: as the calls' own
 * (transport.h): a socket is taken, and closed. Errors: KV_ERR_INVALID, always.
 */
#ifndef KVT_REFUSE_H
#define KVT_REFUSE_H

#include "transport/transport.h"

#include <unistd.h>

/* Without KVT_CAP_OFFERS. */
static inline kv_status_t kvt_refuse_offer(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    (void)port;
    (void)address;
    (void)hello;
    (void)len;
    (void)conn_p;
    return KV_ERR_INVALID;
}

/* Where readers come in by `listen` alone. */
static inline kv_status_t kvt_refuse_adopt(kvt_port_t *port, int fd)
{
    (void)port;
    if (fd >= 0) {
        close(fd);
    }
    return KV_ERR_INVALID;
}

/* Without KVT_CAP_NAMED: nothing is named, and nothing is sent. */
static inline kv_status_t kvt_refuse_read(
    kvt_port_t *port, kvt_conn_t conn, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts)
{
    (void)port;
    (void)conn;
    (void)req;
    (void)request;
    (void)len;
    (void)parts;
    (void)nr_parts;
    return KV_ERR_INVALID;
}

static inline kv_status_t kvt_refuse_send(
    kvt_port_t *port, kvt_conn_t conn, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    (void)port;
    (void)conn;
    (void)id;
    (void)head;
    (void)head_len;
    (void)from;
    (void)len;
    return KV_ERR_INVALID;
}

/* Without KVT_CAP_ONE_SIDED: the owner's memory is not mapped here. */
static inline kv_status_t
kvt_refuse_get(kvt_port_t *port, kvt_conn_t conn, const struct kvt_part *part)
{
    (void)port;
    (void)conn;
    (void)part;
    return KV_ERR_INVALID;
}

#endif
