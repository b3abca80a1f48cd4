/* Node 2 of the kit: a peer whose every message a test makes by hand. */
#include "base/codec.h"
#include "base/digest.h"
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ------------------------------------------------------------------ what it hears */

static struct ck_said *said_add(struct ck *ck, uint64_t conn, uint32_t type)
{
    assert_true(ck->nr_said < CK_SAID);
    struct ck_said *said = &ck->said[ck->nr_said++];
    said->conn = conn;
    said->type = type;
    said->len = 0;
    return said;
}

void ck_heard(struct ck *ck, uint64_t conn, const struct kv_msg *msg)
{
    struct ck_said *said = said_add(ck, conn, msg->type);
    size_t len;
    assert_int_equal(kv_encode(msg, said->bytes, CK_SAID_BYTES, &len, NULL), KV_OK);
    said->len = (uint32_t)len;
}

void ck_hung_up(struct ck *ck, uint64_t conn)
{
    said_add(ck, conn, 0);
}

void ck_ordered(struct ck *ck, const struct kvo_order *order)
{
    for (uint32_t i = 0; i < order->nr_parts; i++) {
        assert_true(ck->nr_wire < CK_SAID);
        ck->wire[ck->nr_wire++] = (struct ck_wire){
            .kind = order->kind,
            .link = order->link,
            .req = order->req,
            .data_gen = order->data_gen,
            .part = order->parts[i],
        };
    }
}

uint32_t ck_said_at(const struct ck *ck, uint32_t type, uint64_t conn)
{
    uint32_t i = 0;
    while (i < ck->nr_said
           && (ck->said[i].type != type || ck->said[i].conn != conn)) {
        i++;
    }
    return i;
}

const struct kv_msg *ck_said(struct ck *ck, uint32_t type)
{
    static _Alignas(16) uint8_t memory[KV_MSG_ARENA_BYTES];
    static struct ck_said said;
    static struct kv_msg msg;
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};

    for (uint32_t i = 0; i < ck->nr_said; i++) {
        if (ck->said[i].type == type) {
            said = ck->said[i];
            ck->nr_said--;
            memmove(
                &ck->said[i], &ck->said[i + 1], (ck->nr_said - i) * sizeof(said));
            assert_int_equal(
                kv_decode(said.bytes, said.len, &arena, &msg, NULL), KV_OK);
            return &msg;
        }
    }
    return NULL;
}

bool ck_wire(struct ck *ck, enum kvo_order_kind kind, struct ck_wire *wire)
{
    for (uint32_t i = 0; i < ck->nr_wire; i++) {
        if (ck->wire[i].kind == kind) {
            *wire = ck->wire[i];
            ck->nr_wire--;
            memmove(
                &ck->wire[i], &ck->wire[i + 1],
                (ck->nr_wire - i) * sizeof(ck->wire[0]));
            return true;
        }
    }
    return false;
}

void ck_landed(
    struct ck *ck, const struct ck_wire *wire, kv_status_t status, uint32_t n_tokens)
{
    uint8_t *frame = ck_bytes_at(ck, wire->part.pool, wire->part.pool_frame);
    memset(frame, 7, wire->part.len);
    const uint64_t digest = kv_digest(frame, wire->part.len);
    const struct kvo_done done = {
        .status = status,
        .computed = digest,
        .expected = digest,
        .len = wire->part.len,
        .n_tokens = n_tokens,
    };
    kvo_complete(ck->node, ck->now_us, wire->part.id, &done);
    kvo_check(ck->node);
}

void ck_fenced(struct ck *ck, const struct ck_wire *wire)
{
    const struct kvo_done done = {.status = KV_OK};
    kvo_complete(ck->node, ck->now_us, wire->part.id, &done);
    kvo_check(ck->node);
}

/* ------------------------------------------------------------------ what it says */

void ck_connect(struct ck *ck, uint64_t conn)
{
    ck->met = true;
    kvo_conn_up(ck->node, ck->now_us, CK_PEER, conn, false);
    kvo_check(ck->node);
}

struct kv_msg *ck_hello(struct ck *ck)
{
    static struct kv_msg_transport transports[] = {
        {.name = {.text = "tcp", .len = 3}}, {.name = {.text = "verbs", .len = 5}}};
    static struct kv_msg_tenant tenants[] = {{.id = 10}, {.id = 20}};
    static struct kv_msg msg;
    uint64_t proof;
    assert_int_equal(kv_check_proof(0, 2, ck->incarnation, &proof), KV_OK);
    tenants[0].check = tenants[1].check = proof; /* the checks of the config are 0 */

    msg = (struct kv_msg){.type = KV_MSG_HELLO};
    msg.u.hello = (struct kv_msg_hello){
        .proto_min = KV_PROTO_MIN,
        .proto_max = KV_PROTO_MAX,
        .cluster = {.text = "test", .len = 4},
        .node = 2,
        .incarnation = ck->incarnation,
        .view_digest = ck->view.digest,
        .transports = transports,
        .nr_transports = 2,
        .tenants = tenants,
        .nr_tenants = ck->nr_tenants,
    };
    return &msg;
}

void ck_tell_on(struct ck *ck, uint64_t conn, struct kv_msg *msg)
{
    msg->proto = KV_PROTO_MAX;
    msg->epoch = ck->epoch;
    kvo_message(ck->node, ck->now_us, CK_PEER, conn, msg);
    kvo_check(ck->node);
}

void ck_tell(struct ck *ck, struct kv_msg *msg)
{
    msg->link = ck->link;
    ck_tell_on(ck, CK_CONN, msg);
}

void ck_meet(struct ck *ck)
{
    ck_connect(ck, CK_CONN);
    ck_tell_on(ck, CK_CONN, ck_hello(ck));
    const struct kv_msg *ok = ck_said(ck, KV_MSG_HELLO_OK);
    assert_non_null(ok);
    ck->link = ok->link;
    memcpy(ck->nonce, ok->u.hello_ok.nonce, KV_NONCE_BYTES);
    assert_true(kvo_link_up(ck->node, CK_PEER));
}

kv_key_t ck_key_of(const struct ck *ck, uint32_t home, uint64_t nth)
{
    for (uint64_t number = 1;; number++) {
        const kv_key_t key = ck_key(number);
        uint32_t first;
        assert_int_equal(kvc_homes(&ck->view, &key, 1, &first), 1);
        if (first == home && nth-- == 0) {
            return key;
        }
    }
}

struct kv_copy ck_copy(const kv_key_t *key)
{
    return (struct kv_copy){.tenant = 10, .layout = 1, .key = *key};
}

struct kv_msg_entry ck_entry(const kv_key_t *key)
{
    return (struct kv_msg_entry){
        .copy = ck_copy(key),
        .segment = *key,
        .n_tokens = CK_PAGE_TOKENS,
        .tier = KVP_HOST,
        .gen = 1,
    };
}

void ck_lists(struct ck *ck, const kv_key_t *keys, uint32_t n)
{
    static struct kv_msg_entry entries[KV_MSG_ITEMS_MAX];
    struct kv_msg begin = {.type = KV_MSG_SYNC_BEGIN};
    struct kv_msg publish = {.type = KV_MSG_PUBLISH};
    struct kv_msg end = {.type = KV_MSG_SYNC_END};

    for (uint32_t i = 0; i < n; i++) {
        entries[i] = ck_entry(&keys[i]);
    }
    begin.u.sync_begin.pos = ++ck->stream;
    ck_tell(ck, &begin);
    publish.u.publish = (struct kv_msg_publish){
        .pos = ++ck->stream, .items = entries, .nr_items = n};
    ck_tell(ck, &publish);
    end.u.sync_end = (struct kv_msg_sync_end){.pos = ++ck->stream, .count = n};
    ck_tell(ck, &end);
    assert_int_equal(kvc_dir_nr_entries(kvo_directory(ck->node), CK_PEER), n);
}

struct kv_msg_offer ck_offer(const kv_key_t *key)
{
    uint8_t bytes[CK_PAGE_BYTES];
    memset(bytes, 7, sizeof(bytes)); /* as ck_landed() */
    return (struct kv_msg_offer){
        .copy = ck_copy(key),
        .segment = *key,
        .n_tokens = CK_PAGE_TOKENS,
        .len = CK_PAGE_BYTES,
        .digest = kv_digest(bytes, sizeof(bytes)),
    };
}

kv_status_t ck_offers(struct ck *ck, struct kv_msg_offer *offer)
{
    struct kv_msg msg = {.type = KV_MSG_SPILL_OFFER, .req = 7};
    msg.u.spill_offer = (struct kv_msg_spill_offer){
        .stream_pos = ck->stream, .items = offer, .nr_items = 1};
    ck_tell(ck, &msg);
    const struct kv_msg *answer = ck_said(ck, KV_MSG_SPILL_ANSWER);
    assert_non_null(answer);
    assert_int_equal(answer->req, 7);
    assert_int_equal(answer->u.spill_answer.nr_statuses, 1);
    return answer->u.spill_answer.statuses[0];
}

static bool opens(struct ck *ck, uint32_t data_gen, bool one_sided, bool good)
{
    struct kv_msg msg = {
        .proto = KV_PROTO_MAX,
        .type = KV_MSG_DATA_OPEN,
        .link = ck->link,
        .epoch = ck->epoch,
    };
    uint8_t text[13];
    for (unsigned i = 0; i < 8; i++) {
        text[i] = (uint8_t)(ck->link >> (8 * i));
    }
    for (unsigned i = 0; i < 4; i++) {
        text[8 + i] = (uint8_t)(data_gen >> (8 * i));
    }
    text[12] = one_sided;
    msg.u.data_open.data_gen = data_gen;
    msg.u.data_open.one_sided = one_sided;
    assert_int_equal(
        kv_hmac(
            ck->nonce, KV_NONCE_BYTES, text, sizeof(text), &msg.u.data_open.proof),
        KV_OK);
    msg.u.data_open.proof.b[0] ^= (uint8_t)!good;
    const bool believed = kvo_data_message(ck->node, ck->now_us, CK_PEER, &msg);
    kvo_check(ck->node);
    return believed;
}

bool ck_opens(struct ck *ck, uint32_t data_gen, bool good)
{
    return opens(ck, data_gen, false, good);
}

bool ck_opens_one_sided(struct ck *ck, uint32_t data_gen, bool good)
{
    return opens(ck, data_gen, true, good);
}
