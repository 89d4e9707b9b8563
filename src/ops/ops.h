/* ops - the coarse operations that a forward pass is made of, as a table: each is one fork and join over the engine's
 * threads. A session owns one mka_ops, with scratch laid out once for the largest chunk it will see; nothing allocates later.
 *
 * Results do not depend on the number of threads: work is cut into tiles of fixed size, and threads only share out tiles.
 */
#ifndef MKA_OPS_OPS_H
#define MKA_OPS_OPS_H

#include "base/arena.h"
#include "base/pieces.h"
#include "base/places.h"
#include "engine.h"

/* A weight W [rows][cols], stored by rows of row_bytes; y = W x. */
typedef struct mka_matrix {
    const void *data; /* borrowed */
    mka_type type;
    int rows, cols;
    size_t row_bytes;
} mka_matrix;

/* y[i][j] = bias[j] + W_j . x[i] for the n rows of the call. x rows are ldx floats apart, y rows ldy. No overlap. */
typedef struct mka_product {
    const mka_matrix *w;
    const float *bias; /* [rows] or NULL */
    const float *x;
    int ldx;
    float *y;
    int ldy;
} mka_product;

/* Attention of n queries at positions first..first+n-1 over keys at positions key_first..key_first+key_count-1 (key_first a
 * multiple of MKA_TILE), each query seeing positions <= its own and, when window > 0, > its own - window. Query head h reads
 * key/value head h / (heads / kv_heads), whose tiles (simd/cache.h) begin head_tiles tiles after those of the head before. */
enum { MKA_NEAR = 128 }; /* tokens before a query's tile that a cache in four bits has in more bits too */

/* A cache's newest tokens in more bits than the rest of it, in tiles as the job's own; first is a multiple of MKA_TILE. */
typedef struct mka_attend_near {
    const unsigned char *keys, *values; /* keys NULL: there is none */
    mka_type key_type, value_type;
    size_t head_tiles;
    int first; /* position of the first tile */
    int held;  /* tokens before this one are not there */
} mka_attend_near;

typedef struct mka_attend_job {
    int n, first, window;
    int heads, kv_heads, key_dim, value_dim;
    float scale;
    const float *q; /* [n][heads][key_dim] */
    float *out;     /* [n][heads][value_dim] */
    const unsigned char *keys, *values;
    mka_type key_type, value_type;
    int shared; /* 1: a value is the first value_dim numbers of its key, and values is not read */
    size_t head_tiles;
    int key_first, key_count;
    mka_attend_near near; /* each query reads positions from mka_near_from on there, and those before from keys and values */
    /* NULL: out is the finished attention. Otherwise the running state of an attention that comes in several jobs, which
     * begins as m = -inf, z = 0, out = 0; out holds the unscaled sum, and mka_attend_finish divides by z at the end. */
    float *m, *z; /* [n][heads] */
} mka_attend_job;

/* The first position that a query at the given one reads from near; position + 1: none. It never falls as positions rise. */
static inline int mka_near_from(const mka_attend_near *near, int position) {
    int from = position / MKA_TILE * MKA_TILE - MKA_NEAR;
    if (from < near->held) from = near->held;
    return near->keys && from <= position ? from : position + 1;
}

typedef struct mka_ops mka_ops;

/* One step of a chain: `before`, where there is one, on a single thread, and then products on all of them. */
typedef struct mka_step {
    void (*before)(void *user); /* may call ops->alone, and nothing else of ops */
    void *user;
    int count;
    const mka_product *products;
    mka_glu_fn *glu; /* NULL, or of two products, as those of ops->gated: the first one's y becomes glu of both */
} mka_step;

struct mka_ops {
    mka_engine *engine;
    const mka_kernels *kernels; /* of the engine, or of a level that a test asks for */
    mka_pool *pool;
    const mka_places *places; /* where the heads of the caches lie, which this ops reads; NULL: no plan */

    /* products, each of n rows; a run of products with the same x shares its quantisation */
    void (*multiply)(mka_ops *ops, int n, int count, const mka_product *products);
    /* steps of one row, each of which begins when the one before is done, in one run of the threads */
    void (*chain)(mka_ops *ops, int count, const mka_step *steps);
    /* one product of n rows, on the calling thread alone: for those too small to share, and in a chain's `before` */
    void (*alone)(mka_ops *ops, int n, const mka_product *product);
    /* y of gate = act(gate) up, the products of one x with two weights of one shape; act is SiLU, or GELU (tanh). y of up is
     * written too, and means nothing. */
    void (*gated)(mka_ops *ops, int n, int gelu, const mka_product *gate, const mka_product *up);
    /* y[i] = rms_norm(x[i]) w for rows rows of width; x rows ldx apart, y rows ldy; w may be NULL; y may be x */
    void (*norm)(mka_ops *ops, int rows, int width, float eps, const float *x, int ldx, const float *w, float *y, int ldy);
    /* rotates heads heads of n tokens in place: token i's head h begins at x + i * ldx + h * head_stride; the pairs are
     * half-split or neighbours; cosine, sine [n][pairs] */
    void (*rope)(mka_ops *ops, int n, int heads, int pairs, int neighbours, float *x, int ldx, int head_stride,
                 const float *cosine, const float *sine);
    /* x[i] += y[i] over count elements */
    void (*add)(mka_ops *ops, size_t count, const float *y, float *x);
    void (*attend)(mka_ops *ops, const mka_attend_job *job);
    void (*attend_finish)(mka_ops *ops, const mka_attend_job *job);

    /* settings and what was read, for reports */
    int exact; /* 1: never quantise activations */
    uint64_t weight_bytes, cache_bytes;

    /* scratch; sizes are those of mka_ops_layout */
    struct mka_ops_limits {
        int rows;      /* n of any call, at most */
        int cols;      /* columns of any matrix, at most */
        int head_rows; /* query heads of one key/value head, at most */
        int key_dim, value_dim, kv_heads, context;
        int shared; /* 1: some layer's values are parts of its keys */
    } limits;
    unsigned char *shared_scratch; /* of all threads together: a chunk's rows in bf16; NULL where no kernel wants them */
    unsigned char *thread_scratch; /* [threads][thread_bytes] */
    size_t thread_bytes;
    mka_pieces *pieces; /* [threads] */
    float *partial;     /* decode attention: m, z, acc of every split */
};

/* Lays ops' scratch out in arena (measuring or carving; see base/arena.h). */
void mka_ops_layout(mka_ops *ops, const struct mka_ops_limits *limits, mka_arena *arena);

/* Fills the table with the CPU's operations. Scratch comes from mka_ops_layout before first use. */
void mka_ops_cpu(mka_ops *ops, mka_engine *engine);

/* Parts of the CPU table that have files of their own. */
void mka_multiply_start(mka_engine *engine); /* tells OpenBLAS that the threads are ours */
void mka_cpu_multiply(mka_ops *ops, int n, int count, const mka_product *products);
void mka_cpu_chain(mka_ops *ops, int count, const mka_step *steps);
void mka_cpu_alone(mka_ops *ops, int n, const mka_product *product);
void mka_cpu_gated(mka_ops *ops, int n, int gelu, const mka_product *gate, const mka_product *up);
void mka_cpu_attend(mka_ops *ops, const mka_attend_job *job);
void mka_cpu_attend_finish(mka_ops *ops, const mka_attend_job *job);
size_t mka_multiply_scratch(const struct mka_ops_limits *limits);
size_t mka_attend_scratch(const struct mka_ops_limits *limits);
size_t mka_attend_partials(const struct mka_ops_limits *limits);

/* One row of a matrix as float32 (an embedding). */
void mka_ops_row(const mka_ops *ops, const mka_matrix *w, int row, float *out);

#endif
