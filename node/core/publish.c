/* The directory's two sides (docs/protocol.md, "directory").
 *
 *   holder: what the pager lists ──► one numbered stream per home: PUBLISH, WITHDRAW;
 *           after a gap, a new link or SYNC_WANT: SYNC_BEGIN, everything, SYNC_END
 *   home:   takes a message only if it is the next of its stream, else asks for a sync
 *
 * (1) peer.listed counts our listed copies that the peer is a home of, sent or not.
 * (2) Every message of the stream has the number after the one before it. (3)
 * denied, full and forgotten count entries that the holder believes listed and we do
 * not have; a WITHDRAW of one of them lowers them. What was forgotten (HAVE) and has
 * not been withdrawn after some heartbeats was kept after all: the counts then
 * differ, and a sync brings it back.
 */
#include "node/core/core_priv.h"

void kvo_entry_of(const struct kvp_info *info, struct kv_msg_entry *entry)
{
    *entry = (struct kv_msg_entry){
        .copy = info->copy,
        .segment = info->segment,
        .index = info->index,
        .n_tokens = info->n_tokens,
        .tier = info->tier,
        .frame = info->ref.frame,
        .gen = info->hold,
        .tail = info->tail,
    };
    if (info->tail) {
        entry->prev = info->prev;
    }
}

static struct kv_msg_gone gone_of(const struct kv_msg_entry *entry)
{
    return (struct kv_msg_gone){
        .copy = entry->copy, .frame = entry->frame, .gen = entry->gen};
}

/* ------------------------------------------------------------------ holder */

static void queue_pub(
    kvo_node_t *node, uint32_t peer, bool withdraw, const struct kv_msg_entry *entry)
{
    if (node->nr_pubs == KVO_PUBS_MAX) {
        kvo_publish_flush(node);
    }
    node->pubs[node->nr_pubs++] =
        (struct kvo_pub){.peer = peer, .withdraw = withdraw, .entry = *entry};
}

void kvo_listed(kvo_node_t *node, const struct kv_msg_entry *entry)
{
    uint32_t homes[KVC_HOMES];
    uint32_t nr = kvc_homes(&node->view, &entry->segment, KVC_HOMES, homes);
    for (uint32_t i = 0; i < nr; i++) {
        if (homes[i] == node->self) {
            /* FULL keeps the copy unlisted here, as at any home. */
            (void)kvc_dir_publish(node->dir, node->self, entry);
            continue;
        }
        struct kvo_peer *peer = &node->peers[homes[i]];
        peer->listed++; /* (1) */
        if (peer->state == LINK_UP) {
            queue_pub(node, homes[i], false, entry);
        }
    }
}

/* To one home that has forgotten it though we kept it. */
void kvo_list_again(kvo_node_t *node, uint32_t peer, const struct kvp_info *info)
{
    struct kv_msg_entry entry;
    kvo_entry_of(info, &entry);
    if (node->peers[peer].state == LINK_UP) {
        queue_pub(node, peer, false, &entry);
    }
}

/* A peer has read it: it goes first here, and its homes know. */
void kvo_cooled(kvo_node_t *node, struct kvp_ref ref)
{
    struct kvp_info info;
    if (!node->config.spill) {
        return; /* what moved to a busy node would die young, with room idle here */
    }
    if (!kvp_cool(node->pager, ref) || kvp_info(node->pager, ref, &info) != KV_OK ||
        info.hold == 0) {
        return;
    }
    struct kv_msg_entry entry;
    kvo_entry_of(&info, &entry);
    entry.tier = KV_TIER_COOL;
    uint32_t homes[KVC_HOMES];
    uint32_t nr = kvc_homes(&node->view, &entry.segment, KVC_HOMES, homes);
    for (uint32_t i = 0; i < nr; i++) {
        if (homes[i] == node->self) {
            (void)kvc_dir_publish(node->dir, node->self, &entry);
        } else if (node->peers[homes[i]].state == LINK_UP) {
            queue_pub(node, homes[i], false, &entry);
        }
    }
}

void kvo_unlisted(kvo_node_t *node, const struct kv_msg_entry *entry)
{
    uint32_t homes[KVC_HOMES];
    uint32_t nr = kvc_homes(&node->view, &entry->segment, KVC_HOMES, homes);
    struct kv_msg_gone gone = gone_of(entry);
    for (uint32_t i = 0; i < nr; i++) {
        if (homes[i] == node->self) {
            (void)kvc_dir_withdraw(node->dir, node->self, &gone);
            continue;
        }
        struct kvo_peer *peer = &node->peers[homes[i]];
        KV_ASSERT(peer->listed > 0); /* (1) */
        peer->listed--;
        if (peer->state == LINK_UP) {
            queue_pub(node, homes[i], true, entry);
        }
    }
}

static void send_publish(kvo_node_t *node, struct kvo_peer *peer, uint32_t n)
{
    struct kv_msg msg = {.type = KV_MSG_PUBLISH, .req = peer->out_pos + 1};
    msg.u.publish = (struct kv_msg_publish){
        .pos = ++peer->out_pos, .items = node->msg_entries, .nr_items = n};
    kvo_send(node, peer, &msg);
}

static void send_withdraw(kvo_node_t *node, struct kvo_peer *peer, uint32_t n)
{
    struct kv_msg msg = {.type = KV_MSG_WITHDRAW};
    msg.u.withdraw = (struct kv_msg_withdraw){
        .pos = ++peer->out_pos, .items = node->msg_gone, .nr_items = n};
    kvo_send(node, peer, &msg);
}

/* Sends what is collected from pubs[first] on for one peer: runs of one kind, in
 * order. */
static void flush_peer(kvo_node_t *node, uint32_t first, uint32_t index)
{
    struct kvo_peer *peer = &node->peers[index];
    uint32_t n = 0;
    bool withdraw = node->pubs[first].withdraw;
    for (uint32_t i = first; i <= node->nr_pubs; i++) {
        struct kvo_pub *pub = i < node->nr_pubs ? &node->pubs[i] : NULL;
        if (pub != NULL && pub->peer != index) {
            continue;
        }
        bool full = n == KV_MSG_ITEMS_MAX;
        if (n > 0 && (pub == NULL || full || pub->withdraw != withdraw)) {
            if (peer->state == LINK_UP && withdraw) {
                send_withdraw(node, peer, n);
            } else if (peer->state == LINK_UP) {
                send_publish(node, peer, n);
            }
            n = 0;
        }
        if (pub == NULL) {
            break;
        }
        withdraw = pub->withdraw;
        if (withdraw) {
            node->msg_gone[n++] = gone_of(&pub->entry);
        } else {
            node->msg_entries[n++] = pub->entry;
        }
        pub->peer = KVO_NONE;
    }
}

void kvo_publish_flush(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->nr_pubs; i++) {
        if (node->pubs[i].peer != KVO_NONE) {
            flush_peer(node, i, node->pubs[i].peer);
        }
    }
    node->nr_pubs = 0;
}

void kvo_sync_start(kvo_node_t *node, struct kvo_peer *peer)
{
    KV_ASSERT(peer->state == LINK_UP);
    kvo_publish_flush(node);
    struct kv_msg msg = {.type = KV_MSG_SYNC_BEGIN};
    msg.u.sync_begin.pos = ++peer->out_pos;
    kvo_send(node, peer, &msg);
    peer->syncing = true;
    peer->want_sync = false;
    peer->sync_cursor = 0;
    peer->nr_syncs++;
    node->metrics.syncs++;
}

/* One tick's share of one home's sync. */
static void sync_some(kvo_node_t *node, struct kvo_peer *peer)
{
    uint32_t index = kvo_peer_index(node, peer);
    uint32_t nr_frames = kvp_nr_frames(node->pager);
    uint32_t limit = node->config.sync_items;
    uint32_t n = 0;
    if (limit > KV_MSG_ITEMS_MAX) {
        limit = KV_MSG_ITEMS_MAX;
    }
    for (uint32_t scanned = 0; scanned < KVO_SYNC_SCAN && n < limit; scanned++) {
        if (peer->sync_cursor == nr_frames) {
            break;
        }
        struct kvp_info info;
        kvp_frame_at(node->pager, peer->sync_cursor++, &info);
        /* Both frames of a twin are sent: a move between tiers may pass the cursor. */
        if (info.hold == 0) {
            continue;
        }
        uint32_t homes[KVC_HOMES];
        uint32_t nr = kvc_homes(&node->view, &info.segment, KVC_HOMES, homes);
        for (uint32_t h = 0; h < nr; h++) {
            if (homes[h] == index) {
                kvo_entry_of(&info, &node->msg_entries[n++]);
                break;
            }
        }
    }
    if (n > 0) {
        send_publish(node, peer, n);
    }
    if (peer->sync_cursor == nr_frames) {
        struct kv_msg msg = {.type = KV_MSG_SYNC_END};
        msg.u.sync_end.pos = ++peer->out_pos;
        msg.u.sync_end.count = peer->listed;
        kvo_send(node, peer, &msg);
        peer->syncing = false;
        if (peer->want_sync) {
            kvo_sync_start(node, peer);
        }
    }
}

void kvo_sync_work(kvo_node_t *node)
{
    for (uint32_t i = 0; i < node->view.nr; i++) {
        struct kvo_peer *peer = &node->peers[i];
        if (peer->state == LINK_UP && peer->syncing) {
            sync_some(node, peer);
        }
    }
}

/* ------------------------------------------------------------------ home */

static bool is_home(const kvo_node_t *node, const kv_key_t *segment)
{
    return kvc_is_home(&node->view, segment, node->self);
}

static bool covers(const kvo_node_t *node, const struct kvo_peer *peer, uint32_t tenant)
{
    uint16_t mine = kvp_tenant(node->pager, tenant);
    return mine != UINT16_MAX && (peer->tenants >> mine & 1) != 0;
}

/* Is this the stream's next message? A gap makes us wait for a sync. */
static bool in_order(kvo_node_t *node, struct kvo_peer *peer, uint64_t pos)
{
    if (!peer->in_lost && pos == peer->in_pos + 1) {
        peer->in_pos = pos; /* (2) */
        return true;
    }
    if (pos <= peer->in_pos || peer->in_lost) {
        node->metrics.messages_stale++;
        return false;
    }
    peer->in_lost = true;
    struct kv_msg want = {.type = KV_MSG_SYNC_WANT};
    want.u.sync_want.pos = peer->in_pos;
    kvo_send(node, peer, &want);
    return false;
}

static void
take_publish(kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    const struct kv_msg_publish *publish = &msg->u.publish;
    uint32_t index = kvo_peer_index(node, peer);
    if (!in_order(node, peer, publish->pos)) {
        return;
    }
    for (uint32_t i = 0; i < publish->nr_items; i++) {
        const struct kv_msg_entry *item = &publish->items[i];
        kv_status_t status;
        if (!covers(node, peer, item->copy.tenant)) {
            status = KV_ERR_DENIED;
        } else if (!is_home(node, &item->segment)) {
            status = KV_ERR_NOT_HOME;
        } else {
            status = kvc_dir_publish(node->dir, index, item);
        }
        peer->denied += status != KV_OK && status != KV_ERR_FULL; /* (3) */
        peer->full += status == KV_ERR_FULL;
        node->msg_statuses[i] = status;
    }
    struct kv_msg answer = {.type = KV_MSG_PUBLISHED, .req = msg->req};
    answer.u.published = (struct kv_msg_published){
        .pos = publish->pos,
        .statuses = node->msg_statuses,
        .nr_statuses = publish->nr_items,
    };
    kvo_send(node, peer, &answer);
}

/* (3) Which of them it was cannot always be told. What was refused goes first: a
 * forgotten one too many ends with some heartbeats, in a sync; one too few would hide
 * for ever that a forgotten copy was kept. */
static void withdrawn_unlisted(struct kvo_peer *peer, bool covered)
{
    if (covered && peer->full > 0) {
        peer->full--;
    } else if (covered && peer->forgotten > 0) {
        peer->forgotten--;
    } else if (peer->denied > 0) {
        peer->denied--;
    }
}

static void take_withdraw(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_withdraw *withdraw)
{
    if (!in_order(node, peer, withdraw->pos)) {
        return;
    }
    uint32_t index = kvo_peer_index(node, peer);
    for (uint32_t i = 0; i < withdraw->nr_items; i++) {
        const struct kv_msg_gone *item = &withdraw->items[i];
        if (!kvc_dir_withdraw(node->dir, index, item)) {
            withdrawn_unlisted(peer, covers(node, peer, item->copy.tenant));
        }
    }
}

static void take_sync_end(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_sync_end *end)
{
    if (!in_order(node, peer, end->pos)) {
        return;
    }
    peer->in_sync = false;
    /* The directory allows for what it refused itself. */
    uint32_t owed = peer->denied + peer->forgotten;
    uint32_t count = end->count > owed ? end->count - owed : 0;
    bool equal = kvc_dir_sync_end(node->dir, kvo_peer_index(node, peer), count);
    kvo_trace(
        node, "sync n%u ended %u %s", kvo_node_id(node, kvo_peer_index(node, peer)),
        end->count, equal ? "equal" : "differs");
    if (!equal) {
        peer->in_lost = true;
        struct kv_msg want = {.type = KV_MSG_SYNC_WANT};
        want.u.sync_want.pos = peer->in_pos;
        kvo_send(node, peer, &want);
    }
}

void kvo_owed_nothing(struct kvo_peer *peer)
{
    peer->denied = peer->full = peer->forgotten = peer->forgotten_beats = 0;
}

static void take_sync_begin(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_sync_begin *begin)
{
    if (begin->pos <= peer->in_pos && !peer->in_lost) {
        node->metrics.messages_stale++;
        return;
    }
    peer->in_pos = begin->pos;
    peer->in_lost = false;
    peer->in_sync = true;
    kvo_owed_nothing(peer);
    peer->mismatches = 0;
    kvc_dir_sync_begin(node->dir, kvo_peer_index(node, peer));
}

/* The answers to our PUBLISH change nothing: what a home refuses stays unlisted there,
 * and it knows that it owes it. */
static void take_published(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg_published *published)
{
    for (uint32_t i = 0; i < published->nr_statuses; i++) {
        if (published->statuses[i] != KV_OK) {
            kvo_trace(
                node, "publish n%u pos %llu item %u %s",
                kvo_node_id(node, kvo_peer_index(node, peer)),
                (unsigned long long)published->pos, i,
                kv_status_name((kv_status_t)published->statuses[i]));
        }
    }
}

void kvo_directory_message(
    kvo_node_t *node, struct kvo_peer *peer, const struct kv_msg *msg)
{
    if (msg->epoch < node->view.epoch) {
        node->metrics.messages_bad++;
        kvo_send_status(
            node, peer, msg->req, KV_ERR_STALE_EPOCH, "epoch", node->view.epoch,
            msg->epoch);
        return;
    }
    switch (msg->type) {
    case KV_MSG_PUBLISH:
        take_publish(node, peer, msg);
        break;
    case KV_MSG_PUBLISHED:
        take_published(node, peer, &msg->u.published);
        break;
    case KV_MSG_WITHDRAW:
        take_withdraw(node, peer, &msg->u.withdraw);
        break;
    case KV_MSG_SYNC_BEGIN:
        take_sync_begin(node, peer, &msg->u.sync_begin);
        break;
    case KV_MSG_SYNC_END:
        take_sync_end(node, peer, &msg->u.sync_end);
        break;
    case KV_MSG_SYNC_WANT:
        if (peer->syncing) {
            peer->want_sync = true; /* once this one is through */
        } else {
            kvo_sync_start(node, peer);
        }
        break;
    case KV_MSG_LOOKUP:
        kvo_lookup_asked(node, peer, msg);
        break;
    default:
        KV_ASSERT(false);
    }
}
