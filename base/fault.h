/* Switches of test builds (KV_TEST_HOOKS): fallible calls that fail on demand, and
 * bugs that we plant to see our own checks find them. Release builds hold neither:
 * both macros are then the constant false.
 *
 * Threading: one thread sets and tests (the loop's, or the test's).
 */
#ifndef KV_FAULT_H
#define KV_FAULT_H

#include <stdbool.h>
#include <stdint.h>

/* Every planted bug: X(symbol, name of --plant, what it breaks). Each must be found,
 * see docs/planted-bugs.md. */
#define KV_PLANT_MAP(X)                                                                \
    X(KV_PLANT_REUSE_ON_TIME, "reuse-on-time",                                         \
      "an expired grant's frame is reused on time alone")                              \
    X(KV_PLANT_NO_GENERATION, "no-generation",                                         \
      "a frame's generation, and its orders', begin anew when it is reused")           \
    X(KV_PLANT_VISIBLE_EARLY, "visible-early",                                         \
      "a put's page is found before its bytes are there")                              \
    X(KV_PLANT_LATE_COMPLETION, "late-completion",                                     \
      "a late completion is applied to the operation that has its slot now")           \
    X(KV_PLANT_OLD_INCARNATION, "old-incarnation",                                     \
      "messages and reads of a former incarnation are accepted")                       \
    X(KV_PLANT_DEDUP_EARLY, "dedup-early",                                             \
      "dedup frees the engine's frame before the engine confirmed")                    \
    X(KV_PLANT_OPAQUE_NO_TENANT, "opaque-no-tenant",                                   \
      "opaque keys and the index leave the tenant out")                                \
    X(KV_PLANT_HAVE_TO_BOTH, "have-to-both",                                           \
      "a home tells HAVE to both holders of a copy")                                   \
    X(KV_PLANT_SKIP_DIGEST, "skip-digest", "the batch path does not compare digests")  \
    X(KV_PLANT_LEAK_ON_MISS, "leak-on-miss",                                           \
      "the miss path of a fetch keeps a reference")                                    \
    X(KV_PLANT_COLD_BELIEVED, "cold-believed",                                         \
      "the empty answer of a cold home is believed")                                   \
    X(KV_PLANT_EXPIRED_FREED, "expired-freed",                                         \
      "an expired grant is dropped and its frame drained without a fence")

enum kv_plant {
#define X(symbol, name, text) symbol,
    KV_PLANT_MAP(X)
#undef X
        KV_NR_PLANTS
};

#ifdef KV_TEST_HOOKS
/* Turn one planted bug on or off. */
void kv_plant_set(enum kv_plant plant, bool on);
bool kv_plant_on(enum kv_plant plant);
#define KV_PLANTED(plant) kv_plant_on(plant)

/* Fail the n-th fallible call from now on (1 = the next); 0 = never. */
void kv_fault_after(uint64_t n);
/* Asked by each fallible call; counts down. */
bool kv_fault_now(void);
#define KV_FAULT() kv_fault_now()
#else
#define KV_PLANTED(plant) false
#define KV_FAULT() false
#endif

/* "reuse-on-time"; NULL past the end. Index of `name`, or KV_NR_PLANTS. */
const char *kv_plant_name(enum kv_plant plant);
const char *kv_plant_text(enum kv_plant plant);
enum kv_plant kv_plant_find(const char *name);

#endif
