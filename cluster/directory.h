/* The directory: which nodes hold which copies, for the segments whose home we are. A
 * hint: losing any of it costs hits and nothing else.
 *
 *   PUBLISH, WITHDRAW, SYNC_*  ──► kvc_dir ──► FOUND, HAVE
 *
 *   copy (tenant, key, layout, group, shard) ──► entry ──► holdings: (node, hold, tier)
 *   tails are found by the key that they follow
 *
 * Threading: the loop thread alone. Ownership: all memory is taken in create; FULL when
 * entries or holdings run out or an entry has KVC_HOLDERS_MAX holders, and the holder
 * then keeps its copy unlisted.
 * Invariants: (1) an entry has at least one holding; (2) a holding is in exactly one
 * entry and in its holder's list; (3) per holder, nr_entries counts its list; (4) no
 * holding of a node whose link is gone.
 */
#ifndef KVC_DIRECTORY_H
#define KVC_DIRECTORY_H

#include "base/msg.h"
#include "cluster/view.h"

enum {
    KVC_HOLDERS_MAX = 16, /* of one entry; one more is FULL */
};

struct kvc_dir_config {
    uint32_t nr_entries;
    uint32_t nr_holdings;
    uint32_t nr_nodes; /* of the view */
    uint64_t cold_us;  /* a home stays cold at most this long after its start */
};

typedef struct kvc_dir kvc_dir_t;

/* NOMEM, or KV_ERR_CONFIG with its detail. now_us starts the cold time. */
kv_status_t kvc_dir_create(
    const struct kvc_dir_config *config, uint64_t now_us, kvc_dir_t **dir_p,
    struct kv_detail *detail);
void kvc_dir_destroy(kvc_dir_t *dir);

/* `holder` (index in the view, its link up) lists a copy; twice is once. item->gen
 * names the holding: a newer one of the same copy replaces the older, which is then
 * ignored (OK). OK or FULL. */
kv_status_t
kvc_dir_publish(kvc_dir_t *dir, uint32_t holder, const struct kv_msg_entry *item);
/* Removes the holding that matches (holder, copy, item->gen exactly); else ignored. The
 * frame is not compared: a copy that moved between tiers keeps its hold. True when one
 * was removed. */
bool kvc_dir_withdraw(kvc_dir_t *dir, uint32_t holder, const struct kv_msg_gone *item);

/* The holder's share follows: everything of it that is not published again before
 * kvc_dir_sync_end() goes. */
void kvc_dir_sync_begin(kvc_dir_t *dir, uint32_t holder);
/* True when the holder's count agrees (the holder then counts as synced); false: it
 * must sync again. What was not published again is dropped in both cases. The count may
 * be higher by what FULL refused since sync_begin, which the holder learns too late. An
 * end without its beginning is false and drops nothing. */
bool kvc_dir_sync_end(kvc_dir_t *dir, uint32_t holder, uint32_t count);

/* The holder's link is up (it owes a sync) / has ended: all its holdings go. */
void kvc_dir_holder_up(kvc_dir_t *dir, uint32_t holder);
void kvc_dir_holder_gone(kvc_dir_t *dir, uint32_t holder);

/* Cold until every holder that is up has synced and every member of the view has been
 * up once, or until cold_us after the start: an absence proves nothing while cold. The
 * node itself is a member: it reports itself up, and syncs with itself. */
bool kvc_dir_cold(const kvc_dir_t *dir, uint64_t now_us);

uint32_t kvc_dir_nr_entries(const kvc_dir_t *dir, uint32_t holder);

/* Nodes that hold this copy, newest listing first, without `except` (KVC_NO_NODE: no
 * exception); returns how many, at most `max`. */
uint32_t kvc_dir_holders(
    const kvc_dir_t *dir, const struct kv_copy *copy, uint32_t except, uint32_t max,
    uint32_t *out);
/* One node other than `except` that holds this copy and means to keep it (it is not
 * listed as KV_TIER_COOL); KVC_NO_NODE when there is none. */
uint32_t
kvc_dir_keeper(const kvc_dir_t *dir, const struct kv_copy *copy, uint32_t except);
/* Removes whatever holding `holder` has of this copy (HAVE told to a spiller). */
bool kvc_dir_forget(kvc_dir_t *dir, uint32_t holder, const struct kv_copy *copy);

/* Caller's arrays for one answer, of KV_MSG_RUNS_MAX runs, KV_MSG_HOLDERS_MAX holders a
 * run and KV_MSG_TAILS_MAX tails. */
struct kvc_dir_answer {
    struct kv_msg_run runs[KV_MSG_RUNS_MAX];
    uint32_t holders[KV_MSG_RUNS_MAX][KV_MSG_HOLDERS_MAX];
    struct kv_msg_tail tails[KV_MSG_TAILS_MAX];
    uint32_t nr_runs, nr_tails;
};
/* Answers a LOOKUP from what is listed: per segment and want, runs of pages with equal
 * holders (ids of the view; of more than KV_MSG_HOLDERS_MAX the newest), never naming
 * the asker `except`; tails that follow tail_prev, longest first. The caller has
 * checked the counts against KV_MSG_*_MAX (kv_decode does). An answer that is full ends
 * early. */
void kvc_dir_lookup(
    const kvc_dir_t *dir, const struct kvc_view *view,
    const struct kv_msg_lookup *lookup, uint32_t except, struct kvc_dir_answer *answer);

struct kvc_dir_stats {
    uint32_t nr_entries, nr_holdings, entries_max, holdings_max;
};
void kvc_dir_stats(const kvc_dir_t *dir, struct kvc_dir_stats *stats);
/* Every invariant, O(entries + holdings); asserts. */
void kvc_dir_check(const kvc_dir_t *dir);

#endif
