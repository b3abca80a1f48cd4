#include "node/daemon/http_priv.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static uint64_t of_timeval(const struct timeval *tv)
{
    return (uint64_t)tv->tv_sec * 1000000 + (uint64_t)tv->tv_usec;
}

static bool read_memory(uint64_t *virtual_bytes, uint64_t *resident_bytes)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    bool found = false;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file != NULL) {
        uint64_t pages, resident;
        found = fscanf(file, "%" SCNu64 " %" SCNu64, &pages, &resident) == 2;
        if (found) {
            *virtual_bytes = pages * page;
            *resident_bytes = resident * page;
        }
        fclose(file);
    }
    return found;
}

/* Without the descriptor that the counting itself takes. */
static bool count_fds(uint64_t *nr)
{
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL) {
        return false;
    }
    uint64_t names = 0;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        names += entry->d_name[0] != '.';
    }
    closedir(dir);
    *nr = names - 1;
    return true;
}

/* Seconds since 1970 at which the machine started. */
static bool read_boot(uint64_t *seconds)
{
    char line[256];
    bool found = false;
    FILE *file = fopen("/proc/stat", "re");
    while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
        found = sscanf(line, "btime %" SCNu64, seconds) == 1;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* The 22nd field of /proc/self/stat, in ticks since boot; the second one, the name, may
 * hold blanks and brackets, so fields count from the last bracket. */
static bool read_start(uint64_t *start_us)
{
    const uint64_t ticks_per_second = (uint64_t)sysconf(_SC_CLK_TCK);
    char text[1024];
    uint64_t boot, ticks;
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL) {
        return false;
    }
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    const char *field = strrchr(text, ')');
    for (unsigned i = 2; field != NULL && i < 22; i++) {
        field = strchr(field + 1, ' ');
    }
    if (field == NULL || sscanf(field, "%" SCNu64, &ticks) != 1 || !read_boot(&boot)) {
        return false;
    }
    *start_us = boot * 1000000 + ticks * 1000000 / ticks_per_second;
    return true;
}

void kvn_http_process_read(struct kvn_http_process *process)
{
    struct rusage usage;
    struct rlimit files;
    *process = (struct kvn_http_process){0};
    process->has_memory =
        read_memory(&process->virtual_bytes, &process->resident_bytes);
    process->has_fds =
        getrlimit(RLIMIT_NOFILE, &files) == 0 && count_fds(&process->open_fds);
    if (process->has_fds) {
        process->max_fds = files.rlim_cur;
    }
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        process->cpu_us = of_timeval(&usage.ru_utime) + of_timeval(&usage.ru_stime);
    }
    process->has_start = read_start(&process->start_us);
}
