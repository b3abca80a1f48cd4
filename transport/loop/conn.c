/* Connections: how they begin, what is asked and sent on them, how they end. Every call
 * checks first, then takes the lock for what concerns others. */
#include "transport/loop/loop_priv.h"

#include "base/codec.h"
#include "base/fault.h"

#include <string.h>

enum { DATA_ARENA_BYTES = 4096 }; /* a DATA takes none of it */

/* ---- what is told ---------------------------------------------------------------- */

void kvt_loop_tell(struct kvt_loop_end *end)
{
    if (!end->is_telling) {
        end->is_telling = true;
        TAILQ_INSERT_TAIL(&end->port->telling, end, telling);
    }
    kvt_bell_ring(&end->port->bell);
}

void kvt_loop_done(struct kvt_loop_op *op, kv_status_t status)
{
    op->status = status;
    TAILQ_INSERT_TAIL(&op->end->port->done, op, link);
    kvt_bell_ring(&op->end->port->bell);
}

void kvt_loop_page_done(struct kvt_loop_op *page, kv_status_t status)
{
    kvt_loop_done(page->part, status);
    kvt_loop_done(page, status);
}

/* ---- parts ----------------------------------------------------------------------- */

/* The part is no READ's any more: whoever takes it ends it (2). */
static struct kvt_loop_op *part_take(struct kvt_loop_read *read, uint32_t i)
{
    struct kvt_loop_end *end = read->end;

    KV_ASSERT((read->pending >> i & 1) != 0);
    read->pending &= ~(UINT64_C(1) << i);
    if (read->pending == 0) {
        TAILQ_REMOVE(read->is_asked ? &end->asked : &end->posted, read, link);
    }
    return read->parts[i];
}

static void read_lost(struct kvt_loop_read *read)
{
    for (uint32_t i = 0; i < read->nr_parts; i++) {
        if ((read->pending >> i & 1) != 0) {
            kvt_loop_done(part_take(read, i), KV_ERR_LINK_LOST);
        }
    }
}

/* ---- the end --------------------------------------------------------------------- */

static void reader_lost(struct kvt_loop_end *end)
{
    struct kvt_loop_read *read;
    struct kvt_loop_op *page;

    while ((read = TAILQ_FIRST(&end->posted)) != NULL
           || (read = TAILQ_FIRST(&end->asked)) != NULL) {
        read_lost(read);
    }
    if (!TAILQ_EMPTY(&end->pages)) {
        TAILQ_REMOVE(&end->port->turns, end, queue);
    }
    while ((page = TAILQ_FIRST(&end->pages)) != NULL) {
        TAILQ_REMOVE(&end->pages, page, link);
        kvt_loop_page_done(page, KV_ERR_LINK_LOST);
    }
}

static void end_cut(struct kvt_loop_end *end, kv_status_t why)
{
    end->state = KVT_LOOP_CUT;
    end->peer = NULL;
    end->why = why;
    end->tell_broken = true;
    if (end->is_reader) {
        reader_lost(end);
    }
    kvt_loop_tell(end);
}

void kvt_loop_cut(struct kvt_loop_end *end, kv_status_t why, kv_status_t why_there)
{
    struct kvt_loop_end *peer = end->peer;

    if (end->state == KVT_LOOP_CUT) {
        return;
    }
    if (end->state == KVT_LOOP_KNOCKING && end->knocks_at != NULL) {
        TAILQ_REMOVE(&end->knocks_at->knocks, end, queue);
        end->knocks_at = NULL;
    }
    end_cut(end, why);
    if (peer != NULL) { /* (1) */
        KV_ASSERT(peer->peer == end && peer->state == KVT_LOOP_JOINED);
        end_cut(peer, why_there);
    }
}

void kvt_loop_close(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    const uint32_t index = kvt_seat_close(&port->seats, name);

    if (index == KVT_NO_SEAT) {
        return;
    }
    kvt_loop_lock();
    port->ends[index].is_closing = true;
    kvt_loop_cut(&port->ends[index], KV_ERR_LINK_LOST, KV_ERR_LINK_LOST);
    kvt_loop_tell(&port->ends[index]);
    kvt_loop_unlock();
}

/* ---- the beginning --------------------------------------------------------------- */

static struct kvt_loop_end *
end_init(struct kvt_loop_port *port, uint32_t index, bool is_reader)
{
    struct kvt_loop_end *end = &port->ends[index];

    KV_ASSERT(end->state == KVT_LOOP_FREE && end->nr_ops == 0);
    end->port = port;
    end->peer = NULL;
    end->is_reader = is_reader;
    end->is_accepted = end->is_closing = end->tell_broken = false;
    end->knocks_at = NULL;
    TAILQ_INIT(&end->posted);
    TAILQ_INIT(&end->asked);
    TAILQ_INIT(&end->pages);
    return end;
}

/* Nobody of that name, or no thread that could copy: it breaks as if it had been. */
static void knock(struct kvt_loop_end *end, const char *address, kv_status_t status)
{
    struct kvt_loop_port *owner = kvt_loop_find(address);

    end->state = KVT_LOOP_KNOCKING;
    if (status == KV_OK && owner == NULL) {
        status = KV_ERR_LINK_LOST;
    }
    if (status != KV_OK) {
        kvt_loop_cut(end, status, status);
        return;
    }
    end->knocks_at = owner;
    TAILQ_INSERT_TAIL(&owner->knocks, end, queue);
    kvt_bell_ring(&owner->bell);
}

kv_status_t kvt_loop_open(
    kvt_port_t *base, const char *address, const uint8_t *hello, uint32_t len,
    kvt_conn_t *conn_p)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    const size_t address_len = strnlen(address, KVT_ADDRESS_MAX);

    if (address_len == 0 || address_len == KVT_ADDRESS_MAX || !kvt_check_hello(len)) {
        return KV_ERR_INVALID;
    }
    const uint32_t index = kvt_seat_take(&port->seats, KVT_SEAT_READER);
    if (index == KVT_NO_SEAT) {
        return KV_ERR_AGAIN;
    }
    const kv_status_t status = kvt_loop_copiers_start(port);
    struct kvt_loop_end *end = end_init(port, index, true);
    memcpy(end->hello, hello, len);
    end->hello_len = len;
    kvt_loop_lock();
    knock(end, address, status);
    kvt_loop_unlock();
    *conn_p = kvt_seat_name(&port->seats, index);
    return KV_OK;
}

void kvt_loop_join(struct kvt_loop_end *reader, struct kvt_loop_port *port, uint32_t i)
{
    struct kvt_loop_end *end = end_init(port, i, false);

    KV_ASSERT(reader->state == KVT_LOOP_KNOCKING && reader->knocks_at == port);
    TAILQ_REMOVE(&port->knocks, reader, queue);
    reader->knocks_at = NULL;
    reader->state = end->state = KVT_LOOP_JOINED; /* (1) */
    reader->peer = end;
    end->peer = reader;
}

void kvt_loop_accept(kvt_port_t *base, kvt_conn_t name)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    const uint32_t index = kvt_seat_accept(&port->seats, name);

    if (index != KVT_NO_SEAT) {
        kvt_loop_lock();
        port->ends[index].is_accepted = true;
        kvt_loop_tell(&port->ends[index]); /* READs may have been posted before */
        kvt_loop_unlock();
    }
}

/* ---- operations ------------------------------------------------------------------ */

static struct kvt_loop_op *op_take(struct kvt_loop_end *end, uint64_t id)
{
    struct kvt_loop_port *port = end->port;
    struct kvt_loop_op *op = TAILQ_FIRST(&port->free_ops);

    KV_ASSERT(port->nr_free_ops > 0);
    port->nr_free_ops--;
    if (op != NULL) {
        TAILQ_REMOVE(&port->free_ops, op, link);
    } else {
        KV_ASSERT(port->nr_used_ops < port->nr_ops);
        op = &port->ops[port->nr_used_ops++];
    }
    end->nr_ops++;
    *op = (struct kvt_loop_op){.end = end, .id = id};
    return op;
}

/* There are as many as operations, and each has at least one: there is a free one. */
static struct kvt_loop_read *
read_take(struct kvt_loop_end *end, const struct kvt_part *parts, uint32_t nr_parts)
{
    struct kvt_loop_port *port = end->port;
    struct kvt_loop_read *read = TAILQ_FIRST(&port->free_reads);

    if (read != NULL) {
        TAILQ_REMOVE(&port->free_reads, read, link);
    } else {
        KV_ASSERT(port->nr_used_reads < port->nr_ops);
        read = &port->reads[port->nr_used_reads++];
    }
    read->end = end;
    read->is_asked = false;
    read->nr_parts = read->nr_left = nr_parts;
    read->pending = UINT64_MAX >> (64 - nr_parts);
    for (uint32_t i = 0; i < nr_parts; i++) {
        struct kvt_loop_op *op = op_take(end, parts[i].id);
        op->read = read;
        op->to = parts[i].to;
        op->room = parts[i].room;
        read->parts[i] = op;
    }
    return read;
}

kv_status_t kvt_loop_read(
    kvt_port_t *base, kvt_conn_t name, uint64_t req, const uint8_t *request,
    uint32_t len, const struct kvt_part *parts, uint32_t nr_parts)
{
    struct kvt_loop_port *port = kvt_loop_of(base);
    uint32_t index;
    kv_status_t status = kvt_seat_usable(&port->seats, name, KVT_SEAT_READER, &index);

    if (status == KV_OK) {
        status = kvt_check_read(&port->regions, len, parts, nr_parts);
    }
    if (status != KV_OK) {
        return status;
    }
    if (port->nr_free_ops < nr_parts || KV_FAULT()) {
        return KV_ERR_AGAIN;
    }
    struct kvt_loop_end *end = &port->ends[index];
    struct kvt_loop_read *read = read_take(end, parts, nr_parts);
    read->req = req;
    read->len = len;
    memcpy(read->bytes, request, len);
    kvt_loop_lock();
    TAILQ_INSERT_TAIL(&end->posted, read, link);
    if (end->state == KVT_LOOP_CUT) {
        read_lost(read);
    } else if (end->peer != NULL && end->peer->is_accepted) {
        kvt_loop_tell(end->peer);
    }
    kvt_loop_unlock();
    return KV_OK;
}

/* The part that a DATA answers, or NULL. Owners answer in the order asked, so it is of
 * the first READ, nearly always; at worst this walks over the READs in flight. */
static struct kvt_loop_op *match(struct kvt_loop_end *reader, const struct kv_msg *msg)
{
    const uint32_t i = msg->u.data.index;
    struct kvt_loop_read *read;

    TAILQ_FOREACH(read, &reader->asked, link)
    {
        if (read->req == msg->req) {
            break;
        }
    }
    if (read == NULL || i >= read->nr_parts || (read->pending >> i & 1) == 0) {
        return NULL;
    }
    return part_take(read, i);
}

/* The page goes to its part, or the connection ends: under the lock. */
static void
answer(struct kvt_loop_op *page, const struct kv_msg *msg, uint32_t body_len)
{
    const struct kv_msg_data *data = &msg->u.data;
    const kv_status_t status = kvt_check_word(data->status);
    struct kvt_loop_end *reader = page->end->peer;
    struct kvt_loop_op *part = reader == NULL ? NULL : match(reader, msg);

    if (part == NULL) { /* broken before, or nobody asked for this */
        kvt_loop_done(page, KV_ERR_LINK_LOST);
        kvt_loop_cut(page->end, KV_ERR_LINK_LOST, KV_ERR_PROTOCOL);
        return;
    }
    page->part = part;
    part->expected = data->digest;
    part->gen = data->gen;
    part->len = data->len;
    part->n_tokens = data->n_tokens;
    page->fits = kvt_check_fits(data, body_len, part->room);
    if (page->fits && status != KV_OK) {
        kvt_loop_done(part, status);
        kvt_loop_done(page, KV_OK);
        return;
    }
    if (TAILQ_EMPTY(&reader->pages)) { /* (3) */
        TAILQ_INSERT_TAIL(&reader->port->turns, reader, queue);
    }
    TAILQ_INSERT_TAIL(&reader->pages, page, link);
    pthread_cond_signal(&reader->port->work);
}

kv_status_t kvt_loop_send(
    kvt_port_t *base, kvt_conn_t name, uint64_t id, const uint8_t *head,
    uint32_t head_len, const uint8_t *from, uint32_t len)
{
    _Alignas(16) uint8_t memory[DATA_ARENA_BYTES];
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct kvt_loop_port *port = kvt_loop_of(base);
    struct kv_msg msg;
    uint32_t index;
    kv_status_t status = kvt_seat_usable(&port->seats, name, KVT_SEAT_OWNER, &index);

    if (status == KV_OK) {
        status = kvt_check_send(&port->regions, head_len, from, len);
    }
    if (status != KV_OK) {
        return status;
    }
    if (port->nr_free_ops == 0 || KV_FAULT()) {
        return KV_ERR_AGAIN;
    }
    if (kv_decode(head, head_len, &arena, &msg, NULL) != KV_OK
        || msg.type != KV_MSG_DATA) {
        return KV_ERR_INVALID;
    }
    struct kvt_loop_op *page = op_take(&port->ends[index], id);
    page->from = from;
    kvt_loop_lock();
    answer(page, &msg, len);
    kvt_loop_unlock();
    return KV_OK;
}
