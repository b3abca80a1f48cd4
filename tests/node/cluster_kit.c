#include "tests/node/cluster_kit.h"

#include "base/assert.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- files and ports ------------------------------------------------------------- */

/* All are bound before the first is given back. */
static void take_ports(struct cluster_kit *kit)
{
    int fds[CLUSTER_KIT_NODES];
    for (unsigned i = 0; i < CLUSTER_KIT_NODES; i++) {
        struct sockaddr_in address = {
            .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        KV_ASSERT(bind(fds[i], (struct sockaddr *)&address, len) == 0);
        KV_ASSERT(getsockname(fds[i], (struct sockaddr *)&address, &len) == 0);
        kit->ports[i] = ntohs(address.sin_port);
    }
    for (unsigned i = 0; i < CLUSTER_KIT_NODES; i++) {
        close(fds[i]);
    }
}

void cluster_kit_make(struct cluster_kit *kit)
{
    snprintf(kit->folder, sizeof(kit->folder), "/tmp/kvrail-nodes-XXXXXX");
    KV_ASSERT(mkdtemp(kit->folder) != NULL);
    take_ports(kit);
}

const char *cluster_kit_path(const struct cluster_kit *kit, const char *name)
{
    static _Thread_local char paths[8][CLUSTER_KIT_PATH_BYTES];
    static _Thread_local unsigned next;
    char *path = paths[next++ % KV_COUNT_OF(paths)];
    const int len = snprintf(path, sizeof(paths[0]), "%s/%s", kit->folder, name);
    KV_ASSERT(len > 0 && (size_t)len < sizeof(paths[0]));
    return path;
}

void cluster_kit_write(
    const struct cluster_kit *kit, const char *name, unsigned nr, const char *format,
    ...)
{
    va_list words;
    FILE *file = fopen(cluster_kit_path(kit, name), "w");
    KV_ASSERT(file != NULL && nr <= CLUSTER_KIT_NODES);
    va_start(words, format);
    KV_ASSERT(vfprintf(file, format, words) >= 0);
    va_end(words);
    for (unsigned i = 0; i < nr; i++) {
        fprintf(
            file, "[node \"%u\"]\naddress = 127.0.0.1:%u\n", i + 1, kit->ports[i]);
    }
    KV_ASSERT(fclose(file) == 0);
}

struct kvn_config *cluster_kit_load(const char *path)
{
    const struct kvn_config_source source = {.path = path};
    struct kvn_config *config = NULL;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    KV_ASSERT(errors != NULL);
    if (kvn_config_load(&source, &config, errors) != KV_OK) {
        fail_msg("%s", errors->lines[0]);
    }
    free(errors);
    return config;
}

/* ---- a node and its thread ------------------------------------------------------- */

static void on_call(uv_async_t *async)
{
    struct cluster_kit_node *node = async->data;
    node->fn(node->node, node->arg);
    KV_ASSERT(sem_post(&node->done) == 0);
}

static void on_stopped(void *arg)
{
    *(bool *)arg = true;
}

static void on_stop(uv_async_t *async)
{
    struct cluster_kit_node *node = async->data;
    kvn_node_stop(node->node, on_stopped, &node->stopped);
    uv_close((uv_handle_t *)&node->call, NULL);
    uv_close((uv_handle_t *)&node->stop, NULL);
}

static void *run(void *arg)
{
    (void)uv_run(&((struct cluster_kit_node *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

void cluster_kit_start(struct cluster_kit_node *node, const struct kvn_config *config)
{
    char line[KVN_NODE_LINE_BYTES] = "";
    *node = (struct cluster_kit_node){.node = NULL};
    assert_int_equal(sem_init(&node->done, 0, 0), 0);
    assert_int_equal(uv_loop_init(&node->loop), 0);
    assert_int_equal(uv_async_init(&node->loop, &node->call, on_call), 0);
    assert_int_equal(uv_async_init(&node->loop, &node->stop, on_stop), 0);
    node->call.data = node->stop.data = node;
    if (kvn_node_start(&node->loop, config, &node->node, line, sizeof(line)) != KV_OK) {
        fail_msg("%s", line);
    }
    node->port = kvn_node_port(node->node);
    assert_int_equal(pthread_create(&node->thread, NULL, run, node), 0);
}

void cluster_kit_do(
    struct cluster_kit_node *node, void (*fn)(kvn_node_t *node, void *arg), void *arg)
{
    node->fn = fn;
    node->arg = arg;
    uv_async_send(&node->call);
    while (sem_wait(&node->done) != 0) {}
}

void cluster_kit_tell_stop(struct cluster_kit_node *node)
{
    uv_async_send(&node->stop);
}

void cluster_kit_join(struct cluster_kit_node *node)
{
    assert_int_equal(pthread_join(node->thread, NULL), 0);
    assert_true(node->stopped);
    assert_int_equal(uv_loop_close(&node->loop), 0);
    sem_destroy(&node->done);
}
