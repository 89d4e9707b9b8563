/* attention - every variant of attention behind one table: sizes, weights and state of one layer, and one forward function.
 *
 *   x [n][width] -> q, and keys and values into the layer's cache(s) -> attend -> output projection -> y [n][width]
 *
 *   grouped.c  MHA, GQA, MQA, with an optional sliding window      fastmka.c  levels fused into one row, then as grouped
 *   mla.c      latent cache, absorbed or expanded                  mka.c      one cache a level, outputs mixed by the router
 *   router.c   lambda, and the rows of the levels                  rope.c     rotation tables
 */
#ifndef MKA_ATTENTION_ATTENTION_H
#define MKA_ATTENTION_ATTENTION_H

#include <mka/attention.h>

#include "memory/bank.h"
#include "memory/tiers.h"
#include "ops/ops.h"

#define MKA_LEVELS MKA_MOST_LEVELS

/* Rotation: pair i of a head turns by position * inverse[i]; the result is scaled by magnitude (YaRN). */
typedef struct mka_rope {
    int pairs;      /* 0: no rotation */
    int neighbours; /* 1: pairs (2i, 2i + 1); 0: pairs (i, i + pairs) */
    float magnitude;
    double *inverse; /* [pairs], owned */
} mka_rope;

/* How the frequencies of a model's context extension are made. */
typedef struct mka_rope_scaling {
    enum { MKA_ROPE_PLAIN, MKA_ROPE_LINEAR, MKA_ROPE_YARN, MKA_ROPE_LLAMA3 } kind;
    double factor, original_context, beta_fast, beta_slow; /* YaRN */
    double low_factor, high_factor;                        /* Llama 3 */
    double magnitude;                                      /* of the rotated vector; 1 unless YaRN says otherwise */
    const float *divisors;                                 /* [pairs] further divisors of the frequencies, or NULL */
} mka_rope_scaling;

/* dim numbers of a head are rotated (even; 0: none). scaling may be NULL. */
mka_status mka_rope_create(int dim, double base, int neighbours, const mka_rope_scaling *scaling, mka_rope *rope,
                           mka_error *error);
void mka_rope_destroy(mka_rope *rope);
/* cosine, sine [n][pairs] of positions first.. */
void mka_rope_fill(const mka_rope *rope, int first, int n, float *cosine, float *sine);

typedef struct mka_layer_config {
    mka_variant variant;
    int width, heads, kv_heads;
    int head_dim;                                     /* of a query and of a key, as projected */
    int value_dim;                                    /* of a value and of a head's output */
    int nope_dim, rope_dim, latent_dim, q_latent_dim; /* MLA; q_latent_dim 0: the query is not compressed */
    int window;                                       /* 0: none */
    int levels;                                       /* MKA, FastMKA */
    int router_hidden;
    int rope; /* which of the model's rotations this layer takes */
    float ema_beta, norm_eps, scale;
} mka_layer_config;

typedef struct mka_layer_weights {
    mka_matrix q, k, v, o;
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* or NULL */
    const float *q_norm, *k_norm;                   /* [head_dim] or NULL */
    /* MLA: kv_down [latent + rope][width], and a matrix a head: k_absorb [latent][nope], k_up [nope][latent], v_up [v][latent] */
    mka_matrix q_down, kv_down;
    const float *q_down_norm, *kv_norm;
    const mka_matrix *k_absorb, *k_up, *v_up;
    /* MKA, FastMKA: router */
    mka_matrix router_in, router_out;
    const float *router_in_bias, *router_out_bias;
} mka_layer_weights;

typedef struct mka_layer {
    mka_layer_config config;
    mka_layer_weights weights;
} mka_layer;

/* What a layer remembers of one sequence. */
typedef struct mka_layer_state {
    mka_tiers cache[MKA_LEVELS];
    int caches;
    float *summary;        /* [width] session summary, NULL for variants without */
    const float *longterm; /* [longterm_rows][width], borrowed */
    int longterm_rows;
    mka_bank bank; /* where there is one, the long-term rows are its; scan NULL: none */
    const mka_bank_work *bank_work;
} mka_layer_state;

/* Buffers that the layers of a pass share, each as large as the largest layer needs; floats. */
#define MKA_SCRATCH_FIELDS(X)                                                                                                    \
    X(q)                                                                                                                         \
    X(next_q)                                                                                                                    \
    X(k)                                                                                                                         \
    X(v)                                                                                                                         \
    X(out)                                                                                                                       \
    X(mixed)                                                                                                                     \
    X(summary_rows)                                                                                                              \
    X(longterm_rows)                                                                                                             \
    X(fused)                                                                                                                     \
    X(hidden) X(lambda) X(q_latent) X(down) X(q_absorbed) X(latent_out) X(block_latent) X(block_rows) X(block_v) X(run_m) X(run_z)
#define MKA_SCRATCH_SIZE(name)   size_t name;
#define MKA_SCRATCH_BUFFER(name) float *name;
typedef struct mka_attention_sizes {
    MKA_SCRATCH_FIELDS(MKA_SCRATCH_SIZE)
} mka_attention_sizes;
typedef struct mka_attention_scratch {
    MKA_SCRATCH_FIELDS(MKA_SCRATCH_BUFFER)
} mka_attention_scratch;

enum { MKA_AFTER = 2 };

/* One layer's forward pass over n new tokens at positions first... */
typedef struct mka_attention_pass mka_attention_pass;
struct mka_attention_pass {
    mka_ops *ops;
    const mka_layer *layer;
    mka_layer_state *state;
    const mka_attention_scratch *scratch;
    int first, n;
    const mka_rope *rope;
    const float *cosine, *sine; /* [n][rope->pairs] */
    mka_mla_form mla;
    float level_threshold;            /* levels with less weight are left out; 0: none */
    mka_local *expanded;              /* MLA: a block of keys and values of all heads (mka_layer_expanded) */
    const mka_attention_trace *trace; /* may be NULL */
    const float *x;                   /* [n][width]: what the layer takes; with norm.from room for it */
    mka_norm norm;                    /* from set: x is still to be made of it */
    float *y;                         /* [n][width] */
    mka_sum sum;                      /* to set: where y goes */
    /* what follows once that is done */
    const mka_step *after;
    int after_count; /* <= MKA_AFTER */
    /* NULL, or the pass of the layer that follows, of one token and the same operations: as the residual changes little from
     * layer to layer, its queries may be guessed before this pass has changed it, and what they will want of a long-term memory
     * be sent for. */
    const mka_attention_pass *next;
};

typedef struct mka_variant_table {
    const char *name;
    int recurrent; /* 1: the state cannot be cut back to an earlier token */
    /* Shapes of the caches that a layer needs; returns how many. */
    int (*caches)(const mka_layer_config *config, mka_type key_type, mka_type value_type, int capacity,
                  mka_local_shape shapes[MKA_LEVELS]);
    /* Raises sizes to what a pass of n tokens needs. */
    void (*measure)(const mka_layer_config *config, int n, mka_attention_sizes *sizes);
    void (*forward)(const mka_attention_pass *pass);
} mka_variant_table;

const mka_variant_table *mka_variant_get(mka_variant variant);

/* "mha", "gqa", "mqa", "mla", "mka" or "fastmka". */
const char *mka_variant_name(const mka_layer_config *config);

/* Takes the buffers from arena (measuring or carving). */
void mka_attention_layout(const mka_attention_sizes *sizes, mka_arena *arena, mka_attention_scratch *scratch);

/* Raises limits to what a pass over this layer asks of the operations. */
void mka_attention_limits(const mka_layer_config *config, struct mka_ops_limits *limits);

/* Bytes of keys and values that one token takes. */
size_t mka_layer_cache_bytes(const mka_layer_config *config, mka_type key_type, mka_type value_type);

/* 1 for a layer that may have a long-term tier: it sees all tokens, and its cache is one that the tier can hold. */
int mka_layer_tiered(const mka_layer_config *config);

/* The caches and the summary of one layer, empty, for passes of so many queries; summary [width] is borrowed (NULL for variants
 * without), and so is shared, which gives layers that may have one a long-term tier (NULL: none). device: where the caches are to
 * be (NULL: in memory); rows_here: as of mka_local_shape. */
mka_status mka_layer_state_create(const mka_layer_config *config, mka_type key_type, mka_type value_type, int capacity,
                                  int queries, float *summary, mka_tiers_shared *shared, mka_device *device, int rows_here,
                                  mka_layer_state *state, mka_error *error);
void mka_layer_state_destroy(mka_layer_state *state);
void mka_layer_state_reset(mka_layer_state *state, const mka_layer_config *config, mka_ops *ops);

/* Where latent attention expands one block after the other; MLA layers of one shape share it. */
mka_local_shape mka_layer_expanded(const mka_layer_config *config);

/* ---- parts that several variants share ---- */

/* Makes pass->x, for those who take it as it is. */
void mka_normalise(const mka_attention_pass *pass);
/* The products that make q of pass->x, and k, v of rows [n][width], all as they are before rotation. */
mka_product mka_q_product(const mka_attention_pass *pass);
void mka_kv_products(const mka_attention_pass *pass, const float *rows, mka_product products[2]);
/* Normalises (where the model does) and rotates scratch->q; scratch->k, which is then stored with v in cache; or both. */
void mka_turn_q(const mka_attention_pass *pass);
void mka_turn_store_kv(const mka_attention_pass *pass, int cache);
void mka_turn_store(const mka_attention_pass *pass, int cache);
/* Attention of scratch->q over a cache into out, and the output projection of rows [n][heads * value_dim] into pass->y, with all
 * that follows it. weights (NULL, or one a query, stride floats apart): queries of weight 0 are not answered, see
 * mka_tiers_attend. */
void mka_attend_cache(const mka_attention_pass *pass, int cache, const float *weights, int stride, float *out);
void mka_project_out(const mka_attention_pass *pass, const float *rows);
/* Copies the pass's rows of width, ld apart, to where a trace wants them (NULL: it does not). */
void mka_trace(const mka_attention_pass *pass, const float *rows, int ld, int width, float *to);
/* Raises the sizes that the functions above use. */
void mka_measure_grouped(const mka_layer_config *config, int n, mka_attention_sizes *sizes);

/* router.c: lambda [n][levels] from scratch->q as projected, before rotation; gelu or SiLU between its two layers. */
void mka_route(const mka_attention_pass *pass, int gelu);
/* Its two halves: the product of the first layer, and what follows it; with one row the latter stays on the calling thread. */
mka_product mka_route_in(const mka_attention_pass *pass);
void mka_route_out(const mka_attention_pass *pass, int gelu);
/* Takes the levels from number first on whose weight is below the pass's threshold out of lambda, and gives the others their
 * weight in proportion. What a token loses depends on its own lambda alone. */
void mka_route_drop(const mka_attention_pass *pass, int first);
/* The rows of every level: rows[0] = x, rows[1] = session summaries (the state moves on), rows[2] = long-term rows. weights
 * (NULL, or one a token, stride floats apart): tokens of weight 0 do without a long-term row from the bank. With one token all of
 * it happens on the calling thread. */
void mka_level_rows(const mka_attention_pass *pass, const float *weights, int stride, const float *rows[MKA_LEVELS]);
void mka_measure_router(const mka_layer_config *config, int n, mka_attention_sizes *sizes);

extern const mka_variant_table mka_grouped_table, mka_mla_table, mka_mka_table, mka_fastmka_table;

static inline void mka_raise(size_t *size, size_t rows, size_t width) {
    if (rows * width > *size) *size = rows * width;
}

#endif
