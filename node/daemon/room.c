#include "node/daemon/room.h"

#include "base/assert.h"
#include "base/fault.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 512 };

/* Files of one version of the memory cgroup. Pages of files that nobody uses make way
 * for ours, so they are no use of memory: active and inactive ones count as free.
 * Shared memory does not lie on those lists. */
struct cgroup_files {
    const char *mount, *limit, *usage, *inactive, *active;
};
static const struct cgroup_files cgroup_v2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file"};
static const struct cgroup_files cgroup_v1 = {
    "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
    "total_inactive_file", "total_active_file"};

static FILE *file_open(const char *folder, const char *name)
{
    char path[PATH_BYTES];
    const int len = snprintf(path, sizeof(path), "%s/%s", folder, name);
    return len < (int)sizeof(path) ? fopen(path, "re") : NULL;
}

/* The number that the file begins with; false for "max" and for no file. */
static bool file_number(const char *folder, const char *name, uint64_t *number)
{
    FILE *file = file_open(folder, name);
    if (file == NULL) {
        return false;
    }
    const bool found = fscanf(file, "%" SCNu64, number) == 1;
    fclose(file);
    return found;
}

/* The number that follows the word `key` in the file: "MemAvailable:  123 kB". */
static bool
file_field(const char *folder, const char *name, const char *key, uint64_t *number)
{
    char line[LINE_BYTES];
    const size_t len = strlen(key);
    bool found = false;
    FILE *file = file_open(folder, name);
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        found =
            strncmp(line, key, len) == 0 && sscanf(line + len, "%" SCNu64, number) == 1;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

__attribute__((format(printf, 3, 4))) static void
bound_lower(struct kvn_room_bound *bound, uint64_t bytes, const char *format, ...)
{
    if (bytes < bound->bytes) {
        va_list args;
        va_start(args, format);
        bound->bytes = bytes;
        vsnprintf(bound->name, sizeof(bound->name), format, args);
        va_end(args);
    }
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static void read_machine(const char *root, struct kvn_room *room)
{
    char folder[PATH_BYTES];
    uint64_t kib, swap = 0, committed, strict;
    snprintf(folder, sizeof(folder), "%s/proc", root);
    if (file_field(folder, "meminfo", "MemAvailable:", &kib)) {
        bound_lower(&room->now, kib * 1024, "the machine's free memory (MemAvailable)");
    }
    (void)file_field(folder, "meminfo", "SwapTotal:", &swap);
    if (file_field(folder, "meminfo", "MemTotal:", &kib)) {
        bound_lower(
            &room->ever, (kib + swap) * 1024,
            "the machine's memory and swap (MemTotal, SwapTotal)");
    }
    if (file_number(folder, "sys/vm/overcommit_memory", &strict) && strict == 2
        && file_field(folder, "meminfo", "CommitLimit:", &kib)
        && file_field(folder, "meminfo", "Committed_AS:", &committed)) {
        bound_lower(
            &room->now, less(kib, committed) * 1024,
            "the commit limit (vm.overcommit_memory is 2)");
        bound_lower(
            &room->ever, kib * 1024, "the commit limit (vm.overcommit_memory is 2)");
    }
}

/* One cgroup: what it has left, and what it could ever have. */
static void read_cgroup(
    const struct cgroup_files *files, const char *folder, const char *path,
    struct kvn_room *room)
{
    uint64_t limit, usage = 0, inactive = 0, active = 0;
    if (!file_number(folder, files->limit, &limit)) {
        return;
    }
    (void)file_number(folder, files->usage, &usage);
    (void)file_field(folder, "memory.stat", files->inactive, &inactive);
    (void)file_field(folder, "memory.stat", files->active, &active);
    const uint64_t used = less(usage, inactive + active);
    path = path[0] == '\0' ? "/" : path;
    bound_lower(
        &room->now, less(limit, used), "the memory cgroup %.120s (%s)", path,
        files->limit);
    bound_lower(
        &room->ever, limit, "the memory cgroup %.120s (%s)", path, files->limit);
}

/* `path` and every cgroup above it. In a container the path may be the host's, of which
 * nothing is mounted here: then only the last step, the mount itself, has the files,
 * and it is the container's. */
static void read_cgroups(
    const char *root, const struct cgroup_files *files, char *path,
    struct kvn_room *room)
{
    char folder[PATH_BYTES];
    for (size_t len = strlen(path);;) {
        while (len > 0 && path[len - 1] == '/') {
            path[--len] = '\0';
        }
        const int want =
            snprintf(folder, sizeof(folder), "%s%s%s", root, files->mount, path);
        if (want < (int)sizeof(folder)) {
            read_cgroup(files, folder, path, room);
        }
        if (len == 0) {
            return;
        }
        while (len > 0 && path[len - 1] != '/') {
            path[--len] = '\0';
        }
    }
}

/* Lines of /proc/self/cgroup: "0::/path" is version 2, "8:memory:/path" version 1; a
 * controller is in one of them. */
static void read_membership(const char *root, struct kvn_room *room)
{
    char folder[PATH_BYTES], line[LINE_BYTES];
    snprintf(folder, sizeof(folder), "%s/proc/self", root);
    FILE *file = file_open(folder, "cgroup");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        if (names[1] == '\0') {
            read_cgroups(root, &cgroup_v2, path, room);
        } else if (strcmp(names + 1, "memory") == 0) {
            read_cgroups(root, &cgroup_v1, path, room);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

void kvn_room_read(const char *root, struct kvn_room *room)
{
    KV_ASSERT(strlen(root) < PATH_BYTES / 2);
    *room = (struct kvn_room){
        .now = {.bytes = UINT64_MAX, .name = "nothing known"},
        .ever = {.bytes = UINT64_MAX, .name = "nothing known"},
    };
    read_machine(root, room);
    read_membership(root, room);
    /* What cannot be for ever cannot be now. */
    if (room->ever.bytes < room->now.bytes) {
        room->now = room->ever;
    }
}

kv_status_t
kvn_room_files(uint64_t wanted, bool raise, const char *what, char *line, size_t cap)
{
    struct rlimit limit;
    if (KV_FAULT() || getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        snprintf(line, cap, "RLIMIT_NOFILE cannot be read");
        return KV_ERR_IO;
    }
    if (limit.rlim_cur >= wanted) {
        return KV_OK;
    }
    const struct rlimit raised = {.rlim_cur = wanted, .rlim_max = limit.rlim_max};
    if (raise && !KV_FAULT() && limit.rlim_max >= wanted
        && setrlimit(RLIMIT_NOFILE, &raised) == 0) {
        return KV_OK;
    }
    snprintf(
        line, cap,
        "file descriptors: %" PRIu64 " are wanted, the limit is %" PRIu64
        ": raise it (ulimit -n; systemd: LimitNOFILE=), or lower %s",
        wanted, (uint64_t)(raise ? limit.rlim_max : limit.rlim_cur), what);
    return KV_ERR_IO;
}
