/* Grants, both sides, against a peer that a test plays: what is given back says whether
 * it was read, what cannot be mapped is named, and a data connection is two. */
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct ck ck;
static struct kvo_client_id client;

static void init_two(void)
{
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck.config.spill = true; /* without it nothing is cooled */
}

static void open_linked(void)
{
    ck_open(&ck);
    client = ck_client(&ck, 1);
    ck_meet(&ck);
}

static const struct kvo_metrics *metrics(void)
{
    return kvo_metrics(ck.node);
}

/* ------------------------------------------------------------------ as the owner */

static void put(const kv_key_t *key)
{
    const uint64_t buffer = 0;
    const struct kvo_request request = {
        .op = KVO_PUT, .keys = key, .nr_keys = 1, .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, client, &request), KV_OK);
    assert_true(ck_here(&ck, key));
}

/* The peer asks for a grant on the key: what GRANTED says of it. */
static struct kv_msg_granted_item ask_grant(const kv_key_t *key, uint32_t purpose)
{
    struct kv_copy copy = ck_copy(key);
    struct kv_msg msg = {.type = KV_MSG_GRANT, .req = 9};
    msg.u.grant = (struct kv_msg_grant){
        .purpose = purpose, .copies = &copy, .nr_copies = 1};
    ck_tell(&ck, &msg);
    const struct kv_msg *answer = ck_said(&ck, KV_MSG_GRANTED);
    assert_non_null(answer);
    assert_int_equal(answer->u.granted.nr_items, 1);
    return answer->u.granted.items[0];
}

static uint64_t give(const kv_key_t *key, uint32_t purpose)
{
    const struct kv_msg_granted_item item = ask_grant(key, purpose);
    assert_int_equal(item.status, KV_OK);
    assert_int_equal(item.grant.len, CK_PAGE_BYTES);
    return item.grant.id;
}

static void release(uint64_t id, bool read)
{
    struct kv_msg_released released = {.id = id, .read = read};
    struct kv_msg msg = {.type = KV_MSG_RELEASE};
    msg.u.release = (struct kv_msg_release){.items = &released, .nr_items = 1};
    ck_tell(&ck, &msg);
}

static void revoked(uint64_t id)
{
    struct kv_msg msg = {.type = KV_MSG_REVOKED};
    msg.u.revoked = (struct kv_msg_ids){.ids = &id, .nr_ids = 1};
    ck_tell(&ck, &msg);
}

static bool is_cool(const kv_key_t *key)
{
    struct kvp_ref ref;
    struct kvp_info info;
    assert_int_equal(kvp_lookup(kvo_pager(ck.node), 0, 0, key, 1, &ref), 1);
    assert_int_equal(kvp_info(kvo_pager(ck.node), ref, &info), KV_OK);
    return info.cool;
}

/* What a peer has read goes first, since it is kept elsewhere now. What it was granted
 * and never read is kept nowhere else: cooled too, it would be lost for nothing. */
static void release__cools_only_what_was_read(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    init_two();
    open_linked();
    put(&key);
    assert_true(ck_opens(&ck, 1, true));

    release(give(&key, KV_GRANT_FETCH), false);
    assert_false(is_cool(&key));
    revoked(give(&key, KV_GRANT_FETCH));
    assert_false(is_cool(&key));
    assert_int_equal(metrics()->grants_read, 0);
    assert_int_equal(metrics()->served_bytes, 0);

    const uint64_t id = give(&key, KV_GRANT_FETCH);
    release(id, true);
    assert_true(is_cool(&key));
    release(id, true); /* twice: it is over */
    assert_int_equal(metrics()->grants_read, 1);
    assert_int_equal(metrics()->served_bytes, CK_PAGE_BYTES);
    ck_close(&ck);
}

/* A taker of a spill has it too, but what it then keeps was to leave here anyway. */
static void release__of_a_spill_does_not_cool(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    init_two();
    open_linked();
    put(&key);
    assert_true(ck_opens(&ck, 1, true));
    release(give(&key, KV_GRANT_SPILL), true);
    assert_false(is_cool(&key));
    ck_close(&ck);
}

/* A grant on memory that the peer cannot map would be a promise that nobody can keep:
 * the answer says how to read it instead, and FOUND has none either. */
static void grant__of_a_pool_that_cannot_be_mapped_is_by_name(void **state)
{
    (void)state;
    init_two();
    const kv_key_t key = ck_key_of(&ck, 0, 0);
    ck.config.named_pools = 1u << 1; /* host, where PUT puts it */
    open_linked();
    put(&key);
    assert_true(ck_opens(&ck, 1, true));
    assert_int_equal(ask_grant(&key, KV_GRANT_FETCH).status, KV_ERR_BY_NAME);
    assert_int_equal(ask_grant(&key, KV_GRANT_SPILL).status, KV_ERR_BY_NAME);
    assert_int_equal(metrics()->grants_given, 0);
    assert_int_equal(metrics()->grants_by_name, 2);

    struct kv_msg_want want = {.layout = 1};
    kv_key_t keys[] = {key};
    struct kv_msg_segment seg = {.segment = key, .keys = keys, .nr_keys = 1};
    struct kv_msg msg = {.type = KV_MSG_LOOKUP, .req = 11};
    msg.u.lookup = (struct kv_msg_lookup){
        .tenant = 10,
        .grants_max = 8,
        .wants = &want,
        .nr_wants = 1,
        .segs = &seg,
        .nr_segs = 1,
    };
    ck_tell(&ck, &msg);
    const struct kv_msg *found = ck_said(&ck, KV_MSG_FOUND);
    assert_non_null(found);
    assert_int_equal(found->u.found.nr_runs, 1);
    assert_int_equal(found->u.found.nr_grants, 0);
    ck_close(&ck);
}

/* One of each kind, with one number: each is believed once, for its own kind, while its
 * number is the newest. */
static void data_open__is_believed_once_a_kind(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    init_two();
    ck.config.grant_us = ck.config.revoke_us = 100000;
    open_linked();
    put(&key);
    assert_true(ck_opens(&ck, 1, true));
    assert_false(ck_opens_one_sided(&ck, 1, false));
    assert_true(ck_opens_one_sided(&ck, 1, true));
    assert_false(ck_opens(&ck, 1, true));
    assert_false(ck_opens_one_sided(&ck, 1, true));
    assert_true(ck_opens_one_sided(&ck, 2, true)); /* either may come first */
    assert_false(ck_opens_one_sided(&ck, 1, true));
    assert_true(ck_opens(&ck, 2, true));

    (void)give(&key, KV_GRANT_FETCH);
    ck_tick(&ck, 100000); /* REVOKE */
    ck_tick(&ck, 100000);
    struct ck_wire fence;
    assert_true(ck_wire(&ck, KVO_ORDER_FENCE_IN, &fence));
    assert_int_equal(fence.data_gen, 2);
    assert_false(ck_opens(&ck, 2, true)); /* it is being fenced */
    assert_true(ck_opens(&ck, 3, true));
    assert_true(ck_opens_one_sided(&ck, 3, true));
    assert_false(ck_opens_one_sided(&ck, 3, true));
    ck_fenced(&ck, &fence);
    assert_false(ck_opens(&ck, 3, true));
    assert_false(ck_opens_one_sided(&ck, 3, true));
    (void)give(&key, KV_GRANT_FETCH);
    ck_tick(&ck, 100000);
    ck_tick(&ck, 100000);
    assert_true(ck_wire(&ck, KVO_ORDER_FENCE_IN, &fence));
    assert_int_equal(fence.data_gen, 3);
    ck_fenced(&ck, &fence);
    assert_false(ck_opens_one_sided(&ck, 3, true));
    assert_int_equal(ask_grant(&key, KV_GRANT_FETCH).status, KV_ERR_AGAIN);

    /* Fenced is over for both kinds, also for one that had not come yet: it would open
     * the memory to a reader whose reads nobody waits for any more. */
    assert_true(ck_opens(&ck, 4, true));
    (void)give(&key, KV_GRANT_FETCH);
    ck_tick(&ck, 100000);
    ck_tick(&ck, 100000);
    assert_true(ck_wire(&ck, KVO_ORDER_FENCE_IN, &fence));
    assert_false(ck_opens_one_sided(&ck, 4, true));
    ck_fenced(&ck, &fence);
    assert_false(ck_opens_one_sided(&ck, 4, true));
    assert_true(ck_opens_one_sided(&ck, 5, true));
    ck_close(&ck);
}

/* What proves one kind proves nothing for the other: their sockets are not the same. */
static void data_open__proof_is_of_one_kind(void **state)
{
    (void)state;
    init_two();
    ck_one_sided(&ck);
    open_linked();
    const struct kv_msg *said = ck_said(&ck, KV_MSG_DATA_OPEN);
    assert_non_null(said);
    assert_false(said->u.data_open.one_sided);
    const kv_key_t named = said->u.data_open.proof;
    const uint32_t data_gen = said->u.data_open.data_gen;
    said = ck_said(&ck, KV_MSG_DATA_OPEN);
    assert_non_null(said);
    assert_true(said->u.data_open.one_sided);
    assert_int_equal(said->u.data_open.data_gen, data_gen);
    assert_false(kv_key_equal(&said->u.data_open.proof, &named));
    assert_null(ck_said(&ck, KV_MSG_DATA_OPEN));
    ck_close(&ck);
}

/* ------------------------------------------------------------------ as a reader */

/* Hands in a GET of one key that the peer holds; false when it asks no home, for ours
 * is one and knows. */
static void get(const kv_key_t *key)
{
    const uint64_t buffer = 0;
    const struct kvo_request request = {
        .op = KVO_GET,
        .keys = key,
        .nr_keys = 1,
        .buffers = &buffer,
        .deadline_us = ck.now_us + CK_LATER_US,
    };
    ck_lists(&ck, key, 1);
    ck_send(&ck, client, &request);
}

/* Answers the GRANT that the node asked for. `digest`: ck_landed()'s, or not. */
static void granted(kv_status_t status, uint64_t id, uint64_t digest)
{
    const struct kv_msg *asked = ck_said(&ck, KV_MSG_GRANT);
    assert_non_null(asked);
    struct kv_msg_granted_item item = {.status = status};
    if (status == KV_OK) {
        item.grant = (struct kv_grant){
            .id = id,
            .digest = digest,
            .len = CK_PAGE_BYTES,
            .n_tokens = CK_PAGE_TOKENS,
            .duration_us = 1000000,
        };
    }
    struct kv_msg msg = {.type = KV_MSG_GRANTED, .req = asked->req};
    msg.u.granted = (struct kv_msg_granted){.items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
}

static void expect_released(uint64_t id, bool read)
{
    const struct kv_msg *msg = ck_said(&ck, KV_MSG_RELEASE);
    assert_non_null(msg);
    assert_int_equal(msg->u.release.nr_items, 1);
    assert_int_equal(msg->u.release.items[0].id, id);
    assert_int_equal(msg->u.release.items[0].read, read);
}

static void open_reader(void)
{
    init_two();
    ck_one_sided(&ck);
    open_linked();
}

/* `read` is said of bytes that are here and right, and of nothing else. */
static void release__says_read_of_verified_bytes_alone(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    const uint64_t right = ck_offer(&key).digest;
    struct ck_wire read;
    open_reader();

    get(&key);
    granted(KV_OK, 500, right + 1);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_GRANT, &read));
    assert_int_equal(read.part.grant.id, 500);
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS); /* other bytes than were granted */
    ck_pump(&ck);
    expect_released(500, false);
    assert_int_equal(ck.statuses[0], KV_ERR_NOT_VERIFIED);

    get(&key);
    granted(KV_OK, 501, right);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_GRANT, &read));
    ck_landed(&ck, &read, KV_ERR_IO, CK_PAGE_TOKENS);
    ck_pump(&ck);
    expect_released(501, false);

    ck.nr_answers = 0;
    get(&key);
    granted(KV_OK, 502, right);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_GRANT, &read));
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    ck_pump(&ck);
    expect_released(502, true);
    assert_int_equal(ck.nr_answers, 1);
    assert_int_equal(ck.statuses[0], KV_OK);
    assert_int_equal(metrics()->fetched_one_sided_bytes, CK_PAGE_BYTES);
    assert_int_equal(metrics()->fetched_bytes, CK_PAGE_BYTES);
    ck_close(&ck);
}

/* By name, and by the same holder: the copy is there, only no grant can say where, or
 * there are too many already. */
static void granted_not_but_read_by_name(kv_status_t status)
{
    const kv_key_t key = ck_key(1);
    struct ck_wire read;
    open_reader();
    get(&key);
    granted(status, 0, 0);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_NAMED, &read));
    assert_int_equal(read.part.grant.id, 0);
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    ck_pump(&ck);
    assert_int_equal(ck.statuses[0], KV_OK);
    assert_int_equal(metrics()->fetched_one_sided_bytes, 0);
    assert_int_equal(metrics()->fetched_bytes, CK_PAGE_BYTES);
    assert_null(ck_said(&ck, KV_MSG_RELEASE));

    const kv_key_t other = ck_key(2); /* named for that copy, not for that peer */
    get(&other);
    granted(KV_OK, 600, ck_offer(&other).digest);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_GRANT, &read));
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    ck_pump(&ck);
    expect_released(600, true);
    ck_close(&ck);
}

static void granted__by_name_reads_the_same_holder_by_name(void **state)
{
    (void)state;
    granted_not_but_read_by_name(KV_ERR_BY_NAME);
    granted_not_but_read_by_name(KV_ERR_AGAIN);
}

static void refused_grant(kv_status_t status)
{
    const kv_key_t key = ck_key(1);
    struct ck_wire read;
    get(&key);
    granted(status, 0, 0);
    assert_false(ck_wire(&ck, KVO_ORDER_READ_NAMED, &read));
    ck_close(&ck);
}

/* Nothing that names is common: then it is refused like any other. And a holder that
 * has it no more is not asked by name either. */
static void granted__by_name_without_a_way_is_a_refusal(void **state)
{
    (void)state;
    static const kv_status_t statuses[] = {KV_ERR_BY_NAME, KV_ERR_AGAIN};
    for (unsigned i = 0; i < 2; i++) {
        init_two();
        ck_one_sided(&ck);
        ck.config.nr_transports = 1;
        open_linked();
        refused_grant(statuses[i]);
    }
    open_reader();
    refused_grant(KV_ERR_MISS);
}

/* Until the link ends all is named, also what was granted before. */
static void one_sided__lost_reads_by_name(void **state)
{
    (void)state;
    const kv_key_t key = ck_key(1);
    struct ck_wire read, fence;
    open_reader();
    assert_non_null(kvo_peer_transport(ck.node, CK_PEER, KVO_ONE_SIDED));
    get(&key);
    assert_false(kvo_one_sided_lost(ck.node, ck.now_us, CK_PEER, ck.link + 1));
    assert_true(kvo_one_sided_lost(ck.node, ck.now_us, CK_PEER, ck.link));
    assert_null(kvo_peer_transport(ck.node, CK_PEER, KVO_ONE_SIDED));
    granted(KV_OK, 500, ck_offer(&key).digest); /* was asked for before */
    expect_released(500, false);
    assert_true(ck_wire(&ck, KVO_ORDER_READ_NAMED, &read));
    ck_landed(&ck, &read, KV_OK, CK_PAGE_TOKENS);
    ck_pump(&ck);
    assert_int_equal(ck.statuses[0], KV_OK);

    ck.nr_said = 0; /* and is opened by name alone */
    kvo_data_broken(ck.node, ck.now_us, CK_PEER, ck.link, 1);
    assert_true(ck_wire(&ck, KVO_ORDER_FENCE_OUT, &fence));
    ck_fenced(&ck, &fence);
    const struct kv_msg *said = ck_said(&ck, KV_MSG_DATA_OPEN);
    assert_non_null(said);
    assert_false(said->u.data_open.one_sided);
    assert_null(ck_said(&ck, KV_MSG_DATA_OPEN));
    ck_close(&ck);
}

/* ------------------------------------------------------------------ what is common */

/* Ours: shm within host A, then tcp. The peer's list as the row says: what we read it
 * by is ours alone to choose. */
static void transports__are_common_by_name_and_domain(void **state)
{
    (void)state;
    static const struct {
        const char *name, *domain, *address;
        bool tcp, one_sided, named, up;
    } rows[] = {
        {"shm", "A", "/run/b.sock", true, true, true, true},
        {"shm", "A", "/run/b.sock", false, true, false, true},
        {"shm", "B", "/run/b.sock", true, false, true, true},
        {"shm", "", "/run/b.sock", true, false, true, true},
        {"shm", "AA", "/run/b.sock", true, false, true, true},
        {"shm", "B", "/run/b.sock", false, false, false, false},
        {"shmem", "A", "/run/b.sock", true, false, true, true},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kv_msg_transport theirs[] = {
            {.name = {.text = "tcp", .len = 3},
             .address = {.text = "h:1", .len = 3}},
            {.name = {.text = rows[i].name, .len = (uint32_t)strlen(rows[i].name)},
             .domain = {.text = rows[i].domain,
                        .len = (uint32_t)strlen(rows[i].domain)},
             .address = {.text = rows[i].address,
                         .len = (uint32_t)strlen(rows[i].address)}},
        };
        init_two();
        ck.config.transports[0] = (struct kvo_transport){
            .kind = KVO_ONE_SIDED, .name = "shm", .domain = "A", .address = "/a"};
        ck.config.transports[1] =
            (struct kvo_transport){.kind = KVO_NAMED, .name = "tcp"};
        ck.config.nr_transports = 2;
        ck_open(&ck);
        ck_connect(&ck, CK_CONN);
        struct kv_msg *hello = ck_hello(&ck);
        hello->u.hello.transports = rows[i].tcp ? theirs : theirs + 1;
        hello->u.hello.nr_transports = rows[i].tcp ? 2 : 1;
        ck_tell_on(&ck, CK_CONN, hello);
        assert_int_equal(kvo_link_up(ck.node, CK_PEER), rows[i].up);
        const struct kvo_transport *one_sided =
            kvo_peer_transport(ck.node, CK_PEER, KVO_ONE_SIDED);
        const struct kvo_transport *named =
            kvo_peer_transport(ck.node, CK_PEER, KVO_NAMED);
        assert_int_equal(one_sided != NULL, rows[i].one_sided);
        assert_int_equal(named != NULL, rows[i].named);
        if (one_sided != NULL) {
            assert_string_equal(one_sided->name, "shm");
            assert_string_equal(
                kvo_peer_address(ck.node, CK_PEER, KVO_ONE_SIDED), "/run/b.sock");
        }
        if (named != NULL) {
            assert_string_equal(kvo_peer_address(ck.node, CK_PEER, KVO_NAMED), "h:1");
        }
        ck_close(&ck);
    }
}

/* The first of our own list wins, whatever the peer's order is. */
static void transports__named_first_reads_by_name_alone(void **state)
{
    (void)state;
    init_two();
    ck_one_sided(&ck);
    const struct kvo_transport first = ck.config.transports[0];
    ck.config.transports[0] = ck.config.transports[1];
    ck.config.transports[1] = first;
    open_linked();
    assert_null(kvo_peer_transport(ck.node, CK_PEER, KVO_ONE_SIDED));
    assert_non_null(kvo_peer_transport(ck.node, CK_PEER, KVO_NAMED));
    const struct kv_msg *said = ck_said(&ck, KV_MSG_DATA_OPEN);
    assert_non_null(said);
    assert_false(said->u.data_open.one_sided);
    assert_null(ck_said(&ck, KV_MSG_DATA_OPEN));
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(release__cools_only_what_was_read),
        cmocka_unit_test(release__of_a_spill_does_not_cool),
        cmocka_unit_test(grant__of_a_pool_that_cannot_be_mapped_is_by_name),
        cmocka_unit_test(data_open__is_believed_once_a_kind),
        cmocka_unit_test(data_open__proof_is_of_one_kind),
        cmocka_unit_test(release__says_read_of_verified_bytes_alone),
        cmocka_unit_test(granted__by_name_reads_the_same_holder_by_name),
        cmocka_unit_test(granted__by_name_without_a_way_is_a_refusal),
        cmocka_unit_test(one_sided__lost_reads_by_name),
        cmocka_unit_test(transports__are_common_by_name_and_domain),
        cmocka_unit_test(transports__named_first_reads_by_name_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
