/* local - the dense tier: keys and values of every token of one layer, in order, head by head, in the tiles of simd/cache.h.
 *
 *   keys    [kv_heads][tiles][key tile]       one head's tiles lie together, so that attention streams them
 *   values  [kv_heads][tiles][value tile]     (absent when a value is a part of its key, as in latent attention)
 *
 * Keys or values in four bits have their newest tokens beside them in 16 bits (near.h); those that are shared have not.
 *
 * Room for all of capacity is reserved at once, but the system commits pages only as tokens arrive.
 *
 * A cache on a device is laid out by that device; the functions below that take ops work for both, the others for tiles alone.
 */
#ifndef MKA_MEMORY_LOCAL_H
#define MKA_MEMORY_LOCAL_H

#include "near.h"
#include "ops/ops.h"

typedef struct mka_local_shape {
    int kv_heads, key_dim, value_dim;
    int shared; /* 1: the value is the first value_dim numbers of the key's row; nothing is stored for it */
    mka_type key_type, value_type;
    int capacity;       /* tokens */
    int queries;        /* of one pass at most */
    mka_device *device; /* where it is to be; NULL: in memory */
    int rows_here;      /* with it: 1: the rows of a long-term tier behind it stay in memory (there.h) */
} mka_local_shape;

typedef struct mka_local {
    mka_local_shape shape;
    size_t key_tile, value_tile; /* bytes of one tile of 32 tokens */
    size_t tiles;                /* of one head */
    size_t bytes;                /* reserved in all */
    unsigned char *keys, *values;
    mka_near near;
    mka_device_cache *device; /* all of it is there, and nothing of the above but shape and bytes; NULL: it is here */
} mka_local;

/* Bytes that one token takes on average (without near's room, which does not grow with tokens), and that the whole capacity
 * takes (0 when that does not fit in size_t). */
size_t mka_local_token_bytes(const mka_local_shape *shape);
size_t mka_local_bytes(const mka_local_shape *shape);

/* The same of a cache on a device. */
uint64_t mka_local_bytes_there(const mka_local_shape *shape);

/* Reserves the pages, or the device's memory. On failure local is all zero. */
mka_status mka_local_create(const mka_local_shape *shape, mka_local *local, mka_error *error);
void mka_local_destroy(mka_local *local);

/* Stores n tokens at positions first.. (first + n <= capacity). A cache on a device takes the ops of that device. keys
 * [n][kv_heads][key_dim], values likewise (ignored when shared), token rows key_ld and value_ld floats apart. */
void mka_local_store(mka_local *local, mka_ops *ops, int first, int n, const float *keys, int key_ld, const float *values,
                     int value_ld);

/* The same of keys, and queries beside them, that turn lacks something (mka_rotation): both are finished in place first; on a
 * device keys are not, and mean nothing afterwards. keys [n][kv_heads][key_dim], without gaps. */
void mka_local_turn_store(mka_local *local, mka_ops *ops, int first, int n, const mka_rotation *turn, float *keys, int key_ld,
                          const float *values, int value_ld);
/* The first half of it, for heads of n tokens, x [n][heads][dim]; norm may be NULL. */
void mka_local_turn(const mka_rotation *turn, mka_ops *ops, int n, int dim, float *x, int heads, const float *norm);

/* Keys of count tokens of one head, as they are stored: out [count][ld], an operand of ops. */
void mka_local_keys(const mka_local *local, mka_ops *ops, int head, int first, int count, float *out, int ld);

/* Gives the pages behind tokens length.. back to the system. Tokens before length that have left near's room stay as coded. */
void mka_local_truncate(mka_local *local, int length);

/* Gives back the memory of tokens from..to - 1, of length, alone; from is a multiple of MKA_TILE. They are not read any more. On
 * a device from is the same at every call. */
void mka_local_forget(mka_local *local, int from, int to, int length);

/* The key of one token as float [key_dim], and its value as float [value_dim], as they are stored. */
void mka_local_key(const mka_local *local, int head, int token, float *x);
void mka_local_value(const mka_local *local, int head, int token, float *x);

/* 1 for a cache that has its newest tokens twice (near.h); mka_near_kept and mka_near_restore of it, wherever it is. On a device
 * restoring also says that gone tokens from `from` on have been forgotten. */
int mka_local_has_near(const mka_local *local);
void mka_local_kept(const mka_local *local, int length, int *near_base, int *near_held);
int mka_local_restore(mka_local *local, int length, int from, int gone, int near_base, int near_held);

/* Fills the cache's side of a job: the first count tokens. */
void mka_local_job(const mka_local *local, int count, mka_attend_job *job);

#endif
