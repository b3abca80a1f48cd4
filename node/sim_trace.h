/* kvrail sim --trace FILE, kvrail sim --workload chats: a request trace through a
 * simulated cluster, with real bytes, beside what one pooled cache would have hit.
 *
 *   kvn_verb_sim ──► kvn_sim_trace ──► kvs_replay_run ──► table, JSON
 *
 * Threading: the main thread. Errors: enum kvn_exit; FAILED when a byte was wrong.
 */
#ifndef KVN_SIM_TRACE_H
#define KVN_SIM_TRACE_H

#include <stdbool.h>

/* Is this `kvrail sim` command line one of a replay? */
bool kvn_sim_is_trace(int argc, char **argv);
int kvn_sim_trace(int argc, char **argv);

#endif
