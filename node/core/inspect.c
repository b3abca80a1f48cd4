/* Looking in: what operators are told of peers and of the node's tables. Reads alone;
 * every call is O(1), but for the count of clients. */
#include "node/core/core_priv.h"

static struct kvo_table of_slots(const struct kvo_slots *slots)
{
    return (struct kvo_table){.used = slots->nr_taken, .max = slots->nr};
}

void kvo_tables(const kvo_node_t *node, struct kvo_tables *tables)
{
    *tables = (struct kvo_tables){
        .clients = {.max = node->config.nr_clients},
        .requests = of_slots(&node->ops),
        .fetching = of_slots(&node->items),
        .calls = of_slots(&node->calls),
        .reads = {.used = node->nr_reading, .max = node->config.nr_reads},
        .grants = of_slots(&node->givens),
        .spills = of_slots(&node->spills),
        .pins = of_slots(&node->pins),
    };
    for (uint32_t i = 0; i < node->config.nr_clients; i++) {
        tables->clients.used += node->clients[i].state != CLIENT_GONE;
    }
}

static uint64_t past(uint64_t now_us, uint64_t at)
{
    return now_us > at ? now_us - at : 0;
}

static const char *transport_of(const kvo_node_t *node, const struct kvo_peer *peer)
{
    uint8_t way = peer->ways[KVO_ONE_SIDED];
    if (way == KVO_NO_WAY) {
        way = peer->ways[KVO_NAMED];
    }
    return way == KVO_NO_WAY ? "" : node->config.transports[way].name;
}

/* Of the memory that reaches back least: it has room only when it has for all. */
static uint64_t least_reach(const kvo_node_t *node, const struct kvo_peer *peer)
{
    uint64_t at = 0;
    for (uint16_t t = 0; t < node->config.pager.nr_tenants; t++) {
        bool covered = (peer->tenants >> t & 1) != 0;
        at = covered && peer->reach_at[t] > at ? peer->reach_at[t] : at;
    }
    return at;
}

void kvo_peer_info(
    const kvo_node_t *node, uint64_t now_us, uint32_t peer, struct kvo_peer_info *info)
{
    static const char *const links[] = {
        [LINK_DOWN] = "down", [LINK_DIALING] = "dialing", [LINK_HELLO] = "hello",
        [LINK_UP] = "up",     [LINK_ENDING] = "ending",
    };
    static const char *const conns[] = {
        [CONN_CLOSED] = "closed", [CONN_OPEN] = "open", [CONN_FENCING] = "fencing"};
    KV_ASSERT(peer < node->view.nr && peer != node->self);
    const struct kvo_peer *p = &node->peers[peer];
    const bool up = p->state == LINK_UP;
    const uint64_t reach_at = least_reach(node, p);
    *info = (struct kvo_peer_info){
        .state = links[p->state],
        .up = up,
        .dialled = p->dialled,
        .incarnation = p->incarnation,
        .since_us = past(now_us, p->since),
        .life = up ? p->live.life : KVC_LOST,
        .silent_us = up ? past(now_us, p->live.heard_us) : 0,
        .transport = transport_of(node, p),
        .out = conns[p->out],
        .in = conns[p->in],
        .tenants = up ? p->tenants : 0,
        .listed_there = up ? p->listed : 0,
        .listed_here = kvc_dir_nr_entries(node->dir, peer),
        .owes_sync = up && (p->in_lost || p->in_sync),
        .syncing = up && (p->syncing || p->want_sync),
        .stream_out = up ? p->out_pos : 0,
        .stream_in = up ? p->in_pos : 0,
        .fetched_bytes = p->fetched_bytes,
        .served_bytes = p->served_bytes,
        .free_frames = up ? p->free_frames : 0,
        .reach_us = up && reach_at != 0 ? past(now_us, reach_at) : 0,
    };
}

bool kvo_peer_usable(const kvo_node_t *node, uint32_t peer)
{
    KV_ASSERT(peer < node->view.nr);
    return peer == node->self || kvo_usable(node, peer);
}
