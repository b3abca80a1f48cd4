/* Goal: what clients here and clients elsewhere are told and answered is one thing, and
 * right. Method: values in, values out; what a reader of the other side takes. */
#include "base/mem.h"
#include "node/daemon/clients.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const uint8_t secrets[2][KV_SECRET_BYTES_MIN] = {
    "0123456789abcdef", "ghijklmnopqrstuv"};
static const struct kvn_local_tenant tenants[] = {
    {.id = 7, .secret = secrets[0], .secret_len = sizeof(secrets[0])},
    {.id = 9, .secret = secrets[1], .secret_len = sizeof(secrets[1])},
};
static const struct kvn_local_space spaces[] = {
    {.name = "chat",
     .id = {{1}},
     .page_tokens = 16,
     .page_bytes = 4000,
     .nr_groups = 2,
     .first_variant = 0},
    {.name = "the longest name, of thirty-nine bytes.",
     .id = {{2}},
     .page_tokens = 8,
     .page_bytes = 4096,
     .nr_groups = 1,
     .first_variant = 3},
};

static void told_make(struct kvn_told *told)
{
    kvn_told_init(told, tenants, 2, spaces, 2);
}

/* ---- what they are told ---------------------------------------------------------- */

/* A page takes whole multiples of KVP_ALIGN in a client's buffer, whatever the
 * configuration says; each tenant has salts of its own, in no other byte it differs. */
static void told__pages_are_whole_and_salts_a_tenants(void **state)
{
    static struct kvn_told told;
    struct kvn_packet_space got[2][KVN_PACKET_SPACES_MAX];
    (void)state;
    told_make(&told);
    memset(got, 0xa5, sizeof(got));
    for (uint16_t t = 0; t < 2; t++) {
        assert_int_equal(kvn_told_spaces(&told, t, got[t]), KV_OK);
        for (uint32_t i = 0; i < 2; i++) {
            struct kvn_packet_space wanted = {
                .id = spaces[i].id,
                .page_tokens = spaces[i].page_tokens,
                .page_bytes = 4096,
                .first_variant = spaces[i].first_variant,
                .nr_groups = (uint16_t)spaces[i].nr_groups,
            };
            (void)snprintf(wanted.name, sizeof(wanted.name), "%s", spaces[i].name);
            assert_int_equal(
                kv_salt(
                    tenants[t].secret, tenants[t].secret_len, &wanted.id, &wanted.salt,
                    NULL),
                KV_OK);
            assert_memory_equal(&got[t][i], &wanted, sizeof(wanted));
        }
        assert_int_equal(got[t][2].name[0], (char)0xa5); /* there are two */
    }
    for (uint32_t v = 0; v < KVP_VARIANTS_MAX; v++) {
        const bool known = v <= 1 || v == 3;
        assert_int_equal(told.page_bytes[v], known ? 4096 : 0);
        assert_int_equal(told.page_tokens[v], !known ? 0 : v == 3 ? 8 : 16);
    }
    kvn_told_wipe(&told);
    const uint8_t *bytes = (const uint8_t *)told.tenants;
    for (size_t i = 0; i < sizeof(told.tenants); i++) {
        assert_int_equal(bytes[i], 0);
    }
}

/* ---- what they ask --------------------------------------------------------------- */

/* Of every bound one on either side: the field, its limit and the value are named. */
static void request__out_of_bounds_is_named(void **state)
{
    static const struct {
        uint16_t op, variant;
        uint64_t timeout_us;
        const char *field; /* NULL: it is taken */
        uint64_t limit, value;
    } rows[] = {
        {KVN_OP_GET, 1, 1, NULL, 0, 0},
        {KVN_OP_GET, 3, KVN_RING_TIMEOUT_MAX_US, NULL, 0, 0},
        {KVN_OP_PIN, 0, 0, NULL, 0, 0},
        {KVN_OP_SEQ_END, 0, 0, NULL, 0, 0},
        {KVN_OP_PIN, 2, 0, "request.variant", KVP_VARIANTS_MAX, 2},
        {KVN_OP_PIN, KVP_VARIANTS_MAX, 0, "request.variant", KVP_VARIANTS_MAX,
         KVP_VARIANTS_MAX},
        {KVN_OP_PIN, UINT16_MAX, 0, "request.variant", KVP_VARIANTS_MAX, UINT16_MAX},
        {KVN_OP_EXISTS, 0, 0, "request.timeout", KVN_RING_TIMEOUT_MAX_US, 0},
        {KVN_OP_GET, 0, 0, "request.timeout", KVN_RING_TIMEOUT_MAX_US, 0},
        {KVN_OP_PUT, 0, 0, "request.timeout", KVN_RING_TIMEOUT_MAX_US, 0},
        {KVN_OP_PIN, 0, KVN_RING_TIMEOUT_MAX_US + 1, "request.timeout",
         KVN_RING_TIMEOUT_MAX_US, KVN_RING_TIMEOUT_MAX_US + 1},
    };
    static struct kvn_told told;
    (void)state;
    told_make(&told);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct kvn_request_head head = {
            .op = rows[i].op,
            .variant = rows[i].variant,
            .timeout_us = rows[i].timeout_us,
        };
        struct kv_detail detail = {0};
        const kv_status_t status = kvn_request_check(&told, &head, &detail);
        if (rows[i].field == NULL) {
            assert_int_equal(status, KV_OK);
            continue;
        }
        assert_int_equal(status, KV_ERR_INVALID);
        assert_string_equal(detail.field, rows[i].field);
        assert_int_equal(detail.limit, rows[i].limit);
        assert_int_equal(detail.value, rows[i].value);
    }
    kvn_told_wipe(&told);
}

/* Every field arrives; a request that does not wait has no deadline. */
static void request__reaches_the_core_whole(void **state)
{
    kv_key_t keys[2] = {{{1}}, {{2}}};
    uint64_t addresses[2] = {0};
    uint32_t n_tokens[2] = {0};
    struct kvn_request in = {
        .head =
            {
                .op = KVN_OP_GET,
                .tag = 99,
                .timeout_us = 5,
                .nr_keys = 2,
                .first_page = 6,
                .variant = 3,
                .flags = KVN_REQUEST_LOOSE,
                .anchor = {{7}},
                .prev = {{8}},
            },
        .seq = {.seq = UINT64_C(9) << 32 | 10, .version = 11, .page = 12, .tokens = 13},
        .keys = keys,
        .addresses = addresses,
        .n_tokens = n_tokens,
    };
    (void)state;
    struct kvo_request got = kvn_request_core(&in, 14, 15, 16);
    assert_int_equal(got.tag, 14);
    assert_int_equal(got.op, KVO_GET);
    assert_int_equal(got.deadline_us, 16);
    assert_int_equal(got.tenant, 15);
    assert_int_equal(got.variant, 3);
    assert_true(got.loose);
    assert_int_equal(got.first_page, 6);
    assert_memory_equal(&got.anchor, &in.head.anchor, sizeof(kv_key_t));
    assert_ptr_equal(got.keys, keys);
    assert_int_equal(got.nr_keys, 2);
    assert_ptr_equal(got.buffers, addresses);
    assert_ptr_equal(got.n_tokens, n_tokens);
    assert_int_equal(got.seq.index, 10);
    assert_int_equal(got.seq.gen, 9);
    assert_int_equal(got.page, 12);
    assert_int_equal(got.tokens, 13);
    assert_int_equal(got.version, 11);
    assert_memory_equal(&got.prev, &in.head.prev, sizeof(kv_key_t));
    in.head.timeout_us = 0;
    in.head.flags = KVN_REQUEST_TOKENS;
    got = kvn_request_core(&in, 14, 15, 16);
    assert_int_equal(got.deadline_us, 0);
    assert_false(got.loose);
}

/* ---- what they are answered ------------------------------------------------------ */

/* The reader of the other side finds all of it, of any number of keys, and where a
 * table's part stands between; nothing is written beside the record. */
static void answer__is_what_the_other_side_reads(void **state)
{
    static const kv_status_t statuses[] = {KV_OK, KV_ERR_MISS, KV_ERR_IO};
    static const uint8_t reasons[] = {0, 3, 1}, places[] = {2, 0, 1};
    _Alignas(8) uint8_t record[512];
    (void)state;
    for (uint32_t n = 0; n <= 3; n++) {
        for (unsigned of_seq = 0; of_seq < 2; of_seq++) {
            const struct kvo_answer answer = {
                .status = n == 0 ? KV_ERR_TOO_LARGE : KV_OK,
                .detail = {.field = n == 0 ? "a.field" : NULL, .limit = 7, .value = 8},
                .statuses = n == 0 ? NULL : statuses,
                .reasons = reasons,
                .places = places,
                .nr_keys = n == 0 ? 3 : n,
            };
            const struct kvn_answer_seq seq = {
                .seq = 5, .nr_pages = 4, .nr_entries = 2};
            const uint16_t op = of_seq ? KVN_OP_SEQ_FETCH : KVN_OP_GET;
            const uint32_t bytes =
                of_seq ? kvn_seq_answer_bytes(n, 2, 0) : kvn_answer_bytes(n);
            struct kvn_answer got;
            assert_int_equal(kvn_answer_keys(&answer), n);
            memset(record, 0xa5, sizeof(record));
            kvn_answer_write(record + 8, bytes, op, 0x123456789, &answer);
            for (uint32_t i = 0; i < 8; i++) {
                assert_int_equal(record[i], 0xa5);
                assert_int_equal(record[8 + bytes + i], 0xa5);
            }
            uint8_t *between = record + 8 + sizeof(struct kvn_answer_head);
            if (of_seq) {
                for (size_t i = 0; i < sizeof(seq); i++) {
                    assert_int_equal(between[i], 0xa5);
                }
                memcpy(between, &seq, sizeof(seq));
            }
            assert_int_equal(kvn_answer_read(record + 8, bytes, &got, NULL), KV_OK);
            assert_int_equal(got.head.op, op);
            assert_int_equal(got.head.type, KVN_RECORD_ANSWER);
            assert_int_equal(got.head.tag, 0x123456789);
            assert_int_equal(got.head.status, answer.status);
            assert_int_equal(got.head.nr_keys, n);
            assert_int_equal(got.head.limit, 7);
            assert_int_equal(got.head.value, 8);
            assert_string_equal(got.head.field, n == 0 ? "a.field" : "");
            assert_memory_equal(got.statuses, statuses, n * sizeof(int32_t));
            assert_memory_equal(got.reasons, reasons, n);
            assert_memory_equal(got.places, places, n);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told__pages_are_whole_and_salts_a_tenants),
        cmocka_unit_test(request__out_of_bounds_is_named),
        cmocka_unit_test(request__reaches_the_core_whole),
        cmocka_unit_test(answer__is_what_the_other_side_reads),
    };
    return cmocka_run_group_tests_name("clients", tests, NULL, NULL);
}
