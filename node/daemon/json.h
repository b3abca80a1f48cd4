/* JSON text into a buffer of the caller's, for the loop thread: no allocation, no tree,
 * commas and escapes by themselves.
 *
 *   kvn_json_open(json, '{') … kvn_json_text(json, "name", name) … kvn_json_close(json)
 *
 * `name` is NULL inside a list. What does not fit sets `full`, and no more is written:
 * a text that is cut is never given out.
 *
 * Threading: one thread a writer. Bounds: cap bytes; KVN_JSON_DEPTH_MAX levels.
 * Ownership: the buffer stays the caller's. Units: bytes. Errors: `full`, looked at in
 * the end.
 */
#ifndef KVN_JSON_H
#define KVN_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KVN_JSON_DEPTH_MAX = 8 };

struct kvn_json {
    char *out;
    size_t cap, len;
    bool full;
    unsigned depth;
    char ends[KVN_JSON_DEPTH_MAX]; /* what closes each level */
    bool some[KVN_JSON_DEPTH_MAX]; /* a comma is due */
};

void kvn_json_init(struct kvn_json *json, char *out, size_t cap);
void kvn_json_open(struct kvn_json *json, const char *name, char bracket);
void kvn_json_close(struct kvn_json *json);
void kvn_json_number(struct kvn_json *json, const char *name, uint64_t value);
void kvn_json_flag(struct kvn_json *json, const char *name, bool value);
void kvn_json_text(struct kvn_json *json, const char *name, const char *text);
void kvn_json_none(struct kvn_json *json, const char *name);
/* Of all bits, which a number of JSON's readers would round. */
void kvn_json_hex(
    struct kvn_json *json, const char *name, const void *bytes, size_t len);
void kvn_json_hex64(struct kvn_json *json, const char *name, uint64_t value);

#endif
