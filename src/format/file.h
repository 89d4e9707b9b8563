/* file - what the readers of both formats share: mapped bytes, tensors, metadata, and the finding of either by name.
 *
 *   mka_file_open -> [ map ] -> looks at the first bytes -> gguf | safetensors -> add tensors, metadata -> finish (index)
 *
 * Nothing outside this folder includes this header except the fuzzer, which opens files from memory.
 */
#ifndef MKA_FORMAT_FILE_H
#define MKA_FORMAT_FILE_H

#include <mka/file.h>

/* The bytes of one file. */
struct mka_map {
    const char *name; /* as messages show it; belongs to the file */
    const unsigned char *bytes;
    size_t size;
    int owned; /* 1: to be unmapped */
};

/* A metadata entry; the public part comes first, so that a pointer to it is a pointer to the whole. */
struct mka_entry {
    mka_meta meta;
    int width;                  /* bytes of one item; 0: strings, each a 64-bit length and its bytes */
    const unsigned char *items; /* little endian, not aligned */
    const uint64_t *marks;      /* where every MKA_MARK-th string begins, from items; NULL when one mark would do */
};
#define MKA_MARK 16

/* Names in strcmp order, so that a lookup is a binary search and a duplicate is next to its twin. A hash table would be
 * faster and would need a secret against files that are made to collide. */
struct mka_name {
    const char *name;
    int index;
};

struct mka_chunk; /* of small allocations, all freed at once */

struct mka_file {
    const char *format;
    struct mka_map *maps; /* [map_count] */
    int map_count;
    mka_tensor *tensors; /* [tensor_count], room for tensor_room */
    int tensor_count, tensor_room;
    struct mka_entry *entries; /* [entry_count] */
    int entry_count;
    struct mka_name *tensor_names, *entry_names; /* sorted */
    struct mka_chunk *chunks;
};

/* Memory that lives as long as the file, zeroed, aligned to 16. NULL when there is none. */
void *mka_file_alloc(mka_file *file, size_t count, size_t size);
/* A copy that ends in NUL. */
const char *mka_file_copy(mka_file *file, const char *bytes, size_t length);

/* Maps path and appends it to the file's maps; *map is valid until the next one is added. A directory, pipe or empty file is
 * an error. */
mka_status mka_file_map(mka_file *file, const char *path, struct mka_map *map, mka_error *error);
/* Unmaps everything and forgets tensors and metadata. */
void mka_file_clear(mka_file *file);

/* Room for count more tensors after those there are. */
mka_status mka_file_room(mka_file *file, const char *name, size_t count, mka_error *error);

/* Sorts names[count]; MKA_BAD_FILE when two are equal. what is "tensor" or "metadata key". */
mka_status mka_names_sort(struct mka_name *names, int count, const char *what, const char *file_name, mka_error *error);
/* Index of a name in sorted names, or -1. */
int mka_names_find(const struct mka_name *names, int count, const char *name);

/* 1 when bytes are valid UTF-8 without control characters, not empty and at most 65,535: what keys and names must be. */
int mka_name_ok(const char *bytes, size_t length);

/* "folder/name" for the folder that holds path, or NULL when there is no memory; belongs to the file. */
const char *mka_file_beside(mka_file *file, const char *path, const char *name);

/* maps[0] was mapped from path (NULL: memory) and starts with "GGUF". */
mka_status mka_gguf_open(mka_file *file, const char *path, mka_error *error);
/* maps[0] starts like a safetensors file. */
mka_status mka_safetensors_open(mka_file *file, mka_error *error);
/* path is an index of shards, not mapped. */
mka_status mka_safetensors_open_index(mka_file *file, const char *path, mka_error *error);

/* mka_file_open on size bytes that the caller keeps until the file is closed. Split and sharded files cannot be opened so. */
mka_status mka_file_open_memory(const void *bytes, size_t size, const char *name, mka_file **file, mka_error *error);

#endif
