#include "cluster/view.h"

#include "base/assert.h"
#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

static int by_id(const void *a, const void *b)
{
    const struct kvc_member *ma = a;
    const struct kvc_member *mb = b;
    return (ma->id > mb->id) - (ma->id < mb->id);
}

/* Checks one member against the limits; duplicates need the sorted order. */
static kv_status_t
member_check(const struct kvc_member *member, struct kv_detail *detail)
{
    if (member->weight == 0 || member->weight > KVC_WEIGHT_MAX) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "node.weight", KVC_WEIGHT_MAX, member->weight);
    }
    return KV_OK;
}

static uint64_t view_digest(const struct kvc_view *view)
{
    uint64_t digest = view->nr;
    for (uint32_t i = 0; i < view->nr; i++) {
        const struct kvc_member *m = &view->members[i];
        digest = kv_mix64(digest + KV_GOLDEN64 + ((uint64_t)m->id << 32 | m->weight));
    }
    return digest;
}

kv_status_t kvc_view_build(
    struct kvc_view *view, uint64_t epoch, const struct kvc_member *members,
    uint32_t nr, struct kv_detail *detail)
{
    if (nr == 0 || nr > KVC_NODES_MAX) {
        return kv_fail(detail, KV_ERR_CONFIG, "view.nodes", KVC_NODES_MAX, nr);
    }
    /* Found before anything is written: a refused list leaves the old view whole. */
    for (uint32_t i = 0; i < nr; i++) {
        kv_status_t status = member_check(&members[i], detail);
        if (status != KV_OK) {
            return status;
        }
        for (uint32_t j = 0; j < i; j++) {
            if (members[j].id == members[i].id) {
                return kv_fail(detail, KV_ERR_CONFIG, "node.id", 1, members[i].id);
            }
        }
    }

    memset(view, 0, sizeof(*view));
    view->epoch = epoch;
    view->nr = nr;
    view->equal_weights = true;
    memcpy(view->members, members, nr * sizeof(*members));
    qsort(view->members, nr, sizeof(*view->members), by_id);
    for (uint32_t i = 0; i < nr; i++) {
        struct kvc_member *m = &view->members[i];
        m->hash = kv_mix64((uint64_t)m->id + KV_GOLDEN64); /* docs/placement.md */
        view->equal_weights &= m->weight == view->members[0].weight;
        KV_ASSERT(KV_IMPLIES(i > 0, view->members[i - (i > 0)].id < m->id));
    }
    view->digest = view_digest(view);
    return KV_OK;
}

uint32_t kvc_view_index(const struct kvc_view *view, uint32_t id)
{
    uint32_t low = 0;
    uint32_t high = view->nr;
    KV_ASSERT(view->nr <= KVC_NODES_MAX);
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (view->members[mid].id < id) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low < view->nr && view->members[low].id == id ? low : KVC_NO_NODE;
}

/* ------------------------------------------------------------------ liveness */

kv_status_t
kvc_liveness_check(const struct kvc_liveness_config *config, struct kv_detail *detail)
{
    if (config->heartbeat_us == 0) {
        return kv_fail(detail, KV_ERR_CONFIG, "liveness.heartbeat", 1, 0);
    }
    if (config->suspect_us <= config->heartbeat_us) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "liveness.suspect", config->heartbeat_us,
            config->suspect_us);
    }
    if (config->lost_us <= config->suspect_us) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "liveness.lost", config->suspect_us,
            config->lost_us);
    }
    return KV_OK;
}

void kvc_liveness_reset(struct kvc_liveness *liveness, uint64_t now_us)
{
    liveness->heard_us = now_us;
    liveness->life = KVC_ALIVE;
}

void kvc_liveness_heard(struct kvc_liveness *liveness, uint64_t now_us)
{
    /* A message of the old link that is still in some queue must not revive the node:
     * its grants are being fenced. Only a new link does. */
    if (liveness->life == KVC_LOST) {
        return;
    }
    if (now_us > liveness->heard_us) {
        liveness->heard_us = now_us;
    }
    liveness->life = KVC_ALIVE;
}

bool kvc_liveness_tick(
    struct kvc_liveness *liveness, const struct kvc_liveness_config *config,
    uint64_t now_us)
{
    KV_ASSERT(liveness->life <= KVC_LOST);
    if (liveness->life == KVC_LOST) {
        return false;
    }
    uint64_t silent_us = now_us > liveness->heard_us ? now_us - liveness->heard_us : 0;
    enum kvc_life life = silent_us >= config->lost_us      ? KVC_LOST
                         : silent_us >= config->suspect_us ? KVC_SUSPECT
                                                           : KVC_ALIVE;
    bool changed = life != liveness->life;
    liveness->life = life;
    return changed;
}
