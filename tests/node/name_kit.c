#define _GNU_SOURCE
#include "tests/node/name_kit.h"

#include <dlfcn.h>
#include <netdb.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

static const char *slow_name;
static unsigned slow_us;

void name_kit_slow(const char *name, unsigned us)
{
    slow_name = name;
    slow_us = us;
}

__attribute__((visibility("default"))) int getaddrinfo(
    const char *name, const char *service, const struct addrinfo *hints,
    struct addrinfo **list)
{
    static int (*real)(
        const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (name != NULL && slow_name != NULL && strcmp(name, slow_name) == 0) {
        (void)usleep(slow_us);
        return EAI_NONAME;
    }
    if (real == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
        memcpy(&real, &symbol, sizeof(real));
    }
    return real(name, service, hints, list);
}
