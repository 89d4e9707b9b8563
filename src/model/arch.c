/* arch - the table of architectures, and the checks and derivations that all sources of sizes share. */
#include "arch.h"

#include <math.h>
#include <string.h>

#include "base/status.h"

static const mka_arch architectures[] = {
    {.name = "llama", .variant = MKA_GROUPED, .gguf_neighbours = 1},
    {.name = "qwen2", .variant = MKA_GROUPED, .qkv_bias = 1},
    {.name = "qwen3", .variant = MKA_GROUPED, .qk_norm = 1},
    {.name = "gemma3",
     .variant = MKA_GROUPED,
     .gelu = 1,
     .scale_embedding = 1,
     .qk_norm = 1,
     .post_norms = 1,
     .window_period = 6,
     .hf_norm_offset = 1},
    {.name = "deepseek2", .variant = MKA_MLA, .gguf_neighbours = 1, .hf_neighbours = 1},
};

const mka_arch *mka_arch_find(const char *name) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (!strcmp(architectures[i].name, name)) return &architectures[i];
    return NULL;
}

const char *mka_arch_names(void) {
    return "llama, qwen2, qwen3, gemma3, deepseek2 (without experts)";
}

void mka_sizes_windows(mka_sizes *s, int period) {
    for (int i = 0; i < MKA_MAX_LAYERS; i++) s->windowed[i] = s->window > 0 && (period == 0 || (i + 1) % period != 0);
}

typedef struct range {
    const char *what;
    int64_t value, low, high;
} range;

static mka_status check_ranges(const range *ranges, size_t count, const char *path, mka_error *error) {
    for (size_t i = 0; i < count; i++)
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return mka_fail(error, MKA_BAD_FILE, "%s: %s is %lld; it must be between %lld and %lld", path, ranges[i].what,
                            (long long)ranges[i].value, (long long)ranges[i].low, (long long)ranges[i].high);
    return MKA_OK;
}

static mka_status check_latent(const mka_sizes *s, const char *path, mka_error *error) {
    const range ranges[] = {{"latent width", s->latent_dim, 1, 4096},
                            {"rotary part of a head", s->rope_dim, 2, 1024},
                            {"unrotated part of a head", s->nope_dim, 1, 1024},
                            {"latent width of the query", s->q_latent_dim, 0, 65536}};
    return check_ranges(ranges, sizeof ranges / sizeof *ranges, path, error);
}

mka_status mka_sizes_check(const mka_sizes *s, const char *path, mka_error *error) {
    const range ranges[] = {{"number of layers", s->layers, 1, MKA_MAX_LAYERS},
                            {"model width", s->width, 1, 1 << 17},
                            {"number of heads", s->heads, 1, 4096},
                            {"number of key/value heads", s->kv_heads, 1, s->heads},
                            {"head width", s->head_dim, 1, 1024},
                            {"value width", s->value_dim, 1, 1024},
                            {"feed-forward width", s->ffn, 1, 1 << 20},
                            {"context length", s->context, 1, 1 << 27},
                            {"sliding window", s->window, 0, 1 << 27},
                            {"rotated part of a head", s->rotated, 0, s->head_dim}};
    mka_status status = check_ranges(ranges, sizeof ranges / sizeof *ranges, path, error);
    if (status) return status;
    if (s->variant == MKA_MLA && (status = check_latent(s, path, error)) != MKA_OK) return status;
    if (s->heads % s->kv_heads)
        return mka_fail(error, MKA_BAD_FILE, "%s: %lld key/value heads do not divide %lld heads", path, (long long)s->kv_heads,
                        (long long)s->heads);
    if (s->rotated % 2)
        return mka_fail(error, MKA_BAD_FILE, "%s: %lld numbers of a head are rotated; they must be even", path,
                        (long long)s->rotated);
    if (!(s->norm_eps >= 0 && s->norm_eps < 1))
        return mka_fail(error, MKA_BAD_FILE, "%s: norm epsilon %g is out of range", path, s->norm_eps);
    if (s->rotated && (!(s->rope_base > 1 && s->rope_base < 1e15) || !(s->local_rope_base > 1 && s->local_rope_base < 1e15)))
        return mka_fail(error, MKA_BAD_FILE, "%s: rotary base %g is out of range", path, s->rope_base);
    const mka_rope_scaling *scaling = &s->rope_scaling;
    if (scaling->kind != MKA_ROPE_PLAIN && !(scaling->factor > 0 && scaling->factor < 1e6))
        return mka_fail(error, MKA_BAD_FILE, "%s: rotary scaling factor %g is out of range", path, scaling->factor);
    return MKA_OK;
}

mka_layer_config mka_sizes_layer(const mka_sizes *s, int layer) {
    int windowed = s->windowed[layer];
    mka_layer_config c = {.variant = s->variant,
                          .width = (int)s->width,
                          .heads = (int)s->heads,
                          .kv_heads = (int)s->kv_heads,
                          .head_dim = (int)s->head_dim,
                          .value_dim = (int)s->value_dim,
                          .nope_dim = (int)s->nope_dim,
                          .rope_dim = (int)s->rope_dim,
                          .latent_dim = (int)s->latent_dim,
                          .q_latent_dim = (int)s->q_latent_dim,
                          .window = windowed ? (int)s->window : 0,
                          .levels = (int)s->levels,
                          .router_hidden = (int)(s->heads * s->head_dim / 2),
                          .rope = windowed ? MKA_ROPE_LOCAL : MKA_ROPE_GLOBAL,
                          .ema_beta = (float)s->ema_beta,
                          .norm_eps = (float)s->norm_eps,
                          .scale = (float)s->score_scale};
    return c;
}
