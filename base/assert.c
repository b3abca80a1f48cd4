#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

/* Written straight to stderr: the log may be what is broken. */
_Noreturn void kv_assert_failed(const char *expr, const char *file, int line)
{
    fprintf(stderr, "assertion failed: %s, %s line %d\n", expr, file, line);
    fflush(stderr);
    abort();
}
