/* hf - a Hugging Face tokenizer.json (and tokenizer_config.json) as the vocabulary that a GGUF of the same model would state.
 *
 * Vocabularies of the SentencePiece kind carry merges there and scores in GGUF files. Both order the same joins; scores are made
 * from the places in the list, so that ties are settled as SentencePiece and llama.cpp settle them.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/internal.h"

#define LOWER_BLOCK "\xE2\x96\x81"
#define MAX_TOKENS  (1 << 24)

typedef struct builder {
    const char *name;
    const mka_json *root, *config, *model;
    mka_error *error;
    size_t count;
    mka_bytes *tokens; /* borrowed from the document, but for those in texts */
    int *kinds;        /* MKA_TOKEN_* */
    unsigned char *strip;
    float *scores;
    mka_buffer texts;       /* tokens that are not in the document as they are; reserved before it is filled */
    mka_buffer merge_texts; /* "left right", one after the other */
    mka_bytes *merges;
    size_t merge_count;
    mka_special special;
    mka_vocab_extra extra;
    char *patterns[MKA_MAX_PATTERNS];
} builder;

static mka_status no_memory(const builder *b) {
    return mka_fail(b->error, MKA_NO_MEMORY, "%s: no memory for its tokenizer.json", b->name);
}

static mka_bytes bytes_of(const mka_json *string) {
    return (mka_bytes){mka_json_string(string), mka_json_length(string)};
}

/* ---- tokens ---- */

static mka_status read_id(const builder *b, const mka_json *object, const char *key, int64_t *id) {
    return mka_json_int(object, key, -1, -1, MAX_TOKENS - 1, id, b->error);
}

/* How many rows the ids need; all must be whole numbers in range. */
static mka_status measure(builder *b, const mka_json *vocabulary, const mka_json *added, int rows) {
    void *cursor = NULL;
    const char *key;
    const mka_json *value;
    int64_t id;
    b->count = rows > 0 ? (size_t)rows : 0;
    while (mka_json_next(vocabulary, &cursor, &key, &value)) {
        mka_status status = read_id(b, vocabulary, key, &id);
        if (status != MKA_OK) return status;
        if (id < 0) return mka_fail(b->error, MKA_BAD_FILE, "%s: token '%.40s' of tokenizer.json has no id", b->name, key);
        if ((size_t)id >= b->count) b->count = (size_t)id + 1;
    }
    for (size_t i = 0; i < mka_json_length(added); i++) {
        mka_status status = read_id(b, mka_json_at(added, i), "id", &id);
        if (status != MKA_OK) return status;
        if (id < 0 || !mka_json_string(mka_json_get(mka_json_at(added, i), "content"))) {
            return mka_fail(b->error, MKA_BAD_FILE, "%s: added_tokens[%zu] of tokenizer.json has no id or no content", b->name,
                            i);
        }
        if ((size_t)id >= b->count) b->count = (size_t)id + 1;
    }
    return MKA_OK;
}

static int begins(mka_bytes text, const char *prefix) {
    size_t length = strlen(prefix);
    return text.length >= length && memcmp(text.bytes, prefix, length) == 0;
}

static int ends(mka_bytes text, const char *suffix) {
    size_t length = strlen(suffix);
    return text.length >= length && memcmp(text.bytes + text.length - length, suffix, length) == 0;
}

/* Tokens that are control tokens although the file does not call them special: the rule that GGUF files were written by. */
static int looks_special(mka_bytes text) {
    static const char *const known[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]", NULL};
    for (const char *const *one = known; *one; one++)
        if (text.length == strlen(*one) && begins(text, *one)) return 1;
    return begins(text, "<unused") || (begins(text, "<|") && ends(text, "|>")) ||
           (begins(text, "<\xEF\xBD\x9C") && ends(text, "\xEF\xBD\x9C>"));
}

/* The text as users type it: U+2581 is a space there. texts has room. */
static mka_bytes typed(builder *b, mka_bytes text) {
    if (!memmem(text.bytes, text.length, LOWER_BLOCK, 3)) return text;
    char *out = b->texts.bytes + b->texts.length;
    size_t length = 0;
    for (size_t i = 0; i < text.length; length++) {
        int block = text.length - i >= 3 && memcmp(text.bytes + i, LOWER_BLOCK, 3) == 0;
        out[length] = block ? ' ' : text.bytes[i];
        i += block ? 3 : 1;
    }
    b->texts.length += length;
    return (mka_bytes){out, length};
}

static int flag(const mka_json *object, const char *key) {
    int value = 0;
    return mka_json_bool(object, key, 0, &value, NULL) == MKA_OK && value;
}

static void add_added(builder *b, const mka_json *entry, size_t id) {
    mka_bytes text = bytes_of(mka_json_get(entry, "content"));
    int control = flag(entry, "special") || looks_special(text);
    b->kinds[id] = control ? MKA_TOKEN_CONTROL : MKA_TOKEN_USER_DEFINED;
    b->tokens[id] = control ? text : typed(b, text);
    if (flag(entry, "lstrip")) b->strip[id] |= MKA_ATTR_LSTRIP;
    if (flag(entry, "rstrip")) b->strip[id] |= MKA_ATTR_RSTRIP;
}

static mka_status read_tokens(builder *b, int rows) {
    const mka_json *vocabulary = mka_json_get(b->model, "vocab"), *added = mka_json_get(b->root, "added_tokens"), *value;
    void *cursor = NULL;
    const char *key;
    int64_t id;
    size_t typed_bytes = 1;
    if (mka_json_type(vocabulary) != MKA_JSON_OBJECT) {
        return mka_fail(b->error, MKA_BAD_FILE, "%s: tokenizer.json has no model.vocab", b->name);
    }
    mka_status status = measure(b, vocabulary, added, rows);
    if (status != MKA_OK) return status;
    for (size_t i = 0; i < mka_json_length(added); i++)
        typed_bytes += mka_json_length(mka_json_get(mka_json_at(added, i), "content"));
    b->tokens = calloc(b->count + 1, sizeof *b->tokens);
    b->kinds = calloc(b->count + 1, sizeof *b->kinds);
    b->strip = calloc(b->count + 1, 1);
    if (!b->tokens || !b->kinds || !b->strip || !mka_grow(&b->texts.bytes, &b->texts.room, typed_bytes, 1)) return no_memory(b);
    for (size_t i = 0; i < b->count; i++) b->kinds[i] = MKA_TOKEN_UNUSED;
    while (mka_json_next(vocabulary, &cursor, &key, &value)) {
        (void)read_id(b, vocabulary, key, &id);
        mka_bytes text = {key, strlen(key)};
        if (b->tokens[id].length > 0) {
            return mka_fail(b->error, MKA_BAD_FILE, "%s: tokens '%.40s' and '%.40s' of tokenizer.json have the same id", b->name,
                            b->tokens[id].bytes, key);
        }
        int byte = b->extra.byte_fallback && mka_byte_token(text.bytes, text.length) >= 0;
        b->tokens[id] = text;
        b->kinds[id] = byte ? MKA_TOKEN_BYTE : MKA_TOKEN_NORMAL;
    }
    for (size_t i = 0; i < mka_json_length(added); i++) {
        (void)read_id(b, mka_json_at(added, i), "id", &id);
        add_added(b, mka_json_at(added, i), (size_t)id);
    }
    return MKA_OK;
}

/* ---- merges ---- */

/* A merge is "left right" or ["left", "right"]; both become the former. */
static int merge_text(const mka_json *merge, mka_bytes *left, mka_bytes *right) {
    if (mka_json_type(merge) == MKA_JSON_STRING) {
        mka_bytes text = bytes_of(merge);
        const char *space = text.length > 1 ? memchr(text.bytes + 1, ' ', text.length - 1) : NULL;
        if (!space) return 0;
        *left = (mka_bytes){text.bytes, (size_t)(space - text.bytes)};
        *right = (mka_bytes){space + 1, text.length - left->length - 1};
    } else {
        if (mka_json_length(merge) != 2) return 0;
        *left = bytes_of(mka_json_at(merge, 0));
        *right = bytes_of(mka_json_at(merge, 1));
    }
    return left->bytes && right->bytes && left->length > 0 && right->length > 0 &&
           !memchr(left->bytes + 1, ' ', left->length - 1);
}

static mka_status read_merges(builder *b) {
    const mka_json *list = mka_json_get(b->model, "merges");
    size_t offset = 0, count = mka_json_length(list), at;
    mka_buffer texts = {0};
    mka_bytes left, right;
    if (mka_json_type(list) != MKA_JSON_ARRAY) {
        return mka_fail(b->error, MKA_BAD_FILE, "%s: tokenizer.json has no model.merges", b->name);
    }
    b->merges = calloc(count + 1, sizeof *b->merges);
    if (!b->merges) return no_memory(b);
    for (size_t i = 0; i < count; i++) {
        if (!merge_text(mka_json_at(list, i), &left, &right)) {
            free(texts.bytes);
            return mka_fail(b->error, MKA_BAD_FILE, "%s: model.merges[%zu] of tokenizer.json is not a pair of tokens", b->name,
                            i);
        }
        at = texts.length;
        if (!mka_buffer_add(&texts, left.bytes, left.length) || !mka_buffer_add(&texts, " ", 1) ||
            !mka_buffer_add(&texts, right.bytes, right.length)) {
            free(texts.bytes);
            return no_memory(b);
        }
        b->merges[i].length = texts.length - at;
    }
    for (size_t i = 0; i < count; offset += b->merges[i++].length) b->merges[i].bytes = texts.bytes + offset;
    b->merge_count = count;
    b->merge_texts = texts;
    return MKA_OK;
}

/* Scores for vocabularies of the SentencePiece kind: a token's is the place of the first merge that makes it. */
static mka_status make_scores(builder *b) {
    mka_strings tokens = {0};
    mka_buffer joined = {0};
    int done = 1;
    b->scores = malloc((b->count + 1) * sizeof *b->scores);
    done = b->scores != NULL;
    for (size_t i = 0; i < b->count && done; i++) {
        b->scores[i] = -INFINITY;
        /* an unused row keeps its number with a text that no merge can make */
        done = b->tokens[i].length ? mka_strings_add(&tokens, b->tokens[i].bytes, b->tokens[i].length)
                                   : mka_strings_add(&tokens, " ", 1);
    }
    for (size_t i = 0; i < b->merge_count && done; i++) {
        const char *space = memchr(b->merges[i].bytes + 1, ' ', b->merges[i].length - 1);
        size_t left = (size_t)(space - b->merges[i].bytes);
        joined.length = 0;
        done = mka_buffer_add(&joined, b->merges[i].bytes, left) &&
               mka_buffer_add(&joined, space + 1, b->merges[i].length - left - 1);
        uint32_t token = done ? mka_strings_find(&tokens, joined.bytes, joined.length) : MKA_NO_STRING;
        if (token != MKA_NO_STRING && isinf(b->scores[token])) b->scores[token] = -(float)i;
    }
    mka_strings_free(&tokens);
    free(joined.bytes);
    return done ? MKA_OK : no_memory(b);
}

/* ---- special tokens ---- */

static int find_token(const builder *b, const char *text) {
    size_t length = text ? strlen(text) : 0;
    for (size_t i = 0; i < b->count && length > 0; i++)
        if (b->tokens[i].length == length && memcmp(b->tokens[i].bytes, text, length) == 0) return (int)i;
    return -1;
}

/* bos_token and its like are a text, or an object with one. */
static int configured(const builder *b, const char *key) {
    const mka_json *value = mka_json_get(b->config, key);
    if (mka_json_type(value) == MKA_JSON_OBJECT) value = mka_json_get(value, "content");
    return find_token(b, mka_json_string(value));
}

/* A template's special token is named by its text. */
static int template_id(const builder *b, const mka_json *item) {
    return find_token(b, mka_json_string(mka_json_get(mka_json_get(item, "SpecialToken"), "id")));
}

/* What the post-processor puts around a text: what stands first is BOS, what stands last EOS. */
static void read_processor(builder *b, const mka_json *processor, int depth) {
    const char *type = mka_json_string(mka_json_get(processor, "type"));
    const mka_json *list = mka_json_get(processor, "processors"), *single = mka_json_get(processor, "single");
    size_t count = mka_json_length(single);
    if (!type || depth > 8) return;
    if (strcmp(type, "Sequence") == 0) {
        for (size_t i = 0; i < mka_json_length(list); i++) read_processor(b, mka_json_at(list, i), depth + 1);
    } else if (strcmp(type, "TemplateProcessing") == 0 && count > 1) {
        int first = template_id(b, mka_json_at(single, 0)), last = template_id(b, mka_json_at(single, count - 1));
        if (first >= 0) b->special.bos = first;
        if (last >= 0) b->special.eos = last;
        b->special.add_bos = first >= 0;
        b->special.add_eos = last >= 0;
    }
}

static mka_status read_special(builder *b) {
    int value;
    const char *unknown = mka_json_string(mka_json_get(b->model, "unk_token"));
    b->special = (mka_special){-1, -1, -1, -1, -1, 0, 0};
    read_processor(b, mka_json_get(b->root, "post_processor"), 0);
    if ((value = configured(b, "bos_token")) >= 0) b->special.bos = value;
    if ((value = configured(b, "eos_token")) >= 0) b->special.eos = value;
    b->special.pad = configured(b, "pad_token");
    b->special.unknown = find_token(b, unknown);
    mka_status status = mka_json_bool(b->config, "add_bos_token", b->special.add_bos, &b->special.add_bos, b->error);
    if (status != MKA_OK) return status;
    return mka_json_bool(b->config, "add_eos_token", b->special.add_eos, &b->special.add_eos, b->error);
}

/* ---- all of it ---- */

static mka_status read_model(builder *b, int rows) {
    const char *type = mka_json_string(mka_json_get(b->model, "type"));
    const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    if (mka_json_type(b->model) != MKA_JSON_OBJECT)
        return mka_fail(b->error, MKA_BAD_FILE, "%s: tokenizer.json has no model", b->name);
    if (type && strcmp(type, "BPE") != 0) {
        return mka_fail(b->error, MKA_UNSUPPORTED, "%s: model type '%.40s' in tokenizer.json is not supported (BPE is)", b->name,
                        type);
    }
    for (int i = 0; i < 2; i++) {
        const char *affix = mka_json_string(mka_json_get(b->model, affixes[i]));
        if (affix && *affix)
            return mka_fail(b->error, MKA_UNSUPPORTED, "%s: model.%s in tokenizer.json is not supported", b->name, affixes[i]);
    }
    mka_status status = mka_json_bool(b->model, "byte_fallback", 0, &b->extra.byte_fallback, b->error);
    if (status == MKA_OK) status = mka_json_bool(b->model, "ignore_merges", 0, &b->extra.ignore_merges, b->error);
    if (status == MKA_OK) status = mka_json_bool(b->model, "fuse_unk", 0, &b->extra.fuse_unknown, b->error);
    if (status == MKA_OK) status = mka_hf_rules(b->root, b->name, &b->extra, b->patterns, b->error);
    if (status == MKA_OK) status = read_tokens(b, rows);
    if (status == MKA_OK) status = read_merges(b);
    if (status == MKA_OK) status = read_special(b);
    int sentencepiece = b->extra.escape_spaces && b->extra.byte_fallback && !b->extra.byte_letters && b->extra.pattern_count == 0;
    if (status == MKA_OK && sentencepiece && !b->extra.ignore_merges) status = make_scores(b);
    return status;
}

mka_status mka_tokenizer_from_json(const mka_json *tokenizer_json, const mka_json *config_json, const char *name, int vocabulary,
                                   mka_tokenizer **tokenizer, mka_error *error) {
    builder b = {.name = name, .root = tokenizer_json, .config = config_json, .error = error};
    *tokenizer = NULL;
    b.model = mka_json_get(tokenizer_json, "model");
    if (vocabulary < 0 || vocabulary > MAX_TOKENS)
        return mka_fail(error, MKA_BAD_ARGUMENT, "%s: a vocabulary of %d rows", name, vocabulary);
    mka_status status = read_model(&b, vocabulary);
    if (status == MKA_OK) {
        b.extra.strip = b.strip;
        const mka_vocab_spec spec = {.name = name,
                                     .model = "tokenizer.json",
                                     .count = b.count,
                                     .tokens = b.tokens,
                                     .scores = b.scores,
                                     .kinds = b.kinds,
                                     .merge_count = b.merge_count,
                                     .merges = b.merges,
                                     .special = b.special,
                                     .add_space_prefix = -1,
                                     .remove_extra_whitespace = -1};
        status = mka_tokenizer_make(&spec, &b.extra, tokenizer, error);
    }
    for (int i = 0; i < MKA_MAX_PATTERNS; i++) free(b.patterns[i]);
    free(b.tokens);
    free(b.kinds);
    free(b.strip);
    free(b.scores);
    free(b.texts.bytes);
    free(b.merge_texts.bytes);
    free(b.merges);
    return status;
}
