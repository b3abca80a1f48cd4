/* What the machine has to offer, measured against the configuration where there is
 * one. */
#define _GNU_SOURCE
#include "node/config_priv.h"
#include "node/daemon/doctor.h"
#include "node/daemon/http.h"
#include "node/daemon/links.h"
#include "node/daemon/local.h"
#include "node/daemon/room.h"
#include "node/report.h"

#include "base/digest.h"
#include "base/mem.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    PATH_BYTES = 512,
    SPARE_FILES = 128, /* log, epoll, event fds, listening ports, what libraries open */
};

#define OK KVN_DOCTOR_OK
#define NOTE KVN_DOCTOR_NOTE
#define WARN KVN_DOCTOR_WARN
#define FAIL KVN_DOCTOR_FAIL

/* ---- kernel ---------------------------------------------------------------------- */

static void check_kernel(struct kvn_doctor *doctor)
{
    struct utsname name;
    const char *release = uname(&name) == 0 ? name.release : "?";
    const int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    kvn_doctor_say(
        doctor, pidfd >= 0 ? OK : FAIL, "kernel",
        pidfd >= 0 ? NULL : "Linux 5.3 or newer has it; a sandbox may forbid it",
        "Linux %.64s: pidfd_open%s%s, the deaths of clients are seen by it", release,
        pidfd >= 0 ? " works" : ": ", pidfd >= 0 ? "" : strerror(errno));
    if (pidfd >= 0) {
        close(pidfd);
    }
    const int fd = memfd_create("kvrail-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    const bool sealed =
        fd >= 0
        && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE)
               == 0;
    kvn_doctor_say(
        doctor, sealed ? OK : FAIL, "kernel",
        sealed ? NULL : "Linux 5.1 or newer has them; a sandbox may forbid them",
        "sealed memfds%s%s, clients' memory lies in them", sealed ? " work" : ": ",
        sealed ? "" : strerror(errno));
    if (fd >= 0) {
        close(fd);
    }
    kvn_doctor_say(
        doctor, OK, "processor", NULL, "%ld cores, digests by %s",
        sysconf(_SC_NPROCESSORS_ONLN), kv_digest_chosen());
}

/* ---- memory ---------------------------------------------------------------------- */

/* Of all pools; UINT64_MAX: the configuration gives no pools, and has its row. */
static uint64_t pool_bytes(struct kvn_doctor *doctor)
{
    struct kv_detail detail = {0};
    struct kvp_config *pager = kv_calloc(1, sizeof(*pager));
    uint64_t bytes = UINT64_MAX;
    char line[KVN_DOCTOR_TEXT_BYTES];
    const kv_status_t status =
        pager == NULL ? KV_ERR_NOMEM : kvn_config_pools(doctor->config, pager, &detail);
    if (status == KV_OK) {
        bytes = 0;
        for (uint32_t i = 0; i < pager->nr_pools; i++) {
            bytes += (uint64_t)pager->pools[i].frame_bytes * pager->pools[i].nr_frames;
        }
    } else {
        kv_detail_format(&detail, status, line, sizeof(line));
        kvn_doctor_say(doctor, FAIL, "memory", NULL, "%s", line);
    }
    kv_free(pager);
    return bytes;
}

static void check_memory(struct kvn_doctor *doctor)
{
    struct kvn_room room;
    char need_text[KVN_TEXT_BYTES], now[KVN_TEXT_BYTES], ever[KVN_TEXT_BYTES];
    kvn_room_read(doctor->root, &room);
    kvn_text_bytes(room.now.bytes, now);
    kvn_text_bytes(room.ever.bytes, ever);
    if (doctor->config == NULL) {
        kvn_doctor_say(
            doctor, OK, "memory", NULL, "%s may be touched now, by %s", now,
            room.now.name);
        return;
    }
    const uint64_t need = pool_bytes(doctor);
    if (need == UINT64_MAX) {
        return;
    }
    kvn_text_bytes(need, need_text);
    if (need > room.ever.bytes) {
        kvn_doctor_say(
            doctor, FAIL, "memory",
            "lower pager.device_bytes and host_bytes, or raise the limit",
            "pools of %s, and %s allows %s", need_text, room.ever.name, ever);
    } else if (need > room.now.bytes && !doctor->running) {
        kvn_doctor_say(
            doctor, FAIL, "memory", "free memory, or lower pager.device_bytes",
            "pools of %s, and %s leaves %s now", need_text, room.now.name, now);
    } else {
        kvn_doctor_say(
            doctor, OK, "memory", NULL, "pools of %s%s; %s leaves %s", need_text,
            doctor->running ? " are in use" : " fit", room.now.name, now);
    }
}

/* The word in brackets of "always [madvise] never". */
static bool chosen_word(const struct kvn_doctor *doctor, const char *path, char out[16])
{
    char full[PATH_BYTES], line[128] = "";
    (void)snprintf(full, sizeof(full), "%s%s", doctor->root, path);
    FILE *file = fopen(full, "re");
    const bool read = file != NULL && fgets(line, sizeof(line), file) != NULL;
    if (file != NULL) {
        fclose(file);
    }
    const char *bracket = read ? strchr(line, '[') : NULL;
    return bracket != NULL && sscanf(bracket, "[%15[^]]", out) == 1;
}

static void check_huge_pages(struct kvn_doctor *doctor)
{
    char word[16] = "";
    if (!chosen_word(doctor, "/sys/kernel/mm/transparent_hugepage/enabled", word)) {
        kvn_doctor_say(
            doctor, NOTE, "huge pages", NULL, "this kernel does not say what it does");
        return;
    }
    const bool never = strcmp(word, "never") == 0;
    kvn_doctor_say(
        doctor, never ? WARN : OK, "huge pages",
        never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
        "transparent_hugepage/enabled is %s%s", word,
        never ? ", pages of 4 KiB cost more time" : "");
}

/* ---- limits ---------------------------------------------------------------------- */

static void check_files(struct kvn_doctor *doctor)
{
    struct rlimit files;
    uint64_t need = SPARE_FILES;
    char todo[KVN_DOCTOR_TEXT_BYTES];
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return;
    }
    if (doctor->config != NULL) {
        const struct kvn_config *config = doctor->config;
        /* A client is a socket and a pidfd, while it registers memory that, too. */
        need += config->nr_data_conns
                + 3 * (config->nr_clients + KVN_LOCAL_ATTACHING_MAX)
                + KVN_LINKS_PEER_CONNS_MAX * (uint64_t)config->nr_nodes
                + KVN_LINKS_HELLO_CONNS_MAX + KVN_LINKS_LINGER_MAX + KVN_HTTP_CONNS;
    }
    const bool few = files.rlim_cur < need;
    (void)snprintf(
        todo, sizeof(todo), "ulimit -n %" PRIu64 ", or LimitNOFILE= of the service",
        need);
    kvn_doctor_say(
        doctor, few ? WARN : OK, "descriptors", few ? todo : NULL,
        "%" PRIu64 " may be open, %" PRIu64 " are enough", (uint64_t)files.rlim_cur,
        need);
}

static void check_limits(struct kvn_doctor *doctor)
{
    struct rlimit limit;
    char text[KVN_TEXT_BYTES];
    check_files(doctor);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        const bool all = limit.rlim_cur == RLIM_INFINITY;
        kvn_doctor_say(
            doctor, NOTE, "locked", NULL,
            "%s may be locked; this build locks nothing, verbs and CUDA would",
            all ? "all memory" : kvn_text_bytes(limit.rlim_cur, text));
    }
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        kvn_doctor_say(
            doctor, WARN, "address space", "ulimit -v unlimited",
            "is limited to %s, and pools and clients' memory are mapped",
            kvn_text_bytes(limit.rlim_cur, text));
    }
    kvn_doctor_say(
        doctor, NOTE, "/dev/shm", NULL,
        "its size bounds nothing here: shared memory is memfds, bounded as memory is");
}

/* ---- clock ----------------------------------------------------------------------- */

static void check_clock(struct kvn_doctor *doctor)
{
    struct timex clock = {0};
    const int state = adjtimex(&clock);
    const bool certs = doctor->config != NULL && doctor->config->tls_cert[0] != '\0';
    if (state < 0) {
        kvn_doctor_say(
            doctor, NOTE, "clock", NULL, "whether it is kept right cannot be read: %s",
            strerror(errno));
    } else if (state == TIME_ERROR) {
        kvn_doctor_say(
            doctor, certs ? WARN : NOTE, "clock",
            certs ? "run chrony or systemd-timesyncd: certificates are judged by it"
                  : NULL,
            "nothing keeps it right%s",
            certs ? "" : "; only certificates would depend on it");
    } else {
        kvn_doctor_say(doctor, OK, "clock", NULL, "is kept right");
    }
}

/* ---- devices --------------------------------------------------------------------- */

static bool there(const struct kvn_doctor *doctor, const char *path)
{
    char full[PATH_BYTES];
    (void)snprintf(full, sizeof(full), "%s%s", doctor->root, path);
    return access(full, F_OK) == 0;
}

static bool loads(const char *soname)
{
    void *handle = dlopen(soname, RTLD_LAZY | RTLD_LOCAL);
    if (handle != NULL) {
        dlclose(handle);
    }
    return handle != NULL;
}

/* Backends that this build has not: would the machine have what they need? */
static void check_devices(struct kvn_doctor *doctor)
{
    static const struct {
        const char *name, *device, *soname;
    } backends[] = {
        {"CUDA", "/dev/nvidiactl", "libcuda.so.1"},
        {"verbs", "/dev/infiniband", "libibverbs.so.1"},
        {"UCX", NULL, "libucp.so.0"},
        {"GPUDirect Storage", "/proc/driver/nvidia-fs", "libcufile.so.0"},
    };
    for (unsigned i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        const char *device = backends[i].device;
        const bool loaded = loads(backends[i].soname);
        kvn_doctor_say(
            doctor, NOTE, "backends", NULL, "%s: not built; here: %s%s%s%s",
            backends[i].name, backends[i].soname, loaded ? " loads" : " is missing",
            device == NULL          ? ""
            : there(doctor, device) ? ", there is "
                                    : ", there is no ",
            device == NULL ? "" : device);
    }
    kvn_doctor_say(doctor, OK, "backends", NULL, "tcp: built in");
}

void kvn_doctor_machine(struct kvn_doctor *doctor)
{
    check_kernel(doctor);
    check_memory(doctor);
    check_huge_pages(doctor);
    check_limits(doctor);
    check_clock(doctor);
    check_devices(doctor);
}
