/* Looking in: the trace, the failure, and what a driver may ask of a world. */
#include "node/sim/world_priv.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------ trace */

static void record_text(kvs_world_t *world, const char *text)
{
    size_t len = strlen(text);
    if (world->recording_len + len + 1 > world->recording_cap) {
        world->recording_cap = 2 * world->recording_cap + len + 4096;
        world->recording = realloc(world->recording, world->recording_cap);
        KV_ASSERT(world->recording != NULL);
    }
    memcpy(world->recording + world->recording_len, text, len + 1);
    world->recording_len += len;
}

void kvs_say(kvs_world_t *world, bool message, const char *format, ...)
{
    bool record = world->record && (!message || world->record_messages);
    if (world->trace == NULL && !record) {
        return;
    }
    char text[512], line[560];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(
        line, sizeof(line), "[%6" PRIu64 ".%03" PRIu64 "] %s\n", world->now / 1000,
        world->now % 1000, text);
    if (world->trace != NULL) {
        fputs(line, world->trace);
    }
    if (record) {
        record_text(world, line);
    }
}

void kvs_trace(kvs_world_t *world, FILE *file)
{
    world->trace = file;
}

void kvs_record(kvs_world_t *world, bool messages)
{
    world->record = true;
    world->record_messages = messages;
    world->recording_len = 0;
    record_text(world, "");
}

const char *kvs_recorded(const kvs_world_t *world)
{
    return world->recording_len > 0 ? world->recording : "";
}

void kvs_fail(kvs_world_t *world, const char *invariant, const char *format, ...)
{
    if (world->failure.invariant != NULL) {
        return;
    }
    /* Without digests the question is whether a client gets a wrong byte or a last copy
     * is lost; the checkers that would see the cause earlier keep quiet. */
    if (world->config.digest_off && strcmp(invariant, "I1") != 0 &&
        strcmp(invariant, "I9") != 0 && strcmp(invariant, "L") != 0) {
        return;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(world->failure.what, sizeof(world->failure.what), format, args);
    va_end(args);
    world->failure.invariant = invariant;
    world->failure.now_us = world->now;
    kvs_say(world, false, "VIOLATION %s: %s", invariant, world->failure.what);
}

const struct kvs_failure *kvs_failure(const kvs_world_t *world)
{
    return &world->failure;
}

/* ------------------------------------------------------------------ looking in */

uint64_t kvs_now(const kvs_world_t *world)
{
    return world->now;
}

uint64_t kvs_steps(const kvs_world_t *world)
{
    return world->steps;
}

kvo_node_t *kvs_node(kvs_world_t *world, uint32_t node)
{
    return world->nodes[node].core;
}

uint64_t kvs_life(const kvs_world_t *world, uint32_t node)
{
    return world->nodes[node].life;
}

bool kvs_paused(const kvs_world_t *world, uint32_t node)
{
    return world->nodes[node].paused_until > world->now;
}

uint8_t *kvs_memory(kvs_world_t *world, uint32_t node, struct kvp_ref ref)
{
    struct kvs_node *n = &world->nodes[node];
    if (n->core == NULL || ref.frame >= n->nr_frames) {
        return NULL;
    }
    struct kvp_info info;
    kvp_frame_at(kvo_pager(n->core), ref.frame, &info);
    return kvs_mem_frame(n->mem, info.pool, info.pool_frame);
}

bool kvs_linked(kvs_world_t *world)
{
    for (uint32_t a = 0; a < world->config.nr_nodes; a++) {
        const struct kvs_node *node = &world->nodes[a];
        if (node->core == NULL) {
            continue;
        }
        if (kvc_dir_cold(kvo_directory(node->core), kvs_node_now(world, a))) {
            return false;
        }
        for (uint32_t b = 0; b < world->config.nr_nodes; b++) {
            if (a != b && world->nodes[b].core != NULL && !kvo_link_up(node->core, b)) {
                return false;
            }
        }
    }
    return true;
}

const struct kvs_config *kvs_config(const kvs_world_t *world)
{
    return &world->config;
}

const struct kvc_view *kvs_view(const kvs_world_t *world)
{
    return &world->view;
}

const struct kvs_stats *kvs_stats(const kvs_world_t *world)
{
    return &world->stats;
}

uint64_t kvs_hash(const kvs_world_t *world)
{
    return world->hash;
}
