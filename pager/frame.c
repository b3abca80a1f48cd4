#include "pager/frame.h"

#include "pager/pager_priv.h"

static const char *const state_names[KVP_NR_STATES] = {
#define X(symbol, name) [symbol] = (name),
    KVP_FRAME_STATES(X)
#undef X
};

static const bool frame_next[KVP_NR_STATES][KVP_NR_STATES] = {
#define X(from, to) [from][to] = true,
    KVP_FRAME_EDGES(X)
#undef X
};

const char *kvp_state_name(unsigned state)
{
    return state < KVP_NR_STATES ? state_names[state] : "unknown";
}

bool kvp_edge_allowed(unsigned from, unsigned to)
{
    return from < KVP_NR_STATES && to < KVP_NR_STATES && frame_next[from][to];
}

static bool unheld(const struct kvp_frame *f)
{
    return (f->refs | f->pins | f->grants) == 0;
}

static bool untouched(const struct kvp_frame *f)
{
    return unheld(f) && (f->ios | f->fences) == 0;
}

void kvp_frame_check(const struct kvp_pager *p, uint32_t i)
{
    const struct kvp_frame *f = &p->frames[i];
    const bool indexed = (f->flags & KVP_F_INDEXED) != 0;

    switch ((enum kvp_frame_state)f->state) {
    case KVP_FREE:
        KV_ASSERT(untouched(f));                             /* (1) */
        KV_ASSERT(f->flags == 0 && f->twin == KVP_NO_FRAME); /* (1) */
        return;
    case KVP_FILLING:
        KV_ASSERT(f->refs == 1);                           /* (2) */
        KV_ASSERT(!indexed && (f->pins | f->grants) == 0); /* (2) */
        return;
    case KVP_SEALING:
        KV_ASSERT(!indexed && (f->pins | f->grants) == 0); /* (3) */
        return;
    case KVP_SEALED:
        KV_ASSERT((f->flags & KVP_F_LOST) == 0); /* (4) */
        KV_ASSERT(p->cold[i].len <= p->pools[f->pool].config.frame_bytes);
        return;
    case KVP_LEAVING:
        KV_ASSERT((f->refs | f->pins) == 0); /* (5) */
        KV_ASSERT(indexed);                  /* (5) */
        return;
    case KVP_ARRIVING:
        KV_ASSERT(!indexed && unheld(f)); /* (6) */
        return;
    case KVP_QUARANTINE:
        KV_ASSERT(!indexed);                 /* (7) */
        KV_ASSERT((f->refs | f->pins) == 0); /* (7) */
        return;
    case KVP_NR_STATES:
        break;
    }
    KV_ASSERT(false && "known state");
}

void kvp_frame_move(struct kvp_pager *p, uint32_t i, enum kvp_frame_state next)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_pool *pool = &p->pools[f->pool];
    const enum kvp_class was = kvp_frame_class(f);

    KV_ASSERT(kvp_edge_allowed(f->state, next));
    KV_ASSERT(KV_IMPLIES(next == KVP_FREE, untouched(f))); /* (7), (9) */
    p->metrics.edges[f->state][next]++;
    pool->in_state[f->state]--; /* (10) */
    pool->in_state[next]++;
    f->state = (uint8_t)next;
    if (next == KVP_FREE && !KV_PLANTED(KV_PLANT_NO_GENERATION)) {
        f->gen++; /* (8) */
    }
    kvp_account(p, f, was);
    kvp_frame_check(p, i);
}

void kvp_frame_quarantine(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];

    KV_ASSERT((f->flags & KVP_F_INDEXED) == 0);               /* (7) */
    KV_ASSERT(KV_IMPLIES(f->state == KVP_SEALED, unheld(f))); /* (9) */
    f->refs = 0;
    kvp_frame_move(p, i, KVP_QUARANTINE);
    kvp_settle(p, i);
}

static void policy_touch(struct kvp_pager *p, uint32_t i, uint64_t stamp_us)
{
    struct kvp_frame *f = &p->frames[i];
    struct kvp_pool *pool = &p->pools[f->pool];

    KV_ASSERT(kvp_in_policy(f));
    p->config.evict->touch(pool->evict, i - pool->base, stamp_us);
    f->flags &= (uint8_t)~KVP_F_PARKED;
    p->cold[i].first = false;
    if (f->twin != KVP_NO_FRAME && pool->config.tier == KVP_HOST) {
        kvp_policy_first(p, i); /* the device has it too: still wanted least */
    }
}

void kvp_settle(struct kvp_pager *p, uint32_t i)
{
    struct kvp_frame *f = &p->frames[i];

    switch (f->state) {
    case KVP_SEALED:
        if ((f->flags & KVP_F_INDEXED) == 0 && unheld(f)) {
            kvp_frame_quarantine(p, i);
        } else if (
            (f->flags & KVP_F_PARKED) != 0 && kvp_frame_class(f) == KVP_CLASS_IDLE) {
            if (p->cold[i].first) {
                kvp_policy_first(p, i);
            } else {
                policy_touch(p, i, p->cold[i].last_use_us);
            }
        }
        return;
    case KVP_SEALING:
        if ((f->flags & KVP_F_LOST) != 0 && f->refs == 0) {
            kvp_frame_quarantine(p, i);
        }
        return;
    case KVP_QUARANTINE:
        if (untouched(f)) { /* (7) */
            kvp_frame_free(p, i);
        }
        return;
    default:
        return;
    }
}

void kvp_settle_used(struct kvp_pager *p, uint32_t i)
{
    const struct kvp_frame *f = &p->frames[i];

    if (kvp_in_policy(f) && unheld(f)) {
        p->cold[i].last_use_us = p->now_us;
        p->cold[i].cool = false;
        policy_touch(p, i, p->now_us);
        return;
    }
    kvp_settle(p, i);
}
