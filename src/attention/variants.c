/* variants - the table over all attention variants, and what a layer keeps of one sequence. */
#include <string.h>

#include "attention.h"
#include "base/status.h"

const mka_variant_table *mka_variant_get(mka_variant variant) {
    static const mka_variant_table *const tables[] = {[MKA_GROUPED] = &mka_grouped_table,
                                                      [MKA_MLA] = &mka_mla_table,
                                                      [MKA_MKA] = &mka_mka_table,
                                                      [MKA_FASTMKA] = &mka_fastmka_table};
    return tables[variant];
}

const char *mka_variant_name(const mka_layer_config *c) {
    if (c->variant != MKA_GROUPED) return mka_variant_get(c->variant)->name;
    return c->kv_heads == c->heads ? "mha" : c->kv_heads == 1 ? "mqa" : "gqa";
}

void mka_attention_layout(const mka_attention_sizes *sizes, mka_arena *arena, mka_attention_scratch *scratch) {
#define TAKE(name) scratch->name = mka_arena_take(arena, sizes->name, sizeof(float));
    MKA_SCRATCH_FIELDS(TAKE)
#undef TAKE
}

static void raise(int *limit, int value) {
    if (value > *limit) *limit = value;
}

void mka_attention_limits(const mka_layer_config *c, struct mka_ops_limits *limits) {
    int mla = c->variant == MKA_MLA;
    int columns[] = {c->width,    c->heads * c->head_dim, c->heads * c->value_dim, c->latent_dim,
                     c->nope_dim, c->q_latent_dim,        c->router_hidden};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) raise(&limits->cols, columns[i]);
    raise(&limits->head_rows, mla ? c->heads : c->heads / c->kv_heads);
    raise(&limits->key_dim, mla ? c->latent_dim + c->rope_dim : c->head_dim);
    raise(&limits->key_dim, c->head_dim);
    raise(&limits->value_dim, mla && c->latent_dim > c->value_dim ? c->latent_dim : c->value_dim);
    limits->shared |= mla;
    raise(&limits->kv_heads, mla ? 1 : c->kv_heads); /* expanded blocks are too short to be split */
}

size_t mka_layer_cache_bytes(const mka_layer_config *config, mka_type key_type, mka_type value_type) {
    mka_local_shape shapes[MKA_LEVELS];
    size_t bytes = 0;
    int count = mka_variant_get(config->variant)->caches(config, key_type, value_type, 1, shapes);
    for (int i = 0; i < count; i++) bytes += mka_local_token_bytes(&shapes[i]);
    return bytes;
}

int mka_layer_tiered(const mka_layer_config *config) {
    mka_local_shape shapes[MKA_LEVELS];
    mka_variant_get(config->variant)->caches(config, MKA_F16, MKA_F16, 1, shapes);
    return config->window == 0 && mka_tiers_fit(&shapes[0], config->heads);
}

mka_status mka_layer_state_create(const mka_layer_config *config, mka_type key_type, mka_type value_type, int capacity,
                                  int queries, float *summary, mka_tiers_shared *shared, mka_device *device, int rows_here,
                                  mka_layer_state *state, mka_error *error) {
    *state = (mka_layer_state){.summary = summary};
    mka_local_shape shapes[MKA_LEVELS];
    int count = mka_variant_get(config->variant)->caches(config, key_type, value_type, capacity, shapes);
    for (; state->caches < count; state->caches++) {
        mka_local_shape *shape = &shapes[state->caches];
        mka_tiers_shared *tiers = mka_layer_tiered(config) ? shared : NULL;
        shape->queries = queries;
        shape->device = device;
        shape->rows_here = rows_here;
        mka_status status = mka_tiers_create(shape, tiers, &state->cache[state->caches], error);
        if (status) {
            mka_layer_state_destroy(state);
            return status;
        }
    }
    return MKA_OK;
}

void mka_layer_state_destroy(mka_layer_state *state) {
    for (int i = 0; i < state->caches; i++) mka_tiers_destroy(&state->cache[i]);
    mka_bank_destroy(&state->bank);
    *state = (mka_layer_state){.caches = 0};
}

void mka_layer_state_reset(mka_layer_state *state, const mka_layer_config *config, mka_ops *ops) {
    for (int i = 0; i < state->caches; i++) mka_tiers_cut(&state->cache[i], 0);
    if (state->bank.scan) mka_bank_reset(&state->bank);
    if (!state->summary) return;
    memset(state->summary, 0, (size_t)config->width * sizeof(float));
    ops->put(ops, state->summary, (size_t)config->width * sizeof(float));
}
