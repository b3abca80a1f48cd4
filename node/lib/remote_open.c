/* How a remote client comes: credentials, TLS, ATTACH, data connections. */
#define _GNU_SOURCE
#include "node/lib/remote_priv.h"

#include "base/codec.h"
#include "transport/tcp/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* "host:port?cluster=NAME&psk=FILE", or ca=, cert= and key=; node=ID, verify=on|off
 * too. */
struct target {
    char text[1024];
    char *address, *cluster, *psk, *ca, *cert, *key, *node, *verify;
    uint32_t node_id;
};

static bool node_parse(const char *text, uint32_t *node_p)
{
    uint64_t id = 0;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c < '0' || *c > '9' || id > UINT32_MAX) {
            return false;
        }
        id = 10 * id + (uint64_t)(*c - '0');
    }
    *node_p = (uint32_t)id;
    return id != KVN_TLS_NO_NODE && id <= UINT32_MAX;
}

static kvr_status_t
target_parse(kvr_client_t *client, const char *text, struct target *t)
{
    const struct {
        const char *name;
        char **value;
    } words[] = {{"cluster", &t->cluster}, {"psk", &t->psk}, {"ca", &t->ca},
                 {"cert", &t->cert},       {"key", &t->key}, {"node", &t->node},
                 {"verify", &t->verify}};
    if (strlen(text) >= sizeof(t->text)) {
        return kvr_fail_text(
            client, KV_ERR_CONFIG, "config: config.target is too long");
    }
    (void)snprintf(t->text, sizeof(t->text), "%s", text);
    char *rest = t->text, *word;
    t->address = strsep(&rest, "?");
    while (rest != NULL && (word = strsep(&rest, "&")) != NULL) {
        char *value = strchr(word, '=');
        unsigned i = 0;
        while (value != NULL && i < KV_COUNT_OF(words)
               && (strlen(words[i].name) != (size_t)(value - word)
                   || memcmp(words[i].name, word, (size_t)(value - word)) != 0)) {
            i++;
        }
        if (value == NULL || i == KV_COUNT_OF(words)) {
            return kvr_fail_text(
                client, KV_ERR_CONFIG,
                "config: config.target has \"%.60s\", which is none of cluster=, psk=, "
                "ca=, cert=, key=, node=, verify=",
                word);
        }
        *words[i].value = value + 1;
    }
    struct kvt_address address;
    if (kvt_address_parse(t->address, &address) == KV_ERR_INVALID) {
        return kvr_fail_text(
            client, KV_ERR_CONFIG,
            "config: config.target has the address \"%.100s\", not \"host:port\"",
            t->address);
    }
    if (t->node != NULL && !node_parse(t->node, &t->node_id)) {
        return kvr_fail_text(
            client, KV_ERR_CONFIG, "config: config.target has the node \"%.60s\"",
            t->node);
    }
    if (t->verify != NULL && strcmp(t->verify, "on") != 0
        && strcmp(t->verify, "off") != 0) {
        return kvr_fail_text(
            client, KV_ERR_CONFIG,
            "config: config.target has verify=%.60s, which is neither on nor off",
            t->verify);
    }
    return KVR_OK;
}

static kvr_status_t
credentials_load(kvr_client_t *client, const struct target *t, uint32_t tenant)
{
    char line[512];
    const struct kvn_tls_config config = {
        .cluster = t->cluster,
        .client = true,
        .tenant = tenant,
        .psk = t->psk,
        .ca = t->ca,
        .cert = t->cert,
        .key = t->key,
    };
    const kv_status_t status =
        kvn_tls_load(&config, &client->remote->tls, line, sizeof(line));
    return status == KV_OK
               ? KVR_OK
               : kvr_fail_text(
                   client, status, "%s: %.300s", kv_status_name(status), line);
}

static int ms_left(uint64_t until_us)
{
    const uint64_t now = kvr_now_us();
    return now >= until_us ? 0 : (int)((until_us - now) / 1000 + 1);
}

/* Names are asked for on a thread of their own, so that a name server that keeps silent
 * does not hold the caller past `until_us`; that thread ends by itself then. */
static kvr_status_t address_resolve(
    kvr_client_t *client, const char *text, uint64_t until_us,
    struct kvt_resolved *resolved)
{
    struct kvt_resolver *resolver = NULL;
    struct kvt_bell told = {.fd = -1};
    *resolved = (struct kvt_resolved){.nr_addresses = 1};
    kv_status_t status = kvt_address_parse(text, &resolved->addresses[0]);
    if (status == KV_OK) {
        return KVR_OK;
    }
    KV_ASSERT(status == KV_INPROGRESS); /* target_parse() has looked */
    status = kvt_bell_init(&told);
    if (status == KV_OK) {
        status = kvt_resolver_create(1, &told, &resolver);
    }
    if (status == KV_OK) {
        status = kvt_resolver_post(resolver, 0, text);
    }
    struct pollfd rung = {.fd = told.fd, .events = POLLIN};
    while (status == KV_OK && !kvt_resolver_next(resolver, resolved)) {
        const int left = ms_left(until_us);
        status = left == 0 ? KV_ERR_DEADLINE : KV_OK;
        (void)poll(&rung, 1, left);
    }
    kvt_resolver_destroy(resolver);
    kvt_bell_fini(&told); /* it is not rung any more */
    if (status == KV_ERR_DEADLINE) {
        return kvr_fail_text(
            client, KV_ERR_DEADLINE, "deadline: no name server answers about %s", text);
    }
    if (status == KV_OK && resolved->nr_addresses == 0) {
        return kvr_fail_text(
            client, KV_ERR_LINK_LOST, "link_lost: %s: there is no such host", text);
    }
    return status == KV_OK ? KVR_OK : kvr_fail(client, status, NULL);
}

/* One address; -1: errno says why. */
static int connect_at(const struct kvt_address *at, uint64_t until_us)
{
    const int on = 1;
    int error = 0;
    socklen_t len = sizeof(error);
    const int fd =
        KV_FAULT()
            ? (errno = EMFILE, -1)
            : socket(at->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    kvn_remote_keep_alive(fd);
    if (connect(fd, (const struct sockaddr *)&at->at, at->len) == 0) {
        return fd;
    }
    error = errno;
    if (error == EINPROGRESS) {
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        error = poll(&writable, 1, ms_left(until_us)) == 1 ? 0 : ETIMEDOUT;
        if (error == 0) {
            (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
        }
    }
    if (error == 0) {
        return fd;
    }
    close(fd);
    errno = error;
    return -1;
}

/* Also where data connections go: of a name that has several addresses, to this one. */
static kvr_status_t connect_to(
    kvr_client_t *client, const char *text, uint64_t until_us,
    struct kvt_address *address_p)
{
    struct kvt_resolved found;
    kvr_status_t status = address_resolve(client, text, until_us, &found);
    errno = 0;
    for (uint32_t i = 0;
         status == KVR_OK && i < found.nr_addresses && client->remote->fd < 0; i++) {
        *address_p = found.addresses[i];
        client->remote->fd = connect_at(address_p, until_us);
    }
    if (status == KVR_OK && client->remote->fd < 0) {
        const int error = errno;
        status = kvr_fail_text(
            client, error == ETIMEDOUT ? KV_ERR_DEADLINE : KV_ERR_LINK_LOST,
            "%s: %s: %s", error == ETIMEDOUT ? "deadline" : "link_lost", text,
            strerror(error));
    }
    return status;
}

static kvr_status_t refused_tls(kvr_client_t *client)
{
    const char *why = kvn_tls_reason(client->remote->session);
    return kvr_fail_text(
        client, KV_ERR_DENIED, "denied: %.250s", why[0] != '\0' ? why : "it hung up");
}

/* Waits for the next frame, or until the session is ready (frame_p NULL). */
static kvr_status_t wait_for(
    kvr_client_t *client, uint64_t until_us, const uint8_t **frame_p, uint32_t *len_p)
{
    struct kvr_remote *remote = client->remote;
    const uint8_t *at = NULL;
    size_t len = 0;
    for (;;) {
        if (frame_p == NULL && kvn_tls_ready(remote->session)) {
            return KVR_OK;
        }
        const uint8_t *frame;
        uint32_t frame_len;
        remote->readable = true; /* or not: it is asked */
        const kv_status_t status =
            kvr_remote_hear(remote, &at, &len, &frame, &frame_len);
        if (status == KV_OK && frame_p != NULL) {
            *frame_p = frame;
            *len_p = frame_len;
            return KVR_OK;
        }
        if (status != KV_ERR_AGAIN) {
            return refused_tls(client);
        }
        if (frame_p == NULL && kvn_tls_ready(remote->session)) {
            return KVR_OK;
        }
        struct pollfd fd = {
            .fd = remote->fd, .events = POLLIN | (remote->out.len > 0 ? POLLOUT : 0)};
        const int left = ms_left(until_us);
        if (left == 0) {
            return kvr_fail_text(
                client, KV_ERR_DEADLINE,
                "deadline: the node did not answer within %llu us",
                (unsigned long long)client->timeout_us);
        }
        (void)poll(&fd, 1, left);
        if (!kvr_remote_flush(remote)) {
            return refused_tls(client);
        }
    }
}

static kvr_status_t attach(kvr_client_t *client, uint32_t tenant, uint64_t until_us)
{
    struct kvr_remote *remote = client->remote;
    struct kvn_packet packet;
    struct kv_detail detail = {0};
    const uint8_t *frame;
    uint32_t len;
    kvn_packet_init(&packet, KVN_PACKET_ATTACH);
    packet.tenant = tenant;
    if (!kvr_remote_say(remote, &packet, sizeof(packet))) {
        return refused_tls(client);
    }
    kvr_status_t status = wait_for(client, until_us, &frame, &len);
    if (status != KVR_OK) {
        return status;
    }
    status = kvn_packet_read(frame, len, &packet, client->spaces, &detail);
    if (status != KV_OK) {
        return kvr_fail(client, status, &detail);
    }
    if (packet.type == KVN_PACKET_REFUSED) {
        return kvr_refused(client, &packet);
    }
    if (packet.type != KVN_PACKET_ATTACHED) {
        return kvr_fail_text(client, KV_ERR_VERSION, "version: no answer to ATTACH");
    }
    if (packet.nr_arenas != 0) { /* nobody maps a node's memory from afar */
        return kvr_fail_text(client, KV_ERR_VERSION, "version: arenas came from afar");
    }
    client->nr_spaces = packet.nr_spaces;
    return KVR_OK;
}

/* As the transport takes it; `text` has KVT_ADDRESS_MAX. */
static bool address_format(const struct kvt_address *address, char *text)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const void *)&address->at;
    const struct sockaddr_in6 *v6 = (const void *)&address->at;
    const bool six = address->at.ss_family == AF_INET6;
    const void *from = six ? (const void *)&v6->sin6_addr : &v4->sin_addr;
    if (inet_ntop(address->at.ss_family, from, host, sizeof(host)) == NULL) {
        return false;
    }
    (void)snprintf(
        text, KVT_ADDRESS_MAX, six ? "[%s]:%u" : "%s:%u", host,
        ntohs(six ? v6->sin6_port : v4->sin_port));
    return true;
}

static kv_status_t
data_open(kvr_client_t *client, const char *address, uint32_t gen, kvt_conn_t *conn_p)
{
    struct kvr_remote *remote = client->remote;
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    struct kv_detail detail;
    size_t len;
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA_OPEN,
        .link = kvn_remote_id(remote->secret),
        .u.data_open.data_gen = gen,
    };
    kv_status_t status = kvn_remote_proof(remote->secret, gen, &msg.u.data_open.proof);
    if (status == KV_OK) {
        status = kv_encode(&msg, hello, sizeof(hello), &len, &detail);
    }
    if (status != KV_OK) {
        return status;
    }
    return (gen == KVN_REMOTE_READS ? kvt_open : kvt_offer)(
        remote->port, address, hello, (uint32_t)len, conn_p);
}

static kvr_status_t port_open(kvr_client_t *client, const struct kvt_address *at)
{
    char address[KVT_ADDRESS_MAX];
    struct kvr_remote *remote = client->remote;
    /* All of this process: what a batch names was checked against its buffers. */
    const struct kvt_region all = {.base = NULL, .bytes = UINT64_MAX, .fd = -1};
    const struct kvt_config config = {
        .regions = &all,
        .nr_regions = 1,
        .nr_ops = 2 * KVR_REMOTE_PARTS,
        .nr_conns = 2,
        .nr_threads = 1,
        .hello_us = 1000000,
        .verify = remote->verify,
    };
    struct kv_detail detail = {0};
    kv_status_t status =
        address_format(at, address)
            ? kvt_tcp.create(&config, &remote->port, &detail)
            : kv_fail(&detail, KV_ERR_CONFIG, "config.target", AF_INET6, 0);
    if (status == KV_OK) {
        status = data_open(client, address, KVN_REMOTE_READS, &remote->reads);
    }
    if (status == KV_OK) {
        status = data_open(client, address, KVN_REMOTE_OFFERS, &remote->offers);
    }
    struct epoll_event pages = {.events = EPOLLIN, .data.u32 = KVR_REMOTE_PAGES};
    struct epoll_event answers = {.events = EPOLLIN, .data.u32 = KVR_REMOTE_ANSWERS};
    if (status == KV_OK
        && (KV_FAULT()
            || epoll_ctl(remote->epoll_fd, EPOLL_CTL_ADD, kvt_fd(remote->port), &pages)
                   != 0
            || epoll_ctl(remote->epoll_fd, EPOLL_CTL_ADD, remote->fd, &answers) != 0)) {
        status = KV_ERR_IO;
    }
    return status == KV_OK ? KVR_OK : kvr_fail(client, status, &detail);
}

kvr_status_t kvr_remote_open(
    kvr_client_t *client, const struct kvr_config *config, const char *text)
{
    struct target target = {.node_id = KVN_TLS_NO_NODE};
    struct kvt_address address = {.len = 0};
    const uint64_t until = kvr_now_us() + client->timeout_us;
    if (client->level != KVR_LEVEL_OBJECT) {
        return kvr_fail_text(
            client, KV_ERR_INVALID,
            "invalid: the pager level is for engines on the node's host: they map its "
            "memory");
    }
    struct kvr_remote *remote = kv_calloc(1, sizeof(*remote));
    if (remote == NULL) {
        return kvr_fail(client, KV_ERR_NOMEM, NULL);
    }
    client->remote = remote;
    remote->fd = remote->epoll_fd = -1;
    kvn_frames_init(
        &remote->frames, remote->frame_buffer, sizeof(remote->frame_buffer));
    kvr_status_t status = target_parse(client, text, &target);
    remote->verify = target.verify == NULL || strcmp(target.verify, "off") != 0;
    if (status == KVR_OK) {
        status = credentials_load(client, &target, config->tenant);
    }
    if (status == KVR_OK) {
        remote->epoll_fd = KV_FAULT() ? -1 : epoll_create1(EPOLL_CLOEXEC);
        status = remote->epoll_fd < 0 ? kvr_fail(client, KV_ERR_IO, NULL) : KVR_OK;
    }
    if (status == KVR_OK) {
        status = connect_to(client, target.address, until, &address);
    }
    if (status == KVR_OK
        && (kvn_tls_open(remote->tls, true, target.node_id, &remote->session) != KV_OK
            || !kvr_remote_out_pull(remote))) {
        status = kvr_fail(client, KV_ERR_NOMEM, NULL);
    }
    if (status == KVR_OK) {
        status = kvr_remote_flush(remote) ? wait_for(client, until, NULL, NULL)
                                          : refused_tls(client);
    }
    if (status == KVR_OK
        && kvn_tls_export(
               remote->session, KVN_REMOTE_LABEL, remote->secret,
               sizeof(remote->secret))
               != KV_OK) {
        status = kvr_fail(client, KV_ERR_NOMEM, NULL);
    }
    if (status == KVR_OK) {
        status = attach(client, config->tenant, until);
    }
    return status == KVR_OK ? port_open(client, &address) : status;
}
