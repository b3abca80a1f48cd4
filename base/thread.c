#include "base/thread.h"

#include "base/fault.h"

#include <errno.h>
#include <signal.h>

int kv_thread_start(
    pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *arg), void *arg)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int ret = KV_FAULT() ? EAGAIN : pthread_create(thread, attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ret;
}
