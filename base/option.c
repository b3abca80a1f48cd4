#include "base/option.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *suffix;
    uint64_t factor;
};

/* From the largest to the smallest, so that the first that divides a value writes it.
 * Powers of two only: "MB" means two things to two people and is refused. */
static const struct unit byte_units[] = {
    {"TiB", UINT64_C(1) << 40},
    {"GiB", UINT64_C(1) << 30},
    {"MiB", UINT64_C(1) << 20},
    {"KiB", UINT64_C(1) << 10},
    {"t", UINT64_C(1) << 40},
    {"T", UINT64_C(1) << 40},
    {"g", UINT64_C(1) << 30},
    {"G", UINT64_C(1) << 30},
    {"m", UINT64_C(1) << 20},
    {"M", UINT64_C(1) << 20},
    {"k", UINT64_C(1) << 10},
    {"K", UINT64_C(1) << 10},
    {"B", 1},
    {"", 1},
};
static const struct unit time_units[] = {
    {"h", UINT64_C(3600000000)},
    {"m", 60000000},
    {"s", 1000000},
    {"ms", 1000},
    {"us", 1},
};
static const struct unit no_units[] = {{"", 1}};

/* Of names that are compared: longer ones are near to nothing. */
enum { NAME_BYTES_MAX = 64 };

/* ---- numbers --------------------------------------------------------------------- */

static kv_status_t parse_number(
    const char *text, const struct unit *units, size_t nr_units, uint64_t *value_p)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, (uint64_t)10, &value)
            || __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value)) {
            return KV_ERR_CONFIG;
        }
    }
    if (at == text) {
        return KV_ERR_CONFIG;
    }
    for (size_t i = 0; i < nr_units; i++) {
        if (strcmp(at, units[i].suffix) == 0) {
            if (__builtin_mul_overflow(value, units[i].factor, &value)) {
                return KV_ERR_CONFIG;
            }
            *value_p = value;
            return KV_OK;
        }
    }
    return KV_ERR_CONFIG;
}

kv_status_t kv_parse_bytes(const char *text, uint64_t *value_p)
{
    return parse_number(text, byte_units, KV_COUNT_OF(byte_units), value_p);
}

kv_status_t kv_parse_time_us(const char *text, uint64_t *value_p)
{
    return parse_number(text, time_units, KV_COUNT_OF(time_units), value_p);
}

kv_status_t kv_parse_uint(const char *text, uint64_t *value_p)
{
    return parse_number(text, no_units, KV_COUNT_OF(no_units), value_p);
}

static int hex_digit(char c)
{
    const int lower = c | 0x20;
    return c >= '0' && c <= '9'           ? c - '0'
           : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                          : -1;
}

kv_status_t kv_parse_hex(
    const char *text, size_t digits, uint8_t *out, size_t cap, size_t *bytes_p)
{
    if (digits % 2 != 0 || digits / 2 > cap) {
        return KV_ERR_CONFIG;
    }
    for (size_t i = 0; i < digits / 2; i++) {
        const int high = hex_digit(text[2 * i]);
        const int low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return KV_ERR_CONFIG;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    *bytes_p = digits / 2;
    return KV_OK;
}

/* What each type of number is called and accepts, for the line a person reads. */
static const struct number {
    kv_status_t (*parse)(const char *text, uint64_t *value_p);
    const struct unit *units;
    size_t nr_units; /* that number_format() may write */
    const char *wanted;
} numbers[] = {
    [KV_OPT_UINT] = {kv_parse_uint, no_units, 1, "a whole number"},
    [KV_OPT_BYTES] = {kv_parse_bytes, byte_units, 4, "a size such as 64GiB or 256k"},
    [KV_OPT_TIME] =
        {kv_parse_time_us, time_units, KV_COUNT_OF(time_units),
         "a time with its unit, such as 250ms (us, ms, s, m, h)"},
};

static bool is_number(enum kv_option_type type)
{
    return type == KV_OPT_UINT || type == KV_OPT_BYTES || type == KV_OPT_TIME;
}

static void
number_format(enum kv_option_type type, uint64_t value, char *out, size_t cap)
{
    const struct number *number = &numbers[type];
    for (size_t i = 0; i < number->nr_units; i++) {
        const struct unit *unit = &number->units[i];
        if (value != 0 && value % unit->factor == 0) {
            snprintf(out, cap, "%" PRIu64 "%s", value / unit->factor, unit->suffix);
            return;
        }
    }
    /* Zero, or bytes that no unit divides. A time's smallest unit divides all but 0. */
    snprintf(out, cap, "%" PRIu64 "%s", value, type == KV_OPT_TIME ? "us" : "");
}

/* ---- names ----------------------------------------------------------------------- */

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;
    return least < c ? least : c;
}

/* Levenshtein distance with one row of the table; overlong names are past any bound. */
static unsigned edit_distance(const char *a, const char *b)
{
    const size_t len_a = strlen(a);
    const size_t len_b = strlen(b);
    if (len_a > NAME_BYTES_MAX || len_b > NAME_BYTES_MAX) {
        return NAME_BYTES_MAX + 1;
    }
    unsigned row[NAME_BYTES_MAX + 1];
    for (unsigned j = 0; j <= len_b; j++) {
        row[j] = j;
    }
    for (unsigned i = 1; i <= len_a; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= len_b; j++) {
            const unsigned changed = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = min3(changed, row[j] + 1, row[j - 1] + 1);
        }
    }
    return row[len_b];
}

/* Near: no more than a third of the name is wrong, and never all of it. Past that a
 * suggestion misleads more than it helps. */
static bool is_near(const char *name, unsigned distance)
{
    const size_t len = strlen(name);
    return distance < len && distance <= (len < 6 ? 2 : len / 3);
}

struct nearest {
    const char *name; /* of the best so far, or NULL */
    unsigned distance;
};

static void nearest_offer(struct nearest *best, const char *name, const char *candidate)
{
    const unsigned distance = edit_distance(name, candidate);
    if (is_near(name, distance) && (best->name == NULL || distance < best->distance)) {
        *best = (struct nearest){.name = candidate, .distance = distance};
    }
}

const char *kv_nearest(const char *name, const char *const *names, unsigned nr)
{
    struct nearest best = {0};
    for (unsigned i = 0; i < nr; i++) {
        nearest_offer(&best, name, names[i]);
    }
    return best.name;
}

/* ---- setting --------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static kv_status_t
refuse(struct kv_option_error *error, const char *format, ...)
{
    if (error != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(error->line, sizeof(error->line), format, args);
        va_end(args);
    }
    return KV_ERR_CONFIG;
}

static kv_status_t set_number(
    const struct kv_option *option, void *at, const char *value,
    struct kv_option_error *error)
{
    uint64_t number;
    char bound[32];
    if (numbers[option->type].parse(value, &number) != KV_OK) {
        return refuse(
            error, "%s: \"%.128s\" is not %s", option->name, value,
            numbers[option->type].wanted);
    }
    if (number < option->min) {
        number_format(option->type, option->min, bound, sizeof(bound));
        return refuse(
            error, "%s: %s is below the minimum %s", option->name, value, bound);
    }
    if (number > option->max) {
        number_format(option->type, option->max, bound, sizeof(bound));
        return refuse(
            error, "%s: %s is above the maximum %s", option->name, value, bound);
    }
    memcpy(at, &number, sizeof(number));
    return KV_OK;
}

static kv_status_t set_bool(
    const struct kv_option *option, void *at, const char *value,
    struct kv_option_error *error)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (unsigned i = 0; i < KV_COUNT_OF(words); i++) {
        if (strcmp(value, words[i]) == 0) {
            const bool on = (i & 1) != 0;
            memcpy(at, &on, sizeof(on));
            return KV_OK;
        }
    }
    return refuse(
        error, "%s: \"%.128s\" is not one of true, false, yes, no, on, off",
        option->name, value);
}

static kv_status_t set_text(
    const struct kv_option *option, void *at, const char *value,
    struct kv_option_error *error)
{
    const size_t len = strlen(value);
    const uint64_t max =
        option->max < KV_OPT_TEXT_BYTES ? option->max : KV_OPT_TEXT_BYTES - 1;
    if (len < option->min) {
        return refuse(
            error, "%s: %zu characters are below the minimum %" PRIu64, option->name,
            len, option->min);
    }
    if (len > max) {
        return refuse(
            error, "%s: %zu characters are above the maximum %" PRIu64, option->name,
            len, max);
    }
    memset(at, 0, KV_OPT_TEXT_BYTES);
    memcpy(at, value, len);
    return KV_OK;
}

/* The choice at `index` of "lru|fifo": its length, *at_p its start; 0 past the end. */
static size_t choice_at(const char *choices, int index, const char **at_p)
{
    const char *at = choices;
    for (; index > 0; index--) {
        at = strchr(at, '|');
        if (at == NULL) {
            return 0;
        }
        at++;
    }
    *at_p = at;
    return strcspn(at, "|");
}

static kv_status_t set_enum(
    const struct kv_option *option, void *at, const char *value,
    struct kv_option_error *error)
{
    const char *choice;
    for (int i = 0;; i++) {
        const size_t len = choice_at(option->choices, i, &choice);
        if (len == 0) {
            break;
        }
        if (strlen(value) == len && memcmp(choice, value, len) == 0) {
            memcpy(at, &i, sizeof(i));
            return KV_OK;
        }
    }
    return refuse(
        error, "%s: \"%.128s\" is not one of %s", option->name, value, option->choices);
}

static kv_status_t set_value(
    const struct kv_option *option, void *base, const char *value,
    struct kv_option_error *error)
{
    void *at = (char *)base + option->offset;
    if (is_number(option->type)) {
        return set_number(option, at, value, error);
    }
    switch (option->type) {
    case KV_OPT_BOOL:
        return set_bool(option, at, value, error);
    case KV_OPT_TEXT:
        return set_text(option, at, value, error);
    default:
        KV_ASSERT(option->type == KV_OPT_ENUM);
        return set_enum(option, at, value, error);
    }
}

void kv_options_preset(const struct kv_option *table, unsigned nr, void *base)
{
    for (unsigned i = 0; i < nr; i++) {
        KV_ASSERT(set_value(&table[i], base, table[i].preset, NULL) == KV_OK);
    }
}

static kv_status_t refuse_name(
    const struct kv_option *table, unsigned nr, const char *name,
    struct kv_option_error *error)
{
    struct nearest best = {0};
    for (unsigned i = 0; i < nr; i++) {
        nearest_offer(&best, name, table[i].name);
    }
    if (best.name != NULL) {
        return refuse(
            error, "unknown option \"%.128s\"; did you mean \"%s\"?", name, best.name);
    }
    return refuse(error, "unknown option \"%.128s\"", name);
}

kv_status_t kv_option_set(
    const struct kv_option *table, unsigned nr, void *base, const char *name,
    const char *value, struct kv_option_error *error)
{
    for (unsigned i = 0; i < nr; i++) {
        if (strcmp(table[i].name, name) == 0) {
            return set_value(&table[i], base, value, error);
        }
    }
    return refuse_name(table, nr, name, error);
}

void kv_option_get(
    const struct kv_option *option, const void *base, char *out, size_t cap)
{
    const char *at = (const char *)base + option->offset;
    if (is_number(option->type)) {
        uint64_t number;
        memcpy(&number, at, sizeof(number));
        number_format(option->type, number, out, cap);
        return;
    }
    if (option->type == KV_OPT_BOOL) {
        bool on;
        memcpy(&on, at, sizeof(on));
        snprintf(out, cap, "%s", on ? "true" : "false");
    } else if (option->type == KV_OPT_TEXT) {
        snprintf(out, cap, "%.*s", KV_OPT_TEXT_BYTES - 1, at);
    } else {
        int index;
        memcpy(&index, at, sizeof(index));
        const char *choice = "";
        const size_t len = choice_at(option->choices, index, &choice);
        KV_ASSERT(len > 0);
        snprintf(out, cap, "%.*s", (int)len, choice);
    }
}
