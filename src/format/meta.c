/* meta - reading metadata entries that a reader has already checked, straight from the mapped bytes.
 *
 * A vocabulary has hundreds of thousands of strings: only every MKA_MARK-th one's place is remembered, so reading any of them
 * takes a bounded number of steps and the table stays small beside the file.
 */
#include "format/file.h"

#include <string.h>

int mka_file_meta_count(const mka_file *file) {
    return file->entry_count;
}

const mka_meta *mka_file_meta(const mka_file *file, int index) {
    return index >= 0 && index < file->entry_count ? &file->entries[index].meta : NULL;
}

const mka_meta *mka_file_meta_find(const mka_file *file, const char *key) {
    return mka_file_meta(file, mka_names_find(file->entry_names, file->entry_count, key));
}

static mka_meta_kind item_kind(const mka_meta *meta) {
    return meta->kind == MKA_META_ARRAY ? meta->item : meta->kind;
}

static uint64_t load(const unsigned char *bytes, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++) value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

/* The bits of item index; 0 when it is outside or a string. */
static int load_item(const mka_meta *meta, uint64_t index, uint64_t *bits, int *width) {
    if (!meta || index >= meta->count || item_kind(meta) == MKA_META_STRING) return 0;
    const struct mka_entry *entry = (const struct mka_entry *)meta;
    *width = entry->width;
    *bits = load(entry->items + index * (uint64_t)entry->width, entry->width);
    return 1;
}

static int64_t extend_sign(uint64_t bits, int width) {
    uint64_t sign = (uint64_t)1 << (8 * width - 1);
    return (int64_t)((bits ^ sign) - sign);
}

int mka_meta_int(const mka_file *file, const mka_meta *meta, uint64_t index, int64_t *value) {
    uint64_t bits;
    int width;
    (void)file;
    if (!load_item(meta, index, &bits, &width)) return 0;
    switch (item_kind(meta)) {
    case MKA_META_UINT:
    case MKA_META_BOOL:
        if (bits > INT64_MAX) return 0;
        *value = (int64_t)bits;
        return 1;
    case MKA_META_INT:
        *value = extend_sign(bits, width);
        return 1;
    default:
        return 0;
    }
}

static double to_float(uint64_t bits, int width) {
    if (width == 8) {
        double wide;
        memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    uint32_t half = (uint32_t)bits;
    float narrow;
    memcpy(&narrow, &half, sizeof narrow);
    return (double)narrow;
}

int mka_meta_float(const mka_file *file, const mka_meta *meta, uint64_t index, double *value) {
    uint64_t bits;
    int width;
    (void)file;
    if (!load_item(meta, index, &bits, &width)) return 0;
    switch (item_kind(meta)) {
    case MKA_META_UINT:
        *value = (double)bits;
        return 1;
    case MKA_META_INT:
        *value = (double)extend_sign(bits, width);
        return 1;
    case MKA_META_FLOAT:
        *value = to_float(bits, width);
        return 1;
    default:
        return 0;
    }
}

int mka_meta_string(const mka_file *file, const mka_meta *meta, uint64_t index, const char **bytes, size_t *length) {
    (void)file;
    if (!meta || index >= meta->count || item_kind(meta) != MKA_META_STRING) return 0;
    const struct mka_entry *entry = (const struct mka_entry *)meta;
    const unsigned char *at = entry->items;
    if (entry->marks) at += entry->marks[index / MKA_MARK];
    uint64_t skip = entry->marks ? index % MKA_MARK : index;
    while (skip-- > 0) at += 8 + load(at, 8);
    *length = (size_t)load(at, 8);
    *bytes = (const char *)at + 8;
    return 1;
}
