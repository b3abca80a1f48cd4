/* The node: its creation, the step that every call runs in, and what the pager tells
 * it.
 *
 *   kvo_*(now) ──► step_begin ──► the event ──► step_end ──► one message a peer
 *                    │ a pause of ours?           │ pager's notices, waiting items,
 *                    │                            │ room to make, until nothing moves
 */
#include "node/core/core_priv.h"

#include <stdarg.h>
#include <stdio.h>

/* ------------------------------------------------------------------ small things */

void kvo_trace(kvo_node_t *node, const char *format, ...)
{
    if (node->out.trace == NULL) {
        return;
    }
    char line[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    node->out.trace(node->out.arg, line);
}

void kvo_observe(
    kvo_node_t *node, enum kvo_event event, const struct kv_copy *copy,
    struct kvp_ref frame, uint32_t peer, uint64_t value)
{
    if (node->out.observe == NULL) {
        return;
    }
    struct kvo_observed observed = {
        .event = event, .copy = copy, .frame = frame, .peer = peer, .value = value};
    node->out.observe(node->out.arg, &observed);
}

bool kvo_usable(const kvo_node_t *node, uint32_t peer)
{
    const struct kvo_peer *p = &node->peers[peer];
    return p->state == LINK_UP && p->live.life == KVC_ALIVE;
}

void kvo_part_at(kvo_node_t *node, struct kvp_ref ref, struct kvo_part *part)
{
    struct kvp_glance page;
    KV_ASSERT(kvp_glance(node->pager, ref, &page) == KV_OK);
    part->frame = ref;
    part->pool = page.pool;
    part->pool_frame = page.pool_frame;
}

/* ------------------------------------------------------------------ from the pager */

static struct kvo_event_obj *event_add(kvo_node_t *node, enum kvo_event_kind kind)
{
    KV_ASSERT(node->nr_events < KVO_EVENTS_MAX);
    struct kvo_event_obj *event = &node->events[node->nr_events++];
    memset(event, 0, sizeof(*event));
    event->kind = (uint8_t)kind;
    return event;
}

static void on_order(void *arg, const struct kvp_order *local)
{
    kvo_node_t *node = arg;
    struct kvo_order order = {.kind = KVO_ORDER_LOCAL, .local = *local};
    node->out.order(node->out.arg, &order);
}

static void on_listed(void *arg, struct kvp_ref ref, uint64_t hold)
{
    kvo_node_t *node = arg;
    struct kvp_info info;
    KV_ASSERT(kvp_info(node->pager, ref, &info) == KV_OK);
    struct kvo_event_obj *event = event_add(node, EVENT_LISTED);
    kvo_entry_of(&info, &event->entry);
    event->entry.gen = hold;
    kvo_observe(node, KVO_SAW_LISTED, &info.copy, ref, KVO_NONE, hold);
}

static void on_unlisted(
    void *arg, const struct kv_copy *copy, const kv_key_t *segment, uint64_t hold)
{
    kvo_node_t *node = arg;
    struct kvo_event_obj *event = event_add(node, EVENT_UNLISTED);
    event->entry.copy = *copy;
    event->entry.segment = *segment;
    event->entry.gen = hold;
    kvo_observe(
        node, KVO_SAW_UNLISTED, copy, (struct kvp_ref){KVP_NO_FRAME, 0}, KVO_NONE,
        hold);
}

static void on_switched(
    void *arg, struct kvp_seq_id seq, uint32_t page, struct kvp_ref was,
    struct kvp_ref now)
{
    kvo_client_switched(arg, seq, page, was, now);
}

static void on_verified(void *arg, struct kvp_ref ref, kv_status_t status)
{
    struct kvo_event_obj *event = event_add(arg, EVENT_VERIFIED);
    event->ref = ref;
    event->status = status;
}

static void
on_sealed(void *arg, struct kvp_ref ref, struct kvp_ref now, kv_status_t status)
{
    struct kvo_event_obj *event = event_add(arg, EVENT_SEALED);
    event->ref = ref;
    event->now = now;
    event->status = status;
}

static void
on_copied(void *arg, struct kvp_ref ref, kv_status_t status, uint64_t computed)
{
    struct kvo_event_obj *event = event_add(arg, EVENT_COPIED);
    event->ref = ref;
    event->status = status;
    event->value = computed;
}

static void on_freed(void *arg, struct kvp_ref ref)
{
    kvo_node_t *node = arg;
    node->frames_freed = true;
    kvo_observe(node, KVO_SAW_FREED, NULL, ref, KVO_NONE, 0);
}

struct kvp_out kvo_pager_hooks(kvo_node_t *node)
{
    return (struct kvp_out){
        .arg = node,
        .order = on_order,
        .listed = on_listed,
        .unlisted = on_unlisted,
        .switched = on_switched,
        .verified = on_verified,
        .sealed = on_sealed,
        .copied = on_copied,
        .freed = on_freed,
    };
}

/* Handles what the pager said, in order; handling may make it say more. */
static bool drain_events(kvo_node_t *node)
{
    bool any = node->nr_events > 0;
    for (uint32_t i = 0; i < node->nr_events; i++) {
        struct kvo_event_obj event = node->events[i];
        switch ((enum kvo_event_kind)event.kind) {
        case EVENT_LISTED:
            node->arrived = true;
            kvo_listed(node, &event.entry);
            break;
        case EVENT_UNLISTED:
            kvo_unlisted(node, &event.entry);
            break;
        case EVENT_VERIFIED:
            kvo_op_verified(node, event.ref, event.status);
            break;
        case EVENT_SEALED:
            kvo_op_sealed(node, event.ref, event.now, event.status);
            break;
        case EVENT_COPIED:
            kvo_item_copied(node, event.ref, event.status, event.value);
            break;
        }
    }
    node->nr_events = 0;
    return any;
}

/* ------------------------------------------------------------------ the step */

static void step_begin(kvo_node_t *node, uint64_t now_us)
{
    KV_ASSERT(!node->in_step);
    KV_ASSERT(now_us >= node->now);
    node->in_step = true;
    node->now = now_us;
    kvp_now(node->pager, now_us);
    if (now_us - node->last_tick > node->config.liveness.suspect_us) {
        /* We were stopped: others may have taken back what they gave us. */
        node->last_tick = now_us;
        node->metrics.pauses++;
        kvo_trace(node, "pause noticed");
        kvo_data_pause(node);
    }
}

/* What waits for the end of the step, or for a call or a read that has ended. */
static bool send_waiting(kvo_node_t *node)
{
    bool call = node->calls.free != KVO_NONE;
    bool read = node->nr_reading < node->config.nr_reads;
    bool ask = call && node->nr_asking > 0;
    if (ask) {
        kvo_lookups_work(node);
    }
    bool flush = (call && node->wanting.nr > 0) || (read && node->posted.nr > 0);
    if (flush) {
        kvo_items_flush(node);
    }
    return ask || flush;
}

static void step_end(kvo_node_t *node)
{
    /* Each round is caused by something that ended in the one before. */
    for (unsigned round = 0; round < KVO_STEP_ROUNDS; round++) {
        bool again = drain_events(node);
        bool freed = node->frames_freed, arrived = node->arrived;
        bool ended = node->local_ended;
        node->frames_freed = node->arrived = node->local_ended = false;
        if ((freed || arrived) && node->waiting.nr > 0) {
            kvo_items_work(node, false);
            again = true;
        }
        bool ready = (freed || ended) && node->nr_ready > 0;
        if (ready || (node->nr_queued > 0 && node->items.free != KVO_NONE)) {
            kvo_ops_work(node);
            again = true;
        }
        again = send_waiting(node) || again;
        kvo_copies_work(node);
        if (!again && node->nr_events == 0) {
            break;
        }
    }
    kvo_spill_work(node, false);
    kvo_spill_flush(node);
    drain_events(node);
    kvo_publish_flush(node);
    kvo_spill_done_flush(node);
    if (node->any_releases) {
        node->any_releases = false;
        for (uint32_t i = 0; i < node->view.nr; i++) {
            kvo_release_flush(node, &node->peers[i]);
        }
    }
    node->in_step = false;
}

/* Of a completion among many: what it made possible is begun, and what it has for peers
 * is sent, when the last has been handled. */
static void step_end_one(kvo_node_t *node)
{
    if (!node->many) {
        step_end(node);
        return;
    }
    node->many_ended = true;
    drain_events(node);
    node->in_step = false;
}

void kvo_many_begin(kvo_node_t *node)
{
    KV_ASSERT(!node->in_step && !node->many);
    node->many = true;
    node->many_ended = false;
}

void kvo_many_end(kvo_node_t *node)
{
    KV_ASSERT(!node->in_step && node->many);
    node->many = false;
    if (node->many_ended) {
        node->in_step = true;
        step_end(node);
    }
}

static void work(kvo_node_t *node)
{
    kvo_sync_work(node);
    kvo_spill_work(node, true);
    node->local_ended = true; /* those that wait for time look again */
    if (node->waiting.nr > 0) {
        kvo_items_work(node, true);
    }
    for (uint32_t i = 0; i < node->view.nr; i++) {
        struct kvo_peer *peer = &node->peers[i];
        if (peer->state == LINK_UP && peer->out == CONN_CLOSED) {
            kvo_data_open(node, peer);
        }
    }
}

static void fire(kvo_node_t *node, struct kvo_timer *timer)
{
    uint32_t index = timer->index;
    switch ((enum kvo_timer_kind)timer->kind) {
    case KVO_TIMER_BEAT:
        kvo_timer_set(
            &node->timers, timer, node->now + node->config.liveness.heartbeat_us);
        kvo_link_beat(node);
        break;
    case KVO_TIMER_WORK:
        kvo_timer_set(&node->timers, timer, node->now + node->config.tick_us);
        node->last_tick = node->now;
        work(node);
        break;
    case KVO_TIMER_PEER:
        kvo_link_timer(node, &node->peers[index]);
        break;
    case KVO_TIMER_OP:
        kvo_op_timer(node, kvo_slots_at(&node->ops, index));
        break;
    case KVO_TIMER_ITEM:
        kvo_item_timer(node, kvo_slots_at(&node->items, index));
        break;
    case KVO_TIMER_CALL:
        kvo_call_timer(node, kvo_slots_at(&node->calls, index));
        break;
    case KVO_TIMER_DATA:
        kvo_data_timer(node, kvo_slots_at(&node->datas, index));
        break;
    case KVO_TIMER_GIVEN:
        kvo_given_timer(node, kvo_slots_at(&node->givens, index));
        break;
    case KVO_TIMER_SPILL:
        kvo_spill_timer(node, kvo_slots_at(&node->spills, index));
        break;
    }
}

void kvo_tick(kvo_node_t *node, uint64_t now_us)
{
    step_begin(node, now_us);
    /* What a timer sets for this same moment waits for the next tick: no timer can keep
     * the loop here. */
    uint32_t due = node->timers.nr;
    while (due-- > 0 && node->timers.nr > 0 && node->timers.heap[0]->at <= now_us) {
        struct kvo_timer *timer = node->timers.heap[0];
        kvo_timer_stop(&node->timers, timer);
        fire(node, timer);
        drain_events(node);
    }
    step_end(node);
}

uint64_t kvo_next_timer(const kvo_node_t *node)
{
    return node->timers.nr > 0 ? node->timers.heap[0]->at : KVO_NEVER;
}

/* ------------------------------------------------------------------ connections */

void kvo_conn_up(
    kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn, bool dialled)
{
    KV_ASSERT(peer < node->view.nr && peer != node->self && conn != 0);
    step_begin(node, now_us);
    kvo_link_conn_up(node, peer, conn, dialled);
    step_end(node);
}

void kvo_conn_down(kvo_node_t *node, uint64_t now_us, uint32_t peer, uint64_t conn)
{
    KV_ASSERT(peer < node->view.nr);
    step_begin(node, now_us);
    kvo_link_conn_down(node, peer, conn);
    step_end(node);
}

void kvo_dial_failed(kvo_node_t *node, uint64_t now_us, uint32_t peer)
{
    KV_ASSERT(peer < node->view.nr);
    step_begin(node, now_us);
    kvo_link_dial_failed(node, peer);
    step_end(node);
}

/* ------------------------------------------------------------------ messages */

/* An answer to a call of ours: the call, ended, or NULL when it is nobody's any
 * more. */
static struct kvo_call *
answered(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg, int kind)
{
    struct kvo_call *call = kvo_slots_find(&node->calls, msg->req);
    if (call == NULL || call->peer != kvo_peer_index(node, peer) ||
        (kind >= 0 && call->kind != kind)) {
        node->metrics.messages_stale++;
        return NULL;
    }
    return call;
}

static void
take_answer(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    struct kvo_call *call;
    switch (msg->type) {
    case KV_MSG_FOUND:
        call = answered(node, peer, msg, CALL_LOOKUP);
        if (call != NULL) {
            kvo_lookup_found(node, call, msg);
            kvo_call_give(node, call);
        } else {
            for (uint32_t i = 0; i < msg->u.found.nr_grants; i++) {
                kvo_found_late(node, peer, msg->u.found.grants[i].grant.id);
            }
        }
        break;
    case KV_MSG_GRANTED:
        call = answered(node, peer, msg, CALL_GRANT);
        if (call != NULL) {
            kvo_item_granted(node, call, msg);
            kvo_call_give(node, call);
        } else {
            kvo_granted_late(node, peer, msg);
        }
        break;
    case KV_MSG_SPILL_ANSWER:
        call = answered(node, peer, msg, CALL_OFFER);
        if (call != NULL) {
            kvo_spill_answered(node, call, msg);
            kvo_call_give(node, call);
        }
        break;
    case KV_MSG_STATUS:
        call = answered(node, peer, msg, -1);
        if (call != NULL) {
            kvo_trace(
                node, "call n%u refused %s", kvo_node_id(node, call->peer),
                kv_status_name((kv_status_t)msg->u.status.status));
            kvo_call_failed(node, call);
        }
        break;
    default:
        KV_ASSERT(false);
    }
}

static void
take_message(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    switch (msg->type) {
    case KV_MSG_PING:
        kvo_link_ping(node, peer, msg);
        break;
    case KV_MSG_PONG:
        kvo_link_pong(node, peer, msg);
        break;
    case KV_MSG_PUBLISH:
    case KV_MSG_PUBLISHED:
    case KV_MSG_WITHDRAW:
    case KV_MSG_SYNC_BEGIN:
    case KV_MSG_SYNC_END:
    case KV_MSG_SYNC_WANT:
    case KV_MSG_LOOKUP:
        kvo_directory_message(node, peer, msg);
        break;
    case KV_MSG_GRANT:
        kvo_grant_asked(node, peer, msg);
        break;
    case KV_MSG_RELEASE:
        kvo_grant_released(node, peer, msg);
        break;
    case KV_MSG_REVOKED:
        kvo_grant_ended(node, peer, msg);
        break;
    case KV_MSG_REVOKE:
        kvo_grant_revoked(node, peer, msg);
        break;
    case KV_MSG_SPILL_OFFER:
        kvo_spill_asked(node, peer, msg);
        break;
    case KV_MSG_SPILL_DONE:
        kvo_spill_told(node, peer, msg);
        break;
    case KV_MSG_FOUND:
    case KV_MSG_GRANTED:
    case KV_MSG_SPILL_ANSWER:
    case KV_MSG_STATUS:
        take_answer(node, peer, msg);
        break;
    default:
        /* HELLO on a link that is up, or data messages on a control connection. */
        node->metrics.messages_bad++;
        kvo_send_status(
            node, peer, msg->req, KV_ERR_PROTOCOL, "type", KV_MSG_SPILL_DONE,
            msg->type);
        break;
    }
}

void kvo_message(
    kvo_node_t *node, uint64_t now_us, uint32_t index, uint64_t conn,
    const struct kv_msg *msg)
{
    KV_ASSERT(index < node->view.nr && index != node->self);
    struct kvo_peer *peer = &node->peers[index];
    step_begin(node, now_us);
    node->metrics.messages_in++;
    node->metrics.received[kv_msg_index(msg->type)]++;
    bool current = conn == peer->conn && conn != 0;
    if (msg->type == KV_MSG_HELLO && (conn == peer->pending_conn ||
                                      (current && peer->state == LINK_HELLO))) {
        kvo_link_hello(node, peer, conn, msg);
    } else if (current && msg->type == KV_MSG_HELLO_OK && peer->state == LINK_HELLO) {
        kvo_link_hello_ok(node, peer, msg);
    } else if (current && msg->type == KV_MSG_STATUS && peer->state == LINK_HELLO) {
        kvo_link_refused(node, peer, msg);
    } else if (
        peer->state == LINK_UP
        && ((current && msg->link == peer->link)
            || KV_PLANTED(KV_PLANT_OLD_INCARNATION))) {
        kvc_liveness_heard(&peer->live, now_us);
        kvo_observe(
            node, KVO_SAW_ACCEPTED, NULL, (struct kvp_ref){KVP_NO_FRAME, 0}, index,
            peer->incarnation);
        take_message(node, peer, msg);
    } else {
        node->metrics.messages_stale++; /* of a link that has ended */
    }
    step_end(node);
}

void kvo_bad_message(
    kvo_node_t *node, uint64_t now_us, uint32_t index, uint64_t conn,
    kv_status_t status, const struct kv_detail *detail)
{
    KV_ASSERT(index < node->view.nr);
    struct kvo_peer *peer = &node->peers[index];
    step_begin(node, now_us);
    node->metrics.messages_bad++;
    kvo_link_tell(node, peer, conn, status, detail);
    if (conn == peer->conn && conn != 0 && peer->state == LINK_UP) {
        kvo_link_end(node, peer, status);
    } else {
        node->out.hang_up(node->out.arg, index, conn);
        kvo_link_conn_down(node, index, conn);
    }
    step_end(node);
}

bool kvo_data_message(
    kvo_node_t *node, uint64_t now_us, uint32_t index, const struct kv_msg *msg)
{
    KV_ASSERT(index < node->view.nr && index != node->self);
    struct kvo_peer *peer = &node->peers[index];
    bool believed = true;
    step_begin(node, now_us);
    node->metrics.messages_in++;
    node->metrics.received[kv_msg_index(msg->type)]++;
    if (peer->state != LINK_UP ||
        (msg->link != peer->link && !KV_PLANTED(KV_PLANT_OLD_INCARNATION))) {
        node->metrics.messages_stale++;
        believed = false;
    } else if (msg->type == KV_MSG_DATA_OPEN) {
        believed = kvo_data_opened(node, peer, msg);
    } else if (msg->type == KV_MSG_READ) {
        kvo_data_asked(node, peer, msg);
    } else {
        node->metrics.messages_bad++;
    }
    step_end(node);
    return believed;
}

void kvo_data_broken(
    kvo_node_t *node, uint64_t now_us, uint32_t index, uint64_t link, uint32_t data_gen)
{
    KV_ASSERT(index < node->view.nr);
    struct kvo_peer *peer = &node->peers[index];
    step_begin(node, now_us);
    if (peer->link == link && peer->out_gen == data_gen) {
        kvo_fence_out(node, peer);
    }
    step_end(node);
}

bool kvo_one_sided_lost(
    kvo_node_t *node, uint64_t now_us, uint32_t index, uint64_t link)
{
    KV_ASSERT(index < node->view.nr);
    step_begin(node, now_us);
    bool named = kvo_link_one_sided_lost(node, &node->peers[index], link);
    step_end(node);
    return named;
}

/* ------------------------------------------------------------------ completions */

void kvo_complete(
    kvo_node_t *node, uint64_t now_us, uint64_t id, const struct kvo_done *done)
{
    step_begin(node, now_us);
    struct kvo_data_op *data = kvo_slots_find(&node->datas, id);
    if (data == NULL && KV_PLANTED(KV_PLANT_LATE_COMPLETION) &&
        (uint32_t)id < node->datas.nr && id != 0) {
        data = kvo_slots_at(&node->datas, (uint32_t)id);
        if (data != NULL && data->kind != DATA_READ) {
            data = NULL;
        }
    }
    if (data == NULL) {
        node->metrics.late_completions++;
    } else {
        kvo_data_completed(node, data, done);
    }
    step_end_one(node);
}

void kvo_local_done(
    kvo_node_t *node, uint64_t now_us, uint64_t id, kv_status_t status,
    uint64_t computed)
{
    step_begin(node, now_us);
    if (kvp_order_done(node->pager, id, status, computed) == KV_ERR_STALE) {
        node->metrics.late_completions++;
    }
    node->local_ended = true;
    step_end_one(node);
}

/* ------------------------------------------------------------------ clients */

kv_status_t kvo_client_attach(
    kvo_node_t *node, uint64_t now_us, uint64_t tenants, struct kvo_client_id *client_p)
{
    step_begin(node, now_us);
    kv_status_t status = kvo_client_attach_core(node, tenants, client_p);
    step_end(node);
    return status;
}

kv_status_t kvo_request(
    kvo_node_t *node, uint64_t now_us, struct kvo_client_id client,
    const struct kvo_request *request)
{
    step_begin(node, now_us);
    kv_status_t status = kvo_request_core(node, client, request);
    step_end(node);
    return status;
}

void kvo_client_hung_up(kvo_node_t *node, uint64_t now_us, struct kvo_client_id client)
{
    step_begin(node, now_us);
    kvo_client_hang_up_core(node, client);
    step_end(node);
}

void kvo_client_dead(kvo_node_t *node, uint64_t now_us, struct kvo_client_id client)
{
    step_begin(node, now_us);
    kvo_client_dead_core(node, client);
    step_end(node);
}

/* ------------------------------------------------------------------ looking in */

kvp_pager_t *kvo_pager(kvo_node_t *node)
{
    return node->pager;
}

const kvc_dir_t *kvo_directory(const kvo_node_t *node)
{
    return node->dir;
}

bool kvo_link_up(const kvo_node_t *node, uint32_t peer)
{
    KV_ASSERT(peer < node->view.nr);
    return node->peers[peer].state == LINK_UP;
}

uint32_t kvo_link_peer(const kvo_node_t *node, uint64_t link)
{
    for (uint32_t i = 0; i < node->view.nr; i++) {
        if (node->peers[i].state == LINK_UP && node->peers[i].link == link) {
            return i;
        }
    }
    return KVC_NO_NODE;
}

uint32_t kvo_links_up(const kvo_node_t *node)
{
    uint32_t nr = 0;
    for (uint32_t i = 0; i < node->view.nr; i++) {
        nr += node->peers[i].state == LINK_UP;
    }
    return nr;
}

bool kvo_edge_at(const kvo_node_t *node, unsigned i, struct kvo_edge *edge)
{
    static const char *const names[KVO_NR_EDGES][3] = {
#define X(machine, from, to) {#machine, #from, #to},
        KVO_EDGES(X)
#undef X
    };
    if (i >= KVO_NR_EDGES) {
        return false;
    }
    *edge = (struct kvo_edge){
        .machine = names[i][0],
        .from = names[i][1],
        .to = names[i][2],
        .count = node->edges[i],
    };
    return true;
}

const struct kvo_metrics *kvo_metrics(const kvo_node_t *node)
{
    return &node->metrics;
}

void kvo_check_quick(const kvo_node_t *node)
{
    KV_ASSERT(!node->in_step);
    bool later = node->many && node->many_ended; /* kvo_many_end() sees to it */
    KV_ASSERT(node->nr_events == 0);
    KV_ASSERT(later || (node->nr_pubs == 0 && node->nr_dones == 0));
    KV_ASSERT(node->nr_offers <= node->spills.nr_taken);
    KV_ASSERT(node->nr_reading <= node->config.nr_reads);
    KV_ASSERT(
        later || (node->wanting.nr == 0 && node->nr_asking == 0) ||
        node->calls.free == KVO_NONE);
    KV_ASSERT(
        later || node->posted.nr == 0 || node->nr_reading == node->config.nr_reads);
    KV_ASSERT(node->metrics.answers <= node->metrics.requests);
    KV_ASSERT(
        node->metrics.requests - node->metrics.answers == node->ops.nr_taken);
    kvp_check_quick(node->pager);
}

static void check_objects(const kvo_node_t *node)
{
    uint32_t reading = 0, queued = 0, ready = 0, asking = 0;
    uint32_t wanted = 0, waited_for = 0;
    for (uint32_t i = 0; i < node->datas.nr; i++) {
        const struct kvo_data_op *data = kvo_slots_at(&node->datas, i);
        if (data == NULL) {
            continue;
        }
        reading += data->kind == DATA_READ || data->kind == DATA_SERVE;
        if (data->kind == DATA_READ && !data->orphan) {
            const struct kvo_item *item = kvo_slots_find(&node->items, data->item);
            KV_ASSERT(item != NULL && item->state == ITEM_READ);
        }
    }
    for (uint32_t i = 0; i < node->items.nr; i++) {
        const struct kvo_item *item = kvo_slots_at(&node->items, i);
        if (item == NULL) {
            continue;
        }
        KV_ASSERT(item->state != ITEM_NONE);
        KV_ASSERT(
            item->kind == ITEM_SPILL_IN
            || kvo_slots_find(&node->ops, item->op) != NULL);
        KV_ASSERT(
            (item->list == &node->waiting) ==
            (item->state == ITEM_FRAME || item->state == ITEM_OTHER));
    }
    for (uint32_t i = 0; i < node->ops.nr; i++) {
        const struct kvo_op_obj *op = kvo_slots_at(&node->ops, i);
        if (op != NULL) {
            queued += op->nr_queued;
            asking += op->asking;
            ready += op->state == OP_FILL || op->state == OP_READY || op->settling;
            wanted += op->growing ? op->nr_wanted : 0;
            KV_ASSERT(op->state != OP_NONE && !op->busy);
        }
    }
    KV_ASSERT(reading == node->nr_reading);
    KV_ASSERT(queued == node->nr_queued);
    KV_ASSERT(asking == node->nr_asking);
    KV_ASSERT(ready == node->nr_ready);
    for (uint32_t pool = 0; pool < KVP_POOLS_MAX; pool++) {
        waited_for += node->wanted[pool];
    }
    KV_ASSERT(wanted == waited_for);
}

/* peer.listed against a walk of the frames; twins count once. */
static void check_listed(const kvo_node_t *node)
{
    for (uint32_t p = 0; p < node->view.nr; p++) {
        uint32_t listed = 0;
        if (p == node->self) {
            continue;
        }
        for (uint32_t i = 0; i < kvp_nr_frames(node->pager); i++) {
            struct kvp_info info;
            kvp_frame_at(node->pager, i, &info);
            bool second = info.twin != KVP_NO_FRAME && info.twin < i;
            if (info.hold != 0 && !second &&
                kvc_is_home(&node->view, &info.segment, p)) {
                listed++;
            }
        }
        KV_ASSERT(listed == node->peers[p].listed);
    }
}

void kvo_check(const kvo_node_t *node)
{
    kvo_check_quick(node);
    kvp_check(node->pager);
    kvc_dir_check(node->dir);
    check_objects(node);
    kvo_copies_check(node);
    check_listed(node);
}
