/* kvrail status: a running node on one screen. */
#include "node/ask.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct kvn_cli cli = {
    .verb = "status",
    .summary =
        "Shows what a running node of this machine is doing: its links, memory,\n"
        "tables, tenants, hits and misses. The node's own user and root may ask.\n\n"
        "exit status: 0; 1 no answer, or not for this user; 2 wrong options.",
    .flags = kvn_ask_flags,
    .nr_flags = KVN_ASK_NR_FLAGS,
};

static void print_head(const json_t *r)
{
    char uptime[KVN_TEXT_BYTES], lag[KVN_TEXT_BYTES], worst[KVN_TEXT_BYTES];
    printf(
        "node %" PRIu64 " of cluster \"%s\"   kvrail %s   up %s   pid %" PRIu64 "\n"
        "incarnation %s   view epoch %" PRIu64 " (%s)\n"
        "links %" PRIu64 " of %" PRIu64 " up on port %" PRIu64 "   http port %" PRIu64
        "   loop late by %s, at worst %s\n",
        kvn_ask_number(r, "node"), kvn_ask_text(r, "cluster"),
        kvn_ask_text(r, "version"),
        kvn_text_time(kvn_ask_number(r, "uptime_us"), uptime), kvn_ask_number(r, "pid"),
        kvn_ask_text(r, "incarnation"), kvn_ask_number(r, "epoch"),
        kvn_ask_text(r, "view_digest"), kvn_ask_number(r, "links.up"),
        kvn_ask_number(r, "links.of"), kvn_ask_number(r, "port"),
        kvn_ask_number(r, "http_port"),
        kvn_text_time(kvn_ask_number(r, "loop.lag_us"), lag),
        kvn_text_time(kvn_ask_number(r, "loop.lag_worst_us"), worst));
}

static void print_pools(const json_t *r)
{
    size_t i;
    json_t *pool;
    printf(
        "\n%-7s %6s %10s %8s  %-20s %8s %8s %8s %10s\n", "memory", "domain", "page",
        "frames", "in use", "sealed", "held", "moving", "free");
    json_array_foreach(json_object_get(r, "pools"), i, pool)
    {
        char bar[KVN_TEXT_BYTES], page[KVN_TEXT_BYTES], room[KVN_TEXT_BYTES];
        const uint64_t frames = kvn_ask_number(pool, "frames");
        const uint64_t unused = kvn_ask_number(pool, "states.free");
        const uint64_t sealed = kvn_ask_number(pool, "states.sealed");
        printf(
            "%-7s %6" PRIu64 " %10s %8" PRIu64 "  %s %8" PRIu64 " %8" PRIu64
            " %8" PRIu64 " %10s\n",
            kvn_ask_text(pool, "tier"), kvn_ask_number(pool, "domain"),
            kvn_text_bytes(kvn_ask_number(pool, "frame_bytes"), page), frames,
            kvn_text_bar(frames - unused, frames, bar), sealed,
            kvn_ask_number(pool, "held"), frames - unused - sealed,
            kvn_text_bytes(kvn_ask_number(pool, "free_bytes"), room));
    }
}

static void print_tenants(const json_t *r)
{
    static const char *const tiers[] = {"device", "host"};
    size_t i;
    json_t *tenant;
    printf("\n%-10s %6s", "tenant", "domain");
    for (unsigned t = 0; t < 2; t++) {
        printf("  %10s %10s", tiers[t], "ceiling");
    }
    printf("\n");
    json_array_foreach(json_object_get(r, "tenants"), i, tenant)
    {
        printf(
            "%-10" PRIu64 " %6" PRIu64, kvn_ask_number(tenant, "id"),
            kvn_ask_number(tenant, "domain"));
        for (unsigned t = 0; t < 2; t++) {
            const json_t *tier = json_object_get(tenant, tiers[t]);
            const uint64_t ceiling = kvn_ask_number(tier, "ceiling");
            char text[KVN_TEXT_BYTES] = "-";
            if (ceiling > 0) {
                (void)snprintf(text, sizeof(text), "%" PRIu64, ceiling);
            }
            printf("  %10" PRIu64 " %10s", kvn_ask_number(tier, "frames"), text);
        }
        printf("\n");
    }
}

static void print_tables(const json_t *r)
{
    const char *name;
    json_t *table;
    printf("\n%-10s %10s %10s\n", "table", "used", "of");
    json_object_foreach(json_object_get(r, "tables"), name, table)
    {
        char bar[KVN_TEXT_BYTES];
        const uint64_t used = kvn_ask_number(table, "used");
        const uint64_t max = kvn_ask_number(table, "max");
        printf(
            "%-10s %10" PRIu64 " %10" PRIu64 "  %s\n", name, used, max,
            kvn_text_bar(used, max, bar));
    }
    const json_t *dir = json_object_get(r, "directory");
    char bar[KVN_TEXT_BYTES];
    const uint64_t entries = kvn_ask_number(dir, "entries");
    const uint64_t max = kvn_ask_number(dir, "entries_max");
    printf(
        "%-10s %10" PRIu64 " %10" PRIu64 "  %s%s\n", "directory", entries, max,
        kvn_text_bar(entries, max, bar),
        kvn_ask_true(dir, "cold") ? "  cold: an absence proves nothing yet" : "");
}

static void print_counts(const json_t *r)
{
    char in[KVN_TEXT_BYTES], out[KVN_TEXT_BYTES];
    uint64_t misses = 0;
    const char *name;
    json_t *count;
    json_object_foreach(json_object_get(r, "misses"), name, count)
    {
        misses += (uint64_t)json_integer_value(count);
    }
    const uint64_t device = kvn_ask_number(r, "hits.device");
    const uint64_t host = kvn_ask_number(r, "hits.host");
    const uint64_t peer = kvn_ask_number(r, "hits.peer");
    const uint64_t all = device + host + peer + misses;
    printf(
        "\npages asked for since the start: %" PRIu64 "\n"
        "  hits      device %" PRIu64 ", host %" PRIu64 ", peer %" PRIu64
        "  (%.1f %%)\n"
        "  misses   ",
        all, device, host, peer,
        all > 0 ? 100.0 * (double)(all - misses) / (double)all : 0.0);
    bool any = false;
    json_object_foreach(json_object_get(r, "misses"), name, count)
    {
        if (json_integer_value(count) > 0) {
            printf(
                "%s %s %" JSON_INTEGER_FORMAT, any ? "," : "", name,
                json_integer_value(count));
            any = true;
        }
    }
    printf(
        "%s\n"
        "  bytes     %s from peers, %s to peers\n"
        "  digests   %" PRIu64 " re-checks passed, %" PRIu64 " failed here, %" PRIu64
        " failed arriving\n"
        "  pages     %" PRIu64 " sealed, %" PRIu64 " were there already, %" PRIu64
        " evicted, %" PRIu64 " demoted, %" PRIu64 " spilled out, %" PRIu64 " in\n",
        any ? "" : " none", kvn_text_bytes(kvn_ask_number(r, "fetched_bytes"), in),
        kvn_text_bytes(kvn_ask_number(r, "served_bytes"), out),
        kvn_ask_number(r, "verify.passed_here"),
        kvn_ask_number(r, "verify.failed_here"),
        kvn_ask_number(r, "verify.failed_arriving"), kvn_ask_number(r, "sealed"),
        kvn_ask_number(r, "dedup"), kvn_ask_number(r, "evicted"),
        kvn_ask_number(r, "demoted"), kvn_ask_number(r, "spilled_out"),
        kvn_ask_number(r, "spilled_in"));
}

static void print(const json_t *r)
{
    print_head(r);
    print_pools(r);
    print_tenants(r);
    print_tables(r);
    print_counts(r);
}

int kvn_verb_status(int argc, char **argv)
{
    return kvn_ask_verb(&cli, argc, argv, KVN_ASK_STATUS, NULL, print);
}
