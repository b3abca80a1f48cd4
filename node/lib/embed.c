/* "embed:FILE": nodes of this process, and who of it uses them.
 *
 *   kvr_open ──► registry: a node a file ── first ──► configuration, log, kvn_host
 *       │                       └────────── else ───► one user more
 *       └──► socket pair: one end to the node's loop, one for attach.c, as for unix:
 *   kvr_close ──► one user less ── last ──► the node stops; with the last node, the log
 *
 * A file is its device and inode. The registry's lock is held over no start, stop or
 * configuration: such a node is STARTING or ENDING meanwhile, and whoever wants the
 * same file waits. It is held while the log starts and stops (one second at most).
 *
 * fork(): of the nodes nothing lives in the child but memory that it cannot use, and
 * the lock may be one that a thread of the parent held. So a child is told by its
 * number, before any lock is taken, and does nothing.
 *
 * exit(): a node would go on while destructors of libraries take away what it uses
 * (OpenSSL, libuv). So nodes that are still there stop when the process exits.
 *
 * Threading: any thread.
 */
#define _GNU_SOURCE
#include "node/lib/lib_priv.h"

#include "base/log.h"
#include "node/config.h"
#include "node/daemon/host.h"

#include <errno.h>
#include <limits.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum state { STARTING, RUNNING, ENDING };

struct kvr_embedded {
    struct kvr_embedded *next;
    dev_t device;
    ino_t inode;
    enum state state;
    uint32_t users; /* clients; 0 only when ENDING */
    kvn_host_t *host;
};

static struct {
    pthread_once_t once;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a node's state, or that there is one less */
    bool usable;            /* lock, condition and exit handler are there */
    struct kvr_embedded *first;
    /* The log, which is the process's: as the first of its nodes has it. */
    bool logs; /* it runs */
    uint32_t log_users;
    int log_level, log_format;
    char log_path[PATH_MAX];
    bool exiting;
} registry = {.once = PTHREAD_ONCE_INIT};

/* The process that first opened an embedded node; 0: nobody has. For children. */
static atomic_int owner;

static struct timespec monotonic(uint64_t us)
{
    return (struct timespec){
        .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};
}

/* ------------------------------------------------------------------ the log */

/* Its last lines are written: that takes a second at most. */
static void log_stop(void)
{
    if (registry.logs) {
        kv_log_stop();
    }
    registry.logs = false;
}

static void log_release(void)
{
    if (--registry.log_users == 0) {
        log_stop();
    }
}

static kvr_status_t log_start(kvr_client_t *client, const struct kv_log_config *log)
{
    struct kv_detail detail = {0};
    kv_status_t status = kv_log_start(log, &detail);
    if (status != KV_OK) {
        return kvr_fail_text(
            client, status, "log.file: %s: %s", log->path,
            detail.value != 0 ? strerror((int)detail.value) : kv_status_text(status));
    }
    registry.logs = true;
    registry.log_level = (int)log->level;
    registry.log_format = (int)log->format;
    (void)snprintf(registry.log_path, sizeof(registry.log_path), "%s", log->path);
    return KVR_OK;
}

/* Under the lock. A node that would log elsewhere than it says is refused. */
static kvr_status_t log_claim(kvr_client_t *client, const struct kvn_config *config)
{
    char path[700];
    kvn_config_path(config, config->log_file, path, sizeof(path));
    const struct kv_log_config log = {
        .level = (enum kv_log_level)config->log_level,
        .format = (enum kv_log_format)config->log_format,
        .path = path,
    };
    kvr_status_t status = KVR_OK;
    if (registry.log_users == 0) {
        status = log_start(client, &log);
    } else if (
        registry.log_level != config->log_level
        || registry.log_format != config->log_format
        || strcmp(registry.log_path, path) != 0) {
        status = kvr_fail_text(
            client, KV_ERR_CONFIG,
            "%.200s: log.file, log.level or log.format differs from that of another "
            "node in this process, which logs to %.100s: a process has one log",
            config->path,
            registry.log_path[0] != '\0' ? registry.log_path : "standard error");
    }
    registry.log_users += status == KVR_OK;
    return status;
}

/* ------------------------------------------------------------------ the registry */

/* Under the lock. */
static void entry_remove(struct kvr_embedded *entry, bool logs)
{
    struct kvr_embedded **at = &registry.first;
    while (*at != entry) {
        at = &(*at)->next;
    }
    *at = entry->next;
    if (logs) {
        log_release();
    }
    kv_free(entry);
    pthread_cond_broadcast(&registry.changed);
}

static void on_late_end(void *arg)
{
    pthread_mutex_lock(&registry.lock);
    entry_remove(arg, true);
    pthread_mutex_unlock(&registry.lock);
}

/* The entry's node ends, or has never run; then the entry is gone. */
static void entry_end(struct kvr_embedded *entry)
{
    if (!kvn_host_free(entry->host, KVR_EMBED_STOP_US, on_late_end, entry)) {
        kv_log(
            KV_LOG_ERROR, "node",
            "stop is not over after %u s and not waited for: does the resolver of "
            "nodes' names answer?",
            (unsigned)(KVR_EMBED_STOP_US / 1000000));
        return; /* on_late_end() */
    }
    on_late_end(entry);
}

/* Nodes end while all that they need is still there; those that other threads start or
 * end at this moment have the same time. Who closes a client later, in a destructor,
 * finds its node ended. */
static void at_exit(void)
{
    const uint64_t until_us = kvr_now_us() + KVR_EMBED_STOP_US;
    const struct timespec until = monotonic(until_us);
    bool ended = true, others = true;
    if (atomic_load(&owner) != (int)getpid()) {
        return; /* a child: see above */
    }
    pthread_mutex_lock(&registry.lock);
    registry.exiting = true; /* none is begun from here on */
    while (others) {
        others = false;
        for (struct kvr_embedded *e = registry.first; e != NULL; e = e->next) {
            if (e->state == RUNNING) {
                kvn_host_stop(e->host);
            }
            others = others || e->state != RUNNING;
        }
        if (others
            && pthread_cond_timedwait(&registry.changed, &registry.lock, &until) != 0) {
            break;
        }
    }
    for (struct kvr_embedded *e = registry.first; e != NULL; e = e->next) {
        const uint64_t now = kvr_now_us(), left = until_us > now ? until_us - now : 0;
        ended = e->state == RUNNING && kvn_host_ended(e->host, left) && ended;
    }
    if (ended) {
        log_stop();
    }
    pthread_mutex_unlock(&registry.lock);
}

/* What OpenSSL takes away at exit it registers when it begins, and what was registered
 * last goes first: so it begins before us. */
static void registry_init(void)
{
    pthread_condattr_t attr;
    if (OPENSSL_init_ssl(0, NULL) != 1 || pthread_condattr_init(&attr) != 0) {
        return;
    }
    registry.usable = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0
                      && pthread_cond_init(&registry.changed, &attr) == 0
                      && pthread_mutex_init(&registry.lock, NULL) == 0
                      && atexit(at_exit) == 0;
    pthread_condattr_destroy(&attr);
}

/* Under the lock, which is let go meanwhile: until no other thread starts or ends this
 * file's node. The node, or NULL: there is none. False: it takes too long. */
static bool
entry_find(const struct stat *file, uint64_t until_us, struct kvr_embedded **entry_p)
{
    const struct timespec until = monotonic(until_us);
    for (;;) {
        struct kvr_embedded *e = registry.first;
        while (e != NULL && (e->device != file->st_dev || e->inode != file->st_ino)) {
            e = e->next;
        }
        *entry_p = e;
        if (e == NULL || e->state == RUNNING) {
            return true;
        }
        if (pthread_cond_timedwait(&registry.changed, &registry.lock, &until) != 0) {
            return false;
        }
    }
}

/* ------------------------------------------------------------------ a node's start */

static kvr_status_t
config_load(kvr_client_t *client, const char *path, struct kvn_config **config_p)
{
    extern char **environ;
    const struct kvn_config_source source = {
        .path = path, .env = (const char *const *)environ};
    struct kvn_config_errors *errors = kv_calloc(1, sizeof(*errors));
    if (errors == NULL) {
        return kvr_fail_text(client, KV_ERR_NOMEM, "nomem: %s: out of memory", path);
    }
    kv_status_t status = kvn_config_load(&source, config_p, errors);
    if (status != KV_OK) {
        (void)kvr_fail_text(client, status, "%s", errors->lines[0]);
    }
    kv_free(errors);
    return status;
}

/* The entry is STARTING and ours. OK: its host runs. Else it may have one; *logs: it
 * has a share in the log. */
static kvr_status_t entry_start(
    kvr_client_t *client, const char *path, struct kvr_embedded *entry, bool *logs)
{
    struct kvn_config *config = NULL;
    kvn_host_t *host = NULL;
    char line[KVN_HOST_LINE_BYTES] = "";
    kvr_status_t status = config_load(client, path, &config);
    *logs = false;
    if (status != KVR_OK) {
        return status;
    }
    pthread_mutex_lock(&registry.lock);
    status = log_claim(client, config);
    *logs = status == KVR_OK;
    if (status != KVR_OK) {
        kvn_config_free(config);
    } else if (kvn_host_create(config, &host) != KV_OK) {
        status = kvr_fail_text(client, KV_ERR_NOMEM, "nomem: no thread for a node");
    }
    entry->host = host;
    pthread_mutex_unlock(&registry.lock);
    if (status != KVR_OK) {
        return status;
    }
    status = kvn_host_await(host, KVR_EMBED_START_US, line, sizeof(line));
    return status == KVR_OK ? KVR_OK : kvr_fail_text(client, status, "%s", line);
}

/* Under the lock, which it lets go. */
static kvr_status_t node_start(
    kvr_client_t *client, const char *path, const struct stat *file,
    struct kvr_embedded **entry_p)
{
    bool logs;
    struct kvr_embedded *entry = kv_calloc(1, sizeof(*entry));
    if (entry == NULL) {
        pthread_mutex_unlock(&registry.lock);
        return kvr_fail_text(client, KV_ERR_NOMEM, "nomem: %s: out of memory", path);
    }
    *entry = (struct kvr_embedded){
        .next = registry.first,
        .device = file->st_dev,
        .inode = file->st_ino,
        .users = 1,
    };
    registry.first = entry;
    pthread_mutex_unlock(&registry.lock);
    kvr_status_t status = entry_start(client, path, entry, &logs);
    pthread_mutex_lock(&registry.lock);
    const bool hosted = entry->host != NULL;
    entry->state = status == KVR_OK ? RUNNING : ENDING;
    if (!hosted) {
        entry_remove(entry, logs);
    }
    pthread_cond_broadcast(&registry.changed);
    pthread_mutex_unlock(&registry.lock);
    if (status == KVR_OK) {
        *entry_p = entry;
    } else if (hosted) {
        entry_end(entry);
    }
    return status;
}

/* ------------------------------------------------------------------ clients */

/* The node of that file, one user more. */
static kvr_status_t
node_get(kvr_client_t *client, const char *path, struct kvr_embedded **entry_p)
{
    struct stat file;
    struct kvr_embedded *entry;
    if (stat(path, &file) != 0) {
        return kvr_fail_text(
            client, KV_ERR_CONFIG, "config: %s: %s", path, strerror(errno));
    }
    pthread_mutex_lock(&registry.lock);
    const bool known = entry_find(&file, kvr_now_us() + KVR_EMBED_START_US, &entry);
    if (known && entry == NULL && !registry.exiting) {
        return node_start(client, path, &file, entry_p);
    }
    if (known && entry != NULL) {
        entry->users++;
        *entry_p = entry;
    }
    pthread_mutex_unlock(&registry.lock);
    return known && entry != NULL
               ? KVR_OK
               : kvr_fail_text(
                   client, KV_ERR_AGAIN,
                   "again: %s: its node is still starting or stopping", path);
}

void kvr_embed_release(struct kvr_embedded *entry)
{
    pthread_mutex_lock(&registry.lock);
    const bool last = --entry->users == 0;
    if (last) {
        entry->state = ENDING;
    }
    pthread_mutex_unlock(&registry.lock);
    if (last) {
        entry_end(entry);
    }
}

kvr_status_t kvr_embed_open(
    kvr_client_t *client, const struct kvr_config *config, const char *path)
{
    (void)config;
    int nobody = 0, ends[2];
    if (!atomic_compare_exchange_strong(&owner, &nobody, (int)getpid())
        && nobody != (int)getpid()) {
        return kvr_fail_text(
            client, KV_ERR_INVALID,
            "invalid: process %d, which had nodes in it, was forked: embed: is for a "
            "process that began with exec()",
            nobody);
    }
    if (pthread_once(&registry.once, registry_init) != 0 || !registry.usable) {
        return kvr_fail_text(
            client, KV_ERR_NOMEM, "nomem: no lock or exit handler, or no OpenSSL");
    }
    kvr_status_t status = node_get(client, path, &client->embedded);
    if (status != KVR_OK) {
        return status;
    }
    if (KV_FAULT()
        || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends)
               != 0) {
        return kvr_fail_text(client, KV_ERR_IO, "io: socketpair: %s", strerror(errno));
    }
    client->fd = ends[0];
    status = kvn_host_adopt(client->embedded->host, ends[1]);
    return status == KVR_OK ? KVR_OK
                            : kvr_fail_text(
                                client, status, "%s: the node takes no more clients",
                                kv_status_name(status));
}
