/* arch_gguf - a model's sizes from GGUF metadata. Defaults are those that converters and other engines agree on. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch.h"
#include "base/status.h"

typedef struct reader {
    const mka_file *file;
    const char *path, *arch;
    mka_error *error;
    mka_status status; /* the first failure; later reads do nothing */
} reader;

static const mka_meta *find(const reader *r, const char *suffix, char *key, size_t room) {
    snprintf(key, room, "%s.%s", r->arch, suffix);
    return mka_file_meta_find(r->file, key);
}

/* An integer that must be there (needed) or has a fallback. */
static int64_t whole(reader *r, const char *suffix, int needed, int64_t fallback) {
    char key[160];
    const mka_meta *meta = find(r, suffix, key, sizeof key);
    int64_t value = fallback;
    if (r->status) return fallback;
    if (!meta && needed)
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: metadata key %s is missing", r->path, key);
    else if (meta && meta->kind == MKA_META_ARRAY)
        r->status =
            mka_fail(r->error, MKA_UNSUPPORTED, "%s: %s differs from layer to layer, which is not supported", r->path, key);
    else if (meta && !mka_meta_int(r->file, meta, 0, &value))
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: metadata key %s is not an integer", r->path, key);
    return value;
}

static double real(reader *r, const char *suffix, int needed, double fallback) {
    char key[160];
    const mka_meta *meta = find(r, suffix, key, sizeof key);
    double value = fallback;
    if (r->status) return fallback;
    if (!meta && needed)
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: metadata key %s is missing", r->path, key);
    else if (meta && !mka_meta_float(r->file, meta, 0, &value))
        r->status = mka_fail(r->error, MKA_BAD_FILE, "%s: metadata key %s is not a number", r->path, key);
    return value;
}

/* Copies a string entry of any key; "" when it is absent or no string. */
static void text(const mka_file *file, const char *key, char *out, size_t room) {
    const char *bytes;
    size_t length;
    out[0] = '\0';
    const mka_meta *meta = mka_file_meta_find(file, key);
    if (meta && mka_meta_string(file, meta, 0, &bytes, &length))
        snprintf(out, room, "%.*s", (int)(length < room ? length : room - 1), bytes);
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* YaRN's magnitude; log_mul is DeepSeek's mscale_all_dim, whose mscale is the same unless it is 1. */
static void yarn(reader *r, mka_sizes *s, double log_mul) {
    mka_rope_scaling *scaling = &s->rope_scaling;
    scaling->beta_fast = real(r, "rope.scaling.yarn_beta_fast", 0, 32);
    scaling->beta_slow = real(r, "rope.scaling.yarn_beta_slow", 0, 1);
    scaling->magnitude = yarn_scale(scaling->factor, 1) * real(r, "rope.scaling.attn_factor", 0, 1);
    if (log_mul != 0) {
        double mscale = s->variant == MKA_MLA && log_mul != 1 ? log_mul : 1;
        scaling->magnitude *=
            yarn_scale(scaling->factor, mscale) / yarn_scale(scaling->factor, log_mul) / yarn_scale(scaling->factor, 1);
    }
    if (s->variant == MKA_MLA) {
        double m = scaling->magnitude * (1 + 0.1 * log_mul * log(scaling->factor));
        s->score_scale *= m * m;
    }
}

static void rope(reader *r, mka_sizes *s) {
    char key[160], kind[32];
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->arch);
    text(r->file, key, kind, sizeof kind);
    s->rope_base = real(r, "rope.freq_base", 0, 10000);
    s->local_rope_base = s->arch->window_period ? real(r, "rope.freq_base_swa", 0, 10000) : s->rope_base;
    s->rope_scaling.factor = real(r, "rope.scaling.factor", 0, real(r, "rope.scale_linear", 0, 1));
    s->rope_scaling.original_context = (double)whole(r, "rope.scaling.original_context_length", 0, s->context);
    s->rope_scaling.magnitude = 1;
    if (s->rope_scaling.factor == 0) s->rope_scaling.factor = 1;
    if (!strcmp(kind, "yarn")) {
        s->rope_scaling.kind = MKA_ROPE_YARN;
        yarn(r, s, real(r, "rope.scaling.yarn_log_multiplier", 0, 0) * 10);
    } else if (!kind[0] || !strcmp(kind, "linear")) {
        s->rope_scaling.kind = MKA_ROPE_LINEAR;
    } else if (strcmp(kind, "none") != 0 && !r->status) {
        r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: rotary scaling of type '%s' is not supported", r->path, kind);
    }
}

static void heads(reader *r, mka_sizes *s) {
    s->heads = whole(r, "attention.head_count", 1, 1);
    s->kv_heads = whole(r, "attention.head_count_kv", 0, s->heads);
    if (s->heads < 1) return; /* the check of all sizes names it */
    s->head_dim = whole(r, "attention.key_length", 0, s->width / s->heads);
    s->value_dim = whole(r, "attention.value_length", 0, s->width / s->heads);
    s->rotated = whole(r, "rope.dimension_count", 0, s->head_dim);
    if (s->variant == MKA_MLA) {
        s->kv_heads = s->heads;
        s->latent_dim = whole(r, "attention.kv_lora_rank", 1, 0);
        s->q_latent_dim = whole(r, "attention.q_lora_rank", 0, 0);
        s->rope_dim = s->rotated;
        s->head_dim = whole(r, "attention.key_length_mla", 0, s->head_dim);
        s->value_dim = whole(r, "attention.value_length_mla", 0, s->value_dim);
        s->nope_dim = s->head_dim - s->rope_dim;
    }
    s->score_scale = 1 / sqrt((double)(s->head_dim > 0 ? s->head_dim : 1));
    /* Gemma 3 27B alone scales by its width over its heads; 62 layers are how other engines know it. */
    if (!strcmp(s->arch->name, "gemma3") && s->layers == 62) s->score_scale = 1 / sqrt((double)(s->width / s->heads));
}

static void refuse_experts(reader *r, const mka_sizes *s) {
    int64_t experts = whole(r, "expert_count", 0, 0), dense = whole(r, "leading_dense_block_count", 0, 0);
    if (r->status || experts == 0 || (s->variant == MKA_MLA && dense >= s->layers)) return;
    r->status = mka_fail(r->error, MKA_UNSUPPORTED, "%s: layers of %lld experts are not supported", r->path, (long long)experts);
}

mka_status mka_sizes_from_gguf(const mka_file *file, const char *path, mka_sizes *s, mka_error *error) {
    char arch[64];
    text(file, "general.architecture", arch, sizeof arch);
    if (!arch[0]) return mka_fail(error, MKA_BAD_FILE, "%s: metadata key general.architecture is missing", path);
    *s = (mka_sizes){.arch = mka_arch_find(arch), .naming = MKA_NAMES_GGUF};
    if (!s->arch)
        return mka_fail(error, MKA_UNSUPPORTED, "%s: architecture '%s' is not supported; these are: %s", path, arch,
                        mka_arch_names());
    reader r = {file, path, arch, error, MKA_OK};
    s->variant = s->arch->variant;
    s->neighbours = s->arch->gguf_neighbours;
    text(file, "general.name", s->name, sizeof s->name);
    s->layers = whole(&r, "block_count", 1, 0);
    s->width = whole(&r, "embedding_length", 1, 0);
    s->ffn = whole(&r, "feed_forward_length", 1, 0);
    s->context = whole(&r, "context_length", 1, 0);
    s->norm_eps = real(&r, "attention.layer_norm_rms_epsilon", 1, 0);
    s->embed_scale = s->arch->scale_embedding ? sqrt((double)s->width) : 1;
    s->window = s->arch->window_period ? whole(&r, "attention.sliding_window", 0, 0) : 0;
    mka_sizes_windows(s, s->arch->window_period);
    heads(&r, s);
    rope(&r, s);
    refuse_experts(&r, s);
    return r.status ? r.status : mka_sizes_check(s, path, error);
}
