#include "tests/base/vectors.h"

#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

void vectors_open(struct vector_reader *reader, const char *path)
{
    *reader = (struct vector_reader){.file = fopen(path, "r")};
    if (reader->file == NULL) {
        fail_msg("%s cannot be opened: run in the source folder", path);
    }
}

static void split(struct vector_reader *reader)
{
    char *equals = strstr(reader->line, " = ");
    assert_non_null(equals);
    *equals = '\0';
    reader->answer = equals + 3;
    reader->argc = 0;
    for (char *at = strtok_r(reader->line, " ", &equals); at != NULL;
         at = strtok_r(NULL, " ", &equals)) {
        assert_true(reader->argc < VECTOR_ARGS_MAX);
        reader->argv[reader->argc++] = at;
    }
}

bool vectors_next(struct vector_reader *reader)
{
    while (fgets(reader->line, sizeof(reader->line), reader->file) != NULL) {
        size_t len = strcspn(reader->line, "\n");
        assert_int_equal(reader->line[len], '\n');
        reader->line[len] = '\0';
        if (strncmp(reader->line, "```", 3) == 0) {
            reader->inside = strcmp(reader->line, "```vectors") == 0;
        } else if (reader->inside && len > 0) {
            split(reader);
            return true;
        }
    }
    return false;
}

void vectors_close(struct vector_reader *reader)
{
    fclose(reader->file);
}

size_t vector_bytes(const char *hex, uint8_t *out, size_t cap)
{
    if (strcmp(hex, "-") == 0) {
        return 0;
    }
    const size_t len = strlen(hex) / 2;
    assert_int_equal(strlen(hex) % 2, 0);
    assert_true(len <= cap);
    for (size_t i = 0; i < len; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (uint8_t)byte;
    }
    return len;
}

void vector_stream(uint64_t seed, uint8_t *out, size_t len)
{
    struct kv_rng rng = {.state = seed};
    for (size_t at = 0; at < len; at += sizeof(uint64_t)) {
        const uint64_t word = kv_rng_next(&rng);
        const size_t left = len - at;
        memcpy(out + at, &word, left < sizeof(word) ? left : sizeof(word));
    }
}
