/* arch_hf - a model's sizes from a Hugging Face config.json, including the several spellings that its versions have had. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch.h"
#include "base/status.h"

typedef struct reader {
    const mka_json *config;
    const char *path;
    mka_error *error;
    mka_status status; /* the first failure; later reads do nothing */
} reader;

/* Notes what a read returned; a value does not know which file it came from. */
static void took(reader *r, mka_status status) {
    r->status = status ? mka_fail_prefix(r->error, status, "%s/config.json", r->path) : MKA_OK;
}

static int64_t whole(reader *r, const mka_json *object, const char *key, int needed, int64_t fallback) {
    int64_t value = fallback;
    if (r->status) return fallback;
    mka_json_kind kind = mka_json_type(mka_json_get(object, key));
    if (needed && kind == MKA_JSON_NONE)
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: config.json has no %s", r->path, key);
    else
        took(r, mka_json_int(object, key, fallback, INT32_MIN, INT32_MAX, &value, r->error));
    return value;
}

static double real(reader *r, const mka_json *object, const char *key, double fallback) {
    double value = fallback;
    if (!r->status) took(r, mka_json_real(object, key, fallback, &value, r->error));
    return value;
}

static int flag(reader *r, const char *key, int fallback) {
    int value = fallback;
    if (!r->status) took(r, mka_json_bool(r->config, key, fallback, &value, r->error));
    return value;
}

static const char *word(const mka_json *object, const char *key) {
    const char *text = mka_json_string(mka_json_get(object, key));
    return text ? text : "";
}

/* model_type to the name of an architecture. */
static const mka_arch *find_arch(const char *type) {
    static const char *const names[][2] = {{"llama", "llama"},           {"mistral", "llama"},        {"qwen2", "qwen2"},
                                           {"qwen3", "qwen3"},           {"gemma3_text", "gemma3"},   {"gemma3", "gemma3"},
                                           {"deepseek_v2", "deepseek2"}, {"deepseek_v3", "deepseek2"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(type, names[i][0])) return mka_arch_find(names[i][1]);
    return NULL;
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void yarn(reader *r, const mka_json *scaling, mka_sizes *s) {
    mka_rope_scaling *out = &s->rope_scaling;
    double mscale = real(r, scaling, "mscale", 0), all = real(r, scaling, "mscale_all_dim", 0);
    out->kind = MKA_ROPE_YARN;
    out->beta_fast = real(r, scaling, "beta_fast", 32);
    out->beta_slow = real(r, scaling, "beta_slow", 1);
    double magnitude =
        mscale != 0 && all != 0 ? yarn_scale(out->factor, mscale) / yarn_scale(out->factor, all) : yarn_scale(out->factor, 1);
    out->magnitude = real(r, scaling, "attention_factor", magnitude);
    if (s->variant == MKA_MLA && all != 0) s->score_scale *= yarn_scale(out->factor, all) * yarn_scale(out->factor, all);
}

static void scaling_of(reader *r, const mka_json *scaling, mka_sizes *s) {
    const char *kind = word(scaling, "rope_type");
    if (!kind[0]) kind = word(scaling, "type");
    mka_rope_scaling *out = &s->rope_scaling;
    *out = (mka_rope_scaling){.kind = MKA_ROPE_PLAIN, .factor = 1, .magnitude = 1};
    if (!kind[0] || !strcmp(kind, "default")) return;
    out->factor = real(r, scaling, "factor", 1);
    out->original_context = real(r, scaling, "original_max_position_embeddings", (double)s->context);
    if (!strcmp(kind, "linear")) {
        out->kind = MKA_ROPE_LINEAR;
    } else if (!strcmp(kind, "llama3")) {
        out->kind = MKA_ROPE_LLAMA3;
        out->low_factor = real(r, scaling, "low_freq_factor", 1);
        out->high_factor = real(r, scaling, "high_freq_factor", 4);
    } else if (!strcmp(kind, "yarn")) {
        yarn(r, scaling, s);
    } else if (!r->status) {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: rope_scaling of type '%s' is not supported", r->path, kind);
    }
}

/* rope_theta and rope_scaling, or the newer rope_parameters, which may have one object a kind of layer. */
static void rope(reader *r, mka_sizes *s) {
    const mka_json *parameters = mka_json_get(r->config, "rope_parameters");
    const mka_json *global = mka_json_get(parameters, "full_attention"), *local = mka_json_get(parameters, "sliding_attention");
    if (!global) global = parameters;
    s->rope_base = real(r, r->config, "rope_theta", real(r, global, "rope_theta", s->arch->window_period ? 1e6 : 10000));
    s->local_rope_base =
        s->arch->window_period ? real(r, r->config, "rope_local_base_freq", real(r, local, "rope_theta", 10000)) : s->rope_base;
    const mka_json *scaling = mka_json_get(r->config, "rope_scaling");
    scaling_of(r, mka_json_type(scaling) == MKA_JSON_OBJECT ? scaling : global, s);
}

static void windows(reader *r, mka_sizes *s) {
    const mka_json *types = mka_json_get(r->config, "layer_types");
    int used = s->arch->window_period || (flag(r, "use_sliding_window", 1) && strcmp(s->arch->name, "llama") == 0);
    if (types) used = 1;
    s->window = used ? whole(r, r->config, "sliding_window", 0, 0) : 0;
    mka_sizes_windows(s, (int)whole(r, r->config, "sliding_window_pattern", 0, s->arch->window_period));
    for (size_t i = 0; types && i < mka_json_length(types) && i < MKA_MAX_LAYERS; i++) {
        const char *kind = mka_json_string(mka_json_at(types, i));
        s->windowed[i] = s->window > 0 && kind && !strcmp(kind, "sliding_attention");
    }
    if (!types && s->window && flag(r, "use_sliding_window", 0) && strcmp(s->arch->name, "llama") != 0 &&
        !s->arch->window_period && !r->status)
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: use_sliding_window without layer_types is not supported", r->path);
}

static void heads(reader *r, mka_sizes *s) {
    s->heads = whole(r, r->config, "num_attention_heads", 1, 1);
    s->kv_heads = whole(r, r->config, "num_key_value_heads", 0, s->heads);
    if (s->heads < 1) return; /* the check of all sizes names it */
    s->head_dim = whole(r, r->config, "head_dim", 0, s->width / s->heads);
    s->value_dim = s->head_dim;
    if (s->variant == MKA_MLA) {
        s->kv_heads = s->heads;
        s->latent_dim = whole(r, r->config, "kv_lora_rank", 1, 0);
        s->q_latent_dim = whole(r, r->config, "q_lora_rank", 0, 0);
        s->nope_dim = whole(r, r->config, "qk_nope_head_dim", 1, 0);
        s->rope_dim = whole(r, r->config, "qk_rope_head_dim", 1, 0);
        s->value_dim = whole(r, r->config, "v_head_dim", 1, 0);
        s->head_dim = s->nope_dim + s->rope_dim;
    }
    s->rotated = s->variant == MKA_MLA ? s->rope_dim : s->head_dim;
    double scalar = real(r, r->config, "query_pre_attn_scalar", (double)s->head_dim);
    s->score_scale = 1 / sqrt(scalar > 0 ? scalar : 1);
}

static void refuse(reader *r, const mka_sizes *s) {
    const char *act = word(r->config, "hidden_act");
    if (!act[0]) act = word(r->config, "hidden_activation");
    int gelu = !strncmp(act, "gelu", 4), silu = !strcmp(act, "silu") || !strcmp(act, "swish");
    if (!r->status && act[0] && (s->arch->gelu ? !gelu : !silu))
        r->status =
            mka_fail(r->error, MKA_UNSUPPORTED, "%s: hidden_act '%s' is not supported for %s", r->path, act, s->arch->name);
    int64_t experts = whole(r, r->config, "n_routed_experts", 0, 0);
    if (!r->status && experts > 0 && whole(r, r->config, "first_k_dense_replace", 0, 0) < s->layers)
        r->status =
            mka_fail(r->error, MKA_UNSUPPORTED, "%s: layers of %lld experts are not supported", r->path, (long long)experts);
    if (!r->status && mka_json_type(mka_json_get(r->config, "quantization_config")) == MKA_JSON_OBJECT)
        r->status = mka_fail(r->error, MKA_UNSUPPORTED,
                             "%s: quantised safetensors (quantization_config) are not supported; use GGUF", r->path);
}

mka_status mka_sizes_from_hf(const mka_json *config, const char *path, mka_sizes *s, mka_error *error) {
    const char *type = word(config, "model_type");
    if (!type[0]) return mka_fail(error, MKA_BAD_FILE, "%s: config.json has no model_type", path);
    *s = (mka_sizes){.arch = find_arch(type), .naming = MKA_NAMES_HF};
    if (!s->arch)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: model_type '%s' is not supported; these architectures are: %s", path, type,
                        mka_arch_names());
    const mka_json *text = mka_json_get(config, "text_config"); /* models that also see keep their language part here */
    reader r = {text ? text : config, path, error, MKA_OK};
    s->variant = s->arch->variant;
    s->neighbours = s->arch->hf_neighbours;
    s->layers = whole(&r, r.config, "num_hidden_layers", 1, 0);
    s->width = whole(&r, r.config, "hidden_size", 1, 0);
    s->ffn = whole(&r, r.config, "intermediate_size", 1, 0);
    s->context = whole(&r, r.config, "max_position_embeddings", 0, s->arch->window_period ? 131072 : 2048);
    s->norm_eps = real(&r, r.config, "rms_norm_eps", 1e-6);
    s->norm_offset = s->arch->hf_norm_offset;
    /* the original rounds the factor to bfloat16; GGUF engines do not, and neither does this */
    s->embed_scale = s->arch->scale_embedding ? sqrt((double)s->width) : 1;
    s->tied = flag(&r, "tie_word_embeddings", s->arch->scale_embedding);
    const char *name = word(config, "_name_or_path");
    snprintf(s->name, sizeof s->name, "%s", name);
    heads(&r, s);
    windows(&r, s);
    rope(&r, s);
    refuse(&r, s);
    return r.status ? r.status : mka_sizes_check(s, path, error);
}
