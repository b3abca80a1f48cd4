#include "node/bar.h"

#include <stdio.h>
#include <string.h>
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
