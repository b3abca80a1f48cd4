#define _GNU_SOURCE /* getline */
#include "node/bench/callgrind.h"

#include "base/assert.h"
#include "base/fault.h"
#include "node/child.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOK_MS = 50 }; /* between two looks at what waits are ended by */

/* ------------------------------------------------------------------ functions */

static struct kvn_counts_function *
function_of(struct kvn_counts *counts, const char *name)
{
    for (uint32_t i = 0; i < counts->nr_functions; i++) {
        if (strcmp(counts->functions[i].name, name) == 0) {
            return &counts->functions[i];
        }
    }
    if (counts->nr_functions == KVN_COUNTS_FUNCTIONS_MAX) {
        return NULL;
    }
    struct kvn_counts_function *f = &counts->functions[counts->nr_functions++];
    *f = (struct kvn_counts_function){0};
    (void)snprintf(f->name, sizeof(f->name), "%s", name);
    return f;
}

kv_status_t
kvn_counts_add(struct kvn_counts *to, const struct kvn_counts *from, double sign)
{
    for (uint32_t i = 0; i < from->nr_functions; i++) {
        const struct kvn_counts_function *f = &from->functions[i];
        struct kvn_counts_function *sum = function_of(to, f->name);
        if (sum == NULL) {
            return KV_ERR_NOMEM;
        }
        sum->self += sign * f->self;
        sum->inclusive += sign * f->inclusive;
    }
    to->all += sign * from->all;
    return KV_OK;
}

/* Of all functions whose name begins so. */
static double
self_of(const struct kvn_counts *counts, const char *const *starts, unsigned nr)
{
    double self = 0;
    for (uint32_t i = 0; i < counts->nr_functions; i++) {
        const struct kvn_counts_function *f = &counts->functions[i];
        for (unsigned s = 0; s < nr; s++) {
            if (strncmp(f->name, starts[s], strlen(starts[s])) == 0) {
                self += f->self;
                break;
            }
        }
    }
    return self;
}

double kvn_counts_copies(const struct kvn_counts *counts)
{
    static const char *const starts[] = {
        "__memcpy", "__memmove", "__memset",           "memcpy",
        "memmove",  "memset",    "kvt_shm_copier_main"};
    return self_of(counts, starts, KV_COUNT_OF(starts));
}

/* The loop's turn, whatever it finds, and the threads that take pages to copy or send.
 * What these call, when there is something to do, has names of its own. */
double kvn_counts_waits(const struct kvn_counts *counts)
{
    static const char *const starts[] = {"(libuv",          "uv_",
                                         "on_prepare",      "prepare",
                                         "kvn_local_turn",  "kvn_local_room",
                                         "kvn_local_awake", "kvn_data_reopens",
                                         "kvo_next_timer",  "clock_gettime",
                                         "epoll_",          "worker_main",
                                         "next_job",        "kvt_tcp_mover_main"};
    return self_of(counts, starts, KV_COUNT_OF(starts));
}

/* ------------------------------------------------------------------ a file */

/* callgrind's format, names and positions not compressed:
 *
 *   ob=/usr/lib/…/libuv.so.1        where the functions that follow lie
 *   fn=uv_timer_stop'2              a function; '2: called by itself
 *   12 38131                        of it: line and instructions
 *   cfn=uv_timer_again              what it called,
 *   calls=68 0                      how often,
 *   12 1076                         and at what inclusive cost
 *   totals: 39207                   the last line
 */
struct reader {
    struct kvn_counts *counts;
    char object[KVN_FIGURE_NAME_BYTES - 16];
    struct kvn_counts_function *function; /* NULL: none yet */
    bool again;  /* the function is called by itself: its cost is in the outer one's */
    bool named;  /* else it is many, whose calls are calls of itself */
    bool called; /* the next cost is of a call */
    bool totals; /* seen */
    double self, total;
};

static bool starts_with(const char *line, const char *start)
{
    return strncmp(line, start, strlen(start)) == 0;
}

static bool take_function(struct reader *reader, char *name)
{
    char unnamed[KVN_FIGURE_NAME_BYTES];
    char *level = strrchr(name, '\'');
    reader->again = level != NULL;
    if (reader->again) {
        *level = '\0';
    }
    reader->named = !starts_with(name, "0x") && strcmp(name, "???") != 0;
    if (!reader->named) {
        (void)snprintf(unnamed, sizeof(unnamed), "(%s)", reader->object);
        name = unnamed;
    } else if (strlen(name) >= KVN_FIGURE_NAME_BYTES) {
        name[KVN_FIGURE_NAME_BYTES - 1] = '\0';
    }
    reader->function = function_of(reader->counts, name);
    return reader->function != NULL;
}

static void take_object(struct reader *reader, const char *path)
{
    const char *slash = strrchr(path, '/');
    (void)snprintf(
        reader->object, sizeof(reader->object), "%.40s",
        slash == NULL ? path : slash + 1);
}

/* "12 1076": its last word. */
static bool take_cost(struct reader *reader, const char *line)
{
    const char *space = strrchr(line, ' ');
    char *end;
    if (space == NULL || reader->function == NULL) {
        return false;
    }
    const double cost = (double)strtoull(space + 1, &end, 10);
    if (end == space + 1 || *end != '\0') {
        return false;
    }
    if (!reader->called) {
        reader->function->self += cost;
        reader->self += cost;
    }
    if (reader->named ? !reader->again : !reader->called) {
        reader->function->inclusive += cost;
    }
    reader->called = false;
    return true;
}

static kv_status_t take_line(struct reader *reader, char *line)
{
    if (starts_with(line, "fn=")) {
        return take_function(reader, line + 3) ? KV_OK : KV_ERR_NOMEM;
    }
    if (starts_with(line, "ob=")) {
        take_object(reader, line + 3);
    } else if (starts_with(line, "calls=")) {
        reader->called = true;
    } else if (starts_with(line, "totals: ")) {
        reader->total = strtod(line + strlen("totals: "), NULL);
        reader->totals = true;
    } else if ((line[0] >= '0' && line[0] <= '9') || strchr("+-*", line[0]) != NULL) {
        /* "": an empty line, which strchr finds */
        return line[0] == '\0' || take_cost(reader, line) ? KV_OK : KV_ERR_INVALID;
    }
    return KV_OK; /* headers, and where a call goes */
}

kv_status_t kvn_callgrind_read(FILE *file, struct kvn_counts *counts)
{
    struct reader reader = {.counts = counts};
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    kv_status_t status = KV_OK;
    while (status == KV_OK && (len = getline(&line, &cap, file)) > 0) {
        if (line[len - 1] == '\n') {
            line[len - 1] = '\0';
        }
        status = take_line(&reader, line);
    }
    free(line);
    if (status == KV_OK && (!reader.totals || reader.self != reader.total)) {
        status = KV_ERR_INVALID;
    }
    counts->all += reader.self;
    return status;
}

/* ------------------------------------------------------------------ a node */

const char *kvn_callgrind_find(const char *bin, struct kvn_callgrind *callgrind)
{
    if (!kvn_child_find("valgrind", callgrind->valgrind, sizeof(callgrind->valgrind))
        || !kvn_child_find("vgdb", callgrind->vgdb, sizeof(callgrind->vgdb))) {
        return "valgrind is not installed; Debian: apt-get install valgrind";
    }
    if (!kvn_child_find("env", callgrind->env, sizeof(callgrind->env))) {
        return "env is not installed; Debian: apt-get install coreutils";
    }
#ifdef KVN_CALLGRIND_NEVER
    (void)bin;
    return "no sanitizer runs under valgrind: build with the release preset";
#else
    (void)snprintf(
        callgrind->preload, sizeof(callgrind->preload), "%s/bench_pidfd_open.so", bin);
    return access(callgrind->preload, R_OK) == 0
               ? NULL
               : "bench_pidfd_open.so is not beside us: only a build folder has it";
#endif
}

/* Where a node's files are to lie: "FOLDER/callgrind.PID.PART-THREAD". */
#define FILE_START "callgrind."

/* callgrind counts a string instruction (rep movsb) once a byte, a processor counts it
 * once: glibc is to copy by neither. */
#define COPIES_IN_VECTORS                                                              \
    "GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:"                     \
    "glibc.cpu.x86_rep_stosb_threshold=0x7fffffff"

unsigned kvn_callgrind_words(
    const struct kvn_callgrind *callgrind, const char *folder,
    char words[KVN_CALLGRIND_WORDS_MAX][KVN_CALLGRIND_WORD_BYTES])
{
    const struct {
        const char *begin, *middle, *end;
    } all[] = {
        {"", callgrind->env, ""},
        {"LD_PRELOAD=", callgrind->preload, ""},
        {COPIES_IN_VECTORS, "", ""},
        {"", callgrind->valgrind, ""},
        {"-q", "", ""},
        {"--tool=callgrind", "", ""},
        {"--separate-threads=yes", "", ""},
        {"--fair-sched=yes", "", ""}, /* else one that polls keeps the others out */
        {"--compress-strings=no", "", ""},
        {"--compress-pos=no", "", ""},
        {"--vgdb-prefix=", folder, "/vgdb"},
        {"--callgrind-out-file=", folder, "/" FILE_START "%p"},
    };
    _Static_assert(KV_COUNT_OF(all) <= KVN_CALLGRIND_WORDS_MAX, "words");
    for (unsigned i = 0; i < KV_COUNT_OF(all); i++) {
        (void)snprintf(
            words[i], KVN_CALLGRIND_WORD_BYTES, "%s%s%s", all[i].begin, all[i].middle,
            all[i].end);
    }
    return KV_COUNT_OF(all);
}

/* A node that has ended and was not reaped: vgdb would wait for its answer. */
static bool ended(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0
           && info.si_pid == pid;
}

/* vgdb stops the node wherever it is, has it write, and lets it go on. */
static kv_status_t dump(struct kvn_bench_node *bench, const char *folder, pid_t pid)
{
    struct kvn_child child;
    char prefix[KVN_CALLGRIND_WORD_BYTES], number[32];
    const char *const argv[] = {
        bench->callgrind->vgdb, prefix, number, "dump", "cut", NULL};
    (void)snprintf(prefix, sizeof(prefix), "--vgdb-prefix=%s/vgdb", folder);
    (void)snprintf(number, sizeof(number), "--pid=%d", (int)pid);
    const int null = KV_FAULT() ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0 || kvn_child_start(&child, argv, null) != KV_OK) {
        close(null);
        return kvn_figure_fail(bench, KV_ERR_IO, "vgdb was not started");
    }
    close(null);
    int status = KVN_CHILD_RUNS;
    for (unsigned ms = 0; status == KVN_CHILD_RUNS && ms < KVN_CALLGRIND_CUT_MS
                          && !ended(pid) && !kvn_figure_stopped(bench);
         ms += LOOK_MS) {
        status = kvn_child_wait(&child, LOOK_MS);
    }
    if (status == KVN_CHILD_RUNS) {
        (void)kvn_child_stop(&child, 0);
    }
    return status == 0 ? KV_OK
                       : kvn_figure_fail(
                           bench, KV_ERR_IO,
                           "the node's instructions were not counted: vgdb ended "
                           "with %d",
                           status);
}

static kv_status_t take_file(int folder, const char *name, struct kvn_counts *counts)
{
    const int fd = KV_FAULT() ? -1 : openat(folder, name, O_RDONLY | O_CLOEXEC);
    FILE *file = fd < 0 || KV_FAULT() ? NULL : fdopen(fd, "r");
    if (file == NULL) {
        close(fd);
        return KV_ERR_IO;
    }
    kv_status_t status = kvn_callgrind_read(file, counts);
    (void)fclose(file);
    return status;
}

/* All files of that node; none is one too few. */
static kv_status_t take_files(const char *folder, pid_t pid, struct kvn_counts *counts)
{
    char start[64];
    const struct dirent *entry;
    unsigned nr = 0;
    kv_status_t status = KV_OK;
    DIR *dir = KV_FAULT() ? NULL : opendir(folder);
    if (dir == NULL) {
        return KV_ERR_IO;
    }
    (void)snprintf(start, sizeof(start), FILE_START "%d.", (int)pid);
    while ((entry = readdir(dir)) != NULL) {
        if (!starts_with(entry->d_name, start)) {
            continue;
        }
        if (counts != NULL && status == KV_OK) {
            status = take_file(dirfd(dir), entry->d_name, counts);
        }
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
        nr++;
    }
    (void)closedir(dir);
    return nr > 0 ? status : KV_ERR_INVALID;
}

kv_status_t kvn_callgrind_cut(
    struct kvn_bench_node *bench, const char *folder, pid_t pid,
    struct kvn_counts *counts)
{
    kv_status_t status = dump(bench, folder, pid);
    if (status != KV_OK) {
        return status;
    }
    status = take_files(folder, pid, counts);
    return status == KV_OK
               ? KV_OK
               : kvn_figure_fail(
                   bench, status, "what callgrind wrote of the node: %s",
                   status == KV_ERR_NOMEM ? "too many functions"
                   : status == KV_ERR_IO  ? "cannot be read"
                                          : "is not whole, or does not add up");
}
