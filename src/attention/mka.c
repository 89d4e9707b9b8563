/* mka - Memory-Keyed Attention (arXiv 2603.20586, algorithm 1): one causal attention a level, each with a cache of its own, and
 * the outputs mixed by the router of the query token.
 *
 * In a tiered session every level's cache has tiers of its own. A level whose weight is 0 (by the pass's threshold, or because
 * the router says so) is not read for that query: its keys and values are stored, and its blocks close, as always. */
#include "attention.h"

static void mka_measure(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    mka_measure_grouped(c, n, sizes);
    mka_measure_router(c, n, sizes);
    mka_raise(&sizes->mixed, (size_t)n, (size_t)c->heads * (size_t)c->value_dim);
}

static int mka_caches(const mka_layer_config *c, mka_type key_type, mka_type value_type, int capacity,
                      mka_local_shape shapes[MKA_LEVELS]) {
    for (int l = 0; l < c->levels; l++) mka_grouped_table.caches(c, key_type, value_type, capacity, shapes + l);
    return c->levels;
}

static void mka_forward(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_attention_scratch *s = pass->scratch;
    const float *rows[MKA_LEVELS];
    mka_normalise(pass);
    mka_product q = mka_q_product(pass), kv[2];
    pass->ops->multiply(pass->ops, pass->n, 1, &q);
    mka_route(pass, 1);
    mka_route_drop(pass, 0);
    mka_level_rows(pass, NULL, 0, rows); /* a token that does not read a level is still a part of it */
    mka_turn_q(pass);
    for (int level = 0; level < c->levels; level++) {
        mka_kv_products(pass, rows[level], kv);
        pass->ops->multiply(pass->ops, pass->n, 2, kv);
        mka_turn_store_kv(pass, level);
        mka_attend_cache(pass, level, s->lambda + level, c->levels, s->out);
        pass->ops->mix(pass->ops, pass->n, c->heads * c->value_dim, s->lambda + level, c->levels, s->out, level > 0, s->mixed);
    }
    mka_project_out(pass, s->mixed);
}

const mka_variant_table mka_mka_table = {"mka", 1, mka_caches, mka_measure, mka_forward};
