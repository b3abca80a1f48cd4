#include "node/daemon/host.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "node/daemon/node.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

_Static_assert(
    (int)KVN_HOST_LINE_BYTES >= (int)KVN_NODE_LINE_BYTES, "a node's line fits");

/*   STARTING ──► RUNNING ──► ENDED        each by the host's own thread
 *       └── the start failed ──►┘
 *
 * Under `lock`: state, stop, orphan, waiting. (1) The door is rung under the lock, in
 * RUNNING, and the loop closes it only after it has seen `stop` under the lock: so it
 * is never rung when it is closed. (2) After ENDED the thread touches nothing of the
 * host, unless it is an orphan: then nobody else does. */
enum host_state { HOST_STARTING, HOST_RUNNING, HOST_ENDED };

struct kvn_host {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* of state; its clock is the monotonic one */
    enum host_state state;
    bool stop, orphan;
    int waiting[KVN_HOST_WAITING_MAX];
    unsigned nr_waiting;
    void (*ended)(void *arg); /* of an orphan */
    void *arg;

    pthread_t thread;
    bool joined;
    struct kvn_config *config;
    kv_status_t status; /* of the start; constant after STARTING, as `line` is */
    char line[KVN_HOST_LINE_BYTES];

    /* The thread's. */
    uv_loop_t loop;
    uv_async_t door;
    kvn_node_t *node;
};

static void host_free(struct kvn_host *host)
{
    KV_ASSERT(host->nr_waiting == 0);
    pthread_cond_destroy(&host->changed);
    pthread_mutex_destroy(&host->lock);
    kvn_config_free(host->config);
    kv_free(host);
}

/* ------------------------------------------------------------------ its thread */

static void on_stopped(void *arg)
{
    struct kvn_host *host = arg;
    uv_close((uv_handle_t *)&host->door, NULL); /* the last handle */
}

static void on_door(uv_async_t *door)
{
    struct kvn_host *host = door->data;
    int fds[KVN_HOST_WAITING_MAX];
    pthread_mutex_lock(&host->lock);
    const unsigned nr = host->nr_waiting;
    const bool stop = host->stop;
    memcpy(fds, host->waiting, nr * sizeof(fds[0]));
    host->nr_waiting = 0;
    pthread_mutex_unlock(&host->lock);
    if (host->node == NULL) { /* told to stop, and rung once more */
        KV_ASSERT(nr == 0);
        return;
    }
    for (unsigned i = 0; i < nr; i++) {
        kvn_node_adopt(host->node, fds[i]);
    }
    if (stop) {
        kvn_node_t *node = host->node;
        host->node = NULL;
        kv_log(KV_LOG_INFO, "node", "node %u stops", kvn_node_id(node));
        kvn_node_stop(node, on_stopped, host);
    }
}

static kv_status_t start(struct kvn_host *host)
{
    char *line = host->line;
    const size_t cap = sizeof(host->line);
    if (KV_FAULT() || uv_async_init(&host->loop, &host->door, on_door) != 0) {
        snprintf(line, cap, "no event loop: too few file descriptors?");
        return KV_ERR_IO;
    }
    host->door.data = host;
    kv_status_t status =
        kvn_node_embed(&host->loop, host->config, &host->node, line, cap);
    if (status != KV_OK) {
        kv_log(KV_LOG_ERROR, "node", "%s", line);
        uv_close((uv_handle_t *)&host->door, NULL);
        return status;
    }
    kv_log(
        KV_LOG_INFO, "node",
        "node %u is ready in process %d: links on port %u, http on port %u",
        kvn_node_id(host->node), (int)getpid(), kvn_node_port(host->node),
        kvn_node_http_port(host->node));
    return KV_OK;
}

/* From the start to the end; what failed has its line. */
static void run(struct kvn_host *host)
{
    if (KV_FAULT() || uv_loop_init(&host->loop) != 0) {
        host->status = KV_ERR_IO;
        snprintf(
            host->line, sizeof(host->line), "no event loop: too few file descriptors?");
        return;
    }
    host->status = start(host);
    if (host->status == KV_OK) {
        pthread_mutex_lock(&host->lock);
        host->state = HOST_RUNNING;
        if (host->stop) {
            KV_ASSERT(uv_async_send(&host->door) == 0); /* (1) */
        }
        pthread_cond_broadcast(&host->changed);
        pthread_mutex_unlock(&host->lock);
    }
    (void)uv_run(&host->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&host->loop) != 0) {
        kv_log(KV_LOG_ERROR, "node", "handles are left behind: a bug");
    }
}

static void *host_main(void *arg)
{
    struct kvn_host *host = arg;
    run(host);
    pthread_mutex_lock(&host->lock);
    KV_ASSERT(host->nr_waiting == 0); /* on_door() had them all before it stopped */
    host->state = HOST_ENDED;
    const bool orphan = host->orphan;
    pthread_cond_broadcast(&host->changed);
    pthread_mutex_unlock(&host->lock);
    if (orphan) { /* (2) */
        void (*ended)(void *arg) = host->ended;
        void *ended_arg = host->arg;
        host_free(host);
        ended(ended_arg);
    }
    return NULL;
}

/* ------------------------------------------------------------------ from outside */

/* Under the lock, which is let go meanwhile: the state is at least this one. */
static bool await_state(struct kvn_host *host, enum host_state state, uint64_t wait_us)
{
    struct timespec until;
    KV_ASSERT(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
    const uint64_t ns = (uint64_t)until.tv_nsec + wait_us % 1000000 * 1000;
    until.tv_sec += (time_t)(wait_us / 1000000 + ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    int ret = 0;
    while (host->state < state && ret == 0) {
        ret = pthread_cond_timedwait(&host->changed, &host->lock, &until);
    }
    return host->state >= state;
}

static bool sync_init(struct kvn_host *host)
{
    pthread_condattr_t attr;
    if (KV_FAULT() || pthread_condattr_init(&attr) != 0) {
        return false;
    }
    bool all = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0
               && pthread_cond_init(&host->changed, &attr) == 0;
    pthread_condattr_destroy(&attr);
    if (all && pthread_mutex_init(&host->lock, NULL) != 0) {
        pthread_cond_destroy(&host->changed);
        all = false;
    }
    return all;
}

kv_status_t kvn_host_create(struct kvn_config *config, kvn_host_t **host_p)
{
    struct kvn_host *host = kv_calloc(1, sizeof(*host));
    if (host == NULL || !sync_init(host)) {
        kvn_config_free(config);
        kv_free(host);
        return KV_ERR_NOMEM;
    }
    host->config = config;
    if (kv_thread_start(&host->thread, NULL, host_main, host) != 0) {
        host_free(host);
        return KV_ERR_NOMEM;
    }
    *host_p = host;
    return KV_OK;
}

kv_status_t kvn_host_await(kvn_host_t *host, uint64_t wait_us, char *line, size_t cap)
{
    pthread_mutex_lock(&host->lock);
    const bool over = await_state(host, HOST_RUNNING, wait_us);
    pthread_mutex_unlock(&host->lock);
    if (!over) {
        snprintf(line, cap, "the node has not started within %" PRIu64 " us", wait_us);
        return KV_ERR_DEADLINE;
    }
    if (host->status != KV_OK) {
        snprintf(line, cap, "%s", host->line);
    }
    return host->status;
}

kv_status_t kvn_host_adopt(kvn_host_t *host, int fd)
{
    kv_status_t status = KV_OK;
    pthread_mutex_lock(&host->lock);
    if (host->state != HOST_RUNNING || host->stop) {
        status = KV_ERR_LINK_LOST;
    } else if (host->nr_waiting == KVN_HOST_WAITING_MAX || KV_FAULT()) {
        status = KV_ERR_AGAIN;
    } else {
        host->waiting[host->nr_waiting++] = fd;
        KV_ASSERT(uv_async_send(&host->door) == 0); /* (1) */
    }
    pthread_mutex_unlock(&host->lock);
    if (status != KV_OK) {
        close(fd);
    }
    return status;
}

void kvn_host_stop(kvn_host_t *host)
{
    pthread_mutex_lock(&host->lock);
    if (!host->stop) {
        host->stop = true;
        if (host->state == HOST_RUNNING) {
            KV_ASSERT(uv_async_send(&host->door) == 0); /* (1) */
        }
    }
    pthread_mutex_unlock(&host->lock);
}

/* With its end a thread gives back what libraries keep for it. */
static void join(struct kvn_host *host)
{
    if (!host->joined) {
        KV_ASSERT(pthread_join(host->thread, NULL) == 0);
        host->joined = true;
    }
}

bool kvn_host_ended(kvn_host_t *host, uint64_t wait_us)
{
    pthread_mutex_lock(&host->lock);
    const bool ended = await_state(host, HOST_ENDED, wait_us);
    pthread_mutex_unlock(&host->lock);
    if (ended) {
        join(host);
    }
    return ended;
}

bool kvn_host_free(
    kvn_host_t *host, uint64_t wait_us, void (*ended)(void *arg), void *arg)
{
    kvn_host_stop(host);
    pthread_mutex_lock(&host->lock);
    const bool over = await_state(host, HOST_ENDED, wait_us);
    if (!over) {
        host->orphan = true;
        host->ended = ended;
        host->arg = arg;
        KV_ASSERT(pthread_detach(host->thread) == 0);
    }
    pthread_mutex_unlock(&host->lock);
    if (over) {
        join(host);
        host_free(host);
    }
    return over;
}
