#include "tests/sim/sim_kit.h"

#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DEADLINE_US = 4000000 };

static void
answered(void *arg, struct kvs_client client, const struct kvo_answer *answer)
{
    struct sim_client *c = arg;
    (void)client;
    c->answered = true;
    c->answer = *answer;
    c->status = answer->status;
    if (answer->status == KV_OK && answer->statuses != NULL && answer->nr_keys > 0) {
        c->status = answer->statuses[0];
        c->reason = (enum kv_miss)answer->reasons[0];
        c->place = (enum kvo_place)answer->places[0];
    }
    c->answer.statuses = NULL;
    c->answer.reasons = c->answer.places = NULL;
}

static void switched(
    void *arg, struct kvs_client client, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    struct sim_client *c = arg;
    (void)client;
    (void)seq;
    (void)page;
    (void)was;
    (void)now;
    c->nr_switched++;
}

static void lost(void *arg, struct kvs_client client)
{
    struct sim_client *c = arg;
    (void)client;
    c->attached = false;
}

static const struct kvs_client_ops ops = {
    .answer = answered,
    .switched = switched,
    .lost = lost,
};

static bool linked(void *arg)
{
    return kvs_linked(arg);
}

void sim_start(struct sim *sim, const struct kvs_config *config)
{
    struct kv_detail detail = {0};
    memset(sim, 0, sizeof(*sim));
    assert_true(config->nr_nodes <= SIM_NODES_MAX);
    assert_int_equal(kvs_world_create(config, &sim->world, &detail), KV_OK);
    assert_true(kvs_run_until(sim->world, linked, sim->world, 20000000));
    for (uint32_t node = 1; node <= config->nr_nodes; node++) {
        struct sim_client *c = &sim->clients[node];
        assert_int_equal(
            kvs_attach(sim->world, node - 1, 1, &ops, c, &c->client), KV_OK);
        c->attached = true;
    }
    kvs_record(sim->world, true);
}

void sim_end(struct sim *sim)
{
    const struct kvs_failure *failure = kvs_failure(sim->world);
    if (failure->invariant != NULL) {
        print_error("%s: %s\n", failure->invariant, failure->what);
    }
    assert_null(failure->invariant);
    kvs_world_destroy(sim->world);
}

kv_key_t sim_key(const char *name)
{
    kv_key_t key;
    uint64_t h = 0;
    for (; *name != 0; name++) {
        h = kv_mix64(h + (uint8_t)*name + KV_GOLDEN64);
    }
    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        h = kv_mix64(h + KV_GOLDEN64);
        key.b[i] = (uint8_t)h;
    }
    return key;
}

void sim_ask(struct sim *sim, uint32_t node, enum kvo_op op, const char *name)
{
    struct sim_client *c = &sim->clients[node];
    uint64_t buffer = 0;
    c->key = sim_key(name);
    c->answered = false;
    if (op == KVO_PUT) {
        kvs_content_make(
            kvs_buffer(sim->world, c->client), kvs_config(sim->world)->page_bytes, 100,
            &c->key, 0, node);
    }
    struct kvo_request request = {
        .op = op,
        .deadline_us = DEADLINE_US,
        .loose = true,
        .keys = &c->key,
        .nr_keys = 1,
        .buffers = op == KVO_PUT || op == KVO_GET ? &buffer : NULL,
    };
    assert_int_equal(kvs_submit(sim->world, c->client, &request), KV_OK);
}

static bool is_answered(void *arg)
{
    return ((struct sim_client *)arg)->answered;
}

kv_status_t sim_wait(struct sim *sim, uint32_t node)
{
    struct sim_client *c = &sim->clients[node];
    uint64_t until = kvs_now(sim->world) + 2 * DEADLINE_US;
    if (!kvs_run_until(sim->world, is_answered, c, until)) {
        print_error("no answer: %s\n", kvs_failure(sim->world)->what);
        fail();
    }
    if (c->answer.op == KVO_GET && c->status == KV_OK) {
        assert_true(kvs_content_ok(
            kvs_buffer(sim->world, c->client), kvs_config(sim->world)->page_bytes, 100,
            &c->key, 0));
    }
    return c->status;
}

kv_status_t sim_put(struct sim *sim, uint32_t node, const char *name)
{
    sim_ask(sim, node, KVO_PUT, name);
    return sim_wait(sim, node);
}

kv_status_t sim_get(struct sim *sim, uint32_t node, const char *name)
{
    sim_ask(sim, node, KVO_GET, name);
    return sim_wait(sim, node);
}

/* ------------------------------------------------------------------ sequences */

static kv_status_t
seq_request(struct sim *sim, uint32_t node, struct kvo_request *request)
{
    struct sim_client *c = &sim->clients[node];
    c->answered = false;
    request->deadline_us = DEADLINE_US;
    assert_int_equal(kvs_submit(sim->world, c->client, request), KV_OK);
    return sim_wait(sim, node);
}

struct kvp_seq_id sim_seq(struct sim *sim, uint32_t node)
{
    struct kvo_request request = {.op = KVO_SEQ_OPEN};
    assert_int_equal(seq_request(sim, node, &request), KV_OK);
    return sim->clients[node].answer.seq;
}

kv_status_t
sim_seq_op(struct sim *sim, uint32_t node, enum kvo_op op, struct kvp_seq_id seq)
{
    struct kvo_request request = {.op = op, .seq = seq};
    if (op == KVO_SEQ_CONFIRM) {
        struct kvp_seq_info info;
        kvp_pager_t *pager = kvo_pager(kvs_node(sim->world, node - 1));
        assert_int_equal(kvp_seq_info(pager, seq, &info), KV_OK);
        request.version = info.version;
    }
    return seq_request(sim, node, &request);
}

struct kvp_ref
sim_seq_write(struct sim *sim, uint32_t node, struct kvp_seq_id seq, const char *name)
{
    const struct kvs_config *config = kvs_config(sim->world);
    struct kvo_request request = {
        .op = KVO_SEQ_APPEND, .seq = seq, .tokens = config->page_tokens};
    assert_int_equal(seq_request(sim, node, &request), KV_OK);
    kvp_pager_t *pager = kvo_pager(kvs_node(sim->world, node - 1));
    struct kvp_ref ref;
    assert_int_equal(kvp_seq_table(pager, seq, 0, 1, &ref), KV_OK);
    assert_true(kvp_writable(pager, ref));
    kv_key_t key = sim_key(name);
    kvs_content_make(
        kvs_memory(sim->world, node - 1, ref), config->page_bytes, 100, &key, 0,
        kvs_now(sim->world));
    return ref;
}

kv_status_t
sim_seq_seal(struct sim *sim, uint32_t node, struct kvp_seq_id seq, const char *name)
{
    kv_key_t key = sim_key(name);
    struct kvo_request request = {
        .op = KVO_SEQ_SEAL, .seq = seq, .keys = &key, .nr_keys = 1, .anchor = key};
    return seq_request(sim, node, &request);
}

enum kvp_frame_state sim_state(struct sim *sim, uint32_t node, struct kvp_ref ref)
{
    struct kvp_info info;
    kvp_pager_t *pager = kvo_pager(kvs_node(sim->world, node - 1));
    if (kvp_info(pager, ref, &info) != KV_OK) {
        return KVP_FREE; /* its generation has moved on */
    }
    return info.state;
}

/* ------------------------------------------------------------------ time, trace */

void sim_run(struct sim *sim, uint64_t us)
{
    (void)kvs_run(sim->world, kvs_now(sim->world) + us);
}

void sim_skip(struct sim *sim)
{
    kvs_record(sim->world, true);
}

/* Heartbeats are left out: they are there whatever happens. */
static void without_beats(const char *from, char *to)
{
    while (*from != 0) {
        size_t len = strcspn(from, "\n");
        len += from[len] == '\n';
        char line[160];
        snprintf(line, sizeof(line), "%.*s", (int)len, from);
        if (strstr(line, " ping ") == NULL && strstr(line, " pong ") == NULL) {
            memcpy(to, from, len);
            to += len;
        }
        from += len;
    }
    *to = 0;
}

void sim_expect(struct sim *sim, const char *text)
{
    const char *recorded = kvs_recorded(sim->world);
    char *got = malloc(strlen(recorded) + 1);
    assert_non_null(got);
    without_beats(recorded, got);
    if (strcmp(got, text) != 0) {
        print_error("--- expected:\n%s--- recorded:\n", text);
        for (const char *at = got; *at != 0; at += strcspn(at, "\n") + 1) {
            print_error("%.*s\n", (int)strcspn(at, "\n"), at);
        }
        free(got);
        fail();
    }
    free(got);
    sim_skip(sim);
}
