/* The reader of the shm transport against owners that are not ours: packets by hand,
 * and every descriptor. It maps nothing that could kill it, and keeps nothing. */
#define _GNU_SOURCE /* memfd_create */

#include "base/assert.h"
#include "tests/base/process_kit.h"
#include "tests/transport/shm_kit.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    MIB = 1 << 20,
    WHILE_MS = 150, /* for what shall not happen */
    SIZES = F_SEAL_SHRINK | F_SEAL_GROW,
};

static const struct tk_candidate shm = {.name = "shm", .ops = &kvt_shm};
static struct tk tk;

static int owner_socket; /* listens, by hand */

/* Our reader has come in and said hello, with a get posted; returns the owner's end. */
static int owner_by_hand(kvt_conn_t *conn_p)
{
    struct kvt_shm_packet packet;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    const uint8_t *hello;
    uint32_t len;

    tk_init(&tk, &shm);
    tk_path(tk.address);
    owner_socket = tk_listen_at(tk.address);
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    *conn_p = tk_dial(&tk);
    assert_int_equal(tk_get_one(&tk, *conn_p, 1, 0, 0, tk.reader.memory, 64), KV_OK);
    const int fd = tk_accept(owner_socket);
    assert_true(fd >= 0);
    assert_true(sk_put(fd, bytes, kvt_shm_write_greeting(bytes, 77)));
    assert_true(sk_get(&tk, fd, &packet));
    assert_int_equal(kvt_shm_read_hello(&packet, 77, &hello, &len), KV_OK);
    return fd;
}

static void owner_by_hand_end(int fd)
{
    close(fd);
    close(owner_socket);
    assert_int_equal(unlink(tk.address), 0);
    tk_close(&tk);
}

/* The reader has ended it: its get is lost, nothing is left open or mapped, and it has
 * said goodbye, since descriptors were on their way to it. */
static void expect_refused(int fd, kvt_conn_t conn, kv_status_t why, unsigned nr_fds)
{
    struct kvt_shm_packet packet;

    TK_UNTIL(&tk, tk.reader.nr_broken == 1 && tk.reader.was_done[1]);
    assert_int_equal(tk.reader.why, why);
    assert_int_equal(tk.reader.done[1].status, KV_ERR_LINK_LOST);
    assert_true(sk_get(&tk, fd, &packet));
    assert_int_equal(kvt_shm_read_goodbye(&packet), KV_OK);
    assert_false(sk_get(&tk, fd, &packet));
    kvt_close(tk.reader.port, conn);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(process_kit_fds(), nr_fds - 1); /* but its socket's */
}

/* Descriptors that would kill the reader, or are something else. */
static int bad_file(unsigned i)
{
    int fds[2];

    switch (i) {
    case 0: /* it could be shrunk: SIGBUS */
        return tk_memfd(MIB, F_SEAL_GROW, NULL);
    case 1: /* smaller than said */
        return tk_memfd(MIB / 2, SIZES, NULL);
    case 2: /* larger */
        return tk_memfd(2 * MIB, SIZES, NULL);
    case 3:
        return open("/dev/zero", O_RDONLY | O_CLOEXEC);
    case 4:
        assert_int_equal(pipe(fds), 0);
        close(fds[1]);
        return fds[0];
    case 5: /* pages that cannot be had: SIGBUS, too; -1 where there are no such */
        fds[0] = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
        if (fds[0] >= 0) {
            assert_int_equal(ftruncate(fds[0], 2 * MIB), 0);
            assert_int_equal(fcntl(fds[0], F_ADD_SEALS, SIZES), 0);
        }
        return fds[0];
    default:
        return -2;
    }
}

static void owner__unsafe_files_are_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    (void)state;
    for (unsigned i = 0;; i++) {
        const int file = bad_file(i);
        if (file == -2) {
            break;
        }
        if (file == -1) {
            continue;
        }
        kvt_conn_t conn;
        const struct kvt_shm_arena arenas[2] = {
            {.bytes = 4096, .file_bytes = MIB},
            {.bytes = 4096, .file_bytes = i == 5 ? 2 * MIB : MIB}};
        const int fd = owner_by_hand(&conn);
        const int good = tk_memfd(MIB, SIZES, NULL);
        const int fds[] = {good, file};
        const unsigned nr_fds = process_kit_fds();
        const uint32_t len = kvt_shm_write_arenas(bytes, arenas, 2);
        assert_int_equal(kvt_shm_send(fd, bytes, len, fds, 2), 0);
        expect_refused(fd, conn, KV_ERR_PROTOCOL, nr_fds);
        close(good);
        close(file);
        owner_by_hand_end(fd);
    }
}

/* What is wrong with the table itself. */
static uint32_t bad_table(unsigned i, uint8_t *out, uint32_t *nr_fds)
{
    struct kvt_shm_arena arenas[KVT_REGIONS_MAX] = {
        {.bytes = 4096, .file_bytes = MIB}, {.bytes = 0, .file_bytes = 0}};
    uint32_t len;

    *nr_fds = 1;
    switch (i) {
    case 0: /* more to be read than there is */
        arenas[0].bytes = MIB + 1;
        break;
    case 1: /* nothing to be read */
        arenas[0].bytes = 0;
        break;
    case 2: /* bytes of an arena that is not given out */
        arenas[1].bytes = 1;
        break;
    case 3: /* a descriptor too many */
        *nr_fds = 2;
        break;
    case 4: /* one too few */
        *nr_fds = 0;
        break;
    case 5: /* all the address space */
        arenas[0].file_bytes = UINT64_C(1) << 62;
        break;
    case 6: /* its sum */
        for (unsigned k = 0; k < KVT_REGIONS_MAX; k++) {
            arenas[k] =
                (struct kvt_shm_arena){.bytes = 1, .file_bytes = UINT64_C(1) << 37};
        }
        *nr_fds = KVT_REGIONS_MAX;
        return kvt_shm_write_arenas(out, arenas, KVT_REGIONS_MAX);
    case 7: /* a byte too few */
        return kvt_shm_write_arenas(out, arenas, 2) - 1;
    case 8: /* more arenas than said */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[8] = 1;
        return len;
    case 9: /* and than there may be */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[8] = KVT_REGIONS_MAX + 1;
        return len;
    case 10: /* what is zero is not */
        len = kvt_shm_write_arenas(out, arenas, 2);
        out[KVT_SHM_HEAD_BYTES + 16] = 1;
        return len;
    case 11: /* another packet */
        *nr_fds = 0;
        return kvt_shm_write_greeting(out, 5);
    default:
        return 0;
    }
    return kvt_shm_write_arenas(out, arenas, 2);
}

static void owner__a_bad_table_is_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    uint32_t nr;

    (void)state;
    for (unsigned i = 0; bad_table(i, bytes, &nr) > 0; i++) {
        kvt_conn_t conn;
        int fds[KVT_REGIONS_MAX];
        const int fd = owner_by_hand(&conn);
        /* As large as said, where that alone is wrong: it has holes. */
        fds[0] = tk_memfd(
            i == 5   ? UINT64_C(1) << 62
            : i == 6 ? UINT64_C(1) << 37
                     : MIB,
            SIZES, NULL);
        for (unsigned k = 1; k < KVT_REGIONS_MAX; k++) {
            fds[k] = fds[0];
        }
        const unsigned nr_fds = process_kit_fds();
        const uint32_t len = bad_table(i, bytes, &nr);
        assert_int_equal(kvt_shm_send(fd, bytes, len, fds, nr), 0);
        expect_refused(fd, conn, KV_ERR_PROTOCOL, nr_fds);
        close(fds[0]);
        owner_by_hand_end(fd);
    }
}

/* A greeting that is none: nothing was said, so there is no goodbye. */
static void owner__a_bad_greeting_is_refused(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        tk_init(&tk, &shm);
        tk_path(tk.address);
        owner_socket = tk_listen_at(tk.address);
        tk_memory(&tk, &tk.reader, MIB);
        assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
        const kvt_conn_t conn = tk_dial(&tk);
        const int fd = tk_accept(owner_socket);
        const unsigned nr_fds = process_kit_fds();
        uint32_t len = kvt_shm_write_greeting(bytes, 5);
        bytes[i % 2 == 0 ? 0 : 4] ^= 9;
        len -= i == 2;
        if (i == 3) {
            len = kvt_shm_write_greeting(bytes, 5);
            assert_int_equal(kvt_shm_send(fd, bytes, len, &(int){fd}, 1), 0);
        } else {
            assert_true(sk_put(fd, bytes, len));
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, KV_ERR_PROTOCOL);
        assert_true(tk_ended(fd));
        kvt_close(tk.reader.port, conn);
        TK_UNTIL(&tk, tk.reader.nr_closed == 1);
        assert_int_equal(process_kit_fds(), nr_fds - 1);
        owner_by_hand_end(fd);
    }
}

/* A listener with no place in its backlog: the reader tries again, until there is one,
 * or until it is closed. */
static void owner__a_full_backlog_is_waited_for(void **state)
{
    struct kvt_shm_packet packet;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];

    (void)state;
    tk_init(&tk, &shm);
    tk_path(tk.address);
    owner_socket = tk_listen_at(tk.address);
    assert_int_equal(listen(owner_socket, 0), 0); /* one place */
    const int first = tk_dial_raw(tk.address);
    tk_memory(&tk, &tk.reader, MIB);
    assert_int_equal(tk_port(&shm, &tk.config, &tk.reader, NULL), KV_OK);
    const kvt_conn_t closed = tk_dial(&tk);
    (void)tk_dial(&tk);
    sk_pump(&tk, WHILE_MS);
    assert_int_equal(tk.reader.nr_broken, 0);
    kvt_close(tk.reader.port, closed);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    assert_int_equal(tk.reader.closed[0], closed);
    close(tk_accept(owner_socket));
    const int fd = tk_accept(owner_socket);
    assert_true(sk_put(fd, bytes, kvt_shm_write_greeting(bytes, 77)));
    assert_true(sk_get(&tk, fd, &packet)); /* its hello */
    close(first);
    owner_by_hand_end(fd);
}

/* How many mappings of memfds are there that may be read alone, and have all of `flags`
 * in /proc/self/smaps ("" has every one). */
static unsigned nr_maps_with(const char *flags)
{
    char line[512];
    bool is_ours = false;
    unsigned nr = 0;
    FILE *maps = fopen("/proc/self/smaps", "re");

    assert_non_null(maps);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, "r--s") != NULL) {
            is_ours = strstr(line, "memfd:kvrail-test") != NULL;
        } else if (strncmp(line, "VmFlags:", 8) == 0) {
            nr += is_ours && strstr(line, flags) != NULL;
            is_ours = false;
        }
    }
    (void)fclose(maps);
    return nr;
}

/* What is mapped is no child's, whose reading our goodbye would not end, and in no
 * core; and with the goodbye it is mapped no more. */
static void owner__its_arenas_are_mapped_for_us_alone(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    const struct kvt_shm_arena arena = {.bytes = MIB, .file_bytes = MIB};
    struct kvt_shm_packet packet;
    kvt_conn_t conn;

    (void)state;
    const int fd = owner_by_hand(&conn);
    const int file = tk_memfd(MIB, SIZES, NULL);
    const uint32_t len = kvt_shm_write_arenas(bytes, &arena, 1);
    assert_int_equal(kvt_shm_send(fd, bytes, len, &file, 1), 0);
    TK_UNTIL(&tk, tk.reader.was_done[1]);
    assert_int_equal(nr_maps_with(""), 1);
    assert_int_equal(nr_maps_with(" dc"), 1); /* do not copy on fork */
    assert_int_equal(nr_maps_with(" dd"), 1); /* do not include in core dump */
    kvt_close(tk.reader.port, conn);
    assert_true(sk_get(&tk, fd, &packet));
    assert_int_equal(kvt_shm_read_goodbye(&packet), KV_OK);
    assert_int_equal(nr_maps_with(""), 0);
    TK_UNTIL(&tk, tk.reader.nr_closed == 1);
    close(file);
    owner_by_hand_end(fd);
}

/* After the arenas there is nothing to say but the end. A get that was posted before
 * is served in full. */
static void owner__more_after_the_arenas_ends_it(void **state)
{
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    struct kvt_shm_packet packet;
    uint8_t *memory;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        kvt_conn_t conn;
        const int fd = owner_by_hand(&conn);
        const int file = tk_memfd(MIB, SIZES, &memory);
        const struct kvt_shm_arena arena = {.bytes = MIB, .file_bytes = MIB};
        memset(memory, 7, MIB);
        uint32_t len = kvt_shm_write_arenas(bytes, &arena, 1);
        assert_int_equal(kvt_shm_send(fd, bytes, len, &file, 1), 0);
        TK_UNTIL(&tk, tk.reader.was_done[1]);
        assert_int_equal(tk.reader.done[1].status, KV_OK);
        assert_true(tk_all(tk.reader.memory, 64, 7));
        if (i == 0) {
            assert_int_equal(kvt_shm_send(fd, bytes, len, &file, 1), 0);
        } else {
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
        }
        TK_UNTIL(&tk, tk.reader.nr_broken == 1);
        assert_int_equal(tk.reader.why, i == 0 ? KV_ERR_PROTOCOL : KV_ERR_LINK_LOST);
        assert_true(sk_get(&tk, fd, &packet)); /* by itself, before close() */
        assert_int_equal(kvt_shm_read_goodbye(&packet), KV_OK);
        assert_int_equal(tk_get_one(&tk, conn, 2, 0, 0, tk.reader.memory, 64), KV_OK);
        TK_UNTIL(&tk, tk.reader.was_done[2]);
        assert_int_equal(tk.reader.done[2].status, KV_ERR_LINK_LOST);
        close(file);
        munmap(memory, MIB);
        owner_by_hand_end(fd);
    }
}

/* A reader without descriptors left says that it was its own fault. */
static void reader__without_descriptors_is_broken(void **state)
{
    struct rlimit before, none;
    uint8_t bytes[KVT_SHM_PACKET_BYTES_MAX];
    const struct kvt_shm_arena arena = {.bytes = MIB, .file_bytes = MIB};
    kvt_conn_t conn;

    (void)state;
    const int fd = owner_by_hand(&conn);
    const int file = tk_memfd(MIB, SIZES, NULL);
    const unsigned nr_fds = process_kit_fds();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    const int error =
        kvt_shm_send(fd, bytes, kvt_shm_write_arenas(bytes, &arena, 1), &file, 1);
    TK_UNTIL(&tk, error != 0 || tk.reader.nr_broken == 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(error, 0);
    expect_refused(fd, conn, KV_ERR_IO, nr_fds);
    close(file);
    owner_by_hand_end(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owner__unsafe_files_are_refused),
        cmocka_unit_test(owner__a_bad_table_is_refused),
        cmocka_unit_test(owner__a_bad_greeting_is_refused),
        cmocka_unit_test(owner__a_full_backlog_is_waited_for),
        cmocka_unit_test(owner__its_arenas_are_mapped_for_us_alone),
        cmocka_unit_test(owner__more_after_the_arenas_ends_it),
        cmocka_unit_test(reader__without_descriptors_is_broken),
    };

    return cmocka_run_group_tests_name("shm owner", tests, NULL, NULL);
}
