/* What nodes of one host need to read each other's memory: a socket whose path means
 * the same to both, and a text that is equal only where descriptors, process ids and
 * users mean the same.
 *
 *   config, this host ──► path, domain ──► transport port ("shm"), HELLO
 *
 * Wanted where `link.transports` allows it, there is a socket (listen.peers, or one
 * beside listen.unix), and some other node may be here: its address has our host, or
 * listen.peers was said. Without it, page memory stays private, in huge pages.
 *
 * Threading: at start, by the loop. Ownership: values; nothing of the config is kept.
 * Errors: as said below, one line each.
 */
#ifndef KVN_NEARBY_H
#define KVN_NEARBY_H

#include "node/config.h"

enum { KVN_NEARBY_PATH_BYTES = 108 }; /* of a Unix socket's path, with its NUL */

struct kvn_nearby {
    bool wanted;
    char path[KVN_NEARBY_PATH_BYTES]; /* absolute */
    char domain[KV_MSG_PLACE_MAX + 1];
};

/* For member `self` of the config. What `both` cannot have is one line in the log;
 * CONFIG and IO, with one line, where nothing but one-sided reads is allowed. */
kv_status_t kvn_nearby_find(
    const struct kvn_config *config, uint32_t self, struct kvn_nearby *nearby,
    char *line, size_t cap);

#endif
