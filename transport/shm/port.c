/* The loop's side of the shm transport: slots, commands, events. Nothing here waits.
 *
 * Connections are named by their seats (transport/seat.h).
 *
 * A get waits at its seat until the arenas are mapped; then it goes to the copier that
 * has the fewest bytes before it. What no copier has when its connection ends is lost
 * at once.
 */
#define _GNU_SOURCE /* F_GET_SEALS, accept4 */

#include "base/fault.h"
#include "base/thread.h"
#include "transport/refuse.h"
#include "transport/shm/shm_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1; headers of older systems lack it */
#endif

static const struct kvt_shm_list no_list = {KVT_SHM_NONE, KVT_SHM_NONE};

static struct kvt_shm_port *port_of(kvt_port_t *port)
{
    return (struct kvt_shm_port *)port;
}

static void command(struct kvt_shm_port *port, enum kvt_shm_command kind, uint32_t i)
{
    kvt_ring_put(
        &port->keeper.commands, (struct kvt_note){.kind = (uint16_t)kind, .index = i});
    kvt_bell_ring(&port->keeper.bell);
}

/* ---- seats ---------------------------------------------------------------------- */

static uint32_t seat_take(struct kvt_shm_port *port, enum kvt_seat_state state)
{
    const uint32_t index = kvt_seat_take(&port->seats, state);

    if (index != KVT_NO_SEAT) {
        port->gets[index] = (struct kvt_shm_gets){.waiting = no_list};
    }
    return index;
}

static void seat_give(struct kvt_shm_port *port, uint32_t index)
{
    KV_ASSERT(port->gets[index].nr == 0); /* (5) */
    kvt_seat_give(&port->seats, index);
}

/* ---- create and destroy --------------------------------------------------------- */

/* Who has a descriptor of ours may neither change what we hold nor kill us: without the
 * seal against writers it could be opened again for writing. */
static kv_status_t arena_init(
    const struct kvt_region *region, struct kvt_shm_arena *arena,
    struct kv_detail *detail)
{
    const int sizes = F_SEAL_SHRINK | F_SEAL_GROW;
    const int writers = F_SEAL_FUTURE_WRITE | F_SEAL_WRITE;
    const int seals = fcntl(region->fd, F_GET_SEALS);
    struct stat st;

    if (seals < 0 || (seals & sizes) != sizes || (seals & writers) == 0) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "transport.regions: seals of a memfd",
            (uint64_t)(sizes | F_SEAL_FUTURE_WRITE), seals < 0 ? 0 : (uint64_t)seals);
    }
    if (fstat(region->fd, &st) != 0 || region->bytes == 0
        || (uint64_t)st.st_size < region->bytes) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "transport.regions: bytes of a memfd",
            (uint64_t)st.st_size, region->bytes);
    }
    *arena = (struct kvt_shm_arena){
        .bytes = region->bytes, .file_bytes = (uint64_t)st.st_size};
    return KV_OK;
}

/* What readers may be given, as they are told of it. */
static kv_status_t arenas_init(struct kvt_shm_port *port, struct kv_detail *detail)
{
    kv_status_t status = KV_OK;

    for (uint32_t i = 0; status == KV_OK && i < port->regions.nr; i++) {
        if (port->regions.table[i].fd >= 0) {
            status = arena_init(&port->regions.table[i], &port->arenas[i], detail);
        }
    }
    return status;
}

static kv_status_t slots_create(struct kvt_shm_port *port)
{
    port->copiers = kv_calloc(port->nr_copiers, sizeof(*port->copiers));
    port->conns = kv_calloc(port->nr_conns, sizeof(*port->conns));
    port->gets = kv_calloc(port->nr_conns, sizeof(*port->gets));
    port->ops = kv_calloc(port->nr_ops, sizeof(*port->ops));
    for (uint32_t i = 0; port->copiers != NULL && i < port->nr_copiers; i++) {
        port->copiers[i].bell.fd = -1;
    }
    for (uint32_t i = 0; port->conns != NULL && i < port->nr_conns; i++) {
        port->conns[i].fd = port->conns[i].pidfd = -1;
    }
    if (port->copiers == NULL || port->conns == NULL || port->gets == NULL
        || port->ops == NULL || kvt_seats_init(&port->seats, port->nr_conns) != KV_OK) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < port->nr_ops; i++) {
        port->ops[i].next = i + 1 < port->nr_ops ? i + 1 : KVT_SHM_NONE;
    }
    port->lost = no_list;
    port->closed = KVT_SHM_NONE;
    return KV_OK;
}

/* A copier whose start failed is left for copier_stop(). */
static kv_status_t
copier_start(struct kvt_shm_port *port, struct kvt_shm_copier *copier)
{
    copier->port = port;
    copier->turns = no_list;
    copier->queues = kv_calloc(port->nr_conns, sizeof(*copier->queues));
    copier->next_turn = kv_calloc(port->nr_conns, sizeof(*copier->next_turn));
    if (copier->queues == NULL || copier->next_turn == NULL
        || kvt_ring_init(&copier->gets, port->nr_ops + 1) != KV_OK /* (4) */
        || kvt_ring_init(&copier->news, port->nr_ops) != KV_OK) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < port->nr_conns; i++) {
        copier->queues[i] = no_list;
    }
    if (kvt_bell_init(&copier->bell) != KV_OK
        || kv_thread_start(&copier->thread, NULL, kvt_shm_copier_main, copier) != 0) {
        return KV_ERR_IO;
    }
    copier->started = true;
    return KV_OK;
}

static void copier_stop(struct kvt_shm_copier *copier)
{
    if (copier->started) {
        kvt_ring_put(&copier->gets, (struct kvt_note){.kind = KVT_SHM_QUIT});
        kvt_bell_ring(&copier->bell);
        pthread_join(copier->thread, NULL);
    }
    kvt_bell_fini(&copier->bell);
    kvt_ring_fini(&copier->news);
    kvt_ring_fini(&copier->gets);
    kv_free(copier->next_turn);
    kv_free(copier->queues);
}

static void keeper_stop(struct kvt_shm_port *port)
{
    if (port->keeper.started) {
        command(port, KVT_SHM_QUIT, 0);
        pthread_join(port->keeper.thread, NULL);
    }
    if (port->keeper.epoll_fd >= 0) {
        close(port->keeper.epoll_fd);
    }
    port->keeper.epoll_fd = -1;
}

/* Copiers first: when they have gone nothing is read any more, and goodbye is true. */
static void shm_destroy(kvt_port_t *base)
{
    struct kvt_shm_port *port = port_of(base);

    for (uint32_t i = 0; port->copiers != NULL && i < port->nr_copiers; i++) {
        copier_stop(&port->copiers[i]);
    }
    keeper_stop(port);
    kvt_shm_unlisten(port);
    for (uint32_t i = 0; port->conns != NULL && i < port->nr_conns; i++) {
        kvt_shm_hang_up(port, &port->conns[i]);
    }
    kvt_bell_fini(&port->keeper.bell);
    kvt_ring_fini(&port->keeper.news);
    kvt_ring_fini(&port->keeper.commands);
    kvt_bell_fini(&port->bell);
    kv_free(port->ops);
    kvt_seats_fini(&port->seats);
    kv_free(port->gets);
    kv_free(port->conns);
    kv_free(port->copiers);
    kv_free(port);
}

static kv_status_t parts_create(
    struct kvt_shm_port *port, const struct kvt_config *config,
    struct kv_detail *detail)
{
    kv_status_t status = KV_OK;

    if (config->listen != NULL) {
        status = arenas_init(port, detail);
    }
    if (status == KV_OK) {
        status = slots_create(port);
    }
    if (status == KV_OK) {
        status = kvt_bell_init(&port->bell);
    }
    if (status == KV_OK && config->listen != NULL) {
        status = kvt_shm_listen(port, config->listen, detail);
    }
    if (status == KV_OK) {
        status = kvt_shm_keeper_init(port);
    }
    if (status == KV_OK) {
        status =
            kv_thread_start(&port->keeper.thread, NULL, kvt_shm_keeper_main, port) == 0
                ? KV_OK
                : KV_ERR_IO;
        port->keeper.started = status == KV_OK;
    }
    for (uint32_t i = 0; status == KV_OK && i < port->nr_copiers; i++) {
        status = copier_start(port, &port->copiers[i]);
    }
    return status;
}

static kv_status_t shm_create(
    const struct kvt_config *config, kvt_port_t **port_p, struct kv_detail *detail)
{
    kv_status_t status = kvt_check_config(config, detail);

    if (status != KV_OK) {
        return status;
    }
    struct kvt_shm_port *port = kv_calloc(1, sizeof(*port));
    if (port == NULL) {
        return KV_ERR_NOMEM;
    }
    port->port.ops = &kvt_shm;
    kvt_regions_take(&port->regions, config);
    port->nr_ops = config->nr_ops;
    port->nr_conns = config->nr_conns;
    port->nr_copiers = config->nr_threads;
    port->hello_ns = config->hello_us * 1000;
    port->verify = config->verify;
    port->bell.fd = port->keeper.bell.fd = port->keeper.epoll_fd = port->listen_fd = -1;
    status = parts_create(port, config, detail);
    if (status != KV_OK) {
        shm_destroy(&port->port);
        return status;
    }
    *port_p = &port->port;
    return KV_OK;
}

static int shm_fd(const kvt_port_t *port)
{
    return ((const struct kvt_shm_port *)port)->bell.fd;
}

/* ---- operations ----------------------------------------------------------------- */

static void
list_put(struct kvt_shm_port *port, struct kvt_shm_list *list, uint32_t index)
{
    port->ops[index].next = KVT_SHM_NONE;
    *(list->last == KVT_SHM_NONE ? &list->first : &port->ops[list->last].next) = index;
    list->last = index;
}

/* NONE: empty. */
static uint32_t list_take(struct kvt_shm_port *port, struct kvt_shm_list *list)
{
    const uint32_t index = list->first;

    if (index != KVT_SHM_NONE) {
        list->first = port->ops[index].next;
        if (list->first == KVT_SHM_NONE) {
            list->last = KVT_SHM_NONE;
        }
    }
    return index;
}

/* So that one byte more does not choose another copier, and empty gets count, too. */
static uint64_t load_of(const struct kvt_shm_op *op)
{
    return (uint64_t)op->room + 1;
}

/* To the copier with the fewest bytes before it: a batch spreads over all of them. */
static void dispatch(struct kvt_shm_port *port, uint32_t index)
{
    uint32_t least = 0;

    for (uint32_t i = 1; i < port->nr_copiers; i++) {
        if (port->copiers[i].load < port->copiers[least].load) {
            least = i;
        }
    }
    struct kvt_shm_copier *copier = &port->copiers[least];
    port->ops[index].copier = least;
    copier->load += load_of(&port->ops[index]);
    kvt_ring_put(&copier->gets, (struct kvt_note){.index = index});
    kvt_bell_ring(&copier->bell);
}

/* Ours to tell: the fd must become readable for it. */
static void lose(struct kvt_shm_port *port, uint32_t index)
{
    port->ops[index].copier = KVT_SHM_NONE;
    port->ops[index].status = KV_ERR_LINK_LOST;
    list_put(port, &port->lost, index);
    kvt_bell_ring(&port->bell);
}

/* No get of it is begun any more; those that copiers have they see to themselves. */
static void gets_lost(struct kvt_shm_port *port, struct kvt_shm_gets *gets)
{
    uint32_t index;

    gets->is_lost = true;
    while ((index = list_take(port, &gets->waiting)) != KVT_SHM_NONE) {
        lose(port, index);
    }
}

static void gets_mapped(struct kvt_shm_port *port, struct kvt_shm_gets *gets)
{
    uint32_t index;

    gets->is_mapped = true;
    while ((index = list_take(port, &gets->waiting)) != KVT_SHM_NONE) {
        dispatch(port, index);
    }
}

static kv_status_t
shm_get(kvt_port_t *base, kvt_conn_t name, const struct kvt_part *part)
{
    struct kvt_shm_port *port = port_of(base);
    uint32_t conn;
    const kv_status_t status =
        kvt_seat_usable(&port->seats, name, KVT_SEAT_READER, &conn);

    if (status != KV_OK) {
        return status;
    }
    struct kvt_shm_gets *gets = &port->gets[conn];
    if (!kvt_check_inside(&port->regions, part->to, part->room)) {
        return KV_ERR_INVALID;
    }
    const uint32_t index = port->free_op;
    if (index == KVT_SHM_NONE || KV_FAULT()) {
        return KV_ERR_AGAIN;
    }
    struct kvt_shm_op *op = &port->ops[index];
    port->free_op = op->next;
    *op = (struct kvt_shm_op){
        .id = part->id,
        .conn = conn,
        .arena = part->arena,
        .offset = part->offset,
        .to = part->to,
        .room = part->room,
    };
    gets->nr++;
    if (gets->is_lost) {
        lose(port, index);
    } else if (gets->is_mapped) {
        dispatch(port, index);
    } else {
        list_put(port, &gets->waiting, index);
    }
    return KV_OK;
}

/* ---- connections ---------------------------------------------------------------- */

static kv_status_t shm_open(
    kvt_port_t *base, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    struct kvt_shm_port *port = port_of(base);
    const size_t path_len = strnlen(address, KVT_SHM_PATH_BYTES);

    if (path_len == 0 || path_len == KVT_SHM_PATH_BYTES || !kvt_check_hello(len)) {
        return KV_ERR_INVALID;
    }
    const uint32_t index = seat_take(port, KVT_SEAT_READER);
    if (index == KVT_NO_SEAT) {
        return KV_ERR_AGAIN;
    }
    struct kvt_shm_conn *conn = &port->conns[index];
    memset(conn->path, 0, sizeof(conn->path));
    memcpy(conn->path, address, path_len);
    memcpy(conn->hello, hello, len);
    conn->hello_len = len;
    command(port, KVT_SHM_OPEN, index);
    *conn_p = kvt_seat_name(&port->seats, index);
    return KV_OK;
}

static void shm_accept(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_shm_port *port = port_of(base);
    const uint32_t index = kvt_seat_accept(&port->seats, name);

    if (index != KVT_NO_SEAT) {
        command(port, KVT_SHM_ACCEPT, index);
    }
}

static void shm_close(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_shm_port *port = port_of(base);
    const uint32_t index = kvt_seat_close(&port->seats, name);

    if (index != KVT_NO_SEAT) {
        gets_lost(port, &port->gets[index]);
        command(port, KVT_SHM_CLOSE, index);
    }
}

static void let_in(struct kvt_shm_port *port, int fd)
{
    const uint32_t index = seat_take(port, KVT_SEAT_STRANGER);

    if (index == KVT_NO_SEAT) {
        close(fd);
        return;
    }
    port->conns[index].fd = fd;
    command(port, KVT_SHM_ADOPT, index);
}

/* Without a descriptor or memory left, asking again at once would only spin. */
static void answer_knock(struct kvt_shm_port *port)
{
    enum kvt_shm_command then = KVT_SHM_LISTEN;

    for (unsigned i = 0; i < KVT_SHM_TURN_ACCEPTS && then == KVT_SHM_LISTEN; i++) {
        const int fd =
            KV_FAULT()
                ? (errno = EMFILE, -1)
                : accept4(port->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            let_in(port, fd);
        } else if (errno == EAGAIN) {
            break;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            then = KVT_SHM_PAUSE;
        }
    }
    command(port, then, 0);
}

/* ---- events --------------------------------------------------------------------- */

static void op_event(struct kvt_shm_port *port, uint32_t index, struct kvt_event *event)
{
    struct kvt_shm_op *op = &port->ops[index];
    struct kvt_shm_gets *gets = &port->gets[op->conn];
    const bool ok = op->status == KV_OK;

    *event = (struct kvt_event){
        .kind = KVT_EV_DONE,
        .conn = kvt_seat_name(&port->seats, op->conn),
        .id = op->id,
        .status = op->status,
        .computed = ok ? op->computed : 0,
        .len = ok ? op->room : 0,
    };
    if (op->copier != KVT_SHM_NONE) {
        port->copiers[op->copier].load -= load_of(op);
    }
    KV_ASSERT(gets->nr > 0);
    if (--gets->nr == 0 && gets->is_closed) { /* (5) */
        gets->next = port->closed;
        port->closed = op->conn;
    }
    op->next = port->free_op;
    port->free_op = index;
}

static void closed_event(struct kvt_shm_port *port, uint32_t i, struct kvt_event *event)
{
    *event = (struct kvt_event){
        .kind = KVT_EV_CLOSED, .conn = kvt_seat_name(&port->seats, i)};
    seat_give(port, i);
}

static void
hello_event(struct kvt_shm_port *port, uint32_t index, struct kvt_event *event)
{
    kvt_seat_introduced(&port->seats, index, false);
    *event = (struct kvt_event){
        .kind = KVT_EV_HELLO,
        .conn = kvt_seat_name(&port->seats, index),
        .bytes = port->conns[index].hello,
        .nr_bytes = port->conns[index].hello_len,
    };
}

/* Of the keeper. False: nothing that the caller is told, or not yet. */
static bool
event_of(struct kvt_shm_port *port, struct kvt_note note, struct kvt_event *event)
{
    struct kvt_shm_gets *gets = &port->gets[note.index];
    const bool closing = kvt_seat_state(&port->seats, note.index) == KVT_SEAT_CLOSING;

    switch ((enum kvt_shm_news)note.kind) {
    case KVT_SHM_KNOCK:
        answer_knock(port);
        return false;
    case KVT_SHM_HELLO_CAME:
        hello_event(port, note.index, event);
        return true;
    case KVT_SHM_MAPPED_NOW:
        if (!closing) {
            gets_mapped(port, gets);
        }
        return false;
    case KVT_SHM_BROKEN:
        gets_lost(port, gets);
        *event = (struct kvt_event){
            .kind = KVT_EV_BROKEN,
            .conn = kvt_seat_name(&port->seats, note.index),
            .status = port->conns[note.index].why,
        };
        return !closing;
    case KVT_SHM_CLOSED:
        gets->is_closed = true;
        if (gets->nr == 0) { /* (5) */
            closed_event(port, note.index, event);
            return true;
        }
        return false;
    case KVT_SHM_GONE:
        seat_give(port, note.index);
        return false;
    case KVT_SHM_DONE:
        break;
    }
    KV_UNREACHABLE("every kind of the keeper's news is handled above");
}

static bool own_event(struct kvt_shm_port *port, struct kvt_event *event)
{
    const uint32_t op = list_take(port, &port->lost);

    if (op != KVT_SHM_NONE) {
        op_event(port, op, event);
        return true;
    }
    if (port->closed != KVT_SHM_NONE) {
        const uint32_t seat = port->closed;
        port->closed = port->gets[seat].next;
        closed_event(port, seat, event);
        return true;
    }
    return false;
}

static bool copiers_event(struct kvt_shm_port *port, struct kvt_event *event)
{
    struct kvt_note note;

    /* One of each in turn, so that a busy one can not hide the others. */
    for (uint32_t i = 0; i < port->nr_copiers; i++) {
        struct kvt_shm_copier *copier = &port->copiers[port->next_copier];
        port->next_copier = (port->next_copier + 1) % port->nr_copiers;
        if (kvt_ring_take(&copier->news, &note)) {
            op_event(port, note.index, event);
            return true;
        }
    }
    return false;
}

static bool take_event(kvt_port_t *base, struct kvt_event *event)
{
    struct kvt_shm_port *port = port_of(base);
    struct kvt_note note;

    if (own_event(port, event)) {
        return true;
    }
    while (kvt_ring_take(&port->keeper.news, &note)) {
        if (event_of(port, note, event)) {
            return true;
        }
    }
    return copiers_event(port, event) || own_event(port, event);
}

static bool shm_next(kvt_port_t *base, struct kvt_event *event)
{
    return kvt_bell_next(&port_of(base)->bell, take_event, base, event);
}

const struct kvt_ops kvt_shm = {
    .name = "shm",
    .caps = KVT_CAP_ONE_SIDED | KVT_CAP_VERIFIES,
    .create = shm_create,
    .destroy = shm_destroy,
    .fd = shm_fd,
    .open = shm_open,
    .offer = kvt_refuse_offer,
    .adopt = kvt_refuse_adopt, /* who came by `listen` the kernel says */
    .accept = shm_accept,
    .close = shm_close,
    .read = kvt_refuse_read,
    .send = kvt_refuse_send,
    .get = shm_get,
    .next = shm_next,
};
