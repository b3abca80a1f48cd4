/* "host:port" as people write it, and what may be said of a socket's address.
 *
 *   "10.0.0.3:7070" | "[fd00::3]:7070" | "cache-3:7070" ──► host, port ──► numeric?
 *
 * Threading: values and pure functions only; no name is resolved here. Ports are in the
 * byte order of the machine but in a kvn_sockaddr.
 */
#ifndef KVN_ADDRESS_H
#define KVN_ADDRESS_H

#include "base/status.h"

#include <netinet/in.h>

enum {
    KVN_ADDRESS_HOST_MAX = 120,
    KVN_ADDRESS_TEXT_MAX = 64, /* "[IPv6%scope]:port" and its NUL */
};

struct kvn_address {
    char host[KVN_ADDRESS_HOST_MAX + 1]; /* without brackets */
    uint16_t port;
};

union kvn_sockaddr {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage storage;
};

/* KV_ERR_CONFIG and in `why` (cap >= 128) what is wrong, to follow the text itself. */
kv_status_t
kvn_address_parse(const char *text, struct kvn_address *address, char *why, size_t cap);
/* False: the host is a name. */
bool kvn_address_numeric(const struct kvn_address *address, union kvn_sockaddr *out);
/* A numeric loopback address, or the name localhost (RFC 6761, 6.3). */
bool kvn_address_is_loopback(const struct kvn_address *address);

/* 127.0.0.0/8, ::1, or the former inside IPv6. */
bool kvn_sockaddr_is_loopback(const union kvn_sockaddr *addr);
/* One party, as far as limits go: an IPv4 address, or the /64 that an IPv6 host has. */
bool kvn_sockaddr_same_party(const union kvn_sockaddr *a, const union kvn_sockaddr *b);
void kvn_sockaddr_set_port(union kvn_sockaddr *addr, uint16_t port);
socklen_t kvn_sockaddr_len(const union kvn_sockaddr *addr);
/* "127.0.0.1:7070", "[::1]:7070"; for logs. */
void kvn_sockaddr_format(const union kvn_sockaddr *addr, char *out, size_t cap);

#endif
