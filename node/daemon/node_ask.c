/* What a running node hands to reports.[ch]. */
#include "node/daemon/node_priv.h"

void kvn_node_lag(struct kvn_node *node)
{
    const uint64_t now = kvn_node_now(node);
    const uint64_t due = node->published_us + KVN_NODE_PUBLISH_MS * UINT64_C(1000);
    if (node->published_us != 0) {
        node->lag_us = now > due ? now - due : 0;
    }
    if (node->lag_us > node->lag_worst_us) {
        node->lag_worst_us = node->lag_us;
    }
    node->published_us = now;
}

static void data_conns(void *arg, uint32_t peer, uint32_t *out_p, uint32_t *in_p)
{
    const struct kvn_node *node = arg;
    for (uint32_t i = 0; i < node->nr_conns; i++) {
        const struct kvn_data_conn *conn = &node->conns[i];
        if (conn->conn != 0 && conn->peer == peer) {
            *out_p += conn->out;
            *in_p += !conn->out;
        }
    }
}

kv_status_t kvn_node_ask(
    void *arg, const struct kvn_local_asker *asker, uint32_t tenant,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail)
{
    struct kvn_node *node = arg;
    const struct kvn_report_source source = {
        .core = node->core,
        .core_config = node->core_config,
        .config = node->config,
        .clients = node->local != NULL ? kvn_local_counts(node->local) : NULL,
        .remote = node->remote != NULL ? kvn_remote_counts(node->remote) : NULL,
        .links = node->links != NULL ? kvn_links_counts(node->links) : NULL,
        .now_us = kvn_node_now(node),
        .started_us = node->started_us,
        .lag_us = node->lag_us,
        .lag_worst_us = node->lag_worst_us,
        .port = kvn_node_port(node),
        .http_port = kvn_node_http_port(node),
        .arg = node,
        .data_conns = data_conns,
    };
    return kvn_reports_make(
        node->reports, &source, asker, tenant, ask, fd_p, bytes_p, detail);
}
