/* Control connections and what travels on them; the reader's side of data connections.
 *
 *   kvo_out.send ──kv_encode──► bytes ──latency, faults──► kv_decode ──► kvo_message
 *
 * A connection delivers in order. DELAY and DUPLICATE break that on purpose: TCP would
 * not, but a protocol that needs TCP's word for it could not be moved to another wire.
 * A bit that flips is found by the record's own integrity check (TLS), so a corrupted
 * message is always a bad one, even if it would decode.
 */
#include "node/sim/world_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    DIAL_TIMEOUT_US = 1000000,
    RESET_US_MAX = 50000, /* until a peer learns that a process is gone */
    /* One message in so many meets each fault. */
    ONE_IN_DELAY = 150,
    ONE_IN_DUPLICATE = 150,
    ONE_IN_LOSS = 300,
    ONE_IN_CORRUPT = 2000,
    ONE_IN_DIAL = 5,
};

/* Bytes on their way. */
struct parcel {
    uint32_t len;
    bool corrupt;
    uint8_t bytes[];
};

static size_t pair_of(const kvs_world_t *world, uint32_t from, uint32_t to)
{
    return (size_t)from * world->config.nr_nodes + to;
}

bool kvs_net_cut(const kvs_world_t *world, uint32_t from, uint32_t to)
{
    return world->cut_until[pair_of(world, from, to)] > world->now;
}

void kvs_cut(kvs_world_t *world, uint32_t a, uint32_t b, bool both, uint64_t for_us)
{
    kvs_say(
        world, false, "n%u ! cannot reach n%u%s for %u ms", a + 1, b + 1,
        both ? " and back" : "", (unsigned)(for_us / 1000));
    world->cut_until[pair_of(world, a, b)] = world->now + for_us;
    if (both) {
        world->cut_until[pair_of(world, b, a)] = world->now + for_us;
    }
}

uint64_t kvs_net_latency(kvs_world_t *world, uint32_t from, uint32_t to)
{
    uint64_t us = world->config.net_us;
    if (world->config.net_jitter_us > 0) {
        us += kv_rng_below(&world->net_rng, world->config.net_jitter_us);
    }
    return kvs_stretch(world, to, kvs_stretch(world, from, us));
}

static struct kvs_conn *conn_of(kvs_world_t *world, uint64_t id)
{
    return id > 0 && id <= world->nr_conns ? &world->conns[id - 1] : NULL;
}

/* ------------------------------------------------------------------ dial */

struct dialling {
    uint64_t life;
};

void kvs_net_dial(void *arg, uint32_t peer)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    struct dialling *dialling = kvs_take(sizeof(*dialling));
    dialling->life = world->nodes[port->node].life;
    uint64_t at = world->now + kvs_net_latency(world, port->node, peer);
    kvs_push(world, at, KVS_EV_DIAL, port->node, peer, dialling);
}

/* The knock arrives at the peer. */
static void dial(kvs_world_t *world, const struct kvs_event *event)
{
    uint32_t from = event->node, to = (uint32_t)event->id;
    if (!kvs_alive(world, from, ((struct dialling *)event->p)->life)) {
        return;
    }
    bool silent = kvs_net_cut(world, from, to) || kvs_net_cut(world, to, from)
                  || kvs_paused(world, to);
    if (silent) {
        uint64_t at = world->now + DIAL_TIMEOUT_US;
        kvs_push_to(world, at, KVS_EV_DIAL_FAILED, from, to, NULL);
        return;
    }
    uint64_t back = world->now + kvs_net_latency(world, to, from);
    if (world->nodes[to].core == NULL || kvs_roll(world, KVS_F_DIAL, ONE_IN_DIAL)) {
        kvs_push_to(world, back, KVS_EV_DIAL_FAILED, from, to, NULL);
        return;
    }
    world->conns = kvs_grow(
        world->conns, world->nr_conns, &world->conns_cap, sizeof(*world->conns));
    world->conns[world->nr_conns++] = (struct kvs_conn){
        .node = {from, to},
        .life = {world->nodes[from].life, world->nodes[to].life},
    };
    uint64_t id = world->nr_conns;
    kvs_push_to(world, world->now, KVS_EV_CONN_UP, to, id, NULL);
    kvs_push_to(world, back, KVS_EV_CONN_UP, from, id, NULL);
}

static void conn_up(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_conn *conn = conn_of(world, event->id);
    unsigned side = conn->node[0] == event->node ? 0 : 1;
    uint32_t peer = conn->node[1 - side];
    kvo_node_t *core = kvs_enter(world, event->node);
    uint64_t now = kvs_node_now(world, event->node);
    if (!conn->broken) {
        conn->up[side] = true;
        kvo_conn_up(core, now, peer, event->id, side == 0);
    } else if (side == 0) {
        kvo_dial_failed(core, now, peer);
    }
    kvs_leave(world, event->node);
}

/* ------------------------------------------------------------------ the end */

/* The other side hears of the end at `at`, but not through a cut. */
static void reset_at(kvs_world_t *world, uint64_t id, unsigned side, uint64_t at)
{
    kvs_push(world, at, KVS_EV_RESET, side, id, NULL);
}

static void reset(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_conn *conn = conn_of(world, event->id);
    unsigned side = event->node;
    uint32_t node = conn->node[side], peer = conn->node[1 - side];
    if (!kvs_alive(world, node, conn->life[side])) {
        return;
    }
    if (kvs_net_cut(world, peer, node)) {
        kvs_push_again(world, event, world->cut_until[pair_of(world, peer, node)] + 1);
        return;
    }
    kvs_push_to(world, world->now, KVS_EV_CONN_DOWN, node, event->id, NULL);
}

static void conn_down(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_conn *conn = conn_of(world, event->id);
    unsigned side = conn->node[0] == event->node ? 0 : 1;
    if (!conn->up[side]) {
        return;
    }
    conn->up[side] = false;
    kvo_node_t *core = kvs_enter(world, event->node);
    kvo_conn_down(
        core, kvs_node_now(world, event->node), conn->node[1 - side], event->id);
    kvs_leave(world, event->node);
}

void kvs_net_hang_up(void *arg, uint32_t peer, uint64_t id)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    struct kvs_conn *conn = conn_of(world, id);
    if (conn == NULL) {
        kvs_fail(
            world, "P7", "n%u hangs up a connection that never was", port->node + 1);
        return;
    }
    unsigned side = conn->node[0] == port->node ? 0 : 1;
    conn->up[side] = false;
    conn->broken = true;
    /* What was sent before comes before the end does. */
    uint64_t at = world->now + kvs_net_latency(world, port->node, peer);
    at = at > conn->last[side] ? at : conn->last[side];
    reset_at(world, id, 1 - side, at + 1);
}

static void break_conn(kvs_world_t *world, uint64_t id)
{
    struct kvs_conn *conn = conn_of(world, id);
    conn->broken = true;
    for (unsigned side = 0; side < 2; side++) {
        reset_at(world, id, side, world->now + kv_rng_below(&world->net_rng, 5000));
    }
}

void kvs_break(kvs_world_t *world, uint32_t a, uint32_t b)
{
    for (size_t i = 0; i < world->nr_conns; i++) {
        const struct kvs_conn *conn = &world->conns[i];
        bool theirs = (conn->node[0] == a && conn->node[1] == b)
                      || (conn->node[0] == b && conn->node[1] == a);
        if (theirs && !conn->broken) {
            break_conn(world, i + 1);
        }
    }
}

void kvs_net_killed(kvs_world_t *world, uint32_t node)
{
    for (size_t i = 0; i < world->nr_conns; i++) {
        struct kvs_conn *conn = &world->conns[i];
        for (unsigned side = 0; side < 2; side++) {
            if (conn->node[side] == node && !conn->broken) {
                conn->broken = true;
                conn->up[side] = false;
                uint64_t in = 1 + kv_rng_below(&world->net_rng, RESET_US_MAX);
                reset_at(world, i + 1, 1 - side, world->now + in);
            }
        }
    }
    for (uint32_t peer = 0; peer < world->config.nr_nodes; peer++) {
        world->links[pair_of(world, node, peer)] = 0;
    }
}

/* ------------------------------------------------------------------ messages */

size_t kvs_net_encode(kvs_world_t *world, uint32_t from, const struct kv_msg *msg)
{
    size_t len = 0;
    struct kv_detail detail = {0};
    struct kv_msg named = *msg;
    if (named.proto == 0) {
        named.proto = KV_PROTO_MAX;
    }
    kv_status_t status =
        kv_encode(&named, world->wire, KV_MSG_BYTES_MAX, &len, &detail);
    if (status != KV_OK) {
        char line[200];
        kv_detail_format(&detail, status, line, sizeof(line));
        kvs_fail(
            world, "P7", "n%u made a %s that cannot be encoded: %s", from + 1,
            kv_msg_name(msg->type), line);
        return 0;
    }
    return len;
}

static void record(
    kvs_world_t *world, uint32_t from, uint32_t to, const uint8_t *bytes, uint32_t len,
    bool data)
{
    if (world->recorded == NULL
        || (world->config.faults & KVS_FAULT_BIT(KVS_F_REPLAY)) == 0) {
        return;
    }
    size_t pair = pair_of(world, from, to);
    uint32_t n = world->nr_recorded[pair]++;
    uint32_t place = n;
    if (n >= KVS_RECORDED_MAX) { /* a sample of all that was ever sent */
        if (kv_rng_below(&world->fault_rng, 8) != 0) {
            return;
        }
        place = (uint32_t)kv_rng_below(&world->fault_rng, KVS_RECORDED_MAX);
    }
    struct kvs_recorded_message *slot =
        &world->recorded[pair * KVS_RECORDED_MAX + place];
    free(slot->bytes);
    slot->bytes = kvs_take(len);
    memcpy(slot->bytes, bytes, len);
    slot->len = len;
    slot->data = data;
    slot->life = world->nodes[from].life;
}

static struct parcel *pack(const uint8_t *bytes, uint32_t len)
{
    struct parcel *parcel = kvs_take(sizeof(*parcel) + len);
    parcel->len = len;
    memcpy(parcel->bytes, bytes, len);
    return parcel;
}

static void
say_message(kvs_world_t *world, uint32_t from, uint32_t to, const struct kv_msg *msg)
{
    if (world->trace != NULL || (world->record && world->record_messages)) {
        char line[400];
        kv_msg_format(msg, line, sizeof(line));
        kvs_say(world, true, "n%u > n%u %s", from + 1, to + 1, line);
    }
}

/* Event ids hold the connection and the sending side. */
static void put_on_wire(
    kvs_world_t *world, uint64_t id, unsigned side, const uint8_t *bytes, uint32_t len)
{
    struct kvs_conn *conn = conn_of(world, id);
    uint32_t from = conn->node[side], to = conn->node[1 - side];
    if (kvs_roll(world, KVS_F_LOSS, ONE_IN_LOSS)) {
        return;
    }
    uint64_t at = world->now + kvs_net_latency(world, from, to);
    at = at > conn->last[side] ? at : conn->last[side];
    if (kvs_roll(world, KVS_F_DELAY, ONE_IN_DELAY)) {
        at += kv_rng_below(&world->fault_rng, 1500000);
    } else {
        conn->last[side] = at;
    }
    struct parcel *parcel = pack(bytes, len);
    if (kvs_roll(world, KVS_F_CORRUPT, ONE_IN_CORRUPT)) {
        uint64_t bit = kv_rng_below(&world->fault_rng, (uint64_t)len * 8);
        parcel->bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        parcel->corrupt = true;
    }
    kvs_push_to(world, at, KVS_EV_MESSAGE, to, id << 1 | side, parcel);
    if (kvs_roll(world, KVS_F_DUPLICATE, ONE_IN_DUPLICATE)) {
        uint64_t again = at + kv_rng_below(&world->fault_rng, 300000);
        kvs_push_to(world, again, KVS_EV_MESSAGE, to, id << 1 | side, pack(bytes, len));
    }
}

void kvs_net_send(void *arg, uint32_t peer, uint64_t id, const struct kv_msg *msg)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    struct kvs_conn *conn = conn_of(world, id);
    if (conn == NULL) {
        kvs_fail(
            world, "P7", "n%u sends on a connection that never was", port->node + 1);
        return;
    }
    size_t len = kvs_net_encode(world, port->node, msg);
    unsigned side = conn->node[0] == port->node ? 0 : 1;
    if (len == 0 || !conn->up[side]) {
        return;
    }
    kvs_hash_bytes(world, world->wire, len);
    say_message(world, port->node, peer, msg);
    record(world, port->node, peer, world->wire, (uint32_t)len, false);
    put_on_wire(world, id, side, world->wire, (uint32_t)len);
}

static void count(kvs_world_t *world, const struct kv_msg *msg, uint32_t len)
{
    unsigned index = kv_msg_index(msg->type);
    if (index < KV_NR_MSGS) {
        world->stats.messages[index]++;
    }
    world->stats.message_bytes += len;
}

/* (I10) Nothing may come of a message that names a link which is not up. */
static bool of_ended_link(
    const kvs_world_t *world, uint32_t node, uint32_t peer, const struct kv_msg *msg)
{
    return msg->link != 0 && msg->type != KV_MSG_HELLO && msg->type != KV_MSG_HELLO_OK
           && msg->link != world->links[pair_of(world, node, peer)];
}

static void message(kvs_world_t *world, const struct kvs_event *event)
{
    struct parcel *parcel = event->p;
    struct kvs_conn *conn = conn_of(world, event->id >> 1);
    unsigned side = event->id & 1; /* the sender's */
    uint32_t peer = conn->node[side];
    if (!conn->up[1 - side]) {
        return;
    }
    uint64_t now = kvs_node_now(world, event->node);
    struct kv_msg msg;
    struct kv_detail detail = {0};
    world->arena.used = 0;
    kv_status_t status =
        kv_decode(parcel->bytes, parcel->len, &world->arena, &msg, &detail);
    if (status == KV_OK && parcel->corrupt) {
        status = KV_ERR_INVALID;
    }
    if (status != KV_OK && status != KV_ERR_INVALID && status != KV_ERR_VERSION
        && status != KV_ERR_TOO_LARGE) {
        kvs_fail(world, "P7", "bad bytes decoded to %s", kv_status_name(status));
        return;
    }
    kvo_node_t *core = kvs_enter(world, event->node);
    if (status == KV_OK) {
        count(world, &msg, parcel->len);
        world->stale = of_ended_link(world, event->node, peer, &msg);
        kvo_message(core, now, peer, event->id >> 1, &msg);
    } else {
        kvo_bad_message(core, now, peer, event->id >> 1, status, &detail);
    }
    kvs_leave(world, event->node);
}

bool kvs_net_inject(
    kvs_world_t *world, uint32_t from, uint32_t to, const uint8_t *bytes, uint32_t len)
{
    for (size_t i = world->nr_conns; i > 0; i--) {
        struct kvs_conn *conn = &world->conns[i - 1];
        for (unsigned side = 0; side < 2; side++) {
            if (conn->node[side] != from || conn->node[1 - side] != to || conn->broken
                || !conn->up[0] || !conn->up[1]) {
                continue;
            }
            uint64_t at = world->now + kvs_net_latency(world, from, to);
            at = at > conn->last[side] ? at : conn->last[side];
            conn->last[side] = at;
            kvs_push_to(
                world, at, KVS_EV_MESSAGE, to, (uint64_t)i << 1 | side,
                pack(bytes, len));
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------ data connections */

struct kvs_data_conn *kvs_net_data_conn(
    kvs_world_t *world, uint32_t reader, uint32_t owner, uint64_t link,
    uint32_t data_gen, bool make)
{
    uint32_t *last = &world->data_last[pair_of(world, reader, owner)];
    for (uint32_t i = *last; i != 0; i = world->data_conns[i - 1].prev) {
        struct kvs_data_conn *conn = &world->data_conns[i - 1];
        if (conn->link == link && conn->data_gen == data_gen) {
            return conn;
        }
    }
    if (!make) {
        return NULL;
    }
    world->data_conns = kvs_grow(
        world->data_conns, world->nr_data_conns, &world->data_conns_cap,
        sizeof(*world->data_conns));
    struct kvs_data_conn *conn = &world->data_conns[world->nr_data_conns++];
    *conn = (struct kvs_data_conn){
        .reader = reader,
        .owner = owner,
        .reader_life = world->nodes[reader].life,
        .owner_life = world->nodes[owner].life,
        .link = link,
        .data_gen = data_gen,
        .closed = world->nodes[owner].core == NULL || world->nodes[reader].core == NULL,
        .prev = *last,
    };
    *last = (uint32_t)world->nr_data_conns;
    return conn;
}

/* Bytes of a message on a data connection. A flipped bit there breaks it: the framing
 * of clear connections has a checksum of its own over headers. */
static void put_on_data(
    kvs_world_t *world, struct kvs_data_conn *conn, const uint8_t *bytes, uint32_t len)
{
    if (kvs_roll(world, KVS_F_LOSS, ONE_IN_LOSS)) {
        return;
    }
    if (kvs_roll(world, KVS_F_CORRUPT, ONE_IN_CORRUPT)) {
        kvs_fabric_break(world, conn);
        return;
    }
    uint64_t id = (uint64_t)(conn - world->data_conns);
    uint64_t at = world->now + kvs_net_latency(world, conn->reader, conn->owner);
    at = at > conn->last ? at : conn->last;
    if (kvs_roll(world, KVS_F_DELAY, ONE_IN_DELAY)) {
        at += kv_rng_below(&world->fault_rng, 1500000);
    } else {
        conn->last = at;
    }
    kvs_push_to(world, at, KVS_EV_READ_MESSAGE, conn->owner, id, pack(bytes, len));
    if (kvs_roll(world, KVS_F_DUPLICATE, ONE_IN_DUPLICATE)) {
        uint64_t again = at + kv_rng_below(&world->fault_rng, 300000);
        kvs_push_to(
            world, again, KVS_EV_READ_MESSAGE, conn->owner, id, pack(bytes, len));
    }
}

void kvs_net_data_out(
    kvs_world_t *world, struct kvs_data_conn *conn, const struct kv_msg *msg)
{
    size_t len = kvs_net_encode(world, conn->reader, msg);
    if (len == 0) {
        return;
    }
    kvs_hash_bytes(world, world->wire, len);
    say_message(world, conn->reader, conn->owner, msg);
    record(world, conn->reader, conn->owner, world->wire, (uint32_t)len, true);
    put_on_data(world, conn, world->wire, (uint32_t)len);
}

void kvs_net_random(void *arg, uint8_t *bytes, size_t len)
{
    const struct kvs_port *port = arg;
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)kv_rng_next(&port->world->nonce_rng);
    }
}

/* A data connection is opened by its first message. */
void kvs_net_send_data(void *arg, uint32_t peer, const struct kv_msg *msg)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    KV_ASSERT(msg->type == KV_MSG_DATA_OPEN);
    uint32_t data_gen = msg->u.data_open.data_gen;
    struct kvs_data_conn *conn =
        kvs_net_data_conn(world, port->node, peer, msg->link, data_gen, true);
    if (conn->reader_life != world->nodes[port->node].life) { /* (I10) */
        kvs_fail(
            world, "I10", "n%u has a link with n%u of the same id as in life %llu",
            port->node + 1, peer + 1, (unsigned long long)conn->reader_life);
        return;
    }
    conn->kinds |=
        (uint8_t)(1 << (msg->u.data_open.one_sided ? KVO_ONE_SIDED : KVO_NAMED));
    if (!conn->closed) {
        kvs_net_data_out(world, conn, msg);
    }
}

bool kvs_net_inject_data(
    kvs_world_t *world, uint32_t reader, uint32_t owner, const uint8_t *bytes,
    uint32_t len)
{
    uint32_t last = world->data_last[pair_of(world, reader, owner)];
    if (last == 0 || world->data_conns[last - 1].closed) {
        return false;
    }
    struct kvs_data_conn *conn = &world->data_conns[last - 1];
    uint64_t at = world->now + kvs_net_latency(world, reader, owner);
    at = at > conn->last ? at : conn->last;
    conn->last = at;
    kvs_push_to(world, at, KVS_EV_READ_MESSAGE, owner, last - 1, pack(bytes, len));
    return true;
}

static void read_message(kvs_world_t *world, const struct kvs_event *event)
{
    struct parcel *parcel = event->p;
    struct kvs_data_conn *conn = &world->data_conns[event->id];
    if (conn->closed) {
        return;
    }
    struct kv_msg msg;
    struct kv_detail detail = {0};
    world->arena.used = 0;
    if (kv_decode(parcel->bytes, parcel->len, &world->arena, &msg, &detail) != KV_OK) {
        return;
    }
    count(world, &msg, parcel->len);
    uint32_t reader = conn->reader;
    kvo_node_t *core = kvs_enter(world, event->node);
    world->stale = of_ended_link(world, event->node, reader, &msg);
    kvo_data_message(core, kvs_node_now(world, event->node), reader, &msg);
    kvs_leave(world, event->node);
}

/* ------------------------------------------------------------------ events */

/* A message that a cut holds back comes right after it, in order. */
static bool held_back(kvs_world_t *world, struct kvs_event *event)
{
    uint32_t from, to = event->node;
    if (event->kind == KVS_EV_MESSAGE) {
        from = world->conns[(event->id >> 1) - 1].node[event->id & 1];
    } else if (event->kind == KVS_EV_READ_MESSAGE) {
        from = world->data_conns[event->id].reader;
    } else {
        return false;
    }
    if (!kvs_net_cut(world, from, to)) {
        return false;
    }
    kvs_push_again(world, event, world->cut_until[pair_of(world, from, to)] + 1);
    event->p = NULL;
    return true;
}

void kvs_net_event(kvs_world_t *world, struct kvs_event *event)
{
    if (held_back(world, event)) {
        return;
    }
    switch (event->kind) {
    case KVS_EV_DIAL:
        dial(world, event);
        break;
    case KVS_EV_RESET:
        reset(world, event);
        break;
    case KVS_EV_CONN_UP:
        conn_up(world, event);
        break;
    case KVS_EV_CONN_DOWN:
        conn_down(world, event);
        break;
    case KVS_EV_DIAL_FAILED:
        kvo_dial_failed(
            kvs_enter(world, event->node), kvs_node_now(world, event->node),
            (uint32_t)event->id);
        kvs_leave(world, event->node);
        break;
    case KVS_EV_MESSAGE:
        message(world, event);
        break;
    default:
        KV_ASSERT(event->kind == KVS_EV_READ_MESSAGE);
        read_message(world, event);
        break;
    }
}
