/* Wakes one thread, and is silent while that thread is awake anyway.
 *
 *   putter:  ring put, kvt_bell_ring()
 *   taker:   kvt_bell_rest(), ring empty?, sleep, kvt_bell_up()
 *
 * Both sides exchange `asleep`, which orders them: either the putter finds it true and
 * writes the event fd, or the taker's later exchange sees what was put before.
 *
 * Threading: any number of putters, one taker. Ownership: the taker's, with its fd; no
 * putter may ring any more when it goes. Errors: KV_ERR_IO of init; fini may follow.
 */
#ifndef KVT_BELL_H
#define KVT_BELL_H

#include "base/fault.h"
#include "transport/transport.h"

#include <stdatomic.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct kvt_bell {
    atomic_bool asleep;
    int fd; /* readable: rung, and not yet heard */
};

static inline kv_status_t kvt_bell_init(struct kvt_bell *bell)
{
    atomic_init(&bell->asleep, true);
    bell->fd = KV_FAULT() ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return bell->fd < 0 ? KV_ERR_IO : KV_OK;
}

static inline void kvt_bell_fini(struct kvt_bell *bell)
{
    if (bell->fd >= 0) {
        close(bell->fd);
    }
    bell->fd = -1;
}

/* The count of an event fd saturates far above what we add, so this can not fail. */
static inline void kvt_bell_ring(struct kvt_bell *bell)
{
    if (atomic_exchange_explicit(&bell->asleep, false, memory_order_acq_rel)) {
        (void)!write(bell->fd, &(uint64_t){1}, sizeof(uint64_t));
    }
}

/* From here on a ring is heard by the fd. Look at the queues once more, then sleep. */
static inline void kvt_bell_rest(struct kvt_bell *bell)
{
    (void)atomic_exchange_explicit(&bell->asleep, true, memory_order_acq_rel);
}

static inline void kvt_bell_up(struct kvt_bell *bell)
{
    (void)atomic_exchange_explicit(&bell->asleep, false, memory_order_acq_rel);
}

static inline void kvt_bell_heard(struct kvt_bell *bell)
{
    (void)!read(bell->fd, &(uint64_t){0}, sizeof(uint64_t));
}

/* kvt_next() of a port whose caller sleeps on the fd: `take` looks for the next event.
 * The bell goes to rest only when there was none, so taking many costs no call. */
static inline bool kvt_bell_next(
    struct kvt_bell *bell, bool (*take)(kvt_port_t *port, struct kvt_event *event),
    kvt_port_t *port, struct kvt_event *event)
{
    if (take(port, event)) {
        return true;
    }
    kvt_bell_heard(bell);
    kvt_bell_rest(bell);
    if (take(port, event)) {
        /* It came meanwhile, perhaps with others, and rang no bell: stay readable. */
        kvt_bell_ring(bell);
        return true;
    }
    return false;
}

#endif
