/* longterm - see longterm.h. Blocks are closed in order, one head at a time, so that threads can share out heads. */
#include "longterm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/status.h"

enum { TILE_TOKENS = MKA_TILE * MKA_MEAN }; /* tokens whose means fill one value tile */

size_t mka_longterm_index_bytes(const mka_longterm_shape *s) {
    return (size_t)s->kv_heads *
           (mka_scan_block_bytes(s->key_dim) / MKA_BLOCK + mka_value_tile_bytes(MKA_Q8_0, s->value_dim) / TILE_TOKENS + 1);
}

size_t mka_longterm_row_bytes(const mka_longterm_shape *s) {
    return (size_t)s->kv_heads * (mka_row_bytes(s->key_type, s->key_dim) + mka_row_bytes(s->value_type, s->value_dim));
}

mka_status mka_longterm_create(const mka_longterm_shape *shape, mka_spill *spill, mka_longterm *l, mka_error *error) {
    *l = (mka_longterm){.shape = *shape,
                        .key_row = mka_row_bytes(shape->key_type, shape->key_dim),
                        .value_row = mka_row_bytes(shape->value_type, shape->value_dim),
                        .scan_block = mka_scan_block_bytes(shape->key_dim),
                        .mean_tile = mka_value_tile_bytes(MKA_Q8_0, shape->value_dim),
                        .capacity = ((size_t)shape->capacity + MKA_BLOCK - 1) / MKA_BLOCK};
    size_t heads = (size_t)shape->kv_heads, scan, means;
    l->mean_tiles = (l->capacity * MKA_BLOCK + TILE_TOKENS - 1) / TILE_TOKENS;
    int fits = mka_size_mul(heads * l->scan_block, l->capacity, &scan) &&
               mka_size_mul(heads * l->mean_tile, l->mean_tiles, &means) && scan <= SIZE_MAX / 4 && means <= SIZE_MAX / 4;
    l->centre = calloc(heads * ((size_t)shape->key_dim + 1), sizeof(float));
    if (fits && l->centre) {
        l->bytes = scan + means;
        l->scan = mka_pages_map(l->bytes);
    }
    if (!l->scan) {
        mka_longterm_destroy(l);
        return mka_fail(error, MKA_NO_MEMORY, "the system gives no address space for a long-term memory of %d tokens",
                        shape->capacity);
    }
    l->means = l->scan + scan;
    l->bound = l->centre + heads * (size_t)shape->key_dim;
    mka_status status =
        mka_records_create(MKA_BLOCK * (l->key_row + l->value_row), heads * l->capacity, spill, &l->records, error);
    if (status) mka_longterm_destroy(l);
    return status;
}

void mka_longterm_destroy(mka_longterm *l) {
    if (l->scan) mka_pages_unmap(l->scan, l->bytes);
    mka_records_destroy(&l->records);
    free(l->centre);
    *l = (mka_longterm){.scan = NULL};
}

static void close_keys(mka_longterm *l, const mka_kernels *kernels, int head, int block, float *keys, unsigned char *rows) {
    int d = l->shape.key_dim;
    const float *centre = l->centre + (size_t)head * (size_t)d;
    unsigned char *scan = l->scan + ((size_t)head * l->capacity + (size_t)block) * l->scan_block;
    for (int t = 0; t < MKA_BLOCK; t++) {
        float *key = keys + (size_t)t * (size_t)d;
        mka_turn(d, key);
        for (int i = 0; i < d; i++) key[i] -= centre[i];
        unsigned char *row = rows + (size_t)t * l->key_row;
        mka_put_row(l->shape.key_type, kernels->store[l->shape.key_type], d, key, row);
        mka_get_row(l->shape.key_type, d, row, key); /* what recall reads is what the signs stand for */
        mka_put_signs(d, key, mka_sign_factor(d, key), scan, t);
        l->bound[head] = fmaxf(l->bound[head], mka_sign_bound(d, key));
    }
}

static void close_values(mka_longterm *l, const mka_kernels *kernels, int head, int block, const float *values,
                         unsigned char *rows) {
    int d = l->shape.value_dim;
    for (int t = 0; t < MKA_BLOCK; t++)
        mka_put_row(l->shape.value_type, kernels->store[l->shape.value_type], d, values + (size_t)t * (size_t)d,
                    rows + (size_t)t * l->value_row);
    for (int m = 0; m < MKA_BLOCK / MKA_MEAN; m++) {
        float mean[MKA_MOST_DIM];
        memset(mean, 0, (size_t)d * sizeof *mean);
        for (int t = m * MKA_MEAN; t < (m + 1) * MKA_MEAN; t++)
            for (int i = 0; i < d; i++) mean[i] += values[(size_t)t * (size_t)d + (size_t)i] / MKA_MEAN;
        size_t index = (size_t)block * (MKA_BLOCK / MKA_MEAN) + (size_t)m;
        unsigned char *tile = l->means + ((size_t)head * l->mean_tiles + index / MKA_TILE) * l->mean_tile;
        mka_put_value(MKA_Q8_0, kernels->store[MKA_F32], d, mean, tile, (int)(index % MKA_TILE));
    }
}

mka_status mka_longterm_close(mka_longterm *l, const mka_kernels *kernels, int head, int block, float *keys, const float *values,
                              mka_error *error) {
    size_t index = mka_longterm_record(l, head, block);
    unsigned char *rows = mka_records_put(&l->records, index, error);
    if (!rows) return error->status;
    close_keys(l, kernels, head, block, keys, rows);
    close_values(l, kernels, head, block, values, rows + MKA_BLOCK * l->key_row);
    return mka_records_commit(&l->records, index, error);
}

void mka_longterm_count(mka_longterm *l, int blocks) {
    l->blocks = blocks;
}

void mka_longterm_cut(mka_longterm *l, int blocks) {
    size_t kept = (size_t)blocks, tiles = (kept * MKA_BLOCK + TILE_TOKENS - 1) / TILE_TOKENS;
    for (int head = 0; head < l->shape.kv_heads; head++) {
        mka_pages_discard(l->scan + mka_longterm_record(l, head, blocks) * l->scan_block, (l->capacity - kept) * l->scan_block);
        mka_pages_discard(l->means + ((size_t)head * l->mean_tiles + tiles) * l->mean_tile,
                          (l->mean_tiles - tiles) * l->mean_tile);
        mka_records_forget(&l->records, mka_longterm_record(l, head, blocks), l->capacity - kept);
    }
    if (blocks == 0) memset(l->centre, 0, (size_t)l->shape.kv_heads * ((size_t)l->shape.key_dim + 1) * sizeof(float));
    l->blocks = blocks;
}
