/* Keys name pages across nodes, engines and versions: the bytes must be the documented
 * ones, and what must not be shared must never get one name. */
#include "base/fault.h"
#include "base/key.h"
#include "base/mem.h"
#include "tests/base/vectors.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kv_keygen_t *gen;

static int setup(void **state)
{
    (void)state;
    return kv_keygen_create(&gen) == KV_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    kv_keygen_destroy(gen);
    return kv_mem_live() == 0 ? 0 : -1;
}

static struct kv_space space_simple(void)
{
    return (struct kv_space){
        .model = "m",
        .revision = "r",
        .format = "bf16",
        .tag = "",
        .page_tokens = 16,
        .nr_groups = 1,
    };
}

/* ---- vectors --------------------------------------------------------------------- */

static const char *text_of(const char *arg)
{
    return strcmp(arg, "-") == 0 ? "" : arg;
}

static struct kv_space space_of(struct vector_reader *reader)
{
    assert_int_equal(reader->argc, 7);
    struct kv_space space = {
        .model = text_of(reader->argv[1]),
        .revision = text_of(reader->argv[2]),
        .format = text_of(reader->argv[3]),
        .page_tokens = (uint32_t)strtoul(reader->argv[4], NULL, 10),
        .tag = text_of(reader->argv[6]),
    };
    for (char *at = reader->argv[5]; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        struct kv_group *group = &space.groups[space.nr_groups++];
        group->kind = (enum kv_group_kind)strtoul(at, &at, 10);
        group->window = (uint32_t)strtoul(at + 1, &at, 10);
    }
    return space;
}

static kv_key_t key_of(const char *hex)
{
    kv_key_t key;
    assert_int_equal(vector_bytes(hex, key.b, sizeof(key.b)), sizeof(key.b));
    return key;
}

static kv_key_t page_of(struct vector_reader *reader)
{
    static uint32_t tokens[KV_PAGE_TOKENS_MAX];
    uint8_t extra[KV_EXTRA_BYTES_MAX];
    const kv_key_t prev = key_of(reader->argv[1]);
    const uint32_t first = (uint32_t)strtoul(reader->argv[2], NULL, 10);
    const uint32_t step = (uint32_t)strtoul(reader->argv[3], NULL, 10);
    const uint32_t n = (uint32_t)strtoul(reader->argv[4], NULL, 10);
    const size_t extra_len = vector_bytes(reader->argv[5], extra, sizeof(extra));
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = first + i * step;
    }
    kv_key_t key;
    assert_int_equal(
        kv_key_page(gen, &prev, tokens, n, extra, (uint32_t)extra_len, &key, NULL),
        KV_OK);
    return key;
}

/* The vector's result as the document writes it. */
static void vector_result(struct vector_reader *reader, char *out, size_t cap)
{
    const char *what = reader->argv[0];
    uint8_t a[256], b[256];
    kv_key_t key = {{0}};
    if (strcmp(what, "canonical") == 0) {
        uint8_t bytes[KV_SPACE_CANONICAL_MAX];
        size_t len;
        struct kv_space space = space_of(reader);
        assert_int_equal(kv_space_canonical(&space, bytes, &len, NULL), KV_OK);
        for (size_t i = 0; i < len; i++) {
            snprintf(out + 2 * i, cap - 2 * i, "%02x", bytes[i]);
        }
        return;
    }
    if (strcmp(what, "check") == 0) {
        uint64_t check;
        const size_t len = vector_bytes(reader->argv[1], a, sizeof(a));
        assert_int_equal(kv_secret_check(a, len, &check, NULL), KV_OK);
        snprintf(out, cap, "%016" PRIx64, check);
        return;
    }
    if (strcmp(what, "proof") == 0) {
        uint64_t proof;
        assert_int_equal(
            kv_check_proof(
                strtoull(reader->argv[1], NULL, 16),
                (uint32_t)strtoul(reader->argv[2], NULL, 10),
                strtoull(reader->argv[3], NULL, 16), &proof),
            KV_OK);
        snprintf(out, cap, "%016" PRIx64, proof);
        return;
    }
    if (strcmp(what, "space") == 0) {
        struct kv_space space = space_of(reader);
        assert_int_equal(kv_space_id(&space, &key, NULL), KV_OK);
        assert_int_equal(kv_space_check(&space, &key, NULL), KV_OK);
    } else if (strcmp(what, "salt") == 0) {
        const size_t len = vector_bytes(reader->argv[1], a, sizeof(a));
        const kv_key_t id = key_of(reader->argv[2]);
        assert_int_equal(kv_salt(a, len, &id, &key, NULL), KV_OK);
    } else if (strcmp(what, "hmac") == 0) {
        const size_t len = vector_bytes(reader->argv[1], a, sizeof(a));
        const size_t msg_len = vector_bytes(reader->argv[2], b, sizeof(b));
        assert_int_equal(kv_hmac(a, len, b, msg_len, &key), KV_OK);
    } else if (strcmp(what, "root") == 0) {
        const kv_key_t salt = key_of(reader->argv[1]);
        kv_key_root(gen, &salt, &key);
    } else if (strcmp(what, "page") == 0) {
        key = page_of(reader);
    } else {
        assert_string_equal(what, "opaque");
        const kv_key_t salt = key_of(reader->argv[1]);
        const size_t len = vector_bytes(reader->argv[2], a, sizeof(a));
        assert_int_equal(
            kv_key_opaque(gen, &salt, a, (uint32_t)len, &key, NULL), KV_OK);
    }
    assert_true(cap >= 2 * KV_KEY_BYTES + 1);
    kv_key_hex(&key, out);
}

/* The document is the contract: other languages derive keys from it. */
static void key__vectors_match_the_document(void **state)
{
    (void)state;
    struct vector_reader reader;
    unsigned nr = 0;
    vectors_open(&reader, "docs/keys.md");
    while (vectors_next(&reader)) {
        char out[2 * KV_SPACE_CANONICAL_MAX + 1];
        vector_result(&reader, out, sizeof(out));
        assert_string_equal(out, reader.answer);
        nr++;
    }
    vectors_close(&reader);
    assert_true(nr >= 20);
}

/* ---- what must differ ------------------------------------------------------------ */

static kv_key_t page(const kv_key_t *prev, const uint32_t *tokens, uint32_t n)
{
    kv_key_t key;
    assert_int_equal(kv_key_page(gen, prev, tokens, n, NULL, 0, &key, NULL), KV_OK);
    return key;
}

static const uint32_t tokens_16[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

/* A page depends on all before it: attention does. */
static void key__chain_depends_on_every_predecessor(void **state)
{
    (void)state;
    const kv_key_t salt = {{1}};
    uint32_t changed[16];
    memcpy(changed, tokens_16, sizeof(changed));
    changed[0] ^= 1;
    kv_key_t root;
    kv_key_root(gen, &salt, &root);
    kv_key_t a = page(&root, tokens_16, 16);
    kv_key_t b = page(&root, changed, 16);
    for (unsigned i = 0; i < 4; i++) {
        assert_false(kv_key_equal(&a, &b));
        a = page(&a, tokens_16, 16);
        b = page(&b, tokens_16, 16);
    }
}

/* A tail must not be found by who looks for the full page, nor by another tail. */
static void key__tails_and_zero_tokens_differ(void **state)
{
    (void)state;
    const kv_key_t prev = {{7}};
    kv_key_t keys[16];
    for (uint32_t n = 1; n <= 16; n++) {
        keys[n - 1] = page(&prev, tokens_16, n);
        for (uint32_t k = 1; k < n; k++) {
            assert_false(kv_key_equal(&keys[n - 1], &keys[k - 1]));
        }
    }
}

/* The boundary between tokens and extra is in the hash: bytes cannot move across. */
static void key__extra_does_not_alias_tokens(void **state)
{
    (void)state;
    const kv_key_t prev = {{7}};
    const uint32_t tokens[3] = {5, 0, 0};
    kv_key_t with_extra, without;
    assert_int_equal(
        kv_key_page(gen, &prev, tokens, 1, "\0\0\0\0", 4, &with_extra, NULL), KV_OK);
    without = page(&prev, tokens, 3);
    assert_false(kv_key_equal(&with_extra, &without));
    without = page(&prev, tokens, 1);
    assert_false(kv_key_equal(&with_extra, &without));
}

/* The two ways of hashing (put together, or piece by piece) must meet seamlessly. */
static void key__long_pages_match_their_own_neighbours(void **state)
{
    (void)state;
    uint32_t tokens[200] = {0};
    uint8_t extra[KV_EXTRA_BYTES_MAX] = {0};
    const kv_key_t prev = {{9}};
    kv_key_t last = {{0}}, key;
    for (uint32_t n = 100; n < 130; n++) {
        key = page(&prev, tokens, n);
        assert_false(kv_key_equal(&key, &last));
        last = key;
    }
    for (uint32_t len = 300; len < 600; len++) {
        assert_int_equal(
            kv_key_page(gen, &prev, tokens, 16, extra, len, &key, NULL), KV_OK);
        assert_false(kv_key_equal(&key, &last));
        last = key;
    }
}

/* Two tenants with the same key or the same prompt must not share a name. */
static void key__tenants_differ(void **state)
{
    (void)state;
    struct kv_space space = space_simple();
    kv_key_t id, salt_a, salt_b, a, b;
    assert_int_equal(kv_space_id(&space, &id, NULL), KV_OK);
    assert_int_equal(kv_salt("secret of tenant a", 18, &id, &salt_a, NULL), KV_OK);
    assert_int_equal(kv_salt("secret of tenant b", 18, &id, &salt_b, NULL), KV_OK);
    assert_false(kv_key_equal(&salt_a, &salt_b));
    kv_key_root(gen, &salt_a, &a);
    kv_key_root(gen, &salt_b, &b);
    assert_false(kv_key_equal(&a, &b));
    assert_int_equal(kv_key_opaque(gen, &salt_a, "k", 1, &a, NULL), KV_OK);
    assert_int_equal(kv_key_opaque(gen, &salt_b, "k", 1, &b, NULL), KV_OK);
    assert_false(kv_key_equal(&a, &b));
}

/* The planted bug must be one: with it, tenants do share names. */
static void key__planted_no_tenant_makes_tenants_meet(void **state)
{
    (void)state;
    const kv_key_t salt_a = {{1}}, salt_b = {{2}};
    kv_key_t a, b;
    kv_plant_set(KV_PLANT_OPAQUE_NO_TENANT, true);
    kv_status_t status_a = kv_key_opaque(gen, &salt_a, "k", 1, &a, NULL);
    kv_status_t status_b = kv_key_opaque(gen, &salt_b, "k", 1, &b, NULL);
    kv_plant_set(KV_PLANT_OPAQUE_NO_TENANT, false);
    assert_int_equal(status_a, KV_OK);
    assert_int_equal(status_b, KV_OK);
    assert_true(kv_key_equal(&a, &b));
}

/* ---- what is refused ------------------------------------------------------------- */

static void assert_refused(
    kv_status_t status, const struct kv_detail *detail, const char *field,
    uint64_t limit, uint64_t value)
{
    assert_int_equal(status, KV_ERR_INVALID);
    assert_string_equal(detail->field, field);
    assert_int_equal(detail->limit, limit);
    assert_int_equal(detail->value, value);
}

static void key__pages_out_of_bound_are_refused_with_detail(void **state)
{
    (void)state;
    static uint32_t tokens[KV_PAGE_TOKENS_MAX + 1];
    static uint8_t extra[KV_EXTRA_BYTES_MAX + 1];
    const kv_key_t prev = {{1}}, untouched = {{42}};
    kv_key_t key = untouched;
    struct kv_detail d;
    assert_refused(
        kv_key_page(gen, &prev, tokens, 0, NULL, 0, &key, &d), &d, "page.tokens",
        KV_PAGE_TOKENS_MAX, 0);
    assert_refused(
        kv_key_page(gen, &prev, tokens, KV_PAGE_TOKENS_MAX + 1, NULL, 0, &key, &d), &d,
        "page.tokens", KV_PAGE_TOKENS_MAX, KV_PAGE_TOKENS_MAX + 1);
    assert_refused(
        kv_key_page(gen, &prev, tokens, 1, extra, sizeof(extra), &key, &d), &d,
        "page.extra", KV_EXTRA_BYTES_MAX, sizeof(extra));
    assert_refused(
        kv_key_opaque(gen, &prev, extra, 0, &key, &d), &d, "opaque.key",
        KV_OPAQUE_BYTES_MAX, 0);
    assert_refused(
        kv_key_opaque(gen, &prev, extra, KV_OPAQUE_BYTES_MAX + 1, &key, &d), &d,
        "opaque.key", KV_OPAQUE_BYTES_MAX, KV_OPAQUE_BYTES_MAX + 1);
    assert_true(kv_key_equal(&key, &untouched));
    assert_int_equal(
        kv_key_page(
            gen, &prev, tokens, KV_PAGE_TOKENS_MAX, extra, KV_EXTRA_BYTES_MAX, &key,
            &d),
        KV_OK);
}

static void key__secrets_out_of_bound_are_refused_with_detail(void **state)
{
    (void)state;
    const uint8_t secret[KV_SECRET_BYTES_MAX + 1] = {0};
    const kv_key_t id = {{1}};
    kv_key_t salt;
    uint64_t check;
    struct kv_detail d;
    assert_refused(
        kv_salt(secret, 15, &id, &salt, &d), &d, "secret.bytes", KV_SECRET_BYTES_MIN,
        15);
    assert_refused(
        kv_secret_check(secret, 65, &check, &d), &d, "secret.bytes",
        KV_SECRET_BYTES_MAX, 65);
    assert_int_equal(kv_salt(secret, 16, &id, &salt, &d), KV_OK);
    assert_int_equal(kv_salt(secret, 64, &id, &salt, &d), KV_OK);
}

static void space__fields_out_of_bound_are_refused_with_detail(void **state)
{
    (void)state;
    struct kv_detail d;
    kv_key_t id;
    char long_text[130] = {0};
    memset(long_text, 'x', 129);

    struct kv_space s = space_simple();
    s.model = NULL;
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.model", KV_NAME_BYTES_MAX, 0);
    s.model = long_text;
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.model", KV_NAME_BYTES_MAX, 129);
    s = space_simple();
    s.tag = long_text;
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.tag", KV_NAME_BYTES_MAX, 129);
    s = space_simple();
    s.page_tokens = 0;
    assert_refused(
        kv_space_id(&s, &id, &d), &d, "space.page_tokens", KV_PAGE_TOKENS_MAX, 0);
    s.page_tokens = KV_PAGE_TOKENS_MAX + 1;
    assert_refused(
        kv_space_id(&s, &id, &d), &d, "space.page_tokens", KV_PAGE_TOKENS_MAX,
        KV_PAGE_TOKENS_MAX + 1);
    s = space_simple();
    s.nr_groups = 0;
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.nr_groups", KV_GROUPS_MAX, 0);
    s.nr_groups = KV_GROUPS_MAX + 1;
    assert_refused(
        kv_space_id(&s, &id, &d), &d, "space.nr_groups", KV_GROUPS_MAX,
        KV_GROUPS_MAX + 1);
}

/* One space must have one form: a window that means nothing would give it two. */
static void space__groups_are_checked(void **state)
{
    (void)state;
    struct kv_detail d;
    kv_key_t id;
    struct kv_space s = space_simple();
    s.groups[0].kind = (enum kv_group_kind)3;
    assert_refused(
        kv_space_id(&s, &id, &d), &d, "space.groups.kind", KV_GROUP_STATE, 3);
    s.groups[0].kind = KV_GROUP_WINDOW;
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.groups.window", UINT32_MAX, 0);
    s.groups[0] = (struct kv_group){.kind = KV_GROUP_FULL, .window = 9};
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.groups.window", 0, 9);
    s.groups[0] = (struct kv_group){.kind = KV_GROUP_STATE, .window = 9};
    assert_refused(kv_space_id(&s, &id, &d), &d, "space.groups.window", 0, 9);
}

/* Bad UTF-8 would make a space that msgpack readers of other languages cannot name. */
static void space__malformed_utf8_is_refused_at_its_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bad_at;
    } rows[] = {
        {"\x80", 0},             /* a tail byte alone */
        {"ab\xc1\xbf", 2},       /* overlong, two bytes */
        {"a\xe0\x9f\xbf", 1},    /* overlong, three bytes */
        {"\xf0\x8f\xbf\xbf", 0}, /* overlong, four bytes */
        {"\xed\xa0\x80", 0},     /* a surrogate */
        {"\xf4\x90\x80\x80", 0}, /* past U+10FFFF */
        {"\xf5\x80\x80\x80", 0}, /* never a first byte */
        {"abc\xe6\xbc", 3},      /* cut short */
        {"\xc3(", 0},            /* tail missing */
        {"\xe6\xbc(", 0},
    };
    struct kv_detail d;
    kv_key_t id;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kv_space s = space_simple();
        s.revision = rows[i].text;
        assert_refused(
            kv_space_id(&s, &id, &d), &d, "space.revision.utf8", strlen(rows[i].text),
            rows[i].bad_at);
    }
}

static void space__another_id_is_refused(void **state)
{
    (void)state;
    struct kv_space s = space_simple();
    struct kv_detail d;
    kv_key_t id;
    assert_int_equal(kv_space_id(&s, &id, &d), KV_OK);
    s.revision = "r2";
    assert_int_equal(kv_space_check(&s, &id, &d), KV_ERR_INVALID);
    assert_string_equal(d.field, "space.id");
}

/* Every call that can fail for want of memory says so and leaves nothing behind. */
static void key__nth_failure_gives_nomem(void **state)
{
    (void)state;
    const int64_t live = kv_mem_live();
    kv_keygen_t *other = NULL;
    kv_key_t id = {{0}}, salt;
    kv_fault_after(1);
    assert_int_equal(kv_keygen_create(&other), KV_ERR_NOMEM);
    assert_null(other);
    kv_fault_after(1);
    assert_int_equal(kv_salt("0123456789abcdef", 16, &id, &salt, NULL), KV_ERR_NOMEM);
    assert_int_equal(kv_mem_live(), live);
    assert_int_equal(kv_keygen_create(&other), KV_OK);
    kv_keygen_destroy(other);
    kv_keygen_destroy(NULL);
    assert_int_equal(kv_mem_live(), live);
}

/* Every byte counts, wherever it is: it is what proofs are compared with. */
static void key__secret_comparison_sees_every_byte(void **state)
{
    (void)state;
    kv_key_t a, b;
    memset(&a, 0x5a, sizeof(a));
    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        b = a;
        assert_true(kv_key_equal_secret(&a, &b));
        b.b[i] ^= 0x80;
        assert_false(kv_key_equal_secret(&a, &b));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(key__vectors_match_the_document),
        cmocka_unit_test(key__chain_depends_on_every_predecessor),
        cmocka_unit_test(key__tails_and_zero_tokens_differ),
        cmocka_unit_test(key__extra_does_not_alias_tokens),
        cmocka_unit_test(key__long_pages_match_their_own_neighbours),
        cmocka_unit_test(key__tenants_differ),
        cmocka_unit_test(key__planted_no_tenant_makes_tenants_meet),
        cmocka_unit_test(key__pages_out_of_bound_are_refused_with_detail),
        cmocka_unit_test(key__secrets_out_of_bound_are_refused_with_detail),
        cmocka_unit_test(space__fields_out_of_bound_are_refused_with_detail),
        cmocka_unit_test(space__groups_are_checked),
        cmocka_unit_test(space__malformed_utf8_is_refused_at_its_offset),
        cmocka_unit_test(space__another_id_is_refused),
        cmocka_unit_test(key__secret_comparison_sees_every_byte),
        cmocka_unit_test(key__nth_failure_gives_nomem),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
