/* One row per field of every message. Keys and orders are for ever: add a field to a
 * message under the next free key, to a record at its end. */
#include "base/codec_priv.h"

#include "base/assert.h"
#include "base/codec.h"

#define ALL_ONES(type, member) (UINT64_MAX >> (64 - 8 * sizeof(((type *)0)->member)))
#define FIELD(key_, name_, kind_, type, member)                                        \
    .name = (name_), .kind = (kind_), .key = (key_), .offset = offsetof(type, member)

/* Records that several messages share are named in the plural ("copies.group").
 *
 * UINT: a number up to `max_`; ALL_OF: whatever its type holds. */
#define UINT(key_, name_, type, member, max_)                                          \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_UINT, type, member),                               \
            .width = sizeof(((type *)0)->member), .max = (max_)                        \
    }
#define ALL_OF(key_, name_, type, member)                                              \
    UINT(key_, name_, type, member, ALL_ONES(type, member))
#define STATUS(key_, name_, type, member)                                              \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_STATUS, type, member),                             \
            .width = sizeof(((type *)0)->member)                                       \
    }
#define BOOL(key_, name_, type, member)                                                \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_BOOL, type, member), .width = sizeof(bool),        \
                                                         .max = 1                      \
    }
#define BYTES(key_, name_, type, member, optional_)                                    \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_BYTES, type, member),                              \
            .width = sizeof(((type *)0)->member), .optional = (optional_),             \
            .max = sizeof(((type *)0)->member)                                         \
    }
#define TEXT_OF(key_, name_, type, member, max_)                                       \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_TEXT, type, member), .max = (max_)                 \
    }
#define TEXT(key_, name_, type, member)                                                \
    TEXT_OF(key_, name_, type, member, KV_MSG_TEXT_MAX)
#define LIST(key_, name_, type, member, max_, record_)                                 \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_LIST, type, member),                               \
            .count_offset = offsetof(type, nr_##member), .max = (max_),                \
            .record = &(record_)                                                       \
    }
#define KEYS(key_, name_, type, member, max_, total_)                                  \
    {                                                                                  \
        FIELD(key_, name_, KV_FIELD_KEYS, type, member),                               \
            .count_offset = offsetof(type, nr_##member), .max = (max_),                \
            .total = (total_)                                                          \
    }
#define RECORD(name_, type, member, record_)                                           \
    {                                                                                  \
        FIELD(0, name_, KV_FIELD_RECORD, type, member), .record = &(record_)           \
    }

#define RECORD_OF(name_, type, rows)                                                   \
    static const struct kv_record name_##_record = {                                   \
        .name = #name_,                                                                \
        .fields = (rows),                                                              \
        .nr_fields = sizeof(rows) / sizeof((rows)[0]),                                 \
        .bytes = sizeof(type),                                                         \
    }
#define BARE_OF(name_, type, rows)                                                     \
    static const struct kv_record name_##_record = {                                   \
        .name = #name_,                                                                \
        .fields = (rows),                                                              \
        .nr_fields = 1,                                                                \
        .bytes = sizeof(type),                                                         \
        .bare = true,                                                                  \
    }

/* A bare element is its own struct. */
#define BARE_UINT(name_, type)                                                         \
    {                                                                                  \
        .name = (name_), .kind = KV_FIELD_UINT, .width = sizeof(type),                 \
        .max = UINT64_MAX >> (64 - 8 * sizeof(type))                                   \
    }

/* clang-format off */

static const struct kv_field transport_parts[] = {
    TEXT(0, "transports.name", struct kv_msg_transport, name),
    TEXT_OF(0, "transports.domain", struct kv_msg_transport, domain, KV_MSG_PLACE_MAX),
    TEXT_OF(0, "transports.address", struct kv_msg_transport, address,
            KV_MSG_PLACE_MAX),
};
RECORD_OF(transport, struct kv_msg_transport, transport_parts);

static const struct kv_field status_parts[] = {
    {.name = "statuses.status", .kind = KV_FIELD_STATUS, .width = sizeof(int32_t)},
};
BARE_OF(item_status, int32_t, status_parts);

static const struct kv_field id_parts[] = {BARE_UINT("ids.id", uint64_t)};
BARE_OF(grant_id, uint64_t, id_parts);

static const struct kv_field holder_parts[] = {
    BARE_UINT("found.runs.holders.node", uint32_t),
};
BARE_OF(holder, uint32_t, holder_parts);

static const struct kv_field tenant_parts[] = {
    ALL_OF(0, "tenants.id", struct kv_msg_tenant, id),
    ALL_OF(0, "tenants.check", struct kv_msg_tenant, check),
};
RECORD_OF(tenant, struct kv_msg_tenant, tenant_parts);

static const struct kv_field copy_parts[] = {
    ALL_OF(0, "copies.tenant", struct kv_copy, tenant),
    ALL_OF(0, "copies.layout", struct kv_copy, layout),
    UINT(0, "copies.group", struct kv_copy, group, KV_GROUPS_MAX - 1),
    ALL_OF(0, "copies.shard", struct kv_copy, shard),
    BYTES(0, "copies.key", struct kv_copy, key, false),
};
RECORD_OF(copy, struct kv_copy, copy_parts);

static const struct kv_field grant_parts[] = {
    ALL_OF(0, "grants.id", struct kv_grant, id),
    ALL_OF(0, "grants.gen", struct kv_grant, gen),
    ALL_OF(0, "grants.offset", struct kv_grant, offset),
    ALL_OF(0, "grants.digest", struct kv_grant, digest),
    ALL_OF(0, "grants.arena", struct kv_grant, arena),
    ALL_OF(0, "grants.frame", struct kv_grant, frame),
    ALL_OF(0, "grants.len", struct kv_grant, len),
    UINT(0, "grants.n_tokens", struct kv_grant, n_tokens, KV_PAGE_TOKENS_MAX),
    ALL_OF(0, "grants.duration_us", struct kv_grant, duration_us),
};
RECORD_OF(grant, struct kv_grant, grant_parts);

static const struct kv_field hello_rows[] = {
    ALL_OF(16, "hello.proto_min", struct kv_msg_hello, proto_min),
    ALL_OF(17, "hello.proto_max", struct kv_msg_hello, proto_max),
    TEXT(18, "hello.cluster", struct kv_msg_hello, cluster),
    ALL_OF(19, "hello.node", struct kv_msg_hello, node),
    ALL_OF(20, "hello.incarnation", struct kv_msg_hello, incarnation),
    ALL_OF(21, "hello.view_digest", struct kv_msg_hello, view_digest),
    LIST(22, "hello.transports", struct kv_msg_hello, transports,
         KV_MSG_TRANSPORTS_MAX, transport_record),
    LIST(23, "hello.tenants", struct kv_msg_hello, tenants,
         KV_MSG_TENANTS_MAX, tenant_record),
};

static const struct kv_field hello_ok_rows[] = {
    ALL_OF(16, "hello_ok.proto", struct kv_msg_hello_ok, proto),
    ALL_OF(17, "hello_ok.node", struct kv_msg_hello_ok, node),
    ALL_OF(18, "hello_ok.incarnation", struct kv_msg_hello_ok, incarnation),
    ALL_OF(19, "hello_ok.view_digest", struct kv_msg_hello_ok, view_digest),
    BYTES(20, "hello_ok.nonce", struct kv_msg_hello_ok, nonce, false),
    LIST(21, "hello_ok.transports", struct kv_msg_hello_ok, transports,
         KV_MSG_TRANSPORTS_MAX, transport_record),
    LIST(22, "hello_ok.tenants", struct kv_msg_hello_ok, tenants,
         KV_MSG_TENANTS_MAX, tenant_record),
};

static const struct kv_field status_rows[] = {
    STATUS(16, "status.status", struct kv_msg_status, status),
    TEXT(17, "status.field", struct kv_msg_status, field),
    ALL_OF(18, "status.limit", struct kv_msg_status, limit),
    ALL_OF(19, "status.value", struct kv_msg_status, value),
};

static const struct kv_field reach_parts[] = {
    ALL_OF(0, "reaches.tenant", struct kv_msg_reach, tenant),
    ALL_OF(0, "reaches.reach_us", struct kv_msg_reach, reach_us),
};
RECORD_OF(reach, struct kv_msg_reach, reach_parts);

static const struct kv_field ping_rows[] = {
    ALL_OF(16, "ping.seq", struct kv_msg_ping, seq),
    ALL_OF(17, "ping.stream_pos", struct kv_msg_ping, stream_pos),
    ALL_OF(18, "ping.nr_entries", struct kv_msg_ping, nr_entries),
    ALL_OF(19, "ping.free_frames", struct kv_msg_ping, free_frames),
    ALL_OF(20, "ping.reach_us", struct kv_msg_ping, reach_us),
    LIST(21, "ping.reaches", struct kv_msg_ping, reaches,
         KV_MSG_TENANTS_MAX, reach_record),
};

static const struct kv_field pong_rows[] = {
    ALL_OF(16, "pong.seq", struct kv_msg_pong, seq),
    ALL_OF(17, "pong.stream_pos", struct kv_msg_pong, stream_pos),
    ALL_OF(18, "pong.nr_entries", struct kv_msg_pong, nr_entries),
};

static const struct kv_field entry_parts[] = {
    RECORD("publish.items.copy", struct kv_msg_entry, copy, copy_record),
    BYTES(0, "publish.items.segment", struct kv_msg_entry, segment, false),
    ALL_OF(0, "publish.items.index", struct kv_msg_entry, index),
    UINT(0, "publish.items.n_tokens", struct kv_msg_entry, n_tokens,
         KV_PAGE_TOKENS_MAX),
    ALL_OF(0, "publish.items.tier", struct kv_msg_entry, tier),
    ALL_OF(0, "publish.items.frame", struct kv_msg_entry, frame),
    ALL_OF(0, "publish.items.gen", struct kv_msg_entry, gen),
    BOOL(0, "publish.items.tail", struct kv_msg_entry, tail),
    BYTES(0, "publish.items.prev", struct kv_msg_entry, prev, true),
};
RECORD_OF(entry, struct kv_msg_entry, entry_parts);

static const struct kv_field publish_rows[] = {
    ALL_OF(16, "publish.pos", struct kv_msg_publish, pos),
    LIST(17, "publish.items", struct kv_msg_publish, items, KV_MSG_ITEMS_MAX,
         entry_record),
};

static const struct kv_field published_rows[] = {
    ALL_OF(16, "published.pos", struct kv_msg_published, pos),
    LIST(17, "published.statuses", struct kv_msg_published, statuses,
         KV_MSG_ITEMS_MAX, item_status_record),
};

static const struct kv_field gone_parts[] = {
    RECORD("withdraw.items.copy", struct kv_msg_gone, copy, copy_record),
    ALL_OF(0, "withdraw.items.frame", struct kv_msg_gone, frame),
    ALL_OF(0, "withdraw.items.gen", struct kv_msg_gone, gen),
};
RECORD_OF(gone, struct kv_msg_gone, gone_parts);

static const struct kv_field withdraw_rows[] = {
    ALL_OF(16, "withdraw.pos", struct kv_msg_withdraw, pos),
    LIST(17, "withdraw.items", struct kv_msg_withdraw, items, KV_MSG_ITEMS_MAX,
         gone_record),
};

static const struct kv_field sync_begin_rows[] = {
    ALL_OF(16, "sync_begin.pos", struct kv_msg_sync_begin, pos),
};

static const struct kv_field sync_end_rows[] = {
    ALL_OF(16, "sync_end.pos", struct kv_msg_sync_end, pos),
    ALL_OF(17, "sync_end.count", struct kv_msg_sync_end, count),
};

static const struct kv_field sync_want_rows[] = {
    ALL_OF(16, "sync_want.pos", struct kv_msg_sync_want, pos),
};

static const struct kv_field want_parts[] = {
    ALL_OF(0, "lookup.wants.layout", struct kv_msg_want, layout),
    UINT(0, "lookup.wants.group", struct kv_msg_want, group, KV_GROUPS_MAX - 1),
    ALL_OF(0, "lookup.wants.shard", struct kv_msg_want, shard),
};
RECORD_OF(want, struct kv_msg_want, want_parts);

static const struct kv_field segment_parts[] = {
    BYTES(0, "lookup.segs.segment", struct kv_msg_segment, segment, false),
    ALL_OF(0, "lookup.segs.index", struct kv_msg_segment, index),
    KEYS(0, "lookup.segs.keys", struct kv_msg_segment, keys, KV_MSG_SEG_KEYS_MAX,
         KV_MSG_KEYS_MAX),
};
RECORD_OF(segment, struct kv_msg_segment, segment_parts);

static const struct kv_field lookup_rows[] = {
    ALL_OF(16, "lookup.tenant", struct kv_msg_lookup, tenant),
    UINT(17, "lookup.grants_max", struct kv_msg_lookup, grants_max,
         KV_MSG_GRANTS_MAX),
    LIST(18, "lookup.wants", struct kv_msg_lookup, wants, KV_MSG_WANTS_MAX,
         want_record),
    LIST(19, "lookup.segs", struct kv_msg_lookup, segs, KV_MSG_SEGS_MAX,
         segment_record),
    BOOL(20, "lookup.tails", struct kv_msg_lookup, tails),
    BYTES(21, "lookup.tail_segment", struct kv_msg_lookup, tail_segment, false),
    BYTES(22, "lookup.tail_prev", struct kv_msg_lookup, tail_prev, false),
};

static const struct kv_field run_parts[] = {
    UINT(0, "found.runs.seg", struct kv_msg_run, seg, KV_MSG_SEGS_MAX - 1),
    UINT(0, "found.runs.want", struct kv_msg_run, want, KV_MSG_WANTS_MAX - 1),
    UINT(0, "found.runs.first", struct kv_msg_run, first, KV_MSG_SEG_KEYS_MAX - 1),
    UINT(0, "found.runs.n", struct kv_msg_run, n, KV_MSG_SEG_KEYS_MAX),
    LIST(0, "found.runs.holders", struct kv_msg_run, holders, KV_MSG_HOLDERS_MAX,
         holder_record),
};
RECORD_OF(run, struct kv_msg_run, run_parts);

static const struct kv_field tail_parts[] = {
    UINT(0, "found.tails.want", struct kv_msg_tail, want, KV_MSG_WANTS_MAX - 1),
    UINT(0, "found.tails.n_tokens", struct kv_msg_tail, n_tokens, KV_PAGE_TOKENS_MAX),
    ALL_OF(0, "found.tails.holder", struct kv_msg_tail, holder),
    BYTES(0, "found.tails.key", struct kv_msg_tail, key, false),
};
RECORD_OF(tail, struct kv_msg_tail, tail_parts);

static const struct kv_field found_grant_parts[] = {
    UINT(0, "found.grants.seg", struct kv_msg_found_grant, seg, KV_MSG_SEGS_MAX - 1),
    UINT(0, "found.grants.want", struct kv_msg_found_grant, want,
         KV_MSG_WANTS_MAX - 1),
    UINT(0, "found.grants.page", struct kv_msg_found_grant, page,
         KV_MSG_SEG_KEYS_MAX - 1),
    RECORD("found.grants.grant", struct kv_msg_found_grant, grant, grant_record),
};
RECORD_OF(found_grant, struct kv_msg_found_grant, found_grant_parts);

static const struct kv_field found_rows[] = {
    BOOL(16, "found.cold", struct kv_msg_found, cold),
    LIST(17, "found.runs", struct kv_msg_found, runs, KV_MSG_RUNS_MAX, run_record),
    LIST(18, "found.tails", struct kv_msg_found, tails, KV_MSG_TAILS_MAX, tail_record),
    LIST(19, "found.grants", struct kv_msg_found, grants, KV_MSG_GRANTS_MAX,
         found_grant_record),
};

static const struct kv_field grant_rows[] = {
    UINT(16, "grant.purpose", struct kv_msg_grant, purpose, KV_GRANT_SPILL),
    ALL_OF(17, "grant.duration_us", struct kv_msg_grant, duration_us),
    LIST(18, "grant.copies", struct kv_msg_grant, copies, KV_MSG_ITEMS_MAX,
         copy_record),
};

static const struct kv_field granted_item_parts[] = {
    STATUS(0, "granted.items.status", struct kv_msg_granted_item, status),
    RECORD("granted.items.grant", struct kv_msg_granted_item, grant, grant_record),
};
RECORD_OF(granted_item, struct kv_msg_granted_item, granted_item_parts);

static const struct kv_field granted_rows[] = {
    LIST(16, "granted.items", struct kv_msg_granted, items, KV_MSG_ITEMS_MAX,
         granted_item_record),
};

static const struct kv_field released_parts[] = {
    ALL_OF(0, "release.items.id", struct kv_msg_released, id),
    BOOL(0, "release.items.read", struct kv_msg_released, read),
};
RECORD_OF(released, struct kv_msg_released, released_parts);

static const struct kv_field release_rows[] = {
    LIST(16, "release.items", struct kv_msg_release, items, KV_MSG_ITEMS_MAX,
         released_record),
};
static const struct kv_field revoke_rows[] = {
    LIST(16, "revoke.ids", struct kv_msg_ids, ids, KV_MSG_ITEMS_MAX, grant_id_record),
};
static const struct kv_field revoked_rows[] = {
    LIST(16, "revoked.ids", struct kv_msg_ids, ids, KV_MSG_ITEMS_MAX, grant_id_record),
};

static const struct kv_field data_open_rows[] = {
    ALL_OF(16, "data_open.data_gen", struct kv_msg_data_open, data_gen),
    BYTES(17, "data_open.proof", struct kv_msg_data_open, proof, false),
    BOOL(18, "data_open.one_sided", struct kv_msg_data_open, one_sided),
};

static const struct kv_field read_rows[] = {
    ALL_OF(16, "read.data_gen", struct kv_msg_read, data_gen),
    LIST(17, "read.copies", struct kv_msg_read, copies, KV_MSG_READ_MAX, copy_record),
};

static const struct kv_field data_rows[] = {
    ALL_OF(16, "data.data_gen", struct kv_msg_data, data_gen),
    UINT(17, "data.index", struct kv_msg_data, index, KV_MSG_READ_MAX - 1),
    STATUS(18, "data.status", struct kv_msg_data, status),
    ALL_OF(19, "data.len", struct kv_msg_data, len),
    UINT(20, "data.n_tokens", struct kv_msg_data, n_tokens, KV_PAGE_TOKENS_MAX),
    ALL_OF(21, "data.gen", struct kv_msg_data, gen),
    ALL_OF(22, "data.digest", struct kv_msg_data, digest),
};

static const struct kv_field offer_parts[] = {
    RECORD("spill_offer.items.copy", struct kv_msg_offer, copy, copy_record),
    BYTES(0, "spill_offer.items.segment", struct kv_msg_offer, segment, false),
    ALL_OF(0, "spill_offer.items.index", struct kv_msg_offer, index),
    UINT(0, "spill_offer.items.n_tokens", struct kv_msg_offer, n_tokens,
         KV_PAGE_TOKENS_MAX),
    ALL_OF(0, "spill_offer.items.len", struct kv_msg_offer, len),
    ALL_OF(0, "spill_offer.items.digest", struct kv_msg_offer, digest),
    ALL_OF(0, "spill_offer.items.age_us", struct kv_msg_offer, age_us),
    BOOL(0, "spill_offer.items.tail", struct kv_msg_offer, tail),
    BYTES(0, "spill_offer.items.prev", struct kv_msg_offer, prev, true),
};
RECORD_OF(offer, struct kv_msg_offer, offer_parts);

static const struct kv_field spill_offer_rows[] = {
    LIST(16, "spill_offer.items", struct kv_msg_spill_offer, items,
         KV_MSG_OFFERS_MAX, offer_record),
    ALL_OF(17, "spill_offer.stream_pos", struct kv_msg_spill_offer, stream_pos),
};

static const struct kv_field spill_answer_rows[] = {
    LIST(16, "spill_answer.statuses", struct kv_msg_spill_answer, statuses,
         KV_MSG_OFFERS_MAX, item_status_record),
    ALL_OF(17, "spill_answer.reach_us", struct kv_msg_spill_answer,
           reach_us),
    LIST(18, "spill_answer.reaches", struct kv_msg_spill_answer, reaches,
         KV_MSG_TENANTS_MAX, reach_record),
};

static const struct kv_field spilled_parts[] = {
    RECORD("spill_done.items.copy", struct kv_msg_spilled, copy, copy_record),
    STATUS(0, "spill_done.items.status", struct kv_msg_spilled, status),
};
RECORD_OF(spilled, struct kv_msg_spilled, spilled_parts);

static const struct kv_field spill_done_rows[] = {
    LIST(16, "spill_done.items", struct kv_msg_spill_done, items, KV_MSG_OFFERS_MAX,
         spilled_record),
};

const struct kv_field kv_envelope_fields[] = {
    ALL_OF(KV_ENVELOPE_PROTO, "proto", struct kv_msg, proto),
    ALL_OF(KV_ENVELOPE_TYPE, "type", struct kv_msg, type),
    ALL_OF(2, "req", struct kv_msg, req),
    ALL_OF(3, "link", struct kv_msg, link),
    ALL_OF(4, "epoch", struct kv_msg, epoch),
    ALL_OF(5, "deadline_left_us", struct kv_msg, deadline_left_us),
};
const uint32_t kv_nr_envelope_fields =
    sizeof(kv_envelope_fields) / sizeof(kv_envelope_fields[0]);

/* By type number. */
static const struct kv_msg_desc descs[] = {
#define X(symbol, number, name_, member)                                               \
    [number] = {                                                                       \
        .name = (name_),                                                               \
        .fields = member##_rows,                                                       \
        .nr_fields = sizeof(member##_rows) / sizeof(member##_rows[0]),                 \
    },
    KV_MSG_MAP(X)
#undef X
};

/* clang-format on */

static const uint8_t types[KV_NR_MSGS] = {
#define X(symbol, number, name_, member) (number),
    KV_MSG_MAP(X)
#undef X
};

const struct kv_msg_desc *kv_msg_desc(uint32_t type)
{
    if (type >= KV_COUNT_OF(descs) || descs[type].name == NULL) {
        return NULL;
    }
    return &descs[type];
}

const char *kv_msg_name(uint32_t type)
{
    const struct kv_msg_desc *desc = kv_msg_desc(type);

    return desc != NULL ? desc->name : "unknown";
}

unsigned kv_msg_index(uint32_t type)
{
    unsigned i = 0;

    while (i < KV_NR_MSGS && types[i] != type) {
        i++;
    }
    return i;
}

uint32_t kv_msg_type_at(unsigned i)
{
    KV_ASSERT(i < KV_NR_MSGS);
    return types[i];
}

bool kv_field_is_zero(const struct kv_field *field, const uint8_t *base)
{
    struct kv_msg_text text;
    int32_t status;
    bool flag;

    KV_DASSERT(field->kind != KV_FIELD_RECORD);
    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        return kv_field_uint(field, base) == 0;
    case KV_FIELD_STATUS:
        memcpy(&status, base + field->offset, sizeof(status));
        return status == 0;
    case KV_FIELD_BOOL:
        memcpy(&flag, base + field->offset, sizeof(flag));
        return !flag;
    case KV_FIELD_BYTES:
        return kv_bytes_are_zero(base + field->offset, field->width);
    case KV_FIELD_TEXT:
        memcpy(&text, base + field->offset, sizeof(text));
        return text.len == 0;
    case KV_FIELD_KEYS:
    case KV_FIELD_LIST:
        return kv_field_count(field, base) == 0;
    case KV_FIELD_RECORD:
        break;
    }
    return false;
}

kv_status_t
kv_field_invalid(struct kv_detail *detail, const struct kv_field *field, uint64_t value)
{
    return kv_fail(detail, KV_ERR_INVALID, field->name, field->max, value);
}

kv_status_t kv_keys_add(
    const struct kv_field *field, uint32_t nr_keys, uint64_t *total_p,
    struct kv_detail *detail)
{
    *total_p += nr_keys;
    if (field->total != 0 && *total_p > field->total) {
        return kv_fail(detail, KV_ERR_INVALID, field->name, field->total, *total_p);
    }
    return KV_OK;
}

int kv_text_control(const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f) {
            return text[i];
        }
    }
    return -1;
}

kv_status_t kv_msg_check_envelope(
    const struct kv_msg *msg, const struct kv_msg_desc **desc_p,
    struct kv_detail *detail)
{
    const struct kv_msg_desc *desc;

    /* The version first: a newer one may have types that we do not know. */
    if (msg->proto < KV_PROTO_MIN || msg->proto > KV_PROTO_MAX) {
        return kv_fail(detail, KV_ERR_VERSION, "proto", KV_PROTO_MAX, msg->proto);
    }
    desc = kv_msg_desc(msg->type);
    if (desc == NULL) {
        uint32_t last = kv_msg_type_at(KV_NR_MSGS - 1);
        return kv_fail(detail, KV_ERR_INVALID, "type", last, msg->type);
    }
    *desc_p = desc;
    return KV_OK;
}
