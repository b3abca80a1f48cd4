/* Asks a running node of this machine about itself, by its Unix socket.
 *
 *   kvn_ask(question) ── connect, GREETING, ASK ──► node ── REPORT: memfd ──► JSON
 *
 * Who may ask what is the node's to say (node/daemon/reports.h). A node that is asked
 * too often says AGAIN: asked again, until the time is over. What it answers is copied
 * once, bounded, and only then looked at.
 *
 * Threading: any; waits at most timeout_us. Ownership: the caller frees the report
 * (json_decref). Errors: DENIED, INVALID, AGAIN, TOO_LARGE from the node; LINK_LOST:
 * nobody listens, or it hung up without an answer; DEADLINE; IO; INVALID of what is no
 * report; each with one line.
 */
#ifndef KVN_ASK_H
#define KVN_ASK_H

#include "base/status.h"
#include "node/cli.h"
#include "node/ring.h"

#include <jansson.h>

enum {
    KVN_ASK_LINE_BYTES = 512,
    KVN_ASK_TIMEOUT_US = 5000000,
    KVN_ASK_PAUSE_MS = 40,   /* before AGAIN is asked again */
    KVN_ASK_LIST_MAX = 4096, /* items of a list, in all its parts */
};

struct kvn_ask {
    const char *socket;
    uint64_t timeout_us; /* of all of it; 0: KVN_ASK_TIMEOUT_US */
    uint32_t tenant;     /* with flag KVN_ASK_TENANT */
    struct kvn_packet_ask record;
};

/* `line`: cap >= KVN_ASK_LINE_BYTES. */
kv_status_t
kvn_ask(const struct kvn_ask *ask, json_t **report_p, char *line, size_t cap);
/* The same for a list, however long: asks on from where an answer ended, and puts its
 * parts together under `list` ("peers"). All of it within timeout_us; TOO_LARGE for a
 * list that does not end. */
kv_status_t kvn_ask_list(
    const struct kvn_ask *ask, const char *list, json_t **report_p, char *line,
    size_t cap);

/* ---- which node: options that the asking verbs share ----------------------------- */

/* --socket PATH, else listen.unix of --config FILE (with the environment), else
 * KVRAIL_LISTEN_UNIX. */
struct kvn_ask_where {
    const char *socket, *config;
    char path[128]; /* what they come to */
};
#define KVN_FLAG_SOCKET                                                                \
    {                                                                                  \
        "socket", "PATH", "of the node on this machine"                                \
    }
#define KVN_FLAG_CONFIG                                                                \
    {                                                                                  \
        "config", "FILE", "its configuration: listen.unix is the socket"               \
    }
/* Fills in `path`; or the exit code, and one line on stderr. */
int kvn_ask_where(const struct kvn_cli *cli, struct kvn_ask_where *where);
/* Exit code of a status: USAGE for what the asker did wrong, else FAILED; one line. */
int kvn_ask_failed(const struct kvn_cli *cli, kv_status_t status, const char *line);

/* ---- verbs that ask and print ---------------------------------------------------- */

enum { KVN_ASK_NR_FLAGS = 4 };
extern const struct kvn_flag kvn_ask_flags[KVN_ASK_NR_FLAGS];
/* All of such a verb, whose cli has kvn_ask_flags. `list`: NULL, or what grows. */
int kvn_ask_verb(
    const struct kvn_cli *cli, int argc, char **argv, enum kvn_ask_what what,
    const char *list, void (*print)(const json_t *report));

/* Members of a report: "loop.lag_us"; 0 and "-" for what is not there. */
uint64_t kvn_ask_number(const json_t *from, const char *path);
const char *kvn_ask_text(const json_t *from, const char *name);
bool kvn_ask_true(const json_t *from, const char *name);

#endif
