/* `kvrail bench node`.
 *
 * Threading: the main thread; SIGINT, SIGTERM and SIGHUP end it in order, with 128 and
 * the signal as its status. Ownership: argv stays the caller's; nothing is left behind.
 * Errors: enum kvn_exit.
 */
#ifndef KVN_BENCH_CMD_H
#define KVN_BENCH_CMD_H

int kvn_bench_node_cmd(int argc, char **argv);

#endif
