/* Clients on other hosts, between links, remote and the core. */
#include "node/daemon/node_priv.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint32_t kvn_node_remote_tenants(
    const struct kvn_config *config, struct kvn_tls_tenant *tenants,
    char paths[][KVN_NODE_PATH_BYTES])
{
    uint32_t nr = 0;
    for (uint32_t i = 0; config->remote_clients && i < config->nr_tenants; i++) {
        const struct kvn_config_tenant *tenant = &config->tenants[i];
        if (tenant->client_psk[0] != '\0') {
            kvn_config_path(
                config, tenant->client_psk, paths[nr], KVN_NODE_PATH_BYTES);
            tenants[nr] = (struct kvn_tls_tenant){tenant->id, paths[nr]};
            nr++;
        }
    }
    return nr;
}

static void client_complete(void *arg, uint64_t id, const struct kvo_done *done)
{
    struct kvn_node *node = arg;
    kvo_complete(node->core, kvn_node_now(node), id, done);
}

void kvn_node_remote_session(
    void *arg, int fd, kvn_tls_session_t *tls, uint32_t tenant, const char *address)
{
    struct kvn_node *node = arg;
    if (node->remote == NULL) { /* this node closes */
        close(fd);
        kvn_tls_close(tls);
        return;
    }
    kvn_remote_take(node->remote, fd, tls, tenant, address);
}

kv_status_t kvn_node_remote_start(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    if (!config->remote_clients) {
        return KV_OK;
    }
    struct {
        struct kvn_local_tenant tenants[KVP_TENANTS_MAX];
        struct kvn_local_space spaces[KVN_CONFIG_SPACES_MAX];
    } *lists = kv_calloc(1, sizeof(*lists));
    kv_status_t status = lists == NULL ? KV_ERR_NOMEM : KV_OK;
    if (status == KV_OK) {
        kvn_node_take_tenants(config, lists->tenants);
        kvn_node_take_spaces(node, lists->spaces);
        const struct kvn_remote_config remote = {
            .port = node->ports[KVN_PORT_TCP],
            .tenants = lists->tenants,
            .nr_tenants = config->nr_tenants,
            .spaces = lists->spaces,
            .nr_spaces = config->nr_spaces,
            .nr_clients = (uint32_t)config->nr_remote_clients,
            .attach_us = config->handshake_us,
            .verify = config->verify_reads,
        };
        const struct kvn_remote_events events = {
            .client = kvn_node_client_events(node),
            .complete = client_complete,
        };
        status = kvn_remote_open(node->loop, &remote, &events, &node->remote);
        explicit_bzero(lists, sizeof(*lists));
        kv_free(lists);
    }
    if (status != KV_OK) {
        snprintf(line, cap, "remote clients: %s", kv_status_text(status));
    }
    return status;
}
