/* tokenizer - text to token ids and back: byte-level BPE and SentencePiece-style merging, as llama.cpp computes them.
 *
 * Knows no file format: model/vocab fills a mka_vocab_spec from GGUF metadata or asks mka_tokenizer_from_json for a Hugging
 * Face tokenizer.json. Immutable after creation; any number of threads may use one at once.
 */
#ifndef MKA_TEXT_TOKENIZER_H
#define MKA_TEXT_TOKENIZER_H

#include <mka/model.h>

#include "base/json.h"

typedef struct mka_tokenizer mka_tokenizer;

typedef enum mka_token_kind { /* GGUF's tokenizer.ggml.token_type */
                              MKA_TOKEN_NORMAL = 1,
                              MKA_TOKEN_UNKNOWN,
                              MKA_TOKEN_CONTROL,
                              MKA_TOKEN_USER_DEFINED,
                              MKA_TOKEN_UNUSED,
                              MKA_TOKEN_BYTE
} mka_token_kind;

typedef struct mka_bytes {
    const char *bytes;
    size_t length;
} mka_bytes;

/* A vocabulary as GGUF metadata states it. All memory is borrowed until create returns. */
typedef struct mka_vocab_spec {
    const char *name;         /* of the file, for messages */
    const char *model;        /* tokenizer.ggml.model: "gpt2", "llama", "gemma4" or "bert" */
    const char *pre;          /* tokenizer.ggml.pre, or NULL when the file has none */
    const char *architecture; /* general.architecture: some rules depend on it; NULL when unknown */
    const char *title;        /* general.name, likewise (Phi-3 is known by it alone); NULL when the file has none */
    size_t count;
    const mka_bytes *tokens; /* [count] */
    const float *scores;     /* [count] or NULL */
    const int *kinds;        /* [count] of mka_token_kind, or NULL (all normal) */
    size_t merge_count;
    const mka_bytes *merges;      /* [merge_count] "left right"; NULL: the file has no list (an empty one is not NULL) */
    mka_special special;          /* ids as the file gives them, -1 where it does not; add_bos and add_eos -1 where it does not */
    int add_space_prefix;         /* -1 where the file does not say */
    int remove_extra_whitespace;  /* -1 likewise */
    int lowercase, strip_accents; /* "bert" alone: 1, 0, or -1 where the file does not say */
    int separator;                /* "bert" alone: id as the file gives it, -1 where it does not */
} mka_vocab_spec;

/* Checks what is stated and builds the tables. Special ids outside the vocabulary count as not stated, and a merge may name texts
 * that are no tokens, as in llama.cpp. MKA_BAD_FILE (an empty vocabulary, missing scores or merges, a merge that names no two
 * texts), MKA_UNSUPPORTED (names the model or pre-tokeniser), MKA_NO_MEMORY. */
mka_status mka_tokenizer_create(const mka_vocab_spec *spec, mka_tokenizer **tokenizer, mka_error *error);

/* From a parsed Hugging Face tokenizer.json (model BPE, in byte letters or of the SentencePiece kind), and tokenizer_config.json
 * where there is one (else NULL). Gives the ids that a GGUF of the same model gives: so NFC is taken as read, and a prefix space
 * stands after every special token. name is for messages, vocabulary the model's row count, which may exceed the tokens listed.
 * MKA_UNSUPPORTED names the model, normalizer or pre_tokenizer; MKA_BAD_FILE the field or the pattern that does not compile. */
mka_status mka_tokenizer_from_json(const mka_json *tokenizer_json, const mka_json *config_json, const char *name, int vocabulary,
                                   mka_tokenizer **tokenizer, mka_error *error);
void mka_tokenizer_destroy(mka_tokenizer *tokenizer);

int mka_tokenizer_count(const mka_tokenizer *tokenizer);
void mka_tokenizer_special(const mka_tokenizer *tokenizer, mka_special *special);
int mka_tokenizer_is_end(const mka_tokenizer *tokenizer, int token);

/* As mka_tokenize in mka/model.h. Byte-level BPE reads a byte that is no UTF-8 as U+FFFD, as llama.cpp does; the others have a
 * token for every byte or take it for unknown. */
mka_status mka_tokenizer_encode(const mka_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int *ids,
                                size_t room, size_t *count, mka_error *error);
/* As mka_token_piece in mka/model.h. */
size_t mka_tokenizer_piece(const mka_tokenizer *tokenizer, int token, int special, char *bytes, size_t room);

#endif
