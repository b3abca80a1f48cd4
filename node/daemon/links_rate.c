/* How many handshakes one party may begin (address; IPv6: its /64): a bucket that holds
 * KVN_LINKS_SHAKES_BURST of them and fills with one every KVN_LINKS_SHAKE_US. Kept as
 * the time at which it is full again (the generic cell rate algorithm). */
#include "node/daemon/links_priv.h"

/* The party's bucket; else a new one, or that which has been full for longest. */
static struct kvn_party *
party_find(struct kvn_links *links, const union kvn_sockaddr *addr)
{
    struct kvn_party *oldest = &links->parties[0];
    for (uint32_t i = 0; i < links->nr_parties; i++) {
        struct kvn_party *party = &links->parties[i];
        if (kvn_sockaddr_same_party(&party->addr, addr)) {
            return party;
        }
        if (party->full_us < oldest->full_us) {
            oldest = party;
        }
    }
    if (links->nr_parties < KVN_LINKS_PARTIES_MAX) {
        oldest = &links->parties[links->nr_parties++];
    }
    *oldest = (struct kvn_party){.addr = *addr};
    return oldest;
}

bool kvn_links_may_shake(struct kvn_links *links, const union kvn_sockaddr *addr)
{
    struct kvn_party *party = party_find(links, addr);
    const uint64_t now_us = uv_hrtime() / 1000;
    const uint64_t full_us = party->full_us > now_us ? party->full_us : now_us;
    if (full_us - now_us
        > (KVN_LINKS_SHAKES_BURST - 1) * (uint64_t)KVN_LINKS_SHAKE_US) {
        return false; /* and nothing is taken: who goes on is let in as soon */
    }
    party->full_us = full_us + KVN_LINKS_SHAKE_US;
    return true;
}
