/* Links: one authenticated control connection between two incarnations
 * (docs/protocol.md, "link").
 *
 *          dial                conn_up               HELLO_OK / HELLO taken
 *   DOWN ────────► DIALING ─────────────► HELLO ───────────────────────────► UP
 *    ▲  ▲             │ dial failed         │ refused, gone, timeout          │ end
 *    │  └─────────────┴─────────────────────┘                                 ▼
 *    └────────────────────────────── both fences done ─────────────────── ENDING
 *
 * The node with the lower id dials. (1) In UP both sides know the other's
 * incarnation. (2) A message is acted on only if it came on peer.conn and names
 * peer.link. (3) ENDING ends when no read of the peer touches our memory and none of
 * ours lands any more, so a new link starts with nothing of the old one.
 */
#include "node/core/core_priv.h"

static bool we_dial(const kvo_node_t *node, const struct kvo_peer *peer)
{
    return node->self < kvo_peer_index(node, peer);
}

static void send_on(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, struct kv_msg *msg)
{
    msg->proto = KV_PROTO_MAX;
    msg->epoch = node->view.epoch;
    node->metrics.messages_out++;
    node->metrics.sent[kv_msg_index(msg->type)]++;
    node->out.send(node->out.arg, kvo_peer_index(node, peer), conn, msg);
}

void kvo_send(kvo_node_t *node, struct kvo_peer *peer, struct kv_msg *msg)
{
    KV_ASSERT(peer->state == LINK_UP);
    msg->link = peer->link;
    send_on(node, peer, peer->conn, msg);
}

static struct kv_msg
status_of(kv_status_t status, const char *field, uint64_t limit, uint64_t value)
{
    struct kv_msg msg = {.type = KV_MSG_STATUS};
    msg.u.status = (struct kv_msg_status){
        .status = status,
        .field = {.text = field, .len = (uint32_t)strlen(field)},
        .limit = limit,
        .value = value,
    };
    return msg;
}

void kvo_send_status(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t req, kv_status_t status,
    const char *field, uint64_t limit, uint64_t value)
{
    struct kv_msg msg = status_of(status, field, limit, value);
    msg.req = req;
    kvo_send(node, peer, &msg);
}

static void refuse(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, kv_status_t status,
    const char *field, uint64_t limit, uint64_t value)
{
    struct kv_msg msg = status_of(status, field, limit, value);
    kvo_trace(
        node, "link n%u refused %s", kvo_node_id(node, kvo_peer_index(node, peer)),
        kv_status_name(status));
    send_on(node, peer, conn, &msg);
    node->out.hang_up(node->out.arg, kvo_peer_index(node, peer), conn);
}

void kvo_link_tell(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, kv_status_t status,
    const struct kv_detail *detail)
{
    bool known = conn != 0 && (conn == peer->conn || conn == peer->pending_conn);
    if (!known) {
        return; /* of a link that has ended */
    }
    const struct kv_detail none = {0};
    const struct kv_detail *why = detail != NULL ? detail : &none;
    struct kv_msg msg = status_of(
        status, why->field != NULL ? why->field : "message", why->limit, why->value);
    if (peer->state == LINK_UP && conn == peer->conn) {
        msg.link = peer->link;
    }
    send_on(node, peer, conn, &msg);
}

/* What HELLO and HELLO_OK have in common: who we are. */
struct introduction {
    struct kv_msg_transport transports[KV_MSG_TRANSPORTS_MAX];
    struct kv_msg_tenant tenants[KVP_TENANTS_MAX];
    uint32_t nr_tenants;
};

static struct kv_msg_text text_of(const char *text)
{
    return (struct kv_msg_text){.text = text, .len = (uint32_t)strlen(text)};
}

/* A tenant whose proof cannot be made (no memory) is left out: this link does not cover
 * it. */
static uint32_t introduce_tenants(const kvo_node_t *node, struct kv_msg_tenant *tenants)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < node->config.pager.nr_tenants; i++) {
        tenants[nr].id = node->config.pager.tenants[i].id;
        nr += kv_check_proof(
                  node->config.tenant_checks[i], node->config.node,
                  node->config.incarnation, &tenants[nr].check)
              == KV_OK;
    }
    return nr;
}

static void introduce(const kvo_node_t *node, struct introduction *intro)
{
    for (uint32_t i = 0; i < node->config.nr_transports; i++) {
        const struct kvo_transport *ours = &node->config.transports[i];
        intro->transports[i] = (struct kv_msg_transport){
            .name = text_of(ours->name),
            .domain = text_of(ours->domain),
            .address = text_of(ours->address),
        };
    }
    intro->nr_tenants = introduce_tenants(node, intro->tenants);
}

static void redial_later(kvo_node_t *node, struct kvo_peer *peer)
{
    KV_ASSERT(peer->state == LINK_DOWN);
    if (!we_dial(node, peer)) {
        kvo_timer_stop(&node->timers, &peer->timer);
        return;
    }
    uint64_t pause = peer->redial_us;
    if (peer->redial_us < 16 * node->config.redial_us) {
        peer->redial_us *= 2;
    }
    /* Jitter, so that a restarted node is not met by everyone at once. */
    pause += kv_rng_below(&node->rng, pause / 2 + 1);
    kvo_timer_set(&node->timers, &peer->timer, node->now + pause);
}

static void hello_failed(kvo_node_t *node, struct kvo_peer *peer)
{
    KVO_MOVE(node, peer, state, LINK, HELLO, DOWN);
    peer->conn = 0;
    redial_later(node, peer);
}

static void send_hello(kvo_node_t *node, struct kvo_peer *peer)
{
    struct introduction intro;
    introduce(node, &intro);
    struct kv_msg msg = {.type = KV_MSG_HELLO};
    msg.u.hello = (struct kv_msg_hello){
        .proto_min = KV_PROTO_MIN,
        .proto_max = KV_PROTO_MAX,
        .cluster = {.text = node->cluster, .len = (uint32_t)strlen(node->cluster)},
        .node = node->config.node,
        .incarnation = node->config.incarnation,
        .view_digest = node->view.digest,
        .transports = intro.transports,
        .nr_transports = node->config.nr_transports,
        .tenants = intro.tenants,
        .nr_tenants = intro.nr_tenants,
    };
    send_on(node, peer, peer->conn, &msg);
}

void kvo_link_conn_up(kvo_node_t *node, uint32_t index, uint64_t conn, bool dialled)
{
    struct kvo_peer *peer = &node->peers[index];
    if (dialled) {
        if (peer->state != LINK_DIALING) {
            node->out.hang_up(node->out.arg, index, conn);
            return;
        }
        KVO_MOVE(node, peer, state, LINK, DIALING, HELLO);
        peer->conn = conn;
        peer->dialled = true;
        kvo_timer_set(
            &node->timers, &peer->timer, node->now + node->config.liveness.suspect_us);
        send_hello(node, peer);
        return;
    }
    if (peer->state == LINK_DOWN) {
        KVO_MOVE(node, peer, state, LINK, DOWN, HELLO);
        peer->conn = conn;
        peer->dialled = false;
        kvo_timer_set(
            &node->timers, &peer->timer, node->now + node->config.liveness.suspect_us);
        return;
    }
    /* One link is up, ending or being made: the newcomer waits for its own HELLO. */
    if (peer->pending_conn != 0) {
        node->out.hang_up(node->out.arg, index, peer->pending_conn);
    }
    peer->pending_conn = conn;
    peer->pending_since = node->now;
}

void kvo_link_conn_down(kvo_node_t *node, uint32_t index, uint64_t conn)
{
    struct kvo_peer *peer = &node->peers[index];
    if (conn == peer->pending_conn) {
        peer->pending_conn = 0;
        return;
    }
    if (conn != peer->conn || conn == 0) {
        return;
    }
    peer->conn = 0;
    if (peer->state == LINK_HELLO) {
        hello_failed(node, peer);
    } else if (peer->state == LINK_UP) {
        kvo_link_end(node, peer, KV_ERR_LINK_LOST);
    }
}

void kvo_link_dial_failed(kvo_node_t *node, uint32_t index)
{
    struct kvo_peer *peer = &node->peers[index];
    if (peer->state == LINK_DIALING) {
        KVO_MOVE(node, peer, state, LINK, DIALING, DOWN);
        redial_later(node, peer);
    }
}

static bool text_is(const struct kv_msg_text *text, const char *ours)
{
    return text->len == strlen(ours) &&
           (text->len == 0 || memcmp(text->text, ours, text->len) == 0);
}

/* How we read the peer: the first of our list that is common; and, if grants are read
 * under it, the first that names. False: none is common. */
static bool take_transports(
    const kvo_node_t *node, struct kvo_peer *peer,
    const struct kv_msg_transport *theirs, uint32_t nr_theirs)
{
    memset(peer->ways, KVO_NO_WAY, sizeof(peer->ways));
    for (uint32_t t = 0; t < node->config.nr_transports; t++) {
        const struct kvo_transport *ours = &node->config.transports[t];
        for (uint32_t i = 0; i < nr_theirs && !kvo_reads(peer, ours->kind); i++) {
            const struct kv_msg_text *address = &theirs[i].address;
            if (text_is(&theirs[i].name, ours->name) &&
                text_is(&theirs[i].domain, ours->domain)) {
                peer->ways[ours->kind] = (uint8_t)t;
                KV_ASSERT(address->len <= KV_MSG_PLACE_MAX);
                memset(peer->addresses[ours->kind], 0, KV_MSG_PLACE_MAX + 1);
                if (address->len > 0) {
                    memcpy(peer->addresses[ours->kind], address->text, address->len);
                }
            }
        }
        if (kvo_reads(peer, KVO_NAMED)) {
            return true; /* what comes behind it is not wanted */
        }
    }
    return kvo_reads(peer, KVO_ONE_SIDED);
}

/* Tenants and transports from the other's introduction. OK or why not. */
static kv_status_t take_introduction(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t incarnation,
    const struct kv_msg_tenant *tenants, uint32_t nr_tenants,
    const struct kv_msg_transport *transports, uint32_t nr_transports,
    struct kv_detail *detail)
{
    uint32_t id = kvo_node_id(node, kvo_peer_index(node, peer));
    uint64_t covered = 0;
    for (uint32_t i = 0; i < nr_tenants; i++) {
        uint16_t mine = kvp_tenant(node->pager, tenants[i].id);
        if (mine == UINT16_MAX) {
            continue;
        }
        uint64_t proof;
        kv_status_t status =
            kv_check_proof(node->config.tenant_checks[mine], id, incarnation, &proof);
        if (status != KV_OK) {
            return status;
        }
        if (proof != tenants[i].check) {
            return kv_fail(
                detail, KV_ERR_TENANT_SECRET, "tenants.check", 0, tenants[i].id);
        }
        covered |= UINT64_C(1) << mine;
    }
    if (!take_transports(node, peer, transports, nr_transports)) {
        return kv_fail(detail, KV_ERR_INVALID, "transports", 0, nr_transports);
    }
    peer->tenants = covered;
    return KV_OK;
}

const struct kvo_transport *
kvo_peer_transport(const kvo_node_t *node, uint32_t index, enum kvo_kind kind)
{
    KV_ASSERT(index < node->view.nr);
    const struct kvo_peer *peer = &node->peers[index];
    bool reads = peer->state == LINK_UP && kvo_reads(peer, kind);
    return reads ? &node->config.transports[peer->ways[kind]] : NULL;
}

const char *kvo_peer_address(const kvo_node_t *node, uint32_t index, enum kvo_kind kind)
{
    KV_ASSERT(index < node->view.nr);
    return node->peers[index].addresses[kind];
}

bool kvo_link_one_sided_lost(kvo_node_t *node, struct kvo_peer *peer, uint64_t link)
{
    if (peer->state != LINK_UP || peer->link != link || !kvo_reads(peer, KVO_NAMED)) {
        return false;
    }
    peer->ways[KVO_ONE_SIDED] = KVO_NO_WAY;
    kvo_trace(node, "data n%u by name", kvo_node_id(node, kvo_peer_index(node, peer)));
    return true;
}

static kv_status_t hello_check(
    const kvo_node_t *node, const struct kvo_peer *peer, const struct kv_msg *msg,
    struct kv_detail *detail)
{
    const struct kv_msg_hello *hello = &msg->u.hello;
    if (hello->proto_min > KV_PROTO_MAX || hello->proto_max < KV_PROTO_MIN) {
        return kv_fail(
            detail, KV_ERR_VERSION, "hello.proto", KV_PROTO_MAX, hello->proto_min);
    }
    if (hello->cluster.len != strlen(node->cluster) ||
        memcmp(hello->cluster.text, node->cluster, hello->cluster.len) != 0) {
        return kv_fail(detail, KV_ERR_CLUSTER, "hello.cluster", 0, hello->cluster.len);
    }
    uint32_t id = kvo_node_id(node, kvo_peer_index(node, peer));
    if (hello->node != id) {
        return kv_fail(detail, KV_ERR_DENIED, "hello.node", id, hello->node);
    }
    if (hello->incarnation == 0) {
        return kv_fail(detail, KV_ERR_INVALID, "hello.incarnation", 1, 0);
    }
    if (msg->epoch == node->view.epoch && hello->view_digest != node->view.digest) {
        return kv_fail(
            detail, KV_ERR_VIEW_DIFFERS, "hello.view_digest", node->view.epoch,
            msg->epoch);
    }
    return KV_OK;
}

static void link_up(kvo_node_t *node, struct kvo_peer *peer)
{
    uint32_t index = kvo_peer_index(node, peer);
    KVO_MOVE(node, peer, state, LINK, HELLO, UP);
    peer->since = node->now;
    KV_ASSERT(peer->incarnation != 0 && peer->link != 0); /* (1) */
    KV_ASSERT(peer->out == CONN_CLOSED && peer->in == CONN_CLOSED);
    kvo_timer_stop(&node->timers, &peer->timer);
    peer->redial_us = node->config.redial_us;
    peer->out_pos = peer->in_pos = 0;
    peer->in_lost = true; /* until its SYNC_BEGIN */
    peer->in_sync = false;
    kvo_owed_nothing(peer);
    peer->mismatches = 0;
    peer->out_gen = peer->in_gen = peer->in_next = 0;
    peer->in_kinds = peer->in_next_kinds = 0;
    peer->nr_releases = 0;
    kvo_reach_none(node, peer); /* no room, until it says so */
    kvc_liveness_reset(&peer->live, node->now);
    kvc_dir_holder_up(node->dir, index);
    kvo_trace(node, "link n%u up", kvo_node_id(node, index));
    kvo_observe(
        node, KVO_SAW_LINK_UP, NULL, (struct kvp_ref){KVP_NO_FRAME, 0}, index,
        peer->link);
    kvo_data_open(node, peer);
    kvo_sync_start(node, peer);
}

/* HELLO on a second connection: the newest link that authenticated is the node, unless
 * the one we have is alive and another process. Either way the old link ends first, and
 * the newcomer is told to come again. True when the caller may go on. */
static bool hello_second(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, const struct kv_msg *msg)
{
    if (conn != peer->pending_conn) {
        return conn == peer->conn && peer->state == LINK_HELLO && !peer->dialled;
    }
    peer->pending_conn = 0;
    if (peer->state == LINK_HELLO) {
        node->out.hang_up(node->out.arg, kvo_peer_index(node, peer), peer->conn);
        peer->conn = conn;
        peer->dialled = false;
        return true;
    }
    if (peer->state == LINK_DOWN) {
        KVO_MOVE(node, peer, state, LINK, DOWN, HELLO);
        peer->conn = conn;
        peer->dialled = false;
        return true;
    }
    if (peer->state == LINK_UP && peer->live.life == KVC_ALIVE &&
        msg->u.hello.incarnation != peer->incarnation) {
        refuse(
            node, peer, conn, KV_ERR_DUPLICATE_NODE, "hello.node", 0,
            msg->u.hello.node);
        return false;
    }
    refuse(node, peer, conn, KV_ERR_AGAIN, "link", 0, 0);
    if (peer->state == LINK_UP) {
        kvo_link_end(node, peer, KV_ERR_LINK_LOST);
    }
    return false;
}

void kvo_link_hello(
    kvo_node_t *node, struct kvo_peer *peer, uint64_t conn, const struct kv_msg *msg)
{
    struct kv_detail detail = {0};
    kv_status_t status = hello_check(node, peer, msg, &detail);
    if (status != KV_OK && conn == peer->pending_conn && peer->state == LINK_UP) {
        peer->pending_conn = 0; /* the living link is none of its business */
        node->metrics.messages_bad++;
        refuse(node, peer, conn, status, detail.field, detail.limit, detail.value);
        return;
    }
    if (!hello_second(node, peer, conn, msg)) {
        return;
    }
    if (status == KV_OK) {
        const struct kv_msg_hello *hello = &msg->u.hello;
        status = take_introduction(
            node, peer, hello->incarnation, hello->tenants, hello->nr_tenants,
            hello->transports, hello->nr_transports, &detail);
    }
    if (status != KV_OK) {
        node->metrics.messages_bad++;
        refuse(node, peer, conn, status, detail.field, detail.limit, detail.value);
        hello_failed(node, peer);
        return;
    }
    peer->incarnation = msg->u.hello.incarnation;
    do {
        peer->link = kv_rng_next(&node->rng);
    } while (peer->link == 0);
    node->out.random(node->out.arg, peer->nonce, KV_NONCE_BYTES);
    struct introduction intro;
    introduce(node, &intro);
    struct kv_msg answer = {.type = KV_MSG_HELLO_OK, .link = peer->link};
    answer.u.hello_ok = (struct kv_msg_hello_ok){
        .proto = KV_PROTO_MAX,
        .node = node->config.node,
        .incarnation = node->config.incarnation,
        .view_digest = node->view.digest,
        .transports = intro.transports,
        .nr_transports = node->config.nr_transports,
        .tenants = intro.tenants,
        .nr_tenants = intro.nr_tenants,
    };
    memcpy(answer.u.hello_ok.nonce, peer->nonce, KV_NONCE_BYTES);
    send_on(node, peer, conn, &answer);
    link_up(node, peer);
}

void kvo_link_hello_ok(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_hello_ok *ok = &msg->u.hello_ok;
    uint32_t index = kvo_peer_index(node, peer);
    if (peer->state != LINK_HELLO || !peer->dialled) {
        node->metrics.messages_stale++;
        return;
    }
    struct kv_detail detail = {0};
    kv_status_t status = KV_OK;
    if (msg->link == 0 || ok->incarnation == 0
        || ok->node != kvo_node_id(node, index)) {
        status = KV_ERR_PROTOCOL;
    } else if (msg->epoch == node->view.epoch && ok->view_digest != node->view.digest) {
        status = KV_ERR_VIEW_DIFFERS;
    } else {
        status = take_introduction(
            node, peer, ok->incarnation, ok->tenants, ok->nr_tenants, ok->transports,
            ok->nr_transports, &detail);
    }
    if (status != KV_OK) {
        node->metrics.messages_bad++;
        kvo_trace(
            node, "link n%u gave up %s", kvo_node_id(node, index),
            kv_status_name(status));
        node->out.hang_up(node->out.arg, index, peer->conn);
        hello_failed(node, peer);
        return;
    }
    peer->link = msg->link;
    peer->incarnation = ok->incarnation;
    memcpy(peer->nonce, ok->nonce, KV_NONCE_BYTES);
    link_up(node, peer);
}

void kvo_link_refused(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    if (peer->state != LINK_HELLO || !peer->dialled) {
        return;
    }
    kvo_trace(
        node, "link n%u was refused %s", kvo_node_id(node, kvo_peer_index(node, peer)),
        kv_status_name((kv_status_t)msg->u.status.status));
    node->out.hang_up(node->out.arg, kvo_peer_index(node, peer), peer->conn);
    hello_failed(node, peer);
}

/* ------------------------------------------------------------------ end of a link */

static void calls_of_peer_failed(kvo_node_t *node, uint32_t index)
{
    for (uint32_t i = 0; i < node->calls.nr; i++) {
        struct kvo_call *call = kvo_slots_at(&node->calls, i);
        if (call != NULL && call->peer == index) {
            kvo_call_failed(node, call);
        }
    }
}

void kvo_link_end(kvo_node_t *node, struct kvo_peer *peer, kv_status_t why)
{
    uint32_t index = kvo_peer_index(node, peer);
    KVO_MOVE(node, peer, state, LINK, UP, ENDING);
    peer->since = node->now;
    kvo_trace(
        node, "link n%u ended %s", kvo_node_id(node, index), kv_status_name(why));
    kvo_observe(
        node, KVO_SAW_LINK_END, NULL, (struct kvp_ref){KVP_NO_FRAME, 0}, index,
        peer->link);
    if (peer->conn != 0) {
        node->out.hang_up(node->out.arg, index, peer->conn);
        peer->conn = 0;
    }
    peer->syncing = false;
    peer->want_sync = false;
    peer->nr_releases = 0; /* grants end with the link */
    kvc_dir_holder_gone(node->dir, index);
    kvo_fence_in(node, peer);
    kvo_fence_out(node, peer);
    kvo_items_of_peer_lost(node, index);
    calls_of_peer_failed(node, index);
    kvo_spill_peer_lost(node, index);
    kvo_link_fenced(node, peer);
}

/* (3) A fence has ended; when none is left, so has the link. */
void kvo_link_fenced(kvo_node_t *node, struct kvo_peer *peer)
{
    if (peer->state != LINK_ENDING || peer->out != CONN_CLOSED ||
        peer->in != CONN_CLOSED) {
        return;
    }
    KVO_MOVE(node, peer, state, LINK, ENDING, DOWN);
    peer->link = 0;
    peer->incarnation = 0;
    redial_later(node, peer);
}

/* ------------------------------------------------------------------ time */

void kvo_link_timer(kvo_node_t *node, struct kvo_peer *peer)
{
    uint32_t index = kvo_peer_index(node, peer);
    if (peer->state == LINK_DOWN) {
        KV_ASSERT(we_dial(node, peer));
        KVO_MOVE(node, peer, state, LINK, DOWN, DIALING);
        node->out.dial(node->out.arg, index);
    } else if (peer->state == LINK_HELLO) {
        node->out.hang_up(node->out.arg, index, peer->conn);
        hello_failed(node, peer);
    }
}

/* Of all tiers: for operators who look at the other side. */
static uint32_t free_frames(const kvo_node_t *node)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < node->config.pager.nr_pools; i++) {
        struct kvp_pool_stats stats;
        kvp_pool_stats(node->pager, i, &stats);
        nr += stats.in_state[KVP_FREE];
    }
    return nr;
}

static void send_ping(kvo_node_t *node, struct kvo_peer *peer)
{
    struct kv_msg msg = {.type = KV_MSG_PING};
    struct kv_msg_reach reaches[KVP_TENANTS_MAX];
    msg.u.ping = (struct kv_msg_ping){
        .seq = ++peer->ping_seq,
        .stream_pos = peer->out_pos,
        .nr_entries = peer->listed,
        .free_frames = free_frames(node),
        .reach_us = kvo_reach_common(node),
        .reaches = reaches,
        .nr_reaches = kvo_reach_apart(node, peer, reaches),
    };
    kvo_send(node, peer, &msg);
}

void kvo_link_beat(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->view.nr; i++) {
        struct kvo_peer *peer = &node->peers[i];
        if (peer->pending_conn != 0 &&
            node->now - peer->pending_since > node->config.liveness.lost_us) {
            node->out.hang_up(node->out.arg, i, peer->pending_conn);
            peer->pending_conn = 0;
        }
        if (peer->state != LINK_UP) {
            continue;
        }
        if (kvc_liveness_tick(&peer->live, &node->config.liveness, node->now)) {
            if (peer->live.life == KVC_LOST) {
                kvo_link_end(node, peer, KV_ERR_LINK_LOST);
                continue;
            }
            kvo_trace(node, "link n%u suspect", kvo_node_id(node, i));
        }
        send_ping(node, peer);
    }
}

void kvo_link_ping(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_ping *ping = &msg->u.ping;
    kvo_reach_heard(node, peer, ping->reach_us, ping->reaches, ping->nr_reaches);
    peer->free_frames = ping->free_frames;
    uint32_t index = kvo_peer_index(node, peer);
    if (peer->forgotten > 0 && ++peer->forgotten_beats > KVO_FORGOTTEN_BEATS) {
        /* By now it has withdrawn them, or has kept one after all. */
        peer->forgotten = 0;
    }
    uint32_t owed = peer->denied + peer->full + peer->forgotten;
    uint32_t mine = kvc_dir_nr_entries(node->dir, index) + owed;
    /* What a peer of an older epoch publishes is refused: a sync would be too. */
    bool heard = msg->epoch >= node->view.epoch;
    bool gap = heard && (peer->in_lost || ping->stream_pos > peer->in_pos);
    bool differs = ping->stream_pos < peer->in_pos ||
                   (ping->nr_entries != mine && !peer->in_sync);
    if (!gap && differs && heard) {
        /* Twice in a row, since an answer of ours may be on its way. */
        gap = ++peer->mismatches >= 2;
    } else if (!gap) {
        peer->mismatches = 0;
    }
    if (gap) {
        peer->in_lost = true;
        peer->mismatches = 0;
        struct kv_msg want = {.type = KV_MSG_SYNC_WANT};
        want.u.sync_want.pos = peer->in_pos;
        kvo_send(node, peer, &want);
    }
    struct kv_msg pong = {.type = KV_MSG_PONG, .req = msg->req};
    pong.u.pong = (struct kv_msg_pong){
        .seq = ping->seq,
        .stream_pos = peer->in_pos,
        .nr_entries = kvc_dir_nr_entries(node->dir, index),
    };
    kvo_send(node, peer, &pong);
}

void kvo_link_pong(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    /* Hearing it is all that it is for: kvo_message() has noted that. */
    if (msg->u.pong.seq > peer->ping_seq) {
        node->metrics.messages_bad++;
    }
}
