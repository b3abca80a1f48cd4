#include "base/log.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Who may touch what:
 *   log.lock     ring, counts, flags, every kv_log_site; held for a copy of one line,
 *                never over I/O, so that a caller waits for callers at most
 *   the writer   fd, torn and lost, alone from start to stop
 *   main thread  path and thread; start and stop come in turn
 */
enum {
    MODULE_MAX = 15,
    SUFFIX_MAX = 48, /* " (18446744073709551615 like it dropped)" */
    /* A byte of a line is at most six in JSON; the rest is time, level and names.
     * Below PIPE_BUF, so that a pipe takes a line whole or not at all. */
    RENDER_MAX = 6 * KV_LOG_LINE_MAX + 6 * MODULE_MAX + 128,
    STALL_MS = 100, /* between looks at a pipe that takes nothing */
};
_Static_assert(RENDER_MAX <= PIPE_BUF, "a line is one write");

#define STOP_NS UINT64_C(1000000000)

struct line {
    struct timespec at;
    enum kv_log_level level;
    char module[MODULE_MAX + 1];
    uint16_t len;
    char text[KV_LOG_LINE_MAX];
};

static struct log {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct line ring[KV_LOG_RING_LINES];
    uint64_t head, tail; /* taken, put: head <= tail <= head + KV_LOG_RING_LINES */
    struct kv_log_counts counts;
    uint64_t untold; /* of counts.dropped, not yet said in the log; not those of rate */
    bool running, stopping, reopening;
    uint64_t stop_ns; /* monotonic: what is not written by then is dropped */

    pthread_t thread;
    enum kv_log_format format;
    char path[PATH_MAX]; /* "": stderr */
    int fd;
    bool own_fd;
    bool torn; /* the last write left a line without its end */
    bool lost; /* the last write to the file failed: stderr was told */
} log_ = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .work = PTHREAD_COND_INITIALIZER,
    .fd = STDERR_FILENO,
};

static atomic_int log_level = KV_LOG_INFO;

static const char *const level_names[] = {
    [KV_LOG_ERROR] = "error",
    [KV_LOG_WARN] = "warn",
    [KV_LOG_INFO] = "info",
    [KV_LOG_DEBUG] = "debug",
};

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- from a line to bytes ------------------------------------------------------- */

/* Bytes of the UTF-8 character at text, 1 to 4; 0 when there is none: malformed, cut,
 * overlong, a surrogate, past U+10FFFF (RFC 3629, section 4). */
static size_t utf8_len(const unsigned char *text, size_t len)
{
    const unsigned char c = text[0];
    unsigned char low = 0x80, high = 0xbf; /* of the second byte */
    size_t need;
    if (c < 0x80) {
        return 1;
    } else if (c >= 0xc2 && c <= 0xdf) {
        need = 2;
    } else if (c >= 0xe0 && c <= 0xef) {
        need = 3;
        low = c == 0xe0 ? 0xa0 : low;
        high = c == 0xed ? 0x9f : high;
    } else if (c >= 0xf0 && c <= 0xf4) {
        need = 4;
        low = c == 0xf0 ? 0x90 : low;
        high = c == 0xf4 ? 0x8f : high;
    } else {
        return 0;
    }
    if (len < need || text[1] < low || text[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < need; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return need;
}

struct out {
    char bytes[RENDER_MAX];
    size_t len;
};

static void put(struct out *out, const char *bytes, size_t len)
{
    KV_ASSERT(len <= sizeof(out->bytes) - out->len);
    memcpy(out->bytes + out->len, bytes, len);
    out->len += len;
}

static void put_text(struct out *out, const char *text)
{
    put(out, text, strlen(text));
}

/* What a log must not hold as it is: bytes that end lines, move cursors or close
 * strings. The reader of either format can tell an escape from the text. */
static void put_escaped(struct out *out, const char *text, size_t len, bool json)
{
    for (size_t i = 0; i < len;) {
        const unsigned char c = (unsigned char)text[i];
        const size_t n = utf8_len((const unsigned char *)text + i, len - i);
        char escape[8];
        if (n == 0) {
            snprintf(escape, sizeof(escape), json ? "\\ufffd" : "\\x%02x", c);
            put_text(out, escape);
        } else if (c < 0x20 || c == 0x7f) {
            snprintf(escape, sizeof(escape), json ? "\\u%04x" : "\\x%02x", c);
            put_text(out, escape);
        } else {
            if (c == '\\' || (json && c == '"')) {
                put(out, "\\", 1);
            }
            put(out, text + i, n);
        }
        i += n == 0 ? 1 : n;
    }
}

static void render(struct out *out, const struct line *line, enum kv_log_format format)
{
    char at[40];
    struct tm tm;
    gmtime_r(&line->at.tv_sec, &tm);
    const size_t len = strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(at + len, sizeof(at) - len, ".%06ldZ", line->at.tv_nsec / 1000);

    const bool json = format == KV_LOG_JSON;
    char level[8];
    snprintf(level, sizeof(level), json ? "%s" : "%-5s", level_names[line->level]);

    out->len = 0;
    put_text(out, json ? "{\"time\":\"" : "");
    put_text(out, at);
    put_text(out, json ? "\",\"level\":\"" : " ");
    put_text(out, level);
    put_text(out, json ? "\",\"module\":\"" : " ");
    put_escaped(out, line->module, strlen(line->module), json);
    put_text(out, json ? "\",\"text\":\"" : ": ");
    put_escaped(out, line->text, line->len, json);
    put_text(out, json ? "\"}\n" : "\n");
}

/* Formats into line->text; cut where a character begins, and ends with "…" then. */
static void
line_format(struct line *line, const char *suffix, const char *format, va_list args)
{
    static const char more[] = "\xe2\x80\xa6";
    char text[KV_LOG_LINE_MAX + 1];
    const size_t room = KV_LOG_LINE_MAX - strlen(suffix);
    const int ret = vsnprintf(text, sizeof(text), format, args);
    size_t len = ret < 0 ? 0 : (size_t)ret;
    if (len > room) {
        len = room - strlen(more);
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80) {
            len--;
        }
        memcpy(text + len, more, strlen(more));
        len += strlen(more);
    }
    memcpy(line->text, text, len);
    memcpy(line->text + len, suffix, strlen(suffix));
    line->len = (uint16_t)(len + strlen(suffix));
}

static void line_init(struct line *line, enum kv_log_level level, const char *module)
{
    clock_gettime(CLOCK_REALTIME, &line->at);
    line->level = level;
    snprintf(line->module, sizeof(line->module), "%s", module);
}

/* ---- the writer ----------------------------------------------------------------- */

/* Never waits: a description of our own is non-blocking, a socket is asked so. */
static ssize_t write_some(const char *bytes, size_t len)
{
    ssize_t ret = send(log_.fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (ret < 0 && errno == ENOTSOCK) {
        ret = write(log_.fd, bytes, len);
    }
    return ret;
}

/* False when it is time to give up this line: the log ends, or moves to a new file. */
static bool may_wait(void)
{
    pthread_mutex_lock(&log_.lock);
    const bool may =
        !log_.reopening && !(log_.stopping && monotonic_ns() >= log_.stop_ns);
    pthread_mutex_unlock(&log_.lock);
    return may;
}

/* Where the lines are not, for who looks at the other place: once until the file takes
 * lines again. Only if stderr takes it at once: the writer must not be stuck there. */
static void tell_stderr(int error)
{
    struct pollfd pollfd = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (log_.path[0] == '\0' || log_.lost) {
        return;
    }
    log_.lost = true;
    if (poll(&pollfd, 1, 0) == 1 && (pollfd.revents & POLLOUT) != 0) {
        dprintf(
            STDERR_FILENO,
            "log: %.400s: %s: lines are lost until it takes them again\n", log_.path,
            strerror(error));
    }
}

static bool write_all(const char *bytes, size_t len)
{
    const size_t whole = len;
    while (len > 0) {
        const ssize_t ret = write_some(bytes, len);
        if (ret > 0) {
            bytes += ret;
            len -= (size_t)ret;
        } else if (ret < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd pollfd = {.fd = log_.fd, .events = POLLOUT};
            if (!may_wait()) {
                break;
            }
            (void)poll(&pollfd, 1, STALL_MS);
        } else if (ret == 0 || errno != EINTR) {
            tell_stderr(ret == 0 ? ENOSPC : errno);
            break;
        }
    }
    log_.lost = log_.lost && len > 0;
    if (len > 0 && len < whole) {
        log_.torn = true;
    }
    return len == 0;
}

/* On a line of its own, also after half a line that met a full disk. */
static bool write_line(const struct line *line)
{
    struct out out;
    render(&out, line, log_.format);
    if (log_.torn && write_all("\n", 1)) {
        log_.torn = false;
    }
    return !log_.torn && write_all(out.bytes, out.len);
}

static bool write_now(enum kv_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static bool write_now(enum kv_log_level level, const char *format, ...)
{
    struct line line;
    va_list args;
    va_start(args, format);
    line_init(&line, level, "log");
    line_format(&line, "", format, args);
    va_end(args);
    return write_line(&line);
}

/* -1 and errno. Non-blocking means nothing to a file and all to a pipe. */
static int open_path(const char *path)
{
    if (KV_FAULT()) {
        errno = EMFILE;
        return -1;
    }
    return open(
        path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
}

/* stderr may be shared with processes that would not expect it to be non-blocking, so
 * a pipe or terminal is opened a second time. What cannot be, is used as it is. */
static void open_stderr(void)
{
    struct stat info;
    log_.fd = STDERR_FILENO;
    log_.own_fd = false;
    if (fstat(STDERR_FILENO, &info) == 0
        && (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) {
        const int fd = open(
            "/proc/self/fd/2", O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd >= 0) {
            log_.fd = fd;
            log_.own_fd = true;
        }
    }
}

static void reopen(void)
{
    if (log_.path[0] == '\0') {
        return;
    }
    const int fd = open_path(log_.path);
    if (fd < 0) {
        (void)write_now(
            KV_LOG_WARN, "%.400s: not opened again, the former file goes on: %s",
            log_.path, strerror(errno));
        return;
    }
    close(log_.fd);
    log_.fd = fd;
    log_.torn = false;
}

enum task { TASK_LINE, TASK_REOPEN, TASK_END };

/* Waits for something to do. */
static enum task next_task(struct line *line)
{
    enum task task = TASK_END;
    pthread_mutex_lock(&log_.lock);
    while (log_.head == log_.tail && !log_.stopping && !log_.reopening) {
        pthread_cond_wait(&log_.work, &log_.lock);
    }
    if (log_.stopping && monotonic_ns() >= log_.stop_ns) {
        log_.counts.dropped += log_.tail - log_.head;
        log_.head = log_.tail;
    } else if (log_.reopening) {
        log_.reopening = false;
        task = TASK_REOPEN;
    } else if (log_.head < log_.tail) {
        *line = log_.ring[log_.head++ % KV_LOG_RING_LINES];
        task = TASK_LINE;
    }
    pthread_mutex_unlock(&log_.lock);
    return task;
}

/* Counts a line; the answer is how many losses are to be told now. They are told after
 * a write that worked, so that a full disk is not asked again and again, and when the
 * ring has room, so that telling costs no more lines. */
static uint64_t account(bool written)
{
    uint64_t untold = 0;
    pthread_mutex_lock(&log_.lock);
    log_.counts.written += written;
    log_.counts.dropped += !written;
    log_.untold += !written;
    if (written && log_.tail - log_.head < KV_LOG_RING_LINES / 2) {
        untold = log_.untold;
        log_.untold = 0;
    }
    pthread_mutex_unlock(&log_.lock);
    return untold;
}

static void tell(uint64_t untold)
{
    if (!write_now(
            KV_LOG_WARN,
            "%" PRIu64 " lines dropped: the ring was full or a write failed", untold)) {
        pthread_mutex_lock(&log_.lock);
        log_.untold += untold;
        pthread_mutex_unlock(&log_.lock);
    }
}

static void *writer(void *arg)
{
    struct line line;
    enum task task;
    (void)arg;
    while ((task = next_task(&line)) != TASK_END) {
        if (task == TASK_REOPEN) {
            reopen();
            continue;
        }
        const uint64_t untold = account(write_line(&line));
        if (untold > 0) {
            tell(untold);
        }
    }
    return NULL;
}

/* ---- for everybody -------------------------------------------------------------- */

bool kv_log_wants(enum kv_log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* Under log.lock. False: this site has had its share of the second. *muted_p: what it
 * lost before, to be said now. */
static bool site_admits(struct kv_log_site *site, uint64_t *muted_p)
{
    const uint64_t second = monotonic_ns() / UINT64_C(1000000000);
    *muted_p = 0;
    if (site->window != second) {
        site->window = second;
        site->count = 0;
        *muted_p = site->muted;
        site->muted = 0;
    }
    if (site->count == KV_LOG_RATE_MAX) {
        site->muted += site->muted < UINT32_MAX;
        log_.counts.dropped++;
        return false;
    }
    site->count++;
    return true;
}

/* Without a writer: one write, so that lines of several threads do not mix. */
static void write_stderr(const struct line *line)
{
    struct out out;
    render(&out, line, KV_LOG_TEXT);
    const bool written = write(STDERR_FILENO, out.bytes, out.len) == (ssize_t)out.len;
    pthread_mutex_lock(&log_.lock);
    log_.counts.written += written;
    log_.counts.dropped += !written;
    pthread_mutex_unlock(&log_.lock);
}

static void push(const struct line *line)
{
    pthread_mutex_lock(&log_.lock);
    const bool running = log_.running && !log_.stopping;
    if (running && log_.tail - log_.head == KV_LOG_RING_LINES) {
        log_.counts.dropped++;
        log_.untold++;
    } else if (running) {
        log_.ring[log_.tail++ % KV_LOG_RING_LINES] = *line;
        pthread_cond_signal(&log_.work);
    }
    pthread_mutex_unlock(&log_.lock);
    if (!running) {
        write_stderr(line);
    }
}

void kv_log_line(
    struct kv_log_site *site, enum kv_log_level level, const char *module,
    const char *format, ...)
{
    struct line line;
    char suffix[SUFFIX_MAX] = "";
    uint64_t muted;
    va_list args;

    pthread_mutex_lock(&log_.lock);
    const bool admitted = site_admits(site, &muted);
    pthread_mutex_unlock(&log_.lock);
    if (!admitted) {
        return;
    }
    if (muted > 0) {
        snprintf(suffix, sizeof(suffix), " (%" PRIu64 " like it dropped)", muted);
    }
    line_init(&line, level, module);
    va_start(args, format);
    line_format(&line, suffix, format, args);
    va_end(args);
    push(&line);
}

struct kv_log_counts kv_log_counts(void)
{
    pthread_mutex_lock(&log_.lock);
    const struct kv_log_counts counts = log_.counts;
    pthread_mutex_unlock(&log_.lock);
    return counts;
}

/* Which of the two it is: what an operator mends in the config, or in the machine. */
static kv_status_t open_status(int error)
{
    switch (error) {
    case EACCES:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOENT:
    case ENOTDIR:
    case ENXIO: /* a pipe that nobody reads */
    case EPERM:
    case EROFS:
        return KV_ERR_CONFIG;
    default:
        return KV_ERR_IO;
    }
}

static kv_status_t open_target(const char *path, struct kv_detail *detail)
{
    const size_t len = path == NULL ? 0 : strlen(path);
    if (len >= sizeof(log_.path)) {
        return kv_fail(
            detail, KV_ERR_CONFIG, "length of log.path", sizeof(log_.path) - 1, len);
    }
    memcpy(log_.path, len == 0 ? "" : path, len + 1);
    log_.torn = false;
    log_.lost = false;
    if (len == 0) {
        open_stderr();
        return KV_OK;
    }
    log_.fd = open_path(log_.path);
    log_.own_fd = true;
    if (log_.fd < 0) {
        const int error = errno;
        return kv_fail(
            detail, open_status(error), "errno of log.path", 0, (uint64_t)error);
    }
    return KV_OK;
}

static void close_target(void)
{
    if (log_.own_fd) {
        close(log_.fd);
    }
    log_.fd = STDERR_FILENO;
    log_.own_fd = false;
}

kv_status_t kv_log_start(const struct kv_log_config *config, struct kv_detail *detail)
{
    KV_ASSERT(!log_.running);
    KV_ASSERT(log_.head == log_.tail);
    kv_status_t status = open_target(config->path, detail);
    if (status != KV_OK) {
        return status;
    }
    log_.format = config->format;
    pthread_mutex_lock(&log_.lock);
    log_.stopping = false;
    log_.reopening = false;
    pthread_mutex_unlock(&log_.lock);
    /* Signals are blocked there, so SIGPIPE is a write that failed. */
    const int ret = kv_thread_start(&log_.thread, NULL, writer, NULL);
    if (ret != 0) {
        close_target();
        return kv_fail(
            detail, KV_ERR_IO, "errno of the log's thread", 0, (uint64_t)ret);
    }
    atomic_store_explicit(&log_level, (int)config->level, memory_order_relaxed);
    pthread_mutex_lock(&log_.lock);
    log_.running = true;
    pthread_mutex_unlock(&log_.lock);
    return KV_OK;
}

void kv_log_stop(void)
{
    KV_ASSERT(log_.running);
    pthread_mutex_lock(&log_.lock);
    log_.stopping = true;
    log_.stop_ns = monotonic_ns() + STOP_NS;
    pthread_cond_signal(&log_.work);
    pthread_mutex_unlock(&log_.lock);
    pthread_join(log_.thread, NULL);

    pthread_mutex_lock(&log_.lock);
    log_.running = false;
    KV_ASSERT(log_.head == log_.tail);
    pthread_mutex_unlock(&log_.lock);
    close_target();
}

void kv_log_reopen(void)
{
    pthread_mutex_lock(&log_.lock);
    if (log_.running) {
        log_.reopening = true;
        pthread_cond_signal(&log_.work);
    }
    pthread_mutex_unlock(&log_.lock);
}
