/* Memory of clients: mapped when it cannot be taken away, until nobody needs it. */
#define _GNU_SOURCE
#include "node/daemon/local_priv.h"

#include <errno.h>
#include <sys/mman.h>

#define OFFSET_MASK ((UINT64_C(1) << KVN_OFFSET_BITS) - 1)

/* ------------------------------------------------------------------ mappings */

kv_status_t kvn_maps_init(kvn_local_t *local)
{
    /* Twice what the clients can register: as many again may be held for dead ones. */
    local->nr_maps = 2 * local->nr_clients * KVN_LOCAL_BUFFERS_MAX;
    local->maps = kv_calloc(local->nr_maps, sizeof(*local->maps));
    if (local->maps == NULL) {
        return KV_ERR_NOMEM;
    }
    for (uint32_t i = 0; i < local->nr_maps; i++) {
        local->maps[i].next_free = i + 1 < local->nr_maps ? i + 1 : LOCAL_NONE;
    }
    local->free_map = 0;
    return KV_OK;
}

/* (2) */
static void map_settle(kvn_local_t *local, uint32_t index)
{
    struct local_map *map = &local->maps[index];
    if (map->kept || map->holds > 0) {
        return;
    }
    KV_ASSERT(munmap(map->base, map->bytes) == 0);
    map->base = NULL;
    map->gen++;
    map->next_free = local->free_map;
    local->free_map = index;
    KV_ASSERT(local->counts.mapped > 0);
    local->counts.mapped--;
}

static kv_status_t map_take(kvn_local_t *local, int fd, uint64_t bytes, uint32_t *map_p)
{
    uint32_t index = local->free_map;
    if (index == LOCAL_NONE) {
        return KV_ERR_AGAIN;
    }
    void *base = KV_FAULT()
                     ? (errno = ENOMEM, MAP_FAILED)
                     : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        /* A descriptor without the right to write, or sealed against it. */
        return errno == EACCES || errno == EPERM ? KV_ERR_INVALID : KV_ERR_NOMEM;
    }
    (void)madvise(
        base, bytes, MADV_DONTDUMP); /* tenants' data has no place in a core */
    struct local_map *map = &local->maps[index];
    KV_ASSERT(map->base == NULL && map->holds == 0 && !map->kept);
    local->free_map = map->next_free;
    map->base = base;
    map->bytes = bytes;
    map->kept = true;
    local->counts.mapped++;
    *map_p = index;
    return KV_OK;
}

uint8_t *kvn_local_hold(
    kvn_local_t *local, uint32_t index, uint64_t buffer, uint32_t len, uint64_t *hold_p)
{
    uint64_t slot = buffer >> KVN_OFFSET_BITS;
    uint64_t offset = buffer & OFFSET_MASK;
    struct local_conn *conn = index < local->nr_clients ? local->by_index[index] : NULL;
    if (conn == NULL || slot >= KVN_LOCAL_BUFFERS_MAX
        || conn->buffers[slot].map == LOCAL_NONE) {
        return NULL;
    }
    uint32_t number = conn->buffers[slot].map;
    struct local_map *map = &local->maps[number];
    if (offset > map->bytes || len > map->bytes - offset) {
        return NULL;
    }
    map->holds++;
    local->nr_holds++;
    *hold_p = (uint64_t)map->gen << 32 | number;
    return map->base + offset;
}

void kvn_local_release(kvn_local_t *local, uint64_t hold)
{
    uint32_t index = (uint32_t)hold;
    KV_ASSERT(index < local->nr_maps);
    struct local_map *map = &local->maps[index];
    KV_ASSERT(map->gen == (uint32_t)(hold >> 32) && map->holds > 0);
    map->holds--;
    local->nr_holds--;
    map_settle(local, index);
    if (local->closing && local->nr_holds == 0) {
        kvn_local_wake(local); /* the last thing that close() waited for */
    }
}

/* ------------------------------------------------------------------ buffers */

static void slot_settle(struct local_conn *conn, struct local_buffer *buffer)
{
    if (buffer->registered || buffer->users > 0 || buffer->map == LOCAL_NONE) {
        return;
    }
    kvn_local_t *local = conn->local;
    uint32_t map = buffer->map;
    conn->buffer_bytes -= local->maps[map].bytes;
    local->maps[map].kept = false;
    buffer->map = LOCAL_NONE;
    buffer->gen = (uint16_t)((buffer->gen + 1) & ((1 << (16 - LOCAL_SLOT_BITS)) - 1));
    map_settle(local, map);
}

kv_status_t kvn_buffer_add(
    struct local_conn *conn, int fd, uint64_t bytes, uint32_t *id_p,
    struct kv_detail *detail)
{
    kvn_local_t *local = conn->local;
    kv_status_t status = kvn_memfd_check(fd, bytes, detail);
    if (status != KV_OK) {
        return status;
    }
    if (bytes > local->buffer_bytes - conn->buffer_bytes) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "buffer.bytes",
            local->buffer_bytes - conn->buffer_bytes, bytes);
    }
    uint32_t slot = 0;
    while (slot < KVN_LOCAL_BUFFERS_MAX && conn->buffers[slot].map != LOCAL_NONE) {
        slot++;
    }
    if (slot == KVN_LOCAL_BUFFERS_MAX) {
        return kv_fail(detail, KV_ERR_AGAIN, "client.buffers", slot, slot + 1);
    }
    struct local_buffer *buffer = &conn->buffers[slot];
    status = map_take(local, fd, bytes, &buffer->map);
    if (status != KV_OK) {
        return kv_fail(detail, status, "buffer.mmap", bytes, bytes);
    }
    KV_ASSERT(buffer->users == 0 && !buffer->registered);
    buffer->registered = true;
    conn->buffer_bytes += bytes;
    *id_p = (uint32_t)buffer->gen << LOCAL_SLOT_BITS | slot;
    return KV_OK;
}

static struct local_buffer *buffer_find(struct local_conn *conn, uint64_t id)
{
    struct local_buffer *buffer = &conn->buffers[id & (KVN_LOCAL_BUFFERS_MAX - 1)];
    bool known = buffer->registered && id >> LOCAL_SLOT_BITS == buffer->gen;
    return known ? buffer : NULL;
}

kv_status_t kvn_buffer_remove(struct local_conn *conn, uint32_t id)
{
    struct local_buffer *buffer = buffer_find(conn, id);
    if (buffer == NULL) {
        return KV_ERR_STALE;
    }
    buffer->registered = false;
    slot_settle(conn, buffer);
    return KV_OK;
}

void kvn_buffers_drop(struct local_conn *conn)
{
    for (uint32_t i = 0; i < KVN_LOCAL_BUFFERS_MAX; i++) {
        conn->buffers[i].registered = false;
        conn->buffers[i].users = 0;
        slot_settle(conn, &conn->buffers[i]);
    }
    KV_ASSERT(conn->buffer_bytes == 0);
}

kv_status_t kvn_buffer_addresses(
    struct local_conn *conn, uint64_t *addresses, uint32_t n, uint32_t bytes,
    uint64_t *mask_p, struct kv_detail *detail)
{
    uint64_t mask = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t id = addresses[i] >> KVN_OFFSET_BITS;
        uint64_t offset = addresses[i] & OFFSET_MASK;
        const struct local_buffer *buffer = buffer_find(conn, id);
        if (buffer == NULL) {
            return kv_fail(
                detail, KV_ERR_STALE, "request.buffer", KVN_LOCAL_BUFFERS_MAX, id);
        }
        uint64_t there = conn->local->maps[buffer->map].bytes;
        if (there < bytes || offset > there - bytes) {
            return kv_fail(
                detail, KV_ERR_INVALID, "request.offset",
                there < bytes ? 0 : there - bytes, offset);
        }
        uint64_t slot = id & (KVN_LOCAL_BUFFERS_MAX - 1);
        addresses[i] = slot << KVN_OFFSET_BITS | offset;
        mask |= UINT64_C(1) << slot;
    }
    *mask_p = mask;
    return KV_OK;
}

void kvn_buffers_use(struct local_conn *conn, uint64_t mask)
{
    for (uint32_t i = 0; i < KVN_LOCAL_BUFFERS_MAX; i++) {
        conn->buffers[i].users += (uint32_t)(mask >> i & 1);
    }
}

void kvn_buffers_unuse(struct local_conn *conn, uint64_t mask)
{
    for (uint32_t i = 0; i < KVN_LOCAL_BUFFERS_MAX; i++) {
        if ((mask >> i & 1) != 0) {
            KV_ASSERT(conn->buffers[i].users > 0);
            conn->buffers[i].users--;
            slot_settle(conn, &conn->buffers[i]);
        }
    }
}
