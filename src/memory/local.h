/* local - the dense tier: keys and values of every token of one layer, in order, head by head.
 *
 *   keys    [kv_heads][capacity][key_dim]     one head's rows lie together, so that attention streams them
 *   values  [kv_heads][capacity][value_dim]   (absent when a value is a part of its key, as in latent attention)
 *
 * Room for all of capacity is reserved at once, but the system commits pages only as tokens arrive.
 */
#ifndef MKA_MEMORY_LOCAL_H
#define MKA_MEMORY_LOCAL_H

#include "ops/ops.h"

typedef struct mka_local_shape {
    int kv_heads, key_dim, value_dim;
    int shared; /* 1: the value is the first value_dim numbers of the key's row; nothing is stored for it */
    mka_type key_type, value_type;
    int capacity; /* tokens */
} mka_local_shape;

typedef struct mka_local {
    mka_local_shape shape;
    size_t key_row, value_row; /* bytes of one row */
    size_t bytes;              /* reserved in all */
    unsigned char *keys, *values;
} mka_local;

/* 1 for the types that a cache row can have: F32, F16, BF16. */
int mka_local_type(mka_type type);

/* Bytes that one token takes, and that the whole capacity takes (0 when that does not fit in size_t). */
size_t mka_local_token_bytes(const mka_local_shape *shape);
size_t mka_local_bytes(const mka_local_shape *shape);

/* Reserves the pages. On failure local is all zero. */
mka_status mka_local_create(const mka_local_shape *shape, mka_local *local, mka_error *error);
void mka_local_destroy(mka_local *local);

/* Stores n tokens at positions first.. (first + n <= capacity). keys [n][kv_heads][key_dim], values likewise (ignored when
 * shared), token rows key_ld and value_ld floats apart. */
void mka_local_store(mka_local *local, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld);

/* Gives the pages behind tokens length.. back to the system. */
void mka_local_truncate(mka_local *local, int length);

/* Fills the cache's side of a job: the first count tokens. */
void mka_local_job(const mka_local *local, int count, mka_attend_job *job);

#endif
