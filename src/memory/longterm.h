/* longterm - the long-term tier of one layer: closed blocks of 64 tokens that never change again.
 *
 *   scan    [kv_heads][blocks][scan block]          signs and factors of the keys (simd/rows.h), read by every token
 *   means   [kv_heads][tiles][value tile of 32]     the mean value of every 16 tokens, Q8: stands in for what is not read
 *   records [kv_heads][blocks]                      the rows: 64 turned keys, then 64 values; read where recall wants them
 *   centre  [kv_heads][key_dim]                     turned; frozen before the first block closes
 *
 * Room for capacity is reserved at once; pages are committed as blocks close. Keys are stored turned and less the centre. */
#ifndef MKA_MEMORY_LONGTERM_H
#define MKA_MEMORY_LONGTERM_H

#include "keycode.h"
#include "records.h"

enum { MKA_BLOCK = 64, MKA_MEAN = 16 };

typedef struct mka_longterm_shape {
    int kv_heads, key_dim, value_dim;
    mka_type key_type, value_type; /* of the rows */
    int capacity;                  /* tokens; rounded up to whole blocks */
} mka_longterm_shape;

typedef struct mka_longterm {
    mka_longterm_shape shape;
    size_t key_row, value_row, scan_block, mean_tile; /* bytes */
    size_t capacity;                                  /* blocks of one head */
    size_t mean_tiles;                                /* of one head */
    size_t bytes;                                     /* reserved for scan and means */
    int blocks;                                       /* closed */
    unsigned char *scan, *means;
    float *centre;
    float *bound; /* [kv_heads]: the largest |key - factor sign| / factor so far, which certified recall stands on */
    mka_records records;
} mka_longterm;

/* Bytes that one token takes on average: resident always (scan, means), and of its rows. */
size_t mka_longterm_index_bytes(const mka_longterm_shape *shape);
size_t mka_longterm_row_bytes(const mka_longterm_shape *shape);

/* Reserves the pages; records go to spill unless that is NULL. On failure longterm is all zero. */
mka_status mka_longterm_create(const mka_longterm_shape *shape, mka_spill *spill, mka_longterm *longterm, mka_error *error);
void mka_longterm_destroy(mka_longterm *longterm);

/* Closes one block: keys [64][key_dim] as they were appended, values [64][value_dim], of one head. Not counted until
 * mka_longterm_count says how many blocks all heads have. */
mka_status mka_longterm_close(mka_longterm *longterm, const mka_kernels *kernels, int head, int block, float *keys,
                              const float *values, mka_error *error);
void mka_longterm_count(mka_longterm *longterm, int blocks);

/* Forgets blocks from blocks on. 0: the centre and the bounds too. */
void mka_longterm_cut(mka_longterm *longterm, int blocks);

/* Where a head's scan block and mean tile lie. */
static inline const unsigned char *mka_longterm_scan(const mka_longterm *l, int head, int block) {
    return l->scan + ((size_t)head * l->capacity + (size_t)block) * l->scan_block;
}
static inline const unsigned char *mka_longterm_means(const mka_longterm *l, int head, int tile) {
    return l->means + ((size_t)head * l->mean_tiles + (size_t)tile) * l->mean_tile;
}
static inline size_t mka_longterm_record(const mka_longterm *l, int head, int block) {
    return (size_t)head * l->capacity + (size_t)block;
}

#endif
