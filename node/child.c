#define _GNU_SOURCE
#include "node/child.h"

#include "base/assert.h"
#include "base/fault.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_MS = 2, EXEC_FAILED = 127 };

bool kvn_child_find(const char *name, char *path, size_t cap)
{
    const char *at = getenv("PATH");
    while (at != NULL && *at != '\0') {
        const size_t len = strcspn(at, ":");
        const int n = snprintf(path, cap, "%.*s/%s", (int)len, at, name);
        if (n > 0 && (size_t)n < cap && access(path, X_OK) == 0) {
            return true;
        }
        at += len + (at[len] == ':');
    }
    return false;
}

/* Between fork and exec: system calls alone, other threads' locks may be held. */
static void become(const char *const *argv, int out, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setpgid(0, 0);
    const int null = open("/dev/null", O_RDONLY);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || null < 0
        || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0
        || dup2(out, STDERR_FILENO) < 0) {
        _exit(EXEC_FAILED);
    }
    /* The descriptors of whoever calls us are not the child's. */
    (void)close_range(STDERR_FILENO + 1, ~0U, 0);
    execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(EXEC_FAILED);
}

kv_status_t kvn_child_start(struct kvn_child *child, const char *const *argv, int out)
{
    const pid_t parent = getpid();
    child->pid = 0;
    const pid_t pid = KV_FAULT() ? -1 : fork();
    if (pid < 0) {
        return KV_ERR_IO;
    }
    if (pid == 0) {
        become(argv, out, parent);
    }
    child->pid = pid;
    return KV_OK;
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int kvn_child_wait(struct kvn_child *child, unsigned ms)
{
    const uint64_t until = now_ms() + ms;
    for (;;) {
        int status = 0;
        const pid_t pid = waitpid(child->pid, &status, WNOHANG);
        if (pid < 0 && errno == EINTR) {
            continue;
        }
        if (pid != 0) {
            child->pid = 0;
            return pid < 0               ? KVN_CHILD_LOST
                   : WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                         : WEXITSTATUS(status);
        }
        if (now_ms() >= until) {
            return KVN_CHILD_RUNS;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
}

int kvn_child_stop(struct kvn_child *child, unsigned ms)
{
    if (child->pid == 0) {
        return 0;
    }
    (void)kill(child->pid, SIGTERM);
    int status = kvn_child_wait(child, ms);
    if (status == KVN_CHILD_RUNS) {
        (void)kill(child->pid, SIGKILL);
        status = kvn_child_wait(child, KVN_CHILD_KILL_MS);
    }
    return status;
}

unsigned kvn_child_free_port(void)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return 0;
    }
    const bool ok = bind(fd, (struct sockaddr *)&at, len) == 0
                    && getsockname(fd, (struct sockaddr *)&at, &len) == 0;
    close(fd);
    return ok ? ntohs(at.sin_port) : 0;
}
