/* Frames lie where their numbers say; what readers are handed cannot be written, cut or
 * grown by them; and a pool that cannot be had is refused in one line that tells an
 * operator what to do, with nothing left behind. */
#define _GNU_SOURCE /* F_GET_SEALS */

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/memory.h"
#include "tests/base/process_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 }; /* they reserve terabytes of address space */
#else
enum { SANITIZED = 0 };
#endif

static struct kvp_config config_of(uint32_t nr_pools)
{
    static const struct kvp_pool_config pools[] = {
        {.tier = KVP_DEVICE, .domain = 1, .frame_bytes = 256, .nr_frames = 17},
        {.tier = KVP_HOST, .domain = 1, .frame_bytes = 65536, .nr_frames = 100},
        {.tier = KVP_HOST, .domain = 1, .frame_bytes = 1024, .nr_frames = 3},
    };
    struct kvp_config config = {.nr_pools = nr_pools};
    memcpy(config.pools, pools, nr_pools * sizeof(pools[0]));
    return config;
}

/* Every pool in one mode. */
static const enum kvn_memory_mode *all(enum kvn_memory_mode mode)
{
    static enum kvn_memory_mode modes[KVP_POOLS_MAX];
    for (uint32_t i = 0; i < KVP_POOLS_MAX; i++) {
        modes[i] = mode;
    }
    return modes;
}

static kvn_memory_t *
memory_of(const struct kvp_config *config, enum kvn_memory_mode mode, bool populate)
{
    char line[KVN_MEMORY_LINE_BYTES] = "";
    kvn_memory_t *memory = NULL;
    assert_int_equal(
        kvn_memory_create(config, all(mode), populate, &memory, line, sizeof(line)),
        KV_OK);
    assert_non_null(memory);
    assert_string_equal(line, "");
    return memory;
}

/* ---- what is left behind ------------------------------------------------------- */

struct traces {
    struct process_kit_held process;
    unsigned maps;
};

static struct traces traces_now(void)
{
    struct traces traces = {.process = process_kit_held()};
    char line[1024];
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        traces.maps += strstr(line, "kvrail-pool") != NULL;
    }
    fclose(maps);
    return traces;
}

static void expect_traces(const struct traces *before)
{
    process_kit_expect_held(&before->process);
    assert_int_equal(traces_now().maps, before->maps);
}

/* Whether the mapping around `base` (the kernel joins neighbours) has this flag in
 * /proc/self/smaps: "dd", not dumped. */
static bool has_flag(const void *base, const char *flag)
{
    char line[1024];
    bool ours = false, found = false;
    FILE *smaps = fopen("/proc/self/smaps", "r");
    assert_non_null(smaps);
    while (fgets(line, sizeof(line), smaps) != NULL) {
        uintptr_t first, end;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &first, &end) == 2) {
            ours = first <= (uintptr_t)base && (uintptr_t)base < end;
        } else if (ours && strncmp(line, "VmFlags:", 8) == 0) {
            found = strstr(line, flag) != NULL;
        }
    }
    fclose(smaps);
    return found;
}

/* ---- addresses ----------------------------------------------------------------- */

static void frames_round(enum kvn_memory_mode mode, bool populate)
{
    const struct traces before = traces_now();
    const struct kvp_config config = config_of(3);
    kvn_memory_t *memory = memory_of(&config, mode, populate);

    assert_int_equal(kvn_memory_nr(memory), 3);
    for (uint32_t i = 0; i < 3; i++) {
        const struct kvp_pool_config *pool = &config.pools[i];
        const struct kvt_region region = kvn_memory_region(memory, i);
        assert_int_equal(region.bytes, (uint64_t)pool->frame_bytes * pool->nr_frames);
        assert_int_equal((uintptr_t)region.base % 4096, 0);
        assert_true(KV_IMPLIES(
            region.bytes >= 2 << 20, (uintptr_t)region.base % (2 << 20) == 0));
        assert_int_equal(region.fd >= 0, mode == KVN_MEMORY_READ);
        for (uint32_t frame = 0; frame < pool->nr_frames; frame++) {
            uint8_t *at = kvn_memory_frame(memory, i, frame);
            assert_ptr_equal(at, region.base + (size_t)frame * pool->frame_bytes);
            assert_int_equal(at[0], 0);
            assert_int_equal(at[pool->frame_bytes - 1], 0);
            memset(at, (int)(i + frame), pool->frame_bytes);
        }
        assert_true(has_flag(region.base, " dd")); /* not in cores */
        assert_true(has_flag(region.base, " dc")); /* not in children */
    }
    assert_int_equal(*kvn_memory_frame(memory, 1, 5), 6); /* nobody wrote over it */
    kvn_memory_destroy(memory);
    expect_traces(&before);
}

static void frames__lie_where_their_numbers_say(void **state)
{
    (void)state;
    frames_round(KVN_MEMORY_SERVED, false);
    frames_round(KVN_MEMORY_SERVED, true);
    frames_round(KVN_MEMORY_READ, false);
    frames_round(KVN_MEMORY_READ, true);
    frames_round(KVN_MEMORY_FILL, false);
    frames_round(KVN_MEMORY_FILL, true);
    kvn_memory_destroy(NULL);
}

/* A child that writes to an arena must not change what the node serves, and shall not
 * even see it: it dies of SIGSEGV. */
static void children__do_not_inherit(void **state)
{
    (void)state;
    const struct kvp_config config = config_of(1);
    for (unsigned mode = KVN_MEMORY_SERVED; mode <= KVN_MEMORY_FILL; mode++) {
        kvn_memory_t *memory = memory_of(&config, (enum kvn_memory_mode)mode, true);
        volatile uint8_t *frame = kvn_memory_frame(memory, 0, 0);
        int status = 0;
        const pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL); /* the sanitizers have handlers of their own */
            frame[0] = 1;
            _exit(0);
        }
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        assert_int_equal(frame[0], 0);
        kvn_memory_destroy(memory);
    }
}

/* ---- seals --------------------------------------------------------------------- */

/* What a reader holds is a descriptor of the same open file, read and write: only the
 * seals stand between it and the node's memory. Each way in, tried. */
static void readers__can_only_read(void **state)
{
    (void)state;
    const struct kvp_config config = config_of(2);
    kvn_memory_t *memory = memory_of(&config, KVN_MEMORY_READ, true);
    const struct kvt_region region = kvn_memory_region(memory, 1);
    const int all = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
    char path[64];

    assert_int_equal(fcntl(region.fd, F_GET_SEALS), all);
    assert_true((fcntl(region.fd, F_GETFD) & FD_CLOEXEC) != 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", region.fd);
    const int again = open(path, O_RDWR | O_CLOEXEC); /* as a reader could */
    assert_true(again >= 0);
    memset(kvn_memory_frame(memory, 1, 7), 0x77, 65536);

    const int fds[] = {region.fd, again};
    for (unsigned i = 0; i < 2; i++) {
        const int fd = fds[i];
        assert_ptr_equal(
            mmap(NULL, region.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
            MAP_FAILED);
        assert_int_equal(errno, EPERM);
        assert_int_equal(ftruncate(fd, 4096), -1);
        assert_int_equal(ftruncate(fd, (off_t)region.bytes + 4096), -1);
        assert_int_equal(pwrite(fd, "x", 1, 0), -1);
        assert_int_equal(
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);

        uint8_t *view = mmap(NULL, region.bytes, PROT_READ, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(view, MAP_FAILED);
        assert_int_equal(view[7 * 65536 + 9], 0x77);
        assert_int_equal(mprotect(view, 4096, PROT_READ | PROT_WRITE), -1);
        assert_int_equal(madvise(view, 65536 * 8, MADV_REMOVE), -1);
        kvn_memory_frame(memory, 1, 7)[9] = 0x78; /* the node goes on writing */
        assert_int_equal(view[7 * 65536 + 9], 0x78);
        kvn_memory_frame(memory, 1, 7)[9] = 0x77;
        munmap(view, region.bytes);
    }
    close(again);
    kvn_memory_destroy(memory);
}

/* ---- refusals ------------------------------------------------------------------ */

/* A fill arena: its engine's bytes are the node's, and nothing that the engine does to
 * the descriptor takes a page from under the node or stops others from filling. */
static void engines__fill_what_nobody_can_cut_or_seal(void **state)
{
    (void)state;
    const struct traces before = traces_now();
    const struct kvp_config config = config_of(2);
    enum kvn_memory_mode modes[2] = {KVN_MEMORY_SERVED, KVN_MEMORY_FILL};
    char line[KVN_MEMORY_LINE_BYTES] = "";
    kvn_memory_t *memory = NULL;
    uint64_t bytes = 0;
    assert_int_equal(
        kvn_memory_create(&config, modes, true, &memory, line, sizeof(line)), KV_OK);
    assert_int_equal(kvn_memory_mode(memory, 0), KVN_MEMORY_SERVED);
    assert_int_equal(kvn_memory_mode(memory, 1), KVN_MEMORY_FILL);
    assert_int_equal(kvn_memory_region(memory, 1).fd, -1); /* no peer's */
    int fd = kvn_memory_fill_fd(memory, 1, &bytes);
    assert_int_equal(bytes, 100 * 65536);
    uint8_t *engine = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(engine, MAP_FAILED);
    engine[7 * 65536] = 77;
    assert_int_equal(kvn_memory_frame(memory, 1, 7)[0], 77);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(ftruncate(fd, (off_t)bytes * 2), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    /* A hole is zeros again, and no fault. */
    assert_int_equal(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 7 * 65536, 65536), 0);
    assert_int_equal(kvn_memory_frame(memory, 1, 7)[0], 0);
    munmap(engine, bytes);
    kvn_memory_destroy(memory);
    expect_traces(&before);
}

static void expect_refused(
    const struct kvp_config *config, enum kvn_memory_mode mode, bool populate,
    kv_status_t wanted, const char *part)
{
    const struct traces before = traces_now();
    char line[KVN_MEMORY_LINE_BYTES] = "";
    kvn_memory_t *memory = NULL;

    assert_int_equal(
        kvn_memory_create(config, all(mode), populate, &memory, line, sizeof(line)),
        wanted);
    assert_null(memory);
    print_message("%s\n", line);
    assert_non_null(strstr(line, part));
    assert_null(strchr(line, '\n'));
    expect_traces(&before);
}

/* The second pool alone is too large; the first one fits and must not stay. */
static void create__refuses_what_cannot_be_had(void **state)
{
    (void)state;
    struct kvp_config config = config_of(2);
    config.pools[1].frame_bytes = 1 << 30;
    config.pools[1].nr_frames = 1 << 20; /* a petabyte */
    for (unsigned mode = KVN_MEMORY_SERVED; mode <= KVN_MEMORY_FILL; mode++) {
        for (unsigned populate = 0; populate < 2; populate++) {
            expect_refused(
                &config, (enum kvn_memory_mode)mode, populate == 1, KV_ERR_NOMEM,
                "pool 1 (host, 1048576 frames of 1073741824 bytes) wants "
                "1125899906842624 bytes: ");
        }
    }
    /* Every pool fits alone, all of them do not: the sum counts. */
    config = config_of(3);
    config.pools[0].frame_bytes = UINT32_MAX / 256 * 256;
    config.pools[0].nr_frames = 1;
    config.pools[2].frame_bytes = 1 << 30;
    config.pools[2].nr_frames = 1 << 20;
    expect_refused(&config, KVN_MEMORY_SERVED, false, KV_ERR_NOMEM, "pool 2 (host, ");
    config = config_of(2);
    config.pools[1].nr_frames = 0;
    expect_refused(&config, KVN_MEMORY_READ, false, KV_ERR_CONFIG, "a pool has frames");
}

static void create__line_is_cut_at_its_cap(void **state)
{
    (void)state;
    struct kvp_config config = config_of(1);
    char line[24];
    kvn_memory_t *memory = NULL;
    config.pools[0].nr_frames = 0;
    memset(line, '!', sizeof(line));
    assert_int_equal(
        kvn_memory_create(&config, all(KVN_MEMORY_SERVED), false, &memory, line, 8),
        KV_ERR_CONFIG);
    assert_string_equal(line, "pool 0 ");
    assert_int_equal(line[8], '!');
    assert_int_equal(
        kvn_memory_create(&config, all(KVN_MEMORY_SERVED), false, &memory, NULL, 0),
        KV_ERR_CONFIG);
}

/* In a child, because a hard limit stays. Its exit status says what came out. */
static void expect_limit(unsigned resource, enum kvn_memory_mode mode, const char *part)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit limit = {1 << 20, 1 << 20};
        const struct kvp_config config = config_of(2);
        char line[KVN_MEMORY_LINE_BYTES] = "";
        kvn_memory_t *memory = NULL;
        setrlimit(resource, &limit);
        const bool nomem =
            kvn_memory_create(&config, all(mode), true, &memory, line, sizeof(line))
            == KV_ERR_NOMEM;
        (void)!write(STDOUT_FILENO, line, strlen(line));
        (void)!write(STDOUT_FILENO, "\n", 1);
        _exit(nomem && strstr(line, part) != NULL ? 0 : 1);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A file past RLIMIT_FSIZE would have the process killed by SIGXFSZ. */
static void create__names_the_rlimit_in_the_way(void **state)
{
    (void)state;
    expect_limit(RLIMIT_FSIZE, KVN_MEMORY_READ, "RLIMIT_FSIZE");
    if (SANITIZED) {
        print_message("RLIMIT_AS: not under a sanitizer\n");
        return;
    }
    expect_limit(RLIMIT_AS, KVN_MEMORY_READ, "RLIMIT_AS");
    expect_limit(RLIMIT_AS, KVN_MEMORY_SERVED, "RLIMIT_AS");
}

/* True when the fault of kv_fault_after() has not come to pass yet. */
static bool fault_left(void)
{
    for (unsigned i = 0; i < 1000; i++) {
        if (kv_fault_now()) {
            return true;
        }
    }
    return false;
}

/* Fail the 1st, 2nd, 3rd … fallible call of two pools. Refusing MADV_POPULATE_WRITE is
 * no failure: it stands for a kernel that lacks it, and the pages are touched. */
static unsigned faults_round(enum kvn_memory_mode mode)
{
    const struct kvp_config config = config_of(2);
    const struct traces before = traces_now();
    unsigned nr_failed = 0, nr_mended = 0;

    for (uint64_t n = 1;; n++) {
        char line[KVN_MEMORY_LINE_BYTES] = "";
        kvn_memory_t *memory = NULL;
        kv_fault_after(n);
        const kv_status_t status =
            kvn_memory_create(&config, all(mode), true, &memory, line, sizeof(line));
        const bool left = fault_left();
        kv_fault_after(0);
        assert_int_equal(status == KV_OK, memory != NULL);
        assert_int_equal(status == KV_OK, line[0] == '\0');
        assert_true(status == KV_OK || status == KV_ERR_NOMEM || status == KV_ERR_IO);
        if (memory != NULL) {
            memset(kvn_memory_frame(memory, 1, 99), 1, 65536);
        }
        kvn_memory_destroy(memory);
        expect_traces(&before);
        if (left) {
            break;
        }
        nr_failed += status != KV_OK;
        nr_mended += status == KV_OK;
    }
    assert_int_equal(nr_mended, 2);
    return nr_failed;
}

static void create__survives_every_fault(void **state)
{
    (void)state;
    /* one allocation; a pool: address space, mapping, two advices */
    assert_int_equal(faults_round(KVN_MEMORY_SERVED), 1 + 2 * 4);
    /* … and memfd, its size, two seals */
    assert_int_equal(faults_round(KVN_MEMORY_READ), 1 + 2 * 8);
    assert_int_equal(faults_round(KVN_MEMORY_FILL), 1 + 2 * 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames__lie_where_their_numbers_say),
        cmocka_unit_test(children__do_not_inherit),
        cmocka_unit_test(readers__can_only_read),
        cmocka_unit_test(engines__fill_what_nobody_can_cut_or_seal),
        cmocka_unit_test(create__refuses_what_cannot_be_had),
        cmocka_unit_test(create__line_is_cut_at_its_cap),
        cmocka_unit_test(create__names_the_rlimit_in_the_way),
        cmocka_unit_test(create__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
