/* One status for every way in which an operation can end.
 *
 *   include/  pager/  cluster/  node/  ──►  kv_status_t
 *
 * Grouped by what the caller must replace to recover, not by what went wrong:
 * nothing, the page, the request, the link, the directory's answer, the domain.
 * A status never tears down more than its group names (docs/protocol.md).
 *
 * Threading: values and pure functions only.
 */
#ifndef KV_STATUS_H
#define KV_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(symbol, value, name on the wire and in logs, text for a person) */
#define KV_STATUS_MAP(X)                                                               \
    X(KV_OK, 0, "ok", "done")                                                          \
    X(KV_INPROGRESS, 1, "inprogress", "accepted, a completion will follow")            \
    X(KV_SEALING, 2, "sealing", "the digest is being computed")                        \
    X(KV_EXISTS, 3, "exists", "an equal copy is already here")                         \
    X(KV_TAKE, 4, "take", "the offered copy will be read")                             \
    /* nothing: try again after the next completion */                                 \
    X(KV_ERR_AGAIN, -1, "again", "no room at this moment")                             \
    /* the page: compute it */                                                         \
    X(KV_ERR_MISS, -10, "miss", "the page is not to be had")                           \
    X(KV_ERR_NOT_VERIFIED, -11, "not_verified", "the bytes do not match their digest") \
    X(KV_ERR_REFUSED, -12, "refused", "the node does not want this copy")              \
    /* the request: the same bytes can never succeed */                                \
    X(KV_ERR_INVALID, -20, "invalid", "a field is malformed or out of its bound")      \
    X(KV_ERR_TOO_LARGE, -21, "too_large", "more than can ever be held")                \
    X(KV_ERR_STALE, -22, "stale", "the handle's generation has moved on")              \
    X(KV_ERR_DENIED, -23, "denied", "the credential does not cover this tenant")       \
    X(KV_ERR_QUOTA, -24, "quota", "the tenant is at its ceiling")                      \
    X(KV_ERR_DEADLINE, -25, "deadline", "the deadline has passed")                     \
    X(KV_ERR_CANCELLED, -26, "cancelled", "the client is gone")                        \
    X(KV_ERR_BY_NAME, -27, "by_name", "no grant can name this copy: read it by name")  \
    /* the link */                                                                     \
    X(KV_ERR_LINK_LOST, -40, "link_lost", "the peer cannot be reached")                \
    X(KV_ERR_VERSION, -41, "version", "no protocol version in common")                 \
    X(KV_ERR_CLUSTER, -42, "cluster", "the peer belongs to another cluster")           \
    X(KV_ERR_DUPLICATE_NODE, -43, "duplicate_node", "that node id is alive elsewhere") \
    X(KV_ERR_VIEW_DIFFERS, -44, "view_differs", "another view at the same epoch")      \
    X(KV_ERR_TENANT_SECRET, -45, "tenant_secret", "the tenant's secrets differ")       \
    X(KV_ERR_PROTOCOL, -46, "protocol", "a message that this state does not allow")    \
    /* the directory's answer */                                                       \
    X(KV_ERR_STALE_EPOCH, -50, "stale_epoch", "the view's epoch is older than ours")   \
    X(KV_ERR_FULL, -51, "full", "the directory has no free entry")                     \
    X(KV_ERR_NOT_HOME, -52, "not_home", "this node is no home of the segment")         \
    /* the domain: the process, its device or its configuration */                     \
    X(KV_ERR_NOMEM, -60, "nomem", "out of memory")                                     \
    X(KV_ERR_CONFIG, -61, "config", "the configuration is wrong")                      \
    X(KV_ERR_IO, -62, "io", "the device failed")

typedef enum {
#define X(symbol, value, name, text) symbol = (value),
    KV_STATUS_MAP(X)
#undef X
} kv_status_t;

/* The detail of a refusal: which field, its limit, the value found. `field` points
 * to static text. One line for a person: kv_detail_format(). */
struct kv_detail {
    const char *field;
    uint64_t limit;
    uint64_t value;
};

/* "again"; "unknown" for a number that is none of ours (a newer peer's). */
const char *kv_status_name(kv_status_t status);
const char *kv_status_text(kv_status_t status);
/* False when `value` names no status of this version. */
bool kv_status_known(int value);
/* Index of `status` in KV_STATUS_MAP, for counters; KV_NR_STATUSES when unknown. */
unsigned kv_status_index(kv_status_t status);

enum {
    KV_NR_STATUSES = 0
#define X(symbol, value, name, text) +1
    KV_STATUS_MAP(X)
#undef X
};

/* Fills *detail (when not NULL) and returns `status`: `return kv_fail(d, ...)`. */
kv_status_t kv_fail(
    struct kv_detail *detail, kv_status_t status, const char *field, uint64_t limit,
    uint64_t value);

/* "invalid: a field is malformed or out of its bound: publish.items is 300, the limit
 * is 256" into out[cap]: truncated at cap, terminated when cap > 0. `detail` may be
 * NULL or empty. */
void kv_detail_format(
    const struct kv_detail *detail, kv_status_t status, char *out, size_t cap);

#endif
