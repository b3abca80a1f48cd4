/* Clients of a node, by libkvrail. */
#include "node/bench/load.h"

#include "base/assert.h"
#include "base/mem.h"
#include "include/kvrail/kvrail.h"

#include <string.h>

/* One batch that is in flight, or about to be. */
struct slot {
    uint64_t numbers[KVN_LOAD_BATCH_MAX];
    struct kvr_key keys[KVN_LOAD_BATCH_MAX];
    struct kvr_at at[KVN_LOAD_BATCH_MAX];
};

struct client {
    kvr_client_t *client;
    struct kvr_buffer buffer;
    struct kvr_space space;
    uint64_t cursor; /* next page of its share */
    uint64_t fresh;  /* its next new page */
    struct slot slots[KVN_LOAD_DEPTH_MAX];
};

struct kvn_load {
    struct kvn_bench_node *bench;
    struct kvn_world *world;
    struct kvn_load_shape shape;
    unsigned place;
    enum kvr_op op;      /* of the take that runs */
    uint64_t fill_until; /* pages to store; UINT64_MAX: until the time is over */
    struct client clients[KVN_LOAD_CLIENTS_MAX];
};

/* ------------------------------------------------------------------ a batch */

/* A new page's number: shares of the clients do not meet, nor does any meet the set. */
static uint64_t fresh_number(const struct kvn_load *load, unsigned index, uint64_t n)
{
    return n * load->shape.nr_clients + index;
}

static uint64_t
next_number(struct kvn_load *load, struct client *client, unsigned index)
{
    if (load->op == KVR_OP_PUT) {
        return fresh_number(load, index, client->fresh++);
    }
    const uint64_t share = load->shape.nr_pages / load->shape.nr_clients;
    return fresh_number(load, index, client->cursor++ % share);
}

static uint8_t *
page_at(const struct client *client, const struct slot *slot, uint32_t i)
{
    return (uint8_t *)client->buffer.base + slot->at[i].offset;
}

static kvr_status_t
slot_submit(struct kvn_load *load, unsigned index, struct slot *slot, uint32_t nr)
{
    struct client *client = &load->clients[index];
    for (uint32_t i = 0; i < nr; i++) {
        const uint64_t number = next_number(load, client, index);
        slot->numbers[i] = number;
        kvr_status_t status =
            kvr_key_opaque(&client->space, &number, sizeof(number), &slot->keys[i]);
        if (status != KVR_OK) {
            return status;
        }
        if (load->op == KVR_OP_PUT) {
            kvn_stamp(page_at(client, slot, i), load->shape.page_bytes, number);
        }
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = load->op,
        .variant = client->space.variant,
        .tag = (uint64_t)(slot - client->slots),
        .timeout_us = KVN_LOAD_WAIT_US,
        .keys = slot->keys,
        .nr_keys = nr,
        .at = slot->at,
        .loose = 1,
    };
    return kvr_submit(client->client, &batch);
}

/* Every page has come with its bytes, or has been taken. Only those count that came
 * from where they are to come from. */
static void result_check(struct kvn_worker *worker, const struct kvr_result *result)
{
    const struct kvn_load *load = worker->arg;
    const struct client *client = &load->clients[worker->index];
    const struct slot *slot = &client->slots[result->tag];
    if (result->status != KVR_OK) {
        kvn_worker_fail(
            worker, result->status, "a batch failed: %s", kvr_error(client->client));
        return;
    }
    for (uint32_t i = 0; i < result->nr_keys; i++) {
        const kvr_status_t status = result->statuses[i];
        if (status != KVR_OK) {
            kvn_worker_fail(
                worker, KV_ERR_MISS, "page %llu: %s (%s)",
                (unsigned long long)slot->numbers[i], kvr_status_name(status),
                kvr_miss_name(result->reasons[i]));
        } else if (
            load->op == KVR_OP_GET
            && !kvn_stamped(
                page_at(client, slot, i), load->shape.page_bytes, slot->numbers[i])) {
            kvn_worker_fail(
                worker, KV_ERR_NOT_VERIFIED, "page %llu has wrong bytes",
                (unsigned long long)slot->numbers[i]);
        } else if (load->op == KVR_OP_GET && result->places[i] != load->place) {
            worker->others++;
        } else {
            worker->pages++;
        }
    }
}

/* How many pages the next batch has; 0: there is none. */
static uint32_t batch_next(struct kvn_worker *worker)
{
    const struct kvn_load *load = worker->arg;
    if (load->fill_until == UINT64_MAX) {
        return kvn_worker_over(worker) ? 0 : load->shape.batch;
    }
    const uint64_t share = load->fill_until / load->shape.nr_clients;
    const uint64_t done = load->clients[worker->index].fresh;
    const uint64_t left = done < share ? share - done : 0;
    return kvn_figure_stopped(worker->bench) ? 0
           : left < load->shape.batch        ? (uint32_t)left
                                             : load->shape.batch;
}

static void work(struct kvn_worker *worker)
{
    struct kvn_load *load = worker->arg;
    struct client *client = &load->clients[worker->index];
    uint32_t in_flight = 0, nr;
    kvr_status_t status = KVR_OK;

    for (uint32_t i = 0; i < load->shape.depth; i++) {
        nr = status == KVR_OK ? batch_next(worker) : 0;
        if (nr > 0) {
            status = slot_submit(load, worker->index, &client->slots[i], nr);
            in_flight += status == KVR_OK;
        }
    }
    while (in_flight > 0) {
        struct kvr_result result;
        kvr_status_t got = kvr_next(client->client, 2 * KVN_LOAD_WAIT_US, &result);
        if (got != KVR_OK) {
            status = got;
            break; /* its client is closed: nothing of it goes on */
        }
        in_flight--;
        result_check(worker, &result);
        nr = worker->status == KV_OK && status == KVR_OK ? batch_next(worker) : 0;
        if (nr > 0) {
            status = slot_submit(load, worker->index, &client->slots[result.tag], nr);
            in_flight += status == KVR_OK;
        }
    }
    if (status != KVR_OK && worker->status == KV_OK) {
        kvn_worker_fail(worker, status, "%s", kvr_error(client->client));
    }
    kvn_worker_others(worker);
}

/* ------------------------------------------------------------------ takes */

static kv_status_t take_op(
    struct kvn_load *load, enum kvr_op op, double seconds, uint64_t fill_until,
    struct kvn_take *take)
{
    load->op = op;
    load->fill_until = fill_until;
    const struct kvn_spent before = kvn_world_spent(load->world);
    kv_status_t status = kvn_crew_run(
        load->bench, load->shape.nr_clients, work, load, seconds,
        load->shape.page_bytes, take);
    kvn_world_charge(load->world, &before, take);
    return status;
}

kv_status_t kvn_load_get(void *arg, double seconds, struct kvn_take *take)
{
    return take_op(arg, KVR_OP_GET, seconds, UINT64_MAX, take);
}

kv_status_t kvn_load_put(void *arg, double seconds, struct kvn_take *take)
{
    return take_op(arg, KVR_OP_PUT, seconds, UINT64_MAX, take);
}

kv_status_t kvn_load_fill(struct kvn_load *load, uint64_t nr)
{
    struct kvn_take take = {0};
    return take_op(load, KVR_OP_PUT, 0, nr, &take);
}

/* ------------------------------------------------------------------ open and close */

static kv_status_t
client_open(struct kvn_load *load, unsigned node, struct client *client)
{
    const struct kvn_load_shape *shape = &load->shape;
    char target[KVN_WORLD_TARGET_BYTES], error[256] = "";
    kvn_world_target(load->world, node, target, sizeof(target));
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = KVN_WORLD_TENANT,
    };
    kvr_status_t status = kvr_open(&config, &client->client, error, sizeof(error));
    if (status != KVR_OK) {
        return kvn_figure_fail(load->bench, status, "%s", error);
    }
    const size_t bytes = shape->depth * shape->batch * shape->page_bytes;
    status = kvr_space_find(client->client, KVN_WORLD_SPACE, &client->space);
    if (status == KVR_OK) {
        status = kvr_buffer_create(client->client, bytes, &client->buffer);
    }
    if (status != KVR_OK) {
        return kvn_figure_fail(load->bench, status, "%s", kvr_error(client->client));
    }
    memset(client->buffer.base, 0x5a, bytes); /* no page faults later */
    for (uint32_t i = 0; i < shape->depth * shape->batch; i++) {
        client->slots[i / shape->batch].at[i % shape->batch] = (struct kvr_at){
            .buffer = client->buffer.id, .offset = i * shape->page_bytes};
    }
    return KV_OK;
}

kv_status_t kvn_load_open(
    struct kvn_bench_node *bench, struct kvn_world *world, unsigned node,
    const struct kvn_load_shape *shape, unsigned place, struct kvn_load **load_p)
{
    KV_ASSERT(shape->nr_clients <= KVN_LOAD_CLIENTS_MAX);
    KV_ASSERT(shape->depth <= KVN_LOAD_DEPTH_MAX);
    KV_ASSERT(shape->batch <= KVN_LOAD_BATCH_MAX);
    struct kvn_load *load = kv_calloc(1, sizeof(*load));
    kv_status_t status = KV_OK;
    if (load == NULL) {
        return kvn_figure_fail(bench, KV_ERR_NOMEM, "out of memory");
    }
    load->bench = bench;
    load->world = world;
    load->shape = *shape;
    load->place = place;
    for (unsigned i = 0; status == KV_OK && i < shape->nr_clients; i++) {
        status = client_open(load, node, &load->clients[i]);
    }
    if (status != KV_OK) {
        kvn_load_close(load);
        return status;
    }
    *load_p = load;
    return KV_OK;
}

void kvn_load_close(struct kvn_load *load)
{
    for (unsigned i = 0; load != NULL && i < load->shape.nr_clients; i++) {
        kvr_close(load->clients[i].client); /* and its buffer */
    }
    kv_free(load);
}
