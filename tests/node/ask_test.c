/* Goal: who asks a node ends in time with one line, whatever listens there: silence, a
 * hang-up, a report that is too long, too short, no JSON, without its descriptor, or
 * changed afterwards; a node that is asked too often is asked again.
 * Method: a node of three packets, played by a thread of this test. */
#define _GNU_SOURCE
#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "node/ask.h"
#include "tests/base/process_kit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* What the node does once it was asked. */
enum act {
    TELLS,
    SILENT,
    HANGS_UP,
    NO_GREETING, /* but silence */
    WRONG_GREETING,
    DENIES,
    REFUSES_ODDLY, /* with a status that is none */
    AGAIN_TWICE,   /* then tells */
    AGAIN_ALWAYS,
    NO_FD,
    SHORTER, /* than it says */
    TOO_LONG,
    NO_JSON,
    NO_OBJECT,
    GARBAGE,  /* instead of a packet */
    LISTS_ON, /* as if there were always one more */
    NR_ACTS
};

static char folder[] = "/tmp/kvrail-ask-XXXXXX";
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static int listener = -1;
static _Atomic int act; /* enum act */
static _Atomic unsigned nr_asked;
static _Atomic bool ending;

/* ------------------------------------------------------------------ the node */

static void tell(int sock, const char *text, uint64_t says, bool with_fd)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_REPORT);
    packet.bytes = says;
    const int fd = memfd_create("report", MFD_CLOEXEC);
    KV_ASSERT(fd >= 0 && pwrite(fd, text, strlen(text), 0) == (ssize_t)strlen(text));
    (void)kvn_packet_send(sock, &packet, sizeof(packet), with_fd ? fd : -1);
    close(fd);
}

static void refuse(int sock, int32_t status)
{
    struct kvn_packet packet;
    kvn_packet_init(&packet, KVN_PACKET_REFUSED);
    packet.status = status;
    packet.limit = 1;
    packet.value = 2;
    snprintf(packet.field, sizeof(packet.field), "ask.spaces");
    (void)kvn_packet_send(sock, &packet, sizeof(packet), -1);
}

static void wait_for_hang_up(int sock)
{
    char byte[512];
    while (recv(sock, byte, sizeof(byte), 0) > 0) {}
}

static void answer(int sock)
{
    static const char good[] = "{\"of\":1,\"first\":0,\"list\":[{\"n\":1}]}";
    static const char endless[] = "{\"of\":1000000000,\"first\":0,\"list\":[1]}";
    const uint64_t len = sizeof(good) - 1;
    nr_asked++;
    switch (atomic_load(&act)) {
    case AGAIN_TWICE:
        if (nr_asked <= 2) {
            refuse(sock, KV_ERR_AGAIN);
            return;
        }
        __attribute__((fallthrough));
    case TELLS:
        tell(sock, good, len, true);
        return;
    case LISTS_ON:
        tell(sock, endless, sizeof(endless) - 1, true);
        return;
    case DENIES:
        refuse(sock, KV_ERR_DENIED);
        return;
    case REFUSES_ODDLY:
        refuse(sock, 77);
        return;
    case AGAIN_ALWAYS:
        refuse(sock, KV_ERR_AGAIN);
        return;
    case NO_FD:
        tell(sock, good, len, false);
        return;
    case SHORTER:
        tell(sock, good, len + 1, true);
        return;
    case TOO_LONG:
        tell(sock, good, UINT64_C(1) << 40, true);
        return;
    case NO_JSON:
        tell(sock, "{\"a\":", 5, true);
        return;
    case NO_OBJECT:
        tell(sock, "[1]", 3, true);
        return;
    case GARBAGE:
        (void)send(sock, good, len, MSG_NOSIGNAL);
        return;
    default:
        wait_for_hang_up(sock);
    }
}

static void serve(int sock)
{
    struct kvn_packet greeting;
    uint8_t bytes[sizeof(greeting) + sizeof(struct kvn_packet_ask)];
    kvn_packet_init(
        &greeting, act == WRONG_GREETING ? KVN_PACKET_UNBUFFER : KVN_PACKET_GREETING);
    greeting.nonce = act == WRONG_GREETING ? 0 : 7;
    if (act == NO_GREETING) {
        wait_for_hang_up(sock);
        return;
    }
    (void)kvn_packet_send(sock, &greeting, sizeof(greeting), -1);
    if (act == HANGS_UP || recv(sock, bytes, sizeof(bytes), 0) != sizeof(bytes)) {
        return;
    }
    answer(sock);
}

static void *node_run(void *arg)
{
    (void)arg;
    for (;;) {
        const int sock = accept(listener, NULL, NULL);
        if (sock < 0 || ending) {
            close(sock);
            return NULL;
        }
        serve(sock);
        close(sock);
    }
}

static pthread_t thread;

static int node_start(void **state)
{
    (void)state;
    KV_ASSERT(mkdtemp(folder) != NULL);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", folder);
    listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    KV_ASSERT(bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0);
    KV_ASSERT(listen(listener, 8) == 0);
    return pthread_create(&thread, NULL, node_run, NULL);
}

static int node_stop(void **state)
{
    (void)state;
    ending = true;
    const int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    KV_ASSERT(connect(sock, (struct sockaddr *)&address, sizeof(address)) == 0);
    close(sock);
    pthread_join(thread, NULL);
    close(listener);
    unlink(address.sun_path);
    return rmdir(folder);
}

/* ------------------------------------------------------------------ asking */

static kv_status_t
ask(enum act what, uint64_t timeout_us, json_t **report_p, char *line)
{
    const struct kvn_ask question = {
        .socket = address.sun_path,
        .timeout_us = timeout_us,
        .record = {.what = KVN_ASK_PEERS},
    };
    act = what;
    nr_asked = 0;
    return kvn_ask(&question, report_p, line, KVN_ASK_LINE_BYTES);
}

static void ask__ends_whatever_listens(void **state)
{
    static const struct {
        kv_status_t status;
        const char *line;
    } want[NR_ACTS] = {
        [TELLS] = {KV_OK, ""},
        [SILENT] = {KV_ERR_DEADLINE, "does not answer in time"},
        [HANGS_UP] = {KV_ERR_LINK_LOST, "hung up"},
        [NO_GREETING] = {KV_ERR_DEADLINE, "does not answer in time"},
        [WRONG_GREETING] = {KV_ERR_INVALID, "packet.unexpected"},
        [DENIES] = {KV_ERR_DENIED, "denied: the credential does not cover"},
        [REFUSES_ODDLY] = {KV_ERR_INVALID, "ask.spaces is 2, the limit is 1"},
        [AGAIN_TWICE] = {KV_OK, ""},
        [AGAIN_ALWAYS] = {KV_ERR_AGAIN, "again: no room at this moment"},
        [NO_FD] = {KV_ERR_IO, "descriptor did not come"},
        [SHORTER] = {KV_ERR_INVALID, "not of the length it says"},
        [TOO_LONG] = {KV_ERR_INVALID, "not of the length it says"},
        [NO_JSON] = {KV_ERR_INVALID, "no JSON object"},
        [NO_OBJECT] = {KV_ERR_INVALID, "no JSON object"},
        [LISTS_ON] = {KV_OK, ""},
        [GARBAGE] = {KV_ERR_INVALID, "packet."},
    };
    (void)state;
    for (enum act what = TELLS; what < NR_ACTS; what++) {
        char line[KVN_ASK_LINE_BYTES];
        json_t *report = NULL;
        const struct process_kit_held before = process_kit_held();
        /* Long where an answer must come, short where none will. */
        const bool over = want[what].status == KV_ERR_DEADLINE || what == AGAIN_ALWAYS;
        assert_int_equal(
            ask(what, over ? 300000 : 20000000, &report, line), want[what].status);
        if (strstr(line, want[what].line) == NULL) {
            fail_msg("act %d: %s", (int)what, line);
        }
        assert_null(strchr(line, '\n'));
        assert_int_equal(report != NULL, want[what].status == KV_OK);
        json_decref(report);
        for (unsigned i = 0; i < 1000 && process_kit_held().fds != before.fds; i++) {
            usleep(1000); /* the node's side of the socket */
        }
        process_kit_expect_held(&before);
    }
}

static void ask__puts_a_list_together(void **state)
{
    char line[KVN_ASK_LINE_BYTES];
    json_t *report = NULL;
    (void)state;
    act = TELLS;
    const struct kvn_ask question = {
        .socket = address.sun_path, .record = {.what = KVN_ASK_PEERS}};
    assert_int_equal(
        kvn_ask_list(&question, "list", &report, line, sizeof(line)), KV_OK);
    assert_int_equal(json_array_size(json_object_get(report, "list")), 1);
    assert_null(json_object_get(report, "first"));
    json_decref(report);
    act = LISTS_ON;
    report = NULL;
    struct kvn_ask endless = question;
    endless.timeout_us = 60000000;
    assert_int_equal(
        kvn_ask_list(&endless, "list", &report, line, sizeof(line)), KV_ERR_TOO_LARGE);
    assert_string_equal(line, "the node lists more than 4096 list");
    endless.timeout_us = 20000;
    assert_int_equal(
        kvn_ask_list(&endless, "list", &report, line, sizeof(line)), KV_ERR_DEADLINE);
    assert_null(report);
}

/* socket(), and memory for the text. */
static void ask__survives_every_fault(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        char line[KVN_ASK_LINE_BYTES];
        json_t *report = NULL;
        kv_fault_after(n);
        const kv_status_t status = ask(TELLS, 20000000, &report, line);
        kv_fault_after(0);
        assert_int_equal(status == KV_OK, report != NULL);
        json_decref(report);
        if (status == KV_OK) {
            assert_int_equal(n - 1, 2);
            return;
        }
        assert_true(status == KV_ERR_IO || status == KV_ERR_NOMEM);
        assert_true(n < 20);
    }
}

static void ask__says_what_is_wrong_with_the_path(void **state)
{
    char line[KVN_ASK_LINE_BYTES], longer[200];
    json_t *report = NULL;
    struct kvn_ask question = {.socket = longer};
    (void)state;
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(kvn_ask(&question, &report, line, sizeof(line)), KV_ERR_CONFIG);
    assert_non_null(strstr(line, "at most 107 characters"));
    snprintf(longer, sizeof(longer), "%s/none", folder);
    assert_int_equal(kvn_ask(&question, &report, line, sizeof(line)), KV_ERR_LINK_LOST);
    assert_non_null(strstr(line, "is a node running"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ask__ends_whatever_listens),
        cmocka_unit_test(ask__puts_a_list_together),
        cmocka_unit_test(ask__survives_every_fault),
        cmocka_unit_test(ask__says_what_is_wrong_with_the_path),
    };
    return cmocka_run_group_tests(tests, node_start, node_stop);
}
