/* Why a page had to be computed after all. Every miss has one reason, and the reasons
 * are counted: pager/ knows the local ones, node/core the others.
 * Threading: values only.
 */
#ifndef KV_MISS_H
#define KV_MISS_H

/* X(symbol, name in JSON and metrics, text) */
#define KV_MISS_MAP(X)                                                                 \
    X(KV_MISS_NOT_FOUND, "not_found", "no node was known to hold it")                  \
    X(KV_MISS_EVICTED, "evicted", "it was here, and was dropped for room")             \
    X(KV_MISS_COLD_HOME, "cold_home", "its home had not heard from all holders")       \
    X(KV_MISS_HOLDER_REFUSED, "holder_refused", "the holders gave no access")          \
    X(KV_MISS_PEER_LOST, "peer_lost", "the holder or the home could not be reached")   \
    X(KV_MISS_NOT_VERIFIED, "not_verified", "its bytes did not match their digest")    \
    X(KV_MISS_TOO_SLOW, "too_slow", "it did not arrive within the deadline")           \
    X(KV_MISS_QUOTA, "quota", "no frame within the tenant's ceiling or the tier")

enum kv_miss {
#define X(symbol, name, text) symbol,
    KV_MISS_MAP(X)
#undef X
    KV_NR_MISSES
};

#endif
