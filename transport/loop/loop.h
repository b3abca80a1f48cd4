/* Which ports the loop transport can reach: those of this process.
 *
 * Threading: any thread. Ownership: the caller's bytes. Errors: KV_ERR_IO, no random
 * bytes or no memory for the handlers of fork().
 */
#ifndef KVT_LOOP_H
#define KVT_LOOP_H

#include "base/status.h"

enum { KVT_LOOP_DOMAIN_BYTES = 33 }; /* 16 random bytes as text, with the NUL */

/* Equal for two callers only if they are of one process; a child of fork() has its own.
 * An address means something in the domain in which its port was created. */
kv_status_t kvt_loop_domain(char domain[KVT_LOOP_DOMAIN_BYTES]);

#endif
