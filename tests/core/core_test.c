/* What a client is told: every request ends once, each key by itself, and what is wrong
 * with it is named. What a client held is given back however it leaves. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct ck ck;

static void expect_detail(const char *field, uint64_t limit, uint64_t value)
{
    assert_non_null(ck.answer.detail.field);
    assert_string_equal(ck.answer.detail.field, field);
    assert_int_equal(ck.answer.detail.limit, limit);
    assert_int_equal(ck.answer.detail.value, value);
}

/* The line that a person reads of it. */
static void expect_line(kv_status_t status, const char *line)
{
    char text[256];
    kv_detail_format(&ck.answer.detail, status, text, sizeof(text));
    assert_string_equal(text, line);
}

static void write_pages(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        memset(ck_page(&ck, i), (int)(1 + i % 251), CK_PAGE_BYTES);
    }
}

/* ------------------------------------------------------------------ batches */

enum { BATCH = 1000, ZERO_KEY = 100, NO_TOKENS = 500, MANY_TOKENS = 900 };

static bool is_bad(uint32_t i)
{
    return i == ZERO_KEY || i == NO_TOKENS || i == MANY_TOKENS;
}

static void put_and_get_a_thousand(uint32_t nr_ops)
{
    static kv_key_t keys[BATCH];
    static uint64_t buffers[BATCH];
    static uint32_t tokens[BATCH];

    ck_init(&ck);
    ck.config.nr_ops = nr_ops;
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    write_pages(BATCH);
    ck_keys(keys, 0, BATCH);
    keys[ZERO_KEY] = (kv_key_t){{0}};
    for (uint32_t i = 0; i < BATCH; i++) {
        buffers[i] = (uint64_t)i * CK_PAGE_BYTES;
        tokens[i] = CK_PAGE_TOKENS;
    }
    tokens[NO_TOKENS] = 0;
    tokens[MANY_TOKENS] = CK_PAGE_TOKENS + 1;
    struct kvo_request request = {
        .op = KVO_PUT,
        .keys = keys,
        .nr_keys = BATCH,
        .buffers = buffers,
        .n_tokens = tokens,
    };
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck.answer.nr_keys, BATCH);
    assert_int_equal(ck_count(&ck, KV_OK), BATCH - 3);
    for (uint32_t i = 0; i < BATCH; i++) {
        assert_int_equal(ck.statuses[i], is_bad(i) ? KV_ERR_INVALID : KV_OK);
    }
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), BATCH - 3);
    /* Again: they are there, and nothing is written twice. */
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck_count(&ck, KV_EXISTS), BATCH - 3);
    assert_int_equal(ck_count(&ck, KV_ERR_INVALID), 3);
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), BATCH - 3);
    /* Back to another place. */
    for (uint32_t i = 0; i < BATCH; i++) {
        buffers[i] = (uint64_t)(i + KVO_BATCH_KEYS_MAX) * CK_PAGE_BYTES;
    }
    request.op = KVO_GET;
    request.n_tokens = NULL;
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), BATCH - 3);
    assert_int_equal(ck.statuses[ZERO_KEY], KV_ERR_INVALID);
    assert_int_equal(ck.statuses[NO_TOKENS], KV_ERR_MISS);
    assert_int_equal(ck.statuses[MANY_TOKENS], KV_ERR_MISS);
    for (uint32_t i = 0; i < BATCH; i++) {
        assert_int_equal(ck.places[i], is_bad(i) ? KVO_FROM_NONE : KVO_FROM_HOST);
        if (!is_bad(i)) {
            assert_memory_equal(
                ck_page(&ck, i + KVO_BATCH_KEYS_MAX), ck_page(&ck, i), CK_PAGE_BYTES);
        }
    }
    ck_close(&ck);
}

/* One malformed key costs itself, not the batch; and what was put comes back. However
 * small or large the tables: no key is refused for their sake. */
static void put__bad_keys_cost_themselves_alone(void **state)
{
    (void)state;
    put_and_get_a_thousand(1);
    put_and_get_a_thousand(8);
    put_and_get_a_thousand(100);
}

/* A node that is alone is its own home: it knows at once, whatever the deadline. */
static void get__of_what_was_never_put_misses_at_once(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(5);
    const uint64_t buffer = 0;

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    const struct kvo_request request = {
        .op = KVO_GET,
        .keys = &key,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = UINT64_MAX - 1,
    };
    ck_send(&ck, client, &request);
    assert_int_equal(ck.nr_answers, 1);
    assert_int_equal(ck.statuses[0], KV_ERR_MISS);
    assert_int_equal(ck.reasons[0], KV_MISS_NOT_FOUND);
    assert_int_equal(ck.answer.nr_calls, 0);
    ck_close(&ck);
}

/* With a member that nobody has heard of, an absence proves nothing, and the answer
 * says so; but nobody waits for it. */
static void get__beside_an_unknown_peer_misses_for_that_reason(void **state)
{
    (void)state;

    ck_init(&ck);
    ck_two_nodes(&ck);
    ck_open(&ck);
    ck_tick(&ck, 1);
    assert_int_equal(ck.nr_dials, 1);
    const struct kvo_client_id client = ck_client(&ck, 1);
    assert_int_equal(ck_batch(&ck, client, KVO_GET, 5, 1, 0), KV_OK);
    assert_int_equal(ck.statuses[0], KV_ERR_MISS);
    assert_true(
        ck.reasons[0] == KV_MISS_COLD_HOME || ck.reasons[0] == KV_MISS_PEER_LOST);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ refusals */

static void request__malformed_is_answered_with_what_is_wrong(void **state)
{
    (void)state;
    const uint64_t buffer = 0;
    const kv_key_t key = ck_key(1);

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    struct kvo_request request = {.op = KVO_GET, .keys = &key, .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    expect_detail("request.keys", 1, 0);
    request.nr_keys = KVO_BATCH_KEYS_MAX + 1;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    expect_detail("request.keys", KVO_BATCH_KEYS_MAX, KVO_BATCH_KEYS_MAX + 1);
    request.nr_keys = 1;
    request.variant = 2;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    expect_detail("request.variant", 1, 2);
    request.variant = 0;
    request.buffers = NULL;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    expect_detail("request.buffers", 1, 0);
    request.op = KVO_NR_OPS;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    expect_detail("request.op", KVO_NR_OPS - 1, KVO_NR_OPS);
    assert_int_equal(kvo_metrics(ck.node)->requests, 5);
    assert_int_equal(kvo_metrics(ck.node)->answers, 5);
    ck_close(&ck);
}

/* What may wait says until when; what is answered now need not. */
static void request__without_a_deadline_is_refused_where_it_may_wait(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    const uint64_t buffer = 0;
    static const enum kvo_op waits[] = {
        KVO_EXISTS, KVO_GET, KVO_PUT, KVO_SEQ_FETCH, KVO_SEQ_APPEND};
    static const enum kvo_op now[] = {KVO_PIN, KVO_UNPIN, KVO_DROP, KVO_SEQ_OPEN};

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    struct kvo_request request = {.keys = &key, .nr_keys = 1, .buffers = &buffer};
    for (unsigned i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        request.op = waits[i];
        ck_send(&ck, client, &request);
        assert_int_equal(ck.nr_answers, i + 1);
        assert_int_equal(ck.answer.status, KV_ERR_INVALID);
        expect_detail("request.deadline", 1, 0);
    }
    for (unsigned i = 0; i < sizeof(now) / sizeof(now[0]); i++) {
        request.op = now[i];
        ck_send(&ck, client, &request);
        assert_int_equal(ck.answer.status, KV_OK);
    }
    ck_close(&ck);
}

/* Tenants come from the attachment: the other one's pages are not even looked for. */
static void request__for_another_tenant_is_denied(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    const uint64_t buffer = 0;

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id one = ck_client(&ck, 1), both = ck_client(&ck, 3);
    struct kvo_request request = {
        .op = KVO_PUT, .tenant = 1, .keys = &key, .nr_keys = 1, .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, one, &request), KV_ERR_DENIED);
    expect_detail("request.tenant", 1, 1);
    assert_int_equal(ck_ask(&ck, both, &request), KV_OK);
    request.op = KVO_DROP;
    assert_int_equal(ck_ask(&ck, one, &request), KV_ERR_DENIED);
    request.tenant = 2; /* nobody's */
    assert_int_equal(ck_ask(&ck, both, &request), KV_ERR_DENIED);
    request = (struct kvo_request){.op = KVO_EXISTS, .keys = &key, .nr_keys = 1};
    assert_int_equal(ck_ask(&ck, one, &request), KV_OK);
    assert_int_equal(ck.statuses[0], KV_ERR_MISS); /* its own tenant has no such page */
    ck_close(&ck);
}

static void request__with_an_old_handle_is_stale(void **state)
{
    (void)state;

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1), other = ck_client(&ck, 1);
    struct kvo_request request = {
        .op = KVO_SEQ_APPEND, .tokens = 1, .seq = ck_seq(&ck, client)};
    assert_int_equal(ck_ask(&ck, other, &request), KV_ERR_STALE); /* not its own */
    expect_detail("request.seq.gen", 0, request.seq.gen); /* … and told nothing */
    request.op = KVO_SEQ_END;
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_STALE);
    request.op = KVO_SEQ_APPEND;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_STALE);
    (void)ck_seq(&ck, client); /* the same place, a new generation */
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_STALE);
    expect_detail("request.seq.gen", request.seq.gen + 1, request.seq.gen);
    request.seq.index = 8;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_STALE);
    expect_line(
        KV_ERR_STALE, "stale: the handle's generation has moved on: request.seq is 8, "
                      "the limit is 7");
    /* A client that is gone is the caller's to know: nobody is left to be answered. */
    const uint32_t nr_answers = ck.nr_answers;
    kvo_client_dead(ck.node, ck.now_us, other);
    assert_int_equal(kvo_request(ck.node, ck.now_us, other, &request), KV_ERR_STALE);
    const struct kvo_client_id next = ck_client(&ck, 1);
    assert_int_equal(next.index, other.index);
    assert_int_equal(kvo_request(ck.node, ck.now_us, other, &request), KV_ERR_STALE);
    assert_int_equal(ck.nr_answers, nr_answers);
    ck_close(&ck);
}

/* A page has no zero name, by whichever way it comes. */
static void seal__under_the_zero_key_is_refused(void **state)
{
    (void)state;
    const kv_key_t zero = {{0}}, key = ck_key(3);

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    struct kvo_request request = {.op = KVO_SEQ_APPEND, .tokens = CK_PAGE_TOKENS};
    request.seq = ck_seq(&ck, client);
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    request.op = KVO_SEQ_SEAL;
    request.keys = &zero;
    request.nr_keys = 1;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_INVALID);
    assert_string_equal(ck.answer.detail.field, "request.keys");
    request.keys = &key;
    assert_int_equal(ck_ask(&ck, client, &request), KV_SEALING);
    assert_int_equal(ck_frames(&ck, 0, KVP_SEALED), 1);
    ck_close(&ck);
}

/* A pin is of one copy: another shard of the same page is another one. */
static void unpin__of_another_shard_leaves_the_pin(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 3);
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 1, 1, 0), KV_OK);
    assert_int_equal(ck_batch(&ck, client, KVO_PIN, 1, 1, 0), KV_OK);
    assert_int_equal(ck.statuses[0], KV_OK);
    struct kvo_request request = {
        .op = KVO_UNPIN, .variant = 1, .keys = &key, .nr_keys = 1};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck.statuses[0], KV_ERR_MISS);
    request.variant = 0;
    request.tenant = 1;
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck.statuses[0], KV_ERR_MISS);
    /* Dropped since: not to be found any more, and still this client's to give back. */
    assert_int_equal(ck_batch(&ck, client, KVO_DROP, 1, 1, 0), KV_OK);
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), 1);
    assert_int_equal(ck_batch(&ck, client, KVO_UNPIN, 1, 1, 0), KV_OK);
    assert_int_equal(ck.statuses[0], KV_OK);
    assert_int_equal(ck_frames(&ck, 1, KVP_FREE), CK_HOST_FRAMES);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ room */

static void append__larger_than_the_tier_is_too_large_and_full_is_again(void **state)
{
    (void)state;

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    struct kvo_request first = {.op = KVO_SEQ_APPEND, .seq = ck_seq(&ck, client)};
    struct kvo_request second = {.op = KVO_SEQ_APPEND, .seq = ck_seq(&ck, client)};
    first.tokens = CK_PAGE_TOKENS * CK_DEVICE_FRAMES + 1;
    assert_int_equal(ck_ask(&ck, client, &first), KV_ERR_TOO_LARGE);
    expect_line(
        KV_ERR_TOO_LARGE, "too_large: more than can ever be held: device.pages is 17, "
                          "the limit is 16");
    assert_int_equal(ck_frames(&ck, 0, KVP_FREE), CK_DEVICE_FRAMES);
    first.tokens -= 1;
    assert_int_equal(ck_ask(&ck, client, &first), KV_OK);
    second.tokens = 1;
    assert_int_equal(ck_ask(&ck, client, &second), KV_ERR_AGAIN);
    expect_line(
        KV_ERR_AGAIN, "again: no room at this moment: device.pages is 17, the limit is "
                      "16");
    first.op = KVO_SEQ_END;
    assert_int_equal(ck_ask(&ck, client, &first), KV_OK);
    assert_int_equal(ck_ask(&ck, client, &second), KV_OK);
    ck_close(&ck);
}

/* Frames that are being filled give way to nobody. */
static void put__into_a_full_pool_is_again(void **state)
{
    (void)state;

    ck_init(&ck);
    ck.config.pager.pools[1].nr_frames = 8;
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 0, 9, 0), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), 8);
    assert_int_equal(ck.statuses[8], KV_ERR_AGAIN);
    expect_line(
        KV_ERR_AGAIN, "again: no room at this moment: host.pages is 9, the limit is 8");
    /* Once sealed and idle they do. */
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 8, 1, 0), KV_OK);
    assert_int_equal(ck.statuses[0], KV_OK);
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), 8);
    ck_close(&ck);
}

static void quota__refuses_beyond_the_ceiling_alone(void **state)
{
    (void)state;
    static kv_key_t keys[6];
    static const uint64_t buffers[6];

    ck_init(&ck);
    ck.config.pager.tenants[1].ceiling[KVP_HOST] = 4;
    ck.config.pager.tenants[1].ceiling[KVP_DEVICE] = 2;
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 3);
    ck_keys(keys, 0, 6);
    struct kvo_request request = {
        .op = KVO_PUT, .tenant = 1, .keys = keys, .nr_keys = 6, .buffers = buffers};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), 4);
    assert_int_equal(ck_count(&ck, KV_ERR_QUOTA), 2);
    expect_line(
        KV_ERR_QUOTA, "quota: the tenant is at its ceiling: host.pages is 5, the limit "
                      "is 4");
    request = (struct kvo_request){.op = KVO_SEQ_OPEN, .tenant = 1};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    request.op = KVO_SEQ_APPEND;
    request.seq = ck.answer.seq;
    request.tokens = 3 * CK_PAGE_TOKENS;
    assert_int_equal(ck_ask(&ck, client, &request), KV_ERR_QUOTA);
    expect_detail("device.pages", 2, 3);
    request.tokens = 2 * CK_PAGE_TOKENS;
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    ck_close(&ck);
}

/* A tenant's sequences count until they are over, whoever of it has them; the next
 * tenant has its own. */
static void sequences__of_a_tenant_have_a_ceiling(void **state)
{
    (void)state;
    struct kvo_request fork = {.op = KVO_SEQ_FORK, .tenant = 1};
    const struct kvo_request open = {.op = KVO_SEQ_OPEN, .tenant = 1};
    const struct kvo_request other = {.op = KVO_SEQ_OPEN, .tenant = 0};
    struct kvo_request end = {.op = KVO_SEQ_END, .tenant = 1};

    ck_init(&ck);
    ck.config.tenant_sequences[1] = 2;
    ck_open(&ck);
    const struct kvo_client_id first = ck_client(&ck, 3);
    const struct kvo_client_id second = ck_client(&ck, 3);
    assert_int_equal(ck_ask(&ck, first, &open), KV_OK);
    fork.seq = ck.answer.seq;
    assert_int_equal(ck_ask(&ck, second, &open), KV_OK);
    end.seq = ck.answer.seq;
    assert_int_equal(ck_ask(&ck, second, &open), KV_ERR_QUOTA);
    expect_detail("tenant.sequences", 2, 3);
    assert_int_equal(ck_ask(&ck, first, &fork), KV_ERR_QUOTA);
    assert_int_equal(ck_ask(&ck, first, &other), KV_OK);

    assert_int_equal(ck_ask(&ck, second, &end), KV_OK);
    assert_int_equal(ck_ask(&ck, first, &fork), KV_OK);
    kvo_client_hung_up(ck.node, ck.now_us, first);
    assert_int_equal(ck_ask(&ck, second, &open), KV_ERR_QUOTA); /* fenced ones count */
    kvo_client_dead(ck.node, ck.now_us, first);
    assert_int_equal(ck_ask(&ck, second, &open), KV_OK);
    assert_int_equal(ck_ask(&ck, second, &open), KV_OK);
    assert_int_equal(ck_ask(&ck, second, &open), KV_ERR_QUOTA);
    ck_close(&ck);
}

/* Tables that are full are the caller's to wait for; nobody is answered. */
static void request__beyond_the_tables_is_again(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    const uint64_t buffer = 0;
    struct kvo_client_id client;

    ck_init(&ck);
    ck.config.nr_clients = 1;
    ck.config.nr_ops = 2;
    ck_open(&ck);
    const struct kvo_client_id only = ck_client(&ck, 1);
    assert_int_equal(kvo_client_attach(ck.node, ck.now_us, 1, &client), KV_ERR_AGAIN);
    const struct kvo_request request = {
        .op = KVO_PUT,
        .keys = &key,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    ck_send(&ck, only, &request);
    ck_send(&ck, only, &request);
    assert_int_equal(kvo_request(ck.node, ck.now_us, only, &request), KV_ERR_AGAIN);
    assert_int_equal(ck.nr_answers, 0);
    ck_pump(&ck);
    assert_int_equal(ck.nr_answers, 2);
    assert_int_equal(ck.statuses[0], KV_EXISTS); /* both filled one; one won */
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), 1);
    ck_send(&ck, only, &request);
    assert_int_equal(ck.nr_answers, 3);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ time and death */

/* The answer comes by the deadline; the frame waits for the mover. */
static void put__whose_mover_is_late_ends_by_its_deadline(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    const uint64_t buffer = 0;

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    const struct kvo_request request = {
        .op = KVO_PUT,
        .keys = &key,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = ck.now_us + 1000,
    };
    ck_send(&ck, client, &request);
    assert_int_equal(ck.nr_moves, 1);
    ck_tick(&ck, 999);
    assert_int_equal(ck.nr_answers, 0);
    ck_tick(&ck, 1);
    assert_int_equal(ck.nr_answers, 1);
    assert_int_equal(ck.statuses[0], KV_ERR_DEADLINE);
    assert_int_equal(ck_frames(&ck, 1, KVP_QUARANTINE), 1);
    ck_pump(&ck); /* it writes at last; nobody else's page */
    assert_int_equal(ck_frames(&ck, 1, KVP_FREE), CK_HOST_FRAMES);
    assert_int_equal(ck.nr_answers, 1);
    ck_close(&ck);
}

/* Prefix pages go to the device by COPY; a sequence owns them from then on. */
static void fetch__promotes_and_adopts_the_longest_run(void **state)
{
    (void)state;
    static kv_key_t keys[6];

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    write_pages(5);
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 0, 5, 0), KV_OK);
    ck_keys(keys, 0, 6);
    struct kvo_request request = {
        .op = KVO_SEQ_FETCH, .keys = keys, .nr_keys = 6, .seq = ck_seq(&ck, client)};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_int_equal(ck.answer.nr_hits, 5);
    assert_int_equal(ck.statuses[5], KV_ERR_MISS);
    assert_int_equal(ck_frames(&ck, 0, KVP_SEALED), 5);
    struct kvp_ref refs[5];
    assert_int_equal(kvp_seq_table(kvo_pager(ck.node), request.seq, 0, 5, refs), KV_OK);
    for (uint32_t i = 0; i < 5; i++) {
        struct kvp_info info;
        assert_int_equal(kvp_info(kvo_pager(ck.node), refs[i], &info), KV_OK);
        assert_int_equal(info.tier, KVP_DEVICE);
        assert_memory_equal(
            &ck.frames[(size_t)info.pool_frame * CK_PAGE_BYTES], ck_page(&ck, i),
            CK_PAGE_BYTES);
    }
    ck_close(&ck);
}

/* Everything a client may hold, at once: pins, a sequence with sealed and unsealed
 * pages, a put whose mover still writes, a get that still reads. */
static void hold_everything(struct kvo_client_id client)
{
    const kv_key_t sealed = ck_key(50), filling = ck_key(60), reading = ck_key(0);
    const uint64_t buffer = 0;

    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 0, 4, 0), KV_OK);
    assert_int_equal(ck_batch(&ck, client, KVO_PIN, 0, 2, 0), KV_OK);
    struct kvo_request request = {
        .op = KVO_SEQ_APPEND,
        .tokens = 2 * CK_PAGE_TOKENS + 1,
        .seq = ck_seq(&ck, client),
        .keys = &sealed,
    };
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    request.op = KVO_SEQ_SEAL;
    request.nr_keys = 1;
    assert_int_equal(ck_ask(&ck, client, &request), KV_SEALING);
    request = (struct kvo_request){
        .op = KVO_PUT,
        .keys = &filling,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    ck_send(&ck, client, &request);
    request.op = KVO_GET;
    request.keys = &reading;
    ck_send(&ck, client, &request);
    assert_int_equal(ck.nr_moves, 2);
}

static void client__that_hangs_up_gives_everything_back(void **state)
{
    (void)state;
    struct kvp_info info;
    struct kvp_ref ref;
    const kv_key_t key = ck_key(0);

    ck_init(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1), other = ck_client(&ck, 1);
    hold_everything(client);
    const uint32_t nr_answers = ck.nr_answers;
    kvo_client_hung_up(ck.node, ck.now_us, client);
    kvo_check(ck.node);
    kvo_client_hung_up(ck.node, ck.now_us, client); /* twice is once */
    assert_int_equal(ck.nr_answers, nr_answers);    /* nobody is told */
    assert_int_equal(kvp_lookup(kvo_pager(ck.node), 0, 0, &key, 1, &ref), 1);
    assert_int_equal(kvp_info(kvo_pager(ck.node), ref, &info), KV_OK);
    assert_int_equal(info.pins, 0);
    assert_int_equal(info.refs, 1); /* the mover still reads it */
    /* Its kernels may still write the unsealed pages, its mover the put's frame. */
    assert_true(ck_frames(&ck, 0, KVP_FREE) < CK_DEVICE_FRAMES - 1);
    assert_int_equal(ck_frames(&ck, 1, KVP_QUARANTINE), 1);
    ck_pump(&ck);
    assert_int_equal(ck_frames(&ck, 1, KVP_QUARANTINE), 0);
    assert_true(ck_frames(&ck, 0, KVP_FREE) < CK_DEVICE_FRAMES - 1);
    kvo_client_dead(ck.node, ck.now_us, client);
    kvo_check(ck.node);
    assert_int_equal(ck_frames(&ck, 0, KVP_SEALED), 1);
    assert_int_equal(ck_frames(&ck, 0, KVP_FREE), CK_DEVICE_FRAMES - 1);
    assert_int_equal(ck_frames(&ck, 1, KVP_SEALED), 4);
    assert_int_equal(ck_frames(&ck, 1, KVP_FREE), CK_HOST_FRAMES - 4);
    assert_int_equal(ck.nr_answers, nr_answers);
    /* What it had cached is everybody's, and may go now. */
    assert_int_equal(ck_batch(&ck, other, KVO_DROP, 0, 4, 0), KV_OK);
    assert_int_equal(ck_count(&ck, KV_OK), 4);
    assert_int_equal(ck_frames(&ck, 1, KVP_FREE), CK_HOST_FRAMES);
    const struct kvo_client_id next = ck_client(&ck, 1);
    assert_int_equal(next.index, client.index);
    assert_true(next.gen != client.gen);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put__bad_keys_cost_themselves_alone),
        cmocka_unit_test(get__of_what_was_never_put_misses_at_once),
        cmocka_unit_test(get__beside_an_unknown_peer_misses_for_that_reason),
        cmocka_unit_test(request__malformed_is_answered_with_what_is_wrong),
        cmocka_unit_test(request__without_a_deadline_is_refused_where_it_may_wait),
        cmocka_unit_test(request__for_another_tenant_is_denied),
        cmocka_unit_test(request__with_an_old_handle_is_stale),
        cmocka_unit_test(seal__under_the_zero_key_is_refused),
        cmocka_unit_test(unpin__of_another_shard_leaves_the_pin),
        cmocka_unit_test(append__larger_than_the_tier_is_too_large_and_full_is_again),
        cmocka_unit_test(put__into_a_full_pool_is_again),
        cmocka_unit_test(quota__refuses_beyond_the_ceiling_alone),
        cmocka_unit_test(sequences__of_a_tenant_have_a_ceiling),
        cmocka_unit_test(request__beyond_the_tables_is_again),
        cmocka_unit_test(put__whose_mover_is_late_ends_by_its_deadline),
        cmocka_unit_test(fetch__promotes_and_adopts_the_longest_run),
        cmocka_unit_test(client__that_hangs_up_gives_everything_back),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ck_complete_many(true); /* and all of it again, completions in one go */
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
