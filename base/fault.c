#include "base/fault.h"

#include "base/assert.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    const char *text;
} plants[KV_NR_PLANTS] = {
#define X(symbol, name, text) [symbol] = {name, text},
    KV_PLANT_MAP(X)
#undef X
};

const char *kv_plant_name(enum kv_plant plant)
{
    return plant < KV_NR_PLANTS ? plants[plant].name : NULL;
}

const char *kv_plant_text(enum kv_plant plant)
{
    return plant < KV_NR_PLANTS ? plants[plant].text : NULL;
}

enum kv_plant kv_plant_find(const char *name)
{
    unsigned i = 0;
    while (i < KV_NR_PLANTS && strcmp(plants[i].name, name) != 0) {
        i++;
    }
    return (enum kv_plant)i;
}

#ifdef KV_TEST_HOOKS

/* Atomic although one thread sets them: any thread may allocate or derive a key, and
 * so read them, while the test's thread sets the next one. */
#include <stdatomic.h>

static atomic_bool planted[KV_NR_PLANTS];
static atomic_uint_fast64_t countdown;

void kv_plant_set(enum kv_plant plant, bool on)
{
    KV_ASSERT(plant < KV_NR_PLANTS);
    atomic_store_explicit(&planted[plant], on, memory_order_relaxed);
}

bool kv_plant_on(enum kv_plant plant)
{
    KV_ASSERT(plant < KV_NR_PLANTS);
    return atomic_load_explicit(&planted[plant], memory_order_relaxed);
}

void kv_fault_after(uint64_t n)
{
    atomic_store_explicit(&countdown, n, memory_order_relaxed);
}

bool kv_fault_now(void)
{
    uint_fast64_t left = atomic_load_explicit(&countdown, memory_order_relaxed);
    while (left != 0) {
        if (atomic_compare_exchange_weak_explicit(
                &countdown, &left, left - 1, memory_order_relaxed,
                memory_order_relaxed)) {
            return left == 1;
        }
    }
    return false;
}

#endif
