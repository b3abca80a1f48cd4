/* kvraild: one node of a cluster, until SIGTERM or SIGINT.
 *
 * Exit status: 0 stopped when told to; 2 the configuration, an option or a credential
 * is wrong, and a start with the same will end the same; 1 everything else, such as a
 * busy port or too little memory, which may be right at another start.
 */
#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/cli.h"
#include "node/daemon/node.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

enum flag { FLAG_CONFIG, FLAG_SET, FLAG_CHECK, FLAG_PRINT, NR_FLAGS };
enum {
    SETS_MAX = 64,
    /* A name that the system is resolving cannot be cancelled, and a resolver may keep
     * silent for minutes: the node does not wait for it. */
    STOP_MS = 10000,
};

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_CONFIG] = {"config", "FILE", "the cluster's configuration"},
    [FLAG_SET] =
        {"set", "SECTION.KEY=VALUE",
         "goes before KVRAIL_SECTION_KEY, that before the file (again and again)"},
    [FLAG_CHECK] = {"check-config", NULL, "load it, say what is wrong, and end"},
    [FLAG_PRINT] = {"print-config", NULL, "print every option and where it is from"},
};

static const struct kvn_cli cli = {
    .verb = "kvraild",
    .summary = "Runs one node of a kvrail cluster until SIGTERM or SIGINT; SIGHUP "
               "opens the log again.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
    .program = true,
};

struct daemon {
    uv_loop_t loop;
    uv_signal_t term, intr, hup;
    uv_timer_t overdue; /* of stopping */
    kvn_node_t *node;
};

/* Tells systemd (Type=notify; sd_notify(3) has the protocol). Nobody listens: fine. */
static void notify(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@')
        || strlen(path) >= sizeof(address.sun_path)) {
        return;
    }
    size_t len = strlen(path);
    memcpy(address.sun_path, path, len);
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return;
    }
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    (void)!sendto(
        fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address, size);
    close(fd);
}

/* Everything of ours that others see is gone by now; memory goes with the process. */
static void on_overdue(uv_timer_t *timer)
{
    (void)timer;
    kv_log(
        KV_LOG_ERROR, "node",
        "stop is not over after %d s and not waited for: does the resolver of nodes' "
        "names answer?",
        STOP_MS / 1000);
    kv_log_stop();
    _exit(KVN_EXIT_FAILED);
}

static void close_handles(struct daemon *daemon)
{
    uv_close((uv_handle_t *)&daemon->overdue, NULL);
    uv_close((uv_handle_t *)&daemon->term, NULL);
    uv_close((uv_handle_t *)&daemon->intr, NULL);
    uv_close((uv_handle_t *)&daemon->hup, NULL);
}

static void on_stopped(void *arg)
{
    close_handles(arg);
}

static void on_stop(uv_signal_t *handle, int number)
{
    struct daemon *daemon = handle->data;
    if (daemon->node == NULL) {
        return; /* told twice */
    }
    kvn_node_t *node = daemon->node;
    daemon->node = NULL;
    kv_log(KV_LOG_INFO, "node", "stops on signal %d", number);
    notify("STOPPING=1");
    KV_ASSERT(uv_timer_start(&daemon->overdue, on_overdue, STOP_MS, 0) == 0);
    kvn_node_stop(node, on_stopped, daemon);
}

static void on_hup(uv_signal_t *handle, int number)
{
    (void)handle, (void)number;
    kv_log_reopen();
}

/* All of them first: close_handles() closes what is initialised. */
static bool watch(struct daemon *daemon)
{
    daemon->term.data = daemon->intr.data = daemon;
    KV_ASSERT(uv_timer_init(&daemon->loop, &daemon->overdue) == 0);
    KV_ASSERT(uv_signal_init(&daemon->loop, &daemon->term) == 0);
    KV_ASSERT(uv_signal_init(&daemon->loop, &daemon->intr) == 0);
    KV_ASSERT(uv_signal_init(&daemon->loop, &daemon->hup) == 0);
    return uv_signal_start(&daemon->term, on_stop, SIGTERM) == 0
           && uv_signal_start(&daemon->intr, on_stop, SIGINT) == 0
           && uv_signal_start(&daemon->hup, on_hup, SIGHUP) == 0;
}

static int exit_code(kv_status_t status)
{
    if (status == KV_OK) {
        return KVN_EXIT_OK;
    }
    return status == KV_ERR_CONFIG ? KVN_EXIT_USAGE : KVN_EXIT_FAILED;
}

static int run(const struct kvn_config *config)
{
    struct daemon daemon = {0};
    char line[KVN_NODE_LINE_BYTES];
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* past RLIMIT_FSIZE calls fail with EFBIG, and we live */
    if (uv_loop_init(&daemon.loop) != 0) {
        fprintf(stderr, "kvraild: no event loop: too few file descriptors?\n");
        return KVN_EXIT_FAILED;
    }
    bool watched = watch(&daemon);
    kv_status_t status =
        watched ? kvn_node_start(&daemon.loop, config, &daemon.node, line, sizeof(line))
                : KV_ERR_IO;
    if (status != KV_OK) {
        kv_log(
            KV_LOG_ERROR, "node", "%s", watched ? line : "no signals can be watched");
        close_handles(&daemon);
    } else {
        kv_log(
            KV_LOG_INFO, "node", "node %u is ready: links on port %u, http on port %u",
            kvn_node_id(daemon.node), kvn_node_port(daemon.node),
            kvn_node_http_port(daemon.node));
        notify("READY=1");
    }
    (void)uv_run(&daemon.loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&daemon.loop) != 0) {
        kv_log(KV_LOG_ERROR, "node", "handles are left behind: a bug");
        return KVN_EXIT_FAILED;
    }
    if (status == KV_OK) {
        kv_log(KV_LOG_INFO, "node", "stopped");
    }
    return exit_code(status);
}

static struct kvn_config *load(const struct kvn_config_source *source)
{
    struct kvn_config_errors *errors = kv_calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    if (errors == NULL) {
        fprintf(stderr, "kvraild: out of memory\n");
        return NULL;
    }
    (void)kvn_config_load(source, &config, errors);
    kvn_config_errors_print(errors, stderr);
    kv_free(errors);
    return config;
}

static int log_and_run(const struct kvn_config *config)
{
    char path[700];
    struct kv_detail detail = {0};
    kvn_config_path(config, config->log_file, path, sizeof(path));
    const struct kv_log_config log = {
        .level = (enum kv_log_level)config->log_level,
        .format = (enum kv_log_format)config->log_format,
        .path = path,
    };
    kv_status_t status = kv_log_start(&log, &detail);
    if (status != KV_OK) {
        fprintf(
            stderr, "kvraild: log.file: %s: %s\n", path,
            detail.value != 0 ? strerror((int)detail.value) : kv_status_text(status));
        return exit_code(status);
    }
    int code = run(config);
    kv_log_stop();
    return code;
}

int main(int argc, char **argv)
{
    const char *sets[SETS_MAX];
    struct kvn_config_source source = {
        .sets = sets, .env = (const char *const *)environ};
    bool check = false, print = false;
    const char *value;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        if (flag == FLAG_SET) {
            if (source.nr_sets == SETS_MAX) {
                return kvn_cli_refuse(&cli, "--set: more than %d times", SETS_MAX);
            }
            sets[source.nr_sets++] = value;
        } else if (flag == FLAG_CONFIG) {
            source.path = value;
        } else {
            check = check || flag == FLAG_CHECK;
            print = print || flag == FLAG_PRINT;
        }
    }
    if (flag == KVN_CLI_HELP) {
        return KVN_EXIT_OK;
    }
    if (flag == KVN_CLI_BAD) {
        return KVN_EXIT_USAGE;
    }
    if (source.path == NULL) {
        return kvn_cli_refuse(&cli, "--config FILE is needed");
    }
    struct kvn_config *config = load(&source);
    if (config == NULL) {
        return KVN_EXIT_USAGE;
    }
    int code = KVN_EXIT_OK;
    if (print) {
        kvn_config_print(config, stdout);
    } else if (check) {
        printf("%s: ok\n", config->path);
    } else {
        code = log_and_run(config);
    }
    kvn_config_free(config);
    return code;
}
