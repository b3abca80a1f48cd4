#define _GNU_SOURCE
#include "node/bench/world.h"

#include "base/assert.h"
#include "node/bench/callgrind.h"
#include "node/bench/load.h"
#include "node/keygen.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    TRIES = 3,        /* another program may take a port before a node does */
    LOOK_MS = 20,     /* between two questions to a node that starts */
    ANSWER_MS = 1000, /* of one question */
};

/* ------------------------------------------------------------------ folder */

kv_status_t
kvn_bench_folder_make(struct kvn_bench_node *bench, char *folder, size_t cap)
{
    const char *parent = getenv("TMPDIR");
    if (parent == NULL || parent[0] == '\0') {
        parent = "/tmp";
    }
    (void)snprintf(folder, cap, "%s/kvrail-bench.XXXXXX", parent);
    if (mkdtemp(folder) == NULL) {
        const int error = errno;
        folder[0] = '\0';
        return kvn_figure_fail(
            bench, KV_ERR_IO, "no folder below %s: %s", parent, strerror(error));
    }
    return KV_OK;
}

/* No folders lie in it. */
void kvn_bench_folder_remove(const char *folder)
{
    DIR *dir = folder[0] != '\0' ? opendir(folder) : NULL;
    const struct dirent *entry;
    if (dir == NULL) {
        return;
    }
    while ((entry = readdir(dir)) != NULL) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
    (void)rmdir(folder);
}

static void
config_path(const struct kvn_world *world, unsigned node, char *out, size_t cap)
{
    (void)snprintf(out, cap, "%s/node-%u.conf", world->folder, node + 1);
}

static kv_status_t write_config(
    struct kvn_bench_node *bench, const struct kvn_world *world, unsigned node)
{
    const struct kvn_world_config *config = &world->config;
    char path[320], fill[96] = "";
    if (config->fill[node]) {
        (void)snprintf(
            fill, sizeof(fill), "domain = own\nfill = yes\ndevice_bytes = %llu\n",
            (unsigned long long)config->node_bytes[node]);
    }
    config_path(world, node, path, sizeof(path));
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        return kvn_figure_fail(bench, KV_ERR_IO, "%s: %s", path, strerror(errno));
    }
    (void)fprintf(file, "[cluster]\nname = bench\n[tls]\npsk = cluster.psk\n");
    for (unsigned i = 0; i < config->nr_nodes; i++) {
        (void)fprintf(
            file, "[node \"%u\"]\naddress = 127.0.0.1:%u\n", i + 1, world->ports[i]);
    }
    (void)fprintf(
        file,
        "[listen]\nclients = %s\n"
        "[client]\npoll = %s\n[pager]\ndevice_bytes = %llu\nhost_bytes = 0\n"
        "verify_local = %s\n"
        "[data]\nverify = %s\npopulate = true\nthreads = %u\n[link]\ntransports = %s\n"
        "[spill]\nenabled = %s\n[log]\nlevel = warn\n"
        "[space \"" KVN_WORLD_SPACE "\"]\nmodel = bench\nrevision = 1\n"
        "page_tokens = %u\npage_bytes = %llu\n"
        "[tenant \"%d\"]\nsecret = file:tenant.hex\n%s%s",
        config->remote ? "yes" : "no", config->poll,
        (unsigned long long)config->node_bytes[node], config->verify_local,
        config->verify_reads ? "true" : "false",
        config->threads == 0 ? 2 : config->threads, config->transports,
        config->spill ? "true" : "false", config->page_tokens,
        (unsigned long long)config->page_bytes, KVN_WORLD_TENANT,
        config->remote ? "client_psk = client.psk\n" : "", fill);
    const bool bad = ferror(file) != 0;
    if (fclose(file) != 0 || bad) {
        return kvn_figure_fail(bench, KV_ERR_IO, "%s: not written", path);
    }
    return KV_OK;
}

static kv_status_t
make_secrets(struct kvn_bench_node *bench, const struct kvn_world *world)
{
    static const struct {
        const char *name, *kind;
    } files[] = {
        {"cluster.psk", "pre-shared key"},
        {"tenant.hex", "secret"},
        {"client.psk", "pre-shared key"}};
    for (unsigned i = 0; i < KV_COUNT_OF(files); i++) {
        struct kvn_keygen_made made = {0};
        char path[320];
        (void)snprintf(path, sizeof(path), "%s/%s", world->folder, files[i].name);
        kv_status_t status = kvn_keygen_secret(path, files[i].kind, &made);
        if (status != KV_OK) {
            return kvn_figure_fail(bench, status, "%s", made.line);
        }
    }
    return KV_OK;
}

/* ------------------------------------------------------------------ start */

/* What a node has said last. */
static void last_line(const struct kvn_world *world, unsigned node, char *out, size_t n)
{
    char path[320], line[512];
    (void)snprintf(path, sizeof(path), "%s/node-%u.log", world->folder, node + 1);
    FILE *file = fopen(path, "re");
    out[0] = '\0';
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        (void)snprintf(out, n, "%.*s", (int)strcspn(line, "\n"), line);
    }
    if (file != NULL) {
        (void)fclose(file);
    }
}

/* Under callgrind everything takes fifty times as long, and nobody is to give up. */
static const char *const slow_sets[] = {
    "listen.handshake=60s", "listen.frame=60s", "liveness.suspect=60s",
    "liveness.lost=300s",   "link.grant=60s",   "link.call=60s",
    "link.double=30s",      "link.read=60s",    "link.revoke=60s",
    "spill.deadline=60s",
};
enum { NR_SLOW_SETS = KV_COUNT_OF(slow_sets) };

static kv_status_t
node_start(struct kvn_bench_node *bench, struct kvn_world *world, unsigned node)
{
    enum { SETS = 4, SET_BYTES = 384, ARGS = 4 + 2 * SETS + 2 * NR_SLOW_SETS };
    char program[600], config[320], log[320], sets[SETS][SET_BYTES];
    (void)snprintf(program, sizeof(program), "%s/kvraild", bench->bin);
    config_path(world, node, config, sizeof(config));
    (void)snprintf(log, sizeof(log), "%s/node-%u.log", world->folder, node + 1);
    (void)snprintf(sets[0], SET_BYTES, "cluster.node=%u", node + 1);
    (void)snprintf(
        sets[1], SET_BYTES, "listen.unix=%s/node-%u.sock", world->folder, node + 1);
    (void)snprintf(sets[2], SET_BYTES, "listen.http=127.0.0.1:%u", world->http[node]);
    (void)snprintf(
        sets[3], SET_BYTES, "pager.device_bytes=%llu",
        (unsigned long long)world->config.node_bytes[node]);
    char words[KVN_CALLGRIND_WORDS_MAX][KVN_CALLGRIND_WORD_BYTES];
    const char *argv[KVN_CALLGRIND_WORDS_MAX + ARGS] = {NULL};
    unsigned nr = bench->callgrind == NULL
                      ? 0
                      : kvn_callgrind_words(bench->callgrind, world->folder, words);
    for (unsigned i = 0; i < nr; i++) {
        argv[i] = words[i];
    }
    argv[nr++] = program;
    argv[nr++] = "--config";
    argv[nr++] = config;
    for (unsigned i = 0; i < SETS; i++) {
        argv[nr++] = "--set";
        argv[nr++] = sets[i];
    }
    for (unsigned i = 0; bench->callgrind != NULL && i < NR_SLOW_SETS; i++) {
        argv[nr++] = "--set";
        argv[nr++] = slow_sets[i];
    }
    if (access(program, X_OK) != 0) {
        return kvn_figure_fail(
            bench, KV_ERR_CONFIG, "%s: %s", program, strerror(errno));
    }
    const int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0) {
        return kvn_figure_fail(bench, KV_ERR_IO, "%s: %s", log, strerror(errno));
    }
    kv_status_t status = kvn_child_start(&world->nodes[node], argv, out);
    const int error = errno;
    close(out);
    return status == KV_OK
               ? KV_OK
               : kvn_figure_fail(bench, status, "%s: %s", program, strerror(error));
}

/* The body of /healthz; "" when nobody answers. */
static void healthz(unsigned port, char *text, size_t cap)
{
    static const char ask[] = "GET /healthz HTTP/1.0\r\n\r\n";
    const struct timeval wait = {
        .tv_usec = ANSWER_MS * 1000 % 1000000, .tv_sec = ANSWER_MS / 1000};
    const struct sockaddr_in at = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    size_t len = 0;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    text[0] = '\0';
    if (fd < 0) {
        return;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    if (connect(fd, (const struct sockaddr *)&at, sizeof(at)) == 0
        && send(fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL) == (ssize_t)sizeof(ask) - 1) {
        ssize_t n;
        while (len + 1 < cap && (n = recv(fd, text + len, cap - 1 - len, 0)) > 0) {
            len += (size_t)n;
        }
        text[len] = '\0';
    }
    close(fd);
}

static bool node_linked(const struct kvn_world *world, unsigned node)
{
    char text[2048], want[32];
    healthz(world->http[node], text, sizeof(text));
    (void)snprintf(want, sizeof(want), "\"links_up\":%u,", world->config.nr_nodes - 1);
    return strstr(text, want) != NULL;
}

static kv_status_t
alive(struct kvn_bench_node *bench, struct kvn_world *world, unsigned wait_ms)
{
    for (unsigned i = 0; i < world->config.nr_nodes && !world->config.embedded; i++) {
        char line[400];
        int status = KVN_CHILD_LOST;
        if (world->nodes[i].pid != 0) {
            status = kvn_child_wait(&world->nodes[i], wait_ms);
        }
        if (status != KVN_CHILD_RUNS) {
            last_line(world, i, line, sizeof(line));
            return kvn_figure_fail(
                bench, KV_ERR_CONFIG, "node %u has ended with %d%s%s", i + 1, status,
                line[0] != '\0' ? ": " : "", line);
        }
    }
    return KV_OK;
}

kv_status_t kvn_world_blame(
    struct kvn_bench_node *bench, struct kvn_world *world, kv_status_t status)
{
    if (status == KV_OK || kvn_figure_stopped(bench) || world->folder[0] == '\0') {
        return status;
    }
    kv_status_t dead = alive(bench, world, KVN_WORLD_DIE_MS);
    return dead != KV_OK ? dead : status;
}

static kv_status_t wait_linked(struct kvn_bench_node *bench, struct kvn_world *world)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    for (unsigned ms = 0; ms < KVN_WORLD_START_MS; ms += LOOK_MS) {
        unsigned nr = 0;
        while (nr < world->config.nr_nodes && node_linked(world, nr)) {
            nr++;
        }
        if (nr == world->config.nr_nodes) {
            return KV_OK;
        }
        kv_status_t status = alive(bench, world, 0);
        if (status != KV_OK) {
            return status;
        }
        if (kvn_figure_stopped(bench)) {
            return kvn_figure_fail(bench, KV_ERR_CANCELLED, "stopped by a signal");
        }
        nanosleep(&pause, NULL);
    }
    return kvn_figure_fail(
        bench, KV_ERR_DEADLINE, "the nodes are not linked after %d s",
        KVN_WORLD_START_MS / 1000);
}

static void counters_open(struct kvn_bench_node *bench, struct kvn_world *world);

static kv_status_t start_once(struct kvn_bench_node *bench, struct kvn_world *world)
{
    kv_status_t status =
        kvn_bench_folder_make(bench, world->folder, sizeof(world->folder));
    for (unsigned i = 0; i < world->config.nr_nodes; i++) {
        world->ports[i] = kvn_child_free_port();
        world->http[i] = kvn_child_free_port();
    }
    if (status == KV_OK) {
        status = make_secrets(bench, world);
    }
    for (unsigned i = 0; status == KV_OK && i < world->config.nr_nodes; i++) {
        status = write_config(bench, world, i);
    }
    if (world->config.embedded) {
        return status; /* the first kvr_open() starts it */
    }
    for (unsigned i = 0; status == KV_OK && i < world->config.nr_nodes; i++) {
        status = node_start(bench, world, i);
    }
    return status == KV_OK ? wait_linked(bench, world) : status;
}

kv_status_t kvn_world_start(
    struct kvn_bench_node *bench, const struct kvn_world_config *config,
    struct kvn_world *world)
{
    KV_ASSERT(config->nr_nodes >= 1 && config->nr_nodes <= KVN_WORLD_NODES_MAX);
    kv_status_t status = KV_OK;
    for (unsigned i = 0; i < TRIES; i++) {
        *world = (struct kvn_world){.bench = bench, .config = *config};
        status = start_once(bench, world);
        if (status == KV_OK && !config->embedded && bench->callgrind == NULL) {
            counters_open(bench, world);
        }
        if (status == KV_OK) {
            return KV_OK;
        }
        const bool busy = strstr(bench->line, "in use") != NULL;
        kvn_world_stop(world);
        if (!busy) {
            break;
        }
    }
    return status;
}

void kvn_world_stop(struct kvn_world *world)
{
    for (unsigned i = 0; i < world->config.nr_nodes; i++) {
        for (unsigned t = 0; t < world->nr_counters[i]; t++) {
            close(world->counters[i][t]);
        }
        if (world->nodes[i].pid != 0) {
            (void)kill(world->nodes[i].pid, SIGTERM); /* all at once */
        }
    }
    for (unsigned i = 0; i < world->config.nr_nodes; i++) {
        (void)kvn_child_stop(&world->nodes[i], KVN_WORLD_STOP_MS);
    }
    kvn_bench_folder_remove(world->folder);
    *world = (struct kvn_world){0};
}

void kvn_world_target(
    const struct kvn_world *world, unsigned node, char *out, size_t cap)
{
    char path[320];
    if (world->config.embedded) {
        config_path(world, node, path, sizeof(path));
        (void)snprintf(out, cap, "embed:%s", path);
    } else if (world->config.remote) {
        (void)snprintf(
            out, cap, "tls://127.0.0.1:%u?cluster=bench&psk=%s/client.psk&verify=%s",
            world->ports[node], world->folder,
            world->config.verify_reads ? "on" : "off");
    } else {
        (void)snprintf(out, cap, "unix:%s/node-%u.sock", world->folder, node + 1);
    }
}

/* ------------------------------------------------------------------ spending */

double kvn_process_cpu_s(pid_t pid)
{
    clockid_t clock;
    struct timespec ts;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) != 0) {
        return -1;
    }
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void counters_open(struct kvn_bench_node *bench, struct kvn_world *world)
{
    for (unsigned i = 0; bench->counters == NULL && i < world->config.nr_nodes; i++) {
        char path[64];
        const struct dirent *entry;
        (void)snprintf(path, sizeof(path), "/proc/%d/task", (int)world->nodes[i].pid);
        DIR *dir = opendir(path);
        while (dir != NULL && (entry = readdir(dir)) != NULL) {
            const long tid = strtol(entry->d_name, NULL, 10);
            const int fd = tid > 0 ? kvn_counter_open((pid_t)tid) : -1;
            if (fd >= 0 && world->nr_counters[i] < KVN_WORLD_TASKS_MAX) {
                world->counters[i][world->nr_counters[i]++] = fd;
            } else if (fd >= 0) {
                close(fd);
            }
        }
        if (dir != NULL) {
            (void)closedir(dir);
        }
    }
}

/* False: not counted. */
static bool counts_cut(const struct kvn_world *world, struct kvn_counts *counts)
{
    for (unsigned i = 0; i < world->config.nr_nodes; i++) {
        if (kvn_callgrind_cut(
                world->bench, world->folder, world->nodes[i].pid, counts)
            != KV_OK) {
            return false;
        }
    }
    return true;
}

/* False: not counted. */
static bool counts_take(const struct kvn_world *world)
{
    struct kvn_bench_node *bench = world->bench;
    *bench->counts = (struct kvn_counts){0};
    if (!counts_cut(world, bench->counts)) {
        return false;
    }
    if (bench->idle_s > 0) {
        const double from = kvn_now_s();
        while (kvn_now_s() - from < bench->idle_s && !kvn_figure_stopped(bench)) {
            nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
        }
        *bench->idle = (struct kvn_counts){0};
        bench->idle_s = kvn_now_s() - from;
        return counts_cut(world, bench->idle);
    }
    return true;
}

struct kvn_spent kvn_world_spent(const struct kvn_world *world)
{
    struct kvn_spent spent = {.cpu_s = world->config.embedded ? -1 : 0};
    unsigned nr = 0;
    for (unsigned i = 0; i < world->config.nr_nodes && !world->config.embedded; i++) {
        const double cpu_s = kvn_process_cpu_s(world->nodes[i].pid);
        spent.cpu_s = cpu_s < 0 || spent.cpu_s < 0 ? -1 : spent.cpu_s + cpu_s;
        for (unsigned t = 0; t < world->nr_counters[i]; t++) {
            uint64_t value = 0;
            if (read(world->counters[i][t], &value, sizeof(value)) == sizeof(value)) {
                spent.instructions += (double)value;
                nr++;
            }
        }
    }
    spent.instructions = nr > 0 ? spent.instructions : -1;
    if (world->bench->callgrind != NULL) {
        spent.instructions = counts_cut(world, NULL) ? 0 : -1;
    }
    return spent;
}

void kvn_world_charge(
    const struct kvn_world *world, const struct kvn_spent *before,
    struct kvn_take *take)
{
    if (world->bench->callgrind != NULL) {
        take->instructions = before->instructions == 0 && counts_take(world)
                                 ? world->bench->counts->all
                                 : -1;
        return;
    }
    const struct kvn_spent now = kvn_world_spent(world);
    take->cpu_s = before->cpu_s < 0 || now.cpu_s < 0 ? -1 : now.cpu_s - before->cpu_s;
    take->instructions = before->instructions < 0 || now.instructions < 0
                             ? -1
                             : now.instructions - before->instructions;
    if (world->config.embedded) {
        take->client_cpu_s = -1; /* the nodes are in this process, too */
    }
}
