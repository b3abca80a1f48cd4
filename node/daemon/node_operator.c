/* What the operator of a node is told: why links are refused and what mends it, and
 * which limit of the process is too low for what the configuration asks. */
#include "node/daemon/node_priv.h"

#include "base/log.h"
#include "node/daemon/room.h"

#include <string.h>

/* By the status that ends the core's line: "link n2 was refused view_differs". */
static const struct {
    const char *status, *fix;
} fixes[KVN_NODE_ADVICES] = {
    {"view_differs",
     "the same cluster.epoch and another list of nodes: give all nodes one list, and "
     "raise cluster.epoch when it changes"},
    {"duplicate_node",
     "two processes say that they are this node: stop one, or give it another "
     "cluster.node"},
    {"cluster", "nodes of one cluster have the same cluster.name"},
    {"version", "the programs are of versions that do not fit: install the same"},
    {"tenant_secret", "give each tenant the same secret on all nodes"},
};

/* Index of what mends it, or KVN_NODE_ADVICES. */
static unsigned fix_of(const char *line)
{
    const char *word = strrchr(line, ' ');
    unsigned i = 0;
    while (i < KVN_NODE_ADVICES
           && (word == NULL || strcmp(word + 1, fixes[i].status) != 0)) {
        i++;
    }
    return i;
}

void kvn_node_say(struct kvn_node *node, const char *line)
{
    if (strncmp(line, "link ", 5) != 0) {
        kv_log(KV_LOG_DEBUG, "core", "%s", line);
        return;
    }
    const uint64_t now = kvn_node_now(node);
    const unsigned i = fix_of(line);
    if (i == KVN_NODE_ADVICES || now < node->advised_us[i]) {
        kv_log(KV_LOG_INFO, "core", "%s", line);
        return;
    }
    node->advised_us[i] = now + KVN_NODE_ADVICE_US; /* redials repeat themselves */
    kv_log(KV_LOG_WARN, "core", "%s: %s", line, fixes[i].fix);
}

/* The lower id dials: of a peer that does not come nobody else would speak. It may be
 * down, or know another process as this node. */
void kvn_node_missed(struct kvn_node *node)
{
    const struct kvc_view *view = node->core_config->view;
    const uint64_t patience =
        KVN_NODE_MISSED_REDIALS * node->core_config->redial_us;
    if (node->missed_said || kvn_node_now(node) - node->started_us < patience) {
        return;
    }
    node->missed_said = true;
    for (uint32_t i = 0; i < view->nr; i++) {
        if (view->members[i].id < node->core_config->node
            && !kvo_link_up(node->core, i)) {
            kv_log(
                KV_LOG_WARN, "link",
                "node %u dials this one and has not come: does it run, does it reach "
                "node.%u.address, and is this the only process that is node %u?",
                view->members[i].id, node->core_config->node, node->core_config->node);
        }
    }
}

kv_status_t kvn_node_files(const struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    const uint64_t wanted =
        KVN_NODE_FILES + config->nr_data_conns
        + (node->nearby.wanted ? KVN_NODE_SHM_FILES * config->nr_data_conns : 0)
        + KVN_NODE_CLIENT_FILES * (config->nr_clients + KVN_LOCAL_ATTACHING_MAX)
        + (config->remote_clients
               ? KVN_NODE_REMOTE_FILES * config->nr_remote_clients
                     + KVN_LOCAL_ATTACHING_MAX
               : 0)
        + KVN_LINKS_HELLO_CONNS_MAX + KVN_LINKS_LINGER_MAX
        + config->nr_nodes * (KVN_LINKS_PEER_CONNS_MAX + 1) + KVN_HTTP_CONNS;
    return kvn_room_files(
        wanted, !node->embedded,
        "limits.clients, data.connections or the list of nodes", line, cap);
}
