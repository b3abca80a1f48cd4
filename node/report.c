#include "node/report.h"

#include "node/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 40 };

void kvn_bar_draw(void *arg, uint32_t done, uint32_t of)
{
    uint32_t *drawn = arg;
    const uint32_t promille = (uint32_t)((uint64_t)done * 1000 / of);
    if (promille == *drawn && done < of) {
        return;
    }
    *drawn = promille;
    char bar[BAR_CELLS + 1];
    const uint32_t full = promille * BAR_CELLS / 1000;
    memset(bar, '.', BAR_CELLS);
    memset(bar, '#', full);
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\r[%s] %5.1f %%", bar, promille / 10.0);
    if (done == of) {
        fprintf(stderr, "\r%*s\r", BAR_CELLS + 12, "");
    }
    fflush(stderr);
}

kvn_bar_fn kvn_bar_wanted(void)
{
    return isatty(STDERR_FILENO) ? kvn_bar_draw : NULL;
}

int kvn_report_json(json_t *root, const char *path)
{
    FILE *file = path != NULL ? fopen(path, "w") : stdout;
    if (file == NULL) {
        perror(path);
        json_decref(root);
        return KVN_EXIT_FAILED;
    }
    int ret = json_dumpf(
        root, file, JSON_INDENT(2) | JSON_REAL_PRECISION(6) | JSON_PRESERVE_ORDER);
    json_decref(root);
    ret |= fputc('\n', file) == EOF ? -1 : 0;
    ret |= path != NULL ? fclose(file) : fflush(file);
    if (ret != 0) {
        fprintf(stderr, "%s: not written\n", path != NULL ? path : "stdout");
    }
    return ret == 0 ? KVN_EXIT_OK : KVN_EXIT_FAILED;
}

json_t *kvn_json_uint(uint64_t value)
{
    return json_integer((json_int_t)value);
}

double kvn_report_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

const char *kvn_text_bytes(uint64_t bytes, char out[KVN_TEXT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    for (; value >= 1024 && unit < 6; unit++) {
        value /= 1024;
    }
    (void)snprintf(
        out, KVN_TEXT_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

const char *kvn_text_time(uint64_t us, char out[KVN_TEXT_BYTES])
{
    const uint64_t s = us / 1000000;
    if (us < 1000) {
        (void)snprintf(out, KVN_TEXT_BYTES, "%" PRIu64 " us", us);
    } else if (us < 1000000) {
        (void)snprintf(out, KVN_TEXT_BYTES, "%.1f ms", (double)us / 1e3);
    } else if (s < 60) {
        (void)snprintf(out, KVN_TEXT_BYTES, "%.1f s", (double)us / 1e6);
    } else if (s < 3600) {
        (void)snprintf(
            out, KVN_TEXT_BYTES, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    } else if (s < 86400) {
        (void)snprintf(
            out, KVN_TEXT_BYTES, "%" PRIu64 " h %" PRIu64 " min", s / 3600,
            s % 3600 / 60);
    } else {
        (void)snprintf(
            out, KVN_TEXT_BYTES, "%" PRIu64 " d %" PRIu64 " h", s / 86400,
            s % 86400 / 3600);
    }
    return out;
}

const char *kvn_text_bar(uint64_t used, uint64_t of, char out[KVN_TEXT_BYTES])
{
    uint64_t full = 0;
    if (of > 0) { /* some is never shown as none, nor less than all as all */
        full = (uint64_t)((double)used / (double)of * KVN_TEXT_BAR_CELLS);
        full += full == 0 && used > 0;
        full = full < KVN_TEXT_BAR_CELLS ? full : KVN_TEXT_BAR_CELLS;
    }
    memset(out, '.', KVN_TEXT_BAR_CELLS);
    memset(out, '#', (size_t)full);
    out[KVN_TEXT_BAR_CELLS] = '\0';
    return out;
}
