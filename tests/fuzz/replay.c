/* replay.c - runs a fuzz target once over every file of the folders it is given, so that what fuzzing found stays a test
 * of every build. Each input is a heap block of exactly its size, so that a sanitizer sees a read past its end.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int replay_file(const char *path) {
    uint8_t *data = NULL;
    int status = -1;
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) goto done;
    long size = ftell(file);
    if (size < 0 || fseek(file, 0, SEEK_SET) != 0) goto done;
    data = malloc(size ? (size_t)size : 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size) goto done;
    fprintf(stderr, "%s\n", path); /* the last line before a crash names its input */
    LLVMFuzzerTestOneInput(data, (size_t)size);
    status = 0;
done:
    if (status != 0) fprintf(stderr, "%s: %s\n", path, strerror(errno));
    free(data);
    if (file) fclose(file);
    return status;
}

static int replay_folder(const char *folder) {
    struct dirent **entries = NULL;
    int files = 0;
    int count = scandir(folder, &entries, NULL, alphasort);
    if (count < 0) {
        fprintf(stderr, "%s: %s\n", folder, strerror(errno));
        return -1;
    }
    for (int i = 0; i < count; i++) {
        char path[4096];
        int length = snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && files >= 0)
            files = length < (int)sizeof path && replay_file(path) == 0 ? files + 1 : -1;
        free(entries[i]);
    }
    free(entries);
    return files;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int files = replay_folder(argv[i]);
        if (files < 0) return 1;
        total += files;
    }
    printf("%d inputs\n", total);
    return total > 0 ? 0 : 1; /* an empty corpus would be a test that cannot fail */
}
