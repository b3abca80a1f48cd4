/* Block tables of clients of the pager level: what each has been told of its own, and
 * the notices that it is owed.
 *
 *   answer of the core ──► pages that changed, version   (kvn_seq_look, kvn_seq_write)
 *   kvn_local_switched ──► owed [first, end) ──► notice when there is room
 *
 * (4) of local_priv.h: as long as a page is owed, or an APPEND may have changed the
 * table without its answer being written, answers go on giving the version before that,
 * marked MORE.
 */
#include "node/daemon/local_priv.h"

_Static_assert(
    (int)KVN_OP_SEQ_OPEN == (int)KVO_SEQ_OPEN, "ring operations are the core's");
_Static_assert(
    (int)KVN_OP_SEQ_END == (int)KVO_SEQ_END, "ring operations are the core's");
_Static_assert((int)KVN_RING_SEQ_OPS == (int)KVO_NR_OPS, "all of them");
_Static_assert(
    (int)KVN_SEQ_PAGES_MAX == (int)KVP_SEQ_LEAF_PAGES * (int)KVP_SEQ_LEAVES_MAX,
    "one table");
_Static_assert((int)KVN_SEQ_TAILS_MAX == (int)KV_MSG_TAILS_MAX, "what a home lists");
_Static_assert((int)KVN_PACKET_ARENAS_MAX == (int)KVP_POOLS_MAX, "an arena a pool");

/* ------------------------------------------------------------------ who has which */

kv_status_t kvn_seqs_init(kvn_local_t *local, const struct kvn_local_config *config)
{
    uint16_t nr_of[KVP_TENANTS_MAX] = {0};
    local->nr_arenas = config->nr_arenas;
    for (uint32_t i = 0; i < config->nr_arenas; i++) {
        const struct kvn_local_arena *arena = &config->arenas[i];
        local->arenas[i] = *arena;
        local->arena_of[arena->pool] = nr_of[arena->tenant]++;
    }
    if (local->nr_arenas == 0) {
        return KV_OK;
    }
    local->nr_seqs = config->nr_sequences;
    local->seqs = kv_calloc(local->nr_seqs, sizeof(*local->seqs));
    return local->seqs != NULL ? KV_OK : KV_ERR_NOMEM;
}

static uint64_t wire_id(struct kvp_seq_id id)
{
    return (uint64_t)id.gen << 32 | id.index;
}

static struct kvp_seq_id core_id(uint64_t id)
{
    return (struct kvp_seq_id){.index = (uint32_t)id, .gen = (uint32_t)(id >> 32)};
}

static struct local_seq *seq_find(const struct local_conn *conn, struct kvp_seq_id id)
{
    kvn_local_t *local = conn->local;
    struct local_seq *seq = id.index < local->nr_seqs ? &local->seqs[id.index] : NULL;
    return seq != NULL && seq->conn == conn && seq->gen == id.gen ? seq : NULL;
}

static void seq_owe_nothing(struct local_seq *seq)
{
    struct local_conn *conn = seq->conn;
    struct local_seq *seqs = conn->local->seqs;
    seq->first = seq->end = 0;
    if (!seq->owed) {
        return;
    }
    seq->owed = false;
    if (seq->prev != LOCAL_NONE) {
        seqs[seq->prev].next = seq->next;
    } else {
        conn->owed = seq->next;
    }
    if (seq->next != LOCAL_NONE) {
        seqs[seq->next].prev = seq->prev;
    }
}

static void seq_owe(struct local_seq *seq, uint32_t first, uint32_t end)
{
    struct local_conn *conn = seq->conn;
    struct local_seq *seqs = conn->local->seqs;
    bool none = seq->first >= seq->end;
    seq->first = none || first < seq->first ? first : seq->first;
    seq->end = none || end > seq->end ? end : seq->end;
    if (seq->owed) {
        return;
    }
    uint32_t index = (uint32_t)(seq - seqs);
    seq->owed = true;
    seq->prev = LOCAL_NONE;
    seq->next = conn->owed;
    if (seq->next != LOCAL_NONE) {
        seqs[seq->next].prev = index;
    }
    conn->owed = index;
}

static void seq_open(struct local_conn *conn, struct kvp_seq_id id, uint64_t name)
{
    KV_ASSERT(id.index < conn->local->nr_seqs);
    struct local_seq *seq = &conn->local->seqs[id.index];
    KV_ASSERT(seq->conn == NULL);
    *seq = (struct local_seq){.conn = conn, .name = name, .gen = id.gen};
    conn->nr_seqs++;
}

static void seq_close(struct local_seq *seq)
{
    struct local_conn *conn = seq->conn;
    seq_owe_nothing(seq);
    KV_ASSERT(conn->nr_seqs > 0);
    conn->nr_seqs--;
    seq->conn = NULL;
}

void kvn_seqs_drop(struct local_conn *conn)
{
    kvn_local_t *local = conn->local;
    for (uint32_t i = 0; i < local->nr_seqs && conn->nr_seqs > 0; i++) {
        if (local->seqs[i].conn == conn) {
            seq_close(&local->seqs[i]);
        }
    }
    KV_ASSERT(conn->nr_seqs == 0 && conn->owed == LOCAL_NONE);
}

/* ------------------------------------------------------------------ requests */

uint32_t kvn_seq_pages_max(const kvn_local_t *local, const struct kvn_request *request)
{
    const struct kvn_request_head *h = &request->head;
    uint32_t tokens =
        h->variant < KVP_VARIANTS_MAX ? local->told.page_tokens[h->variant] : 0;
    switch (h->op) {
    case KVN_OP_SEQ_FETCH:
        return h->nr_keys;
    case KVN_OP_SEQ_SEAL:
        return 1;
    case KVN_OP_SEQ_FORK:
        return KVN_SEQ_ENTRIES_MAX;
    case KVN_OP_SEQ_APPEND: {
        /* One more where it begins inside a page, one more where it ends inside one. */
        uint32_t whole = tokens == 0 ? 0 : request->seq.tokens / tokens;
        return whole < KVN_SEQ_ENTRIES_MAX - 2 ? whole + 2 : KVN_SEQ_ENTRIES_MAX;
    }
    default:
        return 0;
    }
}

kv_status_t kvn_seq_check(
    const kvn_local_t *local, const struct kvn_request *request,
    struct kv_detail *detail)
{
    const struct kvn_request_head *h = &request->head;
    bool waits = h->op == KVN_OP_SEQ_FETCH || h->op == KVN_OP_SEQ_APPEND;
    if (waits && h->timeout_us == 0) {
        return kv_fail(
            detail, KV_ERR_INVALID, "request.timeout", KVN_RING_TIMEOUT_MAX_US, 0);
    }
    uint64_t tokens_max =
        (uint64_t)KVN_RING_KEYS_MAX * local->told.page_tokens[h->variant];
    if (h->op == KVN_OP_SEQ_APPEND && request->seq.tokens > tokens_max) {
        return kv_fail(
            detail, KV_ERR_TOO_LARGE, "request.tokens", tokens_max,
            request->seq.tokens);
    }
    return KV_OK;
}

void kvn_seq_begin(
    struct local_conn *conn, struct local_entry *entry,
    const struct kvn_request *request)
{
    struct local_seq *seq = seq_find(conn, core_id(request->seq.seq));
    entry->name = request->seq.name;
    entry->appends = entry->op == KVN_OP_SEQ_APPEND && seq != NULL;
    if (entry->appends) {
        seq->nr_appends++;
    }
}

void kvn_seq_cancel(
    struct local_conn *conn, struct local_entry *entry,
    const struct kvn_request *request)
{
    if (entry->appends) {
        struct local_seq *seq = seq_find(conn, core_id(request->seq.seq));
        KV_ASSERT(seq != NULL && seq->nr_appends > 0);
        seq->nr_appends--;
        entry->appends = false;
    }
}

/* ------------------------------------------------------------------ answers */

/* What is told now is owed no more. */
static void seq_told(
    struct local_seq *seq, uint32_t first, uint32_t end,
    const struct kvp_seq_info *info)
{
    if (seq->end > info->nr_pages) {
        seq->end = info->nr_pages; /* truncated since */
    }
    if (first <= seq->first && end > seq->first) {
        seq->first = end;
    }
    if (end >= seq->end && first < seq->end) {
        seq->end = first;
    }
    if (seq->first >= seq->end && seq->nr_appends == 0) { /* (4) */
        seq_owe_nothing(seq);
        seq->told = info->version;
    }
}

/* How large the client may think it is; *first, *n: what of its table that leaves. */
static void seq_size(
    struct local_seq *seq, const struct kvp_seq_info *info, bool all, uint32_t *first,
    uint32_t *n)
{
    all = all || seq->nr_appends == 0;
    seq->pages = all || info->nr_pages < seq->pages ? info->nr_pages : seq->pages;
    seq->tokens = all || info->n_tokens < seq->tokens ? info->n_tokens : seq->tokens;
    *first = *first < seq->pages ? *first : seq->pages;
    *n = *n < seq->pages - *first ? *n : seq->pages - *first;
}

static void seq_head(
    const struct local_seq *seq, struct kvp_seq_id id, const struct kvp_seq_info *info,
    struct kvn_answer_seq *head)
{
    bool more = seq->told != info->version;
    *head = (struct kvn_answer_seq){
        .seq = wire_id(id),
        .name = seq->name,
        .version = seq->told,
        .nr_pages = seq->pages,
        .n_tokens = seq->tokens,
        .first_page = head->first_page,
        .nr_entries = head->nr_entries,
        .flags = (uint16_t)(KVN_SEQ_TABLE | (more ? KVN_SEQ_MORE : 0)),
    };
}

void kvn_seq_look(
    struct local_conn *conn, struct local_entry *entry, const struct kvo_answer *answer,
    struct kvn_answer_seq *head)
{
    kvn_local_t *local = conn->local;
    struct kvp_seq_id id = answer->seq;
    bool made = entry->op == KVN_OP_SEQ_OPEN || entry->op == KVN_OP_SEQ_FORK;
    if (made && answer->status == KV_OK) {
        seq_open(conn, id, entry->name);
    }
    struct local_seq *seq = seq_find(conn, id);
    memset(head, 0, sizeof(*head));
    if (seq == NULL) {
        return; /* refused, and no sequence of its */
    }
    if (entry->appends) {
        KV_ASSERT(seq->nr_appends > 0);
        seq->nr_appends--;
    }
    if (entry->op == KVN_OP_SEQ_END && answer->status == KV_OK) {
        seq_close(seq);
        return;
    }
    struct kvp_seq_info info;
    uint32_t n =
        answer->nr_changed < entry->nr_pages ? answer->nr_changed : entry->nr_pages;
    if (local->events.table(
            local->events.arg, conn->id, id, answer->first_page, &n, local->pages,
            &info)
        != KV_OK) {
        return;
    }
    if (answer->nr_changed > 0) { /* what does not fit, or is not shown yet: notices */
        seq_owe(seq, answer->first_page, answer->first_page + answer->nr_changed);
    }
    head->first_page = answer->first_page;
    head->nr_entries = n;
    seq_size(
        seq, &info, entry->op == KVN_OP_SEQ_APPEND, &head->first_page,
        &head->nr_entries);
    seq_told(seq, head->first_page, head->first_page + head->nr_entries, &info);
    seq_head(seq, id, &info, head);
    if (seq->owed && seq->nr_appends == 0) {
        kvn_local_wake(local);
    }
    head->nr_hits = answer->nr_hits;
    head->nr_tails = (uint16_t)answer->nr_tails;
    KV_ASSERT(answer->nr_tails <= KVN_SEQ_TAILS_MAX);
}

void kvn_seq_write(
    const kvn_local_t *local, uint8_t *to, const struct kvn_answer_seq *seq,
    const struct kvo_answer *answer)
{
    memcpy(to, seq, sizeof(*seq));
    to += sizeof(*seq);
    for (uint32_t i = 0; i < seq->nr_entries; i++) {
        const struct kvo_page *from = &local->pages[i];
        const struct kvn_seq_page page = {
            .gen = from->gen,
            .block = from->pool_frame,
            .arena = local->arena_of[from->pool],
        };
        memcpy(to, &page, sizeof(page));
        to += sizeof(page);
    }
    for (uint32_t i = 0; i < seq->nr_tails; i++) {
        const struct kvn_seq_tail tail = {
            .key = answer->tails[i].key, .n_tokens = answer->tails[i].n_tokens};
        memcpy(to, &tail, sizeof(tail));
        to += sizeof(tail);
    }
}

/* ------------------------------------------------------------------ notices */

void kvn_local_switched(
    kvn_local_t *local, struct kvo_client_id client, struct kvp_seq_id id,
    uint32_t page)
{
    struct local_conn *conn =
        client.index < local->nr_clients ? local->by_index[client.index] : NULL;
    if (conn == NULL || conn->id.gen != client.gen || conn->broken) {
        return;
    }
    struct local_seq *seq = seq_find(conn, id);
    KV_ASSERT(seq != NULL); /* its client was answered before anything was in it */
    seq_owe(seq, page, page + 1);
    kvn_local_wake(local);
}

static void notice(struct local_conn *conn, struct local_seq *seq)
{
    kvn_local_t *local = conn->local;
    struct kvp_seq_id id = {.index = (uint32_t)(seq - local->seqs), .gen = seq->gen};
    struct kvn_answer_seq head = {.first_page = seq->first};
    struct kvp_seq_info info;
    uint32_t n = seq->end - seq->first;
    n = n < KVN_SEQ_ENTRIES_MAX ? n : KVN_SEQ_ENTRIES_MAX;
    KV_ASSERT(
        local->events.table(
            local->events.arg, conn->id, id, seq->first, &n, local->pages, &info)
        == KV_OK); /* its END would have been answered here */
    /* Truncated since: the version alone. */
    seq_size(seq, &info, true, &head.first_page, &n);
    head.nr_entries = n;
    uint32_t bytes = kvn_seq_answer_bytes(0, n, 0);
    uint8_t *to;
    struct kv_detail detail = {0};
    kv_status_t status = kvn_ring_room(&conn->answers, bytes, &to, &detail);
    KV_ASSERT(status != KV_ERR_AGAIN); /* kvn_local_room() */
    if (status != KV_OK) {
        kvn_local_conn_malformed(conn, &detail);
        return;
    }
    seq_told(seq, head.first_page, head.first_page + n, &info);
    seq_head(seq, id, &info, &head);
    const struct kvn_answer_head first = {
        .bytes = bytes, .type = KVN_RECORD_NOTICE, .op = KVN_OP_SEQ_CHANGED};
    memcpy(to, &first, sizeof(first));
    kvn_seq_write(local, to + sizeof(first), &head, NULL);
    kvn_ring_put(&conn->answers);
    local->counts.notices++;
    kvn_local_wake_client(conn);
}

bool kvn_seq_due(const struct local_conn *conn)
{
    const struct local_seq *seqs = conn->local->seqs;
    for (uint32_t i = conn->owed; i != LOCAL_NONE; i = seqs[i].next) {
        if (seqs[i].nr_appends == 0) {
            return true;
        }
    }
    return false;
}

void kvn_seq_notices(struct local_conn *conn)
{
    uint32_t next;
    for (uint32_t i = conn->owed; i != LOCAL_NONE && !conn->broken; i = next) {
        struct local_seq *seq = &conn->local->seqs[i];
        next = seq->next;
        if (seq->nr_appends > 0) {
            continue; /* its answer tells, or leaves it owed */
        }
        if (!kvn_local_room(conn)) {
            return;
        }
        notice(conn, seq);
    }
}
