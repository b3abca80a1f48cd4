/* An operator asks when something is wrong: the port must answer while the loop is
 * stuck, while others keep it busy, and whatever strangers send; and what it answers
 * must be what Prometheus reads. Real sockets on 127.0.0.1. */
#define _GNU_SOURCE /* strcasestr */

#include "base/fault.h"
#include "base/mem.h"
#include "node/daemon/http_priv.h"
#include "tests/base/process_kit.h"
#include "tests/core/core_kit.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { TEXT_BYTES = 256 * 1024, WAIT_S = 20 };

static kvn_http_t *open_http(struct kvn_http_config config)
{
    char line[KVN_HTTP_LINE_BYTES] = "";
    kvn_http_t *http = NULL;
    config.listen = "127.0.0.1:0";
    assert_int_equal(kvn_http_open(&config, &http, line, sizeof(line)), KV_OK);
    assert_non_null(http);
    assert_true(kvn_http_port(http) != 0);
    assert_string_equal(line, "");
    return http;
}

static int dial(const kvn_http_t *http)
{
    const struct timeval wait = {.tv_sec = WAIT_S};
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(kvn_http_port(http)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    assert_int_equal(
        connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* All of it, or what the peer took before it closed. */
static void say(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        const ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        bytes += n;
        len -= (size_t)n;
    }
}

/* Until the peer closes; never times out. Returns the length. */
static size_t hear(int fd, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t n = 0;
    while (len < cap - 1 && (n = recv(fd, out + len, cap - 1 - len, 0)) > 0) {
        len += (size_t)n;
    }
    assert_true(n == 0 || errno == ECONNRESET);
    out[len] = '\0';
    return len;
}

/* One answer, taken apart in place. */
struct answer {
    unsigned code;
    char *head, *body;
    char text[TEXT_BYTES];
};

static void
ask_raw(const kvn_http_t *http, const char *request, size_t len, struct answer *answer)
{
    const int fd = dial(http);
    say(fd, request, len);
    hear(fd, answer->text, sizeof(answer->text));
    close(fd);
    answer->head = answer->text;
    answer->code = 0;
    (void)sscanf(answer->text, "HTTP/1.%*u %u", &answer->code);
    answer->body = strstr(answer->text, "\r\n\r\n");
    if (answer->body != NULL) {
        *answer->body = '\0';
        answer->body += 4;
    }
}

/* GET or HEAD with further header lines; an answer must come. */
static void
ask(const kvn_http_t *http, const char *method, const char *path, const char *headers,
    struct answer *answer)
{
    char request[1024];
    snprintf(
        request, sizeof(request), "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path,
        headers);
    ask_raw(http, request, strlen(request), answer);
    assert_true(answer->code != 0);
    assert_non_null(answer->body);
}

static bool has_header(const struct answer *answer, const char *line)
{
    return strcasestr(answer->head, line) != NULL;
}

static struct kvn_http_snapshot *snapshot_new(void)
{
    struct kvn_http_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    assert_non_null(snapshot);
    snapshot->node = 7;
    snapshot->incarnation = UINT64_C(0x00ab00cd00ef0011);
    snapshot->nr_peers = 3;
    for (uint32_t i = 0; i < 3; i++) {
        snapshot->peers[i] = (struct kvn_http_peer){.id = i + 1, .up = i != 1};
    }
    return snapshot;
}

static struct answer answer;

static void sleep_ms(unsigned ms)
{
    nanosleep(
        &(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* ---- the format ---------------------------------------------------------------- */

enum { FAMILIES_MAX = 256, SERIES_MAX = 4096, NAME_BYTES = 96 };

/* What has been read of a text so far. */
struct reader {
    bool open; /* OpenMetrics */
    bool ended;
    char family[NAME_BYTES], type[16];
    char families[FAMILIES_MAX][NAME_BYTES];
    unsigned nr_families;
    const char *series[SERIES_MAX]; /* up to the blank */
    size_t series_len[SERIES_MAX];
    unsigned nr_series;
    bool has_help;
};

static size_t name_len(const char *at)
{
    size_t len = 0;
    while (isalnum((unsigned char)at[len]) || at[len] == '_') {
        len++;
    }
    assert_true(len > 0 && !isdigit((unsigned char)at[0]));
    return len;
}

/* {name="value",…}; returns what follows it. */
static const char *read_labels(const char *at)
{
    for (at++; *at != '}';) {
        at += name_len(at);
        assert_memory_equal(at, "=\"", 2);
        for (at += 2; *at != '"'; at++) {
            assert_true(*at != '\n' && *at != '\0');
            if (*at == '\\') {
                at++;
                assert_non_null(strchr("\\\"n", *at));
            }
        }
        at++;
        assert_true(*at == ',' || *at == '}');
        at += *at == ',';
    }
    return at + 1;
}

static void read_meta(struct reader *reader, const char *line)
{
    char family[NAME_BYTES];
    const bool help = strncmp(line, "# HELP ", 7) == 0;
    assert_true(help || strncmp(line, "# TYPE ", 7) == 0);
    const size_t len = name_len(line + 7);
    assert_true(len < sizeof(family) && line[7 + len] == ' ');
    snprintf(family, sizeof(family), "%.*s", (int)len, line + 7);
    if (help) {
        for (unsigned i = 0; i < reader->nr_families; i++) {
            assert_string_not_equal(reader->families[i], family);
        }
        assert_true(reader->nr_families < FAMILIES_MAX);
        snprintf(reader->families[reader->nr_families++], NAME_BYTES, "%s", family);
        snprintf(reader->family, NAME_BYTES, "%s", family);
        assert_true(isgraph((unsigned char)line[8 + len])); /* a text follows */
        reader->type[0] = '\0';
    } else {
        assert_string_equal(family, reader->family);
        assert_int_equal(sscanf(line + 8 + len, "%15s", reader->type), 1);
    }
}

/* The name that a sample of this family has: OpenMetrics adds what the family lacks. */
static void
expect_sample_name(const struct reader *reader, const char *name, size_t len)
{
    char wanted[NAME_BYTES + 8];
    const char *suffix = "";
    if (reader->open && strcmp(reader->type, "counter") == 0) {
        suffix = "_total";
    } else if (reader->open && strcmp(reader->type, "info") == 0) {
        suffix = "_info";
    }
    snprintf(wanted, sizeof(wanted), "%s%s", reader->family, suffix);
    assert_int_equal(len, strlen(wanted));
    assert_memory_equal(name, wanted, len);
    if (strcmp(reader->type, "counter") == 0) {
        assert_memory_equal(name + len - 6, "_total", 6);
    }
}

static void read_sample(struct reader *reader, const char *line)
{
    const size_t len = name_len(line);
    const char *at = line + len;
    char *end;
    assert_true(reader->type[0] != '\0');
    expect_sample_name(reader, line, len);
    at = *at == '{' ? read_labels(at) : at;
    assert_int_equal(*at, ' ');
    for (unsigned i = 0; i < reader->nr_series; i++) {
        assert_true(
            reader->series_len[i] != (size_t)(at - line)
            || memcmp(reader->series[i], line, reader->series_len[i]) != 0);
    }
    assert_true(reader->nr_series < SERIES_MAX);
    reader->series[reader->nr_series] = line;
    reader->series_len[reader->nr_series++] = (size_t)(at - line);
    assert_true(strtod(at + 1, &end) >= 0);
    assert_int_equal(*end, '\n');
}

/* Every line, as strictly as either format is: HELP, TYPE, then the family's samples,
 * each series once, every family once. */
static void read_text(const char *text, bool open)
{
    static struct reader reader;
    reader = (struct reader){.open = open};
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        assert_non_null(strchr(line, '\n'));
        assert_false(reader.ended);
        if (strncmp(line, "# EOF\n", 6) == 0) {
            assert_true(open);
            reader.ended = true;
        } else if (line[0] == '#') {
            read_meta(&reader, line);
        } else {
            read_sample(&reader, line);
        }
    }
    assert_int_equal(reader.ended, open);
    print_message(
        "%u families, %u series, %zu bytes\n", reader.nr_families, reader.nr_series,
        strlen(text));
}

static void expect_series(const char *series)
{
    if (strstr(answer.body, series) == NULL) {
        fail_msg("not in the answer: %s", series);
    }
}

/* A real node's numbers, after some work: every table, label and gauge. */
static void publish_core(kvn_http_t *http)
{
    static struct ck ck;
    struct kvn_http_snapshot *snapshot = snapshot_new();
    ck_init(&ck);
    ck_two_nodes(&ck);
    ck_open(&ck);
    const struct kvo_client_id client = ck_client(&ck, 1);
    assert_int_equal(ck_batch(&ck, client, KVO_PUT, 1, 5, 0), KV_OK);
    assert_int_equal(ck_batch(&ck, client, KVO_GET, 1, 8, 0), KV_OK);
    snapshot->nr_clients = 1;
    snapshot->nr_clients_fenced = 3;
    snapshot->nr_clients_remote = 2;
    snapshot->logs = (struct kv_log_counts){.written = 11, .dropped = 2};
    kvn_http_collect(ck.node, &ck.config, ck.now_us, snapshot);
    assert_int_equal(snapshot->nr_peers, 1);
    kvn_http_publish(http, snapshot);
    kvo_destroy(ck.node); /* not ck_close(): http has allocations of its own */
    free(snapshot);
}

static void expect_all_series(void)
{
    expect_series("kvrail_build_info{version=\"");
    expect_series("\nkvrail_links_up 0\n");
    expect_series("\nkvrail_links 1\n");
    expect_series("\nkvrail_peer_up{peer=\"");
    expect_series("\nkvrail_clients 1\n");
    expect_series("\nkvrail_clients_fenced 3\n");
    expect_series("\nkvrail_clients_remote 2\n");
    expect_series("\nkvrail_log_lines_dropped_total 2\n");
    expect_series("\nkvrail_directory_entries ");
    expect_series("\nkvrail_requests_total 2\n");
    expect_series("\nkvrail_misses_total{reason=\"quota\"} ");
    expect_series("\nkvrail_statuses_total{status=\"ok\"} ");
    expect_series("\nkvrail_messages_sent_total{type=\"hello\"} ");
    expect_series("\nkvrail_messages_received_total{type=\"spill_done\"} ");
    expect_series("\nkvrail_pager_sealed_total 5\n");
    expect_series(
        "\nkvrail_pager_frame_moves_total{from=\"sealing\",to=\"sealed\"} 5\n");
    expect_series("\nkvrail_frames{pool=\"0\",tier=\"device\",domain=\"0\",state=\"");
    expect_series("\nkvrail_pool_frames{pool=\"1\",tier=\"host\",domain=\"0\"} 1024\n");
    expect_series("\nkvrail_http_requests_total{code=\"200\"} ");
    expect_series("\nprocess_resident_memory_bytes ");
    expect_series("\nprocess_open_fds ");
    expect_series("\nprocess_cpu_seconds_total ");
    expect_series("\nprocess_start_time_seconds ");
}

static void metrics__are_what_prometheus_reads(void **state)
{
    (void)state;
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    ask(http, "GET", "/metrics", "", &answer); /* before the first snapshot */
    assert_int_equal(answer.code, 200);
    read_text(answer.body, false);
    publish_core(http);
    ask(http, "GET", "/metrics", "Accept: */*\r\n", &answer);
    assert_int_equal(answer.code, 200);
    assert_true(
        has_header(&answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    read_text(answer.body, false);
    expect_all_series();
    ask(http, "GET", "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
        &answer);
    assert_int_equal(answer.code, 200);
    assert_true(has_header(
        &answer,
        "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    read_text(answer.body, true);
    expect_all_series();
    kvn_http_close(http);
}

/* Prometheus' own linter over the whole text. */
static void metrics__pass_promtool(void **state)
{
    (void)state;
    if (system("command -v promtool >/dev/null 2>&1") != 0) {
        print_message("skipped: no promtool (Debian: apt-get install prometheus)\n");
        skip();
    }
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    publish_core(http);
    ask(http, "GET", "/metrics", "", &answer);
    FILE *promtool = popen("promtool check metrics 2>&1", "w");
    assert_non_null(promtool);
    assert_int_equal(
        fwrite(answer.body, 1, strlen(answer.body), promtool), strlen(answer.body));
    assert_int_equal(pclose(promtool), 0);
    kvn_http_close(http);
}

static void format__follows_accept(void **state)
{
    (void)state;
    static const struct {
        const char *accept;
        enum kv_metric_format format;
    } rows[] = {
        {NULL, KV_METRIC_PROMETHEUS},
        {"", KV_METRIC_PROMETHEUS},
        {"*/*", KV_METRIC_PROMETHEUS},
        {"text/html, application/xhtml+xml", KV_METRIC_PROMETHEUS},
        {"application/openmetrics-text", KV_METRIC_OPENMETRICS},
        {"Application/OpenMetrics-Text ; version=1.0.0", KV_METRIC_OPENMETRICS},
        /* what Prometheus 2.42 sends */
        {"application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
         "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         KV_METRIC_OPENMETRICS},
        {"text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4",
         KV_METRIC_PROMETHEUS},
        {"application/openmetrics-text;q=0", KV_METRIC_PROMETHEUS},
        {"application/openmetrics-text; q=0.000, */*", KV_METRIC_PROMETHEUS},
        {"application/openmetrics-texts", KV_METRIC_PROMETHEUS},
        {",,; ;q=,q", KV_METRIC_PROMETHEUS},
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(kvn_http_format(rows[i].accept), rows[i].format);
    }
}

/* ---- health -------------------------------------------------------------------- */

static void health__tells_the_truth_of_the_loop(void **state)
{
    (void)state;
    kvn_http_t *http = open_http((struct kvn_http_config){.stuck_us = 300 * 1000});
    struct kvn_http_snapshot *snapshot = snapshot_new();

    ask(http, "GET", "/healthz", "", &answer);
    assert_int_equal(answer.code, 503);
    assert_memory_equal(answer.body, "{\"status\":\"starting\",\"reason\":\"", 31);
    kvn_http_publish(http, snapshot);
    ask(http, "GET", "/healthz", "", &answer);
    assert_int_equal(answer.code, 200);
    assert_true(has_header(&answer, "Content-Type: application/json"));
    assert_memory_equal(answer.body, "{\"status\":\"ok\",\"uptime_seconds\":0.", 34);
    assert_non_null(strstr(
        answer.body, ",\"node\":7,\"incarnation\":\"00ab00cd00ef0011\",\"links_up\":2,"
                     "\"links_total\":3,\"cold\":false}\n"));
    assert_ptr_equal(strchr(answer.body, '\n'), answer.body + strlen(answer.body) - 1);

    sleep_ms(400); /* the loop stands still */
    ask(http, "GET", "/healthz", "", &answer);
    assert_int_equal(answer.code, 503);
    assert_memory_equal(answer.body, "{\"status\":\"stuck\",\"reason\":\"", 28);
    assert_non_null(strstr(answer.body, "the limit is 300 ms"));
    assert_ptr_equal(strchr(answer.body, '\n'), answer.body + strlen(answer.body) - 1);
    ask(http, "GET", "/metrics", "", &answer); /* the last numbers, and their age */
    assert_int_equal(answer.code, 200);
    expect_series("\nkvrail_snapshot_age_seconds 0.");

    snapshot->cold = true; /* it runs again */
    kvn_http_publish(http, snapshot);
    ask(http, "GET", "/healthz", "", &answer);
    assert_int_equal(answer.code, 200);
    assert_non_null(strstr(answer.body, "\"cold\":true}\n"));
    free(snapshot);
    kvn_http_close(http);
}

/* The loop publishes as fast as it can while others ask: every answer is one snapshot,
 * never a mixture, and never an older one than the answer before. */
struct publisher {
    kvn_http_t *http;
    atomic_bool stop;
    uint64_t nr;
};

static void *publish_all_the_time(void *arg)
{
    struct publisher *publisher = arg;
    struct kvn_http_snapshot *snapshot = snapshot_new();
    while (!atomic_load(&publisher->stop)) {
        publisher->nr++;
        snapshot->nr_clients = (uint32_t)publisher->nr;
        snapshot->core.clients_lost = publisher->nr;
        snapshot->pager.stale_orders = publisher->nr;
        snapshot->logs.dropped = publisher->nr;
        kvn_http_publish(publisher->http, snapshot);
    }
    free(snapshot);
    return NULL;
}

static uint64_t value_of(const char *name)
{
    const char *at = strstr(answer.body, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static void snapshot__is_whole_in_every_answer(void **state)
{
    (void)state;
    struct publisher publisher = {.http = open_http((struct kvn_http_config){0})};
    struct kvn_http_snapshot *first = snapshot_new();
    pthread_t thread;
    uint64_t last = 0;

    kvn_http_publish(publisher.http, first);
    free(first);
    assert_int_equal(
        pthread_create(&thread, NULL, publish_all_the_time, &publisher), 0);
    for (unsigned i = 0; i < 200; i++) {
        ask(publisher.http, "GET", "/metrics", "", &answer);
        const uint64_t nr = value_of("\nkvrail_clients ");
        assert_int_equal(value_of("\nkvrail_clients_lost_total "), nr);
        assert_int_equal(value_of("\nkvrail_pager_stale_orders_total "), nr);
        assert_int_equal(value_of("\nkvrail_log_lines_dropped_total "), nr);
        assert_true(nr >= last);
        last = nr;
    }
    atomic_store(&publisher.stop, true);
    pthread_join(thread, NULL);
    print_message("%u snapshots published\n", (unsigned)publisher.nr);
    kvn_http_close(publisher.http);
}

/* ---- requests ------------------------------------------------------------------ */

static void requests__only_get_and_head_of_what_is_there(void **state)
{
    (void)state;
    static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "XYZ"};
    static const char *const paths[] = {"/metric", "/metrics/",          "/healthz/x",
                                        "//",      "/%2e%2e/etc/passwd", "/index.html"};
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    char length[64];

    ask(http, "GET", "/", "", &answer);
    assert_int_equal(answer.code, 200);
    assert_non_null(strstr(answer.body, "/metrics"));
    assert_non_null(strstr(answer.body, "/healthz"));
    assert_true(has_header(&answer, "Connection: close"));
    snprintf(length, sizeof(length), "Content-Length: %zu", strlen(answer.body));
    assert_true(has_header(&answer, length));
    ask(http, "HEAD", "/", "", &answer);
    assert_int_equal(answer.code, 200);
    assert_true(has_header(&answer, length));
    assert_string_equal(answer.body, "");
    ask(http, "GET", "/?a=b", "", &answer);
    assert_int_equal(answer.code, 200);
    ask(http, "HEAD", "/metrics", "", &answer);
    assert_int_equal(answer.code, 200);
    assert_string_equal(answer.body, "");
    ask(http, "HEAD", "/nothing", "", &answer);
    assert_int_equal(answer.code, 404);
    for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        ask(http, "GET", paths[i], "", &answer);
        assert_int_equal(answer.code, 404);
    }
    for (unsigned i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
        ask(http, methods[i], "/metrics", "Content-Length: 5\r\n", &answer);
        assert_int_equal(answer.code, 405);
        assert_true(has_header(&answer, "Allow: GET, HEAD"));
    }
    kvn_http_close(http);
}

/* Longer than a connection's memory in the line, in one header or in many, or no HTTP
 * at all: refused, and the next one is served. */
static void requests__too_large_or_malformed_are_refused(void **state)
{
    (void)state;
    enum { LARGE = 200 * 1024 };
    static const char *const begins[] = {
        "GET /", "GET / HTTP/1.1\r\nHost: x\r\nX: ", "", "\x16\x03\x01\x02\x00\x01"};
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    char *request = malloc(LARGE + 1);

    assert_non_null(request);
    for (unsigned i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
        memset(request, 'a', LARGE);
        memcpy(request, begins[i], strlen(begins[i]));
        memcpy(request + LARGE - 4, "\r\n\r\n", 4);
        ask_raw(http, request, LARGE, &answer);
        print_message("answered %u\n", answer.code);
        assert_true(answer.code == 0 || (answer.code >= 400 && answer.code < 500));
        ask(http, "GET", "/", "", &answer);
        assert_int_equal(answer.code, 200);
    }
    request[0] = '\0';
    size_t len = 0;
    while (len < LARGE - 64) {
        len += (size_t)snprintf(
            request + len, LARGE - len, "%s",
            len == 0 ? "GET / HTTP/1.1\r\nHost: x\r\n" : "A: b\r\n");
    }
    len += (size_t)snprintf(request + len, LARGE - len, "\r\n");
    ask_raw(http, request, len, &answer);
    assert_true(answer.code == 0 || (answer.code >= 400 && answer.code < 500));
    ask_raw(http, "GET / HTTP/1.1\r\n\r\n", 18, &answer); /* no Host */
    assert_int_equal(answer.code, 400);
    free(request);
    kvn_http_close(http);
}

/* ---- slow and many ------------------------------------------------------------- */

/* Ten times as many as there is room for, each with half a request: everybody else is
 * still answered at once, and the descriptors in use stay bounded. */
static void slow__ones_do_not_keep_others_out(void **state)
{
    (void)state;
    enum { ROOM = 8, N = 10 * ROOM };
    kvn_http_t *http = open_http((struct kvn_http_config){.conns_max = ROOM});
    const unsigned fds = process_kit_held().fds;
    int slow[N];

    for (unsigned i = 0; i < N; i++) {
        slow[i] = dial(http);
        say(slow[i], "GET /metrics HT", i % 3 == 0 ? 0 : 15);
        if (i % 10 == 9) {
            ask(http, "GET", "/", "", &answer);
            assert_int_equal(answer.code, 200);
        }
    }
    for (unsigned i = 0; i < 50; i++) {
        ask(http, "GET", "/metrics", "", &answer);
        assert_int_equal(answer.code, 200);
    }
    assert_true(value_of("\nkvrail_http_connections ") <= ROOM + 1);
    assert_true(
        value_of("\nkvrail_http_connections_ended_total{reason=\"room\"} ")
        >= N - ROOM);
    assert_true(process_kit_held().fds <= fds + N + ROOM + 1);
    for (unsigned i = 0; i < N; i++) {
        close(slow[i]);
    }
    kvn_http_close(http);
}

/* One byte now and then keeps no connection: request_us counts from its accept. */
static void slow__request_has_its_time(void **state)
{
    (void)state;
    kvn_http_t *http = open_http((struct kvn_http_config){.request_us = 300 * 1000});
    struct timespec start, end;
    char out[64];
    const int fd = dial(http);

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned i = 0; i < 400; i++) {
        say(fd, "a", 1);
        if (recv(fd, out, sizeof(out), MSG_DONTWAIT) == 0) {
            break;
        }
        sleep_ms(10);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    const double took = (double)(end.tv_sec - start.tv_sec)
                        + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    print_message("ended after %.2f s\n", took);
    assert_true(took > 0.25 && took < 3.0);
    ask(http, "GET", "/metrics", "", &answer);
    assert_int_equal(
        value_of("\nkvrail_http_connections_ended_total{reason=\"time\"} "), 1);
    close(fd);
    kvn_http_close(http);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
           + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* A process that has run out of descriptors cannot accept; the thread must not burn a
 * core over that, and must answer when there are some again. */
static void slow__descriptors_run_out_and_come_back(void **state)
{
    (void)state;
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    struct rlimit limit, none;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(kvn_http_port(http)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(
        connect(late, (const struct sockaddr *)&address, sizeof(address)), 0);
    const double before = cpu_seconds();
    sleep_ms(500);
    const double used = cpu_seconds() - before;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    print_message("without descriptors: %.3f s of 0.5 s\n", used);
    assert_true(used < 0.25);
    ask(http, "GET", "/", "", &answer);
    assert_int_equal(answer.code, 200);
    close(late);
    kvn_http_close(http);
}

/* ---- opening and closing ------------------------------------------------------- */

/* With a connection that has asked nothing, one in the midst of its request and one
 * whose answer nobody reads. What libmicrohttpd allocated, the leak sanitizer counts
 * at the end. */
static void close__leaves_nothing(void **state)
{
    (void)state;
    const struct process_kit_held before = process_kit_held();
    for (unsigned i = 0; i < 5; i++) {
        kvn_http_t *http = open_http((struct kvn_http_config){0});
        const int fds[] = {dial(http), dial(http), dial(http)};
        say(fds[1], "GET /metrics HTTP/1.1\r\n", 23);
        say(fds[2], "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 34);
        if (i % 2 == 0) {
            ask(http, "GET", "/", "", &answer);
        }
        kvn_http_close(http);
        for (unsigned k = 0; k < 3; k++) {
            hear(fds[k], answer.text, sizeof(answer.text));
            close(fds[k]);
        }
        process_kit_expect_held(&before);
    }
    kvn_http_close(NULL);
}

static void expect_refused(
    const struct kvn_http_config *config, kv_status_t wanted, const char *part)
{
    const struct process_kit_held before = process_kit_held();
    char line[KVN_HTTP_LINE_BYTES] = "";
    kvn_http_t *http = NULL;
    assert_int_equal(kvn_http_open(config, &http, line, sizeof(line)), wanted);
    assert_null(http);
    print_message("%s\n", line);
    assert_non_null(strstr(line, part));
    process_kit_expect_held(&before);
}

static void open__refuses_in_one_line(void **state)
{
    (void)state;
    static const char *const bads[] = {
        "",           ":",        "9273",      ":9273",  "127.0.0.1",
        "127.0.0.1:", "::1:9273", "[::1:9273", "[]:9273"};
    kvn_http_t *http = open_http((struct kvn_http_config){0});
    char busy[64];

    for (unsigned i = 0; i < sizeof(bads) / sizeof(bads[0]); i++) {
        expect_refused(
            &(struct kvn_http_config){.listen = bads[i]}, KV_ERR_CONFIG,
            "wanted host:port");
    }
    expect_refused(
        &(struct kvn_http_config){.listen = "127.0.0.1:http"}, KV_ERR_CONFIG,
        "http address 127.0.0.1:http: ");
    snprintf(busy, sizeof(busy), "127.0.0.1:%u", kvn_http_port(http));
    expect_refused(
        &(struct kvn_http_config){.listen = busy}, KV_ERR_IO, "another process");
    expect_refused(
        &(struct kvn_http_config){.listen = "192.0.2.1:1"}, KV_ERR_IO,
        "it is no address of this machine");
    expect_refused(
        &(struct kvn_http_config){.conns_max = KVN_HTTP_CONNS_MAX + 1}, KV_ERR_CONFIG,
        "http connections is 1025, the limit is 1024");
    kvn_http_close(http);
}

/* Fail the 1st, 2nd, 3rd … fallible call until it opens. */
static void open__survives_every_fault(void **state)
{
    (void)state;
    const struct kvn_http_config config = {.listen = "127.0.0.1:0"};
    const struct process_kit_held before = process_kit_held();
    kvn_http_t *http = NULL;
    uint64_t n = 0;

    while (http == NULL) {
        char line[KVN_HTTP_LINE_BYTES] = "";
        kv_fault_after(++n);
        const kv_status_t status = kvn_http_open(&config, &http, line, sizeof(line));
        kv_fault_after(0);
        assert_int_equal(status == KV_OK, http != NULL);
        assert_int_equal(status == KV_OK, line[0] == '\0');
        if (http == NULL) {
            assert_true(status == KV_ERR_NOMEM || status == KV_ERR_IO);
            process_kit_expect_held(&before);
        }
    }
    /* two allocations, address, socket, bind, event fd, libmicrohttpd, thread */
    assert_int_equal(n - 1, 8);
    kvn_http_close(http);
    process_kit_expect_held(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics__are_what_prometheus_reads),
        cmocka_unit_test(metrics__pass_promtool),
        cmocka_unit_test(format__follows_accept),
        cmocka_unit_test(health__tells_the_truth_of_the_loop),
        cmocka_unit_test(snapshot__is_whole_in_every_answer),
        cmocka_unit_test(requests__only_get_and_head_of_what_is_there),
        cmocka_unit_test(requests__too_large_or_malformed_are_refused),
        cmocka_unit_test(slow__ones_do_not_keep_others_out),
        cmocka_unit_test(slow__request_has_its_time),
        cmocka_unit_test(slow__descriptors_run_out_and_come_back),
        cmocka_unit_test(close__leaves_nothing),
        cmocka_unit_test(open__refuses_in_one_line),
        cmocka_unit_test(open__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
