/* model - what mka_model points to: immutable after loading, shared by sessions. weights.c binds tensors, router.c a router's,
 * vocab.c the text side. */
#ifndef MKA_MODEL_MODEL_H
#define MKA_MODEL_MODEL_H

#include <mka/file.h>
#include <mka/session.h>

#include "arch.h"
#include "memory/placement.h"
#include "text/tokenizer.h"

typedef struct mka_block {
    mka_layer attention;
    const float *attention_norm, *ffn_norm;
    const float *attention_post_norm, *ffn_post_norm; /* or NULL */
    mka_matrix gate, up, down;
} mka_block;

struct mka_model {
    mka_engine *engine;
    mka_file *file, *router;    /* mapped as long as the model lives; router may be NULL */
    void *image, *router_image; /* the files' bytes when they were made in memory (random.c), or NULL */
    size_t image_bytes, router_bytes;
    mka_sizes sizes;
    mka_matrix embedding, output;
    const float *output_norm;
    mka_block *blocks; /* [sizes.layers] */
    mka_matrix *heads; /* MLA: k_absorb, k_up, v_up of every layer and head */
    mka_rope ropes[MKA_ROPES];
    mka_residents *residents; /* what is on the engine's device; NULL without one */
    mka_arena copies;         /* norms, biases, derived matrices */
    mka_placement placement;  /* of the weights */
    unsigned char *placed;    /* copies of matrices on the nodes that read them; NULL: they are where the file is mapped */
    size_t placed_bytes;
    uint64_t parameters, weight_bytes;
    mka_type weight_type;
    mka_tokenizer *tokenizer;  /* NULL when the file has no vocabulary */
    char *chat_template;       /* Jinja text, or NULL */
    char *bos_text, *eos_text; /* of those tokens, "" when there are none */
};

/* What tells models apart whose sessions must not be mixed up: the sizes and rotations of all layers, and of every tensor the
 * name, type, shape and three samples of its bytes. Touches a few pages of each tensor. */
uint64_t mka_model_fingerprint(const mka_model *model);

/* Finds every tensor that sizes asks for, checks its shape and type, and fills blocks, embedding, output and ropes. path is for
 * messages. On failure the model is to be destroyed as a whole. */
mka_status mka_weights_bind(mka_model *model, const char *path, mka_error *error);

/* Copies matrices to the NUMA nodes whose threads read them, where there are several and they have room: one line of log says
 * so, or why not. MKA_BAD_ARGUMENT: there is no such mode. */
mka_status mka_weights_place(mka_model *model, mka_numa_mode mode, mka_error *error);
/* Fills the part of a report that is about weights, of an engine's placement. */
void mka_weights_ask(const mka_model *model, mka_numa_report *report);

/* Opens a router file and turns the layers that it names into MKA or FastMKA layers. */
mka_status mka_router_load(mka_model *model, const char *path, mka_error *error);
/* The second half of it: model->router is open. */
mka_status mka_router_bind(mka_model *model, const char *path, mka_error *error);

/* Fills tokenizer and chat_template from the model's GGUF, or from a folder's tokenizer files. A model without any vocabulary is
 * fine (MKA_OK) unless needed is 1. */
mka_status mka_vocab_from_gguf(mka_model *model, const char *path, int needed, mka_error *error);
mka_status mka_vocab_from_folder(mka_model *model, const char *folder, int needed, mka_error *error);

#endif
