/* Logs: one line an event, for people (text) or machines (JSON lines).
 *
 *   kv_log(KV_LOG_WARN, "link", "peer %u lost: %s", …) ──► ring, bounded ──► writer
 *                                                                        thread ──► fd
 *
 * The ring never makes its caller wait: when it is full lines are dropped and counted,
 * and the writer says how many once there is room; a full disk or a stuck pipe costs
 * lines, never the loop. Log where a cause is decided, once, lower case, "peer 3", no
 * "peer=3"; never a secret, a key's tokens or a client's bytes.
 *
 *   text   2026-11-21T03:48:21.000123Z warn  link: peer 3 lost: no sign of life for 3 s
 *   json   {"time":"…","level":"warn","module":"link","text":"peer 3 lost: …"}
 *
 * Threading: kv_log() from any thread; start and stop by the main thread. Before start
 * and after stop lines go straight to stderr. Errors: start gives KV_ERR_CONFIG or IO.
 */
#ifndef KV_LOG_H
#define KV_LOG_H

#include "base/status.h"

enum kv_log_level { KV_LOG_ERROR, KV_LOG_WARN, KV_LOG_INFO, KV_LOG_DEBUG };
enum kv_log_format { KV_LOG_TEXT, KV_LOG_JSON };
enum {
    KV_LOG_LINE_MAX = 512, /* longer lines are cut, and say so with … */
    KV_LOG_RING_LINES = 1024,
    KV_LOG_RATE_MAX = 200, /* lines a second of one call site; more are counted */
};

struct kv_log_config {
    enum kv_log_level level;
    enum kv_log_format format;
    const char *path; /* appended to, created 0640; NULL or "": stderr */
};

kv_status_t kv_log_start(const struct kv_log_config *config, struct kv_detail *detail);
/* Writes what the ring holds (at most for one second) and ends the writer. */
void kv_log_stop(void);
/* Opens the file again: after a rotation. */
void kv_log_reopen(void);

struct kv_log_counts {
    uint64_t written;
    uint64_t dropped; /* ring full, rate, or the write failed */
};
struct kv_log_counts kv_log_counts(void);

/* One of these a call site. */
struct kv_log_site {
    uint64_t window; /* second that `count` belongs to */
    uint32_t count, muted;
};

void kv_log_line(
    struct kv_log_site *site, enum kv_log_level level, const char *module,
    const char *format, ...) __attribute__((format(printf, 4, 5)));
bool kv_log_wants(enum kv_log_level level);

#define kv_log(level, module, ...)                                                     \
    do {                                                                               \
        if (kv_log_wants(level)) {                                                     \
            static struct kv_log_site kv_log_site_;                                    \
            kv_log_line(&kv_log_site_, level, module, __VA_ARGS__);                    \
        }                                                                              \
    } while (0)

#endif
