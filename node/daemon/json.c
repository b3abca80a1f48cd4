#include "node/daemon/json.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void kvn_json_init(struct kvn_json *json, char *out, size_t cap)
{
    *json = (struct kvn_json){.out = out, .cap = cap};
}

static void put(struct kvn_json *json, const char *bytes, size_t len)
{
    if (json->full || len > json->cap - json->len) {
        json->full = true;
        return;
    }
    memcpy(json->out + json->len, bytes, len);
    json->len += len;
}

/* Bytes of the character that begins here, as RFC 3629 has them: no overlong form, no
 * surrogate, nothing past U+10FFFF; 0: none does. Never looks past a NUL. */
static size_t utf8_len(const unsigned char *c)
{
    static const struct {
        unsigned char first, last; /* of the first byte */
        unsigned char low, high;   /* of the second */
        unsigned char len;
    } rows[] = {
        {0x00, 0x7f, 0x00, 0xff, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2},
        {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
        {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
        {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (unsigned r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
        if (c[0] < rows[r].first || c[0] > rows[r].last) {
            continue;
        }
        if (rows[r].len > 1 && (c[1] < rows[r].low || c[1] > rows[r].high)) {
            return 0;
        }
        for (size_t i = 2; i < rows[r].len; i++) {
            if (c[i] < 0x80 || c[i] > 0xbf) {
                return 0;
            }
        }
        return rows[r].len;
    }
    return 0;
}

static void put_string(struct kvn_json *json, const char *text)
{
    size_t len;
    put(json, "\"", 1);
    for (; *text != '\0'; text += len > 0 ? len : 1) {
        const unsigned char c = (unsigned char)*text;
        len = utf8_len((const unsigned char *)text);
        char escaped[8];
        if (c == '"' || c == '\\') {
            escaped[0] = '\\';
            escaped[1] = (char)c;
            put(json, escaped, 2);
        } else if (len == 0) {
            put(json, "\\ufffd", 6); /* a name that is no text: JSON must be */
        } else if (c < 0x20) {
            put(json, escaped,
                (size_t)snprintf(escaped, sizeof(escaped), "\\u%04x", c));
        } else {
            put(json, text, len);
        }
    }
    put(json, "\"", 1);
}

/* Comma and name of what comes next. */
static void begin(struct kvn_json *json, const char *name)
{
    if (json->depth > 0) {
        bool *some = &json->some[json->depth - 1];
        KV_ASSERT((name != NULL) == (json->ends[json->depth - 1] == '}'));
        if (*some) {
            put(json, ",", 1);
        }
        *some = true;
    }
    if (name != NULL) {
        put_string(json, name);
        put(json, ":", 1);
    }
}

void kvn_json_open(struct kvn_json *json, const char *name, char bracket)
{
    KV_ASSERT(bracket == '{' || bracket == '[');
    KV_ASSERT(json->depth < KVN_JSON_DEPTH_MAX);
    begin(json, name);
    put(json, &bracket, 1);
    json->some[json->depth] = false;
    json->ends[json->depth++] = bracket == '{' ? '}' : ']';
}

void kvn_json_close(struct kvn_json *json)
{
    KV_ASSERT(json->depth > 0);
    put(json, &json->ends[--json->depth], 1);
}

void kvn_json_number(struct kvn_json *json, const char *name, uint64_t value)
{
    char text[24];
    begin(json, name);
    put(json, text, (size_t)snprintf(text, sizeof(text), "%" PRIu64, value));
}

void kvn_json_flag(struct kvn_json *json, const char *name, bool value)
{
    begin(json, name);
    put(json, value ? "true" : "false", value ? 4 : 5);
}

void kvn_json_text(struct kvn_json *json, const char *name, const char *text)
{
    begin(json, name);
    put_string(json, text);
}

void kvn_json_none(struct kvn_json *json, const char *name)
{
    begin(json, name);
    put(json, "null", 4);
}

void kvn_json_hex(
    struct kvn_json *json, const char *name, const void *bytes, size_t len)
{
    begin(json, name);
    put(json, "\"", 1);
    for (size_t i = 0; i < len; i++) {
        char digits[3];
        (void)snprintf(digits, sizeof(digits), "%02x", ((const uint8_t *)bytes)[i]);
        put(json, digits, 2);
    }
    put(json, "\"", 1);
}

void kvn_json_hex64(struct kvn_json *json, const char *name, uint64_t value)
{
    char text[20];
    begin(json, name);
    put(json, text, (size_t)snprintf(text, sizeof(text), "\"%016" PRIx64 "\"", value));
}
