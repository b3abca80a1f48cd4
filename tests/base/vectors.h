/* Reads the test vectors of a document: every line of its ```vectors blocks.
 *
 *   "page <prev> 1 1 16 - = <key>"  ──►  argv {"page", …, "-"}, answer "<key>"
 *
 * Threading: one reader per thread. Ownership: the strings live until the next line;
 * vectors_close() takes the file. Errors: a line that is no vector fails the test.
 */
#ifndef TESTS_BASE_VECTORS_H
#define TESTS_BASE_VECTORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { VECTOR_ARGS_MAX = 8 };

struct vector_reader {
    FILE *file;
    bool inside; /* a vectors block */
    char line[4096];
    char *argv[VECTOR_ARGS_MAX];
    unsigned argc;
    char *answer;
};

/* Fails the test when the document cannot be opened. */
void vectors_open(struct vector_reader *reader, const char *path);
bool vectors_next(struct vector_reader *reader);
void vectors_close(struct vector_reader *reader);

/* Bytes of a hex text, "-" for none; fails the test on anything else. */
size_t vector_bytes(const char *hex, uint8_t *out, size_t cap);

/* The byte stream of docs/digest.md. */
void vector_stream(uint64_t seed, uint8_t *out, size_t len);

#endif
