#define _GNU_SOURCE /* memfd_create, F_ADD_SEALS */

#include "node/daemon/memory.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/room.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* Headers of older systems lack them; older kernels answer EINVAL. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* Linux 5.17 */
#define PR_SET_VMA_ANON_NAME 0
#endif

_Static_assert((int)KVP_POOLS_MAX <= (int)KVT_REGIONS_MAX, "an arena a region");

/* Arenas begin on a huge page's boundary, or the kernel cannot use one for their first
 * and last bytes; and a peer's mapping, of the same file, lies alike.
 *
 * What huge pages are worth here (AMD EPYC, Linux 6.18, 2 GiB, one core, 2026-11):
 * populating takes 1.5 to 4.6 s by 4 KiB and 0.18 s by huge pages; copies of pages at
 * random places read 7.8 against 9.3 GB/s at 4 KiB each, 14.3 against 15.6 at 16 KiB,
 * alike at 64 KiB and more. Private memory gets them by advice almost everywhere. A
 * memfd gets them only where /sys/kernel/mm/transparent_hugepage/shmem_enabled is
 * `advise` (it is `never` by default): that is why served arenas are no memfds.
 * MADV_COLLAPSE gives a populated memfd huge pages whatever that file says, at 1.3 s a
 * GiB: too dear for what is left of the gain. */
enum { HUGE_BYTES = 2 << 20 };

enum {
    NAME_BYTES = 32,
    /* A signal may cut populating short; it goes on from where it was. */
    POPULATE_RETRIES_MAX = 1000,
};

struct arena {
    uint8_t *base;
    uint64_t bytes; /* of frames; the mapping is rounded up to whole pages */
    uint32_t frame_bytes, nr_frames;
    enum kvn_memory_mode mode;
    int fd; /* -1: SERVED */
};

struct kvn_memory {
    uint32_t nr;
    struct arena arenas[KVP_POOLS_MAX];
};

/* What a pool's creation works on, and where its complaint goes. */
struct build {
    const struct kvp_pool_config *pool;
    uint32_t number;
    enum kvn_memory_mode mode;
    bool populate;
    uint64_t bytes; /* rounded up to whole pages */
    char name[NAME_BYTES];
    char *line;
    size_t cap;
};

/* ---- complaints ---------------------------------------------------------------- */

/* "pool 1 (host, 4096 frames of 262144 bytes) wants 1073741824 bytes: <why>" */
__attribute__((format(printf, 3, 4))) static kv_status_t
complain(const struct build *build, kv_status_t status, const char *format, ...)
{
    char why[KVN_MEMORY_LINE_BYTES - 128]; /* the rest is for the pool */
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    const struct kvp_pool_config *pool = build->pool;
    if (build->cap > 0) {
        const size_t cap =
            build->cap < KVN_MEMORY_LINE_BYTES ? build->cap : KVN_MEMORY_LINE_BYTES;
        snprintf(
            build->line, cap,
            "pool %u (%s, %u frames of %u bytes) wants %" PRIu64 " bytes: %s",
            build->number, pool->tier == KVP_DEVICE ? "device" : "host",
            pool->nr_frames, pool->frame_bytes, build->bytes, why);
    }
    return status;
}

/* The rlimit that a mapping of these bytes can have met, by its errno. (RLIMIT_DATA is
 * not asked about: the arena goes where its address space is already counted.) */
static const char *mapping_limit(int error)
{
    struct rlimit limit;
    if (error == EAGAIN) {
        return "RLIMIT_MEMLOCK (ulimit -l; systemd: LimitMEMLOCK=): the process locks "
               "its memory";
    }
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        return "RLIMIT_AS (ulimit -v; systemd: LimitAS=): raise it";
    }
    return "address space or memory: make the pool smaller";
}

static kv_status_t complain_errno(const struct build *build, const char *what)
{
    const kv_status_t status =
        errno == ENOMEM || errno == ENOSPC ? KV_ERR_NOMEM : KV_ERR_IO;
    return complain(build, status, "%s: %s", what, strerror(errno));
}

/* ---- one arena ----------------------------------------------------------------- */

/* Address space for the arena, aligned, so that the mapping itself can go there with
 * MAP_FIXED. What it reserves too much is given back. */
static void *reserve(uint64_t bytes)
{
    const size_t extra = bytes >= HUGE_BYTES ? HUGE_BYTES : 0;
    if (KV_FAULT()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    uint8_t *raw = mmap(
        NULL, bytes + extra, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
        0);
    if (raw == MAP_FAILED || extra == 0) {
        return raw;
    }
    const size_t before = (HUGE_BYTES - (uintptr_t)raw % HUGE_BYTES) % HUGE_BYTES;
    if (before > 0) {
        munmap(raw, before);
    }
    if (extra > before) {
        munmap(raw + before + bytes, extra - before);
    }
    return raw + before;
}

static kv_status_t map(const struct build *build, struct arena *arena)
{
    const bool shared = arena->fd >= 0;
    void *at = reserve(build->bytes);
    void *base = MAP_FAILED;
    if (at != MAP_FAILED) {
        if (KV_FAULT()) {
            errno = ENOMEM;
        } else {
            base = mmap(
                at, build->bytes, PROT_READ | PROT_WRITE,
                MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
                arena->fd, 0);
        }
    }
    if (base == MAP_FAILED) {
        const int error = errno;
        if (at != MAP_FAILED) {
            munmap(at, build->bytes);
        }
        return complain(
            build, error == ENOMEM || error == EAGAIN ? KV_ERR_NOMEM : KV_ERR_IO,
            "mapping it: %s; in the way: %s", strerror(error), mapping_limit(error));
    }
    arena->base = base;
    return KV_OK;
}

/* Advice is best effort, except for the two that keep pages of tenants where they
 * belong: those every kernel that we run on has. */
static kv_status_t advise(const struct build *build, const struct arena *arena)
{
    void *base = arena->base;
    if (KV_FAULT() || madvise(base, build->bytes, MADV_DONTFORK) != 0) {
        return complain_errno(build, "keeping it from children (MADV_DONTFORK)");
    }
    if (KV_FAULT() || madvise(base, build->bytes, MADV_DONTDUMP) != 0) {
        return complain_errno(build, "keeping it out of cores (MADV_DONTDUMP)");
    }
    (void)madvise(base, build->bytes, MADV_HUGEPAGE);
    if (arena->fd < 0) {
        (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, base, build->bytes, build->name);
    }
    return KV_OK;
}

/* For kernels before 5.14. fallocate() answers ENOSPC where a touch would be killed by
 * SIGBUS. */
static kv_status_t touch(const struct build *build, const struct arena *arena)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (arena->fd >= 0
        && (KV_FAULT() || fallocate(arena->fd, 0, 0, (off_t)build->bytes) != 0)) {
        return complain_errno(build, "allocating it");
    }
    for (uint64_t at = 0; at < build->bytes; at += page) {
        *(volatile uint8_t *)(arena->base + at) = 0;
    }
    return KV_OK;
}

static kv_status_t populate(const struct build *build, const struct arena *arena)
{
    int ret = -1;
    errno = EINTR;
    for (unsigned i = 0; i < POPULATE_RETRIES_MAX && ret != 0 && errno == EINTR; i++) {
        errno = EINVAL; /* a test's failing call stands for an old kernel */
        ret = KV_FAULT() ? -1 : madvise(arena->base, build->bytes, MADV_POPULATE_WRITE);
    }
    if (ret == 0) {
        return KV_OK;
    }
    return errno == EINVAL ? touch(build, arena)
                           : complain_errno(build, "populating it");
}

static kv_status_t seal(const struct build *build, int fd, int seals, const char *what)
{
    if (KV_FAULT()) {
        errno = EINVAL;
    } else if (fcntl(fd, F_ADD_SEALS, seals) == 0) {
        return KV_OK;
    }
    return complain_errno(build, what);
}

/* A file past RLIMIT_FSIZE would not only fail: SIGXFSZ ends the process. */
static kv_status_t file_open(const struct build *build, struct arena *arena)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < build->bytes) {
        return complain(
            build, KV_ERR_NOMEM,
            "RLIMIT_FSIZE (ulimit -f; systemd: LimitFSIZE=) is %" PRIu64 ": raise it",
            (uint64_t)limit.rlim_cur);
    }
    arena->fd =
        KV_FAULT() ? -1 : memfd_create(build->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (arena->fd < 0) {
        return complain_errno(build, "memfd_create");
    }
    if (KV_FAULT() || ftruncate(arena->fd, (off_t)build->bytes) != 0) {
        const kv_status_t status = complain_errno(build, "giving its memfd a size");
        close(arena->fd);
        arena->fd = -1;
        return status;
    }
    return KV_OK;
}

static void arena_close(struct arena *arena, uint64_t bytes)
{
    if (arena->base != NULL) {
        munmap(arena->base, bytes);
    }
    if (arena->fd >= 0) {
        close(arena->fd);
    }
}

static kv_status_t arena_fill(const struct build *build, struct arena *arena)
{
    kv_status_t status = KV_OK;
    if (build->mode != KVN_MEMORY_SERVED) {
        status = file_open(build, arena);
    }
    if (status == KV_OK && arena->fd >= 0) {
        status =
            seal(build, arena->fd, F_SEAL_SHRINK | F_SEAL_GROW, "sealing its size");
    }
    if (status == KV_OK) {
        status = map(build, arena);
    }
    if (status == KV_OK) {
        status = advise(build, arena);
    }
    if (status == KV_OK && build->populate) {
        status = populate(build, arena);
    }
    /* After our own mapping, which stays writable; and then no seal more, so that who
     * has the descriptor cannot add one that hurts us. */
    if (status == KV_OK && build->mode == KVN_MEMORY_READ) {
        status = seal(
            build, arena->fd, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL,
            "sealing it against writers (F_SEAL_FUTURE_WRITE, Linux 5.1)");
    } else if (status == KV_OK && build->mode == KVN_MEMORY_FILL) {
        status = seal(build, arena->fd, F_SEAL_SEAL, "sealing it against more seals");
    }
    return status;
}

static kv_status_t arena_open(const struct build *build, struct arena *arena)
{
    *arena = (struct arena){
        .bytes = (uint64_t)build->pool->frame_bytes * build->pool->nr_frames,
        .frame_bytes = build->pool->frame_bytes,
        .nr_frames = build->pool->nr_frames,
        .mode = build->mode,
        .fd = -1,
    };
    const kv_status_t status = arena_fill(build, arena);
    if (status != KV_OK) {
        arena_close(arena, build->bytes);
    }
    return status;
}

/* ---- all of them --------------------------------------------------------------- */

static uint64_t whole_pages(uint64_t bytes)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static struct build build_of(
    const struct kvp_config *config, uint32_t number, enum kvn_memory_mode mode,
    bool populate_now)
{
    const struct kvp_pool_config *pool = &config->pools[number];
    struct build build = {
        .pool = pool, .number = number, .mode = mode, .populate = populate_now};
    KV_ASSERT(KV_IMPLIES(mode == KVN_MEMORY_FILL, pool->domain != 0));
    build.bytes = whole_pages((uint64_t)pool->frame_bytes * pool->nr_frames);
    snprintf(build.name, sizeof(build.name), "kvrail-pool-%u", number);
    return build;
}

static kv_status_t
check_room(const struct build *build, const struct kvn_room *room, uint64_t *wanted)
{
    const struct kvn_room_bound *bound = build->populate ? &room->now : &room->ever;
    if (build->bytes == 0) {
        return complain(
            build, KV_ERR_CONFIG, "a pool has frames, and a frame has bytes");
    }
    const uint64_t left = bound->bytes - *wanted;
    if (build->bytes > left) {
        return complain(
            build, KV_ERR_NOMEM,
            "%" PRIu64 " are left beside the pools before it; in the way: %s; make the "
            "pools smaller or raise that limit",
            left, bound->name);
    }
    *wanted += build->bytes;
    return KV_OK;
}

void kvn_memory_destroy(kvn_memory_t *memory)
{
    if (memory == NULL) {
        return;
    }
    while (memory->nr > 0) {
        struct arena *arena = &memory->arenas[--memory->nr];
        arena_close(arena, whole_pages(arena->bytes));
    }
    kv_free(memory);
}

kv_status_t kvn_memory_create(
    const struct kvp_config *config, const enum kvn_memory_mode *modes,
    bool populate_now, kvn_memory_t **memory_p, char *line, size_t cap)
{
    kv_status_t status = KV_OK;
    struct kvn_room room;
    uint64_t wanted = 0;
    KV_ASSERT(config->nr_pools > 0 && config->nr_pools <= KVP_POOLS_MAX);
    kvn_memory_t *memory = kv_calloc(1, sizeof(*memory));

    if (memory == NULL) {
        snprintf(line, cap, "out of memory: %zu bytes", sizeof(*memory));
        return KV_ERR_NOMEM;
    }
    kvn_room_read("", &room);
    for (uint32_t i = 0; i < config->nr_pools && status == KV_OK; i++) {
        struct build build = build_of(config, i, modes[i], populate_now);
        build.line = line;
        build.cap = cap;
        status = check_room(&build, &room, &wanted);
    }
    for (uint32_t i = 0; i < config->nr_pools && status == KV_OK; i++) {
        struct build build = build_of(config, i, modes[i], populate_now);
        build.line = line;
        build.cap = cap;
        status = arena_open(&build, &memory->arenas[i]);
        memory->nr += status == KV_OK;
    }
    if (status != KV_OK) {
        kvn_memory_destroy(memory);
        return status;
    }
    *memory_p = memory;
    return KV_OK;
}

/* ---- asking -------------------------------------------------------------------- */

uint8_t *kvn_memory_frame(const kvn_memory_t *memory, uint32_t pool, uint32_t frame)
{
    KV_ASSERT(pool < memory->nr);
    const struct arena *arena = &memory->arenas[pool];
    KV_ASSERT(frame < arena->nr_frames);
    return arena->base + (uint64_t)frame * arena->frame_bytes;
}

uint32_t kvn_memory_nr(const kvn_memory_t *memory)
{
    return memory->nr;
}

struct kvt_region kvn_memory_region(const kvn_memory_t *memory, uint32_t i)
{
    KV_ASSERT(i < memory->nr);
    const struct arena *arena = &memory->arenas[i];
    return (struct kvt_region){
        .base = arena->base,
        .bytes = arena->bytes,
        .fd = arena->mode == KVN_MEMORY_READ ? arena->fd : -1,
    };
}

enum kvn_memory_mode kvn_memory_mode(const kvn_memory_t *memory, uint32_t i)
{
    KV_ASSERT(i < memory->nr);
    return memory->arenas[i].mode;
}

int kvn_memory_fill_fd(const kvn_memory_t *memory, uint32_t i, uint64_t *bytes_p)
{
    KV_ASSERT(i < memory->nr && memory->arenas[i].mode == KVN_MEMORY_FILL);
    *bytes_p = whole_pages(memory->arenas[i].bytes);
    return memory->arenas[i].fd;
}
