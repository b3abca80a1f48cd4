#include "tests/node/remote_kit.h"

#include "node/keygen.h"
#include "tests/node/cluster_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the node -------------------------------------------------------------------- */

struct cert_kit rk_certs;
const char *rk_extra = "";

/* In the folder of the credentials; no port is taken: the node's is the system's. */
static struct cluster_kit cluster;
static struct kvn_config *loaded;
static struct cluster_kit_node node;
static uint16_t port; /* the node's, also where it is another process's */

struct seen {
    uint32_t held, clients;
};

static struct kvn_config *load(bool certs, bool clients)
{
    cluster_kit_write(
        &cluster, "conf", 0,
        "[cluster]\nname = c1\nnode = 1\n[listen]\naddress = 127.0.0.1:0\nunix = %s\n"
        "clients = %s\n[tls]\n%s[pager]\ndevice_bytes = 4MiB\n[node \"1\"]\n"
        "address = 127.0.0.1:1\n"
        "[tenant \"7\"]\nsecret = 00112233445566778899aabbccddee07\n%s"
        "[tenant \"9\"]\nsecret = 00112233445566778899aabbccddee09\n"
        "[space \"chat\"]\nmodel = m\npage_tokens = 8\npage_bytes = 4KiB\n"
        "[limits]\nclients = 4\n"
        "remote_clients = 4\nrequests = 256\n%s%s",
        cluster_kit_path(&cluster, "sock"), clients ? "yes" : "no",
        certs ? "ca = ca.pem\ncert = node-1.pem\nkey = node-1.key\n" : "psk = psk\n",
        clients ? "client_psk = seven.psk\n" : "",
        clients ? "" : "[node \"2\"]\naddress = 127.0.0.1:2\n", /* else none listens */
        rk_extra);
    return cluster_kit_load(cluster_kit_path(&cluster, "conf"));
}

static bool at_rest(const struct kvp_info *info)
{
    return info->state == KVP_FREE
           || ((info->state == KVP_SEALED
                || (info->state == KVP_LEAVING && info->ready))
               && (info->refs | info->pins | info->grants | info->ios | info->fences)
                      == 0);
}

static void on_look(kvn_node_t *at, void *arg)
{
    struct seen *seen = arg;
    kvo_node_t *core = kvn_node_core(at);
    const kvp_pager_t *pager = kvo_pager(core);
    struct kvo_tables tables;
    struct kvp_info info;
    kvo_check(core);
    kvo_tables(core, &tables);
    seen->held = tables.requests.used + tables.fetching.used + tables.pins.used;
    for (uint32_t i = 0; i < kvp_nr_frames(pager); i++) {
        kvp_frame_at(pager, i, &info);
        seen->held += !at_rest(&info);
    }
    seen->clients = tables.clients.used;
}

static struct seen look(void)
{
    struct seen seen;
    cluster_kit_do(&node, on_look, &seen);
    return seen;
}

void rk_node_start(bool certs, bool clients)
{
    loaded = load(certs, clients);
    cluster_kit_start(&node, loaded);
    port = node.port;
}

void rk_node_stop(void)
{
    cluster_kit_tell_stop(&node);
    cluster_kit_join(&node);
    kvn_config_free(loaded);
}

uint32_t rk_node_held(void)
{
    return look().held;
}

uint32_t rk_node_clients(void)
{
    return look().clients;
}

void rk_await_rest(uint32_t clients)
{
    struct seen seen = look();
    for (unsigned i = 0; seen.held > 0 || seen.clients != clients; i++) {
        if (i == RK_PATIENCE_US / 1000) {
            fail_msg("%u held, %u clients", seen.held, seen.clients);
        }
        usleep(1000);
        seen = look();
    }
}

int rk_setup(void **state)
{
    struct kvn_keygen_made made;
    (void)state;
    cert_kit_make(&rk_certs);
    cert_kit_node(&rk_certs, "c1", 1);
    assert_int_equal(
        kvn_keygen_tenant(rk_certs.folder, "c1", RK_SEVEN, 0, &made), KV_OK);
    assert_int_equal(
        kvn_keygen_tenant(rk_certs.folder, "c1", RK_NINE, 0, &made), KV_OK);
    assert_int_equal(
        kvn_keygen_secret(cert_kit_path(&rk_certs, "seven.psk"), "key", &made), KV_OK);
    snprintf(cluster.folder, sizeof(cluster.folder), "%s", rk_certs.folder);
    rk_node_start(true, true); /* what the loop's library opens once */
    rk_node_stop();
    return 0;
}

int rk_teardown(void **state)
{
    (void)state;
    cert_kit_remove(&rk_certs);
    return 0;
}

/* ---- clients --------------------------------------------------------------------- */

kvr_status_t
rk_open_as(uint32_t tenant, const char *how, kvr_client_t **client_p, char error[320])
{
    char target[512];
    if (how == NULL) {
        snprintf(
            target, sizeof(target), "unix:%s", cluster_kit_path(&cluster, "sock"));
    } else if (strchr(how, '-') != NULL) { /* a pair */
        snprintf(
            target, sizeof(target),
            "tls://127.0.0.1:%u?cluster=c1&ca=%s/ca.pem&cert=%s/%s.pem&key=%s/%s.key",
            rk_port(), rk_certs.folder, rk_certs.folder, how, rk_certs.folder, how);
    } else {
        snprintf(
            target, sizeof(target), "tls://127.0.0.1:%u?cluster=c1&psk=%s/%s",
            rk_port(), rk_certs.folder, how);
    }
    const struct kvr_config config = {
        .struct_size = sizeof(config), .target = target, .tenant = tenant};
    return kvr_open(&config, client_p, error, 320);
}

kvr_client_t *rk_client_of(uint32_t tenant, const char *how)
{
    char error[320];
    kvr_client_t *client = NULL;
    if (rk_open_as(tenant, how, &client, error) != KVR_OK) {
        fail_msg("%s", error);
    }
    return client;
}

void rk_page_fill(uint8_t *to, uint64_t number)
{
    for (unsigned i = 0; i < RK_PAGE / 8; i++) {
        const uint64_t word = (number + 1) * 0x9e3779b97f4a7c15 + i;
        memcpy(to + 8 * i, &word, 8);
    }
}

struct kvr_key rk_key_of(uint64_t number)
{
    struct kvr_key key = {{1}};
    memcpy(key.bytes + 8, &number, sizeof(number));
    return key;
}

/* One batch and its result: keys first … first + n - 1, loose, page i at i pages. */
void rk_batch(
    kvr_client_t *client, enum kvr_op op, uint64_t first, uint32_t n, uint32_t buffer,
    int32_t *statuses)
{
    static struct kvr_key keys[KVR_BATCH_MAX];
    static struct kvr_at at[KVR_BATCH_MAX];
    struct kvr_space space;
    struct kvr_result result;
    assert_int_equal(kvr_space_find(client, "chat", &space), KVR_OK);
    for (uint32_t i = 0; i < n; i++) {
        keys[i] = rk_key_of(first + i);
        at[i] = (struct kvr_at){.buffer = buffer, .offset = (uint64_t)i * RK_PAGE};
    }
    const bool moves = op == KVR_OP_GET || op == KVR_OP_PUT;
    const struct kvr_batch ask = {
        .struct_size = sizeof(ask),
        .op = op,
        .variant = space.variant,
        .tag = first,
        .timeout_us = moves || op == KVR_OP_EXISTS ? 5000000 : 0,
        .keys = keys,
        .nr_keys = n,
        .at = moves ? at : NULL,
        .loose = 1,
    };
    if (kvr_submit(client, &ask) != KVR_OK) {
        fail_msg("%s", kvr_error(client));
    }
    const kvr_status_t status = kvr_next(client, RK_PATIENCE_US, &result);
    if (status != KVR_OK || result.status != KVR_OK) {
        fail_msg("%d %d: %s", status, result.status, kvr_error(client));
    }
    assert_int_equal(result.tag, first);
    assert_int_equal(result.nr_keys, n);
    memcpy(statuses, result.statuses, n * sizeof(*statuses));
}

void rk_expect_all(const int32_t *statuses, uint32_t n, int32_t wanted)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(statuses[i], wanted);
    }
}

uint16_t rk_port(void)
{
    return port;
}

void rk_node_is(const char *folder, uint16_t its_port)
{
    snprintf(rk_certs.folder, sizeof(rk_certs.folder), "%s", folder);
    port = its_port;
}
