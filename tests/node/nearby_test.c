/* Goal: page memory is shared where a reader may be near, and nowhere else; both sides
 * of a pair say the same of their host, and what cannot be had is one line.
 * Method: configurations by hand; faults by number. */
#include "base/fault.h"
#include "node/daemon/nearby.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct kvn_config config;
static struct kvn_nearby nearby;
static char line[512];

static void two_nodes(const char *first, const char *second, const char *unix_path)
{
    memset(&config, 0, sizeof(config));
    config.nr_nodes = 2;
    snprintf(config.nodes[0].address, KV_OPT_TEXT_BYTES, "%s", first);
    snprintf(config.nodes[1].address, KV_OPT_TEXT_BYTES, "%s", second);
    snprintf(config.unix_path, sizeof(config.unix_path), "%s", unix_path);
}

static kv_status_t find(uint32_t self)
{
    line[0] = '\0';
    return kvn_nearby_find(&config, self, &nearby, line, sizeof(line));
}

/* Where nobody is near, memory that others map would cost huge pages for nothing. */
static void nearby__is_wanted_where_somebody_may_be(void **state)
{
    (void)state;
    two_nodes("127.0.0.1:7001", "127.0.0.1:7002", "/run/a.sock");
    assert_int_equal(find(0), KV_OK);
    assert_true(nearby.wanted);
    assert_string_equal(nearby.path, "/run/a.sock.peers");

    two_nodes("10.0.0.1:7001", "10.0.0.2:7001", "/run/a.sock");
    assert_int_equal(find(0), KV_OK);
    assert_false(nearby.wanted);
    strcpy(config.peers_path, "/run/peers.sock"); /* said: wherever the others are */
    assert_int_equal(find(0), KV_OK);
    assert_true(nearby.wanted);
    assert_string_equal(nearby.path, "/run/peers.sock");
    config.transports = KVN_TRANSPORTS_NAMED;
    assert_int_equal(find(0), KV_OK);
    assert_false(nearby.wanted);

    two_nodes("10.0.0.1:7001", "10.0.0.2:7001", "/run/a.sock");
    config.transports = KVN_TRANSPORTS_ONESIDED;
    assert_int_equal(find(0), KV_OK);
    assert_true(nearby.wanted);

    two_nodes("127.0.0.1:7001", "127.0.0.1:7002", ""); /* no socket, and none said */
    assert_int_equal(find(0), KV_OK);
    assert_false(nearby.wanted);
    two_nodes("127.0.0.1:7001", "127.0.0.1:7002", "/run/a.sock");
    config.nr_nodes = 1;
    assert_int_equal(find(0), KV_OK);
    assert_false(nearby.wanted);
}

/* The peer has another working folder, and must say the same of the host. */
static void nearby__means_the_same_to_both(void **state)
{
    (void)state;
    char folder[256], wanted[300], domain[KV_MSG_PLACE_MAX + 1];
    assert_non_null(getcwd(folder, sizeof(folder)));
    snprintf(wanted, sizeof(wanted), "%s/a.sock.peers", folder);
    two_nodes("127.0.0.1:7001", "127.0.0.1:7002", "a.sock");
    assert_int_equal(find(0), KV_OK);
    assert_string_equal(nearby.path, wanted);
    strcpy(domain, nearby.domain);
    assert_true(strlen(domain) > 40); /* a boot, two namespaces, a user */
    assert_int_equal(find(1), KV_OK);
    assert_string_equal(nearby.domain, domain);
}

/* A default that does not fit costs its advantage, not the node; what was asked for and
 * cannot be had is refused. */
static void nearby__that_cannot_be_had_is_one_line(void **state)
{
    (void)state;
    char path[120];
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[105] = '\0'; /* fits itself, but not with .peers */
    two_nodes("127.0.0.1:7001", "127.0.0.1:7002", path);
    assert_int_equal(find(0), KV_OK);
    assert_false(nearby.wanted);
    config.transports = KVN_TRANSPORTS_ONESIDED;
    assert_int_equal(find(0), KV_ERR_CONFIG);
    assert_non_null(strstr(line, "listen.peers"));
    assert_non_null(strstr(line, "111 bytes"));
    assert_null(strchr(line, '\n'));

    unsigned n = 1;
    for (bool wanted = false; !wanted; n++) {
        two_nodes("127.0.0.1:7001", "127.0.0.1:7002", "a.sock");
        config.transports = KVN_TRANSPORTS_ONESIDED;
        kv_fault_after(n);
        kv_status_t status = find(0);
        kv_fault_after(0);
        wanted = nearby.wanted;
        assert_int_equal(status == KV_OK, wanted);
        assert_true(wanted || strstr(line, "listen.peers") != NULL);
    }
    assert_int_equal(n - 1, 5); /* getcwd, boot_id, two namespaces; the fifth is none */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nearby__is_wanted_where_somebody_may_be),
        cmocka_unit_test(nearby__means_the_same_to_both),
        cmocka_unit_test(nearby__that_cannot_be_had_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
