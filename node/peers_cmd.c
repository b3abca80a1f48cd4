/* kvrail peers: the other members, as a running node sees them. */
#include "node/ask.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <stdio.h>

static const struct kvn_cli cli = {
    .verb = "peers",
    .summary =
        "Lists the other members of the cluster as a running node of this machine\n"
        "sees them: an opinion of its own, other nodes may have another. The node's\n"
        "own user and root may ask.\n\n"
        "exit status: 0; 1 no answer, or not for this user; 2 wrong options.",
    .flags = kvn_ask_flags,
    .nr_flags = KVN_ASK_NR_FLAGS,
};

static const char *sync_of(const json_t *peer)
{
    const json_t *sync = json_object_get(peer, "sync");
    const bool owed = kvn_ask_true(sync, "owed_by_it");
    const bool ours = kvn_ask_true(sync, "under_way_to_it");
    if (!kvn_ask_true(peer, "up")) {
        return "-";
    }
    return owed ? (ours ? "both ways" : "from it") : ours ? "to it" : "in step";
}

static void print(const json_t *r)
{
    size_t i;
    json_t *peer;
    printf(
        "%6s  %-22s %-8s %-12s %-8s %-9s %13s %13s %-9s %10s %10s %8s %s\n", "node",
        "address", "link", "since", "life", "transport", "ours listed", "its listed",
        "sync", "fetched", "served", "free", "reach");
    json_array_foreach(json_object_get(r, "peers"), i, peer)
    {
        char since[KVN_TEXT_BYTES], in[KVN_TEXT_BYTES], out[KVN_TEXT_BYTES];
        char reach[KVN_TEXT_BYTES];
        const uint64_t reach_us = kvn_ask_number(peer, "reach_us");
        const bool up = kvn_ask_true(peer, "up");
        printf(
            "%6" PRIu64 "  %-22s %-8s %-12s %-8s %-9s %13" PRIu64 " %13" PRIu64
            " %-9s %10s %10s %8" PRIu64 " %s\n",
            kvn_ask_number(peer, "node"), kvn_ask_text(peer, "address"),
            kvn_ask_text(peer, "link"),
            kvn_text_time(kvn_ask_number(peer, "since_us"), since),
            kvn_ask_text(peer, "life"), kvn_ask_text(peer, "transport"),
            kvn_ask_number(peer, "listed_there"), kvn_ask_number(peer, "listed_here"),
            sync_of(peer), kvn_text_bytes(kvn_ask_number(peer, "fetched_bytes"), in),
            kvn_text_bytes(kvn_ask_number(peer, "served_bytes"), out),
            kvn_ask_number(peer, "free_frames"),
            !up             ? "-"
            : reach_us == 0 ? "has room"
                            : kvn_text_time(reach_us, reach));
    }
    if (i == 0) {
        printf("no peers: node %" PRIu64 " is alone\n", kvn_ask_number(r, "node"));
    }
}

int kvn_verb_peers(int argc, char **argv)
{
    return kvn_ask_verb(&cli, argc, argv, KVN_ASK_PEERS, "peers", print);
}
