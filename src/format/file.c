/* file - opening by content, mapping, and the index of names: all that does not depend on the format.
 *
 * Files are mapped shared and read-only: several processes then hold one copy of the weights, which the system may drop and
 * read again. The bytes of tensors are not touched here.
 */
#include "format/file.h"

#include "base/status.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK     ((size_t)64 << 10)
#define NAME_MAX_ 65535u

struct mka_chunk {
    struct mka_chunk *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
};

void *mka_file_alloc(mka_file *file, size_t count, size_t size) {
    size_t bytes, whole;
    if (!mka_size_mul(count, size, &bytes) || !mka_size_add(bytes, 15, &bytes)) return NULL;
    bytes &= ~(size_t)15;
    struct mka_chunk *chunk = file->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t room = bytes > CHUNK ? bytes : CHUNK;
        if (!mka_size_add(room, sizeof *chunk, &whole) || !(chunk = calloc(1, whole))) return NULL;
        chunk->size = room;
        chunk->next = file->chunks;
        file->chunks = chunk;
    }
    void *piece = chunk->bytes + chunk->used;
    chunk->used += bytes;
    return piece;
}

const char *mka_file_copy(mka_file *file, const char *bytes, size_t length) {
    size_t room;
    char *copy = mka_size_add(length, 1, &room) ? mka_file_alloc(file, room, 1) : NULL;
    if (copy) memcpy(copy, bytes, length);
    return copy;
}

const char *mka_file_beside(mka_file *file, const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0, length = strlen(name);
    char *full = mka_file_alloc(file, folder + length + 1, 1);
    if (!full) return NULL;
    memcpy(full, path, folder);
    memcpy(full + folder, name, length);
    return full;
}

/* ---- names ---- */

/* Length of the valid UTF-8 character at c (at most left bytes), or 0. */
static size_t utf8_length(const unsigned char *c, size_t left) {
    static const unsigned smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = c[0] < 0x80 ? 1 : c[0] < 0xC2 ? 0 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : c[0] < 0xF5 ? 4 : 0;
    if (length < 2) return length;
    if (length > left) return 0;
    unsigned code = c[0] & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((c[i] & 0xC0) != 0x80) return 0;
        code = code << 6 | (c[i] & 0x3Fu);
    }
    return code < smallest[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : length;
}

int mka_name_ok(const char *bytes, size_t length) {
    const unsigned char *c = (const unsigned char *)bytes;
    if (length == 0 || length > NAME_MAX_) return 0;
    for (size_t at = 0; at < length;) {
        size_t step = utf8_length(c + at, length - at);
        if (step == 0 || c[at] < 0x20 || c[at] == 0x7F) return 0;
        at += step;
    }
    return 1;
}

static int compare_names(const void *left, const void *right) {
    const struct mka_name *a = left, *b = right;
    return strcmp(a->name, b->name);
}

mka_status mka_names_sort(struct mka_name *names, int count, const char *what, const char *file_name, mka_error *error) {
    if (count > 0) qsort(names, (size_t)count, sizeof *names, compare_names);
    for (int i = 1; i < count; i++) {
        if (strcmp(names[i - 1].name, names[i].name) == 0)
            return mka_fail(error, MKA_BAD_FILE, "%s: %s %s occurs twice", file_name, what, names[i].name);
    }
    return MKA_OK;
}

int mka_names_find(const struct mka_name *names, int count, const char *name) {
    const struct mka_name key = {.name = name};
    if (count <= 0) return -1;
    const struct mka_name *found = bsearch(&key, names, (size_t)count, sizeof *names, compare_names);
    return found ? found->index : -1;
}

mka_status mka_file_room(mka_file *file, const char *name, size_t count, mka_error *error) {
    size_t room = (size_t)file->tensor_count;
    if (count > INT_MAX - room) return mka_fail(error, MKA_BAD_FILE, "%s: more than %d tensors", name, INT_MAX);
    room += count;
    if (room == 0) room = 1; /* so that tensors is never NULL */
    if (room <= (size_t)file->tensor_room) return MKA_OK;
    mka_tensor *tensors = reallocarray(file->tensors, room, sizeof *tensors);
    if (!tensors) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for %zu tensors", name, room);
    file->tensors = tensors;
    file->tensor_room = (int)room;
    return MKA_OK;
}

static mka_status finish(mka_file *file, const char *name, mka_error *error) {
    file->tensor_names = mka_file_alloc(file, (size_t)file->tensor_count, sizeof *file->tensor_names);
    file->entry_names = mka_file_alloc(file, (size_t)file->entry_count, sizeof *file->entry_names);
    if (!file->tensor_names || !file->entry_names) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its names", name);
    for (int i = 0; i < file->tensor_count; i++) file->tensor_names[i] = (struct mka_name){file->tensors[i].name, i};
    for (int i = 0; i < file->entry_count; i++) file->entry_names[i] = (struct mka_name){file->entries[i].meta.key, i};
    mka_status status = mka_names_sort(file->tensor_names, file->tensor_count, "tensor", name, error);
    if (status == MKA_OK) status = mka_names_sort(file->entry_names, file->entry_count, "metadata key", name, error);
    return status;
}

/* ---- mapping ---- */

static mka_status map_handle(int handle, const char *path, struct mka_map *map, mka_error *error) {
    struct stat about;
    if (fstat(handle, &about) != 0) return mka_fail(error, MKA_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(about.st_mode)) return mka_fail(error, MKA_IO, "%s: a folder, not a file", path);
    if (!S_ISREG(about.st_mode))
        return mka_fail(error, MKA_IO, "%s: not a regular file (a pipe or device cannot be mapped)", path);
    if (about.st_size == 0) return mka_fail(error, MKA_BAD_FILE, "%s: the file is empty", path);
    if ((uint64_t)about.st_size > SIZE_MAX) return mka_fail(error, MKA_IO, "%s: too large to map on this machine", path);
    map->size = (size_t)about.st_size;
    void *bytes = mmap(NULL, map->size, PROT_READ, MAP_SHARED, handle, 0);
    if (bytes == MAP_FAILED) return mka_fail(error, MKA_IO, "%s: cannot be mapped: %s", path, strerror(errno));
    map->bytes = bytes;
    map->owned = 1;
    return MKA_OK;
}

static mka_status add_map(mka_file *file, const struct mka_map *map, mka_error *error) {
    struct mka_map *maps = reallocarray(file->maps, (size_t)file->map_count + 1, sizeof *maps);
    if (!maps) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", map->name);
    maps[file->map_count++] = *map;
    file->maps = maps;
    return MKA_OK;
}

mka_status mka_file_map(mka_file *file, const char *path, struct mka_map *map, mka_error *error) {
    *map = (struct mka_map){.name = mka_file_copy(file, path, strlen(path))};
    if (!map->name) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", path);
    int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to hang on a pipe without a writer */
    if (handle < 0) return mka_fail(error, MKA_IO, "%s: cannot be opened: %s", path, strerror(errno));
    mka_status status = map_handle(handle, path, map, error);
    close(handle); /* the mapping keeps the file */
    if (status != MKA_OK) return status;
    status = add_map(file, map, error);
    if (status != MKA_OK) munmap((void *)(uintptr_t)map->bytes, map->size);
    return status;
}

void mka_file_clear(mka_file *file) {
    for (int i = 0; i < file->map_count; i++) {
        if (file->maps[i].owned) munmap((void *)(uintptr_t)file->maps[i].bytes, file->maps[i].size);
    }
    file->map_count = 0;
    file->tensor_count = 0;
    file->entry_count = 0;
    file->entries = NULL;
}

void mka_file_close(mka_file *file) {
    if (!file) return;
    mka_file_clear(file);
    while (file->chunks) {
        struct mka_chunk *next = file->chunks->next;
        free(file->chunks);
        file->chunks = next;
    }
    free(file->maps);
    free(file->tensors);
    free(file);
}

/* ---- opening ---- */

enum content { GGUF, SAFETENSORS, JSON, LFS_POINTER, OTHER };

static int starts_with(const struct mka_map *map, const char *text) {
    size_t length = strlen(text);
    return map->size >= length && memcmp(map->bytes, text, length) == 0;
}

/* A safetensors file starts with the length of its header, 64 bits of which the upper half is always zero; then a '{'. */
static enum content look(const struct mka_map *map) {
    static const unsigned char zero[4];
    if (starts_with(map, "GGUF")) return GGUF;
    if (starts_with(map, "version https://git-lfs")) return LFS_POINTER;
    if (map->size >= 8 && memcmp(map->bytes + 4, zero, 4) == 0 && (map->size == 8 || map->bytes[8] == '{')) return SAFETENSORS;
    return map->bytes[0] == '{' ? JSON : OTHER;
}

static mka_status open_content(mka_file *file, const char *path, mka_error *error) {
    const struct mka_map *map = &file->maps[0];
    switch (look(map)) {
    case GGUF:
        return mka_gguf_open(file, path, error);
    case SAFETENSORS:
        return mka_safetensors_open(file, error);
    case JSON:
        if (!path) return mka_fail(error, MKA_UNSUPPORTED, "%s: an index of shards needs files beside it", map->name);
        mka_file_clear(file);
        return mka_safetensors_open_index(file, path, error);
    case LFS_POINTER:
        return mka_fail(error, MKA_BAD_FILE, "%s: a Git LFS pointer, not the file itself (run `git lfs pull` where it is from)",
                        map->name);
    case OTHER:
        break;
    }
    return mka_fail(error, MKA_BAD_FILE, "%s: neither a GGUF nor a safetensors file", map->name);
}

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length > tail && strcmp(text + length - tail, end) == 0;
}

/* The one *.safetensors file of a folder; count gets how many there are. */
static const char *only_safetensors(mka_file *file, const char *folder, int *count) {
    const char *found = NULL;
    *count = 0;
    DIR *directory = opendir(folder);
    if (!directory) return NULL;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.' || !ends_with(entry->d_name, ".safetensors")) continue;
        if ((*count)++ == 0) found = mka_file_copy(file, entry->d_name, strlen(entry->d_name));
    }
    closedir(directory);
    return found;
}

/* Which file of a folder to open: the index first, since shards without it are not known to be all. */
static mka_status choose_in_folder(mka_file *file, const char *folder, const char **path, mka_error *error) {
    static const char *const usual[] = {"model.safetensors.index.json", "model.safetensors"};
    struct stat about;
    int count;
    size_t length = strlen(folder);
    char *inside = mka_file_alloc(file, length + 2, 1); /* "folder/", whose neighbours are its content */
    if (!inside) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", folder);
    memcpy(inside, folder, length);
    if (inside[length - 1] != '/') inside[length] = '/';
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        *path = mka_file_beside(file, inside, usual[i]);
        if (*path && stat(*path, &about) == 0) return MKA_OK;
    }
    const char *only = only_safetensors(file, folder, &count);
    if (count == 0) return mka_fail(error, MKA_IO, "%s: the folder has no .safetensors file that can be read", folder);
    if (count > 1) {
        return mka_fail(error, MKA_BAD_FILE, "%s: the folder has %d .safetensors files but no %s that says which belong together",
                        folder, count, usual[0]);
    }
    *path = only ? mka_file_beside(file, inside, only) : NULL;
    return *path ? MKA_OK : mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", folder);
}

static mka_status open_path(mka_file *file, const char *path, mka_error *error) {
    struct mka_map map;
    struct stat about;
    mka_status status = MKA_OK;
    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode)) status = choose_in_folder(file, path, &path, error);
    if (status == MKA_OK) status = mka_file_map(file, path, &map, error);
    if (status == MKA_OK) status = open_content(file, path, error);
    if (status == MKA_OK) status = finish(file, path, error);
    return status;
}

mka_status mka_file_open(const char *path, mka_file **out, mka_error *error) {
    *out = NULL;
    if (!path || !*path) return mka_fail(error, MKA_BAD_ARGUMENT, "no file was named");
    mka_file *file = calloc(1, sizeof *file);
    if (!file) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", path);
    mka_status status = open_path(file, path, error);
    if (status != MKA_OK) {
        mka_file_close(file);
        return status;
    }
    *out = file;
    return mka_succeed(error);
}

mka_status mka_file_open_memory(const void *bytes, size_t size, const char *name, mka_file **out, mka_error *error) {
    *out = NULL;
    if (size == 0) return mka_fail(error, MKA_BAD_FILE, "%s: the file is empty", name);
    mka_file *file = calloc(1, sizeof *file);
    if (!file) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", name);
    mka_status status = MKA_NO_MEMORY;
    struct mka_map map = {.name = mka_file_copy(file, name, strlen(name)), .bytes = bytes, .size = size};
    status = map.name ? add_map(file, &map, error) : mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", name);
    if (status == MKA_OK) status = open_content(file, NULL, error);
    if (status == MKA_OK) status = finish(file, name, error);
    if (status != MKA_OK) {
        mka_file_close(file);
        return status;
    }
    *out = file;
    return mka_succeed(error);
}

const char *mka_file_format(const mka_file *file) {
    return file->format;
}

int mka_file_tensor_count(const mka_file *file) {
    return file->tensor_count;
}

const mka_tensor *mka_file_tensor(const mka_file *file, int index) {
    return index >= 0 && index < file->tensor_count ? &file->tensors[index] : NULL;
}

const mka_tensor *mka_file_find(const mka_file *file, const char *name) {
    return mka_file_tensor(file, mka_names_find(file->tensor_names, file->tensor_count, name));
}
