#define _GNU_SOURCE

#include "node/daemon/nearby.h"

#include "base/fault.h"
#include "base/log.h"
#include "node/address.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(KVN_NEARBY_PATH_BYTES <= KV_MSG_PLACE_MAX + 1, "HELLO says it");

static bool same_host(const char *a, const char *b)
{
    struct kvn_address one, other;
    char why[128];
    return kvn_address_parse(a, &one, why, sizeof(why)) == KV_OK
           && kvn_address_parse(b, &other, why, sizeof(why)) == KV_OK
           && strcmp(one.host, other.host) == 0;
}

static bool may_be_near(const struct kvn_config *config, uint32_t self)
{
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        if (i != self
            && same_host(config->nodes[i].address, config->nodes[self].address)) {
            return true;
        }
    }
    return false;
}

/* Peers have another working folder. */
static kv_status_t
find_path(const struct kvn_config *config, char *path, char *line, size_t cap)
{
    const bool said = config->peers_path[0] != '\0';
    const char *name = said ? config->peers_path : config->unix_path;
    char folder[KVN_NEARBY_PATH_BYTES] = "";
    if (name[0] != '/' && (KV_FAULT() || getcwd(folder, sizeof(folder)) == NULL)) {
        snprintf(
            line, cap,
            "listen.peers: the working folder has no path of less than %d bytes: give "
            "listen.unix or listen.peers an absolute one",
            KVN_NEARBY_PATH_BYTES);
        return KV_ERR_CONFIG;
    }
    const int len = snprintf(
        path, KVN_NEARBY_PATH_BYTES, "%s%s%s%s", folder, folder[0] != '\0' ? "/" : "",
        name, said ? "" : ".peers");
    if (len >= KVN_NEARBY_PATH_BYTES) {
        snprintf(
            line, cap,
            "listen.peers: the path of %d bytes beside listen.unix is longer than %d: "
            "say a shorter one",
            len, KVN_NEARBY_PATH_BYTES - 1);
        return KV_ERR_CONFIG;
    }
    return KV_OK;
}

static kv_status_t find_boot(char *boot, size_t size)
{
    FILE *file = KV_FAULT() ? NULL : fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file == NULL) {
        return KV_ERR_IO;
    }
    const bool ok = fgets(boot, (int)size, file) != NULL;
    fclose(file);
    boot[strcspn(boot, "\n")] = '\0';
    return ok && boot[0] != '\0' ? KV_OK : KV_ERR_IO;
}

/* Equal for two processes that see one another's paths and process ids, as one user:
 * descriptors go by a socket's path, and a reader's death is told by its pidfd. */
static kv_status_t find_domain(char *domain, size_t size, char *line, size_t cap)
{
    static const char *const files[] = {"/proc/self/ns/mnt", "/proc/self/ns/pid"};
    struct stat ns[2];
    char boot[64];
    kv_status_t status = find_boot(boot, sizeof(boot));
    for (unsigned i = 0; i < 2 && status == KV_OK; i++) {
        status = KV_FAULT() || stat(files[i], &ns[i]) != 0 ? KV_ERR_IO : KV_OK;
    }
    if (status != KV_OK) {
        snprintf(
            line, cap,
            "listen.peers: /proc does not say which host and namespaces these are "
            "(boot_id, ns/mnt, ns/pid): mount it, or set link.transports = named");
        return KV_ERR_IO;
    }
    snprintf(
        domain, size, "%s %llu %llu %u", boot, (unsigned long long)ns[0].st_ino,
        (unsigned long long)ns[1].st_ino, (unsigned)geteuid());
    return KV_OK;
}

kv_status_t kvn_nearby_find(
    const struct kvn_config *config, uint32_t self, struct kvn_nearby *nearby,
    char *line, size_t cap)
{
    *nearby = (struct kvn_nearby){0};
    const bool alone = config->transports == KVN_TRANSPORTS_ONESIDED;
    const bool said = config->peers_path[0] != '\0';
    if (config->nr_nodes == 1 || !kvn_transports_shm(config->transports)
        || (!said && config->unix_path[0] == '\0')
        || (!alone && !said && !may_be_near(config, self))) {
        return KV_OK;
    }
    kv_status_t status = find_path(config, nearby->path, line, cap);
    if (status == KV_OK) {
        status =
            find_domain(nearby->domain, sizeof(nearby->domain), line, cap);
    }
    nearby->wanted = status == KV_OK;
    if (status != KV_OK && !alone && !said) {
        kv_log(KV_LOG_WARN, "data", "pages of this host's nodes go by tcp: %s", line);
        return KV_OK;
    }
    return status;
}
