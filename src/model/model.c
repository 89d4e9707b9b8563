/* model - the public face of a loaded model (mka/model.h): opening, facts, and text through the tokenizer it carries. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/status.h"
#include "text/chat.h"

void mka_model_defaults(mka_model_options *options) {
    *options = (mka_model_options){.router = NULL};
}

static mka_status load_folder(mka_model *m, const char *path, int vocabulary_only, mka_error *error) {
    char config_path[4096];
    mka_json *config = NULL;
    if (snprintf(config_path, sizeof config_path, "%s/config.json", path) >= (int)sizeof config_path)
        return mka_fail(error, MKA_IO, "%s: the path is too long", path);
    if (vocabulary_only) return mka_vocab_from_folder(m, path, 1, error);
    mka_status status = mka_json_read(config_path, &config, error);
    if (!status) status = mka_file_open(path, &m->file, error);
    if (!status) status = mka_sizes_from_hf(config, path, &m->sizes, error);
    if (!status) status = mka_weights_bind(m, path, error);
    if (!status) status = mka_vocab_from_folder(m, path, 0, error);
    mka_json_free(config);
    return status;
}

static mka_status load_file(mka_model *m, const char *path, int vocabulary_only, mka_error *error) {
    mka_status status = mka_file_open(path, &m->file, error);
    if (status) return status;
    int gguf = !strcmp(mka_file_format(m->file), "gguf");
    if (vocabulary_only && !gguf)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: a safetensors file has no vocabulary; give its folder", path);
    if (vocabulary_only) return mka_vocab_from_gguf(m, path, 1, error);
    status =
        gguf ? mka_sizes_from_gguf(m->file, path, &m->sizes, error) : mka_sizes_from_reference(m->file, path, &m->sizes, error);
    if (!status && gguf && mka_file_tensor_count(m->file) == 0)
        status =
            mka_fail(error, MKA_BAD_FILE, "%s: it holds a vocabulary only, no weights; it can only be used to tokenize", path);
    if (!status) status = mka_weights_bind(m, path, error);
    if (!status && gguf) status = mka_vocab_from_gguf(m, path, 0, error);
    return status;
}

mka_status mka_model_load(mka_engine *engine, const char *path, const mka_model_options *options, mka_model **out,
                          mka_error *error) {
    mka_model_options defaults;
    mka_model_defaults(&defaults);
    if (!options) options = &defaults;
    *out = NULL;
    mka_succeed(error);
    mka_model *m = calloc(1, sizeof *m);
    if (!m) return mka_fail(error, MKA_NO_MEMORY, "no memory for a model");
    m->engine = engine;
    struct stat info;
    int folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    mka_status status = (folder ? load_folder : load_file)(m, path, options->vocabulary_only, error);
    if (!status && options->router) status = mka_router_load(m, options->router, error);
    if (!status) status = mka_weights_place(m, options->numa, error);
    if (!status && engine->device) status = mka_residents_create(engine->device, &m->residents, error);
    if (status) {
        mka_model_destroy(m);
        return status;
    }
    *out = m;
    return MKA_OK;
}

void mka_model_destroy(mka_model *m) {
    if (!m) return;
    for (int i = 0; i < MKA_ROPES; i++) mka_rope_destroy(&m->ropes[i]);
    mka_residents_destroy(m->residents);
    mka_tokenizer_destroy(m->tokenizer);
    mka_arena_free(&m->copies);
    mka_pages_unmap(m->placed, m->placed_bytes);
    free(m->blocks);
    free(m->heads);
    free(m->chat_template);
    free(m->bos_text);
    free(m->eos_text);
    mka_file_close(m->file);
    mka_file_close(m->router);
    mka_pages_unmap(m->image, m->image_bytes);
    mka_pages_unmap(m->router_image, m->router_bytes);
    free(m);
}

void mka_model_get_info(const mka_model *m, mka_model_info *info) {
    const mka_sizes *s = &m->sizes;
    *info = (mka_model_info){.architecture = s->arch ? s->arch->name : "vocabulary",
                             .name = s->name,
                             .attention = "none",
                             .layers = (int)s->layers,
                             .width = (int)s->width,
                             .heads = (int)s->heads,
                             .kv_heads = (int)s->kv_heads,
                             .head_dim = (int)s->head_dim,
                             .ffn = (int)s->ffn,
                             .vocabulary = m->blocks      ? (int)s->vocabulary
                                           : m->tokenizer ? mka_tokenizer_count(m->tokenizer)
                                                          : 0,
                             .context = (int)s->context,
                             .parameters = m->parameters,
                             .weight_bytes = m->weight_bytes,
                             .weight_type = m->weight_type};
    if (!m->blocks) return;
    info->attention = mka_variant_name(&m->blocks[0].attention.config);
    for (int i = 0; i < s->layers; i++)
        if (m->blocks[i].attention.config.window) info->window = (int)s->window, info->window_layers++;
}

size_t mka_model_cache_bytes(const mka_model *m, mka_type key_type, mka_type value_type) {
    if (!mka_cache_type(key_type) || !mka_cache_type(value_type) || !m->blocks) return 0;
    size_t bytes = 0;
    for (int i = 0; i < m->sizes.layers; i++)
        bytes += mka_layer_cache_bytes(&m->blocks[i].attention.config, key_type, value_type);
    return bytes;
}

/* ---- text ---- */

void mka_model_special(const mka_model *m, mka_special *special) {
    *special = (mka_special){-1, -1, -1, -1, -1, 0, 0};
    if (m->tokenizer) mka_tokenizer_special(m->tokenizer, special);
}

int mka_model_is_end(const mka_model *m, int token) {
    return m->tokenizer && mka_tokenizer_is_end(m->tokenizer, token);
}

mka_status mka_tokenize(const mka_model *m, const char *text, size_t length, unsigned flags, int *ids, size_t room, size_t *count,
                        mka_error *error) {
    mka_succeed(error);
    *count = 0;
    if (!m->tokenizer) return mka_fail(error, MKA_UNSUPPORTED, "this model has no vocabulary, so it cannot take text");
    return mka_tokenizer_encode(m->tokenizer, text, length, flags, ids, room, count, error);
}

size_t mka_token_piece(const mka_model *m, int token, int special, char *bytes, size_t room) {
    return m->tokenizer ? mka_tokenizer_piece(m->tokenizer, token, special, bytes, room) : 0;
}

mka_status mka_chat_format(const mka_model *m, const char *name, const mka_message *messages, int count, int add_assistant,
                           char *text, size_t room, size_t *length, mka_error *error) {
    mka_succeed(error);
    *length = 0;
    int family = name ? mka_chat_by_name(name) : mka_chat_detect(m->chat_template);
    if (family == MKA_CHAT_UNKNOWN && name) return mka_fail(error, MKA_BAD_ARGUMENT, "there is no chat template '%s'", name);
    if (family == MKA_CHAT_UNKNOWN && !m->chat_template)
        return mka_fail(error, MKA_UNSUPPORTED,
                        "this model carries no chat template (a base model?); choose one by name to force it");
    if (family == MKA_CHAT_UNKNOWN)
        return mka_fail(error, MKA_UNSUPPORTED,
                        "this model's chat template is of no known family; choose one by name. It begins: %.120s",
                        m->chat_template);
    return mka_chat_write(family, m->chat_template, m->bos_text ? m->bos_text : "", m->eos_text ? m->eos_text : "", messages,
                          count, add_assistant, text, room, length, error);
}
