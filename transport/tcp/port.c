/* The loop's side of the tcp transport: slots, commands, events. Nothing here waits.
 *
 * Connections are named by their seats (transport/seat.h).
 */
#include "base/thread.h"
#include "transport/refuse.h"
#include "transport/tcp/tcp_priv.h"

#include <string.h>
#include <sys/epoll.h>

static struct kvt_tcp_port *port_of(kvt_port_t *port)
{
    return (struct kvt_tcp_port *)port;
}

static void command(
    struct kvt_tcp_port *port, uint32_t mover, enum kvt_tcp_command kind, uint32_t i)
{
    struct kvt_tcp_mover *to = &port->movers[mover];

    kvt_ring_put(&to->commands, (struct kvt_note){.kind = (uint16_t)kind, .index = i});
    kvt_bell_ring(&to->bell);
}

/* ---- seats ---------------------------------------------------------------------- */

/* The mover with the fewest connections. Of equals another one each time that all are
 * equal: connections come in pairs, one each way, and those of one way would all fall
 * to one mover. */
static uint32_t mover_choose(struct kvt_tcp_port *port)
{
    bool equal = true;
    for (uint32_t i = 1; i < port->nr_movers; i++) {
        equal &= port->movers[i].nr_conns == port->movers[0].nr_conns;
    }
    port->first_mover += equal;
    uint32_t mover = port->first_mover % port->nr_movers;
    for (uint32_t i = 1; i < port->nr_movers; i++) {
        const uint32_t at = (port->first_mover + i) % port->nr_movers;
        if (port->movers[at].nr_conns < port->movers[mover].nr_conns) {
            mover = at;
        }
    }
    return mover;
}

static uint32_t seat_take(struct kvt_tcp_port *port, enum kvt_seat_state state)
{
    const uint32_t index = kvt_seat_take(&port->seats, state);

    if (index == KVT_NO_SEAT) {
        return index;
    }
    const uint32_t mover = mover_choose(port);
    port->movers[mover].nr_conns++;
    port->conns[index].mover = mover;
    return index;
}

static void seat_give(struct kvt_tcp_port *port, uint32_t index)
{
    struct kvt_tcp_mover *mover = &port->movers[port->conns[index].mover];

    KV_ASSERT(mover->nr_conns > 0);
    mover->nr_conns--;
    kvt_seat_give(&port->seats, index);
}

/* ---- create and destroy --------------------------------------------------------- */

/* What has no descriptor yet says so: destroy closes what it finds. */
static void descriptors_init(struct kvt_tcp_port *port)
{
    for (uint32_t i = 0; port->movers != NULL && i < port->nr_movers; i++) {
        port->movers[i].epoll_fd = port->movers[i].bell.fd = -1;
    }
    for (uint32_t i = 0; port->conns != NULL && i < port->nr_conns; i++) {
        port->conns[i].fd = -1;
    }
}

/* Large tables that a port never fills stay untouched, and cost address space alone
 * (base/mem.h): a request is 17 KiB and a connection 50, mostly buffers. */
static kv_status_t slots_create(struct kvt_tcp_port *port)
{
    port->movers = kv_calloc(port->nr_movers, sizeof(*port->movers));
    port->conns = kv_calloc(port->nr_conns, sizeof(*port->conns));
    port->ops = kv_calloc(port->nr_ops, sizeof(*port->ops));
    port->requests = kv_calloc(port->nr_ops, sizeof(*port->requests));
    descriptors_init(port);
    if (port->movers == NULL || port->conns == NULL || port->ops == NULL
        || port->requests == NULL
        || kvt_seats_init(&port->seats, port->nr_conns) != KV_OK) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < port->nr_ops; i++) {
        port->ops[i].next = i + 1 < port->nr_ops ? i + 1 : KVT_TCP_NONE;
        port->requests[i].next = port->ops[i].next;
    }
    port->nr_free_ops = port->nr_ops;
    return KV_OK;
}

/* A mover whose start failed is left for mover_stop(). */
static kv_status_t mover_start(struct kvt_tcp_port *port, struct kvt_tcp_mover *mover)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = KVT_TCP_NONE};
    const struct kvt_tcp_list empty = {KVT_TCP_NONE, KVT_TCP_NONE};

    mover->port = port;
    mover->dirty = mover->strangers = empty;
    mover->gone = KVT_TCP_NONE;
    /* (2) */
    if (kvt_ring_init(
            &mover->commands, port->nr_ops + KVT_TCP_CONN_COMMANDS * port->nr_conns + 1)
            != KV_OK
        || kvt_ring_init(
               &mover->news, port->nr_ops + KVT_TCP_CONN_NEWS * port->nr_conns)
               != KV_OK) {
        return KV_ERR_NOMEM;
    }
    mover->epoll_fd = KV_FAULT() ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (mover->epoll_fd < 0 || kvt_bell_init(&mover->bell) != KV_OK || KV_FAULT()
        || epoll_ctl(mover->epoll_fd, EPOLL_CTL_ADD, mover->bell.fd, &event) != 0
        || kv_thread_start(&mover->thread, NULL, kvt_tcp_mover_main, mover) != 0) {
        return KV_ERR_IO;
    }
    mover->started = true;
    return KV_OK;
}

static void mover_stop(struct kvt_tcp_mover *mover)
{
    if (mover->started) {
        kvt_ring_put(&mover->commands, (struct kvt_note){.kind = KVT_TCP_QUIT});
        kvt_bell_ring(&mover->bell);
        pthread_join(mover->thread, NULL);
    }
    if (mover->epoll_fd >= 0) {
        close(mover->epoll_fd);
    }
    kvt_bell_fini(&mover->bell);
    kvt_ring_fini(&mover->news);
    kvt_ring_fini(&mover->commands);
}

static void tcp_destroy(kvt_port_t *base)
{
    struct kvt_tcp_port *port = port_of(base);

    kvt_resolver_destroy(port->resolver);
    for (uint32_t i = 0; port->movers != NULL && i < port->nr_movers; i++) {
        mover_stop(&port->movers[i]);
    }
    for (uint32_t i = 0; port->conns != NULL && i < port->nr_conns; i++) {
        kvt_tcp_hang_up(-1, &port->conns[i]);
    }
    kvt_bell_fini(&port->bell);
    kv_free(port->requests);
    kv_free(port->ops);
    kvt_seats_fini(&port->seats);
    kv_free(port->conns);
    kv_free(port->movers);
    kv_free(port);
}

static kv_status_t parts_create(struct kvt_tcp_port *port)
{
    kv_status_t status = slots_create(port);

    if (status == KV_OK) {
        status = kvt_bell_init(&port->bell);
    }
    for (uint32_t i = 0; status == KV_OK && i < port->nr_movers; i++) {
        status = mover_start(port, &port->movers[i]);
    }
    if (status == KV_OK) {
        status = kvt_resolver_create(port->nr_conns, &port->bell, &port->resolver);
    }
    return status;
}

static kv_status_t tcp_create(
    const struct kvt_config *config, kvt_port_t **port_p, struct kv_detail *detail)
{
    kv_status_t status = kvt_check_config(config, detail);

    if (status != KV_OK) {
        return status;
    }
    struct kvt_tcp_port *port = kv_calloc(1, sizeof(*port));
    if (port == NULL) {
        return KV_ERR_NOMEM;
    }
    port->port.ops = &kvt_tcp;
    kvt_regions_take(&port->regions, config);
    port->nr_ops = config->nr_ops;
    port->nr_conns = config->nr_conns;
    port->nr_movers = config->nr_threads;
    port->hello_ns = config->hello_us * 1000;
    port->verify = config->verify;
    port->bell.fd = -1;
    status = parts_create(port);
    if (status != KV_OK) {
        tcp_destroy(&port->port);
        return status;
    }
    *port_p = &port->port;
    return KV_OK;
}

static int tcp_fd(const kvt_port_t *port)
{
    return ((const struct kvt_tcp_port *)port)->bell.fd;
}

/* ---- connections ---------------------------------------------------------------- */

static void dial(
    struct kvt_tcp_port *port, uint32_t index, const struct kvt_address *addresses,
    uint32_t nr_addresses)
{
    struct kvt_tcp_conn *conn = &port->conns[index];

    conn->nr_addresses = nr_addresses;
    for (uint32_t i = 0; i < nr_addresses; i++) {
        conn->addresses[i] = addresses[i];
    }
    command(port, port->conns[index].mover, KVT_TCP_DIAL, index);
}

static kv_status_t conn_open(
    struct kvt_tcp_port *port, const char *address, const uint8_t *hello, uint32_t len,
    bool offered, kvt_conn_t *conn_p)
{
    struct kvt_address numeric = {.len = 0};
    const kv_status_t parsed = kvt_address_parse(address, &numeric);

    if (!kvt_check_hello(len) || (parsed != KV_OK && parsed != KV_INPROGRESS)) {
        return KV_ERR_INVALID;
    }
    const uint32_t index =
        seat_take(port, offered ? KVT_SEAT_OWNER : KVT_SEAT_READER);
    if (index == KVT_NO_SEAT) {
        return KV_ERR_AGAIN;
    }
    const kvt_conn_t name = kvt_seat_name(&port->seats, index);
    if (parsed == KV_INPROGRESS
        && kvt_resolver_post(port->resolver, name, address) != KV_OK) {
        /* Names of connections that were closed meanwhile are still being asked. */
        seat_give(port, index);
        return KV_ERR_AGAIN;
    }
    struct kvt_tcp_conn *conn = &port->conns[index];
    conn->offered = offered;
    kvt_frame_write(
        conn->hello, offered ? KVT_FRAME_OFFER : KVT_FRAME_HELLO, hello, len, 0);
    memcpy(conn->hello + KVT_FRAME_HEADER_BYTES, hello, len);
    conn->hello_len = KVT_FRAME_HEADER_BYTES + len;
    command(port, port->conns[index].mover, KVT_TCP_OPEN, index);
    if (parsed == KV_OK) {
        dial(port, index, &numeric, 1);
    } else {
        port->nr_resolving++;
    }
    *conn_p = name;
    return KV_OK;
}

static kv_status_t tcp_open(
    kvt_port_t *base, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return conn_open(port_of(base), address, hello, len, false, conn_p);
}

static kv_status_t tcp_offer(
    kvt_port_t *base, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    return conn_open(port_of(base), address, hello, len, true, conn_p);
}

static kv_status_t tcp_adopt(kvt_port_t *base, int fd)
{
    struct kvt_tcp_port *port = port_of(base);
    const uint32_t index = seat_take(port, KVT_SEAT_STRANGER);

    if (index == KVT_NO_SEAT) {
        if (fd >= 0) {
            close(fd);
        }
        return KV_ERR_AGAIN;
    }
    port->conns[index].fd = fd;
    command(port, port->conns[index].mover, KVT_TCP_ADOPT, index);
    return KV_OK;
}

static void tcp_accept(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_tcp_port *port = port_of(base);
    const uint32_t index = kvt_seat_accept(&port->seats, name);

    if (index != KVT_NO_SEAT) {
        command(port, port->conns[index].mover, KVT_TCP_ACCEPT, index);
    }
}

static void tcp_close(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_tcp_port *port = port_of(base);
    const uint32_t index = kvt_seat_close(&port->seats, name);

    if (index != KVT_NO_SEAT) {
        command(port, port->conns[index].mover, KVT_TCP_CLOSE, index);
    }
}

/* ---- operations ----------------------------------------------------------------- */

static uint32_t op_take(struct kvt_tcp_port *port)
{
    const uint32_t index = port->free_op;

    KV_ASSERT(port->nr_free_ops > 0 && index != KVT_TCP_NONE);
    port->free_op = port->ops[index].next;
    port->nr_free_ops--;
    return index;
}

static void op_give(struct kvt_tcp_port *port, uint32_t index)
{
    const uint32_t request = port->ops[index].request;

    if (request != KVT_TCP_NONE && --port->requests[request].nr_left == 0) {
        port->requests[request].next = port->free_request;
        port->free_request = request;
    }
    port->ops[index].next = port->free_op;
    port->free_op = index;
    port->nr_free_ops++;
}

static void part_take(
    struct kvt_tcp_port *port, uint32_t index, uint32_t i, const struct kvt_part *part)
{
    struct kvt_tcp_request *request = &port->requests[index];
    struct kvt_tcp_op *op;

    request->ops[i] = op_take(port);
    op = &port->ops[request->ops[i]];
    op->id = part->id;
    op->conn = request->conn;
    op->request = index;
    op->to = part->to;
    op->room = part->room;
    op->computed = op->expected = op->gen = 0;
    op->data_len = op->n_tokens = 0;
}

static kv_status_t tcp_read(
    kvt_port_t *base, kvt_conn_t name, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts)
{
    struct kvt_tcp_port *port = port_of(base);
    uint32_t conn;
    kv_status_t status = kvt_seat_usable(&port->seats, name, KVT_SEAT_READER, &conn);

    if (status == KV_OK) {
        status = kvt_check_read(&port->regions, len, parts, nr_parts);
    }
    if (status != KV_OK) {
        return status;
    }
    if (port->nr_free_ops < nr_parts || KV_FAULT()) {
        return KV_ERR_AGAIN;
    }
    /* As many as operations, and each has at least one: there is a free one. */
    const uint32_t index = port->free_request;
    struct kvt_tcp_request *to = &port->requests[index];
    port->free_request = to->next;
    to->req = req;
    to->conn = conn;
    to->nr_parts = to->nr_left = nr_parts;
    to->pending = UINT64_MAX >> (64 - nr_parts);
    for (uint32_t i = 0; i < nr_parts; i++) {
        part_take(port, index, i, &parts[i]);
    }
    kvt_frame_write(to->frame, KVT_FRAME_REQUEST, request, len, 0);
    memcpy(to->frame + KVT_FRAME_HEADER_BYTES, request, len);
    to->frame_len = KVT_FRAME_HEADER_BYTES + len;
    command(port, port->conns[conn].mover, KVT_TCP_READ, index);
    return KV_OK;
}

static kv_status_t tcp_send(
    kvt_port_t *base, kvt_conn_t name, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    struct kvt_tcp_port *port = port_of(base);
    uint32_t conn;
    kv_status_t status = kvt_seat_usable(&port->seats, name, KVT_SEAT_OWNER, &conn);

    if (status == KV_OK) {
        status = kvt_check_send(&port->regions, head_len, from, len);
    }
    if (status != KV_OK) {
        return status;
    }
    if (port->nr_free_ops == 0 || KV_FAULT()) {
        return KV_ERR_AGAIN;
    }
    const uint32_t index = op_take(port);
    struct kvt_tcp_op *op = &port->ops[index];
    op->id = id;
    op->conn = conn;
    op->request = KVT_TCP_NONE;
    op->from = from;
    op->len = len;
    op->computed = op->expected = op->gen = 0;
    op->data_len = op->n_tokens = 0;
    kvt_frame_write(op->frame, KVT_FRAME_DATA, head, head_len, len);
    memcpy(op->frame + KVT_FRAME_HEADER_BYTES, head, head_len);
    op->frame_len = KVT_FRAME_HEADER_BYTES + head_len;
    command(port, port->conns[conn].mover, KVT_TCP_SEND, index);
    return KV_OK;
}

/* ---- events --------------------------------------------------------------------- */

/* The caller has looked at the tray of the last event. */
static void give_tray_back(struct kvt_tcp_port *port)
{
    const uint32_t index = kvt_seat_find(&port->seats, port->lent);

    port->lent = 0;
    if (index != KVT_NO_SEAT
        && kvt_seat_state(&port->seats, index) != KVT_SEAT_CLOSING) {
        command(port, port->conns[index].mover, KVT_TCP_TAKEN, index);
    }
}

static void resolved(struct kvt_tcp_port *port)
{
    struct kvt_resolved found;

    while (port->nr_resolving > 0 && kvt_resolver_next(port->resolver, &found)) {
        const uint32_t index = kvt_seat_find(&port->seats, found.tag);
        port->nr_resolving--;
        if (index != KVT_NO_SEAT
            && kvt_seat_state(&port->seats, index) != KVT_SEAT_CLOSING) {
            dial(port, index, found.addresses, found.nr_addresses);
        }
    }
}

static void op_event(struct kvt_tcp_port *port, uint32_t index, struct kvt_event *event)
{
    const struct kvt_tcp_op *op = &port->ops[index];

    *event = (struct kvt_event){
        .kind = KVT_EV_DONE,
        .conn = kvt_seat_name(&port->seats, op->conn),
        .id = op->id,
        .status = op->status,
        .computed = op->status == KV_OK ? op->computed : 0,
        .expected = op->expected,
        .gen = op->gen,
        .len = op->data_len,
        .n_tokens = op->n_tokens,
    };
    op_give(port, index);
}

static void tray_event(
    struct kvt_tcp_port *port, struct kvt_note note, enum kvt_event_kind kind,
    struct kvt_event *event)
{
    const struct kvt_tcp_tray *tray = &port->conns[note.index].trays[note.arg];

    *event = (struct kvt_event){
        .kind = kind,
        .conn = kvt_seat_name(&port->seats, note.index),
        .bytes = tray->bytes,
        .nr_bytes = tray->len,
    };
    port->lent = event->conn;
}

static void conn_event(
    struct kvt_tcp_port *port, uint32_t index, enum kvt_event_kind kind,
    struct kvt_event *event)
{
    *event =
        (struct kvt_event){.kind = kind, .conn = kvt_seat_name(&port->seats, index)};
    if (kind == KVT_EV_BROKEN) {
        event->status = port->conns[index].why;
    }
}

/* False: nothing that the caller is told. */
static bool
event_of(struct kvt_tcp_port *port, struct kvt_note note, struct kvt_event *event)
{
    if (note.kind == KVT_TCP_DONE) {
        op_event(port, note.index, event);
        return true;
    }
    const bool closing = kvt_seat_state(&port->seats, note.index) == KVT_SEAT_CLOSING;
    switch ((enum kvt_tcp_news)note.kind) {
    case KVT_TCP_HELLO:
    case KVT_TCP_OFFER:
        kvt_seat_introduced(&port->seats, note.index, note.kind == KVT_TCP_OFFER);
        tray_event(port, note, KVT_EV_HELLO, event);
        event->offered = note.kind == KVT_TCP_OFFER;
        return true;
    case KVT_TCP_REQUEST:
        if (!closing) {
            tray_event(port, note, KVT_EV_REQUEST, event);
        }
        return !closing;
    case KVT_TCP_BROKEN:
        if (!closing) {
            conn_event(port, note.index, KVT_EV_BROKEN, event);
        }
        return !closing;
    case KVT_TCP_CLOSED:
        conn_event(port, note.index, KVT_EV_CLOSED, event);
        seat_give(port, note.index);
        return true;
    case KVT_TCP_GONE:
        seat_give(port, note.index);
        return false;
    case KVT_TCP_DONE:
        break;
    }
    KV_UNREACHABLE("every kind of news is handled above");
}

static bool take_event(kvt_port_t *base, struct kvt_event *event)
{
    struct kvt_tcp_port *port = port_of(base);
    struct kvt_note note;

    resolved(port);
    /* One of each mover in turn, so that a busy one can not hide the others. */
    for (uint32_t i = 0; i < port->nr_movers; i++) {
        struct kvt_tcp_mover *mover = &port->movers[port->next_mover];
        port->next_mover = (port->next_mover + 1) % port->nr_movers;
        while (kvt_ring_take(&mover->news, &note)) {
            if (event_of(port, note, event)) {
                return true;
            }
        }
    }
    return false;
}

static bool tcp_next(kvt_port_t *base, struct kvt_event *event)
{
    struct kvt_tcp_port *port = port_of(base);

    give_tray_back(port);
    return kvt_bell_next(&port->bell, take_event, base, event);
}

const struct kvt_ops kvt_tcp = {
    .name = "tcp",
    .caps = KVT_CAP_NAMED | KVT_CAP_VERIFIES | KVT_CAP_REMOTE | KVT_CAP_CLOSE_FENCES
            | KVT_CAP_OFFERS,
    .create = tcp_create,
    .destroy = tcp_destroy,
    .fd = tcp_fd,
    .open = tcp_open,
    .offer = tcp_offer,
    .adopt = tcp_adopt,
    .accept = tcp_accept,
    .close = tcp_close,
    .read = tcp_read,
    .send = tcp_send,
    .get = kvt_refuse_get,
    .next = tcp_next,
};
