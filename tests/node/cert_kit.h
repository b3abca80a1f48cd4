/* Credentials for tests: a folder of mkdtemp() with an authority, and certificates as
 * odd as a test wants them.
 *
 * Threading: one thread. Ownership: cert_kit_remove() takes the folder away, with
 * whatever files are in it; what cert_kit_load*() gave is the caller's. Units: seconds.
 * Errors: the test fails.
 */
#ifndef TESTS_NODE_CERT_KIT_H
#define TESTS_NODE_CERT_KIT_H

#include "node/daemon/tls.h"

struct cert_kit {
    char folder[64];
};

/* With ca.pem and ca.key, and psk with a pre-shared key. */
void cert_kit_make(struct cert_kit *kit);
void cert_kit_remove(struct cert_kit *kit);

/* FOLDER/NAME; one of 32 buffers that are used in turn. */
const char *cert_kit_path(const struct cert_kit *kit, const char *name);

/* NAME.pem and NAME.key, signed by the authority: `names` as in "URI:a,URI:b" (NULL:
 * none), valid between these seconds from now; `use` as in "serverAuth" (NULL: any). */
struct cert_kit_spec {
    const char *names;
    int64_t from_s, until_s;
    const char *use;
};
void cert_kit_sign(
    const struct cert_kit *kit, const char *name, const struct cert_kit_spec *spec);
/* An ordinary one of the node: node-ID.pem and .key. */
void cert_kit_node(const struct cert_kit *kit, const char *cluster, uint32_t node);

void cert_kit_write(const char *path, const void *bytes, size_t len, unsigned mode);

/* Loads, and fails the test where that fails. */
kvn_tls_t *cert_kit_load_psk(const struct cert_kit *kit, uint32_t node);
kvn_tls_t *cert_kit_load(const struct cert_kit *kit, uint32_t node);

#endif
