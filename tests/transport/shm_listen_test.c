/* What a shm port is made of: the path that it listens on, and the regions that it may
 * give out. What is wrong with them is named, and nothing is left behind. */
#define _GNU_SOURCE /* F_ADD_SEALS */

#include "base/assert.h"
#include "tests/transport/transport_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { MIB = 1 << 20, SIZES = F_SEAL_SHRINK | F_SEAL_GROW };

static const struct tk_candidate shm = {.name = "shm", .ops = &kvt_shm};
static struct tk tk;

static kv_status_t owner_at(const char *path, struct kv_detail *detail)
{
    tk.owner.listen = path;
    *detail = (struct kv_detail){0};
    return tk_port(&shm, &tk.config, &tk.owner, detail);
}

static bool says(const struct kv_detail *detail, const char *what)
{
    return detail->field != NULL && strstr(detail->field, what) != NULL;
}

static void listen__what_stands_in_the_way_is_named(void **state)
{
    struct kv_detail detail;
    struct kvt_event event;
    struct stat st;
    char path[KVT_ADDRESS_MAX], longest[KVT_ADDRESS_MAX];

    (void)state;
    tk_init(&tk, &shm);
    tk_memory(&tk, &tk.owner, MIB);
    tk_path(path);
    memset(longest, 'a', sizeof(longest) - 1);
    longest[0] = '/';
    longest[108] = '\0';
    assert_int_equal(owner_at(longest, &detail), KV_ERR_CONFIG);
    assert_true(says(&detail, "bytes of its path"));
    assert_int_equal(detail.limit, 107);
    assert_int_equal(detail.value, 108);
    assert_int_equal(owner_at("", &detail), KV_ERR_CONFIG);
    assert_int_equal(owner_at("/nowhere/at/all", &detail), KV_ERR_IO);
    assert_true(says(&detail, "is the folder there"));
    assert_int_equal(detail.value, ENOENT);
    /* a file that is no socket stays */
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(owner_at(path, &detail), KV_ERR_CONFIG);
    assert_true(says(&detail, "no socket"));
    assert_int_equal(unlink(path), 0);
    /* another listens */
    int other = tk_listen_at(path);
    assert_int_equal(owner_at(path, &detail), KV_ERR_AGAIN);
    assert_true(says(&detail, "others that listen there"));
    /* it is gone, and has left its socket there */
    close(other);
    assert_int_equal(owner_at(path, &detail), KV_OK);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    kvt_destroy(tk.owner.port);
    assert_int_equal(lstat(path, &st), -1);
    /* somebody else's that has taken the place stays */
    assert_int_equal(owner_at(path, &detail), KV_OK);
    assert_int_equal(unlink(path), 0);
    other = tk_listen_at(path);
    kvt_destroy(tk.owner.port);
    tk.owner.port = NULL;
    assert_int_equal(lstat(path, &st), 0);
    close(other);
    assert_int_equal(unlink(path), 0);
    /* an address that is none is refused at once */
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    kvt_conn_t conn = 0;
    assert_int_equal(
        kvt_open(tk.reader.port, longest, (const uint8_t *)"x", 1, &conn),
        KV_ERR_INVALID);
    assert_false(kvt_next(tk.reader.port, &event));
    tk_close(&tk);
}

/* A memfd that readers could write, grow or shrink is not given to them. */
static void create__unsealed_regions_are_refused(void **state)
{
    static const int seals[] = {
        0, SIZES, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE,
        F_SEAL_GROW | F_SEAL_FUTURE_WRITE};

    (void)state;
    for (unsigned i = 0; i <= KV_COUNT_OF(seals); i++) {
        const bool sealed = i == KV_COUNT_OF(seals);
        struct kv_detail detail;
        tk_init(&tk, &shm);
        tk_path(tk.address);
        tk.owner.fd = tk_memfd(
            MIB, sealed ? SIZES | F_SEAL_FUTURE_WRITE : seals[i], &tk.owner.memory);
        tk.owner.bytes = sealed ? MIB + 1 : MIB;
        assert_int_equal(owner_at(tk.address, &detail), KV_ERR_CONFIG);
        assert_true(says(&detail, sealed ? "bytes of a memfd" : "seals of a memfd"));
        tk.owner.bytes = MIB;
        assert_int_equal(access(tk.address, F_OK), -1);
        tk_close(&tk);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listen__what_stands_in_the_way_is_named),
        cmocka_unit_test(create__unsealed_regions_are_refused),
    };

    return cmocka_run_group_tests_name("shm listen", tests, NULL, NULL);
}
