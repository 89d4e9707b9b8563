/* mla - multi-head latent attention (DeepSeek-V2): the cache holds, per token, the normalised latent c and one rotary key that
 * all heads share. Two ways to the same result:
 *
 *   absorbed  q' = W_k^T q_nope; scores q'.c + q_rope.k_rope; the output is a latent, brought up by W_v   (few queries)
 *   expanded  keys and values of every head are made from the latents, a block at a time                  (many queries)
 *
 * A cached row is [c | k_rope], and its value is c: nothing is stored twice.
 */
#include "attention.h"

#define EXPAND 128 /* tokens whose keys and values are expanded at once */

static int row_width(const mka_layer_config *c) {
    return c->latent_dim + c->rope_dim;
}

static int mla_caches(const mka_layer_config *c, mka_type key_type, mka_type value_type, int capacity,
                      mka_local_shape shapes[MKA_LEVELS]) {
    (void)value_type; /* the value is a part of the key's row */
    shapes[0] = (mka_local_shape){1, row_width(c), c->latent_dim, 1, key_type, key_type, capacity, 0, NULL, 0};
    return 1;
}

static void mla_measure(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    size_t rows = (size_t)n, heads = (size_t)c->heads, block = EXPAND;
    mka_raise(&sizes->q, rows, heads * (size_t)c->head_dim);
    mka_raise(&sizes->out, rows, heads * (size_t)c->value_dim);
    mka_raise(&sizes->q_latent, rows, (size_t)c->q_latent_dim);
    mka_raise(&sizes->down, rows, (size_t)row_width(c));
    mka_raise(&sizes->q_absorbed, rows, heads * (size_t)row_width(c));
    mka_raise(&sizes->latent_out, rows, heads * (size_t)c->latent_dim);
    mka_raise(&sizes->block_latent, block, (size_t)row_width(c));
    mka_raise(&sizes->block_rows, block, heads * (size_t)c->head_dim);
    mka_raise(&sizes->block_v, block, heads * (size_t)c->value_dim);
    mka_raise(&sizes->run_m, rows, heads);
    mka_raise(&sizes->run_z, rows, heads);
}

static void project_q(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    const float *x = pass->x;
    int width = c->width;
    if (c->q_latent_dim) {
        mka_product down = {&w->q_down, NULL, pass->x, c->width, s->q_latent, c->q_latent_dim};
        pass->ops->multiply(pass->ops, pass->n, 1, &down);
        pass->ops->norm(pass->ops, pass->n, c->q_latent_dim, c->norm_eps, s->q_latent, c->q_latent_dim, w->q_down_norm,
                        s->q_latent, c->q_latent_dim);
        x = s->q_latent;
        width = c->q_latent_dim;
    }
    mka_product up = {&w->q, NULL, x, width, s->q, c->heads * c->head_dim};
    pass->ops->multiply(pass->ops, pass->n, 1, &up);
    pass->ops->rope(pass->ops, pass->n, c->heads, pass->rope->pairs, pass->rope->neighbours, s->q + c->nope_dim,
                    c->heads * c->head_dim, c->head_dim, pass->cosine, pass->sine);
}

static void store_latents(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    float *down = pass->scratch->down;
    int width = row_width(c);
    mka_product product = {&w->kv_down, NULL, pass->x, c->width, down, width};
    pass->ops->multiply(pass->ops, pass->n, 1, &product);
    pass->ops->norm(pass->ops, pass->n, c->latent_dim, c->norm_eps, down, width, w->kv_norm, down, width);
    pass->ops->rope(pass->ops, pass->n, 1, pass->rope->pairs, pass->rope->neighbours, down + c->latent_dim, width, c->rope_dim,
                    pass->cosine, pass->sine);
    mka_local_store(&pass->state->cache[0].local, pass->ops, pass->first, pass->n, down, width, NULL, 0);
    if (pass->trace) mka_trace(pass, down, width, c->latent_dim, pass->trace->latent);
}

/* One product a head, in as many calls as the list is long. */
static void multiply_heads(const mka_attention_pass *pass, int n, const mka_matrix *w, const float *x, int x_head, int ldx,
                           float *y, int y_head, int ldy) {
    enum { LIST = 32 };
    mka_product list[LIST];
    int count = 0;
    for (int h = 0; h < pass->layer->config.heads; h++) {
        list[count++] = (mka_product){&w[h], NULL, x + (size_t)h * x_head, ldx, y + (size_t)h * y_head, ldy};
        if (count == LIST || h + 1 == pass->layer->config.heads) {
            pass->ops->multiply(pass->ops, n, count, list);
            count = 0;
        }
    }
}

static void attend_absorbed(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    int width = row_width(c), q_width = c->heads * c->head_dim;
    multiply_heads(pass, pass->n, w->k_absorb, s->q, c->head_dim, q_width, s->q_absorbed, width, c->heads * width);
    pass->ops->copy(pass->ops, pass->n * c->heads, c->rope_dim, s->q + c->nope_dim, c->head_dim, s->q_absorbed + c->latent_dim,
                    width);
    mka_attend_job job = {
        .n = pass->n, .first = pass->first, .heads = c->heads, .scale = c->scale, .q = s->q_absorbed, .out = s->latent_out};
    mka_local_job(&pass->state->cache[0].local, pass->first + pass->n, &job);
    pass->ops->attend(pass->ops, &job);
    multiply_heads(pass, pass->n, w->v_up, s->latent_out, c->latent_dim, c->heads * c->latent_dim, s->out, c->value_dim,
                   c->heads * c->value_dim);
}

mka_local_shape mka_layer_expanded(const mka_layer_config *c) {
    return (mka_local_shape){.kv_heads = c->heads,
                             .key_dim = c->head_dim,
                             .value_dim = c->value_dim,
                             .key_type = MKA_F32,
                             .value_type = MKA_F32,
                             .capacity = EXPAND,
                             .queries = 1};
}

/* Keys and values of count cached tokens, of all heads, into pass->expanded. */
static void expand_block(const mka_attention_pass *pass, int from, int count) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_attention_scratch *s = pass->scratch;
    mka_ops *ops = pass->ops;
    int width = row_width(c), keys = c->heads * c->head_dim, values = c->heads * c->value_dim;
    mka_local_keys(&pass->state->cache[0].local, ops, 0, from, count, s->block_latent, width);
    multiply_heads(pass, count, pass->layer->weights.k_up, s->block_latent, 0, width, s->block_rows, c->head_dim, keys);
    multiply_heads(pass, count, pass->layer->weights.v_up, s->block_latent, 0, width, s->block_v, c->value_dim, values);
    for (int h = 0; h < c->heads; h++)
        ops->copy(ops, count, c->rope_dim, s->block_latent + c->latent_dim, width, s->block_rows + h * c->head_dim + c->nope_dim,
                  keys);
    mka_local_store(pass->expanded, ops, 0, count, s->block_rows, keys, s->block_v, values);
}

static void attend_expanded(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_attention_scratch *s = pass->scratch;
    mka_ops *ops = pass->ops;
    mka_attend_job job = {.n = pass->n,
                          .first = pass->first,
                          .heads = c->heads,
                          .scale = c->scale,
                          .q = s->q,
                          .out = s->out,
                          .m = s->run_m,
                          .z = s->run_z};
    mka_local_job(pass->expanded, 0, &job);
    ops->attend_start(ops, &job);
    for (int from = 0; from < pass->first + pass->n; from += EXPAND) {
        job.key_first = from;
        job.key_count = pass->first + pass->n - from < EXPAND ? pass->first + pass->n - from : EXPAND;
        expand_block(pass, from, job.key_count);
        ops->attend(ops, &job);
    }
    ops->attend_finish(ops, &job);
}

/* Expanding costs latent * (nope + v) a key and head once; each query then saves the difference of the two inner loops. */
static int expanded_pays(const mka_layer_config *c, int n) {
    long saved = (long)row_width(c) + c->latent_dim - c->head_dim - c->value_dim;
    return saved > 0 && n * saved > (long)c->latent_dim * (c->nope_dim + c->value_dim);
}

static void mla_forward(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    mka_normalise(pass);
    project_q(pass);
    store_latents(pass);
    if (pass->mla == MKA_MLA_EXPANDED || (pass->mla == MKA_MLA_AUTO && expanded_pays(c, pass->n)))
        attend_expanded(pass);
    else
        attend_absorbed(pass);
    mka_project_out(pass, pass->scratch->out);
}

const mka_variant_table mka_mla_table = {"mla", 0, mla_caches, mla_measure, mla_forward};
