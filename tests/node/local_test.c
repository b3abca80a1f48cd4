/* What a client of a node on its machine is promised: its bytes, one status a key, one
 * result a batch whatever happens, and that nobody else pays for what it does. */
#include "base/fault.h"
#include "base/mem.h"
#include "tests/base/process_kit.h"
#include "tests/node/local_kit.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static struct lk lk;

static struct kvr_buffer buffer_of(kvr_client_t *client, uint32_t pages)
{
    struct kvr_buffer buffer;
    assert_int_equal(
        kvr_buffer_create(client, (size_t)pages * LK_PAGE_BYTES, &buffer), KVR_OK);
    return buffer;
}

static void
fill(const struct kvr_buffer *buffer, uint32_t at, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        lk_page((uint8_t *)buffer->base + (size_t)(at + i) * LK_PAGE_BYTES, first + i);
    }
}

static void
expect(const struct kvr_buffer *buffer, uint32_t at, uint64_t first, uint32_t n)
{
    uint8_t page[LK_PAGE_BYTES];
    for (uint32_t i = 0; i < n; i++) {
        lk_page(page, first + i);
        assert_memory_equal(
            (uint8_t *)buffer->base + (size_t)(at + i) * LK_PAGE_BYTES, page,
            sizeof(page));
    }
}

static uint32_t count(const int32_t *statuses, uint32_t n, kvr_status_t status)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < n; i++) {
        nr += statuses[i] == status;
    }
    return nr;
}

/* ------------------------------------------------------------------ batches */

enum { BATCH = 1000, ZERO_KEY = 100, NO_TOKENS = 500, MANY_TOKENS = 900 };

/* Of 1,000 keys three are bad: they cost themselves alone, and what was put comes back
 * byte for byte. */
static void batch__bad_keys_cost_themselves_alone(void **state)
{
    static struct kvr_key keys[BATCH];
    static struct kvr_at at[BATCH];
    static uint32_t n_tokens[BATCH];
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 2 * BATCH);
    fill(&buffer, 0, 0, BATCH);
    for (uint32_t i = 0; i < BATCH; i++) {
        keys[i] = lk_key(i);
        at[i] = (struct kvr_at){buffer.id, (uint64_t)i * LK_PAGE_BYTES};
        n_tokens[i] = LK_PAGE_TOKENS;
    }
    memset(&keys[ZERO_KEY], 0, sizeof(keys[0]));
    n_tokens[NO_TOKENS] = 0;
    n_tokens[MANY_TOKENS] = LK_PAGE_TOKENS + 1;
    struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = KVR_OP_PUT,
        .tag = 77,
        .timeout_us = LK_LATER_US,
        .keys = keys,
        .nr_keys = BATCH,
        .at = at,
        .n_tokens = n_tokens,
        .loose = 1,
    };
    struct kvr_result result;
    for (unsigned turn = 0; turn < 2; turn++) {
        assert_int_equal(kvr_submit(client, &batch), KVR_OK);
        assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
        assert_int_equal(result.tag, 77);
        assert_int_equal(result.status, KVR_OK);
        assert_int_equal(result.nr_keys, BATCH);
        kvr_status_t wanted = turn == 0 ? KVR_OK : KVR_EXISTS;
        assert_int_equal(count(result.statuses, BATCH, wanted), BATCH - 3);
        assert_int_equal(result.statuses[ZERO_KEY], KVR_INVALID);
        assert_int_equal(result.statuses[NO_TOKENS], KVR_INVALID);
        assert_int_equal(result.statuses[MANY_TOKENS], KVR_INVALID);
    }
    static int32_t statuses[BATCH];
    assert_int_equal(
        lk_batch(client, KVR_OP_GET, 0, BATCH, buffer.id, BATCH, statuses), KVR_OK);
    assert_int_equal(count(statuses, BATCH, KVR_OK), BATCH - 3);
    assert_int_equal(statuses[NO_TOKENS], KVR_MISS);
    expect(&buffer, BATCH, 0, ZERO_KEY);
    expect(&buffer, BATCH + MANY_TOKENS + 1, MANY_TOKENS + 1, BATCH - MANY_TOKENS - 1);
    kvr_close(client);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* Every operation, with its places and reasons. */
static void batch__each_operation_does_what_it_says(void **state)
{
    int32_t statuses[8];
    struct kvr_result result;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 16);
    fill(&buffer, 0, 0, 8);
    assert_int_equal(
        lk_submit(client, KVR_OP_EXISTS, 0, 8, 0, 0, 5, LK_LATER_US), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.statuses[3], KVR_MISS);
    assert_string_equal(kvr_miss_name(result.reasons[3]), "not_found");
    assert_int_equal(lk_batch(client, KVR_OP_PUT, 0, 4, buffer.id, 0, NULL), KVR_OK);
    assert_int_equal(
        lk_submit(client, KVR_OP_EXISTS, 0, 8, 0, 0, 6, LK_LATER_US), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(count(result.statuses, 8, KVR_OK), 4);
    assert_int_equal(result.places[0], KVR_FROM_HOST);
    assert_int_equal(lk_batch(client, KVR_OP_PIN, 0, 8, 0, 0, statuses), KVR_OK);
    assert_int_equal(count(statuses, 8, KVR_OK), 4);
    assert_int_equal(count(statuses, 8, KVR_MISS), 4);
    assert_int_equal(lk_batch(client, KVR_OP_UNPIN, 0, 8, 0, 0, statuses), KVR_OK);
    assert_int_equal(count(statuses, 8, KVR_OK), 4);
    assert_int_equal(lk_batch(client, KVR_OP_DROP, 0, 8, 0, 0, statuses), KVR_OK);
    assert_int_equal(count(statuses, 8, KVR_OK), 4);
    assert_int_equal(
        lk_batch(client, KVR_OP_GET, 0, 8, buffer.id, 8, statuses), KVR_OK);
    assert_int_equal(count(statuses, 8, KVR_MISS), 8);
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    kvr_close(client);
    lk_stop(&lk);
}

/* A prompt of two pages and a half: its keys are derived here, and the tail is a page
 * too. Another tenant's salt would give other keys. */
static void keys__of_a_prompt_find_its_pages(void **state)
{
    uint32_t tokens[20];
    struct kvr_key keys[3], again;
    struct kvr_space space, other;
    struct kvr_result result;
    size_t nr;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 8);
    fill(&buffer, 0, 40, 3);
    for (uint32_t i = 0; i < 20; i++) {
        tokens[i] = 1000 + i;
    }
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    assert_int_equal(kvr_space_find(client, "code", &other), KVR_OK);
    assert_int_equal(kvr_space_find(client, "none", &other), KVR_INVALID);
    assert_string_equal(
        kvr_error(client), "invalid: the node has no space \"none\" among its 2");
    assert_int_equal(space.nr_groups, 2);
    assert_int_equal(other.variant, 2);
    assert_memory_not_equal(space.salt, other.salt, sizeof(space.salt));
    assert_int_equal(kvr_keys_tokens(&space, tokens, 20, keys, 2, &nr), KVR_INVALID);
    assert_int_equal(kvr_keys_tokens(&space, tokens, 20, keys, 3, &nr), KVR_OK);
    assert_int_equal(nr, 3);
    assert_int_equal(
        kvr_key_next(&space, &keys[1], &tokens[16], 4, NULL, 0, &again), KVR_OK);
    assert_memory_equal(&again, &keys[2], sizeof(again));
    const struct kvr_at at[3] = {
        {buffer.id, 0}, {buffer.id, LK_PAGE_BYTES}, {buffer.id, 2 * LK_PAGE_BYTES}};
    const uint32_t n_tokens[3] = {8, 8, 4};
    struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = KVR_OP_PUT,
        .variant = (uint16_t)(space.variant + 1),
        .timeout_us = LK_LATER_US,
        .keys = keys,
        .nr_keys = 3,
        .at = at,
        .n_tokens = n_tokens,
    };
    assert_int_equal(kvr_submit(client, &batch), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(count(result.statuses, 3, KVR_OK), 3);
    memset(buffer.base, 0, 3 * LK_PAGE_BYTES);
    batch.op = KVR_OP_GET;
    assert_int_equal(kvr_submit(client, &batch), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(count(result.statuses, 3, KVR_OK), 3);
    expect(&buffer, 0, 40, 2);
    batch.variant = space.variant; /* the other group has none of them */
    assert_int_equal(kvr_submit(client, &batch), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(count(result.statuses, 3, KVR_MISS), 3);
    kvr_close(client);
    lk_stop(&lk);
}

/* What is wrong with a batch is named before anything is sent. */
static void submit__malformed_names_the_field(void **state)
{
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 2);
    assert_int_equal(
        lk_submit(client, KVR_OP_GET, 0, 2, buffer.id, 1, 0, LK_LATER_US), KVR_INVALID);
    assert_non_null(strstr(kvr_error(client), "batch.at.offset is 2048"));
    assert_int_equal(
        lk_submit(client, KVR_OP_GET, 0, 1, buffer.id + 1, 0, 0, LK_LATER_US),
        KVR_STALE);
    assert_int_equal(
        lk_submit(client, KVR_OP_GET, 0, 1, buffer.id, 0, 0, 0), KVR_INVALID);
    assert_non_null(strstr(kvr_error(client), "batch.timeout_us is 0"));
    assert_int_equal(
        lk_submit(client, KVR_OP_PIN, 0, 0, buffer.id, 0, 0, 0), KVR_INVALID);
    assert_int_equal(
        lk_submit(client, (enum kvr_op)6, 0, 1, buffer.id, 0, 0, 1), KVR_INVALID);
    struct kvr_key key = lk_key(1);
    struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = KVR_OP_PIN,
        .variant = 9,
        .keys = &key,
        .nr_keys = 1,
    };
    assert_int_equal(kvr_submit(client, &batch), KVR_INVALID);
    batch.variant = 0;
    batch.struct_size = 8;
    assert_int_equal(kvr_submit(client, &batch), KVR_INVALID);
    assert_int_equal(lk_counts(&lk).requests, 0);
    struct kvr_result result;
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_AGAIN);
    kvr_close(client);
    lk_stop(&lk);
}

/* ------------------------------------------------------------------ pressure */

static void hold_loop(struct lk *kit, void *arg)
{
    (void)kit;
    sem_t *gate = arg;
    while (sem_wait(gate) != 0) {}
}

static void *gate_open_later(void *arg)
{
    usleep(100000);
    sem_post(arg);
    return NULL;
}

/* While the node does nothing the ring fills, and submit says AGAIN; then every batch
 * that was taken has its result, once. */
static void submit__full_rings_say_again(void **state)
{
    struct kvr_result result;
    static bool seen[KVR_FLIGHT_MAX];
    sem_t gate;
    pthread_t thread;
    uint32_t sent = 0;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client_at(lk.path, 1 << 17);
    assert_non_null(client);
    assert_int_equal(sem_init(&gate, 0, 0), 0);
    lk.fn = hold_loop;
    lk.arg = &gate;
    assert_int_equal(uv_async_send(&lk.call), 0);
    usleep(20000);
    while (lk_submit(client, KVR_OP_EXISTS, 0, 100, 0, 0, sent, LK_LATER_US)
           == KVR_OK) {
        sent++;
    }
    assert_in_range(sent, 10, 1000);
    assert_non_null(strstr(kvr_error(client), "ring.bytes"));
    assert_int_equal(kvr_next(client, 1000, &result), KVR_AGAIN);
    assert_int_equal(pthread_create(&thread, NULL, gate_open_later, &gate), 0);
    memset(seen, 0, sizeof(seen));
    for (uint32_t i = 0; i < sent; i++) {
        assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
        assert_true(result.tag < sent && !seen[result.tag]);
        seen[result.tag] = true;
    }
    assert_int_equal(kvr_next(client, 1000, &result), KVR_AGAIN);
    pthread_join(thread, NULL);
    while (sem_wait(&lk.done) != 0) {}
    sem_destroy(&gate);
    kvr_close(client);
    lk_stop(&lk);
}

/* A client that reads nothing is served until its answer ring is spoken for, and no
 * further; the one beside it notices nothing. It may still read all of it later. */
static void client__that_never_reads_slows_itself_alone(void **state)
{
    struct kvr_result result;
    uint32_t sent = 0, got = 0;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *lazy = lk_client_at(lk.path, 1 << 17);
    kvr_client_t *busy = lk_client(&lk);
    assert_non_null(lazy);
    struct kvr_buffer buffer = buffer_of(busy, 64);
    fill(&buffer, 0, 0, 32);
    for (unsigned round = 0; round < 200; round++) {
        while (lk_submit(lazy, KVR_OP_PIN, 5000, 200, 0, 0, sent, 0) == KVR_OK) {
            sent++;
        }
        assert_int_equal(lk_batch(busy, KVR_OP_PUT, 0, 32, buffer.id, 0, NULL), KVR_OK);
        assert_int_equal(
            lk_batch(busy, KVR_OP_GET, 0, 32, buffer.id, 32, NULL), KVR_OK);
    }
    expect(&buffer, 32, 0, 32);
    assert_in_range(sent, 60, 120); /* two rings of 128 KiB full */
    while (kvr_next(lazy, LK_LATER_US, &result) == KVR_OK) {
        assert_int_equal(result.tag, got);
        got++;
    }
    assert_int_equal(got, sent);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    kvr_close(lazy);
    kvr_close(busy);
    lk_stop(&lk);
}

/* (4) of ring.h, in a node: what is promised to batches in flight is room that no later
 * answer takes, and all of them end although nothing was read meanwhile. */
static void client__that_never_reads_keeps_the_room_of_its_batches(void **state)
{
    enum { PUTS = 12 };
    struct kvr_result result;
    uint32_t sent = 0;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *lazy = lk_client_at(lk.path, 1 << 17);
    assert_non_null(lazy);
    struct kvr_buffer buffer = buffer_of(lazy, KVR_BATCH_MAX);
    lk_stuck(&lk, true);
    for (unsigned i = 0; sent < PUTS; i++) {
        assert_true(i < 20000);
        if (lk_submit(
                lazy, KVR_OP_PUT, 0, KVR_BATCH_MAX, buffer.id, 0, sent, 1000000)
            == KVR_OK) {
            sent++;
        } else {
            usleep(100); /* three of them fill the ring */
        }
    }
    for (unsigned round = 0; round < 200; round++) {
        while (lk_submit(lazy, KVR_OP_PIN, 5000, 200, 0, 0, sent, 0) == KVR_OK) {
            sent++;
        }
        usleep(1000);
    }
    usleep(1000000); /* now the deadlines have passed */
    lk_stuck(&lk, false);
    for (uint32_t got = 0; got < sent; got++) {
        assert_int_equal(kvr_next(lazy, LK_LATER_US, &result), KVR_OK);
        assert_int_not_equal(result.status, KVR_CANCELLED);
    }
    kvr_close(lazy);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* A deadline ends a batch whose copies do not move; the memory that a copy still uses
 * stays mapped here, although its buffer and its client are gone. */
static void put__late_ends_by_its_deadline_and_keeps_the_mapping(void **state)
{
    struct kvr_result result;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 8);
    fill(&buffer, 0, 0, 8);
    lk_stuck(&lk, true);
    assert_int_equal(
        lk_submit(client, KVR_OP_PUT, 0, 8, buffer.id, 0, 1, 20000), KVR_OK);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.status, KVR_OK);
    assert_int_equal(count(result.statuses, 8, KVR_DEADLINE), 8);
    kvr_buffer_destroy(client, &buffer);
    assert_int_equal(
        lk_batch(client, KVR_OP_EXISTS, 0, 8, 0, 0, NULL), KVR_OK); /* it was heard */
    assert_int_equal(lk_counts(&lk).mapped, 1);
    kvr_close(client);
    lk_await(&lk, 0, 1);
    assert_true(lk_frames(&lk, KVP_QUARANTINE) >= 8);
    lk_stuck(&lk, false);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_frames(&lk, KVP_FREE), LK_FRAMES);
    lk_stop(&lk);
}

/* A buffer given back while a batch needs it serves that batch, and no later one. */
static void buffer__destroyed_in_flight_lives_until_the_result(void **state)
{
    struct kvr_result result;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 8), next;
    fill(&buffer, 0, 0, 8);
    lk_stuck(&lk, true);
    assert_int_equal(
        lk_submit(client, KVR_OP_PUT, 0, 8, buffer.id, 0, 1, LK_LATER_US), KVR_OK);
    usleep(20000);
    uint32_t id = buffer.id;
    kvr_buffer_destroy(client, &buffer);
    next = buffer_of(client, 8);
    /* Copies that have not begun name the slot alone: it is nobody else's yet. */
    assert_int_not_equal(next.id % KVR_BUFFERS_MAX, id % KVR_BUFFERS_MAX);
    assert_int_equal(lk_counts(&lk).mapped, 2);
    lk_stuck(&lk, false);
    assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
    assert_int_equal(count(result.statuses, 8, KVR_OK), 8);
    lk_await(&lk, 1, 1);
    assert_int_equal(lk_batch(client, KVR_OP_GET, 0, 8, next.id, 0, NULL), KVR_OK);
    expect(&next, 0, 0, 8);
    kvr_close(client);
    lk_stop(&lk);
}

/* Buffers are bounded in number and bytes, and say so. */
static void buffer__beyond_a_limit_is_refused(void **state)
{
    struct kvr_buffer buffer, buffers[KVR_BUFFERS_MAX];
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    assert_int_equal(
        kvr_buffer_create(client, LK_BUFFER_BYTES + 1, &buffer), KVR_TOO_LARGE);
    assert_non_null(strstr(kvr_error(client), "buffer.bytes is 8388609"));
    assert_int_equal(kvr_buffer_create(client, 0, &buffer), KVR_INVALID);
    for (unsigned round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < KVR_BUFFERS_MAX; i++) {
            buffers[i] = buffer_of(client, 1);
        }
        assert_int_equal(kvr_buffer_create(client, 1, &buffer), KVR_AGAIN);
        for (uint32_t i = 0; i < KVR_BUFFERS_MAX; i++) {
            kvr_buffer_destroy(client, &buffers[i]);
        }
    }
    buffer = buffer_of(client, 1);
    lk_await(&lk, 1, 1);
    kvr_close(client);
    lk_stop(&lk);
}

/* ------------------------------------------------------------------ sleeping */

/* A node that does not poll at all and a client that does not spin wake each other. */
static void sleep__nobody_misses_a_wake(void **state)
{
    struct kvr_result result;
    (void)state;
    lk_init(&lk);
    lk.local_config.poll_us = 0;
    lk_start(&lk);
    char target[128];
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = LK_TENANT,
        .spin_us = 1};
    kvr_client_t *client;
    assert_int_equal(kvr_open(&config, &client, NULL, 0), KVR_OK);
    for (uint32_t i = 0; i < 2000; i++) {
        assert_int_equal(
            lk_submit(client, KVR_OP_EXISTS, i, 1, 0, 0, i, LK_LATER_US), KVR_OK);
        if (i % 50 == 0) {
            usleep(2000); /* long enough for it to be asleep, and for us */
        }
        assert_int_equal(kvr_next(client, LK_LATER_US, &result), KVR_OK);
        assert_int_equal(result.tag, i);
    }
    struct kvn_local_counts counts = lk_counts(&lk);
    assert_true(counts.wakes >= 40);
    kvr_close(client);
    lk_stop(&lk);
}

/* The descriptor of an engine's own loop: armed, it becomes readable with a result, and
 * when the node goes. */
static void fd__is_readable_with_a_result_and_at_the_end(void **state)
{
    struct kvr_result result;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 1);
    struct pollfd readable = {.fd = kvr_fd(client), .events = POLLIN};
    for (unsigned i = 0; i < 100; i++) {
        lk_stuck(&lk, true);
        uint64_t key = 100 + i;
        assert_int_equal(
            lk_submit(client, KVR_OP_PUT, key, 1, buffer.id, 0, i, LK_LATER_US),
            KVR_OK);
        assert_true(kvr_arm(client));
        assert_int_equal(poll(&readable, 1, 1), 0);
        lk_stuck(&lk, false);
        assert_int_equal(poll(&readable, 1, 10000), 1);
        assert_int_equal(kvr_next(client, 0, &result), KVR_OK);
        assert_int_equal(kvr_next(client, 0, &result), KVR_AGAIN);
    }
    assert_true(kvr_arm(client));
    lk_close_local(&lk);
    assert_int_equal(poll(&readable, 1, 10000), 1);
    assert_int_equal(kvr_next(client, 0, &result), KVR_LINK_LOST);
    assert_false(kvr_arm(client));
    kvr_close(client);
    lk_stop(&lk);
}

/* Answers that were given before the node went are answers; every other batch is
 * CANCELLED, once; then the client is of no more use, and says so. */
static void node__gone_cancels_what_is_in_flight(void **state)
{
    struct kvr_result result;
    uint32_t done = 0, cancelled = 0;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    kvr_client_t *client = lk_client(&lk);
    struct kvr_buffer buffer = buffer_of(client, 32);
    fill(&buffer, 0, 0, 32);
    lk_stuck(&lk, true);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(
            lk_submit(client, KVR_OP_PIN, i, 1, 0, 0, i, LK_LATER_US), KVR_OK);
        assert_int_equal(
            lk_submit(client, KVR_OP_PUT, i, 1, buffer.id, i, i + 10, LK_LATER_US),
            KVR_OK);
    }
    usleep(50000);
    lk_close_local(&lk);
    bool seen[20] = {false};
    while (kvr_next(client, LK_LATER_US, &result) == KVR_OK) {
        assert_true(result.tag < 20 && !seen[result.tag]);
        seen[result.tag] = true;
        done += result.status == KVR_OK;
        cancelled += result.status == KVR_CANCELLED;
        assert_true((result.status == KVR_OK) == (result.tag < 10));
    }
    assert_int_equal(done, 10);
    assert_int_equal(cancelled, 10);
    assert_int_equal(kvr_next(client, 0, &result), KVR_LINK_LOST);
    assert_int_equal(lk_submit(client, KVR_OP_PIN, 0, 1, 0, 0, 0, 0), KVR_LINK_LOST);
    assert_int_equal(kvr_buffer_create(client, 10, &buffer), KVR_LINK_LOST);
    kvr_close(client);
    lk_stop(&lk);
}

/* ------------------------------------------------------------------ opening */

static kvr_status_t open_as(const char *target, uint32_t tenant, char error[256])
{
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = tenant};
    kvr_client_t *client = NULL;
    kvr_status_t status = kvr_open(&config, &client, error, 256);
    assert_true((status == KVR_OK) == (client != NULL));
    kvr_close(client);
    return status;
}

/* A tenant of another uid and one that there is not look alike from outside. */
static void open__is_denied_for_what_the_uid_does_not_have(void **state)
{
    char target[128], error[256], other[256], line[KVN_LOCAL_NOTE_MAX];
    struct stat st;
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    assert_int_equal(stat(lk.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(open_as(target, LK_TENANT, error), KVR_OK);
    assert_int_equal(open_as(target, LK_FOREIGN, error), KVR_DENIED);
    assert_int_equal(open_as(target, 999, other), KVR_DENIED);
    assert_string_equal(error, other);
    lk_note(&lk, line);
    assert_non_null(strstr(line, "tenant 999 refused: denied"));
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_counts(&lk).refused, 2);
    assert_int_equal(open_as("unix:/nowhere/at/all", 1, error), KVR_LINK_LOST);
    assert_int_equal(open_as("tcp:host", 1, error), KVR_CONFIG);
    assert_int_equal(open_as(NULL, 1, error), KVR_CONFIG);
    lk_stop(&lk);
}

/* The core's table of clients is the bound; who leaves makes room. */
static void open__beyond_the_clients_is_again(void **state)
{
    char target[128], error[256];
    kvr_client_t *clients[8];
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    for (unsigned i = 0; i < 8; i++) {
        clients[i] = lk_client(&lk);
    }
    assert_int_equal(open_as(target, LK_TENANT, error), KVR_AGAIN);
    assert_non_null(strstr(error, "attach.clients is 9, the limit is 8"));
    kvr_close(clients[3]);
    lk_await(&lk, 7, 0);
    clients[3] = lk_client(&lk);
    for (unsigned i = 0; i < 8; i++) {
        kvr_close(clients[i]);
    }
    lk_stop(&lk);
}

/* A socket that a dead node left is removed, one that a living node answers is not, and
 * a file is nobody's socket. */
static void listen__takes_a_stale_path_and_no_other(void **state)
{
    char line[512];
    kvn_local_t *second = NULL;
    const struct kvn_local_events events = {0};
    (void)state;
    lk_init(&lk);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, lk.path, sizeof(address.sun_path));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    lk_start(&lk);
    kvr_close(lk_client(&lk));
    uv_loop_t loop;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(
        kvn_local_open(&loop, &lk.local_config, &events, &second, line, sizeof(line)),
        KV_ERR_IO);
    assert_non_null(strstr(line, "another node listens there"));
    struct kvn_local_config bad = lk.local_config;
    bad.path = "/proc/self/status";
    assert_int_equal(
        kvn_local_open(&loop, &bad, &events, &second, line, sizeof(line)),
        KV_ERR_CONFIG);
    bad.path = "/nowhere/node.sock";
    assert_int_equal(
        kvn_local_open(&loop, &bad, &events, &second, line, sizeof(line)), KV_ERR_IO);
    char path[120];
    memset(path, 'x', sizeof(path));
    path[108] = '\0';
    bad.path = path;
    assert_int_equal(
        kvn_local_open(&loop, &bad, &events, &second, line, sizeof(line)),
        KV_ERR_CONFIG);
    assert_string_equal(line, "local.path is 108, the limits are 0 and 107");
    assert_int_equal(uv_loop_close(&loop), 0);
    kvr_close(lk_client(&lk)); /* the first is as it was */
    lk_stop(&lk);
}

/* ------------------------------------------------------------------ failing calls */

static void nothing(struct lk *kit, void *arg)
{
    (void)kit, (void)arg;
}

/* Opening, a buffer and a batch with the n-th fallible call failing, for every n: on
 * either side. Nothing is left behind, and the node serves the next client. */
static void open__survives_every_fault(void **state)
{
    char target[128];
    (void)state;
    lk_init(&lk);
    lk_start(&lk);
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    kvr_client_t *warm = lk_client(&lk);
    struct kvr_key key;
    struct kvr_space space;
    assert_int_equal(kvr_space_find(warm, "chat", &space), KVR_OK);
    assert_int_equal(kvr_key_opaque(&space, "x", 1, &key), KVR_OK);
    kvr_close(warm);
    lk_await(&lk, 0, 0);
    lk_do(&lk, nothing, NULL); /* of two turns the first has closed its handles */
    lk_do(&lk, nothing, NULL);
    const struct lk_held before = lk_held();
    unsigned n = 0;
    for (bool whole = false; !whole; n++) {
        const struct kvr_config config = {
            .struct_size = sizeof(config),
            .target = target,
            .tenant = LK_TENANT,
            .timeout_us = 2000000,
        };
        kvr_client_t *client = NULL;
        struct kvr_buffer buffer;
        kv_fault_after(n + 1);
        kvr_status_t status = kvr_open(&config, &client, NULL, 0);
        assert_true((status == KVR_OK) == (client != NULL));
        if (status == KVR_OK) {
            status = kvr_buffer_create(client, LK_PAGE_BYTES, &buffer);
            whole = status == KVR_OK;
        }
        kv_fault_after(0);
        assert_true(status <= 0 && status != KVR_DEADLINE);
        kvr_close(client);
        lk_await(&lk, 0, 0);
        lk_await_held(&before);
        assert_true(n < 100);
    }
    assert_true(n > 12);
    kvr_client_t *client = lk_client(&lk);
    assert_int_equal(lk_batch(client, KVR_OP_EXISTS, 0, 4, 0, 0, NULL), KVR_OK);
    kvr_close(client);
    lk_stop(&lk);
}

static void ended(void *arg)
{
    *(bool *)arg = true;
}

/* The n-th fallible call of the node's side of opening fails, for each n: no socket,
 * descriptor or memory stays. Returns how many there are. */
static unsigned fail_to_listen(const char *group)
{
    const struct kvn_local_events events = {0};
    char line[512];
    lk_init(&lk);
    lk.local_config.group_too = group != NULL;
    lk.local_config.group = group;
    unsigned fds = process_kit_fds(), n = 0;
    int64_t live = kv_mem_live();
    for (kvn_local_t *local = NULL; local == NULL; n++) {
        uv_loop_t loop;
        bool closed = false;
        assert_int_equal(uv_loop_init(&loop), 0);
        kv_fault_after(n + 1);
        kv_status_t status = kvn_local_open(
            &loop, &lk.local_config, &events, &local, line, sizeof(line));
        kv_fault_after(0);
        assert_true((status == KV_OK) == (local != NULL));
        assert_true((line[0] == '\0') == (status == KV_OK));
        if (local != NULL) {
            kvn_local_close(local, ended, &closed);
            assert_int_equal(uv_run(&loop, UV_RUN_DEFAULT), 0);
            assert_true(closed);
        }
        assert_int_equal(uv_loop_close(&loop), 0);
        assert_int_equal(process_kit_fds(), fds);
        assert_int_equal(kv_mem_live(), live);
        assert_int_not_equal(access(lk.path, F_OK), 0);
    }
    assert_int_equal(rmdir(lk.dir), 0);
    return n - 1;
}

static void listen__survives_every_fault(void **state)
{
    const struct group *own = getgrgid(getgid());
    char number[16];
    (void)state;
    snprintf(number, sizeof(number), "%u", getgid());
    assert_int_equal(fail_to_listen(NULL), 5); /* three tables, the socket, listen */
    assert_int_equal(fail_to_listen(""), 6);   /* and who may connect */
    assert_int_equal(fail_to_listen(number), 6);
    if (own != NULL) {
        assert_int_equal(fail_to_listen(own->gr_name), 7); /* and its number */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch__bad_keys_cost_themselves_alone),
        cmocka_unit_test(batch__each_operation_does_what_it_says),
        cmocka_unit_test(keys__of_a_prompt_find_its_pages),
        cmocka_unit_test(submit__malformed_names_the_field),
        cmocka_unit_test(submit__full_rings_say_again),
        cmocka_unit_test(client__that_never_reads_slows_itself_alone),
        cmocka_unit_test(client__that_never_reads_keeps_the_room_of_its_batches),
        cmocka_unit_test(put__late_ends_by_its_deadline_and_keeps_the_mapping),
        cmocka_unit_test(buffer__destroyed_in_flight_lives_until_the_result),
        cmocka_unit_test(buffer__beyond_a_limit_is_refused),
        cmocka_unit_test(sleep__nobody_misses_a_wake),
        cmocka_unit_test(fd__is_readable_with_a_result_and_at_the_end),
        cmocka_unit_test(node__gone_cancels_what_is_in_flight),
        cmocka_unit_test(open__is_denied_for_what_the_uid_does_not_have),
        cmocka_unit_test(open__beyond_the_clients_is_again),
        cmocka_unit_test(listen__takes_a_stale_path_and_no_other),
        cmocka_unit_test(open__survives_every_fault),
        cmocka_unit_test(listen__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
