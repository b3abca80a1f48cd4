/* Options: one table row gives the parser, the bounds, --help, the docs and the test.
 *
 *   X-macro table in the module ──► struct kv_option[] ──► kv_option_set(base, …)
 *
 * Values are set into a plain struct at an offset. Units are written in text: "64GiB",
 * "250ms"; a bare number is bytes, or refused for a time.
 *
 * Threading: at start only. Errors: KV_ERR_CONFIG, with a line for a person that names
 * the option, the limit and the value, or for an unknown name the nearest known one.
 */
#ifndef KV_OPTION_H
#define KV_OPTION_H

#include "base/status.h"

#include <stddef.h>

enum kv_option_type {
    KV_OPT_UINT,  /* uint64_t */
    KV_OPT_BYTES, /* uint64_t; suffixes B KiB MiB GiB TiB, or k m g t: powers of two */
    KV_OPT_TIME,  /* uint64_t microseconds; suffixes us ms s m h, required */
    KV_OPT_BOOL,  /* bool; true false yes no on off */
    KV_OPT_TEXT,  /* char[KV_OPT_TEXT_BYTES] */
    KV_OPT_ENUM,  /* int; `choices` is "lru|fifo", the value is the index */
};
enum { KV_OPT_TEXT_BYTES = 128 };

struct kv_option {
    const char *name; /* "section.key" */
    enum kv_option_type type;
    size_t offset;      /* into the caller's struct */
    const char *preset; /* default, as text */
    uint64_t min, max;  /* of numbers; text: length */
    const char *choices;
    const char *help;
};

/* Where a value that was not taken went wrong, ready to print. */
struct kv_option_error {
    char line[512]; /* "pager.device_frames: 0 is below the minimum 1" */
};

/* Sets every option to its preset. A bad preset is our bug: asserts. */
void kv_options_preset(const struct kv_option *table, unsigned nr, void *base);

/* Sets one option; nothing is changed on failure. */
kv_status_t kv_option_set(
    const struct kv_option *table, unsigned nr, void *base, const char *name,
    const char *value, struct kv_option_error *error);

/* The option's current value as text into out[cap], in a form that kv_option_set takes:
 * at most KV_OPT_TEXT_BYTES with the NUL. */
void kv_option_get(
    const struct kv_option *option, const void *base, char *out, size_t cap);

/* Nearest name by edit distance, or NULL when none is near. */
const char *kv_nearest(const char *name, const char *const *names, unsigned nr);

/* Parsers on their own: KV_ERR_CONFIG leaves *value_p alone. */
kv_status_t kv_parse_bytes(const char *text, uint64_t *value_p);
kv_status_t kv_parse_time_us(const char *text, uint64_t *value_p);
kv_status_t kv_parse_uint(const char *text, uint64_t *value_p);
/* `digits` hex digits of either case into out[cap]; *bytes_p of them. KV_ERR_CONFIG:
 * others than those, odd in number, or too many; out[] then has no meaning. */
kv_status_t kv_parse_hex(
    const char *text, size_t digits, uint8_t *out, size_t cap, size_t *bytes_p);

#endif
