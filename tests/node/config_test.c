/* The configuration: what is wrong is said in one line that a person can act on, what
 * is right reaches node/core, and flags go before environment, file and default. */
#include "node/config.h"

#include "base/assert.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/kvrail-config-XXXXXX";
static char path[64];

#define SECRET "00112233445566778899aabbccddeeff"
static const char good[] = "[cluster]\n"                /* 1 */
                           "name = test\n"              /* 2 */
                           "epoch = 3\n"                /* 3 */
                           "[pager]\n"                  /* 4 */
                           "device_bytes = 1MiB\n"      /* 5 */
                           "host_bytes = 4MiB\n"        /* 6 */
                           "[node \"1\"]\n"             /* 7 */
                           "address = h1:7400\n"        /* 8 */
                           "[node \"2\"]\n"             /* 9 */
                           "address = h2:7400\n"        /* 10 */
                           "weight = 50\n"              /* 11 */
                           "[tenant \"7\"]\n"           /* 12 */
                           "secret = " SECRET "\n"      /* 13 */
                           "[space \"chat\"]\n"         /* 14 */
                           "model = m\n"                /* 15 */
                           "page_tokens = 16\n"         /* 16 */
                           "page_bytes = 4KiB\n"        /* 17 */
                           "groups = full, window:64\n" /* 18 */
                           "[liveness]\n"               /* 19 */
                           "suspect = 1s\n";            /* 20 */

/* The good file with `find` replaced once; a NULL find: `with` is the whole file. The
 * line expected starts with '@' for the file's path; one ending in '~' is a prefix. */
struct bad {
    const char *find, *with, *line;
};

#define S127                                                                           \
    "0123456789012345678901234567890123456789012345678901234567890123456789"           \
    "012345678901234567890123456789012345678901234567890123456"

static const struct bad bads[] = {
    /* the file's form */
    {NULL, "", "@: missing section [cluster]"},
    {NULL, "name = a\n", "@:1: \"name\" stands before any [section]"},
    {"epoch = 3", "epoch", "@:3: \"epoch\" is no key = value"},
    {"[pager]", "[pager", "@:4: a heading is [section] with at most 48 characters"},
    {"[pager]", "[pagre]", "@:4: unknown section [pagre]; did you mean [pager]?"},
    {"[pager]", "[quux]", "@:4: unknown section [quux]"},
    {"[liveness]", "[pager]", "@:19: [pager] is there twice"},
    {"[node \"1\"]", "[node]", "@:7: [node] needs a name: [node \"1\"]"},
    {"[pager]", "[pager \"x\"]", "@:4: [pager] has no name"},
    {"[node \"1\"]", "[node \"1]", "@:7: [node \"1: a name needs both its quotes"},
    {"[space \"chat\"]", "[space \"a b\"]",
     "@:14: space.name: \"a b\" must be 1 to 32 letters, digits, dots, dashes or "
     "underscores"},
    {"name = test", "name = " S127 S127, "@:2: a line has at most 196 characters"},
    {"epoch = 3", "name = other", "@:3: cluster.name: given twice, first on line 2"},
    {"[tenant \"7\"]\nsecret = " SECRET "\n", "", "@: missing section [tenant \"…\"]"},

    /* one value */
    {"epoch = 3", "epohc = 3",
     "@:3: unknown option \"cluster.epohc\"; did you mean \"epoch\"?"},
    {"epoch = 3", "zzzz = 3", "@:3: unknown option \"cluster.zzzz\""},
    {"epoch = 3", "epoch = 0", "@:3: cluster.epoch: 0 is below the minimum 1"},
    {"epoch = 3", "epoch = -1", "@:3: cluster.epoch: \"-1\" is not a whole number"},
    {"1MiB", "1MB",
     "@:5: pager.device_bytes: \"1MB\" is not a size such as 64GiB or 256k"},
    {"1MiB", "99999999999999999999",
     "@:5: pager.device_bytes: \"99999999999999999999\" is not a size such as 64GiB or "
     "256k"},
    {"1MiB", "65TiB", "@:5: pager.device_bytes: 65TiB is above the maximum 64TiB"},
    {"suspect = 1s", "suspect = 1",
     "@:20: liveness.suspect: \"1\" is not a time with its unit, such as 250ms (us, "
     "ms, s, m, h)"},
    {"host_bytes = 4MiB", "evict = mru",
     "@:6: pager.evict: \"mru\" is not one of lru|fifo"},
    {"host_bytes = 4MiB", "verify_local = sample=0",
     "@:6: pager.verify_local: \"sample=0\" is not off, always or sample=N with N "
     "from 1 to 1000000"},
    {"host_bytes = 4MiB", "free_target = 1",
     "@:6: pager.free_target: 1 keeps every frame free; 0 is none, the smallest share "
     "is 2"},
    {"name = test",
     "name =", "@:2: cluster.name: 0 characters are below the minimum 1"},

    /* nodes */
    {"weight = 50", "weight = 0", "@:11: node.weight: 0 is below the minimum 1"},
    {"weight = 50", "weight = 65537",
     "@:11: node.weight: 65537 is above the maximum 65536"},
    {"[node \"2\"]", "[node \"1\"]", "@:9: duplicate node \"1\", first on line 7"},
    {"[node \"2\"]", "[node \"01\"]", "@:9: duplicate node id 1"},
    {"[node \"2\"]", "[node \"0\"]",
     "@:9: node.id: \"0\" is not a number from 1 to 4294967295"},
    {"[node \"2\"]", "[node \"two\"]",
     "@:9: node.id: \"two\" is not a number from 1 to 4294967295"},
    {"h2:7400", "h2",
     "@:10: node.address: \"h2\" is not host:port with a port from 1 to "
     "65535"},
    {"h2:7400", "h2:65536",
     "@:10: node.address: \"h2:65536\" is not host:port with a port from 1 to 65535"},
    /* more than a transport takes */
    {"[liveness]\n", "[limits]\nreads = 32737\n[liveness]\n",
     "@:20: limits.reads: 32737 is above the maximum 32736"},
    {"[liveness]\n", "[data]\nconnections = 4097\n[liveness]\n",
     "@:20: data.connections: 4097 is above the maximum 4096"},
    {"h2:7400", "::1:7400",
     "@:10: node.address: \"::1:7400\" is not host:port with a port from 1 to 65535"},
    {"h2:7400", "h1:7400", "@:10: node.address: \"h1:7400\" is that of node \"1\" too"},
    {"address = h2:7400\n", "",
     "@:9: node.address: missing: with more than one node each needs one"},
    {"epoch = 3", "node = 4", "@:3: cluster.node: there is no [node \"4\"]"},

    /* times */
    {"suspect = 1s", "suspect = 250ms",
     "@: liveness.heartbeat: 250000us must be below liveness.suspect, 250000us"},
    {"suspect = 1s", "suspect = 3s",
     "@:20: liveness.suspect: 3000000us must be below liveness.lost, 3000000us"},
    {"[liveness]", "[link]\ncall = 10ms\n[liveness]",
     "@: link.double: 20000us must be below link.call, 10000us"},
    {"[liveness]", "[directory]\nholdings = 100\n[liveness]",
     "@:20: directory.holdings: 100 is below directory.entries, 1048576: an entry has "
     "at least one"},

    /* tenants */
    {"secret = " SECRET, "",
     "@:12: tenant.secret: missing: 32 or more hex digits, or "
     "file:NAME"},
    {"secret = " SECRET, "secret = 0011223344556677",
     "@:13: tenant.secret: 16 hex digits are below the minimum 32"},
    {"secret = " SECRET, "secret = " SECRET "0",
     "@:13: tenant.secret: not an even number of hex digits, at most 128"},
    {"secret = " SECRET, "secret = xy112233445566778899aabbccddeeff",
     "@:13: tenant.secret: not an even number of hex digits, at most 128"},
    {"secret = " SECRET, "secret = file:/nowhere/at/all",
     "@:13: tenant.secret: /nowhere/at/all: No such file or directory"},
    {"[tenant \"7\"]", "[tenant \"-7\"]",
     "@:12: tenant.id: \"-7\" is not a number from 0 to 4294967295"},
    {"[space \"chat\"]", "[tenant \"07\"]\nsecret = " SECRET "\n[space \"chat\"]",
     "@:14: duplicate tenant id 7"},
    {"[tenant \"7\"]", "[tenant \"7\"]\ndomain = own",
     "@:12: tenant.device_bytes: 0: a domain of its own has a stated size"},
    {"[tenant \"7\"]", "[tenant \"7\"]\nhost_bytes = 1MiB",
     "@:13: tenant.host_bytes: the common domain has its size in [pager]; or domain = "
     "own"},
    {"[tenant \"7\"]", "[tenant \"7\"]\nfill = yes",
     "@:13: tenant.fill: memory of the common domain is never mapped for writing: it "
     "needs domain = own"},
    {"[tenant \"7\"]", "[tenant \"7\"]\nfill = perhaps",
     "@:13: tenant.fill: \"perhaps\" is not one of true, false, yes, no, on, "
     "off"},
    {"[tenant \"7\"]", "[tenant \"7\"]\ndomain = mine",
     "@:13: tenant.domain: \"mine\" is not one of common|own"},

    /* spaces and memory */
    {"4KiB", "4000", "@:17: space.page_bytes: 4000 is not a multiple of 256"},
    {"page_bytes = 4KiB\n", "", "@:14: space.page_bytes: missing"},
    {"model = m\n", "", "@:14: space.model: missing"},
    {"page_tokens = 16", "page_tokens = 8193",
     "@:16: space.page_tokens: 8193 is above the maximum 8192"},
    {"window:64", "window",
     "@:18: space.groups: \"window\" is not full, window:TOKENS or state"},
    {"window:64", "window:0",
     "@:18: space.groups: \"window:0\" is not full, window:TOKENS or state"},
    {"groups = full, window:64",
     "groups = full,full,full,full,full,full,full,full,full,full,full,full,full,full,"
     "full,full,full",
     "@:18: space.groups: more than the limit of 16"},
    {"model = m", "model = m\nid = 00", "@:16: space.id: \"00\" is not 64 hex digits"},
    {"model = m", "model = m\nid = " SECRET SECRET,
     "@:16: space.id: space \"chat\" disagrees with its id: its fields give ~"},
    {"[liveness]", "[space \"big\"]\nmodel = m\npage_bytes = 8KiB\n[liveness]",
     "@:19: space.layout: 0 has pages of another size in space \"chat\""},
    {"1MiB", "4095",
     "@:5: pager.device_bytes: 4095 bytes a page size hold no page of 4096 bytes"},
    {"host_bytes = 4MiB", "host_bytes = 256",
     "@:6: pager.host_bytes: 256 bytes a page size hold no page of 4096 bytes"},
};

static void write_text(const char *name, const char *text, mode_t mode)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(name, mode), 0);
}

/* The file of one row. */
static void write_bad(const struct bad *bad)
{
    char text[4096];
    if (bad->find == NULL) {
        write_text(path, bad->with, 0600);
        return;
    }
    const char *at = strstr(good, bad->find);
    assert_non_null(at);
    snprintf(
        text, sizeof(text), "%.*s%s%s", (int)(at - good), good, bad->with,
        at + strlen(bad->find));
    write_text(path, text, 0600);
}

static kv_status_t load(
    const char *const *sets, unsigned nr_sets, const char *const *env,
    struct kvn_config **config_p, struct kvn_config_errors *errors)
{
    const struct kvn_config_source source = {
        .path = path, .sets = sets, .nr_sets = nr_sets, .env = env};
    return kvn_config_load(&source, config_p, errors);
}

/* What the person reads: path instead of '@', and '~' cuts both. */
static void expect_line(const char *line, const char *expected)
{
    char full[1024];
    snprintf(
        full, sizeof(full), "%s%s", expected[0] == '@' ? path : "",
        expected + (expected[0] == '@'));
    const size_t len = strlen(full);
    if (full[len - 1] == '~') {
        full[len - 1] = '\0';
        char start[1024];
        snprintf(start, sizeof(start), "%.*s", (int)(len - 1), line);
        assert_string_equal(start, full);
    } else {
        assert_string_equal(line, full);
    }
}

static void config_bad_file_gives_its_line(void **state)
{
    (void)state;
    assert_true(KV_COUNT_OF(bads) >= 40);
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    for (unsigned i = 0; i < KV_COUNT_OF(bads); i++) {
        write_bad(&bads[i]);
        struct kvn_config *config = NULL;
        assert_int_equal(load(NULL, 0, NULL, &config, errors), KV_ERR_CONFIG);
        assert_null(config);
        assert_true(errors->nr > 0);
        expect_line(errors->lines[0], bads[i].line);
    }
    free(errors);
}

/* A file with three mistakes is mended in one round, and more of them than have room
 * are counted. */
static void config_every_mistake_has_a_line(void **state)
{
    (void)state;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    struct kvn_config *config = NULL;
    write_text(path, "[cluster]\nepoch = 0\nx = 1\n[pager]\nevict = x\n", 0600);
    assert_int_equal(load(NULL, 0, NULL, &config, errors), KV_ERR_CONFIG);
    assert_int_equal(errors->nr, 6);
    expect_line(errors->lines[1], "@:3: unknown option \"cluster.x\"");
    expect_line(errors->lines[2], "@:5: pager.evict: \"x\" is not one of lru|fifo");
    expect_line(errors->lines[5], "@: missing section [space \"…\"]");

    char text[1024];
    size_t len = (size_t)snprintf(text, sizeof(text), "[pager]\n");
    for (unsigned i = 0; i < 40; i++) {
        len += (size_t)snprintf(text + len, sizeof(text) - len, "bad = 1\n");
    }
    write_text(path, text, 0600);
    assert_int_equal(load(NULL, 0, NULL, &config, errors), KV_ERR_CONFIG);
    assert_int_equal(errors->nr, 44);
    free(errors);
}

static void config_file_that_is_not_there(void **state)
{
    (void)state;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    struct kvn_config *config = NULL;
    const struct kvn_config_source source = {.path = "/nowhere/a.conf"};
    assert_int_equal(kvn_config_load(&source, &config, errors), KV_ERR_IO);
    assert_string_equal(errors->lines[0], "/nowhere/a.conf: No such file or directory");
    free(errors);
}

static struct kvn_config *
load_good(const char *const *sets, unsigned nr_sets, const char *const *env)
{
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    struct kvn_config *config = NULL;
    if (load(sets, nr_sets, env, &config, errors) != KV_OK) {
        fail_msg("%s", errors->lines[0]);
    }
    free(errors);
    return config;
}

/* flag > environment > file > default, for sections with and without a name. */
static void config_flag_before_environment_before_file(void **state)
{
    (void)state;
    write_text(path, good, 0600);
    struct kvn_config *config = load_good(NULL, 0, NULL);
    assert_string_equal(config->cluster_name, "test");
    assert_int_equal(config->nr_clients, 64);
    assert_int_equal(config->nodes[1].weight, 50);
    assert_int_equal(config->liveness.heartbeat_us, 250000);
    kvn_config_free(config);

    static const char *const env[] = {
        "HOME=/",
        "KVRAIL_TRACES=/somewhere",
        "KVRAIL_CLUSTER_NAME=env",
        "KVRAIL_LIMITS_CLIENTS=65",
        "KVRAIL_NODE_2_WEIGHT=60",
        "KVRAIL_NODE_SERVICE_HOST=10.0.0.1",
        NULL};
    config = load_good(NULL, 0, env);
    assert_string_equal(config->cluster_name, "env");
    assert_int_equal(config->nr_clients, 65);
    assert_int_equal(config->nodes[1].weight, 60);
    kvn_config_free(config);

    static const char *const sets[] = {
        "cluster.name=flag", "node.2.weight=70", "space.chat.tag=a=b"};
    config = load_good(sets, 3, env);
    assert_string_equal(config->cluster_name, "flag");
    assert_int_equal(config->nr_clients, 65);
    assert_int_equal(config->nodes[1].weight, 70);
    assert_string_equal(config->spaces[0].tag, "a=b");
    kvn_config_free(config);
}

static void config_bad_flag_or_environment_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *set, *env, *line;
    } rows[] = {
        {"pager.evict", NULL, "--set pager.evict: not section.key=value"},
        {"evict=lru", NULL, "--set evict=lru: not section.key=value"},
        {"pagre.evict=lru", NULL, "--set pagre.evict: no section [pagre]"},
        {"node.9.weight=1", NULL, "--set node.9.weight: no section [node \"9\"] in ~"},
        {"node.2.weight=0", NULL,
         "--set node.2.weight: node.weight: 0 is below the minimum 1"},
        {"pager.evct=lru", NULL,
         "--set pager.evct: unknown option \"pager.evct\"; did you mean "
         "\"evict\"?"},
        {"liveness.suspect=1ms", NULL,
         "@: liveness.heartbeat: 250000us must be below liveness.suspect, 1000us"},
        {"liveness.lost=1ms", NULL,
         "@:20: liveness.suspect: 1000000us must be below liveness.lost, 1000us"},
        {"tenant.7.secret=00", NULL,
         "--set: tenant.secret: 2 hex digits are below the minimum 32"},
        {NULL, "KVRAIL_TENANT_7_SECRET=00",
         "KVRAIL_TENANT_7_SECRET: tenant.secret: 2 hex digits are below the minimum "
         "32"},
        {NULL, "KVRAIL_PAGER_EVCT=lru",
         "KVRAIL_PAGER_EVCT: unknown option \"pager.evct\"; did you mean "
         "\"evict\"?"},
        {NULL, "KVRAIL_PAGER_EVICT=mru",
         "KVRAIL_PAGER_EVICT: pager.evict: \"mru\" is not one of lru|fifo"},
    };
    write_text(path, good, 0600);
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        const char *const env[] = {rows[i].env, NULL};
        struct kvn_config *config = NULL;
        assert_int_equal(
            load(&rows[i].set, rows[i].set != NULL, env, &config, errors),
            KV_ERR_CONFIG);
        assert_int_equal(errors->nr, 1);
        expect_line(errors->lines[0], rows[i].line);
    }
    free(errors);
}

/* A secret in a file beside the configuration counts only when nobody else may read
 * it. */
static void config_secret_file_is_private(void **state)
{
    (void)state;
    char secret[128];
    snprintf(secret, sizeof(secret), "%s/t7.hex", folder);
    write_text(path, good, 0600);
    static const char *const sets[] = {"tenant.7.secret=file:t7.hex"};

    write_text(secret, SECRET "\n", 0600);
    struct kvn_config *config = load_good(sets, 1, NULL);
    assert_int_equal(config->tenants[0].secret_len, 16);
    assert_int_equal(config->tenants[0].secret_bytes[15], 0xff);
    kvn_config_free(config);

    write_text(secret, SECRET "\n", 0640);
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    assert_int_equal(load(sets, 1, NULL, &config, errors), KV_ERR_CONFIG);
    char expected[256];
    snprintf(
        expected, sizeof(expected),
        "--set: tenant.secret: %s has mode 0640, others may read it: the limit is 0600",
        secret);
    assert_string_equal(errors->lines[0], expected);
    free(errors);
    assert_int_equal(unlink(secret), 0);
}

/* What --print writes loads again to the same, and shows no secret. */
static void config_print_loads_again(void **state)
{
    (void)state;
    write_text(path, good, 0600);
    struct kvn_config *config = load_good(NULL, 0, NULL);
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    assert_non_null(file);
    kvn_config_print(config, file);
    fclose(file);
    assert_null(strstr(text, SECRET));
    assert_non_null(strstr(text, "host_bytes     = 4MiB"));

    write_text(path, text, 0600);
    static const char *const sets[] = {"tenant.7.secret=" SECRET};
    struct kvn_config *again = load_good(sets, 1, NULL);
    assert_int_equal(again->host_bytes, config->host_bytes);
    assert_int_equal(again->view.digest, config->view.digest);
    assert_int_equal(again->nr_spaces, 1);
    assert_true(kv_key_equal(&again->spaces[0].id, &config->spaces[0].id));
    assert_int_equal(again->liveness.lost_us, config->liveness.lost_us);
    kvn_config_free(again);
    kvn_config_free(config);
    free(text);
}

/* Memory becomes frames: the common domain shared by the page sizes, an own one
 * apart. */
static void config_core_gets_pools_and_variants(void **state)
{
    (void)state;
    char text[4096];
    snprintf(
        text, sizeof(text),
        "%s[space \"big\"]\nmodel = m\npage_bytes = 8KiB\nlayout = 1\n"
        "[tenant \"8\"]\nsecret = " SECRET "\ndomain = own\ndevice_bytes = 64KiB\n"
        "host_bytes = 64KiB\nfill = yes\n",
        good);
    write_text(path, text, 0600);
    struct kvn_config *config = load_good(NULL, 0, NULL);
    struct kvo_config *core = calloc(1, sizeof(*core));
    assert_non_null(core);
    struct kv_detail detail = {0};
    assert_int_equal(kvn_config_core(config, 2, 99, 5, core, &detail), KV_OK);
    assert_int_equal(core->node, 2);
    assert_int_equal(core->incarnation, 99);
    assert_int_equal(core->pager.nr_pools, 8);
    for (uint32_t i = 0; i < 8; i++) {
        /* The device memory of tenant 8, and nothing else. */
        const struct kvp_pool_config *pool = &core->pager.pools[i];
        bool fill = pool->domain == 2 && pool->tier == KVP_DEVICE;
        const struct kvn_config_tenant *filler =
            kvn_config_filler(config, pool->tier, pool->domain);
        assert_ptr_equal(filler, fill ? &config->tenants[1] : NULL);
    }
    assert_int_equal(core->pager.pools[0].nr_frames, 128);
    assert_int_equal(core->pager.pools[1].nr_frames, 64);
    assert_int_equal(core->pager.pools[1].frame_bytes, 8192);
    assert_int_equal(core->pager.pools[2].tier, KVP_HOST);
    assert_int_equal(core->pager.pools[2].nr_frames, 512);
    assert_int_equal(core->pager.pools[4].domain, 2);
    assert_int_equal(core->pager.pools[4].nr_frames, 8);
    assert_int_equal(core->pager.nr_variants, 3);
    assert_int_equal(core->pager.variants[2].layout, 1);
    assert_int_equal(core->pager.nr_tenants, 2);
    assert_int_equal(core->tenant_checks[0], core->tenant_checks[1]);
    assert_int_equal(core->nr_transports, 3);
    assert_int_equal(core->transports[0].kind, KVO_NAMED);
    assert_string_equal(core->transports[0].name, "loop");
    assert_int_equal(core->transports[1].kind, KVO_ONE_SIDED);
    assert_string_equal(core->transports[1].name, "shm");
    assert_int_equal(core->transports[2].kind, KVO_NAMED);
    assert_string_equal(core->transports[2].name, "tcp");

    assert_int_equal(kvn_config_core(config, 3, 99, 5, core, &detail), KV_ERR_CONFIG);
    assert_string_equal(detail.field, "cluster.node");
    free(core);
    kvn_config_free(config);
}

/* The example that we ship is right. */
/* What a link says in clear, and who may call himself a node, is this machine's alone:
 * whoever asks for clear links is refused every address that is not loopback by its
 * text, of a node and of the port; so nothing starts, and nothing is in the open. */
static void config_clear_links_are_on_loopback_alone(void **state)
{
    static const struct {
        const char *address;
        bool remote;
    } rows[] = {
        {"127.0.0.1:1", false},
        {"127.255.0.9:1", false},
        {"[::1]:1", false},
        {"[::ffff:127.0.0.1]:1", false},
        {"localhost:1", false},
        {"0.0.0.0:1", true},
        {"126.255.255.255:1", true},
        {"128.0.0.1:1", true},
        {"10.0.0.3:1", true},
        {"[::]:1", true},
        {"[fd00::1]:1", true},
        {"[::ffff:10.0.0.1]:1", true},
        {"h1:1", true},
        {"localhost.evil.example:1", true},
        {"127.0.0.1.evil.example:1", true},
    };
    static const char *const options[] = {
        "node.1.address", "node.2.address", "listen.address"};
    (void)state;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    assert_non_null(errors);
    write_text(path, good, 0600);
    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        for (unsigned o = 0; o < KV_COUNT_OF(options); o++) {
            char set[96], line[256];
            snprintf(set, sizeof(set), "%s=%s", options[o], rows[i].address);
            const char *const sets[] = {
                "tls.clear=true", "node.1.address=127.0.0.1:7400",
                "node.2.address=127.0.0.1:7401", set};
            struct kvn_config *config = NULL;
            const kv_status_t status = load(sets, 4, NULL, &config, errors);
            assert_int_equal(status, rows[i].remote ? KV_ERR_CONFIG : KV_OK);
            kvn_config_free(config);
            if (rows[i].remote) {
                snprintf(
                    line, sizeof(line),
                    "--set: %s: \"%s\" is no loopback address, and tls.clear is true~",
                    o < 2 ? "node.address" : "listen.address", rows[i].address);
                assert_int_equal(errors->nr, 1);
                expect_line(errors->lines[0], line);
            }
        }
    }
    free(errors);
}

/* A slip in who may speak, or in what proves it, must not come to less than was meant:
 * half a credential, two kinds at once, clear beside one, an address that is none. */
static void config_credentials_and_users_are_whole(void **state)
{
    static const struct {
        const char *sets[2], *line;
    } rows[] = {
        {{"tls.ca=a", "tls.cert=b"}, "@: tls.key: missing: tls.ca, tls.cert and~"},
        {{"tls.ca=a", "tls.key=b"}, "@: tls.cert: missing: tls.ca, tls.cert and~"},
        {{"tls.cert=a", "tls.key=b"}, "@: tls.ca: missing: tls.ca, tls.cert and~"},
        {{"tls.clear=yes", "tls.psk=p"}, "--set: tls.clear: true beside credentials~"},
        {{"node.1.address=h1:0", NULL}, "--set: node.address: \"h1:0\" is not host:p~"},
        {{"node.1.address=[]:1", NULL}, "--set: node.address: \"[]:1\" is not host:p~"},
        {{"node.1.address=[h:1", NULL}, "--set: node.address: \"[h:1\" is not host:p~"},
        {{"node.1.address=::1:1", NULL}, "--set: node.address: \"::1:1\" is not host~"},
        {{"listen.address=h:65536", NULL}, "--set: listen.address: \"h:65536\" is n~"},
        {{"listen.http=h", NULL}, "--set: listen.http: \"h\" is not host:port with a~"},
        {{"tenant.7.uids=0, 4294967295", NULL},
         "--set: tenant.uids: \"4294967295\" is not a user number from 0 to~"},
        {{"tenant.7.uids=1,", NULL}, "--set: tenant.uids: \"\" is not a user number~"},
        {{"tenant.7.uids=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", NULL},
         "--set: tenant.uids: more than the limit of 16"},
    };
    (void)state;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    assert_non_null(errors);
    write_text(path, good, 0600);
    for (unsigned i = 0; i < KV_COUNT_OF(rows); i++) {
        const unsigned nr = rows[i].sets[1] == NULL ? 1 : 2;
        assert_int_equal(load(rows[i].sets, nr, NULL, &config, errors), KV_ERR_CONFIG);
        expect_line(errors->lines[0], rows[i].line);
    }
    static const char *const both[] = {
        "tls.psk=p", "tls.ca=a", "tls.cert=b", "tls.key=c"};
    assert_int_equal(load(both, 4, NULL, &config, errors), KV_ERR_CONFIG);
    expect_line(errors->lines[0], "--set: tls.psk: given beside certificates: one~");
    free(errors);
    static const char *const users[] = {"tenant.7.uids=0, 4294967294"};
    config = load_good(users, 1, NULL);
    assert_int_equal(config->tenants[0].nr_uids, 2);
    assert_int_equal(config->tenants[0].uids[0], 0);
    assert_int_equal(config->tenants[0].uids[1], UINT32_MAX - 1);
    kvn_config_free(config);
}

/* One-sided reads need a socket of this host, and one of their own. */
static void config_sockets_of_transports_are_there(void **state)
{
    (void)state;
    struct kvn_config_errors *errors = calloc(1, sizeof(*errors));
    struct kvn_config *config = NULL;
    assert_non_null(errors);
    write_text(path, good, 0600);
    static const char *const alone[] = {"link.transports=onesided", "listen.unix="};
    assert_int_equal(load(alone, 2, NULL, &config, errors), KV_ERR_CONFIG);
    expect_line(
        errors->lines[0], "--set: link.transports: onesided reads through a socket~");
    static const char *const same[] = {"listen.unix=/run/a", "listen.peers=/run/a"};
    assert_int_equal(load(same, 2, NULL, &config, errors), KV_ERR_CONFIG);
    expect_line(
        errors->lines[0], "--set: listen.peers: \"/run/a\" is listen.unix already~");
    free(errors);
    static const char *const right[] = {
        "link.transports=onesided", "listen.unix=", "listen.peers=/run/a"};
    kvn_config_free(load_good(right, 3, NULL));
}

static void config_example_loads(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "deploy/example.conf");
    struct kvn_config *config = load_good(NULL, 0, NULL);
    assert_int_equal(config->nr_nodes, 3);
    assert_int_equal(config->nr_tenants, 2);
    kvn_config_free(config);
    assert_int_equal(kv_mem_live(), 0);
}

static int start(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    snprintf(path, sizeof(path), "%s/a.conf", folder);
    return 0;
}

static int end(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "%s/a.conf", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_bad_file_gives_its_line),
        cmocka_unit_test(config_every_mistake_has_a_line),
        cmocka_unit_test(config_file_that_is_not_there),
        cmocka_unit_test(config_flag_before_environment_before_file),
        cmocka_unit_test(config_bad_flag_or_environment_is_named),
        cmocka_unit_test(config_secret_file_is_private),
        cmocka_unit_test(config_print_loads_again),
        cmocka_unit_test(config_core_gets_pools_and_variants),
        cmocka_unit_test(config_clear_links_are_on_loopback_alone),
        cmocka_unit_test(config_credentials_and_users_are_whole),
        cmocka_unit_test(config_sockets_of_transports_are_there),
        cmocka_unit_test(config_example_loads),
    };
    return cmocka_run_group_tests(tests, start, end);
}
