/* kvrail doctor: does this machine carry this configuration, and what is to be done if
 * not? Everything that a start would refuse, and what it would only be slow or fragile
 * with, is looked at without starting anything; a node that runs is asked.
 *
 *   doctor.c           the verb: rows, table, JSON, exit code
 *   doctor_machine.c   kernel, memory, limits, huge pages, clock, devices
 *   doctor_config.c    the configuration: credentials, socket, ports, log
 *   doctor_members.c   names and ports of all members, at once, within a deadline
 *
 * The checks use what a start uses: kvn_config_load, kvn_tls_load, kvn_room_read.
 *
 * Threading: the main thread; members are tried by threads of doctor_members.c.
 * Bounds: KVN_DOCTOR_ROWS_MAX rows, past that they are counted. Ownership: texts are
 * copied; config and socket stay the caller's. Units: microseconds, bytes. Errors: what
 * a check cannot find out is a row, not a status.
 */
#ifndef KVN_DOCTOR_H
#define KVN_DOCTOR_H

#include "node/config.h"

enum kvn_doctor_level {
    KVN_DOCTOR_OK,
    KVN_DOCTOR_NOTE, /* nothing to be done, but good to know */
    KVN_DOCTOR_WARN, /* works, but not as well or as long as it should */
    KVN_DOCTOR_FAIL, /* a start would refuse, or the cluster would not work */
    KVN_DOCTOR_NR_LEVELS
};

enum {
    KVN_DOCTOR_ROWS_MAX = 128,
    KVN_DOCTOR_TEXT_BYTES = 320,
    KVN_DOCTOR_EXPIRY_DAYS = 30,   /* a certificate that ends sooner is a warning */
    KVN_DOCTOR_MEMBERS_SHOWN = 32, /* that answer; all that do not are shown */
    KVN_DOCTOR_THREADS = 16,
    KVN_EXIT_WARNED = 3,
};

struct kvn_doctor_row {
    enum kvn_doctor_level level;
    const char *area;
    char what[KVN_DOCTOR_TEXT_BYTES];
    char todo[KVN_DOCTOR_TEXT_BYTES]; /* "": nothing */
};

struct kvn_doctor {
    const char *root;                /* of /proc and /sys: "", or a test's folder */
    const struct kvn_config *config; /* NULL: none was given, or it does not load */
    const char *socket;              /* to ask a node by; NULL or "": none */
    uint64_t timeout_us;             /* of the members, and of the node's answer */
    uint32_t self;                   /* index of the node that this is to be */
    bool running;                    /* a node answers at the socket */
    enum kvn_doctor_level worst;
    unsigned nr, nr_lost; /* rows; those past the bound */
    struct kvn_doctor_row rows[KVN_DOCTOR_ROWS_MAX];
};

/* `todo`: what to do, or NULL. `what` by format. */
void kvn_doctor_say(
    struct kvn_doctor *doctor, enum kvn_doctor_level level, const char *area,
    const char *todo, const char *what, ...) __attribute__((format(printf, 5, 6)));

void kvn_doctor_machine(struct kvn_doctor *doctor);
/* Sets self; KVC_NO_NODE when it is not said. */
void kvn_doctor_config(struct kvn_doctor *doctor);
/* Sets running. */
void kvn_doctor_node(struct kvn_doctor *doctor);
void kvn_doctor_members(struct kvn_doctor *doctor);

#endif
