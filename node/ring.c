#define _GNU_SOURCE
#include "node/ring.h"

#include "base/assert.h"
#include "base/fault.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
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
_Static_assert(sizeof(struct kvn_request_seq) == 32, "documented");
_Static_assert(sizeof(struct kvn_answer_seq) == 48, "documented");
_Static_assert(sizeof(struct kvn_seq_page) == 16, "documented");
_Static_assert(sizeof(struct kvn_seq_tail) == 40, "documented");
_Static_assert(sizeof(struct kvn_packet_arena) == 16, "documented");
_Static_assert(2 * KVN_SEQ_ANSWER_BYTES_MAX <= KVN_RING_BYTES_MIN, "one may be asked");
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

kv_status_t kvn_memfd_check(int fd, uint64_t bytes, struct kv_detail *detail)
{
    struct statfs fs;
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstatfs(fd, &fs) != 0 || fstat(fd, &st) != 0
        || fs.f_type != TMPFS_MAGIC) {
        return kv_fail(detail, KV_ERR_INVALID, "buffer.memfd", 1, 0);
    }
    if ((seals & F_SEAL_SHRINK) == 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "buffer.seals", F_SEAL_SHRINK, (uint64_t)seals);
    }
    /* After the seal was seen: it cannot become less any more. */
    if (bytes == 0 || st.st_size < 0 || bytes > (uint64_t)st.st_size
        || bytes >> KVN_OFFSET_BITS != 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "buffer.bytes", (uint64_t)st.st_size, bytes);
    }
    return KV_OK;
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
    uint32_t seq = kvn_op_seq(op) ? sizeof(struct kvn_request_seq) : 0;
    return padded(sizeof(struct kvn_request_head) + seq + nr_keys * each);
}

uint32_t kvn_answer_bytes(uint32_t nr_keys)
{
    return padded(sizeof(struct kvn_answer_head) + (uint64_t)nr_keys * 6);
}

uint32_t kvn_seq_answer_bytes(uint32_t nr_keys, uint32_t nr_entries, uint32_t nr_tails)
{
    size_t seq = sizeof(struct kvn_answer_seq);
    seq += nr_entries * sizeof(struct kvn_seq_page);
    seq += nr_tails * sizeof(struct kvn_seq_tail);
    return (uint32_t)seq + kvn_answer_bytes(nr_keys);
}

/* How many keys a request may have. */
static uint32_t keys_min(uint32_t op)
{
    return !kvn_op_seq(op) || op == KVN_OP_SEQ_FETCH || op == KVN_OP_SEQ_SEAL;
}

static uint32_t keys_max(uint32_t op)
{
    return !kvn_op_seq(op) || op == KVN_OP_SEQ_FETCH ? KVN_RING_KEYS_MAX : keys_min(op);
}

static kv_status_t
request_head_check(const struct kvn_request_head *h, struct kv_detail *detail)
{
    if (h->type != KVN_RECORD_REQUEST) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.type", KVN_RECORD_REQUEST, h->type);
    }
    if (h->op >= KVN_RING_SEQ_OPS) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.op", KVN_RING_SEQ_OPS - 1, h->op);
    }
    if (h->nr_keys < keys_min(h->op) || h->nr_keys > keys_max(h->op)) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.keys", keys_max(h->op), h->nr_keys);
    }
    uint16_t flags = keys_max(h->op) > 1 ? KVN_REQUEST_LOOSE | KVN_REQUEST_TOKENS : 0;
    if ((h->flags & ~flags) != 0) {
        return kv_fail(detail, KV_ERR_INVALID, "request.flags", flags, h->flags);
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
    if (kvn_op_seq(read.head.op)) {
        memcpy(&read.seq, next, sizeof(read.seq));
        next += sizeof(read.seq);
    }
    read.keys = n > 0 ? (kv_key_t *)(void *)next : NULL;
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

static kv_status_t
answer_head_check(const struct kvn_answer_head *h, struct kv_detail *detail)
{
    bool notice = h->type == KVN_RECORD_NOTICE;
    uint32_t ops = notice ? KVN_OP_SEQ_CHANGED + 1 : KVN_RING_SEQ_OPS;
    if (h->type != KVN_RECORD_ANSWER && !notice) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.type", KVN_RECORD_ANSWER, h->type);
    }
    if (h->op >= ops || (notice && h->op != KVN_OP_SEQ_CHANGED)) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.op", ops - 1, h->op);
    }
    uint32_t keys = notice ? 0 : keys_max(h->op);
    if (h->nr_keys > keys) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.keys", keys, h->nr_keys);
    }
    if (memchr(h->field, 0, sizeof(h->field)) == NULL) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.field", sizeof(h->field) - 1,
            sizeof(h->field));
    }
    return KV_OK;
}

static kv_status_t
answer_seq_check(const struct kvn_answer_seq *seq, struct kv_detail *detail)
{
    if (seq->nr_pages > KVN_SEQ_PAGES_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.pages", KVN_SEQ_PAGES_MAX, seq->nr_pages);
    }
    uint32_t left =
        seq->first_page > seq->nr_pages ? 0 : seq->nr_pages - seq->first_page;
    uint32_t most = left < KVN_SEQ_ENTRIES_MAX ? left : KVN_SEQ_ENTRIES_MAX;
    if (seq->nr_entries > most || seq->first_page > seq->nr_pages) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.entries", most, seq->nr_entries);
    }
    if (seq->nr_tails > KVN_SEQ_TAILS_MAX) {
        return kv_fail(
            detail, KV_ERR_INVALID, "answer.tails", KVN_SEQ_TAILS_MAX, seq->nr_tails);
    }
    uint16_t flags = KVN_SEQ_MORE | KVN_SEQ_TABLE;
    if ((seq->flags & ~flags) != 0) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.flags", flags, seq->flags);
    }
    return KV_OK;
}

kv_status_t kvn_answer_read(
    const uint8_t *copy, uint32_t len, struct kvn_answer *answer,
    struct kv_detail *detail)
{
    struct kvn_answer read = {0};
    const struct kvn_answer_head *h = &read.head;
    uint32_t least = sizeof(read.head);
    if (len >= least) {
        memcpy(&read.head, copy, sizeof(read.head));
        least += kvn_op_seq(h->op) ? (uint32_t)sizeof(read.seq) : 0;
    }
    if (len < least) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.bytes", least, len);
    }
    kv_status_t status = answer_head_check(h, detail);
    if (status != KV_OK) {
        return status;
    }
    const uint8_t *next = copy + sizeof(read.head);
    uint32_t n = h->nr_keys, wanted = kvn_answer_bytes(n);
    if (kvn_op_seq(h->op)) {
        memcpy(&read.seq, next, sizeof(read.seq));
        status = answer_seq_check(&read.seq, detail);
        if (status != KV_OK) {
            return status;
        }
        wanted = kvn_seq_answer_bytes(n, read.seq.nr_entries, read.seq.nr_tails);
        next += sizeof(read.seq);
    }
    if (len != wanted || h->bytes != len) {
        return kv_fail(detail, KV_ERR_INVALID, "answer.bytes", wanted, len);
    }
    read.pages = (const struct kvn_seq_page *)(const void *)next;
    read.tails =
        (const struct kvn_seq_tail *)(const void *)(read.pages + read.seq.nr_entries);
    read.statuses = (const int32_t *)(const void *)(read.tails + read.seq.nr_tails);
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

void kvn_packet_refuse(
    struct kvn_packet *packet, uint64_t req, kv_status_t status,
    const struct kv_detail *detail)
{
    kvn_packet_init(packet, KVN_PACKET_REFUSED);
    packet->req = req;
    packet->status = status;
    packet->limit = detail->limit;
    packet->value = detail->value;
    if (detail->field != NULL) {
        (void)snprintf(packet->field, sizeof(packet->field), "%s", detail->field);
    }
}

kv_status_t
kvn_packet_refused(const struct kvn_packet *packet, struct kv_detail *detail)
{
    *detail = (struct kv_detail){
        .field = packet->field[0] != '\0' ? packet->field : NULL,
        .limit = packet->limit,
        .value = packet->value,
    };
    return packet->status < 0 && kv_status_known(packet->status)
               ? (kv_status_t)packet->status
               : KV_ERR_INVALID;
}

bool kvn_packet_send_fds(
    int sock, const void *bytes, size_t len, const int *fds, uint32_t nr_fds)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    _Alignas(
        struct cmsghdr) char control[CMSG_SPACE(KVN_PACKET_FDS_MAX * sizeof(int))] = {
        0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    KV_ASSERT(nr_fds <= KVN_PACKET_FDS_MAX);
    if (nr_fds > 0) {
        size_t size = nr_fds * sizeof(int);
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(cmsg), fds, size);
    }
    return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

bool kvn_packet_send(int sock, const void *bytes, size_t len, int fd)
{
    return kvn_packet_send_fds(sock, bytes, len, &fd, fd >= 0);
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
    HAS_ARENAS = 1 << 10,
};

static const uint16_t packet_has[KVN_PACKET_NR_TYPES] = {
    [KVN_PACKET_GREETING] = HAS_NONCE,
    [KVN_PACKET_ATTACH] = HAS_NONCE | HAS_TENANT | HAS_RING | HAS_LEVEL,
    [KVN_PACKET_ATTACHED] = HAS_RING | HAS_SPACES | HAS_ARENAS,
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
        {HAS_ARENAS, "packet.arenas", p->nr_arenas},
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
    room = spaces != NULL ? KVN_PACKET_ARENAS_MAX : 0;
    if (p.nr_arenas > room) {
        return kv_fail(detail, KV_ERR_INVALID, "packet.arenas", room, p.nr_arenas);
    }
    size_t wanted = sizeof(p) + p.nr_spaces * sizeof(struct kvn_packet_space)
                    + p.nr_arenas * sizeof(struct kvn_packet_arena)
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

kv_status_t kvn_packet_arenas(
    const uint8_t *bytes, const struct kvn_packet *packet,
    struct kvn_packet_arena *arenas, struct kv_detail *detail)
{
    const uint8_t *from =
        bytes + sizeof(*packet) + packet->nr_spaces * sizeof(struct kvn_packet_space);
    for (uint32_t i = 0; i < packet->nr_arenas; i++) {
        struct kvn_packet_arena *arena = &arenas[i];
        memcpy(arena, from + i * sizeof(*arena), sizeof(*arena));
        uint64_t blocks = (uint64_t)arena->block_bytes * arena->nr_blocks;
        if (blocks == 0 || blocks > arena->bytes || arena->nr_blocks > INT32_MAX) {
            return kv_fail(
                detail, KV_ERR_INVALID, "packet.arena", packet->nr_arenas, i);
        }
    }
    return KV_OK;
}
