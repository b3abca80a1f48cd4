/* kvrail keygen: credentials of nodes and clients, and secrets of tenants. */
#include "node/cli.h"
#include "node/daemon/tls.h"
#include "node/keygen.h"
#include "node/verbs.h"

#include <jansson.h>
#include <stdio.h>

enum flag {
    FLAG_PSK,
    FLAG_SECRET,
    FLAG_CA,
    FLAG_CLUSTER,
    FLAG_NODE,
    FLAG_TENANT,
    FLAG_DAYS,
    FLAG_JSON,
    NR_FLAGS
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_PSK] =
        {"psk", "FILE",
         "a pre-shared key for all nodes of a cluster, or for clients of one tenant: "
         "64 hex digits"},
    [FLAG_SECRET] = {"secret", "FILE", "a tenant's secret: 64 hex digits"},
    [FLAG_CA] =
        {"ca", "FOLDER", "alone: an authority, FOLDER/ca.pem and FOLDER/ca.key"},
    [FLAG_CLUSTER] =
        {"cluster", "NAME", "with --ca and --node or --tenant: of the certificate"},
    [FLAG_NODE] =
        {"node", "ID", "with --ca and --cluster: FOLDER/node-ID.pem and .key"},
    [FLAG_TENANT] =
        {"tenant", "ID",
         "with --ca and --cluster: FOLDER/tenant-ID.pem and .key, for its clients"},
    [FLAG_DAYS] =
        {"days", "N",
         "that it is valid (3650 of an authority, else 365, from 1 to 36500)"},
    [FLAG_JSON] = {"json", NULL, "print what was written as JSON"},
};

static const struct kvn_cli cli = {
    .verb = "keygen",
    .summary =
        "Makes credentials. Nothing is ever written over; keys have mode 0600.\n\n"
        "  kvrail keygen --psk FILE\n"
        "  kvrail keygen --secret FILE\n"
        "  kvrail keygen --ca FOLDER [--days N]\n"
        "  kvrail keygen --ca FOLDER --cluster NAME --node ID [--days N]\n"
        "  kvrail keygen --ca FOLDER --cluster NAME --tenant ID [--days N]\n\n"
        "ca.key signs for any node and any tenant: keep it off the nodes.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

struct wanted {
    const char *text[NR_FLAGS];
    uint64_t id, days; /* of the node or tenant */
};

static void print_text(const struct kvn_keygen_made *made)
{
    for (unsigned i = 0; i < made->nr; i++) {
        const struct kvn_keygen_file *file = &made->files[i];
        printf("%s: %s", file->path, file->kind);
        if (file->fingerprint[0] != '\0') {
            printf(", fingerprint %s", file->fingerprint);
        }
        if (file->until[0] != '\0') {
            printf(", valid from %s until %s", file->from, file->until);
        }
        putchar('\n');
    }
}

static bool print_json(const struct kvn_keygen_made *made)
{
    json_t *files = json_array();
    for (unsigned i = 0; i < made->nr; i++) {
        const struct kvn_keygen_file *file = &made->files[i];
        json_t *object = json_pack("{ss, ss}", "file", file->path, "kind", file->kind);
        if (file->fingerprint[0] != '\0') {
            json_object_set_new(object, "fingerprint", json_string(file->fingerprint));
        }
        if (file->until[0] != '\0') {
            json_object_set_new(object, "valid_from", json_string(file->from));
            json_object_set_new(object, "valid_until", json_string(file->until));
        }
        json_array_append_new(files, object);
    }
    json_t *whole = json_pack("{so}", "files", files);
    const bool done = whole != NULL && json_dumpf(whole, stdout, JSON_INDENT(2)) == 0;
    putchar('\n');
    json_decref(whole);
    return done;
}

static int run(const struct wanted *wanted)
{
    struct kvn_keygen_made made;
    kv_status_t status;
    if (wanted->text[FLAG_PSK] != NULL) {
        status = kvn_keygen_secret(wanted->text[FLAG_PSK], "pre-shared key", &made);
    } else if (wanted->text[FLAG_SECRET] != NULL) {
        status = kvn_keygen_secret(wanted->text[FLAG_SECRET], "tenant secret", &made);
    } else if (wanted->text[FLAG_TENANT] != NULL) {
        status = kvn_keygen_tenant(
            wanted->text[FLAG_CA], wanted->text[FLAG_CLUSTER], (uint32_t)wanted->id,
            wanted->days, &made);
    } else if (wanted->text[FLAG_NODE] == NULL) {
        const uint64_t days = wanted->days == 0 ? KVN_KEYGEN_CA_DAYS : wanted->days;
        status = kvn_keygen_authority(wanted->text[FLAG_CA], days, &made);
    } else {
        status = kvn_keygen_node(
            wanted->text[FLAG_CA], wanted->text[FLAG_CLUSTER], (uint32_t)wanted->id,
            wanted->days, &made);
    }
    if (status != KV_OK) {
        kvn_cli_refuse(&cli, "%s", made.line);
        return status == KV_ERR_CONFIG ? KVN_EXIT_USAGE : KVN_EXIT_FAILED;
    }
    if (wanted->text[FLAG_JSON] == NULL) {
        print_text(&made);
        return KVN_EXIT_OK;
    }
    return print_json(&made) ? KVN_EXIT_OK : KVN_EXIT_FAILED;
}

/* 0, or the exit code of what is refused. */
static int check(struct wanted *wanted)
{
    const char *const *text = wanted->text;
    const bool psk = text[FLAG_PSK] != NULL, secret = text[FLAG_SECRET] != NULL;
    const bool ca = text[FLAG_CA] != NULL, node = text[FLAG_NODE] != NULL;
    const bool tenant = text[FLAG_TENANT] != NULL;
    const enum flag whose = tenant ? FLAG_TENANT : FLAG_NODE;
    if (psk + secret + ca != 1) {
        return kvn_cli_refuse(&cli, "one of --psk, --secret and --ca is needed");
    }
    if (node && tenant) {
        return kvn_cli_refuse(&cli, "--node and --tenant: a certificate is of one");
    }
    if ((node || tenant) != (text[FLAG_CLUSTER] != NULL)) {
        return kvn_cli_refuse(
            &cli, "--cluster and --%s go together", flags[whose].name);
    }
    if (!ca && (node || tenant || text[FLAG_DAYS] != NULL)) {
        return kvn_cli_refuse(
            &cli, "--%s: goes with --ca", node || tenant ? flags[whose].name : "days");
    }
    if (ca && text[FLAG_CA][0] == '\0') {
        return kvn_cli_refuse(&cli, "--ca: the folder's name is empty");
    }
    if ((node || tenant)
        && !kvn_cli_number(
            &cli, flags[whose].name, text[whose], node ? 1 : 0, UINT32_MAX,
            &wanted->id)) {
        return KVN_EXIT_USAGE;
    }
    if (text[FLAG_DAYS] != NULL
        && !kvn_cli_number(
            &cli, "days", text[FLAG_DAYS], 1, KVN_KEYGEN_DAYS_MAX, &wanted->days)) {
        return KVN_EXIT_USAGE;
    }
    return 0;
}

int kvn_verb_keygen(int argc, char **argv)
{
    struct wanted wanted = {0};
    const char *value;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        if (wanted.text[flag] != NULL) {
            return kvn_cli_refuse(&cli, "--%s: is given twice", flags[flag].name);
        }
        wanted.text[flag] = value == NULL ? "" : value;
    }
    if (flag == KVN_CLI_HELP) {
        return KVN_EXIT_OK;
    }
    if (flag == KVN_CLI_BAD) {
        return KVN_EXIT_USAGE;
    }
    const int refused = check(&wanted);
    return refused != 0 ? refused : run(&wanted);
}
