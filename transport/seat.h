/* The caller's view of connections: a port's places for them, and the numbers by which
 * the caller names them. A number carries its seat's generation, so a late call on a
 * connection that is gone finds nothing.
 *
 *   FREE ──kvt_open───► READER ─────────────────────────────────┐
 *     ├──kvt_offer──► OWNER ────────────────────────────────────┤
 *     └──accepted───► STRANGER ──hello──► INTRODUCED ──kvt_accept──► OWNER, or READER
 *                       └─ gone ─► FREE      │                  │    of who offers
 *                                            └── kvt_close ─────┴──► CLOSING
 *                                                        FREE ◄─ CLOSED ─┘
 *
 * Strangers take half of the seats at most: whoever floods a port with connections
 * leaves room for those that it opens, and for those that have said who they are.
 *
 * Threading: the loop thread of the port, and no other. Ownership: the port's. Errors:
 * KV_ERR_NOMEM of init; KVT_NO_SEAT of find and take.
 */
#ifndef KVT_SEAT_H
#define KVT_SEAT_H

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "transport/transport.h"

enum { KVT_SEAT_BITS = 16 };
_Static_assert(KVT_CONNS_MAX <= 1 << KVT_SEAT_BITS, "a seat fits its bits");

#define KVT_NO_SEAT UINT32_MAX

enum kvt_seat_state {
    KVT_SEAT_FREE,
    KVT_SEAT_STRANGER, /* the caller does not know of it */
    KVT_SEAT_INTRODUCED,
    KVT_SEAT_OWNER,
    KVT_SEAT_READER,
    KVT_SEAT_CLOSING,
};

struct kvt_seat {
    enum kvt_seat_state state;
    bool offered;  /* INTRODUCED: its other end is the owner */
    uint32_t next; /* free list */
    uint64_t gen;  /* grows with every use */
};

struct kvt_seats {
    struct kvt_seat *seats;
    uint32_t nr, nr_strangers, free;
};

static inline kv_status_t kvt_seats_init(struct kvt_seats *seats, uint32_t nr)
{
    *seats =
        (struct kvt_seats){.seats = kv_calloc(nr, sizeof(*seats->seats)), .nr = nr};
    for (uint32_t i = 0; seats->seats != NULL && i < nr; i++) {
        seats->seats[i].next = i + 1 < nr ? i + 1 : KVT_NO_SEAT;
    }
    return seats->seats == NULL ? KV_ERR_NOMEM : KV_OK;
}

static inline void kvt_seats_fini(struct kvt_seats *seats)
{
    kv_free(seats->seats);
    seats->seats = NULL;
}

static inline enum kvt_seat_state
kvt_seat_state(const struct kvt_seats *seats, uint32_t index)
{
    KV_ASSERT(index < seats->nr);
    return seats->seats[index].state;
}

static inline kvt_conn_t kvt_seat_name(const struct kvt_seats *seats, uint32_t index)
{
    KV_ASSERT(index < seats->nr);
    return seats->seats[index].gen << KVT_SEAT_BITS | index;
}

/* NONE for a connection that the caller does not have. */
static inline uint32_t kvt_seat_find(const struct kvt_seats *seats, kvt_conn_t name)
{
    const uint32_t index = (uint32_t)(name & ((1u << KVT_SEAT_BITS) - 1));

    if (index >= seats->nr || seats->seats[index].gen != name >> KVT_SEAT_BITS
        || seats->seats[index].state == KVT_SEAT_FREE
        || seats->seats[index].state == KVT_SEAT_STRANGER) {
        return KVT_NO_SEAT;
    }
    return index;
}

/* OK: it may be used for reads (READER), or sends (OWNER). One that has broken is
 * still fine here. */
static inline kv_status_t kvt_seat_usable(
    const struct kvt_seats *seats, kvt_conn_t name, enum kvt_seat_state wanted,
    uint32_t *index_p)
{
    *index_p = kvt_seat_find(seats, name);
    if (*index_p == KVT_NO_SEAT || seats->seats[*index_p].state == KVT_SEAT_CLOSING) {
        return KV_ERR_LINK_LOST;
    }
    return seats->seats[*index_p].state == wanted ? KV_OK : KV_ERR_INVALID;
}

/* NONE: all are taken, or strangers have their half. */
static inline uint32_t kvt_seat_take(struct kvt_seats *seats, enum kvt_seat_state state)
{
    const uint32_t index = seats->free;
    const bool stranger = state == KVT_SEAT_STRANGER;

    if (index == KVT_NO_SEAT
        || (stranger && (seats->nr_strangers >= (seats->nr + 1) / 2 || KV_FAULT()))) {
        return KVT_NO_SEAT;
    }
    struct kvt_seat *seat = &seats->seats[index];
    KV_ASSERT(seat->state == KVT_SEAT_FREE);
    seats->free = seat->next;
    seat->state = state;
    seat->offered = false;
    seat->gen++;
    seats->nr_strangers += stranger;
    return index;
}

static inline void
kvt_seat_introduced(struct kvt_seats *seats, uint32_t index, bool offered)
{
    KV_ASSERT(kvt_seat_state(seats, index) == KVT_SEAT_STRANGER);
    seats->seats[index].state = KVT_SEAT_INTRODUCED;
    seats->seats[index].offered = offered;
    seats->nr_strangers--;
}

/* NONE: there is nothing to accept. */
static inline uint32_t kvt_seat_accept(struct kvt_seats *seats, kvt_conn_t name)
{
    const uint32_t index = kvt_seat_find(seats, name);

    if (index == KVT_NO_SEAT || seats->seats[index].state != KVT_SEAT_INTRODUCED) {
        return KVT_NO_SEAT;
    }
    struct kvt_seat *seat = &seats->seats[index];
    seat->state = seat->offered ? KVT_SEAT_READER : KVT_SEAT_OWNER;
    return index;
}

/* NONE: there is nothing to close, or it is being closed. */
static inline uint32_t kvt_seat_close(struct kvt_seats *seats, kvt_conn_t name)
{
    const uint32_t index = kvt_seat_find(seats, name);

    if (index == KVT_NO_SEAT || seats->seats[index].state == KVT_SEAT_CLOSING) {
        return KVT_NO_SEAT;
    }
    seats->seats[index].state = KVT_SEAT_CLOSING;
    return index;
}

static inline void kvt_seat_give(struct kvt_seats *seats, uint32_t index)
{
    struct kvt_seat *seat = &seats->seats[index];

    KV_ASSERT(index < seats->nr && seat->state != KVT_SEAT_FREE);
    seats->nr_strangers -= seat->state == KVT_SEAT_STRANGER;
    seat->state = KVT_SEAT_FREE;
    seat->next = seats->free;
    seats->free = index;
}

#endif
