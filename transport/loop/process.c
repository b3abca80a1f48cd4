/* What the ports of one process share. A child of fork() begins with nothing of it: the
 * lock is taken before the fork and given back on both sides, so that the child's copy
 * is whole, and then the child forgets. */
#include "transport/loop/loop_priv.h"

#include "base/fault.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static struct {
    pthread_mutex_t lock;
    bool watches_fork, has_domain;
    char domain[KVT_LOOP_DOMAIN_BYTES];
    LIST_HEAD(, kvt_loop_port) listening;
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

void kvt_loop_lock(void)
{
    KV_ASSERT(pthread_mutex_lock(&process.lock) == 0);
}

void kvt_loop_unlock(void)
{
    KV_ASSERT(pthread_mutex_unlock(&process.lock) == 0);
}

void kvt_loop_wait(pthread_cond_t *condition)
{
    KV_ASSERT(pthread_cond_wait(condition, &process.lock) == 0);
}

static void child_forgets(void)
{
    process.has_domain = false;
    LIST_INIT(&process.listening);
    kvt_loop_unlock();
}

/* Under the lock. */
static kv_status_t begin(void)
{
    uint8_t random[(KVT_LOOP_DOMAIN_BYTES - 1) / 2];

    if (!process.watches_fork
        && (KV_FAULT()
            || pthread_atfork(kvt_loop_lock, kvt_loop_unlock, child_forgets) != 0)) {
        return KV_ERR_IO;
    }
    process.watches_fork = true;
    if (process.has_domain) {
        return KV_OK;
    }
    if (KV_FAULT()
        || getrandom(random, sizeof(random), GRND_NONBLOCK) != sizeof(random)) {
        return KV_ERR_IO;
    }
    for (unsigned i = 0; i < sizeof(random); i++) {
        (void)snprintf(process.domain + 2 * i, 3, "%02x", random[i]);
    }
    process.has_domain = true;
    return KV_OK;
}

kv_status_t kvt_loop_domain(char domain[KVT_LOOP_DOMAIN_BYTES])
{
    kvt_loop_lock();
    const kv_status_t status = begin();
    if (status == KV_OK) {
        memcpy(domain, process.domain, sizeof(process.domain));
    }
    kvt_loop_unlock();
    return status;
}

struct kvt_loop_port *kvt_loop_find(const char *name)
{
    struct kvt_loop_port *port;

    LIST_FOREACH(port, &process.listening, listening)
    {
        if (strcmp(port->name, name) == 0) {
            return port;
        }
    }
    return NULL;
}

kv_status_t
kvt_loop_publish(struct kvt_loop_port *port, const char *name, struct kv_detail *detail)
{
    kvt_loop_lock();
    kv_status_t status = begin();
    if (status == KV_OK && kvt_loop_find(name) != NULL) {
        status = kv_fail(
            detail, KV_ERR_AGAIN, "transport.listen: others that listen", 0, 1);
    }
    if (status == KV_OK) {
        memcpy(port->name, name, strlen(name) + 1);
        LIST_INSERT_HEAD(&process.listening, port, listening);
    }
    kvt_loop_unlock();
    return status;
}

void kvt_loop_withdraw(struct kvt_loop_port *port)
{
    if (port->name[0] != '\0') {
        LIST_REMOVE(port, listening);
        port->name[0] = '\0';
    }
}
