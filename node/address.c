#include "node/address.h"

#include "base/assert.h"
#include "base/option.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

kv_status_t
kvn_address_parse(const char *text, struct kvn_address *address, char *why, size_t cap)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL) {
        snprintf(why, cap, "has no port: host:port, or [IPv6]:port");
        return KV_ERR_CONFIG;
    }
    const char *host = text;
    size_t len = (size_t)(colon - text);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    } else if (text[0] == '[') {
        snprintf(why, cap, "has a bracket that is not closed before the port");
        return KV_ERR_CONFIG;
    } else if (memchr(host, ':', len) != NULL) {
        snprintf(why, cap, "has several colons: an IPv6 host goes in brackets");
        return KV_ERR_CONFIG;
    }
    if (len == 0 || len > KVN_ADDRESS_HOST_MAX) {
        snprintf(
            why, cap, "has a host of %zu characters, the limit is %s%d", len,
            len == 0 ? "at least " : "", len == 0 ? 1 : KVN_ADDRESS_HOST_MAX);
        return KV_ERR_CONFIG;
    }
    uint64_t port;
    if (kv_parse_uint(colon + 1, &port) != KV_OK || port > UINT16_MAX) {
        snprintf(why, cap, "has port '%.20s', the limit is %d", colon + 1, UINT16_MAX);
        return KV_ERR_CONFIG;
    }
    memcpy(address->host, host, len);
    address->host[len] = '\0';
    address->port = (uint16_t)port;
    return KV_OK;
}

bool kvn_address_numeric(const struct kvn_address *address, union kvn_sockaddr *out)
{
    char host[sizeof(address->host)];
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, address->host, &out->v4.sin_addr) == 1) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(address->port);
        return true;
    }
    snprintf(host, sizeof(host), "%s", address->host);
    char *scope = strchr(host, '%'); /* "fe80::1%eth0" */
    if (scope != NULL) {
        *scope++ = '\0';
        out->v6.sin6_scope_id = if_nametoindex(scope);
    }
    if ((scope == NULL || out->v6.sin6_scope_id != 0)
        && inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1) {
        out->v6.sin6_family = AF_INET6;
        out->v6.sin6_port = htons(address->port);
        return true;
    }
    return false;
}

bool kvn_address_is_loopback(const struct kvn_address *address)
{
    union kvn_sockaddr addr;
    if (kvn_address_numeric(address, &addr)) {
        return kvn_sockaddr_is_loopback(&addr);
    }
    return strcmp(address->host, "localhost") == 0;
}

/* The address as IPv6, an IPv4 one mapped. */
static struct in6_addr as_v6(const union kvn_sockaddr *addr)
{
    struct in6_addr out = IN6ADDR_ANY_INIT;
    if (addr->any.sa_family == AF_INET6) {
        return addr->v6.sin6_addr;
    }
    KV_ASSERT(addr->any.sa_family == AF_INET);
    out.s6_addr[10] = 0xff;
    out.s6_addr[11] = 0xff;
    memcpy(out.s6_addr + 12, &addr->v4.sin_addr, 4);
    return out;
}

bool kvn_sockaddr_is_loopback(const union kvn_sockaddr *addr)
{
    const struct in6_addr v6 = as_v6(addr);
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
        return v6.s6_addr[12] == 127;
    }
    return IN6_IS_ADDR_LOOPBACK(&v6);
}

bool kvn_sockaddr_same_party(const union kvn_sockaddr *a, const union kvn_sockaddr *b)
{
    const struct in6_addr x = as_v6(a), y = as_v6(b);
    const bool whole = IN6_IS_ADDR_V4MAPPED(&x) || IN6_IS_ADDR_V4MAPPED(&y);
    return memcmp(x.s6_addr, y.s6_addr, whole ? 16 : 8) == 0;
}

void kvn_sockaddr_set_port(union kvn_sockaddr *addr, uint16_t port)
{
    if (addr->any.sa_family == AF_INET) {
        addr->v4.sin_port = htons(port);
    } else {
        addr->v6.sin6_port = htons(port);
    }
}

socklen_t kvn_sockaddr_len(const union kvn_sockaddr *addr)
{
    return addr->any.sa_family == AF_INET ? sizeof(addr->v4) : sizeof(addr->v6);
}

void kvn_sockaddr_format(const union kvn_sockaddr *addr, char *out, size_t cap)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (addr->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &addr->v4.sin_addr, host, sizeof(host));
        snprintf(out, cap, "%s:%u", host, ntohs(addr->v4.sin_port));
    } else {
        inet_ntop(AF_INET6, &addr->v6.sin6_addr, host, sizeof(host));
        snprintf(out, cap, "[%s]:%u", host, ntohs(addr->v6.sin6_port));
    }
}
