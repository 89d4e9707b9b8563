/* reference_model - small random models of every attention variant, written as the safetensors files that the loader takes. */
#ifndef MKA_TESTS_REFERENCE_MODEL_H
#define MKA_TESTS_REFERENCE_MODEL_H

#include <stddef.h>
#include <stdint.h>

typedef struct reference_shape {
    const char *kind; /* "lm-gqa", "lm-fastmka", ... */
    int layers, width, heads, kv_heads, head_dim, ffn, vocabulary, window, levels;
    int nope_dim, rope_dim, v_dim, latent_dim; /* lm-mla */
} reference_shape;

/* One of each variant: mha, gqa, mqa, gqa with a window, mla, mka, fastmka. */
extern const reference_shape reference_shapes[];
extern const int reference_shape_count;

/* xorshift in -1..1. */
float reference_random(uint64_t *state);

/* Writes the model to a new file in the temporary folder; path gets its name (room bytes). Returns 0 on failure. The caller
 * unlinks it. */
int reference_model_write(const reference_shape *shape, uint64_t seed, char *path, size_t room);

/* The same numbers as a Hugging Face folder of a llama model (shapes lm-mha, lm-gqa and lm-mqa without a window): config.json and
 * model.safetensors. folder gets its name; the caller removes it with reference_folder_remove. */
int reference_folder_write(const reference_shape *shape, uint64_t seed, char *folder, size_t room);
void reference_folder_remove(const char *folder);

/* A router for such a model (lm-mha, lm-gqa or lm-mqa) as a safetensors file. first: the router always answers (1, 0, 0);
 * otherwise its weights are random. kind: "fastmka" or "mka". */
int reference_router_write(const reference_shape *shape, const char *kind, int first, uint64_t seed, char *path, size_t room);

#endif
