/* One client of the soak: batches of every kind at random, several in flight, every
 * byte of every hit checked against what its key says it must be.
 *
 *   soak_client unix:SOCKET SEED SLACK_MS     until it is killed, or SIGTERM
 *
 * A line of JSON about ten times a second, of this life: pages whose bytes were right
 * and wrong, results by operation and status, batches without a result SLACK_MS after
 * their deadline, calls that took that much longer than they may, and the longest wait.
 * When its node goes it opens again, until it can.
 *
 * Nobody else's bytes count as right: the place that a page lands in is spoiled before.
 */
#include "base/hash.h"
#include "include/kvrail/kvrail.h"

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    TENANT = 7,
    PAGE_BYTES = 16384,
    WORDS = PAGE_BYTES / 8,
    KEYS = 3000, /* more than the nodes hold together: pages leave all the time */
    BATCH_MAX = 24,
    FLIGHTS = 6,
    PINS = 4,      /* batches pinned at once */
    STATUSES = 80, /* from -STATUS_LEAST on */
    STATUS_LEAST = 64,
    OPS = KVR_OP_DROP + 1,
    TIMEOUT_US = 1000000,
    WAIT_US = 50000,
    REPORT_US = 100000,
    OPEN_PAUSE_US = 50000,
};

static const char *const op_names[OPS] = {"exists", "get",   "put",
                                          "pin",    "unpin", "drop"};

struct flight {
    bool used;
    enum kvr_op op;
    uint32_t n;
    uint32_t numbers[BATCH_MAX];
    uint64_t due_us; /* the result comes before this and the slack */
    bool late;       /* counted already */
};

static struct {
    kvr_client_t *client;
    struct kvr_space space;
    struct kvr_buffer buffer;
    struct kvr_key keys[KEYS];
    struct flight flights[FLIGHTS];
    struct flight pinned[PINS];
    struct kv_rng rng;
    uint64_t slack_us;

    uint64_t right, wrong, batches, late, slow_calls, opened, longest_us;
    uint64_t statuses[OPS][STATUSES];
} soak;

static volatile sig_atomic_t stopping;

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ------------------------------------------------------------------ contents */

static uint64_t *page_at(uint32_t flight, uint32_t i)
{
    return (uint64_t *)soak.buffer.base + ((size_t)flight * BATCH_MAX + i) * WORDS;
}

static void page_write(uint64_t *to, uint32_t number)
{
    for (uint64_t i = 0; i < WORDS; i++) {
        to[i] = kv_mix64((uint64_t)number << 32 | i);
    }
}

static bool page_right(const uint64_t *from, uint32_t number)
{
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < WORDS; i++) {
        wrong |= from[i] ^ kv_mix64((uint64_t)number << 32 | i);
    }
    return wrong == 0;
}

/* One word of each 4 KiB: no page that was there before passes for a new one. */
static void page_spoil(uint64_t *at)
{
    for (uint64_t i = 0; i < WORDS; i += 512) {
        at[i] = ~at[i];
    }
}

/* ------------------------------------------------------------------ batches */

static void draw_keys(struct flight *flight)
{
    /* A minimum of two draws: some pages are asked for far more often than others. */
    const uint32_t a = (uint32_t)kv_rng_below(&soak.rng, KEYS - BATCH_MAX);
    const uint32_t b = (uint32_t)kv_rng_below(&soak.rng, KEYS - BATCH_MAX);
    flight->n = 1 + (uint32_t)kv_rng_below(&soak.rng, BATCH_MAX);
    for (uint32_t i = 0; i < flight->n; i++) {
        flight->numbers[i] = (a < b ? a : b) + i;
    }
}

static enum kvr_op draw_op(void)
{
    const uint64_t draw = kv_rng_below(&soak.rng, 100);
    return draw < 50   ? KVR_OP_GET
           : draw < 80 ? KVR_OP_PUT
           : draw < 90 ? KVR_OP_EXISTS
           : draw < 95 ? KVR_OP_PIN
           : draw < 98 ? KVR_OP_DROP
                       : KVR_OP_UNPIN;
}

/* What is pinned is let go of later by the same batch, so that pins do not pile up. */
static bool take_pins(struct flight *flight)
{
    struct flight *pinned = &soak.pinned[kv_rng_below(&soak.rng, PINS)];
    if (flight->op == KVR_OP_PIN && !pinned->used) {
        *pinned = *flight;
        pinned->used = true;
        return true;
    }
    if (pinned->used) {
        *flight = *pinned;
        flight->op = KVR_OP_UNPIN;
        pinned->used = false;
        return true;
    }
    return false;
}

static void fill(uint32_t at, struct flight *flight)
{
    for (uint32_t i = 0; i < flight->n; i++) {
        if (flight->op == KVR_OP_PUT) {
            page_write(page_at(at, i), flight->numbers[i]);
        } else {
            page_spoil(page_at(at, i));
        }
    }
}

/* False: no room now, or the node is gone. */
static bool submit(uint32_t at)
{
    struct flight *flight = &soak.flights[at];
    struct kvr_key keys[BATCH_MAX];
    struct kvr_at places[BATCH_MAX];
    *flight = (struct flight){.op = draw_op()};
    draw_keys(flight);
    if ((flight->op == KVR_OP_PIN || flight->op == KVR_OP_UNPIN)
        && !take_pins(flight)) {
        return true;
    }
    const bool bytes = flight->op == KVR_OP_GET || flight->op == KVR_OP_PUT;
    if (bytes) {
        fill(at, flight);
    }
    for (uint32_t i = 0; i < flight->n; i++) {
        keys[i] = soak.keys[flight->numbers[i]];
        places[i] = (struct kvr_at){
            .buffer = soak.buffer.id,
            .offset = ((uint64_t)at * BATCH_MAX + i) * PAGE_BYTES};
    }
    const bool waits = bytes || flight->op == KVR_OP_EXISTS;
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = flight->op,
        .variant = soak.space.variant,
        .tag = at,
        .timeout_us = waits ? TIMEOUT_US : 0,
        .keys = keys,
        .nr_keys = flight->n,
        .at = bytes ? places : NULL,
        .loose = 1,
    };
    flight->due_us = now_us() + TIMEOUT_US;
    flight->used = kvr_submit(soak.client, &batch) == KVR_OK;
    return flight->used;
}

static void count(enum kvr_op op, int32_t status, uint64_t n)
{
    const int32_t at = status + STATUS_LEAST;
    soak.statuses[op][at >= 0 && at < STATUSES ? at : STATUSES - 1] += n;
}

static void take(const struct kvr_result *result)
{
    struct flight *flight = &soak.flights[result->tag % FLIGHTS];
    if (result->tag >= FLIGHTS || !flight->used || result->op != flight->op
        || (result->nr_keys != flight->n && result->nr_keys != 0)) {
        fprintf(stderr, "a result of no batch: tag %" PRIu64 "\n", result->tag);
        abort();
    }
    soak.batches++;
    flight->used = false;
    if (result->status != KVR_OK) {
        count(result->op, result->status, flight->n);
        return;
    }
    for (uint32_t i = 0; i < flight->n; i++) {
        count(result->op, result->statuses[i], 1);
        if (result->op != KVR_OP_GET || result->statuses[i] != KVR_OK) {
            continue;
        }
        if (page_right(page_at((uint32_t)result->tag, i), flight->numbers[i])) {
            soak.right++;
        } else {
            soak.wrong++;
        }
    }
}

/* ------------------------------------------------------------------ lives */

static void report(void)
{
    const char *comma = "";
    printf(
        "{\"right\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"batches\": %" PRIu64
        ", \"late\": %" PRIu64 ", \"slow_calls\": %" PRIu64 ", \"opened\": %" PRIu64
        ", \"longest_us\": %" PRIu64 ", \"statuses\": {",
        soak.right, soak.wrong, soak.batches, soak.late, soak.slow_calls, soak.opened,
        soak.longest_us);
    for (unsigned op = 0; op < OPS; op++) {
        for (int at = 0; at < STATUSES; at++) {
            if (soak.statuses[op][at] > 0) {
                printf(
                    "%s\"%s %s\": %" PRIu64, comma, op_names[op],
                    kvr_status_name((kvr_status_t)(at - STATUS_LEAST)),
                    soak.statuses[op][at]);
                comma = ", ";
            }
        }
    }
    printf("}}\n");
    fflush(stdout);
}

static void wait_longer_than(uint64_t began_us, uint64_t most_us, uint64_t *counter)
{
    const uint64_t took = now_us() - began_us;
    soak.longest_us = took > soak.longest_us ? took : soak.longest_us;
    *counter += took > most_us + soak.slack_us;
}

static void look_for_late(void)
{
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        struct flight *flight = &soak.flights[i];
        if (flight->used && !flight->late
            && now_us() > flight->due_us + soak.slack_us) {
            flight->late = true;
            soak.late++;
        }
    }
}

static bool open_client(const char *target)
{
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = TENANT};
    char error[256];
    const uint64_t began = now_us();
    const kvr_status_t status = kvr_open(&config, &soak.client, error, sizeof(error));
    wait_longer_than(began, 5 * TIMEOUT_US, &soak.slow_calls);
    if (status != KVR_OK) {
        soak.client = NULL;
        return false;
    }
    memset(soak.flights, 0, sizeof(soak.flights));
    memset(soak.pinned, 0, sizeof(soak.pinned));
    if (kvr_space_find(soak.client, "chat", &soak.space) != KVR_OK
        || soak.space.page_bytes != PAGE_BYTES
        || kvr_buffer_create(
               soak.client, (size_t)FLIGHTS * BATCH_MAX * PAGE_BYTES, &soak.buffer)
               != KVR_OK) {
        kvr_close(soak.client);
        soak.client = NULL;
        return false;
    }
    for (uint32_t i = 0; i < KEYS; i++) {
        char name[32];
        const int len = snprintf(name, sizeof(name), "soak %u", i);
        (void)kvr_key_opaque(&soak.space, name, (size_t)len, &soak.keys[i]);
    }
    soak.opened++;
    return true;
}

/* One submit where there is room, one result: false when the node is gone. */
static bool turn(void)
{
    struct kvr_result result;
    for (uint32_t i = 0; i < FLIGHTS; i++) {
        if (!soak.flights[i].used && !submit(i)) {
            break;
        }
    }
    const uint64_t began = now_us();
    const kvr_status_t status = kvr_next(soak.client, WAIT_US, &result);
    wait_longer_than(began, WAIT_US, &soak.slow_calls);
    if (status == KVR_OK) {
        take(&result);
    }
    return status != KVR_LINK_LOST;
}

static void on_term(int number)
{
    (void)number;
    stopping = 1;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: soak_client unix:SOCKET SEED SLACK_MS\n");
        return 2;
    }
    soak.rng = kv_rng_seed(strtoull(argv[2], NULL, 10));
    soak.slack_us = strtoull(argv[3], NULL, 10) * 1000;
    signal(SIGTERM, on_term);
    uint64_t reported = 0;
    while (!stopping) {
        if (soak.client == NULL && !open_client(argv[1])) {
            usleep(OPEN_PAUSE_US);
        } else if (!turn()) {
            kvr_close(soak.client);
            soak.client = NULL;
        }
        look_for_late();
        if (now_us() - reported > REPORT_US) {
            reported = now_us();
            report();
        }
    }
    report();
    kvr_close(soak.client);
    return 0;
}
