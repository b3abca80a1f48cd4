/* The time by which a transport's threads wait for a peer's first message.
 *
 * Units: nanoseconds of CLOCK_MONOTONIC, compared with each other, never with another
 * host's.
 *
 * Threading: pure. Ownership: nothing is kept. Errors: none.
 */
#ifndef KVT_CLOCK_H
#define KVT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* A thread that waits for nothing sooner looks once a minute: far below what an int of
 * milliseconds holds. */
enum { KVT_TIMEOUT_MS_MAX = 60000 };

static inline uint64_t kvt_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* For epoll_wait(): rounded up, so that who wakes finds the deadline over. */
static inline int kvt_timeout_ms(uint64_t now_ns, uint64_t deadline_ns)
{
    const uint64_t ms =
        deadline_ns <= now_ns ? 0 : (deadline_ns - now_ns + 999999) / 1000000;

    return ms > KVT_TIMEOUT_MS_MAX ? KVT_TIMEOUT_MS_MAX : (int)ms;
}

#endif
