/* Instructions of a thread of ours, counted by the processor. */
#define _GNU_SOURCE
#include "node/bench/world.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int kvn_counter_open(pid_t tid)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof(attr),
        .config = PERF_COUNT_HW_INSTRUCTIONS,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    return (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

const char *kvn_counters_why_not(void)
{
    const int fd = kvn_counter_open(0);
    if (fd >= 0) {
        close(fd);
        return NULL;
    }
    return errno == EACCES || errno == EPERM ? "not permitted"
           : errno == ENOSYS                 ? "not in this kernel"
                                             : "no counter on this machine";
}
