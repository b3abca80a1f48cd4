/* What bounds our memory is told from files: each kind of machine and container is a
 * folder with the files that it shows, and the narrowest bound must be found and named,
 * since the line that refuses a pool is all that an operator gets. */
#include "base/fault.h"
#include "node/daemon/room.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof(root), "/tmp/kvrail-room-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -r -- %s", root);
    return system(command);
}

/* Writes root/path, with the folders above it. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s/%s", root, path);
    for (char *slash = strchr(full + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static struct kvn_room room_now(void)
{
    struct kvn_room room;
    kvn_room_read(root, &room);
    return room;
}

static void put_machine(void)
{
    put("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         10 kB\n"
                        "MemAvailable:    600 kB\nSwapTotal:       200 kB\n"
                        "CommitLimit:     500 kB\nCommitted_AS:    450 kB\n");
    put("proc/sys/vm/overcommit_memory", "0\n");
    put("proc/self/cgroup", "0::/\n");
}

static void room__nothing_readable_bounds_nothing(void **state)
{
    (void)state;
    const struct kvn_room room = room_now();
    assert_true(room.now.bytes == UINT64_MAX && room.ever.bytes == UINT64_MAX);
    assert_string_equal(room.now.name, "nothing known");
}

static void room__a_bare_machine_gives_its_free_memory(void **state)
{
    (void)state;
    put_machine();
    const struct kvn_room room = room_now();
    assert_int_equal(room.now.bytes, 600 * 1024);
    assert_string_equal(room.now.name, "the machine's free memory (MemAvailable)");
    assert_int_equal(room.ever.bytes, 1200 * 1024);
}

/* A container of version 2 sees its own cgroup as "/". Page cache makes way, so it
 * counts as free; "max" is no bound. */
static void room__a_container_is_bounded_by_its_cgroup(void **state)
{
    (void)state;
    put_machine();
    put("sys/fs/cgroup/memory.max", "max\n");
    assert_int_equal(room_now().now.bytes, 600 * 1024);
    put("sys/fs/cgroup/memory.max", "409600\n");
    put("sys/fs/cgroup/memory.current", "307200\n");
    put("sys/fs/cgroup/memory.stat",
        "anon 5\nfile 900000\ninactive_file 102400\nactive_file 4096\n");
    const struct kvn_room room = room_now();
    assert_int_equal(room.now.bytes, 409600 - (307200 - 106496));
    assert_string_equal(room.now.name, "the memory cgroup / (memory.max)");
    assert_int_equal(room.ever.bytes, 409600);
}

/* A unit in a slice: the limit of any ancestor holds. */
static void room__a_cgroup_above_counts_too(void **state)
{
    (void)state;
    put_machine();
    put("proc/self/cgroup", "0::/a.slice/b.service\n");
    put("sys/fs/cgroup/a.slice/memory.max", "100000\n");
    put("sys/fs/cgroup/a.slice/memory.current", "99000\n");
    put("sys/fs/cgroup/a.slice/b.service/memory.max", "200000\n");
    put("sys/fs/cgroup/a.slice/b.service/memory.current", "50000\n");
    const struct kvn_room room = room_now();
    assert_int_equal(room.now.bytes, 1000);
    assert_string_equal(room.now.name, "the memory cgroup /a.slice (memory.max)");
    assert_int_equal(room.ever.bytes, 100000);
}

/* Version 1 in a container: /proc/self/cgroup shows the host's path, the mount shows
 * the container's own folder. Usage past the limit leaves nothing, not 2^64. */
static void room__version_1_is_read_at_the_mount(void **state)
{
    (void)state;
    put_machine();
    put("proc/self/cgroup", "9:cpu:/docker/x\n4:memory:/docker/x\nnonsense\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "300000\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "310000\n");
    put("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 5000\n");
    const struct kvn_room room = room_now();
    assert_int_equal(room.now.bytes, 0);
    assert_string_equal(room.now.name, "the memory cgroup / (memory.limit_in_bytes)");
    assert_int_equal(room.ever.bytes, 300000);
}

static void room__strict_commit_is_a_bound(void **state)
{
    (void)state;
    put_machine();
    put("proc/sys/vm/overcommit_memory", "2\n");
    const struct kvn_room room = room_now();
    assert_int_equal(room.now.bytes, 50 * 1024);
    assert_string_equal(room.now.name, "the commit limit (vm.overcommit_memory is 2)");
    assert_int_equal(room.ever.bytes, 500 * 1024);
}

static void room__this_machine_can_be_read(void **state)
{
    (void)state;
    struct kvn_room room;
    kvn_room_read("", &room);
    assert_true(room.now.bytes > 0 && room.now.bytes <= room.ever.bytes);
    assert_true(room.ever.bytes < UINT64_MAX);
    print_message("%s\n%s\n", room.now.name, room.ever.name);
}

/* The soft limit is no obstacle, the hard one is: one line that says what to raise or
 * to lower, and the limit as it was. */
static void files__are_had_or_named(void **state)
{
    struct rlimit was, now;
    char line[256] = "";
    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    const struct rlimit low = {.rlim_cur = 64, .rlim_max = was.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(kvn_room_files(64, true, "a.b", line, sizeof(line)), KV_OK);
    assert_int_equal(kvn_room_files(65, true, "a.b", line, sizeof(line)), KV_OK);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 65);
    assert_int_equal(now.rlim_max, was.rlim_max);
    assert_string_equal(line, "");
    assert_int_equal(
        kvn_room_files((uint64_t)was.rlim_max + 1, true, "a.b", line, sizeof(line)),
        KV_ERR_IO);
    assert_non_null(strstr(line, "raise it (ulimit -n; systemd: LimitNOFILE=)"));
    assert_non_null(strstr(line, "or lower a.b"));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &now), 0);
    assert_int_equal(now.rlim_cur, 65);
    for (uint64_t n = 1; n <= 2; n++) { /* either call fails */
        kv_fault_after(n);
        assert_int_equal(
            kvn_room_files(66, true, "a.b", line, sizeof(line)), KV_ERR_IO);
        kv_fault_after(0);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(room__nothing_readable_bounds_nothing),
        TEST(room__a_bare_machine_gives_its_free_memory),
        TEST(room__a_container_is_bounded_by_its_cgroup),
        TEST(room__a_cgroup_above_counts_too),
        TEST(room__version_1_is_read_at_the_mount),
        TEST(room__strict_commit_is_a_bound),
        TEST(room__this_machine_can_be_read),
        TEST(files__are_had_or_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
