#include "node/config_priv.h"

#include "base/assert.h"

#include <string.h>

#define AT(field) offsetof(struct kvn_config, field)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
#define MINUTE UINT64_C(60000000)

/* Name, type, offset, default, smallest, largest, choices, help. Defaults of times are
 * those of docs/protocol.md. */
const struct kv_option kvn_config_globals[] = {
    {"cluster.name", KV_OPT_TEXT, AT(cluster_name), "kvrail", 1, KV_MSG_TEXT_MAX, NULL,
     "only nodes of one name link up"},
    {"cluster.epoch", KV_OPT_UINT, AT(epoch), "1", 1, UINT64_MAX >> 1, NULL,
     "of the list of nodes: raise it whenever that changes"},
    {"cluster.node", KV_OPT_UINT, AT(self), "0", 0, UINT32_MAX, NULL,
     "which of the nodes this one is; 0: not said here"},

    {"listen.address", KV_OPT_TEXT, AT(listen), "", 0, 120, NULL,
     "host:port for links and data connections; empty: the node's address"},
    {"listen.unix", KV_OPT_TEXT, AT(unix_path), "", 0, 107, NULL,
     "socket for clients on this machine; empty: none are served"},
    {"listen.unix_mode", KV_OPT_ENUM, AT(unix_mode), "0600", 0, 0, "0600|0660",
     "who may connect to it: this user alone, or listen.unix_group too"},
    {"listen.unix_group", KV_OPT_TEXT, AT(unix_group), "", 0, 64, NULL,
     "name or number of its group; empty: that of the process"},
    {"listen.peers", KV_OPT_TEXT, AT(peers_path), "", 0, 107, NULL,
     "socket by which nodes of this host map pages; empty: listen.unix and .peers"},
    {"listen.clients", KV_OPT_BOOL, AT(remote_clients), "false", 0, 0, NULL,
     "take clients of tenants from other hosts, by TLS on listen.address"},
    {"listen.http", KV_OPT_TEXT, AT(http), "", 0, 120, NULL,
     "host:port of /metrics and /healthz; empty: none"},
    {"listen.handshake", KV_OPT_TIME, AT(handshake_us), "5s", 1000, MINUTE, NULL,
     "from a connection's first byte until it is known who speaks"},
    {"listen.frame", KV_OPT_TIME, AT(frame_us), "5s", 1000, MINUTE, NULL,
     "a message that has begun is whole within this, or its link ends"},
    {"listen.queue", KV_OPT_BYTES, AT(queue_bytes), "16MiB", 1 << 20, GIB, NULL,
     "may wait to be sent on one link; more, and it ends"},

    {"tls.psk", KV_OPT_TEXT, AT(tls_psk), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "file of the cluster's key, mode 0600; kvrail keygen makes it"},
    {"tls.ca", KV_OPT_TEXT, AT(tls_ca), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "certificate of the authority, PEM; with tls.cert and tls.key, instead of psk"},
    {"tls.cert", KV_OPT_TEXT, AT(tls_cert), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "this node's certificate, PEM"},
    {"tls.key", KV_OPT_TEXT, AT(tls_key), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "its private key, PEM, mode 0600"},
    {"tls.clear", KV_OPT_BOOL, AT(clear), "false", 0, 0, NULL,
     "links without TLS; taken only where all addresses are loopback"},

    {"data.threads", KV_OPT_UINT, AT(nr_transport_threads), "2", 1, 64, NULL,
     "threads that move pages between nodes"},
    {"data.movers", KV_OPT_UINT, AT(nr_mover_threads), "2", 1, 64, NULL,
     "threads that copy and digest pages inside the node"},
    {"data.connections", KV_OPT_UINT, AT(nr_data_conns), "256", 4, 4096, NULL,
     "data connections at once, both directions"},
    {"data.verify", KV_OPT_BOOL, AT(verify_reads), "true", 0, 0, NULL,
     "compare digests of what came from peers; false only to measure what it costs"},
    {"data.populate", KV_OPT_BOOL, AT(populate), "false", 0, 0, NULL,
     "touch all page memory at start, so that a lack shows then"},

    {"client.buffers", KV_OPT_BYTES, AT(client_buffer_bytes), "4GiB", 1 << 20,
     64 * TIB, NULL, "memory that one client may register"},
    {"client.poll", KV_OPT_TIME, AT(client_poll_us), "200us", 0, 1000000, NULL,
     "clients' rings are polled for so long after the last request"},

    {"log.level", KV_OPT_ENUM, AT(log_level), "info", 0, 0, "error|warn|info|debug",
     "least urgent lines that are written"},
    {"log.format", KV_OPT_ENUM, AT(log_format), "text", 0, 0, "text|json",
     "for people, or one JSON object a line"},
    {"log.file", KV_OPT_TEXT, AT(log_file), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "appended to; empty: standard error"},

    {"pager.device_bytes", KV_OPT_BYTES, AT(device_bytes), "1GiB", 0, 64 * TIB, NULL,
     "device memory of the common domain, shared equally by the page sizes"},
    {"pager.host_bytes", KV_OPT_BYTES, AT(host_bytes), "0", 0, 64 * TIB, NULL,
     "host memory of the common domain; 0: no host tier"},
    {"pager.evict", KV_OPT_ENUM, AT(evict), "lru", 0, 0, "lru|fifo",
     "which copy leaves first"},
    {"pager.verify_local", KV_OPT_TEXT, AT(verify_text), "sample=64", 1, 32, NULL,
     "re-check digests at acquire: off, always, or one page in N with sample=N"},
    {"pager.free_target", KV_OPT_UINT, AT(free_target), "64", 0, 65536, NULL,
     "one frame in so many is kept free ahead of need; 0: none"},

    {"liveness.heartbeat", KV_OPT_TIME, AT(liveness.heartbeat_us), "250ms", 1000,
     MINUTE, NULL, "between signs of life on a link that is silent otherwise"},
    {"liveness.suspect", KV_OPT_TIME, AT(liveness.suspect_us), "1s", 1000, MINUTE, NULL,
     "silent for so long: asked last, offered nothing"},
    {"liveness.lost", KV_OPT_TIME, AT(liveness.lost_us), "3s", 1000, 10 * MINUTE, NULL,
     "silent for so long: its link ends"},

    {"link.transports", KV_OPT_ENUM, AT(transports), "all", 0, 0,
     "all|both|named|onesided|loop",
     "how bytes come from peers: loop (of one process), onesided (shm, of one host), "
     "named (tcp); both: the last two"},
    {"link.grant", KV_OPT_TIME, AT(grant_us), "2s", 1000, MINUTE, NULL,
     "how long a reader may use a grant before it is revoked"},
    {"link.call", KV_OPT_TIME, AT(call_us), "500ms", 100, MINUTE, NULL,
     "an answer that takes longer is not coming"},
    {"link.double", KV_OPT_TIME, AT(double_us), "20ms", 100, MINUTE, NULL,
     "a home silent for so long is doubled by the next"},
    {"link.read", KV_OPT_TIME, AT(read_us), "1s", 100, MINUTE, NULL,
     "a read that takes longer is given up and its connection fenced"},
    {"link.revoke", KV_OPT_TIME, AT(revoke_us), "500ms", 100, MINUTE, NULL,
     "a revoked grant is acknowledged within this, or fenced"},
    {"link.redial", KV_OPT_TIME, AT(redial_us), "100ms", 100, MINUTE, NULL,
     "first pause before dialling again; doubles up to 16 times"},
    {"link.tick", KV_OPT_TIME, AT(tick_us), "10ms", 100, MINUTE, NULL,
     "period of background work: sync, demotion, spill"},

    {"spill.enabled", KV_OPT_BOOL, AT(spill), "true", 0, 0, NULL,
     "offer evicted copies to peers"},
    {"spill.deadline", KV_OPT_TIME, AT(spill_us), "1s", 1000, MINUTE, NULL,
     "from an offer until the copy is dropped all the same"},
    {"spill.copies", KV_OPT_UINT, AT(nr_spills), "256", 1, 65536, NULL,
     "copies being offered at once"},

    {"directory.entries", KV_OPT_UINT, AT(dir_entries), "1048576", 16, UINT32_MAX / 2,
     NULL, "copies that this home can list"},
    {"directory.holdings", KV_OPT_UINT, AT(dir_holdings), "2097152", 16, UINT32_MAX / 2,
     NULL, "(copy, node) pairs that this home can list"},
    {"directory.cold", KV_OPT_TIME, AT(dir_cold_us), "30s", 1000, 60 * MINUTE, NULL,
     "after a start, at most so long an absence proves nothing"},
    {"directory.sync_items", KV_OPT_UINT, AT(sync_items), "256", 1, 65536, NULL,
     "published per tick and home while a share is sent again"},

    {"limits.clients", KV_OPT_UINT, AT(nr_clients), "64", 1, KVO_CLIENTS_MAX, NULL,
     "clients at once"},
    {"limits.remote_clients", KV_OPT_UINT, AT(nr_remote_clients), "32", 1, 256, NULL,
     "clients from other hosts at once, beside those"},
    {"limits.requests", KV_OPT_UINT, AT(nr_ops), "1024", 1, 65536, NULL,
     "requests of clients in flight"},
    {"limits.fetching", KV_OPT_UINT, AT(nr_items), "8192", 1, 1 << 20, NULL,
     "pages being fetched"},
    {"limits.calls", KV_OPT_UINT, AT(nr_calls), "4096", 1, 1 << 20, NULL,
     "requests to peers in flight"},
    {"limits.reads", KV_OPT_UINT, AT(nr_reads), "8192", 1, 32736, NULL,
     "data operations in flight, both directions"},
    {"limits.grants", KV_OPT_UINT, AT(nr_grants), "16384", 1, 1 << 20, NULL,
     "grants given and not ended"},
    {"limits.sequences", KV_OPT_UINT, AT(nr_sequences), "1024", 1, 1 << 20, NULL,
     "sequences at once"},
    {"limits.leaves", KV_OPT_UINT, AT(nr_leaves), "4096", 1, 1 << 20, NULL,
     "tables of 256 pages of all sequences"},
    {"limits.retired", KV_OPT_UINT, AT(nr_retired), "16384", 1, 1 << 24, NULL,
     "pages that wait for an engine's confirm"},
};
const unsigned kvn_config_nr_globals = KV_COUNT_OF(kvn_config_globals);
_Static_assert(
    KV_COUNT_OF(kvn_config_globals) <= KVN_CONFIG_GLOBALS_MAX, "room for origins");

#undef AT
#define AT(field) offsetof(struct kvn_config_node, field)
static const struct kv_option node_options[] = {
    {"node.weight", KV_OPT_UINT, AT(weight), "100", 1, KVC_WEIGHT_MAX, NULL,
     "its share of the directory, in proportion"},
    {"node.address", KV_OPT_TEXT, AT(address), "", 0, 120, NULL,
     "host:port of its control port"},
};

#undef AT
#define AT(field) offsetof(struct kvn_config_tenant, field)
static const struct kv_option tenant_options[] = {
    {"tenant.secret", KV_OPT_TEXT, AT(secret), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "32 to 126 hex digits, or file:NAME with up to 128 (mode 0600)"},
    {"tenant.domain", KV_OPT_ENUM, AT(domain), "common", 0, 0, "common|own",
     "own: memory that no other tenant's pages ever share"},
    {"tenant.device_bytes", KV_OPT_BYTES, AT(device_bytes), "0", 0, 64 * TIB, NULL,
     "device memory of its own domain"},
    {"tenant.host_bytes", KV_OPT_BYTES, AT(host_bytes), "0", 0, 64 * TIB, NULL,
     "host memory of its own domain"},
    {"tenant.fill", KV_OPT_BOOL, AT(fill), "false", 0, 0, NULL,
     "its engines map the device memory of its own domain and fill it in place"},
    {"tenant.device_ceiling", KV_OPT_UINT, AT(device_ceiling), "0", 0, UINT32_MAX, NULL,
     "pages of it on the device; 0: no ceiling"},
    {"tenant.host_ceiling", KV_OPT_UINT, AT(host_ceiling), "0", 0, UINT32_MAX, NULL,
     "pages of it in host memory; 0: no ceiling"},
    {"tenant.sequences", KV_OPT_UINT, AT(sequences), "0", 0, UINT32_MAX, NULL,
     "sequences of it at once; 0: no ceiling but limits.sequences"},
    {"tenant.uids", KV_OPT_TEXT, AT(uids_text), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "users whose processes may speak as it, with commas; empty: the node's own"},
    {"tenant.client_psk", KV_OPT_TEXT, AT(client_psk), "", 0, KV_OPT_TEXT_BYTES - 1,
     NULL, "file of a key, mode 0600, by which clients of this tenant come from other "
     "hosts; kvrail keygen makes it"},
};

#undef AT
#define AT(field) offsetof(struct kvn_config_space, field)
static const struct kv_option space_options[] = {
    {"space.model", KV_OPT_TEXT, AT(model), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "what computed the numbers"},
    {"space.revision", KV_OPT_TEXT, AT(revision), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "of the model: a new one is a new space"},
    {"space.format", KV_OPT_TEXT, AT(format), "bf16", 1, KV_OPT_TEXT_BYTES - 1, NULL,
     "of the numbers"},
    {"space.tag", KV_OPT_TEXT, AT(tag), "", 0, KV_OPT_TEXT_BYTES - 1, NULL,
     "whatever else changes them: rope scaling, adapter set"},
    {"space.page_tokens", KV_OPT_UINT, AT(page_tokens), "512", 1, KV_PAGE_TOKENS_MAX,
     NULL, "tokens of a full page"},
    {"space.page_bytes", KV_OPT_BYTES, AT(page_bytes), "0", 0, GIB, NULL,
     "bytes of a full page of one group; a multiple of 256"},
    {"space.groups", KV_OPT_TEXT, AT(groups_text), "full", 1, KV_OPT_TEXT_BYTES - 1,
     NULL, "layer groups: full, window:TOKENS or state, with commas"},
    {"space.layout", KV_OPT_UINT, AT(layout), "0", 0, UINT32_MAX, NULL,
     "number of how the numbers lie; spaces may share one of equal sizes"},
    {"space.id", KV_OPT_TEXT, AT(id_text), "", 0, 2 * KV_KEY_BYTES, NULL,
     "the id that these fields must give, in hex; empty: not checked"},
};
#undef AT

#define GLOBAL(name)                                                                   \
    {                                                                                  \
        name, kvn_config_globals, KV_COUNT_OF(kvn_config_globals), false, 0, 0, 0, 0   \
    }
#define NAMED(name, options, array, count, max)                                        \
    {                                                                                  \
        name, options, KV_COUNT_OF(options), true, offsetof(struct kvn_config, array), \
            sizeof(((struct kvn_config *)0)->array[0]),                                \
            offsetof(struct kvn_config, count), max                                    \
    }
const struct kvn_kind kvn_config_kinds[] = {
    GLOBAL("cluster"),
    GLOBAL("listen"),
    GLOBAL("tls"),
    GLOBAL("data"),
    GLOBAL("client"),
    GLOBAL("log"),
    GLOBAL("pager"),
    GLOBAL("liveness"),
    GLOBAL("link"),
    GLOBAL("spill"),
    GLOBAL("directory"),
    GLOBAL("limits"),
    NAMED("node", node_options, nodes, nr_nodes, KVC_NODES_MAX),
    NAMED("tenant", tenant_options, tenants, nr_tenants, KVP_TENANTS_MAX),
    NAMED("space", space_options, spaces, nr_spaces, KVN_CONFIG_SPACES_MAX),
};
const unsigned kvn_config_nr_kinds = KV_COUNT_OF(kvn_config_kinds);
_Static_assert(KV_COUNT_OF(space_options) <= KVN_CONFIG_KEYS_MAX, "room for origins");

const struct kvn_kind *kvn_kind_find(const char *name)
{
    for (unsigned i = 0; i < kvn_config_nr_kinds; i++) {
        if (strcmp(kvn_config_kinds[i].name, name) == 0) {
            return &kvn_config_kinds[i];
        }
    }
    return NULL;
}

bool kvn_kind_has(const struct kvn_kind *kind, const struct kv_option *option)
{
    const size_t len = strlen(kind->name);
    return strncmp(option->name, kind->name, len) == 0 && option->name[len] == '.';
}

uint32_t kvn_kind_count(const struct kvn_kind *kind, const struct kvn_config *config)
{
    KV_ASSERT(kind->named);
    uint32_t nr;
    memcpy(&nr, (const char *)config + kind->count, sizeof(nr));
    return nr;
}

struct kvn_section *
kvn_kind_at(const struct kvn_kind *kind, const struct kvn_config *config, uint32_t i)
{
    KV_ASSERT(kind->named && i < kind->max);
    return (struct kvn_section *)((uintptr_t)config + kind->array + i * kind->stride);
}

void *kvn_kind_base(
    const struct kvn_kind *kind, struct kvn_config *config, uint32_t i,
    struct kvn_origin **origins_p)
{
    if (!kind->named) {
        *origins_p = config->origins;
        return config;
    }
    struct kvn_section *section = kvn_kind_at(kind, config, i);
    *origins_p = section->origins;
    return section;
}
