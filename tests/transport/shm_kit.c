#include "tests/transport/shm_kit.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

bool sk_get(struct tk *tk, int fd, struct kvt_shm_packet *packet)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};

    for (unsigned i = 0; poll(&ready, 1, 0) == 0; i++) {
        assert_true(i < TK_PATIENCE_MS / 10);
        (void)tk_look(tk, 10); /* it may take the port's loop to send it */
    }
    return kvt_shm_receive(fd, KVT_REGIONS_MAX, packet) == KV_OK;
}

bool sk_put(int fd, const uint8_t *bytes, uint32_t len)
{
    const int error = kvt_shm_send(fd, bytes, len, NULL, 0);

    assert_true(error == 0 || error == EPIPE || error == ECONNRESET);
    return error == 0;
}

void sk_pump(struct tk *tk, unsigned ms)
{
    for (unsigned i = 0; i < 10; i++) {
        (void)tk_look(tk, (int)ms / 10);
    }
}
