#define _GNU_SOURCE
#include "tests/node/broken_node_kit.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void attached_send(struct broken_node *node, const int *fds)
{
    struct {
        struct kvn_packet packet;
        struct kvn_packet_space space;
        struct kvn_packet_arena arena;
    } told;
    memset(&told, 0, sizeof(told));
    kvn_packet_init(&told.packet, KVN_PACKET_ATTACHED);
    told.packet.ring_bytes = BN_RING_BYTES;
    told.packet.nr_spaces = 1;
    told.packet.nr_arenas = node->offer.nr_arenas;
    told.space = (struct kvn_packet_space){
        .name = "chat",
        .page_tokens = BN_PAGE_TOKENS,
        .page_bytes = BN_PAGE_BYTES,
        .nr_groups = 1};
    told.arena = (struct kvn_packet_arena){
        .bytes = node->offer.said_bytes,
        .block_bytes = BN_PAGE_BYTES,
        .nr_blocks = BN_BLOCKS};
    const size_t len =
        node->offer.nr_arenas > 0 ? sizeof(told) : offsetof(__typeof__(told), arena);
    (void)kvn_packet_send_fds(node->fd, &told, len, fds, 1 + node->offer.nr_fds);
}

static void *attach_one(void *arg)
{
    struct broken_node *node = arg;
    struct kvn_packet greeting, asked;
    node->fd = accept4(node->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    kvn_packet_init(&greeting, KVN_PACKET_GREETING);
    greeting.nonce = 9;
    (void)kvn_packet_send(node->fd, &greeting, sizeof(greeting), -1);
    (void)!recv(node->fd, &asked, sizeof(asked), 0);
    int fds[3];
    fds[0] = kvn_memfd_sealed("kvrail-fake", node->bytes, F_SEAL_SHRINK);
    fds[1] =
        kvn_memfd_sealed("kvrail-arena", BN_BLOCKS * BN_PAGE_BYTES, F_SEAL_SHRINK);
    fds[2] = fds[1];
    node->rings =
        mmap(NULL, node->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
    kvn_rings_format(node->rings, BN_RING_BYTES);
    kvn_ring_bind(&node->requests, node->rings, BN_RING_BYTES, KVN_REQUEST_IN);
    kvn_ring_bind(&node->answers, node->rings, BN_RING_BYTES, KVN_ANSWER_OUT);
    attached_send(node, fds);
    close(fds[0]);
    close(fds[1]);
    return NULL;
}

kvr_status_t
broken_node_open(struct broken_node *node, const struct broken_node_offer *offer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char target[128];
    pthread_t thread;
    memset(node, 0, sizeof(*node));
    node->offer = *offer;
    node->bytes = kvn_rings_bytes(BN_RING_BYTES) - offer->rings_short;
    snprintf(node->dir, sizeof(node->dir), "/tmp/kvrail-broken-XXXXXX");
    assert_non_null(mkdtemp(node->dir));
    snprintf(node->path, sizeof(node->path), "%s/node.sock", node->dir);
    memcpy(address.sun_path, node->path, sizeof(address.sun_path));
    node->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(
        bind(node->listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(node->listen_fd, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, attach_one, node), 0);
    snprintf(target, sizeof(target), "unix:%s", node->path);
    const struct kvr_config config = {
        .struct_size = sizeof(config),
        .target = target,
        .ring_bytes = BN_RING_BYTES,
        .spin_us = offer->spin_us,
        .level = offer->level};
    kvr_status_t status = kvr_open(&config, &node->client, NULL, 0);
    pthread_join(thread, NULL);
    return status;
}

void broken_node_close(struct broken_node *node)
{
    kvr_close(node->client);
    if (node->fd >= 0) {
        close(node->fd);
    }
    close(node->listen_fd);
    munmap(node->rings, node->bytes);
    assert_int_equal(unlink(node->path), 0);
    assert_int_equal(rmdir(node->dir), 0);
}
