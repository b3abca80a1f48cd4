#include "tests/node/node_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

void node_kit_file(const char *bytes, size_t len, bool gzip, char *path)
{
    const char *folder = getenv("TMPDIR");
    snprintf(
        path, NODE_KIT_PATH_BYTES, "%s/kvrail-test-XXXXXX",
        folder == NULL ? "/tmp" : folder);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    if (gzip) {
        gzFile file = gzdopen(fd, "wb");
        assert_non_null(file);
        assert_int_equal(gzwrite(file, bytes, (unsigned)len), len);
        assert_int_equal(gzclose(file), Z_OK);
        return;
    }
    assert_true(write(fd, bytes, len) == (ssize_t)len);
    assert_int_equal(close(fd), 0);
}

void node_kit_remove(const char *path)
{
    assert_int_equal(unlink(path), 0);
}

bool node_kit_trace(const char *name, char *path)
{
    const char *folder = getenv("KVRAIL_TRACES");
    snprintf(
        path, NODE_KIT_PATH_BYTES, "%s/%s",
        folder == NULL ? "../shared/traces" : folder, name);
    if (access(path, R_OK) == 0) {
        return true;
    }
    print_message("no %s, set KVRAIL_TRACES: skipped\n", path);
    return false;
}

/* What was written to `file`, from its beginning. */
static void read_back(FILE *file, char *out, size_t cap)
{
    rewind(file);
    size_t len = fread(out, 1, cap - 1, file);
    out[len] = '\0';
    fclose(file);
}

static int redirect(FILE *stream, FILE *to)
{
    fflush(stream);
    int saved = dup(fileno(stream));
    assert_true(saved >= 0);
    assert_true(dup2(fileno(to), fileno(stream)) >= 0);
    return saved;
}

static void restore(FILE *stream, int saved)
{
    fflush(stream);
    assert_true(dup2(saved, fileno(stream)) >= 0);
    close(saved);
}

void node_kit_run(
    node_kit_verb verb, const char *const *words, struct node_kit_result *result)
{
    char *argv[16] = {NULL};
    int argc = 0;
    FILE *out = tmpfile();
    FILE *err = tmpfile();
    assert_non_null(out);
    assert_non_null(err);
    while (words[argc] != NULL) {
        assert_true(argc < 15);
        argv[argc] = strdup(words[argc]);
        assert_non_null(argv[argc]);
        argc++;
    }
    int saved_out = redirect(stdout, out);
    int saved_err = redirect(stderr, err);
    result->exit_code = verb(argc, argv);
    restore(stdout, saved_out);
    restore(stderr, saved_err);
    read_back(out, result->out, sizeof(result->out));
    read_back(err, result->err, sizeof(result->err));
    for (int i = 0; i < argc; i++) {
        free(argv[i]);
    }
}
