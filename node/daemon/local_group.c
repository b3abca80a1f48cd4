/* Who beside the owner may connect to the clients' socket. */
#define _GNU_SOURCE
#include "node/daemon/local_priv.h"

#include "base/option.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of the group's name or number. */
static bool group_find(const char *group, gid_t *gid)
{
    char room[4096];
    struct group entry, *found = NULL;
    uint64_t number;
    if (kv_parse_uint(group, &number) == KV_OK && number < UINT32_MAX) {
        *gid = (gid_t)number;
        return true;
    }
    if (KV_FAULT() || getgrnam_r(group, &entry, room, sizeof(room), &found) != 0
        || found == NULL) {
        return false;
    }
    *gid = found->gr_gid;
    return true;
}

kv_status_t
kvn_local_group_give(const struct kvn_local_config *config, char *line, size_t cap)
{
    gid_t gid = (gid_t)-1;
    if (!config->group_too) {
        return KV_OK;
    }
    const char *group = config->group != NULL ? config->group : "";
    if (group[0] != '\0' && !group_find(group, &gid)) {
        (void)snprintf(
            line, cap, "listen.unix_group: there is no group '%.64s' on this machine",
            group);
        return KV_ERR_CONFIG;
    }
    if (KV_FAULT() || (gid != (gid_t)-1 && lchown(config->path, (uid_t)-1, gid) != 0)
        || chmod(config->path, 0660) != 0) {
        (void)snprintf(
            line, cap,
            "%s: cannot be given to group '%.64s': %s: this process's user must be in "
            "that group",
            config->path, group, strerror(errno));
        return KV_ERR_CONFIG;
    }
    return KV_OK;
}
