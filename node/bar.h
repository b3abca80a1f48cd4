/* A progress bar on stderr, for terminals: [####....]  40.0 %.
 *
 * Threading: the main thread.
 */
#ifndef KVN_BAR_H
#define KVN_BAR_H

#include <stdint.h>

typedef void (*kvn_bar_fn)(void *arg, uint32_t done, uint32_t of);

/* `arg`: a uint32_t that starts as UINT32_MAX and remembers what is drawn. The last
 * call (done == of) takes the bar away. */
void kvn_bar_draw(void *arg, uint32_t done, uint32_t of);
/* kvn_bar_draw when stderr is a terminal, else NULL. */
kvn_bar_fn kvn_bar_wanted(void);

#endif
