#include "tests/base/codec_kit.h"

#include "base/mem.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum {
    MAKE_ARENA_BYTES = 8 << 20, /* past every bound */
};

static struct kv_arena made; /* of make_msg() */
struct kv_arena kit_arena;

int kit_setup(void **state)
{
    (void)state;
    made = (struct kv_arena){.base = kv_calloc(1, MAKE_ARENA_BYTES)};
    made.size = MAKE_ARENA_BYTES;
    kit_arena = (struct kv_arena){.base = kv_calloc(1, KV_MSG_ARENA_BYTES)};
    kit_arena.size = KV_MSG_ARENA_BYTES;
    return made.base == NULL || kit_arena.base == NULL;
}

int kit_teardown(void **state)
{
    (void)state;
    kv_free(made.base);
    kv_free(kit_arena.base);
    return 0;
}

struct make kit_make(uint64_t seed)
{
    made.used = 0;
    return (struct make){.rng = kv_rng_seed(seed), .arena = &made};
}

kv_status_t kit_decode(
    const uint8_t *bytes, size_t len, struct kv_msg *msg, struct kv_detail *detail)
{
    kit_arena.used = 0;
    return kv_decode(bytes, len, &kit_arena, msg, detail);
}

uint8_t *kit_encode(const struct kv_msg *msg, size_t *len_p)
{
    uint8_t *large = malloc(KV_MSG_BYTES_MAX);
    uint8_t *exact;
    struct kv_detail detail = {.field = "none"};
    kv_status_t status;

    assert_non_null(large);
    status = kv_encode(msg, large, KV_MSG_BYTES_MAX, len_p, &detail);
    if (status != KV_OK) {
        fail_msg("%s: %s", detail.field, kv_status_name(status));
    }
    exact = malloc(*len_p);
    assert_non_null(exact);
    assert_int_equal(kv_encode(msg, exact, *len_p, len_p, NULL), KV_OK);
    assert_memory_equal(exact, large, *len_p);
    free(large);
    return exact;
}

void kit_check_round_trip(const struct make *make, const struct kv_msg *msg)
{
    struct make plain = {.target = NULL};
    struct kv_detail detail = {.field = "none"};
    struct kv_msg back;
    size_t want_len, len, back_len;
    uint8_t *want = make_bytes(make, msg, &want_len);
    uint8_t *bytes = kit_encode(msg, &len);
    uint8_t *again;

    assert_int_equal(len, want_len);
    assert_memory_equal(bytes, want, len);
    if (kit_decode(bytes, len, &back, &detail) != KV_OK) {
        fail_msg(
            "%s limit %" PRIu64 " value %" PRIu64, detail.field, detail.limit,
            detail.value);
    }
    again = make_bytes(&plain, &back, &back_len);
    assert_int_equal(back_len, want_len);
    assert_memory_equal(again, want, want_len);
    free(again);
    free(bytes);
    free(want);
}
