/* mka/attention.h - attention without a model: on plain arrays, and one layer of any variant with its own cache.
 *
 * The mathematics of every variant: MHA, GQA, MQA (one code, grouped), sliding window, MLA, MKA, FastMKA (arXiv 2603.20586).
 */
#ifndef MKA_ATTENTION_H
#define MKA_ATTENTION_H

#include <mka/file.h>
#include <mka/profile.h>
#include <mka/session.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mka_attend_shape {
    int heads, kv_heads; /* kv_heads divides heads; query head h reads key/value head h / (heads / kv_heads) */
    int head_dim;        /* 1..256 */
    int q_len, kv_len;   /* the queries stand at the last q_len of kv_len positions; q_len <= kv_len */
    int window;          /* > 0: a query sees only the last window positions, its own included */
    mka_type type;       /* how keys and values are stored on the way: MKA_F32, MKA_F16, MKA_BF16, MKA_Q8_0 or MKA_Q4_0 */
} mka_attend_shape;

/* Causal softmax attention, scale head_dim^-0.5. q, out: float [heads][q_len][head_dim]; k, v: float
 * [kv_heads][kv_len][head_dim]. out overlaps nothing. Allocates a cache of the given type for the call. */
MKA_API mka_status mka_attend(mka_engine *engine, const mka_attend_shape *shape, const float *q, const float *k, const float *v,
                              float *out, mka_error *error);

/* ---- keys and values of one layer, for an engine that has projections of its own ---- */

typedef struct mka_kv mka_kv;

typedef struct mka_kv_options {
    int heads, kv_heads;           /* kv_heads divides heads */
    int key_dim, value_dim;        /* numbers of a key (and of a query) and of a value; 1..1024 */
    int shared;                    /* 1: a value is the first value_dim numbers of its key, as in latent attention */
    int window;                    /* > 0: a query sees only the last window positions, its own included */
    int context;                   /* tokens that it can hold */
    int queries;                   /* of one call at most; 0: 512 */
    float scale;                   /* of the scores; 0: key_dim^-0.5 */
    mka_type key_type, value_type; /* value_type is not used when shared is 1 */
    mka_numa_mode numa;            /* where the cache lies; default MKA_NUMA_AUTO */
} mka_kv_options;

MKA_API void mka_kv_defaults(mka_kv_options *options);

/* Makes an empty cache, laid out as the engine's kernels read it fastest. The engine must outlive it. MKA_BAD_ARGUMENT names the
 * option; MKA_NO_MEMORY: the cache does not fit in free memory. One thread at a time. */
MKA_API mka_status mka_kv_create(mka_engine *engine, const mka_kv_options *options, mka_kv **kv, mka_error *error);
MKA_API void mka_kv_destroy(mka_kv *kv);

/* Appends n tokens. keys: float [n][kv_heads][key_dim] after rotation, values: float [n][kv_heads][value_dim] (NULL when shared
 * is 1); copied. MKA_CONTEXT_FULL: they do not fit, nothing was appended. */
MKA_API mka_status mka_kv_append(mka_kv *kv, int n, const float *keys, const float *values, mka_error *error);

/* Attention of n queries that stand at the last n of the first length tokens (causal among themselves): queries
 * [n][heads][key_dim], out [n][heads][value_dim], which overlaps nothing. 1 <= n <= options.queries, n <= length <= tokens held.
 * Never allocates. Keys and values in MKA_Q4_0 are kept as bfloat16 too while they are new: of the tokens held, the last 128 and
 * options.queries at least. A query reads the 128 to 159 tokens before it, and itself, so, where they are; older ones in 4 bits.
 */
MKA_API mka_status mka_kv_attend(mka_kv *kv, int length, int n, const float *queries, float *out, mka_error *error);

typedef struct mka_kv_info {
    int length;                         /* tokens held */
    size_t token_bytes;                 /* of the cache that one token takes, and that one query reads of it */
    mka_unit decode_unit, prefill_unit; /* what this engine's kernels multiply in, for few queries and for many */
} mka_kv_info;

MKA_API void mka_kv_get_info(const mka_kv *kv, mka_kv_info *info);

/* Forgets all tokens. */
MKA_API void mka_kv_reset(mka_kv *kv);

/* ---- one layer of any variant ---- */

typedef enum mka_variant { MKA_GROUPED, MKA_MLA, MKA_MKA, MKA_FASTMKA } mka_variant;

typedef struct mka_attention_options {
    mka_variant variant;
    int width, heads, kv_heads, head_dim;
    int nope_dim, rope_dim, v_dim, latent_dim; /* MLA only */
    int levels;                                /* MKA, FastMKA: 2 or 3 */
    float ema_beta;                            /* MKA, FastMKA: of the session summary, in [0, 1) */
    float rope_base;                           /* 0: no rotation. Pairs (i, i + d/2) */
    float norm_eps;                            /* MLA */
    int window;                                /* grouped only; 0: none */
    int context;                               /* tokens the layer can hold */
    int chunk;                                 /* tokens taken at once, at most; 0: 512 */
    mka_type key_type, value_type;             /* of the cache */
    mka_mla_form mla;
} mka_attention_options;

typedef struct mka_attention mka_attention;

MKA_API void mka_attention_defaults(mka_attention_options *options);

/* Makes one layer with an empty cache. tensors: its weights, named as in the project's reference files (q_proj.weight,
 * q_proj.bias, kv_down.weight, router.0.weight, ...), float32, copied. MKA_BAD_ARGUMENT names the tensor that is missing or
 * whose shape disagrees, or the option. */
MKA_API mka_status mka_attention_create(mka_engine *engine, const mka_attention_options *options, const mka_tensor *tensors,
                                        int count, mka_attention **layer, mka_error *error);
MKA_API void mka_attention_destroy(mka_attention *layer);

/* The long-term rows that MKA and FastMKA read: float [rows][width], copied; rows = 0: none (zeros are read). */
MKA_API mka_status mka_attention_set_longterm(mka_attention *layer, int rows, const float *values, mka_error *error);

/* What a forward pass may also report; each pointer may be NULL. */
typedef struct mka_attention_trace {
    float *router;        /* [n][levels] weights lambda (MKA, FastMKA) */
    float *session_state; /* [width] summary after the last token (MKA, FastMKA) */
    float *fused;         /* [n][width] (FastMKA) */
    float *latent;        /* [n][latent_dim], normalised (MLA) */
} mka_attention_trace;

/* n tokens after those the layer holds. x, y: float [n][width], no overlap. trace may be NULL. */
MKA_API mka_status mka_attention_forward(mka_attention *layer, int n, const float *x, float *y, const mka_attention_trace *trace,
                                         mka_error *error);

/* Forgets all tokens and the session state; weights and long-term rows stay. */
MKA_API void mka_attention_reset(mka_attention *layer);

#ifdef __cplusplus
}
#endif
#endif
