#include "base/assert.h"
#include "base/codec.h"
#include "base/codec_priv.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

struct line {
    char *out;
    size_t cap; /* > 0 */
    size_t len; /* < cap */
};

static void __attribute__((format(printf, 2, 3)))
line_add(struct line *line, const char *format, ...)
{
    size_t room = line->cap - line->len;
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line->out + line->len, room, format, args);
    va_end(args);
    KV_ASSERT(n >= 0);
    line->len += (size_t)n < room ? (size_t)n : room - 1;
}

/* "pos" of "publish.pos". */
static const char *label(const struct kv_field *field)
{
    const char *dot = strrchr(field->name, '.');

    return dot != NULL ? dot + 1 : field->name;
}

static void add_status(struct line *line, const struct kv_field *field, int32_t status)
{
    if (kv_status_known(status)) {
        line_add(line, " %s %s", label(field), kv_status_name((kv_status_t)status));
    } else {
        line_add(line, " %s %" PRId32, label(field), status);
    }
}

/* A message that was not decoded here may hold anything; a line stays a line. */
static void add_text(
    struct line *line, const struct kv_field *field, const struct kv_msg_text *text)
{
    line_add(line, " %s ", label(field));
    for (uint32_t i = 0; i < text->len && i < KV_MSG_TEXT_MAX; i++) {
        unsigned char c = (unsigned char)text->text[i];
        line_add(line, "%c", c < 0x20 || c == 0x7f ? '?' : c);
    }
}

static void
add_field(struct line *line, const struct kv_field *field, const uint8_t *base)
{
    struct kv_msg_text text;
    int32_t status;

    switch ((enum kv_field_kind)field->kind) {
    case KV_FIELD_UINT:
        line_add(line, " %s %" PRIu64, label(field), kv_field_uint(field, base));
        break;
    case KV_FIELD_STATUS:
        memcpy(&status, base + field->offset, sizeof(status));
        add_status(line, field, status);
        break;
    case KV_FIELD_BOOL:
        line_add(line, " %s", label(field));
        break;
    case KV_FIELD_BYTES:
        /* Keys, nonces and proofs have no place in a log. */
        break;
    case KV_FIELD_TEXT:
        memcpy(&text, base + field->offset, sizeof(text));
        add_text(line, field, &text);
        break;
    case KV_FIELD_KEYS:
    case KV_FIELD_LIST:
        line_add(line, " %s %" PRIu32, label(field), kv_field_count(field, base));
        break;
    case KV_FIELD_RECORD:
        break; /* never a message's own: (1) */
    }
}

void kv_msg_format(const struct kv_msg *msg, char *out, size_t cap)
{
    const struct kv_msg_desc *desc = kv_msg_desc(msg->type);
    const uint8_t *body = (const uint8_t *)&msg->u;
    struct line line = {.out = out, .cap = cap};

    if (cap == 0) {
        return;
    }
    out[0] = '\0';
    if (desc == NULL) {
        line_add(&line, "unknown %" PRIu32, msg->type);
        return;
    }
    line_add(&line, "%s", desc->name);
    for (uint32_t i = 0; i < desc->nr_fields; i++) {
        if (!kv_field_is_zero(&desc->fields[i], body)) {
            add_field(&line, &desc->fields[i], body);
        }
    }
}
