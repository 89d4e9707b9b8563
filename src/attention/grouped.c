/* grouped - MHA, GQA and MQA are one code: kv_heads divides heads. Also the steps that MKA and FastMKA share with it. */
#include <string.h>

#include "attention.h"

static int q_width(const mka_layer_config *c) {
    return c->heads * c->head_dim;
}

static int k_width(const mka_layer_config *c) {
    return c->kv_heads * c->head_dim;
}

static int v_width(const mka_layer_config *c) {
    return c->kv_heads * c->value_dim;
}

mka_product mka_q_product(const mka_attention_pass *pass) {
    const mka_layer *layer = pass->layer;
    return (mka_product){&layer->weights.q,   layer->weights.q_bias, pass->x,
                         layer->config.width, pass->scratch->q,      q_width(&layer->config)};
}

void mka_normalise(const mka_attention_pass *pass) {
    int width = pass->layer->config.width;
    if (pass->norm.from)
        pass->ops->norm(pass->ops, pass->n, width, pass->norm.eps, pass->norm.from, width, pass->norm.w,
                        (float *)(uintptr_t)pass->x, width);
}

void mka_kv_products(const mka_attention_pass *pass, const float *rows, mka_product products[2]) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    products[0] = (mka_product){&w->k, w->k_bias, rows, c->width, pass->scratch->k, k_width(c)};
    products[1] = (mka_product){&w->v, w->v_bias, rows, c->width, pass->scratch->v, v_width(c)};
}

static void turn_q(const mka_attention_pass *pass, mka_rotation *turn) {
    turn->q = pass->scratch->q;
    turn->heads = pass->layer->config.heads;
    turn->q_norm = pass->layer->weights.q_norm;
}

static mka_rotation turn_k(const mka_attention_pass *pass) {
    return (mka_rotation){.cosine = pass->cosine,
                          .sine = pass->sine,
                          .pairs = pass->rope->pairs,
                          .neighbours = pass->rope->neighbours,
                          .eps = pass->layer->config.norm_eps,
                          .k_norm = pass->layer->weights.k_norm};
}

void mka_turn_q(const mka_attention_pass *pass) {
    mka_rotation turn = turn_k(pass);
    turn_q(pass, &turn);
    mka_local_turn(&turn, pass->ops, pass->n, pass->layer->config.head_dim, turn.q, turn.heads, turn.q_norm);
}

static void store(const mka_attention_pass *pass, int cache, const mka_rotation *turn) {
    const mka_layer_config *c = &pass->layer->config;
    mka_tiers_turn_store(&pass->state->cache[cache], pass->ops, pass->first, pass->n, turn, pass->scratch->k, k_width(c),
                         pass->scratch->v, v_width(c));
}

void mka_turn_store_kv(const mka_attention_pass *pass, int cache) {
    mka_rotation turn = turn_k(pass);
    store(pass, cache, &turn);
}

void mka_turn_store(const mka_attention_pass *pass, int cache) {
    mka_rotation turn = turn_k(pass);
    turn_q(pass, &turn);
    store(pass, cache, &turn);
}

void mka_attend_cache(const mka_attention_pass *pass, int cache, const float *weights, int stride, float *out) {
    const mka_layer_config *c = &pass->layer->config;
    mka_attend_job job = {.n = pass->n,
                          .first = pass->first,
                          .window = c->window,
                          .heads = c->heads,
                          .scale = c->scale,
                          .q = pass->scratch->q,
                          .out = out};
    mka_tiers_attend(&pass->state->cache[cache], pass->ops, &job, weights, stride);
}

void mka_project_out(const mka_attention_pass *pass, const float *rows) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    mka_product product = {&w->o, w->o_bias, rows, c->heads * c->value_dim, pass->y, c->width};
    mka_step steps[1 + MKA_AFTER] = {{.count = 1, .products = &product, .sum = pass->sum}};
    for (int i = 0; i < pass->after_count; i++) steps[1 + i] = pass->after[i];
    pass->ops->steps(pass->ops, pass->n, 1 + pass->after_count, steps);
}

void mka_trace(const mka_attention_pass *pass, const float *rows, int ld, int width, float *to) {
    if (!to) return;
    pass->ops->get(pass->ops, rows, (((size_t)pass->n - 1) * (size_t)ld + (size_t)width) * sizeof *rows);
    for (size_t i = 0; i < (size_t)pass->n; i++)
        memcpy(to + i * (size_t)width, rows + i * (size_t)ld, (size_t)width * sizeof *to);
}

void mka_measure_grouped(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    mka_raise(&sizes->q, (size_t)n, (size_t)q_width(c));
    mka_raise(&sizes->next_q, 1, (size_t)q_width(c));
    mka_raise(&sizes->k, (size_t)n, (size_t)k_width(c));
    mka_raise(&sizes->v, (size_t)n, (size_t)v_width(c));
    mka_raise(&sizes->out, (size_t)n, (size_t)c->heads * (size_t)c->value_dim);
}

static int grouped_caches(const mka_layer_config *c, mka_type key_type, mka_type value_type, int capacity,
                          mka_local_shape shapes[MKA_LEVELS]) {
    shapes[0] = (mka_local_shape){c->kv_heads, c->head_dim, c->value_dim, 0, key_type, value_type, capacity, 0, NULL, 0};
    return 1;
}

/* The next layer's queries, as they were if this layer left the residual as it is: products of it, in room of their own; then
 * rotated, and handed on. */
static int guesses(const mka_attention_pass *pass) {
    const mka_attention_pass *next = pass->next;
    return next && pass->n == 1 && next->layer->config.variant == MKA_GROUPED &&
           mka_tiers_looks_ahead(&next->state->cache[0], next->first);
}

static mka_product guess_product(const mka_attention_pass *next) {
    mka_product product = mka_q_product(next);
    product.y = next->scratch->next_q;
    return product;
}

static void hand_guess_on(const mka_attention_pass *next) {
    const mka_layer_config *c = &next->layer->config;
    const mka_attend_job job = {.heads = c->heads, .scale = c->scale, .q = next->scratch->next_q};
    mka_rotation turn = turn_k(next);
    mka_local_turn(&turn, next->ops, 1, c->head_dim, next->scratch->next_q, c->heads, next->layer->weights.q_norm);
    mka_tiers_expect(&next->state->cache[0], next->first, &job);
}

static void grouped_forward(const mka_attention_pass *pass) {
    mka_product products[3] = {mka_q_product(pass)}, guess;
    mka_kv_products(pass, pass->x, products + 1);
    mka_step steps[2] = {{.norm = pass->norm, .count = 3, .products = products}};
    int ahead = guesses(pass);
    if (ahead) {
        guess = guess_product(pass->next);
        steps[1] = (mka_step){.norm = pass->next->norm, .count = 1, .products = &guess};
    }
    pass->ops->steps(pass->ops, pass->n, 1 + ahead, steps);
    if (ahead) hand_guess_on(pass->next);
    mka_turn_store(pass, 0);
    mka_attend_cache(pass, 0, NULL, 0, pass->scratch->out);
    mka_project_out(pass, pass->scratch->out);
}

const mka_variant_table mka_grouped_table = {"grouped", 0, grouped_caches, mka_measure_grouped, grouped_forward};
