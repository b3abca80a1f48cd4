#define _GNU_SOURCE
#include "node/ring.h"

#include "base/assert.h"
#include "base/fault.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* The layout is for other processes, and other languages: docs/clients.md. */
_Static_assert(offsetof(struct kvn_rings, request_head) == 128, "documented");
_Static_assert(offsetof(struct kvn_rings, request_tail) == 256, "documented");
_Static_assert(offsetof(struct kvn_rings, answer_head) == 384, "documented");
_Static_assert(offsetof(struct kvn_rings, answer_tail) == 512, "documented");
_Static_assert(offsetof(struct kvn_rings, node_sleeps) == 640, "documented");
_Static_assert(offsetof(struct kvn_rings, client_sleeps) == 768, "documented");
_Static_assert(sizeof(struct kvn_rings) <= KVN_RING_HEADER_BYTES, "one page");
_Static_assert(sizeof(struct kvn_request_head) == 104, "documented");
_Static_assert(sizeof(struct kvn_answer_head) == 72, "documented");
_Static_assert(sizeof(struct kvn_packet) == 112, "documented");
_Static_assert(sizeof(struct kvn_packet_space) == 120, "documented");
_Static_assert(2 * KVN_REQUEST_BYTES_MAX <= KVN_RING_BYTES_MIN, "skip and record fit");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock would not cross processes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little endian");

/* ------------------------------------------------------------------ memory */

bool kvn_rings_size_ok(uint64_t ring_bytes)
{
    return ring_bytes >= KVN_RING_BYTES_MIN && ring_bytes <= KVN_RING_BYTES_MAX
           && (ring_bytes & (ring_bytes - 1)) == 0;
}

int kvn_memfd_sealed(const char *name, size_t bytes, int seals)
{
    int fd = KV_FAULT() ? -1 : memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -1;
    }
    if (KV_FAULT() || ftruncate(fd, (off_t)bytes) != 0
        || fcntl(fd, F_ADD_SEALS, seals) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void kvn_rings_format(struct kvn_rings *rings, uint32_t ring_bytes)
{
    KV_ASSERT(kvn_rings_size_ok(ring_bytes));
    rings->magic = KVN_RING_MAGIC;
    rings->version = KVN_RING_VERSION;
    rings->ring_bytes = ring_bytes;
}

kv_status_t kvn_rings_check(
    const struct kvn_rings *rings, uint32_t ring_bytes, struct kv_detail *detail)
{
    if (rings->magic != KVN_RING_MAGIC) {
        return kv_fail(
            detail, KV_ERR_VERSION, "rings.magic", KVN_RING_MAGIC, rings->magic);
    }
    if (rings->version != KVN_RING_VERSION) {
        return kv_fail(
            detail, KV_ERR_VERSION, "rings.version", KVN_RING_VERSION, rings->version);
    }
    if (rings->ring_bytes != ring_bytes) {
        return kv_fail(
            detail, KV_ERR_INVALID, "rings.bytes", ring_bytes, rings->ring_bytes);
    }
    return KV_OK;
}

void kvn_ring_bind(
    struct kvn_ring *ring, struct kvn_rings *rings, uint32_t ring_bytes,
    enum kvn_ring_side side)
{
    bool requests = side == KVN_REQUEST_OUT || side == KVN_REQUEST_IN;
    bool writes = side == KVN_REQUEST_OUT || side == KVN_ANSWER_OUT;
    _Atomic uint64_t *head = requests ? &rings->request_head : &rings->answer_head;
    _Atomic uint64_t *tail = requests ? &rings->request_tail : &rings->answer_tail;
    *ring = (struct kvn_ring){
        .mine = writes ? tail : head,
        .theirs = writes ? head : tail,
        .bytes = (uint8_t *)rings + KVN_RING_HEADER_BYTES + (requests ? 0 : ring_bytes),
        .size = ring_bytes,
    };
}

/* What may be unread: `behind` (the reader) never passes `ahead` (the writer), and is
 * never more than a ring behind; neither goes back. */
static kv_status_t look(struct kvn_ring *ring, bool writes, struct kv_detail *detail)
{
    /* Acquire, as a reader: pairs with the release of the writer's put, so that the
     * record's bytes are there before its position. As a writer: pairs with the release
     * of the reader's take, so that no byte is overwritten before it was copied. */
    uint64_t theirs = atomic_load_explicit(ring->theirs, memory_order_acquire);
    uint64_t unread = writes ? ring->at - theirs : theirs - ring->at;
    if (unread > ring->size || theirs < ring->seen || theirs % KVN_RING_ALIGN != 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, writes ? "ring.head" : "ring.tail",
            writes ? ring->at : ring->at + ring->size, theirs);
    }
    ring->seen = theirs;
    return KV_OK;
}

/* ------------------------------------------------------------------ writing */

struct record_head {
    uint32_t bytes;
    uint16_t type;
    uint16_t op;
};

kv_status_t kvn_ring_room(
    struct kvn_ring *ring, uint32_t bytes, uint8_t **at_p, struct kv_detail *detail)
{
    KV_ASSERT(bytes % KVN_RING_ALIGN == 0 && bytes <= ring->size / 2);
    uint32_t index = (uint32_t)ring->at & (ring->size - 1);
    uint32_t skip = ring->size - index < bytes ? ring->size - index : 0;
    if (ring->size - (ring->at - ring->seen) < skip + bytes) {
        kv_status_t status = look(ring, true, detail);
        if (status != KV_OK) {
            return status;
        }
        if (ring->size - (ring->at - ring->seen) < skip + bytes) {
            return KV_ERR_AGAIN;
        }
    }
    if (skip > 0) { /* (3) */
        const struct record_head head = {.bytes = skip, .type = KVN_RECORD_SKIP};
        memcpy(ring->bytes + index, &head, sizeof(head));
        index = 0;
    }
    ring->next = ring->at + skip + bytes;
    *at_p = ring->bytes + index;
    return KV_OK;
}

void kvn_ring_put(struct kvn_ring *ring)
{
    KV_ASSERT(ring->next > ring->at);
    ring->at = ring->next;
    /* Sequentially consistent, not just release: the sleeping flag is read after this,
     * and its owner reads this after setting it. One of the two must see the other. */
    atomic_store_explicit(ring->mine, ring->at, memory_order_seq_cst);
}

kv_status_t
kvn_ring_used(struct kvn_ring *ring, uint32_t *used_p, struct kv_detail *detail)
{
    kv_status_t status = look(ring, true, detail);
    if (status == KV_OK) {
        *used_p = (uint32_t)(ring->at - ring->seen);
    }
    return status;
}

/* ------------------------------------------------------------------ reading */

static kv_status_t head_check(
    const struct kvn_ring *ring, uint64_t at, const struct record_head *head,
    uint32_t max, struct kv_detail *detail)
{
    uint32_t left = ring->size - ((uint32_t)at & (ring->size - 1));
    uint64_t limit = ring->seen - at < left ? ring->seen - at : left;
    if (head->type != KVN_RECORD_SKIP && limit > max) {
        limit = max;
    }
    if (head->bytes < sizeof(*head) || head->bytes > limit
        || head->bytes % KVN_RING_ALIGN != 0) {
        return kv_fail(detail, KV_ERR_INVALID, "record.bytes", limit, head->bytes);
    }
    /* A skip goes to the ring's end, and something follows it. */
    if (head->type == KVN_RECORD_SKIP
        && (head->bytes != left || at + left == ring->seen)) {
        return kv_fail(detail, KV_ERR_INVALID, "record.skip", left, head->bytes);
    }
    return KV_OK;
}

kv_status_t kvn_ring_peek(
    struct kvn_ring *ring, uint8_t *copy, uint32_t max, uint32_t *len_p,
    struct kv_detail *detail)
{
    kv_status_t status = ring->at == ring->seen ? look(ring, false, detail) : KV_OK;
    if (status != KV_OK || ring->at == ring->seen) {
        return status != KV_OK ? status : KV_ERR_AGAIN;
    }
    uint64_t at = ring->at;
    for (unsigned turn = 0; turn < 2; turn++) {
        uint8_t *from = ring->bytes + (at & (ring->size - 1));
        /* (2) One load of all eight bytes: what is judged is what is used. Relaxed: the
         * acquire in look() ordered it, and a liar's ordering is no concern. */
        uint64_t word = __atomic_load_n((uint64_t *)(void *)from, __ATOMIC_RELAXED);
        struct record_head head;
        memcpy(&head, &word, sizeof(head));
        status = head_check(ring, at, &head, max, detail);
        if (status != KV_OK) {
            return status;
        }
        if (head.type != KVN_RECORD_SKIP) {
            memcpy(copy, from, head.bytes);
            memcpy(copy, &head, sizeof(head)); /* it may have changed since */
            /* The compiler may not look at the ring again instead of at the copy. */
            atomic_signal_fence(memory_order_seq_cst);
            ring->next = at + head.bytes;
            *len_p = head.bytes;
            return KV_OK;
        }
        at += head.bytes;
    }
    return kv_fail(detail, KV_ERR_INVALID, "record.skip", 1, 2);
}

void kvn_ring_take(struct kvn_ring *ring)
{
    KV_ASSERT(ring->next > ring->at);
    ring->at = ring->next;
    /* Sequentially consistent for the sake of KVN_WANTS_ROOM, as in kvn_ring_put(). */
    atomic_store_explicit(ring->mine, ring->at, memory_order_seq_cst);
}

bool kvn_ring_any(const struct kvn_ring *ring)
{
    /* The other half of kvn_ring_put(): after the flag, in one total order. */
    return atomic_load_explicit(ring->theirs, memory_order_seq_cst) != ring->at;
}

bool kvn_ring_must_wake(_Atomic uint32_t *sleeps, uint32_t bit)
{
    /* In one total order with the sleeper's store of the flag and its second look. */
    if ((atomic_load_explicit(sleeps, memory_order_seq_cst) & bit) == 0) {
        return false;
    }
    /* One wake for one sleep, however much is written before it comes round. Relaxed:
     * it carries nothing; the socket orders the wake. */
    return (atomic_fetch_and_explicit(sleeps, ~bit, memory_order_relaxed) & bit) != 0;
}

/* ------------------------------------------------------------------ records */

static uint32_t padded(uint64_t bytes)
{
    return (uint32_t)((bytes + KVN_RING_ALIGN - 1) / KVN_RING_ALIGN * KVN_RING_ALIGN);
}

uint32_t kvn_request_bytes(uint32_t op, uint32_t nr_keys, bool tokens)
{
    uint64_t each = sizeof(kv_key_t) + (kvn_op_moves(op) ? sizeof(uint64_t) : 0)
                    + (tokens ? sizeof(uint32_t) : 0);
    return padded(sizeof(struct kvn_request_head) + nr_keys * each);
}

uint32_t kvn_answer_bytes(uint32_t nr_keys)
{
    return padded(sizeof(struct kvn_answer_head) + (uint64_t)nr_keys * 6);
}

static kv_status_t
request_head_check(const struct kvn_request_head *h, struct kv_detail *detail)
{
    if (h->type != KVN_RECORD_REQUEST) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.type", KVN_RECORD_REQUEST, h->type);
    }
    if (h->op >= KVN_RING_OPS) {
        return kv_fail(detail, KV_ERR_INVALID, "request.op", KVN_RING_OPS - 1, h->op);
    }
    if (h->nr_keys == 0 || h->nr_keys > KVN_RING_KEYS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.keys", KVN_RING_KEYS_MAX, h->nr_keys);
    }
    if ((h->flags & ~(KVN_REQUEST_LOOSE | KVN_REQUEST_TOKENS)) != 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.flags",
            KVN_REQUEST_LOOSE | KVN_REQUEST_TOKENS, h->flags);
    }
    if (h->zero != 0) {
        return kv_fail(detail, KV_ERR_INVALID, "request.zero", 0, h->zero);
    }
    return KV_OK;
}

kv_status_t kvn_request_read(
    uint8_t *copy, uint32_t len, struct kvn_request *request, struct kv_detail *detail)
{
    struct kvn_request read = {0};
    if (len < sizeof(read.head)) {
        return kv_fail(detail, KV_ERR_INVALID, "request.bytes", sizeof(read.head), len);
    }
    memcpy(&read.head, copy, sizeof(read.head));
    kv_status_t status = request_head_check(&read.head, detail);
    if (status != KV_OK) {
        return status;
    }
    uint32_t n = read.head.nr_keys;
    bool tokens = (read.head.flags & KVN_REQUEST_TOKENS) != 0;
    uint32_t wanted = kvn_request_bytes(read.head.op, n, tokens);
    if (len != wanted || read.head.bytes != wanted) {
        return kv_fail(detail, KV_ERR_INVALID, "request.bytes", wanted, len);
    }
    uint8_t *next = copy + sizeof(read.head);
    read.keys = (kv_key_t *)(void *)next;
    next += n * sizeof(kv_key_t);
    if (kvn_op_moves(read.head.op)) {
        read.addresses = (uint64_t *)(void *)next;
        next += n * sizeof(uint64_t);
    }
    if (tokens) {
        read.n_tokens = (uint32_t *)(void *)next;
    }
    *request = read;
    return KV_OK;
}

kv_status_t kvn_answer_read(
    const uint8_t *copy, uint32_t len, struct kvn_answer *answer,
    struct kv_detail *detail)
{
    struct kvn_answer read = {0};
    if (len < sizeof(read.head)) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.bytes", sizeof(read.head), len);
    }
    memcpy(&read.head, copy, sizeof(read.head));
    const struct kvn_answer_head *h = &read.head;
    if (h->type != KVN_RECORD_ANSWER) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.type", KVN_RECORD_ANSWER, h->type);
    }
    if (h->op >= KVN_RING_OPS) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.op", KVN_RING_OPS - 1, h->op);
    }
    if (h->nr_keys > KVN_RING_KEYS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.keys", KVN_RING_KEYS_MAX, h->nr_keys);
    }
    if (memchr(h->field, 0, sizeof(h->field)) == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.field", sizeof(h->field) - 1,
            sizeof(h->field));
    }
    uint32_t n = h->nr_keys;
    if (len != kvn_answer_bytes(n) || h->bytes != len) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.bytes", kvn_answer_bytes(n), len);
    }
    read.statuses = (const int32_t *)(const void *)(copy + sizeof(read.head));
    read.reasons = (const uint8_t *)(read.statuses + n);
    read.places = read.reasons + n;
    *answer = read;
    return KV_OK;
}

/* ------------------------------------------------------------------ packets */

void kvn_packet_init(struct kvn_packet *packet, enum kvn_packet_type type)
{
    *packet = (struct kvn_packet){
        .magic = KVN_PACKET_MAGIC, .version = KVN_RING_VERSION, .type = (uint16_t)type};
}

bool kvn_packet_send(int sock, const void *bytes, size_t len, int fd)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
    }
    return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

enum {
    HAS_REQ = 1 << 0,
    HAS_NONCE = 1 << 1,
    HAS_STATUS = 1 << 2,
    HAS_TENANT = 1 << 3,
    HAS_RING = 1 << 4,
    HAS_LEVEL = 1 << 5,
    HAS_SPACES = 1 << 6,
    HAS_BUFFER = 1 << 7,
    HAS_BYTES = 1 << 8,
    HAS_DETAIL = 1 << 9,
};

static const uint16_t packet_has[KVN_PACKET_NR_TYPES] = {
    [KVN_PACKET_GREETING] = HAS_NONCE,
    [KVN_PACKET_ATTACH] = HAS_NONCE | HAS_TENANT | HAS_RING | HAS_LEVEL,
    [KVN_PACKET_ATTACHED] = HAS_RING | HAS_SPACES,
    [KVN_PACKET_REFUSED] = HAS_REQ | HAS_STATUS | HAS_DETAIL,
    [KVN_PACKET_BUFFER] = HAS_REQ | HAS_BYTES,
    [KVN_PACKET_BUFFERED] = HAS_REQ | HAS_BUFFER | HAS_BYTES,
    [KVN_PACKET_UNBUFFER] = HAS_BUFFER,
    [KVN_PACKET_ASK] = HAS_NONCE | HAS_TENANT,
    [KVN_PACKET_REPORT] = HAS_BYTES,
};

/* Fields that the type does not have must be zero: a later version may use them. */
static kv_status_t
packet_fields_check(const struct kvn_packet *p, struct kv_detail *detail)
{
    const struct {
        uint16_t bit;
        const char *name;
        uint64_t value;
    } fields[] = {
        {HAS_REQ, "packet.req", p->req},
        {HAS_NONCE, "packet.nonce", p->nonce},
        {HAS_STATUS, "packet.status", (uint32_t)p->status},
        {HAS_TENANT, "packet.tenant", p->tenant},
        {HAS_RING, "packet.ring_bytes", p->ring_bytes},
        {HAS_LEVEL, "packet.level", p->level},
        {HAS_SPACES, "packet.spaces", p->nr_spaces},
        {HAS_BUFFER, "packet.buffer", p->buffer},
        {HAS_BYTES, "packet.bytes", p->bytes},
        {HAS_DETAIL, "packet.limit", p->limit},
        {HAS_DETAIL, "packet.value", p->value},
        {HAS_DETAIL, "packet.field", (uint8_t)p->field[0]},
        {0, "packet.zero", p->zero},
    };
    for (unsigned i = 0; i < KV_COUNT_OF(fields); i++) {
        if (fields[i].value != 0 && (packet_has[p->type] & fields[i].bit) == 0) {
            return kv_fail(detail, KV_ERR_INVALID, fields[i].name, 0, fields[i].value);
        }
    }
    if (memchr(p->field, 0, sizeof(p->field)) == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "packet.field", sizeof(p->field) - 1,
            sizeof(p->field));
    }
    return KV_OK;
}

static kv_status_t spaces_read(
    const uint8_t *bytes, uint32_t n, struct kvn_packet_space *spaces,
    struct kv_detail *detail)
{
    for (uint32_t i = 0; i < n; i++) {
        struct kvn_packet_space *space = &spaces[i];
        memcpy(space, bytes + i * sizeof(*space), sizeof(*space));
        bool named = memchr(space->name, 0, sizeof(space->name)) != NULL;
        if (!named || space->page_tokens == 0 || space->page_tokens > KV_PAGE_TOKENS_MAX
            || space->page_bytes == 0 || space->nr_groups == 0 || space->zero != 0) {
            return kv_fail(detail, KV_ERR_INVALID, "packet.space", n, i);
        }
    }
    return KV_OK;
}

kv_status_t kvn_packet_read(
    const uint8_t *bytes, size_t len, struct kvn_packet *packet,
    struct kvn_packet_space *spaces, struct kv_detail *detail)
{
    struct kvn_packet p;
    if (len < sizeof(p)) {
        return kv_fail(detail, KV_ERR_INVALID, "packet.length", sizeof(p), len);
    }
    memcpy(&p, bytes, sizeof(p));
    if (p.magic != KVN_PACKET_MAGIC) {
        return kv_fail(
            detail, KV_ERR_INVALID, "packet.magic", KVN_PACKET_MAGIC, p.magic);
    }
    if (p.version != KVN_RING_VERSION) {
        return kv_fail(
            detail, KV_ERR_VERSION, "packet.version", KVN_RING_VERSION, p.version);
    }
    if (p.type == 0 || p.type >= KVN_PACKET_NR_TYPES) {
        return kv_fail(
            detail, KV_ERR_INVALID, "packet.type", KVN_PACKET_NR_TYPES - 1, p.type);
    }
    kv_status_t status = packet_fields_check(&p, detail);
    if (status != KV_OK) {
        return status;
    }
    uint32_t room = spaces != NULL ? KVN_PACKET_SPACES_MAX : 0;
    if (p.nr_spaces > room) {
        return kv_fail(detail, KV_ERR_INVALID, "packet.spaces", room, p.nr_spaces);
    }
    size_t wanted = sizeof(p) + p.nr_spaces * sizeof(struct kvn_packet_space)
                    + (p.type == KVN_PACKET_ASK ? sizeof(struct kvn_packet_ask) : 0);
    if (len != wanted) {
        return kv_fail(detail, KV_ERR_INVALID, "packet.length", wanted, len);
    }
    if (p.nr_spaces > 0) {
        status = spaces_read(bytes + sizeof(p), p.nr_spaces, spaces, detail);
        if (status != KV_OK) {
            return status;
        }
    }
    *packet = p;
    return KV_OK;
}

static bool key_is_zero(const kv_key_t *key)
{
    static const kv_key_t zero;
    return memcmp(key, &zero, sizeof(zero)) == 0;
}

/* As with packets: what a question does not have is zero. */
kv_status_t kvn_packet_ask_read(
    const uint8_t *bytes, struct kvn_packet_ask *ask, struct kv_detail *detail)
{
    struct kvn_packet_ask a;
    memcpy(&a, bytes + sizeof(struct kvn_packet), sizeof(a));
    const bool explain = a.what == KVN_ASK_EXPLAIN;
    const bool list = a.what == KVN_ASK_PEERS || a.what == KVN_ASK_SPACES;
    const uint32_t allowed = explain ? KVN_ASK_TENANT | KVN_ASK_SEGMENT : 0;
    const struct {
        const char *name;
        uint64_t limit, value;
        bool ok;
    } fields[] = {
        {"ask.what", KVN_NR_ASKS - 1, a.what, a.what < KVN_NR_ASKS},
        {"ask.first", 0, a.first, list || a.first == 0},
        {"ask.group", 0, a.group, explain || a.group == 0},
        {"ask.flags", allowed, a.flags, (a.flags & ~allowed) == 0},
        {"ask.key", 0, 1, explain || key_is_zero(&a.key)},
        {"ask.segment", 0, 1,
         (a.flags & KVN_ASK_SEGMENT) != 0 || key_is_zero(&a.segment)},
        {"ask.space", sizeof(a.space) - 1, sizeof(a.space),
         memchr(a.space, 0, sizeof(a.space)) != NULL
             && (explain || a.space[0] == '\0')},
    };
    for (unsigned i = 0; i < KV_COUNT_OF(fields); i++) {
        if (!fields[i].ok) {
            return kv_fail(
                detail, KV_ERR_INVALID, fields[i].name, fields[i].limit,
                fields[i].value);
        }
    }
    *ask = a;
    return KV_OK;
}
