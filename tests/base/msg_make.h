/* Messages made from the field table, and a second encoder that checks nothing.
 *
 *   table ──make_msg──► struct kv_msg ──make_bytes──► bytes, as wrong as asked for
 *
 * A field added to the table is thereby in every test that loops over fields.
 * Threading: none. Ownership: arrays are the arena's of `make`, bytes the caller's to
 * free. Errors: an arena that is too small ends the process.
 */
#ifndef KV_TEST_MSG_MAKE_H
#define KV_TEST_MSG_MAKE_H

#include "base/codec.h"
#include "base/codec_priv.h"
#include "base/hash.h"

#include <stdio.h>

enum make_fill {
    MAKE_RANDOM,
    MAKE_LARGEST, /* every number, text and list at its bound */
};

/* What make_bytes() writes in place of the target field. */
enum make_wrong {
    MAKE_RIGHT,
    MAKE_VALUE,      /* `value` as the number; of BYTES, that many bytes */
    MAKE_NEGATIVE,   /* `value` as a negative number, two's complement */
    MAKE_WRONG_TYPE, /* an empty map, which no field is */
    MAKE_ZERO,       /* written although it is zero or empty */
    MAKE_SHORT,      /* a record without its last element */
    MAKE_LONG,       /* a record with an element that we do not know */
};

struct make {
    struct kv_rng rng;
    struct kv_arena *arena;
    enum make_fill fill;
    /* A field that make_msg() sets to `value` (a number, a length or a count) and
     * make_bytes() writes as `wrong` says; NULL for none. */
    const struct kv_field *target;
    uint64_t value;
    enum make_wrong wrong;
    bool unknown_keys;  /* make_bytes() adds fields of a newer peer */
    uint64_t keys_left; /* private */
};

void make_msg(struct make *make, uint32_t type, struct kv_msg *msg);

/* *len_p bytes of the message, whatever its contents; the caller frees them. */
uint8_t *make_bytes(const struct make *make, const struct kv_msg *msg, size_t *len_p);

/* Calls `visit` for each field of a type, also of the records in it. `list` is the
 * field whose record it is part of, NULL at the top. */
typedef void (*make_visit_fn)(
    void *arg, uint32_t type, const struct kv_field *field,
    const struct kv_field *list);
void make_each_field(uint32_t type, make_visit_fn visit, void *arg);

/* The tables of docs/wire.md. */
void make_wire_tables(FILE *out);

#endif
