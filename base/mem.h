/* Memory of the pure folders: taken at start, sized by the configuration.
 *
 * Threading: any thread. Ownership: the caller's until kv_free().
 * Test builds can make the n-th allocation fail (base/fault.h).
 */
#ifndef KV_MEM_H
#define KV_MEM_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed, 64-byte aligned; NULL when memory is out or count * size overflows.
 * count == 0 gives a valid empty allocation. */
void *kv_calloc(size_t count, size_t size);
void kv_free(void *p); /* NULL is fine */

/* Allocations not yet freed; tests assert that it returns to what it was. */
int64_t kv_mem_live(void);
/* Bytes of the allocations not yet freed. */
int64_t kv_mem_live_bytes(void);

#endif
