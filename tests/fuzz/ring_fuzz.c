/* Whatever lies in a ring: kvn_ring_peek() copies nothing past its room and the ring;
 * what it gives is taken apart within its length or refused. Input: u64 head, u64 tail,
 * then the ring's first bytes; the same bytes are read as requests and as answers. */
#include "base/assert.h"
#include "node/ring.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RING = KVN_RING_BYTES_MIN };

static void request_look(const uint8_t *copy, uint32_t len)
{
    /* Exactly as long as it says: a read past it is a finding. */
    uint8_t *exact = malloc(len);
    struct kvn_request request;
    struct kv_detail detail = {0};
    KV_ASSERT(exact != NULL);
    memcpy(exact, copy, len);
    if (kvn_request_read(exact, len, &request, &detail) == KV_OK) {
        uint32_t n = request.head.nr_keys;
        bool none = kvn_op_seq(request.head.op) && request.keys == NULL;
        uint64_t sum = none ? 0 : request.keys[n - 1].b[KV_KEY_BYTES - 1];
        sum += request.seq.seq + request.seq.tokens;
        sum += request.addresses != NULL ? request.addresses[n - 1] : 0;
        sum += request.n_tokens != NULL ? request.n_tokens[n - 1] : 0;
        KV_ASSERT((n > 0 || none) && n <= KVN_RING_KEYS_MAX && (sum | 1) != 0);
        KV_ASSERT(request.head.op < KVN_RING_SEQ_OPS);
    } else {
        KV_ASSERT(detail.field != NULL);
    }
    free(exact);
}

static void answer_look(const uint8_t *copy, uint32_t len)
{
    uint8_t *exact = malloc(len);
    struct kvn_answer answer;
    KV_ASSERT(exact != NULL);
    memcpy(exact, copy, len);
    if (kvn_answer_read(exact, len, &answer, NULL) == KV_OK) {
        const struct kvn_answer_seq *seq = &answer.seq;
        uint32_t n = answer.head.nr_keys;
        int64_t sum = 0;
        if (n > 0) {
            sum += (int64_t)answer.statuses[n - 1] + answer.reasons[n - 1]
                   + answer.places[n - 1];
        }
        if (seq->nr_entries > 0) {
            KV_ASSERT(seq->first_page + seq->nr_entries <= seq->nr_pages);
            KV_ASSERT(seq->nr_pages <= KVN_SEQ_PAGES_MAX);
            sum += answer.pages[seq->nr_entries - 1].block;
        }
        if (seq->nr_tails > 0) {
            sum += answer.tails[seq->nr_tails - 1].n_tokens;
        }
        KV_ASSERT((sum | 1) != 0 && strlen(answer.head.field) < KVN_RING_FIELD_MAX);
    }
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    uint64_t head, tail;
    if (size < 16) {
        return 0;
    }
    memcpy(&head, data, 8);
    memcpy(&tail, data + 8, 8);
    size_t n = size - 16 < RING ? size - 16 : RING;
    uint8_t *ring = aligned_alloc(64, RING); /* its end is the ring's */
    KV_ASSERT(ring != NULL);
    memset(ring, 0, RING);
    memcpy(ring, data + 16, n);
    _Atomic uint64_t mine = 0, theirs = tail;
    struct kvn_ring in = {
        .mine = &mine,
        .theirs = &theirs,
        .bytes = ring,
        .size = RING,
        .at = head / KVN_RING_ALIGN * KVN_RING_ALIGN,
    };
    in.seen = in.at;
    for (;;) {
        struct kv_detail detail = {0};
        uint64_t before = in.at;
        uint32_t len = 0;
        kv_status_t status = kvn_ring_peek(&in, copy, sizeof(copy), &len, &detail);
        if (status != KV_OK) {
            KV_ASSERT(KV_IMPLIES(status != KV_ERR_AGAIN, detail.field != NULL));
            break;
        }
        KV_ASSERT(len >= 8 && len <= sizeof(copy) && len % KVN_RING_ALIGN == 0);
        request_look(copy, len);
        answer_look(copy, len);
        kvn_ring_take(&in);
        KV_ASSERT(in.at - before <= RING && tail - in.at <= RING);
    }
    free(ring);
    return 0;
}
