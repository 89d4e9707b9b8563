/* cache - a layer's keys and values on the device. */
#ifndef MKA_OPENCL_CACHE_H
#define MKA_OPENCL_CACHE_H

#include "mirror.h"

/* One plane of rows, as kernels/cache.cl lays them out. */
typedef struct mka_cl_plane {
    mka_type type;
    int dim, stride; /* numbers of a row, and with its padding */
    size_t row_bytes;
    int scale_bytes; /* of one token and head; 0: none */
    cl_mem buffer;
    size_t scales_at; /* bytes */
} mka_cl_plane;

/* Attention's kernels are for tiles of 1, 2, 4 or 8 rows. */
enum { MKA_CL_ROWS_LOG = 4 };

struct mka_device_cache {
    mka_device *device;
    mka_device_cache_shape shape;
    int capacity;              /* slots of a head */
    int base;                  /* tokens that were forgotten: those behind them are in slots that many before their positions */
    int gap;                   /* where they began */
    mka_cl_plane keys, values; /* shared: values are keys' */
    /* The newest tokens of keys or values in four bits, once more in 16 bits (memory/near.h): a ring, twice */
    int ring; /* tokens; 0: none */
    int held; /* tokens before this one are not in the ring */
    mka_cl_plane near_keys, near_values;
    cl_kernel append, rows_of;
    int tiles;                                                       /* how many of them fit the device's local memory */
    cl_kernel attend[MKA_CL_ROWS_LOG], near_attend[MKA_CL_ROWS_LOG]; /* NULL: not built yet */
    /* likewise; of 1..8 tokens: finished, as states of splits, and both over the ring */
    cl_kernel decode[9], states[9], near_decode[9], near_states[9];
    cl_kernel prefill, prefill_nv, prefill_states;
    int turned_run; /* > 0: outputs are turned in runs of so many numbers */
};

/* ---- attend_fast.c; the caller holds the lock ---- */

/* The attention over positions begin..end - 1 as one finished launch; 0: there is no such kernel for it, and nothing was done. */
int mka_cl_attend_whole(mka_ops *ops, const mka_attend_job *job, int begin, int end);
/* The attention over positions begin..far_end - 1 of a cache of turned rows and near_begin..end - 1 of its ring, finished,
 * queries and outputs turned on the way; rows from position skip_from on lie shift further on. Either may be empty. 0 likewise.
 */
int mka_cl_attend_turned(mka_ops *ops, const mka_attend_job *job, int shift, int begin, int far_end, int near_begin, int end);
/* Those positions of the cache itself, of turned queries, as states of splits in scratch; rows from position skip_from on lie
 * shift further on. Returns how many, 0 likewise. */
int mka_cl_attend_far(mka_ops *ops, const mka_attend_job *job, int shift, int begin, int end);
/* Those positions of the cache's ring, whose states follow the first `first` splits'; likewise. */
int mka_cl_attend_near(mka_ops *ops, const mka_attend_job *job, int begin, int end, int first);
/* Floats of scratch that either takes. */
size_t mka_cl_decode_partial(const mka_device *device, const struct mka_ops_limits *limits);

/* The slot of a token of the cache. */
static inline int mka_cl_slot(const mka_device_cache *cache, int token) {
    return token < cache->gap ? token : token - cache->base;
}

/* Stores tokens as a command of its own. cache.c */
void mka_cl_append(mka_mirror *mirror, const mka_cl_turn *turn);
/* Whether a token's keys, values and queries may be turned and stored by the attention over the cache. attend_fast.c */
int mka_cl_attend_turns(const mka_ops *ops, const mka_cl_turn *turn);

/* Attention of a job as states of its splits, [splits][n heads][2 + value_dim] floats from scratch's beginning on; returns how
 * many. The caller holds the lock. attend.c */
int mka_cl_attend_states(mka_ops *ops, const mka_attend_job *job);
/* Counts the bytes that it reads, for who does it another way. attend.c */
void mka_cl_attend_count(mka_ops *ops, const mka_attend_job *job);

/* The kernel for tiles of 1 << log rows, of the cache or of its ring, built at the first call. The caller holds the lock. */
mka_status mka_cl_attend_kernel(mka_device_cache *cache, int near, int log, cl_kernel *kernel, mka_error *error);

#endif
