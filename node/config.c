#include "node/config_priv.h"

#include "base/assert.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

enum { SECTION_TEXT_MAX = 48 }; /* of a heading; inih keeps 49 characters of one */

/* One load. A section that could not be taken has kind NULL: its keys are skipped, for
 * its heading has given a line already. */
struct loader {
    struct kvn_config *config;
    struct kvn_config_errors *errors;
    FILE *file;
    unsigned line;
    const struct kvn_kind *kind;
    uint32_t instance;
    bool inside; /* a heading was seen */
    char heading[SECTION_TEXT_MAX + 1];
    bool seen[16]; /* per kind: its heading was seen */
};

/* ---- mistakes -------------------------------------------------------------------- */

static void add_line(
    struct kvn_config_errors *errors, const char *prefix, const char *format,
    va_list args)
{
    if (errors->nr < KVN_CONFIG_ERRORS_MAX) {
        char *line = errors->lines[errors->nr];
        const size_t cap = sizeof(errors->lines[0]);
        const int len = snprintf(line, cap, "%s", prefix);
        const size_t at = (size_t)len < cap ? (size_t)len : cap - 1;
        vsnprintf(line + at, cap - at, format, args);
    }
    errors->nr++;
}

void kvn_config_errors_print(const struct kvn_config_errors *errors, FILE *file)
{
    for (unsigned i = 0; i < errors->nr && i < KVN_CONFIG_ERRORS_MAX; i++) {
        fprintf(file, "%s\n", errors->lines[i]);
    }
    if (errors->nr > KVN_CONFIG_ERRORS_MAX) {
        fprintf(file, "… and %u more\n", errors->nr - KVN_CONFIG_ERRORS_MAX);
    }
}

void kvn_config_fail(struct kvn_config_errors *errors, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    add_line(errors, "", format, args);
    va_end(args);
}

/* "KVRAIL_TENANT_7_SECRET" of section "7" of a kind and "tenant.secret". */
static void
env_name(const struct kvn_section *section, const char *option, char *out, size_t cap)
{
    const char *dot = strchr(option, '.');
    snprintf(
        out, cap, "KVRAIL_%.*s%s%s_%s", (int)(dot - option), option,
        section != NULL ? "_" : "", section != NULL ? section->name : "", dot + 1);
    for (char *at = out; *at != '\0'; at++) {
        *at = isalnum((unsigned char)*at) ? (char)toupper((unsigned char)*at) : '_';
    }
}

static struct kvn_origin origin_of(
    const struct kvn_config *config, const struct kvn_section *section,
    const char *option)
{
    const char *dot = strchr(option, '.');
    char name[16];
    snprintf(name, sizeof(name), "%.*s", (int)(dot - option), option);
    const struct kvn_kind *kind = kvn_kind_find(name);
    KV_ASSERT(kind != NULL);
    for (unsigned i = 0; i < kind->nr; i++) {
        if (strcmp(kind->table[i].name, option) == 0) {
            return section != NULL ? section->origins[i] : config->origins[i];
        }
    }
    KV_ASSERT(kind == NULL); /* the tables have every option that a check names */
    return (struct kvn_origin){KVN_FROM_DEFAULT, 0};
}

void kvn_config_fail_at(
    const struct kvn_config *config, const struct kvn_section *section,
    const char *option, struct kvn_config_errors *errors, const char *format, ...)
{
    const struct kvn_origin origin = origin_of(config, section, option);
    /* A value that nobody wrote is wrong for what its section says, so its heading. */
    const unsigned line = origin.from == KVN_FROM_FILE ? origin.line
                          : section != NULL            ? section->line
                                                       : 0;
    char where[640];
    char env[96];
    if (origin.from == KVN_FROM_ENV) {
        env_name(section, option, env, sizeof(env));
        snprintf(where, sizeof(where), "%s: %s: ", env, option);
    } else if (origin.from == KVN_FROM_FLAG) {
        snprintf(where, sizeof(where), "--set: %s: ", option);
    } else if (line != 0) {
        snprintf(where, sizeof(where), "%s:%u: %s: ", config->path, line, option);
    } else {
        snprintf(where, sizeof(where), "%s: %s: ", config->path, option);
    }
    va_list args;
    va_start(args, format);
    add_line(errors, where, format, args);
    va_end(args);
}

/* ---- one value ------------------------------------------------------------------- */

/* The key alone is compared: with its section in front every short key is near. */
static void unknown_key(
    struct loader *loader, const struct kvn_kind *kind, const char *key,
    const char *where)
{
    const char *keys[KVN_CONFIG_GLOBALS_MAX];
    unsigned nr = 0;
    for (unsigned i = 0; i < kind->nr; i++) {
        if (kvn_kind_has(kind, &kind->table[i])) {
            keys[nr++] = strchr(kind->table[i].name, '.') + 1;
        }
    }
    const char *near = kv_nearest(key, keys, nr);
    kvn_config_fail(
        loader->errors, "%sunknown option \"%s.%.80s\"%s%s%s", where, kind->name, key,
        near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
        near != NULL ? "\"?" : "");
}

/* Sets kind.key of the instance; where: the start of the line if that fails. */
static void set_key(
    struct loader *loader, const struct kvn_kind *kind, uint32_t instance,
    const char *key, const char *value, struct kvn_origin origin, const char *where)
{
    char name[128];
    snprintf(name, sizeof(name), "%s.%.80s", kind->name, key);
    unsigned i = 0;
    while (i < kind->nr && strcmp(kind->table[i].name, name) != 0) {
        i++;
    }
    if (i == kind->nr) {
        unknown_key(loader, kind, key, where);
        return;
    }
    struct kvn_origin *origins;
    void *base = kvn_kind_base(kind, loader->config, instance, &origins);
    if (origin.from == KVN_FROM_FILE && origins[i].from == KVN_FROM_FILE) {
        kvn_config_fail(
            loader->errors, "%s%s: given twice, first on line %u", where, name,
            origins[i].line);
        return;
    }
    struct kv_option_error error;
    origins[i] = origin;
    if (kv_option_set(&kind->table[i], 1, base, name, value, &error) != KV_OK) {
        kvn_config_fail(loader->errors, "%s%s", where, error.line);
    }
}

/* ---- the file -------------------------------------------------------------------- */

static void fail_line(struct loader *loader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void fail_line(struct loader *loader, const char *format, ...)
{
    char where[600];
    snprintf(where, sizeof(where), "%s:%u: ", loader->config->path, loader->line);
    va_list args;
    va_start(args, format);
    add_line(loader->errors, where, format, args);
    va_end(args);
}

static void unknown_section(struct loader *loader, const char *name)
{
    const char *names[16];
    KV_ASSERT(kvn_config_nr_kinds <= KV_COUNT_OF(names));
    for (unsigned i = 0; i < kvn_config_nr_kinds; i++) {
        names[i] = kvn_config_kinds[i].name;
    }
    const char *near = kv_nearest(name, names, kvn_config_nr_kinds);
    if (near != NULL) {
        fail_line(loader, "unknown section [%s]; did you mean [%s]?", name, near);
    } else {
        fail_line(loader, "unknown section [%s]", name);
    }
}

static bool good_name(const char *name)
{
    for (const char *at = name; *at != '\0'; at++) {
        if (!isalnum((unsigned char)*at) && strchr("._-", *at) == NULL) {
            return false;
        }
    }
    return *name != '\0' && strlen(name) <= KVN_CONFIG_NAME_MAX;
}

/* The number that names a node or a tenant, into its id. */
static bool
take_id(struct loader *loader, const struct kvn_kind *kind, const char *name)
{
    if (strcmp(kind->name, "space") == 0) {
        return true;
    }
    uint64_t id;
    const bool node = strcmp(kind->name, "node") == 0;
    if (kv_parse_uint(name, &id) != KV_OK || id > UINT32_MAX || (node && id == 0)) {
        fail_line(
            loader, "%s.id: \"%s\" is not a number from %d to %" PRIu32, kind->name,
            name, node ? 1 : 0, UINT32_MAX);
        return false;
    }
    struct kvn_config *config = loader->config;
    if (node) {
        config->nodes[loader->instance].id = (uint32_t)id;
    } else {
        config->tenants[loader->instance].id = (uint32_t)id;
    }
    return true;
}

static void open_named(struct loader *loader, const struct kvn_kind *kind, char *name)
{
    struct kvn_config *config = loader->config;
    if (!good_name(name)) {
        fail_line(
            loader,
            "%s.name: \"%s\" must be 1 to %d letters, digits, dots, dashes or "
            "underscores",
            kind->name, name, KVN_CONFIG_NAME_MAX);
        return;
    }
    const uint32_t nr = kvn_kind_count(kind, config);
    for (uint32_t i = 0; i < nr; i++) {
        const struct kvn_section *other = kvn_kind_at(kind, config, i);
        if (strcmp(other->name, name) == 0) {
            fail_line(
                loader, "duplicate %s \"%s\", first on line %u", kind->name, name,
                other->line);
            return;
        }
    }
    if (nr == kind->max) {
        fail_line(loader, "%s: more than the limit of %u", kind->name, kind->max);
        return;
    }
    loader->instance = nr;
    struct kvn_section *section = kvn_kind_at(kind, config, nr);
    snprintf(section->name, sizeof(section->name), "%.*s", KVN_CONFIG_NAME_MAX, name);
    section->line = loader->line;
    if (!take_id(loader, kind, name)) {
        return;
    }
    kv_options_preset(kind->table, kind->nr, section);
    const uint32_t count = nr + 1;
    memcpy((char *)config + kind->count, &count, sizeof(count));
    loader->kind = kind;
}

/* `text` is what stands between the brackets: pager, or node "1". */
static void open_section(struct loader *loader, char *text)
{
    loader->kind = NULL;
    loader->inside = true;
    char *quote = strchr(text, '"');
    char *name = NULL;
    if (quote != NULL) {
        char *end = strchr(quote + 1, '"');
        if (end == NULL || end[1] != '\0') {
            fail_line(loader, "[%s: a name needs both its quotes", text);
            return;
        }
        *end = '\0';
        name = quote + 1;
        while (quote > text && isspace((unsigned char)quote[-1])) {
            quote--;
        }
        *quote = '\0';
    }
    const struct kvn_kind *kind = kvn_kind_find(text);
    if (kind == NULL) {
        unknown_section(loader, text);
        return;
    }
    bool *seen = &loader->seen[kind - kvn_config_kinds];
    if (kind->named != (name != NULL)) {
        fail_line(
            loader, kind->named ? "[%s] needs a name: [%s \"1\"]" : "[%s] has no name",
            text, text);
    } else if (!kind->named && *seen) {
        fail_line(loader, "[%s] is there twice", text);
    } else if (kind->named) {
        open_named(loader, kind, name);
    } else {
        loader->kind = kind;
    }
    *seen = true;
}

/* What inih would take for something else is seen to here: headings (it does not tell
 * of empty ones), indented lines (it would append them to the value before), long lines
 * (it would cut them). */
static char *read_line(char *out, int cap, void *arg)
{
    struct loader *loader = arg;
    char text[1024];
    for (;;) {
        if (fgets(text, sizeof(text), loader->file) == NULL) {
            return NULL;
        }
        loader->line++;
        size_t len = strlen(text);
        if (len > KVN_CONFIG_LINE_MAX + 1 || len + 1 > (size_t)cap) {
            fail_line(loader, "a line has at most %d characters", KVN_CONFIG_LINE_MAX);
            for (int c = text[len - 1]; c != '\n' && c != EOF;) {
                c = fgetc(loader->file);
            }
            snprintf(out, (size_t)cap, ";\n");
            return out;
        }
        const char *at = text;
        while (*at == ' ' || *at == '\t') {
            at++;
        }
        if (*at == '[') {
            const char *end = strchr(at, ']');
            if (end == NULL || end - at > SECTION_TEXT_MAX) {
                fail_line(
                    loader, "a heading is [section] with at most %d characters",
                    SECTION_TEXT_MAX);
                loader->kind = NULL;
                loader->inside = true;
            } else {
                snprintf(
                    loader->heading, sizeof(loader->heading), "%.*s",
                    (int)(end - at - 1), at + 1);
                open_section(loader, loader->heading);
            }
            snprintf(out, (size_t)cap, ";\n");
            return out;
        }
        if (strchr(";#\r\n", *at) == NULL && strpbrk(at, "=:") == NULL) {
            len = strcspn(at, "\r\n");
            fail_line(loader, "\"%.*s\" is no key = value", (int)len, at);
            snprintf(out, (size_t)cap, ";\n");
            return out;
        }
        snprintf(out, (size_t)cap, "%s", at);
        return out;
    }
}

static int take_key(void *arg, const char *section, const char *name, const char *value)
{
    (void)section; /* read_line() keeps it */
    struct loader *loader = arg;
    if (!loader->inside) {
        fail_line(loader, "\"%s\" stands before any [section]", name);
    } else if (loader->kind != NULL) {
        char where[600];
        snprintf(where, sizeof(where), "%s:%u: ", loader->config->path, loader->line);
        const struct kvn_origin origin = {KVN_FROM_FILE, loader->line};
        set_key(loader, loader->kind, loader->instance, name, value, origin, where);
    }
    return 1;
}

static kv_status_t load_file(struct loader *loader)
{
    struct kvn_config *config = loader->config;
    loader->file = fopen(config->path, "r");
    if (loader->file == NULL) {
        kvn_config_fail(loader->errors, "%s: %s", config->path, strerror(errno));
        return KV_ERR_IO;
    }
    ini_parse_stream(read_line, loader, take_key, loader);
    const bool failed = ferror(loader->file) != 0;
    fclose(loader->file);
    if (failed) {
        kvn_config_fail(loader->errors, "%s: cannot be read", config->path);
        return KV_ERR_IO;
    }
    static const char *const needed[] = {"cluster", "pager", "node", "tenant", "space"};
    for (unsigned i = 0; i < KV_COUNT_OF(needed); i++) {
        const struct kvn_kind *kind = kvn_kind_find(needed[i]);
        if (!loader->seen[kind - kvn_config_kinds]) {
            kvn_config_fail(
                loader->errors, "%s: missing section [%s%s]", config->path, needed[i],
                kind->named ? " \"…\"" : "");
        }
    }
    return KV_OK;
}

/* ---- environment and flags ------------------------------------------------------- */

/* True when `name` begins with the upper-case KVRAIL_SECTION[_NAME]_: what follows is
 * the key, lower case into key[]. */
static bool env_key(
    const struct kvn_kind *kind, const struct kvn_section *section, const char *name,
    size_t len, char *key, size_t cap)
{
    char option[32];
    char prefix[96];
    snprintf(option, sizeof(option), "%s.", kind->name);
    env_name(section, option, prefix, sizeof(prefix));
    const size_t skip = strlen(prefix);
    if (len <= skip || strncmp(name, prefix, skip) != 0) {
        return false;
    }
    snprintf(key, cap, "%.*s", (int)(len - skip), name + skip);
    for (char *at = key; *at != '\0'; at++) {
        *at = (char)tolower((unsigned char)*at);
    }
    return true;
}

static void load_env_entry(struct loader *loader, const char *entry)
{
    const char *equals = strchr(entry, '=');
    if (equals == NULL || strncmp(entry, "KVRAIL_", 7) != 0) {
        return;
    }
    const size_t len = (size_t)(equals - entry);
    const struct kvn_origin origin = {KVN_FROM_ENV, 0};
    char key[96];
    char where[160];
    snprintf(where, sizeof(where), "%.*s: ", (int)len, entry);
    for (unsigned k = 0; k < kvn_config_nr_kinds; k++) {
        const struct kvn_kind *kind = &kvn_config_kinds[k];
        const uint32_t nr = kind->named ? kvn_kind_count(kind, loader->config) : 1;
        for (uint32_t i = 0; i < nr; i++) {
            const struct kvn_section *section =
                kind->named ? kvn_kind_at(kind, loader->config, i) : NULL;
            if (env_key(kind, section, entry, len, key, sizeof(key))) {
                set_key(loader, kind, i, key, equals + 1, origin, where);
                return;
            }
        }
    }
    /* Anything else may be somebody else's: Kubernetes, for one, sets
     * KVRAIL_NODE_SERVICE_HOST for a service called kvrail-node. */
}

static void load_set(struct loader *loader, const char *set)
{
    char text[512];
    char where[160];
    snprintf(text, sizeof(text), "%s", set);
    char *value = strchr(text, '=');
    if (value == NULL || strchr(text, '.') == NULL || strchr(text, '.') > value) {
        kvn_config_fail(loader->errors, "--set %.100s: not section.key=value", set);
        return;
    }
    *value++ = '\0';
    snprintf(where, sizeof(where), "--set %.100s: ", text);
    char *key = strrchr(text, '.');
    char *name = strchr(text, '.');
    *key++ = '\0';
    name = name < key - 1 ? name : NULL;
    if (name != NULL) {
        *name++ = '\0';
    }
    const struct kvn_kind *kind = kvn_kind_find(text);
    if (kind == NULL || kind->named != (name != NULL)) {
        kvn_config_fail(
            loader->errors, "%sno section [%s%s%s%s]", where, text,
            name != NULL ? " \"" : "", name != NULL ? name : "",
            name != NULL ? "\"" : "");
        return;
    }
    const struct kvn_origin origin = {KVN_FROM_FLAG, 0};
    if (name == NULL) {
        set_key(loader, kind, 0, key, value, origin, where);
        return;
    }
    for (uint32_t i = 0; i < kvn_kind_count(kind, loader->config); i++) {
        if (strcmp(kvn_kind_at(kind, loader->config, i)->name, name) == 0) {
            set_key(loader, kind, i, key, value, origin, where);
            return;
        }
    }
    kvn_config_fail(
        loader->errors, "%sno section [%s \"%s\"] in %s", where, text, name,
        loader->config->path);
}

/* ---- load, print, free ----------------------------------------------------------- */

static kv_status_t
load_all(struct loader *loader, const struct kvn_config_source *source)
{
    struct kvn_config *config = loader->config;
    kv_options_preset(kvn_config_globals, kvn_config_nr_globals, config);
    kv_status_t status = load_file(loader);
    if (status != KV_OK) {
        return status;
    }
    for (unsigned i = 0; source->env != NULL && source->env[i] != NULL; i++) {
        load_env_entry(loader, source->env[i]);
    }
    for (unsigned i = 0; i < source->nr_sets; i++) {
        load_set(loader, source->sets[i]);
    }
    /* What options mean together says nothing while some of them are not there. */
    if (loader->errors->nr == 0) {
        kvn_config_check(config, loader->errors);
    }
    return loader->errors->nr == 0 ? KV_OK : KV_ERR_CONFIG;
}

kv_status_t kvn_config_load(
    const struct kvn_config_source *source, struct kvn_config **config_p,
    struct kvn_config_errors *errors)
{
    errors->nr = 0;
    struct kvn_config *config = kv_calloc(1, sizeof(*config));
    if (config == NULL) {
        kvn_config_fail(errors, "%s: out of memory", source->path);
        return KV_ERR_NOMEM;
    }
    if (strlen(source->path) >= sizeof(config->path)) {
        kvn_config_fail(
            errors, "the path has %zu characters, the limit is %zu",
            strlen(source->path), sizeof(config->path) - 1);
        kvn_config_free(config);
        return KV_ERR_CONFIG;
    }
    snprintf(config->path, sizeof(config->path), "%s", source->path);
    struct loader loader = {.config = config, .errors = errors};
    const kv_status_t status = load_all(&loader, source);
    if (status != KV_OK) {
        kvn_config_free(config);
        return status;
    }
    *config_p = config;
    return KV_OK;
}

void kvn_config_free(struct kvn_config *config)
{
    if (config != NULL) {
        explicit_bzero(config->tenants, sizeof(config->tenants));
        kv_free(config);
    }
}

static void print_option(
    const struct kv_option *option, const void *base, struct kvn_origin origin,
    FILE *file)
{
    char value[KV_OPT_TEXT_BYTES + 1];
    char from[32];
    const char *dot = strchr(option->name, '.');
    if (origin.from == KVN_FROM_FILE) {
        snprintf(from, sizeof(from), "line %u", origin.line);
    } else {
        static const char *const words[] = {"default", "file", "environment", "--set"};
        snprintf(from, sizeof(from), "%s", words[origin.from]);
    }
    kv_option_get(option, base, value, sizeof(value));
    if (strcmp(option->name, "tenant.secret") == 0) {
        fprintf(file, "; %s is set and not printed ; %s\n", dot + 1, from);
        return;
    }
    const int width = 24 - (int)strlen(value);
    fprintf(
        file, "%-14s = %s%*s ; %s\n", dot + 1, value, width > 0 ? width : 0, "", from);
}

void kvn_config_print(const struct kvn_config *config, FILE *file)
{
    for (unsigned k = 0; k < kvn_config_nr_kinds; k++) {
        const struct kvn_kind *kind = &kvn_config_kinds[k];
        const uint32_t nr = kind->named ? kvn_kind_count(kind, config) : 1;
        for (uint32_t i = 0; i < nr; i++) {
            const void *base = config;
            const struct kvn_origin *origins = config->origins;
            fprintf(file, "%s[%s", k + i > 0 ? "\n" : "", kind->name);
            if (kind->named) {
                const struct kvn_section *section = kvn_kind_at(kind, config, i);
                base = section;
                origins = section->origins;
                fprintf(file, " \"%s\"", section->name);
            }
            fprintf(file, "]\n");
            for (unsigned o = 0; o < kind->nr; o++) {
                if (kvn_kind_has(kind, &kind->table[o])) {
                    print_option(&kind->table[o], base, origins[o], file);
                }
            }
        }
    }
}
