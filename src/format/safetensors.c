/* safetensors - the reader of safetensors files, single or as shards under an index.
 *
 *   header length (64 bits) | JSON: name -> dtype, shape, data_offsets; __metadata__ -> strings | tensor data
 *
 * As the format demands, the tensors tile the data: no holes, no overlap, nothing after the last one. So a truncated file can
 * never pass, and neither can one that hides something.
 */
#include "base/json.h"
#include "base/status.h"
#include "format/file.h"
#include "quant.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER 100000000u /* the format's own limit */

/* Where a tensor's bytes lie within the data. */
struct span {
    uint64_t begin, end;
    const char *name;
};

struct reader {
    mka_file *file;
    const char *name;
    const unsigned char *data;
    uint64_t data_size;
    mka_error *error;
};

static const struct {
    const char *name;
    mka_type type;
} dtypes[] = {{"F32", MKA_F32}, {"F16", MKA_F16}, {"BF16", MKA_BF16}, {"F64", MKA_F64},
              {"I64", MKA_I64}, {"I32", MKA_I32}, {"I16", MKA_I16},   {"I8", MKA_I8}};

static mka_status read_dtype(const struct reader *r, const mka_json *value, mka_tensor *tensor) {
    const char *name = mka_json_string(value);
    if (!name) return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has no dtype", r->name, tensor->name);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            tensor->type = dtypes[i].type;
            return MKA_OK;
        }
    }
    return mka_fail(r->error, MKA_UNSUPPORTED, "%s: tensor %s has dtype %s, which this version does not read", r->name,
                    tensor->name, name);
}

/* A size may be 0: the tensor is then empty. */
static mka_status read_shape(const struct reader *r, const mka_json *value, mka_tensor *tensor) {
    size_t rank = mka_json_length(value), bytes = (size_t)mka_type_get(tensor->type)->bytes;
    int fits = 1, empty = 0;
    if (mka_json_type(value) != MKA_JSON_ARRAY)
        return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has no shape", r->name, tensor->name);
    if (rank > 4) {
        return mka_fail(r->error, MKA_UNSUPPORTED, "%s: tensor %s has %zu dimensions; at most 4 are read", r->name, tensor->name,
                        rank);
    }
    for (size_t i = 0; i < rank; i++) {
        const mka_json *size = mka_json_at(value, i);
        if (mka_json_type(size) != MKA_JSON_INT || mka_json_int(size, NULL, 0, 0, INT64_MAX, &tensor->shape[i], NULL) != MKA_OK)
            return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has a shape that is not of whole numbers", r->name,
                            tensor->name);
        empty |= tensor->shape[i] == 0;
        fits = fits && mka_size_mul(bytes, (size_t)tensor->shape[i], &bytes);
    }
    if (!fits && !empty)
        return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has a shape beyond all memory", r->name, tensor->name);
    tensor->rank = (int)rank;
    tensor->bytes = empty ? 0 : bytes;
    return MKA_OK;
}

static mka_status read_offsets(const struct reader *r, const mka_json *value, mka_tensor *tensor, struct span *span) {
    char end_text[MKA_SIZE_TEXT], size_text[MKA_SIZE_TEXT];
    int64_t offset[2];
    for (size_t i = 0; i < 2; i++) {
        const mka_json *item = mka_json_at(value, i);
        if (mka_json_length(value) != 2 || mka_json_type(item) != MKA_JSON_INT ||
            mka_json_int(item, NULL, 0, 0, INT64_MAX, &offset[i], NULL) != MKA_OK)
            return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has no data_offsets of two numbers", r->name, tensor->name);
    }
    *span = (struct span){(uint64_t)offset[0], (uint64_t)offset[1], tensor->name};
    if (span->end < span->begin || span->end - span->begin != tensor->bytes) {
        return mka_fail(r->error, MKA_BAD_FILE,
                        "%s: tensor %s has data_offsets [%lld, %lld], but its shape and dtype need %zu bytes", r->name,
                        tensor->name, (long long)offset[0], (long long)offset[1], tensor->bytes);
    }
    if (span->end > r->data_size) {
        return mka_fail(r->error, MKA_BAD_FILE,
                        "%s: tensor %s ends at byte %s of the data but the file has %s (truncated download?)", r->name,
                        tensor->name, mka_count_text(span->end, end_text, sizeof end_text),
                        mka_count_text(r->data_size, size_text, sizeof size_text));
    }
    tensor->data = r->data + span->begin;
    return MKA_OK;
}

static mka_status read_tensor(const struct reader *r, const char *key, const mka_json *value, mka_tensor *tensor,
                              struct span *span) {
    *tensor = (mka_tensor){0};
    if (!mka_name_ok(key, strlen(key)))
        return mka_fail(r->error, MKA_BAD_FILE, "%s: a tensor's name is empty, too long or has control characters", r->name);
    tensor->name = mka_file_copy(r->file, key, strlen(key));
    if (!tensor->name) return mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its names", r->name);
    mka_status status = read_dtype(r, mka_json_get(value, "dtype"), tensor);
    if (status == MKA_OK) status = read_shape(r, mka_json_get(value, "shape"), tensor);
    if (status == MKA_OK) status = read_offsets(r, mka_json_get(value, "data_offsets"), tensor, span);
    return status;
}

static int compare_spans(const void *left, const void *right) {
    const struct span *a = left, *b = right;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

static mka_status check_tiling(const struct reader *r, struct span *spans, size_t count) {
    char a[MKA_SIZE_TEXT], b[MKA_SIZE_TEXT];
    uint64_t end = 0;
    qsort(spans, count, sizeof *spans, compare_spans);
    for (size_t i = 0; i < count; i++) {
        if (spans[i].begin != end) {
            return mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s begins at byte %s of the data, the one before it ends at %s",
                            r->name, spans[i].name, mka_count_text(spans[i].begin, a, sizeof a),
                            mka_count_text(end, b, sizeof b));
        }
        end = spans[i].end;
    }
    if (end != r->data_size) {
        return mka_fail(r->error, MKA_BAD_FILE, "%s: the tensors end at byte %s of the data but the file has %s", r->name,
                        mka_count_text(end, a, sizeof a), mka_count_text(r->data_size, b, sizeof b));
    }
    return MKA_OK;
}

/* One string, stored as the accessors expect it: a 64-bit length and the bytes. */
static mka_status read_entry(const struct reader *r, const char *key, const mka_json *value, struct mka_entry *entry) {
    const char *text = mka_json_string(value);
    if (!text || !mka_name_ok(key, strlen(key)))
        return mka_fail(r->error, MKA_BAD_FILE, "%s: __metadata__ must be names and strings", r->name);
    size_t length = mka_json_length(value);
    unsigned char *items = mka_file_alloc(r->file, length + 8, 1);
    const char *copy = mka_file_copy(r->file, key, strlen(key));
    if (!items || !copy) return mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its metadata", r->name);
    for (int i = 0; i < 8; i++) items[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(items + 8, text, length);
    *entry = (struct mka_entry){.meta = {copy, MKA_META_STRING, MKA_META_STRING, 1}, .items = items};
    return MKA_OK;
}

static mka_status read_metadata(const struct reader *r, const mka_json *object) {
    void *cursor = NULL;
    const char *key;
    const mka_json *value;
    if (mka_json_type(object) != MKA_JSON_OBJECT)
        return mka_fail(r->error, MKA_BAD_FILE, "%s: __metadata__ is not an object", r->name);
    if (r->file->entries) return MKA_OK; /* a shard: each repeats what the first says */
    r->file->entries = mka_file_alloc(r->file, mka_json_length(object) + 1, sizeof *r->file->entries);
    if (!r->file->entries) return mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its metadata", r->name);
    while (mka_json_next(object, &cursor, &key, &value)) {
        mka_status status = read_entry(r, key, value, &r->file->entries[r->file->entry_count]);
        if (status != MKA_OK) return status;
        r->file->entry_count++;
    }
    return MKA_OK;
}

static mka_status read_header(const struct reader *r, const mka_json *header) {
    void *cursor = NULL;
    const char *key;
    const mka_json *value;
    size_t count = 0;
    if (mka_json_type(header) != MKA_JSON_OBJECT)
        return mka_fail(r->error, MKA_BAD_FILE, "%s: the header is not a JSON object", r->name);
    mka_status status = mka_file_room(r->file, r->name, mka_json_length(header), r->error);
    struct span *spans = calloc(mka_json_length(header) + 1, sizeof *spans);
    if (!spans && status == MKA_OK) status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its tensors", r->name);
    mka_tensor *tensors = r->file->tensors + r->file->tensor_count;
    while (status == MKA_OK && mka_json_next(header, &cursor, &key, &value)) {
        if (strcmp(key, "__metadata__") == 0) {
            status = read_metadata(r, value);
        } else {
            status = read_tensor(r, key, value, &tensors[count], &spans[count]);
            count++;
        }
    }
    if (status == MKA_OK) status = check_tiling(r, spans, count);
    if (status == MKA_OK) r->file->tensor_count += (int)count;
    free(spans);
    return status;
}

/* Adds the tensors of one mapped file. */
static mka_status read_map(mka_file *file, const struct mka_map *map, mka_error *error) {
    char length_text[MKA_SIZE_TEXT], size_text[MKA_SIZE_TEXT];
    mka_json *header = NULL;
    uint64_t length = 0;
    if (map->size < 8) return mka_fail(error, MKA_BAD_FILE, "%s: too short for a safetensors file", map->name);
    for (int i = 0; i < 8; i++) length |= (uint64_t)map->bytes[i] << 8 * i;
    if (length > MAX_HEADER || length < 2 || length > map->size - 8) {
        return mka_fail(error, MKA_BAD_FILE, "%s: a header of %s bytes does not fit in a file of %s (truncated download?)",
                        map->name, mka_count_text(length, length_text, sizeof length_text),
                        mka_count_text(map->size, size_text, sizeof size_text));
    }
    const struct reader r = {file, map->name, map->bytes + 8 + length, map->size - 8 - length, error};
    mka_status status = mka_json_parse((const char *)map->bytes + 8, (size_t)length, map->name, &header, error);
    if (status == MKA_OK) status = read_header(&r, header);
    mka_json_free(header);
    return status;
}

mka_status mka_safetensors_open(mka_file *file, mka_error *error) {
    file->format = "safetensors";
    return read_map(file, &file->maps[0], error);
}

/* ---- shards ---- */

/* Entry of the index: a tensor and the file that must hold it. Sorted by shard. */
struct assignment {
    const char *shard, *tensor;
};

static int compare_assignments(const void *left, const void *right) {
    const struct assignment *a = left, *b = right;
    return strcmp(a->shard, b->shard);
}

/* The index must not lead out of its folder. */
static int plain_name(const mka_json *value) {
    const char *name = mka_json_string(value);
    return name && *name && strlen(name) == mka_json_length(value) && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static mka_status read_weight_map(const mka_json *map, const char *path, struct assignment *assignments, mka_error *error) {
    void *cursor = NULL;
    const char *key;
    const mka_json *value;
    for (size_t i = 0; mka_json_next(map, &cursor, &key, &value); i++) {
        if (!plain_name(value))
            return mka_fail(error, MKA_BAD_FILE, "%s: weight_map.%s must be the plain name of a file beside it", path, key);
        assignments[i] = (struct assignment){mka_json_string(value), key};
    }
    qsort(assignments, mka_json_length(map), sizeof *assignments, compare_assignments);
    return MKA_OK;
}

/* Every tensor that the index puts into this shard must be among the shard's, which are the file's from first on. */
static mka_status check_shard(const mka_file *file, int first, const char *path, const struct assignment *assignments,
                              size_t count, mka_error *error) {
    int held = file->tensor_count - first;
    struct mka_name *names = calloc((size_t)held + 1, sizeof *names);
    if (!names) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its names", path);
    for (int i = 0; i < held; i++) names[i] = (struct mka_name){file->tensors[first + i].name, i};
    mka_status status = mka_names_sort(names, held, "tensor", path, error);
    for (size_t i = 0; i < count && status == MKA_OK; i++) {
        if (mka_names_find(names, held, assignments[i].tensor) < 0)
            status =
                mka_fail(error, MKA_BAD_FILE, "%s: tensor %s is not in it, but the index says so", path, assignments[i].tensor);
    }
    free(names);
    return status;
}

static mka_status open_shard(mka_file *file, const char *index_path, const struct assignment *assignments, size_t count,
                             mka_error *error) {
    struct mka_map map;
    int first = file->tensor_count;
    const char *path = mka_file_beside(file, index_path, assignments[0].shard);
    if (!path) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", index_path);
    mka_status status = mka_file_map(file, path, &map, error);
    if (status == MKA_IO) return mka_fail_prefix(error, status, "shard of %s", index_path);
    if (status == MKA_OK) status = read_map(file, &map, error);
    if (status == MKA_OK) status = check_shard(file, first, path, assignments, count, error);
    return status;
}

mka_status mka_safetensors_open_index(mka_file *file, const char *path, mka_error *error) {
    mka_json *index = NULL;
    struct assignment *assignments = NULL;
    file->format = "safetensors";
    mka_status status = mka_json_read(path, &index, error);
    if (status != MKA_OK) return status;
    const mka_json *map = mka_json_get(index, "weight_map");
    size_t count = mka_json_length(map);
    if (mka_json_type(map) != MKA_JSON_OBJECT || count == 0) {
        status = mka_fail(error, MKA_BAD_FILE, "%s: not an index of safetensors shards: it has no weight_map", path);
        goto done;
    }
    assignments = calloc(count, sizeof *assignments);
    if (!assignments) {
        status = mka_fail(error, MKA_NO_MEMORY, "%s: no memory for its weight_map", path);
        goto done;
    }
    status = read_weight_map(map, path, assignments, error);
    for (size_t begin = 0, end; begin < count && status == MKA_OK; begin = end) {
        for (end = begin + 1; end < count && strcmp(assignments[begin].shard, assignments[end].shard) == 0;) end++;
        status = open_shard(file, path, assignments + begin, end - begin, error);
    }
done:
    free(assignments);
    mka_json_free(index);
    return status;
}
