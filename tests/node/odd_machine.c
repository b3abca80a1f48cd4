/* A machine that is not as it should be, around a program that does not know: for
 * LD_PRELOAD, by tests/node/bad_input_test.py.
 *
 *   KVRAIL_ODD_CLOCK_S=N   the wall clock is N seconds ahead (behind, if negative)
 *   KVRAIL_ODD_NAMES_S=N   a name that is no number takes N seconds to resolve, in vain
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static long setting(const char *name)
{
    const char *text = getenv(name);
    return text != NULL ? strtol(text, NULL, 10) : 0;
}

__attribute__((visibility("default"))) time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += setting("KVRAIL_ODD_CLOCK_S");
    if (at != NULL) {
        *at = now.tv_sec;
    }
    return now.tv_sec;
}

__attribute__((visibility("default"))) int getaddrinfo(
    const char *name, const char *service, const struct addrinfo *hints,
    struct addrinfo **list)
{
    static int (*real)(
        const char *, const char *, const struct addrinfo *, struct addrinfo **);
    struct in_addr number;
    const long wait_s = setting("KVRAIL_ODD_NAMES_S");
    if (wait_s > 0 && name != NULL && inet_pton(AF_INET, name, &number) != 1) {
        sleep((unsigned)wait_s);
        return EAI_AGAIN;
    }
    if (real == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
        memcpy(&real, &symbol, sizeof(real));
    }
    return real(name, service, hints, list);
}
