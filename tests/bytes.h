/* bytes.h - building files in memory for the tests of readers, and folders to put them in. */
#ifndef MKA_TEST_BYTES_H
#define MKA_TEST_BYTES_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct bytes {
    unsigned char data[1 << 16];
    size_t size;
};

static inline void put(struct bytes *b, const void *data, size_t size) {
    if (size > sizeof b->data - b->size) abort();
    if (size > 0) memcpy(b->data + b->size, data, size);
    b->size += size;
}

/* The low width bytes of a number, little endian. */
static inline void put_number(struct bytes *b, uint64_t value, int width) {
    for (int i = 0; i < width; i++) put(b, &(unsigned char){(unsigned char)(value >> 8 * i)}, 1);
}

static inline void put_text(struct bytes *b, const char *text) {
    put(b, text, strlen(text));
}

static inline void put_zeros(struct bytes *b, size_t count) {
    for (size_t i = 0; i < count; i++) put(b, "", 1);
}

/* A new empty folder; path has room for 64 bytes. */
static inline void make_folder(char *path) {
    const char *base = getenv("TMPDIR");
    if (snprintf(path, 64, "%.40s/mka-test-XXXXXX", base && *base ? base : P_tmpdir) >= 64 || !mkdtemp(path)) abort();
}

/* folder/name; valid until the fourth call after it. */
static inline const char *in_folder(const char *folder, const char *name) {
    static char paths[4][512];
    static int turn;
    char *path = paths[turn++ % 4];
    if (snprintf(path, sizeof paths[0], "%s/%s", folder, name) >= (int)sizeof paths[0]) abort();
    return path;
}

static inline const char *write_file(const char *folder, const char *name, const void *data, size_t size) {
    const char *path = in_folder(folder, name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
    return path;
}

/* Removes a folder of files and folders. */
static inline void remove_folder(const char *path) {
    char inner[512];
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) >= (int)sizeof inner) abort();
        struct stat about;
        if (lstat(inner, &about) == 0 && S_ISDIR(about.st_mode)) {
            remove_folder(inner);
        } else {
            unlink(inner);
        }
    }
    if (folder) closedir(folder);
    rmdir(path);
}

#endif
