/* router - what MKA and FastMKA add to attention: the three levels in hidden space, and one weight a level for each token.
 *
 *   L1 the token's row   L2 running session summary   L3 a long-term row: from the bank (memory/bank.h), which is asked with L2,
 *                                                        or given, by absolute position
 *   lambda = softmax(W2 act(W1 q + b1) + b2)
 */
#include <string.h>

#include "attention.h"

void mka_measure_router(const mka_layer_config *c, int n, mka_attention_sizes *sizes) {
    mka_raise(&sizes->hidden, (size_t)n, (size_t)c->router_hidden);
    mka_raise(&sizes->lambda, (size_t)n, (size_t)c->levels);
    mka_raise(&sizes->summary_rows, (size_t)n, (size_t)c->width);
    mka_raise(&sizes->longterm_rows, (size_t)n, (size_t)c->width);
}

mka_product mka_route_in(const mka_attention_pass *pass) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    return (mka_product){&w->router_in, w->router_in_bias, s->q, c->heads * c->head_dim, s->hidden, c->router_hidden};
}

void mka_route_out(const mka_attention_pass *pass, int gelu) {
    const mka_layer_config *c = &pass->layer->config;
    const mka_layer_weights *w = &pass->layer->weights;
    const mka_attention_scratch *s = pass->scratch;
    mka_ops *ops = pass->ops;
    ops->act(ops, pass->n, c->router_hidden, gelu, s->hidden);
    mka_product out = {&w->router_out, w->router_out_bias, s->hidden, c->router_hidden, s->lambda, c->levels};
    if (pass->n == 1)
        ops->alone(ops, 1, &out);
    else
        ops->multiply(ops, pass->n, 1, &out);
    ops->softmax(ops, pass->n, c->levels, s->lambda);
    if (pass->trace) mka_trace(pass, s->lambda, c->levels, c->levels, pass->trace->router);
}

void mka_route(const mka_attention_pass *pass, int gelu) {
    mka_product in = mka_route_in(pass);
    pass->ops->multiply(pass->ops, pass->n, 1, &in);
    mka_route_out(pass, gelu);
}

void mka_route_drop(const mka_attention_pass *pass, int first) {
    int levels = pass->layer->config.levels;
    size_t bytes = (size_t)pass->n * (size_t)levels * sizeof(float);
    if (pass->level_threshold <= 0) return;
    pass->ops->get(pass->ops, pass->scratch->lambda, bytes);
    for (int i = 0; i < pass->n; i++) {
        float *lambda = pass->scratch->lambda + (size_t)i * (size_t)levels, kept = 0;
        int dropped = 0;
        for (int l = 0; l < levels; l++) {
            if (l >= first && lambda[l] < pass->level_threshold) lambda[l] = 0, dropped = 1;
            kept += lambda[l];
        }
        for (int l = 0; dropped && l < levels; l++) lambda[l] /= kept;
    }
    pass->ops->put(pass->ops, pass->scratch->lambda, bytes);
}

/* The session summary after every token; the state carries on, so that chunks of any size agree. */
static void summary_rows(const mka_attention_pass *pass, float *rows) {
    const mka_layer_config *c = &pass->layer->config;
    float *state = pass->state->summary;
    pass->ops->summarise(pass->ops, pass->n, c->width, c->ema_beta, pass->x, state, rows);
    if (!pass->trace || !pass->trace->session_state) return;
    pass->ops->get(pass->ops, state, (size_t)c->width * sizeof *state);
    memcpy(pass->trace->session_state, state, (size_t)c->width * sizeof *state);
}

/* The token at absolute position p reads long-term row min(p, rows - 1); zeros when there is no long-term memory. */
static void longterm_rows(const mka_attention_pass *pass, float *rows) {
    const mka_layer_state *state = pass->state;
    mka_ops *ops = pass->ops;
    int width = pass->layer->config.width, left = state->longterm_rows - pass->first, own = left < pass->n ? left : pass->n;
    if (own < 0) own = 0;
    if (state->longterm_rows == 0) {
        ops->copy(ops, pass->n, width, NULL, 0, rows, width);
        return;
    }
    const float *last = state->longterm + (size_t)(state->longterm_rows - 1) * (size_t)width;
    if (own > 0) ops->copy(ops, own, width, state->longterm + (size_t)pass->first * (size_t)width, width, rows, width);
    if (own < pass->n) ops->copy(ops, pass->n - own, width, last, 0, rows + (size_t)own * (size_t)width, width);
}

static void bank_rows(const mka_attention_pass *pass, const float *weights, int stride, float *rows) {
    const mka_attention_scratch *s = pass->scratch;
    mka_bank *bank = &pass->state->bank;
    mka_tiers_shared *shared = pass->state->cache[0].shared;
    size_t bytes_of_rows = (size_t)pass->n * (size_t)pass->layer->config.width * sizeof(float);
    pass->ops->get(pass->ops, pass->x, bytes_of_rows);
    pass->ops->get(pass->ops, s->summary_rows, bytes_of_rows);
    if (weights) pass->ops->get(pass->ops, weights, (((size_t)pass->n - 1) * (size_t)stride + 1) * sizeof *weights);
    mka_bank_put(bank, pass->ops->kernels, pass->n, pass->x);
    uint64_t bytes = mka_bank_find(bank, pass->state->bank_work, pass->ops, pass->first, pass->n, s->summary_rows, weights,
                                   stride, pass->n == 1, rows);
    pass->ops->put(pass->ops, rows, bytes_of_rows);
    pass->ops->cache_bytes += bytes;
    if (!shared) return;
    shared->used.bank_bytes += bytes;
    if (!weights) return;
    shared->used.levels += (uint64_t)pass->n;
    for (int i = 0; i < pass->n; i++) {
        if (weights[(size_t)i * (size_t)stride] != 0) continue;
        shared->used.levels_skipped++;
        shared->used.saved_bytes += mka_bank_find_bytes(bank, pass->first + i);
    }
}

void mka_level_rows(const mka_attention_pass *pass, const float *weights, int stride, const float *rows[MKA_LEVELS]) {
    rows[0] = pass->x;
    rows[1] = pass->scratch->summary_rows;
    rows[2] = pass->scratch->longterm_rows;
    summary_rows(pass, pass->scratch->summary_rows);
    if (pass->layer->config.levels < MKA_LEVELS) return;
    if (pass->state->bank.scan)
        bank_rows(pass, weights, stride, pass->scratch->longterm_rows);
    else
        longterm_rows(pass, pass->scratch->longterm_rows);
}
