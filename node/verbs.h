/* The verbs of the kvrail program: one row gives the dispatch and a line of --help.
 *
 *   main ── argv[1] ──► kvn_verb_<name>(argc, argv) ──► exit code
 *
 * argv[0] is the verb's own name. A verb prints its result to stdout (tables for
 * people, JSON with --json) and one line to stderr when it fails.
 *
 * Threading: the main thread.
 */
#ifndef KVN_VERBS_H
#define KVN_VERBS_H

enum kvn_exit {
    KVN_EXIT_OK = 0,
    KVN_EXIT_FAILED = 1, /* the input was fine, the work did not succeed */
    KVN_EXIT_USAGE = 2,  /* the input is wrong: options, files, values */
};

/* X(name, what it does); in the order of --help. */
#define KVN_VERBS(X)                                                                   \
    X(bench, "measure the data paths beside what the machine can do")                  \
    X(config, "check or print a configuration file")                                   \
    X(doctor, "check this machine and a configuration, and say what to do")            \
    X(drive, "replay a trace through running nodes, checking every byte")              \
    X(explain, "say where one page is, and why it would hit or miss")                  \
    X(get, "read pages from a node into a file")                                       \
    X(keygen, "make credentials of nodes and secrets of tenants")                      \
    X(peers, "list the other members as a running node sees them")                     \
    X(placement, "replay a trace's directory load over N nodes: max/mean per home")    \
    X(put, "write pages from a file to a node")                                        \
    X(replay, "replay a trace through one node's pager: hit rates by policy")          \
    X(sim, "run a simulated cluster on a virtual clock with seeded faults")            \
    X(spaces, "list what a running node serves, and to whom")                          \
    X(status, "show what a running node is doing")

#define X(name, text) int kvn_verb_##name(int argc, char **argv);
KVN_VERBS(X)
#undef X

#endif
