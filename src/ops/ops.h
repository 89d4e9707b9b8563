/* ops - the coarse operations that a forward pass is made of, as a table: on the CPU each is one fork and join over the engine's
 * threads, on a device a command that is queued. A session owns one mka_ops, with scratch laid out once for the largest chunk it
 * will see; nothing allocates later.
 *
 * Results do not depend on the number of threads: work is cut into tiles of fixed size, and threads only share out tiles.
 *
 * Operands belong to the operations: code that writes one by itself says so with put, and code that reads one asks for it with
 * get. To the CPU's table both mean nothing. A device's copy of an operand that lies in the arena is the one that counts between
 * put and get; operands elsewhere go there and back with the call, which then waits.
 */
#ifndef MKA_OPS_OPS_H
#define MKA_OPS_OPS_H

#include <mka/memory.h>

#include "base/arena.h"
#include "base/pieces.h"
#include "base/places.h"
#include "device.h"
#include "engine.h"

/* A weight W [rows][cols], stored by rows of row_bytes; y = W x. */
typedef struct mka_matrix {
    const void *data; /* borrowed; immutable as long as anything computes with it */
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
    const float *q;           /* [n][heads][key_dim] */
    float *out;               /* [n][heads][value_dim] */
    mka_device_cache *device; /* where keys and values are; NULL: in tiles, as follows */
    const unsigned char *keys, *values;
    mka_type key_type, value_type;
    int shared; /* 1: a value is the first value_dim numbers of its key, and values is not read */
    size_t head_tiles;
    int key_first, key_count;
    int skip_from, skip_to; /* of a cache on a device: positions from..to - 1 that no query sees, multiples of 64; equal: none */
    mka_attend_near near;   /* each query reads positions from mka_near_from on there, and those before from keys and values */
    /* NULL: out is the finished attention. Otherwise the running state of an attention that comes in several jobs, which
     * attend_start begins; out holds the unscaled sum, and attend_finish divides by z at the end. */
    float *m, *z; /* [n][heads] */
} mka_attend_job;

/* The first position that a query at the given one reads from near; position + 1: none. It never falls as positions rise. */
static inline int mka_near_from(const mka_attend_near *near, int position) {
    int from = position / MKA_TILE * MKA_TILE - MKA_NEAR;
    if (from < near->held) from = near->held;
    return near->keys && from <= position ? from : position + 1;
}

/* Lays the rows of count clusters, of tiers that keep them in memory, out in room (device.h). Returns how many tokens room has
 * then, up to the last; 0: they cannot be had, and the owner knows why. */
typedef size_t mka_fetch_rows(void *owner, const mka_device_missing *list, int count, unsigned char *room);

/* Attention over a cache on a device and the segments of its long-term tier, which hold the positions that the local job skips:
 * the operation of src/memory/recall.h on a device, with the numbers by which it chooses. */
typedef struct mka_recall_job_there mka_recall_job_there;
struct mka_recall_job_there {
    const mka_attend_job *local; /* key_first 0, no window, m NULL; out is finished */
    mka_device_longterm *longterm;
    int segments;
    const mka_recall *rule;
    float change;          /* estimated: what leaving a cluster unread may change the output by */
    float value;           /* the part of it up to which a token's value is not read, */
    float tile;            /* and the multiple up to which the mean values of a tile are not */
    float *read;           /* NULL, or [n][heads]: gets the logarithm of the partition sum of what was read */
    mka_fetch_rows *fetch; /* where the tier's rows stay in memory */
    void *owner;           /* which lives as long as longterm */
    /* NULL, or another tier's recall by one query that is a guess of its next one: rows that it would want are sent while other
     * commands run. Nothing is computed by it, and no result depends on it. */
    const mka_recall_job_there *ahead;
};

enum { MKA_MOST_LEVELS = 3 };

typedef struct mka_ops mka_ops;

/* Rows that are normalised before products take them, and rows that take what products give:
 *   x[i] = rms_norm(from[i]) w      from [n][cols of the products]; w may be NULL
 *   to[i] += y[i], or with w to[i] += rms_norm(y[i]) w      to [n][rows of the product]; y means nothing then */
typedef struct mka_norm {
    const float *from; /* NULL: x is there already */
    const float *w;
    float eps;
} mka_norm;
typedef struct mka_sum {
    float *to; /* NULL: y is the result */
    const float *w;
    float eps;
} mka_sum;

typedef enum mka_glu { MKA_NO_GLU, MKA_SWIGLU, MKA_GEGLU } mka_glu; /* SiLU; GELU by tanh */

/* One step of a layer: rows that are normalised, products of them, and where the result goes. */
typedef struct mka_step {
    void (*before)(void *user); /* NULL, or what comes first: with one row on a single thread, so that it may call ops->alone and
                                   those that keep one row on the calling thread, else any */
    void *user;
    mka_norm norm; /* from set: of the products' common x, rows of cols without gaps, which means nothing afterwards */
    int count;
    const mka_product *products;
    mka_glu glu; /* of two products of one x and one shape: the first one's y becomes act(y) times the second's, which is lost */
    mka_sum sum; /* of one product whose y has no gaps */
} mka_step;

/* What keys and the queries beside them lack between their products and the cache: heads are normalised where there are weights
 * [key_dim], then rotated, half-split or as neighbours. */
typedef struct mka_rotation {
    const float *cosine, *sine; /* [n][pairs] */
    int pairs, neighbours;
    float eps;
    const float *q_norm, *k_norm; /* or NULL */
    float *q;                     /* [n][heads][key_dim], turned in place; NULL: keys alone */
    int heads;
} mka_rotation;

struct mka_ops {
    mka_engine *engine;
    const mka_kernels *kernels; /* of the engine, or of a level that a test asks for */
    mka_pool *pool;
    const mka_places *places;  /* where the heads of the caches lie, which this ops reads; NULL: no plan */
    mka_ops *host;             /* the CPU's table over the same arena: this one, or what stands beside a device's */
    struct mka_mirror *mirror; /* a device's; NULL for the CPU */

    /* the host has written these bytes of operands; the host is about to read them */
    void (*put)(mka_ops *ops, const void *operand, size_t bytes);
    void (*get)(mka_ops *ops, const void *operand, size_t bytes);
    /* waits for all that was asked for; a device's first failure since the last call, after which results mean nothing */
    mka_status (*settle)(mka_ops *ops, mka_error *error);

    /* products, each of n rows; a run of products with the same x shares its quantisation */
    void (*multiply)(mka_ops *ops, int n, int count, const mka_product *products);
    /* steps of n rows, each of which begins when the one before is done: with one row in one run of the CPU's threads, on a
     * device each step in as few commands as it has kernels for */
    void (*steps)(mka_ops *ops, int n, int count, const mka_step *steps);
    /* one product of n rows, on the calling thread alone: for those too small to share, and in a step's `before` */
    void (*alone)(mka_ops *ops, int n, const mka_product *product);
    /* y[i] = rms_norm(x[i]) w for rows rows of width; x rows ldx apart, y rows ldy; w may be NULL; y may be x */
    void (*norm)(mka_ops *ops, int rows, int width, float eps, const float *x, int ldx, const float *w, float *y, int ldy);
    /* rotates heads heads of n tokens in place: token i's head h begins at x + i * ldx + h * head_stride; the pairs are
     * half-split or neighbours; cosine, sine [n][pairs] */
    void (*rope)(mka_ops *ops, int n, int heads, int pairs, int neighbours, float *x, int ldx, int head_stride,
                 const float *cosine, const float *sine);
    /* x[i] += y[i] over count elements */
    void (*add)(mka_ops *ops, size_t count, const float *y, float *x);

    /* the next ones keep one row on the calling thread */
    /* y[i] = x[i] for rows rows of width, ldx and ldy apart (ldx 0: one row for all); x NULL: zeros */
    void (*copy)(mka_ops *ops, int rows, int width, const float *x, int ldx, float *y, int ldy);
    /* x[i] = act(x[i]) over rows rows of width: SiLU, or GELU (erf) */
    void (*act)(mka_ops *ops, int rows, int width, int gelu, float *x);
    void (*softmax)(mka_ops *ops, int rows, int width, float *x); /* of each row, in place */
    /* state = beta state + (1 - beta) x[i], and rows[i] = state, for i in turn; all of width */
    void (*summarise)(mka_ops *ops, int n, int width, float beta, const float *x, float *state, float *rows);
    /* y[i] = sum over levels of lambda[i][level] rows[level][i]; lambda [n][levels] */
    void (*fuse)(mka_ops *ops, int n, int levels, int width, const float *lambda, const float *const *rows, float *y);
    /* y[i] = lambda[i] x[i], added to y[i] where more is 1; numbers of lambda are ldl apart; x[i] is
     * not looked at where lambda[i] is 0 */
    void (*mix)(mka_ops *ops, int n, int width, const float *lambda, int ldl, const float *x, int more, float *y);

    void (*attend)(mka_ops *ops, const mka_attend_job *job);
    void (*attend_start)(mka_ops *ops, const mka_attend_job *job); /* m = -inf, z = 0, out = 0 */
    void (*attend_finish)(mka_ops *ops, const mka_attend_job *job);

    /* a device's caches; NULL on the CPU, whose caches are memory/local.h's own. append: as mka_local_turn_store. rows: keys, or
     * values, of count tokens of one head as [count][ld] floats, as they are stored */
    void (*append)(mka_ops *ops, mka_device_cache *cache, int first, int n, const mka_rotation *turn, const float *keys,
                   int key_ld, const float *values, int value_ld);
    void (*rows)(mka_ops *ops, mka_device_cache *cache, int values, int head, int first, int count, float *out, int ld);
    void (*recall)(mka_ops *ops, const mka_recall_job_there *job);

    /* settings and what was read, for reports */
    int exact; /* 1: never quantise activations */
    uint64_t weight_bytes, cache_bytes;

    /* scratch; sizes are those of mka_ops_layout */
    struct mka_ops_limits {
        int rows;      /* n of any call, at most */
        int cols;      /* columns of any matrix, at most */
        int head_rows; /* query heads of one key/value head, at most */
        int key_dim, value_dim, kv_heads, context;
        int shared;            /* 1: some layer's values are parts of its keys */
        int segment, clusters; /* of a long-term tier; 0: there is none */
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

/* One layer's or cache's operations: the CPU's, and beside them a device's, where the engine has one. */
typedef struct mka_pair {
    mka_ops host, device;
} mka_pair;

static inline mka_ops *mka_pair_ops(mka_pair *pair) {
    return pair->host.engine->device ? &pair->device : &pair->host;
}
/* host is laid out; the others are as for mka_ops_device and mka_ops_mirror. Does nothing without a device. */
mka_status mka_pair_open(mka_pair *pair, mka_residents *residents, const void *base, size_t bytes, mka_error *error);
void mka_pair_close(mka_pair *pair);

/* Parts of the CPU table that have files of their own. */
void mka_multiply_start(mka_engine *engine); /* tells OpenBLAS that the threads are ours */
void mka_cpu_multiply(mka_ops *ops, int n, int count, const mka_product *products);
void mka_cpu_steps(mka_ops *ops, int n, int count, const mka_step *steps);
void mka_cpu_alone(mka_ops *ops, int n, const mka_product *product);
void mka_cpu_attend(mka_ops *ops, const mka_attend_job *job);
void mka_cpu_attend_start(mka_ops *ops, const mka_attend_job *job);
void mka_cpu_attend_finish(mka_ops *ops, const mka_attend_job *job);
size_t mka_multiply_scratch(const struct mka_ops_limits *limits);
size_t mka_attend_scratch(const struct mka_ops_limits *limits);
size_t mka_attend_partials(const struct mka_ops_limits *limits);

/* One row of a matrix as float32 (an embedding). */
void mka_ops_row(const mka_ops *ops, const mka_matrix *w, int row, float *out);

#endif
