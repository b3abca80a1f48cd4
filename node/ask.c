#define _GNU_SOURCE
#include "node/ask.h"

#include "base/fault.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* One question under way. */
struct asking {
    const struct kvn_ask *ask;
    uint64_t until_us;
    int sock;
    char *line;
    size_t cap;
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static kv_status_t
fail(const struct asking *asking, kv_status_t status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static kv_status_t
fail(const struct asking *asking, kv_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(asking->line, asking->cap, format, args);
    va_end(args);
    return status;
}

/* ---- packets --------------------------------------------------------------------- */

static kv_status_t ready(const struct asking *asking, short events)
{
    const uint64_t now = now_us();
    struct pollfd poller = {.fd = asking->sock, .events = events};
    if (now < asking->until_us) {
        const uint64_t ms = (asking->until_us - now + 999) / 1000;
        const int got = poll(&poller, 1, ms < 3600000 ? (int)ms : 3600000);
        if (got > 0 || (got < 0 && errno == EINTR)) {
            return KV_OK;
        }
    }
    return fail(
        asking, KV_ERR_DEADLINE, "%s: the node does not answer in time: is it stuck?",
        asking->ask->socket);
}

static kv_status_t open_socket(struct asking *asking)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = asking->ask->socket;
    if (strlen(path) >= sizeof(address.sun_path)) {
        return fail(
            asking, KV_ERR_CONFIG,
            "%.120s…: a socket's path has at most %zu characters", path,
            sizeof(address.sun_path) - 1);
    }
    memcpy(address.sun_path, path, strlen(path));
    asking->sock =
        KV_FAULT() ? -1
                   : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (asking->sock < 0) {
        return fail(asking, KV_ERR_IO, "socket: %s", strerror(errno));
    }
    while (connect(asking->sock, (struct sockaddr *)&address, sizeof(address)) != 0) {
        const int why = errno;
        if (why == EAGAIN && now_us() < asking->until_us) {
            (void)poll(
                NULL, 0, 1); /* its backlog is full: there is no event for that */
            continue;
        }
        if (why == EACCES || why == EPERM) {
            return fail(
                asking, KV_ERR_DENIED,
                "%s: %s: it belongs to the node's user: be that user, or root", path,
                strerror(why));
        }
        return fail(
            asking, why == EAGAIN ? KV_ERR_DEADLINE : KV_ERR_LINK_LOST,
            "%s: %s: is a node running with listen.unix = this path?", path,
            strerror(why));
    }
    return KV_OK;
}

/* Takes the one descriptor of a packet; closes surplus ones. */
static int take_fd(struct msghdr *msg)
{
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int one;
            memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
            if (fd >= 0) {
                close(fd);
            }
            fd = one;
        }
    }
    return fd;
}

/* The next packet, of this type or REFUSED. *fd_p: -1, or the caller's. */
static kv_status_t receive(
    struct asking *asking, enum kvn_packet_type type, struct kvn_packet *packet,
    int *fd_p)
{
    uint8_t bytes[sizeof(struct kvn_packet) + 1];
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct kv_detail detail = {0};
    ssize_t len;
    *fd_p = -1;
    do {
        kv_status_t status = ready(asking, POLLIN);
        if (status != KV_OK) {
            return status;
        }
        struct msghdr msg = {
            .msg_iov = &iov,
            .msg_iovlen = 1,
            .msg_control = room,
            .msg_controllen = sizeof(room),
        };
        len = recvmsg(asking->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (len > 0) {
            *fd_p = take_fd(&msg);
        }
    } while (len < 0 && (errno == EAGAIN || errno == EINTR));
    if (len <= 0) {
        return fail(
            asking, KV_ERR_LINK_LOST,
            "%s: the node hung up without an answer: is it older than this program, "
            "or has it no room for one more that asks?",
            asking->ask->socket);
    }
    kv_status_t status = kvn_packet_read(bytes, (size_t)len, packet, NULL, &detail);
    if (status == KV_OK && packet->type != type && packet->type != KVN_PACKET_REFUSED) {
        status =
            kv_fail(&detail, KV_ERR_INVALID, "packet.unexpected", type, packet->type);
    }
    if (status != KV_OK) {
        kv_detail_format(&detail, status, asking->line, asking->cap);
        if (*fd_p >= 0) {
            close(*fd_p);
            *fd_p = -1;
        }
    }
    return status;
}

/* What REFUSED says, as one line. */
static kv_status_t refused(const struct asking *asking, const struct kvn_packet *packet)
{
    struct kv_detail detail;
    const kv_status_t status = kvn_packet_refused(packet, &detail);
    kv_detail_format(&detail, status, asking->line, asking->cap);
    return status;
}

/* ---- the report ------------------------------------------------------------------ */

static kv_status_t
parse(const struct asking *asking, int fd, uint64_t bytes, json_t **report_p)
{
    struct stat st;
    if (bytes == 0 || bytes > KVN_REPORT_BYTES_MAX || fstat(fd, &st) != 0
        || (uint64_t)st.st_size != bytes) {
        return fail(
            asking, KV_ERR_INVALID, "the node's report is not of the length it says");
    }
    char *text = kv_calloc(1, bytes);
    if (text == NULL) {
        return fail(asking, KV_ERR_NOMEM, "out of memory");
    }
    json_error_t error;
    json_t *report = NULL;
    if (pread(fd, text, bytes, 0) == (ssize_t)bytes) {
        report = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    }
    kv_free(text);
    if (!json_is_object(report)) {
        json_decref(report);
        return fail(asking, KV_ERR_INVALID, "the node's report is no JSON object");
    }
    *report_p = report;
    return KV_OK;
}

static kv_status_t ask_once(struct asking *asking, json_t **report_p)
{
    struct {
        struct kvn_packet packet;
        struct kvn_packet_ask record;
    } question = {.record = asking->ask->record};
    struct kvn_packet greeting, reply;
    int fd;
    kv_status_t status = open_socket(asking);
    if (status == KV_OK) {
        status = receive(asking, KVN_PACKET_GREETING, &greeting, &fd);
    }
    if (status != KV_OK) {
        return status;
    }
    if (fd >= 0) {
        close(fd);
    }
    kvn_packet_init(&question.packet, KVN_PACKET_ASK);
    question.packet.nonce = greeting.nonce;
    question.packet.tenant = asking->ask->tenant;
    if (greeting.type != KVN_PACKET_GREETING
        || !kvn_packet_send(asking->sock, &question, sizeof(question), -1)) {
        return fail(
            asking, KV_ERR_LINK_LOST, "%s: the node hung up", asking->ask->socket);
    }
    status = receive(asking, KVN_PACKET_REPORT, &reply, &fd);
    if (status != KV_OK) {
        return status;
    }
    if (reply.type == KVN_PACKET_REFUSED) {
        status = refused(asking, &reply);
    } else if (fd < 0) {
        status = fail(asking, KV_ERR_IO, "the report's descriptor did not come");
    } else {
        status = parse(asking, fd, reply.bytes, report_p);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

kv_status_t
kvn_ask(const struct kvn_ask *ask, json_t **report_p, char *line, size_t cap)
{
    const uint64_t timeout_us =
        ask->timeout_us != 0 ? ask->timeout_us : KVN_ASK_TIMEOUT_US;
    struct asking asking = {
        .ask = ask,
        .until_us = now_us() + timeout_us,
        .line = line,
        .cap = cap,
    };
    kv_status_t status;
    line[0] = '\0';
    for (;;) {
        asking.sock = -1;
        status = ask_once(&asking, report_p);
        if (asking.sock >= 0) {
            close(asking.sock);
        }
        if (status != KV_ERR_AGAIN
            || now_us() + KVN_ASK_PAUSE_MS * 1000 >= asking.until_us) {
            return status;
        }
        (void)poll(NULL, 0, KVN_ASK_PAUSE_MS);
    }
}

kv_status_t kvn_ask_list(
    const struct kvn_ask *ask, const char *list, json_t **report_p, char *line,
    size_t cap)
{
    const uint64_t timeout_us =
        ask->timeout_us != 0 ? ask->timeout_us : KVN_ASK_TIMEOUT_US;
    const uint64_t until_us = now_us() + timeout_us;
    struct kvn_ask next = *ask;
    json_t *whole = NULL;
    for (uint64_t now; (now = now_us()) < until_us;) {
        json_t *part = NULL;
        next.timeout_us = until_us - now;
        kv_status_t status = kvn_ask(&next, &part, line, cap);
        if (status != KV_OK) {
            json_decref(whole);
            return status;
        }
        json_t *items = json_object_get(part, list);
        const json_int_t of = json_integer_value(json_object_get(part, "of"));
        const size_t nr = json_array_size(items);
        if (whole == NULL) {
            whole = part;
        } else {
            json_array_extend(json_object_get(whole, list), items);
            json_decref(part);
        }
        if (nr > KVN_ASK_LIST_MAX - next.record.first) {
            json_decref(whole);
            (void)snprintf(
                line, cap, "the node lists more than %d %s", KVN_ASK_LIST_MAX, list);
            return KV_ERR_TOO_LARGE;
        }
        next.record.first += (uint32_t)nr;
        if (nr == 0 || next.record.first >= of) {
            json_object_del(whole, "first");
            *report_p = whole;
            return KV_OK;
        }
    }
    json_decref(whole);
    (void)snprintf(line, cap, "%s: the list did not end in time", ask->socket);
    return KV_ERR_DEADLINE;
}
