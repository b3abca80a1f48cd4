/* What every transport checks alike: figures against their bounds, memory against the
 * regions, an owner's words.
 *
 * Threading: pure. Ownership: a port has a copy of its regions' table; their memory is
 * the caller's, nothing else is kept. Errors: of a config KV_ERR_CONFIG with the field,
 * its limit and the value; of a call KV_ERR_INVALID.
 */
#ifndef KVT_CHECK_H
#define KVT_CHECK_H

#include "base/assert.h"
#include "transport/transport.h"

struct kvt_bound {
    const char *field;
    uint64_t value, min, max;
};

static inline kv_status_t
kvt_check_bounds(const struct kvt_bound *bounds, unsigned nr, struct kv_detail *detail)
{
    for (unsigned i = 0; i < nr; i++) {
        if (bounds[i].value < bounds[i].min || bounds[i].value > bounds[i].max) {
            return kv_fail(
                detail, KV_ERR_CONFIG, bounds[i].field,
                bounds[i].value < bounds[i].min ? bounds[i].min : bounds[i].max,
                bounds[i].value);
        }
    }
    return KV_OK;
}

/* The figures that every port has. */
static inline kv_status_t
kvt_check_config(const struct kvt_config *config, struct kv_detail *detail)
{
    const struct kvt_bound bounds[] = {
        {"transport.regions", config->nr_regions, 0, KVT_REGIONS_MAX},
        {"transport.ops", config->nr_ops, 1, KVT_OPS_MAX},
        {"transport.conns", config->nr_conns, 1, KVT_CONNS_MAX},
        {"transport.threads", config->nr_threads, 1, KVT_THREADS_MAX},
        {"transport.hello", config->hello_us, 1, UINT32_MAX},
    };

    return kvt_check_bounds(bounds, KV_COUNT_OF(bounds), detail);
}

/* What an owner may say of one page. Other words are about links and devices, which are
 * ours to judge, or a newer owner's: that page is not to be had. */
static inline kv_status_t kvt_check_word(int32_t status)
{
    switch (status) {
    case KV_OK:
    case KV_ERR_AGAIN:
    case KV_ERR_MISS:
    case KV_ERR_REFUSED:
    case KV_ERR_STALE:
    case KV_ERR_DENIED:
    case KV_ERR_QUOTA:
        return (kv_status_t)status;
    default:
        return KV_ERR_MISS;
    }
}

/* Does a DATA fit the page behind it, and that its part? A page comes with OK alone.
 * Nothing of one that does not fit is believed, and not a byte of it lands. */
static inline bool
kvt_check_fits(const struct kv_msg_data *data, uint32_t body_len, uint32_t room)
{
    return data->len == body_len && data->len <= room
           && (data->len == 0 || kvt_check_word(data->status) == KV_OK);
}

/* ---- memory ---------------------------------------------------------------------- */

/* A port's memory: nothing outside of it is read or written for a caller. */
struct kvt_regions {
    struct kvt_region table[KVT_REGIONS_MAX];
    uint32_t nr;
};

/* Of a config that kvt_check_config() has passed. */
static inline void
kvt_regions_take(struct kvt_regions *regions, const struct kvt_config *config)
{
    KV_ASSERT(config->nr_regions <= KVT_REGIONS_MAX);
    regions->nr = config->nr_regions;
    for (uint32_t i = 0; i < config->nr_regions; i++) {
        regions->table[i] = config->regions[i];
    }
}

/* Does at[0 … len) lie in one of the regions? */
static inline bool
kvt_check_inside(const struct kvt_regions *regions, const uint8_t *at, uint32_t len)
{
    const uintptr_t from = (uintptr_t)at;

    for (uint32_t i = 0; i < regions->nr; i++) {
        const uintptr_t base = (uintptr_t)regions->table[i].base;
        const uint64_t bytes = regions->table[i].bytes;
        if (from >= base && from - base <= bytes && len <= bytes - (from - base)) {
            return true;
        }
    }
    return false;
}

/* ---- calls ----------------------------------------------------------------------- */

/* Of kvt_open() and kvt_offer(). */
static inline bool kvt_check_hello(uint32_t len)
{
    return len > 0 && len <= KVT_HELLO_BYTES_MAX;
}

/* Of kvt_read(). */
static inline kv_status_t kvt_check_read(
    const struct kvt_regions *regions, uint32_t len, const struct kvt_part *parts,
    uint32_t nr_parts)
{
    if (len == 0 || len > KVT_REQUEST_BYTES_MAX || nr_parts == 0
        || nr_parts > KV_MSG_READ_MAX) {
        return KV_ERR_INVALID;
    }
    for (uint32_t i = 0; i < nr_parts; i++) {
        if (!kvt_check_inside(regions, parts[i].to, parts[i].room)) {
            return KV_ERR_INVALID;
        }
    }
    return KV_OK;
}

/* Of kvt_send(). */
static inline kv_status_t kvt_check_send(
    const struct kvt_regions *regions, uint32_t head_len, const uint8_t *from,
    uint32_t len)
{
    if (head_len == 0 || head_len > KVT_HEAD_BYTES_MAX
        || (len > 0 && !kvt_check_inside(regions, from, len))) {
        return KV_ERR_INVALID;
    }
    return KV_OK;
}

#endif
