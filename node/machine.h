/* What the figures were taken on, in words.
 *
 * Threading: any. Ownership: the caller's text. Errors: none; "unknown" where the
 * machine does not say.
 */
#ifndef KVN_MACHINE_H
#define KVN_MACHINE_H

#include <stddef.h>

/* As /proc/cpuinfo says it; "unknown" where that has no such line. */
void kvn_machine_cpu(char *out, size_t cap);
/* "Linux 6.1.0 x86_64" */
void kvn_machine_kernel(char *out, size_t cap);
/* "gcc 12.2.0" */
const char *kvn_machine_compiler(void);

#endif
