/* What the options of sockets, credentials and users mean together. */
#include "node/address.h"
#include "node/config_priv.h"

#include <stdio.h>
#include <string.h>

void kvn_config_path(
    const struct kvn_config *config, const char *name, char *out, size_t cap)
{
    const char *slash = strrchr(config->path, '/');
    if (name[0] == '/' || name[0] == '\0' || slash == NULL) {
        snprintf(out, cap, "%s", name);
    } else {
        snprintf(out, cap, "%.*s/%s", (int)(slash - config->path), config->path, name);
    }
}

bool kvn_config_address_ok(const char *text, bool any_port)
{
    struct kvn_address address;
    char why[128];
    return kvn_address_parse(text, &address, why, sizeof(why)) == KV_OK
           && (any_port || address.port != 0);
}

/* By its text. One that is no address has its line already. */
static bool is_remote(const char *text)
{
    struct kvn_address address;
    char why[128];
    return kvn_address_parse(text, &address, why, sizeof(why)) == KV_OK
           && !kvn_address_is_loopback(&address);
}

static void check_listeners(
    const struct kvn_config *config, struct kvn_config_errors *errors)
{
    const struct {
        const char *option, *value;
    } addresses[] = {
        {"listen.address", config->listen},
        {"listen.http", config->http},
    };
    for (unsigned i = 0; i < 2; i++) {
        if (addresses[i].value[0] != '\0'
            && !kvn_config_address_ok(addresses[i].value, true)) {
            kvn_config_fail_at(
                config, NULL, addresses[i].option, errors,
                "\"%s\" is not host:port with a port from 0 (any) to 65535",
                addresses[i].value);
        }
    }
}

/* A group that may not connect would be a mistake. */
static void
check_unix(const struct kvn_config *config, struct kvn_config_errors *errors)
{
    if (config->unix_group[0] != '\0' && config->unix_mode == KVN_UNIX_OWNER) {
        kvn_config_fail_at(
            config, NULL, "listen.unix_group", errors,
            "\"%s\" may not connect: that takes listen.unix_mode = 0660",
            config->unix_group);
    }
}

/* Pages of nodes of this host are read through a socket of their own. */
static void
check_transports(const struct kvn_config *config, struct kvn_config_errors *errors)
{
    bool alone = config->transports == KVN_TRANSPORTS_ONESIDED && config->nr_nodes > 1;
    if (alone && config->unix_path[0] == '\0' && config->peers_path[0] == '\0') {
        kvn_config_fail_at(
            config, NULL, "link.transports", errors,
            "onesided reads through a socket of this host: set listen.peers, or "
            "listen.unix");
    }
    if (config->peers_path[0] != '\0'
        && strcmp(config->peers_path, config->unix_path) == 0) {
        kvn_config_fail_at(
            config, NULL, "listen.peers", errors,
            "\"%s\" is listen.unix already: choose another", config->peers_path);
    }
}

/* Either kind of credential, whole, or none; clear text on loopback alone. */
static void check_tls(const struct kvn_config *config, struct kvn_config_errors *errors)
{
    bool psk = config->tls_psk[0] != '\0';
    const struct {
        const char *option, *value;
    } files[] = {
        {"tls.ca", config->tls_ca},
        {"tls.cert", config->tls_cert},
        {"tls.key", config->tls_key},
    };
    unsigned given = 0;
    for (unsigned i = 0; i < 3; i++) {
        given += files[i].value[0] != '\0';
    }
    for (unsigned i = 0; i < 3; i++) {
        if (given > 0 && given < 3 && files[i].value[0] == '\0') {
            kvn_config_fail_at(
                config, NULL, files[i].option, errors,
                "missing: tls.ca, tls.cert and tls.key go together");
        }
    }
    if (psk && given > 0) {
        kvn_config_fail_at(
            config, NULL, "tls.psk", errors,
            "given beside certificates: one kind of credential or the other");
    }
    if (!config->clear) {
        return;
    }
    if (psk || given > 0) {
        kvn_config_fail_at(
            config, NULL, "tls.clear", errors, "true beside credentials: drop one");
    }
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        const struct kvn_config_node *node = &config->nodes[i];
        if (is_remote(node->address)) {
            kvn_config_fail_at(
                config, &node->section, "node.address", errors,
                "\"%s\" is no loopback address, and tls.clear is true: make "
                "credentials with kvrail keygen",
                node->address);
        }
    }
    if (is_remote(config->listen)) {
        kvn_config_fail_at(
            config, NULL, "listen.address", errors,
            "\"%s\" is no loopback address, and tls.clear is true: make credentials "
            "with kvrail keygen",
            config->listen);
    }
}

static void take_uids(
    const struct kvn_config *config, struct kvn_config_tenant *tenant,
    struct kvn_config_errors *errors)
{
    char text[KV_OPT_TEXT_BYTES];
    snprintf(text, sizeof(text), "%s", tenant->uids_text);
    char *rest = text;
    char *word;
    while (tenant->uids_text[0] != '\0' && (word = strsep(&rest, ",")) != NULL) {
        word += strspn(word, " \t");
        word[strcspn(word, " \t")] = '\0';
        uint64_t uid;
        if (kv_parse_uint(word, &uid) != KV_OK || uid > UINT32_MAX - 1) {
            kvn_config_fail_at(
                config, &tenant->section, "tenant.uids", errors,
                "\"%s\" is not a user number from 0 to %u", word, UINT32_MAX - 1);
            return;
        }
        if (tenant->nr_uids == KVN_CONFIG_UIDS_MAX) {
            kvn_config_fail_at(
                config, &tenant->section, "tenant.uids", errors,
                "more than the limit of %d", KVN_CONFIG_UIDS_MAX);
            return;
        }
        tenant->uids[tenant->nr_uids++] = (uint32_t)uid;
    }
}

/* Remote clients have credentials, and places beside those of this machine. */
static void
check_remote(const struct kvn_config *config, struct kvn_config_errors *errors)
{
    if (config->remote_clients && config->clear) {
        kvn_config_fail_at(
            config, NULL, "listen.clients", errors,
            "true beside tls.clear: clients need credentials, see kvrail keygen");
    }
    if (config->remote_clients
        && config->nr_clients + config->nr_remote_clients > KVO_CLIENTS_MAX) {
        kvn_config_fail_at(
            config, NULL, "limits.remote_clients", errors,
            "with limits.clients above the limit of %d", KVO_CLIENTS_MAX);
    }
    for (uint32_t i = 0; !config->remote_clients && i < config->nr_tenants; i++) {
        if (config->tenants[i].client_psk[0] != '\0') {
            kvn_config_fail_at(
                config, &config->tenants[i].section, "tenant.client_psk", errors,
                "given, and listen.clients is false");
        }
    }
}

void kvn_config_check_listen(
    struct kvn_config *config, struct kvn_config_errors *errors)
{
    check_remote(config, errors);
    check_listeners(config, errors);
    check_unix(config, errors);
    check_transports(config, errors);
    check_tls(config, errors);
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        take_uids(config, &config->tenants[i], errors);
    }
}
