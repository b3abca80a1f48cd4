/* The configuration of a node: one INI file for the whole cluster, the environment and
 * flags; and what node/core takes of it.
 *
 *   --set section.key=value  >  KVRAIL_SECTION_KEY  >  file  >  default
 *            │                         │                │         │
 *            └─────────────► struct kvn_config ◄────────┴─────────┘
 *                                   │ kvn_config_core
 *                                   ▼
 *                            struct kvo_config
 *
 * Sections: [cluster] [listen] [tls] [data] [client] [log] [pager] [liveness] [link]
 * [spill] [directory] [limits], and by name [node "1"] [tenant "7"] [space "chat"].
 * kvn_config_print() lists every option
 * with its value and where that came from.
 *
 * Threading: at start only. Ownership: kvn_config_free(); secrets are wiped there.
 * Errors: KV_ERR_CONFIG (or IO, NOMEM) and one line per mistake that names the file,
 * the line, the option, the limit and the value. Nothing is half loaded.
 */
#ifndef KVN_CONFIG_H
#define KVN_CONFIG_H

#include "base/option.h"
#include "node/core/core.h"

#include <stdio.h>

enum {
    KVN_CONFIG_SPACES_MAX = 32,
    KVN_CONFIG_ERRORS_MAX = 16, /* more mistakes than these are not listed */
    KVN_CONFIG_LINE_MAX = 196,  /* characters of a line of the file */
    KVN_CONFIG_NAME_MAX = 32,   /* of a section: [space "name"] */
    KVN_CONFIG_KEYS_MAX = 12,   /* options of a section with a name */
    KVN_CONFIG_GLOBALS_MAX = 64,
    KVN_CONFIG_UIDS_MAX = 16, /* of a tenant */
};

struct kvn_config_source {
    const char *path;
    const char *const *sets; /* "section.key=value", as given to --set */
    unsigned nr_sets;
    const char *const *env; /* "KVRAIL_…=value", NULL at the end; NULL: none */
};

struct kvn_config_errors {
    unsigned nr; /* may exceed KVN_CONFIG_ERRORS_MAX: lines[] has the first */
    char lines[KVN_CONFIG_ERRORS_MAX][512];
};

/* Where a value came from. */
enum kvn_config_from {
    KVN_FROM_DEFAULT,
    KVN_FROM_FILE,
    KVN_FROM_ENV,
    KVN_FROM_FLAG,
};
struct kvn_origin {
    enum kvn_config_from from;
    unsigned line; /* of the file; 0 otherwise */
};

/* What every section with a name begins with. */
struct kvn_section {
    char name[KVN_CONFIG_NAME_MAX + 1];
    unsigned line; /* of its heading */
    struct kvn_origin origins[KVN_CONFIG_KEYS_MAX];
};

struct kvn_config_node {
    struct kvn_section section;
    uint32_t id; /* its name, as a number */
    uint64_t weight;
    char address[KV_OPT_TEXT_BYTES]; /* host:port */
};

enum kvn_domain { KVN_DOMAIN_COMMON, KVN_DOMAIN_OWN };

struct kvn_config_tenant {
    struct kvn_section section;
    uint32_t id;
    char secret[KV_OPT_TEXT_BYTES]; /* hex digits, or "file:NAME" */
    uint8_t secret_bytes[KV_SECRET_BYTES_MAX];
    size_t secret_len;
    int domain; /* enum kvn_domain */
    bool fill;  /* its engines map its device memory and fill it in place */
    uint64_t device_bytes, host_bytes;     /* of its own domain */
    uint64_t device_ceiling, host_ceiling; /* pages; 0: none */
    uint64_t sequences;                    /* at once; 0: no ceiling */
    char uids_text[KV_OPT_TEXT_BYTES];     /* "1000, 1001"; "": the node's own */
    uint32_t uids[KVN_CONFIG_UIDS_MAX];
    uint32_t nr_uids;
    char client_psk[KV_OPT_TEXT_BYTES]; /* file of a key for remote clients */
};

struct kvn_config_space {
    struct kvn_section section;
    char model[KV_OPT_TEXT_BYTES];
    char revision[KV_OPT_TEXT_BYTES];
    char format[KV_OPT_TEXT_BYTES];
    char tag[KV_OPT_TEXT_BYTES];
    char groups_text[KV_OPT_TEXT_BYTES]; /* "full, window:4096, state" */
    char id_text[KV_OPT_TEXT_BYTES];     /* expected id in hex; "": not checked */
    uint64_t page_tokens, page_bytes, layout;
    struct kv_group groups[KV_GROUPS_MAX];
    uint32_t nr_groups;
    kv_key_t id;
};

enum kvn_unix_mode { KVN_UNIX_OWNER, KVN_UNIX_GROUP };
enum kvn_transports {
    KVN_TRANSPORTS_ALL,
    KVN_TRANSPORTS_BOTH,
    KVN_TRANSPORTS_NAMED,
    KVN_TRANSPORTS_ONESIDED,
    KVN_TRANSPORTS_LOOP
};
/* Of an enum kvn_transports: loop is in the list; shm; tcp. */
static inline bool kvn_transports_loop(int transports)
{
    return transports == KVN_TRANSPORTS_ALL || transports == KVN_TRANSPORTS_LOOP;
}
static inline bool kvn_transports_shm(int transports)
{
    return transports != KVN_TRANSPORTS_NAMED && transports != KVN_TRANSPORTS_LOOP;
}
static inline bool kvn_transports_tcp(int transports)
{
    return transports != KVN_TRANSPORTS_ONESIDED && transports != KVN_TRANSPORTS_LOOP;
}

struct kvn_config {
    char path[512];
    char cluster_name[KV_OPT_TEXT_BYTES];
    uint64_t epoch;
    uint64_t self; /* id of the node that this is; 0: not said */

    uint64_t device_bytes, host_bytes; /* of the common domain */
    int evict;                         /* "lru|fifo" */
    char verify_text[KV_OPT_TEXT_BYTES];
    enum kvp_verify verify_local;
    uint32_t verify_sample;
    uint64_t free_target; /* one frame in so many is kept free; 0: none */

    struct kvc_liveness_config liveness;

    int transports; /* enum kvn_transports */
    uint64_t grant_us, call_us, double_us, read_us, revoke_us, redial_us, tick_us;

    char listen[KV_OPT_TEXT_BYTES]; /* host:port; "": the node's address */
    char unix_path[KV_OPT_TEXT_BYTES];
    int unix_mode; /* enum kvn_unix_mode */
    char unix_group[KV_OPT_TEXT_BYTES];
    char peers_path[KV_OPT_TEXT_BYTES]; /* "": beside unix_path */
    char http[KV_OPT_TEXT_BYTES];
    uint64_t handshake_us, frame_us, queue_bytes;
    char tls_psk[KV_OPT_TEXT_BYTES];
    char tls_ca[KV_OPT_TEXT_BYTES], tls_cert[KV_OPT_TEXT_BYTES];
    char tls_key[KV_OPT_TEXT_BYTES];
    bool clear; /* links without TLS: loopback alone */
    bool remote_clients; /* of tenants, from other hosts, by TLS */
    uint64_t nr_transport_threads, nr_mover_threads, nr_data_conns;
    bool verify_reads, populate;
    uint64_t client_buffer_bytes, client_poll_us;
    int log_level, log_format; /* enum kv_log_level, kv_log_format */
    char log_file[KV_OPT_TEXT_BYTES];

    bool spill;
    uint64_t spill_us, nr_spills;

    uint64_t dir_entries, dir_holdings, dir_cold_us, sync_items;

    uint64_t nr_clients, nr_remote_clients, nr_ops, nr_items, nr_calls, nr_reads;
    uint64_t nr_grants;
    uint64_t nr_sequences, nr_leaves, nr_retired;

    struct kvn_origin origins[KVN_CONFIG_GLOBALS_MAX];

    uint32_t nr_nodes, nr_tenants, nr_spaces;
    struct kvn_config_node nodes[KVC_NODES_MAX]; /* by id, as in the view */
    struct kvn_config_tenant tenants[KVP_TENANTS_MAX];
    struct kvn_config_space spaces[KVN_CONFIG_SPACES_MAX];
    struct kvc_view view;
};

/* *errors is filled in unless the answer is KV_OK. */
kv_status_t kvn_config_load(
    const struct kvn_config_source *source, struct kvn_config **config_p,
    struct kvn_config_errors *errors);
void kvn_config_free(struct kvn_config *config); /* NULL is fine */
/* A line each, and how many there were beyond those kept. */
void kvn_config_errors_print(const struct kvn_config_errors *errors, FILE *file);

/* As a file that loads to the same, each option with where it came from as a comment.
 * Secrets are not printed. */
void kvn_config_print(const struct kvn_config *config, FILE *file);

/* A file that the configuration names: without a slash in front it lies beside it. */
void kvn_config_path(
    const struct kvn_config *config, const char *name, char *out, size_t cap);

/* The tenant whose engines fill pools of this tier and domain in place; or NULL. */
const struct kvn_config_tenant *
kvn_config_filler(const struct kvn_config *config, enum kvp_tier tier, uint32_t domain);
/* What node/core takes, for the member `node` of the view. Points into *config. `out`
 * is large: not for the stack. KV_ERR_CONFIG with its detail. */
kv_status_t kvn_config_core(
    const struct kvn_config *config, uint32_t node, uint64_t incarnation, uint64_t seed,
    struct kvo_config *out, struct kv_detail *detail);

#endif
