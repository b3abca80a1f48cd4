#include "transport/hook.h"

#include "base/assert.h"
#include "base/digest.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NONE UINT32_MAX

/*  FREE ──read, send──► POSTED ──DONE──► handed up, FREE
 *                          ├──delay──► HELD ──due, or closed──► handed up, FREE
 *                          └──lose───► LOST ──closed──► handed up as LINK_LOST, FREE
 */
enum op_state { OP_FREE, OP_POSTED, OP_HELD, OP_LOST };

struct hook_op {
    enum op_state state;
    uint64_t id;  /* the caller's; the inner port knows it by its index */
    uint8_t *to;  /* NULL: a send */
    uint64_t due; /* HELD: call of kvt_next() */
    struct kvt_event event;
    uint32_t next; /* free list, or those kept back */
};

struct hook_conn {
    kvt_conn_t conn; /* 0: free */
    bool broken;     /* by us: the inner one is being closed */
    bool tell_broken;
    bool closing; /* the caller has closed it */
    bool closed;  /* the inner one has */
};

struct hook {
    struct kvt_port port;
    struct kvt_ops ops; /* the inner table's name and capabilities, our calls */
    kvt_port_t *inner;
    struct kvt_hook_config config;
    struct kvt_hook_counts counts;
    struct kv_rng rng;
    struct hook_op *table;
    struct hook_conn *conns;
    uint32_t free_op;
    uint32_t kept; /* HELD and LOST, newest first */
    uint64_t nr_calls;
    int epoll_fd; /* the inner fd, and ours */
    int event_fd;
    bool armed; /* event_fd is readable */
};

static struct hook *hook_of(kvt_port_t *port)
{
    return (struct hook *)port;
}

__attribute__((format(printf, 2, 3))) static void
trace(struct hook *hook, const char *format, ...)
{
    char line[128];
    va_list args;

    if (hook->config.trace == NULL) {
        return;
    }
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    hook->config.trace(hook->config.arg, line);
}

/* ---- slots ---------------------------------------------------------------------- */

static struct hook_conn *conn_find(struct hook *hook, kvt_conn_t conn)
{
    for (uint32_t i = 0; i < hook->config.nr_conns; i++) {
        if (hook->conns[i].conn == conn) {
            return &hook->conns[i];
        }
    }
    return NULL;
}

static uint32_t op_take(struct hook *hook, uint64_t id, uint8_t *to)
{
    const uint32_t index = hook->free_op;

    if (index != NONE) {
        hook->free_op = hook->table[index].next;
        hook->table[index] = (struct hook_op){.state = OP_POSTED, .id = id, .to = to};
    }
    return index;
}

static void op_give(struct hook *hook, uint32_t index)
{
    hook->table[index].state = OP_FREE;
    hook->table[index].next = hook->free_op;
    hook->free_op = index;
}

static void op_keep(struct hook *hook, uint32_t index, enum op_state state)
{
    hook->table[index].state = state;
    hook->table[index].next = hook->kept;
    hook->kept = index;
}

static bool has_more(struct hook *hook)
{
    for (uint32_t i = hook->kept; i != NONE; i = hook->table[i].next) {
        if (hook->table[i].state == OP_HELD) {
            return true;
        }
    }
    for (uint32_t i = 0; i < hook->config.nr_conns; i++) {
        const struct hook_conn *slot = &hook->conns[i];
        if (slot->conn != 0 && (slot->tell_broken || (slot->closing && slot->closed))) {
            return true;
        }
    }
    return false;
}

/* Readable as long as something is kept back that further calls will bring out. */
static void arm(struct hook *hook)
{
    const bool more = has_more(hook);

    if (more && !hook->armed) {
        (void)!write(hook->event_fd, &(uint64_t){1}, sizeof(uint64_t));
    } else if (!more && hook->armed) {
        (void)!read(hook->event_fd, &(uint64_t){0}, sizeof(uint64_t));
    }
    hook->armed = more;
}

/* ---- connections ---------------------------------------------------------------- */

static void conn_break(struct hook *hook, struct hook_conn *slot)
{
    slot->broken = slot->tell_broken = true;
    kvt_close(hook->inner, slot->conn);
    arm(hook);
}

static kv_status_t conn_open(
    struct hook *hook, const char *address, const uint8_t *hello, uint32_t len,
    bool offered, kvt_conn_t *conn_p)
{
    struct hook_conn *slot = conn_find(hook, 0);
    kvt_conn_t conn = 0;

    if (slot == NULL) {
        return KV_ERR_AGAIN;
    }
    kv_status_t status = (offered ? kvt_offer : kvt_open)(
        hook->inner, address, hello, len, &conn);
    trace(
        hook, "%s %s: %s", offered ? "offer" : "open", address, kv_status_name(status));
    if (status != KV_OK) {
        return status;
    }
    *slot = (struct hook_conn){.conn = conn};
    if (kv_rng_one_in(&hook->rng, hook->config.fail_one_in)) {
        hook->counts.failed++;
        conn_break(hook, slot);
    }
    *conn_p = conn;
    return KV_OK;
}

static kv_status_t hook_open(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return conn_open(hook_of(port), address, hello, len, false, conn_p);
}

static kv_status_t hook_offer(
    kvt_port_t *port, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return conn_open(hook_of(port), address, hello, len, true, conn_p);
}

static kv_status_t hook_adopt(kvt_port_t *port, int fd)
{
    struct hook *hook = hook_of(port);
    kv_status_t status = kvt_adopt(hook->inner, fd);

    trace(hook, "adopt: %s", kv_status_name(status));
    return status;
}

static void hook_accept(kvt_port_t *port, kvt_conn_t conn)
{
    trace(hook_of(port), "accept %" PRIx64, conn);
    kvt_accept(hook_of(port)->inner, conn);
}

static void hook_close(kvt_port_t *port, kvt_conn_t conn)
{
    struct hook *hook = hook_of(port);
    struct hook_conn *slot = conn == 0 ? NULL : conn_find(hook, conn);

    trace(hook, "close %" PRIx64, conn);
    if (slot != NULL) {
        slot->closing = true;
        slot->tell_broken = false;
        kvt_close(hook->inner, conn);
        arm(hook); /* the inner one may have closed before */
    }
}

/* LINK_LOST when it is broken, or breaks now. */
static kv_status_t conn_usable(struct hook *hook, kvt_conn_t conn)
{
    struct hook_conn *slot = conn == 0 ? NULL : conn_find(hook, conn);

    if (slot == NULL || slot->broken || slot->closing) {
        return KV_ERR_LINK_LOST;
    }
    if (kv_rng_one_in(&hook->rng, hook->config.break_one_in)) {
        hook->counts.broken++;
        conn_break(hook, slot);
        return KV_ERR_LINK_LOST;
    }
    return KV_OK;
}

/* ---- operations ----------------------------------------------------------------- */

static kv_status_t hook_read(
    kvt_port_t *port, kvt_conn_t conn, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts)
{
    struct hook *hook = hook_of(port);
    struct kvt_part mine[KV_MSG_READ_MAX];
    kv_status_t status = conn_usable(hook, conn);
    uint32_t nr = 0;

    if (status == KV_OK && nr_parts > KV_MSG_READ_MAX) {
        status = KV_ERR_INVALID;
    }
    for (; status == KV_OK && nr < nr_parts; nr++) {
        const uint32_t index = op_take(hook, parts[nr].id, parts[nr].to);
        if (index == NONE) {
            status = KV_ERR_AGAIN;
            break;
        }
        mine[nr] = parts[nr];
        mine[nr].id = index;
    }
    if (status == KV_OK) {
        status = kvt_read(hook->inner, conn, req, request, len, mine, nr_parts);
    }
    for (; status != KV_OK && nr > 0; nr--) {
        op_give(hook, (uint32_t)mine[nr - 1].id);
    }
    trace(
        hook, "read %" PRIx64 " req %" PRIu64 " parts %u: %s", conn, req, nr_parts,
        kv_status_name(status));
    return status;
}

static kv_status_t hook_send(
    kvt_port_t *port, kvt_conn_t conn, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    struct hook *hook = hook_of(port);
    kv_status_t status = conn_usable(hook, conn);
    uint32_t index = NONE;

    if (status == KV_OK) {
        index = op_take(hook, id, NULL);
        status = index == NONE
                     ? KV_ERR_AGAIN
                     : kvt_send(hook->inner, conn, index, head, head_len, from, len);
    }
    if (status != KV_OK && index != NONE) {
        op_give(hook, index);
    }
    trace(
        hook, "send %" PRIx64 " id %" PRIu64 " len %u: %s", conn, id, len,
        kv_status_name(status));
    return status;
}

static kv_status_t
hook_get(kvt_port_t *port, kvt_conn_t conn, const struct kvt_part *part)
{
    struct hook *hook = hook_of(port);
    struct kvt_part mine = *part;
    kv_status_t status = conn_usable(hook, conn);
    uint32_t index = NONE;

    if (status == KV_OK) {
        index = op_take(hook, part->id, part->to);
        mine.id = index;
        status = index == NONE ? KV_ERR_AGAIN : kvt_get(hook->inner, conn, &mine);
    }
    if (status != KV_OK && index != NONE) {
        op_give(hook, index);
    }
    trace(hook, "get %" PRIx64 ": %s", conn, kv_status_name(status));
    return status;
}

/* ---- events --------------------------------------------------------------------- */

static void tear(struct hook *hook, const struct hook_op *op, struct kvt_event *event)
{
    if (op->to == NULL || event->status != KV_OK || event->len == 0
        || !kv_rng_one_in(&hook->rng, hook->config.tear_one_in)) {
        return;
    }
    const uint64_t bit = kv_rng_below(&hook->rng, (uint64_t)event->len * 8);
    op->to[bit / 8] ^= (uint8_t)(1u << bit % 8);
    event->computed = event->computed == 0 ? 0 : kv_digest(op->to, event->len);
    hook->counts.torn++;
}

/* True: *event is to be handed up now. */
static bool done(struct hook *hook, struct kvt_event *event)
{
    const uint32_t index = (uint32_t)event->id;
    struct hook_op *op = &hook->table[index];

    KV_ASSERT(index < hook->config.nr_ops && op->state == OP_POSTED);
    event->id = op->id;
    tear(hook, op, event);
    op->event = *event;
    if (kv_rng_one_in(&hook->rng, hook->config.lose_one_in)) {
        op_keep(hook, index, OP_LOST);
        hook->counts.lost++;
        return false;
    }
    if (kv_rng_one_in(&hook->rng, hook->config.delay_one_in)) {
        op->due = hook->nr_calls + 1
                  + kv_rng_below(&hook->rng, (uint64_t)hook->config.delay_calls + 1);
        op_keep(hook, index, OP_HELD);
        hook->counts.delayed++;
        return false;
    }
    op_give(hook, index);
    return true;
}

/* True: *event is for the caller. */
static bool pass(struct hook *hook, struct kvt_event *event)
{
    struct hook_conn *slot = conn_find(hook, event->conn);

    switch (event->kind) {
    case KVT_EV_DONE:
        return done(hook, event);
    case KVT_EV_HELLO:
        slot = conn_find(hook, 0);
        if (slot == NULL) {
            kvt_close(hook->inner, event->conn); /* ours are all in use: no caller's */
            return false;
        }
        *slot = (struct hook_conn){.conn = event->conn};
        return true;
    case KVT_EV_REQUEST:
    case KVT_EV_BROKEN:
        return slot != NULL && !slot->broken && !slot->closing;
    case KVT_EV_CLOSED:
        if (slot != NULL) {
            slot->closed = true;
        }
        return false;
    }
    KV_UNREACHABLE("every kind of event is handled above");
}

/* A DONE that was kept back and is due, or whose connection has closed. */
static bool kept_due(struct hook *hook, struct kvt_event *event)
{
    for (uint32_t *at = &hook->kept; *at != NONE; at = &hook->table[*at].next) {
        const uint32_t index = *at;
        const struct hook_op *op = &hook->table[index];
        const struct hook_conn *slot = conn_find(hook, op->event.conn);
        const bool over = slot == NULL || (slot->closing && slot->closed);
        if (!over && (op->state == OP_LOST || op->due > hook->nr_calls)) {
            continue;
        }
        *event = op->event;
        if (op->state == OP_LOST) {
            event->status = KV_ERR_LINK_LOST;
            event->computed = 0;
        }
        *at = op->next;
        op_give(hook, index);
        return true;
    }
    return false;
}

/* Broken by us and not told yet; or closed, with nothing kept back any more. */
static bool conn_due(struct hook *hook, struct kvt_event *event)
{
    for (uint32_t i = 0; i < hook->config.nr_conns; i++) {
        struct hook_conn *slot = &hook->conns[i];
        if (slot->conn != 0 && slot->tell_broken) {
            slot->tell_broken = false;
            *event = (struct kvt_event){
                .kind = KVT_EV_BROKEN,
                .conn = slot->conn,
                .status = KV_ERR_LINK_LOST,
            };
            return true;
        }
        if (slot->conn != 0 && slot->closing && slot->closed) {
            *event = (struct kvt_event){.kind = KVT_EV_CLOSED, .conn = slot->conn};
            slot->conn = 0;
            return true;
        }
    }
    return false;
}

static bool take(struct hook *hook, struct kvt_event *event)
{
    while (kvt_next(hook->inner, event)) {
        if (pass(hook, event)) {
            return true;
        }
    }
    return kept_due(hook, event) || conn_due(hook, event);
}

static bool hook_next(kvt_port_t *port, struct kvt_event *event)
{
    static const char *const kinds[] = {
        [KVT_EV_HELLO] = "hello",   [KVT_EV_REQUEST] = "request",
        [KVT_EV_DONE] = "done",     [KVT_EV_BROKEN] = "broken",
        [KVT_EV_CLOSED] = "closed",
    };
    struct hook *hook = hook_of(port);

    hook->nr_calls++;
    const bool found = take(hook, event);
    arm(hook);
    if (found) {
        trace(
            hook, "%s %" PRIx64 " id %" PRIu64 ": %s", kinds[event->kind], event->conn,
            event->id, kv_status_name(event->status));
    }
    return found;
}

/* ---- create and destroy --------------------------------------------------------- */

static int hook_fd(const kvt_port_t *port)
{
    return ((const struct hook *)port)->epoll_fd;
}

static void hook_free(struct hook *hook)
{
    if (hook->event_fd >= 0) {
        close(hook->event_fd);
    }
    if (hook->epoll_fd >= 0) {
        close(hook->epoll_fd);
    }
    kv_free(hook->conns);
    kv_free(hook->table);
    kv_free(hook);
}

static void hook_destroy(kvt_port_t *port)
{
    kvt_destroy(hook_of(port)->inner);
    hook_free(hook_of(port));
}

static kv_status_t fds_create(struct hook *hook)
{
    struct epoll_event event = {.events = EPOLLIN};

    hook->event_fd = KV_FAULT() ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    hook->epoll_fd = KV_FAULT() ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (hook->event_fd < 0 || hook->epoll_fd < 0
        || epoll_ctl(hook->epoll_fd, EPOLL_CTL_ADD, kvt_fd(hook->inner), &event) != 0
        || epoll_ctl(hook->epoll_fd, EPOLL_CTL_ADD, hook->event_fd, &event) != 0) {
        return KV_ERR_IO;
    }
    return KV_OK;
}

static void ops_init(struct hook *hook)
{
    hook->ops = *hook->inner->ops;
    hook->ops.create = NULL; /* kvt_hook_create() */
    hook->ops.destroy = hook_destroy;
    hook->ops.fd = hook_fd;
    hook->ops.open = hook_open;
    hook->ops.offer = hook_offer;
    hook->ops.adopt = hook_adopt;
    hook->ops.accept = hook_accept;
    hook->ops.close = hook_close;
    hook->ops.read = hook_read;
    hook->ops.send = hook_send;
    hook->ops.get = hook_get;
    hook->ops.next = hook_next;
    hook->port.ops = &hook->ops;
}

kv_status_t kvt_hook_create(
    kvt_port_t *inner, const struct kvt_hook_config *config, uint64_t seed,
    kvt_port_t **port_p)
{
    kv_status_t status = KV_ERR_NOMEM;
    struct hook *hook = kv_calloc(1, sizeof(*hook));

    if (hook == NULL) {
        return status;
    }
    hook->inner = inner;
    hook->config = *config;
    hook->rng = kv_rng_seed(seed);
    hook->event_fd = hook->epoll_fd = -1;
    hook->kept = NONE;
    hook->table = kv_calloc(config->nr_ops, sizeof(*hook->table));
    hook->conns = kv_calloc(config->nr_conns, sizeof(*hook->conns));
    if (hook->table == NULL || hook->conns == NULL) {
        goto err_free;
    }
    for (uint32_t i = 0; i < config->nr_ops; i++) {
        hook->table[i].next = i + 1 < config->nr_ops ? i + 1 : NONE;
    }
    hook->free_op = config->nr_ops > 0 ? 0 : NONE;
    status = fds_create(hook);
    if (status != KV_OK) {
        goto err_free;
    }
    ops_init(hook);
    *port_p = &hook->port;
    return KV_OK;

err_free:
    hook_free(hook);
    return status;
}

struct kvt_hook_counts kvt_hook_counts(const kvt_port_t *port)
{
    return ((const struct hook *)port)->counts;
}
