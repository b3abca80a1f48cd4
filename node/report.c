#include "node/report.h"

#include "node/verbs.h"

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
