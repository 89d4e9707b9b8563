/* fastmka - Route-Fused MKA (arXiv 2603.20586, algorithm 2): the levels are mixed in hidden space first, then one K,V projection
 * and one attention. The cache holds the fused rows, is as large as plain GQA's, and old tokens are never routed again.
 *
 * The long-term level is a row of the bank (memory/bank.h), or of what mka_attention_set_longterm gave, or zeros. */
#include "attention.h"

static void fastmka_measure(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    mka_measure_grouped(c, n, sizes);
    mka_measure_router(c, n, sizes);
    mka_raise(&sizes->fused, (size_t)n, (size_t)c->width);
}

/* A long-term row that the router has no use for is not looked up. */
static void level_rows(const mka_attention_pass *pass, const float *rows[MKA_LEVELS]) {
    const int levels = pass->layer->config.levels, last = MKA_LEVELS - 1;
    if (pass->state->bank.scan) mka_route_drop(pass, last);
    mka_level_rows(pass, levels == MKA_LEVELS ? pass->scratch->lambda + last : NULL, levels, rows);
}

/* The levels of the pass's tokens, and their sum. */
static void fuse_rows(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const float *rows[MKA_LEVELS];
    level_rows(pass, rows);
    pass->ops->fuse(pass->ops, pass->n, c->levels, c->width, pass->scratch->lambda, rows, pass->scratch->fused);
}

/* The rows of the keys and values: their router's second half, their levels, and the sum of those. */
static void fuse(void *user) {
    const mka_attention_pass *pass = user;
    mka_route_out(pass, 0);
    fuse_rows(pass);
}

static void project(const mka_attention_pass *pass) {
    mka_product q = mka_q_product(pass), in = mka_route_in(pass), kv[2];
    mka_kv_products(pass, pass->scratch->fused, kv);
    mka_attention_pass copy = *pass;
    mka_step steps[] = {
        {.count = 1, .products = &q}, {.count = 1, .products = &in}, {.before = fuse, .user = &copy, .count = 2, .products = kv}};
    pass->ops->steps(pass->ops, pass->n, 3, steps);
}

static void fastmka_forward(const mka_attention_pass *pass) {
    const mka_attention_scratch *s = pass->scratch;
    mka_normalise(pass);
    project(pass);
    if (pass->trace) mka_trace(pass, s->fused, pass->layer->config.width, pass->layer->config.width, pass->trace->fused);
    mka_turn_store(pass, 0);
    mka_attend_cache(pass, 0, NULL, 0, s->out);
    mka_project_out(pass, s->out);
}

static int fastmka_caches(const mka_layer_config *c, mka_type key_type, mka_type value_type, int capacity,
                          mka_local_shape shapes[MKA_LEVELS]) {
    return mka_grouped_table.caches(c, key_type, value_type, capacity, shapes);
}

const mka_variant_table mka_fastmka_table = {"fastmka", 1, fastmka_caches, fastmka_measure, fastmka_forward};
