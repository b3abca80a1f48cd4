/* Threads that move and digest bytes inside one process: copies between frames,
 * zeroing, digests of sealed pages, copies between clients' buffers and frames.
 *
 *   loop ── kvn_movers_post …, kvn_movers_wake ──► queue, bounded ──► worker threads
 *   loop ◄── kvn_movers_next ◄── done, bounded, one event fd ◄─┘
 *
 * They know addresses and lengths, nothing of pages.
 *
 * Threading: all calls by the loop thread. Ownership: the memory of a job stays until
 * its completion. Promises: each posted job completes once; room for its completion is
 * kept when it is posted, so workers never wait for the loop. No order among jobs.
 * Units: bytes. Errors: create gives CONFIG, NOMEM or IO (threads, event fd, semaphore)
 * with its detail; a job itself cannot fail.
 */
#ifndef KVN_MOVERS_H
#define KVN_MOVERS_H

#include "base/status.h"

enum kvn_move {
    KVN_MOVE_DIGEST, /* of `from` */
    KVN_MOVE_COPY,   /* and the digest of what now lies in `to`, when asked for */
    KVN_MOVE_ZERO,   /* `to` */
};

struct kvn_job {
    uint64_t id;
    enum kvn_move move;
    bool digest; /* COPY: compute it, chunk by chunk while in cache */
    uint8_t *to;
    const uint8_t *from;
    uint32_t len; /* bytes; `to` and `from` of a COPY do not overlap */
    uint64_t tag; /* the caller's; comes back */
};

struct kvn_job_done {
    uint64_t id;
    uint64_t tag;
    uint64_t digest; /* 0 when not asked for */
};

struct kvn_movers_config {
    uint32_t nr_threads; /* 1 … 64 */
    uint32_t nr_jobs; /* 1 … 65536: posted and not yet taken by kvn_movers_next() */
};

typedef struct kvn_movers kvn_movers_t;

kv_status_t kvn_movers_create(
    const struct kvn_movers_config *config, kvn_movers_t **movers_p,
    struct kv_detail *detail);
/* Jobs under way are finished, waiting ones are not begun. */
void kvn_movers_destroy(kvn_movers_t *movers);
/* Readable when kvn_movers_next() has something; without reason, at times, after
 * kvn_movers_polled(). */
int kvn_movers_fd(const kvn_movers_t *movers);
/* True: the loop asks kvn_movers_next() by itself, all the time, and the descriptor
 * need not tell (it takes two system calls a job). False, as in the beginning: it tells
 * again, also of what is done already. */
void kvn_movers_polled(kvn_movers_t *movers, bool polled);
/* AGAIN: nr_jobs. Workers that are awake begin with it, those that sleep do not: that
 * takes one kvn_movers_wake() for all that was posted, before the loop waits. */
kv_status_t kvn_movers_post(kvn_movers_t *movers, const struct kvn_job *job);
void kvn_movers_wake(kvn_movers_t *movers);
bool kvn_movers_next(kvn_movers_t *movers, struct kvn_job_done *done);

#endif
