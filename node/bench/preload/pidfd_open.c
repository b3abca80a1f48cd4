/* A measuring tool, for LD_PRELOAD into a kvraild whose instructions callgrind counts
 * (node/bench/callgrind.h); no part of the node. valgrind 3.19 does not know the call
 * pidfd_open, without which a node takes no client. Here it gives a descriptor that
 * never becomes readable: to that node its clients do not die. They hang up, as ever,
 * when they close; but what waits for a process's death waits for ever, so nobody is to
 * be served by such a node for real.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

enum { WORDS = 6 }; /* that any system call takes */

/* In the place of the C library's. */
long kvn_preload_syscall(long number, ...) __asm__("syscall");

long kvn_preload_syscall(long number, ...)
{
    static long (*real)(long number, ...);
    long words[WORDS];
    va_list args;
    if (number == SYS_pidfd_open) {
        return eventfd(0, EFD_CLOEXEC);
    }
    va_start(args, number);
    for (unsigned i = 0; i < WORDS; i++) {
        words[i] = va_arg(args, long);
    }
    va_end(args);
    if (real == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "syscall");
        memcpy(&real, &symbol, sizeof(real));
    }
    return real(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}
