/* vocab - fills the tokenizer and the chat template from what a model file carries. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "model.h"

typedef struct reader {
    const mka_file *file;
    const char *path;
    mka_error *error;
    mka_status status;
} reader;

/* A string entry as an owned C string; NULL when absent. */
static char *text(const mka_file *file, const char *key) {
    const char *bytes;
    size_t length;
    const mka_meta *meta = mka_file_meta_find(file, key);
    return meta && mka_meta_string(file, meta, 0, &bytes, &length) ? strndup(bytes, length) : NULL;
}

static int whole(const mka_file *file, const char *key, int fallback) {
    int64_t value;
    const mka_meta *meta = mka_file_meta_find(file, key);
    return meta && mka_meta_int(file, meta, 0, &value) && value >= -1 && value <= INT32_MAX ? (int)value : fallback;
}

/* The array at key with items of size bytes, as an allocated copy made by fill; NULL with count 0 when it is absent. */
static void *list(reader *r, const char *key, size_t size, size_t *count,
                  int (*fill)(const reader *, const mka_meta *, size_t, void *)) {
    const mka_meta *meta = mka_file_meta_find(r->file, key);
    *count = 0;
    if (!meta || r->status) return NULL;
    if (meta->kind != MKA_META_ARRAY || meta->count > 1U << 24) {
        r->status =
            mka_fail(r->error, MKA_BAD_FILE, "%s: metadata key %s is not a list of at most %u items", r->path, key, 1U << 24);
        return NULL;
    }
    unsigned char *items = malloc((size_t)meta->count * size + 1);
    if (!items) {
        r->status = mka_fail(r->error, MKA_NO_MEMORY, "%s: no memory for %s", r->path, key);
        return NULL;
    }
    for (size_t i = 0; i < meta->count; i++)
        if (!fill(r, meta, i, items + i * size)) {
            r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: item %zu of %s is of the wrong kind", r->path, i, key);
            free(items);
            return NULL;
        }
    *count = (size_t)meta->count;
    return items;
}

static int fill_bytes(const reader *r, const mka_meta *meta, size_t index, void *item) {
    mka_bytes *bytes = item;
    return mka_meta_string(r->file, meta, index, &bytes->bytes, &bytes->length);
}

static int fill_float(const reader *r, const mka_meta *meta, size_t index, void *item) {
    double value;
    if (!mka_meta_float(r->file, meta, index, &value)) return 0;
    *(float *)item = (float)value;
    return 1;
}

static int fill_kind(const reader *r, const mka_meta *meta, size_t index, void *item) {
    int64_t value;
    if (!mka_meta_int(r->file, meta, index, &value) || value < 0 || value > INT32_MAX) return 0;
    *(int *)item = (int)value;
    return 1;
}

/* The text of a special token, for templates that write it out. */
static char *token_text(const mka_model *m, int token) {
    char piece[256];
    size_t length = token >= 0 ? mka_tokenizer_piece(m->tokenizer, token, 1, piece, sizeof piece) : 0;
    return strndup(piece, length < sizeof piece ? length : 0);
}

static mka_status finish(mka_model *m, mka_error *error) {
    mka_special special;
    mka_tokenizer_special(m->tokenizer, &special);
    m->bos_text = token_text(m, special.bos);
    m->eos_text = token_text(m, special.eos);
    return m->bos_text && m->eos_text ? MKA_OK : mka_fail(error, MKA_NO_MEMORY, "no memory for the vocabulary");
}

mka_status mka_vocab_from_gguf(mka_model *m, const char *path, int needed, mka_error *error) {
    reader r = {m->file, path, error, MKA_OK};
    size_t scores = 0, kinds = 0;
    char *model = text(m->file, "tokenizer.ggml.model"), *pre = text(m->file, "tokenizer.ggml.pre"),
         *arch = text(m->file, "general.architecture");
    char *title = text(m->file, "general.name");
    if (!model) {
        free(pre);
        free(arch);
        free(title);
        return needed ? mka_fail(error, MKA_BAD_FILE, "%s: it has no vocabulary (metadata key tokenizer.ggml.model)", path)
                      : MKA_OK;
    }
    mka_vocab_spec spec = {.name = path, .model = model, .pre = pre, .architecture = arch, .title = title};
    void *tokens = list(&r, "tokenizer.ggml.tokens", sizeof(mka_bytes), &spec.count, fill_bytes);
    void *score_list = list(&r, "tokenizer.ggml.scores", sizeof(float), &scores, fill_float);
    void *kind_list = list(&r, "tokenizer.ggml.token_type", sizeof(int), &kinds, fill_kind);
    void *merges = list(&r, "tokenizer.ggml.merges", sizeof(mka_bytes), &spec.merge_count, fill_bytes);
    spec.tokens = tokens;
    spec.scores = score_list;
    spec.kinds = kind_list;
    spec.merges = merges;
    spec.special = (mka_special){
        whole(m->file, "tokenizer.ggml.bos_token_id", -1),     whole(m->file, "tokenizer.ggml.eos_token_id", -1),
        whole(m->file, "tokenizer.ggml.eot_token_id", -1),     whole(m->file, "tokenizer.ggml.unknown_token_id", -1),
        whole(m->file, "tokenizer.ggml.padding_token_id", -1), whole(m->file, "tokenizer.ggml.add_bos_token", -1),
        whole(m->file, "tokenizer.ggml.add_eos_token", -1)};
    spec.add_space_prefix = whole(m->file, "tokenizer.ggml.add_space_prefix", -1);
    spec.remove_extra_whitespace = whole(m->file, "tokenizer.ggml.remove_extra_whitespaces", -1);
    spec.lowercase = whole(m->file, "tokenizer.ggml.normalizer.lowercase", -1);
    spec.strip_accents = whole(m->file, "tokenizer.ggml.normalizer.strip_accents", -1);
    spec.separator = whole(m->file, "tokenizer.ggml.seperator_token_id", -1); /* spelled so in files */
    if (!r.status && !tokens) r.status = mka_fail(error, MKA_BAD_FILE, "%s: metadata key tokenizer.ggml.tokens is missing", path);
    if (!r.status && ((score_list && scores != spec.count) || (kind_list && kinds != spec.count)))
        r.status = mka_fail(error, MKA_BAD_FILE, "%s: its vocabulary has %zu tokens but %zu scores and %zu kinds", path,
                            spec.count, scores, kinds);
    if (!r.status) r.status = mka_tokenizer_create(&spec, &m->tokenizer, error);
    if (!r.status) r.status = finish(m, error);
    if (!r.status) m->chat_template = text(m->file, "tokenizer.chat_template");
    free(tokens);
    free(score_list);
    free(kind_list);
    free(merges);
    free(model);
    free(pre);
    free(arch);
    free(title);
    return r.status;
}

/* ---- Hugging Face folders ---- */

static mka_status read_optional(const char *folder, const char *file, mka_json **json, mka_error *error) {
    char path[4096];
    *json = NULL;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return mka_fail(error, MKA_IO, "%s: the path is too long", folder);
    FILE *probe = fopen(path, "rb");
    if (!probe) return MKA_OK;
    fclose(probe);
    return mka_json_read(path, json, error);
}

/* chat_template in tokenizer_config.json is a string, or a list of {name, template} of which "default" counts. */
static char *template_of(const mka_json *config) {
    const mka_json *value = mka_json_get(config, "chat_template");
    for (size_t i = 0; mka_json_type(value) == MKA_JSON_ARRAY && i < mka_json_length(value); i++) {
        const mka_json *entry = mka_json_at(value, i);
        const char *name = mka_json_string(mka_json_get(entry, "name"));
        if (name && !strcmp(name, "default")) {
            value = mka_json_get(entry, "template");
            break;
        }
    }
    const char *found = mka_json_string(value);
    return found ? strdup(found) : NULL;
}

/* Newer folders keep the template in a file of its own. */
static char *template_file(const char *folder) {
    char path[4096], *found = NULL;
    if (snprintf(path, sizeof path, "%s/chat_template.jinja", folder) >= (int)sizeof path) return NULL;
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    enum { MOST = 1 << 20 };
    found = malloc(MOST);
    size_t length = found ? fread(found, 1, MOST - 1, file) : 0;
    if (found) found[length] = '\0';
    fclose(file);
    return found;
}

mka_status mka_vocab_from_folder(mka_model *m, const char *folder, int needed, mka_error *error) {
    mka_json *tokenizer = NULL, *config = NULL;
    mka_status status = read_optional(folder, "tokenizer.json", &tokenizer, error);
    if (!status) status = read_optional(folder, "tokenizer_config.json", &config, error);
    if (!status && !tokenizer && needed) status = mka_fail(error, MKA_BAD_FILE, "%s: it has no tokenizer.json", folder);
    if (!status && tokenizer) {
        status = mka_tokenizer_from_json(tokenizer, config, folder, (int)m->sizes.vocabulary, &m->tokenizer, error);
        if (!status) status = finish(m, error);
        if (!status) m->chat_template = template_of(config);
        if (!status && !m->chat_template) m->chat_template = template_file(folder);
    }
    mka_json_free(tokenizer);
    mka_json_free(config);
    return status;
}
