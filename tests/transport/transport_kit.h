/* What the tests of transports share: an owner and a reader in one process, each with a
 * port and memory of its own, pumped by one loop that keeps the promises of
 * transport.h in view: one DONE an id, none after CLOSED, CLOSED once.
 *
 * A copy of the tests is named by its place in the owner's memory: the first bytes of
 * its key are offset, length and the status that the owner shall answer.
 *
 * Threading: none of its own. Nothing here measures time; tk_step() fails the test when
 * nothing at all happens for TK_PATIENCE_MS. Ownership: tk_close() takes down what
 * tk_open() made; sockets, children and memfds by hand are the test's. Units: bytes.
 * Errors: the test fails; what gives a status gives the transport's.
 */
#ifndef KVT_TEST_TRANSPORT_KIT_H
#define KVT_TEST_TRANSPORT_KIT_H

#include "transport/hook.h"
#include "transport/tcp/frame.h"

#include <sys/types.h>

enum {
    TK_PATIENCE_MS = 60000,
    TK_IDS = 8192,
    TK_CONNS = 64,
};

/* What an address is: of a remote transport a host and a port, of one that gives
 * memory out the path of a socket, else a name in this process. */
enum tk_place_kind { TK_HOST, TK_PATH, TK_NAME };

/* One row of the contract suite: a transport, and how its ports are wrapped. */
struct tk_candidate {
    const char *name;
    const struct kvt_ops *ops;
    bool hooked;
    bool offered; /* the owner opens the connections, the reader has the listener */
    struct kvt_hook_config faults; /* of the reader's hook */
    uint64_t seed;
    unsigned nr_faults; /* calls of a whole life that may fail, at least */
};

struct tk_side {
    kvt_port_t *port;
    const char *name;
    const char *listen; /* where its port does */
    uint8_t *memory;
    size_t bytes;
    int fd; /* of its memory, which is a sealed memfd then; or -1 */
    struct kvt_event done[TK_IDS];
    bool was_done[TK_IDS];
    unsigned nr_done;
    kvt_conn_t hellos[TK_CONNS]; /* in the order in which they came */
    unsigned nr_hellos;
    uint8_t hello[KVT_HELLO_BYTES_MAX];
    uint32_t hello_len;
    bool offered; /* said the last hello */
    unsigned nr_requests;
    kvt_conn_t broken[TK_CONNS];
    kv_status_t why; /* of the last */
    unsigned nr_broken;
    kvt_conn_t closed[TK_CONNS];
    unsigned nr_closed;
};

struct tk {
    const struct tk_candidate *candidate;
    struct kvt_config config; /* of both; change before tk_open() */
    struct tk_side owner, reader;
    int listener;
    char address[KVT_ADDRESS_MAX];
    bool accept_all; /* says accept() to every hello */
    bool serve;      /* owner: answers READs */
    bool mute_sends; /* owner: READs are counted, not answered */
    uint64_t next_send_id;
    unsigned nr_served;
    unsigned nr_fetched; /* copies posted by the last tk_fetch() */
    uint64_t flip; /* owner: a bit flipped in every page after its digest; 0: none */
};

struct tk_copy {
    uint32_t offset, len;
    kv_status_t status;
};

void tk_init(struct tk *tk, const struct tk_candidate *candidate);
void tk_open(struct tk *tk, size_t bytes);
/* The parts of tk_open(): where the owner is found, and memory of one side, of the kind
 * that the candidate's readers can be given. */
void tk_place(struct tk *tk);
enum tk_place_kind tk_place_kind(const struct tk *tk);
void tk_memory(struct tk *tk, struct tk_side *side, size_t bytes);
void tk_forget(struct tk *tk); /* both undone */
void tk_close(struct tk *tk);  /* destroys what is left; nothing may leak */
kv_status_t tk_port(
    const struct tk_candidate *candidate, const struct kvt_config *config,
    struct tk_side *side, struct kv_detail *detail);

/* A connection that is accepted on both sides; *owner_p is the owner's name for it. */
kvt_conn_t tk_connect(struct tk *tk, kvt_conn_t *owner_p);
/* Opens without waiting for anything; or the owner offers, where the candidate says. */
kvt_conn_t tk_dial(struct tk *tk);

/* Posts a READ for these copies, the i-th into `to` + room * i, ids from first_id. */
kv_status_t tk_read(
    struct tk *tk, kvt_conn_t conn, uint64_t req, const struct tk_copy *copies,
    uint32_t nr_copies, uint64_t first_id, uint8_t *to, uint32_t room);
/* The same by whatever means the candidate has: one READ, or a one-sided get a copy
 * (the first that is refused is the last). tk->nr_fetched: how many were posted. */
kv_status_t tk_fetch(
    struct tk *tk, kvt_conn_t conn, uint64_t req, const struct tk_copy *copies,
    uint32_t nr_copies, uint64_t first_id, uint8_t *to, uint32_t room);
kv_status_t tk_get_one(
    struct tk *tk, kvt_conn_t conn, uint64_t id, uint32_t arena, uint64_t offset,
    uint8_t *to, uint32_t len);
uint32_t tk_encode_read(
    uint64_t req, const struct tk_copy *copies, uint32_t nr_copies, uint8_t *out);
uint32_t tk_encode_data(
    uint64_t req, uint32_t index, kv_status_t status, uint32_t len, uint64_t digest,
    uint8_t *out);
uint32_t tk_encode_hello(uint8_t *out);

/* Waits for something to happen on either side, and takes all of it. */
void tk_step(struct tk *tk);
/* The same, but nothing need happen: false then. */
bool tk_look(struct tk *tk, int patience_ms);
/* Takes what is there. */
void tk_drain(struct tk *tk, struct tk_side *side);
/* One event, if there is one. */
bool tk_take_one(struct tk *tk, struct tk_side *side);
#define TK_UNTIL(tk, condition)                                                        \
    while (!(condition)) {                                                             \
        tk_step(tk);                                                                   \
    }

void tk_fill(uint8_t *at, size_t len, uint64_t seed);
bool tk_all(const uint8_t *at, size_t len, uint8_t value);
/* Processor time of the process: who waits takes none. */
unsigned tk_cpu_ms(void);

/* ---- another process ------------------------------------------------------------- */

/* Forked before the test has threads: begin it before any port is created. */
struct tk_child {
    pid_t pid;
    int to, from; /* pipes; the child's ends are in its run() */
};
void tk_child_begin(
    struct tk_child *child, void (*run)(int from_test, int to_test, void *arg),
    void *arg);
void tk_child_put(struct tk_child *child, char word);
char tk_child_get(struct tk_child *child);  /* waits for its next word */
void tk_child_stop(struct tk_child *child); /* SIGSTOP, and it has stopped */
void tk_child_end(struct tk_child *child);  /* killed, and waited for */
/* For run(): waits for a word, ends the process when the test has gone. */
char tk_child_wait(int from_test);

/* ---- a peer that is no port: bytes by hand -------------------------------------- */

int tk_listen(char address[KVT_ADDRESS_MAX]);
int tk_listen_at(const char *path);
/* A path in the folder for such, where nothing is. */
void tk_path(char address[KVT_ADDRESS_MAX]);
/* memfd of zeros under seals (F_SEAL_*), mapped before the last of them, or not. */
int tk_memfd(size_t bytes, int seals, uint8_t **memory_p);
int tk_accept(int listener);
int tk_dial_raw(const char *address); /* host:port, or a path */
/* All of it, or until the other side has ended the connection. */
void tk_put(int fd, const void *bytes, size_t len);
void tk_get(int fd, void *bytes, size_t len); /* all of it, or the test fails */
/* True: the other side ended the connection. Waits for it. */
bool tk_ended(int fd);
void tk_put_frame(
    int fd, enum kvt_frame_kind kind, const uint8_t *head, uint32_t head_len,
    const uint8_t *body, uint32_t body_len);
/* Head of the next frame; its body, if any, is left on the socket. */
uint32_t tk_get_frame(int fd, enum kvt_frame_kind kind, uint8_t *head);
void tk_abort(int fd); /* closes with a reset */

#endif
