/* Goal: nodes of one process read each other's pages by the loop transport, each
 * direction as its reader's configuration wants it; and one may stop in the middle, and
 * come back, while the other goes on.
 * Method: two real nodes, each with a loop and a thread of its own, and a client of
 * each; what came by which transport is asked in the node's own thread. */
#include "base/log.h"
#include "tests/node/cluster_kit.h"
#include "tests/node/local_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { NODES = 2, PAGES = 48, PAGE_BYTES = 64 << 10, PATIENCE = 2000, ROUNDS = 4 };

#define SECRET "00112233445566778899aabbccddeeff"

static struct cluster_kit cluster;

/* ------------------------------------------------------------------ the kit */

struct looked {
    unsigned links;
    char transport[KV_MSG_TEXT_MAX + 1]; /* by which the other is read */
    uint64_t loop, shm, tcp;
};

struct side {
    unsigned index;
    struct kvn_config *config;
    struct cluster_kit_node node;
    struct looked seen;
    kvr_client_t *client;
    struct kvr_buffer buffer;
};

static const char *socket_of(unsigned index)
{
    return cluster_kit_path(&cluster, index == 0 ? "sock1" : "sock2");
}

static struct kvn_config *load(unsigned index, const char *transports)
{
    cluster_kit_write(
        &cluster, "test.conf", NODES,
        "[cluster]\nname = test\nnode = %u\n[listen]\nunix = %s\n"
        "http = 127.0.0.1:0\n[link]\ntransports = %s\n"
        "[tls]\nclear = yes\n[pager]\ndevice_bytes = 32MiB\n"
        "host_bytes = 32MiB\n[tenant \"10\"]\nsecret = " SECRET "\n[space \"chat\"]\n"
        "model = m\npage_tokens = 8\npage_bytes = 64KiB\n[data]\nverify = yes\n",
        index + 1, socket_of(index), transports);
    return cluster_kit_load(cluster_kit_path(&cluster, "test.conf"));
}

static void on_look(kvn_node_t *node, void *arg)
{
    struct side *side = arg;
    kvo_node_t *core = kvn_node_core(node);
    struct kvo_peer_info peer;
    kvo_peer_info(core, uv_hrtime() / 1000, 1 - side->index, &peer);
    side->seen = (struct looked){
        .links = kvo_links_up(core),
        .loop = kvn_node_read_bytes(node, "loop"),
        .shm = kvn_node_read_bytes(node, "shm"),
        .tcp = kvn_node_read_bytes(node, "tcp"),
    };
    snprintf(side->seen.transport, sizeof(side->seen.transport), "%s", peer.transport);
}

static struct looked look(struct side *side)
{
    cluster_kit_do(&side->node, on_look, side);
    return side->seen;
}

static void side_start(struct side *side, unsigned index, const char *transports)
{
    *side = (struct side){.index = index, .config = load(index, transports)};
    cluster_kit_start(&side->node, side->config);
}

static void side_attach(struct side *side)
{
    side->client = lk_client_at(socket_of(side->index), 0);
    assert_non_null(side->client);
    assert_int_equal(
        kvr_buffer_create(side->client, PAGES * PAGE_BYTES, &side->buffer), KVR_OK);
}

static void side_end(struct side *side)
{
    kvr_close(side->client);
    cluster_kit_join(&side->node);
    kvn_config_free(side->config);
}

static void wait_for_links(struct side *sides)
{
    for (unsigned i = 0; i < NODES; i++) {
        for (unsigned turn = 0; look(&sides[i]).links < NODES - 1; turn++) {
            assert_true(turn < PATIENCE);
            usleep(10000);
        }
    }
}

static void page_fill(uint8_t *to, uint64_t number)
{
    for (unsigned at = 0; at < PAGE_BYTES; at += LK_PAGE_BYTES) {
        lk_page(to + at, number * PAGE_BYTES + at);
    }
}

static void submit(struct side *side, enum kvr_op op, uint64_t first)
{
    struct kvr_key keys[PAGES];
    struct kvr_at places[PAGES];
    for (uint32_t i = 0; i < PAGES; i++) {
        keys[i] = lk_key(first + i);
        places[i] = (struct kvr_at){
            .buffer = side->buffer.id, .offset = (uint64_t)i * PAGE_BYTES};
    }
    const struct kvr_batch batch = {
        .struct_size = sizeof(batch),
        .op = op,
        .tag = first,
        .timeout_us = LK_LATER_US,
        .keys = keys,
        .nr_keys = PAGES,
        .at = places,
        .loose = 1,
    };
    assert_int_equal(kvr_submit(side->client, &batch), KVR_OK);
}

/* How many are there; each of them is right. */
static unsigned finish(struct side *side, uint64_t first)
{
    static uint8_t page[PAGE_BYTES];
    struct kvr_result result;
    unsigned nr = 0;
    assert_int_equal(kvr_next(side->client, 2 * LK_LATER_US, &result), KVR_OK);
    assert_int_equal(result.nr_keys, PAGES);
    for (uint32_t i = 0; i < PAGES; i++) {
        if (result.statuses[i] == KVR_OK && result.op == KVR_OP_GET) {
            page_fill(page, first + i);
            assert_memory_equal(
                (uint8_t *)side->buffer.base + (size_t)i * PAGE_BYTES, page,
                PAGE_BYTES);
        }
        nr += result.statuses[i] == KVR_OK;
    }
    return nr;
}

static void put(struct side *side, uint64_t first)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        page_fill((uint8_t *)side->buffer.base + (size_t)i * PAGE_BYTES, first + i);
    }
    submit(side, KVR_OP_PUT, first);
    assert_int_equal(finish(side, first), PAGES);
}

/* What was put is known to the directory soon, not at once. */
static void get_all(struct side *side, uint64_t first)
{
    for (unsigned turn = 0;; turn++) {
        memset(side->buffer.base, 0, PAGES * PAGE_BYTES);
        submit(side, KVR_OP_GET, first);
        if (finish(side, first) == PAGES) {
            return;
        }
        assert_true(turn < PATIENCE);
        usleep(10000);
    }
}

/* ------------------------------------------------------------------ tests */

/* Who wants the loop and finds it in common reads by it; who does not, by the next. */
static void fetch__goes_by_what_both_have(void **state)
{
    static const struct {
        const char *transports, *by; /* of the reader; the owner has all */
    } rows[] = {{"all", "loop"}, {"loop", "loop"}, {"both", "shm"}, {"named", "tcp"}};
    const uint64_t bytes = (uint64_t)PAGES * PAGE_BYTES;
    (void)state;
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct side sides[NODES];
        side_start(&sides[0], 0, "all");
        side_start(&sides[1], 1, rows[i].transports);
        wait_for_links(sides);
        side_attach(&sides[0]);
        side_attach(&sides[1]);
        put(&sides[0], 0);
        get_all(&sides[1], 0);
        const struct looked reader = look(&sides[1]), owner = look(&sides[0]);
        assert_string_equal(reader.transport, rows[i].by);
        const bool loop = strcmp(rows[i].by, "loop") == 0;
        const bool shm = strcmp(rows[i].by, "shm") == 0;
        assert_int_equal(reader.loop, loop ? bytes : 0);
        assert_int_equal(reader.shm + reader.tcp, loop ? 0 : bytes);
        /* An owner gives only so many grants at a time; what is left goes by name. */
        assert_true(shm == (reader.shm > 0));
        assert_int_equal(owner.loop + owner.shm + owner.tcp, 0);
        for (unsigned k = 0; k < NODES; k++) {
            cluster_kit_tell_stop(&sides[(i + k) % NODES].node);
        }
        side_end(&sides[0]);
        side_end(&sides[1]);
    }
}

/* The owner stops while pages come: each page has one end, none is wrong, and the owner
 * that comes back in the same process is read by the loop again. */
static void stop__in_the_middle_and_back_again(void **state)
{
    struct side sides[NODES];
    unsigned fetched = 0, lost = 0;
    (void)state;
    side_start(&sides[0], 0, "all");
    side_start(&sides[1], 1, "all");
    wait_for_links(sides);
    side_attach(&sides[0]);
    side_attach(&sides[1]);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const uint64_t first = (uint64_t)(2 * round) * PAGES;
        put(&sides[0], first);
        get_all(&sides[1], first); /* so it is by the loop, and the link is at work */
        put(&sides[0], first + PAGES);
        usleep(50000); /* the directory hears of it */
        const uint64_t before = look(&sides[1]).loop;
        assert_true(before >= (uint64_t)(round + 1) * PAGES * PAGE_BYTES);
        submit(&sides[1], KVR_OP_GET, first + PAGES);
        usleep(300 * round);
        cluster_kit_tell_stop(&sides[0].node);
        const unsigned nr = finish(&sides[1], first + PAGES);
        fetched += nr;
        lost += PAGES - nr;
        side_end(&sides[0]);
        side_start(&sides[0], 0, "all");
        wait_for_links(sides);
        side_attach(&sides[0]);
    }
    print_message("%u pages came, %u were lost with their owner\n", fetched, lost);
    for (unsigned i = 0; i < NODES; i++) {
        cluster_kit_tell_stop(&sides[i].node);
    }
    side_end(&sides[0]);
    side_end(&sides[1]);
}

/* ------------------------------------------------------------------ */

static int set_up(void **state)
{
    const struct kv_log_config log = {.level = KV_LOG_ERROR, .path = "/dev/null"};
    (void)state;
    cluster_kit_make(&cluster);
    return kv_log_start(&log, NULL) == KV_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    kv_log_stop();
    (void)unlink(cluster_kit_path(&cluster, "test.conf"));
    return rmdir(cluster.folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fetch__goes_by_what_both_have),
        cmocka_unit_test(stop__in_the_middle_and_back_again),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
