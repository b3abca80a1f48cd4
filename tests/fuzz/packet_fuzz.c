/* Whatever comes through the Unix socket, to either side: a packet that is accepted is
 * one that could have been sent, and its texts end. */
#include "base/assert.h"
#include "node/ring.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kvn_packet_space spaces[KVN_PACKET_SPACES_MAX];
    struct kvn_packet packet, none;
    struct kv_detail detail = {0};
    kv_status_t status = kvn_packet_read(data, size, &packet, spaces, &detail);
    kv_status_t without = kvn_packet_read(data, size, &none, NULL, NULL);
    if (status != KV_OK) {
        KV_ASSERT(status == KV_ERR_INVALID || status == KV_ERR_VERSION);
        KV_ASSERT(detail.field != NULL && without != KV_OK);
        return 0;
    }
    KV_ASSERT((without == KV_OK) == (packet.nr_spaces + packet.nr_arenas == 0));
    KV_ASSERT(packet.type > 0 && packet.type < KVN_PACKET_NR_TYPES);
    KV_ASSERT(strlen(packet.field) < sizeof(packet.field) && packet.zero == 0);
    const bool asks = packet.type == KVN_PACKET_ASK;
    KV_ASSERT(
        size == sizeof(packet) + packet.nr_spaces * sizeof(spaces[0])
                    + packet.nr_arenas * sizeof(struct kvn_packet_arena)
                    + asks * sizeof(struct kvn_packet_ask));
    struct kvn_packet_arena arenas[KVN_PACKET_ARENAS_MAX];
    if (kvn_packet_arenas(data, &packet, arenas, &detail) == KV_OK) {
        for (uint32_t i = 0; i < packet.nr_arenas; i++) {
            KV_ASSERT(arenas[i].nr_blocks > 0 && arenas[i].nr_blocks <= INT32_MAX);
            KV_ASSERT(arenas[i].bytes / arenas[i].nr_blocks >= arenas[i].block_bytes);
        }
    }
    struct kvn_packet_ask ask;
    if (asks && kvn_packet_ask_read(data, &ask, &detail) == KV_OK) {
        KV_ASSERT(ask.what < KVN_NR_ASKS && strlen(ask.space) < sizeof(ask.space));
    }
    for (uint32_t i = 0; i < packet.nr_spaces; i++) {
        KV_ASSERT(strlen(spaces[i].name) < sizeof(spaces[i].name));
        KV_ASSERT(spaces[i].page_tokens > 0 && spaces[i].page_bytes > 0);
    }
    struct kvn_packet empty;
    kvn_packet_init(&empty, (enum kvn_packet_type)packet.type);
    KV_ASSERT(empty.magic == packet.magic && empty.version == packet.version);
    return 0;
}
