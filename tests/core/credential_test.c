/* What a peer may do is what its link proves: without one, under a wrong one, or for a
 * tenant that its HELLO did not cover nothing is done and nothing is told, and what is
 * not its own cannot be told from what is not there. */
#include "tests/base/msg_make.h"
#include "tests/core/core_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { EACH = 20, OTHER_CONN = 300, COVERED = 10, NOT_COVERED = 20, NOBODYS = 999 };

static struct ck ck;
static kv_key_t here, gone; /* of NOT_COVERED; both with their home here */

static void put(uint32_t tenant, const kv_key_t *key)
{
    const uint64_t buffer = 0;
    const struct kvo_request request = {
        .op = KVO_PUT,
        .tenant = (uint16_t)tenant,
        .keys = key,
        .nr_keys = 1,
        .buffers = &buffer};
    assert_int_equal(ck_ask(&ck, ck_client(&ck, 3), &request), KV_OK);
    assert_int_equal(ck.statuses[0], KV_OK);
}

static void open_with_pages(void)
{
    ck_init(&ck);
    ck_two_nodes(&ck);
    here = ck_key_of(&ck, 0, 0);
    gone = ck_key_of(&ck, 0, 1);
    ck_open(&ck);
    put(1, &here);
}

/* All that could have been done: counts, frames, what was said and ordered. */
struct picture {
    struct kvo_metrics metrics;
    uint32_t frames[2][KVP_NR_STATES], entries, nr_said, nr_wire, links;
};

static struct picture picture(void)
{
    struct picture now;
    memset(&now, 0, sizeof(now));
    now.metrics = *kvo_metrics(ck.node);
    /* That something came, and was not believed, is counted. */
    now.metrics.messages_in = now.metrics.messages_stale = now.metrics.messages_bad = 0;
    memset(now.metrics.received, 0, sizeof(now.metrics.received));
    for (uint32_t pool = 0; pool < 2; pool++) {
        for (unsigned state = 0; state < KVP_NR_STATES; state++) {
            now.frames[pool][state] = ck_frames(&ck, pool, (enum kvp_frame_state)state);
        }
    }
    now.entries = kvc_dir_nr_entries(kvo_directory(ck.node), CK_PEER);
    now.nr_said = ck.nr_said;
    now.nr_wire = ck.nr_wire;
    now.links = kvo_links_up(ck.node);
    return now;
}

/* ------------------------------------------------------------------ no link */

/* Messages of every type, whatever is in them, on this connection and link. `data`: on
 * a data connection. None is answered, none changes anything. */
static void expect_deaf(uint64_t conn, uint64_t link, bool data)
{
    static _Alignas(16) uint8_t memory[KV_MSG_ARENA_BYTES];
    static const uint32_t types[] = {
#define X(symbol, number, name, member) symbol,
        KV_MSG_MAP(X)
#undef X
    };
    struct kv_arena arena = {.base = memory, .size = sizeof(memory)};
    struct make make = {.rng = kv_rng_seed(conn + link), .arena = &arena};
    const struct picture was = picture();
    for (unsigned i = 0; i < KV_NR_MSGS * EACH; i++) {
        struct kv_msg msg;
        const uint32_t type = types[i % KV_NR_MSGS];
        arena.used = 0;
        make_msg(&make, type, &msg);
        msg.link = link;
        if (data) {
            const bool believed = kvo_data_message(ck.node, ck.now_us, CK_PEER, &msg);
            assert_false(believed && (link != ck.link || type == KV_MSG_DATA_OPEN));
        } else if (type != KV_MSG_HELLO && type != KV_MSG_STATUS) {
            kvo_message(ck.node, ck.now_us, CK_PEER, conn, &msg);
        }
        kvo_check(ck.node);
        const struct picture now = picture();
        assert_memory_equal(&now, &was, sizeof(was));
    }
}

/* Before HELLO, on a connection that is not the link's, and under another link's id,
 * be it 0 or one bit beside. (What HELLO itself may say is link_test's; STATUS before
 * HELLO_OK ends a dial.) */
static void message__without_its_link_is_not_heard(void **state)
{
    (void)state;
    open_with_pages();
    expect_deaf(0, 0, false);
    expect_deaf(0, 0, true);
    ck_connect(&ck, CK_CONN);
    expect_deaf(CK_CONN, 0, false);
    expect_deaf(CK_CONN, 7, false);
    expect_deaf(0, 7, true);
    ck_tell_on(&ck, CK_CONN, ck_hello(&ck));
    const struct kv_msg *ok = ck_said(&ck, KV_MSG_HELLO_OK);
    assert_non_null(ok);
    ck.link = ok->link;
    memcpy(ck.nonce, ok->u.hello_ok.nonce, KV_NONCE_BYTES);
    assert_true(kvo_link_up(ck.node, CK_PEER));
    expect_deaf(CK_CONN, 0, false);
    expect_deaf(CK_CONN, ck.link ^ 1, false);
    expect_deaf(OTHER_CONN, ck.link, false);
    /* No DATA_OPEN has the link's proof, no READ its connection. */
    expect_deaf(OTHER_CONN, ck.link, true);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ HELLO */

/* Each thing that HELLO must have right: refused by its name, no link, nothing of ours
 * told but that; and the next HELLO, which is right, links. */
static void hello__wrong_is_told_its_field_alone(void **state)
{
    static struct kv_msg_tenant tenants[] = {{.id = 10}, {.id = 20}};
    const struct {
        kv_status_t status;
        const char *field;
    } rows[] = {
        {KV_ERR_VERSION, "hello.proto"},
        {KV_ERR_CLUSTER, "hello.cluster"},
        {KV_ERR_DENIED, "hello.node"},
        {KV_ERR_INVALID, "hello.incarnation"},
        {KV_ERR_VIEW_DIFFERS, "hello.view_digest"},
        {KV_ERR_TENANT_SECRET, "tenants.check"},
        {KV_ERR_INVALID, "transports"},
    };
    (void)state;
    open_with_pages();
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kv_msg *hello = ck_hello(&ck);
        struct kv_msg_hello *h = &hello->u.hello;
        h->proto_min = h->proto_max = i == 0 ? KV_PROTO_MAX + 1 : KV_PROTO_MAX;
        h->cluster.len -= i == 1;
        h->node += i == 2;
        h->incarnation = i == 3 ? 0 : h->incarnation;
        h->view_digest ^= i == 4;
        /* The second as another node says it: heard, and repeated. */
        tenants[0].check = h->tenants[0].check;
        assert_int_equal(
            kv_check_proof(0, h->node + 1, h->incarnation, &tenants[1].check), KV_OK);
        h->tenants = i == 5 ? tenants : h->tenants;
        h->nr_tenants = i == 5 ? 2 : h->nr_tenants;
        h->nr_transports = i == 6 ? 0 : h->nr_transports;
        ck_connect(&ck, OTHER_CONN + i);
        ck_tell_on(&ck, OTHER_CONN + i, hello);
        assert_int_equal(ck.nr_said, 2); /* STATUS, and the end */
        const struct kv_msg *told = ck_said(&ck, KV_MSG_STATUS);
        assert_non_null(told);
        assert_int_equal(told->u.status.status, rows[i].status);
        assert_int_equal(told->u.status.field.len, strlen(rows[i].field));
        assert_memory_equal(
            told->u.status.field.text, rows[i].field, strlen(rows[i].field));
        assert_int_equal(ck_said_at(&ck, 0, OTHER_CONN + i), 0);
        ck.nr_said = 0;
        assert_false(kvo_link_up(ck.node, CK_PEER));
    }
    ck_meet(&ck);
    ck_close(&ck);
}

/* ------------------------------------------------------------------ tenants */

/* What a peer hears to one question. */
struct told {
    uint32_t type, len;
    int32_t status;
};

static struct told hear(uint32_t type)
{
    const uint32_t at = ck_said_at(&ck, type, CK_CONN);
    assert_true(at < ck.nr_said);
    struct told told = {.type = type, .len = ck.said[at].len};
    const struct kv_msg *msg = ck_said(&ck, type);
    switch (type) {
    case KV_MSG_STATUS:
        told.status = msg->u.status.status;
        break;
    case KV_MSG_GRANTED:
        told.status = msg->u.granted.items[0].status;
        break;
    case KV_MSG_SPILL_ANSWER:
        told.status = msg->u.spill_answer.statuses[0];
        break;
    case KV_MSG_PUBLISHED:
        told.status = msg->u.published.statuses[0];
        break;
    default:
        fail_msg("type %u", type);
    }
    return told;
}

static struct kv_copy copy_of(uint32_t tenant, const kv_key_t *key)
{
    struct kv_copy copy = ck_copy(key);
    copy.tenant = tenant;
    return copy;
}

static struct told lookup(uint32_t tenant, const kv_key_t *key)
{
    kv_key_t keys[] = {*key};
    struct kv_msg_want want = {.layout = 1};
    struct kv_msg_segment segment = {.segment = *key, .keys = keys, .nr_keys = 1};
    struct kv_msg msg = {.type = KV_MSG_LOOKUP, .req = 5};
    msg.u.lookup = (struct kv_msg_lookup){
        .tenant = tenant,
        .grants_max = 4,
        .wants = &want,
        .nr_wants = 1,
        .segs = &segment,
        .nr_segs = 1,
    };
    ck_tell(&ck, &msg);
    return hear(KV_MSG_STATUS);
}

static struct told grant(uint32_t tenant, const kv_key_t *key)
{
    struct kv_copy copy = copy_of(tenant, key);
    struct kv_msg msg = {.type = KV_MSG_GRANT, .req = 5};
    msg.u.grant = (struct kv_msg_grant){.copies = &copy, .nr_copies = 1};
    ck_tell(&ck, &msg);
    return hear(KV_MSG_GRANTED);
}

static struct told offer(uint32_t tenant, const kv_key_t *key)
{
    struct kv_msg_offer item = ck_offer(key);
    struct kv_msg msg = {.type = KV_MSG_SPILL_OFFER, .req = 5};
    item.copy.tenant = tenant;
    msg.u.spill_offer = (struct kv_msg_spill_offer){
        .stream_pos = ck.stream, .items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
    return hear(KV_MSG_SPILL_ANSWER);
}

static struct told publish(uint32_t tenant, const kv_key_t *key)
{
    struct kv_msg_entry item = ck_entry(key);
    struct kv_msg msg = {.type = KV_MSG_PUBLISH, .req = 5};
    item.copy.tenant = tenant;
    msg.u.publish =
        (struct kv_msg_publish){.pos = ++ck.stream, .items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
    return hear(KV_MSG_PUBLISHED);
}

static struct told read_copy(uint32_t tenant, const kv_key_t *key)
{
    struct kv_copy copy = copy_of(tenant, key);
    struct ck_wire wire;
    struct kv_msg msg = {.type = KV_MSG_READ, .req = 5, .link = ck.link};
    msg.u.read = (struct kv_msg_read){.data_gen = 1, .copies = &copy, .nr_copies = 1};
    assert_true(kvo_data_message(ck.node, ck.now_us, CK_PEER, &msg));
    assert_true(ck_wire(&ck, KVO_ORDER_SERVE, &wire));
    assert_int_equal(wire.part.id, 0); /* no bytes go */
    assert_int_equal(wire.part.len, 0);
    return (struct told){.type = KV_MSG_DATA, .status = wire.part.data.status};
}

/* Withdrawing, and saying that a spill is done: not answered at all. */
static struct told withdraw(uint32_t tenant, const kv_key_t *key)
{
    struct kv_msg_gone item = {.copy = copy_of(tenant, key), .gen = 1};
    struct kv_msg msg = {.type = KV_MSG_WITHDRAW};
    msg.u.withdraw =
        (struct kv_msg_withdraw){.pos = ++ck.stream, .items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
    return (struct told){.status = KV_ERR_DENIED};
}

static struct told spilled(uint32_t tenant, const kv_key_t *key)
{
    struct kv_msg_spilled item = {.copy = copy_of(tenant, key), .status = KV_OK};
    struct kv_msg msg = {.type = KV_MSG_SPILL_DONE};
    msg.u.spill_done = (struct kv_msg_spill_done){.items = &item, .nr_items = 1};
    ck_tell(&ck, &msg);
    return (struct told){.status = KV_ERR_DENIED};
}

/* Every question about a page: the same word for one that is another tenant's and here,
 * for one that is not here, and for a tenant that there is not. */
static void question__about_another_tenant_tells_nothing(void **state)
{
    static const struct {
        const char *name;
        struct told (*ask)(uint32_t tenant, const kv_key_t *key);
    } rows[] = {
        {"LOOKUP", lookup},      {"GRANT", grant},    {"SPILL_OFFER", offer},
        {"PUBLISH", publish},    {"READ", read_copy}, {"WITHDRAW", withdraw},
        {"SPILL_DONE", spilled},
    };
    (void)state;
    open_with_pages();
    ck.nr_tenants = 1; /* its HELLO covers COVERED alone */
    ck_meet(&ck);
    assert_true(ck_opens(&ck, 1, true));
    ck_lists(&ck, NULL, 0);
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ck.nr_said = ck.nr_wire = 0;
        struct picture was = picture();
        const struct told one = rows[i].ask(NOT_COVERED, &here);
        const struct told other = rows[i].ask(NOT_COVERED, &gone);
        const struct told nobodys = rows[i].ask(NOBODYS, &here);
        struct picture now = picture();
        /* Its own questions and answers are all that happened. */
        memset(was.metrics.sent, 0, sizeof(was.metrics.sent));
        memset(now.metrics.sent, 0, sizeof(now.metrics.sent));
        was.metrics.messages_out = now.metrics.messages_out = 0;
        assert_memory_equal(&now, &was, sizeof(was));
        if (one.status != KV_ERR_DENIED || other.status != one.status
            || nobodys.status != one.status || other.len != one.len
            || other.type != one.type || nobodys.type != one.type) {
            fail_msg(
                "%s: %d %d %d, %u and %u bytes", rows[i].name, one.status, other.status,
                nobodys.status, one.len, other.len);
        }
    }
    /* And it is there all the same, for whose it is. */
    const struct kvo_request exists = {
        .op = KVO_EXISTS, .tenant = 1, .keys = &here, .nr_keys = 1};
    assert_int_equal(ck_ask(&ck, ck_client(&ck, 2), &exists), KV_OK);
    assert_int_equal(ck.statuses[0], KV_OK);
    ck_close(&ck);
}

/* The same questions of a tenant that the link covers are answered: the test above asks
 * what can be had. */
static void question__about_a_covered_tenant_is_answered(void **state)
{
    (void)state;
    open_with_pages();
    put(0, &here);
    ck.nr_tenants = 1;
    ck_meet(&ck);
    assert_true(ck_opens(&ck, 1, true));
    ck_lists(&ck, NULL, 0);
    ck.nr_said = 0;
    assert_int_equal(grant(COVERED, &here).status, KV_OK);
    assert_int_equal(grant(COVERED, &gone).status, KV_ERR_MISS);
    assert_int_equal(publish(COVERED, &gone).status, KV_OK);
    ck_close(&ck);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message__without_its_link_is_not_heard),
        cmocka_unit_test(hello__wrong_is_told_its_field_alone),
        cmocka_unit_test(question__about_another_tenant_tells_nothing),
        cmocka_unit_test(question__about_a_covered_tenant_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
