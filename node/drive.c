#include "node/drive_priv.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/placement.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    RETRY_US = 1000000, /* between two tries to attach to a node that is gone */
    SLEEP_MS_MAX = 100, /* results wake us before */
    STUCK_FACTOR = 4,   /* no request has ended for so many timeouts: give up */
};

uint64_t kvn_drive_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static const struct kvn_request *request_of(const struct kvn_drive_run *run, uint32_t r)
{
    return &run->trace->requests[r];
}

uint32_t kvn_drive_pages(const struct kvn_drive_run *run, uint32_t request)
{
    return request_of(run, request)->nr_pages;
}

const kv_key_t *
kvn_drive_key(const struct kvn_drive_run *run, uint32_t r, uint32_t page)
{
    KV_ASSERT(page < request_of(run, r)->nr_pages);
    return &run->keys[run->trace->ids[request_of(run, r)->first + page]];
}

struct kvr_key
kvn_drive_anchor(const struct kvn_drive_run *run, uint32_t request, uint32_t page)
{
    uint32_t opens = kvc_segment_at(page, run->trace->page_tokens).first;
    struct kvr_key anchor;
    memcpy(anchor.bytes, kvn_drive_key(run, request, opens), KVR_KEY_BYTES);
    return anchor;
}

/* ------------------------------------------------------------------ bytes */

void kvn_drive_write(uint8_t *bytes, uint32_t len, const kv_key_t *key)
{
    uint64_t seed = kv_key_word(key);
    for (uint32_t i = 0; i < len / 8; i++) {
        uint64_t word = kv_mix64(seed + i * KV_GOLDEN64);
        memcpy(bytes + 8 * (size_t)i, &word, sizeof(word));
    }
}

uint64_t kvn_drive_wrong(const uint8_t *bytes, uint32_t len, const kv_key_t *key)
{
    uint64_t seed = kv_key_word(key), wrong = 0;
    for (uint32_t i = 0; i < len / 8; i++) {
        uint64_t word = kv_mix64(seed + i * KV_GOLDEN64);
        wrong += memcmp(bytes + 8 * (size_t)i, &word, sizeof(word)) != 0 ? 8 : 0;
    }
    return wrong;
}

static uint8_t *
page_at(struct kvn_drive_run *run, const struct kvn_drive_flight *flight, uint32_t i)
{
    const struct kvn_drive_end *end = &run->ends[flight->node];
    size_t index = (size_t)(flight - run->flights) * KVN_DRIVE_WINDOW + i;
    return (uint8_t *)end->buffer.base + index * run->drive->page_bytes;
}

/* ------------------------------------------------------------------ counting */

static struct kvn_drive_counts *last_of(struct kvn_drive_run *run, uint32_t request)
{
    uint32_t nr = run->trace->nr_requests, last = run->config->last;
    return last > 0 && request + last >= nr ? &run->drive->last : NULL;
}

void kvn_drive_hit(struct kvn_drive_run *run, uint32_t request, uint8_t place)
{
    KV_ASSERT(place < KVN_DRIVE_PLACES); /* result_known() */
    run->drive->all.hits[place]++;
    if (last_of(run, request) != NULL) {
        last_of(run, request)->hits[place]++;
    }
}

void kvn_drive_misses(
    struct kvn_drive_run *run, uint32_t request, uint8_t reason, uint64_t n)
{
    KV_ASSERT(reason < KV_NR_MISSES); /* result_known() */
    run->drive->all.misses[reason] += n;
    if (last_of(run, request) != NULL) {
        last_of(run, request)->misses[reason] += n;
    }
}

static void count_unserved(struct kvn_drive_run *run, uint32_t request, uint64_t n)
{
    run->drive->all.unserved += n;
    if (last_of(run, request) != NULL) {
        last_of(run, request)->unserved += n;
    }
}

static void count_request(struct kvn_drive_run *run, uint32_t request)
{
    uint32_t n = request_of(run, request)->nr_pages;
    run->drive->all.requests++;
    run->drive->all.page_refs += n;
    if (last_of(run, request) != NULL) {
        last_of(run, request)->requests++;
        last_of(run, request)->page_refs += n;
    }
}

/* ------------------------------------------------------------------ nodes */

static kv_status_t fail(struct kvn_drive_run *run, kv_status_t status, const char *line)
{
    snprintf(run->drive->failure, sizeof(run->drive->failure), "%s", line);
    return status;
}

static void end_close(struct kvn_drive_end *end)
{
    kvr_close(end->client); /* and its buffer */
    end->client = NULL;
}

static kv_status_t end_open(struct kvn_drive_run *run, uint32_t node)
{
    struct kvn_drive_end *end = &run->ends[node];
    char target[1024], error[512] = "";
    const char *at = run->config->nodes[node];
    const bool embedded = strncmp(at, "embed:", 6) == 0;
    const bool whole = embedded || strstr(at, "://") != NULL;
    snprintf(target, sizeof(target), "%s%s", whole ? "" : "unix:", at);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = run->config->tenant,
        .level = run->config->pager ? KVR_LEVEL_PAGER : KVR_LEVEL_OBJECT,
    };
    kvr_status_t status = kvr_open(&config, &end->client, error, sizeof(error));
    if (status != KVR_OK) {
        end->client = NULL;
        return fail(run, KV_ERR_CONFIG, error);
    }
    status = kvr_space_find(end->client, run->config->space, &end->space);
    end->life++;
    if (status == KVR_OK && !run->config->pager) {
        size_t pages = (size_t)run->config->in_flight * KVN_DRIVE_WINDOW;
        status =
            kvr_buffer_create(end->client, pages * end->space.page_bytes, &end->buffer);
    }
    if (status != KVR_OK) {
        (void)fail(run, KV_ERR_CONFIG, kvr_error(end->client));
        end_close(end);
        return KV_ERR_CONFIG;
    }
    return KV_OK;
}

static kv_status_t make_keys(struct kvn_drive_run *run)
{
    const struct kvr_space *space = &run->ends[0].space;
    run->drive->page_bytes = space->page_bytes;
    for (uint32_t i = 0; i < run->config->nr_nodes; i++) {
        if (memcmp(&run->ends[i].space, space, sizeof(*space)) != 0) {
            return fail(
                run, KV_ERR_CONFIG, "the nodes' spaces or the tenant's secrets differ");
        }
    }
    if (space->page_tokens != run->trace->page_tokens) {
        char line[160];
        snprintf(
            line, sizeof(line), "page_tokens of the space is %u, of the trace %u",
            space->page_tokens, run->trace->page_tokens);
        return fail(run, KV_ERR_CONFIG, line);
    }
    run->keys = kv_calloc(run->trace->nr_ids, sizeof(*run->keys));
    run->ended = kv_calloc(run->trace->nr_requests, 1);
    if (run->keys == NULL || run->ended == NULL) {
        return fail(run, KV_ERR_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < run->trace->nr_ids; i++) {
        uint64_t name = i;
        struct kvr_key key;
        KV_ASSERT(kvr_key_opaque(space, &name, sizeof(name), &key) == KVR_OK);
        memcpy(&run->keys[i], key.bytes, sizeof(key.bytes));
    }
    return KV_OK;
}

/* ------------------------------------------------------------------ one request */

void kvn_drive_flight_end(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    run->ended[flight->request] = 1;
    run->nr_ended++;
    run->moved_us = kvn_drive_now_us();
    flight->step = KVN_DRIVE_IDLE;
    while (run->first < run->next && run->ended[run->first] != 0) {
        run->first++;
    }
}

static uint32_t next_pages(
    const struct kvn_drive_run *run, const struct kvn_drive_flight *flight,
    enum kvr_op op)
{
    uint32_t left = request_of(run, flight->request)->nr_pages - flight->done;
    bool chunk = op == KVR_OP_PUT && run->config->compute_us > 0;
    uint32_t most = chunk ? KVN_DRIVE_CHUNK : KVN_DRIVE_WINDOW;
    return left < most ? left : most;
}

static kvr_status_t
send_batch(struct kvn_drive_run *run, struct kvn_drive_flight *flight, enum kvr_op op)
{
    struct kvn_drive_end *end = &run->ends[flight->node];
    flight->n = next_pages(run, flight, op);
    for (uint32_t i = 0; i < flight->n; i++) {
        const kv_key_t *key = kvn_drive_key(run, flight->request, flight->done + i);
        memcpy(run->scratch[i].bytes, key, KVR_KEY_BYTES);
        run->at[i] = (struct kvr_at){
            .buffer = end->buffer.id,
            .offset = (uint64_t)(page_at(run, flight, i) - (uint8_t *)end->buffer.base),
        };
        if (op == KVR_OP_PUT) {
            kvn_drive_write(page_at(run, flight, i), run->drive->page_bytes, key);
        }
    }
    const struct kvr_key anchor = kvn_drive_anchor(run, flight->request, flight->done);
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .variant = end->space.variant,
        .tag = (uint64_t)(flight - run->flights),
        .timeout_us = run->config->timeout_us,
        .keys = run->scratch,
        .nr_keys = flight->n,
        .at = run->at,
        .first_page = flight->done,
        .anchor = &anchor,
    };
    return kvr_submit(end->client, &batch);
}

void kvn_drive_lost(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    uint32_t left = kvn_drive_pages(run, flight->request) - flight->done;
    if (flight->step == KVN_DRIVE_GETTING) {
        count_unserved(run, flight->request, left);
    } else {
        run->drive->unkept += left;
    }
    flight->done += left;
}

/* The node is gone, or does not take a batch. */
static void give_up(struct kvn_drive_run *run, struct kvn_drive_flight *flight)
{
    kvn_drive_lost(run, flight);
    kvn_drive_flight_end(run, flight);
}

static void
go(struct kvn_drive_run *run, struct kvn_drive_flight *flight, enum kvn_drive_step step)
{
    if (step == KVN_DRIVE_PUTTING && flight->step != KVN_DRIVE_COMPUTING
        && run->config->compute_us > 0) {
        uint64_t us = next_pages(run, flight, KVR_OP_PUT) * run->config->compute_us;
        flight->until_us = kvn_drive_now_us() + us;
        step = KVN_DRIVE_COMPUTING;
    }
    flight->step = step;
    if (flight->done == request_of(run, flight->request)->nr_pages) {
        kvn_drive_flight_end(run, flight);
        return;
    }
    if (step == KVN_DRIVE_COMPUTING) {
        return;
    }
    kvr_status_t status = KVR_LINK_LOST;
    if (run->ends[flight->node].client != NULL) {
        status = send_batch(
            run, flight, step == KVN_DRIVE_GETTING ? KVR_OP_GET : KVR_OP_PUT);
    }
    if (status != KVR_OK) {
        give_up(run, flight);
    }
}

static void
got(struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    uint32_t run_len = 0;
    while (run_len < flight->n && result->statuses[run_len] == KVR_OK) {
        const kv_key_t *key =
            kvn_drive_key(run, flight->request, flight->done + run_len);
        uint64_t wrong =
            kvn_drive_wrong(page_at(run, flight, run_len), run->drive->page_bytes, key);
        run->drive->wrong_bytes += wrong;
        run->drive->checked_bytes += run->drive->page_bytes;
        kvn_drive_hit(run, flight->request, result->places[run_len]);
        run_len++;
    }
    bool cut = run_len < flight->n;
    uint8_t reason = cut ? result->reasons[run_len] : 0;
    flight->done += run_len;
    if (!cut) {
        go(run, flight, KVN_DRIVE_GETTING);
        return;
    }
    uint32_t left = request_of(run, flight->request)->nr_pages - flight->done;
    kvn_drive_misses(run, flight->request, reason, left);
    go(run, flight, KVN_DRIVE_PUTTING);
}

static void
put(struct kvn_drive_run *run, struct kvn_drive_flight *flight,
    const struct kvr_result *result)
{
    for (uint32_t i = 0; i < flight->n; i++) {
        run->drive->stored += result->statuses[i] == KVR_OK;
        run->drive->existed += result->statuses[i] == KVR_EXISTS;
        run->drive->unkept += result->statuses[i] < 0;
    }
    flight->done += flight->n;
    go(run, flight, KVN_DRIVE_PUTTING);
}

/* A node's numbers are another program's: ours to refuse, not to assert. */
static bool result_known(const struct kvr_result *result)
{
    for (uint32_t i = 0; i < result->nr_keys; i++) {
        if (result->places[i] >= KVN_DRIVE_PLACES
            || result->reasons[i] >= KV_NR_MISSES) {
            return false;
        }
    }
    return true;
}

static void ended(struct kvn_drive_run *run, const struct kvr_result *result)
{
    if (result->op == KVR_OP_SEQ_CHANGED) {
        return; /* an equal page was first: the next confirm says so */
    }
    KV_ASSERT(result->tag < run->config->in_flight);
    struct kvn_drive_flight *flight = &run->flights[result->tag];
    KV_ASSERT(flight->step != KVN_DRIVE_IDLE);
    if (run->config->pager) {
        run->stray = run->stray || !result_known(result);
        if (!run->stray) {
            kvn_drive_pager_ended(run, flight, result);
        }
        return;
    }
    KV_ASSERT(result->nr_keys == flight->n);
    if (result->status == KVR_CANCELLED) {
        give_up(run, flight);
    } else if (flight->step == KVN_DRIVE_GETTING && !result_known(result)) {
        run->stray = true;
        give_up(run, flight);
    } else if (flight->step == KVN_DRIVE_GETTING) {
        got(run, flight, result);
    } else {
        put(run, flight, result);
    }
}

/* ------------------------------------------------------------------ all of them */

static uint32_t node_of(const struct kvn_drive_run *run, uint32_t request)
{
    uint32_t nr = run->config->nr_nodes;
    if (!run->config->skew) {
        return request % nr;
    }
    uint32_t tenth = request % 10;
    return tenth < 8 ? 0 : (tenth - 7) % nr;
}

/* Starts what the window allows. */
static void start_some(struct kvn_drive_run *run)
{
    while (run->next < run->trace->nr_requests
           && run->next - run->first < run->config->in_flight) {
        struct kvn_drive_flight *flight = run->flights;
        while (flight->step != KVN_DRIVE_IDLE) {
            flight++; /* fewer are under way than there are */
        }
        uint32_t request = run->next++;
        *flight = (struct kvn_drive_flight){
            .step = KVN_DRIVE_GETTING,
            .request = request,
            .node = node_of(run, request)};
        count_request(run, request);
        if (run->config->pager) {
            kvn_drive_pager_start(run, flight);
            continue;
        }
        go(run, flight, KVN_DRIVE_GETTING);
    }
}

/* Whose pages have been computed; when the next will be. */
static uint64_t compute_some(struct kvn_drive_run *run)
{
    uint64_t now = kvn_drive_now_us(), next = UINT64_MAX;
    for (uint32_t i = 0; i < run->config->in_flight; i++) {
        struct kvn_drive_flight *flight = &run->flights[i];
        bool pager = run->config->pager && flight->step == KVN_DRIVE_APPENDING;
        bool waits = flight->step == KVN_DRIVE_COMPUTING || (pager && flight->out == 0);
        if (waits && flight->until_us <= now) {
            if (run->config->pager) {
                kvn_drive_pager_due(run, flight);
            } else {
                go(run, flight, KVN_DRIVE_PUTTING);
            }
            waits = flight->step == KVN_DRIVE_COMPUTING;
        }
        if (waits && flight->until_us < next) {
            next = flight->until_us;
        }
    }
    return next;
}

static void node_gone(struct kvn_drive_run *run, uint32_t node)
{
    run->drive->lost++;
    end_close(&run->ends[node]);
    run->ends[node].retry_us = kvn_drive_now_us() + RETRY_US;
}

static bool take_results(struct kvn_drive_run *run)
{
    bool any = false;
    for (uint32_t i = 0; i < run->config->nr_nodes; i++) {
        struct kvn_drive_end *end = &run->ends[i];
        struct kvr_result result;
        kvr_status_t status = KVR_AGAIN;
        while (end->client != NULL
               && (status = kvr_next(end->client, 0, &result)) == KVR_OK) {
            ended(run, &result);
            any = true;
        }
        if (end->client != NULL && status != KVR_AGAIN) {
            node_gone(run, i);
            any = true;
        } else if (end->client == NULL && kvn_drive_now_us() >= end->retry_us) {
            end->retry_us = kvn_drive_now_us() + RETRY_US;
            (void)end_open(run, i);
        }
    }
    return any;
}

static void sleep_some(struct kvn_drive_run *run, uint64_t until_us)
{
    struct pollfd fds[KVN_DRIVE_NODES_MAX];
    nfds_t nr = 0;
    for (uint32_t i = 0; i < run->config->nr_nodes; i++) {
        kvr_client_t *client = run->ends[i].client;
        if (client == NULL) {
            continue;
        }
        if (kvr_arm(client) == 0) {
            return;
        }
        fds[nr++] = (struct pollfd){.fd = kvr_fd(client), .events = POLLIN};
    }
    uint64_t now = kvn_drive_now_us(), us = until_us > now ? until_us - now : 0;
    bool soon = us < SLEEP_MS_MAX * UINT64_C(1000);
    (void)poll(fds, nr, soon ? (int)((us + 999) / 1000) : SLEEP_MS_MAX);
}

static kv_status_t loop(struct kvn_drive_run *run)
{
    uint32_t nr = run->trace->nr_requests, said = UINT32_MAX;
    run->moved_us = kvn_drive_now_us();
    while (run->nr_ended < nr) {
        start_some(run);
        uint64_t next_us = compute_some(run);
        if (!take_results(run) && run->nr_ended < nr) {
            sleep_some(run, next_us);
        }
        if (run->config->progress != NULL && run->nr_ended != said) {
            said = run->nr_ended;
            run->config->progress(run->config->arg, said, nr);
        }
        if (run->stray) {
            return fail(
                run, KV_ERR_IO, "a node answers with numbers that are not known here");
        }
        if (kvn_drive_now_us() - run->moved_us
            > STUCK_FACTOR * run->config->timeout_us) {
            return fail(run, KV_ERR_IO, "requests do not end: a node hangs");
        }
    }
    return KV_OK;
}

kv_status_t kvn_drive_run(
    const struct kvn_drive_config *config, const struct kvn_trace *trace,
    struct kvn_drive *drive)
{
    KV_ASSERT(config->nr_nodes >= 1 && config->nr_nodes <= KVN_DRIVE_NODES_MAX);
    KV_ASSERT(config->in_flight >= 1 && config->in_flight <= KVN_DRIVE_IN_FLIGHT_MAX);
    *drive = (struct kvn_drive){0};
    struct kvn_drive_run *run = kv_calloc(1, sizeof(*run));
    if (run == NULL) {
        return KV_ERR_NOMEM;
    }
    run->config = config;
    run->trace = trace;
    run->drive = drive;
    kv_status_t status = KV_OK;
    for (uint32_t i = 0; status == KV_OK && i < config->nr_nodes; i++) {
        status = end_open(run, i);
    }
    if (status == KV_OK) {
        status = make_keys(run);
    }
    if (status == KV_OK) {
        status = loop(run);
    }
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        end_close(&run->ends[i]);
    }
    kv_free(run->keys);
    kv_free(run->ended);
    kv_free(run);
    return status;
}
