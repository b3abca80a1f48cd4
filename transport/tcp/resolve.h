/* "host:port" to addresses that a socket can dial.
 *
 *   kvt_address_parse: numbers alone, at once, in the caller's thread
 *   kvt_resolver_post ──► one thread, getaddrinfo ──► kvt_resolver_next
 *
 * A name server may be slow or silent for many seconds; that holds up the names queued
 * behind, and nothing else: neither the loop nor any connection.
 *
 * Threading: all calls by the loop thread; `told` is rung by the resolver's own. A
 * resolver destroyed in the middle of a question is left to end by itself: it touches
 * nothing but its own memory then. Ownership: `told` stays until destroy; texts are
 * copied. Errors: create gives KV_ERR_NOMEM or KV_ERR_IO (its thread).
 */
#ifndef KVT_TCP_RESOLVE_H
#define KVT_TCP_RESOLVE_H

#include "base/status.h"
#include "transport/bell.h"

#include <sys/socket.h>

enum { KVT_ADDRESSES = 4 }; /* of one host that are tried, in order */

struct kvt_address {
    struct sockaddr_storage at;
    socklen_t len;
};

/* OK: *address_p is written. INPROGRESS: well-formed, but the host is a name. INVALID:
 * no port, no host, or too long. */
kv_status_t kvt_address_parse(const char *text, struct kvt_address *address_p);

struct kvt_resolved {
    uint64_t tag;
    uint32_t nr_addresses; /* 0: there is no such host */
    struct kvt_address addresses[KVT_ADDRESSES];
};

struct kvt_resolver;

kv_status_t kvt_resolver_create(
    uint32_t nr_jobs, struct kvt_bell *told, struct kvt_resolver **resolver_p);
void kvt_resolver_destroy(struct kvt_resolver *resolver);
/* AGAIN: nr_jobs are posted and not taken back. */
kv_status_t
kvt_resolver_post(struct kvt_resolver *resolver, uint64_t tag, const char *text);
bool kvt_resolver_next(struct kvt_resolver *resolver, struct kvt_resolved *resolved);

#endif
