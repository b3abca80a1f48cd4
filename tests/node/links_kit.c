#include "tests/node/links_kit.h"

#include "base/mem.h"
#include "node/daemon/frame.h"
#include "tests/base/process_kit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct lk_node lk_nodes[LK_NODES_MAX];
uv_loop_t lk_loop;
struct cert_kit lk_certs;

static unsigned nr_nodes;
static bool in_call;
static int reserved[LK_NODES_MAX];
static unsigned nr_fds_before;
static int64_t live_before;
static uv_timer_t beat;

int lk_setup(void **state)
{
    (void)state;
    /* The first loop of a process opens descriptors that stay. */
    assert_int_equal(uv_loop_init(&lk_loop), 0);
    assert_int_equal(uv_loop_close(&lk_loop), 0);
    cert_kit_make(&lk_certs);
    for (uint32_t id = 1; id <= LK_NODES_MAX; id++) {
        cert_kit_node(&lk_certs, "c1", id);
    }
    return 0;
}

int lk_teardown(void **state)
{
    (void)state;
    cert_kit_remove(&lk_certs);
    return 0;
}

uint64_t lk_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- callbacks ------------------------------------------------------------------- */

static struct lk_conn *find(struct lk_node *node, uint64_t number)
{
    for (unsigned i = 0; i < node->nr_conns; i++) {
        if (node->conns[i].number == number) {
            return &node->conns[i];
        }
    }
    return NULL;
}

static void on_up(void *arg, uint32_t peer, uint64_t number, bool dialled)
{
    struct lk_node *node = arg;
    assert_false(in_call);
    assert_false(node->closed);
    assert_true(peer < nr_nodes && peer != node->index);
    assert_null(find(node, number)); /* never used twice */
    assert_true(node->nr_conns < LK_CONNS_MAX);
    node->conns[node->nr_conns++] = (struct lk_conn){
        .number = number, .peer = peer, .up = true, .dialled = dialled};
    node->nr_up++;
    node->nr_dial_ups += dialled;
    if (node->on_up != NULL) {
        node->on_up(node, number);
    }
}

static void on_down(void *arg, uint32_t peer, uint64_t number)
{
    struct lk_node *node = arg;
    struct lk_conn *conn = find(node, number);
    assert_false(in_call);
    assert_false(node->closed);
    assert_non_null(conn);
    assert_int_equal(conn->peer, peer);
    assert_true(conn->up); /* once */
    conn->up = false;
    node->nr_up--;
    node->nr_downs++;
    if (node->on_down != NULL) {
        node->on_down(node, number);
    }
}

static void on_dial_failed(void *arg, uint32_t peer)
{
    struct lk_node *node = arg;
    assert_false(in_call);
    assert_false(node->closed);
    assert_true(peer < nr_nodes);
    node->nr_dials_failed++;
}

static void
on_frame(void *arg, uint32_t peer, uint64_t number, const uint8_t *bytes, size_t len)
{
    struct lk_node *node = arg;
    struct lk_conn *conn = find(node, number);
    assert_false(in_call);
    assert_non_null(conn);
    assert_true(conn->up); /* nothing before up or after down */
    assert_int_equal(conn->peer, peer);
    assert_true(len >= 1 && len <= KV_MSG_BYTES_MAX);
    conn->nr_frames++;
    conn->nr_bytes += len;
    memset(node->last, 0, sizeof(node->last));
    memcpy(node->last, bytes, len < sizeof(node->last) ? len : sizeof(node->last));
    if (node->on_frame != NULL) {
        node->on_frame(node, number, bytes, len);
    }
}

static void on_data(void *arg, int fd)
{
    struct lk_node *node = arg;
    assert_false(in_call);
    assert_true(node->nr_fds < LK_FDS_MAX);
    node->fds[node->nr_fds++] = fd;
}

static void on_closed(void *arg)
{
    struct lk_node *node = arg;
    assert_false(in_call);
    assert_false(node->closed);
    assert_int_equal(node->nr_up, 0);
    assert_int_equal(node->nr_dials, node->nr_dial_ups + node->nr_dials_failed);
    node->closed = true;
    node->links = NULL;
}

/* ---- open and close -------------------------------------------------------------- */

/* A port that is ours and that nobody listens on: links may bind it beside us. */
static uint16_t reserve(unsigned i)
{
    const int one = 1;
    struct sockaddr_in addr = {.sin_family = AF_INET};
    socklen_t len = sizeof(addr);
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    reserved[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(reserved[i] >= 0);
    setsockopt(reserved[i], SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(reserved[i], (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(getsockname(reserved[i], (struct sockaddr *)&addr, &len), 0);
    return ntohs(addr.sin_port);
}

static void on_beat(uv_timer_t *timer)
{
    (void)timer;
}

static kvn_tls_t *make_tls(const struct lk_options *options, unsigned i)
{
    if (options->tls[i] != NULL || options->kind == LK_CLEAR) {
        return NULL;
    }
    return options->kind == LK_PSK ? cert_kit_load_psk(&lk_certs, i + 1)
                                   : cert_kit_load(&lk_certs, i + 1);
}

kv_status_t lk_try_open(const struct lk_options *options)
{
    static char texts[LK_NODES_MAX][64];
    struct kvn_links_peer peers[LK_NODES_MAX];
    kv_status_t status = KV_OK;
    live_before = kv_mem_live();
    nr_fds_before = process_kit_fds();
    nr_nodes = options->nr;
    memset(lk_nodes, 0, sizeof(lk_nodes));
    assert_int_equal(uv_loop_init(&lk_loop), 0);
    uv_timer_init(&lk_loop, &beat);
    uv_timer_start(&beat, on_beat, 5, 5);
    for (unsigned i = 0; i < nr_nodes; i++) {
        const char *host = options->hosts[i] == NULL ? "127.0.0.1" : options->hosts[i];
        snprintf(texts[i], sizeof(texts[i]), "%s:%u", host, reserve(i));
        peers[i] = (struct kvn_links_peer){.id = i + 1, .address = texts[i]};
    }
    for (unsigned i = 0; i < nr_nodes; i++) {
        struct lk_node *node = &lk_nodes[i];
        char line[512], listen[64];
        node->index = i;
        node->closed = true;
        node->tls = make_tls(options, i);
        snprintf(listen, sizeof(listen), "127.0.0.1%s", strrchr(texts[i], ':'));
        const struct kvn_links_config config = {
            .listen = listen,
            .tls = options->tls[i] != NULL ? options->tls[i] : node->tls,
            .peers = peers,
            .nr_peers = nr_nodes,
            .self = i,
            .handshake_us =
                options->handshake_us == 0 ? 10000000 : options->handshake_us,
            .frame_us = options->frame_us == 0 ? 10000000 : options->frame_us,
            .queue_bytes = options->queue_bytes == 0 ? 1 << 24 : options->queue_bytes,
        };
        const struct kvn_links_events events = {
            .arg = node,
            .up = on_up,
            .down = on_down,
            .dial_failed = on_dial_failed,
            .frame = on_frame,
            .data = on_data,
        };
        const kv_status_t opened = kvn_links_open(
            &lk_loop, &config, &events, &node->links, line, sizeof(line));
        assert_true((opened == KV_OK) == (node->links != NULL));
        assert_true((opened == KV_OK) == (line[0] == '\0'));
        node->closed = opened != KV_OK;
        status = opened == KV_OK ? status : opened;
    }
    return status;
}

void lk_open(const struct lk_options *options)
{
    assert_int_equal(lk_try_open(options), KV_OK);
}

void lk_close_node(struct lk_node *node)
{
    if (node->links != NULL && !node->closed) {
        in_call = true;
        kvn_links_close(node->links, on_closed, node);
        in_call = false;
        node->links = NULL;
    }
}

static bool all_closed(void)
{
    for (unsigned i = 0; i < nr_nodes; i++) {
        if (!lk_nodes[i].closed) {
            return false;
        }
    }
    return true;
}

void lk_close(void)
{
    for (unsigned i = 0; i < nr_nodes; i++) {
        lk_close_node(&lk_nodes[i]);
    }
    UNTIL(all_closed());
    for (unsigned i = 0; i < nr_nodes; i++) {
        kvn_tls_free(lk_nodes[i].tls);
        close(reserved[i]);
        for (unsigned j = 0; j < lk_nodes[i].nr_fds; j++) {
            close(lk_nodes[i].fds[j]);
        }
    }
    uv_close((uv_handle_t *)&beat, NULL);
    while (uv_run(&lk_loop, UV_RUN_DEFAULT) != 0) {}
    assert_int_equal(uv_loop_close(&lk_loop), 0); /* no handle is left */
    assert_int_equal(kv_mem_live(), live_before);
    assert_int_equal(process_kit_fds(), nr_fds_before);
}

/* ---- calls ----------------------------------------------------------------------- */

void lk_turn(void)
{
    uv_run(&lk_loop, UV_RUN_ONCE);
}

void lk_run_ms(uint64_t ms)
{
    const uint64_t from = lk_now_ms();
    while (lk_now_ms() - from < ms) {
        lk_turn();
    }
}

void lk_dial(unsigned from, unsigned to)
{
    const struct kvn_links_counts *counts = kvn_links_counts(lk_nodes[from].links);
    const uint64_t before = counts->dialled;
    in_call = true;
    kvn_links_dial(lk_nodes[from].links, to);
    in_call = false;
    lk_nodes[from].nr_dials += (unsigned)(counts->dialled - before);
}

struct lk_conn *lk_link(unsigned node, unsigned peer)
{
    struct lk_node *at = &lk_nodes[node];
    for (unsigned i = at->nr_conns; i-- > 0;) {
        if (at->conns[i].up && at->conns[i].peer == peer) {
            return &at->conns[i];
        }
    }
    return NULL;
}

void lk_link_up(unsigned from, unsigned to)
{
    lk_dial(from, to);
    UNTIL(lk_link(from, to) != NULL && lk_link(to, from) != NULL);
}

kv_status_t lk_send(unsigned node, uint64_t conn, const void *bytes, size_t len)
{
    const bool was = in_call;
    in_call = true;
    const kv_status_t status = kvn_links_send(lk_nodes[node].links, conn, bytes, len);
    in_call = was;
    return status;
}

void lk_hang_up(unsigned node, uint64_t conn)
{
    const bool was = in_call;
    in_call = true;
    kvn_links_hang_up(lk_nodes[node].links, conn);
    in_call = was;
}

void lk_listen(unsigned node)
{
    assert_int_equal(listen(reserved[node], 4), 0);
}

/* ---- sockets that are no node ---------------------------------------------------- */

int lk_raw(unsigned node)
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons(kvn_links_port(lk_nodes[node].links));
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

void lk_raw_send(int fd, const void *bytes, size_t len)
{
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

int lk_raw_link(unsigned node, uint32_t id)
{
    uint8_t hello[KVN_HELLO_BYTES];
    const int fd = lk_raw(node);
    kvn_hello_make(id, hello);
    lk_raw_send(fd, hello, sizeof(hello));
    return fd;
}

bool lk_raw_ended(int fd)
{
    char bytes[4096];
    ssize_t ret;
    while ((ret = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {}
    return ret == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}
