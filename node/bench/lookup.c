/* How long it takes to learn from the home of 64 segments that they exist: EXISTS of 64
 * loose keys through one node's rings, whose homes are the two other nodes; beside a
 * plain exchange of as many bytes over TCP on loopback. */
#define _GNU_SOURCE
#include "node/bench/load.h"

#include "base/assert.h"
#include "base/codec.h"
#include "base/mem.h"
#include "base/thread.h"
#include "cluster/placement.h"
#include "include/kvrail/kvrail.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    NODES = 3,
    BATCH = 64,
    BATCHES = 16, /* that are asked in turn */
    QUICK_BATCHES = 2,
    KEYS_MAX = BATCHES * BATCH,
    PAGE_BYTES = 4096,
    WAIT_US = 5000000,
    SETTLE_S = 10, /* until a home has heard of all pages */
    SAMPLES_MAX = 1 << 17,
    MSG_BYTES = 16384,
};

struct lookups {
    struct kvn_bench_node *bench;
    struct kvn_world world;
    kvr_client_t *asker, *owner; /* of node 1; of node 2 */
    struct kvr_space space;
    uint32_t nr_keys;
    struct kvr_key keys[KEYS_MAX];
    double samples[SAMPLES_MAX]; /* µs */
    uint32_t nr_samples;
    /* The exchange: its two lengths, our socket and the other's. */
    uint32_t ask_bytes, answer_bytes;
    int fds[2];
    pthread_t other;
    bool other_runs;
};

/* ------------------------------------------------------------------ samples */

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void samples_begin(struct lookups *l)
{
    l->nr_samples = 0;
}

static void sample(struct lookups *l, double seconds)
{
    if (l->nr_samples < SAMPLES_MAX) {
        l->samples[l->nr_samples++] = seconds * 1e6;
    }
}

static void samples_end(struct lookups *l, struct kvn_take *take)
{
    qsort(l->samples, l->nr_samples, sizeof(*l->samples), compare);
    take->p50_us = l->samples[l->nr_samples / 2];
    take->p99_us = l->samples[(uint64_t)l->nr_samples * 99 / 100];
    take->pages = (uint64_t)l->nr_samples * BATCH;
}

/* ------------------------------------------------------------------ look-ups */

/* OK when every key of the batch is; MISS when one is not. */
static kvr_status_t
ask(kvr_client_t *client, const struct kvr_space *space, enum kvr_op op,
    const struct kvr_key *keys, const struct kvr_at *at)
{
    struct kvr_result result;
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .variant = space->variant,
        .timeout_us = WAIT_US,
        .keys = keys,
        .nr_keys = BATCH,
        .at = at,
        .loose = 1,
    };
    kvr_status_t status = kvr_submit(client, &batch);
    if (status == KVR_OK) {
        status = kvr_next(client, 2 * WAIT_US, &result);
    }
    if (status == KVR_OK) {
        status = result.status;
    }
    for (uint32_t i = 0; status == KVR_OK && i < BATCH; i++) {
        status = result.statuses[i];
    }
    return status;
}

static kv_status_t lookup_take(void *arg, double seconds, struct kvn_take *take)
{
    struct lookups *l = arg;
    const struct kvn_spent before = kvn_world_spent(&l->world);
    const double from = kvn_now_s();
    uint32_t at = 0;
    samples_begin(l);
    do {
        const double begin = kvn_now_s();
        kvr_status_t status =
            ask(l->asker, &l->space, KVR_OP_EXISTS, &l->keys[at], NULL);
        if (status != KVR_OK) {
            return kvn_figure_fail(
                l->bench, status, "EXISTS: %s; %s", kvr_status_text(status),
                kvr_error(l->asker));
        }
        sample(l, kvn_now_s() - begin);
        at = (at + BATCH) % l->nr_keys;
    } while ((l->bench->batches > 0 ? l->nr_samples < l->bench->batches
                                    : kvn_now_s() - from < seconds)
             && !kvn_figure_stopped(l->bench));
    take->seconds = kvn_now_s() - from;
    kvn_world_charge(&l->world, &before, take);
    samples_end(l, take);
    return KV_OK;
}

/* ------------------------------------------------------------------ the exchange */

static bool move_all(int fd, uint8_t *bytes, size_t len, bool out)
{
    while (len > 0) {
        const ssize_t n =
            out ? send(fd, bytes, len, MSG_NOSIGNAL) : recv(fd, bytes, len, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static void *answer_main(void *arg)
{
    const struct lookups *l = arg;
    uint8_t bytes[MSG_BYTES] = {0};
    while (move_all(l->fds[1], bytes, l->ask_bytes, false)
           && move_all(l->fds[1], bytes, l->answer_bytes, true)) {}
    return NULL; /* the other end has closed */
}

static kv_status_t exchange_take(void *arg, double seconds, struct kvn_take *take)
{
    struct lookups *l = arg;
    uint8_t bytes[MSG_BYTES] = {0};
    const double from = kvn_now_s();
    samples_begin(l);
    do {
        const double begin = kvn_now_s();
        if (!move_all(l->fds[0], bytes, l->ask_bytes, true)
            || !move_all(l->fds[0], bytes, l->answer_bytes, false)) {
            return kvn_figure_fail(
                l->bench, KV_ERR_IO, "TCP on loopback: %s", strerror(errno));
        }
        sample(l, kvn_now_s() - begin);
    } while (kvn_now_s() - from < seconds && !kvn_figure_stopped(l->bench));
    take->seconds = kvn_now_s() - from;
    samples_end(l, take);
    return KV_OK;
}

static int connect_pair(int fds[2])
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    const int on = 1;
    const struct timeval wait = {.tv_sec = WAIT_US / 1000000};
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener >= 0 && fds[0] >= 0 && bind(listener, (struct sockaddr *)&at, len) == 0
        && listen(listener, 1) == 0
        && getsockname(listener, (struct sockaddr *)&at, &len) == 0
        && connect(fds[0], (struct sockaddr *)&at, len) == 0) {
        fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    }
    for (unsigned i = 0; i < 2; i++) {
        (void)setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    (void)setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    if (listener >= 0) {
        close(listener);
    }
    return fds[1] >= 0 ? 0 : -1;
}

/* The lengths of the two messages that a batch is: LOOKUP of loose keys, and FOUND with
 * one holder each. */
static kv_status_t message_bytes(struct lookups *l)
{
    static struct kv_msg_segment segs[BATCH];
    static struct kv_msg_run runs[BATCH];
    static uint8_t bytes[MSG_BYTES];
    struct kv_msg_want want = {0};
    uint32_t holder = 2;
    size_t ask_len = 0, answer_len = 0;
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_LOOKUP,
        .req = 1 << 20,
        .link = UINT64_MAX,
        .epoch = 1,
        .deadline_left_us = WAIT_US,
    };
    for (uint32_t i = 0; i < BATCH; i++) {
        memcpy(segs[i].segment.b, l->keys[i].bytes, KV_KEY_BYTES);
        segs[i].keys = &segs[i].segment;
        segs[i].nr_keys = 1;
        runs[i] =
            (struct kv_msg_run){.seg = i, .n = 1, .holders = &holder, .nr_holders = 1};
    }
    msg.u.lookup = (struct kv_msg_lookup){
        .tenant = KVN_WORLD_TENANT,
        .wants = &want,
        .nr_wants = 1,
        .segs = segs,
        .nr_segs = BATCH,
    };
    kv_status_t status = kv_encode(&msg, bytes, sizeof(bytes), &ask_len, NULL);
    msg.type = KV_MSG_FOUND;
    msg.u.found = (struct kv_msg_found){.runs = runs, .nr_runs = BATCH};
    if (status == KV_OK) {
        status = kv_encode(&msg, bytes, sizeof(bytes), &answer_len, NULL);
    }
    l->ask_bytes = (uint32_t)ask_len;
    l->answer_bytes = (uint32_t)answer_len;
    return status == KV_OK
               ? KV_OK
               : kvn_figure_fail(l->bench, status, "a look-up cannot be encoded");
}

static kv_status_t exchange_open(struct lookups *l)
{
    kv_status_t status = message_bytes(l);
    if (status != KV_OK) {
        return status;
    }
    if (connect_pair(l->fds) != 0) {
        return kvn_figure_fail(
            l->bench, KV_ERR_IO, "TCP on loopback: %s", strerror(errno));
    }
    l->other_runs = kv_thread_start(&l->other, NULL, answer_main, l) == 0;
    return l->other_runs ? KV_OK : kvn_figure_fail(l->bench, KV_ERR_NOMEM, "no thread");
}

static void exchange_close(struct lookups *l)
{
    if (l->fds[0] >= 0) {
        close(l->fds[0]); /* and so the other's thread ends */
    }
    if (l->other_runs) {
        KV_ASSERT(pthread_join(l->other, NULL) == 0);
    }
    if (l->fds[1] >= 0) {
        close(l->fds[1]);
    }
}

/* ------------------------------------------------------------------ set up */

/* Keys whose homes are node 2, and after it node 3: node 1 has to ask. */
static kv_status_t keys_make(struct lookups *l)
{
    const struct kvc_member members[NODES] = {
        {.id = 1, .weight = 100}, {.id = 2, .weight = 100}, {.id = 3, .weight = 100}};
    struct kvc_view *view = kv_calloc(1, sizeof(*view));
    uint32_t nr = 0;
    if (view == NULL || kvc_view_build(view, 1, members, NODES, NULL) != KV_OK) {
        kv_free(view);
        return kvn_figure_fail(l->bench, KV_ERR_NOMEM, "out of memory");
    }
    for (uint64_t number = 0; nr < l->nr_keys; number++) {
        uint32_t homes[KVC_HOMES];
        kv_key_t key;
        if (kvr_key_opaque(&l->space, &number, sizeof(number), &l->keys[nr])
            != KVR_OK) {
            break;
        }
        memcpy(key.b, l->keys[nr].bytes, KV_KEY_BYTES);
        if (kvc_homes(view, &key, KVC_HOMES, homes) == KVC_HOMES
            && view->members[homes[0]].id == 2 && view->members[homes[1]].id == 3) {
            nr++;
        }
    }
    kv_free(view);
    return nr == l->nr_keys
               ? KV_OK
               : kvn_figure_fail(l->bench, KV_ERR_NOMEM, "no keys were derived");
}

static kv_status_t
client_open(struct lookups *l, unsigned node, kvr_client_t **client_p)
{
    char target[300], error[256] = "";
    kvn_world_target(&l->world, node, target, sizeof(target));
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = KVN_WORLD_TENANT};
    kvr_status_t status = kvr_open(&config, client_p, error, sizeof(error));
    return status == KVR_OK ? KV_OK : kvn_figure_fail(l->bench, status, "%s", error);
}

static kv_status_t store(struct lookups *l)
{
    struct kvr_buffer buffer;
    struct kvr_at at[BATCH];
    kvr_status_t status =
        kvr_buffer_create(l->owner, (size_t)BATCH * PAGE_BYTES, &buffer);
    for (uint32_t i = 0; status == KVR_OK && i < BATCH; i++) {
        at[i] = (struct kvr_at){.buffer = buffer.id, .offset = i * PAGE_BYTES};
    }
    for (uint32_t i = 0; status == KVR_OK && i < l->nr_keys; i += BATCH) {
        status = ask(l->owner, &l->space, KVR_OP_PUT, &l->keys[i], at);
    }
    return status == KVR_OK
               ? KV_OK
               : kvn_figure_fail(l->bench, status, "PUT: %s", kvr_error(l->owner));
}

/* Until node 1 is told of every page. */
static kv_status_t settle(struct lookups *l)
{
    const double from = kvn_now_s();
    uint32_t at = 0;
    while (at < l->nr_keys) {
        kvr_status_t status =
            ask(l->asker, &l->space, KVR_OP_EXISTS, &l->keys[at], NULL);
        at += status == KVR_OK ? BATCH : 0;
        if (kvn_figure_stopped(l->bench)) {
            return kvn_figure_fail(l->bench, KV_ERR_CANCELLED, "stopped by a signal");
        }
        if ((status != KVR_OK && status != KVR_MISS) || kvn_now_s() - from > SETTLE_S) {
            return kvn_figure_fail(
                l->bench, KV_ERR_DEADLINE,
                "a peer's pages are not found after %d s: %s", SETTLE_S,
                kvr_status_text(status));
        }
    }
    return KV_OK;
}

static kv_status_t set_up(struct lookups *l)
{
    const uint64_t bytes = (uint64_t)KEYS_MAX * PAGE_BYTES * 2;
    const struct kvn_world_config config = {
        .nr_nodes = NODES,
        .page_bytes = PAGE_BYTES,
        .page_tokens = 16,
        .node_bytes = {bytes, bytes, bytes},
        .verify_local = "off",
        .verify_reads = false,
        .poll = "200us",
        .transports = "named",
    };
    kv_status_t status = kvn_world_start(l->bench, &config, &l->world);
    if (status == KV_OK) {
        status = client_open(l, 0, &l->asker);
    }
    if (status == KV_OK) {
        status = client_open(l, 1, &l->owner);
    }
    if (status == KV_OK) {
        status = kvr_space_find(l->asker, KVN_WORLD_SPACE, &l->space);
    }
    if (status == KV_OK) {
        status = keys_make(l);
    }
    if (status == KV_OK) {
        status = store(l);
    }
    if (status == KV_OK) {
        status = settle(l);
    }
    return status == KV_OK ? exchange_open(l) : status;
}

kv_status_t kvn_figures_lookup(struct kvn_bench_node *bench)
{
    if (!kvn_figure_wants(bench, KVN_FIGURE_LOOKUP_P50, KVN_FIGURE_LOOKUP_P99)) {
        return KV_OK;
    }
    struct lookups *l = kv_calloc(1, sizeof(*l));
    if (l == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    l->bench = bench;
    l->fds[0] = l->fds[1] = -1;
    l->nr_keys = (bench->quick ? QUICK_BATCHES : BATCHES) * BATCH;
    kv_status_t status = set_up(l);
    if (status == KV_OK) {
        const struct kvn_figure_side sides[] = {
            {.rows = {KVN_FIGURE_LOOKUP_P50, KVN_FIGURE_LOOKUP_P99},
             .nr_rows = 2,
             .take = lookup_take,
             .arg = l},
            {.reference = "TCP exchange of as many bytes on loopback",
             .take = exchange_take,
             .arg = l},
        };
        status = kvn_figure_rounds(bench, sides, sizeof(sides) / sizeof(sides[0]));
    }
    status = kvn_world_blame(bench, &l->world, status);
    exchange_close(l);
    kvr_close(l->owner);
    kvr_close(l->asker);
    kvn_world_stop(&l->world);
    kv_free(l);
    return status;
}
