/* Who may ask the node about itself, by the uid that the kernel named when the socket
 * connected: the node's own uid and root may ask everything; a tenant's uid what
 * concerns its tenants; nobody else is told anything, not even what there is. */
#define _GNU_SOURCE /* struct ucred */
#include "node/daemon/local_priv.h"

#include <unistd.h>

static struct kvn_local_asker asker_of(const kvn_local_t *local, uid_t uid)
{
    struct kvn_local_asker asker = {.operates = uid == 0 || uid == geteuid()};
    for (uint32_t i = 0; i < local->told.nr_tenants; i++) {
        bool covers = asker.operates;
        for (uint32_t u = 0; u < local->uids[i].nr && !covers; u++) {
            covers = local->uids[i].uids[u] == uid;
        }
        asker.tenants |= (uint64_t)covers << i;
    }
    return asker;
}

static kv_status_t told(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct kvn_packet_ask *ask, int *fd_p, uint64_t *bytes_p,
    struct kv_detail *detail)
{
    const struct kvn_local_events *events = &conn->local->events;
    const struct kvn_local_asker asker = asker_of(conn->local, conn->uid);
    if (events->ask == NULL || (!asker.operates && asker.tenants == 0)) {
        return KV_ERR_DENIED;
    }
    return events->ask(events->arg, &asker, packet->tenant, ask, fd_p, bytes_p, detail);
}

/* One question, one answer, and the connection ends. */
void kvn_local_conn_asked(
    struct local_conn *conn, const struct kvn_packet *packet,
    const struct kvn_packet_ask *ask, const struct ucred *sender)
{
    kvn_local_t *local = conn->local;
    struct kv_detail detail = {0};
    struct kvn_packet reply;
    int fd = -1;
    kvn_packet_init(&reply, KVN_PACKET_REPORT);
    kv_status_t status =
        kvn_local_same_process(conn, packet, sender)
            ? told(conn, packet, ask, &fd, &reply.bytes, &detail)
            : KV_ERR_DENIED;
    if (status == KV_OK) {
        local->counts.reported += kvn_local_conn_say(conn, &reply, sizeof(reply), fd);
        close(fd);
    } else {
        local->counts.refused++;
        if (status == KV_ERR_DENIED) {
            kvn_local_note(
                local, "client pid %d uid %u asked what it may not know",
                (int)conn->pid, conn->uid);
        }
        (void)kvn_local_conn_refuse(conn, 0, status, &detail);
    }
    kvn_local_conn_end(conn);
}
