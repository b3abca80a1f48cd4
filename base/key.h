/* Names of pages: spaces, salts, token keys and opaque keys (docs/keys.md, byte for
 * byte, with test vectors).
 *
 *   space ──SHA-256──► space id ──HMAC(tenant secret)──► salt ──► root key
 *   root ──► key[0] ──► key[1] ──► …       each hashes its page's tokens and what
 *                                          changes the page beyond them (extra)
 *   salt + an engine's own key ──► opaque key
 *
 * Threading: a kv_keygen belongs to one thread; the other functions are pure. Keys are
 * derived in the caller's thread, never on the loop.
 * Ownership: nothing is kept; every pointer is the caller's.
 * Errors: KV_ERR_INVALID with the field, its limit and the value; out-arguments are
 * written only on KV_OK. KV_ERR_NOMEM where libcrypto is out of memory.
 */
#ifndef KV_KEY_H
#define KV_KEY_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    KV_KEY_BYTES = 32,
    KV_SALT_BYTES = 32,
    KV_SECRET_BYTES_MIN = 16,
    KV_SECRET_BYTES_MAX = 64,
    KV_OPAQUE_BYTES_MAX = 256,
    KV_EXTRA_BYTES_MAX = 1024,
    KV_PAGE_TOKENS_MAX = 8192,
    KV_GROUPS_MAX = 16,
    KV_NAME_BYTES_MAX = 128, /* model, revision, format, tag of a space */
    KV_SPACE_CANONICAL_MAX = 1024,
};

typedef struct {
    uint8_t b[KV_KEY_BYTES];
} kv_key_t;

static inline bool kv_key_equal(const kv_key_t *a, const kv_key_t *b)
{
    return memcmp(a->b, b->b, KV_KEY_BYTES) == 0;
}

/* The same in a time that does not depend on the bytes: for proofs. */
bool kv_key_equal_secret(const kv_key_t *a, const kv_key_t *b);

/* First eight bytes, little endian: keys are SHA-256, so any of their bits will do. */
static inline uint64_t kv_key_word(const kv_key_t *key)
{
    uint64_t w;
    memcpy(&w, key->b, sizeof(w));
    return w;
}

enum kv_group_kind {
    KV_GROUP_FULL = 0,   /* full attention: a hit needs every page */
    KV_GROUP_WINDOW = 1, /* the last `window` tokens */
    KV_GROUP_STATE = 2,  /* the last page alone */
};

struct kv_group {
    enum kv_group_kind kind;
    uint32_t window; /* tokens; 0 unless KV_GROUP_WINDOW */
};

/* What the numbers of a page mean. Texts: 0 to KV_NAME_BYTES_MAX bytes of UTF-8. */
struct kv_space {
    const char *model;
    const char *revision;
    const char *format;   /* of the numbers: "bf16" */
    uint32_t page_tokens; /* 1 .. KV_PAGE_TOKENS_MAX */
    uint32_t nr_groups;   /* 1 .. KV_GROUPS_MAX */
    struct kv_group groups[KV_GROUPS_MAX];
    const char *tag; /* rope scaling, adapter set, …; "" for none */
};

/* The canonical form of `space` (docs/keys.md): *len_p bytes into out, which holds
 * KV_SPACE_CANONICAL_MAX. */
kv_status_t kv_space_canonical(
    const struct kv_space *space, uint8_t *out, size_t *len_p,
    struct kv_detail *detail);
/* SHA-256 of the canonical form. */
kv_status_t
kv_space_id(const struct kv_space *space, kv_key_t *id_p, struct kv_detail *detail);
/* KV_ERR_INVALID (field "space.id") when `expected` is not the id of `space`. */
kv_status_t kv_space_check(
    const struct kv_space *space, const kv_key_t *expected, struct kv_detail *detail);

/* salt = HMAC-SHA-256(secret, space id). */
kv_status_t kv_salt(
    const void *secret, size_t secret_len, const kv_key_t *space_id, kv_key_t *salt_p,
    struct kv_detail *detail);
/* Eight bytes of HMAC-SHA-256(secret, "kvrail.check"), exchanged in HELLO so that two
 * nodes with different secrets of one tenant notice before they miss for ever. */
kv_status_t kv_secret_check(
    const void *secret, size_t secret_len, uint64_t *check_p, struct kv_detail *detail);

/* What a node says in HELLO to show that it knows the secret of `check`, without
 * telling it: another for each node and each of its lives, so that nobody can repeat it
 * as his own. */
kv_status_t kv_check_proof(
    uint64_t check, uint32_t node, uint64_t incarnation, uint64_t *proof_p);

/* HMAC-SHA-256 of any message; the proof of a data connection. */
kv_status_t kv_hmac(
    const void *secret, size_t secret_len, const void *msg, size_t len, kv_key_t *out);

/* Derives keys one after another without allocating; holds libcrypto's context. */
typedef struct kv_keygen kv_keygen_t;
kv_status_t kv_keygen_create(kv_keygen_t **gen_p);
void kv_keygen_destroy(kv_keygen_t *gen); /* NULL is fine */

/* key[0]'s predecessor: SHA-256("kvrlroot" ‖ salt). Also the `prev` of a tail that
 * starts a prompt. */
void kv_key_root(kv_keygen_t *gen, const kv_key_t *salt, kv_key_t *root_p);

/* SHA-256("kvrlpage" ‖ prev ‖ n ‖ tokens[n] ‖ extra_len ‖ extra), integers as u32
 * little endian. 1 <= n <= KV_PAGE_TOKENS_MAX, extra_len <= KV_EXTRA_BYTES_MAX. */
kv_status_t kv_key_page(
    kv_keygen_t *gen, const kv_key_t *prev, const uint32_t *tokens, uint32_t n,
    const void *extra, uint32_t extra_len, kv_key_t *key_p, struct kv_detail *detail);

/* SHA-256("kvrlopaq" ‖ salt ‖ len ‖ key). 1 <= len <= KV_OPAQUE_BYTES_MAX. */
kv_status_t kv_key_opaque(
    kv_keygen_t *gen, const kv_key_t *salt, const void *key, uint32_t len,
    kv_key_t *key_p, struct kv_detail *detail);

/* 64 lower-case hex digits and a NUL into out[65]. */
void kv_key_hex(const kv_key_t *key, char out[2 * KV_KEY_BYTES + 1]);

#endif
