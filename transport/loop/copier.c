/* The copiers of a port: threads that copy pages to where its READs posted them.
 *
 *   turns ──► one page of each connection in turn ──► DONE at both ends
 *
 * Between two pages nothing is held: a connection that ends waits for the pages under
 * way, one a copier, and no other.
 */
#define _GNU_SOURCE

#include "transport/copy.h"
#include "transport/loop/loop_priv.h"

#include "base/thread.h"

#include <sys/prctl.h>

static void copied(struct kvt_loop_port *port)
{
    KV_ASSERT(port->nr_copying > 0);
    if (--port->nr_copying == 0 && port->quit) {
        pthread_cond_broadcast(&port->idle); /* (5) */
    }
}

/* Under the lock, and without it while bytes move. */
static void copy(struct kvt_loop_port *port, struct kvt_loop_op *page)
{
    struct kvt_loop_op *part = page->part;
    struct kvt_loop_port *owner = page->end->port;

    if (!page->fits) { /* not a byte of it, and of what comes behind it */
        kvt_loop_page_done(page, KV_ERR_IO);
        kvt_loop_cut(page->end, KV_ERR_LINK_LOST, KV_ERR_PROTOCOL);
        return;
    }
    KV_ASSERT(part->len <= part->room);
    owner->nr_copying++; /* (4) */
    port->nr_copying++;
    kvt_loop_unlock();
    part->computed = kvt_copy(part->to, page->from, part->len, port->verify);
    kvt_loop_lock();
    kvt_loop_page_done(page, KV_OK);
    copied(owner);
    copied(port);
}

static struct kvt_loop_op *next_page(struct kvt_loop_port *port)
{
    struct kvt_loop_end *end = TAILQ_FIRST(&port->turns);
    struct kvt_loop_op *page = TAILQ_FIRST(&end->pages);

    TAILQ_REMOVE(&port->turns, end, queue);
    TAILQ_REMOVE(&end->pages, page, link);
    if (!TAILQ_EMPTY(&end->pages)) {
        TAILQ_INSERT_TAIL(&port->turns, end, queue); /* (3) */
    }
    return page;
}

static void *copier_main(void *arg)
{
    struct kvt_loop_port *port = arg;

    (void)prctl(PR_SET_NAME, "kvt-loop-copy", 0, 0, 0);
    kvt_loop_lock();
    while (!port->quit) {
        if (TAILQ_EMPTY(&port->turns)) {
            kvt_loop_wait(&port->work);
        } else {
            copy(port, next_page(port));
        }
    }
    kvt_loop_unlock();
    return NULL;
}

kv_status_t kvt_loop_copiers_start(struct kvt_loop_port *port)
{
    while (port->nr_started < port->nr_threads
           && kv_thread_start(&port->threads[port->nr_started], NULL, copier_main, port)
                  == 0) {
        port->nr_started++;
    }
    return port->nr_started > 0 ? KV_OK : KV_ERR_IO;
}

void kvt_loop_copiers_quit(struct kvt_loop_port *port)
{
    port->quit = true;
    pthread_cond_broadcast(&port->work);
    while (port->nr_copying > 0) {
        kvt_loop_wait(&port->idle);
    }
}

void kvt_loop_copiers_join(struct kvt_loop_port *port)
{
    for (uint32_t i = 0; i < port->nr_started; i++) {
        pthread_join(port->threads[i], NULL);
    }
}
