/* The bell (transport/bell.h) where one thread plays both sides: what a putter does
 * between two looks of the taker is done here by the look itself. Between threads it is
 * every test of the contract, under the thread sanitizer, too. */
#include "tests/transport/transport_kit.h"
#include "transport/bell.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct queue {
    struct kvt_port port;
    struct kvt_bell bell;
    unsigned nr;
    unsigned nr_late; /* put as soon as a look has found nothing */
    unsigned nr_looks;
};

static void put(struct queue *queue, unsigned nr)
{
    queue->nr += nr;
    kvt_bell_ring(&queue->bell);
}

static bool take(kvt_port_t *port, struct kvt_event *event)
{
    struct queue *queue = (struct queue *)port;
    const unsigned nr_late = queue->nr_late;

    queue->nr_looks++;
    if (queue->nr > 0) {
        *event = (struct kvt_event){.kind = KVT_EV_DONE, .id = queue->nr--};
        return true;
    }
    if (nr_late > 0) {
        queue->nr_late = 0;
        put(queue, nr_late);
    }
    return false;
}

static bool next(struct queue *queue)
{
    struct kvt_event event = {.id = 0};
    const bool found = kvt_bell_next(&queue->bell, take, &queue->port, &event);

    assert_true(found == (event.id > 0));
    return found;
}

static bool is_readable(const struct queue *queue)
{
    struct pollfd fd = {.fd = queue->bell.fd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

/* Readable from the first ring on, and until all was taken; then not, and with the next
 * ring again. Who finds something looks once. */
static void next__takes_all_and_rests(void **state)
{
    struct queue queue = {.nr = 0};
    (void)state;

    assert_int_equal(kvt_bell_init(&queue.bell), KV_OK);
    assert_false(is_readable(&queue));
    for (unsigned round = 0; round < 3; round++) {
        put(&queue, 1);
        put(&queue, 2);
        queue.nr_looks = 0;
        for (unsigned i = 0; i < 3; i++) {
            assert_true(is_readable(&queue));
            assert_true(next(&queue));
        }
        assert_int_equal(queue.nr_looks, 3);
        assert_false(next(&queue));
        assert_int_equal(queue.nr_looks, 5);
        assert_false(is_readable(&queue));
        assert_false(next(&queue));
    }
    kvt_bell_fini(&queue.bell);
}

/* What is put behind the first look, by a putter that found the taker awake and so rang
 * nothing, is found by the second; and of several the others keep the fd readable. */
static void next__late_ones_are_not_slept_through(void **state)
{
    struct queue queue = {.nr = 0};
    (void)state;

    assert_int_equal(kvt_bell_init(&queue.bell), KV_OK);
    for (unsigned nr_late = 1; nr_late <= 3; nr_late++) {
        put(&queue, 1);
        assert_true(next(&queue));
        queue.nr_late = nr_late;
        for (unsigned i = 0; i < nr_late; i++) {
            assert_true(next(&queue));
            assert_true(queue.nr == 0 || is_readable(&queue));
        }
        assert_false(next(&queue));
        assert_false(is_readable(&queue));
    }
    kvt_bell_fini(&queue.bell);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(next__takes_all_and_rests),
        cmocka_unit_test(next__late_ones_are_not_slept_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
