/* Is every other member to be reached? Names are resolved and ports tried by a few
 * threads at once, because a resolver may block for longer than anybody waits: who is
 * not done in time is left behind, with memory that it alone still has.
 *
 * (1) A board is freed by who lets go of it last: the threads and the asker count.
 * (2) Nothing is said to the member: a connection that opens is closed again, which
 * costs it one that is not introduced.
 */
#define _GNU_SOURCE
#include "node/address.h"
#include "node/daemon/doctor.h"
#include "node/report.h"

#include "base/fault.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { WAITS, TRIED, REACHED, UNREACHED, UNKNOWN };

struct member {
    uint32_t id;
    char address[KV_OPT_TEXT_BYTES];
    enum state state;
    uint64_t took_us;
    char why[128];
};

struct board {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    unsigned holders; /* (1) */
    uint32_t nr, next, nr_done;
    uint64_t until_us;
    struct member members[];
};

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void board_let_go(struct board *board)
{
    pthread_mutex_lock(&board->lock);
    const bool last = --board->holders == 0;
    pthread_mutex_unlock(&board->lock);
    if (last) {
        pthread_cond_destroy(&board->moved);
        pthread_mutex_destroy(&board->lock);
        kv_free(board);
    }
}

/* ---- one member ------------------------------------------------------------------ */

/* 0, or errno. */
static int reach(const struct addrinfo *to, uint64_t until_us)
{
    const int fd =
        socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    int error = 0;
    if (fd < 0) {
        return errno;
    }
    if (connect(fd, to->ai_addr, to->ai_addrlen) != 0) {
        error = errno;
    }
    if (error == EINPROGRESS) {
        const uint64_t now = now_us();
        struct pollfd poller = {.fd = fd, .events = POLLOUT};
        socklen_t len = sizeof(error);
        const int ms = now < until_us ? (int)((until_us - now) / 1000) : 0;
        if (poll(&poller, 1, ms) <= 0) {
            error = ETIMEDOUT;
        } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
            error = errno;
        }
    }
    close(fd);
    return error;
}

/* Into `result`, which nobody else sees yet. */
static void try_member(struct member *result, uint64_t until_us)
{
    const uint64_t start = now_us();
    const struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct kvn_address address;
    struct addrinfo *list = NULL;
    char port[8], why[128];
    if (kvn_address_parse(result->address, &address, why, sizeof(why)) != KV_OK) {
        result->state = UNKNOWN;
        (void)snprintf(result->why, sizeof(result->why), "%.120s", why);
        return;
    }
    (void)snprintf(port, sizeof(port), "%u", address.port);
    const int unknown = getaddrinfo(address.host, port, &hints, &list);
    if (unknown != 0) {
        result->state = UNKNOWN;
        (void)snprintf(result->why, sizeof(result->why), "%s", gai_strerror(unknown));
        return;
    }
    int error = EADDRNOTAVAIL;
    for (const struct addrinfo *to = list; to != NULL && error != 0; to = to->ai_next) {
        error = reach(to, until_us);
    }
    freeaddrinfo(list);
    result->state = error == 0 ? REACHED : UNREACHED;
    result->took_us = now_us() - start;
    (void)snprintf(result->why, sizeof(result->why), "%s", strerror(error));
}

static void *work(void *arg)
{
    struct board *board = arg;
    pthread_mutex_lock(&board->lock);
    while (board->next < board->nr && now_us() < board->until_us) {
        struct member *member = &board->members[board->next++];
        member->state = TRIED;
        struct member result = *member;
        pthread_mutex_unlock(&board->lock);
        try_member(&result, board->until_us);
        pthread_mutex_lock(&board->lock);
        *member = result;
        board->nr_done++;
        pthread_cond_signal(&board->moved);
    }
    pthread_mutex_unlock(&board->lock);
    board_let_go(board);
    return NULL;
}

/* ---- all of them ----------------------------------------------------------------- */

static struct board *board_make(const struct kvn_doctor *doctor)
{
    const struct kvn_config *config = doctor->config;
    struct board *board =
        kv_calloc(1, sizeof(*board) + config->nr_nodes * sizeof(board->members[0]));
    pthread_condattr_t monotonic;
    if (board == NULL) {
        return NULL;
    }
    pthread_mutex_init(&board->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&board->moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    board->holders = 1;
    board->until_us = now_us() + doctor->timeout_us;
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        if (i != doctor->self) {
            struct member *member = &board->members[board->nr++];
            member->id = config->nodes[i].id;
            memcpy(member->address, config->nodes[i].address, sizeof(member->address));
        }
    }
    return board;
}

/* How many threads have begun. */
static unsigned board_start(struct board *board)
{
    unsigned nr = 0;
    while (nr < KVN_DOCTOR_THREADS && nr < board->nr) {
        pthread_t thread;
        pthread_mutex_lock(&board->lock);
        board->holders++;
        pthread_mutex_unlock(&board->lock);
        if (KV_FAULT() || pthread_create(&thread, NULL, work, board) != 0) {
            board_let_go(board);
            break;
        }
        pthread_detach(thread);
        nr++;
    }
    return nr;
}

/* Until all are done, or the time is over. */
static void board_wait(struct board *board)
{
    const struct timespec until = {
        .tv_sec = (time_t)(board->until_us / 1000000),
        .tv_nsec = (long)(board->until_us % 1000000) * 1000,
    };
    int over = 0;
    while (board->nr_done < board->nr && over == 0) {
        over = pthread_cond_timedwait(&board->moved, &board->lock, &until);
    }
}

static void say_members(struct kvn_doctor *doctor, const struct board *board)
{
    uint32_t reached = 0;
    for (uint32_t i = 0; i < board->nr; i++) {
        const struct member *member = &board->members[i];
        char took[KVN_TEXT_BYTES];
        switch (member->state) {
        case REACHED:
            if (++reached <= KVN_DOCTOR_MEMBERS_SHOWN) {
                kvn_doctor_say(
                    doctor, KVN_DOCTOR_OK, "member", NULL,
                    "node %" PRIu32 ": %.120s is open, in %s", member->id,
                    member->address, kvn_text_time(member->took_us, took));
            }
            break;
        case UNREACHED:
            kvn_doctor_say(
                doctor, KVN_DOCTOR_WARN, "member",
                "is it started, and does a firewall let this port through?",
                "node %" PRIu32 ": %.120s: %s", member->id, member->address,
                member->why);
            break;
        case UNKNOWN:
            kvn_doctor_say(
                doctor, KVN_DOCTOR_FAIL, "member",
                "write its address, or mend the name in DNS or /etc/hosts",
                "node %" PRIu32 ": %.120s: %s", member->id, member->address,
                member->why);
            break;
        case WAITS:
        case TRIED:
            kvn_doctor_say(
                doctor, KVN_DOCTOR_WARN, "member",
                "does its name resolve? --timeout-ms waits longer",
                "node %" PRIu32 ": %.120s: no answer in time", member->id,
                member->address);
        }
    }
    if (reached > KVN_DOCTOR_MEMBERS_SHOWN) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_OK, "member", NULL, "… and %" PRIu32 " more are open",
            reached - KVN_DOCTOR_MEMBERS_SHOWN);
    }
}

void kvn_doctor_members(struct kvn_doctor *doctor)
{
    struct board *board = board_make(doctor);
    if (board == NULL) {
        kvn_doctor_say(doctor, KVN_DOCTOR_FAIL, "member", NULL, "out of memory");
        return;
    }
    if (board->nr > 0 && board_start(board) == 0) {
        kvn_doctor_say(
            doctor, KVN_DOCTOR_FAIL, "member", "ulimit -u", "no thread can be made");
    } else {
        pthread_mutex_lock(&board->lock);
        board_wait(board);
        say_members(doctor, board);
        pthread_mutex_unlock(&board->lock);
    }
    board_let_go(board);
}
