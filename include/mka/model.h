/* mka/model.h - a loaded model: immutable weights and vocabulary, shared by any number of sessions and threads.
 *
 *   open (GGUF | folder with config.json, tokenizer.json, *.safetensors) -> check every shape -> map -> model
 */
#ifndef MKA_MODEL_H
#define MKA_MODEL_H

#include <mka/mka.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mka_model mka_model;

typedef struct mka_model_options {
    const char *router;  /* GGUF or safetensors file with trained MKA or FastMKA routers; NULL: plain attention */
    int vocabulary_only; /* 1: any architecture, no weights needed; only tokenize, detokenize and the template work */
    mka_numa_mode numa;  /* where weights lie. Default MKA_NUMA_AUTO */
} mka_model_options;

MKA_API void mka_model_defaults(mka_model_options *options);

/* Loads path: a GGUF file, a Hugging Face model folder, or a safetensors file of the project's reference models.
 * options may be NULL. The engine must outlive the model. Weights stay mapped; only norms, biases and derived matrices
 * are copied, and on several NUMA nodes matrices, where there is room: to the nodes whose threads read their rows. Failures name
 * the file and the field: MKA_IO, MKA_BAD_FILE (also a missing tensor or shapes that disagree), MKA_UNSUPPORTED (architecture,
 * tensor type, tokenizer, experts), MKA_NO_MEMORY. */
MKA_API mka_status mka_model_load(mka_engine *engine, const char *path, const mka_model_options *options, mka_model **model,
                                  mka_error *error);
MKA_API void mka_model_destroy(mka_model *model);

/* Makes a model of a known shape ("qwen2.5-0.5b", ...) with random weights of type, in memory: it runs as a model of that shape
 * does and says nothing sensible. It has no vocabulary, and weights that are not placed by NUMA node. router: NULL, or "fastmka"
 * or "mka" for random routers in every layer. MKA_BAD_ARGUMENT: there is no such shape or router, or its rows are not whole
 * blocks of type; MKA_NO_MEMORY. */
MKA_API mka_status mka_model_random(mka_engine *engine, const char *shape, mka_type type, const char *router, uint64_t seed,
                                    mka_model **model, mka_error *error);

/* Names that mka_model_random takes, ended by NULL. Static. */
MKA_API const char *const *mka_model_shapes(void);

typedef struct mka_model_info {
    const char *architecture; /* "llama", ...; the three strings belong to the model */
    const char *name;         /* as the file states it; "" when it does not */
    const char *attention;    /* variant of the layers: "gqa", "mla", "fastmka", ... */
    int layers, width, heads, kv_heads, head_dim, ffn, vocabulary;
    int context;       /* tokens the model was trained for */
    int window;        /* sliding window of the layers that have one, 0 when none has */
    int window_layers; /* how many layers have it */
    uint64_t parameters;
    uint64_t weight_bytes; /* of the tensors that are used, as stored */
    mka_type weight_type;  /* the type that holds most of them */
} mka_model_info;

MKA_API void mka_model_get_info(const mka_model *model, mka_model_info *info);

/* Bytes of cache that one token adds, over all layers, when keys and values are stored as given. 0 for a type that a
 * cache cannot have. */
MKA_API size_t mka_model_cache_bytes(const mka_model *model, mka_type key_type, mka_type value_type);

/* ---- text ---- */

/* Special tokens; -1 where the model has none. */
typedef struct mka_special {
    int bos, eos, eot, unknown, pad;
    int add_bos, add_eos; /* whether the model wants them around a prompt */
} mka_special;

MKA_API void mka_model_special(const mka_model *model, mka_special *special);

/* 1 when generation should end after this token: EOS, end of turn, end of text, whatever the vocabulary has. */
MKA_API int mka_model_is_end(const mka_model *model, int token);

#define MKA_TOKENIZE_SPECIAL 1u /* text may name special tokens such as <|im_end|> */
#define MKA_TOKENIZE_BOS     2u /* add BOS and EOS as the model says */

/* Text (length bytes, any bytes; invalid UTF-8 is read as the replacement character or byte by byte, as the vocabulary
 * does) to ids. At most room ids are written to ids, which
 * may be NULL when room is 0; *count gets how many there are in all, so a first call can measure. */
MKA_API mka_status mka_tokenize(const mka_model *model, const char *text, size_t length, unsigned flags, int *ids, size_t room,
                                size_t *count, mka_error *error);

/* The bytes of one token, which need not be whole UTF-8 characters: join pieces before showing them (mka_utf8_whole).
 * Control tokens have no text unless special is 1. At most room bytes are written, without NUL; returns how many the piece
 * has in all (0 for an id outside the vocabulary). */
MKA_API size_t mka_token_piece(const mka_model *model, int token, int special, char *bytes, size_t room);

/* How many of the first length bytes form whole UTF-8 characters, for streaming: the rest (at most 3 bytes) is the
 * beginning of a character that the next token may complete. Bytes that can never be valid count as whole. */
MKA_API size_t mka_utf8_whole(const char *bytes, size_t length);

typedef struct mka_message {
    const char *role;    /* "system", "user" or "assistant" */
    const char *content; /* UTF-8, ends in NUL */
} mka_message;

/* Wraps messages in the model's chat template. name: one of mka_chat_templates, or NULL to choose from the template text
 * that the model carries. add_assistant: 1 to open the next assistant turn. Writes at most room bytes including the NUL;
 * *length gets the whole length without it. The result is to be tokenized with MKA_TOKENIZE_SPECIAL and without
 * MKA_TOKENIZE_BOS when it begins with the BOS token's text, which mka_chat_format never writes twice.
 * MKA_UNSUPPORTED: no template is known for this model; the message quotes the beginning of the template. */
MKA_API mka_status mka_chat_format(const mka_model *model, const char *name, const mka_message *messages, int count,
                                   int add_assistant, char *text, size_t room, size_t *length, mka_error *error);

/* Names that --template and mka_chat_format take, ended by NULL. Static. */
MKA_API const char *const *mka_chat_templates(void);

#ifdef __cplusplus
}
#endif
#endif
