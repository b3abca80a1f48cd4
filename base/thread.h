/* The one way in which a thread of ours begins.
 *
 * Signals are the process's business, and are taken by its main thread: what begins
 * here, and what it begins itself, inherits a mask that blocks them all.
 *
 * Threading: any thread. Ownership: the caller joins or detaches *thread. Errors: an
 * errno, returned.
 */
#ifndef KV_THREAD_H
#define KV_THREAD_H

#include <pthread.h>

/* 0, or an errno: then nothing was begun. `attr` may be NULL. */
int kv_thread_start(
    pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *arg), void *arg);

#endif
