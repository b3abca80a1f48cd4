#include "transport/tcp/resolve.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>

/* ---- text ----------------------------------------------------------------------- */

struct host_port {
    char host[KVT_ADDRESS_MAX];
    char service[6];
    uint16_t port;
};

/* 1 … 65535, digits alone. */
static bool port_parse(const char *text, uint16_t *port_p)
{
    uint32_t port = 0;
    size_t len = strlen(text);

    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || i >= 5) {
            return false;
        }
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    *port_p = (uint16_t)port;
    return port > 0 && port <= UINT16_MAX;
}

/* "10.0.0.1:7711", "[::1]:7711", "cache-3:7711". */
static bool split(const char *text, struct host_port *out)
{
    const char *colon = strrchr(text, ':');
    const char *host = text;

    if (colon == NULL || strnlen(text, KVT_ADDRESS_MAX) == KVT_ADDRESS_MAX
        || !port_parse(colon + 1, &out->port)) {
        return false;
    }
    size_t len = (size_t)(colon - text);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    } else if (memchr(host, ':', len) != NULL) {
        return false; /* IPv6 without brackets: which colon begins the port? */
    }
    if (len == 0) {
        return false;
    }
    memcpy(out->host, host, len);
    out->host[len] = '\0';
    memcpy(out->service, colon + 1, strlen(colon + 1) + 1);
    return true;
}

kv_status_t kvt_address_parse(const char *text, struct kvt_address *address_p)
{
    struct host_port parts;
    struct kvt_address address = {.len = 0};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

    if (!split(text, &parts)) {
        return KV_ERR_INVALID;
    }
    if (inet_pton(AF_INET, parts.host, &v4.sin_addr) == 1) {
        v4.sin_port = htons(parts.port);
        address.len = sizeof(v4);
        memcpy(&address.at, &v4, sizeof(v4));
    } else if (inet_pton(AF_INET6, parts.host, &v6.sin6_addr) == 1) {
        v6.sin6_port = htons(parts.port);
        address.len = sizeof(v6);
        memcpy(&address.at, &v6, sizeof(v6));
    } else {
        return KV_INPROGRESS;
    }
    *address_p = address;
    return KV_OK;
}

/* ---- the thread ----------------------------------------------------------------- */

struct job {
    uint64_t tag;
    char text[KVT_ADDRESS_MAX];
};

/* posted, answered and taken only grow: jobs[answered … posted) wait, and
 * results[taken … answered) do; posted - taken <= nr_jobs bounds both. */
struct kvt_resolver {
    pthread_mutex_t lock; /* never held while a name server is asked */
    pthread_cond_t posted_one;
    struct kvt_bell *told; /* of the port; not to be touched after quit */
    bool quit, asking, orphan;
    uint32_t nr_jobs;
    uint64_t posted, answered, taken;
    struct job *jobs;
    struct kvt_resolved *results;
    pthread_t thread;
};

static void resolver_free(struct kvt_resolver *resolver)
{
    pthread_cond_destroy(&resolver->posted_one);
    pthread_mutex_destroy(&resolver->lock);
    kv_free(resolver->results);
    kv_free(resolver->jobs);
    kv_free(resolver);
}

static void ask(const struct job *job, struct kvt_resolved *resolved)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV,
    };
    struct addrinfo *list = NULL;
    struct host_port parts;

    *resolved = (struct kvt_resolved){.tag = job->tag};
    if (!split(job->text, &parts)
        || getaddrinfo(parts.host, parts.service, &hints, &list) != 0) {
        return;
    }
    for (struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        if (resolved->nr_addresses < KVT_ADDRESSES
            && at->ai_addrlen <= sizeof(struct sockaddr_storage)) {
            struct kvt_address *to = &resolved->addresses[resolved->nr_addresses++];
            memcpy(&to->at, at->ai_addr, at->ai_addrlen);
            to->len = at->ai_addrlen;
        }
    }
    freeaddrinfo(list);
}

static void *resolver_main(void *arg)
{
    struct kvt_resolver *resolver = arg;
    struct kvt_resolved resolved;

    pthread_mutex_lock(&resolver->lock);
    while (!resolver->quit) {
        if (resolver->answered == resolver->posted) {
            pthread_cond_wait(&resolver->posted_one, &resolver->lock);
            continue;
        }
        const struct job job = resolver->jobs[resolver->answered % resolver->nr_jobs];
        resolver->asking = true;
        pthread_mutex_unlock(&resolver->lock);
        ask(&job, &resolved);
        pthread_mutex_lock(&resolver->lock);
        resolver->asking = false;
        if (!resolver->quit) {
            resolver->results[resolver->answered++ % resolver->nr_jobs] = resolved;
            kvt_bell_ring(resolver->told);
        }
    }
    const bool orphan = resolver->orphan;
    pthread_mutex_unlock(&resolver->lock);
    if (orphan) {
        resolver_free(resolver);
    }
    return NULL;
}

kv_status_t kvt_resolver_create(
    uint32_t nr_jobs, struct kvt_bell *told, struct kvt_resolver **resolver_p)
{
    kv_status_t status = KV_ERR_NOMEM;
    struct kvt_resolver *resolver = kv_calloc(1, sizeof(*resolver));

    KV_ASSERT(nr_jobs > 0);
    if (resolver == NULL) {
        return status;
    }
    pthread_mutex_init(&resolver->lock, NULL);
    pthread_cond_init(&resolver->posted_one, NULL);
    resolver->told = told;
    resolver->nr_jobs = nr_jobs;
    resolver->jobs = kv_calloc(nr_jobs, sizeof(*resolver->jobs));
    resolver->results = kv_calloc(nr_jobs, sizeof(*resolver->results));
    if (resolver->jobs == NULL || resolver->results == NULL) {
        goto err_free;
    }
    if (kv_thread_start(&resolver->thread, NULL, resolver_main, resolver) != 0) {
        status = KV_ERR_IO;
        goto err_free;
    }
    *resolver_p = resolver;
    return KV_OK;

err_free:
    resolver_free(resolver);
    return status;
}

void kvt_resolver_destroy(struct kvt_resolver *resolver)
{
    if (resolver == NULL) {
        return;
    }
    const pthread_t thread = resolver->thread;
    pthread_mutex_lock(&resolver->lock);
    resolver->quit = true;
    resolver->orphan = resolver->asking;
    const bool orphan = resolver->orphan;
    pthread_cond_signal(&resolver->posted_one);
    pthread_mutex_unlock(&resolver->lock);
    if (orphan) {
        pthread_detach(thread); /* it frees the rest when its question has ended */
        return;
    }
    pthread_join(thread, NULL);
    resolver_free(resolver);
}

kv_status_t
kvt_resolver_post(struct kvt_resolver *resolver, uint64_t tag, const char *text)
{
    kv_status_t status = KV_ERR_AGAIN;

    pthread_mutex_lock(&resolver->lock);
    if (resolver->posted - resolver->taken < resolver->nr_jobs) {
        struct job *job = &resolver->jobs[resolver->posted++ % resolver->nr_jobs];
        job->tag = tag;
        memcpy(job->text, text, strlen(text) + 1);
        pthread_cond_signal(&resolver->posted_one);
        status = KV_OK;
    }
    pthread_mutex_unlock(&resolver->lock);
    return status;
}

bool kvt_resolver_next(struct kvt_resolver *resolver, struct kvt_resolved *resolved)
{
    bool found = false;

    pthread_mutex_lock(&resolver->lock);
    if (resolver->taken != resolver->answered) {
        *resolved = resolver->results[resolver->taken++ % resolver->nr_jobs];
        found = true;
    }
    pthread_mutex_unlock(&resolver->lock);
    return found;
}
