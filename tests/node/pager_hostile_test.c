/* A client of the pager level that keeps to no rule: it writes what it likes into its
 * ring and its arena, hangs up with kernels running, or dies. Sequences of others stay
 * theirs, frames that it could still write are nobody's until it is dead, and then
 * everything is back.
 *
 * Victims are this program again: see main(). */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/hash.h"
#include "node/lib/lib_priv.h"
#include "tests/node/engine_kit.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { KILLS = 60, KEYS = 48, FILL_PAGES = 4, FUZZ_TURNS = 4000, FUZZ_CLIENTS = 6 };
enum { FRAMES = LK_FILL_FRAMES + LK_HOST_FRAMES + LK_DEVICE_FRAMES };

static struct lk lk;

/* ------------------------------------------------------------------ the victims */

static int said_begun(void)
{
    return write(STDOUT_FILENO, ".", 1) == 1 ? 0 : 1;
}

/* Sequences that fetch, grow, fork, shrink and end, without end. */
static int fill(const char *path)
{
    struct kv_rng rng = kv_rng_seed((uint64_t)getpid());
    kvr_client_t *client = lk_engine_at(path, 1 << 17);
    if (client == NULL) {
        return 1;
    }
    for (uint64_t turn = 0;; turn++) {
        kvr_seq_t seq = ek_open(client);
        uint64_t first = kv_rng_next(&rng) % KEYS;
        uint32_t page = ek_fetch(client, seq, 0, first, 2);
        for (uint32_t i = 0; i < page; i++) {
            KV_ASSERT(ek_holds(client, seq, i, first + i));
        }
        while (page < FILL_PAGES && ek_append(client, seq, LK_PAGE_TOKENS) == KVR_OK) {
            lk_page(ek_at(client, seq, page), first + page);
            (void)ek_seal(client, seq, page, first + page);
            (void)ek_confirm(client, seq, ek_table(client, seq).version);
            page++;
        }
        kvr_seq_t child = turn % 2 == 0 ? ek_fork(client, seq) : 0;
        if (child != 0) {
            (void)ek_truncate(client, child, LK_PAGE_TOKENS / 2);
            (void)ek_append(client, child, 1);
            (void)ek_end(client, child);
        }
        if (turn == 2 && said_begun() != 0) {
            return 1;
        }
        if (turn % 4 != 3) {
            (void)ek_end(client, seq);
        } else if (ek_append(client, seq, 3) != KVR_OK) {
            return 1;
        } else {
            (void)ek_end(client, seq);
        }
    }
}

/* Hangs up with pages being filled, and lives on. */
static int hang(const char *path)
{
    kvr_client_t *client = lk_engine_at(path, 0);
    if (client == NULL) {
        return 1;
    }
    kvr_seq_t seq = ek_open(client);
    KV_ASSERT(ek_append(client, seq, FILL_PAGES * LK_PAGE_TOKENS) == KVR_OK);
    kvr_close(client);
    if (said_begun() != 0) {
        return 1;
    }
    for (;;) {
        pause();
    }
}

/* Requests of a right shape and any content, then its death. */
static int fuzz(const char *path)
{
    struct kv_rng rng = kv_rng_seed((uint64_t)getpid());
    kvr_client_t *client = lk_engine_at(path, 1 << 17);
    if (client == NULL || said_begun() != 0) {
        return 1;
    }
    for (unsigned turn = 0; turn < FUZZ_TURNS; turn++) {
        uint8_t copy[KVN_SEQ_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
        uint16_t op = (uint16_t)(KVN_OP_SEQ_OPEN + kv_rng_next(&rng) % 8);
        bool fetch = op == KVN_OP_SEQ_FETCH, seal = op == KVN_OP_SEQ_SEAL;
        uint32_t n = fetch ? 1 + (uint32_t)(kv_rng_next(&rng) % 8) : seal;
        uint32_t bytes = kvn_request_bytes(op, n, false), len;
        uint8_t *to;
        uint64_t small = kv_rng_next(&rng) % 4 != 0;
        struct kvn_request_head head = {
            .bytes = bytes,
            .type = KVN_RECORD_REQUEST,
            .op = op,
            .tag = kv_rng_next(&rng),
            .timeout_us = 1 + kv_rng_next(&rng) % 2000,
            .nr_keys = n,
            .first_page = (uint32_t)(small ? turn % 4 : kv_rng_next(&rng)),
            .variant = (uint16_t)(small ? 0 : kv_rng_next(&rng)),
        };
        const struct kvn_request_seq about = {
            .seq = small ? kv_rng_next(&rng) % 8 | (kv_rng_next(&rng) % 4) << 32
                         : kv_rng_next(&rng),
            .name = kv_rng_next(&rng),
            .version = kv_rng_next(&rng) % 8,
            .page = (uint32_t)(small ? turn % 4 : kv_rng_next(&rng)),
            .tokens = (uint32_t)(small ? turn % 40 : kv_rng_next(&rng)),
        };
        if (kvn_ring_room(&client->requests, bytes, &to, NULL) == KV_OK) {
            memcpy(to, &head, sizeof(head));
            memcpy(to + sizeof(head), &about, sizeof(about));
            for (uint32_t i = 0; i < n; i++) {
                const struct kvr_key key = lk_key(kv_rng_next(&rng) % KEYS);
                memcpy(
                    to + sizeof(head) + sizeof(about) + i * sizeof(key), &key,
                    sizeof(key));
            }
            kvr_request_send(client);
        }
        while (kvn_ring_peek(&client->answers, copy, sizeof(copy), &len, NULL)
               == KV_OK) {
            struct kvn_answer answer;
            kvn_ring_take(&client->answers);
            KV_ASSERT(kvn_answer_read(copy, len, &answer, NULL) == KV_OK);
            if (kvn_ring_must_wake(&client->rings->node_sleeps, KVN_WANTS_ROOM)) {
                kvr_wake_node(client);
            }
        }
    }
    kvr_close(client);
    return 0;
}

/* A node in a pid namespace of its own: who connects from outside has no number. */
static int node_apart(const char *path)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) {
        return write(STDOUT_FILENO, "-", 1) == 1 ? 0 : 1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it goes with who is killed */
        lk_init_fill(&lk);
        rmdir(lk.dir);
        snprintf(lk.path, sizeof(lk.path), "%s", path);
        lk_start(&lk);
        (void)said_begun();
        for (;;) {
            pause();
        }
    }
    int how;
    return waitpid(pid, &how, 0) == pid ? 0 : 1;
}

/* Starts one and waits for what it says. */
static pid_t spawn(const char *role, const char *path, char *said)
{
    extern char **environ;
    int pipes[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    char *words[] = {
        (char *)(uintptr_t) "victim", (char *)(uintptr_t)role, (char *)(uintptr_t)path,
        NULL};
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
    assert_int_equal(posix_spawn_file_actions_adddup2(&actions, pipes[1], 1), 0);
    assert_int_equal(
        posix_spawn(&pid, "/proc/self/exe", &actions, NULL, words, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    assert_int_equal(read(pipes[0], said, 1), 1);
    close(pipes[0]);
    return pid;
}

static void kill_now(pid_t pid)
{
    int how;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
}

/* ------------------------------------------------------------------ death */

static unsigned nr_kills(void)
{
    const char *text = getenv("KV_PAGER_KILLS");
    return text != NULL ? (unsigned)strtoul(text, NULL, 10) : KILLS;
}

static void await_fenced(uint32_t n)
{
    for (unsigned i = 0; lk_counts(&lk).fenced != n; i++) {
        KV_ASSERT(i < 10000);
        usleep(1000);
    }
}

/* Nothing is held by nobody: frames are free or sealed. */
static void expect_all_back(void)
{
    await_fenced(0);
    ek_await_frames(&lk, KVP_FILLING, 0);
    ek_await_frames(&lk, KVP_SEALING, 0);
    ek_await_frames(&lk, KVP_QUARANTINE, 0);
    assert_int_equal(lk_frames(&lk, KVP_FREE) + lk_frames(&lk, KVP_SEALED), FRAMES);
}

static void client__killed_in_its_fills_gives_everything_back(void **state)
{
    struct kv_rng rng = kv_rng_seed(60);
    unsigned kills = nr_kills(), busy = 0;
    char said;
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    lk_await(&lk, 1, 0);
    const struct lk_held before = lk_held();
    for (unsigned i = 0; i < kills; i++) {
        pid_t pid = spawn("--fill", lk.path, &said);
        pid_t other = i % 3 == 0 ? spawn("--fill", lk.path, &said) : 0;
        usleep((useconds_t)(kv_rng_next(&rng) % 3000));
        if (i % 4 == 0) {
            lk_hold(&lk, UINT32_MAX); /* digests and copies under way when it dies */
            usleep(500);
        }
        busy += lk_frames(&lk, KVP_FILLING) > 0;
        kill_now(pid);
        if (other != 0) {
            kill_now(other);
        }
        lk_await(&lk, 1, 0);
        lk_hold(&lk, 0);
        if (i % 10 == 9) {
            expect_all_back();
        }
    }
    expect_all_back();
    lk_await_held(&before);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    /* What the dead sealed is whole. */
    uint32_t hits = 0;
    for (uint32_t key = 0; key < KEYS + FILL_PAGES; key++) {
        kvr_seq_t seq = ek_open(engine);
        if (ek_fetch(engine, seq, 0, key, 1) == 1) {
            assert_true(ek_holds(engine, seq, 0, key));
            hits++;
        }
        assert_int_equal(ek_end(engine, seq), KVR_OK);
    }
    print_message(
        "%u kills, %u with pages being filled; %u pages were there, each as sealed\n",
        kills, busy, hits);
    assert_true(busy > 0);
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* The process is alive: its kernels may write the four frames. Nobody gets them,
 * whatever he asks for, until it is dead; another client attaches meanwhile. */
static void client__hung_up_keeps_its_frames_until_it_is_dead(void **state)
{
    char said;
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    pid_t pid = spawn("--hang", lk.path, &said);
    await_fenced(1);
    lk_await(&lk, 0, 0);
    char line[KVN_LOCAL_NOTE_MAX];
    lk_note(&lk, line);
    assert_non_null(strstr(line, "1 sequences open: their pages are kept until"));
    assert_int_equal(lk_frames(&lk, KVP_FILLING), FILL_PAGES);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    kvr_seq_t seq = ek_open(engine);
    const uint32_t left = LK_FILL_FRAMES - FILL_PAGES;
    assert_int_equal(ek_append(engine, seq, left * LK_PAGE_TOKENS), KVR_OK);
    assert_int_equal(ek_append(engine, seq, LK_PAGE_TOKENS), KVR_AGAIN);
    usleep(50000);
    assert_int_equal(ek_append(engine, seq, LK_PAGE_TOKENS), KVR_AGAIN);
    assert_int_equal(lk_counts(&lk).fenced, 1);
    kill_now(pid);
    await_fenced(0);
    assert_int_equal(ek_append(engine, seq, FILL_PAGES * LK_PAGE_TOKENS), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_frames(&lk, KVP_FREE), FRAMES);
    /* And a node that stops does not wait for it. */
    pid = spawn("--hang", lk.path, &said);
    await_fenced(1);
    lk_stop(&lk);
    kill_now(pid);
}

/* ------------------------------------------------------------------ hostile */

/* Writes one request as it is, and gives its answer; false: the client was ended. */
static bool raw_ask(
    kvr_client_t *client, struct kvn_request_head head,
    const struct kvn_request_seq *about, struct kvn_answer *answer)
{
    static uint8_t copy[KVN_SEQ_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
    uint32_t len, bytes = kvn_request_bytes(head.op, head.nr_keys, false);
    uint8_t *to;
    head.bytes = bytes;
    head.type = KVN_RECORD_REQUEST;
    assert_int_equal(kvn_ring_room(&client->requests, bytes, &to, NULL), KV_OK);
    memset(to, 7, bytes);
    memcpy(to, &head, sizeof(head));
    if (kvn_op_seq(head.op)) {
        memcpy(to + sizeof(head), about, sizeof(*about));
    }
    kvr_request_send(client);
    for (unsigned i = 0; i < 20000; i++) {
        if (kvn_ring_peek(&client->answers, copy, sizeof(copy), &len, NULL) == KV_OK) {
            kvn_ring_take(&client->answers);
            assert_int_equal(kvn_answer_read(copy, len, answer, NULL), KV_OK);
            return true;
        }
        kvr_socket_drain(client);
        if (client->gone) {
            return false;
        }
        usleep(500);
    }
    KV_UNREACHABLE("neither answered nor ended");
}

/* Ids that are wild, old, or another client's: STALE, and nothing is told or done. */
static void sequences__are_their_clients_alone(void **state)
{
    struct kvn_answer answer;
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    kvr_client_t *other = lk_engine_at(lk.path, 0);
    kvr_seq_t seq = ek_open(engine);
    ek_grow(engine, seq, 0, 1);
    uint64_t theirs = engine->seqs[0].id;
    const uint64_t ids[] = {theirs,     theirs + 1, theirs | UINT64_C(1) << 32, 63, 64,
                            UINT32_MAX, UINT64_MAX, UINT64_C(5) << 32};
    for (unsigned i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        for (uint16_t op = KVN_OP_SEQ_FETCH; op <= KVN_OP_SEQ_END; op++) {
            const struct kvn_request_seq about = {.seq = ids[i], .tokens = 1};
            const struct kvn_request_head head = {
                .op = op,
                .tag = 1000 + i,
                .timeout_us = 1000000,
                .nr_keys = op == KVN_OP_SEQ_FETCH || op == KVN_OP_SEQ_SEAL,
            };
            assert_true(raw_ask(other, head, &about, &answer));
            assert_int_equal(answer.head.tag, 1000 + i);
            assert_int_equal(answer.head.status, KV_ERR_STALE);
            assert_int_equal(answer.seq.flags, 0);
            assert_int_equal(answer.seq.nr_entries, 0);
            assert_int_equal(answer.seq.nr_pages, 0);
        }
    }
    assert_true(ek_holds(engine, seq, 0, 1));
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    kvr_close(other);
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    assert_int_equal(lk_counts(&lk).fenced, 0);
    lk_stop(&lk);
}

/* Numbers out of all bounds are refused one by one; shapes that cannot be end it. */
static void requests__are_refused_field_by_field(void **state)
{
    struct kvn_answer answer;
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    kvr_seq_t seq = ek_open(engine);
    uint64_t id = engine->seqs[0].id;
    const struct {
        struct kvn_request_head head;
        struct kvn_request_seq about;
        kv_status_t status;
        const char *field;
    } cases[] = {
        {{.op = KVN_OP_SEQ_APPEND, .timeout_us = 1000000},
         {.tokens = UINT32_MAX},
         KV_ERR_TOO_LARGE,
         "request.tokens"},
        {{.op = KVN_OP_SEQ_APPEND}, {.tokens = 1}, KV_ERR_INVALID, "request.timeout"},
        {{.op = KVN_OP_SEQ_FETCH, .nr_keys = 1},
         {0},
         KV_ERR_INVALID,
         "request.timeout"},
        {{.op = KVN_OP_SEQ_FETCH,
          .nr_keys = 1,
          .first_page = UINT32_MAX,
          .timeout_us = 1000000},
         {0},
         KV_ERR_TOO_LARGE,
         "request.pages"},
        {{.op = KVN_OP_SEQ_SEAL, .nr_keys = 1},
         {.page = UINT32_MAX},
         KV_ERR_INVALID,
         ""},
        {{.op = KVN_OP_SEQ_CONFIRM}, {.version = UINT64_MAX}, KV_ERR_INVALID, ""},
        {{.op = KVN_OP_SEQ_TRUNCATE}, {.tokens = UINT32_MAX}, KV_ERR_INVALID, ""},
        {{.op = KVN_OP_SEQ_TRUNCATE, .variant = 1},
         {0},
         KV_ERR_INVALID,
         "request.variant"},
        {{.op = KVN_OP_SEQ_OPEN, .variant = UINT16_MAX},
         {0},
         KV_ERR_INVALID,
         "request.variant"},
        {{.op = KVN_OP_SEQ_OPEN, .timeout_us = UINT64_MAX},
         {0},
         KV_ERR_INVALID,
         "request.timeout"},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct kvn_request_seq about = cases[i].about;
        about.seq = id;
        assert_true(raw_ask(engine, cases[i].head, &about, &answer));
        assert_int_equal(answer.head.status, cases[i].status);
        assert_string_equal(answer.head.field, cases[i].field);
    }
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    assert_int_equal(lk_counts(&lk).malformed, 0);
    const struct {
        struct kvn_request_head head;
        const char *field;
    } ends[] = {
        {{.op = KVN_OP_SEQ_CHANGED}, "request.op"},
        {{.op = KVN_OP_SEQ_END, .nr_keys = 1}, "request.keys"},
        {{.op = KVN_OP_SEQ_SEAL, .nr_keys = 2}, "request.keys"},
        {{.op = KVN_OP_SEQ_FETCH, .nr_keys = 0}, "request.keys"},
        {{.op = KVN_OP_SEQ_OPEN, .flags = KVN_REQUEST_TOKENS}, "request.flags"},
    };
    for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        const struct kvn_request_seq about = {0};
        char line[KVN_LOCAL_NOTE_MAX];
        kvr_client_t *bad = lk_engine_at(lk.path, 0);
        assert_false(raw_ask(bad, ends[i].head, &about, &answer));
        kvr_close(bad);
        assert_int_equal(lk_counts(&lk).malformed, i + 1);
        lk_note(&lk, line);
        assert_non_null(strstr(line, ends[i].field));
    }
    /* At the object level there are no sequences. */
    kvr_client_t *plain = lk_client(&lk);
    const struct kvn_request_seq about = {0};
    const struct kvn_request_head open = {.op = KVN_OP_SEQ_OPEN};
    assert_false(raw_ask(plain, open, &about, &answer));
    kvr_close(plain);
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

static void ring__any_content_of_a_right_shape_is_survived(void **state)
{
    char said;
    int how;
    (void)state;
    lk_init_fill(&lk);
    lk_start(&lk);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    kvr_seq_t seq = ek_open(engine);
    ek_grow(engine, seq, 0, 1000);
    for (unsigned i = 0; i < FUZZ_CLIENTS; i += 2) {
        pid_t pid = spawn("--fuzz", lk.path, &said);
        pid_t other = spawn("--fuzz", lk.path, &said);
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_int_equal(how, 0);
        assert_int_equal(waitpid(other, &how, 0), other);
        assert_int_equal(how, 0);
    }
    lk_await(&lk, 1, 0);
    assert_true(ek_holds(engine, seq, 0, 1000));
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    expect_all_back();
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* Two tenants that fill: each is given its own memory, and no other is there to be
 * mapped or named. */
static void arenas__of_another_tenant_are_not_to_be_had(void **state)
{
    const struct kvr_arena *mine, *theirs;
    kvr_client_t *other;
    char target[128];
    (void)state;
    lk_init_fill(&lk);
    lk.config.pager.pools[2].domain = lk.config.pager.tenants[1].domain = 2;
    lk.modes[2] = KVN_MEMORY_FILL;
    lk_start(&lk);
    snprintf(target, sizeof(target), "unix:%s", lk.path);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .tenant = LK_FOREIGN,
        .level = KVR_LEVEL_PAGER,
    };
    assert_int_equal(kvr_open(&config, &other, NULL, 0), KVR_OK);
    kvr_client_t *engine = lk_engine_at(lk.path, 0);
    assert_int_equal(kvr_arenas(engine, &mine), 1);
    assert_int_equal(kvr_arenas(other, &theirs), 1);
    assert_int_equal(mine[0].nr_blocks, LK_FILL_FRAMES);
    assert_int_equal(theirs[0].nr_blocks, LK_DEVICE_FRAMES);
    kvr_seq_t seq = ek_open(engine), apart = ek_open(other);
    ek_grow(engine, seq, 0, 1);
    ek_grow(other, apart, 0, 1); /* one name, two tenants: no dedup */
    memset(theirs[0].base, 0xff, theirs[0].bytes);
    assert_true(ek_holds(engine, seq, 0, 1));
    kvr_seq_t reader = ek_open(engine);
    ek_await_frames(&lk, KVP_SEALED, 2);
    assert_int_equal(ek_fetch(engine, reader, 0, 1, 1), 1);
    assert_true(ek_holds(engine, reader, 0, 1));
    assert_int_equal(ek_end(engine, reader), KVR_OK);
    assert_int_equal(ek_end(engine, seq), KVR_OK);
    assert_int_equal(ek_end(other, apart), KVR_OK);
    kvr_close(other);
    kvr_close(engine);
    lk_await(&lk, 0, 0);
    lk_stop(&lk);
}

/* From another pid namespace the node would not see it die: the object level, and no
 * more. */
static void attach__refuses_a_process_whose_death_is_not_seen(void **state)
{
    char dir[] = "/tmp/kvrail-apart-XXXXXX", path[64], target[128], error[256], said;
    kvr_client_t *client;
    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/node.sock", dir);
    pid_t pid = spawn("--node-apart", path, &said);
    if (said == '.') {
        snprintf(target, sizeof(target), "unix:%s", path);
        struct kvr_config config = {
            .struct_size = sizeof(config),
            .target = target,
            .tenant = LK_TENANT,
            .level = KVR_LEVEL_PAGER,
        };
        assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_INVALID);
        assert_non_null(strstr(error, "run both in one pid namespace"));
        config.level = KVR_LEVEL_OBJECT;
        assert_int_equal(kvr_open(&config, &client, error, sizeof(error)), KVR_OK);
        kvr_close(client);
    }
    kill_now(pid);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    if (said != '.') {
        print_message("no namespaces for this user: not tried\n");
        skip();
    }
}

int main(int argc, char **argv)
{
    const struct {
        const char *role;
        int (*run)(const char *path);
    } victims[] = {
        {"--fill", fill},
        {"--hang", hang},
        {"--fuzz", fuzz},
        {"--node-apart", node_apart},
    };
    for (unsigned i = 0; argc == 3 && i < sizeof(victims) / sizeof(victims[0]); i++) {
        if (strcmp(argv[1], victims[i].role) == 0) {
            return victims[i].run(argv[2]);
        }
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(client__killed_in_its_fills_gives_everything_back),
        cmocka_unit_test(client__hung_up_keeps_its_frames_until_it_is_dead),
        cmocka_unit_test(sequences__are_their_clients_alone),
        cmocka_unit_test(requests__are_refused_field_by_field),
        cmocka_unit_test(ring__any_content_of_a_right_shape_is_survived),
        cmocka_unit_test(arenas__of_another_tenant_are_not_to_be_had),
        cmocka_unit_test(attach__refuses_a_process_whose_death_is_not_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
