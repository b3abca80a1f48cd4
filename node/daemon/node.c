/* The turn of the loop, and how a node starts and stops.
 *
 *   prepare: overdue timers of the core ──► poll: sockets, rings, transport, movers ──►
 *   what they say goes to the core at once; what the core orders goes out at once
 *
 * (1) Nothing is said to the core from inside an order of the core: what is known at
 * once waits in `deferred` for the next turn. (2) Stop: clients and links first, then
 * the threads, then the core, then the memory that all of them touch. (3) Clients and
 * links end each in its own time: whichever is gone first is not called any more.
 */
#include "node/daemon/node_priv.h"

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t kvn_node_now(const struct kvn_node *node)
{
    (void)node;
    return uv_hrtime() / 1000;
}

void kvn_node_defer(struct kvn_node *node, const struct kvn_deferred *deferred)
{
    KV_ASSERT(node->deferred_nr < node->deferred_size);
    uint32_t at = (node->deferred_head + node->deferred_nr++) % node->deferred_size;
    node->deferred[at] = *deferred;
}

/* ------------------------------------------------------------------ the turn */

static void on_tick(uv_timer_t *timer)
{
    (void)timer; /* on_prepare() does the work before the loop sleeps again */
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle; /* while it is active the loop does not sleep */
}

static void say_deferred(struct kvn_node *node)
{
    for (uint32_t n = node->deferred_nr; n > 0; n--) { /* what these cause waits */
        struct kvn_deferred said = node->deferred[node->deferred_head];
        node->deferred_head = (node->deferred_head + 1) % node->deferred_size;
        node->deferred_nr--;
        const struct kvo_done done = {.status = said.status};
        kvo_complete(node->core, kvn_node_now(node), said.id, &done);
    }
}

static void on_movers(uv_poll_t *poll, int status, int events);

/* While rings are polled, movers are too: neither side needs a system call a job. */
static void poll_movers(struct kvn_node *node, bool polls)
{
    if (polls != node->polls_movers) {
        node->polls_movers = polls;
        kvn_movers_polled(node->movers, polls);
        KV_ASSERT(
            (polls ? uv_poll_stop(&node->movers_poll)
                   : uv_poll_start(&node->movers_poll, UV_READABLE, on_movers))
            == 0);
    }
    if (polls) {
        on_movers(&node->movers_poll, 0, 0);
    }
}

static void prepare(struct kvn_node *node)
{
    poll_movers(
        node, !node->stopping && node->local != NULL && kvn_local_awake(node->local));
    say_deferred(node);
    if (node->stopping) { /* nothing new is begun: no dials, no beats, no spills */
        KV_ASSERT(uv_idle_stop(&node->idle) == 0);
        return;
    }
    uint64_t now = kvn_node_now(node), reopen = kvn_data_reopens(node, now);
    uint64_t next = kvo_next_timer(node->core);
    for (unsigned i = 0; i < KVN_NODE_TICKS_A_TURN && next <= now; i++) {
        kvo_tick(node->core, now);
        next = kvo_next_timer(node->core);
        now = kvn_node_now(node);
    }
    next = reopen < next ? reopen : next;
    uint64_t us = next > now ? next - now : 0;
    KV_ASSERT(uv_timer_start(&node->tick, on_tick, (us + 999) / 1000, 0) == 0);
    if (node->deferred_nr > 0) {
        KV_ASSERT(uv_idle_start(&node->idle, on_idle) == 0);
    } else {
        KV_ASSERT(uv_idle_stop(&node->idle) == 0);
    }
}

/* The last before the loop sleeps. */
static void on_prepare(uv_prepare_t *handle)
{
    struct kvn_node *node = handle->data;
    if (node->core != NULL) {
        prepare(node);
        kvn_movers_wake(node->movers); /* for all that this turn has posted */
    }
}

/* What has ended since the last turn is one step of the core's: a page each would be a
 * message each to the homes, and a look at all requests. */
static void on_port(uv_poll_t *poll, int status, int events)
{
    struct kvn_node *node = poll->data;
    (void)status, (void)events;
    kvo_many_begin(node->core);
    kvn_data_events(node, (enum kvn_port)(poll - node->port_polls));
    kvo_many_end(node->core);
}

static void on_movers(uv_poll_t *poll, int status, int events)
{
    struct kvn_node *node = poll->data;
    (void)status, (void)events;
    kvo_many_begin(node->core);
    kvn_move_done(node);
    kvo_many_end(node->core);
}

static void on_publish(uv_timer_t *timer)
{
    struct kvn_node *node = timer->data;
    kvn_node_lag(node);
    if (node->core == NULL) {
        return;
    }
    kvn_node_missed(node);
    if (node->http == NULL) {
        return;
    }
    kvn_http_collect(
        node->core, node->core_config, kvn_node_now(node), node->snapshot);
    kvn_data_collect(node, node->snapshot);
    node->snapshot->logs = kv_log_counts();
    const struct kvn_local_counts none = {0};
    const struct kvn_local_counts *clients =
        node->local != NULL ? kvn_local_counts(node->local) : &none;
    node->snapshot->nr_clients_remote =
        node->remote != NULL ? kvn_remote_counts(node->remote)->clients : 0;
    node->snapshot->nr_clients = clients->clients + node->snapshot->nr_clients_remote;
    node->snapshot->nr_clients_fenced = clients->fenced;
    kvn_http_publish(node->http, node->snapshot);
}

/* ------------------------------------------------------------------ start */

static kv_status_t fail(char *line, size_t cap, kv_status_t status, const char *what)
{
    snprintf(line, cap, "%s: %s", what, kv_status_text(status));
    return status;
}

static kv_status_t fail_detail(
    char *line, size_t cap, kv_status_t status, const struct kv_detail *detail)
{
    kv_detail_format(detail, status, line, cap);
    return status;
}

static uint32_t self_index(const struct kvn_config *config)
{
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        if (config->nodes[i].id == config->self
            || (config->self == 0 && config->nr_nodes == 1)) {
            return i;
        }
    }
    return KVC_NO_NODE;
}

static kv_status_t start_core_config(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    uint32_t self = self_index(config);
    if (self == KVC_NO_NODE) {
        snprintf(
            line, cap,
            "cluster.node is %llu, which is none of the %u nodes: --set "
            "cluster.node=ID says which one this is",
            (unsigned long long)config->self, config->nr_nodes);
        return KV_ERR_CONFIG;
    }
    uint64_t seeds[2];
    kvn_node_random(node, (uint8_t *)seeds, sizeof(seeds));
    struct kv_detail detail = {0};
    kv_status_t status = kvn_config_core(
        config, config->nodes[self].id, seeds[0] | 1, seeds[1], node->core_config,
        &detail);
    if (status != KV_OK) {
        return fail_detail(line, cap, status, &detail);
    }
    status = kvn_nearby_find(config, self, &node->nearby, line, cap);
    if (status == KV_OK) {
        status = kvn_data_places(node, line, cap);
    }
    if (status != KV_OK) {
        return status;
    }
    if (config->remote_clients) {
        node->core_config->nr_clients += (uint32_t)config->nr_remote_clients;
    }
    for (uint32_t i = 0; i < node->core_config->pager.nr_pools; i++) {
        node->first_frame[i + 1] =
            node->first_frame[i] + node->core_config->pager.pools[i].nr_frames;
    }
    return KV_OK;
}

static kv_status_t start_memory(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvp_config *pager = &node->core_config->pager;
    enum kvn_memory_mode modes[KVP_POOLS_MAX];
    node->core_config->named_pools = 0;
    for (uint32_t i = 0; i < pager->nr_pools; i++) {
        const struct kvp_pool_config *pool = &pager->pools[i];
        const bool fill =
            kvn_config_filler(node->config, pool->tier, pool->domain) != NULL;
        modes[i] = fill                  ? KVN_MEMORY_FILL
                   : node->nearby.wanted ? KVN_MEMORY_READ
                                         : KVN_MEMORY_SERVED;
        node->core_config->named_pools |= (uint32_t)fill << i; /* no peer maps it */
    }
    return kvn_memory_create(
        pager, modes, node->config->populate, &node->memory, line, cap);
}

static kv_status_t start_tables(struct kvn_node *node)
{
    const struct kvo_config *core = node->core_config;
    uint32_t nr_pools = core->pager.nr_pools, nr_nodes = node->config->nr_nodes;
    node->nr_conns = (uint32_t)node->config->nr_data_conns * KVN_NR_PORTS;
    node->nr_fences = 2 * nr_nodes;
    node->refusals_max = (core->nr_reads + KV_MSG_READ_MAX) / nr_nodes;
    if (node->refusals_max < KV_MSG_READ_MAX) {
        node->refusals_max = KV_MSG_READ_MAX;
    }
    /* One an order that is out; twice, because a fence that ends in the same turn ends
     * orders whose refusal waits, and makes room for new ones. */
    node->deferred_size = 2 * (core->nr_reads + KVO_COPIES_MAX + node->nr_fences);
    /* One local order a frame that it writes or digests, and clients' copies. */
    node->backlog_size = 2 * node->first_frame[nr_pools] + KVO_COPIES_MAX;
    node->wire = kv_calloc(1, KV_MSG_BYTES_MAX);
    node->arena.base = kv_calloc(1, KV_MSG_ARENA_BYTES);
    node->arena.size = KV_MSG_ARENA_BYTES;
    node->conns = kv_calloc(node->nr_conns, sizeof(*node->conns));
    node->fences = kv_calloc(node->nr_fences, sizeof(*node->fences));
    node->reopens = kv_calloc(nr_nodes, sizeof(*node->reopens));
    node->deferred = kv_calloc(node->deferred_size, sizeof(*node->deferred));
    node->backlog = kv_calloc(node->backlog_size, sizeof(*node->backlog));
    node->snapshot = kv_calloc(1, sizeof(*node->snapshot));
    node->reports = kvn_reports_open();
    bool all = node->wire != NULL && node->arena.base != NULL && node->conns != NULL
               && node->fences != NULL && node->reopens != NULL
               && node->deferred != NULL && node->backlog != NULL
               && node->snapshot != NULL && node->reports != NULL;
    return all ? KV_OK : KV_ERR_NOMEM;
}

static kv_status_t start_threads(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    struct kv_detail detail = {0};
    const struct kvn_movers_config movers = {
        .nr_threads = (uint32_t)config->nr_mover_threads,
        .nr_jobs = KVN_NODE_JOBS,
    };
    kv_status_t status = kvn_movers_create(&movers, &node->movers, &detail);
    if (status != KV_OK) {
        return fail_detail(line, cap, status, &detail);
    }
    return kvn_data_start(node, line, cap);
}

static kv_status_t start_core(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvo_out out = kvn_node_orders(node);
    struct kv_detail detail = {0};
    kv_status_t status = kvo_create(
        node->core_config, &out, kvn_node_now(node), &node->core, &detail);
    return status == KV_OK ? KV_OK : fail_detail(line, cap, status, &detail);
}

static kv_status_t start_tls(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    char psk[700], ca[700], cert[700], key[700];
    kvn_config_path(config, config->tls_psk, psk, sizeof(psk));
    kvn_config_path(config, config->tls_ca, ca, sizeof(ca));
    kvn_config_path(config, config->tls_cert, cert, sizeof(cert));
    kvn_config_path(config, config->tls_key, key, sizeof(key));
    if (config->clear) {
        kv_log(KV_LOG_WARN, "link", "tls.clear: links have no credentials");
        return KV_OK;
    }
    if (psk[0] == '\0' && ca[0] == '\0') {
        snprintf(
            line, cap,
            "tls: no credentials for links: kvrail keygen makes them; or tls.clear = "
            "yes, on loopback alone");
        return KV_ERR_CONFIG;
    }
    struct kvn_tls_tenant tenants[KVP_TENANTS_MAX];
    char paths[KVP_TENANTS_MAX][KVN_NODE_PATH_BYTES];
    const struct kvn_tls_config tls = {
        .clients = config->remote_clients,
        .tenants = tenants,
        .nr_tenants = kvn_node_remote_tenants(config, tenants, paths),
        .cluster = config->cluster_name,
        .node = node->core_config->node,
        .psk = psk,
        .ca = ca,
        .cert = cert,
        .key = key,
    };
    return kvn_tls_load(&tls, &node->tls, line, cap);
}

static kv_status_t start_links(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    if (config->nr_nodes == 1 && !config->remote_clients) {
        return KV_OK;
    }
    kv_status_t status = start_tls(node, line, cap);
    if (status != KV_OK) {
        return status;
    }
    struct kvn_links_peer *peers = kv_calloc(config->nr_nodes, sizeof(*peers));
    if (peers == NULL) {
        return fail(line, cap, KV_ERR_NOMEM, "links");
    }
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        peers[i] = (struct kvn_links_peer){
            .id = config->nodes[i].id, .address = config->nodes[i].address};
    }
    uint32_t self = self_index(config);
    const struct kvn_links_config links = {
        .listen = config->listen[0] != '\0' ? config->listen
                                            : config->nodes[self].address,
        .tls = node->tls,
        .peers = peers,
        .nr_peers = config->nr_nodes,
        .self = self,
        .handshake_us = config->handshake_us,
        .frame_us = config->frame_us,
        .queue_bytes = config->queue_bytes,
    };
    const struct kvn_links_events events = kvn_node_link_events(node);
    status = kvn_links_open(node->loop, &links, &events, &node->links, line, cap);
    kv_free(peers);
    return status;
}

void kvn_node_take_tenants(const struct kvn_config *config, struct kvn_local_tenant *to)
{
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        const struct kvn_config_tenant *from = &config->tenants[i];
        to[i] = (struct kvn_local_tenant){
            .id = from->id,
            .secret = from->secret_bytes,
            .secret_len = from->secret_len,
            .nr_uids = from->nr_uids,
        };
        memcpy(to[i].uids, from->uids, sizeof(to[i].uids));
        if (from->nr_uids == 0) {
            to[i].uids[to[i].nr_uids++] = geteuid();
        }
    }
}

void kvn_node_take_spaces(const struct kvn_node *node, struct kvn_local_space *to)
{
    const struct kvn_config *config = node->config;
    for (uint32_t i = 0; i < config->nr_spaces; i++) {
        const struct kvn_config_space *from = &config->spaces[i];
        to[i] = (struct kvn_local_space){
            .name = from->section.name,
            .id = from->id,
            .page_tokens = (uint32_t)from->page_tokens,
            .page_bytes = (uint32_t)from->page_bytes,
            .nr_groups = from->nr_groups,
            .first_variant =
                kvp_variant(kvo_pager(node->core), (uint32_t)from->layout, 0, 0),
        };
        KV_ASSERT(to[i].first_variant != UINT16_MAX);
    }
}

/* Pools that the engines of one tenant fill, as that tenant's clients may map them. */
static uint32_t take_arenas(const struct kvn_node *node, struct kvn_local_arena *to)
{
    const struct kvp_config *pager = &node->core_config->pager;
    uint32_t nr = 0;
    for (uint32_t i = 0; i < pager->nr_pools; i++) {
        const struct kvp_pool_config *pool = &pager->pools[i];
        const struct kvn_config_tenant *tenant =
            kvn_config_filler(node->config, pool->tier, pool->domain);
        if (tenant != NULL) {
            to[nr] = (struct kvn_local_arena){
                .tenant = (uint16_t)(tenant - node->config->tenants),
                .pool = i,
                .block_bytes = pool->frame_bytes,
                .nr_blocks = pool->nr_frames,
            };
            to[nr].fd = kvn_memory_fill_fd(node->memory, i, &to[nr].bytes);
            nr++;
        }
    }
    return nr;
}

static kv_status_t start_local(struct kvn_node *node, char *line, size_t cap)
{
    const struct kvn_config *config = node->config;
    if (config->unix_path[0] == '\0' && !node->embedded) {
        return KV_OK;
    }
    struct {
        struct kvn_local_tenant tenants[KVP_TENANTS_MAX];
        struct kvn_local_space spaces[KVN_CONFIG_SPACES_MAX];
        struct kvn_local_arena arenas[KVP_POOLS_MAX];
    } *lists = kv_calloc(1, sizeof(*lists));
    if (lists == NULL) {
        return fail(line, cap, KV_ERR_NOMEM, "clients");
    }
    kvn_node_take_tenants(config, lists->tenants);
    kvn_node_take_spaces(node, lists->spaces);
    const struct kvn_local_config local = {
        .path = config->unix_path,
        .group_too = config->unix_mode == KVN_UNIX_GROUP,
        .group = config->unix_group,
        .tenants = lists->tenants,
        .nr_tenants = config->nr_tenants,
        .spaces = lists->spaces,
        .nr_spaces = config->nr_spaces,
        .arenas = lists->arenas,
        .nr_arenas = take_arenas(node, lists->arenas),
        .nr_sequences = node->core_config->pager.nr_sequences,
        .nr_clients = node->core_config->nr_clients, /* indices may be as high */
        .buffer_bytes = config->client_buffer_bytes,
        .poll_us = config->client_poll_us,
        .attach_us = config->handshake_us,
    };
    const struct kvn_local_events events = kvn_node_local_events(node);
    kv_status_t status =
        kvn_local_open(node->loop, &local, &events, &node->local, line, cap);
    explicit_bzero(lists, sizeof(*lists));
    kv_free(lists);
    return status;
}

static kv_status_t start_http(struct kvn_node *node, char *line, size_t cap)
{
    if (node->config->http[0] == '\0') {
        return KV_OK;
    }
    const struct kvn_http_config http = {.listen = node->config->http};
    return kvn_http_open(&http, &node->http, line, cap);
}

static void start_handles(struct kvn_node *node)
{
    uv_loop_t *loop = node->loop;
    KV_ASSERT(uv_prepare_init(loop, &node->prepare) == 0);
    KV_ASSERT(uv_idle_init(loop, &node->idle) == 0);
    KV_ASSERT(uv_timer_init(loop, &node->tick) == 0);
    KV_ASSERT(uv_timer_init(loop, &node->publish) == 0);
    KV_ASSERT(uv_poll_init(loop, &node->movers_poll, kvn_movers_fd(node->movers)) == 0);
    node->nr_handles = 5;
    node->prepare.data = node->idle.data = node->tick.data = node;
    node->publish.data = node->movers_poll.data = node;
    for (unsigned port = 0; port < KVN_NR_PORTS; port++) {
        uv_poll_t *poll = &node->port_polls[port];
        if (node->ports[port] != NULL) {
            KV_ASSERT(uv_poll_init(loop, poll, kvt_fd(node->ports[port])) == 0);
            KV_ASSERT(uv_poll_start(poll, UV_READABLE, on_port) == 0);
            poll->data = node;
            node->nr_handles++;
        }
    }
    KV_ASSERT(uv_prepare_start(&node->prepare, on_prepare) == 0);
    KV_ASSERT(uv_poll_start(&node->movers_poll, UV_READABLE, on_movers) == 0);
    KV_ASSERT(uv_timer_start(&node->publish, on_publish, 0, KVN_NODE_PUBLISH_MS) == 0);
}

/* ------------------------------------------------------------------ stop */

static void node_free(struct kvn_node *node)
{
    for (unsigned port = 0; port < KVN_NR_PORTS; port++) {
        kvt_destroy(node->ports[port]); /* (2) */
    }
    if (node->movers != NULL) {
        kvn_movers_destroy(node->movers);
    }
    kvn_http_close(node->http);
    if (node->core != NULL) {
        kvo_destroy(node->core);
    }
    kvn_memory_destroy(node->memory);
    kvn_tls_free(node->tls);
    kv_free(node->wire);
    kv_free(node->arena.base);
    kv_free(node->conns);
    kv_free(node->fences);
    kv_free(node->reopens);
    kv_free(node->deferred);
    kv_free(node->backlog);
    kv_free(node->snapshot);
    kvn_reports_close(node->reports);
    kv_free(node->core_config);
    kv_free(node);
}

static void handle_closed(uv_handle_t *handle)
{
    struct kvn_node *node = handle->data;
    if (--node->nr_handles > 0) {
        return;
    }
    void (*stopped)(void *arg) = node->stopped;
    void *arg = node->stopped_arg;
    node_free(node);
    if (stopped != NULL) {
        stopped(arg);
    }
}

/* Clients and links are gone: what is left touches nothing but memory of ours. */
static void module_closed(void *arg)
{
    struct kvn_node *node = arg;
    KV_ASSERT(node->closing > 0);
    if (--node->closing > 0) {
        return;
    }
    if (node->nr_handles == 0) { /* the start failed before they were there */
        node_free(node);
        return;
    }
    uv_close((uv_handle_t *)&node->prepare, handle_closed);
    uv_close((uv_handle_t *)&node->idle, handle_closed);
    uv_close((uv_handle_t *)&node->tick, handle_closed);
    uv_close((uv_handle_t *)&node->publish, handle_closed);
    for (unsigned port = 0; port < KVN_NR_PORTS; port++) {
        if (node->ports[port] != NULL) {
            uv_close((uv_handle_t *)&node->port_polls[port], handle_closed);
        }
    }
    uv_close((uv_handle_t *)&node->movers_poll, handle_closed);
}

static void local_closed(void *arg)
{
    ((struct kvn_node *)arg)->local = NULL; /* (3) */
    module_closed(arg);
}

static void remote_closed(void *arg)
{
    ((struct kvn_node *)arg)->remote = NULL; /* (3) */
    module_closed(arg);
}

static void links_closed(void *arg)
{
    ((struct kvn_node *)arg)->links = NULL; /* (3) */
    module_closed(arg);
}

void kvn_node_stop(kvn_node_t *node, void (*stopped)(void *arg), void *arg)
{
    KV_ASSERT(!node->stopping);
    node->stopping = true;
    node->stopped = stopped;
    node->stopped_arg = arg;
    node->closing = 1;
    if (node->local != NULL) {
        node->closing++;
        kvn_local_close(node->local, local_closed, node);
    }
    if (node->remote != NULL) {
        node->closing++;
        kvn_remote_close(node->remote, remote_closed, node);
    }
    if (node->links != NULL) {
        node->closing++;
        kvn_links_close(node->links, links_closed, node);
    }
    module_closed(node);
}

/* ------------------------------------------------------------------ whole */

static kv_status_t start(struct kvn_node *node, char *line, size_t cap)
{
    kv_status_t status = start_core_config(node, line, cap);
    if (status == KV_OK) {
        status = kvn_node_files(node, line, cap);
    }
    if (status != KV_OK) {
        return status;
    }
    status = start_memory(node, line, cap); /* it is what a wrong size shows at */
    if (status != KV_OK) {
        return status;
    }
    if (start_tables(node) != KV_OK) {
        return fail(line, cap, KV_ERR_NOMEM, "tables");
    }
    status = start_threads(node, line, cap);
    if (status == KV_OK) {
        status = start_core(node, line, cap);
    }
    if (status == KV_OK) {
        start_handles(node);
        status = start_http(node, line, cap);
    }
    if (status == KV_OK) {
        status = start_local(node, line, cap);
    }
    if (status == KV_OK) {
        status = kvn_node_remote_start(node, line, cap);
    }
    /* Last: from here on others can see us. */
    return status == KV_OK ? start_links(node, line, cap) : status;
}

static kv_status_t whole(
    uv_loop_t *loop, const struct kvn_config *config, bool embedded,
    kvn_node_t **node_p, char *line, size_t cap)
{
    struct kvn_node *node = kv_calloc(1, sizeof(*node));
    if (node == NULL) {
        return fail(line, cap, KV_ERR_NOMEM, "node");
    }
    node->loop = loop;
    node->config = config;
    node->embedded = embedded;
    node->started_us = kvn_node_now(node);
    node->core_config = kv_calloc(1, sizeof(*node->core_config));
    kv_status_t status = node->core_config == NULL
                             ? fail(line, cap, KV_ERR_NOMEM, "node")
                             : start(node, line, cap);
    if (status != KV_OK) {
        kvn_node_stop(node, NULL, NULL);
        return status;
    }
    *node_p = node;
    return KV_OK;
}

kv_status_t kvn_node_start(
    uv_loop_t *loop, const struct kvn_config *config, kvn_node_t **node_p, char *line,
    size_t cap)
{
    return whole(loop, config, false, node_p, line, cap);
}

kv_status_t kvn_node_embed(
    uv_loop_t *loop, const struct kvn_config *config, kvn_node_t **node_p, char *line,
    size_t cap)
{
    return whole(loop, config, true, node_p, line, cap);
}

void kvn_node_adopt(kvn_node_t *node, int fd)
{
    KV_ASSERT(node->embedded && !node->stopping && node->local != NULL);
    kvn_local_adopt(node->local, fd);
}

kvo_node_t *kvn_node_core(kvn_node_t *node)
{
    return node->core;
}

uint32_t kvn_node_id(const kvn_node_t *node)
{
    return node->core_config->node;
}

uint16_t kvn_node_port(const kvn_node_t *node)
{
    return node->links != NULL ? kvn_links_port(node->links) : 0;
}

uint16_t kvn_node_http_port(const kvn_node_t *node)
{
    return node->http != NULL ? kvn_http_port(node->http) : 0;
}
