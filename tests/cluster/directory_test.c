/* Goal: the directory says what was published and not withdrawn, nothing else, whatever
 * the order of events, and keeps within its memory. Method: a naive model that is
 * compared after every operation of long random runs. Single cases that these would
 * only meet by chance are in directory_cases_test.c. */
#include "cluster/directory.h"

#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    NODES = 20,
    COPIES = 48,
    ENTRIES = 36,   /* fewer than copies, and … */
    HOLDINGS = 260, /* … fewer than nodes would list: FULL happens */
    OPERATIONS = 300000,
    COLD_US = 1000000,
};

/* ---- the model ------------------------------------------------------------------- */

struct model_hold {
    uint64_t hold;   /* 0: none */
    uint64_t listed; /* when, in operations: the newest is named first */
    uint32_t mark;
};
struct model_node {
    struct model_hold holds[COPIES];
    uint32_t mark, refused;
    bool up, ever_up, synced, syncing;
};
struct model {
    struct model_node nodes[NODES];
    struct kv_msg_entry items[COPIES]; /* what each copy is published as */
    kv_key_t prevs[3];
    uint64_t clock;
};

static kv_key_t key_of(uint64_t number)
{
    kv_key_t key;
    for (unsigned i = 0; i < KV_KEY_BYTES / 8; i++) {
        uint64_t w = kv_mix64(number * 8 + i + KV_GOLDEN64);
        memcpy(key.b + 8 * i, &w, sizeof(w));
    }
    return key;
}

/* Copies of few keys in several variants and tenants, every third a tail. */
static void model_init(struct model *model)
{
    memset(model, 0, sizeof(*model));
    for (unsigned i = 0; i < 3; i++) {
        model->prevs[i] = key_of(1000 + i);
    }
    for (uint32_t c = 0; c < COPIES; c++) {
        struct kv_msg_entry *item = &model->items[c];
        item->copy = (struct kv_copy){
            .tenant = 1 + c % 2,
            .layout = 7 + (c / 2) % 2,
            .group = (uint16_t)((c / 4) % 2),
            .key = key_of(c / 8 + (c % 3 == 0 ? 100 : 0)),
        };
        item->segment = key_of(c / 8);
        item->tail = c % 3 == 0;
        item->n_tokens = item->tail ? 1 + c * 5 % 31 : 512;
        if (item->tail) {
            item->prev = model->prevs[c / 3 % 2]; /* of both tenants */
        }
    }
}

static uint32_t model_holders(const struct model *model, uint32_t copy)
{
    uint32_t nr = 0;
    for (uint32_t n = 0; n < NODES; n++) {
        nr += model->nodes[n].holds[copy].hold != 0;
    }
    return nr;
}

static uint32_t model_count(const struct model *model, uint32_t node)
{
    uint32_t nr = 0;
    for (uint32_t c = 0; c < COPIES; c++) {
        nr += model->nodes[node].holds[c].hold != 0;
    }
    return nr;
}

static bool model_full(const struct model *model, uint32_t copy)
{
    uint32_t entries = 0, holdings = 0;
    for (uint32_t c = 0; c < COPIES; c++) {
        uint32_t nr = model_holders(model, c);
        entries += nr > 0;
        holdings += nr;
    }
    uint32_t here = model_holders(model, copy);
    return holdings == HOLDINGS || here == KVC_HOLDERS_MAX
           || (here == 0 && entries == ENTRIES);
}

static kv_status_t
model_publish(struct model *model, uint32_t node, uint32_t copy, uint64_t hold)
{
    struct model_node *n = &model->nodes[node];
    struct model_hold *h = &n->holds[copy];
    if (h->hold == 0 && model_full(model, copy)) {
        n->refused++;
        return KV_ERR_FULL;
    }
    if (hold < h->hold) {
        return KV_OK;
    }
    if (hold > h->hold) {
        h->hold = hold;
        h->listed = ++model->clock;
    }
    h->mark = n->mark;
    return KV_OK;
}

static void model_drop_all(struct model *model, uint32_t node, bool unmarked_only)
{
    struct model_node *n = &model->nodes[node];
    for (uint32_t c = 0; c < COPIES; c++) {
        if (!unmarked_only || n->holds[c].mark != n->mark) {
            n->holds[c].hold = 0;
        }
    }
}

static bool model_sync_end(struct model *model, uint32_t node, uint32_t count)
{
    struct model_node *n = &model->nodes[node];
    if (!n->syncing) {
        return false;
    }
    n->syncing = false;
    model_drop_all(model, node, true);
    uint32_t here = model_count(model, node);
    n->synced = count >= here && count <= here + n->refused;
    return n->synced;
}

static bool model_cold(const struct model *model, uint64_t now_us)
{
    bool cold = false;
    for (uint32_t n = 0; n < NODES; n++) {
        const struct model_node *node = &model->nodes[n];
        cold |= !node->ever_up || (node->up && !node->synced);
    }
    return cold && now_us < COLD_US;
}

/* Holders of a copy without `except`, newest first; at most max. */
static uint32_t model_list(
    const struct model *model, uint32_t copy, uint32_t except, uint32_t max,
    uint32_t *out)
{
    bool named[NODES] = {false};
    uint32_t nr = 0;
    while (nr < max) {
        uint32_t best = NODES;
        for (uint32_t n = 0; n < NODES; n++) {
            const struct model_hold *h = &model->nodes[n].holds[copy];
            if (n != except && !named[n] && h->hold != 0
                && (best == NODES
                    || h->listed > model->nodes[best].holds[copy].listed)) {
                best = n;
            }
        }
        if (best == NODES) {
            break;
        }
        named[best] = true;
        out[nr++] = best;
    }
    return nr;
}

static uint32_t model_find(const struct model *model, const struct kv_copy *copy)
{
    uint32_t c = 0;
    while (c < COPIES
           && (!kv_key_equal(&model->items[c].copy.key, &copy->key)
               || model->items[c].copy.tenant != copy->tenant
               || model->items[c].copy.layout != copy->layout
               || model->items[c].copy.group != copy->group
               || model->items[c].copy.shard != copy->shard)) {
        c++;
    }
    return c;
}

/* ---- one directory beside its model ---------------------------------------------- */

struct pair {
    struct model model;
    struct kvc_view view;
    struct kvc_dir_answer answer;
    kvc_dir_t *dir;
    struct kv_rng rng;
    uint64_t next_hold;
};

static uint32_t below(struct pair *p, uint32_t bound)
{
    return (uint32_t)kv_rng_below(&p->rng, bound);
}

static struct pair *pair_create(uint64_t seed)
{
    struct pair *p = calloc(1, sizeof(*p));
    struct kvc_member members[NODES];
    const struct kvc_dir_config config = {
        .nr_entries = ENTRIES,
        .nr_holdings = HOLDINGS,
        .nr_nodes = NODES,
        .cold_us = COLD_US,
    };
    assert_non_null(p);
    for (uint32_t i = 0; i < NODES; i++) {
        members[i] = (struct kvc_member){.id = 10 + 3 * i, .weight = 1};
    }
    assert_int_equal(kvc_view_build(&p->view, 1, members, NODES, NULL), KV_OK);
    assert_int_equal(kvc_dir_create(&config, 0, &p->dir, NULL), KV_OK);
    model_init(&p->model);
    p->rng = kv_rng_seed(seed);
    p->next_hold = 1;
    return p;
}

static void pair_destroy(struct pair *p)
{
    kvc_dir_destroy(p->dir);
    free(p);
}

static void do_publish(struct pair *p, uint32_t node)
{
    uint32_t copy = below(p, COPIES);
    struct kv_msg_entry item = p->model.items[copy];
    uint64_t now = p->model.nodes[node].holds[copy].hold;
    /* A new holding, the same once more, or one that is late. */
    switch (below(p, 4)) {
    case 0:
        item.gen = now == 0 ? p->next_hold++ : now;
        break;
    case 1:
        item.gen = now > 1 ? now - 1 : p->next_hold++;
        break;
    default:
        item.gen = p->next_hold++;
        break;
    }
    kv_status_t expected = model_publish(&p->model, node, copy, item.gen);
    assert_int_equal(kvc_dir_publish(p->dir, node, &item), expected);
}

static void do_withdraw(struct pair *p, uint32_t node)
{
    uint32_t copy = below(p, COPIES);
    struct model_hold *h = &p->model.nodes[node].holds[copy];
    struct kv_msg_gone gone = {
        .copy = p->model.items[copy].copy,
        .frame = below(p, 100),
        .gen = below(p, 4) == 0 ? h->hold + 1 : h->hold,
    };
    bool expected = h->hold != 0 && gone.gen == h->hold;
    assert_int_equal(kvc_dir_withdraw(p->dir, node, &gone), expected);
    if (expected) {
        h->hold = 0;
    }
}

static void do_forget(struct pair *p, uint32_t node)
{
    uint32_t copy = below(p, COPIES);
    struct model_hold *h = &p->model.nodes[node].holds[copy];
    assert_int_equal(
        kvc_dir_forget(p->dir, node, &p->model.items[copy].copy), h->hold != 0);
    h->hold = 0;
}

static void do_link(struct pair *p, uint32_t node)
{
    struct model_node *n = &p->model.nodes[node];
    model_drop_all(&p->model, node, false);
    n->syncing = false;
    n->synced = false;
    n->refused = 0;
    n->up = !n->up || below(p, 2) == 0; /* also a new link without an end seen */
    if (n->up) {
        n->ever_up = true;
        kvc_dir_holder_up(p->dir, node);
    } else {
        kvc_dir_holder_gone(p->dir, node);
    }
}

static void do_sync(struct pair *p, uint32_t node)
{
    struct model_node *n = &p->model.nodes[node];
    if (!n->syncing || below(p, 8) == 0) {
        n->mark++;
        n->refused = 0;
        n->syncing = true;
        kvc_dir_sync_begin(p->dir, node);
        return;
    }
    uint32_t count = model_count(&p->model, node);
    for (uint32_t c = 0; c < COPIES; c++) {
        count -= n->holds[c].hold != 0 && n->holds[c].mark != n->mark;
    }
    count += below(p, 3);
    bool expected = model_sync_end(&p->model, node, count);
    assert_int_equal(kvc_dir_sync_end(p->dir, node, count), expected);
}

static void check_holders(struct pair *p)
{
    uint32_t copy = below(p, COPIES);
    uint32_t except = below(p, 3) == 0 ? KVC_NO_NODE : below(p, NODES);
    uint32_t max = 1 + below(p, KVC_HOLDERS_MAX);
    uint32_t expected[KVC_HOLDERS_MAX], got[KVC_HOLDERS_MAX];
    uint32_t nr = model_list(&p->model, copy, except, max, expected);
    assert_int_equal(
        kvc_dir_holders(p->dir, &p->model.items[copy].copy, except, max, got), nr);
    assert_memory_equal(got, expected, nr * sizeof(*got));
}

/* ---- look-ups -------------------------------------------------------------------- */

static bool same_set(const uint32_t *a, uint32_t nr_a, const uint32_t *b, uint32_t nr_b)
{
    bool same = nr_a == nr_b;
    for (uint32_t i = 0; same && i < nr_a; i++) {
        bool found = false;
        for (uint32_t j = 0; j < nr_b; j++) {
            found |= a[i] == b[j];
        }
        same = found;
    }
    return same;
}

/* The run that the answer must have next; false at the end of this (segment, want). */
static bool model_next_run(
    const struct pair *p, const struct kv_msg_lookup *lookup, uint32_t except,
    struct kv_msg_run *run)
{
    const struct kv_msg_segment *segment = &lookup->segs[run->seg];
    const struct kv_msg_want *want = &lookup->wants[run->want];
    struct kv_copy copy = {
        .tenant = lookup->tenant,
        .layout = want->layout,
        .group = want->group,
        .shard = want->shard};
    uint32_t nodes[KV_MSG_HOLDERS_MAX];
    run->first += run->n;
    run->n = 0;
    run->nr_holders = 0;
    for (uint32_t page = run->first; page < segment->nr_keys; page++) {
        copy.key = segment->keys[page];
        uint32_t c = model_find(&p->model, &copy);
        uint32_t nr = c == COPIES
                          ? 0
                          : model_list(&p->model, c, except, KV_MSG_HOLDERS_MAX, nodes);
        if (run->n == 0 && nr > 0) {
            run->first = page;
            run->nr_holders = nr;
            memcpy(run->holders, nodes, nr * sizeof(*nodes));
        } else if (run->n > 0 && !same_set(nodes, nr, run->holders, run->nr_holders)) {
            return true;
        }
        run->n += nr > 0;
    }
    return run->n > 0;
}

static void
check_runs(const struct pair *p, const struct kv_msg_lookup *lookup, uint32_t except)
{
    uint32_t at = 0;
    for (uint32_t seg = 0; seg < lookup->nr_segs; seg++) {
        for (uint32_t want = 0; want < lookup->nr_wants; want++) {
            uint32_t holders[KV_MSG_HOLDERS_MAX];
            struct kv_msg_run run = {.seg = seg, .want = want, .holders = holders};
            while (model_next_run(p, lookup, except, &run)) {
                assert_true(at < p->answer.nr_runs);
                const struct kv_msg_run *got = &p->answer.runs[at++];
                assert_int_equal(got->seg, seg);
                assert_int_equal(got->want, want);
                assert_int_equal(got->first, run.first);
                assert_int_equal(got->n, run.n);
                assert_int_equal(got->nr_holders, run.nr_holders);
                for (uint32_t i = 0; i < run.nr_holders; i++) {
                    assert_int_equal(got->holders[i], p->view.members[holders[i]].id);
                }
            }
        }
    }
    assert_int_equal(at, p->answer.nr_runs);
}

/* Every listed tail is one that follows; none that follows is longer than those listed
 * and missing; they come longest first, each once. */
static void
check_tails(const struct pair *p, const struct kv_msg_lookup *lookup, uint32_t except)
{
    uint32_t following = 0, longer = 0;
    const uint32_t nr = p->answer.nr_tails;
    uint32_t shortest = nr == 0 ? 0 : p->answer.tails[nr - 1].n_tokens;
    for (uint32_t c = 0; c < COPIES; c++) {
        const struct kv_msg_entry *item = &p->model.items[c];
        uint32_t holder = 0, listed = 0, want = 0;
        while (want < lookup->nr_wants
               && (lookup->wants[want].layout != item->copy.layout
                   || lookup->wants[want].group != item->copy.group)) {
            want++;
        }
        bool follows = lookup->tails && item->tail && want < lookup->nr_wants
                       && item->copy.tenant == lookup->tenant
                       && kv_key_equal(&item->prev, &lookup->tail_prev)
                       && model_list(&p->model, c, except, 1, &holder) > 0;
        for (uint32_t i = 0; i < nr; i++) {
            const struct kv_msg_tail *tail = &p->answer.tails[i];
            if (tail->want == want && kv_key_equal(&tail->key, &item->copy.key)
                && item->copy.tenant == lookup->tenant) {
                assert_true(follows);
                assert_int_equal(tail->n_tokens, item->n_tokens);
                assert_int_equal(tail->holder, p->view.members[holder].id);
                listed++;
            }
        }
        assert_true(listed <= 1);
        following += follows;
        longer += follows && item->n_tokens > shortest && listed == 0;
    }
    assert_int_equal(nr, following < KV_MSG_TAILS_MAX ? following : KV_MSG_TAILS_MAX);
    assert_true(nr == 0 || longer == 0);
    for (uint32_t i = 1; i < nr; i++) {
        assert_true(p->answer.tails[i - 1].n_tokens >= p->answer.tails[i].n_tokens);
    }
}

static void check_lookup(struct pair *p)
{
    kv_key_t keys[3][12];
    struct kv_msg_segment segs[3];
    struct kv_msg_want wants[4];
    struct kv_msg_lookup lookup = {
        .tenant = 1 + below(p, 2),
        .wants = wants,
        .nr_wants = 1 + below(p, 4),
        .segs = segs,
        .nr_segs = below(p, 4),
        .tails = below(p, 2) == 0,
        .tail_prev = p->model.prevs[below(p, 3)],
    };
    for (uint32_t w = 0, first = below(p, 4); w < 4; w++) {
        uint32_t variant = (first + w) % 4;
        wants[w] = (struct kv_msg_want){
            .layout = 7 + variant % 2, .group = (uint16_t)(variant / 2)};
    }
    for (uint32_t s = 0; s < 3; s++) {
        segs[s] = (struct kv_msg_segment){.keys = keys[s], .nr_keys = below(p, 13)};
        for (uint32_t k = 0; k < segs[s].nr_keys; k++) {
            /* Mostly keys that exist, in an order in which runs happen. */
            keys[s][k] = key_of(below(p, 5) == 0 ? 777 : k % (COPIES / 8));
        }
    }
    uint32_t except = below(p, 3) == 0 ? KVC_NO_NODE : below(p, NODES);
    kvc_dir_lookup(p->dir, &p->view, &lookup, except, &p->answer);
    check_runs(p, &lookup, except);
    check_tails(p, &lookup, except);
}

static void check_whole(struct pair *p)
{
    struct kvc_dir_stats stats;
    uint32_t entries = 0, holdings = 0;
    kvc_dir_check(p->dir);
    for (uint32_t c = 0; c < COPIES; c++) {
        uint32_t nr = model_holders(&p->model, c);
        entries += nr > 0;
        holdings += nr;
    }
    kvc_dir_stats(p->dir, &stats);
    assert_int_equal(stats.nr_entries, entries);
    assert_int_equal(stats.nr_holdings, holdings);
    assert_int_equal(stats.entries_max, ENTRIES);
    assert_int_equal(stats.holdings_max, HOLDINGS);
}

static void step(struct pair *p)
{
    uint32_t node = below(p, NODES);
    bool up = p->model.nodes[node].up;
    uint32_t what = below(p, 100);
    if (what < 2 || !up) {
        do_link(p, node);
    } else if (what < 65) {
        do_publish(p, node);
    } else if (what < 80) {
        do_withdraw(p, node);
    } else if (what < 82) {
        do_forget(p, node);
    } else if (what < 90) {
        do_sync(p, node);
    } else if (what < 95) {
        check_holders(p);
    } else {
        check_lookup(p);
    }
    assert_int_equal(kvc_dir_nr_entries(p->dir, node), model_count(&p->model, node));
    uint64_t now_us = below(p, 2 * COLD_US);
    assert_int_equal(kvc_dir_cold(p->dir, now_us), model_cold(&p->model, now_us));
}

static void directory__random_operations_agree_with_model(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        struct pair *p = pair_create(seed);
        for (unsigned i = 0; i < OPERATIONS / 3; i++) {
            step(p);
            if (i % 64 == 0) {
                check_whole(p);
            }
        }
        check_whole(p);
        pair_destroy(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directory__random_operations_agree_with_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
