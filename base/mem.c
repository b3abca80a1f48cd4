#include "base/mem.h"

#include "base/assert.h"
#include "base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { MEM_ALIGN = 64 };

/* Found in freed or foreign memory it would be a coincidence of 2^-64. */
static const uint64_t mem_magic = UINT64_C(0x6b76726d656d6f6b);

/*  raw (calloc)          block, 64-byte aligned
 *  │  0 to 48 bytes      │
 *  ├─────────────────────┼────────────────────┤
 *  │  gap  │ mem_header  │ count * size bytes  │
 */
struct mem_header {
    _Alignas(MEM_ALIGN) void *raw;
    size_t bytes;
    uint64_t magic;
};
_Static_assert(sizeof(struct mem_header) == MEM_ALIGN, "keeps the block aligned");

static atomic_int_fast64_t live;
static atomic_int_fast64_t live_bytes;

/* calloc and align by hand, rather than aligned_alloc and memset: calloc takes large
 * tables from the kernel already zero, so what a table never uses costs nothing. */
void *kv_calloc(size_t count, size_t size)
{
    const size_t extra = sizeof(struct mem_header) + MEM_ALIGN;
    size_t bytes;
    size_t total;
    if (KV_FAULT() || __builtin_mul_overflow(count, size, &bytes)
        || __builtin_add_overflow(bytes, extra, &total) || total > PTRDIFF_MAX) {
        return NULL;
    }
    char *raw = calloc(1, total);
    if (raw == NULL) {
        return NULL;
    }
    size_t gap = (MEM_ALIGN - (uintptr_t)raw % MEM_ALIGN) % MEM_ALIGN;
    struct mem_header *header = (struct mem_header *)(void *)(raw + gap);
    header->raw = raw;
    header->bytes = bytes;
    header->magic = mem_magic;
    atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_bytes, (int64_t)bytes, memory_order_relaxed);
    return header + 1;
}

void kv_free(void *p)
{
    if (p == NULL) {
        return;
    }
    struct mem_header *header = (struct mem_header *)p - 1;
    KV_ASSERT(header->magic == mem_magic);
    header->magic = 0;
    atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(
        &live_bytes, (int64_t)header->bytes, memory_order_relaxed);
    free(header->raw);
}

int64_t kv_mem_live(void)
{
    return atomic_load_explicit(&live, memory_order_relaxed);
}

int64_t kv_mem_live_bytes(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}
