/* mka/file.h - named tensors and their metadata in GGUF (v2, v3, also split) and safetensors (also sharded) files.
 *
 * The files are mapped, not read: opening is quick and a tensor's bytes are fetched when they are touched. Every count,
 * offset, length, type and string was checked against the file's size by the time mka_file_open returns.
 */
#ifndef MKA_FILE_H
#define MKA_FILE_H

#include <mka/mka.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mka_file mka_file;

/* One tensor. shape[0] is the outermost (slowest) dimension, as in safetensors; a weight is [out, in].
 * data is row-major, of bytes bytes, and lives as long as the file. Not aligned beyond what the file says.
 * A size is at least 1 in GGUF; in safetensors it may be 0, and the tensor is then empty. A name is valid UTF-8. */
typedef struct mka_tensor {
    const char *name;
    mka_type type;
    int rank; /* 0..4 */
    int64_t shape[4];
    const void *data;
    size_t bytes;
} mka_tensor;

/* Opens a .gguf file (any part of a split one: the others are found beside it), a .safetensors file, a
 * model.safetensors.index.json, or a folder holding either of the last two.
 * MKA_IO: cannot be opened or mapped. MKA_BAD_FILE: truncated, damaged or of another format; the message names the field.
 * MKA_UNSUPPORTED: a GGUF version or tensor type this version does not know. */
MKA_API mka_status mka_file_open(const char *path, mka_file **file, mka_error *error);
MKA_API void mka_file_close(mka_file *file);

/* "gguf" or "safetensors". */
MKA_API const char *mka_file_format(const mka_file *file);

MKA_API int mka_file_tensor_count(const mka_file *file);
/* index 0..count-1, in the file's order; NULL outside. Valid until the file is closed. */
MKA_API const mka_tensor *mka_file_tensor(const mka_file *file, int index);
/* NULL when there is no tensor of that name. */
MKA_API const mka_tensor *mka_file_find(const mka_file *file, const char *name);

/* Metadata: GGUF key/value pairs, or the strings of a safetensors file's __metadata__. The kinds an entry can have: */
typedef enum mka_meta_kind {
    MKA_META_UINT,
    MKA_META_INT,
    MKA_META_FLOAT,
    MKA_META_BOOL,
    MKA_META_STRING,
    MKA_META_ARRAY
} mka_meta_kind;

typedef struct mka_meta {
    const char *key;    /* ends in NUL */
    mka_meta_kind kind; /* of this entry */
    mka_meta_kind item; /* of an array's items (never MKA_META_ARRAY) */
    uint64_t count;     /* items of an array; 1 otherwise */
} mka_meta;

MKA_API int mka_file_meta_count(const mka_file *file);
MKA_API const mka_meta *mka_file_meta(const mka_file *file, int index);
MKA_API const mka_meta *mka_file_meta_find(const mka_file *file, const char *key);

/* Item index (0 for a scalar) of an entry. Each returns 0 and leaves the outputs alone when the index is outside or the
 * kind does not fit: _int takes UINT, INT and BOOL that fit int64, _float takes any number, _string only strings.
 * A string is bytes, not ended by NUL, valid until the file is closed; it may hold any byte. */
MKA_API int mka_meta_int(const mka_file *file, const mka_meta *meta, uint64_t index, int64_t *value);
MKA_API int mka_meta_float(const mka_file *file, const mka_meta *meta, uint64_t index, double *value);
MKA_API int mka_meta_string(const mka_file *file, const mka_meta *meta, uint64_t index, const char **bytes, size_t *length);

#ifdef __cplusplus
}
#endif
#endif
