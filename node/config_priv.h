/* Inside the configuration: its tables, and how a mistake becomes a line.
 *
 *   config.c (sources, precedence) ──► config_table.c ──► struct kvn_config
 *                                 ──► config_check.c (what options mean together)
 *
 * Threading: at start only.
 */
#ifndef KVN_CONFIG_PRIV_H
#define KVN_CONFIG_PRIV_H

#include "node/config.h"

/* A kind of section: its options, and where its structs lie when it has a name. */
struct kvn_kind {
    const char *name;
    const struct kv_option *table;
    unsigned nr;
    bool named;
    size_t array, stride, count; /* in struct kvn_config: [0], step, nr_… */
    uint32_t max;
};

extern const struct kvn_kind kvn_config_kinds[];
extern const unsigned kvn_config_nr_kinds;
extern const struct kv_option kvn_config_globals[];
extern const unsigned kvn_config_nr_globals;

const struct kvn_kind *kvn_kind_find(const char *name);
/* "pager.evict" is an option of "pager". */
bool kvn_kind_has(const struct kvn_kind *kind, const struct kv_option *option);
struct kvn_section *
kvn_kind_at(const struct kvn_kind *kind, const struct kvn_config *config, uint32_t i);
uint32_t kvn_kind_count(const struct kvn_kind *kind, const struct kvn_config *config);
/* The struct that the kind's option offsets count from, and its origins. */
void *kvn_kind_base(
    const struct kvn_kind *kind, struct kvn_config *config, uint32_t i,
    struct kvn_origin **origins_p);

/* One line more. */
void kvn_config_fail(struct kvn_config_errors *errors, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* … that starts with where the option's value came from: "a.conf:7: pager.evict: ". */
void kvn_config_fail_at(
    const struct kvn_config *config, const struct kvn_section *section,
    const char *option, struct kvn_config_errors *errors, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* All that options mean together; fills in what is derived (view, groups, ids,
 * secrets). Adds lines to *errors. */
void kvn_config_check(struct kvn_config *config, struct kvn_config_errors *errors);

/* Addresses, credentials, users. */
void kvn_config_check_listen(
    struct kvn_config *config, struct kvn_config_errors *errors);
/* As kvn_address_parse() takes it; any_port: 0 will do. */
bool kvn_config_address_ok(const char *text, bool any_port);

/* "off", "always", "sample=N". */
bool kvn_config_verify(const char *text, enum kvp_verify *verify_p, uint32_t *sample_p);

/* Common and own domains as pools. KV_ERR_CONFIG: "pager.pools" (too many), or
 * "device_bytes" / "host_bytes" that hold no page. */
kv_status_t kvn_config_pools(
    const struct kvn_config *config, struct kvp_config *pager,
    struct kv_detail *detail);

#endif
