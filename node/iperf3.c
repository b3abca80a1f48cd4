#define _GNU_SOURCE
#include "node/iperf3.h"

#include "node/child.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    RUNS = 3,   /* another program may take the port before the server does */
    TRIES = 40, /* until the server listens */
    TRY_MS = 50,
    STEP_MS = 20,
    TEXT_BYTES = 1 << 20,
};

static double number_after(const char *text, const char *section, const char *name)
{
    const char *at = strstr(text, section);

    at = at == NULL ? NULL : strstr(at, name);
    at = at == NULL ? NULL : strchr(at, ':');
    return at == NULL ? 0 : strtod(at + 1, NULL);
}

static bool wants_stop(const atomic_int *stop)
{
    return stop != NULL && atomic_load(stop) != 0;
}

/* Its status; KVN_CHILD_RUNS when it was given up. */
static int wait_client(struct kvn_child *client, const atomic_int *stop)
{
    for (unsigned ms = 0; ms < KVN_IPERF3_RUN_MS && !wants_stop(stop); ms += STEP_MS) {
        const int status = kvn_child_wait(client, STEP_MS);
        if (status != KVN_CHILD_RUNS) {
            return status;
        }
    }
    return KVN_CHILD_RUNS;
}

static kv_status_t read_figures(int fd, struct kvn_iperf3 *out)
{
    char *text = malloc(TEXT_BYTES);
    if (text == NULL) {
        return KV_ERR_NOMEM;
    }
    const ssize_t len = pread(fd, text, TEXT_BYTES - 1, 0);
    text[len > 0 ? len : 0] = '\0';
    const char *sum = "\"sum_received\"", *cpu = "\"cpu_utilization_percent\"";
    out->gb_s = number_after(text, sum, "\"bits_per_second\"") / 8e9;
    out->seconds = number_after(text, sum, "\"seconds\"");
    const double percent = number_after(text, cpu, "\"host_total\"")
                           + number_after(text, cpu, "\"remote_total\"");
    out->cpu_s_gb = out->gb_s > 0 ? percent / 100 / out->gb_s : 0;
    free(text);
    return out->gb_s > 0 && out->seconds > 0 ? KV_OK : KV_ERR_IO;
}

static kv_status_t run_client(
    const char *const *argv, const atomic_int *stop, int fd, struct kvn_iperf3 *out)
{
    for (unsigned i = 0; i < TRIES && !wants_stop(stop); i++) {
        struct kvn_child client;
        if (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0
            || kvn_child_start(&client, argv, fd) != KV_OK) {
            return KV_ERR_IO;
        }
        const int status = wait_client(&client, stop);
        if (status == KVN_CHILD_RUNS) {
            (void)kvn_child_stop(&client, 0);
            return KV_ERR_IO;
        }
        /* With -J it ends with 0 too when nobody listens yet: without a figure. */
        if (status == 0 && read_figures(fd, out) == KV_OK) {
            return KV_OK;
        }
        nanosleep(&(struct timespec){.tv_nsec = TRY_MS * 1000000L}, NULL);
    }
    return KV_ERR_IO;
}

static kv_status_t run_once(
    const char *path, uint64_t bytes, uint32_t nr_streams, const atomic_int *stop,
    struct kvn_iperf3 *out)
{
    char port[16], bytes_text[32], streams[16];
    const char *const server_argv[] = {path,        "-s", "-1", "-B",
                                       "127.0.0.1", "-p", port, NULL};
    const char *const client_argv[] = {path, "-J",       "-c", "127.0.0.1", "-p", port,
                                       "-n", bytes_text, "-P", streams,     NULL};
    struct kvn_child server;

    (void)snprintf(port, sizeof(port), "%u", kvn_child_free_port());
    (void)snprintf(bytes_text, sizeof(bytes_text), "%llu", (unsigned long long)bytes);
    (void)snprintf(streams, sizeof(streams), "%u", nr_streams);
    const int null = memfd_create("iperf3-server", MFD_CLOEXEC);
    const int fd = memfd_create("iperf3", MFD_CLOEXEC);
    kv_status_t status = null < 0 || fd < 0 ? KV_ERR_IO : KV_OK;
    if (status == KV_OK) {
        status = kvn_child_start(&server, server_argv, null);
    }
    if (status == KV_OK) {
        status = run_client(client_argv, stop, fd, out);
        (void)kvn_child_stop(&server, 0);
    }
    if (null >= 0) {
        close(null);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

kv_status_t kvn_iperf3_run(
    uint64_t bytes, uint32_t nr_streams, const atomic_int *stop, struct kvn_iperf3 *out)
{
    char path[512];
    kv_status_t status = KV_ERR_IO;

    if (!kvn_child_find("iperf3", path, sizeof(path))) {
        return KV_ERR_CONFIG;
    }
    for (unsigned i = 0; i < RUNS && status == KV_ERR_IO && !wants_stop(stop); i++) {
        status = run_once(path, bytes, nr_streams, stop, out);
    }
    return status;
}
