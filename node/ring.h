/* What a client and its node share: two rings of records in one piece of memory, and
 * the packets of the Unix socket by which they come to it (docs/clients.md, byte for
 * byte). Used by both sides: node/daemon/local.c and node/lib/.
 *
 *   client ── packets: ATTACH, BUFFER, UNBUFFER ──► node      one byte: wake up
 *          ◄── packets: GREETING, ATTACHED, BUFFERED, REFUSED ──
 *   operator ── ASK ──► node ── REPORT ──► operator           on a socket of its own
 *   client ── request ring ──► node ── answer ring ──► client
 *
 *   memory:  header, 4096 bytes │ requests, ring_bytes │ answers, ring_bytes
 *   ring:    positions count bytes for ever; byte p lies at p mod ring_bytes
 *            … │ record │ record │ skip ──► end │
 *
 * (1) A side writes its own positions and never reads them back. (2) What the other
 * side wrote is read once, into memory of the reader, and judged there. (3) A record
 * does not wrap: a skip record fills the ring's end before one that would. (4) With at
 * most size - (the longest answer) bytes written, unread and promised, every promised
 * answer finds room: they all lie within less than one turn of the ring, so there is
 * one end among them and one skip, which is shorter than the answer behind it. A notice
 * is written only where one more such answer could be promised.
 *
 * Threading: one producer and one consumer a ring; a struct kvn_ring belongs to one of
 * them. Bounds: all sizes below. Errors: KV_ERR_INVALID with the field, its limit and
 * the value is another side that does not keep to the shape; nothing can be taken from
 * that ring any more.
 */
#ifndef KVN_RING_H
#define KVN_RING_H

#include "base/key.h"

#include <stdatomic.h>

enum {
    KVN_RING_MAGIC = 0x7272766b, /* "kvrr" in memory */
    KVN_RING_VERSION = 1,        /* of rings and packets */
    KVN_RING_HEADER_BYTES = 4096,
    KVN_RING_BYTES_MIN = 1 << 17, /* twice the largest record and more */
    KVN_RING_BYTES_MAX = 1 << 24,
    KVN_RING_KEYS_MAX = 1024,     /* of a request */
    KVN_RING_REQUESTS_MAX = 1024, /* in flight */
    KVN_RING_FIELD_MAX = 32,      /* name of what was refused, with its NUL */
    KVN_RING_OPS = 6,             /* EXISTS, GET, PUT, PIN, UNPIN, DROP */
    KVN_RING_SEQ_OPS = 14,        /* those, and SEQ_OPEN … SEQ_END */
    KVN_RING_ALIGN = 8,           /* of records */
    KVN_OFFSET_BITS = 48,         /* of an address: buffer << 48 | offset */
};
/* A request that waits longer than this is refused: 1 hour. */
#define KVN_RING_TIMEOUT_MAX_US UINT64_C(3600000000)

enum kvn_ring_op {
    KVN_OP_EXISTS,
    KVN_OP_GET,
    KVN_OP_PUT,
    KVN_OP_PIN,
    KVN_OP_UNPIN,
    KVN_OP_DROP,
    /* of clients of the pager level alone */
    KVN_OP_SEQ_OPEN,
    KVN_OP_SEQ_FETCH,
    KVN_OP_SEQ_APPEND,
    KVN_OP_SEQ_SEAL,
    KVN_OP_SEQ_FORK,
    KVN_OP_SEQ_TRUNCATE,
    KVN_OP_SEQ_CONFIRM,
    KVN_OP_SEQ_END,
    KVN_OP_SEQ_CHANGED, /* notices alone: nobody asks for it */
};

/* ------------------------------------------------------------------ memory */

enum kvn_sleep {
    KVN_AWAKE = 0,
    KVN_ASLEEP = 1,     /* wake me when there is a record */
    KVN_WANTS_ROOM = 2, /* the node: wake me when some answers have been read */
};

/* The header page. Each word that one side writes has 128 bytes of its own: two cache
 * lines, because processors fetch them in pairs. */
struct kvn_rings {
    uint32_t magic;
    uint32_t version;
    uint32_t ring_bytes; /* of each of the two */
    uint32_t zero;
    _Alignas(128) _Atomic uint64_t request_head; /* node: taken up to here */
    _Alignas(128) _Atomic uint64_t request_tail; /* client: written up to here */
    _Alignas(128) _Atomic uint64_t answer_head;  /* client */
    _Alignas(128) _Atomic uint64_t answer_tail;  /* node */
    /* enum kvn_sleep: set by the sleeper; cleared by who wakes it, and by itself. */
    _Alignas(128) _Atomic uint32_t node_sleeps;
    _Alignas(128) _Atomic uint32_t client_sleeps;
};

static inline size_t kvn_rings_bytes(uint32_t ring_bytes)
{
    return KVN_RING_HEADER_BYTES + 2 * (size_t)ring_bytes;
}
/* A power of two within the bounds. */
bool kvn_rings_size_ok(uint64_t ring_bytes);
/* A memfd of zeros under `seals` (F_SEAL_*), for who asked for it to close; or -1, and
 * errno. */
int kvn_memfd_sealed(const char *name, size_t bytes, int seals);
/* A client's memory, before it is mapped for good: nothing that its owner can do later
 * may make touching it a fault. So it is a memfd of ordinary pages (a hole punched into
 * huge ones can be impossible to fill again), it cannot shrink, and it is as long as
 * they say. INVALID: buffer.memfd, buffer.seals, buffer.bytes. */
kv_status_t kvn_memfd_check(int fd, uint64_t bytes, struct kv_detail *detail);
/* Writes the header of zeroed memory; then checks one that came from elsewhere. */
void kvn_rings_format(struct kvn_rings *rings, uint32_t ring_bytes);
kv_status_t kvn_rings_check(
    const struct kvn_rings *rings, uint32_t ring_bytes, struct kv_detail *detail);

/* One side's view of one ring. */
struct kvn_ring {
    _Atomic uint64_t *mine;
    _Atomic uint64_t *theirs;
    uint8_t *bytes;
    uint32_t size;
    uint64_t at;   /* what *mine says: (1) */
    uint64_t seen; /* *theirs, when it was last read and found possible */
    uint64_t next; /* `at` after the record being written or looked at */
};

enum kvn_ring_side { KVN_REQUEST_OUT, KVN_REQUEST_IN, KVN_ANSWER_OUT, KVN_ANSWER_IN };
void kvn_ring_bind(
    struct kvn_ring *ring, struct kvn_rings *rings, uint32_t ring_bytes,
    enum kvn_ring_side side);

/* ------------------------------------------------------------------ writing */

/* Room for a record of `bytes` (a multiple of 8): *at_p. AGAIN: none now. */
kv_status_t kvn_ring_room(
    struct kvn_ring *ring, uint32_t bytes, uint8_t **at_p, struct kv_detail *detail);
/* The record is written: the other side may see it. */
void kvn_ring_put(struct kvn_ring *ring);
/* Bytes written and not read yet, skips counted. */
kv_status_t
kvn_ring_used(struct kvn_ring *ring, uint32_t *used_p, struct kv_detail *detail);

/* ------------------------------------------------------------------ reading */

/* Copies the next record to copy[max] (2). AGAIN: there is none. It stays in the ring
 * until kvn_ring_take(). */
kv_status_t kvn_ring_peek(
    struct kvn_ring *ring, uint8_t *copy, uint32_t max, uint32_t *len_p,
    struct kv_detail *detail);
void kvn_ring_take(struct kvn_ring *ring);
/* Is there anything, or nonsense? To be asked once more after the sleeping flag is
 * set. */
bool kvn_ring_any(const struct kvn_ring *ring);

/* The other side has written, or made room: was the sleeper to be woken? Then the
 * caller wakes it. */
bool kvn_ring_must_wake(_Atomic uint32_t *sleeps, uint32_t bit);

/* ------------------------------------------------------------------ records */

enum kvn_record {
    KVN_RECORD_SKIP = 1,
    KVN_RECORD_REQUEST = 2,
    KVN_RECORD_ANSWER = 3,
    KVN_RECORD_NOTICE = 4, /* shaped as an answer, to no request */
};
enum { KVN_REQUEST_LOOSE = 1, KVN_REQUEST_TOKENS = 2 };

/* All integers little endian; every record begins with the first three fields. */
struct kvn_request_head {
    uint32_t bytes; /* of the whole record */
    uint16_t type;  /* enum kvn_record */
    uint16_t op;    /* enum kvn_ring_op */
    uint64_t tag;   /* comes back in the answer */
    uint64_t timeout_us;
    uint32_t nr_keys;
    uint32_t first_page;
    uint16_t variant;
    uint16_t flags;
    uint32_t zero;
    kv_key_t anchor;
    kv_key_t prev;
}; /* SEQ_*: struct kvn_request_seq ‖ keys[n] ‖ GET, PUT: u64 address[n] ‖ TOKENS: u32
    * n_tokens[n], padded to 8 */

/* What the operation does not take is ignored. */
struct kvn_request_seq {
    uint64_t seq;     /* index | generation << 32, as the node gave it; not OPEN */
    uint64_t name;    /* OPEN, FORK: the client's own, comes back with notices */
    uint64_t version; /* CONFIRM */
    uint32_t page;    /* SEAL */
    uint32_t tokens;  /* APPEND: more; TRUNCATE: that stay */
};

struct kvn_answer_head {
    uint32_t bytes;
    uint16_t type;
    uint16_t op;
    uint64_t tag;
    int32_t status;   /* of the whole */
    uint32_t nr_keys; /* 0 when the whole was refused */
    uint64_t limit;
    uint64_t value;
    char field[KVN_RING_FIELD_MAX]; /* what was refused; terminated */
}; /* SEQ_*: struct kvn_answer_seq ‖ pages ‖ tails ‖ i32 status[n] ‖ u8 reason[n] ‖ u8
    * place[n], padded to 8 */

enum {
    /* The table has changed elsewhere too: what follows tells the rest, and `version`
     * is what it was before that. */
    KVN_SEQ_MORE = 1,
    KVN_SEQ_TABLE = 2, /* seq to flags are those of a sequence; else all are zero */
};

/* The sequence after the operation, and the part of its table that it changed. */
struct kvn_answer_seq {
    uint64_t seq;
    uint64_t name;
    uint64_t version; /* of the table as the client knows it with this: to confirm */
    uint32_t nr_pages;
    uint32_t n_tokens;
    uint32_t first_page; /* page of pages[0] */
    uint32_t nr_entries; /* pages that follow */
    uint32_t nr_hits;    /* FETCH: pages that were appended */
    uint16_t flags;
    uint16_t nr_tails;
};

/* Where a page lies. */
struct kvn_seq_page {
    uint64_t gen; /* (arena, block, gen) never names two contents */
    uint32_t block;
    uint16_t arena; /* number in ATTACHED */
    uint16_t zero;
};

/* FETCH: a tail that some home lists behind the last key; a hint. */
struct kvn_seq_tail {
    kv_key_t key;
    uint32_t n_tokens;
    uint32_t zero;
};

enum {
    /* Pages of an answer: what an APPEND of 1024 can change that begins inside one. */
    KVN_SEQ_ENTRIES_MAX = KVN_RING_KEYS_MAX + 1,
    KVN_SEQ_PAGES_MAX = 1 << 16, /* of a sequence */
    KVN_SEQ_TAILS_MAX = 4,
    KVN_REQUEST_BYTES_MAX = sizeof(struct kvn_request_head) + KVN_RING_KEYS_MAX * 44,
    KVN_ANSWER_BYTES_MAX = sizeof(struct kvn_answer_head) + KVN_RING_KEYS_MAX * 6,
    KVN_SEQ_ANSWER_BYTES_MAX = KVN_ANSWER_BYTES_MAX + sizeof(struct kvn_answer_seq)
                               + KVN_SEQ_ENTRIES_MAX * sizeof(struct kvn_seq_page)
                               + KVN_SEQ_TAILS_MAX * sizeof(struct kvn_seq_tail),
};

static inline bool kvn_op_moves(uint32_t op)
{
    return op == KVN_OP_GET || op == KVN_OP_PUT;
}
static inline bool kvn_op_seq(uint32_t op)
{
    return op >= KVN_OP_SEQ_OPEN && op <= KVN_OP_SEQ_CHANGED;
}
uint32_t kvn_request_bytes(uint32_t op, uint32_t nr_keys, bool tokens);
uint32_t kvn_answer_bytes(uint32_t nr_keys); /* EXISTS … DROP */
uint32_t kvn_seq_answer_bytes(uint32_t nr_keys, uint32_t nr_entries, uint32_t nr_tails);

/* A record in the reader's memory, taken apart; pointers go into that memory. */
struct kvn_request {
    struct kvn_request_head head;
    struct kvn_request_seq seq; /* zero unless SEQ_* */
    kv_key_t *keys;             /* NULL when there are none */
    uint64_t *addresses;        /* NULL unless GET or PUT */
    uint32_t *n_tokens;         /* NULL: full pages */
};
struct kvn_answer {
    struct kvn_answer_head head;
    struct kvn_answer_seq seq; /* zero unless SEQ_* */
    const struct kvn_seq_page *pages;
    const struct kvn_seq_tail *tails;
    const int32_t *statuses;
    const uint8_t *reasons;
    const uint8_t *places;
};
/* `copy` is 8-byte aligned and len long. Any operation but SEQ_CHANGED: whether the
 * client may ask for it is the caller's to judge. */
kv_status_t kvn_request_read(
    uint8_t *copy, uint32_t len, struct kvn_request *request, struct kv_detail *detail);
/* An answer or a notice: head.type says which. */
kv_status_t kvn_answer_read(
    const uint8_t *copy, uint32_t len, struct kvn_answer *answer,
    struct kv_detail *detail);

/* ------------------------------------------------------------------ packets */

enum {
    KVN_PACKET_MAGIC = 0x7072766b, /* "kvrp" */
    KVN_PACKET_SPACES_MAX = 64,
    KVN_PACKET_NAME_MAX = 40, /* of a space, with its NUL */
    KVN_PACKET_FIELD_MAX = 40,
    KVN_PACKET_ARENAS_MAX = 32,
    KVN_PACKET_LEVEL_OBJECT = 0, /* batches of keys */
    KVN_PACKET_LEVEL_PAGER = 1,  /* and sequences over arenas that the client fills */
    KVN_PACKET_WAKE = 'w',       /* the whole of a packet of one byte */
};

enum kvn_packet_type {
    KVN_PACKET_GREETING = 1, /* node: nonce */
    KVN_PACKET_ATTACH,       /* client: nonce, tenant, level, ring_bytes */
    /* node: ring_bytes, spaces, arenas; with it come descriptors: of the rings, then of
     * each arena */
    KVN_PACKET_ATTACHED,
    KVN_PACKET_REFUSED,  /* node: status and its detail; answers ATTACH, BUFFER */
    KVN_PACKET_BUFFER,   /* client: bytes; a descriptor comes with it */
    KVN_PACKET_BUFFERED, /* node: buffer, bytes */
    KVN_PACKET_UNBUFFER, /* client: buffer; no answer */
    KVN_PACKET_ASK,          /* client, instead of ATTACH: nonce, tenant, a record */
    KVN_PACKET_REPORT,       /* node: bytes; a descriptor comes with it */
    KVN_PACKET_NR_TYPES
};

struct kvn_packet {
    uint32_t magic;
    uint16_t version;
    uint16_t type;
    uint64_t req; /* pairs an answer with its request */
    uint64_t nonce;
    int32_t status;
    uint32_t tenant;
    uint32_t ring_bytes;
    uint16_t level;
    uint16_t nr_spaces; /* records that follow in the packet */
    uint32_t buffer;
    uint16_t nr_arenas; /* records that follow the spaces */
    uint16_t zero;
    uint64_t bytes;
    uint64_t limit;
    uint64_t value;
    char field[KVN_PACKET_FIELD_MAX]; /* terminated */
};

struct kvn_packet_space {
    char name[KVN_PACKET_NAME_MAX]; /* terminated */
    kv_key_t id;
    kv_key_t salt; /* of the client's tenant */
    uint32_t page_tokens;
    uint32_t page_bytes;
    uint16_t first_variant;
    uint16_t nr_groups;
    uint32_t zero;
};

/* Memory of the node that the client maps and fills: block b is its bytes from
 * b * block_bytes. */
struct kvn_packet_arena {
    uint64_t bytes; /* of the descriptor */
    uint32_t block_bytes;
    uint32_t nr_blocks;
};

enum {
    KVN_PACKET_FDS_MAX = 1 + KVN_PACKET_ARENAS_MAX,
    KVN_PACKET_BYTES_MAX = sizeof(struct kvn_packet)
                           + KVN_PACKET_SPACES_MAX * sizeof(struct kvn_packet_space)
                           + KVN_PACKET_ARENAS_MAX * sizeof(struct kvn_packet_arena),
};

/* What can be asked of a node: X(symbol, name). */
#define KVN_ASK_MAP(X)                                                                 \
    X(KVN_ASK_STATUS, "status")                                                        \
    X(KVN_ASK_PEERS, "peers")                                                          \
    X(KVN_ASK_SPACES, "spaces")                                                        \
    X(KVN_ASK_EXPLAIN, "explain")

enum kvn_ask_what {
#define X(symbol, name) symbol,
    KVN_ASK_MAP(X)
#undef X
        KVN_NR_ASKS
};

enum {
    KVN_ASK_TENANT = 1,               /* flag: packet.tenant is meant */
    KVN_ASK_SEGMENT = 2,              /* flag: so is `segment` */
    KVN_REPORT_BYTES_MAX = 256 << 10, /* of its text */
    KVN_REPORT_ITEMS_MAX = 64,        /* of a list: ask again with `first` for more */
};

/* Behind ASK. EXPLAIN: key, group, space ("": the only one), and as flagged; PEERS,
 * SPACES: first. What the question does not have is zero. */
struct kvn_packet_ask {
    uint32_t what;  /* enum kvn_ask_what */
    uint32_t first; /* where the list begins */
    uint32_t group; /* of the space */
    uint32_t flags;
    kv_key_t key;
    kv_key_t segment;                /* the key that opens its segment */
    char space[KVN_PACKET_NAME_MAX]; /* terminated */
};

void kvn_packet_init(struct kvn_packet *packet, enum kvn_packet_type type);
/* REFUSED, which answers `req`: with this status and detail. */
void kvn_packet_refuse(
    struct kvn_packet *packet, uint64_t req, kv_status_t status,
    const struct kv_detail *detail);
/* What a REFUSED says: a status that is known and no success, else INVALID. The
 * detail's field lies in the packet. */
kv_status_t
kvn_packet_refused(const struct kvn_packet *packet, struct kv_detail *detail);
/* All of it or nothing, without waiting: false, and errno. `fd` goes with it, and stays
 * the caller's; -1: none does. */
bool kvn_packet_send(int sock, const void *bytes, size_t len, int fd);
/* The same with up to KVN_PACKET_FDS_MAX descriptors. */
bool kvn_packet_send_fds(
    int sock, const void *bytes, size_t len, const int *fds, uint32_t nr_fds);
/* Takes a packet apart: fields that its type does not have are zero, or it is
 * KV_ERR_INVALID; KV_ERR_VERSION for another version. `spaces` (room for the maximum)
 * may be NULL where none are wanted: then a packet that has some is INVALID. */
kv_status_t kvn_packet_read(
    const uint8_t *bytes, size_t len, struct kvn_packet *packet,
    struct kvn_packet_space *spaces, struct kv_detail *detail);
/* The record behind an ASK that kvn_packet_read() took. */
kv_status_t kvn_packet_ask_read(
    const uint8_t *bytes, struct kvn_packet_ask *ask, struct kv_detail *detail);
/* The arenas of a packet that kvn_packet_read() took: arenas[KVN_PACKET_ARENAS_MAX]. */
kv_status_t kvn_packet_arenas(
    const uint8_t *bytes, const struct kvn_packet *packet,
    struct kvn_packet_arena *arenas, struct kv_detail *detail);

#endif
