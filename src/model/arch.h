/* arch - the architectures as a table of differences, and a model's sizes as its file states them, checked.
 *
 * One forward pass serves all: an architecture is a row of this table. Sizes come from GGUF metadata, a Hugging Face config.json,
 * or the metadata of a reference model; arch_gguf.c, arch_hf.c and arch_reference.c fill the same mka_sizes.
 */
#ifndef MKA_MODEL_ARCH_H
#define MKA_MODEL_ARCH_H

#include <mka/file.h>

#include "attention/attention.h"
#include "base/json.h"

typedef struct mka_arch {
    const char *name; /* general.architecture in GGUF files */
    mka_variant variant;
    int gguf_neighbours; /* GGUF files rotate neighbouring numbers: the converter turned q and k around */
    int hf_neighbours;   /* so does the original */
    int gelu;            /* GELU (tanh) gates the feed-forward instead of SiLU */
    int scale_embedding; /* embeddings times sqrt(width) */
    int qkv_bias;        /* 1: needed; 0: taken when there */
    int qk_norm;         /* q and k are normalised head by head */
    int post_norms;      /* outputs of attention and feed-forward are normalised before they are added */
    int window_period;   /* > 0: every layer but each window_period-th has the sliding window and the local rotation */
    int hf_norm_offset;  /* norms are stored less one in the original */
} mka_arch;

/* NULL when there is none of that name. */
const mka_arch *mka_arch_find(const char *gguf_name);
/* Names of all, for messages: "llama, qwen2, ...". */
const char *mka_arch_names(void);

#define MKA_MAX_LAYERS 1024
enum { MKA_ROPE_GLOBAL, MKA_ROPE_LOCAL, MKA_ROPES };

typedef enum mka_naming { MKA_NAMES_GGUF, MKA_NAMES_HF, MKA_NAMES_REFERENCE } mka_naming;

typedef struct mka_sizes {
    const mka_arch *arch;
    mka_naming naming;
    mka_variant variant;
    int64_t layers, width, heads, kv_heads, head_dim, value_dim, ffn, vocabulary, context;
    int64_t nope_dim, rope_dim, latent_dim, q_latent_dim; /* MLA */
    int64_t levels;                                       /* MKA, FastMKA */
    int64_t window;
    unsigned char windowed[MKA_MAX_LAYERS]; /* 1: this layer has the sliding window and the local rotation */
    int tied;                               /* 1: the output matrix is the embedding, even if the file has another */
    double norm_eps, norm_offset, embed_scale, score_scale, ema_beta;
    double rope_base, local_rope_base;
    int64_t rotated; /* numbers of a head that are rotated */
    int neighbours;
    mka_rope_scaling rope_scaling; /* of the global rotation */
    char name[128];
} mka_sizes;

mka_status mka_sizes_from_gguf(const mka_file *file, const char *path, mka_sizes *sizes, mka_error *error);
mka_status mka_sizes_from_hf(const mka_json *config, const char *path, mka_sizes *sizes, mka_error *error);
mka_status mka_sizes_from_reference(const mka_file *file, const char *path, mka_sizes *sizes, mka_error *error);

/* Everything that must hold whatever the source: ranges, divisibility, products that fit. */
mka_status mka_sizes_check(const mka_sizes *sizes, const char *path, mka_error *error);

/* Sets windowed from a period: every layer but each period-th. */
void mka_sizes_windows(mka_sizes *sizes, int period);

/* The attention of one layer. */
mka_layer_config mka_sizes_layer(const mka_sizes *sizes, int layer);

#endif
