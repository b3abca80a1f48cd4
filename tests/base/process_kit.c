#include "tests/base/process_kit.h"

#include "base/assert.h"
#include "base/mem.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

/* Asserts as the tree's own do: also on threads that are not the test's. */
static unsigned nr_entries(const char *folder)
{
    unsigned nr = 0;
    DIR *dir = opendir(folder);
    KV_ASSERT(dir != NULL);
    while (readdir(dir) != NULL) {
        nr++;
    }
    closedir(dir);
    return nr;
}

unsigned process_kit_fds(void)
{
    return nr_entries("/proc/self/fd");
}

unsigned process_kit_threads(void)
{
    return nr_entries("/proc/self/task");
}

struct process_kit_held process_kit_held(void)
{
    return (struct process_kit_held){
        .live = kv_mem_live(),
        .fds = process_kit_fds(),
        .threads = process_kit_threads(),
    };
}

void process_kit_expect_held(const struct process_kit_held *before)
{
    for (unsigned i = 0;
         i < PROCESS_KIT_PATIENCE_MS && process_kit_threads() != before->threads; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    const struct process_kit_held now = process_kit_held();
    assert_int_equal(now.live, before->live);
    assert_int_equal(now.fds, before->fds);
    assert_int_equal(now.threads, before->threads);
}
