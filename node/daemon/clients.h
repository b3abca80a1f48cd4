/* What is the same for clients on this machine (local.h) and on others (remote.h),
 * whatever their requests come by.
 *
 *   tenants, spaces ── kvn_told_init ──► kvn_told ── kvn_told_spaces ──► ATTACHED
 *   a record, copied ── kvn_request_check, kvn_request_core ──► core
 *   core ── struct kvo_answer ── kvn_answer_write ──► ring, or TLS
 *
 * Threading: values, of one thread at a time. Ownership: a struct kvn_told has copies
 * of all that it was made of, secrets too: who has one wipes it. Units: bytes and
 * tokens of a page. Errors: as said at each; the bounds of a configuration are for its
 * user to check, and asserted.
 */
#ifndef KVN_CLIENTS_H
#define KVN_CLIENTS_H

#include "node/daemon/local.h"
#include "node/ring.h"

/* What clients are told of spaces, with the secrets that their salts are made of. */
struct kvn_told {
    struct {
        uint32_t id;
        uint8_t secret[KV_SECRET_BYTES_MAX];
        size_t secret_len;
    } tenants[KVP_TENANTS_MAX]; /* as in the pager's config */
    uint32_t nr_tenants;
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX]; /* salts are zero */
    uint32_t nr_spaces;
    /* Of a page, by variant; 0: of no space. */
    uint32_t page_bytes[KVP_VARIANTS_MAX], page_tokens[KVP_VARIANTS_MAX];
};
void kvn_told_init(
    struct kvn_told *told, const struct kvn_local_tenant *tenants, uint32_t nr_tenants,
    const struct kvn_local_space *spaces, uint32_t nr_spaces);
/* The nr_spaces records behind ATTACHED, with the salts of this tenant (index): secrets
 * that the caller wipes, also when it fails (as kv_salt). */
kv_status_t kvn_told_spaces(
    const struct kvn_told *told, uint16_t tenant, struct kvn_packet_space *spaces);
void kvn_told_wipe(struct kvn_told *told);

/* A request of which clients of every kind may ask: its variant is of a space, and it
 * waits no longer than it may. INVALID with the field, its limit and the value. */
kv_status_t kvn_request_check(
    const struct kvn_told *told, const struct kvn_request_head *head,
    struct kv_detail *detail);
/* What the core is asked; its arrays are those of `in`. `deadline_us`: where the
 * request has one. */
struct kvo_request kvn_request_core(
    const struct kvn_request *in, uint64_t tag, uint16_t tenant, uint64_t deadline_us);

/* Keys that the answer has a status for: none where the whole was refused. */
static inline uint32_t kvn_answer_keys(const struct kvo_answer *answer)
{
    return answer->statuses != NULL ? answer->nr_keys : 0;
}
/* The record of `bytes` that answers the client's `tag`: its head, and at its end what
 * there is of keys. Between them, and behind the last place, is what was there. */
void kvn_answer_write(
    uint8_t *to, uint32_t bytes, uint16_t op, uint64_t tag,
    const struct kvo_answer *answer);

#endif
