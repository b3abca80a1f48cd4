#include "base/msgpack_priv.h"

#include "base/assert.h"

/* What follows the first bytes 0xc0 to 0xdf. `least` is the smallest number that needs
 * the form (negatives: the distance below zero); a smaller one had a shorter form. */
static const struct form {
    uint8_t kind;
    uint8_t width; /* bytes of the number */
    uint64_t least;
} forms[0x20] = {
    [0xc2 - 0xc0] = {KV_MP_BOOL, 0, 0},
    [0xc3 - 0xc0] = {KV_MP_BOOL, 0, 0},
    [0xc4 - 0xc0] = {KV_MP_BIN, 1, 0},
    [0xc5 - 0xc0] = {KV_MP_BIN, 2, UINT64_C(1) << 8},
    [0xc6 - 0xc0] = {KV_MP_BIN, 4, UINT64_C(1) << 16},
    [0xcc - 0xc0] = {KV_MP_UINT, 1, UINT64_C(1) << 7},
    [0xcd - 0xc0] = {KV_MP_UINT, 2, UINT64_C(1) << 8},
    [0xce - 0xc0] = {KV_MP_UINT, 4, UINT64_C(1) << 16},
    [0xcf - 0xc0] = {KV_MP_UINT, 8, UINT64_C(1) << 32},
    [0xd0 - 0xc0] = {KV_MP_NEGATIVE, 1, (UINT64_C(1) << 5) + 1},
    [0xd1 - 0xc0] = {KV_MP_NEGATIVE, 2, (UINT64_C(1) << 7) + 1},
    [0xd2 - 0xc0] = {KV_MP_NEGATIVE, 4, (UINT64_C(1) << 15) + 1},
    [0xd3 - 0xc0] = {KV_MP_NEGATIVE, 8, (UINT64_C(1) << 31) + 1},
    [0xd9 - 0xc0] = {KV_MP_STR, 1, UINT64_C(1) << 5},
    [0xda - 0xc0] = {KV_MP_STR, 2, UINT64_C(1) << 8},
    [0xdb - 0xc0] = {KV_MP_STR, 4, UINT64_C(1) << 16},
    [0xdc - 0xc0] = {KV_MP_ARRAY, 2, UINT64_C(1) << 4},
    [0xdd - 0xc0] = {KV_MP_ARRAY, 4, UINT64_C(1) << 16},
    [0xde - 0xc0] = {KV_MP_MAP, 2, UINT64_C(1) << 4},
    [0xdf - 0xc0] = {KV_MP_MAP, 4, UINT64_C(1) << 16},
};

static inline uint64_t load_be(const uint8_t *p, unsigned width)
{
    uint16_t h;
    uint32_t w;
    uint64_t d;

    switch (width) {
    case 1:
        return *p;
    case 2:
        memcpy(&h, p, sizeof(h));
        return __builtin_bswap16(h);
    case 4:
        memcpy(&w, p, sizeof(w));
        return __builtin_bswap32(w);
    default:
        memcpy(&d, p, sizeof(d));
        return __builtin_bswap64(d);
    }
}
_Static_assert(
    __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "load_be swaps without asking");

/* The number of a form of two to nine bytes. */
static kv_status_t pull_number(
    struct kv_mp_reader *reader, uint8_t lead, struct kv_mp_token *token,
    struct kv_detail *detail)
{
    const struct form *form = &forms[lead - 0xc0];
    size_t left = (size_t)(reader->end - reader->next);
    uint64_t n;

    token->kind = (enum kv_mp_kind)form->kind;
    if (form->kind == KV_MP_NONE) {
        return kv_fail(detail, KV_ERR_INVALID, "message.type", 0, lead);
    }
    if (form->kind == KV_MP_BOOL) {
        token->n = lead & 1;
        return KV_OK;
    }
    if (left < form->width) {
        return kv_fail(detail, KV_ERR_INVALID, "message.end", left, form->width);
    }
    n = load_be(reader->next, form->width);
    reader->next += form->width;
    if (form->kind == KV_MP_NEGATIVE) {
        /* Sign-extend; a number that is not negative is the longer form of a uint. */
        uint64_t sign = UINT64_C(1) << (8 * form->width - 1);

        n = (n ^ sign) - sign;
        if ((int64_t)n >= 0 || 0 - n < form->least) {
            return kv_fail(detail, KV_ERR_INVALID, "message.form", 0, lead);
        }
    } else if (n < form->least) {
        return kv_fail(detail, KV_ERR_INVALID, "message.form", 0, lead);
    }
    token->n = n;
    return KV_OK;
}

/* Lengths and counts against what the rest of the buffer could hold. */
static kv_status_t pull_extent(
    struct kv_mp_reader *reader, struct kv_mp_token *token, struct kv_detail *detail)
{
    size_t left = (size_t)(reader->end - reader->next);
    uint64_t n = token->n;

    if (token->kind == KV_MP_BIN || token->kind == KV_MP_STR) {
        if (n > left) {
            return kv_fail(detail, KV_ERR_INVALID, "message.end", left, n);
        }
        token->bytes = reader->next;
        reader->next += n;
    } else if (token->kind == KV_MP_ARRAY || token->kind == KV_MP_MAP) {
        if (n > KV_MSGPACK_COUNT_MAX) {
            return kv_fail(
                detail, KV_ERR_INVALID, "message.count", KV_MSGPACK_COUNT_MAX, n);
        }
        if (n * (token->kind == KV_MP_MAP ? 2 : 1) > left) {
            return kv_fail(detail, KV_ERR_INVALID, "message.end", left, n);
        }
    }
    return KV_OK;
}

kv_status_t kv_mp_pull_long(
    struct kv_mp_reader *reader, struct kv_mp_token *token, struct kv_detail *detail)
{
    uint8_t lead;

    if (reader->next == reader->end) {
        return kv_fail(detail, KV_ERR_INVALID, "message.end", 0, 1);
    }
    lead = *reader->next++;
    KV_DASSERT(lead >= 0x80);
    if (lead >= 0xe0) {
        token->kind = KV_MP_NEGATIVE;
        token->n = (uint64_t)(int64_t)(int8_t)lead;
        return KV_OK;
    }
    if (lead >= 0xc0) {
        kv_status_t status = pull_number(reader, lead, token, detail);
        if (status != KV_OK || token->kind <= KV_MP_BOOL) {
            return status;
        }
    } else if (lead >= 0xa0) {
        token->kind = KV_MP_STR;
        token->n = lead & 0x1f;
    } else {
        token->kind = lead >= 0x90 ? KV_MP_ARRAY : KV_MP_MAP;
        token->n = lead & 0x0f;
    }
    return pull_extent(reader, token, detail);
}

kv_status_t kv_mp_skip(struct kv_mp_reader *reader, struct kv_detail *detail)
{
    /* Never more than the bytes that are left: a token takes at least one. */
    uint64_t wanted = 1;

    while (wanted > 0) {
        struct kv_mp_token token;
        kv_status_t status = kv_mp_pull(reader, &token, detail);
        if (status != KV_OK) {
            return status;
        }
        wanted--;
        if (token.kind == KV_MP_ARRAY) {
            wanted += token.n;
        } else if (token.kind == KV_MP_MAP) {
            wanted += 2 * token.n;
        }
    }
    return KV_OK;
}

/* One array or map that is being read. */
struct level {
    uint32_t left;  /* values to come; of a map, its keys included */
    uint32_t floor; /* of a map: the least key that may come next */
    bool map;
};

/* Keys are small, unsigned, and grow: so no key comes twice, and a reader that knows
 * its fields in order finds each in one step. */
static kv_status_t check_key(
    struct level *level, const struct kv_mp_token *token, struct kv_detail *detail)
{
    if (token->kind != KV_MP_UINT || token->n > KV_MSGPACK_KEY_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "message.key", KV_MSGPACK_KEY_MAX, token->n);
    }
    if (token->n < level->floor) {
        return kv_fail(detail, KV_ERR_INVALID, "message.order", level->floor, token->n);
    }
    level->floor = (uint32_t)token->n + 1;
    return KV_OK;
}

kv_status_t kv_msgpack_check(const uint8_t *bytes, size_t len, struct kv_detail *detail)
{
    struct kv_mp_reader reader = {.next = bytes, .end = bytes + len};
    /* levels[0] stands for the whole message: an array of one value. */
    struct level levels[KV_MSG_DEPTH_MAX + 1];
    struct level *level = levels;

    if (len > KV_MSG_BYTES_MAX) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "message.bytes", KV_MSG_BYTES_MAX, len);
    }
    levels[0] = (struct level){.left = 1};
    for (;;) {
        struct kv_mp_token token;
        kv_status_t status;

        while (level->left == 0 && level > levels) {
            level--;
        }
        if (level->left == 0) {
            break;
        }
        status = kv_mp_pull(&reader, &token, detail);
        if (status == KV_OK && level->map && level->left % 2 == 0) {
            status = check_key(level, &token, detail);
        }
        if (status != KV_OK) {
            return status;
        }
        level->left--;
        if (token.kind == KV_MP_ARRAY || token.kind == KV_MP_MAP) {
            bool map = token.kind == KV_MP_MAP;
            if (level == &levels[KV_MSG_DEPTH_MAX]) {
                return kv_fail(
                    detail, KV_ERR_INVALID, "message.depth", KV_MSG_DEPTH_MAX,
                    KV_MSG_DEPTH_MAX + 1);
            }
            level++;
            KV_ASSERT(token.n <= KV_MSGPACK_COUNT_MAX);
            *level = (struct level){
                .left = (uint32_t)token.n * (map ? 2 : 1), .floor = 0, .map = map};
        }
    }
    if (reader.next != reader.end) {
        return kv_fail(
            detail, KV_ERR_INVALID, "message.trailing", 0,
            (uint64_t)(reader.end - reader.next));
    }
    return KV_OK;
}
