/* Goal: what is logged is one line that a person or a machine can read, whatever
 * it holds; and whatever happens to the file, the caller goes on at once and the loss
 * is counted. Method: files, pipes and /dev/full in a folder of mkdtemp(). */
#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { FILE_BYTES = 1 << 21 };

static char folder[64];
static char path[128];
static char file[FILE_BYTES];
static struct kv_log_counts before;

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/kvrail-log-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/log", folder);
    before = kv_log_counts();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void start_at(const char *where, enum kv_log_format format)
{
    const struct kv_log_config config = {
        .level = KV_LOG_INFO, .format = format, .path = where};
    assert_int_equal(kv_log_start(&config, NULL), KV_OK);
}

static size_t read_fd(int fd)
{
    size_t len = 0;
    ssize_t ret;
    while ((ret = read(fd, file + len, sizeof(file) - 1 - len)) > 0) {
        len += (size_t)ret;
    }
    file[len] = '\0';
    return len;
}

static void read_path(const char *from)
{
    const int fd = open(from, O_RDONLY);
    assert_true(fd >= 0);
    read_fd(fd);
    close(fd);
}

static unsigned nr_lines(void)
{
    unsigned nr = 0;
    for (const char *at = file; (at = strchr(at, '\n')) != NULL; at++) {
        nr++;
    }
    return nr;
}

static uint64_t written(void)
{
    return kv_log_counts().written - before.written;
}

static uint64_t dropped(void)
{
    return kv_log_counts().dropped - before.dropped;
}

/* Until the writer has dealt with so many lines; the test's timeout is the bound. */
static void wait_for(uint64_t nr)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    while (written() + dropped() < nr) {
        nanosleep(&pause, NULL);
    }
}

/* One site a call: the rate of a shared one would get in the way. */
static void say(const char *text)
{
    struct kv_log_site site = {0};
    kv_log_line(&site, KV_LOG_INFO, "test", "%s", text);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* What follows the time stamp of the only line. */
static const char *only_line(void)
{
    assert_int_equal(nr_lines(), 1);
    assert_int_equal(strlen("2026-11-21T03:48:21.000123Z "), 28);
    assert_true(strlen(file) > 28);
    assert_int_equal(file[10], 'T');
    assert_int_equal(file[19], '.');
    assert_int_equal(file[26], 'Z');
    return file + 28;
}

/* The level is the most talkative one that is written. */
static void log__writes_its_level_and_what_is_worse(void **state)
{
    const struct kv_log_config config = {.level = KV_LOG_WARN, .path = path};
    (void)state;
    assert_int_equal(kv_log_start(&config, NULL), KV_OK);
    assert_true(kv_log_wants(KV_LOG_ERROR));
    assert_true(kv_log_wants(KV_LOG_WARN));
    assert_false(kv_log_wants(KV_LOG_INFO));
    kv_log(KV_LOG_ERROR, "test", "an %s", "error");
    kv_log(KV_LOG_WARN, "test", "a warning");
    kv_log(KV_LOG_INFO, "test", "news");
    kv_log(KV_LOG_DEBUG, "test", "detail");
    kv_log_stop();
    read_path(path);
    assert_int_equal(nr_lines(), 2);
    assert_non_null(strstr(file, "Z error test: an error\n"));
    assert_non_null(strstr(file, "Z warn  test: a warning\n"));
    assert_int_equal(written(), 2);

    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07137, 0); /* nothing that is not in 0640 */
}

/* One event is one line, whatever it holds: else a peer's name could forge lines. */
static void log__text_escapes_what_ends_lines(void **state)
{
    (void)state;
    start_at(path, KV_LOG_TEXT);
    say("a\nb\tc\x1b[1m \xff\xc3\xa9 \\ \"q\"\x7f");
    kv_log_stop();
    read_path(path);
    assert_string_equal(
        only_line(),
        "info  test: a\\x0ab\\x09c\\x1b[1m \\xff\xc3\xa9 \\\\ \"q\"\\x7f\n");
}

/* JSON of any bytes: control bytes and quotes escaped, what is not UTF-8 replaced. */
static void log__json_is_json_of_any_bytes(void **state)
{
    (void)state;
    start_at(path, KV_LOG_JSON);
    say("q\" b\\ n\n e\x1b d\x7f \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 "
        "\x80 \xc0\xaf \xed\xa0\x80 \xf4\x90\x80\x80 \xe2\x82");
    kv_log_stop();
    read_path(path);
    assert_int_equal(nr_lines(), 1);
    assert_memory_equal(file, "{\"time\":\"2", 10);
    assert_non_null(strstr(
        file, "Z\",\"level\":\"info\",\"module\":\"test\",\"text\":\""
              "q\\\" b\\\\ n\\u000a e\\u001b d\\u007f \xc3\xa9 \xe2\x82\xac "
              "\xf0\x9f\x98\x80 \\ufffd \\ufffd\\ufffd \\ufffd\\ufffd\\ufffd "
              "\\ufffd\\ufffd\\ufffd\\ufffd \\ufffd\\ufffd\"}\n"));
}

/* A long line is cut at a character and says so; the longest line of the worst bytes
 * still is one write. */
static void log__long_lines_are_cut_and_say_so(void **state)
{
    char text[2 * KV_LOG_LINE_MAX];
    (void)state;
    start_at(path, KV_LOG_JSON);
    memset(text, 'x', sizeof(text));
    text[KV_LOG_LINE_MAX] = '\0';
    say(text); /* just fits */
    text[KV_LOG_LINE_MAX] = 'x';
    text[KV_LOG_LINE_MAX + 1] = '\0';
    say(text); /* one more */
    memset(text, '\0', sizeof(text));
    for (size_t i = 0; i + 2 < sizeof(text); i += 2) {
        memcpy(text + i, "\xc3\xa9", 2);
    }
    say(text);
    memset(text, '\x01', sizeof(text) - 1);
    say(text);
    kv_log_stop();
    read_path(path);
    assert_int_equal(nr_lines(), 4);
    assert_int_equal(dropped(), 0);
    char *line = strstr(file, "\"text\":\"") + 8;
    assert_int_equal(strspn(line, "x"), KV_LOG_LINE_MAX);
    line = strstr(line, "\"text\":\"") + 8;
    assert_int_equal(strspn(line, "x"), KV_LOG_LINE_MAX - 3);
    assert_memory_equal(line + KV_LOG_LINE_MAX - 3, "\xe2\x80\xa6\"}\n", 6);
    line = strstr(line, "\"text\":\"") + 8;
    /* 509 bytes of room: 254 characters of two bytes and no half one. */
    assert_memory_equal(line + 508, "\xe2\x80\xa6\"}\n", 6);
    line = strstr(line, "\"text\":\"") + 8;
    assert_memory_equal(line + 6 * (KV_LOG_LINE_MAX - 3), "\xe2\x80\xa6\"}\n", 6);
}

/* A reader that does not read costs lines and never the caller; afterwards the log says
 * how many. */
static void log__stuck_pipe_costs_lines_and_is_told(void **state)
{
    const unsigned nr = 4 * KV_LOG_RING_LINES;
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    const int fd = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    start_at(path, KV_LOG_TEXT);
    const uint64_t from = now_ms();
    char text[400];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    for (unsigned i = 0; i < nr; i++) {
        say(text);
    }
    assert_true(now_ms() - from < 5000);
    const uint64_t lost = dropped();
    assert_true(lost >= nr - KV_LOG_RING_LINES - 65536 / sizeof(text));
    assert_true(lost < nr);

    size_t len = 0;
    while (written() < nr - lost) {
        const ssize_t ret = read(fd, file + len, sizeof(file) - 1 - len);
        len += ret > 0 ? (size_t)ret : 0;
    }
    say("last");
    kv_log_stop();
    len += (size_t)read(fd, file + len, sizeof(file) - 1 - len);
    file[len] = '\0';
    char told[64];
    snprintf(told, sizeof(told), "log: %" PRIu64 " lines dropped", lost);
    assert_non_null(strstr(file, told));
    assert_int_equal(dropped(), lost);
    assert_int_equal(nr_lines(), nr - lost + 2);
    close(fd);
}

/* The same when the log ends: a second, and no longer. */
static void log__stop_leaves_a_stuck_pipe(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    const int fd = open(path, O_RDONLY | O_NONBLOCK);
    assert_true(fd >= 0);
    start_at(path, KV_LOG_TEXT);
    for (unsigned i = 0; i < KV_LOG_RING_LINES; i++) {
        say("................................................................");
        say("................................................................");
    }
    const uint64_t from = now_ms();
    kv_log_stop();
    const uint64_t took = now_ms() - from;
    assert_true(took >= 900);
    assert_true(took < 4000);
    assert_int_equal(written() + dropped(), 2 * KV_LOG_RING_LINES);
    assert_true(dropped() > 0);
    close(fd);
}

/* A pipe whose reader went away is a failed write, not the end of the process. */
static void log__closed_pipe_is_survived(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    const int fd = open(path, O_RDONLY | O_NONBLOCK);
    start_at(path, KV_LOG_TEXT);
    close(fd);
    say("to nobody");
    kv_log_stop();
    assert_int_equal(written(), 0);
    assert_int_equal(dropped(), 1);
}

/* Each write to a full disk fails: counted, not retried for ever. */
static void log__full_disk_costs_lines(void **state)
{
    (void)state;
    if (access("/dev/full", W_OK) != 0) {
        skip();
    }
    start_at("/dev/full", KV_LOG_TEXT);
    for (unsigned i = 0; i < 10; i++) {
        say("no room");
    }
    const uint64_t from = now_ms();
    kv_log_stop();
    assert_true(now_ms() - from < 900);
    assert_int_equal(written(), 0);
    assert_int_equal(dropped(), 10);
}

/* What the operator has to mend is CONFIG, with the system's number. */
static void log__path_that_cannot_be_opened_is_refused(void **state)
{
    char name[256];
    struct kv_detail detail = {0};
    struct kv_log_config config = {.path = name};
    (void)state;
    snprintf(name, sizeof(name), "%s/none/log", folder);
    assert_int_equal(kv_log_start(&config, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "errno of log.path");
    assert_int_equal(detail.value, ENOENT);
    config.path = folder;
    assert_int_equal(kv_log_start(&config, &detail), KV_ERR_CONFIG);
    assert_int_equal(detail.value, EISDIR);
    static char endless[8192];
    memset(endless, 'x', sizeof(endless) - 1);
    config.path = endless;
    assert_int_equal(kv_log_start(&config, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "length of log.path");
    assert_int_equal(detail.value, sizeof(endless) - 1);
    if (geteuid() != 0) { /* root may write anywhere */
        assert_int_equal(chmod(folder, 0500), 0);
        config.path = path;
        assert_int_equal(kv_log_start(&config, &detail), KV_ERR_CONFIG);
        assert_int_equal(detail.value, EACCES);
        assert_int_equal(chmod(folder, 0700), 0);
    }
}

/* After a rotation lines go to the new file; where that cannot be made, to the old one,
 * and it says so. */
static void log__reopen_moves_to_the_new_file(void **state)
{
    char old[160];
    (void)state;
    snprintf(old, sizeof(old), "%s.1", path);
    start_at(path, KV_LOG_TEXT);
    say("first");
    wait_for(1);
    assert_int_equal(rename(path, old), 0);
    kv_log_reopen();
    say("second");
    wait_for(2);
    read_path(old);
    assert_non_null(strstr(file, "first"));
    assert_null(strstr(file, "second"));
    read_path(path);
    assert_non_null(strstr(file, "second"));
    assert_int_equal(unlink(old), 0);

    assert_int_equal(rename(path, old), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    kv_log_reopen();
    say("third");
    kv_log_stop();
    read_path(old);
    assert_non_null(strstr(file, "not opened again"));
    assert_non_null(strstr(file, "third"));
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(unlink(old), 0);
}

/* Stop writes what the ring holds; start appends. */
static void log__stop_flushes_and_start_appends(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        start_at(path, KV_LOG_TEXT);
        for (unsigned i = 0; i < KV_LOG_RING_LINES / 2; i++) {
            say("kept");
        }
        kv_log_stop();
    }
    read_path(path);
    assert_int_equal(nr_lines(), KV_LOG_RING_LINES);
    assert_int_equal(written(), KV_LOG_RING_LINES);
    assert_int_equal(dropped(), 0);
}

/* One site that runs wild is cut to its rate; others are not, and the next line of
 * the site tells what was lost. */
static void log__rate_is_of_a_site(void **state)
{
    static struct kv_log_site site;
    const struct timespec second = {.tv_sec = 1, .tv_nsec = 10000000};
    (void)state;
    start_at(path, KV_LOG_TEXT);
    for (unsigned i = 0; i < 5 * KV_LOG_RATE_MAX; i++) {
        kv_log_line(&site, KV_LOG_INFO, "wild", "line %u", i);
    }
    say("calm");
    /* The loop may have met the turn of a second, and so two shares. */
    assert_true(dropped() >= 3 * KV_LOG_RATE_MAX);
    nanosleep(&second, NULL);
    const uint32_t muted = site.muted;
    kv_log_line(&site, KV_LOG_INFO, "wild", "again");
    kv_log_stop();
    assert_int_equal(site.muted, 0);
    assert_int_equal(written() + dropped(), 5 * KV_LOG_RATE_MAX + 2);
    read_path(path);
    char told[64];
    snprintf(told, sizeof(told), "wild: again (%u like it dropped)\n", muted);
    assert_non_null(strstr(file, told));
    assert_non_null(strstr(file, "calm"));
}

/* Without a writer lines go to stderr at once: nothing before start is lost. With one
 * and no path too; a pipe there stays as blocking as it was for its other users. */
static void log__without_a_path_is_stderr(void **state)
{
    int ends[2], pair[2];
    (void)state;
    assert_int_equal(pipe(ends), 0);
    const int saved = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    say("early");
    start_at("", KV_LOG_TEXT);
    say("middle");
    const int flags = fcntl(ends[1], F_GETFL);
    kv_log_stop();
    say("late");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_true(dup2(pair[1], STDERR_FILENO) >= 0);
    start_at(NULL, KV_LOG_TEXT);
    say("to a socket");
    kv_log_stop();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    close(ends[1]);
    close(pair[1]);
    assert_int_equal(flags & O_NONBLOCK, 0);
    read_fd(ends[0]);
    assert_int_equal(nr_lines(), 3);
    assert_non_null(strstr(file, "early\n"));
    assert_non_null(strstr(file, "middle\n"));
    assert_non_null(strstr(file, "late\n"));
    read_fd(pair[0]);
    assert_non_null(strstr(file, "to a socket\n"));
    close(ends[0]);
    close(pair[0]);
}

enum { NR_THREADS = 4, PER_THREAD = 2000 };

static void *talk(void *arg)
{
    for (unsigned i = 0; i < PER_THREAD; i++) {
        kv_log(KV_LOG_INFO, "talk", "thread %s line %u", (const char *)arg, i);
        kv_log(KV_LOG_DEBUG, "talk", "not wanted");
        if (i % 64 == 0) {
            kv_log_reopen();
        }
    }
    return NULL;
}

/* Any thread may log, and ask for a new file: every line is counted once, as written or
 * as dropped. (Of use under the thread sanitizer above all.) */
static void log__threads_log_at_once(void **state)
{
    static char names[NR_THREADS][2] = {"a", "b", "c", "d"};
    pthread_t threads[NR_THREADS];
    (void)state;
    start_at(path, KV_LOG_JSON);
    for (unsigned i = 0; i < NR_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, talk, names[i]), 0);
    }
    for (unsigned i = 0; i < NR_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    kv_log_stop();
    assert_int_equal(written() + dropped(), NR_THREADS * PER_THREAD);
    read_path(path);
    assert_true(nr_lines() >= written());
}

/* Each fallible call of start fails once: a status, and nothing is left open. */
static void log__start_survives_every_fault(void **state)
{
    const struct kv_log_config config = {.level = KV_LOG_INFO, .path = path};
    kv_status_t status = KV_ERR_IO;
    unsigned n = 0;
    (void)state;
    const int spare = dup(0);
    close(spare);
    while (status != KV_OK) {
        kv_fault_after(++n);
        status = kv_log_start(&config, NULL);
        assert_true(status == KV_OK || status == KV_ERR_IO);
        if (status != KV_OK) {
            const int again = dup(0);
            assert_int_equal(again, spare);
            close(again);
        }
    }
    kv_fault_after(0);
    kv_log_stop();
    assert_int_equal(n, 3); /* open and pthread_create failed; the third try passed */
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(log__writes_its_level_and_what_is_worse),
        TEST(log__text_escapes_what_ends_lines),
        TEST(log__json_is_json_of_any_bytes),
        TEST(log__long_lines_are_cut_and_say_so),
        TEST(log__stuck_pipe_costs_lines_and_is_told),
        TEST(log__stop_leaves_a_stuck_pipe),
        TEST(log__closed_pipe_is_survived),
        TEST(log__full_disk_costs_lines),
        TEST(log__path_that_cannot_be_opened_is_refused),
        TEST(log__reopen_moves_to_the_new_file),
        TEST(log__stop_flushes_and_start_appends),
        TEST(log__rate_is_of_a_site),
        TEST(log__without_a_path_is_stderr),
        TEST(log__threads_log_at_once),
        TEST(log__start_survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
