/* gguf - the reader of GGUF files, versions 2 and 3, in one or several parts.
 *
 *   "GGUF" version tensors entries | key type value ... | name rank sizes type offset ... | padding | tensor data
 *
 * The file is hostile: every count is compared with the bytes that are left before anything is allocated for it, every length
 * before it is added. Failures name the field and, once it is known, the key or tensor.
 */
#include "base/status.h"
#include "format/file.h"
#include "quant.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Types of metadata values, as written in the file. */
enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64, KIND_LIMIT };

static const struct {
    mka_meta_kind kind;
    int width; /* bytes; 0: a string */
} kinds[KIND_LIMIT] = {
    [U8] = {MKA_META_UINT, 1},       [I8] = {MKA_META_INT, 1},      [U16] = {MKA_META_UINT, 2},  [I16] = {MKA_META_INT, 2},
    [U32] = {MKA_META_UINT, 4},      [I32] = {MKA_META_INT, 4},     [F32] = {MKA_META_FLOAT, 4}, [BOOL] = {MKA_META_BOOL, 1},
    [STRING] = {MKA_META_STRING, 0}, [ARRAY] = {MKA_META_ARRAY, 0}, [U64] = {MKA_META_UINT, 8},  [I64] = {MKA_META_INT, 8},
    [F64] = {MKA_META_FLOAT, 8},
};

#define MIN_ENTRY  13u /* bytes: an empty key's length, a type, a value of one byte */
#define MIN_TENSOR 24u /* an empty name's length, rank, type, offset */

/* Where in one part the reading stands. The first failure stays in status and makes every later read return 0. */
struct reader {
    mka_file *file;
    const unsigned char *bytes;
    size_t size, at;
    const char *name;  /* of the file */
    const char *where; /* key or tensor being read; NULL before its name is known */
    mka_error *error;
    mka_status status;
};

/* What one part says beside its tensors. */
struct part {
    struct mka_entry *entries;
    int entry_count;
    uint64_t alignment;
    int64_t split_no, split_count, split_tensors; /* -1: not said */
};

static size_t left(const struct reader *r) {
    return r->size - r->at;
}

static int truncated(struct reader *r, const char *field) {
    char at[MKA_SIZE_TEXT];
    r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: the file ends at byte %s, within the %s%s%s (truncated download?)", r->name,
                         mka_count_text(r->size, at, sizeof at), field, r->where ? " of " : "", r->where ? r->where : "");
    return 0;
}

static uint64_t take(struct reader *r, unsigned width, const char *field) {
    uint64_t value = 0;
    if (r->status != MKA_OK || (left(r) < width && !truncated(r, field))) return 0;
    for (unsigned i = 0; i < width; i++) value |= (uint64_t)r->bytes[r->at + i] << 8 * i;
    r->at += width;
    return value;
}

/* Moves over bytes that must be there. */
static int skip(struct reader *r, uint64_t bytes, const char *field) {
    if (r->status != MKA_OK || (bytes > left(r) && !truncated(r, field))) return 0;
    r->at += (size_t)bytes;
    return 1;
}

/* A key or a tensor's name, copied; NULL on failure. */
static const char *take_name(struct reader *r, const char *field, uint64_t number) {
    r->where = NULL;
    uint64_t length = take(r, 8, field);
    const char *bytes = (const char *)r->bytes + r->at;
    if (!skip(r, length, field)) return NULL;
    if (!mka_name_ok(bytes, (size_t)length)) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s %llu is empty, too long or not valid UTF-8", r->name, field,
                             (unsigned long long)number);
        return NULL;
    }
    const char *name = mka_file_copy(r->file, bytes, (size_t)length);
    if (!name) r->status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its names", r->name);
    return name;
}

/* ---- metadata ---- */

/* Walks count strings and remembers where every MKA_MARK-th begins. */
static void read_strings(struct reader *r, struct mka_entry *entry) {
    uint64_t *marks = NULL;
    size_t begin = r->at;
    if (entry->meta.count > MKA_MARK) {
        marks = mka_file_alloc(r->file, (size_t)((entry->meta.count - 1) / MKA_MARK + 1), sizeof *marks);
        if (!marks) r->status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for %s", r->name, r->where);
    }
    for (uint64_t i = 0; i < entry->meta.count && r->status == MKA_OK; i++) {
        if (marks && i % MKA_MARK == 0) marks[i / MKA_MARK] = r->at - begin;
        skip(r, take(r, 8, "length of a string"), "bytes of a string");
    }
    entry->marks = marks;
}

static void read_numbers(struct reader *r, const struct mka_entry *entry, int type) {
    skip(r, entry->meta.count * (uint64_t)entry->width, "value");
    for (uint64_t i = 0; type == BOOL && i < entry->meta.count && r->status == MKA_OK; i++) {
        if (entry->items[i] > 1)
            r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s is neither true nor false", r->name, r->where);
    }
}

/* The head of an array: type and count of its items. Leaves the type, or KIND_LIMIT on failure. */
static uint64_t read_array_head(struct reader *r, struct mka_entry *entry) {
    char count[MKA_SIZE_TEXT];
    uint64_t type = take(r, 4, "item type");
    entry->meta.count = take(r, 8, "item count");
    if (r->status != MKA_OK) return KIND_LIMIT;
    if (type == ARRAY) {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: %s is an array of arrays", r->name, r->where);
    } else if (type >= KIND_LIMIT) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s is an array of the unknown type %llu", r->name, r->where,
                             (unsigned long long)type);
    } else if (entry->meta.count > left(r) / (kinds[type].width ? (unsigned)kinds[type].width : 8u)) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s has %s items, more than the rest of the file holds", r->name,
                             r->where, mka_count_text(entry->meta.count, count, sizeof count));
    }
    entry->meta.item = r->status == MKA_OK ? kinds[type].kind : MKA_META_UINT;
    return r->status == MKA_OK ? type : KIND_LIMIT;
}

static void read_entry(struct reader *r, struct mka_entry *entry, uint64_t number) {
    entry->meta.key = r->where = take_name(r, "metadata key", number);
    uint64_t type = take(r, 4, "type");
    if (r->status != MKA_OK) return;
    if (type >= KIND_LIMIT) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: metadata %s has the unknown type %llu", r->name, r->where,
                             (unsigned long long)type);
        return;
    }
    entry->meta.kind = entry->meta.item = kinds[type].kind;
    entry->meta.count = 1;
    if (type == ARRAY) type = read_array_head(r, entry);
    if (r->status != MKA_OK) return;
    entry->width = kinds[type].width;
    entry->items = r->bytes + r->at;
    if (type == STRING) {
        read_strings(r, entry);
    } else {
        read_numbers(r, entry, (int)type);
    }
}

/* A whole number that a part says about itself; fallback when it does not. */
static int64_t own_number(struct reader *r, const struct part *part, const struct mka_name *names, const char *key,
                          int64_t fallback) {
    int64_t value;
    int index = mka_names_find(names, part->entry_count, key);
    if (index < 0) return fallback;
    if (part->entries[index].meta.kind == MKA_META_ARRAY || !mka_meta_int(r->file, &part->entries[index].meta, 0, &value)) {
        if (r->status == MKA_OK) r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s is not a whole number", r->name, key);
        return fallback;
    }
    return value;
}

static void read_entries(struct reader *r, uint64_t count, struct part *part) {
    char text[MKA_SIZE_TEXT];
    if (r->status != MKA_OK) return;
    if (count > left(r) / MIN_ENTRY || count > INT_MAX) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s metadata entries are more than the file holds", r->name,
                             mka_count_text(count, text, sizeof text));
        return;
    }
    part->entries = mka_file_alloc(r->file, (size_t)count, sizeof *part->entries);
    struct mka_name *names = calloc((size_t)count + 1, sizeof *names);
    if (!part->entries || !names) {
        r->status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its metadata", r->name);
        goto done;
    }
    for (; (uint64_t)part->entry_count < count && r->status == MKA_OK; part->entry_count++) {
        read_entry(r, &part->entries[part->entry_count], (uint64_t)part->entry_count);
        names[part->entry_count] = (struct mka_name){part->entries[part->entry_count].meta.key, part->entry_count};
    }
    if (r->status == MKA_OK) r->status = mka_names_sort(names, part->entry_count, "metadata key", r->name, r->error);
    if (r->status != MKA_OK) goto done;
    int64_t alignment = own_number(r, part, names, "general.alignment", 32);
    part->split_no = own_number(r, part, names, "split.no", -1);
    part->split_count = own_number(r, part, names, "split.count", -1);
    part->split_tensors = own_number(r, part, names, "split.tensors.count", -1);
    if (r->status == MKA_OK && (alignment < 1 || alignment > UINT32_MAX || (alignment & (alignment - 1)) != 0)) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: general.alignment is %lld; expected a power of two", r->name,
                             (long long)alignment);
    }
    part->alignment = (uint64_t)alignment;
done:
    free(names);
}

/* ---- tensors ---- */

/* Types that other programs write and this version does not read; names for messages. */
static const char *foreign_type(uint64_t type) {
    static const struct {
        unsigned char id;
        const char *name;
    } foreign[] = {{4, "q4_2"},    {5, "q4_3"},     {9, "q8_1"},   {15, "q8_k"},  {16, "iq2_xxs"},
                   {17, "iq2_xs"}, {18, "iq3_xxs"}, {19, "iq1_s"}, {21, "iq3_s"}, {22, "iq2_s"},
                   {29, "iq1_m"},  {34, "tq1_0"},   {35, "tq2_0"}, {39, "mxfp4"}, {40, "nvfp4"}};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (foreign[i].id == type) return foreign[i].name;
    }
    return "unknown";
}

/* Bytes of a tensor whose type, rank and shape are set. */
static void measure(struct reader *r, mka_tensor *tensor) {
    const mka_type_info *type = mka_type_get(tensor->type);
    int64_t row = tensor->rank ? tensor->shape[tensor->rank - 1] : 1;
    tensor->bytes = mka_type_row_bytes(tensor->type, row);
    if (row % type->block != 0) {
        r->status =
            mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has rows of %lld elements, not whole blocks of %d as %s needs",
                     r->name, tensor->name, (long long)row, type->block, type->name);
        return;
    }
    int fits = tensor->bytes > 0;
    for (int i = 0; i < tensor->rank - 1; i++)
        fits = fits && mka_size_mul(tensor->bytes, (size_t)tensor->shape[i], &tensor->bytes);
    if (!fits) r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has a shape beyond all memory", r->name, tensor->name);
}

static void read_shape(struct reader *r, mka_tensor *tensor) {
    uint64_t rank = take(r, 4, "rank");
    if (r->status == MKA_OK && rank > 4) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has %llu dimensions; at most 4 are allowed", r->name,
                             r->where, (unsigned long long)rank);
    }
    tensor->rank = r->status == MKA_OK ? (int)rank : 0;
    for (int i = tensor->rank - 1; i >= 0; i--) { /* the file has the innermost first */
        uint64_t size = take(r, 8, "shape");
        if (r->status == MKA_OK && (size == 0 || size > INT64_MAX)) {
            r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has a dimension of %llu", r->name, r->where,
                                 (unsigned long long)size);
        }
        tensor->shape[i] = (int64_t)size;
    }
}

static void read_tensor(struct reader *r, mka_tensor *tensor, uint64_t *offset, uint64_t number) {
    *tensor = (mka_tensor){0};
    tensor->name = r->where = take_name(r, "tensor name", number);
    read_shape(r, tensor);
    uint64_t type = take(r, 4, "type");
    *offset = take(r, 8, "offset");
    if (r->status != MKA_OK) return;
    tensor->type = type < MKA_TYPE_LIMIT ? (mka_type)type : MKA_TYPE_LIMIT;
    if (mka_type_get(tensor->type)->bytes == 0) {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: tensor %s has type %llu (%s), which this version does not read",
                             r->name, r->where, (unsigned long long)type, foreign_type(type));
        return;
    }
    measure(r, tensor);
}

/* Points a tensor at its bytes, data being where the part's tensor data starts. */
static void place(struct reader *r, mka_tensor *tensor, uint64_t data, uint64_t offset, uint64_t alignment) {
    char end_text[MKA_SIZE_TEXT], size_text[MKA_SIZE_TEXT];
    uint64_t begin, end;
    if (offset % alignment != 0) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s is at offset %llu, which is not a multiple of %llu", r->name,
                             tensor->name, (unsigned long long)offset, (unsigned long long)alignment);
    } else if (__builtin_add_overflow(data, offset, &begin) || __builtin_add_overflow(begin, (uint64_t)tensor->bytes, &end)) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s has an offset beyond all memory", r->name, tensor->name);
    } else if (end > r->size) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: tensor %s ends at byte %s but the file has %s (truncated download?)",
                             r->name, tensor->name, mka_count_text(end, end_text, sizeof end_text),
                             mka_count_text(r->size, size_text, sizeof size_text));
    } else {
        tensor->data = r->bytes + begin;
    }
}

static void read_tensors(struct reader *r, uint64_t count, uint64_t alignment) {
    char text[MKA_SIZE_TEXT];
    if (r->status != MKA_OK) return;
    if (count > left(r) / MIN_TENSOR) {
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: %s tensors are more than the file holds", r->name,
                             mka_count_text(count, text, sizeof text));
        return;
    }
    r->status = mka_file_room(r->file, r->name, (size_t)count, r->error);
    uint64_t *offsets = calloc((size_t)count + 1, sizeof *offsets);
    if (!offsets && r->status == MKA_OK) r->status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for its tensors", r->name);
    mka_tensor *tensors = r->file->tensors + r->file->tensor_count;
    for (uint64_t i = 0; i < count && r->status == MKA_OK; i++) read_tensor(r, &tensors[i], &offsets[i], i);
    uint64_t data = (r->at + alignment - 1) / alignment * alignment;
    for (uint64_t i = 0; i < count && r->status == MKA_OK; i++) place(r, &tensors[i], data, offsets[i], alignment);
    if (r->status == MKA_OK) r->file->tensor_count += (int)count;
    free(offsets);
}

/* ---- parts ---- */

static void check_version(struct reader *r) {
    uint64_t version = take(r, 4, "version");
    if (r->status != MKA_OK || version == 2 || version == 3) return;
    if (version != 0 && version % 65536 == 0) {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: a big-endian GGUF file; only little-endian ones are read", r->name);
    } else {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: GGUF version %llu; versions 2 and 3 are read", r->name,
                             (unsigned long long)version);
    }
}

/* Reads one part, adds its tensors to the file and says in part what else it holds. */
static mka_status read_part(mka_file *file, const struct mka_map *map, struct part *part, mka_error *error) {
    struct reader r = {.file = file, .bytes = map->bytes, .size = map->size, .at = 4, .name = map->name, .error = error};
    *part = (struct part){.alignment = 32, .split_no = -1, .split_count = -1, .split_tensors = -1};
    if (map->size < 4 || memcmp(map->bytes, "GGUF", 4) != 0)
        return mka_fail(error, MKA_BAD_FILE, "%s: not a GGUF file", map->name);
    check_version(&r);
    uint64_t tensors = take(&r, 8, "tensor count");
    uint64_t entries = take(&r, 8, "metadata count");
    read_entries(&r, entries, part);
    read_tensors(&r, tensors, part->alignment);
    return r.status;
}

/* "model-00002-of-00003.gguf" -> where the number starts; NULL when the name is not of that form with these numbers. */
static const char *part_suffix(const char *path, int64_t no, int64_t count) {
    char suffix[64];
    int length = snprintf(suffix, sizeof suffix, "-%05lld-of-%05lld.gguf", (long long)no + 1, (long long)count);
    size_t all = strlen(path);
    if (length < 0 || all <= (size_t)length || strcmp(path + all - length, suffix) != 0) return NULL;
    return path + all - length;
}

static mka_status check_part(const struct mka_map *map, const struct part *part, int64_t no, int64_t count, mka_error *error) {
    if (part->split_no == no && part->split_count == count) return MKA_OK;
    return mka_fail(error, MKA_BAD_FILE, "%s: says it is part %lld of %lld, but its name says part %lld of %lld", map->name,
                    (long long)part->split_no + 1, (long long)part->split_count, (long long)no + 1, (long long)count);
}

/* Opens part no of count, whose name shares all before suffix with path. */
static mka_status open_part(mka_file *file, const char *path, const char *suffix, int64_t no, int64_t count, struct part *part,
                            mka_error *error) {
    struct mka_map map;
    size_t stem = (size_t)(suffix - path), room = stem + 64;
    char *name = mka_file_alloc(file, room, 1);
    if (!name) return mka_fail(error, MKA_NO_MEMORY, "%s: no memory to open it", path);
    memcpy(name, path, stem);
    snprintf(name + stem, room - stem, "-%05lld-of-%05lld.gguf", (long long)no + 1, (long long)count);
    mka_status status = mka_file_map(file, name, &map, error);
    if (status == MKA_IO) return mka_fail_prefix(error, status, "part %lld of %lld", (long long)no + 1, (long long)count);
    if (status == MKA_OK) status = read_part(file, &map, part, error);
    if (status == MKA_OK) status = check_part(&map, part, no, count, error);
    return status;
}

/* A model in several parts: metadata of the first, tensors of all. */
static mka_status open_split(mka_file *file, const char *path, const struct part *given, mka_error *error) {
    struct part part;
    int64_t total = given->split_tensors, count = given->split_count;
    const char *shown = file->maps[0].name;
    if (!path) return mka_fail(error, MKA_UNSUPPORTED, "%s: part of a split model, which needs files beside it", shown);
    if (count > 99999 || given->split_no < 0 || given->split_no >= count) {
        return mka_fail(error, MKA_BAD_FILE, "%s: split.no %lld and split.count %lld make no sense", shown,
                        (long long)given->split_no, (long long)count);
    }
    const char *suffix = part_suffix(path, given->split_no, count);
    if (!suffix) {
        return mka_fail(error, MKA_BAD_FILE,
                        "%s: part %lld of %lld; its name must end in -%05lld-of-%05lld.gguf to find the others", path,
                        (long long)given->split_no + 1, (long long)count, (long long)given->split_no + 1, (long long)count);
    }
    mka_file_clear(file);
    for (int64_t no = 0; no < count; no++) {
        mka_status status = open_part(file, path, suffix, no, count, &part, error);
        if (status != MKA_OK) return status;
        if (no == 0) {
            file->entries = part.entries;
            file->entry_count = part.entry_count;
        }
    }
    if (total >= 0 && total != file->tensor_count) {
        return mka_fail(error, MKA_BAD_FILE, "%s: split.tensors.count is %lld but the parts hold %d tensors", path,
                        (long long)total, file->tensor_count);
    }
    return MKA_OK;
}

mka_status mka_gguf_open(mka_file *file, const char *path, mka_error *error) {
    struct part part;
    file->format = "gguf";
    mka_status status = read_part(file, &file->maps[0], &part, error);
    if (status != MKA_OK) return status;
    if (part.split_count > 1) return open_split(file, path, &part, error);
    file->entries = part.entries;
    file->entry_count = part.entry_count;
    return MKA_OK;
}
