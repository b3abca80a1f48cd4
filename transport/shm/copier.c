/* One copier: a thread that copies pages from mapped arenas to where they were posted.
 *
 *   gets ──► a queue a connection ──► one page of each connection in turn ──► DONE
 *
 * Between two pages nothing is held: a connection that ends waits for the page under
 * way and no other.
 */
#define _GNU_SOURCE

#include "transport/copy.h"
#include "transport/shm/shm_priv.h"

#include <poll.h>
#include <sys/prctl.h>

/* ---- one page ------------------------------------------------------------------- */

/* (1) Both sides are sequentially consistent: either we see `ending`, or the keeper
 * sees us copying. */
static bool copy_begin(struct kvt_shm_conn *conn)
{
    atomic_fetch_add_explicit(&conn->copying, 1, memory_order_seq_cst);
    return !atomic_load_explicit(&conn->ending, memory_order_seq_cst);
}

static void copy_end(struct kvt_shm_port *port, struct kvt_shm_conn *conn)
{
    const unsigned was =
        atomic_fetch_sub_explicit(&conn->copying, 1, memory_order_seq_cst);

    KV_ASSERT(was > 0);
    if (was == 1 && atomic_load_explicit(&conn->ending, memory_order_seq_cst)) {
        kvt_bell_ring(&port->keeper.bell);
    }
}

/* NULL: no such bytes in an arena that the owner gives out. */
static const uint8_t *find(const struct kvt_shm_conn *conn, const struct kvt_shm_op *op)
{
    if (op->arena >= conn->nr_maps || conn->maps[op->arena].base == NULL
        || op->offset > conn->maps[op->arena].bytes
        || op->room > conn->maps[op->arena].bytes - op->offset) {
        return NULL;
    }
    return conn->maps[op->arena].base + op->offset;
}

static void copy(const struct kvt_shm_port *port, struct kvt_shm_op *op)
{
    const uint8_t *from = find(&port->conns[op->conn], op);

    if (from == NULL) {
        op->status = KV_ERR_IO;
        return;
    }
    op->status = KV_OK;
    op->computed = kvt_copy(op->to, from, op->room, port->verify);
}

static void serve(struct kvt_shm_copier *copier, uint32_t index)
{
    struct kvt_shm_port *port = copier->port;
    struct kvt_shm_op *op = &port->ops[index];
    struct kvt_shm_conn *conn = &port->conns[op->conn];

    op->status = KV_ERR_LINK_LOST;
    if (copy_begin(conn)) {
        copy(port, op);
    }
    copy_end(port, conn);
    kvt_ring_put(/* (4) */
                 &copier->news,
                 (struct kvt_note){.kind = KVT_SHM_DONE, .index = index});
}

/* ---- whose turn it is ----------------------------------------------------------- */

static void turn_add(struct kvt_shm_copier *copier, uint32_t conn)
{
    copier->next_turn[conn] = KVT_SHM_NONE;
    *(copier->turns.last == KVT_SHM_NONE ? &copier->turns.first
                                         : &copier->next_turn[copier->turns.last]) =
        conn;
    copier->turns.last = conn;
}

static void queue(struct kvt_shm_copier *copier, uint32_t index)
{
    struct kvt_shm_op *ops = copier->port->ops;
    const uint32_t conn = ops[index].conn;
    struct kvt_shm_list *of = &copier->queues[conn];

    ops[index].next = KVT_SHM_NONE;
    if (of->first == KVT_SHM_NONE) {
        of->first = index;
        turn_add(copier, conn);
    } else {
        ops[of->last].next = index;
    }
    of->last = index;
}

/* One page; of a connection that is ending all that waits, which moves no byte. */
static void turn(struct kvt_shm_copier *copier)
{
    const uint32_t conn = copier->turns.first;
    struct kvt_shm_list *of = &copier->queues[conn];
    bool more;

    copier->turns.first = copier->next_turn[conn];
    if (copier->turns.first == KVT_SHM_NONE) {
        copier->turns.last = KVT_SHM_NONE;
    }
    do {
        const uint32_t index = of->first;
        of->first = copier->port->ops[index].next; /* its slot is given back next */
        more = of->first != KVT_SHM_NONE;
        serve(copier, index);
    } while (more
             && atomic_load_explicit(
                 &copier->port->conns[conn].ending, memory_order_relaxed));
    if (more) {
        turn_add(copier, conn);
    }
    kvt_bell_ring(&copier->port->bell);
}

/* ---- the thread ----------------------------------------------------------------- */

static void take_gets(struct kvt_shm_copier *copier)
{
    struct kvt_note note;

    while (!copier->quit && kvt_ring_take(&copier->gets, &note)) {
        if (note.kind == KVT_SHM_QUIT) {
            copier->quit = true;
        } else {
            queue(copier, note.index);
        }
    }
}

static void sleep_until_rung(struct kvt_shm_copier *copier)
{
    struct pollfd bell = {.fd = copier->bell.fd, .events = POLLIN};

    kvt_bell_rest(&copier->bell);
    if (kvt_ring_empty(&copier->gets)) {
        (void)poll(&bell, 1, -1); /* whatever wakes us, we look */
    }
    kvt_bell_up(&copier->bell);
    kvt_bell_heard(&copier->bell);
}

void *kvt_shm_copier_main(void *arg)
{
    struct kvt_shm_copier *copier = arg;

    (void)prctl(PR_SET_NAME, "kvt-shm-copy", 0, 0, 0);
    for (;;) {
        take_gets(copier);
        if (copier->quit) {
            return NULL; /* what waits is never begun: the port is being destroyed */
        }
        if (copier->turns.first != KVT_SHM_NONE) {
            turn(copier);
        } else {
            sleep_until_rung(copier);
        }
    }
}
