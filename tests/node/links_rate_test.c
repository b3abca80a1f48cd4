/* What an address may ask of the loop before anybody knows who it is has a rate. */
#include "tests/node/links_kit.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* A record with a ServerHello of no bytes, which ends a handshake at once. */
#define HELLO "\x16\x03\x01\x00\x04\x02\x00\x00\x00"

static const struct kvn_links_counts *counts(void)
{
    return kvn_links_counts(lk_nodes[0].links);
}

/* One address begins handshakes without end, one after the other: past its burst it
 * gets so many a second, and a node at another address links at once all the same. */
static void links__handshakes_of_an_address_have_a_rate(void **state)
{
    enum { FLOOD = KVN_LINKS_SHAKES_BURST + 100 };
    const struct sockaddr_in flooder = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1)};
    struct sockaddr_in addr = flooder;
    unsigned nr = 0;
    (void)state;
    lk_open(&(struct lk_options){.kind = LK_PSK, .nr = 2});
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.sin_port = htons(kvn_links_port(lk_nodes[0].links));
    const uint64_t from = lk_now_ms();
    for (; nr < FLOOD; nr++) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (const void *)&flooder, sizeof(flooder)), 0);
        assert_int_equal(connect(fd, (const void *)&addr, sizeof(addr)), 0);
        lk_raw_send(fd, HELLO, sizeof(HELLO) - 1);
        UNTIL(counts()->handshake_failed == nr + 1);
        close(fd);
    }
    const uint64_t took_ms = lk_now_ms() - from;
    const uint64_t begun = FLOOD - counts()->refused;
    assert_true(begun >= KVN_LINKS_SHAKES_BURST);
    assert_true(
        begun <= KVN_LINKS_SHAKES_BURST + 1 + took_ms * 1000 / KVN_LINKS_SHAKE_US);
    assert_true(counts()->refused > 0);
    const uint64_t refused = counts()->refused;
    lk_link_up(1, 0);
    assert_int_equal(counts()->refused, refused);
    lk_run_ms(3 * KVN_LINKS_SHAKE_US / 1000); /* and in its time it is heard again */
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const void *)&flooder, sizeof(flooder)), 0);
    assert_int_equal(connect(fd, (const void *)&addr, sizeof(addr)), 0);
    lk_raw_send(fd, HELLO, sizeof(HELLO) - 1);
    UNTIL(counts()->handshake_failed == FLOOD + 1);
    assert_int_equal(counts()->refused, refused);
    close(fd);
    lk_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links__handshakes_of_an_address_have_a_rate),
    };
    return cmocka_run_group_tests(tests, lk_setup, lk_teardown);
}
