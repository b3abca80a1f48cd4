/* kvrail spaces: what a running node serves. */
#include "node/ask.h"
#include "node/report.h"
#include "node/verbs.h"

#include <inttypes.h>
#include <stdio.h>

static const struct kvn_cli cli = {
    .verb = "spaces",
    .summary =
        "Lists the spaces that a running node of this machine serves, and what the "
        "tenants\nthat the asking user may speak as have there.\n\n"
        "exit status: 0; 1 no answer, or not for this user; 2 wrong options.",
    .flags = kvn_ask_flags,
    .nr_flags = KVN_ASK_NR_FLAGS,
};

static void print_groups(const json_t *space)
{
    size_t i;
    json_t *group;
    json_array_foreach(json_object_get(space, "groups"), i, group)
    {
        const uint64_t window = kvn_ask_number(group, "window");
        printf("%s%s", i > 0 ? "," : "", kvn_ask_text(group, "kind"));
        if (window > 0) {
            printf(":%" PRIu64, window);
        }
    }
}

static void print(const json_t *r)
{
    size_t i, t;
    json_t *space, *tenant;
    json_array_foreach(json_object_get(r, "spaces"), i, space)
    {
        char bytes[KVN_TEXT_BYTES];
        printf(
            "space \"%s\"  id %s\n  model %s, revision %s, format %s, tag \"%s\"\n"
            "  a page: %" PRIu64 " tokens, %s; layout %" PRIu64 "; groups ",
            kvn_ask_text(space, "name"), kvn_ask_text(space, "id"),
            kvn_ask_text(space, "model"), kvn_ask_text(space, "revision"),
            kvn_ask_text(space, "format"), kvn_ask_text(space, "tag"),
            kvn_ask_number(space, "page_tokens"),
            kvn_text_bytes(kvn_ask_number(space, "page_bytes"), bytes),
            kvn_ask_number(space, "layout"));
        print_groups(space);
        printf("\n  tenants");
        json_array_foreach(json_object_get(space, "tenants"), t, tenant)
        {
            printf(" %" JSON_INTEGER_FORMAT, json_integer_value(tenant));
        }
        printf("\n\n");
    }
    printf(
        "%-10s %6s %14s %14s   pages of all spaces\n", "tenant", "domain", "device",
        "host");
    json_array_foreach(json_object_get(r, "tenants"), i, tenant)
    {
        printf(
            "%-10" PRIu64 " %6" PRIu64 " %14" PRIu64 " %14" PRIu64 "\n",
            kvn_ask_number(tenant, "id"), kvn_ask_number(tenant, "domain"),
            kvn_ask_number(tenant, "device.frames"),
            kvn_ask_number(tenant, "host.frames"));
    }
}

int kvn_verb_spaces(int argc, char **argv)
{
    return kvn_ask_verb(&cli, argc, argv, KVN_ASK_SPACES, "spaces", print);
}
