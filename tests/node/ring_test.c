/* The rings as two sides see them: what is written comes out once, in order, whatever
 * the positions; what the other side may not have written is refused; and promised
 * answers always find room. */
#include "base/hash.h"
#include "node/ring.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct kvn_rings *rings;
static const uint32_t size = KVN_RING_BYTES_MIN;

static int rings_make(void **state)
{
    (void)state;
    rings = aligned_alloc(4096, kvn_rings_bytes(size));
    memset(rings, 0, kvn_rings_bytes(size));
    kvn_rings_format(rings, size);
    return 0;
}

static int rings_free(void **state)
{
    (void)state;
    free(rings);
    return 0;
}

/* A record of `bytes` that says its number. */
static bool write_one(struct kvn_ring *ring, uint32_t bytes, uint64_t number)
{
    uint8_t *to;
    if (kvn_ring_room(ring, bytes, &to, NULL) != KV_OK) {
        return false;
    }
    memset(to, (int)(number & 0xff), bytes);
    const struct kvn_answer_head head = {.bytes = bytes, .type = KVN_RECORD_ANSWER};
    memcpy(to, &head, 8);
    memcpy(to + 8, &number, sizeof(number));
    kvn_ring_put(ring);
    return true;
}

static bool read_one(struct kvn_ring *ring, uint64_t number)
{
    static _Thread_local uint8_t copy[KVN_REQUEST_BYTES_MAX];
    uint32_t len;
    uint64_t found;
    kv_status_t status = kvn_ring_peek(ring, copy, sizeof(copy), &len, NULL);
    if (status == KV_ERR_AGAIN) {
        return false;
    }
    assert_int_equal(status, KV_OK);
    memcpy(&found, copy + 8, sizeof(found));
    assert_int_equal(found, number);
    for (uint32_t i = 16; i < len; i++) {
        assert_int_equal(copy[i], number & 0xff);
    }
    kvn_ring_take(ring);
    return true;
}

/* Sizes and turns drawn at random: everything comes out, in order, past many ends. */
static void ring__gives_what_it_took(void **state)
{
    struct kvn_ring out, in;
    struct kv_rng rng = kv_rng_seed(7);
    uint64_t written = 0, read = 0;
    (void)state;
    kvn_ring_bind(&out, rings, size, KVN_ANSWER_OUT);
    kvn_ring_bind(&in, rings, size, KVN_ANSWER_IN);
    while (read < 20000) {
        uint32_t bytes = 16 + (uint32_t)(kv_rng_next(&rng) % 5000) * 8;
        if (kv_rng_next(&rng) % 2 == 0) {
            written += write_one(&out, bytes, written);
        } else {
            read += read_one(&in, read);
        }
    }
}

/* (4) of ring.h: with no more than size - A written and promised, the promised fit, in
 * any order of sizes and wherever the ring stands. */
static void ring__has_room_for_what_was_promised(void **state)
{
    enum { A = KVN_ANSWER_BYTES_MAX, NR = 4096 };
    static uint32_t promised[NR];
    struct kvn_ring out, in;
    struct kv_rng rng = kv_rng_seed(11);
    (void)state;
    kvn_ring_bind(&out, rings, size, KVN_ANSWER_OUT);
    kvn_ring_bind(&in, rings, size, KVN_ANSWER_IN);
    for (unsigned round = 0; round < 2000; round++) {
        uint32_t nr = 0, sum = 0, used;
        assert_int_equal(kvn_ring_used(&out, &used, NULL), KV_OK);
        while (nr < NR) {
            uint32_t bytes = kvn_answer_bytes((uint32_t)(kv_rng_next(&rng) % 1025));
            if (used + sum + bytes + A > size) {
                break;
            }
            promised[nr++] = bytes;
            sum += bytes;
        }
        uint32_t rest = (uint32_t)(kv_rng_next(&rng) % (nr + 1));
        for (uint32_t i = 0; i < nr; i++) {
            assert_true(write_one(&out, promised[i], round));
        }
        for (uint32_t i = 0; i < nr + 8; i++) { /* leaves some for the next round */
            static uint8_t copy[A];
            uint32_t len;
            if (i < rest || kvn_ring_peek(&in, copy, A, &len, NULL) != KV_OK) {
                continue;
            }
            kvn_ring_take(&in);
        }
    }
}

enum { PASSED = 100000 };

static void *producer(void *arg)
{
    struct kvn_ring out;
    struct kv_rng rng = kv_rng_seed(3);
    (void)arg;
    kvn_ring_bind(&out, rings, size, KVN_ANSWER_OUT);
    for (uint64_t i = 0; i < PASSED;) {
        i += write_one(&out, 16 + (uint32_t)(kv_rng_next(&rng) % 64) * 8, i);
    }
    return NULL;
}

/* Two threads on one mapping: what the thread sanitizer can judge of the ordering. */
static void ring__passes_bytes_between_threads(void **state)
{
    pthread_t thread;
    struct kvn_ring in;
    (void)state;
    kvn_ring_bind(&in, rings, size, KVN_ANSWER_IN);
    assert_int_equal(pthread_create(&thread, NULL, producer, NULL), 0);
    for (uint64_t i = 0; i < PASSED;) {
        i += read_one(&in, i);
    }
    pthread_join(thread, NULL);
    assert_false(kvn_ring_any(&in));
}

static _Atomic uint32_t woken;

static void *sleeper(void *arg)
{
    struct kvn_ring in;
    (void)arg;
    kvn_ring_bind(&in, rings, size, KVN_ANSWER_IN);
    for (uint64_t i = 0; i < PASSED / 4;) {
        if (read_one(&in, i)) {
            i++;
            continue;
        }
        atomic_store_explicit(&rings->client_sleeps, KVN_ASLEEP, memory_order_seq_cst);
        if (!kvn_ring_any(&in)) {
            while (atomic_exchange(&woken, 0) == 0) { /* a missed wake hangs here */
                sched_yield();
            }
        }
        atomic_store_explicit(&rings->client_sleeps, KVN_AWAKE, memory_order_seq_cst);
    }
    return NULL;
}

/* The flag and the second look: a sleeper is never left with something to read. */
static void ring__wakes_who_sleeps(void **state)
{
    pthread_t thread;
    struct kvn_ring out;
    uint64_t wakes = 0;
    (void)state;
    kvn_ring_bind(&out, rings, size, KVN_ANSWER_OUT);
    assert_int_equal(pthread_create(&thread, NULL, sleeper, NULL), 0);
    for (uint64_t i = 0; i < PASSED / 4;) {
        if (write_one(&out, 16, i)) {
            i++;
            if (kvn_ring_must_wake(&rings->client_sleeps, KVN_ASLEEP)) {
                atomic_store(&woken, 1);
                wakes++;
            }
            /* Some records meet a sleeper, others one who is about to sleep. */
            for (unsigned n = 0; i % 64 == 0 && n < 100000
                                 && atomic_load(&rings->client_sleeps) == KVN_AWAKE;
                 n++) {
                sched_yield();
            }
        }
    }
    pthread_join(thread, NULL);
    print_message("%llu wakes\n", (unsigned long long)wakes);
}

/* ------------------------------------------------------------------ refused */

static void expect_refused(struct kvn_ring *in, const char *field)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX];
    struct kv_detail detail = {0};
    uint32_t len;
    assert_int_equal(
        kvn_ring_peek(in, copy, sizeof(copy), &len, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, field);
}

/* Every position and length that a writer cannot have meant. */
static void ring__refuses_what_cannot_be(void **state)
{
    const struct {
        const char *field;
        uint64_t tail;
        uint32_t bytes;
        uint16_t type;
    } cases[] = {
        {"ring.tail", size + 8, 0, 0},
        {"ring.tail", UINT64_MAX - 7, 0, 0},
        {"ring.tail", 12, 0, 0},
        {"record.bytes", 64, 72, KVN_RECORD_REQUEST},
        {"record.bytes", 64, 0, KVN_RECORD_REQUEST},
        {"record.bytes", 64, 60, KVN_RECORD_REQUEST},
        {"record.bytes", size, KVN_REQUEST_BYTES_MAX + 8, KVN_RECORD_REQUEST},
        {"record.bytes", 64, UINT32_MAX, KVN_RECORD_REQUEST},
        {"record.bytes", 64, UINT32_MAX - 7, KVN_RECORD_SKIP},
        {"record.skip", 64, 64, KVN_RECORD_SKIP},
        {"record.skip", size, size, KVN_RECORD_SKIP}, /* and nothing behind it */
    };
    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct kvn_ring in;
        const uint16_t words[4] = {
            (uint16_t)cases[i].bytes, (uint16_t)(cases[i].bytes >> 16), cases[i].type,
            0};
        kvn_ring_bind(&in, rings, size, KVN_REQUEST_IN);
        memcpy(in.bytes, words, sizeof(words));
        atomic_store(&rings->request_tail, cases[i].tail);
        expect_refused(&in, cases[i].field);
    }
    struct kvn_ring in, out;
    kvn_ring_bind(&in, rings, size, KVN_REQUEST_IN);
    in.at = in.seen = 128; /* a tail that goes back */
    atomic_store(&rings->request_tail, 120);
    expect_refused(&in, "ring.tail");
    uint8_t *to;
    kvn_ring_bind(&out, rings, size, KVN_ANSWER_OUT);
    for (unsigned i = 0; i < 2; i++) {
        out.at = size;
        out.seen = i == 0 ? 0 : 64;
        atomic_store(&rings->answer_head, i == 0 ? size + 8 : 56);
        assert_int_equal(kvn_ring_room(&out, size / 2, &to, NULL), KV_ERR_INVALID);
    }
}

/* A record is taken apart only when every length in it is the one that it must have. */
static void request__is_refused_field_by_field(void **state)
{
    static uint8_t copy[KVN_REQUEST_BYTES_MAX] __attribute__((aligned(8)));
    struct kvn_request request;
    struct kv_detail detail;
    const uint32_t len = kvn_request_bytes(KVN_OP_GET, 3, true);
    const struct kvn_request_head good = {
        .bytes = len,
        .type = KVN_RECORD_REQUEST,
        .op = KVN_OP_GET,
        .nr_keys = 3,
        .flags = KVN_REQUEST_TOKENS,
    };
    (void)state;
    assert_int_equal(len, 104 + 3 * 44 + 4);
    memcpy(copy, &good, sizeof(good));
    assert_int_equal(kvn_request_read(copy, len, &request, &detail), KV_OK);
    assert_ptr_equal(request.keys, copy + 104);
    assert_ptr_equal(request.addresses, copy + 104 + 96);
    assert_ptr_equal(request.n_tokens, copy + 104 + 96 + 24);
    for (unsigned i = 0; i < 8; i++) {
        static const char *const fields[] = {
            "request.type",  "request.op",    "request.keys",  "request.keys",
            "request.flags", "request.bytes", "request.bytes", "request.zero"};
        struct kvn_request_head bad = good;
        bad.type = i == 0 ? KVN_RECORD_ANSWER : bad.type;
        bad.op = i == 1 ? KVN_RING_SEQ_OPS : bad.op;
        bad.nr_keys = i == 2 ? 0 : i == 3 ? KVN_RING_KEYS_MAX + 1 : bad.nr_keys;
        bad.flags = (uint16_t)(i == 4 ? bad.flags | 4 : bad.flags);
        bad.nr_keys = i == 5 ? 4 : bad.nr_keys;
        bad.op = i == 6 ? KVN_OP_PIN : bad.op;
        bad.zero = i == 7;
        memcpy(copy, &bad, sizeof(bad));
        assert_int_equal(
            kvn_request_read(copy, len, &request, &detail), KV_ERR_INVALID);
        assert_string_equal(detail.field, fields[i]);
    }
    assert_int_equal(kvn_request_read(copy, 96, &request, &detail), KV_ERR_INVALID);
}

/* What a sequence's answer says fits its length, its table and its bounds. */
static void answer__of_a_sequence_is_refused_field_by_field(void **state)
{
    static uint8_t copy[KVN_SEQ_ANSWER_BYTES_MAX] __attribute__((aligned(8)));
    struct kvn_answer answer;
    struct kv_detail detail;
    const uint32_t len = kvn_seq_answer_bytes(3, 2, 1);
    const struct kvn_answer_head good = {
        .bytes = len,
        .type = KVN_RECORD_ANSWER,
        .op = KVN_OP_SEQ_FETCH,
        .nr_keys = 3,
    };
    const struct kvn_answer_seq seq = {
        .nr_pages = 9, .first_page = 7, .nr_entries = 2, .nr_tails = 1};
    (void)state;
    assert_int_equal(len, 72 + 48 + 2 * 16 + 40 + 24);
    memcpy(copy, &good, sizeof(good));
    memcpy(copy + 72, &seq, sizeof(seq));
    assert_int_equal(kvn_answer_read(copy, len, &answer, &detail), KV_OK);
    assert_ptr_equal(answer.pages, copy + 120);
    assert_ptr_equal(answer.tails, copy + 120 + 32);
    assert_ptr_equal(answer.statuses, copy + 120 + 32 + 40);
    for (unsigned i = 0; i < 9; i++) {
        static const char *const fields[] = {
            "answer.pages", "answer.entries", "answer.entries",
            "answer.tails", "answer.flags",   "answer.bytes",
            "answer.keys",  "answer.op",      "answer.op"};
        struct kvn_answer_head head = good;
        struct kvn_answer_seq bad = seq;
        bad.nr_pages = i == 0 ? KVN_SEQ_PAGES_MAX + 1 : bad.nr_pages;
        bad.first_page = i == 1 ? 8 : i == 2 ? UINT32_MAX : bad.first_page;
        bad.nr_tails = i == 3 ? KVN_SEQ_TAILS_MAX + 1 : bad.nr_tails;
        bad.flags = i == 4 ? 4 : 0;
        bad.nr_tails = i == 5 ? 2 : bad.nr_tails;
        head.op = i == 6 ? KVN_OP_SEQ_END : head.op;
        head.op = i == 7 ? KVN_OP_SEQ_CHANGED : head.op;
        head.type = i == 8 ? KVN_RECORD_NOTICE : head.type; /* of no operation */
        memcpy(copy, &head, sizeof(head));
        memcpy(copy + 72, &bad, sizeof(bad));
        assert_int_equal(kvn_answer_read(copy, len, &answer, &detail), KV_ERR_INVALID);
        assert_string_equal(detail.field, fields[i]);
    }
    assert_int_equal(kvn_answer_read(copy, 112, &answer, &detail), KV_ERR_INVALID);
}

/* Of arenas the packet says what its descriptors can hold. */
static void packet__arenas_are_what_their_bytes_hold(void **state)
{
    struct {
        struct kvn_packet packet;
        struct kvn_packet_arena arenas[2];
    } sent;
    struct kvn_packet read;
    struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    struct kvn_packet_arena arenas[KVN_PACKET_ARENAS_MAX];
    const uint8_t *bytes = (const uint8_t *)&sent;
    (void)state;
    memset(&sent, 0, sizeof(sent));
    kvn_packet_init(&sent.packet, KVN_PACKET_ATTACHED);
    sent.packet.nr_arenas = 2;
    for (unsigned i = 0; i < 2; i++) {
        sent.arenas[i] = (struct kvn_packet_arena){
            .bytes = 8192, .block_bytes = 4096, .nr_blocks = 2};
    }
    assert_int_equal(kvn_packet_read(bytes, sizeof(sent), &read, spaces, NULL), KV_OK);
    assert_int_equal(kvn_packet_arenas(bytes, &read, arenas, NULL), KV_OK);
    assert_int_equal(arenas[1].nr_blocks, 2);
    assert_int_equal(
        kvn_packet_read(bytes, sizeof(sent) - 16, &read, spaces, NULL), KV_ERR_INVALID);
    const struct kvn_packet_arena bad[] = {
        {8192, 4096, 3}, {8192, 0, 2}, {8192, 4096, 0}, {UINT64_MAX, 1, UINT32_MAX}};
    for (unsigned i = 0; i < 4; i++) {
        sent.arenas[1] = bad[i];
        assert_int_equal(kvn_packet_arenas(bytes, &read, arenas, NULL), KV_ERR_INVALID);
    }
    sent.packet.nr_arenas = KVN_PACKET_ARENAS_MAX + 1;
    assert_int_equal(
        kvn_packet_read(bytes, sizeof(sent), &read, spaces, NULL), KV_ERR_INVALID);
    sent.packet.nr_arenas = 2;
    sent.packet.type = KVN_PACKET_BUFFERED;
    assert_int_equal(
        kvn_packet_read(bytes, sizeof(sent), &read, spaces, NULL), KV_ERR_INVALID);
}

/* A field that a packet's type does not have must be zero; another version is said. */
static void packet__is_refused_field_by_field(void **state)
{
    struct kvn_packet packet, read;
    struct kv_detail detail;
    (void)state;
    kvn_packet_init(&packet, KVN_PACKET_UNBUFFER);
    packet.buffer = 7;
    const uint8_t *bytes = (const uint8_t *)&packet;
    size_t len = sizeof(packet);
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_OK);
    assert_int_equal(read.buffer, 7);
    assert_int_equal(
        kvn_packet_read(bytes, len - 1, &read, NULL, &detail), KV_ERR_INVALID);
    assert_int_equal(kvn_packet_read(bytes, 0, &read, NULL, &detail), KV_ERR_INVALID);
    packet.tenant = 1;
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "packet.tenant");
    packet.tenant = 0;
    packet.nr_spaces = 1;
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_INVALID);
    packet.nr_spaces = 0;
    packet.version = 2;
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_VERSION);
    packet.version = 1;
    packet.type = KVN_PACKET_NR_TYPES;
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_INVALID);
    kvn_packet_init(&packet, KVN_PACKET_REFUSED);
    memset(packet.field, 'x', sizeof(packet.field));
    assert_int_equal(kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_INVALID);
    assert_string_equal(detail.field, "packet.field");
}

/* A refusal says what it was made of; a number that is no refusal is INVALID. */
static void packet__refusal_has_a_status(void **state)
{
    const struct kv_detail why = {.field = "attach.level", .limit = 1, .value = 2};
    struct kvn_packet packet, read;
    struct kv_detail detail;
    (void)state;
    kvn_packet_refuse(&packet, 5, KV_ERR_AGAIN, &why);
    assert_int_equal(
        kvn_packet_read((uint8_t *)&packet, sizeof(packet), &read, NULL, NULL), KV_OK);
    assert_int_equal(read.type, KVN_PACKET_REFUSED);
    assert_int_equal(read.req, 5);
    assert_int_equal(kvn_packet_refused(&read, &detail), KV_ERR_AGAIN);
    assert_string_equal(detail.field, "attach.level");
    assert_int_equal(detail.limit, 1);
    assert_int_equal(detail.value, 2);
    kvn_packet_refuse(&packet, 0, KV_ERR_DENIED, &(struct kv_detail){0});
    assert_int_equal(kvn_packet_refused(&packet, &detail), KV_ERR_DENIED);
    assert_null(detail.field);
    const int32_t others[] = {KV_OK, KV_INPROGRESS, 1, -9999, INT32_MIN};
    for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        packet.status = others[i];
        assert_int_equal(kvn_packet_refused(&packet, &detail), KV_ERR_INVALID);
    }
}

/* A question has what its kind has, and nothing else. */
static void packet__ask_is_refused_field_by_field(void **state)
{
    struct {
        struct kvn_packet packet;
        struct kvn_packet_ask ask;
    } sent;
    struct kvn_packet read;
    struct kvn_packet_ask ask;
    struct kv_detail detail;
    const uint8_t *bytes = (const uint8_t *)&sent;
    (void)state;
    memset(&sent, 0, sizeof(sent));
    kvn_packet_init(&sent.packet, KVN_PACKET_ASK);
    sent.packet.nonce = 5;
    sent.packet.tenant = 7;
    sent.ask = (struct kvn_packet_ask){
        .what = KVN_ASK_EXPLAIN,
        .group = 2,
        .flags = KVN_ASK_TENANT | KVN_ASK_SEGMENT,
        .key.b = {1},
        .segment.b = {2},
        .space = "chat",
    };
    const struct kvn_packet_ask good = sent.ask;
    assert_int_equal(kvn_packet_read(bytes, sizeof(sent), &read, NULL, &detail), KV_OK);
    assert_int_equal(kvn_packet_ask_read(bytes, &ask, &detail), KV_OK);
    assert_memory_equal(&ask, &good, sizeof(ask));
    for (size_t len = sizeof(sent.packet); len < sizeof(sent); len++) {
        assert_int_equal(
            kvn_packet_read(bytes, len, &read, NULL, &detail), KV_ERR_INVALID);
        assert_string_equal(detail.field, "packet.length");
    }
    static const char *const fields[] = {
        "ask.what",  "ask.flags", "ask.segment", "ask.space", "ask.first",
        "ask.group", "ask.key",   "ask.flags",   "ask.space", "ask.first"};
    for (unsigned i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        sent.ask = i < 5 ? good : (struct kvn_packet_ask){.what = KVN_ASK_STATUS};
        switch (i) {
        case 0:
            sent.ask.what = KVN_NR_ASKS;
            break;
        case 1:
        case 7:
            sent.ask.flags = 4;
            break;
        case 2:
            sent.ask.flags = KVN_ASK_TENANT;
            break;
        case 3:
            memset(sent.ask.space, 'x', sizeof(sent.ask.space));
            break;
        case 4:
        case 9:
            sent.ask.first = 1;
            break;
        case 5:
            sent.ask.group = 1;
            break;
        case 6:
            sent.ask.key.b[31] = 1;
            break;
        case 8:
            sent.ask.space[0] = 'x';
            break;
        }
        assert_int_equal(kvn_packet_ask_read(bytes, &ask, &detail), KV_ERR_INVALID);
        assert_string_equal(detail.field, fields[i]);
        assert_memory_equal(&ask, &good, sizeof(ask));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            ring__gives_what_it_took, rings_make, rings_free),
        cmocka_unit_test_setup_teardown(
            ring__has_room_for_what_was_promised, rings_make, rings_free),
        cmocka_unit_test_setup_teardown(
            ring__passes_bytes_between_threads, rings_make, rings_free),
        cmocka_unit_test_setup_teardown(ring__wakes_who_sleeps, rings_make, rings_free),
        cmocka_unit_test_setup_teardown(
            ring__refuses_what_cannot_be, rings_make, rings_free),
        cmocka_unit_test(request__is_refused_field_by_field),
        cmocka_unit_test(answer__of_a_sequence_is_refused_field_by_field),
        cmocka_unit_test(packet__arenas_are_what_their_bytes_hold),
        cmocka_unit_test(packet__is_refused_field_by_field),
        cmocka_unit_test(packet__refusal_has_a_status),
        cmocka_unit_test(packet__ask_is_refused_field_by_field),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
