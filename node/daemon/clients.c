/* What is the same for clients on this machine and on others. */
#include "node/daemon/clients.h"

#include "base/assert.h"

#include <stdio.h>
#include <string.h>

/* ---- what they are told ---------------------------------------------------------- */

void kvn_told_init(
    struct kvn_told *told, const struct kvn_local_tenant *tenants, uint32_t nr_tenants,
    const struct kvn_local_space *spaces, uint32_t nr_spaces)
{
    KV_ASSERT(nr_tenants <= KVP_TENANTS_MAX && nr_spaces <= KVN_PACKET_SPACES_MAX);
    memset(told, 0, sizeof(*told));
    told->nr_tenants = nr_tenants;
    told->nr_spaces = nr_spaces;
    for (uint32_t i = 0; i < nr_tenants; i++) {
        KV_ASSERT(tenants[i].secret_len <= KV_SECRET_BYTES_MAX);
        told->tenants[i].id = tenants[i].id;
        told->tenants[i].secret_len = tenants[i].secret_len;
        memcpy(told->tenants[i].secret, tenants[i].secret, tenants[i].secret_len);
    }
    for (uint32_t i = 0; i < nr_spaces; i++) {
        const struct kvn_local_space *from = &spaces[i];
        struct kvn_packet_space *to = &told->spaces[i];
        KV_ASSERT(strlen(from->name) < sizeof(to->name));
        KV_ASSERT(from->first_variant + from->nr_groups <= KVP_VARIANTS_MAX);
        (void)snprintf(to->name, sizeof(to->name), "%s", from->name);
        to->id = from->id;
        to->page_tokens = from->page_tokens;
        /* Copies are whole multiples of KVP_ALIGN (kvp_copy_len). */
        to->page_bytes = (from->page_bytes + KVP_ALIGN - 1) / KVP_ALIGN * KVP_ALIGN;
        to->first_variant = from->first_variant;
        to->nr_groups = (uint16_t)from->nr_groups;
        for (uint32_t g = 0; g < from->nr_groups; g++) {
            told->page_bytes[from->first_variant + g] = to->page_bytes;
            told->page_tokens[from->first_variant + g] = to->page_tokens;
        }
    }
}

kv_status_t kvn_told_spaces(
    const struct kvn_told *told, uint16_t tenant, struct kvn_packet_space *spaces)
{
    KV_ASSERT(tenant < told->nr_tenants);
    for (uint32_t i = 0; i < told->nr_spaces; i++) {
        spaces[i] = told->spaces[i];
        kv_status_t status = kv_salt(
            told->tenants[tenant].secret, told->tenants[tenant].secret_len,
            &spaces[i].id, &spaces[i].salt, NULL);
        if (status != KV_OK) {
            return status;
        }
    }
    return KV_OK;
}

void kvn_told_wipe(struct kvn_told *told)
{
    explicit_bzero(told->tenants, sizeof(told->tenants));
}

/* ---- what they ask --------------------------------------------------------------- */

_Static_assert((int)KVN_OP_DROP == (int)KVO_DROP, "ring operations are the core's");
_Static_assert((int)KVN_RING_KEYS_MAX == (int)KVO_BATCH_KEYS_MAX, "one batch");

kv_status_t kvn_request_check(
    const struct kvn_told *told, const struct kvn_request_head *head,
    struct kv_detail *detail)
{
    const bool waits = head->op == KVN_OP_EXISTS || kvn_op_moves(head->op);
    if (head->variant >= KVP_VARIANTS_MAX || told->page_bytes[head->variant] == 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.variant", KVP_VARIANTS_MAX, head->variant);
    }
    if (head->timeout_us > KVN_RING_TIMEOUT_MAX_US
        || (waits && head->timeout_us == 0)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.timeout", KVN_RING_TIMEOUT_MAX_US,
            head->timeout_us);
    }
    return KV_OK;
}

struct kvo_request kvn_request_core(
    const struct kvn_request *in, uint64_t tag, uint16_t tenant, uint64_t deadline_us)
{
    const struct kvn_request_head *head = &in->head;
    return (struct kvo_request){
        .tag = tag,
        .op = (enum kvo_op)head->op,
        .deadline_us = head->timeout_us == 0 ? 0 : deadline_us,
        .tenant = tenant,
        .variant = head->variant,
        .loose = (head->flags & KVN_REQUEST_LOOSE) != 0,
        .first_page = head->first_page,
        .anchor = head->anchor,
        .keys = in->keys,
        .nr_keys = head->nr_keys,
        .buffers = in->addresses,
        .n_tokens = in->n_tokens,
        .prev = head->prev,
        .seq = {(uint32_t)in->seq.seq, (uint32_t)(in->seq.seq >> 32)},
        .page = in->seq.page,
        .tokens = in->seq.tokens,
        .version = in->seq.version,
    };
}

/* ---- what they are answered ------------------------------------------------------ */

void kvn_answer_write(
    uint8_t *to, uint32_t bytes, uint16_t op, uint64_t tag,
    const struct kvo_answer *answer)
{
    const uint32_t n = kvn_answer_keys(answer);
    struct kvn_answer_head head = {
        .bytes = bytes,
        .type = KVN_RECORD_ANSWER,
        .op = op,
        .tag = tag,
        .status = answer->status,
        .nr_keys = n,
        .limit = answer->detail.limit,
        .value = answer->detail.value,
    };
    if (answer->detail.field != NULL) {
        (void)snprintf(head.field, sizeof(head.field), "%s", answer->detail.field);
    }
    memcpy(to, &head, sizeof(head));
    if (n > 0) {
        _Static_assert(sizeof(kv_status_t) == sizeof(int32_t), "copied as they are");
        KV_ASSERT(bytes >= kvn_answer_bytes(n));
        to += bytes - kvn_answer_bytes(n) + sizeof(head);
        memcpy(to, answer->statuses, n * sizeof(int32_t));
        memcpy(to + n * sizeof(int32_t), answer->reasons, n);
        memcpy(to + n * (sizeof(int32_t) + 1), answer->places, n);
    }
}
