#include "pager/evict.h"

#include "base/assert.h"

#include <string.h>

static const struct kvp_evict_ops *const policies[] = {
    &kvp_evict_lru,
    &kvp_evict_fifo,
};

const struct kvp_evict_ops *kvp_evict_find(const char *name)
{
    KV_ASSERT(name != NULL);
    for (unsigned i = 0; i < KV_COUNT_OF(policies); i++) {
        if (strcmp(policies[i]->name, name) == 0) {
            return policies[i];
        }
    }
    return NULL;
}
