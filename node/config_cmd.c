/* kvrail config: is this file right, and what does it come to? */
#include "node/cli.h"
#include "node/config.h"
#include "node/verbs.h"

#include "base/mem.h"

#include <inttypes.h>

extern char **environ;

enum flag { FLAG_CHECK, FLAG_PRINT, FLAG_SET, NR_FLAGS };
enum { SETS_MAX = 64 };

static const struct kvn_flag flags[NR_FLAGS] = {
    [FLAG_CHECK] =
        {"check", "FILE", "load it and say what is wrong, one line a mistake"},
    [FLAG_PRINT] = {"print", "FILE", "print every option, its value and its origin"},
    [FLAG_SET] =
        {"set", "SECTION.KEY=VALUE",
         "goes before KVRAIL_SECTION_KEY, that before the file (again and again)"},
};

static const struct kvn_cli cli = {
    .verb = "config",
    .summary = "Checks or prints a configuration file. A section with a name is "
               "node.1.weight in --set\nand KVRAIL_NODE_1_WEIGHT in the environment.",
    .flags = flags,
    .nr_flags = NR_FLAGS,
};

static void print_summary(const struct kvn_config *config)
{
    printf(
        "%s: ok: %" PRIu32 " node%s, %" PRIu32 " tenant%s, %" PRIu32 " space%s\n",
        config->path, config->nr_nodes, config->nr_nodes == 1 ? "" : "s",
        config->nr_tenants, config->nr_tenants == 1 ? "" : "s", config->nr_spaces,
        config->nr_spaces == 1 ? "" : "s");
}

static int run(const struct kvn_config_source *source, bool print)
{
    struct kvn_config_errors *errors = kv_calloc(1, sizeof(*errors));
    if (errors == NULL) {
        fprintf(stderr, "kvrail config: out of memory\n");
        return KVN_EXIT_FAILED;
    }
    struct kvn_config *config = NULL;
    const kv_status_t status = kvn_config_load(source, &config, errors);
    kvn_config_errors_print(errors, stderr);
    kv_free(errors);
    if (status != KV_OK) {
        return KVN_EXIT_USAGE;
    }
    if (print) {
        kvn_config_print(config, stdout);
    } else {
        print_summary(config);
    }
    kvn_config_free(config);
    return KVN_EXIT_OK;
}

int kvn_verb_config(int argc, char **argv)
{
    const char *sets[SETS_MAX];
    struct kvn_config_source source = {
        .sets = sets, .env = (const char *const *)environ};
    bool print = false;
    const char *value;
    int flag;
    kvn_cli_start();
    while ((flag = kvn_cli_next(&cli, argc, argv, &value)) >= 0) {
        if (flag == FLAG_SET) {
            if (source.nr_sets == SETS_MAX) {
                return kvn_cli_refuse(&cli, "--set: more than %d times", SETS_MAX);
            }
            sets[source.nr_sets++] = value;
        } else if (source.path != NULL) {
            return kvn_cli_refuse(&cli, "one of --check and --print, once");
        } else {
            source.path = value;
            print = flag == FLAG_PRINT;
        }
    }
    if (flag == KVN_CLI_HELP) {
        return KVN_EXIT_OK;
    }
    if (flag == KVN_CLI_BAD) {
        return KVN_EXIT_USAGE;
    }
    if (source.path == NULL) {
        return kvn_cli_refuse(&cli, "--check FILE or --print FILE is needed");
    }
    return run(&source, print);
}
