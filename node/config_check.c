#include "node/config_priv.h"

#include "base/assert.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- nodes and times ------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const struct kvn_config_node *left = a;
    const struct kvn_config_node *right = b;
    return (left->id > right->id) - (left->id < right->id);
}

static void check_address(
    const struct kvn_config *config, uint32_t i, struct kvn_config_errors *errors)
{
    const struct kvn_config_node *node = &config->nodes[i];
    if (node->address[0] == '\0') {
        if (config->nr_nodes > 1) {
            kvn_config_fail_at(
                config, &node->section, "node.address", errors,
                "missing: with more than one node each needs one");
        }
        return;
    }
    if (!kvn_config_address_ok(node->address, false)) {
        kvn_config_fail_at(
            config, &node->section, "node.address", errors,
            "\"%s\" is not host:port with a port from 1 to 65535", node->address);
    }
    for (uint32_t j = 0; j < i; j++) {
        if (strcmp(config->nodes[j].address, node->address) == 0) {
            kvn_config_fail_at(
                config, &node->section, "node.address", errors,
                "\"%s\" is that of node \"%s\" too", node->address,
                config->nodes[j].section.name);
            return;
        }
    }
}

static void check_nodes(struct kvn_config *config, struct kvn_config_errors *errors)
{
    qsort(config->nodes, config->nr_nodes, sizeof(config->nodes[0]), by_id);
    const unsigned before = errors->nr;
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        /* "1" and "01" are two names of one id. */
        if (i > 0 && config->nodes[i].id == config->nodes[i - 1].id) {
            kvn_config_fail(
                errors, "%s:%u: duplicate node id %" PRIu32, config->path,
                config->nodes[i].section.line, config->nodes[i].id);
        }
        check_address(config, i, errors);
    }
    if (errors->nr > before) {
        return;
    }
    struct kvc_member *members = kv_calloc(config->nr_nodes, sizeof(*members));
    if (members == NULL) {
        kvn_config_fail(errors, "%s: out of memory", config->path);
        return;
    }
    for (uint32_t i = 0; i < config->nr_nodes; i++) {
        members[i].id = config->nodes[i].id;
        members[i].weight = (uint32_t)config->nodes[i].weight;
    }
    struct kv_detail detail = {0};
    const kv_status_t status = kvc_view_build(
        &config->view, config->epoch, members, config->nr_nodes, &detail);
    kv_free(members);
    if (status != KV_OK) {
        char text[256];
        kv_detail_format(&detail, status, text, sizeof(text));
        kvn_config_fail(errors, "%s: %s", config->path, text);
    } else if (
        config->self != 0
        && kvc_view_index(&config->view, (uint32_t)config->self) == KVC_NO_NODE) {
        kvn_config_fail_at(
            config, NULL, "cluster.node", errors, "there is no [node \"%" PRIu64 "\"]",
            config->self);
    }
}

/* The first that is not below the one after it. */
static void check_order(
    const struct kvn_config *config, const char *low_name, uint64_t low,
    const char *high_name, uint64_t high, struct kvn_config_errors *errors)
{
    if (low < high) {
        return;
    }
    kvn_config_fail_at(
        config, NULL, low_name, errors, "%" PRIu64 "us must be below %s, %" PRIu64 "us",
        low, high_name, high);
}

static void check_times(struct kvn_config *config, struct kvn_config_errors *errors)
{
    const struct kvc_liveness_config *live = &config->liveness;
    check_order(
        config, "liveness.heartbeat", live->heartbeat_us, "liveness.suspect",
        live->suspect_us, errors);
    check_order(
        config, "liveness.suspect", live->suspect_us, "liveness.lost", live->lost_us,
        errors);
    /* A home that is doubled after it was given up never is. */
    check_order(
        config, "link.double", config->double_us, "link.call", config->call_us, errors);
    check_order(
        config, "link.tick", config->tick_us, "liveness.heartbeat", live->heartbeat_us,
        errors);
}

static void check_pager(struct kvn_config *config, struct kvn_config_errors *errors)
{
    if (!kvn_config_verify(
            config->verify_text, &config->verify_local, &config->verify_sample)) {
        kvn_config_fail_at(
            config, NULL, "pager.verify_local", errors,
            "\"%s\" is not off, always or sample=N with N from 1 to 1000000",
            config->verify_text);
    }
    if (config->free_target == 1) {
        kvn_config_fail_at(
            config, NULL, "pager.free_target", errors,
            "1 keeps every frame free; 0 is none, the smallest share is 2");
    }
    if (config->dir_holdings < config->dir_entries) {
        kvn_config_fail_at(
            config, NULL, "directory.holdings", errors,
            "%" PRIu64 " is below directory.entries, %" PRIu64
            ": an entry has at least one",
            config->dir_holdings, config->dir_entries);
    }
}

bool kvn_config_verify(const char *text, enum kvp_verify *verify_p, uint32_t *sample_p)
{
    uint64_t sample = 1;
    enum kvp_verify verify = KVP_VERIFY_SAMPLE;
    if (strcmp(text, "off") == 0) {
        verify = KVP_VERIFY_OFF;
    } else if (strcmp(text, "always") == 0) {
        verify = KVP_VERIFY_ALWAYS;
    } else if (
        strncmp(text, "sample=", 7) != 0 || kv_parse_uint(text + 7, &sample) != KV_OK
        || sample < 1 || sample > 1000000) {
        return false;
    }
    *verify_p = verify;
    *sample_p = (uint32_t)sample;
    return true;
}

/* ---- tenants --------------------------------------------------------------------- */

/* One line of hex from a file that only its owner can read. */
static bool secret_file(
    const struct kvn_config *config, const struct kvn_config_tenant *tenant, char *hex,
    int cap, struct kvn_config_errors *errors)
{
    char path[700];
    kvn_config_path(config, tenant->secret + 5, path, sizeof(path));
    FILE *file = fopen(path, "r");
    struct stat info;
    if (file == NULL || fstat(fileno(file), &info) != 0) {
        kvn_config_fail_at(
            config, &tenant->section, "tenant.secret", errors, "%.300s: %s", path,
            strerror(errno));
        if (file != NULL) {
            fclose(file);
        }
        return false;
    }
    if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        kvn_config_fail_at(
            config, &tenant->section, "tenant.secret", errors,
            "%.300s has mode %04o, others may read it: the limit is 0600", path,
            (unsigned)(info.st_mode & 07777));
        fclose(file);
        return false;
    }
    if (fgets(hex, cap, file) == NULL) {
        hex[0] = '\0';
    }
    fclose(file);
    hex[strcspn(hex, " \t\r\n")] = '\0';
    return true;
}

static void take_secret(
    const struct kvn_config *config, struct kvn_config_tenant *tenant,
    struct kvn_config_errors *errors)
{
    char hex[2 * KV_SECRET_BYTES_MAX + 4];
    if (tenant->secret[0] == '\0') {
        kvn_config_fail_at(
            config, &tenant->section, "tenant.secret", errors,
            "missing: 32 or more hex digits, or file:NAME");
        return;
    }
    if (strncmp(tenant->secret, "file:", 5) == 0) {
        if (!secret_file(config, tenant, hex, (int)sizeof(hex), errors)) {
            return;
        }
    } else {
        snprintf(hex, sizeof(hex), "%s", tenant->secret);
    }
    size_t len = 0;
    if (kv_parse_hex(
            hex, strlen(hex), tenant->secret_bytes, sizeof(tenant->secret_bytes), &len)
        != KV_OK) {
        kvn_config_fail_at(
            config, &tenant->section, "tenant.secret", errors,
            "not an even number of hex digits, at most %d", 2 * KV_SECRET_BYTES_MAX);
    } else if (len < KV_SECRET_BYTES_MIN) {
        kvn_config_fail_at(
            config, &tenant->section, "tenant.secret", errors,
            "%zu hex digits are below the minimum %d", 2 * len,
            2 * KV_SECRET_BYTES_MIN);
    } else {
        tenant->secret_len = len;
    }
    explicit_bzero(hex, sizeof(hex));
}

static void check_tenants(struct kvn_config *config, struct kvn_config_errors *errors)
{
    for (uint32_t i = 0; i < config->nr_tenants; i++) {
        struct kvn_config_tenant *tenant = &config->tenants[i];
        for (uint32_t j = 0; j < i; j++) {
            if (config->tenants[j].id == tenant->id) {
                kvn_config_fail(
                    errors, "%s:%u: duplicate tenant id %" PRIu32, config->path,
                    tenant->section.line, tenant->id);
            }
        }
        take_secret(config, tenant, errors);
        if (tenant->domain == KVN_DOMAIN_OWN && tenant->device_bytes == 0) {
            kvn_config_fail_at(
                config, &tenant->section, "tenant.device_bytes", errors,
                "0: a domain of its own has a stated size");
        }
        if (tenant->domain == KVN_DOMAIN_COMMON && tenant->fill) {
            kvn_config_fail_at(
                config, &tenant->section, "tenant.fill", errors,
                "memory of the common domain is never mapped for writing: it needs "
                "domain = own");
        }
        if (tenant->domain == KVN_DOMAIN_COMMON
            && (tenant->device_bytes != 0 || tenant->host_bytes != 0)) {
            kvn_config_fail_at(
                config, &tenant->section,
                tenant->device_bytes != 0 ? "tenant.device_bytes" : "tenant.host_bytes",
                errors, "the common domain has its size in [pager]; or domain = own");
        }
    }
}

/* ---- spaces ---------------------------------------------------------------------- */

/* One word of "full, window:4096, state". */
static bool parse_group(const char *word, struct kv_group *group)
{
    uint64_t window = 0;
    if (strcmp(word, "full") == 0) {
        group->kind = KV_GROUP_FULL;
    } else if (strcmp(word, "state") == 0) {
        group->kind = KV_GROUP_STATE;
    } else if (
        strncmp(word, "window:", 7) == 0 && kv_parse_uint(word + 7, &window) == KV_OK
        && window >= 1 && window <= UINT32_MAX) {
        group->kind = KV_GROUP_WINDOW;
    } else {
        return false;
    }
    group->window = (uint32_t)window;
    return true;
}

static void take_groups(
    const struct kvn_config *config, struct kvn_config_space *space,
    struct kvn_config_errors *errors)
{
    char text[KV_OPT_TEXT_BYTES];
    snprintf(text, sizeof(text), "%s", space->groups_text);
    char *rest = text;
    char *word;
    while ((word = strsep(&rest, ",")) != NULL) {
        word += strspn(word, " \t");
        word[strcspn(word, " \t")] = '\0';
        if (space->nr_groups == KV_GROUPS_MAX) {
            kvn_config_fail_at(
                config, &space->section, "space.groups", errors,
                "more than the limit of %d", KV_GROUPS_MAX);
            return;
        }
        if (!parse_group(word, &space->groups[space->nr_groups])) {
            kvn_config_fail_at(
                config, &space->section, "space.groups", errors,
                "\"%s\" is not full, window:TOKENS or state", word);
            return;
        }
        space->nr_groups++;
    }
}

static void check_id(
    const struct kvn_config *config, struct kvn_config_space *space,
    struct kvn_config_errors *errors)
{
    struct kv_space canonical = {
        .model = space->model,
        .revision = space->revision,
        .format = space->format,
        .page_tokens = (uint32_t)space->page_tokens,
        .nr_groups = space->nr_groups,
        .tag = space->tag,
    };
    memcpy(canonical.groups, space->groups, sizeof(canonical.groups));
    struct kv_detail detail = {0};
    kv_status_t status = kv_space_id(&canonical, &space->id, &detail);
    if (status != KV_OK) {
        char text[256];
        kv_detail_format(&detail, status, text, sizeof(text));
        kvn_config_fail(errors, "%s:%u: %s", config->path, space->section.line, text);
        return;
    }
    if (space->id_text[0] == '\0') {
        return;
    }
    kv_key_t expected;
    size_t len = 0;
    if (kv_parse_hex(
            space->id_text, strlen(space->id_text), expected.b, sizeof(expected.b),
            &len) != KV_OK
        || len != sizeof(expected.b)) {
        kvn_config_fail_at(
            config, &space->section, "space.id", errors, "\"%s\" is not %d hex digits",
            space->id_text, 2 * KV_KEY_BYTES);
        return;
    }
    if (kv_space_check(&canonical, &expected, &detail) != KV_OK) {
        char hex[2 * KV_KEY_BYTES + 1];
        kv_key_hex(&space->id, hex);
        kvn_config_fail_at(
            config, &space->section, "space.id", errors,
            "space \"%s\" disagrees with its id: its fields give %s",
            space->section.name, hex);
    }
}

/* A layout number says how large pages are, whatever space they are of. */
static void check_layout(
    const struct kvn_config *config, uint32_t i, struct kvn_config_errors *errors)
{
    const struct kvn_config_space *space = &config->spaces[i];
    for (uint32_t j = 0; j < i; j++) {
        const struct kvn_config_space *other = &config->spaces[j];
        if (other->layout == space->layout
            && (other->page_bytes != space->page_bytes
                || other->page_tokens != space->page_tokens)) {
            kvn_config_fail_at(
                config, &space->section, "space.layout", errors,
                "%" PRIu64 " has pages of another size in space \"%s\"", space->layout,
                other->section.name);
            return;
        }
    }
}

static void check_spaces(struct kvn_config *config, struct kvn_config_errors *errors)
{
    for (uint32_t i = 0; i < config->nr_spaces; i++) {
        struct kvn_config_space *space = &config->spaces[i];
        const unsigned before = errors->nr;
        if (space->model[0] == '\0') {
            kvn_config_fail_at(
                config, &space->section, "space.model", errors, "missing");
        }
        if (space->page_bytes == 0) {
            kvn_config_fail_at(
                config, &space->section, "space.page_bytes", errors, "missing");
        } else if (space->page_bytes % KVP_ALIGN != 0) {
            kvn_config_fail_at(
                config, &space->section, "space.page_bytes", errors,
                "%" PRIu64 " is not a multiple of %d", space->page_bytes, KVP_ALIGN);
        }
        take_groups(config, space, errors);
        if (errors->nr == before) {
            check_layout(config, i, errors);
            check_id(config, space, errors);
        }
    }
}

/* Memory that would hold no page, said of the option that gives it. */
static void check_memory(struct kvn_config *config, struct kvn_config_errors *errors)
{
    struct kvp_config *pager = kv_calloc(1, sizeof(*pager));
    if (pager == NULL) {
        kvn_config_fail(errors, "%s: out of memory", config->path);
        return;
    }
    struct kv_detail detail = {0};
    if (kvn_config_pools(config, pager, &detail) != KV_OK) {
        const struct kvn_section *section = NULL;
        for (uint32_t i = 0; i < config->nr_tenants; i++) {
            /* A tenant's own memory is named by its struct's field. */
            if (config->tenants[i].domain == KVN_DOMAIN_OWN
                && strncmp(detail.field, "tenant.", 7) == 0) {
                section = &config->tenants[i].section;
            }
        }
        if (strcmp(detail.field, "pager.pools") == 0) {
            kvn_config_fail(
                errors,
                "%s: pager.pools: %" PRIu64 " sizes and domains of pages, the "
                "limit is %" PRIu64,
                config->path, detail.value, detail.limit);
        } else {
            kvn_config_fail_at(
                config, section, detail.field, errors,
                "%" PRIu64 " bytes a page size hold no page of %" PRIu64 " bytes",
                detail.value, detail.limit);
        }
    }
    kv_free(pager);
}

void kvn_config_check(struct kvn_config *config, struct kvn_config_errors *errors)
{
    check_nodes(config, errors);
    check_times(config, errors);
    check_pager(config, errors);
    check_tenants(config, errors);
    check_spaces(config, errors);
    kvn_config_check_listen(config, errors);
    if (errors->nr == 0) {
        check_memory(config, errors);
    }
}
