#define _GNU_SOURCE /* memfd_create */

#include "tests/transport/transport_kit.h"

#include "base/digest.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

/* ---- messages ------------------------------------------------------------------- */

static uint32_t encode(const struct kv_msg *msg, uint8_t *out, size_t cap)
{
    size_t len = 0;

    assert_int_equal(kv_encode(msg, out, cap, &len, NULL), KV_OK);
    return (uint32_t)len;
}

static void copy_name(const struct tk_copy *copy, struct kv_copy *name)
{
    *name = (struct kv_copy){.tenant = 1, .layout = 7};
    memcpy(name->key.b, copy, sizeof(*copy));
}

uint32_t tk_encode_read(
    uint64_t req, const struct tk_copy *copies, uint32_t nr_copies, uint8_t *out)
{
    struct kv_copy names[KV_MSG_READ_MAX];
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_READ, .req = req, .link = 5};

    for (uint32_t i = 0; i < nr_copies; i++) {
        copy_name(&copies[i], &names[i]);
    }
    msg.u.read.data_gen = 1;
    msg.u.read.copies = names;
    msg.u.read.nr_copies = nr_copies;
    return encode(&msg, out, KVT_REQUEST_BYTES_MAX);
}

uint32_t tk_encode_data(
    uint64_t req, uint32_t index, kv_status_t status, uint32_t len, uint64_t digest,
    uint8_t *out)
{
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_DATA, .req = req, .link = 5};

    msg.u.data = (struct kv_msg_data){
        .data_gen = 1,
        .index = index,
        .status = status,
        .len = len,
        .n_tokens = 16,
        .gen = 100 + index,
        .digest = digest,
    };
    return encode(&msg, out, KVT_HEAD_BYTES_MAX);
}

uint32_t tk_encode_hello(uint8_t *out)
{
    struct kv_msg msg = {.proto = 1, .type = KV_MSG_DATA_OPEN, .link = 5};

    msg.u.data_open.data_gen = 1;
    tk_fill(msg.u.data_open.proof.b, sizeof(msg.u.data_open.proof.b), 3);
    return encode(&msg, out, KVT_HELLO_BYTES_MAX);
}

/* ---- memory --------------------------------------------------------------------- */

void tk_fill(uint8_t *at, size_t len, uint64_t seed)
{
    struct kv_rng rng = kv_rng_seed(seed);

    for (; len >= 8; at += 8, len -= 8) {
        const uint64_t word = kv_rng_next(&rng);
        memcpy(at, &word, 8);
    }
    for (; len > 0; at++, len--) {
        *at = (uint8_t)kv_rng_next(&rng);
    }
}

bool tk_all(const uint8_t *at, size_t len, uint8_t value)
{
    return len == 0 || (at[0] == value && memcmp(at, at + 1, len - 1) == 0);
}

unsigned tk_cpu_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (unsigned)(ts.tv_sec * 1000 + ts.tv_nsec / 1000000);
}

/* ---- ports ---------------------------------------------------------------------- */

void tk_init(struct tk *tk, const struct tk_candidate *candidate)
{
    memset(tk, 0, sizeof(*tk));
    tk->candidate = candidate;
    tk->config = (struct kvt_config){
        .nr_ops = 2048,
        .nr_conns = 16,
        .nr_threads = 2,
        .hello_us = 60000000,
        .verify = true,
    };
    tk->owner.name = "owner";
    tk->reader.name = "reader";
    tk->owner.fd = tk->reader.fd = -1;
    tk->listener = -1;
    tk->accept_all = tk->serve = true;
    tk->next_send_id = 1;
}

kv_status_t tk_port(
    const struct tk_candidate *candidate, const struct kvt_config *config,
    struct tk_side *side, struct kv_detail *detail)
{
    const struct kvt_region region = {
        .base = side->memory, .bytes = side->bytes, .fd = side->fd};
    struct kvt_config mine = *config;
    kvt_port_t *port = NULL;

    mine.listen = side->listen;
    mine.regions = &region;
    mine.nr_regions = 1;
    kv_status_t status = candidate->ops->create(&mine, &port, detail);
    if (status != KV_OK || !candidate->hooked) {
        side->port = port;
        return status;
    }
    struct kvt_hook_config hook = candidate->faults;
    hook.nr_ops = config->nr_ops;
    hook.nr_conns = config->nr_conns;
    status = kvt_hook_create(port, &hook, candidate->seed, &side->port);
    if (status != KV_OK) {
        kvt_destroy(port);
    }
    return status;
}

static bool is_one_sided(const struct tk *tk)
{
    return (tk->candidate->ops->caps & KVT_CAP_ONE_SIDED) != 0;
}

/* All other programs that run this code at the time have another process id. */
void tk_path(char address[KVT_ADDRESS_MAX])
{
    static unsigned nr;
    const char *folder = getenv("TMPDIR");

    (void)snprintf(
        address, KVT_ADDRESS_MAX, "%s/kvrail-test-%d-%u",
        folder != NULL && strlen(folder) < 64 ? folder : "/tmp", (int)getpid(), nr++);
}

int tk_memfd(size_t bytes, int seals, uint8_t **memory_p)
{
    const int fd = memfd_create("kvrail-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    if (memory_p != NULL) {
        *memory_p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_true(*memory_p != MAP_FAILED);
    }
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

void tk_memory(struct tk *tk, struct tk_side *side, size_t bytes)
{
    side->bytes = bytes;
    if (side == &tk->owner && is_one_sided(tk)) {
        side->fd = tk_memfd(
            bytes, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL,
            &side->memory);
    } else {
        side->memory = malloc(bytes);
        assert_non_null(side->memory);
    }
}

static void memory_free(struct tk_side *side)
{
    if (side->fd >= 0) {
        munmap(side->memory, side->bytes);
        close(side->fd);
    } else {
        free(side->memory);
    }
}

enum tk_place_kind tk_place_kind(const struct tk *tk)
{
    if ((tk->candidate->ops->caps & KVT_CAP_REMOTE) != 0) {
        return TK_HOST;
    }
    return is_one_sided(tk) ? TK_PATH : TK_NAME;
}

void tk_place(struct tk *tk)
{
    if (tk_place_kind(tk) != TK_HOST) {
        tk_path(tk->address);
        tk->owner.listen = tk->address;
    } else {
        tk->listener = tk_listen(tk->address);
    }
}

void tk_forget(struct tk *tk)
{
    memory_free(&tk->reader);
    memory_free(&tk->owner);
    if (tk->listener >= 0) {
        close(tk->listener);
    }
    tk->listener = -1;
}

static void side_open(struct tk *tk, struct tk_side *side, size_t bytes)
{
    struct tk_candidate candidate = *tk->candidate;

    if (side == &tk->owner) {
        candidate.faults = (struct kvt_hook_config){0};
    }
    tk_memory(tk, side, bytes);
    assert_int_equal(tk_port(&candidate, &tk->config, side, NULL), KV_OK);
}

void tk_open(struct tk *tk, size_t bytes)
{
    tk_place(tk);
    side_open(tk, &tk->owner, bytes);
    side_open(tk, &tk->reader, bytes);
    tk_fill(tk->owner.memory, bytes, 42);
    memset(tk->reader.memory, 0, bytes);
}

void tk_close(struct tk *tk)
{
    kvt_destroy(tk->reader.port);
    kvt_destroy(tk->owner.port);
    kv_fault_after(0);
    assert_int_equal(kv_mem_live(), 0);
    tk_forget(tk);
    memset(tk, 0, sizeof(*tk));
    tk->listener = -1;
}

/* ---- the loop ------------------------------------------------------------------- */

static bool has(const kvt_conn_t *conns, unsigned nr, kvt_conn_t conn)
{
    for (unsigned i = 0; i < nr; i++) {
        if (conns[i] == conn) {
            return true;
        }
    }
    return false;
}

static void serve_copy(
    struct tk *tk, kvt_conn_t conn, uint64_t req, uint32_t index,
    const struct kv_copy *name)
{
    struct tk_copy copy;
    uint8_t head[KVT_HEAD_BYTES_MAX];

    memcpy(&copy, name->key.b, sizeof(copy));
    const bool ok = copy.status == KV_OK;
    const uint32_t len = ok ? copy.len : 0;
    uint8_t *from = tk->owner.memory + copy.offset;
    const uint64_t digest = kv_digest(from, len);
    if (tk->flip != 0 && len > 0) {
        from[tk->flip / 8 % len] ^= (uint8_t)(1u << tk->flip % 8);
    }
    const uint32_t head_len =
        tk_encode_data(req, index, copy.status, len, digest, head);
    const kv_status_t status = kvt_send(
        tk->owner.port, conn, tk->next_send_id, head, head_len, ok ? from : NULL, len);
    if (status == KV_OK) {
        tk->next_send_id++;
        tk->nr_served++;
    } else {
        assert_true(status == KV_ERR_LINK_LOST || status == KV_ERR_AGAIN);
    }
}

static void serve(struct tk *tk, const struct kvt_event *event)
{
    static uint8_t memory[1 << 16] __attribute__((aligned(16)));
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kv_msg msg;

    assert_int_equal(
        kv_decode(event->bytes, event->nr_bytes, &arena, &msg, NULL), KV_OK);
    assert_int_equal(msg.type, KV_MSG_READ);
    for (uint32_t i = 0; i < msg.u.read.nr_copies; i++) {
        serve_copy(tk, event->conn, msg.req, i, &msg.u.read.copies[i]);
    }
}

static void take(struct tk *tk, struct tk_side *side, const struct kvt_event *event)
{
    /* CLOSED is the last word of a connection. */
    assert_true(event->conn != 0);
    assert_false(has(side->closed, side->nr_closed, event->conn));
    switch (event->kind) {
    case KVT_EV_HELLO:
        assert_true(side->nr_hellos < TK_CONNS);
        side->hellos[side->nr_hellos++] = event->conn;
        side->hello_len = event->nr_bytes;
        side->offered = event->offered;
        memcpy(side->hello, event->bytes, event->nr_bytes);
        if (tk->accept_all) {
            kvt_accept(side->port, event->conn);
        }
        break;
    case KVT_EV_REQUEST:
        side->nr_requests++;
        if (tk->serve && side == &tk->owner) {
            serve(tk, event);
        }
        break;
    case KVT_EV_DONE:
        assert_true(event->id < TK_IDS);
        assert_false(side->was_done[event->id]); /* each id once */
        side->was_done[event->id] = true;
        side->done[event->id] = *event;
        side->nr_done++;
        break;
    case KVT_EV_BROKEN:
        assert_true(side->nr_broken < TK_CONNS);
        assert_false(has(side->broken, side->nr_broken, event->conn));
        side->broken[side->nr_broken++] = event->conn;
        side->why = event->status;
        break;
    case KVT_EV_CLOSED:
        assert_true(side->nr_closed < TK_CONNS);
        side->closed[side->nr_closed++] = event->conn;
        break;
    }
}

bool tk_take_one(struct tk *tk, struct tk_side *side)
{
    struct kvt_event event;
    const bool found = side->port != NULL && kvt_next(side->port, &event);

    if (found) {
        take(tk, side, &event);
    }
    return found;
}

void tk_drain(struct tk *tk, struct tk_side *side)
{
    while (tk_take_one(tk, side)) {}
}

bool tk_look(struct tk *tk, int patience_ms)
{
    struct pollfd fds[3] = {
        {.fd = tk->owner.port != NULL ? kvt_fd(tk->owner.port) : -1, .events = POLLIN},
        {.fd = tk->reader.port != NULL ? kvt_fd(tk->reader.port) : -1,
         .events = POLLIN},
        {.fd = tk->listener, .events = POLLIN},
    };
    const int n = poll(fds, 3, patience_ms);

    if (fds[2].revents != 0) {
        int fd = tk_accept(tk->listener);
        assert_true(fd >= 0);
        (void)kvt_adopt(
            tk->candidate->offered ? tk->reader.port : tk->owner.port, fd);
    }
    tk_drain(tk, &tk->owner);
    tk_drain(tk, &tk->reader);
    return n != 0;
}

void tk_step(struct tk *tk)
{
    if (!tk_look(tk, TK_PATIENCE_MS)) {
        fail_msg("nothing happens");
    }
}

kvt_conn_t tk_dial(struct tk *tk)
{
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    const uint32_t len = tk_encode_hello(hello);
    kvt_conn_t conn = 0;

    const kv_status_t status =
        tk->candidate->offered
            ? kvt_offer(tk->owner.port, tk->address, hello, len, &conn)
            : kvt_open(tk->reader.port, tk->address, hello, len, &conn);
    assert_int_equal(status, KV_OK);
    assert_true(conn != 0);
    return conn;
}

kvt_conn_t tk_connect(struct tk *tk, kvt_conn_t *owner_p)
{
    const bool offered = tk->candidate->offered;
    struct tk_side *called = offered ? &tk->reader : &tk->owner;
    const unsigned nr = called->nr_hellos;
    const kvt_conn_t conn = tk_dial(tk);

    TK_UNTIL(tk, called->nr_hellos > nr);
    if (owner_p != NULL) {
        *owner_p = offered ? conn : called->hellos[nr];
    }
    return offered ? called->hellos[nr] : conn;
}

kv_status_t tk_read(
    struct tk *tk, kvt_conn_t conn, uint64_t req, const struct tk_copy *copies,
    uint32_t nr_copies, uint64_t first_id, uint8_t *to, uint32_t room)
{
    uint8_t bytes[KVT_REQUEST_BYTES_MAX];
    struct kvt_part parts[KV_MSG_READ_MAX];
    const uint32_t len = tk_encode_read(req, copies, nr_copies, bytes);

    for (uint32_t i = 0; i < nr_copies; i++) {
        parts[i] = (struct kvt_part){
            .id = first_id + i, .to = to + (size_t)room * i, .room = room};
    }
    return kvt_read(tk->reader.port, conn, req, bytes, len, parts, nr_copies);
}

kv_status_t tk_get_one(
    struct tk *tk, kvt_conn_t conn, uint64_t id, uint32_t arena, uint64_t offset,
    uint8_t *to, uint32_t len)
{
    const struct kvt_part part = {
        .id = id, .to = to, .room = len, .arena = arena, .offset = offset};

    return kvt_get(tk->reader.port, conn, &part);
}

kv_status_t tk_fetch(
    struct tk *tk, kvt_conn_t conn, uint64_t req, const struct tk_copy *copies,
    uint32_t nr_copies, uint64_t first_id, uint8_t *to, uint32_t room)
{
    kv_status_t status = KV_OK;

    tk->nr_fetched = 0;
    if (!is_one_sided(tk)) {
        status = tk_read(tk, conn, req, copies, nr_copies, first_id, to, room);
        tk->nr_fetched = status == KV_OK ? nr_copies : 0;
        return status;
    }
    for (uint32_t i = 0; status == KV_OK && i < nr_copies; i++) {
        status = tk_get_one(
            tk, conn, first_id + i, 0, copies[i].offset, to + (size_t)room * i,
            copies[i].len);
        tk->nr_fetched += status == KV_OK;
    }
    return status;
}

/* ---- another process ------------------------------------------------------------- */

void tk_child_begin(
    struct tk_child *child, void (*run)(int from_test, int to_test, void *arg),
    void *arg)
{
    int down[2], up[2];

    assert_int_equal(pipe(down), 0);
    assert_int_equal(pipe(up), 0);
    child->pid = fork();
    assert_true(child->pid >= 0);
    if (child->pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(down[1]);
        close(up[0]);
        run(down[0], up[1], arg);
        _exit(0);
    }
    close(down[0]);
    close(up[1]);
    child->to = down[1];
    child->from = up[0];
}

void tk_child_put(struct tk_child *child, char word)
{
    assert_int_equal(write(child->to, &word, 1), 1);
}

char tk_child_get(struct tk_child *child)
{
    struct pollfd fd = {.fd = child->from, .events = POLLIN};
    char word = 0;

    assert_int_equal(poll(&fd, 1, TK_PATIENCE_MS), 1);
    assert_int_equal(read(child->from, &word, 1), 1);
    return word;
}

void tk_child_stop(struct tk_child *child)
{
    int status = 0;

    assert_int_equal(kill(child->pid, SIGSTOP), 0);
    assert_int_equal(waitpid(child->pid, &status, WUNTRACED), child->pid);
    assert_true(WIFSTOPPED(status));
}

void tk_child_end(struct tk_child *child)
{
    close(child->to);
    close(child->from);
    assert_int_equal(kill(child->pid, SIGKILL), 0);
    assert_int_equal(waitpid(child->pid, NULL, 0), child->pid);
}

char tk_child_wait(int from_test)
{
    char word = 0;

    if (read(from_test, &word, 1) != 1) {
        _exit(0);
    }
    return word;
}

/* ---- raw sockets ---------------------------------------------------------------- */

static void patient(int fd)
{
    const struct timeval limit = {.tv_sec = TK_PATIENCE_MS / 1000};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
}

int tk_listen(char address[KVT_ADDRESS_MAX])
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    (void)snprintf(address, KVT_ADDRESS_MAX, "127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
}

int tk_accept(int listener)
{
    return accept(listener, NULL, NULL);
}

static int socket_at(const char *path, struct sockaddr_un *at)
{
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_true(strlen(path) < sizeof(at->sun_path));
    *at = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(at->sun_path, path, strlen(path));
    return fd;
}

int tk_listen_at(const char *path)
{
    struct sockaddr_un at;
    const int fd = socket_at(path, &at);

    assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 64), 0);
    return fd;
}

static int dial_path(const char *path)
{
    struct sockaddr_un to;
    const int fd = socket_at(path, &to);

    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
    patient(fd);
    return fd;
}

int tk_dial_raw(const char *address)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    if (address[0] == '/') {
        return dial_path(address);
    }
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    to.sin_port = htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10));
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
    patient(fd);
    return fd;
}

void tk_put(int fd, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;

    while (len > 0) {
        const ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return;
        }
        assert_true(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

void tk_get(int fd, void *bytes, size_t len)
{
    uint8_t *at = bytes;

    patient(fd);
    while (len > 0) {
        const ssize_t n = recv(fd, at, len, 0);
        assert_true(n > 0);
        at += n;
        len -= (size_t)n;
    }
}

bool tk_ended(int fd)
{
    uint8_t byte;
    ssize_t n;

    patient(fd);
    n = recv(fd, &byte, 1, 0);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

void tk_put_frame(
    int fd, enum kvt_frame_kind kind, const uint8_t *head, uint32_t head_len,
    const uint8_t *body, uint32_t body_len)
{
    uint8_t header[KVT_FRAME_HEADER_BYTES];

    kvt_frame_write(header, kind, head, head_len, body_len);
    tk_put(fd, header, sizeof(header));
    tk_put(fd, head, head_len);
    if (body != NULL) {
        tk_put(fd, body, body_len);
    }
}

uint32_t tk_get_frame(int fd, enum kvt_frame_kind kind, uint8_t *head)
{
    uint8_t bytes[KVT_FRAME_HEADER_BYTES + KVT_REQUEST_BYTES_MAX];
    struct kvt_frame frame;
    uint32_t head_len;

    tk_get(fd, bytes, KVT_FRAME_HEADER_BYTES);
    memcpy(&head_len, bytes + 8, sizeof(head_len));
    assert_true(head_len <= KVT_REQUEST_BYTES_MAX);
    tk_get(fd, bytes + KVT_FRAME_HEADER_BYTES, head_len);
    assert_int_equal(
        kvt_frame_parse(
            bytes, KVT_FRAME_HEADER_BYTES + (size_t)head_len, kind, &frame, NULL),
        KV_OK);
    memcpy(head, frame.head, head_len);
    return head_len;
}

void tk_abort(int fd)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    close(fd);
}
