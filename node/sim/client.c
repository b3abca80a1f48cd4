/* Clients: requests on their way in, answers on their way out, each exactly once.
 *
 *   kvs_submit ──engine_us──► kvo_request … kvo_out.answer ──engine_us──► ops->answer
 *
 * A request that the node does not accept is answered here with that status.
 */
#include "node/sim/world_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* (I11) An answer may be so much later than its deadline: ticks, and copies into a
     * client's buffer that must end before it is told. */
    SLACK_US = 400000,
    INSTANT_US = 1500000, /* for operations that wait for nothing */
};

static struct kvs_client_state *client_of(kvs_world_t *world, struct kvs_client client)
{
    if (client.slot >= world->nr_clients) {
        return NULL;
    }
    struct kvs_client_state *state = &world->clients[client.slot];
    return state->used && state->serial == client.serial ? state : NULL;
}

static struct kvs_client
name_of(const kvs_world_t *world, const struct kvs_client_state *state)
{
    return (struct kvs_client){
        .node = state->node,
        .slot = (uint32_t)(state - world->clients),
        .serial = state->serial,
    };
}

size_t kvs_client_slot(const kvs_world_t *world, uint32_t node, uint32_t index)
{
    for (size_t i = world->nr_clients; i > 0; i--) {
        const struct kvs_client_state *state = &world->clients[i - 1];
        if (state->used && state->node == node && state->id.index == index
            && kvs_alive(world, node, state->life)) {
            return i - 1;
        }
    }
    return SIZE_MAX;
}

/* ------------------------------------------------------------------ attach, leave */

static struct kvs_mem *buffer_create(uint32_t bytes)
{
    struct kvs_mem *mem = kvs_take(sizeof(*mem));
    mem->refs = 1;
    mem->bytes = bytes;
    mem->base = kvs_take(bytes);
    return mem;
}

static size_t free_slot(kvs_world_t *world)
{
    for (size_t i = 0; i < world->nr_clients; i++) {
        if (!world->clients[i].used) {
            return i;
        }
    }
    world->clients = kvs_grow(
        world->clients, world->nr_clients, &world->clients_cap,
        sizeof(*world->clients));
    world->clients[world->nr_clients] = (struct kvs_client_state){0};
    return world->nr_clients++;
}

kv_status_t kvs_attach(
    kvs_world_t *world, uint32_t node, uint64_t tenants,
    const struct kvs_client_ops *ops, void *arg, struct kvs_client *client_p)
{
    if (world->nodes[node].core == NULL) {
        return KV_ERR_LINK_LOST;
    }
    if (kvs_paused(world, node)) {
        return KV_ERR_AGAIN;
    }
    struct kvo_client_id id;
    kvo_node_t *core = kvs_enter(world, node);
    kv_status_t status =
        kvo_client_attach(core, kvs_node_now(world, node), tenants, &id);
    kvs_leave(world, node);
    if (status != KV_OK) {
        return status;
    }
    size_t slot = free_slot(world); /* may move the table */
    struct kvs_client_state *state = &world->clients[slot];
    *state = (struct kvs_client_state){
        .used = true,
        .up = true,
        .node = node,
        .life = world->nodes[node].life,
        .serial = ++world->client_serial,
        .id = id,
        .ops = ops,
        .arg = arg,
        .buffer = buffer_create(world->config.buffer_bytes),
        .busy =
            kvs_take((world->config.buffer_bytes / KVP_ALIGN + 1) * sizeof(uint16_t)),
    };
    kvs_hash_word(world, (uint64_t)id.index << 32 | id.gen);
    *client_p = name_of(world, state);
    return KV_OK;
}

static void pending_end(kvs_world_t *world, struct kvs_pending *pending)
{
    struct kvs_client_state *state = &world->clients[pending->client];
    if (state->used && state->serial == pending->serial) {
        state->nr_requests--;
        for (uint32_t i = 0; pending->buffers != NULL && i < pending->nr_keys; i++) {
            state->busy[pending->buffers[i] / KVP_ALIGN]--;
        }
    }
    free(pending->buffers);
    pending->buffers = NULL;
    pending->used = false;
}

static void drop_requests(kvs_world_t *world, const struct kvs_client_state *state)
{
    for (size_t i = 0; i < world->nr_pending; i++) {
        struct kvs_pending *pending = &world->pending[i];
        if (pending->used && pending->serial == state->serial) {
            pending_end(world, pending);
        }
    }
}

static void state_free(struct kvs_client_state *state)
{
    kvs_mem_drop(state->buffer);
    free(state->busy);
    *state = (struct kvs_client_state){0};
}

void kvs_hang_up(kvs_world_t *world, struct kvs_client client, uint64_t dead_us)
{
    struct kvs_client_state *state = client_of(world, client);
    if (state == NULL || !state->up) {
        return;
    }
    state->up = false;
    kvs_push_to(world, world->now, KVS_EV_HUNG_UP, client.node, client.slot, NULL);
    kvs_push_to(
        world, world->now + dead_us + 1, KVS_EV_DEAD, client.node, client.slot, NULL);
}

bool kvs_client_up(const kvs_world_t *world, struct kvs_client client)
{
    const struct kvs_client_state *state = &world->clients[client.slot];
    return client.slot < world->nr_clients && state->serial == client.serial
           && state->up;
}

uint8_t *kvs_buffer(kvs_world_t *world, struct kvs_client client)
{
    struct kvs_client_state *state = client_of(world, client);
    return state != NULL ? state->buffer->base : NULL;
}

struct lost_client {
    const struct kvs_client_ops *ops;
    void *arg;
    struct kvs_client client;
};

void kvs_client_killed(kvs_world_t *world, uint32_t node)
{
    for (size_t i = 0; i < world->nr_clients; i++) {
        struct kvs_client_state *state = &world->clients[i];
        if (!state->used || state->node != node) {
            continue;
        }
        drop_requests(world, state);
        if (state->up && state->ops->lost != NULL) {
            struct lost_client *lost = kvs_take(sizeof(*lost));
            *lost = (struct lost_client){state->ops, state->arg, name_of(world, state)};
            kvs_push(world, world->now, KVS_EV_LOST, node, i, lost);
        }
        state_free(state);
    }
}

/* ------------------------------------------------------------------ requests */

struct submission {
    uint64_t pending; /* handle */
    struct kvo_client_id id;
    struct kvo_request request;
    uint64_t deadline_us; /* from now */
    kv_key_t *keys;
    uint64_t *buffers;
    uint32_t *n_tokens;
    uint8_t memory[];
};

static struct submission *copy_request(const struct kvo_request *request)
{
    size_t n = request->nr_keys;
    size_t bytes = n * (sizeof(kv_key_t) + sizeof(uint64_t) + sizeof(uint32_t));
    struct submission *copy = kvs_take(sizeof(*copy) + bytes);
    copy->request = *request;
    copy->deadline_us = request->deadline_us;
    uint8_t *at = copy->memory;
    if (request->buffers != NULL) {
        copy->buffers = (uint64_t *)(void *)at;
        memcpy(at, request->buffers, n * sizeof(uint64_t));
        at += n * sizeof(uint64_t);
    }
    if (request->n_tokens != NULL) {
        copy->n_tokens = (uint32_t *)(void *)at;
        memcpy(at, request->n_tokens, n * sizeof(uint32_t));
        at += n * sizeof(uint32_t);
    }
    if (n > 0) {
        copy->keys = (kv_key_t *)(void *)at;
        memcpy(at, request->keys, n * sizeof(kv_key_t));
    }
    copy->request.keys = copy->keys;
    copy->request.buffers = copy->buffers;
    copy->request.n_tokens = copy->n_tokens;
    return copy;
}

static struct kvs_pending *pending_take(kvs_world_t *world)
{
    for (size_t i = 0; i < world->nr_pending; i++) {
        if (!world->pending[i].used) {
            return &world->pending[i];
        }
    }
    world->pending = kvs_grow(
        world->pending, world->nr_pending, &world->pending_cap,
        sizeof(*world->pending));
    world->pending[world->nr_pending] = (struct kvs_pending){0};
    return &world->pending[world->nr_pending++];
}

static struct kvs_pending *pending_of(kvs_world_t *world, uint64_t handle)
{
    size_t slot = (uint32_t)handle;
    if (slot >= world->nr_pending) {
        return NULL;
    }
    struct kvs_pending *pending = &world->pending[slot];
    return pending->used && pending->gen == handle >> 32 ? pending : NULL;
}

static void own_buffers(
    kvs_world_t *world, struct kvs_client_state *state, struct kvs_pending *pending,
    const struct kvo_request *request)
{
    if (request->op != KVO_GET || request->buffers == NULL) {
        return;
    }
    pending->buffers = kvs_take((size_t)request->nr_keys * sizeof(uint64_t));
    for (uint32_t i = 0; i < request->nr_keys; i++) {
        KV_ASSERT(request->buffers[i] < world->config.buffer_bytes);
        pending->buffers[i] = request->buffers[i];
        state->busy[request->buffers[i] / KVP_ALIGN]++;
    }
}

kv_status_t kvs_submit(
    kvs_world_t *world, struct kvs_client client, const struct kvo_request *request)
{
    struct kvs_client_state *state = client_of(world, client);
    if (state == NULL || !state->up) {
        return KV_ERR_LINK_LOST;
    }
    struct kvs_pending *pending = pending_take(world);
    uint32_t gen = pending->gen + 1;
    *pending = (struct kvs_pending){
        .used = true,
        .gen = gen,
        .client = client.slot,
        .serial = client.serial,
        .tag = request->tag,
        .op = request->op,
        .nr_keys = request->nr_keys,
        .submitted_us = world->now,
        .deadline_us = request->deadline_us,
    };
    own_buffers(world, state, pending, request);
    state->nr_requests++;
    world->stats.requests++;
    uint64_t handle = (uint64_t)gen << 32 | (uint64_t)(pending - world->pending);
    struct submission *submission = copy_request(request);
    submission->pending = handle;
    submission->id = state->id;
    kvs_push_to(
        world, world->now + world->config.engine_us, KVS_EV_SUBMIT, client.node, handle,
        submission);
    return KV_OK;
}

/* ------------------------------------------------------------------ answers */

struct answered {
    const struct kvs_client_ops *ops;
    void *arg;
    struct kvs_client client;
    struct kvo_answer answer;
    uint8_t memory[];
};

static bool status_allowed(kv_status_t status)
{
    for (unsigned i = 0; i < kvo_nr_answer_statuses; i++) {
        if (kvo_answer_statuses[i] == status) {
            return true;
        }
    }
    return false;
}

static void push_answer(
    kvs_world_t *world, struct kvs_pending *pending, const struct kvo_answer *answer)
{
    struct kvs_client_state *state = &world->clients[pending->client];
    size_t n = answer->nr_keys;
    struct answered *copy = kvs_take(sizeof(*copy) + n * (sizeof(kv_status_t) + 2));
    copy->ops = state->ops;
    copy->arg = state->arg;
    copy->client = name_of(world, state);
    copy->answer = *answer;
    copy->answer.tag = pending->tag;
    if (answer->statuses != NULL) {
        kv_status_t *statuses = (kv_status_t *)(void *)copy->memory;
        uint8_t *reasons = copy->memory + n * sizeof(kv_status_t);
        memcpy(statuses, answer->statuses, n * sizeof(kv_status_t));
        copy->answer.statuses = statuses;
        if (answer->reasons != NULL) {
            memcpy(reasons, answer->reasons, n);
            copy->answer.reasons = reasons;
        }
        if (answer->places != NULL) {
            memcpy(reasons + n, answer->places, n);
            copy->answer.places = reasons + n;
        }
        for (size_t i = 0; i < n; i++) {
            kvs_hash_word(world, (uint64_t)(int64_t)statuses[i]);
        }
    }
    kvs_hash_word(world, (uint64_t)(int64_t)answer->status);
    world->stats.answers++;
    kvs_push(
        world, world->now + world->config.engine_us, KVS_EV_ANSWER, state->node,
        pending->tag, copy);
    pending_end(world, pending);
}

/* (I11) Exactly once, in time, with a status that the interface names. */
void kvs_client_answered(void *arg, const struct kvo_answer *answer)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    struct kvs_pending *pending = pending_of(world, answer->tag);
    if (pending == NULL) {
        kvs_fail(
            world, "I11",
            "n%u answers a request twice, or one of a client that hung up",
            port->node + 1);
        return;
    }
    if (answer->op != pending->op
        || (answer->statuses != NULL && answer->nr_keys != pending->nr_keys)) {
        kvs_fail(world, "I11", "n%u answers another question", port->node + 1);
        return;
    }
    if (!status_allowed(answer->status)) {
        kvs_fail(
            world, "I11", "n%u answers %s, which is no answer", port->node + 1,
            kv_status_name(answer->status));
        return;
    }
    for (uint32_t i = 0; answer->statuses != NULL && i < answer->nr_keys; i++) {
        if (!status_allowed(answer->statuses[i])) {
            kvs_fail(
                world, "I11", "n%u answers a key with %s, which is no answer",
                port->node + 1, kv_status_name(answer->statuses[i]));
            return;
        }
    }
    push_answer(world, pending, answer);
}

struct switched {
    const struct kvs_client_ops *ops;
    void *arg;
    struct kvs_client client;
    struct kvp_seq_id seq;
    uint32_t page;
    struct kvp_ref was, now;
};

void kvs_client_switched(
    void *arg, struct kvo_client_id id, struct kvp_seq_id seq, uint32_t page,
    struct kvp_ref was, struct kvp_ref now)
{
    struct kvs_port *port = arg;
    kvs_world_t *world = port->world;
    size_t slot = kvs_client_slot(world, port->node, id.index);
    if (slot == SIZE_MAX || world->clients[slot].id.gen != id.gen
        || !world->clients[slot].up || world->clients[slot].ops->switched == NULL) {
        return;
    }
    struct kvs_client_state *state = &world->clients[slot];
    struct switched *switched = kvs_take(sizeof(*switched));
    *switched = (struct switched){
        state->ops, state->arg, name_of(world, state), seq, page, was, now,
    };
    kvs_push(
        world, world->now + world->config.engine_us, KVS_EV_SWITCHED, port->node, page,
        switched);
}

/* ------------------------------------------------------------------ events */

static void submit(kvs_world_t *world, const struct kvs_event *event)
{
    struct submission *submission = event->p;
    struct kvs_pending *pending = pending_of(world, submission->pending);
    if (pending == NULL) {
        return; /* it hung up meanwhile */
    }
    pending->started = true;
    uint64_t now = kvs_node_now(world, event->node);
    struct kvo_request *request = &submission->request;
    request->tag = submission->pending;
    if (submission->deadline_us != 0) {
        request->deadline_us = now + submission->deadline_us;
    }
    kvo_node_t *core = kvs_enter(world, event->node);
    kv_status_t status = kvo_request(core, now, submission->id, request);
    kvs_leave(world, event->node);
    pending = pending_of(world, submission->pending);
    if (status == KV_OK) {
        return;
    }
    if (pending == NULL) {
        kvs_fail(
            world, "I11", "n%u refused a request and answered it too", event->node + 1);
        return;
    }
    struct kvo_answer answer = {
        .client = submission->id,
        .tag = submission->pending,
        .op = pending->op,
        .status = status,
    };
    push_answer(world, pending, &answer);
}

static void hung_up(kvs_world_t *world, const struct kvs_event *event)
{
    struct kvs_client_state *state = &world->clients[event->id];
    kvo_node_t *core = kvs_enter(world, event->node);
    uint64_t now = kvs_node_now(world, event->node);
    if (event->kind == KVS_EV_HUNG_UP) {
        drop_requests(world, state); /* what it had asked ends unanswered */
        kvo_client_hung_up(core, now, state->id);
        kvs_leave(world, event->node);
        return;
    }
    kvo_client_dead(core, now, state->id);
    kvs_leave(world, event->node);
    state_free(state);
}

void kvs_client_event(kvs_world_t *world, struct kvs_event *event)
{
    switch (event->kind) {
    case KVS_EV_SUBMIT:
        submit(world, event);
        break;
    case KVS_EV_HUNG_UP:
    case KVS_EV_DEAD:
        hung_up(world, event);
        break;
    case KVS_EV_ANSWER: {
        struct answered *answered = event->p;
        if (kvs_client_up(world, answered->client)) {
            answered->ops->answer(answered->arg, answered->client, &answered->answer);
        }
        break;
    }
    case KVS_EV_SWITCHED: {
        struct switched *switched = event->p;
        if (kvs_client_up(world, switched->client)) {
            switched->ops->switched(
                switched->arg, switched->client, switched->seq, switched->page,
                switched->was, switched->now);
        }
        break;
    }
    default: {
        KV_ASSERT(event->kind == KVS_EV_LOST);
        struct lost_client *lost = event->p;
        lost->ops->lost(lost->arg, lost->client);
        break;
    }
    }
}

void kvs_client_overdue(kvs_world_t *world)
{
    for (size_t i = 0; i < world->nr_pending; i++) {
        const struct kvs_pending *pending = &world->pending[i];
        if (!pending->used || !world->clients[pending->client].up) {
            continue;
        }
        uint32_t index = world->clients[pending->client].node;
        const struct kvs_node *node = &world->nodes[index];
        uint64_t us =
            pending->deadline_us != 0 ? pending->deadline_us + SLACK_US : INSTANT_US;
        /* A process that stopped took the request up when it went on. */
        uint64_t start = pending->submitted_us > node->resumed_at
                             ? pending->submitted_us
                             : node->resumed_at;
        if (node->paused_until == 0 && world->now > start + us * 1001 / 1000) {
            kvs_fail(
                world, "I11", "n%u has not answered operation %d for %llu ms",
                index + 1, (int)pending->op,
                (unsigned long long)((world->now - pending->submitted_us) / 1000));
            return;
        }
    }
}
