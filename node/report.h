/* What the verbs that print have in common: a progress bar, JSON, the time that passed.
 *
 *   verb ──► kvn_bar_wanted() ──► stderr    kvn_report_json(root) ──► stdout, FILE
 *
 *   numbers ──► kvn_text_*() ──► what people read
 *
 * Threading: the main thread. Ownership: kvn_report_json() takes the root over. Errors:
 * enum kvn_exit, and one line on stderr. Units: seconds of the monotonic clock.
 */
#ifndef KVN_REPORT_H
#define KVN_REPORT_H

#include <jansson.h>
#include <stdint.h>

typedef void (*kvn_bar_fn)(void *arg, uint32_t done, uint32_t of);

/* [####....]  40.0 %, on stderr. `arg`: a uint32_t that starts as UINT32_MAX and
 * remembers what is drawn. The last call (done == of) takes the bar away. */
void kvn_bar_draw(void *arg, uint32_t done, uint32_t of);
/* kvn_bar_draw when stderr is a terminal, else NULL. */
kvn_bar_fn kvn_bar_wanted(void);

/* To the file, or to stdout when `path` is NULL. FAILED when it could not be
 * written. */
int kvn_report_json(json_t *root, const char *path);
json_t *kvn_json_uint(uint64_t value);

double kvn_report_seconds(void);

/* For tables; `out` is returned, and holds KVN_TEXT_BYTES. */
enum { KVN_TEXT_BYTES = 24, KVN_TEXT_BAR_CELLS = 20 };
/* "12.5 GiB", "512 B" */
const char *kvn_text_bytes(uint64_t bytes, char out[KVN_TEXT_BYTES]);
/* "250 us", "1.5 s", "3 h 12 min" */
const char *kvn_text_time(uint64_t us, char out[KVN_TEXT_BYTES]);
/* "######.............." */
const char *kvn_text_bar(uint64_t used, uint64_t of, char out[KVN_TEXT_BYTES]);

#endif
