/* The deprecated SHA256_* calls, on purpose. Measured with OpenSSL 3.0.22 on an AMD
 * EPYC with SHA extensions, 112 bytes (a page of 16 tokens): SHA256_Init/Update/Final
 * 106 ns, EVP with a fetched digest and a reused context 176 to 193 ns,
 * EVP_MD_CTX_copy_ex from a started context 148 to 176 ns, the one-shot SHA256() 660
 * to 830 ns; padding by hand would save 8 ns more and reach into SHA256_CTX. All of
 * them run the same assembly, but these cannot fail and need no heap, which EVP does
 * not promise. docs/keys.md fixes the bytes, so a libcrypto without them costs a
 * change here and nowhere else. */
#define OPENSSL_SUPPRESS_DEPRECATED

#include "base/key.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

_Static_assert(
    __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
    "tokens are hashed as they lie in memory");
_Static_assert(SHA256_DIGEST_LENGTH == KV_KEY_BYTES, "a key is one SHA-256");

enum {
    TAG_BYTES = 8,
    /* Messages up to this size are put together first and hashed by one call: each
     * SHA256_Update with a part of a block costs about as much as copying 256 bytes. */
    FLAT_BYTES = 512,
};

struct kv_keygen {
    SHA256_CTX sha;
    uint8_t flat[FLAT_BYTES];
};

_Static_assert(
    FLAT_BYTES >= TAG_BYTES + KV_SALT_BYTES + sizeof(uint32_t) + KV_OPAQUE_BYTES_MAX,
    "every opaque key is hashed by one call");

/* ---- spaces ---------------------------------------------------------------------- */

/* Canonical msgpack, as far as a space needs it: shortest forms of arrays up to 65535
 * items, of unsigned integers up to 32 bits and of texts up to 255 bytes. */
struct pack {
    uint8_t *out;
    size_t len;
};

static void pack_be(struct pack *pack, uint8_t head, uint32_t value, unsigned nr_bytes)
{
    pack->out[pack->len++] = head;
    while (nr_bytes > 0) {
        pack->out[pack->len++] = (uint8_t)(value >> (8 * --nr_bytes));
    }
}

static void pack_array(struct pack *pack, uint32_t nr)
{
    nr < 16 ? pack_be(pack, (uint8_t)(0x90 | nr), 0, 0) : pack_be(pack, 0xdc, nr, 2);
}

static void pack_uint(struct pack *pack, uint32_t value)
{
    if (value < 128) {
        pack_be(pack, (uint8_t)value, 0, 0);
    } else if (value <= UINT8_MAX) {
        pack_be(pack, 0xcc, value, 1);
    } else if (value <= UINT16_MAX) {
        pack_be(pack, 0xcd, value, 2);
    } else {
        pack_be(pack, 0xce, value, 4);
    }
}

static void pack_text(struct pack *pack, const char *text)
{
    uint32_t len = (uint32_t)strlen(text);
    len < 32 ? pack_be(pack, (uint8_t)(0xa0 | len), 0, 0) : pack_be(pack, 0xd9, len, 1);
    memcpy(pack->out + pack->len, text, len);
    pack->len += len;
}

/* Offset of the first byte that is not well-formed UTF-8 (Unicode table 3-7: no
 * surrogates, nothing past U+10FFFF, no overlong form); `len` when all is. */
static size_t utf8_bad_at(const uint8_t *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint8_t c = s[i];
        unsigned nr_tail = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
        /* The second byte carries what the first one leaves open. */
        uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
        uint8_t hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || nr_tail >= len - i) {
            return i;
        }
        for (unsigned k = 1; k <= nr_tail; k++) {
            if (s[i + k] < lo || s[i + k] > hi) {
                return i;
            }
            lo = 0x80;
            hi = 0xbf;
        }
        i += 1 + nr_tail;
    }
    return len;
}

/* `field_utf8` is the name under which bad bytes are refused: the limit is then the
 * text's length and the value the offset of the first bad byte. */
static kv_status_t text_check(
    const char *text, const char *field, const char *field_utf8,
    struct kv_detail *detail)
{
    if (text == NULL) {
        return kv_fail(detail, KV_ERR_INVALID, field, KV_NAME_BYTES_MAX, 0);
    }
    size_t len = strlen(text);
    if (len > KV_NAME_BYTES_MAX) {
        return kv_fail(detail, KV_ERR_INVALID, field, KV_NAME_BYTES_MAX, len);
    }
    size_t bad = utf8_bad_at((const uint8_t *)text, len);
    if (bad < len) {
        return kv_fail(detail, KV_ERR_INVALID, field_utf8, len, bad);
    }
    return KV_OK;
}

static kv_status_t group_check(const struct kv_group *group, struct kv_detail *detail)
{
    if (group->kind > KV_GROUP_STATE) {
        return kv_fail(
            detail, KV_ERR_INVALID, "space.groups.kind", KV_GROUP_STATE, group->kind);
    }
    /* A window that means nothing would make two names for one space. */
    if ((group->kind == KV_GROUP_WINDOW) != (group->window > 0)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "space.groups.window",
            group->kind == KV_GROUP_WINDOW ? UINT32_MAX : 0, group->window);
    }
    return KV_OK;
}

static kv_status_t space_check(const struct kv_space *space, struct kv_detail *detail)
{
    const struct {
        const char *text;
        const char *field;
        const char *field_utf8;
    } texts[] = {
        {space->model, "space.model", "space.model.utf8"},
        {space->revision, "space.revision", "space.revision.utf8"},
        {space->format, "space.format", "space.format.utf8"},
        {space->tag, "space.tag", "space.tag.utf8"},
    };
    kv_status_t status = KV_OK;
    for (unsigned i = 0; status == KV_OK && i < KV_COUNT_OF(texts); i++) {
        status = text_check(texts[i].text, texts[i].field, texts[i].field_utf8, detail);
    }
    if (status != KV_OK) {
        return status;
    }
    if (space->page_tokens == 0 || space->page_tokens > KV_PAGE_TOKENS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "space.page_tokens", KV_PAGE_TOKENS_MAX,
            space->page_tokens);
    }
    if (space->nr_groups == 0 || space->nr_groups > KV_GROUPS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "space.nr_groups", KV_GROUPS_MAX, space->nr_groups);
    }
    for (unsigned i = 0; status == KV_OK && i < space->nr_groups; i++) {
        status = group_check(&space->groups[i], detail);
    }
    return status;
}

/* The longest form must fit: 6 items, 4 texts, page_tokens, 16 groups. */
_Static_assert(
    1 + 4 * (2 + KV_NAME_BYTES_MAX) + 3 + 3 + KV_GROUPS_MAX * (1 + 1 + 5)
        <= KV_SPACE_CANONICAL_MAX,
    "a canonical space fits its buffer");

kv_status_t kv_space_canonical(
    const struct kv_space *space, uint8_t *out, size_t *len_p, struct kv_detail *detail)
{
    kv_status_t status = space_check(space, detail);
    if (status != KV_OK) {
        return status;
    }
    struct pack pack = {.out = out};
    pack_array(&pack, 6);
    pack_text(&pack, space->model);
    pack_text(&pack, space->revision);
    pack_text(&pack, space->format);
    pack_uint(&pack, space->page_tokens);
    pack_array(&pack, space->nr_groups);
    for (unsigned i = 0; i < space->nr_groups; i++) {
        pack_array(&pack, 2);
        pack_uint(&pack, (uint32_t)space->groups[i].kind);
        pack_uint(&pack, space->groups[i].window);
    }
    pack_text(&pack, space->tag);
    KV_ASSERT(pack.len <= KV_SPACE_CANONICAL_MAX);
    *len_p = pack.len;
    return KV_OK;
}

kv_status_t
kv_space_id(const struct kv_space *space, kv_key_t *id_p, struct kv_detail *detail)
{
    uint8_t canonical[KV_SPACE_CANONICAL_MAX];
    size_t len;
    kv_status_t status = kv_space_canonical(space, canonical, &len, detail);
    if (status != KV_OK) {
        return status;
    }
    SHA256_CTX sha;
    SHA256_Init(&sha);
    SHA256_Update(&sha, "kvrlspac", TAG_BYTES);
    SHA256_Update(&sha, canonical, len);
    SHA256_Final(id_p->b, &sha);
    return KV_OK;
}

kv_status_t kv_space_check(
    const struct kv_space *space, const kv_key_t *expected, struct kv_detail *detail)
{
    kv_key_t id;
    kv_status_t status = kv_space_id(space, &id, detail);
    if (status == KV_OK && !kv_key_equal(&id, expected)) {
        status = kv_fail(
            detail, KV_ERR_INVALID, "space.id", kv_key_word(expected),
            kv_key_word(&id));
    }
    return status;
}

/* ---- secrets --------------------------------------------------------------------- */

/* libcrypto refuses a NULL pointer even for an empty secret or message. */
bool kv_key_equal_secret(const kv_key_t *a, const kv_key_t *b)
{
    return CRYPTO_memcmp(a->b, b->b, KV_KEY_BYTES) == 0;
}

kv_status_t kv_hmac(
    const void *secret, size_t secret_len, const void *msg, size_t len, kv_key_t *out)
{
    KV_ASSERT(secret_len <= INT_MAX);
    kv_key_t mac;
    const void *key = secret_len > 0 ? secret : "";
    const void *bytes = len > 0 ? msg : "";
    if (KV_FAULT()
        || HMAC(EVP_sha256(), key, (int)secret_len, bytes, len, mac.b, NULL) == NULL) {
        return KV_ERR_NOMEM;
    }
    *out = mac;
    return KV_OK;
}

static kv_status_t secret_check(size_t secret_len, struct kv_detail *detail)
{
    if (secret_len < KV_SECRET_BYTES_MIN) {
        return kv_fail(
            detail, KV_ERR_INVALID, "secret.bytes", KV_SECRET_BYTES_MIN, secret_len);
    }
    if (secret_len > KV_SECRET_BYTES_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "secret.bytes", KV_SECRET_BYTES_MAX, secret_len);
    }
    return KV_OK;
}

kv_status_t kv_salt(
    const void *secret, size_t secret_len, const kv_key_t *space_id, kv_key_t *salt_p,
    struct kv_detail *detail)
{
    kv_status_t status = secret_check(secret_len, detail);
    return status != KV_OK
               ? status
               : kv_hmac(secret, secret_len, space_id->b, KV_KEY_BYTES, salt_p);
}

kv_status_t kv_secret_check(
    const void *secret, size_t secret_len, uint64_t *check_p, struct kv_detail *detail)
{
    static const char label[] = "kvrail.check";
    kv_key_t mac;
    kv_status_t status = secret_check(secret_len, detail);
    if (status == KV_OK) {
        status = kv_hmac(secret, secret_len, label, sizeof(label) - 1, &mac);
    }
    if (status == KV_OK) {
        *check_p = kv_key_word(&mac);
    }
    return status;
}

static void put_le(uint8_t *to, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        to[i] = (uint8_t)(value >> (8 * i));
    }
}

kv_status_t kv_check_proof(
    uint64_t check, uint32_t node, uint64_t incarnation, uint64_t *proof_p)
{
    uint8_t key[8], text[12];
    kv_key_t mac;
    put_le(key, check, 8);
    put_le(text, node, 4);
    put_le(text + 4, incarnation, 8);
    kv_status_t status = kv_hmac(key, sizeof(key), text, sizeof(text), &mac);
    if (status == KV_OK) {
        *proof_p = kv_key_word(&mac);
    }
    return status;
}

/* ---- keys ------------------------------------------------------------------------ */

kv_status_t kv_keygen_create(kv_keygen_t **gen_p)
{
    kv_keygen_t *gen = kv_calloc(1, sizeof(*gen));
    if (gen == NULL) {
        return KV_ERR_NOMEM;
    }
    *gen_p = gen;
    return KV_OK;
}

void kv_keygen_destroy(kv_keygen_t *gen)
{
    kv_free(gen);
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static void hash_flat(kv_keygen_t *gen, const uint8_t *end, kv_key_t *key_p)
{
    SHA256_Init(&gen->sha);
    SHA256_Update(&gen->sha, gen->flat, (size_t)(end - gen->flat));
    SHA256_Final(key_p->b, &gen->sha);
}

void kv_key_root(kv_keygen_t *gen, const kv_key_t *salt, kv_key_t *root_p)
{
    uint8_t *at = put(gen->flat, "kvrlroot", TAG_BYTES);
    at = put(at, salt->b, KV_SALT_BYTES);
    hash_flat(gen, at, root_p);
}

kv_status_t kv_key_page(
    kv_keygen_t *gen, const kv_key_t *prev, const uint32_t *tokens, uint32_t n,
    const void *extra, uint32_t extra_len, kv_key_t *key_p, struct kv_detail *detail)
{
    if (n == 0 || n > KV_PAGE_TOKENS_MAX) {
        return kv_fail(detail, KV_ERR_INVALID, "page.tokens", KV_PAGE_TOKENS_MAX, n);
    }
    if (extra_len > KV_EXTRA_BYTES_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "page.extra", KV_EXTRA_BYTES_MAX, extra_len);
    }
    const size_t tokens_len = (size_t)n * sizeof(*tokens);
    uint8_t *at = put(gen->flat, "kvrlpage", TAG_BYTES);
    at = put(at, prev->b, KV_KEY_BYTES);
    at = put(at, &n, sizeof(n));
    const size_t left = (size_t)(gen->flat + FLAT_BYTES - at);
    if (tokens_len + sizeof(extra_len) + extra_len <= left) {
        at = put(at, tokens, tokens_len);
        at = put(at, &extra_len, sizeof(extra_len));
        if (extra_len > 0) {
            at = put(at, extra, extra_len);
        }
        hash_flat(gen, at, key_p);
        return KV_OK;
    }
    SHA256_Init(&gen->sha);
    SHA256_Update(&gen->sha, gen->flat, (size_t)(at - gen->flat));
    SHA256_Update(&gen->sha, tokens, tokens_len);
    SHA256_Update(&gen->sha, &extra_len, sizeof(extra_len));
    SHA256_Update(&gen->sha, extra, extra_len);
    SHA256_Final(key_p->b, &gen->sha);
    return KV_OK;
}

kv_status_t kv_key_opaque(
    kv_keygen_t *gen, const kv_key_t *salt, const void *key, uint32_t len,
    kv_key_t *key_p, struct kv_detail *detail)
{
    if (len == 0 || len > KV_OPAQUE_BYTES_MAX) {
        return kv_fail(detail, KV_ERR_INVALID, "opaque.key", KV_OPAQUE_BYTES_MAX, len);
    }
    uint8_t *at = put(gen->flat, "kvrlopaq", TAG_BYTES);
    at = put(at, salt->b, KV_SALT_BYTES);
    if (KV_PLANTED(KV_PLANT_OPAQUE_NO_TENANT)) {
        memset(at - KV_SALT_BYTES, 0, KV_SALT_BYTES);
    }
    at = put(at, &len, sizeof(len));
    at = put(at, key, len);
    hash_flat(gen, at, key_p);
    return KV_OK;
}

void kv_key_hex(const kv_key_t *key, char out[2 * KV_KEY_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < KV_KEY_BYTES; i++) {
        out[2 * i] = digits[key->b[i] >> 4];
        out[2 * i + 1] = digits[key->b[i] & 15];
    }
    out[2 * KV_KEY_BYTES] = '\0';
}
