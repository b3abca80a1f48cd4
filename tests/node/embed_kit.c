#include "tests/node/embed_kit.h"

#include "base/assert.h"
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SECRET "00112233445566778899aabbccddeeff"

struct cluster_kit embed_nodes;

/* libuv closes its descriptors without the C library, so that the thread sanitizer
 * takes a number that is used again, by another thread, for the epoll descriptor of
 * before. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:epoll_wait\nrace:epoll_ctl\n";
}

int embed_set_up(void **state)
{
    (void)state;
    cluster_kit_make(&embed_nodes);
    return 0;
}

int embed_tear_down(void **state)
{
    (void)state;
    (void)unlink(embed_path("a.conf"));
    (void)unlink(embed_path("b.conf"));
    (void)unlink(embed_path("node.log"));
    return rmdir(embed_nodes.folder);
}

const char *embed_path(const char *name)
{
    return cluster_kit_path(&embed_nodes, name);
}

void embed_config_odd(
    const char *name, unsigned nr, unsigned node, const char *odd, const char *more)
{
    cluster_kit_write(
        &embed_nodes, name, nr,
        "[cluster]\nname = test\nnode = %u\n[tls]\nclear = yes\n"
        "[tenant \"%u\"]\nsecret = " SECRET "\nuids = %u\n"
        "[tenant \"%u\"]\nsecret = " SECRET "\nuids = %u\ndomain = own\n"
        "device_bytes = 64KiB\nfill = yes\n"
        "[space \"chat\"]\nmodel = m\npage_tokens = %u\npage_bytes = %u\n"
        "[limits]\nclients = 8\nrequests = 64\nfetching = 256\ncalls = 256\n"
        "reads = 256\ngrants = 256\nsequences = 32\n"
        "[directory]\nentries = 1024\n[data]\nconnections = 4\n"
        "[pager]\nhost_bytes = 1MiB\n%s%s",
        node, LK_TENANT, EMBED_NOBODY, EMBED_FILLER, EMBED_NOBODY, LK_PAGE_TOKENS,
        LK_PAGE_BYTES, odd, more);
}

void embed_config(const char *name, unsigned nr, unsigned node, const char *more)
{
    char log[200];
    snprintf(
        log, sizeof(log), "device_bytes = 64KiB\n[log]\nfile = %s\n",
        embed_path("node.log"));
    embed_config_odd(name, nr, node, log, more);
}

kvn_host_t *embed_host(const char *name)
{
    kvn_host_t *host = NULL;
    assert_int_equal(
        kvn_host_create(cluster_kit_load(embed_path(name)), &host), KV_OK);
    return host;
}

void embed_log_begin(void)
{
    const struct kv_log_config log = {
        .level = KV_LOG_INFO, .path = embed_path("node.log")};
    assert_int_equal(kv_log_start(&log, NULL), KV_OK);
}

kvr_status_t embed_try(
    const char *name, uint32_t tenant, enum kvr_level level, kvr_client_t **client_p,
    char *error, size_t cap)
{
    char target[256];
    snprintf(target, sizeof(target), "embed:%s", embed_path(name));
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = tenant,
        .timeout_us = LK_LATER_US,
        .level = level,
    };
    return kvr_open(&config, client_p, error, cap);
}

kvr_client_t *embed_open(const char *name, uint32_t tenant, enum kvr_level level)
{
    char error[700] = "";
    kvr_client_t *client = NULL;
    if (embed_try(name, tenant, level, &client, error, sizeof(error)) != KVR_OK) {
        fprintf(stderr, "%s\n", error);
    }
    KV_ASSERT(client != NULL); /* also on other threads than the test's */
    return client;
}

void embed_put(kvr_client_t *client, uint64_t first, uint32_t n)
{
    struct kvr_buffer buffer;
    int32_t statuses[EMBED_PAGES];
    KV_ASSERT(n <= EMBED_PAGES);
    KV_ASSERT(kvr_buffer_create(client, n * LK_PAGE_BYTES, &buffer) == KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        lk_page((uint8_t *)buffer.base + i * LK_PAGE_BYTES, first + i);
    }
    KV_ASSERT(lk_batch(client, KVR_OP_PUT, first, n, buffer.id, 0, statuses) == KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        KV_ASSERT(statuses[i] == KVR_OK || statuses[i] == KVR_EXISTS);
    }
    kvr_buffer_destroy(client, &buffer);
}

uint32_t
embed_get_from(kvr_client_t *client, uint64_t first, uint32_t n, uint32_t *peers_p)
{
    struct kvr_buffer buffer;
    struct kvr_result result;
    uint8_t wanted[LK_PAGE_BYTES];
    uint32_t hits = 0, peers = 0;
    KV_ASSERT(n <= EMBED_PAGES);
    KV_ASSERT(kvr_buffer_create(client, n * LK_PAGE_BYTES, &buffer) == KVR_OK);
    KV_ASSERT(
        lk_submit(client, KVR_OP_GET, first, n, buffer.id, 0, first, LK_LATER_US)
        == KVR_OK);
    KV_ASSERT(kvr_next(client, LK_LATER_US, &result) == KVR_OK);
    KV_ASSERT(result.status == KVR_OK && result.nr_keys == n);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *got = (uint8_t *)buffer.base + i * LK_PAGE_BYTES;
        const kvr_status_t status = result.statuses[i];
        lk_page(wanted, first + i);
        KV_ASSERT(status == KVR_OK || status == KVR_MISS);
        KV_ASSERT(status != KVR_OK || memcmp(got, wanted, LK_PAGE_BYTES) == 0);
        hits += status == KVR_OK;
        peers += status == KVR_OK && result.places[i] == KVR_FROM_PEER;
    }
    kvr_buffer_destroy(client, &buffer);
    if (peers_p != NULL) {
        *peers_p += peers;
    }
    return hits;
}

uint32_t embed_get(kvr_client_t *client, uint64_t first, uint32_t n)
{
    return embed_get_from(client, first, n, NULL);
}

struct process_kit_held embed_settled(const char *name)
{
    kvr_close(embed_open(name, LK_TENANT, KVR_LEVEL_OBJECT));
    return process_kit_held();
}
