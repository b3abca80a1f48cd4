#include "transport/transport.h"

#include <string.h>

/* In the order in which a node prefers them; tcp is always there, and last. */
static const struct kvt_ops *const tables[] = {
    &kvt_loop,
    &kvt_shm,
    &kvt_tcp,
};
enum { NR_TABLES = sizeof(tables) / sizeof(tables[0]) };

const struct kvt_ops *kvt_ops_at(unsigned i)
{
    return i < NR_TABLES ? tables[i] : NULL;
}

const struct kvt_ops *kvt_ops_find(const char *name)
{
    for (unsigned i = 0; i < NR_TABLES; i++) {
        if (strcmp(tables[i]->name, name) == 0) {
            return tables[i];
        }
    }
    return NULL;
}
