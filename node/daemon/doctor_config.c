/* What a start with this configuration would need, without starting. */
#define _GNU_SOURCE
#include "node/address.h"
#include "node/daemon/doctor.h"
#include "node/daemon/node_priv.h"
#include "node/daemon/tls.h"

#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 700, LINE_BYTES = 512 };

#define OK KVN_DOCTOR_OK
#define NOTE KVN_DOCTOR_NOTE
#define WARN KVN_DOCTOR_WARN
#define FAIL KVN_DOCTOR_FAIL

static void check_self(struct kvn_doctor *doctor)
{
    const struct kvn_config *config = doctor->config;
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        if (config->nodes[i].id == config->self
            || (config->self == 0 && config->nr_nodes == 1)) {
            doctor->self = i;
        }
    }
    kvn_doctor_say(
        doctor, OK, "config", NULL, "%.200s loads: nodes %u, tenants %u, spaces %u",
        config->path, config->nr_nodes, config->nr_tenants, config->nr_spaces);
    if (doctor->self != KVC_NO_NODE) {
        kvn_doctor_say(
            doctor, OK, "config", NULL, "this is node %u",
            config->nodes[doctor->self].id);
        return;
    }
    kvn_doctor_say(
        doctor, WARN, "config",
        "--set cluster.node=ID, or KVRAIL_CLUSTER_NODE; ports and certificates were "
        "not checked",
        "cluster.node is %" PRIu64 ", none of its %u nodes", config->self,
        config->nr_nodes);
}

/* What node/core says to it. */
static void check_core(struct kvn_doctor *doctor)
{
    const struct kvn_config *config = doctor->config;
    struct kvo_config *core = kv_calloc(1, sizeof(*core));
    struct kv_detail detail = {0};
    char line[LINE_BYTES];
    const kv_status_t status =
        core == NULL ? KV_ERR_NOMEM
                     : kvn_config_core(
                         config, config->nodes[doctor->self].id, 1, 1, core, &detail);
    if (status != KV_OK) {
        kv_detail_format(&detail, status, line, sizeof(line));
        kvn_doctor_say(
            doctor, FAIL, "config", NULL, "%.*s", KVN_DOCTOR_TEXT_BYTES - 1, line);
    }
    kv_free(core);
}

/* ---- credentials ----------------------------------------------------------------- */

static void say_expiry(struct kvn_doctor *doctor, int64_t seconds)
{
    const int64_t days = seconds / 86400;
    const bool soon = days < KVN_DOCTOR_EXPIRY_DAYS;
    if (seconds == INT64_MAX) {
        kvn_doctor_say(doctor, OK, "credentials", NULL, "a pre-shared key, mode 0600");
        return;
    }
    kvn_doctor_say(
        doctor, soon ? WARN : OK, "credentials",
        soon ? "kvrail keygen makes a new one of the same authority" : NULL,
        "a certificate that ends in %" PRId64 " days", days);
}

static void check_tls(struct kvn_doctor *doctor)
{
    const struct kvn_config *config = doctor->config;
    char psk[PATH_BYTES], ca[PATH_BYTES], cert[PATH_BYTES], key[PATH_BYTES];
    char line[LINE_BYTES];
    kvn_tls_t *tls = NULL;
    kvn_config_path(config, config->tls_psk, psk, sizeof(psk));
    kvn_config_path(config, config->tls_ca, ca, sizeof(ca));
    kvn_config_path(config, config->tls_cert, cert, sizeof(cert));
    kvn_config_path(config, config->tls_key, key, sizeof(key));
    if (config->nr_nodes == 1 && !config->remote_clients) {
        kvn_doctor_say(doctor, OK, "credentials", NULL, "none needed: no other member");
        return;
    }
    if (config->clear) {
        kvn_doctor_say(
            doctor, WARN, "credentials", "kvrail keygen --psk FILE, and tls.psk = FILE",
            "tls.clear: links have none, every process of this machine may be a node");
        return;
    }
    if (psk[0] == '\0' && ca[0] == '\0') {
        kvn_doctor_say(
            doctor, FAIL, "credentials", "kvrail keygen makes them",
            "none are given for links");
        return;
    }
    struct kvn_tls_tenant tenants[KVP_TENANTS_MAX];
    char paths[KVP_TENANTS_MAX][KVN_NODE_PATH_BYTES];
    const struct kvn_tls_config wanted = {
        .clients = config->remote_clients,
        .tenants = tenants,
        .nr_tenants = kvn_node_remote_tenants(config, tenants, paths),
        .cluster = config->cluster_name,
        .node = config->nodes[doctor->self].id,
        .psk = psk,
        .ca = ca,
        .cert = cert,
        .key = key,
    };
    if (kvn_tls_load(&wanted, &tls, line, sizeof(line)) != KV_OK) {
        kvn_doctor_say(
            doctor, FAIL, "credentials", NULL, "%.*s", KVN_DOCTOR_TEXT_BYTES - 1, line);
        return;
    }
    say_expiry(doctor, kvn_tls_expires_s(tls));
    kvn_tls_free(tls);
}

/* ---- socket and log -------------------------------------------------------------- */

/* May a file be made beside this one? */
static void check_folder(struct kvn_doctor *doctor, const char *area, const char *path)
{
    char copy[PATH_BYTES];
    struct stat st;
    (void)snprintf(copy, sizeof(copy), "%s", path);
    const char *folder = dirname(copy);
    if (stat(folder, &st) != 0) {
        kvn_doctor_say(
            doctor, FAIL, area, "make the folder, owned by the node's user",
            "%.120s: %s", folder, strerror(errno));
    } else if (access(folder, W_OK | X_OK) != 0) {
        kvn_doctor_say(
            doctor, FAIL, area, "chown it to the node's user, or be that user",
            "%.120s: not writable for uid %u", folder, geteuid());
    } else if ((st.st_mode & (S_IWOTH | S_ISVTX)) == S_IWOTH) {
        kvn_doctor_say(
            doctor, WARN, area, "chmod o-w",
            "%.120s: everybody may replace files there", folder);
    } else {
        kvn_doctor_say(doctor, OK, area, NULL, "%.120s can be made", path);
    }
}

static void check_socket(struct kvn_doctor *doctor)
{
    const char *path = doctor->config->unix_path;
    struct stat st;
    if (path[0] == '\0') {
        kvn_doctor_say(
            doctor, WARN, "socket", "listen.unix = /run/kvrail/kvrail.sock",
            "no listen.unix: no client on this machine is served, no verb can ask");
    } else if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        kvn_doctor_say(
            doctor, FAIL, "socket", "remove it, or choose another path",
            "%.120s is there and is no socket", path);
    } else if (doctor->running) {
        kvn_doctor_say(doctor, OK, "socket", NULL, "%.120s: the node that runs", path);
    } else {
        check_folder(doctor, "socket", path);
    }
}

static void check_log(struct kvn_doctor *doctor)
{
    char path[PATH_BYTES];
    kvn_config_path(doctor->config, doctor->config->log_file, path, sizeof(path));
    if (path[0] == '\0') {
        kvn_doctor_say(doctor, OK, "log", NULL, "to standard error");
    } else if (access(path, W_OK) == 0) {
        kvn_doctor_say(doctor, OK, "log", NULL, "%.200s can be written", path);
    } else if (errno == ENOENT) {
        check_folder(doctor, "log", path);
    } else {
        kvn_doctor_say(
            doctor, FAIL, "log", "chown it to the node's user", "%.200s: %s", path,
            strerror(errno));
    }
}

/* ---- ports ----------------------------------------------------------------------- */

/* bind() as a start does it, without listen(): nobody can come. */
static int bind_errno(const union kvn_sockaddr *to)
{
    const int on = 1;
    int error = 0;
    const int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0
        || bind(fd, &to->any, kvn_sockaddr_len(to)) != 0) {
        error = errno;
    }
    close(fd);
    return error;
}

static void check_port(struct kvn_doctor *doctor, const char *option, const char *text)
{
    struct kvn_address address;
    union kvn_sockaddr to;
    char why[128];
    if (text[0] == '\0') {
        kvn_doctor_say(doctor, NOTE, "port", NULL, "%s is empty: none", option);
        return;
    }
    if (kvn_address_parse(text, &address, why, sizeof(why)) != KV_OK
        || !kvn_address_numeric(&address, &to)) {
        kvn_doctor_say(
            doctor, NOTE, "port", NULL,
            "%s %.120s: a name: whether it is free is seen at start", option, text);
        return;
    }
    const int error = bind_errno(&to);
    if (error == 0) {
        kvn_doctor_say(doctor, OK, "port", NULL, "%s %.120s is free", option, text);
    } else if (error == EADDRINUSE && doctor->running) {
        kvn_doctor_say(
            doctor, OK, "port", NULL, "%s %.120s: in use, and a node runs", option,
            text);
    } else {
        kvn_doctor_say(
            doctor, FAIL, "port",
            error == EADDRINUSE      ? "ss -lntp says who has it; or choose another"
            : error == EADDRNOTAVAIL ? "ip address says which this machine has"
            : error == EACCES        ? "ports below 1024 need CAP_NET_BIND_SERVICE"
                                     : NULL,
            "%s %.120s: %s", option, text, strerror(error));
    }
}

void kvn_doctor_config(struct kvn_doctor *doctor)
{
    const struct kvn_config *config = doctor->config;
    check_self(doctor);
    if (doctor->self != KVC_NO_NODE) {
        check_core(doctor);
        check_tls(doctor);
        check_port(
            doctor, "listen.address",
            config->nr_nodes == 1       ? ""
            : config->listen[0] != '\0' ? config->listen
                                        : config->nodes[doctor->self].address);
    }
    check_port(doctor, "listen.http", config->http);
    check_socket(doctor);
    check_log(doctor);
}
