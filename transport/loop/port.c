/* Ports: create, destroy, and what kvt_next() says. Connections are named by their
 * seats (transport/seat.h). */
#include "transport/loop/loop_priv.h"

#include "base/fault.h"
#include "transport/refuse.h"

#include <string.h>

/* ---- create and destroy --------------------------------------------------------- */

static void lists_init(struct kvt_loop_port *port)
{
    TAILQ_INIT(&port->knocks);
    TAILQ_INIT(&port->telling);
    TAILQ_INIT(&port->done);
    TAILQ_INIT(&port->turns);
    TAILQ_INIT(&port->free_ops);
    TAILQ_INIT(&port->told);
    TAILQ_INIT(&port->free_reads);
}

/* Slots are taken from the tables one after the other, then from the free lists:
 * what a port never needs costs address space alone (base/mem.h). */
static kv_status_t slots_create(struct kvt_loop_port *port)
{
    port->ends = kv_calloc(port->nr_conns, sizeof(*port->ends));
    port->ops = kv_calloc(port->nr_ops, sizeof(*port->ops));
    port->reads = kv_calloc(port->nr_ops, sizeof(*port->reads));
    if (port->ends == NULL || port->ops == NULL || port->reads == NULL
        || kvt_seats_init(&port->seats, port->nr_conns) != KV_OK) {
        return KV_ERR_NOMEM;
    }
    port->nr_free_ops = port->nr_ops;
    return KV_OK;
}

/* Others first: when they have no way to us any more, what is ours may go. */
static void loop_destroy(kvt_port_t *base)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    struct kvt_loop_end *end;

    kvt_loop_lock();
    kvt_loop_withdraw(port);
    while ((end = TAILQ_FIRST(&port->knocks)) != NULL) {
        kvt_loop_cut(end, KV_ERR_LINK_LOST, KV_ERR_LINK_LOST);
    }
    for (uint32_t i = 0; port->seats.seats != NULL && i < port->nr_conns; i++) {
        if (port->ends[i].state != KVT_LOOP_FREE) {
            kvt_loop_cut(&port->ends[i], KV_ERR_LINK_LOST, KV_ERR_LINK_LOST);
        }
    }
    kvt_loop_copiers_quit(port); /* (5) */
    kvt_loop_unlock();
    kvt_loop_copiers_join(port);
    pthread_cond_destroy(&port->idle);
    pthread_cond_destroy(&port->work);
    kvt_bell_fini(&port->bell);
    kvt_seats_fini(&port->seats);
    kv_free(port->reads);
    kv_free(port->ops);
    kv_free(port->ends);
    kv_free(port);
}

static kv_status_t name_check(const char *name, struct kv_detail *detail)
{
    const size_t len = strnlen(name, KVT_ADDRESS_MAX);

    if (len == 0 || len == KVT_ADDRESS_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "transport.listen: bytes of its name",
            len == 0 ? 1 : KVT_ADDRESS_MAX - 1, len);
    }
    return KV_OK;
}

static kv_status_t parts_create(
    struct kvt_loop_port *port, const struct kvt_config *config,
    struct kv_detail *detail)
{
    kv_status_t status = slots_create(port);

    if (status == KV_OK) {
        status = kvt_bell_init(&port->bell);
    }
    if (status == KV_OK && config->listen != NULL) {
        status = name_check(config->listen, detail);
    }
    if (status == KV_OK && config->listen != NULL) {
        status = kvt_loop_publish(port, config->listen, detail);
    }
    return status;
}

static kv_status_t loop_create(
    const struct kvt_config *config, kvt_port_t **port_p, struct kv_detail *detail)
{
    kv_status_t status = kvt_check_config(config, detail);

    if (status != KV_OK) {
        return status;
    }
    struct kvt_loop_port *port = kv_calloc(1, sizeof(*port));
    if (port == NULL) {
        return KV_ERR_NOMEM;
    }
    port->port.ops = &kvt_loop;
    kvt_regions_take(&port->regions, config);
    port->nr_ops = config->nr_ops;
    port->nr_conns = config->nr_conns;
    port->nr_threads = config->nr_threads;
    port->verify = config->verify;
    port->bell.fd = -1;
    KV_ASSERT(pthread_cond_init(&port->work, NULL) == 0);
    KV_ASSERT(pthread_cond_init(&port->idle, NULL) == 0);
    lists_init(port);
    status = parts_create(port, config, detail);
    if (status != KV_OK) {
        loop_destroy(&port->port);
        return status;
    }
    *port_p = &port->port;
    return KV_OK;
}

static int loop_fd(const kvt_port_t *port)
{
    return ((const struct kvt_loop_port *)port)->bell.fd;
}

/* ---- events --------------------------------------------------------------------- */

static kvt_conn_t name_of(const struct kvt_loop_end *end)
{
    return kvt_seat_name(&end->port->seats, kvt_loop_index(end));
}

/* Copied: the reader may go while the caller looks at them. */
static void bytes_event(
    struct kvt_loop_port *port, const uint8_t *bytes, uint32_t len,
    struct kvt_event *event)
{
    memcpy(port->bytes, bytes, len);
    event->bytes = port->bytes;
    event->nr_bytes = len;
}

/* Under the lock. Who finds no place here is sent away. */
static bool hello_event(struct kvt_loop_port *port, struct kvt_event *event)
{
    struct kvt_loop_end *reader;

    while ((reader = TAILQ_FIRST(&port->knocks)) != NULL) {
        const uint32_t index = kvt_seat_take(&port->seats, KVT_SEAT_STRANGER);
        if (index != KVT_NO_SEAT) {
            kvt_seat_introduced(&port->seats, index, false);
            kvt_loop_join(reader, port, index);
            *event = (struct kvt_event){
                .kind = KVT_EV_HELLO, .conn = kvt_seat_name(&port->seats, index)};
            bytes_event(port, reader->hello, reader->hello_len, event);
            return true;
        }
        kvt_loop_cut(reader, KV_ERR_LINK_LOST, KV_ERR_LINK_LOST);
    }
    return false;
}

/* The oldest READ that was not handed up. */
static bool request_event(struct kvt_loop_end *end, struct kvt_event *event)
{
    struct kvt_loop_end *reader = end->is_accepted ? end->peer : NULL;
    struct kvt_loop_read *read = reader == NULL ? NULL : TAILQ_FIRST(&reader->posted);

    if (read == NULL) {
        return false;
    }
    TAILQ_REMOVE(&reader->posted, read, link);
    TAILQ_INSERT_TAIL(&reader->asked, read, link); /* (2) */
    read->is_asked = true;
    *event = (struct kvt_event){.kind = KVT_EV_REQUEST, .conn = name_of(end)};
    bytes_event(end->port, read->bytes, read->len, event);
    return true;
}

static bool closed_event(struct kvt_loop_end *end, struct kvt_event *event)
{
    if (!end->is_closing || end->nr_ops > 0) { /* (5) */
        return false;
    }
    KV_ASSERT(end->state == KVT_LOOP_CUT);
    *event = (struct kvt_event){.kind = KVT_EV_CLOSED, .conn = name_of(end)};
    end->state = KVT_LOOP_FREE;
    kvt_seat_give(&end->port->seats, kvt_loop_index(end));
    return true;
}

/* Under the lock. */
static bool end_event(struct kvt_loop_end *end, struct kvt_event *event)
{
    if (request_event(end, event)) {
        return true;
    }
    if (end->tell_broken && !end->is_closing) {
        end->tell_broken = false;
        *event = (struct kvt_event){
            .kind = KVT_EV_BROKEN, .conn = name_of(end), .status = end->why};
        return true;
    }
    return closed_event(end, event);
}

/* Under the lock: one event, and then the next end's turn. */
static bool ends_event(struct kvt_loop_port *port, struct kvt_event *event)
{
    struct kvt_loop_end *end;

    while ((end = TAILQ_FIRST(&port->telling)) != NULL) {
        TAILQ_REMOVE(&port->telling, end, telling);
        end->is_telling = false;
        if (end_event(end, event)) {
            if (end->state != KVT_LOOP_FREE) {
                kvt_loop_tell(end); /* it may have more */
            }
            return true;
        }
    }
    return false;
}

static void op_give(struct kvt_loop_port *port, struct kvt_loop_op *op)
{
    struct kvt_loop_read *read = op->read;

    if (read != NULL && --read->nr_left == 0) {
        TAILQ_INSERT_HEAD(&port->free_reads, read, link);
    }
    TAILQ_INSERT_HEAD(&port->free_ops, op, link);
    port->nr_free_ops++;
}

static void
done_event(struct kvt_loop_port *port, struct kvt_loop_op *op, struct kvt_event *event)
{
    struct kvt_loop_end *end = op->end;

    *event = (struct kvt_event){
        .kind = KVT_EV_DONE,
        .conn = name_of(end),
        .id = op->id,
        .status = op->status,
        .computed = op->status == KV_OK ? op->computed : 0,
        .expected = op->expected,
        .gen = op->gen,
        .len = op->len,
        .n_tokens = op->n_tokens,
    };
    op_give(port, op);
    KV_ASSERT(end->nr_ops > 0);
    if (--end->nr_ops == 0
        && kvt_seat_state(&port->seats, kvt_loop_index(end)) == KVT_SEAT_CLOSING) {
        kvt_loop_lock();
        kvt_loop_tell(end); /* (5) */
        kvt_loop_unlock();
    }
}

/* One turn under the lock brings an end's event and all that is done. */
static bool take_event(kvt_port_t *base, struct kvt_event *event)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    bool found = false;

    if (TAILQ_EMPTY(&port->told)) {
        kvt_loop_lock();
        found = hello_event(port, event) || ends_event(port, event);
        TAILQ_CONCAT(&port->told, &port->done, link);
        kvt_loop_unlock();
    }
    struct kvt_loop_op *op = found ? NULL : TAILQ_FIRST(&port->told);
    if (op != NULL) {
        TAILQ_REMOVE(&port->told, op, link);
        done_event(port, op, event);
    }
    return found || op != NULL;
}

static bool loop_next(kvt_port_t *base, struct kvt_event *event)
{
    return kvt_bell_next(&kvt_loop_of(base)->bell, take_event, base, event);
}

const struct kvt_ops kvt_loop = {
    .name = "loop",
    .caps = KVT_CAP_NAMED | KVT_CAP_VERIFIES | KVT_CAP_CLOSE_FENCES,
    .create = loop_create,
    .destroy = loop_destroy,
    .fd = loop_fd,
    .open = kvt_loop_open,
    .offer = kvt_refuse_offer,
    .adopt = kvt_refuse_adopt,
    .accept = kvt_loop_accept,
    .close = kvt_loop_close,
    .read = kvt_loop_read,
    .send = kvt_loop_send,
    .get = kvt_refuse_get,
    .next = loop_next,
};
