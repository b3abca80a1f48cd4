/* The heap of events, ordered by (time, sequence), and the hash of a run. */
#include "node/sim/world_priv.h"

#include <stdlib.h>

void *kvs_take(size_t bytes)
{
    void *p = calloc(1, bytes > 0 ? bytes : 1);
    KV_ASSERT(p != NULL); /* a test program: there is nothing to go on with */
    return p;
}

void *kvs_grow(void *array, size_t nr, size_t *cap_p, size_t size)
{
    if (nr < *cap_p) {
        return array;
    }
    size_t cap = *cap_p > 0 ? 2 * *cap_p : 64;
    void *bigger = realloc(array, cap * size);
    KV_ASSERT(bigger != NULL);
    *cap_p = cap;
    return bigger;
}

static bool earlier(const struct kvs_event *a, const struct kvs_event *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void heap_insert(kvs_world_t *world, const struct kvs_event *event)
{
    world->heap =
        kvs_grow(world->heap, world->nr_events, &world->heap_cap, sizeof(*world->heap));
    size_t i = world->nr_events++;
    while (i > 0 && earlier(event, &world->heap[(i - 1) / 2])) {
        world->heap[i] = world->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    world->heap[i] = *event;
}

void kvs_push(
    kvs_world_t *world, uint64_t at, enum kvs_event_kind kind, uint32_t node,
    uint64_t id, void *p)
{
    struct kvs_event event = {
        .at = at < world->now ? world->now : at,
        .seq = ++world->seq,
        .kind = kind,
        .node = node,
        .id = id,
        .p = p,
    };
    heap_insert(world, &event);
}

void kvs_push_to(
    kvs_world_t *world, uint64_t at, enum kvs_event_kind kind, uint32_t node,
    uint64_t id, void *p)
{
    struct kvs_event event = {
        .at = at < world->now ? world->now : at,
        .seq = ++world->seq,
        .kind = kind,
        .node = node,
        .life = world->nodes[node].life,
        .id = id,
        .p = p,
    };
    KV_ASSERT(kind > KVS_EV_TO_NODE);
    heap_insert(world, &event);
}

void kvs_push_again(kvs_world_t *world, const struct kvs_event *event, uint64_t at)
{
    struct kvs_event later = *event;
    later.at = at;
    heap_insert(world, &later);
}

struct kvs_event kvs_pop(kvs_world_t *world)
{
    KV_ASSERT(world->nr_events > 0);
    struct kvs_event top = world->heap[0];
    struct kvs_event last = world->heap[--world->nr_events];
    size_t i = 0;
    while (true) {
        size_t child = 2 * i + 1;
        if (child >= world->nr_events) {
            break;
        }
        if (child + 1 < world->nr_events
            && earlier(&world->heap[child + 1], &world->heap[child])) {
            child++;
        }
        if (!earlier(&world->heap[child], &last)) {
            break;
        }
        world->heap[i] = world->heap[child];
        i = child;
    }
    world->heap[i] = last;
    return top;
}

void kvs_hash_word(kvs_world_t *world, uint64_t word)
{
    world->hash = kv_mix64(world->hash * KV_GOLDEN64 + word);
}

void kvs_hash_bytes(kvs_world_t *world, const uint8_t *bytes, size_t len)
{
    uint64_t h = world->hash ^ len;
    /* Bytes, not words: equal on machines of either byte order. */
    for (size_t i = 0; i < len; i++) {
        h = (h ^ bytes[i]) * UINT64_C(0x100000001b3);
    }
    world->hash = kv_mix64(h);
}
