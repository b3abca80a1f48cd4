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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(told__pages_are_whole_and_salts_a_tenants),
    };
    return cmocka_run_group_tests_name("clients", tests, NULL, NULL);
}
