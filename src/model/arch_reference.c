/* arch_reference - sizes of the small models that come with the reference mathematics: safetensors whose metadata has a kind
 * (lm-gqa, lm-fastmka, ...) and a JSON config. They exercise every attention variant through the real forward pass. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "base/status.h"

static const mka_arch reference_arch = {.name = "reference"};

static char *metadata(const mka_file *file, const char *key) {
    const char *bytes;
    size_t length;
    const mka_meta *meta = mka_file_meta_find(file, key);
    return meta && mka_meta_string(file, meta, 0, &bytes, &length) ? strndup(bytes, length) : NULL;
}

static mka_status variant_of(const char *kind, const char *path, mka_variant *variant, mka_error *error) {
    static const struct {
        const char *name;
        mka_variant variant;
    } kinds[] = {{"lm-mha", MKA_GROUPED}, {"lm-gqa", MKA_GROUPED}, {"lm-mqa", MKA_GROUPED},
                 {"lm-mla", MKA_MLA},     {"lm-mka", MKA_MKA},     {"lm-fastmka", MKA_FASTMKA}};
    for (size_t i = 0; kind && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kind, kinds[i].name)) {
            *variant = kinds[i].variant;
            return MKA_OK;
        }
    return mka_fail(error, MKA_UNSUPPORTED,
                    "%s: not a model: a safetensors file needs its folder's config.json (give the folder)", path);
}

typedef struct reader {
    const mka_json *config;
    mka_error *error;
    mka_status status;
} reader;

static int64_t whole(reader *r, const char *key, int64_t fallback) {
    int64_t value = fallback;
    if (!r->status) r->status = mka_json_int(r->config, key, fallback, 0, INT32_MAX, &value, r->error);
    return value;
}

static double real(reader *r, const char *key, double fallback) {
    double value = fallback;
    if (!r->status) r->status = mka_json_real(r->config, key, fallback, &value, r->error);
    return value;
}

static void read_sizes(reader *r, mka_sizes *s) {
    s->layers = whole(r, "layers", 0);
    s->width = whole(r, "width", 0);
    s->heads = whole(r, "heads", 0);
    s->kv_heads = whole(r, "kv_heads", s->heads);
    s->head_dim = s->value_dim = s->rotated = whole(r, "head_dim", 0);
    s->ffn = whole(r, "ffn", 0);
    s->vocabulary = whole(r, "vocab", 0);
    s->context = 1 << 20;
    s->window = whole(r, "window", 0);
    s->norm_eps = real(r, "norm_eps", 1e-6);
    s->rope_base = s->local_rope_base = real(r, "rope_base", 10000);
    if (s->rope_base == 0) s->rotated = 0;
    s->levels = whole(r, "levels", 3);
    s->ema_beta = real(r, "ema_beta", 0.9);
    s->embed_scale = 1;
    s->tied = 1;
    s->rope_scaling = (mka_rope_scaling){.kind = MKA_ROPE_PLAIN, .factor = 1, .magnitude = 1};
    if (s->variant == MKA_MLA) {
        s->kv_heads = s->heads;
        s->nope_dim = whole(r, "nope_dim", 0);
        s->rope_dim = whole(r, "rope_dim", 0);
        s->rotated = s->rope_base == 0 ? 0 : s->rope_dim;
        s->value_dim = whole(r, "v_dim", 0);
        s->latent_dim = whole(r, "latent_dim", 0);
        s->head_dim = s->nope_dim + s->rope_dim;
    }
    s->score_scale = 1 / sqrt((double)(s->head_dim > 0 ? s->head_dim : 1));
    mka_sizes_windows(s, 0);
}

mka_status mka_sizes_from_reference(const mka_file *file, const char *path, mka_sizes *s, mka_error *error) {
    char *kind = metadata(file, "kind"), *text = metadata(file, "config");
    mka_json *config = NULL;
    *s = (mka_sizes){.arch = &reference_arch, .naming = MKA_NAMES_REFERENCE};
    mka_status status = variant_of(kind, path, &s->variant, error);
    if (!status && !text) status = mka_fail(error, MKA_BAD_FILE, "%s: __metadata__ has no config", path);
    if (!status) status = mka_json_parse(text, strlen(text), path, &config, error);
    if (!status) {
        reader r = {config, error, MKA_OK};
        read_sizes(&r, s);
        status = r.status ? mka_fail_prefix(error, r.status, "%s: config", path) : MKA_OK;
    }
    if (!status) status = mka_sizes_check(s, path, error);
    if (!status && (s->variant == MKA_MKA || s->variant == MKA_FASTMKA) &&
        (s->levels < 2 || s->levels > MKA_LEVELS || !(s->ema_beta >= 0 && s->ema_beta < 1)))
        status = mka_fail(error, MKA_BAD_FILE, "%s: levels or ema_beta is out of range", path);
    mka_json_free(config);
    free(text);
    free(kind);
    return status;
}
