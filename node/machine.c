#include "node/machine.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

void kvn_machine_cpu(char *out, size_t cap)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(out, cap, "unknown");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", strlen("model name")) == 0 && colon != NULL) {
            snprintf(out, cap, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

void kvn_machine_kernel(char *out, size_t cap)
{
    struct utsname name;
    if (uname(&name) == 0) {
        snprintf(out, cap, "%s %s %s", name.sysname, name.release, name.machine);
    } else {
        snprintf(out, cap, "unknown");
    }
}

const char *kvn_machine_compiler(void)
{
#if defined(__clang__)
    return __VERSION__;
#else
    return "gcc " __VERSION__;
#endif
}
