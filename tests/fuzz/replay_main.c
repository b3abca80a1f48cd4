/* Runs a fuzz program's inputs once, without libFuzzer: the regression half of fuzzing,
 * which every build and every compiler can do.
 *
 *   codec_fuzz tests/fuzz/corpus/codec      every file in a folder, and single files
 *
 * Fails when it finds no input at all: a misspelt folder must not look like success.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The size is exact, so that a read past the end is a finding under ASan. */
static int replay_file(const char *path)
{
    int ret = -1;
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    struct stat st;
    if (stat(path, &st) != 0 || st.st_size < 0) {
        perror(path);
        goto err_close;
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = malloc(size + (size == 0));
    if (data == NULL) {
        perror(path);
        goto err_close;
    }
    if (fread(data, 1, size, file) != size) {
        fprintf(stderr, "%s: short read\n", path);
        goto err_free;
    }
    (void)LLVMFuzzerTestOneInput(data, size);
    ret = 0;

err_free:
    free(data);
err_close:
    fclose(file);
    return ret;
}

/* Inputs run, or -1. */
static long replay_path(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return replay_file(path) == 0 ? 1 : -1;
    }
    long nr_inputs = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char name[4096];
        int len = snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        if (entry->d_name[0] == '.' || len < 0 || (size_t)len >= sizeof(name)) {
            continue;
        }
        if (replay_file(name) != 0) {
            nr_inputs = -1;
            break;
        }
        nr_inputs++;
    }
    closedir(dir);
    return nr_inputs;
}

int main(int argc, char **argv)
{
    long nr_inputs = 0;
    for (int i = 1; i < argc; i++) {
        long n = replay_path(argv[i]);
        if (n < 0) {
            return 1;
        }
        nr_inputs += n;
    }
    printf("%ld inputs\n", nr_inputs);
    return nr_inputs > 0 ? 0 : 1;
}
