/* The shm transport's insides: who owns what, and what the threads tell each other.
 *
 *   port.c    loop     seats, free slots; gets to copiers, events in; accepts
 *   keeper.c  keeper   one thread: epoll over sockets and pidfds; how connections end
 *   owner.c   keeper   greeting, hello, arenas out; waits for goodbye or death
 *   reader.c  keeper   dials, hello, arenas in and mapped; goodbye
 *   copier.c  copiers  threads that copy pages and digest them, and do nothing else
 *   listen.c  loop     the socket's path
 *   wire.c             packets
 *
 *   loop ── commands ──► keeper            loop ── gets ──► copier, least loaded
 *   loop ◄──── news ──── keeper            loop ◄─ done ─── copier
 *                keeper ── `ending`, `copying` of a connection ── copiers
 *
 * A connection, as the keeper sees it; the call that takes each way:
 *
 *   DIALLING ─connected─► CONNECTED ─greeted─► SAID ─arenas─► MAPPED ─┐
 *       │                     │                 │                     │ reader_end
 *       │                     │                 │     LEAVING ◄───────┘
 *       ▼                     ▼                 ▼        │ no copy under way: unmapped
 *     DEAD ◄──────────────── DEAD          PARTING ◄─────┘
 *       ▲                                       │
 *       └────────── goodbye is on its way ──────┘
 *
 *   STRANGER ─hello─► INTRODUCED ─owner_accept► OWNER ─owner_end─► FENCING
 *       │                 │                       │ goodbye, death    │ goodbye, death
 *       ▼                 ▼                       ▼                   ▼
 *     UNUSED            DEAD ◄─────────────────────────────────────── DEAD
 *
 *   DEAD ── CLOSE, before or after ──► UNUSED, CLOSED is put
 *
 * Numbered, cited in the code:
 *  (1) A copier touches a connection's mapping only between copy_begin(), which found
 *      it not ending, and copy_end(). The keeper unmaps when it has said `ending` and
 *      then seen nobody copying: what is copied then is nobody's.
 *  (2) Goodbye is said after the unmapping, and by whoever may have been sent the
 *      arenas. So at the owner it proves that nothing of the connection is read.
 *  (3) Once the arenas are sent, an owner's connection is DEAD by goodbye or by the
 *      death of the reader's process alone. The end of the stream proves neither.
 *  (4) Whatever a thread may put has had room in its ring since it was accepted: DONE
 *      one an operation; HELLO or MAPPED, BROKEN, and CLOSED or GONE a connection.
 *  (5) CLOSED is handed up after every DONE of the connection: the loop counts them.
 *  (6) A connection that has not been introduced is nobody's: its end is told to the
 *      loop (GONE) and not to the caller.
 *
 * Threading: as for tcp: a slot is written by one side at a time; the loop fills it and
 * puts a command, and has it back with the news. `state` is the keeper's throughout.
 * Ownership: a connection's socket, pidfd and mappings are the keeper's, who closes and
 * unmaps them; the listener is the loop's. Regions, their memfds and the memory of gets
 * are the caller's: a copier writes to a get until its DONE. Errors: a connection's are
 * its `why`, told once as BROKEN.
 */
#ifndef KVT_SHM_PRIV_H
#define KVT_SHM_PRIV_H

#include "base/digest.h"
#include "transport/bell.h"
#include "transport/check.h"
#include "transport/clock.h"
#include "transport/ring.h"
#include "transport/seat.h"
#include "transport/shm/wire.h"
#include "transport/transport.h"

#include <pthread.h>

enum {
    KVT_SHM_PATH_BYTES = 108, /* of a Unix socket's path, with its NUL */
    KVT_SHM_BACKLOG = 128,
    /* Sockets accepted in one turn of the loop. */
    KVT_SHM_TURN_ACCEPTS = 16,
    /* How soon the keeper tries again what failed for want of something: a place in a
     * listener's backlog, a descriptor for accept, memory for a goodbye. */
    KVT_SHM_TICK_MS = 50,
    /* A goodbye that the kernel will not take is given up then, 3 s: the owner waits
     * for our death instead. */
    KVT_SHM_GOODBYE_TRIES = 60,
};

#define KVT_SHM_NONE UINT32_MAX

/* loop to keeper; index: connection */
enum kvt_shm_command {
    KVT_SHM_OPEN,   /* its path and hello */
    KVT_SHM_ADOPT,  /* its accepted fd */
    KVT_SHM_ACCEPT, /* it may have the arenas */
    KVT_SHM_CLOSE,
    KVT_SHM_LISTEN, /* no connection: say again when somebody knocks */
    KVT_SHM_PAUSE,  /* the same, but not before the next tick */
    KVT_SHM_QUIT,
};
enum { KVT_SHM_CONN_COMMANDS = 3, KVT_SHM_PORT_COMMANDS = 2 }; /* at one time */

/* keeper to loop; index: connection. Copiers' news are DONE alone, of an operation. */
enum kvt_shm_news {
    KVT_SHM_KNOCK, /* no connection: somebody is at the listener */
    KVT_SHM_HELLO_CAME,
    KVT_SHM_MAPPED_NOW,
    KVT_SHM_BROKEN, /* its `why` */
    KVT_SHM_CLOSED,
    KVT_SHM_GONE, /* never introduced */
    KVT_SHM_DONE,
};
enum { KVT_SHM_CONN_NEWS = 3, KVT_SHM_PORT_NEWS = 1 };

/* A get. */
struct kvt_shm_op {
    uint64_t id;
    uint32_t conn;
    uint32_t next; /* free list, waiting or lost (loop); queue (copier) */
    uint32_t copier;
    uint32_t arena;
    uint64_t offset;
    uint8_t *to;
    uint32_t room;
    /* the copier's, until DONE */
    kv_status_t status;
    uint64_t computed;
};

enum kvt_shm_state {
    KVT_SHM_UNUSED,
    /* reader */
    KVT_SHM_DIALLING,  /* no connection yet: tried again at each tick */
    KVT_SHM_CONNECTED, /* waits for the greeting */
    KVT_SHM_SAID,      /* has said hello: the arenas may be on their way */
    KVT_SHM_MAPPED,
    KVT_SHM_LEAVING, /* begins no copy; one may be under way */
    KVT_SHM_PARTING, /* nothing is mapped; goodbye is to be said */
    /* owner */
    KVT_SHM_STRANGER,   /* has not said hello */
    KVT_SHM_INTRODUCED, /* its hello is handed up; it was given nothing */
    KVT_SHM_OWNER,      /* the arenas are sent */
    KVT_SHM_FENCING,    /* its end is decided; its reader may still read (3) */
    KVT_SHM_DEAD,       /* no socket, nothing mapped or given out; waits for CLOSE */
};

struct kvt_shm_map {
    uint8_t *base; /* NULL: not given out */
    uint64_t bytes, file_bytes;
};

struct kvt_shm_list {
    uint32_t first, last;
};

struct kvt_shm_conn {
    int fd, pidfd;
    enum kvt_shm_state state;
    bool told;    /* BROKEN was put */
    bool closing; /* CLOSE has come */
    kv_status_t why;
    uint32_t next, prev; /* strangers by deadline; those that leave */
    uint64_t hello_deadline_ns;
    uint64_t nonce;
    pid_t pid; /* the reader's, at the owner */
    unsigned goodbye_tries;

    char path[KVT_SHM_PATH_BYTES];
    uint32_t hello_len;
    uint8_t hello[KVT_HELLO_BYTES_MAX];

    /* (1); maps are constant from MAPPED_NOW until nobody copies */
    struct kvt_shm_map maps[KVT_REGIONS_MAX];
    uint32_t nr_maps;
    _Alignas(64) atomic_bool ending;
    atomic_uint copying;
};

struct kvt_shm_copier {
    struct kvt_shm_port *port;
    struct kvt_ring gets, news;
    struct kvt_bell bell;
    bool started, quit;
    pthread_t thread;
    uint64_t load; /* loop: bytes posted and not done, and one an operation */
    /* copier: what waits, by connection, and whose turn it is */
    struct kvt_shm_list *queues;
    uint32_t *next_turn;
    struct kvt_shm_list turns;
};

struct kvt_shm_keeper {
    struct kvt_ring commands, news;
    struct kvt_bell bell;
    int epoll_fd;
    bool started, quit;
    bool has_news;   /* put, and the loop's bell not rung yet */
    bool is_paused;  /* the listener, until the next tick */
    bool is_ticking; /* something is to be tried again at tick_ns */
    uint64_t tick_ns;
    pthread_t thread;
    struct kvt_shm_list strangers, leavers;
    struct kvt_shm_packet packet; /* within one turn */
};

/* What the loop knows of a seat's gets. */
struct kvt_shm_gets {
    uint32_t nr;
    uint32_t next; /* of the seats that are closed, with their last DONE taken */
    bool is_mapped, is_lost, is_closed;
    struct kvt_shm_list waiting; /* gets, until it is mapped */
};

struct kvt_shm_port {
    struct kvt_port port;
    struct kvt_regions regions;
    struct kvt_shm_arena arenas[KVT_REGIONS_MAX]; /* as readers are told */
    uint32_t nr_ops, nr_conns, nr_copiers;
    uint64_t hello_ns;
    bool verify;

    struct kvt_shm_keeper keeper;
    struct kvt_shm_copier *copiers;
    struct kvt_shm_conn *conns;
    struct kvt_shm_op *ops;
    struct kvt_bell bell; /* the loop's */

    int listen_fd; /* -1: reader only */
    char path[KVT_SHM_PATH_BYTES];
    uint64_t path_dev, path_ino;

    /* the loop's */
    struct kvt_seats seats;
    struct kvt_shm_gets *gets; /* by seat */
    uint32_t free_op;
    uint32_t next_copier;     /* whose events are taken next */
    struct kvt_shm_list lost; /* gets that no copier has, to be told as LINK_LOST */
    uint32_t closed;          /* seats whose CLOSED is to be told, by `next` */
};

static inline uint32_t
kvt_shm_conn_index(const struct kvt_shm_port *port, const struct kvt_shm_conn *conn)
{
    return (uint32_t)(conn - port->conns);
}

/* ---- keeper.c ------------------------------------------------------------------- */

/* Rings, epoll, bell; what fails leaves what port.c takes down. */
kv_status_t kvt_shm_keeper_init(struct kvt_shm_port *port);
void *kvt_shm_keeper_main(void *port);
/* Closes socket and pidfd and leaves nothing mapped; a reader says goodbye. By the
 * keeper, or when no thread runs any more. */
void kvt_shm_hang_up(const struct kvt_shm_port *port, struct kvt_shm_conn *conn);

/* For owner.c and reader.c. */
void kvt_shm_put(
    struct kvt_shm_port *port, enum kvt_shm_news kind, const struct kvt_shm_conn *conn);
/* The socket, or the pidfd, known to epoll. */
bool kvt_shm_watch(struct kvt_shm_port *port, struct kvt_shm_conn *conn, bool pidfd);
/* Closes the socket alone; epoll forgets it. */
void kvt_shm_shut(const struct kvt_shm_port *port, struct kvt_shm_conn *conn);
/* The connection ends by itself: BROKEN, unless it is being closed already. */
void kvt_shm_break(
    struct kvt_shm_port *port, struct kvt_shm_conn *conn, kv_status_t why);
/* Nothing of it is left to wait for: DEAD, and CLOSED if that is wanted. */
void kvt_shm_dead(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
/* Something is to be tried again at the next tick. */
void kvt_shm_tick(struct kvt_shm_port *port);
void kvt_shm_list_add(
    struct kvt_shm_port *port, struct kvt_shm_list *list, struct kvt_shm_conn *conn);
void kvt_shm_list_remove(
    struct kvt_shm_port *port, struct kvt_shm_list *list, struct kvt_shm_conn *conn);

/* ---- owner.c -------------------------------------------------------------------- */

void kvt_shm_owner_adopt(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
void kvt_shm_owner_accept(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
void kvt_shm_owner_turn(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
/* The process at the other end has died. */
void kvt_shm_owner_death(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
/* From any of its states but DEAD; how it ends decides (3). */
void kvt_shm_owner_end(struct kvt_shm_port *port, struct kvt_shm_conn *conn);

/* ---- reader.c ------------------------------------------------------------------- */

void kvt_shm_reader_dial(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
void kvt_shm_reader_turn(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
void kvt_shm_reader_end(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
/* Unmaps those that nobody copies from any more. */
void kvt_shm_readers_part(struct kvt_shm_port *port);
/* PARTING: says goodbye, or tries again later. */
void kvt_shm_reader_goodbye(struct kvt_shm_port *port, struct kvt_shm_conn *conn);
void kvt_shm_unmap(struct kvt_shm_conn *conn);

/* ---- copier.c ------------------------------------------------------------------- */

void *kvt_shm_copier_main(void *copier);

/* ---- listen.c ------------------------------------------------------------------- */

/* CONFIG or IO with a detail; then nothing is left behind. */
kv_status_t
kvt_shm_listen(struct kvt_shm_port *port, const char *path, struct kv_detail *detail);
void kvt_shm_unlisten(struct kvt_shm_port *port);

#endif
